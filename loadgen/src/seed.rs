//! Everything that looks random here comes from one seed, by counting, so that any part of a run
//! can be made again without the rest.

use meter::SystemTitle;

/// The seed of a run. The same seed gives the same fleet and the same bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seed(pub u64);

/// What a number drawn from the seed is for; each purpose has a stream of its own.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Purpose {
    EncryptionKey = 1,
    AuthenticationKey,
    GatewayEncryptionKey,
    GatewayAuthenticationKey,
    Counter,
    Phase,
    Faults,
    Register,
    Load,
    Clock,
    Delay,
    Theft,
    Outage,
    Rollover,
    Spike,
    Purchase,
    Swap,
}

/// The finaliser of splitmix64: a bijection of 64 bits that leaves no visible pattern.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let mut hash = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

impl Seed {
    /// Number `index` of the stream of `purpose`.
    pub(crate) const fn draw(self, purpose: Purpose, index: u64) -> u64 {
        mix(mix(self.0 ^ ((purpose as u64) << 56)).wrapping_add(index))
    }

    /// A key of 16 bytes. Predictable by design: never use one outside a simulation.
    pub(crate) fn key(self, purpose: Purpose, index: u64) -> [u8; 16] {
        let high = self.draw(purpose, index.wrapping_mul(2));
        let low = self.draw(purpose, index.wrapping_mul(2).wrapping_add(1));
        ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
    }
}

/// The title of virtual meter `ordinal`: the flag `MTD`, then 5 bytes that begin with 0.
#[must_use]
pub const fn meter_title(ordinal: u32) -> SystemTitle {
    title(0x00, ordinal)
}

/// The title of virtual gateway `ordinal`: the flag `MTD`, then 5 bytes that begin with 0xFE.
#[must_use]
pub const fn gateway_title(ordinal: u32) -> SystemTitle {
    title(0xFE, ordinal)
}

const fn title(kind: u8, ordinal: u32) -> SystemTitle {
    let [a, b, c, d] = ordinal.to_be_bytes();
    SystemTitle([b'M', b'T', b'D', kind, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_repeatable() {
        let (one, two) = (Seed(1), Seed(2));
        assert_eq!(one.key(Purpose::EncryptionKey, 7), one.key(Purpose::EncryptionKey, 7));
        assert_ne!(one.key(Purpose::EncryptionKey, 7), one.key(Purpose::AuthenticationKey, 7));
        assert_ne!(one.key(Purpose::EncryptionKey, 7), one.key(Purpose::EncryptionKey, 8));
        assert_ne!(one.key(Purpose::EncryptionKey, 7), two.key(Purpose::EncryptionKey, 7));
        // The reference value of splitmix64 for state 0.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
    }
}
