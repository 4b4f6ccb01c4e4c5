//! What every virtual device has: a title, two keys, an invocation counter, and frames that wait
//! for their confirmation.

use std::fmt;
use std::time::Duration;

use meter::wire::dlms::{
    Ciphered, InvokeId, Keys, Notification, Sealing, SecurityControl, Wrapper,
};
use meter::wire::{WireError, Writer};
use meter::{EventCode, SystemTitle, UnixSeconds};

use crate::seed::{Purpose, mix};
use crate::{Seed, gateway_title, meter_title};

/// Application of a device in the wrapper: the management logical device.
const DEVICE_PORT: u16 = 1;
/// Application of the head-end in the wrapper: the management client.
const HEAD_END_PORT: u16 = 1;
/// The two clocks of a simulation. Devices stamp readings by the one and wait by the other, so
/// that a week can pass in a minute without a time-out becoming shorter.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The time of day, which may run fast.
    pub clock: UnixSeconds,
    /// A steady clock from any origin.
    pub wall: Duration,
}

/// How long a device waits for a confirmation before it sends again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Before the first repetition; each further wait is twice as long.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

/// When a device wants to be polled again; `None` = not by this clock.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wake {
    /// By the time of day: the next reading is due.
    pub clock: Option<UnixSeconds>,
    /// By the steady clock: a repetition is due.
    pub wall: Option<Duration>,
}

/// A sealed frame that a device wants to have sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'f> {
    /// The bytes, wrapper header included.
    pub frame: &'f [u8],
    /// Its invocation counter; the confirmation carries the same.
    pub counter: u32,
    /// Readings in it.
    pub rows: u32,
    /// Whether it repeats an earlier frame's readings.
    pub is_retry: bool,
}

/// What became of a frame that a device received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// It confirms readings that were waiting for it.
    Acknowledged {
        /// How many readings.
        rows: u32,
        /// Since their frame was first sent.
        waited: Duration,
    },
    /// It confirms readings that were confirmed before.
    Repeated,
    /// It is a request to this device; the answer goes with the next poll.
    Asked,
    /// It is not a confirmation under this device's keys.
    Foreign,
}

/// The cryptographic identity of a device.
#[derive(Clone)]
pub struct Identity {
    title: SystemTitle,
    encryption: [u8; 16],
    authentication: [u8; 16],
    counter: u32,
}

impl Identity {
    /// That of meter `ordinal` in the fleet of `seed`.
    #[must_use]
    pub fn of_meter(seed: Seed, ordinal: u32) -> Self {
        let index = u64::from(ordinal);
        Self {
            title: meter_title(ordinal),
            encryption: seed.key(Purpose::EncryptionKey, index),
            authentication: seed.key(Purpose::AuthenticationKey, index),
            counter: counter_start(seed, index),
        }
    }

    /// That of gateway `ordinal` in the fleet of `seed`.
    #[must_use]
    pub fn of_gateway(seed: Seed, ordinal: u32) -> Self {
        let index = u64::from(ordinal);
        Self {
            title: gateway_title(ordinal),
            encryption: seed.key(Purpose::GatewayEncryptionKey, index),
            authentication: seed.key(Purpose::GatewayAuthenticationKey, index),
            counter: counter_start(seed, index | 1 << 32),
        }
    }

    /// The system title.
    #[must_use]
    pub const fn title(&self) -> SystemTitle {
        self.title
    }

    /// The keys, for the registry of the node under test.
    #[must_use]
    pub const fn keys(&self) -> Keys<'_> {
        Keys { encryption: &self.encryption, authentication: &self.authentication }
    }

    /// The counter of the newest frame.
    #[must_use]
    pub const fn counter(&self) -> u32 {
        self.counter
    }

    /// A counter for the next frame.
    pub(crate) fn next_counter(&mut self) -> u32 {
        self.counter = self.counter.checked_add(1).expect("a simulation ends before the counter");
        self.counter
    }

    /// Seals what `write` says under a fresh counter and gives the whole frame, of at most `SIZE`
    /// bytes, to `send`.
    pub(crate) fn seal<const SIZE: usize>(
        &mut self,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>,
        send: impl FnOnce(&[u8], u32),
    ) {
        let invocation_counter = self.next_counter();
        let sealing = Sealing {
            control: SecurityControl::BOTH,
            title: self.title.0,
            invocation_counter,
            keys: self.keys(),
        };
        let (mut plain, mut frame) = ([0; SIZE], [0; SIZE]);
        let mut writer = Writer::new(&mut plain);
        write(&mut writer).expect("a push fits the buffer");
        let plain: &[u8] = writer.written();
        let frame = Wrapper::frame(DEVICE_PORT, HEAD_END_PORT, &mut frame, |writer| {
            sealing.general_glo(plain, writer)
        });
        send(frame.expect("a sealed push fits the buffer"), self.counter);
    }

    /// The invoke id that a frame from the head-end confirms, `None` when it is not a confirmation
    /// under these keys. The frame's content is opened in place.
    pub(crate) fn confirmed(&self, frame: &mut [u8]) -> Option<InvokeId> {
        let (_, apdu) = Wrapper::datagram_mut(frame).ok()?;
        let header = Ciphered::peek(apdu).ok()?;
        let plain = header.open(apdu, header.title?, self.keys()).ok()?;
        Notification::parse_confirmation(plain).ok().map(|(invoke_id, _)| invoke_id)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("title", &self.title)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// The code of an event in our templates.
pub(crate) const fn event_code(code: EventCode) -> u8 {
    match code {
        EventCode::PowerDown => 1,
        EventCode::PowerUp => 2,
        EventCode::Clock => 6,
        EventCode::Tamper => 40,
        EventCode::TamperEnd => 41,
        EventCode::RelayOpened => 62,
        EventCode::RelayClosed => 63,
        EventCode::RelayFailed => 68,
        EventCode::ReverseEnergy => 128,
        // No device tells these.
        EventCode::LinkUp | EventCode::LinkDown => 0,
    }
}

/// The frame of an answer, through a gateway when the meter is `behind` one.
pub(crate) fn answer_frame(answer: &[u8], behind: Option<SystemTitle>) -> Vec<u8> {
    let mut buf = [0; 512];
    let frame = Wrapper::frame(DEVICE_PORT, HEAD_END_PORT, &mut buf, |writer| {
        if let Some(title) = behind {
            writer.put(&[0xE7, 0])?;
            writer.sized(&title.0)?;
        }
        writer.put(answer)
    });
    frame.expect("an answer fits the buffer").to_vec()
}

/// The meter that a request through a gateway names, and what follows the prefix.
pub(crate) fn request_behind(apdu: &mut [u8]) -> Option<(SystemTitle, &mut [u8])> {
    let [0xE6, _, 8, rest @ ..] = apdu else { return None };
    let (title, apdu) = rest.split_first_chunk_mut()?;
    Some((SystemTitle(*title), apdu))
}

/// Counters begin anywhere in the lower half, as those of meters with a history do.
fn counter_start(seed: Seed, index: u64) -> u32 {
    u32::try_from(seed.draw(Purpose::Counter, index) >> 33).expect("31 bits")
}

/// The invocation counter that a ciphered frame shows in the clear.
#[must_use]
pub fn frame_counter(frame: &[u8]) -> Option<u32> {
    let (_, apdu) = Wrapper::datagram(frame).ok()?;
    Ciphered::peek(apdu).ok().map(|header| header.invocation_counter)
}

/// A frame on its way: sent, not confirmed yet.
#[derive(Clone, Debug)]
pub(crate) struct Flight<Cargo> {
    pub(crate) invoke_id: u32,
    attempts: u32,
    sent_first: Duration,
    pub(crate) retry_at: Duration,
    pub(crate) cargo: Cargo,
}

impl<Cargo> Flight<Cargo> {
    pub(crate) fn new(invoke_id: u32, cargo: Cargo, now: Now, retry: Retry) -> Self {
        let mut flight =
            Self { invoke_id, attempts: 0, sent_first: now.wall, retry_at: now.wall, cargo };
        flight.sent(now, retry);
        flight
    }

    /// Notes a transmission and sets the time of the next.
    pub(crate) fn sent(&mut self, now: Now, retry: Retry) {
        let doubled = retry.first.saturating_mul(1 << self.attempts.min(20)).min(retry.max);
        // Up to a quarter more, so that a fleet does not repeat in step.
        let salt = mix(u64::from(self.invoke_id) ^ (u64::from(self.attempts) << 32)) % 256;
        let jitter = doubled / 1024 * u32::try_from(salt).expect("below 256");
        self.attempts = self.attempts.saturating_add(1);
        self.retry_at = now.wall + doubled + jitter;
    }

    /// Counts the waiting from when it was due, `late_s` ago by a clock of this pace.
    pub(crate) fn was_due(&mut self, late_s: u32, pace: u32) {
        let late = Duration::from_secs(u64::from(late_s)) / pace.max(1);
        self.sent_first = self.sent_first.saturating_sub(late);
    }

    pub(crate) fn waited(&self, now: Now) -> Duration {
        now.wall.saturating_sub(self.sent_first)
    }
}
