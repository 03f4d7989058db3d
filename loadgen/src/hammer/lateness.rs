//! Why the messages of one write are late.
//!
//! Owns splitting the lag by what a message waited for. Leaves measuring the moments to `batch`.
//! Invariant: the parts of a message sum to its lag.

use super::claim::Claim;
use crate::measure::tally::{Cause, Causes};

/// How long those of a batch waited on its connection, up to a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    /// The socket took no more.
    pub(super) socket_ns: u64,
    /// As many were on their way as the peer allows.
    pub(super) window_ns: u64,
}

/// Why the messages of one write are late.
///
/// ```text
/// due ── reader ── read ── window full ── free ── shard busy ── claimed ── connecting ── begun ── shard busy, socket, window full ── sent
/// ```
///
/// A message that becomes due later than one of these moments begins its way there. All but the
/// deadlines are the same for all messages of the write.
pub(super) struct Lateness {
    /// When it had been read from its recording; 0 without one.
    ready_ns: u64,
    free_ns: u64,
    sent_ns: u64,
    connecting_ns: u64,
    waits: Waits,
    count: u64,
    lag: Cause,
    reader: Cause,
    window_full: Cause,
}

impl Lateness {
    pub(super) fn new(claim: &Claim, begun_ns: u64, waits: Waits, sent_ns: u64) -> Lateness {
        let carried_ns = sent_ns.saturating_sub(begun_ns);
        let socket_ns = waits.socket_ns.min(carried_ns);
        let window_ns = waits.window_ns.min(carried_ns - socket_ns);
        Lateness {
            ready_ns: claim.recorded.as_ref().map_or(0, |recorded| recorded.ready_ns),
            free_ns: claim.free_ns,
            sent_ns,
            connecting_ns: begun_ns.saturating_sub(claim.claimed_ns),
            waits: Waits { socket_ns, window_ns },
            count: 0,
            lag: Cause::default(),
            reader: Cause::default(),
            window_full: Cause::default(),
        }
    }

    pub(super) fn add(&mut self, due_ns: u64, n: u64) {
        let many = |ns: u64| Cause { sum_ns: u128::from(ns) * u128::from(n), max_ns: ns };
        self.count += n;
        self.lag.add(many(self.sent_ns.saturating_sub(due_ns)));
        self.reader.add(many(self.ready_ns.saturating_sub(due_ns)));
        self.window_full.add(many(self.free_ns.saturating_sub(due_ns.max(self.ready_ns))));
    }

    pub(super) fn causes(&self) -> Causes {
        let all = |ns: u64| Cause { sum_ns: u128::from(ns) * u128::from(self.count), max_ns: ns };
        let (connecting, socket) = (all(self.connecting_ns), all(self.waits.socket_ns));
        // What is left. The earliest deadline has the most of all.
        let Lateness { lag, reader, mut window_full, .. } = *self;
        let window = all(self.waits.window_ns);
        window_full.sum_ns += window.sum_ns;
        window_full.max_ns += window.max_ns;
        let [mut shard_busy, others @ ..] = [lag, reader, window_full, connecting, socket];
        for other in others {
            shard_busy.sum_ns = shard_busy.sum_ns.saturating_sub(other.sum_ns);
            shard_busy.max_ns = shard_busy.max_ns.saturating_sub(other.max_ns);
        }
        Causes { reader, window_full, shard_busy, connecting, socket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hammer::claim::Dues;

    #[test]
    fn lag_is_split_by_what_the_message_waited_for() {
        let dues = Dues::Each(vec![100, 400, 900]);
        let (stage, recorded, free_ns, claimed_ns) = (0, None, 500, 1_000);
        let claim = Claim { count: 3, stage, dues, recorded, free_ns, claimed_ns };
        // A connection at 3,000; the socket was full for 250 before the write at 5,000.
        // A stream was free 50 later.
        let waits = Waits { socket_ns: 250, window_ns: 50 };
        let mut lateness = Lateness::new(&claim, 3_000, waits, 5_000);
        claim.runs(0..3, |due_ns, n| lateness.add(due_ns, n));
        let Causes { reader, window_full, shard_busy, connecting, socket } = lateness.causes();
        assert_eq!(reader, Cause::default());
        assert_eq!((window_full.sum_ns, window_full.max_ns), (400 + 100 + 3 * 50, 450));
        assert_eq!((connecting.sum_ns, connecting.max_ns), (3 * 2_000, 2_000));
        assert_eq!((socket.sum_ns, socket.max_ns), (3 * 250, 250));
        // From free or due to claimed, and from the connection to the write but for the socket.
        assert_eq!((shard_busy.sum_ns, shard_busy.max_ns), (500 + 500 + 100 + 3 * 1_700, 2_200));
        let parts = [window_full, shard_busy, connecting, socket];
        let lags = (5_000 - 100) + (5_000 - 400) + (5_000 - 900);
        assert_eq!(parts.iter().map(|cause| cause.sum_ns).sum::<u128>(), lags);
    }
}
