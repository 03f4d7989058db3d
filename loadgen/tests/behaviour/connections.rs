//! From where connections are made, as the other end sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::server::{OK, Server};
use crate::tool::{run, skip, start};
use crate::web::find;

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

/// A network of 100 ports in which nginx listens at port 9000; `$1` and so on are the arguments of
/// the generator. nginx says from where each request came, by which connection, and how many
/// connections there were at that time.
const NETWORK: &str = r#"
    ip link set lo up && echo 40000 40099 > /proc/sys/net/ipv4/ip_local_port_range || exit 77
    cat > nginx.conf <<'END'
daemon off; master_process off; pid pid; error_log error.log;
events { worker_connections 2048; }
http {
  log_format seen '$remote_addr $remote_port $connection $connections_active';
  access_log access.log seen;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
  scgi_temp_path t5;
  server { listen 127.0.0.1:9000 backlog=1024; keepalive_requests 100000; return 204; }
}
END
    "$SERVER" -p . -c nginx.conf &
    until [ -s pid ]; do kill -0 $! || exit 1; sleep 0.02; done
    "$LOADGEN" --target http://127.0.0.1:9000/ --json - "$@"
    code=$?
    kill $!
    wait $!
    exit $code
"#;

#[test]
fn more_connections_than_an_address_has_ports_come_from_several() {
    let test = "connections: more than the ports of an address";
    let Some(nginx) = find("nginx") else {
        return skip(test, "nginx is not installed (apt-get install nginx-light)");
    };
    let is_able = Command::new("unshare").args(["-n", "true"]).output();
    if !is_able.is_ok_and(|output| output.status.success()) {
        return skip(test, "unshare -n is not there, or not allowed: it needs root");
    }
    let within = |more: &str| {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("unshare")
            .args(["-n", "sh", "-c", NETWORK, "sh"])
            .args(more.split_whitespace())
            .env("SERVER", &nginx)
            .env("LOADGEN", env!("CARGO_BIN_EXE_logboom-loadgen"))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if output.status.code() == Some(77) {
            skip(test, &format!("a network of its own cannot be made: {stderr}"));
            return None;
        }
        let json: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {stderr}"));
        let log = std::fs::read_to_string(folder.path().join("access.log")).unwrap_or_default();
        Some((json, log, stderr))
    };
    // One address has ports for 100 of 150.
    let flags = "-z 3s -c 150 --connect storm --connect-timeout-secs 1 --max-error-rate 100%";
    let Some((json, _, stderr)) = within(flags) else { return };
    assert!(json["errors"]["refused"].as_u64() > Some(0), "{stderr}");
    assert!(stderr.contains("no local port is free (SOURCE_ADDRESS)"), "{stderr}");
    // Four addresses have them for 380.
    let flags = "-n 7600 -c 380 --connect storm --source-address 127.0.0.11-127.0.0.14";
    let Some((json, log, stderr)) = within(flags) else { return };
    assert_eq!(json["load"]["ok"], 7600, "{} {stderr}", json["errors"]);
    let mut connections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut most = 0;
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        connections.entry(words[0].to_owned()).or_default().insert(words[1].to_owned());
        most = most.max(words[3].parse().unwrap());
    }
    let each: Vec<usize> = connections.values().map(BTreeSet::len).collect();
    assert_eq!(log.lines().count(), 7600);
    assert_eq!((each.iter().sum::<usize>(), each.len()), (380, 4), "{each:?}");
    assert!(each.iter().all(|ports| *ports <= 100), "{each:?}");
    // On a busy machine the first may be done before the last begin; more than one address has ports.
    assert!(most > 100, "{most} at a time");
}

#[test]
fn a_limit_of_descriptors_that_is_too_low_is_told_before_the_load() {
    let server = Server::honest();
    let few = |connections: &str| {
        let args = ["-n", "500", "--shards", "1", "--quiet", "-c", connections, "--target"];
        Command::new("sh")
            .args([
                "-c",
                "ulimit -n 100 && exec \"$@\"",
                "sh",
                env!("CARGO_BIN_EXE_logboom-loadgen"),
            ])
            .args(args)
            .arg(format!("tcp://127.0.0.1:{}", server.port))
            .output()
            .unwrap()
    };
    let refused = few("100");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("CONCURRENCY 100 needs 148 open files"), "{stderr}");
    assert!(stderr.contains("may have 100: raise that (ulimit -n)"), "{stderr}");
    let enough = few("50");
    assert_eq!(enough.status.code(), Some(0), "{}", String::from_utf8_lossy(&enough.stderr));
}
