//! All shards, merged second by second: what the run has come to so far, the row of the second that
//! has just ended, and the rows before it.
//!
//! Owns the merge, and is the only one that does it: a shard hands over what it recorded in a
//! second and forgets it, so the totals here are the sum of the seconds. Leaves printing to `main`,
//! and percentiles of a run to [`super::summary`]. Histograms are added before a percentile is
//! taken.
//!
//! ```text
//! lane (a flow on a shard) ──interval──> pending second ──all lanes──> totals, row, Progress
//! ```
//!
//! Invariant: a second is complete when every lane has closed it or ended; the rows' deltas sum up
//! to the totals of all stages, the warm-up among them; a stage's totals are the sum of its
//! intervals, and `Totals::all` is the sum of all measured stages.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::confidence::{Batch, Batches};
use super::latencies::Latencies;
use super::recorder::{Interval, StageInterval};
use super::resources::{Cpu, Resources};
use super::stages::FlowPlan;
use super::summary::{self, is_zero};
use super::tally::{Counts, Tally};

/// Rows that are kept. In a run that lasts for longer than as many seconds neighbours are joined,
/// so that a row is two seconds long, then four, and so on: memory is constant for any length.
pub const ROWS_MAX: usize = 7_200;

/// One second of a run (of a long run, two or four; see [`ROWS_MAX`]); counts are of this second,
/// except `in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Second {
    /// When the second ended, ns since the start; the last one may be shorter, and where rows were
    /// joined each begins where the one before it ended.
    pub end_ns: u64,
    /// Some of it was warm-up: it is in none of the run's figures.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warmup: bool,
    /// Messages that became due.
    pub offered: u64,
    /// Messages that a worker took up.
    pub sent: u64,
    /// Answered `ok`.
    pub ok: u64,
    /// Answered `filtered`.
    pub filtered: u64,
    /// Broken on purpose and rejected, as they should be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u64,
    /// Failed or given up.
    pub error: u64,
    /// Sent and not settled, at its end.
    pub in_flight: u64,
    /// Median response of the messages answered in it. Where rows were joined, the largest of
    /// theirs: the joined one is at most that.
    pub response_p50_ns: Option<u64>,
    /// Their 99th percentile; of a small sample simply its largest.
    pub response_p99_ns: Option<u64>,
    /// The largest.
    pub response_max_ns: Option<u64>,
    /// 99th percentile of the lag of the messages sent in it.
    pub lag_p99_ns: Option<u64>,
}

impl Second {
    /// A row of all of `rows`, at least one.
    fn joined(rows: &[Second]) -> Second {
        let mut sum = rows[0].clone();
        rows[1..].iter().for_each(|row| sum.join(row));
        sum
    }

    /// Takes the row behind it in.
    fn join(&mut self, next: &Second) {
        self.end_ns = next.end_ns;
        self.warmup |= next.warmup;
        self.offered += next.offered;
        self.sent += next.sent;
        self.ok += next.ok;
        self.filtered += next.filtered;
        self.rejected += next.rejected;
        self.error += next.error;
        self.in_flight = next.in_flight;
        self.response_p50_ns = self.response_p50_ns.max(next.response_p50_ns);
        self.response_p99_ns = self.response_p99_ns.max(next.response_p99_ns);
        self.response_max_ns = self.response_max_ns.max(next.response_max_ns);
        self.lag_p99_ns = self.lag_p99_ns.max(next.lag_p99_ns);
    }
}

/// What an observer is told once a second.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Since the start.
    pub elapsed: Duration,
    /// The second that has just ended.
    pub second: Second,
    /// Whether the load follows a schedule; then the offered rate is worth showing.
    pub open_loop: bool,
    /// Failed since the start.
    pub errors: u64,
    /// Failed since the start, as a share of what was sent.
    pub error_rate: f64,
    /// What was recorded in this second, apart for each flow and stage of which there was any.
    pub slices: &'a [Slice],
    /// Since the start, this second included.
    pub totals: &'a Totals,
    /// The seconds so far, this one included.
    pub rows: &'a [Second],
    /// What the run has cost so far.
    pub resources: Resources,
}

impl Progress<'_> {
    /// What was recorded in this second, of all flows and measured stages together.
    pub fn latencies(&self) -> Latencies {
        let mut sum = Latencies::default();
        for slice in self.slices {
            if !self.totals.flows[slice.flow].plan.stages[slice.stage].is_warmup {
                sum.add(&slice.latencies);
            }
        }
        sum
    }
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Second { ok, filtered, offered, warmup, .. } = self.second;
        write!(f, "{:>6.1}s", self.elapsed.as_secs_f64())?;
        if warmup {
            write!(f, "  warm-up")?;
        }
        write!(f, "  {}/s", summary::thousands(ok + filtered))?;
        if self.open_loop {
            write!(f, " of {}/s", summary::thousands(offered))?;
        }
        let p99 = self.second.response_p99_ns.map_or("-".to_owned(), summary::time);
        write!(
            f,
            "  errors {} ({:.2}%)  in flight {}  p99 {p99}",
            summary::thousands(self.errors),
            self.error_rate * 100.0,
            summary::thousands(self.second.in_flight),
        )
    }
}

/// The latencies of one second, of one stage of one flow.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Index of the flow.
    pub flow: usize,
    /// Index of the stage in its flow.
    pub stage: usize,
    /// All shards together.
    pub latencies: Latencies,
}

/// Everything that is known since the start, up to a whole second.
#[derive(Clone, Debug)]
pub struct Totals {
    /// All measured stages of all flows.
    pub all: Sum,
    /// In the order of the plan.
    pub flows: Vec<FlowTotals>,
}

/// A flow since the start.
#[derive(Clone, Debug)]
pub struct FlowTotals {
    /// Its name and stages.
    pub plan: FlowPlan,
    /// All its measured stages.
    pub all: Sum,
    /// Each stage, the warm-up among them.
    pub stages: Vec<Sum>,
}

/// What is known of a stage, a flow or a run since its start.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Messages and moments.
    pub tally: Tally,
    /// Became due. Of a run that goes on these may be more than were taken up or given up.
    pub offered: u64,
    /// Times.
    pub latencies: Latencies,
    /// How they varied from second to second: response, service, lag. Kept where a section of the
    /// summary needs them.
    pub batches: [Batches; 3],
}

impl Totals {
    fn new(flows: Vec<FlowPlan>) -> Totals {
        let flows = flows.into_iter().map(|plan| {
            plan.check();
            let stages = plan.stages.iter().map(|_| Sum::default()).collect();
            FlowTotals { plan, all: Sum::default(), stages }
        });
        Totals { all: Sum::default(), flows: flows.collect() }
    }

    /// When the first measured stage begins, ns since the start.
    pub fn warmup_ns(&self) -> u64 {
        self.flows.iter().map(|flow| flow.plan.warmup_ns()).min().unwrap_or(0)
    }

    /// Takes what all lanes know since the start.
    fn set(&mut self, flows: &[Cumulative]) {
        for all in std::iter::once(&mut self.all).chain(self.flows.iter_mut().map(|it| &mut it.all))
        {
            (all.tally, all.offered) = Default::default();
        }
        for (totals, now) in self.flows.iter_mut().zip(flows) {
            for (index, sum) in totals.stages.iter_mut().enumerate() {
                sum.tally.clone_from(&now.tallies[index]);
                sum.offered = now.offered[index];
                if !totals.plan.stages[index].is_warmup {
                    for all in [&mut totals.all, &mut self.all] {
                        all.tally.add(&sum.tally);
                        all.offered += sum.offered;
                    }
                }
            }
        }
    }

    /// Adds what was recorded in a second.
    fn add(&mut self, slices: &[Slice]) {
        let has_flows = self.flows.len() > 1;
        let mut second = <[Batch; 3]>::default();
        for (index, FlowTotals { plan, all, stages }) in self.flows.iter_mut().enumerate() {
            let mut second_of_flow = <[Batch; 3]>::default();
            let has_stages = plan.measured() > 1;
            for Slice { stage, latencies, .. } in slices.iter().filter(|it| it.flow == index) {
                stages[*stage].latencies.add(latencies);
                if plan.stages[*stage].is_warmup {
                    continue;
                }
                all.latencies.add(latencies);
                self.all.latencies.add(latencies);
                let Latencies { response, service, lag } = latencies;
                let batch = [response, service, lag].map(Batch::new);
                join(&mut second_of_flow, &batch);
                if has_stages {
                    push(&mut stages[*stage].batches, batch);
                }
            }
            join(&mut second, &second_of_flow);
            if has_flows {
                push(&mut all.batches, second_of_flow);
            }
        }
        push(&mut self.all.batches, second);
    }
}

fn join(sums: &mut [Batch; 3], others: &[Batch; 3]) {
    sums.iter_mut().zip(others).for_each(|(sum, other)| sum.join(other));
}

fn push(sums: &mut [Batches; 3], batches: [Batch; 3]) {
    sums.iter_mut().zip(batches).for_each(|(sum, batch)| sum.push(batch));
}

/// What a shard publishes of a flow at the end of a second, or at its own end.
#[derive(Clone, Debug)]
pub struct ShardSecond {
    /// Due since the start, of each stage.
    pub offered: Vec<u64>,
    /// What the recorder knows.
    pub interval: Interval,
}

/// Seconds are counted from the start of the run.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Merges the seconds of all lanes: of every flow on every shard.
#[derive(Debug)]
pub struct Series {
    open_loop: bool,
    lanes: Vec<Lane>,
    /// Seconds that are complete.
    seconds: usize,
    rows: Vec<Second>,
    /// Seconds in a row.
    row_seconds: usize,
    /// The seconds behind those that some lane has not closed yet.
    pending: VecDeque<Pending>,
    /// Everything up to the last row.
    last: Reach,
    totals: Totals,
    /// The process's CPU time at the start of the run.
    cpu: Cpu,
    /// Merged, emptied, ready to be used again.
    blanks: Vec<Latencies>,
}

#[derive(Clone, Debug)]
struct Lane {
    flow: usize,
    /// Seconds that it has closed, or all of them once it has ended.
    closed: usize,
    ended: bool,
    sums: Cumulative,
}

/// Running sums of a flow on one shard, or on all, since the start.
#[derive(Clone, Debug, Default)]
struct Cumulative {
    /// Of each stage.
    offered: Vec<u64>,
    tallies: Vec<Tally>,
}

impl Cumulative {
    fn of_stages(stages: usize) -> Cumulative {
        Cumulative { offered: vec![0; stages], tallies: vec![Tally::default(); stages] }
    }

    fn add(&mut self, other: &Cumulative) {
        for (sum, offered) in self.offered.iter_mut().zip(&other.offered) {
            *sum += offered;
        }
        for (sum, tally) in self.tallies.iter_mut().zip(&other.tallies) {
            sum.add(tally);
        }
    }
}

/// How far the rows have come.
#[derive(Clone, Debug, Default)]
struct Reach {
    offered: u64,
    sent: u64,
    ok: u64,
    filtered: u64,
    rejected: u64,
    error: u64,
}

#[derive(Debug)]
struct Pending {
    /// Of each flow.
    sums: Vec<Cumulative>,
    slices: Vec<Slice>,
    /// Parts that have closed it.
    arrived: usize,
    /// Some lane ran to its end: it is a whole second.
    whole: bool,
}

impl Series {
    /// Of `flows`; each lane is of one of them.
    pub fn new(flows: Vec<FlowPlan>, lanes: &[usize], open_loop: bool) -> Series {
        let totals = Totals::new(flows);
        let lane = |&flow: &usize| {
            let sums = Cumulative::of_stages(totals.flows[flow].stages.len());
            Lane { flow, closed: 0, ended: false, sums }
        };
        Series {
            open_loop,
            lanes: lanes.iter().map(lane).collect(),
            seconds: 0,
            rows: Vec::new(),
            row_seconds: 1,
            pending: VecDeque::new(),
            last: Reach::default(),
            totals,
            cpu: Cpu::now(),
            blanks: Vec::new(),
        }
    }

    /// The run begins now: what the process did before is not counted.
    pub fn begin(&mut self) {
        self.cpu = Cpu::now();
    }

    /// What the run has cost so far.
    pub fn resources(&self) -> Resources {
        Resources::since(self.cpu)
    }

    /// `lane` has closed second `index` (0 is the first); seconds that it left out were merged into
    /// this one. Tells every second that is complete now.
    pub fn close(
        &mut self,
        lane: usize,
        index: usize,
        second: ShardSecond,
        tell: impl FnMut(&Progress<'_>),
    ) {
        self.skip_to(lane, index);
        self.take(lane, index, second);
        let until = index - self.seconds;
        self.pending.range_mut(..=until).for_each(|pending| pending.whole = true);
        self.complete(tell);
    }

    /// `lane` has ended within its next second, of which it leaves `tail`.
    pub fn end(&mut self, lane: usize, tail: ShardSecond, tell: impl FnMut(&Progress<'_>)) {
        assert!(!self.lanes[lane].ended, "lane {lane} ends once");
        let index = self.lanes[lane].closed;
        self.take(lane, index, tail);
        self.lanes[lane].ended = true;
        self.skip_to(lane, self.seconds + self.pending.len());
        self.complete(tell);
    }

    /// The totals and the rows; what came after the last whole second is one of its own, up to the
    /// end of the load or the last reply.
    pub fn finish(mut self, load_ended_ns: u64) -> (Totals, Vec<Second>) {
        let end_ns = load_ended_ns.max(self.last_answer_ns());
        assert!(self.lanes.iter().all(|lane| lane.ended), "every lane has ended");
        if let Some(tail) = self.pending.pop_front() {
            let begin_ns = self.seconds as u64 * SECOND_NS;
            let (second, _) = self.settle(tail, end_ns.max(begin_ns));
            let is_news = second.offered
                + second.sent
                + second.ok
                + second.filtered
                + second.rejected
                + second.error;
            if is_news > 0 {
                self.rows.push(second);
            }
        }
        assert!(self.pending.is_empty(), "only one second is not whole");
        (self.totals, self.rows)
    }

    /// When the last reply was read that any lane has told of, ns since the start.
    fn last_answer_ns(&self) -> u64 {
        let tallies = self.lanes.iter().flat_map(|lane| &lane.sums.tallies);
        tallies.map(|tally| tally.last_answer_ns).max().unwrap_or(0)
    }

    /// Histograms that a recorder may use again.
    pub fn take_blank(&mut self) -> Option<Latencies> {
        self.blanks.pop()
    }

    /// Seconds before `index` that `lane` has not closed go by without news from it.
    fn skip_to(&mut self, lane: usize, index: usize) {
        let flow = self.lanes[lane].flow;
        for skipped in self.lanes[lane].closed..index {
            let sums = self.lanes[lane].sums.clone();
            self.pending_at(skipped).add(flow, &sums);
            self.lanes[lane].closed = skipped + 1;
        }
    }

    fn take(&mut self, lane: usize, index: usize, second: ShardSecond) {
        let ShardSecond { offered, interval } = second;
        assert_eq!(self.lanes[lane].closed, index, "seconds of a lane come in order");
        let flow = self.lanes[lane].flow;
        let mut sums = std::mem::take(&mut self.lanes[lane].sums);
        sums.offered = offered;
        let pending = self.pending_at(index);
        let mut spare = Vec::new();
        for StageInterval { stage, tally, latencies } in interval.stages {
            sums.tallies[stage] = tally;
            spare.extend(pending.merge(flow, stage, latencies));
        }
        pending.add(flow, &sums);
        spare.into_iter().for_each(|latencies| self.recycle(latencies));
        self.lanes[lane].closed = index + 1;
        self.lanes[lane].sums = sums;
    }

    fn recycle(&mut self, mut latencies: Latencies) {
        if self.blanks.len() < 2 * self.lanes.len() {
            latencies.reset();
            self.blanks.push(latencies);
        }
    }

    fn pending_at(&mut self, index: usize) -> &mut Pending {
        let offset = index.checked_sub(self.seconds).expect("a row is complete for ever");
        while self.pending.len() <= offset {
            let mut pending = Pending::new(&self.totals);
            // Parts that have ended take lane in the seconds to come with what they left.
            for lane in self.lanes.iter_mut().filter(|lane| lane.ended) {
                pending.add(lane.flow, &lane.sums);
                lane.closed += 1;
            }
            self.pending.push_back(pending);
        }
        &mut self.pending[offset]
    }

    fn complete(&mut self, mut tell: impl FnMut(&Progress<'_>)) {
        let lanes = self.lanes.len();
        while let Some(first) = self.pending.pop_front_if(|it| it.arrived == lanes && it.whole) {
            self.seconds += 1;
            let (second, slices) = self.settle(first, self.seconds as u64 * SECOND_NS);
            self.keep(&second);
            let mut counts = Counts::default();
            for sum in self.totals.flows.iter().flat_map(|flow| &flow.stages) {
                counts.add(&sum.tally.counts);
            }
            let errors = counts.error() + counts.unanswered;
            tell(&Progress {
                elapsed: Duration::from_nanos(second.end_ns),
                second,
                open_loop: self.open_loop,
                errors,
                error_rate: summary::share(errors, counts.sent),
                slices: &slices,
                totals: &self.totals,
                rows: &self.rows,
                resources: self.resources(),
            });
            slices.into_iter().for_each(|slice| self.recycle(slice.latencies));
        }
    }

    /// Keeps the row of a whole second.
    fn keep(&mut self, second: &Second) {
        if !(self.seconds - 1).is_multiple_of(self.row_seconds) {
            self.rows.last_mut().expect("a row has begun").join(second);
            return;
        }
        if self.rows.len() == ROWS_MAX {
            self.rows = self.rows.chunks(2).map(Second::joined).collect();
            self.row_seconds *= 2;
        }
        self.rows.push(second.clone());
    }

    /// Adds a second that ended at `end_ns` to the totals, and gives its row.
    fn settle(&mut self, pending: Pending, end_ns: u64) -> (Second, Vec<Slice>) {
        let Pending { sums, slices, .. } = pending;
        self.totals.set(&sums);
        self.totals.add(&slices);
        let begin_ns = end_ns.div_ceil(SECOND_NS).saturating_sub(1) * SECOND_NS;
        let merged;
        let latencies = match &slices[..] {
            [only] => &only.latencies,
            slices => {
                let mut all = Latencies::default();
                slices.iter().for_each(|slice| all.add(&slice.latencies));
                merged = all;
                &merged
            }
        };
        let mut counts = Counts::default();
        sums.iter().flat_map(|sum| &sum.tallies).for_each(|tally| counts.add(&tally.counts));
        let before = self.last.clone();
        self.last = Reach {
            // A message that is taken back is no longer sent (and in closed loop not due either),
            // until it is taken up again.
            offered: sums.iter().flat_map(|sum| &sum.offered).sum::<u64>().max(before.offered),
            sent: counts.sent.max(before.sent),
            ok: counts.ok,
            filtered: counts.filtered,
            rejected: counts.malformed.rejected,
            error: counts.error() + counts.unanswered,
        };
        let response = &latencies.response.values;
        let second = Second {
            end_ns,
            warmup: begin_ns < self.totals.warmup_ns(),
            offered: self.last.offered - before.offered,
            sent: self.last.sent - before.sent,
            ok: self.last.ok - before.ok,
            filtered: self.last.filtered - before.filtered,
            rejected: self.last.rejected - before.rejected,
            error: self.last.error - before.error,
            in_flight: counts.in_flight(),
            response_p50_ns: summary::percentile_of_second(response, 5_000),
            response_p99_ns: summary::percentile_of_second(response, 9_900),
            response_max_ns: (!response.is_empty()).then(|| response.max()),
            lag_p99_ns: summary::percentile_of_second(&latencies.lag.values, 9_900),
        };
        (second, slices)
    }
}

impl Pending {
    fn new(totals: &Totals) -> Pending {
        Pending {
            sums: totals.flows.iter().map(|it| Cumulative::of_stages(it.stages.len())).collect(),
            slices: Vec::new(),
            arrived: 0,
            whole: false,
        }
    }

    /// A lane has closed it.
    fn add(&mut self, flow: usize, sums: &Cumulative) {
        self.sums[flow].add(sums);
        self.arrived += 1;
    }

    /// Takes a stage's latencies; gives them back where others are there to add them to.
    fn merge(&mut self, flow: usize, stage: usize, latencies: Latencies) -> Option<Latencies> {
        match self.slices.iter_mut().find(|slice| (slice.flow, slice.stage) == (flow, stage)) {
            Some(slice) => {
                slice.latencies.add(&latencies);
                Some(latencies)
            }
            None => {
                self.slices.push(Slice { flow, stage, latencies });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::recorder::Recorder;
    use crate::measure::tally::Answer;

    fn second(total: u64, in_flight: u64, response_ns: u64) -> ShardSecond {
        let mut latencies = Latencies::default();
        latencies.response.values.saturating_record(response_ns);
        let counts = Counts { sent: total + in_flight, ok: total, ..Counts::default() };
        let tally = Tally { counts, ..Tally::default() };
        let interval = Interval { stages: vec![StageInterval { stage: 0, tally, latencies }] };
        ShardSecond { offered: vec![total + in_flight], interval }
    }

    fn one_flow(shards: usize, open_loop: bool) -> Series {
        Series::new(vec![FlowPlan::of_one_stage("main", None)], &vec![0; shards], open_loop)
    }

    fn close(series: &mut Series, shard: usize, index: usize, second: ShardSecond) -> Vec<Second> {
        let mut told = Vec::new();
        series.close(shard, index, second, |progress| told.push(progress.second.clone()));
        told
    }

    fn end(series: &mut Series, shard: usize, tail: ShardSecond) -> usize {
        let mut told = 0;
        series.end(shard, tail, |_| told += 1);
        told
    }

    #[test]
    fn a_second_is_complete_when_every_shard_has_closed_it() {
        let mut series = one_flow(2, true);
        assert!(close(&mut series, 0, 0, second(10, 1, 100)).is_empty());
        assert!(close(&mut series, 0, 1, second(30, 0, 100)).is_empty());
        let mut told = Vec::new();
        series.close(1, 0, second(5, 2, 900), |progress| {
            assert_eq!((progress.rows.len(), progress.latencies().response.values.len()), (1, 2));
            assert_eq!(progress.totals.all.tally.counts.ok, 15);
            told.push((progress.second.clone(), progress.to_string()));
        });
        let [(first, text)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((first.ok, first.in_flight, first.offered), (15, 3, 18));
        assert_eq!(first.response_max_ns, Some(900));
        assert_eq!(text, "   1.0s  15/s of 18/s  errors 0 (0.00%)  in flight 3  p99 900 ns");
    }

    #[test]
    fn rows_sum_up_to_the_totals_also_when_shards_skip_and_end_early() {
        let mut series = one_flow(3, false);
        end(&mut series, 0, second(7, 0, 1));
        close(&mut series, 1, 0, second(1, 0, 1));
        close(&mut series, 1, 2, second(5, 0, 1));
        close(&mut series, 2, 0, second(1, 1, 1));
        close(&mut series, 2, 1, second(2, 1, 1));
        close(&mut series, 2, 2, second(3, 1, 1));
        close(&mut series, 2, 3, second(4, 1, 1));
        end(&mut series, 1, second(6, 0, 1));
        end(&mut series, 2, second(9, 0, 1));
        let (totals, rows) = series.finish(4_300_000_000);
        let ok: Vec<u64> = rows.iter().map(|row| row.ok).collect();
        assert_eq!(ok, [9, 1, 5, 2, 5]);
        assert_eq!(rows.last().unwrap().end_ns, 4_300_000_000);
        assert_eq!(rows.last().unwrap().in_flight, 0);
        assert_eq!(totals.all.tally.counts.ok, 22);
        assert_eq!(totals.all.latencies.response.values.len(), 9);
    }

    #[test]
    fn a_shard_that_was_kept_from_closing_its_seconds_closes_them_together() {
        let mut series = one_flow(1, false);
        assert_eq!(close(&mut series, 0, 2, second(6, 0, 1)).len(), 3);
        assert_eq!(end(&mut series, 0, second(8, 0, 1)), 0);
        let ok: Vec<u64> = series.finish(3_500_000_000).1.iter().map(|row| row.ok).collect();
        assert_eq!(ok, [0, 0, 6, 2]);
    }

    #[test]
    fn a_run_of_any_length_has_a_bounded_number_of_rows_that_sum_up_to_it() {
        let mut series = one_flow(1, false);
        let seconds = 3 * ROWS_MAX + 5;
        for index in 1..=seconds {
            series.seconds = index;
            let end_ns = index as u64 * SECOND_NS;
            series.keep(&Second { end_ns, ok: 2, in_flight: end_ns, ..Second::default() });
            assert!(series.rows.len() <= ROWS_MAX);
        }
        let rows = &series.rows;
        assert_eq!(rows.len(), seconds.div_ceil(4));
        assert_eq!(rows.iter().map(|row| row.ok).sum::<u64>(), 2 * seconds as u64);
        let ends = [rows[0].end_ns, rows[1].end_ns, rows[rows.len() - 1].end_ns];
        assert_eq!(ends, [4 * SECOND_NS, 8 * SECOND_NS, seconds as u64 * SECOND_NS]);
        assert!(rows.iter().all(|row| row.in_flight == row.end_ns));
    }

    #[test]
    fn a_run_shorter_than_a_second_is_one_row() {
        let mut series = one_flow(1, false);
        assert_eq!(end(&mut series, 0, second(7, 0, 1)), 0);
        let (_, rows) = series.finish(12_000_000);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].end_ns, rows[0].ok), (12_000_000, 7));
    }

    #[test]
    fn a_message_that_is_taken_back_over_a_second_s_end_is_counted_once() {
        let mut series = one_flow(1, false);
        close(&mut series, 0, 0, second(0, 5, 1));
        close(&mut series, 0, 1, second(0, 0, 1));
        close(&mut series, 0, 2, second(5, 0, 1));
        end(&mut series, 0, second(6, 0, 1));
        let (_, rows) = series.finish(3_500_000_000);
        let sent: Vec<u64> = rows.iter().map(|row| row.sent).collect();
        assert_eq!(sent, [5, 0, 0, 1]);
    }

    #[test]
    fn a_warm_up_shows_in_the_rows_and_in_its_stage_and_nowhere_else() {
        let mut flow = FlowPlan::of_one_stage("main", Some(3 * SECOND_NS));
        flow.stages[0].begin_ns = SECOND_NS / 2;
        let mut warmup = flow.stages[0].clone();
        (warmup.begin_ns, warmup.end_ns, warmup.is_warmup) = (0, Some(SECOND_NS / 2), true);
        flow.stages.insert(0, warmup);
        let mut series = Series::new(vec![flow], &[0], true);
        let mut recorder = Recorder::new(2);
        let mut answer = |stage: usize, n: u64| {
            let mut stage = recorder.stage(stage);
            stage.taken(n);
            stage.answered(Answer::Ok, n);
            stage.responded(0, 1000, n);
            recorder.close_interval()
        };
        let mut interval = answer(0, 7);
        interval.stages.extend(answer(1, 2).stages);
        series.close(0, 0, ShardSecond { offered: vec![7, 3], interval }, |progress| {
            assert!(progress.second.warmup && progress.to_string().contains("warm-up"));
            assert_eq!((progress.second.ok, progress.second.offered), (9, 10));
            assert_eq!(progress.latencies().response.values.len(), 2);
            assert_eq!((progress.totals.all.offered, progress.totals.all.tally.counts.ok), (3, 2));
        });
        let interval = answer(1, 4);
        series.close(0, 1, ShardSecond { offered: vec![7, 6], interval }, |progress| {
            assert!(!progress.second.warmup);
        });
        series.end(0, ShardSecond { offered: vec![7, 6], interval: Interval::default() }, |_| ());
        let (totals, _) = series.finish(3 * SECOND_NS);
        assert_eq!((totals.all.tally.counts.ok, totals.all.offered), (6, 6));
        assert_eq!(totals.all.latencies.response.values.len(), 6);
        assert_eq!(totals.flows[0].stages[0].tally.counts.ok, 7);
        assert_eq!(totals.flows[0].stages[0].latencies.response.values.len(), 7);
        assert_eq!(totals.warmup_ns(), SECOND_NS / 2);
    }
}
