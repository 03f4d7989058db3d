//! What was asked of the bench, and what it means.
//!
//! The only file of this crate that reads the environment. [`Cli`] is every knob as one field, as
//! clap reads it; [`Config`] is what the rest of the crate works with: parsed once, valid.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fmt};

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use proto::hello::Durability;
use runtime::units;

use crate::error::Error;
use crate::judge::Demands;
use crate::runner::confine::Confinement;
use crate::suite::{Suite, tiers};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "logboom-bench",
    version,
    about = "Rising load on an engine, an audit of every acknowledged line, a verdict",
    after_help = "Without a subcommand: run tiers. Every flag is also an environment variable: --min-rps is MIN_RPS.\n\
        Exit codes: 0 pass, 1 broke on the way, 2 usage, 3 cannot start here, 10 too slow or too many errors,\n\
        12 acknowledged lines missing, 13 measurement invalid, 15 target unreachable, 130/143 interrupted.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    knobs: Knobs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a suite of tiers (the default)
    Run {
        /// Which suite
        #[arg(value_enum, default_value_t = SuiteName::Tiers)]
        suite: SuiteName,
        #[command(flatten)]
        knobs: Box<Knobs>,
    },
    /// Be the generator of one tier: configuration on standard input, outcome on standard output
    #[command(hide = true)]
    Generate,
    /// Become another program on these cpus, which ends when the bench ends
    #[command(hide = true)]
    Confine {
        #[arg(long)]
        parent: u32,
        #[arg(long, value_delimiter = ',')]
        cpus: Vec<usize>,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SuiteName {
    Tiers,
}

/// Every knob of the bench.
#[derive(Debug, Clone, Args)]
struct Knobs {
    /// Multiplies the totals of the tiers; 1000 is the headline run
    #[arg(long, env, default_value = "1", value_parser = units::count)]
    scale: u64,
    /// Only these tiers; may be repeated, or separated by commas
    #[arg(long, env, value_delimiter = ',', value_parser = PossibleValuesParser::new(tiers::names()))]
    tier: Vec<String>,
    /// Pause between tiers (seconds)
    #[arg(long, env, default_value = "5", value_parser = units::seconds)]
    cooldown_secs: Duration,
    /// How long the last tier, which has no total, lasts (seconds); 0 leaves it out
    #[arg(long, env, default_value = "5", value_parser = units::seconds)]
    peak_secs: Duration,
    /// Messages a second below which a tier fails [default: its total over its duration]
    #[arg(long, env, value_parser = units::count)]
    min_rps: Option<u64>,
    /// Share of failed messages above which a tier fails: 1% or 0.01
    #[arg(long, env, default_value = "1%", value_parser = units::share)]
    max_error_rate: f64,
    /// What the generator asks `ok` to mean: received, written or durable [default: what the engine offers]
    #[arg(long, env)]
    durability: Option<Durability>,
    /// Drive this engine, tcp://host:port, instead of starting one
    #[arg(long, env, value_parser = address)]
    target: Option<Address>,
    /// LOG_DIR of the target's engine, for the audit; without it the audit is not assessed
    #[arg(long, env)]
    logs: Option<PathBuf>,
    /// Admin listener of the target's engine, http://host:port, which says what the engine costs and what caps it; without it that is not assessed
    #[arg(long, env, value_parser = admin_address)]
    admin: Option<Address>,
    /// The engine to start [default: logboom-engine beside this program]
    #[arg(long, env, conflicts_with = "target")]
    engine: Option<PathBuf>,
    /// A setting K=V for the engine that is started; may be repeated
    #[arg(long, env, value_name = "K=V", conflicts_with = "target")]
    engine_env: Vec<String>,
    /// Keep the segments of the engine that is started (below TMPDIR)
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    keep_logs: bool,
    /// Folder below which the report of each run gets a folder of its own
    #[arg(long, env, default_value = "results")]
    results: PathBuf,
    /// Write the report to this file too; with - it goes to standard output, and the text to standard error
    #[arg(long, env, value_name = "PATH|-")]
    json: Option<PathBuf>,
}

/// The clap command, for documents that are held against it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What this process is to do.
#[derive(Debug)]
pub enum Task {
    Run(Config),
    Generate,
    Confine(Confinement),
}

/// A run of the bench.
#[derive(Debug, Clone)]
pub struct Config {
    pub suite: Suite,
    pub scale: u64,
    pub cooldown: Duration,
    pub peak: Duration,
    pub demands: Demands,
    pub durability: Option<Durability>,
    pub engine: EngineSource,
    pub results: PathBuf,
    pub json: Option<Json>,
    pub terminal: Terminal,
}

/// Where the engine comes from.
#[derive(Debug, Clone)]
pub enum EngineSource {
    /// Ours: one per tier.
    Child(EngineChild),
    /// Somebody else's, which goes on running.
    Target { address: Address, logs: Option<PathBuf>, admin: Option<Address> },
}

/// `tcp://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            host if host.contains(':') => write!(out, "tcp://[{host}]:{}", self.port),
            host => write!(out, "tcp://{host}:{}", self.port),
        }
    }
}

/// The engine to start, and what it shall find around it.
#[derive(Debug, Clone)]
pub struct EngineChild {
    pub program: PathBuf,
    pub variables: Vec<(String, String)>,
    /// Whether it stores lines at all; without them there is nothing to audit.
    pub persists: bool,
    /// Whether `ok` promises that a line survives the engine's death.
    pub promises_survival: bool,
    /// Where its folders go.
    pub temporary: PathBuf,
    pub keep_logs: bool,
}

/// Where the report goes besides its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    Stdout,
    File(PathBuf),
}

/// What may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Progress rewrites its line.
    pub live: bool,
    /// Verdicts have a colour.
    pub colour: bool,
}

/// What bench decides for its engine; setting it from outside would break the run.
const OWN_VARIABLES: [&str; 4] = ["SERVER_HOST", "SERVER_PORT", "LOG_DIR", "READY_FILE"];

impl Cli {
    /// Reads arguments and environment; prints and exits for --help, --version and mistakes.
    pub fn read() -> Cli {
        Cli::parse()
    }

    /// What was meant.
    ///
    /// # Errors
    /// [`Error::Usage`], which names value and knob, and [`Error::EngineMissing`].
    pub fn task(self) -> Result<Task, Error> {
        match self.command {
            None => Config::new(self.knobs).map(Task::Run),
            Some(Command::Run { suite: SuiteName::Tiers, knobs }) => {
                Config::new(*knobs).map(Task::Run)
            }
            Some(Command::Generate) => Ok(Task::Generate),
            Some(Command::Confine { parent, cpus, program }) => {
                let mut words = program.into_iter();
                let program = words.next().expect("clap asks for at least one word");
                Ok(Task::Confine(Confinement { parent, cpus, program, arguments: words.collect() }))
            }
        }
    }
}

impl Config {
    fn new(knobs: Knobs) -> Result<Config, Error> {
        let usage = |text: String| Err(Error::Usage(text));
        if knobs.scale == 0 {
            return usage("0 is too small for --scale (SCALE): at least 1".into());
        }
        if knobs.logs.is_some() && knobs.target.is_none() {
            return usage(
                "--logs (LOGS) is where a --target (TARGET) stores; none was named".into(),
            );
        }
        if knobs.admin.is_some() && knobs.target.is_none() {
            return usage("--admin (ADMIN) is that of a --target (TARGET); none was named".into());
        }
        let mut suite = tiers::suite(knobs.scale, knobs.peak_secs);
        if !knobs.tier.is_empty() {
            let wanted: HashSet<&str> = knobs.tier.iter().map(String::as_str).collect();
            suite.tiers.retain(|tier| wanted.contains(tier.name));
        }
        if suite.tiers.is_empty() {
            return usage("no tier is left: --tier (TIER) names peak, --peak-secs is 0".into());
        }
        let engine = match &knobs.target {
            Some(address) => {
                let Knobs { logs, admin, .. } = &knobs;
                let (logs, admin) = (logs.clone(), admin.clone());
                EngineSource::Target { address: address.clone(), logs, admin }
            }
            None => EngineSource::Child(EngineChild::new(&knobs)?),
        };
        let json = knobs.json.map(|path| match path.to_str() {
            Some("-") => Json::Stdout,
            _ => Json::File(path),
        });
        let text_is_terminal = match json {
            Some(Json::Stdout) => io::stderr().is_terminal(),
            _ => io::stdout().is_terminal(),
        };
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(Config {
            suite,
            scale: knobs.scale,
            cooldown: knobs.cooldown_secs,
            peak: knobs.peak_secs,
            demands: Demands {
                min_rps: knobs.min_rps.map(|rate| rate as f64),
                max_error_rate: knobs.max_error_rate,
            },
            durability: knobs.durability,
            engine,
            results: knobs.results,
            json,
            terminal: Terminal {
                live: io::stderr().is_terminal(),
                colour: text_is_terminal && !no_colour,
            },
        })
    }
}

impl EngineChild {
    fn new(knobs: &Knobs) -> Result<EngineChild, Error> {
        let program = match &knobs.engine {
            Some(program) => program.clone(),
            None => {
                let own = env::current_exe().map_err(Error::Machine)?;
                own.with_file_name("logboom-engine")
            }
        };
        if !is_file(&program) {
            return Err(Error::EngineMissing { path: program });
        }
        let settings = knobs.engine_env.iter().map(|text| setting(text));
        let variables = settings.collect::<Result<Vec<_>, _>>()?;
        let is = |key: &str, value: &str| {
            let last = variables.iter().rev().find(|(name, _)| name == key);
            last.is_some_and(|(_, set)| set.eq_ignore_ascii_case(value))
        };
        let received = match knobs.durability {
            Some(asked) => asked == Durability::Received,
            None => is("DURABILITY", Durability::Received.as_str()),
        };
        Ok(EngineChild {
            persists: !is("ENABLE_PERSISTENCE", "false"),
            promises_survival: !received,
            program,
            variables,
            temporary: env::temp_dir(),
            keep_logs: knobs.keep_logs,
        })
    }
}

fn address(text: &str) -> Result<Address, String> {
    address_of("tcp://", text)
}

fn admin_address(text: &str) -> Result<Address, String> {
    address_of("http://", text)
}

fn address_of(scheme: &str, text: &str) -> Result<Address, String> {
    let fault = || format!("not of the form {scheme}host:port");
    let rest = text.strip_prefix(scheme).ok_or_else(fault)?;
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(fault)?;
    let port = port.parse().map_err(|_| fault())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host) {
        "" => Err(fault()),
        host if bare.is_none() && host.contains(':') => Err("an IPv6 address has brackets".into()),
        host => Ok(Address { host: host.to_owned(), port }),
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}

/// `K=V`, K a name that the environment can carry and that is not ours to set.
fn setting(text: &str) -> Result<(String, String), Error> {
    let fault =
        |why: &str| Error::Usage(format!("\"{text}\" for --engine-env (ENGINE_ENV): {why}"));
    let (key, value) = text.split_once('=').ok_or_else(|| fault("not of the form K=V"))?;
    let is_name = |key: &str| {
        key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && key.bytes().next().is_some_and(|first| !first.is_ascii_digit())
    };
    if !is_name(key) {
        return Err(fault("K is a name of letters, digits and _"));
    }
    if OWN_VARIABLES.contains(&key) {
        return Err(fault("the bench sets this itself for each tier"));
    }
    if value.contains('\0') {
        return Err(fault("V has a NUL byte"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        // Any file will do as an engine that is not started.
        let own = env::current_exe().unwrap();
        let engine = ["--engine", own.to_str().unwrap()];
        let engine = if arguments.contains(&"--target") { &[][..] } else { &engine[..] };
        let words = [&["logboom-bench"], arguments, engine].concat();
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match cli.task().map_err(|error| error.to_string())? {
            Task::Run(config) => Ok(config),
            task => panic!("{task:?}"),
        }
    }

    #[test]
    fn without_a_subcommand_it_runs_the_tiers() {
        for arguments in [&[][..], &["run"], &["run", "tiers"]] {
            let config = config(arguments).unwrap();
            assert_eq!(config.suite, tiers::suite(1, Duration::from_secs(5)));
            assert_eq!(config.cooldown, Duration::from_secs(5));
            assert_eq!(config.demands, Demands { min_rps: None, max_error_rate: 0.01 });
        }
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        let config = config(&["--scale", "1k", "--max-error-rate", "0.5%", "--peak-secs", "500ms"]);
        let config = config.unwrap();
        assert_eq!((config.scale, config.demands.max_error_rate), (1000, 0.005));
        assert_eq!(config.suite.tiers.last().unwrap().duration, Duration::from_millis(500));
    }

    #[test]
    fn tiers_are_selected_by_name() {
        let names = |config: Config| -> Vec<&str> {
            config.suite.tiers.iter().map(|tier| tier.name).collect()
        };
        let some = config(&["--tier", "peak,warmup", "--tier", "high_load"]).unwrap();
        assert_eq!(names(some), ["warmup", "high_load", "peak"]);
        assert!(config(&["--tier", "nonsense"]).unwrap_err().contains("stress_test"));
        assert!(config(&["--tier", "peak", "--peak-secs", "0"]).unwrap_err().contains("TIER"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_value_and_knob() {
        for (arguments, needle) in [
            (&["--scale", "0"][..], "SCALE"),
            (&["--engine-env", "NONSENSE"], "K=V"),
            (&["--engine-env", "LOG_DIR=/x"], "LOG_DIR"),
            (&["--engine-env", "1X=2"], "ENGINE_ENV"),
            (&["--max-error-rate", "7"], "7"),
            (&["--logs", "/x"], "--target"),
            (&["--admin", "http://h:1"], "--target"),
            (&["--target", "tcp://h:1", "--admin", "h:1"], "http://host:port"),
            (&["--target", "tcp://h:1", "--engine", "/x"], "--target"),
            (&["--target", "h:1"], "tcp://host:port"),
            (&["--target", "tcp://::1:1"], "brackets"),
            (&["--durability", "hope"], "hope"),
            (&["run", "soak"], "tiers"),
        ] {
            let text = config(arguments).unwrap_err();
            assert!(text.contains(needle), "{arguments:?}: {text}");
        }
    }

    #[test]
    fn a_target_reads_back_as_it_was_written() {
        for text in ["tcp://localhost:9000", "tcp://[::1]:9000"] {
            let EngineSource::Target { address, logs, admin: None } =
                config(&["--target", text]).unwrap().engine
            else {
                panic!("a target was named");
            };
            assert_eq!((address.to_string().as_str(), logs), (text, None));
        }
    }

    #[test]
    fn every_knob_has_the_same_name_as_flag_and_in_the_environment() {
        command().debug_assert();
        for arg in command().get_arguments().filter(|arg| arg.get_long().is_some()) {
            let flag = arg.get_long().unwrap().replace('-', "_").to_uppercase();
            let env = arg.get_env().map(|name| name.to_str().unwrap());
            assert!(env == Some(&flag) || ["HELP", "VERSION"].contains(&&*flag), "{flag}");
        }
    }

    #[test]
    fn an_absent_engine_is_told_with_the_way_to_build_it() {
        let cli = Cli::try_parse_from(["logboom-bench", "--engine", "/nowhere/engine"]).unwrap();
        let error = cli.task().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(text.contains("/nowhere/engine") && text.contains("cargo build"), "{text}");
    }

    #[test]
    fn an_engine_without_persistence_has_nothing_to_audit() {
        let persists = |arguments: &[&str]| match config(arguments).unwrap().engine {
            EngineSource::Child(child) => child.persists,
            EngineSource::Target { .. } => unreachable!("none was named"),
        };
        assert!(persists(&[]));
        assert!(!persists(&["--engine-env", "ENABLE_PERSISTENCE=false"]));
    }
}
