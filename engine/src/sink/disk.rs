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
use std::path::Path;
use std::rc::Rc;

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

    /// Creates a file that did not exist (mode [`FILE_MODE`]) and reserves space for it without
    /// changing its size, where the disk can.
    async fn create(&self, path: &Path, reserve_bytes: u64) -> io::Result<Self::File>;

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
pub enum RealFile {
    /// Past the page cache.
    Direct(DmaFile),
    /// Through the page cache; glommio hands each write to a kernel worker, which costs.
    Buffered(BufferedFile),
}

impl Disk for RealDisk {
    type File = RealFile;
    type Buf = DmaBuffer;

    fn alloc(&self, bytes: usize) -> DmaBuffer {
        glommio::allocate_dma_buffer(bytes)
    }

    async fn create(&self, path: &Path, reserve_bytes: u64) -> io::Result<RealFile> {
        // Write-only on purpose: glommio probes a readable file for polled I/O, and where it finds
        // that, its executor spins while a write is in flight.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(FILE_MODE);
        let direct = match self.refusal.get() {
            None => options.dma_open(path).await.map(Some).or_else(|error| {
                let error = io::Error::from(error);
                if error.kind() != io::ErrorKind::InvalidInput {
                    return Err(error);
                }
                // The file exists by now: O_DIRECT is only set on it afterwards.
                options.create_new(false);
                self.refusal.get_or_init(|| {
                    format!(
                        "the file system of {} (LOG_DIR) refuses direct I/O: writes go through \
                         the page cache and cost more",
                        path.display()
                    )
                });
                Ok(None)
            })?,
            Some(_) => None,
        };
        let file = match direct {
            Some(file) => RealFile::Direct(file),
            None => RealFile::Buffered(options.buffered_open(path).await?),
        };
        if reserve_bytes > 0 && !is_in_memory(path) {
            // A refusal costs only speed.
            let _ = match &file {
                RealFile::Direct(file) => file.pre_allocate(reserve_bytes, true).await,
                RealFile::Buffered(file) => file.pre_allocate(reserve_bytes, true).await,
            };
        }
        Ok(file)
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
        match file {
            RealFile::Direct(file) => Ok(file.write_rc_at(buf, offset).await?),
            RealFile::Buffered(file) => Ok(file.write_at(buf.as_bytes().to_vec(), offset).await?),
        }
    }

    async fn sync(&self, file: &RealFile) -> io::Result<()> {
        match file {
            RealFile::Direct(file) => file.fdatasync().await?,
            RealFile::Buffered(file) => file.fdatasync().await?,
        }
        Ok(())
    }

    async fn truncate(&self, file: &RealFile, bytes: u64) -> io::Result<()> {
        match file {
            RealFile::Direct(file) => file.truncate(bytes).await?,
            RealFile::Buffered(file) => file.truncate(bytes).await?,
        }
        Ok(())
    }

    async fn close(&self, file: RealFile) -> io::Result<()> {
        match file {
            RealFile::Direct(file) => file.close().await?,
            RealFile::Buffered(file) => file.close().await?,
        }
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(glommio::io::remove(path).await?)
    }

    async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let directory = Directory::open(path).await?;
        let synced = directory.sync().await;
        directory.close().await?;
        Ok(synced?)
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(work).detach();
    }

    fn note(&self) -> Option<String> {
        self.refusal.get().cloned()
    }
}

/// Whether space that is reserved there would be memory.
fn is_in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    rustix::fs::statfs(path).is_ok_and(|system| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&system.f_type))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;
    use std::time::Duration;

    use glommio::LocalExecutorBuilder;

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
    fn a_file_is_new_private_and_reserved_and_shrinks_to_what_it_holds() {
        on_each_disk(|disk, dir| async move {
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("file");
            let file = disk.create(&path, 1 << 20).await.unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777 & !0o040, 0o600, "{mode:o}");
            let again = disk.create(&path, 0).await.unwrap_err();
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
    fn errors_keep_their_kind() {
        on_each_disk(|disk, dir| async move {
            let error = disk.create(&dir.join("none/file"), 0).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
            let error = disk.sync_directory(&dir.join("none")).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        });
    }
}
