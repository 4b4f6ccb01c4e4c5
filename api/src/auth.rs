//! Rights: what a route needs, what a role may. Routes are grouped by right, so that a request is
//! refused before its body is read.

use axum::http::{HeaderMap, StatusCode, header};
use storage::registry::ApiRole;

use crate::App;
use crate::problem::{Answer, Problem};

/// What a route needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Right {
    /// See accounts, balances, statements and prices.
    Accounts,
    /// See everything else but tokens.
    Read,
    /// Take payments.
    Sell,
    /// Register, import, install, acknowledge, settle, set limits.
    Operate,
    /// Prices, calendars, corrections, policy, tokens.
    Administer,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Number of the token: it is kept with what the caller did.
    pub(crate) token: u32,
    /// What the token may do.
    pub(crate) role: ApiRole,
}

impl Right {
    pub(crate) const fn is_held_by(self, role: ApiRole) -> bool {
        match role {
            ApiRole::Admin => true,
            ApiRole::Operator => !matches!(self, Self::Administer),
            ApiRole::Vendor => matches!(self, Self::Accounts | Self::Sell),
            ApiRole::Reader => matches!(self, Self::Accounts | Self::Read),
        }
    }
}

/// Who asks, if the request bears a token with the right.
pub(crate) fn check(app: &App, right: Right, headers: &HeaderMap) -> Answer<Caller> {
    let token = bearer(headers).and_then(|secret| app.node.registry.token_by_secret(secret));
    let Some(token) = token else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "no valid token came with the request",
            "send the header Authorization: Bearer TOKEN; an administrator makes tokens",
        ));
    };
    if !right.is_held_by(token.role) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("a token of role {} may not do this", token.role.name()),
            "use a token of another role; the role of each route is in the documentation",
        ));
    }
    Ok(Caller { token: token.id, role: token.role })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}
