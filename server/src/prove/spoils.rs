//! The campaign can fail: one wrong effect of any kind is put into a story that holds, and seen by
//! the check that is there for it.

use std::collections::{BTreeMap, BTreeSet};

use loadgen::truth::{Book, Tariff};
use meter::{
    AccountId, AlarmCode, Cause, Change, Energy, LedgerKind, LedgerRow, MeterId, Money, OrderId,
    OrderKind, OrderReason, OrderRow, OrderState, Outcome, PlanChange, PlanId, PurchaseId,
    QuarantineReason, Sale, Seq, Split, TariffVersion, TransformerId,
};

use super::check::{books, check, entries};
use super::counter::{self, Sold};
use super::options::Options;
use super::scene::Scene;
use super::story::{Ended, Story, step_key};
use super::watch::{Moment, follow};

/// A story in which every rule has its turn.
fn told() -> Ended {
    let options = Options { meters: 6, days: 6, workers: 1, ..Options::derive(8) };
    Story::new(&options).tell().unwrap()
}

/// Puts a wrong effect in; `None` when the story has nothing that it could be.
type Spoil = fn(&mut Ended) -> Option<()>;

/// Sees that each is found by `check`, whose words have `why` in them.
fn check_all(
    mut ended: Ended,
    check: impl Fn(&Ended) -> anyhow::Result<()>,
    spoils: &[(&str, &str, Spoil)],
) {
    check(&ended).unwrap();
    let (store, orders, sold) = (ended.store.clone(), ended.orders.clone(), ended.sold.clone());
    for (name, why, spoil) in spoils {
        assert!(spoil(&mut ended).is_some(), "the story has no place for {name}");
        match check(&ended) {
            Ok(()) => panic!("{name} is not seen"),
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains(why), "{name}: {said}");
            }
        }
        (ended.store, ended.orders, ended.sold) = (store.clone(), orders.clone(), sold.clone());
    }
}

/// Changes the movements of the first account that has such a one, and sums them up again.
fn retouch(
    ended: &mut Ended,
    is_it: impl Fn(&LedgerRow) -> bool,
    change: impl FnOnce(&mut Vec<LedgerRow>, usize),
) -> Option<()> {
    let ledger = &mut ended.store.ledger;
    let account = ledger.values().find(|row| is_it(row))?.account;
    let mut rows: Vec<LedgerRow> =
        ledger.values().filter(|row| row.account == account).copied().collect();
    let place = rows.iter().position(&is_it)?;
    change(&mut rows, place);
    ledger.retain(|(id, _), _| *id != account);
    let mut ticks = 0;
    for (row, number) in rows.iter_mut().zip(1..) {
        ticks += row.amount.ticks();
        (row.number, row.balance) = (number, Money::from_ticks(ticks));
        ledger.insert((account, number), *row);
    }
    Some(())
}

/// Movements of a kind.
fn of(kind: LedgerKind) -> impl Fn(&LedgerRow) -> bool {
    move |row| row.kind == kind
}

fn lose(ended: &mut Ended, kind: LedgerKind) -> Option<()> {
    retouch(ended, of(kind), |rows, place| {
        rows.remove(place);
    })
}

/// What a reversal gives back under a kind is lost.
fn keep(ended: &mut Ended, kind: LedgerKind) -> Option<()> {
    let is_given_back = |row: &LedgerRow| row.kind == kind && row.amount > Money::ZERO;
    retouch(ended, is_given_back, |rows, place| {
        rows.remove(place);
    })
}

fn one_tick_more(ended: &mut Ended, kind: LedgerKind) -> Option<()> {
    retouch(ended, of(kind), |rows, place| {
        rows[place].amount = Money::from_ticks(rows[place].amount.ticks() - 1);
    })
}

#[test]
fn wrong_readings_and_rows_are_seen() {
    let spoils: [(&str, &str, Spoil); 6] = [
        ("a change of plan not heeded", "the rules give", under_the_old_plan),
        ("a reading lost", "I2", |ended| {
            let key = *ended.store.readings.keys().next_back()?;
            ended.store.readings.remove(&key).map(|_| ())
        }),
        ("a reading turned away", "I6", |ended| {
            let row = ended.store.readings.values_mut().next_back()?;
            row.2 = Outcome::Quarantined(QuarantineReason::Spike);
            Some(())
        }),
        ("a watt-hour moved", "the rules give", |ended| {
            let row = ended.store.intervals.values_mut().next()?;
            row.energy = Energy::from_wh(row.energy.wh() + 1);
            Some(())
        }),
        ("an interval lost", "no row for", |ended| {
            let key = *ended.store.intervals.keys().next()?;
            ended.store.intervals.remove(&key).map(|_| ())
        }),
        ("rows that contradict", "I2", |ended| {
            ended.store.contradictions.push("x".to_owned());
            Some(())
        }),
    ];
    check_all(told(), check, &spoils);
}

#[test]
fn wrong_movements_are_seen() {
    use LedgerKind::{
        DebtAgreed, DebtRecovery, EmergencyGiven, EmergencyRepaid, Energy, Purchase, Refund,
        Reversal, StandingDay, Token, Transfer,
    };
    let spoils: [(&str, &str, Spoil); 12] = [
        ("a tick of energy too much", "I1", |ended| one_tick_more(ended, Energy)),
        ("a movement lost", "breaks", |ended| {
            let key = *ended.store.ledger.keys().next()?;
            ended.store.ledger.remove(&key).map(|_| ())
        }),
        ("a purchase twice", "I7", |ended| {
            retouch(ended, of(Purchase), |rows, place| rows.push(rows[place]))
        }),
        ("a standing charge twice", "I1", |ended| {
            retouch(ended, of(StandingDay), |rows, place| rows.push(rows[place]))
        }),
        ("a reversal lost", "I1", |ended| lose(ended, Reversal)),
        ("a refund lost", "I1", |ended| lose(ended, Refund)),
        ("a tick of a token kept", "I1", |ended| one_tick_more(ended, Token)),
        ("a debt paid past its share or cap", "I1", |ended| one_tick_more(ended, DebtRecovery)),
        ("emergency credit twice", "I1", |ended| {
            retouch(ended, of(EmergencyGiven), |rows, place| rows.insert(place, rows[place]))
        }),
        ("emergency credit not paid back", "I1", |ended| lose(ended, EmergencyRepaid)),
        ("a switch that forgets what was owed", "I1", |ended| {
            let is_it =
                |row: &LedgerRow| row.kind == DebtAgreed && matches!(row.cause, Cause::Period(_));
            retouch(ended, is_it, |rows, place| {
                rows.remove(place);
            })
        }),
        ("a balance that stays with the old meter", "I1", |ended| {
            retouch(ended, of(Transfer), |rows, place| {
                rows.drain(place..place + 2);
            })
        }),
    ];
    let ended = told();
    let log = entries(&ended).unwrap();
    let book = follow(&ended.store, &ended.orders, &log, |_, _| {}).unwrap();
    check_all(ended, |ended| books(ended, &book).map(|_| ()), &spoils);
}

/// Rates a quarter hour by the plan that its account has left.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other changes are of no plan")]
fn under_the_old_plan(ended: &mut Ended) -> Option<()> {
    let mut versions: BTreeMap<PlanId, Vec<TariffVersion>> = BTreeMap::new();
    let mut plans: BTreeMap<AccountId, PlanId> = BTreeMap::new();
    let (mut zones, mut left) = (BTreeMap::new(), BTreeMap::new());
    for change in ended.told.iter().flat_map(|(_, changes)| changes) {
        match change {
            Change::Tariff(version) => {
                versions.entry(version.plan).or_default().push(version.clone());
            }
            Change::Account(terms) => {
                let old = plans.insert(terms.account, terms.plan);
                zones.insert(terms.account, &terms.zone);
                left.extend(old.filter(|old| *old != terms.plan).map(|old| (terms.account, old)));
            }
            Change::Plan(PlanChange { account, plan, .. }) => {
                let old = plans.insert(*account, *plan);
                left.extend(old.filter(|old| old != plan).map(|old| (*account, old)));
            }
            _ => {}
        }
    }
    // The newest first: the change holds by then.
    ended.store.intervals.values_mut().rev().find_map(|row| {
        let old = left.get(&row.account)?;
        let tariff = Tariff::new(zones[&row.account], BTreeSet::new(), &versions[old]).ok()?;
        let cost = Money::from_ticks(tariff.plain_cost(row.start, row.energy.wh()));
        (cost != std::mem::replace(&mut row.cost, cost)).then_some(())
    })
}

/// Changes the first receipt of energy that is such a one.
fn resell(
    ended: &mut Ended,
    is_it: impl Fn(&Split) -> bool,
    change: impl FnOnce(&mut Split),
) -> Option<()> {
    let sold = ended.sold.iter_mut().find(|sold| !sold.is_free && is_it(&sold.split))?;
    change(&mut sold.split);
    Some(())
}

#[test]
fn wrong_receipts_of_energy_are_seen() {
    let spoils: [(&str, &str, Spoil); 6] = [
        ("a watt-hour too much", "energy: after", |ended| {
            resell(
                ended,
                |_| true,
                |split| {
                    let part = split.blocks.last_mut().expect("energy was sold");
                    part.energy = Energy::from_wh(part.energy.wh() + 1);
                },
            )
        }),
        ("all of it in the first of its blocks", "energy: after", |ended| {
            resell(
                ended,
                |split| split.blocks.len() > 1,
                |split| {
                    let energy = split.energy();
                    split.blocks.truncate(1);
                    split.blocks[0].energy = energy;
                    split.blocks[0].cost = split.credit;
                },
            )
        }),
        ("a watt-hour in the block before its own", "energy: after", |ended| {
            resell(
                ended,
                |split| split.blocks.len() > 1,
                |split| {
                    let [first, second, ..] = &mut split.blocks[..] else { unreachable!("split") };
                    first.energy = Energy::from_wh(first.energy.wh() + 1);
                    second.energy = Energy::from_wh(second.energy.wh() - 1);
                },
            )
        }),
        ("a hundredth of tax for the meter", "energy: after", |ended| {
            resell(
                ended,
                |split| split.tax > Money::ZERO,
                |split| {
                    let cent = Money::TICKS_PER_CENT;
                    split.tax = Money::from_ticks(split.tax.ticks() - cent);
                    split.credit = Money::from_ticks(split.credit.ticks() + cent);
                },
            )
        }),
        ("what was bought before, forgotten", "energy: after", |ended| {
            let is_later = |sold: &Sold| {
                let first = sold.split.blocks.first();
                !sold.is_free && first.is_some_and(|part| part.from_kwh > 0)
            };
            let place = ended.sold.iter().position(is_later)?;
            let account = ended.sold[place].account;
            let later = ended.sold.split_off(place);
            ended.sold.retain(|sold| sold.account != account);
            ended.sold.extend(later);
            Some(())
        }),
        ("a receipt that the log does not have", "stands in the log as", |ended| {
            let sold = ended.sold.last_mut()?;
            sold.sale = PurchaseId(7);
            Some(())
        }),
    ];
    let ended = Story::new(&energy_story()).tell().unwrap();
    check_all(ended, |ended| counter::check(&ended.sold, &ended.flat, &ended.told), &spoils);
}

/// The first quiet story in which a sale of energy is split over blocks, and one begins in a later.
fn energy_story() -> Options {
    let has_all = |options: &Options| {
        let sold = Scene::new(options).sold;
        let sold = || sold.iter().filter(|sold| !sold.is_free);
        sold().any(|sold| sold.split.blocks.len() > 1 && sold.split.tax > Money::ZERO)
            && sold().any(|sold| sold.split.blocks.first().is_some_and(|part| part.from_kwh > 0))
    };
    (1..200).map(quiet).find(has_all).expect("energy is sold in most of the stories")
}

/// A small story without faults.
fn quiet(seed: u64) -> Options {
    Options { meters: 6, days: 5, workers: 1, faults: BTreeSet::new(), ..Options::derive(seed) }
}

#[test]
fn what_a_reversal_does_not_give_back_is_seen() {
    let gives_debt_back = |options: &Options| {
        let scene = Scene::new(options);
        let changes = scene.doings.iter().flat_map(|(_, changes)| changes);
        let sales = changes.filter_map(match_sale);
        let mut lines = sales.flat_map(|sale| &sale.lines);
        lines.any(|line| line.kind == LedgerKind::DebtRecovery && line.amount > Money::ZERO)
    };
    let debt = (1..2000).map(quiet).find(gives_debt_back).expect("some debt is given back");
    // In the third story emergency credit is out again, as its ledger says.
    for (options, kind) in
        [(quiet(3), LedgerKind::EmergencyRepaid), (debt, LedgerKind::DebtRecovery)]
    {
        let mut ended = Story::new(&options).tell().unwrap();
        let log = entries(&ended).unwrap();
        let book = follow(&ended.store, &ended.orders, &log, |_, _| {}).unwrap();
        books(&ended, &book).unwrap();
        assert!(keep(&mut ended, kind).is_some(), "{kind:?} is not given back in {options}");
        let said = format!("{:#}", books(&ended, &book).unwrap_err());
        assert!(said.contains("I1"), "{kind:?}: {said}");
    }
}

fn match_sale(change: &Change) -> Option<&Sale> {
    if let Change::Sale(sale) = change { Some(sale) } else { None }
}

/// The first moment at which an account is owing, without an order, and not to be cut off for this
/// reason alone.
fn moment(ended: &Ended, reason: OrderReason) -> Option<Moment> {
    let log = entries(ended).unwrap();
    let mut found = None;
    let look = |book: &Book, moment: &Moment| {
        let is_it = book.may_cut(moment.account, moment.balance) == Err(reason);
        if found.is_none() && is_it && !book.has_order(moment.account) {
            found = Some(*moment);
        }
    };
    follow(&ended.store, &ended.orders, &log, look).unwrap();
    found
}

/// An order to cut off in spite of a reason not to.
fn cut_in_spite_of(ended: &mut Ended, reason: OrderReason) -> Option<()> {
    let Moment { seq, at, account, balance } = moment(ended, reason)?;
    let row = OrderRow {
        order: OrderId::new(account, 1 + last_order(ended, account, seq)),
        account,
        meter: MeterId(account.0),
        transformer: TransformerId::NONE,
        kind: OrderKind::Disconnect,
        state: OrderState::Decided,
        reason: OrderReason::Overdrawn,
        attempt: 0,
        balance: Money::from_ticks(balance),
        at,
        expires_at: at.plus(3600),
        seq,
    };
    ended.orders.insert(step_key(&row), row);
    Some(())
}

fn last_order(ended: &Ended, account: AccountId, before: Seq) -> u32 {
    let rows = ended.orders.values().filter(|row| row.account == account && row.seq < before);
    rows.map(|row| row.order.number()).max().unwrap_or(0)
}

/// Leaves the last order of a kind out, as if it had never been made.
fn leave_out(ended: &mut Ended, kind: OrderKind) -> Option<()> {
    let of_kind = ended.orders.values().filter(|row| row.kind == kind);
    let mut last: BTreeMap<AccountId, OrderId> = BTreeMap::new();
    of_kind.for_each(|row| {
        last.insert(row.account, row.order);
    });
    // One after which the account has no other.
    let order = last
        .into_iter()
        .find(|(account, order)| last_order(ended, *account, Seq(u64::MAX)) == order.number());
    let order = order?.1;
    ended.orders.retain(|_, row| row.order != order);
    Some(())
}

fn hush(ended: &mut Ended, code: AlarmCode) -> Option<()> {
    let place = ended.store.alarms.iter().position(|row| row.code == code)?;
    let row = ended.store.alarms[place];
    ended.store.alarms.retain(|other| *other != row);
    Some(())
}

#[test]
fn wrong_decisions_are_seen() {
    let against = "decided against the rules";
    let spoils: [(&str, &str, Spoil); 11] = [
        ("a customer cut off who paid", against, |ended| cut_in_spite_of(ended, OrderReason::Paid)),
        ("one who is postpaid or protected", against, |ended| {
            cut_in_spite_of(ended, OrderReason::Exempt)
        }),
        ("one in a friendly period", against, |ended| {
            cut_in_spite_of(ended, OrderReason::Friendly)
        }),
        ("one on an estimate", against, |ended| cut_in_spite_of(ended, OrderReason::Uncertain)),
        ("one whose meter tripped", against, |ended| cut_in_spite_of(ended, OrderReason::Tripped)),
        ("one left on", "is not cut off", |ended| leave_out(ended, OrderKind::Disconnect)),
        ("one left cut off", "is left cut off", |ended| leave_out(ended, OrderKind::Reconnect)),
        ("a step left out", "I8", |ended| {
            let row = ended.orders.values().find(|row| row.state == OrderState::Sent)?;
            let key = step_key(row);
            ended.orders.remove(&key).map(|_| ())
        }),
        ("a trip taken for an order", "trips", |ended| hush(ended, AlarmCode::SupplyTrip)),
        ("a low balance not told", "LowBalance", |ended| hush(ended, AlarmCode::LowBalance)),
        ("an offer not made", "emergency credit", |ended| hush(ended, AlarmCode::EmergencyOffered)),
    ];
    check_all(told(), check, &spoils);
}
