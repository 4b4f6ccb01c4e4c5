//! One TCP connection: frames found in what arrives, acknowledgements on their way out.
//!
//! An idle connection holds no buffer. What arrives is read into the shard's scratch buffer, frames
//! are opened there in place, and only the bytes of a frame that is not all there yet are kept, as
//! many as came: a claimed length makes no room.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use meter::wire::Fault;
use meter::wire::dlms::Wrapper;
use meter::{Entry, EventCode, GatewayId, MeterEvent, Subject};
use mio::net::TcpStream;

use crate::batch::Destination;
use crate::desk::Desk;
use crate::directory::{Device, RecordIndex};
use crate::limits::{Quota, Source};
use crate::outcome::{Ending, Outcome};

/// Bytes read in one call.
pub(crate) const READ_SIZE: usize = 16 * 1024;

/// Capacity that the buffer of a frame cut in pieces starts with.
const PARTIAL_SIZE: usize = 4096;

/// One TCP connection.
pub(crate) struct Connection {
    stream: TcpStream,
    source: Source,
    destination: Destination,
    session: Session,
    /// Whether the stream may have more than was read.
    is_readable: bool,
    /// Whether the other side said its last: nothing will announce the end once more.
    is_ending: bool,
    /// The start of a frame, or frames that the log has no room for yet.
    partial: Vec<u8>,
    /// When the first byte in `partial` came; this and the next two by [`Desk::listened`].
    partial_since: Duration,
    opened_at: Duration,
    heard_at: Duration,
    out: Vec<u8>,
    out_start: usize,
}

/// Whom the connection turned out to be from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Session {
    /// No authentic frame yet.
    Unproven,
    /// A meter's frame came first.
    Meter(RecordIndex),
    /// It belongs to this gateway.
    Gateway(GatewayId, RecordIndex),
}

/// Whether a connection goes on.
pub(crate) type Progress = Result<(), Ending>;

impl Connection {
    pub(crate) const fn new(
        stream: TcpStream,
        source: Source,
        destination: Destination,
        listened: Duration,
    ) -> Self {
        Self {
            stream,
            source,
            destination,
            session: Session::Unproven,
            is_readable: true,
            is_ending: false,
            partial: Vec::new(),
            partial_since: Duration::ZERO,
            opened_at: listened,
            heard_at: listened,
            out: Vec::new(),
            out_start: 0,
        }
    }

    pub(crate) const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Notes that there is something to read; `is_ending` with the end of the stream behind it.
    pub(crate) const fn readable(&mut self, is_ending: bool) {
        self.is_readable = true;
        self.is_ending |= is_ending;
    }

    /// Reads once and admits the frames found; whether there is more to do right now.
    pub(crate) fn read(
        &mut self,
        scratch: &mut [u8],
        spare: &mut Vec<Vec<u8>>,
        sessions: &Quota,
        desk: &mut Desk,
    ) -> Result<bool, Ending> {
        let held = self.partial.len();
        scratch[..held].copy_from_slice(&self.partial);
        let size = held + self.fill(&mut scratch[held..], desk)?;
        let frames = &mut scratch[..size];
        let used = self.frames(frames, sessions, desk)?;
        self.keep(&frames[used..], used, spare, desk.listened);
        let has_frames =
            matches!(self.frame_size(desk), Ok(Some(size)) if size <= self.partial.len());
        Ok(has_frames || self.is_readable)
    }

    /// Appends an acknowledgement to what goes out.
    pub(crate) fn acknowledge(&mut self, frame: &[u8]) {
        self.out.extend_from_slice(frame);
    }

    /// Writes what goes out, as far as the other side reads.
    pub(crate) fn write(&mut self, out_bytes_max: usize) -> Progress {
        while self.out_start < self.out.len() {
            match self.stream.write(&self.out[self.out_start..]) {
                Ok(0) => return Err(Ending::Closed),
                Ok(count) => self.out_start += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return if self.out.len() - self.out_start > out_bytes_max {
                        Err(Ending::SlowReader)
                    } else {
                        self.out.drain(..self.out_start);
                        self.out_start = 0;
                        Ok(())
                    };
                }
                Err(_) => return Err(Ending::Failed),
            }
        }
        self.out_start = 0;
        self.out = Vec::new();
        Ok(())
    }

    /// Whether all acknowledgements are with the kernel.
    pub(crate) const fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether a deadline passed.
    pub(crate) fn check(&self, desk: &Desk) -> Progress {
        let config = &desk.config;
        let is_past = |since: Duration, max: Duration| desk.listened.saturating_sub(since) > max;
        if self.session == Session::Unproven && is_past(self.opened_at, config.hello_max()) {
            return Err(Ending::HelloDeadline);
        }
        if !self.partial.is_empty() && is_past(self.partial_since, config.frame_age_max()) {
            return Err(Ending::FrameDeadline);
        }
        if is_past(self.heard_at, config.idle_max()) {
            return Err(Ending::Idle);
        }
        Ok(())
    }

    /// Gives back what the connection held and tells what its end means.
    pub(crate) fn end(
        self,
        ending: Ending,
        sessions: &Quota,
        spare: &mut Vec<Vec<u8>>,
        desk: &mut Desk,
    ) {
        desk.tally.end(ending);
        if !self.partial.is_empty() {
            desk.arrived(self.partial.len());
            desk.tally.count(Outcome::Truncated);
        }
        match self.session {
            Session::Unproven => {}
            Session::Meter(record) => {
                sessions.give_back();
                desk.downlink.session_ended(record, self.destination);
            }
            Session::Gateway(gateway, record) => {
                sessions.give_back();
                desk.downlink.session_ended(record, self.destination);
                if desk.directory.record(record).session_ended() {
                    let down = link(gateway, EventCode::LinkDown, desk);
                    desk.outbound.entries.push(down);
                }
            }
        }
        recycle(self.partial, spare);
    }

    /// Reads once; nothing while frames wait for the log.
    fn fill(&mut self, buf: &mut [u8], desk: &Desk) -> Result<usize, Ending> {
        let is_behind =
            matches!(self.frame_size(desk), Ok(Some(size)) if size <= self.partial.len());
        if is_behind || !self.is_readable {
            return Ok(0);
        }
        let room = buf.len().min(READ_SIZE);
        match self.stream.read(&mut buf[..room]) {
            Ok(0) => Err(Ending::Closed),
            Ok(count) => {
                self.is_readable = count == room || self.is_ending;
                self.heard_at = desk.listened;
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(_) => Err(Ending::Failed),
        }
    }

    /// Admits the frames at the start of `buf`; how many bytes they had.
    fn frames(
        &mut self,
        buf: &mut [u8],
        sessions: &Quota,
        desk: &mut Desk,
    ) -> Result<usize, Ending> {
        let mut used = 0;
        while desk.may_read() {
            let left = &mut buf[used..];
            let size = match frame_size(left, desk) {
                Ok(Some(size)) if size <= left.len() => size,
                Ok(_) => break,
                Err(outcome) => {
                    desk.arrived(left.len());
                    return Err(self.refuse(outcome, desk));
                }
            };
            desk.arrived(size);
            match self.admit(&mut left[..size], sessions, desk) {
                Ok(()) => {}
                // Authentic, only of no use: no reason to send all meters of a gateway away.
                Err(Outcome::NotAReading) => desk.refuse(Outcome::NotAReading, self.source),
                Err(outcome) => return Err(self.refuse(outcome, desk)),
            }
            used += size;
        }
        Ok(used)
    }

    fn admit(
        &mut self,
        frame: &mut [u8],
        sessions: &Quota,
        desk: &mut Desk,
    ) -> Result<(), Outcome> {
        let claim = match desk.claim(frame) {
            // A meter that is asked answers in the clear at first; a stranger is not asked.
            Err(Outcome::Unasked) if self.session != Session::Unproven => {
                desk.hear_clear(frame, self.destination);
                return Ok(());
            }
            Err(Outcome::Unasked) => return Err(Outcome::UnsupportedSecurity),
            claim => claim?,
        };
        let (device, _) = desk.directory.record(claim.record).device();
        if let (Session::Gateway(own, _), Device::Gateway(other)) = (self.session, device)
            && own != other
        {
            return Err(Outcome::ForeignGateway);
        }
        let is_first = self.session == Session::Unproven;
        if is_first && !sessions.take() {
            return Err(Outcome::SessionLimit);
        }
        let start = desk.outbound.entries.len();
        match desk.admit(&claim, frame, self.destination) {
            Ok(_) => {}
            Err(outcome) => {
                if is_first {
                    sessions.give_back();
                }
                return Err(outcome);
            }
        }
        self.prove(device, claim.record, start, desk);
        desk.downlink.heard(claim.record, self.destination, &desk.directory, desk.now);
        Ok(())
    }

    /// Takes note of whom an authentic frame was from. The link's event goes before its entries.
    fn prove(&mut self, device: Device, record: RecordIndex, start: usize, desk: &mut Desk) {
        match device {
            Device::Meter(_) if self.session == Session::Unproven => {
                self.session = Session::Meter(record);
                desk.downlink.session_opened(record, self.destination);
            }
            Device::Meter(_) => {}
            Device::Gateway(_) if matches!(self.session, Session::Gateway(..)) => {}
            Device::Gateway(gateway) => {
                if let Session::Meter(meter) = self.session {
                    desk.downlink.session_ended(meter, self.destination);
                }
                self.session = Session::Gateway(gateway, record);
                desk.downlink.session_opened(record, self.destination);
                if desk.directory.record(record).session_opened() {
                    let up = link(gateway, EventCode::LinkUp, desk);
                    desk.outbound.entries.insert(start, up);
                }
            }
        }
    }

    fn refuse(&mut self, outcome: Outcome, desk: &mut Desk) -> Ending {
        desk.refuse(outcome, self.source);
        // What follows a refused frame is no input any more.
        self.partial.clear();
        Ending::Refused
    }

    /// Keeps what is left after `used` bytes of frames.
    fn keep(&mut self, left: &[u8], used: usize, spare: &mut Vec<Vec<u8>>, listened: Duration) {
        if left.is_empty() {
            recycle(std::mem::take(&mut self.partial), spare);
            return;
        }
        if self.partial.is_empty() || used > 0 {
            self.partial_since = listened;
        }
        if self.partial.capacity() == 0 {
            self.partial = spare.pop().unwrap_or_else(|| Vec::with_capacity(PARTIAL_SIZE));
        }
        self.partial.clear();
        self.partial.extend_from_slice(left);
    }

    fn frame_size(&self, desk: &Desk) -> Result<Option<usize>, Outcome> {
        frame_size(&self.partial, desk)
    }
}

/// Partial frames' buffers kept for use again, in a shard.
const SPARE_MAX: usize = 64;

fn recycle(mut buffer: Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    buffer.clear();
    if buffer.capacity() > 0 && spare.len() < SPARE_MAX {
        spare.push(buffer);
    }
}

/// The whole size of the frame at the start of `buf`, once its header is there.
fn frame_size(buf: &[u8], desk: &Desk) -> Result<Option<usize>, Outcome> {
    let length_max = desk.config.frame_bytes_max.saturating_sub(Wrapper::SIZE);
    Wrapper::stream_size(buf, length_max).map_err(|error| {
        let is_oversized = matches!(error.fault, Fault::TooLong { .. });
        if is_oversized { Outcome::Oversized } else { Outcome::BadWrapper }
    })
}

fn link(gateway: GatewayId, code: EventCode, desk: &Desk) -> Entry {
    Entry::Event(MeterEvent {
        subject: Subject::Gateway(gateway),
        code,
        taken_at: desk.wall,
        received_at: desk.wall,
        counter: 0,
    })
}
