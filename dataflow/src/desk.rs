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
use crate::ring::Ring;
use crate::sample::Pair;
use crate::stats::Spreads;

/// What the books hand on: effects, and what the line loss is made of.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) effects: Effects,
    pub(crate) usage: Vec<Usage>,
    /// By transformer: what is not in `usage` yet.
    running: Vec<Running>,
    /// Transformers that have any of that.
    open: Vec<u32>,
}

/// Certain energy of the newest interval of a transformer, as readings add to it.
#[derive(Clone, Copy, Debug)]
struct Running {
    start: UnixSeconds,
    seq: Seq,
    sums: Sums,
}

impl Running {
    /// No interval begins then.
    const NONE: Self = Self { start: UnixSeconds(u32::MAX), seq: Seq(0), sums: Sums::NONE };

    const fn news(self, key: u32) -> Usage {
        let Self { start, seq, sums } = self;
        Usage { seq, key, news: News::Certain { start, sums } }
    }
}

impl Out {
    /// What was told so far is told for good.
    pub(crate) fn close(&mut self) {
        for key in self.open.drain(..) {
            let running = std::mem::replace(&mut self.running[key as usize], Running::NONE);
            self.usage.push(running.news(key));
        }
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
        let (key, is_supply) = (meter.transformer.0, meter.has(Meter::SUPPLY));
        match self.running.get_mut(key as usize) {
            Some(running) if running.start == interval => {
                running.seq = seq;
                running.sums.add(energy, is_supply);
            }
            _ => {
                let mut sums = Sums::NONE;
                sums.add(energy, is_supply);
                self.turn_to(key, Running { start: interval, seq, sums });
            }
        }
    }

    /// Goes on with another interval. An older one, of a late reading, is told by itself.
    #[cold]
    fn turn_to(&mut self, key: u32, other: Running) {
        let index = key as usize;
        if self.running.len() <= index {
            self.running.resize(index + 1, Running::NONE);
        }
        let running = &mut self.running[index];
        if running.start == Running::NONE.start {
            self.open.push(key);
            *running = other;
            return;
        }
        let is_older = other.start < running.start;
        let told = if is_older { other } else { std::mem::replace(running, other) };
        self.usage.push(told.news(key));
    }
}

/// Everything one reading touches.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    pub(crate) meter: &'a mut Meter,
    pub(crate) ring: Ring<'a>,
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
        self.out.effects.intervals.push(IntervalRow {
            meter: self.meter.rest.id,
            start,
            account: self.meter.account,
            transformer: self.meter.transformer,
            energy: Energy::from_wh(energy),
            register: Energy::from_wh(register),
            cost: cell.cost(energy),
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

    /// Charges the energy of a pair of neighbours, by the rates of its intervals: a movement for
    /// each block period it reaches into.
    pub(crate) fn charge(&mut self, pair: &Pair) {
        let mut parts = Parts::default();
        self.charge_parts(pair, 1, &mut parts);
        for part in parts.all() {
            self.enter_energy(LedgerKind::Energy, part, part.to);
        }
    }

    /// Adds a pair's energy to the sums (`sign` 1) or takes it back (`sign` -1), and adds up by
    /// how much the charge of each block period rises.
    pub(crate) fn charge_parts(&mut self, pair: &Pair, sign: i64, parts: &mut Parts) {
        let Some(account) = &mut self.account else { return };
        let (mut at, mut risen) = (pair.from, 0);
        while at < pair.to {
            let (cell, end) = self.rates.run(at);
            let end = end.min(pair.to);
            let rise = pair.rise_at(end);
            let wh = i64::try_from(rise - risen).unwrap_or(i64::MAX);
            let ticks = account.charge(cell, sign * wh, self.rates).ticks();
            parts.add(Part { period: cell.period, from: at, to: end, ticks });
            (at, risen) = (end, rise);
        }
    }

    /// Enters what a block period is charged, at an instant within the part.
    #[inline]
    pub(crate) fn enter_energy(&mut self, kind: LedgerKind, part: &Part, at: UnixSeconds) {
        let meter: MeterId = self.meter.rest.id;
        let cause = Cause::Readings { meter, from: part.from, to: part.to };
        let Some(account) = &mut self.account else { return };
        let amount = Money::from_ticks(part.ticks.saturating_neg());
        let movement = Movement { account: self.meter.account, kind, amount, at, cause };
        account.enter(movement, self.seq, &mut self.out.effects);
        alarm::balance(account, at, self.seq, &mut self.out.effects.alarms);
    }

    /// Where the meter and its account stand after an accepted reading.
    #[inline]
    pub(crate) fn stand(&mut self) {
        let balance = self.account.as_ref().map_or(Money::ZERO, |account| account.balance());
        self.out.effects.balances.push(BalanceRow {
            account: self.meter.account,
            meter: self.meter.rest.id,
            balance,
            as_of: self.meter.newest,
            complete_through: self.meter.complete_through(),
            seq: self.seq,
        });
    }

    pub(crate) fn panel(&mut self) -> Panel<'_> {
        Panel {
            subject: Subject::Meter(self.meter.rest.id),
            on: &mut self.meter.alarms,
            seq: self.seq,
            rows: &mut self.out.effects.alarms,
        }
    }

    pub(crate) fn gap_rows(&self) -> RowOf {
        RowOf { meter: self.meter.rest.id, period_s: self.class.period_s, rev: self.seq }
    }
}

/// What a block period is charged for a stretch of readings.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Part {
    pub(crate) period: u32,
    pub(crate) from: UnixSeconds,
    pub(crate) to: UnixSeconds,
    pub(crate) ticks: i64,
}

/// Parts by block period, in the order of the first mention. There is nearly always one.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    first: Option<Part>,
    rest: Vec<Part>,
}

impl Parts {
    pub(crate) fn add(&mut self, more: Part) {
        let known = self.first.iter_mut().chain(&mut self.rest);
        if let Some(part) = known.into_iter().find(|part| part.period == more.period) {
            part.from = part.from.min(more.from);
            part.to = part.to.max(more.to);
            part.ticks = part.ticks.saturating_add(more.ticks);
        } else if self.first.is_none() {
            self.first = Some(more);
        } else {
            self.rest.push(more);
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Part> {
        self.first.iter().chain(&self.rest)
    }
}
