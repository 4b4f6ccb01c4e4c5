//! A meter of the model while it serves: its samples, what becomes of each reading, what persons say
//! of its register.

use std::collections::BTreeMap;

use meter::{
    AccountId, Decision, Energy, Fields, Installation, MeterId, Outcome, QuarantineReason, Reading,
    Removal, Resolution, Seq, UnixSeconds,
};

use super::book::Book;

/// A meter while it serves.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) meter: MeterId,
    pub(super) account: AccountId,
    pub(super) from: UnixSeconds,
    pub(super) to: UnixSeconds,
    /// What is known of the register, by stamp.
    pub(super) known: BTreeMap<UnixSeconds, Known>,
    /// The newest reading that the doctor turned away, until one in order or a person's word.
    suspect: Option<(UnixSeconds, u64)>,
    /// Cover, terminal or magnet, until it said that it is over.
    pub(super) is_tampered: bool,
    /// By the newest readings that told a current.
    pub(super) is_overloaded: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) register: u64,
    /// A person read it; no reading has come for it yet.
    pub(super) is_anchor: bool,
    /// A new register begins here.
    pub(super) is_epoch: bool,
    /// From this entry on it counts.
    pub(super) by: Seq,
}

impl Book {
    /// Neighbouring samples with the register's rise between them, where that is billed.
    pub(super) fn each_pair(
        &self,
        service: &Service,
        mut give: impl FnMut((UnixSeconds, Energy), (UnixSeconds, Energy)),
    ) {
        let modulus = self.modulus(service.meter);
        let mut before: Option<(UnixSeconds, u64)> = None;
        for (&at, known) in service.known.iter().filter(|(_, known)| known.by <= self.seq) {
            if let Some((from, register)) = before.filter(|_| !known.is_epoch) {
                let rolled = if known.register < register { modulus } else { 0 };
                let to = Energy::from_wh(known.register + rolled);
                give((from, Energy::from_wh(register)), (at, to));
            }
            before = Some((at, known.register));
        }
    }

    fn modulus(&self, meter: MeterId) -> u64 {
        let digits = self.records.get(&meter).map_or(0, |record| record.register_digits);
        1000 * 10_u64.pow(digits.into())
    }

    /// The doctor's word on two neighbours.
    fn judge(
        &self,
        meter: MeterId,
        a: (UnixSeconds, u64),
        b: (UnixSeconds, u64),
    ) -> Result<(), QuarantineReason> {
        let record = &self.records[&meter];
        let microwatts = u128::from(record.current_max.ma())
            * u128::from(record.voltage_nominal.mv())
            * u128::from(record.phases);
        let seconds = u128::from(b.0.0 - a.0.0);
        // Wh ≤ W · s / 3600 · 1.1
        let can_rise = |rise: u128| rise * 3600 * 10 * 1_000_000 <= microwatts * seconds * 11;
        if b.1 >= a.1 {
            let rise = u128::from(b.1 - a.1);
            return if can_rise(rise) { Ok(()) } else { Err(QuarantineReason::Spike) };
        }
        let modulus = self.modulus(meter);
        let left = modulus.checked_sub(a.1).map(u128::from);
        let near = left.filter(|left| left * 3600 * 1_000_000 <= microwatts * 86_400);
        match near {
            Some(left) if can_rise(left + u128::from(b.1)) => Ok(()),
            _ => Err(QuarantineReason::Backwards),
        }
    }

    /// What becomes of a reading; it counts from the entry `by` on.
    pub(super) fn reading(&mut self, reading: &Reading, by: Seq) -> Outcome {
        let (meter, at) = (reading.meter, reading.taken_at);
        let quarantined = Outcome::Quarantined;
        let of_meter = || self.services.iter().filter(|service| service.meter == meter);
        if of_meter().next().is_none() {
            return quarantined(QuarantineReason::NotInstalled);
        }
        if of_meter().all(|service| at < service.from) {
            return quarantined(QuarantineReason::BeforeInstallation);
        }
        let place = self
            .services
            .iter()
            .position(|service| service.meter == meter && service.from <= at && at < service.to);
        let Some(place) = place else { return quarantined(QuarantineReason::AfterRemoval) };
        if at.since(reading.received_at) > self.policy.future_s_max {
            return quarantined(QuarantineReason::Future);
        }
        let register = reading.register.wh();
        let outcome = self.judge_in(place, at, register);
        if outcome == Outcome::Accepted {
            self.watch_current(place, reading);
        }
        let service = &mut self.services[place];
        let is_in_order = service.known.last_key_value().is_none_or(|(newest, _)| at > *newest);
        match outcome {
            Outcome::Accepted => {
                // One that a person read before counts already.
                let by = service.known.get(&at).map_or(by, |known| known.by);
                service.known.insert(at, Known { register, is_anchor: false, is_epoch: false, by });
                service.suspect = service.suspect.filter(|_| !is_in_order);
            }
            Outcome::Quarantined(_) if is_in_order => {
                if service.suspect == Some((at, register)) {
                    return Outcome::Duplicate;
                }
                // Of several the newest by its stamp is remembered.
                if service.suspect.is_none_or(|(newest, _)| at > newest) {
                    service.suspect = Some((at, register));
                }
            }
            Outcome::Quarantined(_) | Outcome::Duplicate | Outcome::Parked => {}
        }
        outcome
    }

    /// Of a newest reading: whether more current flows than the meter is made for.
    fn watch_current(&mut self, place: usize, reading: &Reading) {
        let service = &mut self.services[place];
        if service.known.keys().next_back().is_some_and(|newest| reading.taken_at < *newest) {
            return;
        }
        let phases = Fields::CURRENT.into_iter().zip(reading.current);
        let told = phases.filter(|(field, _)| reading.fields.has(*field));
        let Some(most) = told.map(|(_, current)| u64::from(current.ma())).max() else { return };
        let rated = u64::from(self.records[&service.meter].current_max.ma());
        let share = |milli: u32| rated * u64::from(milli) / 1000;
        if most > share(self.policy.alarms.overload_raise) {
            service.is_overloaded = true;
        } else if most <= share(self.policy.alarms.overload_clear) {
            service.is_overloaded = false;
        }
    }

    /// A reading in time, of a meter that serves then.
    fn judge_in(&self, place: usize, at: UnixSeconds, register: u64) -> Outcome {
        let service = &self.services[place];
        let Some((&newest, _)) = service.known.last_key_value() else { return Outcome::Accepted };
        if newest.since(at) > self.policy.horizon_s {
            return Outcome::Quarantined(QuarantineReason::TooOld);
        }
        if let Some(known) = service.known.get(&at) {
            return match known.register == register {
                false => Outcome::Quarantined(QuarantineReason::Conflict),
                true if known.is_anchor => Outcome::Accepted,
                true => Outcome::Duplicate,
            };
        }
        let before = service.known.range(..at).next_back();
        let after = service.known.range(at..).next();
        if let Some((from, known)) = before
            && let Err(reason) = self.judge(service.meter, (*from, known.register), (at, register))
        {
            return Outcome::Quarantined(reason);
        }
        if let Some((to, known)) = after.filter(|(_, known)| !known.is_epoch)
            && self.judge(service.meter, (at, register), (*to, known.register)).is_err()
        {
            return Outcome::Quarantined(QuarantineReason::Spike);
        }
        Outcome::Accepted
    }

    pub(super) fn resolve(&mut self, resolution: &Resolution) {
        let Resolution { meter, taken_at: at, seq, register, decision } = *resolution;
        let Some(place) = self.services.iter().rposition(|s| s.meter == meter) else { return };
        let (service, by) = (&mut self.services[place], self.seq);
        if at < service.from || at >= service.to {
            return;
        }
        service.suspect = None;
        let outcome = match decision {
            Decision::Reject => Outcome::Quarantined(QuarantineReason::Rejected),
            Decision::NewEpoch => {
                let register = register.wh();
                service.known.insert(at, Known { register, is_anchor: false, is_epoch: true, by });
                Outcome::Accepted
            }
        };
        self.outcomes.insert(seq, outcome);
    }

    pub(super) fn install(&mut self, installation: &Installation) {
        let Installation { meter, account, at, start } = *installation;
        let known = start.map(|start| (at, self.read_by_hand(start)));
        let to = UnixSeconds(u32::MAX);
        let known = known.into_iter().collect();
        self.services.push(Service {
            meter,
            account,
            from: at,
            to,
            known,
            suspect: None,
            is_tampered: false,
            is_overloaded: false,
        });
        self.new_line(account);
    }

    /// A register that a person read.
    const fn read_by_hand(&self, register: Energy) -> Known {
        Known { register: register.wh(), is_anchor: true, is_epoch: false, by: self.seq }
    }

    pub(super) fn remove(&mut self, removal: &Removal) {
        let Removal { meter, at, end } = *removal;
        let Some(place) = self.services.iter().rposition(|service| service.meter == meter) else {
            return;
        };
        self.services[place].to = at;
        let newest = self.services[place].known.last_key_value();
        let newest = newest.map(|(at, known)| (*at, known.register));
        let is_good =
            newest.is_some_and(|newest| self.judge(meter, newest, (at, end.wh())).is_ok());
        if is_good {
            let known = self.read_by_hand(end);
            self.services[place].known.insert(at, known);
        }
    }
}
