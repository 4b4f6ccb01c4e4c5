//! A tick that concerns every account at once, with the sizes of a real node: what follows goes
//! through the spool whatever its size, and ticks in strides keep it small.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dataflow::{Config, Engine};
use meter::{
    AccountId, AccountTerms, Block, BlockPeriod, Change, CurrencyCode, Current, CustomerId,
    DayProfile, Effects, Energy, Entry, GatewayId, Installation, LedgerKind, LocalDate, MeterId,
    MeterRecord, Mode, Money, MonthDay, OutboxId, PlanId, Price, Role, Season, Seq, Switch,
    TariffVersion, TransformerId, UnixSeconds, Voltage,
};
use server::spool::{self, Spool};
use server::ticks;
use storage::log::{self, Directory, Durability, SegmentLog, WritePath};

const ACCOUNTS: u32 = 24_000;
/// 2026-11-02T00:00:00Z, and 60 days on: a month and a year begin in between.
const START: UnixSeconds = UnixSeconds(1_793_577_600);
const DAYS: u32 = 60;
/// As `deploy/meterd.toml` has it.
const SEGMENT: u64 = 64 << 20;

/// A standing charge by day and by month, and nothing else.
fn tariff() -> Change {
    let day = |month, day| MonthDay { month, day };
    let profile = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
    Change::Tariff(TariffVersion {
        plan: PlanId(1),
        valid_from: LocalDate::parse("2026-01-01").unwrap(),
        currency: CurrencyCode::parse("CNY").unwrap(),
        prices: vec![Price::from_e4(5283)],
        seasons: vec![Season {
            from: day(1, 1),
            to: day(12, 31),
            workday: profile.clone(),
            weekend: profile.clone(),
            holiday: profile,
        }],
        calendar: None,
        blocks: vec![Block { from_kwh: 0, adder: Price::from_e4(0) }],
        block_period: BlockPeriod::Month,
        standing_per_day: Money::from_ticks(1_000_000),
        standing_per_month: Money::from_ticks(30_000_000),
        tax_bp: 0,
        fee: Money::ZERO,
    })
}

fn home(id: u32) -> [Change; 3] {
    let record = MeterRecord {
        meter: MeterId(id),
        role: Role::Consumer,
        transformer: TransformerId::NONE,
        gateway: GatewayId::NONE,
        current_max: Current::from_ma(60_000),
        voltage_nominal: Voltage::from_mv(230_000),
        phases: 1,
        register_digits: 6,
        period_s: 900,
    };
    let terms = AccountTerms {
        account: AccountId(id),
        customer: CustomerId(id),
        plan: PlanId(1),
        zone: "Asia/Shanghai".to_owned(),
        mode: Mode::Prepaid,
        overdraft: Money::ZERO,
        low_levels: [Money::ZERO; 2],
    };
    let (meter, account, start) = (MeterId(id), AccountId(id), Some(Energy::from_wh(0)));
    let installation = Installation { meter, account, at: START, start };
    [Change::Meter(record), Change::Account(terms), Change::Install(installation)]
}

/// Books of a fleet on `START`, with their spool.
struct Node {
    engine: Engine,
    next: Seq,
    spool: Spool,
}

fn open_spool(folder: &Path) -> SegmentLog {
    let disk = Directory::open(folder, WritePath::Buffered).unwrap();
    let config = log::Config {
        segment_size_bytes: SEGMENT,
        reserve_segments: 0,
        spares_max: 1,
        durability: Durability::Lazy,
        node: 1,
        epoch: 1,
    };
    SegmentLog::open(Arc::new(disk), config, 0).unwrap().0
}

impl Node {
    fn new(folder: &Path) -> Self {
        let engine = Engine::start(&Config { workers: 2 }, None).unwrap();
        let spool = Spool::new(open_spool(folder));
        let mut node = Self { engine, next: Seq(1), spool };
        let changes = [tariff()].into_iter().chain((1..=ACCOUNTS).flat_map(home));
        node.feed(Entry::Changes { outbox: OutboxId(1), changes: changes.collect() });
        node.feed(Entry::Tick(START));
        node
    }

    fn feed(&mut self, entry: Entry) {
        let (mut effects, entries) = (Effects::default(), Arc::new(vec![entry]));
        self.engine.process(self.next, &entries, &mut effects).unwrap();
        self.spool.append(self.next, &entries, &effects).unwrap();
        self.next = Seq(self.next.0 + 1);
    }
}

/// What the spool in a folder holds of standing charges: Σ by account and kind; each movement
/// must follow the one before it.
fn charged(folder: &Path, batch_max: &mut usize) -> BTreeMap<(AccountId, LedgerKind), i64> {
    let log = open_spool(folder);
    let mut reader = log.read_from(Seq(1));
    let mut sums = BTreeMap::new();
    let mut last: BTreeMap<AccountId, (u64, Money)> = BTreeMap::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        *batch_max = batch.payload.len().max(*batch_max);
        for row in spool::decode(batch.payload).unwrap().ledger {
            let (number, balance) = last.get(&row.account).copied().unwrap_or_default();
            assert_eq!(row.number, number + 1);
            assert_eq!(row.balance, balance.plus(row.amount).unwrap());
            last.insert(row.account, (row.number, row.balance));
            *sums.entry((row.account, row.kind)).or_default() += row.amount.ticks();
        }
    }
    sums
}

#[test]
fn a_tick_after_weeks_of_silence_goes_through_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let (once, strides) = (folder.path().join("once"), folder.path().join("strides"));
    let end = START.plus(DAYS * 86_400 - 1);
    let mut node = Node::new(&once);
    node.feed(Entry::Tick(end));
    node.feed(Entry::Tick(end.plus(1)));
    drop(node);
    let mut node = Node::new(&strides);
    let mut last = START;
    while let Some(at) = ticks::step(last, end) {
        node.feed(Entry::Tick(at));
        last = at;
    }
    drop(node);
    let (mut whole, mut part) = (0, 0);
    let sums = charged(&once, &mut whole);
    assert!(whole as u64 > SEGMENT, "one tick makes {whole} bytes: this shows nothing");
    assert_eq!(sums, charged(&strides, &mut part));
    assert!((part as u64) < SEGMENT / 4, "a stride makes {part} bytes");
    assert_eq!(sums.len(), 2 * ACCOUNTS as usize);
    for ((account, kind), sum) in &sums {
        // In 60 days a December and a January begin.
        let months = i64::from(*kind == LedgerKind::StandingMonth);
        let want = -months * 2 * 30_000_000 - (1 - months) * i64::from(DAYS) * 1_000_000;
        assert_eq!(*sum, want, "{account} {kind:?}");
    }
}
