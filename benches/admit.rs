//! What the decision about a line costs: decode, admit, batch; without sockets, replies or a disk.
//!
//! `cargo bench -p logboom-benches --bench admit`. In instructions, which a busy machine does not
//! change: the built file under
//! `valgrind --tool=callgrind --toggle-collect='*offer_all*' … --bench NAME --sample-count 5 --sample-size 1`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use engine::counters::Counters;
use engine::ingest::batch::Limits;
use engine::ingest::breaker;
use engine::ingest::lanes::Policy;
use engine::ingest::{Fate, Ingest, Terms, Wrote};
use proto::hello::Durability;
use proto::level::Level;

fn main() {
    divan::main();
}

const LINES: usize = 10_000;
const BATCH_BYTES: usize = 4 << 20;

fn lines() -> Vec<Vec<u8>> {
    let levels = ["DEBUG", "INFO", "WARN", "ERROR"];
    let line = |n: usize| {
        let start = format!(
            "{{\"timestamp\":\"2026-11-21T03:53:57.123456Z\",\"level\":\"{}\",\"message\":\"order {n} placed\",\"pad\":\"",
            levels[n % 4]
        );
        format!("{start}{}\"}}", "x".repeat(198 - start.len())).into_bytes()
    };
    (0..LINES).map(line).collect()
}

fn ingest(terms: Terms) -> Ingest<Vec<u8>> {
    Ingest::new(terms, vec![0; BATCH_BYTES + (16 << 10)], Rc::new(Counters::default()))
}

fn terms() -> Terms {
    Terms {
        shard: 0,
        level_min: Level::Debug,
        batch: Limits {
            bytes_max: BATCH_BYTES,
            lines_flush: 500,
            flush_after: Duration::from_millis(100),
        },
        overload: Policy::Wait,
        breaker: None,
        disk_free_bytes_min: 1 << 30,
    }
}

fn all_on() -> Terms {
    let breaker = breaker::Limits {
        failures_max: 5,
        slow: Duration::from_secs(1),
        open: Duration::from_secs(5),
    };
    let overload = Policy::Shed { low_percent: 60, normal_percent: 80 };
    Terms { overload, breaker: Some(breaker), ..terms() }
}

/// Gives how many were taken.
#[inline(never)]
fn offer_all(ingest: &mut Ingest<Vec<u8>>, lines: &[Vec<u8>]) -> usize {
    let now = Instant::now();
    let mut taken = 0;
    for line in lines {
        match ingest.offer(black_box(line), Durability::Written, now) {
            Fate::Batched(ticket, _) => {
                black_box(ticket);
                taken += 1;
            }
            other => {
                black_box(other);
            }
        }
    }
    taken
}

fn bench(
    bencher: Bencher<'_, '_>,
    terms: Terms,
    prepare: impl Fn(&mut Ingest<Vec<u8>>),
    taken: usize,
) {
    let lines = lines();
    let mut ingest = ingest(terms);
    prepare(&mut ingest);
    let mut next = Some(vec![0; BATCH_BYTES + (16 << 10)]);
    bencher.counter(ItemsCount::new(LINES)).bench_local(|| {
        assert_eq!(offer_all(&mut ingest, &lines), taken);
        if taken > 0 {
            let now = Instant::now();
            let batch = ingest.take(next.take().unwrap_or_default(), now);
            ingest.wrote(Wrote::All, now);
            next = Some(batch.staged.buf);
        }
    });
}

#[divan::bench]
fn nothing_presses_and_nothing_could(bencher: Bencher<'_, '_>) {
    bench(bencher, terms(), |_| {}, LINES);
}

#[divan::bench]
fn nothing_presses_with_breaker_and_lanes(bencher: Bencher<'_, '_>) {
    bench(bencher, all_on(), |_| {}, LINES);
}

#[divan::bench]
fn the_breaker_is_open(bencher: Bencher<'_, '_>) {
    let open = |ingest: &mut Ingest<Vec<u8>>| {
        let now = Instant::now();
        ingest.take(vec![0; BATCH_BYTES + (16 << 10)], now);
        ingest.wrote(Wrote::Failed, now);
    };
    let limits = breaker::Limits {
        failures_max: 1,
        slow: Duration::from_hours(2),
        open: Duration::from_hours(2),
    };
    bench(bencher, Terms { breaker: Some(limits), ..terms() }, open, 0);
}

#[divan::bench]
fn the_disk_is_full(bencher: Bencher<'_, '_>) {
    bench(bencher, terms(), |ingest| ingest.tick(0, Instant::now()), 0);
}
