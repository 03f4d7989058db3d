//! Every knob of the generator, and what the knobs mean together.
//!
//! [`Args`] is what was asked, piece by piece; [`Config`] is the run: resolved, with units, the same
//! whether a command line, a scenario file or the bench made it. What concerns the whole run is
//! here, what concerns one of its flows in [`Flow`].
//!
//! A key within a flow of a scenario file stands above all; otherwise a flag beats the environment,
//! which beats the scenario file, which beats the default.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use serde::{Deserialize, Serialize};

use self::scenario::Scenario;
use self::serial::seconds;
use crate::error::Error;
use crate::measure::slo::Slo;
use crate::plan::shape::{Pacing, Shape};

mod args;
mod commands;
mod endpoint;
mod flow;
mod http;
mod scenario;
mod serial;
mod sockets;
mod taste;

pub use args::Args;
pub use commands::{Command, RecordArgs};
pub use endpoint::{Endpoint, Scheme};
pub use flow::{Connect, Flow, ThinkTime};
pub use http::{Body, Header, Http, Token};
pub use sockets::{Sockets, Source};
pub use taste::{Taste, taste};

/// The command line's description: every knob, its flag, environment name and default.
pub fn command() -> clap::Command {
    Args::command()
}

/// A run, resolved. [`Config::default`] is the documented defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What runs at the same time, at least one.
    pub flows: Vec<Flow>,
    /// Threads; 0 is as many as cpus and workers allow.
    pub shards: usize,
    /// Of payloads, arrivals and jitter.
    pub seed: u64,
    /// The `run` in every message; `None` is drawn at the start.
    pub run_id: Option<String>,
    /// How exactly due times are met.
    pub pacing: Pacing,
    /// Load before the measured part.
    #[serde(with = "seconds")]
    pub warmup_secs: Duration,
    /// How long a batch waits for its next reply, and the end of the run for the last ones.
    #[serde(with = "seconds")]
    pub reply_timeout_secs: Duration,
    /// How long a connection may take.
    #[serde(with = "seconds")]
    pub connect_timeout_secs: Duration,
    /// 0.0 to 1.0.
    pub max_error_rate: f64,
    /// What has to hold.
    pub slo: Vec<Slo>,
    /// No headline from a run that is not valid.
    pub strict: bool,
    /// Where calibrations are kept; `None` is [`Config::state_dir`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Keep which messages were acknowledged (for an audit; not a knob of the command line).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ledger: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            flows: vec![Flow::default()],
            shards: 0,
            seed: 1,
            run_id: None,
            pacing: Pacing::Thrifty,
            warmup_secs: Duration::ZERO,
            reply_timeout_secs: Duration::from_secs(10),
            connect_timeout_secs: Duration::from_secs(5),
            max_error_rate: 0.01,
            slo: Vec::new(),
            strict: false,
            state_dir: None,
            ledger: false,
        }
    }
}

/// Why a command line makes no run.
#[derive(Debug)]
pub enum Wrong {
    /// Help and version are asked for, or a value is wrong: clap says and exits.
    Line(clap::Error),
    /// The values don't go together, or the scenario file is wrong.
    Run(Error),
}

impl Wrong {
    /// Tells a person what is wrong (or the help that was asked for) and ends the process, as
    /// `logboom-loadgen` does.
    #[expect(clippy::print_stderr, reason = "what `main` would do")]
    pub fn exit(self) -> ! {
        match self {
            Wrong::Line(error) => error.exit(),
            Wrong::Run(error) => {
                eprintln!("error: {error}");
                std::process::exit(error.exit_code().into())
            }
        }
    }
}

impl From<clap::Error> for Wrong {
    fn from(error: clap::Error) -> Wrong {
        Wrong::Line(error)
    }
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Run(error)
    }
}

/// Reads a command line (its first word is the program) with the environment and the scenario file
/// that they name.
///
/// # Errors
/// See [`Wrong`].
pub fn read(line: impl IntoIterator<Item = impl Into<OsString>>) -> Result<(Args, Config), Wrong> {
    let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
    let command = command();
    let args = parse(command.clone(), line.clone())?;
    let is_of_a_run = matches!(args.command, None | Some(Command::Calibrate));
    let Some(path) = args.scenario.as_ref().filter(|_| is_of_a_run) else {
        let flows = Flow::from_args("main", &args)?;
        let config = Config::new(&args, flows);
        return Ok((args, config));
    };
    // What is behind a command is the command's.
    let (line, behind) = match args.command.is_some() {
        true => line.split_at(line.len() - 1),
        false => line.split_at(line.len()),
    };
    let scenario = Scenario::read(path, &command)?;
    let command = scenario.beneath(command);
    let args = parse(command.clone(), [line, behind].concat())?;
    let mut flows = Vec::new();
    for part in &scenario.flows {
        let flags: Vec<OsString> = part.flags.iter().map(OsString::from).collect();
        let mut own = parse(command.clone(), [line, &flags, behind].concat())?;
        if let Some(share) = part.share {
            own.concurrency = share_of(args.concurrency, share);
        }
        let steps = &part.steps;
        flows.extend(Flow::from_args(&part.name, &own)?.into_iter().map(|flow| {
            let steps = if steps.is_empty() { flow.steps } else { steps.clone() };
            Flow { steps, ..flow }
        }));
    }
    if scenario.flows.is_empty() {
        flows = Flow::from_args("main", &args)?;
    }
    let config = Config::new(&args, flows);
    Ok((args, config))
}

fn parse(command: clap::Command, line: Vec<OsString>) -> Result<Args, clap::Error> {
    Args::from_arg_matches(&command.try_get_matches_from(line)?)
}

/// At least one worker.
fn share_of(workers: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a count of tasks"
    )]
    let part = (workers as f64 * share).round() as usize;
    part.max(1)
}

impl Config {
    /// The run of these flows with what `args` say of the whole.
    fn new(args: &Args, flows: Vec<Flow>) -> Config {
        Config {
            flows,
            shards: args.shards,
            seed: args.seed,
            run_id: args.run_id.clone(),
            pacing: args.pacing,
            warmup_secs: args.warmup_secs,
            reply_timeout_secs: args.reply_timeout_secs,
            connect_timeout_secs: args.connect_timeout_secs,
            max_error_rate: args.max_error_rate,
            slo: args.slo.clone(),
            strict: args.strict,
            state_dir: args.state_dir.clone(),
            ledger: false,
        }
    }

    /// A run of one flow.
    pub fn of(flow: Flow) -> Config {
        Config { flows: vec![flow], ..Config::default() }
    }

    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Usage`] names the value and the knob.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
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
        if let Some(id) = &self.run_id {
            args::run_id(id)
                .map_err(|reason| Error::Usage(format!("RUN_ID \"{id}\": {reason}")))?;
        }
        if self.flows.is_empty() {
            return wrong("a run has at least one flow".into());
        }
        if let Some(flow) = self.flows.iter().find(|flow| flow.replay.is_some()) {
            if self.ledger {
                return wrong(
                    "a recording does not say who sent what, so there is no ledger".into(),
                );
            }
            if !self.warmup_secs.is_zero() && flow.shape == Shape::Closed {
                return wrong(format!(
                    "WARMUP_SECS {} beside REPLAY_SPEED max: what is sent to warm up would be \
                     missing in the measured part",
                    self.warmup_secs.as_secs_f64()
                ));
            }
        }
        for flow in &self.flows {
            flow.check().map_err(|error| match error {
                Error::Usage(text) if self.flows.len() > 1 => {
                    Error::Usage(format!("flow {}: {text}", flow.name))
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// Where calibrations are kept: STATE_DIR, or the user's own; `None` for one without a home.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.state_dir.clone().or_else(args::state_home)
    }

    /// Workers of all flows.
    pub fn concurrency(&self) -> usize {
        self.flows.iter().map(|flow| flow.concurrency).sum()
    }
}

#[cfg(test)]
mod tests {
    use proto::hello::{Durability, Replies};

    use super::*;
    use crate::plan::shape::Shape;

    fn line(args: &[&str]) -> Vec<OsString> {
        std::iter::once("logboom-loadgen").chain(args.iter().copied()).map(OsString::from).collect()
    }

    fn run(args: &[&str]) -> Config {
        match read(line(args)) {
            Ok((_, config)) => config,
            Err(Wrong::Line(error)) => panic!("{error}"),
            Err(Wrong::Run(error)) => panic!("{error}"),
        }
    }

    fn parse(args: &[&str]) -> Flow {
        let config = run(args);
        assert_eq!(config.flows.len(), 1);
        config.flows.into_iter().next().unwrap()
    }

    fn refusal(args: &[&str]) -> String {
        match read(line(args)) {
            Ok((_, config)) => config.check().unwrap_err().to_string(),
            Err(Wrong::Line(error)) => error.to_string(),
            Err(Wrong::Run(error)) => error.to_string(),
        }
    }

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn without_arguments_it_is_the_documented_defaults() {
        assert_eq!(run(&[]), Config::default());
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
        assert!(refusal(&["-n", "0", "-z", "0"]).contains("DURATION_SECS"));
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
        assert_eq!((config.concurrency, config.total_logs), (8, 1000));
        assert_eq!(config.shape, Shape::from_rate(10_000));
        assert_eq!(parse(&["--rate", "5"]).shape, Shape::from_rate(5));
        assert_eq!(parse(&["-r", "5"]).shape, Shape::from_rate(5));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_knob() {
        for (args, knob) in [
            (["-c", "many"], "CONCURRENCY"),
            (["--max-error-rate", "7"], "MAX_ERROR_RATE"),
            (["--replies", "none"], "REPLIES"),
            (["--durability", "eventually"], "DURABILITY"),
            (["--run-id", "a b"], "RUN_ID"),
            (["--source-address", "10.0.0.1/40"], "SOURCE_ADDRESS"),
            (["--tcp-nodelay", "maybe"], "TCP_NODELAY"),
            (["--send-buffer", "0"], "SEND_BUFFER"),
            (["--receive-buffer", "lots"], "RECEIVE_BUFFER"),
        ] {
            let text = refusal(&args);
            assert!(text.contains(knob) && text.contains(args[1]), "{text}");
        }
        assert!(refusal(&["-c", "0"]).contains("CONCURRENCY 0"));
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
        let flow = Flow {
            durability: Some(Durability::Durable),
            replies: Replies::Range,
            duration_secs: Duration::from_millis(1500),
            shape: Shape::Stages("30s:1k,5s@2k".parse().unwrap()),
            think_time: "1ms..2ms".parse().unwrap(),
            ..Flow::default()
        };
        let config = Config { ledger: true, ..Config::of(flow) };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert!(serde_json::from_str::<Config>("{\"totals\":1}").is_err());
    }

    #[test]
    fn a_burst_is_two_flows_with_workers_of_their_own() {
        let config = run(&["--burst", "rate=50k,for=1s,every=10s", "-c", "7"]);
        let told: Vec<_> =
            config.flows.iter().map(|flow| (flow.name.as_str(), flow.concurrency)).collect();
        assert_eq!(told, [("base", 4), ("burst", 3)]);
        assert_eq!(config.flows[0].shape, Shape::from_rate(1000));
        assert_eq!(config.flows[0].duration_secs, Duration::from_secs(10));
        assert!(refusal(&["--burst", "rate=1k", "-c", "1"]).contains("CONCURRENCY 1"));
        assert!(refusal(&["--burst", "rate=1k", "-n", "5"]).contains("TOTAL_LOGS 5"));
        assert!(refusal(&["--burst", "rate=1k", "-r", "5"]).contains("TARGET_RPS 5"));
        assert_eq!(parse(&["--burst", "rate=1k,base=0", "-c", "1"]).name, "main");
    }

    #[test]
    fn stages_say_when_the_load_ends() {
        let flow = parse(&["--stages", "30s:1k,1m:10k,10s:0"]);
        assert_eq!((flow.total_logs, flow.duration_secs), (0, Duration::from_secs(100)));
        let flow = parse(&["--stages", "30s:1k,1m:10k,10s:0", "-z", "5"]);
        assert_eq!(flow.duration_secs, Duration::from_secs(5));
        assert!(refusal(&["--stages", "30s:1k", "--wave", "mean=1k"]).contains("--wave"));
        assert!(refusal(&["--arrivals", "poisson"]).contains("ARRIVALS needs a schedule"));
    }

    const SCENARIO: &str = r#"
        duration_secs = "1m"
        concurrency = 20
        slo = ["p99<50ms", "loss==0"]

        [[flow]]
        name = "steady"
        share = "25%"
        target_rps = "1k"

        [[flow]]
        name = "rush"
        share = 0.75
        target = "tls://logs.example.org:9100"
        stages = "30s:1k,30s:20k"
        compress = true

        [[flow]]
        burst = "rate=5k,for=1s,every=5s"
        concurrency = 2
    "#;

    #[test]
    fn a_command_may_stand_behind_a_scenario() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, SCENARIO.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let (args, config) = read(["logboom-loadgen", "--scenario", path, "calibrate"]).unwrap();
        assert_eq!(args.command, Some(Command::Calibrate));
        assert_eq!(config.flows, scenario(SCENARIO, &[]).unwrap().flows);
        let (args, _) = read(["logboom-loadgen", "--scenario", path, "examples", "nginx"]).unwrap();
        assert!(matches!(args.command, Some(Command::Examples { name: Some(_) })));
    }

    fn scenario(text: &str, more: &[&str]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut args = vec!["--scenario", file.path().to_str().unwrap()];
        args.extend(more);
        match read(line(&args)) {
            Ok((_, config)) => config.check().map(|()| config).map_err(|error| error.to_string()),
            Err(Wrong::Line(error)) => Err(error.to_string()),
            Err(Wrong::Run(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_scenario_names_flows_and_gives_defaults() {
        let config = scenario(SCENARIO, &[]).unwrap();
        assert_eq!(
            config.slo.iter().map(Slo::to_string).collect::<Vec<_>>(),
            ["p99<50ms", "loss==0"]
        );
        let names: Vec<_> = config.flows.iter().map(|flow| flow.name.as_str()).collect();
        assert_eq!(names, ["steady", "rush", "flow3.base", "flow3.burst"]);
        let workers: Vec<_> = config.flows.iter().map(|flow| flow.concurrency).collect();
        assert_eq!(workers, [5, 15, 1, 1]);
        let rush = &config.flows[1];
        assert_eq!((rush.scheme, rush.server_port, rush.compress), (Scheme::Tls, 9100, true));
        assert_eq!(config.flows[0].duration_secs, Duration::from_secs(60));
        assert_eq!(config.flows[0].server_host, "localhost");
    }

    #[test]
    fn a_flag_beats_what_stands_above_the_flows_and_not_what_stands_in_one() {
        let config = scenario(SCENARIO, &["-c", "40", "-z", "5", "--target-rps", "9"]).unwrap_err();
        // `rush` has stages: the rate of the flag has no place there.
        assert!(config.contains("TARGET_RPS 9"), "{config}");
        let config = scenario(SCENARIO, &["-c", "40", "-z", "5", "--server-host", "a"]).unwrap();
        assert_eq!(config.flows[0].concurrency, 10);
        assert_eq!(config.flows[0].duration_secs, Duration::from_secs(5));
        assert_eq!(config.flows[0].server_host, "a");
        assert_eq!(config.flows[1].server_host, "logs.example.org");
    }

    #[test]
    fn a_wrong_scenario_is_told_by_its_key() {
        for (text, hint) in [
            ("rate = 5", "no knob called rate"),
            ("target_rps = \"many\"", "TARGET_RPS"),
            ("[[flow]]\nseed = 5", "seed concerns the whole run"),
            ("[[flow]]\nname = \"a b\"", "not a name"),
            ("[[flow]]\nname = \"a\"\n[[flow]]\nname = \"a\"", "two flows are called \"a\""),
            ("[[flow]]\nbatch_size = 0", "BATCH_SIZE 0"),
            ("[flow]\nname = \"a\"", "[[flow]]"),
            ("target_rps = ", "SCENARIO"),
            ("scenario = \"b\"", "does not name another"),
        ] {
            let error = scenario(text, &[]).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
        assert!(refusal(&["--scenario", "/nowhere.toml"]).contains("/nowhere.toml (SCENARIO)"));
    }
}
