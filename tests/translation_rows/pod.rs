//! Rows about the pod and its containers as a whole.

use ckpt_db::checkpoint::object::{Kind, ObjectKey};
use ckpt_db::checkpoint::settings::{KubeletVersion, Settings};
use ckpt_db::checkpoint::translate::translate;
use ckpt_db::checkpoint::verdict::Note;
use serde_json::{Value, json};

use super::manifest_checker;
use super::support::*;

#[test]
fn the_checker_has_teeth() {
    manifest_checker::assert_it_refuses_what_it_should();
}

#[test]
fn metadata_of_the_copy() {
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
    assert_eq!(translation.notes, [Note::LabelsDropped]);

    let keep = Settings { keep_labels: true, ..settings() };
    let translation = run(&parent, &json!({}), &keep).unwrap();
    copy["labels"] = json!({"app": "web"});
    assert_eq!(manifest(&translation)["metadata"], copy);
    assert_eq!(notes(&translation), [""; 0]);
}

#[test]
fn status_and_top_level() {
    let manifest = manifest(&run(&metadata(), &json!({}), &settings()).unwrap());
    let members: Vec<_> = manifest.as_object().unwrap().keys().collect();
    assert_eq!(members, ["apiVersion", "kind", "metadata", "spec"]);
}

#[test]
fn service_account() {
    becomes(
        json!({"serviceAccountName": "builder", "serviceAccount": "builder", "automountServiceAccountToken": true}),
        json!({"automountServiceAccountToken": false}),
    );
}

#[test]
fn scheduling() {
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
fn requests() {
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
fn extended_resources_and_claims() {
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
fn kept_fields() {
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
fn ports_of_host_network_pods() {
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
    let named = |container: &Value, name: &str| {
        let mut container = container.clone();
        container["name"] = json!(name);
        container
    };
    becomes(
        json!({"hostNetwork": true, "containers": [parent], "initContainers": [named(&parent, "init")]}),
        json!({"hostNetwork": true, "containers": [copy], "initContainers": [named(&copy, "init")], "hostname": null}),
    );
    let mut plain = hooks(json!("http"));
    plain["ports"] = json!([{"name": "http", "containerPort": 80, "hostPort": 80}]);
    container_becomes(plain.clone(), plain);
}

#[test]
fn hostname() {
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
fn runtime_class() {
    let parent = json!({"runtimeClassName": "gvisor", "overhead": {"cpu": "1"}});
    assert_eq!(refused(parent.clone()), ["runtimeClassName gvisor is read through the API server"]);
    let translation = becomes_with(&Settings { drop_runtime_class: true, ..settings() }, parent, json!({}));
    assert_eq!(notes(&translation), ["runtime class dropped"]);
}

#[test]
fn ephemeral_containers() {
    becomes(
        json!({"ephemeralContainers": [{"name": "debug", "envFrom": [{"secretRef": {"name": "none"}}]}]}),
        json!({}),
    );
}

#[test]
fn init_containers_and_sidecars() {
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
fn image_pull_policy() {
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
fn image_pull_secrets() {
    let parent = json!({"imagePullSecrets": [{"name": "registry"}]});
    assert_eq!(becomes(parent.clone(), json!({})).notes, [Note::PullSecretsDropped]);
    let old = Settings { kubelet_version: Some(KubeletVersion { major: 1, minor: 34 }), ..settings() };
    assert_eq!(notes(&becomes_with(&old, parent, json!({}))), [""; 0]);
}

#[test]
fn names() {
    let named = |namespace: usize, name: usize| {
        let body = json!({"spec": {"containers": [{"name": "c"}]}});
        let key = ObjectKey::new(Kind::Pod, &"n".repeat(namespace), &"a".repeat(name)).unwrap();
        translate(&object(key, &body), &store(), &[], &settings()).map(|_| ()).map_err(|reasons| reasons[0].code())
    };
    // The kubelet's log directory `<namespace>_<name>-<node>_<uid>` must be a file name: 35 beside the names and "-edge-1".
    // That leaves less than `<name>-<node>` (253) and `<namespace>_<name>.json` (255) do.
    assert_eq!(named(1, 213), Ok(()));
    assert_eq!(named(1, 214), Err("NameTooLong"));
    assert_eq!(named(63, 151), Ok(()));
    assert_eq!(named(63, 152), Err("NameTooLong"));
    for containers in [json!([{"image": "i"}]), json!([{"name": "A"}]), json!([{"name": "c"}, {"name": "c"}])] {
        let body = json!({"spec": {"containers": containers}});
        let pod = object(key(Kind::Pod, "web"), &body);
        let reasons = translate(&pod, &store(), &[], &settings()).map(|_| ()).unwrap_err();
        assert!(reasons[0].to_string().contains("name is no RFC 1123 label, or given twice"), "{}", reasons[0]);
    }
    assert_eq!(
        volume_refused(json!({"name": "../x", "emptyDir": {}})),
        ["the stored object can't be read: spec.volumes[0].name is no RFC 1123 label, or given twice"]
    );
}
