//! Writes pods and their objects as plain manifests, one file each, which `ckpt-db import -f` takes, or `kubectl apply`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::checkpoint::closure::references;
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::clear::Clear;
use crate::crypto::sha256;
use crate::materialize::{Folder, MaterializeError, Published};
use crate::source::text::{Form, NotAnObject, applicable, portable};
use crate::store::Snapshot;

/// Who is to take the manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// `ckpt-db import`: with the UIDs, by which a node knows its pods.
    Import,
    /// `kubectl apply`: without what API servers refuse in what they have not made themselves.
    Apply,
}

/// How to export.
#[derive(Clone, Copy, Debug)]
pub struct Exporting {
    /// Who is to take the manifests.
    pub for_whom: For,
    /// How manifests are written.
    pub form: Form,
    /// Whether Secrets are written, in clear text.
    pub reveal: bool,
    /// Whether a file that is there already is replaced.
    pub overwrite: bool,
}

impl Exporting {
    fn text(&self, object: &Object) -> Result<Clear, NotAnObject> {
        match self.for_whom {
            For::Import => portable(object, self.form),
            For::Apply => applicable(object, self.form),
        }
    }
}

/// What was exported.
#[derive(Debug, Default)]
pub struct Exported {
    /// Each object's file, and what became of it.
    pub files: Vec<(ObjectKey, PathBuf, Published)>,
    /// What pods name and was not written.
    pub left_out: Vec<(ObjectKey, LeftOut)>,
}

/// Why an object was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is a Secret, and nobody asked for it.
    Secret,
    /// The store does not have it.
    NotStored,
    /// The store has it, and it can't be read.
    Unreadable,
}

/// Why nothing more was exported. Files that were written before are there, whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There are files already. Nothing was written.
    #[error("{} there already; nothing was written. --overwrite replaces {}", exist(.0), if .0.len() == 1 { "it" } else { "them" })]
    Exist(Vec<PathBuf>),
    /// The system refuses.
    #[error("cannot export to {}", .directory.display())]
    Files {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: Box<MaterializeError>,
    },
}

fn exist(paths: &[PathBuf]) -> String {
    let named: Vec<String> = paths.iter().take(3).map(|path| path.display().to_string()).collect();
    match paths.len() {
        1 => format!("{} is", named[0]),
        count if count > named.len() => format!("{} and {} more files are", named.join(", "), count - named.len()),
        _ => format!("{} are", named.join(", ")),
    }
}

/// Writes `pods`, and every ConfigMap and Secret that they name, below `directory`, which is made if it is not there.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    snapshot: &Snapshot,
    pods: &[ObjectKey],
    directory: &Path,
    exporting: Exporting,
) -> Result<Exported, ExportError> {
    let mut exported = Exported::default();
    let mut wanted: BTreeSet<ObjectKey> = BTreeSet::new();
    for key in pods {
        if let Lookup::Found(pod) = snapshot.get(key) {
            let named = references(&pod).unwrap_or_default();
            wanted.extend(named.into_iter().map(|reference| reference.key));
        }
        wanted.insert(key.clone());
    }
    let mut files = Vec::new();
    for key in wanted {
        let found = match snapshot.get(&key) {
            _ if key.kind() == Kind::Secret && !exporting.reveal => Err(LeftOut::Secret),
            Lookup::Found(object) => exporting.text(&object).map_err(|_| LeftOut::Unreadable),
            Lookup::Missing | Lookup::Forbidden | Lookup::NoKeyYet => Err(LeftOut::NotStored),
            Lookup::Sealed | Lookup::Damaged => Err(LeftOut::Unreadable),
        };
        match found {
            Ok(_) => files.push((file_name(&key, exporting.form), key)),
            Err(why) => exported.left_out.push((key, why)),
        }
    }
    let failed = |error| ExportError::Files { directory: directory.to_owned(), source: Box::new(error) };
    let folder = Folder::open(directory).map_err(failed)?;
    if !exporting.overwrite {
        let mut there = Vec::new();
        for (name, _) in &files {
            if folder.has(name).map_err(failed)? {
                there.push(directory.join(name));
            }
        }
        if !there.is_empty() {
            return Err(ExportError::Exist(there));
        }
    }
    for (name, key) in files {
        // One Secret is in clear text in memory at a time.
        let Lookup::Found(object) = snapshot.get(&key) else { continue };
        let Ok(text) = exporting.text(&object) else { continue };
        let published = folder.publish(&name, text.expose()).map_err(failed)?;
        exported.files.push((key, directory.join(name), published));
    }
    folder.sync().map_err(failed)?;
    Ok(exported)
}

/// `shop_pod_web.yaml`. No name of Kubernetes has an underscore or a slash, so that no two objects share a file and no file is
/// elsewhere. Names that would be too long for a file are cut, and told apart by a digest.
#[must_use]
pub fn file_name(key: &ObjectKey, form: Form) -> String {
    const NAME_MAX: usize = 255;
    let suffix = match form {
        Form::Yaml => "yaml",
        Form::Json => "json",
    };
    let stem = format!("{}_{}_{}", key.namespace(), key.kind().row().name.to_lowercase(), key.name());
    if stem.len() + 1 + suffix.len() <= NAME_MAX {
        return format!("{stem}.{suffix}");
    }
    let digest = data_encoding::HEXLOWER.encode(&sha256(stem.as_bytes())[..16]);
    // All of it is ASCII.
    format!("{}_{digest}.{suffix}", &stem[..200])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::import::{Fate, Import};
    use crate::checkpoint::object::Object;
    use crate::crypto::SystemEntropy;
    use crate::source::manifests::{self, Input};
    use crate::source::text::says_the_same;
    use crate::store::{Backend, Change, MemoryStore, SlotsWanted};
    use store_format::{Identity, StoreId, SymmetricSecret, Unlocker};

    fn store() -> MemoryStore {
        let identity = Identity::new(StoreId([7; 16]), 0, "edge-1");
        let mut store = MemoryStore::new(identity, Box::new(SystemEntropy)).unwrap();
        let key = Unlocker::RecoveryCode(SymmetricSecret::of_recovery_code(&[7; 20]));
        let _kept = store.keep_slots(&SlotsWanted { add: &[&key], ..SlotsWanted::default() }, 0).unwrap();
        store
    }

    fn object(kind: Kind, namespace: &str, name: &str, rest: serde_json::Value) -> Object {
        let uid = format!("{}-{namespace}-{name}", kind.row().short);
        let mut body = serde_json::json!({
            "apiVersion": "v1", "kind": kind.row().name,
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": "7"},
        });
        for (field, value) in rest.as_object().unwrap() {
            body[field] = value.clone();
        }
        let key = ObjectKey::new(kind, namespace, name).unwrap();
        Object { key, uid, resource_version: "7".to_owned(), body: body.to_string().into() }
    }

    /// A pod with a ConfigMap and a Secret.
    fn family(namespace: &str, name: &str, text: &str) -> Vec<Object> {
        let (map, secret) = (format!("{name}-map"), format!("{name}-secret"));
        let base64 = data_encoding::BASE64.encode(text.as_bytes());
        let pod = serde_json::json!({
            "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i:1", "args": [text],
                "envFrom": [{"configMapRef": {"name": map}}, {"secretRef": {"name": secret}}]}]},
            "status": {"phase": "Running"},
        });
        vec![
            object(Kind::Pod, namespace, name, pod),
            object(Kind::ConfigMap, namespace, &map, serde_json::json!({"data": {"k": text}})),
            object(Kind::Secret, namespace, &secret, serde_json::json!({"data": {"k": base64}, "type": "Opaque"})),
        ]
    }

    fn take(store: &mut MemoryStore, objects: Vec<Object>) {
        let changes = objects.into_iter().map(|object| Change::Apply { object, with: Vec::new() }).collect();
        let _durable = store.update(changes, 0).unwrap();
    }

    fn pods(snapshot: &Snapshot) -> Vec<ObjectKey> {
        snapshot.objects().map(|object| object.key.clone()).filter(|key| key.kind() == Kind::Pod).collect()
    }

    const ALL: Exporting = Exporting { for_whom: For::Import, form: Form::Yaml, reveal: true, overwrite: false };

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        /// import(export(store)) == store, for everything that the format keeps: all but `resourceVersion`, and taken again
        /// into the same store it changes nothing.
        #[test]
        fn what_is_exported_is_imported_as_it_was(
            texts in proptest::collection::vec(any::<String>(), 1..5), json in any::<bool>(),
        ) {
            let mut from = store();
            for (n, text) in texts.iter().enumerate() {
                take(&mut from, family(["shop", "kube-system"][n % 2], &format!("web-{n}.x"), text));
            }
            let scratch = tempfile::tempdir().unwrap();
            let directory = scratch.path().join("out");
            let snapshot = from.snapshot().unwrap().into_inner();
            let form = if json { Form::Json } else { Form::Yaml };
            let exported = export(&snapshot, &pods(&snapshot), &directory, Exporting { form, ..ALL }).unwrap();
            prop_assert_eq!(exported.files.len(), 3 * texts.len());

            let loaded = manifests::read(&Input::Path(directory), &mut std::io::empty()).unwrap();
            prop_assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
            let mut to = store();
            let planned = Import::new(loaded.objects.clone(), Some(to.snapshot().unwrap().get()), "edge-1");
            let update = to.update(planned.changes.clone(), 0).unwrap().into_inner();
            prop_assert_eq!(&planned.done(&update), &planned.fates, "what a dry run says is what happens");
            let other = to.snapshot().unwrap().into_inner();
            prop_assert_eq!(other.objects().count(), snapshot.objects().count());
            for stored in snapshot.objects() {
                let (Lookup::Found(before), Lookup::Found(after)) = (snapshot.get(stored.key), other.get(stored.key)) else {
                    return Err(TestCaseError::fail(format!("{} is missing", stored.key)));
                };
                prop_assert!(says_the_same(&after, &before), "{}", stored.key);
                prop_assert_eq!((after.uid, after.resource_version), (before.uid, String::new()));
            }
            let again = Import::new(loaded.objects, Some(&snapshot), "edge-1");
            prop_assert!(again.changes.is_empty() && again.fates.values().all(|fate| *fate == Fate::Unchanged));
        }
    }

    #[test]
    fn secrets_stay_unless_they_are_asked_for_and_files_stay_unless_they_may_go() {
        let mut from = store();
        take(&mut from, family("shop", "web", "canary"));
        let snapshot = from.snapshot().unwrap().into_inner();
        let scratch = tempfile::tempdir().unwrap();
        let names = || {
            let entries = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        let run = |exporting| export(&snapshot, &pods(&snapshot), scratch.path(), exporting);
        let exported = run(Exporting { reveal: false, ..ALL }).unwrap();
        assert_eq!(exported.left_out.len(), 1);
        assert_eq!(names(), ["shop_configmap_web-map.yaml", "shop_pod_web.yaml"]);
        assert!(matches!(run(ALL), Err(ExportError::Exist(there)) if there.len() == 2));
        assert_eq!(names().len(), 2, "nothing was written");
        let again = run(Exporting { overwrite: true, ..ALL }).unwrap();
        let done: Vec<Published> = again.files.iter().map(|(_, _, done)| *done).collect();
        assert_eq!(done, [Published::Unchanged, Published::Unchanged, Published::Created]);
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::metadata(scratch.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        assert!(names().iter().all(|name| mode(name) == 0o600));
    }

    #[test]
    fn every_object_has_a_file_name_of_its_own() {
        let long = |c: &str| format!("{}.x", c.repeat(251));
        let (namespace, other) = ("n".repeat(63), "m".repeat(63));
        let mut names = std::collections::BTreeSet::new();
        let keys: Vec<ObjectKey> = [
            (Kind::Pod, "a", "b"),
            (Kind::Pod, "a", "b.c"),
            (Kind::Pod, "a-b", "c"),
            (Kind::Pod, "a", "pod"),
            (Kind::ConfigMap, "a", "b"),
            (Kind::Secret, "a", "b"),
            (Kind::Pod, &namespace, &long("y")),
            (Kind::Pod, &namespace, &long("z")),
            (Kind::Pod, &other, &long("y")),
            (Kind::Secret, &namespace, &long("y")),
        ]
        .map(|(kind, namespace, name)| ObjectKey::new(kind, namespace, name).unwrap())
        .to_vec();
        for key in &keys {
            for form in [Form::Yaml, Form::Json] {
                let name = file_name(key, form);
                assert!(name.len() <= 255 && !name.contains('/') && !name.starts_with('.'), "{name}");
                names.insert(name);
            }
        }
        assert_eq!(names.len(), 2 * keys.len());
    }
}
