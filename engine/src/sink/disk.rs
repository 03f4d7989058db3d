//! What a disk can do, and the real one over glommio.
//!
//! Owns buffers, files and their errors; knows nothing of segments, lines or watermarks. The
//! trait exists for its second implementor, the disk in memory that fails on demand
//! (`faulty`, tests only). Nothing here orders operations: io_uring does not order a write before
//! a sync, so the caller awaits the one before it asks for the other.

#[cfg(test)]
pub(crate) mod faulty;

use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Not;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use glommio::GlommioError;
use glommio::io::{BufferedFile, Directory, DmaBuffer, DmaFile, OpenOptions};

/// Segments are for the operator and his group.
pub const FILE_MODE: u32 = 0o640;

/// What a disk can do. A clone is the same disk.
#[expect(async_fn_in_trait, reason = "a shard is one thread: its futures are never Send")]
pub trait Disk: Clone + fmt::Debug + 'static {
    /// An open file.
    type File: fmt::Debug + 'static;
    /// Memory that this disk can write from.
    type Buf: AsRef<[u8]> + AsMut<[u8]> + fmt::Debug + 'static;

    /// A buffer of at least `bytes`, with arbitrary contents.
    fn alloc(&self, bytes: usize) -> Self::Buf;

    /// Creates a file that did not exist (mode [`FILE_MODE`]).
    async fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Whether the file still has a name: once it has none, all of it goes with its last
    /// descriptor.
    fn is_linked(&self, file: &Self::File) -> bool;

    /// Ends the filling of a buffer: its first `bytes` will be written. For good, because a
    /// glommio buffer can only be shortened.
    fn seal(&self, buf: Self::Buf, bytes: usize) -> Rc<Self::Buf>;

    /// Writes a sealed buffer at `offset`, size and offset multiples of [`super::BLOCK`], and
    /// gives how many bytes it wrote; the caller takes fewer than all for a failure.
    async fn write_at(
        &self,
        file: &Self::File,
        buf: Rc<Self::Buf>,
        offset: u64,
    ) -> io::Result<usize>;

    /// Makes durable what is written to the file, and its size (fdatasync).
    async fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Cuts the file, and gives back what was reserved behind the cut.
    async fn truncate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;

    /// Closes the file; says nothing about durability.
    async fn close(&self, file: Self::File) -> io::Result<()>;

    /// Removes a file by its path.
    async fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations and removals in a directory durable.
    async fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Writes all of `bytes` at `offset` of a file that is not open, and makes it and its name
    /// durable if asked; at offset 0 the file is begun anew. For what is small, rare and can be done without.
    async fn put(&self, path: &Path, offset: u64, bytes: Vec<u8>, durably: bool) -> io::Result<()>;

    /// Lets time pass.
    async fn sleep(&self, time: Duration);

    /// Runs `work`, which may block, where it holds up nobody.
    async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static)
    -> T;

    /// Runs `work` beside the caller.
    fn spawn(&self, work: impl Future<Output = ()> + 'static);

    /// What the operator should know, such as that direct I/O is refused.
    fn note(&self) -> Option<String> {
        None
    }
}

/// The machine's disk: direct I/O, or buffered where that is refused. Needs a glommio executor.
#[derive(Clone, Debug, Default)]
pub struct RealDisk {
    /// Set when direct I/O was refused: why, and nobody asks again.
    refusal: Rc<OnceCell<String>>,
}

/// A file of the machine's disk.
#[derive(Debug)]
pub struct RealFile {
    way: Way,
    /// The same file by a descriptor of the standard library's kind.
    anchor: OwnedFd,
}

#[derive(Debug)]
enum Way {
    /// Past the page cache.
    Direct(DmaFile),
    /// Through the page cache; glommio hands each write to a kernel worker, which costs.
    Buffered(BufferedFile),
}

/// The system's own error: glommio's words name a path that means nothing to the reader.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Buf = DmaBuffer;

    fn alloc(&self, bytes: usize) -> DmaBuffer {
        glommio::allocate_dma_buffer(bytes)
    }

    async fn create(&self, path: &Path) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(FILE_MODE);
        let buffered = options.buffered_open(path).await.map_err(plain)?;
        let anchor = runtime::descriptor::dup(&buffered)?;
        if self.refusal.get().is_some() {
            return Ok(RealFile { way: Way::Buffered(buffered), anchor });
        }
        // glommio panics when the path that it opens for direct I/O vanishes meanwhile; this one
        // cannot. Write-only on purpose: glommio probes a readable file for polled I/O, and where
        // it finds that, its executor spins while a write is in flight.
        let itself = format!("/proc/self/fd/{}", anchor.as_raw_fd());
        match OpenOptions::new().write(true).dma_open(&itself).await.map_err(plain) {
            Ok(direct) => {
                buffered.close().await.map_err(plain)?;
                Ok(RealFile { way: Way::Direct(direct), anchor })
            }
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::InvalidInput => "its file system refuses direct I/O".to_owned(),
                    io::ErrorKind::NotFound => "direct I/O needs /proc".to_owned(),
                    _ => return Err(error),
                };
                self.refusal.get_or_init(|| {
                    format!(
                        "{} (LOG_DIR): {why}: writes go through the page cache and cost more",
                        path.display()
                    )
                });
                Ok(RealFile { way: Way::Buffered(buffered), anchor })
            }
        }
    }

    fn is_linked(&self, file: &RealFile) -> bool {
        // What cannot be asked is taken for granted.
        rustix::fs::fstat(&file.anchor).is_ok_and(|stat| stat.st_nlink == 0).not()
    }

    fn seal(&self, mut buf: DmaBuffer, bytes: usize) -> Rc<DmaBuffer> {
        buf.trim_to_size(bytes);
        Rc::new(buf)
    }

    async fn write_at(
        &self,
        file: &RealFile,
        buf: Rc<DmaBuffer>,
        offset: u64,
    ) -> io::Result<usize> {
        match &file.way {
            Way::Direct(file) => file.write_rc_at(buf, offset).await,
            Way::Buffered(file) => file.write_at(buf.as_bytes().to_vec(), offset).await,
        }
        .map_err(plain)
    }

    async fn sync(&self, file: &RealFile) -> io::Result<()> {
        match &file.way {
            Way::Direct(file) => file.fdatasync().await,
            Way::Buffered(file) => file.fdatasync().await,
        }
        .map_err(plain)
    }

    async fn truncate(&self, file: &RealFile, bytes: u64) -> io::Result<()> {
        match &file.way {
            Way::Direct(file) => file.truncate(bytes).await,
            Way::Buffered(file) => file.truncate(bytes).await,
        }
        .map_err(plain)
    }

    async fn close(&self, file: RealFile) -> io::Result<()> {
        match file.way {
            Way::Direct(file) => file.close().await,
            Way::Buffered(file) => file.close().await,
        }
        .map_err(plain)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        glommio::io::remove(path).await.map_err(plain)
    }

    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let directory = Directory::open(path).await.map_err(plain)?;
        let synced = directory.sync().await;
        directory.close().await.map_err(plain)?;
        synced.map_err(plain)
    }

    async fn put(&self, path: &Path, offset: u64, bytes: Vec<u8>, durably: bool) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(offset == 0).truncate(offset == 0).mode(FILE_MODE);
        let file = options.buffered_open(path).await.map_err(plain)?;
        let all = bytes.len();
        let mut done = file.write_at(bytes, offset).await.map_err(plain).and_then(|some| {
            if some == all { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
        });
        if done.is_ok() && durably {
            done = file.fdatasync().await.map_err(plain);
        }
        file.close().await.map_err(plain)?;
        match path.parent() {
            Some(directory) if done.is_ok() && durably => self.sync_directory(directory).await,
            _ => done,
        }
    }

    async fn sleep(&self, time: Duration) {
        glommio::timer::sleep(time).await;
    }

    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        glommio::executor().spawn_blocking(work).await
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(work).detach();
    }

    fn note(&self) -> Option<String> {
        self.refusal.get().cloned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use glommio::LocalExecutorBuilder;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use super::*;
    use crate::sink::BLOCK;

    /// Says which part of a test did not run, where whoever runs it looks.
    pub(crate) fn skipped(test: &str, why: &str) {
        use std::io::Write;
        let line = format!("SKIPPED: {test}: {why}");
        eprintln!("{line}");
        let list = std::env::var_os("LOGBOOM_SKIPS");
        let list = list.map(|path| std::fs::File::options().create(true).append(true).open(path));
        if let Some(Ok(mut list)) = list {
            let _ = writeln!(list, "{line}");
        }
    }

    /// A disk which was refused direct I/O before.
    fn buffered() -> RealDisk {
        let disk = RealDisk::default();
        disk.refusal.set("refused".into()).unwrap();
        disk
    }

    /// Runs `work` over the disk kinds of this machine, each in an executor and a directory.
    pub(crate) fn on_each_disk<Fut: Future<Output = ()>>(work: impl Fn(RealDisk, PathBuf) -> Fut) {
        let plain = tempfile::tempdir().unwrap();
        let memory = tempfile::tempdir_in("/dev/shm").ok();
        let executor = LocalExecutorBuilder::default().make().unwrap();
        executor.run(async {
            // glommio can sleep with a task ready to run until the next event: see to one.
            let heartbeat = glommio::spawn_local(async {
                loop {
                    glommio::timer::sleep(Duration::from_millis(10)).await;
                }
            });
            work(RealDisk::default(), plain.path().join("direct")).await;
            work(buffered(), plain.path().join("buffered")).await;
            match &memory {
                Some(memory) => work(RealDisk::default(), memory.path().join("memory")).await,
                None => skipped("on_each_disk (tmpfs)", "there is no /dev/shm"),
            }
            heartbeat.cancel().await;
        });
    }

    fn block(disk: &RealDisk, byte: u8) -> Rc<DmaBuffer> {
        let mut buf = disk.alloc(2 * BLOCK);
        buf.as_mut()[..BLOCK].fill(byte);
        disk.seal(buf, BLOCK)
    }

    #[test]
    fn a_file_is_new_and_private_and_shrinks_to_what_it_holds() {
        on_each_disk(|disk, dir| async move {
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("file");
            let file = disk.create(&path).await.unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777 & !0o040, 0o600, "{mode:o}");
            let again = disk.create(&path).await.unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);

            assert_eq!(disk.write_at(&file, block(&disk, b'a'), 0).await.unwrap(), BLOCK);
            let offset = BLOCK as u64;
            let wrote = disk.write_at(&file, block(&disk, b'b'), offset).await.unwrap();
            assert_eq!(wrote, BLOCK);
            disk.sync(&file).await.unwrap();
            let mut expected = vec![b'a'; BLOCK];
            expected.extend([b'b'; BLOCK]);
            assert_eq!(std::fs::read(&path).unwrap(), expected);

            disk.truncate(&file, 100).await.unwrap();
            disk.sync(&file).await.unwrap();
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(metadata.len(), 100);
            assert!(metadata.blocks() <= 16, "{} sectors stay reserved", metadata.blocks());
            disk.close(file).await.unwrap();
            disk.remove(&path).await.unwrap();
            disk.sync_directory(&dir).await.unwrap();
            assert!(!path.exists());
        });
    }

    #[test]
    fn a_file_without_a_name_is_noticed() {
        on_each_disk(|disk, dir| async move {
            std::fs::create_dir(&dir).unwrap();
            let file = disk.create(&dir.join("file")).await.unwrap();
            std::fs::rename(dir.join("file"), dir.join("moved")).unwrap();
            assert!(disk.is_linked(&file), "a file that is moved is still there");
            std::fs::remove_dir_all(&dir).unwrap();
            assert!(!disk.is_linked(&file));
            assert_eq!(disk.write_at(&file, block(&disk, b'a'), 0).await.unwrap(), BLOCK);
            disk.close(file).await.unwrap();
        });
    }

    #[test]
    fn what_is_put_lies_where_it_was_put() {
        on_each_disk(|disk, dir| async move {
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("side");
            let missing = disk.put(&path, 7, b"never".to_vec(), false).await.unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            disk.put(&path, 0, b"longer than what follows".to_vec(), false).await.unwrap();
            disk.put(&path, 0, b"one".to_vec(), true).await.unwrap();
            disk.put(&path, 3, b"two".to_vec(), false).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777 & !0o040, 0o600, "{mode:o}");
        });
    }

    #[test]
    fn errors_keep_their_kind() {
        on_each_disk(|disk, dir| async move {
            let error = disk.create(&dir.join("none/file")).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
            let error = disk.sync_directory(&dir.join("none")).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        });
    }
}
