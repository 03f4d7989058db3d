//! The same rate all the time.

use super::{NANOS, Position, narrow};

/// A constant rate: message n is due at ⌊n·10⁹ ÷ rate⌋ ns.
///
/// The deadline is computed from n, never by adding a rounded interval: rounding would bend the
/// rate (at 700,000/s an interval of 1,428 ns is 0.04 % too fast) and late shards would drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Messages a second, at least 1.
    rate_per_s: u64,
}

impl Constant {
    /// `rate_per_s` messages a second, at least 1.
    pub fn new(rate_per_s: u64) -> Constant {
        assert!(rate_per_s > 0, "a rate of 0 has no deadlines");
        Constant { rate_per_s }
    }

    /// When message `n` is due, ns since the start.
    pub fn due_ns(self, n: u64) -> u64 {
        // One division of 64 bits is enough for the first 18 thousand million messages.
        match n.checked_mul(NANOS) {
            Some(product) => product / self.rate_per_s,
            None => narrow(u128::from(n) * u128::from(NANOS) / u128::from(self.rate_per_s)),
        }
    }

    /// When a point between two messages is due, ns since the start.
    pub(super) fn due_at(self, position: Position) -> u64 {
        // ⌊⌊a ÷ b⌋ ÷ c⌋ = ⌊a ÷ bc⌋, so the shift may come first.
        let product = position.scaled(u128::from(NANOS));
        match u64::try_from(product) {
            Ok(product) => product / self.rate_per_s,
            Err(_) => narrow(product / u128::from(self.rate_per_s)),
        }
    }

    /// How many messages are due before `end_ns`: ⌈end·rate ÷ 10⁹⌉.
    ///
    /// From ⌊n·10⁹/rate⌋ < end ⇔ n·10⁹ < end·rate.
    pub fn due_before(self, end_ns: u64) -> u64 {
        let product = u128::from(end_ns) * u128::from(self.rate_per_s);
        narrow(product.div_ceil(u128::from(NANOS)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts deadlines one by one, in wide arithmetic.
    fn due_before_slowly(rate: u64, end_ns: u64) -> u64 {
        let due = |n: u64| u128::from(n) * 1_000_000_000 / u128::from(rate);
        (0..).find(|&n| due(n) >= u128::from(end_ns)).unwrap()
    }

    #[test]
    fn a_thousand_a_second_is_one_a_millisecond() {
        let schedule = Constant::new(1000);
        assert_eq!(schedule.due_ns(0), 0);
        assert_eq!(schedule.due_ns(1), 1_000_000);
        assert_eq!(schedule.due_ns(59_999), 59_999_000_000);
        assert_eq!(schedule.due_before(NANOS), 1000);
        assert_eq!(schedule.due_before(NANOS + 1), 1001);
        assert_eq!(schedule.due_before(0), 0);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_never_drifts() {
        let schedule = Constant::new(700_001);
        for hour in [1u64, 24, 24 * 365] {
            let end_ns = hour * 3600 * NANOS;
            assert_eq!(schedule.due_before(end_ns), hour * 3600 * 700_001);
        }
    }

    proptest! {
        #[test]
        fn due_before_counts_what_a_slow_loop_counts(
            rate in 1u64..2_000_000,
            end_ns in 0u64..3_000_000,
        ) {
            prop_assert_eq!(Constant::new(rate).due_before(end_ns), due_before_slowly(rate, end_ns));
        }

        #[test]
        fn due_and_due_before_are_inverse(rate in 1u64..u64::from(u32::MAX), n in 0u64..1 << 40) {
            let schedule = Constant::new(rate);
            let due_ns = schedule.due_ns(n);
            prop_assert!(schedule.due_before(due_ns + 1) > n);
            prop_assert!(schedule.due_before(due_ns) <= n);
            prop_assert!(schedule.due_ns(n + 1) >= due_ns);
            prop_assert_eq!(schedule.due_at(Position::of(n)), due_ns);
        }

        #[test]
        fn wide_and_narrow_division_agree(rate in 1u64..u64::MAX, n in 0u64..u64::MAX) {
            let wide = u128::from(n) * u128::from(NANOS) / u128::from(rate);
            let due_ns = Constant::new(rate).due_ns(n);
            prop_assert_eq!(u128::from(due_ns), wide.min(u128::from(u64::MAX)));
        }

        #[test]
        fn any_second_holds_its_share(rate in 1u64..1_000_000, second in 0u64..100_000) {
            // Spread evenly: any window of a second holds the rate.
            let schedule = Constant::new(rate);
            let window = |from: u64| schedule.due_before(from + NANOS) - schedule.due_before(from);
            prop_assert_eq!(window(second * NANOS), rate);
            let shifted = window(second * NANOS + 123_456_789);
            prop_assert!(shifted.abs_diff(rate) <= 1);
        }
    }
}
