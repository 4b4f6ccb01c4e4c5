//! One account: its readings, its money, and where its balance must stand.

use std::collections::BTreeMap;

use meter::{Energy, Money, UnixSeconds};

use super::{Charge, Tariff, pieces};

/// Money that came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credit {
    /// When.
    pub at: UnixSeconds,
    /// What was paid.
    pub paid: Money,
    /// Whether fee and tax of the plan are taken from it.
    pub taxed: bool,
}

/// All that decides one account's balance.
#[derive(Clone, Debug)]
pub struct AccountTruth {
    /// From when standing charges fall due.
    pub active_from: UnixSeconds,
    /// Stamp and register of every reading, the installation's start among them.
    pub readings: BTreeMap<UnixSeconds, Energy>,
    /// Money that came in.
    pub credits: Vec<Credit>,
}

/// The balance after one thing that moved it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// When.
    pub at: UnixSeconds,
    /// The balance from then on.
    pub balance: Money,
}

impl AccountTruth {
    /// The charge for all energy metered up to `through`.
    #[must_use]
    pub fn charge(&self, tariff: &Tariff, through: UnixSeconds) -> Charge {
        let mut charge = Charge::default();
        self.each_pair(through, |_, interval, energy| charge.add(tariff, interval, energy));
        charge
    }

    /// The balance: credits − energy − standing charges, all up to `through`.
    ///
    /// # Panics
    /// When an amount leaves 63 bits of ticks.
    #[must_use]
    pub fn balance(&self, tariff: &Tariff, through: UnixSeconds) -> Money {
        let energy = self.charge(tariff, through).total(tariff).ticks();
        let due = tariff.standing(self.active_from, through);
        let standing: i64 = due.values().map(|money| money.ticks()).sum();
        let credits: i64 = self
            .credits
            .iter()
            .filter(|credit| credit.at <= through)
            .map(|credit| credit.net(tariff).ticks())
            .sum();
        Money::from_ticks(credits - energy - standing)
    }

    /// The balance after every reading, standing charge and credit up to `through`, in the order
    /// of time; at one instant money comes in first, then charges.
    #[must_use]
    pub fn steps(&self, tariff: &Tariff, through: UnixSeconds) -> Vec<Step> {
        let mut moves: BTreeMap<UnixSeconds, i64> = BTreeMap::new();
        for credit in &self.credits {
            *moves.entry(credit.at).or_default() += credit.net(tariff).ticks();
        }
        for (at, due) in tariff.standing(self.active_from, through) {
            *moves.entry(at).or_default() -= due.ticks();
        }
        let (mut charge, mut charged) = (Charge::default(), 0);
        let mut readings: BTreeMap<UnixSeconds, Vec<_>> = BTreeMap::new();
        self.each_pair(through, |to, interval, energy| {
            readings.entry(to).or_default().push((interval, energy));
        });
        for (at, added) in readings {
            added.iter().for_each(|&(interval, energy)| charge.add(tariff, interval, energy));
            let total = charge.total(tariff).ticks();
            *moves.entry(at).or_default() -= total - charged;
            charged = total;
        }
        let mut balance = 0;
        let step = |(at, amount): (UnixSeconds, i64)| {
            balance += amount;
            Step { at, balance: Money::from_ticks(balance) }
        };
        moves.into_iter().filter(|(at, _)| *at <= through).map(step).collect()
    }

    /// Gives each piece of energy between neighbouring readings up to `through`, with the stamp of
    /// the reading that ends it and the interval it lies in.
    fn each_pair(
        &self,
        through: UnixSeconds,
        mut give: impl FnMut(UnixSeconds, UnixSeconds, Energy),
    ) {
        let mut before = None;
        for (&at, &register) in self.readings.range(..=through) {
            if let Some(before) = before {
                for piece in pieces(before, (at, register)) {
                    give(at, piece.interval, piece.energy);
                }
            }
            before = Some((at, register));
        }
    }
}

impl Credit {
    /// What reaches the balance.
    #[must_use]
    pub fn net(&self, tariff: &Tariff) -> Money {
        if self.taxed { tariff.credit(self.paid, self.at) } else { self.paid }
    }
}
