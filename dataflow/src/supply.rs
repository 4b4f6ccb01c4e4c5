//! Supply: what the books keep of an account beside its balance (who may be cut off, emergency
//! credit, debt, the switch of mode, the relay and the order under way), and when orders are made.
//!
//! Decisions follow from crossings, never from single readings: the alarm "overdrawn" begins or
//! ends, money comes in, an event is heard, a minute passes.
//!
//! One noun, and over 500 lines: the decisions share the account's relay, trip and order.
//!
//! **Invariant:** an account has one order under way at most, and none is sent without the decision
//! made anew against the newest balance.

use meter::{
    AccountId, AlarmCode, Clearance, Closing, EventCode, LedgerKind, MeterId, Mode, ModeSwitch,
    Money, OrderId, OrderKind, OrderNews, OrderReason, OrderReport, OrderRow, OrderState, Relay,
    Seq, Subject, SupplyPolicy, SupplyTerms, TransformerId, Trip, UnixSeconds,
};

use crate::account::Movement;
use crate::alarm::{Panel, bit};
use crate::books::Books;
use crate::debt::Debt;
use crate::installed::{Meter, OPEN_END};
use crate::orders::{Order, Step};
use crate::receipts::Receipts;
use crate::snapshot::layout;

/// What is kept of an account beside its balance. Few accounts have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Supply {
    pub(crate) account: AccountId,
    is_protected: u8,
    pub(crate) is_closed: u8,
    emergency_below: Money,
    emergency_credit: Money,
    /// What came in lately, and what of it paid emergency credit back.
    pub(crate) receipts: Receipts,
    reconnect_at: Money,
    friendly: u32,
    pub(crate) debt: Debt,
    /// When the mode changes; zero while no switch waits.
    switch_at: UnixSeconds,
    switch_mode: u8,
    switch_share_bp: u32,
    switch_cap: Money,
    /// 1 prepaid, 2 postpaid since a switch; 0 as the terms say.
    mode: u8,
    relay: u8,
    /// When the relay was read back last as ordered; what a meter tells of before that is past.
    confirmed_at: UnixSeconds,
    /// Code of the [`Trip`]; 0 for none.
    trip: u8,
    alarms: u32,
    /// Orders made so far.
    orders: u32,
    /// No new order before.
    rest_until: UnixSeconds,
    /// The order under way, if there is one.
    open: Vec<Order>,
}

layout!(Supply {
    account,
    is_protected,
    is_closed,
    emergency_below,
    emergency_credit,
    receipts,
    reconnect_at,
    friendly,
    debt,
    switch_at,
    switch_mode,
    switch_share_bp,
    switch_cap,
    mode,
    relay,
    confirmed_at,
    trip,
    alarms,
    orders,
    rest_until,
    open,
});

/// The relay is closed, as far as the books know.
const CLOSED: u8 = 0;
/// An order opened it.
const OPEN: u8 = 1;
/// An order to open it was sent, and given up before its end was known.
const UNSURE: u8 = 2;

const fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::Prepaid => 1,
        Mode::Postpaid => 2,
    }
}

impl Supply {
    fn new(account: AccountId) -> Self {
        Self { account, ..Self::default() }
    }

    fn order(&self) -> Option<&Order> {
        self.open.first()
    }

    /// The mode since a switch, where there was one.
    pub(crate) const fn switched(&self) -> Option<Mode> {
        match self.mode {
            1 => Some(Mode::Prepaid),
            2 => Some(Mode::Postpaid),
            _ => None,
        }
    }
}

/// Whether an order holds, and why or why not.
type Verdict = Result<OrderReason, OrderReason>;

impl Books {
    /// What is kept of an account; made on first mention.
    pub(crate) fn supply(&mut self, id: AccountId) -> &mut Supply {
        self.supply.entry(id).or_insert_with(|| Supply::new(id))
    }

    pub(crate) fn set_supply_policy(&mut self, seq: Seq, policy: &SupplyPolicy) {
        self.reference.supply = *policy;
        let overdrawn = bit(AlarmCode::Overdrawn) as u16;
        let over = self.accounts.iter().filter(|account| account.alarms & overdrawn != 0);
        let over: Vec<AccountId> = over.map(|account| account.rest.id).collect();
        over.into_iter().for_each(|id| {
            self.supply(id);
        });
        self.decide_all(seq);
    }

    pub(crate) fn set_supply_terms(&mut self, seq: Seq, terms: &SupplyTerms) {
        let supply = self.supply(terms.account);
        supply.is_protected = u8::from(terms.is_protected);
        supply.emergency_below = terms.emergency_below;
        supply.emergency_credit = terms.emergency_credit;
        supply.reconnect_at = terms.reconnect_at;
        supply.friendly = terms.friendly.0;
        self.offer(seq, terms.account);
        self.decide(seq, terms.account);
    }

    pub(crate) fn switch_mode(&mut self, seq: Seq, switch: &ModeSwitch) {
        let supply = self.supply(switch.account);
        supply.switch_at = switch.at.max(UnixSeconds(1));
        supply.switch_mode = mode_code(switch.mode);
        (supply.switch_share_bp, supply.switch_cap) = (switch.share_bp, switch.cap);
        let now = self.reference.now;
        self.switch_when_due(seq, switch.account, now);
    }

    pub(crate) fn close(&mut self, seq: Seq, closing: &Closing) {
        let slot = self.account_slot(closing.account);
        let account = &mut self.accounts[slot as usize];
        account.rest.active_to = account.rest.active_to.min(closing.at);
        self.supply(closing.account).is_closed = 1;
        self.decide(seq, closing.account);
    }

    /// A person allows that a meter which tripped by itself is restored.
    pub(crate) fn clear_trip(&mut self, seq: Seq, clearance: &Clearance) {
        let Some(supply) = self.supply.get_mut(&clearance.account) else { return };
        if supply.trip == 0 {
            return;
        }
        (supply.trip, supply.relay, supply.rest_until) = (0, OPEN, UnixSeconds(0));
        self.trip_alarm(clearance.account, None, clearance.at, seq);
        self.decide_for(seq, clearance.account, Some(OrderReason::Cleared));
    }

    /// A new meter serves the account: nobody opened its relay.
    pub(crate) fn supply_new_meter(&mut self, seq: Seq, id: AccountId) {
        if !self.supply.contains_key(&id) {
            return;
        }
        self.advance(seq, id, Step::Void(OrderReason::Replaced));
        let supply = self.supply(id);
        (supply.relay, supply.trip, supply.rest_until) = (CLOSED, 0, UnixSeconds(0));
        supply.confirmed_at = UnixSeconds(0);
        self.decide(seq, id);
    }

    /// A relay was heard to open or close, at a time of the meter. What was before the relay was read
    /// back last is past: the order's own doing, or over.
    #[expect(clippy::wildcard_enum_match_arm, reason = "other events are not of the relay")]
    pub(crate) fn hear_relay(&mut self, seq: Seq, slot: u32, code: EventCode, at: UnixSeconds) {
        let Some(meter) = self.meters.get(slot as usize) else { return };
        let (id, alarms) = (meter.account, meter.alarms);
        if !id.is_some() || self.served_by(id) != Some(slot) {
            return;
        }
        let supply = self.supply.get(&id);
        if supply.is_some_and(|supply| at <= supply.confirmed_at) {
            return;
        }
        let order = supply.and_then(Supply::order).copied();
        let is_ours =
            |kind| order.is_some_and(|order| order.kind == kind && order.state == OrderState::Sent);
        match code {
            EventCode::RelayOpened if !is_ours(OrderKind::Disconnect) => {
                let supply = self.supply(id);
                if supply.relay != CLOSED || supply.trip != 0 {
                    supply.relay = OPEN;
                    return;
                }
                let trip = if alarms & bit(AlarmCode::Tamper) != 0 {
                    Trip::Tamper
                } else if alarms & bit(AlarmCode::Overload) != 0 {
                    Trip::Overload
                } else {
                    Trip::Meter
                };
                supply.trip = trip.code();
                self.advance(seq, id, Step::Void(OrderReason::Tripped));
                self.trip_alarm(id, Some(trip), at, seq);
            }
            EventCode::RelayClosed if !is_ours(OrderKind::Reconnect) => {
                let Some(supply) = self.supply.get_mut(&id) else { return };
                if supply.trip == 0 && supply.relay != CLOSED {
                    supply.relay = CLOSED;
                    self.decide(seq, id);
                }
            }
            _ => {}
        }
    }

    fn trip_alarm(&mut self, id: AccountId, trip: Option<Trip>, at: UnixSeconds, seq: Seq) {
        let Some(slot) = self.served_by(id) else { return };
        let meter = &mut self.meters[slot as usize];
        let (subject, rows) = (Subject::Meter(meter.rest.id), &mut self.out.effects.alarms);
        let mut panel = Panel { subject, on: &mut meter.alarms, seq, rows };
        match trip {
            Some(trip) => panel.raise(AlarmCode::SupplyTrip, at, trip.code().into()),
            None => panel.clear(AlarmCode::SupplyTrip, at, 0),
        }
    }

    /// What came of an order.
    pub(crate) fn order_news(&mut self, seq: Seq, report: &OrderReport) {
        let id = report.account;
        let order = self.supply.get(&id).and_then(Supply::order).copied();
        let Some(order) = order.filter(|order| order.number == report.order.number()) else {
            return;
        };
        let step = match report.news {
            OrderNews::Due => Step::Due(match order.kind {
                OrderKind::Disconnect => self.may_cut(id),
                OrderKind::Reconnect => self.may_restore(id),
            }),
            OrderNews::Read(relay) => Step::Read(relay),
            OrderNews::Refused => Step::Refused,
            OrderNews::Silent => Step::Silent,
        };
        if let Step::Read(relay) = step
            && order.state == OrderState::Sent
        {
            let supply = self.supply(id);
            supply.relay = if relay == Relay::Open { OPEN } else { CLOSED };
            if relay == order.wanted() {
                supply.confirmed_at = report.at;
            }
        }
        self.advance(seq, id, step);
        self.decide(seq, id);
    }

    /// Accounts whose alarms changed since this entry began.
    #[cold]
    pub(crate) fn crossed(&mut self, seq: Seq) {
        let mut crossed = Vec::new();
        for row in &self.out.effects.alarms[self.told..] {
            if let (Subject::Account(id), AlarmCode::Overdrawn) = (row.subject, row.code) {
                crossed.push(id);
            }
        }
        for id in crossed {
            if self.reference.supply.is_cutting {
                self.supply(id);
            }
            self.decide(seq, id);
        }
        self.told = self.out.effects.alarms.len();
    }

    /// Once a minute: switches that are due, orders that expire, offers, and decisions that a
    /// friendly period or an uncertain reading put off.
    pub(crate) fn sweep_supply(&mut self, seq: Seq, now: UnixSeconds) {
        let ids: Vec<AccountId> = self.supply.keys().copied().collect();
        for id in ids {
            self.switch_when_due(seq, id, now);
            self.advance(seq, id, Step::Time(now));
            self.offer(seq, id);
            self.decide(seq, id);
        }
    }

    fn decide_all(&mut self, seq: Seq) {
        let ids: Vec<AccountId> = self.supply.keys().copied().collect();
        ids.into_iter().for_each(|id| self.decide(seq, id));
    }

    /// Makes the order that is called for, or takes back the one that is not called for any more.
    pub(crate) fn decide(&mut self, seq: Seq, id: AccountId) {
        self.decide_for(seq, id, None);
    }

    fn decide_for(&mut self, seq: Seq, id: AccountId, why: Option<OrderReason>) {
        use OrderReason::{Friendly, Uncertain};
        let Some(supply) = self.supply.get(&id) else { return };
        match supply.order().map(|order| (order.kind, order.state)) {
            Some((OrderKind::Disconnect, state)) => match self.may_cut(id) {
                Ok(_) => return,
                // On its way already: what put it off for a while does not call it back.
                Err(Friendly | Uncertain) if state == OrderState::Sent => return,
                Err(reason) => self.advance(seq, id, Step::Void(reason)),
            },
            // Who is to be restored stays so, but for a meter that serves nobody here any more.
            Some((OrderKind::Reconnect, _)) => match self.may_restore(id) {
                Err(reason @ OrderReason::Replaced) => self.advance(seq, id, Step::Void(reason)),
                Ok(_) | Err(_) => return,
            },
            None => {}
        }
        let now = self.reference.now;
        let supply = self.supply(id);
        if now < supply.rest_until {
            return;
        }
        let relay = supply.relay;
        if relay != CLOSED
            && let Ok(reason) = self.may_restore(id)
        {
            // Supply that is paid for waits for nobody's turn.
            self.make_order(seq, id, OrderKind::Reconnect, why.unwrap_or(reason));
            self.advance(seq, id, Step::Due(Ok(why.unwrap_or(reason))));
        } else if relay != OPEN
            && let Ok(reason) = self.may_cut(id)
        {
            self.make_order(seq, id, OrderKind::Disconnect, reason);
        }
    }

    /// Whether an account may be cut off now.
    fn may_cut(&self, id: AccountId) -> Verdict {
        let (Some(supply), Some(account)) = (self.supply.get(&id), self.account(id)) else {
            return Err(OrderReason::Exempt);
        };
        let is_exempt = !self.reference.supply.is_cutting
            || account.rest.is_prepaid == 0
            || supply.is_protected == 1
            || supply.is_closed == 1;
        if is_exempt {
            return Err(OrderReason::Exempt);
        }
        if !is_overdrawn(account.balance(), account.rest.overdraft) || !account.has_moved() {
            return Err(OrderReason::Paid);
        }
        if supply.trip != 0 {
            return Err(OrderReason::Tripped);
        }
        let meter = self.served_by(id).and_then(|slot| self.meters.get(slot as usize));
        let Some(meter) = meter else { return Err(OrderReason::Replaced) };
        let friendly = match supply.friendly {
            0 => self.reference.supply.friendly.0,
            friendly => friendly,
        };
        if self.reference.is_friendly(account.rates, friendly) {
            return Err(OrderReason::Friendly);
        }
        if !meter.is_last_actual() {
            return Err(OrderReason::Uncertain);
        }
        Ok(OrderReason::Overdrawn)
    }

    /// Whether an account that was cut off may be restored now.
    fn may_restore(&self, id: AccountId) -> Verdict {
        let (Some(supply), Some(account)) = (self.supply.get(&id), self.account(id)) else {
            return Err(OrderReason::Exempt);
        };
        if supply.trip != 0 {
            return Err(OrderReason::Tripped);
        }
        if self.served_by(id).is_none() || supply.is_closed == 1 {
            return Err(OrderReason::Replaced);
        }
        if account.rest.is_prepaid == 0 || supply.is_protected == 1 {
            return Ok(OrderReason::Exempt);
        }
        let is_paid = account.balance() >= supply.reconnect_at
            && !is_overdrawn(account.balance(), account.rest.overdraft);
        if is_paid { Ok(OrderReason::Paid) } else { Err(OrderReason::Overdrawn) }
    }

    fn make_order(&mut self, seq: Seq, id: AccountId, kind: OrderKind, reason: OrderReason) {
        let (now, policy) = (self.reference.now, self.reference.supply);
        let meter = self.account(id).map_or(MeterId::NONE, |account| account.rest.meter);
        let supply = self.supply(id);
        supply.orders += 1;
        let order = Order {
            number: supply.orders,
            kind,
            state: OrderState::Decided,
            attempt: 0,
            meter,
            expires_at: now.plus(policy.order_s_max),
        };
        supply.open.push(order);
        self.tell_order(seq, id, &order, reason);
    }

    /// Takes the order under way a step on and tells of it.
    fn advance(&mut self, seq: Seq, id: AccountId, step: Step) {
        let (now, policy) = (self.reference.now, self.reference.supply);
        let Some(supply) = self.supply.get_mut(&id) else { return };
        let Some(order) = supply.open.first_mut() else { return };
        let was_sent = order.state == OrderState::Sent;
        let Some(reason) = order.step(step, &policy) else { return };
        let order = *order;
        if order.state.is_final() {
            supply.open.clear();
        }
        let may_be_open = was_sent && order.kind == OrderKind::Disconnect;
        let is_given_up = matches!(order.state, OrderState::Void | OrderState::Expired);
        if is_given_up && may_be_open && supply.relay == CLOSED {
            supply.relay = UNSURE;
        }
        if matches!(order.state, OrderState::Expired | OrderState::Failed) {
            supply.rest_until = now.plus(policy.retry_s.saturating_mul(policy.attempts_max.into()));
        }
        self.tell_order(seq, id, &order, reason);
        self.relay_alarm(seq, &order, now);
    }

    /// A relay that does not obey, and one that does again.
    fn relay_alarm(&mut self, seq: Seq, order: &Order, at: UnixSeconds) {
        let slot = self.newest_slot(order.meter);
        let Some(meter) = self.meters.get_mut(slot as usize) else { return };
        let (subject, rows) = (Subject::Meter(meter.rest.id), &mut self.out.effects.alarms);
        let mut panel = Panel { subject, on: &mut meter.alarms, seq, rows };
        match order.state {
            OrderState::Failed => panel.raise(AlarmCode::Relay, at, order.attempt.into()),
            OrderState::Done => panel.clear(AlarmCode::Relay, at, order.attempt.into()),
            OrderState::Decided | OrderState::Sent | OrderState::Void | OrderState::Expired => {}
        }
    }

    fn tell_order(&mut self, seq: Seq, id: AccountId, order: &Order, reason: OrderReason) {
        let balance = self.account(id).map_or(Money::ZERO, |account| account.balance());
        let slot = self.newest_slot(order.meter);
        let meter = self.meters.get(slot as usize);
        self.out.effects.orders.push(OrderRow {
            order: OrderId::new(id, order.number),
            account: id,
            meter: order.meter,
            transformer: meter.map_or(TransformerId::NONE, |meter| meter.transformer),
            kind: order.kind,
            state: order.state,
            reason,
            attempt: order.attempt,
            balance,
            at: self.reference.now,
            expires_at: order.expires_at,
            seq,
        });
    }

    /// Where the installation stands that serves an account now.
    fn served_by(&self, id: AccountId) -> Option<u32> {
        let account = self.account(id)?;
        let slot = self.newest_slot(account.rest.meter);
        let meter: &Meter = self.meters.get(slot as usize)?;
        (meter.account == id && meter.to == OPEN_END).then_some(slot)
    }

    fn account(&self, id: AccountId) -> Option<&crate::account::Account> {
        let slot = self.by_account.get(id.0 as usize)?;
        self.accounts.get(*slot as usize)
    }
}

/// Emergency credit, debt and mode.
impl Books {
    /// Offers emergency credit below its threshold, once until it is paid back.
    fn offer(&mut self, seq: Seq, id: AccountId) {
        let Some(account) = self.account(id) else { return };
        let (balance, is_prepaid) = (account.balance(), account.rest.is_prepaid == 1);
        let at = self.reference.now;
        let Some(supply) = self.supply.get_mut(&id) else { return };
        let is_open = is_prepaid
            && supply.emergency_credit > Money::ZERO
            && supply.receipts.emergency_out() == Money::ZERO;
        let (subject, rows) = (Subject::Account(id), &mut self.out.effects.alarms);
        let mut panel = Panel { subject, on: &mut supply.alarms, seq, rows };
        if is_open && balance < supply.emergency_below {
            panel.raise(AlarmCode::EmergencyOffered, at, supply.emergency_credit.ticks());
        } else {
            panel.clear(AlarmCode::EmergencyOffered, at, balance.ticks());
        }
    }

    /// The customer takes what was offered.
    pub(crate) fn take_emergency(&mut self, seq: Seq, id: AccountId) -> Option<Movement> {
        self.offer(seq, id);
        let supply = self.supply.get_mut(&id)?;
        if supply.alarms & bit(AlarmCode::EmergencyOffered) == 0 {
            return None;
        }
        supply.receipts.give(supply.emergency_credit);
        let cause = meter::Cause::Person(seq);
        let (kind, amount) = (LedgerKind::EmergencyGiven, supply.emergency_credit);
        Some(Movement { account: id, kind, amount, at: UnixSeconds(0), cause })
    }

    /// After money moved: an offer may be over, an order void, supply restored.
    pub(crate) fn after_money(&mut self, seq: Seq, id: AccountId) {
        if self.supply.contains_key(&id) {
            self.offer(seq, id);
            self.decide(seq, id);
        }
    }

    /// A switch of mode that is due. What is owed at a switch to prepaid becomes a debt: the
    /// balance begins at zero, and supply goes on.
    fn switch_when_due(&mut self, seq: Seq, id: AccountId, now: UnixSeconds) {
        let Some(supply) = self.supply.get_mut(&id) else { return };
        if supply.switch_at == UnixSeconds(0) || now < supply.switch_at {
            return;
        }
        let at = std::mem::take(&mut supply.switch_at);
        supply.mode = supply.switch_mode;
        let (share_bp, cap) = (supply.switch_share_bp, supply.switch_cap);
        let mode = supply.switched().unwrap_or(Mode::Prepaid);
        let slot = self.account_slot(id);
        let account = &mut self.accounts[slot as usize];
        account.set_mode(mode);
        let owed = Money::from_ticks(account.balance().ticks().saturating_neg());
        if mode == Mode::Prepaid && owed > Money::ZERO {
            let (kind, cause) = (LedgerKind::DebtAgreed, meter::Cause::Period(at));
            let movement = Movement { account: id, kind, amount: owed, at, cause };
            account.enter(movement, seq, &mut self.out.effects);
            self.supply(id).debt.agree(owed, share_bp, cap);
        }
        self.stand_account(id, at, seq);
        self.decide(seq, id);
    }
}

fn is_overdrawn(balance: Money, overdraft: Money) -> bool {
    i128::from(balance.ticks()) + i128::from(overdraft.ticks()) < 0
}
