//! Lines over UDP: a datagram is lines, or one gzip member of lines; nothing is answered.
//!
//! Owns one SO_REUSEPORT socket of each shard, and one buffer to read into. Waits for the
//! first datagram through the ring, then takes many by plain calls, a bounded lot a turn. While a
//! batch without room for a datagram is there, nothing is read: the kernel's buffer fills, and what the
//! kernel drops is counted from its own count. Leaves what becomes of a line to `ingest`.
//! Invariant: each line that was read is received or counted as dropped; at the stop, what the
//! socket holds is read.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::AsyncRead;
use futures_lite::future::or;
use glommio::timer::sleep;
use proto::gzip;
use proto::hello::Durability;
use proto::lines::Frame;
use runtime::descriptor;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::error;

use crate::counters::Counter;
use crate::ingest::Fate;
use crate::shard::Shard;
use crate::signal::Signal;
use crate::stall::Task;

/// A datagram is never larger, over IPv4 or IPv6 without jumbograms.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Asked of the kernel for each socket; it cuts this to net.core.rmem_max.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Datagrams and bytes of one turn; about one read of a connection.
const DATAGRAMS_PER_TURN: usize = 256;
const BYTES_PER_TURN: usize = 64 * 1024;
/// After a receive that failed for another reason than that nothing is there.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// What datagrams are bounded by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Longest line.
    pub line_bytes_max: usize,
    /// What a gzip member may inflate to.
    pub inflated_bytes_max: usize,
}

/// The sockets of all shards.
#[derive(Debug)]
pub(crate) struct Bound {
    /// One for each shard.
    pub sockets: Vec<OwnedFd>,
    /// The address that they share.
    pub address: SocketAddr,
    /// What the operator should know about it.
    pub note: Option<String>,
}

/// Binds one socket per shard.
///
/// # Errors
/// The address is in use (also by another SO_REUSEPORT server, which a plain bind would join).
pub(crate) fn bind(address: SocketAddr, shards: usize) -> io::Result<Bound> {
    if address.port() != 0 {
        // Without SO_REUSEPORT first: with it a second engine would take half of the datagrams.
        drop(socket(address, false)?);
    }
    let first = socket(address, true)?;
    // The kernel doubles what it was asked, for its own bookkeeping.
    let granted = first.recv_buffer_size()? / 2;
    let note = (granted < RECEIVE_BUFFER_BYTES).then(|| {
        format!(
            "the kernel keeps {granted} bytes of unread datagrams, not {RECEIVE_BUFFER_BYTES}: \
             raise net.core.rmem_max"
        )
    });
    let shared = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(ErrorKind::Unsupported, "not an IP socket"))?;
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..shards {
        sockets.push(socket(shared, true)?.into());
    }
    Ok(Bound { sockets, address: shared, note })
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A shard's socket while it is read.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Ends after `shut`.
    reader: glommio::Task<()>,
    shut: Rc<Signal>,
}

impl Intake {
    /// Reads what the socket still holds, and ends.
    pub(crate) async fn shut(self) {
        self.shut.notify();
        self.reader.await;
    }
}

/// Begins to read `socket`.
pub(crate) fn open(shard: &Rc<Shard>, socket: OwnedFd) -> Intake {
    let shut = Rc::new(Signal::default());
    let reader = Reader {
        shard: Rc::clone(shard),
        socket,
        buffer: vec![0; DATAGRAM_BYTES_MAX],
        inflated: Vec::new(),
        dropped_by_kernel: Cell::new(0),
    };
    let reading = reader.run(Rc::clone(&shut));
    let reader = glommio::spawn_local(shard.watched(Task::Datagrams, reading));
    Intake { reader, shut }
}

/// What a turn left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing is in the socket.
    Nothing,
    /// There may be more.
    More,
    /// The socket cannot be read now.
    Failed,
}

struct Reader {
    shard: Rc<Shard>,
    socket: OwnedFd,
    buffer: Vec<u8>,
    inflated: Vec<u8>,
    /// The kernel's count as it was last seen; it wraps.
    dropped_by_kernel: Cell<u32>,
}

impl Reader {
    async fn run(mut self, shut: Rc<Signal>) {
        let Ok(stream) = descriptor::dup(&self.socket).map(descriptor::datagram_stream) else {
            error!(
                "no descriptor is left for the datagrams of shard {}",
                self.shard.settings.shard
            );
            return;
        };
        let mut stream = stream;
        let mut is_shut = Box::pin(async {
            shut.notified().await;
            None
        });
        loop {
            let first = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut self.buffer));
            match or(async { Some(first.await) }, &mut is_shut).await {
                None => break,
                Some(Ok(bytes)) => self.take(bytes).await,
                Some(Err(_)) => sleep(FAILURE_PAUSE).await,
            }
            while self.turn().await == Left::More {
                glommio::executor().yield_now().await;
            }
        }
        // What has come until now; senders may go on for ever.
        let mut rest = RECEIVE_BUFFER_BYTES;
        while rest > 0 && self.turn().await == Left::More {
            rest = rest.saturating_sub(BYTES_PER_TURN);
            glommio::executor().yield_now().await;
        }
    }

    /// Takes datagrams until none is left, or others must have their turn.
    async fn turn(&mut self) -> Left {
        let mut bytes_left = BYTES_PER_TURN;
        for _ in 0..DATAGRAMS_PER_TURN {
            let bytes = match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((bytes, _)) => bytes,
                Err(error) => {
                    self.end_turn();
                    return if error.kind() == ErrorKind::WouldBlock {
                        Left::Nothing
                    } else {
                        Left::Failed
                    };
                }
            };
            self.take(bytes).await;
            bytes_left = bytes_left.saturating_sub(bytes);
            if bytes_left == 0 {
                break;
            }
        }
        self.end_turn();
        Left::More
    }

    /// Waits until the batch in which there was no room has gone.
    async fn room(&self) {
        let mut place = None;
        poll_fn(|cx| {
            let now = self.shard.intake.room.join(place, cx.waker());
            if place.replace(now).is_some_and(|before| before != now) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes the datagram in the buffer, when there is room for it.
    async fn take(&mut self, bytes: usize) {
        if self.shard.intake.ingest.borrow().is_worth_waiting(bytes) {
            self.end_turn();
            self.room().await;
        }
        self.offer(bytes);
    }

    /// Offers the lines of the datagram in the buffer.
    fn offer(&mut self, bytes: usize) {
        let Reader { shard, buffer, inflated, .. } = self;
        let counters = &shard.counters;
        counters.add(Counter::Datagrams, 1);
        counters.add(Counter::BytesRead, bytes as u64);
        let Terms { line_bytes_max, inflated_bytes_max } = shard.settings.udp;
        let mut ingest = shard.intake.ingest.borrow_mut();
        let now = Instant::now();
        let taken = gzip::datagram(
            &buffer[..bytes],
            line_bytes_max,
            inflated_bytes_max,
            inflated,
            |frame| match frame {
                Frame::TooLong => drop(ingest.too_long(line_bytes_max)),
                Frame::Line(line) => match ingest.offer(line, Durability::Received, now) {
                    Fate::Held => counters.add(Counter::UdpDropped, 1),
                    Fate::Filtered(_)
                    | Fate::Batched(..)
                    | Fate::Rejected(_)
                    | Fate::Refused(_) => {}
                },
            },
        );
        if taken.is_err() {
            counters.add(Counter::GzipErrors, 1);
        }
    }

    fn end_turn(&self) {
        self.shard.intake.nudge_flusher();
        if let Ok(dropped) = descriptor::datagrams_dropped(&self.socket) {
            let more = dropped.wrapping_sub(self.dropped_by_kernel.replace(dropped));
            self.shard.counters.add(Counter::UdpDroppedByKernel, more.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_shares_is_in_use_all_the_same() {
        let bound = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(bound.sockets.len(), 2);
        let error = bind(bound.address, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
