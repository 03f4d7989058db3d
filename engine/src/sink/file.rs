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
//! and what a crash left behind to [`LogDir`], old segments to [`retention`], and checksums to
//! `scribe`. Invariants:
//! - past `written` the file holds nothing but `\n`, except while a write is in flight or after
//!   one failed and could not be undone yet (`torn`): then the next write undoes it first;
//! - acknowledged bytes are only ever overwritten with themselves (DESIGN: a 512-byte sector is old
//!   or new, so this loses nothing);
//! - a segment is synced before the first write to the next;
//! - what a failed write left is durably gone before the next write begins;
//! - after a failed sync there is no operation on any segment but closing it;
//! - nothing is acknowledged that went into a segment without a name: where somebody removed it,
//!   its last batch fails, and the next one goes to a new segment, in a new directory if need be.

pub mod fsck;
mod log_dir;
pub mod pack;
mod recovery;
pub mod retention;
mod scribe;
pub mod segments;
mod side;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_channel::Receiver;

use self::log_dir::Claim;
pub use self::log_dir::{LogDir, OpenError, Plan};
pub use self::recovery::{LINE_BYTES_RECOVERABLE, RecoveryReport};
use self::scribe::Scribe;
use super::disk::Disk;
use super::{BLOCK, Position, Staged, SyncError, Watermarks, WriteError};

/// A new segment, and its number.
type Prepared<D> = io::Result<(u64, <D as Disk>::File)>;

/// See the module.
pub struct FileSink<D: Disk> {
    disk: D,
    directory: PathBuf,
    claim: Option<Arc<Claim>>,
    segment_bytes_max: u64,
    /// Told to [`retention`]: the number of the active segment.
    active: Arc<AtomicU64>,

    number: u64,
    file: D::File,
    /// The segment behind the active one, while it is being prepared or ready.
    next: Option<Receiver<Prepared<D>>>,
    written: u64,
    synced: u64,
    /// What is acknowledged of the block that `written` lies in.
    tail: Vec<u8>,
    /// The tail as it will be when the write in flight succeeds.
    tail_next: Vec<u8>,
    torn: bool,
    /// The active segment was removed.
    gone: bool,
    /// Something was written to a segment that was removed before it was synced.
    unsynced_gone: bool,
    broken: Option<SyncError>,
    scribe: Scribe<D>,
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
        let claim = plan.claim();
        let (number, file) =
            prepare(disk.clone(), claim.clone(), directory.clone(), number).await?;
        active.store(number, Ordering::Release);
        let scribe = Scribe::begin(&disk);
        scribe.segment(number, &directory.join(segments::file_name(number)));
        Ok(FileSink {
            disk,
            directory,
            claim,
            segment_bytes_max: segment_bytes_max.next_multiple_of(BLOCK as u64),
            active,
            number,
            file,
            next: None,
            written: 0,
            synced: 0,
            tail: Vec::with_capacity(BLOCK),
            tail_next: Vec::with_capacity(BLOCK),
            torn: false,
            gone: false,
            unsynced_gone: false,
            broken: None,
            scribe,
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
        let Staged { mut buf, head, len, lines } = staged;
        let line_bytes = len - head;
        if line_bytes == 0 {
            return Ok(());
        }
        if self.gone {
            self.replace().await?;
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
        let wrote = self.disk.write_at(&self.file, Rc::clone(&buf), offset).await;
        if let Err(source) = all_of(padded, wrote) {
            let failed = self.write_error(source);
            return match self.undo().await {
                Err(undo) if undo.is_final() => Err(undo),
                // Where it cannot be undone now, the next write tries again before it begins.
                Ok(()) | Err(_) => Err(failed),
            };
        }
        if !self.disk.is_linked(&self.file) {
            return Err(self.lose().into());
        }
        self.torn = false;
        self.scribe.commit(buf, tail..end, lines, self.written);
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
        if std::mem::take(&mut self.unsynced_gone) {
            return Err(self.gone_error());
        }
        if self.synced == self.written || self.gone {
            return Ok(());
        }
        let synced = self.sync_file().await;
        // Whoever waits for it is told now.
        self.unsynced_gone = false;
        synced
    }

    /// See [`super::Sink::close`].
    ///
    /// # Errors
    /// The first thing that failed; the rest was tried all the same.
    pub async fn close(mut self) -> io::Result<()> {
        let ended = match &self.broken {
            Some(broken) => Err(to_io(broken)),
            None if self.gone => Ok(()),
            None => {
                // The padding goes before the sync, so that the sync covers that, too.
                let cut = self.cut().await;
                self.sync_file().await.map_err(|error| to_io(&error)).and(cut)
            }
        };
        let mut unused = Vec::new();
        if self.written == 0 && !self.gone {
            unused.push(self.path());
        }
        let mut open = Vec::new();
        if let Some(Ok((number, next))) = self.take_next().await {
            unused.push(self.path_of(number));
            open.push(next);
        }
        let FileSink { disk, directory, file, scribe, .. } = self;
        open.push(file);
        let mut ended = ended;
        for file in open {
            ended = ended.and(disk.close(file).await);
        }
        scribe.end().await;
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
        if let Err(error) = self.disk.sync(&self.file).await {
            let (kind, reason) = (error.kind(), error.to_string());
            let broken = SyncError { path: self.path(), kind, reason, is_final: true };
            self.broken = Some(broken.clone());
            return Err(broken);
        }
        if !self.disk.is_linked(&self.file) {
            return Err(self.lose());
        }
        self.synced = self.written;
        self.scribe.synced(self.synced);
        Ok(())
    }

    /// Takes note that the active segment was removed.
    fn lose(&mut self) -> SyncError {
        if !std::mem::replace(&mut self.gone, true) {
            self.unsynced_gone |= self.synced < self.written;
            self.scribe.gone();
            tracing::warn!("{} was removed while it was written", self.path().display());
        }
        self.gone_error()
    }

    fn gone_error(&self) -> SyncError {
        let reason = "the segment was removed while it was written".to_owned();
        SyncError { path: self.path(), kind: io::ErrorKind::NotFound, reason, is_final: false }
    }

    fn prepare_next(&mut self) {
        let (done, next) = async_channel::bounded(1);
        let prepared =
            prepare(self.disk.clone(), self.claim.clone(), self.directory.clone(), self.number + 1);
        self.disk.spawn(async move {
            let _ = done.send(prepared.await).await;
        });
        self.next = Some(next);
    }

    /// The segment that was prepared ahead; waits for it where it is on its way.
    async fn take_next(&mut self) -> Option<Prepared<D>> {
        let prepared = self.next.take()?.recv().await;
        Some(prepared.unwrap_or_else(|_| unreachable!("the preparing task always answers")))
    }

    /// The next segment, ready to be written.
    async fn next_segment(&mut self) -> Result<(u64, D::File), WriteError> {
        let mut first = self.number + 1;
        match self.take_next().await {
            Some(Ok((number, file))) if self.disk.is_linked(&file) => return Ok((number, file)),
            // It was removed: its number is not used again.
            Some(Ok((number, file))) => {
                let _ = self.disk.close(file).await;
                first = number + 1;
            }
            // What failed ahead of time may succeed now.
            Some(Err(_)) | None => {}
        }
        prepare(self.disk.clone(), self.claim.clone(), self.directory.clone(), first)
            .await
            .map_err(|source| WriteError::Disk { path: self.path_of(first), source })
    }

    /// Ends the active segment and goes on in the next one. On a failure that is not final the
    /// active segment stays what it was.
    async fn rotate(&mut self) -> Result<(), WriteError> {
        let next = self.next_segment().await?;
        // If this fails, blank lines remain at the end of the segment, and they are no lines.
        let _ = self.cut().await;
        match self.sync_file().await {
            Err(error) if error.is_final => return Err(error.into()),
            // Also where the old one is gone.
            Ok(()) | Err(_) => self.go_on_in(next).await,
        }
        Ok(())
    }

    /// Goes on in a new segment because the active one was removed.
    async fn replace(&mut self) -> Result<(), WriteError> {
        let next = self.next_segment().await?;
        self.go_on_in(next).await;
        tracing::warn!("goes on in {}", self.path().display());
        Ok(())
    }

    async fn go_on_in(&mut self, (number, next): (u64, D::File)) {
        let old = std::mem::replace(&mut self.file, next);
        self.number = number;
        (self.written, self.synced) = (0, 0);
        (self.torn, self.gone) = (false, false);
        self.tail.clear();
        self.active.store(number, Ordering::Release);
        tracing::debug!(path = %self.path().display(), "a segment begins");
        self.scribe.segment(number, &self.path());
        // Its contents are safe; a failing close tells nothing that the sync has not told.
        let _ = self.disk.close(old).await;
    }
}

/// How many numbers in a row may be taken by files that an attempt left behind.
const TAKEN_MAX: u64 = 64;

/// Creates a segment that survives a power loss, empty as it is, with the first number from
/// `first` on that is free.
async fn prepare<D: Disk>(
    disk: D,
    claim: Option<Arc<Claim>>,
    directory: PathBuf,
    first: u64,
) -> Prepared<D> {
    if let Some(claim) = claim {
        let directory = directory.clone();
        disk.run_blocking(move || claim.renew(&directory)).await?;
    }
    let mut number = first;
    let (path, file) = loop {
        let path = directory.join(segments::file_name(number));
        match disk.create(&path).await {
            Ok(file) => break (path, file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if number == first + TAKEN_MAX {
                    return Err(error);
                }
                number += 1;
            }
            Err(error) => {
                // It may be there all the same.
                let _ = disk.remove(&path).await;
                return Err(error);
            }
        }
    };
    let durable = match disk.sync(&file).await {
        Ok(()) => disk.sync_directory(&directory).await,
        Err(error) => Err(error),
    };
    match durable {
        Ok(()) => Ok((number, file)),
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
