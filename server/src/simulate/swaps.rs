//! The swaps of meters beside the fleet: told to the node when they are due.

use anyhow::Context;
use loadgen::World;
use loadgen::fleet::{Fleet, account_code, serial};
use meter::UnixSeconds;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::drive::{PATIENCE, RETRY};
use super::pause;
use super::target::AT_ONCE;
use crate::clock::{self, Clock};
use crate::demo::client::Api;
use crate::http::HttpError;

/// A swap as the node is told of it.
#[derive(Debug)]
pub(super) struct Told {
    due: UnixSeconds,
    path: String,
    body: Value,
}

/// The swaps of a fleet, in their order, by the node's ids.
///
/// # Errors
/// Ids cannot be listed, or a meter is not registered.
pub(super) async fn planned(fleet: &Fleet, world: &World, api: &Api) -> anyhow::Result<Vec<Told>> {
    let swaps: Vec<_> = fleet.ordinals().filter_map(|ordinal| fleet.swap(world, ordinal)).collect();
    if swaps.is_empty() {
        return Ok(Vec::new());
    }
    let accounts = api.ids("/v1/accounts", "code").await?;
    let meters = api.ids("/v1/meters", "serial").await?;
    let meter = |ordinal| {
        let serial = serial(ordinal);
        meters.get(&serial).copied().with_context(|| format!("no meter {serial}"))
    };
    let told = swaps.iter().map(|swap| {
        let code = account_code(swap.old);
        let account = accounts.get(&code).with_context(|| format!("no account {code}"))?;
        let body = json!({
            "old": meter(swap.old)?, "end_wh": swap.end.wh(),
            "new": meter(swap.new)?, "start_wh": swap.start.wh(), "at": swap.at.to_string(),
        });
        let path = format!("/v1/accounts/{account}/replacement");
        Ok(Told { due: swap.told_at, path, body })
    });
    let mut told = told.collect::<anyhow::Result<Vec<Told>>>()?;
    told.sort_by_key(|told| told.due);
    Ok(told)
}

/// Tells the node of swaps when they are due, some at a time; how many there were.
///
/// # Errors
/// The node refuses one, or does not take it for [`PATIENCE`].
pub(super) async fn tell(swaps: Vec<Told>, api: Api, clock: Clock) -> anyhow::Result<usize> {
    let (count, mut under_way) = (swaps.len(), JoinSet::new());
    for swap in swaps {
        while clock.now() < swap.due {
            pause(RETRY).await;
        }
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.transpose()?.transpose()?;
        }
        let api = api.clone();
        under_way.spawn(async move {
            replace(&swap, &api).await.with_context(|| format!("POST {}", swap.path))
        });
    }
    while let Some(told) = under_way.join_next().await {
        told??;
    }
    Ok(count)
}

/// Tells of one swap. While the node is away it is told again; that it had been taken before the
/// answer was lost shows by its refusal.
async fn replace(swap: &Told, api: &Api) -> Result<(), HttpError> {
    let (began, mut tries) = (clock::instant(), 0);
    loop {
        tries += 1;
        match api.post(&swap.path, &swap.body).await {
            Ok(_) => return Ok(()),
            Err(HttpError::Status { status: 409, .. }) if tries > 1 => return Ok(()),
            Err(refused @ HttpError::Status { status: ..500, .. }) => return Err(refused),
            Err(late) if began.elapsed() > PATIENCE => return Err(late),
            Err(_) => pause(RETRY).await,
        }
    }
}
