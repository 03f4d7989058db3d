//! A child that runs on given cpus and never outlives this program.
//!
//! Both are set by the child itself before it becomes the program that was asked for: this
//! executable is started again as `logboom-bench confine …`, sets its cpus and asks the kernel to
//! be killed when its parent dies, and then calls exec. So no thread here changes its own
//! affinity, no code runs between fork and exec, and a bench that is killed by SIGKILL or aborts in
//! a panic leaves no child behind either.
//!
//! Invariant: [`Confined`] has ended and been waited for when it is dropped.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::{Error, Said};

/// Lines of a child's standard error that an error message repeats.
const SAID_LINES_MAX: usize = 20;
/// Bytes of one such line.
const SAID_BYTES_MAX: usize = 1000;
/// How often a child that shall end is looked at.
const POLL: Duration = Duration::from_millis(2);

/// What `logboom-bench confine` is asked.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Who started it, so that a parent which is already gone is noticed.
    pub parent: u32,
    pub cpus: Vec<usize>,
    pub program: OsString,
    pub arguments: Vec<OsString>,
}

impl Confinement {
    /// Becomes the program; returns only if that fails.
    pub fn exec(self) -> io::Error {
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            return error.into();
        }
        let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if parent != Some(self.parent) {
            return io::Error::other("the bench ended before its child began");
        }
        let mut set = CpuSet::new();
        self.cpus.iter().for_each(|cpu| set.set(*cpu));
        if let Err(error) = sched_setaffinity(None, &set) {
            return error.into();
        }
        Command::new(&self.program).args(&self.arguments).exec()
    }
}

/// A running child of ours.
#[derive(Debug)]
pub struct Confined {
    child: Child,
    said: Option<JoinHandle<()>>,
    lines: Arc<Mutex<Said>>,
}

impl Confined {
    /// Starts `program` on `cpus`, in a clean environment with `variables`, in a process group of
    /// its own: a Ctrl-C at the terminal reaches only us, and we pass it on in order.
    ///
    /// Its streams are pipes; `on_line` sees each line of its standard error, or its last lines
    /// are kept for an error message if `on_line` leaves them (returns false).
    ///
    /// # Errors
    /// No process can be had.
    pub fn start(
        what: &'static str,
        program: &Path,
        arguments: &[&str],
        variables: &[(String, String)],
        cpus: &[usize],
        on_line: impl FnMut(&str) -> bool + Send + 'static,
    ) -> Result<Confined, Error> {
        let failed = |source| Error::Spawn { what, source };
        let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
        let mut child = Command::new(env::current_exe().map_err(failed)?)
            .args(["confine", "--parent", &std::process::id().to_string()])
            .args(["--cpus", &cpus.join(","), "--"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let lines = Arc::new(Mutex::new(Said::default()));
        let mut confined = Confined { child, said: None, lines: Arc::clone(&lines) };
        let said = thread::Builder::new()
            .name("stderr".into())
            .spawn(move || listen(stderr, &lines, on_line))
            .map_err(failed)?;
        confined.said = Some(said);
        Ok(confined)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its streams for input and output; once.
    pub fn streams(&mut self) -> (std::process::ChildStdin, std::process::ChildStdout) {
        let stdin = self.child.stdin.take().expect("streams are taken once");
        (stdin, self.child.stdout.take().expect("streams are taken once"))
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // The only error is that the child is not ours, which it is.
        self.child.try_wait().expect("our own child")
    }

    /// Sends a signal unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // Not waited for yet, so the id is still its own.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Waits until it ends; None if that takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            thread::sleep(POLL);
        }
    }

    /// Its last words; complete when it has ended.
    pub fn said(&mut self) -> Said {
        if self.ended().is_some()
            && let Some(said) = self.said.take()
        {
            let _ = said.join();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn listen(stderr: ChildStderr, said: &Mutex<Said>, mut on_line: impl FnMut(&str) -> bool) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A child that writes no newline costs bounded memory.
        let limit = SAID_BYTES_MAX as u64;
        match stderr.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() && !on_line(text) {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.0.len() == SAID_LINES_MAX {
                said.0.remove(0);
            }
            said.0.push(text.to_owned());
        }
    }
}
