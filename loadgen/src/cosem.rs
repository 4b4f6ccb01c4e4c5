//! The server's side of an association in a virtual meter: it proves itself, checks the client's proof,
//! and answers for two objects, disconnect control (class 70) and token gateway (class 115).

use meter::wire::dlms::{
    Association, AssociationKind, Attribute, Ciphered, Initiate, Invoke, Sealing, SecurityControl,
    Service, hls_gmac, proof,
};
use meter::wire::{WireError, Writer};
use meter::{ControlState, Relay, SystemTitle};
use sts::TokenNumber;
use sts::meter::ResultCode;

use crate::device::Identity;
use crate::seed::mix;

/// Room for an APDU.
const APDU_SIZE: usize = 256;
/// Data access and action results.
const DENIED: u8 = 3;
const UNDEFINED: u8 = 4;
const UNMATCHED: u8 = 12;

/// The server's side of one meter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cosem {
    client: Option<Client>,
    tokens: Option<Box<sts::meter::VirtualMeter>>,
    /// The last token and what became of it: status code and the number of the STS result.
    last: Option<([u8; 20], u8, u8)>,
    /// Requests that changed something, each counted once.
    changes: u32,
}

/// The client of the association.
#[derive(Clone, Debug)]
struct Client {
    title: SystemTitle,
    challenge: Vec<u8>,
    ours: [u8; 16],
    is_proven: bool,
    /// Its highest counter.
    floor: u32,
}

/// What a request led to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Asked {
    /// The answer, an APDU.
    pub(crate) answer: Vec<u8>,
    /// How the relay is to be switched.
    pub(crate) switch: Option<Relay>,
}

/// Whether an APDU may be a request to a meter, as far as its tag says.
pub(crate) const fn is_opening(apdu: &[u8]) -> bool {
    matches!(apdu, [0x60 | 0x62, ..])
}

/// The title of who opens an association with this APDU.
pub(crate) fn opener(apdu: &[u8]) -> Option<SystemTitle> {
    Association::parse(apdu).ok()?.title.map(SystemTitle)
}

impl Cosem {
    /// Gives the meter a token meter.
    pub(crate) fn fit(&mut self, tokens: sts::meter::VirtualMeter) {
        self.tokens = Some(Box::new(tokens));
    }

    /// The token meter.
    pub(crate) fn tokens(&self) -> Option<&sts::meter::VirtualMeter> {
        self.tokens.as_deref()
    }

    /// Requests that switched the relay or entered a token.
    pub(crate) const fn changes(&self) -> u32 {
        self.changes
    }

    /// Takes a request; `None` when it is not one to this meter, from a client with its keys.
    pub(crate) fn ask(
        &mut self,
        apdu: &mut [u8],
        identity: &mut Identity,
        relay: Relay,
        now_s: u64,
    ) -> Option<Asked> {
        match apdu.first()? {
            0x60 => self.associate(apdu, identity),
            0x62 => self.release(apdu, identity),
            0xDB => self.serve(apdu, identity, relay, now_s),
            _ => None,
        }
    }

    fn associate(&mut self, apdu: &[u8], identity: &mut Identity) -> Option<Asked> {
        let request = Association::parse(apdu).ok()?;
        let title = SystemTitle(request.title?);
        let known = self.client.as_ref().filter(|client| client.title == title);
        let floor = known.map_or(0, |client| client.floor);
        let counter = initiated(request.user_information?, title, identity)?;
        if counter <= floor || request.context != Some(3) || request.mechanism != Some(5) {
            return None;
        }
        let high = mix(u64::from(identity.next_counter())).to_be_bytes();
        let low = mix(u64::from_be_bytes(high) ^ u64::from(counter)).to_be_bytes();
        let mut ours = [0; 16];
        ours[..8].copy_from_slice(&high);
        ours[8..].copy_from_slice(&low);
        let challenge = request.authentication?.to_vec();
        self.client = Some(Client { title, challenge, ours, is_proven: false, floor: counter });
        let mut information = [0; 64];
        let user_information = initiate(identity, &mut information).ok()?;
        let answer = Association {
            context: Some(3),
            result: Some(0),
            diagnostic: Some(14), // Authentication required: the client's proof is to come.
            title: Some(identity.title().0),
            mechanism: Some(5),
            authentication: Some(&ours),
            user_information: Some(user_information),
            ..Association::new(AssociationKind::Aare)
        };
        written(|writer| answer.write(writer)).map(Asked::answer)
    }

    fn release(&mut self, apdu: &[u8], identity: &Identity) -> Option<Asked> {
        let request = Association::parse(apdu).ok()?;
        let client = self.client.as_mut()?;
        let counter = initiated(request.user_information?, client.title, identity)?;
        if counter <= client.floor {
            return None;
        }
        client.floor = counter;
        client.is_proven = false;
        let answer = Association { reason: Some(0), ..Association::new(AssociationKind::Rlre) };
        written(|writer| answer.write(writer)).map(Asked::answer)
    }

    fn serve(
        &mut self,
        apdu: &mut [u8],
        identity: &mut Identity,
        relay: Relay,
        now_s: u64,
    ) -> Option<Asked> {
        let client = self.client.as_mut()?;
        let header = Ciphered::peek(apdu).ok()?;
        let title = client.title;
        if header.title != Some(title.0) || header.invocation_counter <= client.floor {
            return None;
        }
        let plain = header.open(apdu, title.0, identity.keys()).ok()?;
        client.floor = header.invocation_counter;
        let (mut switch, mut buf) = (None, [0; 64]);
        let asked = Service::parse(plain).ok()?;
        let response = if let Service::ActionRequest { invoke, method, parameter } = asked {
            self.act(invoke, method, parameter, identity, now_s, &mut switch, &mut buf)
        } else if let Service::GetRequest { invoke, attribute, .. } = asked {
            let result = self.get(attribute, relay, &mut buf);
            Service::GetResponse { invoke, result }
        } else {
            return None;
        };
        self.changes += u32::from(switch.is_some());
        let plain = written(|writer| response.write(writer))?;
        let sealing = sealing(identity);
        let answer = written(|writer| sealing.general_glo(&plain, writer))?;
        Some(Asked { answer, switch })
    }

    #[expect(clippy::too_many_arguments, reason = "a request, and what it may touch")]
    fn act<'b>(
        &mut self,
        invoke: Invoke,
        method: Attribute,
        parameter: Option<&[u8]>,
        identity: &mut Identity,
        now_s: u64,
        switch: &mut Option<Relay>,
        buf: &'b mut [u8; 64],
    ) -> Service<'b> {
        let plain = |result| Service::ActionResponse { invoke, result, returned: None };
        let Some(client) = &mut self.client else { return plain(DENIED) };
        if method == Attribute::REPLY_TO_HLS {
            if !is_proof(parameter, client, identity) {
                return plain(DENIED);
            }
            client.is_proven = true;
            let counter = identity.next_counter();
            let proof = proof(identity.title(), counter, identity.keys(), &client.challenge);
            let proof_size = proof.len();
            buf[..proof_size].copy_from_slice(&proof);
            let returned = Some(Ok(&buf[..proof_size]));
            return Service::ActionResponse { invoke, result: 0, returned };
        }
        if !client.is_proven {
            return plain(DENIED);
        }
        match (method, parameter) {
            (Attribute::REMOTE_DISCONNECT, Some([0x0F, 0])) => *switch = Some(Relay::Open),
            (Attribute::REMOTE_RECONNECT, Some([0x0F, 0])) => *switch = Some(Relay::Closed),
            (Attribute::ENTER_TOKEN, Some([0x09, 20, digits @ ..])) if self.tokens.is_some() => {
                match digits.try_into() {
                    Ok(digits) => self.enter(digits, now_s),
                    Err(_) => return plain(UNMATCHED),
                }
            }
            _ => return plain(UNDEFINED),
        }
        plain(0)
    }

    fn get<'b>(
        &self,
        attribute: Attribute,
        relay: Relay,
        buf: &'b mut [u8; 64],
    ) -> Result<&'b [u8], u8> {
        if !self.client.as_ref().is_some_and(|client| client.is_proven) {
            return Err(DENIED);
        }
        let size = match (attribute, self.last) {
            (Attribute::CONTROL_STATE, _) => {
                let state = match relay {
                    Relay::Open => ControlState::Disconnected,
                    Relay::Closed => ControlState::Connected,
                };
                buf[..2].copy_from_slice(&[0x16, state.code()]);
                2
            }
            (Attribute::TOKEN, Some((digits, ..))) if self.tokens.is_some() => {
                buf[..2].copy_from_slice(&[0x09, 20]);
                buf[2..22].copy_from_slice(&digits);
                22
            }
            (Attribute::TOKEN, None) if self.tokens.is_some() => {
                buf[..2].copy_from_slice(&[0x09, 0]);
                2
            }
            (Attribute::TOKEN_STATUS, last) if self.tokens.is_some() => {
                let (_, status, data) = last.unwrap_or_default();
                buf[..7].copy_from_slice(&[0x02, 2, 0x16, status, 0x04, 8, data]);
                7
            }
            _ => return Err(UNDEFINED),
        };
        Ok(&buf[..size])
    }

    fn enter(&mut self, digits: [u8; 20], now_s: u64) {
        let Some(tokens) = &mut self.tokens else { return };
        self.changes += 1;
        let number = digits.iter().try_fold(0_u128, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u128::from(digit & 0x0F))
        });
        let number = number.and_then(|number| TokenNumber::new(number).ok());
        let result = number.map_or(ResultCode::Format, |number| tokens.enter(number, now_s));
        self.last = Some((digits, status(result), result.number().unwrap_or_default()));
    }
}

impl Asked {
    const fn answer(answer: Vec<u8>) -> Self {
        Self { answer, switch: None }
    }
}

/// The status code of the token gateway for an STS result.
const fn status(result: ResultCode) -> u8 {
    match result {
        ResultCode::Accept
        | ResultCode::FirstKct
        | ResultCode::SecondKct
        | ResultCode::ThirdKct
        | ResultCode::FourthKct => 3,
        ResultCode::Format => 4,
        ResultCode::Crc | ResultCode::MfrCode => 5,
        ResultCode::KeyType
        | ResultCode::Range
        | ResultCode::Function
        | ResultCode::Old
        | ResultCode::Used
        | ResultCode::KeyExpired
        | ResultCode::Ddtk => 6,
        ResultCode::Overflow | ResultCode::Lockout => 7,
        // A code that this meter does not know yet.
        _ => 6,
    }
}

/// The counter of a ciphered initiate request that this meter's keys open.
fn initiated(information: &[u8], client: SystemTitle, identity: &Identity) -> Option<u32> {
    let mut copy = information.to_vec();
    let header = Ciphered::peek(&copy).ok()?;
    let plain = header.open(&mut copy, client.0, identity.keys()).ok()?;
    let is_request = !Initiate::parse(plain).ok()?.is_response;
    is_request.then_some(header.invocation_counter)
}

fn initiate<'b>(identity: &mut Identity, buf: &'b mut [u8]) -> Result<&'b [u8], WireError> {
    let mut plain = [0; 16];
    let mut writer = Writer::new(&mut plain);
    let conformance = Initiate::CONFORMANCE;
    Initiate { is_response: true, conformance, pdu_size_max: 1024 }.write(&mut writer)?;
    let plain = writer.written();
    let mut sealed = Writer::new(buf);
    sealing(identity).glo(0x28, plain, &mut sealed)?;
    Ok(sealed.written())
}

fn sealing(identity: &mut Identity) -> Sealing<'_> {
    let (title, invocation_counter) = (identity.title().0, identity.next_counter());
    Sealing { control: SecurityControl::BOTH, title, invocation_counter, keys: identity.keys() }
}

fn is_proof(parameter: Option<&[u8]>, client: &Client, identity: &Identity) -> bool {
    let Some([0x09, 17, 0x10, counter @ .., _, _, _, _, _, _, _, _, _, _, _, _]) = parameter else {
        return false;
    };
    let Ok(counter) = counter.try_into().map(u32::from_be_bytes) else { return false };
    let tag = hls_gmac(client.title.0, counter, identity.keys(), &client.ours);
    parameter.is_some_and(|parameter| parameter.ends_with(&tag))
}

fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>) -> Option<Vec<u8>> {
    let mut buf = [0; APDU_SIZE];
    let mut writer = Writer::new(&mut buf);
    write(&mut writer).ok()?;
    Some(writer.written().to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meter::wire::dlms::{Dialogue, Heard, Turn};
    use meter::{Command, CommandOutcome, Energy, TokenDigits, UnixSeconds};

    use super::*;
    use crate::device::{Now, Retry};
    use crate::plan::{MeterClock, MeterPlan, World};
    use crate::profile::Load;
    use crate::{Seed, VirtualMeter};

    const START: UnixSeconds = UnixSeconds(1_790_000_100);
    const CLIENT: SystemTitle = SystemTitle(*b"MTDHEAD2");

    fn meter() -> VirtualMeter {
        let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(1) };
        let world = World { seed: Seed(5), retry, window: 1, pace: 1 };
        let plan = MeterPlan {
            ordinal: 1,
            load: Load { site: 31, days_ahead: 0, scale_milli: 1000 },
            phases: 1,
            first: START,
            last: START.plus(86_400),
            period_s: 900,
            send_delay_s: 0,
            start: Energy::from_wh(0),
            register_digits: 6,
            clock: MeterClock::default(),
        };
        VirtualMeter::new(&world, plan)
    }

    fn dialogue(
        meter: &VirtualMeter,
        command: Command,
        check_first: bool,
        counter: u32,
    ) -> Dialogue {
        let titles = [CLIENT, meter.identity().title()];
        Dialogue::new(command, check_first, titles, [counter.to_be_bytes()[3]; 16], counter)
    }

    /// Runs a dialogue; gives up in front of the meter's answer number `lost`.
    fn talk(
        meter: &mut VirtualMeter,
        mut dialogue: Dialogue,
        lost: Option<usize>,
    ) -> Option<CommandOutcome> {
        let now = Now { clock: START.plus(60), wall: Duration::ZERO };
        let identity = meter.identity().clone();
        let mut request = written(|writer| dialogue.open(identity.keys(), writer)).unwrap();
        for number in 0.. {
            let mut answer = meter.ask(&mut request, now)?;
            if lost == Some(number) {
                return None;
            }
            let mut turn = None;
            request = if answer[0] == 0x61 {
                let heard = Heard::Clear(&answer);
                written(|writer| {
                    turn = dialogue.hear(heard, identity.keys(), writer).ok();
                    Ok(())
                })
                .unwrap()
            } else {
                let header = Ciphered::peek(&answer).unwrap();
                let title = header.title.unwrap();
                let counter = header.invocation_counter;
                let apdu = header.open(&mut answer, title, identity.keys()).unwrap();
                let heard = Heard::Opened { apdu, counter };
                written(|writer| {
                    turn = dialogue.hear(heard, identity.keys(), writer).ok();
                    Ok(())
                })
                .unwrap()
            };
            match turn? {
                Turn::Next => {}
                Turn::Done(outcome) => {
                    let released = meter.ask(&mut request, now).unwrap();
                    assert_eq!(released[0], 0x63, "the release is answered");
                    return Some(outcome);
                }
            }
        }
        None
    }

    const OPEN: CommandOutcome = CommandOutcome::Relay { state: ControlState::Disconnected };

    #[test]
    fn a_relay_is_switched_and_read_back() {
        let mut meter = meter();
        let cut = dialogue(&meter, Command::Disconnect, false, 16);
        assert_eq!(talk(&mut meter, cut, None), Some(OPEN));
        let read = dialogue(&meter, Command::ReadRelay, false, 32);
        assert_eq!(talk(&mut meter, read, None), Some(OPEN));
        let mend = dialogue(&meter, Command::Reconnect, false, 48);
        let closed = CommandOutcome::Relay { state: ControlState::Connected };
        assert_eq!(talk(&mut meter, mend, None), Some(closed));
        assert_eq!(meter.changes(), 2);
        let token = TokenDigits::new(*b"12345678901234567890").unwrap();
        let token = dialogue(&meter, Command::Token(token), false, 64);
        let refused = CommandOutcome::Refused { code: UNDEFINED };
        assert_eq!(talk(&mut meter, token, None), Some(refused), "no token gateway");
    }

    /// Whichever answer is lost, the attempt after it does not switch twice.
    #[test]
    fn a_lost_answer_is_looked_up() {
        for lost in 0..4 {
            let mut meter = meter();
            let first = dialogue(&meter, Command::Disconnect, false, 16);
            assert_eq!(talk(&mut meter, first, Some(lost)), None, "answer {lost}");
            let again = dialogue(&meter, Command::Disconnect, true, 32);
            assert_eq!(talk(&mut meter, again, None), Some(OPEN), "answer {lost}");
            assert_eq!(meter.changes(), 1, "answer {lost}");
        }
    }

    #[test]
    fn a_used_counter_opens_nothing() {
        let mut meter = meter();
        let cut = dialogue(&meter, Command::Disconnect, false, 16);
        assert!(talk(&mut meter, cut, None).is_some());
        let replayed = dialogue(&meter, Command::Reconnect, false, 16);
        assert_eq!(talk(&mut meter, replayed, None), None);
    }
}
