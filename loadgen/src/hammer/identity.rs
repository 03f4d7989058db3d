//! Who a connection is in its messages, over all its batches.
//!
//! Owns the numbers of its messages and its ledger. A batch borrows it while it is on its way.

use super::awaited::Awaited;
use crate::measure::ledger::LedgerConnection;
use crate::plan::payloads::Author;

/// Who a connection is in its messages, and what became of them.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(super) author: Author,
    pub(super) next_seq: u64,
    /// Ranges only if they are asked for; `conn` and `sent` always.
    pub(super) ledger: LedgerConnection,
    pub(super) keeps_ledger: bool,
    /// Of the batch that it carries.
    pub(super) awaited: Awaited,
}

impl Identity {
    pub(crate) fn new(conn: u64, keeps_ledger: bool) -> Identity {
        Identity {
            author: Author::new(conn),
            next_seq: 0,
            ledger: LedgerConnection { conn, ..LedgerConnection::default() },
            keeps_ledger,
            awaited: Awaited::new(),
        }
    }

    /// Messages that it has carried.
    pub(crate) fn sent(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn into_ledger(self) -> Option<LedgerConnection> {
        (self.keeps_ledger && self.ledger.sent > 0).then_some(self.ledger)
    }
}
