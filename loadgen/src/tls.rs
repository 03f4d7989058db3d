//! What the generator trusts and shows over TLS.
//!
//! Owns reading the PEM files, once, before the run begins; leaves handshakes to `hammer::stream`. What
//! the system trusts is found by rustls-native-certs, which reads SSL_CERT_FILE and SSL_CERT_DIR itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;

/// How to speak TLS with the target.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    /// The name that the target's certificate has to be for.
    pub(crate) name: ServerName<'static>,
}

/// Whom to trust.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// The authorities in this file.
    File(&'a Path),
    /// Those that the system trusts, or that SSL_CERT_FILE and SSL_CERT_DIR name.
    System,
}

/// The files of a client certificate and its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
}

impl Tls {
    /// Trusts `trust` for a target called `host`, and offers `protocols` (ALPN).
    ///
    /// # Errors
    /// Names the file that cannot be used, its knob, and why; or the host that no certificate can
    /// be for; or that the system trusts nobody.
    pub(crate) fn load(
        host: &str,
        trust: Trust<'_>,
        identity: Option<Identity<'_>>,
        protocols: &[&[u8]],
    ) -> Result<Tls, Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::Usage(format!("\"{host}\" (SERVER_HOST) is no name that a certificate can have"))
        })?;
        let refuse = |path: &Path, knob, reason: String| Error::Unusable {
            path: path.to_owned(),
            knob,
            reason,
        };
        let roots = match trust {
            Trust::System => system_roots()?,
            Trust::File(path) => {
                let refuse = |reason: String| refuse(path, "CA_CERT_PATH", reason);
                let mut roots = RootCertStore::empty();
                for authority in certificates(path).map_err(refuse)? {
                    roots.add(authority).map_err(|error| refuse(error.to_string()))?;
                }
                roots
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions")
            .with_root_certificates(roots);
        let mut client = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let chain = certificates(certificate)
                    .map_err(|reason| refuse(certificate, "CLIENT_CERT_PATH", reason))?;
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                    refuse(key, "CLIENT_KEY_PATH", reason(error, "private key"))
                })?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| refuse(key, "CLIENT_KEY_PATH", error.to_string()))?
            }
        };
        client.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Ok(Tls { client: Arc::new(client), name })
    }
}

/// The authorities that the system trusts. One that cannot be read is left out, as browsers do.
fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let reasons = if reasons.is_empty() { "none is found".to_owned() } else { reasons.join("; ") };
    Err(Error::Authorities(reasons))
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error| reason(error, "certificate");
    let all = CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong)?;
    if all.is_empty() { Err(wrong(PemError::NoItemsFound)) } else { Ok(all) }
}

fn reason(error: PemError, what: &str) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => format!("it holds no {what} in PEM"),
        error => format!("it is not PEM: {error}"),
    }
}

/// What a token file says, without the white space around it.
///
/// # Errors
/// Names the file and why it cannot be used.
pub(crate) fn token(path: &PathBuf) -> Result<String, Error> {
    let refuse =
        |reason: String| Error::Unusable { path: path.clone(), knob: "AUTH_TOKEN_FILE", reason };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    match text.trim() {
        "" => Err(refuse("it is empty".into())),
        token => Ok(token.to_owned()),
    }
}
