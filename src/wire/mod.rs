//! The HTTP/1.1 and WebSocket wire format: bytes in, values out, and values back to bytes, under the strict rules that
//! keep two parties from reading one head differently.
//! No socket, no clock, no task and no configuration file may ever live here; nothing here panics, whatever the bytes.
//! Called by `admission` (header access) and by `proxy` (reading heads, deciding upgrades, forwarding, relaying bodies).

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod answer;
pub mod body;
pub mod content;
pub mod cookie;
pub mod field;
pub mod forward;
pub mod head;
mod lines;
pub mod oracle;
pub mod proxy_protocol;
pub mod query;
pub mod request;
pub mod response;
#[cfg(test)]
mod sample;
pub mod target;
pub mod upgrade;
