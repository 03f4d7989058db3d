//! What happened: counted, timed, merged, told.
//!
//! [`recorder`] belongs to one shard and is written on the hot path, into [`latencies`] and a
//! [`tally`]; [`ledger`] remembers what was
//! acknowledged; [`progress`] is one second of all shards; [`summary`] is the whole run.
//! [`resources`] and [`environment`] say what it cost and where it ran.

pub mod confidence;
pub mod environment;
pub mod latencies;
pub mod ledger;
pub mod pacing;
pub mod progress;
pub mod recorder;
pub mod resources;
pub mod slo;
pub mod stages;
pub mod summary;
pub mod tally;
pub mod validity;
