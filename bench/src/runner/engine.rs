//! The engine as a child: started, known to be ready, stopped, and asked for its totals.
//!
//! Owns the child and the folder of one tier. Leaves what the totals mean to [`crate::judge`].

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::confine::Confined;
use crate::error::Error;

/// The engine must listen within this time; recovery of an empty folder takes none.
const READY_SECS: u64 = 20;
/// DRAIN_SECS of the engine (30), and some more.
const STOP_SECS: u64 = 40;
const POLL: Duration = Duration::from_millis(2);

/// What the engine says when it listens (READY_FILE).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ready {
    pub host: String,
    pub port: u16,
    pub shards: usize,
}

/// What the engine counted, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub received: u64,
    pub ok: u64,
    pub filtered: u64,
    pub error: u64,
    pub in_flight: u64,
}

/// A running engine with a folder of its own.
#[derive(Debug)]
pub struct Engine {
    child: Confined,
    last_line: Option<JoinHandle<String>>,
    ready: Ready,
}

impl Engine {
    /// Starts `program` on `cpus` with its files in `folder`, and waits until it listens.
    ///
    /// `give_up` is asked while waiting; None comes back when it says so.
    ///
    /// # Errors
    /// It ended, or did not listen in time.
    pub fn start(
        program: &Path,
        variables: &[(String, String)],
        folder: &Path,
        cpus: &[usize],
        give_up: impl Fn() -> bool,
    ) -> Result<Option<Engine>, Error> {
        let ready_file = folder.join("ready.json");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut all: Vec<(String, String)> = [
            ("SERVER_HOST", "127.0.0.1".to_owned()),
            ("SERVER_PORT", "0".to_owned()),
            // The default port may be taken by an engine in service.
            ("ADMIN_PORT", "0".to_owned()),
            ("LOG_DIR", text(&log_dir(folder))),
            ("READY_FILE", text(&ready_file)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        all.extend_from_slice(variables);
        let mut child = Confined::start("the engine", program, &[], &all, cpus, |_| false)?;
        let (_, stdout) = child.streams();
        let last_line = thread::Builder::new()
            .name("engine-stdout".into())
            .spawn(|| last_line(stdout))
            .map_err(|source| Error::Spawn { what: "the engine", source })?;
        let deadline = Instant::now() + Duration::from_secs(READY_SECS);
        loop {
            if let Some(status) = child.ended() {
                return Err(Error::EngineStart { status, said: child.said() });
            }
            // The file is renamed into place, so it is either absent or whole.
            let ready = std::fs::read(&ready_file).ok();
            if let Some(ready) = ready.and_then(|text| serde_json::from_slice(&text).ok()) {
                return Ok(Some(Engine { child, last_line: Some(last_line), ready }));
            }
            if give_up() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err(Error::EngineNotReady { seconds: READY_SECS, said: child.said() });
            }
            thread::sleep(POLL);
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The error that says how it ended, if it has although nobody asked it to.
    pub fn died(&mut self, tier: &'static str) -> Option<Error> {
        let status = self.child.ended()?;
        Some(Error::EngineDied { tier, status, said: self.child.said() })
    }

    /// Asks it to end, and reads what it counted.
    ///
    /// # Errors
    /// It had died, does not end, ends with another code than 0, or prints no totals.
    pub fn stop(mut self, tier: &'static str) -> Result<Totals, Error> {
        if let Some(error) = self.died(tier) {
            return Err(error);
        }
        self.child.signal(Signal::TERM);
        let Some(status) = self.child.wait(Duration::from_secs(STOP_SECS)) else {
            return Err(Error::EngineHangs { seconds: STOP_SECS, said: self.child.said() });
        };
        if !status.success() {
            return Err(Error::EngineEnd { status, said: self.child.said() });
        }
        let last_line = self.last_line.take().expect("joined once").join();
        totals(&last_line.unwrap_or_default())
            .map_err(|why| Error::EngineTotals { why, said: self.child.said() })
    }
}

/// Where the engine of a tier with this folder keeps its segments.
pub fn log_dir(folder: &Path) -> PathBuf {
    folder.join("logs")
}

fn totals(line: &str) -> Result<Totals, String> {
    #[derive(Deserialize)]
    struct Line {
        totals: Totals,
    }
    let parsed: Result<Line, _> = serde_json::from_str(line);
    parsed.map(|line| line.totals).map_err(|error| format!("{error} in the last line {line:?}"))
}

/// Reads to the end and keeps the last line that is not blank.
fn last_line(stdout: ChildStdout) -> String {
    const LINE_BYTES_MAX: u64 = 64 * 1024;
    let mut stdout = BufReader::new(stdout);
    let (mut last, mut line) = (String::new(), Vec::new());
    loop {
        line.clear();
        match stdout.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return last,
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) => last = String::from_utf8_lossy(&line).trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_and_what_is_new_in_them_is_ignored() {
        let line = r#"{"totals":{"received":9,"ok":5,"filtered":3,"error":1,"in_flight":0,"x":1}}"#;
        let expected = Totals { received: 9, ok: 5, filtered: 3, error: 1, in_flight: 0 };
        assert_eq!(totals(line), Ok(expected));
        assert!(totals("stopped").unwrap_err().contains("stopped"));
    }
}
