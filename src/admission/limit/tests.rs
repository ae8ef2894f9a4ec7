//! The buckets against a naive one, over many threads, and with the table full.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::rate::Verdict;
use super::*;

/// A bucket as the contract describes it, in exact fractions: tokens are counted in parts of 2^-`parts` and may be owed, since
/// the bucket under test may be early by less than one of its steps.
struct Naive {
    tokens: i128,
    full: i128,
    per_unit: i128,
    one: i128,
    at: u64,
}

impl Naive {
    fn new(rate: f64, burst: u32) -> Self {
        // rate = mantissa × 2^exponent, exactly; a unit is 2^-30 s
        let bits = rate.to_bits();
        let mantissa = i128::from((bits & ((1 << 52) - 1)) | (1 << 52));
        let exponent = i32::try_from(bits >> 52).expect("positive") - 1075;
        let parts = u32::try_from(30 - exponent).expect("at most one token per unit");
        let one = 1_i128 << parts;
        let full = one * i128::from(burst);
        Self { tokens: full, full, per_unit: mantissa, one, at: 0 }
    }

    fn advance(&mut self, units: u64) {
        let gained = i128::from(units - self.at).saturating_mul(self.per_unit);
        self.tokens = self.tokens.saturating_add(gained).min(self.full);
        self.at = units;
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "units of a test")]
fn whole(number: f64) -> u64 {
    number as u64
}

const RATES: [f64; 16] = [
    0.001,
    0.0123,
    0.1,
    0.25,
    0.3,
    1.0,
    1.5,
    3.0,
    7.7,
    10.0,
    100.0,
    1000.1,
    65_536.0,
    1e6,
    999_999_937.0,
    1e9,
];

#[test]
fn a_bucket_decides_as_a_naive_one_does() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rate = RATES[random.usize(..RATES.len())];
        let burst = [1, 2, 3, 20, 1_000][random.usize(..5)];
        let (bucket, mut naive) = (Rate::new(rate, burst), Naive::new(rate, burst));
        // One step of the bucket, as parts of a token: what it may be early by.
        let step = naive.one >> (30 + 1075 - 53 - (rate.to_bits() >> 52));
        let per_token = whole(2_f64.powi(30) / rate) + 1;
        let (mut state, mut units) = (0, random.u64(..1 << 50));
        naive.at = units;
        for turn in 0..2_000 {
            units += match random.u8(..10) {
                0..6 => 0,
                6..8 => random.u64(..=per_token),
                8 => per_token - 1,
                _ => random.u64(..=per_token * u64::from(burst)),
            };
            naive.advance(units);
            let context = format!("seed {seed} turn {turn}: {rate}/s burst {burst} at {units}");
            match bucket.take(state, Moment::at_unit(units)) {
                Verdict::Passed(next) => {
                    state = next;
                    naive.tokens -= naive.one;
                    assert!(naive.tokens > -step, "{context}: a token too early");
                }
                Verdict::Refused { wait, settled } => {
                    assert_eq!(settled, None, "{context}");
                    assert!(naive.tokens < naive.one, "{context}: a token was there");
                    let missing = naive.one - naive.tokens;
                    let exact = missing.div_euclid(naive.per_unit);
                    let seconds = u64::try_from(exact.div_euclid(1 << 30)).expect("positive");
                    assert!(
                        (seconds.max(1)..=seconds + 1).contains(&wait.seconds()),
                        "{context}: waits {} of {seconds}",
                        wait.seconds()
                    );
                }
            }
        }
    }
}

#[test]
fn sustained_overload_does_not_drift() {
    // Every odd rate, for a simulated year: the last request of the year is the one that a calculation on paper gives.
    const YEAR: u64 = 365 * 86_400;
    for rate in [3.0, 7.7, 1_000.1, 1e6 + 1.0, 999_999_937.0] {
        let bucket = Rate::new(rate, 20);
        // A year of refusals and tokens, in jumps of full buckets: the state is where the last token of the jump left it.
        let mut state = 0;
        let mut passed: u64 = 0;
        let mut random = fastrand::Rng::with_seed(7);
        let mut units: u64 = 1 << 40;
        let begin = units;
        let emptied = |state: &mut u64, units: u64| {
            let mut taken = 0;
            while let Verdict::Passed(next) = bucket.take(*state, Moment::at_unit(units)) {
                *state = next;
                taken += 1;
            }
            taken
        };
        passed += emptied(&mut state, units);
        assert_eq!(passed, 20);
        // In a jump shorter than the burst no token is lost, so all of them have to be there in the end.
        let jump = whole(19.0 / rate * 2_f64.powi(30));
        let jumps = 200_000.min(YEAR * (1 << 30) / jump.max(1));
        for _ in 0..jumps {
            units += random.u64(jump / 2..=jump);
            passed += emptied(&mut state, units);
        }
        let mantissa = u128::from((rate.to_bits() & ((1 << 52) - 1)) | (1 << 52));
        let shift = 30 + 1075 - (rate.to_bits() >> 52);
        let expected = 20 + ((u128::from(units - begin) * mantissa) >> shift);
        assert!(
            u128::from(passed).abs_diff(expected) <= 1,
            "{rate}/s: {passed} passed, {expected} expected"
        );
    }
}

/// Takes until refused; how many passed.
fn drain(rate: &Rate, state: &mut u64, now: Moment) -> u64 {
    let mut passed = 0;
    loop {
        match rate.take(*state, now) {
            Verdict::Passed(next) => *state = next,
            Verdict::Refused { settled, .. } => {
                *state = settled.unwrap_or(*state);
                return passed;
            }
        }
        passed += 1;
    }
}

#[test]
fn rates_at_the_edges() {
    let now = Moment::after(Duration::from_secs(1_000));
    let later = Moment::after(Duration::from_hours(24 * 365 * 60));
    // Rate 0: only the first burst passes. Burst 0: nothing does.
    let (never, mut state) = (Rate::new(0.0, 3), 0);
    assert_eq!(drain(&never, &mut state, now), 3);
    assert_eq!(drain(&never, &mut state, later), 0);
    assert_eq!(never.take(state, later), Verdict::Refused { wait: Wait::NEVER, settled: None });
    for rate in [0.0, 1.0, 1e9] {
        let nothing = Rate::new(rate, 0);
        assert_eq!(nothing.take(0, now), Verdict::Refused { wait: Wait::NEVER, settled: None });
    }
    // More than a token per unit.
    let (fast, mut state) = (Rate::new(1e300, 5), 0);
    assert_eq!(drain(&fast, &mut state, now), 5);
    assert_eq!(drain(&fast, &mut state, Moment::after(Duration::from_micros(1_000_000_001))), 5);
    // A bucket that takes longer to fill than the clock of a table runs: 31 700 years, and for ever.
    for rate in [0.001, 1e-9, 1e-300, f64::MIN_POSITIVE, 5e-324] {
        let (slow, mut state) = (Rate::new(rate, 1_000_000_000), 0);
        for _ in 0..50_000 {
            let Verdict::Passed(next) = slow.take(state, now) else {
                panic!("{rate}: the burst is a thousand million");
            };
            assert!(next > state, "{rate}");
            state = next;
        }
    }
    let (slow, mut state) = (Rate::new(0.001, 1_000_000), 0);
    assert_eq!(drain(&slow, &mut state, now), 1_000_000);
    assert_eq!(drain(&slow, &mut state, Moment::after(Duration::from_secs(1_999))), 0);
    assert_eq!(drain(&slow, &mut state, Moment::after(Duration::from_secs(2_001))), 1);
}

#[test]
fn the_slowest_large_buckets_count_in_coarse_units() {
    // 1e9 tokens at one in 100 s: 3 170 years, so a coarse unit of a millisecond.
    let rate = Rate::new(0.01, 1_000_000_000);
    let Verdict::Passed(one) = rate.take(0, Moment::after(Duration::from_secs(5))) else {
        panic!("the first token is there");
    };
    // As if all but one had been taken: 1e9 - 1 tokens of 100 s each are missing.
    let mut state = one + ((999_999_998_u64 * 100) << 10);
    assert_eq!(drain(&rate, &mut state, Moment::after(Duration::from_secs(5))), 1);
    let Verdict::Refused { wait, .. } = rate.take(state, Moment::after(Duration::from_secs(5)))
    else {
        panic!("the bucket is empty");
    };
    assert!((99..=101).contains(&wait.seconds()), "{wait:?}");
    assert_eq!(drain(&rate, &mut state, Moment::after(Duration::from_secs(1_010))), 10);
}

#[test]
fn retry_after_is_rounded_up_and_at_least_one() {
    let now = Moment::after(Duration::from_secs(77));
    for (per_second, burst, seconds) in [
        (10.0, 20, 1),
        (1.0, 1, 1),
        (0.5, 1, 2),
        (0.4, 3, 3),
        (1.0 / 3.0, 2, 4),
        (1e-6, 1, 1_000_000),
    ] {
        let (rate, mut state) = (Rate::new(per_second, burst), 0);
        drain(&rate, &mut state, now);
        let Verdict::Refused { wait, .. } = rate.take(state, now) else {
            panic!("{per_second}: empty");
        };
        assert!(
            wait.seconds().abs_diff(seconds) <= u64::from(per_second < 0.34),
            "{per_second}: {wait:?}"
        );
        let at = Moment::after(Duration::from_secs(77 + wait.seconds()));
        assert!(matches!(rate.take(state, at), Verdict::Passed(_)), "{per_second}: {wait:?}");
    }
}

#[test]
fn another_rate_keeps_the_moment_but_a_bucket_is_never_emptier_than_empty() {
    let limits = Limits::new(1024, epoch());
    let at = |seconds: u64| epoch() + Duration::from_secs(seconds);
    let (slow, fast) = (Rate::new(0.01, 3), Rate::new(1.0, 3));
    let key = ip(1);
    for _ in 0..3 {
        assert_eq!(limits.take_ip(&key, &slow, at(1_000)), Ok(()));
    }
    // 300 s of the old rate are 300 tokens of the new one, of which a bucket can owe no more than 3.
    assert_eq!(limits.take_ip(&key, &fast, at(1_000)).map_err(Wait::seconds), Err(1));
    assert_eq!(limits.take_ip(&key, &fast, at(1_001)), Ok(()));
    assert_eq!(limits.take_ip(&key, &fast, at(1_001)).map_err(Wait::seconds), Err(1));
    // And back: the moment of the fast rate is near, so two of three tokens are there, and no free burst.
    assert_eq!(limits.take_ip(&key, &slow, at(1_002)), Ok(()));
    // Rate 0 and back: nothing comes, then it fills from empty.
    let never = Rate::new(0.0, 2);
    assert_eq!(limits.take_ip(&key, &never, at(1_002)).map_err(Wait::seconds), Err(86_400));
    assert_eq!(limits.take_ip(&key, &never, at(90_000)).map_err(Wait::seconds), Err(86_400));
    assert!(limits.take_ip(&key, &fast, at(90_000)).is_err());
    for _ in 0..3 {
        assert_eq!(limits.take_ip(&key, &fast, at(90_003)), Ok(()));
    }
    assert!(limits.take_ip(&key, &fast, at(90_003)).is_err());
}

/// Any moment; no test reads a clock.
fn epoch() -> Instant {
    crate::clock::now()
}

fn ip(number: u32) -> Cidr {
    Cidr { network: IpAddr::V4(Ipv4Addr::from_bits(number)), prefix: 32 }
}

#[test]
fn exactly_the_burst_passes_over_many_threads_and_then_rate_times_time() {
    const THREADS: usize = 8;
    const BURST: u32 = 1_000;
    const PER_SECOND: f64 = 333.3;
    const TICKS: u32 = 3_000;
    for skew in [Duration::ZERO, Duration::from_millis(20)] {
        let begin = epoch();
        let limits = Limits::new(1024, begin);
        let rate = Rate::new(PER_SECOND, BURST);
        let passed = AtomicU64::new(0);
        let together = Barrier::new(THREADS);
        let ask = |times: u32, now| {
            for _ in 0..times {
                if limits.take_user("alice", &rate, now).is_ok() {
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (ask, together, passed) = (&ask, &together, &passed);
                scope.spawn(move || {
                    together.wait();
                    // The first burst, all at one moment.
                    ask(BURST, begin);
                    if together.wait().is_leader() {
                        assert_eq!(passed.load(Ordering::Relaxed), u64::from(BURST));
                    }
                    // Then the clock runs for 30 s, on some cores a little behind, and nobody ever stops asking.
                    let behind = skew * u32::try_from(thread).expect("few");
                    for tick in 1..=TICKS {
                        together.wait();
                        let now = begin + Duration::from_millis(10) * tick;
                        ask(4, now.checked_sub(behind).expect("a moment"));
                    }
                });
            }
        });
        let expected = f64::from(BURST) + PER_SECOND * 30.0;
        let passed = passed.into_inner();
        let passed = f64::from(u32::try_from(passed).expect("few"));
        assert!(
            (passed - expected).abs() <= 1.0,
            "{passed} passed, {expected} expected, skew {skew:?}"
        );
    }
}

#[test]
fn keys_that_come_and_go_lose_no_token_and_win_none() {
    // A table that is always full, so that buckets are forgotten while others take from them.
    const THREADS: u32 = 4;
    let begin = epoch();
    let limits = Limits::new(64, begin);
    let rate = Rate::new(1_000.0, 2);
    let passed: Vec<AtomicU64> = (0..128).map(|_| AtomicU64::new(0)).collect();
    let tick = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (limits, rate, passed, tick) = (&limits, &rate, &passed, &tick);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(thread));
                for _ in 0..100_000 {
                    // 100 requests per simulated millisecond.
                    let now = tick.fetch_add(1, Ordering::Relaxed) / 100;
                    let number = random.usize(..passed.len());
                    let key = ip(u32::try_from(number).expect("small"));
                    let at = begin + Duration::from_millis(now);
                    if limits.take_ip(&key, rate, at).is_ok() {
                        passed[number].fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(limits.ip.keys() <= 64 + u64::from(THREADS), "the bound");
                }
            });
        }
    });
    let milliseconds = tick.into_inner() / 100;
    for (number, passed) in passed.iter().enumerate() {
        let passed = passed.load(Ordering::Relaxed);
        assert!(passed <= 2 + milliseconds + 1, "key {number}: {passed} in {milliseconds} ms");
        assert!(passed > 0, "key {number} was shut out");
    }
    // Whatever was forgotten meanwhile, the table is as large as it may be and every place works.
    let later = begin + Duration::from_mins(1);
    for number in 1_000..1_064 {
        assert_eq!(limits.take_ip(&ip(number), &rate, later), Ok(()));
    }
    assert_eq!(limits.ip.keys(), 64);
}

#[test]
fn ten_million_keys_stay_within_the_bound_and_live_buckets_are_not_forgotten() {
    const MAX_KEYS: u32 = 4_096;
    let begin = epoch();
    let limits = Limits::new(MAX_KEYS, begin);
    // A token comes back after 100 s, the whole burst after 300 s.
    let rate = Rate::new(0.01, 3);
    // Half of the places belong to clients whose buckets are empty.
    for number in 0..MAX_KEYS / 2 {
        for _ in 0..3 {
            assert_eq!(limits.take_ip(&ip(number), &rate, begin), Ok(()));
        }
    }
    for number in 0..10_000_000_u32 {
        // 200 s in all, so that the buckets of earlier strangers are full again half-way through.
        let now = begin + Duration::from_micros(20) * number;
        // Who is refused shares a bucket; nobody is let through for being new.
        let _ = limits.take_ip(&ip(0x8000_0000 | number), &rate, now);
        if number % 100_000 == 0 {
            assert!(limits.ip.keys() <= u64::from(MAX_KEYS), "{number}");
            assert!(limits.ip.places_allocated() <= MAX_KEYS as usize);
        }
    }
    assert_eq!(limits.ip.keys(), u64::from(MAX_KEYS));
    assert!(limits.ip.overflow_total() > 0, "the table was full");
    let now = begin + Duration::from_secs(200);
    for number in 0..MAX_KEYS / 2 {
        let passed = (0..3).filter(|_| limits.take_ip(&ip(number), &rate, now).is_ok()).count();
        assert_eq!(passed, 2, "client {number}: 200 s are two tokens, not a new bucket");
    }
}

#[test]
fn the_overflow_bucket_lifts_nobodys_limit() {
    let begin = epoch();
    let limits = Limits::new(32, begin);
    let rate = Rate::new(1.0, 10);
    let passed =
        |key: &Cidr, now| (0..100).filter(|_| limits.take_ip(key, &rate, now).is_ok()).count();
    for number in 0..32 {
        assert_eq!(passed(&ip(number), begin), 10);
    }
    // No place for it: what it takes comes from the overflow bucket, and that is its whole burst.
    let newcomer = ip(1_000);
    assert_eq!(passed(&newcomer, begin), 10);
    assert_eq!(limits.ip.overflow_total(), 100);
    assert_eq!(limits.ip.keys(), 32);
    // After 10 s there is a place again. Used up just before, the overflow bucket is where its own begins.
    assert_eq!(passed(&newcomer, begin + Duration::from_millis(9_500)), 9);
    let overflow = limits.ip.overflow_total();
    assert_eq!(passed(&newcomer, begin + Duration::from_millis(11_500)), 2);
    assert_eq!(limits.ip.overflow_total(), overflow, "it has a bucket of its own now");
    // All newcomers of a shard together get what one of them gets.
    let limits = Limits::new(1, begin);
    assert_eq!(limits.take_ip(&ip(0), &rate, begin), Ok(()));
    let mut passed = 0;
    for number in 1..=10_000 {
        passed += u64::from(limits.take_ip(&ip(number), &rate, begin).is_ok());
    }
    assert_eq!(passed, 64 * 10);
}

#[test]
fn places_of_full_buckets_go_to_newcomers_before_any_overflow() {
    let begin = epoch();
    let limits = Limits::new(1_000, begin);
    let rate = Rate::new(10.0, 20);
    for number in 0..1_000 {
        assert_eq!(limits.take_ip(&ip(number), &rate, begin), Ok(()));
    }
    assert_eq!((limits.ip.keys(), limits.ip.overflow_total()), (1_000, 0));
    let now = begin + Duration::from_millis(101);
    for number in 1_000..2_000 {
        assert_eq!(limits.take_ip(&ip(number), &rate, now), Ok(()));
    }
    assert_eq!((limits.ip.keys(), limits.ip.overflow_total()), (1_000, 0));
}
