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
