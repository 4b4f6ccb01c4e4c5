//! Readings with what became of each, and the settling of those in quarantine.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use meter::{Decision, Energy, MeterId, Outcome, QuarantineReason, Resolution, Seq, UnixSeconds};
use serde::{Deserialize, Serialize};
use storage::clickhouse::ReadingPoint;
use storage::registry::Refusal;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::series::{Range, RangeQuery};
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::json::Instant;
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn read() -> Routes {
    OpenApiRouter::new().routes(routes!(readings))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new().routes(routes!(resolve))
}

/// A reading with what became of it.
#[derive(Debug, Serialize, ToSchema)]
struct ReadingView {
    /// Log position.
    seq: u64,
    taken_at: Instant,
    received_at: Instant,
    register_wh: u64,
    /// `accepted`, `duplicate`, `quarantined` or `parked`.
    outcome: &'static str,
    /// Why in quarantine, such as `spike`.
    reason: Option<String>,
    /// What a person decided of it: `reject` or `new_epoch`.
    decision: Option<DecisionName>,
}

/// What a person decided of a quarantined reading.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DecisionName {
    /// It stays out.
    Reject,
    /// It opens a new register epoch: nothing is billed up to it, and it is the new base.
    NewEpoch,
}

/// How a quarantined reading is settled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResolutionNew {
    /// Its stamp, to be sure that the right one is meant.
    taken_at: Instant,
    decision: DecisionName,
}

/// A settled reading.
#[derive(Debug, Serialize, ToSchema)]
struct ResolutionView {
    seq: u64,
    meter: u32,
    taken_at: Instant,
    register_wh: u64,
    decision: DecisionName,
}

/// What the store says became of a reading.
fn outcome_of(point: &ReadingPoint) -> Option<Outcome> {
    match point.outcome {
        1 => Some(Outcome::Accepted),
        2 => Some(Outcome::Duplicate),
        3 => QuarantineReason::from_code(point.reason).map(Outcome::Quarantined),
        4 => Some(Outcome::Parked),
        _ => None,
    }
}

impl From<ReadingPoint> for ReadingView {
    fn from(point: ReadingPoint) -> Self {
        let (outcome, reason) = match outcome_of(&point) {
            Some(Outcome::Accepted) => ("accepted", None),
            Some(Outcome::Duplicate) => ("duplicate", None),
            Some(Outcome::Quarantined(reason)) => ("quarantined", Some(reason_name(reason))),
            Some(Outcome::Parked) => ("parked", None),
            None => ("unknown", None),
        };
        Self {
            seq: point.seq,
            taken_at: Instant(UnixSeconds(point.taken_at)),
            received_at: Instant(UnixSeconds(point.received_at)),
            register_wh: point.register_wh,
            outcome,
            reason: reason.map(str::to_owned),
            decision: None,
        }
    }
}

const fn reason_name(reason: QuarantineReason) -> &'static str {
    match reason {
        QuarantineReason::NotInstalled => "not_installed",
        QuarantineReason::BeforeInstallation => "before_installation",
        QuarantineReason::AfterRemoval => "after_removal",
        QuarantineReason::Future => "future",
        QuarantineReason::TooOld => "too_old",
        QuarantineReason::Conflict => "conflict",
        QuarantineReason::Backwards => "backwards",
        QuarantineReason::Spike => "spike",
        QuarantineReason::Rejected => "rejected",
        QuarantineReason::ParkingFull => "parking_full",
    }
}

/// A meter's readings with what became of each, oldest first.
#[utoipa::path(
    get, path = "/v1/meters/{id}/readings", tag = "history", params(("id" = u32, Path), RangeQuery),
    responses((status = 200, body = Page<ReadingView>))
)]
async fn readings(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<RangeQuery>,
) -> Answer<Json<Page<ReadingView>>> {
    let limit = limit(query.limit)?;
    let range = Range::parse(query.from.as_deref(), query.to.as_deref(), 1, app.now())?;
    let (stamp, shown) = match query.after.as_deref() {
        None => (0, 0),
        Some(text) => {
            let (stamp, seq) = text.split_once('-').unwrap_or((text, ""));
            (after(Some(stamp))?, after(Some(seq))?)
        }
    };
    let range = range.behind(UnixSeconds(stamp));
    app.node.registry.meter(MeterId(id)).await?;
    // Readings under one stamp are few: a first one, its duplicates and conflicts.
    let count = limit.saturating_add(1).saturating_add(64);
    let rows = app.node.history.readings(MeterId(id), range.from, range.to, count).await?;
    let rows = rows.into_iter().filter(|row| (row.taken_at, row.seq) > (stamp, shown)).collect();
    let key = |row: &ReadingPoint| format!("{}-{}", row.taken_at, row.seq);
    let mut page = Page::of(rows, limit, key, ReadingView::from);
    for reading in page.items.iter_mut().filter(|reading| reading.outcome == "quarantined") {
        let settled = app.node.registry.settlement(Seq(reading.seq)).await?;
        reading.decision = settled.map(|settled| match settled.decision {
            Decision::Reject => DecisionName::Reject,
            Decision::NewEpoch => DecisionName::NewEpoch,
        });
    }
    Ok(Json(page))
}

/// Settles a quarantined reading, once: it stays out, or it opens a new register epoch.
#[utoipa::path(
    post, path = "/v1/meters/{id}/quarantine/{seq}/resolution", tag = "history",
    params(("id" = u32, Path), ("seq" = u64, Path)),
    request_body = ResolutionNew, responses((status = 200, body = ResolutionView))
)]
async fn resolve(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path((id, seq)): Path<(u32, u64)>,
    Body(new): Body<ResolutionNew>,
) -> Answer<Json<ResolutionView>> {
    let meter = MeterId(id);
    app.node.registry.meter(meter).await?;
    let taken_at = new.taken_at.0;
    let rows = app.node.history.readings(meter, taken_at, taken_at.plus(1), 1000).await?;
    let is_meant = |row: &&ReadingPoint| {
        row.seq == seq && matches!(outcome_of(row), Some(Outcome::Quarantined(_)))
    };
    let reading = rows.iter().find(is_meant).ok_or_else(|| Refusal::NotFound {
        kind: "quarantined reading",
        key: format!("{seq} of meter {id} at {taken_at}"),
    })?;
    let resolution = Resolution {
        meter,
        taken_at,
        seq: Seq(seq),
        register: Energy::from_wh(reading.register_wh),
        decision: match new.decision {
            DecisionName::Reject => Decision::Reject,
            DecisionName::NewEpoch => Decision::NewEpoch,
        },
    };
    let outbox = app.node.registry.resolve(resolution, app.now(), caller.token).await?;
    app.applied(outbox).await?;
    Ok(Json(ResolutionView {
        seq,
        meter: id,
        taken_at: new.taken_at,
        register_wh: reading.register_wh,
        decision: new.decision,
    }))
}
