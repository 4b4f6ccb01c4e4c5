//! The OpenAPI document and the pages that show it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::TestNode;
use crate::client::Call;

/// Every method and path template of the document, which is every route of the router: routes
/// come into both by the same call.
pub(crate) fn routes_of_document() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&api::openapi_json()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        let methods = item.as_object().unwrap().keys();
        methods.map(|method| (method.to_uppercase(), path.clone())).collect()
    };
    paths.iter().flat_map(methods).collect()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                found.insert(reference.clone());
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_whole() {
    let node = TestNode::start().await;
    let reply = node.send(Call::new("GET", "/openapi.json")).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, api::openapi_json().as_str()));
    let document = reply.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Problem"), "problems are described");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            assert!(
                operation["summary"].is_string() || operation["description"].is_string(),
                "{place}"
            );
            assert!(operation["responses"]["default"].is_object(), "{place}");
            assert!(ids.insert(operation["operationId"].to_string()), "{place}: id used twice");
            let is_guarded = operation["x-roles"].is_array() && operation["security"].is_array();
            assert_eq!(is_guarded, path.starts_with("/v1/"), "{place}");
            let names: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let wanted: BTreeSet<&str> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            assert_eq!(names, wanted, "{place}");
        }
    }
}

#[tokio::test]
async fn the_swagger_ui_loads_from_the_node_itself() {
    let node = TestNode::start().await;
    let get = async |path: &str| node.send(Call::new("GET", path)).await;
    assert_eq!(get("/docs").await.header("Location"), Some("/docs/"));
    let page = get("/docs/").await;
    assert!(page.body.contains("swagger-ui"), "{page:?}");
    assert!(page.header("Content-Type").unwrap().starts_with("text/html"));
    assert!(!page.body.contains("//cdn") && !page.body.contains("https://"), "{}", page.body);
    assert!(get("/docs/swagger-initializer.js").await.body.contains("/openapi.json"));
    let script = get("/docs/swagger-ui-bundle.js").await;
    assert!(script.status == 200 && script.body.len() > 100_000);
    assert_eq!(get("/docs/nothing.js").await.code(), "not_found");
}

#[test]
fn the_page_on_the_api_names_every_column_and_role() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let text = std::fs::read_to_string(path).unwrap();
    for column in storage::registry::IMPORT_COLUMNS {
        let row = format!("| `{}` | {} | {} |", column.name, column.needed, column.meaning);
        assert!(text.contains(&row), "docs/api.md lacks {row}");
    }
    for role in storage::registry::ApiRole::ALL {
        assert!(text.contains(&format!("| `{}` |", role.name())), "{role:?}");
    }
}
