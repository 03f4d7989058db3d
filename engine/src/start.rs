//! Starts the engine: asks the machine, opens every door, recovers LOG_DIR, starts the shards.
//!
//! Owns the order of these steps, and nothing that lasts. Invariant: what can be refused is refused
//! before a connection is accepted, and what was opened before a refusal is closed by it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::cpus::Cpus;
use runtime::desk;
use runtime::shards::{Plan, Shard};
use runtime::stop::{Cause, Stop};

use crate::config::{Compression, Config};
use crate::counters::Published;
use crate::error::Error;
use crate::net::admin::{self, Admin};
use crate::net::listener::{self, Balance};
use crate::net::tls::Keys;
use crate::net::udp;
use crate::ready::{self, Addresses};
use crate::secrets::Token;
use crate::shard::{self, Ended, Ties};
use crate::sink::Sink;
use crate::sink::disk::RealDisk;
use crate::sink::file::pack::Packer;
use crate::sink::file::{self, FileSink, LogDir};
use crate::space::Space;
use crate::status::Status;
use crate::{Engine, housekeeping, reload, service, settings};

/// A shard looks at its rings at least so often; flush timers then come about so much late.
const PREEMPT: Duration = Duration::from_millis(1);
const RING_DEPTH: usize = 1024;

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
    let hangups = reload::on_hangup(keys.clone(), token.clone()).map_err(Error::Thread)?;
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
    service::starting();
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
    let active: Vec<_> = (0..count).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let (balance, ends) =
        Balance::new(count, config.connections_max, config.connections_per_ip_max);
    let balance = Arc::new(balance);
    let mut udp_sockets = udp.map(|udp| udp.sockets).unwrap_or_default().into_iter();
    let ties = sockets
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
    let plan = Plan {
        name: "engine",
        count,
        cpus: cpus.affinity,
        preempt: PREEMPT,
        ring_depth: RING_DEPTH,
        // Four batch buffers: filling, writing, and what the allocator keeps for itself.
        io_memory_bytes: 4 * config.commit_bytes_max,
    };
    let shards = start_shards(&plan, config, memory, ties, log_dir.as_ref(), &active)?;
    let addresses =
        Addresses { tcp: address, udp: udp_address, admin: admin.as_ref().map(Admin::address) };
    ready::tell(config, &addresses, count, &notes);
    if let Some(path) = &config.ready_file {
        ready::write_file(path, config, &addresses, count)
            .map_err(|source| Error::ReadyFile { path: path.clone(), source })?;
    }
    service::ready(format!("listening on {address}"), &status, &published, &stop)?;
    if let Some(log_dir) = &log_dir
        && config.segment_compression == Compression::Zstd
    {
        let (active, packed) = (active.clone(), Arc::clone(&status.packed));
        let packer = Packer::new(&config.log_dir, &log_dir.plan(), active, packed);
        housekeeping::begin_packing(packer, stop.clone())?;
    }
    if config.enable_persistence && config.retain_bytes_max > 0 {
        let (log_dir, bytes_max) = (config.log_dir.clone(), config.retain_bytes_max);
        housekeeping::begin(log_dir, bytes_max, active, stop.clone())?;
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

/// Starts each shard with its ties, its settings and its sink.
fn start_shards(
    plan: &Plan,
    config: &Config,
    memory: usize,
    ties: Vec<Ties>,
    log_dir: Option<&LogDir>,
    active: &[Arc<AtomicU64>],
) -> Result<Vec<Shard<Result<Ended, Error>>>, Error> {
    let count = plan.count;
    let ties = Arc::new(Mutex::new(ties.into_iter().map(Some).collect::<Vec<_>>()));
    let (config, log_dir) = (config.clone(), log_dir.map(LogDir::plan));
    let active = active.to_vec();
    let begin = move |shard: usize| {
        let settings = settings::of_shard(&config, shard, count, memory);
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
    };
    Ok(runtime::shards::start(plan, begin)?)
}

/// Begins where the lines of one shard go.
async fn sink(
    config: &Config,
    log_dir: Option<&file::Plan>,
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
    let bound = desk::bind(address).map_err(|source| {
        let knobs = "ADMIN_HOST, ADMIN_PORT; 0 takes any free port";
        Error::Bind { knobs, address, source }
    })?;
    Ok(Some(admin::start(bound, Arc::clone(status))?))
}
