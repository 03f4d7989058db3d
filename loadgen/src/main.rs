//! `logboom-loadgen`: reads the knobs, runs, prints, exits. Nothing else prints or exits.
//!
//! The summary goes to stdout as text, or with `--json -` as exactly one JSON document; everything
//! else goes to stderr.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use loadgen::{Args, Config, Outcome, Progress};
use runtime::exit_code;
use runtime::stop::Stop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // clap answers --help and --version, and exits 2 with the knob's name for a wrong value.
    let args = Args::parse();
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            return complain(
                &format!("cannot listen to signals: {error}"),
                exit_code::CANNOT_START,
            );
        }
    };
    let mut print = |progress: &Progress| {
        if !args.quiet {
            to_stderr(&format!("{progress}\n"));
        }
    };
    match loadgen::run(&Config::from(&args), &stop, &mut print) {
        Ok(outcome) => report(&outcome, args.json.as_deref()),
        Err(error) => complain(&error.to_string(), error.exit_code()),
    }
}

/// Prints the summary where it belongs.
fn report(outcome: &Outcome, json: Option<&Path>) -> ExitCode {
    let mut text = outcome.summary.text();
    for remark in &outcome.remarks {
        text.push_str(&format!("  remark     {remark}\n"));
    }
    let Some(path) = json else {
        return written("stdout", to_stdout(&text), outcome.exit_code);
    };
    let document = serde_json::to_string_pretty(&outcome.summary).expect("a summary is plain data");
    if path.as_os_str() == "-" {
        to_stderr(&text);
        return written("stdout", to_stdout(&format!("{document}\n")), outcome.exit_code);
    }
    // The text first: a full disk must not take it away.
    let printed = to_stdout(&text);
    let saved = std::fs::write(path, format!("{document}\n"));
    if saved.is_err() {
        return written(&format!("{} (--json)", path.display()), saved, outcome.exit_code);
    }
    written("stdout", printed, outcome.exit_code)
}

fn written(what: &str, result: std::io::Result<()>, exit_code: u8) -> ExitCode {
    match result {
        Ok(()) => exit_code.into(),
        Err(error) => complain(&format!("cannot write {what}: {error}"), exit_code::BROKE),
    }
}

fn complain(text: &str, exit_code: u8) -> ExitCode {
    to_stderr(&format!("logboom-loadgen: {text}\n"));
    exit_code.into()
}

fn to_stdout(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A stderr that is gone stops nothing.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
