//! SEGMENT_COMPRESSION in a running engine: what is closed becomes smaller, and stays what it is.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients::line;
use crate::harness::{Engine, PATIENCE, command, run, stored};

fn names(log_dir: &Path) -> Vec<String> {
    let shard = log_dir.join("shard-00");
    let mut names: Vec<String> = std::fs::read_dir(shard)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn closed_segments_are_packed_while_the_engine_runs_and_read_like_plain_ones() {
    let settings =
        [("SHARDS", "1"), ("SEGMENT_BYTES_MAX", "1MiB"), ("SEGMENT_COMPRESSION", "zstd")];
    let engine = Engine::start(&settings);
    let mut sent = 0;
    let mut send = |engine: &Engine, lines: usize| {
        let text: String = (sent..sent + lines).map(|n| line(&n.to_string()) + "\n").collect();
        assert_eq!(engine.converse(text.as_bytes()).len(), lines);
        sent += lines;
    };
    // A commit goes into one segment, so that these are several.
    for _ in 0..6 {
        send(&engine, 20_000);
    }
    let began = Instant::now();
    loop {
        let names = names(&engine.log_dir());
        let packed = names.iter().filter(|name| name.ends_with(".ndjson.zst")).count();
        let plain = names.iter().filter(|name| name.ends_with(".ndjson")).count();
        // The active one, and perhaps the one prepared behind it.
        if packed >= 2 && plain <= 2 && !names.iter().any(|name| name.ends_with(".tmp")) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{names:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let fsck = |folder: &Path| run(command(folder).arg("fsck").arg(folder.join("logs")));
    let checked = fsck(engine.folder.path());
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stdout));
    send(&engine, 1_000);

    // The next engine goes on behind the packed ones, and packs what the first one had open.
    let folder = engine.kill();
    let engine = Engine::start_in(folder, &settings);
    send(&engine, 10);
    let stopped = engine.stop();
    stopped.assert_clean();
    let stored = stored(stopped.folder.path());
    assert_eq!(stored.len(), 121_010);
    assert!(stored.values().all(|&times| times == 1), "a line is there twice");
    assert_eq!(fsck(stopped.folder.path()).status.code(), Some(0));

    // Everybody's tool reads them, too.
    let shard = stopped.folder.path().join("logs/shard-00");
    let output =
        Command::new("sh").arg("-c").arg("zstd -dcf *.ndjson*").current_dir(shard).output();
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        assert_eq!(lines.count(), 121_010);
    } else {
        crate::harness::skip(
            "closed_segments_are_packed_while_the_engine_runs_and_read_like_plain_ones",
            "zstd is not here (the rest was tested)",
        );
    }
}
