//! RETAIN_BYTES_MAX: removes the oldest segments of an engine while all of them are larger.
//!
//! Plain blocking I/O, from a thread that belongs to no shard. Leaves to the sinks what they write
//! now and next. Invariant: a segment is removed only if its shard writes to a later one, or does
//! not run; within a shard the oldest goes first. A side file goes with its segment, and counts
//! for nothing.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::segments::{self, Segment};
use super::side;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many segments.
    pub segments: u64,
    /// Their size together.
    pub bytes: u64,
    /// What could not be read or removed, in words.
    pub troubles: Vec<String>,
}

/// Removes closed segments, the oldest first, until all segments together have at most
/// `bytes_max` bytes (0: no limit). `active[shard]` is the number of the segment which that shard
/// writes; shards beyond `active` do not run. Active segments count, and stay.
pub fn enforce(log_dir: &Path, bytes_max: u64, active: &[Arc<AtomicU64>]) -> Removed {
    let mut removed = Removed::default();
    if bytes_max == 0 {
        return removed;
    }
    let (mut bytes, mut closed) = match survey(log_dir, active) {
        Ok(survey) => survey,
        Err(error) => {
            removed.troubles.push(format!("cannot list {} (LOG_DIR): {error}", log_dir.display()));
            return removed;
        }
    };
    while bytes > bytes_max {
        // A clock that jumps may mix up the order between shards, never that within one.
        let oldest = closed
            .iter_mut()
            .filter(|shard| !shard.is_empty())
            .min_by_key(|shard| shard.front().map(|segment| segment.modified));
        let Some(segment) = oldest.and_then(VecDeque::pop_front) else { break };
        let side = side::path_of(&segment.path);
        // Where it is being packed just now, both are there.
        let packed = segment.path.with_file_name(segments::packed_name(segment.number));
        let all = [&segment.path, &packed, &side];
        match all.into_iter().try_for_each(|path| remove(path)) {
            Ok(()) => {
                bytes -= segment.bytes;
                removed.segments += 1;
                removed.bytes += segment.bytes;
            }
            Err(error) => {
                removed.troubles.push(format!("cannot remove {}: {error}", segment.path.display()))
            }
        }
    }
    removed
}

/// The size of all segments, and the closed ones of each shard.
fn survey(log_dir: &Path, active: &[Arc<AtomicU64>]) -> io::Result<(u64, Vec<VecDeque<Segment>>)> {
    let mut bytes = 0;
    let mut closed = Vec::new();
    for shard in segments::shards(log_dir)? {
        // Read before the listing: what is closed now stays closed.
        let active = active.get(shard).map_or(u64::MAX, |number| number.load(Ordering::Acquire));
        let mut segments =
            VecDeque::from(segments::segments(&segments::shard_directory(log_dir, shard))?);
        bytes += segments.iter().map(|segment| segment.bytes).sum::<u64>();
        segments.retain(|segment| segment.number < active);
        closed.push(segments);
    }
    Ok((bytes, closed))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn segment(log_dir: &Path, shard: usize, number: u64, bytes: usize, second: u64) {
        let directory = segments::shard_directory(log_dir, shard);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(segments::file_name(number));
        fs::write(&path, vec![b'\n'; bytes]).unwrap();
        fs::write(side::path_of(&path), "derived").unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
    }

    fn left(log_dir: &Path) -> Vec<(usize, u64)> {
        let mut left = Vec::new();
        for shard in segments::shards(log_dir).unwrap() {
            let directory = segments::shard_directory(log_dir, shard);
            let found = segments::segments(&directory).unwrap();
            assert_eq!(segments::side_files(&directory).unwrap().len(), found.len());
            left.extend(segments::segments(&directory).unwrap().iter().map(|s| (shard, s.number)));
        }
        left
    }

    #[test]
    fn the_oldest_closed_segments_go_and_active_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let active: Vec<_> = [3, 2].into_iter().map(|n| Arc::new(AtomicU64::new(n))).collect();
        for number in 1..=4 {
            segment(dir.path(), 0, number, 100, 10 * number);
        }
        for number in 1..=2 {
            segment(dir.path(), 1, number, 100, 15 * number);
        }
        segment(dir.path(), 5, 9, 100, 12); // of a shard that runs no longer
        assert_eq!(enforce(dir.path(), 0, &active), Removed::default());
        assert_eq!(enforce(dir.path(), 700, &active), Removed::default());

        let removed = enforce(dir.path(), 500, &active);
        assert_eq!((removed.segments, removed.bytes), (2, 200));
        assert_eq!(left(dir.path()), [(0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]);

        let removed = enforce(dir.path(), 1, &active);
        assert_eq!((removed.segments, removed.bytes), (2, 200));
        assert_eq!(left(dir.path()), [(0, 3), (0, 4), (1, 2)]);
        assert!(removed.troubles.is_empty(), "{:?}", removed.troubles);
    }

    #[test]
    fn within_a_shard_the_lower_number_goes_first_whatever_the_clock_said() {
        let dir = tempfile::tempdir().unwrap();
        let active = [Arc::new(AtomicU64::new(3))];
        segment(dir.path(), 0, 1, 100, 500);
        segment(dir.path(), 0, 2, 100, 10);
        segment(dir.path(), 0, 3, 100, 20);
        enforce(dir.path(), 250, &active);
        assert_eq!(left(dir.path()), [(0, 2), (0, 3)]);
    }

    #[test]
    fn a_shard_that_has_not_begun_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        segment(dir.path(), 0, 1, 100, 1);
        assert_eq!(enforce(dir.path(), 1, &[Arc::default()]), Removed::default());
        let gone = enforce(&dir.path().join("gone"), 1, &[]);
        assert_eq!(gone.troubles.len(), 1);
    }
}
