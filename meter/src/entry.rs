//! Entries: everything that changes the books. Entries are appended to the log, made durable,
//! acknowledged, and then fed to the dataflow, in this order.
//!
//! An entry on disk is a tag byte and a body. Tags are never reused:
//!
//! | tag | body |
//! |---|---|
//! | 1 | [`Reading`], fixed layout, 96 bytes |
//! | 2 | [`MeterEvent`], fixed layout, 18 bytes |
//! | 3 | tick: seconds, 4 bytes |
//! | 4 | frame of a gateway: gateway 4, counter 4 |
//! | 5 | [`Neighbours`]: meter 4, from 4, to 4, count 4, readings |
//! | 16 | registry changes: outbox id 8, length 4, JSON array of [`Change`] |

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::stored::stored_struct;
use crate::{Change, GatewayId, MeterEvent, MeterId, OutboxId, Reading, Stored, UnixSeconds};

/// One thing that changes the books.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Entry {
    /// A meter said something.
    Reading(Reading),
    /// Something happened at a meter, a gateway or its link.
    Event(MeterEvent),
    /// The node's clock reached this instant.
    Tick(UnixSeconds),
    /// A gateway's frame with this invocation counter was accepted; its readings follow.
    Frame {
        /// The gateway.
        gateway: GatewayId,
        /// The frame's invocation counter.
        counter: u32,
    },
    /// The accepted readings around a parked one, as asked for by [`crate::Recall`].
    Neighbours(Box<Neighbours>),
    /// The registry changed. Ids reach the log ascending; one already seen is dropped.
    Changes {
        /// The id of the outbox row.
        outbox: OutboxId,
        /// What changed, in order.
        changes: Box<[Change]>,
    },
}

/// Accepted readings of a meter in a window, with the nearest one before and after it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Neighbours {
    /// The meter.
    pub meter: MeterId,
    /// Start of the window asked for, inclusive.
    pub from: UnixSeconds,
    /// End of the window asked for, inclusive.
    pub to: UnixSeconds,
    /// All accepted readings in the window and the nearest outside on each side, ascending.
    pub readings: Vec<Reading>,
}

/// Why bytes are not an entry.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum EntryError {
    /// The bytes end before the entry does, or a code in it is unknown.
    #[error("entry with tag {0} is cut short or holds an unknown code")]
    Body(u8),
    /// A tag of a later version.
    #[error("unknown entry tag {0}; written by a later version")]
    Tag(u8),
    /// No byte at all.
    #[error("no entry")]
    Empty,
    /// The JSON of registry changes does not read.
    #[error("registry changes of outbox row {outbox} do not read: {reason}")]
    Changes {
        /// The outbox row.
        outbox: u64,
        /// What the JSON reader said.
        reason: String,
    },
}

stored_struct!(Neighbours { meter, from, to, readings });

impl Entry {
    /// Appends the entry as it stands on disk.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reading(reading) => {
                out.push(1);
                reading.put(out);
            }
            Self::Event(event) => {
                out.push(2);
                event.put(out);
            }
            Self::Tick(at) => {
                out.push(3);
                at.put(out);
            }
            Self::Frame { gateway, counter } => {
                out.push(4);
                gateway.put(out);
                counter.put(out);
            }
            Self::Neighbours(neighbours) => {
                out.push(5);
                neighbours.put(out);
            }
            Self::Changes { outbox, changes } => {
                out.push(16);
                outbox.0.put(out);
                let json = serde_json::to_vec(changes).expect("changes have string keys only");
                json.put(out);
            }
        }
    }

    /// Takes one entry off the front of `bytes`.
    ///
    /// # Errors
    /// [`EntryError`] when the bytes are no entry of this version; `bytes` is then spoilt.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, EntryError> {
        let tag = u8::take(bytes).ok_or(EntryError::Empty)?;
        let entry = match tag {
            1 => Reading::take(bytes).map(Self::Reading),
            2 => MeterEvent::take(bytes).map(Self::Event),
            3 => UnixSeconds::take(bytes).map(Self::Tick),
            4 => GatewayId::take(bytes)
                .zip(u32::take(bytes))
                .map(|(gateway, counter)| Self::Frame { gateway, counter }),
            5 => Neighbours::take(bytes).map(|neighbours| Self::Neighbours(Box::new(neighbours))),
            16 => return Self::decode_changes(bytes),
            _ => return Err(EntryError::Tag(tag)),
        };
        entry.ok_or(EntryError::Body(tag))
    }

    fn decode_changes(bytes: &mut &[u8]) -> Result<Self, EntryError> {
        let outbox = u64::take(bytes).ok_or(EntryError::Body(16))?;
        let json = Vec::<u8>::take(bytes).ok_or(EntryError::Body(16))?;
        let changes = serde_json::from_slice(&json)
            .map_err(|error| EntryError::Changes { outbox, reason: error.to_string() })?;
        Ok(Self::Changes { outbox: OutboxId(outbox), changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Energy, EventCode, Fields, Policy, Subject};

    fn samples() -> Vec<Entry> {
        let reading = Reading {
            meter: MeterId(7),
            taken_at: UnixSeconds(1_479_686_400),
            register: Energy::from_wh(123_456),
            fields: Fields::POWER,
            ..Reading::default()
        };
        vec![
            Entry::Reading(reading),
            Entry::Event(MeterEvent {
                subject: Subject::Gateway(GatewayId(3)),
                code: EventCode::PowerDown,
                taken_at: UnixSeconds(5),
                received_at: UnixSeconds(6),
                counter: 9,
            }),
            Entry::Tick(UnixSeconds(900)),
            Entry::Frame { gateway: GatewayId(3), counter: 77 },
            Entry::Neighbours(Box::new(Neighbours {
                meter: MeterId(7),
                from: UnixSeconds(0),
                to: UnixSeconds(9),
                readings: vec![reading; 2],
            })),
            Entry::Changes {
                outbox: OutboxId(4),
                changes: Box::new([Change::Policy(Policy::standard())]),
            },
        ]
    }

    #[test]
    fn round_trip_and_every_cut_is_refused() {
        for entry in samples() {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            assert_eq!(Entry::decode(&mut &bytes[..]).as_ref(), Ok(&entry));
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&mut &bytes[..cut]).is_err(), "{entry:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn layout_of_a_reading_is_fixed() {
        let mut bytes = Vec::new();
        samples().remove(0).encode(&mut bytes);
        assert_eq!(bytes.len(), 97);
        assert_eq!(bytes[..9], [1, 7, 0, 0, 0, 0x00, 0x39, 0x32, 0x58]);
    }

    #[test]
    fn a_claimed_count_allocates_nothing() {
        let mut bytes = vec![5];
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Entry::decode(&mut &bytes[..]), Err(EntryError::Body(5)));
    }
}
