//! Open tunnels and handshakes under way, per client address and per user (contract section 8.3).
//!
//! A count is one number in a concurrent map, changed by compare-and-swap. The last one to leave marks the count dead before he
//! removes it, so that nobody can enter through a count that is on its way out; who meets a dead one looks again.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ahash::RandomState;
use papaya::HashMap;

use super::keyed::{Entry, Keyed};
use crate::config::Cidr;

/// The count of a key that is being removed.
const DEAD: u32 = u32::MAX;

/// The most that can be counted.
const OPEN_MAX: u32 = DEAD - 1;

/// The quotas of the process.
#[derive(Debug, Default)]
pub struct Quotas {
    /// By client address; keys as [`client_key`](super::address::client_key) makes them.
    pub ip: Quota<Cidr>,
    /// By user.
    pub user: Quota<Box<str>>,
}

impl Quotas {
    /// A place for one more tunnel of this address, if fewer than `max` are open.
    pub fn enter_ip(&self, key: &Cidr, max: u32) -> Option<Place<Cidr>> {
        self.ip.enter(key, |key| *key, max)
    }

    /// A place for one more tunnel of this user, if fewer than `max` are open.
    pub fn enter_user(&self, user: &str, max: u32) -> Option<Place<Box<str>>> {
        self.user.enter(user, |user| user.into(), max)
    }
}

type Count<K> = Keyed<K, AtomicU32>;

type Counts<K> = HashMap<Entry<K, AtomicU32>, (), RandomState>;

/// The counts of one kind of key. A key that has nothing open has no entry.
pub struct Quota<K> {
    counts: Arc<Counts<K>>,
}

impl<K> fmt::Debug for Quota<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The keys are people.
        f.debug_struct("Quota").finish_non_exhaustive()
    }
}

impl<K> Default for Quota<K> {
    fn default() -> Self {
        Self { counts: Arc::new(HashMap::builder().hasher(RandomState::new()).build()) }
    }
}

impl<K: Hash + Eq> Quota<K> {
    /// Keys with something open.
    pub fn keys(&self) -> usize {
        self.counts.len()
    }

    fn enter<Q>(&self, key: &Q, owned: impl Fn(&Q) -> K, max: u32) -> Option<Place<K>>
    where
        Entry<K, AtomicU32>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if max == 0 {
            return None;
        }
        let guard = self.counts.guard();
        loop {
            let found = self.counts.get_key_value(key, &guard);
            let entered = found.map_or_else(
                || first_one(&self.counts, owned(key)),
                |(Entry(count), ())| one_more(count, max.min(OPEN_MAX)),
            );
            match entered {
                Entered::Yes(count) => {
                    return Some(Place { count, counts: Arc::clone(&self.counts) });
                }
                Entered::Full => return None,
                Entered::Gone => remove_dead(&self.counts, key),
            }
        }
    }
}

enum Entered<K> {
    Yes(Arc<Count<K>>),
    Full,
    /// The count was dead, or another one came in between.
    Gone,
}

fn first_one<K: Hash + Eq>(counts: &Counts<K>, key: K) -> Entered<K> {
    let first = Arc::new(Count { key, number: AtomicU32::new(1) });
    match counts.try_insert(Entry(Arc::clone(&first)), (), &counts.guard()) {
        Ok(&()) => Entered::Yes(first),
        Err(_) => Entered::Gone,
    }
}

fn one_more<K>(count: &Arc<Count<K>>, max: u32) -> Entered<K> {
    let more = |open: u32| (open < max).then(|| open + 1);
    // One location, and nothing else is handed over with it.
    match count.number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
        Ok(_) => Entered::Yes(Arc::clone(count)),
        Err(DEAD) => Entered::Gone,
        Err(_) => Entered::Full,
    }
}

fn remove_dead<K: Hash + Eq, Q>(counts: &Counts<K>, key: &Q)
where
    Entry<K, AtomicU32>: Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    let is_dead =
        |entry: &Entry<K, AtomicU32>, (): &()| entry.0.number.load(Ordering::Relaxed) == DEAD;
    // A count that is not dead is somebody else's.
    let _ = counts.remove_if(key, is_dead, &counts.guard());
}

/// One open tunnel. However it ends, dropping this gives the place back.
pub struct Place<K: Hash + Eq> {
    count: Arc<Count<K>>,
    counts: Arc<Counts<K>>,
}

impl<K: Hash + Eq> fmt::Debug for Place<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key may be a user.
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let one_less = |open: u32| Some(if open <= 1 { DEAD } else { open - 1 });
        let left = self.count.number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if left == Ok(1) {
            remove_dead(&self.counts, &self.count.key);
        }
    }
}

#[cfg(test)]
mod tests;
