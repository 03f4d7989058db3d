//! Which sockets of a shard can go on: one epoll for all of them, watched by one task.
//!
//! glommio arms a poll in its ring for every wait, so that a connection which asks and is answered
//! pays for a ring entry, its completion and their bookkeeping each time. A socket is registered
//! here once, edge-triggered; what many sockets have to say is fetched in one call, and glommio
//! waits for the epoll as a whole.
//!
//! Owns the epoll of a shard and the task behind it. Leaves reading and writing to [`crate::socket`].
//! Invariant: an [`Interest`] says "not ready" only if the kernel said so after the latest edge.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures_lite::{AsyncRead as _, future};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::descriptor;

/// Sockets whose news is fetched in one call.
const EVENTS_MAX: usize = 512;
/// Calls in a row, if each has news, before the executor gets to look at its rings: files and timers
/// wait for that, and while a task is ready it looks only when the preempt timer is over.
const FETCHES_MAX: usize = 8;

/// What is known of one socket.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    pub(crate) reading: Side,
    pub(crate) writing: Side,
    /// The peer has ended its side, or the connection is broken: there is always something to read.
    has_ended: Cell<bool>,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Side {
    is_ready: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Side {
    /// Whether it is worth trying.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.get()
    }

    /// The next edge wakes `waker`.
    pub(crate) fn wait(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// The kernel said that it would block.
    pub(crate) fn exhausted(&self) {
        self.is_ready.set(false);
    }

    /// It is worth trying, whatever has been told so far.
    pub(crate) fn assume_ready(&self) {
        self.is_ready.set(true);
    }

    fn ready(&self) {
        self.is_ready.set(true);
        // Kept where it is: most tasks wait with the same waker again.
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Interest {
    /// A read took all there was, unless the end of it is still to be read.
    pub(crate) fn drained(&self) {
        if !self.has_ended.get() {
            self.reading.exhausted();
        }
    }

    fn note(&self, events: EventFlags) {
        let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if events.intersects(ended) {
            self.has_ended.set(true);
        }
        if events.intersects(EventFlags::IN | ended) {
            self.reading.ready();
        }
        if events.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR)
            && !self.writing.is_ready()
        {
            self.writing.ready();
        }
    }
}

/// The epoll of one shard.
#[derive(Debug)]
pub(crate) struct Readiness {
    epoll: OwnedFd,
    known: RefCell<Vec<Option<Rc<Interest>>>>,
    free: RefCell<Vec<usize>>,
}

thread_local! {
    /// Of the executor with this id.
    static SHARD: RefCell<Option<(usize, Rc<Readiness>)>> = const { RefCell::new(None) };
}

impl Readiness {
    /// Of the executor that runs here; the first call starts its task.
    ///
    /// # Errors
    /// What `epoll_create1` says.
    pub(crate) fn of_shard() -> io::Result<Rc<Readiness>> {
        let id = glommio::executor().id();
        SHARD.with_borrow_mut(|shard| {
            if let Some((known, readiness)) = &*shard
                && *known == id
            {
                return Ok(Rc::clone(readiness));
            }
            let readiness = Rc::new(Readiness {
                epoll: epoll::create(CreateFlags::CLOEXEC)?,
                known: RefCell::default(),
                free: RefCell::default(),
            });
            glommio::spawn_local(watch(Rc::clone(&readiness))).detach();
            *shard = Some((id, Rc::clone(&readiness)));
            Ok(readiness)
        })
    }

    /// Registers a socket for its whole life.
    ///
    /// # Errors
    /// What `epoll_ctl` says: too many watches (`/proc/sys/fs/epoll/max_user_watches`).
    pub(crate) fn register(self: &Rc<Self>, socket: &impl AsFd) -> io::Result<Registration> {
        let interest = Rc::new(Interest::default());
        let place = self.free.borrow_mut().pop();
        let known = &mut *self.known.borrow_mut();
        let place = place.unwrap_or_else(|| {
            known.push(None);
            known.len() - 1
        });
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) =
            epoll::add(&self.epoll, socket, EventData::new_u64(place as u64), events)
        {
            self.free.borrow_mut().push(place);
            return Err(error.into());
        }
        known[place] = Some(Rc::clone(&interest));
        Ok(Registration { interest, place, readiness: Rc::clone(self) })
    }

    /// Fetches what there is, and wakes whom it concerns; how many sockets had something to say.
    fn fetch(&self, events: &mut Vec<epoll::Event>) -> usize {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        // It fails only if the epoll is none, or the room is.
        let n = epoll::wait(&self.epoll, spare_capacity(events), Some(&NOW)).unwrap_or(0);
        let known = self.known.borrow();
        for event in events.iter() {
            // A place that was given to another socket meanwhile is told too much: it looks once in vain.
            let place = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            if let Some(Some(interest)) = known.get(place) {
                interest.note(event.flags);
            }
        }
        n
    }
}

/// A socket's place; given back when the socket is closed, which ends the epoll's watch of it.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) interest: Rc<Interest>,
    place: usize,
    readiness: Rc<Readiness>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.readiness.known.borrow_mut()[self.place] = None;
        self.readiness.free.borrow_mut().push(self.place);
    }
}

/// Never ends.
async fn watch(readiness: Rc<Readiness>) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        for _ in 0..FETCHES_MAX {
            if readiness.fetch(&mut events) == 0 {
                break;
            }
            // Whom it concerns goes first; then there may be more.
            future::yield_now().await;
        }
        if readable(&readiness.epoll).await.is_err() {
            // No descriptor is free for a moment: the sockets wait no longer than for a timer.
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// Waits until `fd`, which may be no socket, can be read.
///
/// glommio has polls only for its streams. A stream polls as soon as it is made, and tries to read
/// only when that poll is over: then this is over, too.
async fn readable(fd: &impl AsFd) -> io::Result<()> {
    let mut stream = descriptor::tcp_stream(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
    let mut is_armed = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_armed, true) {
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut stream).poll_read(cx, &mut [0]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(Ok(())),
        }
    })
    .await
}
