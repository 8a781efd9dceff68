//! What of a Secret is shown without `--reveal`: everything but its values.

use serde_json::Value;

/// kubectl keeps a copy of the whole Secret here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// base64 of `REDACTED`, so that the document is still a valid Secret.
const REDACTED: &str = "UkVEQUNURUQ=";

/// The fields of a Secret that are no values. A field that no Secret has may be a value with the wrong indentation.
const SHOWN: [&str; 5] = ["apiVersion", "kind", "metadata", "type", "immutable"];

/// Replaces every value of a Secret, and the annotation that repeats them.
pub(crate) fn redact(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else {
        *secret = Value::Null;
        return;
    };
    for (field, value) in fields.iter_mut().filter(|(field, _)| !SHOWN.contains(&field.as_str())) {
        match value {
            Value::Object(values) if ["data", "stringData"].contains(&field.as_str()) => {
                values.values_mut().for_each(|value| *value = REDACTED.into());
            }
            Value::Null => {}
            // Not a map, or not known at all: nobody knows what it holds.
            Value::Object(_) | Value::Array(_) | Value::String(_) | Value::Number(_) | Value::Bool(_) => {
                *value = Value::Null;
            }
        }
    }
    if let Some(annotation) = secret.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED)) {
        *annotation = "REDACTED".into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_left() {
        let mut secret = serde_json::json!({
            "metadata": {"annotations": {LAST_APPLIED: "canary", "other": "kept"}},
            "data": {"a": "canary", "b": "canary"},
            "stringData": "canary",
            "type": "Opaque",
            "password": "canary",
            "nested": {"data": {"a": "canary"}},
        });
        redact(&mut secret);
        let text = secret.to_string();
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("kept") && text.contains("Opaque") && text.contains(r#""a":"UkVEQUNURUQ=""#), "{text}");
    }
}
