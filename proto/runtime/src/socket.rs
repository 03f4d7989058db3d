//! A TCP connection whose waits cost no ring entry: see [`crate::readiness`].
//!
//! Reads and writes are plain system calls that never block. Invariant: a wait ends at the next
//! edge; nobody waits for what the kernel has already told.

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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

    /// Takes a connected socket, of which no other shard knows.
    ///
    /// # Errors
    /// What `fcntl` and `epoll_ctl` say.
    pub fn from_stream(stream: TcpStream) -> io::Result<Socket> {
        stream.set_nonblocking(true)?;
        let socket = Socket::new(stream)?;
        // It is connected, and nothing has been written: there is room, before the kernel says so.
        socket.registration.interest.writing.assume_ready();
        Ok(socket)
    }

    /// Of the other end.
    ///
    /// # Errors
    /// What `getpeername` says.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
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

    /// The next read asks the kernel, whatever has been told so far: news may wait to be fetched.
    pub fn doubt(&self) {
        self.registration.interest.reading.assume_ready();
    }

    /// Of this end.
    ///
    /// # Errors
    /// What `getsockname` says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

/// A listening socket of one shard.
#[derive(Debug)]
pub struct Listener {
    registration: Registration,
    listener: TcpListener,
}

impl Listener {
    /// Takes a socket that listens.
    ///
    /// # Errors
    /// What `fcntl` and `epoll_ctl` say.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Listener> {
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        let registration = Readiness::of_shard()?.register(&listener)?;
        Ok(Listener { registration, listener })
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// What `accept4` says: EMFILE, mostly; EINVAL once the socket was shut down.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let reading = &self.registration.interest.reading;
        poll_fn(|cx| {
            while reading.is_ready() {
                match self.listener.accept() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => reading.exhausted(),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    end => return Poll::Ready(end),
                }
            }
            reading.wait(cx.waker());
            Poll::Pending
        })
        .await
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

#[cfg(test)]
mod tests {
    use std::thread;

    use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
    use glommio::LocalExecutorBuilder;

    use super::*;

    fn on_a_shard<T: Send + 'static, F: Future<Output = T> + 'static>(
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        LocalExecutorBuilder::default().spawn(work).unwrap().join().unwrap()
    }

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn many_connections_ask_and_are_answered_again_and_again() {
        const CONNECTIONS: usize = 50;
        const TURNS: usize = 200;
        let (listener, address) = listen();
        let server = thread::spawn(move || {
            let each = |stream: TcpStream| {
                thread::spawn(move || {
                    let (mut stream, mut line) = (stream, [0; 8]);
                    while stream.read_exact(&mut line).is_ok() {
                        stream.write_all(&line).unwrap();
                    }
                })
            };
            let all: Vec<_> =
                (0..CONNECTIONS).map(|_| each(listener.accept().unwrap().0)).collect();
            all.into_iter().for_each(|one| one.join().unwrap());
        });
        let answers = on_a_shard(async move || {
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|client| {
                    glommio::spawn_local(async move {
                        let mut socket = Socket::connect(address).await.unwrap();
                        let mut answers = 0;
                        for turn in 0..TURNS {
                            let asked = ((client * TURNS + turn) as u64).to_le_bytes();
                            socket.write_all(&asked).await.unwrap();
                            let mut answer = [0; 8];
                            socket.read_exact(&mut answer).await.unwrap();
                            answers += usize::from(answer == asked);
                        }
                        answers
                    })
                })
                .collect();
            let mut answers = 0;
            for client in clients {
                answers += client.await;
            }
            answers
        });
        assert_eq!(answers, CONNECTIONS * TURNS);
        server.join().unwrap();
    }

    #[test]
    fn the_end_is_read_behind_data_of_which_a_read_took_less_than_it_had_room_for() {
        for pause_ms in [0, 20] {
            let (listener, address) = listen();
            let server = thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                stream.write_all(b"last words").unwrap();
                thread::sleep(std::time::Duration::from_millis(pause_ms));
            });
            let heard = on_a_shard(async move || {
                let mut socket = Socket::connect(address).await.unwrap();
                // Either both are there at the first look, or the end comes later.
                glommio::timer::sleep(std::time::Duration::from_millis(10)).await;
                let mut heard = Vec::new();
                socket.read_to_end(&mut heard).await.unwrap();
                heard
            });
            assert_eq!(heard, b"last words");
            server.join().unwrap();
        }
    }

    #[test]
    fn a_full_socket_is_waited_for() {
        const BYTES: usize = 16 << 20;
        let (listener, address) = listen();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            thread::sleep(std::time::Duration::from_millis(50));
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
        });
        on_a_shard(async move || {
            let mut socket = Socket::connect(address).await.unwrap();
            socket.write_all(&vec![7; BYTES]).await.unwrap();
            socket.close().await.unwrap();
        });
        assert_eq!(server.join().unwrap(), BYTES as u64);
    }

    #[test]
    fn nobody_there_is_an_error() {
        let (listener, address) = listen();
        drop(listener);
        let kind = on_a_shard(async move || {
            let end = Socket::connect(address).await;
            end.map(drop).map_err(|error| error.kind())
        });
        assert_eq!(kind, Err(ErrorKind::ConnectionRefused));
    }

    #[test]
    fn one_executor_after_the_other_on_a_thread_has_a_task_of_its_own() {
        for _ in 0..3 {
            let (listener, address) = listen();
            let server =
                thread::spawn(move || listener.accept().unwrap().0.write_all(b"x").unwrap());
            let executor = LocalExecutorBuilder::default().make().unwrap();
            let heard = executor.run(async move {
                let mut socket = Socket::connect(address).await.unwrap();
                let mut heard = [0];
                socket.read_exact(&mut heard).await.map(|()| heard)
            });
            assert_eq!(&heard.unwrap(), b"x");
            server.join().unwrap();
        }
    }
}
