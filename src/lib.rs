//! vibewarden: a reverse proxy that checks a WebSocket upgrade and then moves raw bytes, one thread per core.
//!
//! A connection is judged once and then moved byte by byte, so there are four rooms and a few shared types:
//!
//! ```text
//!    wire ◄── admission ◄──┬── proxy     monoio lives here and nowhere else
//!      ▲          ▲        │
//!      └──────────┼────────┴── control   tokio, reqwest, redis and notify live here and nowhere else
//!    config ◄─────┘          shared by both: certificate, refusal, event, metrics, published, providers, question, shared_store, process
//! ```
//!
//! `config` and `admission` know each other: a configuration is made of the patterns, sources and algorithms that admission
//! judges by. `server` builds and joins all of it, `cli` starts that, `clock` and `sys` are what their names say. Comments
//! that name a section of the contract mean `docs/contract.md`, which fixes the behaviour of the program.
//!
//! The stages of a connection, in the order in which they run, by the function that is each stage:
//!
//! 1. `proxy::core::run` accepts;
//! 2. `proxy::connection::requests` is the life of a connection, on one screen;
//! 3. `wire::head::HeadScanner` finds the end of a head, `wire::request::RequestHead::parse` reads it;
//! 4. `wire::upgrade::Upgrade::of` decides whether it asks for a WebSocket;
//! 5. `proxy::judge::judge` is the list of checks, each a function of `admission`;
//! 6. `proxy::handshake::open` connects, forwards the head and checks the 101;
//! 7. `proxy::relay::relay` moves bytes until the tunnel ends;
//! 8. `proxy::exchange::exchange` does the same for a plain request and its answer;
//! 9. `refusal::Refusal::answer` is every way to say no.

pub mod admission;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod event;
pub mod metrics;
pub mod process;
pub mod providers;
pub mod proxy;
pub mod published;
pub mod question;
pub mod refusal;
pub mod server;
pub mod shared_store;
mod sys;
pub mod wire;
