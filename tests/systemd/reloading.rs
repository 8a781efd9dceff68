//! `systemctl reload`: what can be read anew is, by the same process.

use crate::machine::{Machine, Scene};
use crate::{example, runnable};

fn prepared(machine: &Machine) -> usize {
    let listed = machine.inside(&["find", "/etc/kubernetes/inactive-manifests", "-name", "*.json"]);
    String::from_utf8_lossy(&listed.stdout).lines().count()
}

#[test]
fn a_reload_reads_the_source_again_at_once() {
    if !runnable("a_reload_reads_the_source_again_at_once") {
        return;
    }
    let scene = Scene::new();
    scene.store(example());
    scene.write("etc/source/empty.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
    // Once a day: within this test nothing but the reload can be the cause.
    scene.write(
        "etc/default/ckpt-db",
        "CKPT_DB_OPTIONS=--manifests /etc/source --file-check-frequency 86400 --node-name edge-1\n",
    );
    let machine = scene.boot();
    machine.kubelet();
    let (pid, before) = (machine.number("ckpt-db.service", "MainPID"), prepared(&machine));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: late, namespace: shop, uid: u-late}\nspec:\n  nodeName: edge-1\n  \
               containers: [{name: c, image: example.com/late:1}]\n";
    machine.scene.write("etc/source/late.yaml", pod);
    assert!(machine.inside(&["systemctl", "reload", "ckpt-db.service"]).status.success());
    machine.wait("the new pod is prepared", |machine| {
        let listed = machine.inside(&["ls", "/etc/kubernetes/inactive-manifests", "/etc/kubernetes/manifests"]);
        String::from_utf8_lossy(&listed.stdout).contains("shop_late").then_some(())
    });
    assert!(before > 0, "the others were there before");
    assert_eq!(machine.number("ckpt-db.service", "MainPID"), pid, "the same process");
}

/// The same for the configuration file: what is right holds at once, what is wrong fails the reload and changes nothing, and no
/// process ends.
#[test]
fn a_reload_reads_the_configuration_again() {
    if !runnable("a_reload_reads_the_configuration_again") {
        return;
    }
    const CONFIG: &str = "etc/ckpt-db/config.yaml";
    let scene = Scene::new();
    scene.store(example());
    let with = |policy: &str| {
        format!(
            "apiVersion: ckpt-db.io/v1alpha1\nkind: CheckpointerConfiguration\nmetricsBindAddress: \"0\"\n\
             activationPolicy: {policy}\n"
        )
    };
    scene.write(CONFIG, &with("\"off\""));
    let machine = scene.boot();
    machine.kubelet();
    let pid = machine.number("ckpt-db.service", "MainPID");
    let status = |machine: &Machine| {
        let said = machine.inside(&["/usr/local/bin/ckpt-db", "status", "-o", "json"]).stdout;
        serde_json::from_slice::<serde_json::Value>(&said).ok()
    };
    let off = machine.wait("it answers", status);
    assert_eq!(off["policy"], "off", "{off}");
    let reload = |text: &str| {
        machine.scene.write(CONFIG, text);
        machine.inside(&["systemctl", "reload", "ckpt-db.service"]).status.success()
    };
    assert!(reload(&with("annotated")), "{}", machine.account());
    machine.wait("the new policy holds", |machine| (status(machine)?["policy"] == "annotated").then_some(()));
    assert!(!reload(&with("nonsense")), "{}", machine.account());
    assert_eq!(machine.property("ckpt-db.service", "ActiveState"), "active");
    let status_of = |machine: &Machine| status(machine).unwrap();
    assert_eq!(
        (&status_of(&machine)["policy"], &status_of(&machine)["alarms"]),
        (&"annotated".into(), &Vec::<u8>::new().into())
    );
    // Whoever asks the process itself learns from it that it keeps what it has.
    assert!(machine.inside(&["systemctl", "kill", "-s", "HUP", "ckpt-db.service"]).status.success());
    machine.wait("the wrong file is named", |machine| {
        let status = status(machine)?;
        (status["alarms"].to_string().contains("ConfigurationRefused") && status["policy"] == "annotated").then_some(())
    });
    assert_eq!(machine.number("ckpt-db.service", "MainPID"), pid, "the same process");
}
