//! Counts and names the turns that hold a shard for too long.
//!
//! A shard's tasks share one thread: while one has its turn, all others wait. Every task of a shard
//! runs inside a [`Watched`], which takes the time of each turn. Time counts as it passes for the
//! others, so a thread that the kernel put aside in the middle of a turn is a stall, too.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::counters::{Counter, Counters};

/// A longer turn is a stall.
const TURN_MAX: Duration = Duration::from_millis(10);

/// What a task of a shard is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Accepts.
    Listener,
    /// Takes what other shards accepted.
    Arrivals,
    /// Serves one connection.
    Connection(Option<SocketAddr>),
    /// Tells a client why it is not served.
    Refusal,
    /// Takes datagrams.
    Datagrams,
    /// Writes and syncs.
    Flusher,
    /// Looks after time and memory.
    Keeper,
}

impl Task {
    fn stalls(self) -> Counter {
        match self {
            Task::Listener | Task::Arrivals => Counter::StallsListener,
            Task::Connection(_) | Task::Refusal => Counter::StallsConnection,
            Task::Flusher => Counter::StallsFlusher,
            Task::Keeper => Counter::StallsKeeper,
            Task::Datagrams => Counter::StallsDatagrams,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Listener => f.write_str("listener"),
            Task::Arrivals => f.write_str("arrivals"),
            Task::Connection(Some(peer)) => write!(f, "connection of {peer}"),
            Task::Connection(None) => f.write_str("connection"),
            Task::Refusal => f.write_str("refusal"),
            Task::Datagrams => f.write_str("datagrams"),
            Task::Flusher => f.write_str("flusher"),
            Task::Keeper => f.write_str("keeper"),
        }
    }
}

/// A task under observation.
pub(crate) struct Watched<F> {
    task: Task,
    shard: usize,
    counters: Rc<Counters>,
    // Boxed, because a future that is pinned inside an async block would be kept twice.
    work: Pin<Box<F>>,
}

/// Observes `work`, a task of `shard`.
pub(crate) fn watched<F>(task: Task, shard: usize, counters: &Rc<Counters>, work: F) -> Watched<F> {
    Watched { task, shard, counters: Rc::clone(counters), work: Box::pin(work) }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let began = Instant::now();
        let polled = self.work.as_mut().poll(cx);
        let held = began.elapsed();
        if held > TURN_MAX {
            self.tell(held);
        }
        polled
    }
}

impl<F> Watched<F> {
    #[cold]
    fn tell(&self, held: Duration) {
        self.counters.add(self.task.stalls(), 1);
        let (shard, held_ms) = (self.shard, held.as_millis());
        warn!(shard, task = %self.task, held_ms, "a turn held its shard for too long");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_lite::future::{block_on, yield_now};

    use super::*;

    /// Runs `work` watched; gives how many stalls were counted, and what was logged.
    fn observe(task: Task, work: impl Future<Output = ()>) -> (u64, String) {
        let counters = Rc::new(Counters::default());
        let log = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(crate::logs::Collect(Arc::clone(&log)))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            block_on(watched(task, 3, &counters, work));
        });
        let said = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        (counters.get(task.stalls()), said)
    }

    #[test]
    fn a_turn_that_blocks_is_counted_and_named() {
        let peer = "192.0.2.1:99".parse().unwrap();
        let (stalls, said) = observe(Task::Connection(Some(peer)), async {
            yield_now().await;
            std::thread::sleep(TURN_MAX * 3);
            yield_now().await;
        });
        // A busy machine may add some of its own.
        assert!((1..=3).contains(&stalls), "{stalls}");
        for word in ["shard=3", "task=connection of 192.0.2.1:99", "held_ms="] {
            assert!(said.contains(word), "no {word} in {said}");
        }
    }

    #[test]
    fn waiting_between_turns_is_no_stall() {
        // Each turn is a moment; all of them together take longer than one may.
        let began = Instant::now();
        let (stalls, said) = observe(Task::Keeper, async {
            while began.elapsed() < TURN_MAX * 20 {
                std::thread::sleep(TURN_MAX / 10);
                yield_now().await;
            }
        });
        assert!(stalls < 10, "{stalls}: {said}");
    }
}
