//! Where to send: `tcp://host:port` and its like.
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
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
            Scheme::Udp => "udp",
            Scheme::Null => "null",
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
            });
        }
        "null" => return Err(format!("\"{text}\": null:// has no host")),
        "http" | "https" | "kafka" | "mqtt" | "postgres" | "redis" => {
            return Err(format!(
                "{scheme}:// is not served by this build yet; tcp://, tls://, udp:// and \
                 null:// are"
            ));
        }
        _ => {
            return Err(format!(
                "unknown scheme \"{scheme}\": tcp, tls or udp://host:port, or null://"
            ));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
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
    if host.is_empty() || host.contains(['/', '@', '?', ' ']) {
        return Err(format!("\"{text}\" is not tcp://host:port"));
    }
    let port = port.map(|port| port.parse().map_err(|_| format!("\"{port}\" is not a port")));
    Ok(Endpoint { scheme, host: host.to_owned(), port: port.transpose()? })
}
