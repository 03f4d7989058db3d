//! The summary at the end: as text, and as one JSON document.
//!
//! Owns stdout and stderr while nothing else has them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use loadgen::Outcome;

/// Where the JSON document goes. A file is opened before the run.
#[derive(Debug)]
pub(crate) enum Json {
    /// `-`: then the text goes to stderr.
    Stdout,
    /// A file, and its name.
    File(File, PathBuf),
}

impl Json {
    /// Opens it; what is there stays until there is something better.
    pub(crate) fn open(path: &Path) -> Result<Json, String> {
        if path.as_os_str() == "-" {
            return Ok(Json::Stdout);
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| cannot_write(path, &error))?;
        Ok(Json::File(file, path.to_owned()))
    }
}

/// Prints the summary where it belongs: the text to stdout, unless that is taken.
pub(crate) fn report(
    outcome: &Outcome,
    json: Option<Json>,
    has_stdout: bool,
) -> Result<(), String> {
    let mut text = outcome.summary.text();
    for remark in &outcome.remarks {
        text.push_str(&format!("  remark     {remark}\n"));
    }
    let document = || {
        let text = serde_json::to_string_pretty(&outcome.summary);
        text.expect("a summary is plain data") + "\n"
    };
    let is_stdout_json = matches!(json, Some(Json::Stdout));
    // The text first: a full disk must not take it away.
    if has_stdout && !is_stdout_json {
        to_stdout(&text)?;
    } else {
        to_stderr(&text);
    }
    match json {
        None => Ok(()),
        Some(Json::Stdout) => to_stdout(&document()),
        Some(Json::File(mut file, path)) => {
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

/// Writes all of it.
pub(crate) fn to_stdout(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| format!("cannot write to stdout: {error}"))
}

/// A stderr that is gone stops nothing.
pub(crate) fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
