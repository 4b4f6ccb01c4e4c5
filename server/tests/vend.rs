//! `meterd vend` when there is no node, or nothing to ask with: what is wrong is named, and no
//! token is shown.

use std::process::{Command, Output};

fn vend(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meterd"))
        .arg("vend")
        .args(args)
        .env_remove("METERD_TOKEN")
        .env_remove("METERD_URL")
        .output()
        .expect("meterd starts")
}

fn check(args: &[&str], code: i32, words: &[&str]) {
    let output = vend(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains("meterd_secret") && !said.contains("panicked"), "{said}");
}

#[test]
fn what_is_missing_is_named() {
    check(&["status", "k"], 1, &["an API token is needed", "METERD_TOKEN"]);
    check(&["--token-file", "no/such", "status", "k"], 1, &["no/such: cannot be read"]);
    let token = ["--token", "meterd_secret"];
    check(&[&token[..], &["--url", "ftp://x", "status", "k"]].concat(), 1, &["http://HOST:PORT"]);
    check(&[&token[..], &["buy", "--account", "1", "--key", "k"]].concat(), 2, &["--amount"]);
    // A port that nobody listens on any more.
    let address = loadgen::free_address().expect("a port");
    let url = format!("http://{address}");
    let args = [&token[..], &["--url", &url, "status", "k"]].concat();
    check(&args, 1, &["cannot reach", "does the node run?"]);
}
