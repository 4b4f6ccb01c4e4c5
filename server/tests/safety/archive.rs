//! The archive, in a folder and in a bucket of an S3 server that checks signatures: the log gives
//! its old segments up only when their copies are confirmed; a start without a snapshot, `verify`,
//! `backup` and `restore` read from the first entry; a store that refuses costs nothing but space.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::place::{Serve, fast_clock, meterd, pause, said};

/// A server of S3, see `s3.py`.
struct S3 {
    child: Child,
    url: String,
    key: String,
    secret: String,
}

impl S3 {
    /// Starts one; `None`, said, where it is not installed.
    fn start() -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = here.join("../.meterd/python/bin/python");
        let has_moto = Command::new(&python).args(["-c", "import moto.server"]).output();
        if !has_moto.is_ok_and(|output| output.status.success()) {
            println!("skipped: no S3 server; deploy/test-tools.sh installs moto");
            return None;
        }
        let mut child = Command::new(python)
            .arg(here.join("tests/safety/s3.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        Some(Self { url: text("url"), key: text("key"), secret: text("secret"), child })
    }

    fn settings(&self) -> String {
        format!("[archive]\nstore = \"s3://archive/node-1\"\nendpoint = \"{}\"\n", self.url)
    }

    fn credentials(&self, secret: &str) -> Vec<(String, String)> {
        environment(&[("AWS_ACCESS_KEY_ID", &self.key), ("AWS_SECRET_ACCESS_KEY", secret)])
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The first segment that the log still has, and how many.
fn segments(data: &Path) -> (String, usize) {
    let names = fs::read_dir(data.join("log")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("seg-")).collect();
    names.sort_unstable();
    (names[0].clone(), names.len())
}

/// Waits until it holds, and fails with `what` after a minute.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if holds() {
            return;
        }
        pause();
    }
    panic!("waited in vain for {what}");
}

/// With a snapshot each second, so that the log gives up what is archived.
fn environment(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = [("METERD__NODE__SNAPSHOT_S", "1")];
    let pairs = pairs.iter().chain(more);
    pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A node whose ticks fill a segment in seconds.
fn node(folder: &Path, archive: &str, environment: Vec<(String, String)>) -> Serve {
    Serve::start_with(folder, &format!("{archive}{}", fast_clock()), environment)
}

fn keeps_its_books(name: &str, archive: &str, environment: Vec<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut node = node(folder.path(), archive, environment.clone());
    node.register();
    node.top_up(&format!("{name}-1"), "12.00").unwrap();
    let (first, _) = segments(&data);
    wait("the log to give up its first segments", || segments(&data).0 > first);
    node.top_up(&format!("{name}-2"), "0.34").unwrap();
    node.kill();
    // Without a snapshot the books are computed again, from the archive's first segment on.
    fs::remove_dir_all(data.join("snapshots")).unwrap();
    node.restart();
    assert_eq!(node.balance(), "12.3400000");
    let run = |arguments: &[&str], folder: &Path| {
        let mut command = meterd();
        command.args(arguments).arg(folder).envs(environment.clone());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let config = folder.path().join("meterd.toml");
    let config = config.to_str().unwrap();
    let backup = folder.path().join("backup");
    println!("{}", run(&["backup", "--config", config, "--with-master-key", "--to"], &backup));
    let from = backup.to_str().unwrap();
    let arguments = ["restore", "--from", from, "--verify", "--data-dir"];
    assert!(run(&arguments, &folder.path().join("restored")).contains("2 purchases"));
    let (first, kept) = segments(&data);
    let verified = node.stop_and_verify();
    println!("{name}: the log keeps {kept} segments, from {first} on; {verified}");
    assert!(verified.contains(", 1 to "), "{verified}");
}

#[test]
fn a_folder_keeps_what_the_log_gives_up() {
    keeps_its_books("folder", "[archive]\nstore = \"../archive\"\n", environment(&[]));
}

#[test]
fn a_bucket_keeps_what_the_log_gives_up() {
    let Some(s3) = S3::start() else { return };
    keeps_its_books("bucket", &s3.settings(), s3.credentials(&s3.secret));
}

#[test]
fn a_store_that_refuses_costs_no_entry() {
    let Some(s3) = S3::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut node = node(folder.path(), &s3.settings(), s3.credentials("not the secret"));
    node.register();
    wait("three segments", || segments(&data).1 >= 3);
    // Long enough for a snapshot, and for the log to give up what it may.
    std::thread::sleep(Duration::from_secs(2));
    let (first, kept) = segments(&data);
    assert_eq!(first, "seg-00000000000000000001.log", "given up without a copy");
    node.top_up("refused-1", "5.00").unwrap();
    node.kill();
    node.set_environment(s3.credentials(&s3.secret));
    node.restart();
    wait("the log to give up what is archived now", || segments(&data).0 > first);
    assert_eq!(node.balance(), "5.0000000");
    println!("refused: {kept} segments kept; then\n{}", node.stop_and_verify());
}
