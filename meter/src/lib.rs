//! The vocabulary of Meterd: ids, quantities, time, tariffs, readings, and the two types that
//! say what the platform does: [`Entry`] (everything that changes the books) and [`Effects`]
//! (everything that follows from it). Beside them, `wire`: the meter protocols, both directions.
//!
//! **Invariant:** no I/O, no clock, no randomness, no threads, no floating point. Time is an
//! argument. Read [`Entry`] and [`Effects`] first.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::float_arithmetic,
        clippy::indexing_slicing
    )
)]

mod id;
mod quantity;
mod time;

mod calendar;
mod tariff;

mod command;
mod event;
mod reading;

mod change;
mod effect;
mod entry;
mod ledger;
mod regular;
mod sale;
mod stored;
mod supply;

pub use calendar::{LocalCalendar, LocalDate, LocalQuarter, ZoneError};
pub use change::{
    AccountTerms, Adjustment, AlarmPolicy, Booking, Change, Decision, Holidays, Installation,
    MeterRecord, Mode, Policy, Purchase, Removal, Resolution, Role, Sale, SaleLine,
};
pub use command::{Command, CommandOutcome, ControlState, TokenDigits};
pub use effect::{
    AlarmCode, AlarmRow, AlarmState, BalanceRow, Effects, GapRow, GapState, IntervalQuality,
    IntervalRow, LossRow, Outcome, QuarantineReason, Recall, Settled, Severity, Spread, Verdict,
};
pub use entry::{Entry, EntryError, Neighbours};
pub use event::{EventCode, EventSet, MeterEvent, Subject};
pub use id::{
    AccountId, CalendarId, CommandId, CustomerId, FriendlyId, GatewayId, MeterId, OrderId,
    OutboxId, PlanId, PurchaseId, Seq, SystemTitle, TransformerId,
};
pub use ledger::{Cause, Contra, LedgerKind, LedgerRow};
pub use quantity::{
    CurrencyCode, Current, Energy, Frequency, Money, Power, PowerFactor, Price, QuantityError,
    ReactivePower, Voltage,
};
pub use reading::{Fields, Reading, Relay};
pub use regular::{Regular, Rows};
pub use sale::{
    Ask, BlockPart, CreditUnit, DebtShare, ENERGY_STEP_WH, SaleTerms, Split, SplitError,
};
pub use stored::Stored;
pub use supply::{
    Clearance, Closing, DebtAgreement, Emergency, FriendlyCalendar, FriendlySpan, ModeSwitch,
    OrderKind, OrderNews, OrderReason, OrderReport, OrderRow, OrderState, PlanChange, Replacement,
    SupplyPolicy, SupplyTerms, Trip,
};
pub use tariff::{
    Block, BlockPeriod, DayProfile, DayType, MonthDay, Season, Switch, TariffError, TariffVersion,
};
pub use time::{INTERVAL_S, UnixSeconds};

pub mod wire;
