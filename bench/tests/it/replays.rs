//! What a real engine has stored, replayed into another one.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use proto::packed::{self, Content};
use serde_json::Value;

use super::support::{engine, eventually, loadgen};

const LINES: u64 = 12_000;

/// An engine with segments of 256 KiB, which ends with its test.
struct Service {
    child: Child,
    folder: tempfile::TempDir,
    port: u64,
}

impl Service {
    fn start(compression: &str) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let child = Command::new(engine())
            .env_clear()
            .envs([("SERVER_HOST", "127.0.0.1"), ("SERVER_PORT", "0"), ("ADMIN_PORT", "0")])
            .envs([("SHARDS", "2"), ("SEGMENT_BYTES_MAX", "256KiB")])
            .env("SEGMENT_COMPRESSION", compression)
            .env("LOG_DIR", folder.path().join("logs"))
            .env("READY_FILE", &ready)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("an engine in service", || ready.exists());
        let ready: Value = serde_json::from_slice(&fs::read(ready).unwrap()).unwrap();
        Service { child, folder, port: ready["port"].as_u64().unwrap() }
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Ends it as a service manager does.
    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }

    fn shard(&self, shard: usize) -> PathBuf {
        self.logs().join(proto::segment::shard_name(shard))
    }
}

/// Names and content of a shard's segments. A stop while one is being packed may leave it plain and
/// packed: then the plain one counts.
fn segments(shard: &Path) -> Vec<(String, Vec<u8>)> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(shard).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let plain = packed::plain_name(&name);
        let is_double = packed::is_packed(&name) && shard.join(plain).exists();
        if proto::segment::number_of(plain).is_none() || is_double {
            continue;
        }
        let mut content = Vec::new();
        let file = fs::File::open(entry.path()).unwrap();
        Content::of(&name, file).unwrap().read_to_end(&mut content).unwrap();
        segments.push((name, content));
    }
    segments
}

/// What a shard has stored, sorted.
fn lines(shard: &Path) -> Vec<Vec<u8>> {
    let segments = segments(shard);
    let lines = segments.iter().flat_map(|(_, content)| content.split(|byte| *byte == b'\n'));
    let mut lines: Vec<Vec<u8>> =
        lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    lines.sort_unstable();
    lines
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The summary of a run of the generator that has to pass.
fn generate(target: &str, arguments: &str, path: Option<&Path>) -> Value {
    let mut command = Command::new(loadgen());
    command.env_clear().args(["--target", target, "--quiet", "--json", "-"]);
    command.args(arguments.split_whitespace()).args(path);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn segments_of_an_engine_are_stored_by_another_line_for_line() {
    replayed("none");
}

#[test]
fn packed_segments_are_as_well() {
    replayed("zstd");
}

fn replayed(compression: &str) {
    let mut first = Service::start(compression);
    let target = format!("tcp://127.0.0.1:{}", first.port);
    let run = generate(&target, &format!("-n {LINES} -c 4 --payload app"), None);
    assert_eq!(run["load"]["ok"], LINES);
    let is_packed = |(name, _): &(String, Vec<u8>)| packed::is_packed(name);
    let has_packed = |service: &Service| {
        (0..2).flat_map(|shard| segments(&service.shard(shard))).any(|it| is_packed(&it))
    };
    if compression == "zstd" {
        eventually("packed segments", || has_packed(&first));
    }
    first.stop();
    assert_eq!(has_packed(&first), compression == "zstd");
    let stored = |service: &Service| {
        let mut all = [0, 1].map(|shard| lines(&service.shard(shard))).concat();
        all.sort_unstable();
        all
    };
    let before = stored(&first);
    let files: usize = (0..2).map(|shard| segments(&first.shard(shard)).len()).sum();
    assert_eq!((before.len() as u64, files > 4), (LINES, true), "{files} segments");

    let mut second = Service::start("none");
    let target = format!("tcp://127.0.0.1:{}", second.port);
    let run = generate(&target, "-c 4 --speed max --replay", Some(&first.logs()));
    let recording = &run["recordings"][0]["lines"];
    assert_eq!((&run["load"]["ok"], &recording["messages"]), (&LINES.into(), &LINES.into()));
    assert_eq!(recording["lines"], LINES, "{recording}");
    second.stop();
    assert!(stored(&second) == before, "{compression}: other lines than before");

    // One shard by itself.
    for shard in [0, 1].map(|shard| first.shard(shard)) {
        let run = generate("null://", "-c 1 --speed max --replay", Some(&shard));
        assert_eq!(run["load"]["ok"], lines(&shard).len() as u64);
    }
}
