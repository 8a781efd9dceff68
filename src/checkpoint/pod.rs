//! A stored Pod as a JSON tree whose types were checked, so that later code can read fields without asking again.
//!
//! The typed Pod of k8s-openapi only serves as the check: it drops fields it doesn't know, and those must survive.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::json::{self, ClearTree};
use super::object::{Kind, NameError, Object, ObjectKey, Shown};
use super::{ANNOTATION_CHECKPOINT, ANNOTATION_CHECKPOINT_OF, ANNOTATION_PARENT_UID};

/// A stored pod can't be read. Never carries a value of the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {pod}: {problem}")]
pub struct PodError {
    /// The pod.
    pub pod: ObjectKey,
    /// What is wrong with it.
    pub problem: PodProblem,
}

/// What is wrong with a stored pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodProblem {
    /// The object is of another kind.
    #[error("it is no Pod")]
    NotAPod,
    /// The stored bytes are not JSON, or nested too deeply.
    #[error("not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the body, from 1.
        line: usize,
        /// Column of the body in bytes, from 1.
        column: usize,
    },
    /// A field's value has a type that Kubernetes does not allow there, or a required part of it is absent.
    #[error("{field} is not what the Pod API (Kubernetes 1.37) allows there")]
    WrongType {
        /// The field, as a JSON path in the pod.
        field: String,
    },
    /// It names more objects than are followed or stored for one pod.
    #[error("it names {0} ConfigMaps and Secrets; more than {max} are not kept for one pod", max = super::closure::REFERENCES_MAX)]
    TooManyReferences(usize),
    /// A field that names another object has a name that Kubernetes does not allow.
    #[error("{field}: {problem}")]
    Name {
        /// The field, as a JSON path in the pod.
        field: String,
        /// What is wrong with the name.
        problem: NameError,
    },
}

/// A Pod whose tree has the types of the Pod API, without `null` members.
pub(crate) struct ParentPod {
    /// What it is called: the store's key wins over the names inside the body.
    pub(crate) key: ObjectKey,
    /// `metadata.uid` as stored; empty where a hand-written manifest has none.
    pub(crate) uid: String,
    /// Members below `spec` that this version's Pod API doesn't know.
    pub(crate) unknown: Vec<String>,
    tree: ClearTree,
}

static ABSENT: Value = Value::Null;

impl ParentPod {
    /// Reads a stored pod.
    ///
    /// # Errors
    /// [`PodError`] names the field; nothing of the body is repaired or dropped.
    pub(crate) fn parse(object: &Object) -> Result<Self, PodError> {
        let refuse = |problem| PodError { pod: object.key.clone(), problem };
        if object.key.kind() != Kind::Pod {
            return Err(refuse(PodProblem::NotAPod));
        }
        let value = serde_json::from_slice(object.body.expose())
            .map_err(|error| refuse(PodProblem::NotJson { line: error.line(), column: error.column() }))?;
        let mut tree = ClearTree(value);
        json::drop_nulls(&mut tree.0);
        let unknown = check_types(&tree.0).map_err(|field| refuse(PodProblem::WrongType { field }))?;
        let uid = if object.uid.is_empty() {
            json::text(tree.0.get("metadata").unwrap_or(&ABSENT), "uid").unwrap_or_default().to_owned()
        } else {
            object.uid.clone()
        };
        Ok(Self { key: object.key.clone(), uid, unknown, tree })
    }

    pub(crate) fn metadata(&self) -> &Value {
        self.tree.0.get("metadata").unwrap_or(&ABSENT)
    }

    pub(crate) fn spec(&self) -> &Value {
        self.tree.0.get("spec").unwrap_or(&ABSENT)
    }

    /// `status` is not type-checked: it is only looked at, and a strange one must not cost the pod.
    pub(crate) fn status(&self) -> &Value {
        self.tree.0.get("status").unwrap_or(&ABSENT)
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata().get("annotations").and_then(|all| json::text(all, name))
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.metadata().get("labels").and_then(|all| json::text(all, name))
    }

    /// The name in the copy's `checkpoint-of`: a copy that is translated again keeps what it says.
    pub(crate) fn parent_name(&self) -> &str {
        self.annotation(ANNOTATION_CHECKPOINT_OF).unwrap_or(self.key.name())
    }

    /// The UID for the copy's annotation; empty if nobody knows it.
    pub(crate) fn parent_uid(&self) -> &str {
        if self.uid.is_empty() { self.annotation(ANNOTATION_PARENT_UID).unwrap_or_default() } else { &self.uid }
    }

    /// Whether the operator asked for this pod by annotation.
    pub(crate) fn annotated(&self) -> bool {
        self.annotation(ANNOTATION_CHECKPOINT) == Some("true")
    }

    pub(crate) fn host_network(&self) -> bool {
        json::flag(self.spec(), "hostNetwork")
    }

    /// Containers and init containers, each with its path. Ephemeral containers never come back.
    pub(crate) fn containers(&self) -> impl Iterator<Item = (String, &Value)> {
        ["containers", "initContainers"].into_iter().flat_map(|list| {
            json::items(self.spec(), list).iter().enumerate().map(move |(n, c)| (format!("spec.{list}[{n}]"), c))
        })
    }
}

/// Checks the tree part by part, so that an error can name the part without quoting its contents.
///
/// Returns the unknown members below `spec`; the error is the path of the offending part.
fn check_types(pod: &Value) -> Result<Vec<String>, String> {
    if !pod.is_object() {
        return Err("the document".to_owned());
    }
    part::<ObjectMeta>(pod.get("metadata").unwrap_or(&json!({})), "metadata")?;
    let spec = pod.get("spec").ok_or("spec")?;
    for list in ["containers", "initContainers"] {
        for (n, container) in json::items(spec, list).iter().enumerate() {
            container_part(container, &format!("spec.{list}[{n}]"))?;
        }
    }
    for (n, volume) in json::items(spec, "volumes").iter().enumerate() {
        part::<api::Volume>(volume, &format!("spec.volumes[{n}]"))?;
    }
    let known = part::<api::PodSpec>(spec, "spec")?;
    if known.containers.is_empty() {
        return Err("spec.containers".to_owned());
    }
    let known = ClearTree(serde_json::to_value(known).map_err(|_| "spec")?);
    // A member's name may be any text; it is about to be shown.
    let unknown = json::unknown_members(spec, &known.0, "spec");
    Ok(unknown
        .into_iter()
        .map(|path| if path.contains(char::is_control) { Shown::new(&path).to_string() } else { path })
        .collect())
}

fn container_part(container: &Value, path: &str) -> Result<(), String> {
    for (n, variable) in json::items(container, "env").iter().enumerate() {
        part::<api::EnvVar>(variable, &format!("{path}.env[{n}]"))?;
    }
    part::<api::Container>(container, path).map(|_| ())
}

fn part<T: DeserializeOwned>(value: &Value, path: &str) -> Result<T, String> {
    // serde's own text would quote the value.
    T::deserialize(value).map_err(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn pod_object(body: &str) -> Object {
        let key = ObjectKey::new(Kind::Pod, "default", "web").unwrap();
        Object { key, uid: String::new(), resource_version: String::new(), body: body.to_owned().into() }
    }

    #[test]
    fn wrong_types_are_named_and_never_quoted() {
        #[rustfmt::skip]
        let rows = [
            (r#"{"spec":{"containers":[{"name":"a","image":"canary"}]"#,                         "not JSON (line 1, column 53)"),
            (r#"["canary"]"#,                                                                     "the document is not"),
            (r#"{"metadata":{"labels":"canary"},"spec":{"containers":[{"name":"a"}]}}"#,          "metadata is not"),
            (r#"{"metadata":{}}"#,                                                                "spec is not"),
            (r#"{"spec":{"containers":[]}}"#,                                                     "spec.containers is not"),
            (r#"{"spec":{"containers":[{"name":["canary"]}]}}"#,                                  "spec.containers[0] is not"),
            (r#"{"spec":{"containers":[{"name":"a","env":[{"name":"A","value":{"canary":1}}]}]}}"#, "spec.containers[0].env[0] is not"),
            (r#"{"spec":{"containers":[{"name":"a"}],"volumes":[{"name":"v","secret":"canary"}]}}"#, "spec.volumes[0] is not"),
            (r#"{"spec":{"containers":[{"name":"a"}],"hostNetwork":"canary"}}"#,                  "spec is not"),
        ];
        for (body, want) in rows {
            let message = ParentPod::parse(&pod_object(body)).err().expect(want).to_string();
            assert!(message.starts_with(&format!("cannot read Pod default/web: {want}")), "{message}");
            assert!(!message.contains("canary"), "{message}");
        }
    }

    #[test]
    fn unknown_members_are_found_and_quantities_may_be_numbers() {
        let pod = ParentPod::parse(&pod_object(
            r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":2}},"new":1,"env":[{"name":"A","value":null}]}],"fresh":{"x":1}}}"#,
        ))
        .unwrap();
        assert_eq!(pod.unknown, ["spec.containers[0].new", "spec.fresh"]);
    }

    #[test]
    fn another_kind_is_no_pod() {
        let mut object = pod_object("{}");
        object.key = ObjectKey::new(Kind::Secret, "default", "web").unwrap();
        assert_eq!(ParentPod::parse(&object).err().unwrap().problem, PodProblem::NotAPod);
    }
}
