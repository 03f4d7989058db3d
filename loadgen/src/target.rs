//! What a flow aims at: the protocol that its scheme means, and where that listens.
//!
//! Owns whatever a protocol needs before the run begins (addresses, keys, tokens), and is the one
//! place that knows all protocols. Leaves speaking them to `hammer`.

use std::net::{SocketAddr, ToSocketAddrs as _};

use crate::config::{Flow, Scheme};
use crate::error::Error;
use crate::hammer::http::{self, Http};
use crate::hammer::http2::{self, Http2};
use crate::hammer::journey::{self, Walker};
use crate::hammer::ndjson;
use crate::hammer::null::Null;
use crate::hammer::route::Route;
use crate::hammer::tcp::Tcp;
use crate::hammer::udp::Udp;
use crate::measure::validity::target::Listens;
use crate::plan::payloads::Payloads;
use crate::shard::Starter;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) starter: Starter,
    pub(crate) listens: Vec<Listens>,
}

impl Target {
    /// By the flow's scheme; `payloads` are its messages.
    ///
    /// # Errors
    /// A name that does not resolve, a key or token that cannot be read, a source address that is not
    /// ours.
    pub(crate) fn of(flow: &Flow, payloads: &Payloads) -> Result<Target, Error> {
        let addresses = addresses(flow)?;
        let listens = listens(flow, &addresses);
        let route = Route::new(flow, addresses)?;
        if flow.scheme.is_http() {
            if !flow.steps.is_empty() {
                let plan = journey::Plan::new(flow, route, flow.tls()?)?;
                return Ok(Target { starter: Starter::of::<Walker>(plan), listens });
            }
            if flow.http.http2 {
                let plan = http2::Plan::new(flow, payloads, route, flow.tls()?)?;
                return Ok(Target { starter: Starter::of::<Http2>(plan), listens });
            }
            let plan = http::Plan::new(flow, payloads, route, flow.tls()?)?;
            return Ok(Target { starter: Starter::of::<Http>(plan), listens });
        }
        let token = flow.token()?;
        let plan = ndjson::Plan {
            route,
            tls: flow.tls()?,
            hello: flow.hello(token),
            compress: flow.compress,
            datagram_bytes: flow.udp_datagram_bytes,
        };
        let starter = match flow.scheme {
            Scheme::Tcp | Scheme::Tls => Starter::of::<Tcp>(plan),
            Scheme::Udp => Starter::of::<Udp>(plan),
            Scheme::Null => Starter::of::<Null>(plan),
            Scheme::Http | Scheme::Https => unreachable!("above"),
        };
        Ok(Target { starter, listens })
    }

    /// By a protocol from outside.
    ///
    /// # Errors
    /// A name that does not resolve.
    pub(crate) fn own(flow: &Flow, starter: Starter) -> Result<Target, Error> {
        Ok(Target { starter, listens: listens(flow, &addresses(flow)?) })
    }
}

fn listens(flow: &Flow, addresses: &[SocketAddr]) -> Vec<Listens> {
    let is_udp = flow.scheme == Scheme::Udp;
    addresses.iter().map(|&at| Listens { at, is_udp }).collect()
}

fn addresses(flow: &Flow) -> Result<Vec<SocketAddr>, Error> {
    if flow.scheme == Scheme::Null {
        return Ok(Vec::new());
    }
    let host = &flow.server_host;
    let failed = |source| Error::Resolve { host: host.clone(), source };
    let found = (host.as_str(), flow.server_port).to_socket_addrs().map_err(failed)?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(failed(std::io::Error::other("the name has no address")));
    }
    Ok(addresses)
}
