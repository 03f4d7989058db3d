//! What keeping to the schedule took: how often a shard woke for it, and how late.
//!
//! What it achieved is the lag (sent − due) in the latencies; this says how much of it is the
//! pacer's own, and what was paid.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    }
}
