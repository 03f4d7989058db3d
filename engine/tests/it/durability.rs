//! What is acknowledged is on disk, whatever ends the engine.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clients::{hammer, line};
use crate::harness::{Engine, segments, stored};

const DURABLE: &str = r#"{"hello":{"version":1,"durability":"durable"}}"#;

fn load(engine: &Engine, hello: Option<&'static str>) -> Vec<std::thread::JoinHandle<Vec<String>>> {
    let enough = Arc::new(AtomicBool::new(false));
    (0..6).map(|n| hammer(engine.address, format!("c{n}"), hello, Arc::clone(&enough))).collect()
}

#[test]
fn sigterm_under_load_loses_nothing_that_was_acknowledged() {
    let engine = Engine::start(&[("SHARDS", "2"), ("SEGMENT_BYTES_MAX", "256KiB")]);
    let clients = load(&engine, None);
    std::thread::sleep(Duration::from_millis(600));
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.took < Duration::from_secs(10), "{:?}", stopped.took);
    let acknowledged: Vec<_> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
    assert!(acknowledged.len() > 500, "{} lines are no load", acknowledged.len());
    let on_disk = stored(stopped.folder.path());
    for line in &acknowledged {
        assert_eq!(on_disk.get(line), Some(&1), "{line}");
    }
    // Everything that was answered ok is stored, and nothing else.
    assert_eq!(on_disk.values().sum::<usize>() as u64, stopped.total("ok"));
    // A clean close leaves no padding behind.
    for segment in segments(&stopped.folder.path().join("logs")) {
        let bytes = std::fs::read(&segment).unwrap();
        assert!(!bytes.ends_with(b"\n\n"), "{} is padded", segment.display());
        assert!(bytes.is_empty() || bytes.ends_with(b"}\n"));
    }
}

#[test]
fn kill_9_under_load_loses_nothing_that_was_acknowledged_as_written_or_durable() {
    for hello in [None, Some(DURABLE)] {
        let mut engine = Engine::start(&[("SHARDS", "2"), ("SEGMENT_BYTES_MAX", "256KiB")]);
        let mut acknowledged = Vec::new();
        for round in 0..4 {
            let enough = Arc::new(AtomicBool::new(false));
            let clients: Vec<_> = (0..6)
                .map(|n| {
                    hammer(engine.address, format!("r{round}c{n}"), hello, Arc::clone(&enough))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(150 + 83 * round));
            let folder = engine.kill();
            enough.store(true, Ordering::Relaxed);
            acknowledged.extend(clients.into_iter().flat_map(|c| c.join().unwrap()));
            // Before any recovery: `written` survives the process alone.
            let on_disk = stored_lossy(folder.path());
            for line in &acknowledged {
                assert!(on_disk.contains(line), "lost {line}");
            }
            engine = Engine::start_in(folder, &[("SHARDS", "2"), ("SEGMENT_BYTES_MAX", "256KiB")]);
        }
        assert!(acknowledged.len() > 500, "{} lines are no load", acknowledged.len());
        let stopped = engine.stop();
        stopped.assert_clean();
        let on_disk = stored(stopped.folder.path());
        for line in &acknowledged {
            assert_eq!(on_disk.get(line), Some(&1), "{line}");
        }
        for line in on_disk.keys() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}

/// As `stored`, for segments whose tail may be torn.
fn stored_lossy(folder: &std::path::Path) -> std::collections::HashSet<String> {
    segments(&folder.join("logs"))
        .iter()
        .flat_map(|segment| {
            String::from_utf8_lossy(&std::fs::read(segment).unwrap())
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn segments_rotate_and_the_oldest_go_when_there_is_too_much() {
    let engine = Engine::start(&[
        ("SHARDS", "1"),
        ("SEGMENT_BYTES_MAX", "64KiB"),
        ("RETAIN_BYTES_MAX", "256KiB"),
    ]);
    let input: String = (0..20_000).map(|n| line(&n.to_string()) + "\n").collect();
    assert_eq!(engine.converse(input.as_bytes()).len(), 20_000);
    let sizes = |engine: &Engine| -> Vec<u64> {
        segments(&engine.log_dir())
            .iter()
            .map(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len()))
            .collect()
    };
    let began = std::time::Instant::now();
    while sizes(&engine).iter().sum::<u64>() > (256 + 128) << 10 {
        assert!(began.elapsed() < crate::harness::PATIENCE, "{:?}", sizes(&engine));
        std::thread::sleep(Duration::from_millis(50));
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    let left = stored(stopped.folder.path());
    assert!(left.contains_key(&line("19999")), "the newest stay");
    assert!(!left.contains_key(&line("0")), "the oldest go");
}

#[test]
fn a_reply_without_persistence_is_received_only_and_nothing_is_stored() {
    let engine = Engine::start(&[("ENABLE_PERSISTENCE", "false")]);
    let mut stream = engine.connect();
    writeln!(stream, "{DURABLE}\n{}", line("1")).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains(r#""durability":"received""#), "{said}");
    assert!(said.ends_with("{\"status\":\"ok\",\"id\":\"1\"}\n"), "{said}");
    assert!(!engine.log_dir().exists());
    engine.stop().assert_clean();
}

#[test]
fn lines_that_nobody_waits_for_reach_the_disk_by_themselves() {
    let engine = Engine::start(&[("DURABILITY", "received"), ("SHARDS", "1")]);
    assert_eq!(engine.converse(format!("{}\n", line("1")).as_bytes()).len(), 1);
    let began = std::time::Instant::now();
    while !stored(engine.folder.path()).contains_key(&line("1")) {
        assert!(began.elapsed() < crate::harness::PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    engine.stop().assert_clean();
}
