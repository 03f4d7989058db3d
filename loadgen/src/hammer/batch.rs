//! Messages on their way: a claim of a worker becomes a batch on a connection.
//!
//! Owns the times of a message from its connection to its reply, and tells the recorder. The hammer
//! says what happened (`before_write`, `wrote`, `after_read`, `answered`), the batch reads the clock:
//! no protocol times itself, and no message costs a channel or an allocation. Replies come in as they
//! are read: each read has a `done` of its own.
//! Invariant: `answered <= written <= encoded <= count`, and when a batch is closed each of its
//! messages is settled exactly once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

use proto::Code;

use super::Kit;
use crate::clock::Clock;
use crate::measure::ledger::LedgerConnection;
use crate::measure::recorder::{Answer, Cause, Causes, LineSizes, Recorder, StageRecorder};
use crate::plan::payloads::{Author, Malformed};
use crate::replay::feed::{Recorded, RecordedRequest};

/// Who a connection is in its messages, and what became of them.
#[derive(Debug)]
pub(crate) struct Identity {
    author: Author,
    next_seq: u64,
    /// Ranges only if they are asked for; `conn` and `sent` always.
    ledger: LedgerConnection,
    keeps_ledger: bool,
    /// Writes whose messages are not all answered: up to which message of the batch, and when.
    writes: VecDeque<Write>,
    /// Of a batch that is settled out of order: from the first message that is open to the last
    /// one that is settled.
    ahead: VecDeque<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Open,
    Acknowledged,
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    end: u64,
    at_ns: u64,
}

impl Identity {
    pub(crate) fn new(conn: u64, keeps_ledger: bool) -> Identity {
        Identity {
            author: Author::new(conn),
            next_seq: 0,
            ledger: LedgerConnection { conn, ..LedgerConnection::default() },
            keeps_ledger,
            writes: VecDeque::with_capacity(16),
            ahead: VecDeque::new(),
        }
    }

    /// Messages that it has carried.
    pub(crate) fn sent(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn into_ledger(self) -> Option<LedgerConnection> {
        (self.keeps_ledger && self.ledger.sent > 0).then_some(self.ledger)
    }
}

/// When the messages of a batch are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dues {
    /// All at once: the worker was free.
    Same(u64),
    /// One by one, in order.
    Each(Vec<u64>),
}

/// Servers close connections that are idle for longer than this.
const SILENCE_NS: u64 = 10_000_000;

/// Messages that a worker takes up, at least one, all of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) count: u64,
    /// The stage in which all of them are due.
    pub(crate) stage: usize,
    pub(crate) dues: Dues,
    /// Messages that bring their own bytes.
    pub(crate) recorded: Option<Box<Recorded>>,
    /// Since when their worker was free.
    pub(crate) free_ns: u64,
    /// When it took them up.
    pub(crate) claimed_ns: u64,
}

impl Claim {
    /// Calls `each(due_ns, n)` for the messages `range`, in runs that are due together.
    fn runs(&self, range: Range<u64>, mut each: impl FnMut(u64, u64)) {
        match &self.dues {
            Dues::Same(due_ns) => each(*due_ns, range.end - range.start),
            #[expect(clippy::cast_possible_truncation, reason = "indices of a Vec")]
            Dues::Each(dues) => {
                let dues = &dues[range.start as usize..range.end as usize];
                dues.iter().for_each(|&due_ns| each(due_ns, 1));
            }
        }
    }

    /// Counts all of it as failed without a connection.
    pub(crate) fn refuse(&self, recorder: &mut Recorder, code: &str, at_ns: u64) {
        let mut recorder = recorder.stage(self.stage);
        recorder.taken(self.count);
        recorder.failed(code, self.count);
        recorder.settling();
        self.runs(0..self.count, |due_ns, n| recorder.censored(due_ns, None, at_ns, n));
    }
}

/// A message of a recording.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Replayed<'a> {
    /// Of an access log.
    Request(RecordedRequest<'a>),
    /// Anything else, without its line end.
    Line(&'a [u8]),
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
    written: u64,
    /// All messages before this one are settled.
    answered: u64,
    /// Messages behind that one which are settled.
    ahead: u64,
    has_progressed: bool,
    /// When it had a connection.
    begun_ns: u64,
    /// How long the socket took no more, up to the latest write, and since when it takes none now.
    blocked_ns: u64,
    blocked_since_ns: Option<u64>,
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
        assert!(identity.writes.is_empty(), "one batch a connection");
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
            written: 0,
            answered: 0,
            ahead: 0,
            has_progressed: false,
            begun_ns: now_ns,
            blocked_ns: 0,
            blocked_since_ns: None,
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
        recorded.request(self.answered)
    }

    /// Messages not encoded yet.
    pub fn unencoded(&self) -> u64 {
        self.claim.count - self.encoded
    }

    /// Messages encoded whose last byte is not written yet.
    pub fn unwritten(&self) -> u64 {
        self.encoded - self.written
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
        self.answered == self.claim.count
    }

    /// Whether a reply came for any of it.
    pub(crate) fn has_progressed(&self) -> bool {
        self.has_progressed
    }

    /// Called just before a write.
    pub fn before_write(&mut self) {
        self.write_ns = self.clock.now_ns();
        if let Some(since_ns) = self.blocked_since_ns.take() {
            self.blocked_ns += self.write_ns - since_ns;
        }
    }

    /// That write left something over, or nothing of it was taken: the socket is full.
    pub fn blocked(&mut self) {
        self.blocked_since_ns.get_or_insert(self.write_ns);
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
        let range = self.written..self.written + n;
        assert!(range.end <= self.encoded, "only what was encoded is written");
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        let mut lateness = Lateness::new(self.claim, self.begun_ns, self.blocked_ns, at_ns);
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
        self.written = range.end;
        self.identity.writes.push_back(Write { end: range.end, at_ns });
    }

    /// All that is written is settled: the protocol knows no reply.
    pub fn settle_without_reply(&mut self) {
        let n = self.unanswered();
        self.recorder.borrow_mut().stage(self.claim.stage).unacknowledged(n);
        settle(self.identity, &mut self.answered, n, |_, _| {});
        self.progress_ns.set(self.write_ns);
        self.has_progressed = true;
    }

    /// Called just after a read.
    pub fn after_read(&mut self) {
        self.read_ns = self.clock.now_ns();
    }

    /// Messages that are written and wait for a reply.
    pub fn unanswered(&self) -> u64 {
        self.written - self.answered - self.ahead
    }

    /// The next `n` messages were answered in that read.
    pub fn answered(&mut self, answer: Answer, mut n: u64) {
        assert!(n <= self.unanswered(), "the hammer checks replies to nothing");
        while self.malformed.is_some() && n > 0 {
            let (is_broken, run) = self.run(self.answered, n);
            match is_broken {
                true => self.next_failed(Failed::Accepted, run),
                false => self.next_answered(Settled::By(answer), run),
            }
            n -= run;
        }
        if n > 0 {
            self.next_answered(Settled::By(answer), n);
        }
    }

    /// Of the messages from `index` on, `n` at most, those up to the first that is of another kind:
    /// whether they are broken on purpose, and how many.
    fn run(&self, index: u64, n: u64) -> (bool, u64) {
        let Some(malformed) = &self.malformed else { return (false, n) };
        malformed.run(&self.identity.author, self.first_seq + index, n)
    }

    fn next_answered(&mut self, settled: Settled, n: u64) {
        assert_eq!(self.ahead, 0, "in order, or by number");
        let first = self.first_seq + self.answered;
        let done_ns = self.read_ns;
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        settled.record(&mut recorder, n);
        if std::mem::replace(&mut self.settled_ns, done_ns) != done_ns {
            recorder.settling();
            recorder.heard(done_ns);
        }
        let claim = self.claim;
        settle(self.identity, &mut self.answered, n, |sent_ns, range| {
            recorder.served(sent_ns, done_ns, range.end - range.start);
            claim.runs(range, |due_ns, n| recorder.responded(due_ns, done_ns, n));
        });
        if settled == Settled::By(Answer::Ok) && self.identity.keeps_ledger {
            self.identity.ledger.acknowledge(first, n);
        }
        self.progress_ns.set(done_ns);
        self.has_progressed = true;
    }

    /// The next `n` messages were answered with an error in that read.
    pub fn rejected(&mut self, code: &str, mut n: u64) {
        assert!(n <= self.unanswered(), "the hammer checks replies to nothing");
        while self.malformed.is_some() && n > 0 {
            let (is_broken, run) = self.run(self.answered, n);
            match is_broken && is_about_content(code) {
                true => self.next_answered(Settled::Rejected, run),
                false => self.next_failed(Failed::By(code), run),
            }
            n -= run;
        }
        if n > 0 {
            self.next_failed(Failed::By(code), n);
        }
    }

    fn next_failed(&mut self, failed: Failed<'_>, n: u64) {
        assert_eq!(self.ahead, 0, "in order, or by number");
        let done_ns = self.read_ns;
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        failed.record(&mut recorder, n);
        if std::mem::replace(&mut self.settled_ns, done_ns) != done_ns {
            recorder.settling();
            recorder.heard(done_ns);
        }
        let claim = self.claim;
        settle(self.identity, &mut self.answered, n, |sent_ns, range| {
            claim.runs(range, |due_ns, n| recorder.censored(due_ns, Some(sent_ns), done_ns, n));
        });
        self.progress_ns.set(done_ns);
        self.has_progressed = true;
    }

    /// Messages `first..first + n` of the batch were answered in that read, whatever becomes of
    /// those before them: for protocols whose replies come in any order. A batch is settled either
    /// so or by [`Self::answered`].
    pub fn answered_at(&mut self, first: u64, n: u64, answer: Answer) {
        let (mut at, end) = (first, first + n);
        while at < end {
            let (is_broken, run) = self.run(at, end - at);
            match is_broken {
                true => self.failed_at(at, run, Failed::Accepted),
                false => self.settled_at(at, run, Settled::By(answer)),
            }
            at += run;
        }
    }

    /// Messages `first..first + n` of the batch were answered with an error in that read.
    pub fn rejected_at(&mut self, first: u64, n: u64, code: &str) {
        let (mut at, end) = (first, first + n);
        while at < end {
            let (is_broken, run) = self.run(at, end - at);
            match is_broken && is_about_content(code) {
                true => self.settled_at(at, run, Settled::Rejected),
                false => self.failed_at(at, run, Failed::By(code)),
            }
            at += run;
        }
    }

    fn settled_at(&mut self, first: u64, n: u64, settled: Settled) {
        let is_ok = settled == Settled::By(Answer::Ok);
        let mark = if is_ok { Mark::Acknowledged } else { Mark::Settled };
        let done_ns = self.read_ns;
        let claim = self.claim;
        self.settle_at(first, n, mark, |recorder, sent_ns, range| match sent_ns {
            None => settled.record(recorder, n),
            Some(sent_ns) => {
                recorder.served(sent_ns, done_ns, range.end - range.start);
                claim.runs(range, |due_ns, n| recorder.responded(due_ns, done_ns, n));
            }
        });
    }

    fn failed_at(&mut self, first: u64, n: u64, failed: Failed<'_>) {
        let done_ns = self.read_ns;
        let claim = self.claim;
        self.settle_at(first, n, Mark::Settled, |recorder, sent_ns, range| match sent_ns {
            None => failed.record(recorder, n),
            Some(sent_ns) => {
                claim.runs(range, |due_ns, n| recorder.censored(due_ns, Some(sent_ns), done_ns, n));
            }
        });
    }

    /// Calls `each` for all of them without a time, then for each run that was sent at a time.
    fn settle_at(
        &mut self,
        first: u64,
        n: u64,
        mark: Mark,
        mut each: impl FnMut(&mut StageRecorder<'_>, Option<u64>, Range<u64>),
    ) {
        assert!(
            self.answered <= first && first + n <= self.written,
            "the hammer checks replies to nothing"
        );
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        each(&mut recorder, None, first..first + n);
        if std::mem::replace(&mut self.settled_ns, self.read_ns) != self.read_ns {
            recorder.settling();
            recorder.heard(self.read_ns);
        }
        let (mut at, end) = (first, first + n);
        for write in self.identity.writes.iter().filter(|write| write.end > first) {
            let run_end = write.end.min(end);
            each(&mut recorder, Some(write.at_ns), at..run_end);
            at = run_end;
            if at == end {
                break;
            }
        }
        for index in first..end {
            #[expect(clippy::cast_possible_truncation, reason = "an index within a batch")]
            let at = (index - self.answered) as usize;
            if self.identity.ahead.len() <= at {
                self.identity.ahead.resize(at + 1, Mark::Open);
            }
            let before = std::mem::replace(&mut self.identity.ahead[at], mark);
            assert_eq!(before, Mark::Open, "each message is settled once");
        }
        self.ahead += n;
        self.pass_settled();
        self.progress_ns.set(self.read_ns);
        self.has_progressed = true;
    }

    /// Moves on to the first message that is open.
    fn pass_settled(&mut self) {
        let identity = &mut *self.identity;
        while let Some(mark) = identity.ahead.pop_front_if(|mark| *mark != Mark::Open) {
            if mark == Mark::Acknowledged && identity.keeps_ledger {
                identity.ledger.acknowledge(self.first_seq + self.answered, 1);
            }
            self.answered += 1;
            self.ahead -= 1;
            if identity.writes.front().is_some_and(|write| write.end == self.answered) {
                identity.writes.pop_front();
            }
        }
    }

    /// A response over HTTP with this status settles the next `n` messages: 2xx is ok, anything else
    /// an error by its code.
    pub(crate) fn replied(&mut self, status: u16, n: u64) {
        self.recorder.borrow_mut().stage(self.claim.stage).status(status);
        if let Some(request) = self.awaited_request().filter(|_| n == 1) {
            let mut recorder = self.recorder.borrow_mut();
            recorder.stage(self.claim.stage).repeated(request.status, status);
        }
        match is_success(status) {
            true => self.answered(Answer::Ok, n),
            false => self.rejected(StatusCode::new(status).as_str(), n),
        }
    }

    /// The same for messages `first..first + n` of the batch, whatever becomes of those before them.
    pub(crate) fn replied_at(&mut self, first: u64, n: u64, status: u16) {
        self.recorder.borrow_mut().stage(self.claim.stage).status(status);
        match is_success(status) {
            true => self.answered_at(first, n, Answer::Ok),
            false => self.rejected_at(first, n, StatusCode::new(status).as_str()),
        }
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
        let unsettled = self.claim.count - self.answered - self.ahead;
        let of_step = self.leave_step(code, self.clock.now_ns());
        let code = of_step.as_deref().unwrap_or(code);
        self.recorder.borrow_mut().stage(self.claim.stage).failed(code, unsettled);
        self.abandon();
    }

    /// What is not settled yet was not answered when the run gave up waiting.
    pub(crate) fn give_up(&mut self) {
        let unsettled = self.claim.count - self.answered - self.ahead;
        self.recorder.borrow_mut().stage(self.claim.stage).unanswered(unsettled);
        self.leave_step("unanswered", self.clock.now_ns());
        self.abandon();
    }

    fn abandon(&mut self) {
        let at_ns = self.clock.now_ns();
        let recorder = &mut *self.recorder.borrow_mut();
        let mut recorder = recorder.stage(self.claim.stage);
        recorder.settling();
        let claim = self.claim;
        while self.answered < self.written {
            let ahead = &mut self.identity.ahead;
            let open = ahead.iter().position(|mark| *mark != Mark::Open);
            let open = open.map_or(self.written - self.answered, |open| open as u64);
            ahead.drain(..ahead.len().min(usize::try_from(open).unwrap_or(usize::MAX)));
            settle(self.identity, &mut self.answered, open, |sent_ns, range| {
                claim.runs(range, |due_ns, n| recorder.censored(due_ns, Some(sent_ns), at_ns, n));
            });
            self.pass_settled();
        }
        let never_written = self.written..self.claim.count;
        self.claim.runs(never_written, |due_ns, n| recorder.censored(due_ns, None, at_ns, n));
        self.answered = self.claim.count;
    }

    /// Takes a batch back of which nothing was written: another connection will carry it.
    pub(crate) fn withdraw(self) {
        assert!(self.is_fresh(), "what was encoded may have been sent");
        self.recorder.borrow_mut().stage(self.claim.stage).returned(self.claim.count);
    }

    /// Ends a settled batch.
    pub(crate) fn close(self) {
        assert!(self.is_settled(), "a batch ends when every message is settled");
        debug_assert!(self.identity.writes.is_empty() && self.identity.ahead.is_empty());
        self.identity.next_seq = self.first_seq + self.claim.count;
        self.identity.ledger.sent = self.identity.next_seq;
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// `http_404`, without an allocation.
struct StatusCode([u8; 8]);

impl StatusCode {
    fn new(status: u16) -> StatusCode {
        let mut text = *b"http_000";
        let digits = [status / 100, status / 10, status].map(|it| (it % 10) as u8);
        text.iter_mut().skip(5).zip(digits).for_each(|(at, digit)| *at += digit);
        StatusCode(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("letters and digits")
    }
}

/// How messages were settled as they should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    By(Answer),
    /// They were broken on purpose, and the target said so.
    Rejected,
}

impl Settled {
    fn record(self, recorder: &mut StageRecorder<'_>, n: u64) {
        match self {
            Settled::By(answer) => recorder.answered(answer, n),
            Settled::Rejected => recorder.malformed_rejected(n),
        }
    }
}

/// How messages failed.
#[derive(Clone, Copy)]
enum Failed<'c> {
    By(&'c str),
    /// They were broken on purpose, and the target took them.
    Accepted,
}

impl Failed<'_> {
    fn record(self, recorder: &mut StageRecorder<'_>, n: u64) {
        match self {
            Failed::By(code) => recorder.failed(code, n),
            Failed::Accepted => recorder.malformed_accepted(n),
        }
    }
}

/// An error by this code is about what the message says, not about the target's own state: so a
/// broken message is rejected. HTTP has its status at the end of the code.
fn is_about_content(code: &str) -> bool {
    let busy = [Code::Overloaded, Code::BreakerOpen, Code::StorageFailed, Code::DiskFull];
    if busy.iter().any(|it| it.as_str() == code) {
        return false;
    }
    let digits = code.len().checked_sub(3).and_then(|at| code.get(at..));
    match digits.and_then(|digits| digits.parse::<u16>().ok()) {
        Some(status) => matches!(status, 400..=499) && !matches!(status, 401 | 403 | 408 | 429),
        None => true,
    }
}

/// Why the messages of one write are late.
///
/// ```text
/// due ── reader ── read ── window full ── free ── shard busy ── claimed ── connecting ── begun ── shard busy, socket ── sent
/// ```
///
/// A message that becomes due later than one of these moments begins its way there. All but the
/// deadlines are the same for all messages of the write.
struct Lateness {
    /// When it had been read from its recording; 0 without one.
    ready_ns: u64,
    free_ns: u64,
    sent_ns: u64,
    connecting_ns: u64,
    socket_ns: u64,
    count: u64,
    lag: Cause,
    reader: Cause,
    window_full: Cause,
}

impl Lateness {
    fn new(claim: &Claim, begun_ns: u64, blocked_ns: u64, sent_ns: u64) -> Lateness {
        Lateness {
            ready_ns: claim.recorded.as_ref().map_or(0, |recorded| recorded.ready_ns),
            free_ns: claim.free_ns,
            sent_ns,
            connecting_ns: begun_ns.saturating_sub(claim.claimed_ns),
            socket_ns: blocked_ns.min(sent_ns.saturating_sub(begun_ns)),
            count: 0,
            lag: Cause::default(),
            reader: Cause::default(),
            window_full: Cause::default(),
        }
    }

    fn add(&mut self, due_ns: u64, n: u64) {
        let many = |ns: u64| Cause { sum_ns: u128::from(ns) * u128::from(n), max_ns: ns };
        self.count += n;
        self.lag.add(many(self.sent_ns.saturating_sub(due_ns)));
        self.reader.add(many(self.ready_ns.saturating_sub(due_ns)));
        self.window_full.add(many(self.free_ns.saturating_sub(due_ns.max(self.ready_ns))));
    }

    fn causes(&self) -> Causes {
        let all = |ns: u64| Cause { sum_ns: u128::from(ns) * u128::from(self.count), max_ns: ns };
        let (connecting, socket) = (all(self.connecting_ns), all(self.socket_ns));
        // What is left. The earliest deadline has the most of all.
        let Lateness { lag, reader, window_full, .. } = *self;
        let [mut shard_busy, others @ ..] = [lag, reader, window_full, connecting, socket];
        for other in others {
            shard_busy.sum_ns = shard_busy.sum_ns.saturating_sub(other.sum_ns);
            shard_busy.max_ns = shard_busy.max_ns.saturating_sub(other.max_ns);
        }
        Causes { reader, window_full, shard_busy, connecting, socket }
    }
}

/// Gives `each` the next `n` messages, in runs that were sent at the same time.
fn settle(
    identity: &mut Identity,
    answered: &mut u64,
    n: u64,
    mut each: impl FnMut(u64, Range<u64>),
) {
    let end = *answered + n;
    while *answered < end {
        let write = identity.writes.front().expect("what is answered was written");
        let (run_end, sent_ns) = (write.end.min(end), write.at_ns);
        each(sent_ns, *answered..run_end);
        if run_end == write.end {
            identity.writes.pop_front();
        }
        *answered = run_end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;
    use crate::hammer::Broken;
    use crate::hammer::replies::ReplyLines;
    use crate::measure::recorder::{StageInterval, code};
    use crate::plan::payloads::{Payloads, Wanted};

    struct Rig {
        clock: Clock,
        kit: Kit,
        recorder: RefCell<Recorder>,
        identity: Identity,
        progress_ns: Cell<u64>,
    }

    impl Rig {
        fn new() -> Rig {
            Rig {
                clock: Clock::start(),
                kit: Kit::new(Payloads::new(1, "r", 0)),
                recorder: RefCell::default(),
                identity: Identity::new(3, true),
                progress_ns: Cell::new(0),
            }
        }

        fn begin<'a>(&'a mut self, claim: &'a Claim) -> (&'a Kit, Batch<'a>) {
            let Rig { clock, kit, recorder, identity, progress_ns } = self;
            (kit, Batch::begin(claim, clock.now_ns(), *clock, recorder, identity, progress_ns))
        }

        fn totals(self) -> (StageInterval, LedgerConnection) {
            (only(&mut self.recorder.into_inner()), self.identity.ledger)
        }
    }

    fn only(recorder: &mut Recorder) -> StageInterval {
        recorder.close_interval().stages.pop().expect("something has happened")
    }

    fn write_all(kit: &Kit, batch: &mut Batch<'_>, out: &mut Vec<u8>) {
        out.clear();
        while batch.unencoded() > 0 {
            batch.encode(kit, out, out.len() + 64 * 1024);
            batch.before_write();
            batch.wrote(batch.unwritten());
        }
    }

    fn closed(count: u64) -> Claim {
        let dues = Dues::Same(0);
        Claim { count, stage: 0, dues, recorded: None, free_ns: 0, claimed_ns: 0 }
    }

    fn open(count: u64) -> Claim {
        let dues = Dues::Each((0..count).map(|n| n * 1000).collect());
        Claim { dues, ..closed(count) }
    }

    #[test]
    fn a_batch_from_payload_to_histogram_allocates_nothing() {
        for claim in [closed(2000), open(2000)] {
            let mut rig = Rig::new();
            let mut out = Vec::with_capacity(1 << 20);
            let chunk = proto::reply::OK_LINE.repeat(1000);
            let mut replies = ReplyLines::default();
            let mut run = |rig: &mut Rig| {
                let (kit, mut batch) = rig.begin(&claim);
                write_all(kit, &mut batch, &mut out);
                for _ in 0..2 {
                    batch.after_read();
                    for run in replies.feed(&chunk).unwrap() {
                        batch.answered(Answer::Ok, run.count);
                    }
                }
                batch.close();
            };
            run(&mut rig);
            // A new second is rendered with some allocations; one of three batches is within one.
            let fewest = (0..3).map(|_| allocations::during(|| run(&mut rig))).min();
            assert_eq!(fewest, Some(0), "{claim:?}");
            let (totals, ledger) = rig.totals();
            assert_eq!(totals.tally.counts.ok, 8000);
            assert_eq!(ledger.ok, [(0, 8000)]);
            assert_eq!(totals.latencies.response.values.len(), 8000);
            assert_eq!(totals.latencies.lag.values.len(), 8000);
        }
    }

    #[test]
    fn the_lines_of_a_batch_follow_those_of_the_one_before() {
        let mut rig = Rig::new();
        let mut lines = Vec::new();
        for count in [3, 2] {
            let claim = closed(count);
            let (kit, mut batch) = rig.begin(&claim);
            let mut out = Vec::new();
            write_all(kit, &mut batch, &mut out);
            batch.answered(Answer::Filtered, count);
            batch.close();
            lines.extend(String::from_utf8(out).unwrap().lines().map(str::to_owned));
        }
        for (seq, line) in lines.iter().enumerate() {
            assert!(line.ends_with(&format!("\"conn\":3,\"seq\":{seq}}}")), "{line}");
        }
        let (totals, ledger) = rig.totals();
        assert_eq!((totals.tally.counts.filtered, ledger.sent, ledger.ok.len()), (5, 5, 0));
    }

    #[test]
    fn a_message_that_is_broken_on_purpose_is_no_error_unless_it_is_taken() {
        let wanted = Wanted { malformed: 0.25, ..Wanted::default() };
        let payloads = Payloads::open(&wanted, 1, "r").unwrap();
        let malformed = payloads.malformed().unwrap();
        let claim = open(400);
        let broken: Vec<bool> = (0..400).map(|seq| malformed.has(&Author::new(3), seq)).collect();
        let expected = broken.iter().filter(|it| **it).count() as u64;
        assert!((50..150).contains(&expected));
        // As a target says it, in one run; one after the other; from the last to the first.
        for way in 0..3 {
            let mut rig = Rig::new();
            rig.kit = Kit::new(payloads.clone());
            let (kit, mut batch) = rig.begin(&claim);
            write_all(kit, &mut batch, &mut Vec::new());
            batch.after_read();
            match way {
                // A sink that takes everything, and then one that takes nothing.
                0 => {
                    batch.answered(Answer::Ok, 200);
                    batch.rejected("invalid_json", 100);
                    batch.rejected("overloaded", 100);
                }
                1 => {
                    for &is_broken in &broken {
                        match is_broken {
                            true => batch.rejected("invalid_json", 1),
                            false => batch.answered(Answer::Ok, 1),
                        }
                    }
                }
                _ => {
                    for (index, &is_broken) in broken.iter().enumerate().rev() {
                        let index = index as u64;
                        match is_broken {
                            true => batch.rejected_at(index, 1, "http_422"),
                            false => batch.answered_at(index, 1, Answer::Ok),
                        }
                    }
                }
            }
            batch.close();
            let (totals, ledger) = rig.totals();
            let counts = totals.tally.counts;
            assert_eq!((counts.sent, counts.in_flight()), (400, 0));
            assert_eq!(counts.malformed.sent, expected);
            let lines = totals.tally.lines;
            assert_eq!(lines.count, 400);
            assert!(lines.bytes_max * 400 > lines.bytes && lines.bytes > 400 * 100);
            let among = |range: std::ops::Range<usize>| {
                broken[range].iter().filter(|it| **it).count() as u64
            };
            if way > 0 {
                assert_eq!((counts.ok, counts.error()), (400 - expected, 0));
                assert_eq!(counts.malformed.rejected, expected);
                assert_eq!(totals.latencies.response.values.len(), 400);
                assert_eq!(ledger.acknowledged(), 400 - expected);
                let ok = |seq: u64| ledger.ok.iter().any(|it| (it.0..it.0 + it.1).contains(&seq));
                assert!((0u64..).zip(&broken).all(|(seq, is_broken)| ok(seq) != *is_broken));
                continue;
            }
            assert_eq!(counts.malformed.accepted, among(0..200));
            assert_eq!(counts.errors["malformed_accepted"], among(0..200));
            assert_eq!(counts.ok, 200 - among(0..200));
            assert_eq!(counts.malformed.rejected, among(200..300));
            assert_eq!(counts.errors["invalid_json"], 100 - among(200..300));
            assert_eq!(counts.errors["overloaded"], 100);
        }
    }

    #[test]
    fn a_broken_batch_settles_each_message_once() {
        let mut rig = Rig::new();
        let claim = closed(2000);
        let (kit, mut batch) = rig.begin(&claim);
        let mut out = Vec::new();
        batch.encode(kit, &mut out, 64 * 1024);
        batch.before_write();
        batch.wrote(100);
        batch.answered(Answer::Ok, 30);
        batch.rejected("overloaded", 20);
        batch.fail(Broken::Reset.code());
        batch.close();
        let (totals, ledger) = rig.totals();
        let counts = totals.tally.counts;
        assert_eq!((counts.sent, counts.ok, counts.in_flight()), (2000, 30, 0));
        assert_eq!((counts.errors["overloaded"], counts.errors["reset"]), (20, 1950));
        let latencies = totals.latencies;
        assert_eq!(latencies.response.values.len(), 30);
        assert_eq!(latencies.response.censored.len(), 1970);
        // 100 were written: 30 answered, 70 watched from their write on.
        assert_eq!(latencies.service.censored.len(), 70);
        assert_eq!((latencies.lag.values.len(), latencies.lag.censored.len()), (100, 1900));
        assert_eq!((ledger.sent, &ledger.ok[..]), (2000, &[(0, 30)][..]));
    }

    #[test]
    fn messages_that_are_answered_in_any_order_are_settled_once_each() {
        for claim in [closed(100), open(100)] {
            let mut rig = Rig::new();
            let (kit, mut batch) = rig.begin(&claim);
            // Written in runs of ten, each at a time of its own.
            for _ in 0..10 {
                for _ in 0..10 {
                    batch.encode(kit, &mut Vec::new(), 0);
                }
                batch.before_write();
                batch.wrote(10);
            }
            batch.after_read();
            for first in (0..25).rev().map(|quarter: u64| quarter * 4) {
                batch.answered_at(first + 2, 2, Answer::Ok);
                batch.rejected_at(first, 1, "http_500");
                batch.answered_at(first + 1, 1, Answer::Filtered);
            }
            assert!(batch.is_settled() && batch.unanswered() == 0);
            batch.close();
            let (totals, ledger) = rig.totals();
            let counts = &totals.tally.counts;
            assert_eq!((counts.ok, counts.filtered, counts.errors["http_500"]), (50, 25, 25));
            assert_eq!(counts.in_flight(), 0);
            let latencies = totals.latencies;
            assert_eq!(
                (latencies.service.values.len(), latencies.service.censored.len()),
                (75, 25)
            );
            assert_eq!(latencies.response.values.len(), 75);
            assert_eq!((ledger.acknowledged(), ledger.ok[0], ledger.ok.len()), (50, (2, 2), 25));
        }
    }

    #[test]
    fn a_batch_that_breaks_with_gaps_settles_what_is_in_them() {
        let mut rig = Rig::new();
        let claim = closed(30);
        let (kit, mut batch) = rig.begin(&claim);
        for _ in 0..20 {
            batch.encode(kit, &mut Vec::new(), 0);
            batch.before_write();
            batch.wrote(1);
        }
        batch.after_read();
        batch.answered_at(0, 1, Answer::Ok);
        batch.answered_at(5, 3, Answer::Ok);
        batch.rejected_at(19, 1, "no");
        assert_eq!(batch.unanswered(), 15);
        batch.fail("reset");
        batch.close();
        let (totals, ledger) = rig.totals();
        let counts = totals.tally.counts;
        assert_eq!((counts.ok, counts.errors["no"], counts.errors["reset"]), (4, 1, 25));
        assert_eq!((counts.sent, counts.in_flight()), (30, 0));
        let latencies = totals.latencies;
        assert_eq!((latencies.response.values.len(), latencies.response.censored.len()), (4, 26));
        assert_eq!((latencies.service.values.len(), latencies.service.censored.len()), (4, 16));
        assert_eq!((ledger.sent, &ledger.ok[..]), (30, &[(0, 1), (5, 3)][..]));
    }

    #[test]
    fn a_response_settles_by_its_status_and_allocates_nothing() {
        let mut rig = Rig::new();
        let mut run = |statuses: [u16; 4]| {
            let claim = closed(4);
            let (_, mut batch) = rig.begin(&claim);
            batch.own(4);
            batch.before_write();
            batch.wrote(4);
            batch.after_read();
            statuses.into_iter().for_each(|status| batch.replied(status, 1));
            batch.close();
        };
        let statuses = [200, 404, 204, 599];
        run(statuses);
        assert_eq!(allocations::during(|| run(statuses)), 0);
        let counts = rig.totals().0.tally.counts;
        assert_eq!((counts.ok, counts.errors["http_404"], counts.errors["http_599"]), (4, 2, 2));
        assert_eq!(counts.statuses, [(200, 2), (204, 2), (404, 2), (599, 2)].into());
    }

    #[test]
    fn a_withdrawn_batch_leaves_no_trace() {
        let mut rig = Rig::new();
        let claim = closed(10);
        let (_, batch) = rig.begin(&claim);
        batch.withdraw();
        let (totals, ledger) = rig.totals();
        assert_eq!((totals.tally.counts.sent, ledger.sent), (0, 0));
    }

    #[test]
    fn a_refused_claim_counts_as_sent_and_failed() {
        let mut recorder = Recorder::default();
        open(10).refuse(&mut recorder, code::REFUSED, 1_000_000);
        let totals = only(&mut recorder);
        assert_eq!((totals.tally.counts.sent, totals.tally.counts.errors["refused"]), (10, 10));
        assert_eq!(totals.latencies.lag.censored.len(), 10);
        assert_eq!(totals.latencies.service.censored.len(), 0);
    }

    #[test]
    fn lag_is_split_by_what_the_message_waited_for() {
        let dues = Dues::Each(vec![100, 400, 900]);
        let claim = Claim { dues, free_ns: 500, claimed_ns: 1_000, ..closed(3) };
        // A connection at 3,000; the socket was full for 250 before the write at 5,000.
        let mut lateness = Lateness::new(&claim, 3_000, 250, 5_000);
        claim.runs(0..3, |due_ns, n| lateness.add(due_ns, n));
        let Causes { reader, window_full, shard_busy, connecting, socket } = lateness.causes();
        assert_eq!(reader, Cause::default());
        assert_eq!((window_full.sum_ns, window_full.max_ns), (400 + 100, 400));
        assert_eq!((connecting.sum_ns, connecting.max_ns), (3 * 2_000, 2_000));
        assert_eq!((socket.sum_ns, socket.max_ns), (3 * 250, 250));
        // From free or due to claimed, and from the connection to the write but for the socket.
        assert_eq!((shard_busy.sum_ns, shard_busy.max_ns), (500 + 500 + 100 + 3 * 1_750, 2_250));
        let parts = [window_full, shard_busy, connecting, socket];
        let lags = (5_000 - 100) + (5_000 - 400) + (5_000 - 900);
        assert_eq!(parts.iter().map(|cause| cause.sum_ns).sum::<u128>(), lags);
    }

    #[test]
    fn a_full_socket_is_told_from_a_busy_shard() {
        let mut rig = Rig::new();
        let claim = closed(2000);
        let (kit, mut batch) = rig.begin(&claim);
        let mut out = Vec::new();
        batch.encode(kit, &mut out, 1 << 20);
        batch.before_write();
        batch.wrote(1);
        batch.blocked();
        let pause = std::time::Duration::from_millis(20);
        std::thread::sleep(pause);
        batch.before_write();
        batch.wrote(1999);
        batch.answered(Answer::Ok, 2000);
        batch.close();
        let causes = rig.totals().0.tally.causes;
        let pause_ns = pause.as_nanos();
        assert!(causes.socket.sum_ns >= 1999 * pause_ns, "{causes:?}");
        assert_eq!(causes.socket.sum_ns, 1999 * u128::from(causes.socket.max_ns));
        assert_eq!(
            (causes.window_full, causes.connecting.max_ns > 1_000_000_000),
            (Cause::default(), false)
        );
    }
}
