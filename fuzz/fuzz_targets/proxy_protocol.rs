//! The start of a connection behind a load balancer; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vibewarden::wire::oracle::proxy_protocol(data));
