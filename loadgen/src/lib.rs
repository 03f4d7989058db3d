//! Logboom's load generator: sends log messages by a plan, measures each from the moment it was
//! due, and loses nothing from the count.
//!
//! [`run`] takes a [`Config`] and gives an [`Outcome`]. Owns a run's way from the one to the other;
//! `lanes` divides the work among the shards, `coordinator` follows them, `outcome` sums up. Prints
//! nothing and reads no environment; `main` does the one, `config` the other.
//!
//! ```text
//! main > lib > {lanes > target, coordinator, outcome} > shard > worker > {dispatch, pool, hammer} > {plan, measure, clock} > proto
//! ```
//!
//! # A protocol of your own
//!
//! [`run_with`] takes a [`hammer::Hammer`]: how to connect, and how to send one message. Schedules,
//! times, percentiles, objectives and every knob of the command line come with it. This is all of
//! `examples/memcached.rs`, which the tests run against memcached:
//!
//! ```ignore
#![doc = include_str!("../examples/memcached.rs")]
//! ```
//!
//! Invariant: `offered = sent + unsent` and
//! `sent = ok + filtered + error + unanswered + unacknowledged + malformed.rejected`, in every
//! summary, however the run ended.

use std::sync::Arc;
use std::time::Duration;

use runtime::cpus::{Aside, Cpus};
use runtime::shards::Shard;
use runtime::{nofile, shards, uring};

use crate::clock::Clock;
use crate::coordinator::Coordinator;
use crate::hammer::one_by_one::OneByOne;
use crate::hammer::{BatchHammer, Hammer};
use crate::lanes::Channels;
use crate::measure::environment::Environment;
use crate::measure::summary::{SCHEMA_VERSION, Tool};
use crate::plan::payloads::{self, Numbering, Payloads};
use crate::plan::random::Random;
use crate::referee::Referee;
use crate::shard::{Report, Starter};
use crate::target::Target;

#[cfg(test)]
mod allocations;
pub mod calibrate;
mod clock;
pub mod config;
mod coordinator;
mod dispatch;
mod error;
pub mod hammer;
mod lanes;
pub mod measure;
pub mod metrics;
mod observer;
mod outcome;
mod pace;
pub mod plan;
mod pool;
pub mod record;
mod referee;
mod replay;
mod shard;
mod target;
mod tls;
mod worker;

pub use config::{Config, Flow};
pub use error::Error;
pub use measure::ledger::{Ledger, LedgerConnection};
pub use measure::progress::Progress;
pub use measure::summary::{Summary, Verdict};
pub use measure::{ledger, summary};
pub use observer::{Manifest, Observer};
pub use outcome::Outcome;
pub use replay::report::Recording;
pub use runtime::stop::Stop;

/// A shard looks at its rings this often at least, so that a busy one keeps its time.
const PREEMPT: Duration = Duration::from_millis(1);
/// glommio registers this much for file I/O, of which there is none.
const IO_MEMORY_BYTES: usize = 1 << 20;
const RING_DEPTH: std::ops::RangeInclusive<usize> = 128..=4096;

/// Runs the load of `config` until it is over, or `stop` is requested; tells `observer` when it
/// starts and once a second, on this thread.
///
/// # Errors
/// The run cannot begin: usage, resolution, io_uring. What happens later is part of the outcome.
pub fn run(config: &Config, stop: &Stop, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    run_against(config, stop, observer, &Target::of)
}

/// As [`run`], with a protocol of your own in place of the scheme that the flows name.
///
/// # Errors
/// As [`run`].
pub fn run_with<H: Hammer>(
    config: &Config,
    plan: H::Plan,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let starter = Starter::of::<OneByOne<H>>(plan);
    run_against(config, stop, observer, &|flow, _| Target::own(flow, starter.clone()))
}

/// As [`run_with`], for a protocol that has many messages on their way.
///
/// # Errors
/// As [`run`].
pub fn run_batches_with<H: BatchHammer>(
    config: &Config,
    plan: H::Plan,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let starter = Starter::of::<H>(plan);
    run_against(config, stop, observer, &|flow, _| Target::own(flow, starter.clone()))
}

fn run_against(
    config: &Config,
    stop: &Stop,
    observer: &mut dyn Observer,
    aim: &dyn Fn(&Flow, &Payloads) -> Result<Target, Error>,
) -> Result<Outcome, Error> {
    config.check()?;
    let cpus = Cpus::detect().map_err(Error::Cpus)?;
    let config = resolve(config, &cpus)?;
    let names = lanes::names(&config);
    config.slo.iter().try_for_each(|slo| slo.check(&names)).map_err(Error::Usage)?;
    uring::probe()?;
    has_descriptors(&config, nofile::raise().now)?;
    let ours: Vec<usize> =
        (0..config.shards).map(|shard| cpus.affinity[shard % cpus.affinity.len()]).collect();
    // Of this thread, of readers of recordings, and of glommio's helpers.
    let _aside = Aside::of(&ours);

    let halt = Stop::new();
    let Channels { orders, listens, news, blanks, go, readers } =
        lanes::orders(&config, &halt, aim)?;
    replay::await_first(&readers, stop)?;
    let flows = lanes::flows(&orders);
    let plan = shards::Plan {
        name: "loadgen",
        count: config.shards,
        cpus: cpus.affinity.clone(),
        preempt: PREEMPT,
        ring_depth: (config.concurrency().div_ceil(config.shards) * 2)
            .next_power_of_two()
            .clamp(*RING_DEPTH.start(), *RING_DEPTH.end()),
        io_memory_bytes: IO_MEMORY_BYTES,
    };
    let orders = Arc::new(orders);
    let shards = shards::start(&plan, move |shard| shard::run(orders[shard].clone()))?;

    let referee = Referee::new(&config, &listens, &ours);
    let mut coordinator = Coordinator::new(&config, flows, &halt, blanks, referee);
    coordinator.await_ready(&news, config.shards);
    let environment = Environment::detect(cpus.affinity, cpus.quota, config.shards);
    let mut manifest = manifest(&config, environment);
    observer.started(&manifest);
    coordinator.series.begin();
    manifest.started_at = jiff::Timestamp::now().to_string();
    coordinator.referee.started();
    let clock = Clock::start();
    for _ in 0..config.shards {
        go.try_send(clock).expect("there is room for every shard");
    }
    coordinator.follow(&news, stop, observer, &manifest);
    let reports: Vec<Report> = shards.into_iter().flat_map(Shard::join).collect();
    let recordings = replay::finish(readers);
    Ok(outcome::sum_up(&config, coordinator, reports, recordings, manifest))
}

/// What [`run`] would make of `config` on this machine; a run id is drawn only there.
///
/// # Errors
/// The values make no sense, a template neither, or the cpus cannot be asked for.
pub fn resolved(config: &Config) -> Result<Config, Error> {
    config.check()?;
    let cpus = Cpus::detect().map_err(Error::Cpus)?;
    Ok(Config { run_id: config.run_id.clone(), ..resolve(config, &cpus)? })
}

/// Each worker has a connection: with fewer descriptors some would only ever wait for one.
fn has_descriptors(config: &Config, limit: u64) -> Result<(), Error> {
    let connected = config.flows.iter().filter(|flow| flow.scheme != config::Scheme::Null);
    let connections: usize = connected.map(|flow| flow.concurrency).sum();
    // Rings, epolls and files.
    let needed = connections + 32 + 16 * config.shards;
    if needed as u64 <= limit {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "CONCURRENCY {connections} needs {needed} open files, and this process may have {limit}: \
         raise that (ulimit -n), or lower CONCURRENCY"
    )))
}

/// The configuration with nothing left open.
fn resolve(config: &Config, cpus: &Cpus) -> Result<Config, Error> {
    let mut config = config.clone();
    for flow in &mut config.flows {
        flow.feeder_rows = payloads::rows_until_end(&flow.wanted(Numbering::default()))?;
        if flow.feeder_rows.is_some() && !config.warmup_secs.is_zero() {
            return Err(Error::Usage(
                "WARMUP_SECS would use up rows of a feeder that ends the load (end = \"stop\")"
                    .to_owned(),
            ));
        }
    }
    if config.shards == 0 {
        config.shards = cpus.shards_default();
    }
    // A shard without a worker would only wake and sleep.
    config.shards = config.shards.min(config.concurrency());
    config.run_id.get_or_insert_with(|| {
        let now = jiff::Timestamp::now().as_nanosecond();
        let pid = u64::from(std::process::id());
        let entropy = u64::try_from(now & i128::from(u64::MAX)).unwrap_or_default();
        format!("{:08x}", Random::new(entropy ^ pid.rotate_left(32)).next_u64() >> 32)
    });
    Ok(config)
}

fn tool() -> Tool {
    Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// What is known before the load begins.
fn manifest(config: &Config, environment: Environment) -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION,
        tool: tool(),
        run_id: config.run_id.clone().expect("resolved"),
        seed: config.seed,
        config: config.clone(),
        environment,
        started_at: jiff::Timestamp::now().to_string(),
    }
}
