//! Meters: their record, what they said last, where they serve.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meter::{
    AccountId, Current, Energy, Fields, GatewayId, Installation, MeterId, MeterRecord, Relay,
    Removal, Role, TransformerId, Voltage,
};
use serde::{Deserialize, Serialize};
use storage::registry::{InstallationPeriod, Meter, MeterFilter, NewMeter};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::keys;
use crate::App;
use crate::board::Latest;
use crate::extract::{Body, Path, Query};
use crate::json::{Instant, Key, Title};
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn read() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list_meters))
        .routes(routes!(meter))
        .routes(routes!(latest))
        .routes(routes!(installations))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new().routes(routes!(add_meter)).routes(routes!(install)).routes(routes!(remove))
}

/// Which meters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct MeterQuery {
    /// Only below this transformer.
    transformer: Option<u32>,
    /// Only behind this gateway.
    gateway: Option<u32>,
    /// Only with this serial.
    serial: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    limit: Option<u32>,
}

/// What a meter is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    /// Serves a customer.
    #[default]
    Consumer,
    /// Measures all a transformer supplies.
    Supply,
}

/// A meter to be registered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MeterNew {
    /// Unique.
    serial: String,
    system_title: Title,
    model: String,
    /// Name of its push template.
    template: String,
    encryption_key: Key,
    authentication_key: Key,
    #[serde(default)]
    role: RoleName,
    transformer: Option<u32>,
    gateway: Option<u32>,
    /// Rated maximum current of a phase, mA.
    current_max_ma: u32,
    /// Rated voltage to neutral, mV.
    voltage_nominal_mv: u32,
    /// 1 or 3.
    phases: u8,
    /// Whole kWh digits of the register.
    register_digits: u8,
    /// Seconds between readings.
    period_s: u32,
}

/// A meter. Its keys are never given out.
#[derive(Debug, Serialize, ToSchema)]
struct MeterView {
    id: u32,
    serial: String,
    system_title: Title,
    model: String,
    template: String,
    role: RoleName,
    transformer: Option<u32>,
    gateway: Option<u32>,
    current_max_ma: u32,
    voltage_nominal_mv: u32,
    phases: u8,
    register_digits: u8,
    period_s: u32,
    /// The account it serves now.
    account: Option<u32>,
}

/// What a meter said last; a value it did not send is absent.
#[derive(Debug, Serialize, ToSchema)]
struct LatestView {
    meter: u32,
    /// The meter's stamp.
    taken_at: Instant,
    /// When it arrived.
    received_at: Instant,
    register_wh: u64,
    /// Voltages of phases 1 to 3.
    voltage_mv: [Option<u32>; 3],
    /// Currents of phases 1 to 3.
    current_ma: [Option<u32>; 3],
    power_w: Option<i32>,
    reactive_var: Option<i32>,
    /// In 1/1000.
    power_factor_milli: Option<i16>,
    frequency_mhz: Option<u32>,
    /// `open` (supply is cut) or `closed`.
    relay: Option<&'static str>,
}

/// A meter begins to serve.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InstallationNew {
    meter: u32,
    /// The account; absent for a supply meter.
    account: Option<u32>,
    /// From when; billing starts here.
    at: Instant,
    /// Its register then; absent: the earliest accepted reading is the base.
    start_wh: Option<u64>,
}

/// A meter ends to serve.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RemovalNew {
    /// Until when.
    at: Instant,
    /// Its register then.
    end_wh: u64,
}

/// A time in which a meter served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstallationView {
    meter: u32,
    account: Option<u32>,
    from: Instant,
    start_wh: Option<u64>,
    to: Option<Instant>,
    end_wh: Option<u64>,
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Consumer => Self::Consumer,
            RoleName::Supply => Self::Supply,
        }
    }
}

fn some(id: u32) -> Option<u32> {
    (id != 0).then_some(id)
}

impl From<Meter> for MeterView {
    fn from(Meter { serial, title, model, template, record, account }: Meter) -> Self {
        Self {
            id: record.meter.0,
            serial,
            system_title: Title(title),
            model,
            template,
            role: match record.role {
                Role::Consumer => RoleName::Consumer,
                Role::Supply => RoleName::Supply,
            },
            transformer: some(record.transformer.0),
            gateway: some(record.gateway.0),
            current_max_ma: record.current_max.ma(),
            voltage_nominal_mv: record.voltage_nominal.mv(),
            phases: record.phases,
            register_digits: record.register_digits,
            period_s: record.period_s,
            account: some(account.0),
        }
    }
}

impl LatestView {
    fn of(meter: u32, latest: &Latest) -> Self {
        let fields = latest.fields;
        let voltage =
            |phase: usize| fields.has(Fields::VOLTAGE[phase]).then(|| latest.voltage[phase].mv());
        let current =
            |phase: usize| fields.has(Fields::CURRENT[phase]).then(|| latest.current[phase].ma());
        Self {
            meter,
            taken_at: Instant(latest.taken_at),
            received_at: Instant(latest.received_at),
            register_wh: latest.register.wh(),
            voltage_mv: [0, 1, 2].map(voltage),
            current_ma: [0, 1, 2].map(current),
            power_w: fields.has(Fields::POWER).then(|| latest.power.w()),
            reactive_var: fields.has(Fields::REACTIVE).then(|| latest.reactive.var()),
            power_factor_milli: fields
                .has(Fields::POWER_FACTOR)
                .then(|| latest.power_factor.milli()),
            frequency_mhz: fields.has(Fields::FREQUENCY).then(|| latest.frequency.mhz()),
            relay: latest.relay().map(|relay| match relay {
                Relay::Open => "open",
                Relay::Closed => "closed",
            }),
        }
    }
}

impl From<InstallationPeriod> for InstallationView {
    fn from(period: InstallationPeriod) -> Self {
        Self {
            meter: period.meter.0,
            account: some(period.account.0),
            from: Instant(period.from),
            start_wh: period.start.map(Energy::wh),
            to: period.to.map(Instant),
            end_wh: period.end.map(Energy::wh),
        }
    }
}

/// Meters, by id.
#[utoipa::path(
    get, path = "/v1/meters", tag = "meters", params(MeterQuery),
    responses((status = 200, body = Page<MeterView>))
)]
async fn list_meters(
    State(app): State<Arc<App>>,
    Query(query): Query<MeterQuery>,
) -> Answer<Json<Page<MeterView>>> {
    let limit = limit(query.limit)?;
    let after = MeterId(after(query.after.as_deref())?);
    let filter = MeterFilter {
        transformer: TransformerId(query.transformer.unwrap_or_default()),
        gateway: GatewayId(query.gateway.unwrap_or_default()),
        serial: query.serial,
    };
    let rows = app.node.registry.meters(&filter, after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.record.meter.to_string(), MeterView::from)))
}

/// One meter.
#[utoipa::path(
    get, path = "/v1/meters/{id}", tag = "meters", params(("id" = u32, Path)),
    responses((status = 200, body = MeterView))
)]
async fn meter(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<MeterView>> {
    Ok(Json(app.node.registry.meter(MeterId(id)).await?.into()))
}

/// What a meter said last: voltage, current, power, register.
#[utoipa::path(
    get, path = "/v1/meters/{id}/latest", tag = "meters", params(("id" = u32, Path)),
    responses((status = 200, body = LatestView), (status = 204, description = "Nothing yet."))
)]
async fn latest(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
) -> Answer<Result<Json<LatestView>, StatusCode>> {
    if let Some(latest) = app.node.meters.read(id) {
        return Ok(Ok(Json(LatestView::of(id, &latest))));
    }
    app.node.registry.meter(MeterId(id)).await?;
    Ok(Err(StatusCode::NO_CONTENT))
}

/// Where a meter served, in time order.
#[utoipa::path(
    get, path = "/v1/meters/{id}/installations", tag = "meters", params(("id" = u32, Path)),
    responses((status = 200, body = Page<InstallationView>))
)]
async fn installations(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
) -> Answer<Json<Page<InstallationView>>> {
    app.node.registry.meter(MeterId(id)).await?;
    let rows = app.node.registry.installations_of_meter(MeterId(id)).await?;
    let items = rows.into_iter().map(InstallationView::from).collect();
    Ok(Json(Page { items, next: None }))
}

/// Registers a meter.
#[utoipa::path(
    post, path = "/v1/meters", tag = "meters", request_body = MeterNew,
    responses((status = 201, body = MeterView))
)]
async fn add_meter(
    State(app): State<Arc<App>>,
    Body(new): Body<MeterNew>,
) -> Answer<(StatusCode, Json<MeterView>)> {
    let new = NewMeter {
        keys: keys(&new.encryption_key, &new.authentication_key),
        serial: new.serial,
        title: new.system_title.0,
        model: new.model,
        template: new.template,
        record: MeterRecord {
            meter: MeterId::NONE,
            role: new.role.into(),
            transformer: TransformerId(new.transformer.unwrap_or_default()),
            gateway: GatewayId(new.gateway.unwrap_or_default()),
            current_max: Current::from_ma(new.current_max_ma),
            voltage_nominal: Voltage::from_mv(new.voltage_nominal_mv),
            phases: new.phases,
            register_digits: new.register_digits,
            period_s: new.period_s,
        },
    };
    let (made, outbox) = app.node.registry.add_meter(&new).await?;
    app.applied(outbox).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Lets a meter begin to serve.
#[utoipa::path(
    post, path = "/v1/installations", tag = "meters", request_body = InstallationNew,
    responses((status = 201, body = InstallationView))
)]
async fn install(
    State(app): State<Arc<App>>,
    Body(new): Body<InstallationNew>,
) -> Answer<(StatusCode, Json<InstallationView>)> {
    let new = Installation {
        meter: MeterId(new.meter),
        account: AccountId(new.account.unwrap_or_default()),
        at: new.at.0,
        start: new.start_wh.map(Energy::from_wh),
    };
    let outbox = app.node.registry.install(new).await?;
    app.applied(outbox).await?;
    let Installation { meter, account, at, start } = new;
    let period = InstallationPeriod { meter, account, from: at, start, to: None, end: None };
    Ok((StatusCode::CREATED, Json(period.into())))
}

/// Lets a meter end to serve; its balance stays with the account.
#[utoipa::path(
    post, path = "/v1/meters/{id}/removal", tag = "meters", params(("id" = u32, Path)),
    request_body = RemovalNew, responses((status = 200, body = Page<InstallationView>))
)]
async fn remove(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Body(new): Body<RemovalNew>,
) -> Answer<Json<Page<InstallationView>>> {
    let meter = MeterId(id);
    app.node.registry.meter(meter).await?;
    let end = Energy::from_wh(new.end_wh);
    let outbox = app.node.registry.remove(Removal { meter, at: new.at.0, end }).await?;
    app.applied(outbox).await?;
    installations(State(app), Path(id)).await
}
