//! The numbers that both ends of a connection rely on. Knobs may lower or raise a default; what is
//! called a maximum of the format may not be changed without a new protocol version.

/// The one version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u64 = 1;

/// Default of the longest line in bytes, without its line end (knob LINE_BYTES_MAX).
pub const LINE_BYTES_MAX: usize = 262_144;

/// Longest text `id` in bytes of UTF-8, after unescaping. A reply repeats it, so it is bounded.
pub const ID_BYTES_MAX: usize = 128;

/// Deepest nesting of arrays and objects in one line; the line's own object is level 1.
pub const DEPTH_MAX: usize = 128;

/// How much of a client's text a reason quotes at most, in bytes.
pub const QUOTED_BYTES_MAX: usize = 32;

/// Longest reason that is sent, in bytes of UTF-8 before escaping; a longer one is cut.
pub const REASON_BYTES_MAX: usize = 512;

/// Longest line that a server sends, with its line end: a reason and an id of control characters
/// alone, which take six bytes each, and all other fields.
pub const REPLY_BYTES_MAX: usize = 4096;
