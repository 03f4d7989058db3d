//! From where connections are made, as the other end sees it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::server::{OK, Server};
use crate::tool::{run, start};

/// Answers ok, and counts connections by the address that they come from.
fn peers() -> (u16, Arc<Mutex<BTreeMap<String, u32>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let peers = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip().to_string();
            *seen.lock().unwrap().entry(from).or_insert(0) += 1;
            std::thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for _ in lines.map_while(Result::ok) {
                    if stream.write_all(OK.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, peers)
}

#[test]
fn connections_come_from_every_source_address_in_turn() {
    let (port, peers) = peers();
    let flags = "--source-address 127.0.0.7,127.0.0.20-127.0.0.22,127.1.0.0/30 \
                 -n 160 -c 16 --batch-size 1 --connect storm --send-buffer 32KiB \
                 --receive-buffer 32KiB --tcp-nodelay off";
    let run = run(port, flags);
    assert_eq!((run.code, run.load("ok")), (0, 160), "{}", run.stderr);
    let expected = [
        "127.0.0.20",
        "127.0.0.21",
        "127.0.0.22",
        "127.0.0.7",
        "127.1.0.0",
        "127.1.0.1",
        "127.1.0.2",
        "127.1.0.3",
    ];
    let expected = expected.map(|text| (text.to_owned(), 2)).into_iter().collect();
    assert_eq!(*peers.lock().unwrap(), expected);
}

#[test]
fn what_this_machine_cannot_do_is_usage_and_names_the_knob() {
    let server = Server::honest();
    for (flags, hint) in [
        ("--source-address 192.0.2.1", "SOURCE_ADDRESS 192.0.2.1"),
        ("--source-address ::1 --server-host 127.0.0.1", "of another family"),
        ("--send-buffer 1000MiB", "SEND_BUFFER 1048576000: the kernel gives"),
        ("--receive-buffer 1000MiB", "RECEIVE_BUFFER 1048576000: the kernel gives"),
        ("--target null:// --tcp-nodelay off", "TCP_NODELAY"),
    ] {
        let output = start(server.port, flags).wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags}: {stderr}");
        assert!(stderr.contains(hint), "{flags}: {stderr}");
    }
}
