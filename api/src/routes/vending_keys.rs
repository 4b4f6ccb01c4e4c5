//! Vending keys, imported by two people.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use meter::UnixSeconds;
use serde::{Deserialize, Serialize};
use storage::registry::KeySetting;
use sts::{
    BaseDate, ImportError, KeyAttributes, KeyCheckValue, KeyExpiryNumber, TokenLimit, VendingKey,
};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::Routes;
use super::site::PageQuery;
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Query};
use crate::json::Instant;
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};
use crate::vault::{identity, key_id};

pub(super) fn administered() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list_keys))
        .routes(routes!(propose_key))
        .routes(routes!(confirm_key))
        .routes(routes!(audit_trail))
}

/// Digits of a key: taken in, never given out.
#[derive(ToSchema)]
#[schema(value_type = String, pattern = "^([0-9A-Fa-f]{16}|[0-9A-Fa-f]{40})$")]
struct KeyDigits(Zeroizing<String>);

impl std::fmt::Debug for KeyDigits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyDigits(***)")
    }
}

impl<'de> Deserialize<'de> for KeyDigits {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A vending key, proposed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VendingKeyNew {
    sgc: u32,
    /// 1 default, 2 unique, 3 common.
    kt: u8,
    krn: u8,
    /// 16 hexadecimal digits (DKGA02, odd parity) or 40 (DKGA04).
    key: KeyDigits,
    /// 1993, 2014 or 2035.
    base_year: u16,
    /// Key expiry number; 255 never expires.
    ken: u8,
    active_from: Instant,
    active_until: Instant,
    issued_until: Instant,
    /// The most one token carries, in tenths of a kWh.
    units_max: u32,
    /// The most one token carries, in whole currency units.
    currency_max: u32,
}

/// A vending key, confirmed by a second person.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VendingKeyConfirmation {
    sgc: u32,
    kt: u8,
    krn: u8,
    /// From the sender's paper, 6 hexadecimal digits.
    check_value: String,
}

/// A vending key without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct VendingKeyView {
    sgc: u32,
    kt: u8,
    krn: u8,
    base_year: u16,
    ken: u8,
    /// `in_use`, or `proposed` while a second person must confirm.
    state: &'static str,
    /// Of a proposed one: to be compared with the sender's paper.
    check_value: Option<String>,
}

/// What was done with a vending key. The lines are sealed to each other (HMAC), so keep copies
/// elsewhere: a copy shows when lines were cut off the end.
#[derive(Debug, Serialize, ToSchema)]
struct AuditLineView {
    line: u64,
    at: Instant,
    /// Who: the number of the API token.
    operator: String,
    /// `proposed`, `confirmed`, `confirmation refused` or `withdrawn`.
    deed: String,
    /// Supply group, key type and revision.
    #[schema(example = "201457/2/1")]
    key: String,
    check_value: String,
    /// Seals this line to the one before, as hexadecimal digits.
    mac: String,
}

impl AuditLineView {
    fn of((line, entry): (u64, String)) -> Self {
        let mut fields = entry.trim_end().split('\t').skip(1).map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let at = Instant(UnixSeconds(next().parse().unwrap_or_default()));
        let (operator, deed, key) = (next(), next(), next());
        Self { line, at, operator, deed, key, check_value: next(), mac: next() }
    }
}

fn import(error: &ImportError) -> Problem {
    let code = match error {
        ImportError::Parity(_) => "vending_key_parity",
        ImportError::Present => "vending_key_present",
        ImportError::NotProposed => "vending_key_not_proposed",
        ImportError::SameOperator(_) => "same_person",
        ImportError::CheckValue => "vending_key_check_value",
        ImportError::KeyType
        | ImportError::NeverActive { .. }
        | ImportError::Operator
        | ImportError::TooMany
        | _ => "vending_key_refused",
    };
    let hint = "compare the key and its check value with the sender's paper";
    Problem::new(StatusCode::CONFLICT, code, error.to_string(), hint)
}

/// A person is named by the API token in use: two people hold two tokens.
fn operator(caller: Caller) -> String {
    format!("token {}", caller.token)
}

impl App {
    async fn keep_audit(&self) -> Answer<()> {
        let audit = self.vault.module().take_audit();
        Ok(self.node.registry.keep_vault(None, &audit).await?)
    }
}

/// The first person brings a vending key. The answer has its check value.
#[utoipa::path(
    post, path = "/v1/vending-keys", tag = "vending", request_body = VendingKeyNew,
    responses((status = 201, body = VendingKeyView))
)]
async fn propose_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<VendingKeyNew>,
) -> Answer<(StatusCode, Json<VendingKeyView>)> {
    let VendingKeyNew { sgc, kt, krn, base_year, ken, .. } = new;
    let setting = KeySetting { sgc, kt, krn, ti: 0 };
    let attributes = KeyAttributes {
        id: key_id(setting).map_err(|error| Problem::from(identity(&error)))?,
        base_date: BaseDate::from_year(base_year)
            .map_err(|error| Problem::field("base_year", error))?,
        ken: KeyExpiryNumber(ken),
        active_from_s: new.active_from.0.0.into(),
        active_until_s: new.active_until.0.0.into(),
        issued_until_s: new.issued_until.0.0.into(),
        limit: TokenLimit { units: new.units_max, currency: new.currency_max },
    };
    // The digits are never repeated: the error says what is wrong, not with which.
    let key = VendingKey::from_hex(&new.key.0).map_err(|error| Problem::field("key", error))?;
    let now_s = app.now().0.into();
    let proposed = app.vault.module().propose(&operator(caller), key, attributes, now_s);
    app.keep_audit().await?;
    let check_value = Some(proposed.map_err(|error| import(&error))?.to_string());
    let view = VendingKeyView { sgc, kt, krn, base_year, ken, state: "proposed", check_value };
    Ok((StatusCode::CREATED, Json(view)))
}

/// A second person confirms a vending key with the check value from the sender's paper; then it is
/// in use.
#[utoipa::path(
    post, path = "/v1/vending-keys/confirmation", tag = "vending",
    request_body = VendingKeyConfirmation, responses((status = 200, body = VendingKeyView))
)]
async fn confirm_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<VendingKeyConfirmation>,
) -> Answer<Json<VendingKeyView>> {
    let VendingKeyConfirmation { sgc, kt, krn, .. } = new;
    let setting = KeySetting { sgc, kt, krn, ti: 0 };
    let id = key_id(setting).map_err(|error| Problem::from(identity(&error)))?;
    let check_value = storage::registry::parse_hex(&new.check_value)
        .map(KeyCheckValue)
        .ok_or_else(|| Problem::field("check_value", "must be 6 hexadecimal digits"))?;
    let now_s = app.now().0.into();
    let confirmed = app.vault.module().confirm(&operator(caller), id, check_value, now_s);
    let sealed = match confirmed {
        Ok(sealed) => sealed,
        Err(error) => {
            app.keep_audit().await?;
            return Err(import(&error));
        }
    };
    let audit = app.vault.module().take_audit();
    app.node.registry.keep_vault(Some((setting, sealed)), &audit).await?;
    let attributes = app.vault.attributes(setting)?;
    Ok(Json(view(&attributes, "in_use")))
}

fn view(attributes: &KeyAttributes, state: &'static str) -> VendingKeyView {
    VendingKeyView {
        sgc: attributes.id.sgc.value(),
        kt: attributes.id.kt.code(),
        krn: attributes.id.krn.value(),
        base_year: attributes.base_date.year(),
        ken: attributes.ken.0,
        state,
        check_value: None,
    }
}

/// All vending keys, without their secrets; the proposed ones too.
#[utoipa::path(
    get, path = "/v1/vending-keys", tag = "vending",
    responses((status = 200, body = Vec<VendingKeyView>))
)]
async fn list_keys(State(app): State<Arc<App>>) -> Json<Vec<VendingKeyView>> {
    let module = app.vault.module();
    let in_use = module.keys().map(|key| view(key, "in_use"));
    let proposed = module.proposals().map(|(_, _, key)| view(key, "proposed"));
    Json(in_use.chain(proposed).collect())
}

/// The audit trail of vending keys, oldest first: who proposed, confirmed or withdrew which.
#[utoipa::path(
    get, path = "/v1/vending-keys/audit", tag = "vending", params(PageQuery),
    responses((status = 200, body = Page<AuditLineView>))
)]
async fn audit_trail(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<AuditLineView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    let rows = app.node.registry.vault_audit(after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row: &(u64, String)| row.0.to_string(), AuditLineView::of)))
}
