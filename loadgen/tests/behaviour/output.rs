//! What a person or a program sees of a run: the folder, the events, stdout and stderr.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{Do, OK, Server};
use crate::tool::{command, signal};

/// A run against `port` whose stdout is its own.
fn run(port: u16, args: &[&str]) -> Output {
    start(port, args).wait_with_output().unwrap()
}

fn start(port: u16, args: &[&str]) -> std::process::Child {
    let target = format!("tcp://127.0.0.1:{port}");
    let mut all = vec!["--target", &target];
    all.extend(args);
    command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A column of a CSV file without quoted cells.
fn column(csv: &str, name: &str) -> Vec<String> {
    let mut lines = csv.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let index = lines.next().unwrap().iter().position(|cell| cell == name).unwrap();
    lines.map(|cells| cells[index].clone()).collect()
}

/// Waits for a condition that comes true within seconds.
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what} within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_folder_holds_the_whole_run() {
    let server = Server::honest();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results/first");
    let run = run(server.port, &["-z", "1500ms", "-r", "400", "--out", out.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    // The checkpoint has gone.
    let expected = ["latency.hlog", "manifest.json", "series.csv", "summary.json"];
    assert_eq!(names(&out), expected);

    let (manifest, summary) = (json(&out.join("manifest.json")), json(&out.join("summary.json")));
    assert_eq!(manifest["command"].as_array().unwrap().last().unwrap(), out.to_str().unwrap());
    assert_eq!(manifest["seed"], summary["seed"]);
    assert_eq!(manifest["config"], summary["config"]);
    assert_eq!(manifest["run_id"], summary["config"]["run_id"]);
    assert_eq!(manifest["environment"]["host"], summary["environment"]["host"]);
    assert!(manifest["started_at"].as_str().unwrap() <= summary["started_at"].as_str().unwrap());
    assert_eq!(summary["verdict"], "pass");
    assert_eq!(summary["load"]["ok"], 600);

    let csv = fs::read_to_string(out.join("series.csv")).unwrap();
    let rows = summary["series"].as_array().unwrap();
    let ok: Vec<String> = rows.iter().map(|row| row["ok"].to_string()).collect();
    assert_eq!(column(&csv, "ok"), ok);
    assert_eq!(column(&csv, "end_ns").len(), rows.len());
}

#[test]
fn the_histogram_log_adds_up_to_the_summary_and_the_standard_parser_reads_it() {
    use base64::Engine as _;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    let server = Server::honest();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let run = run(server.port, &["-z", "2500ms", "-r", "400", "--out", out.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let decode = |text: &str| -> hdrhistogram::Histogram<u64> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        Deserializer::new().deserialize(&mut &bytes[..]).unwrap()
    };
    let summary = json(&out.join("summary.json"));
    let log = fs::read(out.join("latency.hlog")).unwrap();
    for (kind, wanted) in [("response", None), ("service", Some("service")), ("lag", Some("lag"))] {
        let (mut sum, mut ends) = (hdrhistogram::Histogram::<u64>::new(3).unwrap(), Vec::new());
        let mut base = None;
        for entry in IntervalLogIterator::new(&log) {
            match entry.unwrap() {
                LogEntry::BaseTime(time) => base = Some(time.as_secs()),
                LogEntry::Interval(it) if it.tag().map(|tag| tag.as_str()) == wanted => {
                    sum.add(decode(it.encoded_histogram())).unwrap();
                    ends.push((it.start_timestamp() + it.duration()).as_millis());
                }
                _ => {}
            }
        }
        assert!(base.unwrap() > 1_700_000_000, "seconds since 1970");
        assert!(ends.is_sorted() && !ends.is_empty(), "{kind}: {ends:?}");
        let total = decode(summary["latency"][kind]["hdr_v2_deflate_base64"].as_str().unwrap());
        assert_eq!((sum.len(), sum.max()), (1000, total.max()), "{kind}");
        for quantile in [0.1, 0.5, 0.9, 0.99] {
            assert_eq!(sum.value_at_quantile(quantile), total.value_at_quantile(quantile));
        }
    }
}

#[test]
fn a_killed_run_leaves_a_usable_partial_result() {
    let server = Server::honest();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let args = ["-z", "1m", "-r", "400", "--out", out.to_str().unwrap(), "--quiet"];
    let mut child = start(server.port, &args);
    let rows = || fs::read_to_string(out.join("series.csv")).unwrap_or_default().lines().count();
    await_that("two seconds are told", || rows() > 2);
    await_that("a checkpoint comes", || out.join("checkpoint.json").exists());
    child.kill().unwrap();
    child.wait().unwrap();

    let manifest = json(&out.join("manifest.json"));
    let checkpoint = json(&out.join("checkpoint.json"));
    assert!(!out.join("summary.json").exists(), "{:?}", names(out));
    assert_eq!(checkpoint["verdict"], "interrupted");
    assert_eq!(checkpoint["config"], manifest["config"]);
    assert_eq!(checkpoint["config"]["run_id"], manifest["run_id"]);
    let load = |name: &str| checkpoint["load"][name].as_u64().unwrap();
    assert!(load("ok") >= 300, "{}", checkpoint["load"]);
    assert_eq!(load("offered"), load("sent") + load("unsent"));
    let settled = load("ok") + load("filtered") + load("error") + load("unanswered");
    assert_eq!(load("sent"), settled);
    let achieved = checkpoint["rate"]["achieved_per_s"].as_f64().unwrap();
    assert!((200.0..600.0).contains(&achieved), "{achieved}");
    assert!(checkpoint["latency"]["response"]["p50_ns"].is_u64(), "{}", checkpoint["latency"]);

    // Every line of the others is whole, but perhaps the last.
    let csv = fs::read_to_string(out.join("series.csv")).unwrap();
    let seconds = column(&csv, "end_ns");
    assert_eq!(seconds[..2], ["1000000000", "2000000000"]);
    let log = fs::read_to_string(out.join("latency.hlog")).unwrap();
    let intervals = log.lines().filter(|line| line.contains("HISTF")).count();
    assert!(intervals >= 2, "{log}");
}

#[test]
fn a_folder_with_something_in_it_is_refused() {
    let server = Server::honest();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let first = run(server.port, &["-n", "10", "--out", out]);
    assert_eq!(first.status.code(), Some(0), "an empty one is taken: {}", text(&first.stderr));
    let before = names(folder.path());
    let again = run(server.port, &["-n", "10", "--out", out]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("holds a run already"), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("OUT"), "{}", text(&again.stderr));
    assert_eq!((server.lines().len(), names(folder.path())), (10, before));

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("notes.txt"), "mine").unwrap();
    let refused = run(server.port, &["-n", "10", "--out", other.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("notes.txt"), "{}", text(&refused.stderr));

    let file = other.path().join("notes.txt");
    let refused = run(server.port, &["-n", "10", "--out", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("notes.txt"), "{}", text(&refused.stderr));
}

#[test]
fn a_run_that_cannot_begin_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let run = command(&["--target", "name.invalid:1", "--out", out]).output().unwrap();
    assert_eq!(run.status.code(), Some(15), "{}", text(&run.stderr));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_folder_that_disappears_stops_no_load_and_is_said_twice() {
    let server = Server::honest();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let child = start(server.port, &["-z", "2500ms", "-r", "200", "--out", out.to_str().unwrap()]);
    await_that("the load begins", || !server.lines().is_empty());
    // A checkpoint may put a file there between the listing and the end.
    await_that("the folder is gone", || fs::remove_dir_all(&out).is_ok() || !out.exists());
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let stderr = text(&run.stderr);
    assert!(stderr.contains("logboom-loadgen: cannot write"), "{stderr}");
    assert!(stderr.contains("summary.json (OUT)"), "{stderr}");
    assert!(text(&run.stdout).contains("PASS: 500 of 500"), "{}", text(&run.stdout));
}

#[test]
fn a_full_disk_stops_no_load_and_leaves_no_half_document() {
    let server = Server::honest();
    // /dev/full is the one disk that is always full.
    let run = run(server.port, &["-n", "10", "--json", "/dev/full"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("/dev/full"), "{}", text(&run.stderr));
    assert!(text(&run.stdout).contains("PASS: 10 of 10"), "{}", text(&run.stdout));
}

#[test]
fn events_tell_a_program_everything_line_by_line() {
    let server = Server::start(|line| {
        let code = r#"{"status":"error","code":"overloaded","reason":"enough"}"#;
        Do::Say(if line.index == 0 { format!("{code}\n") } else { OK.to_owned() })
    });
    let run = run(server.port, &["-z", "2300ms", "-r", "100", "-c", "1", "--events", "ndjson"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("PASS: 229 of 230"), "{}", text(&run.stderr));
    let events: Vec<Value> =
        text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let seconds = names.iter().filter(|name| **name == "second").count();
    assert_eq!((names[0], names[names.len() - 1]), ("started", "ended"));
    assert!((2..=3).contains(&seconds), "{names:?}");
    let run_id = &events[0]["manifest"]["run_id"];
    assert!(run_id.is_string() && events.iter().all(|event| &event["run_id"] == run_id));
    let elapsed: Vec<u64> =
        events.iter().map(|event| event["elapsed_ns"].as_u64().unwrap()).collect();
    assert!(elapsed.is_sorted() && elapsed[0] == 0, "{elapsed:?}");
    let first = events.iter().find(|event| event["event"] == "second").unwrap();
    assert_eq!((&first["errors"], &first["second"]["end_ns"]), (&1.into(), &1_000_000_000.into()));
    let ended = events.last().unwrap();
    assert_eq!((&ended["verdict"], &ended["exit_code"]), (&"pass".into(), &0.into()));
    assert_eq!(ended["summary"]["load"]["error"], 1);
    assert_eq!(ended["summary"]["errors"]["overloaded"], 1);
}

#[test]
fn events_tell_which_stage_has_begun() {
    let server = Server::honest();
    let args = ["--stages", "low=1s@100,1s@200,200ms:0", "-w", "1s", "--events", "ndjson"];
    let run = run(server.port, &args);
    let events: Vec<Value> =
        text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "stage")
        .map(|event| {
            let (name, begin_ns) = (event["stage"].as_str().unwrap(), event["elapsed_ns"].as_u64());
            (name, begin_ns.unwrap() / 1_000_000_000, event["number"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(stages[..3], [("warm-up", 0, 1), ("low", 1, 2), ("2", 2, 3)], "{stages:?}");
    assert_eq!(events.iter().find(|event| event["event"] == "stage").unwrap()["warmup"], true);
}

#[test]
fn the_last_event_says_why_nothing_began_and_what_a_signal_cut_short() {
    let run = command(&["--target", "name.invalid:1", "--events", "ndjson"]).output().unwrap();
    assert_eq!(run.status.code(), Some(15));
    let ended: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&ended["event"], &ended["verdict"]), (&"ended".into(), &Value::Null));
    assert!(ended["error"].as_str().unwrap().contains("name.invalid"), "{ended}");

    let server = Server::honest();
    let child = start(server.port, &["-z", "1m", "-r", "100", "--events", "ndjson"]);
    await_that("the load begins", || !server.lines().is_empty());
    signal(&child, "-INT");
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(130));
    let ended: Value = serde_json::from_str(text(&run.stdout).lines().last().unwrap()).unwrap();
    assert_eq!((&ended["verdict"], &ended["exit_code"]), (&"interrupted".into(), &130.into()));
}

#[test]
fn events_and_a_document_do_not_share_stdout() {
    let run = command(&["--events", "ndjson", "--json", "-"]).output().unwrap();
    assert_eq!((run.status.code(), run.stdout.len()), (Some(2), 0));
    assert!(text(&run.stderr).contains("EVENTS"), "{}", text(&run.stderr));
}

#[test]
fn a_reader_of_events_that_goes_away_stops_no_load() {
    let server = Server::honest();
    let args = ["-z", "1500ms", "-r", "200", "--events", "ndjson"];
    let mut child = start(server.port, &args);
    drop(child.stdout.take());
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("EVENTS"), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("PASS: 300 of 300"), "{}", text(&run.stderr));
    assert_eq!(server.lines().len(), 300);
}

#[test]
fn a_pipe_gets_a_line_a_second_and_quiet_none() {
    let server = Server::honest();
    let args = ["-z", "2200ms", "-r", "100"];
    let run = run(server.port, &args);
    let stderr = text(&run.stderr);
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.lines().all(|line| line.contains("/s of ")), "{stderr}");
    assert!(!stderr.contains('\u{1b}') && !stderr.contains('\r'), "no control codes: {stderr:?}");
    let quiet = self::run(server.port, &[&args[..], &["--quiet"]].concat());
    assert_eq!((quiet.status.code(), text(&quiet.stderr)), (Some(0), ""));
}
