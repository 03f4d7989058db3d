//! How much the file system of LOG_DIR has free, looked up for all shards.
//!
//! A thread of its own, because a look at a network or a dying disk may take its time and a shard
//! has none. Owns the figure and what the operator hears of it; leaves to `ingest::disk` what
//! follows for lines. Invariant: a figure that cannot be had refuses no line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::stop::Stop;
use tracing::{info, warn};

use crate::error::Error;

const LOOKS_EVERY: Duration = Duration::from_millis(200);
const UNKNOWN: u64 = u64::MAX;

/// The last look.
#[derive(Debug)]
pub(crate) struct Space {
    free_bytes: AtomicU64,
}

/// Nobody looks.
impl Default for Space {
    fn default() -> Self {
        Space { free_bytes: AtomicU64::new(UNKNOWN) }
    }
}

impl Space {
    /// Looks now, and from then on several times a second until the stop.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn watch(
        log_dir: &Path,
        free_bytes_min: u64,
        stop: Stop,
    ) -> Result<Arc<Space>, Error> {
        let space = Arc::new(Space::default());
        let mut watcher =
            Watcher { log_dir: log_dir.to_owned(), free_bytes_min, said: Said::Enough };
        space.free_bytes.store(watcher.look(), Ordering::Relaxed);
        let seen = Arc::clone(&space);
        std::thread::Builder::new()
            .name("space".into())
            .spawn(move || {
                while !stop.is_requested() {
                    std::thread::sleep(LOOKS_EVERY);
                    seen.free_bytes.store(watcher.look(), Ordering::Relaxed);
                }
            })
            .map_err(Error::Thread)?;
        Ok(space)
    }

    /// As if the last look had seen so much.
    pub(crate) fn seen(free_bytes: u64) -> Space {
        Space { free_bytes: AtomicU64::new(free_bytes) }
    }

    /// What the last look has seen, if anything.
    pub(crate) fn look(&self) -> Option<u64> {
        Some(self.free_bytes()).filter(|&free_bytes| free_bytes != UNKNOWN)
    }

    /// Bytes that the engine may still write there; the largest number if nobody knows.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }
}

/// What the operator heard last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Enough,
    Low,
    Unknown,
}

struct Watcher {
    log_dir: PathBuf,
    free_bytes_min: u64,
    said: Said,
}

impl Watcher {
    fn look(&mut self) -> u64 {
        let free = rustix::fs::statvfs(&self.log_dir)
            // What is kept for root is not counted, although root could have it.
            .map(|system| system.f_bavail.saturating_mul(system.f_frsize));
        let says = match &free {
            Ok(free) if *free < self.free_bytes_min => Said::Low,
            Ok(_) => Said::Enough,
            Err(_) => Said::Unknown,
        };
        if says != self.said {
            let log_dir = self.log_dir.display();
            let free_bytes_min = self.free_bytes_min;
            match &free {
                Ok(free_bytes) if says == Said::Low => warn!(
                    free_bytes,
                    free_bytes_min,
                    "too little is free below {log_dir} (DISK_FREE_BYTES_MIN): new lines get disk_full"
                ),
                Ok(free_bytes) => {
                    info!(free_bytes, free_bytes_min, "enough is free below {log_dir} again");
                }
                Err(error) => {
                    warn!("cannot see how much is free below {log_dir} (LOG_DIR): {error}");
                }
            }
            self.said = says;
        }
        free.unwrap_or(UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_says_what_is_free_and_a_failed_one_refuses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher {
            log_dir: dir.path().to_owned(),
            free_bytes_min: u64::MAX - 1,
            said: Said::Enough,
        };
        let free = watcher.look();
        assert!(free > 0 && free < 1 << 60, "{free}");
        assert_eq!(watcher.said, Said::Low);
        watcher.log_dir.push("none");
        assert_eq!(watcher.look(), UNKNOWN);
        assert_eq!(watcher.said, Said::Unknown);
        watcher.log_dir.pop();
        watcher.free_bytes_min = 0;
        watcher.look();
        assert_eq!(watcher.said, Said::Enough);
    }

    #[test]
    fn nobody_looking_refuses_nothing() {
        assert_eq!(Space::default().free_bytes(), UNKNOWN);
    }
}
