//! Environment variables, resolved as the kubelet would (`pkg/kubelet/kubelet_pods.go`, `makeEnvironmentVariables`).
//!
//! The copy's list has the variables of Services and `envFrom` first, then the pod's own entries in their order, so that
//! every `$(VAR)` of an own entry finds what it finds in the parent.

use std::collections::BTreeMap;

use serde_json::Value;
use zeroize::Zeroizing;

use super::super::json::{flag, items, object, remove, set, text};
use super::super::object::{Kind, ObjectKey};
use super::super::verdict::{Note, Reason};
use super::env_file::{Origin, SecretValues};
use super::{Fetched, Findings, Parent, downward, expansion, resources, services};

/// A resolved value: never expanded again, since each `$` in it is doubled.
struct Resolved {
    value: Zeroizing<String>,
    /// The place in a Secret that it comes from.
    secret: Option<Origin>,
}

/// One entry of the copy's list.
enum Entry {
    /// As it stands in the pod: its value is expanded.
    Own(Value),
    /// A value of the parent.
    Resolved(String, Resolved),
}

/// The Service environment, the same for every container of the pod.
pub(super) fn of_services(parent: &Parent<'_>, findings: &mut Findings) -> BTreeMap<String, String> {
    if parent.services.is_empty() {
        findings.note(Note::NoServices);
    }
    let links = parent.pod.spec().get("enableServiceLinks").and_then(Value::as_bool).unwrap_or(true);
    services::environment(parent.pod.key.namespace(), links, parent.services)
}

/// Replaces `env` and `envFrom` of one container.
pub(super) fn translate(
    parent: &Parent<'_>,
    findings: &mut Findings,
    container: &mut Value,
    path: &str,
    of_services: &BTreeMap<String, String>,
) {
    let of_services_bytes = of_services.iter().map(|(name, value)| name.len() + value.len()).sum();
    if findings.is_too_much(|budget| budget.variable(of_services_bytes)) {
        return;
    }
    let mut first: BTreeMap<String, Resolved> = of_services
        .iter()
        .map(|(name, value)| (name.clone(), Resolved { value: expansion::escape(value), secret: None }))
        .collect();
    for (n, source) in items(container, "envFrom").iter().enumerate() {
        from_object(parent, findings, source, &format!("{path}.envFrom[{n}]"), &mut first);
    }
    let mut own = Vec::new();
    for (n, variable) in items(container, "env").iter().enumerate() {
        own.extend(entry(parent, findings, container, variable, &format!("{path}.env[{n}]")));
    }
    drop_overridden(&mut first, &own);

    let all = first.into_iter().map(|(name, resolved)| Entry::Resolved(name, resolved)).chain(own);
    let mut list: Vec<Value> = Vec::new();
    for entry in all {
        list.push(match entry {
            Entry::Own(variable) => variable,
            Entry::Resolved(name, resolved) => written(parent, findings, path, name, resolved),
        });
    }
    remove(container, "envFrom");
    if list.is_empty() {
        remove(container, "env");
    } else {
        set(container, "env", Value::Array(list));
    }
}

/// A resolved variable as it stands in the copy.
fn written(parent: &Parent<'_>, findings: &mut Findings, path: &str, name: String, resolved: Resolved) -> Value {
    let Resolved { mut value, secret } = resolved;
    match (secret, parent.secret_values) {
        // An empty value has nothing to hide, and the kubelet would take it for an absent one.
        (Some(origin), SecretValues::EnvFile(_)) if origin.len > 0 => {
            let source = findings.env_values.source(parent.pod, origin, path, &name);
            return object([("name", name.into()), ("valueFrom", source)]);
        }
        (Some(_), SecretValues::Literal(_)) => findings.carries_secret = true,
        (Some(_), SecretValues::EnvFile(_) | SecretValues::Refused(_)) | (None, _) => {}
    }
    object([("name", name.into()), ("value", std::mem::take(&mut *value).into())])
}

/// One source of `envFrom`: later ones win, and all lose to `env`.
fn from_object(
    parent: &Parent<'_>,
    findings: &mut Findings,
    source: &Value,
    path: &str,
    first: &mut BTreeMap<String, Resolved>,
) {
    let (reference, kind, field) = match (source.get("configMapRef"), source.get("secretRef")) {
        (Some(reference), _) => (reference, Kind::ConfigMap, format!("{path}.configMapRef")),
        (None, Some(reference)) => (reference, Kind::Secret, format!("{path}.secretRef")),
        (None, None) => return,
    };
    let prefix = text(source, "prefix").unwrap_or_default();
    let Some(key) = parent.key(findings, kind, text(reference, "name").unwrap_or_default(), &field) else { return };
    let data = match parent.fetch_env(findings, &key, flag(reference, "optional"), &field) {
        Fetched::Found(data) => data,
        Fetched::LeftOut | Fetched::Refused => return,
    };
    if kind == Kind::Secret && !secrets_allowed(parent, findings, &field) {
        return;
    }
    for (data_key, value) in data {
        let Some(value) = value_text(findings, &key, &data_key, value.expose(), &field) else { continue };
        let name = format!("{prefix}{data_key}");
        if findings.is_too_much(|budget| budget.variable(name.len() + value.len())) {
            return;
        }
        if takes_name(parent, findings, &name, &field) {
            let secret = (kind == Kind::Secret).then(|| Origin::new(&key, &data_key, value));
            first.insert(name, resolved(parent, value, secret));
        }
    }
}

/// One entry of `env`; none if it is left out as the kubelet leaves it out, or if it is refused.
fn entry(
    parent: &Parent<'_>,
    findings: &mut Findings,
    container: &Value,
    variable: &Value,
    path: &str,
) -> Option<Entry> {
    let name = text(variable, "name").unwrap_or_default();
    if !takes_name(parent, findings, name, path) {
        return None;
    }
    let mut kept = variable.clone();
    let source = match variable.get("valueFrom") {
        // A value wins over a source; the API refuses to take both.
        Some(source) if text(variable, "value").is_none_or(str::is_empty) => source,
        Some(_) | None => {
            remove(&mut kept, "valueFrom");
            return Some(Entry::Own(kept));
        }
    };
    let resolved = |value: &str| {
        Some(Entry::Resolved(name.to_owned(), Resolved { value: expansion::escape(value), secret: None }))
    };
    let path = format!("{path}.valueFrom");
    let refuse = |findings: &mut Findings, field: String| {
        findings.refuse(Reason::UnknownField { field });
        None
    };
    // The API takes exactly one; of two, one might stay that the kubelet refuses.
    let mut sources = source.as_object().into_iter().flatten();
    let (Some((kind, selector)), None) = (sources.next(), sources.next()) else {
        return refuse(findings, path);
    };
    match kind.as_str() {
        "secretKeyRef" => from_key(parent, findings, Kind::Secret, selector, &format!("{path}.secretKeyRef"))
            .map(|resolved| Entry::Resolved(name.to_owned(), resolved)),
        "configMapKeyRef" => from_key(parent, findings, Kind::ConfigMap, selector, &format!("{path}.configMapKeyRef"))
            .map(|resolved| Entry::Resolved(name.to_owned(), resolved)),
        "fieldRef" => match downward::env_field(parent, selector) {
            Some(downward::Answer { same_in_copy: false, value: Some(value) }) => resolved(&value),
            Some(_) => Some(Entry::Own(kept)),
            None => refuse(findings, format!("{path}.fieldRef.fieldPath")),
        },
        "resourceFieldRef" => {
            match resources::field(parent, selector, Some(container), &format!("{path}.resourceFieldRef")) {
                Ok(downward::Answer { same_in_copy: false, value: Some(value) }) => resolved(&value),
                Ok(_) => Some(Entry::Own(kept)),
                Err(reason) => {
                    findings.refuse(reason);
                    None
                }
            }
        }
        // Read from a file of the pod's own volume: no API object is involved.
        "fileKeyRef" => Some(Entry::Own(kept)),
        _ => refuse(findings, format!("{path}.{kind}")),
    }
}

/// The value of `secretKeyRef` or `configMapKeyRef`; none if it is left out or refused.
fn from_key(
    parent: &Parent<'_>,
    findings: &mut Findings,
    kind: Kind,
    selector: &Value,
    field: &str,
) -> Option<Resolved> {
    let (name, key) = (text(selector, "name").unwrap_or_default(), text(selector, "key").unwrap_or_default());
    let optional = flag(selector, "optional");
    let object = parent.key(findings, kind, name, field)?;
    let fetched = parent.fetch_env(findings, &object, optional, field);
    let data = match fetched {
        Fetched::Found(data) => data,
        Fetched::LeftOut | Fetched::Refused => return None,
    };
    let Some(value) = data.get(key) else {
        if !optional {
            findings.refuse(Reason::MissingKey { object, key: key.to_owned(), field: field.to_owned() });
        }
        return None;
    };
    if kind == Kind::Secret && !secrets_allowed(parent, findings, field) {
        return None;
    }
    let value = value_text(findings, &object, key, value.expose(), field)?;
    if findings.is_too_much(|budget| budget.variable(value.len())) {
        return None;
    }
    let secret = (kind == Kind::Secret).then(|| Origin::new(&object, key, value));
    Some(resolved(parent, value, secret))
}

/// A value, of a Secret if `secret` says where it comes from. One that does not go into the manifest is not kept.
fn resolved(parent: &Parent<'_>, value: &str, secret: Option<Origin>) -> Resolved {
    let value = match (&secret, parent.secret_values) {
        (None, _) | (Some(_), SecretValues::Literal(_)) => expansion::escape(value),
        (Some(_), SecretValues::EnvFile(_) | SecretValues::Refused(_)) => Zeroizing::default(),
    };
    Resolved { value, secret }
}

/// The mirror pod shows env values to everyone who may get pods, so Secrets get there by the operator's word only.
fn secrets_allowed(parent: &Parent<'_>, findings: &mut Findings, field: &str) -> bool {
    match parent.secret_values {
        SecretValues::EnvFile(_) | SecretValues::Literal(_) => true,
        SecretValues::Refused(why) => {
            findings.refuse(Reason::SecretEnvRefused { field: field.to_owned(), no_env_file: why.clone() });
            false
        }
    }
}

/// A value as text that an environment variable and JSON can carry.
fn value_text<'v>(
    findings: &mut Findings,
    object: &ObjectKey,
    key: &str,
    value: &'v [u8],
    field: &str,
) -> Option<&'v str> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
    if text.is_none() {
        let (key, field) = (key.to_owned(), field.to_owned());
        findings.refuse(Reason::ValueNotText { object: object.clone(), key, field });
    }
    text
}

/// Whether the kubelet takes this name in a static pod.
///
/// Since 1.32 (`RelaxedEnvironmentVariableValidation`) every printable ASCII name without `=` is taken in API pods, but
/// static pods are validated with that option only since 1.35 (kubernetes/kubernetes#135031): before, one such name
/// makes the kubelet refuse the whole manifest. The parent has the variable from 1.32 on, so leaving it out is noted.
fn takes_name(parent: &Parent<'_>, findings: &mut Findings, name: &str, field: &str) -> bool {
    if is_plain_name(name) {
        return true;
    }
    if name.is_empty() || !name.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=') {
        findings.refuse(Reason::Malformed(format!("{field} gives a variable a name that Kubernetes does not allow")));
        return false;
    }
    if parent.kubelet_since(1, 35) {
        return true;
    }
    if parent.kubelet_since(1, 32) {
        findings.note(Note::VariableDropped { name: name.to_owned() });
    }
    false
}

/// `validation.IsEnvVarName`: `[-._a-zA-Z][-._a-zA-Z0-9]*`, neither `.` nor starting with `..`.
fn is_plain_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphabetic() || matches!(b, b'-' | b'.' | b'_');
    name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b.is_ascii_digit())
        && name != "."
        && !name.starts_with("..")
}

/// Leaves out what an own entry overrides before anything refers to it, so that the list has no needless duplicates and
/// no value of a Secret that the container never sees.
fn drop_overridden(first: &mut BTreeMap<String, Resolved>, own: &[Entry]) {
    let mut referred: Vec<&str> = Vec::new();
    for entry in own {
        let name = match entry {
            Entry::Own(variable) => {
                referred.extend(expansion::references(text(variable, "value").unwrap_or_default()));
                // An optional fileKeyRef whose key is absent leaves the earlier value in place.
                let file = variable.get("valueFrom").and_then(|source| source.get("fileKeyRef"));
                if file.is_some_and(|file| flag(file, "optional")) {
                    continue;
                }
                text(variable, "name").unwrap_or_default()
            }
            Entry::Resolved(name, _) => name,
        };
        if !referred.contains(&name) {
            first.remove(name);
        }
    }
}
