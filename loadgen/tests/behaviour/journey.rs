//! Journeys, against servers that nobody here wrote, and against one that knows whether a step had
//! what only the step before could have told it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::tool::{Run, command, run_unchecked};
use crate::web::{Caught, Liar, Nginx, Python, ask};

fn steps(run: &Run) -> Vec<(String, u64, u64, u64)> {
    let steps = run.json["steps"].as_array().unwrap();
    let count = |step: &Value, name: &str| step[name].as_u64().unwrap();
    steps
        .iter()
        .map(|step| {
            let times = step["service"]["count"].as_u64().unwrap();
            let name = step["name"].as_str().unwrap().to_owned();
            (name, count(step, "count"), count(step, "ok"), times)
        })
        .collect()
}

fn all(names: &[&str], count: u64) -> Vec<(String, u64, u64, u64)> {
    names.iter().map(|name| ((*name).to_owned(), count, count, count)).collect()
}

#[test]
fn a_reader_comes_back_to_nginx_and_to_python() {
    let test = "journey: simple";
    let mut ports = Vec::new();
    let nginx = Nginx::start(test, "", "keepalive_requests 7;");
    let python = Python::start(test, "HTTP/1.1");
    ports.extend(nginx.as_ref().map(|it| (it.port, "")));
    ports.extend(python.as_ref().map(|it| (it.port, "")));
    for (port, more) in ports {
        let run = run_unchecked(&format!(
            "--target http://127.0.0.1:{port} --journey simple -n 60 -c 3 --quiet {more}"
        ));
        assert_eq!((run.code, run.load("ok")), (0, 60), "{}", run.stderr);
        assert_eq!(steps(&run), all(&["first", "again"], 60));
    }
    if let Some(nginx) = nginx {
        let statuses: Vec<u16> = nginx.seen(120).iter().map(|it| it.status).collect();
        let count = |status| statuses.iter().filter(|it| **it == status).count();
        assert_eq!((count(200), count(304), statuses.len()), (60, 60, 120));
    }
    if let Some(python) = python {
        let statuses = python.statuses(120);
        let count = |status| statuses.iter().filter(|it| **it == status).count();
        assert_eq!((count(200), count(304), statuses.len()), (60, 60, 120));
    }
}

#[test]
fn a_reader_comes_back_to_nginx_over_http2() {
    let Some(nginx) = Nginx::start("journey: http2", "http2", "keepalive_requests 7;") else {
        return;
    };
    let run = run_unchecked(&format!(
        "--target http://127.0.0.1:{} --http2 --journey simple -n 60 -c 3 --quiet",
        nginx.port
    ));
    assert_eq!((run.code, run.load("ok")), (0, 60), "{}", run.stderr);
    assert_eq!(steps(&run), all(&["first", "again"], 60));
    assert_eq!(nginx.seen(120).len(), 120);
}

#[test]
fn every_preset_is_run_by_pythons_server_and_over_http2_by_nginx_before_it() {
    let test = "journey: presets";
    let Some(python) = Python::script(test, include_str!("shop.py")) else { return };
    let pass = format!("location / {{ proxy_pass http://127.0.0.1:{}; }}", python.port);
    let nginx = Nginx::start(test, "http2", &pass);
    let direct = Some((python.port, ""));
    let before = nginx.as_ref().map(|it| (it.port, "--http2"));
    let mut total = BTreeMap::new();
    for (port, flags) in direct.into_iter().chain(before) {
        for (preset, names, requests) in [
            ("simple", &["first", "again"][..], &[("GET ", 2)][..]),
            (
                "medium",
                &["login", "list", "look"],
                &[("POST login", 1), ("GET items", 1), ("GET items/", 1)],
            ),
            (
                "complex",
                &COMPLEX,
                &[
                    ("POST login", 1),
                    ("POST items", 1),
                    ("GET items/", 2),
                    ("PUT items/", 1),
                    ("GET items", 1),
                    ("DELETE items/", 1),
                ],
            ),
        ] {
            let run = run_unchecked(&format!(
                "--target http://127.0.0.1:{port} {flags} --journey {preset} -n 24 -c 3 --quiet"
            ));
            assert_eq!(
                (run.code, run.load("ok")),
                (0, 24),
                "{preset} {flags}: {}",
                run.json["errors"]
            );
            assert_eq!(steps(&run), all(names, 24), "{preset} {flags}");
            for (kind, count) in requests {
                *total.entry((*kind).to_owned()).or_default() += 24 * count;
            }
        }
    }
    let stats = ask(python.port, "/stats");
    let counted: BTreeMap<String, u64> = serde_json::from_str(&stats).unwrap();
    assert_eq!(counted, total, "what the server counted");
}

/// A shop: what it knows of its things, and how many logins there were. A request without the token
/// of a login, or about a thing that is not there, is refused.
#[derive(Default)]
struct Shop {
    logins: u64,
    things: BTreeMap<String, (String, u64)>,
    next: u64,
}

impl Shop {
    fn answer(&mut self, head: &str, body: &[u8]) -> (u16, Option<String>, Value) {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let field = |name: &str| {
            let lines = head.lines().skip(1);
            let mut fields = lines.filter_map(|line| line.split_once(": "));
            fields.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let title = body["title"].as_str().unwrap_or_default().to_owned();
        if path == "/api/login" && method == "POST" {
            self.logins += 1;
            let user = body["user"].as_str().unwrap_or_default();
            return (200, None, json!({ "token": format!("{user}-{}\"", self.logins) }));
        }
        if !field("authorization").is_some_and(|it| it.starts_with("Bearer user")) {
            return (401, None, json!({}));
        }
        let id = path.rsplit(['/', '=']).next().unwrap_or_default().to_owned();
        let told = |id: &str, title: &str| json!({ "id": id, "title": title });
        match (method, path) {
            ("POST", "/api/items") => {
                // An id that only survives where it is written as a URL.
                self.next += 1;
                let id = format!("a {}", self.next);
                assert!(body["message"].as_str().unwrap().starts_with("{\"timestamp\""));
                self.things.insert(format!("a%20{}", self.next), (title.clone(), 1));
                (201, None, told(&id, &title))
            }
            ("GET", _) if path.starts_with("/api/items?id=") => {
                let found = self.things.get(&id).map(|(title, _)| told(&id, title));
                (200, None, json!({ "items": found.into_iter().collect::<Vec<_>>() }))
            }
            ("GET", _) => match self.things.get(&id) {
                Some((title, version)) => (200, Some(format!("\"v{version}\"")), told(&id, title)),
                None => (404, None, json!({})),
            },
            ("PUT", _) => match self.things.get_mut(&id) {
                Some((known, version)) if field("if-match") == Some(format!("\"v{version}\"")) => {
                    known.clone_from(&title);
                    *version += 1;
                    (200, None, told(&id, &title))
                }
                Some(_) => (412, None, json!({})),
                None => (404, None, json!({})),
            },
            ("DELETE", _) if self.things.remove(&id).is_some() => (204, None, Value::Null),
            _ => (404, None, json!({})),
        }
    }
}

/// Serves a shop; `spoil` may change what is answered to the request of that number and head.
fn shop(
    spoil: impl Fn(u64, &str) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> (Liar, Arc<Mutex<Shop>>) {
    let shop: Arc<Mutex<Shop>> = Arc::default();
    let (ours, number) = (Arc::clone(&shop), Mutex::new(0));
    let liar = Liar::start(move |caught: &mut Caught| {
        while let Some((head, body)) = caught.request() {
            let number = {
                let mut number = number.lock().unwrap();
                *number += 1;
                *number - 1
            };
            let (status, tag, body) = match spoil(number, &head) {
                Some((status, body)) => (status, None, body),
                None => ours.lock().unwrap().answer(&head, &body),
            };
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let tag = tag.map(|tag| format!("ETag: {tag}\r\n")).unwrap_or_default();
            let length = text.len();
            let is_said = caught.say(format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{tag}\
                 Content-Length: {length}\r\n\r\n{text}"
            ));
            if !is_said {
                return;
            }
        }
    });
    (liar, shop)
}

const COMPLEX: [&str; 7] = ["login", "create", "read", "change", "find", "remove", "gone"];

#[test]
fn each_step_has_what_only_the_one_before_could_tell_it() {
    let (server, shop) = shop(|_, _| None);
    let run = run_unchecked(&format!(
        "--target http://127.0.0.1:{}/api --journey complex -n 30 -c 3 --quiet",
        server.port
    ));
    assert_eq!((run.code, run.load("ok")), (0, 30), "{} {}", run.json["errors"], run.stderr);
    assert_eq!(steps(&run), all(&COMPLEX, 30));
    let shop = shop.lock().unwrap();
    assert_eq!((shop.logins, shop.next, shop.things.len()), (30, 30, 0));
    // Rests count for the journey, not for its steps: at least 5 ms after two of them.
    assert!(run.latency("service", "min_ns") >= 0.0099);
    let statuses = &run.json["http"]["status"];
    assert!(statuses.is_null() || statuses["404"] == 30, "{statuses}");
}

#[test]
fn a_step_that_fails_ends_its_journey_by_a_code_that_names_it() {
    // Of the logins: every fifth one fails, every fifth one has no token, one in five a wrong one.
    let (server, _) = shop(|_, head| {
        let n: u64 = head.split("x-seq: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        match (head.contains(" /login "), n % 5) {
            (true, 0) => Some((500, json!({ "token": "user" }))),
            (true, 1) => Some((200, json!({}))),
            (true, 2) => Some((200, json!({ "token": "nobody" }))),
            (true, _) => Some((200, json!({ "token": "user\r\nx" })))
                .filter(|_| n % 5 == 3)
                .or(Some((200, json!({ "token": "user" })))),
            (false, _) => Some((200, json!({ "hello": head.contains("Bearer user") }))),
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = r#"
        [[flow]]
        name = "shop"
        [[flow.step]]
        path = "/login"
        body = "{}"
        headers = "x-seq: {{seq}}"
        extract = { token = "/token" }
        [[flow.step]]
        name = "hello"
        path = "/hello"
        headers = ["x-seq: {{seq}}", "authorization: Bearer {{token}}"]
        check = { at = "/hello", equals = true }
    "#;
    std::fs::write(file.path(), text).unwrap();
    let run = run_unchecked(&format!(
        "--scenario {} --target http://127.0.0.1:{} -n 50 -c 1 --quiet",
        file.path().display(),
        server.port
    ));
    assert_eq!((run.load("ok"), run.load("error")), (10, 40), "{}", run.json["errors"]);
    for code in ["step1_http_500", "step1_extract_failed", "step2_check_failed", "step2_bad_value"]
    {
        assert_eq!(run.error(code), 10, "{code}: {}", run.json["errors"]);
    }
    let found = steps(&run);
    assert_eq!(found[0], ("step1".to_owned(), 50, 30, 50));
    assert_eq!(found[1], ("hello".to_owned(), 30, 10, 30));
    assert_eq!(run.json["steps"][0]["errors"]["http_500"], 10);
    assert!(run.stderr.contains("errors"), "{}", run.stderr);
}

#[test]
fn a_cut_and_a_stall_are_told_by_the_step_and_cost_only_their_journey() {
    let server = Liar::start(|caught: &mut Caught| {
        while let Some((head, _)) = caught.request() {
            match (head.split(' ').nth(1).unwrap(), caught.number % 3) {
                ("/2", 0) => return,
                ("/2", 1) => return caught.hold(),
                _ => {}
            }
            // Each connection ends in peace behind its second answer.
            let end = if head.contains(" /2 ") { "Connection: close\r\n" } else { "" };
            caught.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{end}\r\n"));
            if head.contains(" /2 ") {
                return;
            }
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[[flow]]\n[[flow.step]]\npath = \"/1\"\n[[flow.step]]\npath = \"/2\"\n";
    std::fs::write(file.path(), text).unwrap();
    let run = run_unchecked(&format!(
        "--scenario {} --target http://127.0.0.1:{} -n 9 -c 1 --hit-timeout-ms 300 --quiet",
        file.path().display(),
        server.port
    ));
    assert_eq!(run.load("ok"), 3, "{}", run.json["errors"]);
    assert_eq!((run.error("step2_reset"), run.error("step2_timeout")), (3, 3));
}

#[test]
fn journeys_are_printed_and_those_that_make_no_sense_are_refused() {
    let output = command(&["examples"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ["simple", "medium", "complex"] {
        let output = command(&["examples", name]).output().unwrap();
        let alone = String::from_utf8(output.stdout).unwrap();
        assert!(alone.contains(&format!("name = \"{name}\"")) && text.contains(&alone), "{text}");
    }
    for (flags, hint) in [
        ("--target tcp://a:1 --journey simple", "JOURNEY"),
        ("--target http://a --journey long", "JOURNEY"),
        ("--target http://a --journey simple -d x", "BODY beside a journey"),
        ("--target http://a --journey simple --http2 --streams 4", "STREAMS beside a journey"),
    ] {
        let args: Vec<&str> = flags.split(' ').collect();
        let output = command(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags}: {stderr}");
        assert!(stderr.contains(hint), "{flags}: {stderr}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for (step, hint) in [
        ("path = \"/{{token}}\"", "{{token}} is extracted by no step before it"),
        ("path = \"/\"\nbdy = \"\"", "step 1: unknown field `bdy`"),
        ("method = \"GET\"", "step 1: missing field `path`"),
    ] {
        std::fs::write(file.path(), format!("[[flow]]\n[[flow.step]]\n{step}\n")).unwrap();
        let path = file.path().to_str().unwrap();
        let args = ["--scenario", path, "--target", "http://127.0.0.1:1"];
        let output = command(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{step}: {stderr}");
        assert!(stderr.contains(hint), "{step}: {stderr}");
    }
}
