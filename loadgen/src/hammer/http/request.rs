//! The bytes of a request.
//!
//! Pure. Owns how a request is written: its line, Host, the fields that were asked for, and those
//! that say who sends what. A request that is always the same is rendered once; of one whose body
//! varies, all but the length and the body.
//! Invariant: what is rendered is one whole request of HTTP/1.1, with a Content-Length wherever it
//! has a body.

use crate::config::{Flow, Header};
use crate::error::Error;
use crate::plan::payloads::Making;
use crate::plan::payloads::blanks::has_names;
use crate::replay::feed::RecordedRequest;

/// Room for the digits of a length and the blank line behind them.
const ENDING_BYTES_MAX: usize = 20 + 4;
/// What stands in a head where a text goes that each message fills in. No head has it otherwise.
const BLANK: u8 = 0;

/// What every request of a flow has in common.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, as they stand in the request's line.
    pub(crate) path: String,
    /// Of the target, as in its URL.
    pub(crate) host: String,
    /// Those that were asked for, in their order.
    pub(crate) fields: Vec<(String, String)>,
    /// `Content-Type` of a body, unless it was asked for.
    pub(crate) content_type: Option<&'static str>,
    /// For `Authorization`.
    pub(crate) token: Option<String>,
}

impl Request {
    /// The requests of `flow`; `content_type` is that of their bodies.
    ///
    /// # Errors
    /// The token cannot be read.
    pub(crate) fn of(flow: &Flow, content_type: Option<&'static str>) -> Result<Request, Error> {
        let blank = |text: &str| match has_names(text) {
            true => char::from(BLANK).to_string(),
            false => text.to_owned(),
        };
        let field = |it: &Header| (it.name.clone(), blank(&it.value));
        Ok(Request {
            method: flow.method().to_owned(),
            path: blank(&flow.http.path),
            host: flow.host(),
            fields: flow.http.headers.iter().map(field).collect(),
            content_type,
            token: flow.token()?,
        })
    }

    /// The head up to where a length or the blank line goes.
    fn opening(&self) -> Vec<u8> {
        format!("{} {} HTTP/1.1\r\n{}", self.method, self.path, self.fields()).into_bytes()
    }

    /// The fields of every request.
    fn fields(&self) -> String {
        let mut head = String::new();
        let mut field = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        let has = |name: &str| self.fields.iter().any(|(it, _)| it.eq_ignore_ascii_case(name));
        if !has("host") {
            field("Host", &self.host);
        }
        for (name, value) in &self.fields {
            field(name, value);
        }
        let agent = concat!("logboom-loadgen/", env!("CARGO_PKG_VERSION"));
        for (name, value) in [("User-Agent", agent), ("Accept", "*/*")] {
            if !has(name) {
                field(name, value);
            }
        }
        if let Some(token) = &self.token {
            field("Authorization", &format!("Bearer {token}"));
        }
        if let Some(content_type) = self.content_type.filter(|_| !has("content-type")) {
            field("Content-Type", content_type);
        }
        head
    }

    /// Requests that a recording says.
    pub(crate) fn recall(&self) -> Recall {
        let typed = Request { content_type: Some("application/json"), ..self.clone() };
        // What was asked of another server is asked below the path of this one.
        let base = self.path.split('?').next().unwrap_or_default().trim_end_matches('/');
        Recall { base: base.to_owned(), fields: self.fields(), head: typed.opening() }
    }

    /// A whole request that is always the same.
    pub(crate) fn render(&self, body: Option<&[u8]>) -> Vec<u8> {
        [&self.head(body), body.unwrap_or_default()].concat()
    }

    /// The head of a request with this body, to its end. One that has none says so where its method
    /// usually has one.
    fn head(&self, body: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = self.opening();
        let length = body.map(<[u8]>::len);
        let says_none = || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH").then_some(0);
        if let Some(length) = length.or_else(says_none) {
            bytes.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// Requests that each message fills in: in the place of every [`BLANK`], and with its line as
    /// the body if it `brings_line`; if not, all have the same `body`.
    pub(crate) fn form(&self, body: Option<&[u8]>, brings_line: bool) -> Form {
        let (bytes, body) = match brings_line {
            true => ([&self.opening()[..], b"Content-Length: "].concat(), Vec::new()),
            // A body may hold anything.
            false => (self.head(body), body.unwrap_or_default().to_vec()),
        };
        let mut pieces: Vec<Vec<u8>> =
            bytes.split(|byte| *byte == BLANK).map(<[u8]>::to_vec).collect();
        pieces.last_mut().expect("a split has a part").extend(body);
        Form { pieces, brings_line }
    }

    /// Requests whose bodies vary.
    pub(crate) fn envelope(&self) -> Envelope {
        let mut head = self.opening();
        head.extend_from_slice(b"Content-Length: ");
        Envelope { head }
    }
}

/// Requests that a recording says: each what it asked, or each a line of it as a body.
#[derive(Clone, Debug)]
pub(crate) struct Recall {
    /// In front of every path.
    base: String,
    fields: String,
    /// Of a request that brings a line, up to the length.
    head: Vec<u8>,
}

impl Recall {
    /// Writes the request that was recorded to `out`, which was empty. Bodies are in no log: where
    /// one is expected, it is empty.
    pub(crate) fn ask(&self, out: &mut Vec<u8>, request: RecordedRequest<'_>) {
        let RecordedRequest { method, target, .. } = request;
        out.clear();
        // `*` is of the server as a whole.
        let base = if target.starts_with('/') { self.base.as_str() } else { "" };
        for part in [method, " ", base, target, " HTTP/1.1\r\n", &self.fields] {
            out.extend_from_slice(part.as_bytes());
        }
        if matches!(method, "POST" | "PUT" | "PATCH") {
            out.extend_from_slice(b"Content-Length: 0\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes a request that brings `line` to `out`, which was empty.
    pub(crate) fn bring(&self, out: &mut Vec<u8>, line: &[u8]) {
        out.clear();
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(line.len()).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(line);
    }
}

/// Requests that messages fill in.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Between two of them stands a text that is filled in. The last one ends the request, or is
    /// what stands before the length.
    pieces: Vec<Vec<u8>>,
    brings_line: bool,
}

impl Form {
    /// Writes the request of `message` to `out`, which was empty. Gives where it begins there, and
    /// how many bytes the message's line has in it.
    pub(crate) fn fill(&self, out: &mut Vec<u8>, message: &mut Making<'_>) -> (usize, usize) {
        out.clear();
        for (index, piece) in self.pieces.iter().enumerate() {
            if let Some(before) = index.checked_sub(1) {
                message.blank(before, out);
            }
            out.extend_from_slice(piece);
        }
        if !self.brings_line {
            return (0, 0);
        }
        let head = out.len();
        let body_at = head + ENDING_BYTES_MAX;
        out.resize(body_at, 0);
        message.line(out);
        // The newline parts lines, and here is one.
        out.pop();
        let mut digits = itoa::Buffer::new();
        let length = digits.format(out.len() - body_at).as_bytes();
        let ending_at = body_at - length.len() - 4;
        let begin = ending_at - head;
        out.copy_within(..head, begin);
        out[ending_at..ending_at + length.len()].copy_from_slice(length);
        out[body_at - 4..body_at].copy_from_slice(b"\r\n\r\n");
        (begin, out.len() - body_at)
    }
}

/// The head of requests whose bodies vary, up to the length.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    head: Vec<u8>,
}

impl Envelope {
    /// Writes one request to `out`, which was empty: `body` appends its body. Gives where the
    /// request begins in `out`, since how long its head is depends on how long its body is.
    pub(crate) fn fill(&self, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> usize {
        let body_at = self.head.len() + ENDING_BYTES_MAX;
        out.clear();
        out.resize(body_at, 0);
        body(out);
        let mut digits = itoa::Buffer::new();
        let length = digits.format(out.len() - body_at).as_bytes();
        let begin = body_at - self.head.len() - length.len() - 4;
        let mut at = begin;
        for part in [&self.head[..], length, b"\r\n\r\n"] {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        debug_assert_eq!(at, body_at, "the head ends where the body begins");
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;
    use crate::plan::payloads::blanks::{Blank, Within};
    use crate::plan::payloads::{Author, Builtin, Payloads, Source, Stamp, Wanted};

    fn request() -> Request {
        Request {
            method: "GET".into(),
            path: "/a?b=c".into(),
            host: "example.org:8080".into(),
            fields: Vec::new(),
            content_type: None,
            token: None,
        }
    }

    fn text(bytes: &[u8]) -> String {
        std::str::from_utf8(bytes).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn a_plain_request_says_where_it_goes_and_who_sends_it() {
        let agent = concat!("logboom-loadgen/", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            text(&request().render(None)),
            format!(
                "GET /a?b=c HTTP/1.1\nHost: example.org:8080\nUser-Agent: {agent}\nAccept: */*\n\n"
            )
        );
    }

    #[test]
    fn what_was_asked_for_replaces_what_is_usual() {
        let fields = [("HOST", "other"), ("X-A", "1"), ("user-agent", "me"), ("X-A", "2")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let request = Request {
            method: "POST".into(),
            fields,
            token: Some("secret".into()),
            content_type: Some("application/x-ndjson"),
            ..request()
        };
        assert_eq!(
            text(&request.render(Some(b"body"))),
            "POST /a?b=c HTTP/1.1\nHOST: other\nX-A: 1\nuser-agent: me\nX-A: 2\nAccept: */*\n\
             Authorization: Bearer secret\nContent-Type: application/x-ndjson\n\
             Content-Length: 4\n\nbody"
        );
    }

    #[test]
    fn a_body_that_is_not_there_is_said_where_one_is_expected() {
        for (method, length) in [("POST", Some(0)), ("PUT", Some(0)), ("GET", None), ("HEAD", None)]
        {
            let request = Request { method: method.into(), ..request() };
            let text = text(&request.render(None));
            let found = text.split("Content-Length: ").nth(1).map(|it| it.trim().parse().unwrap());
            assert_eq!(found, length, "{text}");
        }
    }

    #[test]
    fn a_recorded_request_is_asked_below_the_path_of_the_target() {
        let fields = vec![("Host".to_owned(), "h".to_owned()), ("User-Agent".into(), "me".into())];
        let recall = Request { path: "/base/".into(), fields, ..request() }.recall();
        let mut out = Vec::new();
        let mut ask = |method, target| {
            recall.ask(&mut out, RecordedRequest { method, target, status: 200 });
            text(&out)
        };
        let fields = "Host: h\nUser-Agent: me\nAccept: */*\n";
        assert_eq!(ask("GET", "/a?b"), format!("GET /base/a?b HTTP/1.1\n{fields}\n"));
        assert_eq!(ask("OPTIONS", "*"), format!("OPTIONS * HTTP/1.1\n{fields}\n"));
        let expected = format!("PUT /base/ HTTP/1.1\n{fields}Content-Length: 0\n\n");
        assert_eq!(ask("PUT", "/"), expected);
        recall.bring(&mut out, b"{}");
        let typed = format!("{fields}Content-Type: application/json\nContent-Length: 2\n\n{{}}");
        assert_eq!(text(&out), format!("GET /base/ HTTP/1.1\n{typed}"));
    }

    #[test]
    fn a_request_that_a_message_fills_in_costs_no_allocation() {
        let blank = |text: &str, within| Blank {
            text: text.to_owned(),
            within,
            knob: String::new(),
            is_secret: false,
        };
        let wanted = Wanted {
            source: Source::Builtin(Builtin::Iot),
            blanks: vec![
                blank("/a b/${level}/${seq}", Within::Url),
                blank("<${message}>", Within::Header),
            ],
            ..Wanted::default()
        };
        let payloads = Payloads::open(&wanted, 1, "r").unwrap();
        let (author, mut stamp) = (Author::new(3), Stamp::default());
        stamp.set(1_795_233_237_123_456_789);
        let blanked = Request {
            path: "\0".to_owned(),
            fields: vec![("x".to_owned(), "\0".to_owned())],
            ..request()
        };
        let mut out = Vec::new();
        for (body, brings_line) in [(None, false), (Some(&b"a\0b"[..]), false), (None, true)] {
            let form = blanked.form(body, brings_line);
            for seq in 0..50 {
                let fill =
                    |out: &mut Vec<u8>| form.fill(out, &mut payloads.make(&stamp, &author, seq));
                let (begin, bytes) = fill(&mut out);
                let mut message = payloads.make(&stamp, &author, seq);
                let mut part = |index| {
                    let mut text = Vec::new();
                    message.blank(index, &mut text);
                    String::from_utf8(text).unwrap()
                };
                let path = part(0);
                let fields = vec![("x".to_owned(), part(1))];
                let mut line = Vec::new();
                message.line(&mut line);
                line.pop();
                let body = if brings_line { Some(&line[..]) } else { body };
                assert_eq!(bytes, if brings_line { line.len() } else { 0 });
                let same = Request { path, fields, ..request() }.render(body);
                assert_eq!(text(&out[begin..]), text(&same));
                let again = allocations::during(|| {
                    std::hint::black_box(fill(&mut out));
                });
                assert_eq!(again, 0);
            }
        }
    }

    #[test]
    fn a_body_that_varies_has_its_own_length() {
        let request = Request { method: "POST".into(), ..request() };
        let envelope = request.envelope();
        let mut out = Vec::new();
        for length in [0, 9, 10, 12_345, 1] {
            let body: Vec<u8> = std::iter::repeat_n(b'x', length).collect();
            let begin = envelope.fill(&mut out, |out| out.extend_from_slice(&body));
            assert!(out[begin..] == request.render(Some(&body)), "{length}");
        }
        let begin = |out: &mut Vec<u8>| {
            std::hint::black_box(envelope.fill(out, |out| out.extend_from_slice(b"line\n")));
        };
        assert_eq!(allocations::during(|| begin(&mut out)), 0);
    }
}
