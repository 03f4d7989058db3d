//! gzip: members between lines, whatever the cuts, the holds and the scratch; damage and bombs.

use std::io::{Read, Write};

use flate2::{Compression, GzBuilder, bufread, write};
use proptest::prelude::*;
use proto::gzip::datagram;
use proto::{Bad, Bounds, Code, Flow, Frame, Origin, Step, Unpack};

const BOUNDS: Bounds = Bounds { ratio_max: 1000, ratio_after_bytes: 8 << 20 };

fn member(text: &[u8]) -> Vec<u8> {
    let mut packer = write::GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

/// A frame as text and `*` before it if it was packed; `-` for one that is too long.
fn text_of(frame: Frame<'_>, origin: Origin) -> String {
    let star = if origin == Origin::Packed { "*" } else { "" };
    match frame {
        Frame::Line(line) => format!("{star}{}", line.escape_ascii()),
        Frame::TooLong => format!("{star}-"),
    }
}

/// All frames of a stream that comes in chunks; every step is followed as it asks.
fn frames_of(chunks: &[&[u8]], scratch_bytes: usize) -> (Vec<String>, Result<(), Bad>) {
    let mut unpack = Unpack::new(100, BOUNDS);
    let mut scratch = vec![0; scratch_bytes];
    let mut frames = Vec::new();
    let mut on = |frame: Frame<'_>, origin| {
        frames.push(text_of(frame, origin));
        Flow::Next
    };
    let mut all = || -> Result<(), Bad> {
        for chunk in chunks {
            let mut step = unpack.feed(chunk, &mut scratch, &mut on)?;
            while step != Step::Hungry {
                step = unpack.feed(&[], &mut scratch, &mut on)?;
            }
        }
        while unpack.finish(&mut scratch, &mut on)? != Step::Hungry {}
        assert!(unpack.is_empty() && unpack.carry_len() == 0);
        Ok(())
    };
    let result = all();
    (frames, result)
}

fn good(chunks: &[&[u8]]) -> Vec<String> {
    let (frames, result) = frames_of(chunks, 64);
    result.unwrap();
    frames
}

#[test]
fn members_and_lines_mix() {
    let stream =
        [&b"a\n"[..], &member(b"b\nc\n"), &member(b"d"), b"\r\n\ne\n", &member(b""), b"f"].concat();
    assert_eq!(good(&[&stream]), ["a", "*b", "*c", "*d", "e", "f"]);
    let bytes: Vec<_> = stream.chunks(1).collect();
    assert_eq!(good(&bytes), ["a", "*b", "*c", "*d", "e", "f"]);
}

#[test]
fn only_the_whole_magic_where_a_line_begins_opens_a_member() {
    assert_eq!(good(&[b"\x1f\n"]), ["\\x1f"]);
    assert_eq!(good(&[b"\x1f", b"\n\x1f", b"x\n"]), ["\\x1f", "\\x1fx"]);
    assert_eq!(good(&[b"\x1f"]), ["\\x1f"]);
    assert_eq!(good(&[b"a\x1f\x8b\n \x1f\x8b\n\r\x1f\x8b\n"]).len(), 3);
    assert_eq!(good(&[b"\x8b\x1f\x8b"]), ["\\x8b\\x1f\\x8b"]);
    let packed = member(b"x");
    assert_eq!(good(&[b"\x1f", &packed[1..], b"y"]), ["*x", "y"]);
    assert_eq!(good(&[b"a\n\x1f", &packed[1..5], &packed[5..]]), ["a", "*x"]);
    // In a member there are no members.
    assert_eq!(good(&[&member(b"\x1f\x8bz\n")]), ["*\\x1f\\x8bz"]);
}

#[test]
fn header_fields_are_skipped_and_a_wrong_header_checksum_is_damage() {
    let mut packer = GzBuilder::new()
        .filename("app.ndjson")
        .comment("two\nlines")
        .extra(vec![0x1f; 300])
        .mtime(7)
        .write(Vec::new(), Compression::best());
    packer.write_all(b"one\ntwo").unwrap();
    assert_eq!(good(&[&packer.finish().unwrap()]), ["*one", "*two"]);

    // FHCRC: the flag, and the lower half of the header's CRC behind it.
    let plain = member(b"one");
    let mut header = plain[..10].to_vec();
    header[3] = 2;
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    let sum = crc.sum().to_le_bytes();
    assert_eq!(good(&[&header, &sum[..2], &plain[10..]]), ["*one"]);
    let (_, result) = frames_of(&[&header, &[sum[0], !sum[1]], &plain[10..]], 64);
    assert_eq!(result.unwrap_err().code(), Code::BadGzip);
}

#[test]
fn damage_is_found_and_lines_of_earlier_slices_are_kept() {
    let text: Vec<u8> = (0..200).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let packed = member(&text);
    for at in [packed.len() - 8, packed.len() - 1] {
        let mut bad = packed.clone();
        bad[at] ^= 1;
        let (frames, result) = frames_of(&[&bad], 64);
        let reason = result.unwrap_err().to_string();
        assert!(reason.starts_with("gzip member is damaged: incorrect "), "{reason}");
        assert!(frames.len() > 150);
    }
    let (_, result) = frames_of(&[&[0x1f, 0x8b, 9, 0, 0, 0, 0, 0, 0, 0]], 64);
    assert_eq!(result.unwrap_err().code(), Code::BadGzip);
}

#[test]
fn a_stream_that_ends_inside_a_member_is_damaged_and_keeps_its_whole_lines() {
    let packed = member(b"one\ntwo\nthree");
    for len in 2..packed.len() {
        let (frames, result) = frames_of(&[b"a\n", &packed[..len]], 64);
        assert_eq!(result, Err(Bad::Damaged("it is cut off".into())));
        assert_eq!(frames[0], "a");
        assert!(!frames.contains(&"*three".to_owned()), "may be cut");
        if len >= packed.len() - 8 {
            assert_eq!(frames, ["a", "*one", "*two"]);
        }
    }
}

/// A gzip member of `text`, as often as it takes to inflate to `mebibytes`.
fn bomb(text: &[u8], mebibytes: usize) -> Vec<u8> {
    let mut packer = write::GzEncoder::new(Vec::new(), Compression::best());
    let mebibyte: Vec<u8> = text.iter().copied().cycle().take(1 << 20).collect();
    for _ in 0..mebibytes {
        packer.write_all(&mebibyte).unwrap();
    }
    packer.finish().unwrap()
}

/// Feeds in chunks as a connection does; gives the most memory that was kept, in bytes, the frames
/// and how it ended.
fn memory_of(stream: &[u8], bounds: Bounds, chunk: usize) -> (usize, u64, u64, Result<(), Bad>) {
    const SCRATCH_BYTES: u64 = 64 << 10;
    let mut unpack = Unpack::new(262_144, bounds);
    let mut scratch = vec![0; 64 << 10];
    let (mut most, mut frames, mut inflated) = (0, 0, 0);
    for chunk in stream.chunks(chunk) {
        let mut bytes = chunk;
        loop {
            let step = unpack.feed(bytes, &mut scratch, |_, _| {
                frames += 1;
                Flow::Next
            });
            most = most.max(unpack.capacity_bytes());
            let slice = unpack.inflated_bytes();
            assert!(slice <= SCRATCH_BYTES, "a slice yields");
            inflated += slice;
            match step {
                Ok(Step::Hungry) => break,
                Ok(_) => bytes = &[],
                Err(bad) => return (most, frames, inflated, Err(bad)),
            }
        }
    }
    (most, frames, inflated, Ok(()))
}

#[test]
fn a_bomb_is_caught_by_its_ratio_and_inflates_to_no_memory() {
    // Without a line end, only line ends, and short lines. Few of the latter: debug builds are slow.
    for (text, mebibytes, after, frames_max) in [
        (&b"\0"[..], 64, BOUNDS.ratio_after_bytes, 1),
        (b"\n", 2, 1 << 20, 0),
        (b"x\n", 2, 1 << 20, u64::MAX),
    ] {
        let stream = bomb(text, mebibytes);
        assert!(stream.len() * 1000 < mebibytes << 20, "steep enough for a ratio of 1000");
        let bounds = Bounds { ratio_max: 1000, ratio_after_bytes: after };
        let (most, frames, inflated, result) = memory_of(&stream, bounds, 4096);
        assert_eq!(result, Err(Bad::TooLarge { ratio_max: 1000 }));
        assert!(inflated <= after, "{inflated}");
        assert!(frames <= frames_max);
        assert!(most <= 700_000, "{most} bytes kept");
        // A ratio that deflate cannot reach: all of it, in as little memory.
        let open = Bounds { ratio_max: 1033, ..bounds };
        let (most, frames, inflated, result) = memory_of(&stream, open, 4096);
        assert_eq!((result, inflated), (Ok(()), (mebibytes << 20) as u64));
        assert!(frames <= frames_max);
        assert!(most <= 700_000, "{most} bytes kept");
    }
}

#[test]
fn the_ratio_is_that_of_one_member_once_it_is_past_its_threshold() {
    // Below the threshold anything goes, as often as it comes; every slice yields.
    let stream = [bomb(b"\0", 8), b"\n".to_vec()].concat().repeat(8);
    let (most, frames, inflated, result) = memory_of(&stream, BOUNDS, 1 << 20);
    assert_eq!((result, frames, inflated), (Ok(()), 8, 64 << 20));
    assert!(most <= stream.len() + 700_000);
    // Above it, what was inflated so far counts: lines at a usual ratio pass.
    let lines: Vec<u8> = (0..100_000_u32)
        .flat_map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect();
    let stream = member(&lines.repeat(9));
    let (_, frames, inflated, result) = memory_of(&stream, BOUNDS, 64 << 10);
    assert_eq!((result, frames), (Ok(()), 900_000));
    assert!(inflated > 8 << 20);
    let ratio = inflated / stream.len() as u64;
    let low = Bounds { ratio_max: ratio - 1, ratio_after_bytes: 1000 };
    assert!(ratio > 1 && memory_of(&stream, low, 64 << 10).3.is_err());
}

#[test]
fn what_inflates_to_nothing_yields_too() {
    let stream = member(b"").repeat(3000);
    let mut unpack = Unpack::new(100, BOUNDS);
    let mut scratch = vec![0; 4096];
    let mut calls = 1;
    let mut step = unpack.feed(&stream, &mut scratch, |_, _| Flow::Next).unwrap();
    while step == Step::Again {
        calls += 1;
        step = unpack.feed(&[], &mut scratch, |_, _| Flow::Next).unwrap();
    }
    assert_eq!(step, Step::Hungry);
    assert!(calls >= stream.len() / 1024, "{calls} calls, each reads a quarter of the scratch");
    assert!(unpack.capacity_bytes() <= 4096);
}

#[test]
fn a_held_frame_stops_inflation_and_what_is_kept_is_bounded() {
    let stream = bomb(b"a line.\n", 4);
    let mut unpack = Unpack::new(100, BOUNDS);
    let mut scratch = vec![0; 8192];
    let (mut taken, mut inflated) = (0_u64, 0);
    let mut bytes = &stream[..];
    for turn in 0.. {
        // Takes 300 frames a turn; a slice makes more.
        let mut turn_taken = 0;
        let step = unpack.feed(bytes, &mut scratch, |frame, origin| {
            assert_eq!((frame, origin), (Frame::Line(b"a line."), Origin::Packed));
            turn_taken += 1;
            if turn_taken > 300 { Flow::Hold } else { Flow::Next }
        });
        bytes = &[];
        taken += turn_taken.min(300);
        inflated += unpack.inflated_bytes();
        assert!(unpack.carry_len() <= 101 + scratch.len() + stream.len());
        assert!(inflated <= 8 * taken + 8 + scratch.len() as u64, "ahead by a slice at most");
        if step.unwrap() == Step::Hungry {
            break;
        }
        if turn % 10 == 0 {
            for _ in 0..3 {
                assert_eq!(unpack.feed(&[], &mut scratch, |_, _| Flow::Hold), Ok(Step::Held));
            }
            inflated += unpack.inflated_bytes();
            assert!(inflated <= 8 * taken + 8 + scratch.len() as u64, "nothing while it is held");
        }
    }
    assert_eq!(taken, (4 << 20) / 8);
    while unpack.finish(&mut scratch, |_, _| Flow::Next).is_ok_and(|step| step != Step::Hungry) {}
    assert!(unpack.is_empty());
}

#[test]
fn the_last_line_of_a_member_may_be_held_too() {
    for text in [&b"one\ntwo"[..], b"one\ntwo\n"] {
        let stream = [member(text), b"three".to_vec()].concat();
        let mut unpack = Unpack::new(100, BOUNDS);
        let mut scratch = vec![0; 4096];
        let step = unpack.feed(&stream, &mut scratch, |frame, _| match frame {
            Frame::Line(b"two") => Flow::Hold,
            _ => Flow::Next,
        });
        assert_eq!(step, Ok(Step::Held));
        assert!(!unpack.is_empty());
        assert_eq!(unpack.finish(&mut scratch, |_, _| Flow::Hold), Ok(Step::Held));
        let mut seen = Vec::new();
        let step = unpack.finish(&mut scratch, |frame, origin| {
            seen.push(text_of(frame, origin));
            Flow::Next
        });
        assert_eq!((step, seen), (Ok(Step::Hungry), vec!["*two".to_owned(), "three".to_owned()]));
    }
}

#[test]
fn between_members_nothing_is_kept() {
    let mut unpack = Unpack::new(262_144, BOUNDS);
    let mut scratch = vec![0; 64 << 10];
    let packed = member(&b"a line\n".repeat(1000));
    for _ in 0..3 {
        let (begin, end) = packed.split_at(20);
        assert_eq!(unpack.feed(begin, &mut scratch, |_, _| Flow::Next), Ok(Step::Hungry));
        assert!(unpack.capacity_bytes() > 32 << 10, "an inflater is memory, too");
        assert!(!unpack.is_empty(), "inside a member");
        assert_eq!(unpack.feed(end, &mut scratch, |_, _| Flow::Next), Ok(Step::Hungry));
        assert!(unpack.capacity_bytes() <= 4096 && unpack.is_empty());
    }
    assert_eq!(unpack.inflated_bytes(), 3 * 7000);
    assert_eq!(unpack.inflated_bytes(), 0);
}

#[test]
fn a_datagram_is_lines_or_one_member() {
    let mut scratch = Vec::new();
    let mut run = |bytes: &[u8], max| {
        let mut frames = Vec::new();
        let result = datagram(bytes, 4, max, &mut scratch, |frame| {
            frames.push(text_of(frame, Origin::Plain));
        });
        (frames, result)
    };
    let frames = ["a", "-", "b"].map(str::to_owned).to_vec();
    assert_eq!(run(b"a\r\n\n12345\nb", 0), (frames.clone(), Ok(())));
    let packed = member(b"a\r\n\n12345\nb");
    assert_eq!(run(&packed, 11), (frames.clone(), Ok(())));
    let (none, result) = run(&packed, 10);
    assert!(none.is_empty());
    assert_eq!(result, Err(Bad::DatagramTooLarge { bytes_max: 10 }));
    for bad in [&packed[..packed.len() - 1], &packed[..2], &[&packed[..], b"\n"].concat()] {
        let (none, result) = run(bad, 100);
        assert!(none.is_empty());
        assert_eq!(result.unwrap_err().code(), Code::BadGzip);
    }
    let large = member(&b"x\n".repeat(50_000));
    assert_eq!(run(&large, 100_000).0.len(), 50_000);
    assert!(run(&large, 99_999).1.is_err());
    assert_eq!(run(b"", 0), (vec![], Ok(())));
    assert_eq!(run(&member(b""), 0), (vec![], Ok(())));
}

/// The whole stream at once, by way of another decoder of gzip.
fn naive(mut stream: &[u8], line_bytes_max: usize) -> Vec<String> {
    let mut frames = Vec::new();
    let mut cut = |text: &[u8], origin| {
        for line in text.split(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\r").unwrap_or(line) {
                b"" => {}
                line if line.len() > line_bytes_max => {
                    frames.push(text_of(Frame::TooLong, origin));
                }
                line => frames.push(text_of(Frame::Line(line), origin)),
            }
        }
    };
    while !stream.is_empty() {
        if stream.starts_with(&[0x1f, 0x8b]) {
            let mut decoder = bufread::GzDecoder::new(stream);
            let mut text = Vec::new();
            decoder.read_to_end(&mut text).unwrap();
            stream = decoder.into_inner();
            cut(&text, Origin::Packed);
        } else {
            let end = stream.iter().position(|&byte| byte == b'\n').unwrap_or(stream.len());
            cut(&stream[..end], Origin::Plain);
            stream = &stream[stream.len().min(end + 1)..];
        }
    }
    frames
}

#[derive(Clone, Debug)]
enum Piece {
    Text(Vec<u8>),
    Member(Vec<u8>),
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        6 => Just(b'x'), 3 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(0x1f), 2 => any::<u8>()
    ];
    proptest::collection::vec(byte, 0..60)
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        text().prop_map(Piece::Text),
        text().prop_map(Piece::Member),
        (text(), 1..60_usize).prop_map(|(text, times)| Piece::Member(text.repeat(times))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// The main property: frames are a function of the stream and the bound alone.
    #[test]
    fn any_cuts_any_holds_and_any_scratch_give_the_frames_of_another_decoder(
        pieces in proptest::collection::vec(piece(), 0..8),
        line_bytes_max in 1_usize..12,
        mut cuts in proptest::collection::vec(0_usize..600, 0..20),
        holds in proptest::collection::vec(any::<bool>(), 0..40),
        scratch_bytes in prop_oneof![1_usize..10, Just(64), Just(4096)],
    ) {
        let mut stream = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    stream.extend_from_slice(&text);
                    stream.push(b'\n'); // a member must find a boundary
                }
                Piece::Member(text) => stream.extend_from_slice(&member(&text)),
            }
        }
        // By chance a plain line may begin like a member; that is for the tests of damage.
        let mut rest = &stream[..];
        while let Some(at) = rest.windows(2).position(|pair| pair == [0x1f, 0x8b]) {
            let mut decoder = bufread::GzDecoder::new(&rest[at..]);
            prop_assume!(decoder.read_to_end(&mut Vec::new()).is_ok());
            rest = decoder.into_inner();
        }
        cuts.retain(|&cut| cut <= stream.len());
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut unpack = Unpack::new(line_bytes_max, BOUNDS);
        let mut scratch = vec![0; scratch_bytes];
        let mut holds = holds.into_iter();
        let mut seen = Vec::new();
        let mut on = |frame: Frame<'_>, origin| {
            if holds.next() == Some(true) {
                return Flow::Hold;
            }
            seen.push(text_of(frame, origin));
            Flow::Next
        };
        for cut in cuts.windows(2) {
            let chunk = &stream[cut[0]..cut[1]];
            let mut step = unpack.feed(chunk, &mut scratch, &mut on).unwrap();
            while step != Step::Hungry {
                prop_assert!(
                    unpack.carry_len() <= line_bytes_max + 1 + scratch_bytes + chunk.len()
                );
                step = unpack.feed(&[], &mut scratch, &mut on).unwrap();
            }
            prop_assert!(unpack.carry_len() <= line_bytes_max + 1);
        }
        while unpack.finish(&mut scratch, &mut on).unwrap() != Step::Hungry {}
        prop_assert_eq!(seen, naive(&stream, line_bytes_max));
        prop_assert!(unpack.is_empty());
    }
}
