//! What the engine would say to a configuration, without starting: every knob, where its value
//! comes from, and all that is wrong.
//!
//! Reads the files that a start would read (and shows none of their content); touches neither
//! ports nor LOG_DIR nor io_uring, which are the doctor's. Invariant: the exit code is the one that
//! a start would end with for the gravest finding.

use std::fmt;

use runtime::cpus::Cpus;
use runtime::exit_code;
use serde::Serialize;

use crate::config::{Asked, Config, Knob, Source};
use crate::error::Error;

/// A configuration, examined.
#[derive(Debug, Serialize)]
pub struct Report {
    knobs: Vec<Knob>,
    findings: Vec<Finding>,
}

/// Something that keeps the engine from starting.
#[derive(Debug, Serialize)]
struct Finding {
    text: String,
    exit_code: u8,
}

impl From<Error> for Finding {
    fn from(error: Error) -> Finding {
        Finding { text: error.to_string(), exit_code: error.exit_code() }
    }
}

/// Examines what was asked for.
pub fn examine(asked: &Asked) -> Report {
    let config = &asked.cli.config;
    let cpus = Cpus::detect().map_err(Error::Cpus);
    let shards = config.shards.or(cpus.as_ref().ok().map(Cpus::shards_default)).unwrap_or(1);
    let mut findings: Vec<Finding> =
        asked.refused.iter().cloned().map(|text| Error::Usage(text).into()).collect();
    findings.extend(config.findings().into_iter().map(|text| Error::Usage(text).into()));
    findings.extend(troubles(config, shards).into_iter().map(Finding::from));
    findings.extend(cpus.err().map(Finding::from));
    let mut knobs = config.knobs.clone();
    for knob in &mut knobs {
        if knob.name == "SHARDS" && knob.value.is_none() {
            knob.value = Some(shards.to_string());
        }
    }
    Report { knobs, findings }
}

/// What a start would stumble over, step by step.
fn troubles(config: &Config, shards: usize) -> Vec<Error> {
    let mut troubles = Vec::new();
    if shards > 0 {
        troubles.extend(config.connection_memory_bytes(shards).err());
    }
    troubles.extend(crate::start::keys(config).err());
    troubles.extend(crate::start::token(config).err());
    troubles.extend(config.address().err());
    if config.admin_enabled {
        troubles.extend(config.admin_address().err());
    }
    troubles
}

impl Report {
    /// 0, or the code of the gravest finding: usage before what this machine lacks.
    pub fn exit_code(&self) -> u8 {
        self.findings.iter().map(|finding| finding.exit_code).min().unwrap_or(exit_code::PASS)
    }

    /// As one object: `knobs` and `findings`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "knobs": self.knobs, "findings": self.findings })
    }
}

impl fmt::Display for Report {
    /// One line a knob, one a finding, and the sum of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let shown = |knob: &Knob| knob.value.clone().unwrap_or_else(|| "-".into());
        let name = widest(&mut self.knobs.iter().map(|knob| knob.name.len()));
        let value = widest(&mut self.knobs.iter().map(|knob| shown(knob).chars().count()));
        for knob in &self.knobs {
            let source = match knob.source {
                Source::Flag => "flag",
                Source::Environment => "environment",
                Source::Default => "default",
            };
            writeln!(f, "{:<name$}  {:<value$}  {source}", knob.name, shown(knob))?;
        }
        for Finding { text, .. } in &self.findings {
            writeln!(f, "wrong: {text}")?;
        }
        match self.findings.len() {
            0 => writeln!(f, "logboom-engine can start with this configuration"),
            1 => writeln!(f, "logboom-engine cannot start with this configuration: 1 finding"),
            n => writeln!(f, "logboom-engine cannot start with this configuration: {n} findings"),
        }
    }
}
