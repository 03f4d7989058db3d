//! Judges the run while it goes on: what it has to hold, and whether it can be believed.
//!
//! Owns the evidence from outside the shards: clocks, the target's process, the seconds as they
//! pass. Leaves the judgement to [`crate::measure::slo`] and [`crate::measure::validity`], which are
//! pure, and ending the run to the coordinator.
//! Invariant: nothing here touches a shard; what a shard saw of itself comes with its report.

use std::time::Instant;

use crate::calibrate::{Against, Drive, Key, store};
use crate::clock::nanos;
use crate::config::{Config, Scheme};
use crate::measure::environment::Environment;
use crate::measure::latencies::Latencies;
use crate::measure::progress::{Progress, SECOND_NS, Second, Sum, Totals};
use crate::measure::slo::SloResult;
use crate::measure::slo::judge::{Judge, Planned, Portion};
use crate::measure::stages::{FlowPlan, Stage};
use crate::measure::summary::{Figures, Span};
use crate::measure::tally::Counts;
use crate::measure::validity::clocks::Clocks;
use crate::measure::validity::little::{Flights, InFlight, Looks};
use crate::measure::validity::run_queue::{Ran, Threads};
use crate::measure::validity::steady::Steadiness;
use crate::measure::validity::target::{Listens, Watcher};
use crate::measure::validity::{Evidence, Validity};
use crate::pace;
use crate::plan::shape::{Arrivals, Pacing, Shape};

/// How exactly precise pacing meets due times on an undisturbed core.
const PRECISE_TICK_NS: u64 = 100_000;

/// What one lane saw of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Of its shard's thread.
    pub(crate) ran: Option<Ran>,
    /// Messages in flight, now and then.
    pub(crate) looks: Looks,
    /// For how long it looked.
    pub(crate) looked_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Referee {
    judge: Judge,
    /// What was known a second before, of each stage of each flow.
    last: Vec<Vec<Known>>,
    target: Watcher,
    begun: Option<(Instant, Option<Clocks>)>,
    /// Once it was looked up.
    ceiling_per_s: Option<Result<f64, String>>,
}

/// Counts of a stage since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    offered: u64,
    answered: u64,
    errors: u64,
    unanswered: u64,
    unsent: u64,
}

/// What is known at the end of a run.
pub(crate) struct End<'a> {
    pub(crate) totals: &'a Totals,
    pub(crate) rows: &'a [Second],
    pub(crate) figures: &'a Figures,
    pub(crate) load_ended_ns: u64,
    /// Of each lane.
    pub(crate) seen: Vec<Seen>,
}

impl Referee {
    /// Of a run of these flows, on `cpus`, against targets that listen at `listens`.
    pub(crate) fn new(config: &Config, listens: &[Listens], cpus: &[usize]) -> Referee {
        let plans: Vec<FlowPlan> = config
            .flows
            .iter()
            .map(|flow| crate::lanes::flow_plan(flow, &flow.schedule(config.warmup_secs)))
            .collect();
        Referee {
            judge: Judge::new(&config.slo, planned(config, &plans)),
            last: plans.iter().map(|plan| vec![Known::default(); plan.stages.len()]).collect(),
            target: Watcher::new(listens, cpus),
            begun: None,
            ceiling_per_s: None,
        }
    }

    /// The load begins.
    pub(crate) fn started(&mut self) {
        self.begun = Some((Instant::now(), Clocks::read()));
    }

    /// A second is over. Gives the reason to end the run, where there is one.
    pub(crate) fn second(&mut self, progress: &Progress<'_>) -> Option<String> {
        self.target.look();
        let end_ns = nanos(progress.elapsed);
        let index = (end_ns / SECOND_NS).saturating_sub(1);
        let mut portions = Vec::new();
        for (flow, (totals, last)) in progress.totals.flows.iter().zip(&mut self.last).enumerate() {
            let stages = totals.plan.stages.iter().zip(&totals.stages).zip(last);
            for (stage, ((plan, sum), last)) in stages.enumerate() {
                let now = Known::of(sum);
                let before = std::mem::replace(last, now);
                if plan.is_warmup || now.is_same(before) {
                    continue;
                }
                let slice = progress.slices.iter().find(|it| it.flow == flow && it.stage == stage);
                let latencies = slice.map(|slice| &slice.latencies);
                let (from_ns, to_ns) = (index * SECOND_NS, end_ns);
                portions.push(Known::portion(before, now, totals, plan, latencies, from_ns..to_ns));
            }
        }
        self.judge.second(index, &portions)
    }

    /// The results, and whether they can be believed.
    pub(crate) fn finish(
        self,
        config: &Config,
        environment: &Environment,
        end: &End<'_>,
    ) -> (Vec<SloResult>, Validity) {
        let ended_ns = end.figures.warmup_ns + end.figures.duration_ns;
        let mut portions = Vec::new();
        for totals in &end.totals.flows {
            for (stage, sum) in totals.plan.stages.iter().zip(&totals.stages) {
                let now = Known::of(sum);
                if stage.is_warmup || now.is_same(Known::default()) {
                    continue;
                }
                let span = stage.begin_ns..ended_ns;
                let latencies = Some(&sum.latencies);
                portions.push(Known::portion(
                    Known::default(),
                    now,
                    totals,
                    stage,
                    latencies,
                    span,
                ));
            }
        }
        let Referee { judge, target, begun, .. } = self;
        let mut evidence = evidence(config, end, begun);
        evidence.ceiling_per_s = ceiling(config, environment);
        evidence.shared = target.finish(evidence.elapsed_ns);
        (judge.finish(&portions), Validity::judge(&evidence))
    }

    /// Whether the run can be believed so far; what shards know of themselves they tell at the end.
    pub(crate) fn so_far(
        &mut self,
        config: &Config,
        environment: &Environment,
        progress: &Progress<'_>,
    ) -> Validity {
        let load_ended_ns = progress.second.end_ns;
        let span = Span { load_ended_ns, is_cut_short: true };
        let figures = Figures::new(progress.totals, span);
        let (totals, rows, seen) = (progress.totals, progress.rows, Vec::new());
        let end = End { totals, rows, figures: &figures, load_ended_ns, seen };
        let mut evidence = evidence(config, &end, self.begun);
        // What is under way is neither unsent nor late yet.
        evidence.unsent = totals.all.tally.counts.unsent;
        evidence.in_flight = Err("told at the end of the run".to_owned());
        let known = || ceiling(config, environment);
        evidence.ceiling_per_s = self.ceiling_per_s.get_or_insert_with(known).clone();
        evidence.shared = self.target.so_far(evidence.elapsed_ns);
        Validity::judge(&evidence)
    }
}

impl Known {
    fn of(sum: &Sum) -> Known {
        let Counts { ok, filtered, unacknowledged, malformed, unanswered, unsent, .. } =
            sum.tally.counts;
        Known {
            offered: sum.offered,
            answered: ok + filtered + unacknowledged + malformed.rejected,
            errors: sum.tally.counts.error(),
            unanswered,
            unsent,
        }
    }

    fn is_same(self, before: Known) -> bool {
        let Known { offered, answered, errors, unanswered, unsent } = self;
        (offered, answered, errors, unanswered, unsent)
            == (before.offered, before.answered, before.errors, before.unanswered, before.unsent)
    }

    /// What came from `before` to `now`, within `span` (ns since the start).
    fn portion<'a>(
        before: Known,
        now: Known,
        flow: &'a crate::measure::progress::FlowTotals,
        stage: &'a Stage,
        latencies: Option<&'a Latencies>,
        span: std::ops::Range<u64>,
    ) -> Portion<'a> {
        // The last stage goes on until the last reply; another one ends where the next begins.
        let is_last = flow.plan.stages.last() == Some(stage);
        let end_ns = stage.end_ns.filter(|_| !is_last).unwrap_or(u64::MAX);
        let begin_ns = span.start.max(stage.begin_ns).min(end_ns);
        Portion {
            flow: &flow.plan.name,
            stage: &stage.name,
            begin_ns,
            end_ns: span.end.min(end_ns).max(begin_ns),
            offered: now.offered.saturating_sub(before.offered),
            answered: now.answered - before.answered,
            errors: now.errors - before.errors,
            unanswered: now.unanswered - before.unanswered,
            unsent: now.unsent - before.unsent,
            latencies,
        }
    }
}

/// What the plan says about the measured part of the run.
fn planned(config: &Config, plans: &[FlowPlan]) -> Planned {
    let mut planned = Planned { messages: Some(0), duration_ns: Some(0) };
    for (flow, plan) in config.flows.iter().zip(plans) {
        let duration_ns = plan.end_ns().map(|end_ns| end_ns.saturating_sub(plan.warmup_ns()));
        planned.duration_ns = planned.duration_ns.zip(duration_ns).map(|(a, b)| a.max(b));
        let schedule = flow.schedule(config.warmup_secs);
        // Where the time is over first they are fewer: then nothing is proved too early.
        let messages = match schedule.is_closed() {
            true => flow.bounds().total,
            false => schedule.messages().map(|count| match flow.arrivals {
                Arrivals::Even => count,
                // On average; that there are more than six deviations more happens never.
                Arrivals::Poisson => count + 6 * count.isqrt() + 10,
            }),
        };
        planned.messages = planned.messages.zip(messages).map(|(a, b)| a + b);
    }
    planned
}

/// All but the ceiling and the target, which others look up.
fn evidence(config: &Config, end: &End<'_>, begun: Option<(Instant, Option<Clocks>)>) -> Evidence {
    let End { totals, rows, figures: Figures { load, rate, latency, .. }, load_ended_ns, seen } =
        end;
    let elapsed_ns = begun.map_or(0, |(at, _)| nanos(at.elapsed()));
    let clocks = begun.and_then(|(_, clocks)| Some(Clocks::read()?.since(clocks?)));
    Evidence {
        elapsed_ns,
        is_debug: cfg!(debug_assertions),
        is_open_loop: config.flows.iter().any(|flow| flow.shape != Shape::Closed),
        has_replies: config.flows.iter().any(|flow| flow.scheme != Scheme::Udp),
        offered: load.offered,
        unsent: load.unsent,
        sample: latency.response.count,
        response_p99_ns: latency.response.p99_ns,
        lag_p99_ns: latency.lag.p99_ns,
        lag_own_share: latency
            .lag
            .causes
            .filter(|_| latency.lag.count > 0)
            .map(|it| it.shard_busy.share + it.reader.share),
        tick_ns: match config.pacing {
            Pacing::Thrifty => pace::slot_ns(config.pacing),
            // A sleep overshoots by more than its slot.
            Pacing::Precise => PRECISE_TICK_NS,
        },
        is_spinning: config.pacing == Pacing::Precise,
        threads: Threads::new(seen.iter().map(|seen| seen.ran)),
        in_flight: in_flight(config, totals, seen),
        drift: clocks,
        rate_per_s: [rate.offered_per_s, rate.achieved_per_s]
            .into_iter()
            .flatten()
            .fold(0.0, f64::max),
        ceiling_per_s: Err(String::new()),
        shared: Err(String::new()),
        steadiness: steadiness(config, rows, *load_ended_ns),
    }
}

/// What this machine is known to offer at most for this load.
fn ceiling(config: &Config, environment: &Environment) -> Result<f64, String> {
    let key = Key::new(config, environment)?;
    let flow = &config.flows[0];
    let against = match flow.scheme {
        Scheme::Tcp => Against::Sink,
        Scheme::Null => Against::Null,
        Scheme::Tls | Scheme::Udp | Scheme::Http | Scheme::Https => {
            return Err("calibrate knows plain TCP only".to_owned());
        }
    };
    let drive = if flow.shape == Shape::Closed { Drive::Closed } else { Drive::Open };
    let state = config.state_dir().ok_or("there is no STATE_DIR to keep calibrations in")?;
    let found = store::find(&state, &key)?;
    found.ceiling(against, drive).ok_or_else(|| "the calibration lacks this loop".to_owned())
}

fn in_flight(config: &Config, totals: &Totals, seen: &[Seen]) -> Result<InFlight, String> {
    if config.flows.iter().any(|flow| matches!(flow.scheme, Scheme::Udp | Scheme::Null)) {
        return Err("without a target that replies nothing is in flight".to_owned());
    }
    let mut service = crate::measure::latencies::Latency::default();
    // The warm-up was looked at, too.
    for sum in totals.flows.iter().flat_map(|flow| &flow.stages) {
        service.add(&sum.latencies.service);
    }
    let (values, censored) = (service.values.len(), service.censored.len());
    let looks: Vec<(Looks, u64)> = seen.iter().map(|seen| (seen.looks, seen.looked_ns)).collect();
    let mean_ns = service.values.mean();
    InFlight::new(&looks, Flights { count: values + censored, censored, mean_ns })
}

fn steadiness(config: &Config, rows: &[Second], load_ended_ns: u64) -> Result<Steadiness, String> {
    let is_level = |shape: &Shape| matches!(shape, Shape::Closed | Shape::Constant(_));
    if !config.flows.iter().all(|flow| is_level(&flow.shape)) {
        return Err("the load changes by plan".to_owned());
    }
    let is_whole = |row: &&Second| {
        !row.warmup && row.end_ns.is_multiple_of(SECOND_NS) && row.end_ns <= load_ended_ns
    };
    let rows: Vec<&Second> = rows.iter().filter(is_whole).collect();
    let is_answered = config.flows.iter().any(|flow| flow.scheme != Scheme::Udp);
    let count = |row: &&Second| match is_answered {
        true => row.ok + row.filtered + row.rejected,
        false => row.sent,
    };
    let throughput: Vec<f64> = rows.iter().map(|row| count(row) as f64).collect();
    let medians: Vec<f64> =
        rows.iter().filter_map(|row| row.response_p50_ns).map(|ns| ns as f64).collect();
    Steadiness::new(&throughput, &medians)
}
