//! Numbers as Prometheus reads them: the two text formats, the buckets of times, and the calls that
//! engine and generator make alike.
//!
//! Owns how a family is written, and which buckets a time falls into; leaves names and values to
//! each program, and HTTP to [`crate::desk`]. Invariants: both formats tell the same, and a family's
//! buckets are the same everywhere, so that histograms of several processes may be added.

use std::fmt::{self, Write as _};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric as _, MetricEncoder,
    NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
pub use prometheus_client::registry::Unit;

/// Upper bounds of the buckets of times, in nanoseconds: six a decade from 10 µs to 10 s, so that
/// a percentile between two of them is known to half its value at worst, and better on the mean.
pub const BOUNDS_NS: [u64; 37] = bounds();

/// Buckets of times: one for each bound, and one for what is longer than all of them.
pub const BUCKETS: usize = BOUNDS_NS.len() + 1;

const fn bounds() -> [u64; 37] {
    let steps = [10, 15, 20, 30, 50, 70];
    let (mut bounds, mut decade_ns, mut index) = ([0; 37], 1_000, 0);
    while index < bounds.len() {
        bounds[index] = steps[index % steps.len()] * decade_ns;
        index += 1;
        if index.is_multiple_of(steps.len()) {
            decade_ns *= 10;
        }
    }
    bounds
}

/// The bucket of a time.
pub fn bucket_of(ns: u64) -> usize {
    BOUNDS_NS.partition_point(|&bound| bound < ns)
}

/// A histogram of times as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// How many fell into each bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// All of them together.
    pub sum_ns: u64,
}

impl Default for Times {
    fn default() -> Self {
        Times { buckets: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Times {
    /// `count` more of them, each `ns` long.
    pub fn add(&mut self, ns: u64, count: u64) {
        self.buckets[bucket_of(ns)] += count;
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(count));
    }

    /// Those of another one, too.
    pub fn merge(&mut self, other: &Times) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, more)| *sum += more);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus 0.0.4, which everything reads.
    Classic,
}

impl Format {
    /// The one that an `Accept` header asks for.
    pub fn accepted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Classic
        }
    }

    /// The `Content-Type` of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes all families of a scrape.
pub trait Families: fmt::Debug + Send + Sync + 'static {
    /// Writes them, one after the other.
    ///
    /// # Errors
    /// Those of `page`, which are passed on.
    fn write(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// The metrics of a program, ready to be scraped.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

#[derive(Debug)]
struct Scrape<F>(F);

impl<F: Families> Collector for Scrape<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Page { encoder })
    }
}

impl Metrics {
    /// Those that `families` writes at each scrape.
    pub fn new(families: impl Families) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(families)));
        Metrics { registry }
    }

    /// The present numbers as text.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::new();
        let encoded = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        assert!(encoded.is_ok(), "a string takes all text");
        match format {
            Format::OpenMetrics => text,
            Format::Classic => classic(&text),
        }
    }

    /// Every metric as a table for people: name, type and meaning.
    pub fn table(&self) -> String {
        let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
        let mut meaning = "";
        let text = self.text(Format::Classic);
        for line in text.lines() {
            if let Some((_, help)) =
                line.strip_prefix("# HELP ").and_then(|told| told.split_once(' '))
            {
                meaning = help;
            } else if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').unwrap_or((told, ""));
                let _ = writeln!(table, "| `{name}` | {kind} | {meaning} |");
            }
        }
        table
    }
}

/// OpenMetrics as the older format, in which TYPE and HELP name a counter with its `_total`, an
/// info is a gauge, and units and the end are not marked.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told.split_once(' ');
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap_or((told, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                let _ = writeln!(out, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// Labels of one sample.
pub type Labels = [(&'static str, String)];

/// A scrape that is being written.
#[derive(Debug)]
pub struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

/// A family that is being written, and its kind.
#[derive(Debug)]
pub struct Family<'a> {
    encoder: MetricEncoder<'a>,
}

impl Page<'_> {
    /// Begins a family of counters; `_total` is added to the name, and the unit before it.
    ///
    /// # Errors
    /// There is no room for text, which never happens.
    pub fn counters<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
    ) -> Result<Family<'s>, fmt::Error> {
        self.family(name, help, unit, MetricType::Counter)
    }

    /// Begins a family of gauges.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn gauges<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
    ) -> Result<Family<'s>, fmt::Error> {
        self.family(name, help, unit, MetricType::Gauge)
    }

    /// Begins a family of histograms of times; `_seconds` is added to the name.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn times<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Family<'s>, fmt::Error> {
        self.family(name, help, Some(&Unit::Seconds), MetricType::Histogram)
    }

    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<Family<'s>, fmt::Error> {
        Ok(Family { encoder: self.encoder.encode_descriptor(name, help, unit, kind)? })
    }

    /// A gauge without labels.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        ConstGauge::new(value).encode(self.gauges(name, help, unit.as_ref())?.encoder)
    }

    /// A counter without labels.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        ConstCounter::new(value).encode(self.counters(name, help, unit.as_ref())?.encoder)
    }

    /// A constant 1 whose labels tell something.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn info(&mut self, name: &str, help: &str, labels: Vec<(String, String)>) -> fmt::Result {
        let family = self.encoder.encode_descriptor(name, help, None, MetricType::Info)?;
        Info::new(labels).encode(family)
    }
}

impl Family<'_> {
    /// A counter of the family.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn count(&mut self, labels: &Labels, value: impl EncodeCounterValue) -> fmt::Result {
        ConstCounter::new(value).encode(self.encoder.encode_family(&labels)?)
    }

    /// A gauge of the family.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn gauge(&mut self, labels: &Labels, value: impl EncodeGaugeValue) -> fmt::Result {
        ConstGauge::new(value).encode(self.encoder.encode_family(&labels)?)
    }

    /// A histogram of the family.
    ///
    /// # Errors
    /// As [`Page::counters`].
    pub fn times(&mut self, labels: &Labels, times: &Times) -> fmt::Result {
        let bounds = BOUNDS_NS.iter().map(|&ns| seconds(ns)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(times.buckets).collect();
        let (sum, count) = (seconds(times.sum_ns), times.count());
        match labels.is_empty() {
            true => self.encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
            false => self
                .encoder
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
        }
    }
}

/// As Prometheus wants times.
pub fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_is_not_too_small() {
        assert_eq!(BOUNDS_NS[0], 10_000);
        assert_eq!(BOUNDS_NS[BOUNDS_NS.len() - 1], 10_000_000_000);
        assert!(BOUNDS_NS.is_sorted());
        for (index, &bound) in BOUNDS_NS.iter().enumerate() {
            assert_eq!((bucket_of(bound), bucket_of(bound + 1)), (index, index + 1));
        }
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BUCKETS - 1));
    }

    #[derive(Debug)]
    struct Sample(Times);

    impl Families for Sample {
        fn write(&self, page: &mut Page<'_>) -> fmt::Result {
            page.counter("a_read", "Read.", Some(Unit::Bytes), 7_u64)?;
            page.times("a_write", "Writing.")?.times(&[], &self.0)?;
            let labels = [("kind", "x".to_owned())];
            page.times("a_wait", "Waiting.")?.times(&labels, &self.0)?;
            page.info("a_build", "Built.", vec![("version".into(), "1".into())])
        }
    }

    #[test]
    fn both_formats_tell_the_same_and_buckets_are_cumulative() {
        let mut times = Times::default();
        times.add(20_000, 3);
        times.add(1_000_000, 1);
        times.add(u64::MAX, 1);
        assert_eq!(times.count(), 5);
        let metrics = Metrics::new(Sample(times));
        let classic = metrics.text(Format::Classic);
        for line in [
            "# TYPE a_read_bytes_total counter",
            "a_read_bytes_total 7",
            "# TYPE a_write_seconds histogram",
            r#"a_write_seconds_bucket{le="+Inf"} 5"#,
            "a_write_seconds_count 5",
            r#"a_wait_seconds_bucket{le="0.001",kind="x"} 4"#,
            "# TYPE a_build_info gauge",
        ] {
            assert!(classic.lines().any(|other| other == line), "no {line} in {classic}");
        }
        let new = metrics.text(Format::OpenMetrics);
        assert!(new.ends_with("# EOF\n") && new.contains("# TYPE a_read_bytes counter"), "{new}");
        assert!(metrics.table().contains("| `a_wait_seconds` | histogram | Waiting. |"));
    }
}
