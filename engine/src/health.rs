//! Asks a running engine on this machine whether it is ready: `logboom-engine health`.
//!
//! For a container's health check and for scripts, so that an image needs no HTTP client. Owns one
//! question to the admin listener; leaves what readiness means to `status`.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::config::Config;

/// An engine that takes longer to answer is not healthy.
const PATIENCE: Duration = Duration::from_secs(2);
/// The answer is a word or two, and the hindrances by name.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Whether the engine that `config` describes is ready to take lines; the text says what it said.
///
/// # Errors
/// It is not, or nobody answers; the reason names the knob.
pub fn ask(config: &Config) -> Result<String, String> {
    if !config.admin_enabled {
        return Err("ADMIN_ENABLED=false: there is nobody to ask".to_owned());
    }
    let (host, port) = (&config.admin_host, config.admin_port);
    if port == 0 {
        return Err("ADMIN_PORT=0: which port it became stands in READY_FILE".to_owned());
    }
    let named = |error: io::Error| format!("{host}:{port} (ADMIN_HOST, ADMIN_PORT): {error}");
    let address = (host.as_str(), port).to_socket_addrs().map_err(named)?.next();
    let address = address.ok_or_else(|| named(io::Error::other("the name has no address")))?;
    let (code, body) = get(reachable(address), "/readyz").map_err(named)?;
    let said = body.trim().to_owned();
    if code == 200 { Ok(said) } else { Err(format!("not ready: {said}")) }
}

/// "Any address of this machine" is no address to call.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The status code and the body.
fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP answer"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_code_and_its_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\ndraining";
        assert_eq!(parse(answer), Some((503, "draining".to_owned())));
        for junk in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n"] {
            assert_eq!(parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn any_address_means_this_machine() {
        for (asked, called) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")]
        {
            assert_eq!(reachable(asked.parse().unwrap()), called.parse().unwrap());
        }
    }
}
