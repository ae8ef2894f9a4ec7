//! Every library at either end, on both drivers.

use super::foreign::{Library, Place, application, available, client};
use super::harness::setup::Scratch;
use super::harness::{Driver, Setup};
use super::{conversation, foreign};

/// Each way, in the conversation.
const STREAM_BYTES: usize = 8 * 1024 * 1024;
/// Each way, at the same time.
const BULK_BYTES: usize = 256 * 1024 * 1024;

#[track_caller]
fn converse(from: Library, to: Library, driver: Driver, place: Place<'_>) {
    if !available() {
        return;
    }
    let application = application(to, place);
    let proxy = Setup::new(driver, &application.url).start();
    let reports = client(from, proxy.address(), "conversation", STREAM_BYTES);
    conversation::check((from, &reports), (to, &application.reports), &proxy);
}

#[track_caller]
fn stream_both_ways(from: Library, to: Library, driver: Driver) {
    if !available() {
        return;
    }
    let application = application(to, Place::Tcp);
    let proxy = Setup::new(driver, &application.url).start();
    let reports = client(from, proxy.address(), "bulk", BULK_BYTES);
    conversation::streams_equal(&reports, &application.reports);
    for end in [&reports, &application.reports] {
        assert_eq!(end.of("received")[0]["bytes"], BULK_BYTES);
    }
}

/// Both ends of the Node library can be told not to answer pings by themselves.
#[track_caller]
fn pings_by_hand(driver: Driver) {
    if !available() {
        return;
    }
    let application = application(Library::Node, Place::Tcp);
    let proxy = Setup::new(driver, &application.url).start();
    foreign::client(Library::Node, proxy.address(), "by_hand", 0);
}

fn over_unix_socket(from: Library, to: Library, driver: Driver) {
    let directory = Scratch::new();
    let path = directory.path().join("application.sock");
    converse(from, to, driver, Place::Unix(&path));
}

macro_rules! on_both_drivers {
    ($($name:ident: $test:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn on_io_uring() {
                $test(Driver::IoUring);
            }

            #[test]
            fn on_epoll() {
                $test(Driver::Epoll);
            }
        }
    )*};
}

on_both_drivers! {
    python_to_python: |driver| converse(Library::Python, Library::Python, driver, Place::Tcp);
    python_to_node: |driver| converse(Library::Python, Library::Node, driver, Place::Tcp);
    python_to_rust: |driver| converse(Library::Python, Library::Rust, driver, Place::Tcp);
    node_to_python: |driver| converse(Library::Node, Library::Python, driver, Place::Tcp);
    node_to_node: |driver| converse(Library::Node, Library::Node, driver, Place::Tcp);
    node_to_rust: |driver| converse(Library::Node, Library::Rust, driver, Place::Tcp);
    rust_to_python: |driver| converse(Library::Rust, Library::Python, driver, Place::Tcp);
    rust_to_node: |driver| converse(Library::Rust, Library::Node, driver, Place::Tcp);
    rust_to_rust: |driver| converse(Library::Rust, Library::Rust, driver, Place::Tcp);

    python_to_node_over_a_unix_socket: |driver| over_unix_socket(Library::Python, Library::Node, driver);
    node_to_python_over_a_unix_socket: |driver| over_unix_socket(Library::Node, Library::Python, driver);
    rust_to_rust_over_a_unix_socket: |driver| over_unix_socket(Library::Rust, Library::Rust, driver);

    a_stream_both_ways_from_python_to_node: |driver| stream_both_ways(Library::Python, Library::Node, driver);
    a_stream_both_ways_from_node_to_python: |driver| stream_both_ways(Library::Node, Library::Python, driver);

    a_ping_is_answered_by_the_other_end_only: pings_by_hand;
}
