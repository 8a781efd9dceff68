//! Rows about environment variables.

use ckpt_db::checkpoint::env_file::NoEnvFile;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::settings::{KubeletVersion, SecretEnv, Settings};
use ckpt_db::checkpoint::translate::translate;
use ckpt_db::checkpoint::verdict::Reason;
use serde_json::{Value, json};

use super::support::*;

#[test]
fn env_references() {
    let from = |kind: &str, name: &str, key: &str, optional: bool| json!({"name": "A", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}});
    #[rustfmt::skip]
    let rows = [
        (json!([from("secretKeyRef",    "s", "a", false)]),    json!([{"name": "A", "value": "alpha"}])),
        (json!([from("configMapKeyRef", "m", "c", false)]),    json!([{"name": "A", "value": "see"}])),
        (json!([from("secretKeyRef",    "s", "b", false)]),    json!([{"name": "A", "value": "$$(X)"}])),
        (json!([from("secretKeyRef",    "none", "a", true)]),  json!(null)),
        (json!([from("configMapKeyRef", "m", "none", true)]),  json!(null)),
        (json!([from("configMapKeyRef", "m", "binary", true)]), json!(null)),
        (json!([{"name": "A", "value": "$(B) $$(C)"}]),        json!([{"name": "A", "value": "$(B) $$(C)"}])),
        (json!([{"name": "A"}]),                               json!([{"name": "A"}])),
    ];
    for (parent, copy) in rows {
        let copy = if copy.is_null() { json!({}) } else { json!({ "env": copy }) };
        container_becomes(json!({ "env": parent }), copy);
    }
    let why = |variable: Value| refused(json!({"containers": [{"name": "c", "env": [variable]}]}));
    #[rustfmt::skip]
    let rows = [
        (from("secretKeyRef", "none", "a", false),   "Secret shop/none is not stored (spec.containers[0].env[0].valueFrom.secretKeyRef)"),
        (from("secretKeyRef", "s", "none", false),   "Secret shop/s has no key none (spec.containers[0].env[0].valueFrom.secretKeyRef)"),
        (from("configMapKeyRef", "m", "binary", false), "ConfigMap shop/m has no key binary (spec.containers[0].env[0].valueFrom.configMapKeyRef)"),
        (from("secretKeyRef", "bin", "k", false),    "key k of Secret shop/bin is not text that an environment variable can carry (spec.containers[0].env[0].valueFrom.secretKeyRef)"),
        (from("secretKeyRef", "nul", "k", false),    "key k of Secret shop/nul is not text that an environment variable can carry (spec.containers[0].env[0].valueFrom.secretKeyRef)"),
        (from("secretKeyRef", "bad", "k", false),    "Secret shop/bad: a value is not valid base64 (at byte 16 of the object's JSON)"),
        (from("secretKeyRef", "sealed", "a", true),  "Secret shop/sealed is sealed and no key at hand opens it"),
        (from("secretKeyRef", "keyless", "a", true), "Secret shop/keyless is not stored: no node key yet"),
        (from("secretKeyRef", "damaged", "a", true), "Secret shop/damaged is damaged in the store"),
        (json!({"name": "A", "valueFrom": {}}),      "spec.containers[0].env[0].valueFrom is not known to this version"),
        (json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}, "secretKeyRef": {"name": "s", "key": "a"}}}),
                                                     "spec.containers[0].env[0].valueFrom is not known to this version"),
        (from("fromTheFuture", "s", "a", true),      "spec.containers[0].env[0].valueFrom.fromTheFuture is not known to this version"),
    ];
    for (variable, want) in rows {
        assert_eq!(why(variable), [want]);
    }
}

/// An env file of the pod's own needs no API object.
#[test]
fn env_file_of_the_pod_itself() {
    let spec = json!({
        "initContainers": [{"name": "i", "image": "i:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "containers": [{"name": "c", "image": "i:1",
            "env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}}}]}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    becomes(spec.clone(), spec);
}

#[test]
fn env_from() {
    let map = |name: &str| json!({"configMapRef": {"name": name}});
    #[rustfmt::skip]
    let rows = [
        // in order, later wins
        (json!({"envFrom": [map("m"), map("n")]}),   json!([{"name": "a", "value": "from-m"}, {"name": "c", "value": "from-n"}])),
        (json!({"envFrom": [map("n"), map("m")]}),   json!([{"name": "a", "value": "from-m"}, {"name": "c", "value": "see"}])),
        // `env` over it
        (json!({"envFrom": [map("n")], "env": [{"name": "c", "value": "own"}]}),
                                                     json!([{"name": "c", "value": "own"}])),
        // but what refers to it before still finds it
        (json!({"envFrom": [map("n")], "env": [{"name": "X", "value": "$(c)"}, {"name": "c", "value": "own"}]}),
                                                     json!([{"name": "c", "value": "from-n"}, {"name": "X", "value": "$(c)"}, {"name": "c", "value": "own"}])),
        // prefix
        (json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "n"}}]}),
                                                     json!([{"name": "P_c", "value": "from-n"}])),
        // optional
        (json!({"envFrom": [{"configMapRef": {"name": "none", "optional": true}}, map("n")]}),
                                                     json!([{"name": "c", "value": "from-n"}])),
        // resolved values are never expanded again
        (json!({"envFrom": [{"secretRef": {"name": "s"}}]}),
                                                     json!([{"name": "a", "value": "alpha"}, {"name": "b", "value": "$$(X)"}])),
        // an optional entry that is absent leaves the value below it
        (json!({"envFrom": [map("n")], "env": [{"name": "c", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}}]}),
                                                     json!([{"name": "c", "value": "from-n"}])),
    ];
    for (parent, copy) in rows {
        container_becomes(parent, json!({ "env": copy }));
    }
    assert_eq!(
        refused(json!({"containers": [{"name": "c", "envFrom": [map("none"), {"secretRef": {"name": "bin"}}]}]})),
        [
            "ConfigMap shop/none is not stored (spec.containers[0].envFrom[0].configMapRef)",
            "key k of Secret shop/bin is not text that an environment variable can carry (spec.containers[0].envFrom[1].secretRef)",
        ]
    );
    let unknown = json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "n"}, "suffix": "X"}]}]});
    assert_eq!(refused(unknown), ["spec.containers[0].envFrom[0].suffix is not known to this version"]);
}

/// API pods take odd names since 1.32, static pods since 1.35.
#[test]
fn env_names_by_kubelet_version() {
    let parent = json!({"envFrom": [{"configMapRef": {"name": "odd"}}]});
    let all = json!([{"name": "1st", "value": "one"}, {"name": "a.b-c", "value": "two"}]);
    let plain = json!([{"name": "a.b-c", "value": "two"}]);
    #[rustfmt::skip]
    let rows: [(Option<u32>, &Value, &[&str]); 5] = [
        (None,     &all,   &[]),
        (Some(35), &all,   &[]),
        (Some(34), &plain, &["variable 1st dropped"]),
        (Some(32), &plain, &["variable 1st dropped"]),
        (Some(31), &plain, &[]),
    ];
    for (minor, copy, want) in rows {
        let kubelet_version = minor.map(|minor| KubeletVersion { major: 1, minor });
        let settings = Settings { kubelet_version, ..settings() };
        let translation = container_becomes_with(&settings, parent.clone(), json!({ "env": copy }));
        assert_eq!(notes(&translation), want, "{minor:?}");
    }
}

#[test]
fn secret_env_policy() {
    use SecretEnv::{Auto, EnvFile, Literal, Refuse};
    let spec = json!({"containers": [{"name": "c", "image": "i:1", "envFrom": [{"secretRef": {"name": "s"}}],
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "none", "key": "a", "optional": true}}}]}]});
    let plain = metadata();
    let mut asked = metadata();
    asked["annotations"] = json!({"checkpointer.alpha.coreos.com/checkpoint": "true"});
    #[rustfmt::skip]
    let rows = [
        (Literal, &plain, true),
        (Literal, &asked, true),
        (Auto,    &plain, false),
        (Auto,    &asked, true),
        (Refuse,  &plain, false),
        (Refuse,  &asked, false),
    ];
    for (secret_env, metadata, want) in rows {
        match run(metadata, &spec, &Settings { secret_env, ..settings() }) {
            Ok(translation) => {
                assert!(want, "{secret_env:?}");
                let why = match secret_env {
                    Auto => " (no env file: the kubelet's version is not known, and it reads env files since 1.35)",
                    EnvFile | Literal | Refuse => "",
                };
                assert_eq!(notes(&translation), [format!("Secret values in clear in the manifest{why}")]);
                assert!(translation.rendering.manifest.carries_secret);
            }
            Err(reasons) => {
                assert!(!want, "{secret_env:?}");
                let fields =
                    ["spec.containers[0].envFrom[0].secretRef", "spec.containers[0].env[0].valueFrom.secretKeyRef"];
                let fields = fields.map(|field| Reason::SecretEnvRefused {
                    field: field.to_owned(),
                    no_env_file: (secret_env == Auto).then_some(NoEnvFile::KubeletUnknown),
                });
                assert_eq!(reasons, fields);
            }
        }
    }
    // A value that the container never sees is not written.
    let translation = env_becomes(json!([{"name": "x", "value": "1"}]), json!([{"name": "x", "value": "1"}]));
    assert!(!translation.rendering.manifest.carries_secret);
    let overridden = container_becomes(
        json!({"envFrom": [{"prefix": "P", "secretRef": {"name": "s"}}],
               "env": [{"name": "Pa", "value": "own"}, {"name": "Pb", "value": "own"}]}),
        json!({"env": [{"name": "Pa", "value": "own"}, {"name": "Pb", "value": "own"}]}),
    );
    assert!(!overridden.rendering.manifest.carries_secret);
}

#[test]
fn env_fields() {
    let field = |path: &str| json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}]);
    let value = |value: &str| json!([{"name": "A", "value": value}]);
    let mut metadata = metadata();
    metadata["labels"] = json!({"app": "we$b"});
    metadata["annotations"] = json!({"note": "n"});
    #[rustfmt::skip]
    let rows = [
        ("metadata.name",                Some("web")),
        ("metadata.uid",                 Some("uid-1")),
        ("metadata.labels['app']",       Some("we$$b")),
        ("metadata.labels['none']",      Some("")),
        ("metadata.annotations['note']", Some("n")),
        ("spec.serviceAccountName",      Some("builder")),
        ("metadata.namespace",           None),
        ("spec.nodeName",                None),
        ("status.hostIP",                None),
        ("status.hostIPs",               None),
        ("status.podIP",                 None),
        ("status.podIPs",                None),
    ];
    for (path, want) in rows {
        let spec = json!({"serviceAccountName": "builder", "containers": [{"name": "c", "env": field(path)}]});
        let copy = manifest(&run(&metadata, &spec, &settings()).unwrap());
        assert_eq!(copy["spec"]["containers"][0]["env"], want.map_or_else(|| field(path), value), "{path}");
    }
    assert_eq!(
        refused(json!({"containers": [{"name": "c", "env": field("metadata.fromTheFuture")}]})),
        ["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath is not known to this version"]
    );
}

/// Limits and what follows from the node stay; requests, which are zero in the copy, become the parent's.
#[test]
fn env_resource_fields() {
    let field = |resource: &str, divisor: &str| json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    #[rustfmt::skip]
    let rows = [
        ("limits.cpu",             "0",   None),
        ("limits.memory",          "1Mi", None),
        ("requests.cpu",           "0",   Some("2")),
        ("requests.cpu",           "1m",  Some("1500")),
        ("requests.memory",        "1Mi", Some("100")),
        ("requests.hugepages-2Mi", "1Mi", None),
    ];
    let resources = json!({"limits": {"cpu": "2", "memory": "200Mi", "hugepages-2Mi": "2Mi"},
                           "requests": {"cpu": "1500m", "memory": "100Mi", "hugepages-2Mi": "2Mi"}});
    for (resource, divisor, want) in rows {
        let variable = field(resource, divisor);
        let spec = json!({"containers": [{"name": "c", "resources": resources, "env": [variable]}]});
        let copy = manifest(&run(&metadata(), &spec, &settings()).unwrap());
        let want = want.map_or(variable, |value| json!({"name": "A", "value": value}));
        assert_eq!(copy["spec"]["containers"][0]["env"][0], want, "{resource}");
    }
    env_becomes(json!([field("requests.cpu", "1")]), json!([field("requests.cpu", "1")]));
}

#[test]
fn service_environment() {
    let service = object(
        ObjectKey::new(Kind::Service, "default", "kubernetes").unwrap(),
        &json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 443}]}}),
    );
    let pod = json!({"spec": {"enableServiceLinks": false, "containers": [
        {"name": "c", "env": [{"name": "API", "value": "$(KUBERNETES_SERVICE_HOST)"},
                              {"name": "KUBERNETES_SERVICE_PORT", "value": "6443"}]}]}});
    let pod = object(key(Kind::Pod, "web"), &pod);
    let env = |services: &[Object]| {
        let translation = translate(&pod, &store(), services, &settings()).unwrap();
        let env = manifest(&translation)["spec"]["containers"][0]["env"].clone();
        let lines: Vec<String> = env
            .as_array()
            .unwrap()
            .iter()
            .map(|v| format!("{}={}", v["name"].as_str().unwrap(), v["value"].as_str().unwrap()))
            .collect();
        (lines, notes(&translation))
    };
    let (lines, said) = env(&[service]);
    assert_eq!(
        lines,
        [
            "KUBERNETES_PORT=tcp://10.0.0.1:443",
            "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
            "KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1",
            "KUBERNETES_PORT_443_TCP_PORT=443",
            "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_SERVICE_HOST=10.0.0.1",
            "API=$(KUBERNETES_SERVICE_HOST)",
            "KUBERNETES_SERVICE_PORT=6443",
        ]
    );
    assert_eq!(said, [""; 0]);
    assert_eq!(env(&[]).1, ["no Service environment"]);
}
