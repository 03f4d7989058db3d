//! Decoding: the verdict on single lines, and each difference from `serde_json::Value`.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proto::limits::{DEPTH_MAX, ID_BYTES_MAX};
use proto::{Code, Id, Record, Scratch};
use serde_json::{Map, Value};

use crate::harness::parse::check_record;

/// `INFO` for a record, with its id if it has one, else the code.
fn verdict(line: impl AsRef<[u8]>) -> String {
    let mut scratch = Scratch::new();
    check_record(line.as_ref(), &mut scratch);
    match Record::parse(line.as_ref(), &mut scratch) {
        Ok(Record { level, id: None }) => level.to_string(),
        Ok(Record { level, id: Some(Id::Text(id)) }) => format!("{level} {id:?}"),
        Ok(Record { level, id: Some(Id::Int(id)) }) => format!("{level} {id}"),
        Err(rejection) => rejection.code.to_string(),
    }
}

fn reason(line: &str) -> String {
    Record::parse(line.as_bytes(), &mut Scratch::new()).unwrap_err().reason.into_owned()
}

/// A valid line with one more value in it.
fn with(value: &str) -> String {
    format!("{{\"level\":\"INFO\",\"message\":\"\",\"value\":{value}}}")
}

#[test]
fn a_level_and_a_message_are_enough() {
    assert_eq!(verdict(r#"{"level":"INFO","message":""}"#), "INFO");
    assert_eq!(verdict(r#" {"message" : "m", "level":"fatal" } "#), "CRITICAL");
    assert_eq!(verdict(r#"{"l\u0065vel":"\u0049NFO","m\u0065ssage":"m"}"#), "INFO");
}

#[test]
fn an_id_is_a_string_of_128_bytes_or_an_integer_of_64_bits() {
    let with_id = |id: &str| verdict(format!(r#"{{"level":"INFO","message":"","id":{id}}}"#));
    assert_eq!(with_id(r#""""#), r#"INFO """#);
    assert_eq!(with_id(r#""a\u00e9\n""#), r#"INFO "aé\n""#);
    assert_eq!(with_id("0"), "INFO 0");
    assert_eq!(with_id("18446744073709551615"), "INFO 18446744073709551615");
    assert_eq!(with_id("-9223372036854775808"), "INFO -9223372036854775808");
    for bad in [
        "18446744073709551616",
        "-9223372036854775809",
        "1.0",
        "1e2",
        "-0",
        "null",
        "true",
        "[1]",
        "{}",
    ] {
        assert_eq!(with_id(bad), "invalid_field", "{bad}");
    }
    let longest = "é".repeat(ID_BYTES_MAX / 2);
    assert_eq!(with_id(&format!("\"{longest}\"")), format!("INFO {longest:?}"));
    assert_eq!(with_id(&format!("\"{longest}x\"")), "invalid_field");
    // Its length counts after unescaping.
    assert_eq!(
        with_id(&format!("\"{}\"", r"\u0041".repeat(128))),
        format!("INFO {:?}", "A".repeat(128))
    );
    assert_eq!(with_id(&format!("\"{}\"", r"\u0041".repeat(129))), "invalid_field");
}

#[test]
fn the_first_defect_counts_and_a_good_id_is_repeated() {
    for (line, code, id) in [
        (r#"{"id":7}"#, Code::MissingField, Some(Id::Int(7))),
        (r#"{"id":"x","level":"LOUD"}"#, Code::InvalidField, Some(Id::Text("x"))),
        (r#"{"id":"x","level":"INFO"}"#, Code::MissingField, Some(Id::Text("x"))),
        (r#"{"id":[],"message":""}"#, Code::MissingField, None),
        (r#"{"id":"x","level":null,"message":""}"#, Code::InvalidField, Some(Id::Text("x"))),
        (r#"{"id":"x","level":"INFO","message":5}"#, Code::InvalidField, Some(Id::Text("x"))),
        (r#"{"id":"x" "level":"INFO","message":""}"#, Code::InvalidJson, None),
        (r#"[{"id":"x"}]"#, Code::NotAnObject, None),
    ] {
        let mut scratch = Scratch::new();
        let rejection = Record::parse(line.as_bytes(), &mut scratch).unwrap_err();
        assert_eq!((rejection.code, rejection.id), (code, id), "{line}");
    }
}

#[test]
fn reasons_name_the_field_and_the_value_and_stay_short() {
    let levels = "TRACE DEBUG INFO WARN WARNING ERROR CRITICAL FATAL";
    assert_eq!(
        reason(r#"{"level":"LOUD","message":""}"#),
        format!("level \"LOUD\" is not one of {levels}")
    );
    assert_eq!(
        reason(&format!(r#"{{"level":"{}","message":""}}"#, "ä".repeat(5000))),
        format!("level \"{}…\" is not one of {levels}", "ä".repeat(16))
    );
    assert_eq!(reason("{}"), "level is missing");
    assert_eq!(reason(r#"{"level":"INFO"}"#), "message is missing");
    assert_eq!(reason(r#"{"level":1}"#), "level is not a string");
    assert_eq!(reason(r#"{"level":"INFO","message":[]}"#), "message is not a string");
    assert_eq!(
        reason(r#"{"level":"INFO","message":"","id":1.5}"#),
        "id is not an integer of 64 bits"
    );
    assert_eq!(reason("{}}"), "trailing characters at column 3");
    assert_eq!(reason("7"), "line is not a JSON object");
}

#[test]
fn other_json_values_are_not_an_object() {
    for line in ["[]", "[{}]", "7", "-1.5e3", "\"text\"", "true", "null", " [1] "] {
        assert_eq!(verdict(line), "not_an_object", "{line}");
    }
}

#[test]
fn what_is_no_json_is_invalid_json() {
    for line in [
        "",
        " ",
        "\t\r",
        "\0",
        "\u{feff}{}",
        "{",
        "}",
        "{}}",
        "{} x",
        "{}\0",
        "{},",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\" 1}",
        "[1,]",
        "[",
        "nul",
        "nulll",
        "tru",
        "True",
        "NaN",
        "Infinity",
        "/**/{}",
        "\u{b}{}",
        "\u{a0}{}",
        "\u{1f}\u{8b}",
        "{\"a\":\"b}",
    ] {
        assert_eq!(verdict(line), "invalid_json", "{line:?}");
    }
    for value in [
        "01",
        "-01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "1_0",
        "--1",
        "1.e5",
        "tru",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\\"",
        "\"\t\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "'x'",
        "[}",
        "{]",
        "",
    ] {
        assert_eq!(verdict(with(value)), "invalid_json", "{value:?}");
    }
    assert_eq!(verdict("{\"a\u{1}\":1,\"level\":\"INFO\",\"message\":\"\"}"), "invalid_json");
    assert_eq!(verdict(with("\"\u{7f}\"")), "INFO");
}

#[test]
fn invalid_utf8_is_told_from_invalid_json_and_comes_first() {
    for bytes in [&b"\xff"[..], b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"]
    {
        for around in ["{\"level\":\"INFO\",\"message\":\"X\"}", "{\"X\":1", "X", "[X]", "{} X"] {
            let (before, after) = around.split_once('X').unwrap();
            let line = [before.as_bytes(), bytes, after.as_bytes()].concat();
            assert_eq!(verdict(&line), "invalid_utf8", "{}", line.escape_ascii());
        }
    }
    assert_eq!(reason_of(b"{\"a\":\"\xff\"}"), "byte 7 is not UTF-8");
}

fn reason_of(line: &[u8]) -> String {
    Record::parse(line, &mut Scratch::new()).unwrap_err().reason.into_owned()
}

// How `serde_json::Value` decides, too: these are no differences, but they are decisions.

#[test]
fn of_duplicate_names_the_last_counts() {
    assert_eq!(verdict(r#"{"level":5,"level":"INFO","message":""}"#), "INFO");
    assert_eq!(verdict(r#"{"level":"INFO","message":"","level":5}"#), "invalid_field");
    assert_eq!(verdict(r#"{"level":"INFO","message":"","l\u0065vel":"WARN"}"#), "WARN");
    assert_eq!(verdict(r#"{"id":[],"level":"INFO","message":"","id":1}"#), "INFO 1");
}

#[test]
fn only_names_of_the_outermost_object_count() {
    assert_eq!(verdict(r#"{"a":{"level":"INFO","message":""}}"#), "missing_field");
    assert_eq!(verdict(r#"{"level":"INFO","a":{"level":1,"id":{}},"message":""}"#), "INFO");
    assert_eq!(verdict(r#"{"":0,"Level":1,"level ":1,"level":"INFO","message":""}"#), "INFO");
}

#[test]
fn a_number_may_be_of_any_length_but_must_be_in_the_range_of_a_double() {
    for value in [
        "0",
        "-0",
        "-0.0",
        "1E+5",
        "1e-400",
        "0e999999999999",
        "1e-999999999999",
        "4.9e-324",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "1.7976931348623157e308",
        "0.00000000000000000000000000000000000000000000000000000000001",
    ] {
        assert_eq!(verdict(with(value)), "INFO", "{value}");
    }
    assert_eq!(verdict(with(&"9".repeat(308))), "INFO");
    assert_eq!(verdict(with(&format!("0.{}", "9".repeat(5000)))), "INFO");
    for value in
        ["1e400", "-1e400", "1.7976931348623159e308", "179769313486231580793728971405304e276"]
    {
        assert_eq!(verdict(with(value)), "invalid_json", "{value}");
    }
    assert_eq!(verdict(with(&"9".repeat(309))), "invalid_json");
    // 10^64 is 0 modulo 2^64: such digits look like a zero to an integer that wraps.
    for sign in ["", "-"] {
        let zeros = |count| format!("{sign}6{}", "0".repeat(count));
        assert_eq!(verdict(with(&zeros(64))), "INFO");
        assert_eq!(verdict(with(&zeros(307))), "INFO");
        assert_eq!(verdict(with(&zeros(308))), "invalid_json");
        let id = format!(r#"{{"level":"INFO","message":"","id":{}}}"#, zeros(64));
        assert_eq!(verdict(id), "invalid_field");
    }
}

#[test]
fn surrogates_must_come_in_pairs() {
    for value in [r#""\ud83d\ude00""#, r#""\uD83D\uDE00""#, r#""\ud7ff\ue000""#] {
        assert_eq!(verdict(with(value)), "INFO", "{value}");
    }
    for value in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\udc00\ud800""#,
        r#""\ud800\u0041""#,
        r#""\ud800x""#,
        r#""\ud83d\ud83d\ude00""#,
    ] {
        assert_eq!(verdict(with(value)), "invalid_json", "{value}");
        assert_eq!(
            verdict(format!(r#"{{"level":"INFO","message":"",{value}:1}}"#)),
            "invalid_json"
        );
    }
}

/// The one difference: serde_json's own limit allows 127 levels.
#[test]
fn nesting_may_be_128_levels_deep_where_serde_json_allows_127() {
    assert_eq!(DEPTH_MAX, 128);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        // A big number, too, because then the slow path decides.
        for inner in ["1", "1e100", "\"\""] {
            let nested = |levels: usize| {
                with(&format!("{}{inner}{}", open.repeat(levels - 1), close.repeat(levels - 1)))
            };
            assert_eq!(verdict(nested(128)), "INFO");
            assert_eq!(verdict(nested(129)), "invalid_json");
            assert!(serde_json::from_str::<Value>(&nested(127)).is_ok());
            assert!(serde_json::from_str::<Value>(&nested(128)).is_err());
        }
    }
    assert!(reason(&with(&"[".repeat(200))).starts_with("nested deeper than 128 levels"));
    let root = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert_eq!(
        (verdict(root(128)).as_str(), verdict(root(129)).as_str()),
        ("not_an_object", "invalid_json")
    );
}

#[test]
fn lines_of_every_length_around_the_word_sizes_are_decoded_alike() {
    for length in (28..300).chain([1023, 1024, 1025, 65_535, 65_536, 65_537, 262_144]) {
        let empty = r#"{"level":"INFO","message":""}"#;
        let Some(more) = usize::checked_sub(length, empty.len()) else { continue };
        for filling in ["x", "\\\\", "é"] {
            let text = filling.repeat(more / filling.len());
            let line = empty.replace("\"\"}", &format!("\"{text}\"}}"));
            assert_eq!(verdict(&line), "INFO");
            assert_eq!(verdict(&line[..line.len() - 1]), "invalid_json");
            assert_eq!(verdict(&line[..line.len() - 2]), "invalid_json");
        }
    }
}

#[test]
fn time_is_linear_in_the_line_whatever_it_holds() {
    let mebibyte = |unit: &str| unit.repeat((1 << 20) / unit.len());
    let string = |unit: &str| with(&format!("\"{}\"", mebibyte(unit)));
    let lines = [
        mebibyte("["),
        mebibyte("{\"a\":"),
        mebibyte("[]"),
        format!("[{}1]", mebibyte("[],")),
        format!("{{{}\"id\":1}}", mebibyte("\"id\":1,")),
        format!("{{{}\"level\":1e100}}", mebibyte("\"level\":\"xxxxxxxx\",")),
        mebibyte("\""),
        mebibyte("\\"),
        mebibyte(" "),
        mebibyte("-"),
        with(&mebibyte("1")),
        with(&format!("1{}e-1048576", mebibyte("0"))),
        with(&format!("0.{}1", mebibyte("0"))),
        with(&format!("1e{}", mebibyte("9"))),
        with(&format!("1e-{}", mebibyte("9"))),
        string("\\u00e9"),
        string("\\ud83d\\ude00"),
        string("\\\\"),
        string("é"),
        string("\u{10ffff}"),
        string("\t"),
        string("x") + "\u{1}",
    ];
    let mut scratch = Scratch::new();
    for line in lines {
        let started = Instant::now();
        let _ = Record::parse(line.as_bytes(), &mut scratch);
        let elapsed = started.elapsed();
        // At most 0.2 s in a debug build; quadratic time would be minutes and more.
        let head: String = line.chars().take(40).collect();
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?} for {head}…");
    }
}

/// JSON documents with the names that matter in them.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(&["INFO", "warn", "LOUD", "Critical"][..]).prop_map(Value::from),
    ];
    let name = prop_oneof![
        prop::sample::select(&["level", "message", "id"][..]).prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn generated_documents_get_the_verdict_of_serde_json(
        document in document(),
        level in prop::option::of(prop::sample::select(&["INFO", "error", "LOUD"][..])),
        message in prop::option::of(any::<String>()),
        pretty in any::<bool>(),
    ) {
        let mut document = document;
        if let Value::Object(object) = &mut document {
            object.extend(level.map(|level| ("level".to_owned(), level.into())));
            object.extend(message.map(|message| ("message".to_owned(), message.into())));
        }
        let text = if pretty { format!("{document:#}") } else { document.to_string() };
        check_record(text.as_bytes(), &mut Scratch::new());
    }

    #[test]
    fn mutated_documents_get_the_verdict_of_serde_json(
        document in document(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
    ) {
        let mut text = document.to_string().into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(text.len() + 1);
            match kind {
                0 => text.insert(at, byte),
                1 if at < text.len() => text[at] = byte,
                _ => text.truncate(at),
            }
        }
        check_record(&text, &mut Scratch::new());
    }
}
