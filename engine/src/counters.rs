//! What a shard counts.
//!
//! Owns the numbers of one shard, written by that shard alone without atomics, and their published
//! copy that any thread may read; how long things took is in [`crate::times`]. Invariant: in every
//! snapshot `received = ok + filtered + error + in_flight`, and `error` is the sum of the reasons;
//! a shard publishes only between turns, when each line that it took is in exactly one of the four.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use proto::code::Code;

use crate::times::Times;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// One number of a shard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])+ $name,)+ }

        impl Counter {
            /// All of them, in the order of their index.
            pub const ALL: &[Counter] = &[$(Counter::$name,)+];
            /// The name in totals and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)+ }
            }
            /// What it counts, in a sentence.
            pub fn help(self) -> &'static str {
                match self { $(Counter::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }

        const COUNT: usize = [$($text,)+].len();
    };
}

counters! {
    /// Messages taken: neither blank lines nor hellos.
    Received => "received",
    /// Messages whose promised durability was reached.
    Ok => "ok",
    /// Messages below MIN_LOG_LEVEL.
    Filtered => "filtered",
    /// Messages rejected or not stored.
    Error => "error",
    /// Messages rejected for what they are, by the code of the reply.
    InvalidJson => "invalid_json",
    /// Messages rejected because they hold bytes that are not UTF-8.
    InvalidUtf8 => "invalid_utf8",
    /// Messages rejected because they are JSON, but no object.
    NotAnObject => "not_an_object",
    /// Messages rejected because level or message is missing.
    MissingField => "missing_field",
    /// Messages rejected because level, message or id is not what it has to be.
    InvalidField => "invalid_field",
    /// Messages rejected because they are longer than LINE_BYTES_MAX.
    TooLong => "too_long",
    /// Messages that could not be stored: their write or sync failed, or an earlier sync.
    StorageFailed => "storage_failed",
    /// Messages in a batch whose fate is open.
    InFlight => "in_flight",
    /// Bytes read from connections.
    BytesRead => "bytes_read",
    /// Lines that reached the sink.
    LinesWritten => "lines_written",
    /// Bytes of those lines.
    BytesWritten => "bytes_written",
    /// Writes of the sink that succeeded.
    Commits => "commits",
    /// Writes of the sink that failed.
    CommitsFailed => "commits_failed",
    /// Lines acknowledged as `received` whose write failed later.
    LostAfterReceived => "lost_after_received",
    /// Syncs that succeeded.
    Syncs => "syncs",
    /// Connections that began on this shard.
    ConnectionsOpened => "connections_opened",
    /// Connections that ended on this shard.
    ConnectionsClosed => "connections_closed",
    /// Connections that this shard accepted and handed to another one.
    ConnectionsHandedOver => "connections_handed_over",
    /// Connections refused by CONNECTIONS_MAX or CONNECTIONS_PER_IP_MAX.
    ConnectionsRefused => "connections_refused",
    /// Connections reset because they did not read their replies for REPLY_TIMEOUT_SECS.
    ReplyTimeouts => "reply_timeouts",
    /// Connections closed because the memory of the shard was used up.
    MemoryKills => "memory_kills",
    /// `accept` calls that failed.
    AcceptErrors => "accept_errors",
    /// TLS handshakes that failed.
    HandshakesFailed => "handshakes_failed",
    /// Connections closed because handshake or hello took longer than HANDSHAKE_TIMEOUT_SECS.
    HandshakeTimeouts => "handshake_timeouts",
    /// Connections closed because nothing happened on them for IDLE_TIMEOUT_SECS.
    IdleTimeouts => "idle_timeouts",
    /// Connections closed because a line took longer than LINE_TIMEOUT_SECS.
    LineTimeouts => "line_timeouts",
    /// Connections closed because their token was missing or wrong.
    Unauthorized => "unauthorized",
    /// Bytes that gzip members inflated to.
    BytesInflated => "bytes_inflated",
    /// Connections closed, or datagrams dropped, for a damaged or too large gzip member.
    GzipErrors => "gzip_errors",
    /// Messages refused because the batch was too full for their level.
    Shed => "shed",
    /// Messages refused because too little disk was free.
    DiskFull => "disk_full",
    /// Messages refused because the breaker was open.
    BreakerRefused => "breaker_refused",
    /// How often a breaker opened.
    BreakerOpened => "breaker_opened",
    /// What the breaker does: 0 closed, 1 half-open, 2 open.
    BreakerState => "breaker_state",
    /// Shards whose breaker refuses lines. One that is half-open and waits for its probe does not.
    BreakersOpen => "breakers_open",
    /// Shards whose storage has failed for good.
    StorageDead => "storage_dead",
    /// Datagrams that were taken from the socket.
    Datagrams => "datagrams",
    /// Messages of datagrams that found no room; they are not received.
    UdpDropped => "udp_dropped",
    /// Datagrams that the kernel dropped because the socket's buffer was full.
    UdpDroppedByKernel => "udp_dropped_by_kernel",
    /// Turns of a task that held the shard longer than 10 ms, by the kind of task.
    StallsConnection => "stalls_connection",
    /// Turns of the listener that held the shard longer than 10 ms.
    StallsListener => "stalls_listener",
    /// Turns of the flusher that held the shard longer than 10 ms.
    StallsFlusher => "stalls_flusher",
    /// Turns of the keeper that held the shard longer than 10 ms.
    StallsKeeper => "stalls_keeper",
    /// Turns of the taker of datagrams that held the shard longer than 10 ms.
    StallsDatagrams => "stalls_datagrams",
    /// Bytes that connections hold of MEMORY_BYTES_MAX.
    MemoryHeld => "memory_held",
}

impl Counter {
    /// Where a message is counted, beside [`Counter::Error`], that was rejected with `code`.
    fn of_rejection(code: Code) -> Counter {
        match code {
            Code::InvalidJson => Counter::InvalidJson,
            Code::InvalidUtf8 => Counter::InvalidUtf8,
            Code::NotAnObject => Counter::NotAnObject,
            Code::MissingField => Counter::MissingField,
            Code::InvalidField => Counter::InvalidField,
            Code::TooLong => Counter::TooLong,
            other => unreachable!("{} says nothing of a line", other.as_str()),
        }
    }
}

/// The numbers of one shard; only that shard writes them.
#[derive(Debug)]
pub struct Counters {
    cells: [Cell<u64>; COUNT],
    times: Arc<Times>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters::shown_by(&Published::default())
    }
}

impl Counters {
    /// The numbers of the shard whose published copy is `published`.
    pub fn shown_by(published: &Published) -> Counters {
        let times = Arc::clone(&published.times);
        Counters { cells: std::array::from_fn(|_| Cell::new(0)), times }
    }

    /// How long things took on the shard.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// A message was rejected for what it is.
    pub fn reject(&self, code: Code) {
        self.add(Counter::Error, 1);
        self.add(Counter::of_rejection(code), 1);
    }

    /// Adds `amount`.
    pub fn add(&self, counter: Counter, amount: u64) {
        let cell = &self.cells[counter as usize];
        cell.set(cell.get() + amount);
    }

    /// Sets a gauge.
    pub fn set(&self, counter: Counter, value: u64) {
        self.cells[counter as usize].set(value);
    }

    /// Takes `amount` from a gauge.
    pub fn take(&self, counter: Counter, amount: u64) {
        let cell = &self.cells[counter as usize];
        assert!(cell.get() >= amount, "{} would fall below zero", counter.name());
        cell.set(cell.get() - amount);
    }

    /// The present value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.cells[counter as usize].get()
    }

    /// A copy of all numbers.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { values: std::array::from_fn(|index| self.cells[index].get()) }
    }

    /// Lets other threads see the present numbers. Call it between turns.
    pub fn publish(&self, published: &Published) {
        published.store(&self.snapshot());
    }
}

/// Why messages are not taken; together they are [`Counter::Error`].
pub const REASONS: &[Counter] = &[
    Counter::InvalidJson,
    Counter::InvalidUtf8,
    Counter::NotAnObject,
    Counter::MissingField,
    Counter::InvalidField,
    Counter::TooLong,
    Counter::StorageFailed,
    Counter::Shed,
    Counter::DiskFull,
    Counter::BreakerRefused,
];

/// All numbers of a shard, or of several, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    values: [u64; COUNT],
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { values: [0; COUNT] }
    }
}

impl Snapshot {
    /// One number.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// The sum of two shards.
    pub fn merge(&mut self, other: &Snapshot) {
        for (value, more) in self.values.iter_mut().zip(other.values) {
            *value += more;
        }
    }

    /// Whether each received message is in exactly one of the four states.
    pub fn is_balanced(&self) -> bool {
        self.get(Counter::Received)
            == self.get(Counter::Ok)
                + self.get(Counter::Filtered)
                + self.get(Counter::Error)
                + self.get(Counter::InFlight)
    }

    /// Whether each message that was not taken has its reason.
    pub fn has_reasons(&self) -> bool {
        self.get(Counter::Error) == REASONS.iter().map(|&reason| self.get(reason)).sum::<u64>()
    }

    /// As a JSON object, by name.
    pub fn to_json(&self) -> serde_json::Value {
        Counter::ALL
            .iter()
            .map(|&counter| (counter.name().to_owned(), self.get(counter).into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// The published copy: a sequence lock with one writer. Readers retry, the writer never waits.
#[derive(Debug)]
pub struct Published {
    /// Odd while a write is under way.
    version: AtomicU64,
    values: [AtomicU64; COUNT],
    times: Arc<Times>,
}

impl Default for Published {
    fn default() -> Self {
        Published {
            version: AtomicU64::new(0),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            times: Arc::default(),
        }
    }
}

impl Published {
    fn store(&self, snapshot: &Snapshot) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, &value) in self.values.iter().zip(&snapshot.values) {
            cell.store(value, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// How long things took on the shard.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// Grows with each publication.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether anything was published yet.
    pub fn has_begun(&self) -> bool {
        self.version.load(Ordering::Relaxed) > 0
    }

    /// The last published numbers, all from one moment.
    pub fn load(&self) -> Snapshot {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let values = std::array::from_fn(|index| self.values[index].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return Snapshot { values };
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_snapshot_that_another_thread_sees_is_balanced() {
        let published = Arc::new(Published::default());
        let reader = std::thread::spawn({
            let published = Arc::clone(&published);
            move || {
                let mut last = 0;
                while last < 20_000 {
                    let snapshot = published.load();
                    assert!(snapshot.is_balanced(), "{snapshot:?}");
                    last = snapshot.get(Counter::Received);
                }
            }
        });
        let counters = Counters::default();
        for turn in 0..20_000u64 {
            counters.add(Counter::Received, 1);
            let state = [Counter::Ok, Counter::Filtered, Counter::Error, Counter::InFlight];
            counters.add(state[usize::try_from(turn % 4).unwrap()], 1);
            counters.publish(&published);
        }
        reader.join().unwrap();
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), COUNT);
    }
}
