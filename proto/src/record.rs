//! One line decoded: is it a JSON object with a `level`, a `message` and perhaps an `id`?
//!
//! Three paths with one verdict. `scan` goes over the line once, keeps nothing but where the three
//! values stand, and accepts nearly all that is valid. What it does not accept goes to `tape`, a
//! simd-json tape in reused buffers, which accepts the valid rest; and what that refuses to
//! `strict`, which is `serde_json` and finds the words for a rejection.
//!
//! Leaves to others: framing (`lines`), filtering by level, and the bytes themselves, which are
//! kept verbatim; nothing is normalised. Invariant: no allocation for a line that `scan` accepts,
//! and time linear in the line for every line.

mod scan;
mod strict;
mod tape;

use std::borrow::Cow;

use self::tape::Parsed;

use crate::code::Code;
use crate::level::{self, Level};
use crate::limits::{ID_BYTES_MAX, QUOTED_BYTES_MAX};

/// A message's own name, repeated in its reply.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Id<'a> {
    /// At most [`ID_BYTES_MAX`] bytes, unescaped.
    Text(&'a str),
    /// From -2^63 to 2^64 - 1.
    Int(i128),
}

/// What the engine needs to know about a valid line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'s> {
    pub level: Level,
    pub id: Option<Id<'s>>,
}

/// Why a line is no record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection<'s> {
    pub code: Code,
    /// A lower-case fragment; quotes at most [`QUOTED_BYTES_MAX`] bytes of the line.
    pub reason: Cow<'static, str>,
    /// Only when the line is an object whose `id` is valid.
    pub id: Option<Id<'s>>,
}

/// Reused memory of one shard: what the last result borrows.
#[derive(Debug)]
pub struct Scratch {
    id: String,
    tape: tape::Memory,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Ready for every line.
    #[must_use]
    pub fn new() -> Self {
        Scratch { id: String::with_capacity(ID_BYTES_MAX), tape: tape::Memory::default() }
    }
}

impl<'s> Record<'s> {
    /// Decodes one line (without its line end). What the result borrows lives in `scratch`.
    ///
    /// # Errors
    /// The first defect in this order: UTF-8, JSON, object, `level`, `message`, `id`.
    pub fn parse(line: &[u8], scratch: &'s mut Scratch) -> Result<Record<'s>, Rejection<'s>> {
        let mut fields = Fields::default();
        let Scratch { id, tape } = scratch;
        match scan::scan(line, &mut fields) {
            Some(Root::Object) => fields.judge(id),
            Some(Root::Other) => Err(not_an_object()),
            None => match tape.read(line) {
                Parsed::Object(fields) => fields.judge(id),
                Parsed::Other => Err(not_an_object()),
                Parsed::Undecided => strict::decide(line, id),
            },
        }
    }
}

/// What a line is at its top.
enum Root {
    Object,
    Other,
}

/// The values of the three members that matter; the last one of a name wins.
#[derive(Default)]
struct Fields<'l> {
    level: Value<'l>,
    message: Value<'l>,
    id: Value<'l>,
}

/// As much of a value as matters.
#[derive(Clone, Copy, Default)]
enum Value<'l> {
    #[default]
    Missing,
    /// UTF-8, unescaped if it is a level or an id.
    Text(&'l [u8]),
    /// From -2^63 to 2^64 - 1.
    Int { negative: bool, magnitude: u64 },
    /// Any other number. -0 is one, as for serde_json: an `Int` could not repeat it.
    Number,
    /// Null, boolean, array or object.
    Other,
}

impl Fields<'_> {
    /// The usual, written with `if` so that it compiles to no jump table: an indirect branch costs
    /// 10 ns on a virtual machine that restricts them.
    #[inline]
    fn judge<'s>(&self, id_text: &'s mut String) -> Result<Record<'s>, Rejection<'s>> {
        if let Value::Text(level) = self.level
            && let Value::Text(_) = self.message
            && let Value::Missing = self.id
            && let Some(level) = Level::parse(level)
        {
            return Ok(Record { level, id: None });
        }
        self.judge_all(id_text)
    }

    fn judge_all<'s>(&self, id_text: &'s mut String) -> Result<Record<'s>, Rejection<'s>> {
        let id = match self.id {
            Value::Missing => Ok(None),
            Value::Text(text) if text.len() <= ID_BYTES_MAX => {
                id_text.clear();
                // Every path has checked that this is UTF-8.
                id_text.push_str(std::str::from_utf8(text).unwrap_or_default());
                Ok(Some(Id::Text(id_text)))
            }
            Value::Int { negative, magnitude } => {
                let int = i128::from(magnitude);
                Ok(Some(Id::Int(if negative { -int } else { int })))
            }
            Value::Text(_) => Err("id is longer than 128 bytes"),
            Value::Number => Err("id is not an integer of 64 bits"),
            Value::Other => Err("id is neither a string nor an integer"),
        };
        let echo = id.unwrap_or(None);
        let reject = |code, reason| Err(Rejection { code, reason, id: echo });
        let level = match self.level {
            Value::Text(text) => match Level::parse(text) {
                Some(level) => level,
                None => return reject(Code::InvalidField, unknown_level(text)),
            },
            Value::Missing => return reject(Code::MissingField, "level is missing".into()),
            Value::Int { .. } | Value::Number | Value::Other => {
                return reject(Code::InvalidField, "level is not a string".into());
            }
        };
        match self.message {
            Value::Text(_) => {}
            Value::Missing => return reject(Code::MissingField, "message is missing".into()),
            Value::Int { .. } | Value::Number | Value::Other => {
                return reject(Code::InvalidField, "message is not a string".into());
            }
        }
        match id {
            Ok(id) => Ok(Record { level, id }),
            Err(reason) => reject(Code::InvalidField, reason.into()),
        }
    }
}

fn not_an_object<'s>() -> Rejection<'s> {
    Rejection { code: Code::NotAnObject, reason: "line is not a JSON object".into(), id: None }
}

#[cold]
fn unknown_level(text: &[u8]) -> Cow<'static, str> {
    let text = String::from_utf8_lossy(text);
    let quoted = &text[..text.floor_char_boundary(QUOTED_BYTES_MAX)];
    let more = if quoted.len() < text.len() { "…" } else { "" };
    format!("level \"{quoted}{more}\" is not one of {}", level::SPELLINGS).into()
}
