//! TLS: the keys, and the handshake.
//!
//! Owns what the engine proves itself with, and when that changes: [`Keys`] are read from their
//! files at the start and at each [`Keys::reload`]; a handshake takes what is there at its
//! beginning, and a connection keeps what its handshake took. Leaves bytes to `stream` and the time
//! limit to `connection`. Invariants: keys that cannot work never take the place of keys that
//! do; nothing is kept for a session on this side (tickets hold it), and a reload invalidates all
//! tickets, so that a client which the new files would not let in cannot resume.

mod session;
mod stream;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use runtime::socket::Socket;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

pub(crate) use self::session::buffer_bytes;
pub(crate) use self::stream::{Failed, Stream};
use crate::error::Error;

/// What a handshake holds until it is done, in bytes.
pub(crate) const HANDSHAKE_BYTES: usize = 32 * 1024;

/// Where the keys lie.
#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What the engine proves itself with, and whom it lets in. Clones share it, over all shards.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    files: Arc<Files>,
    /// Held for the time of a copy, once per handshake.
    server: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Keys {
    /// Reads server.crt and server.key of `cert_dir`, and the authorities of client certificates
    /// where clients have to have one.
    ///
    /// # Errors
    /// Names the file that cannot be used, its knob, and why.
    pub(crate) fn load(cert_dir: &Path, client_ca: Option<&Path>) -> Result<Keys, Error> {
        let files = Files {
            certificate: cert_dir.join("server.crt"),
            key: cert_dir.join("server.key"),
            client_ca: client_ca.map(Path::to_owned),
        };
        let server = server(&files)?;
        Ok(Keys { files: Arc::new(files), server: Arc::new(RwLock::new(Arc::new(server))) })
    }

    /// Reads the files again, for the handshakes to come.
    ///
    /// # Errors
    /// As [`Keys::load`]; the present keys then stay.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        let fresh = Arc::new(server(&self.files)?);
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn server(files: &Files) -> Result<ServerConfig, Error> {
    let unusable = |path: &Path, knob: &'static str, reason: &dyn Display| Error::Unusable {
        path: path.to_owned(),
        knob,
        reason: reason.to_string(),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate)
        .map_err(|reason| unusable(&files.certificate, "CERT_DIR", &reason))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unusable(&files.key, "CERT_DIR", &pem_reason(error, "private key")))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&files.certificate, "CERT_DIR", &error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let refuse = |reason: &dyn Display| unusable(path, "CLIENT_CA_PATH", reason);
            builder.with_client_cert_verifier(client_verifier(path, provider, &refuse)?)
        }
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => unusable(
            &files.key,
            "CERT_DIR",
            &format!("it is not the key of {}", files.certificate.display()),
        ),
        rustls::Error::InvalidCertificate(_) => unusable(&files.certificate, "CERT_DIR", &error),
        _ => unusable(&files.key, "CERT_DIR", &error),
    })?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.ticketer = aws_lc_rs::Ticketer::new()
        .map_err(|error| unusable(&files.certificate, "CERT_DIR", &error))?;
    Ok(server)
}

fn client_verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
    refuse: &dyn Fn(&dyn Display) -> Error,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).map_err(|reason| refuse(&reason))? {
        roots.add(certificate).map_err(|error| refuse(&error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| refuse(&error))
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let reason = |error| pem_reason(error, "certificate");
    let all = CertificateDer::pem_file_iter(path)
        .map_err(reason)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(reason)?;
    if all.is_empty() { Err(reason(PemError::NoItemsFound)) } else { Ok(all) }
}

fn pem_reason(error: PemError, what: &str) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => format!("it holds no {what} in PEM"),
        error => format!("it is not PEM: {error}"),
    }
}

/// Agrees with a client on a TLS session, with the keys of this moment.
///
/// # Errors
/// The client does not speak TLS, not as we ask, or is gone.
pub(crate) async fn handshake(
    keys: &Keys,
    socket: Socket,
    buffer: &RefCell<Vec<u8>>,
) -> Result<Stream, Failed> {
    stream::accept(keys.current(), socket, buffer).await
}
