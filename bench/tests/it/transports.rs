//! The generator's library against the real engine, over everything that both speak.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loadgen::config::{Config, Flow, Scheme};
use loadgen::plan::payloads::{Builtin, Sizes};
use loadgen::plan::shape::Shape;
use proto::hello::{Durability, Replies};
use runtime::stop::Stop;
use serde_json::Value;
use tempfile::TempDir;

use super::support::engine;

const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 30_000;

struct Engine {
    child: Child,
    ready: Value,
    folder: TempDir,
}

impl Engine {
    fn start(settings: &[(&str, &str)]) -> Engine {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let run = |command: &mut Command| {
            command.env_clear().env("CERT_DIR", path.join("certs")).stdin(Stdio::null());
        };
        let mut certs = Command::new(engine());
        run(&mut certs);
        let made = certs.arg("certs").stdout(Stdio::null()).status().unwrap();
        assert!(made.success());
        let mut command = Command::new(engine());
        run(&mut command);
        let child = command
            .env("SERVER_HOST", "127.0.0.1")
            .env("SERVER_PORT", "0")
            .env("UDP_PORT", "0")
            .env("ADMIN_PORT", "0")
            .env("DISK_FREE_BYTES_MIN", "0")
            .env("LOG_DIR", path.join("logs"))
            .env("READY_FILE", path.join("ready"))
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(path.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut engine = Engine { child, ready: Value::Null, folder };
        let began = Instant::now();
        let ready = engine.folder.path().join("ready");
        while !ready.exists() {
            let said = || fs::read_to_string(engine.folder.path().join("stderr")).unwrap();
            assert!(engine.child.try_wait().unwrap().is_none(), "{}", said());
            assert!(began.elapsed() < PATIENCE, "{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.ready = serde_json::from_str(&fs::read_to_string(ready).unwrap()).unwrap();
        engine
    }

    fn port(&self, name: &str) -> u16 {
        u16::try_from(self.ready[name].as_u64().unwrap()).unwrap()
    }

    fn cert(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("certs").join(name)
    }

    /// SIGTERM; gives the totals and how many lines are stored.
    fn stop(mut self) -> (Value, u64) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let out = BufReader::new(self.child.stdout.take().unwrap());
        let last = out.lines().map(Result::unwrap).last().unwrap();
        assert!(self.child.wait().unwrap().success());
        let totals: Value = serde_json::from_str(&last).unwrap();
        (totals["totals"].clone(), stored(&self.folder.path().join("logs")))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Different lines below `folder`; a line that is there twice is a failure.
fn stored(folder: &Path) -> u64 {
    stored_lines(folder).len() as u64
}

fn stored_lines(folder: &Path) -> std::collections::HashSet<String> {
    let mut lines = std::collections::HashSet::new();
    for shard in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(entries) = fs::read_dir(shard) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|ending| ending == "ndjson") {
                for line in BufReader::new(fs::File::open(path).unwrap()).lines() {
                    let line = line.unwrap();
                    assert!(line.is_empty() || lines.insert(line), "stored twice");
                }
            }
        }
    }
    lines
}

fn load(engine: &Engine) -> Flow {
    Flow {
        server_host: "127.0.0.1".into(),
        server_port: engine.port("port"),
        total_logs: MESSAGES,
        duration_secs: Duration::ZERO,
        concurrency: 3,
        batch_size: 700,
        ..Flow::default()
    }
}

fn run(flow: Flow) -> loadgen::Summary {
    loadgen::run(&Config::of(flow), &Stop::new(), &mut |_: &loadgen::Progress| {}).unwrap().summary
}

#[test]
fn compressed_and_durable_over_tls_with_a_client_certificate_and_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "of the realm\n").unwrap();
    let certs = tempfile::tempdir().unwrap();
    // CLIENT_CA_PATH has to be known before the start: the engine's own authority signs both ends.
    let made = Command::new(engine())
        .env_clear()
        .env("CERT_DIR", certs.path().join("certs"))
        .arg("certs")
        .stdout(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let cert = |name: &str| certs.path().join("certs").join(name);
    let engine = Engine::start(&[
        ("ENABLE_TLS", "true"),
        ("CERT_DIR", cert("").to_str().unwrap()),
        ("CLIENT_CA_PATH", cert("ca.crt").to_str().unwrap()),
        ("AUTH_TOKEN_FILE", token.to_str().unwrap()),
        ("SHARDS", "2"),
    ]);
    let summary = run(Flow {
        scheme: Scheme::Tls,
        compress: true,
        durability: Some(Durability::Durable),
        ca_cert_path: Some(cert("ca.crt")),
        client_cert_path: Some(cert("client.crt")),
        client_key_path: Some(cert("client.key")),
        auth_token_file: Some(token),
        ..load(&engine)
    });
    assert_eq!(summary.load.ok, MESSAGES, "{:?}", summary.errors);
    let (totals, stored) = engine.stop();
    assert_eq!(stored, MESSAGES);
    assert!(totals["bytes_inflated"].as_u64().unwrap() > MESSAGES * 100);
}

#[test]
fn plain_lines_over_tls() {
    let engine = Engine::start(&[("ENABLE_TLS", "true")]);
    let summary = run(Flow {
        scheme: Scheme::Tls,
        ca_cert_path: Some(engine.cert("ca.crt")),
        ..load(&engine)
    });
    assert_eq!(summary.load.ok, MESSAGES, "{:?}", summary.errors);
    assert_eq!(engine.stop().1, MESSAGES);
}

#[test]
fn compressed_over_tcp() {
    let engine = Engine::start(&[]);
    let summary = run(Flow { compress: true, ..load(&engine) });
    assert_eq!(summary.load.ok, MESSAGES, "{:?}", summary.errors);
    assert_eq!(engine.stop().1, MESSAGES);
}

#[test]
fn what_udp_loses_is_counted_and_what_it_does_not_lose_is_stored() {
    for compress in [false, true] {
        let engine = Engine::start(&[("ENABLE_UDP", "true")]);
        let summary = run(Flow {
            scheme: Scheme::Udp,
            server_port: engine.port("udp_port"),
            compress,
            // A pace that even a busy machine keeps up with; what it drops all the same is counted.
            shape: Shape::from_rate(20_000),
            ..load(&engine)
        });
        assert_eq!((summary.load.ok, summary.load.unacknowledged), (0, MESSAGES));
        let (totals, stored) = engine.stop();
        let count = |name: &str| totals[name].as_u64().unwrap();
        assert_eq!(stored, count("ok"));
        assert!(stored + count("udp_dropped") <= MESSAGES);
        assert!(
            stored + count("udp_dropped") == MESSAGES || count("udp_dropped_by_kernel") > 0,
            "{totals}"
        );
        assert!(stored > 0);
    }
}

#[test]
fn what_is_broken_on_purpose_is_rejected_over_every_transport() {
    let settings = [("ENABLE_TLS", "true"), ("ENABLE_UDP", "true"), ("SHARDS", "2")];
    let malformed = |flow: Flow| {
        let summary = run(Flow { malformed: 0.05, total_logs: 10_000, ..flow });
        assert_eq!((summary.load.sent, summary.load.error), (10_000, 0), "{:?}", summary.errors);
        summary.load
    };
    for replies in [Replies::Each, Replies::Range] {
        for is_tls in [false, true] {
            let engine = Engine::start(&settings[usize::from(!is_tls)..]);
            let (scheme, ca) = match is_tls {
                true => (Scheme::Tls, Some(engine.cert("ca.crt"))),
                false => (Scheme::Tcp, None),
            };
            let load = malformed(Flow { scheme, ca_cert_path: ca, replies, ..load(&engine) });
            assert_eq!(load.malformed.rejected, load.malformed.sent);
            let (totals, stored) = engine.stop();
            assert_eq!(totals["error"], load.malformed.rejected, "{totals}");
            assert_eq!((stored, stored + load.malformed.sent), (load.ok, 10_000));
        }
    }
    // Nobody replies to a datagram: what came in is judged all the same.
    let engine = Engine::start(&settings[1..]);
    let (scheme, server_port) = (Scheme::Udp, engine.port("udp_port"));
    let shape = Shape::from_rate(20_000);
    let load = malformed(Flow { scheme, server_port, shape, ..load(&engine) });
    assert_eq!((load.malformed.rejected, load.unacknowledged), (0, 10_000));
    let (totals, _) = engine.stop();
    let count = |name: &str| totals[name].as_u64().unwrap();
    let lost = count("udp_dropped") + count("udp_dropped_by_kernel");
    assert!(count("error") == load.malformed.sent || lost > 0, "{totals}");
    assert!(count("error") <= load.malformed.sent && count("error") > 0, "{totals}");
}

#[test]
fn every_kind_of_message_is_taken_and_every_broken_one_rejected() {
    const EACH: u64 = 3_000;
    let engine = Engine::start(&[("SHARDS", "2")]);
    let flow = |(index, payload): (usize, Builtin)| Flow {
        name: payload.to_string(),
        payload,
        total_logs: EACH,
        malformed: 0.05,
        payload_bytes: if index % 2 == 0 { Sizes::default() } else { "128..2k".parse().unwrap() },
        compress: index % 3 == 0,
        ..load(&engine)
    };
    let flows: Vec<Flow> = Builtin::ALL.into_iter().enumerate().map(flow).collect();
    let total = EACH * flows.len() as u64;
    let config = Config { flows, ledger: true, ..Config::default() };
    let outcome = loadgen::run(&config, &Stop::new(), &mut |_: &loadgen::Progress| {}).unwrap();
    let summary = &outcome.summary;
    let (load, malformed) = (summary.load, summary.load.malformed);
    assert_eq!(load.error, 0, "{:?}", summary.errors);
    assert_eq!((load.sent, load.ok), (total, total - malformed.sent));
    assert_eq!((malformed.rejected, malformed.accepted), (malformed.sent, 0));
    // Five standard errors.
    let expected = total as f64 * 0.05;
    assert!((malformed.sent as f64 - expected).abs() < 5.0 * (expected * 0.95).sqrt());
    for section in &summary.flows {
        assert!(section.load.malformed.rejected > 0 && section.load.ok > 0, "{}", section.name);
    }
    assert_eq!(summary.verdict, loadgen::Verdict::Pass);
    let logs = engine.folder.path().join("logs");
    let pid = engine.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut engine = engine;
    assert!(engine.child.wait().unwrap().success());
    // What was acknowledged is there, and nothing else.
    let found: std::collections::BTreeSet<(u64, u64)> = stored_lines(&logs)
        .iter()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["conn"].as_u64().unwrap(), line["seq"].as_u64().unwrap())
        })
        .collect();
    let acknowledged = outcome.ledger.connections.iter().flat_map(|connection| {
        let seqs = connection.ok.iter().flat_map(|(first, count)| *first..first + count);
        seqs.map(|seq| (connection.conn, seq))
    });
    assert!(acknowledged.eq(found.iter().copied()));
    assert_eq!(found.len() as u64, load.ok);
}
