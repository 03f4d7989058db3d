//! Percentiles, and what of them may be said.
//!
//! - Beside a percentile stands how far chance may have moved it: an interval that holds the truth
//!   in 95 of 100 runs, from as many messages as are independent ([`confidence`]). Censored
//!   messages count at t at its lower end, and as endless at its upper one; an end of which nothing
//!   is known is open.
//! - A percentile needs [`BEYOND_MIN`] messages at or beyond it (p99 a thousand messages, p99.9 ten
//!   thousand); with fewer it is `null`, because chance alone would move it.
//! - A censored message is counted at the time up to which it was watched. Where the true times
//!   of all of them could move a percentile by more than a hundredth, that percentile is a *lower
//!   bound*: listed in `lower_bounds`, and printed as "> t".

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::measure::confidence;
use crate::measure::latencies::{self, Latencies, Latency};
use crate::measure::progress::Sum;
use crate::measure::tally::{Cause, Causes, Tally};

/// Messages at or beyond a percentile without which it is not told.
const BEYOND_MIN: u64 = 10;
/// A percentile that censored messages cannot move by more than one part in so many is told
/// without reservation: one lost message in a million must not mark them all.
const TOLERANCE: u64 = 100;
/// The percentiles that are told, in ten-thousandths.
const PERCENTILES: [(&str, u64); 6] = [
    ("p50_ns", 5_000),
    ("p90_ns", 9_000),
    ("p95_ns", 9_500),
    ("p99_ns", 9_900),
    ("p999_ns", 9_990),
    ("p9999_ns", 9_999),
];
const WHOLE: u64 = 10_000;

/// The three kinds of latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencySummaries {
    /// done − due: what a user of the target feels.
    pub response: LatencySummary,
    /// done − sent: what the target and the network took.
    pub service: LatencySummary,
    /// sent − due: what the generator, or a stalled connection, took.
    pub lag: LatencySummary,
}

impl LatencySummaries {
    /// The times of `sum`. Of a run that goes on, what is under way may take anything.
    pub fn new(sum: &Sum) -> LatencySummaries {
        let counts = &sum.tally.counts;
        let latencies = &sum.latencies;
        let missing = |of: u64, latency: &Latency| {
            of.saturating_sub(latency.values.len() + latency.censored.len())
        };
        let offered = sum.offered.max(counts.sent + counts.unsent);
        let Latencies { response, service, lag } = latencies;
        let [of_response, of_service, of_lag] = &sum.batches;
        let Tally { settled_moments, sent_moments, .. } = sum.tally;
        LatencySummaries {
            response: LatencySummary::new(
                response,
                missing(offered - counts.unacknowledged, response),
                |value| of_response.effective_count(value, settled_moments),
            ),
            service: LatencySummary::new(service, counts.in_flight(), |value| {
                of_service.effective_count(value, settled_moments)
            }),
            lag: LatencySummary {
                causes: Some(LagCauses::new(&sum.tally.causes, lag.values.len())),
                // What was given up before it was sent is settled in the moment of that.
                ..LatencySummary::new(lag, missing(offered, lag), |value| {
                    of_lag.effective_count(value, sent_moments + settled_moments)
                })
            },
        }
    }
}

/// What the messages that were sent waited for between due and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagCauses {
    /// The recording could not be read as fast as it is replayed; absent where there is none.
    #[serde(default, skip_serializing_if = "LagCause::is_none")]
    pub reader: LagCause,
    /// Every worker had a batch unanswered, or over HTTP/2 a connection as many streams as its
    /// server allows: CONCURRENCY bounds what is under way.
    pub window_full: LagCause,
    /// The generator itself: waiting for its turn, pacing, and making the bytes.
    pub shard_busy: LagCause,
    /// There was no connection yet, or no more.
    pub connecting: LagCause,
    /// The socket took no more: the target, or the network, reads too slowly.
    pub socket: LagCause,
}

/// One cause's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagCause {
    /// Per message.
    pub mean_ns: u64,
    /// The most that it took of one message.
    pub max_ns: u64,
    /// Of all lag, 0 to 1.
    pub share: f64,
}

impl LagCause {
    fn is_none(&self) -> bool {
        self.max_ns == 0
    }
}

impl LagCauses {
    /// Of `count` messages.
    fn new(causes: &Causes, count: u64) -> LagCauses {
        let Causes { reader, window_full, shard_busy, connecting, socket } = causes;
        let all = [reader, window_full, shard_busy, connecting, socket];
        let all_ns: u128 = all.iter().map(|cause| cause.sum_ns).sum();
        let part = |cause: &Cause| LagCause {
            mean_ns: u64::try_from(cause.sum_ns.checked_div(u128::from(count)).unwrap_or(0))
                .expect("a mean is at most the largest"),
            max_ns: cause.max_ns,
            share: if all_ns == 0 { 0.0 } else { cause.sum_ns as f64 / all_ns as f64 },
        };
        LagCauses {
            reader: part(reader),
            window_full: part(window_full),
            shard_busy: part(shard_busy),
            connecting: part(connecting),
            socket: part(socket),
        }
    }

    /// With their names.
    pub(crate) fn named(&self) -> [(&'static str, LagCause); 5] {
        [
            ("reader", self.reader),
            ("window full", self.window_full),
            ("shard busy", self.shard_busy),
            ("connecting", self.connecting),
            ("socket full", self.socket),
        ]
    }
}

/// One kind of latency. `None` is what the sample cannot support.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencySummary {
    /// Messages, the censored ones among them.
    pub count: u64,
    /// Messages of which only "at least t" is known; they are counted at t.
    pub censored: u64,
    /// The shortest.
    pub min_ns: Option<u64>,
    /// The mean.
    pub mean_ns: Option<u64>,
    /// Half of the messages took at most this.
    pub p50_ns: Option<u64>,
    /// 90 %.
    pub p90_ns: Option<u64>,
    /// 95 %.
    pub p95_ns: Option<u64>,
    /// 99 %.
    pub p99_ns: Option<u64>,
    /// 99.9 %.
    pub p999_ns: Option<u64>,
    /// 99.99 %.
    pub p9999_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
    /// Which of the above are lower bounds, because a censored message could move them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lower_bounds: Vec<String>,
    /// How many independent messages the sample is worth, at least: where it is worth least of the
    /// percentiles that are told.
    #[serde(default)]
    pub effective_count: Option<u64>,
    /// How far chance may have moved the percentiles.
    #[serde(default)]
    pub ci95: Intervals,
    /// Lag only: what the messages that were sent waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causes: Option<LagCauses>,
    /// The histogram, censored messages at t: HdrHistogram's V2 format, deflated, base64.
    pub hdr_v2_deflate_base64: String,
}

impl LatencySummary {
    /// Sums up merged values, and `unknown` messages of which nothing is known yet: each may have
    /// taken anything, and they are counted as censored. `effective` says how many independent
    /// messages the sample is worth around a value.
    pub fn new(latency: &Latency, unknown: u64, effective: impl Fn(u64) -> u64) -> LatencySummary {
        let mut all = latency.values.clone();
        latencies::add(&mut all, &latency.censored);
        let (count, censored) = (all.len() + unknown, latency.censored.len() + unknown);
        let mut summary = LatencySummary {
            count,
            censored,
            hdr_v2_deflate_base64: encode(&all),
            ..LatencySummary::default()
        };
        if all.is_empty() {
            return summary;
        }
        summary.min_ns = Some(all.min());
        summary.max_ns = Some(all.max());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a mean lies between the values, which are u64"
        )]
        let mean_ns = all.mean() as u64;
        summary.mean_ns = Some(mean_ns);
        // Censored messages at t, and all that is unknown below; or all of these endless.
        let (known, values) = (Ladder::of(&all), Ladder::of(&latency.values));
        let at_least = |rank: u64| rank.checked_sub(unknown).and_then(|rank| known.at(rank));
        for (name, percentile) in PERCENTILES {
            if !is_supported(count, percentile) {
                continue;
            }
            let rank = rank(count, percentile);
            let Some(value) = at_least(rank) else { continue };
            if values.at(rank).is_none_or(|at_most| at_most > value + value / TOLERANCE) {
                summary.lower_bounds.push(name.to_owned());
            }
            let effective = effective(value).min(count);
            let (lower, upper) = confidence::ranks(percentile, count, effective);
            let interval = [lower.and_then(at_least), upper.and_then(|rank| values.at(rank))];
            let least = summary.effective_count.get_or_insert(effective);
            *least = effective.min(*least);
            summary.set(name, value, interval);
        }
        if censored > 0 {
            summary.lower_bounds.push("mean_ns".to_owned());
            let is_beyond = latency.censored.max() >= latency.values.max();
            if unknown > 0 || is_beyond || latency.values.is_empty() {
                summary.lower_bounds.push("max_ns".to_owned());
            }
        }
        summary
    }

    /// Whether `field` (`"p99_ns"`) is only a lower bound.
    pub fn is_lower_bound(&self, field: &str) -> bool {
        self.lower_bounds.iter().any(|bound| bound == field)
    }

    fn set(&mut self, name: &str, value: u64, interval: Interval) {
        let (field, ci95) = match name {
            "p50_ns" => (&mut self.p50_ns, &mut self.ci95.p50_ns),
            "p90_ns" => (&mut self.p90_ns, &mut self.ci95.p90_ns),
            "p95_ns" => (&mut self.p95_ns, &mut self.ci95.p95_ns),
            "p99_ns" => (&mut self.p99_ns, &mut self.ci95.p99_ns),
            "p999_ns" => (&mut self.p999_ns, &mut self.ci95.p999_ns),
            "p9999_ns" => (&mut self.p9999_ns, &mut self.ci95.p9999_ns),
            _ => unreachable!("{name} is not a percentile"),
        };
        (*field, *ci95) = (Some(value), Some(interval));
    }
}

/// Lower and upper end; `None` is open.
pub type Interval = [Option<u64>; 2];

/// The interval of each percentile that is told, which holds the truth in 95 of 100 runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Intervals {
    /// Of the median.
    pub p50_ns: Option<Interval>,
    /// Of 90 %.
    pub p90_ns: Option<Interval>,
    /// Of 95 %.
    pub p95_ns: Option<Interval>,
    /// Of 99 %.
    pub p99_ns: Option<Interval>,
    /// Of 99.9 %.
    pub p999_ns: Option<Interval>,
    /// Of 99.99 %.
    pub p9999_ns: Option<Interval>,
}

/// A histogram as a table to look ranks up in: values, and how many are at or below each.
struct Ladder(Vec<(u64, u64)>);

impl Ladder {
    fn of(histogram: &Histogram<u64>) -> Ladder {
        let mut below = 0;
        let steps = histogram.iter_recorded().map(|step| {
            below += step.count_at_value();
            (step.value_iterated_to(), below)
        });
        Ladder(steps.collect())
    }

    /// The value of the `rank`-th smallest message, from 1; `None` when there are not as many.
    fn at(&self, rank: u64) -> Option<u64> {
        let step = self.0.partition_point(|(_, below)| *below < rank);
        self.0.get(step).filter(|_| rank > 0).map(|(value, _)| *value)
    }
}

/// Whether enough messages lie at or beyond the percentile.
fn is_supported(count: u64, percentile: u64) -> bool {
    u128::from(count) * u128::from(WHOLE - percentile) >= u128::from(BEYOND_MIN * WHOLE)
}

/// The nearest rank of a percentile, 1 to `count`, in integer arithmetic.
fn rank(count: u64, percentile: u64) -> u64 {
    let rank = (u128::from(count) * u128::from(percentile)).div_ceil(u128::from(WHOLE));
    u64::try_from(rank).expect("at most the count").max(1)
}

/// The value of the `rank`-th smallest message; `None` when there are not as many.
fn value_at_rank(histogram: &Histogram<u64>, rank: u64) -> Option<u64> {
    let mut seen = 0;
    for step in histogram.iter_recorded() {
        seen += step.count_at_value();
        if seen >= rank {
            return Some(step.value_iterated_to());
        }
    }
    None
}

/// A percentile (in ten-thousandths) of one second; `None` without messages. No claim is made from
/// it, so the sample may be small.
pub(crate) fn percentile_of_second(histogram: &Histogram<u64>, percentile: u64) -> Option<u64> {
    value_at_rank(histogram, rank(histogram.len(), percentile))
}

fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("writing into memory does not fail");
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn latency(values: &[u64], censored: &[u64]) -> Latency {
        let mut latency = Latency::default();
        values.iter().for_each(|&value| latency.values.saturating_record(value));
        censored.iter().for_each(|&value| latency.censored.saturating_record(value));
        latency
    }

    #[test]
    fn an_empty_sample_says_nothing() {
        let summary = LatencySummary::new(&latency(&[], &[]), 0, |_| 1000);
        assert_eq!((summary.count, summary.min_ns, summary.p50_ns), (0, None, None));
        assert!(!summary.hdr_v2_deflate_base64.is_empty());
    }

    #[test]
    fn a_percentile_needs_ten_messages_beyond_it() {
        for (count, p50, p99, p999) in [
            (19, false, false, false),
            (20, true, false, false),
            (999, true, false, false),
            (1000, true, true, false),
            (10_000, true, true, true),
        ] {
            let summary = LatencySummary::new(&latency(&vec![5; count], &[]), 0, |_| 1000);
            assert_eq!(
                (summary.p50_ns.is_some(), summary.p99_ns.is_some(), summary.p999_ns.is_some()),
                (p50, p99, p999),
                "{count}"
            );
        }
    }

    #[test]
    fn censored_messages_above_a_percentile_leave_it_exact() {
        let values: Vec<u64> = (1..=980).collect();
        let summary = LatencySummary::new(&latency(&values, &[2000; 20]), 0, |_| 1000);
        assert_eq!((summary.count, summary.censored), (1000, 20));
        assert_eq!((summary.p50_ns, summary.is_lower_bound("p50_ns")), (Some(500), false));
        assert_eq!((summary.p95_ns, summary.is_lower_bound("p95_ns")), (Some(950), false));
        // Rank 990 falls among the censored ones.
        assert!(summary.p99_ns.unwrap() >= 2000 && summary.is_lower_bound("p99_ns"));
        assert!(summary.is_lower_bound("max_ns") && summary.is_lower_bound("mean_ns"));
    }

    #[test]
    fn censored_messages_below_a_percentile_make_it_a_lower_bound() {
        // Given up after 1 ns, they may have taken anything.
        let values: Vec<u64> = (1..=980).collect();
        let summary = LatencySummary::new(&latency(&values, &[1; 20]), 0, |_| 1000);
        assert!(summary.is_lower_bound("p50_ns"));
        assert_eq!(summary.p50_ns, Some(480));
    }

    #[test]
    fn an_interval_is_of_order_statistics_and_open_among_censored_messages() {
        let values: Vec<u64> = (1..=980).collect();
        let latency = latency(&values, &[2000; 20]);
        let summary = LatencySummary::new(&latency, 0, |_| u64::MAX);
        // Binomial (1000, 0.5): P(B < 469) and P(B ≥ 532) are just below 2.5 %.
        assert_eq!(summary.ci95.p50_ns, Some([Some(469), Some(532)]));
        // Its upper rank 996 is among the censored ones, its lower one is, too.
        assert_eq!(summary.ci95.p99_ns.unwrap()[1], None);
        assert!(summary.ci95.p99_ns.unwrap()[0].unwrap() >= 2000);
        assert_eq!(summary.ci95.p999_ns, None);
        assert_eq!(summary.effective_count, Some(1000));
        // The same messages, worth twenty: only the middle is bounded on both sides.
        let summary = LatencySummary::new(&latency, 0, |_| 20);
        let [lower, upper] = summary.ci95.p50_ns.unwrap();
        assert!(lower.unwrap() < 300 && upper.unwrap() > 700, "{lower:?} {upper:?}");
        assert_eq!(summary.ci95.p95_ns.unwrap()[1], None);
        assert_eq!(summary.effective_count, Some(20));
    }

    #[test]
    fn the_histogram_survives_its_text() {
        let summary = LatencySummary::new(&latency(&[10, 20, 30], &[40]), 0, |_| 1000);
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&summary.hdr_v2_deflate_base64)
            .unwrap();
        let histogram: Histogram<u64> =
            hdrhistogram::serialization::Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!((histogram.len(), histogram.min(), histogram.max()), (4, 10, 40));
    }

    proptest! {
        // Each case makes and walks histograms of 33,000 counters, unoptimised.
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// The oracle sorts: the truth of each censored message is anything from t up.
        #[test]
        fn percentiles_are_exact_or_lower_bounds(
            values in prop::collection::vec(0u64..2000, 0..120),
            censored in prop::collection::vec((0u64..2000, 0u64..4000), 0..60),
        ) {
            let watched: Vec<u64> = censored.iter().map(|&(t, _)| t).collect();
            let summary = LatencySummary::new(&latency(&values, &watched), 0, |_| 1000);
            let mut truth = values.clone();
            truth.extend(censored.iter().map(|&(t, more)| t + more));
            truth.sort_unstable();
            for (name, percentile, told) in [
                ("p50_ns", 5_000, summary.p50_ns),
                ("p90_ns", 9_000, summary.p90_ns),
            ] {
                let count = truth.len() as u64;
                prop_assert_eq!(told.is_some(), is_supported(count, percentile));
                let Some(told) = told else { continue };
                let truth = truth[usize::try_from(rank(count, percentile)).unwrap() - 1];
                if summary.is_lower_bound(name) {
                    prop_assert!(told <= truth + truth / 500);
                } else {
                    prop_assert!(told.abs_diff(truth) <= truth / 500 + told / TOLERANCE, "{} {}", told, truth);
                }
            }
        }
    }
}
