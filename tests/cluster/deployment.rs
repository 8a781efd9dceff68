//! `dist/kustomize`: what the API server says of it, and what it lets the agent do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::control_plane::{Cluster, Options};
use crate::kustomize::{identity, kubectl, names, render, the};

#[test]
fn the_api_server_takes_every_form() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let kubeconfig = cluster.admin_kubeconfig();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let found = names();
    assert_eq!(found, ["base", "crio", "role", "shadow"].map(str::to_owned).into());
    for name in found {
        let objects = render(&name).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        // It knows each field, too.
        let options =
            ["--kubeconfig", kubeconfig, "apply", "--dry-run=server", "--validate=true", "-f", "-", "-o", "json"];
        let output = kubectl(&options, &list);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{name}: {errors}");
        let taken: Value = serde_json::from_slice(&output.stdout).unwrap();
        let taken: BTreeSet<_> = taken["items"].as_array().unwrap().iter().map(identity).collect();
        assert_eq!(taken, objects.iter().map(identity).collect(), "{name}");
    }
    // Nothing of it was made.
    let made = cluster.admin().get("/apis/apps/v1/daemonsets").items();
    assert_eq!(made, [] as [Value; 0]);
    // A field that there is not is found.
    let wrong = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, "automount": true});
    let options = ["--kubeconfig", kubeconfig, "apply", "--dry-run=server", "-f", "-"];
    assert!(!kubectl(&options, &wrong.to_string()).status.success());
}

/// What one form allows the agent to do: nothing may come in unseen.
#[test]
fn no_form_allows_more_than_it_needs() {
    // What is mounted with leave to write in every form, and what else can only be read.
    const WRITTEN: [&str; 6] = [
        "/etc/kubernetes/checkpoint-configmaps",
        "/etc/kubernetes/inactive-manifests",
        "/etc/kubernetes/manifests",
        "/run/ckpt-db",
        "/run/ckpt-db-secrets",
        "/var/lib/ckpt-db",
    ];
    const READ: [&str; 4] = [
        "/etc/cni/net.d",
        "/var/lib/kubelet/config.yaml",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet/image_manager",
    ];
    let kubelets = ["/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/pki"];
    #[rustfmt::skip]
    let forms = [
        // name, what it reads besides, its options besides
        ("base",   [&kubelets[..], &["/run/containerd"]].concat(),                   vec![]),
        ("shadow", [&kubelets[..], &["/run/containerd"]].concat(),                   vec!["--activation-policy=off"]),
        ("crio",   [&kubelets[..], &["/run/crio"]].concat(),                         vec![]),
        ("role",   vec!["/etc/kubernetes/ckpt-db.conf", "/run/containerd"],          vec!["--kubeconfig=/etc/kubernetes/ckpt-db.conf"]),
    ];
    for (form, more, options) in forms {
        let Some(objects) = render(form) else { return };
        let daemon_set = the("DaemonSet", &objects);
        let template = &daemon_set["spec"]["template"];
        let spec = &template["spec"];
        assert_eq!(template["metadata"]["annotations"], json!({"checkpointer.alpha.coreos.com/checkpoint": "true"}));
        for (field, want) in [
            ("serviceAccountName", json!("ckpt-db")),
            ("automountServiceAccountToken", json!(false)),
            ("priorityClassName", json!("system-node-critical")),
            ("tolerations", json!([{"operator": "Exists"}])),
            ("securityContext", json!({"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}})),
            ("hostNetwork", json!(true)),
            ("hostPID", Value::Null),
            ("hostIPC", Value::Null),
            ("shareProcessNamespace", Value::Null),
        ] {
            assert_eq!(spec[field], want, "{form} {field}");
        }

        let agent = the_container(spec, "containers");
        let added = json!(["CHOWN", "FSETID", "IPC_LOCK"]);
        assert_eq!(agent["securityContext"], restricted(&added), "{form}");
        assert_eq!(agent["imagePullPolicy"], "IfNotPresent");
        let common = [
            "run",
            "--feature-gates=Checkpointing=true",
            "--secret-root=/run/ckpt-db-secrets",
            "--checkpoint-grace-period=5m",
        ];
        assert_eq!(agent["args"], json!([&common[..], &options].concat()), "{form}");
        let fields =
            [("NODE_NAME", "spec.nodeName"), ("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace")];
        let from = |(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        assert_eq!(agent["env"], json!(fields.map(from)), "the predecessor's names");

        let (mut written, mut read) = (BTreeSet::new(), BTreeSet::new());
        for mount in agent["volumeMounts"].as_array().unwrap() {
            let host = &volume(spec, &mount["name"])["hostPath"]["path"];
            // Manifests name paths of the node.
            assert_eq!(*host, mount["mountPath"], "{form}");
            assert_eq!(mount["mountPropagation"], Value::Null, "{form}");
            let place = host.as_str().unwrap().to_owned();
            if mount["readOnly"] == true {
                read.insert(place)
            } else {
                written.insert(place)
            };
        }
        assert_eq!(written, WRITTEN.map(str::to_owned).into(), "{form}");
        assert_eq!(read, READ.iter().chain(&more).map(|&place| place.to_owned()).collect(), "{form}");
        assert_eq!(spec["volumes"].as_array().unwrap().len(), written.len() + read.len(), "{form}: each is mounted");

        let init = &spec["initContainers"];
        if form == "role" {
            let key = the_container(spec, "initContainers");
            assert_eq!((&key["args"], &key["image"]), (&json!(["key", "init"]), &agent["image"]));
            assert_eq!(key["securityContext"], restricted(&Value::Null));
        } else {
            assert_eq!(*init, Value::Null, "{form}");
        }
        let kinds: BTreeSet<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let rights = ["ClusterRole", "ClusterRoleBinding", "RoleBinding", "Secret"];
        let mut want: BTreeSet<&str> = ["DaemonSet", "ServiceAccount"].into();
        want.extend(rights.into_iter().filter(|_| form == "role"));
        assert_eq!(kinds, want, "{form}");
    }
}

/// The Role that the predecessor had, and Services and nodes, which copies are made with.
#[test]
fn rights_of_the_role_form() {
    let Some(objects) = render("role") else { return };
    let rules: Vec<(String, Value)> = objects
        .iter()
        .filter(|object| object["kind"] == "ClusterRole")
        .flat_map(|role| {
            let [_, _, name] = identity(role);
            role["rules"].as_array().unwrap().iter().map(move |rule| (name.clone(), rule.clone()))
        })
        .collect();
    let rule = |role: &str, resources: &[&str], verbs: &[&str]| {
        (role.to_owned(), json!({"apiGroups": [""], "resources": resources, "verbs": verbs}))
    };
    assert_eq!(
        rules,
        [
            rule("ckpt-db", &["pods"], &["get", "list", "watch"]),
            rule("ckpt-db", &["nodes"], &["get", "list", "watch"]),
            rule("ckpt-db", &["services"], &["get", "list"]),
            rule("ckpt-db-objects", &["secrets", "configmaps"], &["get"]),
        ]
    );
    // Secrets of all namespaces are nobody's by this.
    let wide = the("ClusterRoleBinding", &objects);
    assert_eq!(wide["roleRef"]["name"], "ckpt-db");
    let narrow = the("RoleBinding", &objects);
    assert_eq!(
        (&narrow["roleRef"]["name"], &narrow["metadata"]["namespace"]),
        (&json!("ckpt-db-objects"), &json!("kube-system"))
    );
}

fn restricted(added: &Value) -> Value {
    let mut context =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    if !added.is_null() {
        context["capabilities"]["add"] = added.clone();
    }
    context
}

#[track_caller]
fn the_container<'a>(spec: &'a Value, list: &str) -> &'a Value {
    let all = spec[list].as_array().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    &all[0]
}

#[track_caller]
fn volume<'a>(spec: &'a Value, name: &Value) -> &'a Value {
    spec["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == *name).expect("what is mounted is there")
}
