//! Messages on their way: a claim of a worker becomes a batch on a connection.
//!
//! Owns the times of a message from its connection to its reply, and tells the recorder. The hammer
//! says what happened (`before_write`, `wrote`, `after_read`, `answered`), the batch reads the clock:
//! no protocol times itself, and no message costs a channel or an allocation. Replies come in as they
//! are read: each read has a `done` of its own.
//! Invariant: `settled <= written <= encoded <= count`, and when a batch is closed each of its
//! messages is settled exactly once.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::Kit;
use super::claim::{Claim, Replayed};
use super::fate::{Fate, Status};
use super::identity::Identity;
use super::lateness::{Lateness, Waits};
use crate::clock::Clock;
use crate::measure::recorder::Recorder;
use crate::measure::tally::{Answer, LineSizes};
use crate::plan::payloads::{Making, Malformed};
use crate::replay::feed::RecordedRequest;

/// Servers close connections that are idle for longer than this.
const SILENCE_NS: u64 = 10_000_000;

/// What the next message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Socket,
    Window,
}

/// The messages that a connection carries: at most one batch a connection.
pub struct Batch<'a> {
    claim: &'a Claim,
    clock: Clock,
    recorder: &'a RefCell<Recorder>,
    identity: &'a mut Identity,
    /// When a reply came, or the batch began; the watchdog reads it.
    progress_ns: &'a Cell<u64>,
    first_seq: u64,
    encoded: u64,
    has_progressed: bool,
    /// Nothing more is awaited of it.
    is_abandoned: bool,
    /// When it had a connection.
    begun_ns: u64,
    /// How long the socket took no more, up to the latest write, and since when it takes none now.
    waits: Waits,
    blocked_since: Option<(Wait, u64)>,
    write_ns: u64,
    /// When the latest part of a member went.
    part_ns: u64,
    read_ns: u64,
    /// The latest read that settled any of it.
    settled_ns: u64,
    /// Where its one journey is, and since when.
    step: Option<(usize, u64)>,
    /// Encoded, and not told the recorder yet.
    lines: LineSizes,
    /// Which of them are broken on purpose, if any.
    malformed: Option<Malformed>,
}

impl<'a> Batch<'a> {
    /// A batch that begins at `now_ns`, when it has a connection; its messages count as sent unless
    /// it is withdrawn.
    pub(crate) fn begin(
        claim: &'a Claim,
        now_ns: u64,
        clock: Clock,
        recorder: &'a RefCell<Recorder>,
        identity: &'a mut Identity,
        progress_ns: &'a Cell<u64>,
    ) -> Batch<'a> {
        identity.awaited.restart();
        recorder.borrow_mut().stage(claim.stage).taken(claim.count);
        progress_ns.set(now_ns);
        let first_seq = identity.next_seq;
        Batch {
            claim,
            clock,
            recorder,
            identity,
            progress_ns,
            first_seq,
            encoded: 0,
            has_progressed: false,
            is_abandoned: false,
            begun_ns: now_ns,
            waits: Waits::default(),
            blocked_since: None,
            write_ns: now_ns,
            part_ns: now_ns,
            read_ns: now_ns,
            settled_ns: 0,
            step: None,
            lines: LineSizes::default(),
            malformed: None,
        }
    }

    /// Appends the next messages to `out`, as many as keep it within `bytes_max` (at least one).
    pub fn encode(&mut self, kit: &Kit, out: &mut Vec<u8>, bytes_max: usize) {
        if let Some(recorded) = &self.claim.recorded {
            let mut is_first = true;
            while self.encoded < self.claim.count {
                let line = recorded.line(self.encoded);
                if !std::mem::take(&mut is_first) && out.len() + line.len() > bytes_max {
                    break;
                }
                out.extend_from_slice(line);
                self.encoded += 1;
                self.lines.add(line.len() as u64);
            }
            return;
        }
        let author = &self.identity.author;
        let same_bytes_max = kit.payloads.same_bytes_max();
        let line_bytes_max =
            |seq| same_bytes_max.unwrap_or_else(|| kit.payloads.bytes_max(author, seq));
        let first_bytes_max = line_bytes_max(self.first_seq + self.encoded);
        out.reserve(bytes_max.max(out.len() + first_bytes_max) - out.len());
        let stamp = &mut *kit.stamp.borrow_mut();
        // When the batch began, or of the write before this one.
        stamp.set(self.clock.unix_ns(self.write_ns));
        self.malformed = kit.payloads.malformed();
        let mut lines = self.lines;
        while self.encoded < self.claim.count {
            let start = out.len();
            kit.payloads.append(out, stamp, author, self.first_seq + self.encoded);
            self.encoded += 1;
            lines.add((out.len() - start) as u64);
            let seq = self.first_seq + self.encoded;
            if out.len() + line_bytes_max(seq) > bytes_max {
                break;
            }
        }
        self.lines = lines;
    }

    /// The next message is a request of its own: `write` makes it, and gives how many bytes of it are
    /// the message's line.
    pub(crate) fn make(&mut self, kit: &Kit, write: impl FnOnce(&mut Making<'_>) -> usize) {
        let stamp = &mut *kit.stamp.borrow_mut();
        stamp.set(self.clock.unix_ns(self.write_ns));
        let seq = self.first_seq + self.encoded;
        let bytes = write(&mut kit.payloads.make(stamp, &self.identity.author, seq));
        self.malformed = kit.payloads.malformed();
        if bytes > 0 {
            self.lines.add(bytes as u64);
        }
        self.own(1);
    }

    /// The next `n` messages are bytes of the hammer's own.
    pub(crate) fn own(&mut self, n: u64) {
        self.encoded += n;
        assert!(self.encoded <= self.claim.count, "only what was claimed is sent");
    }

    /// The connection's number, and that of the next message to encode on it.
    pub(crate) fn next(&self) -> (u64, u64) {
        (self.identity.ledger.conn, self.first_seq + self.encoded)
    }

    /// The number of the next message to encode within the batch, from 0.
    pub fn index(&self) -> u64 {
        self.encoded
    }

    /// What the next message to encode was recorded as; `None` if it was not, or there is none.
    pub(crate) fn next_recorded(&self) -> Option<Replayed<'_>> {
        let recorded = self.claim.recorded.as_ref().filter(|_| self.unencoded() > 0)?;
        Some(match recorded.request(self.encoded) {
            Some(request) => Replayed::Request(request),
            None => {
                let line = recorded.line(self.encoded);
                Replayed::Line(line.strip_suffix(b"\n").unwrap_or(line))
            }
        })
    }

    /// The request that the next message to be answered was recorded as.
    pub(crate) fn awaited_request(&self) -> Option<RecordedRequest<'_>> {
        let recorded = self.claim.recorded.as_ref().filter(|_| !self.is_settled())?;
        recorded.request(self.identity.awaited.settled())
    }

    /// Messages not encoded yet.
    pub fn unencoded(&self) -> u64 {
        self.claim.count - self.encoded
    }

    /// Messages encoded whose last byte is not written yet.
    pub fn unwritten(&self) -> u64 {
        self.encoded - self.identity.awaited.written()
    }

    /// Its connection was idle for so long that the peer may have closed it.
    pub(crate) fn follows_silence(&self) -> bool {
        self.begun_ns.saturating_sub(self.claim.free_ns) >= SILENCE_NS
    }

    /// Nothing of it has been written yet.
    pub fn is_fresh(&self) -> bool {
        self.encoded == 0
    }

    /// Every message is answered.
    pub fn is_settled(&self) -> bool {
        self.is_abandoned || self.identity.awaited.settled() == self.claim.count
    }

    /// Whether a reply came for any of it.
    pub(crate) fn has_progressed(&self) -> bool {
        self.has_progressed
    }

    /// Called just before a write.
    pub fn before_write(&mut self) {
        self.write_ns = self.clock.now_ns();
        if let Some((wait, since_ns)) = self.blocked_since.take() {
            let waited_ns = self.write_ns - since_ns;
            match wait {
                Wait::Socket => self.waits.socket_ns += waited_ns,
                Wait::Window => self.waits.window_ns += waited_ns,
            }
        }
    }

    /// That write left something over, or nothing of it was taken: the socket is full.
    pub fn blocked(&mut self) {
        self.blocked_since.get_or_insert((Wait::Socket, self.write_ns));
    }

    /// Since that write as many messages are on their way as the peer allows.
    pub fn window_full(&mut self) {
        self.blocked_since.get_or_insert((Wait::Window, self.write_ns));
    }

    /// That write took the last bytes of `n` more messages.
    pub fn wrote(&mut self, n: u64) {
        self.written_at(n, self.write_ns);
    }

    /// That write took a part of a member, whose lines cannot be told apart on the wire.
    pub fn wrote_part(&mut self) {
        self.part_ns = self.write_ns;
    }

    /// A reply shows that `n` more messages were in the parts of a member that are written.
    pub fn proved(&mut self, n: u64) {
        self.written_at(n, self.part_ns);
    }

    fn written_at(&mut self, n: u64, at_ns: u64) {
        if n == 0 {
            return;
        }
        assert!(n <= self.unwritten(), "only what was encoded is written");
        let range = self.identity.awaited.wrote(n, at_ns);
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        let mut lateness = Lateness::new(self.claim, self.begun_ns, self.waits, at_ns);
        self.claim.runs(range.clone(), |due_ns, n| {
            recorder.sent(due_ns, at_ns, n);
            lateness.add(due_ns, n);
        });
        recorder.sending(lateness.causes());
        recorder.lines(std::mem::take(&mut self.lines));
        if let Some(malformed) = &self.malformed {
            let author = &self.identity.author;
            let seqs = range.clone().map(|index| self.first_seq + index);
            let broken = seqs.filter(|&seq| malformed.has(author, seq)).count();
            recorder.malformed_sent(broken as u64);
        }
    }

    /// All that is written is settled: the protocol knows no reply.
    pub fn settle_without_reply(&mut self) {
        let n = self.unanswered();
        self.recorder.borrow_mut().stage(self.claim.stage).unacknowledged(n);
        self.identity.awaited.settle(n, |_, _| {});
        self.progress_ns.set(self.write_ns);
        self.has_progressed = true;
    }

    /// Called just after a read.
    pub fn after_read(&mut self) {
        self.read_ns = self.clock.now_ns();
    }

    /// Messages that are written and wait for a reply.
    pub fn unanswered(&self) -> u64 {
        self.identity.awaited.open()
    }

    /// The next `n` messages were answered in that read.
    pub fn answered(&mut self, answer: Answer, n: u64) {
        self.settle(None, n, Fate::Answered(answer));
    }

    /// The next `n` messages were answered with an error in that read.
    pub fn rejected(&mut self, code: &str, n: u64) {
        self.settle(None, n, Fate::Failed(code));
    }

    /// Messages `first..first + n` of the batch were answered in that read, whatever becomes of
    /// those before them: for protocols whose replies come in any order. A batch is settled either
    /// so or by [`Self::answered`].
    pub fn answered_at(&mut self, first: u64, n: u64, answer: Answer) {
        self.settle(Some(first), n, Fate::Answered(answer));
    }

    /// Messages `first..first + n` of the batch were answered with an error in that read.
    pub fn rejected_at(&mut self, first: u64, n: u64, code: &str) {
        self.settle(Some(first), n, Fate::Failed(code));
    }

    /// What became in that read of `n` messages, from `first` on or the next ones; of those among
    /// them that are broken on purpose, the opposite is expected.
    fn settle(&mut self, first: Option<u64>, n: u64, fate: Fate<'_>) {
        let Some(malformed) = self.malformed else {
            return self.settle_alike(first, n, fate);
        };
        let start = first.unwrap_or(self.identity.awaited.settled());
        let (mut at, end) = (start, start + n);
        while at < end {
            let seq = self.first_seq + at;
            let (is_broken, run) = malformed.run(&self.identity.author, seq, end - at);
            let fate = if is_broken { fate.of_broken() } else { fate };
            self.settle_alike(first.map(|_| at), run, fate);
            at += run;
        }
    }

    fn settle_alike(&mut self, first: Option<u64>, n: u64, fate: Fate<'_>) {
        let Batch { claim, read_ns: done_ns, first_seq, .. } = *self;
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(claim.stage);
        fate.record(&mut recorder, n);
        if std::mem::replace(&mut self.settled_ns, done_ns) != done_ns {
            recorder.settling();
            recorder.heard(done_ns);
        }
        let is_served = fate.is_served();
        let each = |sent_ns, range: Range<u64>| {
            if is_served {
                recorder.served(sent_ns, done_ns, range.end - range.start);
                claim.runs(range, |due_ns, n| recorder.responded(due_ns, done_ns, n));
            } else {
                claim.runs(range, |due_ns, n| recorder.censored(due_ns, Some(sent_ns), done_ns, n));
            }
        };
        let Identity { awaited, ledger, keeps_ledger, .. } = &mut *self.identity;
        let is_acknowledged = *keeps_ledger && fate == Fate::Answered(Answer::Ok);
        match first {
            None => {
                let first = first_seq + awaited.settled();
                awaited.settle(n, each);
                if is_acknowledged {
                    ledger.acknowledge(first, n);
                }
            }
            Some(first) => awaited.settle_at(first, n, is_acknowledged, each, |index| {
                ledger.acknowledge(first_seq + index, 1);
            }),
        }
        self.progress_ns.set(done_ns);
        self.has_progressed = true;
    }

    /// A response over HTTP with this status settles the next `n` messages: 2xx is ok, anything else
    /// an error by its code.
    pub(crate) fn replied(&mut self, status: u16, n: u64) {
        self.saw_status(status);
        if let Some(request) = self.awaited_request().filter(|_| n == 1) {
            let mut recorder = self.recorder.borrow_mut();
            recorder.stage(self.claim.stage).repeated(request.status, status);
        }
        self.settle(None, n, Status::new(status).fate());
    }

    /// The same for messages `first..first + n` of the batch, whatever becomes of those before them.
    pub(crate) fn replied_at(&mut self, first: u64, n: u64, status: u16) {
        self.saw_status(status);
        self.settle(Some(first), n, Status::new(status).fate());
    }

    /// The next message is a journey, and its step `step` (from 0) begins.
    pub(crate) fn step_began(&mut self, step: usize) {
        self.step = Some((step, self.clock.now_ns()));
    }

    /// The step begins once more: on another connection.
    pub(crate) fn step_resumed(&mut self) {
        if let Some((_, since_ns)) = &mut self.step {
            *since_ns = self.clock.now_ns();
        }
    }

    /// The step ended as it should, in that read.
    pub(crate) fn step_ended(&mut self) {
        let recorder = &mut *self.recorder.borrow_mut();
        if let Some((step, since_ns)) = self.step.take()
            && let Some(tally) = recorder.step(self.claim.stage, step)
        {
            tally.ended(self.read_ns.saturating_sub(since_ns));
        }
        self.progress_ns.set(self.read_ns);
        self.has_progressed = true;
    }

    /// The step ends its journey: the next message fails by a code that names it.
    pub(crate) fn step_failed(&mut self, code: &str) {
        self.after_read();
        let code = self.leave_step(code, self.read_ns).unwrap_or_else(|| code.to_owned());
        self.rejected(&code, 1);
    }

    /// Notes that the step under way failed; its code with its number.
    fn leave_step(&mut self, code: &str, at_ns: u64) -> Option<String> {
        let (step, since_ns) = self.step.take()?;
        if let Some(tally) = self.recorder.borrow_mut().step(self.claim.stage, step) {
            tally.failed(code, at_ns.saturating_sub(since_ns));
        }
        Some(format!("step{}_{code}", step + 1))
    }

    /// Nothing is awaited for so long.
    pub(crate) fn rests(&mut self, ns: u64) {
        self.progress_ns.set(self.clock.now_ns().saturating_add(ns));
    }

    /// A response over HTTP; what becomes of its message follows.
    pub(crate) fn saw_status(&mut self, status: u16) {
        self.recorder.borrow_mut().stage(self.claim.stage).status(status);
    }

    /// What is not settled yet fails with `code`.
    pub(crate) fn fail(&mut self, code: &str) {
        let of_step = self.leave_step(code, self.clock.now_ns());
        let code = of_step.as_deref().unwrap_or(code);
        let unsettled = self.unsettled();
        self.recorder.borrow_mut().stage(self.claim.stage).failed(code, unsettled);
        self.abandon();
    }

    /// What is not settled yet was not answered when the run gave up waiting.
    pub(crate) fn give_up(&mut self) {
        let unsettled = self.unsettled();
        self.recorder.borrow_mut().stage(self.claim.stage).unanswered(unsettled);
        self.leave_step("unanswered", self.clock.now_ns());
        self.abandon();
    }

    fn unsettled(&self) -> u64 {
        self.unanswered() + (self.claim.count - self.identity.awaited.written())
    }

    fn abandon(&mut self) {
        let at_ns = self.clock.now_ns();
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        recorder.settling();
        let (claim, first_seq) = (self.claim, self.first_seq);
        let Identity { awaited, ledger, .. } = &mut *self.identity;
        awaited.settle_all(
            |sent_ns, range| {
                claim.runs(range, |due_ns, n| recorder.censored(due_ns, Some(sent_ns), at_ns, n));
            },
            |index| ledger.acknowledge(first_seq + index, 1),
        );
        let never_written = awaited.written()..claim.count;
        claim.runs(never_written, |due_ns, n| recorder.censored(due_ns, None, at_ns, n));
        self.is_abandoned = true;
    }

    /// Takes a batch back of which nothing was written: another connection will carry it.
    pub(crate) fn withdraw(self) {
        assert!(self.is_fresh(), "what was encoded may have been sent");
        self.recorder.borrow_mut().stage(self.claim.stage).returned(self.claim.count);
    }

    /// Ends a settled batch.
    pub(crate) fn close(self) {
        assert!(self.is_settled(), "a batch ends when every message is settled");
        debug_assert!(self.identity.awaited.is_empty());
        self.identity.next_seq = self.first_seq + self.claim.count;
        self.identity.ledger.sent = self.identity.next_seq;
    }
}

#[cfg(test)]
mod tests;
