//! Supply in the model: who may be cut off, who must have supply again, what a relay that moves by
//! itself means, and which step of an order may follow which. The node says when it took a step;
//! here is said whether it might, and whether it should have.

use std::collections::BTreeMap;

use meter::{
    AccountId, AlarmCode, Change, Clearance, EventCode, FriendlyCalendar, FriendlyId,
    LocalCalendar, MeterEvent, MeterId, Mode, Money, OrderKind, OrderNews, OrderReason,
    OrderReport, OrderRow, OrderState, Relay, Seq, Subject, SupplyPolicy, Trip, UnixSeconds,
};

use super::book::Book;
use super::service::Service;

/// What holds for all accounts.
#[derive(Debug)]
pub(super) struct Rules {
    policy: SupplyPolicy,
    friendlies: BTreeMap<FriendlyId, FriendlyCalendar>,
    /// Trips and their ends: the entry, the meter, what tripped it.
    trips: Vec<(Seq, MeterId, Option<Trip>)>,
}

impl Default for Rules {
    fn default() -> Self {
        let policy = SupplyPolicy::standard();
        Self { policy, friendlies: BTreeMap::new(), trips: Vec::new() }
    }
}

/// What is known of an account's relay, and what is under way there.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) closed_at: Option<UnixSeconds>,
    relay: Contact,
    /// When an order's end was read back last.
    confirmed_at: Option<UnixSeconds>,
    trip: Option<Trip>,
    /// The newest step of the order under way.
    order: Option<OrderRow>,
    /// Orders so far.
    orders: u32,
    rest_until: UnixSeconds,
}

/// The relay, as far as anybody knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Contact {
    #[default]
    Closed,
    Open,
    /// It was told to open, and nobody waited for the answer.
    Unsure,
}

impl Book {
    /// Trips of meters, and a person's word on each: the entry, the meter, what tripped it.
    #[must_use]
    pub fn trips(&self) -> &[(Seq, MeterId, Option<Trip>)] {
        &self.rules.trips
    }

    /// Whether an order of an account is under way.
    #[must_use]
    pub fn has_order(&self, id: AccountId) -> bool {
        self.accounts.get(&id).is_some_and(|holder| holder.line.order.is_some())
    }

    /// The notices that stand at this balance, each with whether it is given.
    #[must_use]
    pub fn levels(&self, id: AccountId, balance: i64) -> [(AlarmCode, bool); 3] {
        let terms = self.accounts.get(&id).and_then(|holder| holder.terms.as_ref());
        let is_prepaid = self.mode(id) == Mode::Prepaid;
        let [low, very_low] = terms.map_or([Money::ZERO; 2], |terms| terms.low_levels);
        [
            (AlarmCode::LowBalance, is_prepaid && balance < low.ticks()),
            (AlarmCode::VeryLowBalance, is_prepaid && balance < very_low.ticks()),
            (AlarmCode::Overdrawn, is_prepaid && self.is_overdrawn(id, balance)),
        ]
    }

    /// Holds a step of an order against the rules, as they stand after its entry.
    ///
    /// # Errors
    /// Why it may not have been taken.
    pub fn ordered(&mut self, row: &OrderRow) -> Result<(), &'static str> {
        use OrderState::{Decided, Done, Expired, Failed, Sent, Void};
        let (id, is_cut) = (row.account, row.kind == OrderKind::Disconnect);
        let holds = match row.kind {
            OrderKind::Disconnect => self.may_cut(id, row.balance.ticks()),
            OrderKind::Reconnect => self.may_restore(id, row.balance.ticks()),
        };
        let (now, policy) = (self.now, self.rules.policy);
        let line = self.line(id);
        let before = line.order.take();
        if !row.state.is_final() {
            line.order = Some(*row);
        }
        let is_same = before.is_none_or(|old| (old.order, old.kind) == (row.order, row.kind));
        let must = |holds: bool, why| if holds { Ok(()) } else { Err(why) };
        must(is_same, "two orders at once")?;
        must(row.at == now, "a step at another time than the log's")?;
        let attempt = before.map_or(0, |old| old.attempt);
        match (before.map(|old| old.state), row.state) {
            (None, Decided) => {
                line.orders += 1;
                must(holds.is_ok(), "decided against the rules")?;
                must(row.order.number() == line.orders, "an order out of its turn")?;
                must(row.attempt == 0 && now >= line.rest_until, "an order before its time")?;
                let useless = if is_cut { Contact::Open } else { Contact::Closed };
                must(line.relay != useless, "an order for what is done")
            }
            (Some(Decided), Sent) => {
                must(row.attempt == attempt + 1, "an attempt left out")?;
                must(holds.is_ok(), "sent against the rules")
            }
            (Some(Sent), Decided) => must(attempt < policy.attempts_max, "tried too often"),
            (Some(Sent), Done) => {
                line.relay = if is_cut { Contact::Open } else { Contact::Closed };
                Ok(())
            }
            (Some(Sent), Failed) => {
                line.rest(now, &policy);
                must(attempt >= policy.attempts_max, "given up too early")
            }
            (Some(state @ (Decided | Sent)), Expired | Void) => {
                if state == Sent && is_cut && line.relay == Contact::Closed {
                    line.relay = Contact::Unsure;
                }
                if row.state == Expired {
                    line.rest(now, &policy);
                    return must(now >= row.expires_at, "expired before its time");
                }
                let is_put_off =
                    matches!(holds, Err(OrderReason::Friendly | OrderReason::Uncertain));
                must(
                    !(is_cut && state == Sent && is_put_off),
                    "called back for what is no pardon",
                )?;
                let is_moot = row.reason == OrderReason::Replaced;
                must(holds.is_err() || is_moot, "void, and still called for")
            }
            _ => Err("a step that cannot follow"),
        }
    }

    /// What ought to be under way at an account that was looked at in this entry, and is not.
    #[must_use]
    pub fn overdue(&self, id: AccountId, balance: i64) -> Option<&'static str> {
        let line = &self.accounts.get(&id)?.line;
        if let Some(order) = line.order {
            if order.expires_at <= self.now {
                return Some("an order is past its time");
            }
            if order.kind == OrderKind::Reconnect {
                return None;
            }
            let is_sent = order.state == OrderState::Sent;
            return match self.may_cut(id, balance) {
                Err(OrderReason::Friendly | OrderReason::Uncertain) if is_sent => None,
                Err(_) => Some("an order to cut off that nothing calls for is under way"),
                Ok(()) => None,
            };
        }
        if self.now < line.rest_until {
            return None;
        }
        if line.relay != Contact::Closed && self.may_restore(id, balance).is_ok() {
            return Some("whoever has paid is left cut off");
        }
        let is_owing = line.relay != Contact::Open && self.may_cut(id, balance).is_ok();
        is_owing.then_some("whoever has nothing left is not cut off")
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told apart before")]
    pub(super) fn supply(&mut self, change: &Change) {
        match change {
            Change::SupplyPolicy(policy) => self.rules.policy = *policy,
            Change::Friendly(calendar) => {
                self.rules.friendlies.insert(calendar.friendly, calendar.clone());
            }
            Change::Close(closing) => {
                self.line(closing.account).closed_at.get_or_insert(closing.at);
                self.looks.insert(closing.account);
            }
            Change::Clear(clearance) => self.clear(clearance),
            Change::Order(report) => self.hear_order(report),
            _ => {}
        }
    }

    /// A new meter: nobody opened its relay.
    pub(super) fn new_line(&mut self, id: AccountId) {
        let line = self.line(id);
        (line.relay, line.trip, line.rest_until) = (Contact::Closed, None, UnixSeconds(0));
        line.confirmed_at = None;
    }

    /// What a meter tells beside its readings.
    #[expect(clippy::wildcard_enum_match_arm, reason = "other events move no relay")]
    pub(super) fn hear(&mut self, event: &MeterEvent) {
        let Subject::Meter(meter) = event.subject else { return };
        let at = event.taken_at;
        let serves = |s: &Service| s.meter == meter && s.from <= at && at < s.to;
        let place = self.services.iter().position(serves);
        let place = place.or_else(|| self.services.iter().rposition(|s| s.meter == meter));
        let Some(place) = place else { return };
        match event.code {
            EventCode::Tamper => self.services[place].is_tampered = true,
            EventCode::TamperEnd => self.services[place].is_tampered = false,
            EventCode::RelayOpened | EventCode::RelayClosed => {
                let id = self.services[place].account;
                // What was before the relay was last seen to stand as ordered is past.
                let is_news = self.line(id).confirmed_at.is_none_or(|seen| seen < at);
                if is_news && self.serving(id) == Some(place) {
                    self.hear_relay(id, place, event.code == EventCode::RelayOpened);
                }
            }
            _ => {}
        }
    }

    /// A relay moved: as ordered, or by itself.
    fn hear_relay(&mut self, id: AccountId, place: usize, is_open: bool) {
        let kind = if is_open { OrderKind::Disconnect } else { OrderKind::Reconnect };
        let Service { meter, is_tampered, is_overloaded, .. } = self.services[place];
        let seq = self.seq;
        let line = self.line(id);
        if line.order.is_some_and(|order| (order.kind, order.state) == (kind, OrderState::Sent)) {
            return;
        }
        if !is_open {
            if line.trip.is_none() && line.relay != Contact::Closed {
                line.relay = Contact::Closed;
                self.looks.insert(id);
            }
        } else if line.relay != Contact::Closed || line.trip.is_some() {
            line.relay = Contact::Open;
        } else {
            let trip = match (is_tampered, is_overloaded) {
                (true, _) => Trip::Tamper,
                (false, true) => Trip::Overload,
                (false, false) => Trip::Meter,
            };
            line.trip = Some(trip);
            self.rules.trips.push((seq, meter, Some(trip)));
        }
    }

    /// A person's word: the meter that tripped may have its supply again.
    fn clear(&mut self, clearance: &Clearance) {
        let id = clearance.account;
        let (seq, place) = (self.seq, self.serving(id));
        let line = self.line(id);
        if line.trip.take().is_none() {
            return;
        }
        (line.relay, line.rest_until) = (Contact::Open, UnixSeconds(0));
        self.looks.insert(id);
        if let Some(place) = place {
            let meter = self.services[place].meter;
            self.rules.trips.push((seq, meter, None));
        }
    }

    /// The relay was read back.
    fn hear_order(&mut self, report: &OrderReport) {
        let line = self.line(report.account);
        let Some(order) = line.order.filter(|order| order.order == report.order) else { return };
        if let (OrderNews::Read(relay), OrderState::Sent) = (report.news, order.state) {
            line.relay = if relay == Relay::Open { Contact::Open } else { Contact::Closed };
            if (relay == Relay::Open) == (order.kind == OrderKind::Disconnect) {
                line.confirmed_at = Some(report.at);
            }
        }
        self.looks.insert(report.account);
    }

    fn line(&mut self, id: AccountId) -> &mut Line {
        &mut self.accounts.entry(id).or_default().line
    }

    /// Whether an account may be cut off at this balance, as far as the rules of now say.
    ///
    /// # Errors
    /// Why not.
    pub fn may_cut(&self, id: AccountId, balance: i64) -> Result<(), OrderReason> {
        let holder = self.accounts.get(&id).ok_or(OrderReason::Exempt)?;
        let terms = holder.owing.terms;
        let is_protected = terms.is_some_and(|terms| terms.is_protected);
        let is_for_cutting = self.rules.policy.is_cutting && self.mode(id) == Mode::Prepaid;
        let rules = [
            (
                is_for_cutting && !is_protected && holder.line.closed_at.is_none(),
                OrderReason::Exempt,
            ),
            (self.is_overdrawn(id, balance), OrderReason::Paid),
            (holder.line.trip.is_none(), OrderReason::Tripped),
            (self.serving(id).is_some(), OrderReason::Replaced),
            (!self.is_friendly(id), OrderReason::Friendly),
            (self.is_last_reading_actual(id), OrderReason::Uncertain),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
    }

    /// Whether an account may have its supply again at this balance.
    fn may_restore(&self, id: AccountId, balance: i64) -> Result<(), OrderReason> {
        let holder = self.accounts.get(&id).ok_or(OrderReason::Exempt)?;
        let terms = holder.owing.terms;
        let is_protected = terms.is_some_and(|terms| terms.is_protected);
        let threshold = terms.map_or(0, |terms| terms.reconnect_at.ticks());
        let is_paid = balance >= threshold && !self.is_overdrawn(id, balance);
        let is_owed = is_paid || is_protected || self.mode(id) == Mode::Postpaid;
        let is_served = self.serving(id).is_some() && holder.line.closed_at.is_none();
        match holder.line.trip {
            Some(_) => Err(OrderReason::Tripped),
            None if !is_served => Err(OrderReason::Replaced),
            None if !is_owed => Err(OrderReason::Overdrawn),
            None => Ok(()),
        }
    }

    fn is_overdrawn(&self, id: AccountId, balance: i64) -> bool {
        let terms = self.accounts.get(&id).and_then(|holder| holder.terms.as_ref());
        balance + terms.map_or(0, |terms| terms.overdraft.ticks()) < 0
    }

    /// The installation that serves an account now.
    fn serving(&self, id: AccountId) -> Option<usize> {
        let place = self.services.iter().rposition(|service| service.account == id)?;
        let service = &self.services[place];
        let is_newest = self.services[place + 1..].iter().all(|s| s.meter != service.meter);
        (is_newest && service.to == UnixSeconds(u32::MAX)).then_some(place)
    }

    /// Whether nobody is cut off now: by the account's calendar, else by the policy's.
    fn is_friendly(&self, id: AccountId) -> bool {
        let Some(holder) = self.accounts.get(&id) else { return false };
        let own = holder.owing.terms.map(|terms| terms.friendly).filter(|own| own.is_some());
        let named = own.unwrap_or(self.rules.policy.friendly);
        let Some(friendly) = self.rules.friendlies.get(&named) else { return false };
        let zone = holder.terms.as_ref().map_or("UTC", |terms| terms.zone.as_str());
        let calendar = LocalCalendar::new(zone).expect("the story's zones are known");
        let local = calendar.local(self.now);
        let is_holiday = friendly.holidays.is_some() && self.holidays.contains(&local.date);
        let spans = friendly.week.get(usize::from(local.date.weekday())).into_iter().flatten();
        let mut quarters = spans.flat_map(|span| span.from..span.to);
        is_holiday || quarters.any(|quarter| quarter == local.quarter)
    }

    /// Whether the newest reading is a meter's own, and the expected one before it is there.
    fn is_last_reading_actual(&self, id: AccountId) -> bool {
        let Some(service) = self.serving(id).map(|place| &self.services[place]) else {
            return false;
        };
        let mut known = service.known.iter().rev().filter(|(_, known)| known.by <= self.seq);
        let Some((newest, last)) = known.next() else { return false };
        let period_s = self.records.get(&service.meter).map_or(0, |record| record.period_s);
        let is_near = |(before, _): (&UnixSeconds, _)| newest.since(*before) < 2 * period_s;
        !last.is_anchor && known.next().is_none_or(is_near)
    }
}

impl Line {
    /// After an order that came to nothing the next one waits.
    fn rest(&mut self, now: UnixSeconds, policy: &SupplyPolicy) {
        self.rest_until = now.plus(policy.retry_s * u32::from(policy.attempts_max));
    }
}
