//! The buckets of all keys: a concurrent map, a bound, and what happens at the bound.
//!
//! Who comes finds his bucket in the map and changes it by compare-and-swap; nothing else is shared. Every bucket also has a
//! place in a ring of `max_keys` places. When all places are taken, a newcomer walks a few places on and takes the first whose
//! bucket is full again, so the work of forgetting is spread over those who need it and nobody pauses for it. A bucket that is
//! to be forgotten is marked dead first, by compare-and-swap, so it cannot be forgotten and used at once; who meets a dead one
//! looks again. The same mark decides who owns the place.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use papaya::{Guard, HashMap};

use super::super::keyed::{Entry, Keyed};
use super::rate::{Moment, Rate, Standing, Verdict, Wait};

/// The state of a bucket that is being forgotten; no rate has it.
const DEAD: u64 = u64::MAX;

/// Buckets for newcomers without a place, chosen by the hash of the key.
const OVERFLOW_SHARDS: usize = 64;

/// Places that a newcomer looks at. More finds a free one sooner, and costs a cache line each.
const PLACES_PER_NEWCOMER: usize = 32;

/// Places that are allocated together.
const SEGMENT_PLACES: usize = 1024;

/// The moment at which the bucket of a key is full again (see `rate`), or [`DEAD`]. One location that is only ever changed by
/// compare-and-swap, so its own order is all that counts and `Relaxed` is enough.
type Bucket<K> = Keyed<K, AtomicU64>;

type Place<K> = ArcSwapOption<Bucket<K>>;
type Segment<K> = Box<[Place<K>]>;

/// The buckets of one kind of key.
pub struct Table<K> {
    map: HashMap<Entry<K, AtomicU64>, (), RandomState>,
    hasher: RandomState,
    /// The ring, in segments that come into being when they are first needed.
    places: Box<[OnceLock<Segment<K>>]>,
    max_keys: usize,
    /// Places that were given out; beyond `max_keys` they are taken from others.
    given: AtomicUsize,
    /// Where the next newcomer looks.
    hand: AtomicUsize,
    overflow: [AtomicU64; OVERFLOW_SHARDS],
    overflow_total: AtomicU64,
}

impl<K> fmt::Debug for Table<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The keys are people.
        f.debug_struct("Table").field("max_keys", &self.max_keys).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq> Table<K> {
    /// An empty table. `max_keys` is at least 1.
    pub fn new(max_keys: usize) -> Self {
        let (max_keys, hasher) = (max_keys.max(1), RandomState::new());
        Self {
            map: HashMap::builder().hasher(hasher.clone()).build(),
            hasher,
            places: (0..max_keys.div_ceil(SEGMENT_PLACES)).map(|_| OnceLock::new()).collect(),
            max_keys,
            given: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            overflow: [const { AtomicU64::new(0) }; OVERFLOW_SHARDS],
            overflow_total: AtomicU64::new(0),
        }
    }

    /// Keys that are held, for `vibewarden_rate_limit_keys`.
    pub fn keys(&self) -> u64 {
        self.map.len() as u64
    }

    /// Decisions by an overflow bucket, for `vibewarden_rate_limit_overflow_total`.
    pub fn overflow_total(&self) -> u64 {
        self.overflow_total.load(Ordering::Relaxed)
    }

    /// Places that take memory.
    #[cfg(test)]
    pub(super) fn places_allocated(&self) -> usize {
        self.places.iter().filter_map(OnceLock::get).map(|places| places.len()).sum()
    }

    /// Takes a token from the bucket of `key`, which `owned` makes a key to keep.
    pub(super) fn take<Q>(
        &self,
        key: &Q,
        owned: impl Fn(&Q) -> K,
        rate: &Rate,
        now: Moment,
    ) -> Result<(), Wait>
    where
        Entry<K, AtomicU64>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if rate.burst() == 0 {
            return Err(Wait::NEVER);
        }
        let guard = self.map.guard();
        loop {
            let taken = match self.map.get_key_value(key, &guard) {
                Some((Entry(bucket), ())) => take_from(&bucket.number, rate, now),
                None => self.newcomer(key, &owned, rate, now, &guard),
            };
            match taken {
                Some(verdict) => return verdict,
                // Whoever marked it removes it too; doing it here as well means that nobody waits for him.
                None => self.remove_dead(key, &guard),
            }
        }
    }

    /// `None` when somebody else came in between.
    fn newcomer<Q>(
        &self,
        key: &Q,
        owned: &impl Fn(&Q) -> K,
        rate: &Rate,
        now: Moment,
        guard: &impl Guard,
    ) -> Option<Result<(), Wait>>
    where
        Entry<K, AtomicU64>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.overflow_of(key)?;
        // A key that was served by the overflow bucket must not get a full one of its own on top: it begins where that is.
        let Verdict::Passed(state) = rate.take(shard.load(Ordering::Relaxed), now) else {
            return self.take_overflow(shard, rate, now);
        };
        let bucket = Arc::new(Bucket { key: owned(key), number: AtomicU64::new(state) });
        let Some(place) = self.settle(&bucket, rate, now, guard) else {
            return self.take_overflow(shard, rate, now);
        };
        if self.map.try_insert(Entry(Arc::clone(&bucket)), (), guard).is_err() {
            // Another request of the same key was faster. The place is free again, unless it is taken already.
            if kill(&bucket, bucket.number.load(Ordering::Relaxed)) {
                place.store(None);
            }
            return None;
        }
        // It had a place before it was in the map. Who forgot it in between did not find it there to remove.
        fence(Ordering::SeqCst);
        if bucket.number.load(Ordering::Relaxed) == DEAD {
            self.remove_dead(key, guard);
        }
        Some(Ok(()))
    }

    fn take_overflow(
        &self,
        shard: &AtomicU64,
        rate: &Rate,
        now: Moment,
    ) -> Option<Result<(), Wait>> {
        self.overflow_total.fetch_add(1, Ordering::Relaxed);
        take_from(shard, rate, now)
    }

    /// Finds a place for the bucket and puts it there.
    fn settle(
        &self,
        bucket: &Arc<Bucket<K>>,
        rate: &Rate,
        now: Moment,
        guard: &impl Guard,
    ) -> Option<&Place<K>> {
        if self.given.load(Ordering::Relaxed) < self.max_keys {
            let number = self.given.fetch_add(1, Ordering::Relaxed);
            let place = self.place(number).filter(|_| number < self.max_keys);
            if let Some(place) = place.filter(|place| put_into_empty(place, bucket)) {
                return Some(place);
            }
        }
        for _ in 0..PLACES_PER_NEWCOMER.min(self.max_keys) {
            let number = self.hand.fetch_add(1, Ordering::Relaxed) % self.max_keys;
            let place = self.place(number)?;
            let held = place.load();
            match &*held {
                None if put_into_empty(place, bucket) => return Some(place),
                Some(old) if self.forget(old, rate, now, guard) => {
                    place.store(Some(Arc::clone(bucket)));
                    return Some(place);
                }
                _ => {}
            }
        }
        None
    }

    /// True when the bucket was full again and is forgotten now; its place belongs to the caller.
    fn forget(&self, bucket: &Bucket<K>, rate: &Rate, now: Moment, guard: &impl Guard) -> bool {
        let state = bucket.number.load(Ordering::Relaxed);
        if state == DEAD {
            return false;
        }
        match rate.standing(state, now) {
            Standing::Full if kill(bucket, state) => {
                fence(Ordering::SeqCst);
                self.remove_dead(&bucket.key, guard);
                true
            }
            Standing::Beyond(empty) => {
                // Losing against a request is as good.
                let _ = bucket.number.compare_exchange(
                    state,
                    empty,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                false
            }
            _ => false,
        }
    }

    fn remove_dead<Q>(&self, key: &Q, guard: &impl Guard)
    where
        Entry<K, AtomicU64>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // A bucket that is not dead stays, and is none of our business.
        let _ = self.map.remove_if(
            key,
            |entry, ()| entry.0.number.load(Ordering::Relaxed) == DEAD,
            guard,
        );
    }

    fn place(&self, number: usize) -> Option<&Place<K>> {
        let segment = self.places.get(number / SEGMENT_PLACES)?;
        let places =
            segment.get_or_init(|| (0..SEGMENT_PLACES).map(|_| ArcSwapOption::empty()).collect());
        places.get(number % SEGMENT_PLACES)
    }

    fn overflow_of<Q: Hash + ?Sized>(&self, key: &Q) -> Option<&AtomicU64> {
        let hash = self.hasher.hash_one(key);
        // The upper bits: the map uses the others.
        self.overflow.get(usize::try_from(hash >> 58).ok()?)
    }
}

/// Marks the bucket dead if it is still in `state`; true for the one caller whose mark it is.
fn kill<K>(bucket: &Bucket<K>, state: u64) -> bool {
    state != DEAD
        && bucket.number.compare_exchange(state, DEAD, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// True for the one caller who filled it.
fn put_into_empty<K>(place: &Place<K>, bucket: &Arc<Bucket<K>>) -> bool {
    let empty: Option<Arc<Bucket<K>>> = None;
    place.compare_and_swap(&empty, Some(Arc::clone(bucket))).is_none()
}

/// Takes a token; `None` when the bucket is dead.
fn take_from(bucket: &AtomicU64, rate: &Rate, now: Moment) -> Option<Result<(), Wait>> {
    let mut state = bucket.load(Ordering::Relaxed);
    loop {
        if state == DEAD {
            return None;
        }
        let (next, verdict) = match rate.take(state, now) {
            Verdict::Passed(next) => (next, Ok(())),
            Verdict::Refused { wait, settled: Some(next) } => (next, Err(wait)),
            Verdict::Refused { wait, settled: None } => return Some(Err(wait)),
        };
        match bucket.compare_exchange_weak(state, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(verdict),
            Err(current) => state = current,
        }
    }
}
