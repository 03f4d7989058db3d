//! What has been counted: messages, and why they were late.
//!
//! Owns the sums of a stage and of a step, and adding those of another shard. Leaves when to count to
//! [`super::recorder`].
//! Invariant: the names of errors and pairs of statuses are bounded, whatever a peer invents.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::latencies::Latency;

/// Different error codes that are told apart; a peer that invents more of them is counted
/// under [`OTHER_CODE`].
pub(super) const CODES_MAX: usize = 64;
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

pub(super) fn add_pair(repeated: &mut BTreeMap<(u16, u16), u64>, pair: (u16, u16), count: u64) {
    let is_told = repeated.len() < PAIRS_MAX || repeated.contains_key(&pair);
    *repeated.entry(if is_told { pair } else { (0, 0) }).or_default() += count;
}

pub(super) fn add_code(errors: &mut BTreeMap<String, u64>, code: &str, count: u64) {
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
