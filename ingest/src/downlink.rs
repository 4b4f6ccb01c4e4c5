//! A shard's way down to devices: errands that wait until their device speaks or their pause is over,
//! dialogues under way, and the frames they want sent.
//!
//! The receive path pays for it only while an errand waits. Behind a gateway a meter is addressed by
//! the prefix of the gateway protocol: `E6` (request) or `E7` (response), network id, length and
//! address, which is the meter's system title.

use std::collections::BTreeMap;
use std::time::Duration;

use meter::SystemTitle;
use meter::wire::dlms::{Dialogue, DialogueError, Heard, Turn, Wrapper};
use meter::wire::{WireError, Writer};

use crate::batch::Destination;
use crate::directory::{Directory, RecordIndex};
use crate::errand::{Errand, ErrandEnd, ErrandFailure, ErrandReport, Errands};

/// First byte of a request through a gateway.
const PREFIX_REQUEST: u8 = 0xE6;
/// First byte of a response through a gateway.
const PREFIX_RESPONSE: u8 = 0xE7;
/// Prefix, network id, length, system title.
pub(crate) const PREFIX_SIZE: usize = 11;
/// The management client and the management logical device.
const APPLICATION: u16 = 1;
/// Room for a request with all its coats.
const FRAME_SIZE: usize = 256;
/// Errands taken from the port in one turn.
const TAKEN_MAX: usize = 64;

/// A frame for a device.
pub(crate) struct Outgoing {
    pub(crate) to: Destination,
    pub(crate) frame: Vec<u8>,
}

/// A shard's way down.
pub(crate) struct Downlink {
    port: Box<dyn Errands>,
    shard: u16,
    client: SystemTitle,
    /// By the device that must be heard: the gateway, else the meter.
    waiting: BTreeMap<RecordIndex, Vec<Waiting>>,
    /// By meter.
    running: BTreeMap<RecordIndex, Running>,
    /// Devices with a session on a stream of this shard.
    sessions: BTreeMap<RecordIndex, Destination>,
    outgoing: Vec<Outgoing>,
    /// When something is due, at the latest.
    next_look: Option<Duration>,
}

struct Waiting {
    errand: Errand,
    meter: RecordIndex,
    due: Duration,
}

struct Running {
    id: u64,
    dialogue: Dialogue,
    to: Destination,
    /// The meter's title where a gateway must pass the frames on.
    behind: Option<SystemTitle>,
    speaker: RecordIndex,
    deadline: Duration,
    answer_max: Duration,
    is_near: bool,
}

impl Downlink {
    /// `client`: the title that requests are sealed under, another than that of acknowledgements,
    /// so that their counters cannot meet.
    pub(crate) fn new(port: Box<dyn Errands>, shard: u16, client: SystemTitle) -> Self {
        Self {
            port,
            shard,
            client,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            sessions: BTreeMap::new(),
            outgoing: Vec::new(),
            next_look: None,
        }
    }

    /// Takes new errands, starts what is due, gives up what was not answered.
    pub(crate) fn turn(&mut self, directory: &Directory, now: Duration) {
        for _ in 0..TAKEN_MAX {
            let Some(errand) = self.port.next() else { break };
            self.accept(errand, directory, now);
        }
        if self.next_look.is_none_or(|at| now < at) {
            return;
        }
        let speakers: Vec<RecordIndex> = self.waiting.keys().copied().collect();
        for speaker in speakers {
            self.start_due(speaker, None, directory, now);
        }
        let late = |running: &Running| running.deadline <= now;
        let meters: Vec<RecordIndex> =
            self.running.iter().filter(|(_, run)| late(run)).map(|(meter, _)| *meter).collect();
        for meter in meters {
            self.fail(meter, ErrandFailure::Silent);
        }
        let due = self.waiting.values().flatten().map(|waiting| waiting.due);
        self.next_look = due.chain(self.running.values().map(|running| running.deadline)).min();
    }

    /// When the next turn is due, if none comes of itself.
    pub(crate) const fn wakes_at(&self) -> Option<Duration> {
        self.next_look
    }

    /// Frames to send.
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// A device was heard, authentic, from there.
    pub(crate) fn heard(
        &mut self,
        speaker: RecordIndex,
        from: Destination,
        directory: &Directory,
        now: Duration,
    ) {
        if self.is_idle() {
            return;
        }
        for running in self.running.values_mut().filter(|running| running.speaker == speaker) {
            running.is_near = true;
        }
        self.start_due(speaker, Some(from), directory, now);
    }

    /// A device has a session on a stream.
    pub(crate) fn session_opened(&mut self, device: RecordIndex, on: Destination) {
        self.sessions.insert(device, on);
    }

    /// The stream ended.
    pub(crate) fn session_ended(&mut self, device: RecordIndex, on: Destination) {
        if self.sessions.get(&device) == Some(&on) {
            self.sessions.remove(&device);
        }
    }

    /// A meter answered in the clear; whether that was waited for.
    pub(crate) fn hear_clear(
        &mut self,
        meter: RecordIndex,
        apdu: &[u8],
        from: Destination,
        directory: &Directory,
        now: Duration,
    ) -> bool {
        let is_its = |running: &&mut Running| running.to == from;
        let Some(running) = self.running.get_mut(&meter).filter(is_its) else { return false };
        let mut next = running.dialogue.clone();
        match say(&mut next, running.behind, Some(Heard::Clear(apdu)), meter, directory) {
            Ok((turn, frame)) => {
                running.dialogue = next;
                self.went_on(meter, turn, frame, now);
                true
            }
            Err(error @ DialogueError::Association { .. }) => {
                self.fail(meter, ErrandFailure::Dialogue(error));
                true
            }
            // Anybody can send this: go on waiting for the meter.
            Err(_) => false,
        }
    }

    /// A meter answered under its keys; whether that was waited for.
    pub(crate) fn hear(
        &mut self,
        meter: RecordIndex,
        heard: Heard<'_>,
        directory: &Directory,
        now: Duration,
    ) -> bool {
        let Some(running) = self.running.get_mut(&meter) else { return false };
        match say(&mut running.dialogue, running.behind, Some(heard), meter, directory) {
            Ok((turn, frame)) => {
                self.went_on(meter, turn, frame, now);
                true
            }
            // A late answer to an earlier attempt.
            Err(DialogueError::Unexpected) => false,
            Err(error) => {
                self.fail(meter, ErrandFailure::Dialogue(error));
                true
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    fn accept(&mut self, errand: Errand, directory: &Directory, now: Duration) {
        let speaker = directory.find(errand.via.unwrap_or(errand.meter));
        match (directory.find(errand.meter), speaker) {
            (Some((meter, _)), Some((speaker, _))) => {
                let due = now + errand.pause;
                self.look_at(due);
                self.waiting.entry(speaker).or_default().push(Waiting { errand, meter, due });
            }
            _ if errand.claim.take() => {
                let failure = ErrandFailure::Unknown;
                let end = ErrandEnd::Failed { failure, has_acted: false, is_near: false };
                self.port.report(ErrandReport { id: errand.id, end });
            }
            _ => {}
        }
    }

    /// Starts the errands of a speaker: all when it was heard, else those whose pause is over and
    /// that have a way.
    fn start_due(
        &mut self,
        speaker: RecordIndex,
        heard: Option<Destination>,
        directory: &Directory,
        now: Duration,
    ) {
        let Some(mut errands) = self.waiting.remove(&speaker) else { return };
        errands.retain(|waiting| waiting.errand.claim.is_open());
        let mut left = Vec::new();
        for mut waiting in errands {
            let is_due = heard.is_some() || waiting.due <= now;
            let way = heard.or_else(|| self.way(speaker, directory)).filter(|_| is_due);
            match way {
                Some(to) if !self.running.contains_key(&waiting.meter) => {
                    if waiting.errand.claim.take() {
                        self.start(waiting, speaker, to, directory, now);
                    }
                }
                _ => {
                    if is_due {
                        // No way from this shard: look again, and start when it speaks.
                        waiting.due = now + waiting.errand.answer_max;
                    }
                    left.push(waiting);
                }
            }
        }
        if !left.is_empty() {
            self.waiting.insert(speaker, left);
        }
    }

    fn start(
        &mut self,
        waiting: Waiting,
        speaker: RecordIndex,
        to: Destination,
        directory: &Directory,
        now: Duration,
    ) {
        let Waiting { errand, meter, .. } = waiting;
        let Errand { command, check_first, challenge, counter, .. } = errand;
        let titles = [self.client, errand.meter];
        let mut dialogue = Dialogue::new(command, check_first, titles, challenge, counter);
        let behind = errand.via.map(|_| errand.meter);
        let (_, frame) = say(&mut dialogue, behind, None, meter, directory)
            .expect("an association request fits its frame");
        let (id, answer_max) = (errand.id, errand.answer_max);
        let deadline = now + answer_max;
        self.look_at(deadline);
        let is_near = false;
        let running = Running { id, dialogue, to, behind, speaker, deadline, answer_max, is_near };
        self.running.insert(meter, running);
        self.outgoing.push(Outgoing { to, frame });
    }

    fn look_at(&mut self, at: Duration) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    fn went_on(&mut self, meter: RecordIndex, turn: Turn, frame: Vec<u8>, now: Duration) {
        let Some(running) = self.running.get_mut(&meter) else { return };
        self.outgoing.push(Outgoing { to: running.to, frame });
        running.deadline = now + running.answer_max;
        if let Turn::Done(outcome) = turn {
            let id = running.id;
            self.running.remove(&meter);
            self.port.report(ErrandReport { id, end: ErrandEnd::Answered(outcome) });
        }
    }

    fn fail(&mut self, meter: RecordIndex, failure: ErrandFailure) {
        let Some(running) = self.running.remove(&meter) else { return };
        let has_acted = running.dialogue.has_acted();
        let end = ErrandEnd::Failed { failure, has_acted, is_near: running.is_near };
        self.port.report(ErrandReport { id: running.id, end });
    }

    /// Where a device can be reached from this shard without its having spoken just now.
    fn way(&self, speaker: RecordIndex, directory: &Directory) -> Option<Destination> {
        let session = self.sessions.get(&speaker).copied();
        let datagram = || directory.record(speaker).home(self.shard).map(Destination::Datagram);
        session.or_else(datagram)
    }
}

/// The frame of the dialogue's first request, or of the next after an answer.
fn say(
    dialogue: &mut Dialogue,
    behind: Option<SystemTitle>,
    heard: Option<Heard<'_>>,
    meter: RecordIndex,
    directory: &Directory,
) -> Result<(Turn, Vec<u8>), DialogueError> {
    let keys = directory.record(meter).keys();
    let (mut buf, mut turn) = ([0; FRAME_SIZE], Ok(Turn::Next));
    let frame = Wrapper::frame(APPLICATION, APPLICATION, &mut buf, |writer| {
        if let Some(title) = behind {
            write_prefix(PREFIX_REQUEST, title, writer)?;
        }
        match heard {
            None => dialogue.open(keys, writer),
            Some(heard) => {
                turn = dialogue.hear(heard, keys, writer);
                Ok(())
            }
        }
    });
    let frame = frame.map(|frame| frame.to_vec());
    Ok((turn?, frame?))
}

fn write_prefix(kind: u8, title: SystemTitle, writer: &mut Writer<'_>) -> Result<(), WireError> {
    writer.put(&[kind, 0])?;
    writer.sized(&title.0)
}

/// The meter that a response through a gateway names, and what follows the prefix.
pub(crate) fn behind(apdu: &[u8]) -> Option<(SystemTitle, &[u8])> {
    let [PREFIX_RESPONSE, _, 8, rest @ ..] = apdu else { return None };
    let (title, apdu) = rest.split_first_chunk()?;
    Some((SystemTitle(*title), apdu))
}
