//! How long this process's shards were ready to run and had no cpu.
//!
//! Each shard reads /proc/thread-self/schedstat at its start and at its end: time on a cpu, time on
//! a run queue (both ns), and time slices. Leaves the limit to [`super`].
//! Invariant: figures are of whole threads between two moments of their own.

use std::time::Instant;

/// One thread's times since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    /// On a cpu, ns.
    cpu_ns: u64,
    /// Ready, without a cpu, ns.
    wait_ns: u64,
    /// How often it got one.
    slices: u64,
}

/// A thread that is being watched.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    at: Instant,
    times: Times,
}

/// What a thread did between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Between the two.
    pub elapsed_ns: u64,
    /// On a cpu.
    pub cpu_ns: u64,
    /// Ready, without a cpu.
    pub wait_ns: u64,
    /// How often it got one.
    pub slices: u64,
}

impl Begun {
    /// The thread that calls; `None` where the kernel does not tell.
    pub fn now() -> Option<Begun> {
        Some(Begun { at: Instant::now(), times: Times::now()? })
    }

    /// What the thread did since, called on the same one.
    pub fn end(self) -> Option<Ran> {
        let Times { cpu_ns, wait_ns, slices } = Times::now()?;
        Some(Ran {
            elapsed_ns: crate::clock::nanos(self.at.elapsed()),
            cpu_ns: cpu_ns.saturating_sub(self.times.cpu_ns),
            wait_ns: wait_ns.saturating_sub(self.times.wait_ns),
            slices: slices.saturating_sub(self.times.slices),
        })
    }
}

impl Times {
    fn now() -> Option<Times> {
        Times::parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
    }

    /// `cpu wait slices`.
    fn parse(schedstat: &str) -> Option<Times> {
        let mut fields = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
        let mut next = || fields.next()?.ok();
        Some(Times { cpu_ns: next()?, wait_ns: next()?, slices: next()? })
    }
}

/// What the shards' threads did during a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Threads(Vec<Ran>);

impl Threads {
    /// `None` without any, or when one of them is not known.
    pub fn new(ran: impl IntoIterator<Item = Option<Ran>>) -> Option<Threads> {
        let ran: Vec<Ran> = ran.into_iter().collect::<Option<_>>()?;
        (!ran.is_empty()).then_some(Threads(ran))
    }

    /// The largest share of the time that one of them waited for a cpu.
    pub fn wait_max(&self) -> f64 {
        self.largest(|ran| ran.wait_ns)
    }

    /// The largest share of the time that one of them was on a cpu.
    pub fn busy_max(&self) -> f64 {
        self.largest(|ran| ran.cpu_ns)
    }

    /// What a wait for a cpu took on the mean, ns.
    pub fn wait_mean_ns(&self) -> u64 {
        let sum = |of: fn(&Ran) -> u64| self.0.iter().map(of).sum::<u64>();
        sum(|ran| ran.wait_ns) / sum(|ran| ran.slices).max(1)
    }

    fn largest(&self, of: fn(&Ran) -> u64) -> f64 {
        let share = |ran: &Ran| of(ran) as f64 / ran.elapsed_ns.max(1) as f64;
        self.0.iter().map(share).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_thread_counts_and_the_mean_is_of_all() {
        let ran =
            |elapsed_ns, cpu_ns, wait_ns| Some(Ran { elapsed_ns, cpu_ns, wait_ns, slices: 5 });
        let threads = Threads::new([ran(1000, 500, 30), ran(500, 50, 150)]).unwrap();
        assert_eq!((threads.busy_max(), threads.wait_max()), (0.5, 0.3));
        assert_eq!(threads.wait_mean_ns(), 18);
        assert_eq!(Threads::new([]), None);
        assert_eq!(Threads::new([ran(1, 1, 1), None]), None);
        assert_eq!(Times::parse("1 2"), None);
        assert_eq!(Times::parse("1 2 3\n"), Some(Times { cpu_ns: 1, wait_ns: 2, slices: 3 }));
    }

    #[test]
    fn work_on_this_thread_is_seen() {
        let begun = Begun::now().expect("the kernel tells");
        let mut sum = 0u64;
        let ran = loop {
            sum = (0..10_000u64).fold(sum, u64::wrapping_add);
            let ran = begun.end().expect("the kernel tells");
            if ran.cpu_ns >= 10_000_000 || ran.elapsed_ns > 20_000_000_000 {
                break ran;
            }
        };
        // The two clocks are not read at the same moment.
        assert!(ran.cpu_ns >= 10_000_000 && ran.elapsed_ns + 1_000_000 >= ran.cpu_ns, "{ran:?}");
        assert!(sum > 0);
    }
}
