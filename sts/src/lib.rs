//! IEC 62055-41 (STS) tokens, the vault for vending keys, and a virtual token meter: pure.
