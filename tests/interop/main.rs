//! The built proxy between WebSocket clients and applications that nobody of this project wrote: Python `websockets`, Node `ws`, tokio-tungstenite, Chromium;
//! over TLS also openssl; for plain HTTP curl, `requests`, httpx, wrk, Node, `http.server`, uvicorn, nginx; and an `OpenID` provider that issues tokens.
//!
//! Every program of this folder speaks to the test in reports, one JSON object per line; the tests compare what both ends of the proxy report.

mod browser;
mod browser_credentials;
mod conversation;
mod demo;
mod foreign;
#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the behaviour tests use the rest of it")]
mod harness;
mod large;
mod openid;
mod pairs;
mod reports;
mod rust_side;
mod tls;
mod web;
