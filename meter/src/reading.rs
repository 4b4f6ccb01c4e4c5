//! A reading: what a meter says at one instant.

use serde::{Deserialize, Serialize};

use crate::{
    Current, Energy, Frequency, MeterId, Power, PowerFactor, ReactivePower, UnixSeconds, Voltage,
};

/// State of a meter's supply relay.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Relay {
    /// Supply is cut.
    Open,
    /// Supply is on.
    Closed,
}

/// Which optional fields a [`Reading`] carries; an absent field holds zero.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fields(pub u16);

impl Fields {
    /// Voltage of phases 1 to 3.
    pub const VOLTAGE: [Self; 3] = [Self(1), Self(1 << 1), Self(1 << 2)];
    /// Current of phases 1 to 3.
    pub const CURRENT: [Self; 3] = [Self(1 << 3), Self(1 << 4), Self(1 << 5)];
    /// Registers of rates 1 to 4.
    pub const RATES: [Self; 4] = [Self(1 << 6), Self(1 << 7), Self(1 << 8), Self(1 << 9)];
    /// Active power.
    pub const POWER: Self = Self(1 << 10);
    /// Reactive power.
    pub const REACTIVE: Self = Self(1 << 11);
    /// Power factor.
    pub const POWER_FACTOR: Self = Self(1 << 12);
    /// Frequency.
    pub const FREQUENCY: Self = Self(1 << 13);
    /// The relay's state is known.
    pub const RELAY: Self = Self(1 << 14);
    /// The relay is open (meaningful with [`Fields::RELAY`]).
    pub const RELAY_OPEN: Self = Self(1 << 15);

    /// Whether `field` is among these.
    #[must_use]
    pub const fn has(self, field: Self) -> bool {
        self.0 & field.0 == field.0
    }

    /// These and `field`.
    #[must_use]
    pub const fn with(self, field: Self) -> Self {
        Self(self.0 | field.0)
    }
}

/// What one meter said at one instant. Its key is `(meter, taken_at)`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reading {
    /// Who.
    pub meter: MeterId,
    /// The meter's stamp.
    pub taken_at: UnixSeconds,
    /// When the node received it.
    pub received_at: UnixSeconds,
    /// Invocation counter of the meter's own frame; 0 when it came in a gateway's frame.
    pub counter: u32,
    /// Cumulative active import since installation.
    pub register: Energy,
    /// Cumulative import of the meter's tariff registers 1 to 4.
    pub rates: [Energy; 4],
    /// Voltages of phases 1 to 3.
    pub voltage: [Voltage; 3],
    /// Currents of phases 1 to 3.
    pub current: [Current; 3],
    /// Active power.
    pub power: Power,
    /// Reactive power.
    pub reactive: ReactivePower,
    /// Mains frequency.
    pub frequency: Frequency,
    /// Power factor.
    pub power_factor: PowerFactor,
    /// Which of the above the meter sent (`register` always is).
    pub fields: Fields,
}

impl Reading {
    /// The relay's state, where the meter told it.
    #[must_use]
    pub const fn relay(&self) -> Option<Relay> {
        match (self.fields.has(Fields::RELAY), self.fields.has(Fields::RELAY_OPEN)) {
            (false, _) => None,
            (true, true) => Some(Relay::Open),
            (true, false) => Some(Relay::Closed),
        }
    }
}

// The hot path moves readings by value: keep them within one and a half cache lines.
const _: () = assert!(size_of::<Reading>() == 96);
