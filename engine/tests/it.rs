//! The real engine, its real sockets and files, against clients that behave and clients that don't.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "it/clients.rs"]
mod clients;
#[path = "it/durability.rs"]
mod durability;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/protocol.rs"]
mod protocol;
#[path = "it/starting.rs"]
mod starting;
