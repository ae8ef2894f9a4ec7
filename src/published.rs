//! One writer, many cores: immutable snapshots that readers take without a lock.
//! Nothing here knows what is published. The control thread writes; every core holds one [`Reader`] per snapshot.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

/// The writer's side. A new value replaces the old one as a whole; readers that still use the old one keep it alive.
#[derive(Debug)]
pub struct Published<T> {
    current: Arc<ArcSwap<T>>,
}

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Self { current: Arc::clone(&self.current) }
    }
}

/// One reader's side: remembers the last snapshot it saw, so that an unchanged one costs a single load.
pub struct Reader<T> {
    cache: Cache<Arc<ArcSwap<T>>, Arc<T>>,
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(first: T) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(first)) }
    }

    /// Replaces the value for everybody who asks from now on.
    pub fn publish(&self, next: T) {
        self.current.store(Arc::new(next));
    }

    /// The current value, for the writer itself.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// A reader for another thread.
    pub fn reader(&self) -> Reader<T> {
        Reader { cache: Cache::new(Arc::clone(&self.current)) }
    }
}

impl<T> Reader<T> {
    /// The current snapshot. Holding it never delays a writer.
    pub fn load(&mut self) -> Arc<T> {
        Arc::clone(self.cache.load())
    }
}
