//! PROTOCOL.md says what the code does: its examples are read and written by it.

use std::collections::BTreeSet;

use proto::limits::{
    DEPTH_MAX, ID_BYTES_MAX, LINE_BYTES_MAX, PROTOCOL_VERSION, REASON_BYTES_MAX, REPLY_BYTES_MAX,
};
use proto::{
    Bad, Bounds, Code, Flow, Frame, Hello, OwnedReply, Record, Reply, Scratch, Status, Step,
    Unpack, Welcome,
};

const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

/// The lines of all code blocks of a kind.
fn examples(kind: &str) -> Vec<&'static str> {
    let fence = format!("```{kind}");
    let mut lines = Vec::new();
    let mut inside = false;
    for line in PROTOCOL.lines() {
        if line.starts_with("```") {
            inside = !inside && line == fence;
        } else if inside {
            lines.push(line);
        }
    }
    assert!(!lines.is_empty(), "no example of {kind}");
    lines
}

#[test]
fn every_reply_in_it_is_read_and_would_be_written_like_that() {
    let sent = examples("session").into_iter().filter_map(|line| line.strip_prefix("< "));
    let replies = sent.filter(|line| line.starts_with("{\"status\""));
    for line in examples("reply").into_iter().chain(replies) {
        let reply = OwnedReply::parse(line.as_bytes()).unwrap();
        let code = reply.known_code();
        assert_eq!(code.is_some(), reply.status == Status::Error, "{line}");
        assert_eq!(reply.fatal, code.is_some_and(Code::is_fatal), "{line}");
        let id_text = reply.id.as_ref().and_then(|id| id.as_str());
        let id_int = reply.id.as_ref().and_then(|id| id.as_i64());
        let written = Reply {
            status: reply.status,
            code,
            reason: reply.reason.as_deref(),
            id: id_text.map(proto::Id::Text).or(id_int.map(|int| proto::Id::Int(int.into()))),
            count: reply.count,
            retry_after_ms: reply.retry_after_ms,
            fatal: reply.fatal,
        };
        let mut out = Vec::new();
        written.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\n"));
    }
}

#[test]
fn every_code_and_every_form_has_an_example() {
    let replies: Vec<_> = examples("reply")
        .into_iter()
        .map(|line| OwnedReply::parse(line.as_bytes()).unwrap())
        .collect();
    let shown: BTreeSet<_> = replies.iter().filter_map(OwnedReply::known_code).collect();
    assert_eq!(shown, BTreeSet::from(Code::ALL));
    for code in Code::ALL {
        assert!(PROTOCOL.contains(&format!("| `{code}` |")), "{code} is in no table");
    }
    type Form = fn(&OwnedReply) -> bool;
    let forms: [Form; 8] = [
        |reply| reply.status == Status::Ok && reply.id.is_none(),
        |reply| reply.status == Status::Filtered && reply.id.is_none(),
        |reply| reply.status == Status::Error && !reply.fatal && reply.id.is_none(),
        |reply| reply.id.as_ref().is_some_and(|id| id.is_string()),
        |reply| reply.id.as_ref().is_some_and(|id| id.is_i64()),
        |reply| reply.retry_after_ms.is_some(),
        |reply| reply.count > 1,
        |reply| reply.fatal,
    ];
    for (at, form) in forms.iter().enumerate() {
        assert!(replies.iter().any(form), "form {at} has no example");
    }
}

#[test]
fn every_hello_and_every_answer_in_it_is_read() {
    for line in examples("hello") {
        let hello = Hello::recognise(line.as_bytes()).unwrap().unwrap();
        let mut out = Vec::new();
        hello.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\n"));
    }
    for line in examples("welcome") {
        assert_eq!(Welcome::parse(line.as_bytes()).unwrap().line_bytes_max, LINE_BYTES_MAX);
    }
}

/// The code of a rejection, or `ok`.
fn verdict(line: &str) -> &'static str {
    match Record::parse(line.as_bytes(), &mut Scratch::new()) {
        Ok(_) => "ok",
        Err(rejection) => rejection.code.as_str(),
    }
}

#[test]
fn every_message_in_it_gets_the_verdict_that_it_says() {
    for line in examples("message") {
        assert_eq!(verdict(line), "ok", "{line}");
    }
    for example in examples("verdict") {
        // The code fills a column of 15 characters; the line may begin with a space of its own.
        let (expected, line) = example.split_at(15);
        assert_eq!(verdict(line), expected.trim_end(), "{line}");
    }
}

#[test]
fn the_session_is_what_the_code_would_answer() {
    let lines = examples("session");
    let sent = lines.iter().filter_map(|line| line.strip_prefix("> "));
    let mut got = lines.iter().filter_map(|line| line.strip_prefix("< "));
    assert_eq!(Welcome::parse(got.next().unwrap().as_bytes()).unwrap().version, 1);
    let mut scratch = Scratch::new();
    let mut answered = 0;
    for line in sent.skip(1) {
        let record = Record::parse(line.as_bytes(), &mut scratch);
        if record == Ok(Record { level: proto::Level::Info, id: None }) {
            answered += 1;
            continue;
        }
        let mut out = Vec::new();
        if answered > 0 {
            Reply::ok().times(answered).write(&mut out);
            answered = 0;
        }
        match &record {
            Ok(record) if record.level < proto::Level::Debug => Reply::filtered().write(&mut out),
            Ok(record) => Reply::ok().with_id(record.id).write(&mut out),
            Err(rejection) => Reply::from(rejection).write(&mut out),
        }
        for written in String::from_utf8(out).unwrap().lines() {
            assert_eq!(got.next(), Some(written));
        }
    }
    assert_eq!(got.next(), None);
}

#[test]
fn the_bytes_of_the_gzip_example_are_the_lines_that_it_says() {
    let lines = examples("gzip");
    let stream: Vec<u8> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("> "))
        .flat_map(|hex| {
            let digits: Vec<_> = hex.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
            digits
                .chunks(2)
                .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    let bounds = Bounds { ratio_max: 1000, ratio_after_bytes: 8 << 20 };
    let mut unpack = Unpack::new(LINE_BYTES_MAX, bounds);
    let mut seen = Vec::new();
    let mut scratch = vec![0; 4096];
    let mut on = |frame: Frame<'_>, _| {
        let Frame::Line(line) = frame else { panic!("too long") };
        seen.push(String::from_utf8(line.to_vec()).unwrap());
        Flow::Next
    };
    assert_eq!(unpack.feed(&stream, &mut scratch, &mut on), Ok(Step::Hungry));
    assert_eq!(unpack.finish(&mut scratch, &mut on), Ok(Step::Hungry));
    let expected: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("< ")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn what_it_says_of_gzip_errors_is_what_they_say() {
    let reasons = [Bad::Damaged("incorrect data check".into()), Bad::TooLarge { ratio_max: 1000 }];
    for bad in reasons {
        let mut line = Vec::new();
        let reason = bad.to_string();
        Reply::fatal(bad.code(), &reason).write(&mut line);
        assert!(PROTOCOL.contains(std::str::from_utf8(&line).unwrap()), "{bad}");
    }
}

#[test]
fn its_numbers_are_those_of_the_code() {
    assert_eq!(PROTOCOL_VERSION, 1);
    for text in [
        format!("**{LINE_BYTES_MAX} bytes**"),
        format!("**{REPLY_BYTES_MAX} bytes**"),
        format!("**{ID_BYTES_MAX} bytes**"),
        format!("at most {REASON_BYTES_MAX} bytes"),
        format!("at most **{DEPTH_MAX}** levels"),
        format!("`{}`", proto::level::SPELLINGS),
    ] {
        assert!(PROTOCOL.contains(&text), "{text}");
    }
}
