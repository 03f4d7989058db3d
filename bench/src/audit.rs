//! Did every acknowledged line survive? Answered by reading the segments.
//!
//! Owns the count of what is on disk against the generator's ledger. Knows neither engine nor
//! generator: readers and a ledger go in, an [`Audit`] comes out, so that a run of tomorrow or of
//! a foreign engine is judged in the same way.
//!
//! A line counts as stored when it is a whole JSON object that carries our run id and the number
//! of a message that was sent. How much of "whole" is looked at for each of 50 million lines is
//! written in `audit/tail.rs`; one line in [`PARSE_EVERY`] is parsed in full.
//!
//! Invariant: lines = stored + duplicated + unexpected + foreign + damaged, and
//! missing <= acknowledged. Memory is one bit per message sent and one buffer per thread.

mod files;
mod seen;
mod tail;

use std::io::{self, Read};

use loadgen::ledger::Ledger;
use serde::{Deserialize, Serialize};

pub use files::{audit_files, segments};
use seen::{Mark, Seen};
use tail::{Line, Tail};

/// One line in so many is parsed in full even if its two ends look right.
pub const PARSE_EVERY: u64 = 64;

/// Bytes asked of the file system at a time.
const READ_BYTES: usize = 1 << 20;

/// A line above this is damage (a hole, or newlines that were lost): it is skipped, not buffered.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Stretches of missing messages that are named in the result.
const MISSING_RANGES_MAX: usize = 16;

/// What the segments hold of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// Distinct messages of the run which were found.
    pub stored: u64,
    /// Messages of the run which the generator saw acknowledged.
    pub acknowledged: u64,
    /// Acknowledged and not found: lost.
    pub missing: u64,
    /// Lines beyond the first of their message.
    pub duplicated: u64,
    /// Lines of the run that nobody sent.
    pub unexpected: u64,
    /// Whole lines of other runs.
    pub foreign: u64,
    /// Lines that are no JSON object: torn, overwritten, NUL bytes.
    pub damaged: u64,
    /// The first few stretches of missing messages.
    pub missing_ranges: Vec<Missing>,
    /// Files read.
    pub segments: u64,
    /// Bytes read, padding included.
    pub bytes: u64,
    /// What reading them took.
    pub duration_ns: u64,
}

/// A stretch of lost messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub conn: u64,
    pub first_seq: u64,
    pub count: u64,
}

impl Audit {
    /// Every acknowledged line is there exactly once, and nothing else went wrong on disk.
    pub fn is_sound(&self) -> bool {
        let Audit { missing, duplicated, unexpected, damaged, .. } = self;
        [missing, duplicated, unexpected, damaged].iter().all(|count| **count == 0)
    }
}

/// How the end of a segment is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The engine closed its files: all bytes count.
    Closed,
    /// The engine is still writing, or was killed: an unfinished last line and the NUL bytes of a
    /// file that was made larger ahead of time are no damage, for nothing of them is acknowledged.
    Open,
}

/// The running count of one reader; several are merged at the end.
#[derive(Clone)]
pub struct Tally {
    tail: Tail,
    seen: Seen,
    lines: u64,
    found: Audit,
}

impl Tally {
    /// Nothing read yet.
    pub fn new(ledger: &Ledger) -> Tally {
        Tally {
            tail: Tail::new(&ledger.run_id),
            seen: Seen::new(ledger.connections.iter().map(|entry| (entry.conn, entry.sent))),
            lines: 0,
            found: Audit::default(),
        }
    }

    /// Reads one segment to its end.
    ///
    /// # Errors
    /// What the reader answers.
    pub fn read(&mut self, mut segment: impl Read, end: End) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut held = 0; // bytes at the front of the buffer: the start of a line
        let mut skipping = false; // inside a line that was too long
        loop {
            if buffer.len() < held + READ_BYTES / 2 {
                buffer.resize(held + READ_BYTES, 0);
            }
            let got = match segment.read(&mut buffer[held..]) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.found.bytes += got as u64;
            let filled = held + got;
            let Some(last) = memchr::memrchr(b'\n', &buffer[held..filled]).map(|at| held + at)
            else {
                held = filled;
                if held > LINE_BYTES_MAX || skipping {
                    skipping = true;
                    held = 0;
                }
                continue;
            };
            let mut first = 0;
            if skipping {
                skipping = false;
                self.damaged_line();
                first = memchr::memchr(b'\n', &buffer[..filled]).map_or(filled, |at| at + 1);
            }
            if first <= last {
                self.whole_lines(&buffer[first..=last]);
            }
            buffer.copy_within(last + 1..filled, 0);
            held = filled - (last + 1);
        }
        if skipping {
            self.damaged_line();
        } else {
            self.rest(&buffer[..held], end);
        }
        self.found.segments += 1;
        Ok(())
    }

    /// Counts lines that all end in a newline.
    fn whole_lines(&mut self, bytes: &[u8]) {
        // One pass over the chunk clears all its lines; only a chunk with control characters is
        // looked at line by line.
        let clean =
            !bytes.iter().fold(false, |dirty, &byte| dirty | (byte < b' ' && byte != b'\n'));
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            if end > start {
                self.line(&bytes[start..end], clean);
            }
            start = end + 1;
        }
    }

    fn line(&mut self, line: &[u8], clean: bool) {
        self.lines += 1;
        let mut identity = self.tail.identify(line, clean);
        if self.lines.is_multiple_of(PARSE_EVERY) {
            identity = self.tail.parse(line);
        }
        match identity {
            Line::Foreign => self.found.foreign += 1,
            Line::Damaged => self.found.damaged += 1,
            Line::Ours { conn, seq } => match self.seen.mark(conn, seq) {
                Mark::First => {}
                Mark::Again => self.found.duplicated += 1,
                Mark::Unknown => self.found.unexpected += 1,
            },
        }
    }

    fn damaged_line(&mut self) {
        self.lines += 1;
        self.found.damaged += 1;
    }

    /// Counts what stands behind the last newline.
    fn rest(&mut self, rest: &[u8], end: End) {
        let written = match end {
            End::Closed => rest,
            End::Open => {
                let length = rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                &rest[..length]
            }
        };
        let unfinished = end == End::Open && self.tail.parse(written) == Line::Damaged;
        if !written.is_empty() && !unfinished {
            self.line(written, false);
        }
    }

    /// Adds what another reader found in other segments.
    pub fn merge(&mut self, other: &Tally) {
        self.found.duplicated += self.seen.merge(&other.seen);
        let Audit { duplicated, unexpected, foreign, damaged, segments, bytes, .. } = &other.found;
        self.found.duplicated += duplicated;
        self.found.unexpected += unexpected;
        self.found.foreign += foreign;
        self.found.damaged += damaged;
        self.found.segments += segments;
        self.found.bytes += bytes;
        self.lines += other.lines;
    }

    /// Holds what was read against what was acknowledged.
    pub fn finish(self, ledger: &Ledger) -> Audit {
        let mut audit = Audit { stored: self.seen.count(), ..self.found };
        for (position, entry) in ledger.connections.iter().enumerate() {
            for &(first, count) in &entry.ok {
                audit.acknowledged += count;
                for (first_seq, count) in self.seen.bitmap(position).gaps(first, count) {
                    audit.missing += count;
                    if audit.missing_ranges.len() < MISSING_RANGES_MAX {
                        audit.missing_ranges.push(Missing { conn: entry.conn, first_seq, count });
                    }
                }
            }
        }
        let Audit { stored, duplicated, unexpected, foreign, damaged, .. } = audit;
        assert_eq!(self.lines, stored + duplicated + unexpected + foreign + damaged);
        audit
    }
}

#[cfg(test)]
mod tests;
