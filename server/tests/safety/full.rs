//! F4: the log's disk is full. The log lies on a small file system that the test fills and frees:
//! routine entries are refused, purchases go on from the reserve, and everything resumes by itself.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::place::{Serve, fast_clock, pause};

const PURCHASES: usize = 50;

/// A file system of its own, unmounted at the end.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    /// Mounts one; `None`, said, where that is not allowed.
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(path).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        println!("skipped: mounting a tmpfs needs root");
        None
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazily: the process on it has just ended.
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

/// Fills a file system until nothing fits any more.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let (block, mut written) = (vec![1; 64 << 10], 0);
    while file.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    written
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the figures are times")]
fn a_full_disk_refuses_what_can_wait_and_takes_purchases() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("data/log");
    let Some(_small) = Small::mount(&log) else { return };
    let mut node = Serve::start(folder.path(), &fast_clock());
    node.register();
    let durable = |node: &Serve| node.metric("meterd_log_durable_seq");
    let began = Instant::now();
    let filled = fill(&log.join("filler"));
    // Ticks, one a commit, go on until the prepared segments are used up; then the position stands.
    let (mut stands, mut since) = (durable(&node), Instant::now());
    while since.elapsed().as_millis() < 1500 {
        pause();
        let now = durable(&node);
        if now != stands {
            (stands, since) = (now, Instant::now());
        }
        assert!(began.elapsed().as_secs() < 60, "the log goes on without space");
    }
    println!(
        "F4: {filled} bytes filled, routine entries refused after {:?}",
        began.elapsed() - since.elapsed()
    );
    let began = Instant::now();
    for number in 0..PURCHASES {
        node.top_up(&format!("full-{number}"), "1.00").unwrap();
    }
    println!("F4: {PURCHASES} purchases from the reserve in {:?}", began.elapsed());
    let before = durable(&node);
    std::fs::remove_file(log.join("filler")).unwrap();
    let freed = Instant::now();
    while durable(&node) <= before + 5 {
        pause();
        assert!(freed.elapsed().as_secs() < 60, "the log does not resume");
    }
    println!("F4: routine entries taken {:?} after space was freed", freed.elapsed());
    let balance = node.balance();
    assert_eq!(balance, "50.0000000", "each purchase counts once");
    node.kill();
    node.restart();
    assert_eq!(node.balance(), balance, "and is there after a kill");
    println!("{}", node.stop_and_verify());
}
