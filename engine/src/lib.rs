//! The engine: takes NDJSON over TCP, stores it, acknowledges each line when it is safe.
//!
//! The tree is the pipeline: `net` (listener, connection) reads and frames, `ingest` decides and
//! batches, `flusher` writes through a `sink`, and replies leave by the connection again. This
//! file starts and stops it; nothing here knows a message.

pub mod certs;
pub mod check;
pub mod config;
pub mod counters;
pub mod doctor;
pub mod error;
mod flusher;
pub mod ingest;
mod intake;
pub mod logs;
pub mod metrics;
mod net;
mod secrets;
mod shard;
mod signal;
pub mod sink;
mod space;
mod stall;
mod status;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use proto::gzip::Bounds;
use proto::hello::Durability;
use runtime::cpus::Cpus;
use runtime::hangup::Hangups;
use runtime::shards::{Plan, Shard};
use runtime::stop::{Cause, Stop};
use tracing::{error, info, warn};

use crate::config::{BATCH_OVERHEAD_BYTES, Config, Overload};
use crate::counters::{Counter, Published, Snapshot};
use crate::error::Error;
use crate::ingest::batch::Limits;
use crate::ingest::lanes::Policy;
use crate::ingest::{self as admission, breaker};
use crate::net::admin::{self, Admin};
use crate::net::connection::Terms;
use crate::net::listener::{self, Balance};
use crate::net::registry::Patience;
use crate::net::tls::{self, Keys};
use crate::net::udp;
use crate::secrets::Token;
use crate::shard::{Ended, Settings, Ties};
use crate::sink::Sink;
use crate::sink::disk::RealDisk;
use crate::sink::file::{FileSink, LogDir, retention};
use crate::space::Space;
use crate::status::Status;

/// A shard looks at its rings at least so often; flush timers then come about so much late.
const PREEMPT: Duration = Duration::from_millis(1);
const RING_DEPTH: usize = 1024;
/// How long past DRAIN_SECS a shard may take to write what is left.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// A gzip member that inflates to less than this may be as dense as it likes.
const INFLATE_RATIO_AFTER_BYTES: u64 = 8 << 20;
const HOUSEKEEPING: Duration = Duration::from_secs(1);

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

/// Starts the engine: when this returns, it listens.
///
/// # Errors
/// The configuration cannot work, or the machine does not let it start.
pub fn start(config: &Config, stop: Stop) -> Result<Engine, Error> {
    config.validate()?;
    let cpus = Cpus::detect().map_err(Error::Cpus)?;
    let count = config.shards.unwrap_or_else(|| cpus.shards_default());
    let memory = config.connection_memory_bytes(count)?;
    let uring = runtime::uring::probe()?;
    runtime::nofile::raise();
    let keys = keys(config)?;
    let token = token(config)?;
    let hangups = reload_on_hangup(keys.clone(), token.clone()).map_err(Error::Thread)?;
    let address = config.address()?;
    let taken = |knobs, address| move |source| Error::Bind { knobs, address, source };
    let (sockets, address) =
        listener::bind(address, count).map_err(taken("SERVER_HOST, SERVER_PORT", address))?;
    let udp = bind_udp(config, count)?;
    let udp_address = udp.as_ref().map(|udp| udp.address);
    let published: Vec<_> = (0..count).map(|_| Arc::new(Published::default())).collect();
    let status = Arc::new(Status::begin(config, address, &published, &stop));
    // Before the recovery, which may take its time.
    let admin = start_admin(config, &status)?;
    let log_dir =
        config.enable_persistence.then(|| LogDir::open(&config.log_dir, count)).transpose()?;
    let mut notes = notes(log_dir.as_ref());
    if !uring.coop_taskrun {
        notes.push("this kernel has no COOP_TASKRUN: each message costs more (Linux 5.19)".into());
    }
    notes.extend(udp.as_ref().and_then(|udp| udp.note.clone()));
    let space = match &log_dir {
        Some(_) => Space::watch(&config.log_dir, config.disk_free_bytes_min, stop.clone())?,
        None => Arc::default(),
    };
    status.recovered(&notes, &space);
    let (balance, ends) =
        Balance::new(count, config.connections_max, config.connections_per_ip_max);
    let balance = Arc::new(balance);
    let active: Vec<_> = (0..count).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut udp_sockets = udp.map(|udp| udp.sockets).unwrap_or_default().into_iter();
    let ties: Vec<_> = sockets
        .into_iter()
        .zip(ends)
        .zip(&published)
        .map(|((listener, handed_over), published)| Ties {
            listener,
            udp: udp_sockets.next(),
            handed_over,
            balance: Arc::clone(&balance),
            keys: keys.clone(),
            token: token.clone(),
            space: Arc::clone(&space),
            published: Arc::clone(published),
            stop: stop.clone(),
        })
        .collect();
    let ties = Arc::new(std::sync::Mutex::new(ties.into_iter().map(Some).collect::<Vec<_>>()));
    let begin = {
        let (config, log_dir) = (config.clone(), log_dir.as_ref().map(LogDir::plan));
        let active = active.clone();
        move |shard: usize| {
            let settings = settings(&config, shard, count, memory);
            let ties = ties.lock().ok().and_then(|mut ties| ties[shard].take());
            let (config, log_dir) = (config.clone(), log_dir.clone());
            let active = Arc::clone(&active[shard]);
            async move {
                let Some(ties) = ties else { unreachable!("each shard starts once") };
                let sink = match sink(&config, log_dir.as_ref(), shard, active).await {
                    Ok(sink) => sink,
                    Err(error) => {
                        ties.stop.request(Cause::Done);
                        return Err(error);
                    }
                };
                Ok(shard::run(settings, ties, sink).await)
            }
        }
    };
    let plan = Plan {
        name: "engine",
        count,
        cpus: cpus.affinity,
        preempt: PREEMPT,
        ring_depth: RING_DEPTH,
        // Four batch buffers: filling, writing, and what the allocator keeps for itself.
        io_memory_bytes: 4 * config.commit_bytes_max,
    };
    let shards = runtime::shards::start(&plan, begin)?;
    let admin_address = admin.as_ref().map(Admin::address);
    announce(config, address, udp_address, admin_address, count, &notes);
    if let Some(path) = &config.ready_file {
        write_ready_file(path, config, address, udp_address, admin_address, count)
            .map_err(|source| Error::ReadyFile { path: path.clone(), source })?;
    }
    if config.enable_persistence && config.retain_bytes_max > 0 {
        keep_house(config, active, stop.clone())?;
    }
    Ok(Engine {
        address,
        shards,
        published,
        stop,
        drain: config.drain_secs,
        log_dir,
        notes,
        admin,
        _hangups: hangups,
    })
}

/// What TLS clients are shown, where the port speaks TLS.
pub(crate) fn keys(config: &Config) -> Result<Option<Keys>, Error> {
    let load = || Keys::load(&config.cert_dir, config.client_ca_path.as_deref());
    config.enable_tls.then(load).transpose()
}

/// What clients have to know, where they have to.
pub(crate) fn token(config: &Config) -> Result<Option<Token>, Error> {
    config.auth_token_file.as_deref().map(Token::load).transpose()
}

/// At each SIGHUP, reads certificates and token again. Connections that are there stay.
fn reload_on_hangup(keys: Option<Keys>, token: Option<Token>) -> std::io::Result<Hangups> {
    Hangups::answer(move || {
        let tell = |what: &str, reloaded: Result<(), Error>| match reloaded {
            Ok(()) => info!("SIGHUP: {what} read again, good for new connections"),
            Err(error) => error!("SIGHUP: {error}; {what} as before"),
        };
        if let Some(keys) = &keys {
            tell("certificates", keys.reload());
        }
        if let Some(token) = &token {
            tell("token", token.reload());
        }
        if keys.is_none() && token.is_none() {
            info!("SIGHUP: nothing to read again: neither ENABLE_TLS nor AUTH_TOKEN_FILE is set");
        }
    })
}

fn settings(config: &Config, shard: usize, shards: usize, memory: usize) -> Settings {
    Settings {
        shard,
        shards,
        read_bytes: if config.enable_tls {
            tls::buffer_bytes(config.buffer_size)
        } else {
            config.buffer_size
        },
        intake: intake::Terms {
            buffer_bytes: config.commit_bytes_max,
            sync_after: config.sync_ms,
            ingest: admission_terms(config, shard),
        },
        connection: Terms {
            line_bytes_max: config.line_bytes_max,
            inflation: Bounds {
                ratio_max: config.inflate_ratio_max,
                ratio_after_bytes: INFLATE_RATIO_AFTER_BYTES,
            },
            reply_queue_bytes_max: config.reply_queue_bytes_max,
            durability: config.durability_granted(config.durability),
            durability_max: config.durability_granted(Durability::Durable),
        },
        udp: udp::Terms {
            line_bytes_max: config.line_bytes_max,
            inflated_bytes_max: config.inflated_bytes_max,
        },
        connection_memory_bytes: memory,
        speaks_tls: config.enable_tls,
        patience: Patience {
            handshake: config.handshake_timeout_secs,
            line: config.line_timeout_secs,
            idle: config.idle_timeout_secs,
            replies: config.reply_timeout_secs,
        },
        drain: config.drain_secs,
    }
}

fn admission_terms(config: &Config, shard: usize) -> admission::Terms {
    admission::Terms {
        shard,
        level_min: config.min_log_level,
        batch: Limits {
            bytes_max: config.commit_bytes_max - BATCH_OVERHEAD_BYTES,
            lines_flush: config.batch_size,
            flush_after: config.batch_flush_ms,
        },
        overload: match config.overload {
            Overload::Wait => Policy::Wait,
            Overload::Shed => Policy::Shed {
                low_percent: config.shed_low_percent,
                normal_percent: config.shed_normal_percent,
            },
        },
        breaker: config.circuit_breaker_enabled.then_some(breaker::Limits {
            failures_max: config.breaker_failures_max,
            slow: config.breaker_slow_ms,
            open: config.breaker_open_ms,
        }),
        disk_free_bytes_min: config.disk_free_bytes_min,
    }
}

/// Begins where the lines of one shard go.
async fn sink(
    config: &Config,
    log_dir: Option<&sink::file::Plan>,
    shard: usize,
    active: Arc<AtomicU64>,
) -> Result<Sink<RealDisk>, Error> {
    let disk = RealDisk::default();
    let Some(plan) = log_dir else { return Ok(Sink::null(disk)) };
    FileSink::begin(disk, plan, shard, config.segment_bytes_max, active)
        .await
        .map(Sink::File)
        .map_err(|source| Error::Segment { log_dir: config.log_dir.clone(), source })
}

fn notes(log_dir: Option<&LogDir>) -> Vec<String> {
    log_dir.map(|log_dir| log_dir.recovery().notes()).unwrap_or_default()
}

/// Says what runs now. It is said before READY_FILE is there.
fn announce(
    config: &Config,
    address: SocketAddr,
    udp: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    shards: usize,
    notes: &[String],
) {
    for note in notes {
        warn!("{note}");
    }
    let storage = if config.enable_persistence {
        format!("{} into {}", config.durability, config.log_dir.display())
    } else {
        "received, nothing is stored".to_owned()
    };
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    info!(version, pid, "listening on {address} with {shards} shards, ok means {storage}");
    if let Some(udp) = udp {
        info!("listening on {udp} for datagrams, which are not acknowledged");
    }
    if let Some(admin) = admin {
        info!("metrics and readiness at http://{admin}");
    }
    logs::flush();
}

fn bind_udp(config: &Config, shards: usize) -> Result<Option<udp::Bound>, Error> {
    if !config.enable_udp {
        return Ok(None);
    }
    let address = config.udp_address()?;
    let knobs = "SERVER_HOST, UDP_PORT";
    let bound = udp::bind(address, shards);
    bound.map(Some).map_err(|source| Error::Bind { knobs, address, source })
}

fn start_admin(config: &Config, status: &Arc<Status>) -> Result<Option<Admin>, Error> {
    if !config.admin_enabled {
        return Ok(None);
    }
    let address = config.admin_address()?;
    let bound = admin::bind(address).map_err(|source| {
        let knobs = "ADMIN_HOST, ADMIN_PORT; 0 takes any free port";
        Error::Bind { knobs, address, source }
    })?;
    Ok(Some(Admin::start(bound, Arc::clone(status))?))
}

fn write_ready_file(
    path: &Path,
    config: &Config,
    address: SocketAddr,
    udp: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    shards: usize,
) -> std::io::Result<()> {
    let ready = serde_json::json!({
        "pid": std::process::id(),
        "host": address.ip().to_string(),
        "port": address.port(),
        "udp_port": udp.map(|udp| udp.port()),
        "admin_port": admin.map(|admin| admin.port()),
        "shards": shards,
        "log_dir": config.enable_persistence.then_some(&config.log_dir),
    });
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    std::fs::write(&name, format!("{ready}\n"))?;
    std::fs::rename(&name, path)
}

/// Removes the oldest segments once a second, on a thread that belongs to no shard.
fn keep_house(config: &Config, active: Vec<Arc<AtomicU64>>, stop: Stop) -> Result<(), Error> {
    let (log_dir, bytes_max) = (config.log_dir.clone(), config.retain_bytes_max);
    std::thread::Builder::new()
        .name("housekeeping".into())
        .spawn(move || {
            while !stop.is_requested() {
                std::thread::sleep(HOUSEKEEPING);
                let removed = retention::enforce(&log_dir, bytes_max, &active);
                for trouble in &removed.troubles {
                    warn!("{trouble}");
                }
                if removed.segments > 0 {
                    let (segments, bytes) = (removed.segments, removed.bytes);
                    info!(segments, bytes, "old segments are removed (RETAIN_BYTES_MAX)");
                }
            }
        })
        .map(drop)
        .map_err(Error::Thread)
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
