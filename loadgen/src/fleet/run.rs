//! A fleet on the wire, driven by one thread.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Fleet;
use crate::driver::{Clocks, DriverConfig, TcpFleet, UdpFleet};
use crate::plan::World;
use crate::report::{Report, Stats};
use crate::virtual_gateway::VirtualGateway;
use crate::virtual_meter::VirtualMeter;

/// Where the node listens.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// For meters.
    pub udp: SocketAddr,
    /// For gateways.
    pub tcp: SocketAddr,
}

/// The fleet on its way.
#[derive(Debug)]
pub struct FleetRun {
    seed: u64,
    udp: UdpFleet,
    tcp: TcpFleet,
}

impl FleetRun {
    /// Makes the devices and opens the sockets.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn new(
        fleet: &Fleet,
        world: World,
        ways: Ways,
        config: DriverConfig,
        clocks: Clocks,
    ) -> io::Result<Self> {
        let meters: Vec<VirtualMeter> = fleet.direct_meters(&world).collect();
        let gateways: Vec<VirtualGateway> =
            fleet.gateways().map(|number| fleet.gateway(&world, number)).collect();
        let config = DriverConfig { node: ways.udp, ..config };
        let udp = UdpFleet::new(&config, world, meters, clocks.clone())?;
        let tcp =
            TcpFleet::new(&DriverConfig { node: ways.tcp, ..config }, world, gateways, clocks)?;
        Ok(Self { seed: world.seed.0, udp, tcp })
    }

    /// Sends and receives what is due, waiting for at most `wait`.
    ///
    /// # Errors
    /// When polling fails.
    pub fn step(&mut self, wait: Duration) -> io::Result<()> {
        let has_meters = !self.udp.meters().is_empty();
        self.tcp.step(if has_meters { Duration::ZERO } else { wait })?;
        self.udp.step(if has_meters { wait } else { Duration::ZERO })
    }

    /// Breaks every connection at once.
    pub fn cut(&mut self) {
        self.tcp.cut();
    }

    /// Connections that stand, and gateways in all.
    #[must_use]
    pub fn links(&self) -> (usize, usize) {
        self.tcp.links()
    }

    /// Whether every reading is confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.udp.stats().is_done() && self.tcp.stats().is_done()
    }

    /// What the meters and the gateways did so far.
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
