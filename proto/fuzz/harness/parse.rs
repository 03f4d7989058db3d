//! Decoding against a `serde_json::Value`, and replies against what they read back as.
//!
//! Input: lines.

use proto::limits::{DEPTH_MAX, ID_BYTES_MAX, QUOTED_BYTES_MAX};
use proto::{Code, Id, Level, OwnedReply, Record, Rejection, Reply, Scratch, Status};
use serde_json::Value;

/// A reason is short whatever the client sent: fixed text, a quotation and a column.
const REASON_BYTES_MAX: usize = 100 + 3 * QUOTED_BYTES_MAX;

pub(crate) fn check(data: &[u8]) {
    // One scratch for all lines: what a line leaves behind must not show in the next.
    let mut scratch = Scratch::new();
    for line in data.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        check_record(line, &mut scratch);
        let _ = OwnedReply::parse(line);
    }
}

#[derive(PartialEq, Debug)]
pub(crate) enum Verdict {
    Record { level: Level, id: Option<Value> },
    Rejected { code: Code, id: Option<Value> },
}

/// What a line is, by way of a `serde_json::Value`.
pub(crate) fn naive_verdict(line: &[u8]) -> Verdict {
    use Verdict::{Record, Rejected};
    let reject = |code| Rejected { code, id: None };
    let Ok(text) = std::str::from_utf8(line) else { return reject(Code::InvalidUtf8) };
    if depth_of(text) > DEPTH_MAX {
        return reject(Code::InvalidJson);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.disable_recursion_limit();
    let value: Result<Value, _> = serde::Deserialize::deserialize(&mut json);
    let (Ok(value), Ok(())) = (value, json.end()) else { return reject(Code::InvalidJson) };
    let Value::Object(object) = value else { return reject(Code::NotAnObject) };

    let id_is_good = match object.get("id") {
        None => true,
        Some(Value::String(text)) => text.len() <= ID_BYTES_MAX,
        Some(Value::Number(number)) => number.is_i64() || number.is_u64(),
        Some(_) => false,
    };
    let id = object.get("id").filter(|_| id_is_good).cloned();
    let level = match object.get("level") {
        None => return Rejected { code: Code::MissingField, id },
        Some(Value::String(text)) => match text.to_uppercase().as_str() {
            "TRACE" => Level::Trace,
            "DEBUG" => Level::Debug,
            // U+0131, a dotless i, has the upper case I.
            _ if !text.is_ascii() => return Rejected { code: Code::InvalidField, id },
            "INFO" => Level::Info,
            "WARN" | "WARNING" => Level::Warn,
            "ERROR" => Level::Error,
            "CRITICAL" | "FATAL" => Level::Critical,
            _ => return Rejected { code: Code::InvalidField, id },
        },
        Some(_) => return Rejected { code: Code::InvalidField, id },
    };
    match object.get("message") {
        None => Rejected { code: Code::MissingField, id },
        Some(Value::String(_)) if id_is_good => Record { level, id },
        Some(_) => Rejected { code: Code::InvalidField, id },
    }
}

/// How deep brackets nest outside of strings.
fn depth_of(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn value_of(id: Id<'_>) -> Value {
    match id {
        Id::Text(text) => text.into(),
        Id::Int(int) => {
            let value = u64::try_from(int).map(Value::from);
            value.or_else(|_| i64::try_from(int).map(Value::from)).expect("an id of 64 bits")
        }
    }
}

/// Decodes one line both ways, and sends the rejection through a reply.
pub(crate) fn check_record(line: &[u8], scratch: &mut Scratch) {
    let expected = naive_verdict(line);
    let parsed = Record::parse(line, scratch);
    let verdict = match &parsed {
        Ok(record) => Verdict::Record { level: record.level, id: record.id.map(value_of) },
        Err(Rejection { code, reason, id }) => {
            assert!(!reason.is_empty() && reason.len() <= REASON_BYTES_MAX, "{reason}");
            Verdict::Rejected { code: *code, id: id.map(value_of) }
        }
    };
    assert_eq!(verdict, expected, "{}", line.escape_ascii());

    if let Err(rejection) = &parsed {
        let mut out = Vec::new();
        Reply::from(rejection).write(&mut out);
        assert_eq!(memchr::memchr(b'\n', &out), Some(out.len() - 1), "a reply is one line");
        let reply = OwnedReply::parse(&out).expect("our own reply reads back");
        assert_eq!(reply.status, Status::Error);
        assert_eq!(reply.known_code(), Some(rejection.code));
        assert_eq!(reply.reason.as_deref(), Some(&*rejection.reason));
        assert_eq!(reply.id, rejection.id.map(value_of));
    }
}
