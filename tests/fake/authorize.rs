//! The Node authorizer in short: what `system:node:<name>` may read, and what the server says otherwise.

use ckpt_db::checkpoint::object::Kind;
use serde_json::Value;

use super::Options;
use super::request::{Request, Verb};
use super::store::Objects;

/// Why a request is refused, in the server's words; none if it is allowed.
pub(super) fn refusal(options: &Options, objects: &Objects, request: &Request) -> Option<String> {
    let kind = request.kind?;
    let secret = matches!(kind, Kind::Secret | Kind::ConfigMap);
    if options.get_only && secret && request.verb != Verb::Get {
        return Some(forbidden(request, ""));
    }
    if !options.node_authorizer {
        return None;
    }
    let node = options.node_name.as_str();
    let named = request.name.as_deref();
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let name = named.unwrap_or_default();
    let reason = match (kind, request.verb) {
        (Kind::Service, _) => return None,
        (Kind::Pod, Verb::Get) => match objects.get(&(kind, namespace.to_owned(), name.to_owned())) {
            Some(pod) if pod["spec"]["nodeName"] == node => return None,
            _ => unrelated(node),
        },
        (Kind::Pod, _) if request.node.as_deref() == Some(node) => return None,
        (Kind::Pod, _) => ": can only list/watch pods with spec.nodeName field selector".to_owned(),
        (Kind::Node, _) if named == Some(node) => return None,
        (Kind::Node, _) => format!(": node '{node}' cannot read all nodes, only its own Node object"),
        (Kind::Secret | Kind::ConfigMap, _) if named.is_none() || request.namespace.is_none() => {
            ": No Object name found".to_owned()
        }
        (Kind::Secret | Kind::ConfigMap, _) => {
            let mut pods = objects.iter().filter(|((kind, in_namespace, _), pod)| {
                *kind == Kind::Pod && in_namespace == namespace && pod["spec"]["nodeName"] == node
            });
            if pods.any(|(_, pod)| references(pod, kind, name)) {
                return None;
            }
            unrelated(node)
        }
    };
    Some(forbidden(request, &reason))
}

fn unrelated(node: &str) -> String {
    format!(": no relationship found between node '{node}' and this object")
}

fn forbidden(request: &Request, reason: &str) -> String {
    let plural = request.kind.expect("asked for resources only").row().plural;
    let subject = request.name.as_ref().map_or(plural.to_owned(), |name| format!("{plural} \"{name}\""));
    let user = request.user.as_deref().unwrap_or("system:anonymous");
    let verb = match request.verb {
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Watch => "watch",
        Verb::Other => "change",
    };
    let scope = match &request.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    format!(
        "{subject} is forbidden: User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"\" {scope}{reason}"
    )
}

/// Whether the pod names this Secret or ConfigMap, wherever the authorizer's graph looks.
fn references(pod: &Value, kind: Kind, name: &str) -> bool {
    let spec = &pod["spec"];
    let (volume, volume_name, key_ref, env_ref) = match kind {
        Kind::Secret => ("secret", "secretName", "secretKeyRef", "secretRef"),
        Kind::ConfigMap => ("configMap", "name", "configMapKeyRef", "configMapRef"),
        Kind::Pod | Kind::Service | Kind::Node => return false,
    };
    let containers = ["initContainers", "containers", "ephemeralContainers"].map(|field| items(&spec[field])).concat();
    let by_container = containers.iter().any(|container| {
        items(&container["env"]).iter().any(|env| env["valueFrom"][key_ref]["name"] == name)
            || items(&container["envFrom"]).iter().any(|from| from[env_ref]["name"] == name)
    });
    let by_volume = items(&spec["volumes"]).iter().any(|source| {
        source[volume][volume_name] == name
            || items(&source["projected"]["sources"]).iter().any(|source| source[volume]["name"] == name)
            || kind == Kind::Secret && by_driver(source, name)
    });
    let by_pull = kind == Kind::Secret && items(&spec["imagePullSecrets"]).iter().any(|secret| secret["name"] == name);
    by_container || by_volume || by_pull
}

/// Volume sources of storage drivers that name a Secret.
fn by_driver(volume: &Value, name: &str) -> bool {
    volume["azureFile"]["secretName"] == name
        || volume.as_object().into_iter().flatten().any(|(_, source)| {
            ["secretRef", "nodePublishSecretRef"].iter().any(|reference| source[*reference]["name"] == name)
        })
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}
