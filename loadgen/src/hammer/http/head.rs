//! The head of a response: the status, and how its body ends.
//!
//! Pure. Owns what is read out of a whole head, by httparse, and which heads are contradictions: two
//! lengths, a length beside chunks, chunks of HTTP/1.0, chunks within something else. Each of them
//! lets two readers of one stream disagree about where a response ends, so none is guessed at.
//! Leaves the bytes to [`super::response`].
//! Invariant: the same bytes give the same [`Head`], which is what lets [`Memo`] compare instead of
//! parse.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status};

use crate::hammer::Broken;

/// No head is longer, its interim responses and trailers apart.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields in a head.
const FIELDS_MAX: usize = 128;
/// How every response begins, in the versions that are spoken here.
pub(super) const BEGINNING: &[u8] = b"HTTP/1.";

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// 100 to 999.
    pub(super) status: u16,
    /// The connection goes on behind this response.
    pub(super) keeps_alive: bool,
    /// What the fields say of the body; the status and the request's method may say that there is
    /// none.
    pub(super) framing: Framing,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl Head {
    /// Reads a whole head, up to and with its blank line.
    ///
    /// # Errors
    /// It cannot be understood, or contradicts itself.
    pub(super) fn parse(bytes: &[u8]) -> Result<Head, Broken> {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let end = ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut fields,
        );
        let (Ok(Status::Complete(end)), Some(status), Some(minor)) =
            (end, response.code, response.version)
        else {
            return Err(Broken::Mismatch);
        };
        if end != bytes.len() || status < 100 {
            return Err(Broken::Mismatch);
        }
        let (mut length, mut coding) = (None, None);
        let (mut asks_close, mut asks_keep) = (false, false);
        for field in response.headers {
            let name = field.name;
            // Of all names only these lengths can matter.
            match name.len() {
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let said = content_length(field.value)?;
                    if length.replace(said).is_some_and(|before| before != said) {
                        return Err(Broken::Mismatch);
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    coding = Some(add_coding(coding, field.value)?);
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for token in tokens(field.value) {
                        asks_close |= token.eq_ignore_ascii_case(b"close");
                        asks_keep |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ => {}
            }
        }
        let framing = match (coding, length) {
            (Some(_), Some(_)) => return Err(Broken::Mismatch),
            (Some(_), None) if minor == 0 => return Err(Broken::Mismatch),
            (Some(Coding::Chunked), None) => Framing::Chunked,
            (Some(Coding::Other) | None, None) => Framing::UntilClose,
            (None, Some(length)) => Framing::Length(length),
        };
        let keeps_alive = if minor == 0 { asks_keep && !asks_close } else { !asks_close };
        Ok(Head { status, keeps_alive, framing })
    }

    /// An interim response, which another one follows.
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200 && self.status != SWITCHING_PROTOCOLS
    }

    /// How the body of the answer to a request ends; `is_head` says that it was a HEAD.
    pub(super) fn body(&self, is_head: bool) -> Framing {
        match self.status {
            _ if is_head => Framing::Length(0),
            100..200 | 204 | 304 => Framing::Length(0),
            _ => self.framing,
        }
    }
}

/// What follows speaks another protocol.
pub(super) const SWITCHING_PROTOCOLS: u16 = 101;

/// The codings of a body, as far as its end depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// The last one.
    Chunked,
    Other,
}

/// One number, or several equal ones (RFC 9110, 8.6).
fn content_length(value: &[u8]) -> Result<u64, Broken> {
    let mut length = None;
    for part in value.split(|&byte| byte == b',') {
        let part = part.trim_ascii();
        if part.is_empty() || part.len() > 19 || !part.iter().all(u8::is_ascii_digit) {
            return Err(Broken::Mismatch);
        }
        let said = part.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        if length.replace(said).is_some_and(|before| before != said) {
            return Err(Broken::Mismatch);
        }
    }
    length.ok_or(Broken::Mismatch)
}

/// Chunks come last and once, or their end is not the body's (RFC 9112, 6.1).
fn add_coding(mut last: Option<Coding>, value: &[u8]) -> Result<Coding, Broken> {
    for token in tokens(value) {
        if last == Some(Coding::Chunked) {
            return Err(Broken::Mismatch);
        }
        let is_chunked = token.eq_ignore_ascii_case(b"chunked");
        last = Some(if is_chunked { Coding::Chunked } else { Coding::Other });
    }
    last.ok_or(Broken::Mismatch)
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Where the first head in `bytes` ends, behind its blank line; nothing before `from` ends it.
pub(super) fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at).find_map(|at| {
        match bytes[at + 1..] {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        }
    })
}

/// The head that was read last. A server says the same one again and again, until the second in its
/// Date is another, so most heads are compared as a block and never parsed.
#[derive(Debug, Default)]
pub(super) struct Memo {
    bytes: Vec<u8>,
    head: Option<Head>,
}

/// Longer ones are parsed each time.
const MEMO_BYTES_MAX: usize = 1024;

impl Memo {
    /// The head with which `bytes` begin and its length, if it is the same again.
    pub(super) fn look_up(&self, bytes: &[u8]) -> Option<(Head, usize)> {
        let head = self.head?;
        bytes.starts_with(&self.bytes).then_some((head, self.bytes.len()))
    }

    /// Reads a whole head and keeps it.
    ///
    /// # Errors
    /// Those of [`Head::parse`].
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<Head, Broken> {
        let head = Head::parse(bytes)?;
        if bytes.len() <= MEMO_BYTES_MAX {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.head = Some(head);
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> Result<Head, Broken> {
        Head::parse(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes())
    }

    fn old(fields: &str) -> Result<Head, Broken> {
        Head::parse(format!("HTTP/1.0 200 OK\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn the_fields_say_how_a_body_ends() {
        for (fields, framing) in [
            ("Content-Length: 5\r\n", Framing::Length(5)),
            ("content-LENGTH:  0005 \r\n", Framing::Length(5)),
            ("Content-Length: 5, 5\r\nContent-Length: 5\r\n", Framing::Length(5)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("Transfer-Encoding: gzip, Chunked\r\n", Framing::Chunked),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Framing::Chunked),
            ("Transfer-Encoding: gzip\r\n", Framing::UntilClose),
            ("", Framing::UntilClose),
        ] {
            assert_eq!(head(fields).unwrap().framing, framing, "{fields}");
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_a_mismatch() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding:\r\n",
            "Content-Length : 5\r\n",
            " Content-Length: 5\r\n",
            "A: b\r\n folded\r\n",
            "no colon\r\n",
        ] {
            assert_eq!(head(fields), Err(Broken::Mismatch), "{fields}");
        }
        assert_eq!(old("Transfer-Encoding: chunked\r\n"), Err(Broken::Mismatch));
        for line in ["HTTP/1.1 20 OK", "HTTP/2 200 OK", "HTTP/1.1 099 no", "ICY 200 OK"] {
            let text = format!("{line}\r\n\r\n");
            assert_eq!(Head::parse(text.as_bytes()), Err(Broken::Mismatch), "{line}");
        }
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        assert_eq!(head(&many), Err(Broken::Mismatch));
        assert!(head(&"A: b\r\n".repeat(FIELDS_MAX)).is_ok());
    }

    #[test]
    fn connections_go_on_as_their_version_has_it() {
        assert!(head("").unwrap().keeps_alive);
        assert!(!head("Connection: Close\r\n").unwrap().keeps_alive);
        assert!(!head("Connection: x, close\r\n").unwrap().keeps_alive);
        assert!(!old("").unwrap().keeps_alive);
        assert!(old("Connection: Keep-Alive\r\n").unwrap().keeps_alive);
        assert!(!old("Connection: keep-alive, close\r\n").unwrap().keeps_alive);
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        let with = |status: u16| {
            let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 7\r\n\r\n");
            Head::parse(text.as_bytes()).unwrap()
        };
        for status in [101, 204, 304] {
            assert_eq!(with(status).body(false), Framing::Length(0), "{status}");
        }
        assert_eq!(with(200).body(false), Framing::Length(7));
        assert_eq!(with(200).body(true), Framing::Length(0));
        assert!(with(100).is_interim() && with(103).is_interim());
        assert!(!with(101).is_interim() && !with(200).is_interim());
    }

    #[test]
    fn the_same_head_again_is_not_parsed() {
        let mut memo = Memo::default();
        assert_eq!(memo.look_up(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        let one = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let end = head_end(one, 0).unwrap();
        let head = memo.parse(&one[..end]).unwrap();
        assert_eq!(memo.look_up(one), Some((head, end)));
        assert_eq!(memo.look_up(&one[..end - 1]), None);
        assert_eq!(memo.look_up(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!"), None);
    }

    #[test]
    fn a_head_ends_at_its_first_blank_line() {
        for (text, end) in [
            ("a\r\n\r\nb\r\n\r\n", Some(5)),
            ("a\n\nb", Some(3)),
            ("a\n\r\nb", Some(4)),
            ("a\r\n\r", None),
            ("a\r\nb\r\n", None),
            ("", None),
        ] {
            assert_eq!(head_end(text.as_bytes(), 0), end, "{text:?}");
        }
    }
}
