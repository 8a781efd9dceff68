//! Downward API fields: what the parent reads there, and whether the copy would read the same.

use serde_json::Value;

use super::super::json::{entries, items, text};
use super::super::rendering::{Contents, Tree, TreeRoot};
use super::super::verdict::Reason;
use super::files::{Files, mode_of};
use super::volumes::{VolumeName, fs_group};
use super::{Findings, Parent, resources};

/// What a field reads.
pub(super) struct Answer {
    /// Whether the kubelet's answer for the copy equals that for the parent.
    pub(super) same_in_copy: bool,
    /// The parent's value, where it can be known without the kubelet.
    pub(super) value: Option<String>,
}

impl Answer {
    fn parents(value: &str) -> Self {
        Self { same_in_copy: false, value: Some(value.to_owned()) }
    }

    fn kubelets() -> Self {
        Self { same_in_copy: true, value: None }
    }
}

/// `env[].valueFrom.fieldRef` (`validEnvDownwardAPIFieldPathExpressions`); none for a path that is not known.
pub(super) fn env_field(parent: &Parent<'_>, selector: &Value) -> Option<Answer> {
    let path = text(selector, "fieldPath")?;
    Some(match path {
        "spec.serviceAccountName" => {
            // Where a hand-written manifest names none, the API server would have put this one.
            Answer::parents(text(parent.pod.spec(), "serviceAccountName").unwrap_or("default"))
        }
        "spec.nodeName"
        | "spec.terminationGracePeriodSeconds"
        | "status.hostIP"
        | "status.hostIPs"
        | "status.podIP"
        | "status.podIPs" => Answer::kubelets(),
        _ => metadata_field(parent, path)?,
    })
}

/// `fieldRef` of a volume's item (`validVolumeDownwardAPIFieldPathExpressions`); none for a path that is not known.
fn volume_field(parent: &Parent<'_>, selector: &Value) -> Option<Answer> {
    let path = text(selector, "fieldPath")?;
    Some(match path {
        "metadata.labels" => Answer { same_in_copy: false, value: Some(format_map(parent, "labels")) },
        "metadata.annotations" => Answer { same_in_copy: false, value: Some(format_map(parent, "annotations")) },
        _ => metadata_field(parent, path)?,
    })
}

fn metadata_field(parent: &Parent<'_>, path: &str) -> Option<Answer> {
    let pod = parent.pod;
    let subscript = |field: &str| path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(name) = subscript("metadata.labels") {
        return Some(Answer::parents(pod.label(name).unwrap_or_default()));
    }
    if let Some(name) = subscript("metadata.annotations") {
        return Some(Answer::parents(pod.annotation(name).unwrap_or_default()));
    }
    Some(match path {
        "metadata.name" => Answer::parents(pod.parent_name()),
        "metadata.namespace" => Answer { same_in_copy: true, value: Some(pod.key.namespace().to_owned()) },
        // A hand-written manifest has no UID, and the copy's own is better than none.
        "metadata.uid" if pod.uid.is_empty() => Answer::kubelets(),
        "metadata.uid" => Answer::parents(&pod.uid),
        _ => return None,
    })
}

/// A `downwardAPI` volume: kept where the copy reads the same in all its files, else rendered.
pub(super) fn volume(parent: &Parent<'_>, findings: &mut Findings, name: &VolumeName, source: &Value) -> Option<Value> {
    if items(source, "items").iter().all(|item| reads_the_same(parent, item)) {
        return None;
    }
    let mut files = Files::new();
    let path = format!("{}.downwardAPI", name.path);
    render(parent, findings, name, source, mode_of(source, "defaultMode", 0o644), &path, &mut files);
    let files = files.finish(findings, &name.name)?;
    let path = vec!["kubernetes.io~downward-api".to_owned(), name.name.clone()];
    let tree = Tree { root: TreeRoot::ConfigMaps, path, files, fs_group: fs_group(parent) };
    Some(parent.mount(findings, &name.name, tree))
}

/// Whether an item's file is the same in the copy. Unknown fields are not: they are refused when rendered.
pub(super) fn reads_the_same(parent: &Parent<'_>, item: &Value) -> bool {
    answer(parent, item, "").is_ok_and(|answer| answer.same_in_copy)
}

/// Adds the files of a downward API source with the parent's values.
pub(super) fn render(
    parent: &Parent<'_>,
    findings: &mut Findings,
    volume: &VolumeName,
    source: &Value,
    default_mode: i64,
    path: &str,
    files: &mut Files,
) {
    for (n, item) in items(source, "items").iter().enumerate() {
        let field = format!("{path}.items[{n}]");
        match answer(parent, item, &field) {
            Ok(Answer { value: Some(value), .. }) => {
                let mode = mode_of(item, "mode", default_mode);
                let file = text(item, "path").unwrap_or_default();
                files.add(findings, &volume.name, file, mode, Contents::Inline(value.into_bytes()));
            }
            // The limit of a container that has none is the node's allocatable, which only the kubelet knows; and it
            // can't write into a rendered tree.
            Ok(Answer { value: None, .. }) => findings.refuse(Reason::Volume {
                volume: volume.name.clone(),
                source: "downwardAPI with the limit of a container that sets none".to_owned(),
            }),
            Err(reason) => findings.refuse(reason),
        }
    }
}

fn answer(parent: &Parent<'_>, item: &Value, path: &str) -> Result<Answer, Reason> {
    let unknown = |field: &str| Reason::UnknownField { field: format!("{path}{field}") };
    if item.get("user").is_some() {
        return Err(unknown(".user"));
    }
    match (item.get("fieldRef"), item.get("resourceFieldRef")) {
        (Some(selector), None) => volume_field(parent, selector).ok_or_else(|| unknown(".fieldRef.fieldPath")),
        (None, Some(selector)) => resources::field(parent, selector, None, &format!("{path}.resourceFieldRef")),
        (Some(_), Some(_)) | (None, None) => Err(unknown("")),
    }
}

/// A map as the kubelet writes it (`pkg/fieldpath`, `FormatMap`): sorted lines of `key="value"`, values quoted as Go does.
fn format_map(parent: &Parent<'_>, field: &str) -> String {
    let mut lines: Vec<_> =
        entries(parent.pod.metadata(), field).map(|(name, value)| (name, value.as_str().unwrap_or_default())).collect();
    lines.sort_unstable();
    let lines: Vec<_> = lines.into_iter().map(|(name, value)| format!("{name}={}", go_quoted(value))).collect();
    lines.join("\n")
}

/// Go's `strconv.Quote`.
fn go_quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            ' '..='~' => quoted.push(c),
            c if (c as u32) < 0x80 => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_printable(c) => quoted.push(c),
            c if (c as u32) < 0x1_0000 => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    quoted.push('"');
    quoted
}

/// Go's and Rust's tables of printable characters have the same categories; after another character, Rust escapes
/// combining marks no more than Go does.
fn is_printable(c: char) -> bool {
    let pair: String = ['a', c].into_iter().collect();
    pair.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        #[rustfmt::skip]
        let rows = [
            ("plain",            r#""plain""#),
            ("a\"b\\c",          r#""a\"b\\c""#),
            ("l1\nl2\t\r",       r#""l1\nl2\t\r""#),
            ("\u{7}\u{8}\u{b}\u{c}", r#""\a\b\v\f""#),
            ("\u{1}\u{7f}",      r#""\x01\x7f""#),
            ("gr\u{fc}n",        "\"gr\u{fc}n\""),
            ("e\u{301}",         "\"e\u{301}\""),
            ("a\u{a0}b",         r#""a\u00a0b""#),
            ("\u{200b}",         r#""\u200b""#),
            ("\u{1f600}",        "\"\u{1f600}\""),
            ("\u{e0001}",        r#""\U000e0001""#),
        ];
        for (text, want) in rows {
            assert_eq!(go_quoted(text), want, "{text:?}");
        }
    }
}
