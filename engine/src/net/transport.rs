//! The bytes of a connection: plain TCP, or TLS over it.
//!
//! Owns what the two have in common, so that a connection does not know which one it has; leaves
//! keys and handshakes to `tls`. Invariant: bytes that `poll_write` took may wait in TLS's own
//! buffer; they are on their way only after `poll_flush`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use runtime::socket::Socket;

use super::tls;

/// See the module.
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<tls::Stream>),
}

impl Transport {
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Ready: the socket has taken everything.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(stream) => stream.poll_flush(cx),
        }
    }

    /// Says that nothing more will be sent, in the words of each: TLS says close_notify first.
    pub(super) fn poll_shutdown_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(stream) => Pin::new(stream).poll_close(cx),
            Transport::Tls(stream) => stream.poll_shutdown_write(cx),
        }
    }

    /// Whether the end of the stream needs more than closing the socket.
    pub(super) fn has_farewell(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// Bytes of memory besides the socket's.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Transport::Plain(_) => 0,
            Transport::Tls(stream) => stream.memory_bytes(),
        }
    }

    /// The socket below.
    pub(super) fn into_socket(self) -> Socket {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.into_socket(),
        }
    }
}

/// Makes the close of `stream` a reset.
pub(super) fn reset(stream: &Socket) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
