//! `logboom-loadgen`: reads the knobs, runs, tells, exits. Nothing else exits, and only what is
//! below [`output`] prints.

use std::ffi::OsString;
use std::process::ExitCode;

use loadgen::calibrate::{Turns, calibrate, store};
use loadgen::config::{self, Args, Command, Config, RecordArgs, Wrong};
use loadgen::record::{Kept, record};
use runtime::exit_code;
use runtime::stop::Stop;

use crate::output::{Asked, Output, ask};

mod output;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    // In front, every knob may stand behind it.
    let mut is_calibration = words.get(1).is_some_and(|word| word == "calibrate");
    if is_calibration {
        words.remove(1);
    }
    let (args, config) = match config::read(words) {
        Ok(read) => read,
        // clap answers --help and --version, and exits 2 with the knob's name for a wrong value.
        Err(Wrong::Line(error)) => error.exit(),
        Err(Wrong::Run(error)) => return complain((error.to_string(), error.exit_code())),
    };
    is_calibration |= args.command == Some(Command::Calibrate);
    match ask::answer(&args, &config) {
        None => {}
        Some(Ok(text)) => return output::say(&text).into(),
        Some(Err(error)) => return complain((error.to_string(), error.exit_code())),
    }
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => {
            return complain((format!("cannot catch signals: {error}"), exit_code::CANNOT_START));
        }
    };
    if let Some(Command::Record(recording)) = &args.command {
        return match keep_recording(recording, &stop) {
            Ok(text) => output::say(&text).into(),
            Err(failed) => complain(failed),
        };
    }
    if is_calibration {
        return match keep_ceilings(&args, &config, &stop) {
            Ok(text) => output::say(&text).into(),
            Err(failed) => complain(failed),
        };
    }
    let mut output = match Output::open(Asked::by(&args)) {
        Ok(output) => output,
        Err(failed) => return complain(failed),
    };
    let result = loadgen::run(&config, &stop, &mut output);
    output.finish(result).into()
}

/// `record`: writes down what comes, and says how much it was.
fn keep_recording(args: &RecordArgs, stop: &Stop) -> Result<String, output::Failed> {
    let recording = args.recording();
    let kept = record(&recording, stop, &mut |line: &str| output::complain(line));
    let Kept { messages, rejected } =
        kept.map_err(|error| (error.to_string(), error.exit_code()))?;
    let out = recording.out.display();
    Ok(format!("{messages} messages recorded in {out}, {rejected} refused\n"))
}

/// `calibrate`: measures, keeps, and says what it found.
fn keep_ceilings(args: &Args, config: &Config, stop: &Stop) -> Result<String, output::Failed> {
    let failed = |text: String| (text, exit_code::CANNOT_START);
    let state = config.state_dir().ok_or_else(|| failed("no HOME and no STATE_DIR".to_owned()))?;
    let length = args.duration_secs.filter(|length| !length.is_zero());
    let turns = Turns { length: length.unwrap_or(Turns::default().length), ..Turns::default() };
    let mut tell = |line: &str| {
        if !args.quiet {
            output::complain(line);
        }
    };
    let found = calibrate(config, turns, stop, &mut tell);
    let found = found.map_err(|error| (error.to_string(), error.exit_code()))?;
    let path = store::keep(&state, &found).map_err(|error| {
        failed(format!("cannot write to {} (STATE_DIR): {error}", state.display()))
    })?;
    Ok(format!("{}\n  kept in {}\n", found.text(), path.display()))
}

fn complain((text, exit_code): output::Failed) -> ExitCode {
    output::complain(&text);
    exit_code.into()
}
