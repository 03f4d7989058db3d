//! Targets that die, lie or say nothing, and users who lose patience: the count stays whole.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::server::{Do, OK, Server};
use crate::tool::{command, finish, run, signal, start};

fn ok() -> String {
    OK.to_owned()
}

#[test]
fn a_missing_reply_at_the_end_is_unanswered() {
    let server = Server::start(|line| match (line.connection, line.index) {
        (0, 4) => Do::Say(String::new()),
        _ => Do::Say(ok()),
    });
    let begin = Instant::now();
    let run = run(server.port, "-n 20 -c 2 --reply-timeout-secs 1");
    assert_eq!((run.code, run.verdict()), (10, "fail"));
    assert_eq!((run.load("ok"), run.load("unanswered"), run.load("error")), (19, 1, 0));
    assert!(run.latency("response", "max_ns") > 0.9, "it counts as at least the wait");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_missing_reply_in_the_middle_times_out_and_the_run_goes_on() {
    let server = Server::start(|line| match (line.connection, line.index) {
        (0, 9) => Do::Say(String::new()),
        _ => Do::Say(ok()),
    });
    let run = run(server.port, "-n 30 -c 1 --batch-size 10 --reply-timeout-secs 500ms");
    assert_eq!((run.load("ok"), run.error("timeout"), run.load("unanswered")), (29, 1, 0));
    assert!(server.lines().iter().any(|line| line.connection == 1), "on a new connection");
}

#[test]
fn a_connection_that_breaks_in_a_batch_fails_what_was_unanswered() {
    let server = Server::start(|line| match (line.connection, line.index) {
        (0, 2) => Do::SayAndClose(ok()),
        _ => Do::Say(ok()),
    });
    let run = run(server.port, "-n 50 -c 1 --batch-size 10");
    assert_eq!((run.load("ok"), run.error("reset")), (43, 7));
    assert_eq!((run.code, run.verdict()), (10, "fail"));
}

#[test]
fn a_connection_closed_between_batches_costs_nothing() {
    let server = Server::start(|line| match line.index % 2 {
        1 => Do::SayAndClose(ok()),
        _ => Do::Say(ok()),
    });
    // Every second message is the last of its connection, 250 ms before the next is due.
    let run = run(server.port, "-r 4 -n 6 -c 1");
    assert_eq!((run.code, run.load("ok"), run.load("error")), (0, 6, 0));
    assert_eq!(server.lines().last().unwrap().connection, 2);
}

#[test]
fn doubled_replies_are_never_ok() {
    let server = Server::start(|_| Do::Say(OK.repeat(2)));
    let run = run(server.port, "-n 10 -c 1 --batch-size 5");
    assert_eq!((run.load("ok"), run.error("mismatch")), (0, 10));
}

#[test]
fn a_reply_to_nothing_fails_the_next_batch_on_that_connection() {
    // The surplus comes alone, 50 ms later, while nothing is asked.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while stream.read(&mut chunk).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(OK.as_bytes());
                    std::thread::sleep(Duration::from_millis(50));
                    let _ = stream.write_all(OK.as_bytes());
                }
            });
        }
    });
    let run = run(port, "-r 4 -n 4 -c 1");
    assert_eq!((run.load("ok"), run.error("mismatch")), (2, 2));
}

#[test]
fn what_is_not_a_reply_is_a_mismatch() {
    let server = Server::start(|_| Do::Say("HTTP/1.1 400 Bad Request\r\n".to_owned()));
    let run = run(server.port, "-n 4 -c 1 --batch-size 2");
    assert_eq!((run.load("ok"), run.error("mismatch")), (0, 4));
}

#[test]
fn a_fatal_reply_names_the_error() {
    let fatal =
        "{\"status\":\"error\",\"code\":\"shutting_down\",\"reason\":\"\",\"fatal\":true}\n";
    let server = Server::start(move |line| match (line.connection, line.index) {
        (0, 3) => Do::SayAndClose(fatal.to_owned()),
        _ => Do::Say(ok()),
    });
    let run = run(server.port, "-n 20 -c 1 --batch-size 10");
    assert_eq!((run.load("ok"), run.error("shutting_down")), (13, 7));
}

#[test]
fn a_server_that_closes_every_connection_is_not_hammered_and_nothing_is_lost() {
    let server = Server::start(|_| Do::SayAndClose(String::new()));
    let run = run(server.port, "-n 1000 -z 1s -c 2 --batch-size 10");
    assert_eq!((run.load("ok"), run.verdict()), (0, "fail"));
    assert_eq!(run.load("sent"), run.error("reset"));
    // Back-off doubles from 10 ms: some dozen attempts in a second, not thousands.
    assert!(run.load("sent") <= 400, "{}", run.load("sent"));
}

#[test]
fn a_dead_target_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let begin = Instant::now();
    for args in ["-n 100 --connect-timeout-secs 1", "-r 100 -z 30s --connect-timeout-secs 1"] {
        let run = run(port, args);
        assert_eq!((run.code, run.verdict(), run.load("ok")), (15, "unreachable", 0));
        assert!(run.load("offered") > 0);
        assert!(run.stderr.contains("CONNECT_TIMEOUT_SECS"), "{}", run.stderr);
        assert!(run.stderr.contains("refused"), "{}", run.stderr);
    }
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_target_that_never_accepts_answers_nothing() {
    // The kernel completes the connections; nobody reads them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = run(port, "-n 10 -c 2 --reply-timeout-secs 1");
    assert_eq!((run.code, run.load("unanswered"), run.load("ok")), (10, 10, 0));
    drop(listener);
}

#[test]
fn a_target_that_dies_on_the_way_leaves_a_partial_summary() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(16).unwrap();
    let twin = socket.try_clone().unwrap();
    let server = Server::on(TcpListener::from(socket), |_| Do::Say(ok()));
    let child = start(server.port, "-r 500 -z 30s -c 4 --connect-timeout-secs 1");
    std::thread::sleep(Duration::from_millis(1500));
    // Shut, a listening socket refuses connections.
    twin.shutdown(std::net::Shutdown::Both).unwrap();
    server.cut();
    let run = finish(child);
    assert_eq!((run.code, run.verdict()), (15, "unreachable"));
    assert!(run.load("ok") >= 50, "{}", run.load("ok"));
    assert!(run.load("unsent") + run.error("refused") > 0, "{}", run.json["load"]);
    assert!(run.load("offered") < 15_000);
}

#[test]
fn ctrl_c_ends_with_a_partial_summary() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let server = Server::honest();
        let child = start(server.port, "-r 1000 -z 60s");
        std::thread::sleep(Duration::from_millis(1300));
        let begin = Instant::now();
        signal(&child, name);
        let run = finish(child);
        assert_eq!((run.code, run.verdict()), (code, "interrupted"));
        assert!(run.load("ok") > 0 && run.load("offered") < 60_000);
        assert_eq!(run.load("unanswered"), 0);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert!(run.stderr.contains("INTERRUPTED: "), "{}", run.stderr);
    }
}

#[test]
fn ctrl_c_does_not_wait_long_for_a_server_that_says_nothing() {
    let served = AtomicU64::new(0);
    let server = Server::start(move |_| match served.fetch_add(1, Ordering::Relaxed) {
        0..100 => Do::Say(ok()),
        _ => Do::Say(String::new()),
    });
    let child = start(server.port, "-c 2 -z 60s --batch-size 10 --reply-timeout-secs 30");
    std::thread::sleep(Duration::from_millis(1000));
    let begin = Instant::now();
    signal(&child, "-INT");
    let run = finish(child);
    assert_eq!((run.code, run.verdict()), (130, "interrupted"));
    assert_eq!(run.load("ok"), 100);
    assert!(run.load("unanswered") > 0, "{}", run.json["load"]);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

#[test]
fn usage_errors_name_the_knob_and_exit_with_2() {
    for (args, words) in [
        (&["--concurrency", "0"][..], "CONCURRENCY 0"),
        (&["--batch-size", "x"], "BATCH_SIZE"),
        (&["-n", "0", "-z", "0"], "DURATION_SECS"),
        (&["--target", "kafka://localhost:9000"], "not served by this build yet"),
        (&["--no-such-knob"], "--no-such-knob"),
    ] {
        let output = command(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}");
        assert!(stderr.contains(words), "{stderr}");
    }
    let by_environment = command(&[]).env("CONCURRENCY", "lots").output().unwrap();
    assert_eq!(by_environment.status.code(), Some(2));
    let stderr = String::from_utf8(by_environment.stderr).unwrap();
    assert!(stderr.contains("lots") && stderr.contains("CONCURRENCY"), "{stderr}");
}

#[test]
fn a_name_that_does_not_resolve_is_unreachable() {
    let output = command(&["--server-host", "no-such-host.invalid"]).output().unwrap();
    assert_eq!(output.status.code(), Some(15));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no-such-host.invalid (SERVER_HOST)"), "{stderr}");
}

#[test]
fn a_summary_that_could_not_be_written_is_refused_before_the_run() {
    let output = command(&["--json", "/no/such/folder/summary.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("/no/such/folder/summary.json (--json)"), "{stderr}");
}

#[test]
fn a_target_that_swallows_packets_is_unreachable_and_a_signal_ends_the_wait() {
    // A full accept queue: the kernel drops what knocks.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut guests = Vec::new();
    while let Ok(guest) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        guests.push(guest);
    }
    let run = run(address.port(), "-n 4 -c 2 --connect-timeout-secs 1");
    assert_eq!((run.code, run.verdict(), run.error("refused")), (15, "unreachable", 4));

    let child = start(address.port(), "-n 4 -c 2 --connect-timeout-secs 60");
    std::thread::sleep(Duration::from_millis(800));
    let begin = Instant::now();
    signal(&child, "-INT");
    let run = finish(child);
    assert_eq!((run.code, run.error("refused")), (130, 4));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
