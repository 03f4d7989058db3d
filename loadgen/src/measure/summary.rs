//! The whole run as data: the JSON document, field by field.
//!
//! Owns its shape, and its version. [`figures`] turns what was counted into messages and rates,
//! [`latency`] says what of the percentiles may be said, [`text`] prints it. Leaves counting to
//! [`super::recorder`] and merging to [`super::progress`].

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::pacing::PacingReport;
use super::progress::{Progress, Second};
use super::resources::Resources;
use super::slo::SloResult;
use super::validity::Validity;
use crate::observer::Manifest;
use crate::replay::report::Recording;

pub mod figures;
pub mod latency;
pub mod schema;
pub mod steps;
pub mod text;

pub use figures::{Figures, Lines, Load, Rate, Section, Span, Statuses};
pub(crate) use figures::{is_zero, share};
pub(crate) use latency::percentile_of_second;
pub use latency::{Interval, Intervals, LagCause, LagCauses, LatencySummaries, LatencySummary};
pub use steps::StepSection;
pub use text::{rate, thousands, time};

/// The version of the JSON document; it changes when a field changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;
/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ran as asked, and every SLO and MAX_ERROR_RATE held.
    Pass,
    /// An SLO failed, or more messages than MAX_ERROR_RATE allows.
    Fail,
    /// An SLO could not be assessed, and none failed.
    Inconclusive,
    /// The generator cannot vouch for the figures, and STRICT asks that it must.
    #[default]
    Invalid,
    /// A signal cut it short.
    Interrupted,
    /// No connection to the target for CONNECT_TIMEOUT_SECS.
    Unreachable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Inconclusive => "INCONCLUSIVE",
            Verdict::Invalid => "INVALID",
            Verdict::Interrupted => "INTERRUPTED",
            Verdict::Unreachable => "UNREACHABLE",
        })
    }
}

/// Who measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// `logboom-loadgen`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A run, summed up: the JSON document, field by field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who measured.
    pub tool: Tool,
    /// What it came to.
    pub verdict: Verdict,
    /// Every knob as it was resolved.
    pub config: serde_json::Value,
    /// What fixes payloads and jitter.
    pub seed: u64,
    /// Where it ran.
    pub environment: Environment,
    /// When, UTC.
    pub started_at: String,
    /// How long it was warmed up before: nothing of that is in a figure.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warmup_ns: u64,
    /// From the start, or the end of the warm-up, to the end of the load or the last reply,
    /// whichever was later.
    pub duration_ns: u64,
    /// Counts of messages.
    pub load: Load,
    /// Messages a second.
    pub rate: Rate,
    /// Times.
    pub latency: LatencySummaries,
    /// Failed messages by code.
    pub errors: BTreeMap<String, u64>,
    /// Responses over HTTP, where it was spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Statuses>,
    /// How long the lines were; `null` if none was written.
    #[serde(default)]
    pub lines: Option<Lines>,
    /// The same for each flow, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<Section>,
    /// The same for each stage that has begun, of flows with several of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Section>,
    /// Of journeys, step by step; only at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepSection>,
    /// What had to hold, and whether it did, in the order in which it was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slos: Vec<SloResult>,
    /// Whether the run can be believed; `null` while it goes on.
    #[serde(default)]
    pub validity: Option<Validity>,
    /// What it cost.
    pub resources: Resources,
    /// What keeping to the schedule took; only at the end, and not in closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<PacingReport>,
    /// What was replayed, and how it compares with what was recorded; only at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recordings: Vec<Recording>,
    /// Each second.
    pub series: Vec<Second>,
}

impl Summary {
    /// A run of which `manifest` says how it began, and `figures` what it came to.
    pub fn new(
        manifest: Manifest,
        verdict: Verdict,
        figures: Figures,
        resources: Resources,
        series: Vec<Second>,
    ) -> Summary {
        let Manifest { schema_version, tool, run_id: _, seed, config, environment, started_at } =
            manifest;
        let Figures {
            warmup_ns,
            duration_ns,
            load,
            rate,
            latency,
            errors,
            http,
            lines,
            flows,
            stages,
        } = figures;
        Summary {
            schema_version,
            tool,
            verdict,
            config: serde_json::to_value(config).expect("a config is plain data"),
            seed,
            environment,
            started_at,
            warmup_ns,
            duration_ns,
            load,
            rate,
            latency,
            errors,
            http,
            lines,
            flows,
            stages,
            steps: Vec::new(),
            slos: Vec::new(),
            validity: None,
            resources,
            pacing: None,
            recordings: Vec::new(),
            series,
        }
    }

    /// Takes back every rate and time, and what was judged by them: nobody shall quote them. Counts
    /// stay, and so do the seconds, which show what went wrong.
    pub fn withhold(&mut self) {
        let sections = self.flows.iter_mut().chain(&mut self.stages);
        let all = sections.map(|it| (&mut it.rate, &mut it.latency));
        for (rate, latency) in all.chain([(&mut self.rate, &mut self.latency)]) {
            *rate = Rate::default();
            for latency in [&mut latency.response, &mut latency.service, &mut latency.lag] {
                let LatencySummary { count, censored, .. } = *latency;
                *latency = LatencySummary { count, censored, ..LatencySummary::default() };
            }
        }
        for StepSection { service, .. } in &mut self.steps {
            let LatencySummary { count, censored, .. } = *service;
            *service = LatencySummary { count, censored, ..LatencySummary::default() };
        }
        self.slos.iter_mut().for_each(SloResult::withhold);
    }

    /// What a run has come to so far: as if it were killed now, with what is under way counted as
    /// unanswered and unsent.
    pub fn so_far(manifest: &Manifest, progress: &Progress<'_>) -> Summary {
        let Progress { totals, rows, resources, second, .. } = progress;
        let figures =
            Figures::new(totals, Span { load_ended_ns: second.end_ns, is_cut_short: true });
        Summary::new(manifest.clone(), Verdict::Interrupted, figures, *resources, rows.to_vec())
    }
}
