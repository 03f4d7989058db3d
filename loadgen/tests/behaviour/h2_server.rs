//! A server of HTTP/2, by hyper, that does with a request whatever a test wants.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use smol_hyper::rt::FuturesIo;

/// What to do with a request.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    /// Answer with this status after so long.
    Answer(u16, Duration),
    /// Reset its stream.
    Reset(h2::Reason),
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// The most that were there at once.
    pub(crate) most: AtomicU64,
}

pub(crate) struct H2Server {
    pub(crate) port: u16,
    pub(crate) seen: Arc<Seen>,
}

#[derive(Clone, Copy)]
struct Here;

impl<F: Future + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        let work = async move {
            future.await;
        };
        glommio::spawn_local(work).detach();
    }
}

impl H2Server {
    /// In the open, with `streams` at a time on a connection, each of which it ends in peace after
    /// `requests_max`. `on` is told the number of the request, from 0.
    pub(crate) fn start(
        streams: u32,
        requests_max: u64,
        on: impl Fn(u64) -> Do + Send + Sync + 'static,
    ) -> H2Server {
        let (tell, told) = std::sync::mpsc::channel();
        let seen: Arc<Seen> = Arc::default();
        let ours = Arc::clone(&seen);
        let on = Arc::new(on);
        let serve = move || async move {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            tell.send(listener.local_addr().unwrap().port()).unwrap();
            while let Ok(stream) = listener.accept().await {
                ours.connections.fetch_add(1, Ordering::Relaxed);
                let one = connection(stream, streams, requests_max, Arc::clone(&ours), on.clone());
                glommio::spawn_local(one).detach();
            }
        };
        LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(1 << 20)
            .ring_depth(256)
            .spawn(serve)
            .unwrap();
        H2Server { port: told.recv().unwrap(), seen }
    }
}

async fn connection(
    stream: TcpStream,
    streams: u32,
    requests_max: u64,
    seen: Arc<Seen>,
    on: Arc<impl Fn(u64) -> Do + 'static>,
) {
    let (left, at_once) = (Rc::new(Cell::new(requests_max)), Rc::new(Cell::new(0)));
    let (tell, told) = async_channel::bounded(1);
    let service = service_fn(|request: Request<Incoming>| {
        let (seen, on) = (Arc::clone(&seen), Arc::clone(&on));
        let (left, at_once, tell) = (Rc::clone(&left), Rc::clone(&at_once), tell.clone());
        async move {
            let number = seen.requests.fetch_add(1, Ordering::Relaxed);
            at_once.set(at_once.get() + 1);
            seen.most.fetch_max(at_once.get(), Ordering::Relaxed);
            left.set(left.get().saturating_sub(1));
            if left.get() == 0 {
                let _ = tell.try_send(());
            }
            let body = request.into_body().collect().await.map_err(|_| h2::Reason::CANCEL)?;
            seen.bytes.fetch_add(body.to_bytes().len() as u64, Ordering::Relaxed);
            let end = match on(number) {
                Do::Answer(status, wait) => {
                    glommio::timer::sleep(wait).await;
                    let response = Response::builder().status(status);
                    Ok(response.body(Full::new(Bytes::from_static(b"hello"))).unwrap())
                }
                Do::Reset(reason) => Err(h2::Error::from(reason)),
            };
            at_once.set(at_once.get() - 1);
            end
        }
    });
    let mut serving = std::pin::pin!(
        http2::Builder::new(Here)
            .max_concurrent_streams(streams)
            .serve_connection(FuturesIo::new(stream), service)
    );
    let is_told = async {
        let _ = told.recv().await;
        None::<Result<(), Infallible>>
    };
    let is_over = async {
        let _ = serving.as_mut().await;
        Some(Ok(()))
    };
    if futures_lite::FutureExt::or(is_over, is_told).await.is_none() {
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    }
}
