//! What the system says of this process, under the names that Prometheus clients use everywhere.

use std::fmt;

use rustix::process::{Resource, getrlimit};

use crate::exposition::{Page, Unit};

/// What the system says of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu_secs: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub fds: usize,
    /// The soft limit on descriptors.
    pub fds_max: Option<u64>,
    /// When it began, in seconds since 1970.
    pub started_unix_secs: f64,
}

impl Process {
    /// Asks `/proc`; `None` where it is not mounted.
    pub fn read() -> Option<Process> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fds = std::fs::read_dir("/proc/self/fd").ok()?.count();
        let Stat { cpu_ticks, threads, started_ticks, resident_pages } = parse(&stat)?;
        let system = std::fs::read_to_string("/proc/stat").ok()?;
        let booted = system.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(Process {
            cpu_secs: seconds(cpu_ticks),
            resident_bytes: resident_pages * rustix::param::page_size() as u64,
            threads,
            fds,
            fds_max: getrlimit(Resource::Nofile).current,
            started_unix_secs: booted.trim().parse::<f64>().ok()? + seconds(started_ticks),
        })
    }
}

fn seconds(ticks: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are 2.8 million years")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    seconds
}

/// Of a line of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    /// User and system.
    cpu_ticks: u64,
    threads: u64,
    /// After the machine's start.
    started_ticks: u64,
    resident_pages: u64,
}

fn parse(stat: &str) -> Option<Stat> {
    // The name may have blanks and brackets; the last bracket ends it, and field 3 follows.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        started_ticks: field(22)?,
        resident_pages: field(24)?,
    })
}

/// Writes what there is to know now; nothing where `/proc` is not mounted.
///
/// # Errors
/// Those of `page`.
pub fn families(page: &mut Page<'_>) -> fmt::Result {
    let Some(process) = Process::read() else { return Ok(()) };
    let Process { cpu_secs, resident_bytes, threads, fds, fds_max, started_unix_secs } = process;
    let (seconds, bytes) = (|| Some(Unit::Seconds), Some(Unit::Bytes));
    let help = "User and system time of the process.";
    page.counter("process_cpu", help, seconds(), cpu_secs)?;
    page.gauge("process_resident_memory", "Resident memory.", bytes, resident_bytes)?;
    page.gauge("process_threads", "Threads.", None, threads)?;
    page.gauge("process_open_fds", "Open descriptors.", None, fds)?;
    if let Some(fds_max) = fds_max {
        page.gauge("process_max_fds", "The soft limit on descriptors.", None, fds_max)?;
    }
    let help = "Start of the process, since 1970.";
    page.gauge("process_start_time", help, seconds(), started_unix_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_wild_name_is_read() {
        let stat =
            "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 11 5 0 0 20 0 3 0 1 1000 42 18446744073709551615 1";
        let read = Stat { cpu_ticks: 16, threads: 3, started_ticks: 1, resident_pages: 42 };
        assert_eq!(parse(stat), Some(read));
        assert_eq!(parse("7 (x) S"), None);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 100_000 && process.fds > 2, "{process:?}");
    }
}
