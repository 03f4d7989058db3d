//! Whether the disk has room for what a tier can write. Asked before the tier, so that a full disk
//! is an error message and not a failed tier.

use std::path::Path;

use rustix::fs::statvfs;

use crate::error::Error;
use crate::figures::thousands;
use crate::suite::Tier;

/// A line as the generator makes it, about 200 bytes, and its share of padding.
const LINE_BYTES: u64 = 210;
/// More than a core takes in a second: what bounds a tier without a total.
const LINES_PER_CORE_MAX: u64 = 3_500_000;
/// Segments that are made ahead of time, and what else a disk needs.
const SLACK_BYTES: u64 = 256 << 20;

/// What `tier` can write at most on an engine with so many cores, in bytes.
pub fn needed_bytes(tier: &Tier, engine_cores: usize) -> u64 {
    let cores = engine_cores.max(1) as u64;
    let seconds = tier.duration.as_secs() + 1;
    let by_time = seconds.saturating_mul(LINES_PER_CORE_MAX).saturating_mul(cores);
    let lines = tier.total_logs.map_or(by_time, |total| total.min(by_time));
    lines.saturating_mul(LINE_BYTES).saturating_add(SLACK_BYTES)
}

/// Refuses a tier that `folder` has no room for.
///
/// # Errors
/// [`Error::DiskFull`] names the knob that made the tier so large, what it needs and what is free.
pub fn check(tier: &Tier, engine_cores: usize, folder: &Path) -> Result<(), Error> {
    let found = statvfs(folder)
        .map_err(|error| Error::Temporary { path: folder.to_owned(), source: error.into() })?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let needed = needed_bytes(tier, engine_cores);
    if free >= needed {
        return Ok(());
    }
    let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
    // What made the tier so large.
    let knob = match tier.total_logs {
        Some(total) => format!("{} messages (SCALE)", thousands(total)),
        None => format!("{} s (PEAK_SECS)", tier.duration.as_secs()),
    };
    let (needed, free) = (gib(needed), gib(free));
    Err(Error::DiskFull { tier: tier.name, knob, folder: folder.to_owned(), needed, free })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::suite::tiers::suite;

    #[test]
    fn a_total_or_the_time_bounds_what_a_tier_writes() {
        let tiers = suite(1000, Duration::from_secs(5)).tiers;
        let gb = |bytes: u64| bytes / 1_000_000_000;
        assert_eq!(gb(needed_bytes(&tiers[4], 1)), 10, "50 million lines");
        assert_eq!(gb(needed_bytes(&tiers[5], 1)), 4, "five seconds");
        let absurd = &suite(u64::MAX, Duration::from_secs(5)).tiers[4];
        assert_eq!(gb(needed_bytes(absurd, 1)), 23, "30 seconds end it");
    }

    #[test]
    fn a_disk_that_is_too_small_is_named_with_both_figures() {
        let folder = tempfile::tempdir().unwrap();
        let tier = &suite(1, Duration::from_secs(1_000_000_000)).tiers[5];
        let error = check(tier, 64, folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        for needle in ["tier peak", "1000000000 s (PEAK_SECS)", " GiB to ", "(TMPDIR)", " GiB free"]
        {
            assert!(text.contains(needle), "{needle} is not in: {text}");
        }
        let tier = &suite(1_000_000_000, Duration::ZERO).tiers[4];
        let text = check(tier, 64, folder.path()).unwrap_err().to_string();
        assert!(text.contains("50,000,000,000,000 messages (SCALE)"), "{text}");
        check(&suite(1, Duration::ZERO).tiers[0], 1, folder.path()).unwrap();
    }
}
