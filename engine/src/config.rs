//! What was asked of the engine, and what it means.
//!
//! The only file of the engine that reads the environment (through clap). [`Config`] is every knob
//! as one field; `validate` refuses combinations that cannot work, naming value and knob.

mod knobs;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use proto::hello::Durability;
use proto::level::Level;
use runtime::units;

pub use self::knobs::{Asked, Knob, Source, ask};
use crate::certs::Name;
use crate::error::Error;

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "logboom-engine",
    version,
    about = "Takes NDJSON over TCP, stores it, and acknowledges each line when it is safe",
    after_help = "Every flag is also an environment variable: --server-port is SERVER_PORT. Flags beat the environment."
)]
pub struct Cli {
    /// What to do; without a subcommand the engine runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The knobs.
    #[command(flatten)]
    pub config: Config,
}

/// What the engine can do besides running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show what this machine allows, and what to do about what is short
    Doctor,
    /// Show every knob, where its value comes from, and all that is wrong with it
    Check {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Ask the running engine of these settings whether it is ready; exits 0 if so, else 1
    Health,
    /// Check segments against the checksums in their side files; exits 12 on damage
    Fsck {
        /// A LOG_DIR; a running engine's may be checked, too
        dir: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make an authority, and a certificate for the engine and for a client, in CERT_DIR
    Certs {
        /// A further name or IP address of the engine, besides localhost, engine, 127.0.0.1 and ::1; may be repeated
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<Name>,
        /// Days from now on that the certificates are valid
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// If server.crt and server.key are there, leave all as it is and succeed
        #[arg(long)]
        if_missing: bool,
    },
}

/// Every knob of the engine.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Address to listen on; a name or an IP address
    #[arg(long, env, default_value = "0.0.0.0")]
    pub server_host: String,
    /// TCP port to listen on; 0 takes any free one
    #[arg(long, env, default_value_t = 9000)]
    pub server_port: u16,
    /// Bytes asked per read; never bounds a line
    #[arg(long, env, default_value = "65536", value_parser = units::bytes_usize)]
    pub buffer_size: usize,
    /// Speak TLS on the TCP port, with server.crt and server.key of CERT_DIR
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_tls: bool,
    /// Folder of server.crt and server.key, and of what `certs` makes
    #[arg(long, env, default_value = "./certs", global = true)]
    pub cert_dir: PathBuf,
    /// Take only TLS clients whose certificate one of the authorities in this PEM file has signed
    #[arg(long, env)]
    pub client_ca_path: Option<PathBuf>,
    /// Take lines over UDP, too; they are not acknowledged
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_udp: bool,
    /// UDP port to listen on; 0 takes any free one
    #[arg(long, env, default_value_t = 9001)]
    pub udp_port: u16,
    /// File that holds the token which every connection has to say in its hello
    #[arg(long, env)]
    pub auth_token_file: Option<PathBuf>,
    /// Store lines below LOG_DIR; false parses, counts and acknowledges only
    #[arg(long, env, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_persistence: bool,
    /// Folder of the segments
    #[arg(long, env, default_value = "./logs", global = true)]
    pub log_dir: PathBuf,
    /// Lines below this level are answered `filtered` and not stored
    #[arg(long, env, default_value = "DEBUG")]
    pub min_log_level: Level,
    /// A batch of lines that nobody waits for is written at this many lines at the latest
    #[arg(long, env, default_value = "500", value_parser = units::count)]
    pub batch_size: u64,
    /// A batch of lines that nobody waits for is written after this time at the latest (milliseconds)
    #[arg(long, env, default_value = "100", value_parser = units::millis)]
    pub batch_flush_ms: Duration,
    /// Shards, one pinned thread each [default: min(affinity, whole cpus of the cgroup quota)]
    #[arg(long, env, value_parser = units::count_usize)]
    pub shards: Option<usize>,
    /// What `ok` means unless a hello asks for another level: received, written or durable
    #[arg(long, env, default_value = "written")]
    pub durability: Durability,
    /// Longest line, without its newline; longer ones are rejected with too_long
    #[arg(long, env, default_value = "262144", value_parser = units::bytes_usize)]
    pub line_bytes_max: usize,
    /// A gzip datagram may inflate to this many bytes
    #[arg(long, env, default_value = "1MiB", value_parser = units::bytes_usize)]
    pub inflated_bytes_max: usize,
    /// A gzip member may inflate to this many times its size, once it is past 8 MiB
    #[arg(long, env, default_value = "1000", value_parser = units::count)]
    pub inflate_ratio_max: u64,
    /// When the batch is full: wait (stop reading) or shed (refuse lines, the least important first)
    #[arg(long, env, default_value = "wait")]
    pub overload: Overload,
    /// With OVERLOAD=shed, TRACE and DEBUG are refused from this fill of the batch on (percent)
    #[arg(long, env, default_value_t = 60)]
    pub shed_low_percent: u8,
    /// With OVERLOAD=shed, INFO and WARN are refused from this fill of the batch on (percent)
    #[arg(long, env, default_value_t = 80)]
    pub shed_normal_percent: u8,
    /// Answer `breaker_open` at once while writes keep failing or are slow
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub circuit_breaker_enabled: bool,
    /// Failed or slow writes in a row that open the breaker
    #[arg(long, env, default_value = "5", value_parser = units::count)]
    pub breaker_failures_max: u64,
    /// A write that takes longer counts as slow, once for each such time that it lasts (milliseconds)
    #[arg(long, env, default_value = "1000", value_parser = units::millis)]
    pub breaker_slow_ms: Duration,
    /// How long an open breaker waits before it lets one batch try (milliseconds)
    #[arg(long, env, default_value = "5000", value_parser = units::millis)]
    pub breaker_open_ms: Duration,
    /// New lines get `disk_full` while the file system of LOG_DIR has less free; 0 never
    #[arg(long, env, default_value = "1GiB", value_parser = units::bytes)]
    pub disk_free_bytes_min: u64,
    /// Memory of carries, batches and replies of all shards together
    #[arg(long, env, default_value = "512MiB", value_parser = units::bytes_usize)]
    pub memory_bytes_max: usize,
    /// Memory of the replies that one connection may leave unread; beyond it the engine stops reading from it
    #[arg(long, env, default_value = "256KiB", value_parser = units::bytes_usize)]
    pub reply_queue_bytes_max: usize,
    /// Largest batch, and so the largest write
    #[arg(long, env, default_value = "4MiB", value_parser = units::bytes_usize)]
    pub commit_bytes_max: usize,
    /// What is written is synced after this time at the latest (milliseconds)
    #[arg(long, env, default_value = "1000", value_parser = units::millis)]
    pub sync_ms: Duration,
    /// A segment is closed, and the next one begun, at this size
    #[arg(long, env, default_value = "128MiB", value_parser = units::bytes)]
    pub segment_bytes_max: u64,
    /// The oldest closed segments go when all together are larger than this; 0 keeps all
    #[arg(long, env, default_value = "0", value_parser = units::bytes)]
    pub retain_bytes_max: u64,
    /// Closed segments become zstd files, in the background: none, zstd
    #[arg(long, env, default_value = "none", value_enum)]
    pub segment_compression: Compression,
    /// Connections at a time; further ones are told too_many_connections
    #[arg(long, env, default_value = "20000", value_parser = units::count_usize)]
    pub connections_max: usize,
    /// Connections at a time from one address; further ones are told too_many_connections
    #[arg(long, env, default_value = "20000", value_parser = units::count_usize)]
    pub connections_per_ip_max: usize,
    /// A connection on which nothing happens for this time is closed (seconds)
    #[arg(long, env, default_value = "300", value_parser = units::seconds)]
    pub idle_timeout_secs: Duration,
    /// A line has to be complete this long after its first byte (seconds)
    #[arg(long, env, default_value = "30", value_parser = units::seconds)]
    pub line_timeout_secs: Duration,
    /// A TLS handshake, and a hello where AUTH_TOKEN_FILE asks for one, has to be done in this time (seconds)
    #[arg(long, env, default_value = "10", value_parser = units::seconds)]
    pub handshake_timeout_secs: Duration,
    /// A client that has not taken any byte of its waiting replies for this time is reset (seconds)
    #[arg(long, env, default_value = "30", value_parser = units::seconds)]
    pub reply_timeout_secs: Duration,
    /// A stop is over after this time at the latest (seconds)
    #[arg(long, env, default_value = "30", value_parser = units::seconds)]
    pub drain_secs: Duration,
    /// Written once the engine listens: one JSON object with pid, host, port, admin_port, shards and log_dir
    #[arg(long, env)]
    pub ready_file: Option<PathBuf>,
    /// Serve /metrics, /healthz, /readyz and /status over HTTP
    #[arg(long, env, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub admin_enabled: bool,
    /// Address of the admin listener
    #[arg(long, env, default_value = "127.0.0.1")]
    pub admin_host: String,
    /// Port of the admin listener; 0 takes any free one
    #[arg(long, env, default_value_t = 9100)]
    pub admin_port: u16,
    /// Own logs on stderr: text or json
    #[arg(long, env, default_value = "text")]
    pub log_format: LogFormat,
    /// Own logs from this level on: error, warn, info, debug or trace
    #[arg(long, env, default_value = "info")]
    pub log_level: LogLevel,
    /// Every knob as it was asked for, where it was read from a command line.
    #[arg(skip)]
    pub knobs: Vec<Knob>,
}

/// What becomes of closed segments (SEGMENT_COMPRESSION).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// They stay as they are.
    None,
    /// They are packed by zstd.
    Zstd,
}

/// What happens when the batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Overload {
    /// The line waits, and with it its connection.
    Wait,
    /// The line is refused, by the lanes of its level.
    Shed,
}

/// How the engine's own logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// How much the engine's own logs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What broke.
    Error,
    /// What is wrong or short, too.
    Warn,
    /// What an operator wants to know of a healthy engine, too.
    Info,
    /// What it does, connection by connection, too.
    Debug,
    /// Everything.
    Trace,
}

/// Whether people asked all programs for text without colours (<https://no-color.org>).
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The clap command, for documents that are held against it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Room that a batch buffer needs besides its lines: the tail that is rewritten, padding, re-layout.
pub const BATCH_OVERHEAD_BYTES: usize = 3 * crate::sink::BLOCK;
const BUFFER_SIZE_MIN: usize = 4096;
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the values and the knobs: all that is wrong, not just the first.
    pub fn validate(&self) -> Result<(), Error> {
        let findings = self.findings();
        if findings.is_empty() { Ok(()) } else { Err(Error::Usage(findings.join("; "))) }
    }

    /// What cannot work, each with value and knob; none in a configuration that can.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let mut refuse = |wrong: bool, say: &dyn Fn() -> String| {
            if wrong {
                findings.push(say());
            }
        };
        refuse(self.buffer_size < BUFFER_SIZE_MIN, &|| {
            format!(
                "{} bytes is too small for BUFFER_SIZE: at least {BUFFER_SIZE_MIN}",
                self.buffer_size
            )
        });
        refuse(self.line_bytes_max == 0, &|| "0 is too small for LINE_BYTES_MAX".into());
        let longest = crate::sink::file::LINE_BYTES_RECOVERABLE;
        refuse(self.line_bytes_max > longest, &|| {
            format!(
                "{} bytes is too large for LINE_BYTES_MAX: recovery reads lines up to {longest}",
                self.line_bytes_max
            )
        });
        // A batch that is empty but for the tail in front takes the longest line.
        let commit_min =
            self.line_bytes_max.saturating_add(1 + crate::sink::BLOCK + BATCH_OVERHEAD_BYTES);
        refuse(self.commit_bytes_max < commit_min, &|| {
            format!(
                "{} bytes is too small for COMMIT_BYTES_MAX: a line of LINE_BYTES_MAX ({}) needs {commit_min}",
                self.commit_bytes_max, self.line_bytes_max
            )
        });
        refuse(self.segment_bytes_max < SEGMENT_BYTES_MIN, &|| {
            format!(
                "{} bytes is too small for SEGMENT_BYTES_MAX: at least {SEGMENT_BYTES_MIN}",
                self.segment_bytes_max
            )
        });
        refuse(self.batch_size == 0, &|| "0 is too small for BATCH_SIZE".into());
        refuse(self.shards == Some(0), &|| "0 is too small for SHARDS".into());
        refuse(self.connections_max == 0, &|| "0 is too small for CONNECTIONS_MAX".into());
        refuse(self.auth_token_file.is_some() && self.enable_udp, &|| {
            "AUTH_TOKEN_FILE and ENABLE_UDP exclude each other: a datagram has no hello that could say the token".into()
        });
        refuse(self.client_ca_path.is_some() && !self.enable_tls, &|| {
            "CLIENT_CA_PATH is without effect, because ENABLE_TLS is false: no client would be asked for a certificate".into()
        });
        let (low, normal) = (self.shed_low_percent, self.shed_normal_percent);
        for (percent, knob) in [(low, "SHED_LOW_PERCENT"), (normal, "SHED_NORMAL_PERCENT")] {
            refuse(!(1..=100).contains(&percent), &|| {
                format!("{percent} is no value for {knob}: from 1 to 100")
            });
        }
        refuse(low > normal, &|| {
            format!(
                "{low} is too large for SHED_LOW_PERCENT: at most SHED_NORMAL_PERCENT ({normal})"
            )
        });
        refuse(self.breaker_failures_max == 0, &|| {
            "0 is too small for BREAKER_FAILURES_MAX".into()
        });
        for (time, knob) in
            [(self.breaker_slow_ms, "BREAKER_SLOW_MS"), (self.breaker_open_ms, "BREAKER_OPEN_MS")]
        {
            refuse(time.is_zero(), &|| format!("0 is too small for {knob}"));
        }
        findings
    }

    /// The memory that connections of one of `shards` shards may hold, after what is fixed.
    ///
    /// # Errors
    /// MEMORY_BYTES_MAX does not even hold the fixed part.
    pub fn connection_memory_bytes(&self, shards: usize) -> Result<usize, Error> {
        let datagrams = if self.enable_udp {
            crate::net::udp::DATAGRAM_BYTES_MAX.saturating_add(self.inflated_bytes_max)
        } else {
            0
        };
        let fixed = (2 * self.commit_bytes_max + self.buffer_size).saturating_add(datagrams);
        let share = self.memory_bytes_max / shards;
        let least = self.line_bytes_max + self.buffer_size + self.reply_queue_bytes_max;
        share.checked_sub(fixed).filter(|&rest| rest >= least).ok_or_else(|| {
            Error::Usage(format!(
                "{} bytes is too small for MEMORY_BYTES_MAX: {shards} shards need {} (two batches of COMMIT_BYTES_MAX, BUFFER_SIZE, and room for one connection)",
                self.memory_bytes_max,
                shards * (fixed + least)
            ))
        })
    }

    /// The address that SERVER_HOST and SERVER_PORT mean.
    ///
    /// # Errors
    /// The name does not resolve.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        resolve("SERVER_HOST", &self.server_host, self.server_port)
    }

    /// The address that SERVER_HOST and UDP_PORT mean.
    ///
    /// # Errors
    /// The name does not resolve.
    pub fn udp_address(&self) -> Result<SocketAddr, Error> {
        resolve("SERVER_HOST", &self.server_host, self.udp_port)
    }

    /// The address that ADMIN_HOST and ADMIN_PORT mean.
    ///
    /// # Errors
    /// The name does not resolve.
    pub fn admin_address(&self) -> Result<SocketAddr, Error> {
        resolve("ADMIN_HOST", &self.admin_host, self.admin_port)
    }

    /// What a connection gets unless its hello asks otherwise.
    pub fn durability_granted(&self, asked: Durability) -> Durability {
        if self.enable_persistence { asked } else { Durability::Received }
    }
}

fn resolve(knob: &'static str, host: &str, port: u16) -> Result<SocketAddr, Error> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let unresolved = |reason: String| Error::Resolve { knob, host: host.to_owned(), reason };
    (host, port)
        .to_socket_addrs()
        .map_err(|error| unresolved(error.to_string()))?
        .next()
        .ok_or_else(|| unresolved("no address".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Config {
        Cli::try_parse_from([&["logboom-engine"], arguments].concat()).unwrap().config
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = parse(&[]);
        config.validate().unwrap();
        assert!(config.enable_persistence);
        assert_eq!(config.durability, Durability::Written);
        assert!(config.connection_memory_bytes(2).unwrap() > 64 << 20);
    }

    #[test]
    fn booleans_take_a_value_or_a_bare_flag() {
        assert!(!parse(&["--enable-persistence", "false"]).enable_persistence);
        assert!(!parse(&["--enable-persistence=false"]).enable_persistence);
        assert!(parse(&["--enable-persistence"]).enable_persistence);
    }

    #[test]
    fn what_cannot_work_is_refused_by_value_and_knob() {
        for (arguments, knob) in [
            (&["--buffer-size", "10"][..], "BUFFER_SIZE"),
            (&["--commit-bytes-max", "64k"], "COMMIT_BYTES_MAX"),
            (&["--segment-bytes-max", "1"], "SEGMENT_BYTES_MAX"),
            (&["--shards", "0"], "SHARDS"),
            (&["--line-bytes-max", "1GiB"], "LINE_BYTES_MAX"),
            (&["--batch-size", "0"], "BATCH_SIZE"),
            (&["--auth-token-file", "token", "--enable-udp"], "AUTH_TOKEN_FILE and ENABLE_UDP"),
            (&["--client-ca-path", "ca.crt"], "CLIENT_CA_PATH"),
            (&["--shed-low-percent", "0"], "SHED_LOW_PERCENT"),
            (&["--shed-normal-percent", "101"], "SHED_NORMAL_PERCENT"),
            (&["--shed-low-percent", "81"], "SHED_LOW_PERCENT"),
            (&["--breaker-failures-max", "0"], "BREAKER_FAILURES_MAX"),
            (&["--breaker-slow-ms", "0"], "BREAKER_SLOW_MS"),
            (&["--breaker-open-ms", "0"], "BREAKER_OPEN_MS"),
        ] {
            let text = parse(arguments).validate().unwrap_err().to_string();
            assert!(text.contains(knob), "{text}");
        }
        let text = parse(&["--memory-bytes-max", "1MiB"]).connection_memory_bytes(2).unwrap_err();
        assert!(text.to_string().contains("MEMORY_BYTES_MAX"), "{text}");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = parse(&["--shards", "0", "--batch-size", "0"]).validate().unwrap_err();
        let text = text.to_string();
        assert!(text.contains("SHARDS") && text.contains("BATCH_SIZE"), "{text}");
    }

    #[test]
    fn an_address_may_be_bracketed() {
        assert_eq!(
            parse(&["--server-host", "[::1]", "--server-port", "1"]).address().unwrap(),
            "[::1]:1".parse().unwrap()
        );
    }
}
