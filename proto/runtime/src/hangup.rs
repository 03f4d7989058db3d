//! SIGHUP as "read your files again".
//!
//! Owns the signal and a thread that waits for it; leaves what is read again to the program.
//! Invariant: while a [`Hangups`] lives, SIGHUP never ends the process, and calls come one after
//! another; signals that arrive during a call are one more call.

use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::{Handle, Signals};

/// A thread that answers each SIGHUP; dropping it waits for a call that is under way, and ends it.
#[derive(Debug)]
pub struct Hangups {
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Hangups {
    /// Calls `act` at each SIGHUP from now on.
    ///
    /// # Errors
    /// The handler cannot be installed, or no thread can be had.
    pub fn answer(mut act: impl FnMut() + Send + 'static) -> io::Result<Hangups> {
        let mut arrived = Signals::new([SIGHUP])?;
        let signals = arrived.handle();
        let thread = std::thread::Builder::new().name("hangups".into()).spawn(move || {
            for _ in arrived.forever() {
                act();
            }
        })?;
        Ok(Hangups { signals, thread: Some(thread) })
    }
}

impl Drop for Hangups {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn each_hangup_is_answered_until_nobody_wants_to_know() {
        let (told, calls) = mpsc::channel();
        let hangups = Hangups::answer(move || told.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            signal_hook::low_level::raise(SIGHUP).unwrap();
            calls.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        drop(hangups);
        assert!(calls.recv().is_err(), "the thread and what it held are gone");
    }
}
