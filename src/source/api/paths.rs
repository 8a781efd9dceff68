//! The requests that are made, as paths. Every one names this node or one object: that is all a node may ask for.

use crate::checkpoint::object::{Kind, ObjectKey};

/// `metadata.name` and `spec.nodeName` are DNS names, so that nothing but the selector's own signs needs encoding.
const IS: &str = "%3D";
const AND: &str = "%2C";

/// The pods of `node`, from the watch cache (`resourceVersion=0`), as the kubelet lists them: a consistent listing of all
/// pods costs old API servers a scan of the cluster. What such a listing lacks is therefore not proven to be gone.
pub(super) fn pods_of(node: &str) -> String {
    format!("/api/v1/pods?fieldSelector=spec.nodeName{IS}{node}&resourceVersion=0")
}

/// Changes of the pods of `node`.
pub(super) fn watch_pods_of(node: &str, resource_version: &str, timeout_s: u64) -> String {
    format!("/api/v1/pods?fieldSelector=spec.nodeName{IS}{node}{}", watch(resource_version, timeout_s))
}

/// One pod of `node`, read consistently: an empty answer proves that it is gone.
pub(super) fn pod_of(pod: &ObjectKey, node: &str) -> String {
    let name = pod.name();
    format!(
        "{}?fieldSelector=metadata.name{IS}{name}{AND}spec.nodeName{IS}{node}",
        collection(pod.kind(), pod.namespace())
    )
}

/// One object as a listing, read consistently: it has a position to watch from, and says so if there is none.
pub(super) fn listing_of(object: &ObjectKey) -> String {
    let of = collection(object.kind(), object.namespace());
    format!("{of}?fieldSelector=metadata.name{IS}{}", object.name())
}

/// Changes of one object.
pub(super) fn watch_of(object: &ObjectKey, resource_version: &str, timeout_s: u64) -> String {
    format!("{}{}", listing_of(object), watch(resource_version, timeout_s))
}

/// One object by its name.
pub(super) fn object(object: &ObjectKey) -> String {
    format!("{}/{}", collection(object.kind(), object.namespace()), object.name())
}

/// The Services of a namespace, from the watch cache.
pub(super) fn services_in(namespace: &str) -> String {
    format!("{}?resourceVersion=0", collection(Kind::Service, namespace))
}

/// The next page of a listing.
pub(super) fn next_page(path: &str, token: &str) -> String {
    // A page goes on at the revision of the first one; the API server refuses a resourceVersion beside the token.
    let path = path.replace("&resourceVersion=0", "").replace("?resourceVersion=0", "");
    let sign = if path.contains('?') { '&' } else { '?' };
    let mut encoded = String::with_capacity(token.len());
    for byte in token.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("{path}{sign}continue={encoded}")
}

fn collection(kind: Kind, namespace: &str) -> String {
    let plural = kind.row().plural;
    if namespace.is_empty() { format!("/api/v1/{plural}") } else { format!("/api/v1/namespaces/{namespace}/{plural}") }
}

fn watch(resource_version: &str, timeout_s: u64) -> String {
    format!("&watch=1&allowWatchBookmarks=true&resourceVersion={resource_version}&timeoutSeconds={timeout_s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_names_the_node_or_one_object() {
        let secret = ObjectKey::new(Kind::Secret, "shop", "db").unwrap();
        let pod = ObjectKey::new(Kind::Pod, "shop", "web-0").unwrap();
        let node = ObjectKey::new(Kind::Node, "", "edge-1").unwrap();
        #[rustfmt::skip]
        let rows = [
            (pods_of("edge-1"),              "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1&resourceVersion=0"),
            (watch_pods_of("edge-1", "7", 9), "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1&watch=1&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=9"),
            (pod_of(&pod, "edge-1"),         "/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Dweb-0%2Cspec.nodeName%3Dedge-1"),
            (listing_of(&secret),            "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Ddb"),
            (watch_of(&secret, "7", 9),      "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Ddb&watch=1&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=9"),
            (object(&secret),                "/api/v1/namespaces/shop/secrets/db"),
            (listing_of(&node),              "/api/v1/nodes?fieldSelector=metadata.name%3Dedge-1"),
            (services_in("shop"),            "/api/v1/namespaces/shop/services?resourceVersion=0"),
            (next_page(&pods_of("e"), "a+/="), "/api/v1/pods?fieldSelector=spec.nodeName%3De&continue=a%2B%2F%3D"),
            (next_page(&services_in("s"), "t"), "/api/v1/namespaces/s/services?continue=t"),
        ];
        for (found, want) in rows {
            assert_eq!(found, want);
        }
    }
}
