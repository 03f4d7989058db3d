//! Texts around a message that it fills in: `/users/${id}` in a URL, `${token}` in a header.
//!
//! Owns what may stand where: a value never leaves its place. In a URL all but the unreserved
//! characters are percent-encoded, in a header the control characters, which would end its line.
//! Leaves what the names mean to [`super::compile`].
//! Invariant: what a value became holds no control character, and in a URL nothing that parts it.

use std::fmt;

use crate::plan::percent;

/// A text with `${name}` in it, of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blank {
    /// As it was given.
    pub text: String,
    /// Where it stands.
    pub within: Within,
    /// Which knob gave it, for people: `TARGET`, `HEADER "x-id"`.
    pub knob: String,
    /// It is nobody's business.
    pub is_secret: bool,
}

/// Hides secrets.
impl fmt::Display for Blank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_secret {
            true => f.write_str(&self.knob),
            false => write!(f, "{} \"{}\"", self.knob, self.text),
        }
    }
}

/// Where a value is filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// Path and query of a URL.
    Url,
    /// The value of a header.
    Header,
}

/// Bytes of a text with its values at most: servers have room for less.
pub(super) const BYTES_MAX: usize = 64 << 10;

/// Whether `text` names values.
pub fn has_names(text: &str) -> bool {
    text.contains("${")
}

/// `text` with `value` wherever it names one; as it is where it cannot be read.
pub fn filled_with(text: &str, value: &str) -> String {
    let Ok(pieces) = pieces(text) else { return text.to_owned() };
    let piece = |piece: Piece<'_>| match piece {
        Piece::Literal(literal) => literal,
        Piece::Name(_) => value.to_owned(),
    };
    pieces.into_iter().map(piece).collect()
}

/// A part of a text with `${name}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    Literal(String),
    Name(&'t str),
}

/// Parts `text`; `$${` is `${` itself.
///
/// # Errors
/// A `${` has no end.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        literal.push_str(&rest[..at]);
        if literal.ends_with('$') {
            literal.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        let Some((name, behind)) = rest[at + 2..].split_once('}') else {
            return Err("has a ${ without its }".to_owned());
        };
        rest = behind;
        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        pieces.push(Piece::Name(name.trim()));
    }
    literal.push_str(rest);
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

impl Within {
    /// Rewrites what stands in `out` from `start` on for this place; `is_json` says that it is the
    /// inside of a JSON string.
    pub(super) fn rewrite(self, out: &mut Vec<u8>, start: usize, is_json: bool) {
        if is_json {
            unescape(out, start);
        }
        match self {
            Within::Url => percent::encode(out, start, percent::is_unreserved),
            Within::Header => {
                percent::encode(out, start, |byte| byte == b'\t' || !byte.is_ascii_control());
            }
        }
    }

    /// How often longer a value may become.
    pub(super) const GROWTH_MAX: usize = 3;
}

/// Takes the escapes of a JSON string out of what stands in `out` from `start` on.
fn unescape(out: &mut Vec<u8>, start: usize) {
    let Some(first) = memchr::memchr(b'\\', &out[start..]) else { return };
    let (mut from, mut to) = (start + first, start + first);
    while from < out.len() {
        let (byte, length) = match (out[from], out.get(from + 1)) {
            (b'\\', Some(b'u')) => {
                let digits =
                    out.get(from + 2..from + 6).and_then(|it| std::str::from_utf8(it).ok());
                let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                // Only control characters are written so.
                (code.unwrap_or(b'?'), 6)
            }
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'b')) => (8, 2),
            (b'\\', Some(b'f')) => (12, 2),
            (b'\\', Some(&byte)) => (byte, 2),
            (byte, _) => (byte, 1),
        };
        out[to] = byte;
        (from, to) = (from + length, to + 1);
    }
    out.truncate(to);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::payloads::compile::quoted;

    #[test]
    fn names_stand_between_literal_text() {
        let literal = |text: &str| Piece::Literal(text.to_owned());
        for (text, expected) in [
            ("", vec![literal("")]),
            ("/a{b}$c", vec![literal("/a{b}$c")]),
            ("/${a}", vec![literal("/"), Piece::Name("a"), literal("")]),
            (
                "${ a }${b.c}x",
                vec![literal(""), Piece::Name("a"), literal(""), Piece::Name("b.c"), literal("x")],
            ),
            ("$${a}${b}", vec![literal("${a}"), Piece::Name("b"), literal("")]),
        ] {
            assert_eq!(pieces(text), Ok(expected), "{text}");
        }
        assert!(pieces("/${a").is_err());
        assert_eq!(filled_with("/${a}/$${b}?c=${d}", "1"), "/1/${b}?c=1");
    }

    proptest! {
        #[test]
        fn a_json_string_becomes_what_it_says(value: String) {
            let mut out = b"\\n".to_vec();
            out.extend_from_slice(quoted(&value).as_bytes());
            unescape(&mut out, 2);
            prop_assert_eq!(&out[2..], value.as_bytes());
        }

        #[test]
        fn no_value_leaves_its_place(value: String) {
            for (within, is_json) in [(Within::Url, true), (Within::Header, true), (Within::Url, false)] {
                let mut out = Vec::new();
                let text = if is_json { quoted(&value) } else { value.clone() };
                out.extend_from_slice(text.as_bytes());
                within.rewrite(&mut out, 0, is_json);
                prop_assert!(out.len() <= Within::GROWTH_MAX * value.len());
                prop_assert!(!out.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'));
                if within == Within::Url {
                    prop_assert!(out.iter().all(|byte| percent::is_unreserved(*byte) || *byte == b'%'));
                }
            }
        }
    }
}
