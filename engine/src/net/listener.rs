//! Accepting, and evening out.
//!
//! Each shard has a listening socket of its own (SO_REUSEPORT); the kernel spreads connections by
//! hash, which is not load balancing, so an accepted descriptor goes over to the shard with the
//! fewest connections when it would end uneven. Invariants: one long-lived accept task per
//! listener (a cancelled accept loses a connection); every connection is counted once in
//! [`Balance`], from its acceptance to its end, on the shard that serves it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use glommio::net::TcpStream;
use glommio::timer::sleep;
use proto::code::Code;
use runtime::descriptor;
use socket2::{Domain, Protocol, Socket, Type};

use super::connection;
use crate::counters::Counter;
use crate::shard::Shard;

/// Connections that the kernel may keep waiting; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// After a failed accept (EMFILE fails at once and for ever).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Refused clients that are told why at a time; more are dropped without a word.
const REFUSALS_MAX: usize = 64;
/// Descriptors on their way to another shard; when that many wait, the accepting shard serves.
const HAND_OVER_MAX: usize = 256;

/// Binds one listening socket per shard; gives them and the address that they share.
///
/// # Errors
/// The address is in use (also by another SO_REUSEPORT server, which a plain bind would join).
pub(crate) fn bind(address: SocketAddr, shards: usize) -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    if address.port() != 0 {
        // Without SO_REUSEPORT first: with it a second engine would silently take half of the
        // first one's connections.
        drop(socket(address, false)?);
    }
    let first = socket(address, true)?;
    let shared = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(ErrorKind::Unsupported, "not an IP socket"))?;
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..shards {
        sockets.push(socket(shared, true)?.into());
    }
    Ok((sockets, shared))
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    if reuse_port {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// How many connections each shard serves, and the way to each.
#[derive(Debug)]
pub(crate) struct Balance {
    counts: Vec<AtomicUsize>,
    ways: Vec<Sender<OwnedFd>>,
    connections_max: usize,
}

/// Where an accepted connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    Here,
    There(usize),
    Refused,
}

impl Balance {
    /// Counts for `shards` shards, and the end of the channel that each one reads.
    pub(crate) fn new(shards: usize, connections_max: usize) -> (Balance, Vec<Receiver<OwnedFd>>) {
        let (ways, ends) = (0..shards).map(|_| async_channel::bounded(HAND_OVER_MAX)).unzip();
        let counts = (0..shards).map(|_| AtomicUsize::new(0)).collect();
        (Balance { counts, ways, connections_max }, ends)
    }

    /// Chooses the shard with the fewest connections, `here` on a tie, and counts it there.
    fn place(&self, here: usize) -> Placement {
        loop {
            let counts: Vec<_> =
                self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            if counts.iter().sum::<usize>() >= self.connections_max {
                return Placement::Refused;
            }
            let fewest = counts.iter().copied().min().unwrap_or(0);
            let chosen = if counts[here] == fewest {
                here
            } else {
                counts.iter().position(|&count| count == fewest).unwrap_or(here)
            };
            // Two listeners may choose at the same time: the second looks again.
            let counted = self.counts[chosen].compare_exchange(
                fewest,
                fewest + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if counted.is_ok() {
                return if chosen == here { Placement::Here } else { Placement::There(chosen) };
            }
        }
    }

    fn move_count(&self, from: usize, to: usize) {
        self.counts[from].fetch_sub(1, Ordering::Relaxed);
        self.counts[to].fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, shard: usize) {
        self.counts[shard].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A shard's open door.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// The same socket as the accept task's; shutting it ends a waiting accept.
    socket: Option<Socket>,
}

impl Entrance {
    /// Accepts nothing more.
    pub(crate) fn shut(&self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Begins to accept on `listener`.
pub(crate) fn open(shard: &Rc<Shard>, listener: OwnedFd, balance: &Arc<Balance>) -> Entrance {
    let socket = listener.try_clone().ok().map(Socket::from);
    glommio::spawn_local(accept(Rc::clone(shard), listener, Arc::clone(balance))).detach();
    Entrance { socket }
}

async fn accept(shard: Rc<Shard>, listener: OwnedFd, balance: Arc<Balance>) {
    let listener = descriptor::tcp_listener(listener);
    let here = shard.settings.shard;
    while !shard.stopping.get() {
        match listener.accept().await {
            Ok(_) if shard.stopping.get() => break,
            Ok(stream) => match balance.place(here) {
                Placement::Here => serve(&shard, stream, &balance),
                Placement::There(shard_there) => {
                    hand_over(&shard, stream, &balance, shard_there);
                }
                Placement::Refused => refuse(&shard, stream),
            },
            Err(_) if shard.stopping.get() => break,
            Err(_) => {
                shard.counters.add(Counter::AcceptErrors, 1);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn hand_over(shard: &Rc<Shard>, stream: TcpStream, balance: &Arc<Balance>, there: usize) {
    let here = shard.settings.shard;
    // The duplicate travels; dropping the original cancels the poll that glommio has armed on it.
    let sent = descriptor::dup(&stream).is_ok_and(|fd| balance.ways[there].try_send(fd).is_ok());
    if sent {
        shard.counters.add(Counter::ConnectionsHandedOver, 1);
    } else {
        balance.move_count(there, here);
        serve(shard, stream, balance);
    }
}

/// Serves what other shards accepted for this one.
pub(crate) async fn receive(
    shard: Rc<Shard>,
    handed_over: Receiver<OwnedFd>,
    balance: Arc<Balance>,
) {
    while let Ok(fd) = handed_over.recv().await {
        serve(&shard, descriptor::tcp_stream(fd), &balance);
    }
}

fn serve(shard: &Rc<Shard>, stream: TcpStream, balance: &Arc<Balance>) {
    let (shard, balance) = (Rc::clone(shard), Arc::clone(balance));
    // Entered before the task first runs, so that a stop does not overlook it.
    let seat = connection::Seat::take(&shard);
    glommio::spawn_local(async move {
        let here = shard.settings.shard;
        connection::run(shard, stream, seat).await;
        balance.end(here);
    })
    .detach();
}

fn refuse(shard: &Rc<Shard>, stream: TcpStream) {
    shard.counters.add(Counter::ConnectionsRefused, 1);
    if shard.refusals.get() >= REFUSALS_MAX {
        return;
    }
    shard.refusals.set(shard.refusals.get() + 1);
    let shard = Rc::clone(shard);
    glommio::spawn_local(async move {
        connection::refuse(&shard, stream, Code::TooManyConnections, "CONNECTIONS_MAX is reached")
            .await;
        shard.refusals.set(shard.refusals.get() - 1);
    })
    .detach();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_connections_end_four_and_four_whoever_accepts_them() {
        let (balance, _ends) = Balance::new(2, 100);
        for _ in 0..8 {
            balance.place(0);
        }
        let counts: Vec<_> = balance.counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [4, 4]);
    }

    #[test]
    fn a_tie_stays_here_and_the_cap_holds() {
        let (balance, _ends) = Balance::new(2, 3);
        assert_eq!(balance.place(1), Placement::Here);
        assert_eq!(balance.place(1), Placement::There(0));
        assert_eq!(balance.place(0), Placement::Here);
        assert_eq!(balance.place(0), Placement::Refused);
        balance.end(0);
        assert_eq!(balance.place(0), Placement::Here);
    }

    #[test]
    fn a_port_that_somebody_shares_is_in_use_all_the_same() {
        let (_sockets, address) = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = bind(address, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
