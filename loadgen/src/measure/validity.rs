//! Whether a run measured its target, or only itself: signals, each ok, bad or not assessed.
//!
//! Owns the signals, their limits and their words. Pure: [`Evidence`] in, [`Validity`] out; what
//! looks at the machine is in the files below. A run is valid when no signal is bad; a signal whose
//! evidence is missing is not assessed, never ok.
//!
//! | signal | observed | bad when |
//! |---|---|---|
//! | `build` | – | debug |
//! | `sample` | messages | too few for p99 |
//! | `lag` | p99 of sent − due | above 5 ticks of the pacing and a tenth of the response p99, and not the target's doing |
//! | `achieved` | sent ÷ offered | below 95 % |
//! | `run_queue` | share of the run (of a second at least) that a shard was ready and had no cpu | above 10 % |
//! | `littles_law` | mean in flight ÷ (throughput × mean time in flight) | off by more than a factor of 1.5, and the noise of its samples |
//! | `clock` | steps of the wall clock, time suspended | more than 10 ms and 500 ppm |
//! | `ceiling` | rate ÷ calibrated ceiling | above 90 % |
//! | `target_cores` | time that the target took of our cpus, in a run of a second at least | above 5 % of theirs |
//! | `steady_state` | drift of throughput and median response over the run | significant, and above 20 % and 50 % |
//!
//! Where the limits come from: 10 messages beyond a percentile, as everywhere here. A tenth of the
//! response is what one would not see in a figure of one digit. At 90 % of its capacity a server of
//! constant speed (and so is a busy generator) has a mean queue of 4.5 messages, at 70 % of 1.2
//! (ρ/2(1−ρ), Pollaczek and Khinchine). 500 ppm is as fast as a kernel slews its clock by NTP.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::slo::percent;
use super::summary::{rate, thousands, time};

pub mod clocks;
pub mod little;
pub mod run_queue;
pub mod steady;
pub mod target;

use clocks::Drift;
use little::InFlight;
use run_queue::Threads;
use steady::Steadiness;
use target::Shared;

/// What a signal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignalState {
    /// Nothing against the run.
    Ok,
    /// The run's figures cannot be believed as they stand.
    Bad,
    /// Nobody looked, or could. Says nothing for the run.
    NotAssessed,
}

impl fmt::Display for SignalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SignalState::Ok => "ok",
            SignalState::Bad => "BAD",
            SignalState::NotAssessed => "not assessed",
        })
    }
}

/// One reason to believe a run or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Signal {
    /// See the module's table.
    pub name: String,
    /// What it says.
    pub state: SignalState,
    /// What was measured, in `unit`.
    pub observed: Option<f64>,
    /// Where bad begins, in `unit`.
    pub limit: Option<f64>,
    /// `ns`, `messages` or `share`; empty where there is no number.
    pub unit: String,
    /// The same for people; of a bad signal with what to try.
    pub detail: String,
}

/// Whether a run can be believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Validity {
    /// No signal is bad.
    pub is_valid: bool,
    /// All signals, in the order of the module's table.
    pub signals: Vec<Signal>,
}

/// What is known of a run; `Err` and `None` say that something is not, and why.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// From the start to the end, ns.
    pub elapsed_ns: u64,
    /// Debug assertions are on.
    pub is_debug: bool,
    /// Messages follow a schedule (of at least one flow).
    pub is_open_loop: bool,
    /// Replies come.
    pub has_replies: bool,
    /// Messages, warm-up apart.
    pub offered: u64,
    /// Due and not sent.
    pub unsent: u64,
    /// Of the messages with a response.
    pub sample: u64,
    /// 99th percentile of the response.
    pub response_p99_ns: Option<u64>,
    /// 99th percentile of the lag.
    pub lag_p99_ns: Option<u64>,
    /// How much of all lag came from the generator and not from a full window or a socket.
    pub lag_own_share: Option<f64>,
    /// How exactly the pacing meets due times, ns.
    pub tick_ns: u64,
    /// The pacing keeps its cpu busy while it waits: then a busy cpu says nothing.
    pub is_spinning: bool,
    /// The shards' threads on the scheduler's run queues.
    pub threads: Option<Threads>,
    /// Messages in flight.
    pub in_flight: Result<InFlight, String>,
    /// Clocks between start and end.
    pub drift: Option<Drift>,
    /// Messages a second: the larger one of offered and achieved.
    pub rate_per_s: f64,
    /// The ceiling of this machine for this load, messages a second.
    pub ceiling_per_s: Result<f64, String>,
    /// The target's use of our cpus.
    pub shared: Result<Shared, String>,
    /// How the seconds lie to each other.
    pub steadiness: Result<Steadiness, String>,
}

/// Messages that p99 needs: 10 beyond it.
pub const SAMPLE_MIN: u64 = 1_000;
const LAG_TICKS_MAX: u64 = 5;
const LAG_RESPONSE_SHARE_MAX: f64 = 0.1;
/// Less of the lag than this is the generator's: then the target made it wait.
const LAG_OWN_SHARE_MIN: f64 = 0.5;
const ACHIEVED_MIN: f64 = 0.95;
const RUN_QUEUE_MAX: f64 = 0.1;
const BUSY_MAX: f64 = 0.9;
/// Looks lie between other work of a shard, which bends them by some tenths; what is lost or
/// counted twice shows as a half or a double.
const LITTLE_OFF_MAX: f64 = 1.5;
const CLOCK_NS_MAX: u64 = 10_000_000;
const CLOCK_PPM_MAX: u64 = 500;
const CEILING_MAX: f64 = 0.9;
const CEILING_CLOSE: f64 = 0.7;
const TARGET_SHARE_MAX: f64 = 0.05;
/// Shares of a shorter time say little: starting alone takes some milliseconds of it.
const SHARES_FROM_NS: u64 = 1_000_000_000;
const TOO_SHORT: &str = "the run took less than 1 s";

impl Validity {
    /// Judges a run.
    pub fn judge(evidence: &Evidence) -> Validity {
        let signals = vec![
            build(evidence),
            sample(evidence),
            lag(evidence),
            achieved(evidence),
            run_queue(evidence),
            littles_law(evidence),
            clock(evidence),
            ceiling(evidence),
            target_cores(evidence),
            steady_state(evidence),
        ];
        Validity { is_valid: signals.iter().all(|it| it.state != SignalState::Bad), signals }
    }

    /// The signals that are bad.
    pub fn bad(&self) -> impl Iterator<Item = &Signal> {
        self.signals.iter().filter(|signal| signal.state == SignalState::Bad)
    }

    /// `build: …; lag: …`, of the bad signals.
    pub fn reasons(&self) -> String {
        let reasons: Vec<String> =
            self.bad().map(|signal| format!("{}: {}", signal.name, signal.detail)).collect();
        reasons.join("; ")
    }

    /// A line for all that are bad, one for all that are ok, one a signal that was not assessed.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for state in [SignalState::Bad, SignalState::Ok] {
            let signals = self.signals.iter().filter(|signal| signal.state == state);
            let names: Vec<&str> = signals.map(|signal| signal.name.as_str()).collect();
            if !names.is_empty() {
                lines.push(format!("{state:<12}  {}", names.join(", ")));
            }
        }
        for signal in &self.signals {
            if signal.state == SignalState::NotAssessed {
                lines.push(format!("{:<12}  {}: {}", signal.state, signal.name, signal.detail));
            }
        }
        lines
    }
}

/// A signal in the making.
fn signal(name: &str, unit: &str) -> Signal {
    Signal {
        name: name.to_owned(),
        state: SignalState::NotAssessed,
        observed: None,
        limit: None,
        unit: unit.to_owned(),
        detail: String::new(),
    }
}

impl Signal {
    fn not_assessed(self, why: impl Into<String>) -> Signal {
        Signal { detail: why.into(), ..self }
    }

    /// `what` was observed; if that is bad, `advice` follows.
    fn found(self, is_bad: bool, observed: f64, limit: f64, what: String, advice: &str) -> Signal {
        let (state, detail) = match is_bad {
            true => (SignalState::Bad, format!("{what}; {advice}")),
            false => (SignalState::Ok, what),
        };
        Signal { state, observed: Some(observed), limit: Some(limit), detail, ..self }
    }
}

fn build(evidence: &Evidence) -> Signal {
    let (state, detail) = match evidence.is_debug {
        true => (
            SignalState::Bad,
            "this is a debug build, several times slower than it could be; build it with --release",
        ),
        false => (SignalState::Ok, "release"),
    };
    Signal { state, detail: detail.to_owned(), ..signal("build", "") }
}

fn sample(evidence: &Evidence) -> Signal {
    let signal = signal("sample", "messages");
    if !evidence.has_replies {
        return signal.not_assessed("without replies there are no responses");
    }
    let count = evidence.sample;
    signal.found(
        count < SAMPLE_MIN,
        count as f64,
        SAMPLE_MIN as f64,
        format!("{} messages, p99 needs {}", thousands(count), thousands(SAMPLE_MIN)),
        "send more (TOTAL_LOGS, DURATION_SECS)",
    )
}

fn lag(evidence: &Evidence) -> Signal {
    let signal = signal("lag", "ns");
    if !evidence.is_open_loop {
        return signal.not_assessed("a closed loop has no schedule to be late for");
    }
    let Some(lag_ns) = evidence.lag_p99_ns else {
        return signal.not_assessed("the sample is too small for its p99");
    };
    let response_ns = evidence.response_p99_ns.unwrap_or(0) as f64;
    let ticks_ns = (LAG_TICKS_MAX * evidence.tick_ns) as f64;
    let limit_ns = ticks_ns.max(response_ns * LAG_RESPONSE_SHARE_MAX);
    let mut what = format!("p99 {}", time(lag_ns));
    let is_late = lag_ns as f64 > limit_ns;
    if !is_late {
        return signal.found(false, lag_ns as f64, limit_ns, what, "");
    }
    let busy = evidence.threads.as_ref().map_or(0.0, Threads::busy_max);
    let is_busy = busy > BUSY_MAX && !evidence.is_spinning;
    // Where nobody knows whose lag it is, it is ours.
    let is_own = evidence.lag_own_share.is_none_or(|share| share >= LAG_OWN_SHARE_MIN);
    if let Some(share) = evidence.lag_own_share {
        what.push_str(&format!(", {} of it within the generator", percent(share)));
    }
    if is_busy {
        what.push_str(&format!(", a shard was busy {} of the time", percent(busy)));
    } else if !is_own {
        what.push_str(": the target made messages wait, and that counts in the response");
    }
    what.push_str(&format!(", limit {}", nanos(limit_ns)));
    let advice = "lower the rate, give it more SHARDS on cpus of their own, or a larger \
                  CONCURRENCY; PACING precise if it has a core to spend";
    signal.found(is_own || is_busy, lag_ns as f64, limit_ns, what, advice)
}

fn nanos(ns: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    time(ns as u64)
}

fn achieved(evidence: &Evidence) -> Signal {
    let signal = signal("achieved", "share");
    if !evidence.is_open_loop {
        return signal.not_assessed("a closed loop offers what it sends");
    }
    let Evidence { offered, unsent, .. } = *evidence;
    if offered == 0 {
        return signal.not_assessed("nothing was offered");
    }
    let sent = offered - unsent;
    let share = sent as f64 / offered as f64;
    signal.found(
        share < ACHIEVED_MIN,
        share,
        ACHIEVED_MIN,
        format!(
            "{} of {} offered messages were sent, {}",
            thousands(sent),
            thousands(offered),
            percent(share)
        ),
        "the target does not keep up, so that times depend on how long the run was, or the \
         generator does not: lower the rate, or raise CONCURRENCY and SHARDS",
    )
}

fn run_queue(evidence: &Evidence) -> Signal {
    let signal = signal("run_queue", "share");
    if evidence.elapsed_ns < SHARES_FROM_NS {
        return signal.not_assessed(TOO_SHORT);
    }
    let Some(threads) = &evidence.threads else {
        return signal.not_assessed("the kernel does not tell (/proc/thread-self/schedstat)");
    };
    let share = threads.wait_max();
    signal.found(
        share > RUN_QUEUE_MAX,
        share,
        RUN_QUEUE_MAX,
        format!(
            "a shard was ready and had no cpu for {} of the time, {} at a time",
            percent(share),
            time(threads.wait_mean_ns())
        ),
        "others use its cpus: stop them, or give the generator cpus of its own (taskset, SHARDS)",
    )
}

fn littles_law(evidence: &Evidence) -> Signal {
    let signal = signal("littles_law", "share");
    let in_flight = match &evidence.in_flight {
        Ok(in_flight) => in_flight,
        Err(why) => return signal.not_assessed(why),
    };
    let limit = LITTLE_OFF_MAX.max(1.0 + 4.0 * in_flight.relative_error());
    let ratio = in_flight.ratio();
    signal.found(
        ratio > limit || ratio * limit < 1.0,
        ratio,
        limit,
        format!(
            "{:.1} messages in flight on the mean, {:.1} by throughput × time",
            in_flight.sampled_mean, in_flight.expected_mean
        ),
        "times or counts are not what they seem: please report this run with its seed",
    )
}

fn clock(evidence: &Evidence) -> Signal {
    let signal = signal("clock", "ns");
    let Some(drift) = evidence.drift else {
        return signal.not_assessed("the clocks could not be read together");
    };
    let limit_ns = CLOCK_NS_MAX + drift.elapsed_ns / 1_000_000 * CLOCK_PPM_MAX;
    let (step_ns, suspended_ns) = (drift.wall_step_ns.unsigned_abs(), drift.suspended_ns);
    let what = match (step_ns > limit_ns, suspended_ns > limit_ns) {
        (_, true) => format!("the machine was suspended for {}", time(suspended_ns)),
        (true, _) => format!("the wall clock was set by {} on the way", time(step_ns)),
        _ => format!("no step (wall clock off by {})", time(step_ns)),
    };
    let worst_ns = step_ns.max(suspended_ns);
    let advice = "run again with a settled clock and no suspend";
    signal.found(worst_ns > limit_ns, worst_ns as f64, limit_ns as f64, what, advice)
}

fn ceiling(evidence: &Evidence) -> Signal {
    let signal = signal("ceiling", "share");
    let ceiling = match &evidence.ceiling_per_s {
        Ok(ceiling) if *ceiling > 0.0 => *ceiling,
        Ok(_) => return signal.not_assessed("the calibrated ceiling is 0"),
        Err(why) => return signal.not_assessed(why),
    };
    let share = evidence.rate_per_s / ceiling;
    let mut what = format!(
        "{} a second, {} of what this machine can do ({})",
        rate(evidence.rate_per_s),
        percent(share),
        rate(ceiling)
    );
    if (CEILING_CLOSE..=CEILING_MAX).contains(&share) {
        what.push_str(": close to it, so that part of the response may be the generator's own");
    }
    let advice = "the generator is the bottleneck: lower the rate, larger batches, more cpus, or \
                  several machines";
    signal.found(share > CEILING_MAX, share, CEILING_MAX, what, advice)
}

fn target_cores(evidence: &Evidence) -> Signal {
    let signal = signal("target_cores", "share");
    if evidence.elapsed_ns < SHARES_FROM_NS {
        return signal.not_assessed(TOO_SHORT);
    }
    let shared = match &evidence.shared {
        Ok(shared) => shared,
        Err(why) => return signal.not_assessed(why),
    };
    let share = shared.share();
    let what = format!("the target (pid {}) took {} of our cpus", shared.pids(), percent(share));
    let advice = "keep it off them: pin both (taskset), or use SHARDS and another machine";
    signal.found(share > TARGET_SHARE_MAX, share, TARGET_SHARE_MAX, what, advice)
}

fn steady_state(evidence: &Evidence) -> Signal {
    let signal = signal("steady_state", "share");
    let steadiness = match &evidence.steadiness {
        Ok(steadiness) => steadiness,
        Err(why) => return signal.not_assessed(why),
    };
    let advice = "warm up longer (WARMUP_SECS), run longer, or lower the rate";
    let Steadiness { worst, .. } = steadiness;
    signal.found(worst.is_bad(), worst.drift.abs(), worst.limit, worst.to_string(), advice)
}

#[cfg(test)]
mod tests;
