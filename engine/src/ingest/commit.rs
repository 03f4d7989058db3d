//! A commit: the lines that share one write, and whom their fate concerns.
//!
//! A [`Ticket`] is a share in a commit; a connection holds one per run of replies, never one per
//! line. Invariant: a commit's state only moves forward, and each move wakes those who wait for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use proto::hello::Durability;

/// A share in a commit.
pub type Ticket = Rc<Commit>;

/// How far a commit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Written,
    Synced,
    WriteFailed,
    SyncFailed,
}

/// What became of the lines that were promised a durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise holds: `ok`.
    Stored,
    /// It does not: `storage_failed`.
    Failed,
}

/// Lines that one connection read at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub read_at: Instant,
    /// What they were promised.
    pub durability: Durability,
    /// How many.
    pub lines: u64,
}

/// The lines of one write.
#[derive(Debug)]
pub struct Commit {
    state: Cell<State>,
    written_lines: Cell<u64>,
    durable_lines: Cell<u64>,
    received_lines: Cell<u64>,
    arrivals: RefCell<Vec<Arrival>>,
    for_write: RefCell<Vec<Waker>>,
    for_sync: RefCell<Vec<Waker>>,
}

impl Commit {
    /// A commit without lines.
    pub fn begin() -> Ticket {
        Rc::new(Commit {
            state: Cell::new(State::Pending),
            written_lines: Cell::new(0),
            durable_lines: Cell::new(0),
            received_lines: Cell::new(0),
            arrivals: RefCell::default(),
            for_write: RefCell::default(),
            for_sync: RefCell::default(),
        })
    }

    /// One more line, which was promised `durability`.
    pub fn add_line(&self, durability: Durability) {
        let lines = match durability {
            Durability::Received => &self.received_lines,
            Durability::Written => &self.written_lines,
            Durability::Durable => &self.durable_lines,
        };
        lines.set(lines.get() + 1);
    }

    /// Lines that were promised `durability`.
    pub fn lines(&self, durability: Durability) -> u64 {
        match durability {
            Durability::Received => self.received_lines.get(),
            Durability::Written => self.written_lines.get(),
            Durability::Durable => self.durable_lines.get(),
        }
    }

    /// Lines whose senders wait: all but those that were promised `received`.
    pub fn awaited_lines(&self) -> u64 {
        self.written_lines.get() + self.durable_lines.get()
    }

    /// `lines` of them were read at `read_at`.
    pub fn arrived(&self, lines: u64, durability: Durability, read_at: Instant) {
        if lines > 0 {
            self.arrivals.borrow_mut().push(Arrival { read_at, durability, lines });
        }
    }

    /// When lines that were promised `durability` were read, as far as it was said.
    pub fn each_arrival(&self, durability: Durability, mut tell: impl FnMut(Arrival)) {
        let arrivals = self.arrivals.borrow();
        arrivals.iter().filter(|it| it.durability == durability).for_each(|&it| tell(it));
    }

    /// What became of a line that was promised `durability`; `None` while it is open.
    pub fn outcome(&self, durability: Durability) -> Option<Outcome> {
        match (self.state.get(), durability) {
            (_, Durability::Received) => Some(Outcome::Stored),
            (State::Pending, _) | (State::Written, Durability::Durable) => None,
            (State::Written | State::Synced | State::SyncFailed, Durability::Written)
            | (State::Synced, Durability::Durable) => Some(Outcome::Stored),
            (State::WriteFailed, _) | (State::SyncFailed, Durability::Durable) => {
                Some(Outcome::Failed)
            }
        }
    }

    /// Wakes `waker` once, when the fate of lines with `durability` is known.
    pub fn wake_when_known(&self, durability: Durability, waker: &Waker) {
        let waiters = match durability {
            Durability::Received | Durability::Written => &self.for_write,
            Durability::Durable => &self.for_sync,
        };
        waiters.borrow_mut().push(waker.clone());
    }

    /// The write is done, or failed.
    pub fn wrote(&self, outcome: Outcome) {
        assert_eq!(self.state.get(), State::Pending, "a commit is written once");
        match outcome {
            Outcome::Stored => self.state.set(State::Written),
            Outcome::Failed => {
                self.state.set(State::WriteFailed);
                wake(&self.for_sync);
            }
        }
        wake(&self.for_write);
    }

    /// A sync that covers the commit is done, or failed.
    pub fn synced(&self, outcome: Outcome) {
        assert_eq!(self.state.get(), State::Written, "only what is written is synced");
        self.state.set(match outcome {
            Outcome::Stored => State::Synced,
            Outcome::Failed => State::SyncFailed,
        });
        wake(&self.for_sync);
    }
}

fn wake(waiters: &RefCell<Vec<Waker>>) {
    for waker in std::mem::take(&mut *waiters.borrow_mut()) {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Durability::{Durable, Received, Written};

    #[test]
    fn a_promise_is_never_answered_before_it_holds() {
        let commit = Commit::begin();
        assert_eq!(commit.outcome(Received), Some(Outcome::Stored));
        assert_eq!((commit.outcome(Written), commit.outcome(Durable)), (None, None));
        commit.wrote(Outcome::Stored);
        assert_eq!(
            (commit.outcome(Written), commit.outcome(Durable)),
            (Some(Outcome::Stored), None)
        );
        commit.synced(Outcome::Failed);
        assert_eq!(commit.outcome(Written), Some(Outcome::Stored));
        assert_eq!(commit.outcome(Durable), Some(Outcome::Failed));
    }

    #[test]
    fn a_failed_write_fails_both_promises() {
        let commit = Commit::begin();
        commit.wrote(Outcome::Failed);
        assert_eq!(commit.outcome(Written), Some(Outcome::Failed));
        assert_eq!(commit.outcome(Durable), Some(Outcome::Failed));
    }
}
