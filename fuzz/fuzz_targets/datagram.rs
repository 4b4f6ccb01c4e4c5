//! Any bytes as a datagram at a shard's door.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ingest::fuzz_datagram(bytes));
