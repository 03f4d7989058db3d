//! The live view on a terminal: what the run is doing, drawn anew in place four times a second.
//!
//! Owns what is remembered for it, which is bounded. [`picture`] lays it out, [`terminal`] draws.
//! Shows what is so, in this second; what may be said of the run is said by the summary.

mod picture;
mod terminal;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadgen::Manifest;
use loadgen::config::Config;
use loadgen::plan::shape::Shape;

use self::terminal::Terminal;
use super::seen::Seen;
use super::sink::{Ending, Told};

/// Seconds that a line of the recent past shows at most.
const HISTORY: usize = 120;

/// The view, and where it is drawn.
#[derive(Debug)]
pub(crate) struct Live {
    state: State,
    began: Option<Instant>,
    terminal: Terminal,
}

impl Live {
    /// On the terminal that stderr is; `None` where it is none, or one that cannot be drawn on.
    pub(crate) fn open() -> Option<Live> {
        let terminal = Terminal::on_stderr()?;
        Some(Live { state: State::default(), began: None, terminal })
    }

    /// Takes note, and shows it.
    pub(crate) fn tell(&mut self, told: &Told) {
        match told {
            Told::Started(manifest) => {
                self.state.start(manifest);
                self.began = Some(Instant::now());
            }
            Told::Second(seen) => self.state.second(seen),
            Told::Warning(text) => self.terminal.say(&format!("warning: {text}")),
            Told::Ended(ending) => self.state.end(ending),
        }
        self.draw();
    }

    /// Draws what the clock has changed.
    pub(crate) fn draw(&mut self) {
        let Some(began) = self.began else { return };
        if self.state.ended.is_none() {
            self.state.elapsed = began.elapsed();
        }
        let state = &self.state;
        self.terminal.draw(|width, height| picture::draw(state, width, height));
    }
}

/// What is remembered of the run.
#[derive(Clone, Debug, Default)]
struct State {
    /// Where the load goes, and how.
    title: String,
    run_id: String,
    plan: Plan,
    is_debug: bool,
    elapsed: Duration,
    latest: Option<Arc<Seen>>,
    sums: Sums,
    rates: VecDeque<u64>,
    p99s: VecDeque<Option<u64>>,
    ended: Option<Ended>,
}

/// Where it ends, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Plan {
    lasts: Option<Duration>,
    messages: Option<u64>,
}

/// Since the start, as the seconds told it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    offered: u64,
    sent: u64,
    ok: u64,
    filtered: u64,
    failed: u64,
    failed_share: f64,
}

/// How it ended.
#[derive(Clone, Debug)]
struct Ended {
    verdict: Option<loadgen::Verdict>,
}

impl State {
    fn start(&mut self, manifest: &Manifest) {
        self.title = title(&manifest.config);
        self.run_id.clone_from(&manifest.run_id);
        self.plan = Plan::of(&manifest.config);
        self.is_debug = manifest.environment.build == "debug";
    }

    fn second(&mut self, seen: &Arc<Seen>) {
        let second = &seen.second;
        self.sums.offered += second.offered;
        self.sums.sent += second.sent;
        self.sums.ok += second.ok;
        self.sums.filtered += second.filtered;
        (self.sums.failed, self.sums.failed_share) = (seen.errors, seen.error_rate);
        push(&mut self.rates, second.ok + second.filtered);
        push(&mut self.p99s, second.response_p99_ns);
        self.latest = Some(Arc::clone(seen));
    }

    fn end(&mut self, ending: &Ending) {
        let summary = ending.outcome.as_ref().map(|outcome| &outcome.summary);
        self.ended = Some(Ended { verdict: summary.map(|summary| summary.verdict) });
        if let Some(summary) = summary {
            self.elapsed = Duration::from_nanos(summary.duration_ns);
            // What came after the last whole second was not told.
            let load = &summary.load;
            self.sums = Sums {
                offered: load.offered,
                sent: load.sent,
                ok: load.ok,
                filtered: load.filtered,
                failed: load.error + load.unanswered,
                failed_share: load.error_rate(),
            };
        }
    }

    /// How much of it is done, and how long the rest takes.
    fn progress(&self) -> (Option<f64>, Option<Duration>) {
        let elapsed = self.elapsed.as_secs_f64();
        let by_time = self.plan.lasts.map(|lasts| {
            (elapsed / lasts.as_secs_f64().max(1e-9), lasts.saturating_sub(self.elapsed))
        });
        let by_count = self.plan.messages.and_then(|messages| {
            let told_s = self.latest.as_ref()?.elapsed.as_secs_f64();
            let rate = self.sums.sent as f64 / told_s;
            let sent = self.sums.sent as f64 + rate * (elapsed - told_s).max(0.0);
            let left_s = (messages as f64 - sent).max(0.0) / rate;
            let left = Duration::try_from_secs_f64(left_s).unwrap_or(Duration::MAX);
            Some((sent / messages as f64, left))
        });
        let first = [by_time, by_count].into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0));
        match first {
            Some((done, left)) => (Some(done.min(1.0)), Some(left)),
            None => (None, None),
        }
    }
}

fn push<T>(history: &mut VecDeque<T>, value: T) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(value);
}

impl Plan {
    /// Of all flows: over when the last one is.
    fn of(config: &Config) -> Plan {
        let mut plan = Plan { lasts: Some(Duration::ZERO), messages: Some(0) };
        for flow in &config.flows {
            let bounds = flow.bounds();
            let lasts = bounds.duration_ns.map(Duration::from_nanos);
            let lasts = match flow.shape.lasts() {
                Some(own) => Some(lasts.map_or(own, |lasts| lasts.min(own))),
                None => lasts,
            };
            plan.lasts = plan.lasts.zip(lasts).map(|(known, lasts)| known.max(lasts));
            plan.messages = plan.messages.zip(bounds.total).map(|(known, total)| known + total);
        }
        plan.lasts = plan.lasts.map(|lasts| lasts + config.warmup_secs);
        plan
    }
}

fn title(config: &Config) -> String {
    let workers =
        |count: usize| if count == 1 { "1 worker".into() } else { format!("{count} workers") };
    match config.flows.as_slice() {
        [flow] => {
            let shape = match flow.shape {
                Shape::Closed => "closed loop".to_owned(),
                _ => flow.shape.to_string(),
            };
            format!("{}  {shape}  {}", flow.target(), workers(flow.concurrency))
        }
        flows => {
            let names: Vec<&str> = flows.iter().map(|flow| flow.name.as_str()).collect();
            let first = flows[0].target();
            let same = flows.iter().all(|flow| flow.target() == first);
            let target = if same { first } else { "several targets".to_owned() };
            format!("{target}  flows {}  {}", names.join(", "), workers(config.concurrency()))
        }
    }
}
