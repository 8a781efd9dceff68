//! Pods of the scenarios, and what they name.

use serde_json::{Value, json};

use crate::node::IMAGE;

/// What a container does that is to be compared with another: it tells everything that it sees of its pod, then stays.
///
/// The directories themselves are left out: a mount of the kubelet's own is a memory file system, open to all.
pub(crate) const VIEW: &str = r#"
hostname
id
tr '\0' '\n' < /proc/1/environ | sort
if [ -d /view ]; then
  for file in $(find -L /view -name '..*' -prune -o -type f -print | sort); do
    stat -L -c '%n %A %u:%g' $file
    base64 $file || true
  done
fi
echo END
exec sleep 1000000
"#;

/// A pod of the default namespace, bound to the scenarios' node, that runs a shell script; `with` changes it.
pub(crate) fn pod(name: &str, script: &str, with: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}, "annotations": {}},
        "spec": {
            "nodeName": super::NODE,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script]}],
        },
    });
    with(&mut pod);
    pod
}

/// A pod that does nothing, for ever.
pub(crate) fn sleeper(name: &str) -> Value {
    pod(name, "exec sleep 1000000", |_| {})
}

/// Makes it one that is activated at once.
pub(crate) fn annotate(pod: &mut Value) {
    pod["metadata"]["annotations"]["checkpointer.alpha.coreos.com/checkpoint"] = "true".into();
}

/// A Secret or ConfigMap of the default namespace.
pub(crate) fn object(kind: &str, name: &str, data: Value) -> Value {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, field: data})
}

/// A pod that tells what it sees of a Secret and a ConfigMap of its own, and both.
pub(crate) fn small(number: usize) -> [Value; 3] {
    let name = format!("small-{number}");
    let pod = pod(&name, VIEW, |pod| {
        let spec = &mut pod["spec"];
        spec["volumes"] = json!([
            {"name": "secret", "secret": {"secretName": name}},
            {"name": "config", "configMap": {"name": name}},
        ]);
        spec["containers"][0]["volumeMounts"] = json!([
            {"name": "secret", "mountPath": "/view/secret"},
            {"name": "config", "mountPath": "/view/config"},
        ]);
        spec["containers"][0]["resources"] = json!({"requests": {"cpu": "10m", "memory": "8Mi"}});
    });
    [
        object("Secret", &name, json!({"password": format!("p{number}"), "token": format!("t{number}")})),
        object("ConfigMap", &name, json!({"app.conf": format!("number = {number}\n")})),
        pod,
    ]
}

/// Every way in which a pod gets at what is stored for it, in one that is not annotated: volumes of all kinds with modes,
/// users and groups; variables of ConfigMaps and of the pod itself.
pub(crate) fn volumes() -> Vec<Value> {
    let pod = pod("volumes", VIEW, |pod| {
        pod["metadata"]["labels"]["tier"] = "front".into();
        pod["metadata"]["annotations"]["example.com/note"] = "line one\nline \"two\" $(HOME)".into();
        let spec = &mut pod["spec"];
        spec["securityContext"] = json!({"fsGroup": 2000});
        spec["volumes"] = json!([
            {"name": "whole", "secret": {"secretName": "credentials"}},
            {"name": "moded", "secret": {"secretName": "credentials", "defaultMode": 0o440, "items": [
                {"key": "key.pem", "path": "deep/down/key.pem", "mode": 0o400}, {"key": "cert.pem", "path": "cert.pem"}]}},
            {"name": "config", "configMap": {"name": "settings", "defaultMode": 0o555}},
            {"name": "missing", "configMap": {"name": "not-there", "optional": true}},
            {"name": "all", "projected": {"sources": [
                {"secret": {"name": "credentials", "items": [{"key": "cert.pem", "path": "tls/cert.pem"}]}},
                {"configMap": {"name": "settings"}},
                {"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
            ]}},
            {"name": "down", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"name": "scratch", "emptyDir": {}},
        ]);
        let names = ["whole", "moded", "config", "missing", "all", "down", "scratch"];
        let mut mounts: Vec<Value> =
            names.map(|name| json!({"name": name, "mountPath": format!("/view/{name}")})).to_vec();
        mounts.push(json!({"name": "config", "mountPath": "/view/single/app.conf", "subPath": "app.conf"}));
        spec["containers"][0]["volumeMounts"] = mounts.into();
        spec["containers"][0]["env"] = json!([
            {"name": "PLAIN", "value": "a $(FROM_CONFIG) b $$(NOT_EXPANDED)"},
            {"name": "FROM_CONFIG", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}},
            {"name": "LATER", "value": "[$(FROM_CONFIG)] [$(DOLLARS)]"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        ]);
        spec["containers"][0]["envFrom"] = json!([{"prefix": "C_", "configMapRef": {"name": "settings"}}]);
        spec["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi"}});
    });
    let mut config = object("ConfigMap", "settings", json!({"app.conf": "a = 1\n", "level": "info $(PLAIN)"}));
    config["binaryData"] = json!({"logo.bin": data_encoding::BASE64.encode(&[0, 159, 146, 150, 255])});
    vec![
        object("Secret", "credentials", json!({"key.pem": "KEY\n", "cert.pem": "CERTIFICATE\n", "empty": ""})),
        config,
        pod,
    ]
}

/// An annotated pod on the host's network with variables of a Secret, as a control plane's component is.
pub(crate) fn annotated() -> Vec<Value> {
    let pod = pod("annotated", VIEW, |pod| {
        annotate(pod);
        pod["spec"]["hostNetwork"] = true.into();
        pod["spec"]["priorityClassName"] = "system-node-critical".into();
        pod["metadata"]["namespace"] = "kube-system".into();
        pod["spec"]["containers"][0]["env"] =
            json!([{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "api-token", "key": "token"}}}]);
        pod["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "api-token"}}]);
    });
    let mut secret =
        object("Secret", "api-token", json!({"token": "a$b$$c$(HOME)", "other.key": "o", "MULTI": "1\n2"}));
    secret["metadata"]["namespace"] = "kube-system".into();
    vec![secret, pod]
}

/// A pod that runs as a user of its image that is not root.
pub(crate) fn as_user() -> Vec<Value> {
    let pod = pod("as-user", VIEW, |pod| {
        let spec = &mut pod["spec"];
        spec["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true});
        spec["volumes"] = json!([{"name": "secret", "secret": {"secretName": "users"}}]);
        spec["containers"][0]["volumeMounts"] = json!([{"name": "secret", "mountPath": "/view/secret"}]);
    });
    vec![object("Secret", "users", json!({"a": "1"})), pod]
}
