//! Responses at every split, beside a slow oracle that has the whole stream before it.

use proptest::prelude::*;

use super::*;
use crate::allocations;

/// What a stream came to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    replies: Vec<Reply>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Between two responses.
    Clean,
    /// Within one.
    Cut,
    Mismatch,
}

/// Feeds `chunks`, each to its end, and then the end of the stream.
fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, heads: &[bool]) -> Outcome {
    let (mut responses, mut memo) = (Responses::default(), Memo::default());
    let mut replies = Vec::new();
    for chunk in chunks {
        let mut input = chunk;
        while !input.is_empty() {
            let is_head = heads.get(replies.len()).copied().unwrap_or(false);
            match responses.next(&mut input, &mut memo, is_head) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => assert!(input.is_empty(), "all of it is taken"),
                Err(_) => return Outcome { replies, end: End::Mismatch },
            }
        }
    }
    let end = if responses.is_idle() {
        End::Clean
    } else if let Some(reply) = responses.end() {
        replies.push(reply);
        End::Clean
    } else {
        End::Cut
    };
    Outcome { replies, end }
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts = cuts.to_vec();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Every way to cut `bytes` into two, all single bytes, and the whole.
fn read_all_ways(bytes: &[u8], heads: &[bool]) -> Outcome {
    let whole = read([bytes], heads);
    assert_eq!(read(bytes.chunks(1), heads), whole, "byte by byte");
    for at in 0..=bytes.len() {
        assert_eq!(read(cut(bytes, &[at]), heads), whole, "cut at {at}");
    }
    whole
}

fn reply(status: u16, keeps_alive: bool) -> Reply {
    Reply { status, keeps_alive }
}

/// A response as it is made, with what it has to come to.
#[derive(Clone, Debug)]
struct Made {
    bytes: Vec<u8>,
    is_head: bool,
    reply: Reply,
    /// It ends with the connection.
    is_last: bool,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Length(usize),
    Chunks(Vec<usize>, bool),
    UntilClose(usize),
}

fn made() -> impl Strategy<Value = Made> {
    let body = prop_oneof![
        Just(Body::None),
        (0usize..600).prop_map(Body::Length),
        (prop::collection::vec(1usize..300, 0..4), any::<bool>())
            .prop_map(|(chunks, trailers)| Body::Chunks(chunks, trailers)),
        (0usize..300).prop_map(Body::UntilClose),
    ];
    let status = prop_oneof![3 => Just(200u16), 1 => Just(204), 1 => Just(404), 1 => Just(304),
        1 => Just(503), 1 => Just(999)];
    (status, body, any::<bool>(), 0usize..3, any::<bool>()).prop_map(
        |(status, body, is_head, interim, says_close)| {
            let mut bytes = Vec::new();
            for _ in 0..interim {
                bytes.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            }
            let text = format!("HTTP/1.1 {status} Some Words\r\nServer: x\r\n");
            bytes.extend_from_slice(text.as_bytes());
            let has_none = is_head || matches!(status, 204 | 304);
            let body = if has_none { Body::None } else { body };
            let is_until_close = matches!(body, Body::UntilClose(_));
            // In a body, what looks like a head is none.
            let fill = |n: usize| b"HTTP/1.1 500\r\n\r\n".iter().copied().cycle().take(n);
            if says_close {
                bytes.extend_from_slice(b"Connection: close\r\n");
            }
            match body {
                Body::None if has_none => bytes.extend_from_slice(b"Content-Length: 77\r\n\r\n"),
                Body::None => bytes.extend_from_slice(b"Content-Length: 0\r\n\r\n"),
                Body::Length(n) => {
                    bytes.extend_from_slice(format!("Content-Length: {n}\r\n\r\n").as_bytes());
                    bytes.extend(fill(n));
                }
                Body::Chunks(chunks, has_trailers) => {
                    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                    for n in chunks {
                        bytes.extend_from_slice(format!("{n:X};name=\"value\"\r\n").as_bytes());
                        bytes.extend(fill(n));
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(b"0\r\n");
                    if has_trailers {
                        bytes.extend_from_slice(b"Checksum: 123\r\nOther: 4\r\n");
                    }
                    bytes.extend_from_slice(b"\r\n");
                }
                Body::UntilClose(n) => {
                    bytes.extend_from_slice(b"\r\n");
                    bytes.extend(fill(n));
                }
            }
            let keeps_alive = !says_close && !is_until_close;
            Made { bytes, is_head, reply: reply(status, keeps_alive), is_last: is_until_close }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_split_gives_the_responses_that_were_made(
        all in prop::collection::vec(made(), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        short in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let last = all.iter().position(|one| one.is_last).map_or(all.len(), |at| at + 1);
        let all = &all[..last];
        let heads: Vec<bool> = all.iter().map(|one| one.is_head).collect();
        let mut bytes: Vec<u8> = all.iter().flat_map(|one| one.bytes.iter().copied()).collect();
        let mut expected =
            Outcome { replies: all.iter().map(|one| one.reply).collect(), end: End::Clean };
        if let Some(at) = short.map(|at| at.index(bytes.len() + 1)) {
            // The stream breaks off: what was whole by then counts.
            bytes.truncate(at);
            let mut begin = 0;
            expected = Outcome { replies: Vec::new(), end: End::Clean };
            for one in all {
                let text = String::from_utf8_lossy(&one.bytes);
                // An answer that ends with the connection needs its head.
                let body = text.rfind("Some Words").map_or(0, |at| {
                    at + text[at..].find("\r\n\r\n").unwrap_or(0) + 4
                });
                if begin + one.bytes.len() <= at || one.is_last && begin + body <= at {
                    expected.replies.push(one.reply);
                } else if begin < at {
                    expected.end = End::Cut;
                }
                begin += one.bytes.len();
            }
        }
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        prop_assert_eq!(&read(cut(&bytes, &cuts), &heads), &expected);
        prop_assert_eq!(&read([&bytes[..]], &heads), &expected);
        prop_assert_eq!(&read(bytes.chunks(1), &heads), &expected);
    }

    /// Whatever a liar does to the bytes, how they are cut makes no difference.
    #[test]
    fn any_split_of_damaged_bytes_comes_to_the_same(
        all in prop::collection::vec(made(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let heads: Vec<bool> = all.iter().map(|one| one.is_head).collect();
        let mut bytes: Vec<u8> = all.iter().flat_map(|one| one.bytes.iter().copied()).collect();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = read([&bytes[..]], &heads);
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        prop_assert_eq!(&read(cut(&bytes, &cuts), &heads), &whole);
        prop_assert_eq!(&read(bytes.chunks(1), &heads), &whole);
    }
}

#[test]
fn chunk_frames_that_are_not_exact_are_mismatches() {
    let with = |body: &str| {
        let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        read_all_ways(text.as_bytes(), &[])
    };
    let whole = Outcome { replies: vec![reply(200, true)], end: End::Clean };
    for body in ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "05 ; a=b\r\nhello\r\n000\r\nA: b\r\n\r\n"]
    {
        assert_eq!(with(body), whole, "{body:?}");
    }
    let mismatch = Outcome { replies: Vec::new(), end: End::Mismatch };
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "0x5\r\n",
        "5\nhello",
        "5\r\nhelloo\r\n",
        "5\r\nhello\n",
        "5;a\n",
        "1000000000000000\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\n\n",
        "0\r\n\r\r",
    ] {
        assert_eq!(with(body), mismatch, "{body:?}");
    }
    // A size beyond any body is believed, and never comes to its end.
    assert_eq!(with("fffffffffffffff\r\nabc"), Outcome { end: End::Cut, ..mismatch.clone() });
    for endless in [
        format!("5;{}", "a".repeat(CHUNK_LINE_BYTES_MAX + 1)),
        format!("0\r\n{}", "A: b\r\n".repeat(HEAD_BYTES_MAX / 4 + 1)),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{endless}");
        for size in [text.len(), 1, 1000] {
            assert_eq!(read(text.as_bytes().chunks(size), &[]), mismatch);
        }
    }
}

#[test]
fn what_is_no_http_is_a_mismatch_at_its_first_wrong_byte() {
    let mismatch = Outcome { replies: Vec::new(), end: End::Mismatch };
    for text in ["{\"status\":\"ok\"}\n", "\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/2.0 ", "\x15\x03"] {
        assert_eq!(read_all_ways(text.as_bytes(), &[]), mismatch, "{text:?}");
    }
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokMORE";
    let outcome = read_all_ways(answer.as_bytes(), &[]);
    assert_eq!(outcome, Outcome { replies: vec![reply(200, true)], ..mismatch });
}

#[test]
fn an_endless_head_and_endless_hints_are_given_up() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    for n in 0..10_000 {
        endless.extend_from_slice(format!("X-{n}: y\r\n").as_bytes());
    }
    let mismatch = Outcome { replies: Vec::new(), end: End::Mismatch };
    assert_eq!(read([&endless[..]], &[]), mismatch);
    assert_eq!(read(endless.chunks(1), &[]), mismatch);
    assert_eq!(read(endless.chunks(1000), &[]), mismatch);
    // The longest that is allowed, and one byte more.
    for (more, end) in [(0, End::Clean), (1, End::Mismatch)] {
        let frame = "HTTP/1.1 204 x\r\nA: \r\n\r\n".len();
        let text =
            format!("HTTP/1.1 204 x\r\nA: {}\r\n\r\n", "b".repeat(HEAD_BYTES_MAX - frame + more));
        for size in [text.len(), 1, 4096] {
            assert_eq!(read(text.as_bytes().chunks(size), &[]).end, end, "{more} {size}");
        }
    }
    let hints = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(INTERIM_MAX as usize + 1);
    assert_eq!(read([&hints[..]], &[]), mismatch);
}

#[test]
fn switching_protocols_ends_the_connection() {
    let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
    let outcome = read_all_ways(text, &[]);
    assert_eq!(outcome, Outcome { replies: vec![reply(101, false)], end: End::Clean });
}

#[test]
fn the_usual_response_allocates_nothing() {
    let one = |second: u32| {
        format!("HTTP/1.1 200 OK\r\nDate: {second:02}\r\nContent-Length: 5\r\n\r\nhello")
    };
    let texts = [one(1), one(2)];
    let (mut responses, mut memo) = (Responses::default(), Memo::default());
    let mut run = |cut: usize| {
        for text in texts.iter().cycle().take(100) {
            for mut chunk in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                let _ = std::hint::black_box(responses.next(&mut chunk, &mut memo, false));
            }
        }
    };
    run(3);
    let cuts = [0, 3, 20, 50];
    assert_eq!(allocations::during(|| cuts.into_iter().for_each(&mut run)), 0);
}
