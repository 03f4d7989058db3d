//! The engine's numbers as Prometheus reads them.
//!
//! One family for each counter of a shard, and some for the process, the disk and the build, made
//! anew at each scrape from a [`Status`]. Invariant: every name starts with `logboom_engine_`
//! (those of the process with `process_`, as everywhere), ends with its unit, and counters with
//! `_total`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use runtime::exposition::{Families, Metrics, Page, Times, Unit};
use runtime::process;

use crate::counters::Counter;
use crate::sink::file::pack::Packed;
use crate::space::Space;
use crate::status::{Limits, Status, connections};
use crate::times::Timed;

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

/// The metrics of the engine behind `status`.
pub(crate) fn of(status: Arc<Status>) -> Metrics {
    Metrics::new(Scrape { status })
}

/// What kind of number a counter of a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// Where a counter of a shard is shown.
struct Place {
    /// The name of its family without prefix, unit and `_total`.
    stem: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    /// Which of the family's it is, where it shares one.
    label: Option<(&'static str, &'static str)>,
}

fn place(counter: Counter) -> Place {
    let counts = |stem| Place { stem, unit: None, kind: Kind::Counter, label: None };
    let stands = |stem| Place { kind: Kind::Gauge, ..counts(stem) };
    let stalls = |task| Place { label: Some(("task", task)), ..counts("stalls") };
    match counter {
        Counter::Received => counts("messages_received"),
        Counter::Ok => counts("messages_ok"),
        Counter::Filtered => counts("messages_filtered"),
        Counter::Error => counts("messages_error"),
        Counter::InvalidJson
        | Counter::InvalidUtf8
        | Counter::NotAnObject
        | Counter::MissingField
        | Counter::InvalidField
        | Counter::TooLong => {
            Place { label: Some(("code", counter.name())), ..counts("messages_rejected") }
        }
        Counter::StorageFailed => counts("messages_storage_failed"),
        Counter::InFlight => stands("messages_in_flight"),
        Counter::BytesRead => Place { unit: Some(Unit::Bytes), ..counts("read") },
        Counter::BytesWritten => Place { unit: Some(Unit::Bytes), ..counts("written") },
        Counter::BytesInflated => Place { unit: Some(Unit::Bytes), ..counts("inflated") },
        Counter::MemoryHeld => Place { unit: Some(Unit::Bytes), ..stands("memory_held") },
        Counter::BreakerState | Counter::BreakersOpen | Counter::StorageDead => {
            stands(counter.name())
        }
        Counter::StallsConnection => stalls("connection"),
        Counter::StallsListener => stalls("listener"),
        Counter::StallsFlusher => stalls("flusher"),
        Counter::StallsKeeper => stalls("keeper"),
        Counter::StallsDatagrams => stalls("datagrams"),
        _ => counts(counter.name()),
    }
}

/// Name and help of a histogram.
fn told(timed: Timed) -> (&'static str, &'static str) {
    match timed {
        Timed::Reply => (
            "logboom_engine_reply",
            "From reading a message to knowing its fate, of those promised written or durable.",
        ),
        Timed::Write => ("logboom_engine_write", "Writes of the sink, one a commit."),
        Timed::Sync => ("logboom_engine_sync", "Syncs of the sink (fdatasync)."),
    }
}

/// All families of one scrape.
#[derive(Debug)]
struct Scrape {
    status: Arc<Status>,
}

impl Families for Scrape {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        self.shards(page)?;
        self.times(page)?;
        self.engine(page)?;
        process::families(page)
    }
}

impl Scrape {
    fn shards(&self, page: &mut Page<'_>) -> fmt::Result {
        let shards = self.status.snapshots();
        // Those of one family stand side by side; the first one's help is the family's.
        for counters in Counter::ALL.chunk_by(|&one, &next| place(one).stem == place(next).stem) {
            let Place { stem, unit, kind, .. } = place(counters[0]);
            let (name, help) = (format!("logboom_engine_{stem}"), counters[0].help());
            let mut family = match kind {
                Kind::Counter => page.counters(&name, help, unit.as_ref())?,
                Kind::Gauge => page.gauges(&name, help, unit.as_ref())?,
            };
            for &counter in counters {
                for (shard, snapshot) in shards.iter().enumerate() {
                    let mut labels = vec![("shard", shard.to_string())];
                    labels.extend(place(counter).label.map(|(key, value)| (key, value.to_owned())));
                    match kind {
                        Kind::Counter => family.count(&labels, snapshot.get(counter))?,
                        Kind::Gauge => family.gauge(&labels, snapshot.get(counter))?,
                    }
                }
            }
        }
        let help = "Connections that are open.";
        let mut family = page.gauges("logboom_engine_connections", help, None)?;
        for (shard, snapshot) in shards.iter().enumerate() {
            family.gauge(&[("shard", shard.to_string())], connections(snapshot))?;
        }
        Ok(())
    }

    /// All shards together: with the buckets of each they would be most of the scrape.
    fn times(&self, page: &mut Page<'_>) -> fmt::Result {
        for timed in Timed::ALL {
            let mut times = Times::default();
            self.status.times(timed).for_each(|of_shard| times.merge(&of_shard));
            let (name, help) = told(timed);
            page.times(name, help)?.times(&[], &times)?;
        }
        Ok(())
    }

    fn engine(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = &self.status;
        let ready = u64::from(status.hindrances().is_empty());
        page.gauge("logboom_engine_ready", "1 while /readyz says so.", None, ready)?;
        let uptime = status.uptime_secs();
        let seconds = Some(Unit::Seconds);
        page.gauge("logboom_engine_uptime", "Time since the start.", seconds, uptime)?;
        if let Some(free) = status.free_bytes() {
            let help = "Free on the file system of LOG_DIR.";
            page.gauge("logboom_engine_log_dir_free", help, Some(Unit::Bytes), free)?;
        }
        let Packed { segments, bytes_before, bytes_after } = &*status.packed;
        for (name, help, unit, value) in [
            ("packed_segments", "Closed segments that were packed.", None, segments),
            ("packed_before", "Their size before.", Some(Unit::Bytes), bytes_before),
            ("packed_after", "Their size afterwards.", Some(Unit::Bytes), bytes_after),
        ] {
            let name = format!("logboom_engine_{name}");
            page.counter(&name, help, unit, value.load(Ordering::Relaxed))?;
        }
        let Limits { memory_bytes, connections, disk_free_bytes } = status.limits;
        let help = "With less free, messages get disk_full (DISK_FREE_BYTES_MIN).";
        let bytes = || Some(Unit::Bytes);
        page.gauge("logboom_engine_log_dir_free_min", help, bytes(), disk_free_bytes)?;
        let help = "What connections, batches and replies may hold together (MEMORY_BYTES_MAX).";
        page.gauge("logboom_engine_memory_max", help, bytes(), memory_bytes)?;
        let help = "Connections that may be open (CONNECTIONS_MAX).";
        page.gauge("logboom_engine_connections_max", help, None, connections)?;
        let version = vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        page.info("logboom_engine_build", "What was built.", version)?;
        let settings = SETTINGS.iter().map(|name| (name.to_lowercase(), status.setting(name)));
        page.info(
            "logboom_engine_settings",
            "Knobs that explain the other numbers.",
            settings.collect(),
        )
    }
}

/// Every metric as a table for people: name, type and meaning.
pub fn table() -> String {
    let status = Status::specimen();
    status.recovered(&[], &Arc::new(Space::seen(0)));
    of(Arc::new(status)).table()
}
