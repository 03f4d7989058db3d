//! Messages that are broken on purpose: what a target has to reject.
//!
//! Owns which messages they are, and what is broken. Both follow from the seed, the connection and
//! the number of the message, so that a reply that comes later is known to be for one of them.
//! Invariant: a damaged message is one line as before, not empty, and no longer than
//! [`Malformed::bytes_max`] allows; it does not begin as a gzip member does.

use super::{Author, Key, MessageKey};
use crate::plan::random::Random;

/// A line that replaces the one that was due, without who sent it.
const REPLACED_BYTES_MAX: usize = 80;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The line ends somewhere in its middle.
    Cut,
    /// A byte that no text has.
    BadUtf8,
    /// A control character that is not escaped.
    Control,
    /// `level`, `message` or `id` is of a wrong type, or says nothing known.
    WrongType,
    /// `level` or `message` is missing.
    MissingField,
    /// An object with nothing in it.
    Empty,
    /// JSON, but no object.
    NotAnObject,
}

impl Damage {
    /// All of them.
    pub const ALL: [Damage; 7] = [
        Damage::Cut,
        Damage::BadUtf8,
        Damage::Control,
        Damage::WrongType,
        Damage::MissingField,
        Damage::Empty,
        Damage::NotAnObject,
    ];
}

/// A share of a flow's messages.
#[derive(Clone, Copy, Debug)]
pub struct Malformed {
    key: Key,
    share: f64,
}

impl Malformed {
    /// `share` of the messages, from 0 to 1; `None` if it is 0.
    pub fn new(seed: u64, share: f64) -> Option<Malformed> {
        (share > 0.0).then_some(Malformed { key: Key::new(seed), share })
    }

    /// Whether message `seq` of `author` is one of them.
    pub fn has(&self, author: &Author, seq: u64) -> bool {
        self.key.of(author, seq).malformed().unit() < self.share
    }

    /// Of the messages of `author` from `first` on, `n` at most and at least one, those up to the
    /// first that is of another kind: whether they are broken, and how many.
    pub fn run(&self, author: &Author, first: u64, n: u64) -> (bool, u64) {
        let kind = self.has(author, first);
        let more = (1..n).take_while(|above| self.has(author, first + above) == kind).count();
        (kind, 1 + more as u64)
    }

    /// What a line of at most `line_bytes_max` may become.
    pub(super) fn bytes_max(line_bytes_max: usize) -> usize {
        line_bytes_max.max(REPLACED_BYTES_MAX)
    }

    /// Breaks the line that `out` has from `start` on, if it is one of them.
    pub(super) fn damage(&self, out: &mut Vec<u8>, start: usize, author: &Author, seq: u64) {
        if self.has(author, seq) {
            let key: MessageKey = self.key.of(author, seq);
            let mut random = key.malformed();
            // The first number was for whether.
            random.next_u64();
            let damage = *random.pick(&Damage::ALL);
            apply(damage, out, start, &mut random);
        }
    }
}

/// Breaks the line that `out` has from `start` on, with its newline.
fn apply(damage: Damage, out: &mut Vec<u8>, start: usize, random: &mut Random) {
    let bytes = out.len() - start - 1;
    // Anywhere but in front: there a byte might mean something else than a line.
    let mut inside = || {
        let above = random.below((bytes as u64).saturating_sub(1).max(1));
        #[expect(clippy::cast_possible_truncation, reason = "below a length")]
        let above = above as usize;
        start + 1 + above
    };
    match damage {
        // A part of an object is no JSON, wherever it ends.
        Damage::Cut => {
            let at = inside();
            out.truncate(at);
            out.push(b'\n');
        }
        Damage::BadUtf8 => {
            let at = inside();
            out[at] = 0xff;
        }
        // Neither a blank nor the end of a line.
        Damage::Control => {
            let at = inside();
            out[at] = 0x01;
        }
        Damage::WrongType => replace(
            out,
            start,
            random.pick::<&str>(&[
                r#"{"level":3,"message":"a level that is a number"}"#,
                r#"{"level":"LOUD","message":"a level that nobody knows"}"#,
                r#"{"level":"INFO","message":["a","message","that","is","a","list"]}"#,
                r#"{"level":"INFO","message":null}"#,
                r#"{"level":"INFO","message":"an id that is no integer","id":1.5}"#,
            ]),
        ),
        Damage::MissingField => replace(
            out,
            start,
            random.pick::<&str>(&[
                r#"{"message":"a message without a level"}"#,
                r#"{"level":"INFO","text":"a level without a message"}"#,
            ]),
        ),
        Damage::Empty => replace(out, start, "{}"),
        Damage::NotAnObject => replace(
            out,
            start,
            random.pick::<&str>(&[
                r#"["INFO","a list is no message"]"#,
                r#""INFO: a text is no message""#,
                "42",
                "null",
            ]),
        ),
    }
}

fn replace(out: &mut Vec<u8>, start: usize, line: &str) {
    out.truncate(start);
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proto::record::{Record, Scratch};

    use super::*;
    use crate::plan::payloads::{Builtin, Payloads, Source, Stamp, Wanted};

    fn damaged(builtin: Builtin, share: f64, n: u64) -> Vec<(u64, Vec<u8>)> {
        let wanted =
            Wanted { source: Source::Builtin(builtin), malformed: share, ..Wanted::default() };
        let payloads = Payloads::open(&wanted, 9, "r").unwrap();
        let (author, stamp, mut out) = (Author::new(4), Stamp::default(), Vec::new());
        (0..n)
            .map(|seq| {
                out.clear();
                payloads.append(&mut out, &stamp, &author, seq);
                assert!(out.len() <= payloads.bytes_max(&author, seq));
                (seq, out.clone())
            })
            .collect()
    }

    fn code(line: &[u8]) -> Option<proto::Code> {
        Record::parse(line, &mut Scratch::new()).err().map(|rejection| rejection.code)
    }

    #[test]
    fn every_damage_of_every_built_in_is_one_line_that_the_engine_rejects() {
        let mut random = Random::new(1);
        for builtin in Builtin::ALL {
            for (_, line) in damaged(builtin, 0.0, 50) {
                assert_eq!(code(&line[..line.len() - 1]), None);
                for damage in Damage::ALL {
                    let mut out = b"before\n".to_vec();
                    out.extend_from_slice(&line);
                    apply(damage, &mut out, 7, &mut random);
                    let (text, end) = (&out[7..out.len() - 1], out[out.len() - 1]);
                    assert_eq!((&out[..7], end), (&b"before\n"[..], b'\n'), "{damage:?}");
                    assert!(!text.iter().any(|byte| b"\r\n".contains(byte)), "{damage:?}");
                    assert!(!text.trim_ascii().is_empty() && text[0] != 0x1f, "{damage:?}");
                    let found = code(text).unwrap_or_else(|| panic!("{damage:?} passes: {text:?}"));
                    let expected: &[&str] = match damage {
                        Damage::Cut | Damage::Control => &["invalid_json"],
                        Damage::BadUtf8 => &["invalid_utf8"],
                        Damage::WrongType => &["invalid_field"],
                        Damage::MissingField | Damage::Empty => &["missing_field"],
                        Damage::NotAnObject => &["not_an_object"],
                    };
                    assert!(expected.contains(&found.as_str()), "{damage:?}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn as_many_are_broken_as_asked_and_it_is_known_which() {
        let n = 20_000;
        let malformed = Malformed::new(9, 0.05).unwrap();
        let author = Author::new(4);
        let mut broken = 0;
        for (seq, line) in damaged(Builtin::Default, 0.05, n) {
            let is_broken = code(&line[..line.len() - 1]).is_some();
            assert_eq!(is_broken, malformed.has(&author, seq), "{seq}");
            broken += u32::from(is_broken);
        }
        // Five standard errors.
        let error = (n as f64 * 0.05 * 0.95).sqrt();
        assert!((f64::from(broken) - n as f64 * 0.05).abs() < 5.0 * error, "{broken}");
        assert!(Malformed::new(9, 0.0).is_none());
        assert!(
            damaged(Builtin::App, 1.0, 100)
                .iter()
                .all(|(_, it)| code(&it[..it.len() - 1]).is_some())
        );
    }

    #[test]
    fn runs_cover_all_messages_in_order() {
        let (malformed, author) = (Malformed::new(1, 0.3).unwrap(), Author::new(2));
        for n in [1, 7, 500] {
            let (mut told, end) = (Vec::new(), 11 + n);
            while (told.len() as u64) < n {
                let at = 11 + told.len() as u64;
                let (kind, length) = malformed.run(&author, at, end - at);
                assert_ne!(told.last(), Some(&kind), "a run goes as far as it can");
                told.extend((0..length).map(|_| kind));
            }
            let each: Vec<bool> = (11..end).map(|seq| malformed.has(&author, seq)).collect();
            assert_eq!(told, each);
        }
    }
}
