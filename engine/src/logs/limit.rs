//! Cuts repetitions: the same message of the same place at most [`TIMES_MAX`] times in [`PERIOD`],
//! then one line that says how many were cut.
//!
//! Pure but for the lock around its table; the clock is handed in. Invariant: what is cut is
//! counted and told, and the table is bounded by [`KINDS_MAX`] and the number of places that log.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::OWN_TARGET;

/// How often a message may be repeated in [`PERIOD`].
const TIMES_MAX: u32 = 5;
/// From the first of a kind; the next one begins a new period.
const PERIOD: Duration = Duration::from_secs(10);
/// Different messages at a time; beyond it those of one place count as the same.
const KINDS_MAX: usize = 256;
/// So much of a message is kept, to name what was cut.
const NAME_BYTES_MAX: usize = 120;

/// Where in the code a message comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    file: Option<&'static str>,
    line: Option<u32>,
}

/// A message and the place that logs it.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    place: Place,
    /// `None` once there are too many kinds.
    message: Option<u64>,
}

struct Period {
    began: Instant,
    level: Level,
    name: String,
    passed: u32,
    cut: u64,
}

/// What was cut in a period that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub level: Level,
    /// The message, or its beginning.
    pub name: String,
    pub times: u64,
}

/// What was said lately.
#[derive(Default)]
pub(super) struct Limit {
    periods: Mutex<HashMap<Kind, Period>>,
}

impl Limit {
    /// Whether this message may be said now.
    fn admits(&self, place: Place, level: Level, message: &str, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let mut kind = Kind { place, message: Some(hasher.finish()) };
        let mut periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        if periods.len() >= KINDS_MAX && !periods.contains_key(&kind) {
            kind.message = None;
        }
        let period = periods.entry(kind).or_insert_with(|| Period {
            began: now,
            level,
            name: beginning(message),
            passed: 0,
            cut: 0,
        });
        if period.passed < TIMES_MAX {
            period.passed += 1;
            return true;
        }
        period.cut += 1;
        false
    }

    /// Ends the periods that are over and gives what they cut; everything counts as over when
    /// `now` is `None`. Until this is called a period goes on.
    pub(super) fn sweep(&self, now: Option<Instant>) -> Vec<Cut> {
        let mut cuts = Vec::new();
        self.periods.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, period| {
            let over = now.is_none_or(|now| now.saturating_duration_since(period.began) >= PERIOD);
            if over && period.cut > 0 {
                let name = std::mem::take(&mut period.name);
                cuts.push(Cut { level: period.level, name, times: period.cut });
            }
            !over
        });
        cuts
    }
}

fn beginning(message: &str) -> String {
    if message.len() <= NAME_BYTES_MAX {
        return message.to_owned();
    }
    format!("{}…", &message[..message.floor_char_boundary(NAME_BYTES_MAX)])
}

/// The limit as a layer over every event.
pub(super) struct Limiting(pub(super) Arc<Limit>);

impl<S: Subscriber> Layer<S> for Limiting {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == OWN_TARGET {
            return true;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let place = Place { file: metadata.file(), line: metadata.line() };
        self.0.admits(place, *metadata.level(), &message.0, Instant::now())
    }
}

/// The text of an event, without its fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { file: Some("here.rs"), line: Some(1) };

    #[test]
    fn a_repeated_message_is_cut_and_told_once_its_period_is_over() {
        let limit = Limit::default();
        let began = Instant::now();
        let said = (0..100).filter(|_| limit.admits(HERE, Level::WARN, "no", began)).count();
        assert_eq!(said, 5);
        assert!(limit.admits(HERE, Level::WARN, "another", began));
        assert_eq!(limit.sweep(Some(began + PERIOD / 2)), []);
        assert!(!limit.admits(HERE, Level::WARN, "no", began + PERIOD / 2));
        let cut = Cut { level: Level::WARN, name: "no".into(), times: 96 };
        assert_eq!(limit.sweep(Some(began + PERIOD)), [cut]);
        assert!(limit.admits(HERE, Level::WARN, "no", began + PERIOD), "a new period");
    }

    #[test]
    fn ever_new_messages_neither_grow_the_table_nor_escape_the_limit() {
        let limit = Limit::default();
        let now = Instant::now();
        let said =
            (0..10_000).filter(|n| limit.admits(HERE, Level::INFO, &n.to_string(), now)).count();
        assert_eq!(said, KINDS_MAX + 5);
        let cut: u64 = limit.sweep(None).iter().map(|cut| cut.times).sum();
        assert_eq!(said as u64 + cut, 10_000);
    }

    #[test]
    fn a_long_message_is_named_by_its_beginning() {
        let name = beginning(&"ä".repeat(200));
        assert!(name.ends_with('…') && name.len() <= NAME_BYTES_MAX + 3, "{name}");
    }
}
