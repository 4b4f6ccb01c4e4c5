//! Payments are idempotent by the caller's key.

use std::sync::atomic::Ordering;

use crate::TestNode;
use crate::client::Call;

fn top_up(node: &TestNode, key: &str, body: &str) -> Call {
    let call = Call::new("POST", "/v1/accounts/1/top-ups").token(&node.admin);
    call.header("Idempotency-Key", key).json(body)
}

#[tokio::test]
async fn the_same_key_and_body_get_the_same_answer_for_ever() {
    let node = TestNode::start().await;
    node.with_account().await;
    let first = node.send(top_up(&node, "k1", r#"{"amount":"20"}"#)).await;
    assert_eq!(first.status, 201, "{first:?}");
    node.send(top_up(&node, "k2", r#"{"amount":"5"}"#)).await;
    let again = node.send(top_up(&node, "k1", r#"{ "amount" : "20.00" }"#)).await;
    assert_eq!((again.status, again.body), (201, first.body), "the balance of the first answer");
    let other = node.send(top_up(&node, "k1", r#"{"amount":"21"}"#)).await;
    assert_eq!((other.status, other.code().as_str()), (409, "idempotency_key_reused"));
    let account = Call::new("POST", "/v1/accounts/2/top-ups").token(&node.admin);
    let account = account.header("Idempotency-Key", "k1").json(r#"{"amount":"20"}"#);
    assert_eq!(node.send(account).await.code(), "idempotency_key_reused");
    let none = Call::new("POST", "/v1/accounts/1/top-ups").token(&node.admin);
    let none = none.json(r#"{"amount":"20"}"#);
    assert_eq!(node.send(none).await.code(), "idempotency_key_missing");
    let balance = node.call("GET", "/v1/accounts/1/balance", "").await.json();
    assert_eq!(balance["balance"], "25.0000000");
    assert_eq!(node.purchases.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_at_once_with_one_key_are_one_payment() {
    let node = TestNode::start().await;
    node.with_account().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let call = top_up(&node, "same", r#"{"amount":"3"}"#);
        let address = node.address;
        calls.spawn(async move { call.send(address).await });
    }
    let replies = calls.join_all().await;
    for reply in &replies {
        assert_eq!((reply.status, &reply.body), (201, &replies[0].body));
    }
    assert_eq!(node.purchases.load(Ordering::Relaxed), 1);
    let balance = node.call("GET", "/v1/accounts/1/balance", "").await.json();
    assert_eq!(balance["balance"], "3.0000000");
}
