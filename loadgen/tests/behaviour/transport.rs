//! TLS, gzip and UDP, against servers that speak them, don't, or stop halfway.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::server::{OK, Server};
use crate::tool::{command, run};

/// An authority, and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), issuer.pem()).unwrap();
        let authority = Authority { issuer, folder };
        let (certificate, key) = authority.sign("client");
        fs::write(authority.folder.path().join("client.crt"), certificate.pem()).unwrap();
        fs::write(authority.folder.path().join("client.key"), key.serialize_pem()).unwrap();
        authority
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().unwrap().to_owned()
    }

    /// A server for `name` that answers every line with ok.
    fn serve(&self, name: &str, asks_for_certificate: bool) -> u16 {
        let (certificate, key) = self.sign(name);
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, config) = (socket.unwrap(), config.clone());
                std::thread::spawn(move || answer(socket, config));
            }
        });
        port
    }
}

fn answer(socket: TcpStream, config: Arc<ServerConfig>) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        let lines = chunk[..n].iter().filter(|&&byte| byte == b'\n').count();
        if stream.write_all(OK.repeat(lines).as_bytes()).is_err() {
            return;
        }
    }
}

/// What the binary says when it cannot even begin to send.
fn unreachable(arguments: &str) -> String {
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let output = command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(15), "{output:?}");
    String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap()
}

#[test]
fn messages_go_over_tls_and_every_reply_is_counted() {
    let authority = Authority::new("one");
    let port = authority.serve("localhost", false);
    let (ca, target) = (authority.path("ca.crt"), format!("tls://localhost:{port}"));
    let run = run(
        port,
        &format!("-n 30000 -c 3 --batch-size 3000 --target {target} --ca-cert-path {ca}"),
    );
    assert_eq!((run.code, run.load("ok")), (0, 30_000));
    assert_eq!(run.json["config"]["flows"][0]["scheme"], "tls");
}

#[test]
fn enable_tls_speaks_tls_with_server_host() {
    let authority = Authority::new("one");
    let port = authority.serve("127.0.0.1", false);
    let run =
        run(port, &format!("-n 100 -c 2 --enable-tls --ca-cert-path {}", authority.path("ca.crt")));
    assert_eq!((run.code, run.load("ok")), (0, 100));
}

#[test]
fn a_target_that_asks_for_a_certificate_gets_it_and_says_so_without() {
    let authority = Authority::new("one");
    let port = authority.serve("localhost", true);
    let target = format!(
        "-n 50 -c 1 --target tls://localhost:{port} --ca-cert-path {}",
        authority.path("ca.crt")
    );
    let shown = format!(
        "{target} --client-cert-path {} --client-key-path {}",
        authority.path("client.crt"),
        authority.path("client.key")
    );
    let with = run(port, &shown);
    assert_eq!((with.code, with.load("ok")), (0, 50));
    // Over TLS 1.3 the refusal shows only when the first reply is read.
    let without = run(port, &format!("{target} -z 1 --connect-timeout-secs 1"));
    assert_eq!(without.load("ok"), 0);
    assert_ne!(without.code, 0);
}

#[test]
fn a_certificate_that_proves_nothing_is_refused_with_the_reason() {
    let (authority, other) = (Authority::new("one"), Authority::new("other"));
    let port = authority.serve("elsewhere.test", false);
    let target = format!(
        "-n 1 -c 1 --connect-timeout-secs 1 --target tls://localhost:{port} --ca-cert-path"
    );
    let said = unreachable(&format!("{target} {}", authority.path("ca.crt")));
    assert!(said.contains("certificate") && said.contains("NotValidForName"), "{said}");
    let said = unreachable(&format!("{target} {}", other.path("ca.crt")));
    assert!(said.contains("certificate") && said.contains("UnknownIssuer"), "{said}");
}

#[test]
fn a_target_without_tls_is_told_apart() {
    let server = Server::honest();
    let authority = Authority::new("one");
    let port = server.port;
    // It answers the handshake with lines of its own, as it takes it for lines.
    let said = unreachable(&format!(
        "-n 1 -c 1 --connect-timeout-secs 1 --target tls://localhost:{port} --ca-cert-path {}",
        authority.path("ca.crt")
    ));
    assert!(said.contains("TLS handshake") || said.contains("in time"), "{said}");
}

#[test]
fn a_handshake_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let authority = Authority::new("one");
    let said = unreachable(&format!(
        "-n 1 -c 1 --connect-timeout-secs 1 --target tls://localhost:{port} --ca-cert-path {}",
        authority.path("ca.crt")
    ));
    assert!(said.contains("in time"), "{said}");
    drop(listener);
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_knob() {
    let authority = Authority::new("one");
    let empty = authority.path("empty");
    fs::write(&empty, "").unwrap();
    for (arguments, code, words) in [
        (
            "--enable-tls --ca-cert-path /nowhere/ca.crt".to_owned(),
            3,
            ["/nowhere/ca.crt", "CA_CERT_PATH"],
        ),
        (format!("--enable-tls --ca-cert-path {empty}"), 3, [empty.as_str(), "CA_CERT_PATH"]),
        (
            "--enable-tls --client-cert-path a".to_owned(),
            2,
            ["CLIENT_CERT_PATH", "CLIENT_KEY_PATH"],
        ),
        (format!("--auth-token-file {empty}"), 3, [empty.as_str(), "AUTH_TOKEN_FILE"]),
        ("--target udp://127.0.0.1:9 --durability durable".to_owned(), 2, ["DURABILITY", "udp://"]),
        (
            "--target udp://127.0.0.1:9 --udp-datagram-bytes 70000".to_owned(),
            2,
            ["70000", "UDP_DATAGRAM_BYTES"],
        ),
    ] {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let output = command(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

/// Unpacks what comes in, answers each line, and counts members.
fn gzip_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut out = socket.try_clone().unwrap();
                let unpacked = flate2::bufread::MultiGzDecoder::new(BufReader::new(socket));
                for line in BufReader::new(unpacked).lines() {
                    let line = line.unwrap();
                    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
                    if out.write_all(OK.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn compressed_batches_are_members_of_whole_lines() {
    let port = gzip_server();
    let run = run(port, "-n 20000 -c 2 --batch-size 5000 --compress");
    assert_eq!((run.code, run.load("ok")), (0, 20_000));
}

#[test]
fn a_target_that_takes_compressed_bytes_slowly_gets_whole_members() {
    // Reads nothing for a while, so that the socket fills in the middle of a member.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let mut out = socket.try_clone().unwrap();
        let mut lines =
            BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(socket))).lines();
        let mut count = 0;
        while let Some(Ok(_)) = lines.next() {
            count += 1;
            if out.write_all(OK.as_bytes()).is_err() {
                break;
            }
        }
        tell.send(count).unwrap();
    });
    let run = run(port, "-n 150000 -c 1 --batch-size 150000 --compress");
    assert_eq!((run.code, run.load("ok")), (0, 150_000));
    assert_eq!(told.recv().unwrap(), 150_000);
}

/// Runs over UDP, and gives the summary's JSON and what arrived.
fn over_udp(arguments: &str) -> (serde_json::Value, Vec<Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let target = format!("udp://{}", socket.local_addr().unwrap());
    let mut all = vec!["--json", "-", "--target", &target];
    all.extend(arguments.split_whitespace());
    let output = command(&all).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut datagrams = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Ok(n) = socket.recv(&mut buffer) {
        datagrams.push(buffer[..n].to_vec());
    }
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("UDP has no replies"), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), datagrams)
}

fn lines(bytes: &[u8]) -> usize {
    assert!(bytes.ends_with(b"}\n"), "whole lines only");
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[test]
fn datagrams_hold_whole_lines_and_nothing_is_claimed_of_them() {
    let (json, datagrams) = over_udp("-n 500 -c 2 --batch-size 20");
    assert!(datagrams.iter().all(|datagram| datagram.len() <= 1400));
    assert_eq!(datagrams.iter().map(|datagram| lines(datagram)).sum::<usize>(), 500);
    let load = &json["load"];
    assert_eq!(
        (&load["sent"], &load["unacknowledged"], &load["ok"]),
        (&500.into(), &500.into(), &0.into())
    );
    assert_eq!(json["latency"]["response"]["count"], 0);
    assert_eq!(json["latency"]["lag"]["count"], 500);
}

#[test]
fn a_compressed_datagram_is_one_member() {
    let (_, datagrams) =
        over_udp("-n 200 -c 1 --batch-size 20 --compress --udp-datagram-bytes 4000");
    let mut count = 0;
    for datagram in &datagrams {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&datagram[..]).read_to_end(&mut text).unwrap();
        count += lines(&text);
    }
    assert_eq!(count, 200);
}

#[test]
fn that_nobody_listens_on_udp_shows_as_refused() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let run = crate::tool::run_unchecked(&format!(
        "-n 100 -c 1 --batch-size 1 --target udp://127.0.0.1:{port}"
    ));
    assert!(run.error("refused") > 0);
    assert_eq!(run.load("ok"), 0);
}

#[test]
fn the_token_goes_into_the_hello_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "s3cret-token\n").unwrap();
    let server = Server::start(|line| {
        if line.index == 0 {
            assert_eq!(line.json()["hello"]["token"], "s3cret-token");
            let welcome = r#"{"hello":{"version":1,"replies":"each","durability":"written","shard":0,"shards":1,"line_bytes_max":262144}}"#;
            return crate::server::Do::Say(format!("{welcome}\n"));
        }
        crate::server::Do::Say(OK.to_owned())
    });
    let run = run(server.port, &format!("-n 10 -c 1 --auth-token-file {}", show(&path)));
    assert_eq!((run.code, run.load("ok")), (0, 10));
    assert!(!run.json.to_string().contains("s3cret") && !run.stderr.contains("s3cret"));
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}
