//! Templates as a whole: from a file to lines.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::allocations;

/// 2026-11-21T03:53:57.123456Z.
const NOW_NS: u64 = 1_795_233_237_123_456_789;

fn stamp() -> Stamp {
    let mut stamp = Stamp::default();
    stamp.set(NOW_NS);
    stamp
}

/// A folder with files of these names.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn wanted(path: &Path) -> Wanted {
    Wanted { source: Source::File(path.to_owned()), ..Wanted::default() }
}

fn open(template: &str) -> Result<Payloads, Error> {
    let folder = folder(&[("t.toml", template)]);
    Payloads::open(&wanted(&folder.path().join("t.toml")), 1, "r1")
}

fn bytes(payloads: &Payloads, conn: u64, seqs: std::ops::Range<u64>) -> Vec<u8> {
    let (author, stamp, mut out) = (Author::new(conn), stamp(), Vec::new());
    seqs.for_each(|seq| payloads.append(&mut out, &stamp, &author, seq));
    out
}

fn lines(payloads: &Payloads, conn: u64, seqs: std::ops::Range<u64>) -> Vec<String> {
    let (author, stamp) = (Author::new(conn), stamp());
    seqs.map(|seq| {
        let mut out = Vec::new();
        payloads.append(&mut out, &stamp, &author, seq);
        assert!(out.len() <= payloads.bytes_max(&author, seq));
        let mut line = String::from_utf8(out).unwrap();
        assert_eq!(line.pop(), Some('\n'));
        assert!(!line.contains('\n'), "{line}");
        line
    })
    .collect()
}

fn values(template: &str, n: u64) -> Vec<Value> {
    let payloads = open(template).unwrap_or_else(|error| panic!("{error}"));
    lines(&payloads, 3, 0..n)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[test]
fn every_built_in_is_records_that_the_engine_takes_and_an_audit_finds() {
    for builtin in Builtin::ALL {
        for sizes in ["0", "900", "normal:700,300"] {
            let wanted = Wanted {
                source: Source::Builtin(builtin),
                sizes: sizes.parse().unwrap(),
                ..Wanted::default()
            };
            let payloads = Payloads::open(&wanted, 5, "r1").unwrap();
            assert!(payloads.has_identity());
            for (seq, line) in lines(&payloads, 17, 0..400).iter().enumerate() {
                let value: Value = serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("{builtin}: {error}: {line}"));
                assert!(value["message"].is_string(), "{line}");
                let end = format!(",\"run\":\"r1\",\"conn\":17,\"seq\":{seq}}}");
                assert!(line.ends_with(&end), "{line}");
                proto::Record::parse(line.as_bytes(), &mut proto::Scratch::new())
                    .unwrap_or_else(|rejection| panic!("{builtin}: {}: {line}", rejection.reason));
                assert!(sizes != "900" || line.len() + 1 >= 900, "{line}");
            }
        }
        let template = builtin.template();
        let as_file = open(template).unwrap_or_else(|error| panic!("{builtin}: {error}"));
        assert_eq!(as_file.sample(&stamp()).rejected, None);
    }
}

#[test]
fn built_ins_look_like_what_they_are_called() {
    let sample = |builtin| {
        let wanted = Wanted { source: Source::Builtin(builtin), ..Wanted::default() };
        lines(&Payloads::open(&wanted, 1, "r1").unwrap(), 0, 0..500)
    };
    let messages = |builtin| -> Vec<String> {
        let values = sample(builtin).into_iter().map(|line| serde_json::from_str(&line).unwrap());
        values.map(|it: Value| it["message"].as_str().unwrap().to_owned()).collect()
    };
    // Each stack trace is many lines, on one.
    let traces = messages(Builtin::Stacktrace);
    assert!(traces.iter().filter(|it| it.lines().count() > 5).count() > 300);
    assert!(traces.iter().any(|it| it.contains("\n\tat ") || it.contains("Traceback")));
    for line in messages(Builtin::Nginx) {
        assert!(line.contains(" [21/Nov/2026:03:53:57 +0000] \""), "{line}");
    }
    for line in sample(Builtin::Nginx) {
        let value: Value = serde_json::from_str(&line).unwrap();
        let (status, level) = (value["status"].as_u64().unwrap(), &value["level"]);
        let expected = match status {
            500.. => "ERROR",
            400.. => "WARN",
            _ => "INFO",
        };
        assert_eq!(level, expected, "{line}");
        let (message, status) = (value["message"].as_str().unwrap(), status.to_string());
        assert!(message.contains(&format!("HTTP/1.1\" {status} ")), "{line}");
    }
    for line in sample(Builtin::K8s) {
        let value: Value = serde_json::from_str(&line).unwrap();
        let pod = value["kubernetes"]["pod_name"].as_str().unwrap();
        let container = value["kubernetes"]["container_name"].as_str().unwrap();
        assert!(pod.starts_with(&format!("{container}-")), "{line}");
    }
}

#[test]
fn fields_keep_their_order_types_and_nesting() {
    let template = r#"
        identity = false
        [fields]
        z = "text with \"quotes\", \t tabs and é"
        a = 5
        big = 1.50
        on = true
        list = [1, "two", { three = 3 }, []]
        empty = {}
        none = { make = "literal", value = { make = "of Ford", cost = "$5 ${left as it is}" } }
        escaped = "a $${b} $c"
    "#;
    let payloads = open(template).unwrap();
    let line = &lines(&payloads, 0, 0..1)[0];
    assert_eq!(
        line,
        "{\"z\":\"text with \\\"quotes\\\", \\t tabs and é\",\"a\":5,\"big\":1.5,\"on\":true,\
         \"list\":[1,\"two\",{\"three\":3},[]],\"empty\":{},\
         \"none\":{\"make\":\"of Ford\",\"cost\":\"$5 ${left as it is}\"},\
         \"escaped\":\"a ${b} $c\"}"
    );
    let json = r#"{"identity":false,"fields":{"b":null,"a":{"make":"range","from":1,"to":1}}}"#;
    let folder = folder(&[("t.json", json)]);
    let payloads = Payloads::open(&wanted(&folder.path().join("t.json")), 1, "r1").unwrap();
    assert_eq!(lines(&payloads, 0, 0..1), ["{\"b\":null,\"a\":1}"]);
}

#[test]
fn a_reference_is_the_same_value_as_the_field() {
    for value in values(
        r#"
        [values]
        user = { id = { make = "id", digits = 20 }, age = { make = "range", from = 18, to = 99 } }
        color = { make = "choice", of = { red = 1, "gr\"een" = 2, "${user.id}" = 1 } }
        [fields]
        level = "INFO"
        message = "user ${user.id} is ${user.age}, likes ${color}; ${trace} by ${conn}/${seq} of ${run}"
        trace = { make = "uuid" }
        id_again = "${user.id}"
        age = { make = "reference", to = "user.age" }
        color = { make = "reference", to = "color" }
        number = { make = "reference", to = "seq" }
        "#,
        200,
    ) {
        let text = |name: &str| value[name].as_str().unwrap();
        let expected = format!(
            "user {} is {}, likes {}; {} by 3/{} of r1",
            text("id_again"),
            value["age"].as_u64().unwrap(),
            text("color"),
            text("trace"),
            value["seq"]
        );
        assert_eq!(text("message"), expected);
        assert_eq!(value["number"], value["seq"]);
    }
}

#[test]
fn makers_make_what_they_say() {
    let all = values(
        r#"
        [fields]
        int = { make = "range", from = -5, to = 5 }
        float = { make = "range", from = 0.5, to = 1.5, decimals = 2 }
        code = { make = "pattern", pattern = '["A-C]{2}-\d' }
        id = { make = "id", digits = 5 }
        u4 = { make = "uuid" }
        u7 = { make = "uuid", version = 7 }
        at = { make = "timestamp" }
        late = { make = "timestamp", offset = "-1h", format = "%H:%M" }
        shaken = { make = "timestamp", jitter = "2s", format = "unix_ms" }
        n = { make = "counter", from = 10, step = -3 }
        text = { make = "text", words = [2, 4] }
        "#,
        500,
    );
    for (seq, value) in all.iter().enumerate() {
        assert!((-5..=5).contains(&value["int"].as_i64().unwrap()));
        assert!((0.5..=1.5).contains(&value["float"].as_f64().unwrap()));
        let code = value["code"].as_str().unwrap();
        assert!(code.len() == 4 && code.starts_with(['"', 'A', 'B', 'C']), "{code}");
        assert_eq!(value["id"].as_str().unwrap().len(), 5);
        assert_eq!(value["u4"].as_str().unwrap().as_bytes()[14], b'4');
        // The time, in milliseconds, is in front.
        let in_front = value["u7"].as_str().unwrap().replace('-', "")[..12].to_owned();
        assert_eq!(u64::from_str_radix(&in_front, 16).unwrap(), NOW_NS / 1_000_000);
        assert_eq!(value["at"], "2026-11-21T03:53:57.123456Z");
        assert_eq!(value["late"], "02:53");
        let moved = value["shaken"].as_u64().unwrap().abs_diff(NOW_NS / 1_000_000);
        assert!(moved <= 2000, "{moved}");
        assert_eq!(value["n"], 10 - 3 * i64::try_from(seq).unwrap());
        let words = value["text"].as_str().unwrap().split(' ').count();
        assert!((2..=4).contains(&words));
    }
    let distinct = |name: &str| {
        all.iter().map(|value| value[name].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((distinct("int").len(), distinct("u4").len()), (11, 500));
    assert!(distinct("shaken").len() > 400);
}

#[test]
fn choices_come_as_often_as_they_weigh_and_go_together() {
    let n = 20_000u32;
    let all = values(
        r#"
        [fields]
        level = { make = "choice", of = { INFO = 70, WARN = 20, ERROR = 10 } }
        code = { make = "choice", with = "level", of = [0, { make = "choice", of = [1, 2] }, 3] }
        alone = { make = "choice", of = ["a", "b"], weights = [1, 0] }
        "#,
        u64::from(n),
    );
    let mut counts = BTreeMap::new();
    for value in &all {
        *counts
            .entry((value["level"].as_str().unwrap(), value["code"].as_u64().unwrap()))
            .or_insert(0f64) += 1.0;
        assert_eq!(value["alone"], "a");
    }
    let shares = [(("INFO", 0), 0.7), (("WARN", 1), 0.1), (("WARN", 2), 0.1), (("ERROR", 3), 0.1)];
    assert_eq!(counts.len(), shares.len(), "{counts:?}");
    // Pearson's statistic with 3 degrees of freedom; 16.27 is the 99.9 % point.
    let statistic: f64 = shares
        .iter()
        .map(|(pair, share)| {
            let expected = share * f64::from(n);
            (counts[pair] - expected).powi(2) / expected
        })
        .sum();
    assert!(statistic < 16.27, "{statistic}: {counts:?}");
}

#[test]
fn fields_of_a_message_are_independent_of_each_other() {
    let all = values(
        r#"
        [fields]
        a = { make = "range", from = 0, to = 3 }
        b = { make = "range", from = 0, to = 3 }
        "#,
        16_000,
    );
    let mut counts = [0f64; 16];
    for value in &all {
        let at = value["a"].as_u64().unwrap() * 4 + value["b"].as_u64().unwrap();
        counts[usize::try_from(at).unwrap()] += 1.0;
    }
    // 15 degrees of freedom; 37.70 is the 99.9 % point.
    let statistic: f64 = counts.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum();
    assert!(statistic < 37.70, "{statistic}: {counts:?}");
}

#[test]
fn a_message_depends_on_seed_connection_and_number_alone() {
    for builtin in Builtin::ALL {
        let of = |seed| {
            let wanted = Wanted {
                source: Source::Builtin(builtin),
                sizes: "0..600".parse().unwrap(),
                malformed: 0.1,
                ..Wanted::default()
            };
            Payloads::open(&wanted, seed, "r1").unwrap()
        };
        let one = of(1);
        let in_order: Vec<Vec<u8>> = (0..100).map(|seq| bytes(&one, 5, seq..seq + 1)).collect();
        // Others in between, another order, another copy.
        let again = of(1);
        for (seq, line) in in_order.iter().enumerate().rev() {
            let seq = seq as u64;
            bytes(&again, 6, 3..5);
            assert_eq!(bytes(&again, 5, seq..seq + 1), *line);
        }
        assert_ne!(bytes(&one, 6, 0..100), in_order.concat());
        assert_ne!(bytes(&of(2), 5, 0..100), in_order.concat());
    }
}

#[test]
fn a_message_of_any_kind_allocates_nothing() {
    let folder = folder(&[
        ("d.csv", "id,name\na,b\nc,\"d\"\"\"\n"),
        (
            "t.toml",
            r#"
            [feeders.d]
            file = "d.csv"
            [values]
            zipf = { make = "range", from = 1, to = 1000, distribution = "zipf" }
            [fields]
            message = "${d.id} ${d.name} ${zipf} ${at} ${run}"
            at = { make = "timestamp", format = "%b %e %j", jitter = "1s" }
            moved = { make = "timestamp", offset = "-1s" }
            normal = { make = "range", from = 0.0, to = 9.0, decimals = 3, distribution = "normal" }
            exp = { make = "range", from = 0, to = 9, distribution = "exponential" }
            words = { make = "text", words = [1, 30] }
            code = { make = "pattern", pattern = '(a|\d{1,3})?[x-z]{4}' }
            id = { make = "id", digits = 40 }
            uuid = { make = "uuid" }
            n = { make = "counter" }
            "#,
        ),
    ]);
    let file = Source::File(folder.path().join("t.toml"));
    let sources = Builtin::ALL.map(Source::Builtin).into_iter().chain([file]);
    for source in sources {
        for sizes in ["0", "lognormal:500,0.7"] {
            let (source, sizes) = (source.clone(), sizes.parse().unwrap());
            let wanted = Wanted { source, sizes, malformed: 0.2, ..Wanted::default() };
            let payloads = Payloads::open(&wanted, 1, "r1").unwrap();
            let (author, stamp) = (Author::new(7), stamp());
            let mut out = Vec::with_capacity(8 << 20);
            let made = allocations::during(|| {
                for seq in 0..1000 {
                    payloads.append(&mut out, &stamp, &author, seq);
                }
            });
            assert_eq!(made, 0, "{wanted:?}");
        }
    }
}

#[test]
fn a_feeder_gives_its_columns_to_fields() {
    let files = folder(&[
        ("devices.csv", "id,port,name\nd1,80,\"a \"\"b\"\"\"\nd2,443,c\\d\n"),
        (
            "t.toml",
            r#"
            [feeders.devices]
            file = "devices.csv"
            [fields]
            level = "INFO"
            message = "from ${devices.name}:${devices.port}"
            device = "${devices.id}"
            port = { make = "reference", to = "devices.port", as = "number" }
            "#,
        ),
    ]);
    let payloads = Payloads::open(&wanted(&files.path().join("t.toml")), 1, "r1").unwrap();
    let found: Vec<Value> =
        lines(&payloads, 0, 0..3).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    // All columns of a message are of one row.
    assert_eq!(found[0]["message"], "from a \"b\":80");
    assert_eq!((&found[0]["device"], &found[0]["port"]), (&json!("d1"), &json!(80)));
    assert_eq!(found[1]["message"], "from c\\d:443");
    assert_eq!(found[2]["device"], "d1");
    let (told, end) = payloads.feeders();
    assert_eq!((&told[0][..], end), ("devices: 2 rows, the next one for each message", None));
}

#[test]
fn a_feeder_that_stops_says_after_how_many_messages() {
    let files = folder(&[
        ("d.csv", "id\n1\n2\n3\n"),
        ("t.toml", "text = \"/d/${d.id}\"\n[feeders.d]\nfile = \"d.csv\"\nend = \"stop\"\n"),
    ]);
    let payloads = Payloads::open(&wanted(&files.path().join("t.toml")), 1, "r1").unwrap();
    assert_eq!(payloads.feeders().1, Some(3));
    assert_eq!(lines(&payloads, 0, 0..3), ["/d/1", "/d/2", "/d/3"]);
    assert!(!payloads.has_identity());
}

#[test]
fn a_connection_has_a_row_of_its_own_on_every_shard() {
    let files = folder(&[
        ("d.csv", "id\n0\n1\n2\n3\n4\n5\n"),
        ("t.toml", "text = \"${d.id}\"\n[feeders.d]\nfile = \"d.csv\"\nper = \"connection\"\n"),
    ]);
    // The second of two flows, each with two of four lanes: its connections are 2, 3, 6, 7, 10, 11.
    let numbering = Numbering { lanes: 4, first: 2, count: 2 };
    let wanted = Wanted { numbering, ..wanted(&files.path().join("t.toml")) };
    let payloads = Payloads::open(&wanted, 1, "r1").unwrap();
    let rows: Vec<String> =
        [2, 3, 6, 7, 10, 11].iter().map(|&conn| lines(&payloads, conn, 4..5).remove(0)).collect();
    assert_eq!(rows, ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn what_is_wrong_is_named_with_file_line_field_and_value() {
    for (template, hints) in [
        ("[fields]\na = { make = \"dice\" }", &["t.toml:2", "fields.a", "\"dice\""][..]),
        ("[fields]\na = { make = \"range\", from = 9, to = 1 }", &["fields.a: from 9", "to 1"]),
        ("[fields]\na = { make = \"range\", to = 1 }", &["fields.a: has no `from`"]),
        ("[fields]\na = { make = \"range\", from = 0.5, to = 1 }", &["from 0.5", "0 decimals"]),
        ("[fields]\na = { make = \"id\", digit = 3 }", &["fields.a", "no `digit`", "digits"]),
        ("[fields]\na = { make = \"id\", digits = 0 }", &["digits 0"]),
        ("[fields]\na = { make = \"pattern\", pattern = 'a+' }", &["a+", "no end"]),
        ("[fields]\na = { make = \"timestamp\", format = 'iso' }", &["\"iso\""]),
        ("[fields]\na = { make = \"timestamp\", offset = 'soon' }", &["offset \"soon\""]),
        ("[fields]\na = { make = \"choice\", of = [] }", &["nothing to choose from"]),
        ("[fields]\na = { make = \"choice\", of = { x = -1 } }", &["weight -1"]),
        ("[fields]\na = { make = \"choice\", of = [1, 2], weights = [1] }", &["1 weights for 2"]),
        (
            "[fields]\na = { make = \"choice\", of = [1], with = 'b' }\nb = 3",
            &["with \"b\" is no choice"],
        ),
        ("[fields]\na = \"${b}\"", &["t.toml:2", "fields.a: ${b}", "no field"]),
        ("[fields]\na = \"${b\"", &["fields.a", "without its }"]),
        ("[fields]\na = \"${b}\"\nb = \"${a}\"", &["refers to itself"]),
        ("[fields]\na = \"x ${b}\"\nb = [1]", &["fields.b", "cannot stand within a text"]),
        ("[fields]\nseq = 5", &["fields.seq", "identity = false"]),
        ("[fields]\n", &["fields: has no field"]),
        ("[field]\na = 1", &["field: is not one of fields"]),
        ("text = 'a'\n[fields]\na = 1", &["text: beside fields"]),
        ("text = \"a\\nb\"", &["text", "'\\n'"]),
        ("", &["neither fields nor a text"]),
        ("[fields]\na = 1\n[feeders.d]\nfile = 'absent.csv'", &["feeders.d", "absent.csv"]),
        ("[fields]\na = 1\n[feeders.d]\nmode = 'shared'", &["feeders.d", "no file"]),
        ("[fields]\na = 1\n[feeders.d]\nfile = 'x'\nmode = 'both'", &["mode \"both\""]),
        (
            "[fields]\na = 1\n[feeders.d]\nfile = 'x'\nend = 'stop'\norder = 'random'",
            &["end stop needs"],
        ),
        ("[fields]\na = 1\n[values]\nb = { make = \"id\", digits = 'x' }", &["values.b", "digits"]),
        ("[fields]\na = ", &["t.toml", "line 2"]),
    ] {
        let error = open(template).err().unwrap_or_else(|| panic!("{template} is taken"));
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{text}");
        for hint in hints.iter().chain(&["TEMPLATE"]) {
            assert!(text.contains(hint), "{template}\n{text}\nlacks {hint}");
        }
    }
    let absent = Payloads::open(&wanted(Path::new("/no/such.toml")), 1, "r1").unwrap_err();
    assert!(absent.to_string().contains("/no/such.toml (TEMPLATE)"), "{absent}");
    let sized = Wanted { sizes: "500".parse().unwrap(), ..Wanted::default() };
    for (template, hint) in
        [("[fields]\nlevel = 'INFO'", "no text `message`"), ("text = 'a'", "cannot be lengthened")]
    {
        let files = folder(&[("t.toml", template)]);
        let source = Source::File(files.path().join("t.toml"));
        let error = Payloads::open(&Wanted { source, ..sized.clone() }, 1, "r").unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn references_to_references_do_not_explode() {
    let mut template = "[values]\nv0 = \"x\"\n".to_owned();
    for n in 1..40 {
        let before = n - 1;
        template.push_str(&format!("v{n} = \"${{v{before}}}${{v{before}}}\"\n"));
    }
    template.push_str("[fields]\na = \"${v39}\"\n");
    let error = open(&template).unwrap_err().to_string();
    assert!(error.contains("too many references"), "{error}");
}

#[test]
fn a_line_that_is_lengthened_keeps_all_its_members() {
    for message in ["\"short ${id}\"", "{ make = \"choice\", of = [\"a\", \"b\"] }"] {
        let template = format!(
            "[fields]\nlevel = \"INFO\"\nmessage = {message}\nid = {{ make = \"id\" }}\ntail = [1, 2]\n"
        );
        let files = folder(&[("t.toml", &template)]);
        let sizes = "lognormal:300,1".parse().unwrap();
        let wanted = Wanted { sizes, ..wanted(&files.path().join("t.toml")) };
        let payloads = Payloads::open(&wanted, 1, "r1").unwrap();
        let mut lengths = std::collections::BTreeSet::new();
        for line in lines(&payloads, 1, 0..300) {
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["tail"], json!([1, 2]));
            assert_eq!(value["id"].as_str().unwrap().len(), 16);
            lengths.insert(line.len());
        }
        assert!(lengths.len() > 100, "{}", lengths.len());
    }
}

/// A value as a template may have it, and as JSON.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop_oneof![
            Just(json!({"make": "id"})),
            Just(json!({"make": "uuid", "version": 7})),
            Just(json!({"make": "counter", "step": -2})),
            Just(json!({"make": "text", "words": [1, 4]})),
            Just(json!({"make": "range", "from": -3, "to": 70})),
            Just(json!({"make": "range", "from": -3.5, "to": 7.25, "decimals": 4,
                        "distribution": "normal"})),
            Just(json!({"make": "pattern", "pattern": "[\"\\\\é\\d]{0,5}(a|\\|)?"})),
            Just(json!({"make": "timestamp", "format": "\"%Y\" \\ %j", "jitter": "9s"})),
            Just(json!({"make": "choice", "of": {"\"": 1, "\\": 2}})),
        ],
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(inner.clone(), 1..4)
                .prop_map(|of| json!({"make": "choice", "of": of})),
            prop::collection::vec(("[a-z\"\\\\é]{1,4}", inner), 0..5).prop_map(|members| {
                Value::Object(members.into_iter().filter(|(name, _)| name != "make").collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_template_makes_valid_json_within_its_bounds(
        members in prop::collection::vec(any_value(), 1..6),
        seed in any::<u64>(),
    ) {
        let fields: serde_json::Map<String, Value> = members
            .into_iter()
            .enumerate()
            .map(|(index, value)| (format!("f{index}"), value))
            .collect();
        let template = json!({"fields": fields}).to_string();
        let files = folder(&[("t.json", &template)]);
        let path = files.path().join("t.json");
        // A text may hold a reference by accident; then it is refused, and that is fine.
        let payloads = match Payloads::open(&wanted(&path), seed, "r1") {
            Ok(payloads) => payloads,
            Err(error) => {
                prop_assert!(template.contains("${"), "{error}: {template}");
                return Ok(());
            }
        };
        for line in lines(&payloads, seed % 7, 0..20) {
            let value: Value = serde_json::from_str(&line)
                .map_err(|error| TestCaseError::fail(format!("{error}: {line}")))?;
            for (name, asked) in &fields {
                let is_made = asked.get("make").is_some();
                prop_assert!(value.get(name).is_some());
                if !is_made && !asked.is_object() && !asked.is_array() && !asked.is_string() {
                    prop_assert_eq!(&value[name], asked);
                }
            }
        }
    }

    #[test]
    fn no_text_makes_a_template_panic(text in "\\PC{0,200}") {
        let _ = open(&text);
        let _ = open(&format!("[fields]\na = '''{text}'''"));
    }
}
