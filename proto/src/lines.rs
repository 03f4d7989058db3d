//! Framing without I/O: bytes as they come off a socket in, whole lines out.
//!
//! ```text
//!   carry (what is left of earlier chunks)        chunk (lent by the caller)
//!   [ consumed | held lines … | rest of a line ]  [ …its end\n | line\n | line\n | begin of a line ]
//!              ^start                                            zero-copy frames   -> carry
//! ```
//!
//! A line ends at `\n`; one `\r` before it is dropped; a line of zero bytes is blank and is no frame.
//! Frames do not depend on how the stream was cut into chunks, nor on where the caller held.
//! For `gzip`, which wraps this, the stream also stops in front of a line that begins with
//! [`MEMBER_MAGIC`]; that costs one comparison a line and nothing to those who don't ask for it.
//! Leaves to others what a line means, and every await: nothing borrowed from `chunk` stays.
//!
//! Invariant: `carry_len() <= line_bytes_max + 1 + (bytes fed while frames are held)`; the 1 is a
//! `\r` whose `\n` has not come yet. A caller which stops feeding while it holds, as it should, is
//! therefore bounded by one line and one chunk.

use memchr::memchr;

/// An empty carry that is larger than this gives its memory back, in bytes.
const KEEP_BYTES_MAX: usize = 4096;

/// A gzip member begins with these two bytes.
pub(crate) const MEMBER_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What the caller says to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Taken; give me the next one.
    Next,
    /// Not taken: this frame and all behind it stay, and are offered again by the next feed.
    Hold,
}

/// What the stream is cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A line that is not blank, without its line end.
    Line(&'a [u8]),
    /// A line has passed the bound. Comes at once; what is left of the line is dropped.
    TooLong,
}

/// Where [`Lines::cut`] stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// At the end of the chunk.
    End,
    /// At a frame that was held; the chunk is kept.
    Held,
    /// Where a member begins: its bytes are [`Lines::take_carry`], then the chunk from `taken` on.
    Member { taken: usize },
}

/// Framing state of one connection.
#[derive(Debug)]
pub struct Lines {
    line_bytes_max: usize,
    /// Lines that were held, and behind them the begin of a line without its `\n`.
    carry: Vec<u8>,
    /// Where the carry's first byte that still counts stands.
    start: usize,
    held: Held,
    /// Inside a line that is too long: drop up to its `\n`. The carry is then empty.
    discarding: bool,
}

/// What the caller held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    /// The carry is the begin of a line, or empty, and need not be searched for a `\n` again.
    Nothing,
    /// The carry begins with a whole line.
    Line,
    /// A [`Frame::TooLong`], which comes before everything in the carry.
    TooLong,
}

impl Lines {
    /// `line_bytes_max` does not count the line end.
    #[must_use]
    pub const fn new(line_bytes_max: usize) -> Self {
        Lines {
            line_bytes_max,
            carry: Vec::new(),
            start: 0,
            held: Held::Nothing,
            discarding: false,
        }
    }

    /// Gives whole lines to `on` in order, without a copy where they don't begin in the carry, and
    /// keeps the rest. Returns [`Flow::Hold`] if `on` held; then feed `&[]` until it takes again.
    pub fn feed(&mut self, chunk: &[u8], on: impl FnMut(Frame<'_>) -> Flow) -> Flow {
        match self.cut::<false>(chunk, on) {
            Cut::Held => Flow::Hold,
            Cut::End | Cut::Member { .. } => Flow::Next,
        }
    }

    /// As [`Lines::feed`]; with `MEMBERS` it stops where a line begins with [`MEMBER_MAGIC`].
    /// Needs a `line_bytes_max` of at least 1 then: half of the magic may be the rest of a chunk.
    #[inline]
    pub(crate) fn cut<const MEMBERS: bool>(
        &mut self,
        chunk: &[u8],
        mut on: impl FnMut(Frame<'_>) -> Flow,
    ) -> Cut {
        match self.offer_held::<MEMBERS>(&mut on) {
            Cut::End => {}
            Cut::Held => {
                self.keep(chunk);
                return Cut::Held;
            }
            Cut::Member { .. } => return Cut::Member { taken: 0 },
        }
        let mut rest = chunk;
        if self.discarding {
            match memchr(b'\n', rest) {
                None => return Cut::End,
                Some(end) => rest = &rest[end + 1..],
            }
            self.discarding = false;
        }
        if !self.carry.is_empty() {
            if MEMBERS && *self.carry == MEMBER_MAGIC[..1] && rest.first() == Some(&MEMBER_MAGIC[1])
            {
                return Cut::Member { taken: 0 };
            }
            // The carry is the begin of one line here.
            let end = memchr(b'\n', rest);
            let more = &rest[..end.unwrap_or(rest.len())];
            rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
            let last = more.last().or(self.carry.last());
            if self.passes_bound(self.carry.len() + more.len(), last) {
                self.empty();
                self.discarding = end.is_none();
                if on(Frame::TooLong) == Flow::Hold {
                    return self.hold(Held::TooLong, rest);
                }
            } else {
                self.carry.extend_from_slice(more);
                if end.is_none() {
                    return Cut::End;
                }
                if offer(&self.carry, &mut on) == Flow::Hold {
                    self.carry.push(b'\n');
                    return self.hold(Held::Line, rest);
                }
                self.empty();
            }
        }
        loop {
            if MEMBERS && rest.starts_with(&MEMBER_MAGIC) {
                return Cut::Member { taken: chunk.len() - rest.len() };
            }
            let Some(end) = memchr(b'\n', rest) else { break };
            let line = &rest[..end];
            let flow = if self.passes_bound(end, line.last()) {
                on(Frame::TooLong)
            } else {
                offer(line, &mut on)
            };
            if flow == Flow::Hold {
                return self.hold(Held::Line, rest);
            }
            rest = &rest[end + 1..];
        }
        if self.passes_bound(rest.len(), rest.last()) {
            self.discarding = true;
            if on(Frame::TooLong) == Flow::Hold {
                return self.hold(Held::TooLong, &[]);
            }
        } else {
            self.carry.extend_from_slice(rest);
        }
        Cut::End
    }

    /// At the end of the stream: the unterminated rest is a line, too. On [`Flow::Hold`] call again.
    pub fn finish(&mut self, mut on: impl FnMut(Frame<'_>) -> Flow) -> Flow {
        if self.offer_held::<false>(&mut on) == Cut::Held
            || offer(&self.carry, &mut on) == Flow::Hold
        {
            return Flow::Hold;
        }
        self.discarding = false;
        self.empty();
        Flow::Next
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn carry_len(&self) -> usize {
        self.carry.len() - self.start
    }

    /// True between lines when nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.carry.is_empty() && self.held == Held::Nothing && !self.discarding
    }

    /// Memory that the carry occupies, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.carry.capacity()
    }

    /// Gives the bytes away that are kept: the begin of a member, after [`Cut::Member`].
    pub(crate) fn take_carry(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.carry)
    }

    /// Offers what an earlier call held.
    fn offer_held<const MEMBERS: bool>(&mut self, on: &mut impl FnMut(Frame<'_>) -> Flow) -> Cut {
        match self.held {
            Held::Nothing => return Cut::End,
            Held::TooLong if on(Frame::TooLong) == Flow::Hold => return Cut::Held,
            Held::TooLong | Held::Line => self.held = Held::Line,
        }
        let member = loop {
            let rest = &self.carry[self.start..];
            if MEMBERS && rest.starts_with(&MEMBER_MAGIC) {
                break true;
            }
            let Some(end) = memchr(b'\n', rest) else { break false };
            let line = &rest[..end];
            let flow = if self.passes_bound(end, line.last()) {
                on(Frame::TooLong)
            } else {
                offer(line, on)
            };
            if flow == Flow::Hold {
                // Moves no more bytes than were consumed: linear over the carry's life.
                if self.start >= self.carry.len() / 2 {
                    self.carry.drain(..self.start);
                    self.start = 0;
                }
                return Cut::Held;
            }
            self.start += end + 1;
        };
        self.held = Held::Nothing;
        self.carry.drain(..self.start);
        self.start = 0;
        if member {
            return Cut::Member { taken: 0 };
        }
        self.carry.shrink_to(KEEP_BYTES_MAX);
        if self.passes_bound(self.carry.len(), self.carry.last()) {
            self.empty();
            self.discarding = true;
            if on(Frame::TooLong) == Flow::Hold {
                return self.hold(Held::TooLong, &[]);
            }
        }
        Cut::End
    }

    fn hold(&mut self, what: Held, behind: &[u8]) -> Cut {
        self.held = what;
        self.keep(behind);
        Cut::Held
    }

    /// Appends behind what is held.
    fn keep(&mut self, mut bytes: &[u8]) {
        if self.discarding {
            match memchr(b'\n', bytes) {
                None => return,
                Some(end) => bytes = &bytes[end + 1..],
            }
            self.discarding = false;
        }
        self.carry.extend_from_slice(bytes);
    }

    /// Whether a line of `len` bytes is too long, complete or not. A last `\r` may yet turn out to
    /// belong to the line end.
    fn passes_bound(&self, len: usize, last: Option<&u8>) -> bool {
        len > self.line_bytes_max && len - usize::from(last == Some(&b'\r')) > self.line_bytes_max
    }

    /// Empties the carry, and gives its memory back if that is large.
    fn empty(&mut self) {
        self.start = 0;
        self.carry.clear();
        if self.carry.capacity() > KEEP_BYTES_MAX {
            self.carry = Vec::new();
        }
    }
}

/// Drops the `\r` and skips a blank line.
fn offer(line: &[u8], on: &mut impl FnMut(Frame<'_>) -> Flow) -> Flow {
    match line.strip_suffix(b"\r").unwrap_or(line) {
        b"" => Flow::Next,
        line => on(Frame::Line(line)),
    }
}
