//! The week on the wire, driven by one thread.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Feeder, TopUp};
use crate::driver::{Clocks, DriverConfig, TcpFleet, UdpFleet};
use crate::report::{Report, Stats};

/// Where the node listens.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints {
    /// For datagrams of meters.
    pub udp: SocketAddr,
    /// For gateways.
    pub tcp: SocketAddr,
}

/// The scenario on its way.
#[derive(Debug)]
pub struct FeederRun {
    seed: u64,
    udp: UdpFleet,
    tcp: TcpFleet,
    clocks: Clocks,
    top_ups: VecDeque<TopUp>,
}

/// How long a step waits for the sockets at most.
const WAIT: Duration = Duration::from_millis(1);

impl FeederRun {
    /// Opens the sockets. The first readings are due at [`Feeder::start`] by the clock.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn new(feeder: &Feeder, endpoints: Endpoints, clocks: Clocks) -> io::Result<Self> {
        let [faults_up, faults_down] = feeder.faults();
        let config = DriverConfig {
            node: endpoints.udp,
            sockets: 8,
            receive_buffer_bytes: 1 << 20,
            faults_up,
            faults_down,
            smear_ms: 0,
            reconnect: Duration::from_millis(50),
        };
        let (world, meters) = (feeder.world(), feeder.direct_meters());
        let udp = UdpFleet::new(&config, world, meters, clocks.clone())?;
        let config = DriverConfig { node: endpoints.tcp, ..config };
        let tcp = TcpFleet::new(&config, world, feeder.gateways(), clocks.clone())?;
        Ok(Self {
            seed: world.seed.0,
            udp,
            tcp,
            clocks,
            top_ups: feeder.top_ups().iter().cloned().collect(),
        })
    }

    /// Sends and receives what is due, for about a millisecond. A purchase that is due goes to
    /// `buy`; while `buy` says `false` it stays due, and readings go on.
    ///
    /// # Errors
    /// When polling fails.
    pub fn step(&mut self, buy: &mut dyn FnMut(&TopUp) -> bool) -> io::Result<()> {
        self.udp.step(WAIT)?;
        self.tcp.step(Duration::ZERO)?;
        let now = self.clocks.now().clock;
        if self.top_ups.front().is_some_and(|top_up| top_up.at <= now && buy(top_up)) {
            self.top_ups.pop_front();
        }
        Ok(())
    }

    /// Whether every reading is confirmed and every purchase made.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.udp.stats().is_done() && self.tcp.stats().is_done() && self.top_ups.is_empty()
    }

    /// What the UDP meters and the gateways did so far.
    #[must_use]
    pub const fn stats(&self) -> [&Stats; 2] {
        [self.udp.stats(), self.tcp.stats()]
    }

    /// All of it in one report.
    #[must_use]
    pub fn report(&self) -> Report {
        let faults = [self.udp.fault_counts(), self.tcp.fault_counts()];
        Report::new(self.seed, &self.stats(), &faults)
    }
}
