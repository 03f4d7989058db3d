//! Members between lines against another decoder of gzip, which sees the whole stream at once.
//!
//! Input: four bytes which choose the line bound, the cuts, the holds and the scratch, then the
//! stream: as it is, or (highest bit of the fourth byte) a recipe that makes sound members, which
//! random bytes hardly ever are. A recipe is a row of `kind, length, bytes`.

use std::io::{Read, Write};

use flate2::{Compression, Decompress, FlushDecompress, GzBuilder, bufread};
use proto::gzip::datagram;
use proto::{Bad, Bounds, Flow, Frame, Origin, Step, Unpack};

use super::{Dice, line_bound, split_head};

/// What a datagram may inflate to, in bytes.
const DATAGRAM_BYTES_MAX: usize = 3000;

pub(crate) fn check(data: &[u8]) {
    let ([bound, cuts, holds, scratch], input) = split_head(data);
    let line_bytes_max = line_bound(bound);
    let scratch_bytes = [1, 7, 64, 1000, 1 << 16][usize::from(scratch & 0x7f) % 5];
    let stream = if scratch & 0x80 == 0 { input.to_vec() } else { cook(input) };
    let naive = naive_stream(&stream, line_bytes_max);
    // Not more than some thousand calls, however much there is to inflate.
    let inflated_bytes = usize::try_from(naive.inflated_bytes).expect("it is in memory");
    let scratch_bytes = scratch_bytes.max(inflated_bytes / 4096);
    check_stream(&stream, &naive, line_bytes_max, [cuts, holds], scratch_bytes);
    check_ratio(&stream, &naive, line_bytes_max, scratch_bytes);
    check_datagram(&stream, &naive, line_bytes_max);
}

/// The stream that a recipe makes.
fn cook(mut recipe: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [kind, len, rest @ ..] = recipe {
        let (text, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        recipe = behind;
        let level = Compression::new(u32::from(kind / 8 % 10));
        match kind % 8 {
            0 => stream.extend_from_slice(text),
            1 => {
                stream.extend_from_slice(text);
                stream.push(b'\n');
            }
            2 => stream.extend(pack(&text.repeat(40), level, GzBuilder::new())),
            3 => {
                let name = text.split(|&byte| byte == 0).next().unwrap_or_default();
                let builder = GzBuilder::new().filename(name).extra(text).comment("c");
                stream.extend(pack(text, level, builder));
            }
            // Damaged: one bit of it turned, or cut off.
            4 | 5 => {
                let at = text.first().copied().map_or(0, usize::from);
                let mut member = pack(text, level, GzBuilder::new());
                let at = at % member.len();
                match kind % 8 {
                    4 => member[at] ^= 1 << (len % 8),
                    _ => member.truncate(at),
                }
                stream.extend(member);
            }
            _ => stream.extend(pack(text, level, GzBuilder::new())),
        }
    }
    stream
}

fn pack(text: &[u8], level: Compression, builder: GzBuilder) -> Vec<u8> {
    let mut packer = builder.write(Vec::new(), level);
    packer.write_all(text).expect("memory takes all");
    packer.finish().expect("memory takes all")
}

type OwnedFrame = (Origin, Option<Vec<u8>>);

fn owned(frame: Frame<'_>, origin: Origin) -> OwnedFrame {
    match frame {
        Frame::Line(line) => (origin, Some(line.to_vec())),
        Frame::TooLong => (origin, None),
    }
}

#[derive(Default)]
struct Naive {
    frames: Vec<OwnedFrame>,
    /// A member is damaged or cut off; the frames are then all that it could have in front of that.
    bad: bool,
    inflated_bytes: u64,
    /// Of each member: bytes in and bytes out.
    members: Vec<[u64; 2]>,
}

/// The whole stream at once.
fn naive_stream(mut stream: &[u8], line_bytes_max: usize) -> Naive {
    let mut naive = Naive::default();
    while !stream.is_empty() && !naive.bad {
        if !stream.starts_with(&[0x1f, 0x8b]) {
            let end = stream.iter().position(|&byte| byte == b'\n').unwrap_or(stream.len());
            naive.cut(&stream[..end], Origin::Plain, line_bytes_max);
            stream = &stream[stream.len().min(end + 1)..];
            continue;
        }
        let before = stream.len() as u64;
        let (text, result, rest) = naive_member(stream);
        naive.inflated_bytes += text.len() as u64;
        naive.members.push([before - rest.len() as u64, text.len() as u64]);
        stream = rest;
        match result {
            Ok(()) => naive.cut(&text, Origin::Packed, line_bytes_max),
            Err(_) => {
                // The rest behind the last line end may be cut anywhere, but is known to be long.
                let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
                naive.cut(&text[..whole], Origin::Packed, line_bytes_max);
                let tail = &text[whole..];
                if tail.strip_suffix(b"\r").unwrap_or(tail).len() > line_bytes_max {
                    naive.frames.push((Origin::Packed, None));
                }
                naive.bad = true;
            }
        }
    }
    naive
}

/// What a member inflates to, as far as it does, and what follows it.
fn naive_member(stream: &[u8]) -> (Vec<u8>, std::io::Result<()>, &[u8]) {
    let mut decoder = bufread::GzDecoder::new(stream);
    let mut text = Vec::new();
    if stream.get(3).is_some_and(|flags| flags & 0xe0 != 0) {
        // Reserved flags: RFC 1952 wants an error, this decoder gives none.
        return (text, Err(std::io::ErrorKind::InvalidData.into()), &[]);
    }
    if decoder.read_to_end(&mut text).is_ok() {
        let rest = decoder.into_inner();
        return (text, Ok(()), rest);
    }
    // That decoder forgets the bytes which it found together with the damage; they may be seen.
    let mut inflater = Decompress::new_gzip(15);
    text.clear();
    loop {
        let (read, filled) = (in_memory(inflater.total_in()), text.len());
        text.resize(filled + 4096, 0);
        let status =
            inflater.decompress(&stream[read..], &mut text[filled..], FlushDecompress::None);
        text.truncate(in_memory(inflater.total_out()));
        if status.is_err() || text.len() < filled + 4096 {
            return (text, Err(std::io::ErrorKind::InvalidData.into()), &[]);
        }
    }
}

fn in_memory(count: u64) -> usize {
    usize::try_from(count).expect("as much as is in memory")
}

impl Naive {
    fn cut(&mut self, text: &[u8], origin: Origin, line_bytes_max: usize) {
        for line in text.split(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\r").unwrap_or(line) {
                b"" => {}
                line if line.len() > line_bytes_max => self.frames.push((origin, None)),
                line => self.frames.push((origin, Some(line.to_vec()))),
            }
        }
    }
}

/// Feeds the stream in pieces, holds now and then, and compares frames and memory.
fn check_stream(
    stream: &[u8],
    naive: &Naive,
    line_bytes_max: usize,
    [cuts, holds]: [u8; 2],
    scratch_bytes: usize,
) {
    let mut dice = Dice::new(cuts, holds);
    let mut unpack =
        Unpack::new(line_bytes_max, Bounds { ratio_max: u64::MAX, ratio_after_bytes: 0 });
    let mut scratch = vec![0; scratch_bytes];
    let mut seen = 0;
    let mut on = |frame: Frame<'_>, origin, dice: &mut Dice| {
        if dice.holds(holds) {
            return Flow::Hold;
        }
        assert_eq!(Some(&owned(frame, origin)), naive.frames.get(seen), "frame {seen}");
        seen += 1;
        Flow::Next
    };
    let mut rest = stream;
    let mut waiting_bytes = 0;
    let mut inflated_bytes = 0;
    let mut finishing = false;
    let end = loop {
        finishing |= rest.is_empty();
        let result = if finishing {
            unpack.finish(&mut scratch, |frame, origin| on(frame, origin, &mut dice))
        } else {
            let piece = dice.piece(&mut rest, cuts, waiting_bytes > 0);
            waiting_bytes += piece.len();
            unpack.feed(piece, &mut scratch, |frame, origin| on(frame, origin, &mut dice))
        };
        let inflated = unpack.inflated_bytes();
        assert!(inflated <= scratch_bytes as u64, "one scratch a call");
        inflated_bytes += inflated;
        match result {
            Ok(Step::Hungry) if finishing => break Ok(()),
            Ok(Step::Hungry) => waiting_bytes = 0,
            Ok(Step::Held | Step::Again) => waiting_bytes = waiting_bytes.max(1),
            Err(bad) => break Err(bad),
        }
        let bound = line_bytes_max + 1 + scratch_bytes + waiting_bytes;
        assert!(unpack.carry_len() <= bound, "{} kept, above {bound}", unpack.carry_len());
        if unpack.is_empty() {
            assert!(unpack.capacity_bytes() <= 4096, "between messages it keeps its memory");
        }
    };
    match end {
        Ok(()) => {
            assert!(!naive.bad, "damage is found");
            assert_eq!(seen, naive.frames.len(), "frames are missing");
            assert_eq!(inflated_bytes, naive.inflated_bytes);
            assert!(unpack.is_empty() && unpack.carry_len() == 0);
        }
        Err(Bad::Damaged(reason)) => {
            assert!(naive.bad, "no damage, but {reason}");
            assert!(!reason.is_empty() && reason.len() < 100);
            if &*reason == "it is cut off" {
                assert_eq!(seen, naive.frames.len(), "whole lines in front of the cut");
            }
        }
        Err(bad) => panic!("{bad}"),
    }
}

/// A bound on the ratio never lets more through than it says, and refuses nothing else.
fn check_ratio(stream: &[u8], naive: &Naive, line_bytes_max: usize, scratch_bytes: usize) {
    let bounds = Bounds { ratio_max: 3, ratio_after_bytes: 500 };
    let mut unpack = Unpack::new(line_bytes_max, bounds);
    let mut scratch = vec![0; scratch_bytes];
    let mut step = unpack.feed(stream, &mut scratch, |_, _| Flow::Next);
    while step == Ok(Step::Again) {
        step = unpack.feed(&[], &mut scratch, |_, _| Flow::Next);
    }
    let far = |&[_, out]: &[u64; 2]| out > bounds.ratio_after_bytes;
    let steep = |&[size, out]: &[u64; 2]| out > bounds.ratio_max * size;
    match step {
        Ok(_) => assert!(naive.bad || !naive.members.iter().any(|m| far(m) && steep(m))),
        Err(Bad::TooLarge { .. }) => assert!(naive.members.iter().any(far)),
        Err(Bad::Damaged(_)) => assert!(naive.bad),
        Err(bad) => panic!("{bad}"),
    }
}

fn check_datagram(bytes: &[u8], naive: &Naive, line_bytes_max: usize) {
    let mut seen = Vec::new();
    let origin = if bytes.starts_with(&[0x1f, 0x8b]) { Origin::Packed } else { Origin::Plain };
    let result = datagram(bytes, line_bytes_max, DATAGRAM_BYTES_MAX, &mut Vec::new(), |frame| {
        seen.push(owned(frame, origin));
    });
    if origin == Origin::Plain {
        // No members behind plain lines: the magic is a line's begin like any other.
        let mut lines = Naive::default();
        lines.cut(bytes, Origin::Plain, line_bytes_max);
        assert_eq!((seen, result), (lines.frames, Ok(())));
        return;
    }
    let whole = !naive.bad && naive.members[0][0] == bytes.len() as u64;
    match result {
        Ok(()) => {
            assert!(whole);
            assert_eq!(seen, naive.frames);
            assert!(naive.inflated_bytes <= DATAGRAM_BYTES_MAX as u64);
        }
        Err(Bad::Damaged(_)) => assert!(!whole && seen.is_empty()),
        Err(Bad::DatagramTooLarge { .. }) => {
            assert!(naive.members[0][1] > DATAGRAM_BYTES_MAX as u64 && seen.is_empty());
        }
        Err(bad) => panic!("{bad}"),
    }
}
