//! Whether the disk has room for new lines, as one shard knows it.
//!
//! Two sources: how much of the file system is free, which `space.rs` looks up for all shards, and
//! the shard's own writes, which may find it full first. Pure; time is handed in. Invariant: it
//! never stays full without a reason that is looked at again: the next look, or the next write.

use std::time::{Duration, Instant};

/// After a write that found no room, the next one is tried after this time at the earliest. Where
/// a look shows room all the same (a quota, a file system that reports late) this is the pace.
pub const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Disk {
    free_bytes_min: u64,
    is_low: bool,
    ran_out_at: Option<Instant>,
}

impl Disk {
    /// A disk that has room. With `free_bytes_min` 0 only a failed write shows that it has none.
    pub fn new(free_bytes_min: u64) -> Disk {
        Disk { free_bytes_min, is_low: false, ran_out_at: None }
    }

    /// Whether new lines are refused.
    pub fn is_full(&self) -> bool {
        self.is_low || self.ran_out_at.is_some()
    }

    /// So much was free at the last look. True if the shard had run out of room, and no longer has.
    pub fn looked(&mut self, free_bytes: u64, now: Instant) -> bool {
        self.is_low = free_bytes < self.free_bytes_min;
        let may_try = |since: &mut Instant| now >= *since + PAUSE && free_bytes > 0;
        !self.is_low && self.ran_out_at.take_if(may_try).is_some()
    }

    /// A write found no room. True if that is new.
    pub fn ran_out(&mut self, now: Instant) -> bool {
        self.ran_out_at.replace(now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_below_the_bound_and_recovers_at_it() {
        let now = Instant::now();
        let mut disk = Disk::new(100);
        for (free, full) in [(100, false), (99, true), (0, true), (100, false)] {
            disk.looked(free, now);
            assert_eq!(disk.is_full(), full, "{free} free");
        }
    }

    #[test]
    fn a_write_without_room_fills_it_until_a_pause_is_over_and_a_look_shows_room() {
        let now = Instant::now();
        for free_bytes_min in [0, 100] {
            let mut disk = Disk::new(free_bytes_min);
            assert!(disk.ran_out(now) && !disk.ran_out(now));
            assert!(!disk.looked(1000, now + PAUSE / 2) && disk.is_full());
            assert!(!disk.looked(0, now + PAUSE) && disk.is_full());
            assert!(disk.looked(1000, now + PAUSE) && !disk.is_full());
            assert!(!disk.looked(1000, now + PAUSE), "told once");
        }
    }

    #[test]
    fn room_for_a_retry_is_not_taken_below_the_bound() {
        let now = Instant::now();
        let mut disk = Disk::new(100);
        disk.ran_out(now);
        assert!(!disk.looked(99, now + 2 * PAUSE) && disk.is_full());
        assert!(disk.looked(100, now + 2 * PAUSE) && !disk.is_full());
    }
}
