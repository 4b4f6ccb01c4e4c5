//! A virtual gateway: up to 32 meters behind one session. For some of them it sends batches in its
//! own frames, for the others it passes their own frames through.

use meter::UnixSeconds;
use meter::wire::dlms::{InvokeId, Measured};

use crate::device::{Flight, Identity, Now, Received, Sent, Wake};
use crate::plan::World;
use crate::virtual_meter::VirtualMeter;

/// Meters behind one gateway, at most.
pub const METERS_MAX: usize = 32;
/// Readings in one batch frame, at most.
const ROWS_MAX: usize = 32;

/// Room for a sealed batch of 32 readings of three phases.
const FRAME_SIZE_MAX: usize = 8 * 1024;

/// Whether a gateway's session stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Up,
    Down,
}

/// A reading by the index of its meter in the gateway, and its stamp.
type Row = (u8, UnixSeconds);

/// The gateway.
#[derive(Clone, Debug)]
pub struct VirtualGateway {
    ordinal: u32,
    identity: Identity,
    meters: Vec<VirtualMeter>,
    /// The first so many meters are read by the gateway; the others speak for themselves.
    batched: usize,
    flights: Vec<Flight<Vec<Row>>>,
    frames: u32,
    link: Link,
}

impl VirtualGateway {
    /// Gateway `ordinal` with these meters, the first `batched` of which it reads itself.
    ///
    /// # Panics
    /// With more than [`METERS_MAX`] meters.
    #[must_use]
    pub fn new(world: &World, ordinal: u32, meters: Vec<VirtualMeter>, batched: usize) -> Self {
        assert!(meters.len() <= METERS_MAX, "a gateway has at most {METERS_MAX} meters");
        Self {
            ordinal,
            identity: Identity::of_gateway(world.seed, ordinal),
            batched: batched.min(meters.len()),
            meters,
            flights: Vec::new(),
            frames: 0,
            link: Link::Down,
        }
    }

    /// Its number among the gateways of the fleet.
    #[must_use]
    pub const fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Its title, keys and counter.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its meters.
    #[must_use]
    pub fn meters(&self) -> &[VirtualMeter] {
        &self.meters
    }

    /// Its meters, to make one misbehave.
    pub fn meters_mut(&mut self) -> &mut [VirtualMeter] {
        &mut self.meters
    }

    /// The session stands: everything not confirmed is sent, again or for the first time.
    pub fn link_up(&mut self, now: Now) {
        self.link = Link::Up;
        self.flights.iter_mut().for_each(|flight| flight.retry_at = now.wall);
        self.meters.iter_mut().for_each(|meter| meter.relink(now));
    }

    /// The session broke: readings are kept.
    pub const fn link_down(&mut self) {
        self.link = Link::Down;
    }

    /// Takes the readings that are due and, while the session stands, gives the frames to send.
    pub fn poll(&mut self, world: &World, now: Now, send: &mut dyn FnMut(Sent<'_>)) -> Wake {
        if self.link == Link::Down {
            self.meters.iter_mut().for_each(|meter| meter.take_due(now));
            return Wake { clock: self.wakes_at(now), wall: None };
        }
        let (batched, own) = self.meters.split_at_mut(self.batched);
        let own_wakes: Vec<Wake> =
            own.iter_mut().map(|meter| meter.poll(world, now, send)).collect();
        batched.iter_mut().for_each(|meter| meter.take_due(now));
        self.send_batches(world, now, send);
        let (batched, _) = self.meters.split_at(self.batched);
        let readings = batched.iter().filter_map(|meter| meter.wakes_at(now));
        let retries = self.flights.iter().map(|flight| flight.retry_at);
        Wake {
            clock: readings.chain(own_wakes.iter().filter_map(|wake| wake.clock)).min(),
            wall: retries.chain(own_wakes.iter().filter_map(|wake| wake.wall)).min(),
        }
    }

    /// Takes a frame from the head-end: for the gateway, or for one of the meters behind it.
    pub fn receive(&mut self, frame: &mut [u8], now: Now) -> Received {
        if let Some(invoke_id) = self.identity.confirmed(frame) {
            let is_its = |flight: &Flight<Vec<Row>>| flight.invoke_id == invoke_id.id();
            return match self.flights.iter().position(is_its) {
                Some(index) => {
                    let flight = self.flights.swap_remove(index);
                    let rows = u32::try_from(flight.cargo.len()).unwrap_or(u32::MAX);
                    Received::Acknowledged { rows, waited: flight.waited(now) }
                }
                None => Received::Repeated,
            };
        }
        let own = self.meters.iter_mut().skip(self.batched);
        let mut received = own.map(|meter| meter.receive(frame, now));
        received.find(|received| *received != Received::Foreign).unwrap_or(Received::Foreign)
    }

    /// Readings taken and not confirmed yet.
    #[must_use]
    pub fn unconfirmed(&self) -> u32 {
        let flying: usize = self.flights.iter().map(|flight| flight.cargo.len()).sum();
        let waiting: u32 = self.meters.iter().map(VirtualMeter::unconfirmed).sum();
        waiting + u32::try_from(flying).unwrap_or(u32::MAX)
    }

    /// Whether all readings of all meters are confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.flights.is_empty() && self.meters.iter().all(VirtualMeter::is_done)
    }

    /// When the next reading is due.
    pub(crate) fn wakes_at(&self, now: Now) -> Option<UnixSeconds> {
        self.meters.iter().filter_map(|meter| meter.wakes_at(now)).min()
    }

    fn send_batches(&mut self, world: &World, now: Now, send: &mut dyn FnMut(Sent<'_>)) {
        for index in 0..self.flights.len() {
            if self.flights[index].retry_at <= now.wall {
                self.flights[index].sent(now, world.retry);
                self.transmit(world, index, true, send);
            }
        }
        while self.flights.len() < usize::from(world.window) {
            let rows = self.next_batch();
            if rows.is_empty() {
                break;
            }
            self.frames = self.frames.wrapping_add(1);
            let invoke_id = InvokeId::confirmed(self.frames).id();
            self.flights.push(Flight::new(invoke_id, rows, now, world.retry));
            self.transmit(world, self.flights.len() - 1, false, send);
        }
    }

    /// The oldest reading of each meter in turn, until the frame is full or none is left.
    fn next_batch(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        while rows.len() < ROWS_MAX {
            let before = rows.len();
            for (index, meter) in self.meters.iter_mut().take(self.batched).enumerate() {
                if rows.len() < ROWS_MAX
                    && let Some(stamp) = meter.pop_due()
                {
                    rows.push((u8::try_from(index).expect("at most 32 meters"), stamp));
                }
            }
            if rows.len() == before {
                break;
            }
        }
        rows
    }

    fn transmit(
        &mut self,
        world: &World,
        index: usize,
        is_retry: bool,
        send: &mut dyn FnMut(Sent<'_>),
    ) {
        let flight = &self.flights[index];
        let measure = |&(meter, stamp): &Row| {
            let meter = &self.meters[usize::from(meter)];
            let title = Some(meter.identity().title().0);
            Measured { meter: title, ..meter.measure(world, stamp) }
        };
        let rows: Vec<Measured> = flight.cargo.iter().map(measure).collect();
        let invoke_id = InvokeId::confirmed(flight.invoke_id);
        let count = u32::try_from(rows.len()).expect("at most 32 rows");
        self.identity.seal::<FRAME_SIZE_MAX>(
            |writer| Measured::write_batch(&rows, invoke_id, writer),
            |frame, counter| send(Sent { frame, counter, rows: count, is_retry }),
        );
    }
}
