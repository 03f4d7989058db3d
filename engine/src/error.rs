//! What the world can do to the engine.
//!
//! One enum; each text names the value and the knob. The peer's faults are replies and counters,
//! our own are `assert!`s; neither is here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use runtime::exit_code;

/// Why the engine does not start, or broke on the way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A knob has a value that cannot work.
    #[error("{0}")]
    Usage(String),
    /// The host's name means no address.
    #[error("cannot resolve {host} ({knob}): {reason}")]
    Resolve {
        /// Where the name stands.
        knob: &'static str,
        /// The name.
        host: String,
        /// The resolver's reason.
        reason: String,
    },
    /// The port cannot be had.
    #[error("cannot bind {address} ({knobs}): {}", reason(source))]
    Bind {
        /// Where the address stands.
        knobs: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// io_uring cannot be had.
    #[error(transparent)]
    Uring(#[from] runtime::uring::Refused),
    /// The shards did not start.
    #[error(transparent)]
    Shards(#[from] runtime::shards::StartError),
    /// The cpus of this machine are unknown.
    #[error("cannot read the cpu affinity: {0}")]
    Cpus(io::Error),
    /// LOG_DIR cannot be used.
    #[error(transparent)]
    LogDir(#[from] crate::sink::file::OpenError),
    /// The first segment of a shard cannot be begun.
    #[error("cannot begin a segment below {} (LOG_DIR): {source}", log_dir.display())]
    Segment {
        /// LOG_DIR.
        log_dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// READY_FILE cannot be written.
    #[error("cannot write {} (READY_FILE): {source}", path.display())]
    ReadyFile {
        /// READY_FILE.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of keys, certificates or secrets cannot be used.
    #[error("cannot use {} ({knob}): {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Where its path stands.
        knob: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread cannot be had.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A segment could not be closed as it should at the end.
    #[error("cannot close the segments below {} (LOG_DIR): {reason}", log_dir.display())]
    Close {
        /// LOG_DIR.
        log_dir: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

impl Error {
    /// The exit code that this error means.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Resolve { .. } => exit_code::USAGE,
            Error::Bind { .. }
            | Error::Uring(_)
            | Error::Shards(_)
            | Error::Cpus(_)
            | Error::LogDir(_)
            | Error::Segment { .. }
            | Error::ReadyFile { .. }
            | Error::Unusable { .. }
            | Error::Thread(_) => exit_code::CANNOT_START,
            Error::Close { .. } => exit_code::BROKE,
        }
    }
}
