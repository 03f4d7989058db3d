//! Follows the shards of a run from the main thread.
//!
//! Owns merging what they tell each second, and the decision to end a run early: a signal, a target
//! that cannot be reached, an SLO that asks for it. Leaves judging to `referee`, and summing up to
//! `outcome`.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use runtime::stop::{Cause, Stop};

use crate::config::Config;
use crate::lanes::flow_plan;
use crate::measure::latencies::Latencies;
use crate::measure::progress::{Progress, Series};
use crate::observer::{Manifest, Observer};
use crate::plan::shape::Shape;
use crate::referee::Referee;
use crate::shard::News;

/// How often the coordinator looks at the stop request.
const GLANCE: Duration = Duration::from_millis(20);

/// Follows the shards from the main thread.
pub(crate) struct Coordinator<'a> {
    pub(crate) halt: &'a Stop,
    pub(crate) series: Series,
    blanks: async_channel::Sender<Latencies>,
    /// The flow of each lane.
    flows: Vec<usize>,
    ended: Vec<bool>,
    is_target_down: Vec<bool>,
    /// The flow whose target cannot be reached.
    pub(crate) unreachable: Option<usize>,
    pub(crate) referee: Referee,
    /// Why the referee ended the run.
    pub(crate) aborted: Option<String>,
}

impl<'a> Coordinator<'a> {
    pub(crate) fn new(
        config: &Config,
        flows: Vec<usize>,
        halt: &'a Stop,
        blanks: async_channel::Sender<Latencies>,
        referee: Referee,
    ) -> Coordinator<'a> {
        let is_open_loop = config.flows.iter().any(|flow| flow.shape != Shape::Closed);
        Coordinator {
            halt,
            series: Series::new(
                config
                    .flows
                    .iter()
                    .map(|flow| flow_plan(flow, &flow.schedule(config.warmup_secs)))
                    .collect(),
                &flows,
                is_open_loop,
            ),
            blanks,
            ended: vec![false; flows.len()],
            is_target_down: vec![false; flows.len()],
            flows,
            unreachable: None,
            referee,
            aborted: None,
        }
    }

    pub(crate) fn await_ready(&self, news: &Receiver<News>, shards: usize) {
        for _ in 0..shards {
            // A closed channel means that the shards have panicked; joining them says so.
            if news.recv().is_err() {
                return;
            }
        }
    }

    /// Until every shard has ended.
    pub(crate) fn follow(
        &mut self,
        news: &Receiver<News>,
        stop: &Stop,
        observer: &mut dyn Observer,
        manifest: &Manifest,
    ) {
        while self.ended.iter().any(|ended| !ended) {
            if let Some(cause @ (Cause::Interrupt | Cause::Terminate)) = stop.cause() {
                self.halt.request(cause);
            }
            match news.recv_timeout(GLANCE) {
                Ok(news) => self.take(news, observer, manifest),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, news: News, observer: &mut dyn Observer, manifest: &Manifest) {
        let mut reason = None;
        let tell = |progress: &Progress<'_>| {
            reason = self.referee.second(progress).or(reason.take());
            observer.second(progress);
            if observer.wants_judgement() {
                let Manifest { config, environment, .. } = manifest;
                observer.judged(&self.referee.so_far(config, environment, progress));
            }
        };
        match news {
            News::Ready => {}
            News::Second { lane, index, second } => {
                self.series.close(lane, index, *second, tell);
            }
            News::TargetDown { lane, is_down } => self.is_target_down[lane] = is_down,
            News::Ended { lane, tail } => {
                self.ended[lane] = true;
                self.series.end(lane, *tail, tell);
            }
        }
        while let Some(blank) = self.series.take_blank() {
            if self.blanks.try_send(blank).is_err() {
                break;
            }
        }
        if !self.halt.is_requested() && reason.is_some() {
            self.aborted = reason;
            // As after a signal: what is under way has a second to come back.
            self.halt.request(Cause::Interrupt);
        }
        if !self.halt.is_requested()
            && let Some(flow) = self.flow_without_target()
        {
            self.unreachable = Some(flow);
            self.halt.request(Cause::Done);
        }
    }

    /// A flow that runs still, and none of whose lanes reaches the target.
    fn flow_without_target(&self) -> Option<usize> {
        let running = |flow: usize| {
            (0..self.flows.len()).filter(move |&lane| self.flows[lane] == flow && !self.ended[lane])
        };
        (0..=self.flows.iter().copied().max().unwrap_or_default()).find(|&flow| {
            running(flow).next().is_some() && running(flow).all(|lane| self.is_target_down[lane])
        })
    }
}
