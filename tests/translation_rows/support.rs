//! The store and the comparisons that the row tests share.

use std::collections::BTreeMap;

use ckpt_db::checkpoint::lookup::{Lookup, Objects};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::{Contents, Tree, TreeRoot};
use ckpt_db::checkpoint::settings::{SecretEnv, Settings};
use ckpt_db::checkpoint::translate::{Translation, translate};
use ckpt_db::checkpoint::verdict::Reason;
use serde_json::{Value, json};

use super::manifest_checker;

pub(crate) struct Store(pub(crate) BTreeMap<ObjectKey, Value>);

impl Objects for Store {
    fn get(&self, key: &ObjectKey) -> Lookup {
        match key.name() {
            "forbidden" => return Lookup::Forbidden,
            "sealed" => return Lookup::Sealed,
            "keyless" => return Lookup::NoKeyYet,
            "damaged" => return Lookup::Damaged,
            _ => {}
        }
        self.0.get(key).map_or(Lookup::Missing, |body| Lookup::Found(object(key.clone(), body)))
    }
}

pub(crate) fn object(key: ObjectKey, body: &Value) -> Object {
    Object { key, uid: String::new(), resource_version: String::new(), body: body.to_string().into() }
}

pub(crate) fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "shop", name).unwrap()
}

/// Secret `s`: a=alpha, b=$(X), bin=0xff. ConfigMap `m`: a=from-m, c=see, 1st=first, binary=0x00ff. ConfigMap `n`: c=from-n.
/// ConfigMap `own`: A=1, CKPT_DB_COPY_OF=from-own. Secret `hard`: quote=it's, crlf=a CR LF b, empty, fine=lines LF $(A) ".
/// Secret `big`: three values of 30,000 bytes, and one of 32 KiB and one byte.
pub(crate) fn store() -> Store {
    let all = [
        (key(Kind::Secret, "s"), json!({"data": {"a": "YWxwaGE=", "b": "JChYKQ=="}})),
        (key(Kind::Secret, "bin"), json!({"data": {"k": "/w=="}})),
        (
            key(Kind::Secret, "hard"),
            json!({"data": {"quote": "aXQncw==", "crlf": "YQ0KYg==", "empty": "", "fine": "bGluZXMKJChBKSAi"}}),
        ),
        (key(Kind::Secret, "nul"), json!({"data": {"k": "AA=="}})),
        (key(Kind::Secret, "bad"), json!({"data": {"k": "!"}})),
        (key(Kind::ConfigMap, "m"), json!({"data": {"a": "from-m", "c": "see"}, "binaryData": {"binary": "AP8="}})),
        (key(Kind::ConfigMap, "n"), json!({"data": {"c": "from-n"}})),
        (key(Kind::ConfigMap, "own"), json!({"data": {"A": "1", "CKPT_DB_COPY_OF": "from-own"}})),
        (key(Kind::ConfigMap, "odd"), json!({"data": {"1st": "one", "a.b-c": "two"}})),
    ];
    let long = |len: usize| data_encoding::BASE64.encode(&vec![b'x'; len]);
    let big = json!({"data": {"1": long(30_000), "2": long(30_000), "3": long(30_000), "over": long(32 * 1024 + 1)}});
    Store(all.into_iter().chain([(key(Kind::Secret, "big"), big)]).collect())
}

pub(crate) fn settings() -> Settings {
    Settings { node_name: "edge-1".to_owned(), secret_env: SecretEnv::Literal, ..Settings::default() }
}

pub(crate) fn metadata() -> Value {
    json!({"name": "web", "namespace": "shop", "uid": "uid-1"})
}

pub(crate) fn run(metadata: &Value, spec: &Value, settings: &Settings) -> Result<Translation, Vec<Reason>> {
    let mut spec = spec.clone();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "image": "i:1"}]);
    }
    let pod =
        object(key(Kind::Pod, "web"), &json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}));
    let services = [object(
        ObjectKey::new(Kind::Service, "elsewhere", "x").unwrap(),
        &json!({"spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 1}]}}),
    )];
    translate(&pod, &store(), &services, settings)
}

pub(crate) fn manifest(translation: &Translation) -> Value {
    let json = translation.rendering.manifest.json.expose();
    assert_eq!(manifest_checker::refusals(json), [""; 0]);
    serde_json::from_slice(json).unwrap()
}

/// The copy's spec is `copy`, plus what every copy has (set a member to null where it must be absent).
#[track_caller]
pub(crate) fn becomes_with(settings: &Settings, parent: Value, copy: Value) -> Translation {
    let translation = run(&metadata(), &parent, settings).expect("recoverable");
    let mut want = json!({"automountServiceAccountToken": false, "hostname": "web",
        "containers": [{"name": "c", "image": "i:1"}]});
    for (member, value) in copy.as_object().unwrap() {
        want[member] = value.clone();
    }
    want.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    assert_eq!(manifest(&translation)["spec"], want);
    translation
}

#[track_caller]
pub(crate) fn becomes(parent: Value, copy: Value) -> Translation {
    becomes_with(&settings(), parent, copy)
}

/// The copy's only container is `copy` for the parent's `parent`, both with name and image.
#[track_caller]
pub(crate) fn container_becomes_with(settings: &Settings, parent: Value, copy: Value) -> Translation {
    let full = |members: Value| {
        let mut container = json!({"name": "c", "image": "i:1"});
        for (member, value) in members.as_object().unwrap() {
            container[member] = value.clone();
        }
        json!({ "containers": [container] })
    };
    becomes_with(settings, full(parent), full(copy))
}

#[track_caller]
pub(crate) fn container_becomes(parent: Value, copy: Value) -> Translation {
    container_becomes_with(&settings(), parent, copy)
}

#[track_caller]
pub(crate) fn env_becomes(parent: Value, copy: Value) -> Translation {
    container_becomes(json!({ "env": parent }), json!({ "env": copy }))
}

/// The reasons for which a spec is refused, one sentence each.
#[track_caller]
pub(crate) fn refused_with(settings: &Settings, spec: Value) -> Vec<String> {
    let reasons = run(&metadata(), &spec, settings).err().expect("not recoverable");
    reasons.iter().map(ToString::to_string).collect()
}

#[track_caller]
pub(crate) fn refused(spec: Value) -> Vec<String> {
    refused_with(&settings(), spec)
}

pub(crate) fn notes(translation: &Translation) -> Vec<String> {
    translation.notes.iter().map(ToString::to_string).collect()
}

/// `<root>:<path>` and one line for each file: path, mode, contents.
pub(crate) fn shown(tree: &Tree) -> Vec<String> {
    let root = match tree.root {
        TreeRoot::Secrets => "secrets",
        TreeRoot::ConfigMaps => "configmaps",
    };
    let group = tree.fs_group.map(|group| format!(" group {group}")).unwrap_or_default();
    let mut lines = vec![format!("{root}:{}{group}", tree.path.join("/"))];
    lines.extend(tree.files.iter().map(|file| {
        let contents = match &file.contents {
            Contents::Inline(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            Contents::Data { object, key } => format!("{object}[{key}]"),
        };
        format!("{} {:04o} {contents}", file.path.join("/"), file.mode)
    }));
    lines
}

pub(crate) fn trees(translation: &Translation) -> Vec<String> {
    translation.rendering.trees.iter().flat_map(shown).collect()
}

/// A volume becomes a tree at this hostPath with these files, and its mount read-only.
#[track_caller]
pub(crate) fn volume_becomes(source: Value, path: &str, files: &[&str]) -> Translation {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    let container = |mount: Value| json!([{"name": "c", "image": "i:1", "volumeMounts": [mount]}]);
    let translation = becomes(
        json!({"volumes": [volume],
               "containers": container(json!({"name": "v", "mountPath": "/v", "subPath": "a"}))}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": path, "type": "Directory"}}],
               "containers": container(json!({"name": "v", "mountPath": "/v", "subPath": "a", "readOnly": true}))}),
    );
    assert_eq!(trees(&translation), files);
    translation
}

#[track_caller]
pub(crate) fn volume_stays(source: Value) {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    let containers = json!([{"name": "c", "image": "i:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]);
    let spec = json!({"volumes": [volume], "containers": containers});
    assert!(becomes(spec.clone(), spec).rendering.trees.is_empty());
}

#[track_caller]
pub(crate) fn volume_refused(source: Value) -> Vec<String> {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    refused(json!({ "volumes": [volume] }))
}
