//! Every route once, as it is meant to be used, in one story.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::TestNode;
use crate::client::{Call, Reply};
use crate::document::routes_of_document;
use crate::node::VERSION;
use crate::vending::{SETTINGS, key_body};
use storage::registry::ApiRole;

/// Calls routes by their templates and remembers which.
struct Story {
    node: TestNode,
    told: BTreeSet<(String, String)>,
}

impl Story {
    /// Calls `template` with its parameters filled in from `path`, wants `status`.
    async fn tell(
        &mut self,
        method: &str,
        template: &str,
        path: &str,
        body: &str,
        status: u16,
    ) -> Value {
        let call = Call::new(method, path).token(&self.node.admin);
        let call = if body.is_empty() { call } else { call.json(body) };
        let reply = self.send(template, call.header("Idempotency-Key", "story"), status).await;
        if reply.body.starts_with(['{', '[']) { reply.json() } else { Value::String(reply.body) }
    }

    async fn send(&mut self, template: &str, call: Call, status: u16) -> Reply {
        self.told.insert((call.method.clone(), template.to_owned()));
        let reply = self.node.send(call.clone()).await;
        assert_eq!(reply.status, status, "{call:?}: {reply:?}");
        reply
    }

    async fn get(&mut self, template: &str, path: &str) -> Value {
        self.tell("GET", template, path, "", 200).await
    }

    async fn post(&mut self, path: &str, body: &str) -> Value {
        self.tell("POST", path, path, body, 201).await
    }
}

const METER: &str = r#"{"serial":"S1","system_title":"4d54523000000001","model":"m",
    "template":"obis","encryption_key":"000102030405060708090A0B0C0D0E0F",
    "authentication_key":"D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF","transformer":1,"gateway":1,
    "current_max_ma":60000,"voltage_nominal_mv":230000,"phases":1,"register_digits":6,
    "period_s":900}"#;

#[tokio::test]
async fn every_route_does_what_it_is_for() {
    let mut story = Story { node: TestNode::start().await, told: BTreeSet::new() };
    register(&mut story).await;
    tariffs(&mut story).await;
    accounts(&mut story).await;
    money(&mut story).await;
    commands(&mut story).await;
    vending(&mut story).await;
    what_was(&mut story).await;
    alarms(&mut story).await;
    administration(&mut story).await;
    import(&mut story).await;
    supply(&mut story).await;
    system(&mut story).await;
    assert_eq!(story.told, routes_of_document(), "every route is told of once");
}

async fn register(story: &mut Story) {
    let made = story.post("/v1/transformers", r#"{"code":"T1","name":"North"}"#).await;
    assert_eq!((&made["id"], &made["code"]), (&1.into(), &"T1".into()));
    story.get("/v1/transformers/{id}", "/v1/transformers/1").await;
    story.get("/v1/transformers", "/v1/transformers?limit=5").await;
    let gateway = r#"{"system_title":"4754573030303031","template":"meterd-batch",
        "encryption_key":"000102030405060708090A0B0C0D0E0F",
        "authentication_key":"D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF"}"#;
    let made = story.post("/v1/gateways", gateway).await;
    assert!(made.get("encryption_key").is_none());
    story.get("/v1/gateways/{id}", "/v1/gateways/1").await;
    story.get("/v1/gateways", "/v1/gateways").await;
    let made = story.post("/v1/meters", METER).await;
    assert_eq!((&made["id"], &made["gateway"]), (&1.into(), &1.into()));
    assert_eq!(made["system_title"], "4D54523000000001");
    let seen = story.get("/v1/meters/{id}", "/v1/meters/1").await;
    assert_eq!(seen, made);
    assert!(!seen.to_string().contains("0A0B0C"), "keys are not given out");
    let list = story.get("/v1/meters", "/v1/meters?transformer=1&gateway=1&serial=S1").await;
    assert_eq!(list["items"][0], made);
    let latest = story.get("/v1/meters/{id}/latest", "/v1/meters/1/latest").await;
    assert_eq!(latest["voltage_mv"], serde_json::json!([231_100, null, null]));
    assert_eq!((&latest["relay"], &latest["power_w"]), (&"closed".into(), &Value::Null));
    assert_eq!(latest["taken_at"], "2026-09-21T14:12:20Z");
}

async fn commands(story: &mut Story) {
    let template = "/v1/meters/{id}/commands";
    let path = "/v1/meters/1/commands";
    let body = r#"{"command":"disconnect","expires_in_s":60}"#;
    let made = story.tell("POST", template, path, body, 202).await;
    assert_eq!((&made["state"], &made["attempts"]), (&"waiting".into(), &0.into()));
    assert_eq!(story.tell("POST", template, path, body, 202).await, made, "one key, one command");
    let other = r#"{"command":"reconnect"}"#;
    let refused = story.tell("POST", template, path, other, 409).await;
    assert_eq!(refused["code"], "idempotency_key_reused");
    let bad = r#"{"command":"token","token":"123"}"#;
    assert_eq!(story.tell("POST", template, path, bad, 422).await["code"], "invalid_field");
    let list = story.get(template, path).await;
    assert_eq!(list["items"], serde_json::json!([made]));
    story.get("/v1/commands/{id}", "/v1/commands/1").await;
    let template = "/v1/commands/{id}/withdraw";
    story.tell("POST", template, "/v1/commands/1/withdraw", "", 202).await;
}

async fn tariffs(story: &mut Story) {
    let made =
        story.post("/v1/calendars", r#"{"code":"cn","days":["2026-10-01","2026-10-02"]}"#).await;
    assert_eq!(made["days"][1], "2026-10-02");
    let days = r#"{"days":["2026-10-01"]}"#;
    let template = "/v1/calendars/{id}/days";
    story.tell("PUT", template, "/v1/calendars/1/days", days, 200).await;
    let list = story.get("/v1/calendars", "/v1/calendars").await;
    assert_eq!(list["items"][0]["days"], serde_json::json!(["2026-10-01"]));
    story.post("/v1/plans", r#"{"code":"home","currency":"CNY"}"#).await;
    let template = "/v1/plans/{id}/versions";
    let made = story.tell("POST", template, "/v1/plans/1/versions", VERSION, 201).await;
    assert_eq!(made["prices"], serde_json::json!(["0.5283", "0.3000"]));
    assert_eq!(made["seasons"][0]["workday"][2]["at"], "22:15");
    assert_eq!(made["seasons"][0]["holiday"], made["seasons"][0]["workday"]);
    assert_eq!(
        (&made["fee"], &made["standing_per_day"]),
        (&"1.0000000".into(), &"0.1000000".into())
    );
    let list = story.get(template, "/v1/plans/1/versions").await;
    assert_eq!(list["items"][0], made, "what is read is what was written");
    story.get("/v1/plans/{id}", "/v1/plans/1").await;
    story.get("/v1/plans", "/v1/plans").await;
}

async fn accounts(story: &mut Story) {
    story.post("/v1/customers", r#"{"code":"C1","name":"Li Wei","contact":"1"}"#).await;
    story.get("/v1/customers/{id}", "/v1/customers/1").await;
    story.get("/v1/customers", "/v1/customers?code=C1").await;
    let account = r#"{"code":"A1","customer":1,"plan":1,"zone":"Asia/Shanghai",
        "mode":"prepaid","overdraft":"5","low_levels":["20","10"]}"#;
    story.post("/v1/accounts", account).await;
    let change = r#"{"overdraft":"7.5"}"#;
    let changed = story.tell("PATCH", "/v1/accounts/{id}", "/v1/accounts/1", change, 200).await;
    assert_eq!(changed["overdraft"], "7.5000000");
    assert_eq!(changed["low_levels"], serde_json::json!(["20.0000000", "10.0000000"]));
    let installation =
        r#"{"meter":1,"account":1,"at":"2026-09-01T00:00:00+08:00","start_wh":1000}"#;
    let made = story.post("/v1/installations", installation).await;
    assert_eq!(made["from"], "2026-08-31T16:00:00Z");
    let seen = story.get("/v1/accounts/{id}", "/v1/accounts/1").await;
    assert_eq!(seen["meter"], 1);
    story.get("/v1/accounts", "/v1/accounts?code=A1&customer=1").await;
    let template = "/v1/accounts/{id}/installations";
    story.get(template, "/v1/accounts/1/installations").await;
    story.get("/v1/meters/{id}/installations", "/v1/meters/1/installations").await;
}

async fn money(story: &mut Story) {
    let balance = story.get("/v1/accounts/{id}/balance", "/v1/accounts/1/balance").await;
    assert_eq!((&balance["balance"], &balance["as_of"]), (&"0.0000000".into(), &Value::Null));
    assert_eq!(balance["available"], "7.5000000");
    let template = "/v1/accounts/{id}/top-ups";
    let body = r#"{"amount":"20.00","currency":"CNY"}"#;
    let receipt = story.tell("POST", template, "/v1/accounts/1/top-ups", body, 201).await;
    assert_eq!(receipt["amount"], "20.0000000");
    assert_eq!(receipt["balance_after"]["balance"], "20.0000000");
    story.get("/v1/top-ups/{key}", "/v1/top-ups/story").await;
    let list = story.get(template, "/v1/accounts/1/top-ups").await;
    assert_eq!(list["items"][0]["idempotency_key"], "story");
    let template = "/v1/accounts/{id}/adjustments";
    let body = r#"{"amount":"-0.5","reason":"goodwill"}"#;
    story.tell("POST", template, "/v1/accounts/1/adjustments", body, 201).await;
    story.get(template, "/v1/accounts/1/adjustments").await;
    let balance = story.get("/v1/accounts/{id}/balance", "/v1/accounts/1/balance").await;
    assert_eq!(balance["balance"], "19.5000000");
    let ledger = story.get("/v1/accounts/{id}/ledger", "/v1/accounts/1/ledger").await;
    assert_eq!(ledger["items"].as_array().unwrap().len(), 4);
    assert_eq!(ledger["items"][0]["cause"]["readings"]["meter"], 1);
}

async fn vending(story: &mut Story) {
    let second = story.node.token(ApiRole::Admin).await;
    let path = "/v1/vending-keys";
    let made = story.post(path, &key_body(1)).await;
    let check = made["check_value"].as_str().unwrap().to_owned();
    let body = format!(r#"{{"sgc":201457,"kt":2,"krn":1,"check_value":"{check}"}}"#);
    let template = "/v1/vending-keys/confirmation";
    story.send(template, Call::new("POST", template).token(&second).json(&body), 200).await;
    story.get(path, path).await;
    let template = "/v1/meters/{id}/token-settings";
    let path = "/v1/meters/1/token-settings";
    let body = SETTINGS.replace("sts", "cts");
    let set = story.tell("PUT", template, path, &body, 200).await;
    assert_eq!(story.get(template, path).await, set);
    let template = "/v1/accounts/{id}/debts";
    let body = r#"{"amount":"5","share_bp":1000,"cap":"0.50","reason":"arrears"}"#;
    story.tell("POST", template, "/v1/accounts/1/debts", body, 201).await;
    let path = "/v1/agents";
    let body = r#"{"code":"shop-3","name":"Shop 3","zone":"Asia/Shanghai","credit_limit":"100"}"#;
    story.post(path, body).await;
    let template = "/v1/agents/{id}/tokens/{token}";
    story.tell("PUT", template, "/v1/agents/1/tokens/2", "", 204).await;
    let template = "/v1/accounts/{id}/quotes";
    let quote =
        story.tell("POST", template, "/v1/accounts/1/quotes", r#"{"amount":"20"}"#, 200).await;
    let lines = ["debt", "fee", "tax", "credit"].map(|name| quote[name].as_str().unwrap());
    assert_eq!(lines, ["0.5000000", "1.0000000", "1.2000000", "17.3000000"]);
    let template = "/v1/accounts/{id}/purchases";
    let path = "/v1/accounts/1/purchases";
    let call = Call::new("POST", path).token(&second).header("Idempotency-Key", "sale-1");
    let receipt = story.send(template, call.json(r#"{"amount":"20"}"#), 201).await.json();
    assert_eq!((&receipt["agent"], &receipt["tokens"][0]["kind"]), (&1.into(), &"credit".into()));
    story.get(template, path).await;
    let debts = story.get("/v1/accounts/{id}/debts", "/v1/accounts/1/debts").await;
    assert_eq!(debts["items"][0]["left"], "4.5000000");
    assert_eq!(story.get("/v1/agents", "/v1/agents").await["items"][0]["owed"], "20.0000000");
    let days = story.get("/v1/agents/{id}/days", "/v1/agents/1/days?from=2026-09-01").await;
    assert_eq!((&days[0]["day"], &days[0]["sales"]), (&"2026-09-21".into(), &1.into()));
    let template = "/v1/agents/{id}/settlements";
    let body = r#"{"amount":"15","reference":"bank 7"}"#;
    let settled = story.tell("POST", template, "/v1/agents/1/settlements", body, 201).await;
    assert_eq!(settled["owed"], "5.0000000");
    after_the_sale(story, &receipt).await;
    engineering(story, &second).await;
    let body = r#"{"name":"to 1","from_sgc":201457,"to_sgc":201457,"to_kt":2,"to_krn":1}"#;
    let made = story.post("/v1/campaigns", body).await;
    assert_eq!(made["total"], 1);
    story.get("/v1/campaigns", "/v1/campaigns").await;
    story.get("/v1/campaigns/{id}", "/v1/campaigns/1").await;
    let template = "/v1/campaigns/{id}/state";
    let body = r#"{"state":"paused"}"#;
    story.tell("POST", template, "/v1/campaigns/1/state", body, 200).await;
}

async fn after_the_sale(story: &mut Story, receipt: &Value) {
    story.get("/v1/purchases/{key}", "/v1/purchases/sale-1").await;
    let template = "/v1/purchases/{key}/copies";
    let copy = story.tell("POST", template, "/v1/purchases/sale-1/copies", "", 201).await;
    assert_eq!((&copy["copies"], &copy["tokens"]), (&1.into(), &receipt["tokens"]));
    let template = "/v1/purchases/{key}/reversal";
    let body = r#"{"reason":"mistyped"}"#;
    let refused = story.tell("POST", template, "/v1/purchases/sale-1/reversal", body, 409).await;
    assert_eq!(refused["code"], "already_delivered");
    let template = "/v1/purchases/{key}/refund";
    let body = r#"{"amount":"7.30","inspection":"visit 12"}"#;
    let back = story.tell("POST", template, "/v1/purchases/sale-1/refund", body, 200).await;
    assert_eq!((&back["state"], &back["refunded"]), (&"refunded".into(), &"7.3000000".into()));
    let template = "/v1/accounts/{id}/free-issues";
    let call = Call::new("POST", "/v1/accounts/1/free-issues").token(&story.node.admin);
    let call = call.header("Idempotency-Key", "free-1");
    let body = r#"{"amount":"3","reason":"flood relief"}"#;
    let free = story.send(template, call.json(body), 201).await.json();
    assert_eq!(free["lines"][0]["kind"], "free_issue");
    let tokens = story.get("/v1/meters/{id}/tokens", "/v1/meters/1/tokens").await;
    assert_eq!(tokens["items"].as_array().unwrap().len(), 2);
    let census = story.get("/v1/token-census", "/v1/token-census").await;
    assert_eq!((&census[0]["base_year"], &census[0]["meters"]), (&2014.into(), &1.into()));
}

async fn engineering(story: &mut Story, second: &str) {
    let body = r#"{"meter":1,"action":{"kind":"clear_tamper"},"reason":"cover replaced",
        "work_order":"W-7"}"#;
    let order = story.post("/v1/token-orders", body).await;
    assert_eq!((&order["state"], &order["tokens"]), (&"waiting".into(), &serde_json::json!([])));
    let template = "/v1/token-orders/{id}/decision";
    let path = "/v1/token-orders/1/decision";
    let yes = r#"{"approve":true}"#;
    let own = story.tell("POST", template, path, yes, 409).await;
    assert_eq!(own["code"], "same_person");
    let call = Call::new("POST", path).token(second).json(yes);
    let order = story.send(template, call, 200).await.json();
    assert_eq!(order["tokens"].as_array().unwrap().len(), 1, "{order}");
    story.get("/v1/token-orders", "/v1/token-orders").await;
    let trail = story.get("/v1/vending-keys/audit", "/v1/vending-keys/audit").await;
    assert_eq!(trail["items"][0]["deed"], "proposed");
}

async fn supply(story: &mut Story) {
    let week = r#"{"code":"nights","week":[[{"from":0,"to":28}],[],[],[],[],[],[]]}"#;
    story.post("/v1/friendly-calendars", week).await;
    let list = story.get("/v1/friendly-calendars", "/v1/friendly-calendars").await;
    assert_eq!(list["items"][0]["week"][0][0]["to"], 28);
    let policy = r#"{"cutting":true,"order_s_max":3600,"attempts_max":3,"retry_s":60,
        "stagger_s":10,"friendly":1}"#;
    story.tell("PUT", "/v1/supply-policy", "/v1/supply-policy", policy, 200).await;
    let policy = story.get("/v1/supply-policy", "/v1/supply-policy").await;
    assert_eq!((&policy["cutting"], &policy["friendly"]), (&true.into(), &1.into()));
    let template = "/v1/accounts/{id}/supply";
    let terms = r#"{"emergency_below":"1","emergency_credit":"10","friendly":1}"#;
    story.tell("PUT", template, "/v1/accounts/1/supply", terms, 201).await;
    let supply = story.get(template, "/v1/accounts/1/supply").await;
    assert_eq!(supply["terms"]["emergency_credit"], "10.0000000");
    for (act, body, status) in [
        ("emergency-credit", "", 409),
        ("debts", r#"{"amount":"5","share_bp":2000,"cap":"3","reason":"arrears"}"#, 201),
        ("mode-switches", r#"{"mode":"postpaid","from":"2099-01-01"}"#, 201),
        ("plan", r#"{"plan":1,"from":"2098-01-01"}"#, 409),
        ("bookings", r#"{"kind":"free_issue","amount":"2","reason":"goodwill"}"#, 201),
        ("replacement", r#"{"old":1,"end_wh":2000,"new":77,"start_wh":0}"#, 404),
        ("clearance", r#"{"reason":"inspected"}"#, 201),
        ("closing", "", 201),
    ] {
        let template = format!("/v1/accounts/{{id}}/{act}");
        let path = format!("/v1/accounts/1/{act}");
        story.tell("POST", &template, &path, body, status).await;
    }
    let acts = story.get("/v1/accounts/{id}/acts", "/v1/accounts/1/acts").await;
    assert!(acts["items"].as_array().unwrap().len() >= 6, "{acts}");
    story.get("/v1/orders", "/v1/orders?account=1&open=true").await;
    story.tell("GET", "/v1/orders/{id}", "/v1/orders/1", "", 404).await;
    let template = "/v1/accounts/{id}/statement";
    let statement = story.get(template, "/v1/accounts/1/statement").await;
    assert_eq!(statement["totals"]["energy"], "-0.0000020");
    let template = "/v1/accounts/{id}/balance/explanation";
    let made = story.get(template, "/v1/accounts/1/balance/explanation").await;
    assert_eq!(made["energy_booked"], "0.0000020");
}

async fn what_was(story: &mut Story) {
    let template = "/v1/meters/{id}/intervals";
    let page = story.get(template, "/v1/meters/1/intervals?limit=2").await;
    assert_eq!(page["items"][0]["power_w"]["min"], -6);
    let next = page["next"].as_str().unwrap();
    let page = story.get(template, &format!("/v1/meters/1/intervals?after={next}")).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let template = "/v1/meters/{id}/readings";
    let page = story.get(template, "/v1/meters/1/readings?limit=1").await;
    assert_eq!(page["items"][0]["reason"], "spike");
    let taken_at = page["items"][0]["taken_at"].as_str().unwrap().to_owned();
    let body = format!(r#"{{"taken_at":"{taken_at}","decision":"new_epoch"}}"#);
    let template = "/v1/meters/{id}/quarantine/{seq}/resolution";
    let settled =
        story.tell("POST", template, "/v1/meters/1/quarantine/7/resolution", &body, 200).await;
    assert_eq!(settled["register_wh"], 99);
    let page = story.get("/v1/meters/{id}/readings", "/v1/meters/1/readings").await;
    assert_eq!(page["items"][0]["decision"], "new_epoch");
    for by in ["day", "month"] {
        let path = format!("/v1/meters/1/history?by={by}");
        let history = story.get("/v1/meters/{id}/history", &path).await;
        assert_eq!(history["items"][0]["first_day"], "2026-09-21");
        assert_eq!(history["zone"], "Asia/Shanghai");
    }
    let gaps = story.get("/v1/meters/{id}/gaps", "/v1/meters/1/gaps").await;
    assert_eq!(
        (&gaps["items"][0]["state"], &gaps["items"][0]["to"]),
        (&"open".into(), &Value::Null)
    );
    let template = "/v1/transformers/{id}/line-loss";
    let losses = story.get(template, "/v1/transformers/1/line-loss").await;
    assert_eq!(
        (&losses["items"][0]["loss_wh"], &losses["items"][0]["loss_milli"]),
        (&50.into(), &50.into())
    );
    let body = r#"{"at":"2026-09-20T00:00:00Z","end_wh":2000}"#;
    let removed =
        story.tell("POST", "/v1/meters/{id}/removal", "/v1/meters/1/removal", body, 200).await;
    assert_eq!(removed["items"][0]["end_wh"], 2000);
}

async fn alarms(story: &mut Story) {
    let page =
        story.get("/v1/alarms", "/v1/alarms?code=over_voltage&severity=notice&limit=1").await;
    let id = page["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, "meter-1-over_voltage");
    let path = format!("/v1/alarms/{id}/acknowledgement");
    let template = "/v1/alarms/{id}/acknowledgement";
    let body = r#"{"responsible":"Wang Fang"}"#;
    let alarm = story.tell("POST", template, &path, body, 200).await;
    assert_eq!(
        (&alarm["state"], &alarm["responsible"]),
        (&"acknowledged".into(), &"Wang Fang".into())
    );
    let page = story.get("/v1/alarms", "/v1/alarms?acknowledged=false").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    // Five at one instant, two a page.
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/alarms/history?limit=2{next}");
        let page = story.get("/v1/alarms/history", &path).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["seq"].clone()));
        match page["next"].as_str() {
            Some(key) => next = format!("&after={key}"),
            None => break,
        }
    }
    assert_eq!(serde_json::json!(seen), serde_json::json!([5, 4, 3, 2, 1]));
}

async fn administration(story: &mut Story) {
    let policy = story.get("/v1/policy", "/v1/policy").await;
    assert_eq!(policy["alarms"]["over_voltage_raise"], 1100);
    story.tell("PUT", "/v1/policy", "/v1/policy", &policy.to_string(), 200).await;
    let made = story.post("/v1/tokens", r#"{"name":"shop 3","role":"vendor"}"#).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    let list = story.get("/v1/tokens", "/v1/tokens").await;
    assert!(!list.to_string().contains(&secret));
    let path = format!("/v1/tokens/{}", made["id"]);
    story.tell("DELETE", "/v1/tokens/{id}", &path, "", 204).await;
    let ended = story.node.send(Call::new("GET", "/v1/accounts").token(&secret)).await;
    assert_eq!(ended.status, 401);
}

async fn import(story: &mut Story) {
    let columns = story.get("/v1/imports/meters/columns", "/v1/imports/meters/columns").await;
    assert_eq!(columns[0]["name"], "serial");
    let path = "/v1/imports/meters/template.csv";
    let template = story.get(path, path).await;
    let csv = template.as_str().unwrap().replace("residential", "home");
    let call = Call::new("POST", "/v1/imports/meters").token(&story.node.admin);
    let reply = story.send("/v1/imports/meters", call.typed("text/csv", &csv), 201).await;
    assert_eq!(reply.json()["installations"], 1);
    let balance = story.get("/v1/accounts/{id}/balance", "/v1/accounts/2/balance").await;
    assert_eq!(balance["balance"], "50.0000000", "the opening balance of the template");
}

async fn system(story: &mut Story) {
    assert_eq!(story.get("/healthz", "/healthz").await, "ok\n");
    let ready = story.get("/readyz", "/readyz").await;
    assert_eq!((&ready["ready"], &ready["parts"][0]["name"]), (&true.into(), &"log".into()));
    let metrics = story.get("/metrics", "/metrics").await;
    assert!(metrics.as_str().unwrap().contains("node_up 1\n"));
    assert!(metrics.as_str().unwrap().contains("api_alarms_active 2\n"));
    assert_eq!(story.get("/version", "/version").await["api"], "v1");
}
