//! Writes report.json: into a folder of its own per run, and wherever else it was asked for.
//!
//! Invariant: a report file is whole or absent; it is written beside its place and renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Report;
use crate::error::Error;

/// The document as text, ended by a newline.
pub fn render(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report is plain data");
    text.push('\n');
    text
}

/// Writes `text` to `<results>/<UTC time>/report.json` and gives that path.
///
/// # Errors
/// [`Error::Report`] names the path.
pub fn write_results(results: &Path, started_at: &str, text: &str) -> Result<PathBuf, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| Error::Report { path, source }
    };
    fs::create_dir_all(results).map_err(failed(results))?;
    let name = folder_name(started_at);
    let mut folder = results.join(&name);
    let mut number = 2;
    loop {
        match fs::create_dir(&folder) {
            Ok(()) => break,
            // Another run began in the same second.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                folder = results.join(format!("{name}-{number}"));
                number += 1;
            }
            Err(error) => return Err(failed(&folder)(error)),
        }
    }
    let path = folder.join("report.json");
    write(&path, text)?;
    Ok(path)
}

/// Writes `text` to `path`, whole or not at all.
///
/// # Errors
/// [`Error::Report`] names the path.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    // A pipe or a device is written to, not replaced.
    let is_special = fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    let written = if is_special {
        File::options().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
    } else {
        File::create(&beside)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&beside, path))
            .inspect_err(|_| {
                let _ = fs::remove_file(&beside);
            })
    };
    written.map_err(|source| Error::Report { path: path.to_owned(), source })
}

/// `2026-11-21T03:53:57.123456789Z` as a name that every file system takes: `2026-11-21T03-53-57Z`.
fn folder_name(started_at: &str) -> String {
    let whole_seconds = started_at.split('.').next().unwrap_or(started_at);
    whole_seconds.trim_end_matches('Z').replace(':', "-") + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_in_one_second_have_folders_of_their_own() {
        let results = tempfile::tempdir().unwrap();
        let deep = results.path().join("a/b");
        let paths: Vec<PathBuf> = ["one", "two", "three"]
            .map(|text| write_results(&deep, "2026-11-21T03:53:57.1Z", text).unwrap())
            .into();
        assert_eq!(paths[0], deep.join("2026-11-21T03-53-57Z/report.json"));
        assert_eq!(paths[2], deep.join("2026-11-21T03-53-57Z-3/report.json"));
        assert_eq!(fs::read_to_string(&paths[1]).unwrap(), "two");
        assert_eq!(folder_name("2026-11-21T03:53:57Z"), "2026-11-21T03-53-57Z");
    }

    #[test]
    fn a_report_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        write(&path, "old").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write(&folder.path().join("no/such/folder"), "x").unwrap_err();
        assert!(error.to_string().contains("no/such/folder"), "{error}");
        write(Path::new("/dev/null"), "x").unwrap();
    }
}
