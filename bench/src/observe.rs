//! What a process costs while a tier runs: CPU and memory, once a second and at both ends.
//!
//! Owns the reading of one process from outside (a timer inside a busy process starves); of an engine
//! elsewhere its admin listener is asked instead. CPU time here has two sources: the sum over the threads of /proc/PID/task/*/schedstat, in nanoseconds, which
//! forgets threads that have ended, and the process's own total, in hundredths of a second, which
//! does not. The finer one is taken unless it has visibly forgotten something.
//!
//! Invariant: the first sample is taken by [`Observer::start`]; whoever ends the tier takes the last
//! one, so that a tier of a few milliseconds has figures too.

pub mod admin;
pub mod caps;

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use self::caps::Caps;
use crate::config::Address;

/// Time between samples.
pub const PERIOD: Duration = Duration::from_secs(1);
/// A shorter interval says nothing about a peak.
const PEAK_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Two ticks of the kernel's clock for process totals: what its total may be ahead of the sum.
const TOTAL_SLACK: Duration = Duration::from_millis(20);

/// What one process cost during a tier. 100 % is one cpu.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU time over the whole tier.
    pub cpu_seconds: f64,
    /// CPU time for a million messages that were answered; None below 10,000 messages, where what
    /// a process does besides outweighs them.
    pub cpu_seconds_per_million: Option<f64>,
    pub cpu_mean_percent: f64,
    pub cpu_peak_percent: f64,
    pub rss_mean_bytes: u64,
    pub rss_peak_bytes: u64,
    /// What it was allowed.
    #[serde(default)]
    pub caps: Caps,
    pub samples: Vec<Sample>,
}

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the first sample.
    pub at_s: f64,
    /// CPU since the sample before; None for the first.
    pub cpu_percent: Option<f64>,
    pub rss_bytes: u64,
}

/// Watches one process.
#[derive(Debug)]
pub struct Observer {
    subject: Subject,
    started: Instant,
    cpu_at_start: Duration,
    last: (Instant, Duration),
    peak_percent: f64,
    rss_high_bytes: u64,
    /// At the start, and as seen last.
    caps: Option<(Caps, Caps)>,
    samples: Vec<Sample>,
}

#[derive(Debug)]
enum Subject {
    /// On this machine; no system where /proc cannot be read: then there are no samples.
    Process { pid: Pid, system: Option<Box<System>> },
    /// An engine elsewhere, in the life that was seen first.
    Engine { admin: Address, started_at: Option<String> },
}

impl Observer {
    /// Takes the first sample. A process that is gone reads as zero.
    pub fn start(pid: u32) -> Observer {
        let system = System::new().ok().map(Box::new);
        Observer::of(Subject::Process { pid: Pid::from_u32(pid), system })
    }

    /// The same for an engine that is known by its admin listener only.
    pub fn elsewhere(admin: &Address) -> Observer {
        Observer::of(Subject::Engine { admin: admin.clone(), started_at: None })
    }

    fn of(subject: Subject) -> Observer {
        let now = Instant::now();
        let mut observer = Observer {
            subject,
            started: now,
            cpu_at_start: Duration::ZERO,
            last: (now, Duration::ZERO),
            peak_percent: 0.0,
            rss_high_bytes: 0,
            caps: None,
            samples: Vec::new(),
        };
        if let Some(look) = observer.look() {
            observer.cpu_at_start = look.cpu;
            observer.last = (now, look.cpu);
            observer.samples.push(Sample {
                at_s: 0.0,
                cpu_percent: None,
                rss_bytes: look.rss_bytes,
            });
        }
        observer
    }

    /// Takes a sample; none if the process is gone.
    pub fn sample(&mut self) {
        let Some(look) = self.look() else { return };
        let now = Instant::now();
        let (then, cpu_then) = self.last;
        let interval = now - then;
        let cpu_percent = percent(look.cpu.saturating_sub(cpu_then), interval);
        if interval >= PEAK_INTERVAL_MIN {
            self.peak_percent = self.peak_percent.max(cpu_percent);
        }
        self.last = (now, look.cpu);
        self.samples.push(Sample {
            at_s: (now - self.started).as_secs_f64(),
            cpu_percent: Some(cpu_percent),
            rss_bytes: look.rss_bytes,
        });
    }

    /// Sums up, from the first sample to the last one. `messages` were answered meanwhile.
    ///
    /// `own_cpu` is what the process says of itself, if it does: it knows its own time to the
    /// nanosecond, also of threads that have ended.
    pub fn finish(self, messages: u64, own_cpu: Option<Duration>) -> Resources {
        const MESSAGES_MIN: u64 = 10_000;
        let seen = self.last.1.saturating_sub(self.cpu_at_start);
        let cpu = own_cpu.unwrap_or(seen);
        let cpu_seconds = cpu.as_secs_f64();
        let cpu_mean_percent = percent(cpu, self.last.0 - self.started);
        let per_million = cpu_seconds / (messages as f64 / 1e6);
        let rss = || self.samples.iter().map(|sample| sample.rss_bytes);
        let count = self.samples.len().max(1) as u64;
        Resources {
            cpu_seconds,
            cpu_seconds_per_million: (messages >= MESSAGES_MIN).then_some(per_million),
            cpu_mean_percent,
            cpu_peak_percent: self.peak_percent.max(cpu_mean_percent),
            rss_mean_bytes: rss().sum::<u64>() / count,
            rss_peak_bytes: rss().max().unwrap_or(0).max(self.rss_high_bytes),
            caps: self.caps.map(|(first, last)| last.since(&first)).unwrap_or_default(),
            samples: self.samples,
        }
    }

    fn look(&mut self) -> Option<Look> {
        let look = match &mut self.subject {
            Subject::Process { pid, system } => look_at(*pid, system.as_mut()?)?,
            Subject::Engine { admin, started_at } => ask(admin, started_at)?,
        };
        self.rss_high_bytes = self.rss_high_bytes.max(look.rss_high_bytes);
        let first = self.caps.take().map_or_else(|| look.caps.clone(), |(first, _)| first);
        self.caps = Some((first, look.caps.clone()));
        Some(look)
    }
}

struct Look {
    cpu: Duration,
    rss_bytes: u64,
    rss_high_bytes: u64,
    caps: Caps,
}

fn look_at(pid: Pid, system: &mut System) -> Option<Look> {
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    let process = system.process(pid)?;
    let total = Duration::from_millis(process.accumulated_cpu_time());
    let threads = thread_time(pid.as_u32());
    let cpu = if threads + TOTAL_SLACK >= total { threads } else { total };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss_high_bytes = high_water_bytes(&status).unwrap_or(0);
    Some(Look { cpu, rss_bytes: process.memory(), rss_high_bytes, caps: Caps::of(pid.as_u32()) })
}

/// An engine that has been started anew counts from zero: its figures are not taken for the first
/// one's.
fn ask(admin: &Address, started_at: &mut Option<String>) -> Option<Look> {
    let page = admin::ask(admin).ok()?;
    if *started_at.get_or_insert_with(|| page.started_at.clone()) != page.started_at {
        return None;
    }
    let process = page.process?;
    Some(Look {
        cpu: Duration::try_from_secs_f64(process.cpu_s).ok()?,
        rss_bytes: process.resident_bytes,
        rss_high_bytes: process.resident_bytes,
        caps: page.caps,
    })
}

fn percent(cpu: Duration, wall: Duration) -> f64 {
    if wall.is_zero() { 0.0 } else { cpu.as_secs_f64() / wall.as_secs_f64() * 100.0 }
}

/// CPU time of all threads that a process has now, ring workers among them.
fn thread_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    });
    times.sum()
}

/// The largest resident set so far, from /proc/PID/status.
fn high_water_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    /// So much cpu time of this thread, however busy the machine is.
    fn burn(time: Duration) {
        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let end = now() + time;
        while now() < end {}
    }

    #[test]
    fn a_busy_process_is_seen_busy_even_if_its_thread_has_ended() {
        let mut observer = Observer::start(std::process::id());
        let busy = Duration::from_millis(300);
        std::thread::spawn(move || burn(busy)).join().unwrap();
        observer.sample();
        let resources = observer.finish(1_000_000, None);
        // The kernel counts what a thread that has ended had used in hundredths of a second.
        assert!(resources.cpu_seconds > 0.27, "{resources:?}");
        assert!(resources.cpu_mean_percent > 0.0, "{resources:?}");
        assert!(resources.cpu_peak_percent >= resources.cpu_mean_percent);
        assert!(resources.rss_peak_bytes >= resources.rss_mean_bytes);
        assert!(resources.rss_mean_bytes > 1 << 20);
        assert_eq!(resources.cpu_seconds_per_million, Some(resources.cpu_seconds));
        assert_eq!(resources.samples.len(), 2);
        assert_eq!(resources.samples[0].cpu_percent, None);
    }

    #[test]
    fn a_tier_of_milliseconds_has_figures_too() {
        let mut observer = Observer::start(std::process::id());
        burn(Duration::from_millis(5));
        observer.sample();
        let resources = observer.finish(100, Some(Duration::from_millis(5)));
        assert_eq!(resources.cpu_seconds, 0.005, "what it says itself");
        assert_eq!(resources.samples.len(), 2);
        assert!(resources.rss_mean_bytes > 0);
        assert_eq!(resources.cpu_seconds_per_million, None, "too few messages to say");
    }

    #[test]
    fn a_process_that_is_gone_reads_as_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let resources = Observer::start(child.id()).finish(0, None);
        assert_eq!((resources.cpu_seconds, resources.samples.len()), (0.0, 0));
    }

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(high_water_bytes("Name:\tx\nVmHWM:\t   1234 kB\n"), Some(1234 * 1024));
        assert_eq!(high_water_bytes("Name:\tx\n"), None);
    }
}
