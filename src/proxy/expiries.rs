//! Tunnels that end when their credential does (contract section 10.7, `websocket.close_on_expiry`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::SystemTime;

use super::core::Core;
use super::tunnels::Tunnel;
use crate::metrics::CloseReason;

/// The end of a credential, and a number that tells tunnels with the same one apart.
type Key = (SystemTime, u64);

/// The open tunnels of one core by the end of their credential.
#[derive(Default)]
pub(crate) struct Expiries {
    due: RefCell<BTreeMap<Key, Weak<Tunnel>>>,
    next: Cell<u64>,
}

/// A place in the list; given up when dropped, so that the list is never longer than there are tunnels.
pub(crate) struct Expiring {
    core: Rc<Core>,
    key: Key,
}

impl Expiring {
    /// Ends `tunnel` at `at`, if it is still open and this is still there.
    pub(crate) fn add(core: &Rc<Core>, tunnel: &Rc<Tunnel>, at: SystemTime) -> Self {
        let expiries = &core.expiries;
        let number = expiries.next.get();
        expiries.next.set(number.wrapping_add(1));
        let key = (at, number);
        expiries.due.borrow_mut().insert(key, Rc::downgrade(tunnel));
        Self { core: Rc::clone(core), key }
    }
}

impl Drop for Expiring {
    fn drop(&mut self) {
        self.core.expiries.due.borrow_mut().remove(&self.key);
    }
}

impl Expiries {
    /// Orders every tunnel to end whose time has come.
    pub(crate) fn end_due(&self, now: SystemTime) {
        loop {
            let mut due = self.due.borrow_mut();
            let Some(first) = due.first_entry().filter(|first| first.key().0 <= now) else {
                return;
            };
            let tunnel = first.remove();
            drop(due);
            if let Some(tunnel) = tunnel.upgrade() {
                tunnel.order(CloseReason::Expired);
            }
        }
    }
}

#[cfg(test)]
mod tests;
