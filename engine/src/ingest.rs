//! What becomes of a line: decode, admit, batch.
//!
//! Owns the decision about one line and the shard's one batch; never awaits, never touches a
//! socket or a disk. Leaves framing to `proto::lines`, replies to the connection. Invariant: each
//! line that was not held is counted as received and is in exactly one of the four states.

pub mod batch;
pub mod commit;

use std::rc::Rc;
use std::time::Instant;

use proto::code::Code;
use proto::hello::Durability;
use proto::level::Level;
use proto::record::{Id, Record, Rejection, Scratch};

use self::batch::{Batch, Due, Limits, Taken};
use self::commit::Ticket;
use crate::counters::{Counter, Counters};

/// What became of a line.
#[derive(Debug)]
pub enum Fate<'s> {
    /// No room in the batch: nothing was counted, offer it again later.
    Held,
    /// Below MIN_LOG_LEVEL.
    Filtered(Option<Id<'s>>),
    /// In the batch; the reply follows the ticket.
    Batched(&'s Ticket, Option<Id<'s>>),
    /// Refused, for good.
    Rejected(Rejection<'s>),
}

/// The admission of one shard.
#[derive(Debug)]
pub struct Ingest<B> {
    level_min: Level,
    counters: Rc<Counters>,
    scratch: Scratch,
    batch: Batch<B>,
    /// Set once the sink takes nothing more; every line is rejected with it.
    closed: Option<Code>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ingest<B> {
    /// An admission whose first batch is in `buf`.
    pub fn new(level_min: Level, limits: Limits, buf: B, counters: Rc<Counters>) -> Ingest<B> {
        Ingest {
            level_min,
            counters,
            scratch: Scratch::new(),
            batch: Batch::new(buf, limits),
            closed: None,
        }
    }

    /// Decides about one line whose sender was promised `durability`.
    pub fn offer<'s>(&'s mut self, line: &[u8], durability: Durability, now: Instant) -> Fate<'s> {
        // Before the parse, so that a held line is parsed once.
        if !self.batch.has_room(line.len()) && self.closed.is_none() {
            return Fate::Held;
        }
        self.counters.add(Counter::Received, 1);
        let record = match Record::parse(line, &mut self.scratch) {
            Ok(record) => record,
            Err(rejection) => {
                self.counters.add(Counter::Error, 1);
                return Fate::Rejected(rejection);
            }
        };
        if record.level < self.level_min {
            self.counters.add(Counter::Filtered, 1);
            return Fate::Filtered(record.id);
        }
        if let Some(code) = self.closed {
            self.counters.add(Counter::Error, 1);
            let reason = "the storage has failed; nothing more is taken".into();
            return Fate::Rejected(Rejection { code, reason, id: record.id });
        }
        let state =
            if durability == Durability::Received { Counter::Ok } else { Counter::InFlight };
        self.counters.add(state, 1);
        Fate::Batched(self.batch.push(line, durability, now), record.id)
    }

    /// A line that framing refused.
    pub fn too_long(&self, line_bytes_max: usize) -> Rejection<'static> {
        self.counters.add(Counter::Received, 1);
        self.counters.add(Counter::Error, 1);
        let reason = format!("the line is longer than {line_bytes_max} bytes").into();
        Rejection { code: Code::TooLong, reason, id: None }
    }

    /// When the batch wants to be flushed.
    pub fn due(&self) -> Due {
        self.batch.due()
    }

    /// Gives the batch to the flusher and begins the next one in `next`.
    pub fn take(&mut self, next: B) -> Taken<B> {
        self.batch.take(next)
    }

    /// From now on every line is rejected with `code`.
    pub fn close(&mut self, code: Code) {
        self.closed = Some(code);
    }

    /// Whether the storage has failed for good.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ingest() -> Ingest<Vec<u8>> {
        let limits =
            Limits { bytes_max: 8192, lines_flush: 500, flush_after: Duration::from_millis(100) };
        Ingest::new(Level::Info, limits, vec![0; 65536], Rc::new(Counters::default()))
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
        assert_eq!(ingest.take(vec![0; 65536]).lines, 5);
        assert!(!matches!(ingest.offer(line.as_bytes(), Durability::Written, now), Fate::Held));
    }

    #[test]
    fn after_the_storage_failed_nothing_is_taken() {
        let mut ingest = ingest();
        ingest.close(Code::StorageFailed);
        let line = br#"{"level":"INFO","message":"m","id":"a"}"#;
        let Fate::Rejected(rejection) = ingest.offer(line, Durability::Written, Instant::now())
        else {
            panic!("taken")
        };
        assert_eq!(rejection.code, Code::StorageFailed);
        assert!(rejection.id.is_some());
    }
}
