//! gzip between the lines: cuts a stream of plain lines and gzip members into frames.
//!
//! ```text
//!   chunk   [ line\n | line\n | 1f 8b member (RFC 1952) | 1f 8b member | line\n … ]
//!               | zero-copy            | at most one scratch per call
//!               v                      v
//!   frames   Origin::Plain        Origin::Packed, cut out of the scratch
//! ```
//!
//! A member begins where a line could begin and the bytes are `1f 8b`; it ends with its checksum
//! and length, which are verified. Its end ends its last line, and no line spans members. `1f` with
//! another byte behind it is a line like any other. What a line means, and that a hello is never
//! looked for in [`Origin::Packed`], is left to others, and so is every await.
//!
//! One call inflates at most one scratch, so neither a member nor many of them hold a shard; where
//! frames are held, inflation stops. What is not inflated yet stays compressed.
//!
//! Invariants: `carry_len() <= line_bytes_max + 1 + scratch + chunk + (bytes fed while the last
//! step was not Hungry)`, all in bytes, whatever a member would inflate to. An inflater exists only
//! inside a member. Frames depend on the stream alone, unless it is found [`Bad`].
//!
//! Dropped: one inflater for all members of a connection. The library cannot reset one to gzip, and
//! a new one costs about as much as inflating a KiB or two (`benches/gzip.rs`).

use flate2::{Decompress, FlushDecompress, Status};
use memchr::memchr;

use crate::lines::{Cut, MEMBER_MAGIC};
use crate::{Code, Flow, Frame, Lines};

/// The largest window of RFC 1951: 32 KiB.
const WINDOW_BITS: u8 = 15;

/// Memory of an inflater in bytes, not less: its window, its tables and itself.
const INFLATER_BYTES: usize = 48 << 10;

/// A call reads at most this part of the scratch's length compressed: some streams take long to
/// read and inflate to nothing, such as empty members and blocks that are all tables.
const SCRATCH_PER_INPUT: usize = 4;

/// Bounds of inflation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// A member may inflate to this many times its size. Deflate itself ends at 1032 times: above
    /// that, this bound never acts, and just below, only on almost pure repetition.
    pub ratio_max: u64,
    /// The ratio is looked at once a member has inflated to more than this many bytes.
    pub ratio_after_bytes: u64,
}

/// Why a stream or a datagram ends here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Bad {
    /// Not gzip as RFC 1952 has it, or cut off; what is wrong with it.
    #[error("gzip member is damaged: {0}")]
    Damaged(Box<str>),
    /// A member of a stream inflates beyond [`Bounds`].
    #[error("gzip member inflates more than {ratio_max} times (INFLATE_RATIO_MAX)")]
    TooLarge {
        /// The bound in force.
        ratio_max: u64,
    },
    /// A datagram inflates beyond its bound.
    #[error("gzip datagram inflates to more than {bytes_max} bytes (INFLATED_BYTES_MAX)")]
    DatagramTooLarge {
        /// The bound in force.
        bytes_max: usize,
    },
}

impl Bad {
    /// The code that a client gets.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Bad::Damaged(_) => Code::BadGzip,
            Bad::TooLarge { .. } | Bad::DatagramTooLarge { .. } => Code::InflatedTooLarge,
        }
    }

    fn damaged(reason: &str) -> Self {
        Bad::Damaged(reason.into())
    }
}

/// Where a frame stood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Outside of gzip.
    Plain,
    /// In a gzip member: never a hello.
    Packed,
}

/// Who acts next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// All is taken: feed the next chunk when it comes.
    Hungry,
    /// The last frame was held: feed `&[]` when the caller can take it.
    Held,
    /// The slice of inflation is used up: feed `&[]` in a later turn.
    Again,
}

/// State of one connection's stream.
#[derive(Debug)]
pub struct Unpack {
    bounds: Bounds,
    lines: Lines,
    at: At,
    /// Bytes that were fed and not read yet, from `start` on; only after a step other than Hungry.
    kept: Vec<u8>,
    start: usize,
    inflated_bytes: u64,
}

/// Where in the stream the next byte stands.
#[derive(Debug)]
enum At {
    /// In plain lines.
    Lines,
    /// In a member. What `lines` keeps came out of it.
    Member(Box<Decompress>),
    /// Behind a member, whose last lines are held.
    MemberEnd,
}

impl Unpack {
    /// `line_bytes_max` does not count the line end, and is at least 1.
    #[must_use]
    pub const fn new(line_bytes_max: usize, bounds: Bounds) -> Self {
        assert!(line_bytes_max > 0);
        let lines = Lines::new(line_bytes_max);
        Unpack { bounds, lines, at: At::Lines, kept: Vec::new(), start: 0, inflated_bytes: 0 }
    }

    /// Gives whole lines to `on` in order, plain ones without a copy, and keeps the rest.
    /// `scratch` is lent to inflate into; its length bounds what one call inflates.
    ///
    /// # Errors
    /// A member is damaged or too large. Lines of earlier slices were given to `on`, those of the
    /// slice in which it shows were not. The stream ends there: what follows cannot be told apart.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        scratch: &mut [u8],
        mut on: impl FnMut(Frame<'_>, Origin) -> Flow,
    ) -> Result<Step, Bad> {
        if !matches!(self.at, At::Lines) || !self.kept.is_empty() {
            return self.unpack(chunk, scratch, &mut on);
        }
        match self.lines.cut::<true>(chunk, |frame| on(frame, Origin::Plain)) {
            Cut::End => Ok(Step::Hungry),
            Cut::Held => Ok(Step::Held),
            Cut::Member { taken } => {
                self.kept = self.lines.take_carry();
                self.at = At::member();
                self.unpack(&chunk[taken..], scratch, &mut on)
            }
        }
    }

    /// At the end of the stream: the unterminated rest of plain lines is a line, too. After another
    /// step than Hungry call again.
    ///
    /// # Errors
    /// As [`Unpack::feed`]. A stream that ends inside a member is damaged, and the unterminated
    /// rest of that member is no line, for it may be cut anywhere.
    pub fn finish(
        &mut self,
        scratch: &mut [u8],
        mut on: impl FnMut(Frame<'_>, Origin) -> Flow,
    ) -> Result<Step, Bad> {
        let step = self.feed(&[], scratch, &mut on)?;
        if step != Step::Hungry {
            return Ok(step);
        }
        match self.at {
            At::Member(_) => Err(Bad::damaged("it is cut off")),
            At::Lines | At::MemberEnd => {
                match self.lines.finish(|frame| on(frame, Origin::Plain)) {
                    Flow::Next => Ok(Step::Hungry),
                    Flow::Hold => Ok(Step::Held),
                }
            }
        }
    }

    /// Bytes that are kept, inflated or not.
    #[must_use]
    pub fn carry_len(&self) -> usize {
        self.lines.carry_len() + self.kept.len() - self.start
    }

    /// Memory that all of this occupies, in bytes, an inflater included.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        let inflater = if matches!(self.at, At::Member(_)) { INFLATER_BYTES } else { 0 };
        self.lines.capacity_bytes() + self.kept.capacity() + inflater
    }

    /// True between messages when nothing is held or left to inflate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.at, At::Lines) && self.lines.is_empty() && self.kept.is_empty()
    }

    /// Bytes that were inflated since this was last asked.
    pub fn inflated_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.inflated_bytes)
    }

    /// Reads what is kept and then `chunk`, and keeps what is left of both.
    #[inline(never)]
    fn unpack(
        &mut self,
        chunk: &[u8],
        scratch: &mut [u8],
        on: &mut impl FnMut(Frame<'_>, Origin) -> Flow,
    ) -> Result<Step, Bad> {
        if self.kept.is_empty() {
            let (step, left) = self.slice(chunk, scratch, on)?;
            self.kept.extend_from_slice(&chunk[chunk.len() - left..]);
            return Ok(step);
        }
        let mut kept = std::mem::take(&mut self.kept);
        let mut start = std::mem::take(&mut self.start);
        kept.extend_from_slice(chunk);
        let (step, left) = self.slice(&kept[start..], scratch, on)?;
        start = kept.len() - left;
        if left > 0 {
            // Moves no more bytes than were read: linear over their life.
            if start >= kept.len() / 2 {
                kept.drain(..start);
                start = 0;
            }
            (self.kept, self.start) = (kept, start);
        }
        Ok(step)
    }

    /// Reads `bytes` as far as one scratch goes. Returns how many bytes at their end are left.
    fn slice(
        &mut self,
        bytes: &[u8],
        scratch: &mut [u8],
        on: &mut impl FnMut(Frame<'_>, Origin) -> Flow,
    ) -> Result<(Step, usize), Bad> {
        assert!(!scratch.is_empty(), "there must be room to inflate into");
        let mut rest = bytes;
        let mut out_left = scratch.len();
        let mut in_left = (scratch.len() / SCRATCH_PER_INPUT).max(1);
        // What an earlier call held in a member.
        if matches!(self.at, At::Member(_))
            && self.lines.feed(&[], |frame| on(frame, Origin::Packed)) == Flow::Hold
        {
            return Ok((Step::Held, rest.len()));
        }
        loop {
            match &mut self.at {
                At::Lines => match self.lines.cut::<true>(rest, |frame| on(frame, Origin::Plain)) {
                    Cut::End => return Ok((Step::Hungry, 0)),
                    Cut::Held => return Ok((Step::Held, 0)),
                    Cut::Member { taken } => {
                        // Plain lines keep nothing here, or their call would not have come so far.
                        assert_eq!(self.lines.carry_len(), 0);
                        rest = &rest[taken..];
                        self.at = At::member();
                    }
                },
                At::Member(inflater) => {
                    if out_left == 0 || (in_left == 0 && !rest.is_empty()) {
                        return Ok((Step::Again, rest.len()));
                    }
                    let given = &rest[..rest.len().min(in_left)];
                    let out = &mut scratch[..out_left];
                    let (taken, made, ended) = inflate(inflater, given, out)?;
                    let inflated = inflater.total_out();
                    if inflated > self.bounds.ratio_after_bytes
                        && inflated > inflater.total_in().saturating_mul(self.bounds.ratio_max)
                    {
                        return Err(Bad::TooLarge { ratio_max: self.bounds.ratio_max });
                    }
                    rest = &rest[taken..];
                    in_left -= taken;
                    out_left -= made;
                    self.inflated_bytes += made as u64;
                    if ended {
                        self.at = At::MemberEnd;
                    }
                    let out = &scratch[..made];
                    if self.lines.feed(out, |frame| on(frame, Origin::Packed)) == Flow::Hold {
                        return Ok((Step::Held, rest.len()));
                    }
                    if !ended && rest.is_empty() && out_left > 0 {
                        return Ok((Step::Hungry, 0));
                    }
                }
                At::MemberEnd => {
                    if self.lines.finish(|frame| on(frame, Origin::Packed)) == Flow::Hold {
                        return Ok((Step::Held, rest.len()));
                    }
                    self.at = At::Lines;
                }
            }
        }
    }
}

impl At {
    fn member() -> Self {
        At::Member(Box::new(Decompress::new_gzip(WINDOW_BITS)))
    }
}

/// One datagram: lines, or one member and nothing else. The unterminated rest is a line.
/// `scratch` is to be reused; it grows to what a member inflates to, in bytes.
///
/// # Errors
/// The member is damaged, or inflates to more than `inflated_bytes_max` bytes. No frame was given.
pub fn datagram(
    bytes: &[u8],
    line_bytes_max: usize,
    inflated_bytes_max: usize,
    scratch: &mut Vec<u8>,
    on: impl FnMut(Frame<'_>),
) -> Result<(), Bad> {
    if !bytes.starts_with(&MEMBER_MAGIC) {
        frames_of(bytes, line_bytes_max, on);
        return Ok(());
    }
    /// To begin with, in bytes; a datagram is at most 64 KiB.
    const ROOM_BYTES: usize = 64 << 10;
    // One byte above the bound tells a member that ends there from one that goes on.
    let room_max = inflated_bytes_max.saturating_add(1);
    scratch.resize(scratch.len().clamp(ROOM_BYTES.min(room_max), room_max), 0);
    let mut inflater = Decompress::new_gzip(WINDOW_BITS);
    let (mut read, mut filled) = (0, 0);
    loop {
        let (taken, made, ended) = inflate(&mut inflater, &bytes[read..], &mut scratch[filled..])?;
        (read, filled) = (read + taken, filled + made);
        if filled > inflated_bytes_max {
            return Err(Bad::DatagramTooLarge { bytes_max: inflated_bytes_max });
        }
        if ended {
            break;
        }
        if filled < scratch.len() {
            return Err(Bad::damaged("it is cut off"));
        }
        scratch.resize((scratch.len() * 2).min(room_max), 0);
    }
    if read < bytes.len() {
        return Err(Bad::damaged("bytes follow it in its datagram"));
    }
    frames_of(&scratch[..filled], line_bytes_max, on);
    Ok(())
}

/// Cuts what is whole: the same frames as [`Lines`], without its state.
fn frames_of(bytes: &[u8], line_bytes_max: usize, mut on: impl FnMut(Frame<'_>)) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
        match line.strip_suffix(b"\r").unwrap_or(line) {
            b"" => {}
            line if line.len() > line_bytes_max => on(Frame::TooLong),
            line => on(Frame::Line(line)),
        }
    }
}

/// One step: bytes read, bytes written, and whether the member has ended. Stops when `input` is
/// read or `out` is full.
fn inflate(
    inflater: &mut Decompress,
    input: &[u8],
    out: &mut [u8],
) -> Result<(usize, usize, bool), Bad> {
    let (before_in, before_out) = (inflater.total_in(), inflater.total_out());
    let status = inflater
        .decompress(input, out, FlushDecompress::None)
        .map_err(|error| Bad::damaged(error.message().unwrap_or("it is no deflate stream")))?;
    #[expect(clippy::cast_possible_truncation, reason = "no more than the lengths of the slices")]
    let (taken, made) =
        ((inflater.total_in() - before_in) as usize, (inflater.total_out() - before_out) as usize);
    let ended = status == Status::StreamEnd;
    if !ended && taken < input.len() && made < out.len() {
        return Err(Bad::damaged("it cannot be inflated further")); // the library's bug, not a loop
    }
    Ok((taken, made, ended))
}
