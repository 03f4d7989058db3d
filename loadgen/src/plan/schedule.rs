//! When a message is due: a closed form of its number, in integer arithmetic.
//!
//! Owns the global sequence of deadlines of a flow: a warm-up at a constant rate, then a shape,
//! until a bound or the shape ends it; and how it is cut into stages. A shard's own part of it is
//! a [`stream`]. Leaves waiting, batching and clocks to the worker. Times are nanoseconds since the
//! start of the run, the warm-up included; bounds concern what comes behind it.
//! Invariant: `due_by(t) = #{n : due(n) <= t}`, exactly, for every shape and after any time; and
//! the parts of the shards are disjoint and together the whole sequence.

use std::time::Duration;

use self::constant::Constant;
use self::ramps::Ramps;
use super::shape::{Arrivals, Burst, Shape, WARM_UP};
use crate::clock::nanos;

mod burst;
pub mod constant;
pub(crate) mod poisson;
pub mod ramps;
mod stages;
pub(crate) mod stream;
mod wave;

/// Nanoseconds of a second.
pub const NANOS: u64 = 1_000_000_000;

/// Where a run's load ends: after so many messages, after so long, or whichever is first. The
/// warm-up comes before, and does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Messages; `None` is no bound.
    pub total: Option<u64>,
    /// Time, ns; `None` is no bound.
    pub duration_ns: Option<u64>,
}

/// A stretch of the load that is reported on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is called in reports.
    pub name: String,
    /// Its messages count in the results; those of the warm-up don't.
    pub is_measured: bool,
    /// The number of its first message, those of the warm-up counted; with Poisson arrivals, where
    /// it would be if they were even; 0 in closed loop.
    pub first: u64,
    /// ns since the start.
    pub begin_ns: u64,
    /// The first ns that is not of it; `u64::MAX` where no time ends it.
    pub end_ns: u64,
}

/// The deadlines of a flow.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    bounds: Bounds,
    warm_up_ns: u64,
    /// `None` where the load opens with a pause, or in closed loop.
    warm_up: Option<Constant>,
    /// `None`: closed loop, a message is due when its worker is free.
    course: Option<Course>,
    /// Messages of the warm-up, and behind it within the bounds; of even arrivals.
    warm_up_count: u64,
    count: u64,
    stages: Vec<Stage>,
}

/// A shape as arithmetic.
#[derive(Clone, Debug)]
enum Course {
    Constant(Constant),
    Ramps(Ramps),
    /// Whoever reads the recording knows.
    Recorded,
}

impl Course {
    fn of(shape: &Shape) -> Option<Course> {
        Some(match shape {
            Shape::Closed => return None,
            Shape::Constant(constant) => Course::Constant(Constant::new(constant.rate_per_s)),
            Shape::Stages(stages) => Course::Ramps(stages::ramps(stages)),
            Shape::Burst(burst) => Course::Ramps(burst::ramps(burst)),
            Shape::Wave(wave) => Course::Ramps(wave::ramps(wave)),
            Shape::Recorded => Course::Recorded,
        })
    }

    fn lasts_ns(&self) -> Option<u64> {
        match self {
            Course::Constant(_) | Course::Recorded => None,
            Course::Ramps(ramps) => ramps.lasts_ns(),
        }
    }

    fn due_ns(&self, n: u64) -> u64 {
        match self {
            Course::Constant(constant) => constant.due_ns(n),
            Course::Ramps(ramps) => ramps.due_ns(n),
            Course::Recorded => u64::MAX,
        }
    }

    fn due_at(&self, position: Position) -> u64 {
        match self {
            Course::Constant(constant) => constant.due_at(position),
            Course::Ramps(ramps) => ramps.due_at(position),
            Course::Recorded => u64::MAX,
        }
    }

    fn due_before(&self, end_ns: u64) -> u64 {
        match self {
            Course::Constant(constant) => constant.due_before(end_ns),
            Course::Ramps(ramps) => ramps.due_before(end_ns),
            Course::Recorded => 0,
        }
    }
}

/// The rate that a shape opens with, at which it is warmed up; `None` in closed loop, and where it
/// opens with a pause that is part of it, as a burst without a base does.
pub fn opening_per_s(shape: &Shape) -> Option<u64> {
    match shape {
        Shape::Closed | Shape::Recorded => None,
        Shape::Constant(constant) => Some(constant.rate_per_s),
        Shape::Stages(stages) => Some(stages::opening_per_s(stages)),
        Shape::Burst(Burst { base_per_s, .. }) => (*base_per_s > 0).then_some(*base_per_s),
        Shape::Wave(wave) => Some(wave::opening_per_s(wave)),
    }
}

impl Schedule {
    /// `shape` behind a warm-up (0 for none). `name` is what a shape of one stage calls it.
    pub fn new(
        shape: &Shape,
        arrivals: Arrivals,
        warm_up: Duration,
        bounds: Bounds,
        name: &str,
    ) -> Schedule {
        let warm_up_ns = nanos(warm_up);
        let course = Course::of(shape);
        let warm_up = opening_per_s(shape).map(Constant::new);
        let measured_ns = bounds.duration_ns.unwrap_or(u64::MAX);
        let mut schedule = Schedule {
            arrivals,
            bounds,
            warm_up_ns,
            warm_up,
            warm_up_count: warm_up.map_or(0, |constant| constant.due_before(warm_up_ns)),
            count: course.as_ref().map_or(0, |course| course.due_before(measured_ns)),
            course,
            stages: Vec::new(),
        };
        schedule.count = schedule.count.min(bounds.total.unwrap_or(u64::MAX));
        schedule.cut(shape, name);
        schedule
    }

    fn cut(&mut self, shape: &Shape, name: &str) {
        let named: Vec<(String, u64)> = match shape {
            Shape::Stages(stages) => {
                stages::named(stages).map(|(name, lasts)| (name, nanos(lasts))).collect()
            }
            _ => vec![(name.to_owned(), u64::MAX)],
        };
        if self.warm_up_ns > 0 {
            self.push_stage(WARM_UP.to_owned(), false, 0, self.warm_up_ns);
        }
        let mut begin_ns = self.warm_up_ns;
        for (name, lasts_ns) in named {
            let end_ns = begin_ns.saturating_add(lasts_ns).min(self.end_ns());
            // A bound may cut stages off; the first one stays, so that there is always one.
            if begin_ns < end_ns || begin_ns == self.warm_up_ns {
                self.push_stage(name, true, begin_ns, end_ns);
            }
            begin_ns = end_ns;
        }
    }

    fn push_stage(&mut self, name: String, is_measured: bool, begin_ns: u64, end_ns: u64) {
        let first = self.due_before(begin_ns);
        self.stages.push(Stage { name, is_measured, first, begin_ns, end_ns });
    }

    /// A message is due when its worker is free.
    pub fn is_closed(&self) -> bool {
        self.course.is_none()
    }

    /// The stages, in order, one behind the other from 0 to [`Self::end_ns`]; the warm-up first.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Where the warm-up ends, ns since the start; 0 without one.
    pub fn measured_from_ns(&self) -> u64 {
        self.warm_up_ns
    }

    /// When time ends the load, ns since the start; `u64::MAX` where only a total does.
    pub fn end_ns(&self) -> u64 {
        let by_shape = self.course.as_ref().and_then(Course::lasts_ns).unwrap_or(u64::MAX);
        let by_bound = self.bounds.duration_ns.unwrap_or(u64::MAX);
        self.warm_up_ns.saturating_add(by_shape.min(by_bound))
    }

    /// When an undisturbed run ends: as [`Self::end_ns`], or when the message after the last one
    /// would be due; with Poisson arrivals on average; `u64::MAX` in closed loop without a duration.
    pub fn offering_end_ns(&self) -> u64 {
        let due_ns = |total| self.course.as_ref().map(|course| course.due_ns(total));
        let by_total = self.bounds.total.and_then(due_ns).unwrap_or(u64::MAX);
        self.end_ns().min(self.warm_up_ns.saturating_add(by_total))
    }

    /// Messages that will be offered behind the warm-up; with Poisson arrivals and no total, on
    /// average; `None` in closed loop, and of a recording, which only its reader counts.
    pub fn messages(&self) -> Option<u64> {
        let is_counted = |course: &&Course| !matches!(course, Course::Recorded);
        self.course.as_ref().filter(is_counted).map(|_| self.count)
    }

    /// When a message is due, a recording says.
    pub fn is_recorded(&self) -> bool {
        matches!(self.course, Some(Course::Recorded))
    }

    /// Messages of the warm-up; with Poisson arrivals, on average.
    pub fn warm_up_messages(&self) -> u64 {
        self.warm_up_count
    }

    /// When message `n` is due, ns since the start, the warm-up's first; `u64::MAX` is never. Even
    /// arrivals, open loop.
    pub fn due_ns(&self, n: u64) -> u64 {
        let Some(n) = n.checked_sub(self.warm_up_count) else {
            return self.warm_up.map_or(u64::MAX, |constant| constant.due_ns(n));
        };
        match &self.course {
            Some(course) if n < self.count => self.warm_up_ns.saturating_add(course.due_ns(n)),
            _ => u64::MAX,
        }
    }

    /// How many messages are due before `end_ns`. Even arrivals; 0 in closed loop.
    pub fn due_before(&self, end_ns: u64) -> u64 {
        let Some(course) = &self.course else { return 0 };
        match end_ns.checked_sub(self.warm_up_ns) {
            Some(end_ns) => {
                self.warm_up_count.saturating_add(self.count.min(course.due_before(end_ns)))
            }
            None => self.warm_up.map_or(0, |constant| constant.due_before(end_ns)),
        }
    }

    /// How many messages are due at `t_ns` or before. Even arrivals; 0 in closed loop.
    pub fn due_by(&self, t_ns: u64) -> u64 {
        self.due_before(t_ns.saturating_add(1))
    }
}

/// A point in the sequence of message numbers, also between two of them, in parts of 2⁻³².
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(u128);

impl Position {
    pub(crate) fn of(n: u64) -> Position {
        Position(u128::from(n) << 32)
    }

    fn plus(self, parts: u128) -> Position {
        Position(self.0 + parts)
    }

    #[cfg(test)]
    fn in_parts(self) -> u128 {
        self.0
    }

    /// ⌊position × factor⌋ for a factor below 2⁵².
    fn scaled(self, factor: u128) -> u128 {
        let fraction = self.0 & u128::from(u32::MAX);
        (self.0 >> 32) * factor + ((fraction * factor) >> 32)
    }
}

/// One shard's part of the sequence: its k-th message is message `k·shards + shard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    shard: u64,
    shards: u64,
}

impl Part {
    /// The part of `shard` among `shards`.
    pub fn new(shard: u64, shards: u64) -> Part {
        assert!(shard < shards, "shard {shard} of {shards}");
        Part { shard, shards }
    }

    /// Which part it is.
    pub fn shard(self) -> u64 {
        self.shard
    }

    /// How many parts there are.
    pub fn shards(self) -> u64 {
        self.shards
    }

    /// The global number of this part's message `k`.
    pub fn number(self, k: u64) -> u64 {
        k.saturating_mul(self.shards).saturating_add(self.shard)
    }

    /// Whether message `n` belongs to this part.
    pub fn has(self, n: u64) -> bool {
        n % self.shards == self.shard
    }

    /// How many of the messages 0..`end` belong to this part.
    pub fn count_below(self, end: u64) -> u64 {
        end.saturating_sub(self.shard).div_ceil(self.shards)
    }
}

/// `total` messages as `parts` shares that differ by at most one; share `index` of them.
pub fn share(total: u64, parts: u64, index: u64) -> u64 {
    assert!(index < parts, "share {index} of {parts}");
    total / parts + u64::from(index < total % parts)
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(shape: &str, warm_up_secs: u64, bounds: Bounds) -> Schedule {
        let warm_up = Duration::from_secs(warm_up_secs);
        Schedule::new(&shape.parse().unwrap(), Arrivals::Even, warm_up, bounds, "main")
    }

    fn both(total: Option<u64>, seconds: Option<u64>) -> Bounds {
        Bounds { total, duration_ns: seconds.map(|seconds| seconds * NANOS) }
    }

    #[test]
    fn bounds_take_whichever_is_first() {
        for (total, seconds, messages, end_secs) in [
            (Some(1000), Some(5), 500, 5),
            (Some(200), Some(5), 200, 2),
            (None, Some(5), 500, 5),
            (Some(200), None, 200, 2),
        ] {
            for warm_up in [0, 7] {
                let schedule = schedule("constant 100", warm_up, both(total, seconds));
                assert_eq!(schedule.messages(), Some(messages));
                assert_eq!(schedule.offering_end_ns(), (end_secs + warm_up) * NANOS);
                assert_eq!(schedule.warm_up_messages(), warm_up * 100);
                assert_eq!(schedule.due_ns(warm_up * 100 + messages), u64::MAX);
            }
        }
    }

    #[test]
    fn stages_follow_each_other_behind_the_warm_up_until_a_bound_cuts_them() {
        let shape = "stages 2s@10,0s:40,ramp=3s:20,1s:0";
        let stage = |name: &str, is_measured, first, begin_secs, end_secs| Stage {
            name: name.to_owned(),
            is_measured,
            first,
            begin_ns: begin_secs * NANOS,
            end_ns: end_secs * NANOS,
        };
        let whole = schedule(shape, 5, both(None, None));
        let stages = [
            stage(WARM_UP, false, 0, 0, 5),
            stage("1", true, 50, 5, 7),
            stage("ramp", true, 70, 7, 10),
            stage("4", true, 160, 10, 11),
        ];
        assert_eq!(whole.stages(), stages);
        assert_eq!(whole.messages(), Some(120));
        let cut = schedule(shape, 5, both(None, Some(3)));
        let mut shorter = stages[..3].to_vec();
        shorter[2].end_ns = 8 * NANOS;
        assert_eq!(cut.stages(), shorter);
    }

    #[test]
    fn a_shape_of_one_stage_has_the_name_of_its_flow() {
        for shape in ["closed", "constant 5", "burst rate=5", "wave mean=5"] {
            let schedule = schedule(shape, 0, both(Some(5), None));
            let names: Vec<&str> = schedule.stages().iter().map(|stage| &*stage.name).collect();
            assert_eq!(names, ["main"]);
        }
        let closed = schedule("closed", 2, both(None, Some(3)));
        assert_eq!((closed.stages().len(), closed.end_ns()), (2, 5 * NANOS));
        assert_eq!((closed.messages(), closed.offering_end_ns()), (None, 5 * NANOS));
    }

    #[test]
    fn what_is_measured_does_not_depend_on_the_warm_up() {
        let cold = schedule("wave mean=700,swing=300,every=3s", 0, both(Some(5000), None));
        let warm = schedule("wave mean=700,swing=300,every=3s", 2, both(Some(5000), None));
        assert_eq!(warm.warm_up_messages(), 1400);
        for n in 0..5000 {
            assert_eq!(warm.due_ns(1400 + n), cold.due_ns(n) + 2 * NANOS);
        }
    }

    #[test]
    fn shares_add_up_and_differ_by_at_most_one() {
        assert_eq!((0..5).map(|index| share(7, 5, index)).collect::<Vec<_>>(), [2, 2, 1, 1, 1]);
        assert_eq!((0..3).map(|index| share(0, 3, index)).sum::<u64>(), 0);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(shards in 1u64..9, end in 0u64..500) {
            let mut numbers = Vec::new();
            for shard in 0..shards {
                let part = Part::new(shard, shards);
                numbers.extend((0..part.count_below(end)).map(|k| part.number(k)));
            }
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..end).collect::<Vec<_>>());
        }

        #[test]
        fn due_by_is_the_number_of_deadlines_for_every_shape(
            shape in prop::sample::select(vec![
                "constant 997",
                "stages 1s:1k,500ms:300,500ms@0,1s:2k",
                "burst rate=5k,for=100ms,every=1s,base=333",
                "burst rate=5k,for=100ms,every=1s,base=0",
                "wave mean=900,swing=900,every=777ms,start=low",
            ]),
            warm_up in 0u64..2,
            total in prop::option::of(1u64..4000),
            end_ns in 1u64..4_000_000_000,
        ) {
            let bounds = Bounds { total, duration_ns: Some(end_ns) };
            let schedule = schedule(shape, warm_up, bounds);
            let deadlines: Vec<u64> =
                (0..).map(|n| schedule.due_ns(n)).take_while(|&due_ns| due_ns < u64::MAX).collect();
            let count = schedule.warm_up_messages() + schedule.messages().unwrap();
            prop_assert_eq!(deadlines.len() as u64, count);
            prop_assert!(deadlines.is_sorted());
            prop_assert!(deadlines.iter().all(|&due_ns| due_ns < schedule.end_ns()));
            for t_ns in (0..5 * NANOS).step_by(37_123_457).chain(deadlines.iter().copied()) {
                let slow = deadlines.partition_point(|&due_ns| due_ns <= t_ns) as u64;
                prop_assert_eq!(schedule.due_by(t_ns), slow, "at {}", t_ns);
            }
            for stage in schedule.stages() {
                let slow = deadlines.partition_point(|&due_ns| due_ns < stage.begin_ns) as u64;
                prop_assert_eq!(stage.first, slow);
            }
        }
    }
}
