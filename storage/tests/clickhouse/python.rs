//! The newest clickhouse-connect against each engine; `deploy/test-tools.sh` installs it.

use std::path::Path;
use std::process::Command;

use storage::clickhouse::Sink;

use crate::store::{collect, send};
use crate::support::{READER, Server};

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_connect_reads_every_engine() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../.meterd/python/bin/python");
    if !python.is_file() {
        println!("NOT RUN: no {}; deploy/test-tools.sh makes it", python.display());
        return;
    }
    for server in Server::all().await {
        let sink = Sink::open(server.fresh("python").await).await.unwrap();
        send(&sink, &collect(100_000)).await;
        let address = server.config("python").url;
        let (host, port) = address.trim_start_matches("http://").split_once(':').unwrap();
        let output = Command::new(&python)
            .arg(here.join("tests/clickhouse/connect.py"))
            .args([host, port, READER.0, READER.1, "python"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        println!("{}\n{said}", server.name());
        if matches!(server, Server::Old(_)) {
            // Its first statement asks for a column that 18.16 does not have.
            assert!(complained.contains("Unknown identifier: readonly"), "{said}{complained}");
            println!("the newest clickhouse-connect does not speak to 18.16");
            continue;
        }
        assert!(output.status.success(), "{}:\n{said}{complained}", server.name());
        server.stop().await;
    }
}
