//! Responses cut out of a connection's byte stream.
//!
//! Pure. Owns what is left of an unfinished head or chunk line, and how far a body has come. Bodies
//! are counted off and never kept. Leaves to the hammer whether a response was asked for.
//! Bounds: a head has [`HEAD_BYTES_MAX`] bytes, so have all trailers; a chunk's line has
//! [`CHUNK_LINE_BYTES_MAX`]; [`INTERIM_MAX`] interim responses come before an answer.
//! Invariant: any split of the bytes gives the same responses and the same end.

use super::head::{BEGINNING, Framing, HEAD_BYTES_MAX, Head, Memo, SWITCHING_PROTOCOLS, head_end};
use crate::hammer::Broken;

/// A chunk's size with its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// Digits of a chunk's size: 15 of them are a whole exbibyte.
const CHUNK_DIGITS_MAX: u32 = 15;
/// Interim responses to a request.
const INTERIM_MAX: u32 = 64;

/// A whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// 101, or 200 to 999.
    pub(super) status: u16,
    /// Another request may follow on this connection.
    pub(super) keeps_alive: bool,
}

/// The responses of one connection.
#[derive(Debug, Default)]
pub(super) struct Responses {
    state: State,
    /// Of the head that is not whole yet.
    tail: Vec<u8>,
    /// Interim responses so far.
    interim: u32,
    /// The response under way.
    reply: Option<Reply>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of body.
    Body(u64),
    /// The digits of a chunk's size.
    Size {
        digits: u32,
        size: u64,
    },
    /// What stands behind the size: `taken` bytes of the line so far.
    Extension {
        size: u64,
        taken: usize,
    },
    /// The end of a size's line.
    SizeEnd {
        size: u64,
    },
    /// Bytes of a chunk.
    Chunk(u64),
    /// Of the line end behind a chunk: its first byte is there.
    ChunkEnd {
        has_return: bool,
    },
    /// Trailers: `taken` bytes of all, `line` of this one; the latest was a carriage return.
    Trailers {
        taken: usize,
        line: usize,
        has_return: bool,
    },
    UntilClose,
}

impl Responses {
    /// Between two responses.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Head && self.tail.is_empty() && self.interim == 0
    }

    /// Takes the next whole response off `input`, or all of it. `is_head` says that it answers a
    /// HEAD.
    ///
    /// # Errors
    /// What comes is no response, contradicts itself, or exceeds a bound.
    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        memo: &mut Memo,
        is_head: bool,
    ) -> Result<Option<Reply>, Broken> {
        if self.state == State::Head {
            let Some(head) = self.take_head(input, memo)? else { return Ok(None) };
            let reply = Reply { status: head.status, keeps_alive: head.keeps_alive };
            match head.body(is_head) {
                // The usual end: all of it is here.
                Framing::Length(length) if length <= input.len() as u64 => {
                    #[expect(clippy::cast_possible_truncation, reason = "not beyond the input")]
                    let rest = &input[length as usize..];
                    *input = rest;
                    return Ok(Some(finished(reply)));
                }
                Framing::Length(length) => self.state = State::Body(length),
                Framing::Chunked => self.state = State::Size { digits: 0, size: 0 },
                Framing::UntilClose => self.state = State::UntilClose,
            }
            self.reply = Some(reply);
        }
        if !self.take_body(input)? {
            return Ok(None);
        }
        self.state = State::Head;
        Ok(self.reply.take().map(finished))
    }

    /// The stream has ended: the response that this completes, if it was to end so.
    pub(super) fn end(&mut self) -> Option<Reply> {
        let reply = self.reply.take().filter(|_| self.state == State::UntilClose)?;
        Some(Reply { keeps_alive: false, ..reply })
    }

    /// Takes a whole head that is no interim response.
    fn take_head(&mut self, input: &mut &[u8], memo: &mut Memo) -> Result<Option<Head>, Broken> {
        loop {
            let Some(head) = self.take_any_head(input, memo)? else { return Ok(None) };
            if !head.is_interim() {
                self.interim = 0;
                return Ok(Some(head));
            }
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(Broken::Mismatch);
            }
        }
    }

    fn take_any_head(
        &mut self,
        input: &mut &[u8],
        memo: &mut Memo,
    ) -> Result<Option<Head>, Broken> {
        if self.tail.is_empty() {
            if let Some((head, end)) = memo.look_up(input) {
                *input = &input[end..];
                return Ok(Some(head));
            }
            check_beginning(input)?;
            if let Some(end) = head_end(input, 0) {
                if end > HEAD_BYTES_MAX {
                    return Err(Broken::Mismatch);
                }
                let head = memo.parse(&input[..end])?;
                *input = &input[end..];
                return Ok(Some(head));
            }
        }
        let known = self.tail.len();
        let room = HEAD_BYTES_MAX + 1 - known;
        self.tail.extend_from_slice(&input[..input.len().min(room)]);
        check_beginning(&self.tail)?;
        // A line end that was the last byte or the last but one may show now what it ends.
        let Some(end) = head_end(&self.tail, known.saturating_sub(2)) else {
            if self.tail.len() > HEAD_BYTES_MAX {
                return Err(Broken::Mismatch);
            }
            *input = &[];
            return Ok(None);
        };
        if end > HEAD_BYTES_MAX {
            return Err(Broken::Mismatch);
        }
        let head = memo.parse(&self.tail[..end])?;
        *input = &input[end - known..];
        self.tail.clear();
        Ok(Some(head))
    }

    /// Takes bytes of the body; whether it is whole.
    fn take_body(&mut self, input: &mut &[u8]) -> Result<bool, Broken> {
        loop {
            match &mut self.state {
                State::Head => unreachable!("a body is under way"),
                State::UntilClose => {
                    *input = &[];
                    return Ok(false);
                }
                State::Body(left) => {
                    skip(input, left);
                    return Ok(*left == 0);
                }
                State::Chunk(left) => {
                    skip(input, left);
                    if *left > 0 {
                        return Ok(false);
                    }
                    self.state = State::ChunkEnd { has_return: false };
                }
                state => {
                    let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
                    *input = rest;
                    match step(*state, byte)? {
                        Some(next) => *state = next,
                        None => return Ok(true),
                    }
                }
            }
        }
    }
}

/// Nothing can follow another protocol.
fn finished(reply: Reply) -> Reply {
    Reply { keeps_alive: reply.keeps_alive && reply.status != SWITCHING_PROTOCOLS, ..reply }
}

fn check_beginning(bytes: &[u8]) -> Result<(), Broken> {
    let length = bytes.len().min(BEGINNING.len());
    if bytes[..length] == BEGINNING[..length] { Ok(()) } else { Err(Broken::Mismatch) }
}

fn skip(input: &mut &[u8], left: &mut u64) {
    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *input = &input[n..];
    *left -= n as u64;
}

/// What comes behind one byte of a chunked body's frame; `None` behind the last one.
fn step(state: State, byte: u8) -> Result<Option<State>, Broken> {
    Ok(Some(match (state, byte) {
        (State::Size { digits, size }, byte) if byte.is_ascii_hexdigit() => {
            if digits == CHUNK_DIGITS_MAX {
                return Err(Broken::Mismatch);
            }
            let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
            State::Size { digits: digits + 1, size: size << 4 | digit }
        }
        (State::Size { digits: 0, .. }, _) => return Err(Broken::Mismatch),
        (State::Size { size, .. }, b'\r') | (State::Extension { size, .. }, b'\r') => {
            State::SizeEnd { size }
        }
        (State::Size { size, .. }, b';' | b' ' | b'\t') => State::Extension { size, taken: 0 },
        (State::Extension { size, taken }, byte) if byte != b'\n' => {
            if taken == CHUNK_LINE_BYTES_MAX {
                return Err(Broken::Mismatch);
            }
            State::Extension { size, taken: taken + 1 }
        }
        (State::SizeEnd { size: 0 }, b'\n') => {
            State::Trailers { taken: 0, line: 0, has_return: false }
        }
        (State::SizeEnd { size }, b'\n') => State::Chunk(size),
        (State::ChunkEnd { has_return: false }, b'\r') => State::ChunkEnd { has_return: true },
        (State::ChunkEnd { has_return: true }, b'\n') => State::Size { digits: 0, size: 0 },
        (State::Trailers { line: 0, has_return: true, .. }, b'\n') => return Ok(None),
        (State::Trailers { taken, has_return: true, .. }, b'\n') => {
            State::Trailers { taken, line: 0, has_return: false }
        }
        (State::Trailers { has_return: true, .. }, _) => return Err(Broken::Mismatch),
        (State::Trailers { taken, line, .. }, b'\r') => {
            State::Trailers { taken, line, has_return: true }
        }
        (State::Trailers { taken, line, .. }, byte) if byte != b'\n' => {
            if taken == HEAD_BYTES_MAX {
                return Err(Broken::Mismatch);
            }
            State::Trailers { taken: taken + 1, line: line + 1, has_return: false }
        }
        _ => return Err(Broken::Mismatch),
    }))
}

#[cfg(test)]
mod tests;
