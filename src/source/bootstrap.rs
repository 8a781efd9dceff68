//! The files of bootstrap checkpointing: `Pod_<UID>.yaml`, one pod each. Reading those of any kubelet that wrote such, and
//! writing our own. Pure.
//!
//! Three forms are read:
//!
//! - ours: a manifest below two comment lines, the second of which has the SHA-256 of everything below it;
//! - that of kubelets 1.10 to 1.18: JSON, `{"Pod": ..., "Checksum": n}`. Their checksum is one of the Go structure in memory,
//!   printed with the fields that it had in that very version, so that nobody else can compute it again; in its place it is
//!   checked that the JSON is whole, has just these two members, and holds a pod that the API would take;
//! - that of kubelet 1.9, and of people: a manifest.
//!
//! In each of them the pod has the UID that the file's name says.

use serde_json::Value;

use super::admit::admit;
use super::document::documents;
use super::text::{self, Form, NotAnObject};
use super::tree::{Tree, roots};
use crate::checkpoint::object::{Kind, Object, Shown};
use crate::clear::Clear;
use crate::crypto::sha256;

/// Pods that have it as `true` are written.
pub const ANNOTATION: &str = "node.kubernetes.io/bootstrap-checkpoint";

/// One file may be this large at most: no pod that is stored takes more as YAML.
pub const FILE_MAX_BYTES: u64 = 32 * 1024 * 1024;

const FIRST_LINE: &str =
    "# Bootstrap checkpoint of a pod, written by ckpt-db. Whoever changes it by hand removes the next line.\n";
const DIGEST_LINE: &str = "# sha256 of what follows: ";

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The pod.
    pub pod: Object,
    /// Who has written it, as far as the file tells.
    pub writer: Writer,
}

/// Who has written a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// This program: the digest is right.
    Us,
    /// A kubelet from 1.10 on: the form is right, and its checksum can't be computed again.
    Kubelet,
    /// A kubelet 1.9, or somebody by hand: there is no checksum.
    Unknown,
}

/// Why a file is no checkpoint. Carries nothing of the pod but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The digest is another one.
    #[error("its SHA-256 is not what it says: it is damaged, or was changed by hand (then remove its second line)")]
    Digest,
    /// It is no YAML and no JSON, or cut off.
    #[error("line {line}: {what}")]
    Malformed {
        /// From 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// It holds nothing, or several documents.
    #[error("it holds {0} documents, and should hold one pod")]
    NotOne(usize),
    /// It looks like a kubelet's, and is not.
    #[error("it has the form of a kubelet's checkpoint, but {0}")]
    Kubelet(&'static str),
    /// It is no pod, or none that could be stored.
    #[error("{0}")]
    NoPod(String),
    /// The pod has another UID than the name of the file says.
    #[error("the pod in it has the UID {0}, and the name of the file says another one")]
    OtherUid(Shown),
}

/// The name of the file of a pod with this UID. `None` if none can be made of it: it is empty, or has something else than
/// letters, digits and dashes.
#[must_use]
pub fn file_name(uid: &str) -> Option<String> {
    let fits = (1..=128).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then(|| format!("Pod_{uid}.yaml"))
}

/// The UID in the name of such a file; `None` for all other names.
#[must_use]
pub fn uid_of(file_name: &str) -> Option<&str> {
    let uid = file_name.strip_prefix("Pod_")?.strip_suffix(".yaml")?;
    self::file_name(uid).is_some().then_some(uid)
}

/// Whether a pod is to be written: it has the annotation, and is a parent, no mirror of a static pod.
#[must_use]
pub fn is_wanted(pod: &Object) -> bool {
    // Most pods are not annotated, and need not be parsed.
    let named = pod.body.expose().windows(ANNOTATION.len()).any(|part| part == ANNOTATION.as_bytes());
    if pod.key.kind() != Kind::Pod || !named {
        return false;
    }
    let Ok(tree) = serde_json::from_slice(pod.body.expose()).map(Tree) else { return false };
    let annotation = |name: &str| tree.0.pointer("/metadata/annotations")?.get(name)?.as_str().map(str::to_owned);
    let is_parent = annotation("kubernetes.io/config.mirror").is_none()
        && annotation("kubernetes.io/config.source").is_none_or(|source| source == "api");
    is_parent && annotation(ANNOTATION).as_deref() == Some("true")
}

/// The text of a pod's file.
///
/// # Errors
/// [`NotAnObject`].
pub fn write(pod: &Object) -> Result<Clear, NotAnObject> {
    let manifest = text::whole(pod, Form::Yaml)?;
    let head = format!("{FIRST_LINE}{DIGEST_LINE}{}\n", hex(manifest.expose()));
    let mut all = Vec::with_capacity(head.len() + manifest.len());
    all.extend_from_slice(head.as_bytes());
    all.extend_from_slice(manifest.expose());
    Ok(Clear::new(all))
}

/// Reads the file of the pod with this UID.
///
/// # Errors
/// [`Unreadable`].
pub fn read(uid: &str, text: &[u8]) -> Result<Checkpoint, Unreadable> {
    let ours = digest_line(text).map(|(digest, rest)| digest == hex(rest).as_bytes());
    if ours == Some(false) {
        return Err(Unreadable::Digest);
    }
    let documents = documents(text);
    let [document] = documents.as_slice() else { return Err(Unreadable::NotOne(documents.len())) };
    let (mut found, malformed) = roots(*document);
    if let Some(malformed) = malformed {
        return Err(Unreadable::Malformed { line: malformed.at.line, what: malformed.what });
    }
    let [root] = found.as_mut_slice() else { return Err(Unreadable::NotOne(found.len())) };
    let mut tree = Tree(root.tree.take());
    let mut writer = if ours.is_some() { Writer::Us } else { Writer::Unknown };
    if ours.is_none()
        && let Some(pod) = of_kubelet(&mut tree)?
    {
        tree = pod;
        writer = Writer::Kubelet;
    }
    if let Value::Object(fields) = &mut tree.0 {
        // Kubelets leave these out: the type of the structure said it.
        for (field, value) in [("kind", "Pod"), ("apiVersion", "v1")] {
            if !fields.contains_key(field) {
                fields.shift_insert(0, field.to_owned(), value.into());
            }
        }
    }
    let pod = admit(tree).map_err(|refused| {
        let object = refused.object.map(|object| format!("{object}: ")).unwrap_or_default();
        Unreadable::NoPod(format!("{object}{}", refused.message))
    })?;
    if pod.key.kind() != Kind::Pod {
        return Err(Unreadable::NoPod(format!("it holds {}, no pod", pod.key)));
    }
    if pod.uid != uid {
        return Err(Unreadable::OtherUid(Shown::new(&pod.uid)));
    }
    Ok(Checkpoint { pod, writer })
}

/// The digest that stands in front, and what it is of.
fn digest_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = text.strip_prefix(FIRST_LINE.as_bytes())?.strip_prefix(DIGEST_LINE.as_bytes())?;
    let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    Some((&rest[..end], rest.get(end + 1..).unwrap_or_default()))
}

/// The pod of `{"Pod": ..., "Checksum": n}`; `None` if the tree has another form.
fn of_kubelet(tree: &mut Tree) -> Result<Option<Tree>, Unreadable> {
    let Value::Object(fields) = &mut tree.0 else { return Ok(None) };
    // A manifest has neither.
    if !fields.contains_key("Pod") && !fields.contains_key("Checksum") {
        return Ok(None);
    }
    if fields.keys().any(|field| !["Pod", "Checksum"].contains(&field.as_str())) {
        return Err(Unreadable::Kubelet("it has other members than Pod and Checksum"));
    }
    if !fields.get("Checksum").is_some_and(Value::is_u64) {
        return Err(Unreadable::Kubelet("its Checksum is missing or no number"));
    }
    match fields.get_mut("Pod").map(Value::take).map(Tree) {
        Some(pod) if pod.0.is_object() => Ok(Some(pod)),
        Some(_) | None => Err(Unreadable::Kubelet("its Pod is missing or no object")),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&sha256(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::object::ObjectKey;

    const UID: &str = "0c5f7d7e-9d5a-11e7-8b3c-080027a2b1c4";

    fn pod(annotations: Value) -> Object {
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "uid": UID, "resourceVersion": "7", "annotations": annotations},
            "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i:1", "args": ["yes", "a\n---\nb"]}]},
            "status": {"phase": "Running"},
        });
        Object {
            key: ObjectKey::new(Kind::Pod, "shop", "web").unwrap(),
            uid: UID.to_owned(),
            resource_version: "7".to_owned(),
            body: body.to_string().into(),
        }
    }

    /// As kubelet 1.12 has written it, by the layout of its `checkpoint.Data`: no type, empty members, one line.
    fn of_kubelet_1_12() -> String {
        format!(
            r#"{{"Pod":{{"metadata":{{"name":"web","namespace":"shop","selfLink":"/api/v1/namespaces/shop/pods/web","uid":"{UID}","resourceVersion":"7","creationTimestamp":"2018-11-05T10:02:03Z","annotations":{{"{ANNOTATION}":"true"}}}},"spec":{{"containers":[{{"name":"c","image":"i:1","resources":{{"requests":{{"cpu":"100m"}}}},"terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","nodeName":"edge-1"}},"status":{{"phase":"Running","qosClass":"Burstable"}}}},"Checksum":2863311530}}"#
        )
    }

    #[test]
    fn what_is_written_is_read_back_as_it_was() {
        let pod = pod(json!({ANNOTATION: "true"}));
        let text = write(&pod).unwrap();
        let found = read(UID, text.expose()).unwrap();
        assert_eq!(found, Checkpoint { pod, writer: Writer::Us });
        let text = std::str::from_utf8(text.expose()).unwrap();
        assert_eq!(text.lines().nth(2), Some("apiVersion: v1"), "and it is a manifest for people:\n{text}");
    }

    #[test]
    fn every_flipped_bit_of_ours_is_found() {
        let text = write(&pod(json!({ANNOTATION: "true"}))).unwrap();
        let start = FIRST_LINE.len() + DIGEST_LINE.len();
        for at in start..text.len() {
            let mut bytes = text.expose().to_vec();
            bytes[at] ^= 1;
            assert!(read(UID, &bytes).is_err(), "byte {at}");
        }
        for len in 0..text.len() {
            let cut = read(UID, &text.expose()[..len]);
            // The last octet is a line break, without which the digest is another one.
            assert!(cut.is_err(), "cut after {len}");
        }
        // Whoever takes the digest away takes responsibility.
        let manifest = text.expose().splitn(3, |&b| b == b'\n').nth(2).unwrap();
        assert_eq!(read(UID, manifest).unwrap().writer, Writer::Unknown);
    }

    #[test]
    fn those_of_old_kubelets_are_read() {
        let found = read(UID, of_kubelet_1_12().as_bytes()).unwrap();
        assert_eq!((found.writer, found.pod.key.to_string()), (Writer::Kubelet, "Pod shop/web".to_owned()));
        assert!(is_wanted(&found.pod));
        let body: Value = serde_json::from_slice(found.pod.body.expose()).unwrap();
        assert_eq!((&body["kind"], &body["spec"]["nodeName"]), (&json!("Pod"), &json!("edge-1")));
        // And what we write of it, in turn.
        let again = read(UID, write(&found.pod).unwrap().expose()).unwrap();
        assert_eq!(again, Checkpoint { writer: Writer::Us, ..found });
        // Kubelet 1.9: a versioned manifest.
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\n  uid: {UID}\nspec:\n  containers:\n  - image: i:1\n    name: c\n"
        );
        assert_eq!(read(UID, yaml.as_bytes()).unwrap().writer, Writer::Unknown);
    }

    #[test]
    fn damaged_ones_are_refused_and_say_why() {
        let kubelet = of_kubelet_1_12();
        let (head, _) = kubelet.split_once(r#","Checksum""#).unwrap();
        #[rustfmt::skip]
        let rows = [
            // text                                                       what is said
            (String::new(),                                               "0 documents"),
            ("\0\0\0\0".to_owned(),                                       "line 1"),
            (kubelet[..kubelet.len() / 2].to_owned(),                     "invalid JSON"),
            (format!("{head}}}"),                                         "Checksum is missing"),
            (kubelet.replace("2863311530", "\"2863311530\""),             "Checksum is missing or no number"),
            (kubelet.replace("2863311530", "-1"),                         "Checksum is missing or no number"),
            (kubelet.replacen("\"Pod\"", "\"Cod\"", 1),                   "other members"),
            (r#"{"Pod":null,"Checksum":1}"#.to_owned(),                   "Pod is missing"),
            (r#"{"Checksum":1}"#.to_owned(),                              "Pod is missing"),
            (kubelet.replace("\"containers\"", "\"kontainers\""),         "containers"),
            (kubelet.replace(UID, "another"),                             "another"),
            (format!("{kubelet}\n{kubelet}"),                             "2 documents"),
            (format!("{kubelet}\n---\n{kubelet}"),                        "2 documents"),
            ("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n".to_owned(), "no pod"),
            ("apiVersion: apps/v1\nkind: Pod\n".to_owned(),               "not stored"),
            ("just text\n".to_owned(),                                    "not a mapping"),
        ];
        for (text, want) in rows {
            let error = read(UID, text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn names_of_files_are_those_of_the_kubelet_and_never_leave_their_directory() {
        assert_eq!(file_name(UID).as_deref(), Some("Pod_0c5f7d7e-9d5a-11e7-8b3c-080027a2b1c4.yaml"));
        for uid in ["", "..", "a/b", "../x", "a b", "a\0", "ä", &"x".repeat(129)] {
            assert_eq!(file_name(uid), None, "{uid:?}");
        }
        #[rustfmt::skip]
        let rows = [
            ("Pod_a.yaml", Some("a")), ("Pod_.yaml", None), ("pod_a.yaml", None), ("Pod_a.yml", None), (".Pod_a.yaml", None),
            ("Pod_a.yaml.damaged", None), ("Secret_a.yaml", None), ("Pod_a.b.yaml", None),
        ];
        for (name, want) in rows {
            assert_eq!(uid_of(name), want, "{name}");
        }
    }

    #[test]
    fn which_pods_are_written() {
        #[rustfmt::skip]
        let rows = [
            (json!({ANNOTATION: "true"}),                                             true),
            (json!({ANNOTATION: "True"}),                                             false),
            (json!({ANNOTATION: "false"}),                                            false),
            (json!({ANNOTATION: ""}),                                                 false),
            (json!({"other": ANNOTATION}),                                            false),
            (json!({}),                                                               false),
            (Value::Null,                                                             false),
            (json!({ANNOTATION: "true", "kubernetes.io/config.source": "api"}),       true),
            (json!({ANNOTATION: "true", "kubernetes.io/config.source": "file"}),      false),
            (json!({ANNOTATION: "true", "kubernetes.io/config.mirror": "x"}),         false),
        ];
        for (annotations, want) in rows {
            assert_eq!(is_wanted(&pod(annotations.clone())), want, "{annotations}");
        }
    }
}
