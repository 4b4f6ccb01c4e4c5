//! What was: the questions that the API asks the store of history.

use meter::{AccountId, MeterId, Subject, TransformerId, UnixSeconds};
use storage::clickhouse::{
    AlarmPoint, IntervalPoint, LedgerPoint, LossPoint, PeriodPoint, ReadingPoint,
};
use thiserror::Error;

use crate::node::BoxFuture;

/// Rows, or why there are none.
pub type Rows<'a, T> = BoxFuture<'a, Result<Vec<T>, HistoryError>>;

/// Why history cannot be told now.
#[derive(Debug, Error)]
#[error("the store of history does not answer")]
pub struct HistoryError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A local period.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum By {
    /// Local days.
    Day,
    /// Local months.
    Month,
}

/// Absent readings between two accepted stamps, as stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GapPoint {
    /// The last accepted stamp before.
    pub from: u32,
    /// The first accepted stamp after, 0 while none is known.
    pub to: u32,
    /// Readings absent.
    pub missing: u32,
    /// `GapState::from_code`.
    pub state: u8,
}

/// The store of history. Ranges are `[from, to)`; answers hold at most `rows_max` rows.
pub trait History: Send + Sync {
    /// A meter's intervals, ascending.
    fn intervals(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, IntervalPoint>;

    /// A meter's local days or months, ascending; `zone` is an IANA name.
    fn periods<'a>(
        &'a self,
        meter: MeterId,
        by: By,
        from: UnixSeconds,
        to: UnixSeconds,
        zone: &'a str,
    ) -> Rows<'a, PeriodPoint>;

    /// A meter's readings with every verdict, by stamp and log position, ascending.
    fn readings(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, ReadingPoint>;

    /// An account's movements with numbers above `after`, ascending.
    fn ledger(&self, account: AccountId, after: u64, rows_max: u32) -> Rows<'_, LedgerPoint>;

    /// Alarms that began or ended, newest first, of one subject or all.
    fn alarms(
        &self,
        subject: Option<Subject>,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, AlarmPoint>;

    /// A transformer's intervals, ascending.
    fn losses(
        &self,
        transformer: TransformerId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, LossPoint>;

    /// A meter's gaps that begin after `after`, ascending.
    fn gaps(&self, meter: MeterId, after: UnixSeconds, rows_max: u32) -> Rows<'_, GapPoint>;
}
