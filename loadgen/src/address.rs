//! Addresses on this machine for nodes started beside.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that systems give to outgoing connections (Linux: 32768 and up). One of those is
/// taken, sooner or later, between the choice and the node's own bind.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// An address whose port neither TCP nor UDP uses now; each call of a process gives another.
///
/// # Errors
/// No port is free, or this machine has no 127.0.0.1.
pub fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Processes that run side by side begin far from one another; 7,919 is prime.
    let first = (process::id() % u32::from(count)) * 7_919 % u32::from(count);
    let mut last = None;
    for _ in PORTS {
        // Relaxed: only that each number is given once matters.
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = (first + u32::from(step)) % u32::from(count);
        let port = PORTS.start + u16::try_from(port).expect("below the count");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address).and_then(|_tcp| UdpSocket::bind(address)) {
            Ok(_) => return Ok(address),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("there are ports"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_and_are_free() {
        let (one, two) = (free_address().unwrap(), free_address().unwrap());
        assert_ne!(one, two);
        assert!(PORTS.contains(&one.port()) && PORTS.contains(&two.port()));
        let taken = TcpListener::bind(one).unwrap();
        let rest: Vec<_> = (0..3).map(|_| free_address().unwrap()).collect();
        assert!(!rest.contains(&one) && !rest.contains(&two));
        drop(taken);
    }
}
