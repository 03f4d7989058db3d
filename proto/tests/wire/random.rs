//! The fuzz harness with a bounded number of inputs: the committed seeds, mutations of them, and
//! documents made up from scratch. Every random input is a function of a number that is printed
//! when it fails.

use std::path::Path;

use fastrand::Rng;

use crate::harness::{self, Check, TARGETS, framing, gzip, parse};

fn seeds_of(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{target}");
    seeds
}

/// Says which input failed.
struct Case(String);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failing case: {}", self.0);
        }
    }
}

#[test]
fn every_target_has_seeds_and_every_seed_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (inside, end) in [("seeds", ""), ("fuzz_targets", ".rs")] {
        let mut names: Vec<_> = std::fs::read_dir(folder.join(inside))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, TARGETS.map(|(name, _)| format!("{name}{end}")));
    }
}

#[test]
fn every_committed_seed_passes() {
    for (target, check) in TARGETS {
        for (name, seed) in seeds_of(target) {
            let _case = Case(name);
            check(&seed);
        }
    }
}

#[test]
fn every_committed_seed_passes_with_other_bounds_cuts_and_holds() {
    for (target, check, scratches) in
        [("framing", framing::check as Check, &[][..]), ("gzip", gzip::check, &[1])]
    {
        for (name, seed) in seeds_of(target) {
            for bound in [1, 5] {
                for cuts in [0, 5, 40, 255] {
                    for holds in [0, 1, 4] {
                        let _case = Case(format!("{name} {bound} {cuts} {holds}"));
                        let mut input = seed.clone();
                        input[..3].copy_from_slice(&[bound, cuts, holds]);
                        check(&input);
                        for scratch in scratches {
                            input[3] = input[3] & 0x80 | scratch;
                            check(&input);
                        }
                    }
                }
            }
        }
    }
}

fn mutated_seeds_pass(target: &str, times: u64) {
    let seeds = seeds_of(target);
    for number in 0..times {
        let _case = Case(format!("mutation {number} of {target}"));
        let mut rng = Rng::with_seed(number);
        let mut input = rng.choice(&seeds).unwrap().1.clone();
        for _ in 0..rng.usize(1..6) {
            mutate(&mut input, &mut rng);
        }
        harness::check(target, &input);
    }
}

#[test]
fn mutated_seeds_of_framing_pass() {
    mutated_seeds_pass("framing", 4000);
}

#[test]
fn mutated_seeds_of_gzip_pass() {
    mutated_seeds_pass("gzip", 2000);
}

#[test]
fn mutated_seeds_of_hello_pass() {
    mutated_seeds_pass("hello", 4000);
}

#[test]
fn mutated_seeds_of_parse_pass() {
    mutated_seeds_pass("parse", 4000);
}

#[test]
fn documents_made_up_from_scratch_pass() {
    for number in 0..4000 {
        let _case = Case(format!("document {number}"));
        let mut rng = Rng::with_seed(number);
        let mut input = vec![rng.u8(..), rng.u8(..), rng.u8(..)];
        for _ in 0..rng.usize(1..6) {
            write_line(&mut input, &mut rng);
            if rng.usize(..3) == 0 {
                mutate(&mut input, &mut rng);
            }
            input.extend_from_slice(
                rng.choice([&b"\n"[..], b"\n", b"\r\n", b"\n\n", b"\r\r\n"].iter()).unwrap(),
            );
        }
        framing::check(&input);
        parse::check(&input[3..]);
    }
}

/// Every byte value at every place of a line which uses the whole grammar.
#[test]
fn any_byte_put_into_any_place_gives_the_verdict_of_the_oracle() {
    let line = br#"{"level":"INFO","id":-17,"n":1.5e-3,"a":[true,null,"\u00e9\n"],"message":"x"}"#;
    let mut scratch = proto::Scratch::new();
    for at in 0..line.len() {
        for byte in 0..=255 {
            let mut line = line.to_vec();
            line[at] = byte;
            parse::check_record(&line, &mut scratch);
            line.truncate(at + 1);
            parse::check_record(&line, &mut scratch);
        }
    }
}

fn mutate(input: &mut Vec<u8>, rng: &mut Rng) {
    const WORDS: [&[u8]; 24] = [
        b"\"",
        b"\\",
        b"\\u",
        b"\\ud83d",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b"\xf0\x9f\x98\x80",
        b"\n",
        b"\r",
        b" ",
        b"0",
        b"9999999999999999999",
        b"e999",
        b"-",
        b".",
        b"\"level\":",
        b"\"id\":",
    ];
    let at = rng.usize(..=input.len());
    match rng.usize(..5) {
        0 if at < input.len() => input[at] = rng.u8(..),
        1 if at < input.len() => input[at] ^= 1 << rng.usize(..8),
        2 => {
            let end = (at + rng.usize(..40)).min(input.len());
            input.drain(at..end);
        }
        3 => {
            let end = (at + rng.usize(..80)).min(input.len());
            let piece = input[at..end].to_vec();
            let to = rng.usize(..=input.len());
            input.splice(to..to, piece);
        }
        _ => {
            let word = rng.choice(WORDS).unwrap();
            input.splice(at..at, word.iter().copied());
        }
    }
}

fn write_line(out: &mut Vec<u8>, rng: &mut Rng) {
    if rng.usize(..20) == 0 {
        return write_value(out, rng, 0);
    }
    let mut members: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for (name, usual) in [(&b"\"level\""[..], 12), (b"\"message\"", 12), (b"\"id\"", 3)] {
        if rng.usize(..usual + 1) == 0 {
            continue;
        }
        let mut value = Vec::new();
        match (name, rng.usize(..8)) {
            (_, 0) => write_value(&mut value, rng, 1),
            (b"\"level\"", _) => {
                let words =
                    ["INFO", "debug", "Warning", "FATAL", "WARN", "trace", "LOUD", "critical"];
                value = format!("\"{}\"", rng.choice(words).unwrap()).into_bytes();
            }
            (b"\"id\"", 1..4) => write_number(&mut value, rng),
            _ => write_string(&mut value, rng),
        }
        members.push((name, value));
    }
    for _ in 0..rng.usize(..6) {
        let names: [&[u8]; 8] = [
            b"\"a\"",
            b"\"\"",
            b"\"l\\u0065vel\"",
            b"\"levels\"",
            b"\"i\\u0064\"",
            b"\"id\"",
            b"\"message\"",
            b"\"n\"",
        ];
        let mut value = Vec::new();
        write_value(&mut value, rng, 1);
        members.push((rng.choice(names).unwrap(), value));
    }
    rng.shuffle(&mut members);
    out.push(b'{');
    for (at, (name, value)) in members.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        write_white(out, rng);
        out.push(b':');
        write_white(out, rng);
        out.extend_from_slice(value);
    }
    out.push(b'}');
}

fn write_white(out: &mut Vec<u8>, rng: &mut Rng) {
    if rng.usize(..6) == 0 {
        out.extend_from_slice(rng.choice([&b" "[..], b"\t", b"\r", b"   "].iter()).unwrap());
    }
}

fn write_value(out: &mut Vec<u8>, rng: &mut Rng, depth: usize) {
    match rng.usize(..if depth > 4 { 7 } else { 10 }) {
        0 => out.extend_from_slice(b"null"),
        1 => out.extend_from_slice(b"true"),
        2 => out.extend_from_slice(b"false"),
        3 | 4 => write_number(out, rng),
        5 | 6 => write_string(out, rng),
        kind => {
            let (open, close) = if kind == 9 { (b'[', b']') } else { (b'{', b'}') };
            out.push(open);
            for at in 0..rng.usize(..4) {
                if at > 0 {
                    out.push(b',');
                }
                write_white(out, rng);
                if open == b'{' {
                    write_string(out, rng);
                    out.push(b':');
                }
                write_value(out, rng, depth + 1);
                write_white(out, rng);
            }
            out.push(close);
        }
    }
}

fn write_number(out: &mut Vec<u8>, rng: &mut Rng) {
    let text = match rng.usize(..9) {
        0 => "-0".to_owned(),
        1 => rng.u64(..).to_string(),
        2 => rng.i64(..).to_string(),
        3 => format!("{}{}", rng.u64(..), rng.u64(..)),
        4 => format!("{}e{}", rng.i32(..), rng.i32(-400..400)),
        5 => format!("{}.{}", rng.i16(..), rng.u64(..)),
        7 => format!("{}{}", rng.i16(..), "0".repeat(rng.usize(..330))),
        6 => f64::from_bits(rng.u64(..)).to_string(),
        _ => rng.u8(..).to_string(),
    };
    out.extend_from_slice(text.as_bytes());
}

fn write_string(out: &mut Vec<u8>, rng: &mut Rng) {
    out.push(b'"');
    let length = *rng.choice([0, 1, 3, 8, 20, 31, 64, 127, 128, 129].iter()).unwrap();
    for _ in 0..length {
        match rng.usize(..40) {
            0 => out.extend_from_slice(format!("\\u{:04x}", rng.u16(..)).as_bytes()),
            1 => out.extend_from_slice(b"\\ud83d\\ude00"),
            2 => {
                let escapes = [&b"\\n"[..], b"\\\"", b"\\\\", b"\\/", b"\\b", b"\\t", b"\\x"];
                out.extend_from_slice(rng.choice(escapes.iter()).unwrap());
            }
            3 => {
                let mut utf8 = [0; 4];
                out.extend_from_slice(rng.char(..).encode_utf8(&mut utf8).as_bytes());
            }
            _ => out.push(rng.alphanumeric() as u8),
        }
    }
    out.push(b'"');
}
