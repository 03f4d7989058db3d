//! Which messages of which connection were found: one bit each.
//!
//! Invariant: a bitmap has exactly as many bits as its connection sent messages, so the memory is
//! bounded by the ledger (50 million messages: 6 MB) and never by what a file says.

use std::collections::HashMap;

/// The bitmaps of one run, one per connection, in the order of the ledger.
#[derive(Clone)]
pub(super) struct Seen {
    index: HashMap<u64, usize>,
    bitmaps: Vec<Bitmap>,
    /// The connection of the line before: lines come in batches of one connection.
    last: Option<(u64, usize)>,
}

/// What marking a message found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    First,
    Again,
    /// Nobody sent this message.
    Unknown,
}

impl Seen {
    /// Room for `(connection, messages sent)`, nothing found yet.
    pub(super) fn new(connections: impl Iterator<Item = (u64, u64)>) -> Seen {
        let mut seen = Seen { index: HashMap::new(), bitmaps: Vec::new(), last: None };
        for (conn, sent) in connections {
            let fresh = seen.index.insert(conn, seen.bitmaps.len()).is_none();
            assert!(fresh, "connection {conn} is in the ledger twice");
            seen.bitmaps.push(Bitmap::new(sent));
        }
        seen
    }

    pub(super) fn mark(&mut self, conn: u64, seq: u64) -> Mark {
        let at = match self.last {
            Some((last, at)) if last == conn => at,
            _ => match self.index.get(&conn) {
                Some(&at) => at,
                None => return Mark::Unknown,
            },
        };
        self.last = Some((conn, at));
        self.bitmaps[at].set(seq)
    }

    /// Takes over what `other` found; returns how many messages both had.
    pub(super) fn merge(&mut self, other: &Seen) -> u64 {
        self.bitmaps.iter_mut().zip(&other.bitmaps).map(|(mine, its)| mine.merge(its)).sum()
    }

    /// Messages found at least once.
    pub(super) fn count(&self) -> u64 {
        self.bitmaps.iter().map(|bitmap| bitmap.words.iter().map(ones).sum::<u64>()).sum()
    }

    /// The bitmap of the connection at `position` of the ledger.
    pub(super) fn bitmap(&self, position: usize) -> &Bitmap {
        &self.bitmaps[position]
    }
}

/// A fixed number of bits.
#[derive(Clone)]
pub(super) struct Bitmap {
    bits: u64,
    words: Vec<u64>,
}

fn ones(word: &u64) -> u64 {
    u64::from(word.count_ones())
}

/// Bits `from..to` of one word, `to` up to 64.
fn mask(from: u64, to: u64) -> u64 {
    let below = |bit: u64| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
    below(to) & !below(from)
}

impl Bitmap {
    fn new(bits: u64) -> Bitmap {
        let words = usize::try_from(bits.div_ceil(64)).expect("64-bit machine");
        Bitmap { bits, words: vec![0; words] }
    }

    fn set(&mut self, bit: u64) -> Mark {
        if bit >= self.bits {
            return Mark::Unknown;
        }
        let word = &mut self.words[index(bit)];
        let one = 1 << (bit % 64);
        let mark = if *word & one == 0 { Mark::First } else { Mark::Again };
        *word |= one;
        mark
    }

    fn merge(&mut self, other: &Bitmap) -> u64 {
        let mut both = 0;
        for (mine, its) in self.words.iter_mut().zip(&other.words) {
            both += ones(&(*mine & its));
            *mine |= its;
        }
        both
    }

    /// Ranges `(first, count)` of zero bits inside `first..first + count`, in order.
    ///
    /// Word by word, so that 50 million bits cost under a millisecond where nothing is missing.
    pub(super) fn gaps(&self, first: u64, count: u64) -> Vec<(u64, u64)> {
        let end = first + count;
        assert!(end <= self.bits, "acknowledged {first}+{count} of {} sent messages", self.bits);
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        let mut bit = first;
        while bit < end {
            let base = bit - bit % 64;
            let upto = end.min(base + 64);
            let mut zeros = !self.words[index(bit)] & mask(bit - base, upto - base);
            while zeros != 0 {
                let from = u64::from(zeros.trailing_zeros());
                let length = u64::from((!(zeros >> from)).trailing_zeros());
                match gaps.last_mut() {
                    Some((gap, count)) if *gap + *count == base + from => *count += length,
                    _ => gaps.push((base + from, length)),
                }
                zeros &= !mask(from, from + length);
            }
            bit = upto;
        }
        gaps
    }
}

fn index(bit: u64) -> usize {
    usize::try_from(bit / 64).expect("64-bit machine")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_are_the_zero_bits_of_the_range(
            bits in 1_u64..400,
            set in prop::collection::vec(0_u64..400, 0..300),
            full in any::<bool>(),
            cut in any::<(u16, u16)>(),
        ) {
            let mut bitmap = Bitmap::new(bits);
            if full {
                (0..bits).for_each(|bit| { bitmap.set(bit); });
                set.iter().take(3).filter(|bit| **bit < bits).for_each(|bit| {
                    bitmap.words[index(*bit)] &= !(1 << (bit % 64));
                });
            } else {
                set.iter().for_each(|bit| { bitmap.set(*bit); });
            }
            let first = u64::from(cut.0) % bits;
            let count = u64::from(cut.1) % (bits - first + 1);
            let oracle: Vec<u64> = (first..first + count)
                .filter(|bit| bitmap.words[index(*bit)] >> (bit % 64) & 1 == 0)
                .collect();
            let gaps = bitmap.gaps(first, count);
            let flat: Vec<u64> = gaps.iter().flat_map(|(gap, len)| *gap..gap + len).collect();
            prop_assert_eq!(flat, oracle);
            prop_assert!(gaps.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
        }
    }

    #[test]
    fn what_two_threads_found_twice_is_counted_when_they_merge() {
        let mut one = Seen::new([(7, 100), (9, 3)].into_iter());
        let mut two = one.clone();
        assert_eq!(one.mark(7, 99), Mark::First);
        assert_eq!(one.mark(7, 99), Mark::Again);
        assert_eq!(two.mark(7, 99), Mark::First);
        assert_eq!(two.mark(9, 2), Mark::First);
        assert_eq!(two.mark(9, 3), Mark::Unknown);
        assert_eq!(two.mark(8, 0), Mark::Unknown);
        assert_eq!((one.merge(&two), one.count()), (1, 2));
    }
}
