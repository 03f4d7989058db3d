//! Starts the real binary with a temporary LOG_DIR and a free port, and ends it.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use proto::reply::OwnedReply;
use tempfile::TempDir;

/// Longer than anything a healthy engine needs, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Engine {
    child: Child,
    pub address: SocketAddr,
    /// Where it tells how it is.
    pub admin: Option<SocketAddr>,
    pub folder: TempDir,
}

pub(crate) fn command(folder: &Path) -> Command {
    command_under(&[], folder)
}

/// The engine, started by a program that becomes it, such as `nsenter`.
pub(crate) fn command_under(program: &[&str], folder: &Path) -> Command {
    let engine = env!("CARGO_BIN_EXE_logboom-engine");
    let mut words = program.iter().copied().chain([engine]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("SERVER_HOST", "127.0.0.1")
        .env("SERVER_PORT", "0")
        .env("ADMIN_PORT", "0")
        .env("DISK_FREE_BYTES_MIN", "0")
        .env("LOG_DIR", folder.join("logs"))
        .env("READY_FILE", folder.join("ready"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Engine {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Engine {
        Engine::start_in(tempfile::tempdir().unwrap(), settings)
    }

    /// Starts on a folder that an earlier engine may have left.
    pub(crate) fn start_in(folder: TempDir, settings: &[(&str, &str)]) -> Engine {
        let mut command = command(folder.path());
        command.envs(settings.iter().copied());
        Engine::start_as(command, folder)
    }

    /// Starts by a command that was made for `folder`.
    pub(crate) fn start_as(mut command: Command, folder: TempDir) -> Engine {
        let ready = folder.path().join("ready");
        let _ = std::fs::remove_file(&ready);
        let mut child = command.spawn().expect("engine starts");
        let began = Instant::now();
        while !ready.exists() {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the engine ended with {status}: {said}");
            }
            assert!(began.elapsed() < PATIENCE, "the engine is not ready in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ready: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(ready).unwrap()).unwrap();
        let at = |port: &str| {
            let port = u16::try_from(ready[port].as_u64()?).unwrap();
            Some(SocketAddr::from(([127, 0, 0, 1], port)))
        };
        Engine { child, address: at("port").unwrap(), admin: at("admin_port"), folder }
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.unwrap()
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends `input`, ends the sending side, and gives all replies.
    pub(crate) fn converse(&self, input: &[u8]) -> Vec<OwnedReply> {
        let mut stream = self.connect();
        let mut writer = stream.try_clone().unwrap();
        let input = input.to_vec();
        let sending = std::thread::spawn(move || {
            let _ = writer.write_all(&input);
            let _ = writer.shutdown(std::net::Shutdown::Write);
        });
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        sending.join().unwrap();
        all.split_inclusive(|&byte| byte == b'\n')
            .map(|line| OwnedReply::parse(line.trim_ascii_end()).unwrap())
            .collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM, and what the engine says at its end.
    pub(crate) fn stop(mut self) -> Stopped {
        self.signal("-TERM");
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> Stopped {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "the engine does not end in time");
            std::thread::sleep(Duration::from_millis(2));
        }
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut out).unwrap();
        }
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut err).unwrap();
        }
        let code = self.child.wait().unwrap().code();
        let last: serde_json::Value =
            serde_json::from_str(out.lines().last().unwrap_or("null")).unwrap();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Stopped { code, last, err, took: began.elapsed(), folder }
    }

    /// The end that nobody can prepare for. Gives the folder for the next engine.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Stopped {
    pub code: Option<i32>,
    last: serde_json::Value,
    pub err: String,
    pub took: Duration,
    pub folder: TempDir,
}

impl Stopped {
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.last["totals"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.last))
    }

    pub(crate) fn of_shards(&self, name: &str) -> Vec<u64> {
        let shards = self.last["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard[name].as_u64().unwrap()).collect()
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.code, Some(0), "{}", self.err);
        assert_eq!(self.total("in_flight"), 0);
        assert_eq!(
            self.total("received"),
            self.total("ok") + self.total("filtered") + self.total("error")
        );
    }
}

/// Every stored line below `folder/logs`, with how often it is there; blank lines are padding.
pub(crate) fn stored(folder: &Path) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for segment in segments(&folder.join("logs")) {
        for line in content(&segment).lines() {
            let line = line.unwrap_or_else(|error| panic!("{}: {error}", segment.display()));
            if !line.is_empty() {
                *lines.entry(line).or_default() += 1;
            }
        }
    }
    lines
}

/// The content of a segment, packed by now or not; `path` is the plain one's.
pub(crate) fn content(path: &Path) -> Vec<u8> {
    let mut packed = path.as_os_str().to_owned();
    packed.push(proto::packed::ENDING);
    let mut bytes = Vec::new();
    match std::fs::read(path) {
        Ok(plain) => bytes = plain,
        // The packed one is there before the plain one goes.
        Err(_) => {
            let file = std::fs::File::open(packed).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let mut content = proto::packed::Content::of(proto::packed::ENDING, file).unwrap();
            content.read_to_end(&mut bytes).unwrap();
        }
    }
    bytes
}

/// All segments by the plain ones' names, whether they are packed by now or not.
pub(crate) fn segments(log_dir: &Path) -> Vec<PathBuf> {
    let mut segments = Vec::new();
    for shard in std::fs::read_dir(log_dir).unwrap().map(|entry| entry.unwrap().path()) {
        if shard.file_name().unwrap().to_str().unwrap().starts_with("shard-") {
            segments.extend(
                std::fs::read_dir(shard)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .map(|path| {
                        let name = path.file_name().unwrap().to_str().unwrap();
                        path.with_file_name(proto::packed::plain_name(name))
                    })
                    .filter(|path| path.extension().is_some_and(|ending| ending == "ndjson")),
            );
        }
    }
    segments.sort();
    segments.dedup();
    segments
}

/// Says loudly that `test` did not run and why, here and in the file that LOGBOOM_SKIPS names.
pub(crate) fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("LOGBOOM_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Runs the binary to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}
