//! Decisions: who is cut off and when, what an order goes through, what restores supply; emergency
//! credit, debt, the switch of mode, the replacement of a meter.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use meter::{
    AccountId, AlarmCode, AlarmState, Booking, CalendarId, Cause, Change, Clearance, Closing,
    DebtAgreement, Emergency, Energy, Entry, EventCode, FriendlyCalendar, FriendlyId, FriendlySpan,
    Holidays, LedgerKind, LocalDate, MeterEvent, MeterId, Mode, ModeSwitch, Money, OrderId,
    OrderKind, OrderNews, OrderReason, OrderReport, OrderState, PlanChange, Purchase, PurchaseId,
    Relay, Removal, Replacement, Subject, SupplyPolicy, SupplyTerms, UnixSeconds,
};
use support::{Node, install, reading, record, terms, version};

use OrderKind::{Disconnect, Reconnect};
use OrderState::{Decided, Done, Expired, Failed, Sent, Void};

/// 2026-11-02T00:00:00Z, a Monday.
const START: u32 = 1_793_577_600;
const ID: AccountId = AccountId(1);

const fn at(n: u32) -> u32 {
    START + n * 900
}

const fn money(ticks: i64) -> Money {
    Money::from_ticks(ticks)
}

fn supply_terms() -> SupplyTerms {
    SupplyTerms {
        account: ID,
        is_protected: false,
        emergency_below: Money::ZERO,
        emergency_credit: Money::ZERO,
        reconnect_at: Money::ZERO,
        friendly: FriendlyId::NONE,
    }
}

fn book(kind: LedgerKind, ticks: i64) -> Change {
    let (amount, at, reason) = (money(ticks), UnixSeconds(START), "test".to_owned());
    Change::Book(Booking { account: ID, kind, amount, corrects: None, at, reason })
}

fn pay(ticks: i64) -> Change {
    let (purchase, at) = (PurchaseId(ticks.unsigned_abs()), UnixSeconds(START));
    Change::Purchase(Purchase { purchase, account: ID, paid: money(ticks), at })
}

fn news(number: u32, news: OrderNews) -> Change {
    news_at(number, news, 0)
}

fn news_at(number: u32, news: OrderNews, n: u32) -> Change {
    let order = OrderId::new(ID, number);
    Change::Order(OrderReport { account: ID, order, news, at: UnixSeconds(at(n)) })
}

/// Account 1, prepaid, with a balance of one million ticks; 100 Wh cost 500,000. The node cuts off.
fn node() -> Node {
    let mut node = Node::start(1);
    let policy = SupplyPolicy { is_cutting: true, attempts_max: 2, ..SupplyPolicy::standard() };
    node.change(vec![
        Change::SupplyPolicy(policy),
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)])),
        Change::Meter(record(1)),
        Change::Meter(record(2)),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(1000)),
        book(LedgerKind::OpeningBalance, 1_000_000),
    ]);
    node.tick(START);
    node
}

/// Lets the account use more than it has.
fn overdraw(node: &mut Node) {
    node.read(&[reading(1, at(1), 1100), reading(1, at(2), 1200), reading(1, at(3), 1300)]);
}

type Told = (u32, OrderKind, OrderState, OrderReason);

fn orders(node: &Node) -> Vec<Told> {
    let rows = node.all.orders.iter();
    rows.map(|row| (row.order.number(), row.kind, row.state, row.reason)).collect()
}

fn raised(node: &Node, code: AlarmCode) -> Vec<AlarmState> {
    node.all.alarms.iter().filter(|row| row.code == code).map(|row| row.state).collect()
}

#[test]
fn overdrawn_cut_paid_and_restored() {
    let mut node = node();
    overdraw(&mut node);
    let decided = (1, Disconnect, Decided, OrderReason::Overdrawn);
    assert_eq!(orders(&node), [decided]);
    assert_eq!(node.all.orders[0].balance, money(-500_000));
    node.change(vec![news(1, OrderNews::Due)]);
    node.change(vec![news(1, OrderNews::Due), news(1, OrderNews::Read(Relay::Open))]);
    let cut = [
        decided,
        (1, Disconnect, Sent, OrderReason::Overdrawn),
        (1, Disconnect, Done, OrderReason::Relay),
    ];
    assert_eq!(orders(&node), cut, "a turn told twice sends once");
    node.tick(at(4));
    node.change(vec![pay(400_000)]);
    assert_eq!(orders(&node).len(), 3, "not enough");
    node.change(vec![pay(100_000)]);
    let restored =
        [(2, Reconnect, Decided, OrderReason::Paid), (2, Reconnect, Sent, OrderReason::Paid)];
    assert_eq!(orders(&node)[3..], restored, "at once, in nobody's turn");
    node.change(vec![news(2, OrderNews::Read(Relay::Closed))]);
    assert_eq!(orders(&node)[5..], [(2, Reconnect, Done, OrderReason::Relay)]);
    node.end();
}

#[test]
fn a_payment_voids_and_what_was_sent_is_restored() {
    for was_sent in [false, true] {
        let mut node = node();
        overdraw(&mut node);
        if was_sent {
            node.change(vec![news(1, OrderNews::Due)]);
        }
        node.change(vec![pay(600_000)]);
        let told = orders(&node);
        assert!(told.contains(&(1, Disconnect, Void, OrderReason::Paid)), "{told:?}");
        let restores = told.iter().filter(|told| told.1 == Reconnect).count();
        assert_eq!(restores, if was_sent { 2 } else { 0 }, "was_sent={was_sent} {told:?}");
        // The word on the order that is void comes too late to change anything.
        node.change(vec![news(1, OrderNews::Read(Relay::Open))]);
        assert_eq!(orders(&node), told);
    }
}

#[test]
fn the_decision_is_made_again_when_its_turn_comes() {
    let mut node = node();
    overdraw(&mut node);
    // Protected since: void at once. No longer protected, the decision is made anew.
    node.change(vec![Change::SupplyTerms(SupplyTerms { is_protected: true, ..supply_terms() })]);
    assert_eq!(orders(&node)[1..], [(1, Disconnect, Void, OrderReason::Exempt)]);
    node.change(vec![Change::SupplyTerms(supply_terms())]);
    assert_eq!(orders(&node)[2..], [(2, Disconnect, Decided, OrderReason::Overdrawn)]);
}

#[test]
fn nobody_is_cut_without_a_policy_or_when_postpaid() {
    let mut node = node();
    node.change(vec![Change::SupplyPolicy(SupplyPolicy::standard())]);
    overdraw(&mut node);
    assert_eq!(orders(&node), []);
    // Allowed later, those who are overdrawn are found.
    let policy = SupplyPolicy { is_cutting: true, ..SupplyPolicy::standard() };
    node.change(vec![Change::SupplyPolicy(policy)]);
    assert_eq!(orders(&node).len(), 1);
    let postpaid = meter::AccountTerms { mode: Mode::Postpaid, ..terms(1, "UTC") };
    node.change(vec![Change::Account(postpaid)]);
    node.tick(at(4));
    assert_eq!(orders(&node)[1..], [(1, Disconnect, Void, OrderReason::Exempt)]);
}

#[test]
fn friendly_periods_put_it_off() {
    let mut node = node();
    let mut week = vec![Vec::new(); 7];
    week[0] = vec![FriendlySpan { from: 0, to: 8 }];
    let (friendly, holidays) = (FriendlyId(4), Some(CalendarId(1)));
    let days = vec![LocalDate::parse("2026-11-03").unwrap()];
    node.change(vec![
        Change::Friendly(FriendlyCalendar { friendly, week, holidays }),
        Change::Holidays(Holidays { calendar: CalendarId(1), days }),
        Change::SupplyTerms(SupplyTerms { friendly, ..supply_terms() }),
    ]);
    overdraw(&mut node);
    node.tick(at(7) + 899);
    assert_eq!(orders(&node), [], "until 02:00");
    node.tick(at(8));
    assert_eq!(orders(&node), [(1, Disconnect, Decided, OrderReason::Overdrawn)]);
    // It expires on the holiday, which makes no new one.
    node.tick(at(96));
    node.tick(at(191));
    let told = [(1, Disconnect, Void, OrderReason::Friendly)];
    assert!(orders(&node)[1..] == told || orders(&node)[1].2 == Expired, "{:?}", orders(&node));
    assert_eq!(orders(&node).len(), 2);
    node.tick(at(192));
    assert_eq!(orders(&node)[2..], [(2, Disconnect, Decided, OrderReason::Overdrawn)]);
}

#[test]
fn an_estimate_alone_cuts_nobody() {
    let mut node = node();
    node.read(&[reading(1, at(1), 1010), reading(1, at(4), 1300)]);
    node.tick(at(4) + 60);
    assert_eq!(orders(&node), [], "readings are absent before the last one");
    node.read(&[reading(1, at(5), 1310)]);
    node.tick(at(5) + 60);
    assert_eq!(orders(&node), [(1, Disconnect, Decided, OrderReason::Overdrawn)]);
}

#[test]
fn a_relay_that_does_not_obey_is_tried_again_then_told() {
    let mut node = node();
    overdraw(&mut node);
    node.change(vec![news(1, OrderNews::Due), news(1, OrderNews::Silent)]);
    node.change(vec![news(1, OrderNews::Due), news(1, OrderNews::Read(Relay::Closed))]);
    let told = orders(&node);
    let want = [
        (1, Disconnect, Decided, OrderReason::Overdrawn),
        (1, Disconnect, Sent, OrderReason::Overdrawn),
        (1, Disconnect, Decided, OrderReason::Silent),
        (1, Disconnect, Sent, OrderReason::Overdrawn),
        (1, Disconnect, Failed, OrderReason::Relay),
    ];
    assert_eq!(told, want);
    assert_eq!(raised(&node, AlarmCode::Relay), [AlarmState::Raised]);
    node.tick(START + 60);
    assert_eq!(orders(&node).len(), 5, "it rests");
    node.tick(at(1));
    assert_eq!(orders(&node)[5..], [(2, Disconnect, Decided, OrderReason::Overdrawn)]);
    node.tick(at(1) + 14_400);
    assert_eq!(orders(&node)[6..], [(2, Disconnect, Expired, OrderReason::Late)]);
}

fn event(code: EventCode, n: u32) -> Entry {
    Entry::Event(MeterEvent {
        subject: Subject::Meter(MeterId(1)),
        code,
        taken_at: UnixSeconds(at(n)),
        received_at: UnixSeconds(at(n)),
        counter: n,
    })
}

#[test]
fn what_the_meter_opened_only_a_person_restores() {
    let mut node = node();
    node.feed(vec![event(EventCode::Tamper, 1), event(EventCode::RelayOpened, 1)]);
    assert_eq!(raised(&node, AlarmCode::SupplyTrip), [AlarmState::Raised]);
    let trip = node.all.alarms.iter().find(|row| row.code == AlarmCode::SupplyTrip).unwrap();
    assert_eq!(trip.value, i64::from(meter::Trip::Tamper.code()));
    overdraw(&mut node);
    node.change(vec![pay(5_000_000)]);
    node.feed(vec![event(EventCode::TamperEnd, 4)]);
    node.tick(at(5));
    assert_eq!(orders(&node), [], "neither cut nor restored");
    let clearance = Clearance { account: ID, at: UnixSeconds(at(5)), reason: "seen".into() };
    node.change(vec![Change::Clear(clearance)]);
    let restored =
        [(1, Reconnect, Decided, OrderReason::Cleared), (1, Reconnect, Sent, OrderReason::Cleared)];
    assert_eq!(orders(&node), restored);
    assert_eq!(raised(&node, AlarmCode::SupplyTrip), [AlarmState::Raised, AlarmState::Cleared]);
}

#[test]
fn the_relay_that_we_opened_is_no_trip() {
    let mut node = node();
    overdraw(&mut node);
    node.change(vec![news(1, OrderNews::Due)]);
    node.feed(vec![event(EventCode::RelayOpened, 4)]);
    node.change(vec![news(1, OrderNews::Read(Relay::Open))]);
    node.feed(vec![event(EventCode::RelayOpened, 5)]);
    assert_eq!(raised(&node, AlarmCode::SupplyTrip), []);
    // Closed by hand: it is ordered open again.
    node.feed(vec![event(EventCode::RelayClosed, 6)]);
    assert_eq!(orders(&node)[3..], [(2, Disconnect, Decided, OrderReason::Overdrawn)]);
}

/// The meter tells of what orders did to its relay, each report at any later time: nothing is taken
/// for the meter's own doing. What it tells of a time after the last order is.
#[test]
fn reports_of_orders_that_come_late_are_no_trips() {
    let reports = [(EventCode::RelayOpened, 4_u32), (EventCode::RelayClosed, 6)];
    let steps = 7;
    for opened_at in 2..=steps {
        for closed_at in 5..=steps {
            let mut node = node();
            for step in 0..=steps {
                match step {
                    0 => overdraw(&mut node),
                    1 => node.change(vec![news(1, OrderNews::Due)]),
                    2 => node.change(vec![news_at(1, OrderNews::Read(Relay::Open), 4)]),
                    3 => node.tick(at(5)),
                    4 => node.change(vec![pay(5_000_000)]),
                    5 => node.change(vec![news_at(2, OrderNews::Read(Relay::Closed), 6)]),
                    _ => node.tick(at(step)),
                }
                for ((code, n), when) in reports.into_iter().zip([opened_at, closed_at]) {
                    if when == step {
                        node.feed(vec![event(code, n)]);
                    }
                }
            }
            let place = format!("opened told after step {opened_at}, closed after {closed_at}");
            assert_eq!(raised(&node, AlarmCode::SupplyTrip), [], "{place}");
            assert_eq!(orders(&node).len(), 6, "{place}: {:?}", orders(&node));
            // Cut off again when nothing is left, as from a relay that is known to be closed.
            node.change(vec![book(LedgerKind::Adjustment, -9_000_000)]);
            node.read(&[reading(1, at(10), 1300)]);
            node.feed(vec![event(EventCode::RelayOpened, 11)]);
            assert_eq!(raised(&node, AlarmCode::SupplyTrip), [AlarmState::Raised], "{place}");
        }
    }
}

#[test]
fn emergency_credit_is_offered_once_taken_and_paid_back_first() {
    let mut node = node();
    let terms = SupplyTerms {
        emergency_below: money(200_000),
        emergency_credit: money(700_000),
        ..supply_terms()
    };
    node.change(vec![Change::SupplyTerms(terms)]);
    let take = || Change::Emergency(Emergency { account: ID, at: UnixSeconds(at(3)) });
    node.change(vec![take()]);
    assert_eq!(node.all.ledger.len(), 1, "not offered yet");
    overdraw(&mut node);
    node.tick(at(3) + 60);
    assert_eq!(raised(&node, AlarmCode::EmergencyOffered), [AlarmState::Raised]);
    node.change(vec![take(), take()]);
    let kinds = |node: &Node, from: usize| -> Vec<(LedgerKind, i64, i64)> {
        let rows = node.all.ledger[from..].iter();
        rows.map(|row| (row.kind, row.amount.ticks(), row.balance.ticks())).collect()
    };
    let given = (LedgerKind::EmergencyGiven, 700_000, 200_000);
    assert_eq!(kinds(&node, 4), [given]);
    assert!(orders(&node).contains(&(1, Disconnect, Void, OrderReason::Paid)));
    node.change(vec![pay(500_000), pay(300_000)]);
    let paid_back = [
        (LedgerKind::Purchase, 500_000, 700_000),
        (LedgerKind::EmergencyRepaid, -500_000, 200_000),
        (LedgerKind::Purchase, 300_000, 500_000),
        (LedgerKind::EmergencyRepaid, -200_000, 300_000),
    ];
    assert_eq!(kinds(&node, 5), paid_back);
}

#[test]
fn a_debt_is_recovered_from_purchases_up_to_its_cap() {
    let mut node = node();
    let (cent, at) = (Money::TICKS_PER_CENT, UnixSeconds(START));
    node.change(vec![
        book(LedgerKind::OpeningBalance, -1_000_000 - 50 * cent),
        Change::Debt(DebtAgreement {
            account: ID,
            amount: money(50 * cent),
            share_bp: 2000,
            cap: money(30 * cent),
            at,
            reason: "arrears".into(),
        }),
        pay(100 * cent),
        pay(200 * cent),
    ]);
    let recovered = node.all.ledger.iter().filter(|r| r.kind == LedgerKind::DebtRecovery);
    let recovered: Vec<_> = recovered.map(|row| row.amount.ticks() / cent).collect();
    assert_eq!(recovered, [-20, -10]);
    assert_eq!(node.end().balance(1), 270 * cent);
}

#[test]
fn a_switch_of_mode_is_dated_and_never_cuts() {
    let mut node = node();
    let switch = |mode, n| {
        let (share_bp, cap) = (5000, Money::ZERO);
        Change::Switch(ModeSwitch { account: ID, mode, at: UnixSeconds(at(n)), share_bp, cap })
    };
    node.change(vec![switch(Mode::Postpaid, 2)]);
    node.tick(at(2));
    overdraw(&mut node);
    node.tick(at(4));
    assert_eq!(orders(&node), []);
    node.change(vec![switch(Mode::Prepaid, 5)]);
    node.tick(at(4) + 60);
    assert_eq!(node.all.ledger.len(), 4);
    // Told again by the registry, the terms do not undo a switch.
    node.change(vec![Change::Account(terms(1, "UTC"))]);
    node.tick(at(5));
    let row = node.all.ledger.last().unwrap();
    let want =
        (LedgerKind::DebtAgreed, money(500_000), money(0), Cause::Period(UnixSeconds(at(5))));
    assert_eq!((row.kind, row.amount, row.balance, row.cause), want);
    assert_eq!(orders(&node), [], "what was owed is a debt now");
    node.change(vec![pay(10_000_000)]);
    assert_eq!(node.end().sums[&(ID, LedgerKind::DebtRecovery)], -500_000);
}

/// An order that is on its way to a meter when that is taken away is void at once, before the meter can
/// serve anybody else; so is one at an account that ends.
#[test]
fn an_order_ends_with_the_service_of_its_meter() {
    let ends: [fn() -> Change; 2] = [
        || {
            let (meter, end) = (MeterId(1), Energy::from_wh(900));
            Change::Remove(Removal { meter, at: UnixSeconds(at(3)), end })
        },
        || Change::Close(Closing { account: ID, at: UnixSeconds(at(3)) }),
    ];
    // How far it gets before the meter goes: decided, sent, and on its way back.
    for (steps, kind, seen) in
        [(0, Disconnect, Decided), (1, Disconnect, Sent), (3, Reconnect, Sent)]
    {
        for ends in ends {
            let mut node = node();
            overdraw(&mut node);
            if steps > 0 {
                node.change(vec![news(1, OrderNews::Due)]);
            }
            if steps > 1 {
                node.change(vec![news(1, OrderNews::Read(Relay::Open)), pay(10_000_000)]);
            }
            assert_eq!(orders(&node).last().map(|told| (told.1, told.2)), Some((kind, seen)));
            node.change(vec![ends()]);
            let last = orders(&node).pop().unwrap();
            assert_eq!((last.1, last.2), (kind, Void), "{steps}");
            node.tick(at(400));
            assert_eq!(orders(&node).pop().unwrap(), last, "nothing follows");
        }
    }
}

#[test]
fn a_replacement_keeps_the_balance_and_spans_no_serials() {
    let mut node = node();
    overdraw(&mut node);
    let replacement = Replacement {
        account: ID,
        old: MeterId(1),
        end: Energy::from_wh(1400),
        new: MeterId(2),
        start: Energy::from_wh(7),
        at: UnixSeconds(at(4)),
    };
    node.change(vec![Change::Replace(replacement)]);
    let rows = node.all.ledger[4..].iter();
    let rows: Vec<_> = rows.map(|r| (r.kind, r.amount.ticks(), r.balance.ticks())).collect();
    let want = [
        (LedgerKind::Energy, -500_000, -1_000_000),
        (LedgerKind::Transfer, 1_000_000, 0),
        (LedgerKind::Transfer, -1_000_000, -1_000_000),
    ];
    assert_eq!(rows, want);
    assert!(orders(&node).contains(&(1, Disconnect, Void, OrderReason::Replaced)));
    node.read(&[reading(2, at(5), 107)]);
    let end = node.end();
    assert_eq!(end.stands[&(ID, MeterId(2))].0, money(-1_500_000));
    assert_eq!(end.intervals[&(MeterId(2), UnixSeconds(at(4)))].energy.wh(), 100);
    let closing = Closing { account: ID, at: UnixSeconds(at(6)) };
    node.change(vec![Change::Close(closing)]);
    assert_eq!(orders(&node).last().unwrap().2, Void);
}

/// Late readings and the replay from a snapshot leave the same orders, whatever the workers.
#[test]
fn orders_do_not_depend_on_workers_batches_or_snapshots() {
    let script = |workers: usize, cut: bool| {
        let mut node = Node::start(workers);
        let policy = SupplyPolicy { is_cutting: true, ..SupplyPolicy::standard() };
        let mut changes = vec![
            Change::SupplyPolicy(policy),
            Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)])),
        ];
        for id in 1..=5 {
            changes.push(Change::Meter(record(id)));
            changes.push(Change::Account(terms(id, "UTC")));
            changes.push(install(id, START, Some(0)));
            changes.push(Change::SupplyTerms(SupplyTerms {
                account: AccountId(id),
                emergency_below: money(i64::from(id) * 50_000),
                emergency_credit: money(400_000),
                ..supply_terms()
            }));
        }
        node.change(changes);
        node.tick(START);
        let mut told = Vec::new();
        for n in 1..6 {
            let readings: Vec<_> = (1..=5)
                .map(|id| Entry::Reading(reading(id, at(n), u64::from(n * id * 30))))
                .collect();
            told.extend(node.feed_once(readings).orders);
            told.extend(node.feed_once(vec![Entry::Tick(UnixSeconds(at(n) + 5))]).orders);
            if cut {
                let snapshot = node.engine.snapshot().unwrap();
                let outbox = node.outbox;
                node = Node::resume(workers, Some(&snapshot));
                node.outbox = outbox;
            }
            node.outbox += 1;
            let (outbox, changes) = (meter::OutboxId(node.outbox), Box::new([pay(250_000)]));
            told.extend(node.feed_once(vec![Entry::Changes { outbox, changes }]).orders);
        }
        (told, node.engine.snapshot().unwrap())
    };
    let want = script(1, false);
    assert!(want.0.len() > 5, "{:?}", want.0);
    for (workers, cut) in [(1, true), (3, false), (3, true)] {
        assert!(script(workers, cut) == want, "workers={workers} cut={cut}");
    }
}

/// A late reading puts right what was charged before, and says so.
#[test]
fn a_correction_names_what_it_puts_right() {
    let mut node = Node::start(1);
    node.change(vec![
        Change::Tariff(version("2026-01-01", &[5000, 9000], &[(0, 1), (2, 2)], &[(0, 0)])),
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(0)),
    ]);
    node.read(&[reading(1, at(4), 400), reading(1, at(2), 300)]);
    let rows = node.all.ledger.iter();
    let rows: Vec<_> = rows.map(|row| (row.kind, row.amount.ticks(), row.cause)).collect();
    let cause = |from, to| Cause::Readings {
        meter: MeterId(1),
        from: UnixSeconds(at(from)),
        to: UnixSeconds(at(to)),
    };
    let want = [
        (LedgerKind::Energy, -200 * 5000 - 200 * 9000, cause(0, 4)),
        (LedgerKind::Correction, 100 * 4000, cause(0, 4)),
    ];
    assert_eq!(rows, want);
    node.end();
}

/// A stretch over the turn of a month is charged to each month by itself.
#[test]
fn a_charge_belongs_to_one_block_period() {
    let mut node = Node::start(1);
    // 2026-11-30T23:00Z; blocks make the period matter.
    let start = 1_796_079_600;
    node.change(vec![
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0), (1, 100)])),
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, start, Some(0)),
    ]);
    node.read(&[reading(1, start + 7200, 4000)]);
    let rows: Vec<_> = node.all.ledger.iter().map(|r| (r.amount.ticks(), r.at.0 - start)).collect();
    let half = -2000 * 5000 - 1000 * 100;
    assert_eq!(rows, [(half, 3600), (half, 7200)]);
}

/// Another plan holds from the next midnight; blocks count the energy of the month, whatever the plan.
#[test]
fn a_change_of_plan_is_dated_and_goes_on_counting_blocks() {
    let mut node = Node::start(1);
    with_two_plans(&mut node);
    node.tick(at(40));
    node.read(&[reading(1, at(40), 800)]);
    move_to(&mut node, 2);
    // Until midnight as before, and then otherwise: from 1000 Wh on in the second block.
    node.read(&[reading(1, at(96), 900), reading(1, at(97), 1100), reading(1, at(98), 1200)]);
    let amounts: Vec<_> = node.all.ledger.iter().map(|row| -row.amount.ticks()).collect();
    let want = [800 * 5000, 100 * 5000, 200 * 7000 + 100 * 100, 100 * 7000 + 100 * 100];
    assert_eq!(amounts, want);
}

/// Thought better of on the same day, nothing changes; told again, neither.
#[test]
fn a_change_of_plan_may_be_taken_back_before_its_midnight() {
    let mut node = Node::start(1);
    with_two_plans(&mut node);
    for plan in [2, 2, 1] {
        move_to(&mut node, plan);
    }
    node.read(&[reading(1, at(96), 900), reading(1, at(97), 1000)]);
    assert_eq!(node.end().balance(1), -1000 * 5000);
}

/// A dated change waits for its midnight, whatever the terms are told meanwhile; a later one takes its
/// place, and one to the plan that holds takes back what waits.
#[test]
fn a_dated_change_of_plan_waits_and_is_replaced_or_taken_back() {
    // Changes told on the first day: plan, midnight. Then what a kilowatt-hour costs each day.
    type Told = &'static [(u32, u32)];
    let cases: [(Told, [i64; 3]); 6] = [
        (&[(2, 192)], [5000, 5000, 7000]),
        (&[(2, 96)], [5000, 7000, 7000]),
        (&[(2, 96), (1, 96)], [5000, 5000, 5000]),
        (&[(2, 192), (1, 96)], [5000, 5000, 5000]),
        (&[(2, 192), (2, 96)], [5000, 7000, 7000]),
        (&[(3, 96), (2, 192)], [5000, 9000, 7000]),
    ];
    for (told, prices) in cases {
        for workers in [1, 3] {
            let mut node = Node::start(workers);
            with_two_plans(&mut node);
            let mut third = version("2026-01-01", &[9000], &[(0, 1)], &[(0, 0), (1, 100)]);
            third.plan = meter::PlanId(3);
            node.change(vec![Change::Tariff(third)]);
            let mut newest = 1;
            for (plan, midnight) in told {
                node.change(vec![plan_from(*plan, at(*midnight))]);
                newest = *plan;
            }
            // Limits change, the plan agreed does not.
            move_to(&mut node, newest);
            let bytes = node.engine.snapshot().unwrap();
            node.engine = Node::resume(workers, Some(&bytes)).engine;
            let read = |n: u32, wh| reading(1, at(n), wh);
            node.read(&[read(96, 100), read(192, 300), read(288, 600)]);
            let want: i64 = prices.iter().zip([100, 200, 300]).map(|(price, wh)| price * wh).sum();
            assert_eq!(node.end().balance(1), -want, "{told:?} {workers}");
        }
    }
}

/// What is metered already is never rated by another plan: the change waits for the midnight after.
#[test]
fn a_change_of_plan_that_comes_late_holds_from_the_midnight_after_the_readings() {
    let mut node = Node::start(1);
    with_two_plans(&mut node);
    node.read(&[reading(1, at(97), 500)]);
    node.change(vec![plan_from(2, at(96))]);
    node.read(&[reading(1, at(192), 800), reading(1, at(193), 900)]);
    assert_eq!(node.end().balance(1), -(800 * 5000 + 100 * 7000));
}

/// Back under a former plan in a later month, the blocks of that month count in the order of its days,
/// in whatever order the readings come.
#[test]
fn a_return_to_a_plan_in_a_later_period_counts_in_the_order_of_time() {
    // 2026-11-29T00:00Z; the month turns after two days.
    let start = 1_795_910_400;
    let day = |n: u32| UnixSeconds(start + n * 86_400);
    for turned in [false, true] {
        let mut node = Node::start(1);
        let mut other = version("2026-01-01", &[7000], &[(0, 1)], &[(0, 0), (1, 200)]);
        other.plan = meter::PlanId(2);
        node.change(vec![
            Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0), (1, 100)])),
            Change::Tariff(other),
            Change::Meter(record(1)),
            Change::Account(terms(1, "UTC")),
            install(1, start, Some(0)),
            plan_from(2, day(1).0),
            plan_from(1, day(3).0),
        ]);
        node.tick(start);
        // In December: 800 Wh under plan 2, then 900 under plan 1.
        let mut readings =
            vec![reading(1, day(2).0, 0), reading(1, day(3).0, 800), reading(1, day(4).0, 1700)];
        if turned {
            readings.swap(1, 2);
        }
        node.read(&readings);
        let want = 800 * 7000 + 900 * 5000 + 700 * 100;
        assert_eq!(node.end().balance(1), -want, "turned: {turned}");
    }
}

/// Readings late, in any order, before and after the change is known, through a snapshot and with any
/// number of workers: the charges are those of the plan that held when the energy was used.
#[test]
fn a_change_of_plan_does_not_depend_on_the_order_of_readings() {
    let wh = |n: u32| u64::from(n) * 10 + u64::from(n % 7);
    let all: Vec<_> = [40, 60, 90, 95, 97, 99, 120, 150, 190].into();
    let mut want = None;
    for seed in 0..12 {
        let mut node = Node::start(1 + seed as usize % 3);
        with_two_plans(&mut node);
        node.tick(at(50));
        node.read(&[reading(1, at(40), wh(40))]);
        let mut later = all.clone();
        if seed > 0 {
            support::Dice(seed).shuffle(&mut later);
        }
        // What is of the next day is never there before the change is.
        let (before, after): (Vec<u32>, Vec<u32>) =
            later.iter().copied().partition(|n| *n < 96 && (n + seed as u32).is_multiple_of(3));
        for n in before {
            node.read(&[reading(1, at(n), wh(n))]);
        }
        move_to(&mut node, 2);
        if seed % 2 == 1 {
            let bytes = node.engine.snapshot().unwrap();
            node.engine = Node::resume(1 + (seed as usize + 1) % 3, Some(&bytes)).engine;
            assert_eq!(node.engine.snapshot().unwrap(), bytes);
        }
        for n in after {
            node.read(&[reading(1, at(n), wh(n))]);
        }
        let end = node.end().sums;
        assert_eq!(want.get_or_insert_with(|| end.clone()), &end, "seed {seed}");
    }
}

/// Account 1 under plan 1; plan 2 is dearer.
fn with_two_plans(node: &mut Node) {
    let blocks = [(0, 0), (1, 100)];
    let mut other = version("2026-01-01", &[7000], &[(0, 1)], &blocks);
    other.plan = meter::PlanId(2);
    node.change(vec![
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &blocks)),
        Change::Tariff(other),
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(0)),
    ]);
    node.tick(START);
}

fn plan_from(plan: u32, at: u32) -> Change {
    Change::Plan(PlanChange { account: ID, plan: meter::PlanId(plan), at: UnixSeconds(at) })
}

fn move_to(node: &mut Node, plan: u32) {
    let plan = meter::PlanId(plan);
    node.change(vec![Change::Account(meter::AccountTerms { plan, ..terms(1, "UTC") })]);
}
