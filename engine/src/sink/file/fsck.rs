//! `logboom-engine fsck DIR`: are the segments what was written?
//!
//! Plain blocking reading of every `shard-*` below a directory, also of one that a running engine
//! writes. Owns the verdict on each byte; leaves the meaning of side files to `side`, and what a
//! line is to `recovery`. Invariants: nothing is changed; each byte of a segment is verified,
//! unverified or damaged, and only what differs from its record, or is missing, below the synced
//! offset is damaged; memory is bounded by the longest line that recovery knows.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::recovery::Lines;
use super::segments::{self, Segment};
use super::side::{self, Side};

/// A range that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Whether the segment ends before it does.
    pub is_missing: bool,
    /// Where in it the first thing begins that is no whole line, if that can be told.
    pub bad_line: Option<u64>,
}

/// What is to be said about a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The segment.
    pub path: PathBuf,
    /// Its size, padding included.
    pub bytes: u64,
    /// Lines, those in damaged ranges apart.
    pub lines: u64,
    /// Bytes that match their records.
    pub verified: u64,
    /// Bytes without a record that proves them; padding is not counted.
    pub unverified: u64,
    /// What is damaged.
    pub damaged: Vec<Damage>,
    /// Where the first thing in unverified bytes begins that is no whole line, and how many are.
    pub not_lines: Option<(u64, u64)>,
    /// What is wrong with the side file.
    pub side: Option<String>,
}

impl Finding {
    fn is_notable(&self) -> bool {
        !self.damaged.is_empty()
            || self.unverified > 0
            || self.not_lines.is_some()
            || self.side.is_some()
    }
}

/// What was found in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each segment, in order.
    pub segments: Vec<Finding>,
}

/// Why a directory cannot be checked.
#[derive(Debug, thiserror::Error)]
#[error("cannot check {}: {source}", path.display())]
pub struct Unreadable {
    /// What it was about.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

/// Checks every segment below `log_dir`.
///
/// # Errors
/// A directory or a segment cannot be read.
pub fn examine(log_dir: &Path) -> Result<Report, Unreadable> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Unreadable { path, source }
    };
    let mut report = Report::default();
    for shard in segments::shards(log_dir).map_err(failed(log_dir))? {
        let directory = segments::shard_directory(log_dir, shard);
        for segment in segments::segments(&directory).map_err(failed(&directory))? {
            match examine_segment(&segment) {
                // Retention may have removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                finding => report.segments.push(finding.map_err(failed(&segment.path))?),
            }
        }
    }
    Ok(report)
}

fn examine_segment(segment: &Segment) -> io::Result<Finding> {
    // Before the bytes: what a record tells of was written before it.
    let side = Side::read(&segment.path, segment.number);
    let mut file = File::open(&segment.path)?;
    let bytes = file.metadata()?.len();
    let mut finding = Finding { path: segment.path.clone(), bytes, ..Finding::default() };
    let side = match side {
        Ok(Some(side)) => {
            finding.side =
                (side.damaged > 0).then(|| format!("{} of its records are damaged", side.damaged));
            side
        }
        Ok(None) => {
            finding.side = (bytes > 0).then(|| "missing".to_owned());
            Side::default()
        }
        Err(error) => {
            finding.side = Some(format!("unreadable: {error}"));
            Side::default()
        }
    };

    let mut unproven = Unproven::default();
    let mut at = 0;
    for entry in side.entries.iter().filter(|entry| entry.offset < bytes) {
        unproven.take(&mut file, at..entry.offset)?;
        at = entry.end().min(bytes);
        let is_durable = entry.end() <= side.synced;
        if entry.end() <= bytes && side::matches(&mut file, entry)? {
            finding.verified += u64::from(entry.length);
            finding.lines += u64::from(entry.lines);
        } else if is_durable && entry.end() <= bytes {
            let mut inside = Unproven::default();
            inside.take(&mut file, entry.offset..at)?;
            finding.damaged.push(Damage {
                offset: entry.offset,
                length: u64::from(entry.length),
                is_missing: false,
                bad_line: inside.not_lines.map(|(first, _)| first),
            });
        } else {
            unproven.take(&mut file, entry.offset..at)?;
        }
    }
    unproven.take(&mut file, at..bytes)?;
    if side.synced > bytes {
        let (offset, length) = (bytes, side.synced - bytes);
        finding.damaged.push(Damage { offset, length, is_missing: true, bad_line: None });
    }
    finding.lines += unproven.lines;
    finding.unverified = unproven.bytes;
    finding.not_lines = unproven.not_lines;
    Ok(finding)
}

/// What bytes look like that no record proves.
#[derive(Default)]
struct Unproven {
    bytes: u64,
    lines: u64,
    not_lines: Option<(u64, u64)>,
}

impl Unproven {
    fn take(&mut self, file: &mut File, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        file.seek(SeekFrom::Start(range.start))?;
        let mut lines = Lines::new(file.take(range.end - range.start), range.start);
        while let Some((line, is_valid)) = lines.next()? {
            self.bytes += line.end - line.start;
            if is_valid {
                self.lines += 1;
            } else {
                let (_, count) = self.not_lines.get_or_insert((line.start, 0));
                *count += 1;
            }
        }
        Ok(())
    }
}

impl Report {
    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        self.segments.iter().any(|segment| !segment.damaged.is_empty())
    }

    fn sum(&self, part: impl Fn(&Finding) -> u64) -> u64 {
        self.segments.iter().map(part).sum()
    }

    fn damaged_bytes(&self) -> u64 {
        self.sum(|segment| segment.damaged.iter().map(|damage| damage.length).sum())
    }

    /// All of it as one object; offsets and sizes in bytes.
    pub fn to_json(&self) -> serde_json::Value {
        let notable = self.segments.iter().filter(|segment| segment.is_notable());
        json!({
            "segments": self.segments.len(),
            "bytes": self.sum(|segment| segment.bytes),
            "lines": self.sum(|segment| segment.lines),
            "verified_bytes": self.sum(|segment| segment.verified),
            "unverified_bytes": self.sum(|segment| segment.unverified),
            "damaged_bytes": self.damaged_bytes(),
            "notable": notable.map(Finding::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Finding {
    fn to_json(&self) -> serde_json::Value {
        let damaged = self.damaged.iter().map(|damage| {
            json!({
                "offset": damage.offset,
                "length": damage.length,
                "missing": damage.is_missing,
                "bad_line_offset": damage.bad_line,
            })
        });
        json!({
            "path": self.path,
            "bytes": self.bytes,
            "lines": self.lines,
            "verified_bytes": self.verified,
            "unverified_bytes": self.unverified,
            "damaged": damaged.collect::<Vec<_>>(),
            "not_lines": self.not_lines.map(|(offset, count)| {
                json!({ "offset": offset, "count": count })
            }),
            "side_file": self.side,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in self.segments.iter().filter(|segment| segment.is_notable()) {
            writeln!(f, "{}", segment.path.display())?;
            for damage in &segment.damaged {
                let Damage { offset, length, is_missing, bad_line } = damage;
                let what = if *is_missing { "are missing" } else { "are not what was written" };
                write!(f, "  DAMAGED: {length} bytes from offset {offset} on {what}")?;
                if let Some(bad_line) = bad_line {
                    write!(f, "; the line at {bad_line} is none")?;
                }
                writeln!(f)?;
            }
            if segment.unverified > 0 {
                writeln!(f, "  unverified: {} bytes", segment.unverified)?;
            }
            if let Some((offset, count)) = segment.not_lines {
                writeln!(f, "  not whole lines: {count}, the first at offset {offset}")?;
            }
            if let Some(trouble) = &segment.side {
                writeln!(f, "  side file: {trouble}")?;
            }
        }
        writeln!(
            f,
            "{} segments, {} bytes, {} lines: {} bytes verified, {} unverified, {} damaged in {} \
             ranges",
            self.segments.len(),
            self.sum(|segment| segment.bytes),
            self.sum(|segment| segment.lines),
            self.sum(|segment| segment.verified),
            self.sum(|segment| segment.unverified),
            self.damaged_bytes(),
            self.sum(|segment| segment.damaged.len() as u64),
        )
    }
}
