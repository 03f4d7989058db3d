//! Carries log lines to stderr by a thread of its own, through a bounded queue.
//!
//! Also tells what [`super::limit`] cut, because it has the time. Invariant: whoever logs never
//! waits; a line that finds the queue full is dropped, counted, and told once there is room.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use tracing::{Level, debug, error, info, trace, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::OWN_TARGET;
use super::limit::{Cut, Limit};

/// Lines that may wait.
const LINES_MAX: usize = 1024;
/// How often the cut repetitions are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Between two attempts to put a flush into a full queue.
const RETRY: Duration = Duration::from_millis(5);

enum Item {
    Line(Vec<u8>),
    /// Everything before it has been written when this is answered.
    Flush(SyncSender<()>),
}

/// The way in; clones share one queue.
#[derive(Clone)]
pub(super) struct Outlet {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Outlet {
    /// Starts the thread that writes to `out`; it lives as long as the process.
    pub(super) fn start(out: Box<dyn Write + Send>, limit: Arc<Limit>) -> io::Result<Outlet> {
        let (items, queue) = mpsc::sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let outlet = Outlet { items, dropped: Arc::clone(&dropped) };
        std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || carry(&queue, out, &limit, &dropped))?;
        Ok(outlet)
    }

    /// Waits until what came before is written, but no longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, wait) = mpsc::sync_channel(1);
        let mut item = Item::Flush(done);
        loop {
            match self.items.try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => item = back,
                Err(_) => return,
            }
            std::thread::sleep(RETRY);
        }
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Takes one line a call, as the formatting layer writes them.
impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.items.try_send(Item::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = Outlet;

    fn make_writer(&'a self) -> Outlet {
        self.clone()
    }
}

/// Writes until the process ends. What stderr refuses is gone: there is nobody left to tell.
fn carry(
    queue: &Receiver<Item>,
    mut out: Box<dyn Write + Send>,
    limit: &Limit,
    dropped: &AtomicU64,
) {
    let mut swept = Instant::now();
    loop {
        let mut flushed = None;
        match queue.recv_timeout(TICK) {
            Ok(Item::Line(line)) => {
                let _ = out.write_all(&line);
            }
            Ok(Item::Flush(done)) => flushed = Some(done),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(target: OWN_TARGET, lines = lost, "stderr was not read in time: lines are missing here");
        }
        if flushed.is_some() || swept.elapsed() >= TICK {
            swept = Instant::now();
            limit.sweep((flushed.is_none()).then_some(swept)).iter().for_each(tell);
        }
        if let Some(done) = flushed {
            // What was just told lies in the queue, behind what came before the flush.
            for _ in 0..LINES_MAX {
                let Ok(Item::Line(line)) = queue.try_recv() else { break };
                let _ = out.write_all(&line);
            }
            let _ = out.flush();
            let _ = done.send(());
        }
    }
}

fn tell(cut: &Cut) {
    let Cut { level, name, times } = cut;
    match *level {
        Level::ERROR => error!(target: OWN_TARGET, times, "suppressed {times} times: {name}"),
        Level::WARN => warn!(target: OWN_TARGET, times, "suppressed {times} times: {name}"),
        Level::INFO => info!(target: OWN_TARGET, times, "suppressed {times} times: {name}"),
        Level::DEBUG => debug!(target: OWN_TARGET, times, "suppressed {times} times: {name}"),
        Level::TRACE => trace!(target: OWN_TARGET, times, "suppressed {times} times: {name}"),
    }
}
