//! Writes the side files of one shard, beside the way of its lines.
//!
//! The sink leaves a note of each commit and each sync, which costs it nothing, and goes on; a task
//! of its own computes checksums and writes records by the thousand, once a second, at the end of
//! a segment, and at the end. Owns the side file of the active segment and of those that it has
//! not finished. Invariants: nothing here delays a write, a sync or a reply, and nothing that fails
//! here fails a line: what could not be recorded is unverified. Memory is bounded by
//! [`RECORDS_MAX`]; beyond it commits go unrecorded.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future::or;

use super::side::{self, Entry};
use crate::signal::Signal;
use crate::sink::disk::Disk;

/// So many records are written without waiting for more.
const RECORDS_WRITE: usize = 1024;
/// Records that wait for a side file that cannot be written: 2 MiB.
const RECORDS_MAX: usize = 64 * 1024;
/// Side files that wait.
const CHAPTERS_MAX: usize = 8;
/// The first record that waits does so for this time at most.
const LATEST: Duration = Duration::from_secs(1);

/// What the sink says.
#[derive(Debug)]
enum Note<B> {
    /// From now on it is about this segment.
    Segment {
        number: u64,
        path: PathBuf,
    },
    /// `buf[lines]` was written at `offset`.
    Commit {
        buf: Rc<B>,
        bytes: Range<usize>,
        lines: u64,
        offset: u64,
    },
    /// Everything before it is durable.
    Synced(u64),
    /// The active segment is gone, and its side file with it.
    Gone,
    End,
}

#[derive(Debug)]
struct Desk<B> {
    notes: RefCell<VecDeque<Note<B>>>,
    signal: Signal,
}

/// The sink's end of it.
#[derive(Debug)]
pub(super) struct Scribe<D: Disk> {
    desk: Rc<Desk<D::Buf>>,
    ended: Receiver<()>,
}

impl<D: Disk> Scribe<D> {
    pub(super) fn begin(disk: &D) -> Scribe<D> {
        let desk = Rc::new(Desk { notes: RefCell::default(), signal: Signal::default() });
        let (end, ended) = async_channel::bounded(1);
        let writer = Writer {
            disk: disk.clone(),
            desk: Rc::clone(&desk),
            chapters: VecDeque::new(),
            written: Rc::default(),
            writing: None,
            is_ending: false,
        };
        disk.spawn(writer.run(end));
        Scribe { desk, ended }
    }

    pub(super) fn segment(&self, number: u64, segment: &Path) {
        self.say(Note::Segment { number, path: side::path_of(segment) });
    }

    pub(super) fn commit(&self, buf: Rc<D::Buf>, bytes: Range<usize>, lines: u64, offset: u64) {
        self.say(Note::Commit { buf, bytes, lines, offset });
    }

    pub(super) fn synced(&self, offset: u64) {
        self.say(Note::Synced(offset));
    }

    pub(super) fn gone(&self) {
        self.say(Note::Gone);
    }

    /// Waits until all that can be recorded is.
    pub(super) async fn end(self) {
        self.say(Note::End);
        let _ = self.ended.recv().await;
    }

    fn say(&self, note: Note<D::Buf>) {
        self.desk.notes.borrow_mut().push_back(note);
        self.desk.signal.notify();
    }
}

impl<D: Disk> Drop for Scribe<D> {
    fn drop(&mut self) {
        self.say(Note::End);
    }
}

/// A side file, as far as it is not written.
#[derive(Debug)]
struct Chapter {
    number: u64,
    path: PathBuf,
    /// Bytes of the file.
    written: u64,
    records: VecDeque<Entry>,
    synced: u64,
    /// The `synced` that the file tells.
    synced_told: u64,
    /// What is written is durable.
    is_durable: bool,
    /// Its segment is closed.
    is_closed: bool,
    /// The last attempt to write it failed.
    has_failed: bool,
    /// Closed, and writing it has failed since.
    is_hopeless: bool,
}

impl Chapter {
    /// Whether its file holds all there is to say, for good if nothing follows.
    fn is_told(&self) -> bool {
        let is_safe = self.is_durable || !self.is_closed;
        self.records.is_empty() && self.synced_told == self.synced && is_safe
    }
}

/// What is being written of the first chapter.
#[derive(Debug)]
struct Writing {
    records: usize,
    bytes: u64,
    synced: u64,
    durably: bool,
}

struct Writer<D: Disk> {
    disk: D,
    desk: Rc<Desk<D::Buf>>,
    chapters: VecDeque<Chapter>,
    /// How the last write ended, until it is taken.
    written: Rc<Cell<Option<io::Result<()>>>>,
    writing: Option<Writing>,
    is_ending: bool,
}

impl<D: Disk> Writer<D> {
    async fn run(mut self, end: Sender<()>) {
        let mut timer: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
        let mut is_late = false;
        loop {
            self.digest();
            self.settle();
            if self.writing.is_none() && self.is_due(is_late) {
                self.write();
                (timer, is_late) = (None, false);
                continue;
            }
            let is_idle = self.writing.is_none() && self.chapters.iter().all(Chapter::is_told);
            if self.is_ending && is_idle {
                let _ = end.send(()).await;
                return;
            }
            let notified = self.desk.signal.notified();
            if is_idle || self.writing.is_some() {
                notified.await;
                continue;
            }
            let disk = &self.disk;
            let rest = timer.get_or_insert_with(|| {
                let disk = disk.clone();
                Box::pin(async move { disk.sleep(LATEST).await })
            });
            let noted = async {
                notified.await;
                false
            };
            let passed = async {
                rest.await;
                true
            };
            is_late = or(noted, passed).await;
            if is_late {
                timer = None;
            }
        }
    }

    /// Takes the sink's notes; never waits, so that no buffer waits for a disk.
    fn digest(&mut self) {
        loop {
            let note = self.desk.notes.borrow_mut().pop_front();
            match note {
                None => return,
                Some(Note::Segment { number, path }) => self.open(number, path),
                Some(Note::Commit { buf, bytes, lines, offset }) => {
                    let records: usize = self.chapters.iter().map(|one| one.records.len()).sum();
                    let Some(chapter) = self.chapters.back_mut() else { continue };
                    let (Ok(length), Ok(lines)) = (bytes.len().try_into(), lines.try_into()) else {
                        continue;
                    };
                    if records < RECORDS_MAX {
                        let crc = side::checksum(&(*buf).as_ref()[bytes]);
                        chapter.records.push_back(Entry { offset, length, lines, crc, synced: 0 });
                    }
                }
                Some(Note::Synced(offset)) => {
                    if let Some(chapter) = self.chapters.back_mut() {
                        chapter.synced = offset;
                    }
                }
                Some(Note::Gone) => {
                    if let Some(chapter) = self.chapters.back_mut() {
                        chapter.records.clear();
                        (chapter.synced, chapter.is_durable) = (chapter.synced_told, true);
                    }
                }
                Some(Note::End) => {
                    self.is_ending = true;
                    if let Some(chapter) = self.chapters.back_mut() {
                        chapter.is_closed = true;
                    }
                }
            }
        }
    }

    fn open(&mut self, number: u64, path: PathBuf) {
        if let Some(chapter) = self.chapters.back_mut() {
            chapter.is_closed = true;
        }
        if self.chapters.len() == CHAPTERS_MAX {
            // The first one is being written, perhaps.
            self.chapters.remove(1);
        }
        self.chapters.push_back(Chapter {
            number,
            path,
            written: 0,
            records: VecDeque::new(),
            synced: 0,
            synced_told: 0,
            is_durable: true,
            is_closed: false,
            has_failed: false,
            is_hopeless: false,
        });
    }

    /// Takes note of a write that has ended, and leaves chapters that are closed.
    fn settle(&mut self) {
        if let Some(result) = self.written.take() {
            let chapter = self.chapters.front_mut();
            if let Some((Writing { records, bytes, synced, durably }, chapter)) =
                self.writing.take().zip(chapter)
            {
                chapter.has_failed = result.is_err();
                match result {
                    Ok(()) => {
                        chapter.records.drain(..records.min(chapter.records.len()));
                        chapter.written += bytes;
                        (chapter.synced_told, chapter.is_durable) = (synced, durably);
                    }
                    Err(_) => chapter.is_hopeless = chapter.is_closed,
                }
            }
        }
        while self.writing.is_none()
            && let Some(chapter) = self.chapters.front()
            && chapter.is_closed
            && (chapter.is_told() || chapter.is_hopeless)
        {
            self.chapters.pop_front();
        }
    }

    fn is_due(&self, is_late: bool) -> bool {
        self.chapters.front().is_some_and(|chapter| {
            let is_long = chapter.records.len() >= RECORDS_WRITE && !chapter.has_failed;
            !chapter.is_told() && (chapter.is_closed || is_long || is_late)
        })
    }

    /// Begins to write all that is known of the first chapter.
    fn write(&mut self) {
        let Some(chapter) = self.chapters.front() else { return };
        let mut bytes = Vec::with_capacity((chapter.records.len() + 1) * side::RECORD_BYTES);
        for entry in &chapter.records {
            Entry { synced: chapter.synced, ..*entry }.encode(chapter.number, &mut bytes);
        }
        if chapter.records.is_empty() {
            Entry::mark(chapter.synced).encode(chapter.number, &mut bytes);
        }
        self.writing = Some(Writing {
            records: chapter.records.len(),
            bytes: bytes.len() as u64,
            synced: chapter.synced,
            durably: chapter.is_closed,
        });
        let (disk, desk, written) =
            (self.disk.clone(), Rc::clone(&self.desk), Rc::clone(&self.written));
        let (path, offset, durably) = (chapter.path.clone(), chapter.written, chapter.is_closed);
        self.disk.spawn(async move {
            written.set(Some(disk.put(&path, offset, bytes, durably).await));
            desk.signal.notify();
        });
    }
}
