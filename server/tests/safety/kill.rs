//! F1: the node is killed (SIGKILL) at random moments while meters and gateways send and customers
//! buy. Afterwards every reading acknowledged is stored once, every balance is right to the tick,
//! and log, registry, snapshot and ClickHouse agree.

use crate::place::{Demo, verify, weeks};

#[test]
fn killed_again_and_again_nothing_is_lost_or_doubled() {
    let Some(kills) = weeks() else { return };
    let folder = tempfile::tempdir().unwrap();
    let seconds = (kills * 6).clamp(180, 86_400);
    let (kills, seconds) = (kills.to_string(), seconds.to_string());
    let demo = folder.path().join("demo");
    let arguments = ["--seconds", &seconds, "--kill", &kills, "--seed", "21"];
    Demo::start(&demo, &arguments).finish();
    let said = verify(&demo, &[]);
    println!("F1: killed {kills} times in {seconds} s, all checks hold; then\n{said}");
    assert!(!said.contains("not compared"), "{said}");
}
