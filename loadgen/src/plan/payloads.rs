//! What a message's bytes are: realistic log lines of about 200 bytes, built once, patched per
//! message.
//!
//! Owns the block of templates and the timestamp's text. Leaves buffers and sockets to the hammer.
//! Invariant: every line that [`Payloads::append`] writes is one valid JSON object with `level` and
//! `message`, ended by `\n`, and ends in `"run":"…","conn":N,"seq":N}` so that an audit finds who
//! sent it by scanning backwards.
//!
//! ```text
//! {"timestamp":"2026-11-21T03:53:57.123456Z","level":"INFO",…,"run":"r1","conn":17,"seq":345}\n
//!               ^ patched in place            template .............................|^ appended
//! ```
//! Only the end may vary in length (JSON forbids leading zeros), so only the end is appended.

use super::random::Random;

/// Lines in a block: enough that they don't look alike, few enough to stay in a core's L2 cache.
const TEMPLATES: usize = 500;
/// Level and its share of a hundred lines.
const LEVEL_MIX: [(&str, usize); 5] =
    [("DEBUG", 10), ("INFO", 70), ("WARN", 12), ("ERROR", 7), ("CRITICAL", 1)];
const SERVICES: [&str; 8] =
    ["checkout", "catalog", "payments", "identity", "shipping", "search", "gateway", "ledger"];
const OPENING: &str = "{\"timestamp\":\"";
/// What lengthens a message: compressible as log lines are, and no run of one byte.
const FILLING: &str = ", as seen by the collector of this host; nothing was lost on the way";
/// All templates together, where lines are long; and how many there are at least.
const BLOCK_BYTES_MAX: usize = 4 << 20;
const TEMPLATES_MIN: usize = 4;
/// What [`Payloads::append`] adds behind a template at least.
const ENDING_BYTES_MIN: usize = "0,\"seq\":0}\n".len();
/// An upper bound of what [`Payloads::append`] adds behind a template: conn, seq, and punctuation.
const ENDING_BYTES_MAX: usize = 20 + ",\"seq\":".len() + 20 + "}\n".len();

/// The pre-built lines of a run.
#[derive(Clone, Debug)]
pub struct Payloads {
    /// All templates, one behind the other.
    block: Vec<u8>,
    /// Where template i ends in `block`.
    ends: Vec<u32>,
    line_bytes_max: usize,
}

/// What a connection's lines have in common.
#[derive(Clone, Debug)]
pub struct Author {
    /// `17,"seq":`
    ending: Vec<u8>,
    /// The first template of this connection, so that connections don't run in step.
    first: u64,
}

impl Author {
    /// The author of connection `conn`.
    pub fn new(conn: u64) -> Author {
        Author {
            ending: format!("{conn},\"seq\":").into_bytes(),
            // Any multiplier without a common divisor with the number of templates will do.
            first: conn.wrapping_mul(7919),
        }
    }
}

impl Payloads {
    /// The block of `seed`; `run_id` is letters, digits, `-` and `_`. A line has at least
    /// `bytes_min` bytes with its newline; its message is lengthened to that end.
    pub fn new(seed: u64, run_id: &str, bytes_min: usize) -> Payloads {
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
        let mut payloads =
            Payloads { block: Vec::new(), ends: Vec::with_capacity(TEMPLATES), line_bytes_max: 0 };
        for level in levels {
            let line = template(level, run_id, bytes_min, &mut random);
            payloads.block.extend_from_slice(line.as_bytes());
            payloads.ends.push(u32::try_from(payloads.block.len()).expect("a small block"));
            payloads.line_bytes_max = payloads.line_bytes_max.max(line.len() + ENDING_BYTES_MAX);
        }
        payloads
    }

    /// No line is longer, with its newline.
    pub fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    /// Appends message `seq` of `author` to `out`, which grows by at most [`Self::line_bytes_max`].
    pub fn append(&self, out: &mut Vec<u8>, stamp: &Stamp, author: &Author, seq: u64) {
        let template = self.template(author.first.wrapping_add(seq));
        let start = out.len();
        out.extend_from_slice(template);
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

fn template(level: &str, run_id: &str, bytes_min: usize, random: &mut Random) -> String {
    let service = random.pick(&SERVICES);
    let trace = random.next_u64();
    let mut message = message(level, random);
    let stamp = "0".repeat(STAMP_BYTES);
    let before = format!(
        "{OPENING}{stamp}\",\"level\":\"{level}\",\"service\":\"{service}\",\
         \"trace\":\"{trace:016x}\",\"message\":\""
    );
    let behind = format!("\",\"run\":\"{run_id}\",\"conn\":");
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

/// Bytes of `2026-11-21T03:53:57.123456Z`.
const STAMP_BYTES: usize = 27;

/// A point in time as text, UTC with microseconds; rewritten only as far as it changed.
#[derive(Clone, Debug)]
pub struct Stamp {
    text: [u8; STAMP_BYTES],
    second: u64,
}

impl Default for Stamp {
    fn default() -> Self {
        let mut stamp = Stamp { text: [b'0'; STAMP_BYTES], second: u64::MAX };
        stamp.set(0);
        stamp
    }
}

impl Stamp {
    /// Sets the time, nanoseconds since 1970-01-01 (no leap seconds, as Unix counts).
    pub fn set(&mut self, unix_ns: u64) {
        let second = unix_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.set_second(second);
        }
        let mut micros = unix_ns / 1_000 % 1_000_000;
        for at in (20..26).rev() {
            self.text[at] = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("digits and punctuation")
    }

    fn set_second(&mut self, second: u64) {
        let (year, month, day) = civil(second / 86_400);
        let (hour, minute) = (second / 3600 % 24, second / 60 % 60);
        let text = format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.000000Z",
            second % 60
        );
        self.text.copy_from_slice(text.as_bytes());
    }
}

/// Year, month, day of a day number since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms", days_from_civil's inverse, for days that are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn lines(seed: u64, conn: u64, seqs: std::ops::Range<u64>) -> Vec<String> {
        let (payloads, author, mut out) =
            (Payloads::new(seed, "run-1", 0), Author::new(conn), Vec::new());
        let mut stamp = Stamp::default();
        stamp.set(1_795_233_237_123_456_789);
        for seq in seqs {
            let before = out.len();
            payloads.append(&mut out, &stamp, &author, seq);
            assert!(out.len() - before <= payloads.line_bytes_max());
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
            let payloads = Payloads::new(1, "run-1", bytes_min);
            let mut out = Vec::new();
            payloads.append(&mut out, &Stamp::default(), &Author::new(0), 0);
            assert_eq!(out.len(), bytes_min);
            assert!(serde_json::from_slice::<Value>(&out).unwrap()["message"].is_string());
            assert!(payloads.block.len() <= 2 * BLOCK_BYTES_MAX, "{}", payloads.block.len());
        }
    }

    #[test]
    fn a_seed_gives_the_same_lines_and_another_seed_others() {
        assert_eq!(lines(1, 3, 0..100), lines(1, 3, 0..100));
        assert_ne!(lines(1, 3, 0..100), lines(2, 3, 0..100));
    }

    proptest! {
        #[test]
        fn a_stamp_is_what_jiff_prints(unix_ns in 0u64..4_000_000_000_000_000_000) {
            let mut stamp = Stamp::default();
            stamp.set(unix_ns);
            let oracle = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap();
            prop_assert_eq!(stamp.as_str(), oracle.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
            // A second later, from the same state: the cached part is refreshed.
            stamp.set(unix_ns + 1_000_000_000);
            let oracle = jiff::Timestamp::from_nanosecond(i128::from(unix_ns + 1_000_000_000)).unwrap();
            prop_assert_eq!(stamp.as_str(), oracle.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        }
    }
}
