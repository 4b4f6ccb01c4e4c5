//! The week as the log of a node holds it when nothing is lost on the way: for whoever wants the
//! books of the scenario without sockets.

use std::collections::BTreeMap;

use meter::{
    AccountId, AccountTerms, Adjustment, Change, Current, CustomerId, Energy, Entry, GatewayId,
    Installation, MeterId, MeterRecord, Mode, Money, OutboxId, PlanId, Purchase, PurchaseId, Role,
    TariffVersion, TransformerId, UnixSeconds, Voltage,
};

use super::{
    Consumer, DIRECT_LAST, FIRST_GATEWAY_LAST, Feeder, GAP_METER, HOUR_S, LOW_LEVELS, PERIOD_S,
    SUPPLY, ZONE, account_code,
};
use crate::profile::CONSUMERS;
use crate::virtual_meter::VirtualMeter;

/// The plan, the transformer.
const PLAN: PlanId = PlanId(1);
const TRANSFORMER: TransformerId = TransformerId(1);
/// Between ticks.
const TICK_S: u32 = 300;

impl Feeder {
    /// Registration, readings, purchases and ticks in the order of their arrival, until `tick`.
    /// What devices report beside readings is left out. A meter, its account and its customer have the meter's number as id, 112 is the supply
    /// meter.
    #[must_use]
    pub fn entries(&self, tick: UnixSeconds) -> Vec<Entry> {
        let mut timeline: BTreeMap<UnixSeconds, Vec<Entry>> = BTreeMap::new();
        let mut put = |at: UnixSeconds, entry| timeline.entry(at).or_default().push(entry);
        let mut outbox = 0;
        let mut changed = |changes: Vec<Change>| {
            outbox += 1;
            Entry::Changes { outbox: OutboxId(outbox), changes: changes.into_boxed_slice() }
        };
        put(self.start, changed(self.registration()));
        for (number, top_up) in (1..).zip(&self.top_ups) {
            let mut accounts = self.consumers.iter().map(|consumer| consumer.number);
            let account = accounts.find(|number| account_code(*number) == top_up.account);
            let purchase = Purchase {
                purchase: PurchaseId(number),
                account: AccountId(account.expect("customers of the scenario buy")),
                paid: top_up.paid,
                at: top_up.at,
            };
            put(top_up.at, changed(vec![Change::Purchase(purchase)]));
        }
        for at in (self.start.0..=tick.0).step_by(TICK_S as usize).map(UnixSeconds) {
            put(at, Entry::Tick(at));
        }
        for number in (1..=u32::from(CONSUMERS)).chain([SUPPLY]) {
            let meter = self.meter(number);
            for slot in 0..=self.end().since(self.start) / PERIOD_S {
                let (received_at, reading) = self.reading(&meter, number, slot);
                put(received_at, reading);
            }
        }
        timeline.into_values().flatten().collect()
    }

    /// A reading, and when it arrives.
    fn reading(&self, meter: &VirtualMeter, number: u32, slot: u32) -> (UnixSeconds, Entry) {
        let taken_at = self.start.plus(slot * PERIOD_S);
        let hour = |hour: u32| self.start.plus(hour * HOUR_S);
        let is_held = number == GAP_METER && taken_at > hour(54) && taken_at < hour(58);
        let sent_at = if is_held { hour(84) } else { taken_at };
        let delay_s = u32::from(self.meter_plan(number).send_delay_s);
        let received_at = sent_at.plus(delay_s + 1);
        let measured = meter.measure(&self.world(), taken_at);
        // A gateway's meters have no counter of their own.
        let counter = if gateway(number) == GatewayId::NONE { slot + 1 } else { 0 };
        (received_at, Entry::Reading(measured.reading(MeterId(number), counter, received_at)))
    }

    fn registration(&self) -> Vec<Change> {
        let versions = self.versions.iter().cloned();
        let plan = |version| Change::Tariff(TariffVersion { plan: PLAN, ..version });
        let mut changes: Vec<Change> = versions.map(plan).collect();
        changes.push(Change::Meter(record(SUPPLY, Role::Supply)));
        changes.push(self.installation(SUPPLY, AccountId::NONE));
        for Consumer { number, opening, overdraft } in &self.consumers {
            let account = AccountId(*number);
            changes.push(Change::Meter(record(*number, Role::Consumer)));
            changes.push(Change::Account(AccountTerms {
                account,
                customer: CustomerId(*number),
                plan: PLAN,
                zone: ZONE.to_owned(),
                mode: Mode::Prepaid,
                overdraft: *overdraft,
                low_levels: LOW_LEVELS,
            }));
            changes.push(self.installation(*number, account));
            if *opening != Money::ZERO {
                let (amount, at) = (*opening, self.start);
                let reason = "opening balance".to_owned();
                changes.push(Change::Adjust(Adjustment { account, amount, at, reason }));
            }
        }
        changes
    }

    fn installation(&self, number: u32, account: AccountId) -> Change {
        let start: Energy = self.start_register(number);
        let meter = MeterId(number);
        Change::Install(Installation { meter, account, at: self.start, start: Some(start) })
    }
}

/// What the import makes of a meter.
fn record(number: u32, role: Role) -> MeterRecord {
    let amperes = if role == Role::Supply { 1000 } else { 60 };
    MeterRecord {
        meter: MeterId(number),
        role,
        transformer: TRANSFORMER,
        gateway: gateway(number),
        current_max: Current::from_ma(amperes * 1000),
        voltage_nominal: Voltage::from_mv(230_000),
        phases: 3,
        register_digits: 6,
        period_s: PERIOD_S,
    }
}

const fn gateway(number: u32) -> GatewayId {
    match number {
        ..=DIRECT_LAST | SUPPLY => GatewayId::NONE,
        ..=FIRST_GATEWAY_LAST => GatewayId(1),
        _ => GatewayId(2),
    }
}
