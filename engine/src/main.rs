//! `logboom-engine`: reads the command line, runs, prints the totals, exits.
#![expect(clippy::print_stdout, reason = "results go to stdout, from here only")]

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use engine::certs::Name;
use engine::config::{self, Asked, Command, Config, LogFormat};
use engine::error::Error;
use engine::logs;
use runtime::exit_code;
use runtime::stop::Stop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let asked = config::ask(&arguments).unwrap_or_else(|error| error.exit());
    let config = &asked.cli.config;
    match &asked.cli.command {
        // Needs no knob.
        Some(Command::Fsck { dir, json }) => fsck(dir, *json),
        Some(Command::Check { json }) => check(&asked, *json),
        _ if !asked.refused.is_empty() => {
            complain(config.log_format, &Error::Usage(asked.refused.join("; ")))
        }
        Some(Command::Doctor) => doctor(config),
        Some(Command::Health) => health(config),
        Some(Command::Certs { if_missing: true, .. })
            if engine::certs::are_in(&config.cert_dir) =>
        {
            println!("{} has server.crt and server.key: they stay", config.cert_dir.display());
            ExitCode::from(exit_code::PASS)
        }
        Some(Command::Certs { names, days, .. }) => {
            certs(config, names, *days).unwrap_or_else(|error| complain(config.log_format, &error))
        }
        None => run(config).unwrap_or_else(|error| complain(config.log_format, &error)),
    }
}

/// Says why the engine does not run, as plainly as people want to read it. A stderr that is gone
/// stops nothing.
fn complain(format: LogFormat, error: &Error) -> ExitCode {
    if format == LogFormat::Json {
        tracing::error!(exit_code = error.exit_code(), "{error}");
    }
    logs::flush();
    if format == LogFormat::Text {
        let _ = writeln!(io::stderr(), "logboom-engine: {error}");
    }
    ExitCode::from(error.exit_code())
}

fn check(asked: &Asked, json: bool) -> ExitCode {
    let report = engine::check::examine(asked);
    // A reader that has seen enough (`head`) is no trouble of ours.
    let _ = match json {
        true => writeln!(io::stdout(), "{}", report.to_json()),
        false => write!(io::stdout(), "{report}"),
    };
    ExitCode::from(report.exit_code())
}

fn doctor(config: &Config) -> ExitCode {
    let report = engine::doctor::examine(&config.log_dir);
    print!("{report}");
    ExitCode::from(if report.is_fit() { exit_code::PASS } else { exit_code::CANNOT_START })
}

fn health(config: &Config) -> ExitCode {
    match engine::health::ask(config) {
        Ok(said) => {
            println!("{said}");
            ExitCode::from(exit_code::PASS)
        }
        Err(reason) => {
            let _ = writeln!(io::stderr(), "logboom-engine: {reason}");
            ExitCode::from(exit_code::BROKE)
        }
    }
}

fn certs(config: &Config, names: &[Name], days: u32) -> Result<ExitCode, Error> {
    print!("{}", engine::certs::make(&config.cert_dir, names, days)?);
    Ok(ExitCode::from(exit_code::PASS))
}

fn fsck(dir: &Path, json: bool) -> ExitCode {
    let report = match engine::sink::file::fsck::examine(dir) {
        Ok(report) => report,
        Err(error) => {
            let _ = writeln!(io::stderr(), "logboom-engine: {error}");
            return ExitCode::from(exit_code::CANNOT_START);
        }
    };
    if json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    let code = if report.is_damaged() { exit_code::DATA_INTEGRITY } else { exit_code::PASS };
    ExitCode::from(code)
}

fn run(config: &Config) -> Result<ExitCode, Error> {
    logs::start(config.log_format, config.log_level).map_err(Error::Thread)?;
    let stop = Stop::on_signals().map_err(Error::Thread)?;
    let totals = engine::start(config, stop)?.wait()?;
    logs::flush();
    let shards: Vec<_> = totals.shards.iter().map(|shard| shard.to_json()).collect();
    let result = serde_json::json!({ "totals": totals.counters.to_json(), "shards": shards });
    // Who closed stdout does without the totals; what was acknowledged is safe all the same.
    let _ = writeln!(io::stdout(), "{result}");
    let code = if totals.troubles.is_empty() { exit_code::PASS } else { exit_code::BROKE };
    Ok(ExitCode::from(code))
}
