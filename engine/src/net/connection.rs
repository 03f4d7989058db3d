//! One connection: reads into the shard's buffer, offers lines, sends replies.
//!
//! Owns a socket from its acceptance to its end. Within one poll it sends what is ready, reads
//! once, and offers the lines; what it cannot finish it keeps: the unfinished line in `lines`, owed
//! replies in `replies`, bytes that the socket did not take in `unsent`. Invariants: the shard's
//! buffers are borrowed within a poll only; reading stops while the batch, the reply queue or the
//! shard's memory is full; at most [`READS_PER_TURN`] reads before others have a turn.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use proto::code::Code;
use proto::gzip::{Bounds, Origin, Step, Unpack};
use proto::hello::{Durability, Hello, Replies as Mode, Welcome};
use proto::limits::PROTOCOL_VERSION;
use proto::lines::{Flow, Frame};
use runtime::socket::Socket;
use tracing::debug;

use super::farewell::{self, End};
use super::registry::{Awaited, Entry, Kill, Place};
use super::replies::Replies;
use super::tls;
use super::transport::Transport;
use crate::counters::Counter;
use crate::ingest::Fate;
use crate::ingest::commit::Ticket;
use crate::shard::{Held, Shard};

/// Reads of one connection before the others have a turn.
const READS_PER_TURN: usize = 4;

/// What every connection is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Longest line.
    pub line_bytes_max: usize,
    /// Bounds of a gzip member.
    pub inflation: Bounds,
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

/// Serves a connection until it ends.
pub(crate) async fn run(shard: Rc<Shard>, stream: Socket, seat: Seat) {
    let Seat { entry, place } = seat;
    let _ = stream.set_nodelay(true);
    let transport = if shard.keys.is_none() {
        Some(Transport::Plain(stream))
    } else {
        // Boxed: a plain connection must not pay for its size.
        Box::pin(shake_hands(&shard, stream, &entry)).await
    };
    if let Some(transport) = transport {
        let mut connection = Connection::new(Rc::clone(&shard), transport, entry);
        let end = poll_fn(|cx| connection.poll(cx)).await;
        connection.held.set(&shard, 0);
        shard.counters.add(Counter::ConnectionsClosed, 1);
        // Boxed: while it lives, a connection must not pay for the size of its end.
        Box::pin(farewell::part(&shard, connection.transport, end)).await;
    } else {
        shard.counters.add(Counter::ConnectionsClosed, 1);
    }
    shard.registry.leave(place);
}

/// The stream as the client and we agree to speak on it; `None` if we don't.
async fn shake_hands(shard: &Rc<Shard>, stream: Socket, entry: &Entry) -> Option<Transport> {
    let Some(keys) = &shard.keys else { return Some(Transport::Plain(stream)) };
    entry.awaits.set(Some((Awaited::Handshake, Instant::now())));
    let mut handshake = Box::pin(tls::handshake(keys, stream, &shard.read_buffer));
    let mut held = Held::default();
    held.set(shard, tls::HANDSHAKE_BYTES);
    let done = poll_fn(|cx| {
        entry.remember(cx.waker());
        if entry.killed().is_some() {
            shard.counters.add(Counter::HandshakeTimeouts, 1);
            return Poll::Ready(None);
        }
        if shard.stopping.get() {
            return Poll::Ready(None);
        }
        handshake.as_mut().poll(cx).map(Some)
    })
    .await;
    held.set(shard, 0);
    entry.awaits.set(None);
    match done? {
        Ok(stream) => Some(Transport::Tls(Box::new(stream))),
        Err(failed) => {
            shard.counters.add(Counter::HandshakesFailed, 1);
            debug!("TLS handshake failed: {}", failed.reason);
            if let Some(socket) = failed.socket {
                // So that the alert is not destroyed by the close.
                Box::pin(farewell::part(shard, Transport::Plain(socket), End::LastWord)).await;
            }
            None
        }
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
    transport: Transport,
    entry: Rc<Entry>,
    lines: Unpack,
    replies: Replies,
    /// Bytes of replies that the socket did not take, from `unsent_from` on.
    unsent: Vec<u8>,
    unsent_from: usize,
    input: Input,
    /// The first line may be a hello.
    is_first_line: bool,
    /// A gzip member has more to inflate without another read.
    has_more: bool,
    /// What a line in the carry waits for.
    waits_for: Option<WaitsFor>,
    /// When the connection came, and when it last did something.
    began_at: Instant,
    active_at: Instant,
    /// When the lines were read that are offered now.
    read_at: Instant,
    /// Since when a line is unfinished.
    line_since: Option<Instant>,
    held: Held,
    /// Where this task is registered to be woken.
    awaited: Option<Ticket>,
    place_in_room: Option<u64>,
    place_in_memory: Option<u64>,
}

impl Connection {
    fn new(shard: Rc<Shard>, transport: Transport, entry: Rc<Entry>) -> Connection {
        let terms = shard.settings.connection;
        let now = Instant::now();
        Connection {
            transport,
            entry,
            lines: Unpack::new(terms.line_bytes_max, terms.inflation),
            has_more: false,
            replies: Replies::new(Mode::Each, terms.durability),
            unsent: Vec::new(),
            unsent_from: 0,
            input: Input::Open,
            is_first_line: true,
            waits_for: None,
            began_at: now,
            active_at: now,
            read_at: now,
            line_since: None,
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
        let memory = self.lines.capacity_bytes()
            + self.replies.capacity_bytes()
            + self.unsent.capacity()
            + self.transport.memory_bytes();
        self.held.set(&self.shard, memory);
        self.entry.carry_bytes.set(self.lines.carry_len());
        let awaits = self.awaits();
        self.entry.awaits.set(awaits);
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
            Some(Kill::Timeout(awaited)) => self.time_out(awaited),
            Some(Kill::Memory) => self.close_input(
                Code::Overloaded,
                "MEMORY_BYTES_MAX is reached, and this connection holds the largest unfinished line",
            ),
        }
        if self.shard.stopping.get() && self.input != Input::Closed {
            self.offer_what_is_held();
            if self.waits_for.is_none() && !self.has_more {
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
            if self.has_more && self.waits_for.is_none() {
                self.offer(&[]);
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
            && !self.has_more
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
        if self.shard.stopping.get() {
            // What was being inflated is done: the next turn says goodbye.
            cx.waker().wake_by_ref();
            return false;
        }
        // Woken by the progress of its replies.
        if self.is_reply_queue_full() {
            return false;
        }
        self.place_in_memory.take_if(|_| !self.shard.is_short_of_memory());
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
        ready!(self.poll_write_replies(cx))?;
        self.transport.poll_flush(cx)
    }

    fn poll_write_replies(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let taken = ready!(self.transport.poll_write(cx, &self.unsent[self.unsent_from..]))?;
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
                match self.transport.poll_write(cx, &out[from..]) {
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
        let bytes = match ready!(self.transport.poll_read(cx, &mut buffer)) {
            Ok(bytes) => bytes,
            // A TLS stream that was cut off, perhaps not by the client: what is unfinished is no
            // line, but what is owed is still sent.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.take_nothing_more();
                return Poll::Ready(Ok(()));
            }
            Err(error) => return Poll::Ready(Err(error)),
        };
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
        let Connection { shard, lines, replies, is_first_line, input, active_at, read_at, .. } =
            self;
        let now = Instant::now();
        *active_at = now;
        if !chunk.is_empty() {
            *read_at = now;
        }
        let terms = shard.settings.connection;
        let mut ingest = shard.intake.ingest.borrow_mut();
        let mut inflated = shard.inflate_buffer.borrow_mut();
        let awaited_before = ingest.awaited_lines();
        let (mut refusal, mut waits_for, mut frames) = (None, None, false);
        let mut take = |frame: Frame<'_>, origin: Origin| {
            if refusal.is_some() {
                return Flow::Next;
            }
            if replies.bytes() >= terms.reply_queue_bytes_max {
                waits_for = Some(WaitsFor::Replies);
                return Flow::Hold;
            }
            frames = true;
            if std::mem::take(is_first_line) {
                match greet(shard, replies, frame, origin) {
                    Greeting::Welcomed => return Flow::Next,
                    Greeting::Refused(code, reason) => {
                        refusal = Some((code, reason));
                        return Flow::Next;
                    }
                    Greeting::None => {}
                }
            }
            match frame {
                Frame::TooLong => replies.push_rejected(&ingest.too_long(terms.line_bytes_max)),
                Frame::Line(line) => match ingest.offer(line, replies.durability(), now) {
                    Fate::Held => {
                        waits_for = Some(WaitsFor::Room);
                        return Flow::Hold;
                    }
                    Fate::Filtered(id) => replies.push_filtered(id),
                    Fate::Batched(ticket, id) => replies.push_stored(ticket, id),
                    Fate::Rejected(rejection) => replies.push_rejected(&rejection),
                    Fate::Refused(refusal) => replies.push_refused(&refusal),
                },
            }
            Flow::Next
        };
        let step = match lines.feed(chunk, &mut inflated, &mut take) {
            Ok(Step::Hungry) if *input == Input::Fin => lines.finish(&mut inflated, &mut take),
            step => step,
        };
        ingest.arrived(awaited_before, replies.durability(), *read_at);
        drop((ingest, inflated));
        self.shard.counters.add(Counter::BytesInflated, self.lines.inflated_bytes());
        self.has_more = matches!(step, Ok(Step::Again));
        self.waits_for = waits_for;
        if frames || self.line_since.is_none() {
            self.line_since = (!self.lines.is_empty()).then_some(now);
        }
        self.shard.intake.nudge_flusher();
        if let Some((code, reason)) = refusal {
            if code == Code::Unauthorized {
                self.shard.counters.add(Counter::Unauthorized, 1);
            }
            self.close_input(code, &reason);
        } else if let Err(bad) = step {
            self.shard.counters.add(Counter::GzipErrors, 1);
            self.close_input(bad.code(), &bad.to_string());
        }
    }

    /// What the client owes next, and since when; nothing while it is the engine's turn.
    fn awaits(&mut self) -> Option<(Awaited, Instant)> {
        let is_engines_turn = self.input != Input::Open
            || self.waits_for.is_some()
            || self.has_more
            || self.is_reply_queue_full()
            || self.place_in_memory.is_some();
        if is_engines_turn {
            // A line that could not be read on has all its time again.
            self.line_since = None;
            return None;
        }
        if self.is_first_line && self.shard.token.is_some() {
            return Some((Awaited::Hello, self.began_at));
        }
        if let Some(since) = self.line_since {
            return Some((Awaited::Line, since));
        }
        let owes_replies = !self.replies.is_empty() || !self.unsent.is_empty();
        (!owes_replies).then_some((Awaited::Anything, self.active_at))
    }

    fn time_out(&mut self, awaited: Awaited) {
        let (counter, knob) = match awaited {
            Awaited::Handshake | Awaited::Hello => {
                (Counter::HandshakeTimeouts, "no hello within HANDSHAKE_TIMEOUT_SECS")
            }
            Awaited::Line => (Counter::LineTimeouts, "a line took longer than LINE_TIMEOUT_SECS"),
            Awaited::Anything => (Counter::IdleTimeouts, "nothing for IDLE_TIMEOUT_SECS"),
        };
        if self.input == Input::Open {
            self.shard.counters.add(counter, 1);
        }
        self.close_input(Code::Timeout, knob);
    }

    /// Takes nothing more; says why, behind the replies that are owed.
    fn close_input(&mut self, code: Code, reason: &str) {
        if self.input != Input::Closed {
            self.replies.push_fatal(code, reason);
            self.take_nothing_more();
        }
    }

    fn take_nothing_more(&mut self) {
        self.input = Input::Closed;
        self.waits_for = None;
        self.has_more = false;
        let terms = self.shard.settings.connection;
        self.lines = Unpack::new(terms.line_bytes_max, terms.inflation);
    }
}

/// What a first line is.
enum Greeting {
    /// A hello, and it was answered.
    Welcomed,
    /// Not a hello.
    None,
    /// The connection ends here.
    Refused(Code, String),
}

/// Answers the first line where it is a hello, and asks for the token where one is needed.
fn greet(shard: &Shard, replies: &mut Replies, frame: Frame<'_>, origin: Origin) -> Greeting {
    let hello = match (frame, origin) {
        (Frame::Line(line), Origin::Plain) => Hello::recognise(line),
        (Frame::Line(_), Origin::Packed) | (Frame::TooLong, _) => None,
    };
    let hello = match hello {
        Some(Ok(hello)) => Some(hello),
        Some(Err(bad)) => return Greeting::Refused(Code::BadHello, bad.to_string()),
        None => None,
    };
    if let Some(token) = &shard.token
        && !token.admits(hello.as_ref().and_then(|hello| hello.token.as_deref()))
    {
        let reason = "a hello with the right token has to come first (AUTH_TOKEN_FILE)";
        return Greeting::Refused(Code::Unauthorized, reason.into());
    }
    match hello {
        Some(hello) => {
            welcome(shard, replies, &hello);
            Greeting::Welcomed
        }
        None => Greeting::None,
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
