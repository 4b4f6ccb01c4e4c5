//! Bounds: slow clients, large bodies, many connections, long lists, and a stop.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::TestNode;
use crate::client::{Call, read_reply};

/// Long enough for any answer, short enough for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let node = TestNode::start_with(|config| config.header_s_max = 1).await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost: te"] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "the connection stays open after {begun:?}");
    }
    assert_eq!(node.send(Call::new("GET", "/healthz")).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_the_request() {
    let node = TestNode::start_with(|config| config.request_s_max = 1).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let head = format!(
        "POST /v1/customers HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{\"code\"",
        node.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let reply = tokio::time::timeout(PATIENCE, read_reply(&mut stream)).await.unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (503, "timeout"));
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let node = TestNode::start_with(|config| {
        config.body_size_max = 1000;
        config.import_size_max = 2000;
        config.import_rows_max = 2;
    })
    .await;
    let name = "x".repeat(2000);
    let body = format!(r#"{{"code":"C1","name":"{name}"}}"#);
    let reply = node.call("POST", "/v1/customers", &body).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
    let import = async |body: &str| {
        let call = Call::new("POST", "/v1/imports/meters").token(&node.admin);
        node.send(call.typed("text/csv", body)).await
    };
    let reply = import(&format!("serial,model\n{}", "a,b\n".repeat(1000))).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
    let reply = import("serial,model\na,b\nc,d\ne,f\n").await;
    assert_eq!(reply.code(), "import_too_many_rows");
    let long = format!("/v1/meters?serial={}", "x".repeat(100_000));
    let reply = node.call("GET", &long, "").await;
    assert!(matches!(reply.status, 0 | 414 | 431), "{}", reply.status);
    assert_eq!(node.send(Call::new("GET", "/healthz")).await.status, 200);
}

#[tokio::test]
async fn json_of_any_depth_is_refused_without_harm() {
    let node = TestNode::start().await;
    let deep = "[".repeat(100_000);
    let reply = node.call("POST", "/v1/customers", &deep).await;
    assert!(matches!(reply.code().as_str(), "bad_json" | "invalid_field"), "{reply:?}");
    let call = Call::new("POST", "/v1/imports/meters").token(&node.admin);
    let reply = node.send(call.json(&deep)).await;
    assert_eq!(reply.code(), "import_refused");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let node = TestNode::start_with(|config| {
        config.connections_max = 2;
        config.header_s_max = 1;
    })
    .await;
    let _first = TcpStream::connect(node.address).await.unwrap();
    let _second = TcpStream::connect(node.address).await.unwrap();
    // Served as soon as the idle ones have had their time.
    let reply = tokio::time::timeout(PATIENCE, node.send(Call::new("GET", "/healthz"))).await;
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test]
async fn pages_hold_every_item_once() {
    let node = TestNode::start().await;
    for number in 1..=25 {
        node.registry.add_transformer(&format!("T{number}"), "").await.unwrap();
    }
    let (mut ids, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/v1/transformers?limit=10{after}");
        let page = node.call("GET", &path, "").await.json();
        ids.extend(
            page["items"].as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()),
        );
        pages += 1;
        // One that comes while the list is walked is seen at its place, none twice.
        node.registry.add_transformer(&format!("N{pages}"), "").await.unwrap();
        match page["next"].as_str() {
            Some(key) => after = format!("&after={key}"),
            None => break,
        }
    }
    assert_eq!(ids, (1..=27).collect::<Vec<u64>>());
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn answers_carry_headers_that_keep_browsers_out() {
    let node = TestNode::start().await;
    let call = Call::new("GET", "/v1/meters").token(&node.admin).header("Origin", "http://evil");
    let reply = node.send(call).await;
    assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(reply.header("X-Frame-Options"), Some("DENY"));
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    assert!(reply.header("Content-Security-Policy").unwrap().contains("default-src 'none'"));
    assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
    let preflight = Call::new("OPTIONS", "/v1/meters").header("Origin", "http://evil");
    let reply = node.send(preflight).await;
    assert_eq!((reply.status, reply.header("Access-Control-Allow-Origin")), (405, None));
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_the_server() {
    let node = TestNode::start().await;
    let mut idle = TcpStream::connect(node.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    node.stop.send_replace(true);
    tokio::time::timeout(PATIENCE, node.server).await.unwrap().unwrap();
    assert!(TcpStream::connect(node.address).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let node = TestNode::start().await;
    let port = node.address;
    let again =
        std::panic::AssertUnwindSafe(TestNode::start_with(move |config| config.listen = port));
    let failed = tokio::spawn(again.0).await;
    let panic = failed.err().unwrap().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("cannot listen") || text.contains("Listen"), "{text}");
}
