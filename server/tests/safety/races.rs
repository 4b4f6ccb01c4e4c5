//! F22: reversals, refunds and sales at a limit, many at once over the Web API. What a limit lets pass
//! is exactly what it must, and afterwards registry and log say the same of every one of them.

use serde_json::Value;
use server::http::HttpError;

use crate::place::{Serve, meterd, said, spoil_registry};

type Answers = Vec<Result<String, HttpError>>;

/// How many were done; every other one must be refused by one of the codes.
fn done(answers: &Answers, codes: &[&str]) -> usize {
    let mut done = 0;
    for answer in answers {
        match answer {
            Ok(_) => done += 1,
            Err(HttpError::Status { body, .. }) => {
                let problem: Value = serde_json::from_str(body).unwrap();
                let code = problem["code"].as_str().unwrap();
                assert!(codes.contains(&code), "{code} is none of {codes:?}: {body}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    done
}

fn buy(node: &Serve, name: &str, count: usize) -> Answers {
    let keys: Vec<String> = (0..count).map(|number| format!("{name}-{number}")).collect();
    let path = "/v1/accounts/1/purchases";
    node.posts(keys.iter().map(|key| (path, &key[..], "{\"amount\":\"1.00\"}")))
}

fn refund_bodies(amount: &str, inspection: &str, count: usize) -> Vec<String> {
    let body = |number| {
        let inspection = inspection.replace('#', &format!("{number}"));
        format!("{{\"amount\":\"{amount}\",\"inspection\":\"{inspection}\"}}")
    };
    (0..count).map(body).collect()
}

#[test]
fn of_many_at_once_exactly_so_many_pass() {
    const CALLS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let node = Serve::start(folder.path(), "");
    node.register();
    let agent = r#"{"code":"P1","name":"kiosk","zone":"Asia/Shanghai","credit_limit":"20.00"}"#;
    node.call("POST", "/v1/agents", &[], agent).unwrap();
    node.call("PUT", "/v1/agents/1/tokens/1", &[], "").unwrap();

    let sold = buy(&node, "limit", CALLS);
    assert_eq!(done(&sold, &["agent_limit_reached"]), 20, "the vending point's limit");
    let (mut keys, mut latest) = (Vec::new(), (0, String::new()));
    for answer in sold.iter().flatten() {
        let receipt: Value = serde_json::from_str(answer).unwrap();
        let key = receipt["idempotency_key"].as_str().unwrap().to_owned();
        latest = latest.max((receipt["id"].as_u64().unwrap(), key.clone()));
        keys.push(key);
    }

    let path = format!("/v1/purchases/{}/reversal", latest.1);
    let body = "{\"reason\":\"wrong account\"}";
    let reversed = node.posts((0..CALLS).map(|_| (&path[..], "-", body)));
    assert_eq!(done(&reversed, &["already_taken_back"]), 1, "reversals of one sale");
    keys.retain(|key| *key != latest.1);

    // Three times 0.30 of 1.00, and no more.
    let path = format!("/v1/purchases/{}/refund", keys[0]);
    let bodies = refund_bodies("0.30", "report #", CALLS);
    let parts = node.posts(bodies.iter().map(|body| (&path[..], "-", &body[..])));
    assert_eq!(done(&parts, &["refund_too_large"]), 3, "refunds in parts");

    let path = format!("/v1/purchases/{}/refund", keys[1]);
    let bodies = refund_bodies("0.01", "one report", CALLS);
    let same = node.posts(bodies.iter().map(|body| (&path[..], "-", &body[..])));
    assert_eq!(done(&same, &["already_refunded"]), 1, "refunds by one report");

    // Whole refunds race reversals of the account's last sale: one of all of them passes.
    assert_eq!(done(&buy(&node, "last", 1), &[]), 1);
    let (back, whole) = ("/v1/purchases/last-0/reversal", "/v1/purchases/last-0/refund");
    let bodies = refund_bodies("1.00", "last #", CALLS / 2);
    let race = bodies.iter().flat_map(|refund| [(back, "-", body), (whole, "-", &refund[..])]);
    let codes = ["already_taken_back", "nothing_to_refund", "refund_too_large"];
    assert_eq!(done(&node.posts(race), &codes), 1, "a reversal or a refund");

    assert_eq!(node.balance(), "18.0900000", "20 − 1 − 3 × 0.30 − 0.01 + 1 − 1");
    let days: Value =
        serde_json::from_str(&node.call("GET", "/v1/agents/1/days", &[], "").unwrap()).unwrap();
    let hundredths = |name: &str| {
        let sum = |day: &Value| -> f64 { day[name].as_str().unwrap().parse().unwrap() };
        (days.as_array().unwrap().iter().map(sum).sum::<f64>() * 100.0).round() as i64
    };
    assert_eq!((hundredths("paid"), hundredths("taken_back")), (2100, 291), "{days}");
    println!(
        "F22: {CALLS} at once each: 20 sales, 1 reversal, 3 refunds in parts, 1 by one report, 1 of both"
    );
    let config = node.settings().to_owned();
    let verified = node.stop_and_verify();
    println!("{verified}");

    // A refund that the registry has lost is found.
    spoil_registry(folder.path(), "DELETE FROM sale_deed WHERE amount = 100000");
    let verify = ["verify", "--without-clickhouse", "--config"];
    let output = meterd().args(verify).arg(config).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("DIFFERENT, account 1 first: refund"), "{}", said(&output));
}
