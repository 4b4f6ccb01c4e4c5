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

use agenda::{Due, Instant};

use crate::device::{Now, Received};
use crate::faults::FaultPlan;
use crate::report::Stats;

pub use agenda::due_ms;
pub use tcp::TcpFleet;
pub use udp::UdpFleet;

/// A device that is polled this long after its time is late.
const LATE: Duration = Duration::from_millis(20);

/// The clocks of a run; whoever owns real ones gives them.
#[derive(Clone)]
pub struct Clocks {
    /// The time of day of the meters, milliseconds since 1970: real, or started anywhere and
    /// running fast.
    pub time_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
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
    /// Devices that are due in the same second are spread over so many of its milliseconds; 0: they
    /// send at once.
    pub smear_ms: u16,
    /// TCP: wait before the first attempt to connect again; doubled up to 2 s.
    pub reconnect: Duration,
}

impl Clocks {
    /// Both clocks, read now.
    #[must_use]
    pub fn now(&self) -> Now {
        self.instant().now
    }

    fn instant(&self) -> Instant {
        let clock_ms = (self.time_ms)();
        let clock = UnixSeconds(u32::try_from(clock_ms / 1000).unwrap_or(u32::MAX));
        Instant { now: Now { clock, wall: (self.wall)() }, clock_ms }
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clocks").finish_non_exhaustive()
    }
}

/// The clocks as they stood when a device was due, so that what it does late counts from then;
/// and counts the lateness. An open loop: a slow node or generator slows nothing down.
fn when_due(stats: &mut Stats, due: Due, at: Instant, pace: u32) -> Now {
    let Some(due_ms) = due.at_ms else { return at.now };
    let late = Duration::from_millis(at.clock_ms.saturating_sub(due_ms)) / pace.max(1);
    stats.scheduled += 1;
    stats.late += u64::from(late > LATE);
    stats.late_most = stats.late_most.max(late);
    let clock = UnixSeconds(u32::try_from(due_ms / 1000).unwrap_or(u32::MAX));
    Now { clock, wall: at.now.wall.saturating_sub(late) }
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
        Received::Asked => stats.asked += 1,
        Received::Foreign => stats.foreign += 1,
    }
}
