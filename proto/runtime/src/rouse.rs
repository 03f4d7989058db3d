//! Wakes a shard that went to sleep before its first turn: a way around a fault of glommio 0.9.
//!
//! `awake` describes the fault, and keeps timers ahead of a shard that runs. In its very first turn
//! a shard has no timer yet: one that is descheduled there parks for ever, with its root task ready
//! (twice in a day of test runs on 2 cores under a load of 10 to 20). A signal to its thread ends
//! the park: the wait for the ring returns EINTR, which glommio takes for "nothing came", and it
//! turns once more.
//!
//! The signal is SIGURG, which nobody here has another use for; it does nothing but interrupt.
#![expect(unsafe_code, reason = "pthread_kill takes a raw thread id")]

use std::io;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Gives the signal its handler; without one it would be ignored, and interrupt nothing.
///
/// # Errors
/// The system refuses.
pub(crate) fn prepare() -> io::Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        signal_hook::flag::register(libc::SIGURG, Arc::new(AtomicBool::new(false)))?;
        let _ = DONE.set(());
    }
    Ok(())
}

/// Interrupts whatever system call `thread` waits in.
pub(crate) fn rouse<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle is not joined yet, so that its thread id is valid, also when it has ended.
    let _ = unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGURG) };
}
