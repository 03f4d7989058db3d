//! The fast path: one pass over a line, eight bytes at a time inside strings, without a tree, a
//! tape or a copy.
//!
//! Invariant: what it accepts, `strict` would accept with the same fields. The reverse does not
//! hold: `None` means "not decided", which is right for every defect and for what is valid but
//! rare (escapes in a name, in a level or an id; numbers of more than 200 digits or with an
//! exponent of three).
//!
//! Why by hand: `cargo bench -p logboom-benches --bench parse`, a line of 200 bytes, 2.5 GHz Xeon in
//! a virtual machine: 0.20 µs; 0.49 to fill a simd-json tape in reused buffers, 0.72 by serde_json.
//! simd-json builds what nobody reads, makes an indirect call per string (8 ns on that machine,
//! which restricts indirect branches), and wants up to 40 bytes of memory per byte of line.

use super::{Fields, Root, Value};
use crate::limits::DEPTH_MAX;

/// More characters than this in a number's digits are left to `strict`, so that what is accepted
/// here is in the range of an `f64`: below 1e200 · 1e99.
const DIGITS_MAX: usize = 200;

/// Goes over the whole line. `None`: not decided, and `fields` mean nothing.
#[inline]
pub(super) fn scan<'l>(line: &'l [u8], fields: &mut Fields<'l>) -> Option<Root> {
    let mut cursor = Cursor { line, at: 0, seen: 0 };
    let root = if cursor.token() == b'{' {
        cursor.at += 1;
        cursor.members(fields)?;
        Root::Object
    } else {
        cursor.value(0)?;
        Root::Other
    };
    if cursor.at < line.len() {
        cursor.skip_white();
    }
    let whole = cursor.at == line.len();
    let utf8 = cursor.seen & HIGHS == 0 || std::str::from_utf8(line).is_ok();
    (whole && utf8).then_some(root)
}

struct Cursor<'l> {
    line: &'l [u8],
    at: usize,
    /// All bytes of all strings, or-ed: a high bit says that not all is ASCII.
    seen: u64,
}

/// A string between its quotes, and whether it holds escapes.
type Raw<'l> = (&'l [u8], bool);

impl<'l> Cursor<'l> {
    /// The byte here; 0, which JSON allows nowhere, behind the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.line.get(self.at).copied().unwrap_or(0)
    }

    /// Skips white space and says what comes.
    #[inline(always)]
    fn token(&mut self) -> u8 {
        let byte = self.peek();
        if byte > b' ' { byte } else { self.skip_white() }
    }

    #[inline(never)]
    fn skip_white(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
        self.peek()
    }

    /// The line's own object, from behind its `{` to behind its `}`.
    #[inline(always)]
    fn members(&mut self, fields: &mut Fields<'l>) -> Option<()> {
        if self.token() == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let (name, name_escaped) = self.name()?;
            let (value, escaped) = self.value(1)?;
            match name.len() {
                2 if *name == *b"id" => {
                    fields.id = value;
                    if escaped {
                        return None;
                    }
                }
                5 if *name == *b"level" => {
                    fields.level = value;
                    if escaped {
                        return None;
                    }
                }
                // Nobody looks into a message.
                7 if *name == *b"message" => fields.message = value,
                _ => {}
            }
            if name_escaped {
                return None;
            }
            let byte = self.token();
            self.at += 1;
            match byte {
                b',' => self.token(),
                b'}' => return Some(()),
                _ => return None,
            };
        }
    }

    /// A member's name and its colon.
    #[inline(always)]
    fn name(&mut self) -> Option<Raw<'l>> {
        if self.peek() != b'"' {
            return None;
        }
        let name = self.string()?;
        if self.token() != b':' {
            return None;
        }
        self.at += 1;
        Some(name)
    }

    /// Any value inside `depth` open arrays and objects; the flag is true for a text with escapes.
    #[inline(always)]
    fn value(&mut self, depth: usize) -> Option<(Value<'l>, bool)> {
        let value = match self.token() {
            b'"' => {
                let (text, escaped) = self.string()?;
                return Some((Value::Text(text), escaped));
            }
            b'-' | b'0'..=b'9' => self.number()?,
            b'{' | b'[' => self.nested(depth)?,
            _ => self.word()?,
        };
        Some((value, false))
    }

    /// From the opening quote to behind the closing one.
    #[inline(always)]
    fn string(&mut self) -> Option<Raw<'l>> {
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            let byte = match self.line.get(at..).and_then(<[u8]>::first_chunk) {
                Some(chunk) => {
                    let word = u64::from_le_bytes(*chunk);
                    self.seen |= word;
                    let special = special(word);
                    if special == 0 {
                        at += 8;
                        continue;
                    }
                    let skipped = special.trailing_zeros() / 8;
                    at += skipped as usize;
                    (word >> (skipped * 8)) & 0xFF
                }
                // Fewer than eight bytes are left.
                None => {
                    let word = u64::from(*self.line.get(at)?);
                    self.seen |= word;
                    if word >= 0x20 && word != u64::from(b'"') && word != u64::from(b'\\') {
                        at += 1;
                        continue;
                    }
                    word
                }
            };
            if byte == u64::from(b'"') {
                self.at = at + 1;
                return Some((&self.line[start..at], escaped));
            }
            if byte != u64::from(b'\\') {
                return None;
            }
            escaped = true;
            at += escape_len(&self.line[at..])?;
        }
    }

    #[inline(always)]
    fn number(&mut self) -> Option<Value<'l>> {
        let start = self.at;
        let negative = self.peek() == b'-';
        self.at += usize::from(negative);
        let first = self.peek();
        self.at += 1;
        let mut value = u64::from(first.wrapping_sub(b'0'));
        match first {
            b'0' => {}
            b'1'..=b'9' => {
                while self.peek().is_ascii_digit() {
                    value = value.wrapping_mul(10).wrapping_add(u64::from(self.peek() - b'0'));
                    self.at += 1;
                }
            }
            _ => return None,
        }
        match self.peek() {
            b'.' | b'e' | b'E' => return self.fraction(start),
            // 18 digits cannot have wrapped; more of them can have wrapped to 0, so this comes first.
            _ if self.at - start > 18 => return self.long_integer(start),
            _ if negative && value == 0 => return Some(Value::Number),
            _ => {}
        }
        Some(Value::Int { negative, magnitude: value })
    }

    #[inline(never)]
    fn long_integer(&self, start: usize) -> Option<Value<'l>> {
        let text = &self.line[start..self.at];
        if text.len() > DIGITS_MAX {
            return None;
        }
        let negative = text[0] == b'-';
        let digits = std::str::from_utf8(&text[usize::from(negative)..]).ok()?;
        let bound = if negative { i64::MIN.unsigned_abs() } else { u64::MAX };
        let magnitude = digits.parse().ok().filter(|&magnitude| magnitude <= bound);
        Some(magnitude.map_or(Value::Number, |magnitude| Value::Int { negative, magnitude }))
    }

    /// What may come behind the integer part of a number.
    #[inline(never)]
    fn fraction(&mut self, start: usize) -> Option<Value<'l>> {
        if self.peek() == b'.' {
            self.at += 1;
            self.digits(usize::MAX)?;
        }
        if self.at - start > DIGITS_MAX {
            return None;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), b'+' | b'-'));
            self.digits(2)?;
        }
        Some(Value::Number)
    }

    /// At least one digit, at most `max`.
    fn digits(&mut self, max: usize) -> Option<()> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        (1..=max).contains(&(self.at - start)).then_some(())
    }

    #[inline(never)]
    fn word(&mut self) -> Option<Value<'l>> {
        let rest = &self.line[self.at..];
        let word = [&b"true"[..], b"null", b"false"].into_iter().find(|w| rest.starts_with(w))?;
        self.at += word.len();
        Some(Value::Other)
    }

    /// A whole array or object inside `depth` others. No recursion: what is open is a bit each.
    #[inline(never)]
    fn nested(&mut self, mut depth: usize) -> Option<Value<'l>> {
        const { assert!(DEPTH_MAX <= u128::BITS as usize) };
        let outside = depth;
        let mut in_object = false;
        // The containers around the innermost one, which `in_object` tells about; 1 for an object.
        let mut objects = 0_u128;
        loop {
            let byte = self.token();
            match byte {
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                b'{' | b'[' => {
                    if depth == DEPTH_MAX {
                        return None;
                    }
                    depth += 1;
                    objects = objects << 1 | u128::from(in_object);
                    in_object = byte == b'{';
                    self.at += 1;
                    let empty = self.token() == if in_object { b'}' } else { b']' };
                    if !empty {
                        if in_object {
                            self.name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    depth -= 1;
                    in_object = objects & 1 == 1;
                    objects >>= 1;
                }
                _ => {
                    self.word()?;
                }
            }
            // Behind a value: close what ends here.
            loop {
                if depth == outside {
                    return Some(Value::Other);
                }
                let byte = self.token();
                self.at += 1;
                if byte == b',' {
                    break;
                }
                if byte != if in_object { b'}' } else { b']' } {
                    return None;
                }
                depth -= 1;
                in_object = objects & 1 == 1;
                objects >>= 1;
            }
            if in_object {
                self.token();
                self.name()?;
            }
        }
    }
}

/// Length of the escape at the start of `text`; `None` if it is none, or a surrogate alone.
#[inline(never)]
fn escape_len(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => match hex(text.get(2..6)?)? {
            0xD800..0xDC00 => match text.get(6..12)? {
                [b'\\', b'u', low @ ..] => matches!(hex(low)?, 0xDC00..0xE000).then_some(12),
                _ => None,
            },
            0xDC00..0xE000 => None,
            _ => Some(6),
        },
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &byte| Some(value << 4 | char::from(byte).to_digit(16)?))
}

/// 0x01 in every byte.
const ONES: u64 = u64::MAX / 255;
/// 0x80 in every byte.
const HIGHS: u64 = ONES << 7;

/// Marks by its high bit the first byte that is a quote, a backslash or below 0x20. Bytes behind the
/// first one may be marked wrongly, as the borrow of a subtraction goes upwards (Mycroft's trick).
#[inline(always)]
fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_of_a_word_is_found_whatever_surrounds_it() {
        for byte in 0..=255_u8 {
            for at in 0..8 {
                for rest in [b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xA2, 0xDC, 0xFF] {
                    for behind in [rest, b'"', 0, b'\\', b'"' + 1, b'\\' + 1, 0x20, 0xFF] {
                        let mut word = [rest; 8];
                        word[at] = byte;
                        word[at + 1..].fill(behind);
                        let found = special(u64::from_le_bytes(word)).trailing_zeros() as usize / 8;
                        let naive = word
                            .iter()
                            .position(|&b| b < 0x20 || b == b'"' || b == b'\\')
                            .unwrap_or(8);
                        assert_eq!(found, naive, "{word:?}");
                    }
                }
            }
        }
    }

    /// So that a change which sends ordinary lines the slow way does not go unnoticed.
    #[test]
    fn what_is_usual_is_decided_here() {
        for line in [
            r#"{"level":"INFO","message":"m"}"#,
            r#" { "message" : "é \" \u00e9 \ud83d\ude00 \n" , "level" : "warn" , "id" : -17 } "#,
            r#"{"id":18446744073709551615,"a":[1.5,-2e10,{"b":[]},{},true,false,null]}"#,
            r#"{"n":123456789012345678901234567890,"id":"é"}"#,
            "[]",
            "7",
            "{}",
        ] {
            assert!(scan(line.as_bytes(), &mut Fields::default()).is_some(), "{line}");
        }
    }

    #[test]
    fn what_is_rare_is_left_to_the_slow_path() {
        for line in [
            r#"{"l\u0065vel":"INFO","message":"m"}"#,
            r#"{"level":"\u0049NFO","message":"m"}"#,
            r#"{"level":"INFO","message":"m","id":"\t"}"#,
            r#"{"level":"INFO","message":"m","n":1e100}"#,
        ] {
            assert!(scan(line.as_bytes(), &mut Fields::default()).is_none(), "{line}");
        }
    }
}
