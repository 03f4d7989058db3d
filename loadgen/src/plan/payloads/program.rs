//! A template, compiled: what is run for each message.
//!
//! Owns the running. A program is a list of steps that each append bytes; what a step draws follows
//! from the seed, the connection, the number of the message and the step's own place in the
//! template, and from nothing that ran before it. So a reference to a field runs that field's steps
//! again and gives the same bytes, and no message needs memory of its own.
//! Invariant: a message is at most [`Program::bytes_max`] long, and makes no allocation once the
//! buffer has room.

use super::blanks::Within;
use super::chance::Spread;
use super::feeder::Feeder;
use super::filling::{FILLING, fill};
use super::moment::{self, Format};
use super::pattern::Pattern;
use super::sizes::Sizes;
use super::stamp::Stamp;
use super::words;
use super::{Author, Key, MessageKey, Numbering};

/// Feeders of one template.
pub(super) const FEEDERS_MAX: usize = 8;
/// Digits of a 64-bit number, with its sign.
const INTEGER_BYTES_MAX: usize = 20;
const UUID_BYTES: usize = 36;

/// Steps, in order.
pub(super) type Block = Vec<Step>;

/// Appends bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Bytes(Vec<u8>),
    /// One of `blocks`: the first whose sum of weights up to itself is more than what is drawn.
    Choice {
        node: u32,
        sums: Vec<f64>,
        blocks: Vec<Block>,
    },
    /// `decimals` digits behind the point.
    Range {
        node: u32,
        from: i64,
        to: i64,
        decimals: u32,
        spread: Spread,
    },
    /// `from + seq × step`.
    Counter {
        from: i64,
        step: i64,
    },
    Pattern {
        node: u32,
        pattern: Pattern,
    },
    /// Hexadecimal.
    Id {
        node: u32,
        digits: usize,
    },
    Uuid {
        node: u32,
        is_timed: bool,
    },
    Time {
        node: u32,
        format: Format,
        offset_ns: i64,
        jitter_ns: u64,
    },
    Words {
        node: u32,
        from: u64,
        to: u64,
    },
    Cell {
        feeder: usize,
        column: usize,
    },
    Conn,
    Seq,
    /// What `block` appends, rewritten for a place that is not the message.
    Written {
        block: Block,
        within: Within,
        /// It is the inside of a JSON string.
        is_json: bool,
    },
    /// Here a line that is too short is lengthened.
    Stretch,
}

/// What stands behind the steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// `,"run":"…","conn":`, before the connection and the number of the message.
    Identity(Vec<u8>),
    /// `}`, or nothing.
    Bytes(&'static [u8]),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) block: Block,
    pub(super) end: End,
    /// Where lines are lengthened.
    pub(super) sizes: Option<Sizes>,
    pub(super) key: Key,
    pub(super) feeders: Vec<Feeder>,
    pub(super) numbering: Numbering,
    /// A line is an object of JSON.
    pub(super) is_object: bool,
    /// Texts around the message.
    pub(super) blanks: Vec<Block>,
    /// Unless it is lengthened.
    natural_bytes_max: usize,
}

/// What a message is made of.
pub(super) struct Scene<'a> {
    program: &'a Program,
    stamp: &'a Stamp,
    author: &'a Author,
    seq: u64,
    key: MessageKey,
    rows: [usize; FEEDERS_MAX],
    stretch_at: Option<usize>,
}

impl Program {
    pub(super) fn new(
        block: Block,
        end: End,
        sizes: Option<Sizes>,
        key: Key,
        feeders: Vec<Feeder>,
        numbering: Numbering,
        is_object: bool,
    ) -> Program {
        assert!(feeders.len() <= FEEDERS_MAX, "checked where they are read");
        let ending = match &end {
            End::Identity(bytes) => bytes.len() + 2 * INTEGER_BYTES_MAX + ",\"seq\":}\n".len(),
            End::Bytes(bytes) => bytes.len() + 1,
        };
        let natural_bytes_max = bytes_max(&block, &feeders) + ending;
        Program {
            block,
            end,
            sizes,
            key,
            feeders,
            numbering,
            is_object,
            blanks: Vec::new(),
            natural_bytes_max,
        }
    }

    /// No line is longer, where none is lengthened.
    pub(super) fn same_bytes_max(&self) -> Option<usize> {
        self.sizes.is_none().then_some(self.natural_bytes_max)
    }

    /// The line of message `seq` of `author` is not longer, with its newline.
    pub(super) fn bytes_max(&self, author: &Author, seq: u64) -> usize {
        match &self.sizes {
            None => self.natural_bytes_max,
            Some(sizes) => {
                let size = sizes.draw(&mut self.key.of(author, seq).size());
                self.natural_bytes_max.max(size)
            }
        }
    }

    /// Message `seq` of `author`, before any of it is written. Takes its rows from the feeders.
    pub(super) fn scene<'a>(&'a self, stamp: &'a Stamp, author: &'a Author, seq: u64) -> Scene<'a> {
        let key = self.key.of(author, seq);
        let mut rows = [0; FEEDERS_MAX];
        for (index, (row, feeder)) in (0u32..).zip(rows.iter_mut().zip(&self.feeders)) {
            *row = feeder.row(self.numbering, key, author, seq, index);
        }
        Scene { program: self, stamp, author, seq, key, rows, stretch_at: None }
    }
}

impl Scene<'_> {
    /// Appends the line, with its newline.
    pub(super) fn line(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        let Program { block, end, sizes, .. } = self.program;
        self.stretch_at = None;
        self.run(block, out);
        match end {
            End::Identity(run) => {
                out.extend_from_slice(run);
                out.extend_from_slice(&self.author.ending);
                integer(out, self.seq);
                out.extend_from_slice(b"}\n");
            }
            End::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                out.push(b'\n');
            }
        }
        if let (Some(sizes), Some(at)) = (sizes, self.stretch_at) {
            let size = sizes.draw(&mut self.key.size());
            stretch(out, at, size.saturating_sub(out.len() - start));
        }
    }

    /// Appends the text number `index` around the message.
    pub(super) fn blank(&mut self, index: usize, out: &mut Vec<u8>) {
        self.run(&self.program.blanks[index], out);
    }
}

/// Puts `bytes` of filling in at `at`.
fn stretch(out: &mut Vec<u8>, at: usize, bytes: usize) {
    if bytes == 0 {
        return;
    }
    let end = out.len();
    fill(out, bytes);
    // The end of the line to the end, and the filling over where it was.
    out.copy_within(at..end, at + bytes);
    for piece in out[at..at + bytes].chunks_mut(FILLING.len()) {
        piece.copy_from_slice(&FILLING.as_bytes()[..piece.len()]);
    }
}

impl Scene<'_> {
    fn run(&mut self, block: &[Step], out: &mut Vec<u8>) {
        for step in block {
            match step {
                Step::Bytes(bytes) => out.extend_from_slice(bytes),
                Step::Choice { node, sums, blocks } => {
                    let total = sums.last().expect("a choice has something to choose");
                    let drawn = self.key.node(*node).unit() * total;
                    let index = sums.partition_point(|sum| *sum <= drawn);
                    self.run(&blocks[index.min(blocks.len() - 1)], out);
                }
                Step::Range { node, from, to, decimals, spread } => {
                    let number = spread.int(*from, *to, &mut self.key.node(*node));
                    decimal(out, number, *decimals);
                }
                Step::Counter { from, step } => {
                    let above = step.wrapping_mul(self.seq.cast_signed());
                    integer(out, from.wrapping_add(above));
                }
                Step::Pattern { node, pattern } => {
                    pattern.append(out, &mut self.key.node(*node));
                }
                Step::Id { node, digits } => {
                    let mut random = self.key.node(*node);
                    let mut left = *digits;
                    while left > 0 {
                        let piece = left.min(16);
                        hexadecimal(out, random.next_u64(), piece);
                        left -= piece;
                    }
                }
                Step::Uuid { node, is_timed } => {
                    let mut random = self.key.node(*node);
                    let (high, low) = (random.next_u64(), random.next_u64());
                    let high = match is_timed {
                        true => ((self.stamp.unix_ns / 1_000_000) << 16) | 0x7000 | (high & 0xfff),
                        false => (high & !0xf000) | 0x4000,
                    };
                    uuid(out, high, (low & !(3 << 62)) | (1 << 63));
                }
                Step::Time { node, format, offset_ns, jitter_ns } => {
                    let shift_ns = match jitter_ns {
                        0 => *offset_ns,
                        jitter_ns => {
                            let moved = self.key.node(*node).below(2 * jitter_ns + 1);
                            offset_ns.saturating_add(moved.cast_signed()) - jitter_ns.cast_signed()
                        }
                    };
                    format.append(out, self.stamp, shift_ns);
                }
                Step::Words { node, from, to } => {
                    let mut random = self.key.node(*node);
                    let count = from + random.below(to - from + 1);
                    words::append(out, count, &mut random);
                }
                Step::Cell { feeder, column } => {
                    let row = self.rows[*feeder];
                    out.extend_from_slice(self.program.feeders[*feeder].cell(*column, row));
                }
                Step::Conn => integer(out, self.author.conn),
                Step::Seq => integer(out, self.seq),
                Step::Written { block, within, is_json } => {
                    let start = out.len();
                    self.run(block, out);
                    within.rewrite(out, start, *is_json);
                }
                Step::Stretch => self.stretch_at = Some(out.len()),
            }
        }
    }
}

fn integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `number` divided by ten as often as `decimals` say.
fn decimal(out: &mut Vec<u8>, number: i64, decimals: u32) {
    if decimals == 0 {
        return integer(out, number);
    }
    if number < 0 {
        out.push(b'-');
    }
    let (magnitude, scale) = (number.unsigned_abs(), 10u64.pow(decimals));
    integer(out, magnitude / scale);
    out.push(b'.');
    moment::digits(out, magnitude % scale, decimals as usize);
}

/// The last `count` hexadecimal digits.
fn hexadecimal(out: &mut Vec<u8>, number: u64, count: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |at: usize| DIGITS[(number >> (4 * at) & 15) as usize];
    out.extend((0..count).rev().map(digit));
}

fn uuid(out: &mut Vec<u8>, high: u64, low: u64) {
    let parts = [(high >> 32, 8), (high >> 16, 4), (high, 4), (low >> 48, 4), (low, 12)];
    for (index, (part, digits)) in parts.into_iter().enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        hexadecimal(out, part, digits);
    }
}

/// What `block` appends at most.
pub(super) fn bytes_max(block: &[Step], feeders: &[Feeder]) -> usize {
    let step = |step: &Step| match step {
        Step::Bytes(bytes) => bytes.len(),
        Step::Choice { blocks, .. } => {
            blocks.iter().map(|block| bytes_max(block, feeders)).max().unwrap_or(0)
        }
        // A sign, a zero before the point, and the point.
        Step::Range { .. } => INTEGER_BYTES_MAX + 3,
        Step::Counter { .. } | Step::Conn | Step::Seq => INTEGER_BYTES_MAX,
        Step::Pattern { pattern, .. } => pattern.bytes_max(),
        Step::Id { digits, .. } => *digits,
        Step::Uuid { .. } => UUID_BYTES,
        Step::Time { format, .. } => format.bytes_max(),
        Step::Words { to, .. } => words::bytes_max(*to),
        Step::Cell { feeder, column } => feeders[*feeder].bytes_max(*column),
        Step::Written { block, .. } => Within::GROWTH_MAX * bytes_max(block, feeders),
        Step::Stretch => 0,
    };
    block.iter().fold(0, |sum: usize, next| sum.saturating_add(step(next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_json_has_them() {
        let written = |number, decimals| {
            let mut out = Vec::new();
            decimal(&mut out, number, decimals);
            String::from_utf8(out).unwrap()
        };
        for (number, decimals, expected) in [
            (0, 0, "0"),
            (-5, 0, "-5"),
            (5, 2, "0.05"),
            (-5, 3, "-0.005"),
            (123_456, 3, "123.456"),
            (i64::MIN, 9, "-9223372036.854775808"),
        ] {
            assert_eq!(written(number, decimals), expected);
        }
    }

    #[test]
    fn filling_goes_in_where_it_should() {
        for bytes in [0, 1, 30, 69, 70, 71, 500] {
            let mut out = b"{\"message\":\"a\",\"seq\":1}\n".to_vec();
            stretch(&mut out, 13, bytes);
            let text = String::from_utf8(out).unwrap();
            let filling: String = FILLING.chars().cycle().take(bytes).collect();
            assert_eq!(text, format!("{{\"message\":\"a{filling}\",\"seq\":1}}\n"));
        }
    }

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        let mut out = Vec::new();
        uuid(&mut out, 0x0123_4567_89ab_4def, 0x8123_4567_89ab_cdef);
        assert_eq!(out, b"01234567-89ab-4def-8123-456789abcdef");
    }
}
