//! HTTP/1.1: a request a message, or one for a batch of log lines.
//!
//! Owns one connection: what the socket did not take yet, and what a response means for the
//! messages. A request that is always the same is written out of the plan's own bytes, never copied.
//! A batch is what is on its way at once: one request, several with PIPELINE, or the lines of one
//! with NDJSON. Leaves heads and bodies to [`response`], and reopening to the worker: a connection
//! that ended between two batches is stale.
//! Writes and reads in one poll: a server whose responses are not read stops reading.
//! Invariant: a response is counted only for a request of which something was written before it was
//! read; bytes behind the last response that was asked for make that one a mismatch.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead as _, AsyncWrite as _};

use self::head::Memo;
use self::request::{Envelope, Form, Recall, Request};
use self::response::{Reply, Responses};
use super::claim::Replayed;
use super::route::Route;
use super::stream::{Stream, dial, refusal};
use super::{Batch, BatchHammer, Broken, Kit, NoConnection};
use crate::config::{Body, Flow};
use crate::error::Error;
use crate::plan::payloads::Payloads;
use crate::tls::Tls;

mod head;
mod request;
mod response;

/// Bytes of equal requests that are kept one behind the other for one write.
const WRITE_BYTES: usize = 64 * 1024;
/// Reads in one poll, so that an endless body lets others of its shard through.
const READS_PER_POLL: u32 = 8;
/// A body that is always the same.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// How a TLS alert begins, which is what a TLS server says to plain requests.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];
/// What some servers say before they close an idle connection.
const IDLE_TIMEOUT: &[u8] = b" 408";

/// What the connections of a flow are told.
pub(crate) struct Plan {
    route: Route,
    tls: Option<Tls>,
    content: Content,
    /// Its answers have no bodies.
    is_head: bool,
    /// A connection carries one request.
    asks_close: bool,
}

/// What requests hold.
enum Content {
    /// The same each time.
    Same {
        /// As many as go with one write.
        bytes: Vec<u8>,
        /// Of one of them.
        length: usize,
    },
    /// Log lines.
    Lines(Envelope),
    /// What a recording says.
    Recorded(Recall),
    /// What each message fills in.
    Filled(Form),
}

impl Plan {
    /// The requests of `flow`, by `route`.
    ///
    /// # Errors
    /// The token or the body cannot be read.
    pub(crate) fn new(
        flow: &Flow,
        payloads: &Payloads,
        route: Route,
        tls: Option<Tls>,
    ) -> Result<Plan, Error> {
        let http = &flow.http;
        let brings_line = flow.sends_message();
        let request = Request::of(flow, content_type(flow, payloads))?;
        let content = if http.ndjson {
            Content::Lines(request.envelope())
        } else if flow.replay.is_some() {
            Content::Recorded(request.recall())
        } else {
            let body = http.body.as_ref().map(body).transpose()?;
            if brings_line || !flow.blanks().is_empty() {
                Content::Filled(request.form(body.as_deref(), brings_line))
            } else {
                let one = request.render(body.as_deref());
                let most = (WRITE_BYTES / one.len()).max(1);
                let count = usize::try_from(http.pipeline).unwrap_or(most).min(most);
                Content::Same { bytes: one.repeat(count), length: one.len() }
            }
        };
        Ok(Plan {
            route,
            tls,
            content,
            is_head: flow.method() == "HEAD",
            asks_close: http.asks_close(),
        })
    }
}

/// What the bodies of `flow` are, where they come of its messages.
pub(super) fn content_type(flow: &Flow, payloads: &Payloads) -> Option<&'static str> {
    match flow.sends_message() {
        _ if flow.http.ndjson => Some("application/x-ndjson"),
        true if payloads.is_object() => Some("application/json"),
        true => Some("text/plain; charset=utf-8"),
        false => None,
    }
}

/// Reads the body, if it is in a file.
pub(super) fn body(body: &Body) -> Result<Vec<u8>, Error> {
    let path = match body {
        Body::Text(text) => return Ok(text.clone().into_bytes()),
        Body::File(path) => path,
    };
    let refuse = |reason: String| Error::Unusable { path: path.clone(), knob: "BODY", reason };
    let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if length > BODY_BYTES_MAX {
        return Err(refuse(format!("{length} bytes are more than {BODY_BYTES_MAX}")));
    }
    std::fs::read(path).map_err(|error| refuse(error.to_string()))
}

/// What the connections of one shard share.
pub(crate) struct Lane {
    plan: Arc<Plan>,
    /// The address that answered last is tried first.
    preferred: Cell<usize>,
    /// One server, one head.
    memo: RefCell<Memo>,
}

/// A connection.
pub(crate) struct Http {
    lane: Rc<Lane>,
    /// `None` once it carries no further request.
    stream: Option<Stream>,
    /// How much of the request at hand is written; 0 between two.
    cut: usize,
    /// What the socket did not take of the lines, from `pending_at` on.
    pending: Vec<u8>,
    pending_at: usize,
    /// It has answered a request.
    has_answered: bool,
    /// A write has failed: only the server's last words are still read.
    is_write_broken: bool,
    responses: Responses,
}

impl BatchHammer for Http {
    type Plan = Plan;
    type Lane = Lane;

    fn lane(plan: &Arc<Plan>) -> Lane {
        Lane { plan: Arc::clone(plan), preferred: Cell::default(), memo: RefCell::default() }
    }

    async fn connect(lane: &Rc<Lane>, timeout: Duration) -> Result<Http, NoConnection> {
        let Lane { plan, preferred, .. } = &**lane;
        let stream = dial(&plan.route, preferred, timeout, async |socket| {
            Stream::open(socket, plan.tls.as_ref()).await.map_err(NoConnection::refused)
        })
        .await?;
        Ok(Http {
            lane: Rc::clone(lane),
            stream: Some(stream),
            cut: 0,
            pending: Vec::new(),
            pending_at: 0,
            has_answered: false,
            is_write_broken: false,
            responses: Responses::default(),
        })
    }

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_carry(cx, kit, batch)).await
    }

    fn close(mut self) {
        self.end();
    }
}

impl Http {
    fn poll_carry(
        &mut self,
        cx: &mut Context<'_>,
        kit: &Kit,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<(), Broken>> {
        if batch.is_fresh() {
            if batch.follows_silence()
                && let Some(stream) = &self.stream
            {
                stream.doubt();
            }
            self.check_idle(cx, kit)?;
        }
        if !self.is_write_broken {
            self.write(cx, kit, batch)?;
        }
        for _ in 0..READS_PER_POLL {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Err(Broken::Reset));
            };
            let read = &mut *kit.read.borrow_mut();
            let end = ready!(Pin::new(stream).poll_read(cx, read));
            batch.after_read();
            match end {
                Ok(n) if n > 0 => self.take(&read[..n], batch)?,
                end => self.take_end(end, batch)?,
            }
            if batch.is_settled() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What an idle connection has to say is that it is closed, or a response that nobody asked for.
    /// Costs no system call unless the silence was long.
    fn check_idle(&mut self, cx: &mut Context<'_>, kit: &Kit) -> Result<(), Broken> {
        let Some(stream) = &mut self.stream else { return Err(Broken::Stale) };
        debug_assert!(self.responses.is_idle(), "the batch before took all of its bytes");
        let read = &mut *kit.read.borrow_mut();
        match Pin::new(stream).poll_read(cx, read) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(n)) if n > 0 => {
                let status = read[..n].get(head::BEGINNING.len() + 1..);
                match status.is_some_and(|status| status.starts_with(IDLE_TIMEOUT)) {
                    true => Err(Broken::Stale),
                    false => Err(Broken::Mismatch),
                }
            }
            Poll::Ready(end) => Err(self.refused(&end).unwrap_or(Broken::Stale)),
        }
    }

    /// Writes as much as the socket takes.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        kit: &Kit,
        batch: &mut Batch<'_>,
    ) -> Result<(), Broken> {
        let lane = Rc::clone(&self.lane);
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            // What TLS still holds goes first.
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return self.write_broke(batch),
                Poll::Pending => {
                    batch.blocked();
                    return Ok(());
                }
            }
            let goes_on = match &lane.plan.content {
                Content::Same { bytes, length } => self.write_same(cx, bytes, *length, batch),
                Content::Lines(envelope) => self.write_one(cx, kit, batch, |batch, out| {
                    (batch.unencoded() > 0).then(|| {
                        envelope.fill(out, |out| {
                            while batch.unencoded() > 0 {
                                batch.encode(kit, out, out.len() + WRITE_BYTES);
                            }
                        })
                    })
                }),
                Content::Recorded(recall) => self.write_one(cx, kit, batch, |batch, out| {
                    match batch.next_recorded()? {
                        Replayed::Request(request) => recall.ask(out, request),
                        Replayed::Line(line) => recall.bring(out, line),
                    }
                    batch.own(1);
                    Some(0)
                }),
                Content::Filled(form) => self.write_one(cx, kit, batch, |batch, out| {
                    let mut begin = None;
                    if batch.unencoded() > 0 {
                        batch.make(kit, |message| {
                            let (at, bytes) = form.fill(out, message);
                            begin = Some(at);
                            bytes
                        });
                    }
                    begin
                }),
            };
            match goes_on {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Ok(()),
                Poll::Ready(Err(_)) => return self.write_broke(batch),
                Poll::Pending => {
                    batch.blocked();
                    return Ok(());
                }
            }
        }
    }

    /// Nothing of the batch has gone: another connection may carry it. Otherwise the server may
    /// have said why.
    fn write_broke(&mut self, batch: &Batch<'_>) -> Result<(), Broken> {
        self.is_write_broken = true;
        if batch.is_fresh() && self.has_answered { Err(Broken::Stale) } else { Ok(()) }
    }

    /// One write of requests that are all the same; whether there may be more to write.
    fn write_same(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        length: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<io::Result<bool>> {
        let unwritten = batch.unwritten() + batch.unencoded();
        let most = bytes.len() / length;
        let count = usize::try_from(unwritten).unwrap_or(most).min(most);
        let Some(stream) = self.stream.as_mut().filter(|_| count > 0) else {
            return Poll::Ready(Ok(false));
        };
        batch.before_write();
        let n = ready!(Pin::new(stream).poll_write(cx, &bytes[self.cut..count * length]))?;
        if n == 0 {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
        let taken = self.cut + n;
        self.cut = taken % length;
        batch.own((taken.div_ceil(length) as u64).saturating_sub(batch.unwritten()));
        batch.wrote((taken / length) as u64);
        if self.cut > 0 {
            batch.wrote_part();
        }
        if taken < count * length {
            batch.blocked();
        }
        Poll::Ready(Ok(taken < count * length || count as u64 != unwritten || self.holds_back()))
    }

    /// One write of one request, of a message or of many; whether there may be more to write. `next`
    /// makes the next one, if there is any, and says where it begins.
    fn write_one(
        &mut self,
        cx: &mut Context<'_>,
        kit: &Kit,
        batch: &mut Batch<'_>,
        next: impl FnOnce(&mut Batch<'_>, &mut Vec<u8>) -> Option<usize>,
    ) -> Poll<io::Result<bool>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(false)) };
        let fresh = &mut *kit.write.borrow_mut();
        let is_fresh = self.pending_at == self.pending.len();
        let bytes = match is_fresh {
            true => match next(batch, fresh) {
                Some(begin) => &fresh[begin..],
                None => return Poll::Ready(Ok(false)),
            },
            false => &self.pending[self.pending_at..],
        };
        batch.before_write();
        let taken = match Pin::new(stream).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(Ok(_)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        };
        if taken == bytes.len() {
            batch.wrote(batch.unwritten());
            self.pending.clear();
            (self.pending_at, self.cut) = (0, 0);
            return Poll::Ready(Ok(true));
        }
        if is_fresh {
            let rest = &fresh[fresh.len() - (bytes.len() - taken)..];
            self.pending.clear();
            self.pending.extend_from_slice(rest);
            self.pending_at = 0;
        } else {
            self.pending_at += taken;
        }
        batch.blocked();
        self.cut += taken;
        if taken == 0 {
            return Poll::Pending;
        }
        batch.wrote_part();
        Poll::Ready(Ok(true))
    }

    /// TLS may hold bytes that a write took.
    fn holds_back(&self) -> bool {
        matches!(self.stream, Some(Stream::Tls(_)))
    }

    /// Takes what was read.
    fn take(&mut self, mut input: &[u8], batch: &mut Batch<'_>) -> Result<(), Broken> {
        if !self.has_answered && input.starts_with(&TLS_ALERT) {
            let reason = "the target speaks TLS: https:// (TARGET)";
            return Err(Broken::Refused(reason.to_owned()));
        }
        let lane = Rc::clone(&self.lane);
        let memo = &mut *lane.memo.borrow_mut();
        while !input.is_empty() {
            let is_head = match lane.plan.content {
                Content::Recorded(_) => {
                    batch.awaited_request().map_or(lane.plan.is_head, |it| it.method == "HEAD")
                }
                Content::Same { .. } | Content::Lines(_) | Content::Filled(_) => lane.plan.is_head,
            };
            let reply = self.responses.next(&mut input, memo, is_head)?;
            let Some(reply) = reply else { return Ok(()) };
            self.settle(reply, !input.is_empty(), batch)?;
        }
        Ok(())
    }

    /// A response is whole; `has_more` says that bytes follow it.
    fn settle(
        &mut self,
        reply: Reply,
        has_more: bool,
        batch: &mut Batch<'_>,
    ) -> Result<(), Broken> {
        // A server may answer a request before it has all of it; the rest is not sent then.
        let is_early = batch.unanswered() == 0;
        if is_early && self.cut == 0 {
            return Err(Broken::Mismatch);
        }
        let messages = match &self.lane.plan.content {
            Content::Same { .. } | Content::Recorded(_) | Content::Filled(_) => 1,
            Content::Lines(_) => batch.unanswered() + batch.unwritten(),
        };
        let is_last = is_early || batch.unanswered() == messages;
        if has_more && (is_last || !reply.keeps_alive) {
            return Err(Broken::Mismatch);
        }
        if is_early {
            batch.proved(messages);
        }
        self.has_answered = true;
        batch.replied(reply.status, messages);
        if is_early || !reply.keeps_alive || self.lane.plan.asks_close {
            self.end();
            if !batch.is_settled() {
                return Err(Broken::Reset);
            }
        }
        Ok(())
    }

    /// The connection has ended, which may end a response.
    fn take_end(&mut self, end: io::Result<usize>, batch: &mut Batch<'_>) -> Result<(), Broken> {
        // Over TLS an end without a good-bye is an error, and cuts a response off.
        if let Some(reply) = self.responses.end().filter(|_| end.is_ok()) {
            return self.settle(reply, false, batch);
        }
        Err(self.refused(&end).unwrap_or(Broken::Reset))
    }

    /// What an end means before the target has answered anything.
    fn refused(&self, end: &io::Result<usize>) -> Option<Broken> {
        let error = end.as_ref().err().filter(|_| !self.has_answered)?;
        (error.kind() != ErrorKind::UnexpectedEof).then(|| refusal(error).map(Broken::Refused))?
    }

    /// No further request goes this way.
    fn end(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.close();
        }
    }
}
