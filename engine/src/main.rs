//! `logboom-engine`: reads the command line, runs, prints the totals, exits.
#![expect(clippy::print_stdout, reason = "results go to stdout, from here only")]

use std::process::ExitCode;

use clap::Parser;
use engine::config::{Cli, Command, Config};
use engine::error::Error;
use runtime::exit_code;
use runtime::stop::Stop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Doctor) => doctor(&cli.config),
        None => run(&cli.config).unwrap_or_else(|error| {
            eprintln!("logboom-engine: {error}");
            ExitCode::from(error.exit_code())
        }),
    }
}

fn doctor(config: &Config) -> ExitCode {
    let report = engine::doctor::examine(&config.log_dir);
    print!("{report}");
    ExitCode::from(if report.is_fit() { exit_code::PASS } else { exit_code::CANNOT_START })
}

fn run(config: &Config) -> Result<ExitCode, Error> {
    let stop = Stop::on_signals().map_err(Error::Thread)?;
    let engine = engine::start(config, stop)?;
    let storage = if config.enable_persistence {
        format!("{} into {}", config.durability, config.log_dir.display())
    } else {
        "received, nothing is stored".to_owned()
    };
    eprintln!(
        "logboom-engine: listening on {} with {} shards, ok means {storage}",
        engine.address(),
        engine.shards(),
    );
    for note in engine.notes() {
        eprintln!("logboom-engine: {note}");
    }
    let totals = engine.wait()?;
    for trouble in &totals.troubles {
        eprintln!("logboom-engine: {trouble}");
    }
    let shards: Vec<_> = totals.shards.iter().map(|shard| shard.to_json()).collect();
    println!("{}", serde_json::json!({ "totals": totals.counters.to_json(), "shards": shards }));
    let code = if totals.troubles.is_empty() { exit_code::PASS } else { exit_code::BROKE };
    Ok(ExitCode::from(code))
}
