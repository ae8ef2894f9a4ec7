//! The script that takes one token, and its arguments.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind};

use crate::admission::limit::{Rate, Wait};
use crate::refusal::Limit;
use crate::shared_store::{Question, StoreVerdict};

/// Refills by the time since the last decision, caps at the burst, takes a token if a whole one is there. A clock that is behind
/// that of another proxy refills nothing and does not turn the bucket's time back. Returns whether a token was taken, and the
/// microseconds until the next one.
const TAKE: &str = r"
local rate, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'last_us')
local tokens, last = tonumber(held[1]), tonumber(held[2])
if not tokens or not last then tokens, last = burst, now end
if now > last then
  tokens = tokens + (now - last) * rate / 1000000
  last = now
end
if tokens > burst then tokens = burst end
local passed, wait = 0, 0
if tokens >= 1 then
  tokens = tokens - 1
  passed = 1
elseif rate > 0 then
  wait = math.min(math.ceil((1 - tokens) / rate * 1000000), 9000000000000000)
end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'last_us', last)
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {passed, wait}
";

/// Least seconds that an unused bucket is kept.
const TTL_SECONDS_MIN: f64 = 60.0;

/// Ten years, for buckets that never fill or hardly ever.
const TTL_SECONDS_MAX: f64 = 315_360_000.0;

/// The script and its name.
#[derive(Debug)]
pub(super) struct Script {
    sha1: String,
}

impl Script {
    pub(super) fn new() -> Self {
        Self { sha1: redis::Script::new(TAKE).get_hash().to_owned() }
    }

    /// Asks Redis; the script goes along when the server does not know it.
    pub(super) async fn call(
        &self,
        mut connection: MultiplexedConnection,
        key_prefix: &str,
        question: &Question,
        at: jiff::Timestamp,
    ) -> Result<StoreVerdict, RedisError> {
        let key = key(key_prefix, question.limit, &question.identifier);
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(1).arg(&key);
            add_arguments(&mut command, &question.rate, at);
            command
        };
        let known = command("EVALSHA", &self.sha1);
        let taken: (i64, i64) = match known.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                command("EVAL", TAKE).query_async(&mut connection).await?
            }
            taken => taken?,
        };
        Ok(match taken {
            (1, _) => StoreVerdict::Passed,
            _ if question.rate.requests_per_second() <= 0.0 => StoreVerdict::Refused(Wait::NEVER),
            (_, wait_us) => {
                let wait_us = u64::try_from(wait_us).unwrap_or_default();
                StoreVerdict::Refused(Wait::of_seconds(wait_us.div_ceil(1_000_000)))
            }
        })
    }
}

fn key(prefix: &str, limit: Limit, identifier: &str) -> String {
    let number = match limit {
        Limit::Ip => 1,
        Limit::User => 2,
    };
    format!("{prefix}:ratelimit:{number}:{identifier}")
}

fn add_arguments(command: &mut Cmd, rate: &Rate, at: jiff::Timestamp) {
    command
        .arg(rate.requests_per_second())
        .arg(rate.burst())
        .arg(at.as_microsecond())
        .arg(ttl_seconds(rate));
}

/// Twice the time in which the bucket fills, after which it is as good as none.
fn ttl_seconds(rate: &Rate) -> i64 {
    let fills = (f64::from(rate.burst()) / rate.requests_per_second()).ceil();
    // Rate 0 with a burst is infinite, which the upper end takes care of.
    #[expect(clippy::cast_possible_truncation, reason = "the number is between the two ends")]
    let seconds = (2.0 * fills).clamp(TTL_SECONDS_MIN, TTL_SECONDS_MAX) as i64;
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_shape_of_the_contract() {
        assert_eq!(key("vibewarden", Limit::Ip, "192.0.2.7"), "vibewarden:ratelimit:1:192.0.2.7");
        assert_eq!(key("p", Limit::Ip, "2001:db8::/64"), "p:ratelimit:1:2001:db8::/64");
        assert_eq!(key("p", Limit::User, "a:b"), "p:ratelimit:2:a:b");
    }

    #[test]
    fn a_bucket_is_kept_for_twice_the_time_in_which_it_fills() {
        for (per_second, burst, seconds) in [
            (10.0, 20, 60),
            (1.0, 31, 62),
            (0.3, 10, 68),
            (0.001, 20, 40_000),
            (0.0, 5, 315_360_000),
            (1e-9, 1_000_000_000, 315_360_000),
            (1e300, 1, 60),
        ] {
            assert_eq!(
                ttl_seconds(&Rate::new(per_second, burst)),
                seconds,
                "{burst} at {per_second}"
            );
        }
    }
}
