//! A fleet as the registry takes it: rows of the import, codes and keys.

use meter::{Energy, Money, SystemTitle};

use super::{Fleet, Link, Plan};
use crate::device::Identity;
use crate::feeder::{GatewayRow, ImportRow, ZONE, hex, people};
use crate::gateway_title;
use crate::plan::{MeterPlan, World};

/// Consumers' rows of a CSV at most, so that an import is a matter of seconds.
const ROWS_MAX: usize = 20_000;

/// Serial of a consumer's meter.
#[must_use]
pub fn serial(ordinal: u32) -> String {
    format!("SIM-{ordinal:08}")
}

/// Serial of a transformer's total meter.
#[must_use]
pub fn supply_serial(unit: u32) -> String {
    format!("SIM-T{unit:07}")
}

/// Code of a transformer.
#[must_use]
pub fn unit_code(unit: u32) -> String {
    format!("SIM-{unit:07}")
}

/// Code of a consumer's account.
#[must_use]
pub fn account_code(ordinal: u32) -> String {
    format!("SA-{ordinal:08}")
}

/// Code of a plan.
#[must_use]
pub const fn plan_code(plan: Plan) -> &'static str {
    match plan {
        Plan::TimeOfUse => "sim-time-of-use",
        Plan::Flat => "sim-flat",
    }
}

impl Fleet {
    /// The plans that its accounts have.
    #[must_use]
    pub fn plans(&self) -> Vec<Plan> {
        let uses = |plan: &Plan| self.spec().group.iter().any(|group| group.tariff == *plan);
        [Plan::TimeOfUse, Plan::Flat].into_iter().filter(uses).collect()
    }

    /// The gateways to register before the import.
    pub fn gateway_rows(&self) -> impl Iterator<Item = GatewayRow> {
        self.gateways().map(|number| {
            let identity = Identity::of_gateway(self.seed(), number);
            GatewayRow {
                system_title: identity.title().to_string(),
                name: format!("Simulated gateway {number}"),
                template: "meterd-batch".to_owned(),
                encryption_key: hex(identity.keys().encryption),
                authentication_key: hex(identity.keys().authentication),
            }
        })
    }

    /// The meters and accounts as CSV, in files that each stand for themselves.
    ///
    /// # Panics
    /// Never: the rows are plain text.
    pub fn import_files<'f>(&'f self, world: &'f World) -> impl Iterator<Item = Vec<u8>> + 'f {
        let size = usize::try_from(self.spec().meters_per_transformer).expect("a size fits");
        let step = (ROWS_MAX / size).max(1);
        self.units().step_by(step).map(move |first| {
            let step = u32::try_from(step).expect("a step is small");
            let last = first.saturating_add(step).min(self.units().end);
            let mut writer = csv::Writer::from_writer(Vec::new());
            for unit in first..last {
                writer.serialize(self.supply_row(world, unit)).expect("a row is flat");
                for ordinal in self.consumers(unit) {
                    writer.serialize(self.consumer_row(ordinal)).expect("a row is flat");
                    if let Some(row) = self.successor_row(world, ordinal) {
                        writer.serialize(row).expect("a row is flat");
                    }
                }
            }
            writer.into_inner().expect("memory takes everything")
        })
    }

    fn supply_row(&self, world: &World, unit: u32) -> ImportRow {
        let meter = self.supply(world, unit);
        let most = self.spec().group.iter().map(|group| group.load_most).max().unwrap_or(1000);
        let supply_a = (current_max_a(most) * self.spec().meters_per_transformer).min(100_000);
        ImportRow {
            serial: supply_serial(unit),
            role: "supply".to_owned(),
            transformer: unit_code(unit),
            model: "MTD-3".to_owned(),
            current_max_a: supply_a.to_string(),
            ..self.device_row(&Identity::of_meter(self.seed(), meter.plan().ordinal), meter.plan())
        }
    }

    fn consumer_row(&self, ordinal: u32) -> ImportRow {
        let (group, plan) = (self.group(ordinal), self.plan(ordinal));
        let gateway = match group.link {
            Link::Direct => String::new(),
            Link::Gateway => title(gateway_title(self.gateway_of(ordinal))),
        };
        ImportRow {
            serial: serial(ordinal),
            role: "consumer".to_owned(),
            transformer: unit_code(self.unit_of(ordinal)),
            model: group.model.clone(),
            gateway,
            current_max_a: current_max_a(group.load_most).to_string(),
            account: account_code(ordinal),
            customer: format!("SC-{ordinal:08}"),
            customer_name: people::name(ordinal),
            plan: plan_code(group.tariff).to_owned(),
            zone: ZONE.to_owned(),
            mode: "prepaid".to_owned(),
            overdraft: "10.00".to_owned(),
            low_level_1: "20.00".to_owned(),
            low_level_2: "5.00".to_owned(),
            opening_balance: Money::to_decimal(group.opening()),
            ..self.device_row(&Identity::of_meter(self.seed(), ordinal), &plan)
        }
    }

    /// A meter that is not installed yet.
    fn successor_row(&self, world: &World, ordinal: u32) -> Option<ImportRow> {
        let meter = self.successor(world, ordinal)?;
        let group = self.group(ordinal);
        let number = meter.plan().ordinal;
        Some(ImportRow {
            serial: serial(number),
            role: "consumer".to_owned(),
            transformer: unit_code(self.unit_of(ordinal)),
            model: group.model.clone(),
            current_max_a: current_max_a(group.load_most).to_string(),
            installed_at: String::new(),
            start_kwh: String::new(),
            ..self.device_row(&Identity::of_meter(self.seed(), number), meter.plan())
        })
    }

    fn device_row(&self, identity: &Identity, plan: &MeterPlan) -> ImportRow {
        ImportRow {
            system_title: title(identity.title()),
            template: "meterd-single".to_owned(),
            encryption_key: hex(identity.keys().encryption),
            authentication_key: hex(identity.keys().authentication),
            voltage_nominal_v: "230".to_owned(),
            phases: plan.phases.to_string(),
            register_digits: plan.register_digits.to_string(),
            period_s: plan.period_s.to_string(),
            installed_at: plan.first.to_string(),
            start_kwh: kwh(plan.start),
            ..ImportRow::default()
        }
    }
}

fn title(title: SystemTitle) -> String {
    title.to_string()
}

fn kwh(register: Energy) -> String {
    format!("{}.{:03}", register.wh() / 1000, register.wh() % 1000)
}

/// Rated for the feeder's largest consumer, 24.4 kW, times the greatest load: else the register
/// doctor takes honest readings for spikes.
fn current_max_a(load_most: u16) -> u32 {
    (u32::from(load_most) * 120 / 1000).max(60)
}
