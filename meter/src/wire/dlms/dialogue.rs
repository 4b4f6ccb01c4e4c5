//! One command to one meter, from the client's side: association with ciphering and high-level
//! security by GMAC, request, read back, release. A state machine without I/O and clock.
//!
//! | we say | the meter says |
//! | --- | --- |
//! | AARQ: context 3, mechanism 5, our title and challenge, ciphered initiate request | AARE: its title and challenge, ciphered initiate response |
//! | ACTION reply-to-HLS (class 15, method 1): GMAC of its challenge | GMAC of our challenge |
//! | where an earlier attempt may have come through: GET of what it would have changed | the value |
//! | ACTION (disconnect control, token gateway) | its result |
//! | GET of the relay's state or the token's status | the value |
//! | RLRQ, not waited for | RLRE |
//!
//! All but AARQ, AARE, RLRQ and RLRE goes as general-glo-ciphering. **What counts is what the meter
//! sealed:** our challenge is fresh, so its proof cannot be old; each later answer must carry a higher
//! counter and the invoke id of the request. Nothing is sent twice: who gets no answer gives the
//! attempt up, and the next one looks first.

use thiserror::Error;

use super::super::{WireError, Writer};
use super::{
    Association, AssociationKind, Attribute, Ciphered, Initiate, Invoke, Keys, Sealing,
    SecurityControl, Service, TAG_SIZE, hls_gmac,
};
use crate::{Command, CommandOutcome, ControlState, Relay, SystemTitle};

/// Invocation counters that one dialogue uses at most.
pub const DIALOGUE_COUNTERS: u32 = 16;

/// The longest challenge of a meter that is answered; the standard has 8 to 64 bytes.
const CHALLENGE_MAX: usize = 64;
/// The longest ciphered initiate response that is opened.
const INITIATE_MAX: usize = 64;
/// Room for the plain APDUs that are sealed.
const PLAIN_MAX: usize = 64;
/// Longest APDU that we take in an association.
const PDU_SIZE_MAX: u16 = 1024;

/// Why a dialogue does not go on. Another attempt may succeed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum DialogueError {
    /// An answer does not read.
    #[error("the meter's answer does not read")]
    Wire(#[from] WireError),
    /// The meter refused the association. It said so in the clear: anybody could have.
    #[error("the meter refused the association, result {result}, diagnostic {diagnostic}")]
    Association {
        /// 1 for good, 2 for now.
        result: u8,
        /// As in the AARE.
        diagnostic: u8,
    },
    /// The other side does not have the meter's keys, or answers with an old proof.
    #[error("the meter did not prove itself")]
    Unproven,
    /// An answer that does not belong to the request.
    #[error("the meter's answer is not one to the request")]
    Unexpected,
}

/// What a meter said.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// An APDU in the clear: AARE.
    Clear(&'a [u8]),
    /// An APDU that the meter's keys opened.
    Opened {
        /// The plain APDU.
        apdu: &'a [u8],
        /// Its invocation counter.
        counter: u32,
    },
}

/// Where a dialogue stands after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// The next request was written.
    Next,
    /// It is over; a release was written, to which no answer is needed.
    Done(CommandOutcome),
}

/// A command on its way to a meter.
#[derive(Clone, Debug)]
pub struct Dialogue {
    command: Command,
    check_first: bool,
    client: SystemTitle,
    meter: SystemTitle,
    challenge: [u8; 16],
    /// Of our next frame.
    counter: u32,
    invoke: Invoke,
    /// The meter's counter in its last answer.
    floor: u32,
    stage: Stage,
    has_acted: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Associating,
    Proving,
    Checking,
    Acting,
    Reading,
    Over,
}

impl Dialogue {
    /// A command of `client` to `meter`. `check_first`: an earlier attempt may have come through.
    /// `challenge` must be fresh, and the [`DIALOGUE_COUNTERS`] counters from `counter` on must
    /// never have been used under `client` and the meter's keys.
    #[must_use]
    pub const fn new(
        command: Command,
        check_first: bool,
        [client, meter]: [SystemTitle; 2],
        challenge: [u8; 16],
        counter: u32,
    ) -> Self {
        Self {
            command,
            check_first,
            client,
            meter,
            challenge,
            counter,
            invoke: Invoke::new(0),
            floor: 0,
            stage: Stage::Associating,
            has_acted: false,
        }
    }

    /// Whether a request that changes something was written.
    #[must_use]
    pub const fn has_acted(&self) -> bool {
        self.has_acted
    }

    /// Whether the meter has proven itself.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        matches!(self.stage, Stage::Checking | Stage::Acting | Stage::Reading | Stage::Over)
    }

    /// Writes the first APDU, the AARQ.
    ///
    /// # Errors
    /// [`super::super::Fault::Full`].
    pub fn open(&mut self, keys: Keys<'_>, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let mut buf = [0; PLAIN_MAX];
        let initiate = self.initiate(keys, &mut buf)?;
        Association {
            context: Some(3),
            mechanism: Some(5),
            title: Some(self.client.0),
            authentication: Some(&self.challenge),
            user_information: Some(initiate),
            ..Association::new(AssociationKind::Aarq)
        }
        .write(writer)
    }

    /// Takes an answer of the meter and writes what comes next.
    ///
    /// # Errors
    /// [`DialogueError`]; the attempt is over then.
    pub fn hear(
        &mut self,
        heard: Heard<'_>,
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        match (self.stage, heard) {
            (Stage::Associating, Heard::Clear(apdu)) => self.associated(apdu, keys, writer),
            (Stage::Associating | Stage::Over, _) | (_, Heard::Clear(_)) => {
                Err(DialogueError::Unexpected)
            }
            (_, Heard::Opened { counter, .. }) if counter <= self.floor => {
                Err(DialogueError::Unproven)
            }
            (stage, Heard::Opened { apdu, counter }) => {
                self.floor = counter;
                let service = Service::parse(apdu)?;
                self.answered(stage, service, keys, writer)
            }
        }
    }

    /// The meter accepted the association: answer its challenge.
    fn associated(
        &mut self,
        apdu: &[u8],
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        let answer = Association::parse(apdu)?;
        let result = answer.result.unwrap_or(1);
        if answer.kind != AssociationKind::Aare || result != 0 {
            let diagnostic = answer.diagnostic.unwrap_or_default();
            return Err(DialogueError::Association { result, diagnostic });
        }
        if answer.title != Some(self.meter.0) {
            return Err(DialogueError::Unproven);
        }
        let mut buf = [0; INITIATE_MAX];
        let ciphered = answer.user_information.unwrap_or_default();
        let copy = buf.get_mut(..ciphered.len()).ok_or(DialogueError::Unexpected)?;
        copy.copy_from_slice(ciphered);
        let header = Ciphered::peek(copy)?;
        let plain = header.open(copy, self.meter.0, keys).map_err(|_| DialogueError::Unproven)?;
        if !Initiate::parse(plain)?.is_response {
            return Err(DialogueError::Unexpected);
        }
        let challenge = answer.authentication.unwrap_or_default();
        if !(8..=CHALLENGE_MAX).contains(&challenge.len()) || challenge == self.challenge {
            return Err(DialogueError::Unproven);
        }
        self.floor = header.invocation_counter;
        let counter = self.take_counter();
        let proof = proof(self.client, counter, keys, challenge);
        self.stage = Stage::Proving;
        self.act(Attribute::REPLY_TO_HLS, &proof, keys, writer)
    }

    fn answered(
        &mut self,
        stage: Stage,
        service: Service<'_>,
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        match (stage, service) {
            (Stage::Proving, Service::ActionResponse { invoke, result, returned })
                if invoke.id() == self.invoke.id() =>
            {
                if result != 0 || !self.is_proof(returned.and_then(Result::ok), keys) {
                    return Err(DialogueError::Unproven);
                }
                self.begin(keys, writer)
            }
            (Stage::Acting, Service::ActionResponse { invoke, result, .. })
                if invoke.id() == self.invoke.id() =>
            {
                if result != 0 {
                    return self.end(CommandOutcome::Refused { code: result }, keys, writer);
                }
                self.read_back(keys, writer)
            }
            (Stage::Checking | Stage::Reading, Service::GetResponse { invoke, result })
                if invoke.id() == self.invoke.id() =>
            {
                match result {
                    Err(code) => self.end(CommandOutcome::Refused { code }, keys, writer),
                    Ok(data) if stage == Stage::Checking => self.checked(data, keys, writer),
                    Ok(data) => self.read(data, keys, writer),
                }
            }
            _ => Err(DialogueError::Unexpected),
        }
    }

    /// The meter is who it says: the command proper.
    fn begin(&mut self, keys: Keys<'_>, writer: &mut Writer<'_>) -> Result<Turn, DialogueError> {
        match self.command {
            Command::ReadRelay => self.read_back(keys, writer),
            Command::Token(_) if self.check_first => {
                self.stage = Stage::Checking;
                self.get(Attribute::TOKEN, keys, writer)
            }
            Command::Disconnect | Command::Reconnect if self.check_first => {
                self.stage = Stage::Checking;
                self.get(Attribute::CONTROL_STATE, keys, writer)
            }
            Command::Token(_) | Command::Disconnect | Command::Reconnect => {
                self.change(keys, writer)
            }
        }
    }

    /// What the earlier attempt left: the command is done, or it never came through.
    fn checked(
        &mut self,
        data: &[u8],
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        let is_done = match (self.command, data) {
            (Command::Token(token), [0x09, 20, digits @ ..]) => digits == token.ascii(),
            // No token was ever entered.
            (Command::Token(_), _) => false,
            (command @ (Command::Disconnect | Command::ReadRelay | Command::Reconnect), data) => {
                let state = control_state(data).ok_or(DialogueError::Unexpected)?;
                let is_reached = if command == Command::Reconnect {
                    state != ControlState::Disconnected
                } else {
                    state.relay() == Relay::Open
                };
                if is_reached {
                    return self.end(CommandOutcome::Relay { state }, keys, writer);
                }
                false
            }
        };
        if is_done { self.read_back(keys, writer) } else { self.change(keys, writer) }
    }

    fn change(&mut self, keys: Keys<'_>, writer: &mut Writer<'_>) -> Result<Turn, DialogueError> {
        self.stage = Stage::Acting;
        self.has_acted = true;
        match self.command {
            Command::Disconnect => self.act(Attribute::REMOTE_DISCONNECT, &[0x0F, 0], keys, writer),
            Command::Reconnect => self.act(Attribute::REMOTE_RECONNECT, &[0x0F, 0], keys, writer),
            Command::Token(token) => {
                let mut parameter = [0; 22];
                let mut octets = Writer::new(&mut parameter);
                octets.u8(0x09)?;
                octets.sized(token.ascii())?;
                self.act(Attribute::ENTER_TOKEN, octets.written(), keys, writer)
            }
            Command::ReadRelay => self.read_back(keys, writer),
        }
    }

    fn read_back(
        &mut self,
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        self.stage = Stage::Reading;
        let attribute = match self.command {
            Command::Token(_) => Attribute::TOKEN_STATUS,
            Command::Disconnect | Command::Reconnect | Command::ReadRelay => {
                Attribute::CONTROL_STATE
            }
        };
        self.get(attribute, keys, writer)
    }

    fn read(
        &mut self,
        data: &[u8],
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        let outcome = match self.command {
            Command::Token(_) => {
                let (status, data) = token_status(data).ok_or(DialogueError::Unexpected)?;
                let entered_again = self.check_first && self.has_acted;
                CommandOutcome::Token { status, data, entered_again }
            }
            Command::Disconnect | Command::Reconnect | Command::ReadRelay => {
                let state = control_state(data).ok_or(DialogueError::Unexpected)?;
                CommandOutcome::Relay { state }
            }
        };
        self.end(outcome, keys, writer)
    }

    /// Writes the release.
    fn end(
        &mut self,
        outcome: CommandOutcome,
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        self.stage = Stage::Over;
        let mut buf = [0; PLAIN_MAX];
        let initiate = self.initiate(keys, &mut buf)?;
        let release = Association {
            reason: Some(0),
            user_information: Some(initiate),
            ..Association::new(AssociationKind::Rlrq)
        };
        release.write(writer)?;
        Ok(Turn::Done(outcome))
    }

    fn get(
        &mut self,
        attribute: Attribute,
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        let invoke = self.take_invoke();
        self.seal(&Service::GetRequest { invoke, attribute, selection: None }, keys, writer)
    }

    fn act(
        &mut self,
        method: Attribute,
        parameter: &[u8],
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        let invoke = self.take_invoke();
        let parameter = Some(parameter);
        self.seal(&Service::ActionRequest { invoke, method, parameter }, keys, writer)
    }

    fn seal(
        &mut self,
        service: &Service<'_>,
        keys: Keys<'_>,
        writer: &mut Writer<'_>,
    ) -> Result<Turn, DialogueError> {
        let mut buf = [0; PLAIN_MAX];
        let mut plain = Writer::new(&mut buf);
        service.write(&mut plain)?;
        self.sealing(keys).general_glo(plain.written(), writer)?;
        Ok(Turn::Next)
    }

    fn initiate<'b>(&mut self, keys: Keys<'_>, buf: &'b mut [u8]) -> Result<&'b [u8], WireError> {
        let mut plain = [0; 16];
        let mut writer = Writer::new(&mut plain);
        let (conformance, pdu_size_max) = (Initiate::CONFORMANCE, PDU_SIZE_MAX);
        Initiate { is_response: false, conformance, pdu_size_max }.write(&mut writer)?;
        let mut sealed = Writer::new(buf);
        self.sealing(keys).glo(0x21, writer.written(), &mut sealed)?;
        Ok(sealed.written())
    }

    fn sealing<'k>(&mut self, keys: Keys<'k>) -> Sealing<'k> {
        let (title, invocation_counter) = (self.client.0, self.take_counter());
        Sealing { control: SecurityControl::BOTH, title, invocation_counter, keys }
    }

    fn take_counter(&mut self) -> u32 {
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        counter
    }

    fn take_invoke(&mut self) -> Invoke {
        self.invoke = Invoke::new(self.invoke.id().wrapping_add(1));
        self.invoke
    }

    /// Whether this is the meter's answer to our challenge.
    fn is_proof(&self, returned: Option<&[u8]>, keys: Keys<'_>) -> bool {
        let Some([0x09, 17, 0x10, c3, c2, c1, c0, tag @ ..]) = returned else { return false };
        let counter = u32::from_be_bytes([*c3, *c2, *c1, *c0]);
        tag == hls_gmac(self.meter.0, counter, keys, &self.challenge)
    }
}

/// The octet string that answers a challenge: security control 10, counter, tag.
#[must_use]
pub fn proof(
    title: SystemTitle,
    counter: u32,
    keys: Keys<'_>,
    challenge: &[u8],
) -> [u8; 7 + TAG_SIZE] {
    let [c3, c2, c1, c0] = counter.to_be_bytes();
    let [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb] =
        hls_gmac(title.0, counter, keys, challenge);
    [0x09, 17, 0x10, c3, c2, c1, c0, t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb]
}

/// Control state (enum) or output state (boolean).
const fn control_state(data: &[u8]) -> Option<ControlState> {
    match data {
        [0x16, code] => ControlState::from_code(*code),
        [0x03, 0] => Some(ControlState::Disconnected),
        [0x03, _] => Some(ControlState::Connected),
        _ => None,
    }
}

/// The structure {status code, data value}.
fn token_status(data: &[u8]) -> Option<(u8, u32)> {
    let [0x02, 2, 0x16, status, 0x04, bits, bytes @ ..] = data else { return None };
    let is_whole = bytes.len() == usize::from(*bits).div_ceil(8);
    let first = bytes.iter().take(4).fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    (is_whole && *bits < 0x80).then_some((*status, first))
}
