//! THE loop: take what is due, take a connection, hit, again.
//!
//! Owns one worker's life. Leaves what is due to the dispatch, connections to the pool, bytes to
//! the hammer, and deadlines to the shard's watch, which may abort a wait through the worker's
//! [`Watched`]. At most one batch is unanswered.
//! Invariant: every claimed message is settled before the next claim: answered, failed, given up,
//! or refused a connection.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::timer::sleep;

use crate::clock::{Clock, nanos};
use crate::config::ThinkTime;
use crate::dispatch::Dispatch;
use crate::hammer::claim::Claim;
use crate::hammer::{Batch, BatchHammer, Broken, Kit};
use crate::measure::recorder::Recorder;
use crate::measure::tally::code;
use crate::pace::Nap;
use crate::plan::random::Random;
use crate::pool::Pool;

/// What the workers of a shard share.
pub(crate) struct Shop<H: BatchHammer> {
    pub(crate) clock: Clock,
    pub(crate) dispatch: Dispatch,
    pub(crate) pool: Pool<H>,
    pub(crate) kit: Kit,
    pub(crate) recorder: RefCell<Recorder>,
    pub(crate) rest: Rest,
    pub(crate) nap: Nap,
    pub(crate) watched: Vec<Watched>,
}

impl<H: BatchHammer> Shop<H> {
    /// Counts messages that will not be sent: their stage, when they were due, and how many.
    pub(crate) fn missed(&self, at_ns: u64) -> impl FnMut(usize, u64, u64) + '_ {
        let mut is_first = true;
        move |stage, due_ns, n| {
            let recorder = &mut *self.recorder.borrow_mut();
            let mut recorder = recorder.stage(stage);
            recorder.unsent(n);
            if std::mem::take(&mut is_first) {
                recorder.settling();
            }
            recorder.censored(due_ns, None, at_ns, n);
        }
    }
}

/// How long the workers rest between two batches.
pub(crate) struct Rest {
    min_ns: u64,
    spread_ns: u64,
    random: RefCell<Random>,
}

/// A rest ends at most so long after the load.
const REST_SLICE_NS: u64 = 50_000_000;

impl Rest {
    pub(crate) fn new(think_time: ThinkTime, seed: u64) -> Rest {
        let min_ns = nanos(think_time.min);
        let spread_ns = nanos(think_time.max) - min_ns;
        Rest { min_ns, spread_ns, random: RefCell::new(Random::new(seed)) }
    }

    fn next_ns(&self) -> u64 {
        match self.spread_ns {
            0 => self.min_ns,
            spread_ns => self.min_ns + self.random.borrow_mut().below(spread_ns + 1),
        }
    }
}

/// Where the watch sees what a worker waits for, and ends the wait.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    waits_for: Cell<Option<WaitsFor>>,
    /// When its batch began, or the latest reply to it.
    progress_ns: Cell<u64>,
    abort: Cell<Option<Abort>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    Connection,
    Replies,
}

/// Why a wait ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    /// No reply for REPLY_TIMEOUT_SECS while the load goes on.
    Timeout,
    /// The run gives up waiting.
    End,
}

impl Watched {
    /// Ends a wait for replies that has seen none since before `since_ns`.
    pub(crate) fn time_out(&self, since_ns: u64) {
        let waits_for_replies = self.waits_for.get() == Some(WaitsFor::Replies);
        if waits_for_replies && self.progress_ns.get() <= since_ns {
            self.abort(Abort::Timeout);
        }
    }

    /// Ends whatever the worker waits for.
    pub(crate) fn end(&self) {
        if self.waits_for.get().is_some() {
            self.abort(Abort::End);
        }
    }

    fn abort(&self, abort: Abort) {
        self.abort.set(Some(abort));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for `future` as long as the watch lets it.
    async fn wait<F: Future>(&self, what: WaitsFor, future: F) -> Result<F::Output, Abort> {
        let mut future = pin!(future);
        self.waits_for.set(Some(what));
        let end = poll_fn(|cx| {
            if let Some(abort) = self.abort.take() {
                return Poll::Ready(Err(abort));
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            drop(waker);
            future.as_mut().poll(cx).map(Ok)
        })
        .await;
        self.waits_for.set(None);
        self.abort.set(None);
        end
    }
}

/// Connections that were closed while idle and that a batch tries, one after the other, before it
/// counts as reset: a server that closes each connection at once must not hold it for ever.
const STALE_MAX: u32 = 3;

/// Runs worker `worker` until the load is over and all it took is settled.
pub(crate) async fn run<H: BatchHammer>(shop: Rc<Shop<H>>, worker: usize) {
    if shop.pool.is_storm() {
        // Whoever cannot connect now tries again for its first batch.
        let _ = shop.watched[worker].wait(WaitsFor::Connection, shop.pool.open(worker)).await;
    }
    while let Some(claim) = claim(&shop, worker).await {
        carry(&shop, worker, &claim).await;
        shop.dispatch.give_back(claim);
        rest(&shop).await;
        // With a peer that always answers at once nothing else here gives way.
        glommio::executor().yield_if_needed().await;
    }
    shop.pool.retire(worker);
}

async fn claim<H: BatchHammer>(shop: &Shop<H>, worker: usize) -> Option<Claim> {
    poll_fn(|cx| {
        let now_ns = shop.clock.now_ns();
        shop.dispatch.poll_claim(worker, now_ns, cx.waker(), &mut shop.missed(now_ns))
    })
    .await
}

/// Rests between two batches, as long as there is load.
async fn rest<H: BatchHammer>(shop: &Shop<H>) {
    let mut left_ns = shop.rest.next_ns();
    while left_ns > 0 && shop.dispatch.ended_ns(shop.clock.now_ns()).is_none() {
        let slice_ns = left_ns.min(REST_SLICE_NS);
        sleep(Duration::from_nanos(slice_ns)).await;
        left_ns -= slice_ns;
    }
}

/// Carries one batch to its end.
async fn carry<H: BatchHammer>(shop: &Shop<H>, worker: usize, claim: &Claim) {
    let watched = &shop.watched[worker];
    for attempt in 1.. {
        let (mut connection, begun_ns) = match shop.pool.idle(worker, claim.claimed_ns) {
            Some(connection) => (connection, claim.claimed_ns),
            None => {
                let taken = watched.wait(WaitsFor::Connection, shop.pool.take(worker)).await;
                match taken {
                    Ok(Ok(connection)) => (connection, shop.clock.now_ns()),
                    Ok(Err(failure)) => return refuse(shop, claim, &failure.code),
                    Err(_) => return refuse(shop, claim, code::REFUSED),
                }
            }
        };
        let mut batch = Batch::begin(
            claim,
            begun_ns,
            shop.clock,
            &shop.recorder,
            &mut connection.identity,
            &watched.progress_ns,
        );
        let hit = connection.hammer.carry(&shop.kit, &mut batch);
        let end = watched.wait(WaitsFor::Replies, hit).await;
        match end {
            Ok(Ok(())) => {
                batch.close();
                return shop.pool.put(worker, connection);
            }
            Ok(Err(Broken::Stale)) if attempt < STALE_MAX => {
                batch.withdraw();
                shop.pool.discard(worker, *connection, false);
                continue;
            }
            Ok(Err(Broken::Refused(reason))) => {
                // Nothing of it may have gone yet: then another connection is due to it.
                let is_retried = batch.is_fresh() && attempt < STALE_MAX;
                if is_retried {
                    batch.withdraw();
                } else {
                    batch.fail(code::REFUSED);
                    batch.close();
                }
                shop.pool.refused(worker, *connection, &reason);
                if is_retried {
                    continue;
                }
                return;
            }
            Ok(Err(broken)) => batch.fail(broken.code()),
            Err(Abort::Timeout) => batch.fail(code::TIMEOUT),
            Err(Abort::End) => batch.give_up(),
        }
        let has_progressed = batch.has_progressed();
        batch.close();
        return shop.pool.discard(worker, *connection, has_progressed);
    }
}

fn refuse<H: BatchHammer>(shop: &Shop<H>, claim: &Claim, code: &str) {
    claim.refuse(&mut shop.recorder.borrow_mut(), code, shop.clock.now_ns());
}
