//! Values of Secrets through an env file: the init container as the manifest has it, run by a real kubelet and runtime in an
//! image that holds nothing at all, as users that may do nothing.
//!
//! A kubelet of 1.20 does not know `fileKeyRef`, and would refuse the manifest for it. So the variables are taken out of the
//! containers, and the file is read from where a kubelet reads it, by the rules by which one reads it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{NODE, Stage, canary};
use crate::kubelet_env_file;
use crate::node::{IMAGE, Options, PATIENCE};
use crate::{full, until};

/// Nothing but an empty layer: no shell, no C library, no `/etc/passwd`, no directory.
const EMPTY: &str = "registry.example/empty:1";

const EMPTY_IMAGE: &str = r#"
mkdir -p /var/empty/root && cd /var/empty
tar -C root --mtime=@0 --owner=0 --group=0 --numeric-owner -cf layer.tar --files-from /dev/null
layer=$(sha256sum layer.tar | cut -d ' ' -f 1)
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" > config.json
printf '[{"Config":"config.json","RepoTags":["registry.example/empty:1"],"Layers":["layer.tar"]}]' > manifest.json
tar -cf ../empty.tar manifest.json config.json layer.tar
ctr -n k8s.io images import ../empty.tar
"#;

/// Where the helper lies: in a directory that only root may enter, since a mount steps over it.
const HELPER: &str = "opt/static/ckpt-db";

fn put_helper(stage: &Stage) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/static-binary.sh");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built = String::from_utf8(output.stdout).unwrap();
    let helper = stage.node.path(HELPER);
    fs::create_dir_all(helper.parent().unwrap()).unwrap();
    fs::copy(built.trim(), &helper).unwrap();
    stage.node.told("chmod 0700 /opt/static && chmod 0755 /opt/static/ckpt-db");
}

const PASSWORD: &str = "canary-one $(not) \"a\" \\ # reference";
const LINES: &str = " canary-two\n\nof several\nlines \n";

/// Pods that differ in who their containers are.
fn objects() -> Value {
    let pod = |name: &str, of_pod: Value, of_container: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {
                "nodeName": NODE,
                "securityContext": of_pod,
                "containers": [{
                    "name": "c", "image": EMPTY, "securityContext": of_container,
                    "envFrom": [{"prefix": "S_", "secretRef": {"name": "login"}}],
                    "env": [{"name": "URL", "value": "db://$(S_password)@db"},
                            {"name": "AGAIN", "valueFrom": {"secretKeyRef": {"name": "login", "key": "lines"}}}],
                }],
            },
        })
    };
    let encode = |value: &str| data_encoding::BASE64.encode(value.as_bytes());
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"nodeInfo": {"kubeletVersion": "v1.36.2"}}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login", "namespace": "default"},
            "data": {"password": encode(PASSWORD), "lines": encode(LINES)}},
        pod("restricted",
            json!({"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})),
        pod("root", json!({}), json!({})),
        pod("privileged", json!({}), json!({"privileged": true})),
        pod("grouped", json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3}), json!({"runAsUser": 1000, "runAsGroup": 1001})),
    ]})
}

#[test]
fn the_init_container_writes_what_a_kubelet_reads() {
    if !full() {
        return;
    }
    let Some((_policy, cluster)) = canary::audited() else { return };
    let Some(stage) = Stage::of(cluster, &Options::default()) else { return };
    put_helper(&stage);
    stage.node.told(EMPTY_IMAGE);
    fs::write(stage.node.path("var/objects.json"), objects().to_string()).unwrap();
    // Out of the kubelet's sight, which would refuse them.
    let output = stage
        .node
        .program("run")
        .args([
            "--once",
            "--manifests",
            "/var/objects.json",
            "--node-name",
            NODE,
            "--pod-manifest-path",
            "/var/manifests",
        ])
        .args(["--secret-env", "env-file", "--env-file-helper", "/opt/static/ckpt-db"])
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("canary"), "{said}");

    for name in ["restricted", "root", "privileged", "grouped"] {
        let manifest = fs::read(stage.node.path(&format!("var/manifests/default_{name}.json"))).unwrap();
        assert_eq!(crate::manifest_checker::refusals(&manifest), [""; 0]);
        assert!(!String::from_utf8_lossy(&manifest).contains("canary"));
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let container = &mut manifest["spec"]["containers"][0];
        let variables = container["env"].take();
        container["image"] = json!(IMAGE);
        container["command"] = json!(["sleep", "100000"]);
        stage.node.put_static_pod(&manifest);
        // Its own container, which is started after the init container has ended.
        let copy = format!("default/{name}-{NODE}");
        let running = until(&copy, PATIENCE, || {
            let found = stage.node.running_of(&copy).into_iter().find(|container| container.name == "c");
            found.ok_or_else(|| stage.node.kubelet_log())
        });

        let volumes = format!("var/lib/kubelet/pods/{}/volumes/kubernetes.io~empty-dir", running.uid);
        let mut found = Vec::new();
        for variable in variables.as_array().unwrap() {
            let source = &variable["valueFrom"]["fileKeyRef"];
            let Some(volume) = source["volumeName"].as_str() else { continue };
            let path = format!("{volumes}/{volume}/{}", source["path"].as_str().unwrap());
            let file = fs::read(stage.node.path(&path)).unwrap();
            let value = kubelet_env_file::value(&file, source["key"].as_str().unwrap()).unwrap();
            found.push((variable["name"].as_str().unwrap().to_owned(), value));
        }
        let want = [("S_lines", LINES), ("S_password", PASSWORD), ("AGAIN", LINES)];
        assert_eq!(found, want.map(|(name, value)| (name.to_owned(), value.to_owned())), "{name}");
        // It is memory, and of the user that the container was.
        let directory = format!("/{volumes}/ckpt-db-env");
        let owner = stage.node.told(&format!("stat -c '%u %a' {directory}/secrets && stat -f -c %T {directory}"));
        let user = match name {
            "restricted" => 65534,
            "grouped" => 1000,
            _ => 0,
        };
        assert_eq!(owner.trim(), format!("{user} 400\ntmpfs"), "{name}");
    }

    // Nor do the mirror pods show one, nor the audit log, which has bodies of pods in full.
    until("the mirror pods", PATIENCE, || {
        let pods = stage.cluster.admin().get("/api/v1/pods").ok().to_string();
        if pods.matches("kubernetes.io/config.mirror").count() >= 4 { Ok(()) } else { Err(pods) }
    });
    let pods = stage.cluster.admin().get("/api/v1/pods").ok().to_string();
    let events = stage.cluster.admin().get("/api/v1/events").ok().to_string();
    let audit = fs::read_to_string(stage.cluster.audit_file()).unwrap();
    assert!(audit.contains("kubernetes.io/config.mirror"));
    for (place, text) in [("pods", pods), ("events", events), ("the audit log", audit)] {
        assert!([PASSWORD, LINES].iter().all(|value| !canary::shows(&text, value)), "{place}: {text}");
    }

    // The values that the init container read are for no other user of the node.
    let denied = stage.node.told(
        "cd /etc/kubernetes/checkpoint-secrets && find . -type f | grep -q ckpt-db~env
         setpriv --reuid 65534 --regid 65534 --clear-groups ls /etc/kubernetes/checkpoint-secrets/default 2>&1 || true",
    );
    assert!(denied.contains("Permission denied"), "{denied}");
}
