//! Rates: from an interval to tariff version, rate, price and block period, for one plan, or several
//! one after another, in one time zone. The answers are kept in a table by interval, built a stretch of
//! days at a time.

use meter::{
    Block, BlockPeriod, CalendarId, DayType, Holidays, INTERVAL_S, LocalCalendar, LocalDate, Money,
    TariffVersion, UnixSeconds,
};

use crate::snapshot::layout;

/// Names a tariff version among those of all plans, in the order the log brought them.
pub(crate) type VersionIndex = u16;

/// The version of intervals that no version covers: no rate, no price.
pub(crate) const UNPRICED: VersionIndex = u16::MAX;

/// What decides the price of an interval's energy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cell {
    /// The block period: its first second, plus 1 for a year so that it never equals a month.
    pub(crate) period: u32,
    pub(crate) version: VersionIndex,
    /// 1 to 4; 0 when no version covers the interval.
    pub(crate) rate: u8,
    /// Of the rate, in 1/10,000 per kWh.
    pub(crate) price_e4: i64,
}

impl Cell {
    /// What energy costs at the rate, without block adders.
    #[inline]
    pub(crate) fn cost(&self, wh: u64) -> Money {
        let wh = i64::try_from(wh).unwrap_or(i64::MAX);
        Money::from_ticks(self.price_e4.saturating_mul(wh))
    }
}

/// A block of a version, from and to in Wh of a period.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: i64,
    to: i64,
    adder_e4: i64,
}

/// What the energy after a sum costs beside the price of its rate, and how long that holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stretch {
    pub(crate) adder_e4: i32,
    /// Wh to the next block, or less.
    pub(crate) left: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    cell: u16,
    /// How many intervals from this one on share the cell, as far as the table goes.
    run: u16,
}

/// A plan and the instant, a local midnight, from which on it holds for an account.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct PlanFrom {
    pub(crate) from: UnixSeconds,
    pub(crate) plan: u32,
}

layout!(PlanFrom { from, plan });

/// A version of one of the plans.
#[derive(Debug)]
struct Version {
    index: VersionIndex,
    terms: TariffVersion,
    /// Those of its blocks that add something.
    blocks: Vec<Span>,
}

/// Rates of one plan, or of several one after another, in one time zone.
#[derive(Debug)]
pub(crate) struct Rates {
    calendar: LocalCalendar,
    /// Which plan holds when, in the order of time.
    plans: Vec<PlanFrom>,
    versions: Vec<Version>,
    holidays: Vec<Holidays>,
    cells: Vec<Cell>,
    /// Number of the first interval of the table.
    first: u32,
    slots: Vec<Slot>,
    /// The last answer, by the start of its interval: meters mostly ask for the same one.
    last: Option<(UnixSeconds, Cell)>,
}

/// Intervals by which the table grows.
const STRETCH: u32 = 96;
/// Beyond this the table starts afresh: 400 days.
const SLOTS_MAX: u32 = 400 * 96;

impl Rates {
    pub(crate) fn new(calendar: LocalCalendar, plans: Vec<PlanFrom>) -> Self {
        Self {
            calendar,
            plans,
            versions: Vec::new(),
            holidays: Vec::new(),
            cells: Vec::new(),
            first: 0,
            slots: Vec::new(),
            last: None,
        }
    }

    pub(crate) const fn calendar(&self) -> &LocalCalendar {
        &self.calendar
    }

    /// Takes a version in, where it is of one of the plans. One for a day that has one already
    /// replaces it, unless it is in force.
    pub(crate) fn add_version(&mut self, index: VersionIndex, version: &TariffVersion) {
        if self.plans.iter().any(|held| held.plan == version.plan.0) {
            let (terms, blocks) = (version.clone(), spans(&version.blocks));
            self.versions.push(Version { index, terms, blocks });
            self.forget();
        }
    }

    fn version(&self, index: VersionIndex) -> Option<&Version> {
        self.versions.iter().find(|version| version.index == index)
    }

    /// Takes a calendar of holidays in, whole.
    pub(crate) fn set_holidays(&mut self, holidays: Holidays) {
        self.holidays.retain(|known| known.calendar != holidays.calendar);
        self.holidays.push(holidays);
        self.forget();
    }

    fn forget(&mut self) {
        self.slots.clear();
        self.last = None;
    }

    /// What decides the price of the interval that begins at `start`.
    #[inline]
    pub(crate) fn cell(&mut self, start: UnixSeconds) -> Cell {
        if let Some((_, cell)) = self.last.filter(|(last, _)| *last == start) {
            return cell;
        }
        let slot = self.slot(start.0 / INTERVAL_S);
        let cell = self.cells[usize::from(slot.cell)];
        self.last = Some((start, cell));
        cell
    }

    /// The same, and the end of the run of intervals from `at` on that share it.
    pub(crate) fn run(&mut self, at: UnixSeconds) -> (Cell, UnixSeconds) {
        let index = at.0 / INTERVAL_S;
        let slot = self.slot(index);
        let end = (index + u32::from(slot.run)).saturating_mul(INTERVAL_S);
        (self.cells[usize::from(slot.cell)], UnixSeconds(end))
    }

    /// Σ of the block adders of `version` over what lies between the first `from` and the first
    /// `to` Wh of a period, in ticks; negative when `to` is the less.
    #[inline]
    pub(crate) fn block_ticks(&self, version: VersionIndex, from: i64, to: i64) -> i64 {
        if to < from {
            return self.block_ticks(version, to, from).saturating_neg();
        }
        let Some(version) = self.version(version) else { return 0 };
        let mut ticks = 0_i64;
        for block in &version.blocks {
            let wh = to.min(block.to) - from.max(block.from);
            if wh > 0 {
                ticks = ticks.saturating_add(block.adder_e4.saturating_mul(wh));
            }
        }
        ticks
    }

    /// Where a sum stands among the blocks of `version`.
    pub(crate) fn stretch(&self, version: VersionIndex, wh: i64) -> Stretch {
        let blocks = self.version(version).map_or(&[][..], |version| &version.blocks[..]);
        let within = blocks.iter().find(|block| block.from <= wh && wh < block.to);
        let next = blocks.iter().map(|block| block.from).filter(|from| *from > wh).min();
        let end = within.map(|block| block.to).or(next).unwrap_or(i64::MAX);
        let left = u32::try_from(end.saturating_sub(wh)).unwrap_or(u32::MAX);
        let adder_e4 = i32::try_from(within.map_or(0, |block| block.adder_e4));
        // A plan has no adder that does not fit: no energy would go the short way.
        adder_e4.map(|adder_e4| Stretch { adder_e4, left }).unwrap_or_default()
    }

    /// Orders the versions of a block period by the day from which on they may hold; of two for one
    /// day the newer in the log counts. An account comes back to a plan in a later period only.
    pub(crate) fn version_order(
        &self,
        index: VersionIndex,
        period: u32,
    ) -> (Option<LocalDate>, VersionIndex) {
        let from = self.version(index).map(|version| {
            let first = self.calendar.local(UnixSeconds(period - period % 2)).date;
            let begins_by_then = |held: &&PlanFrom| {
                let date = self.calendar.local(held.from).date;
                let of_period =
                    if period % 2 == 1 { date.first_of_year() } else { date.first_of_month() };
                held.plan == version.terms.plan.0 && of_period <= first
            };
            let held = self.plans.iter().rfind(begins_by_then);
            let held = held.map(|held| self.calendar.local(held.from).date);
            held.map_or(version.terms.valid_from, |held| held.max(version.terms.valid_from))
        });
        (from, index)
    }

    /// The version in force on a local day.
    pub(crate) fn version_on(&self, date: LocalDate) -> Option<&TariffVersion> {
        self.holding(date).map(|version| &version.terms)
    }

    fn holding(&self, date: LocalDate) -> Option<&Version> {
        let has_begun = |held: &&PlanFrom| self.calendar.local(held.from).date <= date;
        let plan = self.plans.iter().rfind(has_begun)?.plan;
        let of_plan = self.versions.iter().filter(|version| version.terms.plan.0 == plan);
        let begun = of_plan.filter(|version| version.terms.valid_from <= date);
        begun.max_by_key(|version| (version.terms.valid_from, version.index))
    }

    #[inline]
    fn slot(&mut self, index: u32) -> Slot {
        let known = index.checked_sub(self.first).and_then(|i| self.slots.get(i as usize));
        match known {
            Some(slot) => *slot,
            None => self.grow(index),
        }
    }

    /// Builds the table up to `index`, a whole stretch at a time.
    #[cold]
    fn grow(&mut self, index: u32) -> Slot {
        let (from, to) = (index - index % STRETCH, index - index % STRETCH + STRETCH);
        let end = self.first + self.slots.len() as u32;
        let span = end.max(to) - self.first.min(from);
        if self.slots.is_empty() || span > SLOTS_MAX {
            self.first = from;
            self.slots = (from..to).map(|i| self.build(i)).collect();
        } else if to <= self.first {
            let mut slots: Vec<Slot> = (from..self.first).map(|i| self.build(i)).collect();
            slots.append(&mut self.slots);
            self.slots = slots;
            self.first = from;
        } else {
            for i in end..to {
                let slot = self.build(i);
                self.slots.push(slot);
            }
        }
        for i in (1..self.slots.len()).rev() {
            let after = self.slots[i];
            let slot = &mut self.slots[i - 1];
            slot.run = if slot.cell == after.cell { after.run.saturating_add(1) } else { 1 };
        }
        self.slots[(index - self.first) as usize]
    }

    fn build(&mut self, index: u32) -> Slot {
        let cell = self.compute(UnixSeconds(index.saturating_mul(INTERVAL_S)));
        let known = self.cells.iter().rposition(|known| *known == cell);
        let at = known.unwrap_or_else(|| {
            self.cells.push(cell);
            self.cells.len() - 1
        });
        Slot { cell: u16::try_from(at).expect("a plan has few periods, versions, rates"), run: 1 }
    }

    fn compute(&self, at: UnixSeconds) -> Cell {
        let local = self.calendar.local(at);
        let Some(Version { index, terms, .. }) = self.holding(local.date) else {
            return Cell { period: 0, version: UNPRICED, rate: 0, price_e4: 0 };
        };
        let day = self.day_type(terms.calendar, local.date);
        let rate = terms.rate(local.date.month_day(), day, local.quarter);
        let period = match terms.block_period {
            BlockPeriod::Month => self.calendar.day_start(local.date.first_of_month()).0,
            BlockPeriod::Year => self.calendar.day_start(local.date.first_of_year()).0 + 1,
        };
        let price_e4 = terms.price(rate).map_or(0, meter::Price::e4);
        Cell { period, version: *index, rate, price_e4 }
    }

    fn day_type(&self, calendar: Option<CalendarId>, date: LocalDate) -> DayType {
        let named = self.holidays.iter().find(|h| Some(h.calendar) == calendar);
        match named.is_some_and(|holidays| holidays.days.contains(&date)) {
            true => DayType::Holiday,
            false => date.day_type(),
        }
    }
}

/// The blocks of a version that add anything, in Wh.
fn spans(blocks: &[Block]) -> Vec<Span> {
    let ends = blocks.iter().skip(1).map(threshold_wh).chain([i64::MAX]);
    let spans = blocks.iter().zip(ends).map(|(block, to)| Span {
        from: threshold_wh(block),
        to,
        adder_e4: block.adder.e4(),
    });
    spans.filter(|span| span.adder_e4 != 0).collect()
}

fn threshold_wh(block: &Block) -> i64 {
    i64::try_from(block.from_kwh.saturating_mul(1000)).unwrap_or(i64::MAX)
}
