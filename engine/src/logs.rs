//! The engine's own logs: `tracing` events on stderr, as text for people or JSON for machines.
//!
//! Owns the set-up; `limit` cuts repetitions, `outlet` carries lines to stderr. Events come from
//! start, stop, the sink and troubles, never from a line's way. Invariants: logging never blocks
//! the thread that logs, and a stderr that is full, closed or gone stops nothing.

mod limit;
mod outlet;

use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry;

use self::limit::{Limit, Limiting};
use self::outlet::Outlet;
use crate::config::{self, LogFormat, LogLevel};

/// How long the end of the program waits for a stderr that nobody reads.
const FLUSH: Duration = Duration::from_secs(1);
/// Events of the logs about the logs; never limited.
const OWN_TARGET: &str = "engine::logs";

static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// Sends events of this process to stderr, from now on. A second call changes nothing.
///
/// # Errors
/// No thread can be had for the writing.
pub fn start(format: LogFormat, level: LogLevel) -> std::io::Result<()> {
    if OUTLET.get().is_some() {
        return Ok(());
    }
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let limit = Arc::new(Limit::default());
    let outlet = Outlet::start(Box::new(std::io::stderr()), Arc::clone(&limit))?;
    // What libraries say matters only when it is trouble.
    let targets =
        Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("engine", level);
    let events = registry().with(targets).with(Limiting(limit));
    let line = layer().with_target(false).with_writer(outlet.clone());
    let set = match format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal() && !config::no_color();
            tracing::subscriber::set_global_default(events.with(line.with_ansi(ansi).boxed()))
        }
        LogFormat::Json => {
            let line = line.json().flatten_event(true).with_current_span(false);
            tracing::subscriber::set_global_default(events.with(line.with_span_list(false).boxed()))
        }
    };
    if set.is_ok() {
        let _ = OUTLET.set(outlet);
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            flush();
            say(panic);
        }));
    }
    Ok(())
}

/// Waits until what was logged so far is written, or for a second.
pub fn flush() {
    if let Some(outlet) = OUTLET.get() {
        outlet.flush(FLUSH);
    }
}

/// Collects what is logged, for tests.
#[cfg(test)]
#[derive(Clone)]
pub(crate) struct Collect(pub(crate) Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl std::io::Write for Collect {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Collect {
    type Writer = Collect;

    fn make_writer(&'a self) -> Collect {
        self.clone()
    }
}
