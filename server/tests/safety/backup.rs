//! A backup is taken while the week goes on, once in the middle and once more into the same folder;
//! what is restored from it has the books of its own log, and broken backups are refused.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::place::{Demo, meterd, pause, said};

fn backup(demo: &Path, to: &Path) -> String {
    let config = demo.join("demo.toml");
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

fn copy(from: &Path, to: &Path) {
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
    let mut demo = Demo::start(&at("demo"), &["--seconds", "30", "--seed", "51"]);
    demo.wait_ready();
    let to = at("backup");
    // As soon as there is something to copy, and again while the week goes on.
    while !at("demo")
        .join("data/snapshots")
        .read_dir()
        .is_ok_and(|mut files| files.next().is_some())
    {
        assert!(!demo.has_ended(), "the demonstration ended early");
        pause();
    }
    println!("{}{}", backup(&at("demo"), &to), backup(&at("demo"), &to));
    let output = restore(&to, &at("early"));
    println!("{}", said(&output));
    assert!(output.status.success(), "{}", said(&output));
    demo.finish();
    println!("{}", backup(&at("demo"), &to));
    let output = restore(&to, &at("late"));
    assert!(output.status.success(), "{}", said(&output));

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
