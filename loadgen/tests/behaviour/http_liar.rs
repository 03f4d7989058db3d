//! HTTP servers that lie, stall or talk for ever: every request is counted once, and time and memory
//! are bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::tool::{Run, run_unchecked};
use crate::web::{Caught, Liar};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn run(server: &Liar, more: &str) -> Run {
    run_unchecked(&format!("--target http://127.0.0.1:{}/ {more}", server.port)).checked()
}

/// Says `text` to each request.
fn says(text: impl Into<Vec<u8>>) -> Liar {
    let text = text.into();
    Liar::start(move |caught: &mut Caught| while caught.request().is_some() && caught.say(&text) {})
}

#[test]
fn what_is_no_response_or_two_is_a_mismatch() {
    for text in [
        "garbage\r\n\r\n",
        "{\"status\":\"ok\"}\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        &OK.repeat(2),
        &format!("{OK}surplus"),
    ] {
        // Each costs a connection, and the next one is tried after a pause.
        let run = run(&says(text), "-n 3 -c 1");
        assert_eq!((run.load("ok"), run.error("mismatch")), (0, 3), "{text}");
        assert_eq!(run.code, 10, "{}", run.stderr);
    }
}

#[test]
fn a_head_or_a_body_without_end_is_given_up() {
    // A head stops at its bound; a body may be long, but not longer than the deadline.
    let head = Liar::start(|caught: &mut Caught| {
        if caught.request().is_some() && caught.say("HTTP/1.1 200 OK\r\n") {
            while caught.say("X-More: and more\r\n") {}
        }
    });
    let found = run(&head, "-n 4 -c 2");
    assert_eq!((found.load("ok"), found.error("mismatch")), (0, 4), "{}", found.json["errors"]);
    let body = Liar::start(|caught: &mut Caught| {
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
        if caught.request().is_some()
            && caught.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        {
            while caught.say(&chunk) {}
        }
    });
    let began = Instant::now();
    let found = run(&body, "-n 4 -c 2 --hit-timeout-ms 300");
    let errors = found.error("timeout") + found.load("unanswered");
    assert_eq!((found.load("ok"), errors), (0, 4), "{}", found.json["errors"]);
    assert!(began.elapsed() < Duration::from_secs(30));
    let rss = found.json["resources"]["rss_peak_bytes"].as_u64().unwrap();
    assert!(rss < 128 << 20, "{rss}");
}

#[test]
fn a_stalled_request_times_out_and_the_next_goes_on_another_connection() {
    let server = Liar::start(|caught: &mut Caught| {
        if caught.request().is_none() {
            return;
        }
        // Each odd connection says half of a response, and then nothing.
        if caught.number % 2 == 1 {
            caught.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            return caught.hold();
        }
        caught.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let run = run(&server, "-n 8 -c 1 --hit-timeout-ms 200");
    assert_eq!((run.load("ok"), run.load("error") + run.load("unanswered")), (4, 4));
    assert!(run.error("timeout") >= 3, "{}", run.json["errors"]);
    // "At least 200 ms", and in the open: the answered ones did not wait for them.
    assert!(run.latency("response", "max_ns") >= 0.2);
}

#[test]
fn a_connection_that_ends_within_a_response_is_a_reset() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let server = Liar::start(move |caught: &mut Caught| {
            if caught.request().is_some() {
                caught.say(text);
            }
        });
        let run = run(&server, "-n 3 -c 1");
        assert_eq!((run.load("ok"), run.error("reset")), (0, 3), "{text:?} {}", run.json["errors"]);
    }
}

#[test]
fn an_idle_connection_that_is_closed_is_opened_again() {
    // After each answer the server closes, once silently, once with the words that some have for it.
    for farewell in
        ["", "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"]
    {
        let requests = Arc::new(AtomicU64::new(0));
        let seen = requests.clone();
        let server = Liar::start(move |caught: &mut Caught| {
            if caught.request().is_some() {
                seen.fetch_add(1, Ordering::Relaxed);
                caught.say(OK);
                std::thread::sleep(Duration::from_millis(30));
                caught.say(farewell);
            }
        });
        // The next one is due long after that.
        let run = run(&server, "-n 4 -c 1 -r 2");
        assert_eq!((run.load("ok"), run.load("error")), (4, 0), "{}", run.json["errors"]);
        assert_eq!(requests.load(Ordering::Relaxed), 4);
    }
}

#[test]
fn interim_responses_are_no_answers() {
    let text = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n{OK}");
    let run = run(&says(text), "-n 20 -c 2");
    assert_eq!((run.load("ok"), run.code), (20, 0), "{}", run.json["errors"]);
    assert_eq!(run.json["http"]["statuses"], serde_json::json!({ "200": 20 }));
}

#[test]
fn a_request_that_is_refused_before_its_end_has_its_status() {
    // The head is enough: no, and good-bye. The body would not fit into the socket's buffers.
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 30 << 20]).unwrap();
    let server = Liar::start(|caught: &mut Caught| {
        if caught.head().is_some() {
            caught.say("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            // A reset would destroy what was said.
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let run = run(&server, &format!("-n 3 -c 1 -d @{}", body.display()));
    assert_eq!((run.load("ok"), run.error("http_413")), (0, 3), "{}", run.json["errors"]);
}

#[test]
fn pipelined_answers_come_in_any_portions() {
    // Answers leave byte by byte, many requests behind.
    let server = Liar::start(|caught: &mut Caught| {
        while caught.request().is_some() {
            for part in OK.as_bytes().chunks(3) {
                if !caught.say(part) {
                    return;
                }
            }
        }
    });
    let run = run(&server, "-n 300 -c 2 --pipeline 16");
    assert_eq!((run.load("ok"), run.code), (300, 0), "{}", run.json["errors"]);
}

#[test]
fn what_is_behind_the_last_answer_of_a_connection_is_lost_and_counted() {
    // The server answers two of a pipeline and closes.
    let server = Liar::start(|caught: &mut Caught| {
        if caught.request().is_some() {
            let last = OK.replace("200 OK\r\n", "200 OK\r\nConnection: close\r\n");
            caught.say(format!("{OK}{last}"));
            caught.hold();
        }
    });
    let run = run(&server, "-n 8 -c 1 --pipeline 4");
    assert_eq!((run.load("ok"), run.error("reset")), (4, 4), "{}", run.json["errors"]);
}
