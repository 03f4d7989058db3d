//! What the counts of a run, a flow or a stage come to: messages, rates, times.
//!
//! Owns from when to when a rate is taken. Works at the end of a run and at any second of it: what
//! is under way then counts as unanswered or unsent, as it would if the run were killed now.
//! Invariant: `offered = sent + unsent` and
//! `sent = ok + filtered + error + unanswered + unacknowledged + malformed.rejected`, in each
//! section.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LatencySummaries;
use crate::measure::progress::{Sum, Totals};
use crate::measure::tally::{Counts, LineSizes, Malformed};

/// Counts of messages: `offered = sent + unsent`,
/// `sent = ok + filtered + error + unanswered + unacknowledged + malformed.rejected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Due within the run.
    pub offered: u64,
    /// Handed to a connection, or refused one.
    pub sent: u64,
    /// Answered `ok`.
    pub ok: u64,
    /// Answered `filtered`.
    pub filtered: u64,
    /// Failed: Σ `errors`.
    pub error: u64,
    /// Sent, and not answered up to the end.
    pub unanswered: u64,
    /// Sent over a protocol that has no replies (UDP): what became of them is not known here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unacknowledged: u64,
    /// Due, and not sent.
    pub unsent: u64,
    /// Of those that were sent, the ones that are broken on purpose (MALFORMED).
    #[serde(default, skip_serializing_if = "Malformed::is_none")]
    pub malformed: Malformed,
}

impl Load {
    /// The counts of `sum`. What is not settled yet is unanswered, what is not taken up yet unsent.
    pub fn new(sum: &Sum) -> Load {
        let counts = &sum.tally.counts;
        let Counts { sent, ok, filtered, unanswered, unacknowledged, unsent, malformed, .. } =
            *counts;
        // Of a run that goes on a little more may be sent than was due at the second's end.
        let unsent = unsent + sum.offered.saturating_sub(sent + unsent);
        Load {
            offered: sent + unsent,
            sent,
            ok,
            filtered,
            error: counts.error(),
            unanswered: unanswered + counts.in_flight(),
            unacknowledged,
            unsent,
            malformed,
        }
    }

    /// The share of the offered messages that failed, were left unanswered, or were not sent.
    pub fn error_rate(&self) -> f64 {
        share(self.error + self.unanswered + self.unsent, self.offered)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `part / whole`, and 0 of nothing.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// How long the lines were that were written, with their newlines, before COMPRESS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lines {
    /// Bytes, on average.
    pub mean_bytes: f64,
    /// Bytes of the longest.
    pub max_bytes: u64,
}

impl Lines {
    /// Of all lines; `None` if there was none.
    pub fn new(sizes: LineSizes) -> Option<Lines> {
        let LineSizes { count, bytes, bytes_max } = sizes;
        let mean_bytes = (count > 0).then(|| bytes as f64 / count as f64)?;
        Some(Lines { mean_bytes, max_bytes: bytes_max })
    }
}

/// Messages a second over `duration_ns`; `null` where they are withheld.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rate {
    /// Offered, over the time in which load was offered.
    pub offered_per_s: Option<f64>,
    /// Answered `ok` or `filtered` (or sent, where nothing is answered; or rejected, where that is
    /// asked for), over the run's duration.
    pub achieved_per_s: Option<f64>,
}

fn per_second(count: u64, duration_ns: u64) -> Option<f64> {
    Some(if duration_ns == 0 { 0.0 } else { count as f64 * 1e9 / duration_ns as f64 })
}

/// A flow of several, or a stage of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Section {
    /// Of the flow or the stage.
    pub name: String,
    /// Of a stage: its flow, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// When its first message is due at the earliest, ns since the start.
    pub begin_ns: u64,
    /// When its load ended, ns since the start.
    pub end_ns: u64,
    /// Messages that are due in it, whenever they were answered.
    pub load: Load,
    /// Offered from its begin to its end; achieved until its last reply, if that came later.
    pub rate: Rate,
    /// Times of these messages.
    pub latency: LatencySummaries,
    /// Failed messages by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Responses over HTTP, where it was spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Statuses>,
}

/// Responses over HTTP by their status. Those of a request that was given up are in neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Statuses {
    /// By class: `1xx` to `5xx`, and whatever else a server made up.
    pub classes: BTreeMap<String, u64>,
    /// Each by itself.
    pub statuses: BTreeMap<String, u64>,
}

impl Statuses {
    /// `None` where no response came.
    fn new(counts: &Counts) -> Option<Statuses> {
        let mut found = Statuses::default();
        for (status, count) in &counts.statuses {
            *found.classes.entry(format!("{}xx", status / 100)).or_default() += count;
            found.statuses.insert(status.to_string(), *count);
        }
        (!found.statuses.is_empty()).then_some(found)
    }
}

/// How a run's load ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When no more was taken up, ns since the start; now, of a run that goes on.
    pub load_ended_ns: u64,
    /// Otherwise than by its plan, or not at all yet.
    pub is_cut_short: bool,
}

/// The figures of a whole run, without its warm-up.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// How long the warm-up took.
    pub warmup_ns: u64,
    /// From its end to the end of the load or the last reply, whichever was later.
    pub duration_ns: u64,
    /// All flows and stages.
    pub load: Load,
    /// Of these.
    pub rate: Rate,
    /// Of these.
    pub latency: LatencySummaries,
    /// Of these.
    pub errors: BTreeMap<String, u64>,
    /// Of these.
    pub http: Option<Statuses>,
    /// Of these.
    pub lines: Option<Lines>,
    /// Each flow, where there are several.
    pub flows: Vec<Section>,
    /// Each stage that has begun, of flows that have several beside a warm-up.
    pub stages: Vec<Section>,
}

impl Figures {
    /// The figures of `totals`.
    pub fn new(totals: &Totals, span: Span) -> Figures {
        let whole = |name: &str, sum: &Sum, begin_ns, planned_ns| {
            let offered_until_ns = match planned_ns {
                Some(end_ns) if span.is_cut_short => span.load_ended_ns.min(end_ns),
                Some(end_ns) => end_ns,
                // In closed loop the replies pace the load.
                None => span.load_ended_ns.max(sum.tally.last_answer_ns),
            };
            section(name, sum, begin_ns, span.load_ended_ns, offered_until_ns)
        };
        let mut flows = Vec::new();
        let mut stages = Vec::new();
        let mut planned_ns = Some(0);
        let has_flows = totals.flows.len() > 1;
        for flow in &totals.flows {
            let plan = &flow.plan;
            planned_ns = planned_ns.zip(plan.end_ns()).map(|(one, other)| one.max(other));
            if has_flows {
                flows.push(whole(&plan.name, &flow.all, plan.warmup_ns(), plan.end_ns()));
            }
            let measured = || plan.stages.iter().zip(&flow.stages).filter(|(it, _)| !it.is_warmup);
            if plan.measured() < 2 {
                continue;
            }
            for (stage, sum) in measured().filter(|(it, _)| it.begin_ns < span.load_ended_ns) {
                // A total may end the load before the stages do.
                let load_end_ns =
                    plan.end_ns().filter(|_| !span.is_cut_short).unwrap_or(span.load_ended_ns);
                let end_ns = stage.end_ns.unwrap_or(load_end_ns).min(load_end_ns);
                let mut section = section(&stage.name, sum, stage.begin_ns, end_ns, end_ns);
                section.flow = has_flows.then(|| plan.name.clone());
                stages.push(section);
            }
        }
        let warmup_ns = totals.warmup_ns();
        let Section { begin_ns, load, rate, latency, errors, http, .. } =
            whole("", &totals.all, warmup_ns, planned_ns);
        let end_ns = span.load_ended_ns.max(totals.all.tally.last_answer_ns);
        Figures {
            warmup_ns,
            duration_ns: end_ns.saturating_sub(begin_ns),
            load,
            rate,
            latency,
            errors,
            http,
            lines: Lines::new(totals.all.tally.lines),
            flows,
            stages,
        }
    }
}

fn section(name: &str, sum: &Sum, begin_ns: u64, end_ns: u64, offered_until_ns: u64) -> Section {
    let load = Load::new(sum);
    let answered_until_ns = end_ns.max(sum.tally.last_answer_ns);
    Section {
        name: name.to_owned(),
        flow: None,
        begin_ns,
        end_ns,
        load,
        rate: Rate {
            offered_per_s: per_second(load.offered, offered_until_ns.saturating_sub(begin_ns)),
            achieved_per_s: per_second(
                load.ok + load.filtered + load.unacknowledged + load.malformed.rejected,
                answered_until_ns.saturating_sub(begin_ns),
            ),
        },
        latency: LatencySummaries::new(sum),
        errors: sum.tally.counts.errors.clone(),
        http: Statuses::new(&sum.tally.counts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::progress::{Series, ShardSecond};
    use crate::measure::recorder::{Interval, Recorder};
    use crate::measure::stages::{FlowPlan, Stage};
    use crate::measure::tally::Answer;

    const SECOND_NS: u64 = 1_000_000_000;

    fn stage(name: &str, begin_s: u64, end_s: u64) -> Stage {
        let (begin_ns, end_ns) = (begin_s * SECOND_NS, Some(end_s * SECOND_NS));
        Stage { name: name.into(), begin_ns, end_ns, is_warmup: name == "warmup" }
    }

    fn record(recorder: &mut Recorder, stage: usize, sent: u64, ok: u64, at_ns: u64) {
        let mut stage = recorder.stage(stage);
        stage.taken(sent);
        stage.answered(Answer::Ok, ok);
        stage.sent(at_ns, at_ns, sent);
        stage.served(at_ns - 1000, at_ns, ok);
        stage.responded(at_ns - 1000, at_ns, ok);
        stage.heard(at_ns);
    }

    fn is_balanced(load: Load) -> bool {
        let settled = load.ok
            + load.filtered
            + load.error
            + load.unanswered
            + load.unacknowledged
            + load.malformed.rejected;
        load.offered == load.sent + load.unsent && load.sent == settled
    }

    #[test]
    fn stages_are_told_apart_and_a_warm_up_is_in_no_figure() {
        let stages = vec![stage("warmup", 0, 1), stage("low", 1, 3), stage("high", 3, 4)];
        let plan = FlowPlan { name: "main".into(), stages };
        let mut series = Series::new(vec![plan], &[0], true);
        let mut recorder = Recorder::new(3);
        for (second, stage, messages) in [(0, 0, 50), (1, 1, 100), (2, 1, 100), (3, 2, 1000)] {
            let at_ns = second as u64 * SECOND_NS + SECOND_NS / 2;
            record(&mut recorder, stage, messages, messages, at_ns);
            let offered = (0..3).map(|stage| recorder.counts_of(stage).sent).collect();
            let interval = recorder.close_interval();
            series.close(0, second, ShardSecond { offered, interval }, |_| ());
        }
        // A hundred are late, and answered half a second after the end.
        record(&mut recorder, 2, 100, 100, 4 * SECOND_NS + SECOND_NS / 2);
        let (offered, interval) = (vec![50, 200, 1100], recorder.close_interval());
        series.end(0, ShardSecond { offered, interval }, |_| ());
        let (totals, _) = series.finish(5 * SECOND_NS);
        let span = Span { load_ended_ns: 4 * SECOND_NS, is_cut_short: false };
        let figures = Figures::new(&totals, span);
        assert_eq!((figures.warmup_ns, figures.duration_ns), (SECOND_NS, 3_500_000_000));
        assert_eq!((figures.load.offered, figures.load.ok), (1300, 1300));
        assert_eq!(figures.latency.response.count, 1300);
        assert_eq!(figures.rate.offered_per_s, Some(1300.0 / 3.0));
        assert_eq!(figures.rate.achieved_per_s, Some(1300.0 / 3.5));
        assert!(figures.flows.is_empty());
        let [low, high] = &figures.stages[..] else { panic!("{:?}", figures.stages) };
        assert_eq!((&low.name[..], low.load.ok, low.rate.offered_per_s), ("low", 200, Some(100.0)));
        assert_eq!(
            (&high.name[..], high.load.ok, high.rate.offered_per_s),
            ("high", 1100, Some(1100.0))
        );
        assert_eq!(high.rate.achieved_per_s, Some(1100.0 / 1.5));
        assert_eq!((high.begin_ns, high.end_ns), (3 * SECOND_NS, 4 * SECOND_NS));
        assert_eq!((low.latency.response.count, &low.flow), (200, &None));
    }

    #[test]
    fn a_run_that_goes_on_is_summed_up_as_if_it_were_killed_now() {
        let flows = ["base", "burst"].map(|name| FlowPlan::of_one_stage(name, Some(9 * SECOND_NS)));
        let mut series = Series::new(flows.to_vec(), &[0, 1], true);
        let idle = ShardSecond { offered: vec![0], interval: Interval::default() };
        series.close(1, 0, idle, |_| ());
        let mut recorder = Recorder::default();
        record(&mut recorder, 0, 90, 70, SECOND_NS / 2);
        let second = ShardSecond { offered: vec![100], interval: recorder.close_interval() };
        let mut told = 0;
        series.close(0, 0, second, |progress| {
            let span = Span { load_ended_ns: SECOND_NS, is_cut_short: true };
            let figures = Figures::new(progress.totals, span);
            let load = figures.load;
            assert!(is_balanced(load), "{load:?}");
            assert_eq!((load.offered, load.ok, load.unanswered, load.unsent), (100, 70, 20, 10));
            assert_eq!(figures.rate.offered_per_s, Some(100.0));
            let latency = &figures.latency;
            assert_eq!((latency.response.count, latency.response.censored), (100, 30));
            assert_eq!((latency.service.count, latency.lag.count), (90, 100));
            // Whatever the thirty take, half of all took 1 µs; nine tenths may take longer.
            assert_eq!(
                (latency.response.p50_ns, latency.response.p90_ns),
                (Some(1000), Some(1000))
            );
            assert_eq!(latency.response.lower_bounds, ["p90_ns", "mean_ns", "max_ns"]);
            assert_eq!(figures.flows.len(), 2);
            assert_eq!((&figures.flows[1].name[..], figures.flows[1].load.offered), ("burst", 0));
            told += 1;
        });
        assert_eq!(told, 1);
    }
}
