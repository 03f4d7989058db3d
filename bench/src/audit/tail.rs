//! Which message a stored line is: the fast way from its end, and the full parse behind it.
//!
//! The generator ends every line with `,"run":"<RUN_ID>","conn":N,"seq":M}`. Reading that backwards
//! costs a few dozen bytes of a 200-byte line; whatever does not look exactly like that goes to the
//! full parse, which is also the oracle of the tests.
//!
//! Invariant: for a line that is valid JSON, [`Tail::identify`] answers what [`parse`] answers.
//! What the fast way asks of a line: it opens with `{`, there is no second `{`, there is no
//! control character, and it ends in the tail of our run. It does not look at the other members;
//! the caller parses one line in [`super::PARSE_EVERY`] in full for that.

use serde::Deserialize;

/// What a line turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Message `seq` of connection `conn` of the run that is audited.
    Ours { conn: u64, seq: u64 },
    /// A whole JSON object which is not of this run.
    Foreign,
    /// Not a JSON object: torn, overwritten, or full of NUL bytes.
    Damaged,
}

/// Finds the identity of lines of one run.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    run_id: String,
    /// `,"run":"<RUN_ID>","conn":`; None when the id needs escapes, and only the full parse serves.
    marker: Option<Vec<u8>>,
}

const SEQ: &[u8] = b",\"seq\":";

impl Tail {
    /// The reader for `run_id`.
    pub(super) fn new(run_id: &str) -> Tail {
        let plain = run_id.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        let marker = plain.then(|| format!(",\"run\":\"{run_id}\",\"conn\":").into_bytes());
        Tail { run_id: run_id.to_owned(), marker }
    }

    /// What `line` (without its newline) is. `clean`: the caller knows that it holds no control character.
    pub(super) fn identify(&self, line: &[u8], clean: bool) -> Line {
        match self.fast(line) {
            Some((conn, seq)) if clean || !has_control(line) => Line::Ours { conn, seq },
            _ => self.parse(line),
        }
    }

    /// What `line` is by the full parse.
    pub(super) fn parse(&self, line: &[u8]) -> Line {
        parse(line, &self.run_id)
    }

    /// The backwards scan; None means "ask the full parse", never "not ours".
    fn fast(&self, line: &[u8]) -> Option<(u64, u64)> {
        let marker = self.marker.as_deref()?;
        let rest = line.strip_suffix(b"}")?;
        let (rest, seq) = number_at_end(rest)?;
        let rest = rest.strip_suffix(SEQ)?;
        let (rest, conn) = number_at_end(rest)?;
        let rest = rest.strip_suffix(marker)?;
        let members = rest.strip_prefix(b"{")?;
        // A torn line with the next one glued to it has a second brace.
        if members.is_empty() || memchr::memchr(b'{', members).is_some() {
            return None;
        }
        Some((conn, seq))
    }
}

/// Splits the decimal number off the end, as JSON writes it: no leading zero, fits in 64 bits.
fn number_at_end(bytes: &[u8]) -> Option<(&[u8], u64)> {
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, digits) = bytes.split_at(bytes.len() - digits);
    let leading_zero = digits.len() > 1 && digits[0] == b'0';
    // 19 digits always fit; longer ones are left to the full parse.
    if digits.is_empty() || digits.len() > 19 || leading_zero {
        return None;
    }
    let value = digits.iter().fold(0, |value: u64, digit| value * 10 + u64::from(digit - b'0'));
    Some((rest, value))
}

/// Whether a byte below 0x20 is in `bytes`; written so that the compiler vectorises it.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, &byte| found | (byte < b' '))
}

/// The full parse: slow, obvious, and right about every JSON text.
fn parse(line: &[u8], run_id: &str) -> Line {
    #[derive(Deserialize)]
    struct Ident {
        run: String,
        conn: u64,
        seq: u64,
    }
    // A map first: the last of two equal keys wins, as the tail does.
    let Ok(object) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line)
    else {
        return Line::Damaged;
    };
    match Ident::deserialize(serde_json::Value::Object(object)) {
        Ok(ident) if ident.run == run_id => Line::Ours { conn: ident.conn, seq: ident.seq },
        _ => Line::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identify(line: &str) -> Line {
        Tail::new("r1").identify(line.as_bytes(), false)
    }

    #[test]
    fn the_tail_of_a_line_names_its_message() {
        let line = r#"{"level":"INFO","message":"a","run":"r1","conn":12,"seq":345}"#;
        assert_eq!(identify(line), Line::Ours { conn: 12, seq: 345 });
        assert!(Tail::new("r1").fast(line.as_bytes()).is_some(), "the fast way takes it");
    }

    #[test]
    fn members_in_another_order_are_found_by_the_full_parse() {
        let line = r#"{ "seq":345, "run":"r1", "conn":12, "level":"INFO" }"#;
        assert_eq!(identify(line), Line::Ours { conn: 12, seq: 345 });
    }

    #[test]
    fn the_fast_way_and_the_full_parse_agree_on_odd_lines() {
        let whole = r#"{"m":"a","run":"r1","conn":1,"seq":2}"#;
        let odd = [
            (r#"{"m":"a","run":"r2","conn":1,"seq":2}"#.to_owned(), Line::Foreign),
            (r#"{"m":"a"}"#.to_owned(), Line::Foreign),
            (r#"{"m":"a","run":"r1","conn":1,"seq":-2}"#.to_owned(), Line::Foreign),
            (r#"{"m":"a","run":"r1","conn":1,"seq":2.5}"#.to_owned(), Line::Foreign),
            (r#"{"m":",\"run\":\"r1\",\"conn\":1,\"seq\":2}"}"#.to_owned(), Line::Foreign),
            (r#"{"m":{"run":"r1","conn":1,"seq":2}}"#.to_owned(), Line::Foreign),
            (r#"{"m":"a","run":"r1","conn":01,"seq":2}"#.to_owned(), Line::Damaged),
            (r#"{"run":"r1","conn":1,"seq":2}"#.to_owned(), Line::Ours { conn: 1, seq: 2 }),
            (
                format!(r#"{{"m":"a","run":"r1","conn":1,"seq":{}}}"#, u64::MAX),
                Line::Ours { conn: 1, seq: u64::MAX },
            ),
            (r#"[1,2,3]"#.to_owned(), Line::Damaged),
            (String::new(), Line::Damaged),
            (format!("{}{whole}", &whole[..9]), Line::Damaged),
            (whole.replace('a', "\0"), Line::Damaged),
        ];
        for (line, expected) in odd {
            assert_eq!(parse(line.as_bytes(), "r1"), expected, "full parse of {line:?}");
            assert_eq!(identify(&line), expected, "fast way with {line:?}");
        }
        for end in 0..whole.len() {
            assert_eq!(identify(&whole[..end]), Line::Damaged, "cut at {end}");
        }
    }

    #[test]
    fn a_run_id_that_needs_escapes_is_found_by_the_full_parse() {
        let line = br#"{"m":"a","run":"r\"1","conn":1,"seq":2}"#;
        assert_eq!(Tail::new("r\"1").identify(line, true), Line::Ours { conn: 1, seq: 2 });
    }
}
