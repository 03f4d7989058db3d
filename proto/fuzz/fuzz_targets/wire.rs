//! `cargo +nightly fuzz run wire fuzz/corpus fuzz/seeds` (in `proto/`): framing and decoding
//! against their oracles.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::check(data));
