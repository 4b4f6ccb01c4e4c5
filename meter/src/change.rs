//! Changes: what the registry tells the dataflow. Each is written to the registry with an outbox
//! row in one transaction, then appended to the log under the outbox id.

use serde::{Deserialize, Serialize};

use crate::{
    AccountId, CalendarId, Clearance, Closing, Current, CustomerId, DebtAgreement, Emergency,
    Energy, FriendlyCalendar, GatewayId, LedgerKind, LocalDate, MeterId, ModeSwitch, Money,
    OrderReport, PlanChange, PlanId, PurchaseId, Replacement, Seq, SupplyPolicy, SupplyTerms,
    TariffVersion, TransformerId, UnixSeconds, Voltage,
};

/// One change of what exists or of money.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Limits that the rules use; the newest in the log counts.
    Policy(Policy),
    /// A calendar of holidays, whole.
    Holidays(Holidays),
    /// A new version of a tariff plan.
    Tariff(TariffVersion),
    /// A meter exists, or its record changed.
    Meter(MeterRecord),
    /// An account exists, or its terms changed.
    Account(AccountTerms),
    /// A meter begins to serve an account.
    Install(Installation),
    /// A meter ends to serve an account.
    Remove(Removal),
    /// Money came in; fee and tax follow from the tariff in force.
    Purchase(Purchase),
    /// A point of sale moved money; its lines are those of the receipt.
    Sale(Sale),
    /// A signed correction by a person, or an opening balance.
    Adjust(Adjustment),
    /// A person settled a quarantined reading.
    Resolve(Resolution),
    /// A person books a movement of a kind, which may name the one it corrects.
    Book(Booking),
    /// Whether and how the node cuts off; the newest in the log counts.
    SupplyPolicy(SupplyPolicy),
    /// Under what terms an account is cut off, helped over and restored.
    SupplyTerms(SupplyTerms),
    /// A calendar of friendly periods, whole.
    Friendly(FriendlyCalendar),
    /// A customer took the emergency credit that was offered.
    Emergency(Emergency),
    /// Arrears are moved out of the balance.
    Debt(DebtAgreement),
    /// From an instant on an account is billed otherwise.
    Switch(ModeSwitch),
    /// From a local midnight on an account has another plan.
    Plan(PlanChange),
    /// One meter takes another's place.
    Replace(Replacement),
    /// An account ends.
    Close(Closing),
    /// A meter that tripped by itself may be restored.
    Clear(Clearance),
    /// What came of an order so far.
    Order(OrderReport),
}

/// What a meter is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Serves a customer below a transformer.
    Consumer,
    /// Measures all a transformer supplies.
    Supply,
}

/// What the rules must know of a meter.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MeterRecord {
    /// The meter.
    pub meter: MeterId,
    /// Consumer or supply total.
    pub role: Role,
    /// The transformer it hangs on, [`TransformerId::NONE`] for none.
    pub transformer: TransformerId,
    /// The gateway it hangs behind, [`GatewayId::NONE`] when direct.
    pub gateway: GatewayId,
    /// Rated maximum current of a phase.
    pub current_max: Current,
    /// Rated voltage, phase to neutral.
    pub voltage_nominal: Voltage,
    /// 1 or 3.
    pub phases: u8,
    /// Whole kWh digits of the register: it rolls over at 10^digits kWh. 1 to 12.
    pub register_digits: u8,
    /// Seconds between expected readings, 1 to 86,400; stamps are multiples of it.
    pub period_s: u32,
}

/// Prepaid or postpaid.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Credit first.
    Prepaid,
    /// Bill later.
    Postpaid,
}

/// The terms of an account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AccountTerms {
    /// The account.
    pub account: AccountId,
    /// Whose it is.
    pub customer: CustomerId,
    /// Its tariff plan.
    pub plan: PlanId,
    /// IANA time zone of its local days.
    pub zone: String,
    /// Prepaid or postpaid.
    pub mode: Mode,
    /// How far the balance may go below zero, ≥ 0.
    pub overdraft: Money,
    /// Two low-balance levels, the higher first.
    pub low_levels: [Money; 2],
}

/// A meter begins to serve an account; billing starts here.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Installation {
    /// The meter.
    pub meter: MeterId,
    /// The account; [`AccountId::NONE`] for a supply meter, which serves none.
    pub account: AccountId,
    /// From when.
    pub at: UnixSeconds,
    /// Its register then; unknown means the earliest accepted reading is the base.
    pub start: Option<Energy>,
}

/// A meter ends to serve.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Removal {
    /// The meter.
    pub meter: MeterId,
    /// Until when.
    pub at: UnixSeconds,
    /// Its register then.
    pub end: Energy,
}

/// A purchase of credit. Fee and tax follow from the tariff version in force at `at`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Purchase {
    /// The purchase.
    pub purchase: PurchaseId,
    /// For which account.
    pub account: AccountId,
    /// What was paid, > 0.
    pub paid: Money,
    /// When.
    pub at: UnixSeconds,
}

/// What a point of sale did, line by line as the receipt has it: a purchase with its debt
/// recovery, fee and tax, the value handed to a meter by token, a reversal, a refund, a free issue.
/// The lines are worked out once, where the sale is made durable, so that receipt and books agree
/// by construction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sale {
    /// Which sale: the cause of its movements. A reversal or refund names the sale it takes back.
    pub sale: PurchaseId,
    /// For which account.
    pub account: AccountId,
    /// When.
    pub at: UnixSeconds,
    /// The movements, in the order in which they are entered.
    pub lines: Vec<SaleLine>,
}

/// One movement of a sale.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SaleLine {
    /// What it is.
    pub kind: LedgerKind,
    /// Signed; negative takes from the balance.
    pub amount: Money,
}

/// A signed entry by a person.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Adjustment {
    /// For which account.
    pub account: AccountId,
    /// Signed.
    pub amount: Money,
    /// When.
    pub at: UnixSeconds,
    /// Why, for the statement.
    pub reason: String,
}

/// A movement that a person books.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Booking {
    /// For which account.
    pub account: AccountId,
    /// What it is: an adjustment, an opening balance, a free issue, a refund.
    pub kind: LedgerKind,
    /// Signed.
    pub amount: Money,
    /// The number of the account's movement that it corrects.
    pub corrects: Option<u32>,
    /// When.
    pub at: UnixSeconds,
    /// Why, for the statement.
    pub reason: String,
}

/// What a person decided of a quarantined reading.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It stays out.
    Reject,
    /// It opens a new register epoch: nothing is billed up to it, and it is the new base.
    NewEpoch,
}

/// A quarantined reading is settled.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Resolution {
    /// The meter.
    pub meter: MeterId,
    /// Its stamp.
    pub taken_at: UnixSeconds,
    /// The log position of the quarantined reading.
    pub seq: Seq,
    /// The register it carried.
    pub register: Energy,
    /// What to do.
    pub decision: Decision,
}

/// Days that a calendar names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Holidays {
    /// The calendar.
    pub calendar: CalendarId,
    /// The days, ascending.
    pub days: Vec<LocalDate>,
}

/// Limits of the rules. They stand in the log, so that a replay uses what was in force.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// A reading stamped more than this after its arrival is quarantined.
    pub future_s_max: u32,
    /// How far behind a meter's newest reading a late one is still accepted.
    pub horizon_s: u32,
    /// After its deadline by this much an absent reading is a gap.
    pub gap_grace_s: u32,
    /// Periods without a reading after which a meter is silent.
    pub silent_periods: u32,
    /// Thresholds of alarms.
    pub alarms: AlarmPolicy,
}

/// Thresholds that raise and clear alarms; the pair is the hysteresis. In 1/1000 of the rated value.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AlarmPolicy {
    /// Over-voltage raises above.
    pub over_voltage_raise: u32,
    /// Over-voltage clears at or below.
    pub over_voltage_clear: u32,
    /// Under-voltage raises below.
    pub under_voltage_raise: u32,
    /// Under-voltage clears at or above.
    pub under_voltage_clear: u32,
    /// Overload (current) raises above.
    pub overload_raise: u32,
    /// Overload clears at or below.
    pub overload_clear: u32,
    /// Line loss of a complete interval raises above.
    pub loss_raise: u32,
    /// Line loss clears at or below.
    pub loss_clear: u32,
    /// A day's use raises above this share of the meter's own mean of the days before.
    pub unusual_raise: u32,
    /// Unusual use clears at or below.
    pub unusual_clear: u32,
}

impl Policy {
    /// The rules' own defaults: five minutes, 62 days, and the usual ±10 % of mains voltage.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            future_s_max: 300,
            horizon_s: 5_356_800,
            gap_grace_s: 300,
            silent_periods: 4,
            alarms: AlarmPolicy {
                over_voltage_raise: 1100,
                over_voltage_clear: 1080,
                under_voltage_raise: 900,
                under_voltage_clear: 920,
                overload_raise: 1050,
                overload_clear: 1000,
                loss_raise: 100,
                loss_clear: 80,
                unusual_raise: 3000,
                unusual_clear: 2000,
            },
        }
    }
}
