//! Waking within a shard: one task ([`Signal`]) or a crowd in order ([`Crowd`]).
//!
//! Nothing here is atomic; nothing crosses a thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes the one task that waits on it; a notification that finds nobody waiting is kept.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiter, now or when it comes.
    pub(crate) fn notify(&self) {
        self.notified.set(true);
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }

    /// Waits for a notification and uses it up.
    pub(crate) async fn notified(&self) {
        poll_fn(|cx| {
            if self.notified.take() {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Tasks that wait for the same thing; woken together, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Counts how often the crowd was woken: a place from an earlier round is void.
    round: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Crowd {
    /// Takes a place, unless `place` is one of this round; gives the place.
    pub(crate) fn join(&self, place: Option<u64>, waker: &Waker) -> u64 {
        let round = self.round.get();
        if place != Some(round) {
            self.wakers.borrow_mut().push(waker.clone());
        }
        round
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        self.round.set(self.round.get() + 1);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.wakers.borrow().is_empty()
    }
}
