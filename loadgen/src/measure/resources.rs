//! What the run cost this process: CPU time and memory.
//!
//! CPU time is CLOCK_PROCESS_CPUTIME_ID, exact to the nanosecond; /proc/self/stat, which counts in
//! hundredths of a second, only says how it splits into user and system.

use rustix::time::{ClockId, clock_gettime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cost of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// CPU-seconds in our own code.
    pub cpu_user_s: f64,
    /// CPU-seconds in the kernel for us.
    pub cpu_system_s: f64,
    /// The largest resident set of this process so far, bytes; 0 where it is not told.
    pub rss_peak_bytes: u64,
}

/// The process's CPU time at a point.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    total_s: f64,
    user_ticks: u64,
    system_ticks: u64,
}

impl Cpu {
    /// Now.
    pub fn now() -> Cpu {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let total_s = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let (user_ticks, system_ticks) = ticks(&stat).unwrap_or_default();
        Cpu { total_s, user_ticks, system_ticks }
    }
}

impl Resources {
    /// What was used since `begin`.
    pub fn since(begin: Cpu) -> Resources {
        let end = Cpu::now();
        let total_s = end.total_s - begin.total_s;
        let user = end.user_ticks.saturating_sub(begin.user_ticks) as f64;
        let system = end.system_ticks.saturating_sub(begin.system_ticks) as f64;
        let user_share = if user + system > 0.0 { user / (user + system) } else { 1.0 };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Resources {
            cpu_user_s: total_s * user_share,
            cpu_system_s: total_s * (1.0 - user_share),
            rss_peak_bytes: peak_bytes(&status).unwrap_or(0),
        }
    }
}

/// utime and stime of /proc/PID/stat, whose second field is a name in parentheses.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// VmHWM of /proc/PID/status.
fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some((250, 75)));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak_bytes("VmPeak:\t 1 kB\nVmHWM:\t  2048 kB\n"), Some(2 << 20));
        assert_eq!(peak_bytes(""), None);
    }

    #[test]
    fn work_costs_time() {
        let begin = Cpu::now();
        let mut sum = 0u64;
        while Cpu::now().total_s - begin.total_s < 0.02 {
            sum = (0..10_000u64).fold(sum, u64::wrapping_add);
        }
        let cost = Resources::since(begin);
        assert!(cost.cpu_user_s + cost.cpu_system_s >= 0.02, "{cost:?} {sum}");
        assert!(cost.rss_peak_bytes > 0);
    }
}
