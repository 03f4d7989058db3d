//! `--out DIR`: a run as files, of use at any moment, however it ends.
//!
//! ```text
//! manifest.json    before the load: what was resolved, where, by which command
//! checkpoint.json  each second: a summary so far, verdict `interrupted`, without its series
//! series.csv       a row a second
//! latency.hlog     HdrHistogram's interval log: response, and tagged service and lag
//! summary.json     at the end; the checkpoint goes
//! ```
//!
//! Owns the folder from the first byte. Documents appear by rename, whole or not at all; rows are
//! appended. Manifest, summary and the ends of the rows are synced; a checkpoint is not, because a
//! sync each second would be load on the disk under test, and a killed process does not need it.
//! Invariant: a folder holds one run; and what cannot be written stops nothing, is said at once, and
//! once more at the end.

mod hlog;
mod series;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use loadgen::{Manifest, Outcome};
use serde::Serialize;

use self::hlog::Hlog;
pub(crate) use self::hlog::Three;
use self::series::Rows;
use super::seen::Seen;
use super::sink::{Crier, Place, Told};

const MANIFEST: &str = "manifest.json";
const CHECKPOINT: &str = "checkpoint.json";
const SUMMARY: &str = "summary.json";
const SERIES: &str = "series.csv";
const HLOG: &str = "latency.hlog";

/// Why a folder cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It holds something.
    Taken(String),
    /// It cannot be made or written.
    Unusable(String),
}

/// The folder of a run.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    command: Vec<String>,
    crier: Crier,
    manifest: Option<Manifest>,
    series: Option<Rows>,
    hlog: Option<Hlog>,
    /// What went wrong first, by file.
    troubles: Vec<(&'static str, String)>,
}

/// `manifest.json`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    command: &'a [String],
}

impl Folder {
    /// Makes `path`, which may exist only if it is empty; `command` is what was typed.
    ///
    /// # Errors
    /// It holds something, or cannot be written.
    pub(crate) fn open(path: &Path, command: Vec<String>, crier: Crier) -> Result<Folder, Refused> {
        let shown = path.display();
        let unusable =
            |error: io::Error| Refused::Unusable(format!("cannot write to {shown} (OUT): {error}"));
        fs::create_dir_all(path).map_err(unusable)?;
        let mut names: Vec<String> = fs::read_dir(path)
            .map_err(unusable)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
            .map_err(unusable)?;
        names.sort();
        if let Some(name) = names.first() {
            let what = if names.iter().any(|name| name == MANIFEST) {
                "holds a run already".to_owned()
            } else {
                format!("is not empty: {name} is in it")
            };
            return Err(Refused::Taken(format!("{shown} (OUT) {what}; name a folder of its own")));
        }
        // Of two that come at the same time one gets it.
        let made = OpenOptions::new().write(true).create_new(true).open(path.join(MANIFEST));
        match made {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let text = format!("{shown} (OUT) holds a run already; name a folder of its own");
                return Err(Refused::Taken(text));
            }
            Err(error) => return Err(unusable(error)),
        }
        // The run may change its directory; the folder stays where it is.
        let path = fs::canonicalize(path).map_err(unusable)?;
        let (manifest, series, hlog) = (None, None, None);
        Ok(Folder { path, command, crier, manifest, series, hlog, troubles: Vec::new() })
    }

    fn begin(&mut self, manifest: &Manifest) {
        let document = Document { manifest, command: &self.command };
        let written = self.put(MANIFEST, &document, Sync::Yes);
        self.note(MANIFEST, written);
        let series = Rows::create(&self.path.join(SERIES));
        self.series = self.note(SERIES, series);
        let hlog = Hlog::create(&self.path.join(HLOG), manifest);
        self.hlog = self.note(HLOG, hlog);
        self.manifest = Some(manifest.clone());
    }

    fn second(&mut self, seen: &Seen) {
        if let Some(mut series) = self.series.take() {
            let written = series.append(&seen.second);
            self.series = self.note(SERIES, written.map(|()| series));
        }
        let Some(kept) = &seen.kept else { return };
        if let Some(mut hlog) = self.hlog.take() {
            let written = hlog.append(seen.second.end_ns, &kept.latencies);
            self.hlog = self.note(HLOG, written.map(|()| hlog));
        }
        if let Some(checkpoint) = &kept.checkpoint {
            let written = self.put(CHECKPOINT, checkpoint, Sync::No);
            self.note(CHECKPOINT, written);
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        if let Some(series) = self.series.take() {
            let written = series.finish(&outcome.summary.series);
            self.note(SERIES, written);
        }
        if let Some(hlog) = self.hlog.take() {
            let written = hlog.finish(&outcome.summary);
            self.note(HLOG, written);
        }
        let written = self.put(SUMMARY, &outcome.summary, Sync::Yes);
        if self.note(SUMMARY, written).is_some() {
            // What it said, and more, stands in the summary.
            let _ = fs::remove_file(self.path.join(CHECKPOINT));
        }
    }

    /// A document, whole or not at all.
    fn put(&self, name: &str, document: &impl Serialize, sync: Sync) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}.tmp"));
        let mut text = serde_json::to_vec_pretty(document)?;
        text.push(b'\n');
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&text)?;
            if sync == Sync::Yes { file.sync_all() } else { Ok(()) }
        });
        let renamed = written.and_then(|()| fs::rename(&temporary, self.path.join(name)));
        if renamed.is_err() {
            // A full disk has no room for half a document.
            let _ = fs::remove_file(&temporary);
        }
        renamed?;
        if sync == Sync::Yes { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }

    /// Says what went wrong with a file, the first time.
    fn note<T>(&mut self, name: &'static str, result: io::Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if !self.troubles.iter().any(|(known, _)| *known == name) {
            let path = self.path.join(name);
            let text = format!("cannot write {} (OUT): {error}", path.display());
            self.crier.warn(&format!("{text}; the load goes on"));
            self.troubles.push((name, text));
        }
        None
    }
}

/// A file that grows by whole lines.
#[derive(Debug)]
struct Growing {
    file: File,
    whole_bytes: u64,
}

impl Growing {
    fn create(path: &Path) -> io::Result<Growing> {
        Ok(Growing { file: File::create(path)?, whole_bytes: 0 })
    }

    /// All of `text`, or nothing: what a full disk left of it is cut off.
    fn append(&mut self, text: &str) -> io::Result<()> {
        let written = self.file.write_all(text.as_bytes());
        match written {
            Ok(()) => self.whole_bytes += text.len() as u64,
            Err(_) => drop(self.file.set_len(self.whole_bytes)),
        }
        written
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    Yes,
    No,
}

impl Place for Folder {
    fn tell(&mut self, told: &Told) {
        match told {
            Told::Started(manifest) => self.begin(manifest),
            Told::Second(seen) => self.second(seen),
            Told::Warning(_) => {}
            Told::Ended(ending) => {
                if let Some(outcome) = &ending.outcome {
                    self.end(outcome);
                }
            }
        }
    }

    fn close(self) -> Result<(), String> {
        if self.manifest.is_none() {
            // Nothing has begun: leave nothing.
            let _ = fs::remove_file(self.path.join(MANIFEST));
            let _ = fs::remove_dir(&self.path);
            return Ok(());
        }
        if self.troubles.is_empty() {
            return Ok(());
        }
        let texts: Vec<&str> = self.troubles.iter().map(|(_, text)| text.as_str()).collect();
        Err(texts.join("; "))
    }
}
