//! Starts the bench as a user would, and reads what it left.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

const BENCH: &str = env!("CARGO_BIN_EXE_logboom-bench");

/// The engine beside the bench.
pub(super) fn engine() -> &'static Path {
    static ENGINE: OnceLock<PathBuf> = OnceLock::new();
    ENGINE.get_or_init(|| program("logboom-engine", "engine"))
}

/// The generator beside the bench.
pub(super) fn loadgen() -> &'static Path {
    static LOADGEN: OnceLock<PathBuf> = OnceLock::new();
    LOADGEN.get_or_init(|| program("logboom-loadgen", "loadgen"))
}

/// A program of the workspace, whose sources are in `folder`. A run of the tests of the whole
/// workspace has built it; `cargo test -p logboom-bench` has not, so this does (cargo itself makes
/// tests wait that ask at the same time).
fn program(name: &str, sources: &str) -> PathBuf {
    let folder = Path::new(BENCH).parent().unwrap();
    let program = folder.join(name);
    if is_newer_than_its_sources(&program, sources) {
        return program;
    }
    let profile = match folder.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let status = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "-p", name, "--bin", name])
        .args(["--profile", profile, "--target-dir"])
        .arg(folder.parent().unwrap())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "cannot build {name}");
    program
}

/// Saves asking cargo, which may have to wait for another cargo, and builds a lone package with
/// other features than the workspace.
fn is_newer_than_its_sources(program: &Path, folder: &str) -> bool {
    fn newest(path: &Path) -> SystemTime {
        let Ok(entries) = fs::read_dir(path) else {
            return path.metadata().unwrap().modified().unwrap();
        };
        let times = entries.flatten().map(|entry| newest(&entry.path()));
        times.max().unwrap_or(SystemTime::UNIX_EPOCH)
    }
    let Ok(built) = program.metadata().and_then(|meta| meta.modified()) else { return false };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let own = [format!("{folder}/src"), format!("{folder}/Cargo.toml")];
    let shared = ["proto/src", "proto/runtime", "Cargo.toml"].map(str::to_owned);
    own.iter().chain(&shared).all(|source| newest(&workspace.join(source)) <= built)
}

/// Says loudly that `test` did not run and why, here and in the file that LOGBOOM_SKIPS names.
pub(super) fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("LOGBOOM_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// A run of the bench with folders of its own.
pub(super) struct Bench {
    folder: TempDir,
    arguments: Vec<String>,
}

impl Bench {
    /// With these arguments (separated by blanks), without pauses.
    pub(super) fn new(arguments: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Bench { folder, arguments }
    }

    /// With the real engine.
    pub(super) fn with_engine(arguments: &str) -> Bench {
        engine();
        Bench::new(arguments)
    }

    pub(super) fn arg(mut self, argument: impl AsRef<Path>) -> Bench {
        self.arguments.push(argument.as_ref().to_str().unwrap().to_owned());
        self
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(BENCH);
        command
            .args(&self.arguments)
            .current_dir(self.folder())
            .env_clear()
            .env("TMPDIR", self.folder().join("tmp"))
            .env("COOLDOWN_SECS", "0")
            .stdin(Stdio::null());
        command
    }

    pub(super) fn start(self) -> Started {
        let mut command = self.command();
        let stderr = fs::File::create(self.folder().join("stderr")).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        Started { bench: self, child }
    }

    pub(super) fn run(self) -> Ran {
        let output = self.command().output().unwrap();
        Ran { output, bench: self }
    }
}

/// A bench that is running.
pub(super) struct Started {
    pub bench: Bench,
    pub child: Child,
}

impl Started {
    pub(super) fn stderr(&self) -> String {
        fs::read_to_string(self.bench.folder().join("stderr")).unwrap()
    }

    /// Waits until standard error says `text`.
    pub(super) fn await_stderr(&mut self, text: &str) {
        eventually(text, || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.stderr());
            self.stderr().contains(text)
        });
    }

    /// Its child whose command line has `word` in it.
    pub(super) fn child_with(&self, word: &str) -> u32 {
        let found = children(self.child.id())
            .into_iter()
            .find(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains(word));
        found.unwrap_or_else(|| panic!("no child {word}"))
    }

    pub(super) fn signal(&self, name: &str) {
        kill(self.child.id(), name);
    }

    pub(super) fn finish(self) -> Ran {
        let stderr = self.bench.folder().join("stderr");
        let mut output = self.child.wait_with_output().unwrap();
        output.stderr = fs::read(stderr).unwrap();
        Ran { output, bench: self.bench }
    }
}

/// A bench that has ended.
pub(super) struct Ran {
    output: Output,
    pub bench: Bench,
}

impl Ran {
    pub(super) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    pub(super) fn code(&self) -> i32 {
        self.output.status.code().unwrap_or_else(|| panic!("{:?}", self.output.status))
    }

    /// Checks the exit code, and shows all it said if it is another one.
    #[track_caller]
    pub(super) fn expect(self, code: i32) -> Ran {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        assert_eq!(self.code(), code, "\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }

    /// The report of its results folder.
    pub(super) fn report(&self) -> Value {
        let results = self.bench.folder().join("results");
        let folders: Vec<_> = fs::read_dir(results).unwrap().collect();
        assert_eq!(folders.len(), 1, "a run has one report");
        let folder = folders[0].as_ref().unwrap().path();
        let text = fs::read_to_string(folder.join("report.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Nothing is left below TMPDIR, and no process that was started with a folder there.
    #[track_caller]
    pub(super) fn expect_nothing_left(&self) {
        let temporary = self.bench.folder().join("tmp");
        let left: Vec<_> = fs::read_dir(&temporary).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        let needle = temporary.to_str().unwrap().to_owned();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            let is_ours = String::from_utf8_lossy(&environ).contains(&needle);
            assert!(!is_ours, "{:?} is still there", process.path());
        }
    }
}

/// The children of a process.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
        })
        .collect()
}

/// Whether a process is there and not just waiting to be buried.
pub(super) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

pub(super) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Waits for something that a busy machine may take long for.
#[track_caller]
pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
