//! An upstream's bytes, whatever they are; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vibewarden::wire::oracle::response_head(data));
