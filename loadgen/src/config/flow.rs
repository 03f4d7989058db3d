//! One flow of a run: a target, a shape of load, payloads, and workers of its own.
//!
//! A run has at least one; a scenario file names several that run at the same time. What concerns
//! all of them is in [`super::Config`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use proto::hello::{Durability, Hello, Replies};
use runtime::units;
use serde::{Deserialize, Serialize};

use super::args::Args;
use super::endpoint::Scheme;
use super::http::{Http, Token};
use super::serial::{maybe_millis, maybe_word, seconds, word};
use super::sockets::Sockets;
use crate::error::Error;
use crate::plan::journey::presets::Preset;
use crate::plan::journey::{Journey, StepText};
use crate::plan::payloads::blanks::Blank;
use crate::plan::payloads::{Builtin, Numbering, Sizes, Source, Wanted};
use crate::plan::replay::{Replay, Speed};
use crate::plan::schedule::{Bounds, Schedule};
use crate::plan::shape::{Arrivals, Burst, CatchUp, Shape};
use crate::tls::{self, Identity, Tls, Trust};

pub(super) const TOTAL_LOGS: u64 = 1000;
pub(super) const DURATION: Duration = Duration::from_secs(10);
const CA_CERT_PATH: &str = "./certs/ca.crt";
/// What passes an Ethernet frame whole.
const UDP_DATAGRAM_BYTES: usize = 1400;
/// What a datagram over IPv4 can carry.
const UDP_DATAGRAM_BYTES_MAX: usize = 65_507;
/// More tasks than this on one machine measure the generator.
const CONCURRENCY_MAX: usize = 1_000_000;

/// A flow, resolved. [`Flow::default`] is the documented defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flow {
    /// Unique in its run.
    pub name: String,
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
    /// How the rate goes.
    pub shape: Shape,
    /// When messages come at that rate.
    pub arrivals: Arrivals,
    /// What becomes of late messages.
    pub catch_up: CatchUp,
    /// How long a worker rests between two batches.
    pub think_time: ThinkTime,
    /// When connections are opened.
    pub connect: Connect,
    /// Seconds that a connection lives; 0 is no bound.
    #[serde(with = "seconds")]
    pub connection_secs_max: Duration,
    /// Messages that a connection carries; 0 is no bound.
    pub connection_messages_max: u64,
    /// How its sockets are made.
    pub sockets: Sockets,
    /// What messages look like, unless there is a template.
    pub payload: Builtin,
    /// The file that says what they look like.
    pub template: Option<PathBuf>,
    /// Bytes of a message at least.
    pub payload_bytes: Sizes,
    /// The share of messages that are broken on purpose, 0.0 to 1.0.
    pub malformed: f64,
    /// Messages after which a feeder of the template has no more rows, which ends the load; found
    /// by [`crate::resolved`], not a knob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feeder_rows: Option<u64>,
    /// `each` or `range`.
    #[serde(with = "word")]
    pub replies: Replies,
    /// `None` is the server's default.
    #[serde(with = "maybe_word")]
    pub durability: Option<Durability>,
    /// How long a batch waits for its reply; `None` is REPLY_TIMEOUT_SECS.
    #[serde(with = "maybe_millis", skip_serializing_if = "Option::is_none")]
    pub hit_timeout_ms: Option<Duration>,
    /// What is asked over HTTP.
    pub http: Http,
    /// Each message is a journey of these steps, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepText>,
    /// The authorities that are trusted over TLS; `None` is those of the engine's quick start, or
    /// over https:// those that this system trusts.
    pub ca_cert_path: Option<PathBuf>,
    /// The certificate that is shown over TLS.
    pub client_cert_path: Option<PathBuf>,
    /// Its key.
    pub client_key_path: Option<PathBuf>,
    /// Where the token lies: for the hello, over HTTP as bearer.
    pub auth_token_file: Option<PathBuf>,
    /// The token itself. It is in no document.
    #[serde(skip)]
    pub auth_token: Option<Token>,
    /// Each batch is one gzip member.
    pub compress: bool,
    /// Bytes of messages in a datagram.
    pub udp_datagram_bytes: usize,
    /// Messages come from a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            name: "main".to_owned(),
            scheme: Scheme::Tcp,
            server_host: "localhost".to_owned(),
            server_port: 9000,
            total_logs: TOTAL_LOGS,
            duration_secs: DURATION,
            concurrency: 5,
            batch_size: 100,
            shape: Shape::Closed,
            arrivals: Arrivals::Even,
            catch_up: CatchUp::Asap,
            think_time: ThinkTime::default(),
            connect: Connect::OnDemand,
            connection_secs_max: Duration::ZERO,
            connection_messages_max: 0,
            sockets: Sockets::default(),
            payload: Builtin::Default,
            template: None,
            payload_bytes: Sizes::default(),
            malformed: 0.0,
            feeder_rows: None,
            replies: Replies::Each,
            durability: None,
            hit_timeout_ms: None,
            http: Http::default(),
            steps: Vec::new(),
            ca_cert_path: None,
            client_cert_path: None,
            client_key_path: None,
            auth_token_file: None,
            auth_token: None,
            compress: false,
            udp_datagram_bytes: UDP_DATAGRAM_BYTES,
            replay: None,
        }
    }
}

impl Flow {
    /// What `args` mean for a flow called `name`; bursts are two flows, with workers of their own.
    ///
    /// # Errors
    /// [`Error::Usage`]: TARGET_RPS beside a shape that has its own rate.
    pub(super) fn from_args(name: &str, args: &Args) -> Result<Vec<Flow>, Error> {
        let endpoint = args.target.clone();
        let host = endpoint.as_ref().map_or(&args.server_host, |endpoint| &endpoint.host);
        let port = endpoint.as_ref().and_then(|endpoint| endpoint.port);
        let by_switch = if args.enable_tls { Scheme::Tls } else { Scheme::Tcp };
        let scheme = endpoint.as_ref().and_then(|endpoint| endpoint.scheme);
        let (total_logs, duration_secs) = bounds(args);
        let flow = Flow {
            name: name.to_owned(),
            scheme: scheme.unwrap_or(by_switch),
            server_host: host.clone(),
            server_port: port.unwrap_or(args.server_port),
            total_logs,
            duration_secs,
            concurrency: args.concurrency,
            batch_size: args.batch_size,
            shape: Shape::Closed,
            arrivals: args.arrivals,
            catch_up: args.catch_up,
            think_time: args.think_time,
            connect: args.connect,
            connection_secs_max: args.connection_secs_max,
            connection_messages_max: args.connection_messages_max,
            sockets: Sockets {
                source_address: args.source_address.clone(),
                tcp_nodelay: args.tcp_nodelay,
                send_buffer: args.send_buffer,
                receive_buffer: args.receive_buffer,
            },
            payload: args.payload,
            template: args.template.clone(),
            payload_bytes: args.payload_bytes.clone(),
            malformed: args.malformed,
            feeder_rows: None,
            replies: args.replies,
            durability: args.durability,
            hit_timeout_ms: args.hit_timeout_ms,
            http: Http {
                path: endpoint.and_then(|it| it.path).unwrap_or_else(|| Http::default().path),
                method: args.method.clone(),
                headers: args.header.clone(),
                body: args.body.clone(),
                pipeline: args.pipeline,
                ndjson: args.ndjson,
                http2: args.http2,
                streams: args.streams,
            },
            steps: args.journey.map(Preset::steps).unwrap_or_default(),
            ca_cert_path: args.ca_cert_path.clone(),
            client_cert_path: args.client_cert_path.clone(),
            client_key_path: args.client_key_path.clone(),
            auth_token_file: args.auth_token_file.clone(),
            auth_token: args.auth_token.clone(),
            compress: args.compress,
            udp_datagram_bytes: args.udp_datagram_bytes,
            replay: replay(args)?,
        };
        flow.shaped(args)
    }

    /// The flow with its shape.
    fn shaped(self, args: &Args) -> Result<Vec<Flow>, Error> {
        let rate = args.target_rps;
        if let Some(replay) = &self.replay {
            if rate > 0 {
                return Err(Error::Usage(format!(
                    "TARGET_RPS {rate} beside REPLAY, which has times of its own (REPLAY_SPEED)"
                )));
            }
            let is_closed = replay.speed == Speed::Max;
            let shape = if is_closed { Shape::Closed } else { Shape::Recorded };
            return Ok(vec![Flow { shape, ..self }]);
        }
        let shape = match (&args.stages, args.burst, args.wave) {
            (Some(stages), _, _) => Shape::Stages(stages.clone()),
            (None, Some(burst), _) => Shape::Burst(burst),
            (None, None, Some(wave)) => Shape::Wave(wave),
            (None, None, None) => return Ok(vec![Flow { shape: Shape::from_rate(rate), ..self }]),
        };
        if rate > 0 {
            return Err(Error::Usage(format!(
                "TARGET_RPS {rate} beside STAGES, BURST or WAVE, which say the rate \
                 (BURST has base=)"
            )));
        }
        match shape {
            Shape::Burst(burst) => self.burst(burst),
            shape => Ok(vec![Flow { shape, ..self }]),
        }
    }

    /// The bursts, and their base with workers of its own, so that neither starves the other.
    fn burst(self, burst: Burst) -> Result<Vec<Flow>, Error> {
        let Some(base) = burst.base() else {
            return Ok(vec![Flow { shape: burst.alone(), ..self }]);
        };
        if self.total_logs > 0 {
            return Err(Error::Usage(format!(
                "TOTAL_LOGS {} beside BURST: the base and the bursts have budgets of their own, \
                 so end it by DURATION_SECS",
                self.total_logs
            )));
        }
        if self.concurrency < 2 {
            return Err(Error::Usage(format!(
                "CONCURRENCY {} is not enough for BURST: the base and the bursts have workers of \
                 their own, so at least 2 (or base=0)",
                self.concurrency
            )));
        }
        let half = self.concurrency / 2;
        let name = |part: &str| match self.name.as_str() {
            "main" => part.to_owned(),
            name => format!("{name}.{part}"),
        };
        let (base_name, burst_name) = (name("base"), name("burst"));
        let concurrency = self.concurrency - half;
        let base = Flow { name: base_name, shape: base, concurrency, ..self.clone() };
        let shape = burst.alone();
        Ok(vec![base, Flow { name: burst_name, shape, concurrency: half, ..self }])
    }

    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Usage`] names the value and the knob.
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
        let is_endless = self.total_logs == 0 && self.duration_secs.is_zero();
        if let Some(replay) = &self.replay {
            if is_endless && replay.loops == 0 {
                return wrong("REPLAY_LOOPS without a number, and neither TOTAL_LOGS nor DURATION_SECS: the run would not end".into());
            }
            if (replay.speed == Speed::Max) != (self.shape == Shape::Closed) {
                return wrong(format!("shape {} beside REPLAY_SPEED {}", self.shape, replay.speed));
            }
            if let Some(knob) = self.about_lines() {
                return wrong(format!("{knob} beside REPLAY, which has messages of its own"));
            }
            if self.arrivals != Arrivals::Even {
                return wrong(format!(
                    "ARRIVALS {} beside REPLAY, which has times of its own",
                    self.arrivals
                ));
            }
        } else if self.shape == Shape::Recorded {
            return wrong("shape recorded without REPLAY".into());
        } else if is_endless {
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
        if self.client_cert_path.is_some() != self.client_key_path.is_some() {
            return wrong("CLIENT_CERT_PATH and CLIENT_KEY_PATH go together".into());
        }
        if self.client_cert_path.is_some() && !self.scheme.is_tls() {
            return wrong(
                "CLIENT_CERT_PATH is of no use without TLS (ENABLE_TLS, tls://, https://)".into(),
            );
        }
        if self.hit_timeout_ms == Some(Duration::ZERO) {
            return wrong("HIT_TIMEOUT_MS 0 is not a time to wait".into());
        }
        if let Some(token) = &self.auth_token {
            if self.auth_token_file.is_some() {
                return wrong("AUTH_TOKEN and AUTH_TOKEN_FILE both say the token".into());
            }
            // Never the value.
            if !is_token(token.reveal()) {
                return wrong(format!("AUTH_TOKEN {NO_TOKEN}"));
            }
        }
        self.check_http()?;
        self.check_journey()?;
        if matches!(self.scheme, Scheme::Udp | Scheme::Null) {
            let asks = [
                (self.durability.is_some(), "DURABILITY"),
                (self.replies != Replies::Each, "REPLIES"),
                (self.auth_token_file.is_some(), "AUTH_TOKEN_FILE"),
                (self.auth_token.is_some(), "AUTH_TOKEN"),
                (self.hit_timeout_ms.is_some(), "HIT_TIMEOUT_MS"),
            ];
            if let Some((_, knob)) = asks.iter().find(|(is_asked, _)| *is_asked) {
                let scheme = self.scheme.as_str();
                return wrong(format!(
                    "{knob} asks a server, and {scheme}:// has no replies of one"
                ));
            }
        }
        self.sockets.check()?;
        let is_datagram = self.scheme == Scheme::Udp && !self.sockets.tcp_nodelay;
        if let Some(knob) = self.sockets.asked().filter(|_| self.scheme == Scheme::Null) {
            return wrong(format!("{knob} is about connections, and null:// has none"));
        }
        if is_datagram {
            return wrong("TCP_NODELAY off is of no use in datagrams (udp://)".into());
        }
        if !(1..=UDP_DATAGRAM_BYTES_MAX).contains(&self.udp_datagram_bytes) {
            return wrong(format!(
                "UDP_DATAGRAM_BYTES {} is not 1 to {UDP_DATAGRAM_BYTES_MAX}",
                self.udp_datagram_bytes
            ));
        }
        if let (Some(template), false) = (&self.template, self.payload == Builtin::Default) {
            return wrong(format!(
                "TEMPLATE {} beside PAYLOAD {}: one of the two",
                template.display(),
                self.payload
            ));
        }
        if self.malformed > 0.0 && self.scheme == Scheme::Null {
            return wrong(format!(
                "MALFORMED {} wants a target that rejects, and null:// takes everything",
                self.malformed
            ));
        }
        if !(0.0..=1.0).contains(&self.malformed) {
            return wrong(format!("MALFORMED {} is not 0 to 1", self.malformed));
        }
        if self.shape == Shape::Closed {
            let only_open = [
                (self.arrivals != Arrivals::Even, "ARRIVALS"),
                (self.catch_up != CatchUp::Asap, "CATCH_UP"),
            ];
            if let Some((_, knob)) = only_open.iter().find(|(is_asked, _)| *is_asked) {
                return wrong(format!(
                    "{knob} needs a schedule: TARGET_RPS, STAGES, BURST or WAVE \
                     (a closed loop has none)"
                ));
            }
        }
        Ok(())
    }

    /// A journey makes sense, and nothing else says what is asked.
    fn check_journey(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
        if self.steps.is_empty() {
            return Ok(());
        }
        if !self.scheme.is_http() {
            let scheme = self.scheme.as_str();
            return wrong(format!(
                "a journey (JOURNEY) goes over http:// or https://, not {scheme}://"
            ));
        }
        let asks = [
            (self.http.method.is_some(), "METHOD"),
            (self.http.body.is_some(), "BODY"),
            (self.http.ndjson, "NDJSON"),
            (self.replay.is_some(), "REPLAY"),
            (self.http.pipeline > 1, "PIPELINE"),
            (self.http.streams > 1, "STREAMS"),
            (self.http.path.contains('?'), "TARGET with a query"),
            (self.http.asks_close(), "HEADER \"connection: close\""),
        ];
        if let Some((_, knob)) = asks.iter().find(|(is_asked, _)| *is_asked) {
            return wrong(format!(
                "{knob} beside a journey (JOURNEY), whose steps say what is asked"
            ));
        }
        Journey::new(&self.steps).map(drop).map_err(Error::Usage)
    }

    /// HTTP is asked for what it has, and what only it has is not asked of others.
    fn check_http(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
        let scheme = self.scheme.as_str();
        if !self.scheme.is_http() {
            let Some(knob) = self.http.asked() else { return Ok(()) };
            return wrong(format!(
                "{knob} is about requests, and {scheme}:// has none: http:// or https:// (TARGET)"
            ));
        }
        if self.http.http2 && self.replay.is_some() {
            return wrong("REPLAY beside HTTP2: recordings go over HTTP/1.1".into());
        }
        let asks = [
            (self.durability.is_some(), "DURABILITY", "asks in a hello"),
            (self.replies != Replies::Each, "REPLIES", "asks in a hello"),
            (self.compress, "COMPRESS", "packs lines for a Logboom engine"),
        ];
        if let Some((_, knob, what)) = asks.iter().find(|(is_asked, ..)| *is_asked) {
            return wrong(format!("{knob} {what}, which {scheme}:// does not know"));
        }
        self.check_content()?;
        if self.malformed > 0.0 && !self.steps.is_empty() {
            return wrong(format!(
                "MALFORMED {}: a journey has one end for all its steps, so nobody would say that \
                 its message was rejected",
                self.malformed
            ));
        }
        if self.malformed > 0.0 && self.http.ndjson && self.batch_size > 1 {
            return wrong(format!(
                "MALFORMED with BATCH_SIZE {}: a response over {scheme}:// has one status for all \
                 lines of its request, so it takes BATCH_SIZE 1",
                self.batch_size
            ));
        }
        if self.replay.is_some() && self.http.body.is_some() {
            return wrong("BODY beside REPLAY, which says what is sent".into());
        }
        self.http.check(self.auth_token.is_some() || self.auth_token_file.is_some())
    }

    /// What is said of messages is of use to the requests, and what these name is there.
    fn check_content(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
        let asked = self.http.blanks();
        if let Some(blank) = asked.first() {
            let other = match () {
                () if !self.steps.is_empty() => "a journey (JOURNEY), whose steps have {{name}}",
                () if self.replay.is_some() => "REPLAY, which says what is asked",
                () if self.http.ndjson => "NDJSON, whose requests hold many messages",
                () => "",
            };
            if !other.is_empty() {
                return wrong(format!(
                    "{blank} beside {other} ($${{ is a ${{ that stands for itself)"
                ));
            }
        }
        let has_lines = self.http.ndjson || !self.steps.is_empty() || self.sends_message();
        if has_lines {
            return Ok(());
        }
        let bytes =
            (self.payload_bytes.max() > 0).then(|| format!("PAYLOAD_BYTES {}", self.payload_bytes));
        let malformed = (self.malformed > 0.0).then(|| format!("MALFORMED {}", self.malformed));
        let of_lines = bytes.or(malformed);
        if let Some(knob) = of_lines.or_else(|| self.about_lines().filter(|_| asked.is_empty())) {
            let why = match &self.http.body {
                Some(_) => "BODY says what they hold".to_owned(),
                None => format!("{} has none", self.method()),
            };
            return wrong(format!(
                "{knob} is about messages, which these requests do not hold: {why}; METHOD POST \
                 sends one in each body, NDJSON many, and ${{name}} in TARGET or HEADER stands for \
                 a part of one"
            ));
        }
        Ok(())
    }

    /// The texts of a request that its message fills in.
    pub(crate) fn blanks(&self) -> Vec<Blank> {
        match self.scheme.is_http() {
            true => self.http.blanks(),
            false => Vec::new(),
        }
    }

    /// Each request over HTTP has its message as its body: something says what messages look like,
    /// nothing else says what the body is, and the method is one that has a body.
    pub fn sends_message(&self) -> bool {
        let is_open = self.scheme.is_http()
            && !self.http.ndjson
            && self.http.body.is_none()
            && self.steps.is_empty()
            && self.replay.is_none();
        is_open
            && self.about_lines().is_some()
            && match self.http.method.as_deref() {
                Some(method) => !matches!(method, "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE"),
                // What the requests name of it is what it is for.
                None => self.http.blanks().is_empty(),
            }
    }

    /// The method of the requests over HTTP: METHOD, or GET, or POST where there is a body.
    pub fn method(&self) -> &str {
        // What a recording has no request for, it brings as a body.
        let has_body = self.http.body.is_some()
            || self.http.ndjson
            || self.replay.is_some()
            || self.sends_message();
        self.http.method.as_deref().unwrap_or(if has_body { "POST" } else { "GET" })
    }

    /// The first knob that says what log lines look like, with its value.
    fn about_lines(&self) -> Option<String> {
        let payload =
            (self.payload != Builtin::Default).then(|| format!("PAYLOAD {}", self.payload));
        let template = self.template.as_ref().map(|path| format!("TEMPLATE {}", path.display()));
        let sizes = &self.payload_bytes;
        let bytes = (sizes.max() > 0).then(|| format!("PAYLOAD_BYTES {sizes}"));
        let malformed = (self.malformed > 0.0).then(|| format!("MALFORMED {}", self.malformed));
        payload.or(template).or(bytes).or(malformed)
    }

    /// Messages of a batch at most: over HTTP the requests that are on their way on a connection, or
    /// the lines of one.
    pub fn batch_messages(&self) -> u64 {
        if self.scheme.is_http() && !self.http.ndjson {
            self.http.pipeline.max(self.http.streams)
        } else {
            self.batch_size
        }
    }

    /// The token that the flow shows, out of its file or given.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) fn token(&self) -> Result<Option<String>, Error> {
        let Some(path) = &self.auth_token_file else {
            return Ok(self.auth_token.as_ref().map(|token| token.reveal().to_owned()));
        };
        let token = tls::token(path)?;
        if self.scheme.is_http() && !is_token(&token) {
            let (path, knob) = (path.clone(), "AUTH_TOKEN_FILE");
            return Err(Error::Unusable { path, knob, reason: NO_TOKEN.to_owned() });
        }
        Ok(Some(token))
    }

    /// When messages are due.
    pub fn schedule(&self, warm_up: Duration) -> Schedule {
        Schedule::new(&self.shape, self.arrivals, warm_up, self.bounds(), &self.name)
    }

    /// What its messages are, on the lanes that `numbering` tells.
    pub fn wanted(&self, numbering: Numbering) -> Wanted {
        let source = match &self.template {
            Some(path) => Source::File(path.clone()),
            None => Source::Builtin(self.payload),
        };
        let (sizes, malformed) = (self.payload_bytes.clone(), self.malformed);
        Wanted { source, sizes, malformed, blanks: self.blanks(), numbering }
    }

    /// Where the measured load ends.
    pub fn bounds(&self) -> Bounds {
        let duration_ns = crate::clock::nanos(self.duration_secs);
        let total = (self.total_logs > 0).then_some(self.total_logs);
        Bounds {
            total: total.into_iter().chain(self.feeder_rows).min(),
            duration_ns: (duration_ns > 0).then_some(duration_ns),
        }
    }

    /// An access log is sent as the requests that it recorded, not as its lines.
    pub(crate) fn wants_requests(&self) -> bool {
        match self.scheme {
            Scheme::Tcp | Scheme::Tls | Scheme::Udp | Scheme::Null => false,
            // Where lines are asked for, an access log is lines as well.
            Scheme::Http | Scheme::Https => !self.http.ndjson,
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
        let alpn: &[&[u8]] = match self.scheme.is_http() {
            true if self.http.http2 => &[b"h2"],
            true => &[b"http/1.1"],
            false => &[],
        };
        let trust = match (&self.ca_cert_path, self.scheme.is_http()) {
            (Some(path), _) => Trust::File(path),
            (None, true) => Trust::System,
            (None, false) => Trust::File(Path::new(CA_CERT_PATH)),
        };
        self.scheme
            .is_tls()
            .then(|| Tls::load(&self.server_host, trust, identity, alpn))
            .transpose()
    }

    /// `tcp://host:port`, `http://host:port/path`.
    pub fn target(&self) -> String {
        let scheme = self.scheme.as_str();
        if self.scheme == Scheme::Null {
            return "null://".to_owned();
        }
        let path = if self.scheme.is_http() { &*self.http.path } else { "" };
        format!("{scheme}://{}:{}{path}", self.bracketed(), self.server_port)
    }

    /// What stands in the Host field.
    pub(crate) fn host(&self) -> String {
        if self.scheme.port() == Some(self.server_port) {
            return self.bracketed();
        }
        format!("{}:{}", self.bracketed(), self.server_port)
    }

    /// The host, as a URL has it.
    fn bracketed(&self) -> String {
        if self.server_host.contains(':') {
            return format!("[{}]", self.server_host);
        }
        self.server_host.clone()
    }
}

/// The recording that is asked for.
fn replay(args: &Args) -> Result<Option<Replay>, Error> {
    let Some(path) = args.replay.clone() else {
        let of_replay = [
            (args.replay_speed != Speed::ORIGINAL, "REPLAY_SPEED"),
            (args.replay_loops != 1, "REPLAY_LOOPS"),
            (args.replay_from.is_some(), "REPLAY_FROM"),
            (args.replay_to.is_some(), "REPLAY_TO"),
            (args.replay_level.is_some(), "REPLAY_LEVEL"),
            (args.replay_format.is_some(), "REPLAY_FORMAT"),
            (args.replay_timestamp_field.is_some(), "REPLAY_TIMESTAMP_FIELD"),
        ];
        return match of_replay.iter().find(|(is_asked, _)| *is_asked) {
            Some((_, knob)) => Err(Error::Usage(format!("{knob} without REPLAY says nothing"))),
            None => Ok(None),
        };
    };
    Ok(Some(Replay {
        path,
        format: args.replay_format,
        timestamp_field: args.replay_timestamp_field.clone(),
        speed: args.replay_speed,
        loops: args.replay_loops,
        from: args.replay_from,
        to: args.replay_to,
        level: args.replay_level,
    }))
}

/// Total and duration; 0 is no bound. A recording ends by itself. A bound that is given alone is the only one, and "no bound"
/// given alone leaves the other's default. A shape that goes by time has no default of a total, and
/// stages end by themselves.
fn bounds(args: &Args) -> (u64, Duration) {
    let Args { total_logs: total, duration_secs: duration, .. } = *args;
    if args.replay.is_some() {
        return (total.unwrap_or(0), duration.unwrap_or(Duration::ZERO));
    }
    if let Some(stages) = &args.stages {
        let own = stages.lasts();
        let duration = duration.filter(|duration| !duration.is_zero());
        return (total.unwrap_or(0), duration.map_or(own, |duration| duration.min(own)));
    }
    let is_timed = args.burst.is_some() || args.wave.is_some();
    match (total, duration) {
        (None, None) if is_timed => (0, DURATION),
        (None, None) => (TOTAL_LOGS, DURATION),
        (Some(total), Some(duration)) => (total, duration),
        (Some(0), None) => (0, DURATION),
        (Some(total), None) => (total, Duration::ZERO),
        (None, Some(Duration::ZERO)) if is_timed => (0, Duration::ZERO),
        (None, Some(Duration::ZERO)) => (TOTAL_LOGS, Duration::ZERO),
        (None, Some(duration)) => (0, duration),
    }
}

/// Why a token cannot be sent; the token itself is never shown.
const NO_TOKEN: &str = "is no token: it is empty, or has a space or a control character in it";

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// When connections are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connect {
    /// Each when its worker first needs it.
    #[default]
    OnDemand,
    /// All at once, at the start and whenever their time is up.
    Storm,
}

impl FromStr for Connect {
    type Err = String;

    fn from_str(text: &str) -> Result<Connect, String> {
        match text {
            "on-demand" => Ok(Connect::OnDemand),
            "storm" => Ok(Connect::Storm),
            _ => Err(format!("\"{text}\" is not on-demand or storm")),
        }
    }
}

/// How long a worker rests between two batches: evenly spread from `min` to `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThinkTime {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl FromStr for ThinkTime {
    type Err = String;

    fn from_str(text: &str) -> Result<ThinkTime, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let wrong = |_| format!("\"{text}\" is not a time like 10ms, or 10ms..50ms");
        let think = ThinkTime {
            min: units::millis(min).map_err(wrong)?,
            max: units::millis(max).map_err(wrong)?,
        };
        if think.min > think.max {
            return Err(format!("\"{text}\" begins after its end"));
        }
        Ok(think)
    }
}

impl fmt::Display for ThinkTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        if self.min == self.max {
            return write!(f, "{}ms", ms(self.min));
        }
        write!(f, "{}ms..{}ms", ms(self.min), ms(self.max))
    }
}

impl Serialize for ThinkTime {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ThinkTime {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<ThinkTime, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
