//! One body for the fuzz target and for `tests/harness.rs`: framing and decoding against the slow,
//! obvious way of doing the same. Panics where they differ.
//!
//! Input: three bytes which choose the line bound, the cuts and the holds, then the stream itself.

use proto::limits::{DEPTH_MAX, ID_BYTES_MAX, QUOTED_BYTES_MAX};
use proto::{Code, Flow, Frame, Hello, Id, Level, Lines, OwnedReply, Record, Rejection, Reply};
use proto::{Scratch, Status, Welcome};
use serde_json::Value;

/// Line bounds to choose from, in bytes.
const BOUNDS: [usize; 6] = [1, 8, 63, 300, 5000, 262_144];

/// A reason is short whatever the client sent: fixed text, a quotation and a column.
const REASON_BYTES_MAX: usize = 100 + 3 * QUOTED_BYTES_MAX;

pub(crate) fn check(data: &[u8]) {
    let (head, stream) = data.split_at(data.len().min(3));
    let [bound, cuts, holds] = [0, 1, 2].map(|at| head.get(at).copied().unwrap_or(0));
    let line_bytes_max = BOUNDS[usize::from(bound) % BOUNDS.len()];
    check_lines(stream, line_bytes_max, cuts, holds);

    // One scratch for all lines: what a line leaves behind must not show in the next.
    let mut scratch = Scratch::new();
    for frame in naive_frames(stream, line_bytes_max) {
        if let Naive::Line(line) = frame {
            check_record(line, &mut scratch);
            let _ = Hello::recognise(line);
            let _ = OwnedReply::parse(line);
            let _ = Welcome::parse(line);
        }
    }
}

// Framing

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naive<'a> {
    Line(&'a [u8]),
    TooLong,
}

/// The whole stream at once.
pub(crate) fn naive_frames(stream: &[u8], line_bytes_max: usize) -> Vec<Naive<'_>> {
    stream
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| if line.len() > line_bytes_max { Naive::TooLong } else { Naive::Line(line) })
        .collect()
}

/// Feeds the stream in pieces, holds now and then, and compares frames and memory.
pub(crate) fn check_lines(stream: &[u8], line_bytes_max: usize, cuts: u8, holds: u8) {
    let expected = naive_frames(stream, line_bytes_max);
    let mut dice = Dice(u64::from(cuts) << 8 | u64::from(holds));
    let mut lines = Lines::new(line_bytes_max);
    let mut seen = 0;
    // One piece in `holds % 8` frames is held; none if 0.
    let mut on = |frame: Frame<'_>, dice: &mut Dice| {
        if !holds.is_multiple_of(8) && dice.roll(usize::from(holds % 8) + 1) == 0 {
            return Flow::Hold;
        }
        match (frame, expected.get(seen)) {
            (Frame::Line(line), Some(&Naive::Line(naive))) => assert_eq!(line, naive),
            (Frame::TooLong, Some(Naive::TooLong)) => {}
            (frame, naive) => panic!("frame {seen}: {frame:?} instead of {naive:?}"),
        }
        seen += 1;
        Flow::Next
    };
    let mut fed_while_held = 0;
    let mut rest = stream;
    while !rest.is_empty() {
        // Mostly as a careful caller does: feed nothing while something is held.
        let held = fed_while_held > 0;
        let piece = if held && dice.roll(8) != 0 {
            &rest[..0]
        } else {
            let piece_max = (usize::from(cuts) * usize::from(cuts) / 8).max(1);
            &rest[..rest.len().min(dice.roll(piece_max) + 1)]
        };
        rest = &rest[piece.len()..];
        match lines.feed(piece, |frame| on(frame, &mut dice)) {
            Flow::Hold => fed_while_held += piece.len().max(1),
            Flow::Next => fed_while_held = 0,
        }
        let bound = line_bytes_max + 1 + fed_while_held;
        assert!(lines.carry_len() <= bound, "carry {} above {bound}", lines.carry_len());
        if lines.is_empty() {
            assert!(lines.capacity_bytes() <= 4096, "an empty carry keeps its memory");
        }
    }
    while lines.finish(|frame| on(frame, &mut dice)) == Flow::Hold {}
    assert_eq!(seen, expected.len(), "frames are missing");
    assert!(lines.is_empty() && lines.carry_len() == 0);
}

/// A tiny deterministic generator (xorshift*), so that a failing input says everything.
struct Dice(u64);

impl Dice {
    /// From 0 to `sides` - 1.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= 0x9E37_79B9_7F4A_7C15;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap_or(0) % sides
    }
}

// Decoding

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
