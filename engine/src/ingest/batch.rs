//! The one batch of a shard: lines in the order of their arrival, laid out for the disk.
//!
//! Owns the buffer that is being filled; leaves writing to the flusher, and durability to
//! [`super::commit`]. Pure: the buffer is whatever the sink gave, time is handed in.
//! Invariant: `head <= len <= limits.bytes_max` and `buf[head..len]` is whole lines, each ended by
//! `\n`; `head` bytes in front are left to the sink for its unaligned tail, so that a write begins
//! on a block.

use std::time::{Duration, Instant};

use proto::hello::Durability;

use super::commit::{Commit, Ticket};
use crate::sink::Staged;

/// What bounds a batch. It is flushed at these at the latest; only `bytes_max` is a cap.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the buffer that lines may fill, its head included.
    pub bytes_max: usize,
    /// Lines that nobody waits for are flushed at this number.
    pub lines_flush: u64,
    /// Lines that nobody waits for are flushed after this time.
    pub flush_after: Duration,
}

/// When a batch wants to be flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At once: somebody waits for it, or it has reached a limit.
    Now,
    /// Then at the latest.
    At(Instant),
    /// It is empty.
    Never,
}

/// The batch that is being filled.
#[derive(Debug)]
pub struct Batch<B> {
    limits: Limits,
    buf: B,
    head: usize,
    len: usize,
    lines: u64,
    since: Option<Instant>,
    awaited: bool,
    commit: Ticket,
}

/// A batch on its way to the sink.
#[derive(Debug)]
pub struct Taken<B> {
    /// The bytes.
    pub staged: Staged<B>,
    /// Whom they concern.
    pub commit: Ticket,
    /// How many lines they are.
    pub lines: u64,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Batch<B> {
    /// An empty batch in `buf`, which is at least `limits.bytes_max` bytes long.
    pub fn new(buf: B, limits: Limits) -> Batch<B> {
        assert!(buf.as_ref().len() >= limits.bytes_max, "the buffer holds what the limits allow");
        Batch {
            limits,
            buf,
            head: 0,
            len: 0,
            lines: 0,
            since: None,
            awaited: false,
            commit: Commit::begin(),
        }
    }

    /// Whether a line of `line_bytes` and its newline still fit.
    pub fn has_room(&self, line_bytes: usize) -> bool {
        self.stays_below(self.limits.bytes_max, line_bytes)
    }

    /// Whether the buffer is filled to `bytes` at most with a line of `line_bytes` and its newline.
    pub fn stays_below(&self, bytes: usize, line_bytes: usize) -> bool {
        self.len + line_bytes < bytes
    }

    /// What its lines share.
    pub fn commit(&self) -> &Ticket {
        &self.commit
    }

    /// Bytes of its lines.
    pub fn filled_bytes(&self) -> usize {
        self.len - self.head
    }

    /// Appends a line that fits, and gives its share in the commit.
    pub fn push(&mut self, line: &[u8], durability: Durability, now: Instant) -> &Ticket {
        assert!(self.has_room(line.len()), "the caller asked for room");
        let end = self.len + line.len();
        let buf = self.buf.as_mut();
        buf[self.len..end].copy_from_slice(line);
        buf[end] = b'\n';
        self.len = end + 1;
        self.lines += 1;
        if self.since.is_none() {
            self.since = Some(now);
        }
        self.awaited |= durability != Durability::Received;
        self.commit.add_line(durability);
        &self.commit
    }

    /// When this batch wants to be flushed.
    pub fn due(&self) -> Due {
        match self.since {
            None => Due::Never,
            Some(_) if self.awaited || self.lines >= self.limits.lines_flush => Due::Now,
            Some(since) => Due::At(since + self.limits.flush_after),
        }
    }

    /// Gives the filled batch away and begins the next one in `next`, laid out for the tail that
    /// the file will have once this batch is written.
    pub fn take(&mut self, next: B) -> Taken<B> {
        assert!(next.as_ref().len() >= self.limits.bytes_max, "every buffer has the same size");
        let buf = std::mem::replace(&mut self.buf, next);
        let staged = Staged { buf, head: self.head, len: self.len, lines: self.lines };
        let head = staged.next_head();
        let taken = Taken {
            staged,
            commit: std::mem::replace(&mut self.commit, Commit::begin()),
            lines: self.lines,
        };
        (self.head, self.len) = (head, head);
        (self.lines, self.since, self.awaited) = (0, None, false);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::BLOCK;

    fn limits() -> Limits {
        Limits { bytes_max: 2 * BLOCK, lines_flush: 3, flush_after: Duration::from_millis(100) }
    }

    fn batch() -> Batch<Vec<u8>> {
        Batch::new(vec![0; 4 * BLOCK], limits())
    }

    #[test]
    fn a_line_that_somebody_waits_for_is_due_at_once_and_others_wait_for_count_or_time() {
        let now = Instant::now();
        let mut batch = batch();
        assert_eq!(batch.due(), Due::Never);
        batch.push(b"{}", Durability::Received, now);
        assert_eq!(batch.due(), Due::At(now + Duration::from_millis(100)));
        batch.push(b"{}", Durability::Received, now);
        batch.push(b"{}", Durability::Received, now);
        assert_eq!(batch.due(), Due::Now);
        batch.take(vec![0; 4 * BLOCK]);
        batch.push(b"{}", Durability::Written, now);
        assert_eq!(batch.due(), Due::Now);
    }

    #[test]
    fn batches_are_laid_out_one_behind_the_other() {
        let now = Instant::now();
        let mut batch = batch();
        let (mut written, mut offered) = (Vec::new(), Vec::new());
        for round in 0..20usize {
            for _ in 0..round % 4 + 1 {
                let line = format!("{{\"n\":{}}}", "7".repeat(round * 61 % 1500));
                if batch.has_room(line.len()) {
                    batch.push(line.as_bytes(), Durability::Written, now);
                    offered.extend_from_slice(line.as_bytes());
                    offered.push(b'\n');
                }
            }
            let Staged { buf, head, len, .. } = batch.take(vec![0; 4 * BLOCK]).staged;
            assert_eq!(head, written.len() % BLOCK);
            written.extend_from_slice(&buf[head..len]);
        }
        assert_eq!(written, offered);
    }

    #[test]
    fn room_ends_exactly_at_the_limit() {
        let now = Instant::now();
        let mut batch = batch();
        let line = vec![b'x'; 2 * BLOCK - 1];
        assert!(!batch.has_room(2 * BLOCK) && batch.has_room(line.len()));
        batch.push(&line, Durability::Written, now);
        assert!(!batch.has_room(0));
    }
}
