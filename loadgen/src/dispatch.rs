//! Which worker takes which messages, and when.
//!
//! Owns the workers that are idle: in closed loop a worker claims its next batch when it is free; in
//! open loop what is due goes to idle workers, first come first served, and a worker that becomes
//! free takes what is late. A batch is what is due, up to the batch size. Leaves what there is to
//! send to `supply`, the clock to the caller (`now_ns`), and carrying to the worker.
//!
//! What becomes due is handed out once in a *slot* of time, so that a thousand messages a
//! millisecond are not a thousand wakes: the first one who looks in a slot, pacer or free worker,
//! opens the gate for what is due by then. What the workers could not take at once, whoever becomes
//! free takes, without waiting for the next slot.
//!
//! ```text
//! due      | | | | | | | | | | | | |
//! slots    [       )[       )[       )      a slot is a millisecond, or some microseconds
//! gate      ^        ^        ^             opened by the first look; all that is due until then
//! ```
//!
//! A worker that becomes free just after the end still takes what was due before it: a message that
//! is due a millisecond before the end has no less right to be sent than one in the middle, for
//! which a busy worker would have been back in time. So the end is soft by [`LATE_NS`]; a target
//! that keeps all workers for longer leaves messages unsent.
//! Invariant: every message of the part is claimed at most once, in order and not before it is due;
//! what is due before the end is claimed, missed (told to the caller as it happens), or told by
//! [`Dispatch::drain_unclaimed`]. A claim is of one stage.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Poll, Waker};

use self::supply::{Missed, Spares, Supply};
use crate::hammer::claim::Claim;

mod backlog;
pub(crate) mod supply;

/// For so long after the end of the time, a worker that becomes free takes what was due before it:
/// the pacer's tick, and the time in which a target that keeps up answers the batches under way.
const LATE_NS: u64 = 10_000_000;
/// When the pacer has to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) at_ns: u64,
    /// All workers are idle: nothing is in flight, and no reply can come before.
    pub(crate) is_quiet: bool,
}

/// Hands a shard's messages to its workers.
#[derive(Debug)]
pub(crate) struct Dispatch {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    supply: Supply,
    /// When no more was taken up: all taken, the time over, or a halt.
    ended_ns: Option<u64>,
    /// Until when what was due before the end is still taken up.
    late_until_ns: u64,
    idle: VecDeque<usize>,
    seats: Vec<Seat>,
    spares: Spares,
    pacer: Option<Waker>,
}

#[derive(Debug, Default)]
struct Seat {
    is_waiting: bool,
    /// Since when its worker was last free; at first, from the start.
    free_ns: Option<u64>,
    claim: Option<Claim>,
    waker: Option<Waker>,
}

impl Dispatch {
    pub(crate) fn new(supply: Supply, workers: usize) -> Dispatch {
        let mut seats = Vec::new();
        seats.resize_with(workers, Seat::default);
        Dispatch {
            state: RefCell::new(State {
                supply,
                ended_ns: None,
                late_until_ns: 0,
                idle: VecDeque::with_capacity(workers),
                seats,
                spares: Spares::new(workers),
                pacer: None,
            }),
        }
    }

    /// The next messages of a free worker; `None` when the load is over.
    pub(crate) fn poll_claim(
        &self,
        worker: usize,
        now_ns: u64,
        waker: &Waker,
        missed: Missed<'_>,
    ) -> Poll<Option<Claim>> {
        let state = &mut *self.state.borrow_mut();
        let seat = &mut state.seats[worker];
        if !seat.is_waiting && seat.claim.is_none() {
            // Somebody who has just come back; the first time, somebody who was never away.
            seat.free_ns = Some(seat.free_ns.map_or(0, |_| now_ns));
        }
        let free_ns = seat.free_ns.unwrap_or_default();
        if let Some(claim) = seat.claim.take() {
            return Poll::Ready(Some(Claim { free_ns, claimed_ns: now_ns, ..claim }));
        }
        state.note(now_ns);
        let claim = match (&mut state.supply, state.ended_ns) {
            (Supply::Closed(_) | Supply::Unpaced(_), Some(_)) => return Poll::Ready(None),
            (Supply::Closed(closed), None) => {
                return Poll::Ready(closed.take(worker, free_ns, now_ns));
            }
            // What was due before the end, for a worker that becomes free just after it.
            (Supply::Open(open), Some(ended_ns)) if now_ns < state.late_until_ns => {
                open.miss(ended_ns, now_ns, missed);
                open.take(ended_ns, now_ns, &mut state.spares)
            }
            (Supply::Open(open), None) if !state.seats[worker].is_waiting => {
                open.miss(u64::MAX, now_ns, missed);
                let gate_ns = open.look(now_ns);
                open.take(gate_ns, now_ns, &mut state.spares)
            }
            (Supply::Unpaced(unpaced), None) if !state.seats[worker].is_waiting => {
                unpaced.take(now_ns, &mut state.spares)
            }
            (Supply::Open(_) | Supply::Unpaced(_), _) => None,
        };
        if let Some(claim) = claim {
            return Poll::Ready(Some(Claim { free_ns, claimed_ns: now_ns, ..claim }));
        }
        if state.ended_ns.is_some() {
            return Poll::Ready(None);
        }
        let seat = &mut state.seats[worker];
        seat.waker = Some(waker.clone());
        if !seat.is_waiting {
            seat.is_waiting = true;
            state.idle.push_back(worker);
            if let Some(pacer) = &state.pacer {
                pacer.wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// A claim that is settled: its memory serves the next one.
    pub(crate) fn give_back(&self, claim: Claim) {
        self.state.borrow_mut().spares.give_back(claim);
    }

    /// Gives what is due to idle workers. Says when to look again, `None` once the load is over, and
    /// waits while no worker is idle: then whoever becomes free takes it. Wakes whenever a worker
    /// becomes idle, and at the end.
    pub(crate) fn poll_pace(
        &self,
        now_ns: u64,
        waker: &Waker,
        missed: Missed<'_>,
    ) -> Poll<Option<Look>> {
        let state = &mut *self.state.borrow_mut();
        state.note(now_ns);
        if state.ended_ns.is_some() {
            return Poll::Ready(None);
        }
        let State { supply, idle, seats, spares, pacer, .. } = state;
        let at_ns = match supply {
            Supply::Closed(_) => return Poll::Ready(None),
            Supply::Open(open) => {
                open.miss(u64::MAX, now_ns, missed);
                let gate_ns = open.look(now_ns);
                hand_out(idle, seats, |_| open.take(gate_ns, now_ns, spares));
                open.next_look_ns(now_ns)
            }
            Supply::Unpaced(unpaced) => {
                // Idle workers wait for the reader; what it brings was due when they came free.
                hand_out(idle, seats, |free_ns| unpaced.take(free_ns, spares));
                unpaced.next_look_ns(now_ns)
            }
        };
        if !pacer.as_ref().is_some_and(|pacer| pacer.will_wake(waker)) {
            *pacer = Some(waker.clone());
        }
        if idle.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Look { at_ns, is_quiet: idle.len() == seats.len() }))
    }

    /// When the load ended, if it has; looks whether it is over at `now_ns`.
    pub(crate) fn ended_ns(&self, now_ns: u64) -> Option<u64> {
        let state = &mut *self.state.borrow_mut();
        state.note(now_ns);
        state.ended_ns
    }

    /// Ends the load early.
    pub(crate) fn halt(&self, now_ns: u64) {
        let state = &mut *self.state.borrow_mut();
        state.note(now_ns);
        if state.ended_ns.is_none() {
            state.end(now_ns);
        }
    }

    /// Messages of a stage that were due before `at_ns` and before the end; `None` in closed loop,
    /// where a message is due when it is claimed.
    pub(crate) fn due_in(&self, stage: usize, at_ns: u64) -> Option<u64> {
        let state = &mut *self.state.borrow_mut();
        let Supply::Open(open) = &mut state.supply else { return None };
        Some(open.due_in(stage, at_ns, state.ended_ns))
    }

    /// Tells the messages that were due before the load ended and that nobody took up, once each;
    /// whether that was all of them. If not, some of a recording have still to be read.
    #[must_use]
    pub(crate) fn drain_unclaimed(&self, missed: Missed<'_>) -> bool {
        let state = &mut *self.state.borrow_mut();
        let ended_ns = state.ended_ns.expect("asked once the load is over");
        let Supply::Open(open) = &mut state.supply else { return true };
        open.drain_unclaimed(ended_ns, missed)
    }
}

impl State {
    /// Looks whether the load is over.
    fn note(&mut self, now_ns: u64) {
        if self.ended_ns.is_none()
            && let Some(ended_ns) = self.supply.ended_ns(now_ns)
        {
            self.late_until_ns = self.supply.end_ns().saturating_add(LATE_NS);
            self.end(ended_ns);
        }
    }

    /// Ends the load. What was due until then and waits only for the pacer's next tick is not
    /// late for anybody's fault but ours: idle workers take it.
    fn end(&mut self, ended_ns: u64) {
        let State { supply, idle, seats, spares, .. } = self;
        if let Supply::Open(open) = supply {
            hand_out(idle, seats, |_| open.take(ended_ns, ended_ns, spares));
            open.end(ended_ns);
        }
        self.ended_ns = Some(ended_ns);
        self.idle.clear();
        self.seats.iter_mut().filter_map(|seat| seat.waker.take()).for_each(Waker::wake);
        self.pacer.take().into_iter().for_each(Waker::wake);
    }
}

/// Gives idle workers what `take` has for one that is free since then, first come first served.
fn hand_out(
    idle: &mut VecDeque<usize>,
    seats: &mut [Seat],
    mut take: impl FnMut(u64) -> Option<Claim>,
) {
    while let Some(&worker) = idle.front() {
        let seat = &mut seats[worker];
        let Some(claim) = take(seat.free_ns.unwrap_or_default()) else { return };
        idle.pop_front();
        seat.is_waiting = false;
        seat.claim = Some(claim);
        if let Some(waker) = seat.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
