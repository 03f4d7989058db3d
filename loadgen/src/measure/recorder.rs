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
//! malformed.rejected + in_flight`; and every settled message is in `response` of exactly one interval (but for those of
//! a protocol without replies): answered ones by their value, failed, unanswered and unsent ones
//! *censored*, as "at least t". The recording path takes no lock, and allocates nothing unless more
//! than [`BLANKS`] stages begin within one interval.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest time that a histogram tells apart, one hour; longer ones are counted there.
const TRACKABLE_NS_MAX: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Different error codes that are told apart; a peer that invents more of them is counted
/// under [`OTHER_CODE`].
const CODES_MAX: usize = 64;
const OTHER_CODE: &str = "other";

/// The generator's own error codes, beside those that the server names.
pub mod code {
    /// No reply within REPLY_TIMEOUT_SECS in the middle of a run.
    pub const TIMEOUT: &str = "timeout";
    /// The connection broke with messages unanswered.
    pub const RESET: &str = "reset";
    /// No connection could be had.
    pub const REFUSED: &str = "refused";
    /// A reply to nothing, or one that cannot be understood.
    pub const MISMATCH: &str = "mismatch";
    /// A message that was broken on purpose, and that the target took.
    pub const MALFORMED_ACCEPTED: &str = "malformed_accepted";
}

/// Messages counted so far. `error` is the sum of `errors`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to a connection, or refused one.
    pub sent: u64,
    /// Answered `ok`.
    pub ok: u64,
    /// Answered `filtered`.
    pub filtered: u64,
    /// Failed, by code: the server's codes and those of [`code`].
    pub errors: BTreeMap<String, u64>,
    /// Responses over HTTP, by status; three digits bound how many there are.
    pub statuses: BTreeMap<u16, u64>,
    /// Responses to requests that were recorded: the status then (0: not known), the status now.
    pub repeated: BTreeMap<(u16, u16), u64>,
    /// Sent, and not answered when the run gave up waiting.
    pub unanswered: u64,
    /// Sent over a protocol that has no replies.
    pub unacknowledged: u64,
    /// Due before the end of the load, and not sent.
    pub unsent: u64,
    /// Broken on purpose.
    pub malformed: Malformed,
}

/// Messages that are broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Malformed {
    /// Written to a connection; among them also those that got no answer, or failed otherwise.
    pub sent: u64,
    /// Rejected, as they should be: no errors.
    pub rejected: u64,
    /// Taken: errors, by the code `malformed_accepted`.
    pub accepted: u64,
}

impl Malformed {
    /// There is none.
    pub fn is_none(&self) -> bool {
        *self == Malformed::default()
    }

    fn add(&mut self, other: Malformed) {
        self.sent += other.sent;
        self.rejected += other.rejected;
        self.accepted += other.accepted;
    }
}

/// How long lines were, with their newlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineSizes {
    /// Lines.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Of the longest.
    pub bytes_max: u64,
}

impl LineSizes {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        self.bytes_max = self.bytes_max.max(bytes);
    }

    /// Those of another shard, stage or flow.
    pub fn join(&mut self, other: LineSizes) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.bytes_max = self.bytes_max.max(other.bytes_max);
    }
}

impl Counts {
    /// Failed, whatever the code.
    pub fn error(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Sent and not settled yet.
    pub fn in_flight(&self) -> u64 {
        let settled = self.ok
            + self.filtered
            + self.error()
            + self.unanswered
            + self.unacknowledged
            + self.malformed.rejected;
        self.sent.checked_sub(settled).expect("only what was sent is settled")
    }

    /// Adds the counts of another shard, stage or flow.
    pub fn add(&mut self, other: &Counts) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.filtered += other.filtered;
        self.unanswered += other.unanswered;
        self.unacknowledged += other.unacknowledged;
        self.unsent += other.unsent;
        self.malformed.add(other.malformed);
        for (code, count) in &other.errors {
            add_code(&mut self.errors, code, *count);
        }
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (pair, count) in &other.repeated {
            add_pair(&mut self.repeated, *pair, *count);
        }
    }
}

/// Pairs of statuses that are told apart; further ones count as (0, 0).
const PAIRS_MAX: usize = 4096;

fn add_pair(repeated: &mut BTreeMap<(u16, u16), u64>, pair: (u16, u16), count: u64) {
    let is_told = repeated.len() < PAIRS_MAX || repeated.contains_key(&pair);
    *repeated.entry(if is_told { pair } else { (0, 0) }).or_default() += count;
}

fn add_code(errors: &mut BTreeMap<String, u64>, code: &str, count: u64) {
    let code =
        if errors.contains_key(code) || errors.len() < CODES_MAX { code } else { OTHER_CODE };
    match errors.get_mut(code) {
        Some(sum) => *sum += count,
        None => {
            errors.insert(code.to_owned(), count);
        }
    }
}

/// How a message was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Taken.
    Ok,
    /// Below the server's minimum level.
    Filtered,
}

/// The values of one kind of latency.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// Answered messages.
    pub values: Histogram<u64>,
    /// Messages of which only "at least t" is known, at t.
    pub censored: Histogram<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { values: histogram(), censored: histogram() }
    }
}

impl Latency {
    /// Adds the values of another shard, stage or interval.
    pub fn add(&mut self, other: &Latency) {
        add(&mut self.values, &other.values);
        add(&mut self.censored, &other.censored);
    }

    /// Forgets all values.
    fn reset(&mut self) {
        for histogram in [&mut self.values, &mut self.censored] {
            if !histogram.is_empty() {
                histogram.reset();
            }
        }
    }

    /// Nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.censored.is_empty()
    }
}

/// The three kinds of latency.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// done − due.
    pub response: Latency,
    /// done − sent.
    pub service: Latency,
    /// sent − due.
    pub lag: Latency,
}

impl Latencies {
    /// Adds the values of another shard, stage or interval.
    pub fn add(&mut self, other: &Latencies) {
        self.response.add(&other.response);
        self.service.add(&other.service);
        self.lag.add(&other.lag);
    }

    /// Forgets all values, so that it can serve again.
    pub fn reset(&mut self) {
        self.response.reset();
        self.service.reset();
        self.lag.reset();
    }

    /// Nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.response.is_empty() && self.service.is_empty() && self.lag.is_empty()
    }
}

/// An empty histogram of times in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TRACKABLE_NS_MAX, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that fit")
}

/// Adds `other` to `sum`.
pub fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("all histograms have the same bounds");
}

/// What is known of one stage since the start of the run, on one shard or on all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages.
    pub counts: Counts,
    /// When the last reply was read, ns since the start; 0 without one.
    pub last_answer_ns: u64,
    /// Moments at which messages were settled: a read that brought replies, or a batch given up.
    /// Messages that are settled in one moment are no independent witnesses.
    pub settled_moments: u64,
    /// Moments at which messages were written.
    pub sent_moments: u64,
    /// Why the messages that were written were late.
    pub causes: Causes,
    /// How long they were.
    pub lines: LineSizes,
}

/// What lag is made of, for messages that were handed to the kernel. Together they are `lag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// Due, and not read from its recording yet.
    pub reader: Cause,
    /// Due, and every worker had a batch unanswered.
    pub window_full: Cause,
    /// A worker was free: waiting for the shard to run, and making the bytes.
    pub shard_busy: Cause,
    /// Waiting for a connection.
    pub connecting: Cause,
    /// The socket took no more.
    pub socket: Cause,
}

/// One cause's part in the lag of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Over all messages: a thousand million that wait for a minute are more than 64 bits.
    pub sum_ns: u128,
    /// The most that it took of one message.
    pub max_ns: u64,
}

impl Cause {
    /// Adds more messages.
    pub fn add(&mut self, other: Cause) {
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

impl Causes {
    /// Adds more messages.
    pub fn add(&mut self, other: Causes) {
        self.reader.add(other.reader);
        self.window_full.add(other.window_full);
        self.shard_busy.add(other.shard_busy);
        self.connecting.add(other.connecting);
        self.socket.add(other.socket);
    }
}

impl Tally {
    /// Adds what another shard, flow or stage knows.
    pub fn add(&mut self, other: &Tally) {
        self.counts.add(&other.counts);
        self.last_answer_ns = self.last_answer_ns.max(other.last_answer_ns);
        self.settled_moments += other.settled_moments;
        self.sent_moments += other.sent_moments;
        self.causes.add(other.causes);
        self.lines.join(other.lines);
    }
}

/// Empty histograms that are kept ready for stages that begin within an interval: at a boundary
/// there are two or three.
const BLANKS: usize = 3;

/// What is known of one step of a journey, on one shard or on all.
#[derive(Clone, Debug, Default)]
pub struct StepTally {
    /// Ended as they should.
    pub ok: u64,
    /// Ended their journeys, by code without the step's number.
    pub errors: BTreeMap<String, u64>,
    /// From the request to the end of the response; those that failed are censored.
    pub service: Latency,
}

impl StepTally {
    /// Adds what another shard knows.
    pub fn add(&mut self, other: &StepTally) {
        self.ok += other.ok;
        other.errors.iter().for_each(|(code, count)| add_code(&mut self.errors, code, *count));
        self.service.add(&other.service);
    }

    /// One ended as it should after `ns`.
    pub(crate) fn ended(&mut self, ns: u64) {
        self.ok += 1;
        self.service.values.saturating_record(ns);
    }

    /// One ended its journey after `ns`.
    pub(crate) fn failed(&mut self, code: &str, ns: u64) {
        add_code(&mut self.errors, code, 1);
        self.service.censored.saturating_record(ns);
    }
}

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
