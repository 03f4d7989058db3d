//! The whole run: as data that other programs read, and as text with the verdict first.
//!
//! Owns percentiles, and what of them may be said. Leaves counting to [`super::recorder`].
//!
//! - A percentile needs [`BEYOND_MIN`] messages at or beyond it (p99 a thousand messages, p99.9 ten
//!   thousand); with fewer it is `null`, because chance alone would move it.
//! - A censored message is counted at the time up to which it was watched. Where the true times
//!   of all of them could move a percentile by more than a hundredth, that percentile is a *lower
//!   bound*: listed in `lower_bounds`, and printed as "> t".

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::progress::Second;
use super::recorder::{self, Counts, Latencies, Latency};
use super::resources::Resources;

/// The version of the JSON document; it changes when a field changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;
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

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ran as asked, and the threshold held.
    Pass,
    /// More messages failed than MAX_ERROR_RATE allows.
    Fail,
    /// The generator cannot vouch for the figures.
    Invalid,
    /// A signal cut it short.
    Interrupted,
    /// No connection to the target for CONNECT_TIMEOUT_SECS.
    Unreachable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Invalid => "INVALID",
            Verdict::Interrupted => "INTERRUPTED",
            Verdict::Unreachable => "UNREACHABLE",
        })
    }
}

/// Who measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `logboom-loadgen`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Counts of messages: `offered = sent + unsent`,
/// `sent = ok + filtered + error + unanswered + unacknowledged`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Due within the run.
    pub offered: u64,
    /// Handed to a connection, or refused one.
    pub sent: u64,
    /// Answered `ok`.
    pub ok: u64,
    /// Answered `filtered`.
    pub filtered: u64,
    /// Failed: Σ `errors`.
    pub error: u64,
    /// Sent, and not answered up to the end.
    pub unanswered: u64,
    /// Sent over a protocol that has no replies (UDP): what became of them is not known here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unacknowledged: u64,
    /// Due, and not sent.
    pub unsent: u64,
}

impl Load {
    /// The counts of a run that is over.
    pub fn new(counts: &Counts) -> Load {
        assert_eq!(counts.in_flight(), 0, "a run is over when everything is settled");
        let Counts { sent, ok, filtered, errors: _, unanswered, unacknowledged, unsent } = *counts;
        Load {
            offered: sent + unsent,
            sent,
            ok,
            filtered,
            error: counts.error(),
            unanswered,
            unacknowledged,
            unsent,
        }
    }

    /// The share of the offered messages that failed, were left unanswered, or were not sent.
    pub fn error_rate(&self) -> f64 {
        share(self.error + self.unanswered + self.unsent, self.offered)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `part / whole`, and 0 of nothing.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Messages a second over `duration_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Offered, over the time in which load was offered.
    pub offered_per_s: f64,
    /// Answered `ok` or `filtered` (or sent, where nothing is answered), over the run's duration.
    pub achieved_per_s: f64,
}

/// The three kinds of latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummaries {
    /// done − due: what a user of the target feels.
    pub response: LatencySummary,
    /// done − sent: what the target and the network took.
    pub service: LatencySummary,
    /// sent − due: what the generator, or a stalled connection, took.
    pub lag: LatencySummary,
}

impl LatencySummaries {
    /// Sums up merged latencies.
    pub fn new(latencies: &Latencies) -> LatencySummaries {
        LatencySummaries {
            response: LatencySummary::new(&latencies.response),
            service: LatencySummary::new(&latencies.service),
            lag: LatencySummary::new(&latencies.lag),
        }
    }
}

/// One kind of latency. `None` is what the sample cannot support.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The histogram, censored messages at t: HdrHistogram's V2 format, deflated, base64.
    pub hdr_v2_deflate_base64: String,
}

impl LatencySummary {
    /// Sums up merged values.
    pub fn new(latency: &Latency) -> LatencySummary {
        let mut all = latency.values.clone();
        recorder::add(&mut all, &latency.censored);
        let (count, censored) = (all.len(), latency.censored.len());
        let mut summary = LatencySummary {
            count,
            censored,
            hdr_v2_deflate_base64: encode(&all),
            ..LatencySummary::default()
        };
        if count == 0 {
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
        for (name, percentile) in PERCENTILES {
            if !is_supported(count, percentile) {
                continue;
            }
            let rank = rank(count, percentile);
            let at_least = value_at_rank(&all, rank).expect("the rank is within the count");
            // Were every censored message endless, the rank would fall here.
            let at_most = value_at_rank(&latency.values, rank);
            if at_most.is_none_or(|at_most| at_most > at_least + at_least / TOLERANCE) {
                summary.lower_bounds.push(name.to_owned());
            }
            *summary.field_mut(name) = Some(at_least);
        }
        if censored > 0 {
            summary.lower_bounds.push("mean_ns".to_owned());
            if latency.censored.max() >= latency.values.max() || latency.values.is_empty() {
                summary.lower_bounds.push("max_ns".to_owned());
            }
        }
        summary
    }

    /// Whether `field` (`"p99_ns"`) is only a lower bound.
    pub fn is_lower_bound(&self, field: &str) -> bool {
        self.lower_bounds.iter().any(|bound| bound == field)
    }

    fn field_mut(&mut self, name: &str) -> &mut Option<u64> {
        match name {
            "p50_ns" => &mut self.p50_ns,
            "p90_ns" => &mut self.p90_ns,
            "p95_ns" => &mut self.p95_ns,
            "p99_ns" => &mut self.p99_ns,
            "p999_ns" => &mut self.p999_ns,
            "p9999_ns" => &mut self.p9999_ns,
            _ => unreachable!("{name} is not a percentile"),
        }
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

/// A run, summed up: the JSON document, field by field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who measured.
    pub tool: Tool,
    /// What it came to.
    pub verdict: Verdict,
    /// Every knob as it was resolved.
    pub config: serde_json::Value,
    /// What fixes payloads and jitter.
    pub seed: u64,
    /// Where it ran.
    pub environment: Environment,
    /// When, UTC.
    pub started_at: String,
    /// From the start to the end of the load or the last reply, whichever was later.
    pub duration_ns: u64,
    /// Counts of messages.
    pub load: Load,
    /// Messages a second.
    pub rate: Rate,
    /// Times.
    pub latency: LatencySummaries,
    /// Failed messages by code.
    pub errors: BTreeMap<String, u64>,
    /// What it cost.
    pub resources: Resources,
    /// Each second.
    pub series: Vec<Second>,
}

impl Summary {
    /// The summary as text: verdict, one sentence, tables. Lines end in `\n`.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a string does not fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> fmt::Result {
        let Load { offered, sent, ok, filtered, error, unanswered, unacknowledged, unsent } =
            self.load;
        if unacknowledged > 0 {
            writeln!(
                out,
                "{}: {} of {} messages sent in {}, {} a second; UDP has no replies: how many arrived, only the target knows",
                self.verdict,
                thousands(unacknowledged),
                thousands(offered),
                time(self.duration_ns),
                rate(self.rate.achieved_per_s),
            )?;
        } else {
            writeln!(
                out,
                "{}: {} of {} messages ok in {}, {} a second, response p99 {}",
                self.verdict,
                thousands(ok),
                thousands(offered),
                time(self.duration_ns),
                rate(self.rate.achieved_per_s),
                self.latency.response.cell("p99_ns", self.latency.response.p99_ns),
            )?;
        }
        writeln!(out)?;
        let row = |out: &mut String, cells: [&str; 8]| {
            let [name, rest @ ..] = cells;
            write!(out, "  {name:<9}")?;
            for cell in rest {
                write!(out, " {cell:>11}")?;
            }
            out.truncate(out.trim_end().len());
            writeln!(out)
        };
        row(out, ["", "offered", "sent", "ok", "filtered", "error", "unanswered", "unsent"])?;
        let counts = [offered, sent, ok, filtered, error, unanswered, unsent].map(thousands);
        let [a, b, c, d, e, f, g] = counts.each_ref().map(String::as_str);
        row(out, ["messages", a, b, c, d, e, f, g])?;
        let (offered_rate, achieved) =
            (rate(self.rate.offered_per_s), rate(self.rate.achieved_per_s));
        row(out, ["a second", &offered_rate, "", &achieved, "", "", "", ""])?;
        writeln!(out)?;
        row(out, ["", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"])?;
        for (name, latency) in [
            ("response", &self.latency.response),
            ("service", &self.latency.service),
            ("lag", &self.latency.lag),
        ] {
            let cells = [
                latency.cell("p50_ns", latency.p50_ns),
                latency.cell("p90_ns", latency.p90_ns),
                latency.cell("p95_ns", latency.p95_ns),
                latency.cell("p99_ns", latency.p99_ns),
                latency.cell("p999_ns", latency.p999_ns),
                latency.cell("p9999_ns", latency.p9999_ns),
                latency.cell("max_ns", latency.max_ns),
            ];
            let [a, b, c, d, e, f, g] = cells.each_ref().map(String::as_str);
            row(out, [name, a, b, c, d, e, f, g])?;
        }
        writeln!(out)?;
        if !self.errors.is_empty() {
            let errors: Vec<String> = self
                .errors
                .iter()
                .map(|(code, &count)| format!("{code} {}", thousands(count)))
                .collect();
            writeln!(out, "  errors     {}", errors.join(", "))?;
        }
        if self.latency.response.censored > 0 {
            writeln!(
                out,
                "  censored   {} messages count as \"at least t\"; > marks what they could move",
                thousands(self.latency.response.censored)
            )?;
        }
        let Resources { cpu_user_s, cpu_system_s, rss_peak_bytes } = self.resources;
        writeln!(
            out,
            "  cost       {:.3} CPU-seconds ({cpu_user_s:.3} user, {cpu_system_s:.3} system), \
             {:.1} MiB",
            cpu_user_s + cpu_system_s,
            rss_peak_bytes as f64 / f64::from(1 << 20)
        )?;
        if self.environment.build == "debug" {
            writeln!(out, "  note       this is a debug build: its figures say little")?;
        }
        Ok(())
    }
}

impl LatencySummary {
    /// `412 µs`, `> 1.00 s`, or `-` where the sample does not support it.
    fn cell(&self, field: &str, value: Option<u64>) -> String {
        match value {
            None => "-".to_owned(),
            Some(ns) if self.is_lower_bound(field) => format!("> {}", time(ns)),
            Some(ns) => time(ns),
        }
    }
}

/// Three significant digits with a unit: `0.95 µs` would be `950 ns`.
pub(crate) fn time(ns: u64) -> String {
    let value = ns as f64;
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (value / 1e3, "µs"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    match value {
        ..9.995 => format!("{value:.2} {unit}"),
        ..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// `1,234,567`.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate: whole from a hundred up.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s < 99.95 {
        return format!("{per_s:.1}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    thousands(per_s.round() as u64)
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
        let summary = LatencySummary::new(&latency(&[], &[]));
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
            let summary = LatencySummary::new(&latency(&vec![5; count], &[]));
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
        let summary = LatencySummary::new(&latency(&values, &[2000; 20]));
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
        let summary = LatencySummary::new(&latency(&values, &[1; 20]));
        assert!(summary.is_lower_bound("p50_ns"));
        assert_eq!(summary.p50_ns, Some(480));
    }

    #[test]
    fn the_histogram_survives_its_text() {
        let summary = LatencySummary::new(&latency(&[10, 20, 30], &[40]));
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&summary.hdr_v2_deflate_base64)
            .unwrap();
        let histogram: Histogram<u64> =
            hdrhistogram::serialization::Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!((histogram.len(), histogram.min(), histogram.max()), (4, 10, 40));
    }

    #[test]
    fn times_have_three_digits() {
        let texts =
            [0, 999, 1_000, 12_345, 999_499, 1_234_567, 99_960_000, 61_000_000_000].map(time);
        let expected =
            ["0 ns", "999 ns", "1.00 µs", "12.3 µs", "999 µs", "1.23 ms", "100 ms", "61.0 s"];
        assert_eq!(texts, expected);
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        assert_eq!((rate(12.34), rate(1234.5)), ("12.3".to_owned(), "1,235".to_owned()));
    }

    #[test]
    fn the_text_says_the_verdict_first_and_marks_lower_bounds() {
        let mut latencies = Latencies::default();
        for ns in 1..=1980 {
            latencies.response.values.saturating_record(ns * 1_000);
            latencies.service.values.saturating_record(ns * 500);
            latencies.lag.values.saturating_record(ns * 500);
        }
        for _ in 0..20 {
            latencies.response.censored.saturating_record(3_000_000_000);
            latencies.lag.censored.saturating_record(3_000_000_000);
        }
        let load =
            Load { offered: 2000, sent: 1995, ok: 1980, error: 15, unsent: 5, ..Load::default() };
        let summary = Summary {
            schema_version: SCHEMA_VERSION,
            tool: Tool { name: "logboom-loadgen".into(), version: "0.1.0".into() },
            verdict: Verdict::Pass,
            config: serde_json::Value::Null,
            seed: 1,
            environment: Environment { build: "release".into(), ..Environment::default() },
            started_at: "2026-11-21T03:53:57Z".into(),
            duration_ns: 2_000_000_000,
            load,
            rate: Rate { offered_per_s: 1000.0, achieved_per_s: 990.0 },
            latency: LatencySummaries::new(&latencies),
            errors: BTreeMap::from([("overloaded".into(), 10), ("reset".into(), 5)]),
            resources: Resources { cpu_user_s: 0.25, cpu_system_s: 0.5, rss_peak_bytes: 30 << 20 },
            series: Vec::new(),
        };
        let expected = "\
PASS: 1,980 of 2,000 messages ok in 2.00 s, 990 a second, response p99 1.98 ms

                offered        sent          ok    filtered       error  unanswered      unsent
  messages        2,000       1,995       1,980           0          15           0           5
  a second        1,000                     990

                    p50         p90         p95         p99       p99.9      p99.99         max
  response      1.00 ms     1.80 ms     1.90 ms     1.98 ms           -           -    > 3.00 s
  service        495 µs      891 µs      941 µs      981 µs           -           -      990 µs
  lag            500 µs      900 µs      950 µs      990 µs           -           -    > 3.00 s

  errors     overloaded 10, reset 5
  censored   20 messages count as \"at least t\"; > marks what they could move
  cost       0.750 CPU-seconds (0.250 user, 0.500 system), 30.0 MiB
";
        assert_eq!(summary.text(), expected);
        let json = serde_json::to_string(&summary).expect("plain data");
        assert_eq!(serde_json::from_str::<Summary>(&json).expect("the same data"), summary);
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
            let summary = LatencySummary::new(&latency(&values, &watched));
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
