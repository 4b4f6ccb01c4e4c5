//! What a push says of one meter at one instant, in integer units; and how our own virtual meters
//! and gateways say it.
//!
//! `meterd-single`, a structure, scalers all fixed, everything after the register may be null:
//!
//! | # | what | type | unit |
//! | --- | --- | --- | --- |
//! | 1 | clock 0.0.1.0.0 | octet-string(12), UTC | |
//! | 2 | register 1.0.1.8.0 | long64-unsigned | Wh |
//! | 3 | rates 1.0.1.8.1-4 | null or array of 4 long64-unsigned | Wh |
//! | 4 | voltage 1.0.32/52/72.7.0 | double-long-unsigned, or array of 3 | mV |
//! | 5 | current 1.0.31/51/71.7.0 | double-long-unsigned, or array of 3 | mA |
//! | 6 | power 1.0.16.7.0 | double-long | W |
//! | 7 | reactive power 1.0.131.7.0 | double-long | var |
//! | 8 | power factor 1.0.13.7.0 | long | 1/1000 |
//! | 9 | frequency 1.0.14.7.0 | long-unsigned | mHz |
//! | 10 | relay 0.0.96.3.10 (control state) | enum: 0 open, 1 closed | |
//! | 11 | export 1.0.2.8.0, left out when there is none | long64-unsigned | Wh |
//!
//! What happened at a device is a structure of its own: clock (as above) and event code 0.0.96.11.0
//! (unsigned), see `deploy/templates/meterd-single.toml`.
//!
//! A single-phase push of it without rates and export is an APDU of 60 bytes (96 as a sealed,
//! wrapped datagram). `meterd-batch` is an array of such structures, each with the meter's system
//! title (octet-string(8)) in front: what a gateway sends for up to 32 meters and several stamps.

use crate::{
    Current, Energy, Fields, Frequency, MeterId, Power, PowerFactor, ReactivePower, Reading, Relay,
    UnixSeconds, Voltage,
};

use super::super::{WireError, Writer};
use super::{DateTime, Group, InvokeId, Notification, Token, Value};

/// What a push says of one meter at one instant. `None`: the push does not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Measured {
    /// The meter's system title, where the push is a gateway's and names its meters.
    pub meter: Option<[u8; 8]>,
    /// The meter's stamp, seconds since 1970 UTC.
    pub taken_at: u32,
    /// Cumulative active import, Wh.
    pub register_wh: u64,
    /// Cumulative active export, Wh.
    pub export_wh: Option<u64>,
    /// Cumulative import of the tariff registers 1 to 4, Wh.
    pub rates_wh: [Option<u64>; 4],
    /// Voltages of phases 1 to 3, mV.
    pub voltage_mv: [Option<u32>; 3],
    /// Currents of phases 1 to 3, mA.
    pub current_ma: [Option<u32>; 3],
    /// Active power, import less export, W.
    pub power_w: Option<i32>,
    /// Reactive power, import less export, var.
    pub reactive_var: Option<i32>,
    /// Power factor, 1/1000.
    pub power_factor_milli: Option<i16>,
    /// Mains frequency, mHz.
    pub frequency_mhz: Option<u32>,
    /// State of the supply relay.
    pub relay: Option<Relay>,
}

impl Measured {
    /// The reading of `meter` that arrived at `received_at`; what the push does not say is zero
    /// there, and absent from its fields.
    #[must_use]
    pub fn reading(&self, meter: MeterId, counter: u32, received_at: UnixSeconds) -> Reading {
        let mut fields = Fields::default();
        let mut present = |field: Fields, is_present: bool| {
            if is_present {
                fields = fields.with(field);
            }
        };
        Fields::VOLTAGE.iter().zip(self.voltage_mv).for_each(|(f, v)| present(*f, v.is_some()));
        Fields::CURRENT.iter().zip(self.current_ma).for_each(|(f, v)| present(*f, v.is_some()));
        Fields::RATES.iter().zip(self.rates_wh).for_each(|(f, v)| present(*f, v.is_some()));
        present(Fields::POWER, self.power_w.is_some());
        present(Fields::REACTIVE, self.reactive_var.is_some());
        present(Fields::POWER_FACTOR, self.power_factor_milli.is_some());
        present(Fields::FREQUENCY, self.frequency_mhz.is_some());
        present(Fields::RELAY, self.relay.is_some());
        present(Fields::RELAY_OPEN, self.relay == Some(Relay::Open));
        Reading {
            meter,
            taken_at: UnixSeconds(self.taken_at),
            received_at,
            counter,
            register: Energy::from_wh(self.register_wh),
            rates: self.rates_wh.map(|wh| Energy::from_wh(wh.unwrap_or(0))),
            voltage: self.voltage_mv.map(|mv| Voltage::from_mv(mv.unwrap_or(0))),
            current: self.current_ma.map(|ma| Current::from_ma(ma.unwrap_or(0))),
            power: Power::from_w(self.power_w.unwrap_or(0)),
            reactive: ReactivePower::from_var(self.reactive_var.unwrap_or(0)),
            frequency: Frequency::from_mhz(self.frequency_mhz.unwrap_or(0)),
            power_factor: PowerFactor::from_milli(self.power_factor_milli.unwrap_or(0)),
            fields,
        }
    }

    /// Writes one meter's push (template `meterd-single`); a [`Self::meter`] is left out.
    ///
    /// # Errors
    /// [`super::super::Fault::Full`].
    pub fn write_single(
        &self,
        invoke_id: InvokeId,
        writer: &mut Writer<'_>,
    ) -> Result<(), WireError> {
        Notification::write_head(writer, invoke_id, None)?;
        self.write_row(None, writer)
    }

    /// Writes a gateway's push of several meters and stamps (template `meterd-batch`). A row
    /// without [`Self::meter`] goes out with a title of zeros, which no meter has.
    ///
    /// # Errors
    /// [`super::super::Fault::Full`].
    pub fn write_batch(
        rows: &[Self],
        invoke_id: InvokeId,
        writer: &mut Writer<'_>,
    ) -> Result<(), WireError> {
        Notification::write_head(writer, invoke_id, None)?;
        Token::Open(Group::Array(u32::try_from(rows.len()).unwrap_or(u32::MAX))).write(writer)?;
        rows.iter().try_for_each(|row| row.write_row(Some(row.meter.unwrap_or_default()), writer))
    }

    /// Writes what happened at one meter (template `meterd-single`).
    ///
    /// # Errors
    /// [`super::super::Fault::Full`].
    pub fn write_event(
        taken_at: u32,
        code: u8,
        invoke_id: InvokeId,
        writer: &mut Writer<'_>,
    ) -> Result<(), WireError> {
        Notification::write_head(writer, invoke_id, None)?;
        write_event_row(None, taken_at, code, writer)
    }

    /// Writes what happened at a gateway and the meters behind it: title, stamp, code (template
    /// `meterd-batch`).
    ///
    /// # Errors
    /// [`super::super::Fault::Full`].
    pub fn write_events(
        rows: &[([u8; 8], u32, u8)],
        invoke_id: InvokeId,
        writer: &mut Writer<'_>,
    ) -> Result<(), WireError> {
        Notification::write_head(writer, invoke_id, None)?;
        Token::Open(Group::Array(u32::try_from(rows.len()).unwrap_or(u32::MAX))).write(writer)?;
        rows.iter().try_for_each(|(title, taken_at, code)| {
            write_event_row(Some(title), *taken_at, *code, writer)
        })
    }

    fn write_row(&self, title: Option<[u8; 8]>, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let columns = 10_u32
            .saturating_add(u32::from(title.is_some()))
            .saturating_add(u32::from(self.export_wh.is_some()));
        Token::Open(Group::Structure(columns)).write(writer)?;
        if let Some(title) = title {
            Value::OctetString(&title).write(writer)?;
        }
        let DateTime(clock) = DateTime::from_unix(self.taken_at);
        Value::OctetString(&clock).write(writer)?;
        Value::Long64Unsigned(self.register_wh).write(writer)?;
        write_group(&self.rates_wh, Value::Long64Unsigned, writer)?;
        write_phases(&self.voltage_mv, writer)?;
        write_phases(&self.current_ma, writer)?;
        or_null(self.power_w, Value::DoubleLong).write(writer)?;
        or_null(self.reactive_var, Value::DoubleLong).write(writer)?;
        or_null(self.power_factor_milli, Value::Long).write(writer)?;
        write_frequency(self.frequency_mhz, writer)?;
        let relay = self.relay.map(|relay| match relay {
            Relay::Open => 0,
            Relay::Closed => 1,
        });
        or_null(relay, Value::Enum).write(writer)?;
        match self.export_wh {
            Some(export) => Value::Long64Unsigned(export).write(writer),
            None => Ok(()),
        }
    }
}

fn write_event_row(
    title: Option<&[u8; 8]>,
    taken_at: u32,
    code: u8,
    writer: &mut Writer<'_>,
) -> Result<(), WireError> {
    let columns = 2_u32.saturating_add(title.is_some().into());
    Token::Open(Group::Structure(columns)).write(writer)?;
    if let Some(title) = title {
        Value::OctetString(title).write(writer)?;
    }
    let DateTime(clock) = DateTime::from_unix(taken_at);
    Value::OctetString(&clock).write(writer)?;
    Value::Unsigned(code).write(writer)
}

fn or_null<'a, T>(value: Option<T>, tagged: impl FnOnce(T) -> Value<'a>) -> Value<'a> {
    value.map_or(Value::Null, tagged)
}

/// Null when all are absent, one value when only the first is there, else an array.
fn write_phases(phases: &[Option<u32>; 3], writer: &mut Writer<'_>) -> Result<(), WireError> {
    match phases {
        [Some(only), None, None] => Value::DoubleLongUnsigned(*only).write(writer),
        _ => write_group(phases, Value::DoubleLongUnsigned, writer),
    }
}

/// Null when all are absent, else an array with nulls where one is.
fn write_group<T: Copy>(
    values: &[Option<T>],
    tagged: fn(T) -> Value<'static>,
    writer: &mut Writer<'_>,
) -> Result<(), WireError> {
    if values.iter().all(Option::is_none) {
        return Value::Null.write(writer);
    }
    Token::Open(Group::Array(u32::try_from(values.len()).unwrap_or(u32::MAX))).write(writer)?;
    values.iter().try_for_each(|value| or_null(*value, tagged).write(writer))
}

/// Two bytes hold every mains frequency; a stranger one goes out in four.
fn write_frequency(mhz: Option<u32>, writer: &mut Writer<'_>) -> Result<(), WireError> {
    match mhz.map(|mhz| (mhz, u16::try_from(mhz))) {
        None => Value::Null.write(writer),
        Some((_, Ok(short))) => Value::LongUnsigned(short).write(writer),
        Some((mhz, Err(_))) => Value::DoubleLongUnsigned(mhz).write(writer),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Templates;
    use super::*;

    /// What template `name` reads in the push `apdu`.
    fn read(name: &str, apdu: &[u8]) -> Vec<Measured> {
        let templates = Templates::built_in();
        let template = templates.get(templates.find(name).unwrap()).unwrap();
        let push = Notification::parse(apdu).unwrap();
        let mut rows = Vec::new();
        let count = template.run(&push, |row| rows.push(*row)).unwrap();
        assert_eq!(usize::try_from(count), Ok(rows.len()));
        rows
    }

    fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>) -> Vec<u8> {
        let mut buf = [0; 4096];
        let mut writer = Writer::new(&mut buf);
        write(&mut writer).unwrap();
        writer.written().to_vec()
    }

    fn single_phase() -> Measured {
        Measured {
            taken_at: 1_767_225_600,
            register_wh: 12_345_678,
            voltage_mv: [Some(230_120), None, None],
            current_ma: [Some(4_321), None, None],
            power_w: Some(-987),
            reactive_var: Some(55),
            power_factor_milli: Some(-998),
            frequency_mhz: Some(49_987),
            relay: Some(Relay::Closed),
            ..Measured::default()
        }
    }

    #[test]
    fn a_single_phase_push_has_sixty_bytes() {
        let apdu = written(|w| single_phase().write_single(InvokeId::confirmed(1), w));
        assert_eq!(apdu.len(), 60);
        assert_eq!(read(Templates::SINGLE, &apdu), [single_phase()]);
    }

    fn measured() -> impl Strategy<Value = Measured> {
        let relay = prop_oneof![Just(Relay::Open), Just(Relay::Closed)];
        let energies = (0..u64::MAX / 2, any::<Option<u32>>(), any::<[Option<u32>; 4]>());
        let quantities = any::<(
            [Option<u32>; 3],
            [Option<u32>; 3],
            Option<i32>,
            Option<i32>,
            Option<i16>,
            Option<u32>,
        )>();
        (any::<[u8; 8]>(), any::<u32>(), energies, quantities, proptest::option::of(relay))
            .prop_map(|(meter, taken_at, (register_wh, export, rates), quantities, relay)| {
                let (voltage_mv, current_ma, power_w, reactive_var, factor, frequency) = quantities;
                Measured {
                    meter: Some(meter),
                    taken_at,
                    register_wh,
                    export_wh: export.map(u64::from),
                    rates_wh: rates.map(|rate| rate.map(u64::from)),
                    voltage_mv,
                    current_ma,
                    power_w,
                    reactive_var,
                    power_factor_milli: factor,
                    frequency_mhz: frequency,
                    relay,
                }
            })
    }

    proptest! {
        #[test]
        fn single_round_trip(row in measured()) {
            let apdu = written(|w| row.write_single(InvokeId::unconfirmed(7), w));
            prop_assert_eq!(read(Templates::SINGLE, &apdu), [Measured { meter: None, ..row }]);
        }

        #[test]
        fn batch_round_trip(rows in proptest::collection::vec(measured(), 0..20)) {
            let apdu = written(|w| Measured::write_batch(&rows, InvokeId::confirmed(7), w));
            prop_assert_eq!(read(Templates::BATCH, &apdu), rows);
        }
    }

    /// The same rows as a compact array: the types stated once.
    #[test]
    fn a_compact_batch_reads_the_same() {
        let rows = [1, 2, 3].map(|number| Measured {
            meter: Some([number; 8]),
            taken_at: 1_767_225_600 + 900 * u32::from(number),
            ..single_phase()
        });
        let types = [9, 9, 21, 0, 6, 6, 5, 5, 16, 18, 22];
        let mut content = Vec::new();
        for row in rows {
            let tagged = written(|w| row.write_row(row.meter, w));
            let mut walker = super::super::Walker::new(&tagged);
            while let Some(token) = walker.next().unwrap() {
                if let Token::Value(value) = token {
                    content.extend(&written(|w| value.write(w))[1..]);
                }
            }
        }
        let apdu = written(|w| {
            Notification::write_head(w, InvokeId::confirmed(7), None)?;
            w.put(&[19, 2, 11])?;
            w.put(&types)?;
            w.sized(&content)
        });
        assert_eq!(read(Templates::BATCH, &apdu), rows);
        let plain = written(|w| Measured::write_batch(&rows, InvokeId::confirmed(7), w));
        assert!(apdu.len() < plain.len());
    }
}
