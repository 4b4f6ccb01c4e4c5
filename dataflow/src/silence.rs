//! Silence, by ticks alone: meters without a reading, gaps whose end is not known yet, gateways
//! whose link is down.

use meter::{
    AlarmCode, Effects, EventCode, GapState, GatewayId, MeterEvent, Policy, Seq, Subject,
    UnixSeconds,
};

use crate::alarm::Panel;
use crate::gap::RowOf;
use crate::installed::{Meter, OPEN_END};
use crate::snapshot::layout;

/// What a tick tells of one meter: its deadline has passed, and so has its patience.
#[inline]
pub(crate) fn watch_meter(
    meter: &mut Meter,
    now: UnixSeconds,
    (policy, period_s): (&Policy, u32),
    seq: Seq,
    effects: &mut Effects,
) {
    let newest = if meter.is_empty() { meter.rest.from } else { meter.newest };
    let since = now.since(newest);
    if since <= period_s || meter.to != OPEN_END {
        return;
    }
    let deadline = period_s.saturating_add(policy.gap_grace_s);
    if since > deadline && !meter.has(Meter::TAIL_GAP) {
        meter.set(Meter::TAIL_GAP, true);
        let row = RowOf { meter: meter.rest.id, period_s, rev: seq };
        let missing = since / period_s;
        let open = row.of(newest, UnixSeconds(0), GapState::Open);
        effects.gaps.push(meter::GapRow { missing, ..open });
    }
    if since > period_s.saturating_mul(policy.silent_periods) {
        let (subject, rows) = (Subject::Meter(meter.rest.id), &mut effects.alarms);
        let mut panel = Panel { subject, on: &mut meter.alarms, seq, rows };
        panel.raise(AlarmCode::MeterSilent, now, i64::from(since));
    }
}

/// A gateway's link and mains.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gateway {
    id: GatewayId,
    alarms: u32,
    /// Since when its link is down; zero while it is up.
    down_since: UnixSeconds,
    /// 1 when it said that it lost its mains: that is no silence.
    is_dark: u8,
}

layout!(Gateway { id, alarms, down_since, is_dark });

impl Gateway {
    pub(crate) fn new(id: GatewayId) -> Self {
        Self { id, ..Self::default() }
    }

    pub(crate) const fn id(&self) -> GatewayId {
        self.id
    }

    pub(crate) fn hear(&mut self, event: &MeterEvent, seq: Seq, effects: &mut Effects) {
        let at = event.taken_at;
        let mut panel = Panel {
            subject: Subject::Gateway(self.id),
            on: &mut self.alarms,
            seq,
            rows: &mut effects.alarms,
        };
        match event.code {
            EventCode::LinkUp => {
                self.down_since = UnixSeconds(0);
                self.is_dark = 0;
                panel.clear(AlarmCode::GatewaySilent, at, 0);
                panel.clear(AlarmCode::PowerDown, at, 0);
            }
            EventCode::LinkDown => self.down_since = at.max(UnixSeconds(1)),
            EventCode::PowerDown => {
                self.is_dark = 1;
                panel.raise(AlarmCode::PowerDown, at, 0);
            }
            EventCode::PowerUp => {
                self.is_dark = 0;
                panel.clear(AlarmCode::PowerDown, at, 0);
            }
            EventCode::Tamper => panel.raise(AlarmCode::Tamper, at, 0),
            EventCode::TamperEnd => panel.clear(AlarmCode::Tamper, at, 0),
            EventCode::Clock => panel.raise(AlarmCode::Clock, at, 0),
            // A gateway has no relay and meters nothing.
            EventCode::RelayOpened
            | EventCode::RelayClosed
            | EventCode::RelayFailed
            | EventCode::ReverseEnergy => {}
        }
    }

    pub(crate) fn tick(
        &mut self,
        now: UnixSeconds,
        policy: &Policy,
        seq: Seq,
        effects: &mut Effects,
    ) {
        let since = now.since(self.down_since);
        if self.down_since == UnixSeconds(0) || self.is_dark == 1 || since <= policy.gap_grace_s {
            return;
        }
        let (subject, rows) = (Subject::Gateway(self.id), &mut effects.alarms);
        let mut panel = Panel { subject, on: &mut self.alarms, seq, rows };
        panel.raise(AlarmCode::GatewaySilent, now, i64::from(since));
    }
}

/// An event of a meter.
pub(crate) fn hear_meter(meter: &mut Meter, event: &MeterEvent, seq: Seq, effects: &mut Effects) {
    let at = event.taken_at;
    let newest = meter.newest;
    let (subject, rows) = (Subject::Meter(meter.rest.id), &mut effects.alarms);
    let mut panel = Panel { subject, on: &mut meter.alarms, seq, rows };
    match event.code {
        EventCode::PowerDown => {
            panel.raise(AlarmCode::PowerDown, at, 0);
            // A reading from after the outage came first.
            if newest > at {
                panel.clear(AlarmCode::PowerDown, newest, 0);
            }
        }
        EventCode::PowerUp => panel.clear(AlarmCode::PowerDown, at, 0),
        EventCode::Tamper => panel.raise(AlarmCode::Tamper, at, 0),
        EventCode::TamperEnd => panel.clear(AlarmCode::Tamper, at, 0),
        EventCode::RelayFailed => panel.raise(AlarmCode::Relay, at, 0),
        EventCode::RelayOpened | EventCode::RelayClosed => panel.clear(AlarmCode::Relay, at, 0),
        EventCode::Clock => panel.raise(AlarmCode::Clock, at, 0),
        EventCode::ReverseEnergy => panel.raise(AlarmCode::ReverseEnergy, at, 0),
        EventCode::LinkUp | EventCode::LinkDown => {}
    }
}
