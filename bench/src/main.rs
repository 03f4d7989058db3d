//! `logboom-bench`: reads what is asked, runs it, prints the results, exits.
#![expect(clippy::print_stdout, reason = "results go to stdout, from here only")]

use std::process::ExitCode;

use bench::config::{Cli, Config, Json, Task};
use bench::error::Error;
use bench::report::{Report, json, text};
use bench::runner;
use runtime::exit_code;
use runtime::stop::Stop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::read().task() {
        Ok(Task::Run(config)) => run(&config),
        Ok(Task::Generate) => match runner::generator::generate() {
            Ok(()) => ExitCode::SUCCESS,
            Err((text, code)) => complain(&text, code),
        },
        Ok(Task::Confine(confinement)) => {
            let program = confinement.program.to_string_lossy().into_owned();
            let error = confinement.exec();
            complain(&format!("cannot become {program}: {error}"), exit_code::CANNOT_START)
        }
        Err(error) => complain(&error.to_string(), error.exit_code()),
    }
}

fn run(config: &Config) -> ExitCode {
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => return complain(&format!("cannot catch signals: {error}"), exit_code::BROKE),
    };
    let report = runner::run(config, &stop);
    let published = publish(config, &report);
    if let Some(trouble) = &report.trouble {
        complain(trouble, report.exit_code);
    }
    match published {
        Ok(()) => ExitCode::from(report.exit_code),
        // A verdict of its own outweighs that it could not be kept.
        Err(error) => complain(&error.to_string(), report.exit_code.max(error.exit_code())),
    }
}

/// Prints the results, and writes the report; the text is printed even if a file cannot be written.
fn publish(config: &Config, report: &Report) -> Result<(), Error> {
    let document = json::render(report);
    let text = text::render(report, config.terminal.colour);
    let written = json::write_results(&config.results, &report.started_at, &document);
    let place = match &written {
        Ok(path) => format!("report  {}\n", path.display()),
        Err(_) => String::new(),
    };
    match &config.json {
        Some(Json::Stdout) => {
            eprint!("{text}{place}");
            print!("{document}");
        }
        Some(Json::File(path)) => {
            print!("{text}{place}");
            json::write(path, &document)?;
        }
        None => print!("{text}{place}"),
    }
    written.map(drop)
}

fn complain(text: &str, code: u8) -> ExitCode {
    eprintln!("logboom-bench: {text}");
    ExitCode::from(code)
}
