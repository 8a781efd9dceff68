//! What a client sends to the admin socket, over the socket: at most one request is carried out, and that as it is written.
//!
//! The agent behind the socket only says what it was asked for. The octets are read here a second time, as JSON of any
//! form, and what was asked for has to be in them.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::ops::admin::{Admin, Image, KeyChange, KeysChanged, Listening};
use ckpt_db::ops::status::{API_VERSION, CheckpointerStatus};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::image::scratch;

/// What an image consists of here.
const IMAGE: &[u8] = b"octets\nof an image";

/// A string that is shorter is found in any message.
const TELLING_LEN: usize = 8;

struct Scene {
    runtime: Runtime,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

/// The target's body.
pub fn run(octets: &[u8]) {
    let answer = SCENE.with_borrow_mut(|scene| scene.get_or_insert_with(Scene::new).ask(octets));
    let end = answer.iter().position(|octet| *octet == b'\n').expect("an answer is a line");
    let (line, rest) = (&answer[..end], &answer[end + 1..]);
    let answer: Value = serde_json::from_slice(line).expect("an answer is JSON");
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1));
    let request: Value =
        serde_json::from_slice(octets.split(|octet| *octet == b'\n').next().unwrap()).unwrap_or(Value::Null);
    match (&answer["ok"], &answer["error"]) {
        (Value::Null, Value::String(why)) => {
            assert!(rest.is_empty());
            let mut secrets = Vec::new();
            secrets_of(&request, &mut secrets);
            assert!(!secrets.iter().any(|secret| why.contains(secret.as_str())), "{why}");
        }
        (done, Value::Null) => carried_out(done, rest, &request),
        _ => panic!("{answer}"),
    }
}

/// One thing was asked for, and that was done.
fn carried_out(done: &Value, rest: &[u8], request: &Value) {
    let members = request.as_object().expect("what is no object asks for nothing");
    assert_eq!(members["apiVersion"], API_VERSION);
    let asked: Vec<&str> = members
        .iter()
        .filter(|(name, value)| *name != "apiVersion" && !value.is_null())
        .map(|(name, _)| &**name)
        .collect();
    let [verb] = asked[..] else { panic!("{asked:?} at once: {done}") };
    let argument = &members[verb];
    match verb {
        "hold" | "release" => {
            let pod = argument.as_str().unwrap();
            assert_eq!(*done, format!("{verb} {pod}"));
            assert!(pod.split('/').filter(|part| !part.is_empty()).count() == 2, "{pod}");
        }
        "yield" => assert_eq!(*done, format!("yield {}", argument["uid"].as_str().unwrap())),
        "keys" => {
            let texts = |member: &str| argument[member].as_array().cloned().unwrap_or_default();
            assert_eq!(done["added"].as_array().unwrap().len(), texts("add").len());
            let lower = |text: &Value| text.as_str().unwrap().to_ascii_lowercase();
            let removed: Vec<Value> = texts("remove").iter().map(|text| lower(text).into()).collect();
            assert_eq!(done["removed"], Value::Array(removed));
            let flags: Vec<Value> = ["rewrap", "credentialOnly"]
                .into_iter()
                .filter(|flag| argument[flag] == true)
                .map(Value::from)
                .collect();
            assert_eq!(done["rewrapped"], Value::Array(flags));
        }
        "get" => {
            assert_eq!(argument, "image", "the status is refused here");
            assert_eq!((&done["length"], rest), (&IMAGE.len().into(), IMAGE));
        }
        other => panic!("{other} was carried out"),
    }
    assert!(verb == "get" || rest.is_empty());
}

/// The values of members named `secret`, at any depth.
fn secrets_of(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if name == "secret" && text.len() >= TELLING_LEN => into.push(text.clone()),
                    _ => secrets_of(value, into),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| secrets_of(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Scene {
    fn new() -> Self {
        let directory = scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = directory.path().join("agent").join("admin.sock");
        let listening = Listening::bind(&socket).unwrap();
        runtime.spawn(listening.serve(Arc::new(Echo)));
        Self { runtime, socket, _directory: directory }
    }

    fn ask(&self, octets: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let mut stream = UnixStream::connect(&self.socket).await.unwrap();
            // It may answer, and go, before it has read everything.
            let _ = stream.write_all(octets).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer
        })
    }
}

/// An agent that only says what it was asked for.
struct Echo;

impl Admin for Echo {
    async fn status(&self) -> Result<CheckpointerStatus, String> {
        Err("there is none".to_owned())
    }

    async fn hold(&self, pod: PodName) -> Result<String, String> {
        Ok(format!("hold {}/{}", pod.namespace, pod.name))
    }

    async fn release(&self, pod: PodName) -> Result<String, String> {
        Ok(format!("release {}/{}", pod.namespace, pod.name))
    }

    async fn image(&self) -> Result<Image, String> {
        Ok(Image { path: PathBuf::from("/a\nb"), bytes: IMAGE.to_vec() })
    }

    async fn yield_store(&self, uid: String) -> Result<String, String> {
        Ok(format!("yield {uid}"))
    }

    async fn change_keys(&self, change: KeyChange) -> Result<KeysChanged, String> {
        let flags = [(change.rewrap, "rewrap"), (change.credential_only, "credentialOnly")];
        Ok(KeysChanged {
            added: change.add.iter().map(|unlocker| unlocker.kind().name().to_owned()).collect(),
            rewrapped: flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()).collect(),
            removed: change.remove.iter().map(|print| data_encoding::HEXLOWER.encode(print)).collect(),
        })
    }
}
