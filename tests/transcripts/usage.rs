//! Help and wrong usage: what is said, and exit code 64 for what the program could not make sense of.

use crate::scene::Scene;

#[test]
fn help() {
    for name in [
        "",
        "run",
        "status",
        "log",
        "hold",
        "release",
        "dump",
        "plan",
        "diff",
        "render",
        "verify",
        "backup",
        "restore",
        "export",
        "key",
        "key init",
        "key list",
        "key add",
        "key remove",
        "key rewrap",
        "key rotate",
        "adopt",
        "config",
        "config check",
        "config defaults",
        "import",
        "import pod-checkpointer",
        "uninstall",
        "completion",
    ] {
        let mut scene = Scene::empty();
        for option in ["-h", "--help"] {
            let answer = scene.run(format!("{name} {option}").trim_start());
            assert_eq!((answer.code, answer.stderr.as_str()), (0, ""));
        }
        scene.expect(format!("help_{name}").replace(' ', "_").trim_end_matches('_'));
    }
}

#[test]
fn version() {
    let answer = Scene::empty().run("--version");
    assert_eq!((answer.code, answer.stdout), (0, format!("ckpt-db {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_usage() {
    let mut scene = Scene::empty();
    for arguments in [
        "",
        "dmup",
        "run --kubeconfig kubelet.conf --manifests node",
        "run --onec",
        "run --once --strict",
        "run --once --activation-policy annotatd",
        "run --once --file-check-frequency 0",
        "run --manifests",
        "run --once --feature-gates",
        "run --once --feature-gates Checkpointing",
        "run --once --feature-gates Chekpointing=true",
        "run --once --feature-gates AllAlpha=true,DynamicKubeletConfig=true",
        "run --once --feature-gates Checkpointing=yes",
        "plan --feature-gates Checkpointing=true",
        "dump --kind deployment",
        "dump -o jsno",
        "dump -n",
        "dump --raw",
        "render",
        "verify name",
        "verify --recovery-code --recovery-code-file code",
        "run --once --manifests - --recovery-code-file -",
        "key",
        "key add",
        "key add --recovery-code --key-file key",
        "key add CODE",
        "key remove",
        "backup",
        "backup one two",
        "backup - -o json",
        "completion",
        "completion tcsh",
        "diff -o wide",
        "run --logging-format xml",
        "run --v 11",
        "run --vmodule sorce=4",
        "restore",
        "export",
        "export out -o table",
        "import",
        "import more.yaml",
        "import -f - --recovery-code-file -",
    ] {
        let answer = scene.run(arguments);
        assert_eq!((answer.code, answer.stdout.as_str()), (64, ""), "{arguments}");
    }
    scene.expect("usage");
}
