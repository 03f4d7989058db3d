//! `fsck` on what the real engine has written, while it runs and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;

use crate::harness::{Engine, PATIENCE};

fn fsck(log_dir: &Path) -> (Option<i32>, Value, String) {
    let run = |arguments: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_logboom-engine"));
        command.env_clear().arg("fsck").arg(log_dir).args(arguments).output().unwrap()
    };
    let json = run(&["--json"]);
    let report = serde_json::from_slice(&json.stdout).unwrap_or(Value::Null);
    let text = run(&[]);
    assert_eq!(json.status.code(), text.status.code());
    (json.status.code(), report, String::from_utf8_lossy(&text.stdout).into_owned())
}

fn segments(log_dir: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(log_dir).unwrap().map(|entry| entry.unwrap().path());
    let files = shards
        .filter(|path| path.is_dir())
        .flat_map(|shard| fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()));
    files.filter(|path| path.extension().is_some_and(|end| end == "ndjson")).collect()
}

#[test]
fn fsck_tells_rot_from_what_is_merely_unverified() {
    let settings = [("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "65536"), ("SYNC_MS", "50")];
    let engine = Engine::start(&settings);
    let lines: String = (0..3000)
        .map(|n| format!("{{\"level\":\"INFO\",\"message\":\"{n}\",\"fill\":\"{n:0100}\"}}\n"))
        .collect();
    assert_eq!(engine.converse(lines.as_bytes()).len(), 3000);

    // A running engine's directory is checked as far as it is durable and recorded.
    let began = Instant::now();
    loop {
        let (code, report, text) = fsck(&engine.log_dir());
        assert_eq!((code, report["damaged_bytes"].as_u64()), (Some(0), Some(0)), "{text}");
        assert_eq!(report["lines"].as_u64(), Some(3000), "{text}");
        if report["unverified_bytes"] == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "never verified: {text}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }

    let stopped = engine.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let log_dir = stopped.folder.path().join("logs");
    let (code, report, text) = fsck(&log_dir);
    assert_eq!((code, report["unverified_bytes"].as_u64()), (Some(0), Some(0)), "{text}");
    assert_eq!(report["verified_bytes"].as_u64(), Some(lines.len() as u64), "{text}");
    assert!(report["segments"].as_u64() > Some(0), "{text}");

    // One bit, in the middle of each segment in turn.
    for path in segments(&log_dir) {
        let clean = fs::read(&path).unwrap();
        let mut rotten = clean.clone();
        let at = rotten.len() / 2;
        rotten[at] ^= 1;
        fs::write(&path, &rotten).unwrap();
        let (code, report, text) = fsck(&log_dir);
        assert_eq!(code, Some(12), "{text}");
        assert!(text.contains("DAMAGED") && text.contains(&path.display().to_string()), "{text}");
        let damage = &report["notable"][0]["damaged"][0];
        let offset = damage["offset"].as_u64().unwrap();
        let end = offset + damage["length"].as_u64().unwrap();
        assert!((offset..end).contains(&(at as u64)), "{text}");
        fs::write(&path, clean).unwrap();
    }

    // Without its side file a segment is enough by itself, and unverified.
    let path = segments(&log_dir).remove(0);
    fs::remove_file(path.with_extension("crc")).unwrap();
    let (code, report, text) = fsck(&log_dir);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(report["unverified_bytes"].as_u64(), Some(fs::metadata(&path).unwrap().len()));
    assert!(text.contains("side file: missing"), "{text}");

    assert_eq!(fsck(&log_dir.join("none")).0, Some(3));
}
