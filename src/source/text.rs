//! An object as the text of a manifest, as `kubectl` prints and takes it. Pure.

use serde_json::Value;

use super::document::documents;
use super::tree::{Tree, roots};
use crate::checkpoint::object::Object;
use crate::clear::Clear;

/// How a manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// YAML; JSON, which is YAML too, where the YAML would not read back as the same.
    Yaml,
    /// JSON.
    Json,
}

/// The body of an object is no JSON object. No store that is sound has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body of the object is no JSON object")]
pub struct NotAnObject;

/// The object as it is stored.
///
/// # Errors
/// [`NotAnObject`].
pub fn whole(object: &Object, form: Form) -> Result<Clear, NotAnObject> {
    Ok(written(&tree(object)?, form))
}

/// The object without its `metadata.resourceVersion`, which an API server refuses in what it is to create. Its UID stays.
///
/// # Errors
/// [`NotAnObject`].
pub fn portable(object: &Object, form: Form) -> Result<Clear, NotAnObject> {
    let mut tree = tree(object)?;
    forget_version(&mut tree);
    Ok(written(&tree, form))
}

/// Whether `given` says of an object what `stored` says: the order of members does not count, and neither does a
/// `metadata.resourceVersion` that was left out.
#[must_use]
pub fn says_the_same(given: &Object, stored: &Object) -> bool {
    let (Ok(given_tree), Ok(mut stored_tree)) = (tree(given), tree(stored)) else { return false };
    if given.resource_version.is_empty() {
        forget_version(&mut stored_tree);
    }
    given_tree.0 == stored_tree.0
}

/// What of an object's metadata is its user's, and not an API server's, a controller's or a garbage collector's.
const OF_THE_USER: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// The object as somebody would write it for an API server, which may know it, may have made another one of its name, or may be
/// that of another cluster: a UID, an owner or a finalizer there is another one or nobody's, and a status is not its user's to tell.
///
/// # Errors
/// [`NotAnObject`].
pub fn applicable(object: &Object, form: Form) -> Result<Clear, NotAnObject> {
    let mut tree = tree(object)?;
    if let Value::Object(fields) = &mut tree.0 {
        fields.shift_remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|field, _| OF_THE_USER.contains(&field.as_str()));
        }
    }
    Ok(written(&tree, form))
}

fn forget_version(tree: &mut Tree) {
    if let Some(Value::Object(metadata)) = tree.0.get_mut("metadata") {
        metadata.shift_remove("resourceVersion");
    }
}

/// The body with `apiVersion` and `kind` in front, which an item of a list may lack.
fn tree(object: &Object) -> Result<Tree, NotAnObject> {
    let mut tree = Tree(serde_json::from_slice(object.body.expose()).map_err(|_| NotAnObject)?);
    let Value::Object(fields) = &mut tree.0 else { return Err(NotAnObject) };
    let row = object.key.kind().row();
    for (field, value) in [("kind", row.name), ("apiVersion", row.api_version)] {
        if !fields.contains_key(field) {
            fields.shift_insert(0, field.to_owned(), value.into());
        }
    }
    Ok(tree)
}

fn written(tree: &Tree, form: Form) -> Clear {
    if form == Form::Yaml
        && let Ok(text) = serde_saphyr::to_string(&tree.0).map(Clear::from)
        && reads_as(&text, tree)
    {
        return text;
    }
    let mut text = serde_json::to_vec_pretty(&tree.0).expect("a tree of JSON values is always serialisable");
    text.push(b'\n');
    Clear::new(text)
}

fn reads_as(text: &Clear, tree: &Tree) -> bool {
    let documents = documents(text.expose());
    let [document] = documents.as_slice() else { return false };
    let (found, malformed) = roots(*document);
    malformed.is_none() && matches!(found.as_slice(), [root] if root.tree.0 == tree.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::manifests::parse;
    use super::*;
    use crate::checkpoint::object::{Kind, ObjectKey};

    fn config_map(data: &Value) -> Object {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "namespace": "shop", "uid": "u", "resourceVersion": "7"}, "data": data,
        });
        let key = ObjectKey::new(Kind::ConfigMap, "shop", "c").unwrap();
        let (uid, resource_version) = ("u".to_owned(), "7".to_owned());
        Object { key, uid, resource_version, body: body.to_string().into() }
    }

    #[test]
    fn yaml_is_as_kubectl_prints_it() {
        let text = whole(&config_map(&json!({"a": "yes", "b": "0644", "c": "x\ny\n"})), Form::Yaml).unwrap();
        let text = std::str::from_utf8(text.expose()).unwrap();
        assert!(text.starts_with("apiVersion: v1\nkind: ConfigMap\nmetadata:\n"), "{text}");
    }

    #[test]
    fn what_a_list_leaves_out_is_put_in_front() {
        let key = ObjectKey::new(Kind::Pod, "shop", "web").unwrap();
        let body = r#"{"metadata":{"name":"web"}}"#.to_owned().into();
        let pod = Object { key, uid: String::new(), resource_version: String::new(), body };
        let text = whole(&pod, Form::Json).unwrap();
        let value: Value = serde_json::from_slice(text.expose()).unwrap();
        assert_eq!(value.to_string(), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"}}"#);
        let list = Object { body: "[]".to_owned().into(), ..pod };
        assert_eq!(whole(&list, Form::Json).err(), Some(NotAnObject));
    }

    #[test]
    fn what_is_applied_is_what_a_user_would_have_written() {
        let body = json!({
            "metadata": {
                "name": "web-1", "generateName": "web-", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 2, "selfLink": "/", "labels": {"a": "b"},
                "annotations": {"c": "d"}, "ownerReferences": [{"kind": "ReplicaSet", "uid": "r"}], "finalizers": ["f"],
                "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30, "unheardOf": 1,
            },
            "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"},
        });
        let key = ObjectKey::new(Kind::Pod, "shop", "web-1").unwrap();
        let (uid, resource_version) = ("u".to_owned(), "7".to_owned());
        let pod = Object { key, uid, resource_version, body: body.to_string().into() };
        for form in [Form::Yaml, Form::Json] {
            let (objects, problems) = parse("f", applicable(&pod, form).unwrap().expose());
            assert!(problems.is_empty(), "{problems:?}");
            let found: Value = serde_json::from_slice(objects[0].body.expose()).unwrap();
            let wanted = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "web-1", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]},
            });
            assert_eq!(found, wanted);
        }
        let data = applicable(&config_map(&json!({"status": "mine"})), Form::Json).unwrap();
        let data: Value = serde_json::from_slice(data.expose()).unwrap();
        assert_eq!(data["data"], json!({"status": "mine"}), "elsewhere it is somebody's data");
    }

    #[test]
    fn a_version_that_is_left_out_is_no_difference() {
        let stored = config_map(&json!({"a": "1"}));
        let (objects, _) = parse("f", portable(&stored, Form::Yaml).unwrap().expose());
        assert_eq!(objects[0].resource_version, "");
        assert!(says_the_same(&objects[0], &stored));
        let (other, _) = parse("f", portable(&config_map(&json!({"a": "2"})), Form::Yaml).unwrap().expose());
        assert!(!says_the_same(&other[0], &stored));
        let newer = stored.body.expose().to_vec();
        let newer = String::from_utf8(newer).unwrap().replace("\"7\"", "\"8\"");
        let newer = Object { resource_version: "8".to_owned(), body: newer.into(), ..stored.clone() };
        assert!(!says_the_same(&newer, &stored), "another version that is named is one");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever text an object holds, what is written of it reads back as the same object.
        #[test]
        fn what_is_written_reads_back(
            texts in proptest::collection::vec(any::<String>(), 0..4),
            awkward in proptest::sample::subsequence(vec![
                "---", "...", "a\n---\nb", "# x", "yes", "~", "0x1f", "1e3", "- a", "{a", "\u{feff}", "\u{85}", "\u{2028}",
                "\r\n", "\t", " x ", "\"", "'", "!!str", "&a", "*a", "|", "%YAML", "\u{0}", "\u{7f}",
            ], 0..6),
        ) {
            let texts = texts.iter().map(String::as_str).chain(awkward);
            let data: serde_json::Map<String, Value> =
                texts.enumerate().map(|(n, text)| (format!("k{n}"), text.into())).collect();
            let object = config_map(&Value::Object(data));
            for form in [Form::Yaml, Form::Json] {
                let (objects, problems) = parse("f", whole(&object, form).unwrap().expose());
                prop_assert!(problems.is_empty(), "{problems:?}");
                prop_assert_eq!(objects.len(), 1);
                prop_assert!(says_the_same(&objects[0], &object));
                prop_assert_eq!(&objects[0].resource_version, "7");
            }
        }
    }
}
