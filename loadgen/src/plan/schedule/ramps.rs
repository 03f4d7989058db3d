//! Rates that change along straight lines: what stages, bursts and waves are made of.
//!
//! Owns the exact arithmetic. N(t) is the integral of the rate up to t, in messages; message n is
//! due at the last nanosecond t at which N(t) ≤ n, so that `#{n : due(n) < t} = ⌈N(t)⌉`, and a
//! message that falls on the beginning of a pause is due at its end.
//!
//! ```text
//! rate                      a piece:  N(t) = before + from·t + (to − from)·t² ÷ 2·lasts
//!   |     to ____
//!   | from /|    |\         everything in units of 1 ÷ SCALE messages, SCALE = 2·10⁶·10⁹, in which
//!   |_____/_|____|_\___ t   a whole piece, and so every sum of pieces, is an integer
//! ```
//! Invariant: no sum is ever rounded, so nothing drifts; a square root by floating point is only a
//! guess, which integers correct, so the result is the same on every machine.

use std::time::Duration;

use super::{NANOS, Position, narrow};
use crate::clock::nanos;

/// Rates are kept in millionths of a message a second.
pub(super) const MICRO: u64 = 1_000_000;
/// Parts of a message: twice a millionth of a second's rate, for a nanosecond.
const SCALE: u128 = 2 * MICRO as u128 * NANOS as u128;

/// A time in which the rate is a straight line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) lasts_ns: u64,
    /// Millionths of a message a second at its beginning.
    pub(super) from: u64,
    /// At its end.
    pub(super) to: u64,
}

impl Line {
    /// From one rate to another, messages a second.
    pub(super) fn new(lasts: Duration, from_per_s: u64, to_per_s: u64) -> Line {
        Line { lasts_ns: nanos(lasts), from: from_per_s * MICRO, to: to_per_s * MICRO }
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    line: Line,
    begin_ns: u64,
    /// Messages before it, scaled.
    before: u128,
}

/// Lines one behind the other, once or for ever.
#[derive(Clone, Debug)]
pub struct Ramps {
    pieces: Vec<Piece>,
    lasts_ns: u64,
    /// Messages of all pieces, scaled.
    total: u128,
    repeats: bool,
}

impl Ramps {
    pub(super) fn once(lines: impl IntoIterator<Item = Line>) -> Ramps {
        Ramps::new(lines, false)
    }

    pub(super) fn repeated(lines: impl IntoIterator<Item = Line>) -> Ramps {
        Ramps::new(lines, true)
    }

    fn new(lines: impl IntoIterator<Item = Line>, repeats: bool) -> Ramps {
        let mut ramps = Ramps { pieces: Vec::new(), lasts_ns: 0, total: 0, repeats };
        for line in lines {
            if line.lasts_ns == 0 {
                continue;
            }
            let piece = Piece { line, begin_ns: ramps.lasts_ns, before: ramps.total };
            ramps.pieces.push(piece);
            ramps.lasts_ns += line.lasts_ns;
            ramps.total += piece.area_ceil(line.lasts_ns);
        }
        assert!(ramps.total > 0, "a shape sends something");
        ramps
    }

    /// How long, ns; `None` is for ever.
    pub(super) fn lasts_ns(&self) -> Option<u64> {
        (!self.repeats).then_some(self.lasts_ns)
    }

    /// When message `n` is due, ns since the start; `u64::MAX` is never.
    pub fn due_ns(&self, n: u64) -> u64 {
        self.due_scaled(u128::from(n) * SCALE)
    }

    /// When a point between two messages is due; `u64::MAX` is never.
    pub(super) fn due_at(&self, position: Position) -> u64 {
        self.due_scaled(position.scaled(SCALE))
    }

    /// The last nanosecond t at which N(t) ≤ `scaled`.
    fn due_scaled(&self, mut scaled: u128) -> u64 {
        let mut round_ns = 0;
        if self.repeats {
            let round = scaled / self.total;
            scaled -= round * self.total;
            round_ns = narrow(round.saturating_mul(u128::from(self.lasts_ns)));
        } else if scaled >= self.total {
            return u64::MAX;
        }
        // The last one that begins at or below, so none of those without messages.
        let index = self.pieces.partition_point(|piece| piece.before <= scaled) - 1;
        let piece = &self.pieces[index];
        let offset_ns = piece.offset_ns(scaled - piece.before);
        round_ns.saturating_add(piece.begin_ns + offset_ns)
    }

    /// How many messages are due before `end_ns`: ⌈N(end)⌉.
    pub fn due_before(&self, end_ns: u64) -> u64 {
        let (mut sum, mut end_ns) = (0, end_ns);
        if self.repeats {
            let round = end_ns / self.lasts_ns;
            sum = u128::from(round) * self.total;
            end_ns -= round * self.lasts_ns;
        } else if end_ns >= self.lasts_ns {
            return narrow(self.total.div_ceil(SCALE));
        }
        let index = self.pieces.partition_point(|piece| piece.begin_ns <= end_ns) - 1;
        let piece = &self.pieces[index];
        // ⌈⌈a⌉ ÷ b⌉ = ⌈a ÷ b⌉, so the piece's own fraction may be rounded up first.
        sum += piece.before + piece.area_ceil(end_ns - piece.begin_ns);
        narrow(sum.div_ceil(SCALE))
    }
}

impl Piece {
    /// Messages of its first `t_ns`, scaled, rounded up; exact at its end.
    fn area_ceil(&self, t_ns: u64) -> u128 {
        let Line { lasts_ns, from, to } = self.line;
        let straight = 2 * u128::from(from) * u128::from(t_ns);
        if from == to {
            return straight;
        }
        // d·t² ÷ lasts by way of t² = quotient·lasts + rest, so that nothing overflows.
        let square = u128::from(t_ns) * u128::from(t_ns);
        let (lasts, steep) = (u128::from(lasts_ns), u128::from(to.abs_diff(from)));
        let (quotient, rest) = (square / lasts, square % lasts * steep);
        if to > from {
            straight + quotient * steep + rest.div_ceil(lasts)
        } else {
            straight - quotient * steep - rest / lasts
        }
    }

    /// The last offset at which its area is at most `area`, which is less than all of it.
    fn offset_ns(&self, area: u128) -> u64 {
        let Line { lasts_ns, from, to } = self.line;
        if from == to {
            return narrow(area / (2 * u128::from(from)));
        }
        let is_reached = |t_ns: u64| self.area_ceil(t_ns) <= area;
        // t = 2a ÷ (f + √(f² + d·2a ÷ lasts)), which is good for d of either sign; with a scaled
        // by two, 2a is `area`.
        let (area, first, steep) = (area as f64, from as f64, to as f64 - from as f64);
        let root = (first * first + steep * area / lasts_ns as f64).max(0.0).sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and is only a guess")]
        let guess = (area / (first + root)) as u64;
        let (mut low, mut high) = bracket(guess.min(lasts_ns - 1), lasts_ns, is_reached);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if is_reached(middle) { low = middle } else { high = middle }
        }
        low
    }
}

/// Two points around the end of what is reached, from a guess: the first is, the second is not.
/// 0 is reached and `end` is not.
fn bracket(guess: u64, end: u64, is_reached: impl Fn(u64) -> bool) -> (u64, u64) {
    let mut step = 1;
    if is_reached(guess) {
        let mut low = guess;
        loop {
            let high = low.saturating_add(step).min(end);
            if high == end || !is_reached(high) {
                return (low, high);
            }
            (low, step) = (high, step * 4);
        }
    }
    let mut high = guess;
    loop {
        let low = high.saturating_sub(step);
        if low == 0 || is_reached(low) {
            return (low, high);
        }
        (high, step) = (low, step * 4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(lasts_ns: u64, from: u64, to: u64) -> Line {
        Line { lasts_ns, from, to }
    }

    /// N(t) as a fraction: numerator, denominator; by adding up trapezoids.
    fn integral(lines: &[Line], t_ns: u64) -> (i128, i128) {
        let common: i128 = lines.iter().map(|line| i128::from(line.lasts_ns)).product();
        let (mut sum, mut rest) = (0, i128::from(t_ns));
        for line in lines {
            let (lasts, from, to) =
                (i128::from(line.lasts_ns), i128::from(line.from), i128::from(line.to));
            let t = rest.min(lasts);
            sum += (2 * from * t * lasts + (to - from) * t * t) * (common / lasts);
            rest -= t;
        }
        (sum, common * 2_000_000_000_000_000)
    }

    fn due_before_slowly(lines: &[Line], t_ns: u64) -> u64 {
        let (numerator, denominator) = integral(lines, t_ns);
        u64::try_from((numerator + denominator - 1) / denominator).unwrap()
    }

    #[test]
    fn a_ramp_from_nothing_follows_the_square_root() {
        // 0 to 1000 a second in 10 s: N(t) = 50·t².
        let ramps = Ramps::once([Line::new(Duration::from_secs(10), 0, 1000)]);
        assert_eq!(ramps.due_ns(0), 0);
        assert_eq!(ramps.due_ns(50), NANOS);
        assert_eq!(ramps.due_ns(200), 2 * NANOS);
        assert_eq!(ramps.due_ns(4999), 9_998_999_949);
        assert_eq!(ramps.due_ns(5000), u64::MAX);
        assert_eq!(ramps.due_before(3 * NANOS), 450);
        assert_eq!(ramps.due_before(3 * NANOS + 1), 451);
        assert_eq!(ramps.due_before(u64::MAX), 5000);
    }

    #[test]
    fn a_message_at_the_beginning_of_a_pause_waits_for_its_end() {
        let second = Duration::from_secs(1);
        let lines = [(10, 10), (0, 0), (10, 10)].map(|(from, to)| Line::new(second, from, to));
        let ramps = Ramps::once(lines);
        assert_eq!(ramps.due_ns(9), 900_000_000);
        assert_eq!(ramps.due_ns(10), 2 * NANOS);
        assert_eq!(ramps.due_before(2 * NANOS), 10);
        assert_eq!((ramps.due_ns(19), ramps.due_ns(20)), (2_900_000_000, u64::MAX));
        let ramps = Ramps::repeated(lines);
        assert_eq!(ramps.due_ns(20), 3 * NANOS);
        assert_eq!(ramps.due_ns(30), 5 * NANOS);
    }

    #[test]
    fn a_repeated_shape_does_not_drift_in_ten_years() {
        // Neither the period nor the messages in it are round.
        let lines = [line(1_234_567_891, 77_777_777, 3), line(345_678_911, 3, 1_000_000_007)];
        let ramps = Ramps::repeated(lines);
        let (per_period, lasts_ns) = (ramps.total, ramps.lasts_ns);
        for period in [1u64, 1000, 10 * 365 * 86_400] {
            let exact = (per_period * u128::from(period)).div_ceil(SCALE);
            let count = ramps.due_before(period * lasts_ns);
            assert_eq!(u128::from(count), exact);
            assert!(ramps.due_ns(count - 1) < period * lasts_ns);
            assert!(ramps.due_ns(count) >= period * lasts_ns);
        }
    }

    #[test]
    fn the_end_of_a_long_way_down_is_exact() {
        // The worst case for the square root: it is near 0 for the last messages.
        let hour = Duration::from_secs(3600 * 1000);
        let ramps = Ramps::once([Line::new(hour, 1_000_000_000, 0)]);
        let total = ramps.due_before(u64::MAX);
        assert_eq!(total, 1_800_000_000_000_000);
        for n in (total - 100..total).chain(0..100) {
            let due_ns = ramps.due_ns(n);
            assert!(ramps.due_before(due_ns) <= n && ramps.due_before(due_ns + 1) > n, "{n}");
        }
    }

    fn any_lines() -> impl Strategy<Value = Vec<Line>> {
        let rate = prop_oneof![Just(0), 1u64..1000, 1u64..50_000_000_000_000];
        let line = (1u64..40_000, rate.clone(), rate);
        let lines = prop::collection::vec(line, 1..4);
        lines.prop_map(|lines| {
            let mut lines: Vec<Line> =
                lines.into_iter().map(|(lasts_ns, from, to)| line_of(lasts_ns, from, to)).collect();
            // At least one message a microsecond or so in one of them.
            lines[0].to = lines[0].to.max(1_000_000_000_000);
            lines
        })
    }

    fn line_of(lasts_ns: u64, from: u64, to: u64) -> Line {
        line(lasts_ns, from, to)
    }

    proptest! {
        #[test]
        fn counts_are_the_integral_rounded_up(lines in any_lines(), part in 0.0f64..1.2) {
            let ramps = Ramps::once(lines.clone());
            #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
            let t_ns = (ramps.lasts_ns as f64 * part) as u64;
            prop_assert_eq!(ramps.due_before(t_ns), due_before_slowly(&lines, t_ns));
        }

        #[test]
        fn deadlines_are_where_a_slow_search_finds_them(lines in any_lines()) {
            let ramps = Ramps::once(lines.clone());
            let total = due_before_slowly(&lines, ramps.lasts_ns);
            let mut t_ns = 0;
            for n in 0..total.min(60) {
                // The last nanosecond before which no more than n are due.
                while due_before_slowly(&lines, t_ns + 1) <= n {
                    t_ns += 1;
                }
                prop_assert_eq!(ramps.due_ns(n), t_ns, "message {}", n);
                prop_assert_eq!(ramps.due_at(Position::of(n)), t_ns, "position {}", n);
            }
            prop_assert_eq!(ramps.due_ns(total), u64::MAX);
        }

        #[test]
        fn due_and_due_before_are_inverse_at_any_size(
            lasts_ns in 1u64..40_000_000_000_000_000,
            from in 0u64..=1_000_000_000_000_000,
            to in 1u64..=1_000_000_000_000_000,
            share in 0.0f64..1.0,
            repeats in any::<bool>(),
        ) {
            let lines = [line(lasts_ns, from, to), line(lasts_ns / 3, 0, 0)];
            let ramps = if repeats { Ramps::repeated(lines) } else { Ramps::once(lines) };
            let count = narrow(ramps.total.div_ceil(SCALE));
            #[expect(clippy::cast_possible_truncation, reason = "saturates")]
            let mut n = ((count - 1) as f64 * share) as u64;
            if repeats {
                n = n.saturating_mul(7);
            }
            let due_ns = ramps.due_ns(n);
            prop_assert!(ramps.due_before(due_ns) <= n);
            prop_assert!(ramps.due_before(due_ns + 1) > n);
            prop_assert!(ramps.due_ns(n + 1) >= due_ns);
        }
    }
}
