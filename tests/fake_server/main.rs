//! The fake API server itself, driven with a plain HTTP/2 client: what other tests show rests on it.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../fake/mod.rs"]
mod fake;

mod client;
mod connections;
mod faults;
mod reads;
mod watches;

use ckpt_db::checkpoint::object::Kind;
use fake::{Options, Server};
use serde_json::{Value, json};

/// A server at which everyone who is recognised may read everything.
fn open_server() -> Server {
    Server::start(Options { node_authorizer: false, ..Options::default() })
}

fn pod(node: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

fn secret(value: &str) -> Value {
    json!({"data": {"password": data_encoding::BASE64.encode(value.as_bytes())}, "type": "Opaque"})
}

fn configmap(value: &str) -> Value {
    json!({"data": {"key": value}})
}

/// Pods `a/p1`, `a/p2` (of another node), `b/p1`, and the ConfigMap `a/c1`.
fn filled_server() -> Server {
    let server = open_server();
    server.create(Kind::Pod, "a", "p1", pod("node-1"));
    server.create(Kind::Pod, "a", "p2", pod("node-2"));
    server.create(Kind::Pod, "b", "p1", pod("node-1"));
    server.create(Kind::ConfigMap, "a", "c1", configmap("v"));
    server
}

/// The resourceVersion of an empty server.
const BASE: u64 = 1_000;
