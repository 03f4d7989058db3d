//! Waking when something is due.
//!
//! Owns a lane's pacer: one task that sleeps until the dispatch wants to be looked at again. Leaves
//! what is due, and to whom it goes, to the dispatch.
//!
//! A sleep of glommio overshoots by 35 µs and more, and costs 25 to 60 µs of CPU: seven system calls
//! on three rings. *Thrifty* looks once in a slot of a millisecond, and where nothing is in flight,
//! so that no reply can come, it naps until then without the executor: one system call. *Precise*
//! sleeps only until shortly before the time, and spends the rest awake, in steps between which the
//! executor polls its rings ([`spin`]).
//!
//! Invariant: it never looks before the time that it was given, unless it is woken.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

use glommio::timer::{Timer, sleep};

use crate::dispatch::Look;
use crate::hammer::BatchHammer;
use crate::measure::pacing::PacingReport;
use crate::plan::shape::Pacing;
use crate::worker::Shop;

/// Thrifty: a message that is due waits at most this long for those behind it, and an idle shard
/// wakes at most a thousand times a second.
const THRIFTY_SLOT_NS: u64 = 1_000_000;
/// Thrifty naps no longer: meanwhile nobody looks at the end of a second or at a stop request.
const NAP_NS_MAX: u64 = THRIFTY_SLOT_NS;
/// Precise: a few messages a write where there are hundreds of thousands a second.
const PRECISE_SLOT_NS: u64 = 20_000;
/// Precise sleeps until so long before the time: more than a sleep mostly overshoots.
const SPIN_NS: u64 = 150_000;

/// One step of waiting awake.
const STEP: Duration = Duration::from_micros(2);

/// When a pacer last slept without the executor, ns since the start of the run.
#[derive(Debug, Default)]
pub(crate) struct Nap(Cell<(u64, u64)>);

impl Nap {
    fn set(&self, nap: Range<u64>) {
        self.0.set((nap.start, nap.end));
    }

    /// The latest nap.
    pub(crate) fn get(&self) -> Range<u64> {
        let (begin_ns, end_ns) = self.0.get();
        begin_ns..end_ns
    }
}

/// How long what becomes due is collected.
pub(crate) fn slot_ns(pacing: Pacing) -> u64 {
    match pacing {
        Pacing::Precise => PRECISE_SLOT_NS,
        Pacing::Thrifty => THRIFTY_SLOT_NS,
    }
}

/// Hands out what is due. Never ends. `is_alone`: no other lane is on this shard.
pub(crate) async fn pace<H: BatchHammer>(
    shop: &Shop<H>,
    pacing: Pacing,
    is_alone: bool,
    report: &RefCell<PacingReport>,
) {
    let look = |waker: &Waker| {
        let now_ns = shop.clock.now_ns();
        let look = shop.dispatch.poll_pace(now_ns, waker, &mut shop.missed(now_ns));
        look.map(|look| look.map(|look| (now_ns, look)))
    };
    match pacing {
        Pacing::Thrifty => {
            let mut alarm: Option<(Timer, u64)> = None;
            poll_fn(|cx| {
                if let Some((timer, at_ns)) = &mut alarm
                    && Pin::new(timer).poll(cx).is_ready()
                {
                    report.borrow_mut().woke(shop.clock.now_ns().saturating_sub(*at_ns));
                    alarm = None;
                }
                // One nap at a time: the executor has others to serve.
                let mut may_nap = is_alone;
                loop {
                    let Some((now_ns, Look { at_ns, is_quiet })) = ready!(look(cx.waker())) else {
                        return Poll::Ready(());
                    };
                    let wait_ns = at_ns.saturating_sub(now_ns);
                    if may_nap && is_quiet && wait_ns <= NAP_NS_MAX {
                        std::thread::sleep(Duration::from_nanos(wait_ns));
                        let end_ns = shop.clock.now_ns();
                        shop.nap.set(now_ns..end_ns);
                        report.borrow_mut().woke(end_ns.saturating_sub(at_ns));
                        may_nap = false;
                        continue;
                    }
                    if alarm.as_ref().is_none_or(|(_, known_ns)| *known_ns != at_ns) {
                        alarm = Some((Timer::new(Duration::from_nanos(wait_ns)), at_ns));
                    }
                    let timer = &mut alarm.as_mut().expect("just set").0;
                    match Pin::new(timer).poll(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(_) => alarm = None,
                    }
                }
            })
            .await;
        }
        Pacing::Precise => {
            while let Some((now_ns, Look { at_ns, .. })) = poll_fn(|cx| look(cx.waker())).await {
                let sleep_ns = at_ns.saturating_sub(now_ns + SPIN_NS);
                if sleep_ns > 0 {
                    sleep(Duration::from_nanos(sleep_ns)).await;
                    let late_ns = shop.clock.now_ns().saturating_sub(now_ns + sleep_ns);
                    report.borrow_mut().woke(late_ns);
                }
                let from_ns = shop.clock.now_ns();
                let mut now_ns = from_ns;
                while now_ns < at_ns {
                    spin().await;
                    now_ns = shop.clock.now_ns();
                }
                report.borrow_mut().spun_ns += now_ns - from_ns;
            }
        }
    }
    std::future::pending().await
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
