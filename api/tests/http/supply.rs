//! What people decide of an account: each act once, on record, and each bad one refused with its own
//! code and without a trace.

use serde_json::Value;

use crate::TestNode;
use crate::client::Call;

async fn check(node: &TestNode, method: &str, path: &str, body: &str, want: (u16, &str)) -> Value {
    let reply = node.call(method, path, body).await;
    let code = if reply.status < 300 { String::new() } else { reply.code() };
    assert_eq!((reply.status, code.as_str()), want, "{method} {path} {body}: {reply:?}");
    reply.json()
}

/// Method, path and body of what is refused, and its code.
const REFUSED: [(&str, &str, &str, &str); 13] = [
    ("POST", "/v1/accounts/9/debts", r#"{"amount":"1","share_bp":1,"reason":"x"}"#, "not_found"),
    ("POST", "/v1/accounts/1/emergency-credit", "{}", "emergency_not_offered"),
    (
        "POST",
        "/v1/accounts/1/debts",
        r#"{"amount":"-1","share_bp":1,"reason":"x"}"#,
        "invalid_field",
    ),
    (
        "POST",
        "/v1/accounts/1/debts",
        r#"{"amount":"1","share_bp":0,"reason":"x"}"#,
        "invalid_field",
    ),
    (
        "POST",
        "/v1/accounts/1/bookings",
        r#"{"kind":"energy","amount":"1","reason":"x"}"#,
        "invalid_field",
    ),
    (
        "POST",
        "/v1/accounts/1/bookings",
        r#"{"kind":"adjustment","amount":"0","reason":"x"}"#,
        "invalid_field",
    ),
    (
        "POST",
        "/v1/accounts/1/mode-switches",
        r#"{"mode":"postpaid","from":"2020-01-01"}"#,
        "invalid_field",
    ),
    (
        "POST",
        "/v1/accounts/1/mode-switches",
        r#"{"mode":"prepaid","from":"2099-01-01"}"#,
        "mode_unchanged",
    ),
    (
        "POST",
        "/v1/accounts/1/replacement",
        r#"{"old":1,"end_wh":1,"new":2,"start_wh":0}"#,
        "not_found",
    ),
    ("PUT", "/v1/accounts/1/supply", r#"{"friendly":7}"#, "not_found"),
    (
        "PUT",
        "/v1/supply-policy",
        r#"{"cutting":true,"order_s_max":1,"attempts_max":1,"retry_s":1,"stagger_s":1}"#,
        "invalid_field",
    ),
    (
        "POST",
        "/v1/friendly-calendars",
        r#"{"code":"f","week":[[],[],[],[],[],[]]}"#,
        "calendar_gap",
    ),
    (
        "POST",
        "/v1/friendly-calendars",
        r#"{"code":"f","week":[[],[],[],[],[],[],[{"from":9,"to":9}]]}"#,
        "calendar_gap",
    ),
];

#[tokio::test]
async fn acts_are_on_record_and_bad_ones_leave_no_trace() {
    let node = TestNode::start().await;
    node.with_account().await;
    let put = r#"{"protected":true,"emergency_credit":"10","emergency_below":"2"}"#;
    for (method, path, body, code) in REFUSED {
        let reply = node.call(method, path, body).await;
        assert_eq!(reply.code(), code, "{method} {path} {body}: {reply:?}");
    }
    let acts = node.call("GET", "/v1/accounts/1/acts", "").await.json();
    assert_eq!(acts["items"].as_array().unwrap().len(), 0, "{acts}");
    check(&node, "PUT", "/v1/accounts/1/supply", put, (201, "")).await;
    let later = r#"{"mode":"postpaid","from":"2099-01-01"}"#;
    check(&node, "POST", "/v1/accounts/1/mode-switches", later, (201, "")).await;
    let again = (409, "mode_switch_pending");
    check(&node, "POST", "/v1/accounts/1/mode-switches", later, again).await;
    let supply = check(&node, "GET", "/v1/accounts/1/supply", "", (200, "")).await;
    assert_eq!((&supply["mode"], &supply["terms"]["protected"]), (&"prepaid".into(), &true.into()));
    assert_eq!(supply["switch_at"], "2098-12-31T16:00:00Z", "local midnight in Shanghai");
    let acts = node.call("GET", "/v1/accounts/1/acts", "").await.json();
    assert_eq!(acts["items"][0]["act"]["supply_terms"]["is_protected"], true, "{acts}");
    assert_eq!(acts["items"].as_array().unwrap().len(), 2);
}

const DEAR: &str = r#"{"valid_from":"2026-10-01","prices":["0.9"],
    "seasons":[{"from":"01-01","to":"12-31","workday":[{"at":"00:00","rate":1}]}]}"#;

/// Bodies of a change of plan that is refused, and the code. It is 22:13 of 2026-09-21 in Shanghai.
const PLANS_REFUSED: [(&str, u16, &str); 9] = [
    (r#"{"plan":9,"from":"2026-12-01"}"#, 404, "not_found"),
    (r#"{"plan":3,"from":"2026-12-01"}"#, 422, "wrong_currency"),
    (r#"{"plan":4,"from":"2026-12-01"}"#, 409, "plan_without_version"),
    (r#"{"plan":2,"from":"2026-09-30"}"#, 409, "no_tariff_in_force"),
    (r#"{"plan":2,"from":"2026-09-21"}"#, 422, "invalid_field"),
    (r#"{"plan":2,"from":"2026-02-30"}"#, 422, "invalid_field"),
    (r#"{"plan":2,"from":"2026-10-01","at":"noon"}"#, 422, "unknown_field"),
    (r#"{"plan":2}"#, 422, "missing_field"),
    (r#"{"plan":1,"from":"2026-12-01"}"#, 409, "plan_unchanged"),
];

/// An account under plan 1, a dearer plan 2, one in another currency, one without prices.
async fn with_plans(node: &TestNode) {
    node.with_account().await;
    for (path, body) in [
        ("/v1/plans", r#"{"code":"dear","currency":"CNY"}"#),
        ("/v1/plans/2/versions", DEAR),
        ("/v1/plans", r#"{"code":"other","currency":"EUR"}"#),
        ("/v1/plans/3/versions", crate::node::VERSION),
        ("/v1/plans", r#"{"code":"empty","currency":"CNY"}"#),
    ] {
        check(node, "POST", path, body, (201, "")).await;
    }
}

#[tokio::test]
async fn a_change_of_plan_is_dated_on_record_and_taken_back() {
    let node = TestNode::start().await;
    with_plans(&node).await;
    let before = node.registry.ids().await.unwrap();
    let path = "/v1/accounts/1/plan";
    for (body, status, code) in PLANS_REFUSED {
        check(&node, "POST", path, body, (status, code)).await;
    }
    assert_eq!(node.registry.ids().await.unwrap(), before, "what is refused leaves no trace");
    let change = async |plan: u32, from: &str, want| {
        let body = format!(r#"{{"plan":{plan},"from":"{from}"}}"#);
        check(&node, "POST", path, &body, want).await
    };
    let act = change(2, "2026-10-05", (201, "")).await;
    assert_eq!(act["act"]["plan"]["plan"], 2, "{act}");
    change(2, "2026-10-05", (409, "plan_unchanged")).await;
    change(2, "2026-11-01", (409, "plan_unchanged")).await;
    let account = check(&node, "GET", "/v1/accounts/1", "", (200, "")).await;
    assert_eq!((&account["plan"], &account["plan_change"]["plan"]), (&1.into(), &2.into()));
    assert_eq!(account["plan_change"]["at"], "2026-10-04T16:00:00Z", "midnight in Shanghai");
    // Back within October the blocks would be counted twice; in November they are not.
    change(1, "2026-10-20", (409, "plan_left_in_period")).await;
    change(1, "2026-11-01", (201, "")).await;
    let explained = check(&node, "GET", "/v1/accounts/1/balance/explanation", "", (200, "")).await;
    assert_eq!(explained["plans"][1]["from"], "2026-10-05", "{explained}");
    assert_eq!(explained["plans"].as_array().unwrap().len(), 3);
    let october = "/v1/accounts/1/statement?from=2026-10-06T00:00:00Z&to=2026-10-09T00:00:00Z";
    let statement = check(&node, "GET", october, "", (200, "")).await;
    assert_eq!(statement["plans"], serde_json::json!([{"plan": 2, "from": "2026-10-05"}]));
    // The account leaves plan 1, but what it used under it keeps its price.
    let begun = crate::node::VERSION.replacen("2026-01-01", "2026-09-21", 1);
    change(2, "2026-10-05", (201, "")).await;
    check(&node, "POST", "/v1/plans/1/versions", &begun, (409, "tariff_version_effective")).await;
    // Limits change, the plans do not.
    check(&node, "PATCH", "/v1/accounts/1", r#"{"overdraft":"5"}"#, (200, "")).await;
    change(1, "2026-10-05", (201, "")).await;
    let account = check(&node, "GET", "/v1/accounts/1", "", (200, "")).await;
    assert_eq!((&account["plan"], &account["plan_change"]), (&1.into(), &Value::Null));
    let acts = check(&node, "GET", "/v1/accounts/1/acts", "", (200, "")).await;
    assert_eq!(acts["items"].as_array().unwrap().len(), 4, "each change is on record");
    check(&node, "POST", "/v1/accounts/1/closing", "", (201, "")).await;
    change(2, "2026-10-05", (409, "account_closed")).await;
}

#[tokio::test]
async fn a_closed_account_takes_no_money_and_no_acts() {
    let node = TestNode::start().await;
    node.with_account().await;
    check(&node, "POST", "/v1/accounts/1/closing", "", (201, "")).await;
    let closed = (409, "account_closed");
    check(&node, "POST", "/v1/accounts/1/closing", "", closed).await;
    let debt = r#"{"amount":"1","share_bp":1,"reason":"x"}"#;
    check(&node, "POST", "/v1/accounts/1/debts", debt, closed).await;
    let pay = Call::new("POST", "/v1/accounts/1/top-ups").token(&node.admin);
    let reply = node.send(pay.header("Idempotency-Key", "k").json(r#"{"amount":"3"}"#)).await;
    assert_eq!((reply.status, reply.code().as_str()), closed);
    // What is left over is paid out by a booking.
    let refund = r#"{"kind":"refund","amount":"-3","corrects":1,"reason":"final"}"#;
    check(&node, "POST", "/v1/accounts/1/bookings", refund, (201, "")).await;
    let statement = check(&node, "GET", "/v1/accounts/1/statement", "", (200, "")).await;
    assert_eq!((&statement["final"], &statement["closing"]), (&true.into(), &"-0.0000020".into()));
}

#[tokio::test]
async fn a_balance_is_explained() {
    let node = TestNode::start().await;
    node.with_account().await;
    let path = "/v1/accounts/1/balance/explanation";
    let made = check(&node, "GET", path, "", (200, "")).await;
    assert_eq!(made["energy_booked"], "0.0000020", "{made}");
    let text = Call::new("GET", path).token(&node.admin).header("Accept", "text/plain");
    let text = node.send(text).await;
    assert!(text.body.contains("difference"), "{text:?}");
    assert_eq!(node.call("GET", "/v1/orders/7", "").await.code(), "not_found");
    let policy = check(&node, "GET", "/v1/supply-policy", "", (200, "")).await;
    assert_eq!(policy["cutting"], false, "nobody is cut off before somebody says so");
}
