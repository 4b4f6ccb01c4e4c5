//! The feeder's week as a scenario: 111 customers and the transformer's total meter, half of them
//! direct over UDP, half behind gateways over TCP; a four-rate block tariff that changes on the
//! Friday; accounts that run low, overdraw, and are topped up; a gap filled late; two spells of
//! wrong voltage; a cover opened, a relay stuck, mains lost by a meter and by a gateway. What the books must say at its end is known before it begins.

mod entries;
mod expected;
pub(crate) mod people;
mod run;
pub(crate) mod tariff;

use std::collections::BTreeSet;
use std::time::Duration;

use meter::{Energy, EventCode, Money, Role, TariffVersion, UnixSeconds};

use crate::device::{Identity, Retry};
use crate::faults::FaultPlan;
use crate::plan::{Holdback, MeterClock, MeterPlan, VoltageSpell, World};
use crate::profile::{CONSUMERS, Load, TRANSFORMER, WEEK_S};
use crate::seed::Purpose;
use crate::truth::Tariff;
use crate::virtual_gateway::VirtualGateway;
use crate::virtual_meter::VirtualMeter;
use crate::{Seed, gateway_title, meter_title};

pub use expected::{AlarmSubject, Expected, ExpectedAlarm};
pub use run::{Endpoints, FeederRun};

/// Zone of all accounts.
pub const ZONE: &str = "Asia/Shanghai";
/// Code of the tariff plan.
pub const PLAN: &str = "residential-tou";
/// Code of the transformer.
pub const TRANSFORMER_CODE: &str = "TR-630";

/// Consumers up to this number speak UDP themselves; the others sit behind gateways.
const DIRECT_LAST: u32 = 56;
/// Consumers up to this number sit behind the first gateway, which reads all of them.
const FIRST_GATEWAY_LAST: u32 = 84;
/// Meters that the second gateway reads; it passes the frames of the others through.
const SECOND_GATEWAY_BATCHED: usize = 14;
/// Number of the transformer's meter.
const SUPPLY: u32 = 112;
/// The meter with the gap, and those with the wrong voltages.
const GAP_METER: u32 = 17;
const HIGH_VOLTAGE_METER: u32 = 21;
const LOW_VOLTAGE_METER: u32 = 70;
/// The meter that is opened, the one that runs backwards for a moment, the one without mains, the
/// one whose relay sticks; and the gateway without mains.
const TAMPERED_METER: u32 = 33;
const REVERSED_METER: u32 = 64;
const POWERLESS_METER: u32 = 45;
const STUCK_METER: u32 = 100;
const POWERLESS_GATEWAY: u32 = 2;
const PERIOD_S: u32 = 900;
const HOUR_S: u32 = 3600;
const DAY_S: u32 = 86_400;

/// A gateway to be registered before the import.
#[derive(Clone, Debug)]
pub struct GatewayRow {
    /// System title, 16 hexadecimal digits.
    pub system_title: String,
    /// Name.
    pub name: String,
    /// Name of its push template.
    pub template: String,
    /// EK, 32 hexadecimal digits.
    pub encryption_key: String,
    /// AK, 32 hexadecimal digits.
    pub authentication_key: String,
}

/// A row of the import of meters and installations; the fields are named as its columns.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[expect(missing_docs, reason = "the import's columns, which the API documents")]
pub struct ImportRow {
    pub serial: String,
    pub system_title: String,
    pub model: String,
    pub template: String,
    pub encryption_key: String,
    pub authentication_key: String,
    pub role: String,
    pub transformer: String,
    pub gateway: String,
    pub current_max_a: String,
    pub voltage_nominal_v: String,
    pub phases: String,
    pub register_digits: String,
    pub period_s: String,
    pub installed_at: String,
    pub start_kwh: String,
    pub account: String,
    pub customer: String,
    pub customer_name: String,
    pub plan: String,
    pub zone: String,
    pub mode: String,
    pub overdraft: String,
    pub low_level_1: String,
    pub low_level_2: String,
    pub opening_balance: String,
}

/// A purchase that a customer makes during the week.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopUp {
    /// When, by the clock of the week.
    pub at: UnixSeconds,
    /// For which account, by its code.
    pub account: String,
    /// What is paid.
    pub paid: Money,
    /// Names the purchase for ever, so that it can be asked for again.
    pub idempotency_key: String,
}

/// One customer: meter, account, money.
#[derive(Clone, Debug)]
struct Consumer {
    number: u32,
    opening: Money,
    overdraft: Money,
}

/// The scenario.
#[derive(Clone, Debug)]
pub struct Feeder {
    seed: Seed,
    start: UnixSeconds,
    tariff: Tariff,
    versions: Vec<TariffVersion>,
    consumers: Vec<Consumer>,
    top_ups: Vec<TopUp>,
}

/// The Monday, midnight UTC, on which the latest week began that is over at `now`.
#[must_use]
pub const fn latest_week(now: UnixSeconds) -> UnixSeconds {
    // 1970-01-05 was a Monday.
    let since_monday = (now.0.saturating_sub(4 * DAY_S)) % WEEK_S;
    now.minus(since_monday).minus(WEEK_S)
}

impl Feeder {
    /// The week that begins at `start`, a Monday at midnight UTC.
    ///
    /// # Panics
    /// When `start` is no such Monday.
    #[must_use]
    pub fn new(seed: Seed, start: UnixSeconds) -> Self {
        assert_eq!(latest_week(start.plus(WEEK_S)), start, "the week begins on a Monday");
        let versions = tariff::versions(start);
        let tariff =
            Tariff::new(ZONE, BTreeSet::new(), &versions).expect("the zone is compiled in");
        let mut feeder =
            Self { seed, start, tariff, versions, consumers: Vec::new(), top_ups: Vec::new() };
        feeder.cast();
        feeder
    }

    /// Stamp of the first readings.
    #[must_use]
    pub const fn start(&self) -> UnixSeconds {
        self.start
    }

    /// Stamp of the last readings.
    #[must_use]
    pub const fn end(&self) -> UnixSeconds {
        self.start.plus(WEEK_S)
    }

    /// The versions of the plan [`PLAN`]; their `plan` id is the registry's to fill in.
    #[must_use]
    pub fn versions(&self) -> &[TariffVersion] {
        &self.versions
    }

    /// The gateways to register first.
    #[must_use]
    pub fn gateway_rows(&self) -> Vec<GatewayRow> {
        let row = |ordinal| {
            let identity = Identity::of_gateway(self.seed, ordinal);
            GatewayRow {
                system_title: identity.title().to_string(),
                name: format!("Gateway {ordinal}"),
                template: "meterd-batch".to_owned(),
                encryption_key: hex(identity.keys().encryption),
                authentication_key: hex(identity.keys().authentication),
            }
        };
        [1, 2].map(row).to_vec()
    }

    /// The rows to import.
    #[must_use]
    pub fn import_rows(&self) -> Vec<ImportRow> {
        let supply = ImportRow {
            role: "supply".to_owned(),
            transformer: TRANSFORMER_CODE.to_owned(),
            current_max_a: "1000".to_owned(),
            ..self.device_row(SUPPLY)
        };
        let consumers = self.consumers.iter().map(|consumer| self.consumer_row(consumer));
        std::iter::once(supply).chain(consumers).collect()
    }

    /// [`Feeder::import_rows`] as the CSV that the import takes.
    ///
    /// # Panics
    /// Never: the rows are plain text.
    #[must_use]
    pub fn import_csv(&self) -> Vec<u8> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in self.import_rows() {
            writer.serialize(row).expect("a row is a flat list of texts");
        }
        writer.into_inner().expect("memory takes everything")
    }

    /// The purchases of the week, in the order of time.
    #[must_use]
    pub fn top_ups(&self) -> &[TopUp] {
        &self.top_ups
    }

    /// Faults that the week goes through, to the node and back.
    #[must_use]
    pub fn faults(&self) -> [FaultPlan; 2] {
        let up = FaultPlan {
            loss: 10,
            duplication: 10,
            reordering: 20,
            reorder_span: Duration::from_millis(4),
            ..FaultPlan::default()
        };
        [up, FaultPlan { loss: 10, duplication: 5, ..FaultPlan::default() }]
    }

    /// What the meters of this scenario share.
    #[must_use]
    pub const fn world(&self) -> World {
        let retry = Retry { first: Duration::from_millis(250), max: Duration::from_millis(2000) };
        World { seed: self.seed, retry, window: 4, pace: 1 }
    }

    /// The meters that speak UDP: half of the consumers, and the transformer's.
    #[must_use]
    pub fn direct_meters(&self) -> Vec<VirtualMeter> {
        (1..=DIRECT_LAST).chain([SUPPLY]).map(|number| self.meter(number)).collect()
    }

    /// The gateways with the other meters.
    #[must_use]
    pub fn gateways(&self) -> Vec<VirtualGateway> {
        let meters = |first, last| (first..=last).map(|number| self.meter(number)).collect();
        let first: Vec<VirtualMeter> = meters(DIRECT_LAST + 1, FIRST_GATEWAY_LAST);
        let second: Vec<VirtualMeter> = meters(FIRST_GATEWAY_LAST + 1, u32::from(CONSUMERS));
        let all = first.len();
        let first = VirtualGateway::new(&self.world(), 1, first, all);
        let batched = SECOND_GATEWAY_BATCHED;
        let mut second = VirtualGateway::new(&self.world(), POWERLESS_GATEWAY, second, batched);
        // The mains is away for three minutes; its battery lasts longer.
        let gone = self.start.plus(5 * DAY_S + 2 * HOUR_S + 120);
        second.add_event(gone, EventCode::PowerDown);
        second.add_event(gone.plus(180), EventCode::PowerUp);
        vec![first, second]
    }

    /// The meter with this number as it behaves during the week.
    fn meter(&self, number: u32) -> VirtualMeter {
        let at = |day: u32, hour: u32| self.start.plus(day * DAY_S + hour * HOUR_S);
        let mut meter = VirtualMeter::new(&self.world(), self.meter_plan(number));
        match number {
            GAP_METER => meter.hold_back(Holdback {
                from: at(2, 6).plus(PERIOD_S),
                to: at(2, 10).minus(PERIOD_S),
                until: at(3, 12),
            }),
            HIGH_VOLTAGE_METER => {
                meter.add_spell(VoltageSpell { from: at(2, 12), to: at(2, 15), offset_mv: 25_000 })
            }
            TAMPERED_METER => {
                meter.add_event(at(1, 10).plus(420), EventCode::Tamper);
                meter.add_event(at(1, 10).plus(1_860), EventCode::TamperEnd);
            }
            REVERSED_METER => meter.add_event(at(3, 13).plus(1_320), EventCode::ReverseEnergy),
            POWERLESS_METER => {
                // Between two readings, so that none is missed.
                meter.add_event(at(2, 3).plus(240), EventCode::PowerDown);
                meter.add_event(at(2, 3).plus(540), EventCode::PowerUp);
            }
            STUCK_METER => {
                meter.add_event(at(4, 8).plus(180), EventCode::RelayFailed);
                meter.add_event(at(4, 8).plus(1_200), EventCode::RelayClosed);
            }
            LOW_VOLTAGE_METER => {
                meter.add_spell(VoltageSpell { from: at(4, 18), to: at(4, 20), offset_mv: -35_000 })
            }
            _ => {}
        }
        meter
    }

    fn meter_plan(&self, number: u32) -> MeterPlan {
        let site = if number == SUPPLY { TRANSFORMER } else { byte(number - 1) };
        let delay = match number {
            ..=DIRECT_LAST | SUPPLY => number * 7,
            ..=FIRST_GATEWAY_LAST => 60,
            _ => 90,
        };
        MeterPlan {
            ordinal: number,
            load: Load { site, days_ahead: 0, scale_milli: 1000 },
            phases: 3,
            first: self.start,
            last: self.end(),
            period_s: PERIOD_S,
            send_delay_s: u16::try_from(delay).expect("a few minutes"),
            start: self.start_register(number),
            register_digits: 6,
            clock: MeterClock::default(),
        }
    }

    /// Meters have been in use before; up to 50 MWh.
    fn start_register(&self, number: u32) -> Energy {
        Energy::from_wh(self.seed.draw(Purpose::Register, u64::from(number)) % 50_000_000)
    }

    fn device_row(&self, number: u32) -> ImportRow {
        let identity = Identity::of_meter(self.seed, number);
        let start = self.start_register(number).wh();
        let gateway = match number {
            ..=DIRECT_LAST | SUPPLY => String::new(),
            ..=FIRST_GATEWAY_LAST => gateway_title(1).to_string(),
            _ => gateway_title(2).to_string(),
        };
        ImportRow {
            serial: serial(number),
            system_title: meter_title(number).to_string(),
            model: "MTD-3".to_owned(),
            template: "meterd-single".to_owned(),
            encryption_key: hex(identity.keys().encryption),
            authentication_key: hex(identity.keys().authentication),
            gateway,
            voltage_nominal_v: "230".to_owned(),
            phases: "3".to_owned(),
            register_digits: "6".to_owned(),
            period_s: PERIOD_S.to_string(),
            installed_at: self.start.to_string(),
            start_kwh: format!("{}.{:03}", start / 1000, start % 1000),
            ..ImportRow::default()
        }
    }

    fn consumer_row(&self, consumer: &Consumer) -> ImportRow {
        let number = consumer.number;
        let [low_level_1, low_level_2] = LOW_LEVELS.map(Money::to_decimal);
        ImportRow {
            role: role_name(Role::Consumer).to_owned(),
            transformer: TRANSFORMER_CODE.to_owned(),
            current_max_a: "60".to_owned(),
            account: account_code(number),
            customer: format!("C-{number:03}"),
            customer_name: people::name(number),
            plan: PLAN.to_owned(),
            zone: ZONE.to_owned(),
            mode: "prepaid".to_owned(),
            overdraft: consumer.overdraft.to_decimal(),
            low_level_1,
            low_level_2,
            opening_balance: consumer.opening.to_decimal(),
            ..self.device_row(number)
        }
    }
}

/// Low-balance levels of all accounts.
const LOW_LEVELS: [Money; 2] = [yuan(20), yuan(5)];

const fn yuan(units: i64) -> Money {
    Money::from_ticks(units * Money::TICKS_PER_UNIT)
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Consumer => "consumer",
        Role::Supply => "supply",
    }
}

fn serial(number: u32) -> String {
    format!("UR6-{number:03}")
}

fn account_code(number: u32) -> String {
    format!("A-{number:03}")
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).expect("a feeder has at most 255 sites")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
