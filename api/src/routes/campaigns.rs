//! Key-change campaigns: meters of a selection get another key in front of their next token.
//!
//! **Invariant:** how far a campaign is stands in the registry, written with each step; a running
//! one goes on by itself when the node starts again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use meter::MeterId;
use serde::{Deserialize, Serialize};
use storage::registry::{Campaign, CampaignState, KeySetting, RegistryError};
use tracing::{info, warn};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::PageQuery;
use super::tokens::KeyView;
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

/// Meters stepped at a time: short transactions, so that sales do not wait.
const STEP_METERS: u32 = 500;
/// Pause after the registry did not answer.
const RETRY: Duration = Duration::from_secs(1);

pub(super) fn operated() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(add_campaign))
        .routes(routes!(campaign))
        .routes(routes!(list_campaigns))
        .routes(routes!(set_campaign_state))
}

/// A campaign to begin.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CampaignNew {
    name: String,
    /// Selects meters of this supply group.
    from_sgc: u32,
    /// And of this key revision.
    from_krn: Option<u8>,
    to_sgc: u32,
    to_kt: u8,
    to_krn: u8,
    /// New tariff index; each meter keeps its own when absent.
    to_ti: Option<u8>,
}

/// A campaign and how far it is.
#[derive(Debug, Serialize, ToSchema)]
struct CampaignView {
    id: u32,
    name: String,
    from_sgc: u32,
    from_krn: Option<u8>,
    to: KeyView,
    /// `running`, `paused` or `done`.
    state: &'static str,
    /// Meters of the selection.
    total: u64,
    /// Meters that are to get the key with their next token.
    marked: u64,
    /// Meters that were given it.
    changed: u64,
}

/// What a campaign is to do.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CampaignStateNew {
    /// `running` or `paused`.
    state: String,
}

/// Begins a campaign: each meter of the selection gets another key in front of its next token.
#[utoipa::path(
    post, path = "/v1/campaigns", tag = "vending", request_body = CampaignNew,
    responses((status = 201, body = CampaignView))
)]
async fn add_campaign(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<CampaignNew>,
) -> Answer<(StatusCode, Json<CampaignView>)> {
    let ti = new.to_ti.unwrap_or(0);
    let to = KeySetting { sgc: new.to_sgc, kt: new.to_kt, krn: new.to_krn, ti };
    // A key that is not in the vault would stop every sale of the selection.
    app.vault.attributes(to)?;
    let campaign = Campaign {
        id: 0,
        name: new.name,
        from_sgc: new.from_sgc,
        from_krn: new.from_krn,
        to,
        changes_ti: new.to_ti.is_some(),
        state: CampaignState::Running,
        total: 0,
        marked: 0,
        cursor: MeterId::NONE,
    };
    let campaign = app.node.registry.add_campaign(&campaign, caller.token, app.now()).await?;
    app.drive_campaign(campaign.id);
    Ok((StatusCode::CREATED, Json(app.campaign_view(campaign).await?)))
}

impl App {
    /// Goes on with the campaigns that were running when the node stopped.
    pub(crate) async fn resume_campaigns(&self) -> Result<(), RegistryError> {
        for id in self.node.registry.running_campaigns().await? {
            info!(campaign = id, "a campaign goes on");
            self.drive_campaign(id);
        }
        Ok(())
    }

    /// Steps a campaign until it is done or paused. It ends with the node and is taken up again at
    /// the start.
    fn drive_campaign(&self, id: u32) {
        let registry = Arc::clone(&self.node.registry);
        tokio::spawn(async move {
            loop {
                match registry.step_campaign(id, STEP_METERS).await {
                    Ok(true) => tokio::task::yield_now().await,
                    Ok(false) => return,
                    Err(error) => {
                        warn!(campaign = id, %error, "a campaign waits for the registry");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        });
    }

    async fn campaign_view(&self, campaign: Campaign) -> Answer<CampaignView> {
        let changed = self.node.registry.campaign_changed(&campaign).await?;
        Ok(CampaignView {
            id: campaign.id,
            name: campaign.name,
            from_sgc: campaign.from_sgc,
            from_krn: campaign.from_krn,
            to: campaign.to.into(),
            state: campaign.state.name(),
            total: campaign.total,
            marked: campaign.marked,
            changed,
        })
    }
}

/// A campaign and how far it is.
#[utoipa::path(
    get, path = "/v1/campaigns/{id}", tag = "vending", params(("id" = u32, Path)),
    responses((status = 200, body = CampaignView))
)]
async fn campaign(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<CampaignView>> {
    let campaign = app.node.registry.campaign(id).await?;
    Ok(Json(app.campaign_view(campaign).await?))
}

/// Campaigns, oldest first.
#[utoipa::path(
    get, path = "/v1/campaigns", tag = "vending", params(PageQuery),
    responses((status = 200, body = Page<CampaignView>))
)]
async fn list_campaigns(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<CampaignView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    let rows = app.node.registry.campaigns(after, limit + 1).await?;
    let page = Page::of(rows, limit, |row: &Campaign| row.id.to_string(), |row| row);
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(app.campaign_view(row).await?);
    }
    Ok(Json(Page { items, next: page.next }))
}

/// Pauses a campaign, or lets it go on where it stopped.
#[utoipa::path(
    post, path = "/v1/campaigns/{id}/state", tag = "vending", params(("id" = u32, Path)),
    request_body = CampaignStateNew, responses((status = 200, body = CampaignView))
)]
async fn set_campaign_state(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Body(new): Body<CampaignStateNew>,
) -> Answer<Json<CampaignView>> {
    let state = match new.state.as_str() {
        "running" => CampaignState::Running,
        "paused" => CampaignState::Paused,
        _ => return Err(Problem::field("state", "must be running or paused")),
    };
    let campaign = app.node.registry.set_campaign_state(id, state).await?;
    if campaign.state == CampaignState::Running {
        app.drive_campaign(id);
    }
    Ok(Json(app.campaign_view(campaign).await?))
}
