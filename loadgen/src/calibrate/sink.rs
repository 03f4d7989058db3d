//! A target that costs as little as one can: it counts lines and answers them, on threads of its
//! own, on cpus that no shard uses where there are such.
//!
//! Owns its listener and connections. Blocking threads and epoll, no executor: what is to be
//! measured is the other side. Understands a hello, ranges and gzip members, so that every plain
//! TCP load has a ceiling. Reads no line: whatever ends with a newline is one.
//! Invariant: as many replies as lines, in order; a connection whose replies are not read is not
//! read from either.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use proto::hello::{Durability, Hello, Replies, Welcome};
use proto::limits;
use proto::reply::OK_LINE;
use rustix::event::epoll;

/// Bytes of a read: few system calls, and it stays in a core's second cache.
const READ_BYTES: usize = 256 * 1024;
/// Replies in the block from which they are written.
const BLOCK_REPLIES: usize = 4096;
/// More replies than this wait for a client before it is read again.
const OWED_MAX: u64 = 64 * 1024;
/// How soon a thread sees that it is over.
const GLANCE: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Sink {
    pub(crate) port: u16,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What one thread is given: a queue of connections, announced through its epoll.
struct Inbox {
    epoll: OwnedFd,
    fresh: Mutex<Vec<TcpStream>>,
}

impl Sink {
    /// On as many of the `free` cpus as there are shards; on a thread of no cpu in particular where
    /// none is free.
    pub(crate) fn start(free: &[usize], shards: usize) -> io::Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let cpus: Vec<Option<usize>> = match free.len().min(shards) {
            0 => vec![None],
            count => free[..count].iter().copied().map(Some).collect(),
        };
        let mut inboxes = Vec::with_capacity(cpus.len());
        let mut threads = Vec::with_capacity(cpus.len() + 1);
        for (index, cpu) in cpus.into_iter().enumerate() {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let inbox = Arc::new(Inbox { epoll, fresh: Mutex::default() });
            inboxes.push(Arc::clone(&inbox));
            let is_over = Arc::clone(&is_over);
            threads.push(spawn(&format!("sink-{index}"), move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                serve(&inbox, &is_over);
            })?);
        }
        let acceptor = Arc::clone(&is_over);
        threads.push(spawn("sink-accept", move || accept(&listener, &inboxes, &acceptor))?);
        Ok(Sink { port, is_over, threads })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// A sink that is not pinned is only slower.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn accept(listener: &TcpListener, inboxes: &[Arc<Inbox>], is_over: &AtomicBool) {
    let mut inboxes = inboxes.iter().cycle();
    while !is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let Some(inbox) = inboxes.next() else { return };
                let id = token(&stream);
                let _ = stream.set_nonblocking(true);
                let _ = stream.set_nodelay(true);
                let (data, flags) = (epoll::EventData::new_u64(id), epoll::EventFlags::IN);
                if epoll::add(&inbox.epoll, &stream, data, flags).is_ok() {
                    // Its first event may come before; it comes again until it is read.
                    inbox.fresh.lock().expect("no thread panics with it").push(stream);
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn token(stream: &TcpStream) -> u64 {
    u64::try_from(stream.as_raw_fd()).expect("a descriptor is not negative")
}

fn serve(inbox: &Inbox, is_over: &AtomicBool) {
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut chunk = vec![0; READ_BYTES];
    let block = OK_LINE.repeat(BLOCK_REPLIES);
    let mut events = Vec::with_capacity(1024);
    let timeout = rustix::event::Timespec::try_from(GLANCE).ok();
    while !is_over.load(Ordering::Relaxed) {
        events.clear();
        let waited = epoll::wait(
            &inbox.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        );
        if waited.is_err() {
            continue;
        }
        for event in &events {
            let id = event.data.u64();
            if !connections.contains_key(&id) {
                for stream in inbox.fresh.lock().expect("no thread panics with it").drain(..) {
                    connections.insert(token(&stream), Connection::new(stream));
                }
            }
            let Some(connection) = connections.get_mut(&id) else { continue };
            let had_room = connection.has_room();
            if connection.turn(&mut chunk, &block).is_err() {
                // Closed with it, and so out of epoll.
                connections.remove(&id);
                continue;
            }
            if connection.has_room() != had_room || connection.owes() {
                let flags = connection.waits_for();
                let data = epoll::EventData::new_u64(id);
                let _ = epoll::modify(&inbox.epoll, &connection.stream, data, flags);
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// The first bytes, until it is clear whether they are a hello.
    opening: Option<Vec<u8>>,
    inflate: Option<MultiGzDecoder<Newlines>>,
    is_ranged: bool,
    /// Lines that no reply has been begun for.
    owed: u64,
    /// What of the replies the socket did not take: of the block, or of a text.
    rest: Vec<u8>,
    waits_to_write: bool,
}

/// Counts what is inflated into it.
#[derive(Default)]
struct Newlines(u64);

impl Write for Newlines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += newlines(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

const HELLO: &[u8] = b"{\"hello\"";
const GZIP: [u8; 2] = [0x1f, 0x8b];

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            opening: Some(Vec::new()),
            inflate: None,
            is_ranged: false,
            owed: 0,
            rest: Vec::new(),
            waits_to_write: false,
        }
    }

    fn has_room(&self) -> bool {
        self.owed <= OWED_MAX
    }

    fn owes(&self) -> bool {
        self.owed > 0 || !self.rest.is_empty() || self.waits_to_write
    }

    fn waits_for(&mut self) -> epoll::EventFlags {
        self.waits_to_write = self.owed > 0 || !self.rest.is_empty();
        match (self.waits_to_write, self.has_room()) {
            (false, _) => epoll::EventFlags::IN,
            (true, true) => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            (true, false) => epoll::EventFlags::OUT,
        }
    }

    /// Reads once, answers what can be answered.
    fn turn(&mut self, chunk: &mut [u8], block: &[u8]) -> io::Result<()> {
        if self.has_room() {
            match self.stream.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.take(&chunk[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.answer(block)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(opening) = &mut self.opening else { return self.count(bytes) };
        opening.extend_from_slice(bytes);
        let is_hello = opening.starts_with(HELLO);
        if !is_hello && HELLO.starts_with(opening) {
            return Ok(());
        }
        let end = is_hello.then(|| memchr::memchr(b'\n', opening)).flatten();
        if is_hello && end.is_none() {
            return Ok(());
        }
        let opening = self.opening.take().unwrap_or_default();
        let behind = end.map_or(0, |end| end + 1);
        if let Some(end) = end {
            self.greet(&opening[..end]);
        }
        let first = &opening[behind..];
        // Which of the two it is, the generator doesn't change on the way.
        if first.starts_with(&GZIP[..1]) || (first.is_empty() && behind > 0) {
            self.opening = first.is_empty().then(Vec::new);
            if !first.is_empty() {
                self.inflate = Some(MultiGzDecoder::new(Newlines::default()));
            }
        }
        self.count(first)
    }

    fn greet(&mut self, line: &[u8]) {
        let asked = match Hello::recognise(line) {
            Some(Ok(hello)) => hello.replies.unwrap_or(Replies::Each),
            _ => Replies::Each,
        };
        self.is_ranged = asked == Replies::Range;
        let welcome = Welcome {
            version: limits::PROTOCOL_VERSION,
            replies: asked,
            durability: Durability::Received,
            shard: 0,
            shards: 1,
            line_bytes_max: limits::LINE_BYTES_MAX,
        };
        welcome.write(&mut self.rest);
    }

    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.inflate {
            None => self.owed += newlines(bytes),
            Some(inflate) => {
                inflate.write_all(bytes)?;
                // What it holds back for the next write is lines of this one.
                inflate.flush()?;
                self.owed += std::mem::take(&mut inflate.get_mut().0);
            }
        }
        Ok(())
    }

    fn answer(&mut self, block: &[u8]) -> io::Result<()> {
        loop {
            if !self.rest.is_empty() {
                let taken = match self.stream.write(&self.rest) {
                    Ok(taken) => taken,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                };
                self.rest.drain(..taken);
                continue;
            }
            if self.owed == 0 {
                return Ok(());
            }
            if self.is_ranged {
                let owed = std::mem::take(&mut self.owed);
                proto::reply::Reply::ok().times(owed).write(&mut self.rest);
                continue;
            }
            let replies = self.owed.min(BLOCK_REPLIES as u64);
            let length = usize::try_from(replies).expect("a block") * OK_LINE.len();
            match self.stream.write(&block[..length]) {
                Ok(taken) => {
                    self.owed -= replies;
                    self.rest.extend_from_slice(&block[taken..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::Shutdown;

    use super::*;

    fn ask(sink: &Sink, bytes: &[u8]) -> Vec<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", sink.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        let lines = 1 + bytes.len() / usize::MAX;
        let mut input = BufReader::new(stream.try_clone().unwrap());
        let mut replies = Vec::new();
        while replies.len() < lines {
            let mut line = String::new();
            input.read_line(&mut line).unwrap();
            replies.push(line);
        }
        stream.shutdown(Shutdown::Both).unwrap();
        replies
    }

    #[test]
    fn every_line_is_answered_whatever_way_it_comes() {
        let sink = Sink::start(&[], 1).unwrap();
        assert_eq!(ask(&sink, b"{}\n"), ["{\"status\":\"ok\"}\n"]);
        let mut stream = TcpStream::connect(("127.0.0.1", sink.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut input = BufReader::new(stream.try_clone().unwrap());
        let mut read = || {
            let mut line = String::new();
            input.read_line(&mut line).unwrap();
            line
        };
        stream.write_all(b"{\"hello\":{\"version\":1,").unwrap();
        stream.write_all(b"\"replies\":\"range\"}}\n").unwrap();
        assert!(read().starts_with("{\"hello\":{\"version\":1,\"replies\":\"range\""));
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(&b"{}\n".repeat(1000)).unwrap();
        let member = member.finish().unwrap();
        for _ in 0..2 {
            stream.write_all(&member).unwrap();
            let mut answered = 0;
            while answered < 1000 {
                let reply: serde_json::Value = serde_json::from_str(&read()).unwrap();
                answered += reply["count"].as_u64().unwrap_or(1);
            }
            assert_eq!(answered, 1000);
        }
    }

    #[test]
    fn a_client_that_does_not_read_gets_all_replies_later() {
        let sink = Sink::start(&[], 1).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", sink.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let lines = 2_000_000;
        let writing = std::thread::spawn(move || {
            let some = b"\n".repeat(100_000);
            (0..lines / 100_000).for_each(|_| writer.write_all(&some).unwrap());
        });
        std::thread::sleep(Duration::from_millis(100));
        let mut bytes = 0;
        let mut chunk = vec![0; 1 << 20];
        while bytes < lines * OK_LINE.len() {
            bytes += stream.read(&mut chunk).unwrap();
        }
        assert_eq!(bytes, lines * OK_LINE.len());
        writing.join().unwrap();
    }
}
