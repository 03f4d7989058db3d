//! Clients for the tests: plain threads over plain sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use proto::reply::OwnedReply;

pub(crate) fn line(id: &str) -> String {
    format!(r#"{{"level":"INFO","message":"hello from a test","id":"{id}"}}"#)
}

/// One connection that sends a line and waits for its reply.
pub(crate) struct Client {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn of(stream: TcpStream) -> Client {
        let _ = stream.set_read_timeout(Some(super::harness::PATIENCE));
        let _ = stream.set_nodelay(true);
        Client { writer: stream.try_clone().unwrap(), reader: BufReader::new(stream) }
    }

    /// The reply, or `None` if the connection has ended.
    pub(crate) fn try_ask(&mut self, line: &str) -> Option<OwnedReply> {
        self.writer.write_all(format!("{line}\n").as_bytes()).ok()?;
        let mut reply = String::new();
        self.reader.read_line(&mut reply).ok()?;
        let reply = reply.strip_suffix('\n')?;
        Some(OwnedReply::parse(reply.as_bytes()).unwrap_or_else(|_| panic!("{reply}")))
    }

    pub(crate) fn ask(&mut self, line: &str) -> OwnedReply {
        self.try_ask(line).expect("a reply")
    }
}

/// Keeps sending lines with ids of its own, some dozen unanswered at a time, and remembers which
/// were acknowledged `ok`, until the connection ends.
pub(crate) fn hammer(
    address: SocketAddr,
    name: String,
    hello: Option<&'static str>,
    enough: Arc<AtomicBool>,
) -> JoinHandle<Vec<String>> {
    const WINDOW: usize = 50;
    std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        let Ok(stream) = std::net::TcpStream::connect(address) else { return acknowledged };
        stream.set_read_timeout(Some(super::harness::PATIENCE)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        let mut text = String::new();
        if let Some(hello) = hello {
            if writeln!(writer, "{hello}").is_err() || reader.read_line(&mut text).is_err() {
                return acknowledged;
            }
            assert!(text.contains("hello"), "{text}");
        }
        for batch in 0.. {
            if enough.load(Ordering::Relaxed) {
                break;
            }
            let ids: Vec<_> = (0..WINDOW).map(|n| format!("{name}-{batch}-{n}")).collect();
            let lines: String = ids.iter().map(|id| line(id) + "\n").collect();
            if writer.write_all(lines.as_bytes()).is_err() {
                break;
            }
            for id in ids {
                text.clear();
                match reader.read_line(&mut text) {
                    Ok(n) if n > 0 && text.ends_with('\n') => {}
                    _ => return acknowledged,
                }
                if text.contains(r#""status":"ok""#) {
                    assert!(text.contains(&format!(r#""id":"{id}""#)), "{text} is not for {id}");
                    acknowledged.push(line(&id));
                } else if text.contains(r#""fatal":true"#) {
                    return acknowledged;
                }
            }
        }
        acknowledged
    })
}
