//! Chunked content, whatever it is; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vibewarden::wire::oracle::chunked(data));
