//! The desk: one meter, its account, and what the rules need to take a reading of it in.

use meter::{
    BalanceRow, Cause, Effects, Energy, IntervalQuality, IntervalRow, LedgerKind, MeterId, Money,
    Policy, Seq, Subject, TransformerId, UnixSeconds,
};

use crate::account::{Account, Movement};
use crate::alarm::{self, Panel};
use crate::class::Class;
use crate::gap::RowOf;
use crate::installed::Meter;
use crate::loss::{News, Sums, Usage};
use crate::rates::{Cell, Rates};
use crate::sample::Pair;
use crate::stats::Spreads;

/// What the books hand on: effects, and what the line loss is made of.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) effects: Effects,
    pub(crate) usage: Vec<Usage>,
    /// By transformer: where its newest certain energy stands in `usage`, if it is of this batch.
    newest: Vec<u32>,
    /// What stands before this in `usage` is not added to: a tick or a change came after it.
    fence: usize,
}

impl Out {
    /// What was told so far is told for good.
    pub(crate) fn close(&mut self) {
        self.fence = self.usage.len();
    }

    /// Tells the line loss of certain energy. What a batch says of one transformer and interval is
    /// one piece of news, under the last of its entries: only that one can complete the interval.
    #[inline]
    pub(crate) fn tell_certain(
        &mut self,
        meter: &Meter,
        interval: UnixSeconds,
        energy: u64,
        seq: Seq,
    ) {
        let transformer = meter.transformer.0;
        let index = transformer as usize;
        let known = self.newest.get(index).map(|at| *at as usize).filter(|at| *at >= self.fence);
        let known = known.and_then(|at| self.usage.get_mut(at));
        if let Some(Usage { key, seq: newest, news: News::Certain { start, sums } }) = known
            && (*key, *start) == (transformer, interval)
        {
            *newest = seq;
            sums.add(energy, meter.has(Meter::SUPPLY));
            return;
        }
        if self.newest.len() <= index {
            self.newest.resize(index + 1, u32::MAX);
        }
        self.newest[index] = self.usage.len() as u32;
        let mut sums = Sums::default();
        sums.add(energy, meter.has(Meter::SUPPLY));
        let news = News::Certain { start: interval, sums };
        self.usage.push(Usage { seq, key: transformer, news });
    }
}

/// Everything one reading touches.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    pub(crate) meter: &'a mut Meter,
    pub(crate) class: &'a Class,
    pub(crate) account: Option<&'a mut Account>,
    pub(crate) rates: &'a mut Rates,
    pub(crate) policy: &'a Policy,
    pub(crate) seq: Seq,
    pub(crate) out: &'a mut Out,
}

/// The energy of an interval, ready for its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metered {
    pub(crate) start: UnixSeconds,
    pub(crate) energy: u64,
    /// R(end).
    pub(crate) register: u64,
    pub(crate) quality: IntervalQuality,
    /// Whether no row of the interval was actual before.
    pub(crate) is_news: bool,
}

impl Desk<'_> {
    /// Writes the row of an interval, and tells the line loss when its energy is certain.
    #[inline]
    pub(crate) fn row(&mut self, metered: Metered, cell: Cell, spreads: &Spreads) {
        let Metered { start, energy, register, quality, is_news } = metered;
        let wh = i64::try_from(energy).unwrap_or(i64::MAX);
        self.out.effects.intervals.push(IntervalRow {
            meter: self.meter.id,
            start,
            account: self.meter.account,
            transformer: self.meter.transformer,
            energy: Energy::from_wh(energy),
            register: Energy::from_wh(register),
            cost: Money::from_ticks(cell.price_e4.saturating_mul(wh)),
            rate: cell.rate,
            quality,
            samples: spreads.samples,
            voltage: spreads.voltage,
            current: spreads.current,
            power: spreads.power,
            power_factor: spreads.power_factor,
            rev: self.seq,
        });
        let is_certain = quality == IntervalQuality::Actual && is_news;
        if is_certain && self.meter.transformer != TransformerId::NONE {
            self.out.tell_certain(self.meter, start, energy, self.seq);
        }
    }

    /// Charges the energy of a pair of neighbours, by the rates of its intervals.
    pub(crate) fn charge(&mut self, pair: &Pair) {
        let Some(cause) = self.cause(pair.from, pair.to) else { return };
        let ticks = self.charge_parts(pair, 1);
        self.enter_energy(Money::from_ticks(ticks), pair.to, cause);
    }

    /// Charges `wh` at one rate.
    #[inline]
    pub(crate) fn charge_cell(&mut self, cell: Cell, wh: u64, from: UnixSeconds, to: UnixSeconds) {
        let Some(cause) = self.cause(from, to) else { return };
        let Some(account) = &mut self.account else { return };
        let wh = i64::try_from(wh).unwrap_or(i64::MAX);
        let ticks = account.charge(cell, wh, self.rates);
        self.enter_energy(ticks, to, cause);
    }

    /// Adds a pair's energy to the sums (`sign` 1) or takes it back (`sign` -1), and returns by
    /// how much the charge rises.
    pub(crate) fn charge_parts(&mut self, pair: &Pair, sign: i64) -> i64 {
        let Some(account) = &mut self.account else { return 0 };
        let (mut at, mut risen, mut ticks) = (pair.from, 0, 0_i64);
        while at < pair.to {
            let (cell, end) = self.rates.run(at);
            let end = end.min(pair.to);
            let rise = pair.rise_at(end);
            let wh = i64::try_from(rise - risen).unwrap_or(i64::MAX);
            let more = account.charge(cell, sign * wh, self.rates);
            ticks = ticks.saturating_add(more.ticks());
            (at, risen) = (end, rise);
        }
        ticks
    }

    #[inline]
    pub(crate) fn enter_energy(&mut self, charge: Money, at: UnixSeconds, cause: Cause) {
        let Some(account) = &mut self.account else { return };
        let amount = Money::from_ticks(charge.ticks().saturating_neg());
        let kind = LedgerKind::Energy;
        let movement = Movement { account: self.meter.account, kind, amount, at, cause };
        account.enter(movement, self.seq, &mut self.out.effects.ledger);
        alarm::balance(account, at, self.seq, &mut self.out.effects.alarms);
    }

    /// Where the meter and its account stand after an accepted reading.
    #[inline]
    pub(crate) fn stand(&mut self) {
        let balance = self.account.as_ref().map_or(Money::ZERO, |account| account.balance());
        self.out.effects.balances.push(BalanceRow {
            account: self.meter.account,
            meter: self.meter.id,
            balance,
            as_of: self.meter.newest,
            complete_through: self.meter.complete_through(),
            seq: self.seq,
        });
    }

    pub(crate) fn panel(&mut self) -> Panel<'_> {
        Panel {
            subject: Subject::Meter(self.meter.id),
            on: &mut self.meter.alarms,
            seq: self.seq,
            rows: &mut self.out.effects.alarms,
        }
    }

    pub(crate) fn gap_rows(&self) -> RowOf {
        RowOf { meter: self.meter.id, period_s: self.class.period_s, rev: self.seq }
    }

    #[inline]
    fn cause(&self, from: UnixSeconds, to: UnixSeconds) -> Option<Cause> {
        let meter: MeterId = self.meter.id;
        self.account.as_ref().map(|_| Cause::Readings { meter, from, to })
    }
}
