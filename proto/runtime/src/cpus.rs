//! How many cpus this process may use, and which.
//!
//! Two limits hold at once: the affinity mask says *which* cpus (taskset, `cpuset:`), the cgroup
//! quota says *how much* of them (`cpus:` in compose). Also keeps other threads off the shards' cpus.
//! Leaves the quota's files to [`crate::cgroup`], pinning to [`crate::shards`].

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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
        let set = sched_getaffinity(None)?;
        let affinity = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
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

/// While it lives, this thread and those that it starts stay off some cpus: what a shard is about
/// to do at a due time cannot wait for the few milliseconds that another thread may hold its cpu.
#[derive(Debug)]
pub struct Aside {
    before: Option<CpuSet>,
}

impl Aside {
    /// Off `cpus`, if this thread may run on any other; else it stays where it is.
    pub fn of(cpus: &[usize]) -> Aside {
        let Ok(before) = sched_getaffinity(None) else { return Aside { before: None } };
        let mut rest = before;
        cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| rest.unset(cpu));
        let has_moved = rest.count() > 0 && sched_setaffinity(None, &rest).is_ok();
        Aside { before: has_moved.then_some(before) }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = sched_setaffinity(None, before);
        }
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

    #[test]
    fn a_thread_goes_aside_while_there_is_room_and_comes_back() {
        let all = Cpus::detect().unwrap().affinity;
        let (first, others) = all.split_first().unwrap();
        {
            let _aside = Aside::of(&[*first]);
            let here = Cpus::detect().unwrap().affinity;
            assert_eq!(here, if others.is_empty() { &all[..] } else { others });
            let started = std::thread::spawn(|| Cpus::detect().unwrap().affinity);
            assert_eq!(started.join().unwrap(), here);
        }
        assert_eq!(Cpus::detect().unwrap().affinity, all);
        let _nowhere = Aside::of(&all);
        assert_eq!(Cpus::detect().unwrap().affinity, all);
    }
}
