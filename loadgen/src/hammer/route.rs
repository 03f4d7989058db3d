//! The way to a target: its addresses, from which of ours, and with which options of the socket.
//!
//! Owns which local address a connection gets (each in turn, over all shards of the run), and what
//! the kernel says to what was asked. Leaves waiting to `stream::dial`.
//! Invariant: a route that was made has only local addresses that this machine has at their ends,
//! and only buffers that the kernel gives.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use runtime::descriptor::bind_without_port;
use runtime::socket::Socket;
use socket2::{Domain, Protocol, Socket as Raw, Type};

use crate::config::{Flow, Sockets, Source};
use crate::error::Error;

/// Local addresses that are tried for one connection: all ports of one may be taken.
const SOURCES_TRIED_MAX: u128 = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Route {
    /// Every address that the name resolved to; of a target that is none, none.
    pub(crate) addresses: Vec<SocketAddr>,
    sockets: Sockets,
    /// Connections that were begun.
    next: AtomicU64,
}

impl Route {
    /// From `flow`'s source addresses to `addresses`.
    ///
    /// # Errors
    /// A source that is not of this machine, or a buffer that the kernel does not give.
    pub(crate) fn new(flow: &Flow, addresses: Vec<SocketAddr>) -> Result<Route, Error> {
        let route = Route { addresses, sockets: flow.sockets.clone(), next: AtomicU64::new(0) };
        route.check()?;
        Ok(route)
    }

    fn check(&self) -> Result<(), Error> {
        let Sockets { source_address, send_buffer, receive_buffer, .. } = &self.sockets;
        for source in source_address {
            for end in [source.first(), source.last()] {
                let raw = Raw::new(Domain::for_address((end, 0).into()), Type::STREAM, None);
                if let Err(error) = raw.and_then(|raw| raw.bind(&SocketAddr::from((end, 0)).into()))
                {
                    return Err(Error::Usage(format!(
                        "SOURCE_ADDRESS {source}: {end} is not an address of this machine ({error})"
                    )));
                }
            }
        }
        let lacks = |address: &SocketAddr| self.sources(address).next().is_none();
        if !source_address.is_empty() && self.addresses.iter().all(lacks) {
            let addresses: Vec<String> =
                self.addresses.iter().map(|it| it.ip().to_string()).collect();
            return Err(Error::Usage(format!(
                "SOURCE_ADDRESS {}: the target is {}, of another family",
                source_address[0],
                addresses.join(", ")
            )));
        }
        let Some(address) = self.addresses.first() else { return Ok(()) };
        let refuse = |error: io::Error| Error::Usage(format!("no socket for {address}: {error}"));
        let raw = Raw::new(Domain::for_address(*address), Type::STREAM, None).map_err(refuse)?;
        self.set_buffers(&raw).map_err(refuse)?;
        for (knob, limit, asked, given) in [
            ("SEND_BUFFER", "net.core.wmem_max", *send_buffer, raw.send_buffer_size()),
            ("RECEIVE_BUFFER", "net.core.rmem_max", *receive_buffer, raw.recv_buffer_size()),
        ] {
            // The kernel doubles what is asked, for its own book-keeping (socket(7)).
            let given = given.map_err(refuse)? / 2;
            if let Some(asked) = asked.filter(|asked| *asked > given) {
                return Err(Error::Usage(format!(
                    "{knob} {asked}: the kernel gives {given} bytes at most ({limit})"
                )));
            }
        }
        Ok(())
    }

    /// Those that can reach `address`.
    fn sources(&self, address: &SocketAddr) -> impl Iterator<Item = &Source> {
        let is_v6 = address.is_ipv6();
        self.sockets.source_address.iter().filter(move |source| source.first().is_ipv6() == is_v6)
    }

    /// The local address of connection `index`; all of them in turn.
    fn source(&self, address: &SocketAddr, index: u128) -> Option<IpAddr> {
        let count = self
            .sources(address)
            .map(Source::count)
            .reduce(|one, more| one.saturating_add(more))?;
        let mut index = index % count;
        for source in self.sources(address) {
            match index.checked_sub(source.count()) {
                Some(beyond) => index = beyond,
                None => return Some(source.nth(index)),
            }
        }
        None
    }

    fn set_buffers(&self, raw: &Raw) -> io::Result<()> {
        let Sockets { send_buffer, receive_buffer, .. } = &self.sockets;
        if let Some(bytes) = send_buffer {
            raw.set_send_buffer_size(*bytes)?;
        }
        if let Some(bytes) = receive_buffer {
            // Before it connects: the window's scale is said in the first packet.
            raw.set_recv_buffer_size(*bytes)?;
        }
        Ok(())
    }

    /// A socket to reach `address` with, by TCP or in datagrams; not connected.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn socket(&self, address: &SocketAddr, is_udp: bool) -> io::Result<Raw> {
        let (kind, protocol) = match is_udp {
            true => (Type::DGRAM, Protocol::UDP),
            false => (Type::STREAM, Protocol::TCP),
        };
        let raw = Raw::new(Domain::for_address(*address), kind, Some(protocol))?;
        self.set_buffers(&raw)?;
        if !is_udp {
            raw.set_tcp_nodelay(self.sockets.tcp_nodelay)?;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed).into();
        match self.source(address, index) {
            Some(source) => bind_without_port(&raw, source)?,
            None if self.sockets.source_address.is_empty() => {}
            None => return Err(io::Error::other("no SOURCE_ADDRESS of its family")),
        }
        Ok(raw)
    }

    /// Connects; drop the future to give up.
    ///
    /// # Errors
    /// What the kernel says, of the last local address that was tried.
    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        let sources = self.sources(&address).map(Source::count).fold(0, u128::saturating_add);
        let mut tried = 0;
        loop {
            let raw = self.socket(&address, false)?;
            tried += 1;
            match Socket::connect_from(raw, address).await {
                Err(error) if is_without_port(&error) => {
                    if tried < sources.min(SOURCES_TRIED_MAX) {
                        continue;
                    }
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{error}: no local port is free (SOURCE_ADDRESS)"),
                    ));
                }
                end => return end,
            }
        }
    }
}

/// Every port of the local address is taken, as far as this target goes.
fn is_without_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn route(sockets: Sockets) -> Result<Route, Error> {
        let flow = Flow { sockets, ..Flow::default() };
        Route::new(&flow, vec!["127.0.0.1:9".parse().unwrap()])
    }

    fn sources(texts: &[&str]) -> Sockets {
        let source_address = texts.iter().map(|text| text.parse().unwrap()).collect();
        Sockets { source_address, ..Sockets::default() }
    }

    #[test]
    fn every_local_address_has_its_turn() {
        let route = route(sources(&["127.0.0.2", "::1", "127.0.1.0/30"])).unwrap();
        let mut seen = BTreeMap::new();
        for _ in 0..10 {
            let raw = route.socket(&route.addresses[0], false).unwrap();
            let at = raw.local_addr().unwrap().as_socket().unwrap().ip().to_string();
            *seen.entry(at).or_insert(0) += 1;
        }
        let expected = ["127.0.0.2", "127.0.1.0", "127.0.1.1", "127.0.1.2", "127.0.1.3"];
        assert_eq!(seen, expected.map(|text| (text.to_owned(), 2)).into_iter().collect());
    }

    #[test]
    fn sockets_have_the_options_that_were_asked_for() {
        let address = "127.0.0.1:9".parse().unwrap();
        let usual = route(Sockets::default()).unwrap().socket(&address, false).unwrap();
        assert!(usual.tcp_nodelay().unwrap());
        let asked = Sockets {
            tcp_nodelay: false,
            send_buffer: Some(32 << 10),
            receive_buffer: Some(48 << 10),
            ..Sockets::default()
        };
        let raw = route(asked).unwrap().socket(&address, false).unwrap();
        assert!(!raw.tcp_nodelay().unwrap());
        assert_eq!(raw.send_buffer_size().unwrap(), 64 << 10);
        assert_eq!(raw.recv_buffer_size().unwrap(), 96 << 10);
    }

    #[test]
    fn what_the_machine_does_not_have_is_refused_by_its_knob() {
        let huge = |bytes| Sockets { send_buffer: Some(bytes), ..Sockets::default() };
        for (sockets, hint) in [
            (sources(&["192.0.2.7"]), "SOURCE_ADDRESS 192.0.2.7: 192.0.2.7 is not an address of"),
            (sources(&["127.0.0.1-128.0.0.1"]), "128.0.0.1 is not an address of this machine"),
            (sources(&["::1"]), "of another family"),
            (huge((1 << 30) - 1), "SEND_BUFFER 1073741823: the kernel gives"),
        ] {
            let error = route(sockets).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
