//! The feature gate off, which is the default: what would be kept is said, and nothing is touched. (That nothing is, is a
//! rule of every scene.)

use crate::scene::Scene;

#[test]
fn with_the_gate_off() {
    let mut scene = Scene::with_source();
    // Nothing is on this node, and nothing is afterwards.
    let answer = scene.run("run --feature-gates=Checkpointing=false --once --root node --manifests pods.yaml");
    assert_eq!(answer.code, 0);
    assert!(!scene.path("node").exists());
    // It can't be asked for what it does not do.
    let answer = scene.run("run --feature-gates=Checkpointing=false --once --root node");
    assert_eq!(answer.code, 2);
    // Neither is a key looked at, nor one made.
    let answer = scene
        .run("run --feature-gates= --once --root node --generate-node-key --node-key no.pem --manifests pods.yaml");
    assert_eq!(answer.code, 0);
    scene.expect("gate_off");
}

#[test]
fn turned_off_after_a_run() {
    let mut scene = Scene::seeded();
    let answer = scene.run("run --feature-gates=Checkpointing=false --once --root node --manifests pods.yaml");
    assert_eq!(answer.code, 0);
    let answer = scene.run("run --feature-gates=Checkpointing=false --once --root node");
    assert_eq!(answer.code, 2);
    // What was rendered goes as it says, at first what a kubelet reads, and the store stays.
    assert_eq!(scene.answer("uninstall --no-wait --root node").code, 1);
    let answer = scene.run("run --feature-gates=AllAlpha=false --once --root node --manifests pods.yaml");
    assert_eq!(answer.code, 0);
    // Turned on again, all is there as it was.
    let answer = scene.run("run --feature-gates=Checkpointing=true --once --root node --node-key key.pem");
    assert_eq!(answer.code, 0);
    scene.expect("gate_turned_off");
}
