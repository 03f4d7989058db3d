//! One second of all shards, merged: a line on stderr while the run lasts, a row of `series` after.
//!
//! Owns the merge. Leaves printing to `main`. Histograms are added before a percentile is taken.
//! Invariant: a second is complete when every shard has closed it or ended; the rows' deltas sum up
//! to the totals.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::recorder::{self, Counts, Interval};
use super::summary;

/// One second of a run; counts are of this second, except `in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// When the second ended, ns since the start; the last one may be shorter.
    pub end_ns: u64,
    /// Messages that became due.
    pub offered: u64,
    /// Messages that a worker took up.
    pub sent: u64,
    /// Answered `ok`.
    pub ok: u64,
    /// Answered `filtered`.
    pub filtered: u64,
    /// Failed or given up.
    pub error: u64,
    /// Sent and not settled, at its end.
    pub in_flight: u64,
    /// Median response of the messages answered in it.
    pub response_p50_ns: Option<u64>,
    /// Their 99th percentile; of a small sample simply its largest.
    pub response_p99_ns: Option<u64>,
    /// The largest.
    pub response_max_ns: Option<u64>,
    /// 99th percentile of the lag of the messages sent in it.
    pub lag_p99_ns: Option<u64>,
}

/// What the live view is told once a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
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
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Second { ok, filtered, offered, .. } = self.second;
        write!(f, "{:>6.1}s", self.elapsed.as_secs_f64())?;
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

/// What a shard publishes at the end of a second, or at its own end.
#[derive(Clone, Debug)]
pub struct ShardSecond {
    /// Due since the start.
    pub offered: u64,
    /// What the recorder knows.
    pub interval: Interval,
}

/// Seconds are counted from the start of the run.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Merges the shards' seconds.
#[derive(Debug)]
pub struct Series {
    open_loop: bool,
    shards: Vec<ShardState>,
    rows: Vec<Second>,
    /// The seconds behind `rows` that some shard has not closed yet.
    pending: VecDeque<Pending>,
    /// Everything up to the last row.
    last: Sums,
}

#[derive(Clone, Debug, Default)]
struct ShardState {
    /// Seconds that it has closed, or all of them once it has ended.
    closed: usize,
    ended: bool,
    sums: Sums,
}

/// Running sums of one shard or of all, since the start.
#[derive(Clone, Debug, Default)]
struct Sums {
    offered: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Pending {
    sums: Sums,
    response: Histogram<u64>,
    lag: Histogram<u64>,
    /// Shards that have closed it.
    arrived: usize,
    /// Some shard ran to its end: it is a whole second.
    whole: bool,
}

impl Series {
    /// Of `shards` shards.
    pub fn new(shards: usize, open_loop: bool) -> Series {
        Series {
            open_loop,
            shards: vec![ShardState::default(); shards],
            rows: Vec::new(),
            pending: VecDeque::new(),
            last: Sums::default(),
        }
    }

    /// A shard has closed second `index` (0 is the first); seconds that it left out were merged
    /// into this one. Gives what is complete now.
    pub fn close(&mut self, shard: usize, index: usize, second: ShardSecond) -> Vec<Progress> {
        self.skip_to(shard, index);
        self.take(shard, index, second);
        let until = index - self.rows.len();
        self.pending.range_mut(..=until).for_each(|pending| pending.whole = true);
        self.complete()
    }

    /// A shard has ended within its next second, of which it leaves `tail`.
    pub fn end(&mut self, shard: usize, tail: ShardSecond) -> Vec<Progress> {
        assert!(!self.shards[shard].ended, "shard {shard} ends once");
        let index = self.shards[shard].closed;
        self.take(shard, index, tail);
        self.shards[shard].ended = true;
        self.skip_to(shard, self.rows.len() + self.pending.len());
        self.complete()
    }

    /// The rows; what came after the last whole second is one of its own, up to `end_ns`.
    pub fn finish(mut self, end_ns: u64) -> Vec<Second> {
        assert!(self.shards.iter().all(|shard| shard.ended), "every shard has ended");
        if let Some(tail) = self.pending.pop_front() {
            let begin_ns = self.rows.last().map_or(0, |second| second.end_ns);
            let second = row(end_ns.max(begin_ns), &self.last, &tail);
            let is_news = second.offered + second.sent + second.ok + second.filtered + second.error;
            if is_news > 0 {
                self.rows.push(second);
            }
        }
        assert!(self.pending.is_empty(), "only one second is not whole");
        self.rows
    }

    /// Seconds before `index` that `shard` has not closed go by without news from it.
    fn skip_to(&mut self, shard: usize, index: usize) {
        for skipped in self.shards[shard].closed..index {
            let sums = self.shards[shard].sums.clone();
            self.pending_at(skipped).add(&sums);
            self.shards[shard].closed = skipped + 1;
        }
    }

    fn take(&mut self, shard: usize, index: usize, second: ShardSecond) {
        assert_eq!(self.shards[shard].closed, index, "seconds of a shard come in order");
        let sums = Sums { offered: second.offered, counts: second.interval.counts };
        let pending = self.pending_at(index);
        pending.add(&sums);
        recorder::add(&mut pending.response, &second.interval.response);
        recorder::add(&mut pending.lag, &second.interval.lag);
        self.shards[shard].closed = index + 1;
        self.shards[shard].sums = sums;
    }

    fn pending_at(&mut self, index: usize) -> &mut Pending {
        let offset = index.checked_sub(self.rows.len()).expect("a row is complete for ever");
        while self.pending.len() <= offset {
            let mut pending = Pending::new();
            // Shards that have ended take part in the seconds to come with what they left.
            for shard in self.shards.iter_mut().filter(|shard| shard.ended) {
                pending.add(&shard.sums);
                shard.closed += 1;
            }
            self.pending.push_back(pending);
        }
        &mut self.pending[offset]
    }

    fn complete(&mut self) -> Vec<Progress> {
        let mut progress = Vec::new();
        let shards = self.shards.len();
        while let Some(first) = self.pending.pop_front_if(|it| it.arrived == shards && it.whole) {
            let end_ns = (self.rows.len() as u64 + 1) * SECOND_NS;
            let second = row(end_ns, &self.last, &first);
            let counts = &first.sums.counts;
            let errors = counts.error() + counts.unanswered;
            progress.push(Progress {
                elapsed: Duration::from_nanos(end_ns),
                second: second.clone(),
                open_loop: self.open_loop,
                errors,
                error_rate: summary::share(errors, counts.sent),
            });
            self.rows.push(second);
            self.last = first.sums;
        }
        progress
    }
}

impl Pending {
    fn new() -> Pending {
        Pending {
            sums: Sums::default(),
            response: recorder::histogram(),
            lag: recorder::histogram(),
            arrived: 0,
            whole: false,
        }
    }

    fn add(&mut self, sums: &Sums) {
        self.sums.offered += sums.offered;
        self.sums.counts.add(&sums.counts);
        self.arrived += 1;
    }
}

fn row(end_ns: u64, before: &Sums, now: &Pending) -> Second {
    let Pending { sums: Sums { offered, counts }, response, lag, .. } = now;
    let failed = |counts: &Counts| counts.error() + counts.unanswered;
    Second {
        end_ns,
        offered: offered - before.offered,
        sent: counts.sent - before.counts.sent,
        ok: counts.ok - before.counts.ok,
        filtered: counts.filtered - before.counts.filtered,
        error: failed(counts) - failed(&before.counts),
        in_flight: counts.in_flight(),
        response_p50_ns: summary::percentile_of_second(response, 5_000),
        response_p99_ns: summary::percentile_of_second(response, 9_900),
        response_max_ns: (!response.is_empty()).then(|| response.max()),
        lag_p99_ns: summary::percentile_of_second(lag, 9_900),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(total: u64, in_flight: u64, response_ns: u64) -> ShardSecond {
        let mut response = recorder::histogram();
        response.saturating_record(response_ns);
        let counts = Counts { sent: total + in_flight, ok: total, ..Counts::default() };
        let interval = Interval { counts, response, lag: recorder::histogram() };
        ShardSecond { offered: total + in_flight, interval }
    }

    #[test]
    fn a_second_is_complete_when_every_shard_has_closed_it() {
        let mut series = Series::new(2, true);
        assert!(series.close(0, 0, second(10, 1, 100)).is_empty());
        assert!(series.close(0, 1, second(30, 0, 100)).is_empty());
        let progress = series.close(1, 0, second(5, 2, 900));
        assert_eq!(progress.len(), 1);
        let first = &progress[0].second;
        assert_eq!((first.ok, first.in_flight, first.offered), (15, 3, 18));
        assert_eq!(first.response_max_ns, Some(900));
        assert_eq!(
            progress[0].to_string(),
            "   1.0s  15/s of 18/s  errors 0 (0.00%)  in flight 3  p99 900 ns"
        );
    }

    #[test]
    fn rows_sum_up_to_the_totals_also_when_shards_skip_and_end_early() {
        let mut series = Series::new(3, false);
        series.end(0, second(7, 0, 1));
        series.close(1, 0, second(1, 0, 1));
        series.close(1, 2, second(5, 0, 1));
        series.close(2, 0, second(1, 1, 1));
        series.close(2, 1, second(2, 1, 1));
        series.close(2, 2, second(3, 1, 1));
        series.close(2, 3, second(4, 1, 1));
        series.end(1, second(6, 0, 1));
        series.end(2, second(9, 0, 1));
        let rows = series.finish(4_300_000_000);
        let ok: Vec<u64> = rows.iter().map(|row| row.ok).collect();
        assert_eq!(ok, [9, 1, 5, 2, 5]);
        assert_eq!(rows.last().unwrap().end_ns, 4_300_000_000);
        assert_eq!(rows.last().unwrap().in_flight, 0);
    }

    #[test]
    fn a_shard_that_was_kept_from_closing_its_seconds_closes_them_together() {
        let mut series = Series::new(1, false);
        assert_eq!(series.close(0, 2, second(6, 0, 1)).len(), 3);
        assert!(series.end(0, second(8, 0, 1)).is_empty());
        let ok: Vec<u64> = series.finish(3_500_000_000).iter().map(|row| row.ok).collect();
        assert_eq!(ok, [0, 0, 6, 2]);
    }

    #[test]
    fn a_run_shorter_than_a_second_is_one_row() {
        let mut series = Series::new(1, false);
        assert!(series.end(0, second(7, 0, 1)).is_empty());
        let rows = series.finish(12_000_000);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].end_ns, rows[0].ok), (12_000_000, 7));
    }
}
