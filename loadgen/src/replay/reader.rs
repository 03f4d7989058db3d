//! The thread that reads a recording: lines in, chunks of messages with deadlines out.
//!
//! Owns the course of it: which lines are messages, how often the recording goes round, where the
//! bounds end it. Every reader of a recording sees the same messages with the same numbers and
//! deadlines, whatever the others do, and hands on those of its own part.
//! Invariant: chunks come in order, the last one says so, and no deadline in them is at or behind
//! the bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use async_channel::{Receiver, Sender};

use super::Chunk;
use super::source::{Merged, Source};
use crate::clock::monotonic_ns;
use crate::plan::replay::access;
use crate::plan::replay::screen::{Bad, Filter, Layout, Pass, Screened};
use crate::plan::replay::tempo::Tempo;
use crate::plan::replay::{Replay, Speed};
use crate::plan::schedule::Part;

/// See the module.
pub(super) struct Reader {
    pub(super) source: Source,
    pub(super) layout: Layout,
    pub(super) replay: Replay,
    /// Which messages are handed on.
    pub(super) part: Part,
    /// Messages behind the warm-up.
    pub(super) total: Option<u64>,
    pub(super) measured_from_ns: u64,
    /// The requests of an access log instead of its lines.
    pub(super) wants_requests: bool,
    pub(super) until_ns: Arc<AtomicU64>,
    pub(super) empty: Receiver<Box<Chunk>>,
    pub(super) full: Sender<Box<Chunk>>,
    /// Told once: the first messages are there, or there are none.
    pub(super) begin: Option<SyncSender<Result<(), String>>>,
}

/// What a reader has read.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) screened: Screened,
    /// The first and the latest message that is sent, ns since 1970.
    pub(super) span_ns: Option<(i64, i64)>,
    /// How long it lasted as recorded, all rounds together.
    pub(super) lasted_ns: u64,
    /// Rounds of which something is sent.
    pub(super) rounds: u64,
    /// What kept a file from being read to its end.
    pub(super) broken: Option<String>,
}

/// Lines that are read at most before what was found is handed on.
const LINES_MAX: u64 = 50_000;

/// Why a reader stops.
enum Stop {
    /// Everything was read, or a bound was reached.
    Over,
    /// Nobody takes chunks any more.
    Unwanted,
}

impl Reader {
    pub(super) fn run(mut self) -> Told {
        let mut told = Told::default();
        if matches!(self.read(&mut told), Stop::Over) {
            self.say_begun(&told);
        }
        told
    }

    fn read(&mut self, told: &mut Told) -> Stop {
        let Ok(mut chunk) = self.empty.recv_blocking() else { return Stop::Unwanted };
        let mut tempo = Tempo::new(self.replay.speed);
        let (mut number, mut measured) = (0, 0);
        let mut handed_on_at = 0;
        while self.replay.loops == 0 || told.rounds < self.replay.loops {
            told.rounds += 1;
            let before = told.screened.messages;
            let mut lines = Merged::new(&self.source);
            let mut filter = Filter::new(&self.replay);
            let is_ended = loop {
                let wants_level = filter.wants_level();
                // A few messages among many others must not wait for the end of the file.
                if told.screened.lines - handed_on_at >= LINES_MAX && !chunk.dues.is_empty() {
                    handed_on_at = told.screened.lines;
                    chunk = match self.hand_on(chunk, told) {
                        Some(empty) => empty,
                        None => return Stop::Unwanted,
                    };
                }
                let Some(read) = lines.advance(&self.layout, wants_level, &mut told.screened)
                else {
                    break false;
                };
                match filter.pass(read) {
                    Pass::Yes => {}
                    Pass::Beyond => break false,
                    Pass::Outside => {
                        (told.screened.lines, told.screened.outside) =
                            (told.screened.lines + 1, told.screened.outside + 1);
                        continue;
                    }
                    Pass::Below => {
                        (told.screened.lines, told.screened.below) =
                            (told.screened.lines + 1, told.screened.below + 1);
                        continue;
                    }
                    Pass::NoLevel => {
                        told.screened.bad(Bad::NoLevel);
                        continue;
                    }
                }
                let mark = chunk.bytes.len();
                let request = if self.wants_requests && self.layout.format.is_access_log() {
                    let entry = access::entry(lines.line()).expect("it was read as one");
                    let Some(request) = entry.ask_again(&mut chunk.bytes) else {
                        told.screened.bad(Bad::NoRequest);
                        continue;
                    };
                    Some(request)
                } else {
                    None
                };
                let mut ahead = tempo;
                let due = ahead.due(read.at_ns);
                if self.is_beyond(due.ns, measured) {
                    chunk.bytes.truncate(mark);
                    break true;
                }
                tempo = ahead;
                measured += u64::from(due.ns >= self.measured_from_ns);
                told.screened.lines += 1;
                told.screened.messages += 1;
                told.screened.backwards += u64::from(due.is_backwards);
                let (first_ns, last_ns) = told.span_ns.unwrap_or((read.at_ns, read.at_ns));
                told.span_ns = Some((first_ns.min(read.at_ns), last_ns.max(read.at_ns)));
                told.lasted_ns = tempo.lasted_ns();
                let is_ours = self.part.has(number);
                number += 1;
                if !is_ours {
                    chunk.bytes.truncate(mark);
                    continue;
                }
                match request {
                    Some(request) => chunk.requests.push(request),
                    None => self.layout.append(lines.line(), &mut chunk.bytes),
                }
                chunk.bytes.push(b'\n');
                chunk.dues.push(due.ns);
                chunk.ends.push(u32::try_from(chunk.bytes.len()).expect("a chunk is small"));
                if chunk.is_full() {
                    handed_on_at = told.screened.lines;
                    chunk = match self.hand_on(chunk, told) {
                        Some(empty) => empty,
                        None => return Stop::Unwanted,
                    };
                }
            };
            told.broken = told.broken.take().or(lines.broken().map(str::to_owned));
            // A round without a message would be followed by another one, and so on.
            let is_empty = told.screened.messages == before;
            told.rounds -= u64::from(is_empty && is_ended);
            if is_ended || is_empty {
                break;
            }
            tempo.again();
        }
        chunk.is_last = true;
        chunk.ready_ns = monotonic_ns();
        let _ = self.full.send_blocking(chunk);
        Stop::Over
    }

    /// Whether a bound ends the recording before a message that is due at `due_ns`.
    fn is_beyond(&self, due_ns: u64, measured: u64) -> bool {
        let is_timed = self.replay.speed != Speed::Max;
        // Relaxed: the lane lowers it once, and a message too many is not taken.
        (is_timed && due_ns >= self.until_ns.load(Ordering::Relaxed))
            || self.total.is_some_and(|total| measured >= total)
    }

    /// Gives a chunk to the lane, and waits for an empty one.
    fn hand_on(&mut self, mut chunk: Box<Chunk>, told: &Told) -> Option<Box<Chunk>> {
        chunk.ready_ns = monotonic_ns();
        self.full.send_blocking(chunk).ok()?;
        self.say_begun(told);
        self.empty.recv_blocking().ok()
    }

    fn say_begun(&mut self, told: &Told) {
        let Some(begin) = self.begin.take() else { return };
        let begun = match (told.screened.messages, &told.broken) {
            (0, Some(broken)) => Err(broken.clone()),
            (0, None) => Err(nothing(&told.screened)),
            _ => Ok(()),
        };
        let _ = begin.send(begun);
    }
}

/// Why there is no message.
fn nothing(screened: &Screened) -> String {
    let mut reasons: Vec<String> = [
        ("outside of REPLAY_FROM and REPLAY_TO", screened.outside),
        ("below REPLAY_LEVEL", screened.below),
    ]
    .into_iter()
    .chain(screened.bads())
    .filter(|(_, count)| *count > 0)
    .map(|(reason, count)| format!("{count} {reason}"))
    .collect();
    if reasons.is_empty() {
        reasons.push("it is empty".to_owned());
    }
    format!("none of its {} lines is a message to send: {}", screened.lines, reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{Receiver as Waiting, sync_channel};

    use super::*;
    use crate::plan::replay::screen::SAMPLE_LINES;
    use crate::plan::replay::{Edge, Format};

    struct Rig {
        reader: Reader,
        full: Receiver<Box<Chunk>>,
        empty: Sender<Box<Chunk>>,
        begun: Waiting<Result<(), String>>,
    }

    fn rig(path: &Path, replay: &Replay, part: Part) -> Rig {
        let source = Source::find(path).unwrap();
        let (sample, _) = super::super::source::sample(&source);
        assert!(sample.len() <= SAMPLE_LINES);
        let layout = Layout::of(replay, &sample).unwrap();
        let (full_in, full) = async_channel::bounded(1000);
        let (empty, empty_out) = async_channel::bounded(1000);
        (0..1000).for_each(|_| empty.try_send(Box::default()).unwrap());
        let (begin, begun) = sync_channel(1);
        let reader = Reader {
            source,
            layout,
            replay: replay.clone(),
            part,
            total: None,
            measured_from_ns: 0,
            wants_requests: false,
            until_ns: Arc::new(AtomicU64::new(u64::MAX)),
            empty: empty_out,
            full: full_in,
            begin: Some(begin),
        };
        Rig { reader, full, empty, begun }
    }

    impl Rig {
        /// Deadlines and lines, to the end.
        fn all(self) -> (Vec<(u64, String)>, Told) {
            let told = self.reader.run();
            assert!(self.begun.try_recv().is_ok());
            let mut all = Vec::new();
            let mut is_over = false;
            while let Ok(chunk) = self.full.try_recv() {
                assert!(!is_over && chunk.dues.len() == chunk.ends.len());
                let mut start = 0;
                for (&due_ns, &end) in chunk.dues.iter().zip(&chunk.ends) {
                    let line = &chunk.bytes[start..end as usize];
                    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
                    all.push((due_ns, String::from_utf8(line.to_vec()).unwrap()));
                    start = end as usize;
                }
                is_over = chunk.is_last;
            }
            assert!(is_over);
            drop(self.empty);
            (all, told)
        }
    }

    fn file(lines: &[String]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        file
    }

    fn json(ms: u64, level: &str) -> String {
        format!("{{\"time\":{},\"level\":\"{level}\"}}", 1_700_000_000_000 + ms)
    }

    fn whole() -> Part {
        Part::new(0, 1)
    }

    #[test]
    fn the_parts_are_disjoint_and_together_the_recording() {
        let lines: Vec<String> = (0..5000).map(|n| json(n * n % 7919, "INFO")).collect();
        let file = file(&lines);
        let replay = Replay { loops: 2, ..Replay::default() };
        let (all, told) = rig(file.path(), &replay, whole()).all();
        assert_eq!((all.len(), told.screened.messages, told.rounds), (10_000, 10_000, 2));
        assert!(told.screened.backwards > 0 && all.is_sorted_by_key(|(due_ns, _)| *due_ns));
        for (n, (_, line)) in all.iter().enumerate() {
            assert_eq!(line.trim_end(), lines[n % 5000]);
        }
        for parts in 2..4 {
            for part in 0..parts {
                let (own, own_told) = rig(file.path(), &replay, Part::new(part, parts)).all();
                let part = Part::new(part, parts);
                let is_own = |(n, _): &(usize, _)| part.has(*n as u64);
                let every = all.iter().enumerate().filter(is_own).map(|(_, message)| message);
                assert!(own.iter().eq(every));
                assert_eq!(own_told.screened, told.screened);
            }
        }
    }

    #[test]
    fn bounds_end_it_at_the_same_message_for_all() {
        let file = file(&(0..100).map(|n| json(n * 10, "INFO")).collect::<Vec<_>>());
        let replay = Replay { loops: 0, ..Replay::default() };
        for part in 0..3 {
            let mut counted = rig(file.path(), &replay, Part::new(part, 3));
            counted.reader.total = Some(250);
            counted.reader.measured_from_ns = 100_000_000;
            let (own, told) = counted.all();
            // Ten before the measured part.
            assert_eq!((told.screened.messages, told.rounds), (260, 3));
            assert_eq!(own.len() as u64, Part::new(part, 3).count_below(260));
            let timed = rig(file.path(), &replay, Part::new(part, 3));
            timed.reader.until_ns.store(1_500_000_000, Ordering::Relaxed);
            let (own, told) = timed.all();
            assert_eq!(told.screened.messages, 150);
            assert!(own.iter().all(|(due_ns, _)| *due_ns < 1_500_000_000));
        }
    }

    #[test]
    fn what_is_filtered_or_bad_is_counted_and_the_rest_is_sent() {
        let lines = [
            json(0, "DEBUG"),
            json(10, "INFO"),
            "x".to_owned(),
            json(15, "WARN"),
            "{\"level\":\"WARN\"}".to_owned(),
            json(20, "loud"),
            json(12, "ERROR"),
            json(100, "WARN"),
        ];
        let file = file(&lines);
        let replay = Replay {
            from: Some(Edge::After(5_000_000)),
            to: Some(Edge::After(100_000_000)),
            level: Some(proto::Level::Warn),
            ..Replay::default()
        };
        let (all, told) = rig(file.path(), &replay, whole()).all();
        assert_eq!(all, [(0, lines[3].clone() + "\n"), (0, lines[6].clone() + "\n")]);
        let expected = Screened {
            lines: 8,
            messages: 2,
            outside: 2,
            below: 1,
            malformed: 1,
            no_timestamp: 1,
            no_level: 1,
            backwards: 1,
            ..Screened::default()
        };
        assert_eq!(told.screened, expected);
        let ms = |ms: i64| (1_700_000_000_000 + ms) * 1_000_000;
        assert_eq!(told.span_ns, Some((ms(12), ms(15))));
    }

    #[test]
    fn a_recording_without_a_message_says_why() {
        let file = file(&[json(0, "INFO"), json(1, "DEBUG")]);
        let replay = Replay { level: Some(proto::Level::Error), loops: 0, ..Replay::default() };
        let rig = rig(file.path(), &replay, whole());
        let told = rig.reader.run();
        assert_eq!((told.screened.below, told.rounds), (2, 1));
        let reason = rig.begun.try_recv().unwrap().unwrap_err();
        assert!(reason.contains("2 below REPLAY_LEVEL"), "{reason}");
    }

    #[test]
    fn an_access_log_is_its_lines_or_its_requests() {
        let line = |second: u64, request: &str, status: u16| {
            format!("::1 - - [10/Oct/2000:13:55:{second:02} +0000] \"{request}\" {status} 5")
        };
        let lines = [
            line(1, "GET /a?b HTTP/1.1", 200),
            line(2, "-", 408),
            line(3, "POST /c HTTP/1.1", 503),
        ];
        let file = file(&lines);
        let replay = Replay::default();
        let (all, told) = rig(file.path(), &replay, whole()).all();
        assert_eq!((all.len(), told.screened.no_request), (3, 0));
        assert_eq!(all[2], (2_000_000_000, lines[2].clone() + "\n"));
        let mut rig = rig(file.path(), &replay, whole());
        assert_eq!(rig.reader.layout.format, Format::Common);
        rig.reader.wants_requests = true;
        let full = rig.full.clone();
        let told = rig.reader.run();
        assert_eq!(
            (told.screened.lines, told.screened.messages, told.screened.no_request),
            (3, 2, 1)
        );
        let chunk = full.try_recv().unwrap();
        assert_eq!(chunk.bytes, b"GET /a?b\nPOST /c\n");
        let of = |request: &access::Request| (request.method_bytes, request.status);
        assert_eq!(chunk.requests.iter().map(of).collect::<Vec<_>>(), [(3, 200), (4, 503)]);
    }

    #[test]
    fn a_reader_that_nobody_needs_any_more_ends() {
        let file = file(&(0..20_000).map(|n| json(n, "INFO")).collect::<Vec<_>>());
        let rig = rig(file.path(), &Replay { loops: 0, ..Replay::default() }, whole());
        let (full, empty) = (rig.full.clone(), rig.empty.clone());
        let thread = std::thread::spawn(move || rig.reader.run());
        assert!(full.recv_blocking().is_ok());
        full.close();
        empty.close();
        assert!(thread.join().unwrap().screened.messages > 0);
    }
}
