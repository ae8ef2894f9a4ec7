//! A configuration file, whatever it says; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| vibewarden::config::fuzz_oracle(text));
