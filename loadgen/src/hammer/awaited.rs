//! The messages of a batch between their write and what becomes of them.
//!
//! Owns which write each of them went with, and settling them: in order, or by their number.
//! Leaves clocks, counts and histograms to `batch`.
//! Invariant: `settled + ahead <= written`, and each message is settled once.

use std::collections::VecDeque;
use std::ops::Range;

/// One batch at a time, and its allocations from one to the next.
#[derive(Debug)]
pub(super) struct Awaited {
    written: u64,
    /// All messages before this one are settled.
    settled: u64,
    /// Messages behind that one which are settled.
    ahead: u64,
    /// Writes whose messages are not all settled.
    writes: VecDeque<Write>,
    /// From the first message that is open to the last one that is settled.
    marks: VecDeque<Mark>,
}

/// Messages up to `end` that no earlier write took.
#[derive(Clone, Copy, Debug)]
struct Write {
    end: u64,
    at_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Open,
    Acknowledged,
    Settled,
}

impl Awaited {
    pub(super) fn new() -> Awaited {
        let (writes, marks) = (VecDeque::with_capacity(16), VecDeque::new());
        Awaited { written: 0, settled: 0, ahead: 0, writes, marks }
    }

    /// For the next batch of the connection.
    pub(super) fn restart(&mut self) {
        assert!(self.is_empty(), "one batch a connection");
        (self.written, self.settled) = (0, 0);
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.marks.is_empty()
    }

    /// Messages that went.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// All messages before this one are settled.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Messages that wait.
    pub(super) fn open(&self) -> u64 {
        self.written - self.settled - self.ahead
    }

    /// The next `n` messages went; which they are.
    pub(super) fn wrote(&mut self, n: u64, at_ns: u64) -> Range<u64> {
        let range = self.written..self.written + n;
        self.written = range.end;
        self.writes.push_back(Write { end: range.end, at_ns });
        range
    }

    /// Gives `each` the next `n` messages, in runs that went at the same time.
    pub(super) fn settle(&mut self, n: u64, each: impl FnMut(u64, Range<u64>)) {
        assert_eq!(self.ahead, 0, "in order, or by number");
        assert!(n <= self.open(), "the hammer checks replies to nothing");
        self.advance(n, each);
    }

    /// The same for messages `first..first + n`, whatever becomes of those before them. Gives
    /// `acknowledged` each of those that were acknowledged, in order, once all before it are settled.
    pub(super) fn settle_at(
        &mut self,
        first: u64,
        n: u64,
        is_acknowledged: bool,
        mut each: impl FnMut(u64, Range<u64>),
        acknowledged: impl FnMut(u64),
    ) {
        let (mut at, end) = (first, first + n);
        assert!(self.settled <= at && end <= self.written, "the hammer checks replies to nothing");
        for write in self.writes.iter().filter(|write| write.end > first) {
            let run_end = write.end.min(end);
            each(write.at_ns, at..run_end);
            at = run_end;
            if at == end {
                break;
            }
        }
        let mark = if is_acknowledged { Mark::Acknowledged } else { Mark::Settled };
        for index in first..end {
            #[expect(clippy::cast_possible_truncation, reason = "an index within a batch")]
            let at = (index - self.settled) as usize;
            if self.marks.len() <= at {
                self.marks.resize(at + 1, Mark::Open);
            }
            let before = std::mem::replace(&mut self.marks[at], mark);
            assert_eq!(before, Mark::Open, "each message is settled once");
        }
        self.ahead += n;
        self.pass_settled(acknowledged);
    }

    /// Gives `each` all messages that are open, in runs that went at the same time, and
    /// `acknowledged` what waited for them.
    pub(super) fn settle_all(
        &mut self,
        mut each: impl FnMut(u64, Range<u64>),
        mut acknowledged: impl FnMut(u64),
    ) {
        while self.settled < self.written {
            let open = self.marks.iter().position(|mark| *mark != Mark::Open);
            let open = open.map_or(self.written - self.settled, |open| open as u64);
            self.marks.drain(..self.marks.len().min(usize::try_from(open).unwrap_or(usize::MAX)));
            self.advance(open, &mut each);
            self.pass_settled(&mut acknowledged);
        }
    }

    fn advance(&mut self, n: u64, mut each: impl FnMut(u64, Range<u64>)) {
        let end = self.settled + n;
        while self.settled < end {
            let write = self.writes.front().expect("what is settled was written");
            let (run_end, sent_ns) = (write.end.min(end), write.at_ns);
            each(sent_ns, self.settled..run_end);
            if run_end == write.end {
                self.writes.pop_front();
            }
            self.settled = run_end;
        }
    }

    /// Moves on to the first message that is open.
    fn pass_settled(&mut self, mut acknowledged: impl FnMut(u64)) {
        while let Some(mark) = self.marks.pop_front_if(|mark| *mark != Mark::Open) {
            if mark == Mark::Acknowledged {
                acknowledged(self.settled);
            }
            self.settled += 1;
            self.ahead -= 1;
            if self.writes.front().is_some_and(|write| write.end == self.settled) {
                self.writes.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of what went when.
        #[test]
        fn every_message_is_settled_once_with_its_write(
            writes in prop::collection::vec(1usize..6, 1..12),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let mut awaited = Awaited::new();
            let mut sent = Vec::new();
            for (at, &n) in (0u64..).zip(&writes) {
                awaited.wrote(n as u64, at);
                sent.extend(std::iter::repeat_n(at, n));
            }
            let mut seen = BTreeMap::new();
            let (mut acknowledged, mut expected) = (Vec::new(), BTreeSet::new());
            for index in order {
                let index = index.index(sent.len()) as u64;
                if seen.contains_key(&index) {
                    continue;
                }
                let is_acknowledged = index.is_multiple_of(2);
                if is_acknowledged {
                    expected.insert(index);
                }
                let mark = |at, range: Range<u64>| seen.extend(range.map(|it| (it, at)));
                awaited.settle_at(index, 1, is_acknowledged, mark, |it| acknowledged.push(it));
            }
            prop_assert_eq!(awaited.open(), (sent.len() - seen.len()) as u64);
            awaited.settle_all(
                |at, range| range.for_each(|it| assert_eq!(seen.insert(it, at), None)),
                |it| acknowledged.push(it),
            );
            prop_assert!(awaited.is_empty() && awaited.open() == 0);
            prop_assert_eq!(seen.into_values().collect::<Vec<_>>(), sent);
            prop_assert_eq!(acknowledged, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
