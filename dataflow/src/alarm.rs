//! Alarms: which are on, how they are raised and cleared with hysteresis.

use meter::{
    AlarmCode, AlarmPolicy, AlarmRow, AlarmState, Current, Fields, Money, Seq, Severity, Subject,
    UnixSeconds, Voltage,
};

use crate::account::Account;
use crate::class::Class;
use crate::sample::{Sample, has_other_phases};

/// Values of a meter that raise an alarm when none is on: a shortcut for readings in order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Thresholds {
    /// Raised above, mV.
    over_mv: u32,
    /// Raised below, mV.
    under_mv: u32,
    /// Raised above, mA.
    overload_ma: u32,
}

impl Thresholds {
    pub(crate) fn of(nominal: Voltage, rated: Current, policy: &AlarmPolicy) -> Self {
        let nominal = nominal.mv();
        Self {
            over_mv: share(nominal, policy.over_voltage_raise),
            under_mv: share(nominal, policy.under_voltage_raise),
            overload_ma: share(rated.ma(), policy.overload_raise),
        }
    }

    /// Whether a sample is far from every alarm.
    #[inline]
    pub(crate) fn is_quiet(
        &self,
        fields: Fields,
        voltage: &[Voltage; 3],
        current: &[Current; 3],
    ) -> bool {
        let is_phase_quiet = |phase: usize| {
            let is_within = (self.under_mv..=self.over_mv).contains(&voltage[phase].mv());
            (is_within | !fields.has(Fields::VOLTAGE[phase]))
                & (current[phase].ma() <= self.overload_ma)
        };
        is_phase_quiet(0) && (!has_other_phases(fields) || is_phase_quiet(1) & is_phase_quiet(2))
    }
}

/// `value · milli / 1000`, rounded down.
fn share(value: u32, milli: u32) -> u32 {
    u32::try_from(u64::from(value) * u64::from(milli) / 1000).unwrap_or(u32::MAX)
}

/// Where the alarms of one subject are raised and cleared.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    pub(crate) subject: Subject,
    /// Those that are on, a bit each.
    pub(crate) on: &'a mut u32,
    pub(crate) seq: Seq,
    pub(crate) rows: &'a mut Vec<AlarmRow>,
}

impl Panel<'_> {
    pub(crate) const fn is_on(&self, code: AlarmCode) -> bool {
        *self.on & bit(code) != 0
    }

    /// Raises an alarm that is not on.
    pub(crate) fn raise(&mut self, code: AlarmCode, at: UnixSeconds, value: i64) {
        if !self.is_on(code) {
            *self.on |= bit(code);
            self.row(code, AlarmState::Raised, at, value);
        }
    }

    /// Clears an alarm that is on.
    pub(crate) fn clear(&mut self, code: AlarmCode, at: UnixSeconds, value: i64) {
        if self.is_on(code) {
            *self.on &= !bit(code);
            self.row(code, AlarmState::Cleared, at, value);
        }
    }

    /// Raises when `value` is past `raise`, clears when it is back at `clear`; between the two
    /// nothing changes. `past` says which way is worse.
    pub(crate) fn watch(&mut self, code: AlarmCode, at: UnixSeconds, watch: Watch) {
        let Watch { value, raise, clear, past } = watch;
        let (is_past, is_back) = match past {
            Past::Above => (value > raise, value <= clear),
            Past::Below => (value < raise, value >= clear),
        };
        if is_past {
            self.raise(code, at, value);
        } else if is_back {
            self.clear(code, at, value);
        }
    }

    fn row(&mut self, code: AlarmCode, state: AlarmState, at: UnixSeconds, value: i64) {
        let (subject, seq, severity) = (self.subject, self.seq, severity(code));
        self.rows.push(AlarmRow { subject, code, severity, state, at, value, seq });
    }
}

/// A value and the pair of thresholds it is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    pub(crate) value: i64,
    pub(crate) raise: i64,
    pub(crate) clear: i64,
    pub(crate) past: Past,
}

/// Which way is worse.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Past {
    Above,
    Below,
}

/// The bit of an alarm among those that are on.
pub(crate) const fn bit(code: AlarmCode) -> u32 {
    1 << code.code()
}

/// Alarms of a meter that an accepted newer reading may end or begin.
#[cold]
pub(crate) fn electrical(
    panel: &mut Panel<'_>,
    sample: &Sample,
    class: &Class,
    policy: &AlarmPolicy,
) {
    let at = sample.at;
    panel.clear(AlarmCode::MeterSilent, at, 0);
    panel.clear(AlarmCode::PowerDown, at, 0);
    panel.clear(AlarmCode::Clock, at, 0);
    if sample.fields.has(Fields::POWER) && sample.power.w() >= 0 {
        panel.clear(AlarmCode::ReverseEnergy, at, i64::from(sample.power.w()));
    }
    let phases = Fields::VOLTAGE.into_iter().zip(sample.voltage);
    let volts = phases.filter(|(field, _)| sample.fields.has(*field)).map(|(_, v)| v.mv());
    let (nominal, rated) = (class.voltage_nominal.mv(), class.current_max.ma());
    let limit = |rated, milli| i64::from(share(rated, milli));
    if let Some(most) = volts.clone().max() {
        panel.watch(
            AlarmCode::OverVoltage,
            at,
            Watch {
                value: i64::from(most),
                raise: limit(nominal, policy.over_voltage_raise),
                clear: limit(nominal, policy.over_voltage_clear),
                past: Past::Above,
            },
        );
    }
    if let Some(least) = volts.min() {
        panel.watch(
            AlarmCode::UnderVoltage,
            at,
            Watch {
                value: i64::from(least),
                raise: limit(nominal, policy.under_voltage_raise),
                clear: limit(nominal, policy.under_voltage_clear),
                past: Past::Below,
            },
        );
    }
    let phases = Fields::CURRENT.into_iter().zip(sample.current);
    let amps = phases.filter(|(field, _)| sample.fields.has(*field)).map(|(_, a)| a.ma());
    if let Some(most) = amps.max() {
        panel.watch(
            AlarmCode::Overload,
            at,
            Watch {
                value: i64::from(most),
                raise: limit(rated, policy.overload_raise),
                clear: limit(rated, policy.overload_clear),
                past: Past::Above,
            },
        );
    }
}

/// The balances between two neighbouring levels: from this on, and below that. Empty until it is
/// known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Quiet {
    from: i64,
    below: i64,
}

impl Quiet {
    fn around(value: i64, levels: impl Iterator<Item = i64> + Clone) -> Self {
        let from = levels.clone().filter(|level| *level <= value).max();
        let below = levels.filter(|level| *level > value).min();
        Self { from: from.unwrap_or(i64::MIN), below: below.unwrap_or(i64::MAX) }
    }

    #[inline]
    fn holds(self, balance: Money) -> bool {
        (self.from..self.below).contains(&balance.ticks())
    }
}

/// Alarms of an account after its balance moved: one notice per crossing.
#[inline]
pub(crate) fn balance(account: &mut Account, at: UnixSeconds, seq: Seq, rows: &mut Vec<AlarmRow>) {
    if !account.quiet.holds(account.balance()) {
        crossings(account, at, seq, rows);
    }
}

#[cold]
fn crossings(account: &mut Account, at: UnixSeconds, seq: Seq, rows: &mut Vec<AlarmRow>) {
    let value = account.balance().ticks();
    let floor = account.rest.overdraft.ticks().saturating_neg();
    let [first, second] = account.rest.low_levels.map(Money::ticks);
    let levels = [
        (AlarmCode::LowBalance, first),
        (AlarmCode::VeryLowBalance, second),
        (AlarmCode::Overdrawn, floor),
    ];
    // A postpaid account has no level to fall below, nor has one that no money has moved yet: its
    // opening balance may be on its way.
    let has_levels = account.rest.is_prepaid == 1 && account.has_moved();
    let subject = Subject::Account(account.rest.id);
    let mut on = u32::from(account.alarms);
    let mut panel = Panel { subject, on: &mut on, seq, rows };
    for (code, level) in levels {
        let level = if has_levels { level } else { i64::MIN };
        panel.watch(code, at, Watch { value, raise: level, clear: level, past: Past::Below });
    }
    account.alarms = on as u16;
    if has_levels || account.rest.is_prepaid == 0 {
        let levels = if has_levels { &levels[..] } else { &[] };
        account.quiet = Quiet::around(value, levels.iter().map(|(_, level)| *level));
    }
}

// Alarms of accounts fit the few bits they have.
const _: () = assert!(AlarmCode::Overdrawn.code() < 16);

const fn severity(code: AlarmCode) -> Severity {
    match code {
        AlarmCode::LowBalance
        | AlarmCode::UnusualUse
        | AlarmCode::RegisterProposal
        | AlarmCode::EmergencyOffered => Severity::Notice,
        AlarmCode::OverVoltage
        | AlarmCode::UnderVoltage
        | AlarmCode::Overload
        | AlarmCode::ReverseEnergy
        | AlarmCode::Clock
        | AlarmCode::Register
        | AlarmCode::VeryLowBalance
        | AlarmCode::MeterSilent
        | AlarmCode::LineLoss
        | AlarmCode::NegativeLoss => Severity::Warning,
        AlarmCode::PowerDown
        | AlarmCode::Relay
        | AlarmCode::Tamper
        | AlarmCode::Overdrawn
        | AlarmCode::GatewaySilent
        | AlarmCode::BalanceBound
        | AlarmCode::SupplyTrip => Severity::Critical,
    }
}
