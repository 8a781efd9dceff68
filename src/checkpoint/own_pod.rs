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
        named.filter(|(name, _)| mounted.contains(name)).map(|(name, volume)| (name, volume))
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
    if path.iter().any(|part| part == "..") {
        return false;
    }
    let above = CREDENTIALS.iter().any(|place| {
        let place: Vec<String> = parts(place);
        place.starts_with(&path)
    });
    let named = path.last().is_some_and(|last| last == "pki" || last.contains("kubeconfig") || last == "kubelet.conf");
    above || named
}
