//! One container: environment, resources, image, ports and mounts. Init containers and sidecars are containers too.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::VARIABLE_COPY_OF;
use super::super::json::{items_mut, object, remove, set, text};
use super::super::object::is_dns_label;
use super::super::verdict::Reason;
use super::{Findings, Parent, env, expansion, ports, resources};

/// Translates every container of the spec. `rendered` are the volumes that became trees.
pub(super) fn translate(parent: &Parent<'_>, findings: &mut Findings, spec: &mut Value, rendered: &BTreeSet<String>) {
    let of_services = env::of_services(parent, findings);
    let key = &parent.pod.key;
    let own_pod = parent.settings.own_pod.as_ref();
    let is_own = own_pod.is_some_and(|own| own.namespace == key.namespace() && own.name == key.name());
    let mut names = BTreeSet::new();
    for list in ["containers", "initContainers"] {
        for (n, container) in items_mut(spec, list).iter_mut().enumerate() {
            let path = format!("spec.{list}[{n}]");
            // The kubelet refuses the whole manifest for such a name.
            let name = text(container, "name").unwrap_or_default().to_owned();
            if !is_dns_label(&name) || !names.insert(name) {
                let problem = format!("{path}.name is no RFC 1123 label, or given twice");
                findings.refuse(Reason::Malformed(problem));
            }
            if is_own {
                tell_copy_of(parent, container);
            }
            env::translate(parent, findings, container, &path, &of_services);
            if let Some(resources) = container.get_mut("resources") {
                resources::translate(parent, findings, resources);
            }
            pull_if_not_present(container, "image", "imagePullPolicy");
            if parent.pod.host_network() {
                // Numbers first: a named port without `ports` leaves a sidecar pod Pending for ever.
                ports::resolve_names(container);
                remove(container, "ports");
            }
            for mount in items_mut(container, "volumeMounts") {
                if text(mount, "name").is_some_and(|name| rendered.contains(name)) {
                    set(mount, "readOnly", json!(true));
                }
            }
        }
    }
}

/// Sets the variable that tells the program that it is the copy, in place of what the container has under that name.
///
/// Before the environment is resolved, where an entry of the list wins over every source of `envFrom`.
fn tell_copy_of(parent: &Parent<'_>, container: &mut Value) {
    let uid = expansion::escape(parent.pod.parent_uid());
    let told = object([("name", VARIABLE_COPY_OF.into()), ("value", uid.as_str().into())]);
    let mut found = false;
    // In place: the paths of the other entries stay what they are in the parent.
    for variable in items_mut(container, "env") {
        if text(variable, "name") == Some(VARIABLE_COPY_OF) {
            *variable = told.clone();
            found = true;
        }
    }
    if !found {
        match container.get_mut("env").and_then(Value::as_array_mut) {
            Some(list) => list.push(told),
            None => set(container, "env", Value::Array(vec![told])),
        }
    }
}

/// `Always`, explicit or by default, becomes `IfNotPresent`: offline, `Always` never starts although the image is there.
pub(super) fn pull_if_not_present(holder: &mut Value, image: &str, policy: &str) {
    let always = match text(holder, policy) {
        Some(policy) => policy == "Always",
        None => text(holder, image).is_some_and(is_latest),
    };
    if always {
        set(holder, policy, "IfNotPresent".into());
    }
}

/// Whether the API defaults the pull policy of this image to `Always`: tag `latest`, or neither tag nor digest
/// (`pkg/util/parsers`, `ParseImageName`).
fn is_latest(image: &str) -> bool {
    let (image, has_digest) = image.split_once('@').map_or((image, false), |(image, _)| (image, true));
    // A colon before the last slash belongs to the registry's port.
    let last = image.rsplit('/').next().unwrap_or(image);
    // A tag counts beside a digest too.
    last.split_once(':').map_or(!has_digest, |(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_always_pulled_by_default() {
        #[rustfmt::skip]
        let rows = [
            ("nginx",                        true),
            ("nginx:latest",                 true),
            ("registry:5000/nginx",          true),
            ("registry:5000/nginx:latest",   true),
            ("nginx:1.27",                   false),
            ("registry:5000/nginx:1.27",     false),
            ("nginx@sha256:00",              false),
            ("nginx:latest@sha256:00",       true),
            ("nginx:1.27@sha256:00",         false),
            ("registry:5000/nginx@sha256:0", false),
        ];
        for (image, want) in rows {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }
}
