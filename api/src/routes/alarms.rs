//! Alarms: active ones, their history, and who looks after them.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use meter::{
    AccountId, AlarmCode, AlarmState, GatewayId, MeterId, Severity, Subject, TransformerId,
    UnixSeconds,
};
use serde::{Deserialize, Serialize};
use storage::clickhouse::AlarmPoint;
use storage::registry::{Acknowledgement, Refusal};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::series::Range;
use crate::App;
use crate::alarms::{ActiveAlarm, AlarmKey};
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::json::Instant;
use crate::page::{Page, limit};
use crate::problem::{Answer, Problem};

pub(super) fn read() -> Routes {
    OpenApiRouter::new().routes(routes!(active_alarms)).routes(routes!(alarm_history))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new().routes(routes!(acknowledge))
}

/// Which active alarms.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AlarmQuery {
    /// Only this code, such as `over_voltage`.
    code: Option<String>,
    /// Only this severity or above: `notice`, `warning`, `critical`.
    severity: Option<String>,
    /// Only acknowledged ones, or only those that nobody looks after.
    acknowledged: Option<bool>,
    /// `next` of the page before.
    after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    limit: Option<u32>,
}

/// Which alarms that were.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    /// From this instant; default: 7 days ago.
    from: Option<String>,
    /// Before this instant; default: now.
    to: Option<String>,
    /// Only of this subject, such as `meter-17` or `account-3`.
    subject: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    limit: Option<u32>,
}

/// An active alarm.
#[derive(Debug, Serialize, ToSchema)]
struct AlarmView {
    /// Names the alarm while it is active.
    id: String,
    /// `meter`, `gateway`, `account` or `transformer`.
    subject_kind: &'static str,
    subject_id: u32,
    code: String,
    severity: &'static str,
    /// `active` or `acknowledged`.
    state: &'static str,
    first_at: Instant,
    last_at: Instant,
    /// How often it was shown.
    count: u32,
    /// The value that last showed it, in the unit of its kind (mV, mA, Wh, ticks, s, 1/1000).
    value: i64,
    /// Who looks after it.
    responsible: Option<String>,
    acknowledged_at: Option<Instant>,
    /// Of a silent gateway: `link` when neighbours on the same transformer are still heard, `mains`
    /// when they are not or said that their mains is gone, `unknown` when there are none to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    likely_cause: Option<&'static str>,
}

/// An alarm began or ended.
#[derive(Debug, Serialize, ToSchema)]
struct AlarmEventView {
    subject_kind: &'static str,
    subject_id: u32,
    code: String,
    severity: &'static str,
    /// `raised` or `cleared`.
    state: &'static str,
    at: Instant,
    value: i64,
    /// Log position of the entry that showed it.
    seq: u64,
}

/// Who looks after an alarm.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AcknowledgementNew {
    /// The person who looks after it.
    responsible: String,
}

/// `OverVoltage` as `over_voltage`.
fn code_name(code: AlarmCode) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn code_of(name: &str) -> Option<AlarmCode> {
    AlarmCode::ALL.iter().copied().find(|code| code_name(*code) == name)
}

const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

fn severity_of(name: &str) -> Option<Severity> {
    Severity::ALL.iter().copied().find(|severity| severity_name(*severity) == name)
}

const fn subject_name(subject: Subject) -> (&'static str, u32) {
    match subject {
        Subject::Meter(id) => ("meter", id.0),
        Subject::Gateway(id) => ("gateway", id.0),
        Subject::Account(id) => ("account", id.0),
        Subject::Transformer(id) => ("transformer", id.0),
    }
}

/// `meter-17`.
fn subject_of(text: &str) -> Option<Subject> {
    let (kind, id) = text.split_once('-')?;
    let id = id.parse().ok()?;
    match kind {
        "meter" => Some(Subject::Meter(MeterId(id))),
        "gateway" => Some(Subject::Gateway(GatewayId(id))),
        "account" => Some(Subject::Account(AccountId(id))),
        "transformer" => Some(Subject::Transformer(TransformerId(id))),
        _ => None,
    }
}

/// `meter-17-over_voltage`.
fn key_text((subject, code): AlarmKey) -> String {
    let (kind, id) = subject_name(subject);
    format!("{kind}-{id}-{}", code_name(code))
}

fn key_of(text: &str) -> Option<AlarmKey> {
    let (subject, code) = text.rsplit_once('-')?;
    Some((subject_of(subject)?, code_of(code)?))
}

impl AlarmView {
    fn of((key, alarm): (AlarmKey, ActiveAlarm)) -> Self {
        let (subject_kind, subject_id) = subject_name(key.0);
        let (responsible, acknowledged_at) = alarm.acknowledged.unzip();
        Self {
            id: key_text(key),
            subject_kind,
            subject_id,
            code: code_name(key.1),
            severity: severity_name(alarm.severity),
            state: if responsible.is_some() { "acknowledged" } else { "active" },
            first_at: Instant(alarm.first_at),
            last_at: Instant(alarm.last_at),
            count: alarm.count,
            value: alarm.value,
            responsible,
            acknowledged_at: acknowledged_at.map(Instant),
            likely_cause: None,
        }
    }
}

impl AlarmEventView {
    fn of(point: AlarmPoint) -> Self {
        let subject_kind = match point.subject {
            1 => "meter",
            2 => "gateway",
            3 => "account",
            4 => "transformer",
            _ => "unknown",
        };
        let severity = Severity::from_code(point.severity).map_or("unknown", severity_name);
        Self {
            subject_kind,
            subject_id: point.subject_id,
            code: AlarmCode::from_code(point.code).map_or_else(String::new, code_name),
            severity,
            state: match AlarmState::from_code(point.state) {
                Some(AlarmState::Raised) => "raised",
                Some(AlarmState::Cleared) => "cleared",
                None => "unknown",
            },
            at: Instant(UnixSeconds(point.at)),
            value: point.value,
            seq: point.seq,
        }
    }
}

/// Active alarms, by subject and code.
#[utoipa::path(
    get, path = "/v1/alarms", tag = "alarms", params(AlarmQuery),
    responses((status = 200, body = Page<AlarmView>))
)]
async fn active_alarms(
    State(app): State<Arc<App>>,
    Query(query): Query<AlarmQuery>,
) -> Answer<Json<Page<AlarmView>>> {
    let limit = limit(query.limit)?;
    let code = query.code.as_deref().map(|text| {
        code_of(text).ok_or_else(|| Problem::field("code", format!("there is no alarm {text:?}")))
    });
    let severity = query.severity.as_deref().map(|text| {
        let reason = "must be notice, warning or critical";
        severity_of(text).ok_or_else(|| Problem::field("severity", reason))
    });
    let (code, severity) = (code.transpose()?, severity.transpose()?);
    let after = query.after.as_deref().map(|text| {
        key_of(text).ok_or_else(|| Problem::field("after", "must be the `next` of the page before"))
    });
    let after = after.transpose()?;
    let wanted = |key: &AlarmKey, alarm: &ActiveAlarm| {
        code.is_none_or(|code| key.1 == code)
            && severity.is_none_or(|severity| alarm.severity >= severity)
            && query.acknowledged.is_none_or(|wanted| alarm.acknowledged.is_some() == wanted)
    };
    let count = usize::try_from(limit).expect("a limit is small") + 1;
    let rows = app.node.alarms.page(after, count, wanted);
    let mut page = Page::of(rows, limit, |row| key_text(row.0), AlarmView::of);
    for alarm in &mut page.items {
        if (alarm.subject_kind, alarm.code.as_str()) == ("gateway", "gateway_silent") {
            let gateway = GatewayId(alarm.subject_id);
            let cause = app.cause_of_silence(gateway, alarm.first_at.0).await?;
            alarm.likely_cause = Some(cause.name());
        }
    }
    Ok(Json(page))
}

/// Alarms that began or ended, newest first.
#[utoipa::path(
    get, path = "/v1/alarms/history", tag = "alarms", params(HistoryQuery),
    responses((status = 200, body = Page<AlarmEventView>))
)]
async fn alarm_history(
    State(app): State<Arc<App>>,
    Query(query): Query<HistoryQuery>,
) -> Answer<Json<Page<AlarmEventView>>> {
    let limit = limit(query.limit)?;
    let range = Range::parse(query.from.as_deref(), query.to.as_deref(), 7, app.now())?;
    let subject = query.subject.as_deref().map(|text| {
        let reason = format!("{text:?} is not meter-N, gateway-N, account-N or transformer-N");
        subject_of(text).ok_or_else(|| Problem::field("subject", reason))
    });
    let subject = subject.transpose()?;
    let after = query.after.as_deref().map(Cursor::parse).transpose()?;
    let rows = alarms_after(&app, subject, range, after, limit + 1).await?;
    let key = |point: &AlarmPoint| Cursor::of(point).to_string();
    Ok(Json(Page::of(rows, limit, key, AlarmEventView::of)))
}

/// A place in the history: newest first, then log position (descending), then code and subject.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cursor {
    at: u32,
    seq: u64,
    code: u8,
    subject: u8,
    subject_id: u32,
}

impl Cursor {
    fn of(point: &AlarmPoint) -> Self {
        let AlarmPoint { at, seq, code, subject, subject_id, .. } = *point;
        Self { at, seq, code, subject, subject_id }
    }

    fn parse(text: &str) -> Answer<Self> {
        let mut parts = text.split('-');
        let mut next = || parts.next()?.parse::<u64>().ok();
        let mut read = || {
            Some(Self {
                at: u32::try_from(next()?).ok()?,
                seq: next()?,
                code: u8::try_from(next()?).ok()?,
                subject: u8::try_from(next()?).ok()?,
                subject_id: u32::try_from(next()?).ok()?,
            })
        };
        read().ok_or_else(|| Problem::field("after", "must be the `next` of the page before"))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, seq, code, subject, subject_id } = self;
        write!(f, "{at}-{seq}-{code}-{subject}-{subject_id}")
    }
}

/// The store pages by time only, and a tick raises many alarms at one instant: read the instant of
/// the last item again and leave out what was shown, with more rows until there is something new.
async fn alarms_after(
    app: &App,
    subject: Option<Subject>,
    range: Range,
    after: Option<Cursor>,
    wanted: u32,
) -> Answer<Vec<AlarmPoint>> {
    const ROWS_MAX: u32 = 1 << 20;
    let Some(cursor) = after else {
        return Ok(app.node.history.alarms(subject, range.from, range.to, wanted).await?);
    };
    let to = UnixSeconds(cursor.at).plus(1).min(range.to);
    let length = usize::try_from(wanted).expect("a limit is small");
    let mut rows_max = wanted.saturating_mul(2);
    loop {
        let rows = app.node.history.alarms(subject, range.from, to, rows_max).await?;
        let is_all = u32::try_from(rows.len()).is_ok_and(|count| count < rows_max);
        let shown = rows.iter().position(|row| Cursor::of(row) == cursor);
        let new: Vec<_> = match shown {
            Some(index) => rows.into_iter().skip(index + 1).take(length).collect(),
            None => Vec::new(),
        };
        if is_all || new.len() >= length || rows_max >= ROWS_MAX {
            return Ok(new);
        }
        rows_max = rows_max.saturating_mul(4);
    }
}

/// Takes charge of an active alarm.
#[utoipa::path(
    post, path = "/v1/alarms/{id}/acknowledgement", tag = "alarms", params(("id" = String, Path)),
    request_body = AcknowledgementNew, responses((status = 200, body = AlarmView))
)]
async fn acknowledge(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Body(new): Body<AcknowledgementNew>,
) -> Answer<Json<AlarmView>> {
    let none = || Refusal::NotFound { kind: "active alarm", key: id.clone() };
    let key = key_of(&id).ok_or_else(none)?;
    let alarm = app.node.alarms.get(key).ok_or_else(none)?;
    let acknowledgement = Acknowledgement {
        subject: key.0,
        code: key.1,
        raised: alarm.raised,
        at: app.now(),
        responsible: new.responsible,
    };
    app.node.registry.acknowledge(&acknowledgement, caller.token).await?;
    app.node.alarms.acknowledge(acknowledgement);
    let alarm = app.node.alarms.get(key).ok_or_else(none)?;
    Ok(Json(AlarmView::of((key, alarm))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_alarms_read_back() {
        for code in AlarmCode::ALL {
            for subject in [Subject::Meter(MeterId(7)), Subject::Transformer(TransformerId(1))] {
                assert_eq!(key_of(&key_text((subject, *code))), Some((subject, *code)));
            }
        }
        assert_eq!(code_name(AlarmCode::VeryLowBalance), "very_low_balance");
        for bad in ["", "meter-1", "meter-x-clock", "boss-1-clock", "meter-1-nothing"] {
            assert_eq!(key_of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cursors_read_back() {
        let cursor = Cursor { at: 1, seq: u64::MAX, code: 18, subject: 4, subject_id: 9 };
        assert_eq!(Cursor::parse(&cursor.to_string()).ok(), Some(cursor));
        assert!(Cursor::parse("1-2").is_err());
    }
}
