//! The fields a push can fill, and how a raw value becomes one.

use std::collections::BTreeMap;

use crate::{EventCode, EventSet, Relay};

use super::super::{Fault, WireError};
use super::data::Plain;
use super::run::Found;
use super::{DateTime, Measured, Obis, Value};

/// A field of [`Measured`]. Indices count from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    Meter,
    Clock,
    Register,
    Export,
    Rate(u8),
    Power,
    PowerExport,
    Reactive,
    ReactiveExport,
    Voltage(u8),
    Current(u8),
    PowerFactor,
    Frequency,
    Relay,
    /// The code of an event.
    Event,
    /// An alarm register: a kind of event each bit.
    Alarms,
}

/// What the numbers of a push mean that stand in its template.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Meaning {
    /// For date-times that state no deviation: minutes to add to local time to get UTC.
    pub(super) deviation_minutes: i16,
    /// Kinds of events by their codes (0.0.96.11.e).
    pub(super) events: BTreeMap<u32, EventCode>,
    /// Kinds of events by the bits of alarm registers (0.0.97.98.e), from 0.
    pub(super) alarms: BTreeMap<u32, EventCode>,
}

/// What a position or OBIS code means: a field, if any, and the decimal exponent of its values
/// where the push does not state one; none counts as 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Column {
    pub(super) field: Option<Field>,
    pub(super) scaler: Option<i8>,
}

impl Column {
    /// Parses `field`, `field.index` or `-`, with `e` and an exponent behind it or not.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let name = words.next()?;
        let scaler = match words.next() {
            None => None,
            Some(word) => Some(word.strip_prefix('e')?.parse().ok()?),
        };
        if words.next().is_some() {
            return None;
        }
        let field = if name == "-" { None } else { Some(Field::parse(name)?) };
        Some(Self { field, scaler })
    }
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        let (name, index) = match name.split_once('.') {
            Some((name, index)) if index != "export" => (name, index.parse().ok()?),
            _ => (name, 1),
        };
        let index_max = match name {
            "rates" => 4,
            "voltage" | "current" => 3,
            _ => 1,
        };
        if !(1..=index_max).contains(&index) {
            return None;
        }
        Some(match name {
            "meter" => Self::Meter,
            "clock" => Self::Clock,
            "register" => Self::Register,
            "export" => Self::Export,
            "rates" => Self::Rate(index),
            "power" => Self::Power,
            "power.export" => Self::PowerExport,
            "reactive" => Self::Reactive,
            "reactive.export" => Self::ReactiveExport,
            "voltage" => Self::Voltage(index),
            "current" => Self::Current(index),
            "power-factor" => Self::PowerFactor,
            "frequency" => Self::Frequency,
            "relay" => Self::Relay,
            "event" => Self::Event,
            "alarms" => Self::Alarms,
            _ => return None,
        })
    }

    /// The field of the `index`th element (from 0) of an array in this field's place.
    pub(super) fn element(self, index: u8) -> Option<Self> {
        let shifted = |first: u8| first.checked_add(index);
        if let Self::Rate(first) = self {
            shifted(first).map(Self::Rate)
        } else if let Self::Voltage(first) = self {
            shifted(first).map(Self::Voltage)
        } else if let Self::Current(first) = self {
            shifted(first).map(Self::Current)
        } else {
            None
        }
    }

    /// As error messages name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Clock => "clock",
            Self::Register => "register",
            Self::Export => "export register",
            Self::Rate(_) => "rate register",
            Self::Power | Self::PowerExport => "power",
            Self::Reactive | Self::ReactiveExport => "reactive power",
            Self::Voltage(_) => "voltage",
            Self::Current(_) => "current",
            Self::PowerFactor => "power factor",
            Self::Frequency => "frequency",
            Self::Relay => "relay state",
            Self::Event => "event code",
            Self::Alarms => "alarm register",
        }
    }

    /// Its standard OBIS code.
    pub(super) const fn code(self) -> Obis {
        Obis(match self {
            Self::Meter => [0, 0, 42, 0, 0, 255],
            Self::Clock => [0, 0, 1, 0, 0, 255],
            Self::Register => [1, 0, 1, 8, 0, 255],
            Self::Export => [1, 0, 2, 8, 0, 255],
            Self::Rate(index) => [1, 0, 1, 8, index, 255],
            Self::Power => [1, 0, 1, 7, 0, 255],
            Self::PowerExport => [1, 0, 2, 7, 0, 255],
            Self::Reactive => [1, 0, 3, 7, 0, 255],
            Self::ReactiveExport => [1, 0, 4, 7, 0, 255],
            Self::Voltage(phase) => [1, 0, phase.saturating_mul(20).saturating_add(12), 7, 0, 255],
            Self::Current(phase) => [1, 0, phase.saturating_mul(20).saturating_add(11), 7, 0, 255],
            Self::PowerFactor => [1, 0, 13, 7, 0, 255],
            Self::Frequency => [1, 0, 14, 7, 0, 255],
            Self::Relay => [0, 0, 96, 3, 10, 255],
            Self::Event => [0, 0, 96, 11, 0, 255],
            Self::Alarms => [0, 0, 97, 98, 0, 255],
        })
    }

    /// The DLMS code of its unit; `None` for those without.
    pub(super) const fn unit(self) -> Option<u8> {
        match self {
            Self::Register | Self::Export | Self::Rate(_) => Some(30),
            Self::Power | Self::PowerExport => Some(27),
            Self::Reactive | Self::ReactiveExport => Some(29),
            Self::Voltage(_) => Some(35),
            Self::Current(_) => Some(33),
            Self::Frequency => Some(44),
            Self::PowerFactor => Some(255),
            Self::Meter | Self::Clock | Self::Relay | Self::Event | Self::Alarms => None,
        }
    }

    /// The decimal exponent from the unit to ours: voltages are in mV here.
    const fn exponent(self) -> i8 {
        let thousandths = matches!(
            self,
            Self::Voltage(_) | Self::Current(_) | Self::Frequency | Self::PowerFactor
        );
        if thousandths { 3 } else { 0 }
    }

    /// Whether its values are whole numbers with an exponent.
    pub(super) const fn is_number(self) -> bool {
        !matches!(self, Self::Meter | Self::Clock | Self::Relay | Self::Event | Self::Alarms)
    }

    const fn is_energy(self) -> bool {
        matches!(self, Self::Register | Self::Export | Self::Rate(_))
    }
}

/// A row of a push while it is being read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    measured: Measured,
    has_clock: bool,
    has_register: bool,
    events: EventSet,
    power_export_w: i32,
    reactive_export_var: i32,
}

impl Row {
    /// Takes a value for its field; null leaves it absent.
    #[inline]
    pub(super) fn set(&mut self, found: Found<'_>, meaning: &Meaning) -> Result<(), Fault> {
        let Found { field: Some(field), value, scaler, unit, .. } = found else { return Ok(()) };
        let invalid = Fault::Invalid(field.name());
        if value == Value::Null {
            return Ok(());
        }
        if unit.is_some() && field.unit().is_some() && unit != field.unit() {
            return Err(invalid);
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "all other fields are numbers")]
        match field {
            Field::Clock => {
                let clock = date_time(value).ok_or(invalid)?;
                self.measured.taken_at =
                    clock.unix(meaning.deviation_minutes).map_err(|e| e.fault)?;
                self.has_clock = true;
            }
            Field::Meter => {
                let Value::OctetString(bytes) = value else { return Err(invalid) };
                self.measured.meter = Some(bytes.try_into().map_err(|_| invalid)?);
            }
            Field::Relay => self.measured.relay = Some(relay(value).ok_or(invalid)?),
            // Codes and bits without a kind are passed over: makers have many, and few matter here.
            Field::Event => {
                let code =
                    if let Value::Enum(code) = value { Some(code.into()) } else { integer(value) };
                let code = code.and_then(|code| code.try_into().ok()).ok_or(invalid)?;
                let kind: Option<&EventCode> = meaning.events.get(&code);
                self.events = kind.map_or(self.events, |kind| self.events.with(*kind));
            }
            Field::Alarms => {
                let bits: u32 = bits(value).ok_or(invalid)?;
                for (bit, kind) in &meaning.alarms {
                    if bits.checked_shr(*bit).is_some_and(|shifted| shifted & 1 == 1) {
                        self.events = self.events.with(*kind);
                    }
                }
            }
            _ => self.set_raw(field, scaler, integer(value).ok_or(invalid)?)?,
        }
        Ok(())
    }

    /// As [`Self::set`], for a value without its type.
    #[inline]
    pub(super) fn set_plain(
        &mut self,
        column: Column,
        value: Plain<'_>,
        meaning: &Meaning,
    ) -> Result<(), Fault> {
        let Column { field: Some(field), scaler } = column else { return Ok(()) };
        let value = match (value, field) {
            (Plain::Null, _) => return Ok(()),
            (Plain::Number(raw), _) if field.is_number() => {
                return self.set_raw(field, scaler, raw);
            }
            (Plain::Octets(bytes), Field::Meter) => {
                let invalid = |_| Fault::Invalid(field.name());
                self.measured.meter = Some(bytes.try_into().map_err(invalid)?);
                return Ok(());
            }
            (Plain::Number(number), _) => Value::Long64(number),
            (Plain::Octets(bytes), _) => Value::OctetString(bytes),
        };
        self.set(Found { code: None, field: Some(field), value, scaler, unit: None }, meaning)
    }

    /// Takes a number as the push has it, for a field that [`Field::is_number`].
    #[inline]
    fn set_raw(&mut self, field: Field, scaler: Option<i8>, raw: i64) -> Result<(), Fault> {
        let exponent = scaler.unwrap_or(0).saturating_add(field.exponent());
        let number = scaled(raw, exponent, field.is_energy());
        let set = number.and_then(|number| self.set_number(field, number));
        set.ok_or_else(|| Fault::Invalid(field.name()))
    }

    fn set_number(&mut self, field: Field, number: i64) -> Option<()> {
        let row = &mut self.measured;
        match field {
            Field::Register => {
                row.register_wh = number.try_into().ok()?;
                self.has_register = true;
            }
            Field::Export => row.export_wh = Some(number.try_into().ok()?),
            Field::Rate(index) => *slot(&mut row.rates_wh, index)? = Some(number.try_into().ok()?),
            Field::Voltage(index) => {
                *slot(&mut row.voltage_mv, index)? = Some(number.try_into().ok()?);
            }
            Field::Current(index) => {
                *slot(&mut row.current_ma, index)? = Some(number.try_into().ok()?);
            }
            Field::Power => row.power_w = Some(number.try_into().ok()?),
            Field::PowerExport => self.power_export_w = number.try_into().ok()?,
            Field::Reactive => row.reactive_var = Some(number.try_into().ok()?),
            Field::ReactiveExport => self.reactive_export_var = number.try_into().ok()?,
            Field::PowerFactor => row.power_factor_milli = Some(number.try_into().ok()?),
            Field::Frequency => row.frequency_mhz = Some(number.try_into().ok()?),
            Field::Meter | Field::Clock | Field::Relay | Field::Event | Field::Alarms => {
                return None;
            }
        }
        Some(())
    }

    /// The finished row, and the kinds of events in it; `None` when it has neither a register nor
    /// an event. `push_time`: for a row without a clock.
    pub(super) fn finish(
        mut self,
        push_time: Option<DateTime>,
        deviation_minutes: i16,
    ) -> Result<Option<Finished>, WireError> {
        let Self { has_register, events, .. } = self;
        if !has_register && events.is_empty() {
            return Ok(None);
        }
        if !self.has_clock {
            let clock = push_time.ok_or(WireError::new(Fault::Missing("clock"), 0))?;
            self.measured.taken_at = clock.unix(deviation_minutes)?;
        }
        let net = |import: Option<i32>, export: i32| match (import, export) {
            (None, 0) => None,
            (import, export) => Some(import.unwrap_or_default().saturating_sub(export)),
        };
        self.measured.power_w = net(self.measured.power_w, self.power_export_w);
        self.measured.reactive_var = net(self.measured.reactive_var, self.reactive_export_var);
        Ok(Some(Finished { measured: self.measured, has_register, events }))
    }
}

/// A row that was read to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) measured: Measured,
    pub(super) has_register: bool,
    pub(super) events: EventSet,
}

fn slot<T, const N: usize>(slots: &mut [T; N], index: u8) -> Option<&mut T> {
    slots.get_mut(usize::from(index).checked_sub(1)?)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "values of all other types are none")]
fn date_time(value: Value<'_>) -> Option<DateTime> {
    match value {
        Value::DateTime(bytes) => Some(DateTime(bytes)),
        Value::OctetString(bytes) => bytes.try_into().ok().map(DateTime),
        _ => None,
    }
}

/// Both forms of class 70: output state (boolean) and control state (enum; 2, ready for
/// reconnection, is an open relay).
#[expect(clippy::wildcard_enum_match_arm, reason = "values of all other types are none")]
const fn relay(value: Value<'_>) -> Option<Relay> {
    match value {
        Value::Boolean(true) | Value::Enum(1) => Some(Relay::Closed),
        Value::Boolean(false) | Value::Enum(0 | 2) => Some(Relay::Open),
        _ => None,
    }
}

/// 32 bits of an alarm register: a number, or a bit string whose first bit is bit 0.
fn bits(value: Value<'_>) -> Option<u32> {
    if let Value::BitString(bytes, _) = value {
        let mut word = [0; 4];
        let first = bytes.get(..bytes.len().min(4))?;
        word.get_mut(..first.len())?.copy_from_slice(first);
        return Some(u32::from_be_bytes(word).reverse_bits());
    }
    integer(value)?.try_into().ok()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "values of all other types are none")]
#[inline]
fn integer(value: Value<'_>) -> Option<i64> {
    Some(match value {
        Value::DoubleLong(value) => value.into(),
        Value::DoubleLongUnsigned(value) => value.into(),
        Value::Integer(value) => value.into(),
        Value::Long(value) => value.into(),
        Value::Unsigned(value) => value.into(),
        Value::LongUnsigned(value) => value.into(),
        Value::Long64(value) => value,
        Value::Long64Unsigned(value) => value.try_into().ok()?,
        _ => return None,
    })
}

/// `raw` times ten to the `exponent`. What is lost is cut, or rounded half away from zero.
#[inline]
fn scaled(raw: i64, exponent: i8, cut: bool) -> Option<i64> {
    if exponent == 0 {
        return Some(raw);
    }
    let power = 10_i64.checked_pow(exponent.unsigned_abs().into());
    if exponent >= 0 {
        return if raw == 0 { Some(0) } else { raw.checked_mul(power?) };
    }
    let Some(power) = power else { return Some(0) };
    let (whole, rest) = (raw.checked_div(power)?, raw.checked_rem(power)?);
    if cut || rest.unsigned_abs() < power.unsigned_abs().div_ceil(2) {
        return Some(whole);
    }
    whole.checked_add(raw.signum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_scaled(raw: i64, exponent: i8, cut: bool, want: Option<i64>) {
        assert_eq!(scaled(raw, exponent, cut), want, "{raw} e{exponent} cut={cut}");
    }

    #[test]
    fn scaled_cases() {
        check_scaled(2330, 2, false, Some(233_000));
        check_scaled(2330, 0, false, Some(2330));
        check_scaled(2335, -1, true, Some(233));
        check_scaled(2334, -1, false, Some(233));
        check_scaled(2335, -1, false, Some(234));
        check_scaled(-2335, -1, false, Some(-234));
        check_scaled(-2335, -1, true, Some(-233));
        check_scaled(i64::MAX, 1, false, None);
        check_scaled(1, 127, false, None);
        check_scaled(0, 127, false, Some(0));
        check_scaled(i64::MAX, -128, false, Some(0));
        check_scaled(i64::MIN, -1, false, Some(-922_337_203_685_477_581));
    }

    fn check_column(text: &str, want: Option<(Option<Field>, Option<i8>)>) {
        let want = want.map(|(field, scaler)| Column { field, scaler });
        assert_eq!(Column::parse(text), want, "{text:?}");
    }

    #[test]
    fn column_cases() {
        check_column("register", Some((Some(Field::Register), None)));
        check_column("register e1", Some((Some(Field::Register), Some(1))));
        check_column("voltage.2 e-1", Some((Some(Field::Voltage(2)), Some(-1))));
        check_column("rates", Some((Some(Field::Rate(1)), None)));
        check_column("power.export", Some((Some(Field::PowerExport), None)));
        check_column("-", Some((None, None)));
        for text in [
            "",
            "voltage.0",
            "voltage.4",
            "rates.5",
            "register.2",
            "volts",
            "power -1",
            "power e",
            "power e1 e1",
            "power e300",
            "clock.export",
        ] {
            check_column(text, None);
        }
    }
}
