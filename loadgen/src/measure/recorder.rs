//! One shard's counts and latencies of one flow, stage by stage.
//!
//! Owns the cumulative [`Tally`] of each stage, and the histograms of response (done − due), service
//! (done − sent) and lag (sent − due) of the *interval that is running*, in nanoseconds with three
//! significant digits. A closed interval is moved to the coordinator, which is the only one that
//! merges ([`super::progress`]): histograms are added, never averaged. Leaves clocks to the caller
//! and percentiles to [`super::summary`].
//!
//! ```text
//! claim of stage s ──> stage(s): one look-up for a run of messages ──> plain additions
//! each second: { tally of s (cumulative), latencies of s (moved) } for each s that was touched
//! ```
//!
//! Invariant, for each stage: `sent = ok + filtered + error + unanswered + unacknowledged +
//! malformed.rejected + in_flight`; and every settled message is in `response` of exactly one interval
//! (but for those of a protocol without replies): answered ones by their value, failed, unanswered and
//! unsent ones *censored*, as "at least t". The recording path takes no lock, and allocates nothing
//! unless more than [`BLANKS`] stages begin within one interval.

use super::latencies::Latencies;
use super::tally::{Answer, Causes, Counts, LineSizes, StepTally, Tally, add_code, add_pair, code};

/// Empty histograms that are kept ready for stages that begin within an interval: at a boundary
/// there are two or three.
const BLANKS: usize = 3;

/// What a shard records into.
#[derive(Debug)]
pub struct Recorder {
    slots: Vec<Slot>,
    /// Of journeys: each step in the measured stages, since the start.
    steps: Vec<StepTally>,
    /// The stages that are in no figure.
    warmups: Vec<bool>,
    /// All empty.
    blanks: Vec<Latencies>,
}

#[derive(Debug, Default)]
struct Slot {
    tally: Tally,
    /// Of the running interval, if anything of the stage has happened in it.
    latencies: Option<Latencies>,
}

/// Records into one stage.
#[derive(Debug)]
pub struct StageRecorder<'a> {
    tally: &'a mut Tally,
    latencies: &'a mut Latencies,
}

/// What a shard knows about the interval that it closed: each stage in which something happened.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Every stage at most once.
    pub stages: Vec<StageInterval>,
}

/// A stage in an interval.
#[derive(Clone, Debug)]
pub struct StageInterval {
    /// Its index in the plan.
    pub stage: usize,
    /// Since the start of the run.
    pub tally: Tally,
    /// Of the interval alone.
    pub latencies: Latencies,
}

impl Interval {
    /// Takes the times of the interval before into this one. What is not needed any more is given
    /// back.
    pub fn precede(&mut self, before: Interval) -> Vec<Latencies> {
        let mut spare = Vec::new();
        for before in before.stages {
            match self.stages.iter_mut().find(|later| later.stage == before.stage) {
                Some(later) => {
                    later.latencies.add(&before.latencies);
                    spare.push(before.latencies);
                }
                None => self.stages.push(before),
            }
        }
        spare
    }
}

impl Default for Recorder {
    /// Of one stage.
    fn default() -> Self {
        Recorder::new(1)
    }
}

impl Recorder {
    /// For a plan of `stages` stages.
    pub fn new(stages: usize) -> Recorder {
        Recorder {
            slots: (0..stages).map(|_| Slot::default()).collect(),
            steps: Vec::new(),
            warmups: Vec::new(),
            blanks: (0..BLANKS).map(|_| Latencies::default()).collect(),
        }
    }

    /// With these stages in no figure of a step.
    #[must_use]
    pub fn with_warmups(self, warmups: Vec<bool>) -> Recorder {
        Recorder { warmups, ..self }
    }

    /// Where to record what happens in step `step` of a journey of `stage`; `None` in a warm-up.
    pub(crate) fn step(&mut self, stage: usize, step: usize) -> Option<&mut StepTally> {
        if self.warmups.get(stage).copied().unwrap_or_default() {
            return None;
        }
        if self.steps.len() <= step {
            self.steps.resize_with(step + 1, StepTally::default);
        }
        self.steps.get_mut(step)
    }

    /// What was recorded of steps.
    pub(crate) fn take_steps(&mut self) -> Vec<StepTally> {
        std::mem::take(&mut self.steps)
    }

    /// Where to record what happens to messages of `stage`.
    pub fn stage(&mut self, stage: usize) -> StageRecorder<'_> {
        let Slot { tally, latencies } = &mut self.slots[stage];
        let blanks = &mut self.blanks;
        let latencies = latencies.get_or_insert_with(|| blanks.pop().unwrap_or_default());
        StageRecorder { tally, latencies }
    }

    /// The counts of all stages so far.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.slots.iter().for_each(|slot| sum.add(&slot.tally.counts));
        sum
    }

    /// Stages of the plan.
    pub fn stages(&self) -> usize {
        self.slots.len()
    }

    /// The counts of `stage` so far.
    pub fn counts_of(&self, stage: usize) -> &Counts {
        &self.slots[stage].tally.counts
    }

    /// Ends an interval: what it recorded goes to whoever merges.
    pub fn close_interval(&mut self) -> Interval {
        let mut stages = Vec::with_capacity(BLANKS);
        for (stage, Slot { tally, latencies }) in self.slots.iter_mut().enumerate() {
            if let Some(latencies) = latencies.take() {
                stages.push(StageInterval { stage, tally: tally.clone(), latencies });
            }
        }
        self.blanks.resize_with(self.blanks.len().max(BLANKS), Latencies::default);
        Interval { stages }
    }

    /// Takes histograms that have been merged and emptied, and makes them serve again. Gives back
    /// those that are too many.
    pub fn recycle(&mut self, blank: Latencies) -> Option<Latencies> {
        debug_assert!(blank.is_empty(), "only empty ones can be used again");
        if self.blanks.len() >= 2 * BLANKS {
            return Some(blank);
        }
        self.blanks.push(blank);
        None
    }
}

impl StageRecorder<'_> {
    /// A worker has taken `n` messages up.
    pub fn taken(&mut self, n: u64) {
        self.tally.counts.sent += n;
    }

    /// `n` messages that had been taken up go to another connection, which takes them up again.
    pub fn returned(&mut self, n: u64) {
        self.tally.counts.sent -= n;
    }

    /// Messages were handed to the kernel in one write, and were late by these `causes`.
    pub fn sending(&mut self, causes: Causes) {
        self.tally.sent_moments += 1;
        self.tally.causes.add(causes);
    }

    /// `n` messages that were due at `due_ns` were handed to the kernel at `sent_ns`;
    /// [`Self::sending`] says why then.
    pub fn sent(&mut self, due_ns: u64, sent_ns: u64, n: u64) {
        self.latencies.lag.values.saturating_record_n(sent_ns.saturating_sub(due_ns), n);
    }

    /// `n` messages were answered; [`Self::served`] and [`Self::responded`] follow for each.
    pub fn answered(&mut self, answer: Answer, n: u64) {
        match answer {
            Answer::Ok => self.tally.counts.ok += n,
            Answer::Filtered => self.tally.counts.filtered += n,
        }
    }

    /// `n` answered messages that were sent at `sent_ns`.
    pub fn served(&mut self, sent_ns: u64, done_ns: u64, n: u64) {
        self.latencies.service.values.saturating_record_n(done_ns.saturating_sub(sent_ns), n);
    }

    /// `n` answered messages that were due at `due_ns`.
    pub fn responded(&mut self, due_ns: u64, done_ns: u64, n: u64) {
        self.latencies.response.values.saturating_record_n(done_ns.saturating_sub(due_ns), n);
    }

    /// `n` messages failed with `code`; their times follow by [`Self::censored`].
    pub fn failed(&mut self, code: &str, n: u64) {
        if n > 0 {
            add_code(&mut self.tally.counts.errors, code, n);
        }
    }

    /// A response over HTTP; what becomes of its messages follows.
    pub fn status(&mut self, status: u16) {
        *self.tally.counts.statuses.entry(status).or_default() += 1;
    }

    /// A request that was recorded with one status was answered with that one or another.
    pub fn repeated(&mut self, recorded: u16, replayed: u16) {
        add_pair(&mut self.tally.counts.repeated, (recorded, replayed), 1);
    }

    /// Messages were written that are so long.
    pub fn lines(&mut self, lines: LineSizes) {
        self.tally.lines.join(lines);
    }

    /// `n` of the messages that were written are broken on purpose.
    pub fn malformed_sent(&mut self, n: u64) {
        self.tally.counts.malformed.sent += n;
    }

    /// `n` of them were rejected; [`Self::served`] and [`Self::responded`] follow for each.
    pub fn malformed_rejected(&mut self, n: u64) {
        self.tally.counts.malformed.rejected += n;
    }

    /// `n` of them were taken, which is an error; their times follow by [`Self::censored`].
    pub fn malformed_accepted(&mut self, n: u64) {
        self.tally.counts.malformed.accepted += n;
        self.failed(code::MALFORMED_ACCEPTED, n);
    }

    /// `n` messages were not answered when the run gave up; their times follow.
    pub fn unanswered(&mut self, n: u64) {
        self.tally.counts.unanswered += n;
    }

    /// `n` messages were sent, and no reply to them can come.
    pub fn unacknowledged(&mut self, n: u64) {
        self.tally.counts.unacknowledged += n;
    }

    /// `n` messages were not sent before the load ended; their times follow.
    pub fn unsent(&mut self, n: u64) {
        self.tally.counts.unsent += n;
    }

    /// `n` messages took longer than until `at_ns`, when they failed or were given up.
    pub fn censored(&mut self, due_ns: u64, sent_ns: Option<u64>, at_ns: u64, n: u64) {
        let response = at_ns.saturating_sub(due_ns);
        self.latencies.response.censored.saturating_record_n(response, n);
        match sent_ns {
            Some(sent_ns) => {
                let service = at_ns.saturating_sub(sent_ns);
                self.latencies.service.censored.saturating_record_n(service, n);
            }
            None => self.latencies.lag.censored.saturating_record_n(response, n),
        }
    }

    /// Messages were settled in one moment: by one read, or given up together.
    pub fn settling(&mut self) {
        self.tally.settled_moments += 1;
    }

    /// A server is alive that answers, also with an error: the run lasts at least this long.
    pub fn heard(&mut self, at_ns: u64) {
        self.tally.last_answer_ns = self.tally.last_answer_ns.max(at_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::latencies::TRACKABLE_NS_MAX;
    use crate::measure::tally::CODES_MAX;

    fn respond(stage: &mut StageRecorder<'_>, done_ns: u64, n: u64) {
        stage.served(500, done_ns, n);
        stage.responded(0, done_ns, n);
        stage.heard(done_ns);
    }

    fn only(recorder: &mut Recorder) -> StageInterval {
        let mut interval = recorder.close_interval();
        assert_eq!(interval.stages.len(), 1);
        interval.stages.remove(0)
    }

    #[test]
    fn counts_keep_their_identity_through_a_life() {
        let mut recorder = Recorder::default();
        let mut stage = recorder.stage(0);
        stage.taken(10);
        assert_eq!(stage.tally.counts.in_flight(), 10);
        stage.answered(Answer::Ok, 4);
        stage.answered(Answer::Filtered, 1);
        stage.failed(code::RESET, 2);
        stage.failed("overloaded", 0);
        stage.unanswered(3);
        stage.unsent(7);
        let counts = recorder.counts();
        assert_eq!((counts.in_flight(), counts.error(), counts.unsent), (0, 2, 7));
        assert_eq!(counts.errors.len(), 1);
    }

    #[test]
    fn an_interval_is_handed_over_and_the_next_starts_anew() {
        let mut recorder = Recorder::default();
        respond(&mut recorder.stage(0), 1000, 3);
        assert_eq!(only(&mut recorder).latencies.response.values.len(), 3);
        assert!(recorder.close_interval().stages.is_empty(), "nothing has happened");
        respond(&mut recorder.stage(0), 3000, 2);
        let interval = only(&mut recorder);
        let Latencies { response, service, .. } = &interval.latencies;
        // Three digits: 2,500 and 2,501 are the same.
        assert_eq!((response.values.len(), service.values.max()), (2, 2501));
        assert_eq!(interval.tally.last_answer_ns, 3000);
    }

    #[test]
    fn stages_are_recorded_apart_and_counted_since_the_start() {
        let mut recorder = Recorder::new(3);
        recorder.stage(1).taken(5);
        recorder.stage(2).taken(1);
        let stages = |interval: Interval| -> Vec<(usize, u64)> {
            interval.stages.iter().map(|it| (it.stage, it.tally.counts.sent)).collect()
        };
        assert_eq!(stages(recorder.close_interval()), [(1, 5), (2, 1)]);
        recorder.stage(2).taken(2);
        assert_eq!(stages(recorder.close_interval()), [(2, 3)]);
        assert_eq!(recorder.counts().sent, 8);
    }

    #[test]
    fn an_interval_that_was_not_taken_goes_with_the_next() {
        let mut recorder = Recorder::new(2);
        respond(&mut recorder.stage(0), 1000, 1);
        respond(&mut recorder.stage(1), 1000, 2);
        let before = recorder.close_interval();
        respond(&mut recorder.stage(1), 1000, 3);
        let mut interval = recorder.close_interval();
        assert_eq!(interval.precede(before).len(), 1);
        let mut lengths: Vec<(usize, u64)> = interval
            .stages
            .iter()
            .map(|it| (it.stage, it.latencies.response.values.len()))
            .collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [(0, 1), (1, 5)]);
    }

    #[test]
    fn a_boundary_of_stages_and_a_new_interval_allocate_nothing() {
        let mut recorder = Recorder::new(4);
        recorder.stage(0).taken(1);
        let mut closed = recorder.close_interval();
        let allocations = crate::allocations::during(|| {
            for stage in 1..4 {
                let mut stage = recorder.stage(stage);
                stage.sending(Causes::default());
                stage.sent(0, 1, 2);
                respond(&mut stage, 9, 2);
            }
        });
        assert_eq!(allocations, 0);
        let mut used = closed.stages.remove(0).latencies;
        used.reset();
        assert!(recorder.recycle(used).is_none());
    }

    #[test]
    fn a_time_beyond_an_hour_is_counted_at_the_hour() {
        let mut recorder = Recorder::default();
        recorder.stage(0).responded(0, u64::MAX, 1);
        let max = only(&mut recorder).latencies.response.values.max();
        assert!((TRACKABLE_NS_MAX..TRACKABLE_NS_MAX * 1002 / 1000).contains(&max), "{max}");
    }

    #[test]
    fn what_was_not_sent_has_lag_and_no_service() {
        let mut recorder = Recorder::default();
        recorder.stage(0).censored(100, None, 1100, 2);
        recorder.stage(0).censored(100, Some(600), 1100, 3);
        let latencies = only(&mut recorder).latencies;
        assert_eq!(latencies.response.censored.len(), 5);
        assert_eq!(latencies.service.censored.len(), 3);
        assert_eq!(latencies.lag.censored.len(), 2);
        assert_eq!(latencies.lag.censored.max(), 1000);
        assert_eq!(latencies.service.censored.max(), 500);
    }

    #[test]
    fn a_peer_that_invents_codes_costs_bounded_memory() {
        let mut recorder = Recorder::default();
        for number in 0..1000 {
            recorder.stage(0).failed(&format!("code_{number}"), 1);
        }
        let counts = recorder.counts();
        assert_eq!(counts.errors.len(), CODES_MAX + 1);
        assert_eq!(counts.error(), 1000);
    }

    proptest! {
        // Each case adds dozens of histograms of 33,000 counters, unoptimised.
        #![proptest_config(ProptestConfig::with_cases(8))]
        /// One recorder that never closes an interval is the oracle.
        #[test]
        fn the_intervals_of_all_shards_sum_up_to_one_recorder(
            values in prop::collection::vec(
                (0u64..10_000_000_000, 1u64..5, any::<bool>(), 0usize..3),
                0..200,
            ),
            shards in 1usize..4,
        ) {
            let mut parts: Vec<Recorder> = (0..shards).map(|_| Recorder::new(3)).collect();
            let mut one = Recorder::new(3);
            let mut sums = vec![Latencies::default(); 3];
            let mut tallies = vec![vec![Tally::default(); 3]; shards];
            let mut merge = |shard: usize, interval: Interval| {
                for StageInterval { stage, tally, latencies } in interval.stages {
                    sums[stage].add(&latencies);
                    tallies[shard][stage] = tally;
                }
            };
            for (number, &(value, n, censor, stage)) in values.iter().enumerate() {
                for recorder in [&mut parts[number % shards], &mut one] {
                    let mut recorder = recorder.stage(stage);
                    recorder.taken(n);
                    recorder.settling();
                    if censor {
                        recorder.failed(code::TIMEOUT, n);
                        recorder.censored(0, Some(value / 2), value, n);
                    } else {
                        recorder.sent(0, value / 2, n);
                        recorder.answered(Answer::Ok, n);
                        recorder.served(value / 2, value, n);
                        recorder.responded(0, value, n);
                        recorder.heard(value);
                    }
                }
                if number % 50 == 49 {
                    merge(number % shards, parts[number % shards].close_interval());
                }
            }
            for (shard, part) in parts.iter_mut().enumerate() {
                merge(shard, part.close_interval());
            }
            for StageInterval { stage, tally, latencies } in one.close_interval().stages {
                let mut sum = Tally::default();
                tallies.iter().for_each(|tallies| sum.add(&tallies[stage]));
                prop_assert_eq!(sum, tally);
                prop_assert_eq!(&sums[stage], &latencies);
            }
        }
    }
}
