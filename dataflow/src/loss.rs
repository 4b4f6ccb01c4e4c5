//! Line loss: what a transformer supplied against what its meters measured, interval by interval.
//!
//! Only certain energy counts: an interval of a meter is told once, when readings stand at both
//! of its ends, and never changes after that. A row is written when the last meter of an interval
//! is in, and for intervals that still lack meters at the first tick of a new quarter hour. A
//! complete interval is let go after two days: nothing can come to it any more.

use meter::{
    AlarmCode, AlarmPolicy, Effects, Energy, INTERVAL_S, LossRow, MeterId, Policy, Seq, Subject,
    TransformerId, UnixSeconds,
};
use serde::{Deserialize, Serialize};

use crate::alarm::{Panel, Past, Watch};
use crate::snapshot::layout;

/// What the line loss is made of, on its way to the worker that keeps the transformer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Usage {
    pub(crate) seq: Seq,
    /// The transformer; for news of all, the worker.
    pub(crate) key: u32,
    pub(crate) news: News,
}

/// What happened.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum News {
    /// A meter hangs on the transformer from then until then (a later word on the same start
    /// replaces an earlier one).
    Installed { meter: MeterId, from: UnixSeconds, to: UnixSeconds, is_supply: bool },
    /// The energy of some meters' interval is certain.
    Certain { start: UnixSeconds, sums: Sums },
    /// Thresholds changed.
    Thresholds { raise_milli: u32, clear_milli: u32, horizon_s: u32 },
    /// The clock reached this instant.
    Tick(UnixSeconds),
    /// A batch is over; it keeps the epochs of all workers in step.
    End,
}

/// Certain energy of one interval of a transformer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Sums {
    /// Of its supply meters, Wh.
    supply: u64,
    /// Of its other meters, Wh.
    delivered: u64,
    /// How many meters.
    meters: u32,
}

layout!(Sums { supply, delivered, meters });

impl Sums {
    pub(crate) const NONE: Self = Self { supply: 0, delivered: 0, meters: 0 };

    #[inline]
    pub(crate) fn add(&mut self, wh: u64, is_supply: bool) {
        let side = if is_supply { &mut self.supply } else { &mut self.delivered };
        *side = side.saturating_add(wh);
        self.meters += 1;
    }

    fn join(&mut self, more: &Self) {
        self.supply = self.supply.saturating_add(more.supply);
        self.delivered = self.delivered.saturating_add(more.delivered);
        self.meters += more.meters;
    }
}

impl Usage {
    /// The worker that is to hear it.
    pub(crate) fn worker(&self, workers: u32) -> u32 {
        self.key % workers
    }
}

/// One interval of a transformer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Balance {
    start: UnixSeconds,
    /// Meters installed over the whole interval.
    expected: u32,
    /// 1 when a supply meter is among them.
    has_supply: u8,
    /// 1 when there is something no row has told.
    is_untold: u8,
    /// Of the meters whose interval is certain.
    sums: Sums,
}

layout!(Balance { start, expected, has_supply, is_untold, sums });

/// A meter on a transformer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Hung {
    meter: MeterId,
    from: UnixSeconds,
    to: UnixSeconds,
    is_supply: u8,
}

layout!(Hung { meter, from, to, is_supply });

/// Intervals that are complete and let go, both ends in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Done {
    from: UnixSeconds,
    to: UnixSeconds,
}

layout!(Done { from, to });

/// How long a complete interval is kept.
const COMPLETE_S: u32 = 2 * 86_400;

/// A transformer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unit {
    id: TransformerId,
    alarms: u32,
    /// The newest complete interval: older ones change no alarm.
    judged: UnixSeconds,
    hung: Vec<Hung>,
    /// Ascending by start.
    balances: Vec<Balance>,
    /// Ascending.
    done: Vec<Done>,
    /// What an interval expects in which nothing is hung or taken down.
    settled: Settled,
}

layout!(Unit { id, alarms, judged, hung, balances, done } and follows { settled });

/// A stretch of time over which the same meters hang on a transformer: all it ever had.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Settled {
    from: UnixSeconds,
    to: UnixSeconds,
    expected: u32,
    has_supply: u8,
}

/// The transformers of one worker.
#[derive(Debug)]
pub(crate) struct Loss {
    /// By transformer: where it stands in `units`.
    by_transformer: Vec<u32>,
    units: Vec<Unit>,
    policy: AlarmPolicy,
    horizon_s: u32,
    quarter: UnixSeconds,
}

impl Loss {
    pub(crate) fn new(policy: &Policy) -> Self {
        Self {
            by_transformer: Vec::new(),
            units: Vec::new(),
            policy: policy.alarms,
            horizon_s: policy.horizon_s,
            quarter: UnixSeconds(0),
        }
    }

    /// Takes in the news of one batch, whatever order they came in.
    pub(crate) fn accept(&mut self, news: &mut [Usage], effects: &mut Effects) {
        news.sort_unstable();
        for usage in news.iter() {
            self.hear(usage, effects);
        }
    }

    fn hear(&mut self, usage: &Usage, effects: &mut Effects) {
        match usage.news {
            News::Installed { meter, from, to, is_supply } => {
                self.unit(usage.key).hang(Hung { meter, from, to, is_supply: is_supply.into() });
            }
            News::Certain { start, sums } => {
                let policy = self.policy;
                self.unit(usage.key).add(start, &sums, usage.seq, &policy, effects);
            }
            News::Thresholds { raise_milli, clear_milli, horizon_s } => {
                self.policy.loss_raise = raise_milli;
                self.policy.loss_clear = clear_milli;
                self.horizon_s = horizon_s;
            }
            News::Tick(now) => self.tick(now, usage.seq, effects),
            News::End => {}
        }
    }

    fn unit(&mut self, key: u32) -> &mut Unit {
        let index = key as usize;
        if self.by_transformer.len() <= index {
            self.by_transformer.resize(index + 1, u32::MAX);
        }
        let slot = &mut self.by_transformer[index];
        if *slot == u32::MAX {
            *slot = self.units.len() as u32;
            self.units.push(Unit { id: TransformerId(key), ..Unit::default() });
        }
        &mut self.units[*slot as usize]
    }

    fn tick(&mut self, now: UnixSeconds, seq: Seq, effects: &mut Effects) {
        let quarter = now.interval_start();
        if quarter <= self.quarter {
            return;
        }
        self.quarter = quarter;
        // Nothing older than this can still come in, and a day to spare.
        let oldest = now.minus(self.horizon_s).minus(86_400);
        for unit in &mut self.units {
            for index in 0..unit.balances.len() {
                if unit.balances[index].is_untold == 1 {
                    unit.tell(index, seq, effects);
                }
            }
            unit.let_go(oldest, now.minus(COMPLETE_S));
        }
    }

    /// The state by transformer.
    pub(crate) fn units(&self) -> impl Iterator<Item = (u32, &Unit)> {
        self.units.iter().map(|unit| (unit.id.0, unit))
    }

    pub(crate) fn restore(&mut self, mut unit: Unit) {
        let key = unit.id.0;
        unit.settled = Settled::of(&unit.hung);
        *self.unit(key) = unit;
    }

    pub(crate) fn set_quarter(&mut self, quarter: UnixSeconds) {
        self.quarter = quarter;
    }
}

impl Unit {
    fn add(
        &mut self,
        start: UnixSeconds,
        sums: &Sums,
        seq: Seq,
        policy: &AlarmPolicy,
        effects: &mut Effects,
    ) {
        let at = match self.balances.last() {
            Some(last) if last.start == start => self.balances.len() - 1,
            Some(last) if last.start < start => self.balances.len(),
            _ => self.balances.partition_point(|balance| balance.start < start),
        };
        if self.balances.get(at).is_none_or(|balance| balance.start != start) {
            if self.done.iter().any(|done| done.from <= start && start <= done.to) {
                return;
            }
            let (expected, has_supply) = self.expected(start);
            let fresh = Balance { start, expected, has_supply, ..Balance::default() };
            self.balances.insert(at, fresh);
        }
        let balance = &mut self.balances[at];
        balance.sums.join(sums);
        balance.is_untold = 1;
        if balance.sums.meters >= balance.expected {
            self.tell(at, seq, effects);
            self.judge(at, seq, policy, effects);
        }
    }

    /// A meter hangs on it from then until then.
    fn hang(&mut self, hung: Hung) {
        self.hung.retain(|known| (known.meter, known.from) != (hung.meter, hung.from));
        if hung.from < hung.to {
            self.hung.push(hung);
            self.hung.sort_by_key(|hung| (hung.meter, hung.from));
        }
        self.settled = Settled::of(&self.hung);
        for balance in &mut self.balances {
            let before = (balance.expected, balance.has_supply);
            (balance.expected, balance.has_supply) = expected(&self.hung, balance.start);
            if before != (balance.expected, balance.has_supply) {
                balance.is_untold = 1;
            }
        }
    }

    fn expected(&self, start: UnixSeconds) -> (u32, u8) {
        let Settled { from, to, expected, has_supply } = self.settled;
        let is_settled = from <= start && start.plus(INTERVAL_S) <= to;
        if is_settled { (expected, has_supply) } else { self::expected(&self.hung, start) }
    }

    /// Forgets what is older than `oldest`, and complete intervals from before `complete`.
    fn let_go(&mut self, oldest: UnixSeconds, complete: UnixSeconds) {
        let done = &mut self.done;
        self.balances.retain(|balance| {
            let is_done = balance.sums.meters >= balance.expected && balance.start < complete;
            if is_done && balance.start >= oldest {
                note_done(done, balance.start);
            }
            !is_done && balance.start >= oldest
        });
        self.done.retain(|done| done.to >= oldest);
    }

    fn tell(&mut self, index: usize, seq: Seq, effects: &mut Effects) {
        let balance = &mut self.balances[index];
        balance.is_untold = 0;
        effects.losses.push(LossRow {
            transformer: self.id,
            start: balance.start,
            supply: Energy::from_wh(balance.sums.supply),
            delivered: Energy::from_wh(balance.sums.delivered),
            expected: balance.expected,
            actual: balance.sums.meters,
            rev: seq,
        });
    }

    /// The alarms of a complete interval, no older than the newest one judged.
    fn judge(&mut self, index: usize, seq: Seq, policy: &AlarmPolicy, effects: &mut Effects) {
        let Balance { start, sums: Sums { supply, delivered, meters, .. }, has_supply, .. } =
            self.balances[index];
        if start < self.judged || has_supply == 0 {
            return;
        }
        self.judged = start;
        let at = start.plus(INTERVAL_S);
        let lost = i128::from(supply) - i128::from(delivered);
        let milli = match supply {
            0 if lost < 0 => -1000,
            0 => 0,
            _ => i64::try_from(lost * 1000 / i128::from(supply)).unwrap_or(i64::MIN),
        };
        let (subject, rows) = (Subject::Transformer(self.id), &mut effects.alarms);
        let mut panel = Panel { subject, on: &mut self.alarms, seq, rows };
        panel.watch(
            AlarmCode::LineLoss,
            at,
            Watch {
                value: milli,
                raise: i64::from(policy.loss_raise),
                clear: i64::from(policy.loss_clear),
                past: Past::Above,
            },
        );
        // Each register shows whole Wh: a difference of two is off by less than one a meter.
        if lost < -i128::from(meters) {
            panel.raise(AlarmCode::NegativeLoss, at, milli);
        } else {
            panel.clear(AlarmCode::NegativeLoss, at, milli);
        }
    }
}

impl Settled {
    fn of(hung: &[Hung]) -> Self {
        let from = hung.iter().map(|hung| hung.from).max().unwrap_or_default();
        let to = hung.iter().map(|hung| hung.to).min().unwrap_or_default();
        let (expected, has_supply) = expected(hung, from);
        Self { from, to, expected, has_supply }
    }
}

/// How many of these are there over the whole interval, and whether a supply meter is.
fn expected(hung: &[Hung], start: UnixSeconds) -> (u32, u8) {
    let end = start.plus(INTERVAL_S);
    let there = hung.iter().filter(|hung| hung.from <= start && end <= hung.to);
    there.fold((0, 0), |(count, supply), hung| (count + 1, supply | hung.is_supply))
}

/// Adds an interval to the ranges of those let go.
fn note_done(done: &mut Vec<Done>, start: UnixSeconds) {
    let at = done.partition_point(|range| range.to < start);
    let follows = at.checked_sub(1).filter(|before| done[*before].to.plus(INTERVAL_S) == start);
    let leads = done.get(at).is_some_and(|range| start.plus(INTERVAL_S) == range.from);
    match (follows, leads) {
        (Some(before), true) => {
            done[before].to = done[at].to;
            done.remove(at);
        }
        (Some(before), false) => done[before].to = start,
        (None, true) => done[at].from = start,
        (None, false) => done.insert(at, Done { from: start, to: start }),
    }
}
