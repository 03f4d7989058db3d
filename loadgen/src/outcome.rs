//! What a run leaves behind: the summary, the verdict, and the exit code.
//!
//! Owns the verdict's order: a target that cannot be reached, a signal, a measurement that is not
//! valid (STRICT), a condition that does not hold, one that cannot be decided.

use std::collections::BTreeSet;

use proto::hello::Welcome;
use runtime::exit_code;
use runtime::stop::Cause;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Flow};
use crate::coordinator::Coordinator;
use crate::measure::environment::Granted;
use crate::measure::ledger::Ledger;
use crate::measure::pacing::PacingReport;
use crate::measure::slo::{SloResult, SloState};
use crate::measure::summary::{Figures, Span, StepSection, Summary, Verdict};
use crate::measure::tally::{StepTally, code};
use crate::observer::Manifest;
use crate::referee::End;
use crate::replay::report::Recording;
use crate::shard::Report;

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

/// Sums up a run that is over.
pub(crate) fn sum_up(
    config: &Config,
    coordinator: Coordinator<'_>,
    reports: Vec<Report>,
    mut recordings: Vec<Recording>,
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
    let mut pacing = PacingReport::default();
    let mut steps = vec![Vec::new(); config.flows.len()];
    for report in reports {
        pacing.add(&report.pacing);
        load_ended_ns = load_ended_ns.max(report.load_ended_ns);
        seen.push(report.seen);
        ledger.connections.extend(report.ledger);
        last_failure = report.last_failure.or(last_failure);
        add_steps(&mut steps[report.flow], report.steps);
        if let Some(granted) = report.welcome {
            less.extend(less_than_asked(&config.flows[report.flow], &granted));
            welcome = Some(granted);
        }
    }
    ledger.connections.sort_by_key(|connection| connection.conn);

    let (totals, rows) = series.finish(load_ended_ns);
    let figures = Figures::new(&totals, Span { load_ended_ns, is_cut_short: halt.is_requested() });
    let load = figures.load;
    recordings.iter_mut().for_each(|recording| recording.compare(&figures, &totals));
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
    summary.recordings = recordings;
    summary.steps = step_sections(config, &steps);
    summary.pacing = (!pacing.is_idle()).then_some(pacing);
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

fn add_steps(sums: &mut Vec<StepTally>, others: Vec<StepTally>) {
    for (index, other) in others.into_iter().enumerate() {
        match sums.get_mut(index) {
            Some(sum) => sum.add(&other),
            None => sums.push(other),
        }
    }
}

/// Every step of every journey, also those to which none came.
fn step_sections(config: &Config, tallies: &[Vec<StepTally>]) -> Vec<StepSection> {
    let has_flows = config.flows.len() > 1;
    let mut sections = Vec::new();
    for (flow, tallies) in config.flows.iter().zip(tallies) {
        for (index, text) in flow.steps.iter().enumerate() {
            let tally = tallies.get(index).cloned().unwrap_or_default();
            let name = text.name.clone().unwrap_or_else(|| format!("step{}", index + 1));
            let flow = has_flows.then(|| flow.name.clone());
            sections.push(StepSection::new(flow, index as u64 + 1, name, &tally));
        }
    }
    sections
}

/// The server may grant less than was asked; then `ok` means less than was asked.
fn less_than_asked(flow: &Flow, welcome: &Welcome) -> Option<String> {
    let asked = flow.durability.filter(|asked| welcome.durability < *asked)?;
    Some(format!("asked for {asked} (DURABILITY), the target grants {}", welcome.durability))
}
