//! What a person or a program sees of a run, while it goes on and afterwards.
//!
//! ```text
//!              ┌─> screen   stderr: live view, a line a second, or nothing
//! run ─told──> ├─> events   stdout: a JSON object a line
//!              ├─> folder   DIR: documents, rows, histograms
//!              └─> at the end: the summary as text, and as JSON
//! ```
//!
//! Owns the places and their order at the end. Only `main` uses it, and nothing on a shard knows it.
//! Invariant: stdout is exactly one thing: the text, one JSON document (`--json -`), or events; and
//! whatever cannot be written stops no load, is said, and makes the exit code 1.

pub(crate) mod ask;
mod document;
mod events;
mod folder;
mod live;
mod screen;
mod seen;
mod sink;

use std::path::PathBuf;
use std::sync::Arc;

use loadgen::config::Args;
use loadgen::measure::validity::Validity;
use loadgen::metrics::Shown;
use loadgen::{Error, Manifest, Observer, Outcome, Progress};
use runtime::exit_code;

use self::document::{Json, to_stderr};
use self::events::Events;
use self::folder::{Folder, Refused};
use self::screen::Screen;
use self::seen::{Pace, Seen};
use self::sink::{Crier, Ending, Sink, Told};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// JSON: a file, or `-`.
    pub(crate) json: Option<PathBuf>,
    /// OUT: a folder.
    pub(crate) out: Option<PathBuf>,
    /// EVENTS: as NDJSON on stdout.
    pub(crate) has_events: bool,
    /// METRICS_HOST and METRICS_PORT: the figures for Prometheus.
    pub(crate) metrics: Option<(String, u16)>,
    /// QUIET: nothing while it goes on.
    pub(crate) is_quiet: bool,
    /// The words of the command.
    pub(crate) command: Vec<String>,
}

impl Asked {
    /// By the command line.
    pub(crate) fn by(args: &Args) -> Asked {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
        Asked {
            json: args.json.clone(),
            out: args.out.clone(),
            has_events: args.events.is_some(),
            metrics: args.metrics_port.map(|port| (args.metrics_host.clone(), port)),
            is_quiet: args.quiet,
            command: words.collect(),
        }
    }
}

/// The places of one run.
#[derive(Debug)]
pub(crate) struct Output {
    screen: Sink,
    events: Option<Sink>,
    folder: Option<Sink>,
    json: Option<Json>,
    metrics: Option<Shown>,
    manifest: Option<Arc<Manifest>>,
    pace: Pace,
}

/// A text and the exit code that belongs to it.
pub(crate) type Failed = (String, u8);

impl Output {
    /// Opens everything that will be written: better no run than one whose result cannot be kept.
    ///
    /// # Errors
    /// Two want stdout, a folder that holds a run, a file that cannot be written.
    pub(crate) fn open(asked: Asked) -> Result<Output, Failed> {
        let no_thread = |error| (format!("no thread for output: {error}"), exit_code::CANNOT_START);
        if asked.has_events && asked.json.as_deref().is_some_and(|path| path.as_os_str() == "-") {
            let text = "EVENTS and JSON - both want stdout: name a file for JSON, or leave it out \
                        (the event `ended` has the summary)";
            return Err((text.to_owned(), exit_code::USAGE));
        }
        let json = asked.json.as_deref().map(Json::open).transpose();
        let json = json.map_err(|text| (text, exit_code::CANNOT_START))?;
        let metrics = asked.metrics.map(|(host, port)| Shown::open(&host, port));
        let metrics =
            metrics.transpose().map_err(|error| (error.to_string(), error.exit_code()))?;
        if let Some(metrics) = &metrics {
            complain(&format!("metrics at {}", metrics.url()));
        }
        let screen = Sink::start("screen", Screen::open(asked.is_quiet)).map_err(no_thread)?;
        let events = asked.has_events.then(|| {
            let crier = Crier::default().and(&screen);
            Sink::start("events", Events::stdout(crier)).map_err(no_thread)
        });
        let events = events.transpose()?;
        let folder = asked.out.map(|path| {
            let mut crier = Crier::default().and(&screen);
            if let Some(events) = &events {
                crier = crier.and(events);
            }
            let folder =
                Folder::open(&path, asked.command, crier).map_err(|error| match error {
                    Refused::Taken(text) => (text, exit_code::USAGE),
                    Refused::Unusable(text) => (text, exit_code::CANNOT_START),
                })?;
            Sink::start("folder", folder).map_err(no_thread)
        });
        let folder = folder.transpose()?;
        Ok(Output { screen, events, folder, json, metrics, manifest: None, pace: Pace::default() })
    }

    fn tell(&self, told: &Told) {
        for sink in [Some(&self.screen), self.events.as_ref(), self.folder.as_ref()] {
            sink.into_iter().for_each(|sink| sink.tell(told.clone()));
        }
    }

    /// The end of a run, or why there was none: tells it everywhere. Gives the exit code.
    pub(crate) fn finish(self, result: Result<Outcome, Error>) -> u8 {
        let mut ending = match result {
            Ok(outcome) => {
                let exit_code = outcome.exit_code;
                Ending { outcome: Some(outcome), exit_code, error: None }
            }
            Err(error) => {
                let exit_code = error.exit_code();
                Ending { outcome: None, exit_code, error: Some(error.to_string()) }
            }
        };
        // The folder first: the others tell what became of it.
        let mut troubles = Vec::new();
        let told = |ending: &Ending| Some(Told::Ended(Arc::new(ending.clone())));
        if let Some(folder) = self.folder {
            note(folder.end(told(&ending)), &mut troubles, &mut ending);
        }
        if let Some(events) = &self.events {
            troubles.iter().for_each(|text| events.tell(Told::Warning(text.as_str().into())));
        }
        let has_stdout = self.events.is_none();
        if let Some(events) = self.events {
            note(events.end(told(&ending)), &mut troubles, &mut ending);
        }
        note(self.screen.end(told(&ending)), &mut troubles, &mut ending);

        if let Some(outcome) = &ending.outcome {
            let told = document::report(outcome, self.json, has_stdout);
            note(told, &mut troubles, &mut ending);
        }
        for text in ending.error.iter().chain(&troubles) {
            complain(text);
        }
        ending.exit_code
    }
}

fn note(result: Result<(), String>, troubles: &mut Vec<String>, ending: &mut Ending) {
    if let Err(text) = result {
        troubles.push(text);
        ending.exit_code = exit_code::BROKE;
    }
}

/// One line on stderr.
pub(crate) fn complain(text: &str) {
    to_stderr(&format!("logboom-loadgen: {text}\n"));
}

/// An answer on stdout. Gives the exit code.
pub(crate) fn say(text: &str) -> u8 {
    match document::to_stdout(text) {
        Ok(()) => exit_code::PASS,
        Err(error) => {
            complain(&error);
            exit_code::BROKE
        }
    }
}

impl Observer for Output {
    fn started(&mut self, manifest: &Manifest) {
        if let Some(metrics) = &mut self.metrics {
            metrics.started(manifest);
        }
        let manifest = Arc::new(manifest.clone());
        self.tell(&Told::Started(manifest.clone()));
        self.manifest = Some(manifest);
    }

    fn second(&mut self, progress: &Progress<'_>) {
        if let Some(metrics) = &mut self.metrics {
            metrics.second(progress);
        }
        let mut seen = Seen::of(progress);
        if let (Some(_), Some(manifest)) = (&self.folder, &self.manifest) {
            seen.kept = Some(self.pace.keep(progress, manifest));
        }
        self.tell(&Told::Second(Arc::new(seen)));
    }

    fn wants_judgement(&self) -> bool {
        self.metrics.as_ref().is_some_and(Shown::wants_judgement)
    }

    fn judged(&mut self, so_far: &Validity) {
        if let Some(metrics) = &mut self.metrics {
            metrics.judged(so_far);
        }
    }
}
