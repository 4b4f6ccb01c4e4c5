//! Identifiers: dense numbers assigned by the registry, and the DLMS system title.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
        )]
        pub struct $name(pub $int);

        impl $name {
            /// Stands for "none" where a row must name something; the registry never assigns it.
            pub const NONE: Self = Self(0);

            /// Whether this names something.
            #[must_use]
            pub const fn is_some(self) -> bool {
                self.0 != 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A meter: dense, from 1, never reused. It indexes per-meter tables.
    MeterId(u32)
}
id! {
    /// A gateway with up to 32 meters behind it.
    GatewayId(u32)
}
id! {
    /// A supply unit: a transformer with its total meter and the meters it feeds.
    TransformerId(u32)
}
id! {
    /// A command to a meter.
    CommandId(u64)
}
id! {
    /// A customer.
    CustomerId(u32)
}
id! {
    /// An account of a customer: dense, from 1, never reused.
    AccountId(u32)
}
id! {
    /// A tariff plan, a series of versions.
    PlanId(u32)
}
id! {
    /// A calendar of holidays.
    CalendarId(u32)
}
id! {
    /// A calendar of friendly periods.
    FriendlyId(u32)
}
id! {
    /// An order to a meter's relay: its account and number, see [`OrderId::new`].
    OrderId(u64)
}
id! {
    /// A purchase, unique for ever.
    PurchaseId(u64)
}
id! {
    /// The number of a registry change; changes reach the log in the order of these numbers.
    OutboxId(u64)
}
id! {
    /// The position of an entry in the log: dense, from 1.
    Seq(u64)
}

impl MeterId {
    /// Slots a deployment is cut into; fixed for ever (format version 1).
    pub const SLOTS: u16 = 4096;

    /// The slot of this meter: Fibonacci hashing of its number, top 12 bits.
    #[must_use]
    pub fn slot(self) -> u16 {
        let [_, _, high, low] = self.0.wrapping_mul(0x9E37_79B1).rotate_left(12).to_be_bytes();
        u16::from_be_bytes([high & 0x0F, low])
    }
}

/// The eight bytes that name a device in DLMS security: manufacturer's flag and serial.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct SystemTitle(pub [u8; 8]);

impl fmt::Display for SystemTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_fixed_for_ever_and_even() {
        assert_eq!(MeterId(1).slot(), (0x9E37_79B1_u32 >> 20) as u16);
        let mut counts = vec![0_u32; usize::from(MeterId::SLOTS)];
        (1..=100_000).for_each(|n| counts[usize::from(MeterId(n).slot())] += 1);
        assert!(counts.iter().all(|count| (20..=30).contains(count)));
    }
}
