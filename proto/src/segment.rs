//! How segments are called below LOG_DIR: `shard-00/000000000001.ndjson`.
//!
//! Whoever writes and whoever reads them have the names from here. Invariant: what is not named
//! exactly so is no segment.

/// The folder of a shard's segments.
#[must_use]
pub fn shard_name(shard: usize) -> String {
    format!("shard-{shard:02}")
}

/// The shard whose folder is called so.
#[must_use]
pub fn shard_of(name: &str) -> Option<usize> {
    let shard = name.strip_prefix("shard-")?.parse().ok()?;
    (name == shard_name(shard)).then_some(shard)
}

/// The name of a segment in the folder of its shard; numbers are from 1, in the order of writing.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:012}.ndjson")
}

/// The number of the segment that is called so.
#[must_use]
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".ndjson")?.parse().ok()?;
    (name == file_name(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_read_back() {
        for (name, shard) in [
            ("shard-00", Some(0)),
            ("shard-07", Some(7)),
            ("shard-123", Some(123)),
            ("shard-3", None),
            ("shard-007", None),
            ("shard-+7", None),
            ("shards-01", None),
        ] {
            assert_eq!(shard_of(name), shard, "{name}");
        }
        for (name, number) in [
            ("000000000002.ndjson", Some(2)),
            ("1000000000000.ndjson", Some(1_000_000_000_000)),
            ("1.ndjson", None),
            ("000000000002.crc", None),
            ("a.ndjson", None),
        ] {
            assert_eq!(number_of(name), number, "{name}");
        }
    }
}
