//! What keeping to the schedule took: how often a shard woke for it, and how late.
//!
//! What it achieved is the lag (sent − due) in the latencies; this says how much of it is the
//! pacer's own, and what was paid.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::summary::{thousands, time};

/// One lane's pacer, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PacingReport {
    /// How often a pacer slept until something was due.
    pub wakes: u64,
    /// How late it woke, in sum: divided by `wakes`, its mean error.
    pub late_sum_ns: u64,
    /// How late it woke at most.
    pub late_max_ns: u64,
    /// Time spent awake and waiting, to be on time.
    pub spun_ns: u64,
    /// CPU time of the shards' threads, all their work included, but not of the kernel's workers.
    pub cpu_ns: u64,
}

impl PacingReport {
    /// Adds what another lane took.
    pub fn add(&mut self, other: &PacingReport) {
        self.wakes += other.wakes;
        self.late_sum_ns += other.late_sum_ns;
        self.late_max_ns = self.late_max_ns.max(other.late_max_ns);
        self.spun_ns += other.spun_ns;
        self.cpu_ns += other.cpu_ns;
    }

    /// Nothing had to be paced: closed loop.
    pub fn is_idle(&self) -> bool {
        self.wakes == 0 && self.spun_ns == 0
    }

    /// For people: what it took in a run of `ran`.
    pub fn told(&self, ran: Duration) -> impl fmt::Display {
        let (wakes, ran_s) = (self.wakes as f64, ran.as_secs_f64().max(1e-9));
        #[expect(clippy::cast_possible_truncation, reason = "a number of wakes")]
        let per_second = (wakes / ran_s) as u64;
        let late_ns = self.late_sum_ns / self.wakes.max(1);
        let core = self.cpu_ns as f64 / 1e9 / ran_s * 100.0;
        let spun = self.spun_ns as f64 / 1e9 / ran_s * 100.0;
        format!(
            "{} wakes a second, {} late on the mean and {} at most; awake waiting {spun:.1} %; \
             shards took {core:.1} % of a core",
            thousands(per_second),
            time(late_ns),
            time(self.late_max_ns),
        )
    }

    /// Notes that a pacer woke `late_ns` after the time it wanted.
    pub(crate) fn woke(&mut self, late_ns: u64) {
        self.wakes += 1;
        self.late_sum_ns += late_ns;
        self.late_max_ns = self.late_max_ns.max(late_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_add_up_and_keep_the_worst() {
        let mut sum = PacingReport::default();
        for late_ns in [10, 30, 20] {
            let mut one = PacingReport { spun_ns: 5, cpu_ns: 7, ..PacingReport::default() };
            one.woke(late_ns);
            sum.add(&one);
        }
        let expected =
            PacingReport { wakes: 3, late_sum_ns: 60, late_max_ns: 30, spun_ns: 15, cpu_ns: 21 };
        assert_eq!(sum, expected);
        assert_eq!(
            sum.told(Duration::from_nanos(42)).to_string(),
            "71,428,571 wakes a second, 20 ns late on the mean and 30 ns at most; awake waiting \
             35.7 %; shards took 50.0 % of a core"
        );
    }
}
