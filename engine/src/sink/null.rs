//! The sink that keeps nothing (ENABLE_PERSISTENCE=false): everything is written at once.
//!
//! Invariant: one spare buffer at most; in steady state `alloc` allocates nothing.

use std::cell::Cell;
use std::fmt;

use super::disk::Disk;
use super::{Position, Staged, Watermarks};

/// See the module.
pub struct NullSink<D: Disk> {
    disk: D,
    taken: u64,
    spare: Cell<Option<D::Buf>>,
}

impl<D: Disk> fmt::Debug for NullSink<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NullSink").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl<D: Disk> NullSink<D> {
    pub(super) fn new(disk: D) -> NullSink<D> {
        NullSink { disk, taken: 0, spare: Cell::new(None) }
    }

    pub(super) fn alloc(&self, bytes: usize) -> D::Buf {
        match self.spare.take() {
            Some(buf) if buf.as_ref().len() >= bytes => buf,
            _ => self.disk.alloc(bytes),
        }
    }

    pub(super) fn write(&mut self, staged: Staged<D::Buf>) {
        self.taken += (staged.len - staged.head) as u64;
        self.spare.set(Some(staged.buf));
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        let here = Position { segment: 0, offset: self.taken };
        Watermarks { written: here, synced: here }
    }
}
