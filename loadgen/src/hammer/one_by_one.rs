//! A [`Hammer`] as the worker wants it: each message of a batch by itself.
//!
//! Invariant: a message is written when its hit begins and settled when it ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt as _;

use super::{Batch, BatchHammer, Broken, Failure, Hammer, Kit, NoConnection};

/// What a [`Hammer`] is to send.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The payload: an NDJSON record with its newline.
    pub line: &'a [u8],
    /// The number of the connection, unique in the run.
    pub conn: u64,
    /// The number of the message on its connection, from 0.
    pub seq: u64,
}

/// See the module.
pub(crate) struct OneByOne<H> {
    hammer: H,
    line: Vec<u8>,
}

impl<H: Hammer> BatchHammer for OneByOne<H> {
    type Plan = H::Plan;
    type Lane = Arc<H::Plan>;

    fn lane(plan: &Arc<H::Plan>) -> Arc<H::Plan> {
        Arc::clone(plan)
    }

    async fn connect(plan: &Rc<Arc<H::Plan>>, timeout: Duration) -> Result<Self, NoConnection> {
        let late = async {
            glommio::timer::sleep(timeout).await;
            Err(NoConnection::refused("no connection in time"))
        };
        let hammer = H::connect(plan).or(late).await?;
        Ok(OneByOne { hammer, line: Vec::new() })
    }

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        while batch.unencoded() > 0 {
            self.line.clear();
            let (conn, seq) = batch.next();
            batch.encode(kit, &mut self.line, 0);
            batch.before_write();
            batch.wrote(1);
            let end = self.hammer.hit(&Message { line: &self.line, conn, seq }).await;
            batch.after_read();
            match end {
                Ok(answer) => batch.answered(answer, 1),
                Err(Failure::Rejected(code)) => batch.rejected(&code, 1),
                // It has been written: no other connection may carry it.
                Err(Failure::Broken(Broken::Stale)) => return Err(Broken::Reset),
                Err(Failure::Broken(broken)) => return Err(broken),
            }
            glommio::executor().yield_if_needed().await;
        }
        Ok(())
    }

    fn close(self) {
        self.hammer.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use runtime::stop::Stop;

    use super::*;
    use crate::hammer::Answer;
    use crate::{Progress, config};

    /// Takes two of three, says no to the third, and breaks at `breaks_at`.
    struct Picky<'a> {
        plan: &'a Plan,
        hits: u64,
    }

    #[derive(Default)]
    struct Plan {
        connections: AtomicU64,
        breaks_at: u64,
    }

    impl Hammer for Picky<'static> {
        type Plan = &'static Plan;

        async fn connect(plan: &&'static Plan) -> Result<Self, NoConnection> {
            plan.connections.fetch_add(1, Ordering::Relaxed);
            Ok(Picky { plan, hits: 0 })
        }

        async fn hit(&mut self, message: &Message<'_>) -> Result<Answer, Failure> {
            assert!(message.line.ends_with(b"}\n"));
            let tail = format!("\"conn\":{},\"seq\":{}}}\n", message.conn, message.seq);
            assert!(message.line.ends_with(tail.as_bytes()));
            self.hits += 1;
            if self.hits == self.plan.breaks_at {
                return Err(Failure::Broken(Broken::Stale));
            }
            match message.seq % 3 {
                2 => Err(Failure::Rejected("third".to_owned())),
                _ => Ok(Answer::Ok),
            }
        }
    }

    fn run(plan: Plan, args: &[&str]) -> (crate::Outcome, &'static Plan) {
        let plan: &'static Plan = Box::leak(Box::new(plan));
        let argv = ["loadgen", "--shards", "1", "--target", "null://"];
        let (_, config) = config::read(argv.iter().chain(args)).unwrap();
        let stop = Stop::new();
        let outcome =
            crate::run_with::<Picky<'static>>(&config, plan, &stop, &mut |_: &Progress<'_>| ());
        (outcome.unwrap(), plan)
    }

    #[test]
    fn a_hammer_of_ones_own_says_what_became_of_each_message() {
        let (outcome, plan) = run(Plan::default(), &["-n", "300", "-c", "1", "--batch-size", "10"]);
        let (load, errors) = (&outcome.summary.load, &outcome.summary.errors);
        assert_eq!((load.sent, load.ok, load.error), (300, 200, 100));
        assert_eq!(errors["third"], 100);
        assert_eq!(plan.connections.load(Ordering::Relaxed), 1);
        assert_eq!(outcome.ledger.connections.len(), 0);
    }

    #[test]
    fn a_connection_that_breaks_takes_its_batch_with_it() {
        let plan = Plan { breaks_at: 5, ..Plan::default() };
        let (outcome, plan) = run(plan, &["-n", "60", "-c", "1", "--batch-size", "10"]);
        let (load, errors) = (&outcome.summary.load, &outcome.summary.errors);
        // Each connection takes four messages, of which the third is refused.
        assert_eq!((load.sent, load.ok), (60, 6 * 3));
        assert_eq!((errors["third"], errors["reset"]), (6, 36));
        assert_eq!(plan.connections.load(Ordering::Relaxed), 6);
    }
}
