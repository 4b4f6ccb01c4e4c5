//! A virtual meter: a pure state machine that measures, seals, sends, waits and sends again.
//!
//! What it measures is a function of its load and of time; it remembers only what it must: where
//! its register began, when its relay was open, which readings nobody has confirmed. A quarter of
//! a kilobyte, so that ten million of them fit one machine.

use meter::wire::dlms::{InvokeId, Measured, Wrapper};
use meter::{Energy, EventCode, Relay, UnixSeconds};

use crate::backlog::Backlog;
use crate::cosem::Cosem;
use crate::device::{
    Flight, Identity, Now, Received, Sent, Wake, answer_frame, event_code, frame_counter,
};
use crate::plan::{Holdback, MeterPlan, VoltageSpell, World};
use crate::profile::{Load, Sample, Work};
use crate::seed::Purpose;
use crate::sum::LoadSum;
use crate::{Seed, mix};

/// How much too high a spoilt register is told.
pub const SPIKE_WH: u64 = 10_000_000;

/// How far back a meter's own store reaches.
pub const STORE_S: u32 = 60 * 86_400;

/// Room for a sealed push of three phases.
const FRAME_SIZE_MAX: usize = 256;

/// The meter.
#[derive(Clone, Debug)]
pub struct VirtualMeter {
    identity: Identity,
    plan: MeterPlan,
    /// Work at the first reading, where the register began.
    origin: Work,
    next: UnixSeconds,
    backlog: Backlog,
    flights: Vec<Flight<Cargo>>,
    /// When the relay was open: from, to; the last one may not have ended.
    open: Vec<(UnixSeconds, Option<UnixSeconds>)>,
    rare: Option<Box<Rare>>,
}

/// What a frame on its way carries.
#[derive(Clone, Copy, Debug)]
enum Cargo {
    /// The reading of this stamp.
    Reading(UnixSeconds),
    /// What happened then.
    Event(UnixSeconds, EventCode),
}

/// What few meters have.
#[derive(Clone, Debug, Default)]
struct Rare {
    cosem: Cosem,
    /// Answers to requests, frames.
    answers: Vec<Vec<u8>>,
    /// What will happen, the soonest last.
    events: Vec<(UnixSeconds, EventCode)>,
    spells: Vec<VoltageSpell>,
    holdback: Option<(Holdback, Backlog)>,
    /// Loads it meters besides its own, as a transformer's total meter does.
    sum: Option<LoadSum>,
    /// No mains from the first stamp until before the second: nothing is metered or read.
    outage: Option<(UnixSeconds, UnixSeconds)>,
    /// The stamp whose register is told far too high.
    spike: Option<UnixSeconds>,
    lost: u32,
}

const _: () = assert!(size_of::<VirtualMeter>() <= 256);

impl VirtualMeter {
    /// The meter of a plan.
    #[must_use]
    pub fn new(world: &World, plan: MeterPlan) -> Self {
        Self {
            identity: Identity::of_meter(world.seed, plan.ordinal),
            plan,
            origin: Work::of(plan.load, plan.first),
            next: plan.first,
            backlog: Backlog::default(),
            flights: Vec::new(),
            open: Vec::new(),
            rare: None,
        }
    }

    /// Its title, keys and counter.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it is and does.
    #[must_use]
    pub const fn plan(&self) -> &MeterPlan {
        &self.plan
    }

    /// Adds a time of wrong voltage.
    pub fn add_spell(&mut self, spell: VoltageSpell) {
        self.rare.get_or_insert_default().spells.push(spell);
    }

    /// Makes it keep readings to itself for a while.
    pub fn hold_back(&mut self, holdback: Holdback) {
        self.rare.get_or_insert_default().holdback = Some((holdback, Backlog::default()));
    }

    /// Makes it meter these loads instead of its own, and lose so many thousandths more.
    pub fn meter_sum(&mut self, loads: Vec<Load>, loss_milli: u16) {
        let sum = LoadSum::new(loads, loss_milli, self.plan.first);
        self.origin = Work::default();
        self.rare.get_or_insert_default().sum = Some(sum);
    }

    /// Takes the mains away from `from` until before `to`; it tells both.
    pub fn black_out(&mut self, from: UnixSeconds, to: UnixSeconds) {
        self.add_event(from, EventCode::PowerDown);
        self.add_event(to, EventCode::PowerUp);
        self.open.push((from, Some(to)));
        self.rare.get_or_insert_default().outage = Some((from, to));
    }

    /// Makes it tell a register at `stamp` that cannot be: [`SPIKE_WH`] too high.
    pub fn spike(&mut self, stamp: UnixSeconds) {
        self.rare.get_or_insert_default().spike = Some(stamp);
    }

    /// How many readings it takes.
    #[must_use]
    pub fn readings(&self) -> u64 {
        match self.rare.as_ref().and_then(|rare| rare.outage) {
            None => self.plan.readings(),
            Some(_) => u64::try_from(self.stamps().count()).expect("a count fits"),
        }
    }

    /// Whether the reading of `stamp` tells a register that cannot be.
    #[must_use]
    pub fn is_spike(&self, stamp: UnixSeconds) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.spike == Some(stamp))
    }

    /// The stamps of its readings, from the first to the last.
    pub fn stamps(&self) -> impl Iterator<Item = UnixSeconds> {
        let count = u32::try_from(self.plan.readings()).unwrap_or(u32::MAX);
        let all = (0..count).map(|number| self.plan.first.plus(number * self.plan.period_s));
        all.filter(|stamp| !self.is_dark(*stamp))
    }

    /// Lets something happen, which it tells the head-end.
    pub fn add_event(&mut self, at: UnixSeconds, code: EventCode) {
        let events = &mut self.rare.get_or_insert_default().events;
        events.push((at, code));
        events.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    }

    /// Fits a token meter, which its token gateway hands tokens to.
    pub fn fit_token_meter(&mut self, tokens: sts::meter::VirtualMeter) {
        self.rare.get_or_insert_default().cosem.fit(tokens);
    }

    /// The token meter.
    #[must_use]
    pub fn token_meter(&self) -> Option<&sts::meter::VirtualMeter> {
        self.rare.as_ref()?.cosem.tokens()
    }

    /// Commands that changed something: relay switched, token entered. Each counts once.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.cosem.changes())
    }

    /// Takes the APDU of a request; the answer, when it is one to this meter.
    pub(crate) fn ask(&mut self, apdu: &mut [u8], now: Now) -> Option<Vec<u8>> {
        let relay = self.relay(now.clock);
        let mut fresh = Cosem::default();
        let cosem = self.rare.as_mut().map_or(&mut fresh, |rare| &mut rare.cosem);
        let asked = cosem.ask(apdu, &mut self.identity, relay, now.clock.0.into())?;
        if self.rare.is_none() {
            self.rare.get_or_insert_default().cosem = fresh;
        }
        if let Some(relay) = asked.switch {
            self.switch(relay, now.clock);
        }
        Some(asked.answer)
    }

    /// Opens or closes the supply relay at `at`. While it is open nothing is consumed.
    pub fn switch(&mut self, relay: Relay, at: UnixSeconds) {
        match (relay, self.open.last_mut()) {
            (Relay::Closed, Some((_, to @ None))) => *to = Some(at),
            (Relay::Open, None | Some((_, Some(_)))) => self.open.push((at, None)),
            (Relay::Open, Some((_, None))) | (Relay::Closed, _) => {}
        }
    }

    /// The cumulative import at `at`, in the width of the register.
    #[must_use]
    pub fn register(&self, at: UnixSeconds) -> Energy {
        self.rolled(self.total(at).wh())
    }

    /// The cumulative import at `at` as a register without end would show it.
    #[must_use]
    pub fn total(&self, at: UnixSeconds) -> Energy {
        let work = self.metered(at, |at| self.work(at), self.origin);
        Energy::from_wh(self.plan.start.wh() + work.floor().wh())
    }

    /// All that the meter shows at `at`.
    #[must_use]
    pub fn measure(&self, world: &World, at: UnixSeconds) -> Measured {
        let relay = self.relay(at);
        // The stamp ends the quarter hour that the sample describes.
        let sample = self.sample(at.minus(1));
        let sample = if relay == Relay::Closed { sample } else { sample.without_load() };
        let apparent = sample.apparent_va();
        let phases = usize::from(self.plan.phases);
        let mut measured = Measured {
            taken_at: at.0,
            register_wh: self.told(at).wh(),
            rates_wh: [1, 2, 3, 4].map(|rate| Some(self.rate_register(at, rate).wh())),
            power_w: Some(sample.power.w()),
            reactive_var: Some(sample.reactive.var()),
            power_factor_milli: Some(sample.power_factor_milli()),
            frequency_mhz: Some(frequency(world.seed, at)),
            relay: Some(relay),
            ..Measured::default()
        };
        for phase in 0..phases {
            let voltage = self.phase_voltage(world.seed, sample, at, phase);
            let ma = apparent * 1_000_000 / (u64::from(self.plan.phases) * u64::from(voltage));
            measured.voltage_mv[phase] = Some(voltage);
            measured.current_ma[phase] = Some(u32::try_from(ma).unwrap_or(u32::MAX));
        }
        measured
    }

    /// Takes the readings that are due and gives the frames to send. Call it at the [`Wake`] it
    /// returns, or at any other time.
    pub fn poll(&mut self, world: &World, now: Now, send: &mut dyn FnMut(Sent<'_>)) -> Wake {
        self.take_due(now);
        for frame in
            self.rare.as_mut().map(|rare| std::mem::take(&mut rare.answers)).unwrap_or_default()
        {
            let counter = frame_counter(&frame).unwrap_or_default();
            send(Sent { frame: &frame, counter, rows: 0, is_retry: false });
        }
        for index in 0..self.flights.len() {
            if self.flights[index].retry_at <= now.wall {
                self.flights[index].sent(now, world.retry);
                let cargo = self.flights[index].cargo;
                self.transmit(world, cargo, true, send);
            }
        }
        // What happens does not wait for its turn: it may be the last gasp.
        while let Some((at, code)) = self.pop_event(now) {
            let cargo = Cargo::Event(at, code);
            let invoke_id = self.invoke_id(cargo).id();
            self.flights.push(Flight::new(invoke_id, cargo, now, world.retry));
            self.transmit(world, cargo, false, send);
        }
        while self.flights.len() < usize::from(world.window) {
            let Some(stamp) = self.backlog.pop().map(UnixSeconds) else { break };
            let cargo = Cargo::Reading(stamp);
            let invoke_id = self.invoke_id(cargo).id();
            let mut flight = Flight::new(invoke_id, cargo, now, world.retry);
            // A reading that could not go when it was due has waited since then.
            flight.was_due(now.clock.since(self.true_time(stamp)), world.pace);
            self.flights.push(flight);
            self.transmit(world, cargo, false, send);
        }
        let retry_at = self.flights.iter().map(|flight| flight.retry_at).min();
        Wake { clock: self.wakes_at(now), wall: retry_at }
    }

    /// Takes a frame from the head-end.
    pub fn receive(&mut self, frame: &mut [u8], now: Now) -> Received {
        if let Ok((_, apdu)) = Wrapper::datagram_mut(frame)
            && let Some(answer) = self.ask(apdu, now)
        {
            let answers = &mut self.rare.get_or_insert_default().answers;
            answers.push(answer_frame(&answer, None));
            return Received::Asked;
        }
        let Some(invoke_id) = self.identity.confirmed(frame) else { return Received::Foreign };
        let is_its = |flight: &Flight<Cargo>| flight.invoke_id == invoke_id.id();
        match self.flights.iter().position(is_its) {
            Some(index) => {
                let flight = self.flights.swap_remove(index);
                let (waited, rows) = match flight.cargo {
                    Cargo::Reading(_) => (flight.waited(now), 1),
                    Cargo::Event(..) => (flight.waited(now), 0),
                };
                if self.flights.is_empty() {
                    self.flights = Vec::new(); // Give the memory back until the next reading.
                }
                Received::Acknowledged { rows, waited }
            }
            None => Received::Repeated,
        }
    }

    /// The link is back: what is on the way is sent again at the next poll.
    pub fn relink(&mut self, now: Now) {
        self.flights.iter_mut().for_each(|flight| flight.retry_at = now.wall);
    }

    /// Readings taken or kept and not confirmed yet.
    #[must_use]
    pub fn unconfirmed(&self) -> u32 {
        let held = self.rare.as_ref().and_then(|rare| rare.holdback.as_ref());
        let held = held.map_or(0, |(_, backlog)| backlog.count());
        let is_reading = |flight: &&Flight<Cargo>| matches!(flight.cargo, Cargo::Reading(_));
        let flying = self.flights.iter().filter(is_reading).count();
        let flying = u32::try_from(flying).unwrap_or(u32::MAX);
        self.backlog.count() + held + flying
    }

    /// Whether all readings up to the last are confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next > self.plan.last && self.unconfirmed() == 0
    }

    /// Readings given up because the store reaches back 60 days only.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.lost)
    }

    /// Moves the readings that are due into the backlog.
    pub(crate) fn take_due(&mut self, now: Now) {
        let (until, period) = (self.local(now.clock), self.plan.period_s);
        while self.next <= until && self.next <= self.plan.last {
            if self.is_dark(self.next) {
                self.next = self.next.plus(period);
                continue;
            }
            let held = self.rare.as_mut().and_then(|rare| rare.holdback.as_mut());
            match held {
                Some((span, kept)) if (span.from..=span.to).contains(&self.next) => {
                    kept.push(self.next.0, period);
                }
                _ => self.backlog.push(self.next.0, period),
            }
            self.next = self.next.plus(period);
        }
        let Some(rare) = &mut self.rare else { return self.drop_old() };
        if rare.holdback.as_ref().is_some_and(|(span, _)| span.until <= now.clock)
            && let Some((_, kept)) = rare.holdback.take()
        {
            self.backlog.merge(kept);
        }
        self.drop_old();
    }

    /// The oldest reading to send, for a gateway that sends it in a frame of its own.
    pub(crate) fn pop_due(&mut self) -> Option<UnixSeconds> {
        self.backlog.pop().map(UnixSeconds)
    }

    /// When the next reading is due, by the true time of day; later than now.
    pub(crate) fn wakes_at(&self, now: Now) -> Option<UnixSeconds> {
        let held = self.rare.as_ref().and_then(|rare| rare.holdback.as_ref());
        let released = held.map(|(span, _)| span.until);
        let next = (self.next <= self.plan.last).then(|| self.true_time(self.next));
        let event = self.rare.as_ref().and_then(|rare| rare.events.last());
        let event = event.map(|(at, _)| shifted(*at, -self.ahead(*at)));
        next.into_iter().chain(released).chain(event).min().map(|at| at.max(now.clock.plus(1)))
    }

    /// What happened by now and was not told yet.
    pub(crate) fn pop_event(&mut self, now: Now) -> Option<(UnixSeconds, EventCode)> {
        let local = shifted(now.clock, self.ahead(now.clock));
        let events = &mut self.rare.as_mut()?.events;
        events.pop_if(|(at, _)| *at <= local)
    }

    fn drop_old(&mut self) {
        let lost = self.backlog.drop_before(self.next.minus(STORE_S).0);
        if lost > 0 {
            self.rare.get_or_insert_default().lost += lost;
        }
    }

    fn transmit(
        &mut self,
        world: &World,
        cargo: Cargo,
        is_retry: bool,
        send: &mut dyn FnMut(Sent<'_>),
    ) {
        let invoke_id = self.invoke_id(cargo);
        match cargo {
            Cargo::Reading(stamp) => {
                let measured = self.measure(world, stamp);
                self.identity.seal::<FRAME_SIZE_MAX>(
                    |writer| measured.write_single(invoke_id, writer),
                    |frame, counter| send(Sent { frame, counter, rows: 1, is_retry }),
                );
            }
            Cargo::Event(at, code) => self.identity.seal::<FRAME_SIZE_MAX>(
                |writer| Measured::write_event(at.0, event_code(code), invoke_id, writer),
                |frame, counter| send(Sent { frame, counter, rows: 0, is_retry }),
            ),
        }
    }

    /// Readings are numbered by their stamps, so that a repetition has the number of the original;
    /// events by stamp and kind, in the upper half of the 24 bits.
    fn invoke_id(&self, cargo: Cargo) -> InvokeId {
        InvokeId::confirmed(match cargo {
            Cargo::Reading(stamp) => stamp.0 / self.plan.period_s,
            Cargo::Event(at, code) => {
                0x80_0000 | (at.0 ^ u32::from(event_code(code)) << 15) & 0x7F_FFFF
            }
        })
    }

    /// What the meter's clock shows, less the delay it sends with.
    fn local(&self, clock: UnixSeconds) -> UnixSeconds {
        let ahead = self.ahead(clock) - i64::from(self.plan.send_delay_s);
        shifted(clock, ahead)
    }

    /// When the meter's clock shows `stamp`, and the delay has passed; to the second.
    fn true_time(&self, stamp: UnixSeconds) -> UnixSeconds {
        shifted(stamp, i64::from(self.plan.send_delay_s) - self.ahead(stamp))
    }

    fn ahead(&self, clock: UnixSeconds) -> i64 {
        let gained = i64::from(clock.since(self.plan.first)) * i64::from(self.plan.clock.drift_ppm);
        i64::from(self.plan.clock.ahead_s) + gained / 1_000_000
    }

    fn relay(&self, at: UnixSeconds) -> Relay {
        let is_open = |&(from, to): &(UnixSeconds, Option<UnixSeconds>)| {
            from <= at && to.is_none_or(|to| at < to)
        };
        if self.open.iter().any(is_open) { Relay::Open } else { Relay::Closed }
    }

    /// Work from the first reading to `at` but for the times when the relay was open.
    fn metered(&self, at: UnixSeconds, work: impl Fn(UnixSeconds) -> Work, origin: Work) -> Work {
        let mut origin = origin;
        for &(from, to) in self.open.iter().take_while(|(from, _)| *from < at) {
            let cut = work(to.unwrap_or(at).min(at)).since(work(from));
            origin = origin.plus(cut);
        }
        work(at).since(origin)
    }

    /// The register that it tells, which a spike spoils.
    fn told(&self, at: UnixSeconds) -> Energy {
        let spike = if self.is_spike(at) { SPIKE_WH } else { 0 };
        self.rolled(self.total(at).wh() + spike)
    }

    fn is_dark(&self, at: UnixSeconds) -> bool {
        let outage = self.rare.as_ref().and_then(|rare| rare.outage);
        outage.is_some_and(|(from, to)| from <= at && at < to)
    }

    fn work(&self, at: UnixSeconds) -> Work {
        match self.rare.as_ref().and_then(|rare| rare.sum.as_ref()) {
            Some(sum) => sum.work(at),
            None => Work::of(self.plan.load, at),
        }
    }

    fn rate_work(&self, at: UnixSeconds, rate: u8) -> Work {
        match self.rare.as_ref().and_then(|rare| rare.sum.as_ref()) {
            Some(sum) => sum.rate_work(at, rate),
            None => Work::of_rate(self.plan.load, at, rate),
        }
    }

    fn sample(&self, at: UnixSeconds) -> Sample {
        match self.rare.as_ref().and_then(|rare| rare.sum.as_ref()) {
            Some(sum) => sum.sample(at),
            None => Sample::of(self.plan.load, at),
        }
    }

    fn rate_register(&self, at: UnixSeconds, rate: u8) -> Energy {
        let work = |at| self.rate_work(at, rate);
        let metered = self.metered(at, work, work(self.plan.first));
        // What the register showed at first stands in equal parts, the rest in the last.
        let quarter = self.plan.start.wh() / 4;
        let start = if rate == 4 { self.plan.start.wh() - 3 * quarter } else { quarter };
        self.rolled(start + metered.floor().wh())
    }

    fn rolled(&self, wh: u64) -> Energy {
        Energy::from_wh(wh % (1000 * 10_u64.pow(u32::from(self.plan.register_digits))))
    }

    fn phase_voltage(&self, seed: Seed, sample: Sample, at: UnixSeconds, phase: usize) -> u32 {
        let index = u64::from(self.plan.ordinal) * 4 + u64::try_from(phase).unwrap_or_default();
        // Phases differ by up to 0.4 V.
        let uneven =
            i64::try_from(seed.draw(Purpose::Phase, index) % 401).unwrap_or_default() - 200;
        let spells = self.rare.iter().flat_map(|rare| &rare.spells);
        let spell = spells.filter(|spell| spell.from <= at && at < spell.to);
        let offset: i64 = spell.map(|spell| i64::from(spell.offset_mv)).sum();
        let voltage = i64::from(sample.voltage.mv()) + uneven + offset;
        u32::try_from(voltage).unwrap_or_default().max(1)
    }
}

/// `at` moved by `seconds` either way.
fn shifted(at: UnixSeconds, seconds: i64) -> UnixSeconds {
    let moved = i64::from(at.0) + seconds;
    UnixSeconds(u32::try_from(moved.max(0)).unwrap_or(u32::MAX))
}

/// Mains frequency wanders by 20 mHz, everywhere the same.
fn frequency(seed: Seed, at: UnixSeconds) -> u32 {
    let wander = mix(seed.0 ^ u64::from(at.0 / 60)) % 41;
    49_980 + u32::try_from(wander).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::device::Retry;
    use crate::plan::MeterClock;
    use crate::profile::{CONSUMERS, Load};

    const START: UnixSeconds = UnixSeconds(1_479_686_400);

    fn world() -> World {
        let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(4) };
        World { seed: Seed(11), retry, window: 2, pace: 1 }
    }

    fn plan() -> MeterPlan {
        MeterPlan {
            ordinal: 5,
            load: Load { site: 31, days_ahead: 0, scale_milli: 1000 },
            phases: 1,
            first: START,
            last: START.plus(86_400 * 90),
            period_s: 900,
            send_delay_s: 0,
            start: Energy::from_wh(0),
            register_digits: 6,
            clock: MeterClock::default(),
        }
    }

    fn now(seconds: u32, wall_ms: u64) -> Now {
        Now { clock: START.plus(seconds), wall: Duration::from_millis(wall_ms) }
    }

    fn sent(meter: &mut VirtualMeter, now: Now) -> (Vec<(u32, bool)>, Wake) {
        let mut frames = Vec::new();
        let wake =
            meter.poll(&world(), now, &mut |sent| frames.push((sent.counter, sent.is_retry)));
        (frames, wake)
    }

    #[test]
    fn an_unconfirmed_reading_is_sent_again_under_a_fresh_counter() {
        let mut meter = VirtualMeter::new(&world(), plan());
        let first = meter.identity().counter() + 1;
        let (frames, wake) = sent(&mut meter, now(0, 0));
        assert_eq!(frames, [(first, false)]);
        assert_eq!(wake.clock, Some(START.plus(900)));
        let retry_at = wake.wall.unwrap();
        assert!((1000..=1250).contains(&retry_at.as_millis()), "{retry_at:?}");
        assert_eq!(sent(&mut meter, now(1, 999)).0, []);
        assert_eq!(sent(&mut meter, now(1, 1250)).0, [(first + 1, true)]);
        // The next wait is twice as long.
        assert_eq!(sent(&mut meter, now(1, 3200)).0, []);
        assert_eq!(sent(&mut meter, now(1, 3760)).0, [(first + 2, true)]);
    }

    #[test]
    fn an_open_relay_stops_the_register() {
        let mut meter = VirtualMeter::new(&world(), plan());
        let closed = meter.register(START.plus(7200)).wh();
        let first = meter.register(START.plus(1800)).wh();
        let last = closed - meter.register(START.plus(5400)).wh();
        meter.switch(Relay::Open, START.plus(1800));
        meter.switch(Relay::Open, START.plus(2000));
        assert_eq!(meter.register(START.plus(9000)).wh(), first);
        assert_eq!(meter.measure(&world(), START.plus(1800)).relay, Some(Relay::Open));
        assert_eq!(meter.measure(&world(), START.plus(1800)).power_w, Some(0));
        meter.switch(Relay::Closed, START.plus(5400));
        let both = meter.register(START.plus(7200)).wh();
        assert!((first + last..=first + last + 1).contains(&both), "{first} {last} {both}");
        assert_eq!(meter.measure(&world(), START.plus(5400)).relay, Some(Relay::Closed));
        assert_eq!(meter.register(START.plus(1700)).wh(), {
            VirtualMeter::new(&world(), plan()).register(START.plus(1700)).wh()
        });
    }

    #[test]
    fn a_register_rolls_over_at_its_digits() {
        let start = Energy::from_wh(999_999_990);
        let meter = VirtualMeter::new(&world(), MeterPlan { start, ..plan() });
        assert_eq!(meter.register(START), start);
        assert!(meter.register(START.plus(86_400)).wh() < 1_000_000);
    }

    #[test]
    fn the_store_reaches_back_sixty_days() {
        let mut meter = VirtualMeter::new(&world(), plan());
        meter.take_due(now(86_400 * 70, 0));
        assert_eq!(meter.unconfirmed(), STORE_S / 900);
        assert_eq!(meter.lost(), 70 * 96 + 1 - STORE_S / 900);
    }

    #[test]
    fn a_clock_that_is_ahead_stamps_early() {
        let clock = MeterClock { ahead_s: 400, drift_ppm: 100 };
        let mut meter = VirtualMeter::new(&world(), MeterPlan { clock, ..plan() });
        let (frames, wake) = sent(&mut meter, now(0, 0));
        assert_eq!((frames.len(), wake.clock), (1, Some(START.plus(500))));
        // After ten days it has gained 86 seconds.
        let mut meter = VirtualMeter::new(&world(), MeterPlan { clock, ..plan() });
        meter.take_due(now(864_000, 0));
        assert_eq!(meter.next, START.plus(864_000 + 900));
        meter.take_due(now(864_000 + 900 - 400 - 86, 0));
        assert_eq!(meter.next, START.plus(864_000 + 1800));
    }

    #[test]
    fn held_readings_come_late_and_in_order() {
        let mut meter = VirtualMeter::new(&world(), plan());
        let at = |slot: u32| START.plus(slot * 900);
        meter.hold_back(Holdback { from: at(2), to: at(4), until: at(7) });
        meter.take_due(now(6 * 900, 0));
        let mut stamps: Vec<_> = std::iter::from_fn(|| meter.pop_due()).collect();
        assert_eq!(stamps, [at(0), at(1), at(5), at(6)]);
        assert!(!meter.is_done() && meter.unconfirmed() == 3);
        meter.take_due(now(7 * 900, 0));
        stamps = std::iter::from_fn(|| meter.pop_due()).collect();
        assert_eq!(stamps, [at(2), at(3), at(4), at(7)]);
    }

    proptest! {
        /// Nothing that is no confirmation changes anything.
        #[test]
        fn strange_frames_are_foreign(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut meter = VirtualMeter::new(&world(), plan());
            sent(&mut meter, now(0, 0));
            prop_assert_eq!(meter.receive(&mut bytes, now(0, 1)), Received::Foreign);
            prop_assert_eq!(meter.unconfirmed(), 1);
        }

        /// All phases and rates are told, and power, current and voltage agree.
        #[test]
        fn measurements_agree(site in 0..CONSUMERS, slot in 1_u32..672, three in any::<bool>()) {
            let load = Load { site, ..plan().load };
            let phases = if three { 3 } else { 1 };
            let meter = VirtualMeter::new(&world(), MeterPlan { load, phases, ..plan() });
            let shown = meter.measure(&world(), START.plus(slot * 900));
            let mut apparent_va = 0;
            for phase in 0..usize::from(phases) {
                let (mv, ma) = (shown.voltage_mv[phase].unwrap(), shown.current_ma[phase].unwrap());
                prop_assert!((225_000..245_000).contains(&mv));
                apparent_va += u64::from(mv) * u64::from(ma) / 1_000_000;
            }
            let active = u64::from(shown.power_w.unwrap().unsigned_abs());
            prop_assert!(apparent_va + 3 >= active, "{shown:?}");
            prop_assert!(shown.rates_wh.iter().all(Option::is_some));
            let rates: u64 = shown.rates_wh.iter().flatten().sum();
            prop_assert!(shown.register_wh.abs_diff(rates) <= 4, "{shown:?}");
        }
    }
}
