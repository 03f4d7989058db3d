//! One shard's counts and latencies.
//!
//! Owns the histograms of response (done − due), service (done − sent) and lag (sent − due), in
//! nanoseconds with three significant digits, and the counts. Leaves clocks to the caller and
//! percentiles to [`super::summary`]. Histograms of several shards are added, never averaged.
//!
//! Invariant: `sent = ok + filtered + error + unanswered + unacknowledged + in_flight`; and every settled message is
//! in `response` exactly once (but for those of a protocol without replies): answered ones by their value, failed, unanswered and unsent ones
//! *censored*, as "at least t". The recording path takes no lock and allocates nothing.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

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
    /// Sent, and not answered when the run gave up waiting.
    pub unanswered: u64,
    /// Sent over a protocol that has no replies.
    pub unacknowledged: u64,
    /// Due before the end of the load, and not sent.
    pub unsent: u64,
}

impl Counts {
    /// Failed, whatever the code.
    pub fn error(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Sent and not settled yet.
    pub fn in_flight(&self) -> u64 {
        let settled =
            self.ok + self.filtered + self.error() + self.unanswered + self.unacknowledged;
        self.sent.checked_sub(settled).expect("only what was sent is settled")
    }

    /// Adds the counts of another shard.
    pub fn add(&mut self, other: &Counts) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.filtered += other.filtered;
        self.unanswered += other.unanswered;
        self.unacknowledged += other.unacknowledged;
        self.unsent += other.unsent;
        for (code, count) in &other.errors {
            add_code(&mut self.errors, code, *count);
        }
    }
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

/// When a message was due, when its last byte was handed to the kernel, when its reply was read;
/// nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the schedule, or when the worker was free.
    pub due_ns: u64,
    /// Just before the write that carried its last byte.
    pub sent_ns: u64,
    /// Just after the read that carried its reply.
    pub done_ns: u64,
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
#[derive(Clone, Debug)]
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
    /// Adds the values of another shard.
    pub fn add(&mut self, other: &Latency) {
        add(&mut self.values, &other.values);
        add(&mut self.censored, &other.censored);
    }
}

/// The three kinds of latency.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// done − due.
    pub response: Latency,
    /// done − sent.
    pub service: Latency,
    /// sent − due.
    pub lag: Latency,
}

impl Latencies {
    /// Adds the values of another shard.
    pub fn add(&mut self, other: &Latencies) {
        self.response.add(&other.response);
        self.service.add(&other.service);
        self.lag.add(&other.lag);
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

/// What a shard records into.
#[derive(Debug)]
pub struct Recorder {
    counts: Counts,
    /// Everything up to the last closed interval, and all that is censored.
    totals: Latencies,
    /// Answered since then: small enough to stay in a core's cache, as the totals would not.
    response: Histogram<u64>,
    service: Histogram<u64>,
    lag: Histogram<u64>,
    last_answer_ns: u64,
}

/// What a shard knows about the interval that it closed.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Counts since the start of the run.
    pub counts: Counts,
    /// Response times of the interval.
    pub response: Histogram<u64>,
    /// Lags of the interval.
    pub lag: Histogram<u64>,
}

impl Interval {
    /// Takes the times of the interval before into this one.
    pub fn precede(&mut self, before: &Interval) {
        add(&mut self.response, &before.response);
        add(&mut self.lag, &before.lag);
    }
}

/// What a shard leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// All counts.
    pub counts: Counts,
    /// All latencies.
    pub latencies: Latencies,
    /// When the last reply was read, ns since the start; 0 without one.
    pub last_answer_ns: u64,
}

impl Totals {
    /// Adds what another shard left.
    pub fn add(&mut self, other: &Totals) {
        self.counts.add(&other.counts);
        self.latencies.add(&other.latencies);
        self.last_answer_ns = self.last_answer_ns.max(other.last_answer_ns);
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            counts: Counts::default(),
            totals: Latencies::default(),
            response: histogram(),
            service: histogram(),
            lag: histogram(),
            last_answer_ns: 0,
        }
    }
}

impl Recorder {
    /// A worker has taken `n` messages up.
    pub fn taken(&mut self, n: u64) {
        self.counts.sent += n;
    }

    /// `n` messages that had been taken up go to another connection, which takes them up again.
    pub fn returned(&mut self, n: u64) {
        self.counts.sent -= n;
    }

    /// `n` messages that were due at `due_ns` were handed to the kernel at `sent_ns`.
    pub fn sent(&mut self, due_ns: u64, sent_ns: u64, n: u64) {
        self.lag.saturating_record_n(sent_ns.saturating_sub(due_ns), n);
    }

    /// `n` messages were answered.
    pub fn answered(&mut self, answer: Answer, n: u64) {
        match answer {
            Answer::Ok => self.counts.ok += n,
            Answer::Filtered => self.counts.filtered += n,
        }
    }

    /// The times of `n` answered messages.
    pub fn times(&mut self, moment: Moment, n: u64) {
        let Moment { due_ns, sent_ns, done_ns } = moment;
        self.response.saturating_record_n(done_ns.saturating_sub(due_ns), n);
        self.service.saturating_record_n(done_ns.saturating_sub(sent_ns), n);
        self.last_answer_ns = self.last_answer_ns.max(done_ns);
    }

    /// `n` messages failed with `code`; their times follow by [`Self::censored`].
    pub fn failed(&mut self, code: &str, n: u64) {
        if n > 0 {
            add_code(&mut self.counts.errors, code, n);
        }
    }

    /// `n` messages were not answered when the run gave up; their times follow.
    pub fn unanswered(&mut self, n: u64) {
        self.counts.unanswered += n;
    }

    /// `n` messages were sent, and no reply to them can come.
    pub fn unacknowledged(&mut self, n: u64) {
        self.counts.unacknowledged += n;
    }

    /// `n` messages were not sent before the load ended; their times follow.
    pub fn unsent(&mut self, n: u64) {
        self.counts.unsent += n;
    }

    /// `n` messages took longer than until `at_ns`, when they failed or were given up.
    pub fn censored(&mut self, due_ns: u64, sent_ns: Option<u64>, at_ns: u64, n: u64) {
        let response = at_ns.saturating_sub(due_ns);
        self.totals.response.censored.saturating_record_n(response, n);
        match sent_ns {
            Some(sent_ns) => {
                let service = at_ns.saturating_sub(sent_ns);
                self.totals.service.censored.saturating_record_n(service, n);
            }
            None => self.totals.lag.censored.saturating_record_n(response, n),
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A server is alive that answers, also with an error: the run lasts at least this long.
    pub fn heard(&mut self, at_ns: u64) {
        self.last_answer_ns = self.last_answer_ns.max(at_ns);
    }

    /// Ends an interval: what it recorded goes over into the totals.
    pub fn close_interval(&mut self) -> Interval {
        let interval = Interval {
            counts: self.counts.clone(),
            response: self.response.clone(),
            lag: self.lag.clone(),
        };
        self.fold();
        interval
    }

    /// Ends recording.
    pub fn finish(mut self) -> Totals {
        self.fold();
        let Recorder { counts, totals, last_answer_ns, .. } = self;
        Totals { counts, latencies: totals, last_answer_ns }
    }

    fn fold(&mut self) {
        add(&mut self.totals.response.values, &self.response);
        add(&mut self.totals.service.values, &self.service);
        add(&mut self.totals.lag.values, &self.lag);
        self.response.reset();
        self.service.reset();
        self.lag.reset();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_keep_their_identity_through_a_life() {
        let mut recorder = Recorder::default();
        recorder.taken(10);
        assert_eq!(recorder.counts().in_flight(), 10);
        recorder.answered(Answer::Ok, 4);
        recorder.answered(Answer::Filtered, 1);
        recorder.failed(code::RESET, 2);
        recorder.failed("overloaded", 0);
        recorder.unanswered(3);
        recorder.unsent(7);
        let counts = recorder.counts();
        assert_eq!((counts.in_flight(), counts.error(), counts.unsent), (0, 2, 7));
        assert_eq!(counts.errors.len(), 1);
    }

    #[test]
    fn an_interval_is_folded_into_the_totals_and_starts_anew() {
        let mut recorder = Recorder::default();
        let moment = |done_ns| Moment { due_ns: 0, sent_ns: 500, done_ns };
        recorder.times(moment(1000), 3);
        assert_eq!(recorder.close_interval().response.len(), 3);
        recorder.times(moment(2000), 2);
        let interval = recorder.close_interval();
        assert_eq!((interval.response.len(), interval.response.max()), (2, 2000));
        recorder.times(moment(3000), 1);
        let totals = recorder.finish();
        assert_eq!(totals.latencies.response.values.len(), 6);
        // Three digits: 2,500 and 2,501 are the same.
        assert_eq!(totals.latencies.service.values.max(), 2501);
        assert_eq!(totals.last_answer_ns, 3000);
    }

    #[test]
    fn a_time_beyond_an_hour_is_counted_at_the_hour() {
        let mut recorder = Recorder::default();
        recorder.times(Moment { due_ns: 0, sent_ns: 0, done_ns: u64::MAX }, 1);
        let max = recorder.finish().latencies.response.values.max();
        assert!((TRACKABLE_NS_MAX..TRACKABLE_NS_MAX * 1002 / 1000).contains(&max), "{max}");
    }

    #[test]
    fn what_was_not_sent_has_lag_and_no_service() {
        let mut recorder = Recorder::default();
        recorder.censored(100, None, 1100, 2);
        recorder.censored(100, Some(600), 1100, 3);
        let latencies = recorder.finish().latencies;
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
            recorder.failed(&format!("code_{number}"), 1);
        }
        let counts = recorder.counts();
        assert_eq!(counts.errors.len(), CODES_MAX + 1);
        assert_eq!(counts.error(), 1000);
    }

    proptest! {
        // Each case folds dozens of histograms of 33,000 counters, unoptimised.
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn merged_shards_equal_one_recorder(
            values in prop::collection::vec((0u64..10_000_000_000, 1u64..5, any::<bool>()), 0..200),
            shards in 1usize..4,
        ) {
            let mut parts: Vec<Recorder> = (0..shards).map(|_| Recorder::default()).collect();
            let mut one = Recorder::default();
            for (number, &(value, n, censor)) in values.iter().enumerate() {
                for recorder in [&mut parts[number % shards], &mut one] {
                    recorder.taken(n);
                    if censor {
                        recorder.failed(code::TIMEOUT, n);
                        recorder.censored(0, Some(value / 2), value, n);
                    } else {
                        recorder.sent(0, value / 2, n);
                        recorder.answered(Answer::Ok, n);
                        recorder.times(Moment { due_ns: 0, sent_ns: value / 2, done_ns: value }, n);
                    }
                    if number % 50 == 0 {
                        recorder.close_interval();
                    }
                }
            }
            let mut merged = Totals::default();
            for part in parts {
                merged.add(&part.finish());
            }
            let one = one.finish();
            prop_assert_eq!(merged.counts, one.counts);
            prop_assert_eq!(merged.last_answer_ns, one.last_answer_ns);
            for (left, right) in [
                (merged.latencies.response, one.latencies.response),
                (merged.latencies.service, one.latencies.service),
                (merged.latencies.lag, one.latencies.lag),
            ] {
                prop_assert_eq!(left.values, right.values);
                prop_assert_eq!(left.censored, right.censored);
            }
        }
    }
}
