//! The default messages: realistic log lines of about 200 bytes, built once, patched per message.
//!
//! Owns the block of templates. Any other message is a program ([`super::program`]); this one costs
//! two copies. Invariant: every line that [`Records::append`] writes is one valid JSON object with `level` and
//! `message`, ended by `\n`, and ends in `"run":"…","conn":N,"seq":N}` so that an audit finds who
//! sent it by scanning backwards.
//!
//! ```text
//! {"timestamp":"2026-11-21T03:53:57.123456Z","level":"INFO",…,"run":"r1","conn":17,"seq":345}\n
//!               ^ patched in place            template .............................|^ appended
//! ```
//! Only the end may vary in length (JSON forbids leading zeros), so only the end is appended. Where
//! sizes are drawn, filling goes between the message and what is behind it.

use super::filling::{FILLING, fill};
use super::sizes::Sizes;
use super::stamp::{STAMP_BYTES, Stamp};
use super::{Author, Key};
use crate::plan::random::Random;

/// Lines in a block: enough that they don't look alike, few enough to stay in a core's L2 cache.
const TEMPLATES: usize = 500;
/// Level and its share of a hundred lines.
const LEVEL_MIX: [(&str, usize); 5] =
    [("DEBUG", 10), ("INFO", 70), ("WARN", 12), ("ERROR", 7), ("CRITICAL", 1)];
const SERVICES: [&str; 8] =
    ["checkout", "catalog", "payments", "identity", "shipping", "search", "gateway", "ledger"];
const OPENING: &str = "{\"timestamp\":\"";
/// All templates together, where lines are long; and how many there are at least.
const BLOCK_BYTES_MAX: usize = 4 << 20;
const TEMPLATES_MIN: usize = 4;
/// What [`Records::append`] adds behind a template at least.
const ENDING_BYTES_MIN: usize = "0,\"seq\":0}\n".len();
/// An upper bound of what [`Records::append`] adds behind a template: conn, seq, and punctuation.
const ENDING_BYTES_MAX: usize = 20 + ",\"seq\":".len() + 20 + "}\n".len();

/// The pre-built lines of a run.
#[derive(Clone, Debug)]
pub(super) struct Records {
    /// All templates, one behind the other.
    block: Vec<u8>,
    /// Where template i ends in `block`.
    ends: Vec<u32>,
    /// What its line has at most.
    line_bytes_max: usize,
    drawn: Option<Drawn>,
}

/// Sizes that differ from message to message.
#[derive(Clone, Debug)]
struct Drawn {
    sizes: Sizes,
    key: Key,
    /// What stands behind a message, up to the connection.
    behind_bytes: usize,
}

impl Records {
    /// The block of `seed`; `run_id` is letters, digits, `-` and `_`. A line has at least as many
    /// bytes with its newline as `sizes` say; its message is lengthened to that end.
    pub(super) fn new(seed: u64, run_id: &str, sizes: &Sizes) -> Records {
        // What is the same for all is done here, once.
        let bytes_min = sizes.as_fixed().unwrap_or(0);
        assert!(
            run_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "a run id needs no escapes"
        );
        let mut random = Random::new(seed);
        let mut levels: Vec<&str> = LEVEL_MIX
            .iter()
            .flat_map(|&(level, share)| std::iter::repeat_n(level, share * TEMPLATES / 100))
            .collect();
        random.shuffle(&mut levels);
        // Fewer, where they are long: the block stays small, and the mix about the same.
        levels.truncate((BLOCK_BYTES_MAX / bytes_min.max(1)).max(TEMPLATES_MIN));
        let drawn = sizes.as_fixed().is_none().then(|| Drawn {
            sizes: sizes.clone(),
            key: Key::new(seed),
            behind_bytes: behind(run_id).len(),
        });
        let mut payloads = Records {
            block: Vec::new(),
            ends: Vec::with_capacity(TEMPLATES),
            line_bytes_max: 0,
            drawn,
        };
        for level in levels {
            let line = template(level, run_id, bytes_min, &mut random);
            payloads.block.extend_from_slice(line.as_bytes());
            payloads.ends.push(u32::try_from(payloads.block.len()).expect("a small block"));
            payloads.line_bytes_max = payloads.line_bytes_max.max(line.len() + ENDING_BYTES_MAX);
        }
        payloads
    }

    /// No line is longer, where no sizes are drawn.
    pub(super) fn same_bytes_max(&self) -> Option<usize> {
        self.drawn.is_none().then_some(self.line_bytes_max)
    }

    /// The line of message `seq` of `author` is not longer, with its newline.
    pub(super) fn bytes_max(&self, author: &Author, seq: u64) -> usize {
        match &self.drawn {
            None => self.line_bytes_max,
            Some(drawn) => self.line_bytes_max.max(drawn.size(author, seq)),
        }
    }

    /// Appends message `seq` of `author` to `out`.
    pub(super) fn append(&self, out: &mut Vec<u8>, stamp: &Stamp, author: &Author, seq: u64) {
        let template = self.template(author.first.wrapping_add(seq));
        let start = out.len();
        if let Some(drawn) = &self.drawn {
            let (head, behind) = template.split_at(template.len() - drawn.behind_bytes);
            out.extend_from_slice(head);
            let digits = itoa::Buffer::new().format(seq).len();
            let bytes = template.len() + author.ending.len() + digits + b"}\n".len();
            fill(out, drawn.size(author, seq).saturating_sub(bytes));
            out.extend_from_slice(behind);
        } else {
            out.extend_from_slice(template);
        }
        let stamp_at = start + OPENING.len();
        out[stamp_at..stamp_at + STAMP_BYTES].copy_from_slice(&stamp.text);
        out.extend_from_slice(&author.ending);
        out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        out.extend_from_slice(b"}\n");
    }

    fn template(&self, number: u64) -> &[u8] {
        #[expect(clippy::cast_possible_truncation, reason = "below the number of templates")]
        let index = (number % self.ends.len() as u64) as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.block[start..self.ends[index] as usize]
    }
}

impl Drawn {
    fn size(&self, author: &Author, seq: u64) -> usize {
        self.sizes.draw(&mut self.key.of(author, seq).size())
    }
}

/// What stands behind a message, up to the connection.
fn behind(run_id: &str) -> String {
    format!("\",\"run\":\"{run_id}\",\"conn\":")
}

fn template(level: &str, run_id: &str, bytes_min: usize, random: &mut Random) -> String {
    let service = random.pick(&SERVICES);
    let trace = random.next_u64();
    let mut message = message(level, random);
    let stamp = "0".repeat(STAMP_BYTES);
    let before = format!(
        "{OPENING}{stamp}\",\"level\":\"{level}\",\"service\":\"{service}\",\
         \"trace\":\"{trace:016x}\",\"message\":\""
    );
    let behind = behind(run_id);
    let bytes = before.len() + message.len() + behind.len() + ENDING_BYTES_MIN;
    let missing = bytes_min.saturating_sub(bytes);
    message.extend(FILLING.chars().cycle().take(missing));
    before + &message + &behind
}

fn message(level: &str, random: &mut Random) -> String {
    let order = random.below(900_000) + 100_000;
    let ms = random.below(480) + 20;
    let choice = random.below(3);
    match (level, choice) {
        ("DEBUG", 0) => format!("cache miss for key user:{order}, loaded in {ms} ms"),
        ("DEBUG", _) => format!("retry budget of upstream is {ms}, order {order} queued"),
        ("INFO", 0) => format!("order {order} accepted, 3 items, {ms} ms"),
        ("INFO", 1) => format!("GET /api/orders/{order} answered 200 in {ms} ms"),
        ("INFO", _) => format!("session of user {order} renewed for {ms} minutes"),
        ("WARN", 0) => format!("slow query: orders by customer {order} took {ms} ms"),
        ("WARN", _) => format!("queue depth {order} above the high-water mark for {ms} ms"),
        ("ERROR", 0) => format!("payment of order {order} declined by the bank after {ms} ms"),
        ("ERROR", _) => format!("upstream reset the connection, order {order} after {ms} ms"),
        (_, _) => format!("replica lost, {order} writes wait since {ms} ms, paging on-call"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn lines(seed: u64, conn: u64, seqs: std::ops::Range<u64>) -> Vec<String> {
        let (payloads, author, mut out) =
            (Records::new(seed, "run-1", &Sizes::default()), Author::new(conn), Vec::new());
        let mut stamp = Stamp::default();
        stamp.set(1_795_233_237_123_456_789);
        for seq in seqs {
            let before = out.len();
            payloads.append(&mut out, &stamp, &author, seq);
            assert!(out.len() - before <= payloads.bytes_max(&author, seq));
        }
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_line_is_a_record_that_says_who_sent_it() {
        for (seq, line) in lines(1, 17, 0..2000).iter().enumerate() {
            let value: Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["timestamp"], "2026-11-21T03:53:57.123456Z");
            assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
            assert!(
                line.ends_with(&format!(",\"run\":\"run-1\",\"conn\":17,\"seq\":{seq}}}")),
                "{line}"
            );
            proto::record::Record::parse(line.as_bytes(), &mut proto::record::Scratch::new())
                .map(|_| ())
                .map_err(|rejection| rejection.reason.into_owned())
                .unwrap();
        }
    }

    #[test]
    fn lines_are_about_200_bytes_and_levels_are_mixed_as_said() {
        let lines = lines(1, 0, 0..500);
        let mean = lines.iter().map(|line| line.len() + 1).sum::<usize>() / lines.len();
        assert!((195..=210).contains(&mean), "{mean}");
        assert!(lines.iter().all(|line| (160..260).contains(&line.len())));
        let mut levels = BTreeMap::new();
        for line in &lines {
            let value: Value = serde_json::from_str(line).unwrap();
            *levels.entry(value["level"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        let expected = LEVEL_MIX.map(|(level, share)| (level.to_owned(), share * 5));
        assert_eq!(levels, BTreeMap::from(expected));
    }

    #[test]
    fn lines_are_as_long_as_asked_and_still_records() {
        for bytes_min in [500, 4096, 1 << 20] {
            let payloads = Records::new(1, "run-1", &Sizes::fixed(bytes_min));
            let mut out = Vec::new();
            payloads.append(&mut out, &Stamp::default(), &Author::new(0), 0);
            assert_eq!(out.len(), bytes_min);
            assert!(serde_json::from_slice::<Value>(&out).unwrap()["message"].is_string());
            assert!(payloads.block.len() <= 2 * BLOCK_BYTES_MAX, "{}", payloads.block.len());
        }
    }

    #[test]
    fn a_line_has_the_size_that_was_drawn_for_it_unless_it_is_longer() {
        let sizes: Sizes = "lognormal:400,1".parse().unwrap();
        let payloads = Records::new(1, "run-1", &sizes);
        let (author, stamp, mut out) = (Author::new(3), Stamp::default(), Vec::new());
        let (mut lengthened, key) = (0, Key::new(1));
        for seq in 0..1000 {
            out.clear();
            payloads.append(&mut out, &stamp, &author, seq);
            let size = sizes.draw(&mut key.of(&author, seq).size());
            assert!(out.len() == size || size < out.len() && out.len() < 260, "{size}");
            lengthened += usize::from(out.len() == size);
            assert!(out.len() <= payloads.bytes_max(&author, seq));
            let line: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!((&line["conn"], &line["seq"]), (&3.into(), &seq.into()));
        }
        assert!(lengthened > 600, "{lengthened}");
    }

    #[test]
    fn a_seed_gives_the_same_lines_and_another_seed_others() {
        assert_eq!(lines(1, 3, 0..100), lines(1, 3, 0..100));
        assert_ne!(lines(1, 3, 0..100), lines(2, 3, 0..100));
    }
}
