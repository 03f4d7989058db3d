//! Keeps a shard from sleeping with work to do: a way around a fault of glommio 0.9.
//!
//! `LocalExecutor::run_task_queues` asks whether the preempt timer has expired *before* it runs
//! anything. A thread that the kernel descheduled for longer than the preempt time (1 ms here)
//! between arming that timer and asking then runs nothing, reports "nothing to run", and parks. If
//! the tasks that are ready had been woken by their timers, no timer is left to end the sleep: on a
//! busy machine a shard without traffic slept for ever (3 of about 80 runs of 1 s on 2 cores under
//! 12 busy processes; with the ladder none of 756).
//!
//! A timer that is *still pending* does end such a sleep. So a ladder of them is kept ahead of the
//! clock: whichever is next after a missed turn brings the shard back. On a machine with a dozen
//! busy processes a core, several turns in a row are missed; a ladder of seven rungs was used up
//! now and then (two tests of hundreds stood still for half a minute). So there are many rungs near
//! by, and some far ahead. Costs one wake-up in [`STEP`].

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use glommio::timer::Timer;

/// How long a missed turn lasts, mostly.
const STEP: Duration = Duration::from_millis(20);
/// Rungs that are one step apart.
const NEAR_RUNGS: u32 = 32;
/// Rungs behind them, each twice as far as the one before: the last is 41 s ahead.
const FAR_RUNGS: u32 = 6;

/// Runs `work` on the executor of this thread, which then does not sleep with work to do.
pub async fn kept_awake<T>(work: impl Future<Output = T>) -> T {
    let never = async { match keep_awake().await {} };
    futures_lite::future::or(work, never).await
}

/// Climbs for ever.
async fn keep_awake() -> std::convert::Infallible {
    loop {
        let near = (1..=NEAR_RUNGS).map(|rung| STEP * rung);
        let far = (1..=FAR_RUNGS).map(|rung| STEP * NEAR_RUNGS * (1 << rung));
        let mut ladder: Vec<Timer> = near.chain(far).map(Timer::new).collect();
        poll_fn(|cx| {
            // All are polled, because a timer counts only once it has been.
            let polls = ladder.iter_mut().map(|timer| Pin::new(timer).poll(cx).is_ready());
            if polls.fold(false, |any, ready| any | ready) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}
