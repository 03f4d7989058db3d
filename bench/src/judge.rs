//! What a tier and a run came to. Pure: evidence in, verdict out.
//!
//! Owns the thresholds, their order, and the sentence for each failure. A signal that is missing is
//! "not assessed" (`None`), never passed and never failed.
//!
//! Invariant: a tier passes exactly when its list of failures is empty, and every failure has the
//! exit code that its kind has in the project's table.

use loadgen::summary::{self, Load, Summary};
use runtime::exit_code;
use runtime::stop::Cause;
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::error::Error;
use crate::figures::{rate, thousands};
use crate::runner::engine::Totals;
use crate::suite::Tier;

/// The thresholds of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demands {
    /// Messages a second for every tier; None: what each tier needs to end by its total.
    pub min_rps: Option<f64>,
    /// Share of the offered messages that may fail, 0 to 1.
    pub max_error_rate: f64,
}

/// What is known about a tier that has run.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    pub summary: &'a Summary,
    /// Acknowledged messages in the ledger.
    pub acknowledged: u64,
    /// None: not assessed.
    pub audit: Option<&'a Audit>,
    /// What our engine counted; None for a target.
    pub totals: Option<&'a Totals>,
    /// It was cut short, so that its rate says nothing.
    pub cut_short: bool,
}

/// The verdict on a tier and the figures it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Messages a second that were asked for; None: nothing was.
    pub min_rps: Option<f64>,
    pub max_error_rate: f64,
    /// Answered `ok` or `filtered`, over the time that the tier really took.
    pub achieved_per_s: f64,
    /// Failed, unanswered and unsent messages as a share of the offered.
    pub error_rate: f64,
    /// None: not assessed.
    pub audit: Option<Audit>,
    /// What the engine counted; None: not known.
    pub engine_totals: Option<Totals>,
    pub failures: Vec<Failure>,
    pub pass: bool,
}

/// One reason not to pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// The figures, for people.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    TooSlow,
    TooManyErrors,
    /// Acknowledged lines are not on disk.
    Missing,
    /// Lines are on disk more than once.
    Duplicated,
    /// Something on disk is no line.
    Damaged,
    /// Lines of this run are on disk that nobody sent.
    Unexpected,
    /// Engine, generator and ledger do not count the same.
    CountsDisagree,
    /// The generator cannot vouch for its figures, or there are none.
    Invalid,
}

impl FailureKind {
    /// Where it stands in the table of exit codes.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureKind::TooSlow | FailureKind::TooManyErrors => exit_code::THRESHOLD,
            FailureKind::Missing
            | FailureKind::Duplicated
            | FailureKind::Damaged
            | FailureKind::Unexpected => exit_code::DATA_INTEGRITY,
            FailureKind::CountsDisagree | FailureKind::Invalid => exit_code::INVALID,
        }
    }
}

/// Judges one tier.
pub fn judge(tier: &Tier, demands: &Demands, evidence: &Evidence<'_>) -> Verification {
    let Evidence { audit, totals, cut_short, .. } = *evidence;
    let Summary { load, duration_ns, verdict, .. } = evidence.summary;
    let achieved_per_s = match *duration_ns {
        0 => 0.0,
        ns => (load.ok + load.filtered) as f64 / (ns as f64 / 1e9),
    };
    let min_rps = demands.min_rps.or_else(|| tier.rate_needed());
    let error_rate = load.error_rate();
    let mut failures = Vec::new();
    let mut fail = |kind, text| failures.push(Failure { kind, text });

    if let Some(audit) = audit {
        integrity(audit, &mut fail);
    }
    if *verdict == summary::Verdict::Invalid {
        fail(FailureKind::Invalid, "the generator calls its own measurement invalid".to_owned());
    }
    if load.offered == 0 && !cut_short {
        fail(FailureKind::Invalid, "no message was offered".to_owned());
    }
    if evidence.acknowledged != load.ok {
        let text = format!("{} ok, but {} in the ledger", load.ok, evidence.acknowledged);
        fail(FailureKind::CountsDisagree, text);
    }
    if let Some(text) = totals.and_then(|totals| disagreement(totals, load)) {
        fail(FailureKind::CountsDisagree, text);
    }
    if let Some(min_rps) = min_rps
        && achieved_per_s < min_rps
        && !cut_short
    {
        let text =
            format!("{} messages a second, asked for {}", rate(achieved_per_s), rate(min_rps));
        fail(FailureKind::TooSlow, text);
    }
    if error_rate > demands.max_error_rate {
        let text = format!(
            "{:.2} % of the messages failed, at most {:.2} % may",
            error_rate * 100.0,
            demands.max_error_rate * 100.0
        );
        fail(FailureKind::TooManyErrors, text);
    }
    Verification {
        min_rps,
        max_error_rate: demands.max_error_rate,
        achieved_per_s,
        error_rate,
        audit: audit.cloned(),
        engine_totals: totals.copied(),
        pass: failures.is_empty(),
        failures,
    }
}

fn integrity(audit: &Audit, fail: &mut impl FnMut(FailureKind, String)) {
    let Audit { missing, acknowledged, duplicated, damaged, unexpected, .. } = *audit;
    if missing > 0 {
        let first = audit.missing_ranges.first();
        let first = first.map_or_else(String::new, |range| {
            format!("; the first: connection {}, message {}", range.conn, range.first_seq)
        });
        let text = format!(
            "{} of {} acknowledged lines are not on disk{first}",
            thousands(missing),
            thousands(acknowledged)
        );
        fail(FailureKind::Missing, text);
    }
    if duplicated > 0 {
        fail(FailureKind::Duplicated, format!("{} lines are on disk again", thousands(duplicated)));
    }
    if damaged > 0 {
        fail(FailureKind::Damaged, format!("{} lines on disk are damaged", thousands(damaged)));
    }
    if unexpected > 0 {
        fail(
            FailureKind::Unexpected,
            format!("{} lines on disk were never sent", thousands(unexpected)),
        );
    }
}

/// How the engine's totals contradict the generator's counts.
///
/// Every reply that the generator read was counted by the engine first. Without lost connections
/// and unanswered messages the counts are equal; else the engine may know more replies than the
/// generator, and fewer messages.
fn disagreement(totals: &Totals, load: &Load) -> Option<String> {
    let Totals { received, ok, filtered, error, in_flight } = *totals;
    if in_flight != 0 || received != ok + filtered + error {
        return Some(format!(
            "the engine ended with {received} received, {ok} ok, {filtered} filtered, \
             {error} error, {in_flight} in flight"
        ));
    }
    let counts = [("ok", ok, load.ok), ("filtered", filtered, load.filtered)];
    // An error may also be the generator's own finding (a timeout, a reset).
    let clean = load.error == 0 && load.unanswered == 0;
    let wrong = |&&(_, engine, generator): &&(&str, u64, u64)| {
        if clean { engine != generator } else { engine < generator }
    };
    if let Some((name, engine, generator)) = counts.iter().find(wrong) {
        return Some(format!("the engine counted {engine} {name}, the generator {generator}"));
    }
    let wrong = if clean { received != load.sent } else { received > load.sent };
    wrong.then(|| format!("the engine received {received} of {} messages sent", load.sent))
}

/// How the run as a whole ended.
#[derive(Debug)]
pub enum Ended {
    /// All tiers were run.
    Whole,
    /// SIGINT or SIGTERM.
    Interrupted(Cause),
    /// No connection to the target.
    Unreachable,
    Broke(Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// The measurement is invalid.
    Invalid,
    Interrupted,
    Unreachable,
    /// Something other than what was measured went wrong.
    Broken,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    pub verdict: Verdict,
    pub exit_code: u8,
}

/// Sums up all tiers; lost data outweighs everything but an interruption.
///
/// A run that was cut short by a signal says so (130, 143) whatever its tiers showed: whoever
/// stopped it must see that it is not whole. Its failures are in the report.
pub fn conclude<'a>(tiers: impl Iterator<Item = &'a Verification>, ended: &Ended) -> Conclusion {
    let codes: Vec<u8> = tiers
        .flat_map(|verification| &verification.failures)
        .map(|failure| failure.kind.exit_code())
        .collect();
    let has = |code: u8| codes.contains(&code);
    let (verdict, exit_code) = match ended {
        Ended::Interrupted(cause) => (Verdict::Interrupted, cause.exit_code()),
        _ if has(exit_code::DATA_INTEGRITY) => (Verdict::Fail, exit_code::DATA_INTEGRITY),
        Ended::Broke(error) => (Verdict::Broken, error.exit_code()),
        Ended::Unreachable => (Verdict::Unreachable, exit_code::UNREACHABLE),
        Ended::Whole if has(exit_code::INVALID) => (Verdict::Invalid, exit_code::INVALID),
        Ended::Whole if has(exit_code::THRESHOLD) => (Verdict::Fail, exit_code::THRESHOLD),
        Ended::Whole => (Verdict::Pass, exit_code::PASS),
    };
    Conclusion { verdict, exit_code }
}

#[cfg(test)]
mod tests;
