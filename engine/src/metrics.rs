//! The engine's numbers as Prometheus reads them.
//!
//! One family for each counter of a shard, and some for the process, the disk and the build, made
//! anew at each scrape from a [`Status`]. Invariant: every name starts with `logboom_engine_`
//! (those of the process with `process_`, as everywhere), ends with its unit, and counters with
//! `_total`.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric as _, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::counters::Counter;
use crate::space::Space;
use crate::status::{Process, Status, connections};

/// Settings that explain numbers, and so are shown beside them.
const SETTINGS: &[&str] = &[
    "DURABILITY",
    "ENABLE_PERSISTENCE",
    "ENABLE_TLS",
    "ENABLE_UDP",
    "MIN_LOG_LEVEL",
    "OVERLOAD",
    "CIRCUIT_BREAKER_ENABLED",
    "COMMIT_BYTES_MAX",
    "MEMORY_BYTES_MAX",
    "CONNECTIONS_MAX",
];

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus 0.0.4, which everything reads.
    Classic,
}

impl Format {
    /// The one that an `Accept` header asks for.
    pub(crate) fn accepted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") {
            Format::OpenMetrics
        } else {
            Format::Classic
        }
    }

    /// The `Content-Type` of the text.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The metrics of an engine, ready to be scraped.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Of the engine behind `status`.
    pub(crate) fn new(status: Arc<Status>) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape { status }));
        Metrics { registry }
    }

    /// The present numbers as text.
    pub(crate) fn text(&self, format: Format) -> String {
        let mut text = String::new();
        let encoded = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        assert!(encoded.is_ok(), "a string takes all text");
        match format {
            Format::OpenMetrics => text,
            Format::Classic => classic(&text),
        }
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

/// Where a counter of a shard is shown.
struct Place {
    /// The name of its family without prefix, unit and `_total`.
    stem: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    /// Which of the family's it is, where it shares one.
    task: Option<&'static str>,
}

fn place(counter: Counter) -> Place {
    let counts = |stem| Place { stem, unit: None, kind: MetricType::Counter, task: None };
    let stands = |stem| Place { kind: MetricType::Gauge, ..counts(stem) };
    let stalls = |task| Place { task: Some(task), ..counts("stalls") };
    match counter {
        Counter::Received => counts("messages_received"),
        Counter::Ok => counts("messages_ok"),
        Counter::Filtered => counts("messages_filtered"),
        Counter::Error => counts("messages_error"),
        Counter::InFlight => stands("messages_in_flight"),
        Counter::BytesRead => Place { unit: Some(Unit::Bytes), ..counts("read") },
        Counter::BytesInflated => Place { unit: Some(Unit::Bytes), ..counts("inflated") },
        Counter::MemoryHeld => Place { unit: Some(Unit::Bytes), ..stands("memory_held") },
        Counter::BreakersOpen | Counter::StorageDead => stands(counter.name()),
        Counter::StallsConnection => stalls("connection"),
        Counter::StallsListener => stalls("listener"),
        Counter::StallsFlusher => stalls("flusher"),
        Counter::StallsKeeper => stalls("keeper"),
        Counter::StallsDatagrams => stalls("datagrams"),
        _ => counts(counter.name()),
    }
}

/// All families of one scrape.
#[derive(Debug)]
struct Scrape {
    status: Arc<Status>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder };
        self.shards(&mut families)?;
        self.engine(&mut families)?;
        match Process::read() {
            Some(process) => process_families(&process, &mut families),
            None => Ok(()),
        }
    }
}

impl Scrape {
    fn shards(&self, families: &mut Families<'_>) -> fmt::Result {
        let shards = self.status.snapshots();
        // Those of one family stand side by side; the first one's help is the family's.
        for counters in Counter::ALL.chunk_by(|&one, &next| place(one).stem == place(next).stem) {
            let Place { stem, unit, kind, .. } = place(counters[0]);
            let (name, help) = (format!("logboom_engine_{stem}"), counters[0].help());
            let mut family =
                families.encoder.encode_descriptor(&name, help, unit.as_ref(), kind)?;
            for &counter in counters {
                for (shard, snapshot) in shards.iter().enumerate() {
                    let mut labels = vec![("shard", shard.to_string())];
                    labels.extend(place(counter).task.map(|task| ("task", task.to_owned())));
                    match kind {
                        MetricType::Gauge => gauge(&mut family, &labels, snapshot.get(counter))?,
                        _ => count(&mut family, &labels, snapshot.get(counter))?,
                    }
                }
            }
        }
        let help = "Connections that are open.";
        let mut family = families.gauge("logboom_engine_connections", help, None)?;
        for (shard, snapshot) in shards.iter().enumerate() {
            gauge(&mut family, &[("shard", shard.to_string())], connections(snapshot))?;
        }
        Ok(())
    }

    fn engine(&self, families: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        let ready = u64::from(status.hindrances().is_empty());
        families.single("logboom_engine_ready", "1 while /readyz says so.", None, ready)?;
        let uptime = status.uptime_secs();
        let seconds = Some(Unit::Seconds);
        families.single("logboom_engine_uptime", "Time since the start.", seconds, uptime)?;
        if let Some(free) = status.free_bytes() {
            let help = "Free on the file system of LOG_DIR.";
            families.single("logboom_engine_log_dir_free", help, Some(Unit::Bytes), free)?;
        }
        let version = vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        families.info("logboom_engine_build", "What was built.", version)?;
        let settings = SETTINGS.iter().map(|name| (name.to_lowercase(), status.setting(name)));
        families.info(
            "logboom_engine_settings",
            "Knobs that explain the other numbers.",
            settings.collect(),
        )
    }
}

/// Named as Prometheus clients do everywhere.
fn process_families(process: &Process, families: &mut Families<'_>) -> fmt::Result {
    let Process { cpu_secs, resident_bytes, threads, fds, fds_max, started_unix_secs } = *process;
    let (seconds, bytes) = (Some(&Unit::Seconds), Some(Unit::Bytes));
    let help = "User and system time of the process.";
    let family =
        families.encoder.encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?;
    ConstCounter::new(cpu_secs).encode(family)?;
    families.single("process_resident_memory", "Resident memory.", bytes, resident_bytes)?;
    families.single("process_threads", "Threads.", None, threads)?;
    families.single("process_open_fds", "Open descriptors.", None, fds)?;
    if let Some(fds_max) = fds_max {
        families.single("process_max_fds", "The soft limit on descriptors.", None, fds_max)?;
    }
    let help = "Start of the process, since 1970.";
    families.single("process_start_time", help, Some(Unit::Seconds), started_unix_secs)
}

type Labels = [(&'static str, String)];

fn gauge(
    family: &mut MetricEncoder<'_>,
    labels: &Labels,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    ConstGauge::new(value).encode(family.encode_family(&labels)?)
}

fn count(
    family: &mut MetricEncoder<'_>,
    labels: &Labels,
    value: impl EncodeCounterValue,
) -> fmt::Result {
    ConstCounter::new(value).encode(family.encode_family(&labels)?)
}

/// Where families go.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn gauge<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)
    }

    /// A gauge without labels.
    fn single(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        ConstGauge::new(value).encode(self.gauge(name, help, unit.as_ref())?)
    }

    fn info(&mut self, name: &str, help: &str, labels: Vec<(String, String)>) -> fmt::Result {
        let family = self.encoder.encode_descriptor(name, help, None, MetricType::Info)?;
        Info::new(labels).encode(family)
    }
}

/// Every metric as a table for people: name, type and meaning.
pub fn table() -> String {
    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    let status = Status::specimen();
    status.recovered(&[], &Arc::new(Space::seen(0)));
    let text = Metrics::new(Arc::new(status)).text(Format::Classic);
    let mut meaning = "";
    for line in text.lines() {
        if let Some((_, help)) = line.strip_prefix("# HELP ").and_then(|told| told.split_once(' '))
        {
            meaning = help;
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap_or((told, ""));
            let _ = writeln!(table, "| `{name}` | {kind} | {meaning} |");
        }
    }
    table
}
