//! Turns one manifest into the object that the API server would store for it, or says why it would not.
//!
//! Messages name fields, names and data keys, never a value.

use data_encoding::{BASE64, Encoding, Specification};
use k8s_openapi::api::core::v1;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::LazyLock;
use zeroize::{Zeroize, Zeroizing};

use super::manifests::Severity;
use super::tree::Tree;
use crate::checkpoint::closure::references;
use crate::checkpoint::data::{DATA_MAX_BYTES, DataError, data};
use crate::checkpoint::object::{Kind, Object, ObjectKey, Shown};
use crate::clear::Clear;

/// Why a manifest does not become an object.
#[derive(Debug)]
pub(super) struct Refused {
    /// What it calls itself, where it does.
    pub(super) object: Option<String>,
    pub(super) message: String,
    pub(super) severity: Severity,
}

/// Checks one manifest and brings its body into the stored form: `stringData` merged, base64 canonical, quantities text,
/// the namespace set, `managedFields` gone; every field that we don't know as it was.
pub(super) fn admit(mut tree: Tree) -> Result<Object, Refused> {
    let Value::Object(fields) = &mut tree.0 else {
        return Err(skipped(None, "it is not a mapping with apiVersion, kind and metadata"));
    };
    let kind = kind(fields)?;
    let called = called(fields);
    let bad = |message: String| skipped(called.clone(), message);

    let Some(Value::Object(metadata)) = fields.get_mut("metadata") else {
        return Err(bad("metadata is missing or not a mapping".to_owned()));
    };
    metadata.shift_remove("managedFields");
    let key = key(kind, metadata).map_err(&bad)?;
    let bad = |message: String| skipped(Some(key.to_string()), message);
    if kind.row().namespaced {
        metadata.insert("namespace".to_owned(), key.namespace().into());
    }
    let uid = token(metadata, "uid").map_err(&bad)?;
    let resource_version = token(metadata, "resourceVersion").map_err(&bad)?;
    strings(metadata, "labels", "metadata.labels").map_err(&bad)?;
    strings(metadata, "annotations", "metadata.annotations").map_err(&bad)?;

    match kind {
        Kind::Secret => secret(fields),
        Kind::ConfigMap => config_map(fields),
        Kind::Pod => pod(&mut tree.0),
        Kind::Service => typed::<v1::Service>(&tree.0, ""),
        Kind::Node => {
            quantities(&mut tree.0);
            typed::<v1::Node>(&tree.0, "")
        }
    }
    .map_err(&bad)?;

    let object = Object { key: key.clone(), uid, resource_version, body: compact(&tree.0) };
    data(&object).map_err(|error| bad(data_problem(kind, &error)))?;
    if kind == Kind::Pod {
        // A pod whose references can't be followed has no closure, and could not be stored.
        references(&object).map_err(|error| bad(error.problem.to_string()))?;
    }
    Ok(object)
}

fn skipped(object: Option<String>, message: impl Into<String>) -> Refused {
    Refused { object, message: message.into(), severity: Severity::Skipped }
}

/// What a manifest calls itself, fit for a message; `None` without a kind.
pub(super) fn called(fields: &Map<String, Value>) -> Option<String> {
    let kind = fields.get("kind")?.as_str()?;
    let kind = match Kind::from_name(kind) {
        Some(kind) => kind.to_string(),
        None if kind.bytes().all(|b| b.is_ascii_alphanumeric()) && kind.len() <= 63 => kind.to_owned(),
        None => Shown::new(kind).to_string(),
    };
    let metadata = |field: &str| fields.get("metadata")?.get(field)?.as_str();
    let Some(name) = metadata("name").filter(|name| !name.is_empty()) else { return Some(kind) };
    let name = match metadata("namespace") {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    };
    let plain = name.len() <= 317 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-./:".contains(&b));
    Some(if plain { format!("{kind} {name}") } else { format!("{kind} {}", Shown::new(&name)) })
}

/// Names a key of the mapping `path`, unless a slip of the pen may have put a value into it.
///
/// `{password:hunter2}`, without the space, is one key to YAML, and so is `k":"hunter2"` of a JSON text that lacks a
/// quote. Both have characters that no key of Kubernetes has.
fn key_of(path: &str, key: &str) -> String {
    let slash = path.starts_with("metadata.");
    let ordinary = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (slash && b == b'/');
    if key.bytes().all(ordinary) {
        format!("{path} key {}", Shown::new(key))
    } else {
        format!("a key of {path} (not shown, since a value may have slipped into it)")
    }
}

/// What is wrong with an object's data. Its keys are shown as [`key_of`] shows them where values are secret.
fn data_problem(kind: Kind, error: &DataError) -> String {
    match error {
        DataError::Key(_) if kind.row().sealed => {
            "a data key is not allowed (not shown, since a value may have slipped \
            into it): 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'"
                .to_owned()
        }
        DataError::Key(_) | DataError::Malformed(_) | DataError::Twice(_) | DataError::TooLarge(_) => error.to_string(),
    }
}

fn kind(fields: &Map<String, Value>) -> Result<Kind, Refused> {
    let text = |field: &str| match fields.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        _ => Err(skipped(called(fields), format!("{field} is missing or not text"))),
    };
    let (name, api_version) = (text("kind")?, text("apiVersion")?);
    match Kind::from_name(name) {
        Some(kind) if kind.row().api_version == api_version => Ok(kind),
        // The same word in another API group (`Service` of Knative) is another kind.
        Some(kind) if !api_version.contains('/') => {
            let message = format!("apiVersion is {}, not {}", Shown::new(api_version), kind.row().api_version);
            Err(skipped(called(fields), message))
        }
        Some(_) | None => Err(Refused {
            object: called(fields),
            message: format!("kind {} of {} is not stored", Shown::new(name), Shown::new(api_version)),
            severity: Severity::Ignored,
        }),
    }
}

fn key(kind: Kind, metadata: &Map<String, Value>) -> Result<ObjectKey, String> {
    let text = |field: &str| match metadata.get(field) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(format!("metadata.{field} is not text (quote it)")),
    };
    let (name, namespace) = (text("name")?, text("namespace")?);
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    // As kubectl does it.
    let namespace = if namespace.is_empty() && kind.row().namespaced { "default" } else { namespace };
    ObjectKey::new(kind, namespace, name).map_err(|error| error.to_string())
}

/// A `uid` or `resourceVersion`: opaque, but printable, since it stands in listings.
fn token(metadata: &Map<String, Value>, field: &str) -> Result<String, String> {
    match metadata.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) if text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(text.clone())
        }
        Some(Value::String(_)) => Err(format!("metadata.{field} is not 1 to 128 printable ASCII characters")),
        Some(_) => Err(format!("metadata.{field} is not text (quote it)")),
    }
}

/// Checks that `field` is a mapping of strings, if it is there.
fn strings(fields: &Map<String, Value>, field: &str, path: &str) -> Result<(), String> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(map)) => match map.iter().find(|(_, value)| !value.is_string()) {
            None => Ok(()),
            Some((key, _)) => Err(format!("{} is not text (quote it)", key_of(path, key))),
        },
        Some(_) => Err(format!("{path} is not a mapping")),
    }
}

fn secret(fields: &mut Map<String, Value>) -> Result<(), String> {
    if !matches!(fields.get("type"), None | Some(Value::Null | Value::String(_))) {
        return Err("type is not text".to_owned());
    }
    immutable(fields)?;
    canonical_base64(fields, "data")?;
    let mut plain = match fields.shift_remove("stringData") {
        None | Some(Value::Null) => return Ok(()),
        Some(value) => Tree(value),
    };
    let Value::Object(plain) = &mut plain.0 else { return Err("stringData is not a mapping".to_owned()) };
    let data = fields.entry("data").or_insert(Value::Null);
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    let Value::Object(data) = data else { return Err("data is not a mapping".to_owned()) };
    for (key, value) in plain {
        let encoded = match value {
            Value::String(text) => BASE64.encode(text.as_bytes()),
            Value::Null => String::new(),
            _ => return Err(format!("{} is not text (quote it)", key_of("stringData", key))),
        };
        // "stringData … overrides any existing values" (core/v1 Secret).
        if let Some(mut former) = data.insert(key.clone(), encoded.into()) {
            super::tree::wipe(&mut former);
        }
    }
    Ok(())
}

fn config_map(fields: &mut Map<String, Value>) -> Result<(), String> {
    immutable(fields)?;
    strings(fields, "data", "data")?;
    canonical_base64(fields, "binaryData")
}

fn immutable(fields: &Map<String, Value>) -> Result<(), String> {
    match fields.get("immutable") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(_) => Err("immutable is neither true nor false".to_owned()),
    }
}

/// As Go's `encoding/json` reads `[]byte`: line breaks inside are skipped, unused bits at the end are not looked at.
static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification: Specification = BASE64.specification();
    specification.ignore.push_str("\r\n");
    specification.check_trailing_bits = false;
    specification.encoding().expect("standard base64 stays a valid encoding with these two changes")
});

/// Rewrites the base64 values of `field` as the API server writes them.
fn canonical_base64(fields: &mut Map<String, Value>, field: &str) -> Result<(), String> {
    let map = match fields.get_mut(field) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(format!("{field} is not a mapping")),
    };
    for (key, value) in map {
        match value {
            Value::Null => {}
            Value::String(text) => {
                let bytes = LENIENT
                    .decode(text.as_bytes())
                    .map(Clear::new)
                    .map_err(|_| format!("{} is not valid base64", key_of(field, key)))?;
                if bytes.len() > DATA_MAX_BYTES {
                    return Err(format!("{} has more than {DATA_MAX_BYTES} bytes", key_of(field, key)));
                }
                let canonical = Zeroizing::new(BASE64.encode(bytes.expose()));
                if *canonical != *text {
                    text.zeroize();
                    text.push_str(&canonical);
                }
            }
            _ => return Err(format!("{} is not base64 text (quote it)", key_of(field, key))),
        }
    }
    Ok(())
}

fn pod(pod: &mut Value) -> Result<(), String> {
    quantities(pod);
    let spec = &pod["spec"];
    // Part by part first, since that tells where it is wrong.
    for list in ["containers", "initContainers"] {
        elements::<v1::Container>(spec, list)?;
    }
    elements::<v1::EphemeralContainer>(spec, "ephemeralContainers")?;
    elements::<v1::Volume>(spec, "volumes")?;
    typed::<v1::Pod>(pod, "")?;
    match pod["spec"]["containers"].as_array() {
        Some(containers) if !containers.is_empty() => Ok(()),
        _ => Err("spec.containers is empty".to_owned()),
    }
}

fn elements<T: DeserializeOwned>(spec: &Value, list: &str) -> Result<(), String> {
    let elements = spec.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    elements.iter().enumerate().try_for_each(|(i, element)| typed::<T>(element, &format!("spec.{list}[{i}]: ")))
}

/// Checks that `value` reads as a `T` of the Kubernetes API.
fn typed<T: DeserializeOwned>(value: &Value, place: &str) -> Result<(), String> {
    match T::deserialize(value) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{place}{}", mismatch(&error.to_string()))),
    }
}

/// The part of serde's message that does not quote the value.
fn mismatch(text: &str) -> String {
    let name = |b: u8| b.is_ascii_alphanumeric() || b" -_`./:[]".contains(&b);
    if let Some(field) = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("field {field} is missing");
    }
    match text.rsplit_once(", expected ") {
        Some((_, expected)) if expected.len() <= 80 && expected.bytes().all(name) => {
            format!("a field has the wrong type: {expected} is expected")
        }
        _ => "a field does not have the form that the Kubernetes API asks for".to_owned(),
    }
}

/// Makes text of quantities that YAML reads as numbers (`cpu: 1`), as the API server does.
fn quantities(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(quantities),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("limits" | "requests" | "overhead" | "capacity" | "allocatable", Value::Object(amounts)) => {
                        amounts.values_mut().for_each(number_to_text);
                    }
                    ("sizeLimit" | "divisor", value @ Value::Number(_)) => number_to_text(value),
                    // Free text of others.
                    ("annotations" | "labels", _) => {}
                    (_, value) => quantities(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn number_to_text(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = number.to_string().into();
    }
}

/// The compact JSON of `value`, written into one buffer of the right size: growing would leave copies behind.
fn compact(value: &Value) -> Clear {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    const TREE: &str = "a tree of JSON values is always serialisable, and memory takes it";
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect(TREE);
    let mut bytes = Vec::with_capacity(count.0);
    serde_json::to_writer(&mut bytes, value).expect(TREE);
    Clear::new(bytes)
}
