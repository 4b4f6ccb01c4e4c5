//! What every worker knows alike: limits, tariff plans, holidays, and the rates made of them.

use std::collections::BTreeMap;

use meter::{
    Change, Entry, FriendlyCalendar, Holidays, LocalCalendar, OutboxId, Policy, Stored,
    SupplyPolicy, TariffVersion, UnixSeconds,
};

use crate::account::RatesIndex;
use crate::rates::{PlanFrom, Rates, UNPRICED, VersionIndex};

/// The index of the rates of meters without an account: no price, days of UTC.
pub(crate) const NO_RATES: RatesIndex = 0;

/// Limits, plans and calendars.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) policy: Policy,
    pub(crate) supply: SupplyPolicy,
    friendlies: BTreeMap<u32, FriendlyCalendar>,
    /// The newest tick.
    pub(crate) now: UnixSeconds,
    /// Of all plans, in the order of the log.
    versions: Vec<TariffVersion>,
    holidays: BTreeMap<u32, Holidays>,
    /// Names of time zones in use.
    zones: Vec<String>,
    /// Plans and zone of the rates after the first, as this worker's accounts need them.
    keys: Vec<(Vec<PlanFrom>, u32)>,
    pub(crate) rates: Vec<Rates>,
}

impl Reference {
    pub(crate) fn new() -> Self {
        Self {
            policy: Policy::standard(),
            supply: SupplyPolicy::standard(),
            friendlies: BTreeMap::new(),
            now: UnixSeconds(0),
            versions: Vec::new(),
            holidays: BTreeMap::new(),
            zones: Vec::new(),
            keys: Vec::new(),
            rates: vec![Rates::new(utc(), Vec::new())],
        }
    }

    pub(crate) fn add_version(&mut self, version: &TariffVersion) {
        let index = named(self.versions.len());
        for rates in &mut self.rates {
            rates.add_version(index, version);
        }
        self.versions.push(version.clone());
    }

    pub(crate) fn set_holidays(&mut self, holidays: &Holidays) {
        for rates in &mut self.rates {
            rates.set_holidays(holidays.clone());
        }
        self.holidays.insert(holidays.calendar.0, holidays.clone());
    }

    pub(crate) fn set_friendly(&mut self, calendar: &FriendlyCalendar) {
        self.friendlies.insert(calendar.friendly.0, calendar.clone());
    }

    /// Whether it is a friendly period now for an account with these rates.
    pub(crate) fn is_friendly(&self, rates: RatesIndex, friendly: u32) -> bool {
        let Some(calendar) = self.friendlies.get(&friendly) else { return false };
        let Some(rates) = self.rates.get(usize::from(rates)) else { return false };
        let local = rates.calendar().local(self.now);
        let holidays = calendar.holidays.and_then(|id| self.holidays.get(&id.0));
        holidays.is_some_and(|holidays| holidays.days.contains(&local.date))
            || calendar.is_friendly(local.date, local.quarter)
    }

    /// The number of a zone's name.
    pub(crate) fn zone(&mut self, name: &str) -> u32 {
        let known = self.zones.iter().position(|zone| zone == name);
        let index = known.unwrap_or_else(|| {
            self.zones.push(name.to_owned());
            self.zones.len() - 1
        });
        index as u32
    }

    /// The rates of plans in a zone.
    pub(crate) fn rates_of(&mut self, plans: &[PlanFrom], zone: u32) -> RatesIndex {
        if let Some(index) = self.keys.iter().position(|key| key.0 == plans && key.1 == zone) {
            return place(index);
        }
        let mut rates = Rates::new(self.calendar(zone), plans.to_vec());
        for (index, version) in self.versions.iter().enumerate() {
            rates.add_version(named(index), version);
        }
        for holidays in self.holidays.values() {
            rates.set_holidays(holidays.clone());
        }
        self.keys.push((plans.to_vec(), zone));
        self.rates.push(rates);
        place(self.keys.len() - 1)
    }

    /// The plans that rates are made of, in the order of time.
    pub(crate) fn plans(&self, rates: RatesIndex) -> &[PlanFrom] {
        let key = usize::from(rates).checked_sub(1).and_then(|index| self.keys.get(index));
        key.map_or(&[], |key| &key.0)
    }

    fn calendar(&self, zone: u32) -> LocalCalendar {
        // The registry lets no other name pass; the books then go on in UTC rather than stop.
        let name = self.zones.get(zone as usize).map_or("UTC", String::as_str);
        LocalCalendar::new(name).unwrap_or_else(|_| utc())
    }

    /// Appends what a snapshot needs; the rates follow from it.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let mut changes = vec![Change::Policy(self.policy)];
        if self.supply != SupplyPolicy::standard() {
            changes.push(Change::SupplyPolicy(self.supply));
        }
        changes.extend(self.friendlies.values().cloned().map(Change::Friendly));
        changes.extend(self.holidays.values().cloned().map(Change::Holidays));
        changes.extend(self.versions.iter().cloned().map(Change::Tariff));
        let changes = changes.into_boxed_slice();
        Entry::Changes { outbox: OutboxId(0), changes }.encode(out);
        self.now.put(out);
        let names: Vec<u8> = self.zones.join("\n").into_bytes();
        names.put(out);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "no other change is of the reference")]
    pub(crate) fn restore(bytes: &mut &[u8]) -> Option<Self> {
        let mut reference = Self::new();
        let Ok(Entry::Changes { changes, .. }) = Entry::decode(bytes) else { return None };
        for change in &changes {
            match change {
                Change::Policy(policy) => reference.policy = *policy,
                Change::Holidays(holidays) => reference.set_holidays(holidays),
                Change::Tariff(version) => reference.add_version(version),
                Change::SupplyPolicy(policy) => reference.supply = *policy,
                Change::Friendly(calendar) => reference.set_friendly(calendar),
                _ => return None,
            }
        }
        reference.now = UnixSeconds::take(bytes)?;
        let names = String::from_utf8(Vec::take(bytes)?).ok()?;
        reference.zones = names.lines().map(str::to_owned).collect();
        Some(reference)
    }
}

/// Where the rates of the plans and zone at `index` stand: behind those of no account.
fn place(index: usize) -> RatesIndex {
    RatesIndex::try_from(index + 1).expect("a node has fewer than 65,535 pairs of plan and zone")
}

fn named(index: usize) -> VersionIndex {
    let index = VersionIndex::try_from(index).ok().filter(|index| *index != UNPRICED);
    index.expect("a node has fewer than 65,535 versions of plans")
}

fn utc() -> LocalCalendar {
    LocalCalendar::new("UTC").expect("UTC is a zone")
}
