//! The connections of one shard, as the shard sees them from outside: whom to wake, whom to end.
//!
//! A connection writes its own entry between turns; the keeper reads it. Invariant: an entry lives
//! exactly as long as its connection's task.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use tracing::debug;

/// Why a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// It does not read its replies.
    ReplyTimeout,
    /// It holds the most memory, and there is no more.
    Memory,
    /// The drain took too long.
    Drain,
    /// What it owed us did not come in time.
    Timeout(Awaited),
}

/// What a connection owes the engine next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The TLS handshake.
    Handshake,
    /// The hello with the token.
    Hello,
    /// The end of a line that has begun.
    Line,
    /// Anything at all.
    Anything,
}

/// How long each of them may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// TLS handshake, and hello where one is asked for.
    pub handshake: Duration,
    /// The rest of a line.
    pub line: Duration,
    /// Anything.
    pub idle: Duration,
    /// A client that takes none of its replies for so long is reset.
    pub replies: Duration,
}

impl Patience {
    fn with(&self, awaited: Awaited) -> Duration {
        match awaited {
            Awaited::Handshake | Awaited::Hello => self.handshake,
            Awaited::Line => self.line,
            Awaited::Anything => self.idle,
        }
    }
}

/// What the shard knows of a connection.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    waker: RefCell<Option<Waker>>,
    kill: Cell<Option<Kill>>,
    /// Since when replies wait that the client does not take.
    pub stalled_since: Cell<Option<Instant>>,
    /// What is awaited from the client, and since when; nothing while the engine is the one to act.
    pub awaits: Cell<Option<(Awaited, Instant)>>,
    /// Bytes of the unfinished line.
    pub carry_bytes: Cell<usize>,
}

impl Entry {
    /// Remembers whom to wake; cheap when it is the same task as before.
    pub(crate) fn remember(&self, waker: &Waker) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *held = Some(waker.clone());
        }
    }

    /// Why this connection has to end.
    pub(crate) fn killed(&self) -> Option<Kill> {
        self.kill.get()
    }

    fn kill(&self, why: Kill) {
        if self.kill.get().is_none() {
            debug!("a connection is ended: {why:?}");
            self.kill.set(Some(why));
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
}

/// A connection's place; giving it up takes it out.
#[derive(Debug)]
pub(crate) struct Place {
    index: usize,
}

impl Registry {
    /// Puts a connection in.
    pub(crate) fn enter(&self, entry: Rc<Entry>) -> Place {
        let mut entries = self.entries.borrow_mut();
        if let Some(index) = self.free.borrow_mut().pop() {
            entries[index] = Some(entry);
            return Place { index };
        }
        entries.push(Some(entry));
        Place { index: entries.len() - 1 }
    }

    /// Takes a connection out.
    #[expect(clippy::needless_pass_by_value, reason = "a place is given up once")]
    pub(crate) fn leave(&self, place: Place) {
        self.entries.borrow_mut()[place.index] = None;
        self.free.borrow_mut().push(place.index);
    }

    /// Whether no connection is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().len() == self.free.borrow().len()
    }

    /// Wakes every connection.
    pub(crate) fn wake_all(&self) {
        self.each(|entry| entry.wake());
    }

    /// Ends every connection.
    pub(crate) fn kill_all(&self, why: Kill) {
        self.each(|entry| entry.kill(why));
    }

    /// Ends those whose client has let the engine wait too long.
    pub(crate) fn kill_late(&self, now: Instant, patience: &Patience) {
        self.each(|entry| {
            if entry.stalled_since.get().is_some_and(|since| now >= since + patience.replies) {
                entry.kill(Kill::ReplyTimeout);
            } else if let Some((awaited, since)) = entry.awaits.get()
                && now >= since + patience.with(awaited)
            {
                entry.kill(Kill::Timeout(awaited));
            }
        });
    }

    /// Ends holders of unfinished lines, the largest first, until `bytes` are given up; gives how
    /// many.
    pub(crate) fn kill_largest_carries(&self, bytes: usize) -> u64 {
        let entries = self.entries.borrow();
        let mut holders: Vec<_> = entries
            .iter()
            .flatten()
            .filter(|entry| entry.carry_bytes.get() > 0 && entry.killed().is_none())
            .collect();
        holders.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.carry_bytes.get()));
        let (mut freed, mut killed) = (0, 0);
        for entry in holders {
            if freed >= bytes {
                break;
            }
            freed += entry.carry_bytes.get();
            killed += 1;
            entry.kill(Kill::Memory);
        }
        killed
    }

    fn each(&self, act: impl Fn(&Entry)) {
        self.entries.borrow().iter().flatten().for_each(|entry| act(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_unfinished_line_goes_first_and_each_only_once() {
        let registry = Registry::default();
        let entries: Vec<_> = (0..3).map(|_| Rc::new(Entry::default())).collect();
        let places: Vec<_> = entries.iter().map(|entry| registry.enter(Rc::clone(entry))).collect();
        entries[1].carry_bytes.set(10);
        entries[2].carry_bytes.set(20);
        assert_eq!(registry.kill_largest_carries(1), 1);
        assert_eq!(entries[2].killed(), Some(Kill::Memory));
        assert_eq!(registry.kill_largest_carries(100), 1);
        assert_eq!(entries[1].killed(), Some(Kill::Memory));
        assert_eq!(registry.kill_largest_carries(100), 0);
        for place in places {
            registry.leave(place);
        }
        assert!(registry.is_empty());
    }

    #[test]
    fn only_who_stalls_for_the_whole_time_is_ended() {
        let registry = Registry::default();
        let entry = Rc::new(Entry::default());
        let _place = registry.enter(Rc::clone(&entry));
        let now = Instant::now();
        let second = Duration::from_secs(1);
        registry.kill_late(now + 20 * second, &PATIENCE);
        assert_eq!(entry.killed(), None);
        entry.stalled_since.set(Some(now));
        registry.kill_late(now + 4 * second - second / 2, &PATIENCE);
        assert_eq!(entry.killed(), None);
        registry.kill_late(now + 4 * second, &PATIENCE);
        assert_eq!(entry.killed(), Some(Kill::ReplyTimeout));
    }

    const PATIENCE: Patience = Patience {
        handshake: Duration::from_secs(1),
        line: Duration::from_secs(2),
        idle: Duration::from_secs(3),
        replies: Duration::from_secs(4),
    };

    #[test]
    fn each_wait_has_a_patience_of_its_own() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        for (awaited, seconds) in [
            (Awaited::Handshake, 1),
            (Awaited::Hello, 1),
            (Awaited::Line, 2),
            (Awaited::Anything, 3),
        ] {
            let registry = Registry::default();
            let entry = Rc::new(Entry::default());
            let _place = registry.enter(Rc::clone(&entry));
            entry.awaits.set(Some((awaited, now)));
            registry.kill_late(now + seconds * second - second / 2, &PATIENCE);
            assert_eq!(entry.killed(), None, "{awaited:?}");
            registry.kill_late(now + seconds * second, &PATIENCE);
            assert_eq!(entry.killed(), Some(Kill::Timeout(awaited)));
        }
    }
}
