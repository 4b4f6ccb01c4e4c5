//! The rules one by one: what becomes of a reading, alarms and their hysteresis, gaps, silence,
//! line loss, installations, purchases and standing charges.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use meter::{
    AccountId, Adjustment, AlarmCode, AlarmState, CalendarId, Cause, Change, Current, Decision,
    Effects, Energy, Entry, EventCode, Fields, GapState, GatewayId, Holidays, Installation,
    LedgerKind, LocalDate, MeterEvent, MeterId, MeterRecord, Mode, Money, Outcome, Purchase,
    PurchaseId, QuarantineReason, Reading, Removal, Resolution, Role, Sale, SaleLine, Seq, Subject,
    TransformerId, UnixSeconds, Voltage,
};
use support::{Node, install, reading, record, terms, version};

/// 2026-11-02T00:00:00Z, a Monday.
const START: u32 = 1_793_577_600;

const fn at(n: u32) -> u32 {
    START + n * 900
}

/// A node with meter and account 1 (postpaid), installed at START with register 1000.
fn node() -> Node {
    let mut node = Node::start(1);
    let mut terms = terms(1, "UTC");
    terms.mode = Mode::Postpaid;
    node.change(vec![
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)])),
        Change::Meter(record(1)),
        Change::Account(terms),
        install(1, START, Some(1000)),
    ]);
    node
}

fn feed(node: &mut Node, readings: &[Reading]) -> Vec<Outcome> {
    let entries = readings.iter().map(|reading| Entry::Reading(*reading)).collect();
    node.feed_once(entries).verdicts.iter().map(|verdict| verdict.outcome).collect()
}

fn quarantined(reason: QuarantineReason) -> Outcome {
    Outcome::Quarantined(reason)
}

fn told(effects: &Effects, from: usize) -> Vec<(AlarmCode, AlarmState)> {
    effects.alarms[from..].iter().map(|row| (row.code, row.state)).collect()
}

use AlarmState::{Cleared, Raised};

#[test]
fn what_becomes_of_a_reading() {
    let mut node = node();
    let good = [reading(1, at(0), 1000), reading(1, at(1), 1100), reading(1, at(2), 1200)];
    assert_eq!(feed(&mut node, &good), [Outcome::Accepted; 3]);
    let check = |node: &mut Node, case: Reading, want: Outcome| {
        let stood = node.end();
        assert_eq!(feed(node, &[case]), [want], "{case:?}");
        assert_eq!(node.end(), stood, "{case:?} changes nothing");
    };
    check(&mut node, good[1], Outcome::Duplicate);
    check(&mut node, good[2], Outcome::Duplicate);
    check(&mut node, reading(1, at(1), 1101), quarantined(QuarantineReason::Conflict));
    check(&mut node, reading(1, at(2), 1201), quarantined(QuarantineReason::Conflict));
    check(&mut node, reading(2, at(1), 5), quarantined(QuarantineReason::NotInstalled));
    check(&mut node, reading(1, START - 1, 5), quarantined(QuarantineReason::BeforeInstallation));
    check(&mut node, reading(1, at(3), 1199), quarantined(QuarantineReason::Backwards));
    check(&mut node, reading(1, at(3), 1199), Outcome::Duplicate);
    check(&mut node, reading(1, at(3), 100_000), quarantined(QuarantineReason::Spike));
    check(&mut node, reading(1, at(1) + 450, 1300), quarantined(QuarantineReason::Spike));
    check(&mut node, reading(1, at(1) + 450, 1050), quarantined(QuarantineReason::Backwards));
    let future = Reading { received_at: UnixSeconds(at(3) - 301), ..reading(1, at(3), 1300) };
    check(&mut node, future, quarantined(QuarantineReason::Future));
    let in_time = Reading { received_at: UnixSeconds(at(3) - 300), ..reading(1, at(3), 1300) };
    assert_eq!(feed(&mut node, &[in_time]), [Outcome::Accepted]);
    // 62 days and one second before the newest.
    let newest = at(3) + 5_356_800 + 1;
    assert_eq!(feed(&mut node, &[reading(1, newest, 2000)]), [Outcome::Accepted]);
    check(&mut node, reading(1, at(3), 1300), quarantined(QuarantineReason::TooOld));
    let counted = node.count(|o| matches!(o, Outcome::Accepted))
        + node.count(|o| matches!(o, Outcome::Quarantined(_)))
        + node.count(|o| matches!(o, Outcome::Duplicate));
    assert_eq!(counted, node.outcomes.len());
}

#[test]
fn a_register_rolls_over_at_its_digits() {
    let mut node = Node::start(1);
    node.change(vec![
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(999_999_900)),
    ]);
    let outcomes = feed(&mut node, &[reading(1, at(1), 999_999_950), reading(1, at(2), 30)]);
    assert_eq!(outcomes, [Outcome::Accepted; 2]);
    let rows: Vec<_> =
        node.all.intervals.iter().map(|row| (row.energy.wh(), row.register.wh())).collect();
    assert_eq!(rows, [(50, 999_999_950), (80, 30)]);
}

#[test]
fn two_agreeing_readings_propose_a_new_epoch_and_a_person_opens_it() {
    let mut node = node();
    feed(&mut node, &[reading(1, at(1), 1100)]);
    let balance = node.end().balance(1);
    let before = node.all.alarms.len();
    let reset: Vec<_> = (2..6).map(|n| reading(1, at(n), u64::from(n) * 10)).collect();
    let outcomes = feed(&mut node, &reset);
    assert_eq!(outcomes, [quarantined(QuarantineReason::Backwards); 4]);
    let raised = [(AlarmCode::Register, Raised), (AlarmCode::RegisterProposal, Raised)];
    assert_eq!(told(&node.all, before), raised);
    assert_eq!(node.end().balance(1), balance, "a proposal is never a bill");

    let asked_by = Seq(node.next - 4);
    let resolve = |decision| {
        Change::Resolve(Resolution {
            meter: MeterId(1),
            taken_at: UnixSeconds(at(2)),
            seq: asked_by,
            register: Energy::from_wh(20),
            decision,
        })
    };
    node.change(vec![resolve(Decision::NewEpoch)]);
    let settled = node.all.settled.last().unwrap();
    assert_eq!((settled.seq, settled.outcome), (asked_by, Outcome::Accepted));
    assert_eq!(node.end().balance(1), balance, "nothing is billed up to the new base");
    let cleared = [(AlarmCode::Register, Cleared), (AlarmCode::RegisterProposal, Cleared)];
    assert_eq!(told(&node.all, before + 2), cleared);
    assert_eq!(feed(&mut node, &[reading(1, at(6), 60)]), [Outcome::Accepted]);
    assert_eq!(node.end().balance(1), balance - 40 * 5000);
    let end = node.end();
    let energy = |n: u32| end.intervals[&(MeterId(1), UnixSeconds(at(n)))].energy.wh();
    assert_eq!([energy(0), energy(1), energy(2), energy(5)], [100, 0, 10, 10]);

    node.change(vec![resolve(Decision::Reject)]);
    let settled = node.all.settled.last().unwrap();
    assert_eq!(settled.outcome, quarantined(QuarantineReason::Rejected));
}

#[test]
fn one_bad_reading_clears_with_the_next_good_one() {
    let mut node = node();
    feed(
        &mut node,
        &[reading(1, at(1), 1100), reading(1, at(2), 900_000), reading(1, at(3), 1300)],
    );
    let want = [(AlarmCode::Register, Raised), (AlarmCode::Register, Cleared)];
    assert_eq!(told(&node.all, 0), want);
}

#[test]
fn electrical_alarms_have_hysteresis() {
    let mut node = node();
    let volts = [253_000, 253_001, 250_000, 248_400, 207_000, 206_999, 211_599, 211_600];
    let readings: Vec<_> = (1..)
        .zip(volts)
        .map(|(n, mv)| {
            let voltage = [Voltage::from_mv(230_000), Voltage::from_mv(mv), Voltage::default()];
            let fields = Fields::VOLTAGE[0].with(Fields::VOLTAGE[1]);
            Reading { voltage, fields, ..reading(1, at(n), 1000) }
        })
        .collect();
    feed(&mut node, &readings);
    let told_at: Vec<_> =
        node.all.alarms.iter().map(|row| (row.code, row.state, (row.at.0 - START) / 900)).collect();
    let want = [
        (AlarmCode::OverVoltage, Raised, 2),
        (AlarmCode::OverVoltage, Cleared, 4),
        (AlarmCode::UnderVoltage, Raised, 6),
        (AlarmCode::UnderVoltage, Cleared, 8),
    ];
    assert_eq!(told_at, want);
    let amps = [105_000, 105_001, 100_001, 100_000];
    let before = node.all.alarms.len();
    let readings: Vec<_> = (9..)
        .zip(amps)
        .map(|(n, ma)| {
            let current = [Current::default(), Current::default(), Current::from_ma(ma)];
            Reading { current, fields: Fields::CURRENT[2], ..reading(1, at(n), 1000) }
        })
        .collect();
    feed(&mut node, &readings);
    let want = [(AlarmCode::Overload, Raised), (AlarmCode::Overload, Cleared)];
    assert_eq!(told(&node.all, before), want);
}

fn event(subject: Subject, code: EventCode, at: u32) -> Entry {
    let (taken_at, received_at) = (UnixSeconds(at), UnixSeconds(at + 1));
    Entry::Event(MeterEvent { subject, code, taken_at, received_at, counter: 0 })
}

#[test]
fn events_raise_and_clear() {
    let mut node = node();
    let meter = Subject::Meter(MeterId(1));
    let mut seen = 0;
    let mut check = |node: &mut Node, entry: Entry, want: &[(AlarmCode, AlarmState)]| {
        node.feed(vec![entry.clone()]);
        assert_eq!(told(&node.all, seen), want, "{entry:?}");
        seen = node.all.alarms.len();
    };
    use EventCode as E;
    check(&mut node, event(meter, E::Tamper, at(1)), &[(AlarmCode::Tamper, Raised)]);
    check(&mut node, event(meter, E::Tamper, at(1) + 9), &[]);
    check(&mut node, event(meter, E::TamperEnd, at(1) + 10), &[(AlarmCode::Tamper, Cleared)]);
    check(&mut node, event(meter, E::RelayFailed, at(1)), &[(AlarmCode::Relay, Raised)]);
    let opened = [(AlarmCode::Relay, Cleared), (AlarmCode::SupplyTrip, Raised)];
    check(&mut node, event(meter, E::RelayOpened, at(1)), &opened);
    check(&mut node, event(meter, E::PowerDown, at(1)), &[(AlarmCode::PowerDown, Raised)]);
    check(&mut node, event(meter, E::ReverseEnergy, at(1)), &[(AlarmCode::ReverseEnergy, Raised)]);
    check(&mut node, event(meter, E::Clock, at(1)), &[(AlarmCode::Clock, Raised)]);
    let all = [AlarmCode::PowerDown, AlarmCode::Clock, AlarmCode::ReverseEnergy];
    let power = meter::Power::from_w(5);
    let next = Entry::Reading(Reading { power, ..reading(1, at(2), 1000) });
    check(&mut node, next, &all.map(|code| (code, Cleared)));
    // A last gasp that arrives after the mains came back.
    let late = [(AlarmCode::PowerDown, Raised), (AlarmCode::PowerDown, Cleared)];
    check(&mut node, event(meter, E::PowerDown, at(1)), &late);
}

#[test]
fn a_gateway_is_silent_or_without_mains() {
    let gateway = Subject::Gateway(GatewayId(4));
    let codes = |events: &[(EventCode, u32)], tick: u32| {
        let mut node = node();
        node.feed(events.iter().map(|(code, at)| event(gateway, *code, *at)).collect());
        node.tick(tick);
        let rows = node.all.alarms.iter().filter(|row| row.subject == gateway);
        rows.map(|row| (row.code, row.state)).collect::<Vec<_>>()
    };
    use EventCode::{LinkDown, LinkUp, PowerDown};
    let silent = (AlarmCode::GatewaySilent, Raised);
    assert_eq!(codes(&[(LinkUp, at(1)), (LinkDown, at(2))], at(2) + 300), []);
    assert_eq!(codes(&[(LinkUp, at(1)), (LinkDown, at(2))], at(2) + 301), [silent]);
    assert_eq!(codes(&[(LinkDown, at(2)), (LinkUp, at(3))], at(9)), []);
    let dark = [(AlarmCode::PowerDown, Raised)];
    assert_eq!(codes(&[(PowerDown, at(2)), (LinkDown, at(2) + 5)], at(9)), dark);
}

#[test]
fn silence_and_gaps_by_ticks() {
    let mut node = node();
    feed(&mut node, &[reading(1, at(1), 1100)]);
    node.tick(at(2) + 300);
    assert!(node.all.gaps.is_empty(), "within its grace");
    node.tick(at(2) + 360);
    let open = *node.all.gaps.last().unwrap();
    assert_eq!((open.from.0, open.to.0, open.missing, open.state), (at(1), 0, 1, GapState::Open));
    node.tick(at(4));
    assert_eq!(node.all.gaps.len(), 1, "told once");
    node.tick(at(5));
    assert!(node.all.alarms.is_empty(), "four periods are no silence");
    node.tick(at(5) + 60);
    assert_eq!(told(&node.all, 0), [(AlarmCode::MeterSilent, Raised)]);
    feed(&mut node, &[reading(1, at(6), 1600)]);
    assert_eq!(told(&node.all, 1), [(AlarmCode::MeterSilent, Cleared)]);
    let gap = *node.all.gaps.last().unwrap();
    assert_eq!((gap.from.0, gap.to.0, gap.missing, gap.state), (at(1), at(6), 4, GapState::Open));
    assert_eq!(node.end().stands[&(AccountId(1), MeterId(1))].2, UnixSeconds(at(1)));
    for n in [3, 2, 5, 4] {
        feed(&mut node, &[reading(1, at(n), 1000 + 100 * u64::from(n))]);
    }
    assert!(node.end().gaps.is_empty());
    assert_eq!(node.end().stands[&(AccountId(1), MeterId(1))].2, UnixSeconds(at(6)));
    // The tail of a meter that came back in time is closed.
    node.tick(at(7) + 360);
    feed(&mut node, &[reading(1, at(7), 1700)]);
    assert_eq!(node.all.gaps.last().unwrap().state, GapState::Closed);
}

#[test]
fn balance_levels_tell_each_crossing_once() {
    let mut node = node();
    let mut terms = terms(1, "UTC");
    terms.low_levels = [Money::from_ticks(3_000_000), Money::from_ticks(1_000_000)];
    terms.overdraft = Money::from_ticks(500_000);
    let adjust = |ticks| {
        Change::Adjust(Adjustment {
            account: AccountId(1),
            amount: Money::from_ticks(ticks),
            at: UnixSeconds(START),
            reason: "test".into(),
        })
    };
    node.change(vec![adjust(4_000_000), Change::Account(terms)]);
    // 100 Wh cost 500,000 ticks.
    let readings: Vec<_> = (1..11).map(|n| reading(1, at(n), 1000 + 100 * u64::from(n))).collect();
    feed(&mut node, &readings);
    let told_at: Vec<_> =
        node.all.alarms.iter().map(|row| (row.code, row.state, row.value)).collect();
    let want = [
        (AlarmCode::LowBalance, Raised, 2_500_000),
        (AlarmCode::VeryLowBalance, Raised, 500_000),
        (AlarmCode::Overdrawn, Raised, -1_000_000),
    ];
    assert_eq!(told_at, want);
    node.change(vec![adjust(3_000_000)]);
    let cleared = [(AlarmCode::VeryLowBalance, Cleared), (AlarmCode::Overdrawn, Cleared)];
    assert_eq!(told(&node.all, 3), cleared);
}

#[test]
fn an_unusual_day_is_told_once_and_clears_after_a_usual_one() {
    let mut node = node();
    let mut wh = 1000;
    let mut readings = Vec::new();
    // The first day is cut short; then eight of 9600 Wh, one of 38,400, one of 9600.
    for day in 0..11 {
        let step = if day == 9 { 400 } else { 100 };
        for n in 0..96 {
            wh += step;
            readings.push(reading(1, at(day * 96 + n + 1), wh));
        }
    }
    feed(&mut node, &readings);
    let days: Vec<_> = node
        .all
        .alarms
        .iter()
        .map(|row| (row.code, row.state, (row.at.0 - START) / 86_400))
        .collect();
    assert_eq!(days, [(AlarmCode::UnusualUse, Raised, 9)]);
    wh += 100;
    feed(&mut node, &[reading(1, at(11 * 96 + 1), wh)]);
    assert_eq!(told(&node.all, 1), [(AlarmCode::UnusualUse, Cleared)]);
}

fn fleet(node: &mut Node) {
    let hung = |id, role| MeterRecord { transformer: TransformerId(9), role, ..record(id) };
    let mut changes = vec![Change::Meter(hung(1, Role::Supply))];
    changes.push(Change::Install(Installation {
        meter: MeterId(1),
        account: AccountId::NONE,
        at: UnixSeconds(START),
        start: Some(Energy::from_wh(0)),
    }));
    for id in 2..=3 {
        changes.push(Change::Meter(hung(id, Role::Consumer)));
        changes.push(Change::Account(terms(id, "UTC")));
        changes.push(install(id, START, Some(0)));
    }
    node.change(changes);
}

#[test]
fn line_loss_counts_certain_intervals() {
    for workers in [1, 2] {
        let mut node = Node::start(workers);
        fleet(&mut node);
        let interval = |node: &mut Node, n: u32, registers: [Option<u64>; 3]| {
            let readings =
                (1..).zip(registers).filter_map(|(id, wh)| Some(reading(id, at(n), wh?)));
            node.feed(readings.map(Entry::Reading).collect());
        };
        interval(&mut node, 1, [Some(1000), Some(600), Some(350)]);
        let rows = |node: &Node| -> Vec<(u32, u64, u64, u32, u32)> {
            let rows = node.all.losses.iter();
            let n = |row: &meter::LossRow| (row.start.0 - START) / 900;
            rows.map(|r| (n(r), r.supply.wh(), r.delivered.wh(), r.expected, r.actual)).collect()
        };
        assert_eq!(rows(&node), [(0, 1000, 950, 3, 3)], "workers {workers}");
        // 15 % lost raises, 9 % leaves it on, 8 % clears; more than supplied is a fault.
        interval(&mut node, 2, [Some(2000), Some(1200), Some(600)]);
        interval(&mut node, 3, [Some(3000), Some(1800), Some(910)]);
        interval(&mut node, 4, [Some(4000), Some(2400), Some(1230)]);
        interval(&mut node, 5, [Some(5000), Some(3000), Some(1640)]);
        let want = [
            (AlarmCode::LineLoss, Raised),
            (AlarmCode::LineLoss, Cleared),
            (AlarmCode::NegativeLoss, Raised),
        ];
        assert_eq!(told(&node.all, 0), want, "workers {workers}");
        assert!(
            node.all.alarms.iter().all(|a| a.subject == Subject::Transformer(TransformerId(9)))
        );
        // One is missing: the row waits for a tick of the next quarter hour, then for the reading.
        interval(&mut node, 6, [Some(6000), Some(3600), None]);
        assert_eq!(node.all.losses.len(), 5, "workers {workers}");
        node.tick(at(7));
        assert_eq!(rows(&node).last(), Some(&(5, 1000, 600, 3, 2)), "workers {workers}");
        interval(&mut node, 7, [Some(7000), Some(4200), Some(2340)]);
        interval(&mut node, 6, [None, None, Some(1990)]);
        let tail = [(5, 1000, 950, 3, 3), (6, 1000, 950, 3, 3)];
        assert_eq!(rows(&node)[6..], tail, "workers {workers}");
    }
}

#[test]
fn a_meter_that_moves_starts_afresh() {
    let mut node = node();
    node.change(vec![Change::Account(terms(2, "UTC"))]);
    feed(&mut node, &[reading(1, at(1), 1100), reading(1, at(3), 1300)]);
    let removal = Removal { meter: MeterId(1), at: UnixSeconds(at(4)), end: Energy::from_wh(1400) };
    node.change(vec![Change::Remove(removal)]);
    assert_eq!(node.end().balance(1), -400 * 5000, "up to the final register");
    let after = quarantined(QuarantineReason::AfterRemoval);
    assert_eq!(feed(&mut node, &[reading(1, at(4), 1400)]), [after]);
    let install = Installation {
        meter: MeterId(1),
        account: AccountId(2),
        at: UnixSeconds(at(6)),
        start: Some(Energy::from_wh(1500)),
    };
    node.change(vec![Change::Install(install)]);
    assert_eq!(feed(&mut node, &[reading(1, at(5), 1450)]), [after], "between the two");
    let late = [reading(1, at(7), 1600), reading(1, at(2), 1250)];
    assert_eq!(feed(&mut node, &late), [Outcome::Accepted; 2]);
    let end = node.end();
    assert_eq!(end.stands[&(AccountId(2), MeterId(1))].0.ticks(), -100 * 5000);
    assert_eq!(end.stands[&(AccountId(1), MeterId(1))].0.ticks(), -400 * 5000);
    let row = end.intervals[&(MeterId(1), UnixSeconds(at(1)))];
    assert_eq!((row.account, row.energy.wh()), (AccountId(1), 150));
    assert!(!end.intervals.contains_key(&(MeterId(1), UnixSeconds(at(4)))));
}

#[test]
fn without_a_start_register_the_earliest_reading_is_the_base() {
    let mut node = Node::start(1);
    node.change(vec![
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)])),
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, START, None),
    ]);
    feed(&mut node, &[reading(1, at(5), 500)]);
    assert_eq!(node.end().balance(1), 0);
    feed(&mut node, &[reading(1, at(2), 200), reading(1, at(3), 300)]);
    assert_eq!(node.end().balance(1), -300 * 5000);
    assert_eq!(node.end().intervals.len(), 3);
}

/// The lines of a sale are entered as they stand, in their order; a line of nothing makes no row.
#[test]
fn a_sale_is_entered_line_by_line() {
    let mut node = node();
    let line = |kind, ticks| SaleLine { kind, amount: Money::from_ticks(ticks) };
    let lines = vec![
        line(LedgerKind::Purchase, 1000),
        line(LedgerKind::DebtRecovery, -200),
        line(LedgerKind::Fee, 0),
        line(LedgerKind::Token, -800),
    ];
    let sale = Sale { sale: PurchaseId(9), account: AccountId(1), at: UnixSeconds(at(1)), lines };
    node.change(vec![Change::Sale(sale)]);
    let rows = node.all.ledger.iter();
    let rows: Vec<_> = rows.map(|row| (row.kind, row.amount.ticks(), row.cause)).collect();
    let cause = Cause::Purchase(9);
    let want = [
        (LedgerKind::Purchase, 1000, cause),
        (LedgerKind::DebtRecovery, -200, cause),
        (LedgerKind::Token, -800, cause),
    ];
    assert_eq!(rows, want);
    assert_eq!(node.end().balance(1), 0);
}

#[test]
fn purchases_split_and_standing_charges_fall_due_at_local_midnight() {
    let mut node = Node::start(1);
    let mut plan = version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)]);
    plan.fee = Money::from_ticks(1_000_000);
    plan.tax_bp = 650;
    plan.standing_per_day = Money::from_ticks(7);
    plan.standing_per_month = Money::from_ticks(1000);
    node.change(vec![
        Change::Tariff(plan),
        Change::Meter(record(1)),
        Change::Account(terms(1, "Asia/Shanghai")),
        // 2026-11-28T16:00Z is local midnight of the 29th: that day is charged.
        install(1, 1_795_881_600, Some(0)),
        Change::Purchase(Purchase {
            purchase: PurchaseId(5),
            account: AccountId(1),
            paid: Money::from_ticks(123_450_000),
            at: UnixSeconds(1_795_881_600),
        }),
    ]);
    let kinds = |node: &Node| -> Vec<(LedgerKind, i64)> {
        node.all.ledger.iter().map(|row| (row.kind, row.amount.ticks())).collect()
    };
    // 6.5 % of 12.345 is 0.802425: 0.80.
    let split = [
        (LedgerKind::Purchase, 123_450_000),
        (LedgerKind::Fee, -1_000_000),
        (LedgerKind::Tax, -8_000_000),
    ];
    assert_eq!(kinds(&node), split);
    node.tick(1_795_881_600 - 1);
    assert_eq!(kinds(&node).len(), 3);
    // Three midnights at once; the last begins December.
    node.tick(1_795_881_600 + 2 * 86_400 + 5);
    let due = [
        (LedgerKind::StandingDay, -7),
        (LedgerKind::StandingDay, -7),
        (LedgerKind::StandingDay, -7),
        (LedgerKind::StandingMonth, -1000),
    ];
    assert_eq!(kinds(&node)[3..], due);
    node.tick(1_795_881_600 + 2 * 86_400 + 65);
    assert_eq!(kinds(&node).len(), 7, "once each");
}

#[test]
fn holidays_have_their_own_profile() {
    let mut node = Node::start(1);
    let mut plan = version("2026-01-01", &[100, 900], &[(0, 1)], &[(0, 0)]);
    plan.calendar = Some(CalendarId(3));
    plan.seasons[0].holiday.0[0].rate = 2;
    node.change(vec![
        Change::Tariff(plan),
        Change::Holidays(Holidays {
            calendar: CalendarId(3),
            days: vec![LocalDate::parse("2026-11-03").unwrap()],
        }),
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(0)),
    ]);
    let readings: Vec<_> = [95, 96, 97, 192, 193].map(|n| reading(1, at(n), n.into())).to_vec();
    feed(&mut node, &readings);
    let end = node.end();
    let rate = |n: u32| end.intervals[&(MeterId(1), UnixSeconds(at(n)))].rate;
    assert_eq!([rate(95), rate(96), rate(191), rate(192)], [1, 2, 2, 1]);
}

#[test]
fn a_change_seen_already_is_dropped() {
    let mut node = node();
    let adjust = Change::Adjust(Adjustment {
        account: AccountId(1),
        amount: Money::from_ticks(5),
        at: UnixSeconds(START),
        reason: "once".into(),
    });
    let outbox = meter::OutboxId(50);
    let entry = Entry::Changes { outbox, changes: Box::new([adjust]) };
    node.feed(vec![entry.clone(), entry.clone()]);
    node.feed(vec![entry]);
    assert_eq!(node.all.ledger.len(), 1);
}

#[test]
fn a_late_reading_beyond_memory_waits_for_the_store() {
    let mut node = node();
    node.answers = false;
    let readings: Vec<_> = (1..20).map(|n| reading(1, at(n), 1000 + 100 * u64::from(n))).collect();
    feed(&mut node, &readings);
    // Between two readings that left the ring long ago; then one that is known already.
    let late = reading(1, at(3) + 450, 1320);
    assert_eq!(feed(&mut node, &[late, readings[1]]), [Outcome::Parked, Outcome::Parked]);
    assert_eq!(node.asked.len(), 1, "one question a meter");
    // In order, readings go on.
    assert_eq!(feed(&mut node, &[reading(1, at(20), 3000)]), [Outcome::Accepted]);
    node.answers = true;
    node.feed(vec![]);
    assert_eq!(node.count(|o| *o == Outcome::Parked), 0);
    assert_eq!(node.count(|o| *o == Outcome::Accepted), 21);
    assert_eq!(node.count(|o| *o == Outcome::Duplicate), 1);
    let row = node.end().intervals[&(MeterId(1), UnixSeconds(at(3)))];
    assert_eq!((row.samples, row.energy.wh()), (2, 100));
    // A meter whose store is never heard keeps a bounded number waiting.
    node.answers = false;
    let flood: Vec<_> =
        (0..600).map(|n| reading(1, at(2) + 1 + n, 1200 + u64::from(n) / 20)).collect();
    let outcomes = feed(&mut node, &flood);
    let full =
        outcomes.iter().filter(|o| **o == quarantined(QuarantineReason::ParkingFull)).count();
    assert_eq!(full, 600 - 512);
}

#[test]
fn a_worker_that_finds_a_broken_invariant_stops_the_engine() {
    for workers in [1, 2] {
        let mut node = Node::start(workers);
        // A meter that no registry lets pass: its energy leaves 63 bits.
        let (current_max, voltage_nominal) =
            (Current::from_ma(u32::MAX), Voltage::from_mv(u32::MAX));
        let giant = MeterRecord { current_max, voltage_nominal, phases: 255, ..record(1) };
        let mut yearly = version("2026-01-01", &[1], &[(0, 1)], &[(0, 0)]);
        yearly.block_period = meter::BlockPeriod::Year;
        // 2027-01-01, and twice 83 days.
        let (new_year, step) = (START + 60 * 86_400, 7_200_000);
        node.change(vec![
            Change::Tariff(yearly),
            Change::Meter(giant),
            Change::Account(terms(1, "UTC")),
            install(1, new_year, Some(0)),
        ]);
        node.read(&[reading(1, new_year + step, u64::MAX / 2)]);
        let more = Entry::Reading(reading(1, new_year + 2 * step, u64::MAX - 1));
        let (first, mut effects) = (Seq(node.next), Effects::default());
        let entries = std::sync::Arc::new(vec![more]);
        for _ in 0..2 {
            let stopped = node.engine.process(first, &entries, &mut effects);
            let Err(dataflow::EngineError::Worker { reason, .. }) = stopped else {
                panic!("workers={workers}: {stopped:?}")
            };
            assert!(reason.contains("overflow"), "{reason}");
        }
        assert!(node.engine.snapshot().is_err());
    }
}

#[test]
fn a_batch_out_of_place_is_refused() {
    let mut node = node();
    let mut effects = Effects::default();
    let entries = std::sync::Arc::new(vec![Entry::Tick(UnixSeconds(START))]);
    let refused = node.engine.process(Seq(node.next + 1), &entries, &mut effects);
    assert!(matches!(refused, Err(dataflow::EngineError::Position { .. })), "{refused:?}");
    assert!(matches!(node.engine.receive(&mut effects), Err(dataflow::EngineError::Idle)));
    assert!(node.engine.process(Seq(node.next), &entries, &mut effects).is_ok());
}

/// Meter 1 serves an account that pays 7 ticks a day; meter 2 waits.
fn with_a_spare_meter() -> Node {
    let mut node = Node::start(1);
    let mut plan = version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)]);
    plan.standing_per_day = Money::from_ticks(7);
    node.change(vec![
        Change::Tariff(plan),
        Change::Meter(record(1)),
        Change::Meter(record(2)),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(1000)),
    ]);
    node
}

/// A disk that is full keeps ticks out of the log, and a replacement in: the midnight before it is
/// still charged, by the tick that comes after.
#[test]
fn a_midnight_before_a_replacement_is_charged_by_a_tick_after_it() {
    let mut node = with_a_spare_meter();
    let charged = |node: &Node| {
        let sums = node.end().sums;
        sums.get(&(AccountId(1), LedgerKind::StandingDay)).copied().unwrap_or(0)
    };
    node.tick(START + 10);
    assert_eq!(charged(&node), -7);
    let at = UnixSeconds(START + 86_400 + 3600);
    let end = Energy::from_wh(1000);
    let (meter, account, start) = (MeterId(2), AccountId(1), Some(Energy::from_wh(5)));
    node.change(vec![
        Change::Remove(Removal { meter: MeterId(1), at, end }),
        Change::Install(Installation { meter, account, at, start }),
    ]);
    node.tick(at.0 + 60);
    assert_eq!(charged(&node), -14);
    node.tick(START + 3 * 86_400 - 1);
    assert_eq!(charged(&node), -21);
}

/// The same with days between: those of the meter before are charged, those without a meter not.
#[test]
fn midnights_before_a_time_without_a_meter_are_charged() {
    const DAY: u32 = 86_400;
    // When the ticks went on, beside the removal on day 2 and the installation on day 5.
    for ticked in [START + 10, START + DAY + 10, START + 3 * DAY, START + 5 * DAY] {
        let mut node = with_a_spare_meter();
        node.tick(ticked);
        let at = UnixSeconds(START + 2 * DAY + 3600);
        let (meter, account, start) = (MeterId(2), AccountId(1), Some(Energy::from_wh(5)));
        let anew = UnixSeconds(START + 5 * DAY + 3600);
        node.change(vec![
            Change::Remove(Removal { meter: MeterId(1), at, end: Energy::from_wh(1000) }),
            Change::Install(Installation { meter, account, at: anew, start }),
        ]);
        node.tick(START + 7 * DAY + 60);
        let sums = node.end().sums;
        let charged = sums.get(&(AccountId(1), LedgerKind::StandingDay)).copied();
        // Days 0, 1, 2, and 6, 7; where ticks were past the removal, day 3 or 5 as well.
        let late = ticked.saturating_sub(START + 2 * DAY) / DAY;
        assert_eq!(charged, Some(-7 * (5 + i64::from(late))), "ticked {}", ticked - START);
    }
}
