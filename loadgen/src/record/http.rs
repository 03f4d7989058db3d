//! A client that speaks HTTP/1.1: each request is an entry of an access log.
//!
//! The log is `combined`, which knows seconds only; so ` recorded_at=<ns since 1970>` stands behind
//! each entry, for the replay to keep the gaps. Bodies are taken and dropped.
//! Invariant: a response for each request, in order; nothing of a request that is not understood is
//! kept, and its connection ends.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use super::{READ_BYTES, Shared, prepare, read};
use crate::plan::replay::screen::RECORDED_AT;

const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 128;

pub(super) fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    is_one_too_many: bool,
) -> io::Result<()> {
    prepare(&stream)?;
    let refuse = |stream: &mut TcpStream, status: &str| {
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    };
    if is_one_too_many {
        return refuse(&mut stream, "503 Service Unavailable");
    }
    let (mut held, mut chunk, mut out) = (Vec::new(), vec![0; READ_BYTES], Vec::new());
    // Of a body that is dropped.
    let mut unread = 0u64;
    loop {
        let n = read(&mut stream, &mut chunk, shared)?;
        if n == 0 {
            return Ok(());
        }
        held.extend_from_slice(&chunk[..n]);
        let mut at = 0;
        loop {
            let skipped = unread.min((held.len() - at) as u64);
            unread -= skipped;
            at += usize::try_from(skipped).unwrap_or(usize::MAX);
            if unread > 0 || at == held.len() {
                break;
            }
            match Asked::parse(&held[at..]) {
                Ok(None) if held.len() - at <= HEAD_BYTES_MAX => break,
                Ok(Some(asked)) => {
                    at += asked.head_bytes;
                    unread = asked.body_bytes;
                    let status = if asked.brings { 204 } else { 200 };
                    if !shared.file.keep(|file, at_ns| asked.keep(file, peer, status, at_ns)) {
                        stream.write_all(&out)?;
                        return refuse(&mut stream, "503 Service Unavailable");
                    }
                    let words = if asked.brings { "204 No Content" } else { "200 OK" };
                    let length = if asked.brings { "" } else { "Content-Length: 0\r\n" };
                    let close = if asked.is_last { "Connection: close\r\n" } else { "" };
                    if asked.waits {
                        out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    write!(out, "HTTP/1.1 {words}\r\n{length}{close}\r\n")?;
                    if asked.is_last {
                        return stream.write_all(&out);
                    }
                }
                Ok(None) | Err(_) => {
                    shared.file.reject();
                    stream.write_all(&out)?;
                    return refuse(&mut stream, "400 Bad Request");
                }
            }
        }
        held.drain(..at);
        stream.write_all(&out)?;
        out.clear();
    }
}

/// What a request says.
struct Asked {
    method: String,
    target: String,
    minor: u8,
    agent: String,
    referrer: String,
    head_bytes: usize,
    body_bytes: u64,
    /// It has a body, or is of a kind that has one.
    brings: bool,
    /// It waits for a word before it sends its body.
    waits: bool,
    is_last: bool,
}

impl Asked {
    /// Reads a head; `None` if it is not whole.
    fn parse(bytes: &[u8]) -> Result<Option<Asked>, httparse::Error> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(head_bytes) = request.parse(bytes)? else {
            return Ok(None);
        };
        let minor = request.version.unwrap_or(0);
        let mut asked = Asked {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            minor,
            agent: "-".to_owned(),
            referrer: "-".to_owned(),
            head_bytes,
            body_bytes: 0,
            brings: false,
            waits: false,
            is_last: minor == 0,
        };
        asked.brings = matches!(asked.method.as_str(), "POST" | "PUT" | "PATCH");
        for field in request.headers.iter() {
            let text = || String::from_utf8_lossy(field.value).trim().to_owned();
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                asked.body_bytes = text().parse().map_err(|_| httparse::Error::HeaderValue)?;
            } else if is("transfer-encoding") {
                // Bodies of unknown length are not taken.
                return Err(httparse::Error::HeaderValue);
            } else if is("user-agent") {
                asked.agent = text();
            } else if is("referer") {
                asked.referrer = text();
            } else if is("expect") {
                asked.waits = true;
            } else if is("connection") {
                asked.is_last |= text().eq_ignore_ascii_case("close");
            }
        }
        Ok(Some(asked))
    }

    /// Writes the entry.
    fn keep(
        &self,
        out: &mut dyn Write,
        peer: SocketAddr,
        status: u16,
        at_ns: u64,
    ) -> io::Result<()> {
        let at = jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map_err(io::Error::other)?;
        let Asked { method, target, minor, .. } = self;
        writeln!(
            out,
            "{} - - [{}] \"{} {} HTTP/1.{minor}\" {status} 0 \"{}\" \"{}\" {RECORDED_AT}={at_ns}",
            peer.ip(),
            at.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            escaped(method),
            escaped(target),
            escaped(&self.referrer),
            escaped(&self.agent),
        )
    }
}

/// As nginx writes what a client says.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => out.push_str(&format!("\\x{byte:02X}")),
            byte => out.push(char::from(byte)),
        }
    }
    out
}
