//! One object from the files that the pod-checkpointer keeps of it: a file for each key, all written anew each minute.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use data_encoding::BASE64;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::super::admit::admit;
use super::super::tree::Tree;
use super::finding::Finding;
use crate::checkpoint::ANNOTATION_IMPORTED_FROM;
use crate::checkpoint::data::{DATA_MAX_BYTES, is_data_key};
use crate::checkpoint::object::{Kind, Object, ObjectKey, Shown};
use crate::checkpoint::rendering::PodName;
use crate::clear::Clear;
use crate::regular_file;

/// Every pass writes all keys that there are, and there is one each minute: what is older than the newest by more than that
/// was not written in the last one.
const STALE_S: u64 = 60;

/// An object, and when the newest of its files was written.
pub(super) struct Values {
    pub(super) object: Object,
    pub(super) newest: Option<SystemTime>,
}

/// Whether a name is that of a temporary file of theirs: a dot and digits.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_prefix('.').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Reads the object of `pod` in `directory`; `None` if it can't be had, which is told.
pub(super) fn read(pod: &PodName, key: &ObjectKey, directory: &Path, findings: &mut Vec<Finding>) -> Option<Values> {
    let entries = match fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => {
            findings.push(Finding::Unreadable { path: directory.to_owned(), why: error.kind().to_string() });
            return None;
        }
    };
    let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    let mut values: Vec<(String, Clear, Option<SystemTime>)> = Vec::new();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let no_value = |why: &str| Finding::NoValue { path: path.clone(), why: why.to_owned() };
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            // Of a tree that is ours already.
            Ok(metadata) if metadata.is_dir() && name.starts_with("..") => continue,
            Ok(metadata) if metadata.is_symlink() && is_ours(&path, name) => {}
            Ok(_) => {
                findings.push(no_value("it is no regular file"));
                continue;
            }
            Err(error) => {
                findings.push(Finding::Unreadable { path, why: error.kind().to_string() });
                continue;
            }
        }
        if name == "..data" {
            continue;
        }
        if is_temporary(name) {
            findings.push(Finding::Temporary(path));
            continue;
        }
        if !is_data_key(name) {
            findings.push(no_value("no key of an object is called so"));
            continue;
        }
        match regular_file::read(&path, DATA_MAX_BYTES) {
            Ok(file) => values.push((name.to_owned(), file.contents, file.modified)),
            Err(error) => findings.push(Finding::Unreadable { path, why: error.to_string() }),
        }
    }
    let newest = values.iter().filter_map(|(_, _, modified)| *modified).max();
    let said = |pod: &PodName, object: &ObjectKey| (pod.clone(), object.clone());
    if values.is_empty() {
        let (pod, object) = said(pod, key);
        findings.push(Finding::NoValues { pod, object });
    }
    for (name, value, modified) in &values {
        let (pod, object) = said(pod, key);
        let older_s = newest.zip(*modified).and_then(|(newest, at)| newest.duration_since(at).ok()).unwrap_or_default();
        if value.is_empty() {
            findings.push(Finding::EmptyValue { pod, object, key: Shown::new(name) });
        } else if older_s.as_secs() > STALE_S {
            findings.push(Finding::StaleKey { pod, object, key: Shown::new(name), older_s: older_s.as_secs() });
        }
    }
    match admit(Tree(body(key, &values))) {
        Ok(object) => Some(Values { object, newest }),
        Err(refused) => {
            let (pod, object) = said(pod, key);
            findings.push(Finding::BadObject { pod, object, why: refused.message });
            None
        }
    }
}

/// Whether a link is one of a tree that was taken over.
fn is_ours(path: &Path, name: &str) -> bool {
    name == "..data" || fs::read_link(path).is_ok_and(|target| target == Path::new("..data").join(name))
}

fn body(key: &ObjectKey, values: &[(String, Clear, Option<SystemTime>)]) -> Value {
    let mut body = json!({
        "apiVersion": key.kind().row().api_version,
        "kind": key.kind().row().name,
        "metadata": {
            "name": key.name(),
            "namespace": key.namespace(),
            "annotations": {ANNOTATION_IMPORTED_FROM: "pod-checkpointer"},
        },
    });
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (name, value, _) in values {
        let encoded = || Zeroizing::new(BASE64.encode(value.expose())).as_str().into();
        match (key.kind(), std::str::from_utf8(value.expose())) {
            (Kind::ConfigMap, Ok(text)) => drop(data.insert(name.clone(), text.into())),
            (Kind::ConfigMap, Err(_)) => drop(binary.insert(name.clone(), encoded())),
            _ => drop(data.insert(name.clone(), encoded())),
        }
    }
    for (field, map) in [("data", data), ("binaryData", binary)] {
        if !map.is_empty() {
            body[field] = Value::Object(map);
        }
    }
    body
}
