//! What a worker takes up: how many messages, when each is due, and the bytes that they bring.
//!
//! Owns the claim and its deadlines. `dispatch` hands it out, `batch` carries it.

use std::ops::Range;

use crate::measure::recorder::Recorder;
use crate::replay::feed::{Recorded, RecordedRequest};

/// When the messages of a batch are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dues {
    /// All at once: the worker was free.
    Same(u64),
    /// One by one, in order.
    Each(Vec<u64>),
}

/// Messages that a worker takes up, at least one, all of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) count: u64,
    /// The stage in which all of them are due.
    pub(crate) stage: usize,
    pub(crate) dues: Dues,
    /// Messages that bring their own bytes.
    pub(crate) recorded: Option<Box<Recorded>>,
    /// Since when their worker was free.
    pub(crate) free_ns: u64,
    /// When it took them up.
    pub(crate) claimed_ns: u64,
}

impl Claim {
    /// Calls `each(due_ns, n)` for the messages `range`, in runs that are due together.
    pub(super) fn runs(&self, range: Range<u64>, mut each: impl FnMut(u64, u64)) {
        match &self.dues {
            Dues::Same(due_ns) => each(*due_ns, range.end - range.start),
            #[expect(clippy::cast_possible_truncation, reason = "indices of a Vec")]
            Dues::Each(dues) => {
                let dues = &dues[range.start as usize..range.end as usize];
                dues.iter().for_each(|&due_ns| each(due_ns, 1));
            }
        }
    }

    /// Counts all of it as failed without a connection.
    pub(crate) fn refuse(&self, recorder: &mut Recorder, code: &str, at_ns: u64) {
        let mut recorder = recorder.stage(self.stage);
        recorder.taken(self.count);
        recorder.failed(code, self.count);
        recorder.settling();
        self.runs(0..self.count, |due_ns, n| recorder.censored(due_ns, None, at_ns, n));
    }
}

/// A message of a recording.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Replayed<'a> {
    /// Of an access log.
    Request(RecordedRequest<'a>),
    /// Anything else, without its line end.
    Line(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tally::code;

    #[test]
    fn a_refused_claim_counts_as_sent_and_failed() {
        let dues = Dues::Each((0..10).map(|n| n * 1000).collect());
        let claim = Claim { count: 10, stage: 0, dues, recorded: None, free_ns: 0, claimed_ns: 0 };
        let mut recorder = Recorder::default();
        claim.refuse(&mut recorder, code::REFUSED, 1_000_000);
        let totals = recorder.close_interval().stages.pop().unwrap();
        assert_eq!((totals.tally.counts.sent, totals.tally.counts.errors["refused"]), (10, 10));
        assert_eq!(totals.latencies.lag.censored.len(), 10);
        assert_eq!(totals.latencies.service.censored.len(), 0);
    }
}
