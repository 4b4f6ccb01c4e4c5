//! Drivers: they carry frames between virtual devices and real sockets, through the faults of a
//! plan, and send again until everything is confirmed. A driver is one thread's work: the caller
//! calls [`UdpFleet::step`] or [`TcpFleet::step`] in a loop and owns the thread.

mod agenda;
mod routes;
mod tcp;
mod udp;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meter::UnixSeconds;

use crate::device::{Now, Received};
use crate::faults::FaultPlan;
use crate::report::Stats;

pub use tcp::TcpFleet;
pub use udp::UdpFleet;

/// The clocks of a run; whoever owns real ones gives them.
#[derive(Clone)]
pub struct Clocks {
    /// The time of day of the meters: real, or started anywhere and running fast.
    pub time: Arc<dyn Fn() -> UnixSeconds + Send + Sync>,
    /// A steady clock from any origin, in real time.
    pub wall: Arc<dyn Fn() -> Duration + Send + Sync>,
}

/// How a driver reaches the node.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Where the node listens.
    pub node: SocketAddr,
    /// UDP: sockets that share the meters. TCP gateways have one each.
    pub sockets: u16,
    /// UDP: receive buffer asked for each socket.
    pub receive_buffer_bytes: usize,
    /// Faults on the way to the node.
    pub faults_up: FaultPlan,
    /// Faults on the way back.
    pub faults_down: FaultPlan,
    /// TCP: wait before the first attempt to connect again; doubled up to 2 s.
    pub reconnect: Duration,
}

impl Clocks {
    /// Both clocks, read now.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { clock: (self.time)(), wall: (self.wall)() }
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clocks").finish_non_exhaustive()
    }
}

/// Counts what became of a frame from the node.
fn note(stats: &mut Stats, received: Received) {
    stats.frames_received += 1;
    match received {
        Received::Acknowledged { rows, waited } => {
            stats.acknowledged += u64::from(rows);
            let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
            stats.latency.saturating_record(micros.max(1));
        }
        Received::Repeated => stats.repeated += 1,
        Received::Foreign => stats.foreign += 1,
    }
}
