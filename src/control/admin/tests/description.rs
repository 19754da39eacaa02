//! The OpenAPI document against the router, and diagnostics.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use super::*;

impl Stage {
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: arus\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

#[test]
fn what_is_described_is_served_and_nothing_is_served_that_is_not_described() {
    let stage = Stage::answering();
    for (method, path, _) in door::everything() {
        let mut stream = UnixStream::connect(&stage.socket).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: arus\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(!text.contains("no such endpoint") && !text.starts_with("HTTP/1.1 405"), "{method} {path}: {text}");
    }
    // `routes!` takes the path from the description; axum's own call would not. The dashboard's files are no part of the API.
    let mut looked_at = 0;
    let mut directories = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/admin"))];
    while let Some(directory) = directories.pop() {
        for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("dashboard.rs") {
                looked_at += 1;
                let needle = concat!(".rou", "te(");
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains(needle), "{}: use `.routes(routes!(..))`", path.display());
            }
        }
    }
    assert!(looked_at > 20);
}

#[test]
fn the_document_is_whole() {
    let (code, document) = Stage::answering().call("GET", "/openapi.json");
    assert_eq!(code, 200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut references = BTreeSet::new();
    gather(&document, &mut references);
    assert!(references.len() > 10);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let described = operation["summary"].is_string() || operation["description"].is_string();
            assert!(described && operation["tags"].is_array(), "{method} {path} says nothing of itself");
        }
    }
}

#[test]
fn every_endpoint_is_in_the_documentation() {
    let operations = include_str!("../../../../docs/OPERATIONS.md");
    let (_, document) = endpoints().split_for_parts();
    for path in document.paths.paths.keys() {
        let fixed = path.split('{').next().unwrap();
        assert!(
            operations.contains(&format!("`GET {fixed}")) || operations.contains(&format!(" {fixed}")),
            "{path} is not in docs/OPERATIONS.md"
        );
    }
}

fn gather(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(table) => {
            references.extend(table.get("$ref").and_then(Value::as_str).map(Into::into));
            table.values().for_each(|value| gather(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, references)),
        _ => {}
    }
}

#[test]
fn connections_are_tried_from_here() {
    let stage = Stage::answering();
    let try_it = |body: Value| stage.post("/api/v1/diagnostics/connect", &body);
    let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = backend.local_addr().unwrap().port();
    let (code, outcome) = try_it(json!({ "address": "127.0.0.1", "port": port }));
    assert_eq!((code, &outcome["success"], &outcome["error"]), (200, &json!(true), &Value::Null), "{outcome}");
    assert!(outcome["latency_ms"].as_f64().unwrap() > 0.0);
    let (_, outcome) = try_it(json!({ "address": "localhost", "port": port, "timeout_ms": 20000 }));
    assert_eq!(outcome["success"], true, "{outcome}");
    drop(backend);
    let (code, outcome) = try_it(json!({ "address": "127.0.0.1", "port": port }));
    assert_eq!((code, &outcome["success"]), (200, &json!(false)));
    assert!(outcome["error"].as_str().unwrap().contains("refused"), "{outcome}");
    let (code, outcome) = try_it(json!({ "upstream": "pool", "timeout_ms": 5000 }));
    assert_eq!((code, &outcome["success"]), (200, &json!(false)), "no name `db` here: {outcome}");
    assert_eq!(try_it(json!({ "upstream": "none" })).0, 404);
    for bad in [
        json!({}),
        json!({ "address": "127.0.0.1" }),
        json!({ "address": "127.0.0.1", "port": 0 }),
        json!({ "address": "", "port": 1 }),
        json!({ "address": "127.0.0.1", "port": 1, "timeout_ms": 0 }),
        json!({ "address": "127.0.0.1", "port": 1, "timeout_ms": 1_000_000 }),
        json!({ "address": "127.0.0.1", "port": 70_000 }),
        json!({ "upstream": "pool", "port": 1 }),
    ] {
        assert_eq!(try_it(bad.clone()).0, 400, "{bad}");
    }
}
