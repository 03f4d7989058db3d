//! What becomes of a recorded line: a message, or one of the reasons why it is none.
//!
//! Owns telling formats apart, reading a line by its format, the filters, and the count of it all.
//! Leaves order and deadlines to [`super::tempo`], files to [`crate::replay`].
//! Invariant: `lines = messages + outside + below + bad`, whenever it is looked at.

use proto::Level;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::{self, NotAnEntry};
use super::ndjson::{self, LEVEL_FIELDS, TIMESTAMP_FIELDS, Value};
use super::{Edge, Format, Replay};

pub use super::ndjson::RECORDED_AT;

/// Lines by which a recording's format is told.
pub const SAMPLE_LINES: usize = 200;

/// How the lines of a recording are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What they are.
    pub format: Format,
    /// Of NDJSON: where the time stands.
    pub timestamp_field: String,
}

impl Layout {
    /// As `asked`; what was not asked is told by the first lines of the recording.
    ///
    /// # Errors
    /// Says what was looked for in the sample, and the knob that would help.
    pub fn of(asked: &Replay, sample: &[Vec<u8>]) -> Result<Layout, String> {
        let format = asked.format.map_or_else(|| told_by(sample), Ok)?;
        let timestamp_field = match &asked.timestamp_field {
            Some(field) => field.clone(),
            None if format.is_access_log() => String::new(),
            None => field_of(sample)?.to_owned(),
        };
        Ok(Layout { format, timestamp_field })
    }

    /// Appends the line as it was sent once.
    pub fn append(&self, line: &[u8], out: &mut Vec<u8>) {
        let is_ours = self.format == Format::Ndjson && self.timestamp_field == RECORDED_AT;
        match is_ours.then(|| ndjson::behind_recorded_at(line)).flatten() {
            Some(rest) => {
                out.push(b'{');
                out.extend_from_slice(rest);
            }
            None => out.extend_from_slice(line),
        }
    }

    /// What a line says.
    ///
    /// # Errors
    /// Why it is no message.
    pub fn read(&self, line: &[u8], wants_level: bool) -> Result<Read, Bad> {
        if self.format.is_access_log() {
            let entry = access::entry(line).map_err(|why| match why {
                NotAnEntry::NoTime => Bad::NoTimestamp,
                NotAnEntry::Malformed => Bad::Malformed,
            })?;
            return Ok(Read { at_ns: entry.at_ns, level: None });
        }
        // The end of a line that was torn off is missing.
        let is_whole = line.iter().rfind(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
        let (mut at, mut level) = (None, None);
        let looked = ndjson::members(line, |name, value| {
            if name == self.timestamp_field.as_bytes() {
                at.get_or_insert(value);
            } else if wants_level && level.is_none() && is_level(name) {
                level = level_of(value);
            }
            at.is_some() && (level.is_some() || !wants_level)
        });
        if looked.is_err() || !is_whole {
            return Err(Bad::Malformed);
        }
        let at_ns = at.ok_or(Bad::NoTimestamp)?.moment().ok_or(Bad::NoTimestamp)?;
        Ok(Read { at_ns, level })
    }
}

fn is_level(name: &[u8]) -> bool {
    LEVEL_FIELDS.iter().any(|field| field.as_bytes() == name)
}

fn level_of(value: Value<'_>) -> Option<Level> {
    match value {
        Value::Text(word) => Level::parse(word),
        Value::Other(_) => None,
    }
}

fn told_by(sample: &[Vec<u8>]) -> Result<Format, String> {
    let (mut objects, mut common, mut combined) = (0, 0, 0);
    for line in sample {
        if ndjson::members(line, |_, _| true).is_ok() {
            objects += 1;
        } else if let Ok(entry) = access::entry(line) {
            *if entry.is_combined { &mut combined } else { &mut common } += 1;
        }
    }
    match objects.max(common + combined) {
        0 => Err(format!(
            "none of its first {} lines is a JSON object or an entry of an access log \
             (REPLAY_FORMAT says which it is)",
            sample.len()
        )),
        most if most == objects => Ok(Format::Ndjson),
        _ if combined >= common => Ok(Format::Combined),
        _ => Ok(Format::Common),
    }
}

/// The field that is a time in most lines; of equals, the likelier name.
fn field_of(sample: &[Vec<u8>]) -> Result<&'static str, String> {
    let mut counts = [0usize; TIMESTAMP_FIELDS.len()];
    for line in sample {
        let _ = ndjson::members(line, |name, value| {
            let known = TIMESTAMP_FIELDS.iter().position(|field| field.as_bytes() == name);
            if let Some(known) = known.filter(|_| value.moment().is_some()) {
                counts[known] += 1;
            }
            false
        });
    }
    let most = counts.iter().copied().max().filter(|most| *most > 0).ok_or_else(|| {
        format!(
            "none of its first {} lines has a time under {} (REPLAY_TIMESTAMP_FIELD names another)",
            sample.len(),
            TIMESTAMP_FIELDS.join(", ")
        )
    })?;
    let first = counts.iter().position(|count| *count == most).unwrap_or_default();
    Ok(TIMESTAMP_FIELDS[first])
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// ns since 1970.
    pub at_ns: i64,
    /// Where it was asked for and is there.
    pub level: Option<Level>,
}

/// Why a line is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Not what the recording's format says.
    Malformed,
    /// No time, or one that cannot be read.
    NoTimestamp,
    /// A level was asked for, and it has none.
    NoLevel,
    /// Longer than a message may be.
    TooLong,
    /// An access log's line without a request that could be sent again.
    NoRequest,
}

/// What became of the lines of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Screened {
    /// That were read, blank ones not counted.
    pub lines: u64,
    /// That are sent.
    pub messages: u64,
    /// Outside of REPLAY_FROM and REPLAY_TO.
    pub outside: u64,
    /// Below REPLAY_LEVEL.
    pub below: u64,
    /// Not what the format says.
    pub malformed: u64,
    /// Without a time that could be read.
    pub no_timestamp: u64,
    /// Without a level, where REPLAY_LEVEL asks for one.
    pub no_level: u64,
    /// Longer than a message may be.
    pub too_long: u64,
    /// Without a request that could be sent again.
    pub no_request: u64,
    /// Of the messages, those recorded behind a later one; they are due with it.
    pub backwards: u64,
}

impl Screened {
    /// A line that is none.
    pub fn bad(&mut self, bad: Bad) {
        self.lines += 1;
        *match bad {
            Bad::Malformed => &mut self.malformed,
            Bad::NoTimestamp => &mut self.no_timestamp,
            Bad::NoLevel => &mut self.no_level,
            Bad::TooLong => &mut self.too_long,
            Bad::NoRequest => &mut self.no_request,
        } += 1;
    }

    /// Lines that could not be read, by kind.
    pub fn bads(&self) -> [(&'static str, u64); 5] {
        [
            ("malformed", self.malformed),
            ("no_timestamp", self.no_timestamp),
            ("no_level", self.no_level),
            ("too_long", self.too_long),
            ("no_request", self.no_request),
        ]
    }
}

/// The filters of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    from: Option<Edge>,
    to: Option<Edge>,
    level: Option<Level>,
    /// Of the recording, whatever is filtered out.
    first_ns: Option<i64>,
}

/// A line this far behind the end of what is sent is the last one that is read: until there, some
/// may have been written down a little late.
const DISORDER_NS: i64 = 60_000_000_000;

/// What a filter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Send it.
    Yes,
    /// Outside of the time.
    Outside,
    /// So far behind it that nothing more will come.
    Beyond,
    /// Of too low a level.
    Below,
    /// Of no level.
    NoLevel,
}

impl Filter {
    /// As asked.
    pub fn new(asked: &Replay) -> Filter {
        Filter { from: asked.from, to: asked.to, level: asked.level, first_ns: None }
    }

    /// Lines have to say their level.
    pub fn wants_level(&self) -> bool {
        self.level.is_some()
    }

    /// Whether a line is sent; they come in the order of the recording.
    pub fn pass(&mut self, read: Read) -> Pass {
        let first_ns = *self.first_ns.get_or_insert(read.at_ns);
        if self.from.is_some_and(|from| read.at_ns < from.at_ns(first_ns)) {
            return Pass::Outside;
        }
        if let Some(to) = self.to
            && read.at_ns >= to.at_ns(first_ns)
        {
            let is_far = read.at_ns >= to.at_ns(first_ns).saturating_add(DISORDER_NS);
            return if is_far { Pass::Beyond } else { Pass::Outside };
        }
        match (self.level, read.level) {
            (None, _) => Pass::Yes,
            (Some(_), None) => Pass::NoLevel,
            (Some(least), Some(level)) if level < least => Pass::Below,
            (Some(_), Some(_)) => Pass::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(lines: &[&str]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.as_bytes().to_vec()).collect()
    }

    const COMMON: &str = r#"h - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 1"#;
    const COMBINED: &str = r#"h - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 1 "-" "a""#;

    #[test]
    fn formats_are_told_apart_by_what_most_lines_are() {
        let told = |lines: &[&str]| {
            Layout::of(&Replay::default(), &sample(lines)).map(|layout| layout.format)
        };
        let json = r#"{"timestamp":1700000000}"#;
        assert_eq!(told(&[json, "x", json, COMMON]), Ok(Format::Ndjson));
        assert_eq!(told(&[COMMON, "x", COMMON, COMBINED]), Ok(Format::Common));
        assert_eq!(told(&[COMBINED]), Ok(Format::Combined));
        for lines in [&["x", "[1]"][..], &[]] {
            assert!(told(lines).unwrap_err().contains("REPLAY_FORMAT"));
        }
        let asked = Replay { format: Some(Format::Common), ..Replay::default() };
        assert_eq!(Layout::of(&asked, &sample(&[json])).unwrap().format, Format::Common);
    }

    #[test]
    fn a_timestamp_is_where_most_lines_have_one() {
        let field = |lines: &[&str]| {
            Layout::of(&Replay::default(), &sample(lines)).map(|layout| layout.timestamp_field)
        };
        assert_eq!(field(&[r#"{"time":"12 ms","ts":1700000000}"#]), Ok("ts".to_owned()));
        assert_eq!(
            field(&[r#"{"ts":1,"@timestamp":"2026-11-21T00:00:00Z"}"#]).unwrap(),
            "@timestamp"
        );
        let wrong = field(&[r#"{"when":1700000000}"#]).unwrap_err();
        assert!(
            wrong.contains("REPLAY_TIMESTAMP_FIELD") && wrong.contains("@timestamp"),
            "{wrong}"
        );
        let asked = Replay { timestamp_field: Some("when".to_owned()), ..Replay::default() };
        let layout = Layout::of(&asked, &sample(&[r#"{"when":1700000000}"#])).unwrap();
        let read = layout.read(br#"{"a":{"when":1},"when":1700000000}"#, false).unwrap();
        assert_eq!(read.at_ns, 1_700_000_000_000_000_000);
    }

    #[test]
    fn a_line_is_a_message_or_bad_in_one_way() {
        let layout = Layout { format: Format::Ndjson, timestamp_field: "timestamp".to_owned() };
        for (line, expected) in [
            (r#"{"timestamp":1700000000,"level":"warn"}"#, Ok(Some(Level::Warn))),
            (r#"{"level":"INFO","timestamp":"1970-01-01T00:00:00Z"} "#, Ok(Some(Level::Info))),
            (r#"{"timestamp":1,"lvl":"loud","severity":"ERROR"}"#, Ok(Some(Level::Error))),
            (r#"{"timestamp":1,"level":30}"#, Ok(None)),
            (r#"{"timestamp":"then","level":"warn"}"#, Err(Bad::NoTimestamp)),
            (r#"{"level":"warn"}"#, Err(Bad::NoTimestamp)),
            (r#"{"timestamp":1,"level":"warn","message":"torn o"#, Err(Bad::Malformed)),
            ("x", Err(Bad::Malformed)),
            ("[]", Err(Bad::Malformed)),
            ("\0\0\0", Err(Bad::Malformed)),
        ] {
            let read = layout.read(line.as_bytes(), true);
            assert_eq!(read.map(|read| read.level), expected, "{line}");
        }
        let layout = Layout { format: Format::Combined, timestamp_field: String::new() };
        assert!(layout.read(COMMON.as_bytes(), false).is_ok());
        assert_eq!(layout.read(b"{}", false), Err(Bad::NoTimestamp));
        let status = COMMON.replace(" 200 ", " 2000 ");
        assert_eq!(layout.read(status.as_bytes(), false), Err(Bad::Malformed));
    }

    #[test]
    fn filters_keep_a_range_and_the_levels_above() {
        let secs = |at: i64| at * 1_000_000_000;
        let asked = Replay {
            from: Some(Edge::After(10_000_000_000)),
            to: Some(Edge::At(secs(200))),
            level: Some(Level::Warn),
            ..Replay::default()
        };
        let mut filter = Filter::new(&asked);
        let mut pass = |at: i64, level| filter.pass(Read { at_ns: secs(at), level });
        assert_eq!(pass(100, Some(Level::Error)), Pass::Outside);
        assert_eq!(pass(110, Some(Level::Error)), Pass::Yes);
        assert_eq!(pass(109, Some(Level::Error)), Pass::Outside);
        assert_eq!(pass(199, Some(Level::Info)), Pass::Below);
        assert_eq!(pass(199, None), Pass::NoLevel);
        assert_eq!(pass(200, Some(Level::Error)), Pass::Outside);
        assert_eq!(pass(259, Some(Level::Error)), Pass::Outside);
        assert_eq!(pass(198, Some(Level::Warn)), Pass::Yes);
        assert_eq!(pass(260, Some(Level::Error)), Pass::Beyond);
    }
}
