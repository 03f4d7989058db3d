//! One shard: what its tasks share, and how it starts and ends.
//!
//! A shard is one pinned thread; listener, connections, flusher and keeper are its tasks and meet
//! here. Nothing here crosses a thread except the published counters, the connection counts and
//! the channels for handed-over descriptors. Invariant: no borrow of a shard's parts crosses an
//! await.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use glommio::timer::sleep;
use runtime::stop::Stop;
use tracing::warn;

use crate::counters::{Counter, Counters, Published, Snapshot};
use crate::flusher;
use crate::intake::{self, Intake};
use crate::net::connection;
use crate::net::listener::{self, Arrival, Balance};
use crate::net::registry::{Kill, Patience, Registry};
use crate::net::tls::Keys;
use crate::net::udp;
use crate::secrets::Token;
use crate::signal::Crowd;
use crate::sink::Sink;
use crate::sink::disk::{Disk, RealDisk};
use crate::space::Space;
use crate::stall::{Task, Watched, watched};

/// The buffer of the disk under every shard.
pub(crate) type Buf = <RealDisk as Disk>::Buf;

/// What a shard is told at its start; plain values.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// This shard.
    pub shard: usize,
    /// All shards.
    pub shards: usize,
    /// Length of the buffer for reading.
    pub read_bytes: usize,
    /// How lines are batched and flushed.
    pub intake: intake::Terms,
    /// What a connection needs to know.
    pub connection: connection::Terms,
    /// What datagrams are bounded by.
    pub udp: udp::Terms,
    /// Memory that the connections of this shard may hold together.
    pub connection_memory_bytes: usize,
    /// Whether connections begin with a TLS handshake.
    pub speaks_tls: bool,
    /// How long a client may let the engine wait.
    pub patience: Patience,
    /// A drain cuts its connections after this time.
    pub drain: Duration,
}

/// What the tasks of a shard share.
#[derive(Debug)]
pub(crate) struct Shard {
    /// What it was told.
    pub settings: Settings,
    /// Its numbers.
    pub counters: Rc<Counters>,
    /// Where connections leave lines for the flusher.
    pub intake: Rc<Intake<Buf>>,
    /// Lent to a connection within one poll.
    pub read_buffer: RefCell<Vec<u8>>,
    /// Gzip members are inflated into it, a slice at a time; lent within one poll.
    pub inflate_buffer: RefCell<Vec<u8>>,
    /// Lent to a connection within one poll.
    pub reply_buffer: RefCell<Vec<u8>>,
    /// For TLS handshakes; `None` where connections are plain.
    pub keys: Option<Keys>,
    /// What a hello has to say, if anything.
    pub token: Option<Token>,
    /// Its connections.
    pub registry: Registry,
    /// Connections that wait for memory.
    pub memory: Crowd,
    /// Bytes that connections hold.
    pub memory_held: Cell<usize>,
    /// Refused clients that are being told why.
    pub refusals: Cell<usize>,
    /// Set at the stop: connections answer what was read, and end.
    pub stopping: Cell<bool>,
}

impl Shard {
    /// Whether connections hold as much memory as they may.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.memory_held.get() >= self.settings.connection_memory_bytes
    }

    /// Observes a task of this shard.
    pub(crate) fn watched<F>(&self, task: Task, work: F) -> Watched<F> {
        watched(task, self.settings.shard, &self.counters, work)
    }
}

/// What a shard is given at its start: the ends of its ties to the outside.
#[derive(Debug)]
pub(crate) struct Ties {
    /// Its listening socket.
    pub listener: OwnedFd,
    /// Its socket for datagrams, if the engine takes any.
    pub udp: Option<OwnedFd>,
    /// Connections that other shards accepted for it.
    pub handed_over: Receiver<Arrival>,
    /// The connection counts of all shards, and the way to each.
    pub balance: Arc<Balance>,
    /// For TLS handshakes.
    pub keys: Option<Keys>,
    /// What a hello has to say.
    pub token: Option<Token>,
    /// What the file system of LOG_DIR has free.
    pub space: Arc<Space>,
    /// Where its numbers are published.
    pub published: Arc<Published>,
    /// When to stop.
    pub stop: Stop,
}

/// How a shard ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its final numbers.
    pub counters: Snapshot,
    /// What went wrong with the sink, in words.
    pub storage: Result<(), String>,
}

/// Bytes that a connection inflates before others have a turn.
const INFLATE_SLICE: usize = 128 * 1024;
/// How often the keeper looks at connections, and numbers are published.
const TICK: Duration = Duration::from_millis(50);
/// When memory is used up, this part of it is taken from the holders of the largest lines.
const MEMORY_FREED_PART: usize = 4;

/// Runs a shard until it is told to stop and has drained.
pub(crate) async fn run(settings: Settings, ties: Ties, sink: Sink<RealDisk>) -> Ended {
    let counters = Rc::new(Counters::shown_by(&ties.published));
    let buf = sink.alloc(settings.intake.buffer_bytes);
    let intake = Rc::new(Intake::new(settings.intake, Rc::clone(&counters), buf));
    intake.tick(ties.space.free_bytes(), Instant::now());
    let shard = Rc::new(Shard {
        counters,
        intake: Rc::clone(&intake),
        read_buffer: RefCell::new(vec![0; settings.read_bytes]),
        inflate_buffer: RefCell::new(vec![0; INFLATE_SLICE]),
        reply_buffer: RefCell::default(),
        keys: ties.keys,
        token: ties.token,
        registry: Registry::default(),
        memory: Crowd::default(),
        memory_held: Cell::new(0),
        refusals: Cell::new(0),
        stopping: Cell::new(false),
        settings,
    });
    let flusher =
        glommio::spawn_local(shard.watched(Task::Flusher, flusher::run(Rc::clone(&intake), sink)));
    let entrance = listener::open(&shard, ties.listener, &ties.balance);
    let arrivals =
        listener::receive(Rc::clone(&shard), ties.handed_over.clone(), Arc::clone(&ties.balance));
    glommio::spawn_local(shard.watched(Task::Arrivals, arrivals)).detach();
    let udp = ties.udp.map(|socket| udp::open(&shard, socket));
    let keeping = keep(Rc::clone(&shard), Arc::clone(&ties.published), ties.space);
    let keeper = glommio::spawn_local(shard.watched(Task::Keeper, keeping));

    // From now on it is seen to serve.
    shard.counters.publish(&ties.published);

    ties.stop.requested().await;
    shard.stopping.set(true);
    entrance.shut();
    ties.handed_over.close();
    shard.registry.wake_all();
    let deadline = Instant::now() + shard.settings.drain;
    while !shard.registry.is_empty() {
        if Instant::now() >= deadline {
            shard.registry.kill_all(Kill::Drain);
        }
        sleep(Duration::from_millis(2)).await;
    }
    if let Some(udp) = udp {
        udp.shut().await;
    }
    intake.close();
    let storage = flusher.await;
    keeper.cancel().await;
    shard.counters.set(Counter::MemoryHeld, shard.memory_held.get() as u64);
    let snapshot = shard.counters.snapshot();
    assert!(snapshot.is_balanced(), "a message is in no state, or in two: {snapshot:?}");
    assert!(snapshot.has_reasons(), "a message was not taken for no reason: {snapshot:?}");
    shard.counters.publish(&ties.published);
    Ended { counters: snapshot, storage }
}

/// Publishes the numbers, and ends the connections whose time or memory is up.
async fn keep(shard: Rc<Shard>, published: Arc<Published>, space: Arc<Space>) {
    let here = shard.settings.shard;
    loop {
        sleep(TICK).await;
        let now = Instant::now();
        shard.intake.tick(space.free_bytes(), now);
        shard.counters.set(Counter::MemoryHeld, shard.memory_held.get() as u64);
        shard.counters.publish(&published);
        shard.registry.kill_late(now, &shard.settings.patience);
        if !shard.is_short_of_memory() {
            shard.memory.wake_all();
        } else if !shard.memory.is_empty() {
            // More than what is missing: others would take that up at once, and who holds nothing
            // has to come through, too.
            let most = shard.settings.connection_memory_bytes;
            let excess = shard.memory_held.get() - most + most / MEMORY_FREED_PART;
            let killed = shard.registry.kill_largest_carries(excess);
            shard.counters.add(Counter::MemoryKills, killed);
            if killed > 0 {
                warn!(
                    shard = here,
                    killed, "MEMORY_BYTES_MAX is used up: the largest unfinished lines go"
                );
            }
        }
    }
}

/// A connection's hold on the shard's memory account.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    /// Says how much the connection holds now.
    pub(crate) fn set(&mut self, shard: &Shard, bytes: usize) {
        let was_short = shard.is_short_of_memory();
        shard.memory_held.set(shard.memory_held.get() - self.0 + bytes);
        self.0 = bytes;
        if was_short && !shard.is_short_of_memory() {
            shard.memory.wake_all();
        }
    }
}
