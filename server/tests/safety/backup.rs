//! A backup is taken while purchases go on, and once more into the same folder; what is restored from
//! it has the books of its own log, and broken backups are refused.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::place::{Serve, meterd, said};

fn backup(config: &Path, to: &Path) -> String {
    let output = meterd()
        .args(["backup".as_ref(), "--config".as_ref(), config.as_os_str()])
        .args(["--to".as_ref(), to.as_os_str(), "--with-master-key".as_ref()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn restore(from: &Path, data_dir: &Path) -> Output {
    meterd()
        .args(["restore".as_ref(), "--from".as_ref(), from.as_os_str()])
        .args(["--data-dir".as_ref(), data_dir.as_os_str(), "--verify".as_ref()])
        .output()
        .unwrap()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_backup_of_a_running_node_restores_and_a_broken_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let node = Serve::start(folder.path(), "");
    node.register();
    let to = at("backup");
    let buy = |round: usize| {
        let keys: Vec<String> = (0..40).map(|n| format!("backup-{round}-{n}")).collect();
        assert!(node.top_ups(&keys, "1.00").iter().all(Result::is_ok));
    };
    buy(0);
    std::thread::scope(|scope| {
        let buying = scope.spawn(|| (1..6).for_each(buy));
        println!("{}{}", backup(node.settings(), &to), backup(node.settings(), &to));
        buying.join().unwrap();
    });
    let output = restore(&to, &at("early"));
    println!("{}", said(&output));
    assert!(output.status.success(), "{}", said(&output));
    println!("{}", backup(node.settings(), &to));
    let output = restore(&to, &at("late"));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("240 purchases"), "{}", said(&output));
    println!("{}", node.stop_and_verify());

    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 6] = [
        ("no whole backup", |at| fs::remove_file(at.join("manifest.json")).unwrap()),
        ("is damaged", |at| fs::write(at.join("manifest.json"), "{\"format\":").unwrap()),
        ("use the newer program", |at| {
            fs::write(at.join("manifest.json"), "{\"format\":99}").unwrap();
        }),
        ("not as the backup was made", |at| {
            let path = at.join("log/seg-00000000000000000001.log");
            let mut bytes = fs::read(&path).unwrap();
            bytes[5000] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("does not read", |at| {
            fs::remove_file(at.join("log/seg-00000000000000000001.log")).unwrap();
        }),
        ("not as the backup was made", |at| fs::write(at.join("registry.sqlite"), "x").unwrap()),
    ];
    for (index, (words, spoil)) in spoils.into_iter().enumerate() {
        let broken = at(&format!("broken-{index}"));
        copy(&to, &broken);
        spoil(&broken);
        let data_dir = at(&format!("never-{index}"));
        let output = restore(&broken, &data_dir);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{words:?} is missing in: {}", said(&output));
        assert!(!data_dir.exists(), "nothing is written");
    }
    let output = restore(&to, &at("late"));
    assert!(said(&output).contains("is not empty"), "{}", said(&output));
}
