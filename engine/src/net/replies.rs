//! The replies that a connection is owed, in line order.
//!
//! Pure. Equal replies that follow each other are one entry with a count, so that a million owed
//! `ok` cost a few bytes; only replies with an id or a reason cost their text. Invariant: a reply
//! leaves only when every earlier one has left and its own commit's outcome is known; `bytes()` is
//! what the queue holds, and the connection stops reading at its bound.

use std::collections::VecDeque;
use std::rc::Rc;

use proto::code::Code;
use proto::hello::{Durability, Replies as Mode};
use proto::record::{Id, Rejection};
use proto::reply::{OK_LINE, Reply};

use crate::ingest::commit::{Outcome, Ticket};
use crate::ingest::{Refusal, Why};

/// Replies are rendered up to about this much at a time.
const RENDER_BYTES: usize = 64 * 1024;
const STORAGE_FAILED: &str = "the line could not be stored";

#[derive(Debug)]
enum Entry {
    /// `count` messages without id whose fate hangs on a commit (`None`: known to be ok).
    Stored { ticket: Option<Ticket>, count: u64 },
    /// One message with an id, the first `id_bytes` of the text, likewise.
    StoredWithId { ticket: Option<Ticket>, id_bytes: usize, is_text: bool },
    /// `count` messages without id below the minimum level.
    Filtered { count: u64 },
    /// `count` messages that were refused for the same, and whose ids are unknown.
    Refused { why: Why, count: u64 },
    /// `count` replies that are rendered already: each is the first `bytes` of the text.
    Rendered { bytes: usize, count: u64 },
}

/// The owed replies of one connection.
#[derive(Debug)]
pub(super) struct Replies {
    mode: Mode,
    durability: Durability,
    entries: VecDeque<Entry>,
    /// Ids and rendered replies, in order.
    text: VecDeque<u8>,
    render: Vec<u8>,
}

impl Replies {
    pub(super) fn new(mode: Mode, durability: Durability) -> Replies {
        Replies {
            mode,
            durability,
            entries: VecDeque::new(),
            text: VecDeque::new(),
            render: Vec::new(),
        }
    }

    /// What a hello agreed on; holds for what is owed from now on.
    pub(super) fn agree(&mut self, mode: Mode, durability: Durability) {
        self.mode = mode;
        self.durability = durability;
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// The answer to a hello, or another line that is ready as it is.
    pub(super) fn push_line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.render.clear();
        write(&mut self.render);
        self.text.extend(&self.render);
        self.entries.push_back(Entry::Rendered { bytes: self.render.len(), count: 1 });
    }

    /// A message is in a batch.
    pub(super) fn push_stored(&mut self, ticket: &Ticket, id: Option<Id<'_>>) {
        if self.mode == Mode::None {
            return;
        }
        // `received` is true the moment the line is in the batch.
        let ticket = (self.durability != Durability::Received).then_some(ticket);
        let Some(id) = id else {
            if let Some(Entry::Stored { ticket: last, count }) = self.entries.back_mut() {
                let same = match (&*last, ticket) {
                    (Some(last), Some(ticket)) => Rc::ptr_eq(last, ticket),
                    (None, None) => true,
                    _ => false,
                };
                if same {
                    *count += 1;
                    return;
                }
            }
            self.entries.push_back(Entry::Stored { ticket: ticket.cloned(), count: 1 });
            return;
        };
        let before = self.text.len();
        let is_text = match id {
            Id::Text(text) => {
                self.text.extend(text.as_bytes());
                true
            }
            Id::Int(number) => {
                self.text.extend(number.to_string().as_bytes());
                false
            }
        };
        let id_bytes = self.text.len() - before;
        self.entries.push_back(Entry::StoredWithId { ticket: ticket.cloned(), id_bytes, is_text });
    }

    /// A message is below the minimum level.
    pub(super) fn push_filtered(&mut self, id: Option<Id<'_>>) {
        if self.mode == Mode::None {
            return;
        }
        match (id, self.entries.back_mut()) {
            (Some(id), _) => self.push_line(|out| Reply::filtered().with_id(Some(id)).write(out)),
            (None, Some(Entry::Filtered { count })) => *count += 1,
            (None, _) => self.entries.push_back(Entry::Filtered { count: 1 }),
        }
    }

    /// A message is refused.
    pub(super) fn push_rejected(&mut self, rejection: &Rejection<'_>) {
        if self.mode == Mode::None {
            return;
        }
        self.render.clear();
        let reply = Reply::error(rejection.code, &rejection.reason);
        reply.with_id(rejection.id).write(&mut self.render);
        // Who sends one bad line often sends it again.
        if let Some(Entry::Rendered { bytes, count }) = self.entries.back_mut()
            && *bytes == self.render.len()
            && self.text.range(self.text.len() - *bytes..).eq(&self.render)
        {
            *count += 1;
            return;
        }
        self.text.extend(&self.render);
        self.entries.push_back(Entry::Rendered { bytes: self.render.len(), count: 1 });
    }

    /// A message is not taken now.
    pub(super) fn push_refused(&mut self, refusal: &Refusal<'_>) {
        if self.mode == Mode::None {
            return;
        }
        let why = refusal.why;
        match (refusal.id, self.entries.back_mut()) {
            (Some(id), _) => {
                self.push_line(|out| reply_to_refused(why).with_id(Some(id)).write(out))
            }
            (None, Some(Entry::Refused { why: last, count })) if *last == why => *count += 1,
            (None, _) => self.entries.push_back(Entry::Refused { why, count: 1 }),
        }
    }

    /// The connection's last word; sent in every mode.
    pub(super) fn push_fatal(&mut self, code: Code, reason: &str) {
        self.push_line(|out| Reply::fatal(code, reason).write(out));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the queue holds.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.text.len()
    }

    /// What the queue has allocated.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.text.capacity()
    }

    /// Gives memory back after a burst.
    pub(super) fn shrink(&mut self) {
        const KEPT_BYTES: usize = 1024;
        if self.entries.is_empty() && self.capacity_bytes() > KEPT_BYTES {
            self.entries = VecDeque::new();
            self.text = VecDeque::new();
            self.render = Vec::new();
        }
    }

    /// The commit that the next reply waits for.
    pub(super) fn awaited(&self) -> Option<&Ticket> {
        match self.entries.front()? {
            Entry::Stored { ticket: Some(ticket), .. }
            | Entry::StoredWithId { ticket: Some(ticket), .. } => {
                ticket.outcome(self.durability).is_none().then_some(ticket)
            }
            _ => None,
        }
    }

    /// Renders replies that are ready into `out`, in order, about [`RENDER_BYTES`] at most.
    pub(super) fn settle(&mut self, out: &mut Vec<u8>) {
        let range = self.mode == Mode::Range;
        while out.len() < RENDER_BYTES {
            match self.entries.front_mut() {
                None => break,
                Some(Entry::Stored { ticket, count }) => {
                    let Some(outcome) = outcome(ticket.as_ref(), self.durability) else { break };
                    let count = *count;
                    if outcome == Outcome::Failed {
                        let line = Reply::error(Code::StorageFailed, STORAGE_FAILED);
                        let taken = repeat(out, count, |out| line.write(out));
                        self.drop_from_front(taken);
                    } else if range {
                        let count = self.take_equal_stored();
                        Reply::ok().times(count).write(out);
                    } else {
                        let taken = repeat(out, count, |out| out.extend_from_slice(OK_LINE));
                        self.drop_from_front(taken);
                    }
                }
                Some(Entry::Filtered { count }) => {
                    let count = *count;
                    let taken = if range {
                        Reply::filtered().times(count).write(out);
                        count
                    } else {
                        repeat(out, count, |out| Reply::filtered().write(out))
                    };
                    self.drop_from_front(taken);
                }
                Some(Entry::StoredWithId { ticket, id_bytes, is_text }) => {
                    let Some(outcome) = outcome(ticket.as_ref(), self.durability) else { break };
                    let (id_bytes, is_text) = (*id_bytes, *is_text);
                    self.entries.pop_front();
                    self.render.clear();
                    self.render.extend(self.text.drain(..id_bytes));
                    write_with_id(out, outcome, &self.render, is_text);
                }
                Some(Entry::Refused { why, count }) => {
                    let (reply, count) = (reply_to_refused(*why), *count);
                    self.render.clear();
                    reply.write(&mut self.render);
                    let line = &self.render;
                    let taken = repeat(out, count, |out| out.extend_from_slice(line));
                    self.drop_from_front(taken);
                }
                Some(Entry::Rendered { bytes, count: count @ 2.. }) => {
                    out.extend(self.text.range(..*bytes));
                    *count -= 1;
                }
                Some(Entry::Rendered { bytes, .. }) => {
                    let bytes = *bytes;
                    self.entries.pop_front();
                    out.extend(self.text.drain(..bytes));
                }
            }
        }
    }

    /// Takes all leading runs of stored messages; their sum is one reply of mode range.
    fn take_equal_stored(&mut self) -> u64 {
        let mut sum = 0;
        while let Some(Entry::Stored { ticket, count }) = self.entries.front() {
            if outcome(ticket.as_ref(), self.durability) != Some(Outcome::Stored) {
                break;
            }
            sum += count;
            self.entries.pop_front();
        }
        sum
    }

    fn drop_from_front(&mut self, taken: u64) {
        let left = match self.entries.front_mut() {
            Some(
                Entry::Stored { count, .. }
                | Entry::Filtered { count }
                | Entry::Refused { count, .. },
            ) => {
                *count -= taken;
                *count
            }
            _ => unreachable!("only counted entries are taken in parts"),
        };
        if left == 0 {
            self.entries.pop_front();
        }
    }
}

fn reply_to_refused(why: Why) -> Reply<'static> {
    let reply = Reply::error(why.code(), why.reason());
    why.retry_after_ms().map_or(reply, |ms| reply.with_retry_after_ms(ms.into()))
}

fn outcome(ticket: Option<&Ticket>, durability: Durability) -> Option<Outcome> {
    ticket.map_or(Some(Outcome::Stored), |ticket| ticket.outcome(durability))
}

/// Writes up to `count` equal lines, until `out` is full; gives how many.
fn repeat(out: &mut Vec<u8>, count: u64, write: impl Fn(&mut Vec<u8>)) -> u64 {
    let mut taken = 0;
    while taken < count && out.len() < RENDER_BYTES {
        write(out);
        taken += 1;
    }
    taken
}

fn write_with_id(out: &mut Vec<u8>, outcome: Outcome, id: &[u8], is_text: bool) {
    let text = str::from_utf8(id).unwrap_or_default();
    let id = if is_text { Id::Text(text) } else { Id::Int(text.parse().unwrap_or_default()) };
    let reply = match outcome {
        Outcome::Stored => Reply::ok(),
        Outcome::Failed => Reply::error(Code::StorageFailed, STORAGE_FAILED),
    };
    reply.with_id(Some(id)).write(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::commit::Commit;
    use proptest::prelude::*;

    fn rendered(replies: &mut Replies) -> String {
        let mut all = String::new();
        loop {
            let mut out = Vec::new();
            replies.settle(&mut out);
            if out.is_empty() {
                return all;
            }
            all.push_str(str::from_utf8(&out).unwrap());
        }
    }

    #[test]
    fn nothing_overtakes_a_reply_whose_commit_is_open() {
        let mut replies = Replies::new(Mode::Each, Durability::Written);
        let commit = Commit::begin();
        replies.push_stored(&commit, None);
        replies.push_filtered(None);
        assert_eq!(rendered(&mut replies), "");
        assert!(replies.awaited().is_some());
        commit.wrote(Outcome::Stored);
        assert_eq!(rendered(&mut replies), "{\"status\":\"ok\"}\n{\"status\":\"filtered\"}\n");
        assert!(replies.is_empty() && replies.bytes() == 0);
    }

    #[test]
    fn a_million_owed_ok_are_one_entry() {
        let mut replies = Replies::new(Mode::Each, Durability::Written);
        let commit = Commit::begin();
        for _ in 0..1_000_000 {
            replies.push_stored(&commit, None);
        }
        assert!(replies.bytes() < 100);
        commit.wrote(Outcome::Stored);
        assert_eq!(rendered(&mut replies).len(), 16_000_000);
    }

    #[test]
    fn a_hundred_thousand_refusals_are_few_bytes_and_each_is_answered() {
        for mode in [Mode::Each, Mode::Range] {
            let mut replies = Replies::new(mode, Durability::Written);
            let open = Why::BreakerOpen { retry_after_ms: 7 };
            for why in [Why::Shed, open, Why::DiskFull, Why::StorageFailed] {
                for _ in 0..25_000 {
                    replies.push_refused(&Refusal { why, id: None });
                }
            }
            assert!(replies.bytes() < 200, "{}", replies.bytes());
            let text = rendered(&mut replies);
            let counted = |code| text.lines().filter(|line| line.contains(code)).count();
            for code in ["overloaded", "breaker_open", "disk_full", "storage_failed"] {
                assert_eq!(counted(code), 25_000, "{code}");
            }
            assert!(!text.contains("count"), "errors stay one each");
            assert!(text.contains("\"retry_after_ms\":7}") && replies.is_empty());
        }
    }

    #[test]
    fn refusals_that_differ_stay_apart_and_in_order() {
        let mut replies = Replies::new(Mode::Range, Durability::Written);
        for retry_after_ms in [9, 9, 8] {
            replies.push_refused(&Refusal { why: Why::BreakerOpen { retry_after_ms }, id: None });
        }
        replies.push_refused(&Refusal { why: Why::DiskFull, id: Some(Id::Text("a\"b")) });
        replies.push_refused(&Refusal { why: Why::DiskFull, id: None });
        let text = rendered(&mut replies);
        let told: Vec<_> = text
            .lines()
            .map(|line| proto::reply::OwnedReply::parse(line.as_bytes()).unwrap())
            .map(|reply| (reply.retry_after_ms.unwrap(), reply.id))
            .collect();
        let id = Some(serde_json::json!("a\"b"));
        assert_eq!(told, [(9, None), (9, None), (8, None), (1000, id), (1000, None)]);
    }

    #[test]
    fn the_same_bad_line_again_and_again_is_one_entry() {
        let mut replies = Replies::new(Mode::Each, Durability::Written);
        let bad = |reason: &'static str| Rejection {
            code: Code::InvalidJson,
            reason: reason.into(),
            id: None,
        };
        for _ in 0..10_000 {
            replies.push_rejected(&bad("one"));
        }
        replies.push_rejected(&bad("two"));
        replies.push_rejected(&bad("one"));
        assert!(replies.bytes() < 400, "{}", replies.bytes());
        let text = rendered(&mut replies);
        assert_eq!(text.lines().count(), 10_002);
        let order: Vec<_> = text.lines().skip(9_999).map(|line| line.contains("one")).collect();
        assert_eq!(order, [true, false, true]);
        assert!(replies.bytes() == 0);
    }

    #[test]
    fn range_joins_what_is_ready_and_equal_over_commits() {
        let mut replies = Replies::new(Mode::Range, Durability::Written);
        let commits = [Commit::begin(), Commit::begin(), Commit::begin()];
        for commit in &commits {
            replies.push_stored(commit, None);
            replies.push_stored(commit, None);
        }
        commits[0].wrote(Outcome::Stored);
        commits[1].wrote(Outcome::Stored);
        commits[2].wrote(Outcome::Failed);
        let text = rendered(&mut replies);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{\"status\":\"ok\",\"count\":4}");
        assert_eq!(lines.len(), 3, "errors stay one each: {text}");
        assert!(lines[1].contains("storage_failed"));
    }

    proptest! {
        /// The oracle keeps one entry per message.
        #[test]
        fn replies_leave_in_line_order_whatever_the_commits_do(
            script in proptest::collection::vec((0u8..8, 0u8..8), 0..200),
            durable in any::<bool>(),
        ) {
            let durability = if durable { Durability::Durable } else { Durability::Written };
            let mut replies = Replies::new(Mode::Each, durability);
            let mut open = vec![Commit::begin()];
            let mut owed: Vec<(Option<Ticket>, String, String)> = Vec::new();
            let mut sent = String::new();
            for (step, number) in script {
                let last = open.last().unwrap();
                match step {
                    0 | 1 => {
                        replies.push_stored(last, None);
                        owed.push((Some(last.clone()), "{\"status\":\"ok\"}".into(), String::new()));
                    }
                    2 => {
                        replies.push_stored(last, Some(Id::Int(number.into())));
                        owed.push((
                            Some(last.clone()),
                            format!("{{\"status\":\"ok\",\"id\":{number}}}"),
                            format!(",\"id\":{number}"),
                        ));
                    }
                    3 => {
                        replies.push_filtered(None);
                        owed.push((None, "{\"status\":\"filtered\"}".into(), String::new()));
                    }
                    5 => {
                        let why = Why::BreakerOpen { retry_after_ms: (number / 3).into() };
                        let id = (number == 7).then_some(Id::Int(7));
                        replies.push_refused(&Refusal { why, id });
                        let mut line = Vec::new();
                        reply_to_refused(why).with_id(id).write(&mut line);
                        owed.push((None, String::from_utf8(line).unwrap().trim().into(), String::new()));
                    }
                    6 => {
                        let reason = if number < 6 { "one" } else { "two" };
                        let (code, reason) = (Code::InvalidJson, reason.into());
                        let rejection = Rejection { code, reason, id: None };
                        replies.push_rejected(&rejection);
                        let mut line = Vec::new();
                        Reply::from(&rejection).write(&mut line);
                        owed.push((None, String::from_utf8(line).unwrap().trim().into(), String::new()));
                    }
                    4 => {
                        let outcome = if number == 0 { Outcome::Failed } else { Outcome::Stored };
                        last.wrote(outcome);
                        if outcome == Outcome::Stored && durable {
                            last.synced(if number == 1 { Outcome::Failed } else { Outcome::Stored });
                        }
                        open.push(Commit::begin());
                    }
                    _ => sent.push_str(&rendered(&mut replies)),
                }
            }
            open.last().unwrap().wrote(Outcome::Stored);
            if durable {
                open.last().unwrap().synced(Outcome::Stored);
            }
            sent.push_str(&rendered(&mut replies));
            let expected: String = owed
                .iter()
                .map(|(ticket, ok, id)| match outcome(ticket.as_ref(), durability) {
                    Some(Outcome::Stored) => format!("{ok}\n"),
                    _ => format!(
                        "{{\"status\":\"error\",\"code\":\"storage_failed\",\"reason\":\"{STORAGE_FAILED}\"{id}}}\n"
                    ),
                })
                .collect();
            prop_assert_eq!(sent, expected);
            prop_assert!(replies.is_empty());
        }
    }
}
