//! Logboom's load generator: sends log messages by a plan, measures each from the moment it was
//! due, and loses nothing from the count.
//!
//! [`run`] takes a [`Config`] and gives an [`Outcome`]. Owns the coordinator: it starts the shards,
//! merges what they tell each second, decides when a dead target or a signal ends the run, and sums
//! up. Prints nothing and reads no environment; `main` does the one, `config` the other.
//!
//! ```text
//! main > lib > shard > worker > {dispatch, pool, hammer} > {plan, measure, clock} > proto
//! ```
//!
//! Invariant: `offered = sent + unsent` and
//! `sent = ok + filtered + error + unanswered + unacknowledged`, in every summary, however the run
//! ended.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use proto::hello::Welcome;
use runtime::cpus::Cpus;
use runtime::shards::Shard;
use runtime::stop::{Cause, Stop};
use runtime::{exit_code, nofile, shards, uring};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::config::Scheme;
use crate::measure::environment::{Environment, Granted};
use crate::measure::progress::Series;
use crate::measure::recorder::{Latencies, code};
use crate::measure::slo::{Names, SloResult, SloState};
use crate::measure::stages::{FlowPlan, Stage};
use crate::measure::summary::{Figures, SCHEMA_VERSION, Span, Tool};
use crate::measure::validity::target::Listens;
use crate::plan::payloads::Payloads;
use crate::plan::random::Random;
use crate::plan::schedule::{Part, Schedule};
use crate::plan::shape::Shape;
use crate::referee::{End, Referee};
use crate::shard::{News, Orders, Report};

#[cfg(test)]
mod allocations;
pub mod calibrate;
mod clock;
pub mod config;
mod dispatch;
mod error;
mod hammer;
pub mod measure;
mod observer;
mod pace;
pub mod plan;
mod pool;
mod referee;
mod shard;
mod tls;
mod worker;

pub use config::{Config, Flow};
pub use error::Error;
pub use measure::ledger::{Ledger, LedgerConnection};
pub use measure::progress::Progress;
pub use measure::summary::{Summary, Verdict};
pub use measure::{ledger, summary};
pub use observer::{Manifest, Observer};

/// What a run leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// All figures.
    pub summary: Summary,
    /// Which messages were acknowledged; empty unless `config.ledger`.
    pub ledger: Ledger,
    /// The exit code that the verdict asks for; 130 and 143 tell which signal interrupted.
    pub exit_code: u8,
    /// What a person should know beside the figures, such as why no connection was had.
    pub remarks: Vec<String>,
}

/// How often the coordinator looks at the stop request.
const GLANCE: Duration = Duration::from_millis(20);
/// News that wait for the coordinator, for each lane. Seconds for which there is no room are
/// merged on the lane, so that a stopped terminal costs a bounded amount of memory: each holds
/// histograms of 1.6 MB.
const NEWS_PER_LANE: usize = 8;
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
    config.check()?;
    let cpus = Cpus::detect().map_err(Error::Cpus)?;
    let config = resolve(config, &cpus);
    let names = names(&config);
    config.slo.iter().try_for_each(|slo| slo.check(&names)).map_err(Error::Usage)?;
    uring::probe()?;
    nofile::raise();

    let halt = Stop::new();
    let Channels { orders, news, blanks, go } = orders(&config, &halt)?;
    let lanes = lanes(&orders);
    let listens = listens(&orders);
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

    let ours: Vec<usize> =
        (0..config.shards).map(|shard| cpus.affinity[shard % cpus.affinity.len()]).collect();
    let referee = Referee::new(&config, &listens, &ours);
    let mut coordinator = Coordinator::new(&config, lanes, &halt, blanks, referee);
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
    coordinator.follow(&news, stop, observer);
    let reports: Vec<Report> = shards.into_iter().flat_map(Shard::join).collect();
    Ok(sum_up(&config, coordinator, reports, manifest))
}

/// The configuration with nothing left open.
fn resolve(config: &Config, cpus: &Cpus) -> Config {
    let mut config = config.clone();
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
    config
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

fn addresses(flow: &Flow) -> Result<Vec<SocketAddr>, Error> {
    if flow.scheme == Scheme::Null {
        return Ok(Vec::new());
    }
    let host = &flow.server_host;
    let failed = |source| Error::Resolve { host: host.clone(), source };
    let found = (host.as_str(), flow.server_port).to_socket_addrs().map_err(failed)?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(failed(std::io::Error::other("the name has no address")));
    }
    Ok(addresses)
}

/// Orders of each shard, and the coordinator's ends of the channels.
struct Channels {
    orders: Vec<Vec<Orders>>,
    news: Receiver<News>,
    /// Emptied histograms go back this way.
    blanks: async_channel::Sender<Latencies>,
    go: async_channel::Sender<Clock>,
}

/// The stages under which the figures of a flow are filed.
fn flow_plan(flow: &Flow, schedule: &Schedule) -> FlowPlan {
    // A closed loop's last message is due whenever a worker is free for it.
    let load_end_ns = if schedule.is_closed() { u64::MAX } else { schedule.offering_end_ns() };
    let mut stages: Vec<Stage> = schedule
        .stages()
        .iter()
        .map(|stage| Stage {
            name: stage.name.clone(),
            begin_ns: stage.begin_ns,
            end_ns: Some(stage.end_ns),
            is_warmup: !stage.is_measured,
        })
        .collect();
    let last = stages.last_mut().expect("there is always a stage");
    let end_ns = last.end_ns.unwrap_or(u64::MAX).min(load_end_ns);
    last.end_ns = (!schedule.is_closed() && end_ns < u64::MAX).then_some(end_ns);
    FlowPlan { name: flow.name.clone(), stages }
}

/// What an SLO may be about.
fn names(config: &Config) -> Names {
    let mut names = Names::default();
    for flow in &config.flows {
        let stages = flow_plan(flow, &flow.schedule(config.warmup_secs)).stages;
        names.stages.extend(stages.into_iter().filter(|it| !it.is_warmup).map(|it| it.name));
        names.flows.push(flow.name.clone());
    }
    names
}

/// What each shard is told: one [`Orders`] for each *lane*, a shard's part of a flow. A flow with
/// fewer workers than there are shards has as many lanes as workers, beginning at another shard
/// than the flow before it.
fn orders(config: &Config, halt: &Stop) -> Result<Channels, Error> {
    let counts: Vec<usize> =
        config.flows.iter().map(|flow| flow.concurrency.min(config.shards)).collect();
    let lanes: usize = counts.iter().sum();
    let (news, receiver) = sync_channel(NEWS_PER_LANE * lanes);
    let (go, ready) = async_channel::bounded(config.shards);
    let (blanks, emptied) = async_channel::bounded(2 * lanes);
    let run_id = config.run_id.as_deref().expect("resolved");
    let mut orders = vec![Vec::new(); config.shards];
    let (mut lane, mut shard) = (0, 0);
    for (index, (flow, parts)) in config.flows.iter().zip(counts).enumerate() {
        let schedule = Arc::new(flow.schedule(config.warmup_secs));
        let bounds = flow.bounds();
        let stages = flow_plan(flow, &schedule).stages;
        let workers = flow.concurrency as u64;
        let (batch_size, first, rest) = match schedule.is_closed() {
            true => dispatch::cut(bounds.total, workers, flow.batch_size),
            false => (flow.batch_size, vec![0; flow.concurrency], 0),
        };
        let rest = bounds.total.map(|_| Arc::new(AtomicU64::new(rest)));
        let addresses = addresses(flow)?;
        let tls = flow.tls()?;
        let token = flow.auth_token_file.as_ref().map(tls::token).transpose()?;
        let payloads = Payloads::new(config.seed, run_id, flow.payload_bytes);
        for part in 0..parts {
            let first: Vec<u64> = first.iter().skip(part).step_by(parts).copied().collect();
            orders[shard].push(Orders {
                flow: index,
                lane,
                lanes,
                part: Part::new(part as u64, parts as u64),
                workers: first.len(),
                scheme: flow.scheme,
                schedule: Arc::clone(&schedule),
                catch_up: flow.catch_up,
                pacing: config.pacing,
                batch_size,
                first,
                rest: rest.clone(),
                think_time: flow.think_time,
                connect: flow.connect,
                connection_max: flow.connection_secs_max,
                connection_messages_max: flow.connection_messages_max,
                payloads: payloads.clone(),
                addresses: addresses.clone(),
                tls: tls.clone(),
                compress: flow.compress,
                datagram_bytes: flow.udp_datagram_bytes,
                hello: flow.hello(token.clone()),
                seed: config.seed,
                reply_timeout: config.reply_timeout_secs,
                connect_timeout: config.connect_timeout_secs,
                keeps_ledger: config.ledger,
                halt: halt.clone(),
                stages: stages.clone(),
                news: news.clone(),
                blanks: emptied.clone(),
                go: ready.clone(),
            });
            lane += 1;
            shard = (shard + 1) % config.shards;
        }
    }
    Ok(Channels { orders, news: receiver, blanks, go })
}

/// The flow of each lane.
fn lanes(orders: &[Vec<Orders>]) -> Vec<usize> {
    let mut lanes: Vec<(usize, usize)> =
        orders.iter().flatten().map(|orders| (orders.lane, orders.flow)).collect();
    lanes.sort_unstable();
    lanes.into_iter().map(|(_, flow)| flow).collect()
}

/// Where the targets listen.
fn listens(orders: &[Vec<Orders>]) -> Vec<Listens> {
    let each = orders.iter().flatten().flat_map(|orders| {
        let is_udp = orders.scheme == Scheme::Udp;
        orders.addresses.iter().map(move |&at| Listens { at, is_udp })
    });
    each.collect()
}

/// Follows the shards from the main thread.
struct Coordinator<'a> {
    halt: &'a Stop,
    series: Series,
    blanks: async_channel::Sender<Latencies>,
    /// The flow of each lane.
    flows: Vec<usize>,
    ended: Vec<bool>,
    is_target_down: Vec<bool>,
    /// The flow whose target cannot be reached.
    unreachable: Option<usize>,
    referee: Referee,
    /// Why the referee ended the run.
    aborted: Option<String>,
}

impl<'a> Coordinator<'a> {
    fn new(
        config: &Config,
        flows: Vec<usize>,
        halt: &'a Stop,
        blanks: async_channel::Sender<Latencies>,
        referee: Referee,
    ) -> Coordinator<'a> {
        let is_open_loop = config.flows.iter().any(|flow| flow.shape != Shape::Closed);
        Coordinator {
            halt,
            series: Series::new(
                config
                    .flows
                    .iter()
                    .map(|flow| flow_plan(flow, &flow.schedule(config.warmup_secs)))
                    .collect(),
                &flows,
                is_open_loop,
            ),
            blanks,
            ended: vec![false; flows.len()],
            is_target_down: vec![false; flows.len()],
            flows,
            unreachable: None,
            referee,
            aborted: None,
        }
    }

    fn await_ready(&self, news: &Receiver<News>, shards: usize) {
        for _ in 0..shards {
            // A closed channel means that the shards have panicked; joining them says so.
            if news.recv().is_err() {
                return;
            }
        }
    }

    /// Until every shard has ended.
    fn follow(&mut self, news: &Receiver<News>, stop: &Stop, observer: &mut dyn Observer) {
        while self.ended.iter().any(|ended| !ended) {
            if let Some(cause @ (Cause::Interrupt | Cause::Terminate)) = stop.cause() {
                self.halt.request(cause);
            }
            match news.recv_timeout(GLANCE) {
                Ok(news) => self.take(news, observer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, news: News, observer: &mut dyn Observer) {
        let mut reason = None;
        let tell = |progress: &Progress<'_>| {
            reason = self.referee.second(progress).or(reason.take());
            observer.second(progress);
        };
        match news {
            News::Ready => {}
            News::Second { lane, index, second } => {
                self.series.close(lane, index, *second, tell);
            }
            News::TargetDown { lane, is_down } => self.is_target_down[lane] = is_down,
            News::Ended { lane, tail } => {
                self.ended[lane] = true;
                self.series.end(lane, *tail, tell);
            }
        }
        while let Some(blank) = self.series.take_blank() {
            if self.blanks.try_send(blank).is_err() {
                break;
            }
        }
        if !self.halt.is_requested() && reason.is_some() {
            self.aborted = reason;
            // As after a signal: what is under way has a second to come back.
            self.halt.request(Cause::Interrupt);
        }
        if !self.halt.is_requested()
            && let Some(flow) = self.flow_without_target()
        {
            self.unreachable = Some(flow);
            self.halt.request(Cause::Done);
        }
    }

    /// A flow that runs still, and none of whose lanes reaches the target.
    fn flow_without_target(&self) -> Option<usize> {
        let running = |flow: usize| {
            (0..self.flows.len()).filter(move |&lane| self.flows[lane] == flow && !self.ended[lane])
        };
        (0..=self.flows.iter().copied().max().unwrap_or_default()).find(|&flow| {
            running(flow).next().is_some() && running(flow).all(|lane| self.is_target_down[lane])
        })
    }
}

fn sum_up(
    config: &Config,
    coordinator: Coordinator<'_>,
    reports: Vec<Report>,
    mut manifest: Manifest,
) -> Outcome {
    let Coordinator { halt, series, unreachable, referee, aborted, .. } = coordinator;
    let resources = series.resources();
    let mut seen = Vec::with_capacity(reports.len());
    let mut load_ended_ns = 0;
    let run_id = config.run_id.clone().expect("resolved");
    let mut ledger = Ledger { run_id, connections: Vec::new() };
    let (mut last_failure, mut welcome) = (None, None);
    let mut less = BTreeSet::new();
    for report in reports {
        load_ended_ns = load_ended_ns.max(report.load_ended_ns);
        seen.push(report.seen);
        ledger.connections.extend(report.ledger);
        last_failure = report.last_failure.or(last_failure);
        if let Some(granted) = report.welcome {
            less.extend(less_than_asked(&config.flows[report.flow], &granted));
            welcome = Some(granted);
        }
    }
    ledger.connections.sort_by_key(|connection| connection.conn);

    let (totals, rows) = series.finish(load_ended_ns);
    let figures = Figures::new(&totals, Span { load_ended_ns, is_cut_short: halt.is_requested() });
    let load = figures.load;
    let end = End { totals: &totals, rows: &rows, figures: &figures, load_ended_ns, seen };
    let (slos, validity) = referee.finish(config, &manifest.environment, &end);
    let is_any = |state| slos.iter().any(|slo: &SloResult| slo.state == state);
    let is_lossy = load.error_rate() > config.max_error_rate;
    let cause = halt.cause().filter(|cause| *cause != Cause::Done && aborted.is_none());
    let verdict = match cause {
        _ if unreachable.is_some() => Verdict::Unreachable,
        Some(_) => Verdict::Interrupted,
        None if config.strict && !validity.is_valid => Verdict::Invalid,
        None if is_lossy || aborted.is_some() || is_any(SloState::Failed) => Verdict::Fail,
        None if is_any(SloState::NotAssessed) => Verdict::Inconclusive,
        None => Verdict::Pass,
    };
    let mut remarks = Vec::new();
    if unreachable.is_none() && figures.errors.contains_key(code::REFUSED) {
        remarks.extend(last_failure.iter().map(|reason| format!("refused: {reason}")));
    }
    if let Some(flow) = unreachable {
        let reason = last_failure.unwrap_or_default();
        remarks.push(format!(
            "no connection to {} for {} s (CONNECT_TIMEOUT_SECS): {reason}",
            config.flows[flow].target(),
            config.connect_timeout_secs.as_secs_f64(),
        ));
    } else if is_lossy && matches!(verdict, Verdict::Fail | Verdict::Invalid) {
        remarks.push(format!(
            "{:.2} % of the messages failed, more than {:.2} % (MAX_ERROR_RATE)",
            load.error_rate() * 100.0,
            config.max_error_rate * 100.0
        ));
    }
    remarks.extend(aborted.map(|reason| format!("ended early: {reason}")));
    remarks.extend(less);
    manifest.environment.granted = welcome.map(|welcome| Granted {
        replies: welcome.replies.to_string(),
        durability: welcome.durability.to_string(),
    });
    let mut summary = Summary::new(manifest, verdict, figures, resources, rows);
    (summary.slos, summary.validity) = (slos, Some(validity));
    if verdict == Verdict::Invalid {
        summary.withhold();
    }
    let exit_code = match (verdict, cause) {
        (Verdict::Pass, _) => exit_code::PASS,
        (Verdict::Fail, _) => exit_code::THRESHOLD,
        (Verdict::Invalid, _) => exit_code::INVALID,
        (Verdict::Inconclusive, _) => exit_code::INCONCLUSIVE,
        (Verdict::Unreachable, _) => exit_code::UNREACHABLE,
        (Verdict::Interrupted, cause) => cause.unwrap_or(Cause::Interrupt).exit_code(),
    };
    Outcome { summary, ledger, exit_code, remarks }
}

/// The server may grant less than was asked; then `ok` means less than was asked.
fn less_than_asked(flow: &Flow, welcome: &Welcome) -> Option<String> {
    let asked = flow.durability.filter(|asked| welcome.durability < *asked)?;
    Some(format!("asked for {asked} (DURABILITY), the target grants {}", welcome.durability))
}
