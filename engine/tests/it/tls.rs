//! TLS, as others' clients speak it: openssl's, Python's, rustls'.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::clients::line;
use super::harness::{Engine, PATIENCE, command, run, stored};
use super::secure::{Certs, ask, connect, connect_as, have};

/// `openssl s_client` says `lines`, hears a reply for each, and then says goodbye.
fn s_client(engine: &Engine, arguments: &[&str], lines: &[String]) -> (Vec<String>, Output) {
    let mut child = Command::new("openssl")
        .args(["s_client", "-brief", "-verify_return_error", "-x509_strict", "-connect"])
        .arg(engine.address.to_string())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut replies = Vec::new();
    let said = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let _ = stdin.write_all(said.as_bytes());
    for _ in lines {
        let mut reply = String::new();
        if stdout.read_line(&mut reply).unwrap() == 0 {
            break;
        }
        replies.push(reply.trim_end().to_owned());
    }
    drop(stdin);
    (replies, child.wait_with_output().unwrap())
}

fn python(script: &str, arguments: &[&str]) -> String {
    let output = Command::new("python3").arg("-c").arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn openssl_speaks_with_it_in_both_versions_and_checks_strictly() {
    if !have("openssl_speaks_with_it_in_both_versions_and_checks_strictly", &["openssl"]) {
        return;
    }
    let certs = Certs::make();
    let ca = certs.path("ca.crt");
    let engine = certs.engine(&[]);
    let lines: Vec<_> = (0..3).map(|id| line(&id.to_string())).collect();
    for (version, name, host) in [
        ("-tls1_2", "TLSv1.2", ["-verify_hostname", "localhost"]),
        ("-tls1_3", "TLSv1.3", ["-verify_hostname", "engine"]),
        ("-tls1_3", "TLSv1.3", ["-verify_hostname", "logs.example.org"]),
        ("-tls1_3", "TLSv1.3", ["-verify_ip", "127.0.0.1"]),
        ("-tls1_3", "TLSv1.3", ["-verify_ip", "::1"]),
    ] {
        let arguments = [version, "-CAfile", &ca, host[0], host[1]];
        let (replies, output) = s_client(&engine, &arguments, &lines);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(replies.len(), 3, "{said}");
        assert_eq!(replies[2], r#"{"status":"ok","id":"2"}"#);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(name) && said.contains("Verification: OK"), "{said}");
    }
    let stranger = Certs::make();
    for arguments in [
        ["-CAfile", &stranger.path("ca.crt"), "-verify_hostname", "localhost"],
        ["-CAfile", &ca, "-verify_hostname", "elsewhere.example"],
    ] {
        let (replies, output) = s_client(&engine, &arguments, &lines);
        assert!(replies.is_empty(), "{arguments:?}: {replies:?}");
        assert!(!output.status.success());
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("ok"), 15);
    assert_eq!(stopped.total("handshakes_failed"), 2, "{}", stopped.err);
}

#[test]
fn what_certs_makes_passes_openssl_verify_strictly() {
    if !have("what_certs_makes_passes_openssl_verify_strictly", &["openssl"]) {
        return;
    }
    let certs = Certs::make();
    for (purpose, name) in [("sslserver", "server.crt"), ("sslclient", "client.crt")] {
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &certs.path("ca.crt")])
            .arg(certs.path(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let again = run(command(&certs.dir()).args(["certs", "--cert-dir", &certs.path("")]));
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("ca.crt"));
}

const PYTHON: &str = r#"
import socket, ssl, sys
port, ca, host, cert, key = sys.argv[1:6]
context = ssl.create_default_context(cafile=ca)
context.verify_flags |= ssl.VERIFY_X509_STRICT
if cert:
    context.load_cert_chain(cert, key)
raw = socket.create_connection(("127.0.0.1", int(port)), timeout=30)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
s = context.wrap_bio(incoming, outgoing, server_hostname=host)

def until_done(step):
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            piece = raw.recv(65536)
            incoming.write(piece) if piece else incoming.write_eof()

until_done(s.do_handshake)
s.write(b'{"level":"INFO","message":"whole","id":1}\n{"level":"INFO","message":"unterminated","id":2}')
# Half of a close: our close_notify goes out, and theirs is not waited for.
try:
    s.unwrap()
except ssl.SSLWantReadError:
    pass
raw.sendall(outgoing.read())
heard = b""
try:
    while piece := until_done(lambda: s.read(1000)):
        heard += piece
except ssl.SSLZeroReturnError:
    pass  # their close_notify
print(s.version(), heard.decode().split())
"#;

#[test]
fn python_checks_strictly_and_hears_replies_after_its_close_notify() {
    if !have("python_checks_strictly_and_hears_replies_after_its_close_notify", &["python3"]) {
        return;
    }
    let certs = Certs::make();
    let engine = certs.engine(&[]);
    let port = engine.address.port().to_string();
    for host in ["localhost", "::1"] {
        let said = python(PYTHON, &[&port, &certs.path("ca.crt"), host, "", ""]);
        assert_eq!(said.trim(), r#"TLSv1.3 ['{"status":"ok","id":1}', '{"status":"ok","id":2}']"#);
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("ok"), 4);
}

#[test]
fn with_a_client_authority_only_its_clients_come_in() {
    let (certs, stranger) = (Certs::make(), Certs::make());
    let authority = certs.path("ca.crt");
    let engine = certs.engine(&[("CLIENT_CA_PATH", &authority)]);
    let mut client = connect_as(engine.address, &certs, Some(&certs.dir())).unwrap();
    assert!(ask(&mut client, &line("1")).unwrap().contains("ok"));
    for shows in [None, Some(stranger.dir())] {
        // In TLS 1.3 the client is done before it is refused, and learns it at its first read.
        let refused = connect_as(engine.address, &certs, shows.as_deref())
            .and_then(|mut client| ask(&mut client, &line("2")));
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("alert"), "{shows:?}: {error}");
    }
    if have("with_a_client_authority_only_its_clients_come_in", &["openssl", "python3"]) {
        let (cert, key) = (certs.path("client.crt"), certs.path("client.key"));
        let lines = [line("3")];
        for version in ["-tls1_2", "-tls1_3"] {
            let shows =
                [version, "-CAfile", &authority, "-cert", cert.as_str(), "-key", key.as_str()];
            let (replies, _) = s_client(&engine, &shows, &lines);
            assert_eq!(replies.len(), 1);
            let (replies, output) = s_client(&engine, &shows[..3], &lines);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(replies.is_empty() && said.contains("alert"), "{replies:?} {said}");
        }
        let port = engine.address.port().to_string();
        let said = python(PYTHON, &[&port, &authority, "localhost", &cert, &key]);
        assert!(said.contains(r#""id":2"#), "{said}");
    }
    drop(client);
    let stopped = engine.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(stopped.total("handshakes_failed") >= 2);
    assert!(!stored(stopped.folder.path()).contains_key(&line("2")));
}

#[test]
fn many_lines_are_answered_and_stored_whatever_is_read_at_a_time() {
    let certs = Certs::make();
    for settings in [&[][..], &[("BUFFER_SIZE", "4096")]] {
        let engine = certs.engine(settings);
        let mut client = connect(engine.address, &certs).unwrap();
        for batch in 0..5 {
            let lines: String = (0..4000).map(|n| line(&format!("{batch}-{n}")) + "\n").collect();
            client.write_all(lines.as_bytes()).unwrap();
            client.flush().unwrap();
            let mut reader = BufReader::new(&mut client);
            for n in 0..4000 {
                let mut reply = String::new();
                reader.read_line(&mut reply).unwrap();
                assert_eq!(reply, format!("{{\"status\":\"ok\",\"id\":\"{batch}-{n}\"}}\n"));
            }
        }
        drop(client);
        let stopped = engine.stop();
        stopped.assert_clean();
        assert_eq!(stopped.total("ok"), 20_000);
        assert_eq!(stored(stopped.folder.path()).len(), 20_000);
    }
}

#[test]
fn close_notify_ends_a_line_and_a_cut_does_not() {
    let certs = Certs::make();
    let engine = certs.engine(&[]);
    for says_goodbye in [true, false] {
        let mut client = connect(engine.address, &certs).unwrap();
        let text = format!("{}\n{}", line(&format!("{says_goodbye}")), line("unterminated"));
        client.write_all(text.as_bytes()).unwrap();
        if says_goodbye {
            client.conn.send_close_notify();
        }
        client.flush().unwrap();
        if !says_goodbye {
            client.sock.shutdown(Shutdown::Write).unwrap();
        }
        let mut replies = String::new();
        // An end without the engine's close_notify would be an error here.
        client.read_to_string(&mut replies).unwrap();
        assert_eq!(replies.lines().count(), if says_goodbye { 2 } else { 1 }, "{replies}");
    }
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("received"), 3);
}

#[test]
fn what_is_no_tls_gets_an_alert_and_good_clients_do_not_notice() {
    let certs = Certs::make();
    let engine = certs.engine(&[]);
    let mut good = connect(engine.address, &certs).unwrap();
    let mut junk: Vec<Vec<u8>> = vec![
        (line("plain") + "\n").into_bytes(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 100_000],
        vec![b'['; 1 << 20],
        // A record header, and nothing that fits it.
        [&[22, 3, 1, 0x40, 0][..], &[0xff; 0x4000]].concat(),
    ];
    junk.extend((0..20).map(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..random.usize(10..5000)).map(|_| random.u8(..)).collect::<Vec<u8>>()
    }));
    let count = junk.len() as u64;
    for bytes in junk {
        let mut stream = engine.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        assert!(heard.is_empty() || heard[0] == 21, "an alert or nothing: {heard:?}");
        assert!(ask(&mut good, &line("good")).unwrap().contains("ok"));
    }
    drop(good);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("handshakes_failed"), count);
    assert_eq!(stopped.total("received"), count, "nothing of it is a line");
}

#[test]
fn tls_on_a_plain_port_is_answered_as_the_bad_lines_that_it_is() {
    let engine = Engine::start(&[]);
    let certs = Certs::make();
    assert!(connect(engine.address, &certs).is_err());
    assert!(engine.converse((line("1") + "\n").as_bytes())[0].code.is_none());
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("ok"), 1);
}

#[test]
fn who_does_not_finish_the_handshake_in_time_is_closed() {
    let certs = Certs::make();
    let engine = certs.engine(&[("HANDSHAKE_TIMEOUT_SECS", "1")]);
    // What a client says first, cut in the middle.
    let half = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat();
    let mut slow: Vec<TcpStream> = Vec::new();
    for first in [&[][..], &half, &half[..3]] {
        let mut stream = engine.connect();
        stream.write_all(first).unwrap();
        slow.push(stream);
    }
    // One byte now and then does not help.
    let mut dribble = engine.connect();
    let began = Instant::now();
    let mut bytes = half.iter().cycle();
    while dribble.write_all(&[*bytes.next().unwrap()]).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it may go on for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    for mut stream in slow {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut client = connect(engine.address, &certs).unwrap();
    assert!(ask(&mut client, &line("1")).unwrap().contains("ok"));
    drop(client);
    let stopped = engine.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert_eq!(stopped.total("handshake_timeouts"), 4);
}

#[test]
fn new_certificates_come_by_sighup_and_connections_stay() {
    let (certs, fresh) = (Certs::make(), Certs::make());
    let old = Certs::make();
    old.replace_by(&certs);
    let engine = certs.engine(&[]);
    let mut live = connect(engine.address, &old).unwrap();
    assert!(ask(&mut live, &line("before")).unwrap().contains("ok"));

    std::fs::write(certs.path("server.key"), "no key").unwrap();
    engine.signal("-HUP");
    std::thread::sleep(Duration::from_millis(500));
    let mut during = connect(engine.address, &old).unwrap();
    assert!(ask(&mut during, &line("during")).unwrap().contains("ok"));

    certs.replace_by(&fresh);
    engine.signal("-HUP");
    let began = Instant::now();
    let mut new = loop {
        match connect(engine.address, &fresh) {
            Ok(client) => break client,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(ask(&mut new, &line("new")).unwrap().contains("ok"));
    assert!(ask(&mut live, &line("after")).unwrap().contains("ok"));
    assert!(connect(engine.address, &old).is_err(), "the old certificate is shown no more");
    drop((live, during, new));
    let stopped = engine.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert_eq!(stopped.total("ok"), 4);
    for words in ["server.key", "CERT_DIR", "as before", "certificates read again"] {
        assert!(stopped.err.contains(words), "{words} is missing in: {}", stopped.err);
    }
}

#[test]
fn a_stop_says_goodbye_to_idle_clients() {
    let certs = Certs::make();
    let engine = certs.engine(&[]);
    let mut client = connect(engine.address, &certs).unwrap();
    assert!(ask(&mut client, &line("1")).unwrap().contains("ok"));
    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        client.read_to_string(&mut text).map(|_| text)
    });
    let stopped = engine.stop();
    stopped.assert_clean();
    let heard = heard.join().unwrap().expect("close_notify in front of the end");
    assert!(heard.contains("shutting_down"), "{heard}");
}

#[test]
fn certificates_that_cannot_be_used_are_refused_with_file_and_knob() {
    let certs = Certs::make();
    let dir = certs.path("");
    let refused = |settings: &[(&str, &str)], code: i32, words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let output = run(command(folder.path()).envs(settings.iter().copied()));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "{word} is missing in: {said}");
        }
    };
    let on = ("ENABLE_TLS", "true");
    refused(&[on, ("CERT_DIR", "/no/such")], 3, &["/no/such/server.crt", "CERT_DIR"]);
    refused(
        &[on, ("CERT_DIR", &dir), ("CLIENT_CA_PATH", "/no/such.crt")],
        3,
        &["/no/such.crt", "CLIENT_CA_PATH"],
    );
    refused(&[("CLIENT_CA_PATH", &certs.path("ca.crt"))], 2, &["CLIENT_CA_PATH", "ENABLE_TLS"]);
    std::fs::copy(certs.path("client.key"), certs.path("server.key")).unwrap();
    refused(&[on, ("CERT_DIR", &dir)], 3, &["server.key", "not the key of", "CERT_DIR"]);
    std::fs::write(certs.path("server.crt"), "").unwrap();
    refused(&[on, ("CERT_DIR", &dir)], 3, &["server.crt", "no certificate", "CERT_DIR"]);
}

/// What a session is charged with in the memory account holds for idle ones.
#[test]
fn an_idle_tls_connection_costs_no_more_than_a_few_pages() {
    const CLIENTS: u64 = 300;
    let resident = |engine: &Engine| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    let certs = Certs::make();
    let engine = certs.engine(&[("SHARDS", "1")]);
    let meet = |id: u64| {
        let mut client = connect(engine.address, &certs).unwrap();
        assert!(ask(&mut client, &line(&id.to_string())).unwrap().contains("ok"));
        client
    };
    let mut clients: Vec<_> = (0..50).map(meet).collect();
    let before = resident(&engine);
    clients.extend((0..CLIENTS).map(meet));
    let each = resident(&engine).saturating_sub(before) / CLIENTS;
    println!("an idle TLS connection: {each} bytes resident");
    assert!(each < 32 * 1024, "{each} bytes each");
    drop(clients);
    engine.stop().assert_clean();
}
