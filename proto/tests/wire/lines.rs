//! Framing: what single frames look like, and that cuts and holds change nothing.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proto::{Flow, Frame, Lines};

use crate::harness::framing::{Naive, naive_frames};

/// Frames as text, `None` for one that is too long.
fn frames_of(pieces: &[&str], line_bytes_max: usize) -> Vec<Option<String>> {
    let mut lines = Lines::new(line_bytes_max);
    let mut frames = Vec::new();
    let mut on = |frame: Frame<'_>| {
        frames.push(match frame {
            Frame::Line(line) => Some(String::from_utf8(line.to_vec()).unwrap()),
            Frame::TooLong => None,
        });
        Flow::Next
    };
    for piece in pieces {
        lines.feed(piece.as_bytes(), &mut on);
    }
    lines.finish(&mut on);
    frames
}

fn some(lines: &[&str]) -> Vec<Option<String>> {
    lines.iter().map(|line| Some((*line).to_owned())).collect()
}

#[test]
fn a_line_ends_at_a_newline_and_loses_one_carriage_return() {
    assert_eq!(frames_of(&["a\nb\r\nc\r\r\n"], 10), some(&["a", "b", "c\r"]));
    assert_eq!(frames_of(&["a\rb\n \n"], 10), some(&["a\rb", " "]));
}

#[test]
fn blank_lines_are_no_frames() {
    assert_eq!(frames_of(&["\n\r\n\na\n\n", "\r", "\n", "\n"], 10), some(&["a"]));
}

#[test]
fn the_unterminated_rest_is_a_line_at_the_end() {
    assert_eq!(frames_of(&["a\nb"], 10), some(&["a", "b"]));
    assert_eq!(frames_of(&["a\nb\r"], 10), some(&["a", "b"]));
    assert_eq!(frames_of(&["a\n\r"], 10), some(&["a"]));
    assert_eq!(frames_of(&[], 10), some(&[]));
}

#[test]
fn the_line_end_does_not_count_towards_the_bound() {
    for pieces in [&["1234\r\n12345\r\n1234"][..], &["12", "34\r", "\n12", "345\r\n", "1234\r"]] {
        let frames = frames_of(pieces, 4);
        assert_eq!(frames, [Some("1234".to_owned()), None, Some("1234".to_owned())]);
    }
}

#[test]
fn a_line_that_is_too_long_is_reported_at_once_and_costs_only_itself() {
    let mut lines = Lines::new(4);
    let mut seen = Vec::new();
    let mut on = |frame: Frame<'_>| {
        seen.push(frame == Frame::TooLong);
        Flow::Next
    };
    lines.feed(b"1234", &mut on);
    lines.feed(b"5", &mut on);
    lines.feed(&[b'x'; 100], &mut on);
    assert_eq!(lines.carry_len(), 0);
    assert!(!lines.is_empty(), "inside a line");
    lines.feed(b"y\nnext\n", &mut on);
    assert!(lines.is_empty());
    assert_eq!(seen, [true, false]);
}

#[test]
fn what_is_held_is_offered_again_by_the_next_feed() {
    let mut lines = Lines::new(100);
    let mut offered = Vec::new();
    let flow = lines.feed(b"one\ntwo\nthr", |frame| {
        offered.push(format!("{frame:?}"));
        Flow::Hold
    });
    assert_eq!(flow, Flow::Hold);
    assert_eq!(offered.len(), 1);
    assert_eq!(lines.carry_len(), 11);
    let mut taken = Vec::new();
    let mut take = |frame: Frame<'_>| {
        taken.push(frame == Frame::Line(b"two") || frame == Frame::Line(b"one"));
        Flow::Next
    };
    assert_eq!(lines.feed(&[], &mut take), Flow::Next);
    assert_eq!(lines.carry_len(), 3);
    assert_eq!(taken, [true, true]);
    let flow = lines.finish(|frame| {
        assert_eq!(frame, Frame::Line(b"thr"));
        Flow::Hold
    });
    assert_eq!(flow, Flow::Hold);
    assert_eq!(lines.finish(|_| Flow::Next), Flow::Next);
    assert!(lines.is_empty());
}

#[test]
fn a_held_frame_that_is_too_long_is_offered_again_and_keeps_no_bytes() {
    let mut lines = Lines::new(4);
    assert_eq!(lines.feed(&[b'x'; 1000], |_| Flow::Hold), Flow::Hold);
    assert_eq!(lines.feed(&[b'x'; 1000], |_| Flow::Hold), Flow::Hold);
    assert_eq!(lines.carry_len(), 0);
    assert!(!lines.is_empty());
    assert_eq!(lines.feed(b"x\nabc\n", |_| Flow::Hold), Flow::Hold);
    let mut seen = Vec::new();
    lines.feed(&[], |frame| {
        seen.push(format!("{frame:?}"));
        Flow::Next
    });
    assert_eq!(seen, ["TooLong".to_owned(), format!("{:?}", Frame::Line(b"abc"))]);
}

#[test]
fn memory_goes_back_once_a_long_line_or_a_held_chunk_is_through() {
    let long = vec![b'x'; 200_000];
    let mut lines = Lines::new(262_144);
    lines.feed(&long, |_| Flow::Next);
    assert!(lines.capacity_bytes() >= long.len());
    lines.feed(b"\n", |_| Flow::Next);
    assert!(lines.capacity_bytes() <= 4096);

    let mut chunk = b"{}\n".repeat(50_000);
    chunk.extend_from_slice(b"begin of the next");
    assert_eq!(lines.feed(&chunk, |_| Flow::Hold), Flow::Hold);
    assert_eq!(lines.carry_len(), chunk.len());
    assert_eq!(lines.feed(&[], |_| Flow::Next), Flow::Next);
    assert!(lines.capacity_bytes() <= 4096);
    assert_eq!(lines.carry_len(), 17);
}

#[test]
fn a_line_that_comes_byte_by_byte_takes_linear_time() {
    let started = Instant::now();
    let mut lines = Lines::new(1 << 20);
    for _ in 0..1 << 20 {
        lines.feed(b"x", |_| Flow::Next);
    }
    // Taking lines one by one from a large held chunk.
    let mut held = Lines::new(100);
    held.feed(&b"{}\n".repeat(100_000), |_| Flow::Hold);
    while held.carry_len() > 0 {
        let mut taken = false;
        held.feed(
            &[],
            |_| if std::mem::replace(&mut taken, true) { Flow::Hold } else { Flow::Next },
        );
    }
    // About a second in a debug build; quadratic time would be half a minute and more.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// The main property: frames are a function of the stream and the bound alone.
    #[test]
    fn any_cuts_and_any_holds_give_the_frames_of_a_naive_splitter(
        stream in proptest::collection::vec(
            prop_oneof![4 => Just(b'x'), 2 => Just(b'\n'), 1 => Just(b'\r'), 1 => any::<u8>()],
            0..200,
        ),
        line_bytes_max in 0_usize..12,
        mut cuts in proptest::collection::vec(0_usize..200, 0..20),
        holds in proptest::collection::vec(any::<bool>(), 0..40),
    ) {
        cuts.retain(|&cut| cut <= stream.len());
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let expected = naive_frames(&stream, line_bytes_max);
        let mut lines = Lines::new(line_bytes_max);
        let mut holds = holds.into_iter();
        let mut seen = Vec::new();
        let mut on = |frame: Frame<'_>| {
            if holds.next() == Some(true) {
                return Flow::Hold;
            }
            seen.push(match frame {
                Frame::Line(line) => Some(line.to_vec()),
                Frame::TooLong => None,
            });
            Flow::Next
        };
        for cut in cuts.windows(2) {
            let chunk = &stream[cut[0]..cut[1]];
            let mut flow = lines.feed(chunk, &mut on);
            while flow == Flow::Hold {
                prop_assert!(lines.carry_len() <= line_bytes_max + 1 + chunk.len());
                flow = lines.feed(&[], &mut on);
            }
            prop_assert!(lines.carry_len() <= line_bytes_max + 1);
        }
        while lines.finish(&mut on) == Flow::Hold {}
        let expected: Vec<_> = expected
            .into_iter()
            .map(|frame| match frame {
                Naive::Line(line) => Some(line.to_vec()),
                Naive::TooLong => None,
            })
            .collect();
        prop_assert_eq!(seen, expected);
        prop_assert!(lines.is_empty());
    }
}
