//! Lines over UDP, by real sockets: what arrives is stored, and what does not is counted.

use std::io::Write;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::clients::line;
use crate::harness::{Engine, PATIENCE, Stopped, command, run, stored};

fn start(more: &[(&str, &str)]) -> Engine {
    let mut settings = vec![("ENABLE_UDP", "true"), ("UDP_PORT", "0")];
    settings.extend(more);
    Engine::start(&settings)
}

fn port(engine: &Engine) -> u16 {
    let ready = std::fs::read_to_string(engine.folder.path().join("ready")).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    u16::try_from(ready["udp_port"].as_u64().unwrap()).unwrap()
}

fn sender(engine: &Engine) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port(engine))).unwrap();
    socket
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Waits until each of `lines` is on disk.
fn await_stored(engine: &Engine, lines: &[String]) {
    let began = Instant::now();
    loop {
        let there = stored(engine.folder.path());
        if lines.iter().all(|line| there.contains_key(line)) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{} lines are stored", there.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stop(engine: Engine) -> Stopped {
    let stopped = engine.stop();
    stopped.assert_clean();
    stopped
}

#[test]
fn a_datagram_is_lines_and_the_unterminated_rest_is_one() {
    let engine = start(&[("SHARDS", "2")]);
    let lines: Vec<_> = (0..5).map(|n| line(&n.to_string())).collect();
    let socket = sender(&engine);
    socket.send(format!("{}\n{}\r\n\n{}", lines[0], lines[1], lines[2]).as_bytes()).unwrap();
    socket.send(packed(format!("{}\n{}", lines[3], lines[4]).as_bytes()).as_slice()).unwrap();
    await_stored(&engine, &lines);
    let stopped = stop(engine);
    assert_eq!(stopped.total("received"), 5);
    assert_eq!(stopped.total("ok"), 5);
    assert_eq!(stopped.total("datagrams"), 2);
    assert_eq!(stored(stopped.folder.path()).len(), 5);
}

#[test]
fn what_is_wrong_in_a_datagram_costs_no_more_than_the_datagram() {
    let engine = start(&[("SHARDS", "1"), ("LINE_BYTES_MAX", "1KiB"), ("MIN_LOG_LEVEL", "INFO")]);
    let socket = sender(&engine);
    let good = line("good");
    socket.send(b"").unwrap();
    socket.send(b"\n\n").unwrap();
    socket.send(b"\x1f\x8b").unwrap();
    let mut damaged = packed(line("damaged").as_bytes());
    damaged[15] ^= 0x10;
    socket.send(&damaged).unwrap();
    // 64 MiB of zeros in a datagram.
    let bomb = packed(&vec![0; 60 << 20]);
    assert!(bomb.len() < 65507);
    socket.send(&bomb).unwrap();
    let long = "x".repeat(2000);
    let low = r#"{"level":"DEBUG","message":""}"#;
    let hello = r#"{"hello":{"version":1}}"#;
    socket.send(format!("{long}\n[]\n{low}\n{hello}\n{good}").as_bytes()).unwrap();
    await_stored(&engine, std::slice::from_ref(&good));
    let stopped = stop(engine);
    assert_eq!(stopped.total("datagrams"), 6);
    assert_eq!(stopped.total("gzip_errors"), 3);
    // Too long, no object, and a hello, which is only a hello on a connection.
    assert_eq!(stopped.total("error"), 3);
    assert_eq!(stopped.total("filtered"), 1);
    assert_eq!(stopped.total("ok"), 1);
    assert_eq!(stored(stopped.folder.path()).len(), 1);
}

#[test]
fn the_largest_datagram_is_whole() {
    let engine = start(&[]);
    let socket = sender(&engine);
    let text = "y".repeat(65507 - r#"{"level":"INFO","message":""}"#.len());
    let line = format!(r#"{{"level":"INFO","message":"{text}"}}"#);
    assert_eq!(line.len(), 65507);
    socket.send(line.as_bytes()).unwrap();
    await_stored(&engine, &[line]);
    assert_eq!(stop(engine).total("error"), 0);
}

#[test]
fn what_the_socket_holds_at_the_stop_is_read_and_what_the_kernel_dropped_is_counted() {
    let engine = start(&[("SHARDS", "1")]);
    let socket = sender(&engine);
    engine.signal("-STOP");
    let text = "z".repeat(8000);
    let sent = 4000u64;
    for n in 0..sent {
        let line = format!(r#"{{"level":"INFO","message":"{text}","n":{n}}}"#);
        socket.send(line.as_bytes()).unwrap();
    }
    // The signal waits for the engine to go on.
    engine.signal("-TERM");
    engine.signal("-CONT");
    let mut engine = engine;
    let stopped = engine.wait();
    stopped.assert_clean();
    let (taken, dropped) = (stopped.total("datagrams"), stopped.total("udp_dropped_by_kernel"));
    assert_eq!(taken + dropped, sent);
    assert!(dropped > 0, "32 MB fit into the socket");
    assert!(taken > 0);
    assert_eq!(stopped.total("udp_dropped"), 0);
    assert_eq!(stopped.total("received"), taken);
    assert_eq!(stored(stopped.folder.path()).len() as u64, taken);
}

#[test]
fn a_flood_starves_no_connection_and_every_datagram_is_somewhere() {
    let engine = start(&[("SHARDS", "1")]);
    let socket = sender(&engine);
    let flood = std::thread::spawn(move || {
        let lines: String = (0..200).map(|n| line(&format!("flood {n}")) + "\n").collect();
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < Duration::from_secs(1) {
            socket.send(lines.as_bytes()).unwrap();
            sent += 1;
        }
        sent
    });
    let mut answered = 0;
    while !flood.is_finished() {
        answered += engine.converse((line("tcp") + "\n").as_bytes()).len();
    }
    let sent: u64 = flood.join().unwrap();
    assert!(answered > 0, "nobody was answered");
    let stopped = stop(engine);
    assert_eq!(stopped.total("datagrams") + stopped.total("udp_dropped_by_kernel"), sent);
    // Nothing is dropped here that could wait in the socket.
    assert_eq!(stopped.total("udp_dropped"), 0);
    assert_eq!(stopped.total("received"), 200 * stopped.total("datagrams") + answered as u64);
    assert_eq!(stopped.total("received"), stopped.total("ok"));
}

#[test]
fn a_datagram_that_inflates_beyond_the_batch_loses_lines_and_they_are_counted() {
    let engine = start(&[
        ("SHARDS", "1"),
        ("LINE_BYTES_MAX", "4KiB"),
        ("COMMIT_BYTES_MAX", "64KiB"),
        ("INFLATED_BYTES_MAX", "1MiB"),
    ]);
    let lines: String = (0..5000).map(|n| line(&n.to_string()) + "\n").collect();
    sender(&engine).send(&packed(lines.as_bytes())).unwrap();
    await_stored(&engine, &[line("0")]);
    let stopped = stop(engine);
    let (dropped, ok) = (stopped.total("udp_dropped"), stopped.total("ok"));
    assert!(dropped > 0);
    assert_eq!(dropped + ok, 5000);
    assert_eq!(stopped.total("received"), ok);
    assert_eq!(stored(stopped.folder.path()).len() as u64, ok);
}

#[test]
fn a_taken_udp_port_is_refused_although_the_first_engine_shares_it() {
    let engine = start(&[]);
    let port = port(&engine).to_string();
    let folder = tempfile::tempdir().unwrap();
    let output =
        run(command(folder.path()).envs([("ENABLE_UDP", "true"), ("UDP_PORT", port.as_str())]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    for word in [&*port, "UDP_PORT", "in use"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
    stop(engine);
}
