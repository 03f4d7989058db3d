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
    /// A reply that is rendered already: the first `bytes` of the text.
    Rendered { bytes: usize },
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
        self.entries.push_back(Entry::Rendered { bytes: self.render.len() });
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
        self.push_line(|out| {
            Reply::error(rejection.code, &rejection.reason).with_id(rejection.id).write(out);
        });
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
                Some(Entry::Rendered { bytes }) => {
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
            Some(Entry::Stored { count, .. } | Entry::Filtered { count }) => {
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
            script in proptest::collection::vec((0u8..6, 0u8..8), 0..200),
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
