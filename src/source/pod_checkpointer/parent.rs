//! From a sanitised copy back to its parent, as far as the pod-checkpointer kept it. Pure.
//!
//! It keeps name, namespace, labels and spec. Volumes of Secrets and ConfigMaps come back from the paths that it made of
//! them, without `items`, modes and `optional`; affinity, node selector, service account, owner and all other annotations
//! are lost until the API server gives them.

use serde_json::{Map, Value, json};

use crate::checkpoint::object::{Kind, Shown};
use crate::checkpoint::rendering::PodName;
use crate::checkpoint::{
    ANNOTATION_CHECKPOINT, ANNOTATION_CHECKPOINT_OF, ANNOTATION_IMPORTED_FROM, ANNOTATION_PARENT_UID,
};

/// Where the pod-checkpointer keeps values; compiled into it.
pub(super) const SECRETS: &str = "/etc/kubernetes/checkpoint-secrets";
/// The same of ConfigMaps.
pub(super) const CONFIGMAPS: &str = "/etc/kubernetes/checkpoint-configmaps";

/// Whose a file in a directory of manifests is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// A copy that the pod-checkpointer made, of this parent.
    Theirs(PodName),
    /// A copy that ckpt-db made.
    Ours,
    /// Something else.
    Others,
}

/// Tells whose it is, by its annotations alone, as both programs do.
pub(super) fn whose(tree: &Value) -> Whose {
    let annotations = tree.pointer("/metadata/annotations").and_then(Value::as_object);
    let text = |field: &str| tree.pointer(field).and_then(Value::as_str);
    match annotations {
        Some(annotations) if text("/kind") == Some("Pod") => match annotations.get(ANNOTATION_CHECKPOINT_OF) {
            Some(Value::String(_)) if annotations.contains_key(ANNOTATION_PARENT_UID) => Whose::Ours,
            Some(Value::String(name)) => {
                let namespace = text("/metadata/namespace").filter(|namespace| !namespace.is_empty());
                Whose::Theirs(PodName { namespace: namespace.unwrap_or("default").to_owned(), name: name.clone() })
            }
            _ => Whose::Others,
        },
        _ => Whose::Others,
    }
}

/// A parent as it is put together again.
pub(super) struct Parent {
    /// The whole object, to be checked as any other.
    pub(super) body: Value,
    /// Its UID, where the copy's owner reference names it.
    pub(super) uid: Option<String>,
    /// The objects that its volumes were of.
    pub(super) mounts: Vec<(Kind, String)>,
    /// Volumes that lie below the roots and are not this pod's.
    pub(super) others: Vec<Shown>,
}

/// The parent of `copy`, which is [`Whose::Theirs`] of `pod`.
pub(super) fn parent(copy: &mut Value, pod: &PodName) -> Parent {
    let uid = owner_uid(copy, pod);
    let mut metadata = json!({
        "name": pod.name,
        "namespace": pod.namespace,
        "annotations": {ANNOTATION_CHECKPOINT: "true", ANNOTATION_IMPORTED_FROM: "pod-checkpointer"},
    });
    if let Some(uid) = &uid {
        metadata["uid"] = uid.clone().into();
    }
    if let Some(labels) = copy.pointer_mut("/metadata/labels").map(Value::take).filter(Value::is_object) {
        metadata["labels"] = labels;
    }
    let mut spec = copy.get_mut("spec").map(Value::take).unwrap_or_default();
    let (mut mounts, mut others) = (Vec::new(), Vec::new());
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) else { continue };
        match mounted(path) {
            None => {}
            Some((kind, below)) => match below.as_slice() {
                [namespace, name, object] if (*namespace, *name) == (pod.namespace.as_str(), pod.name.as_str()) => {
                    let object = (*object).to_owned();
                    let (field, source) = match kind {
                        Kind::Secret => ("secret", json!({"secretName": object})),
                        _ => ("configMap", json!({"name": object})),
                    };
                    if let Value::Object(volume) = volume {
                        volume.remove("hostPath");
                        volume.insert(field.to_owned(), source);
                    }
                    if !mounts.contains(&(kind, object.clone())) {
                        mounts.push((kind, object));
                    }
                }
                _ => others.push(Shown::new(volume.get("name").and_then(Value::as_str).unwrap_or_default())),
            },
        }
    }
    let mut body = Map::new();
    body.insert("apiVersion".to_owned(), "v1".into());
    body.insert("kind".to_owned(), "Pod".into());
    body.insert("metadata".to_owned(), metadata);
    body.insert("spec".to_owned(), spec);
    Parent { body: Value::Object(body), uid, mounts, others }
}

/// Every path of the host in `spec` that lies below the roots: of which kind, and the names below the root.
pub(super) fn mounts(spec: &Value) -> Vec<(Kind, Vec<String>)> {
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let paths = volumes.filter_map(|volume| volume.pointer("/hostPath/path")?.as_str());
    let own = |(kind, names): (Kind, Vec<&str>)| (kind, names.into_iter().map(str::to_owned).collect());
    paths.filter_map(mounted).map(own).collect()
}

/// Whether the pod is the pod-checkpointer itself: by its image's name, or its label.
pub(super) fn is_checkpointer(copy: &Value) -> bool {
    let images = copy.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let mut images = images.filter_map(|container| container.get("image")?.as_str());
    let name = |image: &str| {
        let last = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        last.split(':').next() == Some("pod-checkpointer")
    };
    let label = copy.pointer("/metadata/labels/k8s-app").and_then(Value::as_str);
    images.any(name) || label == Some("pod-checkpointer")
}

/// What a path of the host says: which root, and the names below it. A path with `..` or the like is nobody's.
fn mounted(path: &str) -> Option<(Kind, Vec<&str>)> {
    let roots = [(Kind::Secret, SECRETS), (Kind::ConfigMap, CONFIGMAPS)];
    let (kind, below) = roots.into_iter().find_map(|(kind, root)| Some((kind, path.strip_prefix(root)?)))?;
    if !(below.is_empty() || below.starts_with('/')) {
        return None;
    }
    Some((kind, below.split('/').filter(|name| !name.is_empty() && *name != ".").collect()))
}

/// The parent's UID: the copy has one owner reference, to its parent, so that no controller adopts it.
fn owner_uid(copy: &Value, pod: &PodName) -> Option<String> {
    let owners = copy.pointer("/metadata/ownerReferences")?.as_array()?;
    let is_parent = |owner: &&Value| {
        let text = |field: &str| owner.get(field).and_then(Value::as_str);
        // The kubelet's list gives pods without a kind.
        matches!(text("kind"), Some("Pod" | "") | None) && text("name") == Some(pod.name.as_str())
    };
    let uid = owners.iter().find(is_parent)?.get("uid")?.as_str()?;
    let plausible = (1..=128).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plausible.then(|| uid.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodName {
        PodName { namespace: "kube-system".to_owned(), name: "web".to_owned() }
    }

    #[test]
    fn whose_a_manifest_is() {
        let with = |annotations: Value| json!({"kind": "Pod", "metadata": {"namespace": "kube-system", "annotations": annotations}});
        let mut nowhere = with(json!({ANNOTATION_CHECKPOINT_OF: "web"}));
        nowhere["metadata"].as_object_mut().unwrap().remove("namespace");
        let default = PodName { namespace: "default".to_owned(), ..pod() };
        let mut list = with(json!({ANNOTATION_CHECKPOINT_OF: "web"}));
        list["kind"] = "List".into();
        #[rustfmt::skip]
        let rows = [
            (with(json!({ANNOTATION_CHECKPOINT_OF: "web"})),                                    Whose::Theirs(pod())),
            (nowhere,                                                                           Whose::Theirs(default)),
            (with(json!({ANNOTATION_CHECKPOINT_OF: "web", ANNOTATION_PARENT_UID: "u"})),         Whose::Ours),
            (with(json!({ANNOTATION_CHECKPOINT: "true"})),                                      Whose::Others),
            (with(json!({ANNOTATION_CHECKPOINT_OF: 1})),                                        Whose::Others),
            (list,                                                                              Whose::Others),
            (json!({"kind": "Pod"}),                                                            Whose::Others),
            (json!("Pod"),                                                                      Whose::Others),
        ];
        for (tree, want) in rows {
            assert_eq!(whose(&tree), want, "{tree}");
        }
    }

    #[test]
    fn volumes_come_back_from_their_paths() {
        #[rustfmt::skip]
        let rows = [
            ("/etc/kubernetes/checkpoint-secrets/kube-system/web/tls",      json!({"name": "v", "secret": {"secretName": "tls"}}),  1, 0),
            ("/etc/kubernetes/checkpoint-secrets/kube-system/web/tls/",     json!({"name": "v", "secret": {"secretName": "tls"}}),  1, 0),
            ("/etc/kubernetes/checkpoint-configmaps/kube-system/web/conf",  json!({"name": "v", "configMap": {"name": "conf"}}),    1, 0),
            ("/etc/kubernetes/checkpoint-secrets/kube-system/other/tls",    Value::Null,                                            0, 1),
            ("/etc/kubernetes/checkpoint-secrets/kube-system/web/tls/key",  Value::Null,                                            0, 1),
            ("/etc/kubernetes/checkpoint-secrets/kube-system/web",          Value::Null,                                            0, 1),
            ("/etc/kubernetes/checkpoint-secrets",                          Value::Null,                                            0, 1),
            ("/etc/kubernetes/checkpoint-secrets-old/kube-system/web/tls",  Value::Null,                                            0, 0),
            ("/etc/kubernetes/pki",                                         Value::Null,                                            0, 0),
        ];
        for (path, want, mounts, others) in rows {
            let volume = json!({"name": "v", "hostPath": {"path": path}});
            let mut copy = json!({"spec": {"volumes": [volume, {"name": "w", "emptyDir": {}}]}});
            let found = parent(&mut copy, &pod());
            let want = if want.is_null() { volume } else { want };
            assert_eq!(found.body["spec"]["volumes"], json!([want, {"name": "w", "emptyDir": {}}]), "{path}");
            assert_eq!((found.mounts.len(), found.others.len()), (mounts, others), "{path}");
        }
    }

    #[test]
    fn the_owner_is_the_parent_or_nobody_knows() {
        let owner = |kind: &str, name: &str, uid: Value| json!([{"kind": kind, "name": name, "uid": uid}]);
        #[rustfmt::skip]
        let rows = [
            (owner("Pod", "web", json!("6ba7b810-9dad")),  Some("6ba7b810-9dad")),
            (owner("", "web", json!("6ba7b810-9dad")),     Some("6ba7b810-9dad")),
            (owner("Pod", "other", json!("u")),            None),
            (owner("DaemonSet", "web", json!("u")),        None),
            (owner("Pod", "web", json!("")),               None),
            (owner("Pod", "web", json!("a\nb")),           None),
            (owner("Pod", "web", json!("a".repeat(129))),  None),
            (owner("Pod", "web", json!(7)),                None),
            (json!([]),                                    None),
            (Value::Null,                                  None),
        ];
        for (owners, want) in rows {
            let mut copy = json!({"metadata": {"ownerReferences": owners}, "spec": {}});
            let found = parent(&mut copy, &pod());
            assert_eq!(found.uid.as_deref(), want, "{owners}");
            assert_eq!(found.body["metadata"].get("uid").and_then(Value::as_str), want);
            assert!(found.body["metadata"].get("ownerReferences").is_none());
        }
    }

    #[test]
    fn the_checkpointer_itself_is_known() {
        let image = |image: &str| json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        #[rustfmt::skip]
        let rows = [
            (image("quay.io/coreos/pod-checkpointer:83e25e5968391b9eb342042c435d1b3eeddb2be1"), true),
            (image("registry.example:5000/mirror/pod-checkpointer@sha256:1"),                   true),
            (image("pod-checkpointer"),                                                         true),
            (image("registry.example/pod-checkpointer/app:1"),                                  false),
            (image("registry.example/my-pod-checkpointer:1"),                                   false),
            (json!({"metadata": {"labels": {"k8s-app": "pod-checkpointer"}}}),                  true),
            (json!({}),                                                                         false),
        ];
        for (copy, want) in rows {
            assert_eq!(is_checkpointer(&copy), want, "{copy}");
        }
    }
}
