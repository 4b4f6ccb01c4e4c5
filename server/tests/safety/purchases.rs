//! F21 and F1 on the way of a purchase: one key called a hundred times at once, and the node killed
//! (SIGKILL) while purchases run; each key makes one purchase with one answer, for ever.

use std::time::Instant;

use server::http::HttpError;

use crate::place::{Serve, rounds};

const CALLS: usize = 100;

#[test]
#[expect(clippy::disallowed_methods, reason = "the figures are times")]
fn each_key_makes_one_purchase_whatever_happens() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Serve::start(folder.path(), "");
    node.register();
    let answers = node.top_ups(&vec!["same".to_owned(); CALLS], "1.00");
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "every caller is told the same");
    let Err(HttpError::Status { status, body }) = node.top_up("same", "2.00") else {
        panic!("another request under the same key is taken");
    };
    assert!(status == 409 || status == 422, "{status} {body}");
    println!("F21: {CALLS} calls with one key at once: one answer; another body: {status}");
    assert_eq!(node.balance(), "1.0000000");

    let (mut bought, mut starts) = (1, Vec::new());
    for round in 0..rounds(5) {
        let keys: Vec<String> = (0..40).map(|n| format!("kill-{round}-{n}")).collect();
        node.kill_soon(u64::from(round) * 37 % 100);
        let first = node.top_ups(&keys, "1.00");
        let began = Instant::now();
        node.restart();
        starts.push(began.elapsed());
        // What was recorded before the kill is answered without any new purchase to push it on.
        for key in keys.iter().filter(|key| node.has_top_up(key)) {
            node.top_up(key, "1.00").unwrap_or_else(|error| panic!("{key}: {error}"));
        }
        // Whoever got no answer asks again under the same key; whoever got one is told the same.
        let again = node.top_ups(&keys, "1.00");
        for (key, (first, again)) in keys.iter().zip(first.iter().zip(&again)) {
            let again = again.as_ref().unwrap_or_else(|error| panic!("{key}: {error}"));
            assert!(first.as_ref().ok().is_none_or(|first| first == again), "{key}");
        }
        bought += keys.len();
        let answered = first.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(
            node.balance(),
            format!("{bought}.0000000"),
            "round {round}, {answered} answered"
        );
    }
    starts.sort_unstable();
    let (median, longest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    println!(
        "F1: {} kills while purchases run: {bought} keys, {bought} purchases, none lost or double; \
         ready again after {median:?} (median), {longest:?} (longest)",
        starts.len()
    );
    println!("{}", node.stop_and_verify());
}

/// The node died after the purchase was in the log and before its answer was kept: asked again,
/// with nothing else going on, it answers.
#[test]
fn a_purchase_without_an_answer_gets_it_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Serve::start(folder.path(), "");
    node.register();
    let before = node.top_up("once", "1.00").unwrap();
    node.kill();
    node.forget_answers();
    node.restart();
    let again = node.top_up("once", "1.00").unwrap();
    let paid = |answer: &str| -> serde_json::Value {
        let mut answer: serde_json::Value = serde_json::from_str(answer).unwrap();
        // When it is told again the books may have gone on.
        answer["balance_after"].as_object_mut().unwrap().remove("seq");
        answer
    };
    assert_eq!(paid(&again), paid(&before));
    assert_eq!(node.balance(), "1.0000000");
}
