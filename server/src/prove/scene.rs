//! The story of a seed: places, tariffs, meters, what each meter measures and when, and what people
//! do meanwhile. It knows nothing of faults.

use meter::{
    AccountId, AccountTerms, Block, BlockPeriod, CalendarId, Change, CurrencyCode, Current,
    CustomerId, DayProfile, Energy, Fields, FriendlyCalendar, FriendlyId, FriendlySpan, GatewayId,
    Holidays, Installation, LocalCalendar, LocalDate, MeterEvent, MeterId, MeterRecord, Mode,
    Money, MonthDay, PlanId, Policy, Power, Price, Reading, Removal, Replacement, Role, Season,
    SupplyPolicy, Switch, TariffVersion, TransformerId, UnixSeconds,
};

use super::counter::{Plan, Sold};
use super::options::{Dice, Options};

/// Seconds of a round of the story.
pub(super) const ROUND_S: u32 = 900;
pub(super) const ROUNDS_A_DAY: u32 = 86_400 / ROUND_S;

/// Places with clocks that differ: none, hours, half hours, days that begin in the afternoon.
const ZONES: [&str; 6] = [
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "UTC",
];

/// Starts that make days and months interesting: 2026-03-27, -10-23, -12-29, 2028-02-27, -06-10.
const STARTS: [u32; 5] =
    [1_774_569_600, 1_792_713_600, 1_798_502_400, 1_835_222_400, 1_844_208_000];

const PLAN: PlanId = PlanId(1);
/// Of one rate, as energy is sold under.
const FLAT: PlanId = PlanId(2);
/// What accounts move on to.
const OTHERS: [PlanId; 2] = [PlanId(3), PlanId(4)];
const CALENDAR: CalendarId = CalendarId(1);

/// A meter of the story.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) id: MeterId,
    pub(super) account: AccountId,
    pub(super) period_s: u32,
    pub(super) digits: u8,
    /// Stamps are this much after the period's.
    pub(super) offset_s: u32,
    pub(super) from: UnixSeconds,
    pub(super) to: UnixSeconds,
    /// Register at the installation, Wh, before the rollover is taken off.
    base: u64,
    /// Whether the installation names it.
    pub(super) is_told: bool,
    /// From here on the register begins anew: a fault of the device.
    pub(super) reset_at: Option<UnixSeconds>,
    /// Between these the current is above what the meter is made for, now and then.
    pub(super) overload: Option<(UnixSeconds, UnixSeconds)>,
    seed: u64,
}

impl Device {
    /// The register at an instant, as the display shows it.
    pub(super) fn register(&self, at: UnixSeconds) -> Energy {
        let (since, base) = match self.reset_at {
            Some(reset) if reset <= at => (reset, 17),
            _ => (self.from, self.base),
        };
        let mut wh = base;
        // Each started quarter hour of the device has a load of its own, up to 2 kWh.
        let (first, last) = (since.0 / ROUND_S, at.0 / ROUND_S);
        for quarter in first..=last {
            let from = since.0.max(quarter * ROUND_S);
            // An instant before the installation has the register of the installation.
            let to = at.0.min((quarter + 1) * ROUND_S).max(from);
            let load = loadgen::mix(self.seed ^ u64::from(quarter)) % 2000;
            let load = if load < 400 { 0 } else { load };
            // From the quarter's start to each instant, so that parts add up to the whole.
            let part =
                |instant: u32| load * u64::from(instant - quarter * ROUND_S) / u64::from(ROUND_S);
            wh += part(to) - part(from);
        }
        Energy::from_wh(wh % (1000 * 10_u64.pow(self.digits.into())))
    }

    /// The reading at a stamp.
    pub(super) fn reading(&self, at: UnixSeconds) -> Reading {
        let mut reading = Reading {
            meter: self.id,
            taken_at: at,
            register: self.register(at),
            power: Power::from_w((at.0 % 1900).cast_signed()),
            fields: Fields::POWER,
            ..Reading::default()
        };
        if let Some((from, to)) = self.overload {
            // Below, between and above what ends and raises the alarm.
            let ma =
                if from <= at && at < to { 59_000 + at.0 / self.period_s % 4 * 2000 } else { 9 };
            reading.current[0] = Current::from_ma(ma);
            reading.fields = reading.fields.with(Fields::CURRENT[0]);
        }
        reading
    }

    fn record(&self) -> MeterRecord {
        MeterRecord {
            meter: self.id,
            role: Role::Consumer,
            transformer: TransformerId::NONE,
            gateway: GatewayId::NONE,
            current_max: Current::from_ma(60_000),
            voltage_nominal: meter::Voltage::from_mv(230_000),
            phases: 1,
            register_digits: self.digits,
            period_s: self.period_s,
        }
    }

    fn installation(&self) -> Change {
        let start = self.is_told.then(|| self.register(self.from));
        let (meter, account, at) = (self.id, self.account, self.from);
        Change::Install(Installation { meter, account, at, start })
    }
}

/// The story.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) start: UnixSeconds,
    pub(super) rounds: u32,
    pub(super) devices: Vec<Device>,
    /// What the registry says, by round, a row of the outbox each.
    pub(super) doings: Vec<(u32, Vec<Change>)>,
    /// What devices tell beside readings, by the round from which on they try.
    pub(super) events: Vec<(u32, MeterEvent)>,
    /// The plan of accounts sold in kWh, and what was sold to them, in its order.
    pub(super) flat: Plan,
    pub(super) sold: Vec<Sold>,
}

impl Scene {
    pub(super) fn new(options: &Options) -> Self {
        let mut dice = Dice::new(options.seed, 2);
        let zone = *dice.pick(&ZONES);
        let start = UnixSeconds(*dice.pick(&STARTS) + ROUND_S * dice.below(400) as u32);
        let rounds = options.days * ROUNDS_A_DAY;
        let (devices, doings, events) = (Vec::new(), Vec::new(), Vec::new());
        let flat = Plan { zone: zone.to_owned(), versions: Vec::new() };
        let sold = Vec::new();
        let mut scene = Self { start, rounds, devices, doings, events, flat, sold };
        scene.terms(zone, &mut dice);
        scene.flat_terms(&mut Dice::new(options.seed, 5));
        scene.other_terms(&mut Dice::new(options.seed, 6));
        let homes: Vec<AccountTerms> =
            (1..=options.meters).map(|id| scene.home(id, zone, options.seed, &mut dice)).collect();
        scene.people(options.meters, &mut dice);
        let mut dice = Dice::new(options.seed, 4);
        scene.friendlies(&mut dice);
        homes.iter().for_each(|terms| scene.deeds(terms, &mut dice));
        scene.doings.sort_by_key(|(round, _)| *round);
        scene
    }

    pub(super) fn at(&self, round: u32) -> UnixSeconds {
        self.start.plus(round * ROUND_S)
    }

    pub(super) fn end(&self) -> UnixSeconds {
        self.at(self.rounds)
    }

    /// Limits, holidays and the versions of the plan.
    fn terms(&mut self, zone: &str, dice: &mut Dice) {
        let calendar = LocalCalendar::new(zone).expect("the zones are compiled in");
        let today = calendar.local(self.start).date;
        let horizon_s = 86_400 * (3 + dice.below(20)) as u32;
        let policy = Policy { horizon_s, ..Policy::standard() };
        let holiday = later(today, 1 + dice.below(3));
        let days = vec![holiday];
        let named = CALENDAR;
        let order_s_max = 3600 * (1 + dice.below(8)) as u32;
        let cutting =
            SupplyPolicy { is_cutting: dice.happens(700), order_s_max, ..SupplyPolicy::standard() };
        let mut changes = vec![
            Change::Policy(policy),
            Change::SupplyPolicy(cutting),
            Change::Holidays(Holidays { calendar: named, days }),
            Change::Tariff(version(today.first_of_year(), named, dice)),
        ];
        if today.first_of_year() != today {
            changes.push(Change::Tariff(version(today, named, dice)));
        }
        changes.push(Change::Tariff(version(later(today, 1 + dice.below(2)), named, dice)));
        self.doings.push((0, changes));
        if self.rounds > 3 * ROUNDS_A_DAY {
            // Told days ahead, so that it is known before it is in force.
            let round = dice.below(u64::from(self.rounds - 3 * ROUNDS_A_DAY)) as u32;
            let told = calendar.local(self.at(round)).date;
            let version = version(later(told, 3), named, dice);
            self.doings.push((round, vec![Change::Tariff(version)]));
        }
    }

    /// The versions of the plan that energy is sold under: one rate, and blocks.
    fn flat_terms(&mut self, dice: &mut Dice) {
        let calendar = LocalCalendar::new(&self.flat.zone).expect("the zones are compiled in");
        let today = calendar.local(self.start).date;
        for from in [today.first_of_year(), later(today, 1 + dice.below(4))] {
            if self.flat.versions.iter().any(|version| version.valid_from == from) {
                continue;
            }
            let mut version = version(from, CALENDAR, dice);
            version.plan = FLAT;
            version.prices = vec![Price::from_e4(1000 + dice.below(9000) as i64)];
            for season in &mut version.seasons {
                for profile in [&mut season.workday, &mut season.weekend, &mut season.holiday] {
                    profile.0.iter_mut().for_each(|switch| switch.rate = 1);
                }
            }
            self.doings[0].1.push(Change::Tariff(version.clone()));
            self.flat.versions.push(version);
        }
    }

    /// Plans that accounts move on to, each with a version from before and one that begins meanwhile,
    /// which may be told late.
    fn other_terms(&mut self, dice: &mut Dice) {
        let calendar = LocalCalendar::new(&self.flat.zone).expect("the zones are compiled in");
        let today = calendar.local(self.start).date;
        for plan in OTHERS {
            let first = TariffVersion { plan, ..version(today.first_of_month(), CALENDAR, dice) };
            self.doings[0].1.push(Change::Tariff(first));
            let days = u64::from(self.rounds / ROUNDS_A_DAY);
            let from = later(today, 3 + dice.below(days));
            let second = TariffVersion { plan, ..version(from, CALENDAR, dice) };
            let told = dice.below(u64::from(ROUNDS_A_DAY)) as u32;
            self.doings.push((told.min(self.rounds - 1), vec![Change::Tariff(second)]));
        }
    }

    /// The plan that an account moves on to, if there is one left.
    pub(super) fn next_plan(plan: PlanId) -> Option<PlanId> {
        let place = OTHERS.iter().position(|other| *other == plan);
        OTHERS.get(place.map_or(0, |place| place + 1)).copied()
    }

    /// Times in which nobody is cut off: two calendars, either of which may be the policy's.
    fn friendlies(&mut self, dice: &mut Dice) {
        let (_, first) = &mut self.doings[0];
        for id in 1..=2 {
            let spans = |dice: &mut Dice| {
                let from = dice.below(90) as u8;
                let to = from + 1 + dice.below(u64::from(96 - from)) as u8;
                vec![FriendlySpan { from, to }]
            };
            let week =
                (0..7).map(|_| if dice.happens(600) { spans(dice) } else { Vec::new() }).collect();
            let holidays = dice.happens(500).then_some(CALENDAR);
            let friendly = FriendlyId(id);
            first.push(Change::Friendly(FriendlyCalendar { friendly, week, holidays }));
        }
        for change in first {
            if let Change::SupplyPolicy(policy) = change {
                policy.friendly = FriendlyId(dice.below(3) as u32);
            }
        }
    }

    /// An account with its meter, which may be replaced or end.
    fn home(&mut self, id: u32, zone: &str, seed: u64, dice: &mut Dice) -> AccountTerms {
        let account = AccountId(id);
        let from = self.at(0).plus(dice.below(3600) as u32);
        let to = UnixSeconds(u32::MAX);
        let digits = 4 + dice.below(3) as u8;
        let modulus = 1000 * 10_u64.pow(digits.into());
        let device = Device {
            id: MeterId(id),
            account,
            period_s: *dice.pick(&[300, 900, 900, 900, 1800, 3600]),
            digits,
            offset_s: if dice.happens(300) { dice.below(200) as u32 } else { 0 },
            from,
            to,
            // Now and then close before the rollover.
            base: if dice.happens(200) { modulus - 20_000 } else { 50_000 + dice.below(2_000_000) },
            is_told: dice.happens(600),
            reset_at: None,
            overload: None,
            seed: loadgen::mix(seed ^ (u64::from(id) << 32)),
        };
        let terms = AccountTerms {
            account,
            customer: CustomerId(id),
            plan: if loadgen::mix(seed ^ u64::from(id)).is_multiple_of(4) { FLAT } else { PLAN },
            zone: zone.to_owned(),
            mode: if dice.happens(800) { Mode::Prepaid } else { Mode::Postpaid },
            overdraft: Money::from_ticks(dice.below(3) as i64 * 10_000_000),
            low_levels: [Money::from_ticks(100_000_000), Money::from_ticks(20_000_000)],
        };
        let told = Change::Account(terms.clone());
        let first = vec![Change::Meter(device.record()), told, device.installation()];
        self.doings.push((4, first));
        self.devices.push(device);
        match dice.below(4) {
            0 if self.rounds > 2 * ROUNDS_A_DAY => self.replace(id, seed, dice),
            1 if self.rounds > 2 * ROUNDS_A_DAY => self.close(dice),
            2 if self.rounds > ROUNDS_A_DAY => {
                let round =
                    ROUNDS_A_DAY / 2 + dice.below(u64::from(self.rounds - ROUNDS_A_DAY)) as u32;
                let at = self.at(round).plus(7);
                let device = self.devices.last_mut().expect("pushed above");
                if device.base < 3_000_000 && device.digits > 4 {
                    device.reset_at = Some(at);
                }
            }
            _ => {}
        }
        terms
    }

    /// Another meter takes the place of the newest, in one go.
    fn replace(&mut self, id: u32, seed: u64, dice: &mut Dice) {
        let round = ROUNDS_A_DAY + dice.below(u64::from(self.rounds - ROUNDS_A_DAY)) as u32;
        let at = self.at(round).minus(dice.below(800) as u32);
        let old = self.devices.last_mut().expect("a home has a meter");
        old.to = at;
        let new = Device {
            id: MeterId(id + 1000),
            from: at,
            to: UnixSeconds(u32::MAX),
            base: dice.below(5000),
            is_told: true,
            seed: loadgen::mix(seed ^ (u64::from(id + 1000) << 32)),
            ..old.clone()
        };
        let (record, end) = (Change::Meter(new.record()), old.register(at));
        let changes = if new.seed.is_multiple_of(2) {
            vec![Change::Remove(Removal { meter: old.id, at, end }), record, new.installation()]
        } else {
            let (account, start) = (new.account, new.register(at));
            let (old, new) = (old.id, new.id);
            let replaced = Change::Replace(Replacement { account, old, end, new, start, at });
            vec![record, replaced]
        };
        self.doings.push((round, changes));
        self.devices.push(new);
    }

    /// The account's meter is taken away.
    fn close(&mut self, dice: &mut Dice) {
        let round = ROUNDS_A_DAY + dice.below(u64::from(self.rounds - ROUNDS_A_DAY)) as u32;
        let at = self.at(round).minus(dice.below(800) as u32);
        let device = self.devices.last_mut().expect("a home has a meter");
        device.to = at;
        let end = device.register(at);
        self.doings.push((round, vec![Change::Remove(Removal { meter: device.id, at, end })]));
    }
}

pub(super) fn later(mut date: LocalDate, days: u64) -> LocalDate {
    for _ in 0..days {
        date = date.next();
    }
    date
}

fn version(valid_from: LocalDate, named: CalendarId, dice: &mut Dice) -> TariffVersion {
    let prices = 1 + dice.below(4);
    let mut profile = || {
        let mut quarters: Vec<u8> = (0..dice.below(6)).map(|_| dice.below(96) as u8).collect();
        quarters.push(0);
        quarters.sort_unstable();
        quarters.dedup();
        let rate = |quarter| Switch { quarter, rate: 1 + dice.below(prices) as u8 };
        DayProfile(quarters.into_iter().map(rate).collect())
    };
    let day = |month, day| MonthDay { month, day };
    let mut season =
        |from, to| Season { from, to, workday: profile(), weekend: profile(), holiday: profile() };
    let seasons = vec![season(day(11, 1), day(3, 28)), season(day(3, 29), day(10, 31))];
    let mut from_kwh = 0;
    let blocks = (0..1 + dice.below(3)).map(|index| {
        let adder = Price::from_e4(if index == 0 { 0 } else { dice.below(4000) as i64 });
        let block = Block { from_kwh, adder };
        from_kwh += 1 + dice.below(60);
        block
    });
    let blocks = blocks.collect();
    TariffVersion {
        plan: PLAN,
        valid_from,
        currency: CurrencyCode::parse("CNY").expect("three capital letters"),
        prices: (0..prices).map(|_| Price::from_e4(dice.below(12_000) as i64)).collect(),
        seasons,
        calendar: dice.happens(500).then_some(named),
        blocks,
        block_period: if dice.happens(700) { BlockPeriod::Month } else { BlockPeriod::Year },
        standing_per_day: Money::from_ticks(dice.below(3) as i64 * 3_333_333),
        standing_per_month: Money::from_ticks(dice.below(3) as i64 * 77_777_777),
        tax_bp: dice.below(2000) as u32,
        fee: Money::from_ticks(dice.below(9_999_999) as i64),
    }
}
