//! A server that lies by a script: it stalls, drops, repeats, is slow, or serves as a queue would.
//!
//! Plain threads: one reads each connection, one sends every reply at its time, in the order in
//! which the messages came in. Time is counted from the arrival of the first message, which is due
//! at the start of a run. Invariant: replies leave in order, none before its time.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::server::OK;

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Answered with ok.
    Answer,
    /// Answered with this error code.
    Reject(&'static str),
    /// Never answered.
    Swallow,
    /// Answered twice.
    Repeat,
    /// Answered with what is no reply.
    Babble,
    /// Not answered, and the connection reset.
    Reset,
    /// Answered, and the connection closed in good order.
    Close,
}

type Choose = dyn Fn(u64) -> Deed + Send + Sync;

/// What the server will do.
pub(crate) struct Script {
    /// Nothing is served from … until …, in order.
    stalls: Vec<(Duration, Duration)>,
    service: Duration,
    accepts_after: Duration,
    read_bytes_per_s: Option<u64>,
    choose: Box<Choose>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            stalls: Vec::new(),
            service: Duration::ZERO,
            accepts_after: Duration::ZERO,
            read_bytes_per_s: None,
            choose: Box::new(|_| Deed::Answer),
        }
    }
}

impl Script {
    /// From `at` on nothing is answered for `length`; what came meanwhile is answered then.
    pub(crate) fn stall(mut self, at: Duration, length: Duration) -> Script {
        self.stalls.push((at, at + length));
        self
    }

    /// One server takes so long for each message, in the order in which they came over all
    /// connections.
    pub(crate) fn service(self, service: Duration) -> Script {
        Script { service, ..self }
    }

    /// Nobody is let in for so long after the first has knocked: the kernel completes connections,
    /// and what is written waits there.
    pub(crate) fn accept_after(self, accepts_after: Duration) -> Script {
        Script { accepts_after, ..self }
    }

    /// Each connection is read no faster, and the kernel keeps little for us.
    pub(crate) fn read_slowly(self, bytes_per_s: u64) -> Script {
        Script { read_bytes_per_s: Some(bytes_per_s), ..self }
    }

    /// What is done with the server's n-th message, counted from 0.
    pub(crate) fn choose(self, choose: impl Fn(u64) -> Deed + Send + Sync + 'static) -> Script {
        Script { choose: Box::new(choose), ..self }
    }

    pub(crate) fn start(self) -> Liar {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if self.read_bytes_per_s.is_some() {
            socket.set_recv_buffer_size(64 * 1024).unwrap();
        }
        socket.bind(&any.into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        let port = listener.local_addr().unwrap().port();
        let state =
            Arc::new(State { script: self, begin: OnceLock::new(), books: Mutex::default() });
        let (replies, queue) = channel();
        std::thread::spawn({
            let state = state.clone();
            move || send(&state, &queue)
        });
        std::thread::spawn({
            let state = state.clone();
            move || accept(&listener, &state, &replies)
        });
        Liar { port, state }
    }
}

struct State {
    script: Script,
    begin: OnceLock<Instant>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// When each message came in, since the first.
    arrivals: Vec<Duration>,
    /// When the server is free again.
    free: Duration,
    /// Messages that were answered with ok, at least once.
    answered: u64,
    connections: usize,
}

/// A server that runs until the test ends.
pub(crate) struct Liar {
    pub(crate) port: u16,
    state: Arc<State>,
}

impl Liar {
    /// Messages that have come in.
    pub(crate) fn received(&self) -> u64 {
        self.state.books.lock().unwrap().arrivals.len() as u64
    }

    /// Messages that an `ok` was sent for.
    pub(crate) fn answered(&self) -> u64 {
        self.state.books.lock().unwrap().answered
    }

    /// Connections that were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.state.books.lock().unwrap().connections
    }

    /// When each message came in, in order, since the first.
    pub(crate) fn arrivals(&self) -> Vec<Duration> {
        self.state.books.lock().unwrap().arrivals.clone()
    }
}

/// What leaves a connection, and when.
struct Reply {
    at: Duration,
    out: Arc<TcpStream>,
    deed: Deed,
}

fn accept(listener: &TcpListener, state: &Arc<State>, replies: &Sender<Reply>) {
    for (number, stream) in listener.incoming().enumerate() {
        let Ok(stream) = stream else { return };
        if number == 0 {
            std::thread::sleep(state.script.accepts_after);
        }
        state.books.lock().unwrap().connections += 1;
        // A reply of 16 bytes must not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let (state, replies) = (state.clone(), replies.clone());
        let stack = std::thread::Builder::new().stack_size(256 * 1024);
        stack.spawn(move || read(stream, &state, &replies)).unwrap();
    }
}

fn read(mut stream: TcpStream, state: &State, replies: &Sender<Reply>) {
    let out = Arc::new(stream.try_clone().unwrap());
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let n = match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        let messages = chunk[..n].iter().filter(|&&byte| byte == b'\n').count();
        state.take(messages, &out, replies);
        if let Some(bytes_per_s) = state.script.read_bytes_per_s {
            std::thread::sleep(Duration::from_secs(1).mul_f64(n as f64 / bytes_per_s as f64));
        }
    }
}

impl State {
    fn now(&self) -> Duration {
        self.begin.get_or_init(Instant::now).elapsed()
    }

    /// Messages that came in now.
    fn take(&self, messages: usize, out: &Arc<TcpStream>, replies: &Sender<Reply>) {
        if messages == 0 {
            return;
        }
        let books = &mut *self.books.lock().unwrap();
        // Under the lock: the order in which messages are noted is that of their times.
        let now = self.now();
        for _ in 0..messages {
            let deed = (self.script.choose)(books.arrivals.len() as u64);
            books.arrivals.push(now);
            books.free = self.script.served(books.free.max(now));
            books.answered += u64::from(matches!(deed, Deed::Answer | Deed::Repeat | Deed::Close));
            let reply = Reply { at: books.free, out: out.clone(), deed };
            replies.send(reply).expect("the sender lives as long as the readers");
        }
    }
}

impl Script {
    /// When a message is done whose turn comes at `from`: what a stall interrupts goes on after it.
    fn served(&self, from: Duration) -> Duration {
        let mut done = from + self.service;
        for &(begin, end) in &self.stalls {
            let begin = begin.max(from);
            if begin <= done && begin < end {
                done += end - begin;
            }
        }
        done
    }
}

/// How long a sleep may be late; the rest is waited out awake.
const SLEEP_LATE: Duration = Duration::from_micros(200);

fn send(state: &State, queue: &Receiver<Reply>) {
    for Reply { at, out, deed } in queue {
        if let Some(wait) = at.checked_sub(state.now() + SLEEP_LATE) {
            std::thread::sleep(wait);
        }
        while state.now() < at {
            std::hint::spin_loop();
        }
        let text = match deed {
            Deed::Answer | Deed::Close => OK.to_owned(),
            Deed::Repeat => OK.repeat(2),
            Deed::Reject(code) => {
                format!("{{\"status\":\"error\",\"code\":\"{code}\",\"reason\":\"a lie\"}}\n")
            }
            Deed::Babble => "220 ready\r\n".to_owned(),
            Deed::Swallow | Deed::Reset => String::new(),
        };
        // Whoever is gone does not hear it.
        let _ = (&*out).write_all(text.as_bytes());
        match deed {
            Deed::Reset => {
                let socket = socket2::SockRef::from(&*out);
                let _ = socket.set_linger(Some(Duration::ZERO));
                // The reader holds a descriptor still: shut, it lets go, and the last close resets.
                let _ = out.shutdown(Shutdown::Read);
            }
            Deed::Close => {
                let _ = out.shutdown(Shutdown::Both);
            }
            _ => {}
        }
    }
}

#[test]
fn a_script_serves_in_order_and_not_in_its_stalls() {
    let ms = Duration::from_millis;
    let script = Script::default().service(ms(2)).stall(ms(10), ms(5)).stall(ms(30), ms(1));
    for (from, done) in [(0, 2), (7, 9), (9, 16), (10, 17), (14, 17), (15, 17), (29, 32), (40, 42)]
    {
        assert_eq!(script.served(ms(from)), ms(done), "from {from}");
    }
    let stall = Script::default().stall(ms(10), ms(5));
    assert_eq!(stall.served(ms(9)), ms(9));
    assert_eq!(stall.served(ms(10)), ms(15));
    assert_eq!(stall.served(ms(15)), ms(15));
}
