//! Replies of an NDJSON server, cut out of the byte stream and run-length counted.
//!
//! Pure. Owns the unfinished line of a connection. Leaves to the hammer whether so many replies
//! were asked for. Almost every reply is the same 16 bytes, so those are compared as blocks and
//! never searched for newlines; anything else goes through `proto`.
//! Invariant: any split of the bytes into chunks gives the same replies.

use proto::reply::{FILTERED_LINE, OK_LINE, OwnedReply, Status};

use super::Broken;
use crate::measure::tally::Answer;

/// No reply is longer; a peer that sends more without a newline is not understood.
pub(crate) const REPLY_BYTES_MAX: usize = 64 * 1024;
/// An error reply without a code, which other servers may send.
pub(crate) const CODE_MISSING: &str = "unspecified";

/// Equal replies, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) reply: Kind,
    /// Messages that it answers; 0 for a fatal one.
    pub(crate) count: u64,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Answer(Answer),
    /// An error, with its code.
    Rejected(String),
    /// Answers no message and ends the connection, with its code.
    Fatal(String),
}

/// The reply stream of one connection.
#[derive(Debug, Default)]
pub(crate) struct ReplyLines {
    tail: Vec<u8>,
    /// Of the last chunk; kept for its memory.
    runs: Vec<Run>,
}

impl ReplyLines {
    /// No unfinished line is waiting.
    pub(crate) fn is_between_lines(&self) -> bool {
        self.tail.is_empty()
    }

    /// The replies that are whole with this chunk.
    pub(crate) fn feed(&mut self, mut chunk: &[u8]) -> Result<&[Run], Broken> {
        self.runs.clear();
        if !self.tail.is_empty() {
            let Some(end) = memchr::memchr(b'\n', chunk) else {
                self.keep_tail(chunk)?;
                return Ok(&self.runs);
            };
            let (head, rest) = chunk.split_at(end + 1);
            self.tail.extend_from_slice(head);
            let mut line = std::mem::take(&mut self.tail);
            self.line(&line)?;
            line.clear();
            self.tail = line;
            chunk = rest;
        }
        while !chunk.is_empty() {
            let ok = leading_ok_lines(chunk);
            if ok > 0 {
                self.count(Kind::Answer(Answer::Ok), ok as u64);
                chunk = &chunk[ok * OK_LINE.len()..];
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', chunk) else {
                self.keep_tail(chunk)?;
                break;
            };
            let (line, rest) = chunk.split_at(end + 1);
            self.line(line)?;
            chunk = rest;
        }
        Ok(&self.runs)
    }

    fn keep_tail(&mut self, part: &[u8]) -> Result<(), Broken> {
        if self.tail.len() + part.len() > REPLY_BYTES_MAX {
            return Err(Broken::Mismatch);
        }
        self.tail.extend_from_slice(part);
        Ok(())
    }

    /// One line, with its newline.
    fn line(&mut self, line: &[u8]) -> Result<(), Broken> {
        if line == OK_LINE {
            self.count(Kind::Answer(Answer::Ok), 1);
        } else if line == FILTERED_LINE {
            self.count(Kind::Answer(Answer::Filtered), 1);
        } else if !line.trim_ascii().is_empty() {
            let OwnedReply { status, code, count, fatal, .. } =
                OwnedReply::parse(line).map_err(|_| Broken::Mismatch)?;
            let code = code.unwrap_or_else(|| CODE_MISSING.to_owned());
            match status {
                Status::Ok => self.count(Kind::Answer(Answer::Ok), count),
                Status::Filtered => self.count(Kind::Answer(Answer::Filtered), count),
                Status::Error if fatal => self.count(Kind::Fatal(code), 0),
                Status::Error => self.count(Kind::Rejected(code), count),
            }
        }
        Ok(())
    }

    fn count(&mut self, reply: Kind, count: u64) {
        match self.runs.last_mut() {
            Some(last) if last.reply == reply => last.count = last.count.saturating_add(count),
            _ => self.runs.push(Run { reply, count }),
        }
    }
}

/// How many whole OK lines `chunk` begins with. They are 16 bytes: one comparison each.
fn leading_ok_lines(chunk: &[u8]) -> usize {
    const LINE_BYTES: usize = OK_LINE.len();
    let (lines, _) = chunk.as_chunks::<LINE_BYTES>();
    lines.iter().take_while(|line| line[..] == *OK_LINE).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: [&str; 7] = [
        "{\"status\":\"ok\"}\n",
        "{\"status\":\"filtered\"}\n",
        "{\"status\":\"ok\",\"count\":41}\n",
        "{ \"more\": [1], \"status\": \"ok\" }\r\n",
        "{\"status\":\"error\",\"code\":\"overloaded\",\"reason\":\"r\",\"retry_after_ms\":5}\n",
        "\n",
        "{\"status\":\"error\"}\n",
    ];

    fn expected(line: &str) -> Option<(Kind, u64)> {
        let ok = Kind::Answer(Answer::Ok);
        match LINES.iter().position(|it| *it == line).unwrap() {
            0 | 3 => Some((ok, 1)),
            1 => Some((Kind::Answer(Answer::Filtered), 1)),
            2 => Some((ok, 41)),
            4 => Some((Kind::Rejected("overloaded".into()), 1)),
            5 => None,
            _ => Some((Kind::Rejected(CODE_MISSING.into()), 1)),
        }
    }

    fn push(runs: &mut Vec<(Kind, u64)>, reply: Kind, count: u64) {
        match runs.last_mut() {
            Some((last, sum)) if *last == reply => *sum += count,
            _ => runs.push((reply, count)),
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_replies(
            picks in prop::collection::vec(prop_oneof![3 => Just(0usize), 1 => 0usize..7], 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let text: String = picks.iter().map(|&pick| LINES[pick]).collect();
            let mut oracle = Vec::new();
            for &pick in &picks {
                if let Some((reply, count)) = expected(LINES[pick]) {
                    push(&mut oracle, reply, count);
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut lines, mut found) = (ReplyLines::default(), Vec::new());
            for pair in cuts.windows(2) {
                let chunk = &text.as_bytes()[pair[0]..pair[1]];
                for run in lines.feed(chunk).unwrap() {
                    push(&mut found, run.reply.clone(), run.count);
                }
            }
            prop_assert!(lines.is_between_lines());
            prop_assert_eq!(found, oracle);
        }
    }

    #[test]
    fn a_fatal_reply_answers_nothing() {
        let mut lines = ReplyLines::default();
        let text = b"{\"status\":\"error\",\"code\":\"timeout\",\"reason\":\"\",\"fatal\":true}\n";
        let run = Run { reply: Kind::Fatal("timeout".into()), count: 0 };
        assert_eq!(lines.feed(text).unwrap(), [run]);
    }

    #[test]
    fn nonsense_and_endless_lines_are_mismatches() {
        assert_eq!(
            ReplyLines::default().feed(b"HTTP/1.1 400 Bad Request\r\n"),
            Err(Broken::Mismatch)
        );
        assert_eq!(ReplyLines::default().feed(b"{\"status\":\"fine\"}\n"), Err(Broken::Mismatch));
        let mut lines = ReplyLines::default();
        let chunk = [b'a'; 4096];
        let refused = (0..100).find(|_| lines.feed(&chunk).is_err());
        assert_eq!(refused, Some(REPLY_BYTES_MAX / 4096));
    }
}
