//! What a rate limit costs a request: its bucket found, made, fought over, and the table full.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use vibewarden::admission::address::client_key;
use vibewarden::admission::limit::{Limits, Rate};
use vibewarden::admission::quota::Quotas;

const MAX_KEYS: u32 = 262_144;

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(number))
}

/// A table in which `keys` addresses have taken a token.
fn filled(keys: u32, rate: &Rate, now: Instant) -> Limits {
    let limits = Limits::new(MAX_KEYS, now);
    for number in 0..keys {
        let _ = limits.take_ip(&client_key(address(number), 64), rate, now);
    }
    limits
}

fn hit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    let begin = Instant::now();
    let rate = Rate::new(1e9, 1_000_000_000);
    let limits = filled(100_000, &rate, begin);
    let mut now = begin;
    let one = address(7);
    group.bench_function("hit, IPv4", |bencher| {
        bencher.iter(|| {
            now += Duration::from_nanos(100);
            let key = client_key(black_box(one), 64);
            assert!(limits.take_ip(&key, &rate, now).is_ok());
        });
    });
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    group.bench_function("hit, IPv6", |bencher| {
        bencher.iter(|| {
            now += Duration::from_nanos(100);
            let key = client_key(black_box(six), 64);
            assert!(limits.take_ip(&key, &rate, now).is_ok());
        });
    });
    let mut number = 0_u32;
    group.bench_function("hit, 100 000 keys in turn", |bencher| {
        bencher.iter(|| {
            now += Duration::from_nanos(100);
            number = number.wrapping_add(7_919) % 100_000;
            let key = client_key(black_box(address(number)), 64);
            assert!(limits.take_ip(&key, &rate, now).is_ok());
        });
    });
    group.bench_function("hit, a user", |bencher| {
        bencher.iter(|| {
            now += Duration::from_nanos(100);
            assert!(limits.take_user(black_box("user-4711@example.com"), &rate, now).is_ok());
        });
    });
    let slow = Rate::new(0.5, 1);
    let refused = filled(1_000, &slow, begin);
    group.bench_function("refused", |bencher| {
        let key = client_key(black_box(one), 64);
        bencher.iter(|| assert!(refused.take_ip(black_box(&key), &slow, begin).is_err()));
    });
    group.finish();
}

fn miss(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    let begin = Instant::now();
    // Every bucket is full again after 0.1 s, so that there is always a place to take.
    let rate = Rate::new(10.0, 20);
    let limits = filled(MAX_KEYS, &rate, begin);
    let (mut now, mut number) = (begin + Duration::from_secs(1), MAX_KEYS);
    group.bench_function("miss, the place of a full bucket", |bencher| {
        bencher.iter(|| {
            now += Duration::from_micros(1);
            number += 1;
            assert!(limits.take_ip(&client_key(address(number), 64), &rate, now).is_ok());
        });
    });
    assert_eq!(limits.ip.keys(), u64::from(MAX_KEYS));
    let slow = Rate::new(0.000_1, 1_000_000);
    let limits = filled(MAX_KEYS, &slow, begin);
    let mut number = MAX_KEYS;
    group.bench_function("miss, no place, overflow bucket", |bencher| {
        bencher.iter(|| {
            number += 1;
            let key = client_key(address(number), 64);
            let _ = black_box(limits.take_ip(&key, &slow, begin));
        });
    });
    assert!(limits.ip.overflow_total() > 0);
    group.finish();
}

fn contended(criterion: &mut Criterion) {
    let begin = Instant::now();
    let rate = Rate::new(1e9, 1_000_000_000);
    let limits = filled(1_000, &rate, begin);
    let key = client_key(address(7), 64);
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = limits.take_ip(&key, &rate, begin);
                ready.store(true, Ordering::Relaxed);
            }
        });
        while !ready.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        criterion.bench_function("limit/hit, one key on two threads", |bencher| {
            bencher.iter(|| limits.take_ip(black_box(&key), &rate, begin));
        });
        stop.store(true, Ordering::Relaxed);
    });
}

fn quota(criterion: &mut Criterion) {
    let quotas = Quotas::default();
    let key = client_key(address(7), 64);
    criterion.bench_function("quota/first and last tunnel of a key", |bencher| {
        bencher.iter(|| assert!(quotas.enter_ip(black_box(&key), 5).is_some()));
    });
    let _held = quotas.enter_ip(&key, 5);
    criterion.bench_function("quota/another tunnel of a key", |bencher| {
        bencher.iter(|| assert!(quotas.enter_ip(black_box(&key), 5).is_some()));
    });
}

criterion_group!(benches, hit, miss, contended, quota);
criterion_main!(benches);
