//! The embedded engine as a client meets it: its doors, its refusals, its behaviour when clients
//! break off and when it is killed. Always against the real library.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use clickhouse::{Client, Row};
use serde::{Deserialize, Serialize};
use storage::engine::{EngineError, EngineState, Supervisor, locate_library};

use crate::support::{
    Embedded, READER, WRITER, engine_config, exchange, kill, parse, program, request, sql,
    supervisor_config,
};

/// A table `t` of two columns with three rows.
fn fill(address: SocketAddr) {
    for statement in [
        "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a",
        "INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z')",
    ] {
        let answer = sql(address, WRITER, statement);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{statement}");
    }
}

fn count(address: SocketAddr) -> String {
    sql(address, WRITER, "SELECT count() FROM t").body
}

/// What a reader may ask.
const PASS: &[&str] = &[
    "SELECT count() FROM t",
    "SHOW TABLES",
    "DESCRIBE TABLE t",
    "EXISTS TABLE t",
    "EXPLAIN SELECT 1",
    "WITH 1 AS x SELECT x",
    "SELECT name FROM system.columns WHERE table = 't'",
    "SELECT 'file (url)' -- file",
    "SELECT * FROM numbers(3)",
    "SELECT 1;",
];

/// What a reader is refused, with ClickHouse's code.
const REFUSED: &[(&str, u32)] = &[
    ("CREATE TABLE u (a UInt8) ENGINE = Memory", 164),
    ("CREATE TEMPORARY TABLE u (a UInt8)", 164),
    ("CREATE USER u", 164),
    ("CREATE FUNCTION f AS x -> x", 164),
    ("INSERT INTO t VALUES (4, 'w')", 164),
    ("INSERT INTO t FORMAT CSV\n4,w\n", 164),
    ("INSERT INTO FUNCTION file('x', 'CSV', 'a Int8') VALUES (1)", 164),
    ("DROP TABLE t", 164),
    ("TRUNCATE TABLE t", 164),
    ("ALTER TABLE t DELETE WHERE 1", 164),
    ("OPTIMIZE TABLE t", 164),
    ("KILL QUERY WHERE 1", 164),
    ("SYSTEM RELOAD CONFIG", 164),
    ("SET max_memory_usage = 0", 164),
    ("SET readonly = 0", 164),
    ("USE system", 164),
    ("BACKUP DATABASE default TO File('/tmp/b')", 164),
    ("SELECT 1; SELECT 2", 62),
    ("SELECT 1; DROP TABLE t", 62),
    ("SELEC 1", 62),
    ("", 62),
    ("exit", 62),
    ("SELECT 1; DROP TABLE t; x(", 62),
    ("graph = 1 SELECT 1", 62),
    ("SELECT 1 SETTINGS max_memory_usage = 0", 164),
    ("SELECT * FROM url('http://127.0.0.1:1/', 'CSV')", 164),
    ("DESCRIBE TABLE url('http://127.0.0.1:1/', 'CSV')", 164),
    ("DESCRIBE TABLE `url`('http://127.0.0.1:1/', 'CSV')", 164),
    ("SELECT * FROM s3('http://127.0.0.1:1/x', 'CSV')", 164),
    ("SELECT * FROM remote('127.0.0.1', default.t)", 164),
    ("SELECT * FROM executable('x', 'CSV', 'a String')", 164),
    ("SELECT * FROM cluster('c', default.t)", 164),
    ("SELECT * FROM eval('SELECT 1')", 164),
    ("SELECT * FROM system.stack_trace", 164),
    ("SELECT nothing FROM t", 47),
    ("SELECT * FROM nowhere", 60),
    ("SELECT nofunction(1)", 46),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_read_only_door_lets_nothing_else_through() {
    let engine = Embedded::start().await;
    let address = engine.address;
    fill(address);
    let folder = engine.folder.path();
    std::fs::write(folder.join("secret"), "hidden").unwrap();
    let secret = folder.join("secret");
    let secret = secret.display();
    let out = folder.join("out");
    let check = |statement: &str, want: u32| {
        let answer = sql(address, READER, statement);
        assert_eq!(answer.code(), want, "{statement}: {}", answer.body);
        assert!(!answer.body.contains("hidden"), "{statement} gave the file away");
        let refused = want != 0;
        assert_eq!(answer.status != 200, refused, "{statement}: {}", answer.status);
        assert_eq!(answer.body.contains(&format!("Code: {want}")), refused, "{statement}");
    };
    PASS.iter().for_each(|statement| check(statement, 0));
    REFUSED.iter().for_each(|&(statement, want)| check(statement, want));
    for statement in [
        format!("SELECT file('{secret}')"),
        format!("SELECT FILE('{secret}')"),
        format!("SELECT `file`('{secret}')"),
        format!("SELECT arrayMap(file, ['{secret}'])"),
        format!("SELECT arrayMap(x -> file(x), ['{secret}'])"),
        format!("SELECT * APPLY(file) FROM (SELECT '{secret}')"),
        format!("SELECT * FROM file('{secret}', 'LineAsString')"),
        format!("DESCRIBE TABLE file('{secret}', 'CSV')"),
        format!("SELECT * FROM eval('SELECT file(\\'{secret}\\')')"),
    ] {
        check(&statement, 164);
    }
    check(&format!("SELECT \"fi\\x6ce\"('{secret}')"), 62);
    let outfile = format!("SELECT * FROM t INTO OUTFILE '{}'", out.display());
    check(&outfile, 164);
    // Neither parses; asked for its error in the wrong way, a part of it would run.
    check(&format!("SELECT 1; {outfile}; x("), 164);
    check(&format!("graph = 1 {outfile}"), 164);
    check("graph = 1 SELECT 1 INTO /**/ OUTPUT 'x'", 62);
    // The library's default database shows files as tables.
    for statement in [
        format!("SELECT * FROM `{secret}`"),
        format!("SELECT * FROM default.`{secret}`"),
        format!("DESCRIBE TABLE default.`{secret}`"),
        format!("SELECT * FROM '{secret}'"),
    ] {
        let answer = sql(address, READER, &statement);
        assert_ne!(answer.status, 200, "{statement}: {}", answer.body);
        assert!(!answer.body.contains("hidden"), "{statement}");
    }
    let named = [("param_f", "file"), ("query", "SELECT arrayMap({f:Identifier}, ['/x'])")];
    assert_eq!(request(address, READER, "POST", &named, "", b"").code(), 164);
    assert!(!out.exists(), "INTO OUTFILE wrote a file");
    assert_eq!(count(address), "3\n", "a reader changed the table");
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_url_are_checked_and_bounded() {
    let engine = Embedded::start().await;
    let address = engine.address;
    let value = |user, name: &str, asked: &str| {
        let statement = format!("SELECT getSetting('{name}')");
        let answer = request(address, user, "POST", &[(name, asked)], "", statement.as_bytes());
        (answer.code(), answer.body.trim_end().to_owned())
    };
    let bound = "1073741824".to_owned();
    assert_eq!(value(READER, "max_memory_usage", "90000000000"), (0, bound.clone()));
    assert_eq!(value(READER, "max_memory_usage", "0"), (0, bound));
    assert_eq!(value(READER, "max_memory_usage", "1000000"), (0, "1000000".to_owned()));
    assert_eq!(value(WRITER, "max_threads", "3"), (0, "3".to_owned()));
    assert_eq!(value(READER, "max_threads", "many").0, 36);
    assert_eq!(value(READER, "no_such_setting", "1").0, 115);
    assert_eq!(value(READER, "dialect", "prql").0, 115);
    assert_eq!(value(WRITER, "cast_string_to_dynamic_use_inference", "1").0, 0);
    assert_eq!(value(WRITER, "async_insert", "1"), (0, "false".to_owned()));
    let too_long = request(
        address,
        READER,
        "POST",
        &[("max_execution_time", "1")],
        "",
        b"SELECT sum(sipHash64(toString(number))) FROM numbers(1900000000)",
    );
    assert_eq!((too_long.status, too_long.code()), (408, 159), "{}", too_long.body);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_arrive_in_every_form() {
    let engine = Embedded::start().await;
    let address = engine.address;
    fill(address);
    let get = |parameters: &[(&str, &str)]| request(address, READER, "GET", parameters, "", b"");
    assert_eq!(get(&[("query", "SELECT 1")]).body, "1\n");
    assert_eq!(
        get(&[("query", "SELECT 1"), ("default_format", "JSONCompactEachRow")]).body,
        "[1]\n"
    );
    let dropped = request(address, WRITER, "GET", &[("query", "DROP TABLE t")], "", b"");
    assert_eq!(dropped.code(), 164, "GET must not write");
    let post = |parameters: &[(&str, &str)], headers: &str, body: &[u8]| {
        request(address, WRITER, "POST", parameters, headers, body)
    };
    assert_eq!(post(&[("query", "SELECT 1,")], "", b"2").body, "1\t2\n");
    assert_eq!(post(&[("database", "system")], "", b"SELECT currentDatabase()").body, "system\n");
    assert_eq!(post(&[("database", "nowhere")], "", b"SELECT 1").code(), 81);
    assert_eq!(
        post(&[("param_x", "a\\tb'")], "", b"SELECT {x:String} FORMAT TSVRaw").body,
        "a\tb'\n"
    );
    let multipart = b"--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\n\
        SELECT sum(x) FROM (SELECT arrayJoin({l:Array(UInt8)}) AS x)\r\n--B\r\n\
        Content-Disposition: form-data; name=\"param_l\"\r\n\r\n[1,2,3]\r\n--B--\r\n";
    let kind = "Content-Type: multipart/form-data; boundary=B\r\n";
    assert_eq!(post(&[], kind, multipart).body, "6\n");
    assert_eq!(post(&[], kind, b"junk").code(), 36);
    assert_eq!(post(&[], "Content-Encoding: br\r\n", b"SELECT 1").code(), 36);
    let summary = post(&[("query", "INSERT INTO t FORMAT CSV")], "", b"4,\"w\"\n5,\"v\"\n");
    assert!(summary.head.contains("\"written_rows\":\"2\""), "{}", summary.head);
    assert_eq!(count(address), "5\n");
    let ping = exchange(TcpStream::connect(address).unwrap(), b"GET /ping HTTP/1.0\r\n\r\n");
    assert!(ping.ends_with("Ok.\n"), "{ping}");
    let lost = exchange(TcpStream::connect(address).unwrap(), b"GET /x HTTP/1.0\r\n\r\n");
    assert_eq!(parse(&lost).status, 404);
    for user in [("meterd", ""), ("meterd", "wrong"), ("nobody", "writer-password"), ("", "")] {
        let answer = sql(address, user, "SELECT 1");
        assert_eq!((answer.status, answer.code()), (401, 516), "{user:?}");
    }
    let large = vec![b' '; (1 << 20) + 1];
    assert_eq!(sql(address, READER, std::str::from_utf8(&large).unwrap()).code(), 229);
    engine.supervisor.stop().await;
}

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Pair {
    a: u64,
    b: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_works_with_its_default_settings() {
    let engine = Embedded::start().await;
    let client = Client::default()
        .with_url(format!("http://{}", engine.address))
        .with_user(WRITER.0)
        .with_password(WRITER.1);
    let create = "CREATE TABLE p (a UInt64, b String) ENGINE = MergeTree ORDER BY a";
    client.query(create).execute().await.unwrap();
    let rows: Vec<Pair> = (0..20_000).map(|a| Pair { a, b: format!("ü'\\\t{a}") }).collect();
    let mut insert = client.insert::<Pair>("p").await.unwrap();
    for row in &rows {
        insert.write(row).await.unwrap();
    }
    insert.end().await.unwrap();
    let back: Vec<Pair> =
        client.query("SELECT ?fields FROM p ORDER BY a").fetch_all().await.unwrap();
    assert_eq!(back, rows);
    let text = "quote ' tab \t back \\ ü";
    let bound: String = client.query("SELECT ?").bind(text).fetch_one().await.unwrap();
    assert_eq!(bound, text);
    let parameter: String =
        client.query("SELECT {x:String}").param("x", text).fetch_one().await.unwrap();
    assert_eq!(parameter, text);
    let error = client.query("SELECT nothing").fetch_one::<u8>().await.unwrap_err().to_string();
    assert!(error.contains("Code: 47"), "{error}");
    // An insert that is not ended leaves nothing.
    let mut insert = client.insert::<Pair>("p").await.unwrap();
    for row in &rows {
        insert.write(row).await.unwrap();
    }
    drop(insert);
    let count: u64 = client.query("SELECT count() FROM p").fetch_one().await.unwrap();
    assert_eq!(count, 20_000);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_short_leaves_nothing() {
    let engine = Embedded::start().await;
    let address = engine.address;
    fill(address);
    let (user, password) = WRITER;
    let head = |length: &str| {
        format!(
            "POST /?query=INSERT+INTO+t+FORMAT+CSV HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n{length}\r\n"
        )
    };
    let rows: String = (10..60_000).map(|a| format!("{a},\"row\"\n")).collect();
    let cut = |request: String| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        assert_ne!(parse(&answer).status, 200, "{answer}");
        assert_eq!(count(address), "3\n");
    };
    cut(format!("{}{rows}", head("Content-Length: 10000000\r\n")));
    cut(format!("{}{:x}\r\n{rows}\r\n", head("Transfer-Encoding: chunked\r\n"), rows.len()));
    cut(format!("{}{:x}\r\n{rows}", head("Transfer-Encoding: chunked\r\n"), rows.len() * 2));
    let insert = |parameters: &[(&str, &str)], headers: &str, body: &[u8]| {
        let mut all = vec![("query", "INSERT INTO t FORMAT RowBinary")];
        all.extend_from_slice(parameters);
        let answer = request(address, WRITER, "POST", &all, headers, body);
        assert_ne!(answer.status, 200, "{}", answer.body);
        assert_eq!(count(address), "3\n", "{}", answer.body);
        answer.code()
    };
    // Half a row; a frame that is none; an LZ4 stream that is none.
    assert_eq!(insert(&[], "", &[1, 0, 0, 0, 0, 0, 0, 0, 5, b'x']), 33);
    assert_eq!(insert(&[("decompress", "1")], "", &[7; 100]), 271);
    assert_eq!(insert(&[("decompress", "1")], "", &[7; 10]), 33);
    insert(&[], "Content-Encoding: lz4\r\n", &[7; 100]);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_error_is_never_taken_for_a_result() {
    let engine = Embedded::start().await;
    let address = engine.address;
    let late = b"SELECT number, throwIf(number = 2000000) FROM numbers(3000000) FORMAT JSONEachRow";
    let whole = request(address, READER, "POST", &[("wait_end_of_query", "1")], "", late);
    assert_eq!((whole.status, whole.code()), (500, 395));
    let early = request(address, READER, "POST", &[], "", late);
    assert_eq!(early.status, 200, "rows flow before the error");
    assert!(!early.body.ends_with("0\r\n\r\n"), "the reply must end abnormally");
    let client = Client::default()
        .with_url(format!("http://{address}"))
        .with_user(READER.0)
        .with_password(READER.1);
    let sql = "SELECT number, toString(throwIf(number = 2000000)) FROM numbers(3000000)";
    client.query(sql).fetch_all::<Pair>().await.unwrap_err();
    let whole = "SELECT number, 'x' FROM numbers(1000000)";
    let rows = client.with_validation(false).query(whole).fetch_all::<Pair>().await.unwrap();
    assert_eq!((rows.len(), rows[999_999].a), (1_000_000, 999_999));
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statement_of_a_client_that_left_is_killed() {
    let engine = Embedded::start().await;
    let address = engine.address;
    let (user, password) = WRITER;
    let body = "SELECT count() FROM numbers(1000000000000) WHERE number % 7 = 3";
    let running = || {
        let ask = "SELECT count() FROM system.processes WHERE query LIKE '%% 7 = 3'";
        sql(address, WRITER, ask).body
    };
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    while running() != "1\n" {}
    drop(stream);
    while running() != "0\n" {}
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_comes_back_on_its_port_with_its_data() {
    let engine = Embedded::start().await;
    let address = engine.address;
    fill(address);
    let mut state = engine.supervisor.state();
    for _ in 0..3 {
        let pid = engine.pid().unwrap();
        kill(pid);
        let back = state
            .wait_for(|state| matches!(state, EngineState::Ready { pid: new, .. } if *new != pid));
        assert!(
            matches!(*back.await.unwrap(), EngineState::Ready { address: a, .. } if a == address)
        );
        assert_eq!(count(address), "3\n");
    }
    engine.supervisor.stop().await;
    TcpStream::connect(address).unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused_and_the_holder_unharmed() {
    let engine = Embedded::start().await;
    let second = Supervisor::start(supervisor_config(&engine.folder.path().join("data")));
    let error = second.ready().await.unwrap_err().to_string();
    assert!(error.contains("exit status: 4"), "{error}");
    assert!(error.contains("another process holds it"), "{error}");
    second.stop().await;
    assert_eq!(sql(engine.address, READER, "SELECT 1").body, "1\n");
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_running_insert_end() {
    let engine = Embedded::start().await;
    let address = engine.address;
    fill(address);
    let folder = engine.folder.path().join("data");
    let (user, password) = WRITER;
    let mut stream = TcpStream::connect(address).unwrap();
    let rows: String = (10..50_010).map(|a| format!("{a},\"row\"\n")).collect();
    let head = format!(
        "POST /?query=INSERT+INTO+t+FORMAT+CSV HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: {user}\r\n\
         X-ClickHouse-Key: {password}\r\nContent-Length: {}\r\n\r\n",
        rows.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let (first, rest) = rows.as_bytes().split_at(rows.len() / 2);
    stream.write_all(first).unwrap();
    // The insert runs once it shows among the processes.
    while sql(address, WRITER, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'")
        .body
        == "0\n"
    {}
    let Embedded { supervisor, folder: keep, .. } = engine;
    let stopping = tokio::spawn(supervisor.stop());
    // The port closes at once, the insert goes on.
    while TcpStream::connect(address).is_ok() {}
    stream.write_all(rest).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stopping.await.unwrap();
    let again = Supervisor::start(supervisor_config(&folder));
    assert_eq!(count(again.ready().await.unwrap()), "50003\n");
    again.stop().await;
    drop(keep);
}

#[test]
fn the_child_ends_with_its_stdin_and_tells_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let run = |line: &str| {
        let mut child = Command::new(program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let config = engine_config(&folder.path().join("data"));
    let line = |config: &_| format!("{}\n", serde_json::to_string(config).unwrap());
    assert_eq!(run(&line(&config)).0, Some(0), "stdin ended, the parent is gone");
    let check = |text: String, code: i32, words: &str| {
        let (status, said) = run(&text);
        assert_eq!(status, Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    };
    check("junk\n".into(), 1, "no configuration");
    let mut weak = config.clone();
    weak.reader.password = "short".into();
    check(line(&weak), 1, "at least 8 characters");
    let mut absent = config.clone();
    absent.library = folder.path().join("none.so");
    check(line(&absent), 3, "cannot load");
    let mut taken = config;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    taken.listen = listener.local_addr().unwrap();
    check(line(&taken), 5, "cannot listen");
}

#[test]
fn a_missing_library_is_named_with_the_way_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.so");
    let error = locate_library(Some(&absent), folder.path()).unwrap_err();
    assert!(matches!(error, EngineError::LibraryMissing { .. }));
    let said = error.to_string();
    for part in
        ["absent.so", "deploy/fetch-libchdb.sh", "26.7.3-stable.1", "sha512-", "METERD_CHDB_LIB"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}
