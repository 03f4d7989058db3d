//! The closed list of error codes. Leaves to `reply` how a code is sent and to the engine when.
//! Invariant: a code's text never changes and never moves between fatal and not: clients match it.

use std::fmt;

/// Why a message was not taken, or why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// The line is no JSON: syntax, raw control characters, trailing text, too deep.
    InvalidJson,
    /// The line holds bytes that are not UTF-8.
    InvalidUtf8,
    /// The line is JSON, but not an object.
    NotAnObject,
    /// `level` or `message` is missing.
    MissingField,
    /// `level`, `message` or `id` has a wrong type or value.
    InvalidField,
    /// The line is longer than the server's LINE_BYTES_MAX.
    TooLong,
    /// The server is at one of its bounds; try again later.
    Overloaded,
    /// The sink has failed too often of late; try again after `retry_after_ms`.
    BreakerOpen,
    /// The write or sync that covered this message failed: it may or may not be stored.
    StorageFailed,
    /// Too little disk is free.
    DiskFull,
    /// Fatal: the hello was malformed or asked for what is not served.
    BadHello,
    /// Fatal: the token is missing or wrong.
    Unauthorized,
    /// Fatal: the server or this address has too many connections.
    TooManyConnections,
    /// Fatal: a gzip member is damaged.
    BadGzip,
    /// Fatal: a gzip member inflates beyond the server's bounds.
    InflatedTooLarge,
    /// Fatal: the server is stopping.
    ShuttingDown,
    /// Fatal: the connection was idle, or a line or handshake unfinished, for too long.
    Timeout,
}

impl Code {
    /// All codes; a code's place in it is [`Code::index`].
    pub const ALL: [Code; 17] = [
        Code::InvalidJson,
        Code::InvalidUtf8,
        Code::NotAnObject,
        Code::MissingField,
        Code::InvalidField,
        Code::TooLong,
        Code::Overloaded,
        Code::BreakerOpen,
        Code::StorageFailed,
        Code::DiskFull,
        Code::BadHello,
        Code::Unauthorized,
        Code::TooManyConnections,
        Code::BadGzip,
        Code::InflatedTooLarge,
        Code::ShuttingDown,
        Code::Timeout,
    ];

    /// The text on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidJson => "invalid_json",
            Code::InvalidUtf8 => "invalid_utf8",
            Code::NotAnObject => "not_an_object",
            Code::MissingField => "missing_field",
            Code::InvalidField => "invalid_field",
            Code::TooLong => "too_long",
            Code::Overloaded => "overloaded",
            Code::BreakerOpen => "breaker_open",
            Code::StorageFailed => "storage_failed",
            Code::DiskFull => "disk_full",
            Code::BadHello => "bad_hello",
            Code::Unauthorized => "unauthorized",
            Code::TooManyConnections => "too_many_connections",
            Code::BadGzip => "bad_gzip",
            Code::InflatedTooLarge => "inflated_too_large",
            Code::ShuttingDown => "shutting_down",
            Code::Timeout => "timeout",
        }
    }

    /// Reads the wire text; `None` for a code that this version does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// True for the codes that answer no message and end the connection.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        match self {
            Code::InvalidJson
            | Code::InvalidUtf8
            | Code::NotAnObject
            | Code::MissingField
            | Code::InvalidField
            | Code::TooLong
            | Code::Overloaded
            | Code::BreakerOpen
            | Code::StorageFailed
            | Code::DiskFull => false,
            Code::BadHello
            | Code::Unauthorized
            | Code::TooManyConnections
            | Code::BadGzip
            | Code::InflatedTooLarge
            | Code::ShuttingDown
            | Code::Timeout => true,
        }
    }

    /// Place in [`Code::ALL`], for arrays of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_index_and_reads_back_its_text() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code.index(), index);
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
        assert_eq!(Code::parse("Timeout"), None);
        assert_eq!(Code::parse(""), None);
    }

    #[test]
    fn fatal_codes_come_after_the_others() {
        assert!(Code::ALL.is_sorted_by_key(|code| code.is_fatal()));
        assert_eq!(Code::ALL.iter().filter(|code| code.is_fatal()).count(), 7);
    }
}
