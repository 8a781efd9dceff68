//! Volumes: which stay, which become a tree on the host, and which need the API server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::json::{flag, items, items_mut, set, text};
use super::super::object::{Kind, ObjectKey, is_dns_label};
use super::super::pod::ParentPod;
use super::super::rendering::{Tree, TreeRoot};
use super::super::verdict::Reason;
use super::containers::pull_if_not_present;
use super::files::{Files, ObjectSource, mode_of};
use super::{Fetched, Findings, Parent, downward, projected};

/// Which volume a step works on.
pub(super) struct VolumeName {
    /// Its name.
    pub(super) name: String,
    /// Its path in the pod, e.g. `spec.volumes[0]`.
    pub(super) path: String,
}

/// Translates every volume of the spec and returns the names of those that became trees.
pub(super) fn translate(parent: &Parent<'_>, findings: &mut Findings, spec: &mut Value) -> BTreeSet<String> {
    let mut rendered = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (n, volume) in items_mut(spec, "volumes").iter_mut().enumerate() {
        let name = VolumeName {
            name: text(volume, "name").unwrap_or_default().to_owned(),
            path: format!("spec.volumes[{n}]"),
        };
        // It becomes a directory's name.
        if !is_dns_label(&name.name) || !names.insert(name.name.clone()) {
            let problem = format!("{}.name is no RFC 1123 label, or given twice", name.path);
            findings.refuse(Reason::Malformed(problem));
            continue;
        }
        if let Some(tree) = translate_one(parent, findings, volume, &name) {
            *volume = tree;
            rendered.insert(name.name);
        }
    }
    rendered
}

/// The hostPath volume that replaces this one; none if it stays or is refused.
fn translate_one(parent: &Parent<'_>, findings: &mut Findings, volume: &mut Value, name: &VolumeName) -> Option<Value> {
    let sources: Vec<String> =
        volume.as_object().into_iter().flatten().map(|(field, _)| field.clone()).filter(|f| f != "name").collect();
    let refuse = |findings: &mut Findings, source: &str| {
        findings.refuse(Reason::Volume { volume: name.name.clone(), source: source.to_owned() });
        None
    };
    let kind = match sources.as_slice() {
        // The API's default for a volume without a type.
        [] => {
            set(volume, "emptyDir", Value::Object(serde_json::Map::new()));
            return None;
        }
        [kind] => kind.as_str(),
        [..] => return refuse(findings, &sources.join(" and ")),
    };
    let source = &volume[kind];
    match kind {
        "secret" => object_volume(parent, findings, Kind::Secret, source, name),
        "configMap" => object_volume(parent, findings, Kind::ConfigMap, source, name),
        "projected" => projected::volume(parent, findings, name, source),
        "downwardAPI" => downward::volume(parent, findings, name, source),
        "emptyDir" | "hostPath" | "nfs" | "fc" => None,
        "image" => {
            pull_if_not_present(&mut volume[kind], "reference", "pullPolicy");
            None
        }
        "iscsi" | "rbd" | "cephfs" | "flexVolume" => {
            if source.get("secretRef").is_some() {
                return refuse(findings, &format!("{kind} with a secretRef"));
            }
            None
        }
        // persistentVolumeClaim, csi, ephemeral, azureFile, glusterfs, the types whose drivers moved to CSI, and
        // whatever comes after this version.
        _ => refuse(findings, kind),
    }
}

/// A `secret` or `configMap` volume.
fn object_volume(
    parent: &Parent<'_>,
    findings: &mut Findings,
    kind: Kind,
    source: &Value,
    volume: &VolumeName,
) -> Option<Value> {
    let (root, directory, name, field) = match kind {
        Kind::Secret => (TreeRoot::Secrets, "kubernetes.io~secret", "secretName", "secret"),
        _ => (TreeRoot::ConfigMaps, "kubernetes.io~configmap", "name", "configMap"),
    };
    let path = format!("{}.{field}", volume.path);
    refuse_owner(findings, source, &path);
    let key = parent.key(findings, kind, text(source, name).unwrap_or_default(), &path)?;
    let source = ObjectSource {
        tree: source,
        optional: flag(source, "optional"),
        default_mode: mode_of(source, "defaultMode", 0o644),
        path,
    };
    let mut files = Files::new();
    add(parent, findings, &volume.name, &source, &key, &mut files)?;
    let files = files.finish(findings, &volume.name)?;
    // "All keys, default mode" is the layout of the file-based checkpointer; anything else gets a tree of its own.
    let plain = items(source.tree, "items").is_empty() && source.default_mode == 0o644;
    let path = if plain { vec![key.name().to_owned()] } else { vec![directory.to_owned(), volume.name.clone()] };
    Some(parent.mount(findings, &volume.name, Tree { root, path, files, fs_group: fs_group(parent) }))
}

/// Adds the files of one object; none if the object is needed and can't be had.
pub(super) fn add(
    parent: &Parent<'_>,
    findings: &mut Findings,
    volume: &str,
    source: &ObjectSource<'_>,
    key: &ObjectKey,
    files: &mut Files,
) -> Option<()> {
    let keys = match parent.fetch_keys(findings, key, source.optional, &source.path) {
        Fetched::Found(keys) => keys,
        Fetched::LeftOut => BTreeMap::new(),
        Fetched::Refused => return None,
    };
    files.add_object(findings, volume, source, key, &keys);
    Some(())
}

/// `defaultUser` (alpha in 1.37) gives files an owner, which a tree can't express.
pub(super) fn refuse_owner(findings: &mut Findings, source: &Value, path: &str) {
    if source.get("defaultUser").is_some() {
        findings.refuse(Reason::UnknownField { field: format!("{path}.defaultUser") });
    }
}

/// `securityContext.fsGroup`. The API allows 0 to 2147483647.
pub(super) fn fs_group(parent: &Parent<'_>) -> Option<u32> {
    let group = parent.pod.spec().get("securityContext")?.get("fsGroup")?.as_i64()?;
    u32::try_from(group).ok()
}

/// Whether the pod mounts storage writable that another pod may write too: two writers corrupt it.
pub(crate) fn writes_shared_storage(pod: &ParentPod) -> bool {
    const SHARED: [&str; 7] = ["hostPath", "nfs", "iscsi", "fc", "rbd", "cephfs", "flexVolume"];
    let writable_mounts: BTreeSet<&str> = pod
        .containers()
        .flat_map(|(_, container)| {
            let mounts = items(container, "volumeMounts").iter().filter(|mount| !flag(mount, "readOnly"));
            mounts.chain(items(container, "volumeDevices"))
        })
        .filter_map(|mount| text(mount, "name"))
        .collect();
    items(pod.spec(), "volumes").iter().any(|volume| {
        text(volume, "name").is_some_and(|name| writable_mounts.contains(name))
            && SHARED.iter().any(|kind| volume.get(kind).is_some_and(|source| !flag(source, "readOnly")))
    })
}
