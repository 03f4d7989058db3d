//! How full the batch may be for a line of a level.
//!
//! ```text
//!   0 %                          low            normal          100 %
//!   ├─────────────────────────────┼────────────────┼───────────────┤
//!   │ all levels                  │ INFO and above │ ERROR, above  │ nobody
//! ```
//!
//! Thresholds on the one batch of a shard, not queues: who is let in keeps his place, so the order
//! of lines stays. Pure; owns the thresholds, leaves the batch to [`super::batch`]. Invariant: what
//! is let in at some fill is let in at every lower one, and so is every more important level.

use proto::level::Level;

/// What happens to lines when the batch fills up (OVERLOAD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They wait, and with them their connections.
    Wait,
    /// They are refused, the least important first.
    Shed {
        /// TRACE and DEBUG are refused from this fill on; 1 to 100.
        low_percent: u8,
        /// INFO and WARN are refused from this fill on; `low_percent` to 100.
        normal_percent: u8,
    },
}

/// The thresholds, in bytes of the batch.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    policy: Policy,
    low_bytes: usize,
    normal_bytes: usize,
}

impl Lanes {
    /// Lanes on a batch of `bytes_max`.
    pub fn new(policy: Policy, bytes_max: usize) -> Lanes {
        let (low, normal) = match policy {
            Policy::Wait => (100, 100),
            Policy::Shed { low_percent, normal_percent } => (low_percent, normal_percent),
        };
        assert!(low <= normal && normal <= 100, "the lanes are in order");
        let of_batch = |percent: u8| bytes_max / 100 * usize::from(percent);
        let mark = |percent| if percent == 100 { bytes_max } else { of_batch(percent) };
        Lanes { policy, low_bytes: mark(low), normal_bytes: mark(normal) }
    }

    /// A batch that stays below this many bytes with the line takes every line.
    pub fn plain_below(&self) -> usize {
        self.low_bytes
    }

    /// Whether a line without room waits; else it is refused.
    pub fn is_waiting(&self) -> bool {
        self.policy == Policy::Wait
    }

    /// Whether a batch filled to `filled_bytes` still takes a line of `level`, if it has room. By
    /// the fill without the line, so that an empty batch takes the longest line of any level.
    pub fn is_open(&self, level: Level, filled_bytes: usize) -> bool {
        let closes_at = match level {
            Level::Trace | Level::Debug => self.low_bytes,
            Level::Info | Level::Warn => self.normal_bytes,
            Level::Error | Level::Critical => return true,
        };
        filled_bytes < closes_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Level; 6] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical];

    #[test]
    fn each_lane_closes_at_its_threshold() {
        let lanes = Lanes::new(Policy::Shed { low_percent: 60, normal_percent: 80 }, 1000);
        let open = |filled| LEVELS.map(|level| lanes.is_open(level, filled));
        assert_eq!(open(0), [true; 6]);
        assert_eq!(open(599), [true; 6]);
        assert_eq!(open(600), [false, false, true, true, true, true]);
        assert_eq!(open(799), [false, false, true, true, true, true]);
        assert_eq!(open(800), [false, false, false, false, true, true]);
        assert_eq!(open(999), [false, false, false, false, true, true]);
    }

    #[test]
    fn who_waits_is_never_refused_for_its_level() {
        let lanes = Lanes::new(Policy::Wait, 1001);
        assert!(lanes.is_waiting() && lanes.plain_below() == 1001);
        assert!(LEVELS.iter().all(|&level| lanes.is_open(level, 1000)));
    }

    #[test]
    fn a_lane_that_is_open_is_open_at_every_lower_fill_and_for_every_higher_level() {
        for (low_percent, normal_percent) in [(1, 1), (60, 80), (33, 100), (100, 100)] {
            let lanes = Lanes::new(Policy::Shed { low_percent, normal_percent }, 997);
            for filled in 0..997 {
                let open = LEVELS.map(|level| lanes.is_open(level, filled));
                assert!(open.is_sorted(), "{open:?} at {filled}");
                if filled > 0 {
                    let before = LEVELS.map(|level| lanes.is_open(level, filled - 1));
                    assert!(open.iter().zip(before).all(|(&now, before)| before || !now));
                }
                if filled < lanes.plain_below() {
                    assert_eq!(open, [true; 6]);
                }
            }
        }
    }
}
