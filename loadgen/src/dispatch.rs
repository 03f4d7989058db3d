//! Which worker takes which messages, and when.
//!
//! Owns a shard's part of the load, planned or recorded: in closed loop a worker claims its next
//! batch when it is free;
//! in open loop what is due goes to idle workers, first come first served, and a worker that
//! becomes free takes what is late. Leaves the clock to the caller (`now_ns`), and carrying to the
//! worker. A batch is what is due, up to the batch size.
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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

use crate::hammer::claim::{Claim, Dues};
use crate::plan::schedule::stream::Stream;
use crate::plan::schedule::{Schedule, share};
use crate::plan::shape::CatchUp;
use crate::replay::feed::{Feed, Recorded, UNKNOWN_NS};

/// For so long after the end of the time, a worker that becomes free takes what was due before it:
/// the pacer's tick, and the time in which a target that keeps up answers the batches under way.
const LATE_NS: u64 = 10_000_000;
/// A message is late when it was due so long ago: two ticks of a millisecond, one to wait for and
/// one to oversleep.
const MISSED_NS: u64 = 2_000_000;
/// Waits of messages that are not sent are told in at most so many steps at a time.
const MISSED_STEPS_MAX: u64 = 10_000;
const UNCLAIMED_STEPS_MAX: u64 = 1_000_000;

/// How often a lane looks for messages that its reader has not brought yet.
const READER_NS: u64 = 500_000;

/// Told of messages that will not be sent: stage, deadline, how many.
pub(crate) type Missed<'a> = &'a mut dyn FnMut(usize, u64, u64);

/// What there is to send.
#[derive(Debug)]
pub(crate) enum Supply {
    /// Closed loop.
    Closed(Closed),
    /// Open loop.
    Open(Box<Open>),
    /// Closed loop over a recording.
    Unpaced(Box<Unpaced>),
}

/// As fast as the workers are.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Each worker's first batch is its own, so that a small total is spread over all of them.
    first: Vec<u64>,
    /// The rest, shared by all shards: one atomic operation a batch. `None` has no end.
    rest: Option<Arc<AtomicU64>>,
    batch_size: u64,
    /// What is claimed before counts as warm-up, and not for the total.
    measured_from_ns: u64,
    /// The stage behind the warm-up.
    measured_stage: usize,
    end_ns: u64,
}

/// A recording as fast as the workers are.
#[derive(Debug)]
pub(crate) struct Unpaced {
    feed: Feed,
    stage: usize,
    batch_size: u64,
    end_ns: u64,
}

/// Where deadlines come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Computed.
    Planned(Stream),
    /// Read, and the messages with them.
    Recorded(Feed),
}

/// By deadlines.
#[derive(Debug)]
pub(crate) struct Open {
    source: Source,
    batch_size: u64,
    end_ns: u64,
    backlog: Backlog,
    slot_ns: u64,
    /// The latest slot in which somebody looked.
    slot: Option<u64>,
    /// What is due until then may be taken.
    gate_ns: u64,
}

/// How late messages are let go.
#[derive(Clone, Copy, Debug)]
enum Backlog {
    Asap,
    Never,
    /// What was due `since_ns` and later goes from `from_ns` on, as fast as it was due times
    /// `thousandths` ÷ 1000.
    Limited {
        thousandths: u32,
        from_ns: u64,
        since_ns: u64,
    },
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
        schedule: &Schedule,
        first: Vec<u64>,
        rest: Option<Arc<AtomicU64>>,
        batch_size: u64,
    ) -> Closed {
        let measured = schedule.stages().iter().position(|stage| stage.is_measured);
        Closed {
            first,
            rest,
            batch_size,
            measured_from_ns: schedule.measured_from_ns(),
            measured_stage: measured.expect("something is measured"),
            end_ns: schedule.end_ns(),
        }
    }

    fn take(&mut self, worker: usize, free_ns: u64, now_ns: u64) -> Option<Claim> {
        let (stage, count) = if now_ns < self.measured_from_ns {
            (0, self.batch_size)
        } else {
            let first = std::mem::take(&mut self.first[worker]);
            (self.measured_stage, if first > 0 { first } else { self.take_rest() })
        };
        let dues = Dues::Same(now_ns);
        let claim = Claim { count, stage, dues, recorded: None, free_ns, claimed_ns: now_ns };
        (count > 0).then_some(claim)
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

impl Unpaced {
    pub(crate) fn new(feed: Feed, stage: usize, batch_size: u64, end_ns: u64) -> Unpaced {
        Unpaced { feed, stage, batch_size, end_ns }
    }

    /// The next messages for a worker that has been free since `due_ns`; `None` if none is here.
    fn take(&mut self, due_ns: u64, spares: &mut Spares) -> Option<Claim> {
        self.feed.pull_one();
        let mut recorded = spares.recorded();
        let count = self.feed.take_next(self.batch_size, &mut recorded);
        if count == 0 {
            spares.recorded.push(recorded);
            return None;
        }
        let (dues, recorded) = (Dues::Same(due_ns), Some(recorded));
        Some(Claim { count, stage: self.stage, dues, recorded, free_ns: 0, claimed_ns: 0 })
    }
}

impl Source {
    /// Takes in what has been read.
    fn pull(&mut self) {
        match self {
            Source::Planned(_) => {}
            Source::Recorded(feed) => feed.pull(),
        }
    }

    /// When the next message is due, `u64::MAX` when there is none left; one that has not been read
    /// yet is due at [`UNKNOWN_NS`].
    fn next_ns(&self) -> u64 {
        match self {
            Source::Planned(stream) => stream.next_ns(),
            Source::Recorded(feed) => feed.next_ns(),
        }
    }

    fn drain(&mut self, end_ns: u64, steps_max: u64, missed: Missed<'_>) {
        match self {
            Source::Planned(stream) => stream.drain(end_ns, steps_max, missed),
            Source::Recorded(feed) => feed.drain(end_ns, missed),
        }
    }

    fn due_in(&mut self, stage: usize, end_ns: u64) -> u64 {
        match self {
            Source::Planned(stream) => stream.due_in(stage, end_ns),
            Source::Recorded(feed) => feed.due_in(stage, end_ns),
        }
    }
}

impl Open {
    /// Hands `source` out, `batch_size` messages at a time at most, once in `slot_ns`.
    pub(crate) fn new(
        schedule: &Schedule,
        source: Source,
        catch_up: CatchUp,
        slot_ns: u64,
        batch_size: u64,
    ) -> Open {
        let backlog = match catch_up {
            CatchUp::Asap => Backlog::Asap,
            CatchUp::None => Backlog::Never,
            CatchUp::Limited { thousandths } => {
                Backlog::Limited { thousandths, from_ns: 0, since_ns: 0 }
            }
        };
        let end_ns = schedule.end_ns();
        Open { source, batch_size, end_ns, backlog, slot_ns, slot: None, gate_ns: 0 }
    }

    /// Opens the gate for what is due by now, if nobody has in this slot.
    fn look(&mut self, now_ns: u64) {
        let slot = Some(now_ns / self.slot_ns);
        if self.slot != slot {
            (self.slot, self.gate_ns) = (slot, now_ns);
        }
    }

    /// When the gate may be opened next.
    fn opens_ns(&self, now_ns: u64) -> u64 {
        let due_ns = self.source.next_ns();
        if due_ns == UNKNOWN_NS {
            return now_ns.saturating_add(READER_NS);
        }
        let next_slot_ns = self.slot.map_or(0, |slot| (slot + 1).saturating_mul(self.slot_ns));
        self.backlog.released_ns(due_ns).max(next_slot_ns)
    }

    /// Lets go of what is too late to be sent, as far as it is due before `end_ns`.
    fn miss(&mut self, end_ns: u64, now_ns: u64, missed: Missed<'_>) {
        let too_late_ns = now_ns.saturating_sub(MISSED_NS).min(end_ns);
        self.source.pull();
        if matches!(self.backlog, Backlog::Never) && self.source.next_ns() < too_late_ns {
            self.source.drain(too_late_ns, MISSED_STEPS_MAX, missed);
        }
    }

    /// Takes what is due until `until_ns`, and may go at `now_ns`.
    fn take(&mut self, until_ns: u64, now_ns: u64, spares: &mut Spares) -> Option<Claim> {
        let next_ns = self.source.next_ns();
        self.backlog.note(next_ns, now_ns);
        let until_ns =
            until_ns.min(self.backlog.horizon_ns(now_ns)).min(self.end_ns.saturating_sub(1));
        let is_too_late =
            matches!(self.backlog, Backlog::Never) && next_ns.saturating_add(MISSED_NS) < now_ns;
        if next_ns > until_ns || is_too_late {
            return None;
        }
        let mut dues = spares.dues.pop().unwrap_or_default();
        let (stage, recorded) = match &mut self.source {
            Source::Planned(stream) => (stream.take(until_ns, self.batch_size, &mut dues), None),
            Source::Recorded(feed) => {
                let mut recorded = spares.recorded();
                let stage = feed.take(until_ns, self.batch_size, &mut dues, &mut recorded);
                (stage, Some(recorded))
            }
        };
        let (count, dues) = (dues.len() as u64, Dues::Each(dues));
        Some(Claim { count, stage, dues, recorded, free_ns: 0, claimed_ns: 0 })
    }
}

impl Backlog {
    /// What was due until then may go at `now_ns`.
    fn horizon_ns(self, now_ns: u64) -> u64 {
        let Backlog::Limited { thousandths, from_ns, since_ns } = self else { return now_ns };
        let passed = u128::from(now_ns.saturating_sub(from_ns)) * u128::from(thousandths) / 1000;
        now_ns.min(since_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// When what is due at `due_ns` may go, the inverse of [`Self::horizon_ns`].
    fn released_ns(self, due_ns: u64) -> u64 {
        let Backlog::Limited { thousandths, from_ns, since_ns } = self else { return due_ns };
        let behind = u128::from(due_ns.saturating_sub(since_ns)) * 1000;
        let behind = behind.div_ceil(u128::from(thousandths));
        due_ns.max(from_ns.saturating_add(u64::try_from(behind).unwrap_or(u64::MAX)))
    }

    /// A message that could have gone a while ago shows that workers were missing: from now on the
    /// backlog goes at its rate again, and what was released in the meantime is not a burst.
    fn note(&mut self, next_ns: u64, now_ns: u64) {
        let released_ns = self.released_ns(next_ns);
        if let Backlog::Limited { from_ns, since_ns, .. } = self
            && released_ns.saturating_add(MISSED_NS) < now_ns
        {
            (*from_ns, *since_ns) = (now_ns, next_ns);
        }
    }
}

/// What is in no claim, to be used again.
#[derive(Debug, Default)]
struct Spares {
    dues: Vec<Vec<u64>>,
    #[expect(clippy::vec_box, reason = "they go into claims, which are moved a lot")]
    recorded: Vec<Box<Recorded>>,
}

impl Spares {
    fn recorded(&mut self) -> Box<Recorded> {
        self.recorded.pop().unwrap_or_default()
    }
}

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
                spares: Spares { dues: Vec::with_capacity(workers), recorded: Vec::new() },
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
                open.look(now_ns);
                open.take(open.gate_ns, now_ns, &mut state.spares)
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
        let spares = &mut self.state.borrow_mut().spares;
        if let Dues::Each(mut dues) = claim.dues {
            dues.clear();
            spares.dues.push(dues);
        }
        spares.recorded.extend(claim.recorded.and_then(Recorded::emptied));
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
                open.look(now_ns);
                let gate_ns = open.gate_ns;
                hand_out(idle, seats, |_| open.take(gate_ns, now_ns, spares));
                open.opens_ns(now_ns).min(open.end_ns)
            }
            Supply::Unpaced(unpaced) => {
                // Idle workers wait for the reader; what it brings was due when they came free.
                hand_out(idle, seats, |free_ns| unpaced.take(free_ns, spares));
                now_ns.saturating_add(READER_NS).min(unpaced.end_ns)
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
        let ended_ns = state.ended_ns.unwrap_or(u64::MAX);
        let Supply::Open(open) = &mut state.supply else { return None };
        Some(open.source.due_in(stage, at_ns.min(ended_ns.saturating_add(1)).min(open.end_ns)))
    }

    /// Tells the messages that were due before the load ended and that nobody took up, once each;
    /// whether that was all of them. If not, some of a recording have still to be read.
    #[must_use]
    pub(crate) fn drain_unclaimed(&self, missed: Missed<'_>) -> bool {
        let state = &mut *self.state.borrow_mut();
        let ended_ns = state.ended_ns.expect("asked once the load is over");
        let Supply::Open(open) = &mut state.supply else { return true };
        let end_ns = ended_ns.saturating_add(1).min(open.end_ns);
        open.source.pull();
        open.source.drain(end_ns, UNCLAIMED_STEPS_MAX, missed);
        match &open.source {
            Source::Planned(_) => true,
            Source::Recorded(feed) => feed.knows_until(end_ns),
        }
    }
}

impl State {
    /// Looks whether the load is over.
    fn note(&mut self, now_ns: u64) {
        let (is_exhausted, end_ns) = match &self.supply {
            Supply::Closed(closed) => {
                (now_ns >= closed.measured_from_ns && closed.is_exhausted(), closed.end_ns)
            }
            Supply::Open(open) => (open.source.next_ns() == u64::MAX, open.end_ns),
            Supply::Unpaced(unpaced) => (unpaced.feed.next_ns() == u64::MAX, unpaced.end_ns),
        };
        if self.ended_ns.is_none() && (is_exhausted || now_ns >= end_ns) {
            self.late_until_ns = end_ns.saturating_add(LATE_NS);
            self.end(now_ns.min(end_ns));
        }
    }

    /// Ends the load. What was due until then and waits only for the pacer's next tick is not
    /// late for anybody's fault but ours: idle workers take it.
    fn end(&mut self, ended_ns: u64) {
        let State { supply, idle, seats, spares, .. } = self;
        if let Supply::Open(open) = supply {
            hand_out(idle, seats, |_| open.take(ended_ns, ended_ns, spares));
            if let Source::Recorded(feed) = &open.source {
                feed.end(ended_ns.saturating_add(1));
            }
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use std::time::Duration;

    use crate::plan::schedule::{Bounds, NANOS, Part};
    use crate::plan::shape::Arrivals;

    const SLOT_NS: u64 = 1_000_000;

    struct Rig {
        dispatch: Dispatch,
        stages: usize,
        missed: Vec<(usize, u64, u64)>,
    }

    impl Rig {
        fn open(shape: &str, bounds: Bounds, batch_size: u64, workers: usize) -> Rig {
            Rig::late(shape, bounds, batch_size, workers, CatchUp::Asap)
        }

        fn late(
            shape: &str,
            bounds: Bounds,
            batch_size: u64,
            workers: usize,
            catch_up: CatchUp,
        ) -> Rig {
            Rig::of(schedule(shape, Arrivals::Even, 0, bounds), batch_size, workers, catch_up)
        }

        fn of(schedule: Arc<Schedule>, batch_size: u64, workers: usize, catch_up: CatchUp) -> Rig {
            let stream = Stream::new(Arc::clone(&schedule), Part::new(0, 1), 1);
            let source = Source::Planned(stream);
            let open = Open::new(&schedule, source, catch_up, SLOT_NS, batch_size);
            let dispatch = Dispatch::new(Supply::Open(Box::new(open)), workers);
            Rig { dispatch, stages: schedule.stages().len(), missed: Vec::new() }
        }

        fn closed(total: Option<u64>, workers: usize, batch_size: u64, warm_up_secs: u64) -> Rig {
            let bounds = Bounds { total, duration_ns: Some(NANOS) };
            let schedule = schedule("closed", Arrivals::Even, warm_up_secs, bounds);
            let (batch_size, first, rest) = cut(total, workers as u64, batch_size);
            let rest = total.map(|_| Arc::new(AtomicU64::new(rest)));
            let supply = Closed::new(&schedule, first, rest, batch_size);
            let dispatch = Dispatch::new(Supply::Closed(supply), workers);
            Rig { dispatch, stages: schedule.stages().len(), missed: Vec::new() }
        }

        fn take(&mut self, worker: usize, now_ns: u64) -> Poll<Option<Claim>> {
            let missed = &mut self.missed;
            let mut missed = |stage, due_ns, n| missed.push((stage, due_ns, n));
            self.dispatch.poll_claim(worker, now_ns, Waker::noop(), &mut missed)
        }

        fn claim(&mut self, worker: usize, now_ns: u64) -> Poll<Option<u64>> {
            self.take(worker, now_ns).map(|claim| claim.map(|claim| claim.count))
        }

        fn pace(&mut self, now_ns: u64) -> Poll<Option<u64>> {
            let missed = &mut self.missed;
            let mut missed = |stage, due_ns, n| missed.push((stage, due_ns, n));
            self.dispatch
                .poll_pace(now_ns, Waker::noop(), &mut missed)
                .map(|look| look.map(|look| look.at_ns))
        }

        fn unclaimed(&self) -> Vec<(usize, u64, u64)> {
            let mut unclaimed = Vec::new();
            let mut tell = |stage, due_ns, n| unclaimed.push((stage, due_ns, n));
            assert!(self.dispatch.drain_unclaimed(&mut tell));
            unclaimed
        }

        fn offered(&self) -> u64 {
            (0..self.stages).map(|stage| self.dispatch.due_in(stage, u64::MAX).unwrap()).sum()
        }
    }

    fn schedule(
        shape: &str,
        arrivals: Arrivals,
        warm_up_secs: u64,
        bounds: Bounds,
    ) -> Arc<Schedule> {
        let warm_up = Duration::from_secs(warm_up_secs);
        Arc::new(Schedule::new(&shape.parse().unwrap(), arrivals, warm_up, bounds, "main"))
    }

    fn dues(claim: Poll<Option<Claim>>) -> Vec<u64> {
        match claim {
            Poll::Ready(Some(Claim { dues: Dues::Each(dues), .. })) => dues,
            other => panic!("{other:?}"),
        }
    }

    fn count(messages: &[(usize, u64, u64)]) -> u64 {
        messages.iter().map(|(_, _, n)| n).sum()
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
        let mut rig = Rig::closed(Some(5), 2, 2, 0);
        assert_eq!(rig.claim(0, 1), Poll::Ready(Some(2)));
        assert_eq!(rig.claim(0, 2), Poll::Ready(Some(1)));
        assert_eq!(rig.dispatch.ended_ns(3), None, "worker 1 has its first batch still");
        assert_eq!(rig.claim(1, 4), Poll::Ready(Some(2)));
        assert_eq!(rig.claim(0, 5), Poll::Ready(None));
        assert_eq!(rig.dispatch.ended_ns(9), Some(5));
        assert_eq!(rig.unclaimed(), []);

        let mut rig = Rig::closed(None, 1, 2, 0);
        assert_eq!(rig.claim(0, NANOS - 1), Poll::Ready(Some(2)));
        assert_eq!(rig.claim(0, NANOS), Poll::Ready(None));
        assert_eq!(rig.unclaimed(), []);
    }

    #[test]
    fn the_warm_up_of_a_closed_loop_does_not_draw_from_the_total() {
        let mut rig = Rig::closed(Some(3), 1, 2, 2);
        let stage = |claim: Poll<Option<Claim>>| match claim {
            Poll::Ready(Some(claim)) => (claim.stage, claim.count),
            other => panic!("{other:?}"),
        };
        for now_ns in [0, NANOS, 2 * NANOS - 1] {
            assert_eq!(stage(rig.take(0, now_ns)), (0, 2));
        }
        assert_eq!(stage(rig.take(0, 2 * NANOS)), (1, 2));
        assert_eq!(stage(rig.take(0, 2 * NANOS + 1)), (1, 1));
        assert_eq!(rig.claim(0, 2 * NANOS + 2), Poll::Ready(None));
        // The duration, too, begins behind the warm-up.
        let mut rig = Rig::closed(None, 1, 2, 2);
        assert_eq!(stage(rig.take(0, 3 * NANOS - 1)), (1, 2));
        assert_eq!(rig.claim(0, 3 * NANOS), Poll::Ready(None));
    }

    #[test]
    fn what_is_due_goes_to_idle_workers_in_the_order_in_which_they_became_idle() {
        let mut rig = Rig::open("constant 1k", UNBOUNDED, 2, 3);
        assert_eq!(rig.claim(2, 0), Poll::Ready(Some(1)));
        for worker in [1, 0] {
            assert_eq!(rig.claim(worker, 0), Poll::Pending);
        }
        assert_eq!(rig.pace(999_999), Poll::Ready(Some(1_000_000)));
        // Three are due at 3 ms; the first idle worker takes a whole batch.
        assert_eq!(rig.pace(3_000_000), Poll::Pending);
        assert_eq!(rig.claim(1, 3_000_000), Poll::Ready(Some(2)));
        assert_eq!(rig.claim(0, 3_000_000), Poll::Ready(Some(1)));
        // Nobody was idle since; who becomes free takes what is due.
        assert_eq!(rig.claim(2, 4_000_000), Poll::Ready(Some(1)));
    }

    #[test]
    fn what_becomes_due_is_handed_out_once_in_a_slot() {
        let mut rig = Rig::open("constant 10k", UNBOUNDED, 5, 3);
        assert_eq!(rig.claim(0, 100), Poll::Ready(Some(1)));
        assert_eq!(rig.claim(1, 150_000), Poll::Pending, "the slot has been looked at");
        assert_eq!(rig.pace(160_000), Poll::Ready(Some(SLOT_NS)));
        // The pacer oversleeps a little; twelve are due by then, five for each of two workers.
        assert_eq!(rig.pace(1_250_000), Poll::Pending);
        assert_eq!(rig.claim(1, 1_250_000), Poll::Ready(Some(5)));
        assert_eq!(rig.claim(0, 1_300_000), Poll::Ready(Some(5)));
        // Who becomes free within the slot takes what was left of it, and no more.
        assert_eq!(dues(rig.take(2, 1_900_000)), [1_100_000, 1_200_000]);
        assert_eq!(rig.claim(1, 1_950_000), Poll::Pending);
        assert_eq!(rig.pace(1_950_000), Poll::Ready(Some(2 * SLOT_NS)));
    }

    #[test]
    fn a_claim_says_since_when_its_worker_was_free_and_when_it_came() {
        let mut rig = Rig::open("constant 1k", UNBOUNDED, 2, 1);
        let times = |claim: Poll<Option<Claim>>| match claim {
            Poll::Ready(Some(claim)) => (claim.free_ns, claim.claimed_ns),
            other => panic!("{other:?}"),
        };
        assert_eq!(times(rig.take(0, 50)), (0, 50), "it was never away");
        assert_eq!(rig.claim(0, 400_000), Poll::Pending);
        assert_eq!(rig.pace(1_000_100), Poll::Pending);
        assert_eq!(times(rig.take(0, 1_000_300)), (400_000, 1_000_300));
        assert_eq!(times(rig.take(0, 2_500_000)), (2_500_000, 2_500_000));
    }

    #[test]
    fn at_the_end_idle_workers_take_what_waits_for_the_pacer() {
        let bounds = Bounds { total: None, duration_ns: Some(3_000_000) };
        let mut rig = Rig::open("constant 1k", bounds, 1, 2);
        assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
        assert_eq!(rig.claim(0, 1), Poll::Pending);
        assert_eq!(rig.dispatch.ended_ns(3_000_100), Some(3_000_000));
        assert_eq!(rig.claim(0, 3_000_200), Poll::Ready(Some(1)));
        // What is left, a worker takes that becomes free just after the end, and no later.
        assert_eq!(rig.claim(1, 3_000_000 + LATE_NS), Poll::Ready(None));
        assert_eq!(rig.claim(1, 3_000_000 + LATE_NS - 1), Poll::Ready(Some(1)));
        assert_eq!(rig.unclaimed(), []);
    }

    #[test]
    fn late_messages_keep_their_own_deadlines_and_the_rest_is_unclaimed() {
        let bounds = Bounds { total: None, duration_ns: Some(10_000_000) };
        let mut rig = Rig::open("constant 1k", bounds, 4, 1);
        assert_eq!(dues(rig.take(0, 9_500_000)), [0, 1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(rig.claim(0, 10_000_000 + LATE_NS), Poll::Ready(None));
        let unclaimed: Vec<_> = (4..10).map(|n| (0, n * 1_000_000, 1)).collect();
        assert_eq!(rig.unclaimed(), unclaimed);
        assert_eq!(rig.offered(), 10);
    }

    #[test]
    fn a_halt_leaves_what_was_due_until_then() {
        let bounds = Bounds { total: Some(100), duration_ns: None };
        let mut rig = Rig::open("constant 1k", bounds, 1, 1);
        assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
        rig.dispatch.halt(2_500_000);
        assert_eq!(rig.claim(0, 3_000_000), Poll::Ready(None));
        assert_eq!(count(&rig.unclaimed()), 2);
        assert_eq!(rig.offered(), 3);
    }

    #[test]
    fn a_claim_never_straddles_two_stages() {
        let mut rig = Rig::open("stages 2ms@2k,2ms@4k", UNBOUNDED, 100, 1);
        let mut stages = Vec::new();
        while let Poll::Ready(Some(claim)) = rig.take(0, 3_999_999) {
            stages.push((claim.stage, claim.count));
        }
        assert_eq!(stages, [(0, 4), (1, 8)]);
    }

    #[test]
    fn without_catching_up_what_is_late_is_missed_and_the_rest_goes_on_time() {
        let bounds = Bounds { total: None, duration_ns: Some(NANOS) };
        let mut rig = Rig::late("constant 1k", bounds, 4, 1, CatchUp::None);
        assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
        // The target stalls for half a second.
        assert_eq!(dues(rig.take(0, 500_000_000)), [498_000_000, 499_000_000, 500_000_000]);
        assert_eq!(count(&rig.missed), 497);
        assert_eq!(rig.missed.first(), Some(&(0, 1_000_000, 1)));
        assert_eq!(rig.missed.last(), Some(&(0, 497_000_000, 1)));
        // At the end, too.
        assert_eq!(dues(rig.take(0, NANOS + 500_000)), [999_000_000]);
        assert_eq!(rig.claim(0, NANOS + LATE_NS), Poll::Ready(None));
        assert_eq!(count(&rig.missed) + count(&rig.unclaimed()) + 4 + 1, 1000);
    }

    #[test]
    fn a_limited_backlog_goes_at_its_own_rate_and_is_then_on_time_again() {
        let limit = CatchUp::Limited { thousandths: 1250 };
        let mut rig = Rig::late("constant 1k", UNBOUNDED, 100, 1, limit);
        assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
        // Nobody is there for 100 ms: then 125 messages may go in 100 ms, not 200 at once, and
        // after 500 ms there is nothing late any more.
        let (mut now_ns, mut sent) = (100_000_000, Vec::new());
        while now_ns < 800_000_000 {
            if let Poll::Ready(Some(claim)) = rig.take(0, now_ns) {
                sent.extend(dues(Poll::Ready(Some(claim))).into_iter().map(|due| (now_ns, due)));
            } else if let Poll::Ready(Some(next_ns)) = rig.pace(now_ns) {
                assert!(next_ns > now_ns);
                now_ns = next_ns;
            }
        }
        for window_ns in [10_000_000, 100_000_000] {
            for from_ns in (100_000_000..500_000_000).step_by(7_000_000) {
                let within =
                    |(at_ns, _): &&(u64, u64)| (from_ns..from_ns + window_ns).contains(at_ns);
                let count = sent.iter().filter(within).count() as u64;
                let allowed = window_ns / 800_000 + 2;
                assert!(count <= allowed, "{count} in {window_ns} ns from {from_ns}");
            }
        }
        let late_ns = |(at_ns, due_ns): &(u64, u64)| at_ns - due_ns;
        assert!(sent.iter().filter(|(at, _)| *at > 502_000_000).all(|it| late_ns(it) <= 1_000_000));
        assert!(sent.iter().filter(|(at, _)| *at < 480_000_000).all(|it| late_ns(it) > 1_000_000));
        assert_eq!(sent.iter().map(|(_, due)| *due).collect::<Vec<_>>(), {
            (1..=sent.len() as u64).map(|n| n * 1_000_000).collect::<Vec<_>>()
        });
    }

    #[test]
    fn a_limited_backlog_does_not_save_up_what_nobody_took() {
        let limit = CatchUp::Limited { thousandths: 2000 };
        let mut rig = Rig::late("constant 1k", UNBOUNDED, 1000, 1, limit);
        assert_eq!(rig.claim(0, 100_000_000), Poll::Ready(Some(1)));
        // Nobody comes for another 50 ms, in which 100 would have been let go.
        assert_eq!(rig.claim(0, 150_000_000), Poll::Ready(Some(1)));
    }

    #[test]
    fn a_thousand_million_unclaimed_messages_are_told_at_once() {
        let bounds = Bounds { total: None, duration_ns: Some(NANOS) };
        let mut rig = Rig::open("constant 1G", bounds, 1, 1);
        assert_eq!(rig.dispatch.ended_ns(NANOS), Some(NANOS));
        assert_eq!(rig.claim(0, 3 * NANOS), Poll::Ready(None));
        let unclaimed = rig.unclaimed();
        assert_eq!(count(&unclaimed), NANOS);
        assert!(unclaimed.len() as u64 <= UNCLAIMED_STEPS_MAX);
        // Each step has the deadline of its last message, so waits are lower bounds.
        assert_eq!(unclaimed.first().map(|(_, due_ns, n)| n - due_ns), Some(1));
        assert_eq!(unclaimed.last().map(|(_, due_ns, _)| *due_ns), Some(NANOS - 1));
    }

    proptest! {
        #[test]
        fn every_message_is_claimed_once_or_missed_or_unclaimed(
            shape in prop::sample::select(vec![
                "constant 997",
                "constant 5k",
                "stages 100ms:1k,50ms:300,50ms@0,100ms:2k",
                "burst rate=5k,for=10ms,every=100ms,base=333",
                "wave mean=900,swing=900,every=77ms,start=low",
            ]),
            is_poisson in any::<bool>(),
            catch_up in prop::sample::select(vec![
                CatchUp::Asap, CatchUp::None, CatchUp::Limited { thousandths: 1200 },
            ]),
            total in prop::option::of(0u64..300),
            batch_size in 1u64..20,
            visits in prop::collection::vec((0u64..50_000_000, 0usize..4, any::<bool>()), 0..60),
        ) {
            let arrivals = if is_poisson { Arrivals::Poisson } else { Arrivals::Even };
            let bounds = Bounds { total, duration_ns: Some(NANOS) };
            let schedule = schedule(shape, arrivals, 0, bounds);
            let mut rig = Rig::of(schedule, batch_size, 4, catch_up);
            let (mut now_ns, mut claimed) = (0, 0);
            let mut last_due_ns = 0;
            for (pause_ns, worker, is_pacer) in visits {
                now_ns += pause_ns;
                if is_pacer {
                    let _ = rig.pace(now_ns);
                }
                if let Poll::Ready(Some(claim)) = rig.take(worker, now_ns) {
                    let Dues::Each(dues) = &claim.dues else { panic!("open loop") };
                    prop_assert!(claim.count <= batch_size && claim.count == dues.len() as u64);
                    prop_assert!(dues.is_sorted() && dues.iter().all(|&due_ns| due_ns <= now_ns));
                    last_due_ns = last_due_ns.max(dues[0]);
                    claimed += claim.count;
                    rig.dispatch.give_back(claim);
                }
            }
            for worker in 0..4 {
                rig.dispatch.halt(now_ns);
                if let Poll::Ready(Some(claim)) = rig.take(worker, now_ns) {
                    claimed += claim.count;
                }
            }
            let lost = count(&rig.missed) + count(&rig.unclaimed());
            prop_assert_eq!(claimed + lost, rig.offered());
        }
    }
}
