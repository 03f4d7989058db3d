//! Every knob of the generator, as flags and environment.
//!
//! The only file that reads the environment (through clap). [`Args`] is what was asked, [`Config`]
//! what it means: resolved, with units, the same whether a command line or the bench made it.
//! A flag beats the environment, which beats the default.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, CommandFactory as _, Parser};
use proto::hello::{Durability, Hello, Replies};
use runtime::units;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::plan::schedule::{Bounds, Schedule};
use crate::tls::{Identity, Tls};

const TOTAL_LOGS: u64 = 1000;
const DURATION: Duration = Duration::from_secs(10);
const CA_CERT_PATH: &str = "./certs/ca.crt";
/// What passes an Ethernet frame whole.
const UDP_DATAGRAM_BYTES: usize = 1400;
/// What a datagram over IPv4 can carry.
const UDP_DATAGRAM_BYTES_MAX: usize = 65_507;

/// Load generator for NDJSON log ingestion: sends, measures from the due time, loses nothing from
/// the count.
///
/// Ends after TOTAL_LOGS messages or DURATION_SECS, whichever is first; where only one of them is
/// given, the other's default does not apply. The summary goes to stdout, one line a second to
/// stderr.
#[derive(Clone, Debug, Parser)]
#[command(name = "logboom-loadgen", version, after_help = EXIT_CODES)]
pub struct Args {
    /// Host of the target: a name (every address it resolves to is tried) or an address
    #[arg(long, env = "SERVER_HOST", value_name = "SERVER_HOST", default_value = "localhost")]
    pub server_host: String,

    /// Port of the target
    #[arg(long, env = "SERVER_PORT", value_name = "SERVER_PORT", default_value_t = 9000)]
    pub server_port: u16,

    /// tcp://, tls:// or udp:// host:port, instead of SERVER_HOST and SERVER_PORT; its scheme beats
    /// ENABLE_TLS
    #[arg(long, alias = "endpoint", visible_alias = "endpoint", env = "TARGET",
          value_name = "TARGET", value_parser = endpoint)]
    pub target: Option<Endpoint>,

    /// Messages to send, 0 = no bound [default: 1000, unless only DURATION_SECS is given]
    #[arg(short = 'n', long, env = "TOTAL_LOGS", value_name = "TOTAL_LOGS",
          value_parser = units::count)]
    pub total_logs: Option<u64>,

    /// How long to send: 10, 10s, 500ms, 1m; 0 = no bound [default: 10, unless only TOTAL_LOGS is
    /// given]
    #[arg(short = 'z', long, visible_alias = "duration", env = "DURATION_SECS",
          value_name = "DURATION_SECS", value_parser = units::seconds)]
    pub duration_secs: Option<Duration>,

    /// Workers, each with one connection and at most one batch unanswered
    #[arg(short = 'c', long, env = "CONCURRENCY", value_name = "CONCURRENCY",
          default_value = "5", value_parser = units::count_usize)]
    pub concurrency: usize,

    /// Messages in a batch at most; a batch is what is due, never waited for
    #[arg(long, env = "BATCH_SIZE", value_name = "BATCH_SIZE", default_value = "100",
          value_parser = units::count)]
    pub batch_size: u64,

    /// Messages a second, spread evenly; 0 = as fast as the replies come (closed loop)
    #[arg(short = 'r', long, visible_aliases = ["rate", "tps"], env = "TARGET_RPS",
          value_name = "TARGET_RPS", default_value = "0", value_parser = units::count)]
    pub target_rps: u64,

    /// Threads, each pinned to a cpu; 0 = as many as cpus and CONCURRENCY allow
    #[arg(long, env = "SHARDS", value_name = "SHARDS", default_value = "0",
          value_parser = units::count_usize)]
    pub shards: usize,

    /// Fixes payloads and jitter
    #[arg(long, env = "SEED", value_name = "SEED", default_value_t = 1)]
    pub seed: u64,

    /// The `run` in every message: letters, digits, - and _ [default: 8 random hex digits]
    #[arg(long, env = "RUN_ID", value_name = "RUN_ID", value_parser = run_id)]
    pub run_id: Option<String>,

    /// How long a batch waits for its next reply, and the end of the run for the last ones
    #[arg(long, env = "REPLY_TIMEOUT_SECS", value_name = "REPLY_TIMEOUT_SECS",
          default_value = "10", value_parser = units::seconds)]
    pub reply_timeout_secs: Duration,

    /// How long a connection may take; after as long without any, the target is unreachable
    #[arg(long, env = "CONNECT_TIMEOUT_SECS", value_name = "CONNECT_TIMEOUT_SECS",
          default_value = "5", value_parser = units::seconds)]
    pub connect_timeout_secs: Duration,

    /// One reply a message, or one for a range of equal ones: each, range
    #[arg(long, env = "REPLIES", value_name = "REPLIES", default_value = "each",
          value_parser = replies)]
    pub replies: Replies,

    /// What `ok` has to mean: received, written, durable [default: the server's]
    #[arg(long, env = "DURABILITY", value_name = "DURABILITY", value_parser = durability)]
    pub durability: Option<Durability>,

    /// Share of failed, unanswered and unsent messages above which the run fails: 1% or 0.01
    #[arg(long, env = "MAX_ERROR_RATE", value_name = "MAX_ERROR_RATE", default_value = "1%",
          value_parser = units::share)]
    pub max_error_rate: f64,

    /// Write the summary as JSON to a file; - is stdout, and the text goes to stderr
    #[arg(long, env = "JSON", value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Speak TLS with the target
    #[arg(long, env = "ENABLE_TLS", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub enable_tls: bool,

    /// Over TLS, the authorities that are trusted (PEM)
    #[arg(long, env = "CA_CERT_PATH", value_name = "PATH", default_value = "./certs/ca.crt")]
    pub ca_cert_path: PathBuf,

    /// Over TLS, the certificate that is shown to a target which asks for one (PEM)
    #[arg(long, env = "CLIENT_CERT_PATH", value_name = "PATH")]
    pub client_cert_path: Option<PathBuf>,

    /// The key of CLIENT_CERT_PATH (PEM)
    #[arg(long, env = "CLIENT_KEY_PATH", value_name = "PATH")]
    pub client_key_path: Option<PathBuf>,

    /// File that holds the token for the hello
    #[arg(long, env = "AUTH_TOKEN_FILE", value_name = "PATH")]
    pub auth_token_file: Option<PathBuf>,

    /// Send each batch as one gzip member
    #[arg(long, env = "COMPRESS", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub compress: bool,

    /// Over UDP, bytes of messages in a datagram (before COMPRESS)
    #[arg(long, env = "UDP_DATAGRAM_BYTES", value_name = "UDP_DATAGRAM_BYTES",
          default_value = "1400", value_parser = units::bytes_usize)]
    pub udp_datagram_bytes: usize,

    /// No line a second on stderr
    #[arg(short, long, env = "QUIET", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub quiet: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 pass, 1 broke on the way, 2 usage, 3 cannot start here, \
    10 more failed than MAX_ERROR_RATE, 15 target unreachable, 130/143 interrupted (the partial \
    summary is written).";

/// The command line's description: every knob, its flag, environment name and default.
pub fn command() -> clap::Command {
    Args::command()
}

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Lines and replies over TCP.
    #[default]
    Tcp,
    /// The same over TLS.
    Tls,
    /// Lines in datagrams, without replies.
    Udp,
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
            Scheme::Udp => "udp",
        }
    }
}

/// Where to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `None`: TCP, or TLS by ENABLE_TLS.
    pub scheme: Option<Scheme>,
    /// A name or an address, without brackets.
    pub host: String,
    /// `None`: SERVER_PORT.
    pub port: Option<u16>,
}

/// `tcp://host:port`; the scheme and the port may be left out, an IPv6 address has brackets.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let scheme = match scheme {
        "" => None,
        "tcp" => Some(Scheme::Tcp),
        "tls" => Some(Scheme::Tls),
        "udp" => Some(Scheme::Udp),
        "http" | "https" | "kafka" | "mqtt" | "postgres" | "redis" => {
            return Err(format!(
                "{scheme}:// is not served by this build yet; tcp://, tls:// and udp:// are"
            ));
        }
        _ => return Err(format!("unknown scheme \"{scheme}\": tcp, tls or udp://host:port")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (host, behind) = inner.split_once(']').ok_or("an IPv6 address ends with ]")?;
        match behind.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if behind.is_empty() => (host, None),
            None => return Err(format!("\"{behind}\" behind the address is not a port")),
        }
    } else {
        match rest.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("an IPv6 address needs brackets: tcp://[{rest}]:port"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if host.is_empty() || host.contains(['/', '@', '?', ' ']) {
        return Err(format!("\"{text}\" is not tcp://host:port"));
    }
    let port = port.map(|port| port.parse().map_err(|_| format!("\"{port}\" is not a port")));
    Ok(Endpoint { scheme, host: host.to_owned(), port: port.transpose()? })
}

fn run_id(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("a run id is 1 to 64 letters, digits, - or _".to_owned())
}

fn replies(text: &str) -> Result<Replies, String> {
    match text.parse() {
        Ok(Replies::None) => Err("without replies there is nothing to measure: each, range".into()),
        Ok(replies) => Ok(replies),
        Err(error) => Err(error.to_string()),
    }
}

fn durability(text: &str) -> Result<Durability, String> {
    text.parse::<Durability>().map_err(|error| error.to_string())
}

/// A run, resolved. [`Config::default`] is the documented defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How to send.
    pub scheme: Scheme,
    /// Host of the target, without brackets.
    pub server_host: String,
    /// Port of the target.
    pub server_port: u16,
    /// Messages; 0 is no bound.
    pub total_logs: u64,
    /// Seconds; 0 is no bound.
    #[serde(with = "seconds")]
    pub duration_secs: Duration,
    /// Workers.
    pub concurrency: usize,
    /// Messages in a batch at most.
    pub batch_size: u64,
    /// Messages a second; 0 is the closed loop.
    pub target_rps: u64,
    /// Threads; 0 is as many as cpus and workers allow.
    pub shards: usize,
    /// Of payloads and jitter.
    pub seed: u64,
    /// The `run` in every message; `None` is drawn at the start.
    pub run_id: Option<String>,
    /// How long a batch waits for its next reply, and the end of the run for the last ones.
    #[serde(with = "seconds")]
    pub reply_timeout_secs: Duration,
    /// How long a connection may take.
    #[serde(with = "seconds")]
    pub connect_timeout_secs: Duration,
    /// `each` or `range`.
    #[serde(with = "word")]
    pub replies: Replies,
    /// `None` is the server's default.
    #[serde(with = "maybe_word")]
    pub durability: Option<Durability>,
    /// 0.0 to 1.0.
    pub max_error_rate: f64,
    /// The authorities that are trusted over TLS.
    pub ca_cert_path: PathBuf,
    /// The certificate that is shown over TLS.
    pub client_cert_path: Option<PathBuf>,
    /// Its key.
    pub client_key_path: Option<PathBuf>,
    /// Where the token for the hello lies.
    pub auth_token_file: Option<PathBuf>,
    /// Each batch is one gzip member.
    pub compress: bool,
    /// Bytes of messages in a datagram.
    pub udp_datagram_bytes: usize,
    /// Keep which messages were acknowledged (for an audit; not a knob of the command line).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ledger: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            scheme: Scheme::Tcp,
            server_host: "localhost".to_owned(),
            server_port: 9000,
            total_logs: TOTAL_LOGS,
            duration_secs: DURATION,
            concurrency: 5,
            batch_size: 100,
            target_rps: 0,
            shards: 0,
            seed: 1,
            run_id: None,
            reply_timeout_secs: Duration::from_secs(10),
            connect_timeout_secs: Duration::from_secs(5),
            replies: Replies::Each,
            durability: None,
            max_error_rate: 0.01,
            ca_cert_path: PathBuf::from(CA_CERT_PATH),
            client_cert_path: None,
            client_key_path: None,
            auth_token_file: None,
            compress: false,
            udp_datagram_bytes: UDP_DATAGRAM_BYTES,
            ledger: false,
        }
    }
}

impl From<&Args> for Config {
    fn from(args: &Args) -> Config {
        let (total_logs, duration_secs) = bounds(args.total_logs, args.duration_secs);
        let endpoint = args.target.clone();
        let host = endpoint.as_ref().map_or(&args.server_host, |endpoint| &endpoint.host);
        let port = endpoint.as_ref().and_then(|endpoint| endpoint.port);
        let by_switch = if args.enable_tls { Scheme::Tls } else { Scheme::Tcp };
        let scheme = endpoint.as_ref().and_then(|endpoint| endpoint.scheme);
        Config {
            scheme: scheme.unwrap_or(by_switch),
            server_host: host.clone(),
            server_port: port.unwrap_or(args.server_port),
            total_logs,
            duration_secs,
            concurrency: args.concurrency,
            batch_size: args.batch_size,
            target_rps: args.target_rps,
            shards: args.shards,
            seed: args.seed,
            run_id: args.run_id.clone(),
            reply_timeout_secs: args.reply_timeout_secs,
            connect_timeout_secs: args.connect_timeout_secs,
            replies: args.replies,
            durability: args.durability,
            max_error_rate: args.max_error_rate,
            ca_cert_path: args.ca_cert_path.clone(),
            client_cert_path: args.client_cert_path.clone(),
            client_key_path: args.client_key_path.clone(),
            auth_token_file: args.auth_token_file.clone(),
            compress: args.compress,
            udp_datagram_bytes: args.udp_datagram_bytes,
            ledger: false,
        }
    }
}

/// Total and duration; 0 is no bound. A bound that is given alone is the only one, and "no bound"
/// given alone leaves the other's default.
fn bounds(total: Option<u64>, duration: Option<Duration>) -> (u64, Duration) {
    match (total, duration) {
        (None, None) => (TOTAL_LOGS, DURATION),
        (Some(total), Some(duration)) => (total, duration),
        (Some(0), None) => (0, DURATION),
        (Some(total), None) => (total, Duration::ZERO),
        (None, Some(Duration::ZERO)) => (TOTAL_LOGS, Duration::ZERO),
        (None, Some(duration)) => (0, duration),
    }
}

/// More tasks than this on one machine measure the generator.
const CONCURRENCY_MAX: usize = 1_000_000;

impl Config {
    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Usage`] names the value and the knob.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
        if self.total_logs == 0 && self.duration_secs.is_zero() {
            return wrong("TOTAL_LOGS and DURATION_SECS are both 0: the run would not end".into());
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return wrong(format!("CONCURRENCY {} is not 1 to 1000000", self.concurrency));
        }
        if self.batch_size == 0 {
            return wrong("BATCH_SIZE 0 is not at least 1".into());
        }
        if self.replies == Replies::None {
            return wrong("REPLIES none leaves nothing to measure".into());
        }
        for (knob, value) in [
            ("REPLY_TIMEOUT_SECS", self.reply_timeout_secs),
            ("CONNECT_TIMEOUT_SECS", self.connect_timeout_secs),
        ] {
            if value.is_zero() {
                return wrong(format!("{knob} 0 is not a time to wait"));
            }
        }
        if !(0.0..=1.0).contains(&self.max_error_rate) {
            return wrong(format!("MAX_ERROR_RATE {} is not 0 to 1", self.max_error_rate));
        }
        if self.client_cert_path.is_some() != self.client_key_path.is_some() {
            return wrong("CLIENT_CERT_PATH and CLIENT_KEY_PATH go together".into());
        }
        if self.client_cert_path.is_some() && self.scheme != Scheme::Tls {
            return wrong("CLIENT_CERT_PATH is of no use without TLS (ENABLE_TLS, tls://)".into());
        }
        if self.scheme == Scheme::Udp {
            let asks = [
                (self.durability.is_some(), "DURABILITY"),
                (self.replies != Replies::Each, "REPLIES"),
                (self.auth_token_file.is_some(), "AUTH_TOKEN_FILE"),
            ];
            if let Some((_, knob)) = asks.iter().find(|(is_asked, _)| *is_asked) {
                return wrong(format!("{knob} asks a server, and udp:// has no replies"));
            }
        }
        if !(1..=UDP_DATAGRAM_BYTES_MAX).contains(&self.udp_datagram_bytes) {
            return wrong(format!(
                "UDP_DATAGRAM_BYTES {} is not 1 to {UDP_DATAGRAM_BYTES_MAX}",
                self.udp_datagram_bytes
            ));
        }
        if let Some(id) = &self.run_id {
            run_id(id).map_err(|reason| Error::Usage(format!("RUN_ID \"{id}\": {reason}")))?;
        }
        Ok(())
    }

    /// When messages are due.
    pub fn schedule(&self) -> Schedule {
        Schedule::from_rate(self.target_rps)
    }

    /// Where the load ends.
    pub fn bounds(&self) -> Bounds {
        let duration_ns = crate::clock::nanos(self.duration_secs);
        Bounds {
            total: (self.total_logs > 0).then_some(self.total_logs),
            duration_ns: (duration_ns > 0).then_some(duration_ns),
        }
    }

    /// What to ask the server for; `None` when its defaults do, so that any NDJSON server works.
    pub fn hello(&self, token: Option<String>) -> Option<Hello> {
        let replies = (self.replies != Replies::Each).then_some(self.replies);
        let hello = Hello { replies, durability: self.durability, token, ..Hello::default() };
        (hello != Hello::default()).then_some(hello)
    }

    /// What TLS needs, where it is spoken.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, Error> {
        let identity = self.client_cert_path.as_deref().zip(self.client_key_path.as_deref());
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        (self.scheme == Scheme::Tls)
            .then(|| Tls::load(&self.server_host, &self.ca_cert_path, identity))
            .transpose()
    }

    /// `tcp://host:port`.
    pub fn target(&self) -> String {
        let scheme = self.scheme.as_str();
        if self.server_host.contains(':') {
            return format!("{scheme}://[{}]:{}", self.server_host, self.server_port);
        }
        format!("{scheme}://{}:{}", self.server_host, self.server_port)
    }
}

/// A duration as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(value.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A word of the wire protocol.
mod word {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A word of the wire protocol, or `null`.
mod maybe_word {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Config {
        let line = std::iter::once("logboom-loadgen").chain(args.iter().copied());
        Config::from(&Args::try_parse_from(line).unwrap())
    }

    fn refusal(args: &[&str]) -> String {
        let line = std::iter::once("logboom-loadgen").chain(args.iter().copied());
        Args::try_parse_from(line).unwrap_err().to_string()
    }

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn without_arguments_it_is_the_documented_defaults() {
        assert_eq!(parse(&[]), Config::default());
    }

    #[test]
    fn every_knob_has_the_same_name_as_flag_and_in_the_environment() {
        for arg in command().get_arguments().filter(|arg| arg.get_env().is_some()) {
            let flag = arg.get_long().unwrap().replace('-', "_").to_uppercase();
            assert_eq!(arg.get_env().unwrap(), flag.as_str());
        }
    }

    #[test]
    fn one_bound_alone_is_the_only_bound() {
        let secs = Duration::from_secs;
        for (args, total, duration) in [
            (&["-z", "60"][..], 0, secs(60)),
            (&["-n", "1M"][..], 1_000_000, secs(0)),
            (&["-n", "0"][..], 0, secs(10)),
            (&["-z", "0"][..], 1000, secs(0)),
            (&["-n", "5k", "--duration", "1m"][..], 5000, secs(60)),
        ] {
            let config = parse(args);
            assert_eq!((config.total_logs, config.duration_secs), (total, duration), "{args:?}");
            config.check().unwrap();
        }
        let endless = parse(&["-n", "0", "-z", "0"]).check().unwrap_err();
        assert!(endless.to_string().contains("DURATION_SECS"));
    }

    #[test]
    fn a_target_beats_host_and_port() {
        for (target, host, port) in [
            ("tcp://example.org:9100", "example.org", 9100),
            ("example.org:9100", "example.org", 9100),
            ("tcp://example.org", "example.org", 7000),
            ("tcp://[::1]:9100", "::1", 9100),
            ("[::1]", "::1", 7000),
        ] {
            let config = parse(&["--server-port", "7000", "--target", target]);
            assert_eq!((&*config.server_host, config.server_port), (host, port), "{target}");
        }
        assert_eq!(parse(&["--endpoint", "tcp://[::1]:1"]).target(), "tcp://[::1]:1");
        for (arguments, scheme) in [
            (&["--enable-tls"][..], Scheme::Tls),
            (&["--enable-tls", "--target", "a:1"], Scheme::Tls),
            (&["--enable-tls", "--target", "tcp://a:1"], Scheme::Tcp),
            (&["--target", "udp://a:1"], Scheme::Udp),
        ] {
            assert_eq!(parse(arguments).scheme, scheme, "{arguments:?}");
        }
        for (target, hint) in [
            ("kafka://a:1", "not served by this build yet"),
            ("ftp://a:1", "unknown scheme"),
            ("tcp://::1:9000", "brackets"),
            ("tcp://a:b", "not a port"),
            ("tcp://:9000", "host:port"),
        ] {
            let text = refusal(&["--target", target]);
            assert!(text.contains(hint) && text.contains("TARGET"), "{text}");
        }
    }

    #[test]
    fn short_ways_and_aliases_lead_to_the_same_knobs() {
        let config = parse(&["-c", "8", "-n", "1k", "-z", "2s", "--tps", "10k", "--quiet"]);
        assert_eq!((config.concurrency, config.total_logs, config.target_rps), (8, 1000, 10_000));
        assert_eq!(parse(&["--rate", "5"]).target_rps, 5);
        assert_eq!(parse(&["-r", "5"]).target_rps, 5);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_knob() {
        for (args, knob) in [
            (["-c", "many"], "CONCURRENCY"),
            (["--max-error-rate", "7"], "MAX_ERROR_RATE"),
            (["--replies", "none"], "REPLIES"),
            (["--durability", "eventually"], "DURABILITY"),
            (["--run-id", "a b"], "RUN_ID"),
        ] {
            let text = refusal(&args);
            assert!(text.contains(knob) && text.contains(args[1]), "{text}");
        }
        assert!(parse(&["-c", "0"]).check().unwrap_err().to_string().contains("CONCURRENCY 0"));
    }

    #[test]
    fn a_hello_is_sent_only_for_what_is_not_default() {
        assert_eq!(parse(&[]).hello(None), None);
        let hello = parse(&["--replies", "range"]).hello(None).unwrap();
        assert_eq!((hello.replies, hello.durability), (Some(Replies::Range), None));
        let hello = parse(&["--durability", "durable"]).hello(None).unwrap();
        assert_eq!((hello.replies, hello.durability), (None, Some(Durability::Durable)));
    }

    #[test]
    fn json_and_back_is_the_same_config() {
        let config = Config {
            durability: Some(Durability::Durable),
            replies: Replies::Range,
            duration_secs: Duration::from_millis(1500),
            ledger: true,
            ..Config::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert!(serde_json::from_str::<Config>("{\"totals\":1}").is_err());
    }
}
