//! The crate from outside: framing, decoding, replies and PROTOCOL.md, against slow oracles.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails, also in its helpers")]

#[path = "../../fuzz/harness.rs"]
mod harness;

mod gzip;
mod lines;
mod protocol_md;
mod random;
mod record;
mod reply;
