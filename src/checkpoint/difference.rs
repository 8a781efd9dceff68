//! What differs between an object as it is stored and as the API server has it. Pure.
//!
//! `status`, `metadata.resourceVersion` and `metadata.managedFields` are left out: they change without a change of what would
//! come back. Of a Secret no value is ever taken over, whatever field it stands in.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::ClearTree;
use super::object::Object;

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Where it stands: `spec.containers[0].image`, `metadata.annotations["example.com/a"]`.
    pub path: String,
    /// What is stored.
    pub stored: Side,
    /// What the API server has.
    pub there: Side,
}

/// One side of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Side {
    /// The field is not there.
    Absent,
    /// It is.
    Is(Value),
    /// It is, and its value is nobody's business.
    Withheld,
}

/// A body is no JSON. Of an object that was stored or admitted this can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is no JSON")]
pub struct NotJson;

/// The fields that differ, by path; none if the two are the same. A list or mapping that is on one side only is one field.
///
/// # Errors
/// [`NotJson`].
pub fn differences(stored: &Object, there: &Object) -> Result<Vec<Field>, NotJson> {
    let (stored_tree, there_tree) = (parse(stored)?, parse(there)?);
    let secret = stored.key.kind().row().sealed || there.key.kind().row().sealed;
    let mut walk = Walk { secret, fields: Vec::new() };
    walk.both("", &stored_tree.0, &there_tree.0);
    Ok(walk.fields)
}

fn parse(object: &Object) -> Result<ClearTree, NotJson> {
    serde_json::from_slice(object.body.expose()).map(ClearTree).map_err(|_| NotJson)
}

struct Walk {
    secret: bool,
    fields: Vec<Field>,
}

impl Walk {
    fn both(&mut self, path: &str, stored: &Value, there: &Value) {
        match (stored, there) {
            (Value::Object(one), Value::Object(other)) => {
                let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
                for name in names {
                    let path = joined(path, name);
                    if !left_out(&path) {
                        self.sides(&path, one.get(name), other.get(name));
                    }
                }
            }
            (Value::Array(one), Value::Array(other)) => {
                for n in 0..one.len().max(other.len()) {
                    self.sides(&format!("{path}[{n}]"), one.get(n), other.get(n));
                }
            }
            (one, other) if one == other => {}
            (one, other) => self.differs(path, Some(one), Some(other)),
        }
    }

    fn sides(&mut self, path: &str, stored: Option<&Value>, there: Option<&Value>) {
        match (stored, there) {
            (Some(one), Some(other)) => self.both(path, one, other),
            // Kubernetes reads null as absent.
            (Some(Value::Null) | None, Some(Value::Null) | None) => {}
            (one, other) => self.differs(path, one, other),
        }
    }

    fn differs(&mut self, path: &str, stored: Option<&Value>, there: Option<&Value>) {
        let side = |value: Option<&Value>| match value {
            None => Side::Absent,
            Some(_) if self.secret => Side::Withheld,
            Some(value) => Side::Is(value.clone()),
        };
        let (stored, there) = (side(stored), side(there));
        self.fields.push(Field { path: path.to_owned(), stored, there });
    }
}

fn left_out(path: &str) -> bool {
    matches!(path, "status" | "metadata.resourceVersion" | "metadata.managedFields")
}

fn joined(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match (path, plain) {
        ("", true) => name.to_owned(),
        (_, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{}]", Value::String(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::object::{Kind, ObjectKey};

    fn object(kind: Kind, body: &Value) -> Object {
        let key = ObjectKey::new(kind, "shop", "web").unwrap();
        let body = body.to_string().into_bytes().into();
        Object { key, uid: String::new(), resource_version: String::new(), body }
    }

    fn found(kind: Kind, stored: Value, there: Value) -> Vec<String> {
        let fields = differences(&object(kind, &stored), &object(kind, &there)).unwrap();
        let side = |side: &Side| match side {
            Side::Absent => "absent".to_owned(),
            Side::Is(value) => value.to_string(),
            Side::Withheld => "withheld".to_owned(),
        };
        fields.iter().map(|field| format!("{}: {} / {}", field.path, side(&field.stored), side(&field.there))).collect()
    }

    #[test]
    fn fields() {
        #[rustfmt::skip]
        let table: [(Value, Value, &[&str]); 11] = [
            (json!({}), json!({}), &[]),
            (json!({"spec": {"a": 1}}), json!({"spec": {"a": 1}}), &[]),
            (json!({"spec": {"a": 1, "b": [1, {"c": "x"}]}}), json!({"spec": {"b": [1, {"c": "y"}], "a": 1}}),
             &["spec.b[1].c: \"x\" / \"y\""]),
            (json!({"spec": {"a": 1}}), json!({"spec": {}}), &["spec.a: 1 / absent"]),
            (json!({"spec": {}}), json!({"spec": {"a": {"b": 1}}}), &["spec.a: absent / {\"b\":1}"]),
            (json!({"spec": {"a": null}}), json!({"spec": {}}), &[]),
            (json!({"l": [1]}), json!({"l": [1, 2]}), &["l[1]: absent / 2"]),
            (json!({"l": [1]}), json!({"l": {"0": 1}}), &["l: [1] / {\"0\":1}"]),
            (json!({"metadata": {"annotations": {"example.com/a": "1"}}}), json!({"metadata": {"annotations": {}}}),
             &["metadata.annotations[\"example.com/a\"]: \"1\" / absent"]),
            (json!({"status": 1, "metadata": {"resourceVersion": "1"}}), json!({"metadata": {"resourceVersion": "2", "managedFields": []}}),
             &[]),
            // Only at their places.
            (json!({"spec": {"status": 1}}), json!({"spec": {"status": 2}}), &["spec.status: 1 / 2"]),
        ];
        for (stored, there, want) in table {
            assert_eq!(found(Kind::ConfigMap, stored, there), want);
        }
    }

    #[test]
    fn no_value_of_a_secret() {
        let stored = json!({
            "metadata": {"annotations": {"last-applied": "canary"}}, "data": {"same": "canary", "other": "canary1", "gone": "canary"},
        });
        let there = json!({
            "metadata": {"annotations": {"last-applied": "canary2"}}, "data": {"same": "canary", "other": "canary2", "new": "canary"},
            "extra": {"nested": ["canary"]},
        });
        let fields = found(Kind::Secret, stored, there);
        assert_eq!(
            fields,
            [
                "data.gone: withheld / absent",
                "data.new: absent / withheld",
                "data.other: withheld / withheld",
                "extra: absent / withheld",
                "metadata.annotations.last-applied: withheld / withheld",
            ]
        );
    }

    #[test]
    fn what_is_no_json_is_no_difference() {
        let good = object(Kind::Pod, &json!({}));
        let bad = Object { body: b"{".to_vec().into(), ..good.clone() };
        assert_eq!(differences(&good, &bad), Err(NotJson));
    }
}
