//! How long things take on a shard: replies, writes, syncs.
//!
//! Histograms with the buckets of [`runtime::exposition`]. One shard writes, anybody reads: a number
//! is stored by a plain addition, without a locked instruction. Invariant: no number ever falls; a
//! histogram's count is the sum of its buckets, whenever it is read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::exposition::{self, BUCKETS};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// From when a line was read to when its fate was known, of lines that were promised `written`
    /// or `durable`; a line that waited for room in the batch has waited in this.
    Reply,
    /// A write of the sink.
    Write,
    /// A sync of the sink.
    Sync,
}

impl Timed {
    /// All of them, in the order of their index.
    pub const ALL: [Timed; 3] = [Timed::Reply, Timed::Write, Timed::Sync];
}

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// The times of one shard; only that shard writes them.
#[derive(Debug)]
pub struct Times {
    histograms: [Histogram; Timed::ALL.len()],
}

impl Default for Times {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let histogram = |_| Histogram { buckets: std::array::from_fn(|_| zero()), sum_ns: zero() };
        Times { histograms: std::array::from_fn(histogram) }
    }
}

impl Times {
    /// `count` more that took so long.
    pub fn add(&self, what: Timed, took: Duration, count: u64) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let Histogram { buckets, sum_ns } = &self.histograms[what as usize];
        let more = |cell: &AtomicU64, by: u64| {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        more(&buckets[exposition::bucket_of(ns)], count);
        more(sum_ns, ns.saturating_mul(count));
    }

    /// As it is now.
    pub fn load(&self, what: Timed) -> exposition::Times {
        let Histogram { buckets, sum_ns } = &self.histograms[what as usize];
        exposition::Times {
            buckets: std::array::from_fn(|index| buckets[index].load(Ordering::Relaxed)),
            sum_ns: sum_ns.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_there_once_and_in_its_own_histogram() {
        let times = Times::default();
        times.add(Timed::Write, Duration::from_micros(200), 1);
        times.add(Timed::Reply, Duration::from_millis(2), 40);
        times.add(Timed::Reply, Duration::from_secs(3600), 2);
        let reply = times.load(Timed::Reply);
        assert_eq!((reply.count(), reply.sum_ns), (42, 40 * 2_000_000 + 2 * 3_600_000_000_000));
        assert_eq!(reply.buckets[exposition::bucket_of(2_000_000)], 40);
        assert_eq!(reply.buckets[BUCKETS - 1], 2);
        assert_eq!((times.load(Timed::Write).count(), times.load(Timed::Sync).count()), (1, 0));
    }
}
