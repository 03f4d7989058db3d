//! What a process was allowed while a tier ran, and what that cost it.
//!
//! Owns the caps as the report shows them. They come from the cgroups of a process on this machine, or
//! from what an engine elsewhere says of itself. Leaves the reading of cgroups to `runtime`.
//!
//! Invariant: what has no cap, or is not known, is `None`, never 0.

use std::collections::BTreeSet;

use runtime::cgroup::Cgroups;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde::{Deserialize, Serialize};

/// The caps on one side, and what they cost it. Cgroups cap all that runs in them together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caps {
    /// The cpus that it may run on; empty if that is not known.
    pub cpus: Vec<usize>,
    /// Cpus' worth of time per period.
    pub cpu_quota: Option<f64>,
    /// Periods of that quota in which something ran.
    pub periods: Option<u64>,
    /// Periods whose share was used up before their end.
    pub throttled_periods: Option<u64>,
    /// How long threads were kept from running for that (seconds, added up over the cpus).
    pub throttled_s: Option<f64>,
    pub memory_bytes_max: Option<u64>,
    /// Under that cap at the end; page cache is in it.
    pub memory_bytes: Option<u64>,
    /// The most since the cgroup began.
    pub memory_peak_bytes: Option<u64>,
    /// How often something had to be given back because the cap was reached.
    pub memory_reached: Option<u64>,
}

impl Caps {
    /// Of a process on this machine, counted from the start of its cgroup.
    pub fn of(pid: u32) -> Caps {
        let cgroups = Cgroups::of(Some(pid));
        let (throttling, memory) = (cgroups.throttling(), cgroups.memory());
        Caps {
            cpus: affinity(pid),
            cpu_quota: cgroups.cpu_quota(),
            periods: throttling.map(|felt| felt.periods),
            throttled_periods: throttling.map(|felt| felt.throttled_periods),
            throttled_s: throttling.map(|felt| felt.throttled.as_secs_f64()),
            memory_bytes_max: cgroups.memory_bytes_max(),
            memory_bytes: memory.map(|memory| memory.used_bytes),
            memory_peak_bytes: memory.and_then(|memory| memory.peak_bytes),
            memory_reached: memory.map(|memory| memory.reached),
        }
    }

    /// The same with only what was counted after `before`.
    pub fn since(self, before: &Caps) -> Caps {
        let counted = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Caps {
            periods: counted(self.periods, before.periods),
            throttled_periods: counted(self.throttled_periods, before.throttled_periods),
            throttled_s: (self.throttled_s)
                .zip(before.throttled_s)
                .map(|(now, then)| (now - then).max(0.0)),
            memory_reached: counted(self.memory_reached, before.memory_reached),
            ..self
        }
    }

    /// Whether a cgroup caps anything.
    pub fn is_capped(&self) -> bool {
        self.cpu_quota.is_some() || self.memory_bytes_max.is_some()
    }
}

/// The cpus that any thread of the process may run on: some threads are kept off others' cpus.
fn affinity(pid: u32) -> Vec<usize> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut cpus = BTreeSet::new();
    for task in tasks.flatten() {
        let id = task.file_name().to_str().and_then(|id| id.parse().ok());
        let set = id.and_then(Pid::from_raw).and_then(|id| sched_getaffinity(Some(id)).ok());
        cpus.extend(set.iter().flat_map(|set| (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu))));
    }
    cpus.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_charged_only_for_what_was_counted_in_it() {
        let at = |periods, throttled_s, reached| Caps {
            cpus: vec![0],
            cpu_quota: Some(0.5),
            periods: Some(periods),
            throttled_periods: Some(periods / 2),
            throttled_s: Some(throttled_s),
            memory_bytes_max: Some(100),
            memory_bytes: Some(40),
            memory_peak_bytes: Some(60),
            memory_reached: Some(reached),
        };
        let tier = at(50, 2.5, 3).since(&at(20, 1.0, 3));
        assert_eq!((tier.periods, tier.throttled_periods), (Some(30), Some(15)));
        assert_eq!((tier.throttled_s, tier.memory_reached), (Some(1.5), Some(0)));
        assert_eq!((tier.memory_bytes, tier.memory_peak_bytes), (Some(40), Some(60)));
        assert!(tier.is_capped());
    }

    #[test]
    fn what_is_not_known_stays_unknown() {
        let none = Caps::default().since(&Caps::default());
        assert_eq!(none, Caps::default());
        assert!(!none.is_capped());
        let half = Caps { periods: Some(1), ..Caps::default() }.since(&Caps::default());
        assert_eq!(half.periods, None);
    }

    #[test]
    fn this_process_runs_on_some_cpu() {
        assert!(!Caps::of(std::process::id()).cpus.is_empty());
    }

    #[test]
    fn what_an_engine_says_of_itself_reads_back() {
        let said = r#"{"cpus":[1],"cpu_quota":1.0,"periods":7,"memory_bytes_max":null,"new":true}"#;
        let caps: Caps = serde_json::from_str(said).unwrap();
        assert_eq!((caps.cpus, caps.cpu_quota, caps.periods), (vec![1], Some(1.0), Some(7)));
        assert_eq!((caps.throttled_s, caps.memory_bytes_max), (None, None));
    }
}
