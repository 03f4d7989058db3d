//! Takes the batch, THEN awaits the sink.
//!
//! Owns the order of write, sync and acknowledgement; leaves bytes and files to the sink.
//! Invariants: one write at a time; a commit is resolved only by the write or sync that covered
//! it; natural batches: while the sink works, what arrives becomes the next batch.

use std::rc::Rc;
use std::time::Instant;

use futures_lite::future::or;
use glommio::timer::sleep;
use proto::hello::Durability::{self, Durable, Received, Written};
use tracing::{error, warn};

use crate::counters::Counter;
use crate::ingest::Wrote;
use crate::ingest::batch::{Due, Taken};
use crate::ingest::commit::{Outcome, Ticket};
use crate::intake::Intake;
use crate::sink::disk::Disk;
use crate::sink::{Sink, WriteError};
use crate::times::Timed;

/// What the flusher does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Flush,
    Sync,
    Wait,
    WaitUntil(Instant),
    Finish,
}

/// Flushes until the intake is closing and nothing is left; gives what went wrong.
pub(crate) async fn run<D: Disk>(intake: Rc<Intake<D::Buf>>, sink: Sink<D>) -> Result<(), String> {
    let mut flusher =
        Flusher { intake, sink, written: Vec::new(), dirty_since: None, broken: None };
    loop {
        match flusher.next(Instant::now()) {
            Step::Flush => flusher.flush().await,
            Step::Sync => flusher.sync().await,
            Step::Wait => flusher.intake.flush.notified().await,
            Step::WaitUntil(deadline) => {
                flusher.intake.flusher_wakes_at.set(Some(deadline));
                let rest = deadline.saturating_duration_since(Instant::now());
                or(flusher.intake.flush.notified(), sleep(rest)).await;
                flusher.intake.flusher_wakes_at.set(None);
            }
            Step::Finish => break,
        }
    }
    let closed = flusher.sink.close().await.map_err(|error| error.to_string());
    flusher.broken.map_or(closed, Err)
}

struct Flusher<D: Disk> {
    intake: Rc<Intake<D::Buf>>,
    sink: Sink<D>,
    /// Commits that are written and wait for a sync.
    written: Vec<Ticket>,
    dirty_since: Option<Instant>,
    /// Why the sink takes nothing more.
    broken: Option<String>,
}

impl<D: Disk> Flusher<D> {
    fn next(&self, now: Instant) -> Step {
        let due = self.intake.ingest.borrow().due();
        let sync_at = self.sync_deadline();
        let step = decide(due, self.intake.is_closing(), sync_at, now);
        // A broken sink is asked for nothing but the answer to what is still in the batch.
        if self.broken.is_some() && step == Step::Sync { Step::Wait } else { step }
    }

    fn sync_deadline(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + self.intake.terms.sync_after)
    }

    async fn flush(&mut self) {
        let next = self.sink.alloc(self.intake.terms.buffer_bytes);
        let Taken { staged, commit, lines } = self.intake.take(next);
        let bytes = (staged.len - staged.head) as u64;
        let began = Instant::now();
        let written = self.sink.write(staged).await;
        let took = began.elapsed();
        self.intake.counters.times().add(Timed::Write, took, 1);
        match written {
            Ok(()) => self.wrote(commit, lines, bytes),
            Err(error) => self.failed(&commit, lines, &error),
        }
        let overdue = self.sync_deadline().is_some_and(|deadline| deadline <= Instant::now());
        if self.broken.is_none() && (!self.written.is_empty() || overdue) {
            self.sync().await;
        }
    }

    fn failed(&mut self, commit: &Ticket, lines: u64, error: &WriteError) {
        let counters = &self.intake.counters;
        counters.add(Counter::CommitsFailed, 1);
        counters.add(Counter::LostAfterReceived, commit.lines(Received));
        self.resolve(commit, Written, Outcome::Failed);
        self.resolve(commit, Durable, Outcome::Failed);
        if error.is_final() {
            self.give_up(error.to_string());
        } else {
            warn!(shard = self.intake.terms.ingest.shard, lines, "lines are not stored: {error}");
            let full = error.is_disk_full();
            self.intake.wrote(if full { Wrote::DiskFull } else { Wrote::Failed });
        }
        commit.wrote(Outcome::Failed);
    }

    fn wrote(&mut self, commit: Ticket, lines: u64, bytes: u64) {
        self.intake.wrote(Wrote::All);
        self.intake.counters.add(Counter::Commits, 1);
        self.intake.counters.add(Counter::LinesWritten, lines);
        self.intake.counters.add(Counter::BytesWritten, bytes);
        self.resolve(&commit, Written, Outcome::Stored);
        commit.wrote(Outcome::Stored);
        if self.dirty_since.is_none() && self.sink.is_dirty() {
            self.dirty_since = Some(Instant::now());
        }
        if commit.lines(Durable) > 0 {
            self.written.push(commit);
        }
    }

    async fn sync(&mut self) {
        let began = Instant::now();
        let synced = self.sink.sync().await;
        self.intake.counters.times().add(Timed::Sync, began.elapsed(), 1);
        let outcome = match synced {
            Ok(()) => {
                self.intake.counters.add(Counter::Syncs, 1);
                Outcome::Stored
            }
            Err(error) => {
                if error.is_final {
                    self.give_up(error.to_string());
                }
                Outcome::Failed
            }
        };
        self.dirty_since = None;
        for commit in std::mem::take(&mut self.written) {
            self.resolve(&commit, Durable, outcome);
            commit.synced(outcome);
        }
    }

    /// Moves the lines of `commit` that were promised `durability` from in flight to where they end.
    fn resolve(&self, commit: &Ticket, durability: Durability, outcome: Outcome) {
        let lines = commit.lines(durability);
        if lines == 0 {
            return;
        }
        let counters = &self.intake.counters;
        counters.take(Counter::InFlight, lines);
        match outcome {
            Outcome::Stored => counters.add(Counter::Ok, lines),
            Outcome::Failed => {
                counters.add(Counter::Error, lines);
                counters.add(Counter::StorageFailed, lines);
            }
        }
        let now = Instant::now();
        commit.each_arrival(durability, |arrival| {
            let took = now.saturating_duration_since(arrival.read_at);
            counters.times().add(Timed::Reply, took, arrival.lines);
        });
    }

    /// A failed sync is final: the data may be gone although the next sync succeeds.
    fn give_up(&mut self, reason: String) {
        self.intake.refuse_all();
        if self.broken.is_none() {
            error!(shard = self.intake.terms.ingest.shard, "the storage has failed: {reason}");
            self.broken = Some(reason);
        }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::ErrorKind;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;
    use crate::counters::Counters;
    use crate::ingest::batch::Limits;
    use crate::ingest::lanes::Policy;
    use crate::ingest::{self, Fate, Why, breaker};
    use crate::intake::Terms;
    use crate::sink::disk::faulty::{FaultyDisk, Operation, Verdict};
    use crate::sink::file::{FileSink, Plan};

    const LATER: Duration = Duration::from_millis(100);
    const GOOD: &[u8] = br#"{"level":"INFO","message":"m"}"#;

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

    fn ingest_terms() -> ingest::Terms {
        ingest::Terms {
            shard: 0,
            level_min: proto::level::Level::Debug,
            batch: Limits { bytes_max: 1 << 15, lines_flush: 500, flush_after: LATER },
            overload: Policy::Wait,
            breaker: None,
            disk_free_bytes_min: 0,
        }
    }

    /// A flusher over a disk that does what `judge` says, and the intake in front of it.
    struct Bench {
        disk: FaultyDisk,
        intake: Rc<Intake<<FaultyDisk as Disk>::Buf>>,
        flusher: glommio::Task<Result<(), String>>,
        /// In place of the shard's keeper.
        keeper: glommio::Task<()>,
    }

    async fn bench(judge: impl FnMut(&Path, &Operation) -> Verdict + 'static) -> Bench {
        bench_with(ingest_terms(), judge).await
    }

    async fn bench_with(
        ingest: ingest::Terms,
        judge: impl FnMut(&Path, &Operation) -> Verdict + 'static,
    ) -> Bench {
        let disk = FaultyDisk::new(judge).on_executor();
        let plan = Plan::for_test(Path::new(""), 1);
        let sink = FileSink::begin(disk.clone(), &plan, 0, 1 << 20, Arc::default()).await.unwrap();
        let sink = Sink::File(sink);
        let terms = Terms { buffer_bytes: 1 << 16, sync_after: LATER, ingest };
        let buf = sink.alloc(terms.buffer_bytes);
        let intake = Rc::new(Intake::new(terms, Rc::new(Counters::default()), buf));
        let flusher = glommio::spawn_local(run(Rc::clone(&intake), sink));
        let kept = Rc::clone(&intake);
        let keeper = glommio::spawn_local(async move {
            loop {
                sleep(Duration::from_millis(5)).await;
                kept.tick(u64::MAX, Instant::now());
            }
        });
        Bench { disk, intake, flusher, keeper }
    }

    /// What became of an offered line.
    #[derive(Debug)]
    enum Told {
        Batched(Ticket),
        Refused(Why),
        Held,
    }

    impl Bench {
        fn tell(&self, line: &[u8], durability: Durability) -> Told {
            let fate = match self.intake.ingest.borrow_mut().offer(line, durability, Instant::now())
            {
                Fate::Batched(ticket, _) => Told::Batched(Rc::clone(ticket)),
                Fate::Refused(refusal) => Told::Refused(refusal.why),
                Fate::Held => Told::Held,
                other => panic!("{other:?}"),
            };
            self.intake.nudge_flusher();
            fate
        }

        fn offer(&self, durability: Durability) -> Option<Ticket> {
            match self.tell(GOOD, durability) {
                Told::Batched(ticket) => Some(ticket),
                Told::Refused(_) => None,
                Told::Held => panic!("held"),
            }
        }

        async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
            let began = Instant::now();
            while !is_so() {
                assert!(began.elapsed() < Duration::from_secs(20), "never {what}");
                sleep(Duration::from_millis(1)).await;
            }
        }

        fn count(&self, counter: Counter) -> u64 {
            self.intake.counters.get(counter)
        }

        /// Waits for the outcome, with the deadline of a test.
        async fn outcome(&self, ticket: &Ticket, durability: Durability) -> Outcome {
            self.until("known", || ticket.outcome(durability).is_some()).await;
            ticket.outcome(durability).unwrap()
        }

        async fn end(self) -> (Result<(), String>, crate::counters::Snapshot) {
            self.intake.close();
            let ended = self.flusher.await;
            self.keeper.cancel().await;
            let counted = self.intake.counters.snapshot();
            assert!(counted.is_balanced(), "{counted:?}");
            assert_eq!(counted.get(Counter::InFlight), 0);
            (ended, counted)
        }
    }

    fn on_an_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
        LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(1 << 20)
            .spawn(test)
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn a_failed_write_fails_its_own_lines_and_the_next_write_succeeds() {
        on_an_executor(|| async {
            let fails = Rc::new(Cell::new(true));
            let asked = Rc::clone(&fails);
            let bench = bench(move |_, operation| match operation {
                Operation::Write { .. } if asked.get() => Verdict::Fail(ErrorKind::Other),
                _ => Verdict::Go,
            })
            .await;
            let lost = bench.offer(Written).unwrap();
            let promised = bench.offer(Received).unwrap();
            assert_eq!(bench.outcome(&lost, Written).await, Outcome::Failed);
            assert_eq!(bench.outcome(&promised, Received).await, Outcome::Stored);
            fails.set(false);
            let kept = bench.offer(Written).unwrap();
            assert_eq!(bench.outcome(&kept, Written).await, Outcome::Stored);
            let (ended, counted) = bench.end().await;
            ended.unwrap();
            assert_eq!(counted.get(Counter::Error), 1);
            assert_eq!(counted.get(Counter::LostAfterReceived), 1);
            assert_eq!(counted.get(Counter::Ok), 2);
        });
    }

    #[test]
    fn a_failed_sync_fails_durable_lines_and_nothing_more_is_taken() {
        on_an_executor(|| async {
            let writes = Rc::new(Cell::new(0));
            let seen = Rc::clone(&writes);
            let bench = bench(move |_, operation| match operation {
                Operation::Write { .. } => {
                    seen.set(seen.get() + 1);
                    Verdict::Go
                }
                Operation::Sync if seen.get() > 0 => Verdict::Fail(ErrorKind::Other),
                _ => Verdict::Go,
            })
            .await;
            let written = bench.offer(Written).unwrap();
            let durable = bench.offer(Durable).unwrap();
            assert_eq!(bench.outcome(&written, Written).await, Outcome::Stored);
            assert_eq!(bench.outcome(&durable, Durable).await, Outcome::Failed);
            let told = bench.tell(GOOD, Written);
            assert!(matches!(told, Told::Refused(Why::StorageFailed)), "{told:?}");
            assert_eq!(bench.count(Counter::StorageDead), 1);
            let (ended, counted) = bench.end().await;
            assert!(ended.unwrap_err().contains("sync"));
            assert_eq!((counted.get(Counter::Ok), counted.get(Counter::Error)), (1, 2));
        });
    }

    #[test]
    fn what_is_written_is_synced_although_nobody_waits_for_it() {
        on_an_executor(|| async {
            let bench = bench(|_, _| Verdict::Go).await;
            let ticket = bench.offer(Written).unwrap();
            assert_eq!(bench.outcome(&ticket, Written).await, Outcome::Stored);
            bench.until("synced", || bench.count(Counter::Syncs) > 0).await;
            bench.end().await.0.unwrap();
        });
    }

    #[test]
    fn a_sink_that_stalls_for_two_seconds_sheds_by_level_keeps_the_order_and_holds_nobody() {
        on_an_executor(|| async {
            let overload = Policy::Shed { low_percent: 60, normal_percent: 80 };
            let bench =
                bench_with(ingest::Terms { overload, ..ingest_terms() }, |_, _| Verdict::Go);
            let bench = bench.await;
            let first = bench.offer(Written).unwrap();
            assert_eq!(bench.outcome(&first, Written).await, Outcome::Stored);
            bench.disk.stall(true);
            let under_way = bench.offer(Written).unwrap();
            let (levels, pad) = (["DEBUG", "INFO", "ERROR"], "x".repeat(400));
            let (mut taken, mut refused) = (vec![0, 0, 0], vec![0, 0, 0]);
            let mut stored = Vec::new();
            let began = Instant::now();
            for number in 0.. {
                if began.elapsed() > Duration::from_secs(2) {
                    break;
                }
                for (lane, level) in levels.iter().enumerate() {
                    let line = format!(r#"{{"level":"{level}","message":"{pad}","n":{number}}}"#);
                    match bench.tell(line.as_bytes(), Written) {
                        Told::Batched(_) => {
                            taken[lane] += 1;
                            stored.push(line);
                        }
                        Told::Refused(Why::Shed) => refused[lane] += 1,
                        other => panic!("{other:?}"),
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(under_way.outcome(Written), None, "it is stalled");
            // 32 KiB hold about 74 of these lines; 44 of them fill 60 %, 59 of them 80 %.
            assert!(taken[0] < taken[1] && taken[1] < taken[2], "{taken:?}");
            assert!(refused[0] > refused[1] && refused[1] > refused[2], "{refused:?}");
            assert!(refused[2] > 0 && (65..=75).contains(&stored.len()), "{}", stored.len());
            bench.disk.stall(false);
            assert_eq!(bench.outcome(&under_way, Written).await, Outcome::Stored);
            let debug = br#"{"level":"DEBUG","message":"after"}"#;
            bench.until("taken", || matches!(bench.tell(debug, Written), Told::Batched(_))).await;
            let disk = bench.disk.clone();
            let (ended, counted) = bench.end().await;
            ended.unwrap();
            // Those of the last wait for room came on top.
            assert!(counted.get(Counter::Shed) >= refused.iter().sum::<u64>());
            assert_eq!(counted.get(Counter::Error), counted.get(Counter::Shed));
            let files = disk.files(|file| String::from_utf8(file.bytes.clone()).unwrap());
            let lines = files.iter().flat_map(|(_, text)| text.lines());
            let padded: Vec<_> = lines.filter(|line| line.contains(&pad)).collect();
            assert!(padded == stored, "what was taken is there, in its order");
        });
    }

    #[test]
    fn a_write_that_hangs_opens_the_breaker_before_it_ends_and_a_probe_closes_it() {
        on_an_executor(|| async {
            let breaker = Some(breaker::Limits {
                failures_max: 3,
                slow: Duration::from_millis(20),
                open: Duration::from_millis(100),
            });
            let bench = bench_with(ingest::Terms { breaker, ..ingest_terms() }, |_, _| Verdict::Go);
            let bench = bench.await;
            bench.disk.stall(true);
            let hangs = bench.offer(Written).unwrap();
            let is_write = |operation: &Operation| matches!(operation, Operation::Write { .. });
            let began = || bench.disk.log().iter().any(|(_, operation, _)| is_write(operation));
            bench.until("under way", began).await;
            let long = format!(r#"{{"level":"INFO","message":"{}"}}"#, "x".repeat(8000));
            while matches!(bench.tell(long.as_bytes(), Written), Told::Batched(_)) {}
            bench.intake.room.join(None, std::task::Waker::noop());
            bench.until("open", || bench.count(Counter::BreakersOpen) == 1).await;
            bench.until("let go", || bench.intake.room.is_empty()).await;
            assert!(matches!(bench.tell(b"[", Written), Told::Refused(Why::BreakerOpen { .. })));
            sleep(Duration::from_millis(250)).await;
            assert_eq!(bench.count(Counter::BreakersOpen), 1, "as long as it hangs");
            assert_eq!((hangs.outcome(Written), bench.count(Counter::BreakerOpened)), (None, 1));
            bench.disk.stall(false);
            // What was let in before is written, and the next line is the probe.
            assert_eq!(bench.outcome(&hangs, Written).await, Outcome::Stored);
            bench.until("half-open", || bench.count(Counter::BreakersOpen) == 0).await;
            bench.until("closed", || bench.offer(Written).is_some()).await;
            let (ended, counted) = bench.end().await;
            ended.unwrap();
            assert_eq!(counted.get(Counter::Error), counted.get(Counter::BreakerRefused));
            assert_eq!(counted.get(Counter::CommitsFailed), 0);
        });
    }

    #[test]
    fn writes_that_fail_open_the_breaker_and_only_one_batch_tries_while_they_do() {
        on_an_executor(|| async {
            let breaker = Some(breaker::Limits {
                failures_max: 3,
                slow: Duration::from_secs(60),
                open: Duration::from_millis(50),
            });
            let terms = ingest::Terms { breaker, ..ingest_terms() };
            let fails = Rc::new(Cell::new(true));
            let asked = Rc::clone(&fails);
            let bench = bench_with(terms, move |_, operation| match operation {
                Operation::Write { .. } if asked.get() => Verdict::Fail(ErrorKind::Other),
                _ => Verdict::Go,
            });
            let bench = bench.await;
            for _ in 0..3 {
                let ticket = bench.offer(Written).unwrap();
                assert_eq!(bench.outcome(&ticket, Written).await, Outcome::Failed);
            }
            assert!(bench.offer(Written).is_none(), "open");
            let began = Instant::now();
            let mut tried = 0;
            while tried < 3 {
                assert!(began.elapsed() < Duration::from_secs(20), "no probe");
                if let Some(probe) = bench.offer(Written) {
                    tried += 1;
                    assert_eq!(bench.outcome(&probe, Written).await, Outcome::Failed);
                    assert!(bench.offer(Written).is_none(), "open again");
                }
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(bench.count(Counter::BreakerOpened), 4);
            fails.set(false);
            bench.until("half-open", || bench.count(Counter::BreakersOpen) == 0).await;
            let probe = bench.offer(Written).unwrap();
            assert_eq!(bench.outcome(&probe, Written).await, Outcome::Stored);
            assert!(bench.offer(Written).is_some(), "closed");
            let (ended, counted) = bench.end().await;
            ended.unwrap();
            assert_eq!(counted.get(Counter::CommitsFailed), 6);
        });
    }

    #[test]
    fn a_write_without_room_fails_its_lines_and_the_next_ones_are_not_taken_for_a_while() {
        on_an_executor(|| async {
            let full = Rc::new(Cell::new(true));
            let asked = Rc::clone(&full);
            let bench = bench(move |_, operation| match operation {
                Operation::Write { .. } if asked.get() => Verdict::Fail(ErrorKind::StorageFull),
                _ => Verdict::Go,
            })
            .await;
            let lost = bench.offer(Written).unwrap();
            assert_eq!(bench.outcome(&lost, Written).await, Outcome::Failed);
            full.set(false);
            let told = bench.tell(GOOD, Written);
            assert!(matches!(told, Told::Refused(Why::DiskFull)), "{told:?}");
            bench.until("taken again", || bench.offer(Written).is_some()).await;
            let (ended, counted) = bench.end().await;
            ended.unwrap();
            assert_eq!((counted.get(Counter::Ok), counted.get(Counter::CommitsFailed)), (1, 1));
            assert_eq!(counted.get(Counter::Error), 1 + counted.get(Counter::DiskFull));
        });
    }
}
