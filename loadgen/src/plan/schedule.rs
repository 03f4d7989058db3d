//! When a message is due: a closed form of its number, in integer arithmetic.
//!
//! Owns the global sequence of deadlines and each shard's part of it. Leaves waiting, batching and
//! clocks to the worker. Times are nanoseconds since the start of the run.
//! Invariant: `due_by(t) = #{n : due(n) <= t}`, and the parts of the shards are disjoint and
//! together the whole sequence. Later shapes (stages, waves, bursts) are further variants.

/// Nanoseconds of a second.
pub const NANOS: u64 = 1_000_000_000;

/// The deadlines of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Closed loop: a message is due when its worker is free.
    Closed,
    /// Open loop, evenly spread: message n is due at ⌊n·10⁹ ÷ rate⌋ ns.
    Constant(Constant),
}

impl Schedule {
    /// `rate_per_s` messages a second; 0 is the closed loop.
    pub fn from_rate(rate_per_s: u64) -> Schedule {
        match rate_per_s {
            0 => Schedule::Closed,
            rate_per_s => Schedule::Constant(Constant { rate_per_s }),
        }
    }
}

/// A constant rate.
///
/// The deadline is computed from n, never by adding a rounded interval: rounding would bend the
/// rate (at 700,000/s an interval of 1,428 ns is 0.04 % too fast) and late shards would drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Messages a second, at least 1.
    rate_per_s: u64,
}

impl Constant {
    /// When message `n` is due, ns since the start.
    pub fn due_ns(self, n: u64) -> u64 {
        // One division of 64 bits is enough for the first 18 thousand million messages.
        match n.checked_mul(NANOS) {
            Some(product) => product / self.rate_per_s,
            None => narrow(u128::from(n) * u128::from(NANOS) / u128::from(self.rate_per_s)),
        }
    }

    /// How many messages are due at `t_ns` or before: ⌈(t+1)·rate ÷ 10⁹⌉.
    ///
    /// From ⌊n·10⁹/rate⌋ ≤ t ⇔ n·10⁹ < (t+1)·rate.
    pub fn due_by(self, t_ns: u64) -> u64 {
        let product = (u128::from(t_ns) + 1) * u128::from(self.rate_per_s);
        narrow(product.div_ceil(u128::from(NANOS)))
    }

    /// How many messages are due before `end_ns`.
    pub fn due_before(self, end_ns: u64) -> u64 {
        match end_ns {
            0 => 0,
            end_ns => self.due_by(end_ns - 1),
        }
    }
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// One shard's part of the sequence: its k-th message is message `k·shards + shard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    shard: u64,
    shards: u64,
}

impl Part {
    /// The part of `shard` among `shards`.
    pub fn new(shard: u64, shards: u64) -> Part {
        assert!(shard < shards, "shard {shard} of {shards}");
        Part { shard, shards }
    }

    /// The global number of this part's message `k`.
    pub fn number(self, k: u64) -> u64 {
        k * self.shards + self.shard
    }

    /// How many of the messages 0..`end` belong to this part.
    pub fn count_below(self, end: u64) -> u64 {
        end.saturating_sub(self.shard).div_ceil(self.shards)
    }
}

/// Where a run's load ends: after so many messages, after so long, or whichever is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Messages; `None` is no bound.
    pub total: Option<u64>,
    /// Time, ns since the start; `None` is no bound.
    pub duration_ns: Option<u64>,
}

impl Bounds {
    /// How many messages of `schedule` are due within the bounds.
    pub fn messages(self, schedule: Constant) -> u64 {
        let by_time = self.duration_ns.map_or(u64::MAX, |end_ns| schedule.due_before(end_ns));
        self.total.unwrap_or(u64::MAX).min(by_time)
    }

    /// When an undisturbed run of `schedule` ends: the deadline that the message after the last
    /// would have, or the end of the duration.
    pub fn end_ns(self, schedule: Constant) -> u64 {
        let by_total = self.total.map_or(u64::MAX, |total| schedule.due_ns(total));
        self.duration_ns.unwrap_or(u64::MAX).min(by_total)
    }
}

/// `total` messages as `parts` shares that differ by at most one; share `index` of them.
pub fn share(total: u64, parts: u64, index: u64) -> u64 {
    assert!(index < parts, "share {index} of {parts}");
    total / parts + u64::from(index < total % parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts deadlines one by one, in wide arithmetic.
    fn due_by_slowly(rate: u64, t_ns: u64) -> u64 {
        let due = |n: u64| u128::from(n) * 1_000_000_000 / u128::from(rate);
        (0..).find(|&n| due(n) > u128::from(t_ns)).unwrap()
    }

    fn constant(rate: u64) -> Constant {
        match Schedule::from_rate(rate) {
            Schedule::Constant(constant) => constant,
            Schedule::Closed => panic!("rate {rate} is closed"),
        }
    }

    #[test]
    fn a_thousand_a_second_is_one_a_millisecond() {
        let schedule = constant(1000);
        assert_eq!(schedule.due_ns(0), 0);
        assert_eq!(schedule.due_ns(1), 1_000_000);
        assert_eq!(schedule.due_ns(59_999), 59_999_000_000);
        assert_eq!(schedule.due_before(NANOS), 1000);
        assert_eq!(schedule.due_by(NANOS), 1001);
        assert_eq!(schedule.due_before(0), 0);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_never_drifts() {
        let schedule = constant(700_001);
        for hour in [1u64, 24, 24 * 365] {
            let end_ns = hour * 3600 * NANOS;
            assert_eq!(schedule.due_before(end_ns), hour * 3600 * 700_001);
        }
    }

    #[test]
    fn bounds_take_whichever_is_first() {
        let schedule = constant(100);
        let both = |total, seconds: Option<u64>| Bounds {
            total,
            duration_ns: seconds.map(|seconds| seconds * NANOS),
        };
        assert_eq!(both(Some(1000), Some(5)).messages(schedule), 500);
        assert_eq!(both(Some(200), Some(5)).messages(schedule), 200);
        assert_eq!(both(Some(200), Some(5)).end_ns(schedule), 2 * NANOS);
        assert_eq!(both(None, Some(5)).messages(schedule), 500);
        assert_eq!(both(None, Some(5)).end_ns(schedule), 5 * NANOS);
        assert_eq!(both(Some(200), None).messages(schedule), 200);
    }

    #[test]
    fn shares_add_up_and_differ_by_at_most_one() {
        assert_eq!((0..5).map(|index| share(7, 5, index)).collect::<Vec<_>>(), [2, 2, 1, 1, 1]);
        assert_eq!((0..3).map(|index| share(0, 3, index)).sum::<u64>(), 0);
    }

    proptest! {
        #[test]
        fn due_by_counts_what_a_slow_loop_counts(
            rate in 1u64..2_000_000,
            t_ns in 0u64..3_000_000,
        ) {
            prop_assert_eq!(constant(rate).due_by(t_ns), due_by_slowly(rate, t_ns));
        }

        #[test]
        fn due_and_due_by_are_inverse(rate in 1u64..u64::from(u32::MAX), n in 0u64..1 << 40) {
            let schedule = constant(rate);
            let due_ns = schedule.due_ns(n);
            prop_assert!(schedule.due_by(due_ns) > n);
            prop_assert!(schedule.due_before(due_ns) <= n);
            prop_assert!(schedule.due_ns(n + 1) >= due_ns);
        }

        #[test]
        fn wide_and_narrow_division_agree(rate in 1u64..u64::MAX, n in 0u64..u64::MAX) {
            let wide = u128::from(n) * u128::from(NANOS) / u128::from(rate);
            prop_assert_eq!(u128::from(constant(rate).due_ns(n)), wide.min(u128::from(u64::MAX)));
        }

        #[test]
        fn the_parts_are_the_whole(shards in 1u64..9, end in 0u64..500) {
            let mut numbers = Vec::new();
            for shard in 0..shards {
                let part = Part::new(shard, shards);
                numbers.extend((0..part.count_below(end)).map(|k| part.number(k)));
            }
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..end).collect::<Vec<_>>());
        }

        #[test]
        fn any_second_holds_its_share(rate in 1u64..1_000_000, second in 0u64..100_000) {
            // Spread evenly: any window of a second holds the rate.
            let schedule = constant(rate);
            let window = |from: u64| schedule.due_before(from + NANOS) - schedule.due_before(from);
            prop_assert_eq!(window(second * NANOS), rate);
            let shifted = window(second * NANOS + 123_456_789);
            prop_assert!(shifted.abs_diff(rate) <= 1);
        }
    }
}
