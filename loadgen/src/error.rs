//! What keeps a run from happening; what happens within a run is a count.

use std::io;
use std::path::PathBuf;

use runtime::exit_code;

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that makes no sense, or not together with another one.
    #[error("{0}")]
    Usage(String),
    /// The name does not resolve.
    #[error("cannot resolve {host} (SERVER_HOST): {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// The address is taken, or not ours.
    #[error("cannot listen on {at} (--listen): {source}")]
    Listen {
        /// The address.
        at: std::net::SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that the run needs.
    #[error("cannot use {} ({knob}): {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The knob that names it.
        knob: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody is there to say whom to trust.
    #[error(
        "this system has no authorities that could vouch for an https:// target ({0}): install \
         ca-certificates, let SSL_CERT_FILE name a file of them, or give the target's own \
         (CA_CERT_PATH)"
    )]
    Authorities(String),
    /// The metrics cannot be served.
    #[error(
        "cannot listen on {host}:{port} (METRICS_HOST, METRICS_PORT; 0 takes any free port): {reason}"
    )]
    Metrics {
        /// METRICS_HOST.
        host: String,
        /// METRICS_PORT.
        port: u16,
        /// Why not.
        reason: String,
    },
    /// The machine does not let us ask for our cpus.
    #[error("cannot read the cpu affinity of this process: {0}")]
    Cpus(io::Error),
    /// The sink of a calibration does not start.
    #[error("cannot start a sink on 127.0.0.1: {0}")]
    Sink(io::Error),
    /// A signal ended a calibration; its exit code.
    #[error("interrupted: nothing is kept of a calibration that was cut short")]
    Interrupted(u8),
    /// io_uring is refused.
    #[error(transparent)]
    Uring(#[from] runtime::uring::Refused),
    /// The shards cannot start.
    #[error(transparent)]
    Shards(#[from] runtime::shards::StartError),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => exit_code::USAGE,
            Error::Resolve { .. } => exit_code::UNREACHABLE,
            Error::Interrupted(exit_code) => *exit_code,
            Error::Unusable { .. }
            | Error::Listen { .. }
            | Error::Authorities(_)
            | Error::Metrics { .. }
            | Error::Cpus(_)
            | Error::Sink(_)
            | Error::Uring(_)
            | Error::Shards(_) => exit_code::CANNOT_START,
        }
    }
}
