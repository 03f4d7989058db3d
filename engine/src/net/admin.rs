//! The admin listener: /metrics, /healthz, /readyz and /status over HTTP.
//!
//! On a thread of its own that is pinned nowhere and yields to the shards, with an executor of its
//! own; what it tells comes from [`Status`], so no shard ever waits for a scrape. Invariants: one
//! request a connection, [`GUESTS_MAX`] connections at a time (a new one takes the place of the
//! oldest), a bound on what is read and on the time for all of it, whatever the client does.

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
use runtime::descriptor;
use runtime::shards::{Plan, Shard, StartError};
use runtime::stop::{Cause, Stop};
use smol_hyper::rt::FuturesIo;
use tracing::warn;

use crate::metrics::{Format, Metrics};
use crate::signal::Signal;
use crate::status::Status;

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

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// A running admin listener; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    end: Stop,
    thread: Option<Shard<()>>,
}

/// Binds the listening socket; gives it and its address.
///
/// # Errors
/// The address is in use.
pub(crate) fn bind(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}

impl Admin {
    /// Answers on `listener`, which is bound to `address`.
    ///
    /// # Errors
    /// The thread or its rings cannot be had.
    pub(crate) fn start(
        (listener, address): (OwnedFd, SocketAddr),
        status: Arc<Status>,
    ) -> Result<Admin, StartError> {
        let plan = Plan {
            name: "admin",
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
                let (status, end) = (Arc::clone(&status), end.clone());
                async move {
                    let Some(listener) = listener else { unreachable!("it starts once") };
                    serve(listener, status, end).await;
                }
            }
        };
        let thread = runtime::shards::start(&plan, make)?.pop();
        Ok(Admin { address, end, thread })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end.request(Cause::Done);
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

async fn serve(listener: OwnedFd, status: Arc<Status>, end: Stop) {
    // On Linux this is about the calling thread only.
    let _ = rustix::process::nice(NICE);
    let listener = descriptor::tcp_listener(listener);
    let desk = Rc::new(Desk { metrics: Metrics::new(Arc::clone(&status)), status });
    let guests = Rc::new(Guests::default());
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let (desk, guests) = (Rc::clone(&desk), Rc::clone(&guests));
                    let seat = guests.enter();
                    glommio::spawn_local(async move {
                        or(receive(&desk, stream), seat.taken.notified()).await;
                        guests.leave(&seat);
                    })
                    .detach();
                }
                Err(error) => {
                    warn!(%error, "the admin listener cannot accept");
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
async fn receive(desk: &Rc<Desk>, stream: TcpStream) {
    let service = service_fn(|request| ready(Ok::<_, Infallible>(desk.answer(&request))));
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
    /// A newer connection needs the place.
    taken: Signal,
}

impl Guests {
    /// Gives the new connection a seat, if need be that of the oldest one.
    fn enter(&self) -> Rc<Seat> {
        let mut seats = self.seats.borrow_mut();
        if seats.len() >= GUESTS_MAX
            && let Some(oldest) = seats.pop_front()
        {
            oldest.taken.notify();
        }
        self.entered.set(self.entered.get() + 1);
        let seat = Rc::new(Seat { number: self.entered.get(), taken: Signal::default() });
        seats.push_back(Rc::clone(&seat));
        seat
    }

    fn leave(&self, seat: &Seat) {
        self.seats.borrow_mut().retain(|other| other.number != seat.number);
    }
}

/// Where answers come from.
struct Desk {
    status: Arc<Status>,
    metrics: Metrics,
}

impl Desk {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let page: fn(&Desk, &Request<Incoming>) -> Response<Full<Bytes>> =
            match request.uri().path() {
                "/metrics" => Desk::metrics,
                "/healthz" => |_, _| reply(StatusCode::OK, TEXT, "alive\n"),
                "/readyz" => |desk, _| desk.readiness(),
                "/status" => {
                    |desk, _| reply(StatusCode::OK, JSON, format!("{:#}\n", desk.status.to_json()))
                }
                _ => {
                    let pages = "not found; there are /metrics, /healthz, /readyz and /status\n";
                    return reply(StatusCode::NOT_FOUND, TEXT, pages);
                }
            };
        // A HEAD is a GET whose body hyper keeps.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD only\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        page(self, request)
    }

    fn metrics(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::accepted(accept.unwrap_or_default());
        reply(StatusCode::OK, format.content_type(), self.metrics.text(format))
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let hindrances = self.status.hindrances();
        if hindrances.is_empty() {
            return reply(StatusCode::OK, TEXT, "ready\n");
        }
        let text = hindrances.iter().map(|why| format!("not ready: {why}\n")).collect::<String>();
        reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
    }
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
