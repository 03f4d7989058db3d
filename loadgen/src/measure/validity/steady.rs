//! Whether the run was the same at its end as at its beginning.
//!
//! Pure. Looks at the seconds of a load that is meant to be the same all the time. The trend is the
//! median of all slopes (Theil 1950, Sen 1968), which a few bad seconds don't bend; whether it is
//! more than chance is asked of the signs of all differences (Mann 1945, Kendall 1975).
//! Invariant: nothing is said from less than [`SECONDS_MIN`] seconds.

use std::fmt;

use crate::measure::slo::percent;

/// Fewer seconds show no trend.
pub const SECONDS_MIN: usize = 10;
/// Longer series are averaged to so many points: there are n²/2 slopes.
const POINTS_MAX: usize = 240;
const THROUGHPUT_MAX: f64 = 0.2;
const LATENCY_MAX: f64 = 0.5;
/// A drift of the median by less is nobody's business, ns.
const LATENCY_NS_MIN: f64 = 100_000.0;
/// Standard deviations: one time in a hundred by chance.
const SIGNIFICANT: f64 = 2.576;

/// How a figure changed over the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// What it is of.
    pub name: &'static str,
    /// The larger one of: slope × length, and second half against first half; as a share of the
    /// median.
    pub drift: f64,
    /// Its limit.
    pub limit: f64,
    /// In standard deviations from "no trend".
    pub significance: f64,
    /// It is large enough to matter at all.
    pub matters: bool,
}

/// The trends of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steadiness {
    /// The one that is bad, or nearest to it.
    pub worst: Trend,
}

impl Steadiness {
    /// From the seconds of the measured load, the first and the last whole one included: answers a
    /// second, and their median response (ns) where there was any.
    ///
    /// # Errors
    /// Why nothing can be said.
    pub fn new(throughput: &[f64], median_ns: &[f64]) -> Result<Steadiness, String> {
        let of = |name, values: &[f64], limit, least| {
            (values.len() >= SECONDS_MIN).then(|| Trend::new(name, values, limit, least))
        };
        let trends = [
            of("throughput", throughput, THROUGHPUT_MAX, 0.0),
            of("median response", median_ns, LATENCY_MAX, LATENCY_NS_MIN),
        ];
        let badness = |trend: &Trend| (trend.is_bad(), trend.drift.abs() / trend.limit);
        let worst = trends.into_iter().flatten().max_by(|a, b| {
            badness(a).partial_cmp(&badness(b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        worst
            .map(|worst| Steadiness { worst })
            .ok_or_else(|| format!("fewer than {SECONDS_MIN} whole seconds were measured"))
    }
}

impl Trend {
    fn new(name: &'static str, values: &[f64], limit: f64, least: f64) -> Trend {
        let points = thin(values);
        let middle = median(&points);
        let by_slope = slope(&points) * (points.len() - 1) as f64;
        let (first, second) = points.split_at(points.len() / 2);
        let by_halves = median(second) - median(first);
        let change = if by_halves.abs() > by_slope.abs() { by_halves } else { by_slope };
        Trend {
            name,
            drift: if middle > 0.0 { change / middle } else { 0.0 },
            limit,
            significance: significance(&points),
            matters: change.abs() >= least,
        }
    }

    /// It is no chance, and too much.
    pub fn is_bad(&self) -> bool {
        self.matters && self.significance.abs() > SIGNIFICANT && self.drift.abs() > self.limit
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.drift < 0.0 { "fell" } else { "rose" };
        write!(f, "{} {way} by {} over the run", self.name, percent(self.drift.abs()))
    }
}

/// Neighbours averaged, so that there are [`POINTS_MAX`] at most.
fn thin(values: &[f64]) -> Vec<f64> {
    let step = values.len().div_ceil(POINTS_MAX).max(1);
    values.chunks(step).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn pairs(points: &[f64]) -> impl Iterator<Item = (f64, f64)> {
    let from = |(i, a): (usize, f64)| {
        let behind = points[i + 1..].iter().enumerate();
        behind.map(move |(j, b)| (b - a, (j + 1) as f64))
    };
    points.iter().copied().enumerate().flat_map(from)
}

/// The median of all slopes, a step.
fn slope(points: &[f64]) -> f64 {
    median(&pairs(points).map(|(rise, run)| rise / run).collect::<Vec<_>>())
}

/// Kendall's S in standard deviations (without the correction for ties, which only lessens it).
fn significance(points: &[f64]) -> f64 {
    let n = points.len() as f64;
    let sign = |rise: f64| if rise == 0.0 { 0.0 } else { rise.signum() };
    let sum: f64 = pairs(points).map(|(rise, _)| sign(rise)).sum();
    let deviation = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    if deviation == 0.0 || sum == 0.0 { 0.0 } else { (sum - sum.signum()) / deviation }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::random::Random;

    fn is_bad(throughput: &[f64], median_ns: &[f64]) -> bool {
        Steadiness::new(throughput, median_ns).unwrap().worst.is_bad()
    }

    #[test]
    fn a_fall_a_step_and_a_growing_queue_are_seen() {
        let flat = [1000.0; 20];
        assert!(!is_bad(&flat, &flat));
        let falling: Vec<f64> = (0..20).map(|n| 1000.0 - 20.0 * f64::from(n)).collect();
        assert!(is_bad(&falling, &flat));
        let step = [vec![1000.0; 10], vec![700.0; 10]].concat();
        assert!(is_bad(&step, &flat));
        let queue: Vec<f64> = (0..20).map(|n| 1e6 * f64::from(n)).collect();
        let steadiness = Steadiness::new(&flat, &queue).unwrap();
        assert!(steadiness.worst.is_bad());
        assert_eq!(steadiness.worst.to_string(), "median response rose by 200 % over the run");
        // From 10 to 60 µs it rises, too, and nobody minds.
        let small: Vec<f64> = (0..20).map(|n| 10_000.0 + 2_500.0 * f64::from(n)).collect();
        assert!(!is_bad(&flat, &small));
    }

    #[test]
    fn one_bad_second_is_no_trend_and_nine_seconds_are_too_few() {
        let mut values = [1000.0; 20];
        values[15] = 10.0;
        assert!(!is_bad(&values, &[]));
        let why = Steadiness::new(&[1000.0; 9], &[]).unwrap_err();
        assert!(why.contains("10 whole seconds"), "{why}");
    }

    #[test]
    fn a_week_of_seconds_is_judged_at_once() {
        let values: Vec<f64> = (0..604_800).map(|n| 1000.0 + f64::from(n % 7)).collect();
        assert!(!is_bad(&values, &values));
        assert_eq!(thin(&values).len(), POINTS_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Noise of 25 % without a trend is hardly ever bad.
        #[test]
        fn noise_is_no_trend(seed in any::<u64>()) {
            let mut random = Random::new(seed);
            let bad = (0..40).filter(|_| {
                let mut values = || -> Vec<f64> {
                    (0..30).map(|_| 875.0 + random.below(250) as f64).collect()
                };
                is_bad(&values(), &values())
            });
            prop_assert!(bad.count() <= 3);
        }
    }
}
