//! Which sockets of a core are ready, and who waits for them: one edge-triggered epoll set per core (epoll(7)), for which the
//! runtime waits as for any other descriptor.
//!
//! A wait of the runtime's own is one operation per message: armed, completed and given back. A socket enters the set once,
//! at its first wait, and costs nothing more there; whatever became ready meanwhile is taken with one call. A wait for a
//! socket of which nothing was found used up since is over at once, so whoever goes on and on has to let others run.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use monoio::net::TcpStream;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use slab::Slab;

use super::seldom::Seldom;
use crate::clock;

/// Waits for the set that are over at once, after which those run who were woken. A wait for a ring never is.
const WAITS_IN_A_ROW: u8 = 16;

/// Events that are taken with one call.
const BATCH_EVENTS: usize = 256;

/// Stands in the event that says that tasks wait for their turn. No socket has this place.
const TURNS: u64 = u64::MAX;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The set of one core.
#[derive(Debug)]
pub(crate) struct Readiness {
    set: OwnedFd,
    sockets: RefCell<Slab<Waits>>,
    /// Tasks that have had their turn and wait for the next one.
    turns: RefCell<Vec<Waker>>,
    /// Makes the set ready when the first of them comes.
    turns_wanted: OwnedFd,
    full_warned: Seldom,
}

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

/// What is known of one socket.
#[derive(Debug, Default)]
struct Waits {
    reader: Option<Waker>,
    writer: Option<Waker>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Nothing was found used up since the kernel said that there is something.
    readable: bool,
    /// Likewise for room.
    writable: bool,
    /// There is more than bytes: the end, an error, or urgent data, at whose mark a read stops short (tcp(7)). No further
    /// event tells of it, so only `EAGAIN` says that everything is read.
    more_than_bytes: bool,
}

impl State {
    fn tell(&mut self, flags: EventFlags) {
        let more = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::PRI;
        self.more_than_bytes |= flags.intersects(more);
        self.readable |= flags.intersects(EventFlags::IN | more);
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    fn is_ready(self, interest: Interest) -> bool {
        match interest {
            Interest::Read => self.readable,
            Interest::Write => self.writable,
        }
    }

    fn used_up(&mut self, interest: Interest) {
        match interest {
            Interest::Read => (self.readable, self.more_than_bytes) = (false, false),
            Interest::Write => self.writable = false,
        }
    }

    fn read_short(&mut self) {
        self.readable &= self.more_than_bytes;
    }
}

impl Readiness {
    /// An empty set. The runtime that this is called on waits for it from now on.
    pub(crate) fn start() -> io::Result<Rc<Self>> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        // monoio has readiness for descriptors on this type alone; it makes no use of the socket being TCP.
        let waited = TcpStream::from_std(std::net::TcpStream::from(set.try_clone()?))?;
        let turns_wanted = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let event = EventData::new_u64(TURNS);
        epoll::add(&set, &turns_wanted, event, EventFlags::IN | EventFlags::ET)?;
        let (sockets, turns) = (RefCell::default(), RefCell::default());
        let full_warned = Seldom::default();
        let readiness = Rc::new(Self { set, sockets, turns, turns_wanted, full_warned });
        let batch = Batch {
            readiness: Rc::clone(&readiness),
            waited,
            events: Vec::with_capacity(BATCH_EVENTS),
        };
        batch.go_on();
        Ok(readiness)
    }

    /// Lets every other task that is ready now run before it returns.
    pub(crate) async fn let_others_run(&self) {
        let mut waited = false;
        poll_fn(|context| {
            if waited {
                return Poll::Ready(());
            }
            waited = true;
            let mut turns = self.turns.borrow_mut();
            turns.push(context.waker().clone());
            if turns.len() == 1 {
                // Every write is an event. The count, which nobody reads, is full after 2^64 of them.
                let _ = rustix::io::write(&self.turns_wanted, &1u64.to_ne_bytes());
            }
            Poll::Pending
        })
        .await;
    }

    fn warn_full(&self, error: Errno) {
        if self.full_warned.is_due(clock::now()) {
            tracing::warn!(
                %error,
                "connections end because they cannot be waited for; raise fs.epoll.max_user_watches"
            );
        }
    }

    /// For the end of the core: whoever waits for nothing but a socket ends, and what it holds is closed.
    pub(crate) fn forget_waiting(&self) {
        let wakers = |waits: &mut Waits| [waits.reader.take(), waits.writer.take()];
        let forgotten: Vec<_> =
            self.sockets.borrow_mut().iter_mut().map(|(_, waits)| wakers(waits)).collect();
        drop(forgotten);
    }

    fn tell(&self, event: &Event) {
        let place = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
        let mut sockets = self.sockets.borrow_mut();
        // An event for the place of a socket that has just been closed may meet its successor, which then finds nothing.
        let Some(waits) = sockets.get_mut(place) else { return };
        waits.state.tell(event.flags);
        let woken = [
            waits.reader.take_if(|_| waits.state.readable),
            waits.writer.take_if(|_| waits.state.writable),
        ];
        drop(sockets);
        woken.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Takes events again and again.
struct Batch {
    readiness: Rc<Readiness>,
    waited: TcpStream,
    events: Vec<Event>,
}

impl Batch {
    fn go_on(self) {
        monoio::spawn(self.run());
    }

    async fn run(mut self) {
        let mut waits_in_a_row = 0;
        loop {
            match self.wait().await {
                Ok(suspended) => waits_in_a_row = if suspended { 0 } else { waits_in_a_row + 1 },
                // With epoll monoio asks poll(2), which a signal interrupts even when it does not wait.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the sockets of a core cannot be waited for any more");
                    return;
                }
            }
            self.take();
            if waits_in_a_row == WAITS_IN_A_ROW {
                // A new task comes behind those that were woken. Not each time: timers wait until nobody is left to run.
                return self.go_on();
            }
        }
    }

    /// Waits for events; tells whether others could run meanwhile.
    async fn wait(&self) -> io::Result<bool> {
        let mut suspended = false;
        let mut ready = pin!(self.waited.readable(false));
        poll_fn(|context| {
            let ready = ready.as_mut().poll(context);
            suspended |= ready.is_pending();
            ready
        })
        .await?;
        Ok(suspended)
    }

    fn take(&mut self) {
        self.events.clear();
        let room = spare_capacity(&mut self.events);
        // Fails for no reason that could come true on a set of our own (epoll_wait(2)).
        let _ = epoll::wait(&self.readiness.set, room, Some(&AT_ONCE));
        let is_turn = |event: &&Event| event.data.u64() == TURNS;
        self.events.iter().filter(|event| !is_turn(event)).for_each(|it| self.readiness.tell(it));
        if self.events.iter().any(|event| is_turn(&event)) {
            let turns = self.readiness.turns.take();
            turns.into_iter().for_each(Waker::wake);
        }
    }
}

/// The place of one socket in the set of its core, empty until its first wait. The descriptor has to be closed before
/// this is dropped, which takes it out of the set (epoll(7)).
#[derive(Debug)]
pub(crate) struct Registration {
    readiness: Rc<Readiness>,
    /// Plus one.
    place: Cell<Option<NonZeroU32>>,
    /// Reading less than was asked for means that nothing is left (epoll(7)). Not so on a Unix socket: a read stops short
    /// where descriptors were passed (unix(7)).
    is_tcp: bool,
}

impl Registration {
    pub(crate) fn new(readiness: &Rc<Readiness>, is_tcp: bool) -> Self {
        Self { readiness: Rc::clone(readiness), place: Cell::default(), is_tcp }
    }

    /// Completes as soon as it is of use to try. May be dropped at any time. There is one who waits for each of the two.
    pub(crate) async fn wait(&self, fd: impl AsFd, interest: Interest) -> io::Result<()> {
        let place = match self.place() {
            Some(place) => place,
            None => self.enter(fd)?,
        };
        poll_fn(|context| self.poll(place, interest, context)).await;
        Ok(())
    }

    fn poll(&self, place: usize, interest: Interest, context: &Context<'_>) -> Poll<()> {
        let mut sockets = self.readiness.sockets.borrow_mut();
        let Some(waits) = sockets.get_mut(place) else { return Poll::Ready(()) };
        if waits.state.is_ready(interest) {
            return Poll::Ready(());
        }
        let waker = match interest {
            Interest::Read => &mut waits.reader,
            Interest::Write => &mut waits.writer,
        };
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            let before = waker.replace(context.waker().clone());
            // It may be all that holds a task, whose sockets leave the set with it.
            drop(sockets);
            drop(before);
        }
        Poll::Pending
    }

    /// Puts the socket into the set. What it is ready for already is its first event.
    fn enter(&self, fd: impl AsFd) -> io::Result<usize> {
        let mut sockets = self.readiness.sockets.borrow_mut();
        let vacant = sockets.vacant_entry();
        let place = vacant.key();
        let number = u32::try_from(place).ok().and_then(|place| NonZeroU32::MIN.checked_add(place));
        let number = number.ok_or(io::ErrorKind::OutOfMemory)?;
        let all = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI;
        let event = EventData::new_u64(place as u64);
        epoll::add(&self.readiness.set, fd, event, all | EventFlags::ET)
            .inspect_err(|error| self.readiness.warn_full(*error))?;
        vacant.insert(Waits::default());
        self.place.set(Some(number));
        Ok(place)
    }

    /// A call found nothing more to read, or no room: the next wait is for an event that is still to come.
    pub(crate) fn used_up(&self, interest: Interest) {
        self.change(|state| state.used_up(interest));
    }

    /// A call received less than it had room for.
    pub(crate) fn read_short(&self) {
        if self.is_tcp {
            self.change(State::read_short);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if let Some(place) = self.place()
            && let Some(waits) = self.readiness.sockets.borrow_mut().get_mut(place)
        {
            change(&mut waits.state);
        }
    }

    fn place(&self) -> Option<usize> {
        self.place.get().and_then(|number| usize::try_from(number.get() - 1).ok())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(place) = self.place() else { return };
        let removed = self.readiness.sockets.borrow_mut().try_remove(place);
        // As above: a waker may be all that holds a task.
        drop(removed);
    }
}

#[cfg(test)]
mod tests;
