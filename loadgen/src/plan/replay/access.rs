//! A line of an Apache or nginx access log, and the request that it recorded.
//!
//! ```text
//! 192.0.2.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a.gif?x=1 HTTP/1.0" 200 2326 "ref" "agent"
//! └─ host, ident, user: not looked at            └─ request                 │   └ bytes  └ combined
//!                    └─ the first [time]                                    └ status
//! ```
//!
//! What comes before the time is only stepped over, so that a virtual host in front, a user with
//! blanks, and an IPv6 address, in brackets or not, make no difference. The request's escapes
//! (`\"`, `\\`, `\xHH`) are undone.
//! Pure. Invariant: a [`Request`]'s target can stand in a request line: it begins with `/` or is
//! `*`, and has neither blanks nor control characters.

use memchr::{memchr, memchr2};

use super::moment;
use super::ndjson::RECORDED_AT;

/// A line, cut into what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// ns since 1970.
    pub at_ns: i64,
    /// Between the quotes, escapes and all.
    pub request: &'a [u8],
    /// 100 to 999; `None` where the log has none (`-` or `000`).
    pub status: Option<u16>,
    /// Bytes of the answer; `None` for `-`.
    pub bytes: Option<u64>,
    /// A referrer and a user agent follow, in quotes.
    pub is_combined: bool,
}

/// Why a line is no entry of an access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnEntry {
    /// Nothing in brackets is a time.
    NoTime,
    /// What follows the time is not a request, a status and a size.
    Malformed,
}

/// Cuts a line.
///
/// # Errors
/// It is none.
pub fn entry(line: &[u8]) -> Result<Entry<'_>, NotAnEntry> {
    let (at_ns, rest) = time(line).ok_or(NotAnEntry::NoTime)?;
    behind_time(at_ns, rest).ok_or(NotAnEntry::Malformed)
}

/// The first time in brackets, and what comes behind it.
fn time(line: &[u8]) -> Option<(i64, &[u8])> {
    let mut rest = line;
    loop {
        rest = &rest[memchr(b'[', rest)? + 1..];
        let end = memchr(b']', rest)?;
        if let Some(at_ns) = moment::access_log(&rest[..end]) {
            return Some((at_ns, &rest[end + 1..]));
        }
    }
}

fn behind_time(at_ns: i64, rest: &[u8]) -> Option<Entry<'_>> {
    let rest = rest.strip_prefix(b" \"")?;
    let end = quote(rest)?;
    let request = &rest[..end];
    let rest = rest[end + 1..].strip_prefix(b" ")?;
    let (status, rest) = word(rest);
    let status = match status {
        b"-" | b"000" => None,
        &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_digit) => {
            let digit = |byte: u8| u16::from(byte - b'0');
            Some(digit(a) * 100 + digit(b) * 10 + digit(c))
        }
        _ => return None,
    };
    let (bytes, rest) = word(rest.strip_prefix(b" ")?);
    let bytes = match bytes {
        b"-" => None,
        digits => Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
    };
    if !rest.is_empty() && rest[0] != b' ' {
        return None;
    }
    let is_combined = quoted(rest).and_then(quoted).is_some();
    let at_ns = recorded_at(rest).unwrap_or(at_ns);
    let status = status.filter(|status| *status >= 100);
    Some(Entry { at_ns, request, status, bytes, is_combined })
}

/// The exact time that `record` puts behind an entry.
fn recorded_at(rest: &[u8]) -> Option<i64> {
    let (name, digits) = rest.split_at(memchr::memrchr(b'=', rest)? + 1);
    let name = name.strip_suffix(b"=")?.strip_suffix(RECORDED_AT.as_bytes())?;
    let is_last = digits.len() == 19 && name.ends_with(b" ");
    is_last.then(|| moment::epoch(digits)).flatten()
}

/// Up to the next blank.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(memchr(b' ', text).unwrap_or(text.len()))
}

/// Where the text ends: the first quote that is not escaped.
fn quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        match text[at] {
            b'"' => return Some(at),
            _ => at += 2,
        }
    }
}

/// Behind a blank and a text in quotes.
fn quoted(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b" \"")?;
    Some(&text[quote(text)? + 1..])
}

/// What can be asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Of `METHOD target`, how much is the method.
    pub method_bytes: u8,
    /// What was answered; 0 where the log does not say.
    pub status: u16,
}

/// Methods are letters; longer ones are not in use.
const METHOD_BYTES_MAX: usize = 20;

impl Entry<'_> {
    /// Appends `METHOD target`; `None`, and nothing appended, where none was recorded that could be
    /// sent again: a client that said nothing or nonsense, or asked for a tunnel.
    pub fn ask_again(&self, out: &mut Vec<u8>) -> Option<Request> {
        let begin = out.len();
        let request = self.append_request(out);
        if request.is_none() {
            out.truncate(begin);
        }
        request
    }

    fn append_request(&self, out: &mut Vec<u8>) -> Option<Request> {
        let (method, rest) = word(self.request);
        let is_method = (1..=METHOD_BYTES_MAX).contains(&method.len())
            && method.iter().all(u8::is_ascii_uppercase)
            && method != b"CONNECT";
        let target = rest.strip_prefix(b" ").filter(|_| is_method)?;
        // HTTP/0.9 has no version.
        let target = match target.iter().rposition(|byte| *byte == b' ') {
            Some(end) if target[end + 1..].starts_with(b"HTTP/") => &target[..end],
            _ => target,
        };
        out.extend_from_slice(method);
        out.push(b' ');
        let target_at = out.len();
        let mut rest = absolute(target);
        while let Some((&byte, behind)) = rest.split_first() {
            let (byte, behind) = match (byte, behind) {
                (b'\\', &[b'x' | b'X', high, low, ref behind @ ..])
                    if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                {
                    (hex(high) << 4 | hex(low), behind)
                }
                (b'\\', &[byte, ref behind @ ..]) => (unescaped(byte), behind),
                (byte, behind) => (byte, behind),
            };
            match byte {
                // Neither a request line nor a URI can have these as they are.
                0..=b' ' | b'#' | 0x7f.. => {
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    let digit = |nibble: u8| DIGITS[usize::from(nibble)];
                    out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
                }
                byte => out.push(byte),
            }
            rest = behind;
        }
        let is_target = match &out[target_at..] {
            [b'/', ..] => true,
            [b'*'] => method == b"OPTIONS",
            _ => false,
        };
        let method_bytes = u8::try_from(method.len()).ok()?;
        is_target.then_some(Request { method_bytes, status: self.status.unwrap_or(0) })
    }
}

/// `http://host/path` as a proxy's log has it, without the host.
fn absolute(target: &[u8]) -> &[u8] {
    let host = target.strip_prefix(b"http://").or_else(|| target.strip_prefix(b"https://"));
    match host {
        Some(host) => &host[memchr2(b'/', b'?', host).unwrap_or(host.len())..],
        None => target,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        b'v' => 11,
        byte => byte,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: &str = "[10/Oct/2000:13:55:36 -0700]";

    fn asked(line: &str) -> Option<(String, Request)> {
        let mut out = b"before".to_vec();
        let request = entry(line.as_bytes()).unwrap().ask_again(&mut out);
        let text = String::from_utf8(out.split_off(6)).unwrap();
        assert_eq!(out, b"before");
        assert_eq!(request.is_none(), text.is_empty());
        request.map(|request| (text, request))
    }

    fn request(text: &str) -> Option<String> {
        asked(&format!("h - - {TIME} \"{text}\" 200 5")).map(|(text, _)| text)
    }

    #[test]
    fn common_and_combined_logs_of_all_kinds_are_cut() {
        for (line, status, bytes, is_combined) in [
            (
                r#"127.0.0.1 - frank TIME "GET /apache_pb.gif HTTP/1.0" 200 2326"#,
                Some(200),
                Some(2326),
                false,
            ),
            (r#"::1 - - TIME "GET / HTTP/1.1" 304 -"#, Some(304), None, false),
            (r#"[2001:db8::1] - - TIME "GET / HTTP/1.1" 304 0"#, Some(304), Some(0), false),
            (r#"h - a [b] c TIME "-" 408 0 "-" "-""#, Some(408), Some(0), true),
            (
                r#"v.example:80 h - - TIME "GET / HTTP/1.1" 200 1 "http://a/\"x\"" "Mozilla [5.0] \\""#,
                Some(200),
                Some(1),
                true,
            ),
            (r#"h - - TIME "GET /\"[x] HTTP/1.1" - - "-""#, None, None, false),
            (
                r#"h - - TIME "GET / HTTP/1.1" 200 1 "-" "curl" 0.004 "10.0.0.1, -""#,
                Some(200),
                Some(1),
                true,
            ),
            (r#"h - - TIME "" 000 0"#, None, Some(0), false),
            (r#"TIME "GET /" 499 0"#, Some(499), Some(0), false),
        ] {
            let line = line.replace("TIME", TIME);
            let entry = entry(line.as_bytes()).unwrap_or_else(|why| panic!("{why:?}: {line}"));
            let cut = (entry.status, entry.bytes, entry.is_combined);
            assert_eq!(cut, (status, bytes, is_combined), "{line}");
            assert_eq!(entry.at_ns, moment::rfc3339(b"2000-10-10T20:55:36Z").unwrap());
        }
    }

    #[test]
    fn an_exact_time_behind_an_entry_is_the_time() {
        let line = format!("h - - {TIME} \"GET / HTTP/1.1\" 200 0 \"-\" \"a\" recorded_at=");
        let at_ns = |end: &str| entry((line.clone() + end).as_bytes()).unwrap().at_ns;
        assert_eq!(at_ns("1700000000123456789"), 1_700_000_000_123_456_789);
        for end in ["", "170", "170000000012345678x"] {
            assert_eq!(at_ns(end), moment::rfc3339(b"2000-10-10T20:55:36Z").unwrap());
        }
    }

    #[test]
    fn what_is_no_entry_is_told() {
        for line in ["", "-", "h - - [10/Oct/2000] \"GET / HTTP/1.0\" 200 1", "{\"a\":[1]}"] {
            assert_eq!(entry(line.as_bytes()), Err(NotAnEntry::NoTime), "{line}");
        }
        for line in [
            "h TIME",
            "h TIME \"GET",
            "h TIME \"GET /\\\" 200 1",
            "h TIME \"GET /\" 20 1",
            "h TIME \"GET /\" abc 1",
            "h TIME \"GET /\" 200",
            "h TIME \"GET /\" 200 x",
            "h TIME \"GET /\" 200 -1",
            "h TIME \"GET /\"200 1",
            "h TIMEx\"GET /\" 200 1",
        ] {
            let line = line.replace("TIME", TIME);
            assert_eq!(entry(line.as_bytes()), Err(NotAnEntry::Malformed), "{line}");
        }
    }

    #[test]
    fn a_request_is_made_fit_to_be_sent_again() {
        for (text, expected) in [
            ("GET / HTTP/1.1", Some("GET /")),
            ("POST /a?b=c&d=%20 HTTP/2.0", Some("POST /a?b=c&d=%20")),
            ("GET /old", Some("GET /old")),
            ("OPTIONS * HTTP/1.1", Some("OPTIONS *")),
            ("GET http://example.org/a?b HTTP/1.1", Some("GET /a?b")),
            (r"GET /\x22q\x5C\xC3\xA9 HTTP/1.1", Some("GET /\"q\\%C3%A9")),
            (r#"GET /\"q\\x\n HTTP/1.1"#, Some("GET /\"q\\x%0A")),
            (r"GET /a\xZZ HTTP/1.1", Some("GET /axZZ")),
            ("GET /a b#c HTTP/1.1", Some("GET /a%20b%23c")),
            ("GET /é HTTP/1.1", Some("GET /%C3%A9")),
            ("GET * HTTP/1.1", None),
            ("-", None),
            ("", None),
            ("GET", None),
            ("GET ", None),
            ("GET relative HTTP/1.1", None),
            ("GET http://example.org HTTP/1.1", None),
            ("CONNECT a:443 HTTP/1.1", None),
            (r"\x16\x03\x01 / HTTP/1.1", None),
            ("get / HTTP/1.1", None),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1", None),
        ] {
            assert_eq!(request(text).as_deref(), expected, "{text}");
        }
        let (text, request) = asked(&format!("h - - {TIME} \"HEAD /x HTTP/1.1\" 404 -")).unwrap();
        assert_eq!((text.as_str(), request.method_bytes, request.status), ("HEAD /x", 4, 404));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_a_target_never_breaks_a_request_line(
            text in prop::collection::vec(any::<u8>(), 0..40),
            prefix in prop::sample::select(vec!["GET /", "GET ", "", "GET /\\", "GET /\\x"]),
        ) {
            let _ = entry(&text);
            let line = [format!("h {TIME} \"{prefix}").as_bytes(), &text, b" HTTP/1.1\" 200 1"].concat();
            if let Ok(entry) = entry(&line) {
                let mut out = Vec::new();
                if entry.ask_again(&mut out).is_some() {
                    let target = &out[4..];
                    prop_assert!(out.starts_with(b"GET "));
                    prop_assert!(target.iter().all(|byte| (0x21..0x7f).contains(byte)));
                }
            }
        }

        #[test]
        fn any_target_written_as_a_server_logs_it_comes_back(
            target in "/[!-~]{0,20}",
            status in 100u16..600,
            bytes in any::<u64>(),
            style in 0u8..2,
        ) {
            // Apache puts a backslash before a quote, nginx writes it in hexadecimal.
            let logged: String = target.chars().map(|letter| match (letter, style) {
                ('"' | '\\', 0) => format!("\\{letter}"),
                ('"' | '\\', _) => format!("\\x{:02X}", letter as u32),
                (letter, _) => letter.to_string(),
            }).collect();
            let line = format!("::1 - \"u\" {TIME} \"PUT {logged} HTTP/1.1\" {status} {bytes}");
            let entry = entry(line.as_bytes()).unwrap();
            prop_assert_eq!((entry.status, entry.bytes), (Some(status), Some(bytes)));
            let mut out = Vec::new();
            let request = entry.ask_again(&mut out).unwrap();
            prop_assert_eq!(request, Request { method_bytes: 3, status });
            let expected = format!("PUT {}", target.replace('#', "%23"));
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
