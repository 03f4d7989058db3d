//! LOG_DIR as one engine owns it: locked, recovered, ready to be written.
//!
//! Plain blocking I/O: on the main thread before the shards start, and beside them when a directory
//! that was removed is made again. Owns the lock, which is an `flock` and dies with the process;
//! leaves validation to `recovery`. Invariant: while a [`LogDir`] or a [`Plan`] of it lives, no
//! other engine has the same directory, and no segment is begun in a directory that is not locked.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::recovery::{self, RecoveryReport};
use super::segments;
use crate::sink::disk::FILE_MODE;

pub(super) const DIRECTORY_MODE: u32 = 0o750;
const LOCK: &str = "lock";

/// Why LOG_DIR cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made or read.
    #[error("cannot use {} (LOG_DIR): {source}", path.display())]
    Use {
        /// What it was about.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has it.
    #[error("cannot use {} (LOG_DIR): another engine holds its lock", path.display())]
    Locked {
        /// LOG_DIR.
        path: PathBuf,
    },
    /// What the last run left cannot be put in order.
    #[error("cannot recover the segments in {} (LOG_DIR): {source}", path.display())]
    Recover {
        /// LOG_DIR.
        path: PathBuf,
        /// The system's reason, with the file.
        source: io::Error,
    },
}

/// The directory of all segments, locked.
#[derive(Debug)]
pub struct LogDir {
    recovery: RecoveryReport,
    plan: Plan,
}

/// That LOG_DIR is ours: its lock.
#[derive(Debug)]
pub(super) struct Claim {
    log_dir: PathBuf,
    lock: Mutex<File>,
}

impl Claim {
    /// Sees to it that the directory of a shard is there and ours: somebody may have removed or
    /// moved it, or LOG_DIR. What is missing is made again, and locked again, but nothing above
    /// LOG_DIR: a file system that is not mounted is not made up for.
    pub(super) fn renew(&self, shard_directory: &Path) -> io::Result<()> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |there: &fs::Metadata, held: &fs::Metadata| {
            (there.dev(), there.ino()) == (held.dev(), held.ino())
        };
        let there = fs::metadata(self.log_dir.join(LOCK));
        if !there.is_ok_and(|there| held.metadata().is_ok_and(|held| same(&there, &held))) {
            if make(&self.log_dir)? {
                tracing::warn!("{} (LOG_DIR) was gone, and is made again", self.log_dir.display());
            }
            let file = open_lock(&self.log_dir)?;
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => {
                    let text =
                        format!("{} (LOG_DIR) is another engine's by now", self.log_dir.display());
                    io::Error::new(io::ErrorKind::ResourceBusy, text)
                }
                TryLockError::Error(source) => source,
            })?;
            *held = file;
        }
        make(shard_directory).map(drop)
    }
}

/// Makes one directory, durably; whether it was missing.
fn make(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new("/"))).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where each shard begins.
#[derive(Clone, Debug)]
pub struct Plan {
    log_dir: PathBuf,
    /// `None` where no directory is real.
    claim: Option<Arc<Claim>>,
    /// The number of each shard's next segment.
    next: Vec<u64>,
}

impl Plan {
    /// The directory of a shard, and the number of its next segment.
    pub(super) fn shard(&self, shard: usize) -> (PathBuf, u64) {
        (segments::shard_directory(&self.log_dir, shard), self.next[shard])
    }

    /// By what the directories are ours.
    pub(super) fn claim(&self) -> Option<Arc<Claim>> {
        self.claim.clone()
    }

    #[cfg(test)]
    pub(crate) fn for_test(log_dir: &Path, next: u64) -> Plan {
        Plan { log_dir: log_dir.to_owned(), claim: None, next: vec![next] }
    }
}

impl LogDir {
    /// Makes the directory and those of `shards` shards, locks it, and recovers what every shard
    /// left there, also those beyond `shards`.
    ///
    /// # Errors
    /// Another engine has it, or the disk refuses.
    pub fn open(path: &Path, shards: usize) -> Result<LogDir, OpenError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Use { path, source }
        };
        // glommio opens a relative directory as if it had no name (EBADF).
        let path = &std::path::absolute(path).map_err(unusable(path))?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        let new: Vec<_> = path.ancestors().take_while(|path| is_missing(path)).collect();
        builder.create(path).map_err(unusable(path))?;
        for made in new {
            let parent = made.parent().unwrap_or(Path::new("/"));
            sync_directory(parent).map_err(unusable(parent))?;
        }
        let lock = lock(path)?;

        let found = segments::shards(path).map_err(unusable(path))?;
        for shard in 0..shards {
            let directory = segments::shard_directory(path, shard);
            builder.create(&directory).map_err(unusable(&directory))?;
        }
        sync_directory(path).map_err(unusable(path))?;

        let mut recovery = RecoveryReport::default();
        let mut next = vec![1; shards];
        for shard in found {
            let begins = recovery::recover_shard(path, shard, &mut recovery)
                .map_err(|source| OpenError::Recover { path: path.to_owned(), source })?;
            if let Some(next) = next.get_mut(shard) {
                *next = begins;
            }
        }
        let claim = Some(Arc::new(Claim { log_dir: path.to_owned(), lock: Mutex::new(lock) }));
        Ok(LogDir { recovery, plan: Plan { log_dir: path.to_owned(), claim, next } })
    }

    /// What had to be put in order.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    /// Where each shard begins, for its thread.
    pub fn plan(&self) -> Plan {
        self.plan.clone()
    }
}

fn is_missing(path: &Path) -> bool {
    path != "" && !path.exists()
}

/// Makes creations and removals in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn open_lock(log_dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(FILE_MODE).open(log_dir.join(LOCK))
}

fn lock(log_dir: &Path) -> Result<File, OpenError> {
    let path = log_dir.join(LOCK);
    let failed = |source| OpenError::Use { path: path.clone(), source };
    let file = open_lock(log_dir).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: log_dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_engine_on_one_directory_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = LogDir::open(&path, 2).unwrap();
        let refused = LogDir::open(&path, 2).unwrap_err().to_string();
        assert!(refused.contains("LOG_DIR") && refused.contains("another engine"), "{refused}");
        assert!(refused.contains(&path.display().to_string()), "{refused}");
        drop(first);
        LogDir::open(&path, 2).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = LogDir::open(&file, 1).unwrap_err().to_string();
        assert!(refused.contains("(LOG_DIR)") && refused.contains("file"), "{refused}");
    }
}
