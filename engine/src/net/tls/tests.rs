//! A session against rustls' own client, in memory, with the bytes cut anywhere.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::session::{Session, buffer_bytes};
use super::*;

struct Ends {
    client: ClientConnection,
    engine: Session,
    buffer: Vec<u8>,
    /// Plaintext that the engine has got.
    got: Vec<u8>,
    /// How many bytes go over at a time, in turn.
    cuts: Vec<usize>,
    turn: usize,
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    crate::certs::make(folder.path(), &[], 2).unwrap();
    folder
}

fn client(
    folder: &Path,
    version: &'static SupportedProtocolVersion,
    shows: bool,
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = if shows {
        let chain = vec![CertificateDer::from_pem_file(folder.join("client.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(folder.join("client.key")).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

impl Ends {
    fn new(keys: &Keys, client: ClientConnection, cuts: Vec<usize>) -> Ends {
        let engine = Session::new(keys.current()).unwrap();
        let buffer = vec![0; buffer_bytes(4096)];
        Ends { client, engine, buffer, got: Vec::new(), cuts, turn: 0 }
    }

    /// Carries bytes over until both ends are silent. Gives what broke the session.
    fn exchange(&mut self) -> Result<(), rustls::Error> {
        loop {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            let was_silent = wire.is_empty();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let room = self.engine.room(&mut self.buffer);
                let bytes = self.cuts[self.turn % self.cuts.len()].min(rest.len()).min(room.len());
                assert!(bytes > 0, "no room is left");
                self.turn += 1;
                room[..bytes].copy_from_slice(&rest[..bytes]);
                rest = &rest[bytes..];
                let plain = self.engine.take(&mut self.buffer, bytes)?;
                self.got.extend_from_slice(&self.buffer[..plain]);
            }
            if !self.pass_on_to_client()? && was_silent {
                return Ok(());
            }
        }
    }

    /// Whether the engine had something to say.
    fn pass_on_to_client(&mut self) -> Result<bool, rustls::Error> {
        let mut said = false;
        while !self.engine.outgoing().is_empty() {
            said = true;
            let bytes = self.client.read_tls(&mut self.engine.outgoing()).unwrap();
            self.engine.sent(bytes);
            self.client.process_new_packets()?;
        }
        Ok(said)
    }

    /// The client says `text` in pieces that its own buffer takes.
    fn say(&mut self, text: &[u8]) {
        let mut rest = text;
        while !rest.is_empty() {
            let taken = self.client.writer().write(rest).unwrap();
            rest = &rest[taken..];
            self.exchange().unwrap();
        }
    }

    /// What the client hears when the engine says `text`.
    fn hear(&mut self, text: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        for piece in text.chunks(10_000) {
            self.engine.encrypt(piece).unwrap();
            self.exchange().unwrap();
            let mut buffer = vec![0; 20_000];
            while let Ok(bytes @ 1..) = self.client.reader().read(&mut buffer) {
                heard.extend_from_slice(&buffer[..bytes]);
            }
        }
        heard
    }
}

fn copy(folder: &Path, from: &str, to: &str) {
    std::fs::copy(folder.join(from), folder.join(to)).unwrap();
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|index| b'a' + u8::try_from(index % 23).unwrap()).collect()
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn both_directions_arrive_whole_however_the_bytes_are_cut(
        cuts in proptest::collection::vec(prop_oneof![1usize..40, 1usize..40_000], 1..20),
        lengths in proptest::collection::vec(1usize..50_000, 1..4),
        tls13 in any::<bool>(),
    ) {
        let keys = Keys::load(shared(), None).unwrap();
        let version = VERSIONS[usize::from(tls13)];
        let mut ends = Ends::new(&keys, client(shared(), version, false), cuts);
        for length in lengths {
            ends.got.clear();
            ends.say(&text(length));
            prop_assert_eq!(&ends.got, &text(length));
            prop_assert_eq!(ends.hear(&text(length)), text(length));
        }
        prop_assert_eq!(ends.engine.buffers_bytes(), 0, "an idle session keeps no buffer");
        ends.client.send_close_notify();
        ends.exchange().unwrap();
        prop_assert!(ends.engine.has_peer_closed());
        prop_assert_eq!(ends.hear(b"after close_notify"), b"after close_notify");
        ends.engine.close();
        ends.exchange().unwrap();
        let end = ends.client.reader().read(&mut [0; 1]).unwrap();
        prop_assert_eq!(end, 0, "the client has seen close_notify");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_at_all_break_more_than_their_session(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in proptest::collection::vec(1usize..3000, 1..5),
        when in 0usize..4,
        junk in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let folder = shared();
        let keys = Keys::load(folder, None).unwrap();
        let client = client(folder, VERSIONS[when % 2], false);
        let mut ends = Ends::new(&keys, client, vec![usize::MAX]);
        if when >= 2 {
            ends.say(b"well so far");
            ends.client.writer().write_all(&text(2000)).unwrap();
        }
        let mut wire = Vec::new();
        while ends.client.wants_write() {
            ends.client.write_tls(&mut wire).unwrap();
        }
        wire.extend_from_slice(&junk);
        for (place, byte) in damage {
            *place.get_mut(&mut wire) = byte;
        }
        ends.got.clear();
        let mut from = 0;
        for cut in cuts.iter().cycle() {
            let room = ends.engine.room(&mut ends.buffer);
            let piece = &wire[from..wire.len().min(from + cut)];
            if piece.is_empty() || room.len() < piece.len() {
                break;
            }
            room[..piece.len()].copy_from_slice(piece);
            from += piece.len();
            if let Ok(plain) = ends.engine.take(&mut ends.buffer, piece.len()) {
                ends.got.extend_from_slice(&ends.buffer[..plain]);
            }
            let _ = ends.engine.encrypt(b"a reply");
        }
        ends.engine.close();
        prop_assert!(text(2000).starts_with(&ends.got), "nothing is got that was not said");
    }
}

/// Certificates that many cases share.
fn shared() -> &'static Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    FOLDER.get_or_init(folder).path()
}

#[test]
fn new_keys_are_announced_before_they_are_used() {
    let folder = folder();
    let keys = Keys::load(folder.path(), None).unwrap();
    let client = client(folder.path(), &rustls::version::TLS13, false);
    let mut ends = Ends::new(&keys, client, vec![usize::MAX]);
    ends.say(b"before");
    for _ in 0..5 {
        ends.client.refresh_traffic_keys().unwrap();
        ends.say(b"under new keys");
        assert_eq!(ends.hear(b"and back"), b"and back");
    }
    assert_eq!(ends.got, [&b"before"[..], &b"under new keys".repeat(5)].concat());
}

#[test]
fn what_came_whole_before_the_damage_is_given_out_and_then_the_error() {
    let folder = folder();
    let keys = Keys::load(folder.path(), None).unwrap();
    for version in VERSIONS {
        let client = client(folder.path(), version, false);
        let mut ends = Ends::new(&keys, client, vec![usize::MAX]);
        ends.say(b"first");
        let mut wire = Vec::new();
        for line in [b"second", b"broken"] {
            ends.client.writer().write_all(line).unwrap();
            ends.client.write_tls(&mut wire).unwrap();
        }
        *wire.last_mut().unwrap() ^= 1;
        ends.engine.room(&mut ends.buffer)[..wire.len()].copy_from_slice(&wire);
        let plain = ends.engine.take(&mut ends.buffer, wire.len()).unwrap();
        assert_eq!(&ends.buffer[..plain], b"second");
        assert_eq!(ends.engine.failed(), Some(&rustls::Error::DecryptError));
        assert!(ends.engine.encrypt(b"more").is_err());
        let alert = ends.pass_on_to_client().unwrap_err();
        assert!(matches!(alert, rustls::Error::AlertReceived(_)), "{alert}");
    }
}

#[test]
fn what_is_no_tls_is_told_so_by_an_alert() {
    let folder = folder();
    let keys = Keys::load(folder.path(), None).unwrap();
    for junk in
        [&b"{\"level\":\"INFO\",\"message\":\"\"}\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 99]]
    {
        let mut session = Session::new(keys.current()).unwrap();
        let mut buffer = vec![0; buffer_bytes(4096)];
        session.room(&mut buffer)[..junk.len()].copy_from_slice(junk);
        assert!(session.take(&mut buffer, junk.len()).is_err());
        assert_eq!(session.outgoing().first(), Some(&21), "an alert record");
    }
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_stays_outside() {
    let (folder, other) = (folder(), folder());
    let ca = folder.path().join("ca.crt");
    let keys = Keys::load(folder.path(), Some(&ca)).unwrap();
    for version in VERSIONS {
        let shows = client(folder.path(), version, true);
        let mut ends = Ends::new(&keys, shows, vec![usize::MAX]);
        ends.say(b"hello");
        assert_eq!(ends.got, b"hello");
        let mut ends = Ends::new(&keys, client(folder.path(), version, false), vec![usize::MAX]);
        assert_eq!(ends.exchange(), Err(rustls::Error::NoCertificatesPresented));
        assert!(ends.engine.is_handshaking());
    }
    // The authority that another engine made is no authority here, though its name is alike.
    std::fs::copy(folder.path().join("ca.crt"), other.path().join("ca.crt")).unwrap();
    let stranger = client(other.path(), &rustls::version::TLS13, true);
    let mut ends = Ends::new(&keys, stranger, vec![usize::MAX]);
    assert!(matches!(ends.exchange(), Err(rustls::Error::InvalidCertificate(_))));
}

/// What is done to the files, and the words that the error must have.
type Change<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str]);

#[test]
fn files_that_do_not_fit_are_named_with_their_knob() {
    let changes: [Change<'_>; 6] = [
        (
            "no file",
            &|dir| std::fs::remove_file(dir.join("server.crt")).unwrap(),
            &["server.crt", "No such file"],
        ),
        (
            "empty",
            &|dir| std::fs::write(dir.join("server.key"), "").unwrap(),
            &["server.key", "no private key"],
        ),
        (
            "a key for a certificate",
            &|dir| copy(dir, "server.key", "server.crt"),
            &["server.crt", "no certificate"],
        ),
        (
            "another key",
            &|dir| copy(dir, "client.key", "server.key"),
            &["server.key", "not the key of"],
        ),
        (
            "junk in PEM",
            &|dir| {
                std::fs::write(
                    dir.join("server.crt"),
                    "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
                )
                .unwrap()
            },
            &["server.crt", "not PEM"],
        ),
        (
            "PEM of junk",
            &|dir| {
                std::fs::write(
                    dir.join("server.crt"),
                    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                )
                .unwrap()
            },
            &["server.crt"],
        ),
    ];
    for (what, change, words) in changes {
        let folder = folder();
        change(folder.path());
        let error = Keys::load(folder.path(), None).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        for word in words.iter().chain(&["CERT_DIR"]) {
            assert!(text.contains(word), "{what}: {word} is missing in: {text}");
        }
    }
    let folder = folder();
    let text = Keys::load(folder.path(), Some(&folder.path().join("no.crt"))).unwrap_err();
    assert!(text.to_string().contains("CLIENT_CA_PATH"), "{text}");
}

#[test]
fn a_reload_counts_for_handshakes_to_come_and_a_failed_one_for_none() {
    let (folder, fresh) = (folder(), folder());
    let keys = Keys::load(folder.path(), None).unwrap();
    let greet = |authority: &Path| {
        let client = client(authority, &rustls::version::TLS13, false);
        Ends::new(&keys, client, vec![usize::MAX]).exchange()
    };
    greet(folder.path()).unwrap();
    for name in ["server.crt", "server.key"] {
        std::fs::copy(fresh.path().join(name), folder.path().join(name)).unwrap();
    }
    greet(folder.path()).unwrap();
    keys.reload().unwrap();
    assert!(greet(folder.path()).is_err(), "the old authority has not signed the new certificate");
    greet(fresh.path()).unwrap();
    std::fs::write(folder.path().join("server.key"), "").unwrap();
    assert!(keys.reload().is_err());
    greet(fresh.path()).unwrap();
}
