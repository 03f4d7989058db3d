//! Numbers by chance, as a template asks for them: evenly, around a mean, rarely large.
//!
//! Owns the formulas, with their sources; what comes of a [`Random`] is the same for the same seed.
//! Invariant: a drawn number lies within the bounds that were given.

use crate::plan::random::Random;

/// Tries before a normal number outside its bounds is put on the nearest one.
const TRIES: u32 = 64;

/// A number from the standard normal distribution (Box and Muller 1958; one of the pair is used, so
/// that a number depends on nothing that was drawn before).
pub(super) fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

/// How numbers are spread between their bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spread {
    /// Each as likely as the other.
    Uniform,
    /// Around `mean`; what falls outside the bounds is drawn again.
    Normal { mean: f64, deviation: f64 },
    /// Many near the lower bound; `mean` is that above it, if there were no upper one.
    Exponential { mean: f64 },
    /// The lower bound is the most frequent; the k-th number comes `k^exponent` times as rarely.
    Zipf(Zipf),
}

impl Spread {
    /// A number from `from` to `to`, both possible.
    pub(super) fn int(&self, from: i64, to: i64, random: &mut Random) -> i64 {
        let width = to.abs_diff(from);
        match self {
            Spread::Uniform => {
                let above = match width {
                    u64::MAX => random.next_u64(),
                    width => random.below(width + 1),
                };
                from.wrapping_add_unsigned(above)
            }
            Spread::Zipf(zipf) => from.wrapping_add_unsigned((zipf.draw(random) - 1).min(width)),
            Spread::Normal { .. } | Spread::Exponential { .. } => {
                // Each integer has a width of one around it.
                let real = self.float(from as f64 - 0.5, to as f64 + 0.5, random).round();
                #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
                let near = real as i64;
                near.clamp(from, to)
            }
        }
    }

    /// A number from `from` to `to`.
    pub(super) fn float(&self, from: f64, to: f64, random: &mut Random) -> f64 {
        let drawn = match *self {
            Spread::Uniform => from + (to - from) * random.unit(),
            Spread::Normal { mean, deviation } => {
                let mut tries = (0..TRIES).map(|_| mean + deviation * normal(random));
                tries.find(|drawn| (from..=to).contains(drawn)).unwrap_or(mean)
            }
            Spread::Exponential { mean } => {
                // The inverse of the distribution function, cut off at `to`.
                let reach = -((from - to) / mean).exp_m1();
                from - mean * (-random.unit() * reach).ln_1p()
            }
            Spread::Zipf(zipf) => from + (zipf.draw(random) - 1) as f64,
        };
        drawn.clamp(from, to)
    }
}

/// Ranks from 1 to `count` with probabilities as `rank^-exponent`, in constant time and memory:
/// rejection inversion (Hörmann and Derflinger 1996, "Rejection-inversion to generate variates from
/// monotone discrete distributions").
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Zipf {
    count: f64,
    exponent: f64,
    /// H(1.5) − 1, H(count + 0.5), and the shortcut's bound.
    low: f64,
    high: f64,
    shortcut: f64,
}

impl Zipf {
    /// `count` at least 1, `exponent` above 0.
    pub(super) fn new(count: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf { count: count as f64, exponent, low: 0.0, high: 0.0, shortcut: 0.0 };
        zipf.low = zipf.area(1.5) - 1.0;
        zipf.high = zipf.area(zipf.count + 0.5);
        zipf.shortcut = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.weight(2.0));
        zipf
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.high + random.unit() * (self.low - self.high);
            let x = self.area_inverse(area);
            let rank = (x + 0.5).floor().clamp(1.0, self.count);
            if rank - x <= self.shortcut || area >= self.area(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of [`Self::weight`].
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        let scaled = (1.0 - self.exponent) * log;
        // (e^s − 1) / s · ln x, also where s is 0 and the integral is the logarithm.
        if scaled.abs() < 1e-8 {
            log * (1.0 + scaled / 2.0)
        } else {
            log * scaled.exp_m1() / scaled
        }
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let scaled = (area * (1.0 - self.exponent)).max(-1.0);
        if scaled.abs() < 1e-8 {
            return (area * (1.0 - scaled / 2.0)).exp();
        }
        (area * scaled.ln_1p() / scaled).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 40_000;

    fn ints(spread: Spread, from: i64, to: i64) -> Vec<i64> {
        let mut random = Random::new(5);
        (0..N).map(|_| spread.int(from, to, &mut random)).collect()
    }

    /// Pearson's statistic of `drawn`, numbers from 1 on, against `probabilities`.
    fn chi_squared(drawn: &[i64], probabilities: &[f64]) -> f64 {
        let mut counts = vec![0f64; probabilities.len()];
        for &rank in drawn {
            counts[usize::try_from(rank - 1).unwrap()] += 1.0;
        }
        let expected = probabilities.iter().map(|share| share * N as f64);
        counts.iter().zip(expected).map(|(found, want)| (found - want).powi(2) / want).sum()
    }

    // Bounds are the 99.9 % points of the chi-squared distribution for the degrees of freedom.
    #[test]
    fn even_numbers_are_even() {
        let found = chi_squared(&ints(Spread::Uniform, 1, 20), &[0.05; 20]);
        assert!(found < 43.82, "{found}");
    }

    #[test]
    fn zipf_is_zipf_for_small_and_large_exponents() {
        for exponent in [0.5, 1.0, 1.0 + 1e-12, 2.5] {
            let weights: Vec<f64> = (1..=10).map(|k| f64::from(k).powf(-exponent)).collect();
            let sum: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            let found = chi_squared(&ints(Spread::Zipf(Zipf::new(10, exponent)), 1, 10), &shares);
            assert!(found < 27.88, "{exponent}: {found}");
        }
        assert_eq!(ints(Spread::Zipf(Zipf::new(1, 1.0)), 7, 7), [7; N]);
        let far = ints(Spread::Zipf(Zipf::new(u64::MAX, 1.1)), i64::MIN, i64::MAX);
        assert!(far.iter().filter(|it| **it == i64::MIN).count() > N / 20);
    }

    // Bounds are five standard errors.
    #[test]
    fn normal_and_exponential_numbers_have_their_mean_and_bounds() {
        let root = (N as f64).sqrt();
        let mean = |values: &[i64]| values.iter().sum::<i64>() as f64 / values.len() as f64;
        let spread = Spread::Normal { mean: 500.0, deviation: 50.0 };
        let drawn = ints(spread, 0, 1000);
        assert!((mean(&drawn) - 500.0).abs() < 5.0 * 50.0 / root, "{}", mean(&drawn));
        let within = drawn.iter().filter(|it| (450..=550).contains(*it)).count() as f64 / N as f64;
        // One deviation to either side, and half an integer: P(|z| <= 1.01).
        assert!((within - 0.6875).abs() < 5.0 * 0.464 / root, "{within}");
        let drawn = ints(Spread::Exponential { mean: 100.0 }, 20, 100_000);
        assert!((mean(&drawn) - 120.0).abs() < 5.0 * 100.0 / root + 0.5, "{}", mean(&drawn));
        for spread in [spread, Spread::Exponential { mean: 1e9 }, Spread::Uniform] {
            assert!(ints(spread, 3, 5).iter().all(|it| (3..=5).contains(it)), "{spread:?}");
        }
        assert_eq!(ints(Spread::Uniform, i64::MIN, i64::MAX).len(), N);
    }
}
