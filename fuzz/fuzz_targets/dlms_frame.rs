//! Any bytes as a DLMS frame of any framing.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meter::wire::dlms::fuzz_frame(bytes));
