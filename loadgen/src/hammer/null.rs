//! No target at all: `null://` answers `ok` within the process.
//!
//! What is left is the generator itself: pacing, claiming, encoding, packing, recording. `calibrate`
//! measures with it what this machine could offer at most, if sockets cost nothing.
//! Invariant: a chunk is encoded as for a socket, and dropped.

use std::time::Duration;

use super::{Batch, Broken, Hammer, Kit, NoConnection, Target};
use crate::measure::recorder::Answer;

/// Bytes of a write, as over TCP.
const CHUNK_BYTES: usize = 128 * 1024;

/// See the module.
pub(crate) struct Null;

impl Hammer for Null {
    async fn connect(_target: &Target, _timeout: Duration) -> Result<Null, NoConnection> {
        Ok(Null)
    }

    fn close(self) {}

    async fn hit(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        while batch.unencoded() > 0 {
            {
                let chunk = &mut *kit.write.borrow_mut();
                chunk.clear();
                batch.encode(kit, chunk, CHUNK_BYTES);
                if let Some(packer) = &mut *kit.packer.borrow_mut() {
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
