//! Requests that messages fill in: paths, headers and bodies, as servers saw them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use proto::{Record, Scratch};
use serde_json::Value;

use crate::tool::{Run, command, run_unchecked};
use crate::web::{Caught, Liar, Nginx};

const TEMPLATE: &str = r#"
    [feeders.users]
    file = "users.csv"
    end = "stop"
    [values]
    since = { make = "timestamp", format = "%Y-%m-%d %H:%M" }
    [fields]
    level = "INFO"
    message = "orders of ${users.name}"
    user = "${users.name}"
    n = { make = "reference", to = "users.n", as = "number" }
    tags = ["a"]
"#;

/// A template, and 200 users whose names have to be encoded.
fn files() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let rows: String =
        (0..200).map(|n| format!("\"{}\",{n}\n", name(n).replace('"', "\"\""))).collect();
    std::fs::write(folder.path().join("users.csv"), format!("name,n\n{rows}")).unwrap();
    let template = folder.path().join("t.toml");
    std::fs::write(&template, TEMPLATE).unwrap();
    let template = template.to_str().unwrap().to_owned();
    (folder, template)
}

fn name(n: u64) -> String {
    match n % 4 {
        0 => format!("ann {n}"),
        1 => format!("b/ob?{n}&x=#"),
        2 => format!("grün \"{n}\""),
        _ => format!("a\\b\n{n}"),
    }
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap();
        bytes.push(if byte == b'%' { u8::try_from(digit() * 16 + digit()).unwrap() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

fn run(args: &[&str]) -> Run {
    let all = [&["--json", "-", "--quiet"], args].concat();
    let output = command(&all).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Run {
        code: output.status.code().unwrap(),
        json: serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}")),
        stderr,
    }
}

#[test]
fn nginx_is_asked_for_what_each_message_says() {
    let (_folder, template) = files();
    for (listen, flags) in
        [("", "-c 3"), ("", "-c 2 --pipeline 7"), ("http2", "-c 2 --http2 --streams 5")]
    {
        let test = "filled: nginx";
        let Some(nginx) = Nginx::start(test, listen, "location / { return 204; }") else { return };
        let target = format!(
            "http://127.0.0.1:{}/users/${{user}}/orders?from=${{since}}&n=${{n}}",
            nginx.port
        );
        let args = ["--target", &target, "--template", &template, "-z", "30s"];
        let headers = ["-H", "X-Test: n=${n}", "-H", "x-conn: ${conn}"];
        let flags: Vec<&str> = flags.split(' ').collect();
        let run = run(&[&args[..], &headers, &flags].concat());
        assert_eq!((run.code, run.load("ok")), (0, 200), "{} {}", run.stderr, run.json["errors"]);
        let seen = nginx.seen(200);
        let mut users = BTreeSet::new();
        for it in &seen {
            let (user, rest) = it.uri["/users/".len()..].split_once("/orders?from=").unwrap();
            let (since, n) = rest.split_once("&n=").unwrap();
            assert_eq!(decoded(user), name(n.parse().unwrap()), "{}", it.uri);
            assert_eq!(it.x_test, format!("n={n}"));
            assert!(since.contains("%20") && since.contains("%3A"), "{since}");
            assert_eq!((&*it.method, &*it.content_length), ("GET", "-"));
            users.insert(decoded(user));
        }
        assert_eq!((seen.len(), users.len()), (200, 200), "each row once");
    }
}

#[test]
fn a_request_brings_the_message_that_fills_it_in() {
    let (_folder, template) = files();
    for flags in ["-c 3", "-c 2 --pipeline 9", "-c 2 -r 2000", "-c 1 -m PUT"] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&seen);
        let server = Liar::start(move |caught: &mut Caught| {
            while let Some(request) = caught.request() {
                ours.lock().unwrap().push(request);
                caught.say("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let target = format!("http://127.0.0.1:{}/n/${{n}}", server.port);
        let mut args = vec!["--target", &target, "--template", &template, "-z", "30s"];
        args.extend(["-H", "X-User: ${user}"]);
        args.extend(flags.split(' '));
        if !flags.contains("-m") {
            args.extend(["-m", "POST"]);
        }
        let run = run(&args);
        assert_eq!((run.code, run.load("ok")), (0, 200), "{} {}", run.stderr, run.json["errors"]);
        let seen = seen.lock().unwrap();
        let mut numbers = BTreeSet::new();
        for (head, body) in seen.iter() {
            let body: Value = serde_json::from_slice(body).unwrap();
            let n = body["n"].as_u64().unwrap();
            let method = if flags.contains("PUT") { "PUT" } else { "POST" };
            assert!(head.starts_with(&format!("{method} /n/{n} HTTP/1.1\r\n")), "{head}");
            assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
            // A header may hold anything that does not end its line.
            let expected = name(n).replace('\n', "%0A");
            assert!(head.contains(&format!("\r\nX-User: {expected}\r\n")), "{head}");
            assert_eq!(body["user"], name(n));
            assert!(body["run"].is_string() && body["conn"].is_u64() && body["seq"].is_u64());
            numbers.insert(n);
        }
        assert_eq!((seen.len(), numbers.len()), (200, 200), "each row once");
        let bytes: usize = seen.iter().map(|(_, body)| body.len()).sum();
        let mean = run.json["lines"]["mean_bytes"].as_f64().unwrap();
        assert!((mean - bytes as f64 / 200.0).abs() < 1e-6, "{mean}");
    }
}

#[test]
fn a_payload_and_no_more_is_posted_one_a_request() {
    let (_folder, template) = files();
    let test = "filled: bodies over HTTP/2";
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "text = \"PUT ${seq}\"\n").unwrap();
    let text = text.path().to_str().unwrap();
    for (listen, flags) in [("", ""), ("http2", "--http2 --streams 3")] {
        let server = "location / { return 204; }";
        let Some(nginx) = Nginx::start(test, listen, server) else { return };
        let target = format!("http://127.0.0.1:{}/in", nginx.port);
        let mut total = 0;
        for (payload, range) in [
            (["--payload", "nginx"], 100..1000),
            (["--payload-bytes", "2000"], 1999..2000),
            (["--template", text], 5..6),
            (["--template", &template], 40..200),
        ] {
            let mut args = vec!["--target", &target, "-n", "10", "-c", "1"];
            args.extend(payload);
            args.extend(flags.split_whitespace());
            let run = run(&args);
            assert_eq!((run.code, run.load("ok")), (0, 10), "{payload:?}: {}", run.stderr);
            for it in &nginx.seen(total + 10)[usize::try_from(total).unwrap()..] {
                let length: u64 = it.content_length.parse().unwrap();
                assert!(range.contains(&length), "{payload:?}: {length}");
                assert_eq!((&*it.method, &*it.uri), ("POST", "/in"));
            }
            total += 10;
        }
        assert_eq!(nginx.seen(total).len() as u64, total);
    }
}

/// Takes what the engine would take, else says 422; or takes everything.
fn judge(takes_all: bool) -> (Liar, Arc<Mutex<BTreeMap<u16, u64>>>) {
    let seen: Arc<Mutex<BTreeMap<u16, u64>>> = Arc::default();
    let ours = Arc::clone(&seen);
    let server = Liar::start(move |caught: &mut Caught| {
        while let Some((_, body)) = caught.request() {
            let body = body.strip_suffix(b"\n").unwrap_or(&body);
            let is_record = Record::parse(body, &mut Scratch::new()).is_ok();
            let status = if is_record || takes_all { 200 } else { 422 };
            *ours.lock().unwrap().entry(status).or_default() += 1;
            caught.say(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    (server, seen)
}

#[test]
fn broken_bodies_are_expected_to_be_refused() {
    for flags in ["-m POST", "-m POST --pipeline 8", "--ndjson --batch-size 1"] {
        let (server, seen) = judge(false);
        let target = format!("http://127.0.0.1:{}/", server.port);
        let run = run_unchecked(&format!(
            "--target {target} -n 2000 -c 3 --malformed 10% --max-error-rate 0 {flags}"
        ))
        .checked();
        let malformed = |name: &str| run.json["load"]["malformed"][name].as_u64().unwrap();
        assert_eq!((run.code, run.load("error")), (0, 0), "{flags}: {}", run.json["errors"]);
        assert_eq!(run.load("ok") + malformed("rejected"), 2000, "{flags}");
        assert_eq!((malformed("sent"), malformed("accepted")), (malformed("rejected"), 0));
        // Five standard errors of 2,000 draws.
        assert!(malformed("sent").abs_diff(200) < 70, "{}", malformed("sent"));
        let seen = seen.lock().unwrap();
        assert_eq!((seen[&200], seen[&422]), (run.load("ok"), malformed("rejected")));
    }
    for flags in ["-m POST", "--ndjson --batch-size 1"] {
        let (server, _) = judge(true);
        let target = format!("http://127.0.0.1:{}/", server.port);
        let run = run_unchecked(&format!("--target {target} -n 500 -c 2 --malformed 20% {flags}"))
            .checked();
        let accepted = run.json["load"]["malformed"]["accepted"].as_u64().unwrap();
        assert_eq!((run.code, run.error("malformed_accepted")), (10, accepted), "{flags}");
        assert!(accepted > 50 && run.load("ok") + accepted == 500, "{accepted}");
    }
}

#[test]
fn broken_bodies_are_refused_over_http2_as_well() {
    let (server, seen) = judge(false);
    let pass = format!("location / {{ proxy_pass http://127.0.0.1:{}; }}", server.port);
    let test = "filled: broken bodies over HTTP/2";
    let Some(nginx) = Nginx::start(test, "http2", &pass) else { return };
    for flags in ["-m POST --streams 6", "--ndjson --batch-size 1"] {
        seen.lock().unwrap().clear();
        let target = format!("http://127.0.0.1:{}/", nginx.port);
        let run = run_unchecked(&format!(
            "--target {target} --http2 -n 600 -c 2 --malformed 10% --max-error-rate 0 {flags}"
        ))
        .checked();
        let malformed = |name: &str| run.json["load"]["malformed"][name].as_u64().unwrap();
        assert_eq!((run.code, run.load("error")), (0, 0), "{flags}: {}", run.json["errors"]);
        assert_eq!(run.load("ok") + malformed("rejected"), 600, "{flags}");
        assert!(malformed("sent") == malformed("rejected") && malformed("sent") > 20);
        let seen = seen.lock().unwrap();
        assert_eq!((seen[&200], seen[&422]), (run.load("ok"), malformed("rejected")));
    }
}

#[test]
fn it_is_told_in_words_and_what_makes_no_sense_is_refused() {
    let (_folder, template) = files();
    let explained = |args: &[&str]| {
        let output = command(&[args, &["--explain", "--run-id", "r"]].concat()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = explained(&["--target", "http://a/u/${user}", "--template", &template]);
    for hint in ["GET without a body", "TARGET such as /u/ann%200", "feeder users: 200 rows"] {
        assert!(text.contains(hint), "{text} lacks {hint}");
    }
    let secret = ["-H", "Authorization: Bearer ${user}", "-m", "POST"];
    let text =
        explained(&[&["--target", "http://a/", "--template", &template][..], &secret].concat());
    for hint in ["POST with a message as body", "such as (hidden)", "\"user\":\"ann 0\""] {
        assert!(text.contains(hint), "{text} lacks {hint}");
    }
    let text = explained(&["--target", "http://a/${seq}"]);
    assert!(text.contains("TARGET such as /0\n"), "{text}");

    let with = |more: &[&'static str]| [&["--target", "http://a/"], more].concat();
    let named =
        |target: &'static str, more: &[&'static str]| [&["--target", target], more].concat();
    for (args, hint) in [
        (with(&["--payload", "app", "-m", "GET"]), "PAYLOAD app"),
        (with(&["--payload", "app", "-d", "x"]), "BODY says what they hold"),
        (named("http://a/${seq}", &["--malformed", "1%"]), "MALFORMED 0.01"),
        (named("http://a/${seq}", &["--payload-bytes", "1k"]), "PAYLOAD_BYTES"),
        (named("http://a/${nobody}", &[]), "TARGET \"/${nobody}\": ${nobody} is no field"),
        (named("http://a/${seq", &[]), "TARGET \"/${seq\": has a ${ without its }"),
        (named("http://${seq}/", &[]), "is not http://host:port/path"),
        (named("http://a/${seq}", &["--ndjson"]), "NDJSON"),
        (named("http://a/${seq}", &["--journey", "simple"]), "{{name}}"),
        (named("http://a/${seq}", &["--replay", "x"]), "REPLAY"),
        (with(&["-H", "x: ${nobody}"]), "HEADER \"x\" \"${nobody}\": ${nobody}"),
        (with(&["-H", "cookie: s3cr3t ${nobody}"]), "HEADER \"cookie\": ${nobody}"),
        (named("http://localhost/", &["--http2", "-H", "host: ${seq}"]), "HEADER \"host\""),
        (named("http://a/${request}", &["--payload", "app"]), "TARGET \"/${request}\""),
    ] {
        let output = command(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(hint) && !stderr.contains("s3cr3t"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_brace_that_stands_for_itself_is_sent() {
    let server = Liar::start(|caught: &mut Caught| {
        while let Some((head, _)) = caught.request() {
            let is_right = head.starts_with("GET /a/${b}?{c} ") && head.contains("\r\nx: ${y}\r\n");
            let status = if is_right { 200 } else { 400 };
            caught.say(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let target = format!("http://127.0.0.1:{}/a/$${{b}}?{{c}}", server.port);
    let run = run(&["--target", &target, "-H", "x: $${y}", "-n", "20", "-c", "2"]);
    assert_eq!((run.code, run.load("ok")), (0, 20), "{}", run.json["errors"]);
}
