//! What the world can do to a run of the bench, told to the person who must act.
//!
//! Owns the texts and which exit code each is. What a tier did wrong is no error: that is the
//! business of [`crate::judge`].

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use runtime::exit_code;

/// Why a run could not be made, or broke on the way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(
        "no engine at {path} (ENGINE): build it beside this program with \
         `cargo build --release -p logboom-engine`, or name it with --engine"
    )]
    EngineMissing { path: PathBuf },
    #[error(
        "tier {tier} with {knob} may write {needed} to {folder} (TMPDIR), which has {free} free: \
         lower it, free some space, or set TMPDIR to a larger disk"
    )]
    DiskFull { tier: &'static str, knob: String, folder: PathBuf, needed: String, free: String },
    #[error("cannot use {path} (TMPDIR): {source}")]
    Temporary { path: PathBuf, source: io::Error },
    #[error("cannot write {path} (RESULTS, JSON): {source}")]
    Report { path: PathBuf, source: io::Error },
    #[error("cannot read segments at {path} (LOGS): {source}")]
    Segments { path: PathBuf, source: io::Error },
    #[error("cannot ask http://{address}/status (ADMIN) what the engine costs: {source}")]
    Admin { address: String, source: io::Error },
    #[error("cannot learn about this machine: {0}")]
    Machine(#[source] io::Error),
    #[error("cannot start {what}: {source}")]
    Spawn { what: &'static str, source: io::Error },
    #[error("the engine did not start: {status}{said}")]
    EngineStart { status: ExitStatus, said: Said },
    #[error("the engine was not ready within {seconds} s{said}")]
    EngineNotReady { seconds: u64, said: Said },
    #[error("the engine died in tier {tier}: {status}{said}")]
    EngineDied { tier: &'static str, status: ExitStatus, said: Said },
    #[error("the engine did not end within {seconds} s after SIGTERM and was killed{said}")]
    EngineHangs { seconds: u64, said: Said },
    #[error("the engine ended with {status} after SIGTERM, not with 0{said}")]
    EngineEnd { status: ExitStatus, said: Said },
    #[error("the engine printed no totals at its end: {why}{said}")]
    EngineTotals { why: String, said: Said },
    #[error("the generator ended without a summary: {status}{said}")]
    GeneratorEnd { status: ExitStatus, said: Said },
    #[error("the generator gave no summary within {seconds} s and was killed{said}")]
    GeneratorHangs { seconds: u64, said: Said },
    #[error("the generator's summary is unreadable: {0}")]
    GeneratorOutcome(#[source] serde_json::Error),
}

impl Error {
    /// The exit code of a run that ended so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => exit_code::USAGE,
            Error::EngineMissing { .. } | Error::DiskFull { .. } | Error::Temporary { .. } => {
                exit_code::CANNOT_START
            }
            // Both programs tell themselves whether it was the machine.
            Error::EngineStart { status, .. } | Error::GeneratorEnd { status, .. } => {
                let own = [exit_code::USAGE, exit_code::CANNOT_START];
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                code.filter(|code| own.contains(code)).unwrap_or(exit_code::BROKE)
            }
            Error::Admin { .. } => exit_code::UNREACHABLE,
            Error::Report { .. }
            | Error::Segments { .. }
            | Error::Machine(_)
            | Error::Spawn { .. }
            | Error::EngineNotReady { .. }
            | Error::EngineDied { .. }
            | Error::EngineHangs { .. }
            | Error::EngineEnd { .. }
            | Error::EngineTotals { .. }
            | Error::GeneratorHangs { .. }
            | Error::GeneratorOutcome(_) => exit_code::BROKE,
        }
    }
}

/// The last lines that a child wrote to its standard error; nothing if it was silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(pub Vec<String>);

impl std::fmt::Display for Said {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.0.is_empty() {
            write!(out, "; its last words:")?;
        }
        self.0.iter().try_for_each(|line| write!(out, "\n  {line}"))
    }
}
