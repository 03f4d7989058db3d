//! Pinned executors, one a core.
//!
//! Each shard is a thread with a glommio executor of its own, pinned with core_affinity. A shard
//! runs only once every shard has its rings; when one of them cannot start, none runs.
//! Invariant: one executor per shard per process life (executors leak a little at their end).

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};

use crate::awake::kept_awake;
use crate::{ring_flags, rouse};

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Threads are named `{name}-{shard}`.
    pub name: &'static str,
    /// Shards, at least 1.
    pub count: usize,
    /// Cpus to pin to, in order; with more shards than cpus they are shared round robin.
    pub cpus: Vec<usize>,
    /// How long a shard may run tasks before it looks at its rings again.
    pub preempt: Duration,
    /// Entries of each ring: at least the number of connections that are busy at a time helps.
    pub ring_depth: usize,
    /// Memory registered with the rings, bytes.
    pub io_memory_bytes: usize,
}

/// Why shards did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The thread could not be made.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// glommio could not set its rings up.
    #[error("cannot set up the rings of {name}: {reason}")]
    Rings {
        /// The thread's name.
        name: String,
        /// glommio's reason, with the remedy where one is known.
        reason: String,
    },
}

/// A running shard.
#[derive(Debug)]
pub struct Shard<T> {
    // `None` only from a shard that was never let through its gate; then `start` has failed.
    thread: JoinHandle<Option<T>>,
}

impl<T> Shard<T> {
    /// Waits for the shard's end. A panic of the shard goes on here.
    pub fn join(self) -> T {
        match self.thread.join() {
            Ok(Some(value)) => value,
            Ok(None) => unreachable!("every gate was opened"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Whether the shard has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts `plan.count` pinned executors and gives shard `i` the future `make(i)`.
///
/// # Errors
/// A thread or the rings of one cannot be had; then no shard has run.
pub fn start<T, F, Fut>(plan: &Plan, make: F) -> Result<Vec<Shard<T>>, StartError>
where
    T: Send + 'static,
    F: Fn(usize) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = T> + 'static,
{
    assert!(plan.count > 0, "a program has at least one shard");
    rouse::prepare().map_err(|source| StartError::Thread { name: plan.name.to_owned(), source })?;
    let (ready, readiness) = mpsc::channel::<Result<(), StartError>>();
    let (begins, begun) = mpsc::channel::<usize>();
    let mut shards = Vec::with_capacity(plan.count);
    let mut gates = Vec::with_capacity(plan.count);
    for shard in 0..plan.count {
        let name = format!("{}-{shard}", plan.name);
        let (gate, go) = mpsc::channel::<()>();
        let (plan, make, ready) = (plan.clone(), make.clone(), ready.clone());
        let begins = begins.clone();
        let thread_name = name.clone();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let executor = match executor(&plan, &name) {
                Ok(executor) => executor,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return None;
                }
            };
            if !plan.cpus.is_empty() {
                // After `make`, so that glommio's helper thread is not pinned to this core.
                let id = plan.cpus[shard % plan.cpus.len()];
                core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            let _ = ready.send(Ok(()));
            drop(ready);
            go.recv().ok()?;
            let work = make(shard);
            Some(executor.run(kept_awake(async move {
                let _ = begins.send(shard);
                drop(begins);
                work.await
            })))
        });
        let thread = thread.map_err(|source| StartError::Thread { name: thread_name, source })?;
        shards.push(thread);
        gates.push(gate);
    }
    drop(ready);
    for _ in 0..plan.count {
        // A closed channel means that a thread panicked; its join says so.
        if let Ok(Err(error)) = readiness.recv() {
            drop(gates);
            for thread in shards {
                let _ = thread.join();
            }
            return Err(error);
        }
    }
    assert!(
        ring_flags::wrapped_calls() >= plan.count,
        "the rings were set up past the linker wrap: this package lacks its build.rs"
    );
    for gate in gates {
        let _ = gate.send(());
    }
    drop(begins);
    await_begin(&shards, &begun);
    Ok(shards.into_iter().map(|thread| Shard { thread }).collect())
}

/// A shard that has not begun after so long is woken.
const BEGIN: Duration = Duration::from_millis(20);

/// Waits until every shard has had its first turn, or has ended in a panic.
fn await_begin<T>(shards: &[JoinHandle<T>], begun: &mpsc::Receiver<usize>) {
    let mut waiting: Vec<usize> = (0..shards.len()).collect();
    while !waiting.is_empty() {
        match begun.recv_timeout(BEGIN) {
            Ok(shard) => waiting.retain(|&other| other != shard),
            // All senders are gone: whoever has not begun never will.
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                waiting.iter().for_each(|&shard| rouse::rouse(&shards[shard]));
            }
        }
    }
}

/// Locked memory is charged per user and given back a moment after a process ended: try again.
const ATTEMPTS: u32 = 20;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

fn executor(plan: &Plan, name: &str) -> Result<LocalExecutor, StartError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let made = LocalExecutorBuilder::new(Placement::Unbound)
            .name(name)
            .preempt_timer(plan.preempt)
            .ring_depth(plan.ring_depth)
            .io_memory(plan.io_memory_bytes)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
            .make();
        match made {
            Ok(executor) => return Ok(executor),
            Err(error) if attempt < ATTEMPTS && is_out_of_memory(&error) => {
                std::thread::sleep(ATTEMPT_PAUSE);
            }
            Err(error) => {
                let mut reason = error.to_string();
                if is_out_of_memory(&error) {
                    reason.push_str("; raise the limit on locked memory (`ulimit -l`)");
                }
                return Err(StartError::Rings { name: name.to_owned(), reason });
            }
        }
    }
}

fn is_out_of_memory(error: &GlommioError<()>) -> bool {
    matches!(error, GlommioError::IoError(error) if error.kind() == io::ErrorKind::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_run_pinned_and_through_the_wrap() {
        let cpus = crate::cpus::Cpus::detect().unwrap().affinity;
        let plan = Plan {
            name: "test",
            count: 2,
            cpus: cpus.clone(),
            preempt: Duration::from_millis(1),
            ring_depth: 64,
            io_memory_bytes: 1 << 20,
        };
        let shards =
            start(
                &plan,
                |shard| async move { (shard, crate::cpus::Cpus::detect().unwrap().affinity) },
            )
            .unwrap();
        for (index, shard) in shards.into_iter().enumerate() {
            assert_eq!(shard.join(), (index, vec![cpus[index % cpus.len()]]));
        }
        assert!(ring_flags::wrapped_calls() >= 2 * 3);
    }

    #[test]
    fn a_shard_that_sleeps_through_its_first_turn_is_woken() {
        // A turn so short is mostly over before the executor asks, as on a machine that is far too
        // busy: without being woken one of these starts slept for ever in two of three runs.
        let plan = Plan {
            name: "sleepy",
            count: 1,
            cpus: Vec::new(),
            preempt: Duration::from_micros(6),
            ring_depth: 64,
            io_memory_bytes: 1 << 20,
        };
        for _ in 0..20 {
            let shards = start(&plan, |shard| async move { shard }).unwrap();
            shards.into_iter().for_each(|shard| assert_eq!(shard.join(), 0));
        }
    }
}
