//! A scenario file: knobs, and flows that run at the same time, in TOML.
//!
//! Keys are the knobs' names in lower case with underscores (`target_rps = "10k"`), and their values
//! go through the same parsers as flags. A key at the top stands for every flow, below flags and the
//! environment; a key within a `[[flow]]` concerns that flow alone and stands above all. Owns reading
//! the file; leaves meaning to [`super::Config`].
//!
//! ```toml
//! duration_secs = "1m"
//! concurrency = 20
//!
//! [[flow]]
//! name = "steady"
//! share = "25%"           # of CONCURRENCY
//! target_rps = "1k"
//!
//! [[flow]]
//! name = "rush"
//! share = "75%"
//! target = "tls://logs.example.org:9000"
//! stages = "30s:1k,30s:20k"
//!
//! [[flow.step]]            # a journey: see `plan::journey`
//! path = "/login"
//! ```

use std::path::Path;

use clap::Command;
use clap::builder::OsStr;
use runtime::units;
use toml::{Table, Value};

use crate::error::Error;
use crate::plan::journey::StepText;

/// Knobs that concern the run as a whole, and so cannot stand in a flow.
const RUN_WIDE: [&str; 17] = [
    "shards",
    "seed",
    "run_id",
    "pacing",
    "warmup_secs",
    "reply_timeout_secs",
    "connect_timeout_secs",
    "max_error_rate",
    "slo",
    "strict",
    "scenario",
    "out",
    "events",
    "json",
    "quiet",
    "print_config",
    "explain",
];

/// What a file says, key by key, as the command line would have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scenario {
    /// Keys at the top.
    top: Vec<(String, Vec<String>)>,
    /// Each flow.
    pub(super) flows: Vec<Part>,
}

/// A `[[flow]]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) name: String,
    /// The part of CONCURRENCY that is its own.
    pub(super) share: Option<f64>,
    /// Its knobs as flags.
    pub(super) flags: Vec<String>,
    /// Of its journey.
    pub(super) steps: Vec<StepText>,
}

impl Scenario {
    /// Reads `path`; `command` knows the knobs.
    ///
    /// # Errors
    /// Names the file, the key, and what is wrong with it.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Scenario, Error> {
        let unusable =
            |reason: String| Error::Unusable { path: path.to_owned(), knob: "SCENARIO", reason };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let wrong = |reason: String| {
            Error::Usage(format!("cannot use {} (SCENARIO): {reason}", path.display()))
        };
        Scenario::parse(&text, command).map_err(wrong)
    }

    fn parse(text: &str, command: &Command) -> Result<Scenario, String> {
        let mut table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let flows = match table.remove("flow") {
            None => Vec::new(),
            Some(Value::Array(flows)) => flows,
            Some(_) => return Err("a flow begins with [[flow]]".to_owned()),
        };
        let mut scenario = Scenario::default();
        for (key, value) in table {
            if key == "scenario" {
                return Err("a scenario does not name another one".to_owned());
            }
            known(&key, command)?;
            scenario.top.push((key.clone(), words(&key, &value)?));
        }
        for (index, flow) in flows.into_iter().enumerate() {
            let Value::Table(flow) = flow else { return Err("a flow is a table".to_owned()) };
            let part = part(index, flow, command)?;
            if scenario.flows.iter().any(|other| other.name == part.name) {
                return Err(format!("two flows are called \"{}\"", part.name));
            }
            scenario.flows.push(part);
        }
        Ok(scenario)
    }

    /// The command line with the keys at the top as its defaults.
    pub(super) fn beneath(&self, command: Command) -> Command {
        self.top.iter().fold(command, |command, (key, values)| {
            let values: Vec<OsStr> =
                values.iter().map(|value| OsStr::from(value.clone())).collect();
            command.mut_arg(key, |arg| arg.default_values(values))
        })
    }
}

fn part(index: usize, flow: Table, command: &Command) -> Result<Part, String> {
    let name = format!("flow{}", index + 1);
    let mut part = Part { name, share: None, flags: Vec::new(), steps: Vec::new() };
    for (key, value) in flow {
        if key == "step" {
            let Value::Array(steps) = value else {
                return Err("a step begins with [[flow.step]]".to_owned());
            };
            for (index, step) in steps.into_iter().enumerate() {
                let step: Result<StepText, _> = step.try_into();
                part.steps.push(step.map_err(|error| format!("step {}: {error}", index + 1))?);
            }
            continue;
        }
        let values = words(&key, &value)?;
        match (key.as_str(), values.as_slice()) {
            ("name", [name]) if is_name(name) => part.name.clone_from(name),
            ("name", _) => {
                return Err(format!("{value} is not a name of letters, digits, - and _"));
            }
            ("share", [share]) => part.share = Some(units::share(share)?),
            (key, _) if RUN_WIDE.contains(&key) => {
                return Err(format!("{key} concerns the whole run: it stands above the flows"));
            }
            (key, values) => {
                known(key, command)?;
                let flag = key.replace('_', "-");
                part.flags.extend(values.iter().map(|value| format!("--{flag}={value}")));
            }
        }
    }
    Ok(part)
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}

fn known(key: &str, command: &Command) -> Result<(), String> {
    let mut knobs = command.get_arguments().filter(|arg| arg.get_env().is_some());
    if knobs.any(|arg| arg.get_id() == key) {
        return Ok(());
    }
    Err(format!("there is no knob called {key} (they are those of --help, in lower case with _)"))
}

/// A value as it would stand on the command line.
fn words(key: &str, value: &Value) -> Result<Vec<String>, String> {
    Ok(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Boolean(switch) => vec![switch.to_string()],
        Value::Array(values) => {
            let all: Result<Vec<_>, _> = values.iter().map(|value| words(key, value)).collect();
            all?.concat()
        }
        Value::Datetime(_) | Value::Table(_) => {
            return Err(format!("{key} is not a text, a number, or true or false"));
        }
    })
}
