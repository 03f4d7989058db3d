//! The file that is recorded into.
//!
//! Owns its order: a message gets its time when it is its turn to be written, so times never
//! descend. Gzip where the name says so.
//! Invariant: what [`File::keep`] has said yes to is in the file once [`File::finish`] is done.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::clock::Clock;

const WRITE_BYTES: usize = 256 * 1024;

/// What a recording holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Messages in the file.
    pub messages: u64,
    /// Of clients, that were none.
    pub rejected: u64,
}

pub(super) struct File {
    inner: Mutex<Inner>,
    clock: Clock,
    total: u64,
    is_full: AtomicBool,
    rejected: AtomicU64,
}

struct Inner {
    /// `None` once it is finished.
    out: Option<Out>,
    messages: u64,
    /// Why nothing more can be written.
    broken: Option<io::Error>,
}

enum Out {
    Plain(BufWriter<fs::File>),
    Gzip(Box<GzEncoder<BufWriter<fs::File>>>),
}

impl Out {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Out::Plain(out) => out,
            Out::Gzip(out) => out,
        }
    }

    fn finish(self) -> io::Result<()> {
        let mut out = match self {
            Out::Plain(out) => out,
            Out::Gzip(out) => out.finish()?,
        };
        out.flush()?;
        out.get_ref().sync_all()
    }
}

impl File {
    pub(super) fn create(path: &Path, total: Option<u64>, clock: Clock) -> io::Result<File> {
        let out = BufWriter::with_capacity(WRITE_BYTES, fs::File::create(path)?);
        let out = match path.extension().is_some_and(|end| end == "gz") {
            true => Out::Gzip(Box::new(GzEncoder::new(out, Compression::fast()))),
            false => Out::Plain(out),
        };
        Ok(File {
            inner: Mutex::new(Inner { out: Some(out), messages: 0, broken: None }),
            clock,
            total: total.unwrap_or(u64::MAX),
            is_full: AtomicBool::new(false),
            rejected: AtomicU64::new(0),
        })
    }

    /// Keeps a message: `write` writes it with its time, ns since 1970. `false` once the recording
    /// is over.
    pub(super) fn keep(&self, write: impl FnOnce(&mut dyn Write, u64) -> io::Result<()>) -> bool {
        let Ok(mut inner) = self.inner.lock() else { return false };
        let inner = &mut *inner;
        let Some(out) = inner.out.as_mut().filter(|_| inner.messages < self.total) else {
            return false;
        };
        let at_ns = self.clock.unix_ns(self.clock.now_ns());
        if inner.broken.is_none() {
            inner.broken = write(out.writer(), at_ns).err();
        }
        let is_kept = inner.broken.is_none();
        inner.messages += u64::from(is_kept);
        if !is_kept || inner.messages == self.total {
            self.is_full.store(true, Ordering::Relaxed);
        }
        is_kept
    }

    /// A message that was none.
    pub(super) fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing more will be kept.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub(super) fn finish(self) -> io::Result<Kept> {
        let inner = self.inner.into_inner().map_err(|_| io::Error::other("a writer panicked"))?;
        if let Some(out) = inner.out {
            let finished = out.finish();
            inner.broken.map_or(finished, Err)?;
        }
        Ok(Kept { messages: inner.messages, rejected: self.rejected.into_inner() })
    }
}
