//! SEGMENT_COMPRESSION: closed segments become packed ones (`000000000001.ndjson.zst`).
//!
//! Plain blocking I/O, one segment at a time, from a thread that belongs to no shard. Leaves what a
//! packed segment is to [`proto::packed`]. The steps, each durable before the next one:
//!
//! ```text
//!  pack into .zst.tmp ─> read it back: the same bytes? ─> sync ─> rename to .zst, sync the directory
//!                                                                 ─> remove the plain one
//! ```
//!
//! Invariants: a plain segment is removed only when its packed one is there, read back, and durable;
//! where both are there, the plain one counts; only segments are packed that their shard writes no
//! more, or whose shard does not run. The side file stays: its offsets are those of the content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::packed::Content;
use rustix::fs::{Advice, fadvise};

use super::log_dir::{Claim, Plan, sync_directory};
use super::segments::{self, Segment};
use super::side;
use crate::sink::disk::FILE_MODE;

const CHUNK_BYTES: usize = 1 << 20;
/// zstd's own default: a tenth of the size of repetitive lines, at some 300 MB a second.
const LEVEL: i32 = 3;

/// What was packed since the start, for whoever watches.
#[derive(Debug, Default)]
pub struct Packed {
    /// Segments.
    pub segments: AtomicU64,
    /// Their size before.
    pub bytes_before: AtomicU64,
    /// And after.
    pub bytes_after: AtomicU64,
}

/// Packs the closed segments of a LOG_DIR.
#[derive(Debug)]
pub struct Packer {
    log_dir: PathBuf,
    /// `active[shard]` is the number of the segment which that shard writes.
    active: Vec<Arc<AtomicU64>>,
    /// No other engine has the directory as long as this one packs in it.
    _claim: Option<Arc<Claim>>,
    packed: Arc<Packed>,
}

impl Packer {
    /// Of the directory of `plan`.
    pub fn new(
        log_dir: &Path,
        plan: &Plan,
        active: Vec<Arc<AtomicU64>>,
        packed: Arc<Packed>,
    ) -> Packer {
        Packer { log_dir: log_dir.to_owned(), active, _claim: plan.claim(), packed }
    }

    /// Packs what is closed, until nothing is left or `is_over`; gives troubles, in words.
    pub fn pack_all(&self, is_over: &dyn Fn() -> bool) -> Vec<String> {
        let mut troubles = Vec::new();
        let named =
            |path: &Path, error: io::Error| format!("cannot pack {}: {error}", path.display());
        let shards = match segments::shards(&self.log_dir) {
            Ok(shards) => shards,
            Err(error) => return vec![named(&self.log_dir, error)],
        };
        for shard in shards {
            // Read before the listing: what is closed now stays closed.
            let active = self.active.get(shard);
            let active = active.map_or(u64::MAX, |number| number.load(Ordering::Acquire));
            let directory = segments::shard_directory(&self.log_dir, shard);
            let found = match segments::segments(&directory) {
                Ok(found) => found,
                Err(error) => {
                    troubles.push(named(&directory, error));
                    continue;
                }
            };
            let closed = |it: &&Segment| it.number < active && !it.is_packed && it.bytes > 0;
            for segment in found.iter().filter(closed) {
                match pack(&directory, segment, is_over) {
                    Ok(Some(bytes_after)) => {
                        self.packed.segments.fetch_add(1, Ordering::Relaxed);
                        self.packed.bytes_before.fetch_add(segment.bytes, Ordering::Relaxed);
                        self.packed.bytes_after.fetch_add(bytes_after, Ordering::Relaxed);
                    }
                    // It was removed meanwhile, or the engine stops.
                    Ok(None) => {}
                    Err(error) => troubles.push(named(&segment.path, error)),
                }
                if is_over() {
                    return troubles;
                }
            }
        }
        troubles
    }
}

/// Packs one segment; gives the size of the packed one, or nothing where there is none in the end.
fn pack(
    directory: &Path,
    segment: &Segment,
    is_over: &dyn Fn() -> bool,
) -> io::Result<Option<u64>> {
    let copy = directory.join(segments::packing_name(segment.number));
    let packed = directory.join(segments::packed_name(segment.number));
    let written = write(segment, &copy, is_over).and_then(|written| match written {
        Some(()) => is_same(&segment.path, &copy, is_over),
        None => Ok(None),
    });
    match written {
        Ok(Some(true)) => {}
        Ok(Some(false)) => {
            let _ = fs::remove_file(&copy);
            return Err(io::Error::other("what was packed does not read back the same"));
        }
        other => {
            let _ = fs::remove_file(&copy);
            return match other {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            };
        }
    }
    fs::rename(&copy, &packed)?;
    sync_directory(directory)?;
    let bytes = fs::metadata(&packed)?.len();
    match fs::remove_file(&segment.path) {
        Ok(()) => sync_directory(directory).map(|()| Some(bytes)),
        // RETAIN_BYTES_MAX or somebody removed it meanwhile: then it has to be gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            remove(&packed)?;
            remove(&side::path_of(&segment.path))?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes the packed copy, durably; `None` if it is over.
fn write(segment: &Segment, copy: &Path, is_over: &dyn Fn() -> bool) -> io::Result<Option<()>> {
    let mut input = open(&segment.path)?;
    let bytes = input.metadata()?.len();
    let mut options = OpenOptions::new();
    let out = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(copy)?;
    let mut encoder = zstd::stream::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(bytes))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if is_over() {
            return Ok(None);
        }
        match input.read(&mut chunk)? {
            0 => break,
            some => encoder.write_all(&chunk[..some])?,
        }
    }
    let out = encoder.finish()?;
    // The order of removal goes by it.
    out.set_modified(segment.modified)?;
    out.sync_all()?;
    Ok(Some(()))
}

/// Whether the packed copy has the same content; `None` if it is over.
fn is_same(plain: &Path, copy: &Path, is_over: &dyn Fn() -> bool) -> io::Result<Option<bool>> {
    let mut plain = open(plain)?;
    let mut copy = Content::of(proto::packed::ENDING, open(copy)?)?;
    let (mut one, mut other) = (Vec::new(), Vec::new());
    loop {
        if is_over() {
            return Ok(None);
        }
        for (input, chunk) in [(&mut plain as &mut dyn Read, &mut one), (&mut copy, &mut other)] {
            chunk.clear();
            input.take(CHUNK_BYTES as u64).read_to_end(chunk)?;
        }
        if one != other || one.is_empty() {
            break;
        }
    }
    // Nobody reads it soon: the page cache is for what is written now.
    let _ = fadvise(&plain, 0, None, Advice::DontNeed);
    Ok(Some(one == other))
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    Ok(file)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::file::fsck;
    use crate::sink::file::{LogDir, retention};

    /// A LOG_DIR of one shard with segments of these numbers, each of many lines.
    fn log_dir(numbers: &[u64]) -> tempfile::TempDir {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let directory = segments::shard_directory(root.path(), 0);
        fs::create_dir_all(&directory).unwrap();
        for &number in numbers {
            fs::write(directory.join(segments::file_name(number)), content(number)).unwrap();
        }
        root
    }

    fn content(number: u64) -> Vec<u8> {
        let line = |n: u64| format!("{{\"level\":\"INFO\",\"message\":\"{number}.{n}\"}}\n");
        (0..3_000).flat_map(|n| line(n).into_bytes()).collect()
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(segments::shard_directory(root, 0))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".crc"))
            .collect();
        names.sort();
        names
    }

    fn packer(root: &Path, active: u64) -> Packer {
        let active = vec![Arc::new(AtomicU64::new(active))];
        Packer::new(root, &Plan::for_test(root, 9), active, Arc::default())
    }

    fn unpacked(root: &Path, number: u64) -> Vec<u8> {
        let path = segments::shard_directory(root, 0).join(segments::packed_name(number));
        let mut out = Vec::new();
        Content::of(".zst", File::open(path).unwrap()).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn what_is_closed_is_packed_once_and_what_is_written_stays() {
        let root = log_dir(&[1, 2, 3]);
        let packer = packer(root.path(), 3);
        assert!(packer.pack_all(&|| false).is_empty());
        let after = ["000000000001.ndjson.zst", "000000000002.ndjson.zst", "000000000003.ndjson"];
        assert_eq!(names(root.path()), after);
        assert_eq!((unpacked(root.path(), 1), unpacked(root.path(), 2)), (content(1), content(2)));
        let before = packer.packed.bytes_before.load(Ordering::Relaxed);
        let after_bytes = packer.packed.bytes_after.load(Ordering::Relaxed);
        assert!(before > 5 * after_bytes && after_bytes > 0, "{before} became {after_bytes}");
        assert!(packer.pack_all(&|| false).is_empty());
        assert_eq!(packer.packed.segments.load(Ordering::Relaxed), 2);
        // Retention counts what lies on the disk.
        let removed = retention::enforce(root.path(), 3 * after_bytes, &packer.active);
        assert_eq!((removed.segments, removed.bytes), (2, after_bytes));
        assert_eq!(names(root.path()), ["000000000003.ndjson"]);
    }

    #[test]
    fn a_crash_at_any_step_leaves_each_line_once_for_whoever_reads() {
        let plain = segments::file_name(1);
        let (tmp, zst) = (segments::packing_name(1), segments::packed_name(1));
        let packed = {
            let root = log_dir(&[1]);
            packer(root.path(), 2).pack_all(&|| false);
            fs::read(segments::shard_directory(root.path(), 0).join(&zst)).unwrap()
        };
        for (left, after) in [
            (vec![(&plain, content(1)), (&tmp, packed[..90].to_vec())], &plain),
            (vec![(&plain, content(1)), (&tmp, packed.clone())], &plain),
            (vec![(&plain, content(1)), (&zst, packed.clone())], &plain),
            (vec![(&zst, packed.clone())], &zst),
        ] {
            let root = log_dir(&[]);
            let directory = segments::shard_directory(root.path(), 0);
            left.iter().for_each(|(name, bytes)| fs::write(directory.join(name), bytes).unwrap());
            assert_eq!(segments::segments(&directory).unwrap().len(), 1);
            assert_eq!(fsck::examine(root.path()).unwrap().segments[0].lines, 3_000);
            let opened = LogDir::open(root.path(), 1).unwrap();
            assert_eq!(opened.plan().shard(0).1, 2, "its number is not used again");
            assert_eq!(names(root.path()), [after.as_str()]);
            drop(opened);
            packer(root.path(), 2).pack_all(&|| false);
            assert_eq!(
                (names(root.path()), unpacked(root.path(), 1)),
                (vec![zst.clone()], content(1))
            );
        }
    }

    #[test]
    fn a_stop_and_a_full_disk_leave_the_plain_segment() {
        let root = log_dir(&[1]);
        let packer = packer(root.path(), 2);
        let asked = std::cell::Cell::new(0);
        for steps in 0..6 {
            asked.set(0);
            packer.pack_all(&|| {
                asked.set(asked.get() + 1);
                asked.get() > steps
            });
            let is_done = names(root.path()) == [segments::packed_name(1)];
            assert!(is_done || names(root.path()) == [segments::file_name(1)], "{steps}");
        }
        // A directory that is in the way.
        let root = log_dir(&[1]);
        let directory = segments::shard_directory(root.path(), 0);
        fs::create_dir(directory.join(segments::packing_name(1))).unwrap();
        let packer = Packer::new(
            root.path(),
            &Plan::for_test(root.path(), 9),
            vec![Arc::new(AtomicU64::new(2))],
            Arc::default(),
        );
        assert_eq!(packer.pack_all(&|| false).len(), 1);
        assert_eq!(fs::read(directory.join(segments::file_name(1))).unwrap(), content(1));
    }
}
