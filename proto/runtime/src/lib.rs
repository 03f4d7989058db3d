//! How a thread-per-core program starts on this machine.
//!
//! Owns what engine and generator share below their own logic: which cpus may be used and what
//! the cgroups allow, whether io_uring can be had and with which ring flags, pinned shards, the stop
//! signal, the descriptor limit, metrics and the pages that show them, and the spelling of numbers
//! and exit codes. Nothing here knows a message or a protocol.
//! All `unsafe` of the project that touches rings or raw descriptors lives in this crate.

pub mod awake;
pub mod cgroup;
pub mod cpus;
pub mod descriptor;
pub mod desk;
pub mod exit_code;
pub mod exposition;
pub mod hangup;
pub mod nofile;
pub mod process;
mod readiness;
pub mod ring_flags;
mod rouse;
pub mod shards;
pub mod socket;
pub mod stop;
pub mod units;
pub mod uring;
