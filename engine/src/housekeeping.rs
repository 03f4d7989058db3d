//! Removes old segments and packs closed ones, each on a thread that belongs to no shard.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use runtime::stop::Stop;
use tracing::{info, warn};

use crate::error::Error;
use crate::sink::file::pack::Packer;
use crate::sink::file::retention;

const INTERVAL: Duration = Duration::from_secs(1);
/// Packing has what nobody else wants of a cpu.
const NICE: i32 = 19;

/// Looks once a second whether the closed segments are larger than `bytes_max` together.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn begin(
    log_dir: PathBuf,
    bytes_max: u64,
    active: Vec<Arc<AtomicU64>>,
    stop: Stop,
) -> Result<(), Error> {
    std::thread::Builder::new()
        .name("housekeeping".into())
        .spawn(move || {
            while !stop.is_requested() {
                std::thread::sleep(INTERVAL);
                let removed = retention::enforce(&log_dir, bytes_max, &active);
                for trouble in &removed.troubles {
                    warn!("{trouble}");
                }
                if removed.segments > 0 {
                    let (segments, bytes) = (removed.segments, removed.bytes);
                    info!(segments, bytes, "old segments are removed (RETAIN_BYTES_MAX)");
                }
            }
        })
        .map(drop)
        .map_err(Error::Thread)
}

/// Looks once a second whether there are closed segments to pack.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn begin_packing(packer: Packer, stop: Stop) -> Result<(), Error> {
    std::thread::Builder::new()
        .name("packing".into())
        .spawn(move || {
            // On Linux this is about the calling thread only.
            let _ = rustix::process::nice(NICE);
            while !stop.is_requested() {
                for trouble in packer.pack_all(&|| stop.is_requested()) {
                    warn!("{trouble}");
                }
                std::thread::sleep(INTERVAL);
            }
        })
        .map(drop)
        .map_err(Error::Thread)
}
