//! Framing against a splitter that sees the whole stream at once.
//!
//! Input: three bytes which choose the line bound, the cuts and the holds, then the stream itself.

use proto::{Flow, Frame, Lines};

use super::{Dice, line_bound, split_head};

pub(crate) fn check(data: &[u8]) {
    let ([bound, cuts, holds], stream) = split_head(data);
    check_lines(stream, line_bound(bound), cuts, holds);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naive<'a> {
    Line(&'a [u8]),
    TooLong,
}

/// The whole stream at once.
pub(crate) fn naive_frames(stream: &[u8], line_bytes_max: usize) -> Vec<Naive<'_>> {
    stream
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| if line.len() > line_bytes_max { Naive::TooLong } else { Naive::Line(line) })
        .collect()
}

/// Feeds the stream in pieces, holds now and then, and compares frames and memory.
fn check_lines(stream: &[u8], line_bytes_max: usize, cuts: u8, holds: u8) {
    let expected = naive_frames(stream, line_bytes_max);
    let mut dice = Dice::new(cuts, holds);
    let mut lines = Lines::new(line_bytes_max);
    let mut seen = 0;
    let mut on = |frame: Frame<'_>, dice: &mut Dice| {
        if dice.holds(holds) {
            return Flow::Hold;
        }
        match (frame, expected.get(seen)) {
            (Frame::Line(line), Some(&Naive::Line(naive))) => assert_eq!(line, naive),
            (Frame::TooLong, Some(Naive::TooLong)) => {}
            (frame, naive) => panic!("frame {seen}: {frame:?} instead of {naive:?}"),
        }
        seen += 1;
        Flow::Next
    };
    let mut fed_while_held = 0;
    let mut rest = stream;
    while !rest.is_empty() {
        let piece = dice.piece(&mut rest, cuts, fed_while_held > 0);
        match lines.feed(piece, |frame| on(frame, &mut dice)) {
            Flow::Hold => fed_while_held += piece.len().max(1),
            Flow::Next => fed_while_held = 0,
        }
        let bound = line_bytes_max + 1 + fed_while_held;
        assert!(lines.carry_len() <= bound, "carry {} above {bound}", lines.carry_len());
        if lines.is_empty() {
            assert!(lines.capacity_bytes() <= 4096, "an empty carry keeps its memory");
        }
    }
    while lines.finish(|frame| on(frame, &mut dice)) == Flow::Hold {}
    assert_eq!(seen, expected.len(), "frames are missing");
    assert!(lines.is_empty() && lines.carry_len() == 0);
}
