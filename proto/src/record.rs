//! One line decoded: is it a JSON object with a `level`, a `message` and perhaps an `id`?
//!
//! Two paths with one verdict. The fast one fills a simd-json tape in reused buffers over a scratch
//! copy of the line and walks only the top-level keys. Whatever it refuses goes to the slow one,
//! `serde_json`, which decides: simd-json refuses some numbers which are JSON (integers beyond 64
//! bits), and its errors don't tell which code fits.
//!
//! Leaves to others: framing (`lines`), filtering by level, and the bytes themselves, which are
//! kept verbatim; nothing is normalised. Invariant: no allocation per accepted line once the
//! buffers have seen a line of that size, and time linear in the line.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape};

use crate::code::Code;
use crate::level::{self, Level};
use crate::limits::{DEPTH_MAX, ID_BYTES_MAX, QUOTED_BYTES_MAX};

/// Line length that a new scratch is ready for, in bytes; it grows by itself.
const WARM_BYTES: usize = 4096;

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

/// Reused buffers of one shard. They grow to the longest line seen, up to about 40 bytes per byte
/// of it where a line is all brackets and commas, and are never given back.
pub struct Scratch {
    /// A copy of the line which the parser unescapes in place, and [`INPUT_PADDING`] behind it.
    bytes: Vec<u8>,
    buffers: Buffers,
    /// Empty between calls; kept for its allocation.
    tape: Tape<'static>,
    /// The `id` that the slow path found.
    slow_id: String,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// Buffers ready for lines of a usual size.
    #[must_use]
    pub fn new() -> Self {
        Scratch {
            bytes: vec![0; WARM_BYTES + INPUT_PADDING],
            buffers: Buffers::with_max_depth(WARM_BYTES, DEPTH_MAX),
            tape: Tape(Vec::with_capacity(WARM_BYTES / 16)),
            slow_id: String::new(),
        }
    }
}

impl<'s> Record<'s> {
    /// Decodes one line (without its line end). What the result borrows lives in `scratch`.
    ///
    /// # Errors
    /// The first defect in this order: UTF-8, JSON, object, `level`, `message`, `id`.
    pub fn parse(line: &[u8], scratch: &'s mut Scratch) -> Result<Record<'s>, Rejection<'s>> {
        let Scratch { bytes, buffers, tape: kept, slow_id } = scratch;
        if bytes.len() < line.len() + INPUT_PADDING {
            bytes.resize(line.len() + INPUT_PADDING, 0);
        }
        bytes[..line.len()].copy_from_slice(line);

        let mut tape = std::mem::replace(kept, Tape(Vec::new())).reset();
        let filled = simd_json::fill_tape_padded(bytes, line.len(), buffers, &mut tape);
        let fields = filled.is_ok().then(|| Fields::of_tape(&tape.0));
        *kept = tape.reset();
        match fields {
            Some(Some(fields)) => fields.judge(),
            Some(None) => Err(not_an_object()),
            None => slow_parse(line, slow_id),
        }
    }
}

/// The values of the three members that matter; the last one of a name wins.
struct Fields<'s, 'l> {
    level: Option<Node<'l>>,
    message: Option<Node<'l>>,
    id: Option<Node<'s>>,
}

impl<'s> Fields<'s, 's> {
    /// `None` if the tape's root is no object.
    fn of_tape(nodes: &[Node<'s>]) -> Option<Self> {
        let Some(&Node::Object { len, .. }) = nodes.first() else { return None };
        let mut fields = Fields { level: None, message: None, id: None };
        let mut at = 1;
        for _ in 0..len {
            let [Node::String(key), value, ..] = nodes[at..] else {
                unreachable!("a tape's object is pairs of a string and a value")
            };
            match key.as_bytes() {
                b"id" => fields.id = Some(value),
                b"level" => fields.level = Some(value),
                b"message" => fields.message = Some(value),
                _ => {}
            }
            at += match value {
                Node::Object { count, .. } | Node::Array { count, .. } => count + 2,
                Node::String(_) | Node::Static(_) => 2,
            };
        }
        Some(fields)
    }
}

impl<'s> Fields<'s, '_> {
    fn judge(self) -> Result<Record<'s>, Rejection<'s>> {
        let id = match self.id {
            None => Ok(None),
            Some(Node::String(text)) if text.len() <= ID_BYTES_MAX => Ok(Some(Id::Text(text))),
            Some(Node::Static(StaticNode::U64(int))) => Ok(Some(Id::Int(int.into()))),
            // simd-json gives a negative zero as the only signed zero; serde_json takes it for a
            // float. Its text could not be repeated, so it is no integer here either.
            Some(Node::Static(StaticNode::I64(int))) if int != 0 => Ok(Some(Id::Int(int.into()))),
            Some(Node::String(_)) => Err("id is longer than 128 bytes"),
            Some(Node::Static(StaticNode::I64(_) | StaticNode::F64(_))) => {
                Err("id is not an integer of 64 bits")
            }
            Some(Node::Static(StaticNode::Null | StaticNode::Bool(_)))
            | Some(Node::Object { .. } | Node::Array { .. }) => {
                Err("id is neither a string nor an integer")
            }
        };
        let echo = id.unwrap_or(None);
        let reject = |code, reason| Err(Rejection { code, reason, id: echo });
        let level = match self.level {
            Some(Node::String(text)) => match Level::parse(text.as_bytes()) {
                Some(level) => level,
                None => return reject(Code::InvalidField, unknown_level(text)),
            },
            Some(_) => return reject(Code::InvalidField, "level is not a string".into()),
            None => return reject(Code::MissingField, "level is missing".into()),
        };
        match self.message {
            Some(Node::String(_)) => {}
            Some(_) => return reject(Code::InvalidField, "message is not a string".into()),
            None => return reject(Code::MissingField, "message is missing".into()),
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
fn unknown_level(text: &str) -> Cow<'static, str> {
    let quoted = &text[..text.floor_char_boundary(QUOTED_BYTES_MAX)];
    let more = if quoted.len() < text.len() { "…" } else { "" };
    format!("level \"{quoted}{more}\" is not one of {}", level::SPELLINGS).into()
}

/// Decides about a line which the fast path refused.
#[cold]
fn slow_parse<'s>(line: &[u8], id_text: &'s mut String) -> Result<Record<'s>, Rejection<'s>> {
    let reject = |code, reason: String| Err(Rejection { code, reason: reason.into(), id: None });
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            let reason = format!("byte {} is not UTF-8", error.valid_up_to() + 1);
            return reject(Code::InvalidUtf8, reason);
        }
    };
    let mut json = serde_json::Deserializer::from_str(text);
    // `Strict` counts the depth itself: the built-in limit is one level less than DEPTH_MAX.
    json.disable_recursion_limit();
    let whole = Strict { depth: 0 };
    let value = match whole.deserialize(&mut json).and_then(|value| json.end().map(|()| value)) {
        Ok(value) => value,
        Err(error) => return reject(Code::InvalidJson, invalid_json_reason(&error)),
    };
    let Owned::Object(Some(fields)) = value else { return Err(not_an_object()) };
    let (mut level_text, mut message_text) = (String::new(), String::new());
    let level = fields.level.map(|value| value.into_node(&mut level_text));
    let message = fields.message.map(|value| value.into_node(&mut message_text));
    // The id outlives this call, so its text moves into the scratch.
    let id = fields.id.map(|value| value.into_node(id_text));
    Fields { level, message, id }.judge()
}

/// serde_json's own words, without the line number, which is always 1.
fn invalid_json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", error.column())
}

/// What the slow path keeps of a value.
enum Owned {
    Text(String),
    Static(StaticNode),
    Array,
    /// With its fields if it is the line's own object.
    Object(Option<Box<OwnedFields>>),
}

#[derive(Default)]
struct OwnedFields {
    level: Option<Owned>,
    message: Option<Owned>,
    id: Option<Owned>,
}

impl Owned {
    /// The value as the fast path would see it; a text moves into `text`.
    fn into_node(self, text: &mut String) -> Node<'_> {
        match self {
            Owned::Text(own) => {
                *text = own;
                Node::String(text)
            }
            Owned::Static(value) => Node::Static(value),
            Owned::Array => Node::Array { len: 0, count: 0 },
            Owned::Object(_) => Node::Object { len: 0, count: 0 },
        }
    }
}

/// Reads any value as strictly as `serde_json::Value` does (numbers in range, surrogates in pairs;
/// `IgnoredAny` checks neither), keeps nothing below the top level, and counts depth.
#[derive(Clone, Copy)]
struct Strict {
    /// How many arrays and objects are open around the value.
    depth: usize,
}

impl Strict {
    /// For the inside of an array or object that stands at this depth.
    fn inside<E: serde::de::Error>(self) -> Result<Strict, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Strict { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Owned;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Owned, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Owned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Owned, E> {
        Ok(Owned::Static(StaticNode::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Owned, E> {
        Ok(Owned::Static(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Owned, E> {
        Ok(Owned::Static(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Owned, E> {
        Ok(Owned::Static(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Owned, E> {
        Ok(Owned::Static(value.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Owned, E> {
        // Only keys and values of the line's own object are looked at.
        let kept = if self.depth == 1 { text } else { "" };
        Ok(Owned::Text(kept.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Owned, A::Error> {
        let inside = self.inside()?;
        while array.next_element_seed(inside)?.is_some() {}
        Ok(Owned::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Owned, A::Error> {
        let inside = self.inside()?;
        let mut fields = (self.depth == 0).then(Box::<OwnedFields>::default);
        while let Some(Owned::Text(key)) = object.next_key_seed(inside)? {
            let value = object.next_value_seed(inside)?;
            let Some(fields) = &mut fields else { continue };
            match key.as_str() {
                "id" => fields.id = Some(value),
                "level" => fields.level = Some(value),
                "message" => fields.message = Some(value),
                _ => {}
            }
        }
        Ok(Owned::Object(fields))
    }
}
