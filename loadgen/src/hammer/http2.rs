//! HTTP/2, by hyper: a request a message, several at a time on one connection (STREAMS), or one for
//! a batch of log lines.
//!
//! Owns which requests are on their way, and what becomes of those that a server gives back when it
//! goes away in peace (GOAWAY without an error, as nginx does after so many requests): they had not
//! been touched, so they go again on another connection, and count from when they were first sent.
//! hyper is handed no more requests than the server allows at that time, so that waiting for a stream
//! is lag (window full); waiting for room in a window of flow control, of which hyper does not tell, is
//! service. Leaves frames to hyper, and requests to what HTTP/1.1 is asked, too.
//! Invariant: at most as many requests are on their way as STREAMS and the server allow.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;

use super::exchange::{Filled, Form, Link, Reply, Trouble, Version};
use super::route::Route;
use super::stream::{Stream, dial};
use super::{Batch, BatchHammer, Broken, Kit, NoConnection};
use crate::config::Flow;
use crate::error::Error;
use crate::plan::payloads::Payloads;
use crate::tls::Tls;

/// Lines are made in steps of so many bytes.
const WRITE_BYTES: usize = 64 * 1024;
/// How often a request goes again that servers gave back.
const GIVEN_BACK_MAX: u32 = 3;
/// The code of one that they gave back once more.
const GIVEN_BACK: &str = "h2_goaway";

/// What the connections of a flow are told.
pub(crate) struct Plan {
    route: Route,
    tls: Option<Tls>,
    form: Form,
    content: Content,
    streams: usize,
}

/// What requests hold.
enum Content {
    /// The same each time.
    Same(Bytes),
    /// Log lines.
    Lines,
    /// What each message fills in, and its line where that is the body.
    Filled { body: Option<Bytes> },
}

impl Plan {
    /// The requests of `flow`, by `route`.
    ///
    /// # Errors
    /// The token or the body cannot be read; a header that HTTP/2 cannot have.
    pub(crate) fn new(
        flow: &Flow,
        payloads: &Payloads,
        route: Route,
        tls: Option<Tls>,
    ) -> Result<Plan, Error> {
        let http = &flow.http;
        let body = http.body.as_ref().map(super::http::body).transpose()?;
        let body = body.map(Bytes::from);
        Ok(Plan {
            route,
            tls,
            form: Form::new(flow, Version::Two, super::http::content_type(flow, payloads))?,
            content: match flow.sends_message() {
                _ if http.ndjson => Content::Lines,
                true => Content::Filled { body: None },
                false if !flow.blanks().is_empty() => {
                    Content::Filled { body: Some(body.unwrap_or_default()) }
                }
                false => Content::Same(body.unwrap_or_default()),
            },
            streams: usize::try_from(http.streams).unwrap_or(usize::MAX),
        })
    }
}

/// What the connections of one shard share.
pub(crate) struct Lane {
    plan: Arc<Plan>,
    /// The address that answered last is tried first.
    preferred: Cell<usize>,
}

/// A connection.
pub(crate) struct Http2 {
    lane: Rc<Lane>,
    timeout: Duration,
    link: Link,
}

/// Messages of one request.
struct Job {
    /// The number of the first one in its batch.
    first: u64,
    count: u64,
    body: Bytes,
    filled: Option<Filled>,
    /// How often it was given back.
    given_back: u32,
}

impl BatchHammer for Http2 {
    type Plan = Plan;
    type Lane = Lane;

    fn lane(plan: &Arc<Plan>) -> Lane {
        Lane { plan: Arc::clone(plan), preferred: Cell::default() }
    }

    async fn connect(lane: &Rc<Lane>, timeout: Duration) -> Result<Http2, NoConnection> {
        let link = open(lane, timeout).await?;
        Ok(Http2 { lane: Rc::clone(lane), timeout, link })
    }

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        if self.link.is_closed() {
            return Err(Broken::Stale);
        }
        let mut flights = FuturesUnordered::new();
        let mut given_back: Vec<Job> = Vec::new();
        loop {
            while flights.len() < self.lane.plan.streams.min(self.link.streams_max()) {
                if self.link.is_closed() {
                    break;
                }
                let job = match given_back.pop() {
                    Some(job) => job,
                    None if batch.unencoded() > 0 => self.encode(kit, batch),
                    None => break,
                };
                let request = self.lane.plan.form.filled(job.body.clone(), job.filled.as_ref());
                if job.given_back == 0 {
                    batch.before_write();
                    batch.wrote(job.count);
                }
                flights.push(fly(job, self.link.send(request)));
            }
            if batch.unencoded() > 0 && !flights.is_empty() {
                batch.window_full();
            }
            let Some((job, end)) = flights.next().await else {
                if batch.is_settled() {
                    return Ok(());
                }
                let opened = open(&self.lane, self.timeout).await;
                self.link = opened.map_err(|why| Broken::Refused(why.reason))?;
                continue;
            };
            batch.after_read();
            match end {
                Ok(status) => batch.replied_at(job.first, job.count, status),
                Err(Trouble::Untouched) if job.given_back < GIVEN_BACK_MAX => {
                    given_back.push(Job { given_back: job.given_back + 1, ..job });
                }
                Err(Trouble::Untouched) => batch.rejected_at(job.first, job.count, GIVEN_BACK),
                Err(Trouble::Rejected(code)) => batch.rejected_at(job.first, job.count, &code),
                Err(Trouble::Broken(broken)) => return Err(broken),
            }
            glommio::executor().yield_if_needed().await;
        }
    }

    fn close(self) {
        self.link.close();
    }
}

impl Http2 {
    /// The next request of the batch.
    fn encode(&self, kit: &Kit, batch: &mut Batch<'_>) -> Job {
        let first = batch.index();
        let mut filled = None;
        let body = match &self.lane.plan.content {
            Content::Same(body) => {
                batch.own(1);
                body.clone()
            }
            Content::Lines => {
                let lines = &mut *kit.write.borrow_mut();
                lines.clear();
                while batch.unencoded() > 0 {
                    let bytes_max = lines.len() + WRITE_BYTES;
                    batch.encode(kit, lines, bytes_max);
                }
                Bytes::copy_from_slice(lines)
            }
            Content::Filled { body } => {
                let room = &mut *kit.write.borrow_mut();
                let mut made = body.clone();
                batch.make(kit, |message| {
                    filled = self.lane.plan.form.fill(message, room);
                    room.clear();
                    if made.is_none() {
                        message.line(room);
                        // The newline parts lines, and here is one.
                        room.pop();
                        made = Some(Bytes::copy_from_slice(room));
                    }
                    room.len()
                });
                made.unwrap_or_default()
            }
        };
        Job { first, count: batch.index() - first, body, filled, given_back: 0 }
    }
}

async fn open(lane: &Rc<Lane>, timeout: Duration) -> Result<Link, NoConnection> {
    let plan = &lane.plan;
    dial(&plan.route, &lane.preferred, timeout, async |socket| {
        let stream =
            Stream::open(socket, plan.tls.as_ref()).await.map_err(NoConnection::refused)?;
        Link::open(stream, Version::Two).await
    })
    .await
}

/// Until all of the response is there; its body is counted off and dropped.
async fn fly(job: Job, reply: Reply) -> (Job, Result<u16, Trouble>) {
    let whole = async {
        let response = reply.await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(status)
    };
    let end = whole.await.map_err(|error: hyper::Error| Trouble::of(&error));
    (job, end)
}
