//! Judges SLOs while a run goes on, and at its end.
//!
//! Pure: seconds in, results out. Owns what an SLO needs to remember: two histograms at most, so
//! memory is constant. Leaves measuring to the recorder, and ending the run to the coordinator.
//! Percentiles come from merged histograms, never from other percentiles.
//!
//! **What is known.** A value is known within bounds: a censored message took at least t, so a
//! percentile lies between the one with all censored messages at t and the one with them endless.
//! A percentile without enough messages beyond it (10, as in the summary) lies at or above the
//! highest one that has them. An SLO is held or failed when both bounds say so, else not assessed.
//!
//! **What `abort` means.** The run ends at the end of the second in which
//! 1. the SLO cannot hold any more whatever comes: a count, `min` or `max` is past its limit, which
//!    no later message undoes; more messages are slower (or failed, for a share) than the limit
//!    allows for the number that the whole run will offer; more windows failed than may, of all
//!    that fit into the run's duration;
//! 2. or, where that cannot be told (`mean`, `achieved`, `throughput`, a scope, or a run whose
//!    length the plan does not fix): it is violated by all that was measured so far, which is at
//!    least 5 seconds and 1,000 messages; a percentile has ten times the messages that it needs,
//!    and windows are at least 10.
//!
//! Invariant: the windows and the total see each message once.

use hdrhistogram::Histogram;

use super::{
    Comparison, Kind, Limit, Metric, Scope, Slo, SloResult, SloState, Statistic, Windows, percent,
};
use crate::measure::latencies::{self, Latencies, Latency};
use crate::measure::summary::thousands;

/// Messages at or beyond a percentile without which it is not told; as in the summary.
const BEYOND_MIN: u64 = 10;
const WHOLE: u64 = 10_000;
/// Rule 2 of `abort`.
const ABORT_AFTER_NS: u64 = 5_000_000_000;
const ABORT_MESSAGES_MIN: u64 = 1_000;
const ABORT_BEYOND_MIN: u64 = 10 * BEYOND_MIN;
const ABORT_WINDOWS_MIN: u64 = 10;

/// What happened to one flow in one stage within one second, warm-up left out.
#[derive(Clone, Copy, Debug)]
pub struct Portion<'a> {
    /// The flow's name.
    pub flow: &'a str,
    /// The stage's name.
    pub stage: &'a str,
    /// Ns since the start of the run, as far as the stage lay in this second.
    pub begin_ns: u64,
    /// Its end; for the last portions of a run, the end of its last reply.
    pub end_ns: u64,
    /// Messages that became due.
    pub offered: u64,
    /// Answered `ok` or `filtered`, or sent where nothing is answered.
    pub answered: u64,
    /// Failed, whatever the code.
    pub errors: u64,
    /// Given up without an answer.
    pub unanswered: u64,
    /// Due and not sent; known at the end only.
    pub unsent: u64,
    /// Of the messages that were settled in it, where there were any.
    pub latencies: Option<&'a Latencies>,
}

/// How long the measured part of the run will be, as far as the plan says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Messages; `None` where the replies decide.
    pub messages: Option<u64>,
    /// Time in which load is offered, ns.
    pub duration_ns: Option<u64>,
}

/// Judges the SLOs of one run.
#[derive(Debug)]
pub struct Judge {
    planned: Planned,
    /// The first measured second, from which windows are counted.
    first_second: Option<u64>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    slo: Slo,
    total: Tally,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    windows: Windows,
    /// Which one is being filled.
    index: u64,
    tally: Tally,
    held: u64,
    failed: u64,
    not_assessed: u64,
    /// The worst one, for people.
    worst: Option<(f64, String)>,
}

/// What an SLO remembers of a window or a run.
#[derive(Debug)]
struct Tally {
    begin_ns: u64,
    end_ns: u64,
    offered: u64,
    answered: u64,
    errors: u64,
    unanswered: u64,
    unsent: u64,
    latency: Option<(Kind, Latency)>,
}

/// Where a value lies: at least and at most.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds {
    low: f64,
    high: f64,
}

impl Judge {
    /// Judges `slos` in a run of which `planned` is known.
    pub fn new(slos: &[Slo], planned: Planned) -> Judge {
        let running = slos
            .iter()
            .map(|slo| Running {
                slo: slo.clone(),
                total: Tally::new(slo.metric),
                window: slo.windows.map(|windows| Window::new(windows, slo.metric)),
            })
            .collect();
        Judge { planned, first_second: None, running }
    }

    /// A whole second of the run has passed; `index` 0 is the first. Gives the reason to end the
    /// run, where there is one.
    pub fn second(&mut self, index: u64, portions: &[Portion<'_>]) -> Option<String> {
        if portions.is_empty() && self.first_second.is_none() {
            return None;
        }
        let first = *self.first_second.get_or_insert(index);
        for running in &mut self.running {
            running.add(portions);
            if let Some(window) = &mut running.window {
                let is_last = (index - first + 1).is_multiple_of(window.windows.seconds);
                window.add(&running.slo, portions);
                if is_last {
                    window.close(&running.slo);
                }
            }
        }
        self.running.iter().filter(|it| it.slo.aborts()).find_map(|it| it.reason(self.planned))
    }

    /// The results, in the order in which they were asked; `portions` are of the whole run, the
    /// last, partial second included.
    pub fn finish(mut self, portions: &[Portion<'_>]) -> Vec<SloResult> {
        for running in &mut self.running {
            running.total = Tally::new(running.slo.metric);
            running.add(portions);
        }
        self.results()
    }

    /// The results so far.
    pub fn results(&self) -> Vec<SloResult> {
        self.running.iter().map(Running::result).collect()
    }
}

impl Scope {
    fn holds(&self, portion: &Portion<'_>) -> bool {
        let Portion { stage: of, flow, .. } = portion;
        // The base and the bursts of BURST are flows of their own, and people call them stages.
        self.stage.as_deref().is_none_or(|stage| stage == *of || stage == *flow)
            && self.flow.as_deref().is_none_or(|flow| flow == portion.flow)
    }

    fn is_all(&self) -> bool {
        *self == Scope::default()
    }
}

impl Running {
    fn add(&mut self, portions: &[Portion<'_>]) {
        portions.iter().filter(|it| self.slo.scope.holds(it)).for_each(|it| self.total.add(it));
    }

    fn result(&self) -> SloResult {
        let Slo { metric, comparison, limit, .. } = self.slo;
        let (state, observed, detail) = match &self.window {
            Some(window) => window.result(limit),
            None => {
                let bounds = self.total.bounds(metric, limit);
                let state = state(bounds, comparison, limit.value());
                let exact = bounds.filter(|it| it.low == it.high).map(|it| it.low);
                (state, exact, self.total.detail(metric, limit, bounds, state))
            }
        };
        let unit = if self.window.is_some() { "share" } else { limit.unit() }.to_owned();
        let limit = self.window.as_ref().map_or(limit.value(), |window| window.windows.share);
        SloResult { text: self.slo.to_string(), state, observed, unit, limit, detail }
    }

    /// Why the run should end now.
    fn reason(&self, planned: Planned) -> Option<String> {
        let is_over = match &self.window {
            Some(window) => window.cannot_hold(planned),
            None => self.cannot_hold(planned),
        };
        is_over.then(|| {
            let SloResult { detail, .. } = self.result();
            let so_far = if self.window.is_some() { "" } else { " so far" };
            format!("SLO {} cannot hold any more: {detail}{so_far}", self.slo)
        })
    }

    fn cannot_hold(&self, planned: Planned) -> bool {
        let Slo { metric, comparison, limit, .. } = &self.slo;
        let total = &self.total;
        let bounds = total.bounds(*metric, *limit);
        let is_violated = state(bounds, *comparison, limit.value()) == SloState::Failed;
        let is_upper = matches!(comparison, Comparison::Below | Comparison::AtMost);
        let messages = planned.messages.filter(|_| self.slo.scope.is_all());
        match metric {
            Metric::Latency(_, Statistic::Max) if is_upper => is_violated,
            Metric::Latency(_, Statistic::Min) if !is_upper => is_violated,
            Metric::Latency(_, Statistic::Percentile(percentile)) => match messages {
                Some(messages) if is_upper => {
                    // Of so many messages, the percentile is the `rank`-th.
                    let rank = rank(messages, *percentile);
                    let beyond = (messages - rank + 1).max(BEYOND_MIN);
                    total.beyond(*comparison, limit.value()) >= beyond
                }
                _ => is_violated && total.is_enough(*metric),
            },
            Metric::Errors | Metric::Unanswered | Metric::Unsent | Metric::Loss
                if *comparison != Comparison::Above && *comparison != Comparison::AtLeast =>
            {
                match (limit, messages) {
                    (Limit::Count(most), _) => match comparison {
                        Comparison::Below => total.count(*metric) as f64 >= *most,
                        _ => total.count(*metric) as f64 > *most,
                    },
                    (_, Some(messages)) => {
                        let share = total.count(*metric) as f64 / messages.max(1) as f64;
                        state(Some(Bounds::exact(share)), *comparison, limit.value())
                            == SloState::Failed
                    }
                    _ => is_violated && total.is_enough(*metric),
                }
            }
            _ => is_violated && total.is_enough(*metric),
        }
    }
}

impl Window {
    fn new(windows: Windows, metric: Metric) -> Window {
        let tally = Tally::new(metric);
        Window { windows, index: 0, tally, held: 0, failed: 0, not_assessed: 0, worst: None }
    }

    fn add(&mut self, slo: &Slo, portions: &[Portion<'_>]) {
        portions.iter().filter(|it| slo.scope.holds(it)).for_each(|it| self.tally.add(it));
    }

    fn close(&mut self, slo: &Slo) {
        self.index += 1;
        let tally = std::mem::replace(&mut self.tally, Tally::new(slo.metric));
        if tally.is_empty() && !slo.scope.is_all() {
            // A window in which the stage or the flow had nothing to do is none of its windows.
            return;
        }
        let bounds = tally.bounds(slo.metric, slo.limit);
        let state = state(bounds, slo.comparison, slo.limit.value());
        match state {
            SloState::Held => self.held += 1,
            SloState::Failed => self.failed += 1,
            SloState::NotAssessed => self.not_assessed += 1,
        }
        if state == SloState::Failed {
            // How far it is from the limit.
            let distance = bounds.map_or(0.0, |it| (it.low - slo.limit.value()).abs());
            if self.worst.as_ref().is_none_or(|(worst, _)| distance > *worst) {
                let detail = tally.detail(slo.metric, slo.limit, bounds, state);
                let text = format!("window {} is the worst: {detail}", self.index);
                self.worst = Some((distance, text));
            }
        }
    }

    fn count(&self) -> u64 {
        self.held + self.failed + self.not_assessed
    }

    fn result(&self, limit: Limit) -> (SloState, Option<f64>, String) {
        let Window { windows, held, failed, not_assessed, .. } = self;
        let seconds = windows.seconds;
        let count = self.count();
        if count == 0 {
            let detail = format!("no whole window of {seconds} s was measured");
            return (SloState::NotAssessed, None, detail);
        }
        let share = |part: u64| part as f64 / count as f64;
        // In whole windows, so that 95 % of 20 is 19 and not a rounding error away from it.
        let needed = needed(count, windows.share);
        let state = match () {
            () if *held >= needed => SloState::Held,
            () if held + not_assessed < needed => SloState::Failed,
            () => SloState::NotAssessed,
        };
        let mut detail = format!("{held} of {count} windows of {seconds} s held");
        if *failed > 0 {
            detail.push_str(&format!(", {failed} failed"));
        }
        if *not_assessed > 0 {
            detail.push_str(&format!(", {not_assessed} could not be assessed"));
        }
        if let Some((_, worst)) = &self.worst {
            detail.push_str(&format!("; {worst}, limit {}", limit.show(limit.value())));
        }
        (state, (*not_assessed == 0).then(|| share(*held)), detail)
    }

    fn cannot_hold(&self, planned: Planned) -> bool {
        let length_ns = self.windows.seconds * 1_000_000_000;
        match planned.duration_ns.map(|duration_ns| duration_ns / length_ns) {
            // Windows of a stage may be fewer: then this is late, never early.
            Some(all) => {
                let all = all.max(self.count());
                self.failed > all - needed(all, self.windows.share)
            }
            None => {
                let count = self.count();
                count >= ABORT_WINDOWS_MIN
                    && self.failed > count - needed(count, self.windows.share)
            }
        }
    }
}

/// How many of `count` windows are at least `share` of them.
fn needed(count: u64, share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the count"
    )]
    let needed = (count as f64 * share - 1e-9).ceil() as u64;
    needed.min(count)
}

impl Bounds {
    fn exact(value: f64) -> Bounds {
        Bounds { low: value, high: value }
    }
}

fn state(bounds: Option<Bounds>, comparison: Comparison, limit: f64) -> SloState {
    let Some(Bounds { low, high }) = bounds else { return SloState::NotAssessed };
    let (holds, fails) = match comparison {
        Comparison::Below => (high < limit, low >= limit),
        Comparison::AtMost => (high <= limit, low > limit),
        Comparison::AtLeast => (low >= limit, high < limit),
        Comparison::Above => (low > limit, high <= limit),
        Comparison::Equal => (low == limit && high == limit, low > limit || high < limit),
    };
    match (holds, fails) {
        (true, _) => SloState::Held,
        (_, true) => SloState::Failed,
        _ => SloState::NotAssessed,
    }
}

impl Tally {
    fn new(metric: Metric) -> Tally {
        let latency = match metric {
            Metric::Latency(kind, _) => Some((kind, Latency::default())),
            _ => None,
        };
        Tally {
            begin_ns: u64::MAX,
            end_ns: 0,
            offered: 0,
            answered: 0,
            errors: 0,
            unanswered: 0,
            unsent: 0,
            latency,
        }
    }

    fn add(&mut self, portion: &Portion<'_>) {
        self.begin_ns = self.begin_ns.min(portion.begin_ns);
        self.end_ns = self.end_ns.max(portion.end_ns);
        self.offered += portion.offered;
        self.answered += portion.answered;
        self.errors += portion.errors;
        self.unanswered += portion.unanswered;
        self.unsent += portion.unsent;
        if let (Some((kind, latency)), Some(latencies)) = (&mut self.latency, portion.latencies) {
            latency.add(match kind {
                Kind::Response => &latencies.response,
                Kind::Service => &latencies.service,
                Kind::Lag => &latencies.lag,
            });
        }
    }

    fn is_empty(&self) -> bool {
        let settled = self.answered + self.errors + self.unanswered + self.unsent;
        self.offered == 0 && settled == 0
    }

    fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.begin_ns)
    }

    /// Enough to believe a violation that nothing proves.
    fn is_enough(&self, metric: Metric) -> bool {
        let support = match (metric, &self.latency) {
            (Metric::Latency(_, Statistic::Percentile(percentile)), Some((_, latency))) => {
                beyond(count(latency), percentile) >= u128::from(ABORT_BEYOND_MIN)
            }
            _ => true,
        };
        support && self.duration_ns() >= ABORT_AFTER_NS && self.offered >= ABORT_MESSAGES_MIN
    }

    fn count(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Errors => self.errors,
            Metric::Unanswered => self.unanswered,
            Metric::Unsent => self.unsent,
            Metric::Loss => self.errors + self.unanswered + self.unsent,
            Metric::Achieved | Metric::Throughput => self.answered,
            Metric::Latency(..) => self.latency.as_ref().map_or(0, |(_, latency)| count(latency)),
        }
    }

    /// Messages that are known to be on the wrong side of the limit.
    fn beyond(&self, comparison: Comparison, limit: f64) -> u64 {
        let Some((_, latency)) = &self.latency else { return 0 };
        let is_wrong = |value: f64| match comparison {
            Comparison::Below => value >= limit,
            _ => value > limit,
        };
        let wrong = |histogram: &Histogram<u64>| -> u64 {
            let steps = histogram.iter_recorded();
            let wrong = steps.filter(|step| is_wrong(step.value_iterated_to() as f64));
            wrong.map(|step| step.count_at_value()).sum()
        };
        wrong(&latency.values) + wrong(&latency.censored)
    }

    /// What is known of the metric; `None` without any message.
    fn bounds(&self, metric: Metric, limit: Limit) -> Option<Bounds> {
        if let Metric::Latency(_, statistic) = metric {
            let (_, latency) = self.latency.as_ref()?;
            return latency_bounds(latency, statistic);
        }
        let count = self.count(metric) as f64;
        match (metric, limit) {
            (Metric::Throughput, _) => {
                let duration_ns = self.duration_ns();
                (duration_ns > 0).then(|| Bounds::exact(count * 1e9 / duration_ns as f64))
            }
            (_, Limit::Share(_)) => {
                (self.offered > 0).then(|| Bounds::exact(count / self.offered as f64))
            }
            _ => (!self.is_empty()).then(|| Bounds::exact(count)),
        }
    }

    fn detail(
        &self,
        metric: Metric,
        limit: Limit,
        bounds: Option<Bounds>,
        state: SloState,
    ) -> String {
        let Some(Bounds { low, high }) = bounds else {
            return "no message was measured".to_owned();
        };
        if low == high {
            return match limit {
                Limit::Share(_) => format!(
                    "{}, {} of {}",
                    percent(low),
                    thousands(self.count(metric)),
                    thousands(self.offered)
                ),
                _ => limit.show(low),
            };
        }
        let mut detail = format!("at least {}", limit.show(low));
        let Some((_, latency)) = &self.latency else { return detail };
        if let Metric::Latency(_, Statistic::Percentile(percentile)) = metric
            && beyond(count(latency), percentile) < u128::from(BEYOND_MIN)
        {
            let needs = (BEYOND_MIN * WHOLE).div_ceil(WHOLE - percentile);
            detail.push_str(&format!(
                "; it needs {} messages, there were {}",
                thousands(needs),
                thousands(count(latency))
            ));
        } else if state == SloState::NotAssessed {
            detail.push_str(&format!(
                "; of {} of {} messages only that is known",
                thousands(latency.censored.len()),
                thousands(count(latency))
            ));
        }
        detail
    }
}

fn count(latency: &Latency) -> u64 {
    latency.values.len() + latency.censored.len()
}

/// Messages at or beyond a percentile.
fn beyond(count: u64, percentile: u64) -> u128 {
    u128::from(count) * u128::from(WHOLE - percentile) / u128::from(WHOLE)
}

/// The nearest rank of a percentile, 1 to `count`.
fn rank(count: u64, percentile: u64) -> u64 {
    let rank = (u128::from(count) * u128::from(percentile)).div_ceil(u128::from(WHOLE));
    u64::try_from(rank).expect("at most the count").max(1)
}

fn value_at_rank(histogram: &Histogram<u64>, rank: u64) -> Option<u64> {
    let mut seen = 0;
    histogram.iter_recorded().find_map(|step| {
        seen += step.count_at_value();
        (seen >= rank).then(|| step.value_iterated_to())
    })
}

fn latency_bounds(latency: &Latency, statistic: Statistic) -> Option<Bounds> {
    let count = count(latency);
    if count == 0 {
        return None;
    }
    let Latency { values, censored } = latency;
    let is_exact = censored.is_empty();
    let mut all = values.clone();
    latencies::add(&mut all, censored);
    let or_more = |low: f64| Bounds { low, high: if is_exact { low } else { f64::INFINITY } };
    Some(match statistic {
        Statistic::Mean => or_more(all.mean()),
        Statistic::Max => or_more(all.max() as f64),
        Statistic::Min => Bounds {
            low: all.min() as f64,
            high: if values.is_empty() { f64::INFINITY } else { values.min() as f64 },
        },
        Statistic::Percentile(percentile) => {
            let rank = rank(count, percentile);
            if beyond(count, percentile) < u128::from(BEYOND_MIN) {
                let supported = (count + 1).saturating_sub(BEYOND_MIN).min(rank);
                let low = value_at_rank(&all, supported).filter(|_| supported > 0).unwrap_or(0);
                return Some(Bounds { low: low as f64, high: f64::INFINITY });
            }
            let low = value_at_rank(&all, rank).expect("the rank is within the count") as f64;
            // Were every censored message endless, the rank would fall here.
            let high = value_at_rank(values, rank).map_or(f64::INFINITY, |high| high as f64);
            Bounds { low, high }
        }
    })
}

#[cfg(test)]
mod tests;
