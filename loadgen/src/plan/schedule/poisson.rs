//! Arrivals of independent senders.
//!
//! Each shard has a stream of its own, with exponential gaps, in *message numbers*: a Poisson
//! process of one message a unit, of which a shard takes every `shards`-th on average. The shape
//! then says when a number is due, as it does for even arrivals, so that this combines with every
//! shape. Streams of several shards superpose to a Poisson process of the whole rate, without a
//! word between them.
//! Invariant: the stream is given by its seed, whatever was sent of it, and the same on every
//! machine: the logarithm is made of products, sums and one quotient of IEEE 754.

use super::Position;
use crate::plan::random::Random;

/// One shard's stream of message numbers.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    random: Random,
    position: Position,
    /// Numbers between two messages, on average.
    mean: u64,
}

impl Walk {
    /// The stream of `seed`; every number between two of its messages is `mean` on average.
    pub(crate) fn new(seed: u64, mean: u64) -> Walk {
        // The first numbers of neighbouring seeds must have nothing in common: one more mix.
        let seed = Random::new(seed ^ 0x706f_6973_736f_6e00).next_u64();
        Walk { random: Random::new(seed), position: Position::of(0), mean }
    }

    /// Where the next message is.
    pub(crate) fn step(&mut self) -> Position {
        let gap = exponential(&mut self.random) * u128::from(self.mean);
        self.position = self.position.plus(gap);
        self.position
    }
}

/// A number of mean 1 with the exponential distribution, in units of 2⁻³².
fn exponential(random: &mut Random) -> u128 {
    // Above 0 and up to 1, in steps of 2⁻⁵³.
    let uniform = ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let parts = -logarithm(uniform) * (1u64 << 32) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "0 to 37·2³²")]
    let parts = parts as u64;
    u128::from(parts)
}

/// The natural logarithm of a positive number, to 15 digits.
///
/// ln x = e·ln 2 + 2·artanh((m − 1) ÷ (m + 1)) with x = m·2ᵉ and m around 1.
fn logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0f64] {
        sum = sum * square + 1.0 / odd;
    }
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: f64 = (1u64 << 32) as f64;

    fn gaps(seed: u64, mean: u64, count: usize) -> Vec<f64> {
        let mut walk = Walk::new(seed, mean);
        let mut before = 0.0;
        let positions = (0..count).map(|_| walk.step().in_parts() as f64 / UNIT);
        positions.map(|at| at - std::mem::replace(&mut before, at)).collect()
    }

    /// The greatest distance between the sample's distribution and 1 − exp(−x ÷ mean), times √n.
    fn kolmogorov_smirnov(mut sample: Vec<f64>, mean: f64) -> f64 {
        sample.sort_by(f64::total_cmp);
        let n = sample.len() as f64;
        let distance = sample.iter().enumerate().map(|(index, x)| {
            let expected = 1.0 - (-x / mean).exp();
            (expected - index as f64 / n).abs().max(((index + 1) as f64 / n - expected).abs())
        });
        distance.fold(0.0, f64::max) * n.sqrt()
    }

    #[test]
    fn the_logarithm_is_that_of_the_library() {
        let mut random = Random::new(3);
        let drawn = (0..10_000).map(|_| ((random.next_u64() >> 11) + 1) as f64 / 2f64.powi(53));
        for x in drawn.chain([1.0, 0.5, 2f64.powi(-53), 0.708, 0.707, 1.0 - 2f64.powi(-53)]) {
            let error = (logarithm(x) - x.ln()).abs();
            assert!(error <= 1e-14 * x.ln().abs().max(1e-3), "ln {x}: off by {error}");
        }
    }

    #[test]
    fn gaps_are_exponential() {
        // Fixed seeds; 1.63 is the critical value of 1 %, far exceeded by any other distribution.
        for (seed, mean) in [(1, 1), (2, 1), (99, 4)] {
            let sample = gaps(seed, mean, 20_000);
            let n = sample.len() as f64;
            let average = sample.iter().sum::<f64>() / n;
            let variance = sample.iter().map(|x| (x - average).powi(2)).sum::<f64>() / n;
            let mean = mean as f64;
            // Standard errors: 1/√n for the mean and √(8/n) for the variance.
            assert!((average / mean - 1.0).abs() < 4.0 / n.sqrt(), "mean {average}");
            assert!((variance / mean.powi(2) - 1.0).abs() < 4.0 * (8.0 / n).sqrt(), "{variance}");
            let distance = kolmogorov_smirnov(sample, mean);
            assert!(distance < 1.63, "seed {seed}: distance {distance}");
        }
    }

    #[test]
    fn gaps_know_nothing_of_the_one_before() {
        let sample = gaps(5, 1, 20_000);
        let products = sample.windows(2).map(|pair| (pair[0] - 1.0) * (pair[1] - 1.0));
        let correlation = products.sum::<f64>() / sample.len() as f64;
        assert!(correlation.abs() < 4.0 / (sample.len() as f64).sqrt(), "{correlation}");
    }

    #[test]
    fn counts_vary_as_much_as_their_mean() {
        // The index of dispersion of counts in windows is 1 for a Poisson process; that of 20,000
        // windows has a standard error of √(2/n) = 1 %.
        let (windows, width) = (20_000usize, 10.0 * UNIT);
        let mut counts = vec![0u32; windows];
        let mut walk = Walk::new(7, 1);
        loop {
            #[expect(clippy::cast_possible_truncation, reason = "a small number")]
            let window = (walk.step().in_parts() as f64 / width) as usize;
            match counts.get_mut(window) {
                Some(count) => *count += 1,
                None => break,
            }
        }
        let mean = counts.iter().sum::<u32>() as f64 / windows as f64;
        let square = |count: &u32| (f64::from(*count) - mean).powi(2);
        let dispersion = counts.iter().map(square).sum::<f64>() / windows as f64 / mean;
        assert!((mean - 10.0).abs() < 0.1, "{mean}");
        assert!((dispersion - 1.0).abs() < 0.04, "{dispersion}");
    }

    #[test]
    fn streams_of_several_shards_are_together_as_one() {
        let shards = 5;
        let mut merged: Vec<f64> = (0..shards)
            .flat_map(|shard| {
                let mut walk = Walk::new(11 + shard, shards);
                let steps = std::iter::repeat_with(move || walk.step().in_parts() as f64 / UNIT);
                steps.take_while(|at| *at < 20_000.0)
            })
            .collect();
        merged.sort_by(f64::total_cmp);
        let gaps: Vec<f64> = merged.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((gaps.len() as f64 - 20_000.0).abs() < 4.0 * 20_000f64.sqrt(), "{}", gaps.len());
        let distance = kolmogorov_smirnov(gaps, 1.0);
        assert!(distance < 1.63, "{distance}");
    }

    #[test]
    fn a_seed_gives_the_same_stream_and_another_seed_another() {
        assert_eq!(gaps(1, 2, 100), gaps(1, 2, 100));
        assert_ne!(gaps(1, 2, 100), gaps(2, 2, 100));
    }

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut walk = Walk::new(1, 1);
        let first: Vec<u128> = (0..3).map(|_| walk.step().in_parts()).collect();
        assert_eq!(first, [5843489792, 19597604462, 20470200651]);
    }
}
