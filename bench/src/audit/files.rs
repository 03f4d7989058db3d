//! Reads the segments of a LOG_DIR into an audit, on as many threads as cpus are free.
//!
//! Owns where segments lie (`LOG_DIR/shard-*/*.ndjson`, packed ones with `.zst` behind it) and how
//! they are read: in order of name, each by one thread, with the kernel told that we read forward
//! once. Invariant: where one is there plain and packed, the plain one is read, and only that.

use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{io, thread};

use loadgen::ledger::Ledger;
use proto::packed;
use rustix::fs::{Advice, fadvise};

use super::{Audit, End, Tally};
use crate::error::Error;

/// The segments below `log_dir`, in the order of their names, by the plain ones' names.
///
/// # Errors
/// A folder that cannot be read.
pub fn segments(log_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut segments = Vec::new();
    for shard in list(log_dir)? {
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("shard-") && shard.is_dir() {
            let plain = |path: PathBuf| {
                let name = packed::plain_name(path.file_name()?.to_str()?);
                name.ends_with(".ndjson").then(|| path.with_file_name(name))
            };
            segments.extend(list(&shard)?.into_iter().filter_map(plain));
        }
    }
    segments.sort();
    segments.dedup();
    Ok(segments)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|source| Error::Segments { path: folder.to_owned(), source })
}

/// Reads all `segments` and holds them against the ledger, on up to `threads` threads.
///
/// # Errors
/// The first segment that cannot be read.
pub fn audit_files(
    ledger: &Ledger,
    segments: &[PathBuf],
    end: End,
    threads: NonZero<usize>,
) -> Result<Audit, Error> {
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let read_some = || {
        let mut tally = Tally::new(ledger);
        // One thread takes one segment at a time, whichever is next.
        while let Some(path) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            read_file(&mut tally, path, end)
                .map_err(|source| Error::Segments { path: path.clone(), source })?;
        }
        Ok::<Tally, Error>(tally)
    };
    let helpers = threads.get().min(segments.len()).saturating_sub(1);
    let tally = thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(read_some)).collect();
        let mut tally = read_some()?;
        for helper in helpers {
            let other = helper.join().expect("a reader of segments does not panic")?;
            tally.merge(&other);
        }
        Ok::<Tally, Error>(tally)
    })?;
    let mut audit = tally.finish(ledger);
    audit.duration_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(audit)
}

fn read_file(tally: &mut Tally, path: &Path, end: End) -> io::Result<()> {
    let (file, name) = match File::open(path) {
        Ok(file) => (file, ""),
        // A packed one comes before the plain one goes.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut packed = path.as_os_str().to_owned();
            packed.push(packed::ENDING);
            (File::open(packed)?, packed::ENDING)
        }
        Err(error) => return Err(error),
    };
    // Doubles the kernel's read-ahead; a file system that refuses advice is read all the same.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    tally.read(packed::Content::of(name, &file)?, end)
}
