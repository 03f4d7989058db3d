//! When a recorded message is due again: its distance from the first, divided by the speed.
//!
//! ```text
//! recorded   |  |     |   |        |  |     |   |          the second time round begins a mean gap
//!            └─ first      └─ mean gap ─┘                  behind the last message
//! due        0  |     |   |        |  |     |   |          all divided by the speed
//! ```
//!
//! Pure, in integer arithmetic. Invariant: deadlines never descend; a message that was written down
//! behind a later one (access logs have the time at which a request began, and are written when it
//! ends) is due with that one.

use super::Speed;

/// The gap between two rounds of a recording that takes no time: the hundredth round is not due
/// with the first.
const GAP_NS: u64 = 1_000_000_000;

/// The deadlines of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Tempo {
    speed: Speed,
    /// Of the recording; `None` before the first message.
    first_ns: Option<i64>,
    /// Where this round begins, on a line of time on which the recording goes on and on.
    round_ns: u64,
    /// The latest message on it.
    latest_ns: u64,
    /// Messages of this round.
    messages: u64,
}

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// ns since the first message.
    pub ns: u64,
    /// It was written down behind a later one.
    pub is_backwards: bool,
}

impl Tempo {
    /// Nothing yet.
    pub fn new(speed: Speed) -> Tempo {
        Tempo { speed, first_ns: None, round_ns: 0, latest_ns: 0, messages: 0 }
    }

    /// When the next message is due, which was recorded at `at_ns`.
    pub fn due(&mut self, at_ns: i64) -> Due {
        let first_ns = *self.first_ns.get_or_insert(at_ns);
        let since_ns = u64::try_from(i128::from(at_ns) - i128::from(first_ns)).unwrap_or(0);
        let place_ns = self.round_ns.saturating_add(since_ns);
        let is_backwards = place_ns < self.latest_ns || at_ns < first_ns;
        self.latest_ns = self.latest_ns.max(place_ns);
        self.messages += 1;
        Due { ns: self.hastened(self.latest_ns), is_backwards }
    }

    /// The recording begins again.
    pub fn again(&mut self) {
        let lasted_ns = self.latest_ns - self.round_ns;
        let gaps = self.messages.saturating_sub(1);
        let gap_ns = if lasted_ns == 0 { GAP_NS } else { lasted_ns / gaps.max(1) };
        self.round_ns = self.latest_ns.saturating_add(gap_ns);
        self.latest_ns = self.round_ns;
        self.messages = 0;
    }

    /// How long the recording lasted as far as it was read, all rounds together, ns as recorded.
    pub fn lasted_ns(&self) -> u64 {
        self.latest_ns
    }

    fn hastened(&self, ns: u64) -> u64 {
        match self.speed {
            Speed::Max => 0,
            Speed::Thousandths(1000) => ns,
            Speed::Thousandths(thousandths) => {
                let due = u128::from(ns) * 1000 / u128::from(thousandths);
                u64::try_from(due).unwrap_or(u64::MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dues(speed: Speed, at: &[i64]) -> Vec<u64> {
        let mut tempo = Tempo::new(speed);
        at.iter().map(|&at_ns| tempo.due(at_ns).ns).collect()
    }

    #[test]
    fn gaps_are_kept_and_divided_by_the_speed() {
        let at = [5_000, 5_000, 6_000, 9_000];
        assert_eq!(dues(Speed::ORIGINAL, &at), [0, 0, 1000, 4000]);
        assert_eq!(dues(Speed::Thousandths(2000), &at), [0, 0, 500, 2000]);
        assert_eq!(dues(Speed::Thousandths(500), &at), [0, 0, 2000, 8000]);
        assert_eq!(dues(Speed::Max, &at), [0; 4]);
    }

    #[test]
    fn a_message_behind_a_later_one_is_due_with_it() {
        let mut tempo = Tempo::new(Speed::ORIGINAL);
        let told: Vec<(u64, bool)> = [100, 300, 200, 50, 400]
            .map(|at_ns| tempo.due(at_ns))
            .map(|due| (due.ns, due.is_backwards))
            .to_vec();
        assert_eq!(told, [(0, false), (200, false), (200, true), (200, true), (300, false)]);
    }

    #[test]
    fn the_next_round_begins_a_mean_gap_behind_the_last_message() {
        let mut tempo = Tempo::new(Speed::Thousandths(2000));
        let mut told = Vec::new();
        for _ in 0..3 {
            told.extend([1000, 1100, 1400].map(|at_ns| tempo.due(at_ns).ns));
            tempo.again();
        }
        assert_eq!(told, [0, 50, 200, 300, 350, 500, 600, 650, 800]);
        let mut tempo = Tempo::new(Speed::ORIGINAL);
        let rounds: Vec<u64> = (0..3)
            .map(|_| {
                let due_ns = tempo.due(7).ns;
                tempo.again();
                due_ns
            })
            .collect();
        assert_eq!(rounds, [0, GAP_NS, 2 * GAP_NS]);
    }

    proptest! {
        #[test]
        fn it_is_what_fractions_say(
            at in prop::collection::vec(any::<i64>(), 1..50),
            thousandths in 1u64..1_000_000_000,
        ) {
            let speed = Speed::Thousandths(thousandths);
            let mut tempo = Tempo::new(speed);
            let mut latest = i128::from(at[0]);
            for &at_ns in &at {
                let due = tempo.due(at_ns);
                prop_assert_eq!(due.is_backwards, i128::from(at_ns) < latest);
                latest = latest.max(i128::from(at_ns));
                // The largest due for which due × speed <= distance, by that definition.
                let distance = (latest - i128::from(at[0])) * 1000;
                let (due_ns, speed) = (i128::from(due.ns), i128::from(thousandths));
                if due.ns < u64::MAX {
                    prop_assert!(due_ns * speed <= distance && (due_ns + 1) * speed > distance);
                } else {
                    prop_assert!(due_ns * speed <= distance);
                }
            }
        }

        #[test]
        fn deadlines_never_descend_over_many_rounds(
            at in prop::collection::vec(0i64..1_000_000, 1..20),
            thousandths in 1u64..10_000,
            rounds in 1usize..5,
        ) {
            let mut tempo = Tempo::new(Speed::Thousandths(thousandths));
            let mut dues = Vec::new();
            for _ in 0..rounds {
                dues.extend(at.iter().map(|&at_ns| tempo.due(at_ns).ns));
                tempo.again();
            }
            prop_assert!(dues.is_sorted());
            // Every round is the first one, so much later.
            for (index, due_ns) in dues.iter().enumerate() {
                let (round, n) = (index / at.len(), index % at.len());
                let later_ns = dues[round * at.len()] - dues[0];
                prop_assert!(due_ns.abs_diff(dues[n] + later_ns) <= 1);
            }
        }
    }
}
