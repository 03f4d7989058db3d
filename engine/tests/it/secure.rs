//! Certificates by the engine's own `certs`, and a TLS client of rustls.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::harness::{self, Engine, PATIENCE};

pub(crate) struct Certs(TempDir);

impl Certs {
    pub(crate) fn make() -> Certs {
        let folder = tempfile::tempdir().unwrap();
        let output = harness::run(harness::command(folder.path()).args([
            "certs",
            "--name",
            "logs.example.org",
            "--cert-dir",
            folder.path().join("certs").to_str().unwrap(),
        ]));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        Certs(folder)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.path().join("certs")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir().join(name).to_str().unwrap().to_owned()
    }

    /// An engine that shows the server certificate.
    pub(crate) fn engine(&self, settings: &[(&str, &str)]) -> Engine {
        let dir = self.path("");
        let mut all = vec![("ENABLE_TLS", "true"), ("CERT_DIR", dir.as_str())];
        all.extend_from_slice(settings);
        Engine::start(&all)
    }

    /// Puts other certificates in the place of these.
    pub(crate) fn replace_by(&self, other: &Certs) {
        for name in ["ca.crt", "server.crt", "server.key"] {
            std::fs::copy(other.path(name), self.path(name)).unwrap();
        }
    }
}

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts the authority of `certs`; it has shaken hands when it is here.
pub(crate) fn connect(address: SocketAddr, certs: &Certs) -> std::io::Result<Client> {
    connect_as(address, certs, None)
}

/// The same, with the client certificate of a folder.
pub(crate) fn connect_as(
    address: SocketAddr,
    certs: &Certs,
    shows: Option<&Path>,
) -> std::io::Result<Client> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.path("ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => builder.with_no_client_auth(),
        Some(folder) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(folder.join("client.crt")).unwrap()],
                PrivateKeyDer::from_pem_file(folder.join("client.key")).unwrap(),
            )
            .unwrap(),
    };
    let session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut client = StreamOwned::new(session, socket);
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    Ok(client)
}

/// Sends a line, and gives its reply.
pub(crate) fn ask(client: &mut Client, line: &str) -> std::io::Result<String> {
    writeln!(client, "{line}")?;
    client.flush()?;
    let mut reply = String::new();
    // Unbuffered, so that nothing of later replies is lost.
    BufReader::with_capacity(1, client).read_line(&mut reply)?;
    Ok(reply)
}

/// Whether both tools are there; says so where not.
pub(crate) fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        let found = Command::new(tool)
            .arg("--help")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            harness::skip(test, &format!("{tool} is not installed"));
            return false;
        }
    }
    true
}
