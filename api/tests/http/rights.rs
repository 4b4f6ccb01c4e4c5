//! Who may do what: every route with every role, and with none.

use std::collections::BTreeSet;

use storage::registry::ApiRole;

use crate::TestNode;
use crate::client::Call;
use crate::document::routes_of_document;

/// The routes and the roles that may call them: a admin, o operator, v vendor, r reader, - all.
const RIGHTS: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", "-"),
    ("GET", "/readyz", "-"),
    ("GET", "/metrics", "-"),
    ("GET", "/version", "-"),
    ("GET", "/v1/customers", "aovr"),
    ("GET", "/v1/customers/{id}", "aovr"),
    ("GET", "/v1/accounts", "aovr"),
    ("GET", "/v1/accounts/{id}", "aovr"),
    ("GET", "/v1/accounts/{id}/installations", "aovr"),
    ("GET", "/v1/accounts/{id}/balance", "aovr"),
    ("GET", "/v1/accounts/{id}/ledger", "aovr"),
    ("GET", "/v1/accounts/{id}/top-ups", "aovr"),
    ("GET", "/v1/top-ups/{key}", "aovr"),
    ("GET", "/v1/plans", "aovr"),
    ("GET", "/v1/plans/{id}", "aovr"),
    ("GET", "/v1/plans/{id}/versions", "aovr"),
    ("GET", "/v1/calendars", "aovr"),
    ("GET", "/v1/meters", "aor"),
    ("GET", "/v1/meters/{id}", "aor"),
    ("GET", "/v1/meters/{id}/latest", "aor"),
    ("GET", "/v1/meters/{id}/installations", "aor"),
    ("GET", "/v1/meters/{id}/intervals", "aor"),
    ("GET", "/v1/meters/{id}/readings", "aor"),
    ("GET", "/v1/meters/{id}/history", "aor"),
    ("GET", "/v1/meters/{id}/gaps", "aor"),
    ("GET", "/v1/transformers", "aor"),
    ("GET", "/v1/transformers/{id}", "aor"),
    ("GET", "/v1/transformers/{id}/line-loss", "aor"),
    ("GET", "/v1/gateways", "aor"),
    ("GET", "/v1/gateways/{id}", "aor"),
    ("GET", "/v1/alarms", "aor"),
    ("GET", "/v1/alarms/history", "aor"),
    ("GET", "/v1/meters/{id}/commands", "aor"),
    ("GET", "/v1/commands/{id}", "aor"),
    ("POST", "/v1/meters/{id}/commands", "ao"),
    ("POST", "/v1/commands/{id}/withdraw", "ao"),
    ("POST", "/v1/accounts/{id}/top-ups", "aov"),
    ("POST", "/v1/meters", "ao"),
    ("POST", "/v1/installations", "ao"),
    ("POST", "/v1/meters/{id}/removal", "ao"),
    ("POST", "/v1/meters/{id}/quarantine/{seq}/resolution", "ao"),
    ("POST", "/v1/transformers", "ao"),
    ("POST", "/v1/gateways", "ao"),
    ("POST", "/v1/customers", "ao"),
    ("POST", "/v1/accounts", "ao"),
    ("PATCH", "/v1/accounts/{id}", "ao"),
    ("POST", "/v1/accounts/{id}/plan", "ao"),
    ("POST", "/v1/alarms/{id}/acknowledgement", "ao"),
    ("POST", "/v1/imports/meters", "ao"),
    ("GET", "/v1/imports/meters/columns", "ao"),
    ("GET", "/v1/imports/meters/template.csv", "ao"),
    ("GET", "/v1/accounts/{id}/purchases", "aovr"),
    ("GET", "/v1/purchases/{key}", "aovr"),
    ("GET", "/v1/accounts/{id}/debts", "aovr"),
    ("POST", "/v1/accounts/{id}/quotes", "aov"),
    ("POST", "/v1/accounts/{id}/purchases", "aov"),
    ("POST", "/v1/purchases/{key}/copies", "aov"),
    ("POST", "/v1/purchases/{key}/reversal", "aov"),
    ("POST", "/v1/purchases/{key}/refund", "ao"),
    ("POST", "/v1/accounts/{id}/free-issues", "ao"),
    ("GET", "/v1/agents", "ao"),
    ("GET", "/v1/agents/{id}/days", "ao"),
    ("POST", "/v1/agents/{id}/settlements", "ao"),
    ("POST", "/v1/agents", "a"),
    ("PUT", "/v1/agents/{id}/tokens/{token}", "a"),
    ("GET", "/v1/meters/{id}/token-settings", "aor"),
    ("PUT", "/v1/meters/{id}/token-settings", "ao"),
    ("GET", "/v1/meters/{id}/tokens", "aor"),
    ("GET", "/v1/token-census", "aor"),
    ("GET", "/v1/token-orders", "aor"),
    ("POST", "/v1/token-orders", "ao"),
    ("POST", "/v1/token-orders/{id}/decision", "ao"),
    ("GET", "/v1/vending-keys", "a"),
    ("GET", "/v1/vending-keys/audit", "a"),
    ("POST", "/v1/vending-keys", "a"),
    ("POST", "/v1/vending-keys/confirmation", "a"),
    ("GET", "/v1/campaigns", "ao"),
    ("POST", "/v1/campaigns", "ao"),
    ("GET", "/v1/campaigns/{id}", "ao"),
    ("POST", "/v1/campaigns/{id}/state", "ao"),
    ("POST", "/v1/plans", "a"),
    ("POST", "/v1/plans/{id}/versions", "a"),
    ("POST", "/v1/calendars", "a"),
    ("PUT", "/v1/calendars/{id}/days", "a"),
    ("POST", "/v1/accounts/{id}/adjustments", "a"),
    ("GET", "/v1/accounts/{id}/adjustments", "a"),
    ("GET", "/v1/accounts/{id}/statement", "aovr"),
    ("GET", "/v1/accounts/{id}/balance/explanation", "aovr"),
    ("GET", "/v1/accounts/{id}/supply", "aovr"),
    ("GET", "/v1/accounts/{id}/acts", "aovr"),
    ("GET", "/v1/orders", "aovr"),
    ("GET", "/v1/orders/{id}", "aovr"),
    ("GET", "/v1/supply-policy", "aovr"),
    ("GET", "/v1/friendly-calendars", "aovr"),
    ("POST", "/v1/accounts/{id}/emergency-credit", "aov"),
    ("PUT", "/v1/accounts/{id}/supply", "ao"),
    ("POST", "/v1/accounts/{id}/debts", "ao"),
    ("POST", "/v1/accounts/{id}/mode-switches", "ao"),
    ("POST", "/v1/accounts/{id}/replacement", "ao"),
    ("POST", "/v1/accounts/{id}/closing", "ao"),
    ("POST", "/v1/accounts/{id}/clearance", "ao"),
    ("POST", "/v1/accounts/{id}/bookings", "a"),
    ("PUT", "/v1/supply-policy", "a"),
    ("POST", "/v1/friendly-calendars", "a"),
    ("GET", "/v1/policy", "a"),
    ("PUT", "/v1/policy", "a"),
    ("GET", "/v1/tokens", "a"),
    ("POST", "/v1/tokens", "a"),
    ("DELETE", "/v1/tokens/{id}", "a"),
];

#[tokio::test]
async fn every_route_with_every_role() {
    let node = TestNode::start().await;
    let mut callers = vec![(None, String::new()), (Some('x'), "meterd_forged".to_owned())];
    for role in ApiRole::ALL {
        callers.push((role.name().chars().next(), node.token(role).await));
    }
    let mut cells = 0;
    for (method, template, roles) in RIGHTS {
        // Ids that exist nowhere: a call that is let through changes nothing.
        let path = template.replace("{id}", "99999").replace("{seq}", "1").replace("{key}", "k");
        for (role, secret) in &callers {
            let call = Call::new(method, &path).json("{}");
            let call = if secret.is_empty() { call } else { call.token(secret) };
            let reply = node.send(call).await;
            let is_open = *roles == "-";
            let want = match role {
                _ if is_open => None,
                None | Some('x') => Some((401, "unauthorized")),
                Some(letter) if roles.contains(*letter) => None,
                Some(_) => Some((403, "forbidden")),
            };
            let place = format!("{method} {template} as {role:?}: {reply:?}");
            match want {
                Some((status, code)) => {
                    assert_eq!(reply.status, status, "{place}");
                    assert_eq!(reply.code(), code, "{place}");
                }
                None => assert!(!matches!(reply.status, 0 | 401 | 403 | 405), "{place}"),
            }
            cells += 1;
        }
    }
    println!("{cells} cells of the matrix of rights, none wrong");
    let table: BTreeSet<(String, String)> =
        RIGHTS.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(table, routes_of_document(), "the matrix holds every route");
}

#[tokio::test]
async fn a_refused_caller_is_told_how_to_be_let_in() {
    let node = TestNode::start().await;
    let reply = node.send(Call::new("GET", "/v1/meters")).await;
    assert_eq!(reply.header("WWW-Authenticate"), Some("Bearer realm=\"meterd\""));
    for value in ["Basic abc", "Bearer", "bearer  ", "Bearer \u{e9}"] {
        let call = Call::new("GET", "/v1/meters").header("Authorization", value);
        assert_eq!(node.send(call).await.status, 401, "{value:?}");
    }
}
