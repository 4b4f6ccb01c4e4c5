//! What the tests of the books share: entries, an engine with a store that answers recalls, and
//! what is left of its effects in the end.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

pub(crate) mod fold;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dataflow::{Config, Engine};
use meter::{
    AccountId, AccountTerms, BalanceRow, Block, BlockPeriod, Change, CurrencyCode, Current,
    CustomerId, DayProfile, Effects, Energy, Entry, Fields, GapRow, GatewayId, Installation,
    IntervalRow, LedgerKind, LedgerRow, LocalDate, MeterId, MeterRecord, Mode, Money, MonthDay,
    Neighbours, OutboxId, Outcome, PlanId, Power, Price, Reading, Role, Season, Seq, Switch,
    TariffVersion, TransformerId, UnixSeconds, Voltage,
};

/// A file of the shared data, where it is there.
#[allow(clippy::print_stdout, reason = "a test that is skipped says so")]
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let fallback = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var("METERD_SHARED").unwrap_or_else(|_| fallback.to_owned());
    let path = PathBuf::from(root).join("data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there; set METERD_SHARED", path.display());
    None
}

pub(crate) fn record(id: u32) -> MeterRecord {
    MeterRecord {
        meter: MeterId(id),
        role: Role::Consumer,
        transformer: TransformerId::NONE,
        gateway: GatewayId::NONE,
        current_max: Current::from_ma(100_000),
        voltage_nominal: Voltage::from_mv(230_000),
        phases: 3,
        register_digits: 6,
        period_s: 900,
    }
}

pub(crate) fn terms(id: u32, zone: &str) -> AccountTerms {
    AccountTerms {
        account: AccountId(id),
        customer: CustomerId(id),
        plan: PlanId(1),
        zone: zone.to_owned(),
        mode: Mode::Prepaid,
        overdraft: Money::ZERO,
        low_levels: [Money::ZERO; 2],
    }
}

pub(crate) fn install(id: u32, at: u32, start: Option<u64>) -> Change {
    Change::Install(Installation {
        meter: MeterId(id),
        account: AccountId(id),
        at: UnixSeconds(at),
        start: start.map(Energy::from_wh),
    })
}

pub(crate) fn reading(meter: u32, at: u32, wh: u64) -> Reading {
    Reading {
        meter: MeterId(meter),
        taken_at: UnixSeconds(at),
        received_at: UnixSeconds(at + 5),
        register: Energy::from_wh(wh),
        power: Power::from_w(at as i32 % 977),
        voltage: [Voltage::from_mv(230_000), Voltage::default(), Voltage::default()],
        fields: Fields::POWER.with(Fields::VOLTAGE[0]),
        ..Reading::default()
    }
}

/// A plan's version with one season; `day` is the profile of every kind of day.
pub(crate) fn version(
    valid_from: &str,
    prices: &[i64],
    day: &[(u8, u8)],
    blocks: &[(u64, i64)],
) -> TariffVersion {
    let switches = day.iter().map(|&(quarter, rate)| Switch { quarter, rate });
    let profile = DayProfile(switches.collect());
    TariffVersion {
        plan: PlanId(1),
        valid_from: LocalDate::parse(valid_from).unwrap(),
        currency: CurrencyCode::parse("CNY").unwrap(),
        prices: prices.iter().map(|&e4| Price::from_e4(e4)).collect(),
        seasons: vec![Season {
            from: MonthDay { month: 1, day: 1 },
            to: MonthDay { month: 12, day: 31 },
            workday: profile.clone(),
            weekend: profile.clone(),
            holiday: profile,
        }],
        calendar: None,
        blocks: blocks
            .iter()
            .map(|&(from_kwh, adder)| Block { from_kwh, adder: Price::from_e4(adder) })
            .collect(),
        block_period: BlockPeriod::Month,
        standing_per_day: Money::ZERO,
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
    }
}

/// An engine, the store beside it, and all that came out.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) next: u64,
    pub(crate) outbox: u64,
    /// All effects so far.
    pub(crate) all: Effects,
    /// Readings on their way to a final outcome, by log position.
    sent: BTreeMap<Seq, Reading>,
    /// Readings by outcome, each counted where it stands now.
    pub(crate) outcomes: BTreeMap<Seq, Outcome>,
    /// What the store has: accepted readings by meter and stamp.
    pub(crate) store: BTreeMap<(MeterId, UnixSeconds), Reading>,
    /// Answer recalls at once.
    pub(crate) answers: bool,
    pub(crate) asked: Vec<meter::Recall>,
}

impl Node {
    pub(crate) fn start(workers: usize) -> Self {
        Self::resume(workers, None)
    }

    pub(crate) fn resume(workers: usize, snapshot: Option<&[u8]>) -> Self {
        let engine = Engine::start(&Config { workers }, snapshot).unwrap();
        let next = engine.position().0 + 1;
        Self {
            engine,
            next,
            outbox: 0,
            all: Effects::default(),
            sent: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            store: BTreeMap::new(),
            answers: true,
            asked: Vec::new(),
        }
    }

    /// Feeds entries as one batch, then answers what is asked until nothing is.
    pub(crate) fn feed(&mut self, entries: Vec<Entry>) {
        self.feed_once(entries);
        while self.answers && !self.asked.is_empty() {
            let answers = std::mem::take(&mut self.asked);
            let answers = answers.iter().map(|recall| self.answer(recall)).collect();
            self.feed_once(answers);
        }
    }

    pub(crate) fn feed_once(&mut self, entries: Vec<Entry>) -> Effects {
        let first = Seq(self.next);
        for (entry, seq) in entries.iter().zip(self.next..) {
            if let Entry::Reading(reading) = entry {
                self.sent.insert(Seq(seq), *reading);
            }
        }
        self.next += entries.len() as u64;
        let (mut effects, entries) = (Effects::default(), Arc::new(entries));
        self.engine.process(first, &entries, &mut effects).unwrap();
        let effects = written_out(&effects, first, &entries);
        for verdict in &effects.verdicts {
            self.note(verdict.seq, verdict.outcome);
        }
        for settled in &effects.settled {
            self.note(settled.seq, settled.outcome);
        }
        self.asked.extend(effects.recalls.iter().copied());
        merge(&mut self.all, &effects);
        effects
    }

    fn note(&mut self, seq: Seq, outcome: Outcome) {
        self.outcomes.insert(seq, outcome);
        if let Some(reading) = self.sent.get(&seq)
            && outcome == Outcome::Accepted
        {
            self.store.insert((reading.meter, reading.taken_at), *reading);
        }
    }

    /// The store's answer: the window, and the nearest reading on each side.
    pub(crate) fn answer(&self, recall: &meter::Recall) -> Entry {
        let key = |at| (recall.meter, at);
        let before = self.store.range(key(UnixSeconds(0))..key(recall.from)).next_back();
        let within = self.store.range(key(recall.from)..=key(recall.to));
        let after = self.store.range(key(recall.to.plus(1))..=key(UnixSeconds(u32::MAX))).next();
        let readings = before.into_iter().chain(within).chain(after).map(|(_, r)| *r).collect();
        Entry::Neighbours(Box::new(Neighbours {
            meter: recall.meter,
            from: recall.from,
            to: recall.to,
            readings,
        }))
    }

    pub(crate) fn change(&mut self, changes: Vec<Change>) {
        self.outbox += 1;
        let outbox = OutboxId(self.outbox);
        self.feed(vec![Entry::Changes { outbox, changes: changes.into_boxed_slice() }]);
    }

    pub(crate) fn read(&mut self, readings: &[Reading]) {
        self.feed(readings.iter().map(|reading| Entry::Reading(*reading)).collect());
    }

    pub(crate) fn tick(&mut self, at: u32) {
        self.feed(vec![Entry::Tick(UnixSeconds(at))]);
    }

    pub(crate) fn count(&self, outcome: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.values().filter(|o| outcome(o)).count()
    }

    pub(crate) fn end(&self) -> End {
        End::of(&self.all)
    }
}

/// The effects with every row of a regular reading among the others of its kind.
fn written_out(effects: &Effects, first: Seq, entries: &[Entry]) -> Effects {
    let rows = effects.rows(first, entries);
    Effects {
        regular: Vec::new(),
        verdicts: rows.verdicts().map(|(verdict, _)| verdict).collect(),
        intervals: rows.intervals().collect(),
        ledger: rows.ledger().collect(),
        balances: rows.balances().collect(),
        ..effects.clone()
    }
}

fn merge(all: &mut Effects, more: &Effects) {
    all.verdicts.extend_from_slice(&more.verdicts);
    all.settled.extend_from_slice(&more.settled);
    all.intervals.extend_from_slice(&more.intervals);
    all.ledger.extend_from_slice(&more.ledger);
    all.balances.extend_from_slice(&more.balances);
    all.alarms.extend_from_slice(&more.alarms);
    all.gaps.extend_from_slice(&more.gaps);
    all.losses.extend_from_slice(&more.losses);
    all.recalls.extend_from_slice(&more.recalls);
    all.orders.extend_from_slice(&more.orders);
}

/// Where things stand in the end, whatever way led there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct End {
    /// The last row of each key, its version aside.
    pub(crate) intervals: BTreeMap<(MeterId, UnixSeconds), IntervalRow>,
    /// Σ of the ledger by account and kind.
    pub(crate) sums: BTreeMap<(AccountId, LedgerKind), i64>,
    /// Balance, newest stamp and completeness by account and meter.
    pub(crate) stands: BTreeMap<(AccountId, MeterId), (Money, UnixSeconds, UnixSeconds)>,
    /// Open gaps by meter and start.
    pub(crate) gaps: BTreeMap<(MeterId, UnixSeconds), (UnixSeconds, u32)>,
    pub(crate) losses: BTreeMap<(TransformerId, UnixSeconds), (u64, u64, u32, u32)>,
}

impl End {
    pub(crate) fn of(effects: &Effects) -> Self {
        let mut end = Self::default();
        for row in &effects.intervals {
            end.intervals.insert((row.meter, row.start), IntervalRow { rev: Seq(0), ..*row });
        }
        let mut sides: BTreeMap<meter::Contra, i128> = BTreeMap::new();
        let mut movements: BTreeMap<AccountId, (u64, i64)> = BTreeMap::new();
        for LedgerRow { account, number, kind, amount, balance, .. } in &effects.ledger {
            // What is put right counts where it was charged: the order of readings decides which.
            let counted = if *kind == LedgerKind::Correction { LedgerKind::Energy } else { *kind };
            *end.sums.entry((*account, counted)).or_default() += amount.ticks();
            *sides.entry(kind.contra()).or_default() -= i128::from(amount.ticks());
            let (last, stood) = movements
                .entry(*account)
                .or_insert_with(|| (number - 1, balance.ticks() - amount.ticks()));
            (*last, *stood) = (*last + 1, *stood + amount.ticks());
            assert_eq!((*last, *stood), (*number, balance.ticks()), "no hole, and Σ = balance");
        }
        let accounts: i128 = end.sums.values().map(|ticks| i128::from(*ticks)).sum();
        assert_eq!(accounts + sides.values().sum::<i128>(), 0, "all accounts sum to zero");
        end.sums.retain(|_, ticks| *ticks != 0);
        for row in &effects.balances {
            let BalanceRow { account, meter, balance, as_of, complete_through, .. } = *row;
            end.stands.insert((account, meter), (balance, as_of, complete_through));
        }
        for GapRow { meter, from, to, missing, state, .. } in &effects.gaps {
            end.gaps.remove(&(*meter, *from));
            if *state == meter::GapState::Open && to.0 != 0 {
                end.gaps.insert((*meter, *from), (*to, *missing));
            }
        }
        for row in &effects.losses {
            let seen = (row.supply.wh(), row.delivered.wh(), row.expected, row.actual);
            end.losses.insert((row.transformer, row.start), seen);
        }
        end
    }

    pub(crate) fn balance(&self, account: u32) -> i64 {
        self.stands[&(AccountId(account), MeterId(account))].0.ticks()
    }
}

/// A small deterministic generator for shuffles.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.roll(i + 1));
        }
    }
}
