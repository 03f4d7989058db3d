//! How late messages are let go: at once, never, or at a rate of their own.
//!
//! Owns the arithmetic from a moment to what may go by then, and back. `supply` asks it.

use crate::plan::shape::CatchUp;

/// A message is late when it was due so long ago: two ticks of a millisecond, one to wait for and
/// one to oversleep.
pub(super) const MISSED_NS: u64 = 2_000_000;

/// How late messages are let go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Backlog {
    Asap,
    Never,
    /// What was due `since_ns` and later goes from `from_ns` on, as fast as it was due times
    /// `thousandths` ÷ 1000.
    Limited {
        thousandths: u32,
        from_ns: u64,
        since_ns: u64,
    },
}

impl Backlog {
    pub(super) fn new(catch_up: CatchUp) -> Backlog {
        match catch_up {
            CatchUp::Asap => Backlog::Asap,
            CatchUp::None => Backlog::Never,
            CatchUp::Limited { thousandths } => {
                Backlog::Limited { thousandths, from_ns: 0, since_ns: 0 }
            }
        }
    }

    /// What was due until then may go at `now_ns`.
    pub(super) fn horizon_ns(self, now_ns: u64) -> u64 {
        let Backlog::Limited { thousandths, from_ns, since_ns } = self else { return now_ns };
        let passed = u128::from(now_ns.saturating_sub(from_ns)) * u128::from(thousandths) / 1000;
        now_ns.min(since_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// When what is due at `due_ns` may go, the inverse of [`Self::horizon_ns`].
    pub(super) fn released_ns(self, due_ns: u64) -> u64 {
        let Backlog::Limited { thousandths, from_ns, since_ns } = self else { return due_ns };
        let behind = u128::from(due_ns.saturating_sub(since_ns)) * 1000;
        let behind = behind.div_ceil(u128::from(thousandths));
        due_ns.max(from_ns.saturating_add(u64::try_from(behind).unwrap_or(u64::MAX)))
    }

    /// A message that could have gone a while ago shows that workers were missing: from now on the
    /// backlog goes at its rate again, and what was released in the meantime is not a burst.
    pub(super) fn note(&mut self, next_ns: u64, now_ns: u64) {
        let released_ns = self.released_ns(next_ns);
        if let Backlog::Limited { from_ns, since_ns, .. } = self
            && released_ns.saturating_add(MISSED_NS) < now_ns
        {
            (*from_ns, *since_ns) = (now_ns, next_ns);
        }
    }
}
