//! One shard: its lanes, each a part of a flow with workers, their watch, a pacer, and what it tells
//! the coordinator.
//!
//! Owns a lane's life from the start signal to its totals. Lanes share nothing but the number of
//! messages left in a closed loop. Leaves merging and the verdict to `lib`.
//! Invariant: when a lane ends, every message of its part that became due is settled, unsent, or
//! was never offered; nothing is in flight.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use futures_lite::FutureExt as _;
use glommio::timer::sleep;
use proto::hello::Welcome;
use runtime::stop::{Cause, Stop};

use crate::clock::{Clock, nanos};
use crate::config::{Connect, ThinkTime};
use crate::dispatch::Dispatch;
use crate::dispatch::supply::{Closed, Open, Source, Supply, Unpaced};
use crate::hammer::{BatchHammer, Kit};
use crate::measure::latencies::Latencies;
use crate::measure::ledger::LedgerConnection;
use crate::measure::pacing::PacingReport;
use crate::measure::progress::{SECOND_NS, ShardSecond};
use crate::measure::recorder::Recorder;
use crate::measure::stages::Stage;
use crate::measure::tally::StepTally;
use crate::measure::validity::little::Looks;
use crate::measure::validity::run_queue::Begun;
use crate::pace::{self, Nap, pace};
use crate::plan::payloads::Payloads;
use crate::plan::random::Random;
use crate::plan::schedule::stream::Stream;
use crate::plan::schedule::{Part, Schedule};
use crate::plan::shape::{CatchUp, Pacing};
use crate::pool::{Limits, Pool};
use crate::referee::Seen;
use crate::replay::Supplier;
use crate::replay::feed::Feed;
use crate::worker::{self, Rest, Shop, Watched};

/// An executor's first sleep takes tens of milliseconds; it is behind us when the load begins.
const FIRST_SLEEP: Duration = Duration::from_millis(1);
/// How often the watch looks at deadlines; it divides a second.
const WATCH_NS: u64 = 100_000_000;
/// How often somebody counts what is in flight: 20 wakes a second are a thousandth of a core.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked whether the rest of a recording has been read.
const UNREAD_PAUSE: Duration = Duration::from_millis(1);
/// After a signal, outstanding replies are awaited this long at most.
const INTERRUPTED_GRACE: Duration = Duration::from_secs(1);

/// What a lane is told, in plain values.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) flow: usize,
    /// Unique among all `lanes` of the run.
    pub(crate) lane: usize,
    pub(crate) lanes: usize,
    /// The lane's part of the flow's messages.
    pub(crate) part: Part,
    /// The lane's own workers.
    pub(crate) workers: usize,
    pub(crate) starter: Starter,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) catch_up: CatchUp,
    pub(crate) pacing: Pacing,
    pub(crate) batch_size: u64,
    /// Closed loop: each worker's first batch, and what is left behind them for all lanes of the flow.
    pub(crate) first: Vec<u64>,
    pub(crate) rest: Option<Arc<AtomicU64>>,
    pub(crate) think_time: ThinkTime,
    pub(crate) connect: Connect,
    /// Zero is no bound.
    pub(crate) connection_max: Duration,
    /// 0 is no bound.
    pub(crate) connection_messages_max: u64,
    pub(crate) payloads: Payloads,
    /// Messages that were recorded, instead of payloads.
    pub(crate) recording: Option<Supplier>,
    pub(crate) seed: u64,
    pub(crate) reply_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) keeps_ledger: bool,
    /// The coordinator's word; its cause says why.
    pub(crate) halt: Stop,
    /// Of the flow's plan.
    pub(crate) stages: Vec<Stage>,
    pub(crate) news: SyncSender<News>,
    /// Histograms that the coordinator has emptied.
    pub(crate) blanks: async_channel::Receiver<Latencies>,
    pub(crate) go: async_channel::Receiver<Clock>,
}

/// Runs a lane by the protocol of its flow.
#[derive(Clone)]
pub(crate) struct Starter(Arc<dyn Fn(Orders, bool, Clock) -> Running + Send + Sync>);

type Running = Pin<Box<dyn Future<Output = Report>>>;

impl Starter {
    pub(crate) fn of<H: BatchHammer>(plan: H::Plan) -> Starter {
        let plan = Arc::new(plan);
        Starter(Arc::new(move |orders, is_alone, clock| {
            Box::pin(lane::<H>(H::lane(&plan), orders, is_alone, clock))
        }))
    }
}

impl fmt::Debug for Starter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Starter")
    }
}

/// What a shard and its lanes tell the coordinator while they run.
#[derive(Debug)]
pub(crate) enum News {
    /// The shard is ready for the start signal.
    Ready,
    /// Second `index` is over.
    Second { lane: usize, index: usize, second: Box<ShardSecond> },
    /// The target cannot be reached, or can again.
    TargetDown { lane: usize, is_down: bool },
    /// Nothing more will come; what came after the last second that was told.
    Ended { lane: usize, tail: Box<ShardSecond> },
}

/// What a lane leaves behind.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) flow: usize,
    /// What its pacer did; the CPU of a shard's thread is with its first lane.
    pub(crate) pacing: PacingReport,
    /// When its load ended, ns since the start.
    pub(crate) load_ended_ns: u64,
    pub(crate) ledger: Vec<LedgerConnection>,
    pub(crate) last_failure: Option<String>,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) seen: Seen,
    /// Of journeys.
    pub(crate) steps: Vec<StepTally>,
}

/// Runs a shard, that is its lanes, to the end. A shard has at least one lane.
pub(crate) async fn run(lanes: Vec<Orders>) -> Vec<Report> {
    sleep(FIRST_SLEEP).await;
    let first = lanes.first().expect("a shard has a lane");
    // A coordinator that is gone needs no news: it has panicked.
    let _ = first.news.send(News::Ready);
    let Ok(clock) = first.go.recv().await else { panic!("the coordinator is gone") };
    let is_alone = lanes.len() == 1;
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|orders| {
            glommio::spawn_local(async move {
                let starter = orders.starter.clone();
                (starter.0)(orders, is_alone, clock).await
            })
        })
        .collect();
    let cpu_ns = thread_cpu_ns();
    let mut reports = Vec::with_capacity(lanes.len());
    for lane in lanes {
        reports.push(lane.await);
    }
    if let Some(first) = reports.first_mut() {
        first.pacing.cpu_ns = thread_cpu_ns().saturating_sub(cpu_ns);
    }
    reports
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (secs, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    secs.unwrap_or_default() * 1_000_000_000 + ns.unwrap_or_default()
}

/// Runs a lane to its end.
async fn lane<H: BatchHammer>(
    common: H::Lane,
    orders: Orders,
    is_alone: bool,
    clock: Clock,
) -> Report {
    let begun = Begun::now();
    let shop = Rc::new(open_shop::<H>(common, &orders, clock));
    let workers: Vec<_> = (0..orders.workers)
        .map(|worker| glommio::spawn_local(worker::run(Rc::clone(&shop), worker)))
        .collect();
    let pacing = RefCell::new(PacingReport::default());
    let mut watch = Watch::new(&orders, &shop);
    let all = async {
        for worker in workers {
            worker.await;
        }
    };
    let mut looks = Looks::default();
    let look = look(&shop, &orders, &mut looks);
    all.or(pace(&shop, orders.pacing, is_alone, &pacing)).or(watch.keep()).or(look).await;
    let untold = watch.untold;
    tell_unclaimed(&shop).await;
    let looked_ns = shop.clock.now_ns();
    let seen = Seen { ran: begun.and_then(Begun::end), looks, looked_ns };

    let shop = Rc::into_inner(shop).expect("every task has been joined");
    let (report, tail) = finish(orders.flow, shop, pacing.into_inner(), untold, seen);
    let _ = orders.news.send(News::Ended { lane: orders.lane, tail: Box::new(tail) });
    report
}

fn open_shop<H: BatchHammer>(common: H::Lane, orders: &Orders, clock: Clock) -> Shop<H> {
    let schedule = &orders.schedule;
    let supply = if let Some(supplier) = orders.recording.clone() {
        recorded_supply(orders, supplier, clock)
    } else if schedule.is_closed() {
        let (first, rest) = (orders.first.clone(), orders.rest.clone());
        Supply::Closed(Closed::new(schedule, first, rest, orders.batch_size))
    } else {
        // Flows have arrivals of their own.
        let seed = orders.seed.wrapping_add((orders.flow as u64) << 32);
        let stream = Stream::new(Arc::clone(schedule), orders.part, seed);
        let slot_ns = pace::slot_ns(orders.pacing);
        let (source, batch_size) = (Source::Planned(stream), orders.batch_size);
        Supply::Open(Box::new(Open::new(schedule, source, orders.catch_up, slot_ns, batch_size)))
    };
    let seed = orders.seed.wrapping_add(orders.lane as u64);
    let limits = Limits {
        workers: orders.workers,
        conn_first: orders.lane as u64,
        conn_step: orders.lanes as u64,
        connect_timeout: orders.connect_timeout,
        is_storm: orders.connect == Connect::Storm,
        age_ns_max: nanos(orders.connection_max),
        messages_max: orders.connection_messages_max,
        keeps_ledger: orders.keeps_ledger,
        seed,
    };
    Shop {
        clock,
        dispatch: Dispatch::new(supply, orders.workers),
        pool: Pool::new(limits, common, clock),
        kit: Kit::new(orders.payloads.clone()),
        recorder: RefCell::new(
            Recorder::new(orders.stages.len())
                .with_warmups(orders.stages.iter().map(|stage| stage.is_warmup).collect()),
        ),
        rest: Rest::new(orders.think_time, seed),
        nap: Nap::default(),
        watched: (0..orders.workers).map(|_| Watched::default()).collect(),
    }
}

/// A recording by its deadlines, or as fast as the workers are.
fn recorded_supply(orders: &Orders, supplier: Supplier, clock: Clock) -> Supply {
    let Orders { schedule, batch_size, .. } = orders;
    let measured_stage = schedule.stages().iter().position(|stage| stage.is_measured);
    let measured_stage = measured_stage.expect("something is measured");
    let feed = Feed::new(supplier, clock, schedule.measured_from_ns(), measured_stage);
    if schedule.is_closed() {
        let end_ns = schedule.end_ns();
        return Supply::Unpaced(Box::new(Unpaced::new(feed, measured_stage, *batch_size, end_ns)));
    }
    let (source, slot_ns) = (Source::Recorded(feed), pace::slot_ns(orders.pacing));
    Supply::Open(Box::new(Open::new(schedule, source, orders.catch_up, slot_ns, *batch_size)))
}

/// Looks at the messages in flight, at random moments [`LOOK`] apart on the mean. Never ends.
async fn look<H: BatchHammer>(shop: &Shop<H>, orders: &Orders, looks: &mut Looks) {
    let mut random = Random::new(orders.seed ^ (orders.lane as u64).rotate_left(32));
    loop {
        // Exponential, from a number in (0, 1]; at most 23 means.
        let uniform = (random.below(1 << 32) + 1) as f64 / (1u64 << 32) as f64;
        let wait = LOOK.mul_f64(-uniform.ln());
        let at_ns = shop.clock.now_ns() + nanos(wait);
        sleep(wait).await;
        // The pacer naps only while nothing is in flight, and wakes to put something there: what is
        // seen after a nap is not what was to be seen in it.
        let in_flight = match shop.nap.get().contains(&at_ns) {
            true => 0,
            false => shop.recorder.borrow().counts().in_flight(),
        };
        looks.saw(in_flight);
    }
}

/// How often the watch looks where a reply may take `timeout`: late by a fifth at most, if that is
/// not more often than every 10 ms.
fn watch_ns(timeout: Duration) -> u64 {
    let divides_second = [WATCH_NS, WATCH_NS / 2, WATCH_NS / 5];
    divides_second.into_iter().find(|&ns| ns <= nanos(timeout) / 5).unwrap_or(WATCH_NS / 10)
}

/// Looks every 100 ms (more often where replies have less time) at the second, the deadlines, the target and the coordinator.
struct Watch<'a, H: BatchHammer> {
    orders: &'a Orders,
    shop: &'a Shop<H>,
    /// The second that is running.
    second: usize,
    /// A second that the coordinator had no room for; it goes with the next one.
    untold: Option<Box<ShardSecond>>,
    is_target_down: bool,
    gives_up_at_ns: Option<u64>,
}

impl<'a, H: BatchHammer> Watch<'a, H> {
    fn new(orders: &'a Orders, shop: &'a Shop<H>) -> Watch<'a, H> {
        Watch { orders, shop, second: 0, untold: None, is_target_down: false, gives_up_at_ns: None }
    }

    /// Never ends.
    async fn keep(&mut self) {
        let every_ns = watch_ns(self.orders.reply_timeout);
        loop {
            let now_ns = self.shop.clock.now_ns();
            sleep(Duration::from_nanos(every_ns - now_ns % every_ns)).await;
            let now_ns = self.shop.clock.now_ns();
            self.publish(now_ns);
            self.note_halt(now_ns);
            self.note_deadlines(now_ns);
            self.note_target(now_ns);
        }
    }

    fn publish(&mut self, now_ns: u64) {
        let index = usize::try_from(now_ns / SECOND_NS).expect("seconds of a run");
        if index <= self.second {
            return;
        }
        let at_ns = index as u64 * SECOND_NS;
        let mut second = Box::new(close_second(self.shop, &self.orders.stages, at_ns));
        let recorder = &mut *self.shop.recorder.borrow_mut();
        while let Ok(blank) = self.orders.blanks.try_recv() {
            if recorder.recycle(blank).is_some() {
                break;
            }
        }
        if let Some(untold) = self.untold.take() {
            for mut spare in second.interval.precede(untold.interval) {
                spare.reset();
                recorder.recycle(spare);
            }
        }
        let news = News::Second { lane: self.orders.lane, index: index - 1, second };
        // Never blocks: a terminal that is stopped must not stop the load.
        if let Err(TrySendError::Full(News::Second { second, .. })) =
            self.orders.news.try_send(news)
        {
            self.untold = Some(second);
        }
        self.second = index;
    }

    fn note_halt(&mut self, now_ns: u64) {
        let Some(cause) = self.orders.halt.cause() else { return };
        self.shop.dispatch.halt(now_ns);
        let grace = match cause {
            Cause::Interrupt | Cause::Terminate => INTERRUPTED_GRACE.min(self.orders.reply_timeout),
            Cause::Done => Duration::ZERO,
        };
        let at_ns = now_ns + nanos(grace);
        if self.gives_up_at_ns.is_none_or(|known| known > at_ns) {
            self.gives_up_at_ns = Some(at_ns);
        }
    }

    fn note_deadlines(&mut self, now_ns: u64) {
        let timeout_ns = nanos(self.orders.reply_timeout);
        if self.gives_up_at_ns.is_none() {
            let ended_ns = self.shop.dispatch.ended_ns(now_ns);
            self.gives_up_at_ns = ended_ns.map(|ended_ns| ended_ns.saturating_add(timeout_ns));
        }
        for watched in &self.shop.watched {
            match self.gives_up_at_ns {
                Some(at_ns) if now_ns >= at_ns => watched.end(),
                Some(_) => {}
                None => {
                    if let Some(since_ns) = now_ns.checked_sub(timeout_ns) {
                        watched.time_out(since_ns);
                    }
                }
            }
        }
    }

    fn note_target(&mut self, now_ns: u64) {
        let is_down = self.shop.pool.is_target_down(now_ns);
        let news = News::TargetDown { lane: self.orders.lane, is_down };
        if is_down != self.is_target_down && self.orders.news.try_send(news).is_ok() {
            self.is_target_down = is_down;
        }
    }
}

/// Tells what was due and nobody took up, also what of a recording was not even read by then: the
/// reader goes through the rest, and nobody hurries.
async fn tell_unclaimed<H: BatchHammer>(shop: &Shop<H>) {
    let now_ns = shop.clock.now_ns();
    let ended_ns = shop.dispatch.ended_ns(now_ns).expect("workers end with the load");
    while !shop.dispatch.drain_unclaimed(&mut shop.missed(ended_ns)) {
        sleep(UNREAD_PAUSE).await;
    }
}

fn close_second<H: BatchHammer>(shop: &Shop<H>, stages: &[Stage], at_ns: u64) -> ShardSecond {
    let recorder = &mut *shop.recorder.borrow_mut();
    let interval = recorder.close_interval();
    let offered = |stage| match shop.dispatch.due_in(stage, at_ns) {
        // In closed loop what is taken up is what is offered.
        None => recorder.counts_of(stage).sent,
        Some(due) => due,
    };
    ShardSecond { offered: (0..stages.len()).map(offered).collect(), interval }
}

fn finish<H: BatchHammer>(
    flow: usize,
    shop: Shop<H>,
    pacing: PacingReport,
    untold: Option<Box<ShardSecond>>,
    seen: Seen,
) -> (Report, ShardSecond) {
    let end_ns = shop.clock.now_ns();
    let load_ended_ns = shop.dispatch.ended_ns(end_ns).expect("workers end with the load");
    let Shop { pool, recorder, .. } = shop;
    let mut recorder = recorder.into_inner();
    let mut interval = recorder.close_interval();
    if let Some(untold) = untold {
        interval.precede(untold.interval);
    }
    // What was not taken up by now is unsent.
    let offered = |stage| recorder.counts_of(stage).sent + recorder.counts_of(stage).unsent;
    let tail = ShardSecond { offered: (0..recorder.stages()).map(offered).collect(), interval };
    assert_eq!(recorder.counts().in_flight(), 0, "every message is settled");
    let remains = pool.finish();
    let report = Report {
        flow,
        pacing,
        load_ended_ns,
        ledger: remains.ledger,
        last_failure: remains.last_failure,
        welcome: remains.welcome,
        seen,
        steps: recorder.take_steps(),
    };
    (report, tail)
}
