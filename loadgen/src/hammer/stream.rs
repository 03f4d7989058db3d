//! The bytes of a connection: plain TCP, or TLS over it.
//!
//! Owns dialling and the handshake, whose time is part of the connection's. Invariant: bytes that a write took
//! may wait in TLS's own buffer; they are on their way only after a flush.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _};
use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use glommio::timer::sleep;
use runtime::socket::Socket;
use rustls::AlertDescription;

use super::NoConnection;
use super::route::Route;
use crate::tls::Tls;

/// Connects to the first address of `route` that answers, beginning with the one that did so last, and
/// lets `begin` make a connection of it. Each address has its part of `timeout`.
///
/// # Errors
/// Why the last one could not be had, or what `begin` says: then no other address is tried.
pub(super) async fn dial<T>(
    route: &Route,
    preferred: &Cell<usize>,
    timeout: Duration,
    begin: impl AsyncFnOnce(Socket) -> Result<T, NoConnection>,
) -> Result<T, NoConnection> {
    let mut last = NoConnection::refused("no address");
    let count = route.addresses.len();
    // An address that swallows packets must leave time for the others.
    let timeout = timeout / u32::try_from(count).unwrap_or(u32::MAX);
    for offset in 0..count {
        let index = (preferred.get() + offset) % count;
        let address = route.addresses[index];
        let late = async {
            sleep(timeout).await;
            Err(ErrorKind::TimedOut.into())
        };
        match route.connect(address).or(late).await {
            Ok(socket) => {
                preferred.set(index);
                let late = async {
                    sleep(timeout).await;
                    let reason = "no handshake, or no answer to the hello, in time";
                    Err(NoConnection::refused(reason))
                };
                return begin(socket).or(late).await;
            }
            Err(error) => {
                last = NoConnection::refused(format!("cannot connect to {address}: {error}"));
            }
        }
    }
    Err(last)
}

/// See the module.
pub(super) enum Stream {
    Plain(Socket),
    /// Boxed: a plain connection must not pay for its size.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// Shakes hands where TLS is asked for.
    ///
    /// # Errors
    /// Why there is no session, in words for people.
    pub(super) async fn open(socket: Socket, tls: Option<&Tls>) -> Result<Stream, String> {
        let Some(Tls { client, name }) = tls else { return Ok(Stream::Plain(socket)) };
        let connector = TlsConnector::from(client.clone());
        match Box::pin(connector.connect(name.clone(), socket)).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(why(&error)),
        }
    }
}

impl Stream {
    /// Why `protocol` cannot be spoken over TLS, unless both ends agreed on it (ALPN).
    pub(super) fn lacks_protocol(&self, protocol: &[u8]) -> Option<String> {
        let Stream::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        let chosen = session.alpn_protocol();
        if chosen == Some(protocol) {
            return None;
        }
        let asked = protocol.escape_ascii();
        Some(match chosen {
            Some(other) => {
                format!("ALPN: the target chooses {}, not {asked}", other.escape_ascii())
            }
            None => format!("ALPN: the target does not choose {asked}"),
        })
    }
}

/// What a failed handshake means for whoever reads it.
fn why(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("TLS handshake: the target does not seem to speak TLS ({error})")
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("TLS handshake: the target's certificate is not accepted: {reason:?}")
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("TLS handshake: the target refuses: {alert:?}")
        }
        _ if error.kind() == ErrorKind::UnexpectedEof => {
            "TLS handshake: the target closed the connection".to_owned()
        }
        _ => format!("TLS handshake: {error}"),
    }
}

/// Why a read failed, where TLS says it: in TLS 1.3 a refused client certificate shows only here.
pub(super) fn refusal(error: &io::Error) -> Option<String> {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
    Some(match tls {
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "TLS: the target asks for a client certificate (CLIENT_CERT_PATH)".to_owned()
        }
        rustls::Error::AlertReceived(alert) => {
            format!("TLS: the target refuses: {alert:?} (CLIENT_CERT_PATH?)")
        }
        other => format!("TLS: {other}"),
    })
}

impl Stream {
    /// The next read asks the kernel: a connection that was idle for long may have been closed, and
    /// the shard may not know yet.
    pub(super) fn doubt(&self) {
        match self {
            Stream::Plain(socket) => socket.doubt(),
            Stream::Tls(stream) => stream.get_ref().0.doubt(),
        }
    }

    /// Says that nothing more will come, as far as the kernel takes it at once.
    pub(super) fn close(mut self) {
        if let Stream::Tls(_) = self {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self).poll_close(&mut cx);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_close(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}
