//! Tunnels that end when their credential does (contract section 10.7, `websocket.close_on_expiry`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::SystemTime;

use super::tunnels::Tunnel;
use crate::metrics::CloseReason;

/// The tunnels of one core by the end of their credential. A tunnel that ended before is forgotten when its time comes.
#[derive(Default)]
pub(crate) struct Expiries {
    due: RefCell<BTreeMap<SystemTime, Vec<Weak<Tunnel>>>>,
}

impl Expiries {
    /// Ends `tunnel` at `at`, if it is still open.
    pub(crate) fn add(&self, tunnel: &Rc<Tunnel>, at: SystemTime) {
        self.due.borrow_mut().entry(at).or_default().push(Rc::downgrade(tunnel));
    }

    /// Orders every tunnel to end whose time has come.
    pub(crate) fn end_due(&self, now: SystemTime) {
        loop {
            let mut due = self.due.borrow_mut();
            let Some(first) = due.first_entry().filter(|first| *first.key() <= now) else {
                return;
            };
            let tunnels = first.remove();
            drop(due);
            for tunnel in tunnels.iter().filter_map(Weak::upgrade) {
                tunnel.order(CloseReason::Expired);
            }
        }
    }
}
