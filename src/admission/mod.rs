//! Admission: values in, a verdict out. Who the client is, what it may do, how often.
//! No socket, no clock and no task may ever live here: `now` is an argument.
//! Called by `proxy` for every request, between reading its head and connecting to the upstream.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod address;
pub mod api_key;
pub mod authentication;
pub mod cache;
pub mod credential;
pub mod filter;
pub mod header_value;
pub mod jwt;
mod keyed;
pub mod kratos_paths;
pub mod limit;
pub mod origin;
pub mod paths;
pub mod policy;
pub mod quota;
pub mod roles;
pub mod security_headers;
pub mod session;
