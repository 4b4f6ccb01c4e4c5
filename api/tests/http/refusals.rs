//! Bad requests: each is refused with its code, and changes nothing.

use std::sync::atomic::Ordering;

use crate::TestNode;
use crate::client::Call;

#[tokio::test]
async fn each_refusal_has_its_code_and_changes_nothing() {
    let node = TestNode::start().await;
    node.with_account().await;
    let before = node.registry.ids().await.unwrap();
    let check = async |method: &str, path: &str, body: &str, status: u16, code: &str| {
        let call = Call::new(method, path).token(&node.admin).header("Idempotency-Key", "k");
        let reply = node.send(if body.is_empty() { call } else { call.json(body) }).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {path} {body}");
    };
    let top_ups = "/v1/accounts/1/top-ups";
    check("POST", "/v1/customers", "{", 400, "bad_json").await;
    check("POST", "/v1/customers", r#"{"code":"C2"}"#, 422, "missing_field").await;
    check("POST", "/v1/customers", r#"{"code":"C2","name":"x","age":1}"#, 422, "unknown_field")
        .await;
    check("POST", "/v1/customers", r#"{"code":2,"name":"x"}"#, 422, "invalid_field").await;
    check("POST", "/v1/customers", r#"{"code":"","name":"x"}"#, 422, "invalid_field").await;
    check("POST", "/v1/customers", r#"{"code":"C1","name":"x"}"#, 409, "already_exists").await;
    check("POST", top_ups, r#"{"amount":12}"#, 422, "invalid_field").await;
    check("POST", top_ups, r#"{"amount":"-1"}"#, 422, "invalid_field").await;
    check("POST", top_ups, r#"{"amount":"0"}"#, 422, "invalid_field").await;
    check("POST", top_ups, r#"{"amount":"1.00000001"}"#, 422, "invalid_field").await;
    check("POST", top_ups, r#"{"amount":"1000000001"}"#, 422, "invalid_field").await;
    check("POST", top_ups, r#"{"amount":"99999999999999999999"}"#, 422, "invalid_field").await;
    check("POST", top_ups, r#"{"amount":"1","currency":"EUR"}"#, 422, "wrong_currency").await;
    check("POST", "/v1/accounts/77/top-ups", r#"{"amount":"1"}"#, 404, "not_found").await;
    check("GET", "/v1/accounts/abc", "", 400, "invalid_path").await;
    check("GET", "/v1/accounts/77/balance", "", 404, "not_found").await;
    check("GET", "/v1/accounts?limit=0", "", 422, "invalid_field").await;
    check("GET", "/v1/accounts?limit=1001", "", 422, "invalid_field").await;
    check("GET", "/v1/accounts?limit=x", "", 400, "invalid_query").await;
    check("GET", "/v1/accounts?page=2", "", 400, "invalid_query").await;
    check("GET", "/v1/accounts?after=x", "", 422, "invalid_field").await;
    check("PATCH", "/v1/accounts/1", r#"{"overdraft":"-1"}"#, 422, "invalid_field").await;
    check("PATCH", "/v1/accounts/1", r#"{"balance":"100"}"#, 422, "unknown_field").await;
    check("PATCH", "/v1/accounts/1", r#"{"low_levels":["1","2"]}"#, 422, "invalid_field").await;
    let account = |zone: &str| format!(r#"{{"code":"A2","customer":1,"plan":1,"zone":"{zone}"}}"#);
    check("POST", "/v1/accounts", &account("Asia/Peking"), 422, "unknown_time_zone").await;
    check("POST", "/v1/plans/9/versions", crate::node::VERSION, 404, "not_found").await;
    check("POST", "/v1/plans/1/versions", crate::node::VERSION, 409, "tariff_version_order").await;
    let version = |from: &str, to: &str| crate::node::VERSION.replacen(from, to, 1);
    let versions = "/v1/plans/1/versions";
    let late = version("2026-01-01", "2026-09-21");
    check("POST", versions, &late, 409, "tariff_version_effective").await;
    let next = |from: &str, to: &str| version("2026-01-01", "2027-01-01").replacen(from, to, 1);
    check("POST", versions, &next("12-31", "12-30"), 422, "tariff_without_rate").await;
    check("POST", versions, &next("00:00", "00:15"), 422, "tariff_without_rate").await;
    check("POST", versions, &next("07:00", "07:10"), 422, "invalid_field").await;
    check("POST", versions, &next("01-01", "1-1"), 422, "invalid_field").await;
    check("POST", versions, &next("\"rate\":1", "\"rate\":3"), 422, "invalid_tariff").await;
    let plan = r#"{"code":"p","currency":"yuan"}"#;
    check("POST", "/v1/plans", plan, 422, "invalid_field").await;
    check("GET", "/v1/alarms?code=fire", "", 422, "invalid_field").await;
    check("GET", "/v1/alarms?severity=mild", "", 422, "invalid_field").await;
    check("GET", "/v1/alarms/history?subject=boss-1", "", 422, "invalid_field").await;
    check("GET", "/v1/alarms/history?from=yesterday", "", 422, "invalid_field").await;
    let nobody = "/v1/alarms/meter-9-clock/acknowledgement";
    check("POST", nobody, r#"{"responsible":"x"}"#, 404, "not_found").await;
    check("DELETE", "/v1/tokens/1", "", 409, "last_administrator").await;
    check("PUT", "/v1/policy", "{}", 422, "missing_field").await;
    check("GET", "/v2/meters", "", 404, "no_such_route").await;
    check("DELETE", "/v1/meters", "", 405, "method_not_allowed").await;
    assert_eq!(node.registry.ids().await.unwrap(), before);
    assert_eq!(node.purchases.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn meters_and_installations_are_checked() {
    let node = TestNode::start().await;
    node.with_account().await;
    let meter = r#"{"serial":"S1","system_title":"4D54523000000001","model":"m","template":"t",
        "encryption_key":"000102030405060708090A0B0C0D0E0F",
        "authentication_key":"D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF","current_max_ma":60000,
        "voltage_nominal_mv":230000,"phases":1,"register_digits":6,"period_s":900}"#;
    let check = async |path: &str, body: &str, status: u16, code: &str| {
        let reply = node.call("POST", path, body).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{path} {body}");
        assert!(!reply.body.contains("0A0B0C"), "a key is not repeated: {reply:?}");
    };
    let with = |from: &str, to: &str| meter.replacen(from, to, 1);
    check("/v1/meters", &with("\"phases\":1", "\"phases\":2"), 422, "invalid_field").await;
    check("/v1/meters", &with("0E0F", "0E0"), 422, "invalid_field").await;
    check("/v1/meters", &with("4D54", "xx54"), 422, "invalid_field").await;
    let below = with("\"phases\"", "\"transformer\":9,\"phases\"");
    check("/v1/meters", &below, 404, "not_found").await;
    assert_eq!(node.call("POST", "/v1/meters", meter).await.status, 201);
    check("/v1/meters", meter, 409, "already_exists").await;
    let install = |account: &str, at: &str| format!(r#"{{"meter":1{account},"at":"{at}"}}"#);
    let installations = "/v1/installations";
    check(installations, &install("", "2026-05-01T00:00:00Z"), 422, "invalid_field").await;
    let early = install(",\"account\":1", "2025-05-01T00:00:00Z");
    check(installations, &early, 409, "no_tariff_in_force").await;
    let good = install(",\"account\":1", "2026-05-01T00:00:00Z");
    assert_eq!(node.call("POST", installations, &good).await.status, 201);
    check(installations, &good, 409, "meter_already_installed").await;
    let early = r#"{"at":"2026-04-01T00:00:00Z","end_wh":1}"#;
    check("/v1/meters/1/removal", early, 409, "installation_order").await;
    let none = r#"{"taken_at":"2026-05-01T00:00:00Z","decision":"reject"}"#;
    check("/v1/meters/1/quarantine/5/resolution", none, 404, "not_found").await;
}

#[tokio::test]
async fn a_settled_reading_is_not_settled_again() {
    let node = TestNode::start().await;
    let csv = node.call("GET", "/v1/imports/meters/template.csv", "").await.body;
    node.with_account().await;
    let call = Call::new("POST", "/v1/imports/meters").token(&node.admin);
    let csv = csv.replace("residential", "home");
    assert_eq!(node.send(call.typed("text/csv", &csv)).await.status, 201);
    let readings = node.call("GET", "/v1/meters/1/readings", "").await.json();
    let body =
        format!(r#"{{"taken_at":{},"decision":"reject"}}"#, readings["items"][0]["taken_at"]);
    let path = "/v1/meters/1/quarantine/7/resolution";
    assert_eq!(node.call("POST", path, &body).await.status, 200);
    assert_eq!(node.call("POST", path, &body).await.code(), "already_resolved");
}

#[tokio::test]
async fn a_bad_import_names_its_lines_and_changes_nothing() {
    let node = TestNode::start().await;
    node.with_account().await;
    let before = node.registry.ids().await.unwrap();
    let template = node.call("GET", "/v1/imports/meters/template.csv", "").await.body;
    let import = async |content_type: &str, body: &str| {
        let call = Call::new("POST", "/v1/imports/meters").token(&node.admin);
        node.send(call.typed(content_type, body)).await
    };
    let reply = import("text/csv", &template).await;
    assert_eq!((reply.status, reply.code().as_str()), (422, "import_refused"));
    let problem = reply.json();
    assert_eq!(problem["errors_total"], 1);
    assert_eq!(
        (&problem["errors"][0]["line"], &problem["errors"][0]["column"]),
        (&2.into(), &"plan".into())
    );
    assert_eq!(import("text/csv", "").await.code(), "import_empty");
    assert_eq!(import("application/json", "[").await.code(), "import_refused");
    assert_eq!(import("application/xml", "<x/>").await.code(), "unsupported_media_type");
    assert_eq!(node.registry.ids().await.unwrap(), before);
}

#[tokio::test]
async fn a_node_in_trouble_says_so() {
    let node = TestNode::start().await;
    node.with_account().await;
    node.is_down.store(true, Ordering::Relaxed);
    let reply = node.send(Call::new("GET", "/readyz")).await;
    assert_eq!((reply.status, &reply.json()["parts"][0]["state"]), (503, &"down".into()));
    node.is_stuck.store(true, Ordering::Relaxed);
    let call = Call::new("POST", "/v1/accounts/1/top-ups").token(&node.admin);
    let call = call.header("Idempotency-Key", "late").json(r#"{"amount":"5"}"#);
    assert_eq!(node.send(call.clone()).await.code(), "not_applied_yet");
    node.is_stuck.store(false, Ordering::Relaxed);
    let reply = node.send(call).await;
    assert_eq!(reply.json()["balance_after"]["balance"], "5.0000000", "once, not twice");
    node.registry.close().await;
    let reply = node.call("GET", "/v1/accounts/1", "").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "registry_unavailable"));
}
