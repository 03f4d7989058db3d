//! What is sent, and when: pure values, no clock, no I/O.
//!
//! [`shape`] is what was asked for, [`schedule`] says when message n is due, [`payloads`] what its
//! bytes are; [`random`] is the one source of chance, seeded. All are closed forms of a message's
//! number, so that every shard computes its own part of one plan without asking; but for [`replay`],
//! whose numbers stand in a file.

pub mod journey;
pub mod payloads;
mod percent;
pub mod random;
pub mod replay;
pub mod schedule;
pub mod shape;
