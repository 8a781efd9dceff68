//! What a kubelet since 1.34 refuses in a static pod: every reference to an API object, and every volume that needs one.

use serde_json::Value;

/// The first field of a pod's `spec` that such a kubelet refuses, as a JSON path; `None` if it takes the pod.
///
/// What it doesn't know it refuses, and so do we.
pub(super) fn refused(spec: &Value) -> Option<String> {
    let is_set = |value: &Value, field: &str| match value.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    if let Some(field) = ["serviceAccountName", "imagePullSecrets", "resourceClaims"].iter().find(|f| is_set(spec, f)) {
        return Some(format!("spec.{field}"));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (n, container) in items(spec, list).iter().enumerate() {
            for (m, source) in items(container, "envFrom").iter().enumerate() {
                if let Some(field) = ["secretRef", "configMapRef"].iter().find(|field| is_set(source, field)) {
                    return Some(format!("spec.{list}[{n}].envFrom[{m}].{field}"));
                }
            }
            for (m, variable) in items(container, "env").iter().enumerate() {
                let source = variable.get("valueFrom").unwrap_or(&Value::Null);
                if let Some(field) = ["secretKeyRef", "configMapKeyRef"].iter().find(|field| is_set(source, field)) {
                    return Some(format!("spec.{list}[{n}].env[{m}].valueFrom.{field}"));
                }
            }
        }
    }
    items(spec, "volumes")
        .iter()
        .enumerate()
        .find_map(|(n, volume)| volume_refused(volume, &format!("spec.volumes[{n}]")))
}

fn volume_refused(volume: &Value, path: &str) -> Option<String> {
    let types = volume.as_object().into_iter().flatten().filter(|(field, value)| *field != "name" && !value.is_null());
    for (kind, source) in types {
        match kind.as_str() {
            "hostPath" | "emptyDir" | "downwardAPI" | "image" | "nfs" => {}
            "iscsi" | "fc" | "rbd" | "cephfs" | "flexVolume" => {
                if source.get("secretRef").is_some_and(|secret| !secret.is_null()) {
                    return Some(format!("{path}.{kind}.secretRef"));
                }
            }
            "projected" => {
                for (n, source) in items(source, "sources").iter().enumerate() {
                    let mut kinds = source.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
                    if let Some((kind, _)) = kinds.find(|(kind, _)| *kind != "downwardAPI") {
                        return Some(format!("{path}.projected.sources[{n}].{kind}"));
                    }
                }
            }
            _ => return Some(format!("{path}.{kind}")),
        }
    }
    None
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_current_kubelet_refuses() {
        let container = |field: &str, value: Value| json!({"containers": [{"name": "c"}, {"name": "d", field: value}]});
        let volume = |source: Value| json!({"volumes": [source]});
        #[rustfmt::skip]
        let rows = [
            (json!({}),                                                                        None),
            (json!({"serviceAccountName": "", "imagePullSecrets": [], "resourceClaims": null}), None),
            (json!({"serviceAccountName": "default"}),                                         Some("spec.serviceAccountName")),
            (json!({"imagePullSecrets": [{"name": "s"}]}),                                     Some("spec.imagePullSecrets")),
            (json!({"resourceClaims": [{"name": "c"}]}),                                       Some("spec.resourceClaims")),
            (container("env", json!([{"name": "A", "value": "b"}])),                           None),
            (container("env", json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}])), None),
            (container("env", json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}])),
                                                                       Some("spec.containers[1].env[0].valueFrom.secretKeyRef")),
            (container("envFrom", json!([{"prefix": "x"}, {"configMapRef": {"name": "m"}}])),  Some("spec.containers[1].envFrom[1].configMapRef")),
            (json!({"initContainers": [{"envFrom": [{"secretRef": {}}]}]}),                    Some("spec.initContainers[0].envFrom[0].secretRef")),
            (volume(json!({"name": "v", "hostPath": {"path": "/x"}})),                         None),
            (volume(json!({"name": "v", "emptyDir": {}})),                                     None),
            (volume(json!({"name": "v", "iscsi": {"secretRef": null}})),                       None),
            (volume(json!({"name": "v", "iscsi": {"secretRef": {}}})),                         Some("spec.volumes[0].iscsi.secretRef")),
            (volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})),        Some("spec.volumes[0].persistentVolumeClaim")),
            (volume(json!({"name": "v", "secret": {"secretName": "s"}})),                      Some("spec.volumes[0].secret")),
            (volume(json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}})),    None),
            (volume(json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {}}]}})),
                                                                       Some("spec.volumes[0].projected.sources[1].serviceAccountToken")),
            (volume(json!({"name": "v", "of-tomorrow": {}})),                                  Some("spec.volumes[0].of-tomorrow")),
        ];
        for (spec, want) in rows {
            assert_eq!(refused(&spec).as_deref(), want, "{spec}");
        }
    }
}
