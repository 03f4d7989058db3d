//! How far chance may have moved a percentile.
//!
//! Pure. Owns the interval around a percentile, and how many independent messages a sample is
//! worth. Leaves histograms to [`super::recorder`] and what is printed to [`super::summary`].
//!
//! **The interval** is that of order statistics, free of any distribution: of n independent values
//! the number below the q-quantile is binomial (n, q), so with ranks l and u such that
//! P(B < l) ≤ 2.5 % and P(B ≥ u) ≤ 2.5 %, the quantile lies between the l-th and the u-th smallest
//! value in at least 95 of 100 samples (David & Nagaraja, *Order Statistics*, 7.1). Where the sample
//! has no u-th value, nothing is known above: the interval is open.
//!
//! **The effective sample.** Messages are no independent witnesses: those of one read share their
//! fate, and a queue remembers. For each percentile the sample is cut into batches, one behind the
//! other in time; X_i of the n_i messages of batch i lie beyond the percentile, a share p of all n.
//! The variance of that share is estimated from the batches (batch means with a ratio estimator,
//! Law & Kelton 9.5.3, Cochran 6.4):
//!
//! ```text
//! V = b/(b−1) · Σ (X_i − p·n_i)² / n²         effective count = p·(1−p) / V · (1.96/t)²
//! ```
//!
//! A sample of independent messages gives about n. (1.96/t)², with the quantile t of Student's
//! distribution of b−1 degrees of freedom, pays for an estimate from few batches. The estimate is
//! made for batches of one interval, two, four … as long as there are [`BATCHES_MIN`] of them, and
//! the smallest counts, because short batches of a long memory look independent. It is never more
//! than the moments at which messages were settled; of a run within one interval that is all that
//! is known, and its interval is too narrow if a queue remembers for longer than a batch.
//!
//! Memory is constant: at most [`BATCHES_MAX`] batches are kept, with two digits of their values;
//! when there are more, neighbours are joined and a batch is twice as long from then on.

use hdrhistogram::Histogram;

use super::latencies::Latency;

/// Parts in which a percentile is written.
const WHOLE: u64 = 10_000;
/// Batches that are kept; half as many at least, once there have been so many intervals.
const BATCHES_MAX: usize = 64;
/// An estimate from fewer batches is made only where there are no more.
const BATCHES_MIN: usize = 10;
/// Beyond this the interval is narrower than a histogram can tell.
const COUNT_MAX: u64 = 10_000_000;
/// Chance on each side of the interval.
const TAIL: f64 = 0.025;
/// The quantile of the normal distribution that leaves [`TAIL`] above.
const Z: f64 = 1.959_964;

/// The ranks (from 1) between which the quantile lies, among `count` values of which `effective`
/// are independent; `None` is an open end. `percentile` is in ten-thousandths.
///
/// Ranks of the effective sample are stretched to the real one, outward.
pub fn ranks(percentile: u64, count: u64, effective: u64) -> (Option<u64>, Option<u64>) {
    let n = effective.min(count).min(COUNT_MAX);
    if n == 0 {
        return (None, None);
    }
    let (lower, upper) = binomial_ranks(n, percentile as f64 / WHOLE as f64);
    let stretch = |rank: u64, up: u64| {
        let rank = (u128::from(rank) * u128::from(count) + u128::from(up)) / u128::from(n);
        u64::try_from(rank).expect("at most the count")
    };
    let lower = (lower >= 1).then(|| stretch(lower - 1, 0) + 1);
    let upper = (upper <= n).then(|| stretch(upper, n - 1));
    (lower, upper)
}

/// The largest l with P(B < l) ≤ [`TAIL`] and the smallest u with P(B ≥ u) ≤ [`TAIL`], for B
/// binomial (`n`, `q`). l = 0 and u = n + 1 say that there is no such value.
///
/// Sums the terms on both sides of the largest, up to where they vanish: about 18 √(n·q·(1−q)).
fn binomial_ranks(n: u64, q: f64) -> (u64, u64) {
    let odds = q / (1.0 - q);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and n, which is at most COUNT_MAX"
    )]
    let mode = (((n + 1) as f64 * q) as u64).min(n);
    // Terms as multiples of the largest: down[i] of mode − i, up[i] of mode + 1 + i.
    let (mut down, mut up) = (vec![1.0], Vec::new());
    let (mut term, mut k) = (1.0, mode);
    while k > 0 && term > 1e-18 {
        term *= k as f64 / ((n - k + 1) as f64 * odds);
        k -= 1;
        down.push(term);
    }
    (term, k) = (1.0, mode);
    while k < n && term > 1e-18 {
        term *= (n - k) as f64 * odds / (k + 1) as f64;
        k += 1;
        up.push(term);
    }
    let total: f64 = down.iter().chain(&up).sum();
    let lowest = mode + 1 - down.len() as u64;
    let mut below = 0.0;
    // P(B < lowest) vanishes.
    let mut lower = lowest;
    for (k, term) in (lowest..).zip(down.iter().rev().chain(&up)) {
        // `below` is P(B < k).
        if below / total > TAIL {
            break;
        }
        lower = k;
        below += term;
    }
    let highest = mode + up.len() as u64;
    let mut above = 0.0;
    let mut upper = highest + 1;
    for (back, term) in up.iter().rev().chain(&down).enumerate() {
        // With this term, P(B ≥ k).
        above += term;
        if above / total > TAIL {
            break;
        }
        upper = highest - back as u64;
    }
    (lower, upper)
}

/// One batch: how many values there are in each step of two digits, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    steps: Vec<(u64, u64)>,
    count: u64,
}

/// A sample, cut into batches that are one behind the other in time.
#[derive(Clone, Debug)]
pub struct Batches {
    batches: Vec<Batch>,
    /// Intervals in a batch, and in the last one so far.
    length: u32,
    filled: u32,
}

impl Default for Batches {
    fn default() -> Self {
        Batches { batches: Vec::new(), length: 1, filled: 1 }
    }
}

impl Batches {
    /// Adds what was recorded in the next interval. One in which nothing was says nothing.
    pub fn push(&mut self, batch: Batch) {
        if batch.count == 0 {
            return;
        }
        if self.filled < self.length {
            self.batches.last_mut().expect("one is being filled").join(&batch);
            self.filled += 1;
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            self.batches = joined(&self.batches);
            self.length *= 2;
        }
        self.batches.push(batch);
        self.filled = 1;
    }

    /// How many independent values the sample is worth, where the share of values beyond `value`
    /// is concerned; at most `moments`.
    pub fn effective_count(&self, value: u64, moments: u64) -> u64 {
        // A batch that is being filled is shorter, which the ratio estimator allows for.
        let mut pairs: Vec<(u64, u64)> =
            self.batches.iter().map(|batch| (batch.beyond(value), batch.count)).collect();
        let mut fewest = moments.min(pairs.iter().map(|(_, count)| count).sum());
        while pairs.len() >= 2 {
            fewest = fewest.min(independent(&pairs));
            if pairs.len() < 2 * BATCHES_MIN {
                break;
            }
            pairs = pairs
                .chunks(2)
                .map(|two| two.iter().fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1)))
                .collect();
        }
        fewest.max(1)
    }
}

impl Batch {
    /// What was recorded in an interval; censored values count where they were given up.
    pub fn new(latency: &Latency) -> Batch {
        let Latency { values, censored } = latency;
        let mut batch = Batch::of(values);
        if !censored.is_empty() {
            batch.join(&Batch::of(censored));
        }
        batch
    }

    fn of(histogram: &Histogram<u64>) -> Batch {
        if histogram.is_empty() {
            return Batch::default();
        }
        let mut steps: Vec<(u64, u64)> = Vec::new();
        for step in histogram.iter_recorded() {
            let value = coarse(step.value_iterated_to());
            match steps.last_mut() {
                Some((last, count)) if *last == value => *count += step.count_at_value(),
                _ => steps.push((value, step.count_at_value())),
            }
        }
        Batch { steps, count: histogram.len() }
    }

    /// Adds another batch, of the same interval or of the next.
    pub fn join(&mut self, other: &Batch) {
        let mut steps: Vec<(u64, u64)> = Vec::with_capacity(self.steps.len() + other.steps.len());
        let (mut one, mut two) = (self.steps.iter().peekable(), other.steps.iter().peekable());
        loop {
            let is_first = match (one.peek(), two.peek()) {
                (Some((a, _)), Some((b, _))) => a <= b,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let next = if is_first { one.next() } else { two.next() };
            let &(value, count) = next.expect("it was there");
            match steps.last_mut() {
                Some((last, sum)) if *last == value => *sum += count,
                _ => steps.push((value, count)),
            }
        }
        self.steps = steps;
        self.count += other.count;
    }

    /// Values beyond `value`, as far as two digits tell.
    fn beyond(&self, value: u64) -> u64 {
        let first = self.steps.partition_point(|(step, _)| *step <= coarse(value));
        self.steps[first..].iter().map(|(_, count)| count).sum()
    }
}

/// Joins neighbours.
fn joined(batches: &[Batch]) -> Vec<Batch> {
    let mut joined = Vec::with_capacity(batches.len() / 2 + 1);
    for two in batches.chunks(2) {
        let mut sum = two[0].clone();
        two[1..].iter().for_each(|other| sum.join(other));
        joined.push(sum);
    }
    joined
}

/// The upper end of the step of two digits (one part in 128) in which `value` lies.
fn coarse(value: u64) -> u64 {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(8);
    value | ((1 << shift) - 1)
}

/// The number of independent values that would make the share of X vary as it does; pairs are X_i
/// and n_i.
fn independent(pairs: &[(u64, u64)]) -> u64 {
    let n: u64 = pairs.iter().map(|(_, n)| n).sum();
    let x: u64 = pairs.iter().map(|(x, _)| x).sum();
    // All on one side says nothing about the variance.
    if x == 0 || x == n {
        return u64::MAX;
    }
    let (n, b) = (n as f64, pairs.len() as f64);
    let p = x as f64 / n;
    let squares: f64 = pairs.iter().map(|&(x, n)| (x as f64 - p * n as f64).powi(2)).sum();
    let variance = b / (b - 1.0) * squares / (n * n);
    let penalty = (Z / student(pairs.len() - 1)).powi(2);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let count = (p * (1.0 - p) / variance * penalty) as u64;
    count
}

/// The quantile of Student's distribution that leaves [`TAIL`] above; from a table up to 10 degrees
/// of freedom, then Cornish and Fisher's expansion (Abramowitz & Stegun 26.7.5), right to a
/// thousandth.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] =
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    match TABLE.get(freedom.saturating_sub(1)) {
        Some(quantile) => *quantile,
        None => {
            let nu = freedom as f64;
            let one = (Z.powi(3) + Z) / 4.0;
            let two = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0;
            let three = (3.0 * Z.powi(7) + 19.0 * Z.powi(5) + 17.0 * Z.powi(3) - 15.0 * Z) / 384.0;
            Z + one / nu + two / nu.powi(2) + three / nu.powi(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::random::Random;

    /// The probabilities of all numbers, from the end that is likelier.
    fn binomial(n: u64, q: f64) -> Vec<f64> {
        let (likely, other) = if q > 0.5 { (q, 1.0 - q) } else { (1.0 - q, q) };
        let mut terms = vec![likely.powi(i32::try_from(n).unwrap())];
        for k in 0..n {
            let last = terms.last().unwrap();
            terms.push(last * (n - k) as f64 / (k + 1) as f64 * other / likely);
        }
        if q > 0.5 {
            terms.reverse();
        }
        terms
    }

    fn ranks_slowly(n: u64, q: f64) -> (u64, u64) {
        let terms = binomial(n, q);
        let below = |k: u64| terms[..usize::try_from(k).unwrap()].iter().sum::<f64>();
        let from = |k: u64| terms[usize::try_from(k).unwrap()..].iter().sum::<f64>();
        let lower = (0..=n).rev().find(|&l| below(l) <= TAIL).unwrap();
        (lower, (0..=n + 1).find(|&u| u == n + 1 || from(u) <= TAIL).unwrap())
    }

    #[test]
    fn the_ranks_of_a_hundred_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics: r = 40, s = 61 for the median of 100.
        assert_eq!(ranks(5_000, 100, 100), (Some(40), Some(61)));
        // 0.99^367 > 2.5 % > 0.99^368: below that nothing bounds p99 from above.
        assert_eq!(ranks(9_900, 367, 367).1, None);
        assert_eq!(ranks(9_900, 368, 368).1, Some(368));
        assert_eq!(ranks(5_000, 1, 1), (None, None));
        assert_eq!(ranks(5_000, 0, 0), (None, None));
        // A million messages that are worth a hundred: the same ranks, stretched outward.
        assert_eq!(ranks(5_000, 1_000_000, 100), (Some(390_001), Some(610_000)));
    }

    #[test]
    fn a_large_sample_is_close_to_the_normal_distribution() {
        for (percentile, q) in [(5_000, 0.5), (9_900, 0.99), (9_999, 0.9999)] {
            let n = COUNT_MAX;
            let half = Z * (n as f64 * q * (1.0 - q)).sqrt();
            let (Some(lower), Some(upper)) = ranks(percentile, n, n) else { panic!("{q}") };
            assert!((lower as f64 - (n as f64 * q - half)).abs() < 5.0, "{q}: {lower}");
            assert!((upper as f64 - (n as f64 * q + half)).abs() < 5.0, "{q}: {upper}");
        }
        let (lower, upper) = ranks(9_900, u64::MAX, u64::MAX);
        assert!(lower < upper && upper.is_some());
    }

    #[test]
    fn student_s_quantiles_are_those_of_the_tables() {
        for (freedom, quantile) in [(1, 12.706), (10, 2.228), (11, 2.201), (30, 2.042), (63, 1.998)]
        {
            assert!((student(freedom) - quantile).abs() < 0.001, "{freedom}");
        }
    }

    #[test]
    fn memory_is_constant_and_neighbours_are_joined() {
        let mut batches = Batches::default();
        for interval in 0..1000u64 {
            batches.push(Batch::of_values(&[interval]));
            assert!(batches.batches.len() <= BATCHES_MAX);
        }
        assert_eq!(batches.length, 16);
        assert_eq!(batches.batches.iter().map(|batch| batch.count).sum::<u64>(), 1000);
        assert_eq!(batches.batches[0], Batch::of_values(&(0..16).collect::<Vec<u64>>()));
    }

    #[test]
    fn a_step_is_two_digits_wide() {
        assert_eq!([0, 100, 255].map(coarse), [0, 100, 255]);
        assert_eq!([256, 257, 258, 511].map(coarse), [257, 257, 259, 511]);
        assert_eq!(coarse(u64::MAX), u64::MAX);
        for value in [1_000_000, 123_456_789] {
            assert!((coarse(value) - value) as f64 <= value as f64 / 128.0);
        }
    }

    impl Batch {
        fn of_values(values: &[u64]) -> Batch {
            let mut values: Vec<u64> = values.iter().map(|&value| coarse(value)).collect();
            values.sort_unstable();
            let chunks = values.chunk_by(|one, other| one == other);
            let steps = chunks.map(|chunk| (chunk[0], chunk.len() as u64)).collect();
            Batch { steps, count: values.len() as u64 }
        }
    }

    /// In how many of `runs` samples the true quantile lies within the interval. `sample` gives
    /// the values of each interval.
    fn coverage(
        percentile: u64,
        truth: u64,
        runs: u64,
        mut sample: impl FnMut(u64) -> Vec<Vec<u64>>,
    ) -> f64 {
        let mut covered = 0;
        for run in 0..runs {
            let mut batches = Batches::default();
            let mut all = Vec::new();
            for interval in sample(run) {
                batches.push(Batch::of_values(&interval));
                all.extend(interval);
            }
            all.sort_unstable();
            let count = all.len() as u64;
            let at = |rank: u64| all[usize::try_from(rank).unwrap() - 1];
            let value = at((count * percentile).div_ceil(WHOLE));
            let effective = batches.effective_count(value, count);
            let (lower, upper) = ranks(percentile, count, effective);
            let is_above = lower.is_none_or(|rank| at(rank) <= truth);
            let is_below = upper.is_none_or(|rank| truth <= at(rank));
            covered += u64::from(is_above && is_below);
        }
        covered as f64 / runs as f64
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    fn whole(value: f64) -> u64 {
        value as u64
    }

    fn uniform(random: &mut Random) -> f64 {
        (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `seconds` of a queue with Poisson arrivals at 800/s, each served in a millisecond: what each
    /// arrival takes, ns.
    fn queue(seed: u64, seconds: u64) -> Vec<Vec<u64>> {
        let mut random = Random::new(seed);
        let mut intervals = vec![Vec::new(); usize::try_from(seconds).unwrap()];
        let (mut now, mut free) = (0.0, 0.0f64);
        loop {
            now -= uniform(&mut random).max(1e-12).ln() / 800.0;
            if now >= seconds as f64 {
                return intervals;
            }

            free = free.max(now) + 0.001;
            let second = usize::try_from(whole(now)).unwrap();
            intervals[second].push(whole((free - now) * 1e9));
        }
    }

    /// A hundred values a second that forget a third of what they were in `memory_s`.
    fn drift(seed: u64, seconds: u64, memory_s: f64) -> Vec<Vec<u64>> {
        let mut random = Random::new(seed);
        let keep = (-0.01 / memory_s).exp();
        let noise = (1.0 - keep * keep).sqrt();
        // Normal by the sum of twelve.
        let mut normal = || (0..12).map(|_| uniform(&mut random)).sum::<f64>() - 6.0;
        let mut level = normal();
        let mut value = || {
            level = keep * level + noise * normal();
            whole(1e6 + 1e5 * level)
        };
        (0..seconds).map(|_| (0..100).map(|_| value()).collect()).collect()
    }

    #[test]
    fn independent_messages_are_worth_what_they_are_and_95_of_100_intervals_hold() {
        let sample = |seed: u64| -> Vec<Vec<u64>> {
            let mut random = Random::new(seed);
            (0..20).map(|_| (0..200).map(|_| whole(uniform(&mut random) * 1e9)).collect()).collect()
        };
        for (percentile, truth) in [(5_000, 500_000_000), (9_900, 990_000_000)] {
            let coverage = coverage(percentile, truth, 100, sample);
            assert!((0.92..=1.0).contains(&coverage), "{percentile}: {coverage}");
        }
        let mut batches = Batches::default();
        sample(7).iter().for_each(|interval| batches.push(Batch::of_values(interval)));
        let effective = batches.effective_count(500_000_000, u64::MAX);
        assert!((800..=4_000).contains(&effective), "{effective}");
        assert_eq!(batches.effective_count(500_000_000, 12), 12);
    }

    #[test]
    fn a_queue_remembers_and_its_intervals_hold_all_the_same() {
        let mut all: Vec<u64> = queue(1, 1000).concat();
        all.sort_unstable();
        for percentile in [5_000usize, 9_900] {
            let truth = all[all.len() * percentile / 10_000];
            let coverage = coverage(percentile as u64, truth, 100, |run| queue(run + 2, 10));
            assert!((0.88..=1.0).contains(&coverage), "{percentile}: {coverage}");
        }
        // Who takes them for independent is wrong about p50 more often than right.
        let mut batches = Batches::default();
        queue(9, 10).iter().for_each(|interval| batches.push(Batch::of_values(interval)));
        let effective = batches.effective_count(all[all.len() / 2], u64::MAX);
        assert!(effective < 2000, "of about 8,000 messages: {effective}");
    }

    #[test]
    fn a_memory_longer_than_an_interval_is_found_by_longer_batches() {
        // Two seconds of memory: the mean of a minute is worth about sixteen independent values.
        let coverage = coverage(5_000, 1_000_000, 100, |run| drift(run, 60, 2.0));
        assert!((0.85..=1.0).contains(&coverage), "{coverage}");
    }

    proptest! {
        #[test]
        fn ranks_are_those_of_the_slow_sum(n in 1u64..300, percentile in 1u64..10_000) {
            let q = percentile as f64 / WHOLE as f64;
            prop_assert_eq!(binomial_ranks(n, q), ranks_slowly(n, q), "{} {}", n, q);
        }

        #[test]
        fn ranks_stay_within_the_sample_and_around_the_percentile(
            percentile in 1u64..10_000, count in 1u64..1_000_000, effective in 1u64..100_000,
        ) {
            let rank = (count * percentile).div_ceil(WHOLE);
            let (lower, upper) = ranks(percentile, count, effective);
            prop_assert!(lower.is_none_or(|lower| (1..=rank).contains(&lower)));
            prop_assert!(upper.is_none_or(|upper| (rank..=count).contains(&upper)));
        }

        #[test]
        fn joined_batches_hold_the_values_of_both(
            one in prop::collection::vec(0u64..5000, 0..50),
            other in prop::collection::vec(0u64..5000, 0..50),
            value in 0u64..5000,
        ) {
            let mut joined = Batch::of_values(&one);
            joined.join(&Batch::of_values(&other));
            prop_assert_eq!(&joined, &Batch::of_values(&[&one[..], &other[..]].concat()));
            let beyond = one.iter().chain(&other).filter(|it| coarse(**it) > coarse(value)).count();
            prop_assert_eq!(joined.beyond(value), beyond as u64);
        }
    }
}
