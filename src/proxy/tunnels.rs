//! The open tunnels of one core: what the drain closes one after the other, and what liveness looks at.
//!
//! `TCP_USER_TIMEOUT` also strikes a living peer that keeps its window closed for that long (Linux counts window probes
//! even when they are answered). A reader that pauses must never be cut, so while bytes stay queued towards a peer that
//! still acknowledges, its user timeout is moved ahead; a peer that acknowledges nothing any more is given up here.
//!
//! A relay waits for what a side sends only while it can take it. The failure of a side that has ended its direction, or
//! whose bytes wait, is seen by nobody else than a visit, which there is for this also with liveness switched off.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::stream::{Fault, Socket, clear_liveness, set_liveness, set_user_timeout};
use crate::metrics::CloseReason;
use crate::sys::{self, Acknowledgement};

/// How often liveness visits a tunnel: this many times within `server.dead_peer_after`. Two visits decide, so that a
/// dead peer is found within the time plus a fifth.
const VISITS: u32 = 10;

/// A round of visits takes at most this long, however long `server.dead_peer_after` is, and when it is off.
const ROUND_MAX: Duration = Duration::from_secs(6);

/// The list is visited in this many shares per round, so that a long list never holds the core up.
const VISIT_SHARES: u32 = 16;

/// Time between two shares.
pub(crate) fn share_interval(dead_after: Option<Duration>) -> Duration {
    dead_after.map_or(ROUND_MAX, |after| (after / VISITS).min(ROUND_MAX)) / VISIT_SHARES
}

/// The two connections of a tunnel and what others may tell it.
pub(crate) struct Tunnel {
    /// Towards the client.
    pub(crate) client: Socket,
    /// Towards the application.
    pub(crate) upstream: Socket,
    client_queue: Cell<Queue>,
    upstream_queue: Cell<Queue>,
    /// A Unix-socket upstream has no liveness.
    upstream_is_tcp: bool,
    /// The `server.dead_peer_after` that its sockets have, in milliseconds, plus one; 0 is off, `None` is not known.
    liveness: Cell<Option<NonZeroU32>>,
    order: Cell<Option<CloseReason>>,
    waker: Cell<Option<Waker>>,
    waiting: Cell<Option<Box<Waiting>>>,
    /// Its place in the list of the core.
    place: Cell<usize>,
}

/// Bytes that came before the relay began and that their receiver did not take yet. They go first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) to_upstream: Box<[u8]>,
    pub(crate) to_client: Box<[u8]>,
}

/// The send queue of one leg as liveness saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Queue {
    /// Nothing was sent since it was last seen empty.
    #[default]
    Idle,
    /// Something was sent since the last visit.
    Sent,
    /// Not empty since then.
    Waiting {
        /// Not later than it really began: a round before it was first seen.
        since: Moment,
        /// When a visit first found that no acknowledgement had come for the whole time.
        silent_since: Option<Moment>,
    },
}

/// Tenths of a second since a round before the first visit, plus one: small, because every tunnel has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment(NonZeroU32);

impl Moment {
    fn after(uptime: Duration) -> Self {
        let tenths = u32::try_from((uptime + ROUND_MAX).as_millis() / 100).unwrap_or(u32::MAX);
        Self(NonZeroU32::MIN.saturating_add(tenths))
    }

    fn a_round_before(self) -> Self {
        let round = u32::try_from(ROUND_MAX.as_millis() / 100).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(self.0.get().saturating_sub(round)).unwrap_or(NonZeroU32::MIN))
    }

    fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(100) * self.0.get().saturating_sub(earlier.0.get())
    }
}

/// What liveness does about a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Nothing,
    SetUserTimeout(Duration),
    Dead,
}

/// The decision for one leg, from what the kernel says about it. `queued` is whether bytes wait for their acknowledgement.
/// With liveness off the queue is followed all the same, so that a reader that pauses is known when it is switched on.
fn judge(
    queue: Queue,
    queued: bool,
    ack: Acknowledgement,
    now: Moment,
    dead_after: Option<Duration>,
) -> (Queue, Verdict) {
    let since = match queue {
        Queue::Idle | Queue::Sent if !queued => return (Queue::Idle, Verdict::Nothing),
        Queue::Waiting { .. } if !queued => {
            return (Queue::Idle, dead_after.map_or(Verdict::Nothing, Verdict::SetUserTimeout));
        }
        Queue::Idle | Queue::Sent => now.a_round_before(),
        Queue::Waiting { since, .. } => since,
    };
    let silent = |dead_after: &Duration| {
        ack.outstanding && u128::from(ack.last_ack_ms) >= dead_after.as_millis()
    };
    let Some(silent_for) = dead_after.filter(silent) else {
        let ahead = dead_after.map(|after| now.since(since) + after);
        let queue = Queue::Waiting { since, silent_since: None };
        return (queue, ahead.map_or(Verdict::Nothing, Verdict::SetUserTimeout));
    };
    let silent_since = match queue {
        Queue::Waiting { silent_since: Some(before), .. } => before,
        _ => now,
    };
    // An answer to a probe that had just left must have had the time to come.
    let dead = now.since(silent_since) >= silent_for / (2 * VISITS);
    let queue = Queue::Waiting { since, silent_since: Some(silent_since) };
    (queue, if dead { Verdict::Dead } else { Verdict::Nothing })
}

impl Tunnel {
    pub(crate) fn new(
        client: Socket,
        upstream: Socket,
        upstream_is_tcp: bool,
        waiting: Option<Box<Waiting>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            client,
            upstream,
            // The 101 was just sent to one side and the head to the other.
            client_queue: Cell::new(Queue::Sent),
            upstream_queue: Cell::new(Queue::Sent),
            upstream_is_tcp,
            liveness: Cell::new(None),
            order: Cell::new(None),
            waker: Cell::new(None),
            waiting: Cell::new(waiting),
            place: Cell::new(0),
        })
    }

    /// Takes what has to go to one side before everything else.
    pub(crate) fn take_waiting(&self, to_client: bool) -> Box<[u8]> {
        let Some(mut waiting) = self.waiting.take() else {
            return Box::default();
        };
        let side = if to_client { &mut waiting.to_client } else { &mut waiting.to_upstream };
        let bytes = std::mem::take(side);
        if !waiting.to_client.is_empty() || !waiting.to_upstream.is_empty() {
            self.waiting.set(Some(waiting));
        }
        bytes
    }

    /// Orders the relay to end. A later, more urgent order replaces an earlier one; none is less urgent than the drain's.
    pub(crate) fn order(&self, reason: CloseReason) {
        if reason != CloseReason::Drained || self.order.get().is_none() {
            self.order.set(Some(reason));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The order to end, if there is one.
    pub(crate) fn ordered_to_end(&self) -> Option<CloseReason> {
        self.order.get()
    }

    /// Who is to be woken by an order.
    pub(crate) fn watch(&self, waker: &Waker) {
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// Notes that bytes went to one side.
    pub(crate) fn sent(&self, to_client: bool) {
        let queue = if to_client { &self.client_queue } else { &self.upstream_queue };
        if queue.get() == Queue::Idle {
            queue.set(Queue::Sent);
        }
    }

    /// One visit of liveness. The first one switches it on – early enough, as the kernel counts from the last sign of the
    /// peer – so that short tunnels never pay for it; a later one when `server.dead_peer_after` has changed. The client's
    /// leg has it from the listener already, but perhaps with the value from before a reload.
    fn visit(&self, now: Moment, dead_after: Option<Duration>) {
        self.look_for_failures();
        let milliseconds = dead_after.map_or(0, |after| after.as_millis());
        let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
        let wanted = Some(NonZeroU32::MIN.saturating_add(milliseconds));
        let changed = self.liveness.replace(wanted) != wanted;
        let legs = [
            (&self.client, &self.client_queue, true),
            (&self.upstream, &self.upstream_queue, self.upstream_is_tcp),
        ];
        for (socket, queue, _) in legs.into_iter().filter(|(_, _, is_tcp)| *is_tcp) {
            if changed {
                // Fails only on a socket that is about to end by itself.
                let _ = match dead_after {
                    Some(after) => set_liveness(socket.fd(), after),
                    None => clear_liveness(socket.fd()),
                };
            }
            if queue.get() == Queue::Idle {
                continue;
            }
            // A socket that no longer answers is about to end by itself.
            let (Ok(queued), Ok(ack)) =
                (sys::send_queue_bytes(socket.fd()), sys::acknowledgement(socket.fd()))
            else {
                continue;
            };
            let (next, verdict) = judge(queue.get(), queued > 0, ack, now, dead_after);
            queue.set(next);
            match verdict {
                Verdict::Nothing => {}
                Verdict::SetUserTimeout(time) => {
                    let _ = set_user_timeout(socket.fd(), time);
                }
                Verdict::Dead => self.fail(CloseReason::DeadPeer),
            }
        }
    }

    /// The relay would find a failure by itself only where it waits for input or for room. Both directions having ended in
    /// order is none, even while bytes wait.
    fn look_for_failures(&self) {
        let [client, upstream] = Socket::take_failures([&self.client, &self.upstream]);
        let failure = client
            .map(|fault| (fault, CloseReason::ClientReset))
            .or_else(|| upstream.map(|fault| (fault, CloseReason::UpstreamReset)));
        match failure {
            None => {}
            Some((Fault::Reset, reset)) => self.fail(reset),
            Some((Fault::Dead, _)) => self.fail(CloseReason::DeadPeer),
            Some((Fault::Other, _)) => self.fail(CloseReason::ConnectionError),
        }
    }

    /// Ends both sides, as the failure of one does.
    fn fail(&self, reason: CloseReason) {
        self.client.reset_on_close();
        self.upstream.reset_on_close();
        self.order(reason);
    }
}

/// The list of one core.
#[derive(Default)]
pub(crate) struct Tunnels {
    open: RefCell<Vec<Rc<Tunnel>>>,
    share: Cell<usize>,
    /// The first visit.
    epoch: Cell<Option<Instant>>,
}

impl Tunnels {
    /// Lists the tunnel until the result is dropped.
    pub(crate) fn add<'t>(&'t self, tunnel: &'t Rc<Tunnel>) -> Listed<'t> {
        let mut open = self.open.borrow_mut();
        tunnel.place.set(open.len());
        open.push(Rc::clone(tunnel));
        Listed { tunnels: self, tunnel }
    }

    fn remove(&self, tunnel: &Tunnel) {
        let mut open = self.open.borrow_mut();
        let place = tunnel.place.get();
        if place < open.len() {
            open.swap_remove(place);
            if let Some(moved) = open.get(place) {
                moved.place.set(place);
            }
        }
    }

    /// All tunnels that are open now; one that ends meanwhile is not kept open.
    pub(crate) fn snapshot(&self) -> Vec<Weak<Tunnel>> {
        self.open.borrow().iter().map(Rc::downgrade).collect()
    }

    /// Orders every tunnel that is open now to end.
    pub(crate) fn order_all(&self, reason: CloseReason) {
        self.open.borrow().iter().for_each(|tunnel| tunnel.order(reason));
    }

    /// Visits one share of the list: called `VISIT_SHARES` times it has visited every tunnel once.
    pub(crate) fn visit_share(&self, now: Instant, dead_after: Option<Duration>) {
        let share = self.share.get();
        self.share.set((share + 1) % VISIT_SHARES as usize);
        let epoch = self.epoch.get().unwrap_or(now);
        self.epoch.set(Some(epoch));
        let now = Moment::after(now.saturating_duration_since(epoch));
        let open = self.open.borrow();
        let due = open.iter().skip(share).step_by(VISIT_SHARES as usize);
        due.for_each(|tunnel| tunnel.visit(now, dead_after));
    }
}

/// The place of a tunnel in the list, however its relay ends.
pub(crate) struct Listed<'t> {
    tunnels: &'t Tunnels,
    tunnel: &'t Tunnel,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.tunnels.remove(self.tunnel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_mins(1);
    const ANSWERED: Acknowledgement = Acknowledgement { outstanding: false, last_ack_ms: 50_000 };
    const UNANSWERED: Acknowledgement = Acknowledgement { outstanding: true, last_ack_ms: 60_000 };

    fn at(time: Duration) -> Moment {
        Moment::after(time)
    }

    fn waiting(since: Moment, silent_since: Option<Moment>) -> Queue {
        Queue::Waiting { since, silent_since }
    }

    #[test]
    fn a_tunnel_is_small() {
        // With the counts of its Rc it fits the size class of 256 bytes.
        assert!(size_of::<Tunnel>() <= 240, "{}", size_of::<Tunnel>());
    }

    #[test]
    fn a_reader_that_pauses_but_acknowledges_is_kept_for_ever() {
        let mut queue = Queue::Sent;
        for visit in 0..10_000u32 {
            let time = visit * AFTER / VISITS;
            let (next, verdict) = judge(queue, true, ANSWERED, at(time), Some(AFTER));
            queue = next;
            // Always a whole period ahead of what the kernel can have counted so far.
            assert_eq!(verdict, Verdict::SetUserTimeout(ROUND_MAX + time + AFTER), "{visit}");
        }
    }

    #[test]
    fn two_visits_without_an_acknowledgement_end_it_and_one_does_not() {
        let now = at(AFTER);
        let later = at(AFTER + AFTER / VISITS);
        let (queue, verdict) = judge(waiting(now, None), true, UNANSWERED, now, Some(AFTER));
        assert_eq!((queue, verdict), (waiting(now, Some(now)), Verdict::Nothing));
        assert_eq!(judge(queue, true, UNANSWERED, now, Some(AFTER)).1, Verdict::Nothing);
        assert_eq!(judge(queue, true, UNANSWERED, later, Some(AFTER)).1, Verdict::Dead);
        // An acknowledgement in between clears the suspicion.
        assert_eq!(judge(queue, true, ANSWERED, later, Some(AFTER)).0, waiting(now, None));
    }

    #[test]
    fn an_empty_queue_gets_the_ordinary_timeout_back() {
        let now = at(AFTER);
        let (queue, verdict) = judge(waiting(now, Some(now)), false, UNANSWERED, now, Some(AFTER));
        assert_eq!((queue, verdict), (Queue::Idle, Verdict::SetUserTimeout(AFTER)));
        let (queue, verdict) = judge(Queue::Sent, false, UNANSWERED, now, Some(AFTER));
        assert_eq!((queue, verdict), (Queue::Idle, Verdict::Nothing));
    }

    #[test]
    fn with_liveness_off_a_pause_is_followed_and_nobody_is_dead() {
        let (begun, now) = (at(Duration::ZERO), at(10 * AFTER));
        let (queue, verdict) = judge(Queue::Sent, true, UNANSWERED, begun, None);
        assert_eq!((queue, verdict), (waiting(begun.a_round_before(), None), Verdict::Nothing));
        assert_eq!(judge(queue, true, UNANSWERED, now, None), (queue, Verdict::Nothing));
        // Switched on, it is not held against the reader for how long it has paused.
        let ahead = ROUND_MAX + 10 * AFTER + AFTER;
        assert_eq!(
            judge(queue, true, ANSWERED, now, Some(AFTER)).1,
            Verdict::SetUserTimeout(ahead)
        );
        assert_eq!(judge(queue, false, UNANSWERED, now, None), (Queue::Idle, Verdict::Nothing));
    }

    #[test]
    fn rounds_are_never_longer_than_their_bound() {
        let round = |after| share_interval(after) * VISIT_SHARES;
        assert_eq!(round(Some(Duration::from_secs(5))), Duration::from_millis(500));
        assert_eq!(round(Some(Duration::from_hours(24))), ROUND_MAX);
        assert_eq!(round(None), ROUND_MAX);
    }
}
