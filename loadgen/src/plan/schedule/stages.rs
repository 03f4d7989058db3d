//! One rate after the other.

use std::time::Duration;

use super::ramps::{Line, Ramps};
use crate::plan::shape::{Stages, Way};

/// What the stages are as lines, one each; a jump is a line of no length.
pub(super) fn lines(stages: &Stages) -> impl Iterator<Item = Line> + '_ {
    let mut rate_per_s = 0;
    stages.as_slice().iter().map(move |stage| {
        let before = std::mem::replace(&mut rate_per_s, stage.rate_per_s);
        let from = match stage.way {
            Way::Ramp => before,
            Way::Hold => stage.rate_per_s,
        };
        Line::new(stage.lasts, from, stage.rate_per_s)
    })
}

pub(super) fn ramps(stages: &Stages) -> Ramps {
    Ramps::once(lines(stages))
}

/// The rate that stages open with, messages a second: at the start, or where that is 0 the mean of
/// the first stage that sends.
pub(super) fn opening_per_s(stages: &Stages) -> u64 {
    let opening = lines(stages).find(|line| line.lasts_ns > 0 && line.from + line.to > 0);
    let opening = opening.expect("stages send something");
    let per_s = if opening.from > 0 { opening.from } else { opening.to.div_ceil(2) };
    per_s.div_ceil(super::ramps::MICRO)
}

/// Name and length of each stage that takes time.
pub(super) fn named(stages: &Stages) -> impl Iterator<Item = (String, Duration)> + '_ {
    let numbered = stages.as_slice().iter().enumerate();
    let lasting = numbered.filter(|(_, stage)| !stage.lasts.is_zero());
    lasting.map(|(index, stage)| {
        (stage.name.clone().unwrap_or_else(|| (index + 1).to_string()), stage.lasts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::schedule::NANOS;

    #[test]
    fn stages_are_linear_from_the_rate_before_and_hold_when_told() {
        let stages: Stages = "30s:1k,1m:10k,peak=10s@10k,0s:5k,10s:0".parse().unwrap();
        let ramps = ramps(&stages);
        let mut expected = 0;
        let mut at_ns = 0;
        for (seconds, mean) in [(30, 500), (60, 5500), (10, 10_000), (10, 2500)] {
            expected += seconds * mean;
            at_ns += seconds * NANOS;
            assert_eq!(ramps.due_before(at_ns), expected);
        }
        assert_eq!(ramps.due_before(u64::MAX), expected);
        let names: Vec<String> = named(&stages).map(|(name, _)| name).collect();
        assert_eq!(names, ["1", "2", "peak", "5"]);
    }

    #[test]
    fn stages_open_with_their_first_rate_or_half_the_way_up() {
        for (text, opening) in
            [("10s@7", 7), ("10s:1k", 500), ("0s:40,10s:20", 40), ("5s:0,10s:1", 1)]
        {
            assert_eq!(opening_per_s(&text.parse().unwrap()), opening, "{text}");
        }
    }
}
