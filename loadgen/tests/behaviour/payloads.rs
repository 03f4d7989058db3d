//! Messages of other kinds, from templates and files, and broken ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use proto::{Record, Scratch};
use serde_json::Value;

use crate::server::{Do, OK, Server};
use crate::tool::{command, run};

/// Takes what the engine would take, by its own rules, and keeps every line.
struct Judge {
    port: u16,
    lines: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Judge {
    fn start() -> Judge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let judge = Judge { port: listener.local_addr().unwrap().port(), lines: Arc::default() };
        let lines = Arc::clone(&judge.lines);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let lines = Arc::clone(&lines);
                std::thread::spawn(move || {
                    let mut out = stream.try_clone().unwrap();
                    let (mut input, mut scratch) = (BufReader::new(stream), Scratch::new());
                    let mut line = Vec::new();
                    while input.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                        line.pop();
                        let reply = match Record::parse(&line, &mut scratch) {
                            Ok(_) => OK.to_owned(),
                            Err(rejection) => format!(
                                "{{\"status\":\"error\",\"code\":\"{}\",\"reason\":\"\"}}\n",
                                rejection.code.as_str()
                            ),
                        };
                        lines.lock().unwrap().push(std::mem::take(&mut line));
                        if out.write_all(reply.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        judge
    }
}

/// Files of a test.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn built_ins_are_taken_and_seeds_give_the_same_lines_on_any_number_of_shards() {
    for payload in ["default", "app", "nginx", "syslog", "k8s", "stacktrace", "iot"] {
        let lines_of = |shards: u32| -> BTreeMap<(u64, u64), Value> {
            let judge = Judge::start();
            let args = "-n 600 -c 4 --seed 7 --run-id r --batch-size 50";
            let run = run(judge.port, &format!("{args} --shards {shards} --payload {payload}"));
            assert_eq!((run.code, run.load("ok")), (0, 600), "{payload}: {}", run.json["errors"]);
            let (mean, max) = (&run.json["lines"]["mean_bytes"], &run.json["lines"]["max_bytes"]);
            let lines = judge.lines.lock().unwrap();
            let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
            assert!((mean.as_f64().unwrap() - bytes as f64 / 600.0).abs() < 1e-6, "{mean}");
            let longest = lines.iter().map(|line| line.len() as u64 + 1).max();
            assert_eq!(max.as_u64(), longest);
            let identified = lines.iter().map(|line| {
                let mut value: Value = serde_json::from_slice(line).unwrap();
                // When it was made is not the seed's.
                value.as_object_mut().unwrap().remove("timestamp");
                value.as_object_mut().unwrap().remove("message");
                ((value["conn"].as_u64().unwrap(), value["seq"].as_u64().unwrap()), value)
            });
            identified.collect()
        };
        // How many messages a connection carries is decided by who is quick.
        let (one, two) = (lines_of(1), lines_of(2));
        let common = one.iter().filter(|(of, _)| two.contains_key(of));
        let same = common.clone().filter(|(of, line)| two[of] == **line).count();
        assert_eq!((same, same >= 200), (common.count(), true), "{payload}");
    }
}

#[test]
fn broken_lines_are_rejected_and_counted_apart() {
    let judge = Judge::start();
    let run =
        run(judge.port, "-n 4000 -c 3 --malformed 10% --max-error-rate 0 --slo achieved==100%");
    let malformed = |name: &str| run.json["load"]["malformed"][name].as_u64().unwrap();
    assert_eq!((run.code, run.verdict(), run.load("error")), (0, "pass", 0));
    assert_eq!(run.load("ok") + malformed("rejected"), 4000);
    assert_eq!((malformed("sent"), malformed("accepted")), (malformed("rejected"), 0));
    // Five standard errors of 4,000 draws.
    assert!(malformed("sent").abs_diff(400) < 95, "{}", malformed("sent"));
    let lines = judge.lines.lock().unwrap();
    let code = |line: &Vec<u8>| Some(Record::parse(line, &mut Scratch::new()).err()?.code.as_str());
    let codes: BTreeSet<&str> = lines.iter().filter_map(code).collect();
    let all = ["invalid_field", "invalid_json", "invalid_utf8", "missing_field", "not_an_object"];
    assert_eq!(codes, BTreeSet::from(all));
    assert_eq!(lines.iter().filter(|line| code(line).is_some()).count() as u64, malformed("sent"));
}

#[test]
fn a_target_that_takes_a_broken_line_fails_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut out = stream.try_clone().unwrap();
                for line in BufReader::new(stream).split(b'\n') {
                    if line.is_err() || out.write_all(OK.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let run = run(port, "-n 2000 -c 2 --malformed 10%");
    let accepted = run.json["load"]["malformed"]["accepted"].as_u64().unwrap();
    assert_eq!((run.code, run.verdict()), (10, "fail"));
    assert_eq!(run.error("malformed_accepted"), accepted);
    assert_eq!((run.load("ok") + accepted, run.load("error")), (2000, accepted));
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn a_template_with_a_feeder_is_sent_and_ends_with_its_rows() {
    let rows: String = (0..300).map(|row| format!("d{row},{}\n", row * 2)).collect();
    let files = folder(&[
        ("devices.csv", &format!("id,port\n{rows}")),
        (
            "t.toml",
            r#"
            [feeders.devices]
            file = "devices.csv"
            end = "stop"
            [fields]
            level = "INFO"
            message = "reading of ${devices.id}"
            port = { make = "reference", to = "devices.port", as = "number" }
            "#,
        ),
    ]);
    let server = Server::honest();
    let template = path(&files, "t.toml");
    for load in ["-z 30s -c 3 --shards 2", "-r 1000 -z 30s -c 3"] {
        let before = server.lines().len();
        let run = run(server.port, &format!("{load} --template {template}"));
        assert_eq!((run.code, run.load("ok"), run.load("unsent")), (0, 300, 0));
        assert_eq!(run.json["config"]["flows"][0]["feeder_rows"], 300);
        let lines: Vec<Value> = server.lines()[before..].iter().map(|line| line.json()).collect();
        let ports: BTreeSet<u64> =
            lines.iter().map(|line| line["port"].as_u64().unwrap()).collect();
        assert_eq!(ports, (0..300).map(|row| row * 2).collect(), "each row once");
        assert!(lines.iter().all(|line| {
            let row = line["port"].as_u64().unwrap() / 2;
            line["message"] == format!("reading of d{row}")
        }));
    }
    let port = server.port.to_string();
    let args = ["--server-host", "127.0.0.1", "--server-port", &port, "--template", &template];
    let output = command(&args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("feeder     main ended with the last row, of 300"), "{text}");
    assert!(text.contains("\n  lines      "), "{text}");
}

#[test]
fn a_connection_keeps_its_row_and_no_other_has_it() {
    let files = folder(&[
        ("users.csv", "name\nann\nbob\ncyd\ndan\neve\n"),
        (
            "t.toml",
            r#"
            [feeders.users]
            file = "users.csv"
            per = "connection"
            [fields]
            level = "INFO"
            message = "${users.name} is here"
            "#,
        ),
    ]);
    let server = Server::honest();
    let template = path(&files, "t.toml");
    let run = run(server.port, &format!("-n 2000 -c 5 --shards 2 --template {template}"));
    assert_eq!(run.load("ok"), 2000);
    let mut names: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for line in server.lines() {
        let line = line.json();
        let name = line["message"].as_str().unwrap().to_owned();
        names.entry(line["conn"].as_u64().unwrap()).or_default().insert(name);
    }
    assert!(names.values().all(|names| names.len() == 1), "{names:?}");
    let all: BTreeSet<&String> = names.values().flatten().collect();
    assert_eq!((names.len(), all.len()), (5, 5), "{names:?}");
}

#[test]
fn flows_have_messages_of_their_own() {
    let files = folder(&[
        ("orders.toml", "[fields]\nlevel = \"INFO\"\nmessage = \"an order\"\nkind = \"order\"\n"),
        (
            "scenario.toml",
            r#"
            total_logs = 400
            run_id = "two"
            [[flow]]
            name = "edge"
            payload = "nginx"
            payload_bytes = "1k..2k"
            [[flow]]
            name = "orders"
            template = "ORDERS"
            "#,
        ),
    ]);
    let text = std::fs::read_to_string(path(&files, "scenario.toml")).unwrap();
    let text = text.replace("ORDERS", &path(&files, "orders.toml"));
    std::fs::write(path(&files, "scenario.toml"), text).unwrap();
    let server = Server::start(|_| Do::Say(OK.to_owned()));
    let run = run(server.port, &format!("--scenario {}", path(&files, "scenario.toml")));
    assert_eq!((run.code, run.load("ok")), (0, 800));
    let lines = server.lines();
    let orders: Vec<_> = lines.iter().filter(|line| line.json()["kind"] == "order").collect();
    let edge: Vec<_> = lines.iter().filter(|line| line.json()["client"].is_string()).collect();
    assert_eq!((orders.len(), edge.len()), (400, 400));
    assert!(edge.iter().all(|line| (1023..2048).contains(&line.text.len())));
    assert!(orders.iter().all(|line| line.text.len() < 120));
}

#[test]
fn what_is_wrong_with_a_template_is_said_before_anything_is_sent() {
    let files = folder(&[
        ("wrong.toml", "[fields]\nlevel = \"INFO\"\nn = { make = \"range\", from = 9, to = 1 }\n"),
        ("plain.toml", "text = \"/a/${seq}\"\n"),
    ]);
    let (wrong, plain) = (path(&files, "wrong.toml"), path(&files, "plain.toml"));
    for (args, hints) in [
        (vec!["--template", &wrong], vec!["wrong.toml:3", "fields.n", "from 9", "TEMPLATE"]),
        (vec!["--template", &wrong, "--explain"], vec!["wrong.toml:3", "fields.n"]),
        (vec!["--template", &plain, "--malformed", "1%"], vec!["MALFORMED"]),
        (vec!["--template", &plain, "--payload", "app"], vec!["TEMPLATE", "PAYLOAD app"]),
        (vec!["--payload", "apache"], vec!["apache", "nginx"]),
        (vec!["--target", "null://", "--malformed", "1%"], vec!["MALFORMED 0.01", "null://"]),
        (vec!["--malformed", "2"], vec!["MALFORMED", "\"2\""]),
        (vec!["--payload-bytes", "10..1"], vec!["PAYLOAD_BYTES", "10..1"]),
    ] {
        let output = command(&args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        for hint in hints {
            assert!(text.contains(hint), "{args:?}: {text} lacks {hint}");
        }
    }
    let output = command(&["--template", "/no/such.toml"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/no/such.toml") && text.contains("TEMPLATE"), "{text}");
}

#[test]
fn templates_are_printed_and_explained() {
    let output = command(&["examples", "k8s"]).output().unwrap();
    let template = String::from_utf8(output.stdout).unwrap();
    let files = folder(&[("mine.toml", &template)]);
    let mine = path(&files, "mine.toml");
    let args = ["--template", &mine, "--explain", "--malformed", "2.5%", "--run-id", "r"];
    let output = command(&args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for hint in ["mine.toml says (TEMPLATE)", "bytes each", "pod_name", "2.5 % of them are broken"]
    {
        assert!(text.contains(hint), "{text} lacks {hint}");
    }
    let bare = "identity = false\n[fields]\ntext = \"no record\"\n";
    std::fs::write(&mine, bare).unwrap();
    let output = command(&["--template", &mine, "--explain"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for hint in ["the engine would reject some", "no audit can find who sent a line"] {
        assert!(text.contains(hint), "{text} lacks {hint}");
    }
}
