//! What a run of the bench consists of: tiers, in order. Data, not code.

pub mod tiers;

use std::time::Duration;

/// One step of load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    pub name: &'static str,
    /// Messages to offer; None: as many as the duration allows.
    pub total_logs: Option<u64>,
    /// The longest it may take.
    pub duration: Duration,
    /// Connections, each with at most one batch unanswered.
    pub concurrency: usize,
}

impl Tier {
    /// The rate below which the total does not fit into the duration, in messages a second;
    /// None for a tier without a total.
    pub fn rate_needed(&self) -> Option<f64> {
        self.total_logs.map(|total| total as f64 / self.duration.as_secs_f64())
    }
}

/// A named list of tiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    pub name: &'static str,
    pub tiers: Vec<Tier>,
}
