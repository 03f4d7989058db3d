//! What a crash left behind: validated, cut, and kept aside.
//!
//! Plain blocking I/O, before the shards start. A shard's segments are synced before the next one
//! is written, so only its last one with contents can be damaged by a crash. That one is read from
//! its last known-synced offset and cut at the first thing that is no whole valid line; everything
//! behind the cut goes to `LOG_DIR/quarantine/shard-NN-<segment>-<offset>.bin`, durably, BEFORE the
//! cut is made. Segments without contents were prepared for nothing and are removed.
//!
//! Invariants: a whole valid line in front of the cut is never touched; nothing is cut but padding
//! that is not in quarantine; a crash at any point followed by another recovery ends the same;
//! memory is bounded by [`LINE_BYTES_RECOVERABLE`], time is linear.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::{memchr, memrchr};
use proto::record::{Record, Scratch};

use super::segments;
use crate::sink::disk::FILE_MODE;

/// The longest line that is recognised as one, whatever LINE_BYTES_MAX is now or was then.
pub const LINE_BYTES_RECOVERABLE: usize = 64 << 20;

const CHUNK_BYTES: usize = 1 << 20;
const DIRECTORY_MODE: u32 = 0o750;

/// What recovery found and did, over all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments that were read.
    pub segments_checked: u64,
    /// Segments without contents that were removed.
    pub segments_removed: u64,
    /// Valid lines in the segments that were read.
    pub lines_kept: u64,
    /// Bytes that went to quarantine.
    pub bytes_cut: u64,
    /// Where they are.
    pub files_quarantined: Vec<PathBuf>,
}

impl RecoveryReport {
    /// What the operator should know.
    pub fn notes(&self) -> Vec<String> {
        let files = &self.files_quarantined;
        let cut = (!files.is_empty()).then(|| {
            let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            format!(
                "recovery kept {} lines and cut {} bytes that are no whole lines: {}",
                self.lines_kept,
                self.bytes_cut,
                files.join(", ")
            )
        });
        cut.into_iter().collect()
    }
}

/// Recovers one shard, adds to `report`, and gives the number of its next segment.
pub(super) fn recover_shard(
    log_dir: &Path,
    shard: usize,
    report: &mut RecoveryReport,
) -> io::Result<u64> {
    let directory = segments::shard_directory(log_dir, shard);
    let named = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"))
    };
    let found = segments::segments(&directory).map_err(named(&directory))?;
    let last_written = found.iter().rposition(|segment| segment.bytes > 0);
    let mut next = 1;
    for (index, segment) in found.iter().enumerate() {
        let empty = if last_written == Some(index) {
            let cut = Cut { log_dir, shard, number: segment.number, path: &segment.path };
            // Until somebody records synced offsets, none is known.
            cut.recover(0, report).map_err(named(&segment.path))? == 0
        } else {
            segment.bytes == 0
        };
        if empty {
            fs::remove_file(&segment.path).map_err(named(&segment.path))?;
            report.segments_removed += 1;
        } else {
            next = segment.number + 1;
        }
    }
    if !found.is_empty() {
        sync_directory(&directory).map_err(named(&directory))?;
    }
    Ok(next)
}

/// The segment that may have to be cut.
struct Cut<'a> {
    log_dir: &'a Path,
    shard: usize,
    number: u64,
    path: &'a Path,
}

impl Cut<'_> {
    /// Validates from `synced`, a line's beginning, and makes the segment whole and durable.
    /// Gives its size.
    fn recover(&self, synced: u64, report: &mut RecoveryReport) -> io::Result<u64> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.path)?;
        file.seek(SeekFrom::Start(synced))?;
        let valid = validate(&mut file, synced)?;
        report.segments_checked += 1;
        report.lines_kept += valid.lines;
        if let Some(cut) = valid.cut {
            let (quarantined, bytes) = self.quarantine(&mut file, cut)?;
            report.bytes_cut += bytes;
            report.files_quarantined.push(quarantined);
        }
        // Also where there is nothing to cut: it gives back the space reserved behind the end, and
        // waits for a write that the dead engine may have left in flight.
        file.set_len(valid.end)?;
        file.sync_all()?;
        Ok(valid.end)
    }

    /// Copies everything from `offset` on to a file of its own, durably; gives its path and size.
    fn quarantine(&self, file: &mut File, offset: u64) -> io::Result<(PathBuf, u64)> {
        let directory = self.log_dir.join("quarantine");
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&directory)?;
        sync_directory(self.log_dir)?;
        let shard = segments::shard_name(self.shard);
        let name = format!("{shard}-{:012}-{offset}", self.number);

        let copy = directory.join(format!("{name}.tmp"));
        file.seek(SeekFrom::Start(offset))?;
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&copy)?;
        let bytes = io::copy(file, &mut out)?;
        out.flush()?;
        out.sync_all()?;

        // A number is used again where nothing was left of its segment: keep what is kept. The same
        // bytes are there already if a recovery was cut short after this.
        let mut path = directory.join(format!("{name}.bin"));
        for again in 2_u64.. {
            match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
                Ok(_) if are_equal(&path, &copy)? => break,
                Ok(_) => path = directory.join(format!("{name}.{again}.bin")),
            }
        }
        fs::rename(&copy, &path)?;
        sync_directory(&directory)?;
        Ok((path, bytes))
    }
}

/// How much of a segment is whole valid lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Valid {
    /// The end of the last valid line: padding begins here.
    end: u64,
    /// Where the first thing begins that is neither a valid line nor padding.
    cut: Option<u64>,
    lines: u64,
}

/// Reads lines up to the first that is none. `begin` is the offset that `input` is at.
fn validate(input: &mut impl Read, begin: u64) -> io::Result<Valid> {
    let mut valid = Valid { end: begin, cut: None, lines: 0 };
    let mut scratch = Scratch::new();
    let mut buf = Vec::with_capacity(2 * CHUNK_BYTES);
    // The offset of buf[0], which is always a line's beginning.
    let mut base = begin;
    loop {
        let rest = buf.len();
        let read = input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut buf)?;
        let whole = memrchr(b'\n', &buf[rest..]).map_or(0, |newline| rest + newline + 1);
        let mut at = 0;
        while let Some(length) = memchr(b'\n', &buf[at..whole]) {
            let line = &buf[at..at + length];
            let next = at + length + 1;
            if !line.is_empty() {
                if !is_valid(line, &mut scratch) {
                    valid.cut = Some(base + at as u64);
                    return Ok(valid);
                }
                valid.lines += 1;
                valid.end = base + next as u64;
            }
            at = next;
        }
        buf.drain(..whole);
        base += whole as u64;
        if (read == 0 && !buf.is_empty()) || buf.len() > LINE_BYTES_RECOVERABLE {
            valid.cut = Some(base);
        }
        if read == 0 || valid.cut.is_some() {
            return Ok(valid);
        }
    }
}

fn is_valid(line: &[u8], scratch: &mut Scratch) -> bool {
    // A NUL is a hole that a lost write left; JSON allows it nowhere, so the parser refuses it,
    // too, but that is its business.
    memchr(0, line).is_none() && Record::parse(line, scratch).is_ok()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn are_equal(left: &Path, right: &Path) -> io::Result<bool> {
    let (left, right) = (File::open(left)?, File::open(right)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        (&left).take(CHUNK_BYTES as u64).read_to_end(&mut a)?;
        (&right).take(CHUNK_BYTES as u64).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}
