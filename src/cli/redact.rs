//! What of a Secret is shown without `--reveal`: everything but its values.

use serde_json::Value;

/// kubectl keeps a copy of the whole Secret here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// base64 of `REDACTED`, so that the document is still a valid Secret.
const REDACTED: &str = "UkVEQUNURUQ=";

/// Replaces every value of a Secret, and the annotation that repeats them.
pub(crate) fn redact(secret: &mut Value) {
    for field in ["data", "stringData"] {
        if let Some(values) = secret.get_mut(field).and_then(Value::as_object_mut) {
            for (_, value) in values.iter_mut() {
                *value = REDACTED.into();
            }
        } else if secret.get(field).is_some_and(|value| !value.is_null()) {
            // Not a map, so nobody knows what it holds.
            secret[field] = Value::Null;
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
        });
        redact(&mut secret);
        let text = secret.to_string();
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("kept") && text.contains("Opaque") && text.contains(r#""a":"UkVEQUNURUQ=""#), "{text}");
    }
}
