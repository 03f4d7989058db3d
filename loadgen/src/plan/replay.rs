//! What was recorded once, to be sent again: how it is asked for, and what its lines mean.
//!
//! [`ndjson`] and [`access`] look into a line, [`moment`] reads times, [`tempo`] says when a
//! recorded message is due again, [`screen`] puts them together: bytes of a line in, what becomes of
//! it out. Pure; files and threads are in [`crate::replay`].

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use proto::Level;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub mod access;
pub mod moment;
pub mod ndjson;
pub mod screen;
pub mod tempo;

/// A recording, and how it is sent again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// A file, or a folder of segments.
    pub path: PathBuf,
    /// `None`: told by its first lines.
    pub format: Option<Format>,
    /// Where a line's time stands; `None`: the first of [`ndjson::TIMESTAMP_FIELDS`] that is there.
    pub timestamp_field: Option<String>,
    /// How fast.
    pub speed: Speed,
    /// How often; 0 is until a bound ends it.
    pub loops: u64,
    /// From then on.
    pub from: Option<Edge>,
    /// Until before then.
    pub to: Option<Edge>,
    /// Only lines of this level and above.
    #[serde(with = "maybe_level")]
    pub level: Option<Level>,
}

impl Default for Replay {
    fn default() -> Replay {
        Replay {
            path: PathBuf::new(),
            format: None,
            timestamp_field: None,
            speed: Speed::ORIGINAL,
            loops: 1,
            from: None,
            to: None,
            level: None,
        }
    }
}

/// What kind of lines a recording has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line, with a timestamp.
    Ndjson,
    /// What Apache calls common.
    Common,
    /// The same with referrer and user agent, as nginx writes it.
    Combined,
}

impl Format {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Ndjson => "ndjson",
            Format::Common => "common",
            Format::Combined => "combined",
        }
    }

    /// Its lines are requests that a server has answered.
    pub fn is_access_log(self) -> bool {
        matches!(self, Format::Common | Format::Combined)
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        let all = [Format::Ndjson, Format::Common, Format::Combined];
        let known = all.into_iter().find(|format| format.as_str() == text);
        known.ok_or_else(|| format!("\"{text}\" is not ndjson, common or combined"))
    }
}

/// How fast a recording is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// So many thousandths of the speed at which it was recorded, at least 1.
    Thousandths(u64),
    /// As fast as the replies come; the recorded times only put it in order.
    Max,
}

/// A thousandth of the speed to a million times as fast.
const THOUSANDTHS_MAX: u64 = 1_000_000_000;

impl Speed {
    /// As it was recorded.
    pub const ORIGINAL: Speed = Speed::Thousandths(1000);
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        let wrong = || format!("\"{text}\" is not a speed like 2x, 0.5x or max");
        let number = text.strip_suffix('x').unwrap_or(text);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 3 || !is_number(whole) || !is_number(fraction) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let fraction: u64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
        let thousandths = whole.checked_mul(1000).and_then(|whole| whole.checked_add(fraction));
        match thousandths {
            Some(thousandths @ 1..=THOUSANDTHS_MAX) => Ok(Speed::Thousandths(thousandths)),
            _ => Err(format!("\"{text}\" is not 0.001x to 1000000x, or max")),
        }
    }
}

impl Display for Speed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Speed::Max => f.write_str("max"),
            Speed::Thousandths(thousandths) => match (thousandths / 1000, thousandths % 1000) {
                (whole, 0) => write!(f, "{whole}x"),
                (whole, fraction) => {
                    let fraction = format!("{fraction:03}");
                    write!(f, "{whole}.{}x", fraction.trim_end_matches('0'))
                }
            },
        }
    }
}

impl Serialize for Speed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Speed, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// One end of the part of a recording that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// At that time, ns since 1970.
    At(i64),
    /// So many ns behind the recording's first line.
    After(u64),
}

impl Edge {
    /// When that is, in a recording that begins at `first_ns`.
    pub fn at_ns(self, first_ns: i64) -> i64 {
        match self {
            Edge::At(at_ns) => at_ns,
            Edge::After(ns) => first_ns.saturating_add_unsigned(ns),
        }
    }
}

impl FromStr for Edge {
    type Err = String;

    fn from_str(text: &str) -> Result<Edge, String> {
        if let Some(behind) = text.strip_prefix('+') {
            let behind = runtime::units::seconds(behind)?;
            return Ok(Edge::After(crate::clock::nanos(behind)));
        }
        let bytes = text.as_bytes();
        let at_ns = moment::rfc3339(bytes).or_else(|| moment::epoch(bytes));
        at_ns.map(Edge::At).ok_or_else(|| {
            format!(
                "\"{text}\" is not a time like 2026-11-21T03:53:57Z, 2026-11-21, 1795233237, or \
                 +10m behind the first line"
            )
        })
    }
}

impl Display for Edge {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Edge::After(ns) if ns.is_multiple_of(1_000_000_000) => {
                write!(f, "+{}s", ns / 1_000_000_000)
            }
            Edge::After(ns) => {
                let fraction = format!("{:09}", ns % 1_000_000_000);
                write!(f, "+{}.{}s", ns / 1_000_000_000, fraction.trim_end_matches('0'))
            }
            Edge::At(ns) => match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
                Ok(at) => write!(f, "{at}"),
                Err(_) => write!(f, "{ns}"),
            },
        }
    }
}

impl Serialize for Edge {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Edge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Edge, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A level as its word.
mod maybe_level {
    use proto::Level;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        level: &Option<Level>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match level {
            Some(level) => to.serialize_str(level.as_str()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Level>, D::Error> {
        let word = Option::<String>::deserialize(from)?;
        word.map(|word| word.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_printed_the_same() {
        for (text, thousandths, printed) in [
            ("1x", 1000, "1x"),
            ("2x", 2000, "2x"),
            ("0.5x", 500, "0.5x"),
            ("1.25", 1250, "1.25x"),
            ("0.001x", 1, "0.001x"),
            ("1000000x", 1_000_000_000, "1000000x"),
        ] {
            let speed: Speed = text.parse().unwrap();
            assert_eq!(speed, Speed::Thousandths(thousandths), "{text}");
            assert_eq!(speed.to_string(), printed);
            assert_eq!(printed.parse(), Ok(speed));
        }
        assert_eq!("max".parse(), Ok(Speed::Max));
        for text in ["", "x", "0x", "0", "-1x", "1e3x", "2xx", "1.2345x", "1000001x", "fast", ".5x"]
        {
            let wrong = text.parse::<Speed>().unwrap_err();
            assert!(wrong.contains(&format!("\"{text}\"")), "{wrong}");
        }
    }

    #[test]
    fn edges_are_times_or_behind_the_first_line() {
        let edge = |text: &str| text.parse::<Edge>().unwrap();
        assert_eq!(edge("+90s"), Edge::After(90_000_000_000));
        assert_eq!(edge("+1.5s").to_string(), "+1.5s");
        assert_eq!(edge("+2m").at_ns(5), 120_000_000_005);
        assert_eq!(edge("1795233237"), edge("2026-11-21T03:53:57Z"));
        assert_eq!(edge("2026-11-21").to_string(), "2026-11-21T00:00:00Z");
        for text in ["+90s", "2026-11-21T03:53:57.5Z", "2026-11-21"] {
            assert_eq!(edge(&edge(text).to_string()), edge(text));
        }
        assert!("yesterday".parse::<Edge>().unwrap_err().contains("\"yesterday\""));
        assert!("+soon".parse::<Edge>().is_err());
    }

    #[test]
    fn json_and_back_is_the_same() {
        let replay = Replay {
            path: "a.gz".into(),
            format: Some(Format::Combined),
            speed: Speed::Thousandths(2500),
            loops: 0,
            from: Some(Edge::After(1)),
            to: Some(Edge::At(1_795_233_237_000_000_001)),
            level: Some(Level::Warn),
            ..Replay::default()
        };
        let text = serde_json::to_string(&replay).unwrap();
        assert_eq!(serde_json::from_str::<Replay>(&text).unwrap(), replay);
        for format in [Format::Ndjson, Format::Common, Format::Combined] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("clf".parse::<Format>().is_err());
    }
}
