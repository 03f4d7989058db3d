//! Runs the binary and reads what it says.

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A run that is over.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl Run {
    /// A count of `load`.
    pub(crate) fn load(&self, name: &str) -> u64 {
        self.json["load"][name].as_u64().unwrap_or_else(|| panic!("load.{name}: {}", self.json))
    }

    /// A count of `errors`, 0 without one.
    pub(crate) fn error(&self, code: &str) -> u64 {
        self.json["errors"][code].as_u64().unwrap_or(0)
    }

    /// A time of `latency` in seconds.
    pub(crate) fn latency(&self, kind: &str, field: &str) -> f64 {
        let ns = &self.json["latency"][kind][field];
        ns.as_f64().unwrap_or_else(|| panic!("latency.{kind}.{field}: {ns}")) / 1e9
    }

    /// The share of all lag that a cause has.
    pub(crate) fn lag_share(&self, cause: &str) -> f64 {
        self.json["latency"]["lag"]["causes"][cause]["share"].as_f64().expect("a cause")
    }

    /// The interval of a percentile in seconds; an open end is infinite.
    pub(crate) fn interval(&self, kind: &str, name: &str) -> (f64, f64) {
        let bounds = &self.json["latency"][kind]["ci95"][format!("{name}_ns")];
        assert!(bounds.is_array(), "{name} has no interval: {bounds}");
        let bound = |index: usize| bounds[index].as_f64().map(|ns| ns / 1e9);
        (bound(0).unwrap_or(0.0), bound(1).unwrap_or(f64::INFINITY))
    }

    /// The run, whose identities hold.
    pub(crate) fn checked(self) -> Run {
        self.check();
        self
    }

    pub(crate) fn verdict(&self) -> &str {
        self.json["verdict"].as_str().unwrap()
    }

    /// Every identity that holds in every summary.
    fn check(&self) {
        let load = |name| self.load(name);
        assert_eq!(load("offered"), load("sent") + load("unsent"));
        let settled = load("ok") + load("filtered") + load("error") + load("unanswered");
        let rejected = self.json["load"]["malformed"]["rejected"].as_u64().unwrap_or(0);
        assert_eq!(load("sent"), settled + rejected);
        let errors: u64 =
            self.json["errors"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(load("error"), errors);
        let count = |kind: &str, field: &str| self.json["latency"][kind][field].as_u64().unwrap();
        assert_eq!(count("response", "count"), load("offered"));
        let censored = load("error") + load("unanswered") + load("unsent");
        assert_eq!(count("response", "censored"), censored);
        assert_eq!(count("lag", "count"), load("offered"));
        let series = self.json["series"].as_array().unwrap();
        // With a warm-up, its messages are in the series, and may be answered long after it.
        let has_warmup = series.iter().any(|row| !row["warmup"].is_null());
        let holds = |name: &str, total: u64| {
            let sum: u64 = series.iter().filter_map(|row| row[name].as_u64()).sum();
            assert!(sum == total || has_warmup && sum > total, "series.{name}: {sum}, not {total}");
        };
        for name in ["offered", "sent", "ok", "filtered"] {
            holds(name, load(name));
        }
        holds("error", load("error") + load("unanswered"));
        holds("rejected", rejected);
    }
}

/// The binary with no environment of ours.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logboom-loadgen"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// Starts a run with its summary as JSON on stdout.
pub(crate) fn start(port: u16, args: &str) -> Child {
    let port = port.to_string();
    let mut all = vec!["--server-host", "127.0.0.1", "--server-port", &port, "--json", "-"];
    all.extend(args.split_whitespace());
    command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a run and checks the identities of its summary.
pub(crate) fn finish(child: Child) -> Run {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    let json = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        let stdout = String::from_utf8_lossy(&stdout);
        panic!("stdout is not one document: {error}\n{stdout}\n{stderr}")
    });
    let run = Run { code: status.code().expect("it exits"), json, stderr };
    run.check();
    run
}

/// A run whose arguments name the target, and to which not every identity applies.
pub(crate) fn run_unchecked(args: &str) -> Run {
    let mut all = vec!["--json", "-"];
    all.extend(args.split_whitespace());
    let Output { status, stdout, stderr } = command(&all).output().unwrap();
    Run {
        code: status.code().expect("it exits"),
        json: serde_json::from_slice(&stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

pub(crate) fn run(port: u16, args: &str) -> Run {
    finish(start(port, args))
}

/// Sends a signal to a run.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Says loudly that `test` did not run and why, here and in the file that LOGBOOM_SKIPS names.
pub(crate) fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("LOGBOOM_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
