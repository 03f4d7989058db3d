//! Where connections leave lines and the flusher takes them.
//!
//! Holds the shard's admission with its one batch, and the two ways of waking: the flusher when
//! there is something to write, connections when there is room again. Knows neither sockets nor
//! disks. Invariant: no borrow of the admission crosses an await.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::ingest::batch::{Due, Taken};
use crate::ingest::{self, Ingest, Wrote};
use crate::signal::{Crowd, Signal};

/// What the flusher is told at its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Bytes of each batch buffer.
    pub buffer_bytes: usize,
    /// What is written is synced after this time.
    pub sync_after: Duration,
    /// What is admitted, and when a batch is flushed.
    pub ingest: ingest::Terms,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Intake<B> {
    pub terms: Terms,
    pub counters: Rc<Counters>,
    /// The admission and the batch.
    pub ingest: RefCell<Ingest<B>>,
    /// Connections that wait for room in the batch, in the order of their arrival.
    pub room: Crowd,
    /// Wakes the flusher.
    pub flush: Signal,
    /// Until when the flusher sleeps, if it does: it need not be told of lines that can wait longer.
    pub flusher_wakes_at: Cell<Option<Instant>>,
    /// Set when the last connection has ended: the flusher writes what is left, and ends.
    closing: Cell<bool>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Intake<B> {
    /// An intake whose first batch is in `buf`.
    pub(crate) fn new(terms: Terms, counters: Rc<Counters>, buf: B) -> Intake<B> {
        let ingest = Ingest::new(terms.ingest, buf, Rc::clone(&counters));
        Intake {
            terms,
            counters,
            ingest: RefCell::new(ingest),
            room: Crowd::default(),
            flush: Signal::default(),
            flusher_wakes_at: Cell::new(None),
            closing: Cell::new(false),
        }
    }

    /// Tells the flusher about new lines, if it has to know now.
    pub(crate) fn nudge_flusher(&self) {
        match self.ingest.borrow().due() {
            Due::Never => {}
            Due::Now => self.flush.notify(),
            Due::At(at) if self.flusher_wakes_at.get().is_some_and(|wakes| wakes <= at) => {}
            Due::At(_) => self.flush.notify(),
        }
    }

    /// Gives the batch to the flusher, whose write begins now, and makes room in `next`.
    pub(crate) fn take(&self, next: B) -> Taken<B> {
        let taken = self.ingest.borrow_mut().take(next, Instant::now());
        self.room.wake_all();
        taken
    }

    /// That write has ended.
    pub(crate) fn wrote(&self, wrote: Wrote) {
        self.ingest.borrow_mut().wrote(wrote, Instant::now());
        self.release();
    }

    /// What time and the disk changed; see [`Ingest::tick`].
    pub(crate) fn tick(&self, free_bytes: u64, now: Instant) {
        self.ingest.borrow_mut().tick(free_bytes, now);
        self.release();
    }

    /// The sink takes nothing more: every line is refused from now on.
    pub(crate) fn refuse_all(&self) {
        self.ingest.borrow_mut().close();
        self.release();
    }

    /// Lines that wait for room are refused by now, and need not wait.
    fn release(&self) {
        if !self.room.is_empty() && self.ingest.borrow().is_refusing() {
            self.room.wake_all();
        }
    }

    /// No more lines will come: the flusher writes what is left, and ends.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.flush.notify();
    }

    /// Whether no more lines will come.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }
}
