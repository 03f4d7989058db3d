//! Claims against what is due, step by step.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use proptest::prelude::*;

use super::supply::{Closed, Open, Source, UNCLAIMED_STEPS_MAX, cut};
use super::*;
use crate::hammer::claim::Dues;
use crate::plan::schedule::stream::Stream;
use crate::plan::schedule::{Bounds, NANOS, Part, Schedule};
use crate::plan::shape::{Arrivals, CatchUp};

const SLOT_NS: u64 = 1_000_000;

struct Rig {
    dispatch: Dispatch,
    stages: usize,
    missed: Vec<(usize, u64, u64)>,
}

impl Rig {
    fn open(shape: &str, bounds: Bounds, batch_size: u64, workers: usize) -> Rig {
        Rig::late(shape, bounds, batch_size, workers, CatchUp::Asap)
    }

    fn late(
        shape: &str,
        bounds: Bounds,
        batch_size: u64,
        workers: usize,
        catch_up: CatchUp,
    ) -> Rig {
        Rig::of(schedule(shape, Arrivals::Even, 0, bounds), batch_size, workers, catch_up)
    }

    fn of(schedule: Arc<Schedule>, batch_size: u64, workers: usize, catch_up: CatchUp) -> Rig {
        let stream = Stream::new(Arc::clone(&schedule), Part::new(0, 1), 1);
        let source = Source::Planned(stream);
        let open = Open::new(&schedule, source, catch_up, SLOT_NS, batch_size);
        let dispatch = Dispatch::new(Supply::Open(Box::new(open)), workers);
        Rig { dispatch, stages: schedule.stages().len(), missed: Vec::new() }
    }

    fn closed(total: Option<u64>, workers: usize, batch_size: u64, warm_up_secs: u64) -> Rig {
        let bounds = Bounds { total, duration_ns: Some(NANOS) };
        let schedule = schedule("closed", Arrivals::Even, warm_up_secs, bounds);
        let (batch_size, first, rest) = cut(total, workers as u64, batch_size);
        let rest = total.map(|_| Arc::new(AtomicU64::new(rest)));
        let supply = Closed::new(&schedule, first, rest, batch_size);
        let dispatch = Dispatch::new(Supply::Closed(supply), workers);
        Rig { dispatch, stages: schedule.stages().len(), missed: Vec::new() }
    }

    fn take(&mut self, worker: usize, now_ns: u64) -> Poll<Option<Claim>> {
        let missed = &mut self.missed;
        let mut missed = |stage, due_ns, n| missed.push((stage, due_ns, n));
        self.dispatch.poll_claim(worker, now_ns, Waker::noop(), &mut missed)
    }

    fn claim(&mut self, worker: usize, now_ns: u64) -> Poll<Option<u64>> {
        self.take(worker, now_ns).map(|claim| claim.map(|claim| claim.count))
    }

    fn pace(&mut self, now_ns: u64) -> Poll<Option<u64>> {
        let missed = &mut self.missed;
        let mut missed = |stage, due_ns, n| missed.push((stage, due_ns, n));
        self.dispatch
            .poll_pace(now_ns, Waker::noop(), &mut missed)
            .map(|look| look.map(|look| look.at_ns))
    }

    fn unclaimed(&self) -> Vec<(usize, u64, u64)> {
        let mut unclaimed = Vec::new();
        let mut tell = |stage, due_ns, n| unclaimed.push((stage, due_ns, n));
        assert!(self.dispatch.drain_unclaimed(&mut tell));
        unclaimed
    }

    fn offered(&self) -> u64 {
        (0..self.stages).map(|stage| self.dispatch.due_in(stage, u64::MAX).unwrap()).sum()
    }
}

fn schedule(shape: &str, arrivals: Arrivals, warm_up_secs: u64, bounds: Bounds) -> Arc<Schedule> {
    let warm_up = Duration::from_secs(warm_up_secs);
    Arc::new(Schedule::new(&shape.parse().unwrap(), arrivals, warm_up, bounds, "main"))
}

fn dues(claim: Poll<Option<Claim>>) -> Vec<u64> {
    match claim {
        Poll::Ready(Some(Claim { dues: Dues::Each(dues), .. })) => dues,
        other => panic!("{other:?}"),
    }
}

fn count(messages: &[(usize, u64, u64)]) -> u64 {
    messages.iter().map(|(_, _, n)| n).sum()
}

const UNBOUNDED: Bounds = Bounds { total: None, duration_ns: None };

#[test]
fn a_small_total_is_spread_over_all_workers() {
    assert_eq!(cut(Some(7), 5, 100), (2, vec![2, 2, 1, 1, 1], 0));
    assert_eq!(cut(Some(1000), 5, 100), (100, vec![100; 5], 500));
    assert_eq!(cut(Some(3), 5, 100), (1, vec![1, 1, 1, 0, 0], 0));
    assert_eq!(cut(Some(0), 2, 100), (1, vec![0, 0], 0));
    assert_eq!(cut(None, 2, 100), (100, vec![0, 0], u64::MAX));
}

#[test]
fn a_closed_loop_ends_by_total_or_by_time_and_leaves_nothing_unclaimed() {
    let mut rig = Rig::closed(Some(5), 2, 2, 0);
    assert_eq!(rig.claim(0, 1), Poll::Ready(Some(2)));
    assert_eq!(rig.claim(0, 2), Poll::Ready(Some(1)));
    assert_eq!(rig.dispatch.ended_ns(3), None, "worker 1 has its first batch still");
    assert_eq!(rig.claim(1, 4), Poll::Ready(Some(2)));
    assert_eq!(rig.claim(0, 5), Poll::Ready(None));
    assert_eq!(rig.dispatch.ended_ns(9), Some(5));
    assert_eq!(rig.unclaimed(), []);

    let mut rig = Rig::closed(None, 1, 2, 0);
    assert_eq!(rig.claim(0, NANOS - 1), Poll::Ready(Some(2)));
    assert_eq!(rig.claim(0, NANOS), Poll::Ready(None));
    assert_eq!(rig.unclaimed(), []);
}

#[test]
fn the_warm_up_of_a_closed_loop_does_not_draw_from_the_total() {
    let mut rig = Rig::closed(Some(3), 1, 2, 2);
    let stage = |claim: Poll<Option<Claim>>| match claim {
        Poll::Ready(Some(claim)) => (claim.stage, claim.count),
        other => panic!("{other:?}"),
    };
    for now_ns in [0, NANOS, 2 * NANOS - 1] {
        assert_eq!(stage(rig.take(0, now_ns)), (0, 2));
    }
    assert_eq!(stage(rig.take(0, 2 * NANOS)), (1, 2));
    assert_eq!(stage(rig.take(0, 2 * NANOS + 1)), (1, 1));
    assert_eq!(rig.claim(0, 2 * NANOS + 2), Poll::Ready(None));
    // The duration, too, begins behind the warm-up.
    let mut rig = Rig::closed(None, 1, 2, 2);
    assert_eq!(stage(rig.take(0, 3 * NANOS - 1)), (1, 2));
    assert_eq!(rig.claim(0, 3 * NANOS), Poll::Ready(None));
}

#[test]
fn what_is_due_goes_to_idle_workers_in_the_order_in_which_they_became_idle() {
    let mut rig = Rig::open("constant 1k", UNBOUNDED, 2, 3);
    assert_eq!(rig.claim(2, 0), Poll::Ready(Some(1)));
    for worker in [1, 0] {
        assert_eq!(rig.claim(worker, 0), Poll::Pending);
    }
    assert_eq!(rig.pace(999_999), Poll::Ready(Some(1_000_000)));
    // Three are due at 3 ms; the first idle worker takes a whole batch.
    assert_eq!(rig.pace(3_000_000), Poll::Pending);
    assert_eq!(rig.claim(1, 3_000_000), Poll::Ready(Some(2)));
    assert_eq!(rig.claim(0, 3_000_000), Poll::Ready(Some(1)));
    // Nobody was idle since; who becomes free takes what is due.
    assert_eq!(rig.claim(2, 4_000_000), Poll::Ready(Some(1)));
}

#[test]
fn what_becomes_due_is_handed_out_once_in_a_slot() {
    let mut rig = Rig::open("constant 10k", UNBOUNDED, 5, 3);
    assert_eq!(rig.claim(0, 100), Poll::Ready(Some(1)));
    assert_eq!(rig.claim(1, 150_000), Poll::Pending, "the slot has been looked at");
    assert_eq!(rig.pace(160_000), Poll::Ready(Some(SLOT_NS)));
    // The pacer oversleeps a little; twelve are due by then, five for each of two workers.
    assert_eq!(rig.pace(1_250_000), Poll::Pending);
    assert_eq!(rig.claim(1, 1_250_000), Poll::Ready(Some(5)));
    assert_eq!(rig.claim(0, 1_300_000), Poll::Ready(Some(5)));
    // Who becomes free within the slot takes what was left of it, and no more.
    assert_eq!(dues(rig.take(2, 1_900_000)), [1_100_000, 1_200_000]);
    assert_eq!(rig.claim(1, 1_950_000), Poll::Pending);
    assert_eq!(rig.pace(1_950_000), Poll::Ready(Some(2 * SLOT_NS)));
}

#[test]
fn a_claim_says_since_when_its_worker_was_free_and_when_it_came() {
    let mut rig = Rig::open("constant 1k", UNBOUNDED, 2, 1);
    let times = |claim: Poll<Option<Claim>>| match claim {
        Poll::Ready(Some(claim)) => (claim.free_ns, claim.claimed_ns),
        other => panic!("{other:?}"),
    };
    assert_eq!(times(rig.take(0, 50)), (0, 50), "it was never away");
    assert_eq!(rig.claim(0, 400_000), Poll::Pending);
    assert_eq!(rig.pace(1_000_100), Poll::Pending);
    assert_eq!(times(rig.take(0, 1_000_300)), (400_000, 1_000_300));
    assert_eq!(times(rig.take(0, 2_500_000)), (2_500_000, 2_500_000));
}

#[test]
fn at_the_end_idle_workers_take_what_waits_for_the_pacer() {
    let bounds = Bounds { total: None, duration_ns: Some(3_000_000) };
    let mut rig = Rig::open("constant 1k", bounds, 1, 2);
    assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
    assert_eq!(rig.claim(0, 1), Poll::Pending);
    assert_eq!(rig.dispatch.ended_ns(3_000_100), Some(3_000_000));
    assert_eq!(rig.claim(0, 3_000_200), Poll::Ready(Some(1)));
    // What is left, a worker takes that becomes free just after the end, and no later.
    assert_eq!(rig.claim(1, 3_000_000 + LATE_NS), Poll::Ready(None));
    assert_eq!(rig.claim(1, 3_000_000 + LATE_NS - 1), Poll::Ready(Some(1)));
    assert_eq!(rig.unclaimed(), []);
}

#[test]
fn late_messages_keep_their_own_deadlines_and_the_rest_is_unclaimed() {
    let bounds = Bounds { total: None, duration_ns: Some(10_000_000) };
    let mut rig = Rig::open("constant 1k", bounds, 4, 1);
    assert_eq!(dues(rig.take(0, 9_500_000)), [0, 1_000_000, 2_000_000, 3_000_000]);
    assert_eq!(rig.claim(0, 10_000_000 + LATE_NS), Poll::Ready(None));
    let unclaimed: Vec<_> = (4..10).map(|n| (0, n * 1_000_000, 1)).collect();
    assert_eq!(rig.unclaimed(), unclaimed);
    assert_eq!(rig.offered(), 10);
}

#[test]
fn a_halt_leaves_what_was_due_until_then() {
    let bounds = Bounds { total: Some(100), duration_ns: None };
    let mut rig = Rig::open("constant 1k", bounds, 1, 1);
    assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
    rig.dispatch.halt(2_500_000);
    assert_eq!(rig.claim(0, 3_000_000), Poll::Ready(None));
    assert_eq!(count(&rig.unclaimed()), 2);
    assert_eq!(rig.offered(), 3);
}

#[test]
fn a_claim_never_straddles_two_stages() {
    let mut rig = Rig::open("stages 2ms@2k,2ms@4k", UNBOUNDED, 100, 1);
    let mut stages = Vec::new();
    while let Poll::Ready(Some(claim)) = rig.take(0, 3_999_999) {
        stages.push((claim.stage, claim.count));
    }
    assert_eq!(stages, [(0, 4), (1, 8)]);
}

#[test]
fn without_catching_up_what_is_late_is_missed_and_the_rest_goes_on_time() {
    let bounds = Bounds { total: None, duration_ns: Some(NANOS) };
    let mut rig = Rig::late("constant 1k", bounds, 4, 1, CatchUp::None);
    assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
    // The target stalls for half a second.
    assert_eq!(dues(rig.take(0, 500_000_000)), [498_000_000, 499_000_000, 500_000_000]);
    assert_eq!(count(&rig.missed), 497);
    assert_eq!(rig.missed.first(), Some(&(0, 1_000_000, 1)));
    assert_eq!(rig.missed.last(), Some(&(0, 497_000_000, 1)));
    // At the end, too.
    assert_eq!(dues(rig.take(0, NANOS + 500_000)), [999_000_000]);
    assert_eq!(rig.claim(0, NANOS + LATE_NS), Poll::Ready(None));
    assert_eq!(count(&rig.missed) + count(&rig.unclaimed()) + 4 + 1, 1000);
}

#[test]
fn a_limited_backlog_goes_at_its_own_rate_and_is_then_on_time_again() {
    let limit = CatchUp::Limited { thousandths: 1250 };
    let mut rig = Rig::late("constant 1k", UNBOUNDED, 100, 1, limit);
    assert_eq!(rig.claim(0, 0), Poll::Ready(Some(1)));
    // Nobody is there for 100 ms: then 125 messages may go in 100 ms, not 200 at once, and
    // after 500 ms there is nothing late any more.
    let (mut now_ns, mut sent) = (100_000_000, Vec::new());
    while now_ns < 800_000_000 {
        if let Poll::Ready(Some(claim)) = rig.take(0, now_ns) {
            sent.extend(dues(Poll::Ready(Some(claim))).into_iter().map(|due| (now_ns, due)));
        } else if let Poll::Ready(Some(next_ns)) = rig.pace(now_ns) {
            assert!(next_ns > now_ns);
            now_ns = next_ns;
        }
    }
    for window_ns in [10_000_000, 100_000_000] {
        for from_ns in (100_000_000..500_000_000).step_by(7_000_000) {
            let within = |(at_ns, _): &&(u64, u64)| (from_ns..from_ns + window_ns).contains(at_ns);
            let count = sent.iter().filter(within).count() as u64;
            let allowed = window_ns / 800_000 + 2;
            assert!(count <= allowed, "{count} in {window_ns} ns from {from_ns}");
        }
    }
    let late_ns = |(at_ns, due_ns): &(u64, u64)| at_ns - due_ns;
    assert!(sent.iter().filter(|(at, _)| *at > 502_000_000).all(|it| late_ns(it) <= 1_000_000));
    assert!(sent.iter().filter(|(at, _)| *at < 480_000_000).all(|it| late_ns(it) > 1_000_000));
    assert_eq!(sent.iter().map(|(_, due)| *due).collect::<Vec<_>>(), {
        (1..=sent.len() as u64).map(|n| n * 1_000_000).collect::<Vec<_>>()
    });
}

#[test]
fn a_limited_backlog_does_not_save_up_what_nobody_took() {
    let limit = CatchUp::Limited { thousandths: 2000 };
    let mut rig = Rig::late("constant 1k", UNBOUNDED, 1000, 1, limit);
    assert_eq!(rig.claim(0, 100_000_000), Poll::Ready(Some(1)));
    // Nobody comes for another 50 ms, in which 100 would have been let go.
    assert_eq!(rig.claim(0, 150_000_000), Poll::Ready(Some(1)));
}

#[test]
fn a_thousand_million_unclaimed_messages_are_told_at_once() {
    let bounds = Bounds { total: None, duration_ns: Some(NANOS) };
    let mut rig = Rig::open("constant 1G", bounds, 1, 1);
    assert_eq!(rig.dispatch.ended_ns(NANOS), Some(NANOS));
    assert_eq!(rig.claim(0, 3 * NANOS), Poll::Ready(None));
    let unclaimed = rig.unclaimed();
    assert_eq!(count(&unclaimed), NANOS);
    assert!(unclaimed.len() as u64 <= UNCLAIMED_STEPS_MAX);
    // Each step has the deadline of its last message, so waits are lower bounds.
    assert_eq!(unclaimed.first().map(|(_, due_ns, n)| n - due_ns), Some(1));
    assert_eq!(unclaimed.last().map(|(_, due_ns, _)| *due_ns), Some(NANOS - 1));
}

proptest! {
    #[test]
    fn every_message_is_claimed_once_or_missed_or_unclaimed(
        shape in prop::sample::select(vec![
            "constant 997",
            "constant 5k",
            "stages 100ms:1k,50ms:300,50ms@0,100ms:2k",
            "burst rate=5k,for=10ms,every=100ms,base=333",
            "wave mean=900,swing=900,every=77ms,start=low",
        ]),
        is_poisson in any::<bool>(),
        catch_up in prop::sample::select(vec![
            CatchUp::Asap, CatchUp::None, CatchUp::Limited { thousandths: 1200 },
        ]),
        total in prop::option::of(0u64..300),
        batch_size in 1u64..20,
        visits in prop::collection::vec((0u64..50_000_000, 0usize..4, any::<bool>()), 0..60),
    ) {
        let arrivals = if is_poisson { Arrivals::Poisson } else { Arrivals::Even };
        let bounds = Bounds { total, duration_ns: Some(NANOS) };
        let schedule = schedule(shape, arrivals, 0, bounds);
        let mut rig = Rig::of(schedule, batch_size, 4, catch_up);
        let (mut now_ns, mut claimed) = (0, 0);
        let mut last_due_ns = 0;
        for (pause_ns, worker, is_pacer) in visits {
            now_ns += pause_ns;
            if is_pacer {
                let _ = rig.pace(now_ns);
            }
            if let Poll::Ready(Some(claim)) = rig.take(worker, now_ns) {
                let Dues::Each(dues) = &claim.dues else { panic!("open loop") };
                prop_assert!(claim.count <= batch_size && claim.count == dues.len() as u64);
                prop_assert!(dues.is_sorted() && dues.iter().all(|&due_ns| due_ns <= now_ns));
                last_due_ns = last_due_ns.max(dues[0]);
                claimed += claim.count;
                rig.dispatch.give_back(claim);
            }
        }
        for worker in 0..4 {
            rig.dispatch.halt(now_ns);
            if let Poll::Ready(Some(claim)) = rig.take(worker, now_ns) {
                claimed += claim.count;
            }
        }
        let lost = count(&rig.missed) + count(&rig.unclaimed());
        prop_assert_eq!(claimed + lost, rig.offered());
    }
}
