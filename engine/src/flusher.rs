//! Takes the batch, THEN awaits the sink.
//!
//! Owns the order of write, sync and acknowledgement; leaves bytes and files to the sink.
//! Invariants: one write at a time; a commit is resolved only by the write or sync that covered
//! it; natural batches: while the sink works, what arrives becomes the next batch.

use std::rc::Rc;
use std::time::Instant;

use futures_lite::future::or;
use glommio::timer::sleep;
use proto::code::Code;
use proto::hello::Durability::{Durable, Received, Written};

use crate::counters::Counter;
use crate::ingest::batch::{Due, Taken};
use crate::ingest::commit::{Outcome, Ticket};
use crate::shard::Shard;
use crate::sink::Sink;
use crate::sink::disk::RealDisk;

/// What the flusher does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Flush,
    Sync,
    Wait,
    WaitUntil(Instant),
    Finish,
}

/// Flushes until the shard is closing and nothing is left; gives what went wrong at the end.
pub(crate) async fn run(shard: Rc<Shard>, sink: Sink<RealDisk>) -> Result<(), String> {
    let mut flusher = Flusher { shard, sink, written: Vec::new(), dirty_since: None, broken: None };
    loop {
        match flusher.next(Instant::now()) {
            Step::Flush => flusher.flush().await,
            Step::Sync => flusher.sync().await,
            Step::Wait => flusher.shard.flush.notified().await,
            Step::WaitUntil(deadline) => {
                flusher.shard.flusher_wakes_at.set(Some(deadline));
                let rest = deadline.saturating_duration_since(Instant::now());
                or(flusher.shard.flush.notified(), sleep(rest)).await;
                flusher.shard.flusher_wakes_at.set(None);
            }
            Step::Finish => break,
        }
    }
    let closed = flusher.sink.close().await.map_err(|error| error.to_string());
    flusher.broken.map_or(closed, Err)
}

struct Flusher {
    shard: Rc<Shard>,
    sink: Sink<RealDisk>,
    /// Commits that are written and wait for a sync.
    written: Vec<Ticket>,
    dirty_since: Option<Instant>,
    /// Why the sink takes nothing more.
    broken: Option<String>,
}

impl Flusher {
    fn next(&self, now: Instant) -> Step {
        let due = self.shard.ingest.borrow().due();
        let sync_at = self.sync_deadline();
        let step = decide(due, self.shard.closing.get(), sync_at, now);
        // A broken sink is asked for nothing but the answer to what is still in the batch.
        if self.broken.is_some() && step == Step::Sync { Step::Wait } else { step }
    }

    fn sync_deadline(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.shard.settings.sync_after)
    }

    async fn flush(&mut self) {
        let next = self.sink.alloc(self.shard.settings.batch_buffer_bytes);
        let Taken { staged, commit, lines } = self.shard.ingest.borrow_mut().take(next);
        self.shard.room.wake_all();
        match self.sink.write(staged).await {
            Ok(()) => self.wrote(commit, lines),
            Err(error) => {
                let counters = &self.shard.counters;
                counters.add(Counter::CommitsFailed, 1);
                counters.add(Counter::LostAfterReceived, commit.lines(Received));
                self.resolve(commit.lines(Written) + commit.lines(Durable), Outcome::Failed);
                commit.wrote(Outcome::Failed);
                if error.is_final() {
                    self.give_up(error.to_string());
                }
            }
        }
        let overdue = self.sync_deadline().is_some_and(|deadline| deadline <= Instant::now());
        if self.broken.is_none() && (!self.written.is_empty() || overdue) {
            self.sync().await;
        }
    }

    fn wrote(&mut self, commit: Ticket, lines: u64) {
        self.shard.counters.add(Counter::Commits, 1);
        self.shard.counters.add(Counter::LinesWritten, lines);
        self.resolve(commit.lines(Written), Outcome::Stored);
        commit.wrote(Outcome::Stored);
        if self.dirty_since.is_none() && self.sink.is_dirty() {
            self.dirty_since = Some(Instant::now());
        }
        if commit.lines(Durable) > 0 {
            self.written.push(commit);
        }
    }

    async fn sync(&mut self) {
        let outcome = match self.sink.sync().await {
            Ok(()) => {
                self.shard.counters.add(Counter::Syncs, 1);
                Outcome::Stored
            }
            Err(error) => {
                self.give_up(error.to_string());
                Outcome::Failed
            }
        };
        self.dirty_since = None;
        for commit in std::mem::take(&mut self.written) {
            self.resolve(commit.lines(Durable), outcome);
            commit.synced(outcome);
        }
    }

    /// Moves `lines` from in flight to where they end.
    fn resolve(&self, lines: u64, outcome: Outcome) {
        self.shard.counters.take(Counter::InFlight, lines);
        let end = match outcome {
            Outcome::Stored => Counter::Ok,
            Outcome::Failed => Counter::Error,
        };
        self.shard.counters.add(end, lines);
    }

    /// A failed sync is final: the data may be gone although the next sync succeeds.
    fn give_up(&mut self, reason: String) {
        self.shard.ingest.borrow_mut().close(Code::StorageFailed);
        self.shard.room.wake_all();
        self.broken.get_or_insert(reason);
    }
}

fn decide(due: Due, closing: bool, sync_at: Option<Instant>, now: Instant) -> Step {
    match due {
        Due::Now => Step::Flush,
        Due::At(_) if closing => Step::Flush,
        Due::Never if closing => Step::Finish,
        Due::At(at) if at <= now => Step::Flush,
        _ if sync_at.is_some_and(|at| at <= now) => Step::Sync,
        Due::At(at) => Step::WaitUntil(sync_at.map_or(at, |sync_at| sync_at.min(at))),
        Due::Never => sync_at.map_or(Step::Wait, Step::WaitUntil),
    }
}

/// No deadline lies further away; for tests of the decision.
#[cfg(test)]
const LATER: std::time::Duration = std::time::Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_wait_for_nothing_wait_for_the_nearest_deadline() {
        let now = Instant::now();
        let (soon, later) = (now + LATER, now + 2 * LATER);
        assert_eq!(decide(Due::Now, false, None, now), Step::Flush);
        assert_eq!(decide(Due::At(later), false, Some(soon), now), Step::WaitUntil(soon));
        assert_eq!(decide(Due::At(soon), false, Some(later), now), Step::WaitUntil(soon));
        assert_eq!(decide(Due::At(now), false, None, now), Step::Flush);
        assert_eq!(decide(Due::Never, false, Some(now), now), Step::Sync);
        assert_eq!(decide(Due::Never, false, Some(soon), now), Step::WaitUntil(soon));
        assert_eq!(decide(Due::Never, false, None, now), Step::Wait);
    }

    #[test]
    fn at_the_end_what_is_left_is_flushed_before_finishing() {
        let now = Instant::now();
        assert_eq!(decide(Due::At(now + LATER), true, None, now), Step::Flush);
        assert_eq!(decide(Due::Never, true, Some(now + LATER), now), Step::Finish);
    }
}
