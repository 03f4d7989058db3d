//! What each lane is told: the flows of a run, divided among its shards.
//!
//! A *lane* is a shard's part of a flow. Owns the division; leaves what a flow aims at to `target`
//! and running to `shard`.
//! Invariant: the lanes of a flow have all its workers, and all its messages, once.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, sync_channel};

use runtime::stop::Stop;

use crate::clock::Clock;
use crate::config::{Config, Flow};
use crate::dispatch::supply;
use crate::error::Error;
use crate::measure::latencies::Latencies;
use crate::measure::slo::Names;
use crate::measure::stages::{FlowPlan, Stage};
use crate::measure::validity::target::Listens;
use crate::plan::payloads::{Numbering, Payloads};
use crate::plan::schedule::{Part, Schedule};
use crate::replay;
use crate::shard::{News, Orders};
use crate::target::Target;

/// News that wait for the coordinator, for each lane. Seconds for which there is no room are
/// merged on the lane, so that a stopped terminal costs a bounded amount of memory: each holds
/// histograms of 1.6 MB.
const NEWS_PER_LANE: usize = 8;

/// Orders of each shard, and the coordinator's ends of the channels.
pub(crate) struct Channels {
    pub(crate) orders: Vec<Vec<Orders>>,
    /// Where the targets listen.
    pub(crate) listens: Vec<Listens>,
    pub(crate) news: Receiver<News>,
    /// Emptied histograms go back this way.
    pub(crate) blanks: async_channel::Sender<Latencies>,
    pub(crate) go: async_channel::Sender<Clock>,
    /// Who reads the flows' recordings.
    pub(crate) readers: Vec<replay::Handle>,
}

/// The stages under which the figures of a flow are filed.
pub(crate) fn flow_plan(flow: &Flow, schedule: &Schedule) -> FlowPlan {
    // A closed loop's last message is due whenever a worker is free for it.
    let load_end_ns = if schedule.is_closed() { u64::MAX } else { schedule.offering_end_ns() };
    let mut stages: Vec<Stage> = schedule
        .stages()
        .iter()
        .map(|stage| Stage {
            name: stage.name.clone(),
            begin_ns: stage.begin_ns,
            end_ns: Some(stage.end_ns),
            is_warmup: !stage.is_measured,
        })
        .collect();
    let last = stages.last_mut().expect("there is always a stage");
    let end_ns = last.end_ns.unwrap_or(u64::MAX).min(load_end_ns);
    last.end_ns = (!schedule.is_closed() && end_ns < u64::MAX).then_some(end_ns);
    FlowPlan { name: flow.name.clone(), stages }
}

/// What an SLO may be about.
pub(crate) fn names(config: &Config) -> Names {
    let mut names = Names::default();
    for flow in &config.flows {
        let stages = flow_plan(flow, &flow.schedule(config.warmup_secs)).stages;
        names.stages.extend(stages.into_iter().filter(|it| !it.is_warmup).map(|it| it.name));
        names.flows.push(flow.name.clone());
    }
    names
}

/// What each shard is told: one [`Orders`] for each *lane*, a shard's part of a flow. A flow with
/// fewer workers than there are shards has as many lanes as workers, beginning at another shard
/// than the flow before it.
///
/// # Errors
/// Those of `aim`, which says what a flow aims at, and of its payloads.
pub(crate) fn orders(
    config: &Config,
    halt: &Stop,
    aim: &dyn Fn(&Flow, &Payloads) -> Result<Target, Error>,
) -> Result<Channels, Error> {
    let counts: Vec<usize> =
        config.flows.iter().map(|flow| flow.concurrency.min(config.shards)).collect();
    let lanes: usize = counts.iter().sum();
    let (news, receiver) = sync_channel(NEWS_PER_LANE * lanes);
    let (go, ready) = async_channel::bounded(config.shards);
    let (blanks, emptied) = async_channel::bounded(2 * lanes);
    let run_id = config.run_id.as_deref().expect("resolved");
    let mut orders = vec![Vec::new(); config.shards];
    let (mut listens, mut readers) = (Vec::new(), Vec::new());
    let (mut lane, mut shard) = (0, 0);
    for (index, (flow, parts)) in config.flows.iter().zip(counts).enumerate() {
        let schedule = Arc::new(flow.schedule(config.warmup_secs));
        let bounds = flow.bounds();
        let stages = flow_plan(flow, &schedule).stages;
        let workers = flow.concurrency as u64;
        let (batch_size, first, rest) = match schedule.is_closed() {
            true => supply::cut(bounds.total, workers, flow.batch_messages()),
            false => (flow.batch_messages(), vec![0; flow.concurrency], 0),
        };
        let rest = bounds.total.map(|_| Arc::new(AtomicU64::new(rest)));
        let numbering = Numbering { lanes: lanes as u64, first: lane as u64, count: parts as u64 };
        let payloads = Payloads::open(&flow.wanted(numbering), config.seed, run_id)?;
        let target = aim(flow, &payloads)?;
        listens.extend(&target.listens);
        let (suppliers, handles) = replay::open(index, flow, &schedule, parts)?;
        readers.extend(handles);
        for part in 0..parts {
            let first: Vec<u64> = first.iter().skip(part).step_by(parts).copied().collect();
            orders[shard].push(Orders {
                flow: index,
                lane,
                lanes,
                part: Part::new(part as u64, parts as u64),
                workers: first.len(),
                starter: target.starter.clone(),
                schedule: Arc::clone(&schedule),
                catch_up: flow.catch_up,
                pacing: config.pacing,
                batch_size,
                first,
                rest: rest.clone(),
                think_time: flow.think_time,
                connect: flow.connect,
                connection_max: flow.connection_secs_max,
                connection_messages_max: flow.connection_messages_max,
                payloads: payloads.clone(),
                recording: suppliers.get(part).cloned(),
                seed: config.seed,
                reply_timeout: flow.hit_timeout_ms.unwrap_or(config.reply_timeout_secs),
                connect_timeout: config.connect_timeout_secs,
                keeps_ledger: config.ledger,
                halt: halt.clone(),
                stages: stages.clone(),
                news: news.clone(),
                blanks: emptied.clone(),
                go: ready.clone(),
            });
            lane += 1;
            shard = (shard + 1) % config.shards;
        }
    }
    Ok(Channels { orders, listens, news: receiver, blanks, go, readers })
}

/// The flow of each lane.
pub(crate) fn flows(orders: &[Vec<Orders>]) -> Vec<usize> {
    let mut lanes: Vec<(usize, usize)> =
        orders.iter().flatten().map(|orders| (orders.lane, orders.flow)).collect();
    lanes.sort_unstable();
    lanes.into_iter().map(|(_, flow)| flow).collect()
}
