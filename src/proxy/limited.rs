//! Steps 5, 6 and 10 of section 5.1: the address filter, the buckets, and the quotas of open tunnels.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::limit::{Limits, Rate, Wait};
use crate::admission::paths::{MatchingPath, any_matches};
use crate::admission::policy::Policy;
use crate::admission::quota::{Place, Quotas};
use crate::admission::{address, filter};
use crate::clock;
use crate::config::Cidr;
use crate::refusal::{Limit, Refusal};
use crate::shared_store::{Store, StoreVerdict};

/// A decision of the shared store that takes longer has failed.
const STORE_TIME: Duration = Duration::from_millis(200);

/// What limits all cores together.
#[derive(Debug, Clone)]
pub struct SharedLimits {
    /// The buckets of this process.
    pub buckets: Arc<Limits>,
    /// The counts of open tunnels.
    pub quotas: Arc<Quotas>,
    /// Buckets that other processes share; `None` with `rate_limit.store: memory`.
    pub store: Option<Store>,
}

/// The places of one tunnel in the quotas; free again when dropped.
#[derive(Debug, Default)]
pub(crate) struct Places {
    ip: Option<Place<Cidr>>,
    user: Option<Place<Box<str>>>,
}

impl Places {
    /// Nothing when nothing is counted, so that a tunnel without quotas pays for none.
    pub(crate) fn boxed(self) -> Option<Box<Self>> {
        (self.ip.is_some() || self.user.is_some()).then(|| Box::new(self))
    }
}

impl SharedLimits {
    /// Limits of this process alone. `epoch` is any moment before the first request.
    pub fn alone(max_keys: u32, epoch: Instant) -> Self {
        Self {
            buckets: Arc::new(Limits::new(max_keys, epoch)),
            quotas: Arc::default(),
            store: None,
        }
    }

    /// Steps 5 and 6.
    pub(crate) async fn admit_address(
        &self,
        policy: &Policy,
        path: &MatchingPath<'_>,
        client: IpAddr,
        is_upgrade: bool,
        places: &mut Places,
    ) -> Result<(), Refusal> {
        let config = &policy.config;
        let ip_filter = &config.ip_filter;
        if ip_filter.enabled && !filter::is_permitted(ip_filter.mode, &ip_filter.addresses, client)
        {
            return Err(Refusal::IpFiltered);
        }
        let quota = config.tunnel_quota.per_ip.filter(|_| is_upgrade);
        let limited = is_limited(policy, path);
        if !limited && quota.is_none() {
            return Ok(());
        }
        let key = address::client_key(client, config.rate_limit.ipv6_prefix);
        if limited {
            let local = || self.buckets.take_ip(&key, &policy.ip_rate, clock::now());
            self.take(Limit::Ip, || key.to_string(), policy.ip_rate, local).await?;
        }
        if let Some(most) = quota {
            let place = self.quotas.enter_ip(&key, most);
            places.ip = Some(place.ok_or(Refusal::ConnectionLimited(Limit::Ip))?);
        }
        Ok(())
    }

    /// Step 10.
    pub(crate) async fn admit_user(
        &self,
        policy: &Policy,
        path: &MatchingPath<'_>,
        user: &str,
        is_upgrade: bool,
        places: &mut Places,
    ) -> Result<(), Refusal> {
        if is_limited(policy, path) {
            let local = || self.buckets.take_user(user, &policy.user_rate, clock::now());
            self.take(Limit::User, || user.to_owned(), policy.user_rate, local).await?;
        }
        if let Some(most) = policy.config.tunnel_quota.per_user.filter(|_| is_upgrade) {
            let place = self.quotas.enter_user(user, most);
            places.user = Some(place.ok_or(Refusal::ConnectionLimited(Limit::User))?);
        }
        Ok(())
    }

    /// Takes one token where the buckets are.
    async fn take(
        &self,
        limit: Limit,
        identifier: impl Fn() -> String,
        rate: Rate,
        local: impl Fn() -> Result<(), Wait>,
    ) -> Result<(), Refusal> {
        let taken = match &self.store {
            None => local(),
            Some(store) => {
                let verdict = store.take(limit, &identifier(), rate, clock::now());
                // The store keeps its own, shorter time; this one is for a control thread that hangs.
                let verdict = Box::pin(monoio::time::timeout(STORE_TIME, verdict)).await;
                match verdict.unwrap_or(StoreVerdict::Failed) {
                    StoreVerdict::Passed => Ok(()),
                    StoreVerdict::Refused(wait) => Err(wait),
                    StoreVerdict::Failed if store.falls_back() => local(),
                    StoreVerdict::Failed => Err(Wait::SHORT),
                }
            }
        };
        taken.map_err(|wait| Refusal::RateLimited { limit, retry_after_seconds: wait.seconds() })
    }
}

fn is_limited(policy: &Policy, path: &MatchingPath<'_>) -> bool {
    policy.config.rate_limit.enabled && !any_matches(&policy.exempt_paths, path)
}
