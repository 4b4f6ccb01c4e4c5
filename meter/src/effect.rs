//! Effects: everything that follows from entries. The dataflow is `Entry* → Effects*`, and a
//! deterministic function of the entries alone; rows of one kind are ordered by `Seq`, then key.

use serde::{Deserialize, Serialize};

use crate::stored::{stored_codes, stored_struct};
use crate::{
    AccountId, Current, Energy, LedgerRow, MeterId, Money, OrderRow, Power, PowerFactor, Reading,
    Regular, Seq, Stored, Subject, TransformerId, UnixSeconds, Voltage,
};

/// What follows from a batch of entries, by kind.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Effects {
    /// All that follows from each regular reading; [`Effects::rows`] writes it out.
    pub regular: Vec<Regular>,
    /// One for each other reading entry of the batch.
    pub verdicts: Vec<Verdict>,
    /// Readings whose verdict came later than their entry: parked ones, and resolved ones.
    pub settled: Vec<Settled>,
    /// New or replaced 15-minute rows, those of regular readings aside; so it is with movements
    /// and standings.
    pub intervals: Vec<IntervalRow>,
    /// Movements of accounts.
    pub ledger: Vec<LedgerRow>,
    /// Where meters and accounts stand now.
    pub balances: Vec<BalanceRow>,
    /// Alarms raised, repeated, cleared.
    pub alarms: Vec<AlarmRow>,
    /// Gaps opened, changed, closed.
    pub gaps: Vec<GapRow>,
    /// Line loss of a transformer and interval, new or replaced.
    pub losses: Vec<LossRow>,
    /// Questions for the store: accepted readings around a parked one.
    pub recalls: Vec<Recall>,
    /// Steps of orders to relays.
    pub orders: Vec<OrderRow>,
}

/// What became of one reading. Each received reading has exactly one final outcome.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Outcome {
    /// In the books.
    Accepted,
    /// Known already; changes nothing.
    Duplicate,
    /// Kept aside with a reason, not billed.
    Quarantined(QuarantineReason),
    /// Not final: waits for its neighbours from the store.
    Parked,
}

/// Why a reading is kept aside.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum QuarantineReason {
    /// No such meter in the log's registry, or it was never installed.
    NotInstalled,
    /// Stamped before the meter's installation.
    BeforeInstallation,
    /// Stamped after the meter's removal.
    AfterRemoval,
    /// Stamped too long after its arrival.
    Future,
    /// Older than the back-fill horizon.
    TooOld,
    /// Another register value under the same key stands already.
    Conflict,
    /// The register went backwards: reset or swap suspected.
    Backwards,
    /// The register rose by more than the meter can carry.
    Spike,
    /// An operator rejected it.
    Rejected,
    /// Too many readings wait for their neighbours.
    ParkingFull,
}

/// The verdict on one reading entry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Verdict {
    /// The entry.
    pub seq: Seq,
    /// What became of it.
    pub outcome: Outcome,
}

/// A reading whose verdict came after its own batch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Settled {
    /// The entry that carried it.
    pub seq: Seq,
    /// The reading.
    pub reading: Reading,
    /// What became of it.
    pub outcome: Outcome,
    /// The entry that settled it.
    pub settled_by: Seq,
}

/// Average, least and greatest of a quantity over the samples of an interval.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spread<T> {
    /// Sum ÷ count, rounded towards zero.
    pub average: T,
    /// Least.
    pub min: T,
    /// Greatest.
    pub max: T,
}

/// How sure an interval's energy is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum IntervalQuality {
    /// Readings stand at both of its ends.
    Actual,
    /// Interpolation cut it.
    Estimated,
}

/// One meter's quarter hour. A later row of the same key replaces an earlier one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IntervalRow {
    /// The meter.
    pub meter: MeterId,
    /// The interval, named by its start.
    pub start: UnixSeconds,
    /// The account it served, or none.
    pub account: AccountId,
    /// The transformer it hangs on, or none.
    pub transformer: TransformerId,
    /// R(end) − R(start).
    pub energy: Energy,
    /// R(end).
    pub register: Energy,
    /// Energy × the rate's price, without block adders; 0 without account.
    pub cost: Money,
    /// The rate, 1 to 4; 0 without account.
    pub rate: u8,
    /// How sure.
    pub quality: IntervalQuality,
    /// Readings with a stamp in (start, end].
    pub samples: u16,
    /// Voltage over all phases and samples; zeros when none was sent.
    pub voltage: Spread<Voltage>,
    /// Current, likewise.
    pub current: Spread<Current>,
    /// Active power, likewise.
    pub power: Spread<Power>,
    /// Power factor, likewise.
    pub power_factor: Spread<PowerFactor>,
    /// The entry that made this row: the version.
    pub rev: Seq,
}

/// Where a meter and its account stand.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BalanceRow {
    /// The account, or none for a supply meter.
    pub account: AccountId,
    /// Its meter, or none.
    pub meter: MeterId,
    /// The balance.
    pub balance: Money,
    /// The newest accepted stamp; zero when there is none.
    pub as_of: UnixSeconds,
    /// Up to here nothing is missing.
    pub complete_through: UnixSeconds,
    /// The entry that made it so.
    pub seq: Seq,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum AlarmCode {
    /// Voltage above the band.
    OverVoltage,
    /// Voltage below the band.
    UnderVoltage,
    /// Current above the rated maximum.
    Overload,
    /// Energy flows backwards.
    ReverseEnergy,
    /// Mains lost.
    PowerDown,
    /// The relay failed or disagrees with its order.
    Relay,
    /// Cover, terminal or magnet.
    Tamper,
    /// The meter's clock is off.
    Clock,
    /// A reading is in quarantine for its register.
    Register,
    /// Two further readings agree with the quarantined one: a new epoch is proposed.
    RegisterProposal,
    /// Balance below the first level.
    LowBalance,
    /// Balance below the second level.
    VeryLowBalance,
    /// Balance and overdraft used up.
    Overdrawn,
    /// No reading for too long.
    MeterSilent,
    /// A gateway's link is down.
    GatewaySilent,
    /// Supplied and measured energy differ.
    LineLoss,
    /// More comes out than goes in: wrong assignment, clock or data.
    NegativeLoss,
    /// A day unlike the meter's days before.
    UnusualUse,
    /// Emergency credit is offered to the account.
    EmergencyOffered,
    /// A movement passed the bounds of a balance; the rest is in suspense.
    BalanceBound,
    /// The meter opened its relay by itself: only a person restores it.
    SupplyTrip,
}

/// How urgent.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Severity {
    /// To know.
    Notice,
    /// To look into.
    Warning,
    /// To act on.
    Critical,
}

/// What became of an alarm.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AlarmState {
    /// It began.
    Raised,
    /// It is over.
    Cleared,
}

/// An alarm began or ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AlarmRow {
    /// About whom.
    pub subject: Subject,
    /// What.
    pub code: AlarmCode,
    /// How urgent.
    pub severity: Severity,
    /// Began or ended.
    pub state: AlarmState,
    /// When, by the stamps of what showed it.
    pub at: UnixSeconds,
    /// The value that showed it, in the unit of its kind (mV, mA, Wh, ticks, s, 1/1000).
    pub value: i64,
    /// The entry that showed it.
    pub seq: Seq,
}

/// What became of a gap.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum GapState {
    /// Expected readings are absent.
    Open,
    /// All came, or late ones split it: see the rows of its parts.
    Closed,
}

/// Absent readings of a meter between two accepted stamps.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GapRow {
    /// The meter.
    pub meter: MeterId,
    /// The last accepted stamp before the gap: with the meter, its key.
    pub from: UnixSeconds,
    /// The first accepted stamp after it; zero while none is known.
    pub to: UnixSeconds,
    /// Readings absent.
    pub missing: u32,
    /// Open or closed.
    pub state: GapState,
    /// The entry that made this row: the version.
    pub rev: Seq,
}

/// Supply against the sum of its meters, one interval.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LossRow {
    /// The transformer.
    pub transformer: TransformerId,
    /// The interval.
    pub start: UnixSeconds,
    /// Energy of the supply meter.
    pub supply: Energy,
    /// Σ energy of the consumer meters.
    pub delivered: Energy,
    /// Meters (supply and consumers) installed over the interval.
    pub expected: u32,
    /// Of these, how many have an actual interval.
    pub actual: u32,
    /// The entry that made this row: the version.
    pub rev: Seq,
}

/// A question for the store: the accepted readings of a meter in a window and the nearest one
/// outside on each side, as of this entry. The answer is [`crate::Entry::Neighbours`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Recall {
    /// The meter.
    pub meter: MeterId,
    /// Start of the window, inclusive.
    pub from: UnixSeconds,
    /// End of the window, inclusive.
    pub to: UnixSeconds,
    /// The entry that asks: the answer must know every acceptance up to it.
    pub seq: Seq,
}

stored_codes!(QuarantineReason {
    NotInstalled = 1,
    BeforeInstallation = 2,
    AfterRemoval = 3,
    Future = 4,
    TooOld = 5,
    Conflict = 6,
    Backwards = 7,
    Spike = 8,
    Rejected = 9,
    ParkingFull = 10,
});
stored_codes!(IntervalQuality { Actual = 1, Estimated = 2 });
stored_codes!(AlarmCode {
    OverVoltage = 1,
    UnderVoltage = 2,
    Overload = 3,
    ReverseEnergy = 4,
    PowerDown = 5,
    Relay = 6,
    Tamper = 7,
    Clock = 8,
    Register = 9,
    RegisterProposal = 10,
    LowBalance = 11,
    VeryLowBalance = 12,
    Overdrawn = 13,
    MeterSilent = 14,
    GatewaySilent = 15,
    LineLoss = 16,
    NegativeLoss = 17,
    UnusualUse = 18,
    EmergencyOffered = 24,
    BalanceBound = 25,
    SupplyTrip = 26,
});
stored_codes!(Severity { Notice = 1, Warning = 2, Critical = 3 });
stored_codes!(AlarmState { Raised = 1, Cleared = 2 });
stored_codes!(GapState { Open = 1, Closed = 2 });

stored_struct!(Verdict { seq, outcome });
stored_struct!(Settled { seq, reading, outcome, settled_by });
stored_struct!(IntervalRow {
    meter,
    start,
    account,
    transformer,
    energy,
    register,
    cost,
    rate,
    quality,
    samples,
    voltage,
    current,
    power,
    power_factor,
    rev,
});
stored_struct!(BalanceRow { account, meter, balance, as_of, complete_through, seq });
stored_struct!(AlarmRow { subject, code, severity, state, at, value, seq });
stored_struct!(GapRow { meter, from, to, missing, state, rev });
stored_struct!(LossRow { transformer, start, supply, delivered, expected, actual, rev });
stored_struct!(Recall { meter, from, to, seq });

impl<T: Stored> Stored for Spread<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.average.put(out);
        self.min.put(out);
        self.max.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { average: T::take(bytes)?, min: T::take(bytes)?, max: T::take(bytes)? })
    }
}

/// Two bytes: the kind and, for a quarantined one, the reason.
impl Stored for Outcome {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, reason) = match self {
            Self::Accepted => (1, 0),
            Self::Duplicate => (2, 0),
            Self::Quarantined(reason) => (3, reason.code()),
            Self::Parked => (4, 0),
        };
        out.extend_from_slice(&[kind, reason]);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        match <[u8; 2]>::take(bytes)? {
            [1, 0] => Some(Self::Accepted),
            [2, 0] => Some(Self::Duplicate),
            [3, reason] => QuarantineReason::from_code(reason).map(Self::Quarantined),
            [4, 0] => Some(Self::Parked),
            _ => None,
        }
    }
}

impl Effects {
    /// Whether nothing followed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Empties every kind and keeps the memory.
    pub fn clear(&mut self) {
        let Self {
            regular,
            verdicts,
            settled,
            intervals,
            ledger,
            balances,
            alarms,
            gaps,
            losses,
            recalls,
            orders,
        } = self;
        regular.clear();
        verdicts.clear();
        settled.clear();
        intervals.clear();
        ledger.clear();
        balances.clear();
        alarms.clear();
        gaps.clear();
        losses.clear();
        recalls.clear();
        orders.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Stored + PartialEq + std::fmt::Debug>(value: &T) {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        let mut left = &bytes[..];
        assert_eq!(T::take(&mut left).as_ref(), Some(value));
        assert!(left.is_empty(), "{value:?} left bytes");
        assert_eq!(T::take(&mut &bytes[..bytes.len() - 1]), None, "{value:?} cut short");
    }

    #[test]
    fn rows_round_trip() {
        check(&Verdict { seq: Seq(1), outcome: Outcome::Quarantined(QuarantineReason::Spike) });
        check(&AlarmRow {
            subject: Subject::Transformer(TransformerId(2)),
            code: AlarmCode::LineLoss,
            severity: Severity::Warning,
            state: AlarmState::Raised,
            at: UnixSeconds(900),
            value: -5,
            seq: Seq(9),
        });
    }

    #[test]
    fn codes_are_distinct_and_complete() {
        for code in AlarmCode::ALL {
            assert_eq!(AlarmCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(AlarmCode::from_code(0), None);
    }
}
