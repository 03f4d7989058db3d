//! Requests and whole responses, by hyper: HTTP/1.1 one after the other, HTTP/2 several at a time.
//!
//! For whoever looks into responses (journeys), and for HTTP/2. Owns one connection and the tasks
//! that hyper runs for it, and what an end of either means; leaves to its user which requests those
//! are. Invariant: the tasks of a connection end with its [`Link`], however that ends; what is kept
//! of a response is bounded by whoever reads it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::rt::Executor;
use hyper::{Method, Request, Response, Uri};
use smol_hyper::rt::FuturesIo;

use super::stream::Stream;
use super::{Broken, NoConnection};
use crate::config::{Flow, Header};
use crate::error::Error;
use crate::plan::journey::{Asked, Step};
use crate::plan::payloads::Making;
use crate::plan::payloads::blanks::{filled_with, has_names};

/// Bytes that a peer may send ahead on one HTTP/2 stream, and on all of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of all fields of a response's head.
const HEAD_BYTES_MAX: u32 = 64 << 10;
/// Fields of a response's head over HTTP/1.1.
const FIELDS_MAX: usize = 128;
/// How long the tasks of a connection have for their good-bye.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// A response, once its head is there.
pub(super) type Reply = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>>>>;

/// What is sent.
pub(super) type Body = Full<Bytes>;

/// Which HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 1.1
    One,
    /// 2, from the first byte: by ALPN over TLS, by prior knowledge in the open.
    Two,
}

/// What every request of a flow has in common.
#[derive(Clone, Debug)]
pub(super) struct Form {
    method: Method,
    /// `https://host:port`
    origin: String,
    /// Path and query of the target.
    base: String,
    uri: Uri,
    headers: HeaderMap,
    version: Version,
    /// The path is filled in by each message.
    fills_path: bool,
    /// The headers whose values are, too.
    filled: Vec<HeaderName>,
}

/// What a message filled in.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Form {
    /// What is asked of `flow` for each request; `content_type` is that of their bodies.
    ///
    /// # Errors
    /// The token cannot be read, or a header cannot be sent over this version.
    pub(super) fn new(
        flow: &Flow,
        version: Version,
        content_type: Option<&'static str>,
    ) -> Result<Form, Error> {
        let http = &flow.http;
        let scheme = flow.scheme.as_str();
        let mut host = flow.host();
        let (mut headers, mut filled) = (HeaderMap::new(), Vec::new());
        for Header { name, value } in &http.headers {
            let wrong = |what: &str| Error::Usage(format!("HEADER \"{name}\": {what}"));
            let known = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong("is not a name of a header"))?;
            if known == header::HOST {
                if has_names(value) {
                    return Err(wrong("is the same for all requests of a connection (HTTP2)"));
                }
                host.clone_from(value);
            } else if version == Version::Two && OF_A_CONNECTION.contains(&known.as_str()) {
                return Err(wrong(
                    "is about a connection of HTTP/1.1, and HTTP/2 has none (HTTP2)",
                ));
            } else if has_names(value) {
                filled.push(known);
            } else {
                let value = HeaderValue::from_bytes(value.as_bytes())
                    .map_err(|_| wrong("has a value that cannot be sent"))?;
                headers.append(known, value);
            }
        }
        let agent = concat!("logboom-loadgen/", env!("CARGO_PKG_VERSION"));
        let usual = [(header::USER_AGENT, agent), (header::ACCEPT, "*/*")];
        let content_type = content_type.map(|text| (header::CONTENT_TYPE, text));
        for (name, value) in usual.into_iter().chain(content_type) {
            if !filled.contains(&name) {
                headers.entry(name).or_insert(HeaderValue::from_static(value));
            }
        }
        if let Some(token) = flow.token()? {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Error::Usage("AUTH_TOKEN cannot be sent".to_owned()))?;
            // No table of headers keeps it.
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let origin = format!("{scheme}://{host}");
        if version == Version::One {
            let host = HeaderValue::from_str(&host)
                .map_err(|_| Error::Usage(format!("\"{host}\" (TARGET) is not a host")))?;
            headers.insert(header::HOST, host);
        }
        let method = Method::from_bytes(flow.method().as_bytes())
            .map_err(|_| Error::Usage(format!("METHOD {} is not one", flow.method())))?;
        // Any value at all shows whether the text around it can be sent.
        let uri = uri(&origin, &filled_with(&http.path, "x"), version)
            .ok_or_else(|| Error::Usage(format!("{origin}{} (TARGET) is not a URL", http.path)))?;
        Ok(Form {
            method,
            origin,
            base: http.path.clone(),
            uri,
            headers,
            version,
            fills_path: has_names(&http.path),
            filled,
        })
    }

    /// A request as a step asks for it: its path behind that of the target, and its own fields in
    /// the place of those of the flow that are called the same.
    ///
    /// # Errors
    /// A value that cannot be sent.
    pub(super) fn step(&self, step: &Step, asked: &Asked) -> Result<Request<Body>, &'static str> {
        let body = asked.body.as_deref().map(Bytes::copy_from_slice);
        let mut request = self.request(body.unwrap_or_default());
        *request.method_mut() =
            Method::from_bytes(step.method.as_bytes()).map_err(|_| "a method")?;
        let base = self.base.trim_end_matches('/');
        let path = std::str::from_utf8(&asked.path).map_err(|_| "a path")?;
        *request.uri_mut() =
            uri(&self.origin, &format!("{base}{path}"), self.version).ok_or("a path")?;
        for (name, _) in &asked.headers {
            request.headers_mut().remove(name.as_str());
        }
        for (name, value) in &asked.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header")?;
            let value = HeaderValue::from_bytes(value).map_err(|_| "a header")?;
            request.headers_mut().append(name, value);
        }
        Ok(request)
    }

    /// What `message` fills in, if anything is; `room` is empty room. hyper owns what it sends: this
    /// allocates.
    pub(super) fn fill(&self, message: &mut Making<'_>, room: &mut Vec<u8>) -> Option<Filled> {
        if !self.fills_path && self.filled.is_empty() {
            return None;
        }
        let mut blank = 0;
        let mut next = || {
            room.clear();
            message.blank(blank, room);
            blank += 1;
            Bytes::copy_from_slice(room)
        };
        let uri = match self.fills_path {
            true => std::str::from_utf8(&next())
                .ok()
                .and_then(|path| uri(&self.origin, path, self.version))
                .expect("values are percent-encoded, and what is around them was tried"),
            false => self.uri.clone(),
        };
        let value = |name: &HeaderName| {
            let value = HeaderValue::from_maybe_shared(next());
            (name.clone(), value.expect("no value has a control character"))
        };
        Some(Filled { uri, headers: self.filled.iter().map(value).collect() })
    }

    /// A request as the flow asks for it, with what its message filled in.
    pub(super) fn filled(&self, body: Bytes, filled: Option<&Filled>) -> Request<Body> {
        let mut request = self.request(body);
        if let Some(Filled { uri, headers }) = filled {
            *request.uri_mut() = uri.clone();
            request.headers_mut().extend(headers.iter().cloned());
        }
        request
    }

    /// A request as the flow asks for it.
    pub(super) fn request(&self, body: Bytes) -> Request<Body> {
        let mut request = Request::new(Body::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Over HTTP/2 the whole URL, over HTTP/1.1 path and query.
fn uri(origin: &str, path: &str, version: Version) -> Option<Uri> {
    match version {
        Version::One => path.parse().ok(),
        Version::Two => format!("{origin}{path}").parse().ok(),
    }
}

/// Headers that are about a connection (RFC 9113, 8.2.2).
const OF_A_CONNECTION: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// A connection.
pub(super) struct Link {
    sender: Sender,
    /// The tasks end when this is gone.
    alive: async_channel::Sender<Infallible>,
    /// As the peer's latest settings say.
    streams_max: Rc<Cell<usize>>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server took nothing of it, and takes no more on this connection.
    Untouched,
    /// The server ended this exchange, by this code; the connection goes on.
    Rejected(String),
    /// The connection cannot go on.
    Broken(Broken),
}

impl Link {
    /// Begins to speak. The caller bounds the time.
    ///
    /// # Errors
    /// The peer does not speak this version.
    pub(super) async fn open(stream: Stream, version: Version) -> Result<Link, NoConnection> {
        let (alive, gone) = async_channel::bounded(1);
        let here = Here { gone: Rc::new(gone) };
        let opening = Rc::new(Opening::default());
        let stream_protocol = stream.lacks_protocol(b"h2");
        let io = FuturesIo::new(Watched { stream, opening: Rc::clone(&opening) });
        match version {
            Version::One => {
                let (sender, connection) = http1::Builder::new()
                    .max_headers(FIELDS_MAX)
                    .handshake(io)
                    .await
                    .map_err(NoConnection::refused)?;
                here.execute(connection);
                Ok(Link { sender: Sender::One(sender), alive, streams_max: Rc::new(Cell::new(1)) })
            }
            Version::Two => {
                if let Some(chosen) = stream_protocol {
                    return Err(NoConnection::refused(format!("{chosen} (HTTP2)")));
                }
                let (sender, mut connection) = http2::Builder::new(here.clone())
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_header_list_size(HEAD_BYTES_MAX)
                    .handshake(io)
                    .await
                    .map_err(NoConnection::refused)?;
                // A server of HTTP/2 begins with its settings.
                opening.check().await?;
                let streams_max = Rc::new(Cell::new(connection.current_max_send_streams()));
                let latest = Rc::clone(&streams_max);
                // Polled for each request, too; what has come by then is known.
                here.execute(poll_fn(move |cx| {
                    let end = Pin::new(&mut connection).poll(cx);
                    latest.set(connection.current_max_send_streams());
                    end
                }));
                Ok(Link { sender: Sender::Two(sender), alive, streams_max })
            }
        }
    }

    /// Sends a request; the future ends with the head of its response.
    pub(super) fn send(&mut self, request: Request<Body>) -> Reply {
        match &mut self.sender {
            Sender::One(sender) => Box::pin(sender.send_request(request)),
            Sender::Two(sender) => Box::pin(sender.send_request(request)),
        }
    }

    /// Waits until another request can be sent.
    ///
    /// # Errors
    /// There will be none: the connection is closed.
    pub(super) async fn ready(&mut self) -> Result<(), hyper::Error> {
        match &mut self.sender {
            Sender::One(sender) => sender.ready().await,
            Sender::Two(sender) => sender.ready().await,
        }
    }

    /// No request can be sent any more.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Two(sender) => sender.is_closed(),
        }
    }

    /// How many requests the peer lets us have on their way. At least one: where it allows none for
    /// a time, hyper waits.
    pub(super) fn streams_max(&self) -> usize {
        self.streams_max.get().max(1)
    }

    /// Says good-bye; does not wait.
    pub(super) fn close(self) {
        let Link { sender, alive, .. } = self;
        drop(sender);
        glommio::spawn_local(async move {
            glommio::timer::sleep(GOOD_BYE).await;
            drop(alive);
        })
        .detach();
    }
}

/// What stands on the wire before the first request has an answer.
#[derive(Debug, Default)]
struct Opening {
    /// The first bytes that the peer sent, or its end.
    first: Cell<Option<First>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Something that may be HTTP/2.
    Frame,
    /// `HTTP/1.1 400`, in answer to a preface that it did not understand.
    OlderHttp,
    /// A TLS alert.
    Tls,
    /// Nothing.
    End,
}

impl Opening {
    fn saw(&self, bytes: &[u8]) {
        if self.first.get().is_some() {
            return;
        }
        let first = match bytes {
            [] => First::End,
            [b'H', b'T', ..] => First::OlderHttp,
            [0x15, 0x03, ..] => First::Tls,
            _ => First::Frame,
        };
        self.first.set(Some(first));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for the peer's first bytes.
    async fn check(&self) -> Result<(), NoConnection> {
        let first = poll_fn(|cx| match self.first.get() {
            Some(first) => Poll::Ready(first),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        let refused = |reason: &str| Err(NoConnection::refused(reason));
        match first.await {
            First::Frame => Ok(()),
            First::OlderHttp => refused("the target answers in HTTP/1.1: without --http2 (HTTP2)?"),
            First::Tls => refused("the target speaks TLS: https:// (TARGET)"),
            First::End => {
                refused("the target closed the connection: it may not speak HTTP/2 (HTTP2)")
            }
        }
    }
}

/// A stream whose first bytes are noted.
struct Watched {
    stream: Stream,
    opening: Rc<Opening>,
}

/// Also where a write fails before anything could be read: hyper lets go of it then.
impl Drop for Watched {
    fn drop(&mut self) {
        self.opening.saw(&[]);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let end = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &end {
            Poll::Ready(Ok(n)) => self.opening.saw(&buffer[..*n]),
            Poll::Ready(Err(_)) => self.opening.saw(&[]),
            Poll::Pending => {}
        }
        end
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Runs what hyper has to run on this shard, until the connection is gone.
#[derive(Clone)]
struct Here {
    /// Ends with an error when the connection is gone; behind `Rc` because hyper moves it about.
    gone: Rc<async_channel::Receiver<Infallible>>,
}

impl<F: Future + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        let gone = async_channel::Receiver::clone(&self.gone);
        let work = async move {
            future.await;
        };
        let end = async move {
            let _ = gone.recv().await;
        };
        glommio::spawn_local(work.or(end)).detach();
    }
}

impl Trouble {
    /// What an error of hyper's means.
    pub(super) fn of(error: &hyper::Error) -> Trouble {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<h2::Error>() {
                return Trouble::of_h2(error);
            }
            source = cause.source();
        }
        if error.is_canceled() || error.is_closed() {
            return Trouble::Untouched;
        }
        if error.is_parse() {
            return Trouble::Broken(Broken::Mismatch);
        }
        Trouble::Broken(Broken::Reset)
    }

    fn of_h2(error: &h2::Error) -> Trouble {
        let word = |reason: h2::Reason| match u32::from(reason) {
            0..=13 => format!("{reason:?}").to_ascii_lowercase(),
            unknown => unknown.to_string(),
        };
        match error.reason() {
            Some(h2::Reason::NO_ERROR) if error.is_go_away() => Trouble::Untouched,
            Some(reason) if error.is_remote() && error.is_go_away() => {
                Trouble::Broken(Broken::Fatal(format!("h2_goaway_{}", word(reason))))
            }
            Some(reason) if error.is_remote() => {
                Trouble::Rejected(format!("h2_reset_{}", word(reason)))
            }
            // What came is not HTTP/2: h2 said so to the peer.
            Some(_) => Trouble::Broken(Broken::Mismatch),
            None => Trouble::Broken(Broken::Reset),
        }
    }
}
