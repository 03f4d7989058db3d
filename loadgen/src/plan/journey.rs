//! A journey: several requests, each of which may need what an earlier one was answered.
//!
//! [`StepText`] is a step as a scenario file has it, [`Journey`] is what the steps mean together.
//! Owns what is sent, what has to come back, and what is taken out of it for later steps; leaves
//! connections, times and counting to `hammer::journey`.
//!
//! ```toml
//! [[flow.step]]
//! name = "login"                                  # default: its number
//! method = "POST"                                 # default: GET, with a body POST
//! path = "/login"
//! headers = ["content-type: application/json"]
//! body = '{"user":"u{{conn}}"}'
//! status = 200                                    # or "2xx" (the default), or several: [200, "3xx"]
//! check = { at = "/user", equals = "u{{conn}}" }  # or several; without `at` it is the body's text
//! extract = { token = "/token", tag = "etag" }    # a JSON pointer, or the name of a header
//! think_time = "10ms..50ms"                       # before the next step
//! ```
//!
//! Invariant: pure, and bounded: a value that is extracted has at most [`VALUE_BYTES_MAX`], a body
//! that is looked into at most [`BODY_BYTES_MAX`]; nothing extracted gets into a request line or a
//! header with a byte that could end it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::template::{BUILT_IN, MESSAGE, Template};
use crate::config::ThinkTime;

pub mod presets;
mod template;

pub use template::Values;

/// Steps of a journey at most: each has histograms of its own on every shard.
pub const STEPS_MAX: usize = 32;
/// Bytes of an answer that a step can look into.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of an extracted value.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// A step as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepText {
    /// For the report; its number if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// GET, or POST with a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path and query.
    pub path: String,
    /// `name: value`.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub headers: OneOrMany<String>,
    /// What is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What the answer's status has to be: 2xx.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub status: OneOrMany<StatusText>,
    /// What has to be in the answer.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub check: OneOrMany<CheckText>,
    /// What later steps need of the answer: name and place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extract: BTreeMap<String, String>,
    /// Rest before the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think_time: Option<ThinkTime>,
}

/// `200` or `"2xx"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StatusText {
    /// One.
    Code(u16),
    /// A hundred of them, or one as text.
    Class(String),
}

/// What has to be where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckText {
    /// A JSON pointer (it begins with `/`) or the name of a header; the body's text without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// It is this; a number as JSON writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// This is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

/// A value without parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true`
    Switch(bool),
    /// `7`
    Whole(i64),
    /// `"seven"`
    Text(String),
}

/// One, or several in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// `[a, b]`
    Many(Vec<T>),
    /// `a`
    One(T),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            OneOrMany::Many(many) => many,
            OneOrMany::One(one) => std::slice::from_ref(one),
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.as_slice().len()
    }

    fn is_empty(&self) -> bool {
        self.count() == 0
    }
}

/// The steps of a journey, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Journey {
    steps: Vec<Step>,
    /// The names of values, by slot.
    names: Vec<String>,
    /// A step sends the message, or looks for it.
    pub needs_message: bool,
}

/// A step, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// For the report.
    pub name: String,
    /// A token (RFC 9110).
    pub method: String,
    path: Template,
    headers: Vec<(String, Template)>,
    body: Option<Template>,
    /// Empty: 2xx.
    statuses: Vec<std::ops::RangeInclusive<u16>>,
    checks: Vec<Check>,
    extracts: Vec<(usize, Place)>,
    /// Rest before the next step.
    pub think_time: ThinkTime,
}

#[derive(Clone, Debug, PartialEq)]
struct Check {
    place: Place,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Equals(Template),
    Contains(Template),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Body,
    /// RFC 6901; not empty.
    Pointer(String),
    /// In lower case.
    Header(String),
}

impl Place {
    fn parse(text: &str) -> Result<Place, String> {
        if text.starts_with('/') {
            return Ok(Place::Pointer(text.to_owned()));
        }
        if is_token(text) {
            return Ok(Place::Header(text.to_ascii_lowercase()));
        }
        Err(format!("\"{text}\" is neither a JSON pointer (/a/0/b) nor the name of a header"))
    }
}

/// A request, filled in. Keeps its room.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Path and query.
    pub path: Vec<u8>,
    /// Names in lower case and values, one behind the other.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Nothing is another thing than an empty body.
    pub body: Option<Vec<u8>>,
}

/// An answer, as far as the step looks into it. Keeps its room.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// Three digits.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Up to [`BODY_BYTES_MAX`].
    pub body: Vec<u8>,
    /// There was more of it.
    pub is_cut: bool,
}

/// Why a step ends its journey. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Another status than was expected.
    Status(u16),
    /// Something else than was expected, or it is not there.
    Check(String),
    /// What a later step needs is not there, or is too long.
    Extract(String),
    /// What was extracted cannot stand where it should be sent.
    BadValue(String),
}

impl Failed {
    /// `http_500`, `check_failed`, …
    pub fn code(&self) -> Cow<'static, str> {
        match self {
            Failed::Status(status) => format!("http_{status}").into(),
            Failed::Check(_) => "check_failed".into(),
            Failed::Extract(_) => "extract_failed".into(),
            Failed::BadValue(_) => "bad_value".into(),
        }
    }
}

impl Journey {
    /// What `steps` mean together.
    ///
    /// # Errors
    /// Names the step, the value, and what is wrong with it.
    pub fn new(steps: &[StepText]) -> Result<Journey, String> {
        if steps.is_empty() {
            return Err("a journey has at least one step".to_owned());
        }
        if steps.len() > STEPS_MAX {
            return Err(format!("a journey of {} steps has more than {STEPS_MAX}", steps.len()));
        }
        let mut journey = Journey {
            steps: Vec::new(),
            names: BUILT_IN.map(str::to_owned).to_vec(),
            needs_message: false,
        };
        for (index, text) in steps.iter().enumerate() {
            let number = index + 1;
            let step = journey.step(number, text).map_err(|reason| match &text.name {
                Some(name) => format!("step {number} ({name}): {reason}"),
                None => format!("step {number}: {reason}"),
            })?;
            if journey.steps.iter().any(|other| other.name == step.name) {
                return Err(format!("two steps are called \"{}\"", step.name));
            }
            journey.steps.push(step);
        }
        Ok(journey)
    }

    /// Reads a step; what it extracts is known from now on.
    fn step(&mut self, number: usize, text: &StepText) -> Result<Step, String> {
        let names = self.names.clone();
        let slot_of = |name: &str| names.iter().position(|known| known == name);
        let template = |text: &str| Template::parse(text, slot_of);
        let name = text.name.clone().unwrap_or_else(|| format!("step{number}"));
        if !is_name(&name) {
            return Err(format!("\"{name}\" is not a name of 1 to 32 letters, digits, - and _"));
        }
        let method = match (&text.method, &text.body) {
            (Some(method), _) => method.clone(),
            (None, Some(_)) => "POST".to_owned(),
            (None, None) => "GET".to_owned(),
        };
        if !is_token(&method) {
            return Err(format!("\"{method}\" is not a method"));
        }
        let path = template(&text.path)?;
        let is_rooted = path.opening().starts_with('/') || text.path.starts_with("{{");
        if !is_rooted || text.path.contains('#') || !text.path.is_ascii() {
            return Err(format!("path \"{}\" is not a path like /a/b?c=d", text.path));
        }
        if path.opening().bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(format!("path \"{}\" has a space: write %20", text.path));
        }
        let mut headers = Vec::new();
        for header in text.headers.as_slice() {
            let (name, value) = header
                .split_once(':')
                .filter(|(name, _)| is_token(name))
                .ok_or_else(|| format!("\"{header}\" is not a header like name: value"))?;
            let name = name.to_ascii_lowercase();
            if FRAMING.contains(&name.as_str()) {
                return Err(format!("{name} is said by the protocol itself"));
            }
            if value.bytes().any(is_ending) {
                return Err(format!("header {name} has a line end in it"));
            }
            headers.push((name, template(value.trim())?));
        }
        let body = text.body.as_deref().map(template).transpose()?;
        let statuses = text.status.as_slice().iter().map(statuses).collect::<Result<_, _>>()?;
        let checks = text.check.as_slice().iter().map(|check| Check::new(check, template));
        let checks = checks.collect::<Result<Vec<_>, _>>()?;
        let tested = checks.iter().map(|check| match &check.test {
            Test::Equals(template) | Test::Contains(template) => template,
        });
        let sent = [&path].into_iter().chain(headers.iter().map(|(_, value)| value)).chain(&body);
        let all = sent.chain(tested);
        self.needs_message |= all.into_iter().any(|it| it.names(MESSAGE));
        let mut extracts = Vec::new();
        for (name, place) in &text.extract {
            if !is_name(name) || BUILT_IN.contains(&name.as_str()) {
                return Err(format!(
                    "\"{name}\" is not a name of 1 to 32 letters, digits, - and _ that is free"
                ));
            }
            let slot = slot_of(name).unwrap_or_else(|| {
                self.names.push(name.clone());
                self.names.len() - 1
            });
            extracts.push((slot, Place::parse(place)?));
        }
        let think_time = text.think_time.unwrap_or_default();
        Ok(Step { name, method, path, headers, body, statuses, checks, extracts, think_time })
    }

    /// In their order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// A journey begins: nothing is known but who makes it, and its message (without a line end)
    /// where [`Self::needs_message`].
    pub fn begin(&self, values: &mut Values, conn: u64, seq: u64, message: &[u8]) {
        values.reset(self.names.len());
        let mut digits = itoa::Buffer::new();
        values.set(0, digits.format(conn).as_bytes());
        values.set(1, digits.format(seq).as_bytes());
        values.set(MESSAGE, message);
    }
}

/// Headers that belong to the connection (RFC 9110, 7.6.1) or say how long the body is.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Check {
    fn new(
        text: &CheckText,
        template: impl Fn(&str) -> Result<Template, String>,
    ) -> Result<Check, String> {
        let place = text.at.as_deref().map_or(Ok(Place::Body), Place::parse)?;
        let test = match (&text.equals, &text.contains) {
            (Some(value), None) => Test::Equals(template(&match value {
                Scalar::Switch(switch) => switch.to_string(),
                Scalar::Whole(number) => number.to_string(),
                Scalar::Text(text) => text.clone(),
            })?),
            (None, Some(text)) => Test::Contains(template(text)?),
            _ => return Err("a check has either `equals` or `contains`".to_owned()),
        };
        Ok(Check { place, test })
    }
}

impl Step {
    /// Fills in what is sent.
    ///
    /// # Errors
    /// [`Failed::BadValue`]
    pub fn ask(&self, values: &Values, asked: &mut Asked) -> Result<(), Failed> {
        asked.path.clear();
        self.path.render(values, &mut asked.path);
        let is_path = asked.path.starts_with(b"/")
            && asked.path.iter().all(|byte| (b'!'..=b'~').contains(byte) && *byte != b'#');
        if !is_path {
            let path = shown(&asked.path);
            return Err(Failed::BadValue(format!("\"{path}\" is not a path (|url?)")));
        }
        asked.headers.resize_with(self.headers.len(), Default::default);
        for ((name, value), (asked_name, asked_value)) in
            self.headers.iter().zip(&mut asked.headers)
        {
            asked_name.clone_from(name);
            asked_value.clear();
            value.render(values, asked_value);
            if asked_value.iter().any(|byte| is_ending(*byte)) {
                return Err(Failed::BadValue(format!("{name} would have a line end in it")));
            }
        }
        match &self.body {
            None => asked.body = None,
            Some(template) => {
                let body = asked.body.get_or_insert_default();
                body.clear();
                template.render(values, body);
            }
        }
        Ok(())
    }

    /// Whether anything is looked for in the body.
    pub fn wants_body(&self) -> bool {
        let mut places = self.checks.iter().map(|it| &it.place);
        let mut extracts = self.extracts.iter().map(|(_, place)| place);
        let is_body = |place: &Place| !matches!(place, Place::Header(_));
        places.any(is_body) || extracts.any(is_body)
    }

    /// Whether anything is looked for in the header called `name`, which is in lower case.
    pub fn wants_header(&self, name: &str) -> bool {
        let mut places = self.checks.iter().map(|it| &it.place);
        let mut extracts = self.extracts.iter().map(|(_, place)| place);
        let is_it = |place: &Place| matches!(place, Place::Header(it) if it == name);
        places.any(is_it) || extracts.any(is_it)
    }

    /// Judges the answer, and takes out of it what later steps need.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn judge(&self, answer: &Answered, values: &mut Values) -> Result<(), Failed> {
        let status = answer.status;
        let is_expected = match self.statuses.as_slice() {
            [] => (200..=299).contains(&status),
            statuses => statuses.iter().any(|range| range.contains(&status)),
        };
        if !is_expected {
            return Err(Failed::Status(status));
        }
        let mut look = Look { answer, json: None };
        let mut expected = Vec::new();
        for Check { place, test } in &self.checks {
            let found = look.at(place).map_err(Failed::Check)?;
            expected.clear();
            let (is_good, relation) = match test {
                Test::Equals(template) => {
                    template.render(values, &mut expected);
                    (*found == *expected, "is not")
                }
                Test::Contains(template) => {
                    template.render(values, &mut expected);
                    let is_in = memchr::memmem::find(&found, &expected).is_some();
                    (is_in, "does not contain")
                }
            };
            if !is_good {
                let (place, found, expected) = (place.told(), shown(&found), shown(&expected));
                let reason = format!("{place} \"{found}\" {relation} \"{expected}\"");
                return Err(Failed::Check(reason));
            }
        }
        for (slot, place) in &self.extracts {
            let found = look.at(place).map_err(Failed::Extract)?;
            if found.len() > VALUE_BYTES_MAX {
                let bytes = found.len();
                let reason = format!("{} has {bytes} bytes, at most 64 KiB", place.told());
                return Err(Failed::Extract(reason));
            }
            values.set(*slot, &found);
        }
        Ok(())
    }
}

impl Place {
    fn told(&self) -> String {
        match self {
            Place::Body => "the body".to_owned(),
            Place::Pointer(pointer) => pointer.clone(),
            Place::Header(name) => format!("header {name}"),
        }
    }
}

/// Looks into an answer; its JSON is read once, and only if somebody asks.
struct Look<'a> {
    answer: &'a Answered,
    json: Option<Value>,
}

impl<'a> Look<'a> {
    /// Text as it is, everything else as JSON writes it.
    fn at(&mut self, place: &Place) -> Result<Cow<'a, [u8]>, String> {
        let answer = self.answer;
        if answer.is_cut && !matches!(place, Place::Header(_)) {
            return Err("the body has more than 1 MiB".to_owned());
        }
        match place {
            Place::Body => Ok(Cow::Borrowed(answer.body.as_slice())),
            Place::Header(name) => {
                let found = answer.headers.iter().find(|(known, _)| known == name);
                let found = found.ok_or_else(|| format!("there is no header {name}"))?;
                Ok(Cow::Borrowed(found.1.as_slice()))
            }
            Place::Pointer(pointer) => {
                let json = match &mut self.json {
                    Some(json) => json,
                    json @ None => json.insert(
                        serde_json::from_slice(&answer.body)
                            .map_err(|error| format!("the body is not JSON: {error}"))?,
                    ),
                };
                let found =
                    json.pointer(pointer).ok_or_else(|| format!("there is no {pointer}"))?;
                Ok(Cow::Owned(match found {
                    Value::String(text) => text.clone().into_bytes(),
                    other => other.to_string().into_bytes(),
                }))
            }
        }
    }
}

/// What a person can read of it.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 80;
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let text: String = cut.escape_ascii().to_string();
    if cut.len() < bytes.len() { text + "…" } else { text }
}

fn statuses(text: &StatusText) -> Result<std::ops::RangeInclusive<u16>, String> {
    let wrong = || match text {
        StatusText::Code(code) => format!("{code} is not a status like 200 or \"2xx\""),
        StatusText::Class(text) => format!("\"{text}\" is not a status like 200 or \"2xx\""),
    };
    let code = match text {
        StatusText::Code(code) => *code,
        StatusText::Class(text) => match text.strip_suffix("xx").map(str::parse) {
            Some(Ok(class @ 1..=5u16)) => return Ok(class * 100..=class * 100 + 99),
            Some(_) => return Err(wrong()),
            None => text.parse().map_err(|_| wrong())?,
        },
    };
    if !(100..=599).contains(&code) {
        return Err(wrong());
    }
    Ok(code..=code)
}

/// A byte that ends a header, or that no header may hold.
fn is_ending(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0)
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_plain)
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=32).contains(&name.len()) && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(toml: &str) -> Vec<StepText> {
        #[derive(Deserialize)]
        struct File {
            step: Vec<StepText>,
        }
        toml::from_str::<File>(toml).unwrap().step
    }

    const LOGIN: &str = r#"
        [[step]]
        name = "login"
        path = "/login?as={{conn}}"
        headers = "Content-Type: application/json"
        body = '{"user":"u{{conn}}","event":"{{message|json}}"}'
        check = [{ at = "/user", equals = "u{{conn}}" }, { contains = "welcome" }]
        extract = { token = "/session/token", tag = "ETag" }
        think_time = "5ms..10ms"

        [[step]]
        path = "/items/{{token|url}}"
        headers = ["authorization: Bearer {{token}}", "if-none-match: {{tag}}"]
        status = [200, "3xx"]
        check = { at = "/count", equals = 7 }
    "#;

    fn answer(status: u16, tag: Option<&str>, body: &str) -> Answered {
        let headers = tag.map(|tag| ("etag".to_owned(), tag.as_bytes().to_vec()));
        Answered {
            status,
            headers: headers.into_iter().collect(),
            body: body.into(),
            is_cut: false,
        }
    }

    fn begun(journey: &Journey) -> Values {
        let mut values = Values::default();
        journey.begin(&mut values, 17, 3, b"{\"a\":1}");
        values
    }

    #[test]
    fn a_message_is_made_where_it_is_sent_or_looked_for() {
        for (step, is_needed) in [
            ("path = \"/\"", false),
            ("path = \"/{{message|url}}\"", true),
            ("path = \"/\"\ncheck = { contains = \"{{message}}\" }", true),
        ] {
            let journey = Journey::new(&steps(&format!("[[step]]\n{step}\n"))).unwrap();
            assert_eq!(journey.needs_message, is_needed, "{step}");
        }
    }

    #[test]
    fn a_step_sends_what_an_earlier_one_was_answered() {
        let journey = Journey::new(&steps(LOGIN)).unwrap();
        assert!(journey.needs_message);
        let [login, items] = journey.steps() else { panic!("two steps") };
        assert_eq!((&*login.method, &*items.method, &*items.name), ("POST", "GET", "step2"));
        let (mut values, mut asked) = (begun(&journey), Asked::default());
        login.ask(&values, &mut asked).unwrap();
        assert_eq!(asked.path, b"/login?as=17");
        let body: Value = serde_json::from_slice(asked.body.as_ref().unwrap()).unwrap();
        assert_eq!((&body["user"], &body["event"]), (&"u17".into(), &"{\"a\":1}".into()));
        let body = r#"{"user":"u17","session":{"token":"a/b"},"text":"welcome"}"#;
        login.judge(&answer(201, Some("\"v1\""), body), &mut values).unwrap();
        items.ask(&values, &mut asked).unwrap();
        assert_eq!((&*asked.path, &asked.body), (&b"/items/a%2Fb"[..], &None));
        let header = |at: usize| (asked.headers[at].0.as_str(), asked.headers[at].1.as_slice());
        assert_eq!(header(0), ("authorization", &b"Bearer a/b"[..]));
        assert_eq!(header(1), ("if-none-match", &b"\"v1\""[..]));
        items.judge(&answer(302, None, "{\"count\":7}"), &mut values).unwrap();
        assert!(login.wants_body() && login.wants_header("etag") && !login.wants_header("date"));
    }

    #[test]
    fn the_first_thing_that_is_wrong_ends_it_with_a_code() {
        let journey = Journey::new(&steps(LOGIN)).unwrap();
        let login = &journey.steps()[0];
        let good = r#"{"user":"u17","session":{"token":"t"},"text":"welcome"}"#;
        for (answer, code, hint) in [
            (answer(500, None, good), "http_500", ""),
            (answer(302, None, good), "http_302", ""),
            (answer(200, None, "welcome"), "check_failed", "not JSON"),
            (
                answer(200, None, "{\"user\":\"u18\"}"),
                "check_failed",
                "/user \"u18\" is not \"u17\"",
            ),
            (answer(200, None, "{\"name\":1}"), "check_failed", "there is no /user"),
            (answer(200, None, "{\"user\":\"u17\"}"), "check_failed", "does not contain"),
            (answer(200, None, good), "extract_failed", "there is no header etag"),
            (Answered { is_cut: true, ..answer(200, None, good) }, "check_failed", "1 MiB"),
        ] {
            let failed = login.judge(&answer, &mut begun(&journey)).unwrap_err();
            assert_eq!(failed.code(), code, "{failed:?}");
            assert!(format!("{failed:?}").replace('\\', "").contains(hint), "{failed:?}");
        }
        let long = good.replace("\"t\"", &format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX + 1)));
        let failed = login.judge(&answer(200, Some("1"), &long), &mut begun(&journey));
        assert!(matches!(failed, Err(Failed::Extract(reason)) if reason.contains("64 KiB")));
    }

    #[test]
    fn what_a_server_says_cannot_end_a_header_or_a_path() {
        let text = r#"
            [[step]]
            path = "/"
            extract = { a = "/a" }
            [[step]]
            path = "/{{a}}"
            [[step]]
            path = "/"
            headers = "x: {{a}}"
        "#;
        let journey = Journey::new(&steps(text)).unwrap();
        for (body, is_path, is_header) in [
            ("{\"a\":\"x\"}", true, true),
            ("{\"a\":\"x y\"}", false, true),
            ("{\"a\":\"x\\r\\ny: z\"}", false, false),
            ("{\"a\":\"\\u0000\"}", false, false),
            ("{\"a\":\"é\"}", false, true),
        ] {
            let mut values = begun(&journey);
            let [first, path, header] = journey.steps() else { panic!("three steps") };
            first.judge(&answer(200, None, body), &mut values).unwrap();
            let mut asked = Asked::default();
            assert_eq!(path.ask(&values, &mut asked).is_ok(), is_path, "{body}");
            assert_eq!(header.ask(&values, &mut asked).is_ok(), is_header, "{body}");
        }
    }

    #[test]
    fn a_journey_that_makes_no_sense_is_refused_by_its_step() {
        for (text, hint) in [
            ("path = \"/{{token}}\"", "step 1: {{token}} is extracted by no step"),
            ("path = \"a\"", "path \"a\""),
            ("path = \"/a b\"", "write %20"),
            ("path = \"/\"\nmethod = \"G T\"", "\"G T\" is not a method"),
            ("path = \"/\"\nheaders = [\"a\"]", "\"a\" is not a header"),
            ("path = \"/\"\nheaders = \"Content-Length: 5\"", "content-length is said by"),
            ("path = \"/\"\nstatus = 99", "99 is not a status"),
            ("path = \"/\"\nstatus = \"9xx\"", "\"9xx\" is not a status"),
            ("path = \"/\"\ncheck = { at = \"/a\" }", "either `equals` or `contains`"),
            ("path = \"/\"\ncheck = { at = \"a b\", equals = 1 }", "neither a JSON pointer"),
            ("path = \"/\"\nextract = { seq = \"/a\" }", "\"seq\" is not a name"),
            ("path = \"/\"\nname = \"a b\"", "step 1 (a b): \"a b\" is not a name"),
            ("path = \"/\"\nname = \"a\"\n[[step]]\npath = \"/\"\nname = \"a\"", "two steps"),
        ] {
            let error = Journey::new(&steps(&format!("[[step]]\n{text}"))).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
        assert!(Journey::new(&[]).is_err());
        let many = vec![StepText { path: "/".to_owned(), ..StepText::default() }; STEPS_MAX + 1];
        assert!(Journey::new(&many).unwrap_err().contains("33 steps"));
        assert!(toml::from_str::<StepText>("path = \"/\"\nbdy = \"\"").is_err());
    }

    #[test]
    fn a_step_and_back_is_the_same_step() {
        for step in steps(LOGIN) {
            let text = toml::to_string(&step).unwrap();
            assert_eq!(toml::from_str::<StepText>(&text).unwrap(), step, "{text}");
            let json = serde_json::to_string(&step).unwrap();
            assert_eq!(serde_json::from_str::<StepText>(&json).unwrap(), step);
        }
    }
}
