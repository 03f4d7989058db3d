//! The admin listener's pages: /metrics, /healthz, /readyz and /status.
//!
//! Owns what each says; HTTP, its thread and its bounds are the runtime's [`Desk`]. What is told
//! comes from [`Status`], so no shard ever waits for a scrape.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use runtime::desk::{Desk, JSON, Page, Pages, TEXT};
use runtime::exposition::{Format, Metrics};
use runtime::shards::StartError;
use tracing::warn;

use crate::metrics;
use crate::status::Status;

pub(crate) type Admin = Desk;

/// Answers on `bound`, which [`runtime::desk::bind`] gave.
///
/// # Errors
/// The thread or its rings cannot be had.
pub(crate) fn start(
    bound: (OwnedFd, SocketAddr),
    status: Arc<Status>,
) -> Result<Admin, StartError> {
    let metrics = metrics::of(Arc::clone(&status));
    Desk::start("admin", bound, Arc::new(Answers { status, metrics }))
}

/// Where answers come from.
struct Answers {
    status: Arc<Status>,
    metrics: Metrics,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Pages for Answers {
    fn page(&self, path: &str, accept: &str) -> Option<Page> {
        match path {
            "/metrics" => {
                let format = Format::accepted(accept);
                Some(Page::ok(format.content_type(), self.metrics.text(format)))
            }
            "/healthz" => Some(Page::ok(TEXT, "alive\n")),
            "/readyz" => Some(self.readiness()),
            "/status" => Some(Page::ok(JSON, format!("{:#}\n", self.status.to_json()))),
            _ => None,
        }
    }

    fn others(&self) -> String {
        "not found; there are /metrics, /healthz, /readyz and /status\n".to_owned()
    }

    fn cannot_accept(&self, error: &str) {
        warn!(%error, "the admin listener cannot accept");
    }
}

impl Answers {
    fn readiness(&self) -> Page {
        let hindrances = self.status.hindrances();
        if hindrances.is_empty() {
            return Page::ok(TEXT, "ready\n");
        }
        let text = hindrances.iter().map(|why| format!("not ready: {why}\n")).collect::<String>();
        Page { status: 503, ..Page::ok(TEXT, text) }
    }
}
