//! What comes to a port, recorded, and sent again.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::server::Server;
use crate::tool::{command, run, run_unchecked, signal};

struct Recorder {
    child: Child,
    port: u16,
    out: String,
    _folder: tempfile::TempDir,
}

fn record(name: &str, args: &str) -> Recorder {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(name).to_str().unwrap().to_owned();
    let mut all = vec!["record", "--listen", "127.0.0.1:0", "--out", &out];
    all.extend(args.split_whitespace());
    let mut child = command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let at = said.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:"));
    let port = at.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    Recorder { child, port, out, _folder: folder }
}

impl Recorder {
    /// Its exit code and last words.
    fn end(self, by: Option<&str>) -> (i32, String, tempfile::TempDir, String) {
        by.into_iter().for_each(|by| signal(&self.child, by));
        let Output { status, stdout, .. } = self.child.wait_with_output().unwrap();
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), self._folder, self.out)
    }
}

fn texts(server: &Server) -> Vec<String> {
    let mut lines: Vec<String> = server.lines().into_iter().map(|line| line.text).collect();
    lines.sort();
    lines
}

#[test]
fn what_was_recorded_is_replayed_line_by_line_with_its_gaps() {
    for (name, args) in [("lines.ndjson", ""), ("lines.gz", "--compress --replies range")] {
        let recorder = record(name, "");
        let sent = run(recorder.port, &format!("-r 100 -z 1s -c 3 {args}"));
        assert_eq!((sent.code, sent.load("ok")), (0, 100), "{}", sent.stderr);
        let (code, said, _folder, out) = recorder.end(Some("-TERM"));
        assert!(code == 0 && said.starts_with("100 messages recorded in"), "{code}: {said}");

        let server = Server::honest();
        let replayed = run(server.port, &format!("--replay {out} -c 3 --shards 2"));
        assert_eq!((replayed.code, replayed.load("ok")), (0, 100), "{}", replayed.stderr);
        let lines = texts(&server);
        // As they were: each ends with who sent it, and nothing was added.
        let mut seen: Vec<(u64, u64)> = Vec::new();
        for line in &lines {
            let value: Value = serde_json::from_str(line).unwrap();
            assert!(line.starts_with("{\"timestamp\":\"") && value["recorded_at"].is_null());
            seen.push((value["conn"].as_u64().unwrap(), value["seq"].as_u64().unwrap()));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 100);
        let told = &replayed.json["recordings"][0];
        assert_eq!(told["timestamp_field"], "recorded_at");
        assert_eq!(told["lines"]["backwards"], 0);
        // From the first to the last: a second but for a gap, and whatever the machine adds.
        let lasted = told["duration_ns"].as_f64().unwrap() / 1e9;
        assert!((0.5..6.0).contains(&lasted), "{lasted} s");
        let took = told["replayed_duration_ns"].as_f64().unwrap() / 1e9;
        assert!(took >= lasted, "{took} s for {lasted} s");
    }
}

#[test]
fn a_recorder_answers_as_an_engine_does_and_keeps_what_is_a_message() {
    let recorder = record("lines", "-n 3");
    let mut stream = TcpStream::connect(("127.0.0.1", recorder.port)).unwrap();
    let line = |text: &str| format!("{{\"level\":\"INFO\",\"message\":\"{text}\"}}\n");
    let with_id = "{\"id\":\"a\",\"level\":\"INFO\",\"message\":\"\"}\r\n";
    write!(
        stream,
        "{{\"hello\":{{\"version\":1}}}}\n{}nonsense\n\n{with_id}{}{}",
        line("1"),
        line("3"),
        line("4")
    )
    .unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    let replies: Vec<Value> =
        replies.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies[0]["hello"]["durability"], "received");
    let status: Vec<&str> =
        replies[1..].iter().map(|reply| reply["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["ok", "error", "ok", "ok", "error"]);
    assert_eq!((&replies[2]["code"], &replies[3]["id"]), (&"invalid_json".into(), &"a".into()));
    assert_eq!(replies[5]["code"], "shutting_down");
    // Its bound ends it.
    let (code, said, _folder, out) = recorder.end(None);
    assert!(code == 0 && said.contains("3 messages") && said.contains("1 refused"), "{said}");
    let text = fs::read_to_string(out).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().all(|line| line.starts_with("{\"recorded_at\":1")), "{text}");
}

#[test]
fn requests_are_recorded_as_an_access_log_and_asked_again() {
    let recorder = record("access.log", "--format http -z 30s");
    let target = format!("http://127.0.0.1:{}/in/x?a=%22", recorder.port);
    for (method, count) in [("GET", 30), ("POST", 20)] {
        let args = format!(
            "--target {target} --method {method} -n {count} -r 200 -c 3 --header user-agent:\"q\\"
        );
        let sent = run_unchecked(&args);
        assert_eq!((sent.code, sent.load("ok")), (0, count), "{}", sent.stderr);
    }
    let mut bad = TcpStream::connect(("127.0.0.1", recorder.port)).unwrap();
    bad.write_all(b"nonsense\r\n\r\n").unwrap();
    let mut answer = String::new();
    bad.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let (code, said, _folder, out) = recorder.end(Some("-INT"));
    assert!(code == 0 && said.contains("50 messages") && said.contains("1 refused"), "{said}");
    let text = fs::read_to_string(&out).unwrap();
    assert!(
        text.contains("\"GET /in/x?a=%22 HTTP/1.1\" 200 0 \"-\" \"\\x22q\\x5C\" recorded_at="),
        "{text}"
    );

    let again = record("again.log", "--format http -n 50");
    let args = format!("--target http://127.0.0.1:{} --replay {out} -c 3", again.port);
    let replayed = run_unchecked(&args);
    assert_eq!((replayed.code, replayed.load("ok")), (0, 50), "{}", replayed.stderr);
    let told = &replayed.json["recordings"][0];
    assert_eq!((&told["same_status"], &told["format"]), (&50.into(), &"combined".into()));
    // Finer than a second.
    assert!(!told["duration_ns"].as_u64().unwrap().is_multiple_of(1_000_000_000));
    let (_, said, _folder, out) = again.end(None);
    assert!(said.contains("50 messages"), "{said}");
    assert!(fs::read_to_string(out).unwrap().contains("\"POST /in/x?a=%22 HTTP/1.1\" 204 0"));
}

#[test]
fn a_recorder_that_cannot_begin_says_why() {
    for (args, code, words) in [
        ("record --listen 127.0.0.1:0 --out /nowhere/a", 3, "/nowhere/a (--out)"),
        ("record --listen 203.0.113.1:1 --out /dev/null", 3, "203.0.113.1:1 (--listen)"),
        ("record --listen localhost --out /dev/null", 2, "--listen"),
        ("record --listen 127.0.0.1:0", 2, "--out"),
    ] {
        let args: Vec<&str> = args.split_whitespace().collect();
        let output = command(&args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && stderr.contains(words), "{stderr}");
    }
}
