//! Quotas: exact over threads, given back however a tunnel ends, and nothing left behind.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

fn key(text: &str) -> Cidr {
    Cidr::parse(text).expect("a block")
}

#[test]
fn a_place_is_free_again_when_it_is_dropped() {
    let quotas = Quotas::default();
    let address = key("192.0.2.1");
    let first = quotas.enter_ip(&address, 2).expect("the first place");
    let second = quotas.enter_ip(&address, 2).expect("the second place");
    assert!(quotas.enter_ip(&address, 2).is_none());
    assert!(quotas.enter_ip(&key("192.0.2.2"), 2).is_some(), "another address has its own");
    drop(first);
    let third = quotas.enter_ip(&address, 2).expect("the place that was given back");
    assert!(quotas.enter_ip(&address, 2).is_none());
    // A limit that went down closes nothing, and lets nobody in until it is met.
    drop(third);
    assert!(quotas.enter_ip(&address, 1).is_none());
    drop(second);
    assert_eq!(quotas.ip.keys(), 0, "what is not open is not held");
    assert!(quotas.enter_ip(&address, 1).is_some());
    assert!(quotas.enter_ip(&address, 0).is_none());
}

#[test]
fn users_have_places_of_their_own() {
    let quotas = Quotas::default();
    let place = quotas.enter_user("alice", 1);
    assert!(place.is_some() && quotas.enter_user("alice", 1).is_none());
    assert!(quotas.enter_user("bob", 1).is_some());
    assert_eq!(quotas.user.keys(), 1);
    drop(place);
    assert_eq!(quotas.user.keys(), 0);
}

#[test]
fn a_panic_gives_the_place_back() {
    let quotas = Quotas::default();
    let address = key("192.0.2.1");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _place = quotas.enter_ip(&address, 1).expect("a place");
        std::panic::resume_unwind(Box::new("the tunnel's task ends"));
    }));
    assert!(outcome.is_err());
    assert!(quotas.enter_ip(&address, 1).is_some());
}

#[test]
fn never_more_than_the_limit_are_open_over_many_threads() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 20_000;
    const LIMIT: u32 = 3;
    let quotas = Quotas::default();
    let address = key("2001:db8::/64");
    let (open, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let begin = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                begin.wait();
                let mut held = Vec::new();
                for round in 0..ROUNDS {
                    match quotas.enter_ip(&address, LIMIT) {
                        Some(place) => {
                            assert!(open.fetch_add(1, Ordering::SeqCst) < LIMIT as usize);
                            held.push(place);
                        }
                        None => {
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    if round % 2 == 1
                        && let Some(place) = held.pop()
                    {
                        open.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                }
                open.fetch_sub(held.len(), Ordering::SeqCst);
            });
        }
    });
    assert!(refused.into_inner() > 0, "the threads never met");
    assert_eq!(quotas.ip.keys(), 0);
    let all: Vec<_> = (0..LIMIT).map(|_| quotas.enter_ip(&address, LIMIT)).collect();
    assert!(all.iter().all(Option::is_some) && quotas.enter_ip(&address, LIMIT).is_none());
}

#[test]
fn counts_that_come_and_go_let_nobody_slip_through() {
    // One place, so that every drop removes the count and every other thread meets it dying.
    const THREADS: usize = 4;
    let quotas = Quotas::default();
    let open = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut entered = 0;
                while entered < 5_000 {
                    if let Some(place) = quotas.enter_user("alice", 1) {
                        assert_eq!(open.fetch_add(1, Ordering::SeqCst), 0);
                        open.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                        entered += 1;
                    }
                    thread::yield_now();
                }
            });
        }
    });
    assert_eq!(quotas.user.keys(), 0);
}
