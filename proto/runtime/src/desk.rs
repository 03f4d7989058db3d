//! Pages over HTTP, for whoever watches a program.
//!
//! On a thread of its own that is pinned nowhere and yields to the shards, with an executor of its
//! own; what the pages tell is up to the program ([`Pages`]), which must not wait for a shard either.
//! Invariants: one request a connection, [`GUESTS_MAX`] connections at a time (a new one takes the
//! place of the oldest), a bound on what is read and on the time for all of it, whatever the client
//! does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::AsyncReadExt as _;
use futures_lite::future::or;
use glommio::net::TcpStream;
use glommio::timer::sleep;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use smol_hyper::rt::FuturesIo;

use crate::descriptor;
use crate::shards::{Plan, Shard, StartError};
use crate::stop::{Cause, Stop};

/// Connections at a time.
const GUESTS_MAX: usize = 64;
/// From the first byte of a request to the last of the answer.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// After the answer, input is read off for so long, so that a reset does not destroy it.
const LINGER: Duration = Duration::from_secs(1);
/// A request line and its headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// After a failed accept (EMFILE fails at once and for ever).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How far this thread yields to the shards: by half of nice's range.
const NICE: i32 = 10;

/// Plain text, as a `Content-Type`.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// JSON, as a `Content-Type`.
pub const JSON: &str = "application/json";

/// What a program shows.
pub trait Pages: Send + Sync + 'static {
    /// The page at `path`, for a client that accepts `accept` (empty: it did not say).
    fn page(&self, path: &str, accept: &str) -> Option<Page>;

    /// Said where there is no such page: which ones there are.
    fn others(&self) -> String;

    /// A connection cannot be accepted; the listener goes on trying.
    fn cannot_accept(&self, error: &str) {
        let _ = error;
    }
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP's.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// What it says.
    pub body: String,
}

impl Page {
    /// A page that is there.
    pub fn ok(content_type: &'static str, body: impl Into<String>) -> Page {
        Page { status: 200, content_type, body: body.into() }
    }
}

/// A running desk; it ends when dropped.
#[derive(Debug)]
pub struct Desk {
    address: SocketAddr,
    end: Stop,
    thread: Option<Shard<()>>,
}

/// Binds the listening socket; gives it and its address.
///
/// # Errors
/// The address is in use.
pub fn bind(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}

impl Desk {
    /// Answers on `listener`, which is bound to `address`, on a thread called `name`.
    ///
    /// # Errors
    /// The thread or its rings cannot be had.
    pub fn start(
        name: &'static str,
        (listener, address): (OwnedFd, SocketAddr),
        pages: Arc<dyn Pages>,
    ) -> Result<Desk, StartError> {
        let plan = Plan {
            name,
            count: 1,
            cpus: Vec::new(),
            preempt: Duration::from_millis(10),
            ring_depth: 64,
            io_memory_bytes: 64 * 1024,
        };
        let end = Stop::new();
        let listener = Arc::new(Mutex::new(Some(listener)));
        let make = {
            let end = end.clone();
            move |_| {
                let listener = listener.lock().ok().and_then(|mut listener| listener.take());
                let (pages, end) = (Arc::clone(&pages), end.clone());
                async move {
                    let Some(listener) = listener else { unreachable!("it starts once") };
                    serve(listener, pages, end).await;
                }
            }
        };
        let thread = crate::shards::start(&plan, make)?.pop();
        Ok(Desk { address, end, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.end.request(Cause::Done);
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

async fn serve(listener: OwnedFd, pages: Arc<dyn Pages>, end: Stop) {
    // On Linux this is about the calling thread only.
    let _ = rustix::process::nice(NICE);
    let listener = descriptor::tcp_listener(listener);
    let guests = Rc::new(Guests::default());
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let (pages, guests) = (Arc::clone(&pages), Rc::clone(&guests));
                    let seat = guests.enter();
                    glommio::spawn_local(async move {
                        let taken = async {
                            let _ = seat.taken.recv().await;
                        };
                        or(receive(&*pages, stream), taken).await;
                        guests.leave(&seat);
                    })
                    .detach();
                }
                Err(error) => {
                    pages.cannot_accept(&error.to_string());
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let ended = async {
        end.requested().await;
    };
    or(accepting, ended).await;
}

/// Answers one request.
async fn receive(pages: &dyn Pages, stream: TcpStream) {
    let service = service_fn(|request| ready(Ok::<_, Infallible>(answer(pages, &request))));
    let mut http = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        // hyper's own timers want an executor that moves between threads: the time is taken here.
        .header_read_timeout(None)
        .serve_connection(FuturesIo::new(stream), service);
    let answered = async {
        // What hyper finds wrong with a request, it has told the client.
        let _ = poll_fn(|cx| http.poll_without_shutdown(cx)).await;
        true
    };
    let too_late = async {
        sleep(REQUEST_TIME).await;
        false
    };
    if or(answered, too_late).await {
        or(part(http.into_parts().io.into_inner()), sleep(LINGER)).await;
    }
}

/// Ends our side and reads off what the client still sends.
async fn part(mut stream: TcpStream) {
    let mut rest = [0; 1024];
    if stream.shutdown(Shutdown::Write).await.is_ok() {
        while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

/// The connections, oldest first.
#[derive(Default)]
struct Guests {
    seats: RefCell<VecDeque<Rc<Seat>>>,
    entered: Cell<u64>,
}

struct Seat {
    number: u64,
    /// Ends when a newer connection needs the place.
    taken: Receiver<Infallible>,
    held: Cell<Option<Sender<Infallible>>>,
}

impl Guests {
    /// Gives the new connection a seat, if need be that of the oldest one.
    fn enter(&self) -> Rc<Seat> {
        let mut seats = self.seats.borrow_mut();
        if seats.len() >= GUESTS_MAX
            && let Some(oldest) = seats.pop_front()
        {
            oldest.held.take();
        }
        self.entered.set(self.entered.get() + 1);
        let (held, taken) = async_channel::bounded(1);
        let seat = Rc::new(Seat { number: self.entered.get(), taken, held: Cell::new(Some(held)) });
        seats.push_back(Rc::clone(&seat));
        seat
    }

    fn leave(&self, seat: &Seat) {
        self.seats.borrow_mut().retain(|other| other.number != seat.number);
    }
}

fn answer(pages: &dyn Pages, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    // A HEAD is a GET whose body hyper keeps.
    let may_ask = matches!(*request.method(), Method::GET | Method::HEAD);
    // Where there is nothing, no method helps.
    let page = match pages.page(request.uri().path(), accept.unwrap_or_default()) {
        Some(_) if !may_ask => Page { status: 405, ..Page::ok(TEXT, "GET or HEAD only\n") },
        Some(page) => page,
        None => Page { status: 404, ..Page::ok(TEXT, pages.others()) },
    };
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() =
        StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if page.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
