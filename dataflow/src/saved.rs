//! The books in a snapshot: a record for each meter, account, installation and gateway.

use meter::{Current, GatewayId, MeterId, MeterRecord, Role, Stored, TransformerId, Voltage};

use crate::account::Account;
use crate::books::{Books, NO_SLOT};
use crate::installed::{Meter, NO_ACCOUNT, Whole};
use crate::loss::{Loss, Unit};
use crate::rates::PlanFrom;
use crate::reference::Reference;
use crate::router::owner;
use crate::silence::Gateway;
use crate::snapshot::Record;
use crate::supply::Supply;

const METER: u8 = 1;
const ACCOUNT: u8 = 2;
const INSTALLED: u8 = 3;
const GATEWAY: u8 = 4;
const SUPPLY: u8 = 5;

impl Books {
    /// What all workers know alike.
    pub(crate) fn save_reference(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.outbox.0.put(&mut out);
        self.reference.save(&mut out);
        out
    }

    /// What this worker keeps.
    pub(crate) fn save(&self) -> Vec<Record> {
        let mut records = Vec::new();
        if self.worker == 0 {
            let known = self.records.iter().filter(|record| record.period_s != 0);
            records.extend(known.map(|r| Record::of(METER, r.meter.0.into(), &RecordOf(*r))));
        }
        records.extend(self.accounts.iter().map(|account| {
            // Workers number rates each as they need them: what they are made of is the same.
            let mut bytes = Vec::new();
            self.reference.plans(account.rates).to_vec().put(&mut bytes);
            account.put(&mut bytes);
            Record { kind: ACCOUNT, key: account.rest.id.0.into(), bytes }
        }));
        records.extend(self.meters.iter().enumerate().map(|(slot, meter)| {
            let key = u64::from(meter.rest.id.0) << 32 | u64::from(meter.rest.from.0);
            let mut bytes = Vec::new();
            Whole { meter, ring: self.rings.samples(slot) }.put(&mut bytes);
            Record { kind: INSTALLED, key, bytes }
        }));
        let supply = self.supply.values();
        records.extend(supply.map(|s| Record::of(SUPPLY, s.account.0.into(), s)));
        let gateways = self.gateways.values();
        records.extend(gateways.map(|g| Record::of(GATEWAY, g.id().0.into(), g)));
        // Here, beside the other workers: who joins them merges what is sorted.
        records.sort();
        records
    }

    /// Takes back the part of all records that this worker keeps; they are sorted by kind and key.
    pub(crate) fn restore(
        worker: u32,
        workers: u32,
        mut reference: &[u8],
        records: &[Record],
    ) -> Option<Self> {
        let mut books = Self::new(worker, workers);
        books.outbox.0 = u64::take(&mut reference)?;
        books.reference = Reference::restore(&mut reference)?;
        books.swept = books.reference.now.0 / 60;
        for record in records {
            let mut bytes = &record.bytes[..];
            match record.kind {
                METER => books.note_record(&RecordOf::take(&mut bytes)?.0),
                ACCOUNT => {
                    let plans: Vec<PlanFrom> = Vec::take(&mut bytes)?;
                    books.take_account(&plans, Account::take(&mut bytes)?);
                }
                INSTALLED => books.take_meter(Whole::take(&mut bytes)?)?,
                GATEWAY => {
                    let gateway = Gateway::take(&mut bytes)?;
                    if owner(gateway.id().0, workers) == worker {
                        books.gateways.insert(gateway.id().0, gateway);
                    }
                }
                SUPPLY => {
                    let supply = Supply::take(&mut bytes)?;
                    if owner(supply.account.0, workers) == worker {
                        books.supply.insert(supply.account, supply);
                    }
                }
                _ => return None,
            }
            if !bytes.is_empty() {
                return None;
            }
        }
        Some(books)
    }

    fn take_account(&mut self, plans: &[PlanFrom], mut account: Account) {
        if owner(account.rest.id.0, self.workers) != self.worker {
            return;
        }
        if !plans.is_empty() {
            account.rates = self.reference.rates_of(plans, account.rest.zone);
        }
        self.standing_due = self.standing_due.min(account.rest.standing_due);
        let slot = self.account_slot(account.rest.id);
        self.accounts[slot as usize] = account;
    }

    fn take_meter(&mut self, whole: Whole<Meter>) -> Option<()> {
        let Whole { mut meter, ring } = whole;
        let key = if meter.account.is_some() { meter.account.0 } else { meter.rest.id.0 };
        if owner(key, self.workers) != self.worker {
            return Some(());
        }
        let index = meter.rest.id.0 as usize;
        if self.by_meter.len() <= index {
            self.by_meter.resize(index + 1, NO_SLOT);
        }
        if let Some(before) = self.meters.get(self.by_meter[index] as usize) {
            self.earlier.insert((meter.rest.id, before.rest.from), self.by_meter[index]);
        }
        let slot = self.meters.len() as u32;
        self.by_meter[index] = slot;
        meter.account_slot =
            if meter.account.is_some() { self.account_slot(meter.account) } else { NO_ACCOUNT };
        let record = self.records.get(index)?;
        meter.class = self.classes.of(record, &self.reference.policy.alarms);
        if let Some(cold) = &meter.rest.cold {
            self.parked[meter.lot() as usize] += cold.parking.len() as u16;
        }
        if meter.has(Meter::DIRTY) {
            self.dirty.push(slot);
        }
        self.meters.push(meter);
        self.rings.add(ring);
        Some(())
    }
}

impl Loss {
    pub(crate) fn save(&self) -> Vec<Record> {
        self.units().map(|(key, unit)| Record::of(0, key.into(), unit)).collect()
    }

    pub(crate) fn restore_from(
        worker: u32,
        workers: u32,
        reference: &Reference,
        records: &[Record],
    ) -> Option<Self> {
        let mut loss = Self::new(&reference.policy);
        loss.set_quarter(reference.now.interval_start());
        for record in records {
            let mut bytes = &record.bytes[..];
            let unit = Unit::take(&mut bytes)?;
            if record.key % u64::from(workers) == u64::from(worker) {
                loss.restore(unit);
            }
        }
        Some(loss)
    }
}

impl Record {
    fn of(kind: u8, key: u64, value: &impl Stored) -> Self {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        Self { kind, key, bytes }
    }
}

/// The layout of a meter's record.
struct RecordOf(MeterRecord);

impl Stored for RecordOf {
    fn put(&self, out: &mut Vec<u8>) {
        let record = &self.0;
        record.meter.put(out);
        u8::from(record.role == Role::Supply).put(out);
        record.transformer.put(out);
        record.gateway.put(out);
        record.current_max.put(out);
        record.voltage_nominal.put(out);
        record.phases.put(out);
        record.register_digits.put(out);
        record.period_s.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self(MeterRecord {
            meter: MeterId::take(bytes)?,
            role: if u8::take(bytes)? == 1 { Role::Supply } else { Role::Consumer },
            transformer: TransformerId::take(bytes)?,
            gateway: GatewayId::take(bytes)?,
            current_max: Current::take(bytes)?,
            voltage_nominal: Voltage::take(bytes)?,
            phases: u8::take(bytes)?,
            register_digits: u8::take(bytes)?,
            period_s: u32::take(bytes)?,
        }))
    }
}
