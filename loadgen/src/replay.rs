//! A recording on its way into a run: threads that read ahead, and the lanes that take from them.
//!
//! ```text
//! file ── reader (a thread) ──> chunks: deadlines and bytes ──> feed (of a lane) ──> claims
//!                          <── emptied chunks ──
//! ```
//!
//! Each lane has a reader of its own, which reads the whole recording and hands on every so manieth
//! message: a lane that is late holds up its own reader and nobody else's, and memory stays bounded.
//! Where there are no deadlines (REPLAY_SPEED max) one reader serves all lanes, whoever is free.
//! Owns what they share: chunks, the channels between the two, and the beginning and end of the
//! threads. Leaves reading to [`reader`], files to [`source`], taking to [`feed`].
//! Invariant: as many chunks exist as were made at the start; so whatever stands still, nothing
//! grows.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver as Waiting, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use runtime::stop::Stop;

use self::reader::{Reader, Told};
use self::report::Recording as Report;
use self::source::Source;
use crate::config::Flow;
use crate::error::Error;
use crate::plan::replay::access::Request;
use crate::plan::replay::screen::Layout;
use crate::plan::replay::{Replay, Speed};
use crate::plan::schedule::{Part, Schedule};

pub(crate) mod feed;
mod lines;
mod reader;
pub(crate) mod report;
mod source;

/// A chunk is full with so many bytes of messages: a fraction of a millisecond to read, and some
/// hundred messages, so that one hand-over costs each of them next to nothing.
const CHUNK_BYTES: usize = 128 * 1024;
/// The message that fills it is mostly not longer.
const LINE_BYTES: usize = 4 * 1024;
/// Or with so many messages, where they are short.
const CHUNK_MESSAGES: usize = 2048;
/// All chunks of a recording together: a tenth of a second of 200,000 messages of 200 bytes.
const READ_AHEAD_BYTES: usize = 4 << 20;
/// Of a lane, however many there are.
const CHUNKS_MIN: usize = 6;
/// How often the start of a run looks at a stop request while it waits for the first message.
const GLANCE: Duration = Duration::from_millis(20);

/// Messages that a reader hands over at once.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// When each is due, ns since the start; they never descend.
    dues: Vec<u64>,
    /// Where each ends in `bytes`.
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// Of each, where they are requests of an access log.
    requests: Vec<Request>,
    /// When it was handed over, on the monotonic clock.
    ready_ns: u64,
    /// Nothing comes behind it.
    is_last: bool,
}

impl Chunk {
    /// With room for what it mostly takes, so that it does not grow to twice as much.
    fn roomy() -> Box<Chunk> {
        let bytes = Vec::with_capacity(CHUNK_BYTES + LINE_BYTES);
        Box::new(Chunk { bytes, ..Chunk::default() })
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= CHUNK_BYTES || self.dues.len() >= CHUNK_MESSAGES
    }

    fn clear(&mut self) {
        self.dues.clear();
        self.ends.clear();
        self.bytes.clear();
        self.requests.clear();
        self.is_last = false;
    }
}

/// A lane's ends of the channels.
#[derive(Clone, Debug)]
pub(crate) struct Supplier {
    full: Receiver<Box<Chunk>>,
    empty: Sender<Box<Chunk>>,
    /// What is due then or later is not read any more.
    until_ns: Arc<AtomicU64>,
}

/// A reader as the run sees it.
#[derive(Debug)]
pub(crate) struct Handle {
    flow: usize,
    supplier: Supplier,
    begun: Waiting<Result<(), String>>,
    thread: Option<JoinHandle<Told>>,
    replay: Replay,
    layout: Layout,
}

/// The readers of a flow's recording, and what its lanes take from: as many as there are lanes.
///
/// # Errors
/// There is no such recording, or it is none.
pub(crate) fn open(
    index: usize,
    flow: &Flow,
    schedule: &Schedule,
    lanes: usize,
) -> Result<(Vec<Supplier>, Vec<Handle>), Error> {
    let Some(replay) = &flow.replay else { return Ok((Vec::new(), Vec::new())) };
    let path = || replay.path.clone();
    let unusable = |reason| Error::Unusable { path: path(), knob: "REPLAY", reason };
    let source = Source::find(&replay.path).map_err(unusable)?;
    let (sample, broken) = source::sample(&source);
    if let Some(reason) = broken.filter(|_| sample.is_empty()) {
        return Err(unusable(reason));
    }
    if sample.is_empty() {
        return Err(not_a_recording(replay, "it has no lines"));
    }
    let layout = Layout::of(replay, &sample).map_err(|reason| not_a_recording(replay, &reason))?;
    let readers = if replay.speed == Speed::Max { 1 } else { lanes };
    let chunks = (READ_AHEAD_BYTES / CHUNK_BYTES / readers).max(CHUNKS_MIN);
    let mut handles = Vec::with_capacity(readers);
    for part in 0..readers {
        let (full_in, full) = async_channel::bounded(chunks);
        let (empty, empty_out) = async_channel::bounded(chunks);
        for _ in 0..chunks {
            empty.try_send(Chunk::roomy()).expect("there is room for every chunk");
        }
        let until_ns = Arc::new(AtomicU64::new(schedule.end_ns()));
        let (begin, begun) = sync_channel(1);
        let reader = Reader {
            source: source.clone(),
            layout: layout.clone(),
            replay: replay.clone(),
            part: Part::new(part as u64, readers as u64),
            total: flow.bounds().total,
            measured_from_ns: schedule.measured_from_ns(),
            wants_requests: flow.wants_requests(),
            until_ns: Arc::clone(&until_ns),
            empty: empty_out,
            full: full_in,
            begin: Some(begin),
        };
        let named = std::thread::Builder::new().name("replay".to_owned());
        let thread =
            named.spawn(move || reader.run()).map_err(|error| unusable(error.to_string()))?;
        handles.push(Handle {
            flow: index,
            supplier: Supplier { full, empty, until_ns },
            begun,
            thread: Some(thread),
            replay: replay.clone(),
            layout: layout.clone(),
        });
    }
    let suppliers = (0..lanes).map(|lane| handles[lane % readers].supplier.clone()).collect();
    Ok((suppliers, handles))
}

fn not_a_recording(replay: &Replay, reason: &str) -> Error {
    Error::Usage(format!("cannot replay {} (REPLAY): {reason}", replay.path.display()))
}

/// Waits until each reader has found its first messages, so that the run does not begin late.
///
/// # Errors
/// A recording has no message to send.
pub(crate) fn await_first(handles: &[Handle], stop: &Stop) -> Result<(), Error> {
    for handle in handles {
        loop {
            match handle.begun.recv_timeout(GLANCE) {
                Ok(Ok(())) => break,
                Ok(Err(reason)) => return Err(not_a_recording(&handle.replay, &reason)),
                Err(RecvTimeoutError::Timeout) if stop.cause().is_none() => {}
                // A reader that is gone has panicked; joining it says so.
                Err(_) => break,
            }
        }
    }
    Ok(())
}

impl Handle {
    /// Ends the reader, and says what it has read.
    fn finish(mut self) -> Report {
        self.close();
        let told = self.thread.take().map(JoinHandle::join);
        let told = told.and_then(Result::ok).unwrap_or_default();
        Report::new(self.flow, &self.replay, &self.layout, told)
    }

    fn close(&self) {
        self.supplier.full.close();
        self.supplier.empty.close();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends all readers; what a flow's recording held, as far as the one read that read most.
pub(crate) fn finish(handles: Vec<Handle>) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for report in handles.into_iter().map(Handle::finish) {
        match reports.iter_mut().find(|other| other.flow == report.flow) {
            Some(other) if other.lines.lines >= report.lines.lines => {}
            Some(other) => *other = report,
            None => reports.push(report),
        }
    }
    reports
}
