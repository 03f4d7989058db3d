//! The first line and its answer against a `serde_json::Value`, and what is written reads back.
//!
//! Input: lines.

use proto::{Durability, Hello, Replies, Welcome};
use serde_json::{Map, Value};

pub(crate) fn check(data: &[u8]) {
    for line in data.split(|&byte| byte == b'\n') {
        check_line(line.strip_suffix(b"\r").unwrap_or(line));
    }
}

fn check_line(line: &[u8]) {
    let members = naive_members(line);
    let hello = Hello::recognise(line);
    assert_eq!(hello.is_some(), members.is_some(), "{}", line.escape_ascii());
    let expected = members.as_ref().map(naive_hello);
    match (hello, expected) {
        (None, None) => {}
        (Some(Err(error)), Some(None)) => {
            assert!(error.to_string().starts_with("hello."), "{error}");
            assert!(error.to_string().len() <= 300, "short whatever was sent: {error}");
        }
        (Some(Ok(hello)), Some(Some(expected))) => {
            assert_eq!(hello, expected);
            let mut out = Vec::new();
            hello.write(&mut out);
            assert_eq!(Hello::recognise(&out), Some(Ok(hello.clone())), "reads back");
            let shown = format!("{hello:?}");
            let secret = hello.token.as_ref().filter(|token| token.len() > shown.len() / 2);
            assert!(!secret.is_some_and(|token| shown.contains(token.as_str())), "hidden");
        }
        (hello, expected) => panic!("{hello:?} instead of {expected:?}"),
    }
    if let Ok(welcome) = Welcome::parse(line) {
        assert!(members.is_some(), "an answer is a hello object");
        let mut out = Vec::new();
        welcome.write(&mut out);
        assert_eq!(Welcome::parse(&out), Ok(welcome), "reads back");
    }
}

fn naive_members(line: &[u8]) -> Option<Map<String, Value>> {
    let name = b"\"hello\"";
    if !line.windows(name.len()).any(|window| window == name) {
        return None; // spelled with escapes, if at all
    }
    let value: Value = serde_json::from_slice(line).ok()?;
    value.get("hello")?.as_object().cloned()
}

/// `None` if it must be refused.
fn naive_hello(members: &Map<String, Value>) -> Option<Hello> {
    let text = |name: &str| match members.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(Some),
    };
    Some(Hello {
        version: members.get("version")?.as_u64().filter(|&version| version == 1)?,
        replies: match text("replies")? {
            None => None,
            Some("each") => Some(Replies::Each),
            Some("range") => Some(Replies::Range),
            Some("none") => Some(Replies::None),
            Some(_) => return None,
        },
        durability: match text("durability")? {
            None => None,
            Some("received") => Some(Durability::Received),
            Some("written") => Some(Durability::Written),
            Some("durable") => Some(Durability::Durable),
            Some(_) => return None,
        },
        token: text("token")?.map(str::to_owned),
    })
}
