//! Entries of the concurrent maps: a key and the number that belongs to it, shared by the map and by those who use the number.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A key and its number. The number changes, the key never does.
#[derive(Debug)]
pub(super) struct Keyed<K, N> {
    pub(super) key: K,
    pub(super) number: N,
}

/// One entry as a map holds it, found by its key alone.
#[derive(Debug)]
pub(super) struct Entry<K, N>(pub(super) Arc<Keyed<K, N>>);

impl<K: Hash, N> Hash for Entry<K, N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl<K: PartialEq, N> PartialEq for Entry<K, N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl<K: Eq, N> Eq for Entry<K, N> {}

impl<K, N> Borrow<K> for Entry<K, N> {
    fn borrow(&self) -> &K {
        &self.0.key
    }
}

impl<N> Borrow<str> for Entry<Box<str>, N> {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}
