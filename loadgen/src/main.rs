//! `logboom-loadgen`: reads the knobs, runs, tells, exits. Nothing else exits, and only what is
//! below [`output`] prints.

use std::process::ExitCode;

use loadgen::config::{self, Wrong};
use runtime::exit_code;
use runtime::stop::Stop;

use crate::output::{Asked, Output};

mod output;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (args, config) = match config::read(std::env::args_os()) {
        Ok(read) => read,
        // clap answers --help and --version, and exits 2 with the knob's name for a wrong value.
        Err(Wrong::Line(error)) => error.exit(),
        Err(Wrong::Run(error)) => return complain((error.to_string(), error.exit_code())),
    };
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            return complain((format!("cannot catch signals: {error}"), exit_code::CANNOT_START));
        }
    };
    let mut output = match Output::open(Asked::by(&args)) {
        Ok(output) => output,
        Err(failed) => return complain(failed),
    };
    let result = loadgen::run(&config, &stop, &mut output);
    output.finish(result).into()
}

fn complain((text, exit_code): output::Failed) -> ExitCode {
    output::complain(&text);
    exit_code.into()
}
