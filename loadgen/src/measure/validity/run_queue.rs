//! How long this process's shards were ready to run and had no cpu.
//!
//! Reads /proc/self/task/*/schedstat: time on a cpu, time on a run queue (both ns), and time
//! slices. Finds the shards by their threads' names. Invariant: only threads that were there at
//! both ends are counted, by the difference.

use std::collections::BTreeMap;
use std::path::Path;

/// The counters of some threads at one moment, by thread id.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<u32, Times>);

/// One thread's times, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// On a cpu.
    pub cpu_ns: u64,
    /// Ready, without a cpu.
    pub wait_ns: u64,
    /// How often it got one.
    pub slices: u64,
}

/// What the threads did between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Threads {
    elapsed_ns: u64,
    times: Vec<Times>,
}

impl Counters {
    /// Of this process's threads whose name begins with `prefix`; `None` where the kernel does not
    /// tell.
    pub fn read(prefix: &str) -> Option<Counters> {
        Counters::read_at(Path::new("/proc/self/task"), prefix)
    }

    fn read_at(tasks: &Path, prefix: &str) -> Option<Counters> {
        let mut counters = BTreeMap::new();
        for entry in std::fs::read_dir(tasks).ok()?.flatten() {
            let text = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
            if !text("comm").is_some_and(|comm| comm.starts_with(prefix)) {
                continue;
            }
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if let Some(times) = text("schedstat").and_then(|text| times(&text)) {
                counters.insert(id, times);
            }
        }
        (!counters.is_empty()).then_some(Counters(counters))
    }

    /// What happened since `begin`, `elapsed_ns` ago.
    pub fn since(&self, begin: &Counters, elapsed_ns: u64) -> Option<Threads> {
        let times: Vec<Times> = self
            .0
            .iter()
            .filter_map(|(id, end)| Some((begin.0.get(id)?, end)))
            .map(|(begin, end)| Times {
                cpu_ns: end.cpu_ns.saturating_sub(begin.cpu_ns),
                wait_ns: end.wait_ns.saturating_sub(begin.wait_ns),
                slices: end.slices.saturating_sub(begin.slices),
            })
            .collect();
        (!times.is_empty() && elapsed_ns > 0).then_some(Threads { elapsed_ns, times })
    }
}

/// `cpu wait slices`.
fn times(schedstat: &str) -> Option<Times> {
    let mut fields = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || fields.next()?.ok();
    Some(Times { cpu_ns: next()?, wait_ns: next()?, slices: next()? })
}

impl Threads {
    /// Threads that did this in `elapsed_ns`.
    pub fn new(elapsed_ns: u64, times: Vec<Times>) -> Threads {
        Threads { elapsed_ns, times }
    }

    /// The largest share of the time that one of them waited for a cpu.
    pub fn wait_max(&self) -> f64 {
        self.largest(|times| times.wait_ns)
    }

    /// The largest share of the time that one of them was on a cpu.
    pub fn busy_max(&self) -> f64 {
        self.largest(|times| times.cpu_ns)
    }

    /// What a wait for a cpu took on the mean, ns.
    pub fn wait_mean_ns(&self) -> u64 {
        let sum = |of: fn(&Times) -> u64| self.times.iter().map(of).sum::<u64>();
        sum(|times| times.wait_ns) / sum(|times| times.slices).max(1)
    }

    fn largest(&self, of: fn(&Times) -> u64) -> f64 {
        let most = self.times.iter().map(of).max().unwrap_or(0);
        most as f64 / self.elapsed_ns.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, id: u32, comm: &str, schedstat: &str) {
        let folder = root.join(id.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("comm"), comm).unwrap();
        std::fs::write(folder.join("schedstat"), schedstat).unwrap();
    }

    #[test]
    fn shards_are_found_by_name_and_counted_by_difference() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 10, "main\n", "900 900 9\n");
        write(root.path(), 11, "loadgen-0\n", "100 10 2\n");
        write(root.path(), 12, "loadgen-1\n", "200 20 2\n");
        let begin = Counters::read_at(root.path(), "loadgen-").unwrap();
        write(root.path(), 11, "loadgen-0\n", "600 40 7\n");
        write(root.path(), 12, "loadgen-1\n", "300 320 7\n");
        write(root.path(), 13, "loadgen-2\n", "5 5 5\n");
        let end = Counters::read_at(root.path(), "loadgen-").unwrap();
        let threads = end.since(&begin, 1000).unwrap();
        assert_eq!((threads.busy_max(), threads.wait_max()), (0.5, 0.3));
        assert_eq!(threads.wait_mean_ns(), 33);
        assert!(Counters::read_at(root.path(), "engine-").is_none());
        assert!(Counters::read_at(&root.path().join("nowhere"), "loadgen-").is_none());
        assert_eq!(times("1 2"), None);
    }

    #[test]
    fn a_thread_of_this_process_is_found() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("queue-test-0".to_owned())
            .spawn(move || receiver.recv())
            .unwrap();
        let begin = std::time::Instant::now();
        // The new thread names itself.
        let found = loop {
            match Counters::read("queue-test-") {
                None if begin.elapsed().as_secs() < 5 => std::thread::yield_now(),
                found => break found,
            }
        };
        assert_eq!(found.expect("the kernel tells").0.len(), 1);
        drop(sender);
        let _ = thread.join();
    }
}
