//! What the program does besides running: the subcommands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Subcommand;
use clap_complete::Shell;
use runtime::units;

use crate::plan::journey::presets::Preset;
use crate::plan::payloads::Builtin;
use crate::record::{Protocol, Recording};

/// What is recorded, and until when.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct RecordArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,

    /// The file, for --replay; gzip if it ends in .gz
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// What clients speak: ndjson (kept with the time at which each line came), or http (kept as an
    /// access log)
    #[arg(long, value_name = "FORMAT", default_value = "ndjson", value_parser = ["ndjson", "http"])]
    pub format: String,

    /// Messages after which it ends; 0 = no bound
    #[arg(short = 'n', long, value_name = "TOTAL_LOGS", default_value = "0",
          value_parser = units::count)]
    pub total_logs: u64,

    /// Time after which it ends; 0 = no bound
    #[arg(short = 'z', long, visible_alias = "duration", value_name = "DURATION_SECS",
          default_value = "0", value_parser = units::seconds)]
    pub duration_secs: Duration,
}

impl RecordArgs {
    /// The recording that is asked for.
    pub fn recording(&self) -> Recording {
        let protocol = if self.format == "http" { Protocol::Http } else { Protocol::Ndjson };
        Recording {
            listen: self.listen,
            out: self.out.clone(),
            protocol,
            total: (self.total_logs > 0).then_some(self.total_logs),
            lasts: (!self.duration_secs.is_zero()).then_some(self.duration_secs),
        }
    }
}

/// What comes with the program and is a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// A template.
    Payload(Builtin),
    /// A scenario.
    Journey(Preset),
}

impl FromStr for Example {
    type Err = String;

    fn from_str(text: &str) -> Result<Example, String> {
        if let Ok(preset) = text.parse() {
            return Ok(Example::Journey(preset));
        }
        let builtin = text.parse().map(Example::Payload);
        builtin.map_err(|error: String| format!("{error}, and no journey: simple, medium, complex"))
    }
}

impl Example {
    /// The file.
    pub fn text(self) -> &'static str {
        match self {
            Example::Payload(builtin) => builtin.template(),
            Example::Journey(preset) => preset.text(),
        }
    }
}

/// Instead of a run.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Measure how much this machine can send for these payloads, and keep it for the validity of
    /// later runs; knobs may stand behind it
    Calibrate,
    /// Record what clients send to a port into a file for --replay, until Ctrl-C or a bound
    Record(RecordArgs),
    /// Print command lines that are worth knowing, with a sentence each; or the template of a
    /// PAYLOAD, or the scenario of a JOURNEY, to begin one of your own
    Examples {
        /// default, app, nginx, syslog, k8s, stacktrace, iot; simple, medium, complex
        name: Option<Example>,
    },
    /// Print completions for a shell, to be sourced
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page (roff)
    Man,
}
