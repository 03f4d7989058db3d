//! Raw descriptors in and out of glommio, which offers no safe way for either.
//!
//! A connection that moves to another shard leaves glommio as an [`OwnedFd`] (a duplicate, so
//! that the poll which glommio armed on the original is cancelled with it) and enters again there.
#![expect(unsafe_code, reason = "glommio takes and gives raw descriptors only")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::net::{TcpListener, TcpStream};

/// A duplicate of the descriptor below `socket`, closed on exec.
///
/// # Errors
/// What `fcntl(F_DUPFD_CLOEXEC)` says: EMFILE, mostly.
pub fn dup(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `socket` is borrowed for the whole call and owns the descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Gives a connected socket to the executor of this thread.
pub fn tcp_stream(fd: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is owned, open, and passes into the stream.
    unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }
}

/// Gives a listening socket to the executor of this thread.
pub fn tcp_listener(fd: OwnedFd) -> TcpListener {
    // SAFETY: the descriptor is owned, open, and passes into the listener.
    unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) }
}
