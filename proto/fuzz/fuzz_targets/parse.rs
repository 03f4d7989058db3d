//! `cargo +nightly fuzz run parse fuzz/corpus/parse fuzz/seeds/parse` (in `proto/`): decoding a line.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::check("parse", data));
