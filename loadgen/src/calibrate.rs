//! What this machine can offer at most, for one payload, batch size, concurrency and shards.
//!
//! Owns the turns: short runs as fast as it goes, in turn against `null://` (the generator alone)
//! and a [`sink`] that this process starts (the generator and its sockets), as closed loop and by a
//! schedule that is out of reach. [`store`] keeps the result, and later runs are compared with it.
//! Invariant: a turn is an ordinary run; nothing here measures anything itself.

use std::time::Duration;

use runtime::cpus::Cpus;
use runtime::stop::Stop;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Flow, Scheme};
use crate::error::Error;
use crate::measure::environment::Environment;
use crate::measure::progress::Progress;
use crate::measure::slo::percent;
use crate::measure::summary::{Verdict, rate};
use crate::plan::payloads::Sizes;
use crate::plan::shape::{Arrivals, CatchUp, Constant, Pacing, Shape};

pub(crate) mod sink;
pub mod store;

use sink::Sink;

/// How often each of the four is measured, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Turns that count; one more goes before them, which nobody looks at.
    pub count: usize,
    /// Length of one.
    pub length: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { count: 5, length: Duration::from_secs(1) }
    }
}

/// What a ceiling depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The machine's name.
    pub host: String,
    /// Its cpu.
    pub cpu_model: String,
    /// The cpus that the process may use.
    pub cpu_list: Vec<usize>,
    /// `release 0.1.0`.
    pub build: String,
    /// What messages look like: the name of a built-in, or the path of a template.
    #[serde(default)]
    pub payload: String,
    /// Bytes of a message at least.
    pub payload_bytes: Sizes,
    /// Messages in a batch.
    pub batch_size: u64,
    /// Batches are packed.
    pub compress: bool,
    /// `each` or `range`.
    pub replies: String,
    /// Workers.
    pub concurrency: usize,
    /// Threads.
    pub shards: usize,
    /// How due times are met.
    pub pacing: Pacing,
}

/// What the generator talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// Nobody.
    Null,
    /// The sink on this machine.
    Sink,
}

/// How it was driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drive {
    /// As fast as the replies came.
    Closed,
    /// By a schedule.
    Open,
}

/// One ceiling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// What the generator talked to.
    pub against: Against,
    /// How it was driven.
    pub drive: Drive,
    /// Messages a second: the median of `turns`.
    pub per_s: f64,
    /// Largest minus smallest turn, as a share of the median.
    pub spread: f64,
    /// Messages a second, in the order in which they were measured.
    pub turns: Vec<f64>,
}

/// All ceilings of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What they hold for.
    pub key: Key,
    /// When, UTC.
    pub measured_at: String,
    /// The sink had a cpu that no shard uses; otherwise its ceiling is lower than it could be.
    pub sink_has_own_cpu: bool,
    /// Null and sink, closed and open.
    pub ceilings: Vec<Ceiling>,
}

/// An open loop is driven this many times as fast as the closed loop went: out of reach, and not
/// so far that counting what was not sent takes longer than the turn.
const OUT_OF_REACH: f64 = 3.0;

/// Measures what this machine can offer with the batch size, payload, concurrency and shards of
/// `config`; `tell` hears of each turn.
///
/// # Errors
/// [`Error::Usage`]: several flows, or a protocol without a sink. Otherwise as [`crate::run`].
pub fn calibrate(
    config: &Config,
    turns: Turns,
    stop: &Stop,
    tell: &mut dyn FnMut(&str),
) -> Result<Calibration, Error> {
    let flow = only_flow(config).map_err(Error::Usage)?;
    if !matches!(flow.scheme, Scheme::Tcp | Scheme::Null) {
        return Err(Error::Usage(format!(
            "calibrate knows tcp:// and null://, not {}://",
            flow.scheme.as_str()
        )));
    }
    let cpus = Cpus::detect().map_err(Error::Cpus)?;
    let config = crate::resolve(config, &cpus)?;
    let environment = Environment::detect(cpus.affinity.clone(), cpus.quota, config.shards);
    let key = Key::new(&config, &environment).map_err(Error::Usage)?;
    let free: Vec<usize> = cpus.affinity.iter().skip(config.shards).copied().collect();
    let sink = Sink::start(&free, config.shards).map_err(Error::Sink)?;

    let mut ceilings: Vec<Ceiling> = Vec::new();
    for (against, drive) in [
        (Against::Null, Drive::Closed),
        (Against::Sink, Drive::Closed),
        (Against::Null, Drive::Open),
        (Against::Sink, Drive::Open),
    ] {
        ceilings.push(Ceiling { against, drive, per_s: 0.0, spread: 0.0, turns: Vec::new() });
    }
    // In turn, so that a slow minute of the machine is not one ceiling's alone.
    for turn in 0..=turns.count {
        for index in 0..ceilings.len() {
            let Ceiling { against, drive, .. } = ceilings[index];
            let closed = ceilings.iter().find(|it| it.against == against).map(|it| it.per_s);
            let rate_per_s = match drive {
                Drive::Closed => None,
                Drive::Open => Some(closed.unwrap_or_default() * OUT_OF_REACH),
            };
            let run = turn_of(&config, against, rate_per_s, turns.length, sink.port);
            let outcome = crate::run(&run, stop, &mut |_: &Progress<'_>| ())?;
            let summary = &outcome.summary;
            if summary.verdict == Verdict::Interrupted {
                return Err(Error::Interrupted(outcome.exit_code));
            }
            let load = &summary.load;
            if load.error > 0 {
                return Err(Error::Usage(format!(
                    "calibrate: {} of {} messages failed ({:?}): CONCURRENCY is more than this \
                     machine can connect, or REPLY_TIMEOUT_SECS is too short",
                    load.error, load.sent, summary.errors
                )));
            }
            let achieved = summary.rate.achieved_per_s.unwrap_or_default();
            let ceiling = &mut ceilings[index];
            if turn == 0 {
                // Of the first one only the size is of use.
                ceiling.per_s = achieved;
                continue;
            }
            ceiling.turns.push(achieved);
            ceiling.sum_up();
            tell(&format!(
                "{turn}/{}  {against:?} {drive:?}  {} a second",
                turns.count,
                rate(achieved)
            ));
        }
    }
    // A turn may come to nothing on a machine that is busy with other things; most may not.
    if let Some(Ceiling { against, drive, .. }) = ceilings.iter().find(|it| it.per_s <= 0.0) {
        return Err(Error::Usage(format!(
            "calibrate: nothing was sent in most turns of {:?} ({against:?}, {drive:?}): \
             CONCURRENCY is more than this machine can connect, or DURATION_SECS is too short",
            turns.length
        )));
    }
    Ok(Calibration {
        key,
        measured_at: jiff::Timestamp::now().to_string(),
        sink_has_own_cpu: !free.is_empty(),
        ceilings,
    })
}

fn only_flow(config: &Config) -> Result<&Flow, String> {
    match &config.flows[..] {
        [flow] => Ok(flow),
        _ => Err("a ceiling is of one flow, and this run has several".to_owned()),
    }
}

/// One turn.
fn turn_of(
    config: &Config,
    against: Against,
    rate_per_s: Option<f64>,
    length: Duration,
    sink_port: u16,
) -> Config {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate of messages, and `as` saturates"
    )]
    let open =
        |rate_per_s: f64| Shape::Constant(Constant { rate_per_s: (rate_per_s as u64).max(1) });
    let flow = Flow {
        scheme: match against {
            Against::Null => Scheme::Null,
            Against::Sink => Scheme::Tcp,
        },
        server_host: "127.0.0.1".to_owned(),
        server_port: sink_port,
        total_logs: 0,
        duration_secs: length,
        shape: rate_per_s.map_or(Shape::Closed, open),
        arrivals: Arrivals::Even,
        catch_up: CatchUp::Asap,
        durability: None,
        auth_token_file: None,
        connection_secs_max: Duration::ZERO,
        connection_messages_max: 0,
        think_time: Default::default(),
        // The sink takes everything.
        malformed: 0.0,
        ..config.flows[0].clone()
    };
    Config {
        flows: vec![flow],
        warmup_secs: Duration::ZERO,
        slo: Vec::new(),
        strict: false,
        ledger: false,
        // What is not sent is no error here.
        max_error_rate: 1.0,
        ..config.clone()
    }
}

impl Ceiling {
    fn sum_up(&mut self) {
        let mut sorted = self.turns.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return };
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        self.per_s = median;
        self.spread = if median > 0.0 { (most - least) / median } else { 0.0 };
    }
}

impl Key {
    /// Of a resolved run.
    ///
    /// # Errors
    /// It is a run of which there is no ceiling.
    pub(crate) fn new(config: &Config, environment: &Environment) -> Result<Key, String> {
        let flow = only_flow(config)?;
        Ok(Key {
            host: environment.host.clone(),
            cpu_model: environment.cpu_model.clone(),
            cpu_list: environment.cpu_list.clone(),
            build: format!("{} {}", environment.build, env!("CARGO_PKG_VERSION")),
            payload: match &flow.template {
                Some(path) => path.display().to_string(),
                None => flow.payload.to_string(),
            },
            payload_bytes: flow.payload_bytes.clone(),
            batch_size: flow.batch_size,
            compress: flow.compress,
            replies: flow.replies.to_string(),
            concurrency: flow.concurrency,
            shards: config.shards,
            pacing: config.pacing,
        })
    }
}

impl Calibration {
    /// Messages a second.
    pub fn ceiling(&self, against: Against, drive: Drive) -> Option<f64> {
        let found = self.ceilings.iter().find(|it| (it.against, it.drive) == (against, drive));
        found.map(|ceiling| ceiling.per_s)
    }

    /// As a table, with a newline behind each line.
    pub fn text(&self) -> String {
        let Key { batch_size, concurrency, shards, build, .. } = &self.key;
        let mut text = format!(
            "The ceiling of {} for batches of {batch_size} over {concurrency} connections on \
             {shards} {} ({build}):\n\n  {:<8}{:<8}{:>14}{:>10}\n",
            self.key.host,
            if *shards == 1 { "shard" } else { "shards" },
            "against",
            "loop",
            "a second",
            "spread"
        );
        for Ceiling { against, drive, per_s, spread, .. } in &self.ceilings {
            let against = format!("{against:?}").to_lowercase();
            let drive = format!("{drive:?}").to_lowercase();
            let (per_s, spread) = (rate(*per_s), percent((spread * 100.0).round() / 100.0));
            text.push_str(&format!("  {against:<8}{drive:<8}{per_s:>14}{spread:>10}\n"));
        }
        if !self.sink_has_own_cpu {
            text.push_str(
                "\n  The sink shared the shards' cpus, as a target on this machine would: fewer \
                 SHARDS than cpus leave it one.\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_told_with_its_spread() {
        let ceiling = |turns: &[f64]| {
            let mut ceiling = Ceiling {
                against: Against::Null,
                drive: Drive::Open,
                per_s: 0.0,
                spread: 0.0,
                turns: turns.to_vec(),
            };
            ceiling.sum_up();
            (ceiling.per_s, ceiling.spread)
        };
        assert_eq!(ceiling(&[300.0, 100.0, 200.0]), (200.0, 1.0));
        assert_eq!(ceiling(&[100.0, 300.0]), (200.0, 1.0));
        assert_eq!(ceiling(&[]), (0.0, 0.0));
    }
}
