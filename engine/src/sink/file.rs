//! The file sink: a shard's lines in segments of plain NDJSON.
//!
//! ```text
//!            written ─┐       ┌─ end of the file, a multiple of BLOCK
//!  ┌──────┬──────┬────▼──┬────▼
//!  │lines…│lines…│tail \n\n\n│                 acknowledged bytes, then padding
//!  └──────┴──────┴───────────┘
//!                ┌───────┬──────┬─────────┐
//!                │tail ln│ lines│ ln \n\n │    the next write begins at the tail's block,
//!                └───────┴──────┴─────────┘    repeats the tail, and pads with blank lines
//! ```
//!
//! Owns one shard's active segment and the one prepared behind it; leaves the directory, its lock
//! and what a crash left behind to [`LogDir`], and old segments to [`retention`]. Invariants:
//! - past `written` the file holds nothing but `\n`, except while a write is in flight or after
//!   one failed and could not be undone yet (`torn`): then the next write undoes it first;
//! - acknowledged bytes are only ever overwritten with themselves (DESIGN: a 512-byte sector is old
//!   or new, so this loses nothing);
//! - a segment is synced before the first write to the next;
//! - what a failed write left is durably gone before the next write begins;
//! - after a failed sync there is no operation on any segment but closing it.

mod log_dir;
mod recovery;
pub mod retention;
pub mod segments;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_channel::Receiver;

pub use self::log_dir::{LogDir, OpenError, Plan};
pub use self::recovery::{LINE_BYTES_RECOVERABLE, RecoveryReport};
use super::disk::Disk;
use super::{BLOCK, Position, Staged, SyncError, Watermarks, WriteError};

/// See the module.
pub struct FileSink<D: Disk> {
    disk: D,
    directory: PathBuf,
    segment_bytes_max: u64,
    /// Told to [`retention`]: the number of the active segment.
    active: Arc<AtomicU64>,

    number: u64,
    file: D::File,
    /// The segment behind the active one, while it is being prepared or ready.
    next: Option<Receiver<io::Result<D::File>>>,
    written: u64,
    synced: u64,
    /// What is acknowledged of the block that `written` lies in.
    tail: Vec<u8>,
    /// The tail as it will be when the write in flight succeeds.
    tail_next: Vec<u8>,
    torn: bool,
    broken: Option<SyncError>,
}

impl<D: Disk> fmt::Debug for FileSink<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink")
            .field("path", &self.path())
            .field("written", &self.written)
            .field("synced", &self.synced)
            .finish_non_exhaustive()
    }
}

impl<D: Disk> FileSink<D> {
    /// Begins a new segment in the directory of `shard`. Its number goes to `active`, as that of
    /// every later one.
    ///
    /// # Errors
    /// The segment cannot be created or made durable.
    pub async fn begin(
        disk: D,
        plan: &Plan,
        shard: usize,
        segment_bytes_max: u64,
        active: Arc<AtomicU64>,
    ) -> io::Result<FileSink<D>> {
        let (directory, number) = plan.shard(shard);
        let segment_bytes_max = segment_bytes_max.next_multiple_of(BLOCK as u64);
        let file = prepare(disk.clone(), directory.clone(), number, segment_bytes_max).await?;
        active.store(number, Ordering::Release);
        Ok(FileSink {
            disk,
            directory,
            segment_bytes_max,
            active,
            number,
            file,
            next: None,
            written: 0,
            synced: 0,
            tail: Vec::with_capacity(BLOCK),
            tail_next: Vec::with_capacity(BLOCK),
            torn: false,
            broken: None,
        })
    }

    /// See [`super::Sink::alloc`].
    pub fn alloc(&self, bytes: usize) -> D::Buf {
        self.disk.alloc(bytes)
    }

    /// See [`super::Sink::watermarks`].
    pub fn watermarks(&self) -> Watermarks {
        let at = |offset| Position { segment: self.number, offset };
        Watermarks { written: at(self.written), synced: at(self.synced) }
    }

    /// See [`super::Sink::note`].
    pub fn note(&self) -> Option<String> {
        self.disk.note()
    }

    /// See [`super::Sink::write`].
    ///
    /// # Errors
    /// Nothing of the batch counts.
    pub async fn write(&mut self, staged: Staged<D::Buf>) -> Result<(), WriteError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone().into());
        }
        let Staged { mut buf, head, len } = staged;
        let line_bytes = len - head;
        if line_bytes == 0 {
            return Ok(());
        }
        if self.torn {
            self.undo().await?;
        }
        if self.written > 0 && self.written + line_bytes as u64 > self.segment_bytes_max {
            self.rotate().await?;
        }

        let tail = self.tail.len();
        let bytes = buf.as_mut();
        if tail != head {
            bytes.copy_within(head..len, tail);
        }
        bytes[..tail].copy_from_slice(&self.tail);
        let end = tail + line_bytes;
        debug_assert_eq!(bytes[end - 1], b'\n', "a batch is whole lines");
        let padded = end.next_multiple_of(BLOCK);
        bytes[end..padded].fill(b'\n');
        self.tail_next.clear();
        self.tail_next.extend_from_slice(&bytes[end / BLOCK * BLOCK..end]);

        // Holds also if this future is dropped before the write has ended.
        self.torn = true;
        let offset = self.written - tail as u64;
        let buf = self.disk.seal(buf, padded);
        let wrote = self.disk.write_at(&self.file, buf, offset).await;
        if let Err(source) = all_of(padded, wrote) {
            let failed = self.write_error(source);
            return match self.undo().await {
                Err(undo) if undo.is_final() => Err(undo),
                // Where it cannot be undone now, the next write tries again before it begins.
                Ok(()) | Err(_) => Err(failed),
            };
        }
        self.torn = false;
        self.written += line_bytes as u64;
        std::mem::swap(&mut self.tail, &mut self.tail_next);
        if self.next.is_none() && self.written >= self.segment_bytes_max / 2 {
            self.prepare_next();
        }
        Ok(())
    }

    /// See [`super::Sink::sync`].
    ///
    /// # Errors
    /// Final.
    pub async fn sync(&mut self) -> Result<(), SyncError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if self.synced == self.written {
            return Ok(());
        }
        self.sync_file().await
    }

    /// See [`super::Sink::close`].
    ///
    /// # Errors
    /// The first thing that failed; the rest was tried all the same.
    pub async fn close(mut self) -> io::Result<()> {
        let ended = match &self.broken {
            Some(broken) => Err(to_io(broken)),
            None => {
                // The padding goes before the sync, so that the sync covers that, too.
                let cut = self.cut().await;
                self.sync_file().await.map_err(|error| to_io(&error)).and(cut)
            }
        };
        let mut unused = Vec::new();
        if self.written == 0 {
            unused.push(self.path());
        }
        let mut open = Vec::new();
        if let Some(Ok(next)) = self.take_next().await {
            unused.push(self.path_of(self.number + 1));
            open.push(next);
        }
        let FileSink { disk, directory, file, .. } = self;
        open.push(file);
        let mut ended = ended;
        for file in open {
            ended = ended.and(disk.close(file).await);
        }
        for path in &unused {
            ended = ended.and(disk.remove(path).await);
        }
        if unused.is_empty() { ended } else { ended.and(disk.sync_directory(&directory).await) }
    }

    fn path(&self) -> PathBuf {
        self.path_of(self.number)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.directory.join(segments::file_name(number))
    }

    fn write_error(&self, source: io::Error) -> WriteError {
        WriteError::Disk { path: self.path(), source }
    }

    /// Removes what a failed write left behind `written`, durably: the next write goes to the same
    /// place, and sectors of both, mixed by a power loss, could pass for a line that nobody sent.
    async fn undo(&mut self) -> Result<(), WriteError> {
        self.cut().await.map_err(|source| self.write_error(source))?;
        self.sync_file().await?;
        self.torn = false;
        Ok(())
    }

    /// Cuts off what lies behind `written`.
    async fn cut(&mut self) -> io::Result<()> {
        self.disk.truncate(&self.file, self.written).await
    }

    async fn sync_file(&mut self) -> Result<(), SyncError> {
        match self.disk.sync(&self.file).await {
            Ok(()) => {
                self.synced = self.written;
                Ok(())
            }
            Err(error) => {
                let (kind, reason) = (error.kind(), error.to_string());
                let broken = SyncError { path: self.path(), kind, reason };
                self.broken = Some(broken.clone());
                Err(broken)
            }
        }
    }

    fn prepare_next(&mut self) {
        let (done, next) = async_channel::bounded(1);
        let prepared = prepare(
            self.disk.clone(),
            self.directory.clone(),
            self.number + 1,
            self.segment_bytes_max,
        );
        self.disk.spawn(async move {
            let _ = done.send(prepared.await).await;
        });
        self.next = Some(next);
    }

    /// The segment that was prepared ahead; waits for it where it is on its way.
    async fn take_next(&mut self) -> Option<io::Result<D::File>> {
        let prepared = self.next.take()?.recv().await;
        Some(prepared.unwrap_or_else(|_| unreachable!("the preparing task always answers")))
    }

    /// Ends the active segment and goes on in the next one. On a failure that is not final the
    /// active segment stays what it was.
    async fn rotate(&mut self) -> Result<(), WriteError> {
        let next = match self.take_next().await {
            Some(Ok(file)) => file,
            // What failed ahead of time may succeed now.
            Some(Err(_)) | None => prepare(
                self.disk.clone(),
                self.directory.clone(),
                self.number + 1,
                self.segment_bytes_max,
            )
            .await
            .map_err(|source| WriteError::Disk { path: self.path_of(self.number + 1), source })?,
        };
        // If this fails, blank lines remain at the end of the segment, and they are no lines.
        let _ = self.cut().await;
        self.sync_file().await?;
        let old = std::mem::replace(&mut self.file, next);
        self.number += 1;
        (self.written, self.synced) = (0, 0);
        self.tail.clear();
        self.active.store(self.number, Ordering::Release);
        tracing::debug!(path = %self.path_of(self.number).display(), "a segment begins");
        // Its contents are safe; a failing close tells nothing that the sync has not told.
        let _ = self.disk.close(old).await;
        Ok(())
    }
}

/// Creates a segment that survives a power loss, empty as it is.
async fn prepare<D: Disk>(
    disk: D,
    directory: PathBuf,
    number: u64,
    bytes: u64,
) -> io::Result<D::File> {
    let path = directory.join(segments::file_name(number));
    let file = disk.create(&path, bytes).await?;
    let durable = match disk.sync(&file).await {
        Ok(()) => disk.sync_directory(&directory).await,
        Err(error) => Err(error),
    };
    match durable {
        Ok(()) => Ok(file),
        Err(error) => {
            // The next attempt creates it anew.
            let _ = disk.close(file).await;
            let _ = disk.remove(&path).await;
            Err(error)
        }
    }
}

fn all_of(bytes: usize, wrote: io::Result<usize>) -> io::Result<()> {
    match wrote? {
        all if all == bytes => Ok(()),
        some => {
            let short = format!("wrote {some} of {bytes} bytes");
            Err(io::Error::new(io::ErrorKind::WriteZero, short))
        }
    }
}

fn to_io(error: &SyncError) -> io::Error {
    io::Error::new(error.kind, error.to_string())
}
