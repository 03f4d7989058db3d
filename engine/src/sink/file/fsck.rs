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

use proto::packed::{self, Content};
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
    /// The size of its content, padding included.
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
            let finding = match examine_segment(&segment) {
                // It may have been packed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !segment.is_packed => {
                    let path = directory.join(segments::packed_name(segment.number));
                    examine_segment(&Segment { path, is_packed: true, ..segment.clone() })
                }
                finding => finding,
            };
            match finding {
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
    let (mut file, bytes) = match Source::open(segment)? {
        Ok(opened) => opened,
        Err(bytes) => return Ok(unpackable(segment, bytes)),
    };
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

/// A packed segment that cannot be unpacked to its end; `bytes` long as far as that is known.
fn unpackable(segment: &Segment, bytes: u64) -> Finding {
    let damage = Damage { offset: 0, length: bytes.max(1), is_missing: true, bad_line: None };
    Finding { path: segment.path.clone(), bytes, damaged: vec![damage], ..Finding::default() }
}

/// The content of a segment.
enum Source {
    Plain(File),
    /// Unpacked on the way: going back means beginning anew.
    Packed {
        path: PathBuf,
        content: Content<File>,
        at: u64,
    },
}

impl Source {
    /// Opens a segment; gives it and the length of its content, or only that where it cannot be
    /// unpacked to its end.
    fn open(segment: &Segment) -> io::Result<Result<(Source, u64), u64>> {
        let file = File::open(&segment.path)?;
        if !segment.is_packed {
            let bytes = file.metadata()?.len();
            return Ok(Ok((Source::Plain(file), bytes)));
        }
        let mut read = 0;
        let mut content = Content::of(packed::ENDING, file)?;
        let mut chunk = vec![0; 1 << 20];
        loop {
            match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(some) => read += some as u64,
                Err(_) => return Ok(Err(read)),
            }
        }
        let path = segment.path.clone();
        let content = Content::of(packed::ENDING, File::open(&path)?)?;
        Ok(Ok((Source::Packed { path, content, at: 0 }, read)))
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(file) => file.read(buf),
            Source::Packed { content, at, .. } => {
                let read = content.read(buf)?;
                *at += read as u64;
                Ok(read)
            }
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match (self, to) {
            (Source::Plain(file), to) => file.seek(to),
            (Source::Packed { path, content, at }, SeekFrom::Start(to)) => {
                if to < *at {
                    *content = Content::of(packed::ENDING, File::open(path)?)?;
                    *at = 0;
                }
                *at += io::copy(&mut content.by_ref().take(to - *at), &mut io::sink())?;
                Ok(*at)
            }
            (Source::Packed { .. }, _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// What bytes look like that no record proves.
#[derive(Default)]
struct Unproven {
    bytes: u64,
    lines: u64,
    not_lines: Option<(u64, u64)>,
}

impl Unproven {
    fn take(&mut self, file: &mut Source, range: Range<u64>) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sink::file::LogDir;

    fn memory_dir() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    fn line(number: usize) -> Vec<u8> {
        format!("{{\"level\":\"INFO\",\"message\":\"{number}\"}}\n").into_bytes()
    }

    /// A segment of four commits of three lines, the last of which is not synced, and its side file.
    fn segment(root: &Path) -> (PathBuf, Vec<u8>) {
        let directory = segments::shard_directory(root, 0);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(segments::file_name(1));
        let (mut bytes, mut records, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for commit in 0..4 {
            let offset = bytes.len() as u64;
            let lines = (0..3).flat_map(|number| line(commit * 3 + number)).collect::<Vec<_>>();
            let (length, crc) = (u32::try_from(lines.len()).unwrap(), side::checksum(&lines));
            entries.push(side::Entry { offset, length, lines: 3, crc, synced: 0 });
            bytes.extend(lines);
        }
        let synced = entries[3].offset;
        for entry in entries {
            side::Entry { synced, ..entry }.encode(1, &mut records);
        }
        fs::write(&path, &bytes).unwrap();
        fs::write(side::path_of(&path), records).unwrap();
        (path, bytes)
    }

    fn examined(root: &Path) -> Finding {
        let mut report = examine(root).unwrap();
        assert_eq!(report.segments.len(), 1);
        report.segments.remove(0)
    }

    #[test]
    fn every_flipped_byte_of_the_synced_part_is_damage_and_of_the_rest_is_unverified() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        let all = bytes.len() as u64;
        let clean = examined(root.path());
        assert_eq!((clean.verified, clean.unverified, clean.lines), (all, 0, 12));
        assert!(!clean.is_notable());
        let synced = Side::read(&path, 1).unwrap().unwrap().synced;
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut rotten = bytes.clone();
                rotten[at] ^= flip;
                fs::write(&path, &rotten).unwrap();
                let finding = examined(root.path());
                match finding.damaged.as_slice() {
                    [damage] => {
                        let range = damage.offset..damage.offset + damage.length;
                        assert!(
                            range.contains(&(at as u64))
                                && (at as u64) < synced
                                && !damage.is_missing
                        );
                        assert_eq!(finding.verified + damage.length, all);
                    }
                    [] => {
                        assert!(at as u64 >= synced && finding.unverified > 0, "{at}: {finding:?}")
                    }
                    more => panic!("{more:?}"),
                }
                assert_eq!(finding.bytes, all);
            }
        }
    }

    #[test]
    fn a_segment_cut_below_the_synced_offset_is_damaged() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        let side = Side::read(&path, 1).unwrap().unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let finding = examined(root.path());
            let missing = side.synced.saturating_sub(length as u64);
            match finding.damaged.as_slice() {
                [damage] => assert!(damage.is_missing && damage.length == missing && missing > 0),
                [] => assert_eq!(missing, 0),
                more => panic!("{more:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_side_file_is_no_damage() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        let side = side::path_of(&path);
        let records = fs::read(&side).unwrap();
        for at in 0..records.len() {
            let mut rotten = records.clone();
            rotten[at] ^= 0x10;
            fs::write(&side, &rotten).unwrap();
            let finding = examined(root.path());
            assert!(finding.damaged.is_empty() && finding.unverified > 0, "{at}: {finding:?}");
            assert!(finding.side.is_some() && finding.lines == 12 && finding.not_lines.is_none());
        }
        for length in 0..records.len() {
            fs::write(&side, &records[..length]).unwrap();
            assert!(examined(root.path()).damaged.is_empty());
        }
        fs::remove_file(&side).unwrap();
        let finding = examined(root.path());
        assert_eq!(finding.side.as_deref(), Some("missing"));
        assert_eq!((finding.unverified, finding.lines), (bytes.len() as u64, 12));
        assert!(finding.damaged.is_empty());
    }

    #[test]
    fn a_packed_segment_is_checked_like_the_plain_one() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        let clean = examined(root.path());
        let pack = |content: &[u8]| {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            io::copy(&mut &*content, &mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        let packed = path.with_file_name(segments::packed_name(1));
        fs::remove_file(&path).unwrap();
        fs::write(&packed, pack(&bytes)).unwrap();
        let finding = examined(root.path());
        assert_eq!((finding.path.clone(), finding.verified), (packed.clone(), bytes.len() as u64));
        assert_eq!(Finding { path, ..finding }, clean);
        // What rotted before it was packed, and the ranges around it.
        let mut rotten = bytes.clone();
        rotten[5] ^= 1;
        fs::write(&packed, pack(&rotten)).unwrap();
        let finding = examined(root.path());
        assert_eq!((finding.damaged.len(), finding.damaged[0].offset), (1, 0));
        assert_eq!(finding.verified + finding.damaged[0].length, bytes.len() as u64);
        // What rotted since.
        let good = pack(&bytes);
        for at in [12, good.len() / 2, good.len() - 2] {
            let mut rotten = good.clone();
            rotten[at] ^= 0x20;
            fs::write(&packed, &rotten).unwrap();
            let finding = examined(root.path());
            assert!(!finding.damaged.is_empty() && finding.verified == 0, "{at}: {finding:?}");
        }
        fs::write(&packed, &good[..good.len() - 9]).unwrap();
        assert!(!examined(root.path()).damaged.is_empty());
    }

    #[test]
    fn padding_counts_for_nothing_and_what_is_no_line_is_told() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        let torn = [bytes.as_slice(), b"{\"level\":\"IN\0\0\n", &[b'\n'; 500], b"{}"].concat();
        fs::write(&path, &torn).unwrap();
        let finding = examined(root.path());
        assert_eq!(finding.not_lines, Some((bytes.len() as u64, 2)));
        assert_eq!((finding.verified, finding.unverified), (bytes.len() as u64, 15 + 2));
        assert!(finding.damaged.is_empty());
    }

    /// Recovery cuts what a crash tore, leaves what rotted, and records what it kept.
    #[test]
    fn recovery_leaves_what_rotted_below_the_synced_offset_and_records_the_rest() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        let mut rotten = bytes.clone();
        rotten[5] = 0;
        rotten.extend_from_slice(&line(12));
        rotten.extend_from_slice(b"{\"torn");
        fs::write(&path, &rotten).unwrap();
        let log_dir = LogDir::open(root.path(), 1).unwrap();
        let kept = rotten.len() - 6;
        assert_eq!(fs::read(&path).unwrap(), &rotten[..kept]);
        let notes = log_dir.recovery().notes().join("\n");
        assert!(notes.contains("fsck") && notes.contains("cut 6 bytes"), "{notes}");
        let finding = examined(root.path());
        assert_eq!(finding.damaged.len(), 1);
        assert_eq!((finding.damaged[0].offset, finding.unverified), (0, 0));
        assert_eq!(finding.damaged[0].bad_line, Some(0));
        // The next start finds the same and changes nothing.
        drop(log_dir);
        let side = fs::read(side::path_of(&path)).unwrap();
        let log_dir = LogDir::open(root.path(), 1).unwrap();
        assert_eq!(log_dir.recovery().bytes_cut, 0);
        assert_eq!(fs::read(&path).unwrap(), &rotten[..kept]);
        assert_eq!(fs::read(side::path_of(&path)).unwrap(), side);
    }

    #[test]
    fn recovery_makes_a_missing_side_file_and_removes_those_without_a_segment() {
        let root = memory_dir();
        let (path, bytes) = segment(root.path());
        fs::remove_file(side::path_of(&path)).unwrap();
        for stale in ["000000000002.crc", "000000000001.crc.tmp", "000000000009.crc"] {
            fs::write(path.with_file_name(stale), "of a segment that is gone").unwrap();
        }
        fs::write(path.with_file_name("mine.crc"), "").unwrap();
        LogDir::open(root.path(), 1).unwrap();
        let finding = examined(root.path());
        assert_eq!((finding.verified, finding.side), (bytes.len() as u64, None));
        let mut names: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["000000000001.crc", "000000000001.ndjson", "mine.crc"]);
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_named() {
        let root = memory_dir();
        let refused = examine(&root.path().join("none")).unwrap_err().to_string();
        assert!(refused.contains("none"), "{refused}");
        assert_eq!(examine(root.path()).unwrap(), Report::default());
    }
}
