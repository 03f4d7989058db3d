//! What a crash left behind: validated, cut, and kept aside.
//!
//! Plain blocking I/O, before the shards start. A shard's segments are synced before the next one
//! is written, so only its last one with contents can be damaged by a crash. That one is read from
//! its last known-synced offset (its side file tells it; otherwise from 0) and cut at the first
//! thing that is no whole valid line; everything behind the cut goes to
//! `LOG_DIR/quarantine/shard-NN-<segment>-<offset>.bin`, durably, BEFORE the cut is made. What is
//! damaged below the synced offset is no crash's doing: it stays where it is, with the lines around
//! it, and is told. Segments without contents were prepared for nothing and are removed. What is
//! kept gets records in the side file, if that can be written.
//!
//! Invariants: a whole valid line in front of the cut is never touched; nothing is cut but padding
//! that is not in quarantine, and nothing below the synced offset; a crash at any point followed by another recovery ends the same;
//! memory is bounded by [`LINE_BYTES_RECOVERABLE`], time is linear.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::{memchr, memchr_iter, memrchr};
use proto::record::{Record, Scratch};

use super::log_dir::{DIRECTORY_MODE, sync_directory};
use super::segments;
use super::side::{self, Entry, Side};
use crate::sink::disk::FILE_MODE;

/// The longest line that is recognised as one, whatever LINE_BYTES_MAX is now or was then.
pub const LINE_BYTES_RECOVERABLE: usize = 64 << 20;

const CHUNK_BYTES: usize = 1 << 20;

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
    /// Bytes that were durable and are not what was written.
    pub bytes_damaged: u64,
    /// The segments that they are in.
    pub files_damaged: Vec<PathBuf>,
}

impl RecoveryReport {
    /// What the operator should know.
    pub fn notes(&self) -> Vec<String> {
        let list = |files: &[PathBuf]| {
            let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            files.join(", ")
        };
        let cut = (!self.files_quarantined.is_empty()).then(|| {
            format!(
                "recovery kept {} lines and cut {} bytes that are no whole lines: {}",
                self.lines_kept,
                self.bytes_cut,
                list(&self.files_quarantined)
            )
        });
        let damaged = (!self.files_damaged.is_empty()).then(|| {
            format!(
                "{} bytes that were durable are not what was written; they were left as they are, \
                 and `logboom-engine fsck` says where: {}",
                self.bytes_damaged,
                list(&self.files_damaged)
            )
        });
        cut.into_iter().chain(damaged).collect()
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
    // What was being packed is there still as it was.
    let half = segments::half_packed(&directory).map_err(named(&directory))?;
    for path in &half {
        fs::remove_file(path).map_err(named(path))?;
    }
    let found = segments::segments(&directory).map_err(named(&directory))?;
    let mut next = 1;
    // From the last one back to the first that has contents, also where all of it had to be cut.
    // An empty one in front of that is what a failed attempt left.
    for segment in found.iter().rev() {
        // It was whole and durable when it was packed.
        if segment.is_packed {
            next = next.max(segment.number + 1);
        }
        if segment.is_packed || (next > 1 && segment.bytes > 0) {
            continue;
        }
        let cut = Cut { log_dir, shard, number: segment.number, path: &segment.path };
        if segment.bytes > 0 && cut.recover(report).map_err(named(&segment.path))? > 0 {
            next = segment.number + 1;
            continue;
        }
        fs::remove_file(&segment.path).map_err(named(&segment.path))?;
        report.segments_removed += 1;
    }
    // A number may be used again, and what is said of its last bearer would be held against it.
    let sides = segments::side_files(&directory).map_err(named(&directory))?;
    for (number, side) in &sides {
        let is_kept = *number < next
            && found.iter().any(|segment| segment.number == *number && segment.bytes > 0);
        if !is_kept || side.extension().is_some_and(|end| end == "tmp") {
            fs::remove_file(side).map_err(named(side))?;
        }
    }
    if !found.is_empty() || !sides.is_empty() || !half.is_empty() {
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
    /// Validates what may have been lost, and makes the segment whole and durable. Gives its size.
    fn recover(&self, report: &mut RecoveryReport) -> io::Result<u64> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.path)?;
        // What cannot be read proves nothing.
        let side = Side::read(self.path, self.number).ok().flatten().unwrap_or_default();
        let start = first_unsynced(&mut file, side.synced)?;
        let damaged = damaged_bytes(&mut file, &side)?;
        if damaged > 0 {
            report.bytes_damaged += damaged;
            report.files_damaged.push(self.path.to_owned());
        }
        file.rewind()?;
        report.lines_kept += count_lines((&mut file).take(start))?;
        file.seek(SeekFrom::Start(start))?;
        let valid = validate(&mut file, start)?;
        report.segments_checked += 1;
        report.lines_kept += valid.lines;
        if let Some(cut) = valid.cut {
            // What is reserved behind the end may be the room that quarantine needs.
            file.set_len(file.metadata()?.len())?;
            let (quarantined, bytes) = self.quarantine(&mut file, cut)?;
            report.bytes_cut += bytes;
            report.files_quarantined.push(quarantined);
        }
        // Also where there is nothing to cut: it gives back the space reserved behind the end, and
        // waits for a write that the dead engine may have left in flight.
        file.set_len(valid.end)?;
        file.sync_all()?;
        if side.synced <= valid.end {
            // Without it the rest is unverified, no more.
            let _ = self.record(&mut file, side, start..valid.end);
        }
        Ok(valid.end)
    }

    /// Makes the side file anew: what was known of the durable part, and what is known now of the
    /// rest. What a lost write said of itself goes.
    fn record(&self, file: &mut File, mut side: Side, rest: Range<u64>) -> io::Result<()> {
        let known = side.entries.len();
        side.entries.retain(|entry| entry.end() <= rest.start);
        if rest.is_empty() && side.damaged == 0 && side.entries.len() == known {
            return Ok(());
        }
        file.seek(SeekFrom::Start(rest.start))?;
        let mut input = BufReader::new(file.take(rest.end - rest.start));
        let (mut bytes, mut lines, mut offset) = (Vec::new(), 0, rest.start);
        loop {
            let read = input.read_until(b'\n', &mut bytes)?;
            lines += u32::from(read > 1);
            if read > 0 && bytes.len() < CHUNK_BYTES {
                continue;
            }
            if let (Ok(length), false) = (u32::try_from(bytes.len()), bytes.is_empty()) {
                let crc = side::checksum(&bytes);
                side.entries.push(Entry { offset, length, lines, crc, synced: 0 });
                offset += u64::from(length);
            }
            bytes.clear();
            lines = 0;
            if read == 0 {
                break;
            }
        }
        let mut records = Vec::new();
        for entry in &side.entries {
            Entry { synced: rest.end, ..*entry }.encode(self.number, &mut records);
        }
        let path = side::path_of(self.path);
        let copy = path.with_extension("crc.tmp");
        let mut options = OpenOptions::new();
        let mut out =
            options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&copy)?;
        out.write_all(&records)?;
        out.sync_all()?;
        fs::rename(&copy, &path)
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

/// Where what may be lost begins: at the synced offset, which is a line's beginning; where not even
/// that is there, behind the last whole line.
fn first_unsynced(file: &mut File, synced: u64) -> io::Result<u64> {
    let bytes = file.metadata()?.len();
    if synced <= bytes {
        return Ok(synced);
    }
    let mut chunk = Vec::new();
    let mut end = bytes;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK_BYTES as u64);
        file.seek(SeekFrom::Start(begin))?;
        chunk.clear();
        (&mut *file).take(end - begin).read_to_end(&mut chunk)?;
        if let Some(newline) = memrchr(b'\n', &chunk) {
            return Ok(begin + newline as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// How much below the synced offset is not what was written.
fn damaged_bytes(file: &mut File, side: &Side) -> io::Result<u64> {
    let mut damaged = side.synced.saturating_sub(file.metadata()?.len());
    for entry in side.entries.iter().filter(|entry| entry.end() <= side.synced) {
        if !side::matches(file, entry)? {
            damaged += u64::from(entry.length);
        }
    }
    Ok(damaged)
}

/// The lines of what is known to be nothing but lines.
fn count_lines(mut input: impl Read) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lines = 0;
    loop {
        match input.read(&mut chunk)? {
            0 => return Ok(lines),
            some => lines += memchr_iter(b'\n', &chunk[..some]).count() as u64,
        }
    }
}

/// Reads lines up to the first that is none. `begin` is the offset that `input` is at.
fn validate(input: impl Read, begin: u64) -> io::Result<Valid> {
    let mut valid = Valid { end: begin, cut: None, lines: 0 };
    let mut lines = Lines::new(input, begin);
    while let Some((line, is_valid)) = lines.next()? {
        if !is_valid {
            valid.cut = Some(line.start);
            break;
        }
        valid.lines += 1;
        valid.end = line.end;
    }
    Ok(valid)
}

/// The lines of a segment, blank ones left out, each with the offsets of its bytes and its newline
/// and whether it is a whole valid line. What is too long for one comes in pieces.
pub(super) struct Lines<R> {
    input: R,
    scratch: Scratch,
    buf: Vec<u8>,
    /// The offset of `buf[0]`.
    base: u64,
    /// What is in front of it was given, and between it and `whole` are whole lines.
    at: usize,
    whole: usize,
    is_over: bool,
}

impl<R: Read> Lines<R> {
    /// `begin` is the offset that `input` is at.
    pub(super) fn new(input: R, begin: u64) -> Lines<R> {
        let (scratch, buf) = (Scratch::new(), Vec::new());
        Lines { input, scratch, buf, base: begin, at: 0, whole: 0, is_over: false }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<(Range<u64>, bool)>> {
        loop {
            while let Some(length) = memchr(b'\n', &self.buf[self.at..self.whole]) {
                let start = self.at;
                self.at += length + 1;
                if length > 0 {
                    let line = &self.buf[start..start + length];
                    let is_valid = is_valid(line, &mut self.scratch);
                    return Ok(Some((self.offset(start)..self.offset(self.at), is_valid)));
                }
            }
            let rest = self.buf.len() - self.at;
            if (self.is_over && rest > 0) || rest > LINE_BYTES_RECOVERABLE {
                let piece = self.offset(self.at)..self.offset(self.buf.len());
                (self.at, self.whole) = (self.buf.len(), self.buf.len());
                return Ok(Some((piece, false)));
            }
            if self.is_over {
                return Ok(None);
            }
            self.buf.drain(..self.at);
            self.base += self.at as u64;
            self.at = 0;
            let read = self.input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut self.buf)?;
            self.is_over = read == 0;
            self.whole = memrchr(b'\n', &self.buf[rest..]).map_or(0, |newline| rest + newline + 1);
        }
    }

    fn offset(&self, at: usize) -> u64 {
        self.base + at as u64
    }
}

fn is_valid(line: &[u8], scratch: &mut Scratch) -> bool {
    // A NUL is a hole that a lost write left; JSON allows it nowhere, so the parser refuses it,
    // too, but that is its business.
    memchr(0, line).is_none() && Record::parse(line, scratch).is_ok()
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

#[cfg(test)]
mod tests {
    use super::super::LogDir;
    use super::*;
    use crate::sink::BLOCK;

    /// Syncs cost nothing there.
    fn memory_dir() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    fn segment(root: &Path, shard: usize, number: u64) -> PathBuf {
        segments::shard_directory(root, shard).join(segments::file_name(number))
    }

    fn put(root: &Path, shard: usize, number: u64, bytes: &[u8]) {
        let path = segment(root, shard, number);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn recover(root: &Path) -> RecoveryReport {
        LogDir::open(root, 1).unwrap().recovery().clone()
    }

    /// What is in quarantine, by name.
    fn quarantine(root: &Path) -> Vec<(String, Vec<u8>)> {
        let Ok(entries) = fs::read_dir(root.join("quarantine")) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn line(message: &str) -> String {
        format!("{{\"level\":\"info\",\"message\":\"{message}\"}}\n")
    }

    fn lines() -> Vec<u8> {
        let escaped = r#"{"message":"a\n\u00e9\"}{","nested":{"level":[1,2]},"level":"FATAL"}"#;
        [line("one"), line("zwei äöü 🦀"), format!("{escaped}\n"), line(""), line(&"x".repeat(700))]
            .concat()
            .into_bytes()
    }

    #[test]
    fn a_segment_truncated_at_every_byte_recovers_the_whole_lines_before_the_cut() {
        let mut image = lines();
        let whole = image.len();
        image.resize(BLOCK, b'\n');
        let root = memory_dir();
        for length in 0..=image.len() {
            let _ = fs::remove_dir_all(root.path().join("quarantine"));
            put(root.path(), 0, 1, &image[..length]);
            let kept = memrchr(b'\n', &image[..length.min(whole)]).map_or(0, |newline| newline + 1);
            let rest = &image[kept..length.max(kept).min(whole.max(kept))];

            let report = recover(root.path());
            assert_eq!(report.bytes_cut, rest.len() as u64, "{length}");
            assert_eq!(report.lines_kept, image[..kept].split(|&b| b == b'\n').count() as u64 - 1);
            let in_quarantine = quarantine(root.path());
            match rest {
                [] => assert!(in_quarantine.is_empty()),
                _ => {
                    let name = format!("shard-00-000000000001-{kept}.bin");
                    assert_eq!(in_quarantine, [(name.clone(), rest.to_vec())]);
                    let path = root.path().join("quarantine").join(name);
                    assert_eq!(report.files_quarantined, [path]);
                }
            }
            let left = fs::read(segment(root.path(), 0, 1)).unwrap_or_default();
            assert_eq!(left, &image[..kept], "{length}");
            assert_eq!(left.is_empty(), !segment(root.path(), 0, 1).exists());

            let again = recover(root.path());
            assert_eq!((again.bytes_cut, again.lines_kept), (0, report.lines_kept));
            assert_eq!(fs::read(segment(root.path(), 0, 1)).unwrap_or_default(), left);
        }
    }

    #[test]
    fn everything_behind_the_first_damage_goes_to_quarantine_and_is_counted() {
        let good = lines();
        let behind = line("behind the damage");
        for damage in [
            "\0",
            "\0\0\n",
            "garbage\n",
            "{\"level\":\"info\"}\n",
            "{\"level\":\"info\",\"message\":\"a\0b\"}\n",
            "\n\n \n",
            "[]\n",
            "\n\n\n{\"level\":",
        ] {
            let root = memory_dir();
            let damaged = [&good, damage.as_bytes(), behind.as_bytes()].concat();
            put(root.path(), 0, 3, &damaged);
            let report = recover(root.path());
            let cut = good.len() + damage.len() - damage.trim_start_matches('\n').len();
            assert_eq!(fs::read(segment(root.path(), 0, 3)).unwrap(), good, "{damage:?}");
            let name = format!("shard-00-000000000003-{cut}.bin");
            assert_eq!(quarantine(root.path()), [(name, damaged[cut..].to_vec())]);
            assert_eq!(report.bytes_cut, (damaged.len() - cut) as u64);
            assert_eq!((report.segments_checked, report.lines_kept), (1, 5));
            assert_eq!(report.notes().len(), 1);
            assert_eq!(recover(root.path()).bytes_cut, 0);
        }
    }

    #[test]
    fn every_hole_of_a_sector_is_found() {
        let image: Vec<u8> =
            (0..99).flat_map(|n| line(&format!("number {n}")).into_bytes()).collect();
        let root = memory_dir();
        for hole in (0..image.len()).step_by(512) {
            let mut holed = image.clone();
            let end = image.len().min(hole + 512);
            holed[hole..end].fill(0);
            put(root.path(), 0, 1, &holed);
            recover(root.path());
            let kept = memrchr(b'\n', &image[..hole]).map_or(0, |newline| newline + 1);
            let left = fs::read(segment(root.path(), 0, 1)).unwrap_or_default();
            assert_eq!(left, &image[..kept]);
        }
    }

    #[test]
    fn only_the_last_segment_with_contents_is_read_and_empty_ones_are_removed() {
        let root = memory_dir();
        put(root.path(), 0, 4, b"not looked at");
        put(root.path(), 0, 5, &lines());
        put(root.path(), 0, 6, b"");
        put(root.path(), 0, 7, b"");
        put(root.path(), 0, 8, b"\n\n\n\n");
        let log_dir = LogDir::open(root.path(), 1).unwrap();
        let report = log_dir.recovery();
        assert_eq!((report.segments_checked, report.segments_removed), (2, 3));
        assert!(report.notes().is_empty());
        assert_eq!(fs::read(segment(root.path(), 0, 4)).unwrap(), b"not looked at");
        assert_eq!(log_dir.plan().shard(0).1, 6, "the number of an empty one is used again");
    }

    #[test]
    fn shards_that_run_no_longer_are_recovered_too() {
        let root = memory_dir();
        for shard in [0, 1, 5] {
            put(root.path(), shard, 2, &[&lines(), "torn".as_bytes()].concat());
        }
        let log_dir = LogDir::open(root.path(), 4).unwrap();
        assert_eq!(log_dir.recovery().bytes_cut, 3 * 4);
        assert_eq!(log_dir.recovery().files_quarantined.len(), 3);
        for shard in [0, 1, 5] {
            assert_eq!(fs::read(segment(root.path(), shard, 2)).unwrap(), lines());
        }
        let next: Vec<_> = (0..4).map(|shard| log_dir.plan().shard(shard).1).collect();
        assert_eq!(next, [3, 3, 1, 1]);
    }

    #[test]
    fn quarantine_is_never_overwritten_and_never_doubled() {
        let root = memory_dir();
        for (damage, files) in [("first", 1), ("second", 2), ("first", 2), ("third", 3)] {
            put(root.path(), 0, 1, damage.as_bytes());
            // A copy that was cut short is no quarantine yet.
            let directory = root.path().join("quarantine");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("shard-00-000000000001-0.tmp"), "fi").unwrap();
            recover(root.path());
            let quarantine = quarantine(root.path());
            assert_eq!(quarantine.len(), files);
            assert!(quarantine.iter().any(|(_, bytes)| bytes == damage.as_bytes()));
            assert!(!segment(root.path(), 0, 1).exists());
        }
    }

    #[test]
    fn long_lines_are_lines_up_to_the_bound() {
        let root = memory_dir();
        let long = line(&"x".repeat(3 * CHUNK_BYTES + 17));
        let image = [lines(), long.into_bytes(), lines()].concat();
        put(root.path(), 0, 1, &image);
        let report = recover(root.path());
        assert_eq!((report.lines_kept, report.bytes_cut), (11, 0));
        assert_eq!(fs::read(segment(root.path(), 0, 1)).unwrap(), image);

        // Beyond the bound nothing is a line; finding that needs no more memory than the bound.
        let mut endless = io::repeat(b'x').take(1 << 40);
        let valid = validate(&mut endless, 7).unwrap();
        assert_eq!(valid, Valid { end: 7, cut: Some(7), lines: 0 });
        assert!((1 << 40) - endless.limit() <= (LINE_BYTES_RECOVERABLE + CHUNK_BYTES) as u64);
    }

    #[test]
    fn validation_begins_at_the_synced_offset() {
        let image = [b"not looked at".as_slice(), &lines()].concat();
        let mut input = io::Cursor::new(&image);
        input.set_position(13);
        let valid = validate(&mut input, 13).unwrap();
        assert_eq!(valid, Valid { end: image.len() as u64, cut: None, lines: 5 });
    }

    #[test]
    fn what_cannot_be_recovered_is_named() {
        let root = memory_dir();
        put(root.path(), 0, 1, b"torn");
        fs::write(root.path().join("quarantine"), "in the way").unwrap();
        let refused = LogDir::open(root.path(), 1).unwrap_err().to_string();
        assert!(refused.contains("(LOG_DIR)") && refused.contains("000000000001"), "{refused}");
        assert_eq!(fs::read(segment(root.path(), 0, 1)).unwrap(), b"torn", "nothing is lost");
    }
}
