//! What was, from the store of history: intervals, days and months, gaps, line loss.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use meter::{
    GapState, IntervalQuality, LocalCalendar, LocalDate, MeterId, Money, TransformerId, UnixSeconds,
};
use serde::{Deserialize, Serialize};
use storage::clickhouse::{IntervalPoint, LossPoint, PeriodPoint};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::PageQuery;
use crate::App;
use crate::extract::{Path, Query};
use crate::history::{By, GapPoint};
use crate::json::{Amount, Instant};
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

pub(super) fn read() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(intervals))
        .routes(routes!(meter_history))
        .routes(routes!(gaps))
        .routes(routes!(line_loss))
}

const DAY_S: u32 = 86_400;

/// A range of time, `[from, to)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) from: UnixSeconds,
    pub(super) to: UnixSeconds,
}

impl Range {
    /// The range asked for; `to` is now and `from` is `days` before `to` unless said.
    pub(super) fn parse(
        from: Option<&str>,
        to: Option<&str>,
        days: u32,
        now: UnixSeconds,
    ) -> Answer<Self> {
        let read = |field, text: &str| {
            let instant = Instant::parse(text).map(|instant| instant.0);
            instant.ok_or_else(|| {
                Problem::field(
                    field,
                    format!("{text:?} is no instant such as 2026-11-22T00:00:00Z"),
                )
            })
        };
        let to = to.map(|text| read("to", text)).transpose()?.unwrap_or_else(|| now.plus(1));
        let from = from.map(|text| read("from", text)).transpose()?;
        let from = from.unwrap_or_else(|| to.minus(days * DAY_S));
        if from < to {
            Ok(Self { from, to })
        } else {
            Err(Problem::field("to", "must be after from"))
        }
    }

    /// The rest of the range behind the cursor of a page.
    pub(super) fn behind(self, cursor: UnixSeconds) -> Self {
        Self { from: self.from.max(cursor), ..self }
    }
}

/// A range and a page of it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RangeQuery {
    /// From this instant; default: a day before `to`.
    pub(super) from: Option<String>,
    /// Before this instant; default: now.
    pub(super) to: Option<String>,
    /// `next` of the page before.
    pub(super) after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    pub(super) limit: Option<u32>,
}

/// Days or months.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PeriodQuery {
    /// `day` or `month`.
    #[param(inline)]
    by: ByName,
    /// First local day, default: the first of the month six months ago.
    from: Option<String>,
    /// Last local day, inclusive; default: today.
    to: Option<String>,
    /// IANA zone of the days; default: the zone of the account that the meter serves, else UTC.
    zone: Option<String>,
}

/// A local period.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ByName {
    Day,
    Month,
}

/// Average, least and greatest over the samples of an interval.
#[derive(Debug, Serialize, ToSchema)]
struct SpreadView {
    average: i64,
    min: i64,
    max: i64,
}

/// A meter's quarter hour.
#[derive(Debug, Serialize, ToSchema)]
struct IntervalView {
    start: Instant,
    account: Option<u32>,
    energy_wh: u64,
    /// Register at the end.
    register_wh: u64,
    /// Energy at the rate's price, without block adders.
    cost: Amount,
    /// 1 to 4; 0 without account.
    rate: u8,
    /// `actual` (readings at both ends) or `estimated` (interpolated).
    quality: &'static str,
    /// Readings in it.
    samples: u16,
    voltage_mv: SpreadView,
    current_ma: SpreadView,
    power_w: SpreadView,
    power_factor_milli: SpreadView,
}

/// A local day or month of a meter.
#[derive(Debug, Serialize, ToSchema)]
struct PeriodView {
    /// First local day of the period.
    first_day: String,
    energy_wh: u64,
    /// Energy at the rates' prices, without block adders.
    cost: Amount,
    /// Register at its end.
    register_wh: u64,
    power_max_w: i32,
    /// Intervals known.
    intervals: u64,
    /// Of these, actual ones.
    intervals_actual: u64,
}

/// Days or months of a meter, with the zone they are of.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryView {
    meter: u32,
    zone: String,
    items: Vec<PeriodView>,
}

/// Absent readings of a meter.
#[derive(Debug, Serialize, ToSchema)]
struct GapView {
    /// The last accepted stamp before.
    from: Instant,
    /// The first accepted stamp after; absent while none is known.
    to: Option<Instant>,
    /// Readings absent.
    missing: u32,
    /// `open` or `closed`.
    state: &'static str,
}

/// Supply against the sum of its meters, one interval.
#[derive(Debug, Serialize, ToSchema)]
struct LossView {
    start: Instant,
    supply_wh: u64,
    delivered_wh: u64,
    /// Supply less delivered; negative points to a wrong assignment, clock or data.
    loss_wh: i64,
    /// Loss in 1/1000 of the supply; absent without supply.
    loss_milli: Option<i64>,
    /// Meters installed over the interval.
    expected: u32,
    /// Of these, how many have an actual interval.
    actual: u32,
    /// Whether all have: only complete intervals are judged.
    complete: bool,
}

fn spread<T: Into<i64>>((average, min, max): (T, T, T)) -> SpreadView {
    SpreadView { average: average.into(), min: min.into(), max: max.into() }
}

impl From<IntervalPoint> for IntervalView {
    fn from(point: IntervalPoint) -> Self {
        Self {
            start: Instant(UnixSeconds(point.start)),
            account: (point.account_id != 0).then_some(point.account_id),
            energy_wh: point.energy_wh,
            register_wh: point.register_wh,
            cost: Amount(Money::from_ticks(point.cost_ticks)),
            rate: point.rate,
            quality: match IntervalQuality::from_code(point.quality) {
                Some(IntervalQuality::Actual) => "actual",
                Some(IntervalQuality::Estimated) => "estimated",
                None => "unknown",
            },
            samples: point.samples,
            voltage_mv: spread(point.voltage_mv),
            current_ma: spread(point.current_ma),
            power_w: spread(point.power_w),
            power_factor_milli: spread(point.power_factor_milli),
        }
    }
}

impl From<GapPoint> for GapView {
    fn from(point: GapPoint) -> Self {
        Self {
            from: Instant(UnixSeconds(point.from)),
            to: Instant::known(UnixSeconds(point.to)),
            missing: point.missing,
            state: match GapState::from_code(point.state) {
                Some(GapState::Open) => "open",
                Some(GapState::Closed) => "closed",
                None => "unknown",
            },
        }
    }
}

impl From<LossPoint> for LossView {
    fn from(point: LossPoint) -> Self {
        let signed = |wh: u64| i64::try_from(wh).unwrap_or(i64::MAX);
        let supply = signed(point.supply_wh);
        let loss = supply.saturating_sub(signed(point.delivered_wh));
        Self {
            start: Instant(UnixSeconds(point.start)),
            supply_wh: point.supply_wh,
            delivered_wh: point.delivered_wh,
            loss_wh: loss,
            loss_milli: loss.saturating_mul(1000).checked_div(supply),
            expected: point.expected,
            actual: point.actual,
            complete: point.expected == point.actual,
        }
    }
}

impl From<PeriodPoint> for PeriodView {
    fn from(point: PeriodPoint) -> Self {
        // The store counts days since 1970; as an instant of UTC this reads as the date.
        let day = UnixSeconds(u32::from(point.first_day).saturating_mul(DAY_S)).to_string();
        Self {
            first_day: day.chars().take(10).collect(),
            energy_wh: point.energy_wh,
            cost: Amount(Money::from_ticks(point.cost_ticks)),
            register_wh: point.register_wh,
            power_max_w: point.power_max_w,
            intervals: point.intervals,
            intervals_actual: point.intervals_actual,
        }
    }
}

/// A meter's intervals, oldest first.
#[utoipa::path(
    get, path = "/v1/meters/{id}/intervals", tag = "history", params(("id" = u32, Path), RangeQuery),
    responses((status = 200, body = Page<IntervalView>))
)]
async fn intervals(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<RangeQuery>,
) -> Answer<Json<Page<IntervalView>>> {
    let limit = limit(query.limit)?;
    let range = Range::parse(query.from.as_deref(), query.to.as_deref(), 1, app.now())?;
    let range = range.behind(UnixSeconds(after(query.after.as_deref())?));
    app.node.registry.meter(MeterId(id)).await?;
    let history = &app.node.history;
    let rows = history.intervals(MeterId(id), range.from, range.to, limit + 1).await?;
    let key = |row: &IntervalPoint| (row.start + 1).to_string();
    Ok(Json(Page::of(rows, limit, key, IntervalView::from)))
}

/// A meter's use by local day or month: the last six months unless said.
#[utoipa::path(
    get, path = "/v1/meters/{id}/history", tag = "history", params(("id" = u32, Path), PeriodQuery),
    responses((status = 200, body = HistoryView))
)]
async fn meter_history(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PeriodQuery>,
) -> Answer<Json<HistoryView>> {
    let meter = app.node.registry.meter(MeterId(id)).await?;
    let zone = match query.zone {
        Some(zone) => zone,
        None if meter.account.is_some() => {
            app.node.registry.account(meter.account).await?.terms.zone
        }
        None => "UTC".to_owned(),
    };
    let calendar = LocalCalendar::new(&zone).map_err(|error| Problem::field("zone", error))?;
    let day = |field, text: &str| {
        LocalDate::parse(text)
            .ok_or_else(|| Problem::field(field, format!("{text:?} is no date YYYY-MM-DD")))
    };
    let last = match query.to.as_deref() {
        Some(text) => day("to", text)?,
        None => calendar.local(app.now()).date,
    };
    let first = match query.from.as_deref() {
        Some(text) => day("from", text)?,
        None => months_before(last, 6),
    };
    let (from, to) = (calendar.day_start(first), calendar.day_start(last.next()));
    if first > last || to.since(from) > 800 * DAY_S {
        return Err(Problem::field("to", "must not be before from, nor more than 800 days after"));
    }
    let by = match query.by {
        ByName::Day => By::Day,
        ByName::Month => By::Month,
    };
    let rows = app.node.history.periods(MeterId(id), by, from, to, &zone).await?;
    let items = rows.into_iter().map(PeriodView::from).collect();
    Ok(Json(HistoryView { meter: id, zone, items }))
}

/// The first day of the month so many months before.
fn months_before(date: LocalDate, months: i16) -> LocalDate {
    let this = date.year().saturating_mul(12).saturating_add(i16::from(date.month_day().month) - 1);
    let then = this.saturating_sub(months);
    let month = u8::try_from(then.rem_euclid(12) + 1).unwrap_or(1);
    LocalDate::new(then.div_euclid(12), month, 1).unwrap_or(date)
}

/// A meter's gaps, oldest first.
#[utoipa::path(
    get, path = "/v1/meters/{id}/gaps", tag = "history", params(("id" = u32, Path), PageQuery),
    responses((status = 200, body = Page<GapView>))
)]
async fn gaps(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<GapView>>> {
    let limit = limit(query.limit)?;
    let after = UnixSeconds(after(query.after.as_deref())?);
    app.node.registry.meter(MeterId(id)).await?;
    let rows = app.node.history.gaps(MeterId(id), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.from.to_string(), GapView::from)))
}

/// Line loss of a transformer, oldest interval first.
#[utoipa::path(
    get, path = "/v1/transformers/{id}/line-loss", tag = "history",
    params(("id" = u32, Path), RangeQuery), responses((status = 200, body = Page<LossView>))
)]
async fn line_loss(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<RangeQuery>,
) -> Answer<Json<Page<LossView>>> {
    let limit = limit(query.limit)?;
    let range = Range::parse(query.from.as_deref(), query.to.as_deref(), 1, app.now())?;
    let range = range.behind(UnixSeconds(after(query.after.as_deref())?));
    app.node.registry.transformer(TransformerId(id)).await?;
    let history = &app.node.history;
    let rows = history.losses(TransformerId(id), range.from, range.to, limit + 1).await?;
    let key = |row: &LossPoint| (row.start + 1).to_string();
    Ok(Json(Page::of(rows, limit, key, LossView::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_months_before() {
        let check = |date: &str, want: &str| {
            let date = LocalDate::parse(date).unwrap();
            assert_eq!(months_before(date, 6).to_string(), want, "date={date}");
        };
        check("2026-11-22", "2026-05-01");
        check("2026-03-31", "2025-09-01");
        check("2026-06-01", "2025-12-01");
    }

    #[test]
    fn ranges_default_and_are_checked() {
        let now = UnixSeconds(1_790_000_000);
        let range = Range::parse(None, None, 1, now).ok().unwrap();
        assert_eq!(range.to.since(range.from), DAY_S);
        assert!(
            Range::parse(Some("2026-01-02T00:00:00Z"), Some("2026-01-02T00:00:00Z"), 1, now)
                .is_err()
        );
        assert!(Range::parse(Some("yesterday"), None, 1, now).is_err());
    }
}
