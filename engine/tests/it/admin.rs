//! The admin listener: what it says, while the engine works and while clients misbehave.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clients::{hammer, line};
use crate::harness::{Engine, PATIENCE, command, run, skip};

/// The oldest of more connections than this has to go (GUESTS_MAX).
const GUESTS_MAX: usize = 64;

/// An answer: its status, its head in lower case, and its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Sends `request` as it is and reads to the end.
fn send(admin: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {all:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn get(admin: SocketAddr, path: &str) -> Answer {
    send(admin, format!("GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n").as_bytes())
}

#[test]
fn health_is_asked_by_the_program_itself() {
    let engine = Engine::start(&[]);
    let admin = engine.admin();
    await_ready(admin);
    let folder = tempfile::tempdir().unwrap();
    let ask = |port: u16, host: &str| {
        let mut command = command(folder.path());
        command.env("ADMIN_PORT", port.to_string()).env("ADMIN_HOST", host).arg("health");
        let output = run(&mut command);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    assert_eq!(ask(admin.port(), "127.0.0.1"), (Some(0), "ready\n".to_owned()));
    assert_eq!(ask(admin.port(), "0.0.0.0").0, Some(0), "a container listens everywhere");
    engine.stop().assert_clean();
    let (code, text) = ask(admin.port(), "127.0.0.1");
    assert!(code == Some(1) && text.contains("ADMIN_PORT"), "{code:?} {text}");
    let (code, text) = ask(0, "127.0.0.1");
    assert!(code == Some(1) && text.contains("ADMIN_PORT=0"), "{code:?} {text}");
}

#[test]
fn it_says_how_the_engine_is() {
    let engine = Engine::start(&[("SHARDS", "2"), ("BATCH_SIZE", "7")]);
    let admin = engine.admin();
    await_ready(admin);
    let health = get(admin, "/healthz");
    assert_eq!((health.status, &*health.body), (200, "alive\n"));
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    let began = Instant::now();
    loop {
        let answer = get(admin, "/status?pretty");
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(status["pid"], engine.pid());
        assert_eq!(status["address"], engine.address.to_string());
        assert_eq!(status["ready"], true);
        assert_eq!(status["shards"].as_array().unwrap().len(), 2);
        assert_eq!(status["log_dir"]["path"], engine.log_dir().to_str().unwrap());
        assert!(status["log_dir"]["free_bytes"].as_u64().unwrap() > 0);
        assert!(status["process"]["resident_bytes"].as_u64().unwrap() > 1 << 20);
        assert!(!status["caps"]["cpus"].as_array().unwrap().is_empty());
        let batch = &status["knobs"]["BATCH_SIZE"];
        assert_eq!((&batch["value"], &batch["source"]), (&"7".into(), &"environment".into()));
        // Numbers are published some times a second.
        if status["totals"]["ok"] == 1 && status["connections"] == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{status:#}");
        std::thread::sleep(Duration::from_millis(10));
    }
    engine.stop().assert_clean();
}

fn await_ready(admin: SocketAddr) {
    let began = Instant::now();
    loop {
        let answer = get(admin, "/readyz");
        if answer.status == 200 {
            assert_eq!(answer.body, "ready\n");
            return;
        }
        assert_eq!(answer.status, 503);
        assert!(answer.body.starts_with("not ready: starting"), "{}", answer.body);
        assert!(began.elapsed() < PATIENCE, "{}", answer.body);
    }
}

#[test]
fn what_is_no_question_it_knows_gets_a_proper_refusal() {
    let engine = Engine::start(&[]);
    let admin = engine.admin();
    assert_eq!(get(admin, "/nothing").status, 404);
    let post = send(admin, b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: get, head"), "{}", post.head);
    assert_eq!(send(admin, b"how do you do\r\n\r\n").status, 400);
    assert_eq!(send(admin, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").status, 400);
    let mut long = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    long.resize(100_000, b'x');
    assert_eq!(send(admin, &long).status, 431);
    let many: String = (0..1000).map(|n| format!("X{n}: y\r\n")).collect();
    let many = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
    assert_eq!(send(admin, many.as_bytes()).status, 431);
    let head = send(admin, b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert!(head.head.contains("content-length: "), "{}", head.head);
    let old = send(admin, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!((old.status, &*old.body), (200, "alive\n"));
    let half_closed = TcpStream::connect(admin).unwrap();
    half_closed.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(get(admin, "/healthz").status, 200);
    engine.stop().assert_clean();
}

/// A family: type, and its samples by their labels, those of a histogram behind `bucket`, `sum` or
/// `count`.
#[derive(Debug)]
struct Family {
    kind: String,
    samples: BTreeMap<String, f64>,
}

/// Reads the older text format, strictly: HELP, TYPE, then samples of that family, once each.
fn families(text: &str) -> BTreeMap<String, Family> {
    fn is_name(name: &str) -> bool {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    }
    fn is_gauge_of_time(name: &str) -> bool {
        name.ends_with("_uptime_seconds") || name.ends_with("_time_seconds")
    }
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut current) = (None, None);
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            let (name, help) = told.split_once(' ').unwrap();
            assert!(is_name(name) && help.len() > 3 && help.ends_with('.'), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "each TYPE has its HELP");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "histogram", name.ends_with("_seconds") && !is_gauge_of_time(name));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let family = Family { kind: kind.to_owned(), samples: BTreeMap::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "twice: {line}");
            current = Some(name.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let of = current.as_deref().unwrap();
            let part =
                name.strip_prefix(of).unwrap_or_else(|| panic!("outside its family: {line}"));
            let is_histogram = families[of].kind == "histogram";
            assert!(if is_histogram { !part.is_empty() } else { part.is_empty() }, "{line}");
            let (name, part) = (of, part.trim_start_matches('_'));
            let labels = labels.strip_suffix('}').unwrap();
            assert!(series.contains('{') != labels.is_empty(), "{line}");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap();
                assert!(is_name(key) && !value.contains(['"', '\\', '\n']), "{line}");
            }
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0, "{line}");
            let samples = &mut families.get_mut(name).unwrap().samples;
            let key = format!("{part}{labels}");
            assert!(samples.insert(key, value).is_none(), "twice: {line}");
        }
    }
    families
}

fn scrape(admin: SocketAddr) -> BTreeMap<String, Family> {
    let answer = get(admin, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    families(&answer.body)
}

fn of_shard(families: &BTreeMap<String, Family>, name: &str, shard: usize) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    family.samples[&format!(r#"shard="{shard}""#)]
}

#[test]
fn every_counter_of_every_shard_is_a_metric_with_help_and_type() {
    let engine = Engine::start(&[("SHARDS", "2")]);
    let families = scrape(engine.admin());
    let of_shard = |shard: usize| {
        let label = format!(r#"shard="{shard}""#);
        let samples = families.values().flat_map(|family| family.samples.keys());
        samples.filter(|labels| labels.starts_with(&label)).count()
    };
    // Each counter, and the connections that are open.
    let all = engine::counters::Counter::ALL.len() + 1;
    assert_eq!([of_shard(0), of_shard(1)], [all; 2]);
    let stalls = &families["logboom_engine_stalls_total"].samples;
    assert!(stalls.contains_key(r#"shard="1",task="flusher""#), "{stalls:?}");
    for name in families.keys() {
        assert!(name.starts_with("logboom_engine_") || name.starts_with("process_"), "{name}");
    }
    assert_eq!(families["logboom_engine_build_info"].kind, "gauge");
    for name in ["process_resident_memory_bytes", "logboom_engine_log_dir_free_bytes"] {
        assert!(families[name].samples[""] > 1e6, "{name}");
    }
    engine.stop().assert_clean();
}

#[test]
fn times_and_reasons_add_up_to_the_counts() {
    let engine =
        Engine::start(&[("SHARDS", "1"), ("LINE_BYTES_MAX", "1KiB"), ("DURABILITY", "durable")]);
    let admin = engine.admin();
    let good = format!("{}\n{}\n", line("1"), line("2"));
    assert_eq!(engine.converse(good.as_bytes()).len(), 2);
    let long = "x".repeat(2000);
    let bad = format!("nonsense\n[]\n{{\"level\":\"INFO\"}}\n{long}\n{}\n", line("3"));
    assert_eq!(engine.converse(bad.as_bytes()).len(), 5);
    let began = Instant::now();
    let families = loop {
        let families = scrape(admin);
        let value = |name: &str| of_shard(&families, name, 0);
        if value("logboom_engine_messages_received_total") > 6.5
            && value("logboom_engine_messages_in_flight") < 0.5
        {
            break families;
        }
        assert!(began.elapsed() < PATIENCE, "{families:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    let rejected = &families["logboom_engine_messages_rejected_total"].samples;
    for (code, count) in [("invalid_json", 1.0), ("not_an_object", 1.0), ("missing_field", 1.0)] {
        assert_eq!(rejected[&format!(r#"shard="0",code="{code}""#)], count, "{code}");
    }
    assert_eq!(rejected[r#"shard="0",code="too_long""#], 1.0);
    let stands = |name: &str, key: &str| families[name].samples[key];
    let replies = "logboom_engine_reply_seconds";
    assert_eq!(stands(replies, "count"), 3.0);
    assert_eq!(stands(replies, r#"bucketle="+Inf""#), 3.0);
    assert!(stands(replies, "sum") > 0.0);
    let mut buckets: Vec<(f64, f64)> = families[replies]
        .samples
        .iter()
        .filter_map(|(key, &count)| {
            let bound = key.strip_prefix(r#"bucketle=""#)?.strip_suffix('"')?;
            Some((bound.replace("+Inf", "inf").parse().unwrap(), count))
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.len() > 30 && buckets.is_sorted_by_key(|&(_, count)| count), "{buckets:?}");
    let writes = stands("logboom_engine_write_seconds", "count");
    assert_eq!(writes, of_shard(&families, "logboom_engine_commits_total", 0));
    let syncs = stands("logboom_engine_sync_seconds", "count");
    assert_eq!(syncs, of_shard(&families, "logboom_engine_syncs_total", 0));
    assert!(syncs >= 1.0);
    let bytes: usize = ["1", "2", "3"].iter().map(|id| line(id).len() + 1).sum();
    assert_eq!(of_shard(&families, "logboom_engine_written_bytes_total", 0), bytes as f64);
    engine.stop().assert_clean();
}

#[test]
fn who_asks_for_openmetrics_gets_it() {
    let engine = Engine::start(&[]);
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3\r\n\r\n";
    let answer = send(engine.admin(), request);
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    assert!(answer.body.ends_with("# EOF\n"));
    for line in [
        "# TYPE logboom_engine_messages_ok counter",
        "# UNIT logboom_engine_read_bytes bytes",
        "# TYPE logboom_engine_build info",
        r#"logboom_engine_messages_ok_total{shard="0"} 0"#,
    ] {
        assert!(answer.body.lines().any(|other| other == line), "no {line} in {}", answer.body);
    }
    engine.stop().assert_clean();
}

/// The judges of others: `promtool check metrics`, and the parsers of Python's client.
#[test]
fn the_parsers_of_others_read_it() {
    const PYTHON: &str = "
import sys
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
classic, new = sys.stdin.read().split('\\0')
for families in (parser.text_string_to_metric_families(classic), openmetrics.text_string_to_metric_families(new)):
    assert sum(len(family.samples) for family in families) > 50
";
    const NAME: &str = "the_parsers_of_others_read_it";
    let engine = Engine::start(&[]);
    let admin = engine.admin();
    let classic = get(admin, "/metrics").body;
    let accept = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n";
    let both = format!("{classic}\0{}", send(admin, accept).body);
    let judges =
        [("promtool", &["check", "metrics"][..], classic), ("python3", &["-c", PYTHON][..], both)];
    for (program, arguments, text) in judges {
        let asked = ["--version", "-c", "import prometheus_client"];
        let asked = if program == "python3" { &asked[1..] } else { &asked[..1] };
        let mut probe = Command::new(program);
        if !probe.args(asked).output().is_ok_and(|output| output.status.success()) {
            skip(NAME, &format!("{program} (with prometheus_client) is not here"));
            continue;
        }
        let mut judge = Command::new(program);
        judge.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut judge = judge.spawn().unwrap();
        judge.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = judge.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program}: {said}");
    }
    engine.stop().assert_clean();
}

#[test]
fn scraping_under_load_is_consistent_and_costs_no_line() {
    let engine = Engine::start(&[("SHARDS", "2")]);
    let enough = Arc::new(AtomicBool::new(false));
    let hammers: Vec<_> = (0..4)
        .map(|n| hammer(engine.address, format!("c{n}"), None, Arc::clone(&enough)))
        .collect();
    // And somebody overdoes it.
    let admin = engine.admin();
    let curious: Vec<_> = ["/metrics", "/status"]
        .map(|path| {
            let enough = Arc::clone(&enough);
            std::thread::spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    assert_eq!(get(admin, path).status, 200);
                }
            })
        })
        .into();
    let names = ["received_total", "ok_total", "filtered_total", "error_total", "in_flight"];
    let names = names.map(|name| format!("logboom_engine_messages_{name}"));
    let (mut last, mut scrapes) = ([0.0; 2], 0);
    let began = Instant::now();
    while scrapes < 100 || last.iter().sum::<f64>() < 1000.0 {
        assert!(began.elapsed() < PATIENCE, "{scrapes} scrapes, {last:?} received");
        let families = scrape(engine.admin());
        for (shard, last) in last.iter_mut().enumerate() {
            let [received, ok, filtered, error, in_flight] =
                names.each_ref().map(|name| of_shard(&families, name, shard));
            assert!(
                (received - (ok + filtered + error + in_flight)).abs() < 0.5 && received >= *last,
                "shard {shard}: {received} = {ok} + {filtered} + {error} + {in_flight}, after {last}"
            );
            *last = received;
        }
        scrapes += 1;
    }
    enough.store(true, Ordering::Relaxed);
    curious.into_iter().for_each(|thread| thread.join().unwrap());
    let acknowledged: usize = hammers.into_iter().map(|hammer| hammer.join().unwrap().len()).sum();
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("ok"), acknowledged as u64);
}

#[test]
fn clients_that_dawdle_or_never_read_keep_nobody_out() {
    let engine = Engine::start(&[]);
    let admin = engine.admin();
    let mut slow: Vec<_> = (0..3 * GUESTS_MAX)
        .map(|n| {
            let mut stream = TcpStream::connect(admin).unwrap();
            let beginning: &[u8] = match n % 3 {
                0 => b"",
                1 => b"GET /metr",
                // Asks, and never reads.
                _ => b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            };
            stream.write_all(beginning).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(get(admin, "/healthz").status, 200);
        for stream in &mut slow {
            // Its place may be taken by now.
            let _ = stream.write(b"i");
        }
    }
    assert_eq!(engine.converse((line("1") + "\n").as_bytes()).len(), 1);
    // The first of them had to go long before their time was up.
    slow[0].set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(slow[0].read(&mut [0; 1]), Ok(0) | Err(_)));
    let status: serde_json::Value = serde_json::from_str(&get(admin, "/status").body).unwrap();
    assert_eq!(status["ready"], true);
    engine.stop().assert_clean();
}

#[test]
fn a_request_that_never_ends_is_ended_in_time() {
    let engine = Engine::start(&[]);
    let mut stream = TcpStream::connect(engine.admin()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let began = Instant::now();
    loop {
        // One header byte now and then is progress, but not enough.
        let sent = stream.write(b"E");
        match stream.read(&mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if sent.is_err() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it goes on for ever");
    }
    engine.stop().assert_clean();
}

#[test]
fn while_draining_it_is_alive_but_not_ready() {
    let engine = Engine::start(&[]);
    let admin = engine.admin();
    await_ready(admin);
    // A client that does not end its side lets the drain take a moment.
    let mut dawdler = engine.connect();
    dawdler.write_all((line("1") + "\n").as_bytes()).unwrap();
    dawdler.read_exact(&mut [0; 10]).unwrap();
    engine.signal("-TERM");
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "never draining");
        let answer = get(admin, "/readyz");
        if answer.status == 503 {
            assert!(answer.body.contains("not ready: draining"), "{}", answer.body);
            break;
        }
    }
    assert_eq!(get(admin, "/healthz").status, 200);
    let mut engine = engine;
    engine.wait().assert_clean();
}

#[test]
fn while_a_breaker_is_open_it_is_not_ready() {
    // One slow write is enough, and a write of a megabyte is slow.
    let engine = Engine::start(&[
        ("CIRCUIT_BREAKER_ENABLED", "true"),
        ("BREAKER_SLOW_MS", "1"),
        ("BREAKER_FAILURES_MAX", "1"),
        ("BREAKER_OPEN_MS", "60000"),
        ("SHARDS", "1"),
    ]);
    await_ready(engine.admin());
    let much = (line("1") + "\n").repeat(50_000);
    let began = Instant::now();
    loop {
        assert_eq!(engine.converse(much.as_bytes()).len(), 50_000);
        let answer = get(engine.admin(), "/readyz");
        if answer.status == 503 {
            assert!(answer.body.contains("the breaker of shard 0"), "{}", answer.body);
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it stays ready");
    }
    let families = scrape(engine.admin());
    assert!(of_shard(&families, "logboom_engine_breakers_open", 0) > 0.5);
    assert!(families["logboom_engine_ready"].samples[""] < 0.5);
    engine.stop().assert_clean();
}

#[test]
fn a_taken_port_is_refused_by_name_and_none_is_needed_when_disabled() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let output = run(command(folder.path()).env("ADMIN_PORT", &port));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    for word in [&*port, "ADMIN_PORT", "in use"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
    let engine = Engine::start(&[("ADMIN_PORT", &port), ("ADMIN_ENABLED", "false")]);
    assert_eq!(engine.admin, None);
    engine.stop().assert_clean();
}
