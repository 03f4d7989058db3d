//! NDJSON in UDP datagrams: sent, and never answered.
//!
//! Owns one connected socket. A datagram holds as many whole messages as fit; with COMPRESS it is
//! one gzip member. There is no acknowledgement, so a message is settled when the kernel took it,
//! and counts as neither `ok` nor an error; that nobody listens shows as `refused` at a later send.
//! Invariant: no message is split over datagrams.

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::sleep;

use super::ndjson::{Lane, Plan};
use super::{Batch, BatchHammer, Broken, Kit, NoConnection};

/// While the kernel has no room for another datagram.
const PAUSE: Duration = Duration::from_millis(1);
/// Datagrams between looks at whether others of the shard have to go on.
const DATAGRAMS_PER_TURN: u32 = 64;

/// See the module.
pub(crate) struct Udp {
    socket: UdpSocket,
    lane: Rc<Lane>,
}

impl BatchHammer for Udp {
    type Plan = Plan;
    type Lane = Lane;

    fn lane(plan: &Arc<Plan>) -> Lane {
        Lane::new(plan)
    }

    async fn connect(lane: &Rc<Lane>, _timeout: Duration) -> Result<Udp, NoConnection> {
        let address = lane.plan.route.addresses[0];
        let open = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::from(lane.plan.route.socket(&address, true)?);
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Udp { socket, lane: Rc::clone(lane) }),
            Err(error) => {
                Err(NoConnection::refused(format!("no socket for udp://{address}: {error}")))
            }
        }
    }

    fn close(self) {}

    async fn carry(&mut self, kit: &Kit, batch: &mut Batch<'_>) -> Result<(), Broken> {
        let mut datagrams = 0;
        while batch.unencoded() > 0 {
            {
                let fresh = &mut *kit.write.borrow_mut();
                fresh.clear();
                batch.encode(kit, fresh, self.lane.plan.datagram_bytes);
            }
            loop {
                batch.before_write();
                match self.send(kit) {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        batch.blocked();
                        sleep(PAUSE).await;
                    }
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                        return Err(Broken::Refused(error.to_string()));
                    }
                    Err(_) => return Err(Broken::Reset),
                }
            }
            batch.wrote(batch.unwritten());
            batch.settle_without_reply();
            datagrams += 1;
            if datagrams % DATAGRAMS_PER_TURN == 0 {
                glommio::executor().yield_if_needed().await;
            }
        }
        Ok(())
    }
}

impl Udp {
    fn send(&self, kit: &Kit) -> io::Result<()> {
        let fresh = kit.write.borrow();
        match &mut *self.lane.packer.borrow_mut() {
            Some(packer) => self.socket.send(packer.pack(&fresh)),
            None => self.socket.send(&fresh),
        }
        .map(drop)
    }
}
