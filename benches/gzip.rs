//! What unpacking costs: the same lines plain, and in gzip members of several sizes.
//!
//! `cargo bench -p logboom-benches --bench gzip`

use std::io::Write;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use flate2::Compression;
use flate2::write::GzEncoder;
use proto::gzip::datagram;
use proto::limits::LINE_BYTES_MAX;
use proto::{Bounds, Flow, Step, Unpack};

fn main() {
    divan::main();
}

const STREAM_LINES: usize = 20_000;
const CHUNK_BYTES: usize = 64 << 10;
const SCRATCH_BYTES: usize = 64 << 10;
const BOUNDS: Bounds = Bounds { ratio_max: 1000, ratio_after_bytes: 8 << 20 };

/// Lines of about 200 bytes which differ in numbers, as logs do.
fn lines() -> Vec<String> {
    let mut dice = 1_u64;
    let mut roll = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        dice >> 33
    };
    (0..STREAM_LINES)
        .map(|seq| {
            format!(
                "{{\"timestamp\":\"2026-11-21T03:53:57.{:06}Z\",\"level\":\"INFO\",\"message\":\
                 \"order {:08x} placed by customer {}\",\"service\":\"checkout\",\"host\":\
                 \"node-{}\",\"took_ms\":{},\"trace\":\"{:08x}{:08x}\",\"seq\":{seq}}}\n",
                roll() % 1_000_000,
                roll(),
                roll() % 10_000,
                roll() % 16,
                roll() % 1000,
                roll(),
                roll()
            )
        })
        .collect()
}

fn member(lines: &[String]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    for line in lines {
        packer.write_all(line.as_bytes()).expect("memory takes all");
    }
    packer.finish().expect("memory takes all")
}

fn unpack_all(unpack: &mut Unpack, stream: &[u8], scratch: &mut [u8]) -> usize {
    let mut frames = 0;
    for chunk in stream.chunks(CHUNK_BYTES) {
        let mut bytes = black_box(chunk);
        loop {
            let step = unpack.feed(bytes, scratch, |frame, _| {
                black_box(frame);
                frames += 1;
                Flow::Next
            });
            bytes = &[];
            if step.expect("members are sound") == Step::Hungry {
                break;
            }
        }
    }
    frames
}

fn run(bencher: Bencher<'_, '_>, stream: &[u8], inflated_bytes: usize) {
    let mut unpack = Unpack::new(LINE_BYTES_MAX, BOUNDS);
    let mut scratch = vec![0; SCRATCH_BYTES];
    bencher
        .counter(ItemsCount::new(STREAM_LINES))
        .counter(BytesCount::new(inflated_bytes))
        .bench_local(|| assert_eq!(unpack_all(&mut unpack, stream, &mut scratch), STREAM_LINES));
}

#[divan::bench]
fn plain(bencher: Bencher<'_, '_>) {
    let stream = lines().concat().into_bytes();
    run(bencher, &stream, stream.len());
}

#[divan::bench(args = [1, 10, 100, 2000, STREAM_LINES])]
fn members_of_lines(bencher: Bencher<'_, '_>, member_lines: usize) {
    let lines = lines();
    let stream: Vec<u8> = lines.chunks(member_lines).flat_map(member).collect();
    run(bencher, &stream, lines.iter().map(String::len).sum());
}

/// The bytes are those of 100 lines; a datagram takes no more than 64 KiB packed.
#[divan::bench]
fn datagrams_of_100_lines(bencher: Bencher<'_, '_>) {
    let lines = lines();
    let datagrams: Vec<_> = lines.chunks(100).map(member).collect();
    let mut scratch = Vec::new();
    bencher.counter(ItemsCount::new(STREAM_LINES)).bench_local(|| {
        for bytes in &datagrams {
            datagram(bytes, LINE_BYTES_MAX, 1 << 20, &mut scratch, |frame| {
                black_box(frame);
            })
            .expect("members are sound");
        }
    });
}
