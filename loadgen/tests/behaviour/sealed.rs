//! A server that unseals and unpacks: TLS or not, gzip members or lines, answers as lines come out,
//! also before the end of a member.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::{Decompress, FlushDecompress, Status};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::server::OK;

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) lines: Mutex<Vec<String>>,
    pub(crate) members: AtomicUsize,
    pub(crate) resumed: AtomicUsize,
    /// Connections that ended with a close_notify.
    pub(crate) goodbyes: AtomicUsize,
}

pub(crate) struct Sealed {
    pub(crate) port: u16,
    pub(crate) seen: Arc<Seen>,
}

/// How it serves.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Reads a little, then pauses: writes are taken in parts.
    pub(crate) is_slow: bool,
    /// Closes a connection after so many lines.
    pub(crate) lines_max: Option<usize>,
}

impl Sealed {
    pub(crate) fn start(manner: Manner) -> Sealed {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if manner.is_slow {
            socket.set_recv_buffer_size(4096).unwrap();
        }
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket.listen(64).unwrap();
        let listener = TcpListener::from(socket);
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let server = Sealed { port, seen: seen.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (manner, seen) = (manner.clone(), seen.clone());
                std::thread::spawn(move || match &manner.tls {
                    None => serve(stream, &manner, &seen),
                    Some(config) => serve_tls(stream, config.clone(), &manner, &seen),
                });
            }
        });
        server
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen.lines.lock().unwrap().clone()
    }
}

fn serve_tls(mut socket: TcpStream, config: Arc<ServerConfig>, manner: &Manner, seen: &Seen) {
    let mut session = ServerConnection::new(config).unwrap();
    while session.is_handshaking() {
        if session.complete_io(&mut socket).is_err() {
            // The alert is on its way; a reset must not overtake it.
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
            return;
        }
    }
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        seen.resumed.fetch_add(1, Ordering::Relaxed);
    }
    let mut stream = StreamOwned::new(session, socket);
    serve(&mut stream, manner, seen);
    if manner.lines_max.is_some() {
        stream.conn.send_close_notify();
        let _ = stream.flush();
        return;
    }
    // Without a close_notify the end is an error.
    if matches!(stream.read(&mut [0]), Ok(0)) {
        seen.goodbyes.fetch_add(1, Ordering::Relaxed);
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn serve(mut stream: impl Read + Write, manner: &Manner, seen: &Seen) {
    let mut unpack: Option<Decompress> = None;
    let (mut text, mut total) = (Vec::new(), 0);
    let mut chunk = vec![0; if manner.is_slow { 3000 } else { 64 * 1024 }];
    loop {
        let n = match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        let mut rest = &chunk[..n];
        while !rest.is_empty() {
            if unpack.is_none() && text.last().is_none_or(|&last| last == b'\n') && rest[0] == 0x1f
            {
                unpack = Some(Decompress::new_gzip(15));
            }
            let Some(inflater) = &mut unpack else {
                text.extend_from_slice(rest);
                break;
            };
            let before = inflater.total_in();
            text.reserve(256 * 1024);
            let status =
                inflater.decompress_vec(rest, &mut text, FlushDecompress::None).expect("gzip");
            rest = &rest[usize::try_from(inflater.total_in() - before).unwrap()..];
            if status == Status::StreamEnd {
                seen.members.fetch_add(1, Ordering::Relaxed);
                unpack = None;
                assert!(text.ends_with(b"\n"), "no line spans members");
            }
        }
        let mut answers = String::new();
        let end = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        let whole = String::from_utf8(text.drain(..end).collect()).expect("text");
        for line in whole.lines() {
            seen.lines.lock().unwrap().push(line.to_owned());
            answers.push_str(OK);
            total += 1;
        }
        if stream.write_all(answers.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if manner.lines_max.is_some_and(|max| total >= max) {
            return;
        }
        if manner.is_slow {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}
