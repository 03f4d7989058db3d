//! Whether the clocks stayed together: a step of the wall clock, a suspend.
//!
//! Figures come from the monotonic clock alone, which neither bends; but messages carry wall-clock
//! time, and a machine that slept has not offered its load. Invariant: three readings belong
//! together only if they were taken within [`TOGETHER_NS`].

use rustix::time::{ClockId, clock_gettime};

/// Readings that took longer were interrupted, and are taken again.
const TOGETHER_NS: i128 = 100_000;
const ATTEMPTS: u32 = 20;

/// Three clocks, read together.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// Stands still while the machine is suspended.
    monotonic_ns: i128,
    /// Goes on.
    boot_ns: i128,
    /// Is set by people and NTP.
    wall_ns: i128,
}

/// How far clocks went apart between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// By the monotonic clock, ns.
    pub elapsed_ns: u64,
    /// By how much the wall clock gained, the suspend left out.
    pub wall_step_ns: i64,
    /// How long the machine was suspended.
    pub suspended_ns: u64,
}

impl Clocks {
    /// Reads all three; `None` when they can't be read within [`TOGETHER_NS`].
    pub fn read() -> Option<Clocks> {
        let read = |id| {
            let time = clock_gettime(id);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        (0..ATTEMPTS).find_map(|_| {
            let monotonic_ns = read(ClockId::Monotonic);
            let (boot_ns, wall_ns) = (read(ClockId::Boottime), read(ClockId::Realtime));
            let took_ns = read(ClockId::Monotonic) - monotonic_ns;
            (took_ns <= TOGETHER_NS).then_some(Clocks { monotonic_ns, boot_ns, wall_ns })
        })
    }

    /// From `begin` to this reading.
    pub fn since(self, begin: Clocks) -> Drift {
        let elapsed_ns = self.monotonic_ns - begin.monotonic_ns;
        let suspended_ns = (self.boot_ns - begin.boot_ns) - elapsed_ns;
        // The wall clock goes on during a suspend, too.
        let wall_step_ns = (self.wall_ns - begin.wall_ns) - (self.boot_ns - begin.boot_ns);
        Drift {
            elapsed_ns: u64::try_from(elapsed_ns).unwrap_or(0),
            wall_step_ns: i64::try_from(wall_step_ns).unwrap_or(i64::MAX),
            suspended_ns: u64::try_from(suspended_ns).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_a_suspend_are_told_apart() {
        let begin = Clocks { monotonic_ns: 100, boot_ns: 500, wall_ns: 10_000 };
        let end = |monotonic_ns, boot_ns, wall_ns| Clocks { monotonic_ns, boot_ns, wall_ns };
        for (end, wall_step_ns, suspended_ns) in [
            (end(1100, 1500, 11_000), 0, 0),
            (end(1100, 1500, 9_000), -2000, 0),
            (end(1100, 1500, 11_700), 700, 0),
            (end(1100, 4500, 14_000), 0, 3000),
        ] {
            assert_eq!(end.since(begin), Drift { elapsed_ns: 1000, wall_step_ns, suspended_ns });
        }
    }

    #[test]
    fn this_machine_has_the_three_clocks() {
        let begin = Clocks::read().expect("they can be read together");
        let drift = Clocks::read().expect("they can be read together").since(begin);
        assert_eq!(drift.suspended_ns / 1_000_000_000, 0);
    }
}
