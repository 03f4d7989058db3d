//! The connections of one lane: at most one a worker, opened when it is first needed or all at once,
//! and replaced when they are worn (by age or messages).
//!
//! Owns opening with back-off (10 ms doubling to 1 s, with seeded jitter, so that workers don't
//! knock in step), the numbering of connections, what is left of closed ones, and whether the
//! target can be reached at all. Leaves timing a batch's wait to the worker: waiting for a
//! connection is latency.
//! Invariant: `open` is the number of connections that are idle here or lent to a worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::clock::{Clock, nanos};
use crate::hammer::identity::Identity;
use crate::hammer::{BatchHammer, NoConnection};
use crate::measure::ledger::LedgerConnection;
use crate::plan::random::Random;

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How a shard numbers and opens its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) workers: usize,
    /// `conn` of this shard's first connection, and the step to its next.
    pub(crate) conn_first: u64,
    pub(crate) conn_step: u64,
    pub(crate) connect_timeout: Duration,
    /// All workers connect at the start, and again when the time of their connections is up.
    pub(crate) is_storm: bool,
    /// How long a connection lives; 0 is no bound.
    pub(crate) age_ns_max: u64,
    /// Messages after which a connection is replaced; 0 is no bound.
    pub(crate) messages_max: u64,
    pub(crate) keeps_ledger: bool,
    /// Of the jitter.
    pub(crate) seed: u64,
}

/// One connection, lent to one worker at a time.
pub(crate) struct Connection<H> {
    pub(crate) hammer: H,
    pub(crate) identity: Identity,
    opened_ns: u64,
    /// A batch on it has been answered.
    has_answered: bool,
}

/// The connections of a shard.
pub(crate) struct Pool<H: BatchHammer> {
    limits: Limits,
    lane: Rc<H::Lane>,
    clock: Clock,
    slots: RefCell<Vec<Slot<H>>>,
    random: RefCell<Random>,
    conn_next: Cell<u64>,
    open: Cell<usize>,
    /// Since when no attempt has succeeded while none is open.
    down_since_ns: Cell<Option<u64>>,
    /// The target let us connect and refused us then; until it answers, a connection is no sign.
    is_doubted: Cell<bool>,
    last_failure: RefCell<Option<NoConnection>>,
    ledger: RefCell<Vec<LedgerConnection>>,
}

struct Slot<H> {
    /// Boxed: it goes to the worker and back for every batch.
    idle: Option<Box<Connection<H>>>,
    /// Attempts, and connections lost, since the last answer.
    failures: u32,
}

impl<H: BatchHammer> Pool<H> {
    pub(crate) fn new(limits: Limits, lane: H::Lane, clock: Clock) -> Pool<H> {
        let slots = (0..limits.workers).map(|_| Slot { idle: None, failures: 0 }).collect();
        Pool {
            limits,
            lane: Rc::new(lane),
            clock,
            slots: RefCell::new(slots),
            random: RefCell::new(Random::new(limits.seed)),
            conn_next: Cell::new(limits.conn_first),
            open: Cell::new(0),
            down_since_ns: Cell::new(None),
            is_doubted: Cell::new(false),
            last_failure: RefCell::new(None),
            ledger: RefCell::default(),
        }
    }

    /// The worker's connection, if it has one that is not worn.
    pub(crate) fn idle(&self, worker: usize, now_ns: u64) -> Option<Box<Connection<H>>> {
        let idle = self.slots.borrow_mut()[worker].idle.take()?;
        if self.is_worn(&idle, now_ns) {
            self.close(*idle);
            return None;
        }
        Some(idle)
    }

    /// A connection for the worker, which has none.
    ///
    /// # Errors
    /// After CONNECT_TIMEOUT_SECS, if other workers of the shard are connected. If nobody is, the
    /// target is down: then the run ends, and with it this wait.
    pub(crate) async fn take(&self, worker: usize) -> Result<Box<Connection<H>>, NoConnection> {
        let begin_ns = self.clock.now_ns();
        loop {
            let failures = self.slots.borrow()[worker].failures;
            if failures > 0 {
                glommio::timer::sleep(self.pause(failures)).await;
            }
            let attempt_ns = self.clock.now_ns();
            match H::connect(&self.lane, self.limits.connect_timeout).await {
                Ok(hammer) => {
                    self.open.set(self.open.get() + 1);
                    if !self.is_doubted.get() {
                        self.down_since_ns.set(None);
                    }
                    let conn = self.conn_next.replace(self.conn_next.get() + self.limits.conn_step);
                    let identity = Identity::new(conn, self.limits.keeps_ledger);
                    let opened_ns = self.clock.now_ns();
                    let connection =
                        Connection { hammer, identity, opened_ns, has_answered: false };
                    return Ok(Box::new(connection));
                }
                Err(failure) => {
                    self.slots.borrow_mut()[worker].failures += 1;
                    self.last_failure.replace(Some(failure.clone()));
                    if self.open.get() == 0 && self.down_since_ns.get().is_none() {
                        self.down_since_ns.set(Some(attempt_ns));
                    }
                    let waited_ns = self.clock.now_ns() - begin_ns;
                    let is_late = waited_ns >= nanos(self.limits.connect_timeout);
                    if is_late && self.open.get() > 0 {
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// Opens the worker's connection before it is needed.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) async fn open(&self, worker: usize) -> Result<(), NoConnection> {
        let connection = self.take(worker).await?;
        self.slots.borrow_mut()[worker].idle = Some(connection);
        Ok(())
    }

    /// Whether all workers connect at once.
    pub(crate) fn is_storm(&self) -> bool {
        self.limits.is_storm
    }

    /// Whether a connection is due to be replaced.
    fn is_worn(&self, connection: &Connection<H>, now_ns: u64) -> bool {
        let Limits { is_storm, age_ns_max, messages_max, .. } = self.limits;
        let is_old = match (age_ns_max, is_storm) {
            (0, _) => false,
            // All at the same moments, whenever each was opened.
            (max, true) => now_ns / max > connection.opened_ns / max,
            (max, false) => now_ns.saturating_sub(connection.opened_ns) >= max,
        };
        is_old || (messages_max > 0 && connection.identity.sent() >= messages_max)
    }

    fn close(&self, Connection { hammer, identity, .. }: Connection<H>) {
        hammer.close();
        self.note_closed(identity);
    }

    /// Gives a connection back after a batch that was answered.
    pub(crate) fn put(&self, worker: usize, mut connection: Box<Connection<H>>) {
        connection.has_answered = true;
        self.is_doubted.set(false);
        self.down_since_ns.set(None);
        let slot = &mut self.slots.borrow_mut()[worker];
        assert!(slot.idle.is_none(), "one connection a worker");
        slot.failures = 0;
        slot.idle = Some(connection);
    }

    /// Drops a connection that broke; one that had answered may be reopened at once.
    pub(crate) fn discard(&self, worker: usize, connection: Connection<H>, has_progressed: bool) {
        let slot = &mut self.slots.borrow_mut()[worker];
        let is_alive = has_progressed || connection.has_answered;
        slot.failures = if is_alive { 0 } else { slot.failures + 1 };
        self.note_closed(connection.identity);
    }

    /// Drops a connection on which the target refused us.
    pub(crate) fn refused(&self, worker: usize, connection: Connection<H>, reason: &str) {
        self.discard(worker, connection, false);
        self.last_failure.replace(Some(NoConnection::refused(reason)));
        self.is_doubted.set(true);
        if self.open.get() == 0 && self.down_since_ns.get().is_none() {
            self.down_since_ns.set(Some(self.clock.now_ns()));
        }
    }

    /// Closes a worker's connection at its end.
    pub(crate) fn retire(&self, worker: usize) {
        let idle = self.slots.borrow_mut()[worker].idle.take();
        if let Some(connection) = idle {
            self.close(*connection);
        }
    }

    /// Whether nothing could be reached for CONNECT_TIMEOUT_SECS.
    pub(crate) fn is_target_down(&self, now_ns: u64) -> bool {
        let timeout_ns = nanos(self.limits.connect_timeout);
        let since_ns = self.down_since_ns.get().filter(|_| self.open.get() == 0);
        since_ns.is_some_and(|since_ns| now_ns.saturating_sub(since_ns) >= timeout_ns)
    }

    /// What the pool leaves behind: closed connections, the last failure, the server's welcome.
    pub(crate) fn finish(self) -> Remains {
        assert_eq!(self.open.get(), 0, "every worker has retired");
        Remains {
            ledger: self.ledger.into_inner(),
            last_failure: self.last_failure.into_inner().map(|failure| failure.reason),
            welcome: H::welcome(&self.lane),
        }
    }

    fn note_closed(&self, identity: Identity) {
        self.open.set(self.open.get() - 1);
        self.ledger.borrow_mut().extend(identity.into_ledger());
    }

    fn pause(&self, failures: u32) -> Duration {
        let full = PAUSE_MIN.saturating_mul(1 << (failures - 1).min(16)).min(PAUSE_MAX);
        let full_ns = nanos(full);
        Duration::from_nanos(full_ns / 2 + self.random.borrow_mut().below(full_ns / 2 + 1))
    }
}

/// What a pool leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) ledger: Vec<LedgerConnection>,
    pub(crate) last_failure: Option<String>,
    pub(crate) welcome: Option<proto::hello::Welcome>,
}
