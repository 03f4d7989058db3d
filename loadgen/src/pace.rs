//! Waking when something is due.
//!
//! Owns a lane's pacer: one task that sleeps until the dispatch wants to be looked at again. Leaves
//! what is due, and to whom it goes, to the dispatch.
//!
//! A sleep of glommio overshoots by 35 µs and more, and costs 25 to 60 µs of CPU. *Thrifty* accepts
//! both, once in a slot of a millisecond. *Precise* sleeps only until shortly before the time, and
//! spends the rest awake. It must not do so by yielding: the executor would poll its rings only when
//! the preempt timer has expired, and replies would be read a millisecond late. A timer of no length
//! sends it through its whole loop, rings included, without sleeping.
//!
//! Invariant: it never looks before the time that it was given, unless it is woken.

use std::cell::RefCell;
use std::future::poll_fn;
use std::time::Duration;

use glommio::timer::sleep;

use crate::measure::pacing::PacingReport;
use crate::plan::shape::Pacing;
use crate::worker::Shop;

/// Thrifty: a message that is due waits at most this long for those behind it, and an idle shard
/// wakes at most a thousand times a second.
const THRIFTY_SLOT_NS: u64 = 1_000_000;
/// Precise: a few messages a write where there are hundreds of thousands a second.
const PRECISE_SLOT_NS: u64 = 20_000;
/// Precise sleeps until so long before the time: more than a sleep mostly overshoots.
const SPIN_NS: u64 = 150_000;

/// How long what becomes due is collected.
pub(crate) fn slot_ns(pacing: Pacing) -> u64 {
    match pacing {
        Pacing::Precise => PRECISE_SLOT_NS,
        Pacing::Thrifty => THRIFTY_SLOT_NS,
    }
}

/// Hands out what is due. Never ends.
pub(crate) async fn pace<H>(shop: &Shop<H>, pacing: Pacing, report: &RefCell<PacingReport>) {
    loop {
        let next = poll_fn(|cx| {
            let now_ns = shop.clock.now_ns();
            shop.dispatch.poll_pace(now_ns, cx.waker(), &mut shop.missed(now_ns))
        });
        let Some(next_ns) = next.await else { return std::future::pending().await };
        let now_ns = shop.clock.now_ns();
        let sleep_ns = match pacing {
            Pacing::Thrifty => next_ns.saturating_sub(now_ns),
            Pacing::Precise => next_ns.saturating_sub(now_ns + SPIN_NS),
        };
        if sleep_ns > 0 {
            sleep(Duration::from_nanos(sleep_ns)).await;
            let late_ns = shop.clock.now_ns().saturating_sub(now_ns + sleep_ns);
            report.borrow_mut().woke(late_ns);
        }
        if pacing == Pacing::Precise {
            let from_ns = shop.clock.now_ns();
            let mut now_ns = from_ns;
            while now_ns < next_ns {
                sleep(Duration::ZERO).await;
                now_ns = shop.clock.now_ns();
            }
            report.borrow_mut().spun_ns += now_ns - from_ns;
        }
    }
}
