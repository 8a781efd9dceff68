//! What a kubelet of 1.34 or later refuses in a static pod, as a table of its own.
//!
//! Written from the kubelet's rules (`HasAPIObjectReference` and pod validation: `validateFileKeySelector`,
//! `ValidateSecurityContext`, `ValidateVolumeMounts`; `makeEnvironmentVariables` for env files), on raw JSON, and on purpose without a
//! line of the translator: it is the second opinion on what the translator makes.

#![allow(dead_code)] // Each test binary uses its part.

use serde_json::Value;

/// Volume types that a static pod may have, and the member that makes one refused all the same.
const ALLOWED_VOLUMES: [(&str, Option<&str>); 11] = [
    ("hostPath", None),
    ("emptyDir", None),
    ("downwardAPI", None),
    ("projected", None),
    ("image", None),
    ("nfs", None),
    ("fc", None),
    ("iscsi", Some("secretRef")),
    ("rbd", Some("secretRef")),
    ("cephfs", Some("secretRef")),
    ("flexVolume", Some("secretRef")),
];

/// Members of the spec that must be absent.
const REFUSED_SPEC: [&str; 13] = [
    "serviceAccountName",
    "serviceAccount",
    "imagePullSecrets",
    "resourceClaims",
    "schedulingGates",
    "ephemeralContainers",
    "nodeName",
    "nodeSelector",
    "affinity",
    "topologySpreadConstraints",
    "readinessGates",
    "runtimeClassName",
    "overhead",
];

/// Members of the metadata that a static pod may have.
const ALLOWED_METADATA: [&str; 4] = ["name", "namespace", "annotations", "labels"];

/// Everything that a kubelet would refuse in this manifest, or that would make the copy take its parent's place; empty
/// if it would be taken. Paths only, never values.
pub(crate) fn refusals(manifest_json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let manifest: Value = match serde_json::from_slice(manifest_json) {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("not JSON (line {})", error.line())],
    };
    let mut check = |ok: bool, what: String| {
        if !ok {
            found.push(what);
        }
    };
    check(manifest["apiVersion"] == "v1" && manifest["kind"] == "Pod", "not a v1 Pod".to_owned());
    for member in members(&manifest) {
        let known = ["apiVersion", "kind", "metadata", "spec"].contains(&member);
        check(known, format!("member {member}"));
    }
    for member in members(&manifest["metadata"]) {
        check(ALLOWED_METADATA.contains(&member), format!("metadata.{member}"));
    }
    check(manifest["metadata"]["name"].is_string(), "no metadata.name".to_owned());
    check(manifest["metadata"]["namespace"].is_string(), "no metadata.namespace".to_owned());
    for member in ["kubernetes.io/config.mirror", "kubernetes.io/config.source", "kubernetes.io/config.hash"] {
        check(manifest["metadata"]["annotations"][member].is_null(), format!("annotation {member}"));
    }

    let spec = &manifest["spec"];
    for member in REFUSED_SPEC {
        check(spec[member].is_null(), format!("spec.{member}"));
    }
    check(spec["automountServiceAccountToken"] == Value::Bool(false), "a token would be mounted".to_owned());
    check(!list(&spec["containers"]).is_empty(), "no containers".to_owned());

    let mut mountable: Vec<&str> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (n, volume) in list(&spec["volumes"]).iter().enumerate() {
        let at = format!("spec.volumes[{n}]");
        let name = volume["name"].as_str().unwrap_or_default();
        check(is_label(name) && !mountable.contains(&name), format!("{at}.name"));
        mountable.push(name);
        let kind = volume["hostPath"]["type"].as_str().unwrap_or_default();
        check(HOST_PATH_TYPES.contains(&kind), format!("{at}.hostPath.type"));
        let types: Vec<&str> = members(volume).into_iter().filter(|member| *member != "name").collect();
        check(types.len() == 1, format!("{at} has {} types", types.len()));
        for kind in types {
            match ALLOWED_VOLUMES.iter().find(|(allowed, _)| *allowed == kind) {
                None => check(false, format!("{at}.{kind}")),
                Some((_, Some(refused))) => check(volume[kind][refused].is_null(), format!("{at}.{kind}.{refused}")),
                Some((_, None)) => {}
            }
        }
        for (n, source) in list(&volume["projected"]["sources"]).iter().enumerate() {
            check(members(source) == ["downwardAPI"], format!("{at}.projected.sources[{n}] is not downwardAPI"));
        }
        check(volume["image"]["pullPolicy"] != "Always", format!("{at}.image is always pulled"));
    }

    for kind in ["containers", "initContainers"] {
        for (n_container, container) in list(&spec[kind]).iter().enumerate() {
            let at = format!("spec.{kind}[{n_container}]");
            let name = container["name"].as_str().unwrap_or_default();
            check(is_label(name) && !names.contains(&name), format!("{at}.name"));
            names.push(name);
            check(container["envFrom"].is_null(), format!("{at}.envFrom"));
            for (n, variable) in list(&container["env"]).iter().enumerate() {
                let at = format!("{at}.env[{n}]");
                for source in members(&variable["valueFrom"]) {
                    let allowed = ["fieldRef", "resourceFieldRef", "fileKeyRef"].contains(&source);
                    check(allowed, format!("{at}.valueFrom.{source}"));
                }
                let name = variable["name"].as_str().unwrap_or_default();
                check(is_variable(name), format!("{at} has a name that is refused"));
                let file = &variable["valueFrom"]["fileKeyRef"];
                if !file.is_null() {
                    for what in file_key(spec, kind, n_container, file) {
                        check(false, format!("{at}.valueFrom.fileKeyRef {what}"));
                    }
                    check(variable["value"].is_null(), format!("{at} has two sources"));
                }
                let nul = variable["value"].as_str().is_some_and(|value| value.contains('\0'));
                check(!nul, format!("{at} has a NUL"));
            }
            let context = &container["securityContext"];
            let escalates =
                context["privileged"] == true || list(&context["capabilities"]["add"]).contains(&"SYS_ADMIN".into());
            let fine = !(context["allowPrivilegeEscalation"] == false && escalates);
            check(fine, format!("{at}.securityContext contradicts itself"));
            let mut paths: Vec<&str> = Vec::new();
            for (n, mount) in list(&container["volumeMounts"]).iter().enumerate() {
                let path = mount["mountPath"].as_str().unwrap_or_default();
                check(!path.is_empty() && !paths.contains(&path), format!("{at}.volumeMounts[{n}].mountPath"));
                paths.push(path);
                let known = mount["name"].as_str().is_some_and(|name| mountable.contains(&name));
                check(known, format!("{at}.volumeMounts[{n}] names no volume"));
            }
            check(container["imagePullPolicy"] != "Always", format!("{at} is always pulled"));
            check(list(&container["resources"]["claims"]).is_empty(), format!("{at}.resources.claims"));
            if spec["hostNetwork"] == Value::Bool(true) {
                check(container["ports"].is_null(), format!("{at}.ports of a host-network pod"));
            }
        }
    }
    found
}

/// What is wrong with a `fileKeyRef` of the container at this place.
fn file_key(spec: &Value, kind: &str, at: usize, file: &Value) -> Vec<&'static str> {
    let text = |member: &str| file[member].as_str().unwrap_or_default();
    let mut found = Vec::new();
    let mut check = |ok: bool, what: &'static str| {
        if !ok {
            found.push(what);
        }
    };
    let known = members(file).into_iter().all(|member| ["volumeName", "path", "key", "optional"].contains(&member));
    check(known, "has a member that is not known");
    check(is_variable(text("key")) && text("key").len() <= 128, "has a key that is refused");
    let path = text("path");
    check(
        !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| part != ".."),
        "has a path that is refused",
    );
    let volume = list(&spec["volumes"]).iter().find(|volume| volume["name"] == file["volumeName"]);
    if !volume.is_some_and(|volume| volume["emptyDir"].is_object()) {
        check(false, "names no emptyDir");
        return found;
    }
    // The kubelet knows the volumes that some container mounts, and the file has to be there before it is read.
    let before = if kind == "initContainers" { at } else { usize::MAX };
    let writes = |container: &Value| {
        let mut mounts = list(&container["volumeMounts"]).iter();
        mounts.any(|mount| mount["name"] == file["volumeName"] && mount["readOnly"] != true)
    };
    check(list(&spec["initContainers"]).iter().take(before).any(writes), "is written by no init container before");
    found
}

const HOST_PATH_TYPES: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// RFC 1123.
fn is_label(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

/// `IsRelaxedEnvVarName`.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

fn members(value: &Value) -> Vec<&str> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The checker has to find what it is for, or its silence means nothing.
pub(crate) fn assert_it_refuses_what_it_should() {
    use serde_json::json;
    let good = || {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"automountServiceAccountToken": false,
                "initContainers": [{"name": "init", "volumeMounts": [
                    {"name": "memory", "mountPath": "/out"}, {"name": "host", "mountPath": "/in", "readOnly": true}]}],
                "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"fileKeyRef":
                    {"volumeName": "memory", "path": "secrets", "key": "V1"}}}]}],
                "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}},
                    {"name": "host", "hostPath": {"path": "/x", "type": "Directory"}}, {"name": "memory-2", "emptyDir": {}}]}})
    };
    const FILE_KEY: &str = "/spec/containers/0/env/0/valueFrom/fileKeyRef";
    assert_eq!(refusals(good().to_string().as_bytes()), [""; 0]);
    #[rustfmt::skip]
    let rows = [
        ("/metadata", "uid",                 json!("u")),
        ("/metadata", "ownerReferences",     json!([])),
        ("/spec",     "serviceAccountName",  json!("default")),
        ("/spec",     "imagePullSecrets",    json!([{"name": "s"}])),
        ("/spec",     "resourceClaims",      json!([{"name": "r"}])),
        ("/spec",     "schedulingGates",     json!([{"name": "g"}])),
        ("/spec",     "nodeSelector",        json!({"a": "b"})),
        ("/spec",     "volumes",             json!([{"name": "v", "secret": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "configMap": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "csi": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "persistentVolumeClaim": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "ephemeral": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "azureFile": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "glusterfs": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "cinder": {"secretRef": {}}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "rbd": {"secretRef": {}}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "fromTheFuture": {}}])),
        ("/spec",     "volumes",             json!([{"name": "v"}])),
        ("/spec",     "volumes",             json!([{"name": "v", "projected": {"sources": [{"secret": {}}]}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "projected": {"sources": [{"podCertificate": {}}]}}])),
        ("/spec",     "volumes",             json!([{"name": "v", "projected": {"sources": [{}]}}])),
        ("/spec/containers/0", "envFrom",    json!([{"secretRef": {"name": "s"}}])),
        ("/spec/containers/0", "env",        json!([{"name": "A", "valueFrom": {"secretKeyRef": {}}}])),
        ("/spec/containers/0", "env",        json!([{"name": "A", "valueFrom": {"configMapKeyRef": {}}}])),
        ("/spec/containers/0", "env",        json!([{"name": "A=B", "value": ""}])),
        ("/spec/containers/0", "name",       json!("under_score")),
        ("/spec/containers/0", "name",       json!("init")),
        ("/spec/volumes/2",    "name",       json!("-")),
        ("/spec/volumes/2",    "name",       json!("memory")),
        ("/spec/volumes/1/hostPath", "type", json!("Fifo")),
        ("/spec/containers/0", "securityContext", json!({"privileged": true, "allowPrivilegeEscalation": false})),
        ("/spec/initContainers/0/volumeMounts/1", "mountPath", json!("/out")),
        (FILE_KEY, "volumeName",             json!("none")),
        (FILE_KEY, "volumeName",             json!("host")),
        (FILE_KEY, "path",                   json!("")),
        (FILE_KEY, "path",                   json!("/secrets")),
        (FILE_KEY, "path",                   json!("a/../secrets")),
        (FILE_KEY, "key",                    json!("")),
        (FILE_KEY, "key",                    json!("A=B")),
        (FILE_KEY, "key",                    json!("k".repeat(129))),
        (FILE_KEY, "name",                   json!("s")),
        ("/spec/containers/0/env/0", "value", json!("x")),
        ("/spec/initContainers/0/volumeMounts/0", "readOnly", json!(true)),
        ("/spec/containers/0", "volumeMounts", json!([{"name": "none", "mountPath": "/x"}])),
        ("/spec/containers/0", "imagePullPolicy", json!("Always")),
    ];
    for (parent, member, value) in rows {
        let mut bad = good();
        if member == "volumes" {
            // Nothing else may miss what is replaced.
            bad["spec"].as_object_mut().expect("a spec").remove("initContainers");
            bad["spec"]["containers"][0]["env"] = json!([]);
        }
        bad.pointer_mut(parent).expect("the good one has it")[member] = value.clone();
        assert_eq!(refusals(bad.to_string().as_bytes()).len(), 1, "{parent}/{member} = {value}");
    }
}
