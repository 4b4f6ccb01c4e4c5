//! Tokens end to end: a node in a process of its own sells them, sends them to the simulator's meter
//! over DLMS, is killed in between, sells many from a file, and tells nobody a key or a token. And an
//! account is cut off and restored over the same wire.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod node;
mod supply;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sts::meter::ResultCode;

use node::{Node, key_digits, said, token_meter, wait};

/// What each token of a purchase came to in the meter, once all are in.
fn entered(node: &Node, key: &str) -> Vec<(String, String)> {
    let path = format!("/v1/purchases/{key}");
    wait("the meter to take the tokens", || {
        let entries = node.get(&path)["entries"].clone();
        entries.as_array().unwrap().iter().all(|entry| entry["state"] != "waiting")
    });
    let entries = node.get(&path)["entries"].clone();
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let told = |entry: &Value| (text(&entry["state"]), text(&entry["result"]));
    entries.as_array().unwrap().iter().map(told).collect()
}

fn digits(receipt: &Value) -> Vec<String> {
    let tokens = receipt["tokens"].as_array().unwrap().iter();
    tokens.map(|token| token["digits"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_sale_sends_its_tokens_to_the_meter_once() {
    let mut node = Node::start();
    node.register(1, "remote");
    let fleet = node.meters(1);
    let taken = |result: &str| ("taken".to_owned(), result.to_owned());
    node.buy(1, "first", "10");
    assert_eq!(entered(&node, "first"), [taken("accept")]);
    // The key change goes in front, in its order, and before the credit under the new key.
    let campaign = json!({"name": "to 2", "from_sgc": 201_457, "from_krn": 1, "to_sgc": 201_457,
        "to_kt": 2, "to_krn": 2});
    node.call("POST", "/v1/campaigns", &campaign);
    wait("the campaign", || node.get("/v1/campaigns/1")["state"] == "done");
    node.buy(1, "second", "20");
    let want = [taken("first_key_change_token"), taken("accept"), taken("accept")];
    assert_eq!(entered(&node, "second"), want);
    // Killed as soon as it has answered, wherever the token is then, and asked once more.
    for round in 0..3 {
        let key = format!("killed-{round}");
        let receipt = node.buy(1, &key, "30");
        node.kill();
        node.restart();
        assert_eq!(node.buy(1, &key, "30"), receipt, "the same sale");
        assert_eq!(entered(&node, &key), [taken("accept")]);
    }
    let fleet = fleet.stop();
    let meter = &fleet.meters()[0];
    let units = meter.token_meter().unwrap().registers().units;
    assert_eq!(units, (10 + 20 + 3 * 30) * 20, "tenths of a kWh, at 0.50 each kWh");
    assert_eq!(meter.changes(), 1 + 3 + 3, "each token was entered once");
}

/// Orders an engineering token and lets another person approve it; the number of the order.
fn approve(node: &Node, second: &str, action: &Value) -> u64 {
    let order = json!({"meter": 1, "action": action, "reason": "visit", "work_order": "W1"});
    let order = node.call("POST", "/v1/token-orders", &order)["id"].as_u64().unwrap();
    let path = format!("/v1/token-orders/{order}/decision");
    node.text(second, "POST", &path, "", &json!({"approve": true}));
    order
}

/// What each token of an order came to in the meter, once all are in.
fn order_entered(node: &Node, order: u64) -> Vec<(String, String, String)> {
    let path = format!("/v1/token-orders?after={}&limit=1", order - 1);
    let entries = || node.get(&path)["items"][0]["entries"].as_array().unwrap().clone();
    wait("the meter to take the order", || {
        let entries = entries();
        !entries.is_empty() && entries.iter().all(|entry| entry["state"] != "waiting")
    });
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("none").to_owned();
    let told = |entry: &Value| (text(entry, "kind"), text(entry, "state"), text(entry, "result"));
    entries().iter().map(told).collect()
}

#[test]
fn an_approved_order_sends_its_tokens_to_the_meter_once() {
    let mut node = Node::start();
    node.register(1, "remote");
    let fleet = node.meters(1);
    let second = node.new_token("operator");
    let told = |kind: &str, result: &str| (kind.to_owned(), "taken".to_owned(), result.to_owned());
    node.buy(1, "credit", "10");
    assert_eq!(entered(&node, "credit").len(), 1);
    let actions = [
        json!({"kind": "set_maximum_power_limit", "watts": 5000}),
        json!({"kind": "clear_credit", "register": 0}),
        json!({"kind": "set_flag", "flag": 0, "value": true}),
    ];
    for action in &actions {
        let order = approve(&node, &second, action);
        assert_eq!(order_entered(&node, order), [told("order", "accept")], "{action}");
    }
    // A campaign marks the meter; an order brings it the key, without a sale.
    let campaign = json!({"name": "to 2", "from_sgc": 201_457, "from_krn": 1, "to_sgc": 201_457,
        "to_kt": 2, "to_krn": 2});
    node.call("POST", "/v1/campaigns", &campaign);
    wait("the campaign", || node.get("/v1/campaigns/1")["state"] == "done");
    let order = approve(&node, &second, &json!({"kind": "key_change"}));
    let want =
        [told("key_change_1_of_2", "first_key_change_token"), told("key_change_2_of_2", "accept")];
    assert_eq!(order_entered(&node, order), want);
    // Killed as soon as it was approved, wherever the token is then.
    for watts in [1000, 2000] {
        let action = json!({"kind": "set_maximum_power_limit", "watts": watts});
        let order = approve(&node, &second, &action);
        node.kill();
        node.restart();
        assert_eq!(order_entered(&node, order), [told("order", "accept")]);
    }
    // Of one that is refused nothing is sent.
    let refused = json!({"meter": 1, "action": actions[1], "reason": "x", "work_order": "W2"});
    let refused = node.call("POST", "/v1/token-orders", &refused)["id"].as_u64().unwrap();
    let path = format!("/v1/token-orders/{refused}/decision");
    node.text(&second, "POST", &path, "", &json!({"approve": false}));
    let last = node.get(&format!("/v1/token-orders?after={}", refused - 1));
    assert_eq!(last["items"][0]["entries"], json!([]), "{last}");
    let fleet = fleet.stop();
    let meter = &fleet.meters()[0];
    let registers = meter.token_meter().unwrap().registers();
    assert_eq!((registers.units, registers.power_limit_w), (0, Some(2000)));
    assert_eq!(meter.changes(), 1 + 3 + 2 + 2, "each token was entered once");
}

#[test]
fn a_bulk_run_that_is_killed_goes_on() {
    const ORDERS: usize = 400;
    let node = Node::start();
    (1..=4).for_each(|number| node.register(number, "keypad"));
    let mut orders = "key,account,amount,energy_wh\n".to_owned();
    for order in 0..ORDERS {
        writeln!(orders, "order {order},{},,1000", order % 4 + 1).unwrap();
    }
    let (file, out) = (node.folder.path().join("orders.csv"), node.folder.path().join("out.csv"));
    fs::write(&file, orders).unwrap();
    let lines = || fs::read_to_string(&out).unwrap_or_default().lines().count();
    for part in [2, 4] {
        let mut run = node.bulk(&file, &out);
        wait("a part of the answers", || lines() > ORDERS * part / 6);
        run.kill().unwrap();
        run.wait().unwrap();
        assert!(lines() <= ORDERS, "killed before its end");
    }
    let ended = node.bulk(&file, &out).wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    let text = fs::read_to_string(&out).unwrap();
    let mut tokens = BTreeSet::new();
    for (order, line) in text.lines().skip(1).enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[..3], [&format!("order {order}"), fields[1], "sold"], "{line}");
        assert!(tokens.insert(fields[4].to_owned()), "{line}: a token twice");
    }
    assert_eq!(tokens.len(), ORDERS);
    // What the node issued is what the file has, each identifier once.
    let mut issued = BTreeSet::new();
    for number in 1..=4 {
        let page = node.get(&format!("/v1/meters/{number}/tokens?limit=1000"));
        for token in page["items"].as_array().unwrap() {
            assert!(tokens.contains(&token["digits"].as_str().unwrap().replace(' ', "")));
            assert!(issued.insert((number, token["tid"].as_u64().unwrap())), "{token}");
        }
    }
    assert_eq!(issued.len(), ORDERS);
}

/// Every file of a folder and those below it.
fn files(folder: &Path, each: &mut dyn FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, each);
        } else {
            each(&path, &fs::read(&path).unwrap());
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn nobody_is_told_a_key_or_anothers_token() {
    let node = Node::start();
    node.register(1, "remote");
    node.register(2, "keypad");
    let fleet = node.meters(2);
    let mut secrets = Vec::new();
    for round in 0..3 {
        secrets.extend(digits(&node.buy(1, &format!("r{round}"), "10")));
        entered(&node, &format!("r{round}"));
    }
    let bought = digits(&node.buy(2, "typed", "10"));
    let mut keypad = token_meter(2);
    assert_eq!(keypad.enter_text(&bought[0], 0), ResultCode::Accept);
    assert_eq!(keypad.enter_text(&bought[0], 0), ResultCode::Used);
    secrets.extend(bought);
    // An engineering token, a token that is no token, a key that is no key.
    let order = json!({"meter": 2, "action": {"kind": "clear_tamper"}, "reason": "opened",
        "work_order": "W1"});
    node.call("POST", "/v1/token-orders", &order);
    let second = node.new_token("operator");
    let approve = json!({"approve": true});
    let decided = node.text(&second, "POST", "/v1/token-orders/1/decision", "", &approve);
    let decided: Value = serde_json::from_str(&decided).unwrap();
    secrets.push(decided["tokens"][0].as_str().unwrap().to_owned());
    fleet.stop();

    let reader = node.new_token("reader");
    let mut told = String::new();
    for path in [
        "/metrics",
        "/v1/purchases/r1",
        "/v1/purchases/typed",
        "/v1/accounts/1/purchases",
        "/v1/meters/1/tokens",
        "/v1/meters/1/commands",
        "/v1/meters/1/token-settings",
        "/v1/token-orders",
        "/v1/token-census",
    ] {
        let answer = node.text(&reader, "GET", path, "", &Value::Null);
        assert!(path == "/metrics" || answer.contains("···") || !answer.contains("digits"));
        told.push_str(&answer);
    }
    told.push_str(&node.text(&node.admin, "GET", "/v1/vending-keys", "", &Value::Null));
    let log = node.log();
    assert!(log.contains("DEBUG"), "the log is as loud as it gets in use");
    for token in &secrets {
        let plain = token.replace(' ', "");
        assert_eq!(plain.len(), 20);
        for text in [&log, &told] {
            assert!(!text.contains(token) && !text.contains(&plain), "token {token}");
        }
        assert!(told.contains(&plain[16..]), "the end of each token is shown");
    }
    let keys: Vec<Vec<u8>> = [1, 2]
        .map(|krn| storage::registry::parse_hex(&key_digits(krn)).unwrap())
        .map(|key: [u8; 20]| key.to_vec())
        .into();
    for (krn, key) in [1, 2].into_iter().zip(&keys) {
        let digits = key_digits(krn);
        for text in [&log, &told] {
            assert!(!text.to_lowercase().contains(&digits), "vending key {krn}");
        }
        files(node.folder.path(), &mut |path, bytes| {
            let has_it = holds(bytes, key) || holds(bytes, digits.as_bytes());
            assert!(!has_it, "vending key {krn} in {}", path.display());
        });
    }
}
