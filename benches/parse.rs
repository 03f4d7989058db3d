//! What decoding one line costs: `Record::parse` on lines of several shapes, beside a simd-json tape
//! and serde_json.
//!
//! `cargo bench -p logboom-benches --bench parse`; the figure that counts is `usual_200_bytes`.
#![expect(clippy::unwrap_used, reason = "a benchmark stops where its input is wrong")]

use std::borrow::Cow;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use proto::{Record, Scratch};
use simd_json::{Buffers, Tape};

fn main() {
    divan::main();
}

/// Lines in one iteration, so that the timer's own cost does not count; all different.
const LINES: usize = 1000;

fn usual(seq: usize) -> String {
    format!(
        "{{\"timestamp\":\"2026-11-21T03:53:57.{:06}Z\",\"level\":\"INFO\",\"service\":\"checkout\",\
         \"message\":\"order {} placed in 12.5 ms for customer 8812, 3 items, card\",\
         \"host\":\"web-17\",\"run\":\"r7f3a\",\"conn\":17,\"seq\":{seq}}}",
        seq * 7919 % 1_000_000,
        seq * 31
    )
}

fn run(bencher: Bencher<'_, '_>, line: impl Fn(usize) -> String) {
    let lines: Vec<String> = (0..LINES).map(line).collect();
    let mut scratch = Scratch::new();
    bencher
        .counter(ItemsCount::new(lines.len()))
        .counter(BytesCount::new(lines.iter().map(String::len).sum::<usize>()))
        .bench_local(|| {
            for line in &lines {
                black_box(Record::parse(black_box(line.as_bytes()), &mut scratch)).ok();
            }
        });
}

#[divan::bench]
fn usual_200_bytes(bencher: Bencher<'_, '_>) {
    run(bencher, usual);
}

#[divan::bench]
fn smallest(bencher: Bencher<'_, '_>) {
    run(bencher, |_| "{\"level\":\"INFO\",\"message\":\"\"}".to_owned());
}

#[divan::bench]
fn with_id_and_nested_context(bencher: Bencher<'_, '_>) {
    run(bencher, |seq| {
        usual(seq).replace(
            "\"host\"",
            &format!(
                "\"id\":\"m-{seq}\",\"ctx\":{{\"a\":[1,2,{{\"b\":\"\\u00e9\\n\"}}]}},\"host\""
            ),
        )
    });
}

#[divan::bench]
fn message_of_10_kib(bencher: Bencher<'_, '_>) {
    run(bencher, |seq| {
        format!("{{\"level\":\"WARN\",\"message\":\"{}{seq}\"}}", "lorem ipsum ".repeat(850))
    });
}

#[divan::bench]
fn unknown_level(bencher: Bencher<'_, '_>) {
    run(bencher, |seq| usual(seq).replace("INFO", "LOUD"));
}

#[divan::bench]
fn no_json(bencher: Bencher<'_, '_>) {
    run(bencher, |seq| usual(seq).replace("\"seq\":", "\"seq\""));
}

#[divan::bench]
fn left_undecided_by_the_scan(bencher: Bencher<'_, '_>) {
    run(bencher, |seq| usual(seq).replace("\"conn\":17", "\"conn\":1e100"));
}

/// The same lines as a simd-json tape in reused buffers: what `Record::parse` was before it had a
/// scan of its own, without looking at the fields.
#[divan::bench]
fn usual_200_bytes_as_a_tape(bencher: Bencher<'_, '_>) {
    let lines: Vec<String> = (0..LINES).map(usual).collect();
    let mut bytes = vec![0; 4096];
    let mut buffers = Buffers::with_max_depth(4096, 128);
    let mut kept = Some(Tape::null());
    bencher.counter(ItemsCount::new(lines.len())).bench_local(|| {
        for line in &lines {
            bytes[..line.len()].copy_from_slice(line.as_bytes());
            let mut tape = kept.take().unwrap().reset();
            simd_json::fill_tape_padded(&mut bytes, line.len(), &mut buffers, &mut tape).unwrap();
            black_box(&tape);
            kept = Some(tape.reset());
        }
    });
}

/// The same lines as a struct with the two members that matter.
#[divan::bench]
fn usual_200_bytes_by_serde_json(bencher: Bencher<'_, '_>) {
    #[derive(serde::Deserialize)]
    struct Members<'l> {
        #[serde(borrow)]
        level: Cow<'l, str>,
        #[serde(borrow)]
        message: Cow<'l, str>,
    }
    let lines: Vec<String> = (0..LINES).map(usual).collect();
    bencher.counter(ItemsCount::new(lines.len())).bench_local(|| {
        for line in &lines {
            let members: Members<'_> = serde_json::from_slice(line.as_bytes()).unwrap();
            black_box((members.level, members.message));
        }
    });
}
