//! `record`: what clients send to a port, with the time at which it came, as a file for `--replay`.
//!
//! Owns listening, and the life of the connections: a thread each, at most [`CONNECTIONS_MAX`].
//! Leaves the file to [`mod@file`], and what clients expect to [`ndjson`] and [`http`]. No measuring
//! goes on here, so plain threads and blocking sockets do.
//! Invariant: a message is in the file before its client is told `ok`, in the order of its time;
//! and the file is whole however the recording ends, but for the end of the process.

use std::io::{self, ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use runtime::stop::Stop;

use self::file::File;
use crate::clock::Clock;
use crate::error::Error;

mod file;
mod http;
mod ndjson;

pub use file::Kept;

/// Connections at a time; each has a buffer of a line.
const CONNECTIONS_MAX: usize = 256;
/// How often a connection looks whether the recording is over.
const GLANCE: Duration = Duration::from_millis(50);
/// A client that does not read its replies is let go.
const WRITE_MAX: Duration = Duration::from_secs(2);
const STACK_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Lines, answered as an engine answers.
    Ndjson,
    /// Requests of HTTP/1.1, answered 200, or 204 where they bring something.
    Http,
}

/// A recording to be made.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The file; gzip if it ends in `.gz`.
    pub out: PathBuf,
    /// What clients speak.
    pub protocol: Protocol,
    /// Messages after which it ends.
    pub total: Option<u64>,
    /// Time after which it ends.
    pub lasts: Option<Duration>,
}

/// What the threads of a recording share.
struct Shared {
    file: File,
    /// It is over: by a bound, a signal, or a disk that takes no more.
    over: Stop,
}

/// Records until a bound or `stop` ends it; `tell` is told where it listens.
///
/// # Errors
/// The address or the file cannot be had, or the file could not be written to its end.
pub fn record(
    recording: &Recording,
    stop: &Stop,
    tell: &mut dyn FnMut(&str),
) -> Result<Kept, Error> {
    let unusable =
        |reason: String| Error::Unusable { path: recording.out.clone(), knob: "--out", reason };
    let listening = |source: io::Error| Error::Listen { at: recording.listen, source };
    let listener = TcpListener::bind(recording.listen).map_err(listening)?;
    listener.set_nonblocking(true).map_err(listening)?;
    let at = listener.local_addr().map_err(listening)?;
    let file = File::create(&recording.out, recording.total, Clock::start());
    let file = file.map_err(|error| unusable(error.to_string()))?;
    let shared = Arc::new(Shared { file, over: Stop::new() });
    tell(&format!("recording what comes to {at} into {}", recording.out.display()));
    let begin = Instant::now();
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let is_late = recording.lasts.is_some_and(|lasts| begin.elapsed() >= lasts);
        if is_late || stop.is_requested() || shared.file.is_full() {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        match listener.accept() {
            Ok((stream, peer)) => {
                let is_one_too_many = threads.len() >= CONNECTIONS_MAX;
                let (shared, protocol) = (Arc::clone(&shared), recording.protocol);
                let named = std::thread::Builder::new().stack_size(STACK_BYTES);
                let spawned = named.spawn(move || match protocol {
                    // A client that goes away is no matter of ours.
                    Protocol::Ndjson => drop(ndjson::serve(stream, &shared, is_one_too_many)),
                    Protocol::Http => drop(http::serve(stream, peer, &shared, is_one_too_many)),
                });
                threads.extend(spawned);
            }
            Err(_) => std::thread::sleep(GLANCE / 5),
        }
    }
    shared.over.request(runtime::stop::Cause::Done);
    for thread in threads {
        // A connection that has panicked has said so.
        let _ = thread.join();
    }
    let shared = Arc::into_inner(shared).expect("every connection has ended");
    shared.file.finish().map_err(|error| unusable(error.to_string()))
}

/// Waits for bytes as long as the recording goes on; 0 at the end of either.
fn read(stream: &mut TcpStream, buffer: &mut [u8], shared: &Shared) -> io::Result<usize> {
    loop {
        if shared.over.is_requested() || shared.file.is_full() {
            return Ok(0);
        }
        match stream.read(buffer) {
            Err(error) if is_pause(&error) => {}
            end => return end,
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// What a stream is set to.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GLANCE))?;
    stream.set_write_timeout(Some(WRITE_MAX))
}
