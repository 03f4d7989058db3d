//! What the outside may know of a running engine.
//!
//! Gathers what the shards published, what the system says of the process, and whether the engine is
//! ready. Invariant: nothing here makes a shard wait (its numbers are read from its published
//! snapshot only) or waits for a disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jiff::Timestamp;
use runtime::cgroup::Cgroups;
use runtime::exposition::Times;
use runtime::process::Process;
use runtime::stop::Stop;

use crate::config::{Config, Knob};
use crate::counters::{Counter, Published, Snapshot};
use crate::sink::file::pack::Packed;
use crate::space::Space;
use crate::times::Timed;

/// A running engine as seen from outside.
#[derive(Debug)]
pub(crate) struct Status {
    /// Where lines are taken.
    pub address: SocketAddr,
    /// What an `ok` means without a hello.
    pub durability: String,
    /// LOG_DIR, if something is stored.
    pub log_dir: Option<PathBuf>,
    /// What the engine may use of the machine.
    pub limits: Limits,
    /// What was packed of what is stored.
    pub packed: Arc<Packed>,
    /// When this began.
    pub started_at: Timestamp,
    began: Instant,
    knobs: Vec<Knob>,
    published: Vec<Arc<Published>>,
    stop: Stop,
    /// Set once LOG_DIR is recovered.
    recovered: OnceLock<Recovered>,
}

/// Bounds that explain numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// MEMORY_BYTES_MAX.
    pub memory_bytes: u64,
    /// CONNECTIONS_MAX.
    pub connections: u64,
    /// DISK_FREE_BYTES_MIN.
    pub disk_free_bytes: u64,
}

/// What is known once LOG_DIR is in order.
#[derive(Debug)]
struct Recovered {
    notes: Vec<String>,
    space: Arc<Space>,
}

impl Status {
    /// Of an engine that begins now: it is not ready before [`Status::recovered`] and before all
    /// shards have published.
    pub(crate) fn begin(
        config: &Config,
        address: SocketAddr,
        published: &[Arc<Published>],
        stop: &Stop,
    ) -> Status {
        Status {
            address,
            durability: config.durability_granted(config.durability).to_string(),
            log_dir: config.enable_persistence.then(|| config.log_dir.clone()),
            limits: Limits {
                memory_bytes: config.memory_bytes_max as u64,
                connections: config.connections_max as u64,
                disk_free_bytes: config.disk_free_bytes_min,
            },
            packed: Arc::default(),
            started_at: Timestamp::now(),
            began: Instant::now(),
            knobs: config.knobs.clone(),
            published: published.to_vec(),
            stop: stop.clone(),
            recovered: OnceLock::new(),
        }
    }

    /// An engine of one shard that never was, to show what can be seen of one.
    pub(crate) fn specimen() -> Status {
        Status {
            address: ([127, 0, 0, 1], 9000).into(),
            durability: String::new(),
            log_dir: Some("/".into()),
            limits: Limits { memory_bytes: 0, connections: 0, disk_free_bytes: 0 },
            packed: Arc::default(),
            started_at: Timestamp::UNIX_EPOCH,
            began: Instant::now(),
            knobs: Vec::new(),
            published: vec![Arc::default()],
            stop: Stop::new(),
            recovered: OnceLock::new(),
        }
    }

    /// The value of a knob, as it was written.
    pub(crate) fn setting(&self, name: &str) -> String {
        let knob = self.knobs.iter().find(|knob| knob.name == name);
        knob.and_then(|knob| knob.value.clone()).unwrap_or_default()
    }

    /// LOG_DIR is in order; `notes` say what had to be done for it, `space` what is free there.
    pub(crate) fn recovered(&self, notes: &[String], space: &Arc<Space>) {
        let _ = self.recovered.set(Recovered { notes: notes.to_vec(), space: Arc::clone(space) });
    }

    /// The numbers of each shard, as published last.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.published.iter().map(|published| published.load()).collect()
    }

    /// How long things took, shard by shard.
    pub(crate) fn times(&self, what: Timed) -> impl Iterator<Item = Times> {
        self.published.iter().map(move |published| published.times().load(what))
    }

    /// Why the engine should be sent nothing now; nothing when it is ready.
    pub(crate) fn hindrances(&self) -> Vec<String> {
        let mut hindrances = Vec::new();
        if self.recovered.get().is_none() {
            hindrances.push("starting: LOG_DIR is being recovered".to_owned());
        } else if !self.published.iter().all(|published| published.has_begun()) {
            hindrances.push("starting: not all shards serve yet".to_owned());
        }
        if self.stop.is_requested() {
            hindrances.push("draining".to_owned());
        }
        for (shard, snapshot) in self.snapshots().iter().enumerate() {
            if snapshot.get(Counter::StorageDead) > 0 {
                hindrances.push(format!("the storage of shard {shard} has failed for good"));
            }
            if snapshot.get(Counter::BreakersOpen) > 0 {
                hindrances.push(format!("the breaker of shard {shard} is not closed"));
            }
        }
        hindrances
    }

    /// Seconds since the start.
    pub(crate) fn uptime_secs(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Bytes that are free on the file system of LOG_DIR, as last looked up.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.recovered.get()?.space.look()
    }

    /// All of it as one JSON object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let shards = self.snapshots();
        let mut totals = Snapshot::default();
        shards.iter().for_each(|shard| totals.merge(shard));
        let knobs: serde_json::Map<_, _> = self
            .knobs
            .iter()
            .map(|Knob { name, value, source }| {
                (name.clone(), serde_json::json!({ "value": value, "source": source }))
            })
            .collect();
        let shards: Vec<_> = shards
            .iter()
            .map(|shard| serde_json::json!({ "connections": connections(shard), "counters": shard.to_json() }))
            .collect();
        let hindrances = self.hindrances();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "started_at": self.started_at.to_string(),
            "uptime_s": self.uptime_secs(),
            "ready": hindrances.is_empty(),
            "hindrances": hindrances,
            "address": self.address.to_string(),
            "durability": self.durability,
            "log_dir": self.log_dir.as_ref().map(|path| {
                serde_json::json!({ "path": path, "free_bytes": self.free_bytes() })
            }),
            "notes": self.recovered.get().map(|recovered| &recovered.notes),
            "connections": connections(&totals),
            "totals": totals.to_json(),
            "shards": shards,
            "process": process(),
            "caps": caps(&Cgroups::of(None)),
            "knobs": knobs,
        })
    }
}

/// What the cgroups allow, and what that has cost; `null` where there is no such cap.
fn caps(cgroups: &Cgroups) -> serde_json::Value {
    let cpus = runtime::cpus::Cpus::detect().map(|cpus| cpus.affinity).unwrap_or_default();
    let throttling = cgroups.throttling();
    let memory = cgroups.memory();
    serde_json::json!({
        "cpus": cpus,
        "cpu_quota": cgroups.cpu_quota(),
        "periods": throttling.map(|felt| felt.periods),
        "throttled_periods": throttling.map(|felt| felt.throttled_periods),
        "throttled_s": throttling.map(|felt| felt.throttled.as_secs_f64()),
        "memory_bytes_max": cgroups.memory_bytes_max(),
        "memory_bytes": memory.map(|memory| memory.used_bytes),
        "memory_peak_bytes": memory.and_then(|memory| memory.peak_bytes),
        "memory_reached": memory.map(|memory| memory.reached),
    })
}

/// Connections that are open.
pub(crate) fn connections(shard: &Snapshot) -> u64 {
    shard.get(Counter::ConnectionsOpened).saturating_sub(shard.get(Counter::ConnectionsClosed))
}

/// What the system says of this process; `null` where it says nothing.
fn process() -> Option<serde_json::Value> {
    let process = Process::read()?;
    Some(serde_json::json!({
        "cpu_s": process.cpu_secs,
        "resident_bytes": process.resident_bytes,
        "threads": process.threads,
        "fds": process.fds,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;

    #[test]
    fn ready_is_who_has_recovered_serves_and_can_store() {
        let status = Status::specimen();
        let why = |status: &Status| status.hindrances().join("; ");
        assert_eq!(why(&status), "starting: LOG_DIR is being recovered");
        status.recovered(&[], &Arc::default());
        assert_eq!(why(&status), "starting: not all shards serve yet");
        let counters = Counters::default();
        let publish = |status: &Status| counters.publish(&status.published[0]);
        publish(&status);
        assert_eq!(why(&status), "");
        counters.add(Counter::BreakersOpen, 1);
        publish(&status);
        assert_eq!(why(&status), "the breaker of shard 0 is not closed");
        counters.take(Counter::BreakersOpen, 1);
        counters.add(Counter::StorageDead, 1);
        publish(&status);
        assert_eq!(why(&status), "the storage of shard 0 has failed for good");
        status.stop.request(runtime::stop::Cause::Terminate);
        assert!(why(&status).starts_with("draining; "), "{}", why(&status));
    }
}
