//! The run as Prometheus reads it, while it goes on.
//!
//! Owns names and values; takes them over from the coordinator once a second, on its thread, and
//! shows them on the desk's. Invariants: counters never fall, the warm-up is in them, and so nothing
//! jumps where it ends; a histogram's values are those of the summary, what was given up counting at
//! the time up to which it was watched. Only the buckets are coarser.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use runtime::desk::{self, Desk, Page as HttpPage, Pages, TEXT};
use runtime::exposition::{self, Families, Format, Metrics, Page, Times, Unit};

use crate::error::Error;
use crate::measure::latencies::{Latencies, Latency};
use crate::measure::progress::{FlowTotals, Progress};
use crate::measure::tally::Counts;
use crate::measure::validity::{Signal, SignalState, Validity};
use crate::observer::{Manifest, Observer};

/// Judging takes at most one part in so many of a core.
const SHARE: u32 = 50;

/// What is shown, and the thread that shows it.
#[derive(Debug)]
pub struct Shown {
    figures: Arc<Mutex<Figures>>,
    desk: Desk,
    /// When a judgement was asked for.
    asked_at: Cell<Option<Instant>>,
    /// The next one is not due before.
    rests_until: Option<Instant>,
}

impl Shown {
    /// Listens.
    ///
    /// # Errors
    /// The address is no address, or is in use.
    pub fn open(host: &str, port: u16) -> Result<Shown, Error> {
        let cannot = |reason: String| Error::Metrics { host: host.to_owned(), port, reason };
        let ip: IpAddr = match host {
            "localhost" => [127, 0, 0, 1].into(),
            host => host
                .parse()
                .map_err(|_| Error::Usage(format!("{host} is not an address (METRICS_HOST)")))?,
        };
        let bound = desk::bind((ip, port).into()).map_err(|error| cannot(error.to_string()))?;
        let figures = Arc::<Mutex<Figures>>::default();
        let metrics = Metrics::new(Scrape(Arc::clone(&figures)));
        let desk = Desk::start("metrics", bound, Arc::new(Only(metrics)))
            .map_err(|error| cannot(error.to_string()))?;
        Ok(Shown { figures, desk, asked_at: Cell::new(None), rests_until: None })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/metrics", self.desk.address())
    }
}

impl Observer for Shown {
    fn started(&mut self, manifest: &Manifest) {
        let mut figures = lock(&self.figures);
        figures.run_id.clone_from(&manifest.run_id);
        figures.version.clone_from(&manifest.tool.version);
        figures.workers = manifest.config.concurrency() as u64;
        figures.shards = manifest.config.shards as u64;
        figures.flows = manifest
            .config
            .flows
            .iter()
            .map(|flow| OfFlow { name: flow.name.clone(), ..OfFlow::default() })
            .collect();
    }

    fn second(&mut self, progress: &Progress<'_>) {
        let mut figures = lock(&self.figures);
        figures.elapsed = progress.elapsed;
        figures.is_warmup = progress.second.warmup;
        figures.seconds += 1;
        figures.flows.resize_with(progress.totals.flows.len(), OfFlow::default);
        for (flow, totals) in figures.flows.iter_mut().zip(&progress.totals.flows) {
            flow.take(totals, progress.second.end_ns);
        }
        for slice in progress.slices {
            figures.flows[slice.flow].add(&slice.latencies);
        }
    }

    fn wants_judgement(&self) -> bool {
        let now = Instant::now();
        self.asked_at.set(Some(now));
        self.rests_until.is_none_or(|until| until <= now)
    }

    fn judged(&mut self, so_far: &Validity) {
        let took = self.asked_at.get().map_or(Duration::ZERO, |at| at.elapsed());
        self.rests_until = Some(Instant::now() + took * SHARE);
        lock(&self.figures).validity = Some(so_far.clone());
    }
}

fn lock(figures: &Mutex<Figures>) -> MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything as of the last second.
#[derive(Debug, Default)]
struct Figures {
    run_id: String,
    version: String,
    workers: u64,
    shards: u64,
    elapsed: Duration,
    seconds: u64,
    is_warmup: bool,
    flows: Vec<OfFlow>,
    validity: Option<Validity>,
}

#[derive(Debug, Default)]
struct OfFlow {
    name: String,
    stage: String,
    offered: u64,
    counts: Counts,
    /// Response, service, lag.
    times: [Times; 3],
}

impl OfFlow {
    fn take(&mut self, totals: &FlowTotals, end_ns: u64) {
        self.offered = totals.stages.iter().map(|sum| sum.offered).sum();
        self.counts = Counts::default();
        totals.stages.iter().for_each(|sum| self.counts.add(&sum.tally.counts));
        let stage = totals.plan.stage_at(end_ns.saturating_sub(1));
        self.stage.clone_from(&totals.plan.stages[stage].name);
    }

    fn add(&mut self, latencies: &Latencies) {
        let Latencies { response, service, lag } = latencies;
        for (times, Latency { values, censored }) in
            self.times.iter_mut().zip([response, service, lag])
        {
            for histogram in [values, censored].into_iter().filter(|it| !it.is_empty()) {
                for value in histogram.iter_recorded() {
                    times.add(value.value_iterated_to(), value.count_since_last_iteration());
                }
            }
        }
    }
}

/// The only page there is.
#[derive(Debug)]
struct Only(Metrics);

impl Pages for Only {
    fn page(&self, path: &str, accept: &str) -> Option<HttpPage> {
        match path {
            "/metrics" => {
                let format = Format::accepted(accept);
                Some(HttpPage::ok(format.content_type(), self.0.text(format)))
            }
            "/healthz" => Some(HttpPage::ok(TEXT, "alive\n")),
            _ => None,
        }
    }

    fn others(&self) -> String {
        "not found; there are /metrics and /healthz\n".to_owned()
    }
}

#[derive(Debug)]
struct Scrape(Arc<Mutex<Figures>>);

/// A count of a flow.
type Count = (&'static str, &'static str, fn(&OfFlow) -> u64);

const COUNTS: &[Count] = &[
    ("offered", "Messages that became due; in a closed loop as they are sent.", |it| it.offered),
    ("sent", "Messages handed to a connection, or refused one.", |it| it.counts.sent),
    ("ok", "Messages answered ok.", |it| it.counts.ok),
    ("filtered", "Messages answered filtered.", |it| it.counts.filtered),
    ("error", "Messages that failed.", |it| it.counts.error()),
    ("unanswered", "Messages given up without a reply.", |it| it.counts.unanswered),
    ("unacknowledged", "Messages sent over a protocol without replies.", |it| {
        it.counts.unacknowledged
    }),
    ("unsent", "Messages that were due and not sent.", |it| it.counts.unsent),
];

const TIMES: [(&str, &str); 3] = [
    ("response", "From when a message was due to its reply; at least so long where none came."),
    ("service", "From when a message was sent to its reply; at least so long where none came."),
    ("lag", "From when a message was due to when it was sent."),
];

impl Families for Scrape {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let figures = lock(&self.0);
        let flow_label = |flow: &OfFlow| ("flow", flow.name.clone());
        for &(name, help, count) in COUNTS {
            let name = format!("logboom_loadgen_messages_{name}");
            let mut family = page.counters(&name, help, None)?;
            for flow in &figures.flows {
                family.count(&[flow_label(flow)], count(flow))?;
            }
        }
        let help = "Messages that failed, by the server's code or the generator's own.";
        let mut family = page.counters("logboom_loadgen_errors", help, None)?;
        for flow in &figures.flows {
            for (code, &count) in &flow.counts.errors {
                family.count(&[flow_label(flow), ("code", code.clone())], count)?;
            }
        }
        let help = "Messages sent and not settled.";
        let mut family = page.gauges("logboom_loadgen_messages_in_flight", help, None)?;
        for flow in &figures.flows {
            family.gauge(&[flow_label(flow)], flow.counts.in_flight())?;
        }
        for (index, (name, help)) in TIMES.iter().enumerate() {
            let name = format!("logboom_loadgen_{name}");
            let mut family = page.times(&name, help)?;
            for flow in &figures.flows {
                family.times(&[flow_label(flow)], &flow.times[index])?;
            }
        }
        let help = "1 for the stage that a flow is in.";
        let mut family = page.gauges("logboom_loadgen_stage", help, None)?;
        for flow in &figures.flows {
            family.gauge(&[flow_label(flow), ("stage", flow.stage.clone())], 1_u64)?;
        }
        figures.run(page)?;
        figures.signals(page)?;
        runtime::process::families(page)
    }
}

impl Figures {
    fn run(&self, page: &mut Page<'_>) -> fmt::Result {
        let seconds = || Some(Unit::Seconds);
        let help = "How long the run has lasted.";
        page.gauge("logboom_loadgen_elapsed", help, seconds(), self.elapsed.as_secs_f64())?;
        let help = "1 while some of the load is warm-up; all counts have it in them.";
        page.gauge("logboom_loadgen_warmup", help, None, u64::from(self.is_warmup))?;
        page.gauge("logboom_loadgen_workers", "Workers (CONCURRENCY).", None, self.workers)?;
        page.gauge("logboom_loadgen_shards", "Threads that send (SHARDS).", None, self.shards)?;
        let labels = [("version", &self.version), ("run_id", &self.run_id)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.clone())).to_vec();
        page.info("logboom_loadgen_run", "What runs.", labels)
    }

    fn signals(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(validity) = &self.validity else { return Ok(()) };
        let help = "1 as long as no signal says that the figures cannot be believed.";
        page.gauge("logboom_loadgen_valid", help, None, u64::from(validity.is_valid))?;
        let assessed: Vec<&Signal> = validity
            .signals
            .iter()
            .filter(|signal| signal.state != SignalState::NotAssessed)
            .collect();
        let help =
            "1 for a signal that is bad, 0 for one that is ok; none that nobody could assess.";
        let mut family = page.gauges("logboom_loadgen_signal_bad", help, None)?;
        for signal in &assessed {
            let is_bad = u64::from(signal.state == SignalState::Bad);
            family.gauge(&[("signal", signal.name.clone())], is_bad)?;
        }
        for (name, help) in [
            ("logboom_loadgen_signal_observed", "What a signal observed."),
            ("logboom_loadgen_signal_limit", "Where a signal becomes bad."),
        ] {
            let mut family = page.gauges(name, help, None)?;
            let is_limit = name.ends_with("limit");
            for signal in &assessed {
                let (unit, scale) = base(&signal.unit);
                let labels = [("signal", signal.name.clone()), ("unit", unit.to_owned())];
                let value = if is_limit { signal.limit } else { signal.observed };
                if let Some(value) = value {
                    family.gauge(&labels, value * scale)?;
                }
            }
        }
        Ok(())
    }
}

/// The base unit of a signal's unit, and how many of them it is.
fn base(unit: &str) -> (&str, f64) {
    match unit {
        "ns" => ("seconds", exposition::seconds(1)),
        "share" => ("ratio", 1.0),
        other => (other, 1.0),
    }
}

/// Every metric as a table for people: name, type and meaning.
pub fn table() -> String {
    let mut figures = Figures { flows: vec![OfFlow::default()], ..Figures::default() };
    figures.flows[0].counts.errors = BTreeMap::from([(String::new(), 0)]);
    let signal = Signal {
        name: String::new(),
        state: SignalState::Ok,
        observed: Some(0.0),
        limit: Some(0.0),
        unit: String::new(),
        detail: String::new(),
    };
    figures.validity = Some(Validity { is_valid: true, signals: vec![signal] });
    Metrics::new(Scrape(Arc::new(Mutex::new(figures)))).table()
}
