//! Time as the run counts it: nanoseconds since its start, monotonic.
//!
//! The only file that reads the clock for a measurement; every shard has a copy with the same
//! origin. The wall clock is read once, so that a step of it bends no figure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// CLOCK_MONOTONIC at the start.
    origin_ns: u64,
    origin_unix_ns: u64,
}

impl Clock {
    /// A run that starts now.
    pub(crate) fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { origin_ns: monotonic_ns(), origin_unix_ns: nanos(unix) }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        monotonic_ns().saturating_sub(self.origin_ns)
    }

    /// A reading of [`monotonic_ns`] as nanoseconds since the start; 0 if it was before.
    pub(crate) fn since_start_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.origin_ns)
    }

    /// The wall clock at `run_ns`, nanoseconds since 1970.
    pub(crate) fn unix_ns(&self, run_ns: u64) -> u64 {
        self.origin_unix_ns.saturating_add(run_ns)
    }
}

/// What `Instant` reads, without its checks: a message costs three readings.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// A duration in nanoseconds, at most 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
