//! `cargo +nightly fuzz run hello fuzz/corpus/hello fuzz/seeds/hello` (in `proto/`): the first line and its answer.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::check("hello", data));
