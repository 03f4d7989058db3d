//! `logboom-loadgen`: reads the knobs, runs, prints, exits. Nothing else prints or exits.
//!
//! The summary goes to stdout as text, or with `--json -` as exactly one JSON document; everything
//! else goes to stderr.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use loadgen::config::{self, Wrong};
use loadgen::{Outcome, Progress};
use runtime::exit_code;
use runtime::stop::Stop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (args, config) = match config::read(std::env::args_os()) {
        Ok(read) => read,
        // clap answers --help and --version, and exits 2 with the knob's name for a wrong value.
        Err(Wrong::Line(error)) => error.exit(),
        Err(Wrong::Run(error)) => return complain(&error.to_string(), error.exit_code()),
    };
    let json = match args.json.as_deref().map(Json::open).transpose() {
        Ok(json) => json,
        Err(error) => return complain(&error, exit_code::CANNOT_START),
    };
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            return complain(&format!("cannot catch signals: {error}"), exit_code::CANNOT_START);
        }
    };
    let mut print = |progress: &Progress| {
        if !args.quiet {
            to_stderr(&format!("{progress}\n"));
        }
    };
    let outcome = match loadgen::run(&config, &stop, &mut print) {
        Ok(outcome) => outcome,
        Err(error) => return complain(&error.to_string(), error.exit_code()),
    };
    match report(&outcome, json) {
        Ok(()) => outcome.exit_code.into(),
        Err(error) => complain(&error, exit_code::BROKE),
    }
}

/// Where the JSON document goes. A file is opened before the run: better no run than one whose
/// result cannot be written.
enum Json {
    Stdout,
    File(File, PathBuf),
}

impl Json {
    fn open(path: &Path) -> Result<Json, String> {
        if path.as_os_str() == "-" {
            return Ok(Json::Stdout);
        }
        // Not truncated yet: what is there is of use until there is something better.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| cannot_write(path, &error))?;
        Ok(Json::File(file, path.to_owned()))
    }
}

/// Prints the summary where it belongs.
fn report(outcome: &Outcome, json: Option<Json>) -> Result<(), String> {
    let mut text = outcome.summary.text();
    for remark in &outcome.remarks {
        text.push_str(&format!("  remark     {remark}\n"));
    }
    let document = || {
        let text = serde_json::to_string_pretty(&outcome.summary);
        text.expect("a summary is plain data") + "\n"
    };
    match json {
        None => to_stdout(&text),
        Some(Json::Stdout) => {
            to_stderr(&text);
            to_stdout(&document())
        }
        Some(Json::File(mut file, path)) => {
            // The text first: a full disk must not take it away.
            to_stdout(&text)?;
            let document = document();
            let written = file.write_all(document.as_bytes());
            // Cut to its length, where it is a file and not, say, a pipe.
            let _ = file.set_len(document.len() as u64);
            written.map_err(|error| cannot_write(&path, &error))
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {} (--json): {error}", path.display())
}

fn complain(text: &str, exit_code: u8) -> ExitCode {
    to_stderr(&format!("logboom-loadgen: {text}\n"));
    exit_code.into()
}

fn to_stdout(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to stdout: {error}"))
}

/// A stderr that is gone stops nothing.
fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
