//! What a token says, typed: every class and subclass of the standard.
//!
//! | class | subclass | token | content (44 bits) |
//! | --- | --- | --- | --- |
//! | 0 | 0..=3 | credit in kWh, m³, m³, minutes | RND 4, TID 24, amount 16 |
//! | 0 | 4..=7 | the same in currency | S&E 4, TID 24, amount 16 |
//! | 1 | 0, 1 | meter test | control 36 or 28, manufacturer 8 or 16 |
//! | 1 | 2 | extended read | index 6, parameter 38 |
//! | 2 | 0, 1, 2, 5, 6, 7, 10 | management | RND 4, TID 24, value 16 |
//! | 2 | 3, 4, 8, 9 | key change section | see `key_change` |

use thiserror::Error;

use crate::amount::{CurrencyAmount, TransferAmount};
use crate::block::{Frame, low_u8, low_u16};
use crate::codes::EncryptionAlgorithm;
use crate::identity::{IdentityError, ManufacturerWidth};
use crate::key_change::KeyChangeSection;
use crate::tid::Tid;

/// Why a data block whose checksum fits is still no token.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ContentError {
    /// A class or subclass the standard keeps for itself or gives to manufacturers.
    #[error("class {class} subclass {subclass} is reserved or proprietary")]
    Function {
        /// 0 to 3.
        class: u8,
        /// 0 to 15.
        subclass: u8,
    },
    /// A field holds a value it must not have.
    #[error("{field} holds {value:#x}, which has no meaning")]
    Range {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A field of a key change holds no valid identifier.
    #[error("key change")]
    Identity(#[from] IdentityError),
}

/// What is sold.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Service {
    /// Units of 0.1 kWh.
    Electricity,
    /// Units of 0.1 m³.
    Water,
    /// Units of 0.1 m³.
    Gas,
    /// Units of 0.1 minute.
    Time,
}

impl Service {
    /// All four, in the order of their subclasses.
    pub const ALL: [Self; 4] = [Self::Electricity, Self::Water, Self::Gas, Self::Time];

    /// Its subclass in class 0, and its register in a `ClearCredit`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Electricity => 0,
            Self::Water => 1,
            Self::Gas => 2,
            Self::Time => 3,
        }
    }

    /// The service whose code is the low two bits.
    const fn from_low_bits(code: u8) -> Self {
        match code & 0b11 {
            0 => Self::Electricity,
            1 => Self::Water,
            2 => Self::Gas,
            _ => Self::Time,
        }
    }
}

/// Four random bits; two equal purchases in one minute differ by it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Rnd(u8);

impl Rnd {
    /// Takes the low four bits: the caller's millisecond counter will do.
    #[must_use]
    pub const fn from_low_bits(bits: u8) -> Self {
        Self(bits & 0x0F)
    }

    /// 0 to 15.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// A token, decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Token {
    /// Class 0, subclasses 0 to 3: `TransferElectricity` and its sisters.
    Credit {
        /// What is credited.
        service: Service,
        /// Random bits.
        rnd: Rnd,
        /// When it was made.
        tid: Tid,
        /// How much.
        amount: TransferAmount,
    },
    /// Class 0, subclasses 4 to 7: the same in currency; may be negative.
    CurrencyCredit {
        /// What it pays for.
        service: Service,
        /// When it was made.
        tid: Tid,
        /// How much.
        amount: CurrencyAmount,
    },
    /// Class 1, subclasses 0 and 1: `InitiateMeterTest/Display`. Not encrypted, for any meter.
    MeterTest(MeterTest),
    /// Class 1, subclass 2. Not encrypted.
    ExtendedRead(ExtendedRead),
    /// Class 2, but key changes: an order to one meter.
    Management {
        /// Random bits.
        rnd: Rnd,
        /// When it was made.
        tid: Tid,
        /// The order.
        action: Management,
    },
    /// Class 2, subclasses 3, 4, 8, 9: a part of a new decoder key.
    KeyChange(KeyChangeSection),
}

/// An order to one meter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Management {
    /// Subclass 0, in watts.
    SetMaximumPowerLimit(TransferAmount),
    /// Subclass 1.
    ClearCredit(CreditRegister),
    /// Subclass 2; the coding of the rate is not defined by the standard.
    SetTariffRate(u16),
    /// Subclass 5.
    ClearTamperCondition,
    /// Subclass 6, in watts.
    SetMaximumPhasePowerUnbalanceLimit(TransferAmount),
    /// Subclass 7; the coding of the factor is not defined by the standard.
    SetWaterMeterFactor(u16),
    /// Subclass 10.
    Extended(ExtendedSetting),
}

impl Management {
    /// Its subclass in class 2.
    #[must_use]
    pub const fn subclass(self) -> u8 {
        match self {
            Self::SetMaximumPowerLimit(_) => 0,
            Self::ClearCredit(_) => 1,
            Self::SetTariffRate(_) => 2,
            Self::ClearTamperCondition => 5,
            Self::SetMaximumPhasePowerUnbalanceLimit(_) => 6,
            Self::SetWaterMeterFactor(_) => 7,
            Self::Extended(_) => 10,
        }
    }

    fn field(self) -> u16 {
        match self {
            Self::SetMaximumPowerLimit(watts) | Self::SetMaximumPhasePowerUnbalanceLimit(watts) => {
                watts.field()
            }
            Self::ClearCredit(register) => register.code(),
            Self::SetTariffRate(value) | Self::SetWaterMeterFactor(value) => value,
            Self::ClearTamperCondition => 0,
            Self::Extended(setting) => setting.field(),
        }
    }

    pub(crate) fn from_field(subclass: u8, field: u16) -> Result<Self, ContentError> {
        let range = |name| ContentError::Range { field: name, value: field.into() };
        Ok(match subclass {
            0 => Self::SetMaximumPowerLimit(TransferAmount::from_field(field)),
            1 => {
                let register = CreditRegister::from_code(field);
                Self::ClearCredit(register.ok_or_else(|| range("register to clear"))?)
            }
            2 => Self::SetTariffRate(field),
            5 if field == 0 => Self::ClearTamperCondition,
            5 => return Err(range("padding of ClearTamperCondition")),
            6 => Self::SetMaximumPhasePowerUnbalanceLimit(TransferAmount::from_field(field)),
            7 => Self::SetWaterMeterFactor(field),
            10 => Self::Extended(ExtendedSetting::from_field(field)),
            _ => return Err(ContentError::Function { class: 2, subclass }),
        })
    }
}

/// Which credit a `ClearCredit` clears.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum CreditRegister {
    /// 0 to 3: units of one service.
    Units(Service),
    /// 4 to 7: currency for one service.
    Currency(Service),
    /// 0xFFFF: everything.
    All,
}

impl CreditRegister {
    /// The register with this code.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        let [high, low] = code.to_be_bytes();
        match (high, low) {
            (0, 0..=3) => Some(Self::Units(Service::from_low_bits(low))),
            (0, 4..=7) => Some(Self::Currency(Service::from_low_bits(low))),
            (0xFF, 0xFF) => Some(Self::All),
            _ => None,
        }
    }

    /// Its code.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Units(service) => service.code().into(),
            Self::Currency(service) => u16::from(service.code() | 4),
            Self::All => u16::MAX,
        }
    }
}

/// A setting of the extended token set: a 6-bit index and 10 bits. Index 63 sets a flag.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ExtendedSetting(u16);

impl ExtendedSetting {
    /// Sets or clears a flag (0 to 511). The packing of flags other than 0 is our reading: 9 bits
    /// of number, then the value.
    #[must_use]
    pub fn flag(number: u16, value: bool) -> Self {
        Self(FLAG_INDEX << 10 | (number & 0x1FF) << 1 | u16::from(value))
    }

    /// The setting with these 16 bits.
    #[must_use]
    pub const fn from_field(field: u16) -> Self {
        Self(field)
    }

    /// The 16 bits.
    #[must_use]
    pub const fn field(self) -> u16 {
        self.0
    }

    /// Number and value, when this sets a flag.
    #[must_use]
    pub const fn as_flag(self) -> Option<(u16, bool)> {
        if self.0 >> 10 == FLAG_INDEX { Some((self.0 >> 1 & 0x1FF, self.0 & 1 == 1)) } else { None }
    }
}

/// What the flags of [`ExtendedSetting::flag`] are called, by number (one source).
pub const FLAG_NAMES: [&str; 12] = [
    "compliance test",
    "detect tamper",
    "disconnect service",
    "disconnect on tamper",
    "disconnect on power limit",
    "disconnect on under-frequency",
    "electricity payment mode (1 prepaid)",
    "water payment mode (1 prepaid)",
    "gas payment mode (1 prepaid)",
    "time payment mode (1 prepaid)",
    "commissioning mode",
    "tariff index fallback power limit",
];

/// A test token: one bit for each test, and whose meters it is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct MeterTest {
    width: ManufacturerWidth,
    control: u64,
    manufacturer: u16,
}

impl MeterTest {
    /// A test token. Manufacturer 0 is for every meter; for others the code stands in binary,
    /// which no public vector confirms.
    ///
    /// # Errors
    /// [`ContentError::Range`] when a field has too many bits.
    pub const fn new(
        width: ManufacturerWidth,
        control: u64,
        manufacturer: u16,
    ) -> Result<Self, ContentError> {
        if control > Self::all(width) {
            return Err(ContentError::Range { field: "control", value: control });
        }
        if matches!(width, ManufacturerWidth::Two) && manufacturer > 0xFF {
            return Err(ContentError::Range { field: "manufacturer", value: 0x100 });
        }
        Ok(Self { width, control, manufacturer })
    }

    /// Control bits of test 0, "do them all".
    #[must_use]
    pub const fn all(width: ManufacturerWidth) -> u64 {
        match width {
            ManufacturerWidth::Two => (1 << 36) - 1,
            ManufacturerWidth::Four => (1 << 28) - 1,
        }
    }

    /// The width of the manufacturer's code, hence the subclass.
    #[must_use]
    pub const fn width(&self) -> ManufacturerWidth {
        self.width
    }

    /// One bit for each test.
    #[must_use]
    pub const fn control(&self) -> u64 {
        self.control
    }

    /// The manufacturer's code, 0 for all.
    #[must_use]
    pub const fn manufacturer(&self) -> u16 {
        self.manufacturer
    }

    /// Names of the tests asked for; bits without a name are left out.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let control = self.control;
        TEST_NAMES
            .iter()
            .enumerate()
            .filter(move |(bit, _)| control >> bit & 1 == 1)
            .map(|(_, name)| *name)
    }

    fn content(&self) -> u64 {
        let shift = match self.width {
            ManufacturerWidth::Two => 8,
            ManufacturerWidth::Four => 16,
        };
        self.control.wrapping_shl(shift) | u64::from(self.manufacturer)
    }
}

/// What the bits of a test token ask for, from bit 0 on (tests 1 to 18).
pub const TEST_NAMES: [&str; 18] = [
    "load switch test",
    "display and buzzer test",
    "total registers",
    "key revision number and key type",
    "tariff index",
    "token reader test",
    "maximum power limit",
    "tamper status",
    "power consumption",
    "software version",
    "phase power unbalance limit",
    "water meter factor",
    "tariff rate",
    "encryption algorithm",
    "number of key change tokens",
    "supply group code",
    "key expiry number",
    "decoder reference number",
];

/// Asks a meter to show something beyond the tests: a 6-bit index and 38 further bits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ExtendedRead(u64);

impl ExtendedRead {
    /// Reads the entry `index` (6 bits count) with parameter 0.
    #[must_use]
    pub fn index(index: u8) -> Self {
        Self(u64::from(index & 0x3F) << 38)
    }

    /// All 44 content bits.
    #[must_use]
    pub const fn content(self) -> u64 {
        self.0
    }
}

impl Token {
    /// Class and subclass.
    #[must_use]
    pub fn class(&self) -> (u8, u8) {
        match self {
            Self::Credit { service, .. } => (0, service.code()),
            Self::CurrencyCredit { service, .. } => (0, service.code() | 4),
            Self::MeterTest(test) => match test.width {
                ManufacturerWidth::Two => (1, 0),
                ManufacturerWidth::Four => (1, 1),
            },
            Self::ExtendedRead(_) => (1, 2),
            Self::Management { action, .. } => (2, action.subclass()),
            Self::KeyChange(section) => (2, section.subclass()),
        }
    }

    /// The identifier, of tokens that have one.
    #[must_use]
    pub const fn tid(&self) -> Option<Tid> {
        match self {
            Self::Credit { tid, .. }
            | Self::CurrencyCredit { tid, .. }
            | Self::Management { tid, .. } => Some(*tid),
            Self::MeterTest(_) | Self::ExtendedRead(_) | Self::KeyChange(_) => None,
        }
    }

    pub(crate) fn frame(&self) -> Frame {
        let (class, subclass) = self.class();
        let content = match self {
            Self::Credit { rnd, tid, amount, .. } => stamped(rnd.0, *tid, amount.field()),
            Self::CurrencyCredit { tid, amount, .. } => {
                stamped(amount.sign_and_exponent(), *tid, amount.field())
            }
            Self::MeterTest(test) => test.content(),
            Self::ExtendedRead(read) => read.0,
            Self::Management { rnd, tid, action } => stamped(rnd.0, *tid, action.field()),
            Self::KeyChange(section) => section.content(),
        };
        Frame { class, subclass, content }
    }

    /// The meaning of a frame for a meter with this cipher (it decides what section 3 of a key
    /// change holds).
    pub(crate) fn from_frame(frame: Frame, ea: EncryptionAlgorithm) -> Result<Self, ContentError> {
        let Frame { class, subclass, content } = frame;
        let (head, tid) = (low_u8(content >> 40), Tid::from_low_bits(content >> 16));
        let field = low_u16(content);
        let service = Service::from_low_bits(subclass);
        Ok(match (class, subclass) {
            (0, 0..=3) => {
                let amount = TransferAmount::from_field(field);
                Self::Credit { service, rnd: Rnd::from_low_bits(head), tid, amount }
            }
            (0, 4..=7) => {
                let amount = CurrencyAmount::from_fields(head, field);
                Self::CurrencyCredit { service, tid, amount }
            }
            (1, 0) => {
                let manufacturer = low_u8(content).into();
                Self::MeterTest(MeterTest::new(ManufacturerWidth::Two, content >> 8, manufacturer)?)
            }
            (1, 1) => {
                Self::MeterTest(MeterTest::new(ManufacturerWidth::Four, content >> 16, field)?)
            }
            (1, 2) => Self::ExtendedRead(ExtendedRead(content)),
            (2, 3 | 4 | 8 | 9) => {
                Self::KeyChange(KeyChangeSection::from_content(subclass, content, ea)?)
            }
            (2, _) => {
                let action = Management::from_field(subclass, field)?;
                Self::Management { rnd: Rnd::from_low_bits(head), tid, action }
            }
            _ => return Err(ContentError::Function { class, subclass }),
        })
    }
}

/// Four bits, an identifier, and a field of 16.
fn stamped(head: u8, tid: Tid, field: u16) -> u64 {
    u64::from(head & 0x0F) << 40 | u64::from(tid.value()) << 16 | u64::from(field)
}

const FLAG_INDEX: u16 = 63;
