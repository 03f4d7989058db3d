//! What a client may not do for ever: be silent, be slow, be many.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proto::Code;
use proto::reply::OwnedReply;

use super::harness::Engine;

const GOOD: &[u8] = b"{\"level\":\"INFO\",\"message\":\"m\"}\n";

fn replies(mut stream: TcpStream) -> Vec<OwnedReply> {
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    all.lines().map(|line| OwnedReply::parse(line.as_bytes()).unwrap()).collect()
}

fn assert_last_is(replies: &[OwnedReply], code: Code) {
    let last = replies.last().unwrap();
    assert!(last.fatal, "{last:?}");
    assert_eq!(last.code.as_deref(), Some(code.as_str()));
}

#[test]
fn a_silent_connection_is_told_and_closed_and_what_it_sent_is_answered() {
    let engine = Engine::start(&[("IDLE_TIMEOUT_SECS", "1")]);
    let mut stream = engine.connect();
    stream.write_all(GOOD).unwrap();
    let replies = replies(stream);
    assert_eq!(replies.len(), 2);
    assert_last_is(&replies, Code::Timeout);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("idle_timeouts"), 1);
    assert_eq!(stopped.total("ok"), 1);
}

#[test]
fn who_says_something_in_time_may_stay() {
    let engine = Engine::start(&[("IDLE_TIMEOUT_SECS", "2")]);
    let mut stream = engine.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        stream.write_all(GOOD).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(replies(stream).iter().all(|reply| !reply.fatal));
    let stopped = engine.stop();
    assert_eq!(stopped.total("idle_timeouts"), 0);
}

#[test]
fn a_line_that_never_ends_is_cut_off_although_bytes_keep_coming() {
    let engine = Engine::start(&[("LINE_TIMEOUT_SECS", "1"), ("IDLE_TIMEOUT_SECS", "60")]);
    let stream = engine.connect();
    let mut writer = stream.try_clone().unwrap();
    let dribble = std::thread::spawn(move || {
        writer.write_all(GOOD).unwrap();
        for _ in 0..200 {
            if writer.write_all(b"[").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let replies = replies(stream);
    assert_eq!(replies.len(), 2);
    assert_last_is(&replies, Code::Timeout);
    dribble.join().unwrap();
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("line_timeouts"), 1);
    assert_eq!(stopped.total("received"), 1);
}

#[test]
fn many_short_waits_within_lines_are_no_slow_line() {
    let engine = Engine::start(&[("LINE_TIMEOUT_SECS", "1")]);
    let mut stream = engine.connect();
    let (begin, end) = GOOD.split_at(10);
    for _ in 0..8 {
        stream.write_all(begin).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        stream.write_all(end).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(replies(stream).len(), 8);
    assert_eq!(engine.stop().total("line_timeouts"), 0);
}

#[test]
fn an_address_has_only_so_many_connections_and_gets_them_back() {
    let engine = Engine::start(&[("CONNECTIONS_PER_IP_MAX", "2"), ("SHARDS", "2")]);
    // Served, not just connected: two listeners accept in any order.
    let [first, second] = [(); 2].map(|()| {
        let mut stream = engine.connect();
        stream.write_all(GOOD).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        stream
    });
    assert_last_is(&replies(engine.connect()), Code::TooManyConnections);
    drop((first, second));
    let began = Instant::now();
    loop {
        let mut stream = engine.connect();
        stream.write_all(GOOD).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        if replies(stream).iter().all(|reply| !reply.fatal) {
            break;
        }
        assert!(began.elapsed() < super::harness::PATIENCE, "its places never came back");
        std::thread::sleep(Duration::from_millis(20));
    }
}
