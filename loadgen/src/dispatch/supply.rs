//! What there is to send, and by which deadlines: a closed loop, a schedule, a recording.
//!
//! Owns a shard's part of it, from which claims are cut. Leaves to whom they go to `dispatch`.
//! Invariant: every message is in at most one claim, in order and not before it is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::backlog::{Backlog, MISSED_NS};
use crate::hammer::claim::{Claim, Dues};
use crate::plan::schedule::stream::Stream;
use crate::plan::schedule::{Schedule, share};
use crate::plan::shape::CatchUp;
use crate::replay::feed::{Feed, Recorded, UNKNOWN_NS};

/// How often a lane looks for messages that its reader has not brought yet.
const READER_NS: u64 = 500_000;

/// Waits of messages that are not sent are told in at most so many steps at a time.
const MISSED_STEPS_MAX: u64 = 10_000;
pub(super) const UNCLAIMED_STEPS_MAX: u64 = 1_000_000;

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

impl Supply {
    /// When there is nothing more to take up, if that is so at `now_ns`.
    pub(super) fn ended_ns(&self, now_ns: u64) -> Option<u64> {
        let is_exhausted = match self {
            Supply::Closed(closed) => now_ns >= closed.measured_from_ns && closed.is_exhausted(),
            Supply::Open(open) => open.source.next_ns() == u64::MAX,
            Supply::Unpaced(unpaced) => unpaced.feed.next_ns() == u64::MAX,
        };
        let end_ns = self.end_ns();
        (is_exhausted || now_ns >= end_ns).then(|| now_ns.min(end_ns))
    }

    /// When its time is over.
    pub(super) fn end_ns(&self) -> u64 {
        match self {
            Supply::Closed(Closed { end_ns, .. }) => *end_ns,
            Supply::Open(open) => open.end_ns,
            Supply::Unpaced(unpaced) => unpaced.end_ns,
        }
    }
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

    pub(super) fn take(&mut self, worker: usize, free_ns: u64, now_ns: u64) -> Option<Claim> {
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

    /// When it is worth looking again what has been read.
    pub(super) fn next_look_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add(READER_NS).min(self.end_ns)
    }

    /// The next messages for a worker that has been free since `due_ns`; `None` if none is here.
    pub(super) fn take(&mut self, due_ns: u64, spares: &mut Spares) -> Option<Claim> {
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
        let (end_ns, backlog) = (schedule.end_ns(), Backlog::new(catch_up));
        Open { source, batch_size, end_ns, backlog, slot_ns, slot: None, gate_ns: 0 }
    }

    /// Opens the gate for what is due by now, if nobody has in this slot; what is due until then may
    /// be taken.
    pub(super) fn look(&mut self, now_ns: u64) -> u64 {
        let slot = Some(now_ns / self.slot_ns);
        if self.slot != slot {
            (self.slot, self.gate_ns) = (slot, now_ns);
        }
        self.gate_ns
    }

    /// When it is worth looking again: the gate may be opened, or the time is over.
    pub(super) fn next_look_ns(&self, now_ns: u64) -> u64 {
        self.opens_ns(now_ns).min(self.end_ns)
    }

    fn opens_ns(&self, now_ns: u64) -> u64 {
        let due_ns = self.source.next_ns();
        if due_ns == UNKNOWN_NS {
            return now_ns.saturating_add(READER_NS);
        }
        let next_slot_ns = self.slot.map_or(0, |slot| (slot + 1).saturating_mul(self.slot_ns));
        self.backlog.released_ns(due_ns).max(next_slot_ns)
    }

    /// Lets go of what is too late to be sent, as far as it is due before `end_ns`.
    pub(super) fn miss(&mut self, end_ns: u64, now_ns: u64, missed: Missed<'_>) {
        let too_late_ns = now_ns.saturating_sub(MISSED_NS).min(end_ns);
        self.source.pull();
        if matches!(self.backlog, Backlog::Never) && self.source.next_ns() < too_late_ns {
            self.source.drain(too_late_ns, MISSED_STEPS_MAX, missed);
        }
    }

    /// Takes what is due until `until_ns`, and may go at `now_ns`.
    pub(super) fn take(
        &mut self,
        until_ns: u64,
        now_ns: u64,
        spares: &mut Spares,
    ) -> Option<Claim> {
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

    /// Messages of a stage that were due before `at_ns`, the end, and the end of the load if it has
    /// ended.
    pub(super) fn due_in(&mut self, stage: usize, at_ns: u64, ended_ns: Option<u64>) -> u64 {
        self.source.due_in(stage, at_ns.min(self.unclaimed_until_ns(ended_ns.unwrap_or(u64::MAX))))
    }

    /// The load has ended: a reader need not bring more.
    pub(super) fn end(&self, ended_ns: u64) {
        if let Source::Recorded(feed) = &self.source {
            feed.end(ended_ns.saturating_add(1));
        }
    }

    /// Tells what was due before the load ended and is in no claim, once each; whether that was all
    /// of it. If not, some of a recording has still to be read.
    pub(super) fn drain_unclaimed(&mut self, ended_ns: u64, missed: Missed<'_>) -> bool {
        let end_ns = self.unclaimed_until_ns(ended_ns);
        self.source.pull();
        self.source.drain(end_ns, UNCLAIMED_STEPS_MAX, missed);
        match &self.source {
            Source::Planned(_) => true,
            Source::Recorded(feed) => feed.knows_until(end_ns),
        }
    }

    fn unclaimed_until_ns(&self, ended_ns: u64) -> u64 {
        ended_ns.saturating_add(1).min(self.end_ns)
    }
}

/// What is in no claim, to be used again.
#[derive(Debug)]
pub(super) struct Spares {
    dues: Vec<Vec<u64>>,
    #[expect(clippy::vec_box, reason = "they go into claims, which are moved a lot")]
    recorded: Vec<Box<Recorded>>,
}

impl Spares {
    pub(super) fn new(claims: usize) -> Spares {
        Spares { dues: Vec::with_capacity(claims), recorded: Vec::new() }
    }

    /// A claim that is settled: its memory serves the next one.
    pub(super) fn give_back(&mut self, claim: Claim) {
        if let Dues::Each(mut dues) = claim.dues {
            dues.clear();
            self.dues.push(dues);
        }
        self.recorded.extend(claim.recorded.and_then(Recorded::emptied));
    }

    fn recorded(&mut self) -> Box<Recorded> {
        self.recorded.pop().unwrap_or_default()
    }
}
