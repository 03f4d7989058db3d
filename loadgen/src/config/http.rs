//! What an HTTP request is made of, as it is asked for.
//!
//! Owns which requests make sense: a method and fields that cannot break out of their lines, and
//! nothing that the generator says itself. Leaves writing requests to `hammer::http`, and reading
//! files to the beginning of a run.
//! Invariant: what looks like a secret is shown by neither `Debug` nor serde.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::plan::payloads::blanks::{Blank, Within, has_names};

/// Requests that are on their way on one connection: more of them measure a queue.
const PIPELINE_MAX: u64 = 10_000;
/// What stands for a value that is not shown.
const HIDDEN: &str = "(hidden)";

/// The requests of a flow, resolved. [`Http::default`] is the documented defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Path and query of the target's URL.
    pub path: String,
    /// `None` is GET, or POST where there is a body.
    pub method: Option<String>,
    /// Further fields of each request.
    pub headers: Vec<Header>,
    /// The same body in each request.
    pub body: Option<Body>,
    /// Requests on their way on one connection at most.
    pub pipeline: u64,
    /// The bodies are log lines, a batch each.
    pub ndjson: bool,
    /// Version 2 is spoken.
    pub http2: bool,
    /// Requests on their way on one connection of HTTP/2 at most.
    pub streams: u64,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            path: "/".to_owned(),
            method: None,
            headers: Vec::new(),
            body: None,
            pipeline: 1,
            ndjson: false,
            http2: false,
            streams: 1,
        }
    }
}

impl Http {
    /// The texts of a request that its message fills in, in the order in which they stand there.
    pub(super) fn blanks(&self) -> Vec<Blank> {
        let path = Blank {
            text: self.path.clone(),
            within: Within::Url,
            knob: "TARGET".to_owned(),
            is_secret: false,
        };
        let header = |header: &Header| Blank {
            text: header.value.clone(),
            within: Within::Header,
            knob: format!("HEADER \"{}\"", header.name),
            is_secret: header.is_secret(),
        };
        let all = std::iter::once(path).chain(self.headers.iter().map(header));
        all.filter(|blank| has_names(&blank.text)).collect()
    }

    /// The first knob that is of no use where HTTP is not spoken.
    pub(super) fn asked(&self) -> Option<&'static str> {
        let asks = [
            (self.method.is_some(), "METHOD"),
            (!self.headers.is_empty(), "HEADER"),
            (self.body.is_some(), "BODY"),
            (self.pipeline != 1, "PIPELINE"),
            (self.ndjson, "NDJSON"),
            (self.http2, "HTTP2"),
            (self.streams != 1, "STREAMS"),
        ];
        asks.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, knob)| knob)
    }

    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Usage`] names the value and the knob.
    pub(super) fn check(&self, has_token: bool) -> Result<(), Error> {
        let wrong = |text: String| Err(Error::Usage(text));
        path(&self.path).map_err(|reason| Error::Usage(format!("{reason} (TARGET)")))?;
        if let Some(given) = &self.method {
            method(given).map_err(|reason| Error::Usage(format!("{reason} (METHOD)")))?;
        }
        for Header { name, value } in &self.headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if value == HIDDEN {
                return wrong(format!(
                    "HEADER \"{name}\" has a value that --print-config does not show: give it again"
                ));
            }
            if is("content-length") || is("transfer-encoding") {
                return wrong(format!("HEADER \"{name}\": the body decides it (BODY, NDJSON)"));
            }
            if is("expect") {
                return wrong(format!("HEADER \"{name}\": nobody here waits for a 100-continue"));
            }
            if is("authorization") && has_token {
                return wrong(format!("HEADER \"{name}\" beside AUTH_TOKEN, which is one"));
            }
        }
        if !(1..=PIPELINE_MAX).contains(&self.pipeline) {
            return wrong(format!("PIPELINE {} is not 1 to {PIPELINE_MAX}", self.pipeline));
        }
        if self.pipeline > 1 && self.asks_close() {
            return wrong(format!(
                "HEADER \"Connection: close\" beside PIPELINE {}: nothing can follow the first \
                 request",
                self.pipeline
            ));
        }
        if !(1..=PIPELINE_MAX).contains(&self.streams) {
            return wrong(format!("STREAMS {} is not 1 to {PIPELINE_MAX}", self.streams));
        }
        if self.streams > 1 && !self.http2 {
            return wrong(format!("STREAMS {} needs HTTP2; HTTP/1.1 has PIPELINE", self.streams));
        }
        if self.streams > 1 && self.ndjson {
            return wrong(format!(
                "STREAMS {} beside NDJSON: a connection has one request of BATCH_SIZE lines on its \
                 way",
                self.streams
            ));
        }
        if self.pipeline > 1 && self.http2 {
            return wrong(format!("PIPELINE {} beside HTTP2, which has STREAMS", self.pipeline));
        }
        if self.ndjson && self.body.is_some() {
            return wrong("BODY beside NDJSON, which makes bodies of log lines".into());
        }
        if self.ndjson && self.pipeline > 1 {
            return wrong(format!(
                "PIPELINE {} beside NDJSON: a connection has one request of BATCH_SIZE lines on \
                 its way",
                self.pipeline
            ));
        }
        Ok(())
    }

    /// A connection carries one request.
    pub(crate) fn asks_close(&self) -> bool {
        let says_close = |header: &Header| {
            header.name.eq_ignore_ascii_case("connection")
                && header.value.split(',').any(|it| it.trim().eq_ignore_ascii_case("close"))
        };
        self.headers.iter().any(says_close)
    }
}

/// Path and query as they stand in a request's line.
pub(super) fn path(text: &str) -> Result<(), String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(());
    }
    Err(format!("\"{text}\" is not a path and query: /a/b?c=d, anything special as %20"))
}

pub(super) fn method(text: &str) -> Result<String, String> {
    if text.eq_ignore_ascii_case("CONNECT") {
        return Err(format!("\"{text}\" asks for a tunnel, which nobody here enters"));
    }
    if is_token(text) {
        return Ok(text.to_owned());
    }
    Err(format!("\"{text}\" is not a method like GET or POST"))
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// A field of a request's head.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// As it was given; upper and lower case mean the same.
    pub name: String,
    /// Without the white space around it.
    pub value: String,
}

impl Header {
    /// Whether its value is nobody's business.
    fn is_secret(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        ["authorization", "cookie", "token", "secret", "api-key", "apikey", "password"]
            .iter()
            .any(|word| name.contains(word))
    }

    fn shown(&self) -> &str {
        if self.is_secret() { HIDDEN } else { &self.value }
    }
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Header, String> {
        let (name, value) = text.split_once(':').ok_or("a header is \"name: value\"")?;
        if !is_token(name) {
            return Err(format!("\"{name}\" is not the name of a header"));
        }
        let value = value.trim_matches([' ', '\t']);
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(format!("the value of \"{name}\" has a control character"));
        }
        Ok(Header { name: name.to_owned(), value: value.to_owned() })
    }
}

/// Hides secrets.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.shown())
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Header {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A body that is always the same: `text`, or `@file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// These bytes.
    Text(String),
    /// What the file holds when the run begins.
    File(PathBuf),
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        match text.strip_prefix('@') {
            Some(path) => Body::File(path.into()),
            None => Body::Text(text),
        }
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Text(text) => f.write_str(text),
            Body::File(path) => write!(f, "@{}", path.display()),
        }
    }
}

impl Serialize for Body {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Body, D::Error> {
        String::deserialize(from).map(Body::from)
    }
}

/// A token: known to whoever sends it, and shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// What is sent.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(text: String) -> Token {
        Token(text.trim().to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_and_a_value_on_one_line() {
        for (text, name, value) in [
            ("X-A: b c", "X-A", "b c"),
            ("x:y:z", "x", "y:z"),
            ("Empty:", "Empty", ""),
            ("Word: größe", "Word", "größe"),
        ] {
            let header: Header = text.parse().unwrap();
            assert_eq!((&*header.name, &*header.value), (name, value));
        }
        for text in ["no colon", ": x", "a b: c", "a: b\r\nc: d", "a: b\n", "a: \0", "a\n: b", ""] {
            assert!(text.parse::<Header>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_looks_like_a_secret_is_not_shown() {
        let http = Http {
            headers: ["Authorization: Basic abc123", "X-Api-Key: abc123", "Cookie: s=abc123"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            ..Http::default()
        };
        let token = Token::from(" abc123\n".to_owned());
        assert_eq!(token.reveal(), "abc123");
        let json = serde_json::to_string(&http).unwrap();
        for text in [json.clone(), format!("{http:?}"), format!("{token:?}")] {
            assert!(!text.contains("abc123") && text.contains(HIDDEN), "{text}");
        }
        // What was hidden is not sent as it is shown.
        let again: Http = serde_json::from_str(&json).unwrap();
        let error = again.check(false).unwrap_err().to_string();
        assert!(error.contains("HEADER \"Authorization\""), "{error}");
        assert!(http.check(false).is_ok());
    }

    #[test]
    fn a_body_is_text_or_a_file() {
        assert_eq!(Body::from("a@b".to_owned()), Body::Text("a@b".into()));
        assert_eq!(Body::from("@a b".to_owned()), Body::File("a b".into()));
        assert_eq!(Body::from("@a b".to_owned()).to_string(), "@a b");
    }
}
