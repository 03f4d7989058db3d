//! Where to send: `tcp://host:port`, `http://host:port/path?query` and their like.
//!
//! Pure. Names are resolved when the run begins.

use serde::{Deserialize, Serialize};

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Lines and replies over TCP.
    #[default]
    Tcp,
    /// The same over TLS.
    Tls,
    /// Lines in datagrams, without replies.
    Udp,
    /// Nowhere: answered within the generator.
    Null,
    /// A request a message, or for a batch of them.
    Http,
    /// The same over TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
            Scheme::Udp => "udp",
            Scheme::Null => "null",
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// HTTP is spoken, over TLS or not.
    pub fn is_http(self) -> bool {
        matches!(self, Scheme::Http | Scheme::Https)
    }

    /// The bytes go through TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Tls | Scheme::Https)
    }

    /// The port that a URL without one means.
    pub fn port(self) -> Option<u16> {
        match self {
            Scheme::Http => Some(80),
            Scheme::Https => Some(443),
            Scheme::Tcp | Scheme::Tls | Scheme::Udp | Scheme::Null => None,
        }
    }
}

/// Where to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `None`: TCP, or TLS by ENABLE_TLS.
    pub scheme: Option<Scheme>,
    /// A name or an address, without brackets.
    pub host: String,
    /// `None`: SERVER_PORT.
    pub port: Option<u16>,
    /// Path and query, `None` where the protocol has none.
    pub path: Option<String>,
}

/// `tcp://host:port`; the scheme and the port may be left out, an IPv6 address has brackets.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let scheme = match scheme {
        "" => None,
        "tcp" => Some(Scheme::Tcp),
        "tls" => Some(Scheme::Tls),
        "udp" => Some(Scheme::Udp),
        "null" if matches!(rest, "" | "/") => {
            return Ok(Endpoint {
                scheme: Some(Scheme::Null),
                host: "null".to_owned(),
                port: None,
                path: None,
            });
        }
        "null" => return Err(format!("\"{text}\": null:// has no host")),
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        "kafka" | "mqtt" | "postgres" | "redis" => {
            return Err(format!(
                "{scheme}:// is not served by this build yet; tcp://, tls://, udp://, http://, \
                 https:// and null:// are"
            ));
        }
        _ => {
            return Err(format!(
                "unknown scheme \"{scheme}\": tcp, tls or udp://host:port, \
                 http or https://host/path, or null://"
            ));
        }
    };
    let (rest, path) = match scheme.filter(|scheme| scheme.is_http()) {
        Some(_) => split_path(rest)?,
        None => (rest.strip_suffix('/').unwrap_or(rest), None),
    };
    let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (host, behind) = inner.split_once(']').ok_or("an IPv6 address ends with ]")?;
        match behind.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if behind.is_empty() => (host, None),
            None => return Err(format!("\"{behind}\" behind the address is not a port")),
        }
    } else {
        match rest.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("an IPv6 address needs brackets: tcp://[{rest}]:port"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if host.is_empty() || host.contains(['/', '@', '?', ' ', '{']) {
        let form = if path.is_some() { "http://host:port/path" } else { "tcp://host:port" };
        return Err(format!("\"{text}\" is not {form}"));
    }
    let port = port.map(|port| port.parse().map_err(|_| format!("\"{port}\" is not a port")));
    let port = port.transpose()?.or_else(|| scheme.and_then(Scheme::port));
    Ok(Endpoint { scheme, host: host.to_owned(), port, path })
}

/// `host:port` and the path with its query; a fragment is never sent.
fn split_path(rest: &str) -> Result<(&str, Option<String>), String> {
    let (rest, _) = rest.split_once('#').unwrap_or((rest, ""));
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    if host.contains('@') {
        return Err("a user in a URL is not sent: HEADER or AUTH_TOKEN is".to_owned());
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    super::http::path(&path)?;
    Ok((host, Some(path)))
}
