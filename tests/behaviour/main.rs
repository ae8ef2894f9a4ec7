//! The proxy as its users meet it: the built binary, real sockets, real signals, held against the contract alone.

#[path = "../harness/mod.rs"]
mod harness;

mod harness_itself;
