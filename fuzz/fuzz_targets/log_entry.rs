//! Any bytes as an entry of the log: what decodes encodes to something that decodes to the same.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = meter::Entry::decode(&mut &bytes[..]) {
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(meter::Entry::decode(&mut &again[..]).as_ref(), Ok(&entry));
    }
});
