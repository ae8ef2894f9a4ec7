//! Idle upstream connections of one core, for plain requests. An upgrade never takes one and never leaves one.
//! A connection that said anything, or ended, while nobody asked is never used again.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::stream::Socket;
use super::upstream::Place;
use crate::admission::policy::{Addresses, Policy};

/// Idle connections that one core keeps.
const IDLE_MAX: usize = 256;

/// After this time an idle connection is closed. Applications often close theirs after five seconds, which is noticed; this
/// bounds the others.
const IDLE_TIME: Duration = Duration::from_mins(1);

/// How often connections that ended or are idle too long are looked for.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The idle connections; the one that was used last is used first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    upstream: Socket,
    place: Place,
    since: Instant,
}

impl Idle {
    /// Whether the upstream kept quiet and is there. Bytes that nobody asked for would answer the next request with
    /// something that was meant for another.
    fn is_quiet(&self) -> bool {
        self.upstream.try_recv(&mut [0]).is_err_and(|error| error == Errno::AGAIN)
    }
}

impl Pool {
    /// Takes a connection to one of `addresses` that is still usable.
    pub(crate) fn take(&self, addresses: &Addresses) -> Option<(Socket, Place)> {
        let mut all = self.idle.borrow_mut();
        while let Some(found) = all.iter().rposition(|idle| idle.place.is_of(addresses)) {
            let idle = all.remove(found);
            if idle.is_quiet() {
                return Some((idle.upstream, idle.place));
            }
        }
        None
    }

    /// Keeps a connection whose last answer is complete and was followed by nothing.
    pub(crate) fn put(&self, upstream: Socket, place: Place, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { upstream, place, since: now });
        }
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes what ended, what is idle too long, and what leads nowhere any more.
    pub(crate) fn sweep(&self, policy: &Policy, now: Instant) {
        self.idle.borrow_mut().retain(|idle| {
            now.saturating_duration_since(idle.since) < IDLE_TIME
                && policy.all_addresses().any(|addresses| idle.place.is_of(addresses))
                && idle.is_quiet()
        });
    }
}
