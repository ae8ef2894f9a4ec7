//! Header and claims of a token, whatever they say; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vibewarden::admission::jwt::oracle::token(data);
    vibewarden::admission::jwt::oracle::library_agrees(data);
});
