//! Regular readings: nearly all of them. Each is the newest of its meter, read at a quarter hour,
//! one quarter hour after the one before. What follows from one is a verdict, an interval, a
//! movement and a standing; together they are one narrow row, which leaves out what the reading
//! itself says. [`Rows`] joins the two again.

use serde::{Deserialize, Serialize};

use crate::{
    AccountId, BalanceRow, Cause, Current, Effects, Energy, Entry, Fields, INTERVAL_S,
    IntervalQuality, IntervalRow, LedgerKind, LedgerRow, Money, Outcome, Power, PowerFactor,
    Reading, Seq, Spread, TransformerId, UnixSeconds, Verdict, Voltage,
};

/// What follows from a regular reading. It is accepted, and its interval is actual.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Regular {
    /// The entry that carried the reading.
    pub seq: Seq,
    /// Energy of the interval that it ended.
    pub energy: Energy,
    /// Energy × the rate's price, without block adders; 0 without account.
    pub cost: Money,
    /// What the account was charged, as its movement has it; with 0 there is no movement.
    pub amount: Money,
    /// The balance after it; 0 without account.
    pub balance: Money,
    /// The account the meter serves, or none.
    pub account: AccountId,
    /// The transformer it hangs on, or none.
    pub transformer: TransformerId,
    /// The number of the account's last movement.
    pub number: u32,
    /// Up to here nothing is missing.
    pub complete_through: UnixSeconds,
    /// The rate, 1 to 4; 0 without account.
    pub rate: u8,
}

// The hot path writes one for each reading: keep it within a cache line.
const _: () = assert!(size_of::<Regular>() == 64);

impl Regular {
    /// The verdict on the reading.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        Verdict { seq: self.seq, outcome: Outcome::Accepted }
    }

    /// The interval that `reading` ended.
    #[must_use]
    pub fn interval(&self, reading: &Reading) -> IntervalRow {
        let fields = reading.fields;
        let has = |field| fields.has(field);
        let power = if has(Fields::POWER) { reading.power } else { Power::default() };
        let factor =
            if has(Fields::POWER_FACTOR) { reading.power_factor } else { PowerFactor::default() };
        IntervalRow {
            meter: reading.meter,
            start: reading.taken_at.minus(INTERVAL_S),
            account: self.account,
            transformer: self.transformer,
            energy: self.energy,
            register: reading.register,
            cost: self.cost,
            rate: self.rate,
            quality: IntervalQuality::Actual,
            samples: 1,
            voltage: phases(fields, Fields::VOLTAGE, reading.voltage.map(Voltage::mv))
                .map(Voltage::from_mv),
            current: phases(fields, Fields::CURRENT, reading.current.map(Current::ma))
                .map(Current::from_ma),
            power: Spread { average: power, min: power, max: power },
            power_factor: Spread { average: factor, min: factor, max: factor },
            rev: self.seq,
        }
    }

    /// The movement of the account, where it was charged anything.
    #[must_use]
    pub fn movement(&self, reading: &Reading) -> Option<LedgerRow> {
        let Reading { meter, taken_at: to, .. } = *reading;
        (self.amount != Money::ZERO).then(|| LedgerRow {
            account: self.account,
            number: self.number.into(),
            kind: LedgerKind::Energy,
            amount: self.amount,
            balance: self.balance,
            at: to,
            cause: Cause::Readings { meter, from: to.minus(INTERVAL_S), to },
            seq: self.seq,
        })
    }

    /// Where the meter and its account stand after it.
    #[must_use]
    pub const fn standing(&self, reading: &Reading) -> BalanceRow {
        BalanceRow {
            account: self.account,
            meter: reading.meter,
            balance: self.balance,
            as_of: reading.taken_at,
            complete_through: self.complete_through,
            seq: self.seq,
        }
    }
}

/// The spread over the phases that were sent.
fn phases(fields: Fields, sent: [Fields; 3], values: [u32; 3]) -> Spread<u32> {
    let sent = sent.into_iter().zip(values).filter(|(field, _)| fields.has(*field));
    let values = sent.map(|(_, value)| value);
    let (Some(min), Some(max)) = (values.clone().min(), values.clone().max()) else {
        return Spread::default();
    };
    let sum = values.clone().fold(0, |sum: u64, value| sum.saturating_add(value.into()));
    let average = sum.checked_div(values.fold(0, |count: u64, _| count.saturating_add(1)));
    let average = average.and_then(|average| u32::try_from(average).ok());
    Spread { average: average.expect("an average lies between its values"), min, max }
}

impl<T> Spread<T> {
    fn map<U>(self, make: impl Fn(T) -> U) -> Spread<U> {
        Spread { average: make(self.average), min: make(self.min), max: make(self.max) }
    }
}

/// All rows of a batch, those of regular readings written out, in the order of the log.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    effects: &'a Effects,
    first: Seq,
    entries: &'a [Entry],
}

impl Effects {
    /// The rows that follow from `entries`, the first of which stands at `first`. The effects are
    /// those of this batch alone.
    #[must_use]
    pub const fn rows<'a>(&'a self, first: Seq, entries: &'a [Entry]) -> Rows<'a> {
        Rows { effects: self, first, entries }
    }
}

impl<'a> Rows<'a> {
    /// The verdict on each reading, with the reading.
    ///
    /// # Panics
    /// As all of these, when the entries are not those the effects follow from.
    pub fn verdicts(self) -> impl Iterator<Item = (Verdict, &'a Reading)> + 'a {
        let regular = self.effects.regular.iter().map(Regular::verdict);
        let all = merge(&self.effects.verdicts, |verdict| verdict.seq, regular);
        all.map(move |verdict| (verdict, self.reading(verdict.seq)))
    }

    /// New or replaced intervals.
    pub fn intervals(self) -> impl Iterator<Item = IntervalRow> + 'a {
        let regular = self.regular().map(|(row, reading)| row.interval(reading));
        merge(&self.effects.intervals, |row| row.rev, regular)
    }

    /// Movements of accounts.
    pub fn ledger(self) -> impl Iterator<Item = LedgerRow> + 'a {
        let regular = self.regular().filter_map(|(row, reading)| row.movement(reading));
        merge(&self.effects.ledger, |row| (row.seq, row.number), regular)
    }

    /// Where meters and accounts stand.
    pub fn balances(self) -> impl Iterator<Item = BalanceRow> + 'a {
        let regular = self.regular().map(|(row, reading)| row.standing(reading));
        merge(&self.effects.balances, |row| row.seq, regular)
    }

    fn regular(self) -> impl Iterator<Item = (&'a Regular, &'a Reading)> + 'a {
        self.effects.regular.iter().map(move |row| (row, self.reading(row.seq)))
    }

    fn reading(self, seq: Seq) -> &'a Reading {
        let index = usize::try_from(seq.0.wrapping_sub(self.first.0)).ok();
        match index.and_then(|index| self.entries.get(index)) {
            Some(Entry::Reading(reading)) => reading,
            other => panic!("a verdict at {seq:?} is on a reading of its batch, not {other:?}"),
        }
    }
}

/// Two runs of rows, each in the order of its keys, as one; of two with the same key the regular
/// reading's comes first.
fn merge<'a, T: Copy, K: Ord + 'a>(
    rows: &'a [T],
    key: fn(&T) -> K,
    regular: impl Iterator<Item = T> + 'a,
) -> impl Iterator<Item = T> + 'a {
    let (mut rows, mut regular) = (rows.iter().copied().peekable(), regular.peekable());
    std::iter::from_fn(move || {
        let is_first = match (rows.peek(), regular.peek()) {
            (Some(row), Some(other)) => key(row) < key(other),
            (row, _) => row.is_some(),
        };
        if is_first { rows.next() } else { regular.next() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MeterId;

    fn reading(wh: u64) -> Reading {
        Reading {
            meter: MeterId(7),
            taken_at: UnixSeconds(1800),
            register: Energy::from_wh(wh),
            voltage: [1, 2, 4].map(Voltage::from_mv),
            power: Power::from_w(-5),
            power_factor: PowerFactor::from_milli(990),
            fields: Fields::VOLTAGE[0].with(Fields::VOLTAGE[2]).with(Fields::POWER),
            ..Reading::default()
        }
    }

    fn regular(seq: u64, ticks: i64) -> Regular {
        Regular {
            seq: Seq(seq),
            energy: Energy::from_wh(3),
            cost: Money::from_ticks(ticks),
            amount: Money::from_ticks(-ticks),
            balance: Money::from_ticks(100 - ticks),
            account: AccountId(9),
            transformer: TransformerId::NONE,
            number: 4,
            complete_through: UnixSeconds(900),
            rate: 2,
        }
    }

    #[test]
    fn a_row_and_its_reading_say_it_all() {
        let interval = regular(5, 6).interval(&reading(77));
        assert_eq!((interval.start, interval.register), (UnixSeconds(900), Energy::from_wh(77)));
        let volts = Voltage::from_mv;
        assert_eq!(interval.voltage, Spread { average: volts(2), min: volts(1), max: volts(4) });
        assert_eq!(interval.current, Spread::default(), "not sent");
        assert_eq!(interval.power.min, Power::from_w(-5));
        assert_eq!(interval.power_factor, Spread::default(), "not sent");
        let movement = regular(5, 6).movement(&reading(77)).unwrap();
        assert_eq!((movement.number, movement.at), (4, UnixSeconds(1800)));
        assert_eq!(regular(5, 0).movement(&reading(77)), None);
    }

    #[test]
    fn rows_come_in_the_order_of_the_log() {
        let entries = [1, 2, 3, 4].map(|wh| Entry::Reading(reading(wh)));
        let verdict = |seq| Verdict { seq: Seq(seq), outcome: Outcome::Duplicate };
        let effects = Effects {
            regular: vec![regular(11, 1), regular(12, 0)],
            verdicts: vec![verdict(10), verdict(13)],
            ..Effects::default()
        };
        let rows = effects.rows(Seq(10), &entries);
        let seen: Vec<_> = rows.verdicts().map(|(v, r)| (v.seq.0, r.register.wh())).collect();
        assert_eq!(seen, [(10, 1), (11, 2), (12, 3), (13, 4)]);
        let counts = (rows.intervals().count(), rows.ledger().count(), rows.balances().count());
        assert_eq!(counts, (2, 1, 2));
    }
}
