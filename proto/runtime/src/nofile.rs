//! The limit on open descriptors: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the soft limit on open descriptors was, and what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Descriptors before; `u64::MAX` means unlimited.
    pub before: u64,
    /// Descriptors now.
    pub now: u64,
}

/// The soft and the hard limit on open descriptors.
pub fn limits() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the soft limit on open descriptors to the hard one. A refusal leaves it as it was.
pub fn raise() -> Raised {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => Raised { before, now: limit.maximum.unwrap_or(u64::MAX) },
        Err(_) => Raised { before, now: before },
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_soft_limit_ends_at_the_hard_one() {
        let raised = super::raise();
        let (soft, hard) = super::limits();
        assert_eq!(raised.now, soft);
        assert_eq!(soft, hard);
        assert!(raised.before <= raised.now);
    }
}
