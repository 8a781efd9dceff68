//! One test for each row of the translation table of the design ("From a stored pod to a static pod"), to be read side
//! by side with it: left what the parent has, right what the copy has.

use std::collections::BTreeMap;

use ckpt_db::checkpoint::lookup::{Lookup, Objects};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::{Contents, Tree, TreeRoot};
use ckpt_db::checkpoint::settings::{KubeletVersion, SecretEnv, Settings, TokenPolicy};
use ckpt_db::checkpoint::translate::{Translation, translate};
use ckpt_db::checkpoint::verdict::Reason;
use serde_json::{Value, json};

mod manifest_checker;

// ---- The store of these tests, and what is compared ----------------------------------------------------------------

struct Store(BTreeMap<ObjectKey, Value>);

impl Objects for Store {
    fn get(&self, key: &ObjectKey) -> Lookup {
        match key.name() {
            "sealed" => return Lookup::Sealed,
            "keyless" => return Lookup::NoKeyYet,
            "damaged" => return Lookup::Damaged,
            _ => {}
        }
        self.0.get(key).map_or(Lookup::Missing, |body| Lookup::Found(object(key.clone(), body)))
    }
}

fn object(key: ObjectKey, body: &Value) -> Object {
    Object { key, uid: String::new(), resource_version: String::new(), body: body.to_string().into() }
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "shop", name).unwrap()
}

/// Secret `s`: a=alpha, b=$(X), bin=0xff. ConfigMap `m`: a=from-m, c=see, 1st=first, binary=0x00ff. ConfigMap `n`: c=from-n.
fn store() -> Store {
    let all = [
        (key(Kind::Secret, "s"), json!({"data": {"a": "YWxwaGE=", "b": "JChYKQ=="}})),
        (key(Kind::Secret, "bin"), json!({"data": {"k": "/w=="}})),
        (key(Kind::Secret, "nul"), json!({"data": {"k": "AA=="}})),
        (key(Kind::Secret, "bad"), json!({"data": {"k": "!"}})),
        (key(Kind::ConfigMap, "m"), json!({"data": {"a": "from-m", "c": "see"}, "binaryData": {"binary": "AP8="}})),
        (key(Kind::ConfigMap, "n"), json!({"data": {"c": "from-n"}})),
        (key(Kind::ConfigMap, "odd"), json!({"data": {"1st": "one", "a.b-c": "two"}})),
    ];
    Store(all.into_iter().collect())
}

fn settings() -> Settings {
    Settings { node_name: "edge-1".to_owned(), secret_env: SecretEnv::Literal, ..Settings::default() }
}

fn metadata() -> Value {
    json!({"name": "web", "namespace": "shop", "uid": "uid-1"})
}

fn run(metadata: &Value, spec: &Value, settings: &Settings) -> Result<Translation, Vec<Reason>> {
    let mut spec = spec.clone();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "image": "i:1"}]);
    }
    let pod =
        object(key(Kind::Pod, "web"), &json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}));
    let services = [object(
        ObjectKey::new(Kind::Service, "elsewhere", "x").unwrap(),
        &json!({"spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 1}]}}),
    )];
    translate(&pod, &store(), &services, settings)
}

fn manifest(translation: &Translation) -> Value {
    let json = translation.rendering.manifest.json.expose();
    assert_eq!(manifest_checker::refusals(json), [""; 0]);
    serde_json::from_slice(json).unwrap()
}

/// The copy's spec is `copy`, plus what every copy has (set a member to null where it must be absent).
#[track_caller]
fn becomes_with(settings: &Settings, parent: Value, copy: Value) -> Translation {
    let translation = run(&metadata(), &parent, settings).expect("recoverable");
    let mut want = json!({"automountServiceAccountToken": false, "hostname": "web",
        "containers": [{"name": "c", "image": "i:1"}]});
    for (member, value) in copy.as_object().unwrap() {
        want[member] = value.clone();
    }
    want.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    assert_eq!(manifest(&translation)["spec"], want);
    translation
}

#[track_caller]
fn becomes(parent: Value, copy: Value) -> Translation {
    becomes_with(&settings(), parent, copy)
}

/// The copy's only container is `copy` for the parent's `parent`, both with name and image.
#[track_caller]
fn container_becomes_with(settings: &Settings, parent: Value, copy: Value) -> Translation {
    let full = |members: Value| {
        let mut container = json!({"name": "c", "image": "i:1"});
        for (member, value) in members.as_object().unwrap() {
            container[member] = value.clone();
        }
        json!({ "containers": [container] })
    };
    becomes_with(settings, full(parent), full(copy))
}

#[track_caller]
fn container_becomes(parent: Value, copy: Value) -> Translation {
    container_becomes_with(&settings(), parent, copy)
}

#[track_caller]
fn env_becomes(parent: Value, copy: Value) -> Translation {
    container_becomes(json!({ "env": parent }), json!({ "env": copy }))
}

/// The reasons for which a spec is refused, one sentence each.
#[track_caller]
fn refused_with(settings: &Settings, spec: Value) -> Vec<String> {
    let reasons = run(&metadata(), &spec, settings).err().expect("not recoverable");
    reasons.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(spec: Value) -> Vec<String> {
    refused_with(&settings(), spec)
}

fn notes(translation: &Translation) -> Vec<String> {
    translation.notes.iter().map(ToString::to_string).collect()
}

/// `<root>:<path>` and one line for each file: path, mode, contents.
fn shown(tree: &Tree) -> Vec<String> {
    let root = match tree.root {
        TreeRoot::Secrets => "secrets",
        TreeRoot::ConfigMaps => "configmaps",
    };
    let group = tree.fs_group.map(|group| format!(" group {group}")).unwrap_or_default();
    let mut lines = vec![format!("{root}:{}{group}", tree.path.join("/"))];
    lines.extend(tree.files.iter().map(|file| {
        let contents = match &file.contents {
            Contents::Inline(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
            Contents::Data { object, key } => format!("{object}[{key}]"),
        };
        format!("{} {:04o} {contents}", file.path.join("/"), file.mode)
    }));
    lines
}

fn trees(translation: &Translation) -> Vec<String> {
    translation.rendering.trees.iter().flat_map(shown).collect()
}

/// A volume becomes a tree at this hostPath with these files, and its mount read-only.
#[track_caller]
fn volume_becomes(source: Value, path: &str, files: &[&str]) -> Translation {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    let container = |mount: Value| json!([{"name": "c", "image": "i:1", "volumeMounts": [mount]}]);
    let translation = becomes(
        json!({"volumes": [volume],
               "containers": container(json!({"name": "v", "mountPath": "/v", "subPath": "a"}))}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": path, "type": "Directory"}}],
               "containers": container(json!({"name": "v", "mountPath": "/v", "subPath": "a", "readOnly": true}))}),
    );
    assert_eq!(trees(&translation), files);
    translation
}

#[track_caller]
fn volume_stays(source: Value) {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    let containers = json!([{"name": "c", "image": "i:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]);
    let spec = json!({"volumes": [volume], "containers": containers});
    assert!(becomes(spec.clone(), spec).rendering.trees.is_empty());
}

#[track_caller]
fn volume_refused(source: Value) -> Vec<String> {
    let mut volume = json!({"name": "v"});
    volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    refused(json!({ "volumes": [volume] }))
}

// ---- The rows --------------------------------------------------------------------------------------------------------

#[test]
fn the_checker_has_teeth() {
    manifest_checker::assert_it_refuses_what_it_should();
}

#[test]
fn row_metadata() {
    let parent = json!({
    "name": "web", "namespace": "shop", "uid": "uid-1", "resourceVersion": "7", "generateName": "web-",
    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}],
    "finalizers": ["a.io/b"], "managedFields": [], "creationTimestamp": "2026-01-01T00:00:00Z",
    "labels": {"app": "web"},
    "annotations": {
        "checkpointer.alpha.coreos.com/checkpoint": "true",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
        "kubernetes.io/config.source": "api",
        "kubernetes.io/ingress-bandwidth": "1M",
        "container.apparmor.security.beta.kubernetes.io/c": "runtime/default",
    }});
    let mut copy = json!({
    "name": "web", "namespace": "shop",
    "annotations": {
        "checkpointer.alpha.coreos.com/checkpoint-of": "web",
        "ckpt-db.io/parent-uid": "uid-1",
        "kubernetes.io/ingress-bandwidth": "1M",
        "container.apparmor.security.beta.kubernetes.io/c": "runtime/default",
    }});
    let translation = run(&parent, &json!({}), &settings()).unwrap();
    assert_eq!(manifest(&translation)["metadata"], copy);
    assert_eq!(notes(&translation), ["labels dropped"]);

    let keep = Settings { keep_labels: true, ..settings() };
    let translation = run(&parent, &json!({}), &keep).unwrap();
    copy["labels"] = json!({"app": "web"});
    assert_eq!(manifest(&translation)["metadata"], copy);
    assert_eq!(notes(&translation), [""; 0]);
}

#[test]
fn row_status_and_top_level() {
    let manifest = manifest(&run(&metadata(), &json!({}), &settings()).unwrap());
    let members: Vec<_> = manifest.as_object().unwrap().keys().collect();
    assert_eq!(members, ["apiVersion", "kind", "metadata", "spec"]);
}

#[test]
fn row_service_account() {
    becomes(
        json!({"serviceAccountName": "builder", "serviceAccount": "builder", "automountServiceAccountToken": true}),
        json!({"automountServiceAccountToken": false}),
    );
}

#[test]
fn row_scheduling() {
    becomes(
        json!({
            "nodeName": "edge-1", "nodeSelector": {"a": "b"}, "affinity": {"podAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}],
            "schedulingGates": [{"name": "g"}], "schedulerName": "s", "readinessGates": [{"conditionType": "t"}],
            "workloadRef": {"name": "w"},
        }),
        json!({}),
    );
}

#[test]
fn row_requests() {
    let parent = json!({"requests": {"cpu": "1", "memory": "1Gi"},
                        "limits":   {"cpu": "2", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}});
    let copy = json!({"requests": {"cpu": "0", "memory": "0", "ephemeral-storage": "0"},
                        "limits":   {"cpu": "2", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}});
    container_becomes(json!({ "resources": parent }), json!({ "resources": copy }));
    becomes(json!({ "resources": parent }), json!({ "resources": copy }));
    becomes(
        json!({"initContainers": [{"name": "i", "image": "i:1", "resources": parent}]}),
        json!({"initContainers": [{"name": "i", "image": "i:1", "resources": copy}]}),
    );
    container_becomes(json!({"resources": {}}), json!({"resources": {}}));
    let keep = Settings { keep_requests: true, ..settings() };
    container_becomes_with(&keep, json!({ "resources": parent }), json!({ "resources": parent }));
}

#[test]
fn row_extended_resources_and_claims() {
    let with = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
    assert_eq!(
        refused(with(json!({"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}))),
        ["extended resource nvidia.com/gpu is assigned to the parent only"]
    );
    assert_eq!(refused(with(json!({"claims": [{"name": "r"}]}))), ["it has resource claims"]);
    assert_eq!(
        refused(json!({"resourceClaims": [{"name": "r", "resourceClaimName": "x"}]})),
        ["it has resource claims"]
    );
}

#[test]
fn row_kept_fields() {
    let kept = json!({
        "tolerations": [{"operator": "Exists"}], "priority": 5, "priorityClassName": "high",
        "dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.1"]}, "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["h"]}],
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000}, "terminationGracePeriodSeconds": 5,
        "restartPolicy": "Always", "enableServiceLinks": false, "shareProcessNamespace": true, "subdomain": "sub",
        "containers": [{"name": "c", "image": "i:1",
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}, "ports": [{"name": "http", "containerPort": 80}],
            "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}, "securityContext": {"readOnlyRootFilesystem": true},
            "fromTheFuture": {"x": 1}}],
        "alsoNew": true,
    });
    let translation = becomes(kept.clone(), kept);
    assert_eq!(
        notes(&translation),
        ["unknown field spec.alsoNew kept", "unknown field spec.containers[0].fromTheFuture kept"]
    );
}

#[test]
fn row_ports_of_host_network_pods() {
    let hooks = |port: Value| {
        json!({
            "livenessProbe": {"httpGet": {"port": port}}, "readinessProbe": {"tcpSocket": {"port": port}},
            "startupProbe": {"httpGet": {"port": 81}},
            "lifecycle": {"postStart": {"httpGet": {"port": port}}, "preStop": {"tcpSocket": {"port": port}}},
        })
    };
    let mut parent = hooks(json!("http"));
    let mut copy = hooks(json!(80));
    for container in [&mut parent, &mut copy] {
        container["name"] = json!("c");
        container["image"] = json!("i:1");
    }
    parent["ports"] = json!([{"name": "http", "containerPort": 80, "hostPort": 80}]);
    becomes(
        json!({"hostNetwork": true, "containers": [parent], "initContainers": [parent]}),
        json!({"hostNetwork": true, "containers": [copy], "initContainers": [copy], "hostname": null}),
    );
    let mut plain = hooks(json!("http"));
    plain["ports"] = json!([{"name": "http", "containerPort": 80, "hostPort": 80}]);
    container_becomes(plain.clone(), plain);
}

#[test]
fn row_hostname() {
    becomes(json!({}), json!({"hostname": "web"}));
    becomes(json!({"hostname": "own"}), json!({"hostname": "own"}));
    becomes(json!({"hostNetwork": true}), json!({"hostNetwork": true, "hostname": null}));
    becomes(json!({"hostnameOverride": "o"}), json!({"hostnameOverride": "o", "hostname": null}));

    let hostname = |name: &str| {
        let body = json!({"spec": {"containers": [{"name": "c"}]}});
        let translation = translate(&object(key(Kind::Pod, name), &body), &store(), &[], &settings()).unwrap();
        (manifest(&translation)["spec"]["hostname"].clone(), notes(&translation))
    };
    let cut = format!("{}-rest", "a".repeat(62));
    assert_eq!(hostname(&cut).0, json!("a".repeat(62)));
    assert_eq!(
        hostname("a.b"),
        (Value::Null, vec!["no Service environment".to_owned(), "hostname differs".to_owned()])
    );
}

#[test]
fn row_runtime_class() {
    let parent = json!({"runtimeClassName": "gvisor", "overhead": {"cpu": "1"}});
    assert_eq!(refused(parent.clone()), ["runtimeClassName gvisor is read through the API server"]);
    let translation = becomes_with(&Settings { drop_runtime_class: true, ..settings() }, parent, json!({}));
    assert_eq!(notes(&translation), ["runtime class dropped"]);
}

#[test]
fn row_ephemeral_containers() {
    becomes(
        json!({"ephemeralContainers": [{"name": "debug", "envFrom": [{"secretRef": {"name": "none"}}]}]}),
        json!({}),
    );
}

#[test]
fn row_init_containers_and_sidecars() {
    becomes(
        json!({"initContainers": [
            {"name": "i", "image": "x:latest", "envFrom": [{"configMapRef": {"name": "n"}}]},
            {"name": "s", "image": "x:1", "restartPolicy": "Always",
             "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a"}}}]}]}),
        json!({"initContainers": [
            {"name": "i", "image": "x:latest", "imagePullPolicy": "IfNotPresent", "env": [{"name": "c", "value": "from-n"}]},
            {"name": "s", "image": "x:1", "restartPolicy": "Always", "env": [{"name": "A", "value": "alpha"}]}]}),
    );
}

#[test]
fn row_image_pull_policy() {
    #[rustfmt::skip]
    let rows = [
        (json!({"imagePullPolicy": "Always"}),       json!({"imagePullPolicy": "IfNotPresent"})),
        (json!({"imagePullPolicy": "IfNotPresent"}), json!({"imagePullPolicy": "IfNotPresent"})),
        (json!({"imagePullPolicy": "Never"}),        json!({"imagePullPolicy": "Never"})),
        (json!({"image": "i"}),                      json!({"image": "i", "imagePullPolicy": "IfNotPresent"})),
        (json!({"image": "i:latest"}),               json!({"image": "i:latest", "imagePullPolicy": "IfNotPresent"})),
        (json!({"image": "i:2"}),                    json!({"image": "i:2"})),
    ];
    for (parent, copy) in rows {
        container_becomes(parent, copy);
    }
}

#[test]
fn row_image_pull_secrets() {
    let parent = json!({"imagePullSecrets": [{"name": "registry"}]});
    assert_eq!(notes(&becomes(parent.clone(), json!({}))), ["image pull secrets dropped"]);
    let old = Settings { kubelet_version: Some(KubeletVersion { major: 1, minor: 34 }), ..settings() };
    assert_eq!(notes(&becomes_with(&old, parent, json!({}))), [""; 0]);
}

#[test]
fn row_env_references() {
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
        (json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}}}]),
         json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "f", "key": "K"}}}])),
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
        (from("fromTheFuture", "s", "a", true),      "spec.containers[0].env[0].valueFrom.fromTheFuture is not known to this version"),
    ];
    for (variable, want) in rows {
        assert_eq!(why(variable), [want]);
    }
}

#[test]
fn row_env_from() {
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
fn row_env_names_by_kubelet_version() {
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
fn row_secret_env_policy() {
    use SecretEnv::{Auto, Literal, Refuse};
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
                assert_eq!(notes(&translation), ["Secret values in clear in the manifest"]);
                assert!(translation.rendering.manifest.carries_secret);
            }
            Err(reasons) => {
                assert!(!want, "{secret_env:?}");
                let fields =
                    ["spec.containers[0].envFrom[0].secretRef", "spec.containers[0].env[0].valueFrom.secretKeyRef"];
                let fields = fields.map(|field| Reason::SecretEnvRefused { field: field.to_owned() });
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
fn row_env_fields() {
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
fn row_env_resource_fields() {
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
fn row_service_environment() {
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

#[test]
fn row_volume_secret_and_config_map() {
    let secrets = |path: &str| format!("/etc/kubernetes/checkpoint-secrets/shop/web/{path}");
    let maps = |path: &str| format!("/etc/kubernetes/checkpoint-configmaps/shop/web/{path}");
    volume_becomes(
        json!({"secret": {"secretName": "s", "defaultMode": 420}}),
        &secrets("s"),
        &["secrets:s", "a 0644 Secret shop/s[a]", "b 0644 Secret shop/s[b]"],
    );
    volume_becomes(
        json!({"secret": {"secretName": "s", "defaultMode": 256}}),
        &secrets("kubernetes.io~secret/v"),
        &["secrets:kubernetes.io~secret/v", "a 0400 Secret shop/s[a]", "b 0400 Secret shop/s[b]"],
    );
    volume_becomes(
        json!({"secret": {"secretName": "s", "items": [{"key": "b", "path": "d/e", "mode": 384}, {"key": "a", "path": "a"}]}}),
        &secrets("kubernetes.io~secret/v"),
        &["secrets:kubernetes.io~secret/v", "a 0644 Secret shop/s[a]", "d/e 0600 Secret shop/s[b]"],
    );
    volume_becomes(json!({"secret": {"secretName": "none", "optional": true}}), &secrets("none"), &["secrets:none"]);
    volume_becomes(
        json!({"configMap": {"name": "m"}}),
        &maps("m"),
        &[
            "configmaps:m",
            "a 0644 ConfigMap shop/m[a]",
            "binary 0644 ConfigMap shop/m[binary]",
            "c 0644 ConfigMap shop/m[c]",
        ],
    );
    volume_becomes(
        json!({"configMap": {"name": "m", "optional": true, "items": [{"key": "none", "path": "x"}, {"key": "c", "path": "c"}]}}),
        &maps("kubernetes.io~configmap/v"),
        &["configmaps:kubernetes.io~configmap/v", "c 0644 ConfigMap shop/m[c]"],
    );
    #[rustfmt::skip]
    let rows = [
        (json!({"secret": {"secretName": "none"}}),           "Secret shop/none is not stored (spec.volumes[0].secret)"),
        (json!({"secret": {"secretName": "sealed"}}),         "Secret shop/sealed is sealed and no key at hand opens it"),
        (json!({"secret": {"secretName": "../x"}}),           "the stored object can't be read: spec.volumes[0].secret: metadata.name \"../x\" is not a lower-case RFC 1123 subdomain of at most 253 characters"),
        (json!({"configMap": {"name": "m", "items": [{"key": "none", "path": "x"}]}}), "ConfigMap shop/m has no key none (spec.volumes[0].configMap.items[0])"),
        (json!({"configMap": {"name": "m", "items": [{"key": "c", "path": "../x"}]}}), "volume v: path \"../x\" has a part that starts with '..'"),
        (json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}, {"key": "c", "path": "x/y"}]}}), "volume v: \"x\" is a file and a directory"),
        (json!({"configMap": {"name": "m", "items": [{"key": "c", "path": "c", "mode": 4095}]}}), "volume v: mode 4095 of \"c\" is not within 0 and 511"),
        (json!({"configMap": {"name": "m", "fromTheFuture": 1}}), "spec.volumes[0].configMap.fromTheFuture is not known to this version"),
        (json!({"configMap": {"name": "m", "defaultUser": 1}}),   "spec.volumes[0].configMap.defaultUser is not known to this version"),
    ];
    for (source, want) in rows {
        assert_eq!(volume_refused(source), [want]);
    }
}

#[test]
fn row_volumes_of_one_secret_share_a_tree_and_fs_group_is_the_pods() {
    let translation = run(
        &metadata(),
        &json!({"securityContext": {"fsGroup": 2000},
                "volumes": [{"name": "one", "secret": {"secretName": "s"}}, {"name": "two", "secret": {"secretName": "s"}}]}),
        &settings(),
    )
    .unwrap();
    assert_eq!(trees(&translation), ["secrets:s group 2000", "a 0644 Secret shop/s[a]", "b 0644 Secret shop/s[b]"]);
}

/// The volume that almost every pod has.
#[test]
fn row_volume_projected() {
    let kube_api_access = json!({"projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "n", "items": [{"key": "c", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    let translation = volume_becomes(
        kube_api_access.clone(),
        "/etc/kubernetes/checkpoint-configmaps/shop/web/kubernetes.io~projected/v",
        &["configmaps:kubernetes.io~projected/v", "ca.crt 0644 ConfigMap shop/n[c]", "namespace 0644 \"shop\""],
    );
    assert_eq!(notes(&translation), ["token omitted from v"]);
    volume_becomes(
        json!({"projected": {"defaultMode": 288, "sources": [
            {"configMap": {"name": "m"}},
            {"configMap": {"name": "n"}},
            {"secret": {"name": "s", "items": [{"key": "a", "path": "secret/a", "mode": 256}]}},
            {"secret": {"name": "none", "optional": true}},
            {"clusterTrustBundle": {"name": "b", "path": "bundle", "optional": true}},
        ]}}),
        "/etc/kubernetes/checkpoint-secrets/shop/web/kubernetes.io~projected/v",
        &[
            "secrets:kubernetes.io~projected/v",
            "a 0440 ConfigMap shop/m[a]",
            "binary 0440 ConfigMap shop/m[binary]",
            "c 0440 ConfigMap shop/n[c]",
            "secret/a 0400 Secret shop/s[a]",
        ],
    );
    // A Secret that may come later makes it a tree of the secret root, too.
    volume_becomes(
        json!({"projected": {"sources": [{"secret": {"name": "none", "optional": true}}]}}),
        "/etc/kubernetes/checkpoint-secrets/shop/web/kubernetes.io~projected/v",
        &["secrets:kubernetes.io~projected/v"],
    );
    let source = |source: Value| json!({"projected": {"sources": [source]}});
    #[rustfmt::skip]
    let rows = [
        (source(json!({"configMap": {"name": "none"}})),                         "ConfigMap shop/none is not stored (spec.volumes[0].projected.sources[0].configMap)"),
        (source(json!({"clusterTrustBundle": {"name": "b", "path": "p"}})),      "volume v is of type projected clusterTrustBundle, which needs the API server"),
        (source(json!({"podCertificate": {"signerName": "s", "keyType": "k"}})), "volume v is of type projected podCertificate, which needs the API server"),
        (source(json!({"fromTheFuture": {}})),                                   "volume v is of type projected fromTheFuture, which needs the API server"),
    ];
    for (source, want) in rows {
        assert_eq!(volume_refused(source), [want]);
    }
    let refuse = Settings { tokens: TokenPolicy::Refuse, ..settings() };
    let mut volume = kube_api_access;
    volume["name"] = json!("v");
    assert_eq!(
        refused_with(&refuse, json!({ "volumes": [volume] })),
        ["volume v has a service account token, and the token policy is refuse"]
    );
}

#[test]
fn row_volume_downward_api() {
    let item = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let limit = |container: &str| json!({"path": "l", "resourceFieldRef": {"containerName": container, "resource": "limits.cpu"}});
    volume_stays(json!({"downwardAPI": {"items": [item("ns", "metadata.namespace")]}}));
    volume_stays(json!({"downwardAPI": {"items": [limit("c")]}}));
    volume_stays(
        json!({"projected": {"sources": [{"downwardAPI": {"items": [item("ns", "metadata.namespace"), limit("c")]}}]}}),
    );

    let mut metadata = metadata();
    metadata["labels"] = json!({"b": "2", "a": "1\n"});
    metadata["annotations"] = json!({"note": "n"});
    let items = json!([
        item("name", "metadata.name"), item("ns", "metadata.namespace"), item("uid", "metadata.uid"),
        item("labels", "metadata.labels"), item("one", "metadata.labels['b']"),
        {"path": "annotations", "mode": 256, "fieldRef": {"fieldPath": "metadata.annotations"}}]);
    let spec = json!({"volumes": [{"name": "v", "downwardAPI": {"items": items}}]});
    let translation = run(&metadata, &spec, &settings()).unwrap();
    assert_eq!(
        trees(&translation),
        [
            "configmaps:kubernetes.io~downward-api/v",
            r#"annotations 0400 "note=\"n\"""#,
            r#"labels 0644 "a=\"1\\n\"\nb=\"2\"""#,
            r#"name 0644 "web""#,
            r#"ns 0644 "shop""#,
            r#"one 0644 "2""#,
            r#"uid 0644 "uid-1""#,
        ]
    );
    #[rustfmt::skip]
    let rows = [
        (json!([item("x", "metadata.fromTheFuture")]),     "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath is not known to this version"),
        (json!([item("n", "metadata.name"), limit("c")]),  "volume v is of type downwardAPI with a value that only the kubelet knows, which needs the API server"),
        (json!([limit("none")]),                           "the stored object can't be read: spec.volumes[0].downwardAPI.items[0].resourceFieldRef: containerName names no container"),
    ];
    for (items, want) in rows {
        assert_eq!(volume_refused(json!({"downwardAPI": {"items": items}})), [want]);
    }
}

#[test]
fn row_volumes_that_stay() {
    #[rustfmt::skip]
    let rows = [
        json!({"emptyDir": {"medium": "Memory", "fromTheFuture": 1}}),
        json!({"hostPath": {"path": "/data", "type": "Directory"}}),
        json!({"nfs": {"server": "s", "path": "/"}}),
        json!({"image": {"reference": "i:1", "pullPolicy": "Never"}}),
        json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p"}}),
        json!({"fc": {"wwids": ["w"]}}),
        json!({"rbd": {"image": "i", "monitors": ["m"]}}),
        json!({"cephfs": {"monitors": ["m"]}}),
        json!({"flexVolume": {"driver": "d"}}),
    ];
    for source in rows {
        volume_stays(source);
    }
    becomes(json!({"volumes": [{"name": "v"}]}), json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    becomes(json!({"volumes": [{"name": "v", "emptyDir": null}]}), json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    becomes(
        json!({"volumes": [{"name": "v", "image": {"reference": "i"}}]}),
        json!({"volumes": [{"name": "v", "image": {"reference": "i", "pullPolicy": "IfNotPresent"}}]}),
    );
}

#[test]
fn row_volumes_that_need_the_api_server() {
    let secret_ref = json!({"name": "s"});
    #[rustfmt::skip]
    let rows = [
        (json!({"persistentVolumeClaim": {"claimName": "c"}}),                            "persistentVolumeClaim"),
        (json!({"csi": {"driver": "d"}}),                                                 "csi"),
        (json!({"ephemeral": {}}),                                                        "ephemeral"),
        (json!({"azureFile": {"secretName": "s", "shareName": "h"}}),                     "azureFile"),
        (json!({"glusterfs": {"endpoints": "e", "path": "p"}}),                           "glusterfs"),
        (json!({"awsElasticBlockStore": {"volumeID": "v"}}),                              "awsElasticBlockStore"),
        (json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p", "secretRef": secret_ref}}), "iscsi with a secretRef"),
        (json!({"rbd": {"image": "i", "monitors": ["m"], "secretRef": secret_ref}}),      "rbd with a secretRef"),
        (json!({"cephfs": {"monitors": ["m"], "secretRef": secret_ref}}),                 "cephfs with a secretRef"),
        (json!({"flexVolume": {"driver": "d", "secretRef": secret_ref}}),                 "flexVolume with a secretRef"),
        (json!({"scaleIO": {"gateway": "g", "system": "s", "secretRef": secret_ref}}),    "scaleIO"),
        (json!({"storageos": {"secretRef": secret_ref}}),                                 "storageos"),
        (json!({"fromTheFuture": {}}),                                                    "fromTheFuture"),
        (json!({"emptyDir": {}, "hostPath": {"path": "/x"}}),                             "emptyDir and hostPath"),
    ];
    for (source, kind) in rows {
        assert_eq!(volume_refused(source), [format!("volume v is of type {kind}, which needs the API server")]);
    }
}

#[test]
fn row_names() {
    // `<name>-<node>` must stay within 253 characters.
    let name = |length: usize| {
        let body = json!({"spec": {"containers": [{"name": "c"}]}});
        let pod = object(key(Kind::Pod, &"a".repeat(length)), &body);
        translate(&pod, &store(), &[], &settings()).map(|_| ()).map_err(|reasons| reasons[0].code())
    };
    assert_eq!(name(246), Ok(())); // 246 + "-edge-1"
    assert_eq!(name(247), Err("NameTooLong"));
    assert_eq!(
        volume_refused(json!({"name": "../x", "emptyDir": {}})),
        ["the stored object can't be read: spec.volumes[0].name is no RFC 1123 label, or given twice"]
    );
}
