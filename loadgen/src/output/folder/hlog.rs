//! `latency.hlog`: each second's histograms in HdrHistogram's interval log, version 1.3.
//!
//! Lines without a tag are response times, `Tag=service` and `Tag=lag` the other two; values are
//! nanoseconds, and the "Interval_Max" of a line is in milliseconds, as the tools expect it. Owns the
//! format. What was given up counts as "at least t", at t.
//! Invariant: the sum of the lines of a tag is the histogram of the summary, if the run got to its
//! end; what came after the last whole second is the last line.

use std::io;
use std::path::Path;

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use loadgen::Manifest;
use loadgen::measure::latencies::histogram;
use loadgen::summary::{LatencySummary, Summary};

use super::Growing;

/// A kind of latency, and its tag.
const TAGS: [Option<&str>; 3] = [None, Some("service"), Some("lag")];

/// Response, service and lag of one second.
pub(crate) type Three = [Histogram<u64>; 3];

/// The file.
#[derive(Debug)]
pub(crate) struct Hlog {
    file: Growing,
    /// End of the last interval, ns since the start.
    end_ns: u64,
    /// All lines so far.
    sums: Three,
}

impl Hlog {
    /// Begins it.
    pub(crate) fn create(path: &Path, manifest: &Manifest) -> io::Result<Hlog> {
        let mut file = Growing::create(path)?;
        let started_at: Option<jiff::Timestamp> = manifest.started_at.parse().ok();
        let seconds = started_at.map_or(0.0, |at| at.as_duration().as_secs_f64());
        let header = format!(
            "#[Histogram log format version 1.3]\n\
             #[{} {}, run {}: nanoseconds since due; Tag=service since sent, Tag=lag due to sent]\n\
             #[StartTime: {seconds:.3} (seconds since epoch), {}]\n\
             #[BaseTime: {seconds:.3} (seconds since epoch)]\n\
             \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
             \"Interval_Compressed_Histogram\"\n",
            manifest.tool.name, manifest.tool.version, manifest.run_id, manifest.started_at,
        );
        file.append(&header)?;
        Ok(Hlog { file, end_ns: 0, sums: std::array::from_fn(|_| histogram()) })
    }

    /// What was recorded up to `end_ns`.
    pub(crate) fn append(&mut self, end_ns: u64, three: &Three) -> io::Result<()> {
        let mut lines = String::new();
        for ((histogram, sum), tag) in three.iter().zip(&mut self.sums).zip(TAGS) {
            sum.add(histogram).map_err(io::Error::other)?;
            if tag.is_none() || !histogram.is_empty() {
                lines.push_str(&line(tag, self.end_ns, end_ns, histogram)?);
            }
        }
        self.end_ns = end_ns;
        self.file.append(&lines)
    }

    /// What the summary has beyond the seconds that were told, and safe.
    pub(crate) fn finish(mut self, summary: &Summary) -> io::Result<()> {
        let latency = &summary.latency;
        let totals = [&latency.response, &latency.service, &latency.lag].map(decoded);
        let mut rest = Vec::new();
        for (total, sum) in totals.into_iter().zip(&self.sums) {
            let mut total = total?;
            total.subtract(sum).map_err(io::Error::other)?;
            rest.push(total);
        }
        let rest: Three = rest.try_into().expect("three kinds");
        if rest.iter().any(|histogram| !histogram.is_empty()) {
            self.append(summary.duration_ns.max(self.end_ns), &rest)?;
        }
        self.file.finish()
    }
}

fn line(
    tag: Option<&str>,
    begin_ns: u64,
    end_ns: u64,
    histogram: &Histogram<u64>,
) -> io::Result<String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).map_err(io::Error::other)?;
    let seconds = |ns: u64| ns as f64 / 1e9;
    Ok(format!(
        "{}{:.3},{:.3},{:.3},{}\n",
        tag.map(|tag| format!("Tag={tag},")).unwrap_or_default(),
        seconds(begin_ns),
        seconds(end_ns.saturating_sub(begin_ns)),
        histogram.max() as f64 / 1e6,
        base64::engine::general_purpose::STANDARD.encode(bytes),
    ))
}

fn decoded(latency: &LatencySummary) -> io::Result<Histogram<u64>> {
    let text = &latency.hdr_v2_deflate_base64;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(io::Error::other)?;
    // The parser wants a histogram of the bounds that we subtract from, which add and resize.
    let mut sum = histogram();
    let read: Histogram<u64> =
        Deserializer::new().deserialize(&mut &bytes[..]).map_err(io::Error::other)?;
    sum.add(read).map_err(io::Error::other)?;
    Ok(sum)
}

#[cfg(test)]
pub(crate) mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    /// Tag, begin and end in milliseconds, and values of each interval.
    type Interval = (Option<String>, u128, u128, Histogram<u64>);

    /// Reads a log as the standard tools do.
    pub(crate) fn parse(log: &[u8]) -> (Option<f64>, Vec<Interval>) {
        let (mut base, mut intervals) = (None, Vec::new());
        for entry in IntervalLogIterator::new(log) {
            match entry.expect("every line can be parsed") {
                LogEntry::BaseTime(time) => base = Some(time.as_secs_f64()),
                LogEntry::StartTime(_) => {}
                LogEntry::Interval(interval) => {
                    let bytes = base64::engine::general_purpose::STANDARD
                        .decode(interval.encoded_histogram())
                        .unwrap();
                    let histogram = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
                    let begin = interval.start_timestamp();
                    let end = begin + interval.duration();
                    let tag = interval.tag().map(|tag| tag.as_str().to_owned());
                    intervals.push((tag, begin.as_millis(), end.as_millis(), histogram));
                }
            }
        }
        (base, intervals)
    }

    fn with(values: &[u64]) -> Histogram<u64> {
        let mut histogram = histogram();
        values.iter().for_each(|&value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn the_parser_of_the_library_reads_it() {
        let first = line(None, 0, 1_000_000_000, &with(&[5_000_000, 7])).unwrap();
        let second = line(Some("lag"), 1_000_000_000, 1_500_000_000, &with(&[])).unwrap();
        let log = format!("#[BaseTime: 12.500 (seconds since epoch)]\n{first}{second}");
        assert!(first.contains(",5.0"), "the largest in milliseconds: {first}");
        let (base, intervals) = parse(log.as_bytes());
        assert_eq!((base, intervals.len()), (Some(12.5), 2));
        let (tag, begin, end, histogram) = &intervals[0];
        assert_eq!((tag, *begin, *end, histogram.len()), (&None, 0, 1000, 2));
        let (tag, begin, end, histogram) = &intervals[1];
        assert_eq!((tag.as_deref(), *begin, *end, histogram.len()), (Some("lag"), 1000, 1500, 0));
    }
}
