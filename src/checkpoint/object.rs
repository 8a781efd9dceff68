//! What an object is called: the stored kinds as a table, validated names, and an object's body as the server sent it.
//!
//! A [`ObjectKey`] can only be made from names that Kubernetes allows, so no later code has to ask whether a name could
//! leave its directory, break a log line or collide with another field.

use std::fmt;
use std::sync::Arc;

use crate::clear::Clear;

/// A kind that the store keeps. Adding one means adding a row to [`Kind::row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Pod: the parents.
    Pod,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Secret: the only kind whose body is sealed.
    Secret,
    /// `v1` Service: for the Service environment variables.
    Service,
    /// `v1` Node: this node itself.
    Node,
}

/// What the program knows of a kind.
#[derive(Clone, Copy, Debug)]
pub struct KindRow {
    /// The `kind` field, as in the API.
    pub name: &'static str,
    /// The `apiVersion` field.
    pub api_version: &'static str,
    /// The resource name, as in URLs and on `kubectl`'s command line.
    pub plural: &'static str,
    /// The short name that `kubectl` knows.
    pub short: &'static str,
    /// Whether objects of it live in a namespace.
    pub namespaced: bool,
    /// Whether its body is sealed before it is written.
    pub sealed: bool,
}

impl Kind {
    /// All stored kinds, in the order in which listings show them.
    pub const ALL: [Self; 5] = [Self::Pod, Self::ConfigMap, Self::Secret, Self::Service, Self::Node];

    /// This kind's row of the table.
    #[must_use]
    pub const fn row(self) -> KindRow {
        const fn row(
            name: &'static str,
            plural: &'static str,
            short: &'static str,
            namespaced: bool,
            sealed: bool,
        ) -> KindRow {
            KindRow { name, api_version: "v1", plural, short, namespaced, sealed }
        }
        match self {
            Self::Pod => row("Pod", "pods", "po", true, false),
            Self::ConfigMap => row("ConfigMap", "configmaps", "cm", true, false),
            Self::Secret => row("Secret", "secrets", "secret", true, true),
            Self::Service => row("Service", "services", "svc", true, false),
            Self::Node => row("Node", "nodes", "no", false, false),
        }
    }

    /// The kind with this `kind` field, if the store keeps it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.row().name == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// `metadata.name` is no RFC 1123 subdomain of at most 253 characters.
    #[error("metadata.name {0} is not a lower-case RFC 1123 subdomain of at most 253 characters")]
    Name(Shown),
    /// `metadata.namespace` is no RFC 1123 label of at most 63 characters.
    #[error("metadata.namespace {0} is not a lower-case RFC 1123 label of at most 63 characters")]
    Namespace(Shown),
    /// A namespaced kind without a namespace, or a cluster-wide kind with one.
    #[error("kind {kind} {}", if .kind.row().namespaced { "needs a namespace" } else { "takes no namespace" })]
    Scope {
        /// The kind.
        kind: Kind,
    },
}

/// A string of unknown origin made fit for a message: quoted, control characters escaped, at most 64 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    /// Makes `text` fit to be shown.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut shown: String = text.chars().take(64).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Self(format!("{shown:?}"))
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one stored object. The names in it are valid by construction.
///
/// Cheap to clone: a followed object has its key in half a dozen maps and tasks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    kind: Kind,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ObjectKey {
    /// Checks the names against the rules of the API server (`namespace` is empty for cluster-wide kinds).
    ///
    /// # Errors
    /// [`NameError`] names the offending field; nothing is normalised.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Result<Self, NameError> {
        if kind.row().namespaced == namespace.is_empty() {
            return Err(NameError::Scope { kind });
        }
        if kind.row().namespaced && !is_dns_label(namespace) {
            return Err(NameError::Namespace(Shown::new(namespace)));
        }
        if !is_dns_subdomain(name) {
            return Err(NameError::Name(Shown::new(name)));
        }
        Ok(Self { kind, namespace: namespace.into(), name: name.into() })
    }

    /// The object's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `metadata.namespace`, empty for cluster-wide kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `Secret kube-system/etcd-certs`, or `Node edge-1`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// RFC 1123 label: 1 to 63 of `[a-z0-9-]`, neither first nor last a dash.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain: 1 to 253 characters, dot-separated parts of `[a-z0-9-]`, none empty or with a dash at its ends
/// (`apimachinery/pkg/util/validation`, `IsDNS1123Subdomain`; its parts may be longer than 63 characters).
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// One object as the server sent it: the JSON of the whole object, less `metadata.managedFields`.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is called.
    pub key: ObjectKey,
    /// `metadata.uid`; empty where a hand-written manifest has none.
    pub uid: String,
    /// `metadata.resourceVersion`; compared for equality only. Empty where a hand-written manifest has none.
    pub resource_version: String,
    /// The object's JSON. In [`Clear`] for every kind: a Secret's body is clear text.
    pub body: Clear,
}

/// Never shows the body.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key)
            .field("uid", &self.uid)
            .field("resource_version", &self.resource_version)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_api_server_takes() {
        let longest = "a".repeat(253);
        #[rustfmt::skip]
        let rows = [
            (Kind::Pod, "default", "web-0", true),
            (Kind::Pod, "default", "a.b-c.d", true),
            (Kind::Pod, "default", longest.as_str(), true),
            (Kind::Node, "", "edge-1.example.net", true),
            (Kind::Pod, "default", "", false),
            (Kind::Pod, "default", "..", false),
            (Kind::Pod, "default", "a..b", false),
            (Kind::Pod, "default", "a/b", false),
            (Kind::Pod, "default", "a\0b", false),
            (Kind::Pod, "default", "a_b", false),
            (Kind::Pod, "default", "Web", false),
            (Kind::Pod, "default", "-a", false),
            (Kind::Pod, "default", "a-", false),
            (Kind::Pod, "default", "a\nb", false),
            (Kind::Pod, "", "web", false),
            (Kind::Pod, "a.b", "web", false),
            (Kind::Pod, "..", "web", false),
            (Kind::Node, "default", "edge-1", false),
        ];
        for (kind, namespace, name, want) in rows {
            assert_eq!(ObjectKey::new(kind, namespace, name).is_ok(), want, "{kind} {namespace:?} {name:?}");
        }
        assert!(ObjectKey::new(Kind::Pod, "default", &"a".repeat(254)).is_err());
    }

    #[test]
    fn a_message_never_carries_a_control_character() {
        assert_eq!(Shown::new("a\x1b[31m").to_string(), r#""a\u{1b}[31m""#);
        assert!(Shown::new(&"x".repeat(300)).to_string().chars().count() < 70);
    }

    #[test]
    fn debug_of_an_object_hides_its_body() {
        let key = ObjectKey::new(Kind::Secret, "default", "s").unwrap();
        let object =
            Object { key, uid: String::new(), resource_version: String::new(), body: b"canary".to_vec().into() };
        assert!(!format!("{object:?}").contains("canary"));
    }
}
