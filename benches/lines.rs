//! What framing costs: a stream of 200-byte lines cut into chunks of several sizes.
//!
//! `cargo bench -p logboom-benches --bench lines`

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use proto::limits::LINE_BYTES_MAX;
use proto::{Flow, Frame, Lines};

fn main() {
    divan::main();
}

const STREAM_LINES: usize = 20_000;

fn stream() -> Vec<u8> {
    (0..STREAM_LINES).flat_map(|n| format!("{:0>199}\n", n * 7919).into_bytes()).collect()
}

#[divan::bench(args = [64, 1500, 16 << 10, 64 << 10, 256 << 10])]
fn chunks_of_bytes(bencher: Bencher<'_, '_>, chunk_bytes: usize) {
    let stream = stream();
    let mut lines = Lines::new(LINE_BYTES_MAX);
    bencher
        .counter(ItemsCount::new(STREAM_LINES))
        .counter(BytesCount::new(stream.len()))
        .bench_local(|| {
            for chunk in stream.chunks(chunk_bytes) {
                lines.feed(black_box(chunk), |frame| {
                    black_box(frame);
                    Flow::Next
                });
            }
        });
}

/// The caller holds once per chunk and then takes all: what a full batch costs.
#[divan::bench]
fn hold_once_per_chunk_of_64_kib(bencher: Bencher<'_, '_>) {
    let stream = stream();
    let mut lines = Lines::new(LINE_BYTES_MAX);
    bencher.counter(ItemsCount::new(STREAM_LINES)).bench_local(|| {
        for chunk in stream.chunks(64 << 10) {
            let mut taken = 0;
            lines.feed(chunk, |_| {
                taken += 1;
                if taken > 100 { Flow::Hold } else { Flow::Next }
            });
            lines.feed(&[], |frame| {
                black_box(frame);
                Flow::Next
            });
        }
    });
}

#[divan::bench]
fn lines_that_are_all_too_long(bencher: Bencher<'_, '_>) {
    let stream = stream();
    let mut lines = Lines::new(100);
    bencher.counter(ItemsCount::new(STREAM_LINES)).bench_local(|| {
        for chunk in stream.chunks(64 << 10) {
            lines.feed(chunk, |frame| {
                assert!(matches!(black_box(frame), Frame::TooLong));
                Flow::Next
            });
        }
    });
}
