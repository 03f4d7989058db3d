//! What a run of the bench leaves behind: one document, and a text that is made from it.
//!
//! Owns the fields of report.json (`report.schema.json` beside this crate says them to others).
//! Only data: [`json`] writes it, [`text`] shows it.

pub mod json;
pub mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use loadgen::summary::Summary;
use runtime::cpus::Cpus;
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::config::{Config, EngineSource};
use crate::judge::{self, Ended, Verdict, Verification};
use crate::observe::Resources;
use crate::runner::cores::Cores;

/// Goes up when a reader of the last one would misread this one.
pub const SCHEMA_VERSION: u32 = 1;

/// report.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    pub tool: Tool,
    pub verdict: Verdict,
    /// What the program exited with.
    pub exit_code: u8,
    /// The result in one sentence, to quote.
    pub sentence: String,
    /// Why the run is not whole; None if it is.
    pub trouble: Option<String>,
    pub suite: String,
    /// UTC.
    pub started_at: String,
    pub duration_ns: u64,
    pub host: Host,
    pub config: Asked,
    pub tiers: Vec<TierReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
    /// `release` or `debug`; figures of a debug build say little.
    pub build: String,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub name: Option<String>,
    pub kernel: Option<String>,
    pub cpu_model: Option<String>,
    pub memory_bytes: Option<u64>,
    /// What this process may use; empty if that could not be learnt.
    pub cpus_allowed: Vec<usize>,
    /// The cgroup's share, in cpus; None: no quota.
    pub cpu_quota: Option<f64>,
    /// Who ran where.
    pub cores: Cores,
}

impl Host {
    /// Asks the machine; `known` is what the runner had found out.
    pub fn detect(known: Option<(Cpus, Cores)>) -> Host {
        let cpu = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
        let system =
            System::new_with_specifics(cpu.with_memory(MemoryRefreshKind::everything())).ok();
        let none = Cores { engine: Vec::new(), generator: Vec::new() };
        let (cpus_allowed, cpu_quota, cores) = match known {
            Some((cpus, cores)) => (cpus.affinity, cpus.quota, cores),
            None => (Vec::new(), None, none),
        };
        let first = system.as_ref().and_then(|system| system.cpus().first());
        let model = first.map(|cpu| cpu.brand().trim().to_owned());
        Host {
            name: System::host_name().ok(),
            kernel: System::kernel_version().ok(),
            cpu_model: model.filter(|model| !model.is_empty()),
            memory_bytes: system.as_ref().map(System::total_memory),
            cpus_allowed,
            cpu_quota,
            cores,
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub scale: u64,
    pub cooldown_secs: f64,
    pub peak_secs: f64,
    /// None: what each tier needs to end by its total.
    pub min_rps: Option<f64>,
    pub max_error_rate: f64,
    /// None: what the engine offers.
    pub durability: Option<String>,
    /// The program of an engine of ours.
    pub engine: Option<PathBuf>,
    /// Its settings; what looks like a secret is hidden.
    pub engine_env: BTreeMap<String, String>,
    /// The address of a foreign engine.
    pub target: Option<String>,
    /// Where a foreign engine stores.
    pub logs: Option<PathBuf>,
}

impl Asked {
    fn new(config: &Config) -> Asked {
        let (mut engine, mut target, mut logs) = (None, None, None);
        let mut engine_env = BTreeMap::new();
        match &config.engine {
            EngineSource::Child(child) => {
                engine = Some(child.program.clone());
                let shown = |(key, value): &(String, String)| {
                    (key.clone(), if is_secret(key) { "hidden".into() } else { value.clone() })
                };
                engine_env = child.variables.iter().map(shown).collect();
            }
            EngineSource::Target { address, logs: at, admin: _ } => {
                target = Some(address.to_string());
                logs.clone_from(at);
            }
        }
        Asked {
            scale: config.scale,
            cooldown_secs: config.cooldown.as_secs_f64(),
            peak_secs: config.peak.as_secs_f64(),
            min_rps: config.demands.min_rps,
            max_error_rate: config.demands.max_error_rate,
            durability: config.durability.map(|durability| durability.to_string()),
            engine,
            engine_env,
            target,
            logs,
        }
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_uppercase();
    ["TOKEN", "SECRET", "PASSWORD"].iter().any(|word| key.contains(word))
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierReport {
    pub name: String,
    /// None: no total, only a duration.
    pub total_logs: Option<u64>,
    pub duration_secs: f64,
    pub concurrency: usize,
    /// The `run` of its lines.
    pub run_id: String,
    /// The generator's own document.
    pub summary: Summary,
    /// What the generator had to say besides.
    pub remarks: Vec<String>,
    pub resources: TierResources,
    pub verification: Verification,
}

/// What both sides cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierResources {
    /// None for a foreign engine of which no admin listener is known: not assessed.
    pub engine: Option<Resources>,
    pub generator: Resources,
}

impl Report {
    /// Sums up a run.
    pub fn new(
        config: &Config,
        host: Host,
        started_at: jiff::Timestamp,
        duration: Duration,
        tiers: Vec<TierReport>,
        ended: &Ended,
    ) -> Report {
        let verifications = tiers.iter().map(|tier| &tier.verification);
        let judge::Conclusion { verdict, exit_code } = judge::conclude(verifications, ended);
        let trouble = match ended {
            Ended::Whole => None,
            Ended::Interrupted(_) => Some("interrupted by a signal".to_owned()),
            Ended::Unreachable => Some("no connection to the engine".to_owned()),
            Ended::Broke(error) => Some(error.to_string()),
        };
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            tool: Tool {
                name: env!("CARGO_PKG_NAME").to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                build: build.to_owned(),
            },
            verdict,
            exit_code,
            sentence: String::new(),
            trouble,
            suite: config.suite.name.to_owned(),
            started_at: started_at.to_string(),
            duration_ns: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            host,
            config: Asked::new(config),
            tiers,
        };
        report.sentence = text::sentence(&report);
        report
    }
}
