//! The manifests of `dist/kustomize` as a user's kubectl renders them.
//!
//! A kubectl of today renders each directory itself. That of 1.20, which the tests have, knows neither directories nor patches
//! below `resources` and `patches`: it renders the base, and applies the patches of the others with its `patch --local`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;

use crate::control_plane::binaries;

/// What a `kustomization.yaml` of ours may say; anything else has to be rendered here first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    /// Of the base.
    #[serde(default)]
    namespace: Option<String>,
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    path: String,
}

/// `dist/kustomize/<name>`
fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/kustomize").join(name)
}

/// Every directory there.
pub(crate) fn names() -> BTreeSet<String> {
    let entries = fs::read_dir(directory("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The objects of `dist/kustomize/<name>`. `None` where there is no kubectl, which is said on standard error.
#[track_caller]
pub(crate) fn render(name: &str) -> Option<Vec<Value>> {
    binaries()?;
    let at = directory(name);
    let written = fs::read_to_string(at.join("kustomization.yaml")).unwrap();
    let found: Kustomization = serde_saphyr::from_str(&written).unwrap_or_else(|error| panic!("{name}: {error}"));
    let used: BTreeSet<&str> = (found.resources.iter().map(String::as_str))
        .chain(found.patches.iter().map(|patch| patch.path.as_str()))
        .filter(|path| *path != "../base")
        .collect();
    let there: BTreeSet<String> = fs::read_dir(&at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|file| file != "kustomization.yaml")
        .collect();
    assert_eq!(there.iter().map(String::as_str).collect::<BTreeSet<_>>(), used, "{name}: files, and those it names");

    let whole = kubectl(&["kustomize", at.to_str().unwrap()], "");
    if whole.status.success() {
        return Some(documents(&text(&whole)));
    }
    assert_ne!(name, "base", "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(found.namespace, None, "{name}: not rendered by this kubectl");
    let mut objects = render("base")?;
    for file in found.resources.iter().filter(|path| *path != "../base") {
        objects.extend(documents(&fs::read_to_string(at.join(file)).unwrap()));
    }
    for patch in &found.patches {
        let patch = fs::read_to_string(at.join(&patch.path)).unwrap();
        let wanted = identity(&documents(&patch)[0]);
        let object = objects.iter_mut().find(|object| identity(object) == wanted).expect("what is patched is there");
        let options = ["patch", "--local", "--type=strategic", "-f", "-", "-o", "json", "-p", &patch];
        let output = kubectl(&options, &object.to_string());
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        *object = serde_json::from_str(&text(&output)).unwrap();
    }
    Some(objects)
}

/// Kind, namespace and name.
pub(crate) fn identity(object: &Value) -> [String; 3] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    [text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"])]
}

/// The one object of a kind.
#[track_caller]
pub(crate) fn the(kind: &str, objects: &[Value]) -> Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{objects:?}");
    found[0].clone()
}

/// Runs the components' kubectl with this on its standard input.
pub(crate) fn kubectl(options: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut command = Command::new(binaries().expect("they were looked for").join("kubectl"));
    command.args(options).env_remove("KUBECONFIG").env("HOME", "/nonexistent");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}
