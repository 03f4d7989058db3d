//! One connection: reads into the shard's buffer, offers lines, sends replies.
//!
//! Owns a socket from its acceptance to its end. Within one poll it sends what is ready, reads
//! once, and offers the lines; what it cannot finish it keeps: the unfinished line in `lines`, owed
//! replies in `replies`, bytes that the socket did not take in `unsent`. Invariants: the shard's
//! buffers are borrowed within a poll only; reading stops while the batch, the reply queue or the
//! shard's memory is full; at most [`READS_PER_TURN`] reads before others have a turn.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::sleep;
use proto::code::Code;
use proto::hello::{Durability, Hello, Replies as Mode, Welcome};
use proto::limits::PROTOCOL_VERSION;
use proto::lines::{Flow, Frame, Lines};
use proto::reply::Reply;

use super::registry::{Entry, Kill, Place};
use super::replies::Replies;
use crate::counters::Counter;
use crate::ingest::Fate;
use crate::ingest::commit::Ticket;
use crate::shard::{Held, Shard};

/// Reads of one connection before the others have a turn.
const READS_PER_TURN: usize = 4;
/// After the last reply, input is read off for so long, so that a reset does not destroy replies.
const LINGER: Duration = Duration::from_secs(1);

/// What every connection is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Longest line.
    pub line_bytes_max: usize,
    /// Memory of owed replies at which reading stops.
    pub reply_queue_bytes_max: usize,
    /// Durability without a hello.
    pub durability: Durability,
    /// The most that a hello is granted.
    pub durability_max: Durability,
}

/// A connection's seat on its shard, taken before its task first runs.
#[derive(Debug)]
pub(crate) struct Seat {
    entry: Rc<Entry>,
    place: Place,
}

impl Seat {
    /// Takes a seat.
    pub(crate) fn take(shard: &Shard) -> Seat {
        shard.counters.add(Counter::ConnectionsOpened, 1);
        let entry = Rc::new(Entry::default());
        Seat { place: shard.registry.enter(Rc::clone(&entry)), entry }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both sides have said everything.
    Complete,
    /// We have said our last word, the client perhaps not.
    LastWord,
    /// The socket is broken, or the client is cut off.
    Reset,
}

/// Serves a connection until it ends.
pub(crate) async fn run(shard: Rc<Shard>, stream: TcpStream, seat: Seat) {
    let Seat { entry, place } = seat;
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(Rc::clone(&shard), stream, entry);
    let end = poll_fn(|cx| connection.poll(cx)).await;
    connection.held.set(&shard, 0);
    shard.counters.add(Counter::ConnectionsClosed, 1);
    let stream = connection.stream;
    match end {
        End::Complete => drop(stream),
        End::LastWord => linger(&shard, stream).await,
        End::Reset => reset(&stream),
    }
    shard.registry.leave(place);
}

/// Tells a client why it is not served, and closes.
pub(crate) async fn refuse(shard: &Shard, mut stream: TcpStream, code: Code, reason: &str) {
    let mut line = Vec::new();
    Reply::fatal(code, reason).write(&mut line);
    // A fresh socket takes a line at once; if not, the client learns it from the close.
    let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &line))).await;
    linger(shard, stream).await;
}

async fn linger(shard: &Shard, mut stream: TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Write).await;
    let drained = poll_fn(|cx| {
        let mut buffer = shard.read_buffer.borrow_mut();
        loop {
            match ready!(Pin::new(&mut stream).poll_read(cx, &mut buffer)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) if shard.stopping.get() => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    });
    or(drained, sleep(LINGER)).await;
}

fn reset(stream: &TcpStream) {
    if let Ok(fd) = runtime::descriptor::dup(stream) {
        let _ = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
    }
}

/// How far the input has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// More may come.
    Open,
    /// The client has said everything; an unfinished line may still be in the carry.
    Fin,
    /// Nothing more is taken.
    Closed,
}

/// What a held line waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// Room in the shard's batch.
    Room,
    /// Room among the replies that this client has not taken.
    Replies,
}

struct Connection {
    shard: Rc<Shard>,
    stream: TcpStream,
    entry: Rc<Entry>,
    lines: Lines,
    replies: Replies,
    /// Bytes of replies that the socket did not take, from `unsent_from` on.
    unsent: Vec<u8>,
    unsent_from: usize,
    input: Input,
    /// The first line may be a hello.
    is_first_line: bool,
    /// What a line in the carry waits for.
    waits_for: Option<WaitsFor>,
    held: Held,
    /// Where this task is registered to be woken.
    awaited: Option<Ticket>,
    place_in_room: Option<u64>,
    place_in_memory: Option<u64>,
}

impl Connection {
    fn new(shard: Rc<Shard>, stream: TcpStream, entry: Rc<Entry>) -> Connection {
        let terms = shard.settings.connection;
        Connection {
            stream,
            entry,
            lines: Lines::new(terms.line_bytes_max),
            replies: Replies::new(Mode::Each, terms.durability),
            unsent: Vec::new(),
            unsent_from: 0,
            input: Input::Open,
            is_first_line: true,
            waits_for: None,
            held: Held::default(),
            awaited: None,
            place_in_room: None,
            place_in_memory: None,
            shard,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let turn = self.turn(cx);
        self.replies.shrink();
        let memory =
            self.lines.capacity_bytes() + self.replies.capacity_bytes() + self.unsent.capacity();
        self.held.set(&self.shard, memory);
        self.entry.carry_bytes.set(self.lines.carry_len());
        turn
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.entry.remember(cx.waker());
        match self.entry.killed() {
            None => {}
            Some(Kill::ReplyTimeout) => {
                self.shard.counters.add(Counter::ReplyTimeouts, 1);
                return Poll::Ready(End::Reset);
            }
            Some(Kill::Drain) => return Poll::Ready(End::Reset),
            Some(Kill::Memory) => self.close_input(
                Code::Overloaded,
                "MEMORY_BYTES_MAX is reached, and this connection holds the largest unfinished line",
            ),
        }
        if self.shard.stopping.get() && self.input != Input::Closed {
            self.offer_what_is_held();
            if self.waits_for.is_none() {
                self.close_input(Code::ShuttingDown, "the engine is stopping");
            }
        }
        for _ in 0..READS_PER_TURN {
            self.offer_what_is_held();
            match self.poll_replies(cx) {
                Poll::Ready(Ok(())) if self.has_said_everything() => {
                    return Poll::Ready(match self.input {
                        Input::Closed => End::LastWord,
                        Input::Open | Input::Fin => End::Complete,
                    });
                }
                Poll::Ready(Err(_)) => return Poll::Ready(End::Reset),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if self.waits_for == Some(WaitsFor::Replies) && !self.is_reply_queue_full() {
                continue;
            }
            if !self.may_read(cx) {
                return Poll::Pending;
            }
            match ready!(self.poll_read(cx)) {
                Ok(()) => {}
                // Replies that are owed can't be delivered any more.
                Err(_) => return Poll::Ready(End::Reset),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether nothing is left to read or to send.
    fn has_said_everything(&self) -> bool {
        self.input != Input::Open
            && self.waits_for.is_none()
            && self.replies.is_empty()
            && self.unsent.is_empty()
    }

    /// Whether to read now; if not, this task will be woken when that changes.
    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(ticket) = self.replies.awaited() {
            // Registered once per commit, not once per poll.
            if !self.awaited.as_ref().is_some_and(|held| Rc::ptr_eq(held, ticket)) {
                ticket.wake_when_known(self.replies.durability(), cx.waker());
                self.awaited = Some(Rc::clone(ticket));
            }
        } else {
            self.awaited = None;
        }
        if self.waits_for == Some(WaitsFor::Room) {
            let place = self.shard.intake.room.join(self.place_in_room, cx.waker());
            self.place_in_room = Some(place);
            return false;
        }
        if self.input != Input::Open || self.waits_for.is_some() {
            return false;
        }
        // Woken by the progress of its replies.
        if self.is_reply_queue_full() {
            return false;
        }
        if self.shard.is_short_of_memory() {
            let place = self.shard.memory.join(self.place_in_memory, cx.waker());
            self.place_in_memory = Some(place);
            return false;
        }
        true
    }

    fn is_reply_queue_full(&self) -> bool {
        self.replies.bytes() + self.unsent.len()
            >= self.shard.settings.connection.reply_queue_bytes_max
    }

    /// Sends replies that are ready. Ready: all that could be sent was sent.
    fn poll_replies(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.poll_replies_inner(cx);
        let stalled = match &result {
            Poll::Pending => Some(self.entry.stalled_since.get().unwrap_or_else(Instant::now)),
            Poll::Ready(_) => None,
        };
        self.entry.stalled_since.set(stalled);
        result
    }

    fn poll_replies_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let taken = ready!(
                Pin::new(&mut self.stream).poll_write(cx, &self.unsent[self.unsent_from..])
            )?;
            self.entry.stalled_since.set(None);
            self.unsent_from += taken;
            if self.unsent_from == self.unsent.len() {
                self.unsent = Vec::new();
                self.unsent_from = 0;
            }
        }
        let shard = Rc::clone(&self.shard);
        let mut out = shard.reply_buffer.borrow_mut();
        loop {
            out.clear();
            self.replies.settle(&mut out);
            if out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut from = 0;
            while from < out.len() {
                match Pin::new(&mut self.stream).poll_write(cx, &out[from..]) {
                    Poll::Ready(taken) => from += taken?,
                    Poll::Pending => {
                        self.unsent = out[from..].to_vec();
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shard = Rc::clone(&self.shard);
        let mut buffer = shard.read_buffer.borrow_mut();
        let bytes = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        shard.counters.add(Counter::BytesRead, bytes as u64);
        if bytes == 0 {
            self.input = Input::Fin;
            self.offer(&[]);
        } else {
            self.offer(&buffer[..bytes]);
        }
        Poll::Ready(Ok(()))
    }

    /// Offers a line again that found no room.
    fn offer_what_is_held(&mut self) {
        if self.waits_for.is_some() {
            self.offer(&[]);
        }
    }

    /// Offers the lines of `chunk`, behind what is in the carry; the end of input ends a line.
    fn offer(&mut self, chunk: &[u8]) {
        let Connection { shard, lines, replies, is_first_line, input, .. } = self;
        let now = Instant::now();
        let terms = shard.settings.connection;
        let mut ingest = shard.intake.ingest.borrow_mut();
        let (mut bad_hello, mut waits_for) = (None, None);
        let mut take = |frame: Frame<'_>| {
            if bad_hello.is_some() {
                return Flow::Next;
            }
            if replies.bytes() >= terms.reply_queue_bytes_max {
                waits_for = Some(WaitsFor::Replies);
                return Flow::Hold;
            }
            match frame {
                Frame::TooLong => replies.push_rejected(&ingest.too_long(terms.line_bytes_max)),
                Frame::Line(line) => {
                    if std::mem::take(is_first_line)
                        && let Some(hello) = Hello::recognise(line)
                    {
                        match hello {
                            Ok(hello) => welcome(shard, replies, &hello),
                            Err(bad) => bad_hello = Some(bad.to_string()),
                        }
                        return Flow::Next;
                    }
                    match ingest.offer(line, replies.durability(), now) {
                        Fate::Held => {
                            waits_for = Some(WaitsFor::Room);
                            return Flow::Hold;
                        }
                        Fate::Filtered(id) => replies.push_filtered(id),
                        Fate::Batched(ticket, id) => replies.push_stored(ticket, id),
                        Fate::Rejected(rejection) => replies.push_rejected(&rejection),
                    }
                }
            }
            Flow::Next
        };
        let flow = lines.feed(chunk, &mut take);
        if matches!(flow, Flow::Next) && *input == Input::Fin {
            lines.finish(&mut take);
        }
        drop(ingest);
        self.waits_for = waits_for;
        self.shard.intake.nudge_flusher();
        if let Some(reason) = bad_hello {
            self.close_input(Code::BadHello, &reason);
        }
    }

    /// Takes nothing more; says why, behind the replies that are owed.
    fn close_input(&mut self, code: Code, reason: &str) {
        if self.input != Input::Closed {
            self.replies.push_fatal(code, reason);
            self.input = Input::Closed;
            self.waits_for = None;
            self.lines = Lines::new(self.shard.settings.connection.line_bytes_max);
        }
    }
}

fn welcome(shard: &Shard, replies: &mut Replies, hello: &Hello) {
    let terms = shard.settings.connection;
    let mode = hello.replies.unwrap_or(Mode::Each);
    let durability =
        hello.durability.map_or(terms.durability, |asked| asked.min(terms.durability_max));
    replies.push_line(|out| {
        Welcome {
            version: PROTOCOL_VERSION,
            replies: mode,
            durability,
            shard: shard.settings.shard,
            shards: shard.settings.shards,
            line_bytes_max: terms.line_bytes_max,
        }
        .write(out);
    });
    replies.agree(mode, durability);
}
