//! Up and down like a sine.
//!
//! The sine is followed by straight lines, [`PIECES`] a period: the rate is off by 0.002 % of the
//! swing at most, and what is sent in half a period by less than 0.003 %; a whole period is exact. A sine itself
//! would have to be rounded, and sums of rounded rates drift.

use super::ramps::{Line, MICRO, Ramps};
use crate::clock::nanos;
use crate::plan::shape::{Wave, WaveStart};

/// Lines a period, a multiple of 4.
const PIECES: u64 = 512;

pub(super) fn ramps(wave: &Wave) -> Ramps {
    let half_ns = nanos(wave.every) / 2;
    let per_half = PIECES / 2;
    // Cut so that both halves are alike to the nanosecond: what one has above the mean the other
    // has below, whatever was rounded.
    let cut_ns = |index: u64| {
        let cut_ns = u128::from(half_ns) * u128::from(index) / u128::from(per_half);
        super::narrow(cut_ns)
    };
    Ramps::repeated((0..PIECES).map(|index| Line {
        lasts_ns: cut_ns(index % per_half + 1) - cut_ns(index % per_half),
        from: rate(wave, index),
        to: rate(wave, index + 1),
    }))
}

/// The rate that a wave opens with, messages a second; where that is 0, its mean.
pub(super) fn opening_per_s(wave: &Wave) -> u64 {
    match rate(wave, 0) / MICRO {
        0 => wave.mean_per_s,
        per_s => per_s,
    }
}

/// Millionths of a message a second at the beginning of piece `index`.
fn rate(wave: &Wave, index: u64) -> u64 {
    let ahead = match wave.start {
        WaveStart::Mean => 0,
        WaveStart::High => PIECES / 4,
        WaveStart::Low => PIECES * 3 / 4,
    };
    let index = (index + ahead) % PIECES;
    let (mean, swing) = (wave.mean_per_s * MICRO, wave.swing_per_s * MICRO);
    #[expect(clippy::cast_possible_truncation, reason = "at most the swing")]
    let off = |index: u64| (swing as f64 * first_quarter(index) + 0.5) as u64;
    // The second half mirrors the first.
    let quarter = PIECES / 4;
    match (index / quarter, index % quarter) {
        (0, step) => mean + off(step),
        (1, step) => mean + off(quarter - step),
        (2, step) => mean - off(step),
        (_, step) => mean - off(quarter - step),
    }
}

/// The sine of `index` pieces, up to a quarter of a period, by its series: nothing but products
/// and sums of IEEE 754, so that it is the same on every machine.
fn first_quarter(index: u64) -> f64 {
    let x = std::f64::consts::TAU / PIECES as f64 * index as f64;
    let (mut term, mut sum) = (x, x);
    for n in 1..12 {
        term *= -x * x / f64::from(2 * n * (2 * n + 1));
        sum += term;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::schedule::NANOS;

    /// The integral of the true sine, in messages.
    fn integral(wave: &Wave, t_ns: u64) -> f64 {
        use std::f64::consts::{FRAC_PI_2, TAU};
        let phase = match wave.start {
            WaveStart::Mean => 0.0,
            WaveStart::High => FRAC_PI_2,
            WaveStart::Low => -FRAC_PI_2,
        };
        let (t, every) = (t_ns as f64 / 1e9, wave.every.as_secs_f64());
        let swing = wave.swing_per_s as f64 * every / TAU;
        wave.mean_per_s as f64 * t + swing * (phase.cos() - (TAU * t / every + phase).cos())
    }

    #[test]
    fn a_period_is_exactly_its_mean_also_after_a_year() {
        for text in ["mean=5k,swing=4k,every=60s", "mean=7,swing=7,every=777777us,start=high"] {
            let wave: Wave = text.parse().unwrap();
            let ramps = super::ramps(&wave);
            for periods in [1u64, 1000, 365 * 86_400 / 60] {
                let end_ns = nanos(wave.every) * periods;
                let exact = u128::from(wave.mean_per_s) * u128::from(end_ns);
                let exact = exact.div_ceil(u128::from(NANOS));
                assert_eq!(u128::from(ramps.due_before(end_ns)), exact, "{text} × {periods}");
            }
        }
    }

    #[test]
    fn a_wave_opens_where_it_starts() {
        for (text, opening) in [
            ("mean=5k,swing=4k", 5000),
            ("mean=5k,swing=4k,start=high", 9000),
            ("mean=5k,swing=4k,start=low", 1000),
            ("mean=5k,swing=5k,start=low", 5000),
        ] {
            assert_eq!(opening_per_s(&text.parse().unwrap()), opening, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_wave_follows_the_integral_of_the_sine(
            mean in 1u64..100_000,
            swing in 0.0f64..=1.0,
            every_ms in 1u64..600_000,
            start in 0usize..3,
            periods in 0.0f64..5.0,
        ) {
            #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
            let wave = Wave {
                mean_per_s: mean,
                swing_per_s: (mean as f64 * swing) as u64,
                every: std::time::Duration::from_millis(every_ms),
                start: [WaveStart::Mean, WaveStart::High, WaveStart::Low][start],
            };
            #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
            let t_ns = (periods * every_ms as f64 * 1e6) as u64;
            let counted = super::ramps(&wave).due_before(t_ns) as f64;
            let exact = integral(&wave, t_ns);
            // Rounded up to a message; and 0.003 % of what half a period swings.
            let slack = 3e-5 * wave.swing_per_s as f64 * every_ms as f64 / 1e3 / 3.0 + 1e-3;
            prop_assert!(counted - exact > -slack && counted - exact < 1.0 + slack,
                "{} counted, {} by the sine", counted, exact);
        }
    }
}
