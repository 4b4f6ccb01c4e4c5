//! A regular reading in one straight line through the rules: the newest of its meter, at a
//! boundary, one interval after a reading at the boundary before, and its register can be true.
//!
//! **Invariant:** the general way (`Desk::in_order`) comes to the same rows and the same state;
//! this one only knows what it need not ask.

use meter::{
    AccountId, Cause, Energy, INTERVAL_S, LedgerKind, MeterId, Money, Policy, Reading, Regular,
    Seq, TransformerId, UnixSeconds,
};

use crate::account::Movement;
use crate::alarm;
use crate::books::{Books, desk};
use crate::class::Class;
use crate::desk::Desk;
use crate::installed::Meter;
use crate::reference::NO_RATES;
use crate::sample::{Pair, Sample};

impl Books {
    /// Takes a reading in if it is regular.
    #[inline]
    pub(crate) fn regular(&mut self, seq: Seq, reading: &Reading) -> bool {
        let slot = self.newest_slot(reading.meter);
        let Some(meter) = self.meters.get_mut(slot as usize) else { return false };
        let class = self.classes.get(meter.class);
        let rise = rise(meter, reading, class, &self.reference.policy);
        let Some(rise) = rise else { return false };
        let (from, to) = (meter.newest, reading.taken_at);

        let account = self.accounts.get_mut(meter.account_slot as usize);
        let rates = account.as_ref().map_or(NO_RATES, |account| account.rates);
        let rates = &mut self.reference.rates[usize::from(rates)];
        let cell = rates.cell(from);
        let (mut amount, mut balance, mut number) = (Money::ZERO, Money::ZERO, 0);
        if let Some(account) = account {
            let charge = account.charge(cell, i64::try_from(rise).unwrap_or(i64::MAX), rates);
            amount = Money::from_ticks(charge.ticks().saturating_neg());
            if !account.has_room(amount) {
                let movement = movement(reading.meter, meter.account, amount, to);
                account.make_room(&movement, seq, &mut self.out.effects);
            }
            account.move_by(amount);
            alarm::balance(account, to, seq, &mut self.out.effects.alarms);
            (balance, number) = (account.balance(), account.number());
        }

        self.out.effects.regular.push(Regular {
            seq,
            energy: Energy::from_wh(rise),
            cost: cell.cost(rise),
            amount,
            balance,
            account: meter.account,
            transformer: meter.transformer,
            number,
            complete_through: to.min(meter.oldest_gap),
            rate: cell.rate,
        });
        if meter.transformer != TransformerId::NONE {
            self.out.tell_certain(meter, from, rise, seq);
        }
        let Reading { register, fields, voltage, current, .. } = reading;
        let is_quiet = class.thresholds.is_quiet(*fields, voltage, current);
        let is_usual = to <= meter.day_end && register.wh() <= meter.day_watch;
        let is_calm = is_usual & is_quiet & (meter.alarms == 0);
        meter.push(&mut self.rings.of(slot), &Sample::of(reading));
        if !is_calm {
            self.look_at(slot, seq, reading, rise);
        }
        true
    }

    /// Looks at the running day and at the alarms of the meter after a regular reading.
    #[cold]
    fn look_at(&mut self, slot: u32, seq: Seq, reading: &Reading, rise: u64) {
        let (to, register) = (reading.taken_at, reading.register);
        let mut desk = desk!(self, slot, seq);
        let sample = Sample::of(reading);
        if to > desk.meter.day_end || register.wh() > desk.meter.day_watch {
            let from = to.minus(INTERVAL_S);
            let before = Sample::anchor(from, Energy::from_wh(register.wh() - rise));
            desk.look_at_day(&Pair { from, to, rise, broken: false }, &before, &sample);
        }
        if desk.meter.alarms != 0 {
            desk.trust(to);
        }
        desk.watch_sample(&sample);
    }
}

/// What the register rose with a regular reading, Wh; `None` for any other reading.
#[inline]
fn rise(meter: &Meter, reading: &Reading, class: &Class, policy: &Policy) -> Option<u64> {
    let Reading { taken_at, received_at, register, .. } = *reading;
    let is_next = taken_at.0.wrapping_sub(meter.newest.0) == INTERVAL_S
        && taken_at.is_boundary()
        && meter.state & (Meter::EXACT | Meter::TAIL_GAP) == Meter::EXACT
        && taken_at < meter.to
        && taken_at.since(received_at) <= policy.future_s_max;
    // No gap opens, closes, or is so old that it is forgotten.
    let keeps_gaps = class.is_whole_interval && meter.oldest_gap > taken_at.minus(policy.horizon_s);
    // A register that fell rose by more than any meter can carry.
    let rise = register.wh().wrapping_sub(meter.newest_register.wh());
    (is_next && keeps_gaps && rise <= class.interval_wh_max).then_some(rise)
}

/// The movement of an account for the interval that ends at `to`.
fn movement(meter: MeterId, account: AccountId, amount: Money, to: UnixSeconds) -> Movement {
    let cause = Cause::Readings { meter, from: to.minus(INTERVAL_S), to };
    Movement { account, kind: LedgerKind::Energy, amount, at: to, cause }
}

#[cfg(test)]
mod tests {
    use meter::{
        AccountId, AccountTerms, Block, BlockPeriod, Change, CurrencyCode, Current, CustomerId,
        DayProfile, Effects, Entry, Fields, GatewayId, Installation, LocalDate, MeterId,
        MeterRecord, Mode, MonthDay, OutboxId, PlanId, Power, Price, Purchase, PurchaseId, Role,
        Season, Seq, Switch, TariffVersion, UnixSeconds, Voltage,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::books::Books;
    use crate::desk::Out;
    use crate::loss::{News, Usage};

    /// 2026-11-29T00:00:00Z: two days later another block period begins.
    const START: u32 = 1_795_910_400;
    const FIRST: Seq = Seq(2);

    fn register() -> Vec<Change> {
        let at = UnixSeconds(START);
        let profile = DayProfile(
            [(0, 1), (24, 2), (68, 3)].map(|(quarter, rate)| Switch { quarter, rate }).to_vec(),
        );
        let ticks = Money::from_ticks;
        let block = |from_kwh, adder| Block { from_kwh, adder: Price::from_e4(adder) };
        vec![
            Change::Tariff(TariffVersion {
                plan: PlanId(1),
                valid_from: LocalDate::new(2026, 1, 1).unwrap(),
                currency: CurrencyCode::parse("CNY").unwrap(),
                prices: [30, 55, 80].map(Price::from_e4).to_vec(),
                seasons: vec![Season {
                    from: MonthDay { month: 1, day: 1 },
                    to: MonthDay { month: 12, day: 31 },
                    workday: profile.clone(),
                    weekend: profile.clone(),
                    holiday: profile,
                }],
                calendar: None,
                blocks: vec![block(0, 0), block(5, 10), block(12, 25)],
                block_period: BlockPeriod::Month,
                standing_per_day: Money::ZERO,
                standing_per_month: Money::ZERO,
                tax_bp: 0,
                fee: Money::ZERO,
            }),
            Change::Meter(MeterRecord {
                meter: MeterId(1),
                role: Role::Consumer,
                transformer: TransformerId(1),
                gateway: GatewayId::NONE,
                current_max: Current::from_ma(20_000),
                voltage_nominal: Voltage::from_mv(230_000),
                phases: 1,
                register_digits: 2,
                period_s: INTERVAL_S,
            }),
            Change::Account(AccountTerms {
                account: AccountId(1),
                customer: CustomerId(1),
                plan: PlanId(1),
                zone: "Europe/Oslo".to_owned(),
                mode: Mode::Prepaid,
                overdraft: ticks(300_000),
                low_levels: [ticks(500_000), ticks(200_000)],
            }),
            Change::Install(Installation {
                meter: MeterId(1),
                account: AccountId(1),
                at,
                start: Some(Energy::from_wh(80_000)),
            }),
            Change::Purchase(Purchase {
                purchase: PurchaseId(1),
                account: AccountId(1),
                paid: ticks(900_000),
                at,
            }),
        ]
    }

    fn books() -> Books {
        let mut books = Books::new(0, 1);
        let changes = register().into_boxed_slice();
        books.accept(Seq(1), &[Entry::Changes { outbox: OutboxId(1), changes }], None);
        books.out = Out::default();
        books.told = 0;
        books
    }

    /// A step of the meter's clock, energy, volts, and where the reading is sent in the end.
    fn stream() -> impl Strategy<Value = Vec<(u32, u64, u32, usize)>> {
        let step = prop_oneof![30 => Just(900), 1 => Just(300), 1 => Just(1800), 1 => Just(3600)];
        let volts = prop_oneof![20 => 225_u32..235, 1 => 180_u32..280];
        let delay = prop_oneof![30 => Just(0), 1 => 1_usize..5];
        let wh = prop_oneof![30 => 0_u64..700, 1 => 0_u64..3000];
        prop::collection::vec((step, wh, volts, delay), 1..300)
    }

    fn entries(stream: &[(u32, u64, u32, usize)]) -> Vec<Entry> {
        let (mut at, mut wh) = (UnixSeconds(START), 80_000);
        let mut sent = Vec::new();
        for (index, &(step, used, volts, delay)) in stream.iter().enumerate() {
            (at, wh) = (at.plus(step), (wh + used) % 100_000);
            let reading = Reading {
                meter: MeterId(1),
                taken_at: at,
                received_at: at.plus(9),
                register: Energy::from_wh(wh),
                voltage: [volts * 1000, 0, 0].map(Voltage::from_mv),
                power: Power::from_w(4),
                fields: Fields::VOLTAGE[0].with(Fields::POWER),
                ..Reading::default()
            };
            sent.push((index + delay, Entry::Reading(reading)));
        }
        sent.sort_by_key(|(place, _)| *place);
        sent.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The effects with the rows of regular readings among the others.
    fn written_out(effects: &Effects, entries: &[Entry]) -> Effects {
        let rows = effects.rows(FIRST, entries);
        Effects {
            regular: Vec::new(),
            verdicts: rows.verdicts().map(|(verdict, _)| verdict).collect(),
            intervals: rows.intervals().collect(),
            ledger: rows.ledger().collect(),
            balances: rows.balances().collect(),
            ..effects.clone()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_general_way_comes_to_the_same(stream in stream()) {
            let entries = entries(&stream);
            let (mut straight, mut general) = (books(), books());
            straight.accept(FIRST, &entries, None);
            for (entry, seq) in entries.iter().zip(FIRST.0..) {
                let Entry::Reading(reading) = entry else { continue };
                general.general(Seq(seq), reading);
                general.look_at_crossings(Seq(seq));
            }
            general.out.close();
            general.out.usage.push(Usage { seq: Seq(u64::MAX), key: 0, news: News::End });
            prop_assert!(general.out.effects.regular.is_empty());
            let straight_rows = written_out(&straight.out.effects, &entries);
            prop_assert_eq!(straight_rows, written_out(&general.out.effects, &entries));
            prop_assert_eq!(&straight.out.usage, &general.out.usage);
        }
    }
}
