//! The wire: each message one reply, in order, whatever the client does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use proto::reply::Status;

use crate::clients::line;
use crate::harness::{Engine, PATIENCE, stored};

/// A message and the reply that it must get: a status, or an error's code.
fn cases() -> Vec<(Vec<u8>, &'static str)> {
    let text = |text: &str, reply| (text.as_bytes().to_vec(), reply);
    vec![
        text(r#"{"level":"INFO","message":"m"}"#, "ok"),
        text(r#"{"level":"fatal","message":"","extra":{"deep":[1,2,{"x":null}]}}"#, "ok"),
        text(r#"{"level":"Warning","message":"m","id":12}"#, "ok"),
        text(r#"{"level":"ERROR","message":"m","id":"a \"quoted\" id"}"#, "ok"),
        text(r#"{"level":"TRACE","message":"m"}"#, "filtered"),
        text(r#"{"level":"INFO"}"#, "missing_field"),
        text(r#"{"message":"m"}"#, "missing_field"),
        text(r#"{"level":"LOUD","message":"m"}"#, "invalid_field"),
        text(r#"{"level":3,"message":"m"}"#, "invalid_field"),
        text(r#"{"level":"INFO","message":null}"#, "invalid_field"),
        text(r#"{"level":"INFO","message":"m","id":1.5}"#, "invalid_field"),
        text(r#"[{"level":"INFO","message":"m"}]"#, "not_an_object"),
        text("42", "not_an_object"),
        text(r#"{"level":"INFO","message":"m"} trailing"#, "invalid_json"),
        text(r#"{"level":"INFO","message":"m""#, "invalid_json"),
        text("hello there", "invalid_json"),
        text("\u{1}", "invalid_json"),
        (b"\x1fx".to_vec(), "invalid_json"),
        (b"{\"level\":\"INFO\",\"message\":\"\xff\xfe\"}".to_vec(), "invalid_utf8"),
        (b"{\"level\":\"INFO\",\"message\":\"a\x00b\"}".to_vec(), "invalid_json"),
        (
            format!(r#"{{"level":"INFO","message":"{}"}}"#, "x".repeat(5000)).into_bytes(),
            "too_long",
        ),
        (vec![b'['; 9000], "too_long"),
        (vec![b'['; 3000], "invalid_json"),
    ]
}

#[test]
fn thousands_of_good_and_bad_lines_in_random_pieces_get_their_own_replies() {
    let engine = Engine::start(&[("LINE_BYTES_MAX", "4096"), ("SHARDS", "2")]);
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    std::thread::scope(|scope| {
        for client in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + client);
                let cases = cases();
                let chosen: Vec<_> = (0..3000).map(|_| random.usize(..cases.len())).collect();
                let mut input = Vec::new();
                for &index in &chosen {
                    input.extend_from_slice(&cases[index].0);
                    input.extend_from_slice(
                        [&b"\n"[..], b"\r\n", b"\n\n", b"\r\n\r\n"][random.usize(..4)],
                    );
                }
                let mut stream = engine.connect();
                let mut writer = stream.try_clone().unwrap();
                let writing = scope.spawn(move || {
                    let mut rest = &input[..];
                    while !rest.is_empty() {
                        let piece = random.usize(1..20_000).min(rest.len());
                        writer.write_all(&rest[..piece]).unwrap();
                        rest = &rest[piece..];
                    }
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut replies = Vec::new();
                stream.read_to_end(&mut replies).unwrap();
                writing.join().unwrap();
                let replies: Vec<_> = replies
                    .split_inclusive(|&byte| byte == b'\n')
                    .map(|line| proto::reply::OwnedReply::parse(line.trim_ascii_end()).unwrap())
                    .collect();
                assert_eq!(replies.len(), chosen.len(), "seed {seed}");
                for (n, (reply, &index)) in replies.iter().zip(&chosen).enumerate() {
                    let got = match reply.status {
                        Status::Ok => "ok",
                        Status::Filtered => "filtered",
                        Status::Error => reply.known_code().unwrap().as_str(),
                    };
                    assert_eq!(got, cases[index].1, "message {n} of client {client}, seed {seed}");
                }
            });
        }
    });
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("received"), 4 * 3000);
    assert_eq!(stored(stopped.folder.path()).values().sum::<usize>() as u64, stopped.total("ok"));
}

#[test]
fn a_client_that_writes_everything_before_it_reads_gets_every_reply() {
    let engine = Engine::start(&[]);
    let mut stream = engine.connect();
    let message = "{\"level\":\"INFO\",\"message\":\"written before any reply is read\"}\n";
    let count = 300_000;
    stream.write_all(message.repeat(count).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).unwrap();
    assert_eq!(replies.len(), count * proto::reply::OK_LINE.len());
    engine.stop().assert_clean();
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory_and_is_reset_while_others_are_served() {
    let engine = Engine::start(&[("SHARDS", "1"), ("REPLY_TIMEOUT_SECS", "2")]);
    // Something for the engine to have touched its memory with.
    engine.converse((line("x") + "\n").repeat(50_000).as_bytes());
    let before = resident_bytes(engine.pid());
    let mut deaf = engine.connect();
    deaf.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let flood = (line(&"y".repeat(100)) + "\n").repeat(1000);
    let began = Instant::now();
    let mut sent = 0;
    let reset = loop {
        match deaf.write(flood.as_bytes()) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break true,
        }
        // The others notice nothing.
        assert_eq!(engine.converse((line("good") + "\n").repeat(100).as_bytes()).len(), 100);
        let grown = resident_bytes(engine.pid()).saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes for a client that never reads");
        if began.elapsed() > PATIENCE {
            break false;
        }
    };
    assert!(reset, "it took {sent} bytes and was never reset");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("reply_timeouts"), 1);
}

#[test]
fn after_half_close_the_unterminated_rest_is_a_line_and_all_replies_are_sent() {
    let engine = Engine::start(&[]);
    let replies = engine.converse(format!("{}\n{}", line("1"), line("2")).as_bytes());
    let ids: Vec<_> = replies.iter().map(|reply| reply.id.clone().unwrap()).collect();
    assert_eq!(ids, ["1", "2"]);
    assert!(engine.converse(b"").is_empty());
    assert!(engine.converse(b"\n\r\n\n\r").is_empty(), "blank lines are no messages");
    engine.stop().assert_clean();
}

fn ask(stream: &TcpStream, lines: &str) -> String {
    (&*stream).write_all(lines.as_bytes()).unwrap();
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text).unwrap();
    text
}

#[test]
fn a_hello_agrees_on_replies_and_durability() {
    let engine = Engine::start(&[("SHARDS", "2")]);
    let stream = engine.connect();
    let answer = ask(
        &stream,
        "{\"hello\":{\"version\":1,\"replies\":\"range\",\"durability\":\"durable\",\"whim\":1}}\n",
    );
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let hello = &answer["hello"];
    assert_eq!((&hello["version"], &hello["replies"]), (&1.into(), &"range".into()));
    assert_eq!((&hello["durability"], &hello["shards"]), (&"durable".into(), &2.into()));
    assert_eq!(hello["line_bytes_max"], 262_144);
    // One line each time; together as many as were sent.
    (&stream)
        .write_all("{\"level\":\"INFO\",\"message\":\"m\"}\n".repeat(1000).as_bytes())
        .unwrap();
    let mut reader = BufReader::new(&stream);
    let (mut answered, mut lines) = (0, 0);
    while answered < 1000 {
        let mut text = String::new();
        reader.read_line(&mut text).unwrap();
        let reply = proto::reply::OwnedReply::parse(text.trim_ascii_end().as_bytes()).unwrap();
        assert_eq!(reply.status, Status::Ok);
        answered += reply.count;
        lines += 1;
    }
    assert_eq!(answered, 1000);
    assert!(lines < 1000, "nothing was joined");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.total("syncs") >= 1);
}

#[test]
fn with_replies_none_only_the_hello_is_answered() {
    let engine = Engine::start(&[]);
    let mut stream = engine.connect();
    let hello = "{\"hello\":{\"version\":1,\"replies\":\"none\"}}\n";
    stream.write_all(format!("{hello}{}\nnonsense\n", line("1")).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!((stopped.total("ok"), stopped.total("error")), (1, 1));
}

#[test]
fn a_bad_hello_is_fatal_and_a_late_one_is_an_ordinary_bad_line() {
    let engine = Engine::start(&[]);
    let replies =
        engine.converse(b"{\"hello\":{\"version\":99}}\n{\"level\":\"INFO\",\"message\":\"m\"}\n");
    assert_eq!(replies.len(), 1);
    assert!(replies[0].fatal);
    assert_eq!(replies[0].known_code().unwrap().as_str(), "bad_hello");
    let late = format!("{}\n{{\"hello\":{{\"version\":1}}}}\n", line("1"));
    let replies = engine.converse(late.as_bytes());
    assert_eq!(replies[1].known_code().unwrap().as_str(), "missing_field");
    engine.stop().assert_clean();
}

#[test]
fn eight_long_lived_connections_end_four_and_four() {
    let engine = Engine::start(&[("SHARDS", "2")]);
    let connections: Vec<_> = (0..8).map(|_| engine.connect()).collect();
    for stream in &connections {
        assert_eq!(
            ask(stream, "{\"level\":\"INFO\",\"message\":\"m\"}\n"),
            "{\"status\":\"ok\"}\n"
        );
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.of_shards("connections_opened"), [4, 4]);
}

#[test]
fn connections_beyond_the_cap_are_told_so() {
    let engine = Engine::start(&[("CONNECTIONS_MAX", "2"), ("SHARDS", "1")]);
    let held = [engine.connect(), engine.connect()];
    for stream in &held {
        ask(stream, "{\"level\":\"INFO\",\"message\":\"m\"}\n");
    }
    let replies = engine.converse(b"");
    assert_eq!(replies.len(), 1);
    assert!(replies[0].fatal);
    assert_eq!(replies[0].known_code().unwrap().as_str(), "too_many_connections");
    drop(held);
    let began = Instant::now();
    while !engine.converse(b"").is_empty() {
        assert!(began.elapsed() < PATIENCE, "places are never given back");
    }
    engine.stop().assert_clean();
}

#[test]
fn at_a_stop_idle_connections_are_told_and_closed_at_once() {
    let engine = Engine::start(&[]);
    let mut idle = engine.connect();
    ask(&idle, "{\"level\":\"INFO\",\"message\":\"m\"}\n");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.took < Duration::from_secs(5), "{:?}", stopped.took);
    let mut last = String::new();
    idle.read_to_string(&mut last).unwrap();
    assert!(last.contains("shutting_down") && last.contains("\"fatal\":true"), "{last}");
}

#[test]
fn unfinished_lines_beyond_the_memory_bound_cost_the_largest_holder_its_connection() {
    // Two batches of 4 MiB and a read buffer are fixed; a little more than 1 MiB is left.
    let engine = Engine::start(&[
        ("SHARDS", "1"),
        ("MEMORY_BYTES_MAX", "9500KiB"),
        ("LINE_BYTES_MAX", "256KiB"),
    ]);
    let mut greedy: Vec<_> = (0..12).map(|_| engine.connect()).collect();
    for stream in &mut greedy {
        stream.write_all(&vec![b'x'; 200 << 10]).unwrap();
    }
    let began = Instant::now();
    while engine.converse((line("good") + "\n").repeat(10).as_bytes()).len() != 10 {
        assert!(began.elapsed() < PATIENCE, "good clients are not served");
    }
    drop(greedy);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.total("memory_kills") > 0);
}
