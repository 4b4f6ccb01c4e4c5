//! Any bytes as what a person types for a token.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sts::fuzz_decode(bytes));
