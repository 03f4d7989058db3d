//! Which messages were acknowledged `ok`: what an audit looks for on disk.
//!
//! Owns run-length ranges of `seq` per connection, so that an undisturbed connection costs one
//! range however long it lives. Kept only on demand.
//! Invariant: ranges ascend, don't touch, and lie within `0..sent`.

use serde::{Deserialize, Serialize};

/// The acknowledged messages of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The `run` of every message.
    pub run_id: String,
    /// Every connection that carried a message, ascending by `conn`.
    pub connections: Vec<LedgerConnection>,
}

/// The acknowledged messages of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerConnection {
    /// Unique in its run; a reopened connection has a new one.
    pub conn: u64,
    /// Messages handed to it: `seq` 0..sent.
    pub sent: u64,
    /// First `seq` and count of each run that was answered `ok`.
    pub ok: Vec<(u64, u64)>,
}

impl LedgerConnection {
    /// Messages `first..first + count` were answered `ok`; `first` never goes back.
    pub fn acknowledge(&mut self, first: u64, count: u64) {
        match self.ok.last_mut() {
            Some((start, length)) if *start + *length == first => *length += count,
            last => {
                assert!(last.is_none_or(|(start, length)| *start + *length < first), "went back");
                if count > 0 {
                    self.ok.push((first, count));
                }
            }
        }
    }

    /// How many messages were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.ok.iter().map(|(_, count)| count).sum()
    }
}

impl Ledger {
    /// How many messages were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.connections.iter().map(LedgerConnection::acknowledged).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_and_gaps_begin_new_ones() {
        let mut connection = LedgerConnection::default();
        for (first, count) in [(0, 3), (3, 2), (5, 0), (7, 1), (8, 1)] {
            connection.acknowledge(first, count);
        }
        assert_eq!(connection.ok, [(0, 5), (7, 2)]);
        assert_eq!(connection.acknowledged(), 7);
    }
}
