//! The data plane: one thread per core on monoio, and everything that touches a client or upstream socket.
//! No file, no name resolution, no blocking call and no rule about HTTP or WebSocket bytes may live here.
//! Started by `server`; `connection` is the place to begin reading.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod balancer;
mod connection;
mod content;
pub mod core;
pub mod driver;
mod exchange;
mod expiries;
mod facts;
mod handshake;
mod head_buffer;
mod identify;
mod judge;
pub mod limited;
mod mover;
pub mod oracle;
mod own_endpoint;
mod panic;
mod pipe;
mod pool;
mod readiness;
mod relay;
mod report;
mod seldom;
mod stream;
mod tls;
mod tunnels;
mod upstream;
