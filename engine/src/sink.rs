//! Where batches go: a file per segment, or nowhere.
//!
//! Owns the two watermarks, `written` and `synced`, and lays a batch out for the disk; leaves
//! batching to `ingest`, and to the flusher which reply waits for which watermark. Invariants:
//! one operation at a time (`&mut self`); `synced <= written`; `written` never covers a byte of a
//! write that did not succeed in full.

pub mod disk;
pub mod file;
#[cfg(test)]
mod model;
pub mod null;

use std::io;
use std::path::PathBuf;

use disk::Disk;
use file::FileSink;
use null::NullSink;

/// Writes begin and end at multiples of this, whatever alignment the disk reports: some report
/// 512 bytes and have sectors of 4096.
pub const BLOCK: usize = 4096;

/// One batch laid out for the disk.
///
/// `buf[head..len]` is whole lines, each ended by `\n`. `buf[..head]` is room for the sink's
/// unaligned tail as it was predicted when the batch was begun ([`Staged::next_head`]); the sink
/// fills it in itself, and moves the lines where the prediction did not come true. `buf` is at
/// least `len + 2 * BLOCK` long: room for the padding and for such a move.
#[derive(Clone, Copy, Debug)]
pub struct Staged<B> {
    pub buf: B,
    pub head: usize,
    pub len: usize,
    /// How many lines these are.
    pub lines: u64,
}

impl<B> Staged<B> {
    /// The head of the batch behind this one, if this one is written at the offset that it was
    /// laid out for.
    pub fn next_head(&self) -> usize {
        self.len % BLOCK
    }
}

/// A place in the sink. Later places compare greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub segment: u64,
    /// In bytes from the segment's beginning.
    pub offset: u64,
}

/// How far a sink has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Everything before it survives the end of the process.
    pub written: Position,
    /// Everything before it survives a power loss.
    pub synced: Position,
}

/// A batch was not written: none of its lines counts.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The next write starts at the old `written` offset and may succeed.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The segment.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The sink takes nothing more.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

impl WriteError {
    /// The system's reason.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            WriteError::Disk { source, .. } => source.kind(),
            WriteError::Sync(error) => error.kind,
        }
    }

    /// Whether there is no space; it may return.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the sink refuses everything from now on.
    pub fn is_final(&self) -> bool {
        match self {
            WriteError::Disk { .. } => false,
            WriteError::Sync(error) => error.is_final,
        }
    }
}

/// What was written is not durable. Where a sync failed it may be gone although a later sync would
/// succeed, so that is final: the sink refuses everything after it. Where somebody removed the
/// segment, the next one is another file, and the sink goes on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot sync {}: {reason}{}", path.display(), if *is_final { "; it takes nothing more" } else { "" })]
pub struct SyncError {
    /// The segment.
    pub path: PathBuf,
    /// The system's reason.
    pub kind: io::ErrorKind,
    /// The system's reason, in words.
    pub reason: String,
    /// Whether every write and sync after it fails, too.
    pub is_final: bool,
}

/// Where a shard's batches go.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a shard")]
pub enum Sink<D: Disk> {
    /// Segments below LOG_DIR.
    File(FileSink<D>),
    /// Nowhere.
    Null(NullSink<D>),
}

impl<D: Disk> Sink<D> {
    /// A sink that keeps nothing; `disk` gives only the buffers.
    pub fn null(disk: D) -> Sink<D> {
        Sink::Null(NullSink::new(disk))
    }

    /// A buffer of at least `bytes` for the next batch. Its contents are arbitrary.
    pub fn alloc(&self, bytes: usize) -> D::Buf {
        match self {
            Sink::File(sink) => sink.alloc(bytes),
            Sink::Null(sink) => sink.alloc(bytes),
        }
    }

    /// Writes a batch; afterwards `written` covers it.
    ///
    /// # Errors
    /// Nothing of the batch counts, and the next write starts at the old `written` offset; or the
    /// sink is final ([`WriteError::is_final`]).
    pub async fn write(&mut self, staged: Staged<D::Buf>) -> Result<(), WriteError> {
        match self {
            Sink::File(sink) => sink.write(staged).await,
            Sink::Null(sink) => {
                sink.write(staged);
                Ok(())
            }
        }
    }

    /// Syncs all that is written; afterwards `synced` equals `written`.
    ///
    /// # Errors
    /// Nothing that is not synced yet ever will be. If it is final, every write and sync after it
    /// fails, too.
    pub async fn sync(&mut self) -> Result<(), SyncError> {
        match self {
            Sink::File(sink) => sink.sync().await,
            Sink::Null(_) => Ok(()),
        }
    }

    /// Whether something is written that is not synced.
    pub fn is_dirty(&self) -> bool {
        let Watermarks { written, synced } = self.watermarks();
        written > synced
    }

    /// How far it has come.
    pub fn watermarks(&self) -> Watermarks {
        match self {
            Sink::File(sink) => sink.watermarks(),
            Sink::Null(sink) => sink.watermarks(),
        }
    }

    /// Syncs, cuts the padding off, closes, and removes a segment that was begun for nothing.
    ///
    /// # Errors
    /// The first thing that failed; the rest was tried all the same.
    pub async fn close(self) -> io::Result<()> {
        match self {
            Sink::File(sink) => sink.close().await,
            Sink::Null(_) => Ok(()),
        }
    }

    /// What the operator should know about the disk, such as that it refuses direct I/O.
    pub fn note(&self) -> Option<String> {
        match self {
            Sink::File(sink) => sink.note(),
            Sink::Null(_) => None,
        }
    }
}
