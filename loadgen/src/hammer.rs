//! What carries messages to a target: one file a protocol, behind two traits.
//!
//! [`Hammer`] sends one message at a time, and is what people write for a protocol of their own.
//! [`BatchHammer`] may have many on their way, and is what the protocols in this folder are. Owns
//! the contract between the worker and either. Leaves connections to the pool, schedules and
//! counting to `plan` and `measure`, and time to [`Batch`], which reads the clock whenever a hammer
//! tells it something: nobody times himself.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proto::hello::Welcome;

pub use self::batch::Batch;
pub use self::one_by_one::Message;
pub use crate::measure::tally::Answer;
use crate::measure::tally::code;
use crate::plan::payloads::{Payloads, Stamp};

mod awaited;
pub(crate) mod batch;
pub(crate) mod claim;
mod exchange;
mod fate;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod identity;
pub(crate) mod journey;
mod lateness;
pub(crate) mod ndjson;
pub(crate) mod null;
pub(crate) mod one_by_one;
mod pack;
mod replies;
pub(crate) mod route;
mod stream;
pub(crate) mod tcp;
pub(crate) mod udp;

/// A protocol that has one message on its way, then the next: see [`crate::run_with`].
///
/// It lives on one shard (`!Send`), and must not block it: use glommio's sockets, or futures that
/// wake their task. A message counts as sent when [`Self::hit`] is called and as answered when it
/// returns; response and lag are counted from when it was due, whatever the hammer does.
pub trait Hammer: Sized + 'static {
    /// What a connection needs to know, in plain values; one for the whole run.
    type Plan: Send + Sync + 'static;

    /// Opens a connection, ready for its first message. Ended by CONNECT_TIMEOUT_SECS.
    ///
    /// # Errors
    /// Why there is none; it is tried again, at growing intervals.
    fn connect(plan: &Self::Plan) -> impl Future<Output = Result<Self, NoConnection>>;

    /// Sends one message and waits for what becomes of it.
    ///
    /// Cancelled by dropping the future, at REPLY_TIMEOUT_SECS or at the end of the run; the
    /// connection is dropped, too.
    ///
    /// # Errors
    /// [`Failure::Rejected`] if the target said no and the connection can go on,
    /// [`Failure::Broken`] if it cannot.
    fn hit(&mut self, message: &Message<'_>) -> impl Future<Output = Result<Answer, Failure>>;

    /// Says good-bye, where the protocol has a word for it; does not wait.
    fn close(self) {}
}

/// What became of a message that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The target said no, by this code; the connection goes on.
    Rejected(String),
    /// The connection cannot go on.
    Broken(Broken),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Failure {
        Failure::Broken(broken)
    }
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Failure {
        Failure::Broken(Broken::Reset)
    }
}

/// A protocol that may have many messages on their way. `!Send`: it lives on one shard.
pub trait BatchHammer: Sized + 'static {
    /// What it needs to know, in plain values: one for all connections of a flow.
    type Plan: Send + Sync + 'static;
    /// What the connections of a flow on one shard have in common: the address that answered last,
    /// buffers that nobody needs between two polls.
    type Lane: 'static;

    /// Made once on each shard.
    fn lane(plan: &Arc<Self::Plan>) -> Self::Lane;

    /// Opens a connection, ready for its first batch, within `timeout`.
    ///
    /// # Errors
    /// Why there is none; it is tried again, at growing intervals.
    fn connect(
        lane: &Rc<Self::Lane>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Self, NoConnection>>;

    /// Sends the whole batch and takes the replies, until every message is answered.
    ///
    /// Cancelled by dropping the future; the connection is then dropped, too.
    ///
    /// # Errors
    /// The connection cannot go on; what the batch has not settled fails with the error's code.
    fn carry(
        &mut self,
        kit: &Kit,
        batch: &mut Batch<'_>,
    ) -> impl Future<Output = Result<(), Broken>>;

    /// Says good-bye, where the protocol has a word for it; does not wait.
    fn close(self);

    /// What the server granted, where the protocol is Logboom's own.
    fn welcome(_lane: &Self::Lane) -> Option<Welcome> {
        None
    }
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub struct NoConnection {
    /// `refused`, or what the server said.
    pub code: String,
    /// For people.
    pub reason: String,
}

impl NoConnection {
    /// Nobody listens, or whoever does wants nothing of us.
    pub fn refused(reason: impl ToString) -> NoConnection {
        NoConnection { code: code::REFUSED.to_owned(), reason: reason.to_string() }
    }
}

impl From<std::io::Error> for NoConnection {
    fn from(error: std::io::Error) -> NoConnection {
        NoConnection::refused(error)
    }
}

/// Why a connection cannot go on. What its batch has not settled yet fails with a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It was closed while idle, before anything of this batch was sent: another one is tried.
    Stale,
    /// Closed or reset with messages unanswered.
    Reset,
    /// The target does not want us: it said so before it took anything. The reason is for people.
    Refused(String),
    /// A reply to nothing, or one that cannot be understood.
    Mismatch,
    /// The server said why it ends the connection.
    Fatal(String),
}

impl Broken {
    /// As errors are counted.
    pub fn code(&self) -> &str {
        match self {
            Broken::Stale | Broken::Reset => code::RESET,
            Broken::Refused(_) => code::REFUSED,
            Broken::Mismatch => code::MISMATCH,
            Broken::Fatal(code) => code,
        }
    }
}

/// Bytes asked of a read. Replies are 16 bytes, so this is 16,384 of them.
const READ_BYTES: usize = 256 * 1024;

/// What a shard lends to its hammers for the length of one poll, so that ten thousand idle
/// connections need no buffers.
pub struct Kit {
    pub(crate) payloads: Payloads,
    /// The time in the next messages; its date is rendered once a second.
    pub(crate) stamp: RefCell<Stamp>,
    /// Room for what is read, 256 KiB.
    pub read: RefCell<Box<[u8]>>,
    /// Room for what is to be written; whoever takes it empties it first.
    pub write: RefCell<Vec<u8>>,
}

impl Kit {
    pub(crate) fn new(payloads: Payloads) -> Kit {
        Kit {
            payloads,
            stamp: RefCell::default(),
            read: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            write: RefCell::default(),
        }
    }
}
