//! What the three ways of sending NDJSON have in common: over TCP, in datagrams, and nowhere.
//!
//! Owns what a flow's connections are told and what those of one shard share. Names are resolved,
//! keys and tokens read, before the run begins.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use proto::hello::{Hello, Welcome};

use super::pack::Packer;
use super::route::Route;
use crate::tls::Tls;

/// What the connections of a flow are told.
#[derive(Debug)]
pub(crate) struct Plan {
    /// To every address that the name resolved to, at least one.
    pub(crate) route: Route,
    /// How to speak TLS, where it is spoken.
    pub(crate) tls: Option<Tls>,
    /// Sent first where something other than the server's defaults is asked for.
    pub(crate) hello: Option<Hello>,
    /// Lines go as gzip members.
    pub(crate) compress: bool,
    /// Bytes of messages in a datagram.
    pub(crate) datagram_bytes: usize,
}

/// What the connections of one shard share.
pub(crate) struct Lane {
    pub(crate) plan: Arc<Plan>,
    /// The address that answered last is tried first.
    pub(crate) preferred: Cell<usize>,
    /// The latest answer to our hello.
    pub(crate) welcome: RefCell<Option<Welcome>>,
    /// Makes members of lines, unless they go as they are.
    pub(crate) packer: RefCell<Option<Packer>>,
}

impl Lane {
    pub(crate) fn new(plan: &Arc<Plan>) -> Lane {
        Lane {
            packer: RefCell::new(plan.compress.then(Packer::new)),
            plan: Arc::clone(plan),
            preferred: Cell::default(),
            welcome: RefCell::default(),
        }
    }
}
