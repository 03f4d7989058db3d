//! The five rising tiers, and the peak behind them.

use std::time::Duration;

use super::{Suite, Tier};

/// Names, totals, seconds and connections as the project's users know them.
const RISING: [(&str, u64, u64, usize); 5] = [
    ("warmup", 100, 5, 2),
    ("baseline", 1_000, 10, 5),
    ("medium_load", 5_000, 15, 20),
    ("high_load", 10_000, 20, 50),
    ("stress_test", 50_000, 30, 100),
];

/// A fast engine ends the five in milliseconds; the peak has no total, so it shows what the engine
/// can take.
const PEAK: &str = "peak";
const PEAK_CONCURRENCY: usize = 100;

/// Every name that a tier of this suite can have.
pub fn names() -> impl Iterator<Item = &'static str> {
    RISING.iter().map(|tier| tier.0).chain([PEAK])
}

/// The suite, its totals multiplied by `scale`; no peak if `peak` is zero.
///
/// A product beyond 64 bits stays at the largest number: the duration ends such a tier.
pub fn suite(scale: u64, peak: Duration) -> Suite {
    let rising = RISING.map(|(name, total, seconds, concurrency)| Tier {
        name,
        total_logs: Some(total.saturating_mul(scale)),
        duration: Duration::from_secs(seconds),
        concurrency,
    });
    let peak = (!peak.is_zero()).then_some(Tier {
        name: PEAK,
        total_logs: None,
        duration: peak,
        concurrency: PEAK_CONCURRENCY,
    });
    Suite { name: "tiers", tiers: rising.into_iter().chain(peak).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_multiplies_totals_and_nothing_else() {
        let one = suite(1, Duration::from_secs(5)).tiers;
        let thousand = suite(1000, Duration::from_secs(5)).tiers;
        assert_eq!(one.len(), 6);
        for (small, large) in one.iter().zip(&thousand) {
            assert_eq!(small.total_logs.map(|total| total * 1000), large.total_logs);
            assert_eq!((small.duration, small.concurrency), (large.duration, large.concurrency));
        }
        assert_eq!(one[4].rate_needed(), Some(50_000.0 / 30.0));
        assert_eq!(one[5].rate_needed(), None);
    }

    #[test]
    fn no_seconds_of_peak_mean_no_peak() {
        let tiers = suite(1, Duration::ZERO).tiers;
        assert_eq!(tiers.len(), 5);
        assert!(tiers.iter().all(|tier| tier.name != "peak"));
        assert_eq!(names().count(), 6);
    }
}
