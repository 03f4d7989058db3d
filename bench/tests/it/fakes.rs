//! Engines that lie: the bench must find out.
//!
//! A fake is this test program again, started by a script that the bench takes for an engine. It
//! acknowledges every line, stores it, and prints totals, except for what its lie changes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{env, process, thread};

use runtime::stop::Stop;
use serde_json::json;

use super::schema;
use super::support::{Bench, Ran};

/// Runs the baseline tier against a fake.
fn run_against(lie: &str) -> Ran {
    let bench = Bench::new("--tier baseline,warmup --engine");
    let script = bench.folder().join("engine.sh");
    let text = format!(
        "#!/bin/sh\nLIE='{lie}' exec '{}' it::fakes::engine --exact --ignored --nocapture\n",
        env::current_exe().unwrap().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    bench.arg(script).run()
}

/// The failures of the baseline tier.
fn failures(ran: &Ran) -> Vec<String> {
    let report = ran.report();
    schema::check(&report);
    let tiers = report["tiers"].as_array().unwrap();
    let tier = tiers.iter().find(|tier| tier["name"] == "baseline").unwrap();
    let failures = tier["verification"]["failures"].as_array().unwrap();
    failures.iter().map(|failure| failure["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_honest_fake_passes() {
    let ran = run_against("none").expect(0);
    assert!(failures(&ran).is_empty());
    ran.expect_nothing_left();
}

#[test]
fn a_line_that_was_acknowledged_and_not_stored_is_missed() {
    let ran = run_against("lose a line").expect(12);
    assert_eq!(failures(&ran), ["missing"]);
    let report = ran.report();
    let tier = report["tiers"].as_array().unwrap().iter().find(|it| it["name"] == "baseline");
    let audit = &tier.unwrap()["verification"]["audit"];
    assert_eq!((&audit["stored"], &audit["missing"]), (&999.into(), &1.into()));
    assert_eq!(audit["missing_ranges"][0]["count"], 1);
    assert!(ran.stdout().contains("1 of 1,000 acknowledged lines are not on disk"));
    ran.expect_nothing_left();
}

#[test]
fn a_line_that_is_stored_twice_is_found() {
    assert_eq!(failures(&run_against("store twice").expect(12)), ["duplicated"]);
}

#[test]
fn a_line_that_is_torn_is_found_missing_and_damaged() {
    assert_eq!(failures(&run_against("tear a line").expect(12)), ["missing", "damaged"]);
}

#[test]
fn totals_that_differ_from_the_replies_make_the_measurement_invalid() {
    let ran = run_against("count wrong").expect(13);
    assert_eq!(failures(&ran), ["counts_disagree"]);
    assert_eq!(ran.report()["verdict"], "invalid");
}

#[test]
fn lost_data_outweighs_everything_else() {
    let ran = run_against("lose a line, count wrong, refuse some").expect(12);
    assert_eq!(failures(&ran), ["missing", "counts_disagree", "too_many_errors"]);
}

#[test]
fn too_many_errors_fail_the_threshold() {
    assert_eq!(failures(&run_against("refuse some").expect(10)), ["too_many_errors"]);
}

#[test]
fn an_engine_that_does_not_start_is_quoted() {
    let ran = run_against("refuse to start").expect(3);
    assert!(ran.stderr().contains("no io_uring in this fake"), "{}", ran.stderr());
    let report = ran.report();
    schema::check(&report);
    assert_eq!((&report["verdict"], &report["exit_code"]), (&"broken".into(), &3.into()));
    assert_eq!(report["tiers"], json!([]));
    ran.expect_nothing_left();
}

#[test]
fn an_engine_that_ends_badly_breaks_the_run_after_its_audit() {
    let ran = run_against("end with 7").expect(1);
    assert!(ran.stderr().contains("the engine ended with exit status: 7"), "{}", ran.stderr());
    let report = ran.report();
    schema::check(&report);
    let verification = &report["tiers"][0]["verification"];
    assert_eq!(
        (&verification["pass"], &verification["audit"]["stored"]),
        (&json!(true), &json!(100))
    );
    assert_eq!(verification["engine_totals"], json!(null));
}

#[test]
fn an_engine_without_totals_breaks_the_run() {
    let ran = run_against("print no totals").expect(1);
    assert!(ran.stderr().contains("printed no totals"), "{}", ran.stderr());
}

/// Where this lie strikes: the 501st line, so that the first tier has few connections' worth of
/// good lines before and behind it.
const VICTIM: u64 = 501;

#[derive(Default)]
struct Counts {
    received: u64,
    ok: u64,
    error: u64,
}

struct Fake {
    lie: String,
    segment: File,
    counts: Counts,
}

impl Fake {
    fn lies(&self, what: &str) -> bool {
        self.lie.split(", ").any(|lie| lie == what)
    }

    /// Stores a line (or not) and gives the reply.
    fn take(&mut self, line: &[u8]) -> &'static str {
        self.counts.received += 1;
        let is_victim = self.counts.received == VICTIM;
        if self.lies("refuse some") && self.counts.received.is_multiple_of(20) {
            self.counts.error += 1;
            return "{\"status\":\"error\",\"code\":\"overloaded\",\"reason\":\"fake\"}\n";
        }
        self.counts.ok += 1;
        let stored = match () {
            () if is_victim && self.lies("lose a line") => Vec::new(),
            () if is_victim && self.lies("store twice") => [line, line].concat(),
            () if is_victim && self.lies("tear a line") => [&line[..50], b"\n"].concat(),
            () => line.to_vec(),
        };
        self.segment.write_all(&stored).unwrap();
        "{\"status\":\"ok\"}\n"
    }
}

fn serve(stream: TcpStream, fake: &Mutex<Fake>) {
    let mut replies = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
        let reply = fake.lock().unwrap().take(&line);
        if replies.write_all(reply.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

#[test]
#[ignore = "not a test: the program that the fake engine's script starts"]
fn engine() {
    let (Ok(lie), Ok(ready)) = (env::var("LIE"), env::var("READY_FILE")) else { return };
    if lie == "refuse to start" {
        eprintln!("no io_uring in this fake");
        process::exit(3);
    }
    let stop = Stop::on_signals().unwrap();
    let shard = PathBuf::from(env::var("LOG_DIR").unwrap()).join("shard-00");
    fs::create_dir_all(&shard).unwrap();
    let segment = File::create(shard.join("000000000001.ndjson")).unwrap();
    let fake = Fake { lie, segment, counts: Counts::default() };
    let fake = Arc::new(Mutex::new(fake));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let document = json!({"pid": process::id(), "host": "127.0.0.1", "port": port, "shards": 1});
    let beside = Path::new(&ready).with_extension("tmp");
    fs::write(&beside, document.to_string()).unwrap();
    fs::rename(&beside, &ready).unwrap();
    let shared = Arc::clone(&fake);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(stream.unwrap(), &shared));
        }
    });
    stop.wait();
    let fake = fake.lock().unwrap();
    if fake.lies("end with 7") {
        process::exit(7);
    }
    let Counts { received, ok, error } = fake.counts;
    let wrong = u64::from(fake.lies("count wrong"));
    if !fake.lies("print no totals") {
        let totals = json!({"received": received + wrong, "ok": ok + wrong, "filtered": 0,
                            "error": error, "in_flight": 0});
        // The harness has begun a line of its own.
        println!("\n{}", json!({ "totals": totals }));
    }
    // Before the test harness prints what would be the last line.
    process::exit(0);
}
