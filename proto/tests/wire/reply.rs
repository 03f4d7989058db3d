//! Replies and hellos: what is written reads back, and what a client may meet is read.

use proptest::prelude::*;
use proto::hello::BadHello;
use proto::limits::{ID_BYTES_MAX, REPLY_BYTES_MAX};
use proto::reply::{FILTERED_LINE, OK_LINE};
use proto::{Code, Durability, Hello, Id, OwnedReply, Replies, Reply, Status, Welcome};
use serde_json::{Value, json};

fn written(reply: &Reply<'_>) -> String {
    let mut out = Vec::new();
    reply.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_ready_made_lines_are_what_would_be_written() {
    assert_eq!(written(&Reply::ok()).as_bytes(), OK_LINE);
    assert_eq!(written(&Reply::filtered()).as_bytes(), FILTERED_LINE);
}

#[test]
fn fields_stand_in_the_documented_order() {
    let reply = Reply::error(Code::Overloaded, "too many \"lines\"")
        .with_id(Some(Id::Text("a\n")))
        .with_retry_after_ms(250)
        .times(3);
    assert_eq!(
        written(&Reply { fatal: true, ..reply }),
        "{\"status\":\"error\",\"code\":\"overloaded\",\"reason\":\"too many \\\"lines\\\"\",\
         \"id\":\"a\\n\",\"count\":3,\"retry_after_ms\":250,\"fatal\":true}\n"
    );
    assert_eq!(written(&Reply::ok().times(1)), "{\"status\":\"ok\"}\n");
}

#[test]
fn the_longest_reply_keeps_the_bound() {
    let (reason, id) = ("\u{1}".repeat(10_000), "\u{1}".repeat(ID_BYTES_MAX));
    let longest = Reply::fatal(Code::TooManyConnections, &reason)
        .with_id(Some(Id::Text(&id)))
        .with_retry_after_ms(u64::MAX)
        .times(u64::MAX);
    assert!(written(&longest).len() <= REPLY_BYTES_MAX);
    let cut = written(&Reply::error(Code::InvalidField, &"é".repeat(300)));
    assert!(cut.contains(&format!("\"{}\"", "é".repeat(256))));
}

fn reply_with<'a>(
    status: Status,
    code: Option<Code>,
    reason: Option<&'a str>,
    id: Option<Id<'a>>,
    count: u64,
    retry_after_ms: Option<u64>,
) -> Reply<'a> {
    let fatal = code.is_some_and(Code::is_fatal);
    Reply { status, code, reason, id, count, retry_after_ms, fatal }
}

proptest! {
    #[test]
    fn every_reply_reads_back(
        status in prop::sample::select(&[Status::Ok, Status::Filtered, Status::Error][..]),
        code in prop::option::of(prop::sample::select(&Code::ALL[..])),
        reason in prop::option::of(any::<String>()),
        text in prop::option::of(any::<String>()),
        int in prop::option::of(prop_oneof![any::<i64>().prop_map(i128::from), any::<u64>().prop_map(i128::from)]),
        count in 1_u64..,
        retry_after_ms in prop::option::of(any::<u64>()),
    ) {
        let id = text.as_deref().map(Id::Text).or(int.map(Id::Int));
        let reply = reply_with(status, code, reason.as_deref(), id, count, retry_after_ms);
        let line = written(&reply);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(line.ends_with('\n'));
        for line in [line.as_str(), line.trim_end()] {
            let back = OwnedReply::parse(line.as_bytes()).unwrap();
            prop_assert_eq!(back.status, status);
            prop_assert_eq!(back.known_code(), code);
            prop_assert_eq!(&back.reason, &reason);
            prop_assert_eq!(back.count, count);
            prop_assert_eq!(back.retry_after_ms, retry_after_ms);
            prop_assert_eq!(back.fatal, reply.fatal);
            prop_assert_eq!(back.id, match id {
                None => None,
                Some(Id::Text(text)) => Some(Value::from(text)),
                Some(Id::Int(int)) => Some(int.to_string().parse().unwrap()),
            });
        }
    }

    #[test]
    fn every_hello_and_every_answer_reads_back(
        replies in prop::sample::select(&Replies::ALL[..]),
        durability in prop::sample::select(&Durability::ALL[..]),
        asks in any::<(bool, bool)>(),
        token in prop::option::of(any::<String>()),
        shard in any::<u32>(),
        shards in any::<u32>(),
        line_bytes_max in any::<u32>(),
    ) {
        let hello = Hello {
            version: 1,
            replies: asks.0.then_some(replies),
            durability: asks.1.then_some(durability),
            token,
        };
        let mut out = Vec::new();
        hello.write(&mut out);
        prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        prop_assert_eq!(Hello::recognise(&out), Some(Ok(hello)));

        let [shard, shards, line_bytes_max] = [shard, shards, line_bytes_max].map(|n| n as usize);
        let welcome = Welcome { version: 1, replies, durability, shard, shards, line_bytes_max };
        out.clear();
        welcome.write(&mut out);
        prop_assert_eq!(Welcome::parse(&out), Ok(welcome));
    }
}

#[test]
fn a_client_reads_any_field_order_unknown_fields_and_unknown_codes() {
    let line =
        r#" { "x" : [1], "count" : 2, "code" : "melted", "status" : "error", "fatal" : false } "#;
    let reply = OwnedReply::parse(line.as_bytes()).unwrap();
    assert_eq!((reply.status, reply.count, reply.fatal), (Status::Error, 2, false));
    assert_eq!((reply.code.as_deref(), reply.known_code()), (Some("melted"), None));
    assert_eq!(OwnedReply::parse(br#"{"id":null,"status":"ok"}"#).unwrap().id, Some(json!(null)));
}

#[test]
fn what_is_no_reply_is_refused() {
    for line in [
        "",
        "ok",
        "[]",
        "{}",
        r#"{"status":"fine"}"#,
        r#"{"status":1}"#,
        r#"{"status":"ok","count":0}"#,
        r#"{"status":"ok","count":-1}"#,
        r#"{"status":"ok","count":"2"}"#,
        r#"{"status":"error","code":7}"#,
        r#"{"status":"error","reason":null}"#,
        r#"{"status":"error","retry_after_ms":1.5}"#,
        r#"{"status":"error","fatal":1}"#,
        r#"{"status":"ok"}x"#,
    ] {
        assert!(OwnedReply::parse(line.as_bytes()).is_err(), "{line}");
    }
}

fn recognise(line: &str) -> Option<Result<Hello, String>> {
    Hello::recognise(line.as_bytes()).map(|hello| hello.map_err(|BadHello(reason)| reason))
}

#[test]
fn an_ordinary_first_line_is_no_hello() {
    for line in [
        r#"{"level":"INFO","message":"hello"}"#,
        r#"{"level":"INFO","message":"say \"hello\":{}"}"#,
        r#"{"level":"INFO","message":"m","hello":"world"}"#,
        r#"{"level":"INFO","message":"m","a":{"hello":{"version":1}}}"#,
        r#"[{"hello":{"version":1}}]"#,
        r#""hello""#,
        r#"{"hello":{"version":1}"#,
        r#"{"hello":1}"#,
        r#"{"hello":null}"#,
        r#"{"\u0068ello":{"version":1}}"#,
        "",
    ] {
        assert_eq!(recognise(line), None, "{line}");
    }
}

#[test]
fn unknown_fields_of_a_hello_are_ignored() {
    let hello = recognise(r#"{"x":1, "hello" : {"compress":"zstd","version":1,"replies":"none"}}"#);
    let expected = Hello { replies: Some(Replies::None), ..Hello::default() };
    assert_eq!(hello, Some(Ok(expected)));
}

#[test]
fn a_malformed_hello_says_what_is_wrong() {
    for (members, reason) in [
        (r#""#, "hello.version is missing"),
        (r#""version":"1""#, "hello.version is not a whole number"),
        (r#""version":1.0"#, "hello.version is not a whole number"),
        (r#""version":0"#, "hello.version 0 is not served, only 1"),
        (r#""version":2"#, "hello.version 2 is not served, only 1"),
        (r#""version":1,"replies":"all""#, "hello.replies \"all\" is not one of each range none"),
        (r#""version":1,"replies":null"#, "hello.replies is not a string"),
        (
            r#""version":1,"durability":"Written""#,
            "hello.durability \"Written\" is not one of received written durable",
        ),
        (r#""version":1,"token":5"#, "hello.token is not a string"),
    ] {
        let line = format!("{{\"hello\":{{{members}}}}}");
        assert_eq!(recognise(&line), Some(Err(reason.to_owned())), "{line}");
    }
    let long = format!("{{\"hello\":{{\"version\":1,\"replies\":\"{}\"}}}}", "é".repeat(1000));
    assert!(recognise(&long).unwrap().unwrap_err().len() < 120);
}

#[test]
fn a_fatal_reply_is_no_answer_to_a_hello() {
    let mut out = Vec::new();
    Reply::fatal(Code::BadHello, "hello.version 2 is not served, only 1").write(&mut out);
    assert!(Welcome::parse(&out).is_err());
    assert!(OwnedReply::parse(&out).unwrap().fatal);
}

#[test]
fn a_token_never_shows() {
    let hello = Hello { token: Some("s3cret".to_owned()), ..Hello::default() };
    assert!(!format!("{hello:?} {hello:#?}").contains("s3cret"));
}
