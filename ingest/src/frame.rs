//! A frame, from bytes to entries: framing, security header, device, tag, replay window, content.
//!
//! Nothing before the tag changes any state, and everything after it happens once: the replay
//! window moves by authentic frames only.

use meter::wire::dlms::{
    Ciphered, InvokeId, Measured, Notification, SecurityControl, TemplateId, Templates, Wrapper,
    tag,
};
use meter::wire::{Fault, WireError};
use meter::{
    Current, Energy, Entry, Fields, Frequency, GatewayId, MeterId, Power, PowerFactor,
    ReactivePower, Reading, Relay, SystemTitle, UnixSeconds, Voltage,
};

use crate::directory::{Device, Directory, Record, RecordIndex};
use crate::outcome::Outcome;
use crate::window::Refusal;

/// What a frame says in the clear, and whom it claims to be from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) record: RecordIndex,
    wrapper: Wrapper,
    header: Ciphered,
    title: SystemTitle,
}

/// An authentic frame whose entries were appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) record: RecordIndex,
    /// What to acknowledge, when the sender waits for it.
    pub(crate) receipt: Option<Receipt>,
}

/// What an acknowledgement must say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub(crate) wrapper: Wrapper,
    pub(crate) counter: u32,
    pub(crate) invoke_id: InvokeId,
}

/// Reads what a frame says without a key, and finds who it claims to be from.
///
/// Touches the device's record: done for many frames first, the misses overlap.
pub(crate) fn claim(frame: &[u8], directory: &Directory) -> Result<Claim, Outcome> {
    let (wrapper, apdu) = Wrapper::datagram(frame).map_err(|_| Outcome::BadWrapper)?;
    match apdu.first() {
        Some(&tag::GENERAL_GLO_CIPHERING) => {}
        Some(&other) if Ciphered::is(other) => return Err(Outcome::UnsupportedSecurity),
        Some(&(tag::DATA_NOTIFICATION | 0x60 | 0xC0..=0xC7)) => {
            return Err(Outcome::UnsupportedSecurity);
        }
        Some(_) | None => return Err(Outcome::BadSecurityHeader),
    }
    let header = Ciphered::peek(apdu).map_err(|_| Outcome::BadSecurityHeader)?;
    if !matches!(header.control, SecurityControl::BOTH | SecurityControl::AUTHENTICATED) {
        return Err(Outcome::UnsupportedSecurity);
    }
    let title = header.title.map(SystemTitle).ok_or(Outcome::BadSecurityHeader)?;
    let (record, found) = directory.find(title).ok_or(Outcome::UnknownDevice)?;
    found.window.check(header.invocation_counter).map_err(refused)?;
    Ok(Claim { record, wrapper, header, title })
}

/// Opens the frame of a claim in place and appends its entries, all or none.
pub(crate) fn admit(
    claim: &Claim,
    frame: &mut [u8],
    directory: &Directory,
    templates: &Templates,
    now: UnixSeconds,
    entries: &mut Vec<Entry>,
) -> Result<Admitted, Outcome> {
    let record = directory.record(claim.record);
    let counter = claim.header.invocation_counter;
    let apdu = frame.get_mut(Wrapper::SIZE..).unwrap_or_default();
    let opened = claim.header.open(apdu, claim.title.0, record.keys());
    let plain = opened.map_err(|error| {
        let is_forged = error.fault == Fault::Authentication;
        if is_forged { Outcome::BadTag } else { Outcome::BadSecurityHeader }
    })?;
    record.window.accept(counter).map_err(refused)?;
    if plain.first() != Some(&tag::DATA_NOTIFICATION) {
        return Err(Outcome::WrongService);
    }
    let push = Notification::parse(plain).map_err(|_| Outcome::BadBody)?;
    let (device, template) = record.device();
    let template = templates.get(TemplateId(template)).ok_or(Outcome::NotAReading)?;
    let start = entries.len();
    let mut rows = Rows { directory, record, device, counter, now, entries, foreign: false };
    rows.open();
    let count = template.run(&push, |row| rows.push(row));
    if let Err(outcome) = rows.verdict(count) {
        entries.truncate(start);
        return Err(outcome);
    }
    let receipt = push.invoke_id.wants_confirmation().then_some(Receipt {
        wrapper: claim.wrapper,
        counter,
        invoke_id: push.invoke_id,
    });
    Ok(Admitted { record: claim.record, receipt })
}

/// The rows of one push on their way to entries.
struct Rows<'r> {
    directory: &'r Directory,
    record: &'r Record,
    device: Device,
    counter: u32,
    now: UnixSeconds,
    entries: &'r mut Vec<Entry>,
    foreign: bool,
}

impl Rows<'_> {
    /// A gateway's frame leaves its counter in the log, so that its window survives a restart.
    fn open(&mut self) {
        if let Device::Gateway(gateway) = self.device {
            self.entries.push(Entry::Frame { gateway, counter: self.counter });
        }
    }

    fn push(&mut self, row: &Measured) {
        let (meter, counter) = match self.device {
            Device::Meter(meter) => (self.own(meter, row), self.counter),
            Device::Gateway(gateway) => (self.behind(gateway, row), 0),
        };
        match meter {
            Some(meter) => {
                self.entries.push(Entry::Reading(reading(meter, counter, row, self.now)))
            }
            None => self.foreign = true,
        }
    }

    /// A meter speaks for itself only.
    fn own(&self, meter: MeterId, row: &Measured) -> Option<MeterId> {
        row.meter.is_none_or(|title| SystemTitle(title) == self.record.title()).then_some(meter)
    }

    /// A gateway speaks for the meters registered behind it only.
    fn behind(&self, gateway: GatewayId, row: &Measured) -> Option<MeterId> {
        self.directory.find(SystemTitle(row.meter?))?.1.meter_behind(gateway)
    }

    /// An acknowledgement would mean all of the frame, so one bad row refuses it whole.
    const fn verdict(&self, count: Result<u32, WireError>) -> Result<(), Outcome> {
        match count {
            Err(_) => Err(Outcome::BadBody),
            Ok(_) if self.foreign => Err(Outcome::ForeignMeter),
            Ok(0) => Err(Outcome::NotAReading),
            Ok(_) => Ok(()),
        }
    }
}

fn reading(meter: MeterId, counter: u32, row: &Measured, now: UnixSeconds) -> Reading {
    let mut fields = Fields::default();
    let mut present = |field: Fields, is_present: bool| {
        if is_present {
            fields = fields.with(field);
        }
    };
    Fields::VOLTAGE.iter().zip(row.voltage_mv).for_each(|(f, v)| present(*f, v.is_some()));
    Fields::CURRENT.iter().zip(row.current_ma).for_each(|(f, v)| present(*f, v.is_some()));
    Fields::RATES.iter().zip(row.rates_wh).for_each(|(f, v)| present(*f, v.is_some()));
    present(Fields::POWER, row.power_w.is_some());
    present(Fields::REACTIVE, row.reactive_var.is_some());
    present(Fields::POWER_FACTOR, row.power_factor_milli.is_some());
    present(Fields::FREQUENCY, row.frequency_mhz.is_some());
    present(Fields::RELAY, row.relay.is_some());
    present(Fields::RELAY_OPEN, row.relay == Some(Relay::Open));
    Reading {
        meter,
        taken_at: UnixSeconds(row.taken_at),
        received_at: now,
        counter,
        register: Energy::from_wh(row.register_wh),
        rates: row.rates_wh.map(|wh| Energy::from_wh(wh.unwrap_or(0))),
        voltage: row.voltage_mv.map(|mv| Voltage::from_mv(mv.unwrap_or(0))),
        current: row.current_ma.map(|ma| Current::from_ma(ma.unwrap_or(0))),
        power: Power::from_w(row.power_w.unwrap_or(0)),
        reactive: ReactivePower::from_var(row.reactive_var.unwrap_or(0)),
        frequency: Frequency::from_mhz(row.frequency_mhz.unwrap_or(0)),
        power_factor: PowerFactor::from_milli(row.power_factor_milli.unwrap_or(0)),
        fields,
    }
}

const fn refused(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::Replayed => Outcome::Replayed,
        Refusal::TooOld => Outcome::CounterTooOld,
    }
}
