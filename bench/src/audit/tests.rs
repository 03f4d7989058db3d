//! The audit against a slow oracle: a map of all lines, each parsed in full.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::num::NonZero;

use loadgen::ledger::LedgerConnection;
use proptest::prelude::*;

use super::tail::Line;
use super::*;

const RUN: &str = "run-1";

/// Connection, messages sent, stretches acknowledged.
type Entry<'a> = (u64, u64, &'a [(u64, u64)]);

fn ledger(connections: &[Entry<'_>]) -> Ledger {
    let connections = connections
        .iter()
        .map(|&(conn, sent, ok)| LedgerConnection { conn, sent, ok: ok.to_vec() })
        .collect();
    Ledger { run_id: RUN.to_owned(), connections }
}

fn line(run: &str, conn: u64, seq: u64) -> String {
    format!(
        "{{\"level\":\"INFO\",\"message\":\"paid {}\",\"run\":\"{run}\",\"conn\":{conn},\"seq\":{seq}}}\n",
        "x".repeat(usize::try_from(seq % 7).unwrap())
    )
}

fn audit(ledger: &Ledger, segment: &[u8], end: End) -> Audit {
    let mut tally = Tally::new(ledger);
    tally.read(Cursor::new(segment), end).unwrap();
    tally.finish(ledger)
}

fn lines(conn: u64, seqs: std::ops::Range<u64>) -> String {
    seqs.map(|seq| line(RUN, conn, seq)).collect()
}

#[test]
fn every_acknowledged_line_once_is_sound() {
    let ledger = ledger(&[(3, 1000, &[(0, 400), (500, 500)])]);
    let audit = audit(&ledger, lines(3, 0..1000).as_bytes(), End::Closed);
    assert_eq!((audit.stored, audit.acknowledged, audit.missing), (1000, 900, 0));
    assert!(audit.is_sound());
}

#[test]
fn a_lost_line_is_missing_only_if_it_was_acknowledged() {
    let ledger = ledger(&[(3, 10, &[(0, 6), (8, 2)])]);
    let text = lines(3, 0..4) + &lines(3, 5..6) + &lines(3, 8..9);
    let audit = audit(&ledger, text.as_bytes(), End::Closed);
    assert_eq!((audit.stored, audit.acknowledged, audit.missing), (6, 8, 2));
    let missing = |first_seq| Missing { conn: 3, first_seq, count: 1 };
    assert_eq!(audit.missing_ranges, [missing(4), missing(9)]);
    assert!(!audit.is_sound());
}

#[test]
fn duplicates_strangers_and_other_runs_are_told_apart() {
    let ledger = ledger(&[(3, 2, &[(0, 2)]), (4, 1, &[(0, 1)])]);
    let text = lines(3, 0..2)
        + &lines(4, 0..1)
        + &lines(3, 1..2)
        + &lines(3, 2..3)
        + &lines(9, 0..1)
        + &line("run-2", 3, 0)
        + "{\"level\":\"INFO\",\"message\":\"no run\"}\n";
    let audit = audit(&ledger, text.as_bytes(), End::Closed);
    assert_eq!((audit.stored, audit.missing, audit.duplicated), (3, 0, 1));
    assert_eq!((audit.unexpected, audit.foreign, audit.damaged), (2, 2, 0));
    assert!(!audit.is_sound());
}

#[test]
fn blank_lines_are_padding() {
    let ledger = ledger(&[(3, 2, &[(0, 2)])]);
    let text = format!("\n\n{}\n{}{}", line(RUN, 3, 0), line(RUN, 3, 1), "\n".repeat(5000));
    let audit = audit(&ledger, text.as_bytes(), End::Closed);
    assert!(audit.is_sound());
    assert_eq!((audit.stored, audit.bytes), (2, text.len() as u64));
}

#[test]
fn a_torn_tail_and_nul_bytes_are_damage_in_a_closed_segment_only() {
    let ledger = ledger(&[(3, 3, &[(0, 2)])]);
    let whole = lines(3, 0..2);
    let torn = &line(RUN, 3, 2)[..40];
    for tail in [torn.to_owned(), "\0".repeat(4096), format!("{torn}{}", "\0".repeat(100))] {
        let text = whole.clone() + &tail;
        let closed = audit(&ledger, text.as_bytes(), End::Closed);
        assert_eq!((closed.stored, closed.missing, closed.damaged), (2, 0, 1));
        let open = audit(&ledger, text.as_bytes(), End::Open);
        assert!(open.is_sound());
        assert_eq!(open.stored, 2);
    }
    let hole = whole.replace("paid", "\0\0\0\0");
    for end in [End::Open, End::Closed] {
        let audit = audit(&ledger, hole.as_bytes(), end);
        assert_eq!((audit.stored, audit.missing, audit.damaged), (0, 2, 2), "a hole inside");
    }
}

#[test]
fn a_whole_last_line_without_newline_counts() {
    let ledger = ledger(&[(3, 2, &[(0, 2)])]);
    let text = lines(3, 0..2);
    for end in [End::Open, End::Closed] {
        assert!(audit(&ledger, text.trim_end().as_bytes(), end).is_sound());
    }
}

#[test]
fn a_hole_larger_than_the_buffer_costs_its_line_and_no_memory() {
    let ledger = ledger(&[(3, 3, &[(0, 3)])]);
    let hole = "\0".repeat(3 * LINE_BYTES_MAX);
    let text = lines(3, 0..1) + &hole + &lines(3, 1..3);
    let audit = audit(&ledger, text.as_bytes(), End::Closed);
    assert_eq!((audit.stored, audit.missing, audit.damaged), (2, 1, 1));
}

#[test]
fn segments_are_shared_out_to_threads_and_duplicates_between_them_found() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(3, 0..500);
    for (shard, name, part) in [
        ("shard-00", "000000000001.ndjson", &text[..]),
        ("shard-00", "000000000002.ndjson", &line(RUN, 3, 7)),
        ("shard-01", "000000000001.ndjson", &lines(4, 0..9)),
        ("shard-01", "notes.txt", "not a segment"),
        ("other", "000000000001.ndjson", "not a shard"),
    ] {
        std::fs::create_dir_all(folder.path().join(shard)).unwrap();
        std::fs::write(folder.path().join(shard).join(name), part).unwrap();
    }
    let ledger = ledger(&[(3, 500, &[(0, 500)]), (4, 9, &[(0, 9)])]);
    let segments = segments(folder.path()).unwrap();
    for threads in 1..4 {
        let threads = NonZero::new(threads).unwrap();
        let audit = audit_files(&ledger, &segments, End::Closed, threads).unwrap();
        assert_eq!((audit.segments, audit.stored, audit.missing), (3, 509, 0));
        assert_eq!((audit.duplicated, audit.damaged), (1, 0));
    }
}

/// What may happen to a file between two lines.
#[derive(Debug, Clone)]
enum Piece {
    Line { conn: u64, seq: u64 },
    Foreign { conn: u64, seq: u64 },
    Reordered { conn: u64, seq: u64 },
    Cut { conn: u64, seq: u64, at: usize, newline: bool },
    Holed { conn: u64, seq: u64, at: usize },
    Blank(usize),
    Bytes(Vec<u8>),
}

impl Piece {
    fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Piece::Line { conn, seq } => out.extend(line(RUN, conn, seq).bytes()),
            Piece::Foreign { conn, seq } => out.extend(line("run-11", conn, seq).bytes()),
            Piece::Reordered { conn, seq } => out.extend(
                format!("{{\"seq\": {seq}, \"run\":\t\"{RUN}\", \"conn\": {conn}}}\r\n").bytes(),
            ),
            Piece::Cut { conn, seq, at, newline } => {
                let line = line(RUN, conn, seq);
                out.extend(&line.as_bytes()[..at % line.len()]);
                out.extend(newline.then_some(b'\n'));
            }
            Piece::Holed { conn, seq, at } => {
                let mut line = line(RUN, conn, seq).into_bytes();
                let at = at % (line.len() - 1);
                line[at] = 0;
                out.extend(line);
            }
            Piece::Blank(count) => out.extend(std::iter::repeat_n(b'\n', count)),
            Piece::Bytes(ref bytes) => out.extend(bytes),
        }
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    let id = || (0_u64..4, 0_u64..12);
    prop_oneof![
        12 => id().prop_map(|(conn, seq)| Piece::Line { conn, seq }),
        1 => id().prop_map(|(conn, seq)| Piece::Foreign { conn, seq }),
        1 => id().prop_map(|(conn, seq)| Piece::Reordered { conn, seq }),
        1 => (id(), any::<usize>(), any::<bool>())
            .prop_map(|((conn, seq), at, newline)| Piece::Cut { conn, seq, at, newline }),
        1 => (id(), any::<usize>()).prop_map(|((conn, seq), at)| Piece::Holed { conn, seq, at }),
        1 => (0_usize..4).prop_map(Piece::Blank),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Piece::Bytes),
    ]
}

/// A reader that gives a few bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(out.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

proptest! {
    #[test]
    fn the_audit_counts_what_a_full_parse_of_every_line_counts(
        pieces in prop::collection::vec(piece(), 0..60),
        step in 1_usize..300,
        split in any::<prop::sample::Index>(),
        ok in prop::collection::vec((0_u64..5, 0_u64..5), 4),
    ) {
        let mut text = Vec::new();
        pieces.iter().for_each(|piece| piece.write(&mut text));
        // Connection 3 is in no ledger; message 10 and 11 were never sent.
        let ranges: Vec<Vec<(u64, u64)>> =
            ok.iter().map(|&(first, count)| vec![(first, count), (first + count + 1, 1)]).collect();
        let ledger = ledger(&[(0, 10, &ranges[0]), (1, 10, &ranges[1]), (2, 10, &ranges[2])]);

        let mut found: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let (mut unexpected, mut foreign, mut damaged) = (0, 0, 0);
        // Two files, so that a line may be torn apart between them.
        let (one, two) = text.split_at(split.index(text.len() + 1));
        for line in [one, two].into_iter().flat_map(|file| file.split(|byte| *byte == b'\n')) {
            match Tail::new(RUN).parse(line) {
                _ if line.is_empty() => {}
                Line::Ours { conn, seq } if conn < 3 && seq < 10 => {
                    *found.entry((conn, seq)).or_default() += 1;
                }
                Line::Ours { .. } => unexpected += 1,
                Line::Foreign => foreign += 1,
                Line::Damaged => damaged += 1,
            }
        }
        let acknowledged: BTreeSet<(u64, u64)> = ledger.connections.iter()
            .flat_map(|entry| entry.ok.iter().map(move |range| (entry.conn, *range)))
            .flat_map(|(conn, (first, count))| (first..first + count).map(move |seq| (conn, seq)))
            .collect();
        let missing = acknowledged.iter().filter(|id| !found.contains_key(id)).count() as u64;

        let mut tally = Tally::new(&ledger);
        tally.read(Trickle(one, step), End::Closed).unwrap();
        let mut other = Tally::new(&ledger);
        other.read(Trickle(two, step), End::Closed).unwrap();
        tally.merge(&other);
        let audit = tally.finish(&ledger);
        prop_assert_eq!(audit.stored, found.len() as u64);
        prop_assert_eq!(audit.duplicated, found.values().map(|count| count - 1).sum::<u64>());
        prop_assert_eq!(audit.acknowledged, acknowledged.len() as u64);
        prop_assert_eq!(audit.missing, missing);
        prop_assert_eq!((audit.unexpected, audit.foreign), (unexpected, foreign));
        prop_assert_eq!(audit.damaged, damaged);
    }
}
