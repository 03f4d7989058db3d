//! When to stop, and why.
//!
//! One request, seen by every shard: SIGINT and SIGTERM arrive on a thread of their own; a second
//! signal ends the process at once. The cause is set before anybody wakes, and the first one wins.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_channel::{Receiver, Sender};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Why a program stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The program's own decision.
    Done,
}

impl Cause {
    /// The exit code of a program whose work was cut short: 130, 143, or 0 for [`Cause::Done`].
    pub fn exit_code(self) -> u8 {
        match self {
            Cause::Interrupt => crate::exit_code::INTERRUPTED,
            Cause::Terminate => crate::exit_code::TERMINATED,
            Cause::Done => crate::exit_code::PASS,
        }
    }
}

const NOT_YET: u8 = 0;

fn encode(cause: Cause) -> u8 {
    match cause {
        Cause::Interrupt => 1,
        Cause::Terminate => 2,
        Cause::Done => 3,
    }
}

/// A handle on the one stop request of a program; clones share it, and it may cross threads.
#[derive(Clone, Debug)]
pub struct Stop {
    cause: Arc<AtomicU8>,
    // Nothing is ever sent: closing the channel wakes every waiter, on whichever executor.
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Default for Stop {
    fn default() -> Self {
        Stop::new()
    }
}

impl Stop {
    /// A request that nobody has made yet, without a link to signals.
    pub fn new() -> Stop {
        let (sender, receiver) = async_channel::bounded(1);
        Stop { cause: Arc::new(AtomicU8::new(NOT_YET)), sender, receiver }
    }

    /// A request that SIGINT and SIGTERM make. A second signal ends the process with 130 or 143.
    ///
    /// # Errors
    /// The handlers cannot be installed, or no thread can be had.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::new();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let requested = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let cause = if signal == SIGINT { Cause::Interrupt } else { Cause::Terminate };
                if requested.is_requested() {
                    signal_hook::low_level::exit(i32::from(cause.exit_code()));
                }
                requested.request(cause);
            }
        })?;
        Ok(stop)
    }

    /// Asks everybody to stop; only the first cause is kept.
    pub fn request(&self, cause: Cause) {
        let _ = self.cause.compare_exchange(
            NOT_YET,
            encode(cause),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        self.sender.close();
    }

    /// Why we stop; `None` while we don't.
    pub fn cause(&self) -> Option<Cause> {
        match self.cause.load(Ordering::Acquire) {
            1 => Some(Cause::Interrupt),
            2 => Some(Cause::Terminate),
            3 => Some(Cause::Done),
            _ => None,
        }
    }

    /// Whether we stop.
    pub fn is_requested(&self) -> bool {
        self.cause().is_some()
    }

    /// Waits, on any executor, until we stop.
    pub async fn requested(&self) -> Cause {
        while self.cause().is_none() {
            let _ = self.receiver.recv().await;
        }
        self.cause().unwrap_or(Cause::Done)
    }

    /// Waits, blocking this thread, until we stop.
    pub fn wait(&self) -> Cause {
        while self.cause().is_none() {
            let _ = self.receiver.recv_blocking();
        }
        self.cause().unwrap_or(Cause::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept_and_wakes_a_waiter_on_another_thread() {
        let stop = Stop::new();
        let waiter = std::thread::spawn({
            let stop = stop.clone();
            move || stop.wait()
        });
        assert!(!stop.is_requested());
        stop.request(Cause::Terminate);
        stop.request(Cause::Interrupt);
        assert_eq!(waiter.join().unwrap(), Cause::Terminate);
        assert_eq!(stop.cause(), Some(Cause::Terminate));
    }
}
