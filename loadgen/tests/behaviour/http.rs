//! HTTP against nginx and Python's http.server: what they log is what the generator counted.

use crate::keys::Keys;
use crate::tool::{Run, command, run_unchecked};
use crate::web::{Caught, Liar, Nginx, Python};

/// A run against `scheme://127.0.0.1:port` and what follows.
fn run(target: &str, more: &str) -> Run {
    run_unchecked(&format!("--target {target} {more}")).checked()
}

fn http(port: u16, rest: &str) -> Run {
    run(&format!("http://127.0.0.1:{port}{rest}"), "")
}

fn statuses(run: &Run) -> Vec<(String, u64)> {
    let all = run.json["http"]["statuses"].as_object();
    all.into_iter().flatten().map(|(status, n)| (status.clone(), n.as_u64().unwrap())).collect()
}

fn only(status: u16, count: u64) -> Vec<(String, u64)> {
    vec![(status.to_string(), count)]
}

#[test]
fn every_request_is_in_nginx_log_with_its_status() {
    let test = "http::every_request_is_in_nginx_log_with_its_status";
    let server = "location = /moved { return 302 /; } location = /sick { return 503; }";
    let Some(nginx) = Nginx::start(test, "", server) else { return };
    let mut total = 0;
    for (rest, sent, status) in [
        ("/ -n 600 -c 8", 600, 200),
        ("/none?a=b -n 150 -c 3", 150, 404),
        ("/ -n 450 -c 3 --pipeline 10", 450, 200),
        ("/ -n 100 -c 2 -r 500", 100, 200),
        ("/ -n 60 -c 2 -m HEAD", 60, 200),
        ("/moved -n 50 -c 2", 50, 302),
        ("/sick -n 50 -c 2", 50, 503),
        ("/ -n 40 -c 2 -H Connection:close", 40, 200),
    ] {
        let run = http(nginx.port, rest);
        let ok = if status == 200 { sent } else { 0 };
        assert_eq!(
            (run.load("sent"), run.load("ok")),
            (sent, ok),
            "{rest}: {}",
            run.json["errors"]
        );
        assert_eq!(statuses(&run), only(status, sent), "{rest}");
        let class = format!("{}xx", status / 100);
        assert_eq!(run.json["http"]["classes"][&class], sent, "{rest}");
        assert_eq!(run.error(&format!("http_{status}")), sent - ok, "{rest}");
        assert_eq!(run.code, if status == 200 { 0 } else { 10 }, "{rest}: {}", run.stderr);
        let seen = nginx.seen(total + sent);
        assert_eq!(seen.len() as u64, total + sent, "{rest}");
        let (path, flags) = rest.split_once(' ').unwrap();
        let method = if flags.contains("HEAD") { "HEAD" } else { "GET" };
        for it in &seen[usize::try_from(total).unwrap()..] {
            assert_eq!((it.status, &*it.uri, &*it.method), (status, path, method));
        }
        total += sent;
    }
}

#[test]
fn a_server_that_closes_now_and_then_costs_no_request() {
    let test = "http::a_server_that_closes_now_and_then_costs_no_request";
    let Some(nginx) = Nginx::start(test, "", "keepalive_requests 7;") else { return };
    let run = http(nginx.port, "/ -n 500 -c 4");
    assert_eq!((run.load("ok"), run.load("error")), (500, 0), "{}", run.json["errors"]);
    let seen = nginx.seen(500);
    assert_eq!(seen.len(), 500);
    let mut connections: Vec<u64> = seen.iter().map(|it| it.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert!((500 / 7..=500 / 7 + 4).contains(&connections.len()), "{}", connections.len());
}

#[test]
fn chunked_and_close_delimited_bodies_are_read_to_their_ends() {
    let test = "http::chunked_and_close_delimited_bodies_are_read_to_their_ends";
    let server = "gzip on; gzip_types text/plain; types { text/plain txt; }
        location /old/ { alias {dir}/html/; chunked_transfer_encoding off; }";
    let Some(nginx) = Nginx::start(test, "", server) else { return };
    let mut total = 0;
    // Packed by gzip nobody knows its length: in chunks, or until the connection ends.
    for (path, connections) in [("/long.txt", 4), ("/old/long.txt", 100)] {
        let run = http(nginx.port, &format!("{path} -n 100 -c 4 -H Accept-Encoding:gzip"));
        assert_eq!((run.load("ok"), run.load("sent")), (100, 100), "{}", run.json["errors"]);
        let seen = nginx.seen(total + 100);
        let mut used: Vec<u64> =
            seen.iter().filter(|it| it.uri == path).map(|it| it.connection).collect();
        assert_eq!(used.len(), 100);
        used.dedup();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), connections, "{path}");
        total += 100;
    }
}

#[test]
fn headers_bodies_and_tokens_arrive() {
    let test = "http::headers_bodies_and_tokens_arrive";
    let server = "location = /post { return 204; }";
    let Some(nginx) = Nginx::start(test, "", server) else { return };
    let body = nginx.path("body");
    std::fs::write(&body, "x".repeat(100_000)).unwrap();
    let token = nginx.path("token");
    std::fs::write(&token, "from-a-file\n").unwrap();
    let url = format!("http://127.0.0.1:{}/post", nginx.port);
    let body = format!("@{}", body.display());
    let all = [
        (vec!["-d", "abc", "-H", "X-Test: one two"], "POST", "3", "-", "one two"),
        (vec!["-m", "PUT", "-d", &body], "PUT", "100000", "-", "-"),
        (vec!["--auth-token-file", token.to_str().unwrap()], "GET", "-", "Bearer from-a-file", "-"),
    ];
    for (index, (flags, method, length, authorization, x_test)) in all.into_iter().enumerate() {
        let mut args = vec!["--target", &url, "-n", "20", "-c", "2", "--json", "-"];
        args.extend(flags);
        let output = command(&args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen = nginx.seen(20 * (index as u64 + 1)).split_off(20 * index);
        assert_eq!(seen.len(), 20);
        for it in seen {
            assert_eq!((it.status, &*it.method, &*it.content_length), (204, method, length));
            assert_eq!((&*it.authorization, &*it.x_test), (authorization, x_test));
        }
    }
}

#[test]
fn a_token_is_sent_and_never_shown() {
    const TOKEN: &str = "s3cr3t-t0k3n";
    let server = Liar::start(|caught: &mut Caught| {
        while let Some((head, _)) = caught.request() {
            let is_there = head.contains(&format!("\r\nAuthorization: Bearer {TOKEN}\r\n"));
            let status = if is_there { "204 ok" } else { "401 no" };
            caught.say(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let url = format!("http://127.0.0.1:{}", server.port);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let base = ["--target", &url, "-n", "10", "-c", "1"];
    let mut shown = Vec::new();
    let ways: [&[&str]; 6] = [
        &["--json", "-", "--out", out.to_str().unwrap()],
        &["--print-config"],
        &["--print-config=json"],
        &["--explain"],
        &["--help"],
        &["--events", "ndjson"],
    ];
    for more in ways {
        let args: Vec<&str> = base.iter().chain(more).copied().collect();
        let output = command(&args).env("AUTH_TOKEN", TOKEN).output().unwrap();
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        shown.extend(output.stdout);
        shown.extend(output.stderr);
    }
    // Wrong ones are not shown either.
    for (flag, code) in [("--auth-token=s3cr3t-t0k3n x", 2), ("--auth-token=s3cr3t-t0k3n\u{7}", 2)]
    {
        let output = command(&[&base[..], &[flag]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stderr).contains("AUTH_TOKEN"));
        shown.extend(output.stderr);
    }
    for file in std::fs::read_dir(&out).unwrap() {
        shown.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    assert!(!String::from_utf8_lossy(&shown).contains("s3cr3t"));
}

#[test]
fn log_lines_go_as_bodies_of_requests() {
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = lines.clone();
    let server = Liar::start(move |caught: &mut Caught| {
        while let Some((head, body)) = caught.request() {
            assert!(head.starts_with("POST /bulk HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("\r\nContent-Type: application/x-ndjson\r\n"), "{head}");
            let body = String::from_utf8(body).unwrap();
            assert!(body.ends_with('\n') && body.lines().count() <= 7);
            seen.lock().unwrap().extend(body.lines().map(str::to_owned));
            // Its answer counts for each of them.
            caught.say("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let run = http(server.port, "/bulk --ndjson -n 100 -c 2 --batch-size 7");
    assert_eq!((run.load("ok"), run.code), (100, 0), "{}", run.stderr);
    let mut ids: Vec<(u64, u64)> = lines
        .lock()
        .unwrap()
        .iter()
        .map(|line| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            (json["conn"].as_u64().unwrap(), json["seq"].as_u64().unwrap())
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100, "each line once");
    let responses = run.json["http"]["statuses"]["202"].as_u64().unwrap();
    assert!((15..=20).contains(&responses), "{responses}");
}

#[test]
fn https_trusts_its_own_authority_and_shows_a_certificate() {
    let test = "http::https_trusts_its_own_authority_and_shows_a_certificate";
    let (keys, clients) = (Keys::new("127.0.0.1"), Keys::new("client"));
    let file = |keys: &Keys, name: &str| keys.path(name).display().to_string();
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; \
         ssl_verify_client optional; keepalive_requests 20;",
        file(&keys, "server.crt"),
        file(&keys, "server.key"),
        file(&clients, "ca.crt"),
    );
    let Some(nginx) = Nginx::start(test, "ssl", &server) else { return };
    let url = format!("https://127.0.0.1:{}/", nginx.port);
    let trust = format!("--ca-cert-path {}", file(&keys, "ca.crt"));
    let with = format!(
        "--client-cert-path {} --client-key-path {}",
        file(&clients, "client.crt"),
        file(&clients, "client.key")
    );
    let mut total = 0;
    for (more, verify) in [("", "NONE"), (&*with, "SUCCESS"), ("--pipeline 4", "NONE")] {
        let run = run(&url, &format!("{trust} {more} -n 80 -c 2"));
        assert_eq!((run.load("ok"), run.code), (80, 0), "{} {}", run.stderr, run.json["errors"]);
        let seen = nginx.seen(total + 80).split_off(usize::try_from(total).unwrap());
        assert_eq!(seen.len(), 80);
        assert!(seen.iter().all(|it| it.client_verify == verify), "{:?}", seen[0]);
        total += 80;
    }
    let stranger = Keys::new("127.0.0.1");
    let doubt = format!("--ca-cert-path {}", file(&stranger, "ca.crt"));
    let run = run(&url, &format!("{doubt} -n 5 -c 1 --connect-timeout-secs 500ms"));
    assert_eq!((run.code, run.load("ok")), (15, 0));
    assert!(run.stderr.contains("certificate is not accepted"), "{}", run.stderr);
    assert_eq!(nginx.seen(total).len() as u64, total);
}

#[test]
fn https_trusts_what_the_system_trusts_where_no_file_is_given() {
    let test = "http::https_trusts_what_the_system_trusts_where_no_file_is_given";
    let keys = Keys::new("127.0.0.1");
    let [certificate, key, ca] = ["server.crt", "server.key", "ca.crt"].map(|it| keys.path(it));
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    let Some(nginx) = Nginx::start(test, "ssl http2", &server) else { return };
    let url = format!("https://127.0.0.1:{}/", nginx.port);
    let empty = tempfile::NamedTempFile::new().unwrap();
    let mut total: u64 = 0;
    for more in [&[][..], &["--http2"]] {
        let args = ["--target", &url, "-n", "20", "-c", "2", "--connect-timeout-secs", "1"];
        let with = |name: &str, path: &std::path::Path| {
            let output = command(&[&args[..], more].concat()).env(name, path).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(text).unwrap())
        };
        let (code, text) = with("SSL_CERT_FILE", &ca);
        total += 20;
        assert_eq!((code, nginx.seen(total).len() as u64), (Some(0), total), "{text}");
        // A stranger's authority, or the real ones of this system, do not vouch for it.
        let (code, text) = with("SSL_CERT_FILE", &Keys::new("127.0.0.1").path("ca.crt"));
        assert_eq!(code, Some(15), "{text}");
        assert!(text.contains("certificate is not accepted"), "{text}");
        let (code, text) = with("SSL_CERT_FILE", empty.path());
        assert_eq!(code, Some(3), "{text}");
        for hint in ["ca-certificates", "SSL_CERT_FILE", "CA_CERT_PATH"] {
            assert!(text.contains(hint), "{text} lacks {hint}");
        }
    }
}

#[test]
fn http_at_a_port_of_https_is_told() {
    let test = "http::http_at_a_port_of_https_is_told";
    let keys = Keys::new("127.0.0.1");
    let [certificate, key] = ["server.crt", "server.key"].map(|name| keys.path(name));
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    let Some(nginx) = Nginx::start(test, "ssl", &server) else { return };
    // nginx says so in HTTP.
    let run = http(nginx.port, "/ -n 10 -c 1");
    assert_eq!((run.load("ok"), run.error("http_400")), (0, 10));
}

#[test]
fn pythons_server_logs_what_was_sent() {
    for protocol in ["HTTP/1.0", "HTTP/1.1"] {
        let test = "http::pythons_server_logs_what_was_sent";
        let Some(python) = Python::start(test, protocol) else { return };
        let mut total = 0;
        for (rest, sent, status) in
            [("/ -n 60 -c 3", 60, 200), ("/none -n 20 -c 2 --max-error-rate 100%", 20, 404)]
        {
            let run = http(python.port, rest);
            let ok = if status == 200 { sent } else { 0 };
            assert_eq!((run.load("sent"), run.load("ok")), (sent, ok), "{protocol} {rest}");
            assert_eq!((statuses(&run), run.code), (only(status, sent), 0), "{protocol} {rest}");
            let seen = python.statuses(total + sent);
            assert_eq!(seen.len() as u64, total + sent, "{protocol} {rest}");
            assert!(seen[usize::try_from(total).unwrap()..].iter().all(|it| *it == status));
            total += sent;
        }
        // It has no answer to a POST but 501.
        let run = http(python.port, "/ -n 10 -c 1 -d abc");
        assert_eq!((statuses(&run), run.error("http_501")), (only(501, 10), 10), "{protocol}");
        assert_eq!(python.statuses(total + 10).len() as u64, total + 10);
    }
}

#[test]
fn what_makes_no_sense_is_named_with_its_knob() {
    for (args, words) in [
        ("--target http://a -H nocolon", "--header"),
        ("--target http://a -H a:b:c -H Content-Length:3", "HEADER \"Content-Length\""),
        ("--target http://a -m GE(T", "METHOD"),
        ("--target http://a -m CONNECT", "tunnel"),
        ("--target http://a/b%20c/ä", "TARGET"),
        ("--target http://user:secret@a/", "AUTH_TOKEN"),
        ("--target http://a --pipeline 0", "PIPELINE 0"),
        ("--target http://a --ndjson --pipeline 2", "PIPELINE 2"),
        ("--target http://a --ndjson -d x", "BODY"),
        ("--target http://a --durability durable", "DURABILITY"),
        ("--target http://a --replies range", "REPLIES"),
        ("--target http://a --compress", "COMPRESS"),
        ("--target http://a -m GET --payload-bytes 500", "PAYLOAD_BYTES 500"),
        ("--target http://a --hit-timeout-ms 0", "HIT_TIMEOUT_MS 0"),
        ("--target http://a --auth-token a --auth-token-file b", "AUTH_TOKEN_FILE"),
        ("--target http://a --auth-token a -H authorization:b", "HEADER \"authorization\""),
        ("--target http://a --client-cert-path a --client-key-path b", "CLIENT_CERT_PATH"),
        ("--target tcp://a -m GET", "METHOD"),
        ("--target tcp://a -H a:b", "HEADER"),
        ("--target udp://a -d b", "BODY"),
        ("--ndjson", "NDJSON"),
        ("--target null:// --pipeline 2", "PIPELINE"),
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let output = command(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
    let output =
        command(&["--target", "http://127.0.0.1:1", "-d", "@/nowhere/x"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && stderr.contains("(BODY)"), "{stderr}");
}
