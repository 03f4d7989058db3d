//! What a service manager is told (`sd_notify`): that the engine is ready, what it does, that its
//! shards still turn, that it stops.
//!
//! Owns the thread that tells it; does nothing where no NOTIFY_SOCKET is set. Invariant: the watchdog
//! is fed only after every shard has published its numbers anew: one that hangs ends the feeding, and
//! the manager ends the engine. A datagram that cannot be sent is no trouble of the engine's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::stop::Stop;
use sd_notify::NotifyState;

use crate::counters::{Counter, Published};
use crate::error::Error;
use crate::status::{Status, connections};

/// How often the manager is told what goes on.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often this thread looks around.
const GLANCE: Duration = Duration::from_millis(250);

fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// The engine has begun, and may take its time.
pub(crate) fn starting() {
    tell(&[NotifyState::Status("recovering LOG_DIR")]);
}

/// The engine takes nothing new.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// The engine is ready; from now on its state is told, and the watchdog fed, until it stops.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn ready(
    listens: String,
    status: &Arc<Status>,
    published: &[Arc<Published>],
    stop: &Stop,
) -> Result<(), Error> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    tell(&[
        NotifyState::MainPid(std::process::id()),
        NotifyState::Ready,
        NotifyState::Status(&listens),
    ]);
    let (status, stop) = (Arc::clone(status), stop.clone());
    let mut watchdog = sd_notify::watchdog_enabled().map(|limit| Watchdog::new(limit, published));
    let work = move || {
        let mut told_at = Instant::now();
        while !stop.is_requested() {
            let now = Instant::now();
            if watchdog.as_mut().is_some_and(|watchdog| watchdog.is_due(now)) {
                tell(&[NotifyState::Watchdog]);
            }
            if told_at.elapsed() >= STATUS_EVERY {
                told_at = now;
                tell(&[NotifyState::Status(&sentence(&listens, &status))]);
            }
            std::thread::sleep(GLANCE);
        }
    };
    std::thread::Builder::new().name("service".into()).spawn(work).map(drop).map_err(Error::Thread)
}

fn sentence(listens: &str, status: &Status) -> String {
    let hindrances = status.hindrances();
    if !hindrances.is_empty() {
        return format!("not ready: {}", hindrances.join("; "));
    }
    let shards = status.snapshots();
    let open: u64 = shards.iter().map(connections).sum();
    let taken: u64 = shards.iter().map(|shard| shard.get(Counter::Received)).sum();
    format!("{listens}; {open} connections, {taken} messages so far")
}

/// When to feed the manager's watchdog.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    fed_at: Option<Instant>,
    published: Vec<Arc<Published>>,
    /// How far each shard had come at the last feeding.
    versions: Vec<u64>,
}

impl Watchdog {
    /// One that bites after `limit`.
    fn new(limit: Duration, published: &[Arc<Published>]) -> Watchdog {
        let versions = vec![0; published.len()];
        // Twice as often as is asked, as sd_watchdog_enabled(3) has it; and a glance may be late.
        Watchdog { every: limit / 3, fed_at: None, published: published.to_vec(), versions }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if self.fed_at.is_some_and(|at| now < at + self.every) {
            return false;
        }
        let versions: Vec<u64> = self.published.iter().map(|it| it.version()).collect();
        let all_turn = versions.iter().zip(&self.versions).all(|(now, before)| now > before);
        if all_turn {
            (self.fed_at, self.versions) = (Some(now), versions);
        }
        all_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;

    #[test]
    fn the_watchdog_is_fed_while_every_shard_turns() {
        let published = [Arc::new(Published::default()), Arc::new(Published::default())];
        let counters = Counters::default();
        let turn = |shard: usize| counters.publish(&published[shard]);
        let mut watchdog = Watchdog::new(Duration::from_secs(3), &published);
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert!(!watchdog.is_due(at(0)), "no shard has begun");
        turn(0);
        assert!(!watchdog.is_due(at(0)), "one has not");
        turn(1);
        assert!(watchdog.is_due(at(0)));
        (0..2).for_each(turn);
        assert!(!watchdog.is_due(at(0)), "not as often as that");
        assert!(watchdog.is_due(at(1)));
        turn(1);
        assert!(!watchdog.is_due(at(2)), "shard 0 hangs");
        assert!(!watchdog.is_due(at(9)), "and hangs");
        turn(0);
        assert!(watchdog.is_due(at(9)));
    }
}
