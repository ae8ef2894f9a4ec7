//! Rate limits: one bucket per client address and one per user, shared by all cores (contract sections 8.1 and 8.2).
//!
//! The kernel spreads one client's connections over all cores, so buckets per core would multiply every limit by the number
//! of cores. There is one table per kind of key for the process, and no lock in it that a connection could wait for.

mod rate;
mod table;

use std::time::Instant;

use crate::config::Cidr;

pub use rate::{Moment, Rate, Wait};
pub use table::Table;

/// The buckets of the process.
#[derive(Debug)]
pub struct Limits {
    epoch: Instant,
    /// By client address; keys as [`client_key`](super::address::client_key) makes them.
    pub ip: Table<Cidr>,
    /// By user.
    pub user: Table<Box<str>>,
}

impl Limits {
    /// Empty tables of `rate_limit.max_keys` each. `epoch` is any moment before the first request.
    pub fn new(max_keys: u32, epoch: Instant) -> Self {
        let max_keys = usize::try_from(max_keys).unwrap_or(usize::MAX);
        Self { epoch, ip: Table::new(max_keys), user: Table::new(max_keys) }
    }

    /// Takes one token of a client address.
    pub fn take_ip(&self, key: &Cidr, rate: &Rate, now: Instant) -> Result<(), Wait> {
        self.ip.take(key, |key| *key, rate, self.moment(now))
    }

    /// Takes one token of a user.
    pub fn take_user(&self, user: &str, rate: &Rate, now: Instant) -> Result<(), Wait> {
        self.user.take(user, |user| user.into(), rate, self.moment(now))
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment::after(now.saturating_duration_since(self.epoch))
    }
}

#[cfg(test)]
mod tests;
