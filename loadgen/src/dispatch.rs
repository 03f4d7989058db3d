//! Which worker takes which messages, and when.
//!
//! Owns a shard's part of the load: in closed loop a worker claims its next batch when it is free;
//! in open loop what is due goes to idle workers, first come first served, and a worker that
//! becomes free takes what is due at once. Leaves the clock to the caller (`now_ns`), and carrying
//! to the worker. A batch is what is due, up to the batch size, never waited for.
//!
//! A worker that becomes free just after the end still takes what was due before it: a message that
//! is due a millisecond before the end has no less right to be sent than one in the middle, for
//! which a busy worker would have been back in time. So the end is soft by [`LATE_NS`]; a target
//! that keeps all workers for longer leaves messages unsent.
//! Invariant: every message of the part is claimed at most once and in order; what is due before
//! the end and not claimed is what [`Dispatch::unclaimed`] gives.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

use crate::hammer::{Claim, Dues};
use crate::plan::schedule::{Bounds, Constant, Part, share};

/// For so long after the end of the time, a worker that becomes free takes what was due before it:
/// the pacer's tick, and the time in which a target that keeps up answers the batches under way.
const LATE_NS: u64 = 10_000_000;

/// What there is to send.
#[derive(Debug)]
pub(crate) enum Supply {
    /// Closed loop.
    Closed(Closed),
    /// Open loop.
    Open(Open),
}

/// As fast as the workers are.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Each worker's first batch is its own, so that a small total is spread over all of them.
    first: Vec<u64>,
    /// The rest, shared by all shards: one atomic operation a batch. `None` has no end.
    rest: Option<Arc<AtomicU64>>,
    batch_size: u64,
    end_ns: u64,
}

/// By the schedule.
#[derive(Debug)]
pub(crate) struct Open {
    schedule: Constant,
    part: Part,
    /// Messages of this part within the bounds.
    count: u64,
    taken: u64,
    batch_size: u64,
    end_ns: u64,
}

/// How a closed loop's total is cut: batch size, first batches of all workers, and the rest.
///
/// A batch is at most ⌈total ÷ workers⌉, so that each worker has work.
pub(crate) fn cut(total: Option<u64>, workers: u64, batch_size: u64) -> (u64, Vec<u64>, u64) {
    let Some(total) = total else {
        let workers = usize::try_from(workers).expect("workers are tasks of this machine");
        return (batch_size, vec![0; workers], u64::MAX);
    };
    let batch_size = batch_size.min(total.div_ceil(workers)).max(1);
    let firsts = total.min(batch_size.saturating_mul(workers));
    let first = (0..workers).map(|worker| share(firsts, workers, worker)).collect();
    (batch_size, first, total - firsts)
}

impl Closed {
    pub(crate) fn new(
        first: Vec<u64>,
        rest: Option<Arc<AtomicU64>>,
        batch_size: u64,
        duration_ns: Option<u64>,
    ) -> Closed {
        Closed { first, rest, batch_size, end_ns: duration_ns.unwrap_or(u64::MAX) }
    }

    fn take(&mut self, worker: usize, now_ns: u64) -> Option<Claim> {
        let first = std::mem::take(&mut self.first[worker]);
        let count = if first > 0 { first } else { self.take_rest() };
        (count > 0).then_some(Claim { count, stage: 0, dues: Dues::Same(now_ns) })
    }

    fn take_rest(&self) -> u64 {
        let Some(rest) = &self.rest else { return self.batch_size };
        // Relaxed: the number is all that the shards share.
        let before = rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 0).then(|| left.saturating_sub(self.batch_size))
        });
        before.map_or(0, |left| left.min(self.batch_size))
    }

    fn is_exhausted(&self) -> bool {
        let is_rest_taken =
            self.rest.as_ref().is_some_and(|rest| rest.load(Ordering::Relaxed) == 0);
        is_rest_taken && self.first.iter().all(|&first| first == 0)
    }
}

impl Open {
    pub(crate) fn new(schedule: Constant, part: Part, bounds: Bounds, batch_size: u64) -> Open {
        let count = part.count_below(bounds.messages(schedule));
        let end_ns = bounds.duration_ns.unwrap_or(u64::MAX);
        Open { schedule, part, count, taken: 0, batch_size, end_ns }
    }

    /// How many of the part are due at `now_ns` or before; the end itself is not within the load.
    fn due_until(&self, now_ns: u64) -> u64 {
        let now_ns = now_ns.min(self.end_ns.saturating_sub(1));
        self.part.count_below(self.schedule.due_by(now_ns)).min(self.count)
    }

    fn take(&mut self, now_ns: u64) -> Option<Claim> {
        let count = (self.due_until(now_ns) - self.taken).min(self.batch_size);
        let first = self.taken;
        self.taken += count;
        let dues = Dues::Scheduled { schedule: self.schedule, part: self.part, first };
        (count > 0).then_some(Claim { count, stage: 0, dues })
    }
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
    pacer: Option<Waker>,
}

#[derive(Clone, Debug, Default)]
struct Seat {
    is_waiting: bool,
    claim: Option<Claim>,
    waker: Option<Waker>,
}

impl Dispatch {
    pub(crate) fn new(supply: Supply, workers: usize) -> Dispatch {
        Dispatch {
            state: RefCell::new(State {
                supply,
                ended_ns: None,
                late_until_ns: 0,
                idle: VecDeque::with_capacity(workers),
                seats: vec![Seat::default(); workers],
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
    ) -> Poll<Option<Claim>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(claim) = state.seats[worker].claim.take() {
            return Poll::Ready(Some(claim));
        }
        state.note(now_ns);
        if let Some(ended_ns) = state.ended_ns {
            return Poll::Ready(state.take_late(ended_ns, now_ns));
        }
        let claim = match &mut state.supply {
            Supply::Closed(closed) => return Poll::Ready(closed.take(worker, now_ns)),
            Supply::Open(_) if state.seats[worker].is_waiting => None,
            Supply::Open(open) => open.take(now_ns),
        };
        if claim.is_some() {
            return Poll::Ready(claim);
        }
        let seat = &mut state.seats[worker];
        seat.waker = Some(waker.clone());
        if !seat.is_waiting {
            seat.is_waiting = true;
            state.idle.push_back(worker);
            if let Some(pacer) = state.pacer.take() {
                pacer.wake();
            }
        }
        Poll::Pending
    }

    /// Gives what is due to idle workers. Returns when the next message is due, `None` once the
    /// load is over, and waits while no worker is idle: then whoever becomes free takes it.
    pub(crate) fn poll_pace(&self, now_ns: u64, waker: &Waker) -> Poll<Option<u64>> {
        let state = &mut *self.state.borrow_mut();
        state.note(now_ns);
        if state.ended_ns.is_some() {
            return Poll::Ready(None);
        }
        let Supply::Open(open) = &mut state.supply else { return Poll::Ready(None) };
        hand_out(open, &mut state.idle, &mut state.seats, now_ns);
        if state.idle.is_empty() {
            state.pacer = Some(waker.clone());
            return Poll::Pending;
        }
        let next_ns = open.schedule.due_ns(open.part.number(open.taken));
        Poll::Ready(Some(next_ns.min(open.end_ns)))
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

    /// Messages of the schedule that were due before `at_ns` and before the end; `None` in closed
    /// loop, where a message is due when it is claimed.
    pub(crate) fn due_before(&self, at_ns: u64) -> Option<u64> {
        let state = self.state.borrow();
        match &state.supply {
            Supply::Closed(_) => None,
            Supply::Open(open) => Some(match state.ended_ns {
                Some(ended_ns) if ended_ns < at_ns => open.due_until(ended_ns),
                _ => at_ns.checked_sub(1).map_or(0, |until_ns| open.due_until(until_ns)),
            }),
        }
    }

    /// The messages that were due before the load ended and that nobody took up.
    pub(crate) fn unclaimed(&self) -> Option<Claim> {
        let state = self.state.borrow();
        let ended_ns = state.ended_ns.expect("asked once the load is over");
        let Supply::Open(open) = &state.supply else { return None };
        let count = open.due_until(ended_ns) - open.taken;
        let dues = Dues::Scheduled { schedule: open.schedule, part: open.part, first: open.taken };
        (count > 0).then_some(Claim { count, stage: 0, dues })
    }
}

impl State {
    /// Looks whether the load is over.
    fn note(&mut self, now_ns: u64) {
        let (is_exhausted, end_ns) = match &self.supply {
            Supply::Closed(closed) => (closed.is_exhausted(), closed.end_ns),
            Supply::Open(open) => (open.taken == open.count, open.end_ns),
        };
        if self.ended_ns.is_none() && (is_exhausted || now_ns >= end_ns) {
            self.late_until_ns = end_ns.saturating_add(LATE_NS);
            self.end(now_ns.min(end_ns));
        }
    }

    /// What was due before the end, for a worker that becomes free just after it.
    fn take_late(&mut self, ended_ns: u64, now_ns: u64) -> Option<Claim> {
        match &mut self.supply {
            Supply::Open(open) if now_ns < self.late_until_ns => open.take(ended_ns),
            Supply::Open(_) | Supply::Closed(_) => None,
        }
    }

    /// Ends the load. What was due until then and waits only for the pacer's next tick is not
    /// late for anybody's fault but ours: idle workers take it.
    fn end(&mut self, ended_ns: u64) {
        if let Supply::Open(open) = &mut self.supply {
            hand_out(open, &mut self.idle, &mut self.seats, ended_ns);
        }
        self.ended_ns = Some(ended_ns);
        self.idle.clear();
        self.seats.iter_mut().filter_map(|seat| seat.waker.take()).for_each(Waker::wake);
        self.pacer.take().into_iter().for_each(Waker::wake);
    }
}

/// Gives idle workers what is due, first come first served.
fn hand_out(open: &mut Open, idle: &mut VecDeque<usize>, seats: &mut [Seat], now_ns: u64) {
    while let Some(&worker) = idle.front() {
        let Some(claim) = open.take(now_ns) else { return };
        idle.pop_front();
        let seat = &mut seats[worker];
        seat.is_waiting = false;
        seat.claim = Some(claim);
        if let Some(waker) = seat.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::schedule::{NANOS, Schedule};

    fn open(rate: u64, bounds: Bounds, batch_size: u64, workers: usize) -> Dispatch {
        let Schedule::Constant(schedule) = Schedule::from_rate(rate) else { panic!("closed") };
        let part = Part::new(0, 1);
        Dispatch::new(Supply::Open(Open::new(schedule, part, bounds, batch_size)), workers)
    }

    fn closed(total: Option<u64>, workers: usize, batch_size: u64) -> Dispatch {
        let (batch_size, first, rest) = cut(total, workers as u64, batch_size);
        let rest = total.map(|_| Arc::new(AtomicU64::new(rest)));
        let supply = Closed::new(first, rest, batch_size, Some(NANOS));
        Dispatch::new(Supply::Closed(supply), workers)
    }

    fn claim(dispatch: &Dispatch, worker: usize, now_ns: u64) -> Poll<Option<u64>> {
        dispatch
            .poll_claim(worker, now_ns, Waker::noop())
            .map(|claim| claim.map(|claim| claim.count))
    }

    const UNBOUNDED: Bounds = Bounds { total: None, duration_ns: None };

    #[test]
    fn a_small_total_is_spread_over_all_workers() {
        assert_eq!(cut(Some(7), 5, 100), (2, vec![2, 2, 1, 1, 1], 0));
        assert_eq!(cut(Some(1000), 5, 100), (100, vec![100; 5], 500));
        assert_eq!(cut(Some(3), 5, 100), (1, vec![1, 1, 1, 0, 0], 0));
        assert_eq!(cut(Some(0), 2, 100), (1, vec![0, 0], 0));
        assert_eq!(cut(None, 2, 100), (100, vec![0, 0], u64::MAX));
    }

    #[test]
    fn a_closed_loop_ends_by_total_or_by_time_and_leaves_nothing_unclaimed() {
        let dispatch = closed(Some(5), 2, 2);
        assert_eq!(claim(&dispatch, 0, 1), Poll::Ready(Some(2)));
        assert_eq!(claim(&dispatch, 0, 2), Poll::Ready(Some(1)));
        assert_eq!(dispatch.ended_ns(3), None, "worker 1 has its first batch still");
        assert_eq!(claim(&dispatch, 1, 4), Poll::Ready(Some(2)));
        assert_eq!(claim(&dispatch, 0, 5), Poll::Ready(None));
        assert_eq!(dispatch.ended_ns(9), Some(5));
        assert_eq!(dispatch.unclaimed(), None);

        let dispatch = closed(None, 1, 2);
        assert_eq!(claim(&dispatch, 0, NANOS - 1), Poll::Ready(Some(2)));
        assert_eq!(claim(&dispatch, 0, NANOS), Poll::Ready(None));
        assert_eq!(dispatch.unclaimed(), None);
    }

    #[test]
    fn what_is_due_goes_to_idle_workers_in_the_order_in_which_they_became_idle() {
        let dispatch = open(1000, UNBOUNDED, 2, 3);
        assert_eq!(claim(&dispatch, 2, 0), Poll::Ready(Some(1)));
        for worker in [1, 0] {
            assert_eq!(claim(&dispatch, worker, 0), Poll::Pending);
        }
        let pace = |now_ns| dispatch.poll_pace(now_ns, Waker::noop());
        assert_eq!(pace(999_999), Poll::Ready(Some(1_000_000)));
        // Three are due at 3 ms; the first idle worker takes a whole batch.
        assert_eq!(pace(3_000_000), Poll::Pending);
        assert_eq!(claim(&dispatch, 1, 3_000_000), Poll::Ready(Some(2)));
        assert_eq!(claim(&dispatch, 0, 3_000_000), Poll::Ready(Some(1)));
        // Nobody was idle since; who becomes free takes what is due.
        assert_eq!(claim(&dispatch, 2, 4_000_000), Poll::Ready(Some(1)));
    }

    #[test]
    fn at_the_end_idle_workers_take_what_waits_for_the_pacer() {
        let bounds = Bounds { total: None, duration_ns: Some(3_000_000) };
        let dispatch = open(1000, bounds, 1, 2);
        assert_eq!(claim(&dispatch, 0, 0), Poll::Ready(Some(1)));
        assert_eq!(claim(&dispatch, 0, 1), Poll::Pending);
        assert_eq!(dispatch.ended_ns(3_000_100), Some(3_000_000));
        assert_eq!(claim(&dispatch, 0, 3_000_200), Poll::Ready(Some(1)));
        // What is left, a worker takes that becomes free just after the end, and no later.
        assert_eq!(claim(&dispatch, 1, 3_000_000 + LATE_NS), Poll::Ready(None));
        assert_eq!(dispatch.unclaimed().unwrap().count, 1);
        assert_eq!(claim(&dispatch, 1, 3_000_000 + LATE_NS - 1), Poll::Ready(Some(1)));
        assert_eq!(dispatch.unclaimed(), None);
    }

    #[test]
    fn late_messages_keep_their_own_deadlines_and_the_rest_is_unclaimed() {
        let bounds = Bounds { total: None, duration_ns: Some(10_000_000) };
        let dispatch = open(1000, bounds, 4, 1);
        let Poll::Ready(Some(late)) = dispatch.poll_claim(0, 9_500_000, Waker::noop()) else {
            panic!("ten are due");
        };
        let dues: Vec<u64> = (0..late.count).map(|index| late.due_ns(index)).collect();
        assert_eq!(dues, [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(claim(&dispatch, 0, 10_000_000 + LATE_NS), Poll::Ready(None));
        let unclaimed = dispatch.unclaimed().unwrap();
        assert_eq!((unclaimed.count, unclaimed.due_ns(0)), (6, 4_000_000));
        assert_eq!(dispatch.due_before(u64::MAX), Some(10));
    }

    #[test]
    fn a_halt_leaves_what_was_due_until_then() {
        let bounds = Bounds { total: Some(100), duration_ns: None };
        let dispatch = open(1000, bounds, 1, 1);
        assert_eq!(claim(&dispatch, 0, 0), Poll::Ready(Some(1)));
        dispatch.halt(2_500_000);
        assert_eq!(claim(&dispatch, 0, 3_000_000), Poll::Ready(None));
        assert_eq!(dispatch.unclaimed().unwrap().count, 2);
        assert_eq!(dispatch.due_before(u64::MAX), Some(3));
    }

    proptest! {
        #[test]
        fn every_message_is_claimed_once_or_unclaimed(
            rate in 1u64..5000,
            total in 0u64..300,
            batch_size in 1u64..20,
            visits in prop::collection::vec((0u64..50_000_000, 0usize..4, any::<bool>()), 0..60),
        ) {
            let bounds = Bounds { total: Some(total), duration_ns: Some(NANOS) };
            let dispatch = open(rate, bounds, batch_size, 4);
            let (mut now_ns, mut claimed) = (0, 0);
            for (pause_ns, worker, is_pacer) in visits {
                now_ns += pause_ns;
                if is_pacer {
                    let _ = dispatch.poll_pace(now_ns, Waker::noop());
                }
                if let Poll::Ready(Some(claim)) =
                    dispatch.poll_claim(worker, now_ns, Waker::noop())
                {
                    prop_assert!(claim.count <= batch_size);
                    prop_assert!(claim.due_ns(claim.count - 1) <= now_ns);
                    claimed += claim.count;
                }
            }
            for worker in 0..4 {
                dispatch.halt(now_ns);
                if let Poll::Ready(Some(claim)) = dispatch.poll_claim(worker, now_ns, Waker::noop()) {
                    claimed += claim.count;
                }
            }
            let unclaimed = dispatch.unclaimed().map_or(0, |claim| claim.count);
            prop_assert_eq!(Some(claimed + unclaimed), dispatch.due_before(u64::MAX));
        }
    }
}
