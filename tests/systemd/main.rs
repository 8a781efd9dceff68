//! The units of `dist/systemd` under a real systemd: the agent is ready before the kubelet starts, and whatever happens to
//! it, the kubelet starts.
//!
//! Skipped, loudly, where systemd can't be run in a namespace; `CKPT_DB_REQUIRE_SYSTEMD=1` forbids that.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

#[path = "../common/gate.rs"]
mod gate;
mod installing;
mod machine;
mod reloading;
mod sandbox;
mod versions;

use std::fs;
use std::path::Path;

use machine::{Machine, Scene, cgroups};

/// Whether systemd can be run here.
fn runnable(test: &str) -> bool {
    match cgroups() {
        Ok(_) => true,
        Err(why) => {
            assert!(!required(), "CKPT_DB_REQUIRE_SYSTEMD is set, but systemd can't be run: {why}");
            eprintln!("SKIPPED: {test}: systemd can't be run here: {why}");
            false
        }
    }
}

fn required() -> bool {
    std::env::var_os("CKPT_DB_REQUIRE_SYSTEMD").is_some()
}

fn example() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/node"))
}

fn microseconds(machine: &Machine, unit: &str, name: &str) -> u64 {
    let at = machine.number(unit, name);
    assert!(at > 0, "{unit} {name} never happened");
    at
}

/// An ordinary start: the store is rendered, systemd hears that the agent is ready, and only then the kubelet starts.
#[test]
fn ready_before_the_kubelet() {
    if !runnable("ready_before_the_kubelet") {
        return;
    }
    let scene = Scene::new();
    scene.store(example());
    let runtime = scene.runtime(&["registry.k8s.io/kube-apiserver:v1.34.3", "docker.io/library/nginx:1.29.1"]);
    if !runtime {
        eprintln!(
            "SKIPPED in part: there is no containerd, so nothing tells that no parent runs, and nothing is activated"
        );
    }
    let machine = scene.boot();
    let found = machine.kubelet();
    // Annotated: it does not wait for the API server to be silent, nor does the kubelet's start.
    let place = if runtime { "manifests" } else { "inactive-manifests" };
    assert!(
        found.lines().any(|line| line.starts_with(&format!("{place}/kube-system_kube-apiserver-"))),
        "{found}{}",
        machine.account()
    );
    assert!(found.lines().any(|line| line.starts_with("inactive-manifests/shop_storefront-")), "{found}");
    assert!(found.contains("secret root in memory"), "{found}");
    let ready = microseconds(&machine, "ckpt-db.service", "ActiveEnterTimestampMonotonic");
    let asked = microseconds(&machine, "ckpt-db.service", "ExecMainStartTimestampMonotonic");
    let kubelet = microseconds(&machine, "kubelet.service", "ExecMainStartTimestampMonotonic");
    eprintln!(
        "ready {} ms after the agent's start, kubelet {} ms later",
        (ready - asked) / 1000,
        (kubelet - ready) / 1000
    );
    assert!(ready < kubelet, "ready at {ready}, the kubelet started at {kubelet}");
    assert_eq!(machine.property("ckpt-db.service", "SubState"), "running");
    let status = machine.property("ckpt-db.service", "StatusText");
    assert!(!status.is_empty(), "systemctl status says what the agent does");

    // The units as systemd itself judges them, where their program is.
    let verify = machine.inside(&["systemd-analyze", "verify", "--man=no", "ckpt-db.service"]);
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && said.trim().is_empty(), "{said}");
    let requires = machine.property("kubelet.service", "Requires");
    assert!(!requires.contains("ckpt-db"), "{requires}");

    // Stopping it stops nothing else, and leaves the Secrets where pods may be using them.
    assert!(machine.inside(&["systemctl", "stop", "ckpt-db.service"]).status.success());
    assert_eq!(machine.property("kubelet.service", "SubState"), "running");
    let mounts = machine.inside(&["cat", "/proc/mounts"]);
    assert!(String::from_utf8_lossy(&mounts.stdout).contains(" /etc/kubernetes/checkpoint-secrets tmpfs "));
}

/// Ways to fail: what is done to the machine before it is switched on, and whether the agent runs all the same.
#[test]
fn the_kubelet_starts_whatever_happens() {
    if !runnable("the_kubelet_starts_whatever_happens") {
        return;
    }
    const STORE: &str = "var/lib/ckpt-db/checkpoint-store.db";
    type Harm = fn(&Scene);
    #[rustfmt::skip]
    let rows: [(&str, Harm, Option<bool>); 13] = [
        ("nothing is wrong",            |_| {},                                                                 Some(true)),
        ("no store, no credentials",    |scene| fs::remove_dir_all(scene.path("var/lib/ckpt-db")).unwrap(),     Some(true)),
        ("the binary is missing",       |scene| fs::remove_file(scene.path("usr/local/bin/ckpt-db")).unwrap(),  Some(false)),
        ("the store is no store",       |scene| scene.write(STORE, "x".repeat(100_000).as_str()),               Some(false)),
        ("the store is a directory",    |scene| {
            fs::remove_file(scene.path(STORE)).unwrap();
            fs::create_dir(scene.path(STORE)).unwrap();
        },                                                                                                      Some(false)),
        ("the disk is read-only",       |scene| scene.write("read-only", ""),                                   Some(true)),
        ("a wrong configuration",       |scene| scene.write("etc/ckpt-db/config.yaml", "activationPolicy: nonsense\n"),  Some(false)),
        ("the power went while it was written", |scene| {
            scene.write("etc/ckpt-db/config.yaml", "");
            scene.write(
                "var/lib/ckpt-db/last-good-config.yaml",
                "apiVersion: ckpt-db.io/v1alpha1\nkind: CheckpointerConfiguration\nactivationPolicy: annotated\n",
            );
        },                                                                                                      Some(true)),
        ("an option is unknown",        |scene| scene.write("etc/default/ckpt-db", "CKPT_DB_OPTIONS=--no-such-option\n"), Some(false)),
        ("no memory can be mounted",    |scene| scene.write(
            "units/etc-kubernetes-checkpoint\\x2dsecrets.mount.d/harm.conf", "[Mount]\nType=none-such\n",
        ),                                                                                                      Some(true)),
        ("it ends at once",             |scene| scene.program("exit 1"),                                        Some(false)),
        ("it dies by a signal",         |scene| scene.program("kill -SEGV $$"),                                 Some(false)),
        ("it is never ready",           |scene| {
            scene.program("exec sleep 1000000");
            scene.hurry("TimeoutStartSec=2");
        },                                                                                                      Some(false)),
    ];
    for (what, harm, runs) in rows {
        let scene = Scene::new();
        scene.store(example());
        harm(&scene);
        let machine = scene.boot();
        machine.kubelet();
        eprintln!(
            "{what}: the kubelet started; ckpt-db.service is {}",
            machine.property("ckpt-db.service", "SubState")
        );
        assert_eq!(machine.property("kubelet.service", "SubState"), "running", "{what}");
        let active = machine.property("ckpt-db.service", "ActiveState");
        assert!(runs.is_none_or(|runs| runs == (active == "active")), "{what}: ckpt-db.service is {active}");
    }
}

/// A crash loop is tried for ever, and the kubelet can be restarted in the middle of it.
#[test]
fn a_crash_loop_never_ends_and_never_blocks() {
    if !runnable("a_crash_loop_never_ends_and_never_blocks") {
        return;
    }
    let scene = Scene::new();
    scene.program("exit 1");
    scene.hurry("RestartSec=100ms");
    let machine = scene.boot();
    machine.kubelet();
    // systemd's own limit would be 5 starts in 10 seconds.
    machine.wait("it is started again and again", |machine| {
        (machine.number("ckpt-db.service", "NRestarts") > 10).then_some(())
    });
    assert!(machine.inside(&["systemctl", "restart", "kubelet.service"]).status.success());
    assert_eq!(machine.property("kubelet.service", "SubState"), "running");
}

/// An agent that is hung is ended by the watchdog and started anew, and the kubelet does not notice.
#[test]
fn the_watchdog_ends_a_hung_agent() {
    if !runnable("the_watchdog_ends_a_hung_agent") {
        return;
    }
    let scene = Scene::new();
    scene.store(example());
    scene.hurry("WatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=100ms");
    let machine = scene.boot();
    machine.kubelet();
    let kubelet = machine.number("kubelet.service", "MainPID");
    let first = machine.number("ckpt-db.service", "MainPID");
    // Twice the deadline passes, and it is still the same: the agent says that it is alive.
    let started = microseconds(&machine, "ckpt-db.service", "ExecMainStartTimestampMonotonic");
    machine.wait("six seconds pass", |machine| {
        let output = machine.inside(&["cat", "/proc/uptime"]);
        let uptime = String::from_utf8_lossy(&output.stdout).split('.').next()?.parse::<u64>().ok()?;
        (uptime * 1_000_000 > started + 7_000_000).then_some(())
    });
    assert_eq!(machine.number("ckpt-db.service", "MainPID"), first);
    assert!(machine.inside(&["kill", "-STOP", &first.to_string()]).status.success());
    machine.wait("it is started anew", |machine| {
        let now = machine.number("ckpt-db.service", "MainPID");
        (now != 0 && now != first && machine.property("ckpt-db.service", "SubState") == "running").then_some(())
    });
    assert_eq!(machine.number("kubelet.service", "MainPID"), kubelet);
}

/// The store opens with nothing but a credential that systemd passes to the agent, first in clear text, then encrypted.
#[test]
fn a_credential_opens_the_store() {
    if !runnable("a_credential_opens_the_store") {
        return;
    }
    const CLEAR: &str = "etc/credstore/ckpt-db.key";
    const ENCRYPTED: &str = "/etc/credstore.encrypted/ckpt-db.key";
    let scene = Scene::new();
    scene.store(example());
    // A key for tests.
    scene.write(CLEAR, &"c".repeat(32));
    // The slot of the file goes, and then the file.
    scene.command(&["key", "rewrap", "--key-slots", "credential-only"], &[("CREDENTIALS_DIRECTORY", "etc/credstore")]);
    fs::remove_file(scene.path("var/lib/ckpt-db/node-key.pem")).unwrap();
    scene.hurry(&format!("LoadCredential=ckpt-db.key:/{CLEAR}"));
    let machine = scene.boot();
    machine.kubelet();
    let rendered = |machine: &Machine| {
        let found = machine.inside(&["find", "/etc/kubernetes/checkpoint-secrets", "-type", "f"]);
        String::from_utf8_lossy(&found.stdout).lines().count()
    };
    assert!(rendered(&machine) > 0, "Secrets are rendered");

    // The same as the drop-in that is shipped has it, with a key of this machine in place of a TPM's.
    let encrypt = ["systemd-creds", "encrypt", "--with-key=host", "--name=ckpt-db.key"];
    assert!(machine.inside(&["mkdir", "-m", "0700", "/etc/credstore.encrypted"]).status.success());
    let made = machine.inside(&[&encrypt[..], &[&format!("/{CLEAR}"), ENCRYPTED]].concat());
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(!required(), "CKPT_DB_REQUIRE_SYSTEMD is set, but systemd-creds does not encrypt: {why}");
        eprintln!("SKIPPED in part: systemd-creds does not encrypt here: {why}");
        return;
    }
    fs::remove_file(machine.scene.path(CLEAR)).unwrap();
    let units = "/run/systemd/system/ckpt-db.service.d";
    let dropin = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/ckpt-db.service.d/credential.conf");
    assert!(machine.inside(&["rm", &format!("{units}/hurry.conf")]).status.success());
    assert!(machine.inside(&["cp", dropin, units]).status.success());
    let lock = |machine: &Machine| {
        let said = machine.inside(&["/usr/local/bin/ckpt-db", "status", "-o", "json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&said).ok()?;
        status["store"]["lock"].as_str().map(str::to_owned)
    };
    for command in [&["daemon-reload"][..], &["restart", "ckpt-db.service"]] {
        assert!(machine.inside(&[&["systemctl"], command].concat()).status.success(), "{command:?}");
    }
    assert_eq!(machine.wait("it answers", lock), "Open");

    // With neither it runs all the same, and its Secrets stay sealed.
    assert!(machine.inside(&["rm", &format!("{units}/credential.conf")]).status.success());
    for command in [&["daemon-reload"][..], &["restart", "ckpt-db.service"]] {
        assert!(machine.inside(&[&["systemctl"], command].concat()).status.success(), "{command:?}");
    }
    assert_eq!(machine.wait("it answers", lock), "Locked");
    // It tries to open the store again and again, which keeps nobody from looking at it.
    let listed = machine.inside(&["/usr/local/bin/ckpt-db", "key", "list", "-o", "name"]);
    assert_eq!(listed.status.code(), Some(1), "{}", String::from_utf8_lossy(&listed.stderr));
}
