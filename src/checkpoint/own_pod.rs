//! The pod that this program itself runs in: would its copy have credentials to ask the API server with?
//!
//! A projected service account token is bound to a pod that exists in the API, and expires. The kubelet's own kubeconfig
//! and certificates lie on the node, and the token of a token Secret is data like any other: those a copy keeps.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::json::{items, text};
use super::lookup::{Lookup, Objects};
use super::object::{Kind, Object, ObjectKey};
use super::pod::ParentPod;

/// Below these the kubelet keeps its kubeconfig and its certificates.
const CREDENTIALS: [&str; 2] = ["/etc/kubernetes", "/var/lib/kubelet"];

/// The volume whose projected token is all that `pod` could ask the API server with; `None` if it has no such volume, or
/// something else to ask with besides. What is not mounted by any container does not count.
pub(crate) fn token_only(pod: &ParentPod, objects: &dyn Objects) -> Option<String> {
    let mounted: BTreeSet<&str> = pod
        .containers()
        .flat_map(|(_, container)| items(container, "volumeMounts"))
        .filter_map(|mount| text(mount, "name"))
        .collect();
    let volumes = || {
        let named =
            items(pod.spec(), "volumes").iter().map(|volume| (text(volume, "name").unwrap_or_default(), volume));
        named.filter(|(name, _)| mounted.contains(name))
    };
    let (name, _) = volumes().find(|(_, volume)| sources(volume).any(|s| s.get("serviceAccountToken").is_some()))?;
    let keeps = |volume: &Value| {
        volume.get("hostPath").and_then(|path| text(path, "path")).is_some_and(holds_credentials)
            || secrets(volume).any(|secret| may_hold_token(pod, objects, secret))
    };
    (!volumes().any(|(_, volume)| keeps(volume))).then(|| name.to_owned())
}

/// The sources of a projected volume.
fn sources(volume: &Value) -> impl Iterator<Item = &Value> {
    volume.get("projected").map_or(&[][..], |projected| items(projected, "sources")).iter()
}

/// The Secrets that a volume shows.
fn secrets(volume: &Value) -> impl Iterator<Item = &str> {
    let whole = volume.get("secret").and_then(|secret| text(secret, "secretName"));
    whole.into_iter().chain(sources(volume).filter_map(|source| text(source.get("secret")?, "name")))
}

/// Whether the Secret is a token Secret, or nobody can look: its own absence is told elsewhere.
fn may_hold_token(pod: &ParentPod, objects: &dyn Objects, secret: &str) -> bool {
    let Ok(key) = ObjectKey::new(Kind::Secret, pod.key.namespace(), secret) else { return false };
    match objects.get(&key) {
        Lookup::Found(object) => is_token(&object),
        Lookup::Missing => false,
        Lookup::Forbidden | Lookup::Sealed | Lookup::NoKeyYet | Lookup::Damaged => true,
    }
}

/// Whether the Secret is of the type that the API server fills with a token. Its data is passed over unread.
fn is_token(secret: &Object) -> bool {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    serde_json::from_slice::<Typed>(secret.body.expose())
        .is_ok_and(|secret| secret.kind.as_deref() == Some("kubernetes.io/service-account-token"))
}

/// Whether a host directory or file shows the kubelet's credentials: a directory that they lie in, their own, or a file
/// that is named as such are. Static pod manifests and our own trees lie in the same directories, and are none.
fn holds_credentials(path: &str) -> bool {
    let parts =
        |path: &str| path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
    let path: Vec<String> = parts(path);
    let above = CREDENTIALS.iter().any(|place| {
        let place: Vec<String> = parts(place);
        place.starts_with(&path)
    });
    let named = path.last().is_some_and(|last| last == "pki" || last.contains("kubeconfig") || last == "kubelet.conf");
    above || named
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Secrets `token` of the type, `plain` of none, `sealed` that can't be opened, and no other.
    struct Shelf;

    impl Objects for Shelf {
        fn get(&self, key: &ObjectKey) -> Lookup {
            let body = match key.name() {
                "token" => json!({"type": "kubernetes.io/service-account-token", "data": {"token": "eA=="}}),
                "plain" => json!({"data": {"token": "eA=="}}),
                "opaque" => json!({"type": "Opaque", "data": {"token": "eA=="}}),
                "odd" => json!({"type": ["kubernetes.io/service-account-token"]}),
                "sealed" => return Lookup::Sealed,
                "keyless" => return Lookup::NoKeyYet,
                "forbidden" => return Lookup::Forbidden,
                "damaged" => return Lookup::Damaged,
                _ => return Lookup::Missing,
            };
            Lookup::Found(Object {
                key: key.clone(),
                uid: String::new(),
                resource_version: String::new(),
                body: body.to_string().into(),
            })
        }
    }

    fn parsed(spec: &Value) -> ParentPod {
        let key = ObjectKey::new(Kind::Pod, "kube-system", "agent").unwrap();
        let body = json!({"spec": spec}).to_string().into();
        ParentPod::parse(&Object { key, uid: String::new(), resource_version: String::new(), body }).unwrap()
    }

    /// A pod with a projected token in volume `t`, and these other volumes; all are mounted.
    fn with(volumes: &[Value]) -> Value {
        let mut all = vec![json!({"name": "t", "projected": {"sources": [
            {"configMap": {"name": "kube-root-ca.crt"}}, {"serviceAccountToken": {"path": "token"}}]}})];
        all.extend(volumes.iter().cloned());
        let mounts: Value = all.iter().map(|volume| json!({"name": volume["name"], "mountPath": "/m"})).collect();
        json!({"volumes": all, "containers": [{"name": "c", "volumeMounts": mounts}]})
    }

    #[test]
    fn what_a_copy_would_have_to_ask_with() {
        let host = |path: &str| json!({"name": "h", "hostPath": {"path": path}});
        let secret = |name: &str| json!({"name": "s", "secret": {"secretName": name}});
        let projected = |name: &str| json!({"name": "s", "projected": {"sources": [{"secret": {"name": name}}]}});
        let mounted_in = |list: &str, mount: Value| {
            let mut spec = with(&[host("/etc/kubernetes")]);
            spec["containers"][0]["volumeMounts"] = json!([]);
            spec[list] = json!([{"name": "c", "volumeMounts": [mount]}]);
            if list == "initContainers" {
                spec["containers"][0]["volumeMounts"] = json!([{"name": "t", "mountPath": "/m"}]);
            }
            spec
        };
        #[rustfmt::skip]
        let rows = [
            // Nothing but the token.
            (with(&[]),                                           true),
            (with(&[json!({"name": "e", "emptyDir": {}})]),       true),
            (with(&[host("/etc/kubernetes/manifests")]),          true),
            (with(&[host("/etc/kubernetes/checkpoint-secrets")]), true),
            (with(&[host("/etc/kubernetes2")]),                   true),
            (with(&[host("/etc/kube")]),                          true),
            (with(&[host("/var/lib/kubelet/pods")]),              true),
            (with(&[host("/run/containerd/containerd.sock")]),    true),
            (with(&[host("/run/../etc/kubernetes")]),             true),
            (with(&[host("/etc/kubernetes/..")]),                 true),
            (with(&[secret("plain")]),                            true),
            (with(&[secret("opaque")]),                           true),
            (with(&[secret("odd")]),                              true),
            (with(&[secret("missing")]),                          true),
            (with(&[projected("plain")]),                         true),
            (with(&[json!({"name": "m", "configMap": {"name": "token"}})]), true),
            // The kubelet's credentials.
            (with(&[host("/etc/kubernetes")]),                    false),
            (with(&[host("/etc/kubernetes/")]),                   false),
            (with(&[host("//etc/./kubernetes")]),                 false),
            (with(&[host("/etc")]),                               false),
            (with(&[host("/")]),                                  false),
            (with(&[host("/var/lib/kubelet")]),                   false),
            (with(&[host("/var/lib/kubelet/pki")]),               false),
            (with(&[host("/var/lib/kubelet/kubeconfig")]),        false),
            (with(&[host("/etc/kubernetes/kubelet.conf")]),       false),
            (with(&[host("/opt/edge/kubelet.kubeconfig")]),       false),
            (with(&[host("/run"), json!({"name": "i", "hostPath": {"path": "/etc/kubernetes"}})]), false),
            // A token that is data.
            (with(&[secret("token")]),                            false),
            (with(&[projected("token")]),                         false),
            // Nobody can look: that is its own reason.
            (with(&[secret("sealed")]),                           false),
            (with(&[secret("keyless")]),                          false),
            (with(&[secret("forbidden")]),                        false),
            (with(&[secret("damaged")]),                          false),
            // Only what is mounted counts.
            (json!({"volumes": with(&[])["volumes"], "containers": [{"name": "c"}]}),            false),
            (mounted_in("containers", json!({"name": "t", "mountPath": "/m"})),                  true),
            (mounted_in("initContainers", json!({"name": "h", "mountPath": "/m"})),              false),
            (mounted_in("initContainers", json!({"name": "other", "mountPath": "/m"})),          true),
            // No projected token at all.
            (json!({"containers": [{"name": "c"}]}),                                             false),
            (json!({"volumes": [projected("plain")], "containers": [{"name": "c", "volumeMounts": [{"name": "s", "mountPath": "/m"}]}]}), false),
        ];
        for (spec, want) in rows {
            assert_eq!(token_only(&parsed(&spec), &Shelf), want.then(|| "t".to_owned()), "{spec}");
        }
    }
}
