//! What goes wrong on ClickHouse's side: each is said clearly, and the writer keeps its place.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use meter::{Energy, MeterId, Outcome, Reading, Seq, UnixSeconds};
use storage::clickhouse::{Batch, ClickhouseConfig, ClickhouseError, Collector, Sink, Table};
use storage::engine::EngineLimits;
use tokio::sync::watch;

use crate::support::{Embedded, OldServer, READER, Server, client, sql};

/// 2026-05-01.
const START: u32 = 1_777_593_600;

/// A batch of readings with keys of its own; their registers do not compress.
fn batch(number: u32, rows: u32) -> Batch {
    let mut collector = Collector::new(1_000_000);
    for row in 0..rows {
        let noise = u64::from(row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let reading = Reading {
            meter: MeterId(row + 1),
            taken_at: UnixSeconds(START + number * 900),
            register: Energy::from_wh(noise),
            rates: [noise, !noise, noise << 1, !noise << 1].map(Energy::from_wh),
            ..Reading::default()
        };
        let seq = Seq(u64::from(number) * 1_000_000 + u64::from(row) + 1);
        collector.reading(seq, &reading, Outcome::Accepted);
    }
    collector.seal().remove(0)
}

/// Answers every request with this status and body.
fn impostor(status: &str, body: Vec<u8>) -> ClickhouseConfig {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            assert!(read > 0, "a request came");
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    Server::Given(url).config("x")
}

/// A version as `RowBinary` has it.
fn version(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_too_old_or_none_are_said() {
    for old in ["1.1.54310", "17.4.2", "18.14.19"] {
        let error = Sink::open(impostor("200 OK", version(old))).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::TooOld { .. }), "{old}: {error}");
        assert!(error.to_string().contains("18.16 or newer"), "{error}");
    }
    // A version of the future is taken at its word.
    let sink = Sink::connect(impostor("200 OK", version("99.12.1"))).await.unwrap();
    assert_eq!(sink.version().to_string(), "99.12");
    for (status, body) in [
        ("200 OK", version("not a version")),
        ("404 Not Found", b"<html>nginx</html>".to_vec()),
        ("502 Bad Gateway", Vec::new()),
        ("200 OK", Vec::new()),
    ] {
        let error = Sink::open(impostor(status, body)).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::NotClickhouse { .. }), "{status}: {error:?}");
        assert!(error.to_string().contains("does not answer as ClickHouse does"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_said() {
    for server in Server::all().await {
        let mut config = server.fresh("rights").await;
        if matches!(server, Server::Given(_)) {
            continue;
        }
        (config.user, config.password) = (READER.0.to_owned(), READER.1.to_owned());
        let error = Sink::open(config).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::Refused { .. }), "{}: {error}", server.name());
        assert!(error.to_string().contains("grants"), "{error}");
        assert!(!error.is_transient());
        server.stop().await;
    }
}

/// Sends while a fault lasts, lifts it after some tries, and waits for the end.
async fn send_through(sink: &Sink, batch: &Batch, lift: impl AsyncFnOnce()) -> String {
    let (_keep, mut stop) = watch::channel(false);
    let mut status = sink.status();
    let before = status.borrow().retries;
    let sending = sink.send(batch, &mut stop);
    let lifting = async {
        let met = status.wait_for(|status| status.retries >= before + 2).await.unwrap().clone();
        lift().await;
        met.error.unwrap()
    };
    let (sent, error) = tokio::join!(sending, lifting);
    sent.unwrap();
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_parts_pass_when_merges_catch_up() {
    let server = Server::Embedded(Embedded::start().await);
    let config = server.fresh("parts").await;
    let sink = Sink::open(config.clone()).await.unwrap();
    let run = async |sql: &str| client(&config).query(sql).execute().await.unwrap();
    run("SYSTEM STOP MERGES parts.readings").await;
    run("ALTER TABLE parts.readings MODIFY SETTING parts_to_throw_insert = 3, parts_to_delay_insert = 3").await;
    let (_keep, mut stop) = watch::channel(false);
    for number in 0..3 {
        sink.send(&batch(number, 10), &mut stop).await.unwrap();
    }
    let lift = async || {
        run("ALTER TABLE parts.readings MODIFY SETTING parts_to_throw_insert = 300, parts_to_delay_insert = 300").await
    };
    let error = send_through(&sink, &batch(3, 10), lift).await;
    assert!(error.contains("252"), "{error}");
    assert_eq!(sink.history().count(Table::Readings).await.unwrap(), 40);
    assert_eq!(sink.status().borrow().error, None, "the failure is past");
    server.stop().await;
}

/// A file system of 64 MiB, for as long as it is held.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a line that says so, where one may not mount.
    #[expect(clippy::print_stdout, reason = "what is not run must be seen")]
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        println!("NOT RUN: a full disk; only root may mount a small one");
        None
    }

    /// Takes what space there is but for some 500 kB.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.path().join("ballast");
        let mut file = File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        file.set_len(file.metadata().unwrap().len() - 500_000).unwrap();
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that was just killed may hold it for a moment.
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_passes_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let place = disk.0.path();
    let embedded = Server::Embedded(Embedded::start_in(place, EngineLimits::SMALL).await);
    let servers = [Some(embedded), OldServer::start_in(place).map(Server::Old)];
    for server in servers.into_iter().flatten() {
        let name = server.name();
        let sink = Sink::open(server.fresh("space").await).await.unwrap();
        let (_keep, mut stop) = watch::channel(false);
        sink.send(&batch(0, 100), &mut stop).await.unwrap();
        let ballast = disk.fill();
        let lift = async || std::fs::remove_file(&ballast).unwrap();
        let error = send_through(&sink, &batch(1, 50_000), lift).await;
        println!("{name}: {error}");
        assert!(error.contains("No space left") || error.contains("243"), "{name}: {error}");
        assert_eq!(sink.history().count(Table::Readings).await.unwrap(), 50_100, "{name}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_would_read_everything_is_cut_off() {
    let limits = EngineLimits {
        reader_rows_max: 1_000_000,
        reader_memory_bytes_max: 160 << 20,
        reader_result_bytes_max: 1 << 20,
        reader_duration_s_max: 2,
        ..EngineLimits::SMALL
    };
    let engine = Embedded::start_with(limits).await;
    let check = |statement: &str, want: u32, words: &str| {
        let answer = sql(engine.address, READER, statement);
        assert_eq!(answer.code(), want, "{statement}: {}", answer.body);
        assert!(answer.body.contains(words), "{statement}: {}", answer.body);
    };
    check("SELECT count() FROM numbers(1000000000) WHERE number % 7 = 3", 158, "Limit for rows");
    check(
        "SELECT length(groupArray(repeat('x', 1000) || toString(number))) FROM numbers(900000)",
        241,
        "emory limit",
    );
    check(
        "SELECT repeat('x', 100) || toString(number) FROM numbers(100000) FORMAT TSVRaw",
        396,
        "Limit for result",
    );
    check(
        "SELECT sleepEachRow(0.5) FROM numbers(10) SETTINGS max_rows_to_read = 0",
        164,
        "readonly",
    );
    check("SELECT sum(sleepEachRow(0.9)) FROM numbers(3)", 159, "Timeout");
    // The door still answers.
    check("SELECT 1", 0, "1");
    engine.supervisor.stop().await;
}
