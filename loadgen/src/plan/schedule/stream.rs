//! One shard's part of a schedule, message after message.
//!
//! Owns what has been taken of it, and counting what is due, for even and for Poisson arrivals
//! alike. Leaves who takes it to the dispatch.
//! Invariant: deadlines come in order; what was taken and what is left are together what the
//! schedule has, whenever it was looked at.

use std::sync::Arc;

use super::poisson::Walk;
use super::{Part, Schedule, share};
use crate::plan::shape::Arrivals;

/// A shard's messages that are not taken yet.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    schedule: Arc<Schedule>,
    source: Source,
    /// When the next message is due; `u64::MAX` when there is none.
    next_ns: u64,
    /// The stage of the next message.
    stage: usize,
}

#[derive(Clone, Debug)]
enum Source {
    /// The next is message `taken` of the part.
    Even {
        part: Part,
        taken: u64,
    },
    Poisson {
        arrivals: Box<Poisson>,
        counter: Box<Counter>,
    },
}

impl Stream {
    /// The part of a shard; `seed` is of the Poisson arrivals, the same for all shards.
    pub(crate) fn new(schedule: Arc<Schedule>, part: Part, seed: u64) -> Stream {
        let has_deadlines = !schedule.is_closed() && !schedule.is_recorded();
        assert!(has_deadlines, "those of a closed loop and of a recording are not computed");
        let source = match schedule.arrivals {
            Arrivals::Even => Source::Even { part, taken: 0 },
            Arrivals::Poisson => {
                let arrivals = Poisson::new(&schedule, part, seed);
                let counter = Counter::new(arrivals.clone(), schedule.stages.len());
                Source::Poisson { arrivals: Box::new(arrivals), counter: Box::new(counter) }
            }
        };
        let mut stream = Stream { schedule, source, next_ns: 0, stage: 0 };
        stream.find_next();
        stream
    }

    /// When the next message is due, ns since the start; `u64::MAX` when there is none left.
    pub(crate) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Takes what is due at `now_ns` or before, `count_max` messages at most and none of another
    /// stage than the first; appends the deadlines to `dues` and gives the stage.
    pub(crate) fn take(&mut self, now_ns: u64, count_max: u64, dues: &mut Vec<u64>) -> usize {
        let stage = self.stage;
        let until_ns = now_ns.min(self.schedule.stages[stage].end_ns.saturating_sub(1));
        let mut left = count_max;
        while self.next_ns <= until_ns && left > 0 {
            dues.push(self.next_ns);
            self.advance();
            left -= 1;
        }
        self.find_stage();
        stage
    }

    /// Takes everything that is due before `end_ns`, and tells `each` stage, deadline and count.
    ///
    /// At most about `steps_max` times: a schedule can make more messages due than could be walked
    /// through one by one. Then all of a step are told with the last deadline of it.
    pub(crate) fn drain(
        &mut self,
        end_ns: u64,
        steps_max: u64,
        mut each: impl FnMut(usize, u64, u64),
    ) {
        while self.next_ns < end_ns {
            let stage = self.stage;
            let until_ns = end_ns.min(self.schedule.stages[stage].end_ns);
            match &mut self.source {
                Source::Even { part, taken } => {
                    let end = part.count_below(self.schedule.due_before(until_ns));
                    let step = (end - *taken).div_ceil(steps_max.max(1));
                    while *taken < end {
                        let n = step.min(end - *taken);
                        *taken += n;
                        each(stage, self.schedule.due_ns(part.number(*taken - 1)), n);
                    }
                }
                Source::Poisson { arrivals, .. } => {
                    while arrivals.next_ns < until_ns {
                        each(stage, arrivals.next_ns, 1);
                        arrivals.advance(&self.schedule);
                    }
                }
            }
            self.find_next();
        }
    }

    /// How many messages of a stage are due before `end_ns`, taken or not, in this part.
    pub(crate) fn due_in(&mut self, stage: usize, end_ns: u64) -> u64 {
        match &mut self.source {
            Source::Even { part, .. } => {
                let span = &self.schedule.stages[stage];
                let end = self.schedule.due_before(end_ns.clamp(span.begin_ns, span.end_ns));
                part.count_below(end) - part.count_below(span.first)
            }
            Source::Poisson { counter, .. } => {
                counter.count(&self.schedule, end_ns);
                counter.counts[stage]
            }
        }
    }

    fn advance(&mut self) {
        match &mut self.source {
            Source::Even { part, taken } => {
                *taken += 1;
                self.next_ns = self.schedule.due_ns(part.number(*taken));
            }
            Source::Poisson { arrivals, .. } => {
                arrivals.advance(&self.schedule);
                self.next_ns = arrivals.next_ns;
            }
        }
    }

    fn find_next(&mut self) {
        self.next_ns = match &self.source {
            Source::Even { part, taken } => self.schedule.due_ns(part.number(*taken)),
            Source::Poisson { arrivals, .. } => arrivals.next_ns,
        };
        self.find_stage();
    }

    fn find_stage(&mut self) {
        let stages = &self.schedule.stages;
        while self.stage + 1 < stages.len() && self.next_ns >= stages[self.stage].end_ns {
            self.stage += 1;
        }
    }
}

/// A shard's Poisson arrivals. The warm-up has a stream of its own, so that what is measured does
/// not depend on it.
#[derive(Clone, Debug)]
struct Poisson {
    warm_up: Option<Walk>,
    measured: Walk,
    /// Messages behind the warm-up that may still come: an exact total is shared out.
    left: u64,
    next_ns: u64,
}

impl Poisson {
    fn new(schedule: &Schedule, part: Part, seed: u64) -> Poisson {
        let (shard, shards) = (part.shard(), part.shards());
        let seed = seed.wrapping_add(shard.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut poisson = Poisson {
            warm_up: (schedule.warm_up_count > 0).then(|| Walk::new(!seed, shards)),
            measured: Walk::new(seed, shards),
            left: schedule.bounds.total.map_or(u64::MAX, |total| share(total, shards, shard)),
            next_ns: 0,
        };
        poisson.advance(schedule);
        poisson
    }

    fn advance(&mut self, schedule: &Schedule) {
        if let (Some(walk), Some(constant)) = (&mut self.warm_up, schedule.warm_up) {
            self.next_ns = constant.due_at(walk.step());
            if self.next_ns < schedule.warm_up_ns {
                return;
            }
            // A Poisson process has no memory: what is measured starts anew.
            self.warm_up = None;
        }
        self.next_ns = u64::MAX;
        let Some(course) = schedule.course.as_ref().filter(|_| self.left > 0) else { return };
        self.left -= 1;
        let due_ns = schedule.warm_up_ns.saturating_add(course.due_at(self.measured.step()));
        if due_ns < schedule.end_ns() {
            self.next_ns = due_ns;
        } else {
            self.left = 0;
        }
    }
}

/// Counts deadlines as time goes on, on a copy of the stream.
#[derive(Clone, Debug)]
struct Counter {
    start: Poisson,
    arrivals: Poisson,
    /// Of each stage.
    counts: Vec<u64>,
    stage: usize,
    until_ns: u64,
}

impl Counter {
    fn new(arrivals: Poisson, stages: usize) -> Counter {
        Counter {
            start: arrivals.clone(),
            arrivals,
            counts: vec![0; stages],
            stage: 0,
            until_ns: 0,
        }
    }

    /// Counts what is due before `end_ns`.
    fn count(&mut self, schedule: &Schedule, end_ns: u64) {
        if end_ns < self.until_ns {
            // Nobody looks back on the hot path.
            self.arrivals = self.start.clone();
            self.counts.fill(0);
            self.stage = 0;
        }
        self.until_ns = end_ns;
        while self.arrivals.next_ns < end_ns {
            while self.arrivals.next_ns >= schedule.stages[self.stage].end_ns {
                self.stage += 1;
            }
            self.counts[self.stage] += 1;
            self.arrivals.advance(schedule);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::plan::schedule::{Bounds, NANOS};

    const SHAPES: [&str; 4] = [
        "constant 1k",
        "stages 1s:1k,500ms:300,500ms@0,1s:2k",
        "burst rate=5k,for=100ms,every=1s,base=333",
        "wave mean=900,swing=900,every=777ms,start=low",
    ];

    fn schedule(
        shape: &str,
        arrivals: Arrivals,
        warm_up_secs: u64,
        bounds: Bounds,
    ) -> Arc<Schedule> {
        let warm_up = Duration::from_secs(warm_up_secs);
        Arc::new(Schedule::new(&shape.parse().unwrap(), arrivals, warm_up, bounds, "main"))
    }

    fn deadlines(mut stream: Stream) -> Vec<(usize, u64)> {
        let mut deadlines = Vec::new();
        let mut dues = Vec::new();
        loop {
            dues.clear();
            let stage = stream.take(u64::MAX, 100, &mut dues);
            if dues.is_empty() {
                return deadlines;
            }
            deadlines.extend(dues.iter().map(|&due_ns| (stage, due_ns)));
        }
    }

    #[test]
    fn an_exact_total_is_shared_out_among_poisson_shards() {
        let bounds = Bounds { total: Some(1001), duration_ns: None };
        let schedule = schedule("constant 1k", Arrivals::Poisson, 0, bounds);
        let counts: Vec<usize> = (0..3)
            .map(|shard| {
                deadlines(Stream::new(Arc::clone(&schedule), Part::new(shard, 3), 1)).len()
            })
            .collect();
        assert_eq!(counts, [334, 334, 333]);
    }

    #[test]
    fn poisson_arrivals_follow_the_shape() {
        // Counts of every stage are Poisson with the mean of the shape's integral.
        let bounds = Bounds { total: None, duration_ns: Some(20 * NANOS) };
        let even = schedule("stages 5s:1k,5s@100,5s@0,5s:2k", Arrivals::Even, 3, bounds);
        let drawn = schedule("stages 5s:1k,5s@100,5s@0,5s:2k", Arrivals::Poisson, 3, bounds);
        let stages = even.stages().len();
        let mut counts = vec![0u64; stages];
        for shard in 0..2 {
            for (stage, due_ns) in
                deadlines(Stream::new(Arc::clone(&drawn), Part::new(shard, 2), 42))
            {
                let span = &drawn.stages()[stage];
                assert!((span.begin_ns..span.end_ns).contains(&due_ns));
                counts[stage] += 1;
            }
        }
        for (index, count) in counts.into_iter().enumerate() {
            let stage = &even.stages()[index];
            let mean = even.due_before(stage.end_ns) - stage.first;
            let slack = 4.0 * (mean as f64).sqrt();
            assert!((count as f64 - mean as f64).abs() <= slack, "{index}: {count} for {mean}");
        }
    }

    #[test]
    fn what_is_measured_does_not_depend_on_the_warm_up() {
        let bounds = Bounds { total: None, duration_ns: Some(NANOS) };
        let cold = schedule("constant 1k", Arrivals::Poisson, 0, bounds);
        let warm = schedule("constant 1k", Arrivals::Poisson, 2, bounds);
        let cold = deadlines(Stream::new(cold, Part::new(0, 1), 9));
        let warm = deadlines(Stream::new(warm, Part::new(0, 1), 9));
        let behind = warm.iter().filter(|(stage, _)| *stage == 1);
        let behind: Vec<u64> = behind.map(|(_, due_ns)| due_ns - 2 * NANOS).collect();
        assert_eq!(behind, cold.iter().map(|(_, due_ns)| *due_ns).collect::<Vec<_>>());
        assert!(warm.len() > cold.len() + 1800);
    }

    proptest! {
        // Each case walks thousands of deadlines several times, unoptimised.
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn however_it_is_taken_it_is_the_whole_part_in_order(
            shape in prop::sample::select(SHAPES.to_vec()),
            is_poisson in any::<bool>(),
            warm_up in 0u64..2,
            shards in 1u64..4,
            total in prop::option::of(1u64..4000),
            visits in prop::collection::vec((0u64..400_000_000, 0u8..3, 1u64..50), 1..20),
        ) {
            let arrivals = if is_poisson { Arrivals::Poisson } else { Arrivals::Even };
            let bounds = Bounds { total, duration_ns: Some(3 * NANOS) };
            let schedule = schedule(shape, arrivals, warm_up, bounds);
            let mut all = Vec::new();
            for shard in 0..shards {
                let part = Part::new(shard, shards);
                let whole = Stream::new(Arc::clone(&schedule), part, 5);
                let expected = deadlines(whole.clone());
                let mut stream = whole;
                let (mut now_ns, mut taken, mut drained) = (0, Vec::new(), 0);
                for &(pause_ns, what, n) in &visits {
                    now_ns += pause_ns;
                    for stage in 0..schedule.stages().len() {
                        let is_due = |(own, due_ns): &&(usize, u64)| {
                            *own == stage && *due_ns < now_ns
                        };
                        let slow = expected.iter().filter(is_due).count() as u64;
                        prop_assert_eq!(stream.due_in(stage, now_ns), slow);
                    }
                    if what == 0 {
                        stream.drain(now_ns, 7, |stage, due_ns, n| {
                            drained += n;
                            for _ in 0..n {
                                let (own_stage, own_ns) = expected[taken.len()];
                                assert!(own_stage == stage && own_ns <= due_ns);
                                taken.push((own_stage, own_ns));
                            }
                        });
                        prop_assert!(stream.next_ns() >= now_ns);
                    } else {
                        let mut dues = Vec::new();
                        let stage = stream.take(now_ns, n, &mut dues);
                        prop_assert!(dues.len() as u64 <= n);
                        taken.extend(dues.into_iter().map(|due_ns| (stage, due_ns)));
                    }
                }
                taken.extend(deadlines(stream));
                prop_assert_eq!(&taken, &expected);
                all.extend(taken.into_iter().map(|(_, due_ns)| due_ns));
            }
            if !is_poisson {
                all.sort_unstable();
                let whole: Vec<u64> = (0..all.len() as u64).map(|n| schedule.due_ns(n)).collect();
                prop_assert_eq!(all, whole);
                let count = schedule.warm_up_messages() + schedule.messages().unwrap();
                prop_assert_eq!(schedule.due_ns(count), u64::MAX);
            }
        }
    }
}
