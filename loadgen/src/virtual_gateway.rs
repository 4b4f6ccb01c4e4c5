//! A virtual gateway: up to 32 meters behind one session. For some of them it sends batches in its
//! own frames, for the others it passes their own frames through.

use meter::wire::dlms::{InvokeId, Measured, Wrapper};
use meter::{EventCode, SystemTitle, UnixSeconds};

use crate::device::{
    Flight, Identity, Now, Received, Sent, Wake, answer_frame, event_code, frame_counter,
    request_behind,
};
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

/// What happened, to whom and when.
type Happened = (SystemTitle, UnixSeconds, EventCode);

/// What a frame on its way carries.
#[derive(Clone, Debug)]
enum Batch {
    Readings(Vec<Row>),
    Events(Vec<Happened>),
}

impl Batch {
    /// Readings in it.
    fn rows(&self) -> u32 {
        match self {
            Self::Readings(rows) => u32::try_from(rows.len()).unwrap_or(u32::MAX),
            Self::Events(_) => 0,
        }
    }
}

/// The gateway.
#[derive(Clone, Debug)]
pub struct VirtualGateway {
    ordinal: u32,
    identity: Identity,
    meters: Vec<VirtualMeter>,
    /// The first so many meters are read by the gateway; the others speak for themselves.
    batched: usize,
    flights: Vec<Flight<Batch>>,
    /// What will happen to the gateway itself, the soonest last.
    events: Vec<(UnixSeconds, EventCode)>,
    /// Answers of its meters to requests, frames.
    answers: Vec<Vec<u8>>,
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
            events: Vec::new(),
            answers: Vec::new(),
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

    /// Lets something happen to the gateway itself, such as its mains going.
    pub fn add_event(&mut self, at: UnixSeconds, code: EventCode) {
        self.events.push((at, code));
        self.events.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
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
        for frame in std::mem::take(&mut self.answers) {
            let counter = frame_counter(&frame).unwrap_or_default();
            send(Sent { frame: &frame, counter, rows: 0, is_retry: false });
        }
        self.send_events(world, now, send);
        let (batched, own) = self.meters.split_at_mut(self.batched);
        let own_wakes: Vec<Wake> =
            own.iter_mut().map(|meter| meter.poll(world, now, send)).collect();
        batched.iter_mut().for_each(|meter| meter.take_due(now));
        self.send_batches(world, now, send);
        let (batched, _) = self.meters.split_at(self.batched);
        let readings = batched.iter().filter_map(|meter| meter.wakes_at(now));
        let retries = self.flights.iter().map(|flight| flight.retry_at);
        Wake {
            clock: readings
                .chain(own_wakes.iter().filter_map(|wake| wake.clock))
                .chain(self.event_at(now))
                .min(),
            wall: retries.chain(own_wakes.iter().filter_map(|wake| wake.wall)).min(),
        }
    }

    /// Takes a frame from the head-end: for the gateway, or for one of the meters behind it.
    pub fn receive(&mut self, frame: &mut [u8], now: Now) -> Received {
        if let Some(received) = self.pass_on(frame, now) {
            return received;
        }
        if let Some(invoke_id) = self.identity.confirmed(frame) {
            let is_its = |flight: &Flight<Batch>| flight.invoke_id == invoke_id.id();
            return match self.flights.iter().position(is_its) {
                Some(index) => {
                    let flight = self.flights.swap_remove(index);
                    let rows = flight.cargo.rows();
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
        let flying: u32 = self.flights.iter().map(|flight| flight.cargo.rows()).sum();
        let waiting: u32 = self.meters.iter().map(VirtualMeter::unconfirmed).sum();
        waiting + flying
    }

    /// Whether all readings of all meters are confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.flights.is_empty() && self.meters.iter().all(VirtualMeter::is_done)
    }

    /// When the next reading is due.
    pub(crate) fn wakes_at(&self, now: Now) -> Option<UnixSeconds> {
        let meters = self.meters.iter().filter_map(|meter| meter.wakes_at(now));
        meters.chain(self.event_at(now)).min()
    }

    fn event_at(&self, now: Now) -> Option<UnixSeconds> {
        self.events.last().map(|(at, _)| (*at).max(now.clock.plus(1)))
    }

    /// Gives a request with the gateway prefix to the meter that it names.
    fn pass_on(&mut self, frame: &mut [u8], now: Now) -> Option<Received> {
        let (_, apdu) = Wrapper::datagram_mut(frame).ok()?;
        let (title, apdu) = request_behind(apdu)?;
        let meter = self.meters.iter_mut().find(|meter| meter.identity().title() == title);
        let Some(answer) = meter.and_then(|meter| meter.ask(apdu, now)) else {
            return Some(Received::Foreign);
        };
        self.answers.push(answer_frame(&answer, Some(title)));
        Some(Received::Asked)
    }

    /// What happened to the gateway and to the meters it reads goes in a frame of its own, at once.
    fn send_events(&mut self, world: &World, now: Now, send: &mut dyn FnMut(Sent<'_>)) {
        let mut events = Vec::new();
        while let Some((at, code)) = self.events.pop_if(|(at, _)| *at <= now.clock) {
            events.push((self.identity.title(), at, code));
        }
        for meter in self.meters.iter_mut().take(self.batched) {
            while let Some((at, code)) = meter.pop_event(now) {
                events.push((meter.identity().title(), at, code));
            }
        }
        for events in events.chunks(ROWS_MAX) {
            self.launch(Batch::Events(events.to_vec()), world, now, send);
        }
    }

    fn launch(&mut self, batch: Batch, world: &World, now: Now, send: &mut dyn FnMut(Sent<'_>)) {
        self.frames = self.frames.wrapping_add(1);
        let invoke_id = InvokeId::confirmed(self.frames).id();
        self.flights.push(Flight::new(invoke_id, batch, now, world.retry));
        self.transmit(world, self.flights.len() - 1, false, send);
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
            self.launch(Batch::Readings(rows), world, now, send);
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
        let (invoke_id, rows) = (InvokeId::confirmed(flight.invoke_id), flight.cargo.rows());
        let send = |frame: &[u8], counter| send(Sent { frame, counter, rows, is_retry });
        match &flight.cargo {
            Batch::Readings(stamps) => {
                let rows: Vec<Measured> = stamps.iter().map(measure).collect();
                self.identity.seal::<FRAME_SIZE_MAX>(
                    |writer| Measured::write_batch(&rows, invoke_id, writer),
                    send,
                );
            }
            Batch::Events(events) => {
                let row = |(title, at, code): &Happened| (title.0, at.0, event_code(*code));
                let rows: Vec<_> = events.iter().map(row).collect();
                self.identity.seal::<FRAME_SIZE_MAX>(
                    |writer| Measured::write_events(&rows, invoke_id, writer),
                    send,
                );
            }
        }
    }
}
