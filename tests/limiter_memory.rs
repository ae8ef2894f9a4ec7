//! The memory of the rate limiter at its bound: strangers without end, on several threads, and no more of it.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vibewarden::admission::address::client_key;
use vibewarden::admission::limit::{Limits, Rate};

/// The default of `rate_limit.max_keys`.
const MAX_KEYS: u32 = 262_144;

/// What a key may take: its bucket with the key, its places in map and ring, the dead that are not given back yet, and the holes
/// of the allocator. After ten million strangers it was 350.
const BYTES_PER_KEY: usize = 512;

const THREADS: u64 = 4;
/// In one round.
const STRANGERS: u64 = 700_000;

/// Resident memory of this process (proc(5), `statm`).
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a count of pages") * 4096
}

/// Takes a token for each stranger, in a network of his own. A bucket is full again after `full_after` strangers.
fn flood(limits: &Limits, begin: Instant, full_after: u64) -> u64 {
    let rate = Rate::new(1.0, 1);
    let (next, passed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= STRANGERS {
                        return;
                    }
                    let now = begin + Duration::from_nanos(1_000_000_000 / full_after * number);
                    let address = Ipv6Addr::from_bits(u128::from(number) << 64);
                    let key = client_key(address.into(), 64);
                    passed.fetch_add(
                        u64::from(limits.take_ip(&key, &rate, now).is_ok()),
                        Ordering::Relaxed,
                    );
                }
            });
        }
    });
    passed.into_inner()
}

#[test]
fn strangers_without_end_take_no_more_memory_than_the_bound() {
    let begin = Instant::now();
    let limits = Limits::new(MAX_KEYS, begin);
    let most = MAX_KEYS as usize * BYTES_PER_KEY;
    let before = resident_bytes();
    // Places come free all the time, so that every stranger takes one from another; in the end there are none, and they share.
    let later = |rounds: u32| begin + Duration::from_secs(100) * rounds;
    for (begin, full_after) in
        [(begin, 50_000), (later(1), 50_000), (later(2), 50_000), (later(3), 1_000_000_000)]
    {
        let passed = flood(&limits, begin, full_after);
        let taken = resident_bytes().saturating_sub(before);
        let (keys, overflow) = (limits.ip.keys(), limits.ip.overflow_total());
        println!("{keys} keys, {overflow} by overflow, {passed} passed: {taken} bytes");
        assert!(keys <= u64::from(MAX_KEYS), "{keys}");
        assert!(taken <= most, "{taken} bytes for {keys} keys");
    }
    assert!(limits.ip.overflow_total() > 0, "the table was full");
}
