//! GET, SET, ACTION and event services: what the head-end asks a meter, and its answers.
//!
//! | apdu | layout after tag and choice |
//! | --- | --- |
//! | C0 GET request | 01 invoke attribute [selection]; 02 invoke block(4); 03 invoke list |
//! | C4 GET response | 01 invoke result; 02 invoke last block(4) result; 03 invoke list |
//! | C1 SET request | 01 invoke attribute [selection] data |
//! | C5 SET response | 01 invoke result code |
//! | C3 ACTION request | 01 invoke method (parameter) |
//! | C7 ACTION response | 01 invoke result code [data] |
//! | C2 event notification | (time) attribute data; no choice, no invoke byte |
//! | D8 exception response | state error, service error (counter) |
//!
//! An attribute (or method) is class(2), OBIS code(6), index(1); what is in brackets has a byte 00
//! or 01 before it. Block sizes, lists and the D9/DA ACCESS services beyond these are not read.
//!
//! Over 500 lines with its tests: the code of one byte layout stays in one file.

use super::super::{Fault, Reader, WireError, Writer};
use super::{DateTime, Obis, Walker};

/// The invoke byte: bit 7 priority, bit 6 confirmed, low nibble the id that an answer repeats.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Invoke(pub u8);

impl Invoke {
    /// A confirmed request of high priority; only the low 4 bits of `id` count.
    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self(0xC0 | id & 0x0F)
    }

    /// What an answer repeats.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0 & 0x0F
    }
}

/// An attribute or a method of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attribute {
    /// The interface class: 3 register, 70 disconnect control, 115 token gateway.
    pub class: u16,
    /// The object.
    pub code: Obis,
    /// The attribute or method of it; 2 is the value of most classes.
    pub index: i8,
}

impl Attribute {
    /// Method 1 of disconnect control: open the supply relay. Its parameter is `integer 0`.
    pub const REMOTE_DISCONNECT: Self =
        Self { class: 70, code: Obis([0, 0, 96, 3, 10, 255]), index: 1 };
    /// Method 2 of disconnect control: close the relay, or let the customer close it.
    pub const REMOTE_RECONNECT: Self = Self { index: 2, ..Self::REMOTE_DISCONNECT };
    /// Attribute 3 of disconnect control: enum 0 disconnected, 1 connected, 2 ready to reconnect.
    pub const CONTROL_STATE: Self = Self { index: 3, ..Self::REMOTE_DISCONNECT };
    /// Method 1 of the token gateway: enter a token, an octet string.
    pub const ENTER_TOKEN: Self = Self { class: 115, code: Obis([0, 0, 19, 40, 0, 255]), index: 1 };
    /// Attribute 2 of the token gateway: the last token, an octet string.
    pub const TOKEN: Self = Self { index: 2, ..Self::ENTER_TOKEN };
    /// Method 1 of the current association: the answer to the other side's challenge.
    pub const REPLY_TO_HLS: Self = Self { class: 15, code: Obis([0, 0, 40, 0, 0, 255]), index: 1 };
    /// Attribute 6 of the token gateway: what became of the last token.
    pub const TOKEN_STATUS: Self = Self { index: 6, ..Self::ENTER_TOKEN };

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let class = reader.u16()?;
        let code = Obis(reader.array()?);
        let index = reader.array().map(i8::from_be_bytes)?;
        Ok(Self { class, code, index })
    }

    fn write(self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        writer.u16(self.class)?;
        writer.put(&self.code.0)?;
        writer.put(&self.index.to_be_bytes())
    }
}

/// A selector and its parameter: which part of an attribute is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Selection<'a> {
    /// 1 by range, 2 by entry.
    pub selector: u8,
    /// One A-XDR value.
    pub parameter: &'a [u8],
}

/// What a GET brought: one A-XDR value, or the code of a data access result.
pub type Fetched<'a> = Result<&'a [u8], u8>;

/// A service's APDU. Data are single A-XDR values, not walked yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the table above")]
pub enum Service<'a> {
    GetRequest {
        invoke: Invoke,
        attribute: Attribute,
        selection: Option<Selection<'a>>,
    },
    GetNextRequest {
        invoke: Invoke,
        block: u32,
    },
    /// `attributes`: count, then attributes with selections.
    GetListRequest {
        invoke: Invoke,
        attributes: &'a [u8],
    },
    GetResponse {
        invoke: Invoke,
        result: Fetched<'a>,
    },
    /// A piece of one A-XDR value.
    GetBlockResponse {
        invoke: Invoke,
        is_last: bool,
        block: u32,
        result: Fetched<'a>,
    },
    /// `results`: count, then results.
    GetListResponse {
        invoke: Invoke,
        results: &'a [u8],
    },
    SetRequest {
        invoke: Invoke,
        attribute: Attribute,
        selection: Option<Selection<'a>>,
        data: &'a [u8],
    },
    SetResponse {
        invoke: Invoke,
        result: u8,
    },
    ActionRequest {
        invoke: Invoke,
        method: Attribute,
        parameter: Option<&'a [u8]>,
    },
    ActionResponse {
        invoke: Invoke,
        result: u8,
        returned: Option<Fetched<'a>>,
    },
    EventNotification {
        time: Option<DateTime>,
        attribute: Attribute,
        data: &'a [u8],
    },
    /// `counter`: the invocation counter that the meter would accept next.
    ExceptionResponse {
        state: u8,
        service: u8,
        counter: Option<u32>,
    },
}

impl<'a> Service<'a> {
    /// Whether an APDU with this tag is one of these services.
    #[must_use]
    pub const fn is(tag: u8) -> bool {
        matches!(tag, 0xC0..=0xC5 | 0xC7 | 0xD8)
    }

    /// Parses a plain APDU of tag C0 to C7 or D8, its data walked once to see that they are whole.
    ///
    /// # Errors
    /// [`Fault::Apdu`], [`Fault::Choice`], [`Fault::Truncated`], [`Fault::Trailing`], and those of
    /// [`Walker::next`].
    pub fn parse(apdu: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(apdu);
        let service = match reader.u8()? {
            0xC0 => get_request(&mut reader),
            0xC1 => set_request(&mut reader),
            0xC2 => event(&mut reader),
            0xC3 => action_request(&mut reader),
            0xC4 => get_response(&mut reader),
            0xC5 => {
                let invoke = normal(&mut reader)?;
                Ok(Self::SetResponse { invoke, result: reader.u8()? })
            }
            0xC7 => action_response(&mut reader),
            0xD8 => exception(&mut reader),
            other => Err(WireError::new(Fault::Apdu(other), 0)),
        }?;
        reader.finish()?;
        Ok(service)
    }

    /// Writes the APDU.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        match *self {
            Self::GetRequest { invoke, attribute, selection } => {
                writer.put(&[0xC0, 1, invoke.0])?;
                attribute.write(writer)?;
                write_selection(selection, writer)
            }
            Self::GetNextRequest { invoke, block } => {
                writer.put(&[0xC0, 2, invoke.0])?;
                writer.u32(block)
            }
            Self::GetListRequest { invoke, attributes } => {
                writer.put(&[0xC0, 3, invoke.0])?;
                writer.put(attributes)
            }
            Self::GetResponse { invoke, result } => {
                writer.put(&[0xC4, 1, invoke.0])?;
                write_fetched(result, writer)
            }
            Self::GetBlockResponse { invoke, is_last, block, result } => {
                writer.put(&[0xC4, 2, invoke.0, is_last.into()])?;
                writer.u32(block)?;
                match result {
                    Ok(piece) => {
                        writer.u8(0)?;
                        writer.sized(piece)
                    }
                    Err(code) => writer.put(&[1, code]),
                }
            }
            Self::GetListResponse { invoke, results } => {
                writer.put(&[0xC4, 3, invoke.0])?;
                writer.put(results)
            }
            Self::SetRequest { invoke, attribute, selection, data } => {
                writer.put(&[0xC1, 1, invoke.0])?;
                attribute.write(writer)?;
                write_selection(selection, writer)?;
                writer.put(data)
            }
            Self::SetResponse { invoke, result } => writer.put(&[0xC5, 1, invoke.0, result]),
            Self::ActionRequest { invoke, method, parameter } => {
                writer.put(&[0xC3, 1, invoke.0])?;
                method.write(writer)?;
                write_optional(parameter, writer)
            }
            Self::ActionResponse { invoke, result, returned } => {
                writer.put(&[0xC7, 1, invoke.0, result, returned.is_some().into()])?;
                returned.map_or(Ok(()), |fetched| write_fetched(fetched, writer))
            }
            Self::EventNotification { time, attribute, data } => {
                writer.put(&[0xC2, time.is_some().into()])?;
                if let Some(DateTime(bytes)) = time {
                    writer.sized(&bytes)?;
                }
                attribute.write(writer)?;
                writer.put(data)
            }
            Self::ExceptionResponse { state, service, counter } => {
                writer.put(&[0xD8, state, service])?;
                counter.map_or(Ok(()), |counter| writer.u32(counter))
            }
        }
    }
}

fn get_request<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let (choice, invoke) = choice(reader, "GET request", 3)?;
    Ok(match choice {
        1 => {
            let attribute = Attribute::read(reader)?;
            Service::GetRequest { invoke, attribute, selection: selection(reader)? }
        }
        2 => Service::GetNextRequest { invoke, block: reader.u32()? },
        _ => Service::GetListRequest { invoke, attributes: rest(reader)? },
    })
}

fn get_response<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let (choice, invoke) = choice(reader, "GET response", 3)?;
    Ok(match choice {
        1 => Service::GetResponse { invoke, result: fetched(reader)? },
        2 => {
            let is_last = reader.u8()? != 0;
            let block = reader.u32()?;
            let result =
                if flag(reader, "result")? { Err(reader.u8()?) } else { Ok(reader.sized()?) };
            Service::GetBlockResponse { invoke, is_last, block, result }
        }
        _ => Service::GetListResponse { invoke, results: rest(reader)? },
    })
}

fn set_request<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let invoke = normal(reader)?;
    let attribute = Attribute::read(reader)?;
    let selection = selection(reader)?;
    Ok(Service::SetRequest { invoke, attribute, selection, data: data(reader)? })
}

fn action_request<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let invoke = normal(reader)?;
    let method = Attribute::read(reader)?;
    let parameter = if flag(reader, "parameter")? { Some(data(reader)?) } else { None };
    Ok(Service::ActionRequest { invoke, method, parameter })
}

fn action_response<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let invoke = normal(reader)?;
    let result = reader.u8()?;
    let returned = if flag(reader, "return value")? { Some(fetched(reader)?) } else { None };
    Ok(Service::ActionResponse { invoke, result, returned })
}

fn event<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let time = if flag(reader, "time")? {
        let start = *reader;
        match reader.length()? {
            12 => Some(DateTime(reader.array()?)),
            other => return Err(start.fault(Fault::Length(other))),
        }
    } else {
        None
    };
    let attribute = Attribute::read(reader)?;
    Ok(Service::EventNotification { time, attribute, data: data(reader)? })
}

fn exception<'a>(reader: &mut Reader<'a>) -> Result<Service<'a>, WireError> {
    let (state, service) = (reader.u8()?, reader.u8()?);
    let counter = if reader.left().is_empty() { None } else { Some(reader.u32()?) };
    Ok(Service::ExceptionResponse { state, service, counter })
}

/// The choice byte, from 1 to `max`, and the invoke byte.
fn choice(reader: &mut Reader<'_>, what: &'static str, max: u8) -> Result<(u8, Invoke), WireError> {
    let start = *reader;
    match reader.u8()? {
        choice if (1..=max).contains(&choice) => Ok((choice, Invoke(reader.u8()?))),
        got => Err(start.fault(Fault::Choice { what, got })),
    }
}

fn normal(reader: &mut Reader<'_>) -> Result<Invoke, WireError> {
    choice(reader, "form of this service", 1).map(|(_, invoke)| invoke)
}

/// The byte 00 or 01 before what may be absent, or between two alternatives.
fn flag(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, WireError> {
    let start = *reader;
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        got => Err(start.fault(Fault::Choice { what, got })),
    }
}

fn selection<'a>(reader: &mut Reader<'a>) -> Result<Option<Selection<'a>>, WireError> {
    if !flag(reader, "selection")? {
        return Ok(None);
    }
    Ok(Some(Selection { selector: reader.u8()?, parameter: data(reader)? }))
}

fn fetched<'a>(reader: &mut Reader<'a>) -> Result<Fetched<'a>, WireError> {
    Ok(if flag(reader, "result")? { Err(reader.u8()?) } else { Ok(data(reader)?) })
}

/// One A-XDR value.
fn data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let size = Walker::value_size(reader.left()).map_err(|error| error.shifted(reader.at()))?;
    reader.take(size)
}

fn rest<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    reader.take(reader.left().len())
}

fn write_selection(
    selection: Option<Selection<'_>>,
    writer: &mut Writer<'_>,
) -> Result<(), WireError> {
    let Some(Selection { selector, parameter }) = selection else { return writer.u8(0) };
    writer.put(&[1, selector])?;
    writer.put(parameter)
}

fn write_optional(data: Option<&[u8]>, writer: &mut Writer<'_>) -> Result<(), WireError> {
    writer.u8(data.is_some().into())?;
    writer.put(data.unwrap_or_default())
}

fn write_fetched(fetched: Fetched<'_>, writer: &mut Writer<'_>) -> Result<(), WireError> {
    match fetched {
        Ok(data) => {
            writer.u8(0)?;
            writer.put(data)
        }
        Err(code) => writer.put(&[1, code]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `bytes` as `want`, and writes `want` as `bytes`.
    fn check(bytes: &[u8], want: Service<'_>) {
        assert_eq!(Service::parse(bytes), Ok(want), "bytes={bytes:02x?}");
        let mut buf = [0; 128];
        let mut writer = Writer::new(&mut buf);
        want.write(&mut writer).unwrap();
        assert_eq!(writer.written(), bytes);
    }

    const INVOKE: Invoke = Invoke(0xC1);
    const REGISTER: Attribute = Attribute { class: 3, code: Obis([1, 0, 1, 8, 0, 255]), index: 2 };

    /// As gurux-dlms 1.0.203 and dlms-cosem-rs 0.1.0 exchanged them.
    #[test]
    fn frames_of_independent_peers() {
        check(
            &[0xC0, 1, 0xC1, 0, 3, 1, 0, 1, 8, 0, 255, 2, 0],
            Service::GetRequest { invoke: INVOKE, attribute: REGISTER, selection: None },
        );
        check(
            &[0xC4, 1, 0xC1, 0, 6, 0, 0xBC, 0x61, 0x4E],
            Service::GetResponse { invoke: INVOKE, result: Ok(&[6, 0, 0xBC, 0x61, 0x4E]) },
        );
        check(&[0xC4, 1, 0xC1, 1, 4], Service::GetResponse { invoke: INVOKE, result: Err(4) });
        check(
            &[0xC3, 1, 0xC1, 0, 0x46, 0, 0, 0x60, 3, 0x0A, 0xFF, 1, 1, 0x0F, 0],
            Service::ActionRequest {
                invoke: Invoke::new(1),
                method: Attribute::REMOTE_DISCONNECT,
                parameter: Some(&[0x0F, 0]),
            },
        );
        check(
            &[0xC7, 1, 0xC1, 0, 0],
            Service::ActionResponse { invoke: INVOKE, result: 0, returned: None },
        );
        let token = *b"\x09\x1412345678901234567890";
        let head = [0xC3, 1, 0xC1, 0, 0x73, 0, 0, 0x13, 0x28, 0, 0xFF, 1, 1];
        check(
            &[&head[..], &token].concat(),
            Service::ActionRequest {
                invoke: INVOKE,
                method: Attribute::ENTER_TOKEN,
                parameter: Some(&token),
            },
        );
        let entries = [2, 4, 6, 0, 0, 0, 1, 6, 0, 0, 0, 3, 0x12, 0, 1, 0x12, 0, 0];
        let head = [0xC0, 1, 0xC1, 0, 7, 1, 0, 0x63, 1, 0, 0xFF, 2, 1, 2];
        check(
            &[&head[..], &entries].concat(),
            Service::GetRequest {
                invoke: INVOKE,
                attribute: Attribute { class: 7, code: Obis([1, 0, 99, 1, 0, 255]), index: 2 },
                selection: Some(Selection { selector: 2, parameter: &entries }),
            },
        );
    }

    #[test]
    fn the_other_forms() {
        let block = Service::GetBlockResponse {
            invoke: INVOKE,
            is_last: true,
            block: 7,
            result: Ok(&[1, 2, 3]),
        };
        check(&[0xC4, 2, 0xC1, 1, 0, 0, 0, 7, 0, 3, 1, 2, 3], block);
        check(&[0xC0, 2, 0xC1, 0, 0, 0, 7], Service::GetNextRequest { invoke: INVOKE, block: 7 });
        check(
            &[0xC1, 1, 0xC1, 0, 3, 1, 0, 1, 8, 0, 255, 2, 0, 0x11, 5],
            Service::SetRequest {
                invoke: INVOKE,
                attribute: REGISTER,
                selection: None,
                data: &[0x11, 5],
            },
        );
        check(&[0xC5, 1, 0xC1, 3], Service::SetResponse { invoke: INVOKE, result: 3 });
        check(
            &[0xC7, 1, 0xC1, 0, 1, 0, 0x11, 5],
            Service::ActionResponse { invoke: INVOKE, result: 0, returned: Some(Ok(&[0x11, 5])) },
        );
        check(
            &[0xC2, 0, 0, 3, 1, 0, 1, 8, 0, 255, 2, 0x11, 5],
            Service::EventNotification { time: None, attribute: REGISTER, data: &[0x11, 5] },
        );
        check(
            &[0xD8, 1, 6, 0, 0, 0, 9],
            Service::ExceptionResponse { state: 1, service: 6, counter: Some(9) },
        );
    }

    fn check_broken(bytes: &[u8], fault: Fault, offset: usize) {
        let want = Err(WireError::new(fault, offset));
        assert_eq!(Service::parse(bytes), want, "bytes={bytes:02x?}");
    }

    #[test]
    fn broken_frames() {
        check_broken(&[], Fault::Truncated { missing: 1 }, 0);
        check_broken(&[0x60, 0], Fault::Apdu(0x60), 0);
        check_broken(&[0xC0, 4, 0xC1], Fault::Choice { what: "GET request", got: 4 }, 1);
        check_broken(&[0xC0, 1, 0xC1, 0, 3], Fault::Truncated { missing: 6 }, 5);
        check_broken(&[0xC4, 1, 0xC1, 2], Fault::Choice { what: "result", got: 2 }, 3);
        check_broken(&[0xC4, 1, 0xC1, 0, 6, 0], Fault::Truncated { missing: 3 }, 5);
        check_broken(&[0xC4, 1, 0xC1, 0, 0x11, 5, 9], Fault::Trailing { count: 1 }, 6);
        check_broken(&[0xC7, 1, 0xC1, 0, 0, 9], Fault::Trailing { count: 1 }, 5);
    }

    proptest! {
        #[test]
        fn what_reads_writes_the_same(
            tag in prop_oneof![0xC0_u8..=0xC7, Just(0xD8)],
            tail in proptest::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..40),
        ) {
            let bytes = [&[tag], &tail[..]].concat();
            if let Ok(service) = Service::parse(&bytes) {
                let mut buf = [0; 128];
                let mut writer = Writer::new(&mut buf);
                service.write(&mut writer).unwrap();
                let written = writer.written().to_vec();
                prop_assert_eq!(Service::parse(&written), Ok(service));
            }
        }
    }
}
