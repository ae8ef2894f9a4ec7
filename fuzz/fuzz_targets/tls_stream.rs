//! A script of one TLS connection, whatever it says; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vibewarden::proxy::oracle::tls_stream(data));
