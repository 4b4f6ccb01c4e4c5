//! Alarms that are active now, for the list an operator looks at. History is in the store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use meter::{AlarmCode, AlarmRow, AlarmState, Seq, Severity, Stored as _, Subject, UnixSeconds};
use storage::registry::Acknowledgement;

use crate::board::BoardError;

/// What an alarm is about: at most one of a kind is active for a subject.
pub type AlarmKey = (Subject, AlarmCode);

/// An alarm that began and has not ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ActiveAlarm {
    /// How urgent.
    pub severity: Severity,
    /// When it began.
    pub first_at: UnixSeconds,
    /// When it was last shown.
    pub last_at: UnixSeconds,
    /// How often it was shown.
    pub count: u32,
    /// The value that last showed it.
    pub value: i64,
    /// The entry that raised it.
    pub raised: Seq,
    /// Who looks after it, and since when.
    pub acknowledged: Option<(String, UnixSeconds)>,
}

/// The table of active alarms. The node's books thread writes it, requests read it; the lock is
/// held for a lookup or a page, never over I/O.
#[derive(Debug)]
pub struct ActiveAlarms {
    table: RwLock<Table>,
    alarms_max: usize,
}

#[derive(Debug, Default)]
struct Table {
    alarms: BTreeMap<AlarmKey, ActiveAlarm>,
    overflowed: u64,
}

/// Version of [`ActiveAlarms::encode`].
const FORMAT: u8 = 1;

impl ActiveAlarms {
    /// An empty table of at most `alarms_max` alarms.
    #[must_use]
    pub fn new(alarms_max: usize) -> Self {
        Self { table: RwLock::default(), alarms_max }
    }

    /// Takes what the books said, in order.
    pub fn apply(&self, rows: &[AlarmRow]) {
        if rows.is_empty() {
            return;
        }
        let mut table = self.write();
        for row in rows {
            let is_full = table.alarms.len() >= self.alarms_max;
            let key = (row.subject, row.code);
            match (row.state, table.alarms.entry(key)) {
                (AlarmState::Cleared, Entry::Occupied(alarm)) => drop(alarm.remove()),
                (AlarmState::Cleared, Entry::Vacant(_)) => {}
                (AlarmState::Raised, Entry::Occupied(mut alarm)) => {
                    let alarm = alarm.get_mut();
                    alarm.last_at = alarm.last_at.max(row.at);
                    alarm.count = alarm.count.saturating_add(1);
                    (alarm.severity, alarm.value) = (row.severity, row.value);
                }
                // History keeps it all the same; the list says that it is not complete.
                (AlarmState::Raised, Entry::Vacant(_)) if is_full => table.overflowed += 1,
                (AlarmState::Raised, Entry::Vacant(place)) => {
                    place.insert(ActiveAlarm {
                        severity: row.severity,
                        first_at: row.at,
                        last_at: row.at,
                        count: 1,
                        value: row.value,
                        raised: row.seq,
                        acknowledged: None,
                    });
                }
            }
        }
    }

    /// Alarms after `after` that `wanted` takes, in order of their keys, at most `limit`.
    pub fn page(
        &self,
        after: Option<AlarmKey>,
        limit: usize,
        wanted: impl Fn(&AlarmKey, &ActiveAlarm) -> bool,
    ) -> Vec<(AlarmKey, ActiveAlarm)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let table = self.read();
        let from = after.map_or(Unbounded, Excluded);
        let alarms = table.alarms.range((from, Unbounded));
        let alarms = alarms.filter(|(key, alarm)| wanted(key, alarm));
        alarms.take(limit).map(|(key, alarm)| (*key, alarm.clone())).collect()
    }

    /// One alarm.
    #[must_use]
    pub fn get(&self, key: AlarmKey) -> Option<ActiveAlarm> {
        self.read().alarms.get(&key).cloned()
    }

    /// Marks the alarm that an acknowledgement names, if it is still the same one.
    pub fn acknowledge(&self, acknowledgement: Acknowledgement) {
        let Acknowledgement { subject, code, raised, at, responsible } = acknowledgement;
        let mut table = self.write();
        let alarm = table.alarms.get_mut(&(subject, code)).filter(|alarm| alarm.raised == raised);
        if let Some(alarm) = alarm {
            alarm.acknowledged = Some((responsible, at));
        }
    }

    /// How many are active.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().alarms.len()
    }

    /// How many did not fit since the start.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.read().overflowed
    }

    /// The entry that raised the oldest active alarm: older acknowledgements are of no use.
    #[must_use]
    pub fn oldest(&self) -> Option<Seq> {
        self.read().alarms.values().map(|alarm| alarm.raised).min()
    }

    /// Appends the table, for a snapshot, without acknowledgements (the registry has those):
    /// version byte, count (4), then for each: subject, code, severity, first and last stamp,
    /// count, value, entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let table = self.read();
        out.push(FORMAT);
        u32::try_from(table.alarms.len()).expect("the table is bounded").put(out);
        for ((subject, code), alarm) in &table.alarms {
            subject.put(out);
            code.put(out);
            alarm.severity.put(out);
            alarm.first_at.put(out);
            alarm.last_at.put(out);
            alarm.count.put(out);
            alarm.value.put(out);
            alarm.raised.put(out);
        }
    }

    /// Replaces the table by what [`ActiveAlarms::encode`] wrote.
    ///
    /// # Errors
    /// [`BoardError::Bytes`] for bytes of another make; the table is then as it was.
    pub fn decode(&self, bytes: &[u8]) -> Result<(), BoardError> {
        let alarms = decode(bytes).ok_or(BoardError::Bytes)?;
        self.write().alarms = alarms;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().expect("no holder of this lock panics")
    }
}

fn decode(mut bytes: &[u8]) -> Option<BTreeMap<AlarmKey, ActiveAlarm>> {
    let bytes = &mut bytes;
    if u8::take(bytes)? != FORMAT {
        return None;
    }
    let count = u32::take(bytes)?;
    let mut alarms = BTreeMap::new();
    for _ in 0..count {
        let key = (Subject::take(bytes)?, AlarmCode::take(bytes)?);
        let alarm = ActiveAlarm {
            severity: Severity::take(bytes)?,
            first_at: UnixSeconds::take(bytes)?,
            last_at: UnixSeconds::take(bytes)?,
            count: u32::take(bytes)?,
            value: i64::take(bytes)?,
            raised: Seq::take(bytes)?,
            acknowledged: None,
        };
        alarms.insert(key, alarm);
    }
    bytes.is_empty().then_some(alarms)
}

#[cfg(test)]
mod tests {
    use meter::MeterId;

    use super::*;

    fn row(meter: u32, state: AlarmState, seq: u64) -> AlarmRow {
        AlarmRow {
            subject: Subject::Meter(MeterId(meter)),
            code: AlarmCode::OverVoltage,
            severity: Severity::Warning,
            state,
            at: UnixSeconds(u32::try_from(seq).unwrap() * 10),
            value: 260_000,
            seq: Seq(seq),
        }
    }

    fn key(meter: u32) -> AlarmKey {
        (Subject::Meter(MeterId(meter)), AlarmCode::OverVoltage)
    }

    #[test]
    fn alarms_begin_repeat_and_end() {
        let alarms = ActiveAlarms::new(2);
        alarms.apply(&[row(1, AlarmState::Raised, 1), row(1, AlarmState::Raised, 2)]);
        let alarm = alarms.get(key(1)).unwrap();
        assert_eq!((alarm.count, alarm.first_at.0, alarm.last_at.0), (2, 10, 20));
        assert_eq!(alarm.raised, Seq(1));
        alarms.apply(&[row(2, AlarmState::Raised, 3), row(3, AlarmState::Raised, 4)]);
        assert_eq!((alarms.count(), alarms.overflowed()), (2, 1));
        alarms.apply(&[row(1, AlarmState::Cleared, 5), row(9, AlarmState::Cleared, 6)]);
        assert_eq!((alarms.get(key(1)), alarms.count()), (None, 1));
        assert_eq!(alarms.oldest(), Some(Seq(3)));
    }

    #[test]
    fn an_acknowledgement_is_of_one_raising() {
        let alarms = ActiveAlarms::new(10);
        alarms.apply(&[row(1, AlarmState::Raised, 7)]);
        let acknowledge = |raised| {
            alarms.acknowledge(Acknowledgement {
                subject: key(1).0,
                code: key(1).1,
                raised: Seq(raised),
                at: UnixSeconds(99),
                responsible: "Wang".to_owned(),
            });
            alarms.get(key(1)).unwrap().acknowledged
        };
        assert_eq!(acknowledge(6), None);
        assert_eq!(acknowledge(7), Some(("Wang".to_owned(), UnixSeconds(99))));
    }

    #[test]
    fn pages_follow_each_other() {
        let alarms = ActiveAlarms::new(100);
        let rows: Vec<_> = (1..=5).map(|id| row(id, AlarmState::Raised, id.into())).collect();
        alarms.apply(&rows);
        let page = |after| -> Vec<AlarmKey> {
            alarms
                .page(after, 2, |key, _| key.0 != Subject::Meter(MeterId(3)))
                .into_iter()
                .map(|(key, _)| key)
                .collect()
        };
        assert_eq!(page(None), [key(1), key(2)]);
        assert_eq!(page(Some(key(2))), [key(4), key(5)]);
        assert_eq!(page(Some(key(5))), []);
    }

    #[test]
    fn the_table_survives_a_snapshot_and_damage_is_refused() {
        let alarms = ActiveAlarms::new(10);
        alarms.apply(&[row(1, AlarmState::Raised, 1), row(2, AlarmState::Raised, 2)]);
        let mut bytes = Vec::new();
        alarms.encode(&mut bytes);
        let copy = ActiveAlarms::new(10);
        copy.decode(&bytes).unwrap();
        assert_eq!(copy.page(None, 9, |_, _| true), alarms.page(None, 9, |_, _| true));
        for cut in 0..bytes.len() {
            assert_eq!(copy.decode(&bytes[..cut]), Err(BoardError::Bytes), "cut at {cut}");
        }
        assert_eq!(copy.count(), 2, "a refused snapshot changes nothing");
    }
}
