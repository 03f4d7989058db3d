//! `--explain`: what a run will do, in words.
//!
//! Owns the words, and the estimate of memory. All figures come from the run's own plan.

use std::time::Duration;

use loadgen::Error;
use loadgen::config::{Args, Body, Config, Connect, Flow, Scheme};
use loadgen::plan::journey::Journey;
use loadgen::plan::payloads::{Builtin, Numbering, Payloads, Sample, Stamp};
use loadgen::plan::replay::{Replay, Speed};
use loadgen::plan::schedule::Schedule;
use loadgen::plan::shape::{Arrivals, CatchUp, Pacing, Shape, Way};
use loadgen::summary::{thousands, time as nanos_as_words};
use proto::hello::Replies;

/// The text, for a resolved `config`.
///
/// # Errors
/// A template that cannot be used.
pub(super) fn text(config: &Config, args: &Args) -> Result<String, Error> {
    let mut rows = Rows::default();
    let is_alone = config.flows.len() == 1;
    for flow in &config.flows {
        let (target, name) = (flow.target(), &flow.name);
        rows.title(if is_alone { target } else { format!("{name}, to {target}") });
        load(&mut rows, config, flow);
        workers(&mut rows, flow);
        connections(&mut rows, flow);
        messages(&mut rows, config, flow)?;
    }
    rows.title("the run".to_owned());
    ends(&mut rows, config);
    measured(&mut rows, config);
    verdict(&mut rows, config);
    machine(&mut rows, config);
    output(&mut rows, args);
    Ok(rows.0)
}

/// Labelled lines.
#[derive(Default)]
struct Rows(String);

impl Rows {
    fn title(&mut self, text: String) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&text);
        self.0.push('\n');
    }

    fn row(&mut self, label: &str, text: impl AsRef<str>) {
        self.0.push_str(&format!("  {label:<11} {}\n", text.as_ref()));
    }

    /// One more line under the same label.
    fn more(&mut self, text: impl AsRef<str>) {
        self.row("", text);
    }
}

fn load(rows: &mut Rows, config: &Config, flow: &Flow) {
    let schedule = flow.schedule(config.warmup_secs);
    let warm_up = config.warmup_secs;
    if !warm_up.is_zero() {
        let rate = match schedule.warm_up_messages() {
            0 => String::new(),
            messages => {
                format!(", {} messages at the rate that comes first", about(messages, flow))
            }
        };
        rows.row("warm-up", format!("{}{rate}; not measured", time(warm_up)));
    }
    if let Some(replay) = &flow.replay {
        recording(rows, replay);
    }
    match &flow.shape {
        Shape::Closed => {
            rows.row("load", "as fast as the replies come (closed loop)");
            return closed_end(rows, flow);
        }
        Shape::Recorded => {
            rows.row("load", "as it was recorded");
        }
        Shape::Constant(constant) => {
            rows.row("load", format!("{}/s, {}", thousands(constant.rate_per_s), spread(flow)));
        }
        Shape::Stages(stages) => {
            rows.row("load", format!("stage by stage, {}", spread(flow)));
            let mut rate = 0;
            for (index, stage) in stages.as_slice().iter().enumerate() {
                let name = stage.name.clone().unwrap_or_else(|| (index + 1).to_string());
                let (to, lasts) = (thousands(stage.rate_per_s), time(stage.lasts));
                let course = match stage.way {
                    _ if stage.lasts.is_zero() => format!("jumps to {to}/s"),
                    Way::Hold => format!("{to}/s for {lasts}"),
                    Way::Ramp => format!("from {} to {to}/s in {lasts}", thousands(rate)),
                };
                rows.more(format!("{name}: {course}"));
                rate = stage.rate_per_s;
            }
        }
        Shape::Burst(burst) => {
            let base = match burst.base_per_s {
                0 => String::new(),
                base => format!("{}/s, and on top of it ", thousands(base)),
            };
            rows.row(
                "load",
                format!(
                    "{base}{}/s for {} every {}, {}",
                    thousands(burst.rate_per_s),
                    time(burst.lasts),
                    time(burst.every),
                    spread(flow)
                ),
            );
            rows.more(format!("the first burst comes after {}", time(burst.after)));
        }
        Shape::Wave(wave) => {
            let (least, most) =
                (wave.mean_per_s - wave.swing_per_s, wave.mean_per_s + wave.swing_per_s);
            rows.row(
                "load",
                format!(
                    "between {}/s and {}/s like a sine, from crest to crest {}, {}",
                    thousands(least),
                    thousands(most),
                    time(wave.every),
                    spread(flow)
                ),
            );
        }
    }
    match flow.shape {
        Shape::Recorded => closed_end(rows, flow),
        _ => open_end(rows, flow, &schedule),
    }
    rows.row(
        "late ones",
        match flow.catch_up {
            CatchUp::Asap => "go as soon as a worker is free (CATCH_UP asap)".to_owned(),
            CatchUp::None => "are not sent, and count as unsent (CATCH_UP none)".to_owned(),
            limited @ CatchUp::Limited { .. } => {
                format!("go at most {limited} as fast as planned (CATCH_UP)")
            }
        },
    );
}

fn spread(flow: &Flow) -> &'static str {
    match flow.arrivals {
        Arrivals::Even => "evenly spread",
        Arrivals::Poisson => "each at random (poisson)",
    }
}

fn about(messages: u64, flow: &Flow) -> String {
    let about = if flow.arrivals == Arrivals::Poisson { "about " } else { "" };
    format!("{about}{}", thousands(messages))
}

/// What is replayed.
fn recording(rows: &mut Rows, replay: &Replay) {
    let loops = match replay.loops {
        0 => ", over and over".to_owned(),
        1 => String::new(),
        loops => format!(", {loops} times"),
    };
    rows.row("replays", format!("{}{loops}", replay.path.display()));
    rows.more(match replay.speed {
        Speed::Max => "without its gaps (REPLAY_SPEED max)".to_owned(),
        Speed::ORIGINAL => "with the gaps between its messages".to_owned(),
        speed => format!("with the gaps between its messages, at {speed} (REPLAY_SPEED)"),
    });
    for (knob, edge) in [("from", replay.from), ("until before", replay.to)] {
        if let Some(edge) = edge {
            rows.more(format!("{knob} {edge}"));
        }
    }
    if let Some(level) = replay.level {
        rows.more(format!("only lines of level {level} and above"));
    }
}

fn closed_end(rows: &mut Rows, flow: &Flow) {
    let total = (flow.total_logs > 0).then(|| format!("{} messages", thousands(flow.total_logs)));
    let duration = (!flow.duration_secs.is_zero()).then(|| time(flow.duration_secs));
    rows.row(
        "until",
        match (total, duration) {
            (Some(total), Some(duration)) => {
                format!("{total} or {duration}, whichever is first (TOTAL_LOGS, DURATION_SECS)")
            }
            (Some(total), None) => format!("{total} (TOTAL_LOGS)"),
            (None, None) => "the recording ends".to_owned(),
            (None, duration) => format!("{} (DURATION_SECS)", duration.unwrap_or_default()),
        },
    );
}

fn open_end(rows: &mut Rows, flow: &Flow, schedule: &Schedule) {
    let messages = about(schedule.messages().unwrap_or_default(), flow);
    let end_ns = schedule.offering_end_ns().saturating_sub(schedule.measured_from_ns());
    rows.row("until", format!("{messages} messages, in {}", time(Duration::from_nanos(end_ns))));
}

fn workers(rows: &mut Rows, flow: &Flow) {
    let (concurrency, batch_size) = (flow.concurrency, flow.batch_messages());
    let is_http = flow.scheme.is_http();
    let batch = match batch_size {
        _ if !flow.steps.is_empty() => "journey".to_owned(),
        1 if is_http && !flow.http.ndjson => "request".to_owned(),
        1 => "message".to_owned(),
        size if flow.http.ndjson => format!("request of {} lines", thousands(size)),
        size if flow.http.http2 => format!("{} requests", thousands(size)),
        size if is_http => format!("pipeline of {} requests", thousands(size)),
        size => format!("batch of {} messages", thousands(size)),
    };
    let each = match concurrency {
        1 => "1, with".to_owned(),
        count => format!("{}, each with", thousands(count as u64)),
    };
    if flow.scheme == Scheme::Udp {
        return rows.row("workers", format!("{each} a socket and at most one {batch} at a time"));
    }
    let most = if flow.http.http2 && batch_size > 1 { "" } else { "one " };
    rows.row("workers", format!("{each} one connection and at most {most}{batch} unanswered"));
    let in_flight = (concurrency as u64).saturating_mul(batch_size);
    let messages = if in_flight == 1 { "message" } else { "messages" };
    let each = match () {
        () if !flow.steps.is_empty() => "CONCURRENCY",
        () if flow.http.ndjson || !is_http => "CONCURRENCY x BATCH_SIZE",
        () if flow.http.http2 => "CONCURRENCY x STREAMS",
        () => "CONCURRENCY x PIPELINE",
    };
    rows.more(format!("at most {} {messages} in flight ({each})", thousands(in_flight)));
    if let Some(peak) = flow.shape.peak_per_s() {
        let covered_ns = u128::from(in_flight) * 1_000_000_000 / u128::from(peak.max(1));
        let covered = nanos_as_words(u64::try_from(covered_ns).unwrap_or(u64::MAX));
        rows.more(format!(
            "at {}/s enough for response times up to {covered}; beyond, messages wait here (lag)",
            thousands(peak)
        ));
    }
    if flow.think_time != loadgen::config::ThinkTime::default() {
        rows.more(format!("a worker rests {} between two batches (THINK_TIME)", flow.think_time));
    }
}

fn connections(rows: &mut Rows, flow: &Flow) {
    let opened = match flow.connect {
        _ if flow.scheme == Scheme::Udp => return,
        Connect::OnDemand => "each is opened when its worker first needs it",
        Connect::Storm => {
            "all are opened at once, at the start and when they have lived long enough"
        }
    };
    rows.row("connections", opened);
    if flow.http.http2 {
        let how = if flow.scheme.is_tls() { "by ALPN" } else { "by prior knowledge" };
        let streams = match flow.http.streams {
            1 => "a request at a time".to_owned(),
            streams => format!(
                "{} streams at a time on each (STREAMS), fewer where the server allows fewer",
                thousands(streams)
            ),
        };
        rows.more(format!("HTTP/2 {how}, {streams}"));
    }
    if !flow.sockets.source_address.is_empty() {
        let sources: Vec<String> =
            flow.sockets.source_address.iter().map(ToString::to_string).collect();
        rows.more(format!("from {} in turn (SOURCE_ADDRESS)", sources.join(", ")));
    }
    if !flow.connection_secs_max.is_zero() {
        rows.more(format!("each is replaced after {}", time(flow.connection_secs_max)));
    }
    if flow.connection_messages_max > 0 {
        rows.more(format!(
            "each is replaced after {} messages",
            thousands(flow.connection_messages_max)
        ));
    }
}

fn messages(rows: &mut Rows, config: &Config, flow: &Flow) -> Result<(), Error> {
    if flow.replay.is_some() {
        rows.row("messages", "the lines of the recording, as they are");
        replies(rows, config, flow);
        return Ok(());
    }
    if flow.scheme.is_http() && !flow.http.ndjson {
        return requests(rows, config, flow);
    }
    let (payloads, sample) = sampled(config, flow)?;
    let sizes = format!(", some {} bytes each", sample.mean_bytes.round());
    let mut what = origin(flow);
    what.push_str(&sizes);
    match flow.payload_bytes.as_fixed() {
        Some(0) => {}
        Some(bytes) => what.push_str(&format!(", at least {}", thousands(bytes as u64))),
        None => what.push_str(&format!(", at least {} (PAYLOAD_BYTES)", flow.payload_bytes)),
    }
    if flow.compress {
        what.push_str(", each batch as one gzip member");
    }
    what.push_str(&format!("; SEED {} fixes them", config.seed));
    rows.row("messages", what);
    if flow.scheme.is_http() {
        rows.more(format!("each batch is the body of one {}", flow.method()));
    }
    rows.more(format!("such as {}", shortened(&sample.example)));
    if let Some(reason) = &sample.rejected {
        rows.more(format!("the engine would reject some: {reason}"));
    }
    if !payloads.has_identity() {
        rows.more("without run, conn and seq: no audit can find who sent a line");
    }
    for feeder in payloads.feeders().0 {
        rows.more(format!("feeder {feeder}"));
    }
    malformed(rows, flow);
    replies(rows, config, flow);
    Ok(())
}

/// Requests that are not made of lines.
fn requests(rows: &mut Rows, config: &Config, flow: &Flow) -> Result<(), Error> {
    if !flow.steps.is_empty() {
        return journey(rows, config, flow);
    }
    let body = match &flow.http.body {
        _ if flow.sends_message() => "with a message as body".to_owned(),
        None => "without a body".to_owned(),
        Some(Body::Text(text)) => format!("{} bytes of body", thousands(text.len() as u64)),
        Some(Body::File(path)) => format!("{} as body", path.display()),
    };
    rows.row("messages", format!("requests, {} {body}", flow.method()));
    let (payloads, sample) = sampled(config, flow)?;
    if flow.sends_message() || !sample.blanks.is_empty() {
        rows.more(format!("made of {}; SEED {} fixes them", origin(flow), config.seed));
    }
    for (blank, filled) in flow.wanted(Numbering::default()).blanks.iter().zip(&sample.blanks) {
        let filled = if blank.is_secret { "(hidden)" } else { filled };
        rows.more(format!("{} such as {}", blank.knob, shortened(filled)));
    }
    if flow.sends_message() {
        rows.more(format!(
            "bodies of some {} bytes, such as {}",
            sample.mean_bytes.round(),
            shortened(&sample.example)
        ));
        malformed(rows, flow);
    }
    for feeder in payloads.feeders().0 {
        rows.more(format!("feeder {feeder}"));
    }
    replies(rows, config, flow);
    Ok(())
}

/// Requests that need each other.
fn journey(rows: &mut Rows, config: &Config, flow: &Flow) -> Result<(), Error> {
    let journey = Journey::new(&flow.steps).map_err(Error::Usage)?;
    let count = journey.steps().len();
    rows.row("messages", format!("journeys of {count} requests, one after the other"));
    for (step, text) in journey.steps().iter().zip(&flow.steps) {
        let asks = match (text.check.count(), text.extract.len()) {
            (0, 0) => String::new(),
            (0, takes) => format!(", {takes} taken out of the answer"),
            (checks, 0) => format!(", {checks} checked"),
            (checks, takes) => format!(", {checks} checked, {takes} taken out of the answer"),
        };
        let rest = text.think_time.map(|it| format!(", then a rest of {it}")).unwrap_or_default();
        rows.more(format!("{}: {} {}{asks}{rest}", step.name, step.method, text.path));
    }
    rows.more("the first step that fails ends its journey, by a code with the step's number");
    if journey.needs_message {
        let (_, sample) = sampled(config, flow)?;
        rows.more(format!("{{{{message}}}} is {}, such as", origin(flow)));
        rows.more(shortened(&sample.example));
    }
    replies(rows, config, flow);
    Ok(())
}

/// What messages look like.
fn sampled(config: &Config, flow: &Flow) -> Result<(Payloads, Sample), Error> {
    let run_id = config.run_id.as_deref().unwrap_or("run");
    let payloads = Payloads::open(&flow.wanted(Numbering::default()), config.seed, run_id)?;
    let mut stamp = Stamp::default();
    // Any time at all: the same question has the same answer.
    stamp.set(1_767_225_600_000_000_000);
    let sample = payloads.sample(&stamp);
    Ok((payloads, sample))
}

/// Where messages come from.
fn origin(flow: &Flow) -> String {
    match (&flow.template, flow.payload) {
        (Some(path), _) => format!("as {} says (TEMPLATE)", path.display()),
        (None, Builtin::Default) => "log lines".to_owned(),
        (None, payload) => format!("{payload} (PAYLOAD)"),
    }
}

fn malformed(rows: &mut Rows, flow: &Flow) {
    if flow.malformed > 0.0 {
        let percent = (flow.malformed * 1e6).round() / 1e4;
        rows.more(format!(
            "{percent} % of them are broken on purpose (MALFORMED); an ok to one is an error"
        ));
    }
}

fn replies(rows: &mut Rows, config: &Config, flow: &Flow) {
    let timeout = match flow.hit_timeout_ms {
        Some(timeout) => format!("{} (HIT_TIMEOUT_MS)", time(timeout)),
        None => format!("{} (REPLY_TIMEOUT_SECS)", time(config.reply_timeout_secs)),
    };
    if flow.scheme.is_http() {
        rows.row(
            "replies",
            match flow.steps.is_empty() {
                true => "2xx is ok, any other status an error; redirects are not followed",
                false => "each step says which status is ok; redirects are not followed",
            },
        );
        rows.more(format!("a request fails when its response is not there after {timeout}"));
        return;
    }
    if flow.scheme == Scheme::Udp {
        rows.row(
            "replies",
            format!(
                "none: datagrams of {} bytes at most",
                thousands(flow.udp_datagram_bytes as u64)
            ),
        );
        return;
    }
    let each = match flow.replies {
        Replies::Range => "one for a range of equal ones",
        _ => "one for each message",
    };
    rows.row("replies", format!("{each}; a batch fails when none comes for {timeout}"));
    if let Some(durability) = flow.durability {
        rows.more(format!("ok has to mean {durability} (DURABILITY)"));
    }
}

/// A line for a person: whole unless it is very long.
fn shortened(line: &str) -> String {
    const SHOWN: usize = 400;
    match line.char_indices().nth(SHOWN) {
        None => line.to_owned(),
        Some((at, _)) => format!("{}… ({} bytes more)", &line[..at], line.len() - at),
    }
}

fn ends(rows: &mut Rows, config: &Config) {
    let is_udp = config.flows.iter().all(|flow| flow.scheme == Scheme::Udp);
    let ends = config.flows.iter().map(|flow| flow.schedule(config.warmup_secs).offering_end_ns());
    let ended = match ends.max().unwrap_or(u64::MAX) {
        u64::MAX if is_udp => "when all messages are sent".to_owned(),
        u64::MAX => "when all messages are answered".to_owned(),
        end_ns => format!("after {} at the latest", time(Duration::from_nanos(end_ns))),
    };
    rows.row("ends", ended);
    if !is_udp {
        let (reply, connect) = (config.reply_timeout_secs, config.connect_timeout_secs);
        rows.more(format!("the last replies are awaited for {} at most", time(reply)));
        rows.more(format!(
            "or when there is no connection for {} (CONNECT_TIMEOUT_SECS): exit code 15",
            time(connect)
        ));
    }
    rows.more("or by Ctrl-C, with a partial summary: exit code 130");
}

fn measured(rows: &mut Rows, config: &Config) {
    if config.flows.iter().all(|flow| flow.scheme == Scheme::Udp) {
        return rows.row("measured", "lag (from when a message was due to when it was sent)");
    }
    rows.row("measured", "response (from when a message was due to its reply),");
    rows.more("service (from when it was sent), and lag between the two;");
    rows.more("what fails or is not sent counts as \"at least so long\"");
    if config.flows.iter().all(|flow| flow.shape == Shape::Closed) {
        rows.more("a message is due when its worker is free: a slow target is asked less");
    }
}

fn verdict(rows: &mut Rows, config: &Config) {
    rows.row(
        "fails",
        format!(
            "if more than {} % of the messages fail or are not sent (MAX_ERROR_RATE): exit code 10",
            config.max_error_rate * 100.0
        ),
    );
    for slo in &config.slo {
        rows.more(format!("or if this does not hold: {slo} (SLO)"));
    }
    if config.strict {
        rows.row(
            "invalid",
            "no headline figures if the generator cannot vouch for them (STRICT): exit code 13",
        );
    }
}

fn machine(rows: &mut Rows, config: &Config) {
    let shards = match config.shards {
        1 => "1 shard, a thread pinned to a cpu".to_owned(),
        count => format!("{count} shards, each a thread pinned to a cpu"),
    };
    rows.row("machine", shards);
    if config.flows.iter().any(|flow| flow.shape != Shape::Closed) {
        rows.more(match config.pacing {
            Pacing::Precise => {
                "pacing precise: due times are met within microseconds, for most of a cpu each"
            }
            Pacing::Thrifty => {
                "pacing thrifty: due times are met within about a millisecond, for little cpu"
            }
        });
    }
    rows.row("memory", format!("about {} MiB", memory_mib(config)));
}

fn output(rows: &mut Rows, args: &Args) {
    let is_json = args.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
    let stdout = match (&args.events, is_json) {
        (Some(_), _) => "events on stdout, the summary as text on stderr",
        (None, true) => "the summary as JSON on stdout, as text on stderr",
        (None, false) => "the summary as text on stdout",
    };
    rows.row("output", stdout);
    if let Some(path) = args.json.as_deref().filter(|_| !is_json) {
        rows.more(format!("the summary as JSON in {}", path.display()));
    }
    if let Some(path) = &args.out {
        rows.more(format!("everything in the folder {}", path.display()));
    }
}

/// What the process will have resident at its peak, MiB. Fitted to runs of one to 5,000 workers, one
/// and two shards, one and 16 stages: a shard's part of a flow has its histograms and buffers, each
/// stage its own on top, and a worker its task and its connection.
fn memory_mib(config: &Config) -> u64 {
    const PROCESS_KIB: u64 = 22 << 10;
    const LANE_KIB: u64 = 21 << 10;
    const STAGE_KIB: u64 = 4 << 10;
    const WORKER_KIB: u64 = 14;
    let mut kib = PROCESS_KIB;
    for flow in &config.flows {
        let stages = flow.schedule(config.warmup_secs).stages().len() as u64;
        let lanes = flow.concurrency.min(config.shards.max(1)) as u64;
        kib += lanes * LANE_KIB + (stages - 1) * STAGE_KIB + flow.concurrency as u64 * WORKER_KIB;
    }
    // No more exact than it is.
    (kib >> 10).next_multiple_of(10)
}

/// `10 s`, `1 min 30 s`, `250 ms`.
fn time(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let part = |count: u64, unit: &str| (count > 0).then(|| format!("{count} {unit}"));
    if nanos > 0 && seconds < 60 {
        return match seconds {
            0 => nanos_as_words(u64::from(nanos)),
            _ => format!("{} s", duration.as_secs_f64()),
        };
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let parts = [part(hours, "h"), part(minutes, "min"), part(seconds, "s")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use loadgen::config::{self, Wrong};

    use super::*;

    fn explained(words: &str) -> String {
        let line = format!("logboom-loadgen --shards 2 {words}");
        match config::read(line.split_whitespace().map(OsString::from)) {
            Ok((args, config)) => {
                config.check().unwrap();
                text(&config, &args).unwrap()
            }
            Err(Wrong::Line(error)) => panic!("{error}"),
            Err(Wrong::Run(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn runs_are_told_in_words() {
        insta::assert_snapshot!("closed_loop", explained(""));
        insta::assert_snapshot!(
            "steady_rate",
            explained("-r 10k -w 5s -z 1m -c 50 --slo p99<50ms --strict --out results/first")
        );
        insta::assert_snapshot!(
            "stages",
            explained("--stages rise=30s:20k,2m@20k,0s:5k,30s:0 -c 100 --arrivals poisson")
        );
        insta::assert_snapshot!("burst", explained("--burst rate=50k,for=1s,every=10s -z 1m -c 8"));
        insta::assert_snapshot!(
            "wave",
            explained(
                "--wave mean=5k,swing=4k,every=10m -z 1h -c 1 --batch-size 1 --catch-up 1.2x"
            )
        );
        insta::assert_snapshot!(
            "churn",
            explained(
                "-c 10k --connect storm --connection-secs-max 1m --think-time 5s..15s -z 5m \
                 --target tls://[::1]:9100 --durability durable --replies range --compress"
            )
        );
        insta::assert_snapshot!(
            "journey",
            explained("--target https://a/api --journey complex -r 100 -z 1m --http2")
        );
        insta::assert_snapshot!(
            "streams",
            explained("--target http://a/ -c 10 --http2 --streams 32 -d abc -n 5000")
        );
        insta::assert_snapshot!("datagrams", explained("--target udp://a:1 -n 5000 --json - "));
    }

    #[test]
    fn times_are_words() {
        let words = [0, 250, 1_500, 60_000, 90_000, 3_600_000, 7_230_000]
            .map(|ms| time(Duration::from_millis(ms)));
        let expected = ["0 s", "250 ms", "1.5 s", "1 min", "1 min 30 s", "1 h", "2 h 30 s"];
        assert_eq!(words, expected);
    }
}
