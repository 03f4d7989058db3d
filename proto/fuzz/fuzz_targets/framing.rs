//! `cargo +nightly fuzz run framing fuzz/corpus/framing fuzz/seeds/framing` (in `proto/`): cutting a stream into lines.
#![no_main]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::check("framing", data));
