//! The generator as a child: this program again, as `logboom-bench generate`.
//!
//! A process of its own, so that its CPU and memory are those of one process, and every tier has a
//! fresh one. Both ends of the pipes between them are here:
//!
//! ```text
//! bench     stdout: "ready" (it catches signals now) <----------- generate
//!           stdin: Config as one line of JSON ------------------>
//!           stderr: "progress: …" once a second <---------------
//!           stdout: Outcome as one line of JSON <---------------
//!           (looks at its cpu and memory, then closes stdin) ---> ends
//! ```
//!
//! Invariant: the generator lives until its parent has looked at it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;
use std::{env, thread};

use loadgen::{Config, Outcome};
use runtime::stop::{Cause, Stop};
use rustix::process::Signal;

use super::confine::Confined;
use crate::error::Error;

/// In front of a line that is for the live view.
const PROGRESS: &str = "progress: ";
/// A program that has only to start needs this on a busy machine.
const BEGIN: Duration = Duration::from_secs(30);
/// Between the outcome and the end of the process there is nothing left to do.
const END: Duration = Duration::from_secs(10);
const WHAT: &str = "the generator";

/// A running generator.
#[derive(Debug)]
pub struct Generator {
    child: Confined,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
}

impl Generator {
    /// Starts it on `cpus`, up to where it waits for [`Generator::begin`]. `progress` is told once a second.
    ///
    /// # Errors
    /// No process can be had.
    pub fn start(
        cpus: &[usize],
        mut progress: impl FnMut(&str) + Send + 'static,
    ) -> Result<Generator, Error> {
        let failed = |source| Error::Spawn { what: WHAT, source };
        let own = env::current_exe().map_err(failed)?;
        let on_line = move |line: &str| match line.strip_prefix(PROGRESS) {
            Some(line) => {
                progress(line);
                true
            }
            None => false,
        };
        let mut child = Confined::start(WHAT, &own, &["generate"], &[], cpus, on_line)?;
        let (stdin, stdout) = child.streams();
        let (sender, lines) = sync_channel(1);
        thread::Builder::new()
            .name("generator-stdout".into())
            .spawn(move || {
                let mut stdout = BufReader::new(stdout);
                loop {
                    let mut line = Vec::new();
                    // A broken pipe reads as a generator that has ended.
                    let _ = stdout.read_until(b'\n', &mut line);
                    if !line.ends_with(b"\n") || sender.send(line).is_err() {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        let mut generator = Generator { child, stdin: Some(stdin), lines };
        match generator.poll(BEGIN)? {
            Some(_) => Ok(generator),
            None => Err(generator.hangs(BEGIN)),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives it its task.
    ///
    /// # Errors
    /// It has ended already.
    pub fn begin(&mut self, config: &Config) -> Result<(), Error> {
        let mut line = serde_json::to_vec(config).expect("a configuration is plain data");
        line.push(b'\n');
        let stdin = self.stdin.as_mut().expect("closed by finish");
        stdin.write_all(&line).map_err(|_| self.ended())
    }

    /// Waits for its outcome, at most so long.
    ///
    /// # Errors
    /// It ended without one.
    pub fn poll(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Error> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// Asks it to end early and sum up what there is.
    pub fn interrupt(&mut self, cause: Cause) {
        self.child.signal(match cause {
            Cause::Interrupt => Signal::INT,
            Cause::Terminate | Cause::Done => Signal::TERM,
        });
    }

    /// Reads the outcome and lets it go.
    ///
    /// # Errors
    /// The line is no outcome, or it does not end.
    pub fn finish(mut self, line: &[u8]) -> Result<Outcome, Error> {
        let outcome = serde_json::from_slice(line).map_err(Error::GeneratorOutcome)?;
        drop(self.stdin.take());
        match self.child.wait(END) {
            Some(_) => Ok(outcome),
            None => Err(self.hangs(END)),
        }
    }

    /// The error that says that it did not answer within `limit`; it is killed when dropped.
    pub fn hangs(&mut self, limit: Duration) -> Error {
        Error::GeneratorHangs { seconds: limit.as_secs(), said: self.child.said() }
    }

    fn ended(&mut self) -> Error {
        match self.child.wait(END) {
            Some(status) => Error::GeneratorEnd { status, said: self.child.said() },
            None => self.hangs(END),
        }
    }
}

/// The child's side: reads its task, does it, reports, waits for leave to end. Gives its exit code.
///
/// # Errors
/// What to say before ending with that code.
pub fn generate() -> Result<(), (String, u8)> {
    let broke = |what: &str, error: &dyn std::fmt::Display| {
        (format!("generate: {what}: {error}"), runtime::exit_code::BROKE)
    };
    let stop = Stop::on_signals().map_err(|error| broke("cannot catch signals", &error))?;
    let mut stdout = io::stdout().lock();
    let mut report = |line: &[u8]| stdout.write_all(line).and_then(|()| stdout.flush());
    report(b"ready\n").map_err(|error| broke("cannot report", &error))?;
    let mut task = String::new();
    io::stdin().read_line(&mut task).map_err(|error| broke("cannot read a task", &error))?;
    let config: Config =
        serde_json::from_str(&task).map_err(|error| broke("this is no task", &error))?;
    let outcome = loadgen::run(&config, &stop, &mut |progress: &loadgen::Progress| {
        // Nobody may be looking; that stops nothing.
        let _ = writeln!(io::stderr(), "{PROGRESS}{progress}");
    })
    .map_err(|error| (error.to_string(), error.exit_code()))?;
    let mut line = serde_json::to_vec(&outcome).expect("an outcome is plain data");
    line.push(b'\n');
    report(&line).map_err(|error| broke("cannot report", &error))?;
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    Ok(())
}
