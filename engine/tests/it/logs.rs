//! The engine's own logs: what they say, how often, and that nobody has to read them.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::clients::line;
use crate::harness::{Engine, Stopped, command, run};

/// A run with one line, and what it logged.
fn said(settings: &[(&str, &str)]) -> Vec<String> {
    let engine = Engine::start(settings);
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(!stopped.err.contains('\x1b'), "colours in a pipe: {}", stopped.err);
    stopped.err.lines().map(str::to_owned).collect()
}

#[test]
fn text_is_for_people_time_level_and_message() {
    let lines = said(&[]);
    for word in ["listening on 127.0.0.1:", "draining", "drained received=1 ok=1"] {
        assert!(lines.iter().any(|line| line.contains(word)), "no {word} in {lines:#?}");
    }
    // A busy machine makes stalls.
    for line in lines.iter().filter(|line| !line.contains("a turn held its shard")) {
        let mut words = line.split_whitespace();
        let (time, level) = (words.next().unwrap(), words.next().unwrap());
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert_eq!(level, "INFO", "{line}");
    }
}

#[test]
fn json_is_an_object_a_line() {
    let lines = said(&[("LOG_FORMAT", "json"), ("LOG_LEVEL", "debug")]);
    let events: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        for field in ["timestamp", "level", "message"] {
            assert!(event[field].is_string(), "no {field} in {event}");
        }
    }
    let drained = events.iter().find(|event| event["message"] == "drained").unwrap();
    assert_eq!((&drained["received"], &drained["level"]), (&1.into(), &"INFO".into()));
    assert!(events.iter().any(|event| event["level"] == "DEBUG"), "{events:#?}");
}

#[test]
fn a_level_bounds_what_is_said() {
    assert_eq!(said(&[("LOG_LEVEL", "error")]), [""; 0]);
}

#[test]
fn a_refusal_to_start_is_plain_text_or_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |format: &str| {
        let mut command = command(folder.path());
        let output = run(command.env("LOG_DIR", "/proc/no/such").env("LOG_FORMAT", format));
        assert_eq!(output.status.code(), Some(3));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused("text");
    assert!(text.lines().last().unwrap().starts_with("logboom-engine: cannot use /proc"), "{text}");
    let json = refused("json");
    let event: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&event["level"], &event["exit_code"]), (&"ERROR".into(), &3.into()));
    assert!(event["message"].as_str().unwrap().contains("LOG_DIR"), "{event}");
}

#[test]
fn what_repeats_is_cut_and_counted() {
    const REFUSED: u64 = 60;
    let engine = Engine::start(&[("CONNECTIONS_MAX", "1"), ("SHARDS", "1")]);
    let mut only = engine.connect();
    only.write_all((line("1") + "\n").as_bytes()).unwrap();
    std::io::Read::read_exact(&mut only, &mut [0; 1]).unwrap();
    for _ in 0..REFUSED {
        assert!(engine.converse(b"")[0].fatal);
    }
    drop(only);
    let stopped = engine.stop();
    stopped.assert_clean();
    let (mut told, mut cut) = (0, 0);
    for line in stopped.err.lines().filter(|line| line.contains("a connection is refused")) {
        match line.split_once("suppressed ") {
            Some((_, times)) => {
                cut += times.split_once(' ').unwrap().0.parse::<u64>().unwrap();
            }
            None => told += 1,
        }
    }
    assert_eq!(told + cut, stopped.total("connections_refused"), "{}", stopped.err);
    assert!(cut > 0 && told < REFUSED / 2, "{told} told, {cut} cut: {}", stopped.err);
}

/// Serves and stops as ever, whatever becomes of stderr.
fn works(stderr: impl Into<Stdio>) -> Stopped {
    let folder = tempfile::tempdir().unwrap();
    let mut command: Command = command(folder.path());
    command.env("LOG_LEVEL", "trace").stderr(stderr);
    let engine = Engine::start_as(command, folder);
    for n in 0..20 {
        assert_eq!(engine.converse((line(&n.to_string()) + "\n").as_bytes()).len(), 1);
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("ok"), 20);
    stopped
}

#[test]
fn a_stderr_that_nobody_reads_blocks_nothing() {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let (_unread, mut full) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&full).unwrap();
    fcntl_setfl(&full, flags | OFlags::NONBLOCK).unwrap();
    while full.write(&[b'.'; 4096]).is_ok() {}
    while full.write(b".").is_ok() {}
    // A write blocks now.
    fcntl_setfl(&full, flags).unwrap();
    works(full);
}

#[test]
fn a_stderr_whose_reader_is_gone_ends_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    works(writer);
}

#[test]
fn a_stdout_whose_reader_is_gone_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.stdout(writer);
    let stopped = Engine::start_as(command, folder).stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
}
