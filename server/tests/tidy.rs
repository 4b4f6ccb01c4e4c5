//! The habits of the project that a compiler does not check: who may import whom, how long a
//! file may be, which words do not belong.

use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates may import which. A new edge is an architecture change: write an ADR.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("meter", &[]),
    ("sts", &["meter"]),
    ("dataflow", &["meter"]),
    ("storage", &["meter"]),
    ("ingest", &["meter"]),
    ("api", &["meter", "sts", "storage"]),
    ("loadgen", &["meter", "sts"]),
    ("server", &["meter", "sts", "dataflow", "storage", "ingest", "api", "loadgen"]),
    ("benches", &["meter", "sts", "dataflow", "storage", "ingest", "api", "loadgen", "server"]),
];

/// Crates that do no I/O, read no clock and spawn nothing (timely's workers aside).
const PURE: &[&str] = &["meter", "sts", "dataflow"];

const FILE_LINES_MAX: usize = 800;
const ARCHITECTURE_LINES_MAX: usize = 300;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate has a parent").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for path in entries.map(|entry| entry.expect("a folder lists its files").path()) {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files_of(package: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    rust_files(&root().join(package), &mut found);
    assert!(!found.is_empty(), "{package} has no source");
    found
}

/// The part of a source file before its tests.
fn without_tests(source: &str) -> &str {
    source.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(source)
}

#[test]
fn imports_follow_the_table() {
    let ours: Vec<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in MAY_IMPORT {
        let manifest: toml::Table = toml::from_str(&read(&root().join(name).join("Cargo.toml")))
            .expect("a manifest is TOML");
        let imports = manifest.get("dependencies").and_then(toml::Value::as_table);
        for import in imports.into_iter().flat_map(toml::Table::keys) {
            let is_ours = ours.contains(&import.as_str());
            assert!(
                !is_ours || allowed.contains(&import.as_str()),
                "{name} imports {import}: not in the table; a new edge needs an ADR"
            );
        }
    }
}

#[test]
fn every_member_is_in_the_table() {
    let manifest: toml::Table = toml::from_str(&read(&root().join("Cargo.toml"))).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let mut members: Vec<&str> = members.iter().map(|member| member.as_str().unwrap()).collect();
    let mut named: Vec<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    members.sort_unstable();
    named.sort_unstable();
    assert_eq!(members, named);
}

#[test]
fn files_are_short() {
    for (package, _) in MAY_IMPORT {
        for path in files_of(package) {
            let source = read(&path);
            let lines = without_tests(&source).lines().count();
            assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines without tests", path.display());
        }
    }
    let architecture = read(&root().join("ARCHITECTURE.md")).lines().count();
    assert!(architecture <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md: {architecture} lines");
}

#[test]
fn pure_crates_are_pure() {
    const BANNED: &[&str] = &[
        "std::net",
        "std::fs",
        "std::thread",
        "std::time::SystemTime",
        "std::time::Instant",
        "tokio::",
    ];
    for package in PURE {
        for path in
            files_of(package).into_iter().filter(|path| !path.to_string_lossy().contains("/tests/"))
        {
            let source = read(&path);
            // The engine owns timely's worker threads; it is the one named exception.
            if path.ends_with("dataflow/src/engine.rs") {
                continue;
            }
            for word in BANNED {
                let found = without_tests(&source)
                    .lines()
                    .find(|line| line.contains(word) && !line.trim_start().starts_with("//"));
                assert!(
                    found.is_none(),
                    "{}: {word}: {}",
                    path.display(),
                    found.unwrap_or_default()
                );
            }
        }
    }
}

#[test]
fn modules_begin_with_their_doc() {
    for (package, _) in MAY_IMPORT {
        for path in files_of(package) {
            let source = read(&path);
            assert!(source.starts_with("//!"), "{}: no module doc on line 1", path.display());
        }
    }
}

#[test]
fn no_grab_bags_and_no_left_overs() {
    const NAMES: &[&str] = &["utils", "util", "common", "helpers", "types", "prelude", "misc"];
    const WORDS: &[&str] = &["#[ignore", "todo!(", "unimplemented!(", "FIXME", "#[should_panic"];
    for (package, _) in MAY_IMPORT {
        for path in files_of(package) {
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(!NAMES.contains(&stem.as_str()), "{}: name the noun", path.display());
            if path.ends_with("tidy.rs") {
                continue;
            }
            let source = read(&path);
            for word in WORDS {
                assert!(!source.contains(word), "{}: {word}", path.display());
            }
        }
    }
}
