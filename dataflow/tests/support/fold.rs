//! The rules once more, as plain as can be, over a whole set of readings at once: what the books
//! must come to. It shares nothing with the dataflow but the vocabulary.

use std::collections::BTreeMap;

use meter::{
    BlockPeriod, INTERVAL_S, IntervalQuality, LocalCalendar, LocalDate, Reading, TariffVersion,
    UnixSeconds,
};

/// A meter with all its accepted readings.
pub(crate) struct Story<'a> {
    /// Any order, each stamp once.
    pub(crate) readings: &'a [Reading],
    /// Stamp and register of the installation, where given.
    pub(crate) start: Option<(u32, u64)>,
    pub(crate) period_s: u32,
    pub(crate) modulus: u64,
    pub(crate) zone: &'a str,
    pub(crate) versions: &'a [TariffVersion],
}

/// What it comes to.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Sums {
    /// By start: energy, register at the end, quality, samples, rate, Σ power, least, greatest.
    pub(crate) intervals: BTreeMap<u32, Interval>,
    pub(crate) charge_ticks: i64,
    pub(crate) newest: u32,
    pub(crate) complete_through: u32,
    /// Start, end and absent readings.
    pub(crate) gaps: Vec<(u32, u32, u32)>,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Interval {
    pub(crate) energy: u64,
    pub(crate) register: u64,
    pub(crate) quality: IntervalQuality,
    pub(crate) samples: u16,
    pub(crate) rate: u8,
    pub(crate) cost: i64,
    /// Average, least, greatest.
    pub(crate) power: (i32, i32, i32),
}

impl Story<'_> {
    pub(crate) fn fold(&self) -> Sums {
        // Registers without rollover, by stamp.
        let mut raw: BTreeMap<u32, u64> = self.start.into_iter().collect();
        raw.extend(self.readings.iter().map(|r| (r.taken_at.0, r.register.wh())));
        let (mut line, mut turns, mut last) = (BTreeMap::new(), 0, 0);
        for (at, wh) in raw {
            turns += u64::from(wh < last);
            last = wh;
            line.insert(at, wh + turns * self.modulus);
        }
        let Some((&first, _)) = line.first_key_value() else { return Sums::default() };
        let (&newest, _) = line.last_key_value().unwrap();
        let mut sums = Sums { newest, complete_through: newest, ..Sums::default() };
        let stamps: Vec<u32> = line.keys().copied().collect();
        for pair in stamps.windows(2) {
            let steps = (pair[1] - pair[0]) / self.period_s;
            if steps >= 2 {
                sums.gaps.push((pair[0], pair[1], steps - 1));
            }
        }
        if let Some((from, _, _)) = sums.gaps.first() {
            sums.complete_through = *from;
        }
        let calendar = LocalCalendar::new(self.zone).unwrap();
        // Block period, day the version begins, rate: Wh.
        let mut wh: BTreeMap<(LocalDate, LocalDate), [i64; 5]> = BTreeMap::new();
        let mut start = first / INTERVAL_S * INTERVAL_S;
        while start < newest {
            let end = start + INTERVAL_S;
            let register = |at: u32| register(&line, at);
            let energy = register(end.min(newest)) - register(start.max(first));
            let local = calendar.local(UnixSeconds(start));
            let version = self
                .versions
                .iter()
                .filter(|v| v.valid_from <= local.date)
                .max_by_key(|v| v.valid_from);
            let (mut rate, mut price) = (0, 0);
            if let Some(version) = version {
                rate = version.rate(local.date.month_day(), local.date.day_type(), local.quarter);
                price = version.price(rate).unwrap().e4();
                let period = match version.block_period {
                    BlockPeriod::Month => local.date.first_of_month(),
                    BlockPeriod::Year => local.date.first_of_year(),
                };
                let sum = wh.entry((period, version.valid_from)).or_default();
                sum[usize::from(rate)] += energy as i64;
            }
            if end <= newest {
                let (samples, power) = self.samples(start, end);
                let is_actual = line.contains_key(&start) && line.contains_key(&end);
                let quality = match is_actual {
                    true => IntervalQuality::Actual,
                    false => IntervalQuality::Estimated,
                };
                let (register, cost) = (register(end) % self.modulus, price * energy as i64);
                let interval = Interval { energy, register, quality, samples, rate, cost, power };
                sums.intervals.insert(start, interval);
            }
            start = end;
        }
        sums.charge_ticks = self.charge(&wh);
        sums
    }

    /// How many readings are stamped in (start, end], and what they say of power.
    fn samples(&self, start: u32, end: u32) -> (u16, (i32, i32, i32)) {
        let within = self.readings.iter().filter(|r| start < r.taken_at.0 && r.taken_at.0 <= end);
        let power: Vec<i32> = within.map(|r| r.power.w()).collect();
        let count = power.len() as i64;
        let average = power.iter().map(|w| i64::from(*w)).sum::<i64>() / count.max(1);
        let least = power.iter().min().copied().unwrap_or(0);
        let greatest = power.iter().max().copied().unwrap_or(0);
        (count as u16, (average as i32, least, greatest))
    }

    fn charge(&self, wh: &BTreeMap<(LocalDate, LocalDate), [i64; 5]>) -> i64 {
        let mut ticks = 0;
        let mut through: BTreeMap<LocalDate, i64> = BTreeMap::new();
        for ((period, valid_from), wh) in wh {
            let version = self.versions.iter().find(|v| v.valid_from == *valid_from).unwrap();
            for (price, wh) in version.prices.iter().zip(&wh[1..]) {
                ticks += price.e4() * wh;
            }
            let before = through.get(period).copied().unwrap_or(0);
            let after = before + wh.iter().sum::<i64>();
            through.insert(*period, after);
            // One watt-hour at a time would be plainest; by threshold it is the same.
            let adders = |total: i64| -> i64 {
                let thresholds: Vec<i64> =
                    version.blocks.iter().map(|b| b.from_kwh as i64 * 1000).collect();
                let ends = thresholds.iter().skip(1).copied().chain([i64::MAX]);
                let blocks = version.blocks.iter().zip(thresholds.iter().zip(ends));
                blocks.map(|(b, (from, to))| b.adder.e4() * (total.min(to) - from).max(0)).sum()
            };
            ticks += adders(after) - adders(before);
        }
        ticks
    }
}

/// R(t) between the two neighbours of `at`, rounded down.
fn register(line: &BTreeMap<u32, u64>, at: u32) -> u64 {
    let (a, low) = line.range(..=at).next_back().unwrap();
    let (b, high) = line.range(at..).next().unwrap();
    if a == b {
        return *low;
    }
    let part = u128::from(high - low) * u128::from(at - a) / u128::from(b - a);
    low + part as u64
}
