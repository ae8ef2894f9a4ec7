//! All bytes of a client's connection, whatever they are; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vibewarden::proxy::oracle::request_stream(data));
