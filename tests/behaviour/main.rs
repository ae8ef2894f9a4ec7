//! The proxy as its users meet it: the built binary, real sockets, real signals, held against the contract alone. A number
//! such as 7.5 is a section of `docs/contract.md`, one such as D15 a case of `docs/cases.md`.

#[path = "../harness/mod.rs"]
mod harness;

/// Makes a test of each named function for `io_uring` and for epoll; those under `every` run once more with
/// `server.driver: auto` where `io_uring_setup` is forbidden.
macro_rules! on_drivers {
    (every: $($every:ident),* ; both: $($both:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $every() { super::$every(crate::harness::Driver::IoUring); })*
            $(#[test] fn $both() { super::$both(crate::harness::Driver::IoUring); })*
        }
        mod epoll {
            $(#[test] fn $every() { super::$every(crate::harness::Driver::Epoll); })*
            $(#[test] fn $both() { super::$both(crate::harness::Driver::Epoll); })*
        }
        mod io_uring_forbidden {
            $(#[test] fn $every() { super::$every(crate::harness::Driver::Forbidden); })*
        }
    };
}

/// Makes a test of each named function with clients that speak TLS 1.3 to `io_uring`, and TLS 1.2 to epoll.
macro_rules! over_tls {
    ($($test:ident),* $(,)?) => {
        mod tls13_io_uring {
            $(#[test] fn $test() { super::$test(crate::harness::Driver::IoUringTls13); })*
        }
        mod tls12_epoll {
            $(#[test] fn $test() { super::$test(crate::harness::Driver::EpollTls12); })*
        }
    };
}

mod auth_api_key;
mod auth_flows;
mod auth_identity;
mod auth_jwt;
mod auth_jwt_keys;
mod auth_kratos;
mod auth_limits;
mod auth_load;
mod auth_paths;
mod auth_reload;
mod auth_secrets;
mod auth_sessions;
mod auth_tls;
mod body_limits;
mod chunked_bodies;
mod client_address;
mod config_errors;
mod cycles;
mod dead_peer;
mod drivers;
mod endpoints;
mod events;
mod harness_itself;
mod health_probe;
mod ip_filter;
mod limits;
mod origin;
mod pipelining;
mod plain_events;
mod plain_heads;
mod plain_http;
mod plain_shutdown;
mod plain_timeouts;
mod pool;
mod proxy_protocol;
mod quotas;
mod rate_limits;
mod refused_upgrades;
mod relay;
mod reload;
mod request_heads;
mod request_smuggling;
mod security_headers;
mod shared_limits;
mod shipped_file;
mod shutdown;
mod silence;
mod timeouts;
mod tls;
mod tls_certificate;
mod tls_ends;
mod upgrade_detection;
mod upstream_answers;
