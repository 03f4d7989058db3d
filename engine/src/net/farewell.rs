//! How a connection ends: the last reply must not be destroyed by the close.
//!
//! A socket that is closed with unread input is reset, and a reset destroys replies that the client
//! has not read. So the engine says that it has said everything, then reads off input for a
//! bounded time. Leaves to the connection what the last words are.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::timer::sleep;
use proto::code::Code;
use proto::reply::Reply;
use runtime::socket::Socket;

use super::transport::{self, Transport};
use crate::shard::Shard;

/// After the last reply, input is read off for so long, so that a reset does not destroy replies.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides have said everything.
    Complete,
    /// We have said our last word, the client perhaps not.
    LastWord,
    /// The socket is broken, or the client is cut off.
    Reset,
}

/// Ends a connection.
pub(super) async fn part(shard: &Shard, mut transport: Transport, end: End) {
    match end {
        End::Complete if !transport.has_farewell() => {}
        End::Complete => say_farewell(&mut transport).await,
        End::LastWord => {
            say_farewell(&mut transport).await;
            read_off(shard, transport.into_socket()).await;
        }
        End::Reset => transport::reset(&transport.into_socket()),
    }
}

/// Tells a client why it is not served, and closes. Without TLS: a client that waits for a
/// handshake learns it from the close.
pub(super) async fn refuse(shard: &Shard, mut stream: Socket, code: Code, reason: &str) {
    if !shard.settings.speaks_tls {
        let mut line = Vec::new();
        Reply::fatal(code, reason).write(&mut line);
        // A fresh socket takes a line at once; if not, the client learns it from the close.
        let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &line))).await;
    }
    part(shard, Transport::Plain(stream), End::LastWord).await;
}

async fn say_farewell(transport: &mut Transport) {
    let said = poll_fn(|cx| transport.poll_shutdown_write(cx));
    or(async { drop(said.await) }, sleep(LINGER)).await;
}

async fn read_off(shard: &Shard, mut stream: Socket) {
    let drained = poll_fn(|cx| {
        let mut buffer = shard.read_buffer.borrow_mut();
        loop {
            match ready!(Pin::new(&mut stream).poll_read(cx, &mut buffer)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) if shard.stopping.get() => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    });
    or(drained, sleep(LINGER)).await;
}
