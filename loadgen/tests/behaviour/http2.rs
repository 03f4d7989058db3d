//! HTTP/2 against nginx, and against servers that end streams and connections at will.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::h2_server::{Do, H2Server};
use crate::keys::Keys;
use crate::tool::{Run, run_unchecked};
use crate::web::{Caught, Liar, Nginx};

fn run(target: &str, more: &str) -> Run {
    run_unchecked(&format!("--target {target} --http2 --quiet {more}"))
}

const AT_ONCE: Do = Do::Answer(200, Duration::ZERO);

#[test]
fn nginx_logs_what_was_sent_over_tls_and_its_connections_end_in_peace() {
    let test = "http2: nginx over TLS";
    let keys = Keys::new("127.0.0.1");
    let (certificate, key) = (keys.path("server.crt"), keys.path("server.key"));
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {}; keepalive_requests 50;\n\
         location = /made {{ return 201; }} location = /no {{ return 503 no; }}",
        certificate.display(),
        key.display()
    );
    let Some(nginx) = Nginx::start(test, "ssl http2", &server) else { return };
    let ca = keys.path("ca.crt");
    let base = format!("https://127.0.0.1:{}", nginx.port);
    let flags = format!("--ca-cert-path {} -n 600 -c 3", ca.display());

    let plain = run(&format!("{base}/long.txt?a=b"), &flags);
    assert_eq!((plain.code, plain.load("ok")), (0, 600), "{}", plain.stderr);
    let seen = nginx.seen(600);
    assert_eq!(seen.len(), 600, "a request more, or one less");
    assert!(seen.iter().all(|it| it.status == 200 && it.uri == "/long.txt?a=b"));

    let streams = run(&format!("{base}/made"), &format!("{flags} --streams 20 -m PUT -d abc"));
    assert_eq!((streams.code, streams.load("ok")), (0, 600), "{}", streams.stderr);
    let seen = nginx.seen(1200);
    // What a connection that ends in peace gives back goes again, and is logged once.
    let made: Vec<_> = seen.iter().filter(|it| it.uri == "/made").collect();
    assert_eq!((made.len(), seen.len()), (600, 1200));
    assert!(made.iter().all(|it| it.method == "PUT" && it.content_length == "3"));

    let no = run(&format!("{base}/no"), &format!("{flags} --streams 5"));
    assert_eq!((no.code, no.load("error"), no.error("http_503")), (10, 600, 600));
    assert_eq!(nginx.seen(1800).len(), 1800);
}

#[test]
fn nginx_speaks_it_in_the_open_and_takes_log_lines() {
    let test = "http2: nginx in the open";
    let lines = "client_max_body_size 4m; location /lines { return 204; }";
    let Some(nginx) = Nginx::start(test, "http2", lines) else { return };
    let base = format!("http://127.0.0.1:{}", nginx.port);
    let plain = run(&base, "-n 300 -c 2 --streams 8");
    assert_eq!((plain.code, plain.load("ok")), (0, 300), "{}", plain.stderr);
    assert_eq!(nginx.seen(300).len(), 300);
    let lines = run(&format!("{base}/lines"), "--ndjson -n 1000 -c 2 --batch-size 50");
    assert_eq!((lines.code, lines.load("ok")), (0, 1000), "{}", lines.stderr);
    let seen = nginx.seen(320);
    assert_eq!(seen.len(), 320);
    let bytes: u64 = seen[300..].iter().map(|it| it.content_length.parse::<u64>().unwrap()).sum();
    assert!((1000 * 150..1000 * 260).contains(&bytes), "{bytes}");
}

#[test]
fn as_many_requests_are_on_their_way_as_both_ends_allow() {
    let wait = Duration::from_millis(20);
    for (granted, most) in [(100, 10), (4, 4)] {
        let server = H2Server::start(granted, u64::MAX, move |_| Do::Answer(200, wait));
        let run = run(&format!("http://127.0.0.1:{}", server.port), "-n 100 -c 1 --streams 10");
        assert_eq!((run.code, run.load("ok")), (0, 100), "{}", run.stderr);
        assert_eq!(server.seen.most.load(Ordering::Relaxed), most);
        assert_eq!(server.seen.connections.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn waiting_for_a_stream_is_lag_and_no_time_of_the_server() {
    // Ten are due at once; four may be there at a time, for 200 ms each.
    let wait = Duration::from_millis(200);
    let server = H2Server::start(4, u64::MAX, move |_| Do::Answer(200, wait));
    let run = run(&format!("http://127.0.0.1:{}", server.port), "-n 20 -c 1 --streams 10");
    assert_eq!((run.code, run.load("ok")), (0, 20), "{}", run.stderr);
    assert_eq!(server.seen.most.load(Ordering::Relaxed), 4);
    // The last of ten waits for two others.
    assert!(run.latency("response", "max_ns") >= 0.6);
    assert!(run.latency("lag", "max_ns") >= 0.4);
    assert!(run.latency("service", "p50_ns") < 0.4, "{}", run.latency("service", "p50_ns"));
    let causes = &run.json["latency"]["lag"]["causes"];
    assert!(causes["window_full"]["max_ns"].as_u64() >= Some(399_000_000), "{causes}");
}

#[test]
fn a_limit_that_a_server_lowers_is_kept() {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    // A frame of settings that allows so many streams.
    let allow = |streams: u8| [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, streams];
    let server = Liar::start(move |caught: &mut Caught| {
        caught.bytes(24);
        caught.say(allow(50));
        let mut is_first = true;
        while let Some(frame) = caught.bytes(9) {
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
            caught.bytes(usize::try_from(length).unwrap());
            match (frame[3], frame[4]) {
                // Without its acknowledgement.
                (SETTINGS, 0) => assert!(caught.say([0, 0, 0, SETTINGS, 1, 0, 0, 0, 0])),
                (HEADERS, _) => {
                    // One after the other, 50 ms each: `:status: 200`, and nothing behind it.
                    std::thread::sleep(Duration::from_millis(50));
                    let mut answer = vec![0, 0, 1, HEADERS, 5];
                    answer.extend_from_slice(&frame[5..9]);
                    answer.push(0x88);
                    if std::mem::take(&mut is_first) {
                        answer.extend(allow(1));
                    }
                    caught.say(answer);
                }
                _ => {}
            }
        }
    });
    let run = run(&format!("http://127.0.0.1:{}", server.port), "-n 60 -c 1 --streams 10");
    assert_eq!((run.code, run.load("ok")), (0, 60), "{} {}", run.stderr, run.json["errors"]);
    // Ten were there at once, up to 500 ms each; of the other fifty one at a time.
    assert!(run.latency("service", "p50_ns") < 0.2, "{}", run.latency("service", "p50_ns"));
    assert!(run.latency("lag", "max_ns") > 0.4);
}

#[test]
fn answers_that_overtake_others_are_timed_by_themselves() {
    // Every tenth request is slow: the nine that came with it are not.
    let server = H2Server::start(100, u64::MAX, |number| {
        Do::Answer(200, if number % 10 == 0 { Duration::from_millis(300) } else { Duration::ZERO })
    });
    let run = run(&format!("http://127.0.0.1:{}", server.port), "-n 50 -c 1 --streams 10");
    assert_eq!((run.code, run.load("ok")), (0, 50), "{}", run.stderr);
    assert!(run.latency("service", "p50_ns") < 0.3);
    assert!(run.latency("service", "max_ns") >= 0.3);
}

#[test]
fn streams_that_are_reset_and_statuses_are_errors_by_their_code() {
    let server = H2Server::start(100, u64::MAX, |number| match number % 4 {
        0 => Do::Reset(h2::Reason::REFUSED_STREAM),
        1 => Do::Reset(h2::Reason::ENHANCE_YOUR_CALM),
        2 => Do::Answer(404, Duration::ZERO),
        _ => AT_ONCE,
    });
    let run = run(&format!("http://127.0.0.1:{}", server.port), "-n 400 -c 2 --streams 10");
    assert_eq!((run.load("ok"), run.load("error")), (100, 300), "{}", run.json["errors"]);
    let codes = ["h2_reset_refused_stream", "h2_reset_enhance_your_calm", "http_404"];
    assert_eq!(codes.map(|code| run.error(code)), [100; 3], "{}", run.json["errors"]);
    assert_eq!(server.seen.connections.load(Ordering::Relaxed), 2);
}

#[test]
fn a_connection_that_ends_in_peace_costs_no_request() {
    let server = H2Server::start(100, 7, |_| Do::Answer(200, Duration::from_millis(1)));
    let flags = "-n 500 -c 2 --streams 5 -d 0123456789";
    let run = run(&format!("http://127.0.0.1:{}", server.port), flags);
    assert_eq!((run.code, run.load("ok")), (0, 500), "{}", run.json["errors"]);
    assert_eq!(server.seen.requests.load(Ordering::Relaxed), 500);
    assert_eq!(server.seen.bytes.load(Ordering::Relaxed), 5000);
    assert!(server.seen.connections.load(Ordering::Relaxed) > 10);
}

#[test]
fn a_target_that_does_not_speak_it_is_told_in_words() {
    let older = Liar::start(|caught| {
        caught.head();
        caught.say("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let silent = Liar::start(|_| ());
    for (port, words) in
        [(older.port, "answers in HTTP/1.1"), (silent.port, "closed the connection")]
    {
        let flags = "-n 10 -c 1 --connect-timeout-secs 2";
        let run = run(&format!("http://127.0.0.1:{port}"), flags);
        assert_eq!((run.code, run.load("ok")), (15, 0), "{}", run.stderr);
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
}

#[test]
fn a_server_of_tls_that_chooses_another_version_is_told_in_words() {
    let test = "http2: nginx without http2";
    let keys = Keys::new("127.0.0.1");
    let (certificate, key) = (keys.path("server.crt"), keys.path("server.key"));
    let server = format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    let Some(nginx) = Nginx::start(test, "ssl", &server) else { return };
    let flags = format!(
        "--ca-cert-path {} -n 10 -c 1 --connect-timeout-secs 2",
        keys.path("ca.crt").display()
    );
    let run = run(&format!("https://127.0.0.1:{}", nginx.port), &flags);
    assert_eq!((run.code, run.load("ok")), (15, 0), "{}", run.stderr);
    let is_told = ["ALPN", "NoApplicationProtocol"].iter().any(|word| run.stderr.contains(word));
    assert!(is_told, "{}", run.stderr);
}

/// Reads the preface and frames up to the first request's.
fn await_request(caught: &mut Caught) -> Option<()> {
    const HEADERS: u8 = 1;
    caught.bytes(24)?;
    loop {
        let frame = caught.bytes(9)?;
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        caught.bytes(usize::try_from(length).unwrap())?;
        if frame[3] == HEADERS {
            return Some(());
        }
    }
}

#[test]
fn frames_that_are_none_and_a_connection_that_is_cut_are_counted() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A frame of 16 MiB; a GOAWAY for a protocol error; an end in the middle.
    let huge = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (bytes, code) in [
        (huge.to_vec(), "mismatch"),
        (goaway.to_vec(), "h2_goaway_protocol_error"),
        (Vec::new(), "reset"),
    ] {
        let server = Liar::start(move |caught| {
            caught.say(settings);
            await_request(caught);
            caught.say(&bytes);
        });
        let flags = "-n 3 -c 1";
        let run = run(&format!("http://127.0.0.1:{}", server.port), flags);
        assert_eq!(run.load("ok"), 0);
        assert_eq!(run.error(code), 3, "{code}: {} {}", run.json["errors"], run.stderr);
    }
}

#[test]
fn what_makes_no_sense_is_named_with_its_knob() {
    for (flags, hint) in [
        ("--target tcp://a:1 --http2", "HTTP2"),
        ("--target http://a --streams 5", "STREAMS 5 needs HTTP2"),
        ("--target http://a --http2 --streams 0", "STREAMS 0"),
        ("--target http://a --http2 --pipeline 5", "PIPELINE 5 beside HTTP2"),
        ("--target http://a --http2 --ndjson --streams 2", "STREAMS 2 beside NDJSON"),
        ("--target http://localhost --http2 -H connection:close", "HEADER \"connection\""),
    ] {
        let args: Vec<&str> = flags.split(' ').collect();
        let output = crate::tool::command(&args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags}: {stderr}");
        assert!(stderr.contains(hint), "{flags}: {stderr}");
    }
}
