//! Reference closure: every ConfigMap and Secret that a pod names in its own namespace.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{flag, items, text};
use super::object::{Kind, Object, ObjectKey};
use super::pod::{ParentPod, PodError, PodProblem};

/// The most objects that one pod may name. A hundred is a lot; whoever may create pods must not make a node follow more.
pub const REFERENCES_MAX: usize = 4096;

/// One object that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The object.
    pub key: ObjectKey,
    /// Whether the pod comes up without it: every naming of it is optional.
    pub optional: bool,
    /// The first field that names it (a required one if there is one), as a JSON path in the pod.
    pub field: String,
}

/// Every ConfigMap and Secret that `pod` names, each once, sorted by key.
///
/// Covered are `env` and `envFrom` of all container kinds, volumes of type secret and configMap, sources of projected
/// volumes, every `secretRef` of a volume, and `imagePullSecrets`. What only ephemeral containers or pulling images
/// need is optional: the copy runs without it.
///
/// # Errors
/// [`PodError`] if the body is no Pod or names an object by a name that Kubernetes does not allow; the field is named.
/// Nothing is returned then, since a closure with holes is none.
pub fn references(pod: &Object) -> Result<Vec<Reference>, PodError> {
    references_of(&ParentPod::parse(pod)?)
}

/// The same of a pod that was read already.
///
/// # Errors
/// As [`references`].
pub(crate) fn references_of(pod: &ParentPod) -> Result<Vec<Reference>, PodError> {
    let mut found = Found { pod, all: BTreeMap::new() };
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (n, container) in items(pod.spec(), list).iter().enumerate() {
            found.container(container, &format!("spec.{list}[{n}]"), list == "ephemeralContainers")?;
        }
    }
    for (n, volume) in items(pod.spec(), "volumes").iter().enumerate() {
        found.volume(volume, &format!("spec.volumes[{n}]"))?;
    }
    for (n, secret) in items(pod.spec(), "imagePullSecrets").iter().enumerate() {
        // The API allows entries with an empty name (kubernetes/kubernetes#99454), and the kubelet skips them.
        if text(secret, "name").is_some_and(|name| !name.is_empty()) {
            found.name(Kind::Secret, secret, "name", true, &format!("spec.imagePullSecrets[{n}]"))?;
        }
    }
    if found.all.len() > REFERENCES_MAX {
        let problem = PodProblem::TooManyReferences(found.all.len());
        return Err(PodError { pod: found.pod.key.clone(), problem });
    }
    Ok(found.all.into_iter().map(|(key, (optional, field))| Reference { key, optional, field }).collect())
}

struct Found<'a> {
    pod: &'a ParentPod,
    all: BTreeMap<ObjectKey, (bool, String)>,
}

impl Found<'_> {
    fn container(&mut self, container: &Value, path: &str, optional: bool) -> Result<(), PodError> {
        for (n, source) in items(container, "envFrom").iter().enumerate() {
            for (field, kind) in [("configMapRef", Kind::ConfigMap), ("secretRef", Kind::Secret)] {
                if let Some(reference) = source.get(field) {
                    self.name(kind, reference, "name", optional, &format!("{path}.envFrom[{n}].{field}"))?;
                }
            }
        }
        for (n, variable) in items(container, "env").iter().enumerate() {
            let Some(source) = variable.get("valueFrom") else { continue };
            for (field, kind) in [("configMapKeyRef", Kind::ConfigMap), ("secretKeyRef", Kind::Secret)] {
                if let Some(reference) = source.get(field) {
                    self.name(kind, reference, "name", optional, &format!("{path}.env[{n}].valueFrom.{field}"))?;
                }
            }
        }
        Ok(())
    }

    fn volume(&mut self, volume: &Value, path: &str) -> Result<(), PodError> {
        if let Some(secret) = volume.get("secret") {
            self.name(Kind::Secret, secret, "secretName", false, &format!("{path}.secret"))?;
        }
        if let Some(map) = volume.get("configMap") {
            self.name(Kind::ConfigMap, map, "name", false, &format!("{path}.configMap"))?;
        }
        if let Some(projected) = volume.get("projected") {
            for (n, source) in items(projected, "sources").iter().enumerate() {
                for (field, kind) in [("configMap", Kind::ConfigMap), ("secret", Kind::Secret)] {
                    if let Some(reference) = source.get(field) {
                        let path = format!("{path}.projected.sources[{n}].{field}");
                        self.name(kind, reference, "name", false, &path)?;
                    }
                }
            }
        }
        if let Some(azure) = volume.get("azureFile") {
            self.name(Kind::Secret, azure, "secretName", false, &format!("{path}.azureFile"))?;
        }
        for driver in ["iscsi", "rbd", "cephfs", "flexVolume", "cinder", "scaleIO", "storageos", "csi"] {
            let field = if driver == "csi" { "nodePublishSecretRef" } else { "secretRef" };
            if let Some(reference) = volume.get(driver).and_then(|source| source.get(field)) {
                self.name(Kind::Secret, reference, "name", false, &format!("{path}.{driver}.{field}"))?;
            }
        }
        Ok(())
    }

    /// Adds the object that `reference[field]` names. `optional` marks what the copy can do without in any case.
    fn name(&mut self, kind: Kind, reference: &Value, field: &str, optional: bool, path: &str) -> Result<(), PodError> {
        let name = text(reference, field).unwrap_or_default();
        let field = format!("{path}.{field}");
        let key = ObjectKey::new(kind, self.pod.key.namespace(), name).map_err(|problem| PodError {
            pod: self.pod.key.clone(),
            problem: PodProblem::Name { field: field.clone(), problem },
        })?;
        let optional = optional || flag(reference, "optional");
        let entry = self.all.entry(key).or_insert_with(|| (optional, field.clone()));
        if entry.0 && !optional {
            *entry = (false, field);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Object {
        let key = ObjectKey::new(Kind::Pod, "default", "web").unwrap();
        let body = json!({ "spec": spec }).to_string();
        Object { key, uid: String::new(), resource_version: String::new(), body: body.into() }
    }

    fn shown(spec: Value) -> Vec<String> {
        let all = references(&pod(spec)).unwrap();
        all.iter().map(|r| format!("{}{} <- {}", r.key, if r.optional { "?" } else { "" }, r.field)).collect()
    }

    /// One row for each field that can name an object.
    #[test]
    fn every_field_that_names_an_object_is_followed() {
        let container = |body: Value| json!({"containers": [body]});
        let volume = |body: Value| json!({"containers": [{"name": "c"}], "volumes": [body]});
        #[rustfmt::skip]
        let rows = [
            (container(json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})),
             "Secret default/s <- spec.containers[0].env[0].valueFrom.secretKeyRef.name"),
            (container(json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": true}}}]})),
             "ConfigMap default/m? <- spec.containers[0].env[0].valueFrom.configMapKeyRef.name"),
            (container(json!({"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]})),
             "Secret default/s <- spec.containers[0].envFrom[0].secretRef.name"),
            (container(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]})),
             "ConfigMap default/m <- spec.containers[0].envFrom[0].configMapRef.name"),
            (json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
             "Secret default/s <- spec.initContainers[0].envFrom[0].secretRef.name"),
            (json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
             "Secret default/s? <- spec.ephemeralContainers[0].envFrom[0].secretRef.name"),
            (volume(json!({"name": "v", "secret": {"secretName": "s", "optional": true}})),
             "Secret default/s? <- spec.volumes[0].secret.secretName"),
            (volume(json!({"name": "v", "configMap": {"name": "m"}})),
             "ConfigMap default/m <- spec.volumes[0].configMap.name"),
            (volume(json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s"}}]}})),
             "Secret default/s <- spec.volumes[0].projected.sources[1].secret.name"),
            (volume(json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "m"}}]}})),
             "ConfigMap default/m <- spec.volumes[0].projected.sources[0].configMap.name"),
            (volume(json!({"name": "v", "iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p", "secretRef": {"name": "s"}}})),
             "Secret default/s <- spec.volumes[0].iscsi.secretRef.name"),
            (volume(json!({"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})),
             "Secret default/s <- spec.volumes[0].csi.nodePublishSecretRef.name"),
            (volume(json!({"name": "v", "azureFile": {"shareName": "h", "secretName": "s"}})),
             "Secret default/s <- spec.volumes[0].azureFile.secretName"),
            (json!({"containers": [{"name": "c"}], "imagePullSecrets": [{"name": ""}, {"name": "s"}]}),
             "Secret default/s? <- spec.imagePullSecrets[1].name"),
        ];
        for (spec, want) in rows {
            assert_eq!(shown(spec), [want]);
        }
    }

    #[test]
    fn an_object_is_optional_only_if_every_naming_of_it_is() {
        let spec = json!({
            "containers": [{"name": "c", "envFrom": [
                {"secretRef": {"name": "s", "optional": true}},
                {"configMapRef": {"name": "s"}},
                {"secretRef": {"name": "s"}},
                {"secretRef": {"name": "s", "optional": true}},
            ]}],
        });
        assert_eq!(
            shown(spec),
            [
                "ConfigMap default/s <- spec.containers[0].envFrom[1].configMapRef.name",
                "Secret default/s <- spec.containers[0].envFrom[2].secretRef.name",
            ]
        );
    }

    #[test]
    fn a_name_that_kubernetes_does_not_allow_is_refused_with_its_field() {
        for name in ["", "..", "a/b", "A", "a\0b"] {
            let spec = json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": name}}]}]});
            let message = references(&pod(spec)).unwrap_err().to_string();
            assert!(message.contains("spec.containers[0].envFrom[0].secretRef.name"), "{message}");
        }
    }
}
