//! An account is cut off, pays and is restored over the wire, with the time of each step.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Node, wait};

/// The account's orders as they stand: kind and state, oldest first.
fn orders(node: &Node) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let page = node.get("/v1/orders?account=1");
    let items = page["items"].as_array().unwrap().iter();
    items.map(|order| (text(&order["kind"]), text(&order["state"]))).collect()
}

fn balance(node: &Node) -> f64 {
    let balance = node.get("/v1/accounts/1/balance")["balance"].clone();
    balance.as_str().unwrap().parse().unwrap()
}

#[test]
fn cut_off_paid_and_restored_in_the_simulator() {
    let node = Node::start();
    node.register(1, "keypad");
    let policy = json!({"cutting": true, "order_s_max": 600, "attempts_max": 3, "retry_s": 1,
        "stagger_s": 0});
    node.call("PUT", "/v1/supply-policy", &policy);
    let fleet = node.meters(1);
    let mut seen: BTreeMap<&str, Duration> = BTreeMap::new();
    wait("a reading that overdraws", || balance(&node) < 0.0);
    let began = server::clock::instant();
    let mut step = |what: &'static str, kind: &str, states: &[&str]| {
        wait(what, || {
            let orders = orders(&node);
            orders.iter().any(|order| order.0 == kind && states.contains(&order.1.as_str()))
        });
        seen.insert(what, began.elapsed());
    };
    step("1 disconnect sent", "disconnect", &["sent", "done"]);
    step("2 relay read back open", "disconnect", &["done"]);
    let paid = began.elapsed();
    node.text(&node.admin, "POST", "/v1/accounts/1/top-ups", "paid", &json!({"amount": "50"}));
    let answered = began.elapsed();
    step("5 reconnect sent", "reconnect", &["sent", "done"]);
    step("6 relay read back closed", "reconnect", &["done"]);
    seen.insert("3 purchase sent", paid);
    seen.insert("4 purchase answered", answered);
    let told: Vec<String> =
        seen.iter().map(|(what, at)| format!("{what} +{} ms", at.as_millis())).collect();
    println!("the reading that overdraws is seen in the balance: +0 ms; {}", told.join("; "));
    assert!(balance(&node) > 0.0);
    let done = |kind: &str| (kind.to_owned(), "done".to_owned());
    assert_eq!(orders(&node), [done("disconnect"), done("reconnect")]);
    let alarms = node.get("/v1/alarms")["items"].to_string();
    assert!(!alarms.contains("supply_trip"), "what was ordered is no trip: {alarms}");
    let meters = fleet.stop();
    assert_eq!(meters.meters()[0].changes(), 2, "the relay was opened once and closed once");
}
