//! A bounded cache of verdicts about credentials, keyed by a digest of the credential, each with an end.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256 of a credential (FIPS 180-4). Nobody can make two credentials with the same digest, so what is found under it
/// was decided about exactly this credential; and a dump of the cache holds no credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a credential as it was received.
    pub fn of(credential: &[u8]) -> Self {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(digest(&SHA256, credential).as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(***)")
    }
}

/// At most `entries_max` values, each until its own time. When it is full, what was not used since the hand last came by
/// makes room (the "clock" form of least recently used): no list to relink on a hit, no sweep.
#[derive(Debug)]
pub struct VerdictCache<V> {
    places: HashMap<Digest, usize>,
    slots: Vec<Slot<V>>,
    hand: usize,
    entries_max: usize,
}

#[derive(Debug)]
struct Slot<V> {
    digest: Digest,
    value: V,
    until: SystemTime,
    used: bool,
}

impl<V> VerdictCache<V> {
    /// An empty cache. Memory is taken as it fills. With 0 it keeps nothing.
    pub fn new(entries_max: usize) -> Self {
        Self { places: HashMap::new(), slots: Vec::new(), hand: 0, entries_max }
    }

    /// What is known about the credential, unless its time is over.
    pub fn get(&mut self, digest: &Digest, now: SystemTime) -> Option<&V> {
        let slot = self.slots.get_mut(*self.places.get(digest)?)?;
        if now >= slot.until {
            return None;
        }
        slot.used = true;
        Some(&slot.value)
    }

    /// Keeps `value` until just before `until`.
    pub fn insert(&mut self, digest: Digest, value: V, until: SystemTime, now: SystemTime) {
        if now >= until || self.entries_max == 0 {
            return;
        }
        let slot = Slot { digest, value, until, used: false };
        let place = match self.places.get(&digest) {
            Some(place) => *place,
            None if self.slots.len() < self.entries_max => {
                self.places.insert(digest, self.slots.len());
                self.slots.push(slot);
                return;
            }
            None => {
                let place = self.make_room(now);
                if let Some(old) = self.slots.get(place) {
                    self.places.remove(&old.digest);
                }
                self.places.insert(digest, place);
                place
            }
        };
        if let Some(old) = self.slots.get_mut(place) {
            *old = slot;
        }
    }

    /// The next place whose entry is over or was not used since the hand last came by.
    fn make_room(&mut self, now: SystemTime) -> usize {
        loop {
            let place = self.hand;
            self.hand = if place + 1 < self.slots.len() { place + 1 } else { 0 };
            match self.slots.get_mut(place) {
                // Comes by again after one round at the latest, and finds the mark gone.
                Some(slot) if slot.used && now < slot.until => slot.used = false,
                _ => return place,
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.places.clear();
        self.slots.clear();
        self.hand = 0;
    }

    /// Entries held, those whose time is over included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(number: u32) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    #[test]
    fn an_entry_ends_at_its_time() {
        let mut cache = VerdictCache::new(4);
        cache.insert(key(1), "a", at(10), at(0));
        assert_eq!(cache.get(&key(1), at(9)), Some(&"a"));
        assert_eq!(cache.get(&key(1), at(10)), None);
        cache.insert(key(1), "b", at(20), at(10));
        assert_eq!(cache.get(&key(1), at(10)), Some(&"b"));
        assert_eq!(cache.len(), 1);
        cache.insert(key(2), "over already", at(10), at(10));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_full_cache_keeps_what_is_used_and_its_bound() {
        let mut cache = VerdictCache::new(8);
        for number in 0..1_000 {
            cache.insert(key(number), number, at(10), at(0));
            assert_eq!(cache.get(&key(0), at(0)), Some(&0), "after {number}");
            assert!(cache.len() <= 8 && cache.places.len() == cache.len());
        }
        assert_eq!(cache.get(&key(999), at(0)), Some(&999));
        assert_eq!(cache.get(&key(500), at(0)), None);
    }

    #[test]
    fn entries_that_are_over_make_room_even_when_used() {
        let mut cache = VerdictCache::new(2);
        cache.insert(key(1), 1, at(5), at(0));
        cache.insert(key(2), 2, at(50), at(0));
        assert!(cache.get(&key(1), at(1)).is_some());
        cache.insert(key(3), 3, at(50), at(6));
        assert_eq!(cache.get(&key(2), at(6)), Some(&2));
        assert_eq!(cache.get(&key(3), at(6)), Some(&3));
    }

    #[test]
    fn it_can_hold_nothing_and_forget_everything() {
        let mut none = VerdictCache::new(0);
        none.insert(key(1), 1, at(5), at(0));
        assert!(none.is_empty());
        let mut cache = VerdictCache::new(2);
        cache.insert(key(1), 1, at(5), at(0));
        cache.clear();
        assert_eq!(cache.get(&key(1), at(0)), None);
        cache.insert(key(2), 2, at(5), at(0));
        assert_eq!(cache.get(&key(2), at(0)), Some(&2));
    }
}
