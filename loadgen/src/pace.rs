//! Waking when something is due.
//!
//! Owns a lane's pacer: one task that sleeps until the dispatch wants to be looked at again. Leaves
//! what is due, and to whom it goes, to the dispatch.
//!
//! A sleep of glommio overshoots by 35 µs and more, and costs 25 to 60 µs of CPU. *Thrifty* accepts
//! both, once in a slot of a millisecond. *Precise* sleeps only until shortly before the time, and
//! spends the rest awake, in steps between which the executor polls its rings ([`spin`]).
//!
//! Invariant: it never looks before the time that it was given, unless it is woken.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::time::{Duration, Instant};

use glommio::timer::{Timer, sleep};

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

/// One step of waiting awake.
const STEP: Duration = Duration::from_micros(2);

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
                spin().await;
                now_ns = shop.clock.now_ns();
            }
            report.borrow_mut().spun_ns += now_ns - from_ns;
        }
    }
}

/// Waits for a moment without giving up the core, then lets the executor poll its rings once.
///
/// A task that merely yields keeps the executor running tasks until the preempt timer expires, and
/// replies are read a millisecond late. A timer that has expired by the time the task is pending
/// sends the executor through its whole loop, and keeps it from sleeping there.
async fn spin() {
    let mut timer = pin!(Timer::new(STEP));
    let until = Instant::now() + STEP;
    poll_fn(|cx| {
        let poll = timer.as_mut().poll(cx);
        while poll.is_pending() && Instant::now() <= until {
            std::hint::spin_loop();
        }
        poll
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::rc::Rc;

    use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
    use glommio::LocalExecutorBuilder;
    use glommio::net::TcpStream;

    use super::*;

    #[test]
    fn replies_are_read_while_a_pacer_waits_awake() {
        const ROUNDS: usize = 30;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut byte = [0];
            while peer.read(&mut byte).unwrap() == 1 {
                peer.write_all(&byte).unwrap();
            }
        });
        // A pacer that only yielded would let the rings be polled once in a second.
        let builder = LocalExecutorBuilder::default().preempt_timer(Duration::from_secs(1));
        let executor = builder.make().unwrap();
        let begin = Instant::now();
        executor.run(async {
            let is_over = Rc::new(Cell::new(false));
            let spinning = Rc::clone(&is_over);
            let pacer = glommio::spawn_local(async move {
                while !spinning.get() {
                    spin().await;
                }
            });
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut byte = [7];
            for _ in 0..ROUNDS {
                stream.write_all(&byte).await.unwrap();
                stream.read_exact(&mut byte).await.unwrap();
            }
            is_over.set(true);
            pacer.await;
        });
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(ROUNDS as u64 / 2), "{ROUNDS} rounds took {took:?}");
        echo.join().unwrap();
    }
}
