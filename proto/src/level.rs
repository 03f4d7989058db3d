//! The severity of a message: six levels, eight spellings, any case. Leaves to others where the
//! word stands in a line (`record`) and which level is let through (the engine's configuration).

use std::fmt;
use std::str::FromStr;

/// Severity, ordered: `Level::Trace < Level::Critical`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

/// Every accepted spelling, for messages to humans.
pub const SPELLINGS: &str = "TRACE DEBUG INFO WARN WARNING ERROR CRITICAL FATAL";

impl Level {
    /// All levels, in order.
    pub const ALL: [Level; 6] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical];

    /// Reads one of the eight spellings in any case; WARNING is `Warn`, FATAL is `Critical`.
    #[must_use]
    #[inline]
    pub fn parse(text: &[u8]) -> Option<Level> {
        // Bit 5 is the case of an ASCII letter, and only a letter becomes a letter without it.
        fn upper<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
            Some(<[u8; N]>::try_from(text).ok()?.map(|byte| byte & !0x20))
        }
        match text.len() {
            4 => match &upper(text)? {
                b"INFO" => Some(Level::Info),
                b"WARN" => Some(Level::Warn),
                _ => None,
            },
            5 => match &upper(text)? {
                b"DEBUG" => Some(Level::Debug),
                b"ERROR" => Some(Level::Error),
                b"TRACE" => Some(Level::Trace),
                b"FATAL" => Some(Level::Critical),
                _ => None,
            },
            7 => (&upper(text)? == b"WARNING").then_some(Level::Warn),
            8 => (&upper(text)? == b"CRITICAL").then_some(Level::Critical),
            _ => None,
        }
    }

    /// The canonical spelling, upper case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no level.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("level {0:?} is not one of {SPELLINGS}")]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Level, UnknownLevel> {
        Level::parse(text.as_bytes()).ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_in_any_case() {
        let expected = [
            Level::Trace,
            Level::Debug,
            Level::Info,
            Level::Warn,
            Level::Warn,
            Level::Error,
            Level::Critical,
            Level::Critical,
        ];
        for (word, level) in SPELLINGS.split(' ').zip(expected) {
            let mixed: String = word
                .chars()
                .enumerate()
                .map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c })
                .collect();
            for spelling in [word.to_owned(), word.to_lowercase(), mixed] {
                assert_eq!(Level::parse(spelling.as_bytes()), Some(level), "{spelling}");
            }
        }
    }

    #[test]
    fn anything_else_is_no_level() {
        for word in [
            "", "LOUD", "INF", "INFOS", " INFO", "INFO ", "warnin", "ınfo", "5", "IN\u{6}O",
            "\tNFO",
        ] {
            assert_eq!(Level::parse(word.as_bytes()), None, "{word}");
        }
        assert_eq!(
            "LOUD".parse::<Level>().unwrap_err().to_string(),
            format!("level \"LOUD\" is not one of {SPELLINGS}")
        );
    }

    #[test]
    fn a_level_reads_back_its_own_name_and_they_are_ordered() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!(Level::ALL.is_sorted());
    }
}
