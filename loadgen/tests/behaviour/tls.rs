//! TLS and gzip against a server that answers as lines come out, and takes writes in parts.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::keys::Keys;
use crate::sealed::{Manner, Sealed};
use crate::tool::run;

fn flags(keys: &Keys) -> String {
    format!("--enable-tls --ca-cert-path {}", keys.path("ca.crt").display())
}

fn tls(keys: &Keys) -> Manner {
    Manner { tls: Some(keys.server(None)), ..Manner::default() }
}

/// Every message once, each connection's without gaps.
fn check_lines(lines: &[String], count: usize) {
    let seen: BTreeSet<(u64, u64)> = lines
        .iter()
        .map(|line| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            (json["conn"].as_u64().unwrap(), json["seq"].as_u64().unwrap())
        })
        .collect();
    assert_eq!((lines.len(), seen.len()), (count, count));
}

#[test]
fn messages_arrive_through_tls_whatever_a_write_takes() {
    let keys = Keys::new("127.0.0.1");
    for is_slow in [false, true] {
        let server = Sealed::start(Manner { is_slow, ..tls(&keys) });
        let flags = format!("{} -n 6000 -c 2 --batch-size 3000", flags(&keys));
        let run = run(server.port, &flags);
        assert_eq!((run.code, run.load("ok")), (0, 6000), "{}", run.stderr);
        check_lines(&server.lines(), 6000);
        for _ in 0..100 {
            if server.seen.goodbyes.load(Ordering::Relaxed) == 2 {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.seen.goodbyes.load(Ordering::Relaxed), 2, "each says good-bye");
    }
}

#[test]
fn members_arrive_through_tls_and_in_the_open_whatever_a_write_takes() {
    let keys = Keys::new("127.0.0.1");
    for is_tls in [false, true] {
        for is_slow in [false, true] {
            let manner = if is_tls { tls(&keys) } else { Manner::default() };
            let server = Sealed::start(Manner { is_slow, ..manner });
            let tls = if is_tls { flags(&keys) } else { String::new() };
            let flags = format!("{tls} --compress -n 30k -c 2 --batch-size 5000");
            let run = run(server.port, &flags);
            assert_eq!((run.code, run.load("ok")), (0, 30_000), "{}", run.stderr);
            check_lines(&server.lines(), 30_000);
            let members = server.seen.members.load(Ordering::Relaxed);
            assert!((6..=18).contains(&members), "{members}");
        }
    }
}

#[test]
fn a_connection_that_is_opened_again_resumes_its_session() {
    let keys = Keys::new("127.0.0.1");
    let server = Sealed::start(Manner { lines_max: Some(1), ..tls(&keys) });
    // Each message is the last of its connection, 250 ms before the next is due.
    let flags = format!("{} -r 4 -n 5 -c 1", flags(&keys));
    let run = run(server.port, &flags);
    assert_eq!((run.code, run.load("ok")), (0, 5), "{}", run.stderr);
    assert!(server.seen.resumed.load(Ordering::Relaxed) >= 3);
}

#[test]
fn a_tls_server_behind_tcp_says_so() {
    let keys = Keys::new("127.0.0.1");
    let server = Sealed::start(tls(&keys));
    // Each attempt costs the batch that was written.
    let run = run(server.port, "-n 100 -c 1 --batch-size 10");
    assert_eq!((run.load("ok"), run.error("refused")), (0, 100), "{}", run.json["errors"]);
    assert!(run.stderr.contains("the target speaks TLS: tls://"), "{}", run.stderr);
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it_or_refuses() {
    let (keys, clients) = (Keys::new("127.0.0.1"), Keys::new("client"));
    let server =
        Sealed::start(Manner { tls: Some(keys.server(Some(&clients))), ..Manner::default() });
    let with = |keys_of: &Keys| {
        let (certificate, key) = (keys_of.path("client.crt"), keys_of.path("client.key"));
        format!("--client-cert-path {} --client-key-path {}", certificate.display(), key.display())
    };
    let good = run(server.port, &format!("{} {} -n 100", flags(&keys), with(&clients)));
    assert_eq!((good.code, good.load("ok")), (0, 100), "{}", good.stderr);

    for (more, words) in
        [(String::new(), "asks for a client certificate"), (with(&keys), "the target refuses")]
    {
        // In TLS 1.3 the refusal comes after the handshake: it may cost a batch.
        let bad = run(server.port, &format!("{} {more} -n 10 -c 1", flags(&keys)));
        assert_eq!((bad.load("ok"), bad.error("refused")), (0, 10), "{}", bad.json["errors"]);
        assert!(bad.stderr.contains(words), "{}", bad.stderr);
        assert!([10, 15].contains(&bad.code));
    }
}
