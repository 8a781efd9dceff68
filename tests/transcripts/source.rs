//! Malformed and missing input: each gets an error that names the file, the place and the object, and costs only itself.

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::scene::Scene;

const RUN: &str = "run --once --root node --node-key key.pem --manifests";

/// A pod as a document, which names Secrets.
fn pod(name: &str, node: &str, secrets: &[&str]) -> String {
    let volumes: Vec<String> =
        secrets.iter().map(|secret| format!("{{name: {secret}, secret: {{secretName: {secret}}}}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: uid-{name}}}\n\
         spec:\n  nodeName: {node}\n  containers: [{{name: c, image: registry.example/app:1}}]\n  volumes: [{}]\n\
         status: {{phase: Running}}\n",
        volumes.join(", ")
    )
}

fn own_pod(name: &str) -> String {
    pod(name, "edge-1", &[])
}

/// A ConfigMap as a document.
fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\n")
}

fn secret(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ndata:\n  password: {value}\n")
}

/// A scene with one source file.
fn with(name: &str, contents: impl AsRef<[u8]>) -> Scene {
    let scene = Scene::empty();
    scene.key("key.pem");
    scene.write(name, contents);
    scene
}

/// Runs with the source, shows what was stored of it, and what `--strict` says to it.
fn expect(mut scene: Scene, source: &str, name: &str) {
    scene.run(&format!("{RUN} {source}"));
    scene.run("dump --root node --node-key key.pem -o name");
    scene.expect(name);
}

#[test]
fn one_bad_document_of_three() {
    let text = [own_pod("first"), "kind: Pod\nmetadata: [unclosed\n".to_owned(), own_pod("third")].join("---\n");
    let mut scene = with("pods.yaml", &text);
    scene.run(&format!("{RUN} pods.yaml --strict"));
    assert!(!scene.path("node").exists(), "--strict stores nothing");
    scene.run(&format!("{RUN} pods.yaml"));
    scene.run("dump --root node --node-key key.pem -o name");
    scene.expect("one_bad_document_of_three");
}

#[test]
fn a_secret_that_is_no_base64() {
    let text = [pod("a", "edge-1", &["good", "bad"]), secret("good", "aGk="), secret("bad", "'not base64 at all'")]
        .join("---\n");
    expect(with("pods.yaml", text), "pods.yaml", "secret_no_base64");
}

#[test]
fn names_that_lead_elsewhere() {
    let names = ["..", "a/b", "../../etc/passwd", r#""a\0b""#, &"n".repeat(254), "Upper", "'a b'", r#""\e[31mred""#];
    let mut documents = vec![own_pod("good")];
    documents.extend(names.into_iter().map(config_map));
    documents.push("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: ../shop}\n".to_owned());
    documents.push(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: shop}\ndata: {../../key: v}\n".to_owned(),
    );
    expect(with("pods.yaml", documents.join("---\n")), "pods.yaml", "names_that_lead_elsewhere");
}

#[test]
fn a_secret_over_the_limit() {
    let bytes = |len| data_encoding::BASE64.encode(&vec![b'x'; len]);
    let text = [
        pod("a", "edge-1", &["largest", "larger"]),
        secret("largest", &bytes(1024 * 1024 - 8)),
        secret("larger", &bytes(1024 * 1024 + 1)),
    ]
    .join("---\n");
    expect(with("pods.yaml", text), "pods.yaml", "secret_over_the_limit");
}

#[test]
fn the_same_object_twice() {
    let other = own_pod("one").replace("app:1", "app:2");
    let text = [own_pod("one"), own_pod("one"), other].join("---\n");
    expect(with("pods.yaml", text), "pods.yaml", "same_object_twice");
}

#[test]
fn a_kind_that_is_not_stored() {
    let text =
        [own_pod("one"), "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n".to_owned()].join("---\n");
    expect(with("pods.yaml", text), "pods.yaml", "kind_that_is_not_stored");
}

#[test]
fn a_file_that_is_not_utf8() {
    let scene = with("manifests/a.yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \xff\xfe}\n");
    scene.write("manifests/b.yaml", own_pod("b"));
    expect(scene, "manifests", "not_utf8");
}

#[test]
fn a_directory_with_nothing_in_it() {
    let mut scene = with("manifests/README.txt", "no manifest\n");
    scene.run(&format!("{RUN} manifests --node-name edge-1"));
    scene.expect("empty_directory");
}

#[test]
fn a_source_that_lost_all_pods() {
    let mut scene = Scene::seeded();
    scene.write("no-pods.yaml", config_map("web-config"));
    // Nothing is stored, but opening for writing leaves its trace in the file.
    scene.node_may_change = true;
    scene.run(&format!("{RUN} no-pods.yaml"));
    scene.expect("source_lost_all_pods");
}

#[test]
fn a_source_that_is_missing() {
    let mut scene = Scene::seeded();
    scene.run(&format!("{RUN} absent.yaml"));
    scene.run("run --once --root elsewhere --node-key key.pem --manifests absent.yaml");
    assert!(!scene.path("elsewhere").exists());
    scene.expect("source_missing");
}

#[test]
fn a_source_that_would_block() {
    let mut scene = Scene::empty();
    scene.key("key.pem");
    mknodat(CWD, scene.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    scene.run(&format!("{RUN} fifo"));
    scene.write("manifests/b.yaml", own_pod("b"));
    mknodat(CWD, scene.path("manifests/a.yaml"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    expect(scene, "manifests", "source_fifo");
}

#[test]
fn a_source_that_may_not_be_read() {
    let mut scene = with("pods.yaml", own_pod("one"));
    rustix::fs::chmod(scene.path("pods.yaml"), Mode::empty()).unwrap();
    let command = "run --once --root node --manifests pods.yaml";
    let Some(answer) = scene.answer_as_nobody(command) else { return };
    scene.record(command, &answer);
    scene.expect("source_without_permission");
}

#[test]
fn pods_of_several_nodes() {
    let mut scene = with("pods.yaml", [pod("a", "edge-1", &[]), pod("b", "edge-2", &[])].join("---\n"));
    scene.run(&format!("{RUN} pods.yaml"));
    expect(scene, "pods.yaml --node-name edge-2", "pods_of_several_nodes");
}

#[test]
fn standard_input() {
    let mut scene = with("unused", "");
    let kubectl = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
         "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "named-by-none"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two"}, "data": {"a": 1}}]}"#;
    scene.run_with(&format!("{RUN} -"), kubectl);
    scene.run_with("run --root node --node-key key.pem --manifests -", kubectl);
    scene.expect("standard_input");
}

#[test]
fn pods_of_another_node_only() {
    let mut scene = Scene::seeded();
    scene.write("other.yaml", pod("a", "edge-2", &[]));
    scene.run(&format!("{RUN} other.yaml"));
    scene.run("run --once --root new --node-key key.pem --manifests other.yaml --node-name edge-1");
    assert!(!scene.path("new").exists());
    scene.expect("pods_of_another_node");
}
