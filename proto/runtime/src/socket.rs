//! A TCP connection whose waits cost no ring entry: see [`crate::readiness`].
//!
//! Reads and writes are plain system calls that never block. Invariant: a wait ends at the next
//! edge; nobody waits for what the kernel has already told.

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use socket2::{Domain, Protocol, Socket as Raw, Type};

use crate::readiness::{Readiness, Registration};

/// A connection of one shard.
#[derive(Debug)]
pub struct Socket {
    // Before the stream: its place is free before the descriptor can be another's.
    registration: Registration,
    stream: TcpStream,
}

impl Socket {
    /// Connects; drop the future to give up.
    ///
    /// # Errors
    /// What `socket` and `connect` say.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        let raw = Raw::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        Socket::connect_from(raw, address).await
    }

    /// Connects a socket of which the options are set and the local address may be bound.
    ///
    /// # Errors
    /// What `connect` says.
    pub async fn connect_from(raw: Raw, address: SocketAddr) -> io::Result<Socket> {
        raw.set_nonblocking(true)?;
        match raw.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let socket = Socket::new(raw.into())?;
        let writing = &socket.registration.interest.writing;
        poll_fn(|cx| {
            if writing.is_ready() {
                return Poll::Ready(());
            }
            writing.wait(cx.waker());
            Poll::Pending
        })
        .await;
        match socket.stream.take_error()? {
            None => Ok(socket),
            Some(error) => Err(error),
        }
    }

    fn new(stream: TcpStream) -> io::Result<Socket> {
        let registration = Readiness::of_shard()?.register(&stream)?;
        Ok(Socket { registration, stream })
    }

    /// Small writes go at once.
    ///
    /// # Errors
    /// What `setsockopt` says.
    pub fn set_nodelay(&self, value: bool) -> io::Result<()> {
        self.stream.set_nodelay(value)
    }

    /// Of this end.
    ///
    /// # Errors
    /// What `getsockname` says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Socket { registration, stream } = self.get_mut();
        let interest = &registration.interest;
        while interest.reading.is_ready() {
            match stream.read(buffer) {
                Ok(n) => {
                    // Less than there is room for: all there was (epoll(7), question 9).
                    if n < buffer.len() {
                        interest.drained();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => interest.reading.exhausted(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        interest.reading.wait(cx.waker());
        Poll::Pending
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Socket { registration, stream } = self.get_mut();
        let writing = &registration.interest.writing;
        while writing.is_ready() {
            match stream.write(bytes) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => writing.exhausted(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        writing.wait(cx.waker());
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(std::net::Shutdown::Write))
    }
}
