//! Logboom's wire, pure: what bytes mean on their way between a client and the engine.
//!
//! The files in the order of a message's life: `lines` cuts the stream, `gzip`
//! unpacks members in between, `hello` is a connection's
//! optional first line, `record` decodes a line, `level` is what filtering compares, `reply` and
//! `code` are the answer, `limits` the numbers that both sides agree on; `segment` is how files are
//! called, `packed` reads those that are packed. `PROTOCOL.md` beside this
//! crate says the same in words, for those who write a client in another language.
//!
//! Invariant: nothing here knows a socket, a clock, a thread, a file or the environment, and no
//! input makes anything here panic.

pub mod code;
pub mod gzip;
pub mod hello;
mod json;
pub mod level;
pub mod limits;
pub mod lines;
pub mod packed;
pub mod record;
pub mod reply;
pub mod segment;

pub use code::Code;
pub use gzip::{Bad, Bounds, Origin, Step, Unpack};
pub use hello::{Durability, Hello, Replies, Welcome};
pub use level::Level;
pub use lines::{Flow, Frame, Lines};
pub use record::{Id, Record, Rejection, Scratch};
pub use reply::{OwnedReply, Reply, Status};
