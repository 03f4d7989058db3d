//! What the server says to a message: one JSON line, in the order of the messages.
//!
//! [`Reply`] is the server's side and writes; [`OwnedReply`] is the client's side and reads, and is
//! as lenient as a client of any NDJSON server needs. Leaves to others when a reply is due and how
//! runs of equal replies are counted. Invariant: a written reply is one line, which reads back.

use crate::code::Code;
use crate::json::{write_integer, write_string};
use crate::limits::REASON_BYTES_MAX;
use crate::record::{Id, Rejection};

/// The most frequent reply, ready to be copied.
pub const OK_LINE: &[u8] = b"{\"status\":\"ok\"}\n";

/// The second most frequent one.
pub const FILTERED_LINE: &[u8] = b"{\"status\":\"filtered\"}\n";

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Status {
    /// Taken, and as durable as the connection asked for.
    Ok,
    /// Valid, but below the server's MIN_LOG_LEVEL; not stored.
    Filtered,
    /// Not taken; the code says why.
    Error,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Filtered => "filtered",
            Status::Error => "error",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Status> {
        [Status::Ok, Status::Filtered, Status::Error].into_iter().find(|s| s.as_str() == text)
    }
}

/// A reply as the server writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    pub status: Status,
    /// Only with [`Status::Error`].
    pub code: Option<Code>,
    pub reason: Option<&'a str>,
    pub id: Option<Id<'a>>,
    /// How many consecutive messages this line answers; more than 1 only with replies `range`.
    pub count: u64,
    pub retry_after_ms: Option<u64>,
    /// Answers no message; the connection ends behind it.
    pub fatal: bool,
}

impl<'a> Reply<'a> {
    const fn new(status: Status) -> Self {
        let (code, reason, id) = (None, None, None);
        Reply { status, code, reason, id, count: 1, retry_after_ms: None, fatal: false }
    }

    #[must_use]
    pub const fn ok() -> Self {
        Reply::new(Status::Ok)
    }

    #[must_use]
    pub const fn filtered() -> Self {
        Reply::new(Status::Filtered)
    }

    /// A message was not taken.
    #[must_use]
    pub const fn error(code: Code, reason: &'a str) -> Self {
        Reply { code: Some(code), reason: Some(reason), ..Reply::new(Status::Error) }
    }

    /// The connection ends; answers no message.
    #[must_use]
    pub const fn fatal(code: Code, reason: &'a str) -> Self {
        Reply { fatal: true, ..Reply::error(code, reason) }
    }

    #[must_use]
    pub fn with_id(self, id: Option<Id<'a>>) -> Self {
        Reply { id, ..self }
    }

    #[must_use]
    pub const fn with_retry_after_ms(self, retry_after_ms: u64) -> Self {
        Reply { retry_after_ms: Some(retry_after_ms), ..self }
    }

    /// One line for `count` equal replies; `count` is at least 1.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Reply { count, ..self }
    }

    /// Appends the line with its `\n`, at most [`REPLY_BYTES_MAX`](crate::limits::REPLY_BYTES_MAX)
    /// bytes if the id is a valid one. `count` is written only when above 1.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"status\":\"");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b'"');
        if let Some(code) = self.code {
            out.extend_from_slice(b",\"code\":\"");
            out.extend_from_slice(code.as_str().as_bytes());
            out.push(b'"');
        }
        if let Some(reason) = self.reason {
            out.extend_from_slice(b",\"reason\":");
            write_string(&reason[..reason.floor_char_boundary(REASON_BYTES_MAX)], out);
        }
        match self.id {
            None => {}
            Some(Id::Text(text)) => {
                out.extend_from_slice(b",\"id\":");
                write_string(text, out);
            }
            Some(Id::Int(int)) => {
                out.extend_from_slice(b",\"id\":");
                write_integer(int, out);
            }
        }
        if self.count > 1 {
            out.extend_from_slice(b",\"count\":");
            write_integer(self.count, out);
        }
        if let Some(ms) = self.retry_after_ms {
            out.extend_from_slice(b",\"retry_after_ms\":");
            write_integer(ms, out);
        }
        if self.fatal {
            out.extend_from_slice(b",\"fatal\":true");
        }
        out.extend_from_slice(b"}\n");
    }
}

impl<'r> From<&'r Rejection<'r>> for Reply<'r> {
    fn from(rejection: &'r Rejection<'r>) -> Self {
        Reply::error(rejection.code, &rejection.reason).with_id(rejection.id)
    }
}

/// A reply as a client reads it. Field order does not matter; unknown fields are ignored.
#[derive(Clone, PartialEq, Debug)]
pub struct OwnedReply {
    pub status: Status,
    /// The text as sent: a newer server may know more codes than [`Code`].
    pub code: Option<String>,
    pub reason: Option<String>,
    pub id: Option<serde_json::Value>,
    /// At least 1.
    pub count: u64,
    pub retry_after_ms: Option<u64>,
    pub fatal: bool,
}

/// A line that is no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadReply(pub String);

impl OwnedReply {
    const fn bare(status: Status) -> Self {
        let (code, reason, id) = (None, None, None);
        OwnedReply { status, code, reason, id, count: 1, retry_after_ms: None, fatal: false }
    }

    /// The code, if this version knows it.
    #[must_use]
    pub fn known_code(&self) -> Option<Code> {
        self.code.as_deref().and_then(Code::parse)
    }

    /// Reads one line, with or without its line end.
    ///
    /// # Errors
    /// The line is not a JSON object with a known `status`, or one of the fields described here
    /// has a wrong type.
    pub fn parse(line: &[u8]) -> Result<OwnedReply, BadReply> {
        // What the server sends for nearly every message costs a comparison and no allocation.
        if line.strip_suffix(b"\n").unwrap_or(line) == OK_LINE.trim_ascii_end() {
            return Ok(OwnedReply::bare(Status::Ok));
        }
        let value: serde_json::Value = serde_json::from_slice(line)
            .map_err(|error| BadReply(format!("reply is not JSON: {error}")))?;
        let serde_json::Value::Object(mut object) = value else {
            return Err(BadReply("reply is not a JSON object".to_owned()));
        };
        let wrong = |name: &str, value: &serde_json::Value| {
            let text: String = value.to_string().chars().take(64).collect();
            BadReply(format!("{name} of a reply is {text}"))
        };
        let text_of = |name: &str, value| match value {
            None => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other)),
        };
        let integer_of = |name: &str, value: Option<serde_json::Value>| match value {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| wrong(name, &value)),
        };
        let status = match object.remove("status") {
            None => return Err(BadReply("reply has no status".to_owned())),
            Some(value) => {
                value.as_str().and_then(Status::parse).ok_or_else(|| wrong("status", &value))?
            }
        };
        let fatal = match object.remove("fatal") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| wrong("fatal", &value))?,
        };
        let count = integer_of("count", object.remove("count"))?.unwrap_or(1);
        if count == 0 {
            return Err(wrong("count", &0.into()));
        }
        Ok(OwnedReply {
            status,
            code: text_of("code", object.remove("code"))?,
            reason: text_of("reason", object.remove("reason"))?,
            id: object.remove("id"),
            count,
            retry_after_ms: integer_of("retry_after_ms", object.remove("retry_after_ms"))?,
            fatal,
        })
    }
}
