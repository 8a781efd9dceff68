//! Projected volumes: all sources in one tree; the token by policy.

use serde_json::Value;

use super::super::json::{flag, items, text};
use super::super::object::Kind;
use super::super::rendering::{Tree, TreeRoot};
use super::super::settings::TokenPolicy;
use super::super::verdict::{Note, Reason};
use super::files::{Files, ObjectSource, mode_of};
use super::volumes::{VolumeName, add, fs_group, refuse_owner};
use super::{Findings, Parent, downward};

/// The hostPath volume that replaces this one; none if it stays or is refused.
pub(super) fn volume(parent: &Parent<'_>, findings: &mut Findings, name: &VolumeName, source: &Value) -> Option<Value> {
    let sources = items(source, "sources");
    if sources.iter().all(|source| is_the_copys_own(parent, source)) {
        return None;
    }
    let path = format!("{}.projected", name.path);
    refuse_owner(findings, source, &path);
    let default_mode = mode_of(source, "defaultMode", 0o644);
    let mut files = Files::new();
    let mut root = TreeRoot::ConfigMaps;
    for (n, source) in sources.iter().enumerate() {
        let path = format!("{path}.sources[{n}]");
        if source.get("secret").is_some() {
            root = TreeRoot::Secrets;
        }
        one_source(parent, findings, name, source, default_mode, &path, &mut files);
    }
    let files = files.finish(findings, &name.name)?;
    let path = vec!["kubernetes.io~projected".to_owned(), name.name.clone()];
    Some(parent.mount(findings, &name.name, Tree { root, path, files, fs_group: fs_group(parent) }))
}

/// Whether the kubelet itself would project the same for the copy.
fn is_the_copys_own(parent: &Parent<'_>, source: &Value) -> bool {
    source.as_object().is_some_and(|fields| fields.len() == 1)
        && source
            .get("downwardAPI")
            .is_some_and(|source| items(source, "items").iter().all(|item| downward::reads_the_same(parent, item)))
}

fn one_source(
    parent: &Parent<'_>,
    findings: &mut Findings,
    volume: &VolumeName,
    source: &Value,
    default_mode: i64,
    path: &str,
    files: &mut Files,
) {
    let fields: Vec<(&String, &Value)> = source.as_object().into_iter().flatten().collect();
    let refuse = |findings: &mut Findings, source: String| {
        findings.refuse(Reason::Volume { volume: volume.name.clone(), source });
    };
    let [(kind, tree)] = fields.as_slice() else {
        return refuse(findings, "projected with a source that is not one of a kind".to_owned());
    };
    match kind.as_str() {
        "secret" | "configMap" => {
            let path = format!("{path}.{kind}");
            let object = if kind.as_str() == "secret" { Kind::Secret } else { Kind::ConfigMap };
            let Some(key) = parent.key(findings, object, text(tree, "name").unwrap_or_default(), &path) else { return };
            let source = ObjectSource { tree, path, optional: flag(tree, "optional"), default_mode };
            // What is missing is in the findings; the volume is refused as a whole.
            let _ = add(parent, findings, &volume.name, &source, &key, files);
        }
        "downwardAPI" => {
            let path = format!("{path}.downwardAPI");
            downward::render(parent, findings, volume, tree, default_mode, &path, files);
        }
        "serviceAccountToken" => match parent.settings.tokens {
            TokenPolicy::Omit => findings.note(Note::TokenOmitted { volume: volume.name.clone() }),
            TokenPolicy::Refuse => findings.refuse(Reason::TokenRefused { volume: volume.name.clone() }),
        },
        "clusterTrustBundle" if flag(tree, "optional") => {}
        _ => refuse(findings, format!("projected {kind}")),
    }
}
