//! The slow path: `serde_json` decides what the other paths left undecided, and words the rejection.
//!
//! As strict as reading a `serde_json::Value`, but nothing is kept except the three fields, and
//! [`DEPTH_MAX`] levels are allowed where the built-in limit allows one less.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Fields, Record, Rejection, Value, not_an_object};
use crate::code::Code;
use crate::limits::DEPTH_MAX;

#[cold]
pub(super) fn decide<'s>(
    line: &[u8],
    id_text: &'s mut String,
) -> Result<Record<'s>, Rejection<'s>> {
    let reject = |code, reason: String| Err(Rejection { code, reason: reason.into(), id: None });
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            let reason = format!("byte {} is not UTF-8", error.valid_up_to() + 1);
            return reject(Code::InvalidUtf8, reason);
        }
    };
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    let whole = Strict { depth: 0 };
    let value = match whole.deserialize(&mut json).and_then(|value| json.end().map(|()| value)) {
        Ok(value) => value,
        Err(error) => return reject(Code::InvalidJson, invalid_json_reason(&error)),
    };
    let Owned::Object(Some(fields)) = value else { return Err(not_an_object()) };
    let OwnedFields { level, message, id } = &*fields;
    Fields { level: level.borrow(), message: message.borrow(), id: id.borrow() }.judge(id_text)
}

/// serde_json's own words, without the line number, which is always 1.
fn invalid_json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", error.column())
}

/// What is kept of a value.
#[derive(Default)]
enum Owned {
    #[default]
    Missing,
    Text(String),
    Int {
        negative: bool,
        magnitude: u64,
    },
    Number,
    Other,
    /// With its fields if it is the line's own object.
    Object(Option<Box<OwnedFields>>),
}

#[derive(Default)]
struct OwnedFields {
    level: Owned,
    message: Owned,
    id: Owned,
}

impl Owned {
    fn borrow(&self) -> Value<'_> {
        match self {
            Owned::Missing => Value::Missing,
            Owned::Text(text) => Value::Text(text.as_bytes()),
            &Owned::Int { negative, magnitude } => Value::Int { negative, magnitude },
            Owned::Number => Value::Number,
            Owned::Other | Owned::Object(_) => Value::Other,
        }
    }
}

/// Reads any value and checks all of it: numbers are in range and surrogates in pairs, which
/// `serde::de::IgnoredAny` would not check.
#[derive(Clone, Copy)]
struct Strict {
    /// How many arrays and objects are open around the value.
    depth: usize,
}

impl Strict {
    /// For the inside of an array or object that stands at this depth.
    fn inside<E: Error>(self) -> Result<Strict, E> {
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
        Ok(Owned::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Owned, E> {
        Ok(Owned::Other)
    }

    fn visit_i64<E>(self, int: i64) -> Result<Owned, E> {
        Ok(Owned::Int { negative: int < 0, magnitude: int.unsigned_abs() })
    }

    fn visit_u64<E>(self, int: u64) -> Result<Owned, E> {
        Ok(Owned::Int { negative: false, magnitude: int })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Owned, E> {
        Ok(Owned::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Owned, E> {
        // Only names and values of the line's own object are looked at.
        let kept = if self.depth == 1 { text } else { "" };
        Ok(Owned::Text(kept.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Owned, A::Error> {
        let inside = self.inside()?;
        while array.next_element_seed(inside)?.is_some() {}
        Ok(Owned::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Owned, A::Error> {
        let inside = self.inside()?;
        let mut fields = (self.depth == 0).then(Box::<OwnedFields>::default);
        while let Some(Owned::Text(name)) = object.next_key_seed(inside)? {
            let value = object.next_value_seed(inside)?;
            let Some(fields) = &mut fields else { continue };
            match name.as_str() {
                "id" => fields.id = value,
                "level" => fields.level = value,
                "message" => fields.message = value,
                _ => {}
            }
        }
        Ok(Owned::Object(fields))
    }
}
