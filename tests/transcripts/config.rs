//! The configuration file: each command takes from it what it has an option for, and none goes on with one that is wrong.

use crate::scene::{SEED, Scene};

const FILE: &str = "node/etc/ckpt-db/config.yaml";
const HEAD: &str = "apiVersion: ckpt-db.io/v1alpha1\nkind: CheckpointerConfiguration\n";

#[test]
fn a_file_below_the_options() {
    let mut scene = Scene::with_source();
    scene.write(
        FILE,
        format!("{HEAD}featureGates:\n  Checkpointing: true\nactivationPolicy: annotated\nstore: /srv/s.db\n"),
    );
    // The gate comes from the file; what the option says besides is merged.
    scene.node_may_change = true;
    let answer = scene.run(&SEED.replace("run", "run --feature-gates=AllBeta=true"));
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    scene.node_may_change = false;
    assert!(scene.path("node/srv/s.db").exists(), "its paths are below the root");
    // What the agent would do, and what it would do otherwise.
    let table = |scene: &mut Scene, more: &str| scene.run(&format!("plan --root node --node-key key.pem{more}")).stdout;
    let (annotated, all) = (table(&mut scene, ""), table(&mut scene, " --activation-policy all"));
    assert!(annotated.contains("policy is annotated") && !all.contains("policy is annotated"), "{annotated}");
    // An option wins over the file, another file over that at the usual place.
    scene.write("other.yaml", format!("{HEAD}store: /srv/s.db\nactivationPolicy: \"off\"\n"));
    let other = scene.run("plan --root node --config other.yaml --node-key key.pem").stdout;
    assert!(other.contains("held back by the policy"), "{other}");
    // Which is no other store than this node's.
    scene.run("verify --root node --node-key key.pem --store node/srv/s.db");
    scene.expect("config_file");
}

#[test]
fn a_file_that_is_wrong() {
    let mut scene = Scene::seeded();
    scene.write(FILE, format!("{HEAD}activationDelays: 3s\nactivationPolicy: al\nstore: s.db\n"));
    for arguments in [
        "config check --root node",
        "run --once --root node --node-key key.pem",
        "plan --root node --node-key key.pem",
        "render --root node --out rendered",
        "uninstall --root node",
        "key list --root node --node-key key.pem",
        // Whoever only asks the agent goes on.
        "status --root node",
        "plan --root node --config none.yaml",
        "config check none.yaml",
        "config check pods.yaml",
    ] {
        let answer = scene.run(arguments);
        assert_ne!(answer.code, 0, "{arguments}");
    }
    for (contents, code) in [("", 1), ("nodeName: [", 1), (HEAD, 0)] {
        scene.write(FILE, contents);
        assert_eq!(scene.run("config check --root node").code, code);
    }
    std::fs::remove_file(scene.path(FILE)).unwrap();
    assert_eq!(scene.run("config check --root node").code, 0);
    scene.expect("config_wrong");
}

#[test]
fn the_defaults() {
    let mut scene = Scene::empty();
    let answer = scene.run("config defaults");
    scene.write("defaults.yaml", &answer.stdout);
    assert_eq!(scene.run("config check defaults.yaml").code, 0);
    let sample = scene.raw("config defaults --comments");
    scene.write("sample.yaml", sample);
    assert_eq!(scene.run("config check sample.yaml").code, 0);
    scene.expect("config_defaults");
}
