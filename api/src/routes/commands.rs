//! Commands to meters: asked for once by key, carried when the meter can be reached.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use meter::{Command, CommandId, CommandOutcome, MeterId, TokenDigits};
use serde::{Deserialize, Serialize};
use storage::registry::{CommandRow, NewCommand};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::payments::idempotency_key;
use super::site::PageQuery;
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::json::Instant;
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

/// How long a command is tried when the caller does not say.
const EXPIRES_IN_S: u32 = 86_400;
/// How long a command may be tried at most: a month.
const EXPIRES_IN_S_MAX: u32 = 31 * 86_400;

pub(super) fn read() -> Routes {
    OpenApiRouter::new().routes(routes!(list_commands)).routes(routes!(command))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new().routes(routes!(send_command)).routes(routes!(withdraw_command))
}

/// What a meter is to do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CommandKind {
    /// Open the supply relay.
    Disconnect,
    /// Close the supply relay, or let the customer close it.
    Reconnect,
    /// Read the relay's state.
    ReadRelay,
    /// Enter a token.
    Token,
}

/// A command asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CommandNew {
    /// What to do.
    command: CommandKind,
    /// For `token`: its 20 digits.
    token: Option<String>,
    /// From when on it is given up, seconds from now: 1 to 2678400, default 86400.
    expires_in_s: Option<u32>,
}

/// A command on record.
#[derive(Debug, Serialize, ToSchema)]
struct CommandView {
    id: u64,
    meter: u32,
    idempotency_key: String,
    command: CommandKind,
    /// Of a token, the last four digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    token: Option<String>,
    at: Instant,
    expires_at: Instant,
    /// Attempts so far. A meter that sleeps is tried when it speaks.
    attempts: u32,
    /// `waiting`, `answered`, `refused`, `expired`, or `withdrawn`.
    state: &'static str,
    /// `disconnected`, `connected`, or `ready_for_reconnection`, as read back from the meter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    relay: Option<&'static str>,
    /// Status code of the token gateway: 0 to 3 good, 4 to 7 failed, 8 not processed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    token_status: Option<u8>,
    /// The meter's own result beside the status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    token_data: Option<u32>,
    /// Whether the token had to be entered a second time: a result "used" then means that the
    /// first entry was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    entered_again: Option<bool>,
    /// The DLMS result with which the meter refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    refused_code: Option<u8>,
    /// Of an expired command: whether the meter may have carried it out all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    may_have_acted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    ended_at: Option<Instant>,
}

impl From<CommandRow> for CommandView {
    fn from(row: CommandRow) -> Self {
        let (command, token) = match row.command {
            Command::Disconnect => (CommandKind::Disconnect, None),
            Command::Reconnect => (CommandKind::Reconnect, None),
            Command::ReadRelay => (CommandKind::ReadRelay, None),
            Command::Token(token) => {
                let last: String = token.ascii()[16..].iter().copied().map(char::from).collect();
                (CommandKind::Token, Some(format!("…{last}")))
            }
        };
        let mut view = Self {
            id: row.id.0,
            meter: row.meter.0,
            idempotency_key: row.key,
            command,
            token,
            at: Instant(row.at),
            expires_at: Instant(row.expires_at),
            attempts: row.attempts,
            state: "waiting",
            relay: None,
            token_status: None,
            token_data: None,
            entered_again: None,
            refused_code: None,
            may_have_acted: None,
            ended_at: row.ended.map(|(_, at)| Instant(at)),
        };
        if let Some((outcome, _)) = row.ended {
            view.tell(outcome);
        }
        view
    }
}

impl CommandView {
    fn tell(&mut self, outcome: CommandOutcome) {
        match outcome {
            CommandOutcome::Relay { state } => {
                self.state = "answered";
                self.relay = Some(state.name());
            }
            CommandOutcome::Token { status, data, entered_again } => {
                self.state = "answered";
                self.token_status = Some(status);
                self.token_data = Some(data);
                self.entered_again = Some(entered_again);
            }
            CommandOutcome::Refused { code } => {
                self.state = "refused";
                self.refused_code = Some(code);
            }
            CommandOutcome::Expired { sent } => {
                self.state = "expired";
                self.may_have_acted = Some(sent);
            }
            CommandOutcome::Withdrawn => self.state = "withdrawn",
        }
    }
}

impl CommandNew {
    fn command(&self) -> Answer<Command> {
        let token = self.token.as_deref();
        match (self.command, token) {
            (CommandKind::Token, Some(text)) => {
                let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
                let token = TokenDigits::try_from(digits);
                token.map(Command::Token).map_err(|reason| Problem::field("token", reason))
            }
            (CommandKind::Token, None) => {
                Err(Problem::field("token", "the command token needs its 20 digits"))
            }
            (_, Some(_)) => Err(Problem::field("token", "only the command token has one")),
            (CommandKind::Disconnect, None) => Ok(Command::Disconnect),
            (CommandKind::Reconnect, None) => Ok(Command::Reconnect),
            (CommandKind::ReadRelay, None) => Ok(Command::ReadRelay),
        }
    }
}

/// Sends a command to a meter. The answer comes when the command is on record; it is carried at
/// once if the meter can be reached, else when it next speaks. The same `Idempotency-Key` names
/// the same command for ever; with another command it is refused.
#[utoipa::path(
    post, path = "/v1/meters/{id}/commands", tag = "commands",
    params(
        ("id" = u32, Path),
        ("Idempotency-Key" = String, Header, description = "Names this command: 1 to 128 characters.")
    ),
    request_body = CommandNew, responses((status = 202, body = CommandView))
)]
async fn send_command(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    headers: HeaderMap,
    Body(new): Body<CommandNew>,
) -> Answer<(StatusCode, Json<CommandView>)> {
    let (key, command, at) = (idempotency_key(&headers)?, new.command()?, app.now());
    let expires_in_s = new.expires_in_s.unwrap_or(EXPIRES_IN_S);
    if !(1..=EXPIRES_IN_S_MAX).contains(&expires_in_s) {
        return Err(Problem::field("expires_in_s", format!("must be 1 to {EXPIRES_IN_S_MAX}")));
    }
    let request = NewCommand {
        key,
        meter: MeterId(id),
        command,
        at,
        expires_at: at.plus(expires_in_s),
        actor: caller.token,
    };
    let row = app.node.registry.command(&request).await?;
    Ok((StatusCode::ACCEPTED, Json(row.into())))
}

/// Asks that a command be no longer sent. What was sent cannot be called back.
#[utoipa::path(
    post, path = "/v1/commands/{id}/withdraw", tag = "commands", params(("id" = u64, Path)),
    responses((status = 202, body = CommandView))
)]
async fn withdraw_command(
    State(app): State<Arc<App>>,
    Path(id): Path<u64>,
) -> Answer<(StatusCode, Json<CommandView>)> {
    app.node.registry.withdraw_command(CommandId(id)).await?;
    let row = app.node.registry.command_by_id(CommandId(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(row.into())))
}

/// A command, and what came of it.
#[utoipa::path(
    get, path = "/v1/commands/{id}", tag = "commands", params(("id" = u64, Path)),
    responses((status = 200, body = CommandView))
)]
async fn command(State(app): State<Arc<App>>, Path(id): Path<u64>) -> Answer<Json<CommandView>> {
    Ok(Json(app.node.registry.command_by_id(CommandId(id)).await?.into()))
}

/// The commands of a meter, oldest first.
#[utoipa::path(
    get, path = "/v1/meters/{id}/commands", tag = "commands",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<CommandView>))
)]
async fn list_commands(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<CommandView>>> {
    let limit = limit(query.limit)?;
    let after = CommandId(after(query.after.as_deref())?);
    app.node.registry.meter(MeterId(id)).await?;
    let rows = app.node.registry.commands(MeterId(id), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), CommandView::from)))
}
