//! Metadata of the copy: a name, and what says whose copy it is; never the parent's identity.

use serde_json::{Map, Value};

use super::super::json::{entries, object};
use super::super::verdict::Note;
use super::super::{ANNOTATION_CHECKPOINT_OF, ANNOTATION_PARENT_UID, ANNOTATION_REPUBLISHED};
use super::{Findings, Parent};

/// Built afresh, so that `uid`, `ownerReferences`, `finalizers`, `managedFields`, `generateName` and whatever else the
/// API will put there are gone.
pub(super) fn translate(parent: &Parent<'_>, findings: &mut Findings) -> Value {
    let pod = parent.pod;
    let mut annotations: Map<String, Value> = entries(pod.metadata(), "annotations")
        .filter(|(name, _)| is_kept(&parent.settings.kept_annotations, name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    annotations.insert(ANNOTATION_CHECKPOINT_OF.to_owned(), pod.parent_name().into());
    if !pod.parent_uid().is_empty() {
        annotations.insert(ANNOTATION_PARENT_UID.to_owned(), pod.parent_uid().into());
    }
    // Whatever the allow-list keeps, this is ours to say.
    annotations.remove(ANNOTATION_REPUBLISHED);
    if parent.republished > 0 {
        annotations.insert(ANNOTATION_REPUBLISHED.to_owned(), parent.republished.to_string().into());
    }
    let mut metadata = object([
        ("name", pod.key.name().into()),
        ("namespace", pod.key.namespace().into()),
        ("annotations", Value::Object(annotations)),
    ]);
    let labels: Map<_, _> =
        entries(pod.metadata(), "labels").map(|(name, value)| (name.clone(), value.clone())).collect();
    if !labels.is_empty() {
        if parent.settings.keep_labels {
            metadata["labels"] = Value::Object(labels);
        } else {
            findings.note(Note::LabelsDropped);
        }
    }
    metadata
}

/// Whether the allow-list has this annotation: an exact name, or a prefix that ends in `/` or `*`.
fn is_kept(kept: &[String], name: &str) -> bool {
    kept.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None if entry.ends_with('/') => name.starts_with(entry.as_str()),
        None => name == entry,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allow_list_has_names_and_prefixes() {
        let kept = ["a.io/x", "b.io/", "c.io/y*"].map(str::to_owned);
        #[rustfmt::skip]
        let rows = [
            ("a.io/x",   true),
            ("a.io/xy",  false),
            ("b.io/any", true),
            ("b.io",     false),
            ("c.io/y",   true),
            ("c.io/yz",  true),
            ("c.io/z",   false),
        ];
        for (name, want) in rows {
            assert_eq!(is_kept(&kept, name), want, "{name}");
        }
    }
}
