//! A second as the places need it: owned, so that it can go to their threads.
//!
//! Owns what is taken along. The heavy parts (histograms, a summary so far) are made only for a run
//! that is kept in a folder.

use std::time::{Duration, Instant};

use loadgen::measure::latencies::{self, Latencies, Latency};
use loadgen::measure::progress::Second;
use loadgen::summary::Summary;
use loadgen::{Manifest, Progress};

use super::folder::Three;

/// One second.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Since the start.
    pub(crate) elapsed: Duration,
    /// The row.
    pub(crate) second: Second,
    /// Whether the load follows a schedule.
    pub(crate) is_open_loop: bool,
    /// Failed since the start.
    pub(crate) errors: u64,
    /// Failed since the start, as a share of what was sent.
    pub(crate) error_rate: f64,
    /// The second as a line.
    pub(crate) line: String,
    /// Where each flow of several stages is, in the order of the plan.
    pub(crate) stages: Vec<Running>,
    /// For a folder.
    pub(crate) kept: Option<Kept>,
}

/// The stage that was running when a second ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) flow: String,
    pub(crate) stage: String,
    /// From 1.
    pub(crate) number: usize,
    /// Stages of the flow.
    pub(crate) of: usize,
    /// When it began, ns since the start.
    pub(crate) begin_ns: u64,
    /// Nothing of it is measured.
    pub(crate) is_warmup: bool,
}

/// What a folder keeps of a second.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The run so far, without its series; not each second where making it takes long.
    pub(crate) checkpoint: Option<Box<Summary>>,
    /// The histograms of the second, without warm-up.
    pub(crate) latencies: Three,
}

impl Seen {
    /// Takes along what every place needs.
    pub(crate) fn of(progress: &Progress<'_>) -> Seen {
        Seen {
            elapsed: progress.elapsed,
            second: progress.second.clone(),
            is_open_loop: progress.open_loop,
            errors: progress.errors,
            error_rate: progress.error_rate,
            line: progress.to_string(),
            stages: running(progress),
            kept: None,
        }
    }
}

fn running(progress: &Progress<'_>) -> Vec<Running> {
    let plans = progress.totals.flows.iter().map(|flow| &flow.plan);
    let plans = plans.filter(|plan| plan.stages.len() > 1);
    let running = plans.map(|plan| {
        let index = plan.stage_at(progress.second.end_ns.saturating_sub(1));
        let stage = &plan.stages[index];
        Running {
            flow: plan.name.clone(),
            stage: stage.name.clone(),
            number: index + 1,
            of: plan.stages.len(),
            begin_ns: stage.begin_ns,
            is_warmup: stage.is_warmup,
        }
    });
    running.collect()
}

/// Checkpoints take at most one part in so many of a core: a run of many stages has many
/// histograms to sum up.
const SHARE: u32 = 50;

/// When the next checkpoint may be made.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rests_until: Option<Instant>,
}

impl Pace {
    /// What a folder keeps of this second.
    pub(crate) fn keep(&mut self, progress: &Progress<'_>, manifest: &Manifest) -> Kept {
        let begin = Instant::now();
        let rests = self.rests_until.is_some_and(|until| begin < until);
        let checkpoint = (!rests).then(|| {
            let mut summary = Box::new(Summary::so_far(manifest, progress));
            // It grows with the run, and stands in the rows.
            summary.series = Vec::new();
            self.rests_until = Some(begin + begin.elapsed() * SHARE);
            summary
        });
        Kept { checkpoint, latencies: three(progress) }
    }
}

/// What was given up counts at the time up to which it was watched, as in the summary.
fn three(progress: &Progress<'_>) -> Three {
    let Latencies { response, service, lag } = progress.latencies();
    [response, service, lag].map(|Latency { mut values, censored }| {
        latencies::add(&mut values, &censored);
        values
    })
}
