//! Every knob of the generator, as flag and environment variable: what was asked, piece by piece.
//!
//! The only file that reads the environment (through clap). Leaves what the values mean together to
//! [`super::Config`]. Invariant: a knob has the same name as flag, in the environment, and as key
//! of a scenario file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use proto::Level;
use proto::hello::{Durability, Replies};
use runtime::units;

use super::commands::Command;
use super::endpoint::{Endpoint, endpoint};
use super::flow::{Connect, ThinkTime};
use super::http::{Body, Header, Token, method};
use super::sockets::{Source, switch};
use crate::measure::slo::Slo;
use crate::plan::journey::presets::Preset;
use crate::plan::payloads::{Builtin, Sizes};
use crate::plan::replay::{Edge, Format, Speed};
use crate::plan::shape::{Arrivals, Burst, CatchUp, Pacing, Stages, Wave};

/// Load generator for NDJSON log ingestion: sends, measures from the due time, loses nothing from
/// the count.
///
/// Ends after TOTAL_LOGS messages or DURATION_SECS, whichever is first; where only one of them is
/// given, the other's default does not apply. The summary goes to stdout, one line a second to
/// stderr.
#[derive(Clone, Debug, Parser)]
#[command(name = "logboom-loadgen", version, after_help = EXIT_CODES, args_override_self = true)]
pub struct Args {
    /// Host of the target: a name (every address it resolves to is tried) or an address
    #[arg(long, env = "SERVER_HOST", value_name = "SERVER_HOST", default_value = "localhost")]
    pub server_host: String,

    /// Port of the target
    #[arg(long, env = "SERVER_PORT", value_name = "SERVER_PORT", default_value_t = 9000)]
    pub server_port: u16,

    /// tcp://, tls:// or udp:// host:port, or http:// or https:// host:port/path?query, instead of
    /// SERVER_HOST and SERVER_PORT; its scheme beats ENABLE_TLS. ${name} in a path is a value of the
    /// message (TEMPLATE, PAYLOAD). null:// answers within the generator, which then measures itself
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

    /// Messages in a batch at most; a batch is what is due, never waited for. Over HTTP only with
    /// NDJSON, where a batch is a request
    #[arg(long, env = "BATCH_SIZE", value_name = "BATCH_SIZE", default_value = "100",
          value_parser = units::count)]
    pub batch_size: u64,

    /// Messages a second, spread evenly; 0 = as fast as the replies come (closed loop)
    #[arg(short = 'r', long, visible_aliases = ["rate", "tps"], env = "TARGET_RPS",
          value_name = "TARGET_RPS", default_value = "0", value_parser = units::count)]
    pub target_rps: u64,

    /// Ramps and plateaus: 30s:1k,1m:10k,10s:0 goes linearly from the rate before (0 at first) to
    /// the one named, 30s@5k holds; ends the load
    #[arg(long, env = "STAGES", value_name = "STAGES", conflicts_with_all = ["burst", "wave"])]
    pub stages: Option<Stages>,

    /// Bursts over a steady base, each with workers of its own: rate=50k,for=1s,every=10s,base=1k
    #[arg(long, env = "BURST", value_name = "BURST", conflicts_with = "wave")]
    pub burst: Option<Burst>,

    /// A sine: mean=5k,swing=4k,every=60s
    #[arg(long, env = "WAVE", value_name = "WAVE")]
    pub wave: Option<Wave>,

    /// When messages come, at whatever rate: even, poisson (independently of each other)
    #[arg(long, env = "ARRIVALS", value_name = "ARRIVALS", default_value = "even")]
    pub arrivals: Arrivals,

    /// What becomes of messages that are late: asap, none (they stay unsent), or 1.2x (no faster
    /// than so many times the planned rate)
    #[arg(long, env = "CATCH_UP", value_name = "CATCH_UP", default_value = "asap")]
    pub catch_up: CatchUp,

    /// How exactly due times are met: precise, or thrifty (about a millisecond, little CPU)
    #[arg(long, env = "PACING", value_name = "PACING", default_value = "thrifty")]
    pub pacing: Pacing,

    /// Send so long before measuring begins, without a gap between the two
    #[arg(short = 'w', long, visible_alias = "warmup", env = "WARMUP_SECS",
          value_name = "WARMUP_SECS", default_value = "0", value_parser = units::seconds)]
    pub warmup_secs: Duration,

    /// A worker rests so long between two batches: 10ms, or 10ms..50ms for an even spread
    #[arg(long, env = "THINK_TIME", value_name = "THINK_TIME", default_value = "0")]
    pub think_time: ThinkTime,

    /// on-demand: a connection is opened when its worker first needs it; storm: all at once, at the
    /// start and whenever they have lived for CONNECTION_SECS_MAX
    #[arg(long, env = "CONNECT", value_name = "CONNECT", default_value = "on-demand")]
    pub connect: Connect,

    /// A connection is replaced after so long; 0 = never
    #[arg(long, env = "CONNECTION_SECS_MAX", value_name = "CONNECTION_SECS_MAX",
          default_value = "0", value_parser = units::seconds)]
    pub connection_secs_max: Duration,

    /// A connection is replaced after so many messages; 0 = never
    #[arg(long, env = "CONNECTION_MESSAGES_MAX", value_name = "CONNECTION_MESSAGES_MAX",
          default_value = "0", value_parser = units::count)]
    pub connection_messages_max: u64,

    /// Local addresses that connections are made from, in turn: 10.0.0.5, 10.0.0.5-10.0.0.9 or
    /// 10.0.0.0/24, several with commas; each is good for some 28,000 connections to one target
    /// [default: the kernel's choice]
    #[arg(long, env = "SOURCE_ADDRESS", value_name = "SOURCE_ADDRESS", value_delimiter = ',')]
    pub source_address: Vec<Source>,

    /// Over TCP, small writes go at once: on, off
    #[arg(long, env = "TCP_NODELAY", value_name = "TCP_NODELAY", action = ArgAction::Set,
          default_value = "on", value_parser = switch)]
    pub tcp_nodelay: bool,

    /// Bytes that the kernel keeps of what a connection sends: 64KiB [default: the kernel's choice]
    #[arg(long, env = "SEND_BUFFER", value_name = "SEND_BUFFER",
          value_parser = units::bytes_usize)]
    pub send_buffer: Option<usize>,

    /// Bytes that the kernel keeps of what a connection receives [default: the kernel's choice]
    #[arg(long, env = "RECEIVE_BUFFER", value_name = "RECEIVE_BUFFER",
          value_parser = units::bytes_usize)]
    pub receive_buffer: Option<usize>,

    /// What messages look like: default, app, nginx, syslog, k8s, stacktrace, iot
    #[arg(long, env = "PAYLOAD", value_name = "PAYLOAD", default_value = "default")]
    pub payload: Builtin,

    /// A file that says what messages look like, instead of PAYLOAD: TOML, or JSON (*.json)
    #[arg(long, env = "TEMPLATE", value_name = "PATH")]
    pub template: Option<PathBuf>,

    /// Bytes of a message at least; shorter ones are lengthened: 256, 128..4k, normal:256,64,
    /// lognormal:256,0.8, exponential:512, or a mixture: 64:90%,16k:10%
    #[arg(long, env = "PAYLOAD_BYTES", value_name = "PAYLOAD_BYTES", default_value = "0")]
    pub payload_bytes: Sizes,

    /// Share of messages that are broken on purpose, and that the target has to reject: 1% or 0.01
    #[arg(long, env = "MALFORMED", value_name = "MALFORMED", default_value = "0",
          value_parser = units::share)]
    pub malformed: f64,

    /// Messages from a recording, with the gaps between them: NDJSON with a timestamp, an access log
    /// of Apache or nginx, plain or gzip, or a folder of segments
    #[arg(long, env = "REPLAY", value_name = "PATH",
          conflicts_with_all = ["stages", "burst", "wave"])]
    pub replay: Option<PathBuf>,

    /// How fast a recording is replayed: 2x, 0.5x, or max (as fast as the replies come)
    #[arg(
        long,
        visible_alias = "speed",
        env = "REPLAY_SPEED",
        value_name = "SPEED",
        default_value = "1x"
    )]
    pub replay_speed: Speed,

    /// How often a recording is replayed; 0, or the flag without a number = until a bound ends it
    #[arg(long, visible_alias = "loop", env = "REPLAY_LOOPS", value_name = "LOOPS",
          default_value = "1", num_args = 0..=1, default_missing_value = "0",
          value_parser = units::count)]
    pub replay_loops: u64,

    /// Replay only what was recorded from then on: 2026-11-21T03:53:57Z, 2026-11-21, 1795233237, or
    /// +10m behind the first line
    #[arg(long, visible_alias = "from", env = "REPLAY_FROM", value_name = "TIME")]
    pub replay_from: Option<Edge>,

    /// Replay only what was recorded before then
    #[arg(long, visible_alias = "to", env = "REPLAY_TO", value_name = "TIME")]
    pub replay_to: Option<Edge>,

    /// Replay only lines of this level and above
    #[arg(long, visible_alias = "level", env = "REPLAY_LEVEL", value_name = "LEVEL",
          value_parser = level)]
    pub replay_level: Option<Level>,

    /// What a recording is: ndjson, common, combined [default: told by its first lines]
    #[arg(long, env = "REPLAY_FORMAT", value_name = "FORMAT")]
    pub replay_format: Option<Format>,

    /// Where the time of a recorded NDJSON line stands; without it, whichever of recorded_at,
    /// timestamp, @timestamp, time, ts, datetime, eventTime, date, t is a time in most of the first
    /// lines
    #[arg(
        long,
        visible_alias = "timestamp-field",
        env = "REPLAY_TIMESTAMP_FIELD",
        value_name = "FIELD"
    )]
    pub replay_timestamp_field: Option<String>,

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

    /// Over HTTP, the method [default: GET, or POST with a body]
    #[arg(short = 'm', long, env = "METHOD", value_name = "METHOD", value_parser = method)]
    pub method: Option<String>,

    /// Over HTTP, a field of each request, 'name: value', with ${name} as in TARGET; may be given
    /// several times
    #[arg(short = 'H', long, env = "HEADER", value_name = "HEADER")]
    pub header: Vec<Header>,

    /// Over HTTP, the body of each request: a text, or @file [default: none, or with TEMPLATE or
    /// PAYLOAD and a METHOD that has a body the message]
    #[arg(short = 'd', long, env = "BODY", value_name = "BODY",
          value_parser = clap::value_parser!(Body))]
    pub body: Option<Body>,

    /// Over HTTP, requests on their way on one connection; 1 is no pipelining
    #[arg(long, env = "PIPELINE", value_name = "PIPELINE", default_value = "1",
          value_parser = units::count)]
    pub pipeline: u64,

    /// Over HTTP, post log lines: each batch as the body of one request, application/x-ndjson
    #[arg(long, env = "NDJSON", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub ndjson: bool,

    /// Over HTTP, version 2: by ALPN with https://, by prior knowledge with http://
    #[arg(long, env = "HTTP2", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub http2: bool,

    /// Over HTTP/2, requests on their way on one connection; a server may allow fewer
    #[arg(long, env = "STREAMS", value_name = "STREAMS", default_value = "1",
          value_parser = units::count)]
    pub streams: u64,

    /// Over HTTP, each message is a journey of several requests: simple, medium, complex (`examples`
    /// prints them); one of your own stands as [[flow.step]] in a scenario file
    #[arg(long, env = "JOURNEY", value_name = "JOURNEY")]
    pub journey: Option<Preset>,

    /// How long a batch (over HTTP: a request) waits for its reply, in milliseconds, instead of
    /// REPLY_TIMEOUT_SECS; a flow may have its own
    #[arg(long, env = "HIT_TIMEOUT_MS", value_name = "HIT_TIMEOUT_MS",
          value_parser = units::millis)]
    pub hit_timeout_ms: Option<Duration>,

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

    /// What has to hold, or the run fails: 'p99<50ms', 'loss==0', 'achieved>=99%',
    /// 'p99.9{stage=burst}<200ms', 'p99<50ms over 10s for 95%'; `abort` behind it ends the run early
    #[arg(long, env = "SLO", value_name = "SLO", value_delimiter = ';')]
    pub slo: Vec<Slo>,

    /// No headline figures, and exit code 13, from a run that the generator cannot vouch for
    #[arg(long, env = "STRICT", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub strict: bool,

    /// Where `calibrate` keeps what it measured, and later runs look for it [default:
    /// XDG_STATE_HOME/logboom, that is ~/.local/state/logboom]
    #[arg(long, env = "STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Several flows at a time, and any other knob, from a TOML file
    #[arg(long, env = "SCENARIO", value_name = "PATH")]
    pub scenario: Option<PathBuf>,

    /// Keep everything in a folder: manifest, a checkpoint each second, summary, histogram log, CSV
    #[arg(long, env = "OUT", value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// What happens, for programs, on stdout (the text goes to stderr): ndjson
    #[arg(long, env = "EVENTS", value_name = "EVENTS", value_parser = ["ndjson"])]
    pub events: Option<String>,

    /// Write the summary as JSON to a file; - is stdout, and the text goes to stderr
    #[arg(long, env = "JSON", value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Speak TLS with the target
    #[arg(long, env = "ENABLE_TLS", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub enable_tls: bool,

    /// Over TLS, the authorities that are trusted (PEM) [default: ./certs/ca.crt, or over https://
    /// those that this system trusts]
    #[arg(long, env = "CA_CERT_PATH", value_name = "PATH")]
    pub ca_cert_path: Option<PathBuf>,

    /// Over TLS, the certificate that is shown to a target which asks for one (PEM)
    #[arg(long, env = "CLIENT_CERT_PATH", value_name = "PATH")]
    pub client_cert_path: Option<PathBuf>,

    /// The key of CLIENT_CERT_PATH (PEM)
    #[arg(long, env = "CLIENT_KEY_PATH", value_name = "PATH")]
    pub client_key_path: Option<PathBuf>,

    /// File that holds the token: for the hello, over HTTP as bearer
    #[arg(long, env = "AUTH_TOKEN_FILE", value_name = "PATH")]
    pub auth_token_file: Option<PathBuf>,

    /// The token itself; better in the environment, since everybody sees a command line
    #[arg(long, env = "AUTH_TOKEN", value_name = "TOKEN", hide_env_values = true,
          hide_default_value = true, value_parser = clap::value_parser!(Token))]
    pub auth_token: Option<Token>,

    /// Send each batch as one gzip member
    #[arg(long, env = "COMPRESS", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub compress: bool,

    /// Over UDP, bytes of messages in a datagram (before COMPRESS)
    #[arg(long, env = "UDP_DATAGRAM_BYTES", value_name = "UDP_DATAGRAM_BYTES",
          default_value = "1400", value_parser = units::bytes_usize)]
    pub udp_datagram_bytes: usize,

    /// Print what the run would do, in words, and send nothing
    #[arg(long, conflicts_with_all = ["print_config", "schema"])]
    pub explain: bool,

    /// Print the resolved run, as a scenario file (toml) or as JSON, and send nothing
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "toml", value_parser = ["toml", "json"],
          conflicts_with = "schema")]
    pub print_config: Option<String>,

    /// Print the JSON Schema of the summary
    #[arg(long)]
    pub schema: bool,

    /// Serve the run's figures to Prometheus while it goes on: http://METRICS_HOST:METRICS_PORT/metrics;
    /// 0 takes any free port, and says which
    #[arg(long, env = "METRICS_PORT", value_name = "METRICS_PORT")]
    pub metrics_port: Option<u16>,

    /// Where METRICS_PORT listens
    #[arg(long, env = "METRICS_HOST", value_name = "METRICS_HOST", default_value = "127.0.0.1")]
    pub metrics_host: String,

    /// No line a second on stderr
    #[arg(short, long, env = "QUIET", value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true")]
    pub quiet: bool,

    /// Instead of a run
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXIT_CODES: &str = "Exit codes: 0 pass, 1 broke on the way, 2 usage, 3 cannot start here, \
    10 an SLO or MAX_ERROR_RATE does not hold, 13 measurement invalid (STRICT), 14 an SLO \
    could not be assessed, 15 target unreachable, 130/143 interrupted (the partial summary is written).";

/// XDG_STATE_HOME, or where it lies by default; `None` for a user without a home.
pub(super) fn state_home() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(absolute("HOME")?.join(".local/state"));
    Some(absolute("XDG_STATE_HOME").or_else(home)?.join("logboom"))
}

pub(super) fn run_id(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("a run id is 1 to 64 letters, digits, - or _".to_owned())
}

pub(super) fn replies(text: &str) -> Result<Replies, String> {
    match text.parse() {
        Ok(Replies::None) => Err("without replies there is nothing to measure: each, range".into()),
        Ok(replies) => Ok(replies),
        Err(error) => Err(error.to_string()),
    }
}

fn level(text: &str) -> Result<Level, String> {
    text.parse::<Level>().map_err(|error| error.to_string())
}

fn durability(text: &str) -> Result<Durability, String> {
    text.parse::<Durability>().map_err(|error| error.to_string())
}
