//! A frame, from bytes to entries: framing, security header, device, tag, replay window, content.
//!
//! Nothing before the tag changes any state, and everything after it happens once: the replay
//! window moves by authentic frames only.

use meter::wire::dlms::{
    Association, Ciphered, Heard, InvokeId, Measured, Notification, Said, SecurityControl, Service,
    Template, TemplateId, Templates, Wrapper, tag,
};
use meter::wire::{Fault, WireError};
use meter::{Entry, EventCode, GatewayId, MeterEvent, MeterId, Subject, SystemTitle, UnixSeconds};

use crate::directory::{Device, Directory, Record, RecordIndex};
use crate::downlink::{PREFIX_SIZE, behind};
use crate::outcome::Outcome;
use crate::window::Refusal;

const AARE: u8 = 0x61;
const RLRE: u8 = 0x63;
const EVENT_NOTIFICATION: u8 = 0xC2;
const GET_RESPONSE: u8 = 0xC4;
const ACTION_RESPONSE: u8 = 0xC7;
const EXCEPTION_RESPONSE: u8 = 0xD8;

/// What a frame says in the clear, and whom it claims to be from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) record: RecordIndex,
    wrapper: Wrapper,
    header: Ciphered,
    title: SystemTitle,
    /// Where the APDU begins: behind the wrapper, and behind a gateway's prefix where there is one.
    apdu_at: usize,
}

/// What an authentic frame held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Admitted<'f> {
    /// Entries, which were appended; what to acknowledge, when the sender waits for it.
    Told(Option<Receipt>),
    /// An answer to a command.
    Answer(Heard<'f>),
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
    let (named, apdu, apdu_at) = match behind(apdu) {
        Some((title, apdu)) => (Some(title), apdu, Wrapper::SIZE + PREFIX_SIZE),
        None => (None, apdu, Wrapper::SIZE),
    };
    match apdu.first() {
        Some(&tag::GENERAL_GLO_CIPHERING) => {}
        Some(&(AARE | RLRE | EXCEPTION_RESPONSE)) => return Err(Outcome::Unasked),
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
    if named.is_some_and(|named| named != title) {
        return Err(Outcome::BadSecurityHeader);
    }
    let (record, found) = directory.find(title).ok_or(Outcome::UnknownDevice)?;
    found.window.check(header.invocation_counter).map_err(refused)?;
    Ok(Claim { record, wrapper, header, title, apdu_at })
}

/// Opens the frame of a claim in place and appends its entries, all or none.
pub(crate) fn admit<'f>(
    claim: &Claim,
    frame: &'f mut [u8],
    directory: &Directory,
    templates: &Templates,
    now: UnixSeconds,
    entries: &mut Vec<Entry>,
) -> Result<Admitted<'f>, Outcome> {
    let record = directory.record(claim.record);
    let counter = claim.header.invocation_counter;
    let apdu = frame.get_mut(claim.apdu_at..).unwrap_or_default();
    let opened = claim.header.open(apdu, claim.title.0, record.keys());
    let plain = opened.map_err(|error| {
        let is_forged = error.fault == Fault::Authentication;
        if is_forged { Outcome::BadTag } else { Outcome::BadSecurityHeader }
    })?;
    record.window.accept(counter).map_err(refused)?;
    if let Some(&(GET_RESPONSE | ACTION_RESPONSE)) = plain.first() {
        return Ok(Admitted::Answer(Heard::Opened { apdu: plain, counter }));
    }
    let (device, template) = record.device();
    let template = templates.get(TemplateId(template)).ok_or(Outcome::NotAReading)?;
    let start = entries.len();
    let mut rows = Rows { directory, record, device, counter, now, entries, foreign: false };
    match rows.read(plain, template) {
        Ok(invoke_id) => {
            let invoke_id = invoke_id.filter(|id| id.wants_confirmation());
            let wrapper = claim.wrapper;
            Ok(Admitted::Told(invoke_id.map(|invoke_id| Receipt { wrapper, counter, invoke_id })))
        }
        Err(outcome) => {
            entries.truncate(start);
            Err(outcome)
        }
    }
}

/// An answer that is not under keys, and the meter that it says it is from.
pub(crate) fn clear_answer<'f>(
    frame: &'f [u8],
    directory: &Directory,
) -> Option<(RecordIndex, &'f [u8])> {
    let (_, apdu) = Wrapper::datagram(frame).ok()?;
    let (named, apdu) = behind(apdu).map_or((None, apdu), |(title, apdu)| (Some(title), apdu));
    let answer = Association::parse(apdu).ok()?;
    let title = SystemTitle(answer.title?);
    let is_named = named.is_none_or(|named| named == title);
    let (record, _) = directory.find(title).filter(|_| is_named)?;
    Some((record, apdu))
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
    /// Reads the plain APDU; the invoke id where it has one.
    fn read(&mut self, plain: &[u8], template: &Template) -> Result<Option<InvokeId>, Outcome> {
        // A gateway's frame leaves its counter in the log, so that its window survives a restart.
        if let Device::Gateway(gateway) = self.device {
            self.entries.push(Entry::Frame { gateway, counter: self.counter });
        }
        let (invoke_id, count) = match plain.first() {
            Some(&tag::DATA_NOTIFICATION) => {
                let push = Notification::parse(plain).map_err(|_| Outcome::BadBody)?;
                (Some(push.invoke_id), template.run_all(&push, |said| self.push(said)))
            }
            Some(&EVENT_NOTIFICATION) => {
                let service = Service::parse(plain).map_err(|_| Outcome::BadBody)?;
                let Service::EventNotification { time, attribute, data } = service else {
                    return Err(Outcome::WrongService);
                };
                let now = self.now.0;
                let said = template.run_event(time, attribute, data, now, |said| self.push(said));
                (None, said)
            }
            Some(_) | None => return Err(Outcome::WrongService),
        };
        self.verdict(count).map(|()| invoke_id)
    }

    fn push(&mut self, said: Said<'_>) {
        let entry = match said {
            Said::Reading(row) => self.reading(row),
            Said::Event { device, taken_at, code } => self.event(device, taken_at, code),
        };
        match entry {
            Some(entry) => self.entries.push(entry),
            None => self.foreign = true,
        }
    }

    fn reading(&self, row: &Measured) -> Option<Entry> {
        let (meter, counter) = match self.device {
            Device::Meter(meter) => (self.own(meter, row.meter)?, self.counter),
            Device::Gateway(gateway) => (self.behind(gateway, row.meter)?, 0),
        };
        Some(Entry::Reading(row.reading(meter, counter, self.now)))
    }

    /// What happened at the meter that says it, at the gateway that says it, or behind it.
    fn event(&self, device: Option<[u8; 8]>, taken_at: u32, code: EventCode) -> Option<Entry> {
        let is_own = device.is_none_or(|title| SystemTitle(title) == self.record.title());
        let (subject, counter) = match self.device {
            Device::Meter(meter) => (Subject::Meter(self.own(meter, device)?), self.counter),
            // The frame's counter stands in the log already.
            Device::Gateway(gateway) if is_own => (Subject::Gateway(gateway), 0),
            Device::Gateway(gateway) => (Subject::Meter(self.behind(gateway, device)?), 0),
        };
        let (taken_at, received_at) = (UnixSeconds(taken_at), self.now);
        Some(Entry::Event(MeterEvent { subject, code, taken_at, received_at, counter }))
    }

    /// A meter speaks for itself only.
    fn own(&self, meter: MeterId, title: Option<[u8; 8]>) -> Option<MeterId> {
        title.is_none_or(|title| SystemTitle(title) == self.record.title()).then_some(meter)
    }

    /// A gateway speaks for the meters registered behind it only.
    fn behind(&self, gateway: GatewayId, title: Option<[u8; 8]>) -> Option<MeterId> {
        self.directory.find(SystemTitle(title?))?.1.meter_behind(gateway)
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

const fn refused(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::Replayed => Outcome::Replayed,
        Refusal::TooOld => Outcome::CounterTooOld,
    }
}
