//! Purchases and tokens over HTTP: one purchase a key, every refusal with its code, key changes in
//! front of a sale, and no key or token where it does not belong.

use std::sync::atomic::Ordering;

use serde_json::Value;
use storage::registry::{ApiRole, Campaign, CampaignState, KeySetting};
use sts::meter::{Config, ResultCode, VirtualMeter};
use sts::{
    BaseDate, Deriver, EncryptionAlgorithm, KeyExpiryNumber, KeyRevisionNumber, KeyType,
    MeterConfig, Service, Sta, SupplyGroupCode, TariffIndex, Tid, VendingKey, VendingKeyId,
};

use crate::TestNode;
use crate::client::{Call, Reply};

/// The meter of the published tests, under the first key.
pub(crate) const SETTINGS: &str = r#"{"number":"600727000000000009","scheme":"sts","ea":7,
    "key":{"sgc":201457,"kt":2,"krn":1,"ti":1}}"#;

const METER: &str = r#"{"serial":"S9","system_title":"4d54523000000009","model":"m",
    "template":"obis","encryption_key":"000102030405060708090A0B0C0D0E0F",
    "authentication_key":"D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF","current_max_ma":60000,
    "voltage_nominal_mv":230000,"phases":1,"register_digits":6,"period_s":900}"#;

/// One rate, three blocks: 0.50, 0.60 and 0.80 a kWh; fee 1.00, tax 6 %.
const FLAT: &str = r#"{"valid_from":"2026-01-01","prices":["0.5"],
    "seasons":[{"from":"01-01","to":"12-31","workday":[{"at":"00:00","rate":1}]}],
    "blocks":[{"from_kwh":0,"adder":"0"},{"from_kwh":100,"adder":"0.1"},
    {"from_kwh":200,"adder":"0.3"}],"standing_per_day":"0","tax_bp":600,"fee":"1"}"#;

/// A vending key of revision `krn`, proposed.
pub(crate) fn key_body(krn: u8) -> String {
    let digits = digits(krn);
    format!(
        r#"{{"sgc":201457,"kt":2,"krn":{krn},"key":"{digits}","base_year":2014,"ken":255,
        "active_from":"2026-01-01T00:00:00Z","active_until":"2036-01-01T00:00:00Z",
        "issued_until":"2036-01-01T00:00:00Z","units_max":100000,"currency_max":100000}}"#
    )
}

fn digits(krn: u8) -> String {
    format!("abababababababab94949494949494940123456{krn}")
}

/// Account 1, sold in kWh, with its token meter; keys of two revisions are in the vault.
async fn token_node() -> (TestNode, String) {
    token_node_of("prepaid").await
}

/// The same, with the account in this mode.
async fn token_node_of(mode: &str) -> (TestNode, String) {
    let account =
        format!(r#"{{"code":"A1","customer":1,"plan":1,"zone":"Asia/Shanghai","mode":"{mode}"}}"#);
    let node = TestNode::start().await;
    let second = node.token(ApiRole::Admin).await;
    for (path, body) in [
        ("/v1/customers", r#"{"code":"C1","name":"Li Wei"}"#),
        ("/v1/plans", r#"{"code":"flat","currency":"CNY"}"#),
        ("/v1/plans/1/versions", FLAT),
        ("/v1/accounts", &account),
        ("/v1/accounts", r#"{"code":"A2","customer":1,"plan":1,"zone":"Asia/Shanghai"}"#),
        ("/v1/meters", METER),
        (
            "/v1/installations",
            r#"{"meter":1,"account":1,"at":"2026-09-01T00:00:00+08:00","start_wh":0}"#,
        ),
    ] {
        let reply = node.call("POST", path, body).await;
        assert_eq!(reply.status, 201, "{path}: {reply:?}");
    }
    for krn in [1, 2] {
        let reply = node.call("POST", "/v1/vending-keys", &key_body(krn)).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let check = reply.json()["check_value"].as_str().unwrap().to_owned();
        let body = format!(r#"{{"sgc":201457,"kt":2,"krn":{krn},"check_value":"{check}"}}"#);
        let own = node.call("POST", "/v1/vending-keys/confirmation", &body).await;
        assert_eq!(own.code(), "same_person");
        let call = Call::new("POST", "/v1/vending-keys/confirmation").token(&second).json(&body);
        let reply = node.send(call).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let reply = node.call("PUT", "/v1/meters/1/token-settings", SETTINGS).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    (node, second)
}

fn purchase(secret: &str, account: u32, key: &str, body: &str) -> Call {
    let path = format!("/v1/accounts/{account}/purchases");
    Call::new("POST", &path).token(secret).header("Idempotency-Key", key).json(body)
}

async fn buy(node: &TestNode, key: &str, body: &str) -> Reply {
    node.send(purchase(&node.admin, 1, key, body)).await
}

/// The virtual meter with the key of a revision.
fn meter(krn: u8) -> VirtualMeter {
    let config = MeterConfig {
        pan: "600727000000000009".parse().unwrap(),
        ea: EncryptionAlgorithm::Ea07,
        key: VendingKeyId {
            sgc: SupplyGroupCode::new(201_457).unwrap(),
            kt: KeyType::Unique,
            krn: KeyRevisionNumber::new(krn).unwrap(),
        },
        ti: TariffIndex::new(1).unwrap(),
    };
    let key = VendingKey::from_hex(&digits(krn)).unwrap();
    let key = Deriver::new(&key).derive(BaseDate::Base2014, &config).unwrap();
    let config = Config {
        meter: config,
        ken: KeyExpiryNumber(255),
        service: Service::Electricity,
        sta: Sta::production(),
        tid_count: 50,
        start: Tid::MIN,
        units_max: 10_000_000,
        currency_steps_max: 10_000_000,
        key_change_timeout_s: 600,
        lockout: None,
    };
    VirtualMeter::new(config, key)
}

fn tokens(receipt: &Value) -> Vec<String> {
    let tokens = receipt["tokens"].as_array().unwrap().iter();
    tokens.map(|token| token["digits"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_bought_token_is_taken_once() {
    let (node, _) = token_node().await;
    let reply = buy(&node, "k1", r#"{"amount":"82"}"#).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let receipt = reply.json();
    // 82.00 − 1.00 − 4.92 = 76.08: 100 kWh at 0.50, 43.467 at 0.60.
    assert_eq!(receipt["energy_wh"], 143_467);
    assert_eq!(receipt["blocks"][1]["cost"], "26.0800000");
    let kinds: Vec<&str> =
        receipt["lines"].as_array().unwrap().iter().map(|l| l["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["purchase", "fee", "tax", "token"]);
    let mut meter = meter(1);
    let token = &tokens(&receipt)[0];
    assert_eq!(meter.enter_text(token, 0), ResultCode::Accept);
    assert_eq!(meter.registers().units, 1435, "rounded up for the customer");
    assert_eq!(meter.enter_text(token, 0), ResultCode::Used);
    // All of it is in the meter: nothing is left on the account.
    let balance = node.call("GET", "/v1/accounts/1/balance", "").await.json();
    assert_eq!(balance["balance"], "0.0000000");
    // The next kWh are dearer: 143 were bought in this month.
    let next = buy(&node, "k2", r#"{"energy_wh":60000}"#).await.json();
    assert_eq!(next["blocks"][0]["from_kwh"], 100);
    assert_eq!((&next["energy_wh"], &next["blocks"][1]["from_kwh"]), (&60_000.into(), &200.into()));
    assert_eq!(meter.enter_text(&tokens(&next)[0], 0), ResultCode::Accept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_at_once_with_one_key_are_one_purchase() {
    let (node, _) = token_node().await;
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..100 {
        let body = if index % 2 == 0 { r#"{"amount":"30"}"# } else { r#"{ "amount": "30.00" }"# };
        let (call, address) = (purchase(&node.admin, 1, "same", body), node.address);
        calls.spawn(async move { call.send(address).await });
    }
    let replies = calls.join_all().await;
    for reply in &replies {
        assert_eq!((reply.status, &reply.body), (201, &replies[0].body));
    }
    assert_eq!(node.purchases.load(Ordering::Relaxed), 1);
    // For ever: also after a refund the first answer stands, with its token.
    let refund = r#"{"inspection":"visit 1"}"#;
    let reply = node.call("POST", "/v1/purchases/same/refund", refund).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let again = buy(&node, "same", r#"{"amount":"30"}"#).await;
    assert_eq!(again.body, replies[0].body);
    let twice = node.call("POST", "/v1/purchases/same/refund", refund).await;
    assert_eq!(twice.code(), "already_refunded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purchases_at_once_have_tokens_of_their_own() {
    let (node, _) = token_node().await;
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..60 {
        let call = purchase(&node.admin, 1, &format!("k{index}"), r#"{"amount":"10"}"#);
        let address = node.address;
        calls.spawn(async move { call.send(address).await });
    }
    let mut meter = VirtualMeterWithRoom(meter(1));
    for reply in calls.join_all().await {
        assert_eq!(reply.status, 201, "{reply:?}");
        assert!(meter.takes(&tokens(&reply.json())[0]));
    }
    let page = node.call("GET", "/v1/meters/1/tokens", "").await.json();
    let mut tids: Vec<u64> =
        page["items"].as_array().unwrap().iter().map(|t| t["tid"].as_u64().unwrap()).collect();
    tids.sort_unstable();
    tids.dedup();
    assert_eq!(tids.len(), 60, "an identifier each");
}

/// A meter whose store of identifiers is smaller than the test: old ones do not count.
struct VirtualMeterWithRoom(VirtualMeter);

impl VirtualMeterWithRoom {
    fn takes(&mut self, token: &str) -> bool {
        matches!(self.0.enter_text(token, 0), ResultCode::Accept | ResultCode::Old)
    }
}

#[tokio::test]
async fn a_key_change_goes_in_front_of_the_next_token() {
    let (node, _) = token_node().await;
    let campaign =
        r#"{"name":"to 2","from_sgc":201457,"from_krn":1,"to_sgc":201457,"to_kt":2,"to_krn":2}"#;
    let made = node.call("POST", "/v1/campaigns", campaign).await;
    assert_eq!(made.status, 201, "{made:?}");
    let state = loop {
        let view = node.call("GET", "/v1/campaigns/1", "").await.json();
        if view["state"] == "done" {
            break view;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&state["total"], &state["marked"], &state["changed"]),
        (&1.into(), &1.into(), &0.into())
    );
    let receipt = buy(&node, "k1", r#"{"amount":"20"}"#).await.json();
    let kinds: Vec<&str> =
        receipt["tokens"].as_array().unwrap().iter().map(|t| t["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["key_change_1_of_2", "key_change_2_of_2", "credit"]);
    let mut meter = meter(1);
    let results: Vec<_> = tokens(&receipt).iter().map(|t| meter.enter_text(t, 0)).collect();
    assert_eq!(results, [ResultCode::FirstKct, ResultCode::Accept, ResultCode::Accept]);
    let next = buy(&node, "k2", r#"{"amount":"20"}"#).await.json();
    assert_eq!(tokens(&next).len(), 1);
    let view = node.call("GET", "/v1/campaigns/1", "").await.json();
    assert_eq!(view["changed"], 1);
    let census = node.call("GET", "/v1/token-census", "").await.json();
    assert_eq!((&census[0]["krn"], &census[0]["to_change"]), (&2.into(), &0.into()));
}

/// A campaign that was running when the node stopped goes on by itself where it was; one that was
/// paused waits to be set running.
#[tokio::test]
async fn a_campaign_goes_on_after_a_restart() {
    const METERS: u32 = 40;
    let (mut node, _) = token_node().await;
    for number in 2..=METERS {
        let meter = METER.replace("S9", &format!("S-{number}"));
        let meter = meter.replace("4d54523000000009", &format!("4d545231{number:08x}"));
        assert_eq!(node.call("POST", "/v1/meters", &meter).await.status, 201);
        let drn = sts::Drn::with_check_digit(&format!("07{number:08}")).unwrap();
        let settings = SETTINGS.replace("600727000000000009", drn.digits());
        let path = format!("/v1/meters/{number}/token-settings");
        let reply = node.call("PUT", &path, &settings).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let campaign = |krn| Campaign {
        id: 0,
        name: format!("to {krn}"),
        from_sgc: 201_457,
        from_krn: Some(1),
        to: KeySetting { sgc: 201_457, kt: 2, krn, ti: 0 },
        changes_ti: false,
        state: CampaignState::Running,
        total: 0,
        marked: 0,
        cursor: meter::MeterId::NONE,
    };
    // Told to the registry alone, so that they stand where the stop found them.
    node.registry.add_campaign(&campaign(2), 1, crate::node::NOW).await.unwrap();
    assert!(node.registry.step_campaign(1, 7).await.unwrap());
    node.registry.add_campaign(&campaign(1), 1, crate::node::NOW).await.unwrap();
    assert!(node.registry.step_campaign(2, 3).await.unwrap());
    assert_eq!(
        node.call("POST", "/v1/campaigns/2/state", r#"{"state":"paused"}"#).await.status,
        200
    );
    let view = node.call("GET", "/v1/campaigns/1", "").await.json();
    assert_eq!((&view["state"], &view["marked"]), (&"running".into(), &7.into()));
    node = node.restart().await;
    let done = async |node: &TestNode, id: u32| loop {
        let view = node.call("GET", &format!("/v1/campaigns/{id}"), "").await.json();
        if view["state"] == "done" {
            return view;
        }
        tokio::task::yield_now().await;
    };
    let view = done(&node, 1).await;
    assert_eq!((&view["total"], &view["marked"]), (&METERS.into(), &METERS.into()));
    let paused = node.call("GET", "/v1/campaigns/2", "").await.json();
    assert_eq!((&paused["state"], &paused["marked"]), (&"paused".into(), &3.into()));
    node.call("POST", "/v1/campaigns/2/state", r#"{"state":"running"}"#).await;
    assert_eq!(done(&node, 2).await["marked"], METERS);
}

/// What an account owed when it was switched to prepaid is paid off by its purchases, under the
/// terms of the switch: it stands in the quote, in the sale, and in the list of debts.
#[tokio::test]
async fn purchases_pay_off_what_a_switch_made_a_debt() {
    let (node, _) = token_node_of("postpaid").await;
    let quote = async |amount: &str| {
        let body = format!(r#"{{"amount":"{amount}"}}"#);
        node.call("POST", "/v1/accounts/1/quotes", &body).await.json()["debt"].clone()
    };
    assert_eq!(quote("100").await, "0.0000000");
    let switch = r#"{"mode":"prepaid","from":"2026-09-23","share_bp":3000,"cap":"40"}"#;
    let reply = node.call("POST", "/v1/accounts/1/mode-switches", switch).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(quote("100").await, "30.0000000", "a share of 30 %");
    let receipt = buy(&node, "k1", r#"{"amount":"100"}"#).await.json();
    assert_eq!(receipt["debt"], "30.0000000", "{receipt}");
    // Of the month's cap of 40.00 there are 10.00 left, and a top-up counts too.
    let top_up = Call::new("POST", "/v1/accounts/1/top-ups").token(&node.admin);
    let top_up = top_up.header("Idempotency-Key", "top").json(r#"{"amount":"20"}"#);
    assert_eq!(node.send(top_up).await.status, 201);
    assert_eq!(quote("100").await, "4.0000000");
    let debts = node.call("GET", "/v1/accounts/1/debts", "").await.json();
    assert_eq!(debts["items"].as_array().unwrap().len(), 1, "noted once: {debts}");
    assert_eq!(debts["items"][0]["left"], "64.0000000");
}

#[tokio::test]
async fn every_refusal_has_its_code_and_changes_nothing() {
    let (node, second) = token_node().await;
    let top_up = Call::new("POST", "/v1/accounts/2/top-ups").token(&node.admin);
    let top_up = top_up.header("Idempotency-Key", "top").json(r#"{"amount":"1"}"#);
    assert_eq!(node.send(top_up).await.status, 201);
    let agent = r#"{"code":"s","name":"","zone":"UTC","credit_limit":"10"}"#;
    node.call("POST", "/v1/agents", agent).await;
    node.call("PUT", "/v1/agents/1/tokens/2", "").await;
    let before = node.purchases.load(Ordering::Relaxed);
    for (secret, account, key, body, code) in [
        (&node.admin, 9, "k", r#"{"amount":"20"}"#, "not_found"),
        (&node.admin, 1, "k", r#"{"amount":"-1"}"#, "invalid_field"),
        (&node.admin, 1, "k", r#"{"amount":"0"}"#, "invalid_field"),
        (&node.admin, 1, "k", r#"{"amount":"1000000001"}"#, "invalid_field"),
        (&node.admin, 1, "k", r#"{"amount":"99999999999999999999"}"#, "invalid_field"),
        (&node.admin, 1, "k", r#"{"amount":"1","energy_wh":5}"#, "invalid_field"),
        (&node.admin, 1, "k", r#"{}"#, "invalid_field"),
        (&node.admin, 1, "k", r#"{"amount":"20","currency":"USD"}"#, "wrong_currency"),
        (&node.admin, 1, "k", r#"{"amount":"1.05"}"#, "below_minimum"),
        (&node.admin, 1, "top", r#"{"amount":"20"}"#, "idempotency_key_reused"),
        (&node.admin, 2, "k", r#"{"energy_wh":1000}"#, "sold_in_money"),
        (&node.admin, 1, "k", r#"{"amount":"50000"}"#, "token_amount_too_large"),
        (&second, 1, "k", r#"{"amount":"10.01"}"#, "agent_limit_reached"),
    ] {
        let reply = node.send(purchase(secret, account, key, body)).await;
        assert_eq!(reply.code(), code, "{body}: {reply:?}");
    }
    let reply = node.send(purchase(&node.admin, 1, "k", r#"{"amount":"1.05"}"#)).await.json();
    assert!(reply["detail"].as_str().unwrap().contains("the least is 1.1200000"), "{reply}");
    assert_eq!(node.purchases.load(Ordering::Relaxed), before);
    assert_eq!(
        node.call("GET", "/v1/meters/1/tokens", "").await.json()["items"],
        serde_json::json!([])
    );
}

/// What a vending point takes in, by sale or top-up, counts against its limit and in its day; what is
/// taken back does too, and a settlement told twice counts once.
#[tokio::test]
async fn a_vending_point_owes_what_it_took_in() {
    let (node, _) = token_node().await;
    let vendor = node.token(ApiRole::Vendor).await;
    let agent = r#"{"code":"s","name":"","zone":"UTC","credit_limit":"100"}"#;
    node.call("POST", "/v1/agents", agent).await;
    assert_eq!(node.call("PUT", "/v1/agents/1/tokens/3", "").await.status, 204);
    let top_up = async |key: &str, amount: &str| {
        let call = Call::new("POST", "/v1/accounts/2/top-ups").token(&vendor);
        let body = format!(r#"{{"amount":"{amount}"}}"#);
        node.send(call.header("Idempotency-Key", key).json(&body)).await
    };
    let owed = async || node.call("GET", "/v1/agents", "").await.json()["items"][0]["owed"].clone();
    assert_eq!(top_up("t1", "60").await.status, 201);
    assert_eq!(top_up("t2", "40.01").await.code(), "agent_limit_reached");
    assert_eq!(top_up("t1", "60").await.status, 201, "the same top-up");
    assert_eq!(owed().await, "60.0000000");
    let sale = node.send(purchase(&vendor, 2, "m1", r#"{"amount":"40"}"#)).await;
    assert_eq!(sale.status, 201, "{sale:?}");
    assert_eq!(top_up("t3", "0.01").await.code(), "agent_limit_reached");
    let reversal = r#"{"reason":"wrong account"}"#;
    assert_eq!(node.call("POST", "/v1/purchases/m1/reversal", reversal).await.status, 200);
    assert_eq!(owed().await, "60.0000000");
    let days = node.call("GET", "/v1/agents/1/days", "").await.json();
    let day = serde_json::json!([{"day": "2026-09-21", "sales": 2, "paid": "100.0000000",
        "taken_back": "40.0000000"}]);
    assert_eq!(days, day);
    let settle = r#"{"amount":"50","reference":"B-1"}"#;
    assert_eq!(node.call("POST", "/v1/agents/1/settlements", settle).await.status, 201);
    let again = node.call("POST", "/v1/agents/1/settlements", settle).await;
    assert_eq!(again.code(), "already_exists", "{again:?}");
    assert_eq!(owed().await, "10.0000000");
}

/// A vending key that may not be used makes no token, and says why; nothing is sold, and the meter's
/// identifiers stay.
#[tokio::test]
async fn a_key_at_its_end_or_limit_makes_no_token() {
    let (node, second) = token_node().await;
    let cases: [(u8, [&str; 2], &str, &str); 5] = [
        (
            3,
            ["issued_until\":\"2036-01", "issued_until\":\"2026-09"],
            "20",
            "vending_key_not_active",
        ),
        (
            4,
            ["active_until\":\"2036-01", "active_until\":\"2026-09"],
            "20",
            "vending_key_not_active",
        ),
        (5, ["active_from\":\"2026", "active_from\":\"2030"], "20", "vending_key_not_active"),
        (6, ["ken\":255", "ken\":50"], "20", "vending_key_expired"),
        (7, ["units_max\":100000", "units_max\":30"], "30", "token_amount_too_large"),
    ];
    for (krn, [from, to], amount, code) in cases {
        let key = key_body(krn).replacen(from, to, 1);
        assert_ne!(key, key_body(krn), "{from}");
        let reply = node.call("POST", "/v1/vending-keys", &key).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let check = reply.json()["check_value"].as_str().unwrap().to_owned();
        let body = format!(r#"{{"sgc":201457,"kt":2,"krn":{krn},"check_value":"{check}"}}"#);
        let call = Call::new("POST", "/v1/vending-keys/confirmation").token(&second).json(&body);
        assert_eq!(node.send(call).await.status, 200);
        let settings = SETTINGS.replace("\"krn\":1", &format!("\"krn\":{krn}"));
        let reply = node.call("PUT", "/v1/meters/1/token-settings", &settings).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let body = format!(r#"{{"amount":"{amount}"}}"#);
        let reply = buy(&node, "k", &body).await;
        assert_eq!(reply.code(), code, "{krn}: {reply:?}");
        assert!(!reply.body.contains(&digits(krn)), "{reply:?}");
        // Nor does an engineering order, where the key itself is at its end.
        let order = r#"{"meter":1,"action":{"kind":"clear_tamper"},"reason":"x","work_order":"W"}"#;
        let order = node.call("POST", "/v1/token-orders", order).await.json()["id"].clone();
        if code == "vending_key_expired" {
            let path = format!("/v1/token-orders/{order}/decision");
            let call = Call::new("POST", &path).token(&second).json(r#"{"approve":true}"#);
            assert_eq!(node.send(call).await.code(), code);
            let orders = node.call("GET", "/v1/token-orders", "").await.json();
            let last = orders["items"].as_array().unwrap().last().unwrap().clone();
            assert_eq!(last["state"], "waiting", "nothing was decided: {last}");
        }
    }
    assert_eq!(
        node.call("GET", "/v1/accounts/1/purchases", "").await.json()["items"],
        Value::Array(vec![])
    );
    assert_eq!(
        node.call("GET", "/v1/meters/1/tokens", "").await.json()["items"],
        Value::Array(vec![])
    );
    assert_eq!(node.purchases.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn money_is_reversed_before_delivery_only() {
    let (node, _) = token_node().await;
    let debt = r#"{"amount":"50","share_bp":2000,"cap":"10","reason":"arrears"}"#;
    assert_eq!(node.call("POST", "/v1/accounts/2/debts", debt).await.status, 201);
    let reply = node.send(purchase(&node.admin, 2, "m1", r#"{"amount":"100"}"#)).await;
    // 20 % would be 20.00; the cap of the month is 10.00.
    assert_eq!(reply.json()["debt"], "10.0000000", "{reply:?}");
    let second = node.send(purchase(&node.admin, 2, "m2", r#"{"amount":"10"}"#)).await;
    assert_eq!(second.json()["debt"], "0.0000000", "the cap is used up");
    let reverse = |key: &str| format!("/v1/purchases/{key}/reversal");
    let body = r#"{"reason":"wrong account"}"#;
    assert_eq!(node.call("POST", &reverse("m1"), body).await.code(), "not_the_last_sale");
    assert_eq!(node.call("POST", &reverse("m2"), body).await.status, 200);
    assert_eq!(node.call("POST", &reverse("m2"), body).await.code(), "already_taken_back");
    assert_eq!(node.call("POST", &reverse("m1"), body).await.status, 200);
    // Back to what the agreement made of it: the arrears are out of the balance.
    let balance = node.call("GET", "/v1/accounts/2/balance", "").await.json();
    assert_eq!(balance["balance"], "50.0000000");
    let debts = node.call("GET", "/v1/accounts/2/debts", "").await.json();
    assert_eq!(debts["items"][0]["left"], "50.0000000");
    let refund = node.call("POST", "/v1/purchases/m1/refund", r#"{"inspection":"v"}"#).await;
    assert_eq!(refund.code(), "nothing_to_refund");
}

#[tokio::test]
async fn tokens_are_masked_and_keys_never_told() {
    let (node, _) = token_node().await;
    let receipt = buy(&node, "k1", r#"{"amount":"20"}"#).await.json();
    let token = tokens(&receipt)[0].clone();
    let reader = node.token(ApiRole::Reader).await;
    let vendor = node.token(ApiRole::Vendor).await;
    for path in ["/v1/purchases/k1", "/v1/accounts/1/purchases", "/v1/meters/1/tokens"] {
        let reply = node.send(Call::new("GET", path).token(&reader)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(!reply.body.contains(&token), "{path}");
        assert!(reply.body.contains(&token[20..]), "{path}: the last four digits stay");
    }
    let reply = node.send(Call::new("GET", "/v1/purchases/k1").token(&vendor)).await;
    assert!(reply.body.contains(&token));
    let copy = node.call("POST", "/v1/purchases/k1/copies", "").await.json();
    assert!(copy["text"].as_str().unwrap().contains(&token), "{copy}");
    let trail = node.call("GET", "/v1/vending-keys/audit", "").await.json();
    let deeds: Vec<&str> =
        trail["items"].as_array().unwrap().iter().map(|l| l["deed"].as_str().unwrap()).collect();
    assert_eq!(deeds.len(), 6, "{trail}");
    assert_eq!(deeds[..3], ["proposed", "confirmation refused", "confirmed"], "{trail}");
    assert_eq!(trail["items"][2]["key"], "201457/2/1");
    let reply = node.send(Call::new("GET", "/v1/vending-keys/audit").token(&reader)).await;
    assert_eq!(reply.status, 403, "{reply:?}");
    let bad = key_body(3).replace("ab94", "xx94");
    // A key where a number belongs, and a token that is a number.
    let misplaced = key_body(3).replace("\"krn\":3", &format!("\"krn\":\"{}\"", digits(3)));
    let number = r#"{"command":"token","token":94949494949494949494}"#;
    let command = Call::new("POST", "/v1/meters/1/commands").token(&node.admin);
    let command = command.header("Idempotency-Key", "c").json(number);
    for reply in [
        node.call("POST", "/v1/vending-keys", &misplaced).await,
        node.send(command).await,
        node.call("GET", "/v1/vending-keys/audit", "").await,
        node.call("GET", "/v1/vending-keys", "").await,
        node.call("POST", "/v1/vending-keys", &bad).await,
        node.call("POST", "/v1/vending-keys", &key_body(1)).await,
        node.call("GET", "/v1/meters/1/token-settings", "").await,
        node.send(Call::new("GET", "/metrics")).await,
    ] {
        assert!(!reply.body.contains("94949494"), "{reply:?}");
    }
}
