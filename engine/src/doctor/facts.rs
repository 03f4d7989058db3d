//! What the machine says: asked once, judged elsewhere.
//!
//! Invariant: nothing is left behind; the file that tries LOG_DIR is removed.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::cpus::Cpus;
use runtime::ring_flags;
use runtime::shards::Plan;
use runtime::uring::{Refused, Uring};
use rustix::process::{Resource, getrlimit};

use crate::sink::BLOCK;
use crate::sink::disk::{Disk as _, RealDisk};

/// The capability that lifts the limit on locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// What the machine said.
#[derive(Debug)]
pub(super) struct Facts {
    /// `uname -r`.
    pub(super) kernel: String,
    pub(super) uring: Result<Uring, Refused>,
    /// `None` where io_uring is refused already.
    pub(super) rings: Option<Result<Rings, String>>,
    /// Soft limit in bytes; `None` is unlimited.
    pub(super) memlock: Option<u64>,
    /// CAP_IPC_LOCK: the limit does not hold for this process.
    pub(super) locks_freely: bool,
    /// Soft and hard limit.
    pub(super) nofile: (u64, u64),
    pub(super) cpus: Result<Cpus, String>,
    pub(super) log_dir: Folder,
    pub(super) somaxconn: Option<u64>,
    /// First and last port for outgoing connections.
    pub(super) local_ports: Option<(u64, u64)>,
}

/// The rings of one executor. A build without the linker wrap never gets here: `shards::start`
/// asserts it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    pub(super) wrapped: usize,
    pub(super) cooperative: usize,
}

/// LOG_DIR, or where it would be made.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) log_dir: PathBuf,
    /// LOG_DIR itself, or its nearest parent that exists.
    pub(super) nearest: PathBuf,
    /// The magic number of `statfs`, and free bytes.
    pub(super) system: Result<(i64, u64), String>,
    /// Whether a file could be written there.
    pub(super) writable: Result<(), String>,
    pub(super) direct: Direct,
}

#[derive(Debug)]
pub(super) enum Direct {
    Works,
    Refused(String),
    /// Without io_uring, or where nothing can be written, it cannot be tried.
    NotTried,
}

pub(super) fn gather(log_dir: &Path) -> Facts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let uring = runtime::uring::probe();
    let cpus = Cpus::detect().map_err(|error| error.to_string());
    let nearest = nearest(log_dir);
    let system = rustix::fs::statfs(&nearest)
        .map(|system| {
            let block = u64::try_from(system.f_bsize).unwrap_or_default();
            (system.f_type, system.f_bavail.saturating_mul(block))
        })
        .map_err(|errno| errno.to_string());
    let writable = try_writing(&nearest).map_err(|error| error.to_string());
    let (rings, direct) = match uring {
        Ok(_) => try_rings(&cpus, writable.is_ok().then_some(&*nearest)),
        Err(_) => (None, Direct::NotTried),
    };
    Facts {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uring,
        rings,
        memlock: getrlimit(Resource::Memlock).current,
        locks_freely: has_capability(&read("/proc/self/status"), CAP_IPC_LOCK),
        nofile: runtime::nofile::limits(),
        cpus,
        log_dir: Folder { log_dir: log_dir.to_owned(), nearest, system, writable, direct },
        somaxconn: read("/proc/sys/net/core/somaxconn").trim().parse().ok(),
        local_ports: ports(&read("/proc/sys/net/ipv4/ip_local_port_range")),
    }
}

fn nearest(log_dir: &Path) -> PathBuf {
    let existing = log_dir.ancestors().find(|path| path.exists());
    // The last ancestor of a relative path is empty: the working directory.
    existing.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// A name that nothing else uses; dotted, so that no reader of LOG_DIR takes it for a segment.
fn trial_file(folder: &Path) -> PathBuf {
    folder.join(format!(".logboom-doctor-{}", std::process::id()))
}

fn try_writing(folder: &Path) -> io::Result<()> {
    let path = trial_file(folder);
    let written = std::fs::File::create_new(&path).and_then(|mut file| file.write_all(b"\n"));
    let _ = std::fs::remove_file(&path);
    written
}

/// Starts one executor as the engine does, and in it writes one block as the file sink does.
fn try_rings(
    cpus: &Result<Cpus, String>,
    folder: Option<&Path>,
) -> (Option<Result<Rings, String>>, Direct) {
    let before = (ring_flags::wrapped_calls(), ring_flags::cooperative_rings());
    let plan = Plan {
        name: "doctor",
        count: 1,
        cpus: cpus.as_ref().map_or_else(|_| Vec::new(), |cpus| cpus.affinity.clone()),
        preempt: Duration::from_millis(1),
        ring_depth: 64,
        io_memory_bytes: 1 << 20,
    };
    let path = folder.map(trial_file);
    let started = runtime::shards::start(&plan, {
        let path = path.clone();
        move |_| {
            let path = path.clone();
            async move {
                match path {
                    Some(path) => try_direct(&path).await,
                    None => Direct::NotTried,
                }
            }
        }
    });
    let shards = match started {
        Ok(shards) => shards,
        Err(error) => return (Some(Err(error.to_string())), Direct::NotTried),
    };
    let mut direct = Direct::NotTried;
    for shard in shards {
        direct = shard.join();
    }
    if let Some(path) = path {
        let _ = std::fs::remove_file(path);
    }
    let rings = Rings {
        wrapped: ring_flags::wrapped_calls() - before.0,
        cooperative: ring_flags::cooperative_rings() - before.1,
    };
    (Some(Ok(rings)), direct)
}

async fn try_direct(path: &Path) -> Direct {
    let disk = RealDisk::default();
    let file = match disk.create(path).await {
        Ok(file) => file,
        Err(error) => return Direct::Refused(error.to_string()),
    };
    let mut block = disk.alloc(BLOCK);
    block.as_mut().fill(b'\n');
    let wrote = disk.write_at(&file, disk.seal(block, BLOCK), 0).await;
    let _ = disk.close(file).await;
    match (disk.note(), wrote) {
        (Some(_), _) => Direct::Refused("O_DIRECT is refused".into()),
        (None, Ok(BLOCK)) => Direct::Works,
        (None, Ok(some)) => Direct::Refused(format!("wrote {some} of {BLOCK} bytes")),
        (None, Err(error)) => Direct::Refused(error.to_string()),
    }
}

/// Whether the text of `/proc/self/status` has the effective capability.
fn has_capability(status: &str, capability: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> capability & 1 == 1)
}

/// The text of `ip_local_port_range`: two numbers.
fn ports(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000004000\n";
        assert!(has_capability(status, CAP_IPC_LOCK));
        assert!(!has_capability(&status.replace("4000", "3fff"), CAP_IPC_LOCK));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }

    #[test]
    fn a_folder_that_does_not_exist_yet_is_judged_by_its_nearest_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(nearest(dir.path()), dir.path());
        assert_eq!(nearest(Path::new("no such folder")), Path::new("."));
        assert_eq!(ports("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(ports(""), None);
    }
}
