//! Whether the sink is worth asking: a circuit breaker over the shard's writes.
//!
//! ```text
//!           failures_max strikes in a row              `open` is over
//!   Closed ──────────────────────────────▶ Open ────────────────────▶ HalfOpen
//!     ▲                                     ▲                          │  one batch is let in
//!     │                                     └── its write failed, ─────┤
//!     │                                         or was slow            │
//!     └───────────────── its write succeeded in time ──────────────────┘
//! ```
//!
//! Pure: it is told when a write begins and how it ends, and time is handed in; it sees neither
//! lines nor files, so no client can move it. Leaves refusing, counting and logging to
//! [`super::Ingest`]. What is decided here, because "failed or slow writes in a row" leaves it open:
//! - A write that fails is a strike. A write is a strike for each `slow` that it lasts, counted
//!   while it is under way: a write that hangs opens the breaker after `failures_max * slow`.
//!   Only a write that succeeds in time ends the row.
//! - What the batch holds when the breaker opens was let in: it is written by the next write, as
//!   usual. While the breaker is open, writes change nothing.
//! - When `open` is over and a write is under way that has not been slow, that write is the probe.
//!   If it has been slow, the breaker stays open for another `open`: a sink that hangs is not
//!   given more lines.
//! - Otherwise the batch that is being filled is the probe: it takes lines until its write begins.
//!   An idle engine stays half-open, and is ready, so that somebody sends it a probe.
//!
//! Invariant: what it answers at a moment depends on the writes before that moment alone, not on
//! how often or when it was asked.

use std::time::{Duration, Instant};

/// When the breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Failed or slow writes in a row that open it; at least 1.
    pub failures_max: u64,
    /// A write that lasts as long is slow; more than zero.
    pub slow: Duration,
    /// It stays open for this time; more than zero.
    pub open: Duration,
}

/// Whether lines are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They are.
    Pass,
    /// They are not; asking again makes sense after this time.
    Refuse(Duration),
}

/// What it does, as a number that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Lines are taken.
    Closed = 0,
    /// One batch may try.
    HalfOpen = 1,
    /// Lines are refused.
    Open = 2,
}

/// What counted against the sink last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// A write failed.
    Failed,
    /// A write was slow.
    Slow,
}

/// A transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Lines are refused from now on.
    Opened(Strike),
    /// One batch may try.
    HalfOpened,
    /// All is well.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        strikes: u64,
    },
    Open {
        until: Instant,
    },
    /// The probe is the write under way, if there is one, else the batch that is being filled.
    HalfOpen,
}

/// A write under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    began: Instant,
    /// When it is a strike next.
    strikes_at: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    flight: Option<Flight>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(limits: Limits) -> Breaker {
        assert!(limits.failures_max > 0, "no strike opens nothing");
        assert!(!limits.slow.is_zero() && !limits.open.is_zero(), "time passes");
        Breaker { limits, state: State::Closed { strikes: 0 }, flight: None }
    }

    /// Whether lines are let in. Call [`Breaker::advance`] with the same `now` before.
    pub fn gate(&self, now: Instant) -> Gate {
        match (self.state, self.flight) {
            (State::Closed { .. }, _) | (State::HalfOpen, None) => Gate::Pass,
            (State::Open { until }, _) => Gate::Refuse(until.saturating_duration_since(now)),
            // By then the probe has told.
            (State::HalfOpen, Some(probe)) => {
                Gate::Refuse(probe.strikes_at.saturating_duration_since(now))
            }
        }
    }

    /// What it does.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::HalfOpen => Phase::HalfOpen,
            State::Open { .. } => Phase::Open,
        }
    }

    /// Whether lines are refused.
    pub fn is_refusing(&self) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { .. } => true,
            State::HalfOpen => self.flight.is_some(),
        }
    }

    /// Catches up with everything that came to pass by time alone; tells each change.
    pub fn advance(&mut self, now: Instant, mut changed: impl FnMut(Change)) {
        self.advance_to(now, &mut changed);
    }

    /// A write begins.
    pub fn write_began(&mut self, now: Instant, mut changed: impl FnMut(Change)) {
        self.advance_to(now, &mut changed);
        assert!(self.flight.is_none(), "one write at a time");
        self.flight = Some(Flight { began: now, strikes_at: now + self.limits.slow });
    }

    /// The write under way has ended, well or not.
    pub fn write_ended(&mut self, succeeded: bool, now: Instant, mut changed: impl FnMut(Change)) {
        self.advance_to(now, &mut changed);
        let Some(flight) = self.flight.take() else { unreachable!("a write that began") };
        let was_slow = self.is_slow(flight, now);
        match &mut self.state {
            // A slow write has had its strikes.
            State::Closed { .. } if was_slow => {}
            State::Closed { strikes } if succeeded => *strikes = 0,
            State::Closed { .. } => self.strike(Strike::Failed, now, &mut changed),
            State::Open { .. } => {}
            State::HalfOpen if succeeded => {
                self.state = State::Closed { strikes: 0 };
                changed(Change::Closed);
            }
            State::HalfOpen => self.open(Strike::Failed, now, &mut changed),
        }
    }

    fn advance_to(&mut self, now: Instant, changed: &mut impl FnMut(Change)) {
        loop {
            match (self.state, &mut self.flight) {
                (State::Closed { .. } | State::HalfOpen, Some(flight))
                    if flight.strikes_at <= now =>
                {
                    let at = flight.strikes_at;
                    flight.strikes_at += self.limits.slow;
                    self.strike(Strike::Slow, at, changed);
                }
                (State::Open { until }, flight) if until <= now => {
                    let flight = *flight;
                    if flight.is_some_and(|flight| self.is_slow(flight, until)) {
                        self.state = State::Open { until: until + self.limits.open };
                    } else {
                        self.state = State::HalfOpen;
                        changed(Change::HalfOpened);
                    }
                }
                _ => return,
            }
        }
    }

    fn is_slow(&self, flight: Flight, at: Instant) -> bool {
        flight.began + self.limits.slow <= at
    }

    fn strike(&mut self, strike: Strike, at: Instant, changed: &mut impl FnMut(Change)) {
        match &mut self.state {
            State::Closed { strikes } => {
                *strikes += 1;
                if *strikes >= self.limits.failures_max {
                    self.open(strike, at, changed);
                }
            }
            State::HalfOpen => self.open(strike, at, changed),
            State::Open { .. } => unreachable!("an open breaker does not count"),
        }
    }

    fn open(&mut self, strike: Strike, at: Instant, changed: &mut impl FnMut(Change)) {
        self.state = State::Open { until: at + self.limits.open };
        changed(Change::Opened(strike));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        failures_max: 3,
        slow: Duration::from_millis(10),
        open: Duration::from_millis(50),
    };

    /// A breaker whose clock starts at zero.
    struct Bench {
        breaker: Breaker,
        zero: Instant,
        changes: Vec<Change>,
    }

    impl Bench {
        fn new(limits: Limits) -> Bench {
            Bench { breaker: Breaker::new(limits), zero: Instant::now(), changes: Vec::new() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.zero + Duration::from_millis(ms)
        }

        fn begin(&mut self, ms: u64) {
            let at = self.at(ms);
            self.breaker.write_began(at, |change| self.changes.push(change));
        }

        fn end(&mut self, ms: u64, succeeded: bool) {
            let at = self.at(ms);
            self.breaker.write_ended(succeeded, at, |change| self.changes.push(change));
        }

        /// The milliseconds to wait; `None` if lines pass.
        fn refused(&mut self, ms: u64) -> Option<u64> {
            let at = self.at(ms);
            self.breaker.advance(at, |change| self.changes.push(change));
            match self.breaker.gate(at) {
                Gate::Pass => None,
                Gate::Refuse(rest) => Some(u64::try_from(rest.as_millis()).unwrap()),
            }
        }

        fn fail(&mut self, ms: u64) {
            self.begin(ms);
            self.end(ms, false);
        }
    }

    #[test]
    fn only_strikes_in_a_row_open_it_and_one_good_probe_closes_it() {
        let mut bench = Bench::new(LIMITS);
        bench.fail(0);
        bench.fail(1);
        bench.begin(2);
        bench.end(3, true);
        bench.fail(4);
        bench.fail(5);
        assert_eq!(bench.refused(6), None);
        bench.fail(7);
        assert_eq!(bench.refused(8), Some(49));
        assert_eq!(bench.refused(56), Some(1));
        assert_eq!(bench.refused(57), None, "half-open: the probe is filled");
        bench.begin(60);
        assert_eq!(bench.refused(61), Some(9), "half-open: the probe is under way");
        bench.end(62, true);
        assert_eq!(bench.refused(62), None);
        let opened = Change::Opened(Strike::Failed);
        assert_eq!(bench.changes, [opened, Change::HalfOpened, Change::Closed]);
    }

    #[test]
    fn a_probe_that_fails_or_is_slow_opens_it_again() {
        let mut bench = Bench::new(Limits { failures_max: 1, ..LIMITS });
        bench.fail(0);
        bench.begin(50);
        bench.end(51, false);
        assert_eq!(bench.refused(51), Some(50));
        bench.begin(101);
        assert_eq!(bench.refused(111), Some(50), "slow, and known before it ends");
        bench.end(120, true);
        assert_eq!(bench.refused(120), Some(41), "too late to count");
    }

    #[test]
    fn a_write_that_hangs_opens_it_and_keeps_it_open() {
        let mut bench = Bench::new(LIMITS);
        bench.begin(0);
        assert_eq!(bench.refused(29), None);
        assert_eq!(bench.refused(30), Some(50));
        assert_eq!(bench.refused(80), Some(50), "still hanging when the time is up");
        assert_eq!(bench.refused(300), Some(30));
        bench.end(301, true);
        assert_eq!(bench.refused(329), Some(1));
        assert_eq!(bench.refused(330), None);
        assert_eq!(bench.changes, [Change::Opened(Strike::Slow), Change::HalfOpened]);
    }

    #[test]
    fn what_was_in_the_batch_is_written_while_open_and_may_be_the_probe() {
        let mut bench = Bench::new(LIMITS);
        (0..3).for_each(|ms| bench.fail(ms));
        bench.fail(10);
        assert_eq!(bench.refused(11), Some(41), "writes change nothing while it is open");
        bench.begin(50);
        assert_eq!(bench.refused(52), Some(8), "it was under way when the time was up");
        bench.end(53, true);
        assert_eq!(bench.refused(53), None);
    }

    /// The breaker by the millisecond: nothing is skipped, nothing computed ahead.
    struct Oracle {
        limits: (u64, u64, u64),
        now: u64,
        state: Lived,
        began: Option<u64>,
        changes: Vec<Change>,
    }

    enum Lived {
        Closed(u64),
        Open { rest: u64 },
        HalfOpen,
    }

    impl Oracle {
        fn strike(&mut self, strike: Strike) {
            let (failures_max, _, open) = self.limits;
            let opens = match &mut self.state {
                Lived::Closed(strikes) => {
                    *strikes += 1;
                    *strikes == failures_max
                }
                Lived::HalfOpen => true,
                Lived::Open { .. } => false,
            };
            if opens {
                self.state = Lived::Open { rest: open };
                self.changes.push(Change::Opened(strike));
            }
        }

        fn live_until(&mut self, ms: u64) {
            while self.now < ms {
                self.now += 1;
                let (_, slow, open) = self.limits;
                let lasted = self.began.map(|began| self.now - began);
                let was_open = matches!(self.state, Lived::Open { .. });
                if lasted.is_some_and(|lasted| lasted % slow == 0) {
                    self.strike(Strike::Slow);
                }
                if let Lived::Open { rest } = &mut self.state
                    && was_open
                {
                    *rest -= 1;
                    if *rest == 0 && lasted.is_some_and(|lasted| lasted >= slow) {
                        *rest = open;
                    } else if *rest == 0 {
                        self.state = Lived::HalfOpen;
                        self.changes.push(Change::HalfOpened);
                    }
                }
            }
        }

        fn end(&mut self, succeeded: bool) {
            let was_slow = self.began.take().is_some_and(|began| self.now - began >= self.limits.1);
            match &mut self.state {
                Lived::Closed(strikes) if succeeded && !was_slow => *strikes = 0,
                Lived::HalfOpen if succeeded => {
                    self.state = Lived::Closed(0);
                    self.changes.push(Change::Closed);
                }
                _ if succeeded || was_slow => {}
                _ => self.strike(Strike::Failed),
            }
        }

        fn refused(&self) -> Option<u64> {
            match (&self.state, self.began) {
                (Lived::Open { rest }, _) => Some(*rest),
                (Lived::HalfOpen, Some(began)) => Some(began + self.limits.1 - self.now),
                _ => None,
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_breaker_that_lives_each_millisecond(
            limits in (1u64..5, 1u64..12, 1u64..30),
            script in proptest::collection::vec((0u8..5, 0u64..14), 0..120),
        ) {
            let mut bench = Bench::new(Limits {
                failures_max: limits.0,
                slow: Duration::from_millis(limits.1),
                open: Duration::from_millis(limits.2),
            });
            let mut oracle = Oracle {
                limits, now: 0, state: Lived::Closed(0), began: None, changes: Vec::new(),
            };
            for (step, passes) in script {
                let now = oracle.now + passes;
                oracle.live_until(now);
                match (step, oracle.began) {
                    (0 | 1, None) => {
                        bench.begin(now);
                        oracle.began = Some(now);
                    }
                    (0, Some(_)) => {
                        bench.end(now, false);
                        oracle.end(false);
                    }
                    (1 | 2, Some(_)) => {
                        bench.end(now, true);
                        oracle.end(true);
                    }
                    // Time passes, and nobody asks.
                    (3, _) => continue,
                    _ => prop_assert_eq!(bench.refused(now), oracle.refused(), "at {} ms", now),
                }
                prop_assert_eq!(bench.breaker.is_refusing(), oracle.refused().is_some());
                prop_assert_eq!(&bench.changes, &oracle.changes, "at {} ms", now);
            }
        }
    }
}
