//! One shard's UDP socket: datagrams in by many a call, acknowledgements out likewise.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;

use crate::ack::{ACK_SIZE, seal};
use crate::batch::{Ack, Destination};
use crate::desk::Desk;
use crate::edge::{Inbox, MESSAGES_MAX, Outbox, Received, Sent};
use crate::frame::Claim;
use crate::limits::Source;
use crate::outcome::Outcome;

/// Calls to receive in one turn, before streams and acknowledgements have theirs.
const CALLS_MAX: usize = 16;

/// A coalesced message may be this long.
const COALESCED_SIZE: usize = 65_535;

/// One shard's UDP socket.
pub(crate) struct Datagrams {
    pub(crate) socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    /// Datagrams received and not yet admitted; `next` is the first.
    pieces: Vec<Piece>,
    next: usize,
    is_readable: bool,
    drops: u32,
    /// Frames of commands in the outbox.
    requests: u64,
}

/// A datagram in the inbox, read as far as it goes without a key.
struct Piece {
    message: usize,
    start: usize,
    size: usize,
    from: SocketAddr,
    source: Source,
    claim: Result<Claim, Outcome>,
}

impl Datagrams {
    pub(crate) fn new(socket: UdpSocket, desk: &Desk, coalesces: bool, segments: bool) -> Self {
        let size = if coalesces { COALESCED_SIZE } else { desk.config.frame_bytes_max };
        Self {
            socket,
            inbox: Inbox::new(size),
            outbox: Outbox::new(segments),
            pieces: Vec::with_capacity(MESSAGES_MAX),
            next: 0,
            is_readable: true,
            drops: 0,
            requests: 0,
        }
    }

    /// Notes that the socket became readable.
    pub(crate) const fn readable(&mut self) {
        self.is_readable = true;
    }

    /// Whether there is something to read, as far as is known.
    pub(crate) const fn has_more(&self) -> bool {
        self.is_readable || self.next < self.pieces.len()
    }

    /// Whether acknowledgements wait for the socket.
    pub(crate) fn is_clogged(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads and admits datagrams, until none is left, the log is behind, or others are due.
    pub(crate) fn read(&mut self, desk: &mut Desk) {
        for _ in 0..CALLS_MAX {
            self.admit(desk);
            if self.next < self.pieces.len() || !self.is_readable || !desk.may_read() {
                return;
            }
            self.receive(desk);
        }
        self.admit(desk);
    }

    /// Sends acknowledgements; what does not go now is kept for the next call.
    pub(crate) fn acknowledge(&mut self, due: &mut [Ack], desk: &mut Desk) {
        let address = |ack: &Ack| match ack.to {
            Destination::Datagram(to) => Some(to),
            Destination::Stream { .. } => None,
        };
        // Neighbours in the outbox go out in one piece.
        due.sort_unstable_by_key(address);
        let mut buf = [0; ACK_SIZE];
        for ack in due {
            if let Some(to) = address(ack) {
                let record = desk.directory.record(ack.record);
                let frame = seal(&ack.receipt, record, desk.config.head_end_title, &mut buf);
                self.outbox.push(to, frame);
            }
        }
        let mut sent = Sent::default();
        // Would block: the rest goes when the socket is writable.
        let _later = self.outbox.send(&self.socket, &mut sent);
        // Requests among them were counted as such.
        let requests = std::mem::take(&mut self.requests).min(sent.datagrams);
        desk.tally.acks += sent.datagrams - requests;
        desk.tally.acks_lost += sent.lost;
    }

    /// Puts the frame of a command with what goes out next.
    pub(crate) fn request(&mut self, to: SocketAddr, frame: &[u8], desk: &mut Desk) {
        self.outbox.push(to, frame);
        self.requests += 1;
        desk.tally.requests += 1;
    }

    /// Gives up what was received and not admitted.
    pub(crate) fn abandon(&mut self, desk: &mut Desk) {
        let left = self.pieces.split_off(self.next);
        desk.tally.count_many(Outcome::Abandoned, left.len() as u64);
    }

    /// One call to the kernel, and everything that needs no key.
    fn receive(&mut self, desk: &mut Desk) {
        self.pieces.clear();
        self.next = 0;
        match self.inbox.receive(&self.socket) {
            Ok(count) => {
                // Fewer than asked for: the queue is empty, and what comes will wake the shard.
                self.is_readable = count == MESSAGES_MAX;
                for message in 0..count {
                    self.divide(message, desk);
                }
            }
            Err(error) => self.is_readable = !is_drained(&error),
        }
    }

    /// Cuts a message into its datagrams.
    fn divide(&mut self, message: usize, desk: &mut Desk) {
        let received = self.inbox.received(message);
        if let Some(drops) = received.drops {
            desk.tally.kernel_drops += u64::from(drops.wrapping_sub(self.drops));
            self.drops = drops;
        }
        let Received { from: Some(from), size, segment_size, is_cut, .. } = received else {
            return;
        };
        let source = Source::of_datagram(from);
        let mut start = 0;
        // An empty datagram is one too.
        loop {
            let size = segment_size.min(size - start);
            desk.arrived(size);
            let bytes = &self.inbox.bytes(message)[start..start + size];
            let is_oversized = is_cut || size > desk.config.frame_bytes_max;
            let claim = if is_oversized { Err(Outcome::Oversized) } else { desk.claim(bytes) };
            self.pieces.push(Piece { message, start, size, from, source, claim });
            start += size;
            if start >= received.size || size == 0 {
                return;
            }
        }
    }

    /// Opens what was received, while the log has room.
    fn admit(&mut self, desk: &mut Desk) {
        while self.next < self.pieces.len() && desk.may_read() {
            let piece = &self.pieces[self.next];
            self.next += 1;
            let bytes = self.inbox.bytes(piece.message);
            let frame = &mut bytes[piece.start..piece.start + piece.size];
            let from = Destination::Datagram(piece.from);
            match screen(piece, desk).and_then(|claim| desk.admit(&claim, frame, from)) {
                Ok(record) => {
                    let peer = piece.source.short();
                    desk.directory.record(record).heard_from(peer, piece.from, desk.shard);
                    desk.downlink.heard(record, from, &desk.directory, desk.now);
                }
                Err(Outcome::Unasked) => desk.hear_clear(frame, from),
                Err(outcome) => desk.refuse(outcome, piece.source),
            }
        }
    }
}

/// A source that fails too often is not listened to, but for devices that were heard, authentic,
/// from this very address: who forges it cannot silence them.
fn screen(piece: &Piece, desk: &Desk) -> Result<Claim, Outcome> {
    if !desk.failures.is_limited(piece.source, desk.now) {
        return piece.claim;
    }
    let is_known =
        |claim: &Claim| desk.directory.record(claim.record).is_heard_from(piece.source.short());
    piece.claim.ok().filter(is_known).ok_or(Outcome::RateLimited)
}

/// Whether a failed receive means that nothing is left. Anything else (an error that a datagram of
/// ours brought home) is passed over.
fn is_drained(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock)
}
