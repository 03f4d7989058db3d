//! Accepting, and evening out.
//!
//! Each shard has a listening socket of its own (SO_REUSEPORT); the kernel spreads connections by
//! hash, which is not load balancing, so an accepted descriptor goes over to the shard with the
//! fewest connections when it would end uneven. Invariants: one long-lived accept task per
//! listener (a cancelled accept loses a connection); every connection is counted once in
//! [`Balance`], from its acceptance to its end, on the shard that serves it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use glommio::timer::sleep;
use proto::code::Code;
use runtime::socket::{Listener, Socket};
use socket2::{Domain, Protocol, SockRef, Type};
use tracing::{debug, warn};

use super::{connection, farewell};
use crate::counters::Counter;
use crate::shard::Shard;
use crate::stall::Task;

/// Connections that the kernel may keep waiting; it cuts this to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// After a failed accept (EMFILE fails at once and for ever).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Accepted connections before others have a turn.
const ACCEPTS_PER_TURN: usize = 16;
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

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    if reuse_port {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// An accepted connection on its way to the shard that serves it.
#[derive(Debug)]
pub(crate) struct Arrival {
    stream: TcpStream,
    guest: Guest,
}

/// Whose connection it is, where connections are counted by address.
#[derive(Debug)]
pub(crate) struct Guest(Option<IpAddr>);

/// How many connections each shard serves, and the way to each.
#[derive(Debug)]
pub(crate) struct Balance {
    counts: Vec<AtomicUsize>,
    ways: Vec<Sender<Arrival>>,
    connections_max: usize,
    /// Only where it is the narrower bound; once per connection, so a lock is no matter.
    per_ip: Option<PerIp>,
}

#[derive(Debug)]
struct PerIp {
    connections_max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
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
    pub(crate) fn new(
        shards: usize,
        connections_max: usize,
        per_ip_max: usize,
    ) -> (Balance, Vec<Receiver<Arrival>>) {
        let (ways, ends) = (0..shards).map(|_| async_channel::bounded(HAND_OVER_MAX)).unzip();
        let counts = (0..shards).map(|_| AtomicUsize::new(0)).collect();
        let per_ip = (per_ip_max < connections_max)
            .then(|| PerIp { connections_max: per_ip_max, counts: Mutex::default() });
        (Balance { counts, ways, connections_max, per_ip }, ends)
    }

    /// Counts a connection from `peer`, unless that address has as many as it may.
    fn welcome(&self, ip: IpAddr) -> Option<Guest> {
        let Some(per_ip) = &self.per_ip else { return Some(Guest(None)) };
        // An IPv4 client is the same on a socket of both kinds.
        let ip = ip.to_canonical();
        let mut counts = per_ip.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_insert(0);
        if *count >= per_ip.connections_max {
            return None;
        }
        *count += 1;
        Some(Guest(Some(ip)))
    }

    /// Takes a connection out of the count of its address.
    fn bid_farewell(&self, guest: &Guest) {
        let (Some(per_ip), Some(ip)) = (&self.per_ip, guest.0) else { return };
        let mut counts = per_ip.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(ip) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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
    socket: Option<OwnedFd>,
}

impl Entrance {
    /// Accepts nothing more.
    pub(crate) fn shut(&self) {
        if let Some(socket) = &self.socket {
            let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Begins to accept on `listener`.
pub(crate) fn open(shard: &Rc<Shard>, listener: OwnedFd, balance: &Arc<Balance>) -> Entrance {
    let socket = listener.try_clone().ok();
    let accepting = accept(Rc::clone(shard), listener, Arc::clone(balance));
    glommio::spawn_local(shard.watched(Task::Listener, accepting)).detach();
    Entrance { socket }
}

async fn accept(shard: Rc<Shard>, listener: OwnedFd, balance: Arc<Balance>) {
    let listener = match Listener::from_fd(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(shard = shard.settings.shard, %error, "cannot accept connections");
            return;
        }
    };
    let mut accepted = 0;
    while !shard.stopping.get() {
        // An accept that finds somebody waiting does not give up the thread.
        accepted += 1;
        if accepted % ACCEPTS_PER_TURN == 0 {
            glommio::executor().yield_now().await;
        }
        match listener.accept().await {
            Ok(_) if shard.stopping.get() => break,
            Ok((stream, peer)) => admit(&shard, stream, peer, &balance),
            Err(_) if shard.stopping.get() => break,
            Err(error) => {
                shard.counters.add(Counter::AcceptErrors, 1);
                warn!(shard = shard.settings.shard, %error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(shard: &Rc<Shard>, stream: TcpStream, peer: SocketAddr, balance: &Arc<Balance>) {
    let here = shard.settings.shard;
    let Some(guest) = balance.welcome(peer.ip()) else {
        return refuse(shard, stream, "CONNECTIONS_PER_IP_MAX is reached");
    };
    match balance.place(here) {
        Placement::Here => serve(shard, stream, guest, balance),
        Placement::There(there) => hand_over(shard, stream, guest, balance, there),
        Placement::Refused => {
            balance.bid_farewell(&guest);
            refuse(shard, stream, "CONNECTIONS_MAX is reached");
        }
    }
}

fn hand_over(
    shard: &Rc<Shard>,
    stream: TcpStream,
    guest: Guest,
    balance: &Arc<Balance>,
    there: usize,
) {
    match balance.ways[there].try_send(Arrival { stream, guest }) {
        Ok(()) => shard.counters.add(Counter::ConnectionsHandedOver, 1),
        Err(unsent) => {
            balance.move_count(there, shard.settings.shard);
            let Arrival { stream, guest } = unsent.into_inner();
            serve(shard, stream, guest, balance);
        }
    }
}

/// Serves what other shards accepted for this one.
pub(crate) async fn receive(
    shard: Rc<Shard>,
    handed_over: Receiver<Arrival>,
    balance: Arc<Balance>,
) {
    while let Ok(Arrival { stream, guest }) = handed_over.recv().await {
        serve(&shard, stream, guest, &balance);
    }
}

fn serve(shard: &Rc<Shard>, stream: TcpStream, guest: Guest, balance: &Arc<Balance>) {
    let task = Task::Connection(stream.peer_addr().ok());
    let socket = match Socket::from_stream(stream) {
        Ok(socket) => socket,
        Err(error) => {
            warn!(shard = shard.settings.shard, %error, "cannot watch a connection");
            balance.end(shard.settings.shard);
            return balance.bid_farewell(&guest);
        }
    };
    let (shard, balance) = (Rc::clone(shard), Arc::clone(balance));
    // Entered before the task first runs, so that a stop does not overlook it.
    let seat = connection::Seat::take(&shard);
    let watch = Rc::clone(&shard);
    let serving = async move {
        let here = shard.settings.shard;
        debug!(shard = here, %task, "a connection begins");
        connection::run(shard, socket, seat).await;
        debug!(shard = here, %task, "a connection ends");
        balance.end(here);
        balance.bid_farewell(&guest);
    };
    glommio::spawn_local(watch.watched(task, serving)).detach();
}

fn refuse(shard: &Rc<Shard>, stream: TcpStream, reason: &'static str) {
    shard.counters.add(Counter::ConnectionsRefused, 1);
    warn!(shard = shard.settings.shard, "a connection is refused: {reason}");
    if shard.refusals.get() >= REFUSALS_MAX {
        return;
    }
    let Ok(socket) = Socket::from_stream(stream) else { return };
    shard.refusals.set(shard.refusals.get() + 1);
    let (watch, shard) = (shard, Rc::clone(shard));
    let refusing = async move {
        farewell::refuse(&shard, socket, Code::TooManyConnections, reason).await;
        shard.refusals.set(shard.refusals.get() - 1);
    };
    glommio::spawn_local(watch.watched(Task::Refusal, refusing)).detach();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_connections_end_four_and_four_whoever_accepts_them() {
        let (balance, _ends) = Balance::new(2, 100, 100);
        for _ in 0..8 {
            balance.place(0);
        }
        let counts: Vec<_> = balance.counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [4, 4]);
    }

    #[test]
    fn a_tie_stays_here_and_the_cap_holds() {
        let (balance, _ends) = Balance::new(2, 3, 3);
        assert_eq!(balance.place(1), Placement::Here);
        assert_eq!(balance.place(1), Placement::There(0));
        assert_eq!(balance.place(0), Placement::Here);
        assert_eq!(balance.place(0), Placement::Refused);
        balance.end(0);
        assert_eq!(balance.place(0), Placement::Here);
    }

    #[test]
    fn an_address_has_a_bound_of_its_own() {
        let (balance, _ends) = Balance::new(2, 100, 2);
        let from = |ip: &str| balance.welcome(ip.parse().unwrap());
        let first = from("192.0.2.1").unwrap();
        let second = from("::ffff:192.0.2.1").unwrap();
        assert!(from("192.0.2.1").is_none(), "both spellings are one address");
        assert!(from("192.0.2.2").is_some());
        balance.bid_farewell(&first);
        assert!(from("192.0.2.1").is_some());
        balance.bid_farewell(&second);
    }

    #[test]
    fn a_port_that_somebody_shares_is_in_use_all_the_same() {
        let (_sockets, address) = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = bind(address, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
