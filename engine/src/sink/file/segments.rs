//! What lies below LOG_DIR: `shard-00/000000000001.ndjson`, and with `.zst` behind it once it is
//! packed.
//!
//! Owns finding it, and which of two counts; the names are `proto`'s. Invariant: what is not named
//! exactly so is not ours,
//! and nothing touches it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proto::packed;
pub use proto::segment::file_name;
pub(super) use proto::segment::shard_name;
use proto::segment::{number_of, shard_of};

/// A segment as it lies in its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// From 1, in the order of writing.
    pub number: u64,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub modified: SystemTime,
    /// Its content is packed.
    pub is_packed: bool,
}

/// The directory of a shard's segments.
pub fn shard_directory(log_dir: &Path, shard: usize) -> PathBuf {
    log_dir.join(shard_name(shard))
}

/// The name of a packed segment in the directory of its shard.
pub(super) fn packed_name(number: u64) -> String {
    file_name(number) + packed::ENDING
}

/// The same of one that is being packed.
pub(super) fn packing_name(number: u64) -> String {
    packed_name(number) + ".tmp"
}

/// Every shard that has a directory below `log_dir`, in order, also those that run no longer.
///
/// # Errors
/// The directory cannot be read.
pub fn shards(log_dir: &Path) -> io::Result<Vec<usize>> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(log_dir)? {
        let name = entry?.file_name();
        shards.extend(name.to_str().and_then(shard_of));
    }
    shards.sort_unstable();
    Ok(shards)
}

/// The segments in a shard's directory, in the order of writing; where one is there plain and
/// packed, the plain one.
///
/// # Errors
/// The directory or an entry of it cannot be read.
pub fn segments(directory: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(number) = number_of(packed::plain_name(name)) else { continue };
        let is_packed = packed::is_packed(name);
        let metadata = match entry.metadata() {
            // Somebody may remove one meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        if metadata.is_file() {
            let (bytes, modified) = (metadata.len(), metadata.modified()?);
            segments.push(Segment { number, path: entry.path(), bytes, modified, is_packed });
        }
    }
    segments.sort_unstable_by_key(|segment| (segment.number, segment.is_packed));
    segments.dedup_by_key(|segment| segment.number);
    Ok(segments)
}

/// What packing left in a shard's directory and nobody needs: what it did not end, and packed segments
/// whose plain ones are still there.
pub(super) fn half_packed(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (name, is_half) = match name.strip_suffix(".tmp") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let Some(plain) = name.strip_suffix(packed::ENDING) else { continue };
        let is_ours = number_of(plain).is_some();
        if is_ours && (is_half || directory.join(plain).exists()) {
            files.push(path);
        }
    }
    Ok(files)
}

/// The side files in a shard's directory, and the number of the segment that each belongs to.
pub(super) fn side_files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = [".crc", ".crc.tmp"].into_iter().find_map(|end| {
            let number = name.strip_suffix(end)?.parse().ok()?;
            (name == format!("{number:012}{end}")).then_some(number)
        });
        files.extend(number.map(|number| (number, path.clone())));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_ours() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["shard-00", "shard-07", "shard-123", "shard-3", "shard-007", "shards-01", "x"]
        {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(shards(dir.path()).unwrap(), [0, 7, 123]);

        let shard = shard_directory(dir.path(), 7);
        for name in ["000000000002.ndjson", "000000000010.ndjson", "1.ndjson", "a.ndjson", "x"] {
            fs::write(shard.join(name), name).unwrap();
        }
        for name in ["000000000002.crc", "000000000003.crc.tmp", "1.crc", "000000000009.crc~"] {
            fs::write(shard.join(name), name).unwrap();
        }
        let mut sides: Vec<_> = side_files(&shard).unwrap().into_iter().map(|one| one.0).collect();
        sides.sort_unstable();
        assert_eq!(sides, [2, 3]);
        fs::create_dir(shard.join(file_name(4))).unwrap();
        fs::write(shard.join("1000000000000.ndjson"), "beyond twelve digits").unwrap();
        let found = segments(&shard).unwrap();
        assert_eq!(found.iter().map(|s| s.number).collect::<Vec<_>>(), [2, 10, 1_000_000_000_000]);
        assert_eq!(found[0].bytes, 19);
    }
}
