//! NDJSON over TCP or TLS: a line a message, a line a reply, in order; with COMPRESS the lines of a
//! write are one gzip member.
//!
//! Owns one stream and the bytes that the socket did not take yet.
//! Writes and reads in one poll: a server whose replies are not read stops reading, and a client
//! that only writes would wait for it for ever.
//! Invariant: a reply is counted only for a message that was written before it was read; a chunk of
//! replies that answers more than was asked counts as nothing but a mismatch.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _};
use proto::hello::{Hello, Replies, Welcome};
use proto::reply::{OwnedReply, Status};
use runtime::socket::Socket;

use super::ndjson::{Lane, Plan};
use super::replies::{CODE_MISSING, Kind, REPLY_BYTES_MAX, ReplyLines, Run};
use super::stream::{Stream, dial, refusal};
use super::{Batch, BatchHammer, Broken, Kit, NoConnection};

/// Bytes handed to one write: large enough that the system call is a small part of the cost.
const WRITE_BYTES: usize = 128 * 1024;
/// Bytes packed into one member: a batch, unless it is huge.
const MEMBER_BYTES: usize = 1 << 20;
/// Writes in one poll, so that a huge batch lets others of its shard through.
const WRITES_PER_POLL: u32 = 8;
/// How a TLS alert begins, which is what a TLS server says to plain lines.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// A connection.
pub(crate) struct Tcp {
    lane: Rc<Lane>,
    stream: Stream,
    /// What the socket did not take of the last write.
    pending: Vec<u8>,
    pending_at: usize,
    /// A part of the member at hand has gone: its messages may be answered already.
    is_member_cut: bool,
    /// It has answered a message.
    has_answered: bool,
    /// A write has failed: only the server's last words are still read.
    is_write_broken: bool,
    replies: ReplyLines,
}

impl BatchHammer for Tcp {
    type Plan = Plan;
    type Lane = Lane;

    fn lane(plan: &Arc<Plan>) -> Lane {
        Lane::new(plan)
    }

    async fn connect(lane: &Rc<Lane>, timeout: Duration) -> Result<Tcp, NoConnection> {
        let plan = &lane.plan;
        dial(&plan.route, &lane.preferred, timeout, async |socket| begin(lane, socket).await).await
    }

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_carry(cx, kit, batch)).await
    }

    fn close(self) {
        self.stream.close();
    }

    fn welcome(lane: &Lane) -> Option<Welcome> {
        lane.welcome.borrow().clone()
    }
}

/// All that comes before the first message.
async fn begin(lane: &Rc<Lane>, socket: Socket) -> Result<Tcp, NoConnection> {
    let stream =
        Stream::open(socket, lane.plan.tls.as_ref()).await.map_err(NoConnection::refused)?;
    let mut tcp = Tcp::new(Rc::clone(lane), stream);
    if let Some(hello) = &lane.plan.hello {
        let welcome = tcp.greet(hello).await?;
        lane.welcome.replace(Some(welcome));
    }
    Ok(tcp)
}

impl Tcp {
    fn new(lane: Rc<Lane>, stream: Stream) -> Tcp {
        Tcp {
            lane,
            stream,
            pending: Vec::new(),
            pending_at: 0,
            is_member_cut: false,
            has_answered: false,
            is_write_broken: false,
            replies: ReplyLines::default(),
        }
    }

    /// Asks for what is not the default; nothing else has been sent, so nothing else comes.
    async fn greet(&mut self, hello: &Hello) -> Result<Welcome, NoConnection> {
        let mut line = Vec::new();
        hello.write(&mut line);
        let broken = |error: io::Error| NoConnection::refused(format!("during the hello: {error}"));
        self.stream.write_all(&line).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)?;
        let mut answer = Vec::new();
        let mut chunk = [0; 1024];
        while !answer.ends_with(b"\n") {
            let n = poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut chunk))
                .await
                .map_err(broken)?;
            if n == 0 || answer.len() > REPLY_BYTES_MAX {
                return Err(NoConnection::refused("the target does not answer a hello"));
            }
            answer.extend_from_slice(&chunk[..n]);
        }
        if let Ok(OwnedReply { status: Status::Error, code, reason, .. }) =
            OwnedReply::parse(&answer)
        {
            let code = code.unwrap_or_else(|| CODE_MISSING.to_owned());
            let reason = format!("hello refused: {code}: {}", reason.unwrap_or_default());
            return Err(NoConnection { code, reason });
        }
        let welcome = Welcome::parse(&answer)
            .map_err(|error| NoConnection::refused(format!("answer to the hello: {error}")))?;
        if welcome.version != hello.version || welcome.replies == Replies::None {
            return Err(NoConnection::refused(format!(
                "the target grants version {} with replies \"{}\", which cannot be counted",
                welcome.version, welcome.replies
            )));
        }
        Ok(welcome)
    }

    fn poll_carry(
        &mut self,
        cx: &mut Context<'_>,
        kit: &Kit,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<(), Broken>> {
        if batch.is_fresh() {
            if batch.follows_silence() {
                self.stream.doubt();
            }
            self.check_idle(cx, kit)?;
        }
        if !self.is_write_broken {
            self.write(cx, kit, batch);
        }
        while !batch.is_settled() {
            let read = &mut *kit.read.borrow_mut();
            let n = match ready!(Pin::new(&mut self.stream).poll_read(cx, read)) {
                Ok(n) if n > 0 => n,
                end => return Poll::Ready(Err(self.broken(end).unwrap_or(Broken::Reset))),
            };
            batch.after_read();
            self.take_replies(&read[..n], batch)?;
        }
        Poll::Ready(Ok(()))
    }

    /// What an idle connection has to say is that it is closed, or a reply that nobody asked for.
    /// Costs no system call unless the silence was long.
    fn check_idle(&mut self, cx: &mut Context<'_>, kit: &Kit) -> Result<(), Broken> {
        let read = &mut *kit.read.borrow_mut();
        match Pin::new(&mut self.stream).poll_read(cx, read) {
            Poll::Pending if self.replies.is_between_lines() => Ok(()),
            Poll::Ready(end @ (Ok(0) | Err(_))) => Err(self.broken(end).unwrap_or(Broken::Stale)),
            Poll::Pending => Err(Broken::Mismatch),
            Poll::Ready(Ok(n)) => match self.replies.feed(&read[..n]) {
                // An idle timeout, a shutdown: said before anything of this batch was sent.
                Ok([Run { reply: Kind::Fatal(_), .. }]) => Err(Broken::Stale),
                _ => Err(Broken::Mismatch),
            },
        }
    }

    /// Writes as much as the socket takes.
    fn write(&mut self, cx: &mut Context<'_>, kit: &Kit, batch: &mut Batch<'_>) {
        let fresh = &mut *kit.write.borrow_mut();
        let lane = Rc::clone(&self.lane);
        let mut packer = lane.packer.borrow_mut();
        for _ in 0..WRITES_PER_POLL {
            // What TLS still holds goes first.
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.is_write_broken = true;
                    return;
                }
                Poll::Pending => {
                    batch.blocked();
                    return;
                }
            }
            // `None`: what is pending.
            let fresh: Option<&[u8]> = if self.pending_at < self.pending.len() {
                None
            } else if batch.unencoded() == 0 {
                return;
            } else {
                fresh.clear();
                match &mut *packer {
                    None => {
                        batch.encode(kit, fresh, WRITE_BYTES);
                        Some(fresh)
                    }
                    Some(packer) => {
                        batch.encode(kit, fresh, MEMBER_BYTES);
                        Some(packer.pack(fresh))
                    }
                }
            };
            let bytes = fresh.unwrap_or(&self.pending[self.pending_at..]);
            batch.before_write();
            let n = match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(_)) => {
                    self.is_write_broken = true;
                    return;
                }
                Poll::Pending => {
                    batch.blocked();
                    if let Some(fresh) = fresh {
                        self.keep(fresh);
                    }
                    return;
                }
            };
            if n == bytes.len() {
                batch.wrote(batch.unwritten());
                self.pending.clear();
                self.pending_at = 0;
                self.is_member_cut = false;
                continue;
            }
            batch.blocked();
            // The messages of a member are sent when all of it is.
            if !lane.plan.compress {
                let ends = memchr::memchr_iter(b'\n', &bytes[..n]).count();
                batch.wrote(ends as u64);
            } else {
                batch.wrote_part();
                self.is_member_cut = true;
            }
            match fresh {
                None => self.pending_at += n,
                Some(fresh) => self.keep(&fresh[n..]),
            }
        }
        cx.waker().wake_by_ref();
    }

    /// What an end means before the target has answered anything.
    fn broken(&self, end: io::Result<usize>) -> Option<Broken> {
        let error = end.err().filter(|_| !self.has_answered)?;
        refusal(&error).map(Broken::Refused)
    }

    fn keep(&mut self, rest: &[u8]) {
        self.pending.clear();
        self.pending.extend_from_slice(rest);
        self.pending_at = 0;
    }

    fn take_replies(&mut self, chunk: &[u8], batch: &mut Batch<'_>) -> Result<(), Broken> {
        if chunk.starts_with(&TLS_ALERT) && !self.has_answered {
            let reason = "the target speaks TLS: tls:// (TARGET) or ENABLE_TLS";
            return Err(Broken::Refused(reason.to_owned()));
        }
        let runs = self.replies.feed(chunk)?;
        let total = runs.iter().fold(0u64, |total, run| total.saturating_add(run.count));
        let ahead = total.saturating_sub(batch.unanswered());
        if ahead > 0 {
            // A server may answer the beginning of a member before it has the end.
            if !self.is_member_cut || ahead > batch.unwritten() {
                return Err(Broken::Mismatch);
            }
            batch.proved(ahead);
        }
        self.has_answered |= total > 0;
        for run in runs {
            match &run.reply {
                Kind::Answer(answer) => batch.answered(*answer, run.count),
                Kind::Rejected(code) => batch.rejected(code, run.count),
                Kind::Fatal(code) => return Err(Broken::Fatal(code.clone())),
            }
        }
        Ok(())
    }
}
