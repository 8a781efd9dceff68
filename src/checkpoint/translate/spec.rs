//! Pod-level fields of the spec: what is dropped, set or refused, apart from volumes and containers.

use serde_json::{Value, json};

use super::super::json::{flag, items, remove, set, text};
use super::super::object::is_dns_label;
use super::super::verdict::{Note, Reason};
use super::{Findings, Parent, resources};

/// Fields that name API objects, or that only the scheduler and the API server read. Offline, the kubelet works with a
/// made-up Node without labels, and a node selector that doesn't match it denies admission.
const DROPPED: [&str; 17] = [
    "affinity",
    "ephemeralContainers",
    "evictionResponders",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "overhead",
    "readinessGates",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "serviceAccount",
    "serviceAccountName",
    "topologySpreadConstraints",
    "workloadRef",
    "resourceClaims",
];

pub(super) fn translate(parent: &Parent<'_>, findings: &mut Findings, spec: &mut Value) {
    if !items(spec, "resourceClaims").is_empty() {
        findings.refuse(Reason::ResourceClaims);
    }
    if let Some(class) = text(spec, "runtimeClassName") {
        if parent.settings.drop_runtime_class {
            findings.note(Note::RuntimeClassDropped);
        } else {
            findings.refuse(Reason::RuntimeClass(class.to_owned()));
        }
    }
    // Since 1.35 the kubelet asks for the credentials again that an image was pulled with.
    if !items(spec, "imagePullSecrets").is_empty() && parent.kubelet_since(1, 35) {
        findings.note(Note::PullSecretsDropped);
    }
    for field in DROPPED {
        remove(spec, field);
    }
    set(spec, "automountServiceAccountToken", json!(false));
    if let Some(resources) = spec.get_mut("resources") {
        resources::translate(parent, findings, resources);
    }
    hostname(parent, findings, spec);
    unknown_fields(parent, findings);
}

/// The kubelet calls the copy `<name>-<node>`; the program in it should see the parent's name.
fn hostname(parent: &Parent<'_>, findings: &mut Findings, spec: &mut Value) {
    if flag(spec, "hostNetwork") || spec.get("hostname").is_some() || spec.get("hostnameOverride").is_some() {
        return;
    }
    // As the kubelet's truncatePodHostnameIfNeeded does. Names are ASCII, so that any index is a boundary.
    let name = parent.pod.key.name();
    let hostname = if name.len() > 63 { name[..63].trim_end_matches(['-', '.']) } else { name };
    if is_dns_label(hostname) {
        set(spec, "hostname", hostname.into());
    } else {
        // A pod's name may have dots; `hostname` must not.
        findings.note(Note::HostnameDiffers);
    }
}

/// Unknown fields survive where they can; where their meaning would be lost or matter, the pod is refused.
fn unknown_fields(parent: &Parent<'_>, findings: &mut Findings) {
    for path in &parent.pod.unknown {
        match place_of(path) {
            Place::Dropped | Place::VolumeType => {}
            Place::Translated => findings.refuse(Reason::UnknownField { field: path.clone() }),
            Place::Kept => findings.note(Note::UnknownFieldKept { field: path.clone() }),
        }
    }
}

enum Place {
    /// Below a field that is dropped anyway.
    Dropped,
    /// A volume's type or a projected source: refused by the step that knows the volume's name.
    VolumeType,
    /// Below something that is resolved, whose meaning a field that we don't know may change.
    Translated,
    /// Copied as it is.
    Kept,
}

fn place_of(path: &str) -> Place {
    let parts: Vec<&str> = path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    match parts.as_slice() {
        ["spec", field, ..] if DROPPED.contains(field) => Place::Dropped,
        ["spec", "containers" | "initContainers", "env" | "envFrom", ..] => Place::Translated,
        ["spec", "volumes", _] | ["spec", "volumes", "projected", "sources", _] => Place::VolumeType,
        ["spec", "volumes", "secret" | "configMap" | "projected" | "downwardAPI", ..] => Place::Translated,
        _ => Place::Kept,
    }
}
