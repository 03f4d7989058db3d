//! Journeys: a message is several requests, one after the other, each of which may need what an
//! earlier one was answered. Over HTTP/1.1 or HTTP/2, by the same steps.
//!
//! A hammer made of hammers: [`super::exchange`] carries one request and its response, the steps of
//! [`crate::plan::journey`] say what is asked and what has to come back, and this file walks from
//! the one to the next. Owns the rests between steps, and connections that end in between: the next
//! step opens another one. A step that fails ends its journey, by a code that names the step.
//! Invariant: at most one request is on its way; of a response at most
//! [`journey::BODY_BYTES_MAX`] are kept.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;

use super::exchange::{Form, Link, Trouble, Version};
use super::route::Route;
use super::stream::{Stream, dial};
use super::{Answer, Batch, BatchHammer, Broken, Kit, NoConnection};
use crate::clock::nanos;
use crate::config::{Flow, ThinkTime};
use crate::error::Error;
use crate::plan::journey::{self, Answered, Asked, Failed, Journey, Step, Values};
use crate::plan::random::Random;
use crate::tls::Tls;

/// How often a request goes again that the server had not touched.
const UNTOUCHED_MAX: u32 = 3;
/// The code of one that it did not touch once more.
const UNTOUCHED: &str = "closed";

/// What the connections of a flow are told.
pub(crate) struct Plan {
    route: Route,
    tls: Option<Tls>,
    form: Form,
    version: Version,
    journey: Journey,
}

impl Plan {
    /// The journey of `flow`, by `route`.
    ///
    /// # Errors
    /// The token cannot be read, the journey makes no sense, or a header cannot be sent.
    pub(crate) fn new(flow: &Flow, route: Route, tls: Option<Tls>) -> Result<Plan, Error> {
        let version = if flow.http.http2 { Version::Two } else { Version::One };
        let form = Form::new(flow, version, None)?;
        let journey = Journey::new(&flow.steps).map_err(Error::Usage)?;
        Ok(Plan { route, tls, form, version, journey })
    }
}

/// What the connections of one shard share.
pub(crate) struct Lane {
    plan: Arc<Plan>,
    /// The address that answered last is tried first.
    preferred: Cell<usize>,
}

/// A connection, and where its journey is.
pub(crate) struct Walker {
    lane: Rc<Lane>,
    timeout: Duration,
    link: Link,
    values: Values,
    asked: Asked,
    answered: Answered,
}

/// Why a journey ends before its last step.
enum End {
    /// The connection goes on.
    Failed(String),
    Broken(Broken),
}

impl BatchHammer for Walker {
    type Plan = Plan;
    type Lane = Lane;

    fn lane(plan: &Arc<Plan>) -> Lane {
        Lane { plan: Arc::clone(plan), preferred: Cell::default() }
    }

    async fn connect(lane: &Rc<Lane>, timeout: Duration) -> Result<Walker, NoConnection> {
        let link = open(lane, timeout).await?;
        Ok(Walker {
            lane: Rc::clone(lane),
            timeout,
            link,
            values: Values::default(),
            asked: Asked::default(),
            answered: Answered::default(),
        })
    }

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        if self.link.is_closed() {
            return Err(Broken::Stale);
        }
        let lane = Rc::clone(&self.lane);
        let journey = &lane.plan.journey;
        while batch.unencoded() > 0 {
            let (conn, seq) = batch.next();
            {
                let message = &mut *kit.write.borrow_mut();
                message.clear();
                if journey.needs_message {
                    batch.encode(kit, message, 0);
                } else {
                    batch.own(1);
                }
                journey.begin(&mut self.values, conn, seq, message.trim_ascii_end());
            }
            batch.before_write();
            batch.wrote(1);
            // The rests of a journey are its own, and the same in every run.
            let mut random = Random::new(Random::new(conn).next_u64() ^ seq);
            match self.walk(batch, journey, &mut random).await {
                Ok(()) => {
                    batch.after_read();
                    batch.answered(Answer::Ok, 1);
                }
                Err(End::Failed(code)) => batch.step_failed(&code),
                // The worker settles it, and names the step.
                Err(End::Broken(broken)) => return Err(broken),
            }
            glommio::executor().yield_if_needed().await;
        }
        Ok(())
    }

    fn close(self) {
        self.link.close();
    }
}

impl Walker {
    async fn walk(
        &mut self,
        batch: &mut Batch<'_>,
        journey: &Journey,
        random: &mut Random,
    ) -> Result<(), End> {
        let last = journey.steps().len() - 1;
        for (index, step) in journey.steps().iter().enumerate() {
            batch.step_began(index);
            let failed = |failed: Failed| End::Failed(failed.code().into_owned());
            step.ask(&self.values, &mut self.asked).map_err(failed)?;
            self.exchange(batch, step).await?;
            batch.after_read();
            batch.saw_status(self.answered.status);
            step.judge(&self.answered, &mut self.values).map_err(failed)?;
            batch.step_ended();
            if index < last && step.think_time != ThinkTime::default() {
                let rest = rest(step.think_time, random);
                batch.rests(nanos(rest));
                glommio::timer::sleep(rest).await;
            }
        }
        Ok(())
    }

    /// Sends what is asked and takes the response, on another connection if this one has ended.
    async fn exchange(&mut self, batch: &mut Batch<'_>, step: &Step) -> Result<(), End> {
        for _ in 0..UNTOUCHED_MAX {
            if self.link.is_closed() || self.link.ready().await.is_err() {
                let opened = open(&self.lane, self.timeout).await;
                self.link = opened.map_err(|why| End::Broken(Broken::Refused(why.reason)))?;
                batch.step_resumed();
            }
            let request = self.lane.plan.form.step(step, &self.asked).map_err(|what| {
                End::Failed(Failed::BadValue(what.to_owned()).code().into_owned())
            })?;
            let reply = self.link.send(request);
            match self.take(step, reply).await.map_err(|error| Trouble::of(&error)) {
                Ok(()) => return Ok(()),
                Err(Trouble::Untouched) => {}
                Err(Trouble::Rejected(code)) => return Err(End::Failed(code)),
                Err(Trouble::Broken(broken)) => return Err(End::Broken(broken)),
            }
        }
        Err(End::Failed(UNTOUCHED.to_owned()))
    }

    /// Keeps of a response what its step looks into.
    async fn take(
        &mut self,
        step: &Step,
        reply: super::exchange::Reply,
    ) -> Result<(), hyper::Error> {
        let response = reply.await?;
        let Answered { status, headers, body, is_cut } = &mut self.answered;
        *status = response.status().as_u16();
        *is_cut = false;
        headers.clear();
        body.clear();
        for (name, value) in response.headers() {
            if step.wants_header(name.as_str()) {
                headers.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
            }
        }
        let wants_body = step.wants_body();
        let mut incoming = response.into_body();
        while let Some(frame) = incoming.frame().await {
            let frame = frame?;
            let Some(data) = frame.data_ref().filter(|_| wants_body) else { continue };
            let room = journey::BODY_BYTES_MAX - body.len();
            *is_cut |= data.len() > room;
            body.extend_from_slice(&data[..data.len().min(room)]);
        }
        Ok(())
    }
}

fn rest(ThinkTime { min, max }: ThinkTime, random: &mut Random) -> Duration {
    min + Duration::from_nanos(random.below(nanos(max) - nanos(min) + 1))
}

async fn open(lane: &Rc<Lane>, timeout: Duration) -> Result<Link, NoConnection> {
    let plan = &lane.plan;
    dial(&plan.route, &lane.preferred, timeout, async |socket| {
        let stream =
            Stream::open(socket, plan.tls.as_ref()).await.map_err(NoConnection::refused)?;
        Link::open(stream, plan.version).await
    })
    .await
}
