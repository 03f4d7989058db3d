//! How many cpus this process may use, and which.
//!
//! Two limits hold at once: the affinity mask says *which* cpus (taskset, `cpuset:`), the cgroup
//! quota says *how much* of them (`cpus:` in compose). Leaves the quota's files to
//! [`crate::cgroup`], pinning to [`crate::shards`].

use std::io;

use crate::cgroup::Cgroups;

/// What the machine lets this process use.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpus {
    /// The cpus that this thread may run on, ascending.
    pub affinity: Vec<usize>,
    /// Cpus' worth of time per period that the cgroups grant; `None` is unlimited.
    pub quota: Option<f64>,
}

impl Cpus {
    /// Asks the kernel.
    ///
    /// # Errors
    /// `sched_getaffinity` fails.
    pub fn detect() -> io::Result<Cpus> {
        let set = rustix::thread::sched_getaffinity(None)?;
        let affinity =
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
        Ok(Cpus { affinity, quota: Cgroups::of(None).cpu_quota() })
    }

    /// min(affinity, whole cpus of the quota), at least 1.
    pub fn shards_default(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a quota is a small positive number, and `as` saturates"
        )]
        let whole = self.quota.map_or(usize::MAX, |quota| quota.floor() as usize);
        self.affinity.len().min(whole).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(affinity: usize, quota: Option<f64>) -> usize {
        Cpus { affinity: (0..affinity).collect(), quota }.shards_default()
    }

    #[test]
    fn shards_follow_the_tighter_of_affinity_and_whole_quota() {
        assert_eq!(shards(8, None), 8);
        assert_eq!(shards(8, Some(2.9)), 2);
        assert_eq!(shards(2, Some(16.0)), 2);
        assert_eq!(shards(4, Some(0.5)), 1);
    }

    #[test]
    fn this_machine_has_at_least_one_cpu() {
        let cpus = Cpus::detect().unwrap();
        assert!(!cpus.affinity.is_empty());
        assert!(cpus.shards_default() >= 1);
    }
}
