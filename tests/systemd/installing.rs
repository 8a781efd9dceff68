//! `make install` and `make uninstall`: what is copied and where, that nothing is compiled, and that a node is afterwards as it was
//! before.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::machine::{CHECKOUT, EXE, Scene, make};
use crate::versions::kubelet_key;
use crate::{example, runnable};

/// The environment of a package build: everything below another directory.
#[test]
fn a_package_is_staged_and_unstaged() {
    let stage = tempfile::tempdir().unwrap();
    let binary = format!("BINARY={EXE}");
    let install = || make("install", stage.path(), &["PREFIX=/usr", &binary]);
    let output = install();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read =
        |name: &str| fs::read_to_string(stage.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let unit = read("usr/lib/systemd/system/ckpt-db.service");
    assert!(unit.contains("\nExecStart=/usr/bin/ckpt-db run "), "{unit}");
    let shipped = fs::read_to_string(Path::new(CHECKOUT).join("dist/systemd/ckpt-db.service")).unwrap();
    assert_eq!(unit.replace("/usr/bin/", "/usr/local/bin/"), shipped, "nothing else differs");
    assert!(read(r"usr/lib/systemd/system/etc-kubernetes-checkpoint\x2dsecrets.mount").contains("Type=tmpfs"));
    let mode = |name: &str| fs::metadata(stage.path().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("usr/bin/ckpt-db"), 0o755);
    assert_eq!(mode("usr/lib/systemd/system/ckpt-db.service"), 0o644);

    // An order is all that the kubelet's drop-in says, for ever: whatever else it said could keep the kubelet from starting.
    let drop_in = read("usr/lib/systemd/system/kubelet.service.d/10-ckpt-db.conf");
    let said: Vec<&str> = drop_in.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(said, ["[Unit]", "After=ckpt-db.service"]);

    // An upgrade keeps what the operator has set, and replaces the program in one step, which a running one outlives.
    let running = fs::File::open(stage.path().join("usr/bin/ckpt-db")).unwrap();
    fs::write(stage.path().join("etc/default/ckpt-db"), "CKPT_DB_OPTIONS=--activation-policy=off\n").unwrap();
    assert!(install().status.success());
    assert_eq!(read("etc/default/ckpt-db"), "CKPT_DB_OPTIONS=--activation-policy=off\n");
    let inode = |meta: fs::Metadata| std::os::unix::fs::MetadataExt::ino(&meta);
    let now = fs::metadata(stage.path().join("usr/bin/ckpt-db")).unwrap();
    assert_ne!(inode(running.metadata().unwrap()), inode(now), "it is another file");

    let output = make("uninstall", stage.path(), &["PREFIX=/usr"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("What an agent has rendered on a node it does not touch"),
        "{said}"
    );
    assert_eq!(files(stage.path()), ["etc/default/ckpt-db"], "the settings are the operator's");
    assert!(make("uninstall", stage.path(), &["PREFIX=/usr", "PURGE=1"]).status.success());
    assert_eq!(files(stage.path()), [""; 0]);
}

fn files(top: &Path) -> Vec<String> {
    let output = Command::new("find").arg(top).args(["!", "-type", "d", "-printf", "%P\n"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Root installs what somebody else has built: with no program there is nothing to install, and no compiler is asked.
#[test]
fn install_compiles_nothing() {
    let stage = tempfile::tempdir().unwrap();
    let trap = stage.path().join("bin");
    fs::create_dir(&trap).unwrap();
    fs::write(trap.join("cargo"), format!("#!/bin/sh\ntouch {}/compiled\n", stage.path().display())).unwrap();
    fs::set_permissions(trap.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", trap.display(), std::env::var("PATH").unwrap());
    let output = Command::new("make")
        .args(["-s", "-C", CHECKOUT, "install", "BINARY=/nowhere/ckpt-db"])
        .arg(format!("DESTDIR={}/to", stage.path().display()))
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("there is no /nowhere/ckpt-db: run 'make' first"), "{said}");
    assert!(!stage.path().join("compiled").exists() && !stage.path().join("to").exists());
}

/// From installation to removal on a node with systemd: no file, unit, mount or directory of ours is left, and what is kept is
/// said.
#[test]
fn uninstall_leaves_nothing_of_ours() {
    if !runnable("uninstall_leaves_nothing_of_ours") {
        return;
    }
    let scene = Scene::without_us();
    // As a node's package of the kubelet leaves it.
    scene.write("etc/kubernetes/manifests/own.yaml", "# the operator's\n");
    scene.write("etc/kubernetes/kubelet.conf", "");
    scene.write("var/lib/kubelet/pki/kubelet-client-current.pem", &kubelet_key());
    scene.write("etc/default/.keep", "");
    for directory in ["usr/local/lib/systemd/system", "usr/local/share", "etc/systemd/system", "var/lib/systemd"] {
        fs::create_dir_all(scene.path(directory)).unwrap();
    }
    scene.write("units/boot.target", "[Unit]\nWants=kubelet.service\nAllowIsolate=yes\n");
    // It says that no copy has a volume in use, else the files would have to stay for as long as one may take to end.
    if !scene.runtime(&["registry.k8s.io/kube-apiserver:v1.34.3"]) {
        assert!(!crate::required(), "CKPT_DB_REQUIRE_SYSTEMD is set, but there is no containerd");
        eprintln!("SKIPPED: uninstall_leaves_nothing_of_ours: there is no containerd");
        return;
    }
    let machine = scene.boot();
    machine.kubelet();
    let before = machine.scene.files();

    let make = |arguments: &[&str]| {
        let mut command = vec!["timeout", "60", "make", "-s", "-C", CHECKOUT];
        command.extend_from_slice(arguments);
        let output = machine.inside(&command);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let binary = format!("BINARY={EXE}");
    let install = |machine: &crate::machine::Machine| {
        let (done, said) = make(&["install", &binary]);
        assert!(done, "{said}");

        assert!(machine.inside(&["cp", "-r", example().to_str().unwrap(), "/etc/example"]).status.success());
        machine.scene.write(
            "etc/default/ckpt-db",
            "CKPT_DB_OPTIONS=--manifests=/etc/example --node-name=edge-1 --activation-policy=all\n",
        );
        assert!(
            machine.inside(&["systemctl", "enable", "--now", "ckpt-db.service"]).status.success(),
            "{}",
            machine.account()
        );
        machine.wait("files are rendered", |machine| {
            let found = machine.inside(&["find", "/etc/kubernetes/checkpoint-secrets", "-type", "f"]);
            (!found.stdout.is_empty()).then_some(())
        });
        assert!(machine.inside(&["rm", "-r", "/etc/example"]).status.success());
    };
    install(&machine);

    // Other directories than the usual ones have to be said again: in the usual ones there is nothing to remove.
    machine.scene.write("etc/default/ckpt-db", "CKPT_DB_OPTIONS=\"--pod-manifest-path=/etc/kubernetes/other\"\n");
    let (done, said) = make(&["uninstall"]);
    assert!(!done && said.contains("says --pod-manifest-path"), "{said}");
    assert_eq!(machine.property("ckpt-db.service", "ActiveState"), "active", "nothing was done");
    assert!(
        machine.inside(&["cp", &format!("{CHECKOUT}/dist/ckpt-db.default"), "/etc/default/ckpt-db"]).status.success()
    );

    let (done, said) = make(&["uninstall"]);
    assert!(done, "{said}");
    assert!(said.contains("STAYS: /var/lib/ckpt-db"), "what stays is said: {said}");
    let left: Vec<_> = machine.scene.files().difference(&before).cloned().collect();
    assert!(left.iter().all(|path| is_kept(path)) && !left.is_empty(), "{left:#?}\n{said}");
    assert!(left.iter().any(|path| path.starts_with("var/lib/ckpt-db/checkpoint-store.db ")), "{left:?}");
    let mounts = machine.inside(&["cat", "/proc/mounts"]);
    assert!(!String::from_utf8_lossy(&mounts.stdout).contains("checkpoint-secrets"));
    assert!(!machine.inside(&["ls", "/run/ckpt-db"]).status.success(), "nor its directory in /run");
    assert_eq!(machine.property("ckpt-db.service", "LoadState"), "not-found");
    assert_eq!(machine.property("kubelet.service", "SubState"), "running", "the kubelet did not notice");

    // The store was kept, so another installation goes on with it; this time it goes too.
    install(&machine);
    let (done, said) = make(&["uninstall", "PURGE=1"]);
    assert!(done && !said.contains("STAYS"), "{said}");
    let after = machine.scene.files();
    let left: Vec<_> = after.symmetric_difference(&before).filter(|path| !is_directory_of_others(path)).collect();
    assert!(left.is_empty(), "{left:#?}\n{said}");
}

/// The store, and directories that belong to all.
fn is_kept(path: &str) -> bool {
    path.starts_with("var/lib/ckpt-db") || is_directory_of_others(path)
}

/// Directories of systems, which packages share, and what systemd and the container runtime keep for themselves.
fn is_directory_of_others(path: &str) -> bool {
    if path.starts_with("var/lib/containerd") || path.starts_with("etc/cni") {
        return true;
    }
    let shared = ["usr/local/", "etc/systemd/system/", "var/lib/systemd", "var/tmp"];
    path.contains(" d ") && shared.iter().any(|directory| path.starts_with(directory))
}
