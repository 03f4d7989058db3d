//! The real binary against servers that are honest, slow, or liars.
//!
//! Each test has a server of its own on a free port and runs for seconds at most. Times are only
//! asserted as far as arithmetic gives them, with room for a busy machine above.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod ask;
mod connections;
mod cpus;
mod filled;
mod h2_server;
mod http;
mod http2;
mod http_liar;
mod journey;
mod judged;
mod keys;
mod liar;
mod load;
mod metrics;
mod output;
mod own_hammer;
mod payloads;
mod queue;
mod record;
mod replay;
mod screen;
mod sealed;
mod server;
mod shapes;
mod single_server;
mod tls;
mod tool;
mod transport;
mod trouble;
mod truth;
mod web;
