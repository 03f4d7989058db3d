//! A thread for each place where something is told, so that none waits for another.
//!
//! Owns the threads and what waits for them. A terminal that is stopped, a disk that hangs or a
//! program that does not read its pipe delays only its own place. What is told once a second waits
//! in a queue of [`QUEUE`]; at the bound it is dropped where only the latest matters, and otherwise
//! the caller waits, who is never a shard.
//! Invariant: what was told before [`Sink::end`] has been handled when `end` returns.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::seen::Seen;
use loadgen::{Manifest, Outcome};

/// Seconds that wait for a place at most.
const QUEUE: usize = 64;

/// What a place is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// The run begins.
    Started(Arc<Manifest>),
    /// A second is over.
    Second(Arc<Seen>),
    /// Something that a person should know now.
    Warning(Arc<str>),
    /// The run is over.
    Ended(Arc<Ending>),
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// `None`: it has not begun.
    pub(crate) outcome: Option<Outcome>,
    /// The exit code of the process.
    pub(crate) exit_code: u8,
    /// Why it has not begun.
    pub(crate) error: Option<String>,
}

/// A place where something is told.
pub(crate) trait Place: Send + 'static {
    /// How long it stays as it is when nothing is told; then comes [`Place::pass`].
    const REST: Duration = Duration::MAX;
    /// Whether only the latest matters.
    const MAY_MISS: bool = false;

    /// Takes note.
    fn tell(&mut self, told: &Told);

    /// [`Place::REST`] has passed.
    fn pass(&mut self) {}

    /// Nothing more will come. Gives what went wrong, in words.
    fn close(self) -> Result<(), String>;
}

/// A place on its thread.
#[derive(Debug)]
pub(crate) struct Sink {
    sender: SyncSender<Told>,
    thread: JoinHandle<Result<(), String>>,
    may_miss: bool,
}

/// Tells other places from within one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crier(Vec<SyncSender<Told>>);

impl Crier {
    /// Also to `sink`.
    pub(crate) fn and(mut self, sink: &Sink) -> Crier {
        self.0.push(sink.sender.clone());
        self
    }

    /// Tells all; who has no room misses it.
    pub(crate) fn warn(&self, text: &str) {
        let text: Arc<str> = text.into();
        for sender in &self.0 {
            let _ = sender.try_send(Told::Warning(text.clone()));
        }
    }
}

impl Sink {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn start<P: Place>(name: &str, place: P) -> std::io::Result<Sink> {
        let (sender, receiver) = sync_channel(QUEUE);
        let builder = std::thread::Builder::new().name(name.to_owned());
        let thread = builder.spawn(move || keep(place, &receiver))?;
        Ok(Sink { sender, thread, may_miss: P::MAY_MISS })
    }

    /// Tells the place.
    pub(crate) fn tell(&self, told: Told) {
        // A place that is gone has panicked, which `end` says.
        match self.sender.try_send(told) {
            Err(TrySendError::Full(told)) if !self.may_miss => drop(self.sender.send(told)),
            _ => {}
        }
    }

    /// Tells it the last, waits for it, and gives what went wrong.
    pub(crate) fn end(self, last: Option<Told>) -> Result<(), String> {
        if let Some(last) = last {
            let _ = self.sender.send(last);
        }
        // Other places may still hold the way in: only this ends it.
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| Err("an output thread has panicked".to_owned()))
    }
}

fn keep<P: Place>(mut place: P, told: &Receiver<Told>) -> Result<(), String> {
    loop {
        match told.recv_timeout(P::REST) {
            Ok(told) => {
                place.tell(&told);
                if matches!(told, Told::Ended(_)) {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => place.pass(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    place.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Vec<String>, std::sync::mpsc::Receiver<()>);

    impl Place for Slow {
        fn tell(&mut self, told: &Told) {
            let _ = self.1.recv();
            if let Told::Warning(text) = told {
                self.0.push(text.to_string());
            }
        }

        fn close(self) -> Result<(), String> {
            Err(self.0.join(" "))
        }
    }

    #[test]
    fn what_is_told_waits_for_its_place_and_nothing_is_lost() {
        let (go, wait) = sync_channel(2 * QUEUE);
        let sink = Sink::start("slow", Slow(Vec::new(), wait)).unwrap();
        let crier = Crier::default().and(&sink);
        for index in 0..QUEUE {
            sink.tell(Told::Warning(index.to_string().into()));
        }
        crier.warn("cried");
        (0..2 * QUEUE).for_each(|_| go.send(()).unwrap());
        drop(crier);
        let texts = sink.end(None).unwrap_err();
        assert!(texts.starts_with("0 1 2 ") && texts.contains("63"), "{texts}");
    }
}
