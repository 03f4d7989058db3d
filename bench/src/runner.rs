//! Runs the tiers, one after another.
//!
//! Owns the order of a tier (engine, generator, end of both, audit, judgement) and the folder that
//! the engine writes to. Leaves processes to [`engine`] and [`generator`], figures to
//! [`crate::observe`], verdicts to [`crate::judge`].
//!
//! ```text
//! cooldown -> room on disk? -> engine up -> generator: begin ... outcome -> engine down
//!          -> audit of its segments -> judged -> segments removed
//! ```
//!
//! Invariants: at most one tier's segments are on disk (unless --keep-logs); no child outlives a
//! tier; whatever happens, the tiers that were run are in the report.

pub mod confine;
pub mod cores;
pub mod engine;
pub mod generator;
pub mod live;
pub mod space;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use loadgen::Outcome;
use loadgen::ledger::Ledger;
use loadgen::summary::{self, Summary};
use runtime::cpus::Cpus;
use runtime::stop::{Cause, Stop};
use tempfile::TempDir;

use self::cores::Cores;
use self::engine::Engine;
use self::generator::Generator;
use self::live::Live;
use crate::audit::{self, Audit, End};
use crate::config::{Address, Config, EngineChild, EngineSource};
use crate::error::Error;
use crate::figures::{rate, thousands, time};
use crate::judge::{self, Ended, Evidence};
use crate::observe::{self, Observer, admin};
use crate::report::{Host, Report, TierReport, TierResources};
use crate::suite::Tier;

/// How often a running tier is looked at: signals, the engine's life, the next sample.
const GLANCE: Duration = Duration::from_millis(20);
/// Beyond its duration a generator needs the time to connect, to await replies, and to sum up.
const GENERATOR_SLACK: Duration = Duration::from_secs(60);
/// A target may not have written yet what it acknowledged as `received`: so long is looked again.
const AUDIT_PATIENCE: Duration = Duration::from_secs(5);
/// Reading is bound by the disk from there on.
const AUDIT_THREADS_MAX: usize = 4;

/// Runs the suite of `config` until its end, an interruption, or an error; all are in the report.
pub fn run(config: &Config, stop: &Stop) -> Report {
    let started_at = jiff::Timestamp::now();
    let clock = Instant::now();
    let mut tiers = Vec::new();
    let mut machine = None;
    let ended = match Bench::new(config, stop) {
        Ok(mut bench) => {
            machine = Some((bench.cpus.clone(), bench.cores.clone()));
            let ended = bench.run_tiers(&mut tiers);
            bench.tidy_up();
            ended
        }
        Err(error) => Ended::Broke(error),
    };
    let host = Host::detect(machine);
    Report::new(config, host, started_at, clock.elapsed(), tiers, &ended)
}

struct Bench<'a> {
    config: &'a Config,
    stop: &'a Stop,
    live: Live,
    cpus: Cpus,
    cores: Cores,
    /// The engine's folders; None with a target.
    folder: Option<TempDir>,
    /// In front of every tier's RUN_ID.
    run_id: String,
}

/// What a tier left, before it is judged.
struct Run {
    outcome: Outcome,
    resources: TierResources,
    totals: Option<engine::Totals>,
    audit: Option<Audit>,
    /// The engine or the audit; the figures up to then are good.
    trouble: Option<Error>,
}

impl<'a> Bench<'a> {
    fn new(config: &'a Config, stop: &'a Stop) -> Result<Bench<'a>, Error> {
        let cpus = Cpus::detect().map_err(Error::Machine)?;
        let (cores, folder) = match &config.engine {
            EngineSource::Target { .. } => (Cores::all_for_the_generator(&cpus.affinity), None),
            EngineSource::Child(child) => {
                let cores = Cores::split(&cpus.affinity);
                let failed = |source| Error::Temporary { path: child.temporary.clone(), source };
                let mut folder = tempfile::Builder::new()
                    .prefix("logboom-bench-")
                    .tempdir_in(&child.temporary)
                    .map_err(failed)?;
                folder.disable_cleanup(child.keep_logs);
                (cores, Some(folder))
            }
        };
        let live = Live::new(config.terminal.live);
        let run_id = run_id();
        let bench = Bench { config, stop, live, cpus, cores, folder, run_id };
        // Better no run than one that ends for want of space after minutes.
        for tier in &config.suite.tiers {
            bench.check_space(tier)?;
        }
        Ok(bench)
    }

    fn run_tiers(&mut self, reports: &mut Vec<TierReport>) -> Ended {
        for (index, tier) in self.config.suite.tiers.iter().enumerate() {
            if index > 0 {
                self.cool_down();
            }
            if let Some(cause) = self.stop.cause() {
                return Ended::Interrupted(cause);
            }
            let run = match self.run_tier(index, tier) {
                Ok(Some(run)) => run,
                // Children that were just being started may have been hit by the same signal.
                Err(error) => {
                    return self.stop.cause().map_or(Ended::Broke(error), Ended::Interrupted);
                }
                Ok(None) => return Ended::Interrupted(self.stop.cause().unwrap_or(Cause::Done)),
            };
            let (report, ended) = self.judge(tier, run);
            self.live.say(tier.name, &outcome_line(&report));
            reports.push(report);
            if let Some(ended) = ended {
                return ended;
            }
        }
        Ended::Whole
    }

    fn cool_down(&self) {
        let end = Instant::now() + self.config.cooldown;
        while Instant::now() < end && !self.stop.is_requested() {
            thread::sleep(GLANCE.min(end.saturating_duration_since(Instant::now())));
        }
    }

    fn check_space(&self, tier: &Tier) -> Result<(), Error> {
        match (&self.config.engine, &self.folder) {
            (EngineSource::Child(child), Some(folder)) if child.persists => {
                space::check(tier, self.cores.engine.len(), folder.path())
            }
            _ => Ok(()),
        }
    }

    /// One tier; None if a signal came before it began.
    fn run_tier(&self, index: usize, tier: &Tier) -> Result<Option<Run>, Error> {
        let run_id = format!("{}-{index}", self.run_id);
        match (&self.config.engine, &self.folder) {
            (EngineSource::Child(child), Some(folder)) => {
                self.check_space(tier)?;
                let folder = folder.path().join(tier.name);
                let failed = |source| Error::Temporary { path: folder.clone(), source };
                fs::create_dir(&folder).map_err(failed)?;
                let run = self.run_with_engine(child, &folder, tier, run_id);
                if !child.keep_logs {
                    // After the audit, and after an error as well: the next tier needs the room.
                    fs::remove_dir_all(&folder).map_err(failed)?;
                }
                run
            }
            (EngineSource::Target { address, logs, admin }, _) => self
                .run_with_target(address, logs.as_deref(), admin.as_ref(), tier, run_id)
                .map(Some),
            (EngineSource::Child(_), None) => unreachable!("an engine of ours has a folder"),
        }
    }

    fn run_with_engine(
        &self,
        child: &EngineChild,
        folder: &Path,
        tier: &Tier,
        run_id: String,
    ) -> Result<Option<Run>, Error> {
        let cpus = &self.cores.engine;
        let give_up = || self.stop.is_requested();
        let engine = Engine::start(&child.program, &child.variables, folder, cpus, give_up)?;
        let Some(mut engine) = engine else { return Ok(None) };
        let ready = engine.ready();
        let address = Address { host: ready.host.clone(), port: ready.port };
        let config = self.generator_config(tier, &address, run_id);
        let observer = Observer::start(engine.id());
        let driven = self.drive(tier, &config, Some(&mut engine), Some(observer))?;
        let (totals, mut trouble) = match engine.stop(tier.name) {
            Ok(totals) => (Some(totals), None),
            Err(error) => (None, Some(error)),
        };
        // An engine that died owes what it acknowledged only if that was its promise.
        let audit = (child.persists && (trouble.is_none() || child.promises_survival)).then(|| {
            let end = if trouble.is_none() { End::Closed } else { End::Open };
            self.audit(&driven.outcome.ledger, &engine::log_dir(folder), end)
        });
        let audit = match audit.transpose() {
            Ok(audit) => audit,
            Err(error) => {
                trouble.get_or_insert(error);
                None
            }
        };
        let Driven { outcome, resources } = driven;
        Ok(Some(Run { outcome, resources, totals, audit, trouble }))
    }

    fn run_with_target(
        &self,
        address: &Address,
        logs: Option<&Path>,
        admin: Option<&Address>,
        tier: &Tier,
        run_id: String,
    ) -> Result<Run, Error> {
        let config = self.generator_config(tier, address, run_id);
        let observer = admin.map(|admin| {
            let unknown = |source| Error::Admin { address: admin.to_string(), source };
            admin::ask(admin).map_err(unknown).map(|_| Observer::elsewhere(admin))
        });
        let Driven { outcome, resources } =
            self.drive(tier, &config, None, observer.transpose()?)?;
        let deadline = Instant::now() + AUDIT_PATIENCE;
        let (audit, trouble) = loop {
            let audit = logs.map(|logs| self.audit(&outcome.ledger, logs, End::Open)).transpose();
            match audit {
                Ok(Some(audit)) if audit.missing > 0 && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(200));
                }
                Ok(audit) => break (audit, None),
                Err(error) => break (None, Some(error)),
            }
        };
        Ok(Run { outcome, resources, totals: None, audit, trouble })
    }

    fn generator_config(&self, tier: &Tier, address: &Address, run_id: String) -> loadgen::Config {
        let flow = loadgen::Flow {
            server_host: address.host.clone(),
            server_port: address.port,
            total_logs: tier.total_logs.unwrap_or(0),
            duration_secs: tier.duration,
            concurrency: tier.concurrency,
            durability: self.config.durability,
            ..loadgen::Flow::default()
        };
        loadgen::Config {
            run_id: Some(run_id),
            max_error_rate: self.config.demands.max_error_rate,
            ledger: true,
            ..loadgen::Config::of(flow)
        }
    }

    /// Runs the generator to its end and watches both sides.
    fn drive(
        &self,
        tier: &Tier,
        config: &loadgen::Config,
        mut engine: Option<&mut Engine>,
        mut engine_observer: Option<Observer>,
    ) -> Result<Driven, Error> {
        let (live, name) = (self.live, tier.name);
        let progress = move |line: &str| live.progress(name, line);
        let mut generator = Generator::start(&self.cores.generator, progress)?;
        let mut observer = Observer::start(generator.id());
        generator.begin(config)?;
        let begun = Instant::now();
        let mut limit = tier.duration + GENERATOR_SLACK;
        let mut next_sample = begun + observe::PERIOD;
        let mut is_told = false;
        let line = loop {
            let now = Instant::now();
            if now >= next_sample {
                observer.sample();
                engine_observer.iter_mut().for_each(Observer::sample);
                next_sample += observe::PERIOD;
            }
            let wait = next_sample.saturating_duration_since(Instant::now()).min(GLANCE);
            if let Some(line) = generator.poll(wait)? {
                break line;
            }
            let mut engine_died =
                || engine.as_mut().is_some_and(|engine| engine.died(name).is_some());
            let cause = self.stop.cause();
            if !is_told && (cause.is_some() || engine_died()) {
                // What it has is summed up; a dead engine is told later, by its end.
                generator.interrupt(cause.unwrap_or(Cause::Terminate));
                is_told = true;
                limit = begun.elapsed() + GENERATOR_SLACK;
            }
            if begun.elapsed() > limit {
                return Err(generator.hangs(limit));
            }
        };
        observer.sample();
        engine_observer.iter_mut().for_each(Observer::sample);
        let outcome = generator.finish(&line)?;
        let load = outcome.summary.load;
        let answered = load.ok + load.filtered + load.error;
        let own = outcome.summary.resources;
        let own_cpu = Duration::try_from_secs_f64(own.cpu_user_s + own.cpu_system_s).ok();
        let resources = TierResources {
            engine: engine_observer.map(|observer| observer.finish(answered, None)),
            generator: observer.finish(answered, own_cpu),
        };
        Ok(Driven { outcome, resources })
    }

    fn audit(&self, ledger: &Ledger, log_dir: &Path, end: End) -> Result<Audit, Error> {
        let threads = self.cpus.shards_default().clamp(1, AUDIT_THREADS_MAX);
        let threads = NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN);
        let segments: Vec<PathBuf> = audit::segments(log_dir)?;
        audit::audit_files(ledger, &segments, end, threads)
    }

    /// Judges a tier, and says whether the suite ends with it.
    fn judge(&self, tier: &Tier, run: Run) -> (TierReport, Option<Ended>) {
        let Run { outcome, resources, totals, audit, trouble } = run;
        let Outcome { summary, ledger, exit_code: _, remarks } = outcome;
        let ended = match trouble {
            Some(error) => Some(Ended::Broke(error)),
            None => ended(&summary, self.stop.cause()),
        };
        let verification = judge::judge(
            tier,
            &self.config.demands,
            &Evidence {
                summary: &summary,
                acknowledged: ledger.acknowledged(),
                audit: audit.as_ref(),
                totals: totals.as_ref(),
                cut_short: ended.is_some(),
            },
        );
        let report = TierReport {
            name: tier.name.to_owned(),
            total_logs: tier.total_logs,
            duration_secs: tier.duration.as_secs_f64(),
            concurrency: tier.concurrency,
            run_id: ledger.run_id,
            summary,
            remarks,
            resources,
            verification,
        };
        (report, ended)
    }

    /// Removes the folder; a kept one is named.
    fn tidy_up(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let path = folder.path().to_owned();
        if matches!(&self.config.engine, EngineSource::Child(child) if child.keep_logs) {
            self.live.say("segments", &format!("kept in {}", path.display()));
        } else if let Err(error) = folder.close()
            && error.kind() != io::ErrorKind::NotFound
        {
            self.live.say("segments", &format!("cannot remove {}: {error}", path.display()));
        }
    }
}

/// What the generator and its processes left.
struct Driven {
    outcome: Outcome,
    resources: TierResources,
}

/// Whether the suite ends with this tier.
fn ended(summary: &Summary, cause: Option<Cause>) -> Option<Ended> {
    match (summary.verdict, cause) {
        (summary::Verdict::Unreachable, None) => Some(Ended::Unreachable),
        (_, Some(cause)) => Some(Ended::Interrupted(cause)),
        // Somebody else signalled the generator.
        (summary::Verdict::Interrupted, None) => Some(Ended::Interrupted(Cause::Terminate)),
        (
            summary::Verdict::Pass
            | summary::Verdict::Fail
            | summary::Verdict::Inconclusive
            | summary::Verdict::Invalid,
            None,
        ) => None,
    }
}

/// Different for every run on every machine that could share a folder of segments; short, because
/// it is in every line.
fn run_id() -> String {
    let now = jiff::Timestamp::now().as_nanosecond().unsigned_abs();
    // Seconds and their fraction go different ways through the product, and the high half mixes both.
    let mixed = (now ^ u128::from(std::process::id()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}", (mixed >> 32) & 0xffff_ffff)
}

/// `PASS  1,000 ok in 12.0 ms (83,333/s), p99 …, 1,000 found on disk`
fn outcome_line(report: &TierReport) -> String {
    let TierReport { summary, verification, .. } = report;
    let mut line = format!(
        "{}  {} ok in {} ({}/s)",
        if verification.pass { "pass" } else { "FAIL" },
        thousands(summary.load.ok),
        time(summary.duration_ns),
        rate(verification.achieved_per_s),
    );
    if let Some(audit) = &verification.audit {
        let found = thousands(audit.acknowledged - audit.missing);
        line += &format!(", {found} of them found on disk in {}", time(audit.duration_ns));
    }
    for failure in &verification.failures {
        line += &format!("; {}", failure.text);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_are_short_plain_and_differ() {
        let ids: std::collections::HashSet<String> = (0..100).map(|_| run_id()).collect();
        assert!(ids.len() > 90);
        assert!(ids.iter().all(|id| id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
