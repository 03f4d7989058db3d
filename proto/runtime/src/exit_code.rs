//! The one table of exit codes, shared by all three programs.
//!
//! When several hold, [`DATA_INTEGRITY`] beats [`INVALID`] beats [`THRESHOLD`] beats
//! [`REGRESSION`] beats [`INCONCLUSIVE`].

/// All went well, and every threshold held.
pub const PASS: u8 = 0;
/// It broke on the way.
pub const BROKE: u8 = 1;
/// Wrong usage or configuration.
pub const USAGE: u8 = 2;
/// Cannot start here: port, LOG_DIR, certificate, io_uring.
pub const CANNOT_START: u8 = 3;
/// An SLO or a threshold failed.
pub const THRESHOLD: u8 = 10;
/// A regression against a baseline.
pub const REGRESSION: u8 = 11;
/// Acknowledged data is missing, doubled or damaged.
pub const DATA_INTEGRITY: u8 = 12;
/// The measurement itself is invalid.
pub const INVALID: u8 = 13;
/// Neither pass nor fail can be said.
pub const INCONCLUSIVE: u8 = 14;
/// The target cannot be reached.
pub const UNREACHABLE: u8 = 15;
/// Interrupted by SIGINT; a partial report was written.
pub const INTERRUPTED: u8 = 130;
/// Terminated by SIGTERM; a partial report was written.
pub const TERMINATED: u8 = 143;
