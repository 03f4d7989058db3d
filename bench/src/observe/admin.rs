//! Asks an engine elsewhere what it costs: `/status` of its admin listener.
//!
//! Owns one question over HTTP, bounded in time and size. Leaves what the figures mean to
//! [`super`].

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde::Deserialize;

use super::caps::Caps;
use crate::config::Address;

/// A sample that takes longer is none.
const PATIENCE: Duration = Duration::from_millis(500);
/// A page of an engine with hundreds of shards is smaller.
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What of the page matters here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Page {
    /// Tells one life of the engine from the next.
    pub started_at: String,
    pub process: Option<Process>,
    pub caps: Caps,
}

/// The engine's own process.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Process {
    pub cpu_s: f64,
    pub resident_bytes: u64,
}

/// The page of the engine whose admin listener is at `address`.
///
/// # Errors
/// Nobody answers in time, or it is no engine.
pub fn ask(address: &Address) -> io::Result<Page> {
    let mut last = io::Error::other("the name has no address");
    for address in (address.host.as_str(), address.port).to_socket_addrs()? {
        match get(address) {
            Ok(answer) => return parse(&answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn get(address: std::net::SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /status HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &str) -> io::Result<Page> {
    let fault = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| fault("that is no HTTP answer".into()))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        let line = head.lines().next().unwrap_or_default();
        return Err(fault(format!("/status was answered with {line:?}")));
    }
    serde_json::from_str(body)
        .map_err(|error| fault(format!("/status is not an engine's: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_what_is_none_is_told() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n\
             {\"started_at\":\"t\",\"process\":{\"cpu_s\":1.5,\"resident_bytes\":9,\"fds\":3},\
              \"caps\":{\"cpus\":[0],\"cpu_quota\":null},\"ready\":true}";
        let page = parse(answer).unwrap();
        assert_eq!(page.process, Some(Process { cpu_s: 1.5, resident_bytes: 9 }));
        assert_eq!(page.caps.cpus, [0]);
        for (answer, needle) in [
            ("SSH-2.0", "no HTTP"),
            ("HTTP/1.1 404 Not Found\r\n\r\nno", "404"),
            ("HTTP/1.1 200 OK\r\n\r\n{}", "started_at"),
        ] {
            let error = parse(answer).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn nobody_there_is_an_error() {
        let address = Address { host: "127.0.0.1".into(), port: 1 };
        assert!(ask(&address).is_err());
    }
}
