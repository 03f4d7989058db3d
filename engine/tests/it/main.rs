//! The real engine, its real sockets and files, against clients that behave and clients that don't.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "some tests are asked for their figures")]

mod admin;
mod check;
mod clients;
mod durability;
mod faults;
mod fsck;
mod gzip;
mod harness;
mod hostile;
mod kill;
mod limits;
mod logs;
mod packing;
mod pressure;
mod protocol;
mod secure;
mod service;
mod starting;
mod tls;
mod token;
mod udp;
