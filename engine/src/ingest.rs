//! What becomes of a line: decode, admit, batch.
//!
//! Owns the decision about one line and the shard's one batch; never awaits, never touches a
//! socket or a disk. What may refuse a line stands in `breaker`, `lanes` and `disk`, each pure; this
//! file asks them, counts and logs. Leaves framing to `proto::lines`, replies to the connection.
//! Invariants: each line that was not held is counted as received and is in exactly one of the four
//! states; while nothing presses, all that may refuse a line costs one comparison ([`Ingest::offer`]).

pub mod batch;
pub mod breaker;
pub mod commit;
pub mod disk;
pub mod lanes;

use std::rc::Rc;
use std::time::{Duration, Instant};

use proto::code::Code;
use proto::hello::Durability;
use proto::level::Level;
use proto::record::{Id, Record, Rejection, Scratch};
use tracing::{info, warn};

use self::batch::{Batch, Due, Limits, Taken};
use self::breaker::{Breaker, Change, Gate, Strike};
use self::commit::Ticket;
use self::disk::Disk;
use self::lanes::{Lanes, Policy};
use crate::counters::{Counter, Counters};

/// What an admission is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The shard, for its logs.
    pub shard: usize,
    /// Below it a line is filtered.
    pub level_min: Level,
    /// What bounds a batch.
    pub batch: Limits,
    /// What happens to lines when the batch fills up.
    pub overload: Policy,
    /// When writes that fail or are slow close the door; `None`: never.
    pub breaker: Option<breaker::Limits>,
    /// With less free, lines are refused.
    pub disk_free_bytes_min: u64,
}

/// What became of a line.
#[derive(Debug)]
pub enum Fate<'s> {
    /// No room in the batch: nothing was counted, offer it again later.
    Held,
    /// Below MIN_LOG_LEVEL.
    Filtered(Option<Id<'s>>),
    /// In the batch; the reply follows the ticket.
    Batched(&'s Ticket, Option<Id<'s>>),
    /// Not a record: the sender's fault.
    Rejected(Rejection<'s>),
    /// Not taken now: not the sender's fault.
    Refused(Refusal<'s>),
}

/// A line that is not taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'s> {
    /// What stands against it.
    pub why: Why,
    /// The line's name, if it was looked at.
    pub id: Option<Id<'s>>,
}

/// Why lines are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A sync has failed; final.
    StorageFailed,
    /// The breaker is open, or its probe is under way.
    BreakerOpen {
        /// How long that lasts at most, in milliseconds.
        retry_after_ms: u32,
    },
    /// Too little disk is free.
    DiskFull,
    /// The batch is too full for the line's level.
    Shed,
}

impl Why {
    /// On the wire.
    pub fn code(self) -> Code {
        match self {
            Why::StorageFailed => Code::StorageFailed,
            Why::BreakerOpen { .. } => Code::BreakerOpen,
            Why::DiskFull => Code::DiskFull,
            Why::Shed => Code::Overloaded,
        }
    }

    /// For humans.
    pub fn reason(self) -> &'static str {
        match self {
            Why::StorageFailed => "the storage has failed; nothing more is taken",
            Why::BreakerOpen { .. } => "writes fail or are slow (CIRCUIT_BREAKER_ENABLED)",
            Why::DiskFull => "too little disk is free (DISK_FREE_BYTES_MIN)",
            Why::Shed => "the batch is too full for this level (OVERLOAD)",
        }
    }

    /// When it makes sense to try again, in milliseconds.
    pub fn retry_after_ms(self) -> Option<u32> {
        match self {
            Why::StorageFailed => None,
            Why::BreakerOpen { retry_after_ms } => Some(retry_after_ms),
            Why::DiskFull => Some(1000),
            // A sink that is only busy takes the next batch well before.
            Why::Shed => Some(100),
        }
    }

    fn counter(self) -> Counter {
        match self {
            Why::StorageFailed => Counter::StorageFailed,
            Why::BreakerOpen { .. } => Counter::BreakerRefused,
            Why::DiskFull => Counter::DiskFull,
            Why::Shed => Counter::Shed,
        }
    }
}

/// How a write of the sink ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// In full.
    All,
    /// Not; the next one may.
    Failed,
    /// Not, because the disk has no room.
    DiskFull,
}

/// What may keep a line from being batched.
#[derive(Clone, Copy, Debug)]
enum Pressure {
    /// Nothing.
    None,
    /// It has to wait.
    Hold,
    /// No line is taken, and none is looked at.
    Unseen(Why),
    /// No line is taken that could be.
    All(Why),
    /// Its level decides.
    Lanes { has_room: bool },
}

/// The admission of one shard.
#[derive(Debug)]
pub struct Ingest<B> {
    shard: usize,
    level_min: Level,
    counters: Rc<Counters>,
    scratch: Scratch,
    batch: Batch<B>,
    lanes: Lanes,
    breaker: Option<Breaker>,
    disk: Disk,
    /// Set once the sink takes nothing more; every line is refused.
    is_closed: bool,
    /// A batch that stays below this many bytes with a line takes it, whatever the line is. Zero
    /// while lines are refused.
    plain_below: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ingest<B> {
    /// An admission whose first batch is in `buf`.
    pub fn new(terms: Terms, buf: B, counters: Rc<Counters>) -> Ingest<B> {
        let lanes = Lanes::new(terms.overload, terms.batch.bytes_max);
        Ingest {
            shard: terms.shard,
            level_min: terms.level_min,
            counters,
            scratch: Scratch::new(),
            batch: Batch::new(buf, terms.batch),
            lanes,
            breaker: terms.breaker.map(Breaker::new),
            disk: Disk::new(terms.disk_free_bytes_min),
            is_closed: false,
            plain_below: lanes.plain_below(),
        }
    }

    /// Decides about one line whose sender was promised `durability`.
    pub fn offer<'s>(&'s mut self, line: &[u8], durability: Durability, now: Instant) -> Fate<'s> {
        // Before the parse, so that a held line is parsed once.
        let pressure = if self.batch.stays_below(self.plain_below, line.len()) {
            Pressure::None
        } else {
            self.pressure(line.len(), now)
        };
        match pressure {
            Pressure::None | Pressure::All(_) | Pressure::Lanes { .. } => {}
            Pressure::Hold => return Fate::Held,
            Pressure::Unseen(why) => {
                self.counters.add(Counter::Received, 1);
                return refuse(&self.counters, why, None);
            }
        }
        self.counters.add(Counter::Received, 1);
        let record = match Record::parse(line, &mut self.scratch) {
            Ok(record) => record,
            Err(rejection) => {
                self.counters.reject(rejection.code);
                return Fate::Rejected(rejection);
            }
        };
        if record.level < self.level_min {
            self.counters.add(Counter::Filtered, 1);
            return Fate::Filtered(record.id);
        }
        match pressure {
            Pressure::All(why) => return refuse(&self.counters, why, record.id),
            Pressure::Lanes { has_room }
                if !has_room || !self.lanes.is_open(record.level, self.batch.filled_bytes()) =>
            {
                return refuse(&self.counters, Why::Shed, record.id);
            }
            _ => {}
        }
        let state =
            if durability == Durability::Received { Counter::Ok } else { Counter::InFlight };
        self.counters.add(state, 1);
        Fate::Batched(self.batch.push(line, durability, now), record.id)
    }

    #[cold]
    #[inline(never)]
    fn pressure(&mut self, line_bytes: usize, now: Instant) -> Pressure {
        if self.is_closed {
            return Pressure::All(Why::StorageFailed);
        }
        self.advance_breaker(now);
        if let Some(breaker) = &self.breaker
            && let Gate::Refuse(rest) = breaker.gate(now)
        {
            return Pressure::Unseen(Why::BreakerOpen { retry_after_ms: up_to_ms(rest) });
        }
        if self.disk.is_full() {
            return Pressure::All(Why::DiskFull);
        }
        let has_room = self.batch.has_room(line_bytes);
        match (has_room, self.lanes.is_waiting()) {
            (true, true) => Pressure::None,
            (false, true) => Pressure::Hold,
            (has_room, false) => Pressure::Lanes { has_room },
        }
    }

    /// A line that framing refused.
    pub fn too_long(&self, line_bytes_max: usize) -> Rejection<'static> {
        self.counters.add(Counter::Received, 1);
        self.counters.reject(Code::TooLong);
        let reason = format!("the line is longer than {line_bytes_max} bytes").into();
        Rejection { code: Code::TooLong, reason, id: None }
    }

    /// Lines of the batch whose senders wait for it.
    pub fn awaited_lines(&self) -> u64 {
        self.batch.commit().awaited_lines()
    }

    /// Those of them that came after there were `before` were read at `read_at`, all by a sender that
    /// was promised `durability`.
    pub fn arrived(&self, before: u64, durability: Durability, read_at: Instant) {
        let commit = self.batch.commit();
        commit.arrived(commit.awaited_lines() - before, durability, read_at);
    }

    /// When the batch wants to be flushed.
    pub fn due(&self) -> Due {
        self.batch.due()
    }

    /// Gives the batch to the flusher, whose write begins now, and begins the next one in `next`.
    pub fn take(&mut self, next: B, now: Instant) -> Taken<B> {
        self.with_breaker(|breaker, changed| breaker.write_began(now, changed));
        self.batch.take(next)
    }

    /// The write of the batch that was taken has ended.
    pub fn wrote(&mut self, wrote: Wrote, now: Instant) {
        self.with_breaker(|breaker, changed| {
            breaker.write_ended(wrote == Wrote::All, now, changed);
        });
        if wrote == Wrote::DiskFull && self.disk.ran_out(now) {
            warn!(shard = self.shard, "a write found the disk full: new lines get disk_full");
        }
        self.reckon();
    }

    /// What time and the disk changed; to be called several times a second. `free_bytes` is what
    /// the file system of LOG_DIR had free at the last look.
    pub fn tick(&mut self, free_bytes: u64, now: Instant) {
        self.advance_breaker(now);
        if self.disk.looked(free_bytes, now) {
            info!(shard = self.shard, "the disk may have room again: new lines are taken");
        }
        self.reckon();
    }

    /// From now on every line is refused.
    pub fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.counters.add(Counter::StorageDead, 1);
        }
        // A failed sync is final, and not the breaker's.
        self.breaker = None;
        self.reckon();
    }

    /// Whether the storage has failed for good.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether lines are refused whatever their level: who waits for room waits in vain.
    pub fn is_refusing(&self) -> bool {
        self.is_closed
            || self.disk.is_full()
            || self.breaker.as_ref().is_some_and(Breaker::is_refusing)
    }

    /// Whether a sender of `bytes` that can't be told to stop should be left waiting until the
    /// batch that is there has gone.
    pub fn is_worth_waiting(&self, bytes: usize) -> bool {
        self.lanes.is_waiting()
            && !self.batch.has_room(bytes)
            && self.due() != Due::Never
            && !self.is_refusing()
    }

    fn advance_breaker(&mut self, now: Instant) {
        self.with_breaker(|breaker, changed| breaker.advance(now, changed));
    }

    /// Moves the breaker, if there is one; counts and logs how it changes.
    fn with_breaker(&mut self, act: impl FnOnce(&mut Breaker, &mut dyn FnMut(Change))) {
        let Some(breaker) = &mut self.breaker else { return };
        let (counters, shard) = (&self.counters, self.shard);
        act(breaker, &mut |change| match change {
            Change::Opened(strike) => {
                counters.add(Counter::BreakerOpened, 1);
                let why = match strike {
                    Strike::Failed => "a write failed",
                    Strike::Slow => "a write took longer than BREAKER_SLOW_MS",
                };
                warn!(shard, why, "breaker open: new lines get breaker_open");
            }
            Change::HalfOpened => info!(shard, "breaker half-open: one batch may try"),
            Change::Closed => info!(shard, "breaker closed: lines are taken again"),
        });
        self.reckon();
    }

    /// Draws the conclusions from what stands against lines now.
    fn reckon(&mut self) {
        let breaker_refuses = self.breaker.as_ref().is_some_and(Breaker::is_refusing);
        match (breaker_refuses, self.counters.get(Counter::BreakersOpen)) {
            (true, 0) => self.counters.add(Counter::BreakersOpen, 1),
            (false, 1) => self.counters.take(Counter::BreakersOpen, 1),
            _ => {}
        }
        let state = self.breaker.as_ref().map_or(0, |breaker| breaker.phase() as u64);
        self.counters.set(Counter::BreakerState, state);
        self.plain_below = if self.is_refusing() { 0 } else { self.lanes.plain_below() };
    }
}

fn refuse<'s>(counters: &Counters, why: Why, id: Option<Id<'s>>) -> Fate<'s> {
    counters.add(Counter::Error, 1);
    counters.add(why.counter(), 1);
    Fate::Refused(Refusal { why, id })
}

/// In milliseconds, rounded up: who comes back then does not come too early.
fn up_to_ms(rest: Duration) -> u32 {
    let begun = u64::from(rest.subsec_nanos().div_ceil(1_000_000));
    let ms = rest.as_secs().saturating_mul(1000).saturating_add(begun);
    u32::try_from(ms).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = br#"{"level":"INFO","message":"m","id":"a"}"#;

    fn terms() -> Terms {
        Terms {
            shard: 0,
            level_min: Level::Info,
            batch: Limits {
                bytes_max: 8192,
                lines_flush: 500,
                flush_after: Duration::from_millis(100),
            },
            overload: Policy::Wait,
            breaker: None,
            disk_free_bytes_min: 0,
        }
    }

    fn ingest_with(terms: Terms) -> Ingest<Vec<u8>> {
        Ingest::new(terms, vec![0; 65536], Rc::new(Counters::default()))
    }

    fn ingest() -> Ingest<Vec<u8>> {
        ingest_with(terms())
    }

    /// The whole of a refusal; its text is copied.
    fn refusal(ingest: &mut Ingest<Vec<u8>>, line: &[u8], now: Instant) -> Option<(Why, bool)> {
        match ingest.offer(line, Durability::Written, now) {
            Fate::Refused(Refusal { why, id }) => Some((why, id.is_some())),
            _ => None,
        }
    }

    #[test]
    fn each_line_ends_in_one_of_the_four_states() {
        let mut ingest = ingest();
        let now = Instant::now();
        let good = br#"{"level":"INFO","message":"m"}"#;
        assert!(matches!(ingest.offer(good, Durability::Written, now), Fate::Batched(_, None)));
        assert!(matches!(ingest.offer(good, Durability::Received, now), Fate::Batched(_, None)));
        let low = br#"{"level":"debug","message":"m","id":7}"#;
        assert!(matches!(
            ingest.offer(low, Durability::Written, now),
            Fate::Filtered(Some(Id::Int(7)))
        ));
        assert!(matches!(ingest.offer(b"[]", Durability::Written, now), Fate::Rejected(_)));
        assert_eq!(ingest.too_long(10).code, Code::TooLong);
        let counted = ingest.counters.snapshot();
        assert!(counted.is_balanced());
        assert_eq!(counted.get(Counter::Received), 5);
        assert_eq!(counted.get(Counter::InFlight), 1);
        assert_eq!(counted.get(Counter::Error), 2);
    }

    #[test]
    fn a_full_batch_holds_the_line_without_counting_it() {
        let mut ingest = ingest();
        let now = Instant::now();
        let line = format!(r#"{{"level":"INFO","message":"{}"}}"#, "x".repeat(1500));
        let mut taken = 0;
        while !matches!(ingest.offer(line.as_bytes(), Durability::Written, now), Fate::Held) {
            taken += 1;
        }
        assert_eq!(taken, 5);
        assert_eq!(ingest.counters.get(Counter::Received), 5);
        assert_eq!(ingest.take(vec![0; 65536], now).lines, 5);
        assert!(!matches!(ingest.offer(line.as_bytes(), Durability::Written, now), Fate::Held));
    }

    #[test]
    fn after_the_storage_failed_nothing_is_taken() {
        let mut ingest = ingest();
        ingest.close();
        ingest.close();
        let refused = refusal(&mut ingest, GOOD, Instant::now());
        assert_eq!(refused, Some((Why::StorageFailed, true)));
        assert_eq!(ingest.counters.get(Counter::StorageDead), 1);
        ingest.tick(u64::MAX, Instant::now());
        assert!(refusal(&mut ingest, GOOD, Instant::now()).is_some());
    }

    #[test]
    fn an_open_breaker_refuses_unseen_until_one_batch_has_tried() {
        let limits = breaker::Limits {
            failures_max: 2,
            slow: Duration::from_secs(1),
            open: Duration::from_secs(5),
        };
        let mut ingest = ingest_with(Terms { breaker: Some(limits), ..terms() });
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        for ms in [0, 10] {
            assert_eq!(refusal(&mut ingest, GOOD, at(ms)), None);
            ingest.take(vec![0; 65536], at(ms));
            ingest.wrote(Wrote::Failed, at(ms));
        }
        let open = |retry_after_ms| Some((Why::BreakerOpen { retry_after_ms }, false));
        assert_eq!(refusal(&mut ingest, GOOD, at(11)), open(4999));
        assert_eq!(refusal(&mut ingest, b"no line at all", at(5009)), open(1));
        assert_eq!(ingest.counters.get(Counter::BreakersOpen), 1);
        // Nobody has to ask for it to become half-open.
        ingest.tick(u64::MAX, at(5010));
        assert_eq!(ingest.counters.get(Counter::BreakersOpen), 0);
        assert_eq!(refusal(&mut ingest, GOOD, at(5011)), None);
        assert_eq!(refusal(&mut ingest, GOOD, at(5012)), None);
        assert_eq!(ingest.take(vec![0; 65536], at(5012)).lines, 2);
        assert_eq!(refusal(&mut ingest, GOOD, at(5013)), open(999));
        assert_eq!(ingest.counters.get(Counter::BreakersOpen), 1);
        ingest.wrote(Wrote::All, at(5020));
        assert_eq!(refusal(&mut ingest, GOOD, at(5020)), None);
        let counted = ingest.counters.snapshot();
        assert!(counted.is_balanced());
        assert_eq!(counted.get(Counter::BreakersOpen), 0);
        assert_eq!(counted.get(Counter::BreakerOpened), 1);
        assert_eq!(counted.get(Counter::BreakerRefused), 3);
        assert_eq!(counted.get(Counter::Error), 3);
    }

    #[test]
    fn bad_lines_never_move_the_breaker() {
        let limits = breaker::Limits {
            failures_max: 1,
            slow: Duration::from_secs(1),
            open: Duration::from_secs(5),
        };
        let mut ingest = ingest_with(Terms { breaker: Some(limits), ..terms() });
        let now = Instant::now();
        for _ in 0..1000 {
            assert!(matches!(ingest.offer(b"[", Durability::Written, now), Fate::Rejected(_)));
            ingest.too_long(10);
        }
        assert_eq!(refusal(&mut ingest, GOOD, now), None);
    }

    #[test]
    fn a_full_disk_refuses_what_could_be_taken_and_nothing_else() {
        let mut ingest = ingest_with(Terms { disk_free_bytes_min: 100, ..terms() });
        let now = Instant::now();
        ingest.tick(99, now);
        assert_eq!(refusal(&mut ingest, GOOD, now), Some((Why::DiskFull, true)));
        assert!(matches!(ingest.offer(b"[", Durability::Written, now), Fate::Rejected(_)));
        let low = br#"{"level":"debug","message":"m"}"#;
        assert!(matches!(ingest.offer(low, Durability::Written, now), Fate::Filtered(None)));
        ingest.tick(100, now);
        assert_eq!(refusal(&mut ingest, GOOD, now), None);
        assert_eq!(ingest.counters.get(Counter::DiskFull), 1);
        assert!(ingest.counters.snapshot().is_balanced());
    }

    #[test]
    fn a_write_that_finds_the_disk_full_stops_lines_until_a_pause_is_over() {
        let mut ingest = ingest();
        let now = Instant::now();
        assert_eq!(refusal(&mut ingest, GOOD, now), None);
        ingest.take(vec![0; 65536], now);
        ingest.wrote(Wrote::DiskFull, now);
        assert_eq!(refusal(&mut ingest, GOOD, now), Some((Why::DiskFull, true)));
        ingest.tick(u64::MAX, now + disk::PAUSE / 2);
        assert!(refusal(&mut ingest, GOOD, now).is_some());
        ingest.tick(u64::MAX, now + disk::PAUSE);
        assert_eq!(refusal(&mut ingest, GOOD, now), None);
    }

    #[test]
    fn lanes_refuse_by_level_and_never_hold() {
        let overload = Policy::Shed { low_percent: 60, normal_percent: 80 };
        let mut ingest = ingest_with(Terms { overload, level_min: Level::Debug, ..terms() });
        let now = Instant::now();
        let line = |level| format!(r#"{{"level":"{level}","message":"{}"}}"#, "x".repeat(300));
        let mut offer = |level| match ingest.offer(line(level).as_bytes(), Durability::Written, now)
        {
            Fate::Batched(..) => true,
            Fate::Refused(Refusal { why: Why::Shed, id: None }) => false,
            other => panic!("{other:?}"),
        };
        let mut taken = Vec::new();
        for level in ["DEBUG", "WARN", "ERROR"] {
            let before: usize = taken.iter().sum();
            taken.push((0..100).filter(|_| offer(level)).count());
            assert!(before + taken[taken.len() - 1] > before, "{level} has its share");
        }
        // A line is about 330 bytes of 8192: 60 %, 80 % and 100 % of the batch.
        assert!((14..=15).contains(&taken[0]), "{taken:?}");
        assert!((19..=20).contains(&(taken[0] + taken[1])), "{taken:?}");
        assert!((23..=24).contains(&taken.iter().sum::<usize>()), "{taken:?}");
        assert!(!offer("DEBUG") && !offer("INFO") && !offer("FATAL"));
        let counted = ingest.counters.snapshot();
        assert!(counted.is_balanced());
        assert_eq!(counted.get(Counter::Shed), counted.get(Counter::Error));
        ingest.take(vec![0; 65536], now);
        assert_eq!(refusal(&mut ingest, line("DEBUG").as_bytes(), now), None);
    }
}
