//! A lane's end of a recording: chunks in, claims out.
//!
//! Owns what has come and was not taken, and the count of what was. Never waits: what has not come
//! yet is due at [`UNKNOWN_NS`], and the lane looks again.
//! Invariant: messages are taken once, in order, and none of another chunk or stage in one go.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::{Chunk, Supplier};
use crate::clock::Clock;
use crate::plan::replay::access::Request;

/// A deadline that is not known yet: later than any.
pub(crate) const UNKNOWN_NS: u64 = u64::MAX - 1;

/// The bytes of a claim: lines, each ended by `\n`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    requests: Vec<Request>,
    /// When its reader handed it over, ns since the start.
    pub(crate) ready_ns: u64,
}

/// A claim's buffers that are larger are not kept.
const KEEP_BYTES_MAX: usize = 512 * 1024;

/// A request of an access log, to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordedRequest<'a> {
    /// `GET` and its like, letters only.
    pub(crate) method: &'a str,
    /// Path and query, as they may stand in a request line.
    pub(crate) target: &'a str,
    /// What was answered when it was recorded; 0 where the log does not say.
    pub(crate) status: u16,
}

impl Recorded {
    /// Message `index` with its line end.
    pub(crate) fn line(&self, index: u64) -> &[u8] {
        #[expect(clippy::cast_possible_truncation, reason = "the index of a Vec")]
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// The request that message `index` is; `None` where they are lines.
    pub(crate) fn request(&self, index: u64) -> Option<RecordedRequest<'_>> {
        let request = self.requests.get(usize::try_from(index).ok()?)?;
        // Made by the reader out of ASCII alone.
        let line = std::str::from_utf8(self.line(index)).ok()?.trim_end();
        let (method, target) = line.split_at_checked(usize::from(request.method_bytes))?;
        Some(RecordedRequest { method, target: target.trim_start(), status: request.status })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.requests.clear();
    }

    /// Empties it; `None` if it is too large to be kept.
    pub(crate) fn emptied(mut self: Box<Self>) -> Option<Box<Recorded>> {
        self.clear();
        (self.bytes.capacity() <= KEEP_BYTES_MAX).then_some(self)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Feed {
    supplier: Supplier,
    clock: Clock,
    /// Where the warm-up ends, and the stages before and behind it.
    measured_from_ns: u64,
    measured_stage: usize,
    /// None is empty.
    queue: VecDeque<Box<Chunk>>,
    /// Messages of the first chunk that are taken.
    at: usize,
    /// Of each stage, taken or told.
    taken: [u64; 2],
    /// Nothing comes behind the queue.
    is_last_here: bool,
}

impl Feed {
    pub(crate) fn new(
        supplier: Supplier,
        clock: Clock,
        measured_from_ns: u64,
        measured_stage: usize,
    ) -> Feed {
        let queue = VecDeque::with_capacity(supplier.full.capacity().unwrap_or_default());
        Feed {
            supplier,
            clock,
            measured_from_ns,
            measured_stage,
            queue,
            at: 0,
            taken: [0; 2],
            is_last_here: false,
        }
    }

    /// Takes in what has come.
    pub(crate) fn pull(&mut self) {
        while let Ok(chunk) = self.supplier.full.try_recv() {
            self.is_last_here |= chunk.is_last;
            match chunk.dues.is_empty() {
                true => self.recycle(chunk),
                false => self.queue.push_back(chunk),
            }
        }
        // Where lanes share a reader, one of them sees the last chunk, all see the closed channel.
        self.is_last_here |= self.supplier.full.is_closed();
    }

    /// Takes in a chunk if there is none: where lanes share a reader, each takes what it needs.
    pub(crate) fn pull_one(&mut self) {
        while self.queue.is_empty() && !self.is_last_here {
            let Ok(chunk) = self.supplier.full.try_recv() else {
                self.is_last_here |= self.supplier.full.is_closed();
                return;
            };
            if chunk.is_last {
                // The others have to know.
                self.is_last_here = true;
                self.supplier.full.close();
            }
            match chunk.dues.is_empty() {
                true => self.recycle(chunk),
                false => self.queue.push_back(chunk),
            }
        }
    }

    /// When the next message is due: [`UNKNOWN_NS`] if it has not come, `u64::MAX` if there is none.
    pub(crate) fn next_ns(&self) -> u64 {
        match self.queue.front() {
            Some(chunk) => chunk.dues[self.at],
            None if self.is_last_here => u64::MAX,
            None => UNKNOWN_NS,
        }
    }

    /// The stage in which a message belongs.
    fn stage_of(&self, due_ns: u64) -> usize {
        if due_ns < self.measured_from_ns { 0 } else { self.measured_stage }
    }

    /// Takes what is due at `until_ns` or before, `count_max` messages at most, and none of another
    /// stage than the first; appends deadlines and messages, and gives the stage. There is a next
    /// one that is due by then.
    pub(crate) fn take(
        &mut self,
        until_ns: u64,
        count_max: u64,
        dues: &mut Vec<u64>,
        recorded: &mut Recorded,
    ) -> usize {
        let chunk = self.queue.front().expect("the caller has looked");
        let stage = self.stage_of(chunk.dues[self.at]);
        let is_warm_up = stage != self.measured_stage;
        let until_ns = match is_warm_up {
            true => until_ns.min(self.measured_from_ns.saturating_sub(1)),
            false => until_ns,
        };
        let most = usize::try_from(count_max).unwrap_or(usize::MAX);
        let end = self.at.saturating_add(most).min(chunk.dues.len());
        let count = chunk.dues[self.at..end].partition_point(|due_ns| *due_ns <= until_ns);
        dues.extend_from_slice(&chunk.dues[self.at..self.at + count]);
        self.carry_over(count, recorded);
        self.taken[usize::from(!is_warm_up)] += count as u64;
        self.step(count);
        stage
    }

    /// Takes the next messages whenever they are due, `count_max` at most; 0 if none is here.
    pub(crate) fn take_next(&mut self, count_max: u64, recorded: &mut Recorded) -> u64 {
        let Some(chunk) = self.queue.front() else { return 0 };
        let left = chunk.dues.len() - self.at;
        let count = left.min(usize::try_from(count_max).unwrap_or(usize::MAX));
        self.carry_over(count, recorded);
        self.step(count);
        count as u64
    }

    /// Copies the next messages: a claim whose worker is held up must not hold up the reader.
    fn carry_over(&self, count: usize, recorded: &mut Recorded) {
        let chunk = self.queue.front().expect("the caller has looked");
        recorded.clear();
        let range = self.at..self.at + count;
        let start = if self.at == 0 { 0 } else { chunk.ends[self.at - 1] };
        let ends = &chunk.ends[range.clone()];
        let end = ends.last().map_or(start, |end| *end);
        recorded.bytes.extend_from_slice(&chunk.bytes[start as usize..end as usize]);
        recorded.ends.extend(ends.iter().map(|end| end - start));
        if !chunk.requests.is_empty() {
            recorded.requests.extend_from_slice(&chunk.requests[range]);
        }
        recorded.ready_ns = self.clock.since_start_ns(chunk.ready_ns);
    }

    fn step(&mut self, count: usize) {
        self.at += count;
        if self.queue.front().is_some_and(|chunk| chunk.dues.len() == self.at) {
            let chunk = self.queue.pop_front().expect("just seen");
            self.at = 0;
            self.recycle(chunk);
        }
    }

    fn recycle(&self, mut chunk: Box<Chunk>) {
        chunk.clear();
        // A reader that is gone needs none.
        let _ = self.supplier.empty.try_send(chunk);
    }

    /// Takes all that is here and due before `end_ns`, and tells `each` stage, deadline and count.
    pub(crate) fn drain(&mut self, end_ns: u64, mut each: impl FnMut(usize, u64, u64)) {
        while let Some(chunk) = self.queue.front() {
            let before = chunk.dues[self.at..].partition_point(|due_ns| *due_ns < end_ns);
            if before == 0 {
                return;
            }
            for &due_ns in &chunk.dues[self.at..self.at + before] {
                let stage = self.stage_of(due_ns);
                each(stage, due_ns, 1);
                self.taken[usize::from(stage == self.measured_stage)] += 1;
            }
            self.step(before);
        }
    }

    /// Whether it is known how many messages are due before `end_ns`.
    pub(crate) fn knows_until(&self, end_ns: u64) -> bool {
        self.next_ns() != UNKNOWN_NS && self.next_ns() >= end_ns
    }

    /// What is due then or later need not be read.
    pub(crate) fn end(&self, end_ns: u64) {
        self.supplier.until_ns.fetch_min(end_ns, Ordering::Relaxed);
    }

    /// Messages of a stage, taken or here and due before `end_ns`.
    pub(crate) fn due_in(&mut self, stage: usize, end_ns: u64) -> u64 {
        self.pull();
        let is_measured = stage == self.measured_stage;
        let end_ns = if is_measured { end_ns } else { end_ns.min(self.measured_from_ns) };
        let from_ns = if is_measured { self.measured_from_ns } else { 0 };
        let mut count = self.taken[usize::from(is_measured)];
        for (index, chunk) in self.queue.iter().enumerate() {
            let dues = &chunk.dues[if index == 0 { self.at } else { 0 }..];
            let below = |bound: u64| dues.partition_point(|due_ns| *due_ns < bound);
            count += below(end_ns).saturating_sub(below(from_ns)) as u64;
        }
        count
    }
}
