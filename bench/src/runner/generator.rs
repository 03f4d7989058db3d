//! The generator as a child: this program again, as `logboom-bench generate`.
//!
//! A process of its own, so that its CPU and memory are those of one process, and every tier has a
//! fresh one. Both ends of the pipes between them are here:
//!
//! ```text
//! bench     stdin: Config as one line of JSON ------------------> generate
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
/// Between the outcome and the end of the process there is nothing left to do.
const END: Duration = Duration::from_secs(10);
const WHAT: &str = "the generator";

/// A running generator.
#[derive(Debug)]
pub struct Generator {
    child: Confined,
    stdin: Option<ChildStdin>,
    outcome: Receiver<Vec<u8>>,
}

impl Generator {
    /// Starts it on `cpus`; it waits for [`Generator::begin`]. `progress` is told once a second.
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
        let (sender, outcome) = sync_channel(1);
        thread::Builder::new()
            .name("generator-stdout".into())
            .spawn(move || {
                let mut line = Vec::new();
                // A broken pipe reads as a generator without an outcome.
                let _ = BufReader::new(stdout).read_until(b'\n', &mut line);
                let _ = sender.send(line);
            })
            .map_err(failed)?;
        Ok(Generator { child, stdin: Some(stdin), outcome })
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
        stdin.write_all(&line).or_else(|_| Err(self.ended()))
    }

    /// Waits for its outcome, at most so long.
    ///
    /// # Errors
    /// It ended without one.
    pub fn poll(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Error> {
        match self.outcome.recv_timeout(limit) {
            Ok(line) if line.ends_with(b"\n") => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
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
    let mut task = String::new();
    io::stdin().read_line(&mut task).map_err(|error| broke("cannot read a task", &error))?;
    let config: Config =
        serde_json::from_str(&task).map_err(|error| broke("this is no task", &error))?;
    let outcome = loadgen::run(&config, &stop, &mut |progress| {
        // Nobody may be looking; that stops nothing.
        let _ = writeln!(io::stderr(), "{PROGRESS}{progress}");
    })
    .map_err(|error| (error.to_string(), error.exit_code()))?;
    let mut line = serde_json::to_vec(&outcome).expect("an outcome is plain data");
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .map_err(|error| broke("cannot report", &error))?;
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    Ok(())
}
