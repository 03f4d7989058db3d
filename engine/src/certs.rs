//! `logboom-engine certs`: an authority of one's own, and a certificate for each end.
//!
//! Owns what is made and how it comes into the folder; leaves its use to `net/tls`. For machines
//! that have no other authority: the key of this one is not protected by a password. Invariants:
//! nothing is overwritten; a private key is never readable by others, not even for a moment; every
//! file appears whole, and after a failure none of them is there.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::DnsName;

use crate::error::Error;

/// Names that every server certificate is good for: this machine, and the container's.
pub const NAMES: &[&str] = &["localhost", "engine", "127.0.0.1", "::1"];

/// Clients whose clock is behind ours by less than this take the certificates at once.
const CLOCKS_APART: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// A host that a certificate is good for: an IP address, or a DNS name, perhaps `*.example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name.
    Dns(String),
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
            return Ok(Name::Ip(ip));
        }
        let bare = text.strip_prefix("*.").unwrap_or(text);
        DnsName::try_from(bare)
            .map(|_| Name::Dns(text.to_ascii_lowercase()))
            .map_err(|_| "neither an IP address nor a DNS name".into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Ip(ip) => ip.fmt(f),
            Name::Dns(name) => name.fmt(f),
        }
    }
}

/// What was made, in words.
#[derive(Debug)]
pub struct Made {
    cert_dir: PathBuf,
    names: Vec<Name>,
    days: u32,
}

/// Makes ca, server and client, each `.crt` and `.key`, in `cert_dir`; the server's are good for
/// [`NAMES`] and `names`. All are valid from now on, for `days` days.
///
/// # Errors
/// One of the files is there already, or `cert_dir` cannot be written.
pub fn make(cert_dir: &Path, names: &[Name], days: u32) -> Result<Made, Error> {
    let paths = ["ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"];
    for path in paths.map(|name| cert_dir.join(name)) {
        if path.symlink_metadata().is_ok() {
            return Err(is_there(&path));
        }
    }
    let mut all: Vec<Name> = NAMES.iter().filter_map(|name| name.parse().ok()).collect();
    for name in names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    let texts = certificates(&all, days).map_err(|error| Error::Unusable {
        path: cert_dir.to_owned(),
        knob: "CERT_DIR",
        reason: format!("no certificates can be made: {error}"),
    })?;
    let files: Vec<_> = paths.into_iter().zip(texts).collect();
    place(cert_dir, &files)?;
    Ok(Made { cert_dir: cert_dir.to_owned(), names: all, days })
}

/// Whether the engine would find a certificate and its key in `cert_dir`, good or not.
pub fn are_in(cert_dir: &Path) -> bool {
    ["server.crt", "server.key"].iter().all(|name| cert_dir.join(name).is_file())
}

/// The six files, in the order of [`make`]'s paths.
fn certificates(names: &[Name], days: u32) -> Result<[String; 6], rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let serial = serial()?;
    // Two authorities of the same name are a riddle in a client's trust store.
    let tag = serial[1..5].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut ca = params(&format!("Logboom CA {tag}"), days)?;
    ca.serial_number = Some(SerialNumber::from_slice(&serial));
    // It signs ends, no further authorities.
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca, &ca_key);

    let mut server = params("Logboom engine", days)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        server.subject_alt_names.push(match name {
            Name::Ip(ip) => SanType::IpAddress(*ip),
            Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    let server_key = KeyPair::generate()?;

    let mut client = params("Logboom client", days)?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client_key = KeyPair::generate()?;
    Ok([
        ca_certificate.pem(),
        ca_key.serialize_pem(),
        server.signed_by(&server_key, &issuer)?.pem(),
        server_key.serialize_pem(),
        client.signed_by(&client_key, &issuer)?.pem(),
        client_key.serialize_pem(),
    ])
}

/// What all three have in common, as RFC 5280 asks for it.
fn params(common_name: &str, days: u32) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Logboom");
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + now;
    params.not_before = now - CLOCKS_APART;
    params.not_after = now + DAY * days;
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A positive number that no other certificate has.
fn serial() -> Result<[u8; 16], rcgen::Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Neither negative nor with a zero in front, which strict readers refuse.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

fn is_there(path: &Path) -> Error {
    Error::Usage(format!(
        "{} is there already (CERT_DIR): certificates are not overwritten; move it away, or take another CERT_DIR",
        path.display()
    ))
}

/// Puts all files into the folder, or none.
fn place(cert_dir: &Path, files: &[(&str, String)]) -> Result<(), Error> {
    let mut undo = Undo::default();
    if !cert_dir.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(cert_dir)
            .map_err(|error| unusable(cert_dir, &error))?;
        undo.folder = Some(cert_dir.to_owned());
    }
    for (name, text) in files {
        let path = cert_dir.join(name);
        let draft = cert_dir.join(format!(".{name}.{}", std::process::id()));
        undo.drafts.push(draft.clone());
        let mode = if name.ends_with(".key") { KEY_MODE } else { CERTIFICATE_MODE };
        write(&draft, text, mode).map_err(|error| unusable(&draft, &error))?;
        // Unlike a rename, a link never takes the place of what somebody else made meanwhile.
        fs::hard_link(&draft, &path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => is_there(&path),
            _ => unusable(&path, &error),
        })?;
        undo.placed.push(path);
    }
    File::open(cert_dir)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| unusable(cert_dir, &error))?;
    undo.keep();
    Ok(())
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Unusable { path: path.to_owned(), knob: "CERT_DIR", reason: error.to_string() }
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // Left behind by a run that was killed, and by nobody else: it has our number.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Takes away what was made, unless all of it was.
#[derive(Default)]
struct Undo {
    drafts: Vec<PathBuf>,
    placed: Vec<PathBuf>,
    folder: Option<PathBuf>,
}

impl Undo {
    fn keep(mut self) {
        self.placed.clear();
        self.folder = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.drafts.iter().chain(&self.placed) {
            let _ = fs::remove_file(path);
        }
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Made { cert_dir, names, days } = self;
        let folder = cert_dir.display();
        let names: Vec<_> = names.iter().map(Name::to_string).collect();
        writeln!(f, "made in {folder}, valid for {days} days:")?;
        writeln!(f, "  ca.crt      the authority; clients trust what it has signed")?;
        writeln!(f, "  ca.key      its key; the engine does not need it, keep it elsewhere")?;
        writeln!(f, "  server.crt  the engine, as {}", names.join(", "))?;
        writeln!(f, "  server.key")?;
        writeln!(f, "  client.crt  a client, where CLIENT_CA_PATH asks for a certificate")?;
        writeln!(f, "  client.key")?;
        writeln!(f)?;
        writeln!(f, "engine:       ENABLE_TLS=true CERT_DIR={folder} logboom-engine")?;
        writeln!(
            f,
            "              and CLIENT_CA_PATH={folder}/ca.crt to let in only clients with a certificate"
        )?;
        writeln!(
            f,
            "client:       openssl s_client -connect localhost:9000 -CAfile {folder}/ca.crt"
        )?;
        writeln!(
            f,
            "              and -cert {folder}/client.crt -key {folder}/client.key with CLIENT_CA_PATH"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn six_files_and_nothing_else_with_keys_that_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let cert_dir = folder.path().join("a/b");
        let made = make(&cert_dir, &["logs.example.org".parse().unwrap()], 3).unwrap();
        let all = ["ca.crt", "ca.key", "client.crt", "client.key", "server.crt", "server.key"];
        assert_eq!(listing(&cert_dir), all);
        for name in all {
            let mode = fs::metadata(cert_dir.join(name)).unwrap().permissions().mode() & 0o7777;
            let expected = if name.ends_with("key") { 0o600 } else { 0o644 };
            assert_eq!(mode, expected, "{name}");
        }
        let text = made.to_string();
        assert!(text.contains("localhost, engine, 127.0.0.1, ::1, logs.example.org"), "{text}");
        let keys = crate::net::tls::Keys::load(&cert_dir, Some(&cert_dir.join("ca.crt")));
        assert!(keys.is_ok(), "{keys:?}");
    }

    #[test]
    fn a_file_that_is_there_is_named_and_nothing_is_made() {
        for present in ["server.key", "ca.crt"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(present), "mine").unwrap();
            let error = make(folder.path(), &[], 3).unwrap_err();
            assert!(error.to_string().contains(present), "{error}");
            assert_eq!(error.exit_code(), 2);
            assert_eq!(listing(folder.path()), [present]);
            assert!(!are_in(folder.path()), "a key alone serves nobody");
        }
    }

    #[test]
    fn what_was_made_is_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &[], 3).unwrap();
        assert!(are_in(folder.path()));
    }

    #[test]
    fn what_somebody_makes_meanwhile_stays_and_what_was_placed_goes() {
        let folder = tempfile::tempdir().unwrap();
        let cert_dir = folder.path().join("certs");
        let files = [("one.crt", "1".to_owned()), ("two.key", "2".to_owned())];
        fs::create_dir(&cert_dir).unwrap();
        fs::write(cert_dir.join("two.key"), "theirs").unwrap();
        assert_eq!(place(&cert_dir, &files).unwrap_err().exit_code(), 2);
        assert_eq!(listing(&cert_dir), ["two.key"]);
        assert_eq!(fs::read(cert_dir.join("two.key")).unwrap(), b"theirs");
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_with_its_knob() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = make(&file.join("certs"), &[], 3).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains("CERT_DIR"), "{error}");
    }

    #[test]
    fn names_are_addresses_or_dns_names() {
        for good in ["10.0.0.1", "::1", "[::1]", "host", "a.b.example", "*.example.org"] {
            good.parse::<Name>().unwrap();
        }
        assert_eq!("[::1]".parse::<Name>(), "::1".parse());
        for bad in ["", "*.", "a b", "http://x", "host:9000", "-", "ä.example", "a..b"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
