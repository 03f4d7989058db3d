//! Where a line's timestamp and level stand: one look along the top level of a JSON object.
//!
//! Owns finding a few named members; leaves whether the line is a message to whoever gets it, for a
//! recorded line is sent as it is. So it checks no more than what it steps over, and stops as soon
//! as it knows what it wants.
//! Invariant: a member of a nested object is never taken for one of the line's own.

use memchr::memchr2;

use super::moment;

/// Where `record` puts the time at which a line came: in front of everything else.
pub const RECORDED_AT: &str = "recorded_at";

/// The line as it was before `record` put its time in front: an opening brace, and this.
pub fn behind_recorded_at(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"{\"")?.strip_prefix(RECORDED_AT.as_bytes())?;
    let rest = rest.strip_prefix(b"\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest[digits..].strip_prefix(b",").filter(|_| digits > 0)
}

/// The names under which a timestamp is looked for when none was given, the likeliest first.
pub const TIMESTAMP_FIELDS: [&str; 9] =
    [RECORDED_AT, "timestamp", "@timestamp", "time", "ts", "datetime", "eventTime", "date", "t"];
/// The names of a level, in the same way.
pub const LEVEL_FIELDS: [&str; 5] = ["level", "severity", "log.level", "loglevel", "lvl"];

/// A member's value as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Between its quotes, escapes and all.
    Text(&'a [u8]),
    /// A number, a word, or the beginning of an object or array.
    Other(&'a [u8]),
}

impl Value<'_> {
    /// When that is, ns since 1970.
    pub fn moment(self) -> Option<i64> {
        match self {
            Value::Text(text) => moment::rfc3339(text).or_else(|| moment::epoch(text)),
            Value::Other(number) => moment::epoch(number),
        }
    }
}

/// Why a line cannot be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnObject;

/// Calls `each` with the members of the line's object, in order, until it says `true`.
///
/// # Errors
/// It is no object, or none as far as it was looked into.
pub fn members<'a>(
    line: &'a [u8],
    mut each: impl FnMut(&'a [u8], Value<'a>) -> bool,
) -> Result<(), NotAnObject> {
    let mut at = blank(line, 0);
    if line.get(at) != Some(&b'{') {
        return Err(NotAnObject);
    }
    at = blank(line, at + 1);
    if line.get(at) == Some(&b'}') {
        return Ok(());
    }
    loop {
        let key_end = text_end(line, at).ok_or(NotAnObject)?;
        let key = &line[at + 1..key_end - 1];
        at = blank(line, key_end);
        if line.get(at) != Some(&b':') {
            return Err(NotAnObject);
        }
        at = blank(line, at + 1);
        let end = value_end(line, at).ok_or(NotAnObject)?;
        let value = match line[at] {
            b'"' => Value::Text(&line[at + 1..end - 1]),
            _ => Value::Other(&line[at..end]),
        };
        if each(key, value) {
            return Ok(());
        }
        at = blank(line, end);
        match line.get(at) {
            Some(b',') => at = blank(line, at + 1),
            Some(b'}') => return Ok(()),
            _ => return Err(NotAnObject),
        }
    }
}

fn blank(line: &[u8], at: usize) -> usize {
    let blanks = line[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    at + blanks.count()
}

/// Behind the closing quote of the text that begins at `at`.
fn text_end(line: &[u8], at: usize) -> Option<usize> {
    if line.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        let rest = line.get(at..)?;
        let found = memchr2(b'"', b'\\', rest)?;
        match rest[found] {
            b'"' => return Some(at + found + 1),
            _ => at += found + 2,
        }
    }
}

/// Behind the value that begins at `at`.
fn value_end(line: &[u8], at: usize) -> Option<usize> {
    match line.get(at)? {
        b'"' => text_end(line, at),
        b'{' | b'[' => {
            let (mut at, mut depth) = (at, 0u32);
            loop {
                match line.get(at)? {
                    b'"' => {
                        at = text_end(line, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r');
            let length = line[at..].iter().position(is_end).unwrap_or(line.len() - at);
            (length > 0).then_some(at + length)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    fn all(line: &str) -> Result<Vec<(String, String)>, NotAnObject> {
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        members(line.as_bytes(), |key, value| {
            let value = match value {
                Value::Text(value) => format!("\"{}\"", text(value)),
                Value::Other(value) => text(value),
            };
            found.push((text(key), value));
            false
        })?;
        Ok(found)
    }

    #[test]
    fn members_of_the_line_itself_are_found_wherever_they_stand() {
        let line = r#" { "a" : {"timestamp":"no","b":[1,{"c":"}"}]} ,"q\"t":"x\\","n":-1.5e3 , "timestamp":"2026-11-21T00:00:00Z","e":[] ,"z":null}"#;
        let found = all(line).unwrap();
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "q\\\"t", "n", "timestamp", "e", "z"]);
        assert_eq!(found[1].1, r#""x\\""#);
        assert_eq!((found[2].1.as_str(), found[4].1.as_str()), ("-1.5e3", "[]"));
        assert_eq!(all("{}"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_object_is_told() {
        for line in [
            "",
            "x",
            "[1]",
            "\"a\"",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1 \"b\":2}",
            "{\"a\":\"b",
            "{\"a\":\"b\\",
            "{\"a\":[1}",
            "{a:1}",
            "{\"a\":}",
            "{\"a\":{\"b\":1}",
            "{\"a\":1,}",
        ] {
            assert!(all(line).is_err(), "{line}");
        }
    }

    #[test]
    fn it_looks_no_further_than_it_is_asked_to() {
        let mut seen = 0;
        let line = br#"{"timestamp":1700000000,"broken"#;
        let looked = members(line, |_, value| {
            seen += 1;
            value.moment() == Some(1_700_000_000_000_000_000)
        });
        assert_eq!((looked, seen), (Ok(()), 1));
        assert_eq!(Value::Text(b"1700000000").moment(), Some(1_700_000_000_000_000_000));
        assert_eq!(Value::Text(b"soon").moment(), None);
        assert_eq!(Value::Other(b"{").moment(), None);
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i32>().prop_map(Json::from),
            "[ -~]{0,12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map("[a-z\"\\\\]{0,4}", inner, 0..4)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_sees_what_a_parser_sees(
            map in prop::collection::btree_map("[a-z\"\\\\@.]{0,6}", json(), 0..6),
        ) {
            let value = Json::Object(map.into_iter().collect());
            let found = all(&value.to_string()).unwrap();
            let expected: Vec<(String, String)> = value.as_object().unwrap().iter()
                .map(|(key, value)| {
                    let key = Json::from(key.as_str()).to_string();
                    (key[1..key.len() - 1].to_owned(), value.to_string())
                })
                .collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn nothing_makes_it_panic(line in prop::collection::vec(prop::sample::select(
            b"{}[]\",:\\ 1a\t".to_vec()), 0..30)) {
            let _ = members(&line, |_, _| false);
        }
    }
}
