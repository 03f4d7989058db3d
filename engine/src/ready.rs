//! Says that the engine is ready: to people in the log, to programs in READY_FILE.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tracing::{info, warn};

use crate::config::Config;
use crate::logs;

/// Where the engine listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub tcp: SocketAddr,
    pub udp: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// Says what runs now. It is said before READY_FILE is there.
pub(crate) fn tell(config: &Config, addresses: &Addresses, shards: usize, notes: &[String]) {
    for note in notes {
        warn!("{note}");
    }
    let storage = if config.enable_persistence {
        format!("{} into {}", config.durability, config.log_dir.display())
    } else {
        "received, nothing is stored".to_owned()
    };
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    info!(version, pid, "listening on {} with {shards} shards, ok means {storage}", addresses.tcp);
    if let Some(udp) = addresses.udp {
        info!("listening on {udp} for datagrams, which are not acknowledged");
    }
    if let Some(admin) = addresses.admin {
        info!("metrics and readiness at http://{admin}");
    }
    logs::flush();
}

/// Writes READY_FILE, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_file(
    path: &Path,
    config: &Config,
    addresses: &Addresses,
    shards: usize,
) -> io::Result<()> {
    let ready = serde_json::json!({
        "pid": std::process::id(),
        "host": addresses.tcp.ip().to_string(),
        "port": addresses.tcp.port(),
        "udp_port": addresses.udp.map(|udp| udp.port()),
        "admin_port": addresses.admin.map(|admin| admin.port()),
        "shards": shards,
        "log_dir": config.enable_persistence.then_some(&config.log_dir),
    });
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    std::fs::write(&name, format!("{ready}\n"))?;
    std::fs::rename(&name, path)
}
