//! Recordings, sent again: which lines, when, and what the summary says of it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::server::{Do, OK, Server};
use crate::tool::{Run, command, run, run_unchecked};
use crate::web::{Caught, Liar};

/// 2023-11-14T22:13:20Z.
const BEGIN_MS: u64 = 1_700_000_000_000;

fn line(ms: u64, level: &str, n: usize) -> String {
    format!("{{\"ts\":{},\"level\":\"{level}\",\"message\":\"m\",\"n\":{n}}}", BEGIN_MS + ms)
}

struct Recording {
    _folder: TempDir,
    path: String,
}

fn recording(bytes: impl AsRef<[u8]>) -> Recording {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording");
    fs::write(&path, bytes).unwrap();
    Recording { path: path.to_str().unwrap().to_owned(), _folder: folder }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

type Arrivals = Arc<Mutex<Vec<(Instant, String)>>>;

/// An honest server that notes when each line came.
fn timed() -> (Server, Arrivals) {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&arrivals);
    let server = Server::start(move |line| {
        noted.lock().unwrap().push((Instant::now(), line.text.clone()));
        Do::Say(OK.to_owned())
    });
    (server, arrivals)
}

fn sorted(server: &Server) -> Vec<String> {
    let mut lines: Vec<String> = server.lines().into_iter().map(|line| line.text).collect();
    lines.sort();
    lines
}

fn told(run: &Run) -> &Value {
    &run.json["recordings"][0]
}

/// A summary without a target of ours.
fn refused(args: &str) -> (i32, String) {
    let args: Vec<&str> = args.split_whitespace().collect();
    let output = command(&args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn lines_come_as_they_are_with_the_gaps_between_them() {
    // Bunches of lines, half a second apart, over two shards; at twice the speed.
    for (speed, factor) in [("1x", 1.0), ("2x", 0.5)] {
        let at = |n: usize| (n / 40) as u64 * 500;
        let lines: Vec<String> = (0..200).map(|n| line(at(n), "INFO", n)).collect();
        let recording = recording(lines.join("\n"));
        let (server, arrivals) = timed();
        let begin = Instant::now();
        let args = format!("--replay {} --speed {speed} -c 4 --shards 2", recording.path);
        let run = run(server.port, &args);
        assert_eq!((run.code, run.load("ok"), run.load("unsent")), (0, 200, 0), "{}", run.stderr);
        let mut expected = lines.clone();
        expected.sort();
        assert_eq!(sorted(&server), expected);
        let arrivals = arrivals.lock().unwrap();
        let first = arrivals[0].0;
        for (arrival, text) in arrivals.iter() {
            let n = serde_json::from_str::<Value>(text).unwrap()["n"].as_u64().unwrap();
            let due = Duration::from_millis(at(usize::try_from(n).unwrap())).mul_f64(factor);
            assert!(*arrival - begin >= due, "{n} came before it was due");
            assert!(*arrival - first < due + Duration::from_secs(2), "{n} came late");
        }
        let told = told(&run);
        assert_eq!(
            (told["duration_ns"].as_u64(), told["rate_per_s"].as_f64()),
            (Some(2_000_000_000), Some(100.0))
        );
        assert_eq!((&told["format"], &told["timestamp_field"]), (&"ndjson".into(), &"ts".into()));
        assert_eq!(told["speed"], speed);
        assert_eq!(told["from"], "2023-11-14T22:13:20Z");
        assert_eq!(told["to"], "2023-11-14T22:13:22Z");
        let replayed = told["replayed_duration_ns"].as_f64().unwrap() / 1e9;
        assert!(replayed >= 2.0 * factor, "{replayed}");
    }
}

#[test]
fn without_gaps_it_goes_as_fast_as_the_replies_and_each_line_once() {
    let lines: Vec<String> = (0..20_000).map(|n| line(n as u64 * 1000, "INFO", n)).collect();
    // Members anywhere, also within a line.
    let text = lines.join("\n");
    let (one, rest) = text.as_bytes().split_at(333_333);
    let recording = recording([gzip(one), gzip(b""), gzip(rest)].concat());
    let server = Server::honest();
    let run = run(server.port, &format!("--replay {} --speed max -c 4 --shards 2", recording.path));
    assert_eq!((run.code, run.load("ok"), run.load("unsent")), (0, 20_000, 0), "{}", run.stderr);
    let mut expected = lines;
    expected.sort();
    assert_eq!(sorted(&server), expected);
    assert_eq!(told(&run)["duration_ns"], 19_999_000_000_000u64);
}

#[test]
fn it_goes_round_until_it_was_told_or_a_bound_ends_it() {
    let lines: Vec<String> = (0..50).map(|n| line(n as u64 * 2, "INFO", n)).collect();
    let recording = recording(lines.join("\n"));
    for (args, messages, rounds) in [
        ("--loop 3", 150, 3),
        ("--loop -n 120", 120, 3),
        ("-n 20", 20, 1),
        ("--loop -z 300ms", 150, 3),
        ("--loop 2 --speed max", 100, 2),
        ("--loop -n 1234 --speed max", 1234, 25),
    ] {
        let server = Server::honest();
        let run = run(server.port, &format!("--replay {} {args} -c 2 --shards 2", recording.path));
        assert_eq!((run.code, run.load("offered")), (0, messages), "{args}: {}", run.stderr);
        assert_eq!(told(&run)["rounds"], rounds, "{args}");
        let mut counts = vec![0; 50];
        for line in server.lines() {
            counts[usize::try_from(line.json()["n"].as_u64().unwrap()).unwrap()] += 1;
        }
        let sent = usize::try_from(run.load("sent")).unwrap();
        assert_eq!(counts.iter().sum::<usize>(), sent);
        if run.load("unsent") == 0 {
            let expected: Vec<usize> = (0..50).map(|n| (sent + 49 - n) / 50).collect();
            assert_eq!(counts, expected, "{args}");
        }
    }
}

#[test]
fn what_is_not_asked_for_or_cannot_be_read_is_counted_and_the_rest_is_sent() {
    let mut lines = vec![
        line(0, "ERROR", 0),
        line(100, "ERROR", 1),
        line(110, "DEBUG", 2),
        "not json".to_owned(),
        "{\"level\":\"ERROR\"}".to_owned(),
        String::new(),
        line(90, "ERROR", 3),
        format!("{{\"ts\":{},\"level\":\"WARN\",\"message\":\"torn", BEGIN_MS + 120),
        format!("{{\"ts\":{}}}", BEGIN_MS + 130),
        line(140, "fatal", 4),
        line(135, "warn", 5),
        line(150, "ERROR", 6),
        format!("{{\"ts\":1,\"message\":\"{}\"}}", "x".repeat(300_000)),
    ];
    lines.push(String::new());
    let recording = recording(lines.join("\r\n"));
    let server = Server::honest();
    let args = format!(
        "--replay {} --from 2023-11-14T22:13:20.1Z --to +150ms --level warn -c 2",
        recording.path
    );
    let run = run(server.port, &args);
    assert_eq!((run.code, run.load("ok")), (0, 3), "{}", run.stderr);
    let mut sent: Vec<u64> =
        server.lines().iter().map(|line| line.json()["n"].as_u64().unwrap()).collect();
    sent.sort_unstable();
    assert_eq!(sent, [1, 4, 5]);
    let counts = &told(&run)["lines"];
    for (name, count) in [
        ("lines", 12),
        ("messages", 3),
        ("outside", 3),
        ("below", 1),
        ("malformed", 2),
        ("no_timestamp", 1),
        ("no_level", 1),
        ("too_long", 1),
        ("backwards", 1),
    ] {
        assert_eq!(counts[name], count, "{name}: {counts}");
    }
    assert!(run.stderr.contains("not sent: 2 malformed, 1 no_timestamp"), "{}", run.stderr);
    assert!(run.stderr.contains("1 behind a later one"), "{}", run.stderr);
}

#[test]
fn an_access_log_is_replayed_by_its_times() {
    let entry = |second: usize, n: usize| {
        format!(
            "2001:db8::{n} - - [10/Oct/2000:13:55:{second:02} -0700] \"GET /{n} HTTP/1.1\" 200 5 \"-\" \"a \\\"b\\\"\""
        )
    };
    let lines: Vec<String> = (0..20).map(|n| entry(n / 10, n)).collect();
    let recording = recording(lines.join("\n"));
    let server = Server::honest();
    let run = run(server.port, &format!("--replay {} -c 2", recording.path));
    assert_eq!((run.code, run.load("ok")), (0, 20), "{}", run.stderr);
    let mut expected = lines;
    expected.sort();
    assert_eq!(sorted(&server), expected);
    assert_eq!(told(&run)["format"], "combined");
    assert_eq!(told(&run)["duration_ns"], 1_000_000_000);
}

#[test]
fn segments_are_a_recording() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for shard in 0..3 {
        let path = folder.path().join(proto::segment::shard_name(shard));
        fs::create_dir(&path).unwrap();
        for number in 1..3 {
            let lines: Vec<String> =
                (0..50).map(|n| line(n * 7 + shard as u64 + number * 350, "INFO", 0)).collect();
            // Padded as an engine that is still writing leaves it.
            let text = lines.join("\n") + &"\n".repeat(100);
            fs::write(path.join(proto::segment::file_name(number)), text).unwrap();
            expected.extend(lines);
        }
    }
    let server = Server::honest();
    let path = folder.path().to_str().unwrap();
    let run = run(server.port, &format!("--replay {path} -c 2 --shards 2 --batch-size 3"));
    assert_eq!((run.code, run.load("ok")), (0, 300), "{}", run.stderr);
    expected.sort();
    assert_eq!(sorted(&server), expected);
    // Merged: nothing is behind a later one.
    assert_eq!(told(&run)["lines"]["backwards"], 0);
    assert_eq!(told(&run)["duration_ns"], 695_000_000);
}

#[test]
fn a_long_recording_needs_no_more_memory_than_a_short_one() {
    let folder = tempfile::tempdir().unwrap();
    let filler = "as seen by the collector of this host; ".repeat(10);
    let peak = |count: u64| {
        let path = folder.path().join(count.to_string());
        let file = fs::File::create(&path).unwrap();
        let mut encoder = GzEncoder::new(std::io::BufWriter::new(file), Compression::fast());
        for n in 0..count {
            let at = BEGIN_MS + n;
            writeln!(encoder, "{{\"timestamp\":{at},\"message\":\"{filler}\",\"n\":{n}}}").unwrap();
        }
        encoder.finish().unwrap().flush().unwrap();
        let path = path.to_str().unwrap();
        let args = format!("--target null:// --replay {path} --speed max -c 2 --shards 1");
        let run = run_unchecked(&args);
        assert_eq!((run.code, run.load("ok")), (0, count), "{}", run.stderr);
        run.json["resources"]["rss_peak_bytes"].as_u64().unwrap()
    };
    // 4.5 MB, which fill what is read ahead, and 45 MB.
    let (short, long) = (peak(10_000), peak(100_000));
    assert!(long < short + (8 << 20), "{} MiB, then {} MiB", short >> 20, long >> 20);
}

/// Lines of four kilobytes, so many that they are not all read ahead.
fn broad(count: usize, lasts_ms: usize) -> Recording {
    let filler = "x".repeat(4000);
    let lines = (0..count).map(|n| {
        let at = BEGIN_MS + (n * lasts_ms / count) as u64;
        format!("{{\"ts\":{at},\"n\":{n},\"message\":\"{filler}\"}}\n")
    });
    recording(lines.collect::<String>())
}

#[test]
fn what_a_stalled_target_keeps_from_being_read_counts_as_unsent_to_the_last_message() {
    let recording = broad(4000, 2000);
    let server = Server::start(|_| Do::Say(String::new()));
    let args = format!(
        "--replay {} -z 1s -c 2 --shards 2 --batch-size 1 --reply-timeout-secs 1",
        recording.path
    );
    let run = run(server.port, &args);
    assert_eq!((run.load("offered"), run.load("ok")), (2000, 0), "{}", run.stderr);
    assert!(run.load("unsent") >= 1990, "{}", run.load("unsent"));
}

#[test]
fn a_lane_that_is_stuck_holds_up_no_other() {
    let recording = broad(2000, 4000);
    // Whoever says the first line is answered no more.
    let stuck = Arc::new(Mutex::new(None));
    let server = Server::start(move |line| {
        let stuck = *stuck.lock().unwrap().get_or_insert(line.connection);
        Do::Say(if stuck == line.connection { String::new() } else { OK.to_owned() })
    });
    let args = format!(
        "--replay {} -c 2 --shards 2 --batch-size 100 -z 4s --reply-timeout-secs 5",
        recording.path
    );
    let run = run(server.port, &args);
    let first = server.lines()[0].connection;
    let others = server.lines().iter().filter(|line| line.connection != first).count();
    // The other lane's half, and in its time. If the two had a reader in common, it could have read
    // ahead for the stuck one no more than some five hundred, and no more for the other.
    assert!((700..=1000).contains(&others), "{others}: {}", run.stderr);
    assert_eq!(run.load("ok"), others as u64);
    assert_eq!(run.load("offered"), 2000);
}

#[test]
fn a_reader_that_is_too_slow_is_named_as_the_cause_of_lag() {
    // Two messages a millisecond apart, and between them many others that are not sent.
    let mut text = line(0, "ERROR", 0) + "\n";
    text.push_str(&(line(0, "DEBUG", 1) + "\n").repeat(200_000));
    text.push_str(&line(1, "ERROR", 2));
    let recording = recording(text);
    let server = Server::honest();
    let run = run(server.port, &format!("--replay {} --level error -c 1", recording.path));
    assert_eq!((run.code, run.load("ok")), (0, 2), "{}", run.stderr);
    assert_eq!(told(&run)["lines"]["below"], 200_000);
    assert!(run.lag_share("reader") > 0.5, "{}", run.json["latency"]["lag"]["causes"]);
    assert!(run.stderr.contains("lag from   reader"), "{}", run.stderr);
}

#[test]
fn a_warm_up_is_the_first_part_of_the_recording() {
    let lines: Vec<String> = (0..100).map(|n| line(n as u64 * 10, "INFO", n)).collect();
    let recording = recording(lines.join("\n"));
    let server = Server::honest();
    let run = run(server.port, &format!("--replay {} -w 300ms -n 50 -c 2", recording.path));
    assert_eq!((run.code, run.load("ok")), (0, 50), "{}", run.stderr);
    assert_eq!(server.lines().len(), 80);
}

#[test]
fn a_recording_that_is_none_is_refused_before_anything_is_sent() {
    let empty = recording("");
    let no_times = recording("{\"a\":1}\n{\"b\":2}\n");
    let text = recording("hello\nworld\n");
    let good = recording(line(0, "INFO", 0));
    let none = Path::new(&empty.path).with_file_name("none");
    for (args, code, words) in [
        (format!("--replay {}", none.display()), 3, "No such file"),
        (format!("--replay {}", empty.path), 2, "it has no lines"),
        (format!("--replay {}", text.path), 2, "REPLAY_FORMAT"),
        (format!("--replay {}", no_times.path), 2, "REPLAY_TIMESTAMP_FIELD"),
        (format!("--replay {} --timestamp-field when", good.path), 2, "1 no_timestamp"),
        (format!("--replay {} --level error", good.path), 2, "1 below REPLAY_LEVEL"),
        (format!("--replay {} --speed 0x", good.path), 2, "\"0x\""),
        (format!("--replay {} --from yesterday", good.path), 2, "\"yesterday\""),
        (format!("--replay {} -r 5", good.path), 2, "TARGET_RPS 5"),
        (format!("--replay {} --loop", good.path), 2, "REPLAY_LOOPS"),
        (format!("--replay {} --arrivals poisson", good.path), 2, "ARRIVALS poisson"),
        ("--replay /dev/null".to_owned(), 3, "neither a file nor a folder"),
        ("--speed 2x".to_owned(), 2, "REPLAY_SPEED without REPLAY"),
    ] {
        let (status, stderr) = refused(&format!("{args} --target null://"));
        assert!(status == code && stderr.contains(words), "{args}: {status}: {stderr}");
    }
}

type Requests = Arc<Mutex<Vec<(String, String)>>>;

/// A server of HTTP/1.1 that notes the head and the body of each request, and answers with the
/// status that its path ends with.
fn web() -> (u16, Requests) {
    use std::io::{BufRead as _, BufReader, Read as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut out, noted) = (stream.unwrap(), Arc::clone(&noted));
            let mut input = BufReader::new(out.try_clone().unwrap());
            std::thread::spawn(move || {
                loop {
                    let (mut first, mut length) = (String::new(), 0);
                    if input.read_line(&mut first).unwrap_or(0) == 0 {
                        return;
                    }
                    loop {
                        let mut field = String::new();
                        input.read_line(&mut field).unwrap();
                        if let Some(bytes) = field.strip_prefix("Content-Length: ") {
                            length = bytes.trim().parse().unwrap();
                        }
                        if field.trim().is_empty() {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    input.read_exact(&mut body).unwrap();
                    let request = first.strip_suffix(" HTTP/1.1\r\n").unwrap().to_owned();
                    let status = request.rsplit('/').next().unwrap();
                    let content = if request.starts_with("HEAD ") { "" } else { "body" };
                    let answer =
                        format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\n{content}");
                    let body = String::from_utf8(body).unwrap();
                    noted.lock().unwrap().push((request.clone(), body));
                    if out.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, requests)
}

#[test]
fn an_access_log_is_asked_again_over_http_and_the_statuses_are_compared() {
    let entry = |n: usize, request: &str, status: u16| {
        format!("h - - [10/Oct/2000:13:55:{:02} +0000] \"{request}\" {status} 5\n", n / 100)
    };
    let mut text = String::new();
    for n in 0..200 {
        text.push_str(&match n % 5 {
            0 => entry(n, &format!("GET /{n}?q=%20/200 HTTP/1.1"), 200),
            1 => entry(n, &format!("HEAD /{n}/200 HTTP/1.1"), 304),
            2 => entry(n, &format!("POST /{n}/404 HTTP/1.0"), 404),
            3 => entry(n, &format!("DELETE /{n}/503 HTTP/2.0"), 204),
            _ => entry(n, "-", 408),
        });
    }
    let recording = recording(text);
    for more in ["", "--pipeline 4"] {
        let (port, requests) = web();
        let run = run_unchecked(&format!(
            "--target http://127.0.0.1:{port}/base/ --replay {} --speed 10x -c 4 --shards 2 \
             --max-error-rate 100% {more}",
            recording.path
        ));
        assert_eq!((run.code, run.load("ok"), run.load("error")), (0, 80, 80), "{}", run.stderr);
        let mut asked: Vec<String> =
            requests.lock().unwrap().iter().map(|(request, _)| request.clone()).collect();
        asked.sort();
        let mut expected: Vec<String> = (0..200)
            .filter_map(|n| match n % 5 {
                0 => Some(format!("GET /base/{n}?q=%20/200")),
                1 => Some(format!("HEAD /base/{n}/200")),
                2 => Some(format!("POST /base/{n}/404")),
                3 => Some(format!("DELETE /base/{n}/503")),
                _ => None,
            })
            .collect();
        expected.sort();
        assert_eq!(asked, expected);
        let told = told(&run);
        assert_eq!((&told["lines"]["no_request"], &told["same_status"]), (&40.into(), &80.into()));
        let statuses = serde_json::json!({
            "200": {"200": 40}, "304": {"200": 40}, "404": {"404": 40}, "204": {"503": 40},
        });
        assert_eq!(told["statuses"], statuses);
        assert!(run.stderr.contains("as recorded for 80 of 160 requests"), "{}", run.stderr);
        assert!(run.stderr.contains("recorded 204, now 503 40"), "{}", run.stderr);
    }
}

#[test]
fn a_log_that_the_replay_itself_makes_longer_ends() {
    let line =
        |n: usize| format!("::1 - - [10/Oct/2000:13:55:36 +0000] \"GET /{n} HTTP/1.1\" 200 5\n");
    let log = recording((0..50).map(line).collect::<String>());
    let path = log.path.clone();
    let server = Liar::start(move |caught: &mut Caught| {
        while caught.request().is_some() {
            // As a server does that logs to this file.
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(line(99).as_bytes()).unwrap();
            caught.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let run = run_unchecked(&format!(
        "--replay {} --speed max --loop 2 -c 2 --target http://127.0.0.1:{}",
        log.path, server.port
    ));
    assert_eq!((run.code, run.load("ok")), (0, 100), "{}", run.stderr);
    assert_eq!(fs::read_to_string(&log.path).unwrap().lines().count(), 150);
}

#[test]
fn recorded_lines_are_bodies_over_http_each_by_itself_or_in_batches() {
    let lines: Vec<String> = (0..60).map(|n| line(n as u64, "INFO", n)).collect();
    let recording = recording(lines.join("\n"));
    for (more, is_one_each) in [("--method PUT", true), ("--ndjson", false)] {
        let (port, requests) = web();
        let run = run_unchecked(&format!(
            "--target http://127.0.0.1:{port}/in/200 --replay {} --speed max -c 2 {more}",
            recording.path
        ));
        assert_eq!((run.code, run.load("ok")), (0, 60), "{}", run.stderr);
        let requests = requests.lock().unwrap();
        let request = if is_one_each { "PUT /in/200" } else { "POST /in/200" };
        assert!(requests.iter().all(|(it, _)| it == request));
        assert_eq!(requests.len() == 60, is_one_each);
        let mut bodies: Vec<&str> = requests.iter().flat_map(|(_, body)| body.lines()).collect();
        bodies.sort_unstable();
        let mut expected: Vec<&str> = lines.iter().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(bodies, expected);
    }
}
