//! Reading a Kubernetes object's JSON tree by field, and wiping it.
//!
//! Absent, `null` and wrongly typed fields all read as absent: trees are checked against the typed Pod first (`pod.rs`).

use serde_json::{Map, Value};
use zeroize::Zeroize;

/// The elements of a list field; none if it is absent.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The elements of a list field for changing; none if it is absent.
pub(crate) fn items_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut [Value] {
    value.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// A string field.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

/// A boolean field; absent means false.
pub(crate) fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// The entries of an object field, in the tree's order; none if it is absent.
pub(crate) fn entries<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    value.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// Sets a field of an object; the tree's shape was checked, so anything else is left alone.
pub(crate) fn set(value: &mut Value, field: &str, new: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(field.to_owned(), new);
    }
}

/// Removes a field of an object and says whether it was there.
pub(crate) fn remove(value: &mut Value, field: &str) -> bool {
    value.as_object_mut().is_some_and(|map| map.remove(field).is_some())
}

/// Drops every `null` member: Kubernetes reads them as absent, and so does the rest of this program.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A tree whose strings are wiped when it is dropped. It has no `Debug`.
#[derive(Clone, Default)]
pub(crate) struct ClearTree(pub(crate) Value);

impl Drop for ClearTree {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Paths of the members of `seen` that `known` lacks, each at its highest level, e.g. `spec.containers[0].newField`.
pub(crate) fn unknown_members(seen: &Value, known: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect_unknown(seen, known, path, &mut found);
    found
}

fn collect_unknown(seen: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match (seen, known) {
        (Value::Object(seen), Value::Object(known)) => {
            for (name, member) in seen {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(known) => collect_unknown(member, known, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(seen), Value::Array(known)) => {
            for (index, (seen, known)) in seen.iter().zip(known).enumerate() {
                collect_unknown(seen, known, &format!("{path}[{index}]"), found);
            }
        }
        // A scalar is known with the field that holds it, even where the typed form writes it differently (quantities).
        (
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
            _,
        ) => {}
    }
}

/// An object with these members.
pub(crate) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_members_are_named_at_their_highest_level() {
        let seen = json!({"a": {"new": {"deep": 1}, "b": [{"c": 1}, {"c": 1, "d": 2}]}, "cpu": 1});
        let known = json!({"a": {"b": [{"c": 1}, {"c": 1}]}, "cpu": "1"});
        assert_eq!(unknown_members(&seen, &known, "spec"), ["spec.a.new", "spec.a.b[1].d"]);
    }

    #[test]
    fn nulls_are_absent() {
        let mut tree = json!({"a": null, "b": [{"c": null}], "d": {"e": null}});
        drop_nulls(&mut tree);
        assert_eq!(tree, json!({"b": [{}], "d": {}}));
    }

    #[test]
    fn a_wiped_tree_holds_no_text() {
        let mut tree = json!({"a": ["canary", {"b": "canary"}]});
        wipe(&mut tree);
        assert!(!tree.to_string().contains("canary"));
    }
}
