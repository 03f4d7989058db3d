//! No target at all: `null://` answers `ok` within the process.
//!
//! What is left is the generator itself: pacing, claiming, encoding, packing, recording. `calibrate`
//! measures with it what this machine could offer at most, if sockets cost nothing.
//! Invariant: a chunk is encoded as for a socket, and dropped.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ndjson::{Lane, Plan};
use super::{Batch, BatchHammer, Broken, Kit, NoConnection};
use crate::measure::tally::Answer;

/// Bytes of a write, as over TCP.
const CHUNK_BYTES: usize = 128 * 1024;

/// See the module.
pub(crate) struct Null {
    lane: Rc<Lane>,
}

impl BatchHammer for Null {
    type Plan = Plan;
    type Lane = Lane;

    fn lane(plan: &Arc<Plan>) -> Lane {
        Lane::new(plan)
    }

    async fn connect(lane: &Rc<Lane>, _timeout: Duration) -> Result<Null, NoConnection> {
        Ok(Null { lane: Rc::clone(lane) })
    }

    fn close(self) {}

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        while batch.unencoded() > 0 {
            {
                let chunk = &mut *kit.write.borrow_mut();
                chunk.clear();
                batch.encode(kit, chunk, CHUNK_BYTES);
                if let Some(packer) = &mut *self.lane.packer.borrow_mut() {
                    std::hint::black_box(packer.pack(chunk));
                }
                std::hint::black_box(chunk);
            }
            batch.before_write();
            batch.wrote(batch.unwritten());
            batch.after_read();
            batch.answered(Answer::Ok, batch.unanswered());
            glommio::executor().yield_if_needed().await;
        }
        Ok(())
    }
}
