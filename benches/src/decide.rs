//! What decisions cost: the stream W1 through the dataflow with accounts that are all watched, helped
//! over and cut off, against the same stream with accounts about which nothing is ever decided.

use meter::{
    AccountId, AccountTerms, Change, Entry, FriendlyCalendar, FriendlyId, FriendlySpan, Money,
    Purchase, SupplyPolicy, SupplyTerms,
};

use crate::w1::{self, Order, Taken};

/// Pairs of runs; the median of their ratios counts.
const RUNS: usize = 3;
/// Every so many accounts one has credit until the morning only.
const SCARCE_EVERY: u32 = 25;
/// A day of W1 costs an account 1.7 million ticks, a fifth of that by nine.
const SCARCE: Money = Money::from_ticks(400_000);
const AMPLE: Money = Money::from_ticks(1_000_000_000_000);
const FRIENDLY: FriendlyId = FriendlyId(1);

/// Rates of both ways.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Readings a second with all decisions on.
    pub rate: f64,
    /// With them ÷ without, the median of the pairs.
    pub ratio: f64,
    /// The same by processor time, which a busy machine disturbs less.
    pub cpu_ratio: f64,
    /// Disconnections decided in a run.
    pub orders: u64,
    /// Alarms raised or cleared in a run.
    pub alarms: u64,
}

/// Runs the first `readings` of W1 both ways, in turn, on one worker.
///
/// # Panics
/// When nothing is decided where something must be, or the other way round.
#[must_use]
pub fn ingest(readings: usize) -> Figure {
    let records = w1::stream(readings, Order::ById);
    let duplicates = w1::duplicates(&records);
    let run = |registered| w1::engine(1, registered, &records, duplicates);
    let mut pairs: Vec<(Taken, Taken)> = Vec::new();
    let mut found = (0, 0);
    for _ in 0..RUNS {
        let (without, nothing) = run(register(false));
        let (with, counts) = run(register(true));
        assert_eq!((nothing.orders, nothing.alarms), (0, 0), "nothing is to be decided");
        assert!(counts.orders > 0, "somebody is to be cut off");
        found = (counts.orders, counts.alarms);
        pairs.push((without, with));
    }
    let median = |of: fn(&(Taken, Taken)) -> f64| w1::median(pairs.iter().map(of));
    Figure {
        rate: records.len() as f64 / median(|(_, with)| with.wall_s),
        ratio: median(|(without, with)| without.wall_s / with.wall_s),
        cpu_ratio: median(|(without, with)| without.cpu_s / with.cpu_s),
        orders: found.0,
        alarms: found.1,
    }
}

/// W1's meters and accounts. `decides`: low-balance levels, overdraft, emergency credit, friendly
/// nights, cutting off, and some accounts whose credit ends; else none of it, and ample credit.
fn register(decides: bool) -> Vec<Entry> {
    let mut entries = w1::register();
    let Some(Entry::Changes { changes, .. }) = entries.first_mut() else {
        unreachable!("W1's register is one entry of changes")
    };
    let mut all = std::mem::take(changes).into_vec();
    for change in &mut all {
        if let Change::Account(terms) = change {
            *terms = self::terms(terms, decides);
        } else if let Change::Purchase(Purchase { account, paid, .. }) = change {
            let is_scarce = decides && account.0 % SCARCE_EVERY == 0;
            *paid = if is_scarce { SCARCE } else { AMPLE };
        }
    }
    if decides {
        let mut before = vec![
            Change::SupplyPolicy(SupplyPolicy { is_cutting: true, ..SupplyPolicy::standard() }),
            Change::Friendly(nights()),
        ];
        before.extend((1..=w1::METERS).map(|n| Change::SupplyTerms(supply_terms(AccountId(n)))));
        before.append(&mut all);
        all = before;
    }
    *changes = all.into_boxed_slice();
    entries
}

fn terms(terms: &AccountTerms, decides: bool) -> AccountTerms {
    let level = |ticks| if decides { Money::from_ticks(ticks) } else { Money::ZERO };
    AccountTerms {
        overdraft: level(50_000),
        low_levels: [level(200_000), level(50_000)],
        ..terms.clone()
    }
}

fn supply_terms(account: AccountId) -> SupplyTerms {
    SupplyTerms {
        account,
        is_protected: false,
        emergency_below: Money::from_ticks(100_000),
        emergency_credit: Money::from_ticks(100_000),
        reconnect_at: Money::ZERO,
        friendly: FRIENDLY,
    }
}

/// Nobody is cut off before six and after ten, but at midnight: the stream has no ticks, so there the
/// books' clock stands.
fn nights() -> FriendlyCalendar {
    let night = vec![FriendlySpan { from: 1, to: 24 }, FriendlySpan { from: 88, to: 96 }];
    FriendlyCalendar { friendly: FRIENDLY, week: vec![night; 7], holidays: None }
}
