//! Properties of translation over generated pods with all kinds of volumes, environments and containers.
//!
//! For every pod that is recoverable, the manifest passes the independent checker, is stable byte for byte, doesn't
//! change when it is translated again, and never carries the parent's identity. No value of a Secret is in it unless it
//! says so, and the variables that the container sees are those that the kubelet would have given the parent.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests: a failed unwrap is a failed test.

use std::collections::BTreeMap;

use ckpt_db::checkpoint::closure::references;
use ckpt_db::checkpoint::env_file;
use ckpt_db::checkpoint::env_file::NoHelper;
use ckpt_db::checkpoint::lookup::{Lookup, Objects};
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::Contents;
use ckpt_db::checkpoint::settings::{KubeletVersion, SecretEnv, Settings};
use ckpt_db::checkpoint::translate::{Translation, translate};
use ckpt_db::checkpoint::verdict::{Note, Reason};
use data_encoding::BASE64;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

mod kubelet_env_file;
mod manifest_checker;

/// Part of every Secret's value.
const CANARY: &str = "canary-7f3a";
const UID: &str = "0e3a2f2c-parent-uid";

// ---- A world: objects, Services, settings, one pod --------------------------------------------------------------------

#[derive(Clone, Debug)]
struct World {
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
    services: Vec<(String, String)>,
    pod: Value,
    secret_env: SecretEnv,
    helper: bool,
    keep: bool,
}

impl Objects for World {
    fn get(&self, key: &ObjectKey) -> Lookup {
        let body = match key.kind() {
            Kind::Secret => self.secrets.get(key.name()).map(|data| {
                let data: BTreeMap<_, _> = data.iter().map(|(k, v)| (k, BASE64.encode(v.as_bytes()))).collect();
                json!({ "data": data })
            }),
            Kind::ConfigMap => self.maps.get(key.name()).map(|data| json!({ "data": data })),
            Kind::Pod | Kind::Service | Kind::Node => None,
        };
        body.map_or(Lookup::Missing, |body| Lookup::Found(object(key.clone(), &body)))
    }
}

impl World {
    fn translate(&self, pod: &Value) -> Result<Translation, Vec<Reason>> {
        translate(&pod_object(pod), self, &self.service_objects(), &self.settings())
    }

    fn settings(&self) -> Settings {
        Settings {
            node_name: "edge-1".to_owned(),
            secret_env: self.secret_env,
            kubelet_version: Some(KubeletVersion { major: 1, minor: 36 }),
            env_file_helper: if self.helper { Ok("/opt/ckpt-db".to_owned()) } else { Err(NoHelper::NotStatic) },
            keep_labels: self.keep,
            keep_requests: self.keep,
            ..Settings::default()
        }
    }

    fn service_objects(&self) -> Vec<Object> {
        let service = |(namespace, name): &(String, String)| {
            let key = ObjectKey::new(Kind::Service, namespace, name).unwrap();
            object(key, &json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "p", "port": 80}]}}))
        };
        self.services.iter().map(service).collect()
    }
}

fn object(key: ObjectKey, body: &Value) -> Object {
    Object { key, uid: String::new(), resource_version: String::new(), body: body.to_string().into() }
}

fn pod_object(pod: &Value) -> Object {
    object(ObjectKey::new(Kind::Pod, "shop", "web").unwrap(), pod)
}

// ---- Strategies ------------------------------------------------------------------------------------------------------

fn name() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

fn data_key() -> impl Strategy<Value = String> {
    select(vec!["A", "B", "C_1", "d.txt", "e-f"]).prop_map(str::to_owned)
}

fn variable_name() -> impl Strategy<Value = String> {
    select(vec!["A", "B", "C_1", "X", "KUBERNETES_SERVICE_HOST", "SVC_SERVICE_PORT"]).prop_map(str::to_owned)
}

/// Values with everything that expansion reacts to.
fn value() -> impl Strategy<Value = String> {
    let parts = vec(select(vec!["$", "$(A)", "$(B)", "$(X)", "$$(A)", "(", ")", "text", "\"\n\\", "\u{e9}"]), 0..5);
    // What an env file can't carry, now and then.
    let hard = prop_oneof![40 => Just(""), 1 => Just("'"), 1 => Just("\r\n")];
    (parts, hard).prop_map(|(parts, hard)| parts.concat() + hard)
}

fn field() -> impl Strategy<Value = &'static str> {
    select(vec![
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels['app']",
        "metadata.annotations['note']",
    ])
}

fn reference() -> impl Strategy<Value = Value> {
    (name(), any::<bool>()).prop_map(|(name, optional)| json!({"name": name, "optional": optional}))
}

fn variable() -> impl Strategy<Value = Value> {
    let key_ref = |kind: &'static str| {
        (variable_name(), name(), data_key(), prop::bool::weighted(0.8)).prop_map(move |(variable, name, key, optional)| {
            json!({"name": variable, "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}})
        })
    };
    prop_oneof![
        4 => (variable_name(), value()).prop_map(|(name, value)| json!({"name": name, "value": value})),
        2 => key_ref("secretKeyRef"),
        2 => key_ref("configMapKeyRef"),
        1 => (variable_name(), field()).prop_map(|(name, field)|
            json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}})),
        1 => (variable_name(), select(vec!["limits.cpu", "requests.cpu", "requests.memory"])).prop_map(|(name, resource)|
            json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": "1m"}}})),
    ]
}

fn env_from() -> impl Strategy<Value = Value> {
    (reference(), any::<bool>(), select(vec!["", "P_"])).prop_map(|(reference, secret, prefix)| {
        json!({"prefix": prefix, if secret { "secretRef" } else { "configMapRef" }: reference})
    })
}

fn resources() -> impl Strategy<Value = Value> {
    let list = || btree_map(select(vec!["cpu", "memory", "ephemeral-storage"]), select(vec!["1", "500m", "1Gi"]), 0..3);
    (list(), list()).prop_map(|(limits, requests)| json!({"limits": limits, "requests": requests}))
}

fn items() -> impl Strategy<Value = Option<Value>> {
    let item = (data_key(), select(vec!["x", "y", "d/x", "d/y"]), option::of(0..=0o777))
        .prop_map(|(key, path, mode)| json!({"key": key, "path": path, "mode": mode}));
    option::weighted(0.5, vec(item, 1..3).prop_map(Value::from))
}

fn mode() -> impl Strategy<Value = Option<i64>> {
    option::of(select(vec![0o644, 0o400]))
}

fn downward_items() -> impl Strategy<Value = Value> {
    let item = (select(vec!["f", "g"]), prop_oneof![field(), Just("metadata.labels")])
        .prop_map(|(path, field)| json!({"path": path, "fieldRef": {"fieldPath": field}}));
    vec(item, 0..3).prop_map(Value::from)
}

fn volume_source() -> impl Strategy<Value = Value> {
    let of_object = || (name(), prop::bool::weighted(0.8), items(), mode());
    let source = prop_oneof![
        (name(), prop::bool::weighted(0.8), items()).prop_map(
            |(name, optional, items)| json!({"secret": {"name": name, "optional": optional, "items": items}})
        ),
        (name(), prop::bool::weighted(0.8), items()).prop_map(
            |(name, optional, items)| json!({"configMap": {"name": name, "optional": optional, "items": items}})
        ),
        downward_items().prop_map(|items| json!({"downwardAPI": {"items": items}})),
        Just(json!({"serviceAccountToken": {"path": "token"}})),
    ];
    prop_oneof![
        3 => of_object().prop_map(|(name, optional, items, mode)|
            json!({"secret": {"secretName": name, "optional": optional, "items": items, "defaultMode": mode}})),
        3 => of_object().prop_map(|(name, optional, items, mode)|
            json!({"configMap": {"name": name, "optional": optional, "items": items, "defaultMode": mode}})),
        3 => (vec(source, 0..4), mode()).prop_map(|(sources, mode)|
            json!({"projected": {"sources": sources, "defaultMode": mode}})),
        2 => downward_items().prop_map(|items| json!({"downwardAPI": {"items": items}})),
        1 => Just(json!({})),
        4 => select(vec![
            json!({"emptyDir": {"medium": "Memory"}}),
            json!({"hostPath": {"path": "/data"}}),
            json!({"nfs": {"server": "s", "path": "/"}}),
            json!({"image": {"reference": "i:latest"}}),
            json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p"}}),
            json!({"flexVolume": {"driver": "d"}}),
        ]),
        1 => select(vec![
            json!({"persistentVolumeClaim": {"claimName": "c"}}),
            json!({"csi": {"driver": "d"}}),
            json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "p", "secretRef": {"name": "a"}}}),
            json!({"fromTheFuture": {"x": 1}}),
        ]),
    ]
}

fn container() -> impl Strategy<Value = Value> {
    (
        (vec(variable(), 0..6), vec(env_from(), 0..3), resources()),
        (
            select(vec!["i", "i:1", "r:5000/i:latest"]),
            option::of(select(vec!["Always", "Never"])),
            any::<bool>(),
            option::of(Just("Always")),
            option::of(Just(json!({"x": 1}))),
        ),
    )
        .prop_map(|((env, env_from, resources), (image, policy, ports, restart, unknown))| {
            json!({
                "name": "c", "image": image, "imagePullPolicy": policy, "env": env, "envFrom": env_from,
                "resources": resources, "restartPolicy": restart, "fromTheFuture": unknown,
                "ports": ports.then(|| json!([{"name": "http", "containerPort": 80, "hostPort": 80}])),
                "livenessProbe": ports.then(|| json!({"httpGet": {"port": "http"}})),
            })
        })
}

fn pod() -> impl Strategy<Value = Value> {
    let lists = (vec(container(), 1..3), vec(container(), 0..2), vec(volume_source(), 0..4));
    let flags = (any::<bool>(), option::of(any::<bool>()), any::<bool>(), option::of(0..3000));
    (lists, flags).prop_map(|((mut containers, mut init, mut volumes), (host_network, links, asked, group))| {
        let mut mounts = Vec::new();
        for (n, volume) in volumes.iter_mut().enumerate() {
            volume["name"] = json!(format!("v{n}"));
            mounts.push(json!({"name": format!("v{n}"), "mountPath": format!("/v{n}")}));
        }
        for (n, container) in containers.iter_mut().chain(init.iter_mut()).enumerate() {
            container["name"] = json!(format!("c{n}"));
            container["volumeMounts"] = json!(mounts);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": UID, "labels": {"app": "we$(b)"}, "generateName": "web-",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"}],
                "annotations": {"note": "$$", "checkpointer.alpha.coreos.com/checkpoint": asked.to_string()},
            },
            "spec": {
                "containers": containers, "initContainers": init, "volumes": volumes, "hostNetwork": host_network,
                "enableServiceLinks": links, "securityContext": {"fsGroup": group}, "serviceAccountName": "default",
                "nodeName": "edge-1", "nodeSelector": {"a": "b"}, "imagePullSecrets": [{"name": "registry"}],
                "tolerations": [{"operator": "Exists"}],
                "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "a"}}]}],
            },
            "status": {"phase": "Running"},
        })
    })
}

fn world() -> impl Strategy<Value = World> {
    let data = || btree_map(data_key(), value(), 0..5);
    // c is often absent.
    let objects = || (data(), data(), option::weighted(0.3, data()));
    let named = |(a, b, c): (BTreeMap<_, _>, _, Option<_>)| {
        let mut all = BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        all.extend(c.map(|c| ("c".to_owned(), c)));
        all
    };
    let service = select(vec![("default", "kubernetes"), ("shop", "svc"), ("other", "svc")])
        .prop_map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let secret_env = select(vec![SecretEnv::Auto, SecretEnv::EnvFile, SecretEnv::Literal, SecretEnv::Refuse]);
    let ways = (secret_env, prop::bool::weighted(0.8), any::<bool>());
    (objects().prop_map(named), objects().prop_map(named), vec(service, 0..3), pod(), ways).prop_map(
        |(mut secrets, maps, services, pod, (secret_env, helper, keep))| {
            secrets.values_mut().flat_map(BTreeMap::values_mut).for_each(|value| value.push_str(CANARY));
            World { secrets, maps, services, pod, secret_env, helper, keep }
        },
    )
}

// ---- The kubelet's environment, a second time ----------------------------------------------------------------------------

/// What the kubelet gives a container (`makeEnvironmentVariables`), straight from the parent. None where it would refuse.
///
/// Of a copy, `copy` is its env file. Fields read differently in it.
///
fn kubelets_environment(world: &World, container: &Value, copy: Option<&[u8]>) -> Option<BTreeMap<String, String>> {
    let is_copy = copy.is_some();
    let service_env = service_environment(world);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for source in list(&container["envFrom"]) {
        let (objects, reference) = if source["secretRef"].is_null() {
            (&world.maps, &source["configMapRef"])
        } else {
            (&world.secrets, &source["secretRef"])
        };
        match objects.get(reference["name"].as_str()?) {
            Some(data) => {
                let prefix = source["prefix"].as_str().unwrap_or_default();
                all.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
            }
            None if reference["optional"] == true => {}
            None => return None,
        }
    }
    for variable in list(&container["env"]) {
        let name = variable["name"].as_str()?.to_owned();
        let from = &variable["valueFrom"];
        let value = if from.is_null() {
            expand(variable["value"].as_str().unwrap_or_default(), &all, &service_env)
        } else if from["fieldRef"].is_object() {
            match (from["fieldRef"]["fieldPath"].as_str()?, is_copy) {
                ("metadata.namespace", _) => "shop".to_owned(),
                (_, true) => "<the copy's own: wrong>".to_owned(),
                ("metadata.name", false) => "web".to_owned(),
                ("metadata.uid", false) => UID.to_owned(),
                ("metadata.labels['app']", false) => "we$(b)".to_owned(),
                (_, false) => "$$".to_owned(),
            }
        } else if let (Some(key), Some(file)) = (from["fileKeyRef"]["key"].as_str(), copy) {
            kubelet_env_file::value(file, key).expect("it is an env file and has the key")
        } else if from["resourceFieldRef"].is_object() {
            // Compared in the row tests; here only whether something is set.
            "<resource>".to_owned()
        } else {
            let (objects, selector) = if from["secretKeyRef"].is_null() {
                (&world.maps, &from["configMapKeyRef"])
            } else {
                (&world.secrets, &from["secretKeyRef"])
            };
            let data = objects.get(selector["name"].as_str()?);
            match data.and_then(|data| data.get(selector["key"].as_str()?)) {
                Some(value) => value.clone(),
                None if selector["optional"] == true => continue,
                None => return None,
            }
        };
        all.insert(name, value);
    }
    if !is_copy {
        for (name, value) in service_env {
            all.entry(name).or_insert(value);
        }
    }
    Some(all)
}

/// What the init container makes of the tree that it mounts.
fn env_file(world: &World, translation: &Translation) -> Vec<u8> {
    let mut file = Vec::new();
    let tree = translation.rendering.trees.iter().find(|tree| tree.path == ["ckpt-db~env", "values"]);
    for value in tree.into_iter().flat_map(|tree| &tree.files) {
        let Contents::Data { object, key } = &value.contents else { panic!("a value of no object") };
        assert!(env_file::append(&mut file, &value.path[0], world.secrets[object.name()][key].as_bytes()));
    }
    file
}

/// For this world's only kind of Service; its Service environment is independent of the container.
fn service_environment(world: &World) -> BTreeMap<String, String> {
    let links = world.pod["spec"]["enableServiceLinks"].as_bool().unwrap_or(true);
    let mut all = BTreeMap::new();
    for (namespace, name) in &world.services {
        if name == "kubernetes" || (namespace == "shop" && links) {
            let service = name.to_uppercase();
            for (suffix, value) in [
                ("SERVICE_HOST", "10.0.0.1"),
                ("SERVICE_PORT", "80"),
                ("SERVICE_PORT_P", "80"),
                ("PORT", "tcp://10.0.0.1:80"),
                ("PORT_80_TCP", "tcp://10.0.0.1:80"),
                ("PORT_80_TCP_PROTO", "tcp"),
                ("PORT_80_TCP_PORT", "80"),
                ("PORT_80_TCP_ADDR", "10.0.0.1"),
            ] {
                all.insert(format!("{service}_{suffix}"), value.to_owned());
            }
        }
    }
    all
}

fn expand(value: &str, first: &BTreeMap<String, String>, then: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let chars: Vec<char> = value.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('$', Some('$')) => {
                out.push('$');
                at += 2;
            }
            ('$', Some('(')) => match chars[at + 2..].iter().position(|c| *c == ')') {
                Some(end) => {
                    let name: String = chars[at + 2..at + 2 + end].iter().collect();
                    match first.get(&name).or_else(|| then.get(&name)) {
                        Some(value) => out.push_str(value),
                        None => out.push_str(&format!("$({name})")),
                    }
                    at += end + 3;
                }
                None => {
                    out.push_str("$(");
                    at += 2;
                }
            },
            (c, _) => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

// ---- The properties ----------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_translated_is_a_static_pod_and_stays_one(world in world()) {
        let Ok(translation) = world.translate(&world.pod) else { return Ok(()) };
        let json = translation.rendering.manifest.json.expose();

        prop_assert_eq!(manifest_checker::refusals(json), Vec::<String>::new());
        prop_assert_eq!(json.last(), Some(&b'\n'));
        let manifest: Value = serde_json::from_slice(json).unwrap();

        // Byte-stable, whatever the order of the members.
        let mut shuffled = world.pod.clone();
        shuffled.sort_all_objects();
        let again = world.translate(&shuffled).ok().unwrap();
        prop_assert_eq!(again.rendering.manifest.json.expose(), json);
        prop_assert_eq!(&again.rendering.trees, &translation.rendering.trees);
        prop_assert_eq!(&again.notes, &translation.notes);

        // Translating the translation changes nothing; only our own init container, which needs no Services, gets them.
        let through_file = translation.notes.contains(&Note::EnvFile);
        let twice = world.translate(&manifest).ok().unwrap();
        let mut again: Value = serde_json::from_slice(twice.rendering.manifest.json.expose()).unwrap();
        if through_file {
            again["spec"]["initContainers"][0].as_object_mut().unwrap().remove("env");
        } else {
            prop_assert!(twice.rendering.manifest.json.expose() == json);
        }
        prop_assert_eq!(&again, &manifest);
        prop_assert!(twice.rendering.trees.is_empty());

        // Never the parent's identity.
        prop_assert!(manifest["metadata"]["uid"].is_null());
        prop_assert!(manifest["metadata"]["ownerReferences"].is_null());

        // Whose values go through an env file has none in the manifest.
        prop_assert!(!through_file || !translation.rendering.manifest.carries_secret);
        prop_assert!(world.secret_env != SecretEnv::EnvFile || !translation.rendering.manifest.carries_secret);

        // Secrets: none in clear unless it says so, none in a tree's inline contents, none under the wrong root.
        prop_assert_eq!(contains(json, CANARY), translation.rendering.manifest.carries_secret);
        for tree in &translation.rendering.trees {
            for file in &tree.files {
                match &file.contents {
                    Contents::Inline(bytes) => prop_assert!(!contains(bytes, CANARY)),
                    Contents::Data { object, .. } => {
                        let secrets = tree.root == ckpt_db::checkpoint::rendering::TreeRoot::Secrets;
                        prop_assert!(object.kind() != Kind::Secret || secrets);
                    }
                }
            }
            let mut sorted = tree.files.clone();
            sorted.sort_by(|one, other| one.path.cmp(&other.path));
            sorted.dedup_by(|one, other| one.path == other.path);
            prop_assert_eq!(&sorted, &tree.files);
        }

        // Every tree is mounted, and every mount of it is read-only.
        for tree in &translation.rendering.trees {
            let end = format!("/shop/web/{}", tree.path.join("/"));
            let mounted = |volume: &&Value| volume["hostPath"]["path"].as_str().is_some_and(|path| path.ends_with(&end));
            let volume = list(&manifest["spec"]["volumes"]).iter().find(mounted).expect("a volume that mounts the tree");
            for container in list(&manifest["spec"]["containers"]) {
                for mount in list(&container["volumeMounts"]).iter().filter(|mount| mount["name"] == volume["name"]) {
                    prop_assert_eq!(&mount["readOnly"], &json!(true));
                }
            }
        }
    }

    /// The container sees what it saw in the parent.
    #[test]
    fn the_environment_is_the_kubelets(world in world()) {
        let Ok(translation) = world.translate(&world.pod) else { return Ok(()) };
        let manifest: Value = serde_json::from_slice(translation.rendering.manifest.json.expose()).unwrap();
        let env_file = env_file(&world, &translation);
        for kind in ["containers", "initContainers"] {
            let own = |container: &&Value| container["name"] != "ckpt-db-env";
            for (parent, copy) in list(&world.pod["spec"][kind]).iter().zip(list(&manifest["spec"][kind]).iter().filter(own)) {
                // What was a resource is one number or another.
                let mut parent = parent.clone();
                let uses_resources = list(&parent["env"]).iter().any(|v| v["valueFrom"]["resourceFieldRef"].is_object());
                if uses_resources {
                    continue;
                }
                parent["name"] = copy["name"].clone();
                let want = kubelets_environment(&world, &parent, None);
                let got = kubelets_environment(&world, copy, Some(&env_file));
                prop_assert_eq!(got, want);
            }
        }
    }

    /// A pod is recoverable only with its closure: take away any required object, and it is not.
    #[test]
    fn no_pod_comes_back_without_its_closure(world in world()) {
        if world.translate(&world.pod).is_err() {
            return Ok(());
        }
        for reference in references(&pod_object(&world.pod)).unwrap() {
            let mut less = world.clone();
            let removed = match reference.key.kind() {
                Kind::Secret => less.secrets.remove(reference.key.name()),
                _ => less.maps.remove(reference.key.name()),
            };
            prop_assert!(removed.is_some() || reference.optional, "{} was not there", reference.key);
            if !reference.optional {
                let reasons = less.translate(&world.pod).err().expect("not recoverable");
                let named = reasons.iter().any(|reason| matches!(reason,
                    Reason::MissingObject { object, .. } if *object == reference.key));
                prop_assert!(named, "{:?}", reasons);
            }
        }
    }

    /// Bytes that are no Pod give an error, never a panic.
    #[test]
    fn no_body_panics(pod in pod(), cut in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = pod.to_string().into_bytes();
        let at = cut.index(bytes.len());
        bytes[at] = with;
        let world = World {
            secrets: BTreeMap::new(), maps: BTreeMap::new(), services: Vec::new(), pod, secret_env: SecretEnv::Auto,
            helper: true, keep: false,
        };
        let mut object = pod_object(&world.pod);
        object.body = bytes.into();
        let _ = translate(&object, &world, &[], &world.settings());
        let _ = references(&object);
    }
}

/// Most generated pods must come through, or the properties above say little.
#[test]
fn enough_of_the_generated_pods_are_recoverable() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = world();
    let (mut recoverable, mut with_secret, mut with_trees, mut with_file) = (0, 0, 0, 0);
    for _ in 0..200 {
        let world = strategy.new_tree(&mut runner).unwrap().current();
        if let Ok(translation) = world.translate(&world.pod) {
            recoverable += 1;
            with_secret += usize::from(translation.rendering.manifest.carries_secret);
            with_file += usize::from(translation.notes.contains(&Note::EnvFile));
            with_trees += usize::from(!translation.rendering.trees.is_empty());
        }
    }
    let counted = format!("{recoverable} {with_secret} {with_trees} {with_file}");
    assert!(recoverable >= 50 && with_secret >= 10 && with_trees >= 20 && with_file >= 10, "{counted}");
}
