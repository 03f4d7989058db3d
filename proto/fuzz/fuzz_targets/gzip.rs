//! `cargo +nightly fuzz run gzip fuzz/corpus/gzip fuzz/seeds/gzip` (in `proto/`): members between lines.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::check("gzip", data));
