//! The engine: takes NDJSON over TCP, stores it, acknowledges each line when it is safe.
//!
//! The tree is the pipeline: `net` (listener, connection) reads and frames, `ingest` decides and
//! batches, `flusher` writes through a `sink`, and replies leave by the connection again.
//! `start` starts it, and this file ends it; neither knows a message.

pub mod certs;
pub mod check;
pub mod config;
pub mod counters;
pub mod doctor;
pub mod error;
mod flusher;
pub mod health;
mod housekeeping;
pub mod ingest;
mod intake;
pub mod logs;
pub mod metrics;
mod net;
mod ready;
mod reload;
mod secrets;
mod service;
mod settings;
mod shard;
mod signal;
pub mod sink;
mod space;
mod stall;
mod start;
mod status;
pub mod times;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::hangup::Hangups;
use runtime::shards::Shard;
use runtime::stop::Stop;
use tracing::{error, info};

use crate::counters::{Counter, Published, Snapshot};
use crate::error::Error;
use crate::net::admin::Admin;
use crate::shard::Ended;
use crate::sink::file::LogDir;
pub use crate::start::start;

/// How long past DRAIN_SECS a shard may take to write what is left.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    address: SocketAddr,
    shards: Vec<Shard<Result<Ended, Error>>>,
    published: Vec<Arc<Published>>,
    stop: Stop,
    drain: Duration,
    log_dir: Option<LogDir>,
    notes: Vec<String>,
    admin: Option<Admin>,
    /// Kept to the end: a SIGHUP must not cut the drain short.
    _hangups: Hangups,
}

/// How an engine ended.
#[derive(Debug)]
pub struct Totals {
    /// The final numbers of all shards together.
    pub counters: Snapshot,
    /// The final numbers of each shard.
    pub shards: Vec<Snapshot>,
    /// What went wrong on the way, in words.
    pub troubles: Vec<String>,
}

impl Engine {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// What the operator should know about this start.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The numbers as the shards published them last.
    pub fn counters(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for published in &self.published {
            sum.merge(&published.load());
        }
        sum
    }

    /// Waits for the stop, and then for the drain; gives the totals.
    ///
    /// # Errors
    /// A shard could not begin its segments or did not end in time.
    pub fn wait(self) -> Result<Totals, Error> {
        let cause = self.stop.wait();
        service::stopping();
        let drain_secs = self.drain.as_secs_f64();
        info!(?cause, drain_secs, "draining: no new connections, answering what was read");
        let deadline = Instant::now() + self.drain + DRAIN_GRACE;
        let mut totals =
            Totals { counters: Snapshot::default(), shards: Vec::new(), troubles: Vec::new() };
        for (index, shard) in self.shards.into_iter().enumerate() {
            while !shard.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !shard.is_finished() {
                totals.troubles.push(format!("shard {index} did not end within DRAIN_SECS"));
                continue;
            }
            let ended = shard.join()?;
            totals.counters.merge(&ended.counters);
            totals.shards.push(ended.counters);
            if let Err(reason) = ended.storage {
                totals.troubles.push(format!("shard {index}: {reason}"));
            }
        }
        drop(self.admin);
        drop(self.log_dir);
        for trouble in &totals.troubles {
            error!("{trouble}");
        }
        let received = totals.counters.get(Counter::Received);
        let stored = totals.counters.get(Counter::Ok);
        info!(received, ok = stored, "drained");
        Ok(totals)
    }
}
