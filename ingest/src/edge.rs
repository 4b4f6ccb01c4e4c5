//! The edge to the kernel: what neither std nor mio nor socket2 offer. The only module with
//! `unsafe`, and each of its blocks is one call.
//!
//! Addresses and control messages are built and read as bytes, in the layout of Linux:
//!
//! | structure | bytes |
//! |---|---|
//! | sockaddr_in | family 2, port 2 (big endian), address 4, zero 8 |
//! | sockaddr_in6 | family 2, port 2 (big endian), flow 4, address 16, scope 4 |
//! | cmsghdr | length with header 8, level 4, type 4, then data, padded to 8 |

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use libc::{c_int, c_void, iovec, mmsghdr, socklen_t};

/// Messages a call moves at most.
pub(crate) const MESSAGES_MAX: usize = 64;

/// Segments that one sent message may be cut into (the kernel's limit is 64 or 128).
const SEGMENTS_MAX: usize = 64;

/// Bytes of one sent message, all of its segments together.
const MESSAGE_BYTES_MAX: usize = 60_000;

const NAME_SIZE: usize = 28;
const CONTROL_HEADER_SIZE: usize = 16;
/// Room for two control messages of 4 bytes.
const CONTROL_SIZE: usize = 48;

const _: () = assert!(size_of::<libc::sockaddr_in6>() == NAME_SIZE);
const _: () = assert!(size_of::<libc::cmsghdr>() == CONTROL_HEADER_SIZE);

/// The limit on open files, in force and as far as it may be raised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenFiles {
    /// In force.
    pub soft: u64,
    /// What the system allows this process.
    pub hard: u64,
}

/// Raises the limit on open files as far as it goes and returns what is in force then.
pub(crate) fn raise_open_files() -> io::Result<OpenFiles> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit of ours.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the pointer is to a live rlimit of ours.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    let soft = if result == 0 { limit.rlim_max } else { limit.rlim_cur };
    Ok(OpenFiles { soft, hard: limit.rlim_max })
}

/// Asks for a receive buffer, beyond the system's maximum where the process may; the size granted.
pub(crate) fn set_receive_buffer(socket: &impl AsFd, size_bytes: usize) -> io::Result<usize> {
    let size = c_int::try_from(size_bytes).unwrap_or(c_int::MAX / 2);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, size)?;
    }
    // The kernel doubles what was asked for, for its own book-keeping.
    Ok(option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF)? / 2)
}

/// Has the kernel tell with each datagram how many it dropped.
pub(crate) fn report_drops(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

/// Lets the kernel hand over datagrams of one sender in one piece; whether it can.
pub(crate) fn coalesce(socket: &impl AsFd) -> bool {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
}

/// Whether the kernel can cut one message into datagrams.
pub(crate) fn can_segment(socket: &impl AsFd) -> bool {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// Buffers for receiving many datagrams in one call.
pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    size: usize,
    stride: usize,
    names: Box<[[u8; NAME_SIZE]]>,
    controls: Box<[[u8; CONTROL_SIZE]]>,
    iovecs: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

/// What is known of a received message beside its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Received {
    pub(crate) from: Option<SocketAddr>,
    pub(crate) size: usize,
    /// Size of the datagrams it was put together from (the last may be shorter).
    pub(crate) segment_size: usize,
    /// Whether it was longer than the buffer.
    pub(crate) is_cut: bool,
    /// Datagrams that the kernel dropped on this socket so far, when it says so.
    pub(crate) drops: Option<u32>,
}

impl Inbox {
    /// Buffers for messages of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        // An odd count of cache lines, so that the messages' first lines do not share cache sets.
        let stride = (size.div_ceil(64) | 1) * 64;
        Self {
            bytes: vec![0; stride * MESSAGES_MAX].into_boxed_slice(),
            size,
            stride,
            names: vec![[0; NAME_SIZE]; MESSAGES_MAX].into_boxed_slice(),
            controls: vec![[0; CONTROL_SIZE]; MESSAGES_MAX].into_boxed_slice(),
            iovecs: vec![iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MESSAGES_MAX]
                .into_boxed_slice(),
            headers: vec![no_message(); MESSAGES_MAX].into_boxed_slice(),
        }
    }

    /// Receives what is there, without waiting; how many messages.
    pub(crate) fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let buffers = self.bytes.chunks_exact_mut(self.stride);
        let parts = buffers.zip(&mut self.names).zip(&mut self.controls).zip(&mut self.iovecs);
        for ((((bytes, name), control), iovec), header) in parts.zip(&mut self.headers) {
            iovec.iov_base = bytes.as_mut_ptr().cast::<c_void>();
            iovec.iov_len = self.size;
            header.msg_hdr.msg_name = name.as_mut_ptr().cast::<c_void>();
            header.msg_hdr.msg_namelen = NAME_SIZE as socklen_t;
            header.msg_hdr.msg_iov = ptr::from_mut(iovec);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast::<c_void>();
            header.msg_hdr.msg_controllen = CONTROL_SIZE;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: each header was just pointed at buffers that live in `self`, which is borrowed
        // for the call, with their true sizes.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                MESSAGES_MAX as u32,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        check(count).map(|count| count as usize)
    }

    /// What is known of message `index` of the last call.
    pub(crate) fn received(&self, index: usize) -> Received {
        let header = &self.headers[index];
        let size = (header.msg_len as usize).min(self.size);
        let mut received = Received {
            from: address(&self.names[index]),
            size,
            segment_size: size,
            is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            drops: None,
        };
        let mut left = &self.controls[index][..header.msg_hdr.msg_controllen.min(CONTROL_SIZE)];
        while let Some((level, kind, value, rest)) = control_message(left) {
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => received.drops = Some(value),
                (libc::SOL_UDP, libc::UDP_GRO) if value > 0 => {
                    received.segment_size = value as usize
                }
                _ => {}
            }
            left = rest;
        }
        received
    }

    /// The buffer of message `index`.
    pub(crate) fn bytes(&mut self, index: usize) -> &mut [u8] {
        let start = index * self.stride;
        &mut self.bytes[start..start + self.size]
    }
}

/// Datagrams on their way out, many in one call; runs of one size to one address in one message.
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    messages: Vec<Outgoing>,
    next: usize,
    can_segment: bool,
    names: Box<[[u8; NAME_SIZE]]>,
    controls: Box<[[u8; CONTROL_SIZE]]>,
    iovecs: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

#[derive(Clone, Copy, Debug)]
struct Outgoing {
    to: SocketAddr,
    start: usize,
    size: usize,
    segment_size: usize,
}

/// What became of what an [`Outbox`] held.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sent {
    /// Datagrams handed to the kernel.
    pub(crate) datagrams: u64,
    /// Datagrams that it would not take for their address.
    pub(crate) lost: u64,
}

impl Outbox {
    pub(crate) fn new(can_segment: bool) -> Self {
        Self {
            bytes: Vec::new(),
            messages: Vec::new(),
            next: 0,
            can_segment,
            names: vec![[0; NAME_SIZE]; MESSAGES_MAX].into_boxed_slice(),
            controls: vec![[0; CONTROL_SIZE]; MESSAGES_MAX].into_boxed_slice(),
            iovecs: vec![iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MESSAGES_MAX]
                .into_boxed_slice(),
            headers: vec![no_message(); MESSAGES_MAX].into_boxed_slice(),
        }
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.next == self.messages.len()
    }

    /// Adds a datagram. Those to one address should come one after the other.
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        let (start, size) = (self.bytes.len(), datagram.len());
        self.bytes.extend_from_slice(datagram);
        let can_segment = self.can_segment;
        match self.messages[self.next..].last_mut() {
            Some(last) if can_segment && last.takes(to, size) => last.size += size,
            _ => self.messages.push(Outgoing { to, start, size, segment_size: size }),
        }
    }

    /// Sends until all is sent or the socket would block; `WouldBlock` then, the rest is kept.
    pub(crate) fn send(&mut self, socket: &impl AsFd, sent: &mut Sent) -> io::Result<()> {
        while !self.is_empty() {
            match self.send_some(socket) {
                Ok(count) => {
                    let done = &self.messages[self.next..self.next + count];
                    sent.datagrams += done.iter().map(Outgoing::segments).sum::<u64>();
                    self.next += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if self.messages[self.next].segments() > 1 => self.split_next(),
                Err(_) => {
                    sent.lost += 1;
                    self.next += 1;
                }
            }
        }
        self.messages.clear();
        self.bytes.clear();
        self.next = 0;
        Ok(())
    }

    /// Some network devices cannot segment: from here on each datagram goes singly.
    fn split_next(&mut self) {
        self.can_segment = false;
        let whole = self.messages[self.next];
        let cut = (0..whole.size).step_by(whole.segment_size).map(|offset| Outgoing {
            start: whole.start + offset,
            size: whole.segment_size.min(whole.size - offset),
            ..whole
        });
        self.messages.splice(self.next..=self.next, cut);
    }

    fn send_some(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let messages = &self.messages[self.next..];
        let count = messages.len().min(MESSAGES_MAX);
        let bytes = self.bytes.as_mut_ptr();
        let parts = self.names.iter_mut().zip(&mut self.controls).zip(&mut self.iovecs);
        for ((((name, control), iovec), header), message) in
            parts.zip(&mut self.headers).zip(messages)
        {
            iovec.iov_base = bytes.wrapping_add(message.start).cast::<c_void>();
            iovec.iov_len = message.size;
            header.msg_hdr.msg_namelen = write_address(message.to, name);
            header.msg_hdr.msg_name = name.as_mut_ptr().cast::<c_void>();
            header.msg_hdr.msg_iov = ptr::from_mut(iovec);
            header.msg_hdr.msg_iovlen = 1;
            let control_size = match message.segments() {
                0 | 1 => 0,
                _ => write_segment_size(message.segment_size, control),
            };
            header.msg_hdr.msg_control = control.as_mut_ptr().cast::<c_void>();
            header.msg_hdr.msg_controllen = control_size;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: the first `count` headers were just pointed at buffers that live in `self`, which
        // is borrowed for the call, with their true sizes.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT as _,
            )
        };
        check(result).map(|sent| sent as usize)
    }
}

impl Outgoing {
    fn segments(&self) -> u64 {
        self.size.div_ceil(self.segment_size.max(1)) as u64
    }

    fn takes(&self, to: SocketAddr, size: usize) -> bool {
        self.to == to
            && self.segment_size == size
            && self.size + size <= MESSAGE_BYTES_MAX.min(SEGMENTS_MAX * size)
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and size are those of a live c_int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    check(result).map(drop)
}

fn option(socket: &impl AsFd, level: c_int, name: c_int) -> io::Result<usize> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as socklen_t;
    // SAFETY: the pointers are to a live c_int and to its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast::<c_void>(),
            &raw mut size,
        )
    };
    check(result).map(|_| usize::try_from(value).unwrap_or(0))
}

fn no_message() -> mmsghdr {
    // SAFETY: null pointers and zero lengths are valid values of its fields.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Level, type and value of the first control message (of those with 2 or 4 bytes), and the rest.
fn control_message(bytes: &[u8]) -> Option<(c_int, c_int, u32, &[u8])> {
    let (length, left) = bytes.split_first_chunk()?;
    let (level, left) = left.split_first_chunk()?;
    let (kind, _) = left.split_first_chunk()?;
    let length = usize::from_ne_bytes(*length);
    let value = match bytes.get(CONTROL_HEADER_SIZE..length)? {
        [a, b] => u32::from(u16::from_ne_bytes([*a, *b])),
        [a, b, c, d, ..] => u32::from_ne_bytes([*a, *b, *c, *d]),
        _ => 0,
    };
    let rest = bytes.get(length.next_multiple_of(8)..).unwrap_or_default();
    Some((c_int::from_ne_bytes(*level), c_int::from_ne_bytes(*kind), value, rest))
}

/// Writes the control message that has a message cut into datagrams; its size.
fn write_segment_size(segment_size: usize, control: &mut [u8; CONTROL_SIZE]) -> usize {
    let length = CONTROL_HEADER_SIZE + size_of::<u16>();
    control[..8].copy_from_slice(&length.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[16..18].copy_from_slice(&(segment_size as u16).to_ne_bytes());
    length.next_multiple_of(8)
}

fn address(name: &[u8; NAME_SIZE]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, w0, w1, w2, w3, rest @ ..] = *name;
    let port = u16::from_be_bytes([p0, p1]);
    match c_int::from(u16::from_ne_bytes([f0, f1])) {
        libc::AF_INET => Some(SocketAddr::from((Ipv4Addr::from([w0, w1, w2, w3]), port))),
        libc::AF_INET6 => {
            let (host, scope) = rest.split_first_chunk::<16>()?;
            let scope = scope.first_chunk().copied().map_or(0, u32::from_ne_bytes);
            let flow = u32::from_be_bytes([w0, w1, w2, w3]);
            Some(SocketAddrV6::new(Ipv6Addr::from(*host), port, flow, scope).into())
        }
        _ => None,
    }
}

fn write_address(address: SocketAddr, name: &mut [u8; NAME_SIZE]) -> socklen_t {
    *name = [0; NAME_SIZE];
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    let (family, size) = match address {
        SocketAddr::V4(v4) => {
            name[4..8].copy_from_slice(&v4.ip().octets());
            (libc::AF_INET, size_of::<libc::sockaddr_in>())
        }
        SocketAddr::V6(v6) => {
            name[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (libc::AF_INET6, NAME_SIZE)
        }
    };
    name[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    size as socklen_t
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn receive_all(
        inbox: &mut Inbox,
        socket: &UdpSocket,
        count: usize,
    ) -> Vec<(Received, Vec<u8>)> {
        let mut all = Vec::new();
        while all.len() < count {
            // Loopback delivers within the call that sends, so nothing is waited for.
            let received = inbox.receive(socket).unwrap();
            all.extend((0..received).map(|index| {
                let what = inbox.received(index);
                (what, inbox.bytes(index)[..what.size].to_vec())
            }));
        }
        all
    }

    #[test]
    fn many_datagrams_each_way_over_both_families() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(node) = UdpSocket::bind(host) else { continue };
            let peers = [UdpSocket::bind(host).unwrap(), UdpSocket::bind(host).unwrap()];
            let mut outbox = Outbox::new(can_segment(&node));
            for peer in &peers {
                for index in 0..100_u8 {
                    outbox.push(peer.local_addr().unwrap(), &[index; 42]);
                }
            }
            let mut sent = Sent::default();
            outbox.send(&node, &mut sent).unwrap();
            assert_eq!(sent, Sent { datagrams: 200, lost: 0 });
            assert!(outbox.is_empty());
            for peer in &peers {
                let all = receive_all(&mut Inbox::new(100), peer, 100);
                for (index, (what, bytes)) in (0_u8..).zip(&all) {
                    assert_eq!(bytes, &[index; 42], "{what:?}");
                    assert_eq!(what.from, Some(node.local_addr().unwrap()));
                    assert_eq!((what.segment_size, what.is_cut), (42, false));
                }
            }
        }
    }

    #[test]
    fn coalesced_datagrams_tell_their_size() {
        let (node, peer) = pair();
        if !(coalesce(&node) && can_segment(&peer)) {
            eprintln!("skipped: this kernel coalesces no datagrams");
            return;
        }
        let mut outbox = Outbox::new(true);
        (0..10_u8).for_each(|index| outbox.push(node.local_addr().unwrap(), &[index; 50]));
        outbox.push(node.local_addr().unwrap(), &[10; 20]);
        let mut sent = Sent::default();
        outbox.send(&peer, &mut sent).unwrap();
        let mut inbox = Inbox::new(65_535);
        let count = inbox.receive(&node).unwrap();
        let bytes: usize = (0..count).map(|index| inbox.received(index).size).sum();
        assert_eq!((bytes, inbox.received(0).segment_size), (520, 50));
        assert!(count <= 2);
    }

    #[test]
    fn a_long_datagram_is_marked() {
        let (node, peer) = pair();
        peer.send_to(&[1; 101], node.local_addr().unwrap()).unwrap();
        let all = receive_all(&mut Inbox::new(100), &node, 1);
        assert!(all[0].0.is_cut);
        assert_eq!(all[0].1.len(), 100);
    }

    #[test]
    fn drops_are_reported() {
        let (node, peer) = pair();
        report_drops(&node).unwrap();
        let granted = set_receive_buffer(&node, 4096).unwrap();
        assert!((1024..=8192).contains(&granted), "{granted}");
        let send = |count| {
            for _ in 0..count {
                peer.send_to(&[1; 100], node.local_addr().unwrap()).unwrap();
            }
        };
        send(200);
        let mut inbox = Inbox::new(200);
        let mut kept = inbox.receive(&node).unwrap();
        while let Ok(more) = inbox.receive(&node) {
            kept += more;
        }
        send(1);
        let all = receive_all(&mut inbox, &node, 1);
        assert_eq!(all[0].0.drops, Some(200 - kept as u32));
    }

    #[test]
    fn an_unreachable_address_loses_its_own_datagrams_only() {
        let (node, peer) = pair();
        let mut outbox = Outbox::new(true);
        outbox.push(peer.local_addr().unwrap(), &[1; 42]);
        (0..3).for_each(|_| outbox.push("[::1]:9".parse().unwrap(), &[2; 42]));
        outbox.push(peer.local_addr().unwrap(), &[3; 42]);
        let mut sent = Sent::default();
        outbox.send(&node, &mut sent).unwrap();
        assert_eq!(sent, Sent { datagrams: 2, lost: 3 });
    }

    #[test]
    fn addresses_round_trip() {
        for text in ["10.1.2.3:4059", "[2001:db8::7]:1", "[fe80::1%3]:65535"] {
            let want: SocketAddr = text.parse().unwrap();
            let mut name = [0xFF; NAME_SIZE];
            write_address(want, &mut name);
            assert_eq!(address(&name), Some(want));
        }
        assert_eq!(address(&[0; NAME_SIZE]), None);
    }

    #[test]
    fn the_file_limit_is_raised_to_the_hard_limit() {
        let limit = raise_open_files().unwrap();
        assert_eq!(limit.soft, limit.hard);
    }

    fn pair() -> (UdpSocket, UdpSocket) {
        (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap())
    }
}
