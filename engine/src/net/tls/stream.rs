//! A TLS session on its socket.
//!
//! Owns both, from the first byte of the handshake to the close; leaves the limits of time to the
//! connection. Invariants: buffers are borrowed within a poll only; what waits to be sent is bounded
//! by one [`WRITE_BYTES_MAX`], because more is taken only when it is gone; the end of the socket
//! without close_notify is an error, since anybody on the way could have cut it there.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use runtime::socket::Socket;
use rustls::ServerConfig;

use super::session::Session;

/// Bytes of plaintext taken at a time: four records, one write.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Reads in a poll that bring no plaintext: parts of records, and what is TLS's own.
const FRUITLESS_READS_MAX: usize = 4;
/// Heap of rustls and aws-lc for a session that idles, in bytes; an idle connection
/// has 15 KB resident in all (tests/it/tls.rs measures it).
const SESSION_BYTES: usize = 12 * 1024;

/// See the module.
pub(crate) struct Stream {
    socket: Socket,
    session: Session,
    /// Plaintext that came along with the end of the handshake.
    early: Vec<u8>,
}

/// A handshake that came to nothing.
pub(crate) struct Failed {
    /// Why, for the log.
    pub reason: io::Error,
    /// With an alert sent, where the client is still there to read it.
    pub socket: Option<Socket>,
}

/// Agrees with the client on a session.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    socket: Socket,
    buffer: &RefCell<Vec<u8>>,
) -> Result<Stream, Failed> {
    let session = match Session::new(config) {
        Ok(session) => session,
        Err(error) => return Err(Failed { reason: invalid(error), socket: None }),
    };
    let mut stream = Stream { socket, session, early: Vec::new() };
    match poll_fn(|cx| stream.poll_handshake(cx, &mut buffer.borrow_mut())).await {
        Ok(()) => Ok(stream),
        Err(reason) => {
            let is_there = reason.kind() == ErrorKind::InvalidData;
            Err(Failed { reason, socket: is_there.then_some(stream.socket) })
        }
    }
}

impl Stream {
    fn poll_handshake(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.session.has_peer_closed() {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
            match ready!(self.poll_take(cx, buffer)) {
                Ok(plain) => self.early.extend_from_slice(&buffer[..plain]),
                Err(error) => {
                    // The alert; a fresh socket takes it at once, or nobody does.
                    let _ = self.poll_flush(cx);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Plaintext into `buffer`, which has the length of [`super::buffer_bytes`]. `Ok(0)` after the
    /// client's close_notify.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            buffer[..early.len()].copy_from_slice(&early);
            return Poll::Ready(Ok(early.len()));
        }
        for _ in 0..FRUITLESS_READS_MAX {
            if self.session.has_peer_closed() {
                return Poll::Ready(Ok(0));
            }
            let plain = ready!(self.poll_take(cx, buffer))?;
            if plain > 0 {
                return Poll::Ready(Ok(plain));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and decrypts what is complete.
    fn poll_take(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.session.failed() {
            return Poll::Ready(Err(invalid(error.clone())));
        }
        let room = self.session.room(buffer);
        if room.is_empty() {
            let reason = "a message of the handshake is too long";
            return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, reason)));
        }
        let received = ready!(Pin::new(&mut self.socket).poll_read(cx, room))?;
        if received == 0 {
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(self.session.take(buffer, received).map_err(invalid))
    }

    /// Takes `bytes` or a part of them, which may wait here until [`Stream::poll_flush`].
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let taken = bytes.len().min(WRITE_BYTES_MAX);
        self.session.encrypt(&bytes[..taken]).map_err(invalid)?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    /// Ready: the socket has taken everything.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing().is_empty() {
            let outgoing = self.session.outgoing();
            let bytes = ready!(Pin::new(&mut self.socket).poll_write(cx, outgoing))?;
            self.session.sent(bytes);
        }
        Poll::Ready(Ok(()))
    }

    /// Says close_notify, and ends the sending side of the socket.
    pub(crate) fn poll_shutdown_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.close();
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_close(cx)
    }

    /// Bytes of memory besides the socket's.
    pub(crate) fn memory_bytes(&self) -> usize {
        SESSION_BYTES + self.session.buffers_bytes() + self.early.capacity()
    }

    /// The socket below.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
