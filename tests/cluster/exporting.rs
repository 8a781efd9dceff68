//! What `ckpt-db export --for=apply` writes is taken by a real API server, by `kubectl apply` of either kind: where the objects
//! are as they were, where they are gone, and where others of their names were made.

use std::path::Path;

use serde_json::Value;

use crate::api::{Api, one};
use crate::control_plane::Cluster;
use crate::kustomize::kubectl;
use crate::operation::{NODE, cluster_with_a_node};
use crate::program::{IN_STEP, PATIENCE, said, stop};
use crate::truth::{self, Objects};

/// What is exported as what, and applied in the server or in the client. In this order: a kubectl of 1.20 that has applied in the
/// client refuses to do it in the server, because of a note of its own.
const WAYS: [(&str, &[&str]); 2] = [("yaml", &["--server-side"]), ("json", &[])];

fn path(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap();
    let plural = match object["kind"].as_str().unwrap() {
        "Pod" => "pods",
        "Secret" => "secrets",
        "ConfigMap" => "configmaps",
        other => panic!("{other}"),
    };
    one(plural, text("namespace"), text("name"))
}

/// What its user said of an object.
fn of_its_user(object: &Value) -> Value {
    let mut object = object.clone();
    let fields = object.as_object_mut().unwrap();
    fields.remove("status");
    let metadata = fields["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| ["name", "namespace", "labels", "annotations"].contains(&field.as_str()));
    // The client's own note.
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    object
}

/// Applies a directory as the administrator, and looks that each object is there as it was.
#[track_caller]
fn applied(cluster: &Cluster, how: &[&str], directory: &Path, wanted: &Objects) {
    let kubeconfig = cluster.admin_kubeconfig();
    let options = ["--kubeconfig", kubeconfig.to_str().unwrap(), "apply", "-f", directory.to_str().unwrap()];
    let output = kubectl(&[&options[..], how].concat(), "");
    assert!(output.status.success(), "{how:?}: {}", String::from_utf8_lossy(&output.stderr));
    for (name, object) in wanted {
        let found = cluster.admin().get(&path(object)).ok();
        assert_eq!(of_its_user(&found), of_its_user(object), "{how:?} {name}");
    }
}

fn delete(admin: &Api, objects: &Objects) {
    for object in objects.values() {
        admin.delete(&path(object)).ok();
    }
}

#[test]
fn what_is_exported_can_be_applied() {
    let directory = crate::directory("node");
    let Some((cluster, node)) = cluster_with_a_node(directory.path()) else { return };
    let mut agent = node.agent(&[]);
    agent.start();
    said(&agent, IN_STEP, 1, PATIENCE);
    stop(&mut agent);
    let wanted = truth::read(cluster.admin(), NODE);
    for (form, how) in WAYS {
        let out = node.path(form);
        let options = [out.to_str().unwrap(), "--reveal", "--for=apply", "-o", form];
        let (exit, told, errors) = node.tell("export", &options);
        assert_eq!((exit, told.lines().count()), (0, wanted.len()), "{told}{errors}");
        applied(&cluster, how, &out, &wanted);
        delete(cluster.admin(), &wanted);
        applied(&cluster, how, &out, &wanted);
        // And again: those that were made just now have other UIDs than any that was stored.
        applied(&cluster, how, &out, &wanted);
    }
}
