//! The bench: rising load on an engine, an audit of every acknowledged line, a verdict.
//!
//! ```text
//! main > config > runner > {engine child, generator child, observe} -> audit -> judge -> report
//! ```
//!
//! Owns the run as a whole. Starts the engine as a child and meets it on the wire only; the
//! generator is the library of the project, in a process of its own. [`audit`], [`judge`] and
//! [`report`] work on data: nothing there knows a process or a socket.

pub mod audit;
pub mod config;
pub mod error;
pub mod figures;
pub mod judge;
pub mod observe;
pub mod report;
pub mod runner;
pub mod suite;
