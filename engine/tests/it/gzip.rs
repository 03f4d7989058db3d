//! Gzip members on a connection, between plain lines.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proto::Code;

use super::clients::line;
use super::harness::{Engine, stored};

fn member(content: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn members_and_plain_lines_mix_and_each_line_is_answered_and_stored() {
    let engine = Engine::start(&[]);
    let mut input = Vec::new();
    let mut ids = Vec::new();
    for round in 0..20 {
        let lines: Vec<_> = (0..round * 7).map(|n| format!("packed-{round}-{n}")).collect();
        // The end of a member ends its last line.
        let content: Vec<_> = lines.iter().map(|id| line(id)).collect();
        input.extend(member(&content.join("\n")));
        ids.extend(lines);
        let plain = format!("plain-{round}");
        writeln!(input, "{}", line(&plain)).unwrap();
        ids.push(plain);
    }
    let replies = engine.converse(&input);
    let answered: Vec<_> = replies
        .iter()
        .map(|reply| reply.id.as_ref().unwrap().as_str().unwrap().to_owned())
        .collect();
    assert_eq!(answered, ids, "a reply a line, in line order");
    let stopped = engine.stop();
    stopped.assert_clean();
    assert!(stopped.total("bytes_inflated") > 0);
    let expected = ids.iter().map(|id| (line(id), 1)).collect();
    assert_eq!(stored(stopped.folder.path()), expected);
}

#[test]
fn a_damaged_member_costs_its_connection_but_not_what_came_before() {
    let engine = Engine::start(&[]);
    let mut input = format!("{}\n", line("before")).into_bytes();
    let mut damaged = member(&format!("{}\n", line("inside")).repeat(100));
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    input.extend(damaged);
    writeln!(input, "{}", line("behind")).unwrap();
    let replies = engine.converse(&input);
    assert_eq!(replies[0].id.as_ref().unwrap(), "before");
    let last = replies.last().unwrap();
    assert!(last.fatal);
    assert_eq!(last.code.as_deref(), Some(Code::BadGzip.as_str()));
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("gzip_errors"), 1);
    assert!(!stored(stopped.folder.path()).contains_key(&line("behind")));
}

#[test]
fn a_member_that_is_cut_off_is_damaged() {
    let engine = Engine::start(&[]);
    let mut input = member(&format!("{}\n", line("a")));
    input.truncate(input.len() - 4);
    let replies = engine.converse(&input);
    assert_eq!(replies.last().unwrap().code.as_deref(), Some(Code::BadGzip.as_str()));
    engine.stop().assert_clean();
}

#[test]
fn a_hello_is_none_inside_a_member() {
    let engine = Engine::start(&[]);
    let replies = engine.converse(&member("{\"hello\":{\"version\":1}}\n"));
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].code.as_deref(), Some(Code::MissingField.as_str()));
}

#[test]
fn a_large_member_is_taken_slice_by_slice_while_others_are_served() {
    let engine = Engine::start(&[("SHARDS", "1")]);
    let lines: String = (0..200_000).map(|n| line(&n.to_string()) + "\n").collect();
    let packed = member(&lines);
    let answered = std::thread::scope(|scope| {
        let large = scope.spawn(|| engine.converse(&packed).len());
        for n in 0..20 {
            let replies = engine.converse(format!("{}\n", line(&format!("other-{n}"))).as_bytes());
            assert_eq!(replies.len(), 1);
        }
        large.join().unwrap()
    });
    assert_eq!(answered, 200_000);
    let stopped = engine.stop();
    stopped.assert_clean();
    assert_eq!(stopped.total("ok"), 200_020);
}
