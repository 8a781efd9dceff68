//! What the sandbox of `dist/systemd/ckpt-db.service` leaves to the agent, and what it takes: all that the agent does on a node
//! works in it, others see what it renders, and nothing else can be written.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::machine::{CHECKOUT, Machine, Scene};
use crate::{example, runnable};

const MOUNT: &str = r"etc-kubernetes-checkpoint\x2dsecrets.mount";

/// systemd's own measure, in tenths, and each point that is left has its reason in the documentation.
#[test]
fn exposure_is_small_and_explained() {
    const EXPOSURE_MAX: &str = "23";
    let unit = Path::new(CHECKOUT).join("dist/systemd/ckpt-db.service");
    let analyze = |option: &str| {
        Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", option]).arg(&unit).output()
    };
    let Ok(judged) = analyze(&format!("--threshold={EXPOSURE_MAX}")) else {
        assert!(!crate::required(), "CKPT_DB_REQUIRE_SYSTEMD is set, but there is no systemd-analyze");
        eprintln!("SKIPPED: exposure_is_small_and_explained: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "more than {EXPOSURE_MAX} tenths: {}", said.lines().last().unwrap_or_default());

    let points: Value = serde_json::from_slice(&analyze("--json=short").unwrap().stdout).unwrap();
    let page = fs::read_to_string(Path::new(CHECKOUT).join("docs/explanation/hardening.md")).unwrap();
    let left: Vec<&str> =
        points.as_array().unwrap().iter().filter(|point| point["exposure"].is_string()).map(name).collect();
    assert!(left.len() > 5, "{left:?}");
    for name in left {
        let row = format!("| `{}` |", name.replace('|', r"\|"));
        assert!(page.contains(&row), "docs/explanation/hardening.md does not explain {name}");
    }
}

fn name(point: &Value) -> &str {
    point["name"].as_str().unwrap()
}

/// The agent's own state, and a line of a file of its process.
fn status(machine: &Machine) -> Option<Value> {
    let said = machine.inside(&["/usr/local/bin/ckpt-db", "status", "-o", "json"]);
    serde_json::from_slice(&said.stdout).ok()
}

fn of_process(machine: &Machine, pid: u64, field: &str) -> String {
    let text = String::from_utf8(machine.inside(&["cat", &format!("/proc/{pid}/status")]).stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
    line.trim().to_owned()
}

/// What is rendered below the two roots, with digests, by path.
fn trees(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().filter(|line| line.contains("  checkpoint-")).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_agent_works_in_its_sandbox_and_another_unit_sees_the_trees() {
    if !runnable("the_agent_works_in_its_sandbox_and_another_unit_sees_the_trees") {
        return;
    }
    let scene = Scene::new();
    scene.store(example());
    // The key of the store is the kubelet's, where kubelets have it.
    fs::create_dir_all(scene.path("var/lib/kubelet/pki")).unwrap();
    let pki = scene.path("var/lib/kubelet/pki/kubelet-client-current.pem");
    fs::rename(scene.path("var/lib/ckpt-db/node-key.pem"), pki).unwrap();
    let machine = scene.boot();
    let found = machine.kubelet();
    let pid = machine.number("ckpt-db.service", "MainPID");

    // It has a mount namespace of its own, three capabilities of root's, and no way to more.
    let namespace = |pid: u64| machine.inside(&["readlink", &format!("/proc/{pid}/ns/mnt")]).stdout;
    assert_ne!(namespace(pid), namespace(1), "the sandbox is a mount namespace");
    let kubelet = machine.number("kubelet.service", "MainPID");
    assert_eq!(namespace(kubelet), namespace(1), "the kubelet has none");
    let (chown, fsetid, ipc_lock) = (1 << 0, 1 << 4, 1 << 14);
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        let octets = u64::from_str_radix(&of_process(&machine, pid, set), 16).unwrap();
        assert_eq!(octets, chown | fsetid | ipc_lock, "{set}");
    }
    for (field, want) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        assert_eq!(of_process(&machine, pid, field), want, "{field}");
    }
    assert!(!of_process(&machine, pid, "VmLck").starts_with("0 "), "its memory is locked");

    // The kubelet, which is another unit, saw every file, and sees what the agent does.
    let seen = trees(&found);
    let find = "cd /etc/kubernetes && find checkpoint-secrets checkpoint-configmaps -type f -exec sha256sum {} +";
    let by_agent = machine.inside(&["nsenter", "-m", "-t", &pid.to_string(), "sh", "-c", find]);
    assert_eq!(seen, trees(&String::from_utf8_lossy(&by_agent.stdout)));
    for root in ["checkpoint-secrets/", "checkpoint-configmaps/"] {
        assert!(seen.iter().any(|line| line.contains(root)), "{root}: {seen:?}");
    }
    // A volume of a pod with an fsGroup: its group, and the bit that hands it down.
    let groups = machine.inside(&["find", "/etc/kubernetes", "-type", "d", "-gid", "10001", "-perm", "-2000"]);
    assert!(!groups.stdout.is_empty(), "fsGroup 10001: {}", machine.account());

    // What it reads of the host.
    let status = machine.wait("it sees the kubelet", |machine| {
        status(machine).filter(|status| status["kubelet"]["state"] == "Running")
    });
    assert_eq!(status["store"]["lock"], "Open", "by the kubelet's key: {status}");

    // What it can't write, even with all of root's rights: only what the unit opens.
    let write = |path: &str| {
        let touch = ["nsenter", "-m", "-t", &pid.to_string(), "touch", path];
        machine.inside(&touch).status.success()
    };
    let opened = ["/etc/kubernetes/x", "/etc/kubernetes/checkpoint-secrets/x", "/var/lib/ckpt-db/x", "/run/ckpt-db/x"];
    for (paths, want) in [
        (&opened[..], true),
        (
            &[
                "/etc/x",
                "/var/lib/x",
                "/var/lib/kubelet/pki/x",
                "/usr/local/bin/x",
                "/run/x",
                "/root/x",
                "/home/x",
                "/x",
            ],
            false,
        ),
    ] {
        for path in paths {
            assert_eq!(write(path), want, "{path}");
        }
    }
}

/// The memory for Secrets that is mounted when the agent runs already reaches it in its namespace.
#[test]
fn the_secret_root_may_be_mounted_later() {
    if !runnable("the_secret_root_may_be_mounted_later") {
        return;
    }
    let scene = Scene::new();
    scene.store(example());
    // Its first attempt fails.
    let harm = format!("units/{MOUNT}.d/harm.conf");
    scene.write(&harm, "[Mount]\nType=none-such\n");
    let machine = scene.boot();
    let found = machine.kubelet();
    assert!(!found.contains("secret root in memory") && !found.contains("checkpoint-secrets/"), "{found}");
    assert!(found.contains("checkpoint-configmaps/"), "what needs no Secret is rendered: {found}");
    assert!(machine.inside(&["rm", &format!("/run/systemd/system/{MOUNT}.d/harm.conf")]).status.success());
    assert!(machine.inside(&["systemctl", "daemon-reload"]).status.success());
    let pid = machine.number("ckpt-db.service", "MainPID");
    let started = machine.inside(&["systemctl", "start", MOUNT]);
    assert!(started.status.success(), "{}{}", String::from_utf8_lossy(&started.stderr), machine.account());
    machine.wait("Secrets are rendered", |machine| {
        let found = machine.inside(&["find", "/etc/kubernetes/checkpoint-secrets", "-type", "f"]);
        (!found.stdout.is_empty()).then_some(())
    });
    assert_eq!(machine.number("ckpt-db.service", "MainPID"), pid, "by the same agent");
}
