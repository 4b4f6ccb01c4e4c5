//! Supply: when an account may be cut off, what helps it over, and the orders that open and close
//! its meter's relay. The registry tells the terms as [`crate::Change`]s; orders come out of the
//! books as [`OrderRow`]s, and what became of them goes back in as [`OrderReport`]s.

use serde::{Deserialize, Serialize};

use crate::stored::{stored_codes, stored_struct};
use crate::{
    AccountId, CalendarId, Energy, FriendlyId, LocalDate, MeterId, Mode, Money, OrderId, PlanId,
    Relay, Seq, TransformerId, UnixSeconds,
};

/// Whether and how a node cuts off. Without one in the log no order is ever made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SupplyPolicy {
    /// Whether accounts are cut off at all.
    pub is_cutting: bool,
    /// An order that is not carried out after this many seconds expires.
    pub order_s_max: u32,
    /// How often an order is sent at most, 1 to 255.
    pub attempts_max: u8,
    /// Seconds between two attempts, and between a failed order and the next one.
    pub retry_s: u32,
    /// Seconds between two disconnections below one transformer.
    pub stagger_s: u32,
    /// The friendly periods of accounts that name none.
    pub friendly: FriendlyId,
}

impl SupplyPolicy {
    /// Nobody is cut off.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            is_cutting: false,
            order_s_max: 14_400,
            attempts_max: 5,
            retry_s: 60,
            stagger_s: 10,
            friendly: FriendlyId::NONE,
        }
    }
}

/// Under what terms an account is cut off, helped over and restored. Without them it is not
/// protected, has no emergency credit, and is restored at a balance of zero.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SupplyTerms {
    /// The account.
    pub account: AccountId,
    /// Never cut off, whatever it owes.
    pub is_protected: bool,
    /// Emergency credit is offered below this balance.
    pub emergency_below: Money,
    /// How much is offered; zero for none.
    pub emergency_credit: Money,
    /// Cut off, it is restored at this balance or above.
    pub reconnect_at: Money,
    /// Its friendly periods; none means those of the policy.
    pub friendly: FriendlyId,
}

/// Times in which nobody is cut off: a week, and the days that a calendar of holidays names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FriendlyCalendar {
    /// Its id.
    pub friendly: FriendlyId,
    /// From Monday to Sunday, the friendly stretches of each day; all seven days are there.
    pub week: Vec<Vec<FriendlySpan>>,
    /// Its days are friendly from midnight to midnight.
    pub holidays: Option<CalendarId>,
}

/// A stretch of a local day, in quarter hours of the wall clock.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FriendlySpan {
    /// First quarter hour, 0 to 95.
    pub from: u8,
    /// The quarter hour after the last, 1 to 96.
    pub to: u8,
}

impl FriendlyCalendar {
    /// The weekday (0 Monday to 6 Sunday) that is missing or whose stretches are out of order,
    /// empty, or past midnight; `None` when the week is whole.
    #[must_use]
    pub fn gap(&self) -> Option<usize> {
        let is_whole = |spans: &Vec<FriendlySpan>| {
            let mut after = 0;
            spans.iter().all(|span| {
                let is_next = span.from >= after && span.from < span.to && span.to <= 96;
                after = span.to;
                is_next
            })
        };
        let bad = self.week.iter().position(|spans| !is_whole(spans));
        bad.or_else(|| (self.week.len() != 7).then(|| self.week.len().min(7)))
    }

    /// Whether a quarter hour of a local day is friendly; the holidays' days are asked elsewhere.
    #[must_use]
    pub fn is_friendly(&self, date: LocalDate, quarter: u8) -> bool {
        let spans = self.week.get(usize::from(date.weekday()));
        let holds = |span: &FriendlySpan| span.from <= quarter && quarter < span.to;
        spans.is_some_and(|spans| spans.iter().any(holds))
    }
}

/// A customer took the emergency credit that was offered.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Emergency {
    /// The account.
    pub account: AccountId,
    /// When.
    pub at: UnixSeconds,
}

/// Arrears are moved out of the balance, to be recovered from purchases.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DebtAgreement {
    /// The account.
    pub account: AccountId,
    /// How much, > 0; it is added to what is left of debts before.
    pub amount: Money,
    /// Of each purchase, in 1/10,000.
    pub share_bp: u32,
    /// At most this much in a local month; zero for no cap.
    pub cap: Money,
    /// When.
    pub at: UnixSeconds,
    /// Why, for the statement.
    pub reason: String,
}

/// From an instant on an account is billed otherwise. Supply goes on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ModeSwitch {
    /// The account.
    pub account: AccountId,
    /// How it is billed from then on.
    pub mode: Mode,
    /// The local midnight from which it holds.
    pub at: UnixSeconds,
    /// Share of each purchase that pays off what is owed at a switch to prepaid, in 1/10,000.
    pub share_bp: u32,
    /// At most this much in a local month; zero for no cap.
    pub cap: Money,
}

/// From a local midnight on an account is billed by a plan, in place of what was to hold then.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PlanChange {
    /// The account.
    pub account: AccountId,
    /// Its tariff plan from then on.
    pub plan: PlanId,
    /// The local midnight from which it holds.
    pub at: UnixSeconds,
}

/// One meter takes another's place. The balance stays with the account.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Replacement {
    /// The account.
    pub account: AccountId,
    /// The meter that goes.
    pub old: MeterId,
    /// Its last register.
    pub end: Energy,
    /// The meter that comes.
    pub new: MeterId,
    /// Its first register.
    pub start: Energy,
    /// When.
    pub at: UnixSeconds,
}

/// An account ends. Late readings of its last meter are still taken in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Closing {
    /// The account.
    pub account: AccountId,
    /// When.
    pub at: UnixSeconds,
}

/// A person who may do so allows a meter that tripped by itself to be restored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Clearance {
    /// The account whose meter it is.
    pub account: AccountId,
    /// When.
    pub at: UnixSeconds,
    /// Why, for the record.
    pub reason: String,
}

/// What came of an order so far.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OrderReport {
    /// Of which account: its books decide.
    pub account: AccountId,
    /// Which order.
    pub order: OrderId,
    /// What happened.
    pub news: OrderNews,
    /// When.
    pub at: UnixSeconds,
}

/// What can happen to an order.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderNews {
    /// Its turn has come: the decision is made again.
    Due,
    /// The relay was read back.
    Read(Relay),
    /// The meter refused.
    Refused,
    /// The meter did not answer in time.
    Silent,
}

/// What an order is to do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Open the relay.
    Disconnect,
    /// Close it.
    Reconnect,
}

/// Where an order stands.
///
/// | state | next |
/// |---|---|
/// | decided | sent, void, expired |
/// | sent | done, decided (to be sent again), failed, void, expired |
/// | done, void, expired, failed | – |
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Waits for its turn.
    Decided,
    /// Decided again and handed to the meter's link.
    Sent,
    /// The relay was read back as ordered.
    Done,
    /// What it was for is over.
    Void,
    /// Not carried out in time.
    Expired,
    /// The meter did not obey.
    Failed,
}

/// Why an order came to where it stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderReason {
    /// Credit, overdraft and emergency credit are used up.
    Overdrawn,
    /// There is credit again.
    Paid,
    /// The account is not, or no longer, one to be cut off.
    Exempt,
    /// A friendly period.
    Friendly,
    /// The last reading is not there or not certain.
    Uncertain,
    /// A person allowed it.
    Cleared,
    /// The meter tripped by itself.
    Tripped,
    /// The meter that was meant no longer serves the account.
    Replaced,
    /// The relay was read back.
    Relay,
    /// The meter refused.
    Refused,
    /// The meter did not answer.
    Silent,
    /// Time is up.
    Late,
}

/// A step of an order.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OrderRow {
    /// The order.
    pub order: OrderId,
    /// Of which account.
    pub account: AccountId,
    /// To which meter.
    pub meter: MeterId,
    /// Below which transformer.
    pub transformer: TransformerId,
    /// What to do.
    pub kind: OrderKind,
    /// Where it stands.
    pub state: OrderState,
    /// Why.
    pub reason: OrderReason,
    /// How often it was sent.
    pub attempt: u8,
    /// The balance then.
    pub balance: Money,
    /// When.
    pub at: UnixSeconds,
    /// Until when it is good.
    pub expires_at: UnixSeconds,
    /// The entry that made it so.
    pub seq: Seq,
}

/// Why a relay is open that nobody here ordered open.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trip {
    /// Cover, terminal or magnet.
    Tamper,
    /// Current above the rated maximum.
    Overload,
    /// Something else at the meter: its own limits, its button, its own credit.
    Meter,
}

stored_codes!(OrderKind { Disconnect = 1, Reconnect = 2 });
stored_codes!(OrderState { Decided = 1, Sent = 2, Done = 3, Void = 4, Expired = 5, Failed = 6 });
stored_codes!(OrderReason {
    Overdrawn = 1,
    Paid = 2,
    Exempt = 3,
    Friendly = 4,
    Uncertain = 5,
    Cleared = 6,
    Tripped = 7,
    Replaced = 8,
    Relay = 9,
    Refused = 10,
    Silent = 11,
    Late = 12,
});
stored_codes!(Trip { Tamper = 1, Overload = 2, Meter = 3 });

stored_struct!(OrderRow {
    order,
    account,
    meter,
    transformer,
    kind,
    state,
    reason,
    attempt,
    balance,
    at,
    expires_at,
    seq,
});

impl OrderState {
    /// Whether nothing more follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Decided | Self::Sent)
    }
}

impl OrderId {
    /// The order of this number of an account.
    #[must_use]
    pub fn new(account: AccountId, number: u32) -> Self {
        Self(u64::from(account.0) << 32 | u64::from(number))
    }

    /// The account.
    #[must_use]
    pub const fn account(self) -> AccountId {
        let [a, b, c, d, ..] = self.0.to_be_bytes();
        AccountId(u32::from_be_bytes([a, b, c, d]))
    }

    /// The orders of an account are numbered from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        let [.., a, b, c, d] = self.0.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_without_a_day_or_with_crossed_stretches_has_a_gap() {
        let span = |from, to| FriendlySpan { from, to };
        let check = |week: Vec<Vec<FriendlySpan>>, want| {
            let calendar = FriendlyCalendar { friendly: FriendlyId(1), week, holidays: None };
            assert_eq!(calendar.gap(), want, "{calendar:?}");
        };
        let mut week = vec![vec![span(0, 32), span(72, 96)]; 7];
        check(week.clone(), None);
        check(vec![Vec::new(); 7], None);
        check(week[..6].to_vec(), Some(6));
        week[2] = vec![span(0, 40), span(32, 96)];
        check(week.clone(), Some(2));
        week[2] = vec![span(8, 8)];
        check(week.clone(), Some(2));
        week[2] = vec![span(8, 97)];
        check(week, Some(2));
    }

    #[test]
    fn an_order_names_its_account() {
        let order = OrderId::new(AccountId(7), 3);
        assert_eq!((order.account(), order.number()), (AccountId(7), 3));
    }
}
