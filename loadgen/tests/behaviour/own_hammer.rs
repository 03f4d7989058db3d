//! The example of a hammer of one's own, as people run it, against a server of its protocol and
//! against the real one.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::tool::skip;

/// The example, which cargo builds with the tests.
fn example(test: &str, port: u16, args: &str) -> Option<Output> {
    let folder = PathBuf::from(env!("CARGO_BIN_EXE_logboom-loadgen"));
    let path = folder.parent().unwrap().join("examples/memcached");
    if !path.is_file() {
        skip(test, "the examples are not built (cargo build --examples)");
        return None;
    }
    let target = format!("tcp://127.0.0.1:{port}");
    let mut command = Command::new(path);
    command.env_clear().args(["--target", &target]).args(args.split_whitespace());
    Some(command.output().unwrap())
}

/// What a server was given, by key.
type Stored = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Stores what it is given; refuses each key that ends in a 7.
fn server() -> (u16, Stored) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let stored = Stored::default();
    let ours = Arc::clone(&stored);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, ours) = (stream.unwrap(), Arc::clone(&ours));
            std::thread::spawn(move || serve(&stream, &ours));
        }
    });
    (port, stored)
}

fn serve(stream: &TcpStream, stored: &Mutex<BTreeMap<String, Vec<u8>>>) {
    let mut input = BufReader::new(stream);
    loop {
        let mut head = String::new();
        if input.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
        let words: Vec<&str> = head.split_whitespace().collect();
        let ["set", key, "0", "0", bytes] = words[..] else { panic!("{head}") };
        let mut value = vec![0; bytes.parse::<usize>().unwrap() + 2];
        input.read_exact(&mut value).unwrap();
        assert!(value.ends_with(b"}\n\r\n"));
        value.truncate(value.len() - 2);
        let reply: &[u8] = if key.ends_with('7') {
            b"SERVER_ERROR out of memory\r\n"
        } else {
            stored.lock().unwrap().insert(key.to_owned(), value);
            b"STORED\r\n"
        };
        if input.get_mut().write_all(reply).is_err() {
            return;
        }
    }
}

#[test]
fn the_example_stores_every_message_once_and_counts_what_was_refused() {
    let (port, stored) = server();
    let Some(output) = example("own hammer", port, "-n 500 -c 5 --max-error-rate 20%") else {
        return;
    };
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let stored = stored.lock().unwrap();
    // Five connections of a hundred messages each, of which ten end in a 7.
    assert_eq!(stored.len(), 450, "{text}");
    assert!(text.contains("450 of 500 messages ok"), "{text}");
    assert!(text.contains("server_error_out_of_memory 50"), "{text}");
    for (key, value) in stored.iter() {
        let json: serde_json::Value = serde_json::from_slice(value).unwrap();
        assert_eq!(*key, format!("{}.{}", json["conn"], json["seq"]));
    }
}

#[test]
fn the_example_fills_a_real_memcached() {
    let test = "own hammer: memcached";
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut memcached = Command::new("memcached");
    memcached.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p", &port.to_string()]);
    memcached.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut memcached) = memcached.spawn() else {
        return skip(test, "memcached is not installed (apt-get install memcached)");
    };
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "memcached does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = example(test, port, "-n 1000 -c 4");
    let stats = stats(port);
    memcached.kill().unwrap();
    memcached.wait().unwrap();
    let Some(output) = output else { return };
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stats), (Some(0), 1000), "{text}");
}

/// How many items it has stored.
fn stats(port: u16) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"stats\r\nquit\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let count = text.split("STAT total_items ").nth(1).unwrap();
    count.split_whitespace().next().unwrap().parse().unwrap()
}
