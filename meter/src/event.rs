//! Events: what a meter, a gateway or a session reports beside readings.

use serde::{Deserialize, Serialize};

use crate::stored::{stored_codes, stored_struct};
use crate::{AccountId, GatewayId, MeterId, Stored, TransformerId, UnixSeconds};

/// Whom an event or an alarm is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Subject {
    /// A meter.
    Meter(MeterId),
    /// A gateway.
    Gateway(GatewayId),
    /// An account.
    Account(AccountId),
    /// A transformer.
    Transformer(TransformerId),
}

/// What happened at a meter or a gateway.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum EventCode {
    /// Mains lost; the device says its last.
    PowerDown,
    /// Mains back.
    PowerUp,
    /// Cover or terminal opened, magnet near.
    Tamper,
    /// Cover closed again.
    TamperEnd,
    /// Relay opened.
    RelayOpened,
    /// Relay closed.
    RelayClosed,
    /// Relay did not obey.
    RelayFailed,
    /// Clock set or found invalid.
    Clock,
    /// Energy flows backwards.
    ReverseEnergy,
    /// A gateway's session was opened.
    LinkUp,
    /// A gateway's session ended.
    LinkDown,
}

/// Kinds of events, each there or not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EventSet(u16);

impl EventSet {
    /// With one kind more.
    #[must_use]
    pub fn with(self, code: EventCode) -> Self {
        Self(self.0 | 1_u16.wrapping_shl(code.code().into()))
    }

    /// Whether this kind is there.
    #[must_use]
    pub fn has(self, code: EventCode) -> bool {
        self.0 & Self::default().with(code).0 != 0
    }

    /// Whether none is there.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those there, in order of their codes.
    pub fn iter(self) -> impl Iterator<Item = EventCode> {
        EventCode::ALL.iter().copied().filter(move |code| self.has(*code))
    }
}

impl EventCode {
    /// Its name in push templates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerDown => "power-down",
            Self::PowerUp => "power-up",
            Self::Tamper => "tamper",
            Self::TamperEnd => "tamper-end",
            Self::RelayOpened => "relay-opened",
            Self::RelayClosed => "relay-closed",
            Self::RelayFailed => "relay-failed",
            Self::Clock => "clock",
            Self::ReverseEnergy => "reverse-energy",
            Self::LinkUp => "link-up",
            Self::LinkDown => "link-down",
        }
    }

    /// The kind of this name, of those that a device can tell; links are the node's own finding.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let told = |code: &&Self| !matches!(code, Self::LinkUp | Self::LinkDown);
        Self::ALL.iter().filter(told).find(|code| code.name() == name).copied()
    }
}

/// An event with its stamps.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MeterEvent {
    /// About whom.
    pub subject: Subject,
    /// What.
    pub code: EventCode,
    /// The device's stamp (the node's, for links).
    pub taken_at: UnixSeconds,
    /// When the node received it.
    pub received_at: UnixSeconds,
    /// Invocation counter of the device's frame, 0 when the node itself noticed.
    pub counter: u32,
}

stored_codes!(EventCode {
    PowerDown = 1,
    PowerUp = 2,
    Tamper = 3,
    TamperEnd = 4,
    RelayOpened = 5,
    RelayClosed = 6,
    RelayFailed = 7,
    Clock = 8,
    ReverseEnergy = 9,
    LinkUp = 10,
    LinkDown = 11,
});

stored_struct!(MeterEvent { subject, code, taken_at, received_at, counter });

/// A kind byte, then the id.
impl Stored for Subject {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, id) = self.kind_and_id();
        out.push(kind);
        id.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let kind = u8::take(bytes)?;
        let id = u32::take(bytes)?;
        match kind {
            1 => Some(Self::Meter(MeterId(id))),
            2 => Some(Self::Gateway(GatewayId(id))),
            3 => Some(Self::Account(AccountId(id))),
            4 => Some(Self::Transformer(TransformerId(id))),
            _ => None,
        }
    }
}

impl Subject {
    /// The kind (1 meter, 2 gateway, 3 account, 4 transformer) and the number within it.
    #[must_use]
    pub const fn kind_and_id(self) -> (u8, u32) {
        match self {
            Self::Meter(id) => (1, id.0),
            Self::Gateway(id) => (2, id.0),
            Self::Account(id) => (3, id.0),
            Self::Transformer(id) => (4, id.0),
        }
    }
}
