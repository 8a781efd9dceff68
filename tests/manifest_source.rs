//! The manifest source from outside: what loads, in which form, and what is said of everything that does not.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests: a failed unwrap is a failed test.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use ckpt_db::checkpoint::object::{Kind, Object};
use ckpt_db::source::manifests::{self, Input, Loaded, Problem, Severity, SourceError};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};

/// Stands in every value that must not be told.
const CANARY: &str = "canary";

fn body(object: &Object) -> Value {
    serde_json::from_slice(object.body.expose()).unwrap()
}

fn keys(objects: &[Object]) -> Vec<String> {
    objects.iter().map(|object| object.key.to_string()).collect()
}

fn told(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn one(text: &str) -> Object {
    let (mut objects, problems) = manifests::parse("f", text.as_bytes());
    assert_eq!(told(&problems), [""; 0], "{text}");
    assert_eq!(objects.len(), 1, "{text}");
    objects.remove(0)
}

fn read(path: &Path) -> Result<Loaded, SourceError> {
    manifests::read(&Input::Path(path.to_owned()), &mut io::empty())
}

/// An error with its causes, as `main` prints it, without the directory.
fn chain(error: &dyn std::error::Error, directory: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace(&format!("{}/", directory.display()), "")
}

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";

/// Each row: a manifest, and the body that is stored for it.
#[test]
fn a_body_is_what_the_api_server_would_store() {
    #[rustfmt::skip]
    let rows = [
        // kubectl puts what has no namespace into `default`.
        (CONFIG.to_owned(),
         json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}})),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: edge-1}".to_owned(),
         json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}})),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: shop, managedFields: [{manager: m}]}\nfresh: {x: [1]}".to_owned(),
         json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"}, "fresh": {"x": [1]}})),
        // stringData wins over data and is gone.
        (format!("{SECRET}data: {{a: aGk=, b: eA==}}\nstringData: {{a: new}}\nimmutable: true\ntype: Opaque"),
         json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
                "data": {"a": "bmV3", "b": "eA=="}, "immutable": true, "type": "Opaque"})),
        (format!("{SECRET}data: null\nstringData: {{a: \"\"}}\ntype: t"),
         json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
                "data": {"a": ""}, "type": "t"})),
        // Go's decoder skips line breaks and does not look at the bits left over.
        (format!("{SECRET}data:\n  a: |\n    aGVs\n    bG8=\n  b: eB==\ntype: t"),
         json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
                "data": {"a": "aGVsbG8=", "b": "eA=="}, "type": "t"})),
        (format!("{CONFIG}data: {{a: \"yes\", b: '1'}}\nbinaryData: {{c: /w==}}"),
         json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"},
                "data": {"a": "yes", "b": "1"}, "binaryData": {"c": "/w=="}})),
        (format!("{POD}spec:\n  hostNetwork: yes\n  volumes: [{{name: v, secret: {{secretName: s, defaultMode: 0640}}}}]\n  containers: [{{name: a, resources: {{limits: {{cpu: 2}}}}}}]"),
         json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
                "spec": {"hostNetwork": true, "volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 416}}],
                         "containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}]}})),
    ];
    for (text, want) in rows {
        assert_eq!(body(&one(&text)), want, "{text}");
    }
}

#[test]
fn integers_are_exact_and_the_order_of_members_is_kept() {
    let object = one(
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"n","name":"c"},"z":9007199254740993,"a":-9223372036854775808}"#,
    );
    let text = std::str::from_utf8(object.body.expose()).unwrap();
    assert_eq!(
        text,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"n","name":"c"},"z":9007199254740993,"a":-9223372036854775808}"#
    );
}

#[test]
fn identity_is_taken_over() {
    let object = one("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, uid: 8f1c-1, resourceVersion: \"12\"}");
    assert_eq!((object.uid.as_str(), object.resource_version.as_str()), ("8f1c-1", "12"));
    let object = one("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, uid: null}");
    assert_eq!((object.uid.as_str(), object.resource_version.as_str()), ("", ""));
}

/// Each row: the kind of list, and the objects in it. Lists in lists come from `kubectl get -f` of several files.
#[test]
fn lists_are_taken_apart() {
    let pod = r#""spec":{"containers":[{"name":"c"}]}"#;
    #[rustfmt::skip]
    let rows: &[(String, &[&str])] = &[
        ("apiVersion: v1\nkind: List\nitems: []".to_owned(),   &[]),
        ("apiVersion: v1\nkind: List\nitems: null".to_owned(), &[]),
        ("apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: edge-1}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n".to_owned(),
         &["Node edge-1", "ConfigMap default/c"]),
        (format!(r#"{{"kind":"PodList","apiVersion":"v1","items":[{{"metadata":{{"name":"a"}},{pod}}},{{"metadata":{{"name":"b","namespace":"x"}},{pod}}}]}}"#),
         &["Pod default/a", "Pod x/b"]),
        (r#"{"kind":"SecretList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}]}"#.to_owned(), &["Secret default/a"]),
        (r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"n"}}]}]}"#.to_owned(), &["Node n"]),
    ];
    for (text, want) in rows {
        let (objects, problems) = manifests::parse("f", text.as_bytes());
        assert_eq!(
            (keys(&objects), told(&problems)),
            (want.iter().map(ToString::to_string).collect(), vec![]),
            "{text}"
        );
    }
}

/// Each row: one manifest that is not stored, and all that is said of it.
#[test]
fn a_bad_manifest_is_told_with_its_place_and_without_a_value() {
    let long = "a".repeat(254);
    let named = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    let labelled = |metadata: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, {metadata}}}\n");
    let big = format!("{CONFIG}data: {{a: {}, b: x}}\n", "y".repeat(1024 * 1024));
    let sealed_big = format!("{SECRET}stringData: {{a: {}, b: x}}\n", "y".repeat(1024 * 1024));
    #[rustfmt::skip]
    let rows = [
        // No Kubernetes object.
        ("canary".to_owned(),                              "f:1:1: it is not a mapping with apiVersion, kind and metadata; skipped"),
        ("- canary".to_owned(),                            "f:1:1: it is not a mapping with apiVersion, kind and metadata; skipped"),
        ("a: canary".to_owned(),                           "f:1:1: kind is missing or not text; skipped"),
        ("kind: Pod".to_owned(),                           "f:1:1: Pod: apiVersion is missing or not text; skipped"),
        ("kind: Pod\napiVersion: 1".to_owned(),            "f:1:1: Pod: apiVersion is missing or not text; skipped"),
        ("kind: Pod\napiVersion: v2".to_owned(),           "f:1:1: Pod: apiVersion is \"v2\", not v1; skipped"),
        ("kind: Pod\napiVersion: v1".to_owned(),           "f:1:1: Pod: metadata is missing or not a mapping; skipped"),
        // Fine, but of no use here.
        ("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: d, namespace: shop}".to_owned(), "f:1:1: Deployment shop/d: kind \"Deployment\" of \"apps/v1\" is not stored; ignored"),
        ("kind: Service\napiVersion: serving.knative.dev/v1\nmetadata: {name: d}".to_owned(),   "f:1:1: Service d: kind \"Service\" of \"serving.knative.dev/v1\" is not stored; ignored"),
        ("kind: NamespaceList\napiVersion: v1\nitems: [{}]".to_owned(),                         "f:1:1: NamespaceList: kind \"NamespaceList\" of \"v1\" is not stored; ignored"),
        // Names.
        (named("''"),                                      "f:1:1: ConfigMap: metadata.name is missing; skipped"),
        (named("12"),                                      "f:1:1: ConfigMap: metadata.name is not text (quote it); skipped"),
        (named(".."),                                      "f:1:1: ConfigMap ..: metadata.name \"..\" is not a lower-case RFC 1123 subdomain of at most 253 characters; skipped"),
        (named("a/b"),                                     "f:1:1: ConfigMap a/b: metadata.name \"a/b\" is not a lower-case RFC 1123 subdomain of at most 253 characters; skipped"),
        (named(r#""a\0b""#),                               "f:1:1: ConfigMap \"a\\0b\": metadata.name \"a\\0b\" is not a lower-case RFC 1123 subdomain of at most 253 characters; skipped"),
        (named(r#""\e[31m""#),                             "f:1:1: ConfigMap \"\\u{1b}[31m\": metadata.name \"\\u{1b}[31m\" is not a lower-case RFC 1123 subdomain of at most 253 characters; skipped"),
        (labelled("namespace: a.b"),                       "f:1:1: ConfigMap a.b/c: metadata.namespace \"a.b\" is not a lower-case RFC 1123 label of at most 63 characters; skipped"),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: edge-1, namespace: x}".to_owned(), "f:1:1: Node x/edge-1: kind Node takes no namespace; skipped"),
        (labelled("uid: 12"),                              "f:1:1: ConfigMap default/c: metadata.uid is not text (quote it); skipped"),
        (labelled("resourceVersion: 12"),                  "f:1:1: ConfigMap default/c: metadata.resourceVersion is not text (quote it); skipped"),
        (labelled(r#"uid: "a\nb""#),                       "f:1:1: ConfigMap default/c: metadata.uid is not 1 to 128 printable ASCII characters; skipped"),
        (labelled("labels: {a: 1}"),                       "f:1:1: ConfigMap default/c: metadata.labels key \"a\" is not text (quote it); skipped"),
        (labelled("annotations: canary"),                  "f:1:1: ConfigMap default/c: metadata.annotations is not a mapping; skipped"),
        // Data.
        (format!("{SECRET}data: {{k: canary!}}"),          "f:1:1: Secret default/s: data key \"k\" is not valid base64; skipped"),
        (format!("{SECRET}data: {{k: 1234}}"),             "f:1:1: Secret default/s: data key \"k\" is not base64 text (quote it); skipped"),
        (format!("{SECRET}data: [canary]"),                "f:1:1: Secret default/s: data is not a mapping; skipped"),
        (format!("{SECRET}stringData: {{k: [canary]}}"),   "f:1:1: Secret default/s: stringData key \"k\" is not text (quote it); skipped"),
        (format!("{SECRET}stringData: canary"),            "f:1:1: Secret default/s: stringData is not a mapping; skipped"),
        (format!("{SECRET}data: {{..k: aGk=}}"),           "f:1:1: Secret default/s: a data key is not allowed (not shown, since a value may have slipped into it): 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'; skipped"),
        (format!("{SECRET}stringData: {{a/b: canary}}"),   "f:1:1: Secret default/s: a data key is not allowed (not shown, since a value may have slipped into it): 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'; skipped"),
        // Without the space, the value is part of the key.
        (format!("{SECRET}stringData: {{password:canary}}"), "f:1:1: Secret default/s: a data key is not allowed (not shown, since a value may have slipped into it): 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'; skipped"),
        (format!("{SECRET}data: {{password=canary: 1}}"), "f:1:1: Secret default/s: a key of data (not shown, since a value may have slipped into it) is not base64 text (quote it); skipped"),
        (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"a":"eA==",k":"canary"}}"#.to_owned(), "f:1:1: Secret default/s: a data key is not allowed (not shown, since a value may have slipped into it): 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'; skipped"),
        (labelled("annotations: {a:canary: 1}"),           "f:1:1: ConfigMap default/c: a key of metadata.annotations (not shown, since a value may have slipped into it) is not text (quote it); skipped"),
        (labelled("annotations: {a.b/c: 1}"),              "f:1:1: ConfigMap default/c: metadata.annotations key \"a.b/c\" is not text (quote it); skipped"),
        (format!("{CONFIG}data: {{a/b: x}}"),              "f:1:1: ConfigMap default/c: data key \"a/b\" is not allowed: 1 to 253 of [-._a-zA-Z0-9], neither '.' nor starting with '..'; skipped"),
        (format!("{SECRET}type: [canary]"),                "f:1:1: Secret default/s: type is not text; skipped"),
        (format!("{SECRET}immutable: canary"),             "f:1:1: Secret default/s: immutable is neither true nor false; skipped"),
        (format!("{CONFIG}data: {{port: 8080}}"),          "f:1:1: ConfigMap default/c: data key \"port\" is not text (quote it); skipped"),
        (format!("{CONFIG}binaryData: {{k: canary!}}"),    "f:1:1: ConfigMap default/c: binaryData key \"k\" is not valid base64; skipped"),
        (format!("{CONFIG}data: {{k: x}}\nbinaryData: {{k: eA==}}"), "f:1:1: ConfigMap default/c: data key \"k\" stands in both data and binaryData; skipped"),
        (big,                                              "f:1:1: ConfigMap default/c: the decoded data has 1048577 bytes; the API server allows 1048576; skipped"),
        (sealed_big,                                       "f:1:1: Secret default/s: the decoded data has 1048577 bytes; the API server allows 1048576; skipped"),
        // Pods.
        (POD.to_owned(),                                   "f:1:1: Pod default/p: spec.containers is empty; skipped"),
        (format!("{POD}spec: {{containers: []}}"),         "f:1:1: Pod default/p: spec.containers is empty; skipped"),
        (format!("{POD}spec: {{containers: [{{name: a, image: [canary]}}]}}"), "f:1:1: Pod default/p: spec.containers[0]: a field has the wrong type: a string is expected; skipped"),
        (format!("{POD}spec: {{containers: [{{name: a}}], hostNetwork: canary}}"), "f:1:1: Pod default/p: a field has the wrong type: a boolean is expected; skipped"),
        (format!("{POD}spec: {{containers: [{{name: a}}], volumes: [{{name: v, secret: {{secretName: ../x}}}}]}}"), "f:1:1: Pod default/p: spec.volumes[0].secret.secretName: metadata.name \"../x\" is not a lower-case RFC 1123 subdomain of at most 253 characters; skipped"),
        // Lists.
        ("kind: List\napiVersion: v1\nitems: canary".to_owned(), "f:1:1: List: items is not a list; skipped"),
        ("kind: List\napiVersion: v1\nitems:\n- a: 1\n".to_owned(), "f:4:3: items[0]: kind is missing or not text; skipped"),
        (format!("kind: List\napiVersion: v1\nitems:\n- {{kind: Node, apiVersion: v1, metadata: {{name: edge-1}}}}\n-   kind: Secret\n    apiVersion: v1\n    metadata: {{name: s}}\n    data: {{k: {CANARY}}}\n"), "f:5:5: Secret default/s: data key \"k\" is not valid base64; skipped"),
        ("kind: PodList\napiVersion: v1\nmetadata: {continue: x}\nitems: []".to_owned(), "f:1:1: PodList: it is one page of a longer list (metadata.continue is set): objects are missing; skipped"),
        // The document behind comments, markers and others.
        ("# c\n---\n\n# c\nkind: Pod".to_owned(),          "f:5:1: Pod: apiVersion is missing or not text; skipped"),
        ("{\"kind\": \"List\",\r\n \"apiVersion\": \"v1\",\r\n \"items\": [\r\n  {\"kind\": \"Pod\"}]}".to_owned(), "f:4:3: Pod: apiVersion is missing or not text; skipped"),
    ];
    for (text, want) in rows {
        let (_, problems) = manifests::parse("f", text.as_bytes());
        assert_eq!(told(&problems), [want], "{}", &text[..text.len().min(300)]);
        assert!(!told(&problems).concat().contains(CANARY), "{want}");
    }
    let (_, problems) = manifests::parse("f", named(&long).as_bytes());
    assert!(problems[0].message.starts_with("metadata.name \"aaaa"), "{}", problems[0]);
    assert!(problems[0].message.len() < 200, "{}", problems[0]);
}

#[test]
fn a_bad_document_costs_only_itself() {
    let good = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    let bad: &[&[u8]] = &[
        b"a: [\n",
        b"a: 'canary\n",
        b"a:\n\t- canary\n",
        b"a: \xff\xfe canary\n",
        b"{\"a\": canary}\n",
        b"a: 1\na: canary\n",
        b"a: *canary\n",
        b"a: !!int canary\n",
        b"\x00canary\n",
        b"? [canary]\n: x\n",
    ];
    for bad in bad {
        for ending in ["\n", "\r\n"] {
            let mut text = good("before").into_bytes();
            text.extend_from_slice(b"---\n");
            text.extend_from_slice(bad);
            text.extend_from_slice(b"---\n");
            text.extend_from_slice(good("after").as_bytes());
            let mut ended = Vec::new();
            for &byte in &text {
                if byte == b'\n' { ended.extend_from_slice(ending.as_bytes()) } else { ended.push(byte) }
            }
            let (objects, problems) = manifests::parse("f", &ended);
            let shown = String::from_utf8_lossy(bad).into_owned();
            assert_eq!(keys(&objects), ["ConfigMap default/before", "ConfigMap default/after"], "{shown}");
            assert_eq!(problems.len(), 1, "{shown}: {problems:?}");
            assert!((5..=6 + bad.len() as u64).contains(&problems[0].line), "{shown}: {}", problems[0]);
            assert_eq!(problems[0].severity, Severity::Skipped);
            assert!(!problems[0].to_string().contains(CANARY), "{shown}: {}", problems[0]);
        }
    }
}

#[test]
fn the_same_object_twice_is_fine_and_another_one_of_its_name_is_not() {
    let object = |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{{value}}}\n");
    let text = [object("a: x, b: w"), object("a: x, b: w"), object("b: w, a: x"), object("a: z")].join("---\n");
    let (objects, problems) = manifests::parse("f", text.as_bytes());
    assert_eq!(keys(&objects), ["ConfigMap default/c"]);
    assert_eq!(body(&objects[0])["data"]["a"], "x");
    assert_eq!(
        told(&problems),
        ["f:16:1: ConfigMap default/c: it was given before with other contents, which stay; skipped"]
    );
}

#[test]
fn a_node_is_named_by_the_only_node_object() {
    let node = |name: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n---\n");
    #[rustfmt::skip]
    let rows = [
        (String::new(),                             None),
        (CONFIG.to_owned(),                         None),
        (node("edge-1"),                            Some("edge-1")),
        (format!("{}{CONFIG}", node("edge-1")),     Some("edge-1")),
        (node("edge-1") + &node("edge-2"),          None),
        (node("edge-1") + &node("edge-1"),          Some("edge-1")),
    ];
    for (text, want) in rows {
        let (objects, _) = manifests::parse("f", text.as_bytes());
        assert_eq!(manifests::node_name_of(&objects).as_deref(), want, "{text}");
    }
}

#[test]
fn a_pod_is_bound_to_the_node_in_its_spec() {
    let pod = |spec: &str| format!("{POD}spec: {{containers: [{{name: c}}]{spec}}}\n");
    #[rustfmt::skip]
    let rows = [
        (pod(""),                                             None),
        (pod(", nodeName: edge-1"),                           Some("edge-1")),
        (pod(", nodeName: ''"),                               None),
        (pod(", nodeName: null"),                             None),
        // What it asks for is not what it is bound to.
        (pod(", nodeSelector: {nodeName: edge-2}"),           None),
        (format!("{CONFIG}spec: {{nodeName: edge-1}}\n"),     None),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\n".to_owned(), None),
    ];
    for (text, want) in rows {
        assert_eq!(manifests::bound_to(&one(&text)).as_deref(), want, "{text}");
    }
    let mut broken = one(&pod(", nodeName: edge-1"));
    broken.body = b"not JSON".to_vec().into();
    assert_eq!(manifests::bound_to(&broken), None);
}

#[test]
fn a_directory_is_read_in_the_order_of_names_and_what_is_no_file_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let config = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    for (name, text) in [
        ("b.yml", config("b")),
        ("a.yaml", config("a")),
        ("c.json", config("c")),
        ("d.txt", "canary: [".to_owned()),
        (".e.yaml", "canary: [".to_owned()),
        ("f.yaml~", "canary: [".to_owned()),
        ("k.yaml", "kind: [".to_owned()),
    ] {
        fs::write(path(name), text).unwrap();
    }
    fs::create_dir(path("sub")).unwrap();
    fs::write(path("sub").join("x.yaml"), config("x")).unwrap();
    fs::create_dir(path("g.yaml")).unwrap();
    rustix::fs::mknodat(CWD, path("h.yaml"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::os::unix::fs::symlink("nowhere", path("i.yaml")).unwrap();
    std::os::unix::fs::symlink("sub/x.yaml", path("j.yaml")).unwrap();
    fs::write(path("l.yaml"), config("a")).unwrap();

    let loaded = read(directory.path()).unwrap();
    assert_eq!(
        keys(&loaded.objects),
        ["ConfigMap default/a", "ConfigMap default/b", "ConfigMap default/c", "ConfigMap default/x"]
    );
    assert_eq!(loaded.documents, 6);
    let prefix = format!("{}/", directory.path().display());
    let told: Vec<_> = told(&loaded.problems).iter().map(|problem| problem.replace(&prefix, "")).collect();
    #[rustfmt::skip]
    let want = [
        "g.yaml: it is a directory, not a regular file; skipped",
        "h.yaml: it is a FIFO, not a regular file; skipped",
        "i.yaml: it can't be opened: No such file or directory (os error 2); skipped",
    ];
    assert_eq!(told[..3], want);
    assert!(told[3].starts_with("k.yaml:1:7: ") && told[3].ends_with("; skipped"), "{}", told[3]);
    assert_eq!(told.len(), 4);
}

/// An empty source is far more likely a command that failed, or a directory that isn't mounted, than a node without
/// objects. Taken for a listing, it would ask to remove all that the store has.
#[test]
fn a_source_without_any_manifest_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("dir")).unwrap();
    fs::write(path("dir").join("readme.txt"), "x").unwrap();
    for (name, text) in [("empty.yaml", ""), ("comment.yaml", "# nothing\n---\n"), ("null.yaml", "---\nnull\n")] {
        fs::write(path(name), text).unwrap();
    }
    for name in ["dir", "empty.yaml", "comment.yaml", "null.yaml"] {
        let error = read(&path(name)).unwrap_err();
        assert_eq!(chain(&error, directory.path()), format!("there is no manifest in {name}"));
    }
    assert_eq!(
        manifests::read(&Input::Stdin, &mut io::empty()).unwrap_err().to_string(),
        "there is no manifest in stdin"
    );
    // A listing without items is an answer.
    fs::write(path("list.yaml"), "apiVersion: v1\nkind: List\nitems: []\n").unwrap();
    assert_eq!(read(&path("list.yaml")).unwrap().documents, 1);
}

#[test]
fn what_cannot_be_read_at_all_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::File::create(path("large")).unwrap().set_len(manifests::FILE_MAX_BYTES as u64 + 1).unwrap();
    #[rustfmt::skip]
    let rows = [
        ("absent", "cannot read manifests from absent: it can't be opened: No such file or directory (os error 2)"),
        ("fifo",   "cannot read manifests from fifo: it is a FIFO, not a regular file"),
        ("large",  "cannot read manifests from large: it is larger than 67108864 bytes"),
    ];
    for (name, want) in rows {
        assert_eq!(chain(&read(&path(name)).unwrap_err(), directory.path()), want);
    }

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    let error = manifests::read(&Input::Stdin, &mut Broken).unwrap_err();
    assert_eq!(chain(&error, directory.path()), "cannot read manifests from stdin: it can't be read: gone");
    let error = manifests::read(&Input::Stdin, &mut io::repeat(b'#')).unwrap_err();
    assert_eq!(chain(&error, directory.path()), "cannot read manifests from stdin: it is larger than 67108864 bytes");
}

#[test]
fn the_example_node_loads_without_a_problem() {
    let loaded = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node")).unwrap();
    assert_eq!(told(&loaded.problems), [""; 0]);
    assert_eq!(manifests::node_name_of(&loaded.objects).as_deref(), Some("edge-1"));
    for kind in Kind::ALL {
        assert!(loaded.objects.iter().any(|object| object.key.kind() == kind), "{kind}");
    }
    let bound: Vec<_> = loaded.objects.iter().filter_map(manifests::bound_to).collect();
    assert!(bound.iter().any(|node| node == "edge-1") && bound.iter().any(|node| node != "edge-1"), "{bound:?}");
}

#[test]
fn standard_input_is_read_to_its_end() {
    let loaded = manifests::read(&Input::Stdin, &mut format!("{CONFIG}---\nkind: Pod\n").as_bytes()).unwrap();
    assert_eq!(keys(&loaded.objects), ["ConfigMap default/c"]);
    assert_eq!(told(&loaded.problems), ["stdin:5:1: Pod: apiVersion is missing or not text; skipped"]);
    assert_eq!(loaded.documents, 2);
    assert_eq!(Input::from_option(Path::new("-")), Input::Stdin);
    assert_eq!(Input::from_option(Path::new("a")), Input::Path("a".into()));
}

/// What a field of a manifest may hold by mistake: mostly the wrong thing, always with the canary in it.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(CANARY)),
        Just(json!("Y2FuYXJ5")),
        Just(json!(format!("{CANARY}\u{1b}[31m\n"))),
        Just(Value::Null),
        Just(json!(12)),
        Just(json!(true)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-z./]{0,4}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A manifest of a kind that is stored, with anything in the fields that hold values.
fn manifest() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![Just("Secret"), Just("ConfigMap"), Just("Pod"), Just("Service"), Just("Node")];
    let fields = vec!["data", "stringData", "binaryData", "immutable", "type", "spec", "status", "fresh"];
    let fields = prop::collection::hash_map(prop::sample::select(fields), anything(), 0..5);
    let metadata = vec!["labels", "annotations", "uid", "resourceVersion", "ownerReferences", "managedFields"];
    let metadata = prop::collection::hash_map(prop::sample::select(metadata), anything(), 0..2);
    (kind, fields, metadata).prop_map(|(kind, fields, metadata)| {
        let mut manifest = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "n"}});
        manifest["metadata"].as_object_mut().unwrap().extend(metadata.into_iter().map(|(k, v)| (k.to_owned(), v)));
        manifest.as_object_mut().unwrap().extend(fields.into_iter().map(|(k, v)| (k.to_owned(), v)));
        manifest
    })
}

/// Reads `text` and checks that no problem tells a value or holds a control character.
fn told_nothing(text: &[u8]) -> (Vec<Object>, Vec<Problem>) {
    let (objects, problems) = manifests::parse("f", text);
    for problem in &problems {
        let told = format!("{problem} {problem:?}");
        assert!(!told.contains(CANARY) && !told.contains("Y2FuYXJ5"), "{told}");
        assert!(!problem.to_string().chars().any(char::is_control), "{told}");
    }
    (objects, problems)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_to_an_end(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let (objects, problems) = manifests::parse("f", &text);
        prop_assert!(objects.is_empty() || problems.iter().all(|problem| problem.line > 0));
    }

    #[test]
    fn any_text_of_yaml_and_json_characters_is_read_to_an_end(
        text in r#"([-:?,\[\]{}#&*!|>'"%@` \n\t~<.a0]|\n--- |\n\.\.\.\n|\nkind: |\{"a":|: ){0,60}"#
    ) {
        let lines = text.split('\n').count() as u64;
        for problem in manifests::parse("f", text.as_bytes()).1 {
            prop_assert!((1..=lines + 1).contains(&problem.line) && problem.column > 0, "{problem}");
        }
    }

    #[test]
    fn no_value_is_told(manifest in manifest()) {
        let json = manifest.to_string();
        let yaml = serde_saphyr::to_string(&manifest).unwrap();
        for text in [json, yaml] {
            let (objects, problems) = told_nothing(text.as_bytes());
            prop_assert_eq!(objects.len() + problems.len(), 1);
        }
    }

    #[test]
    fn no_value_is_told_of_a_cut_or_damaged_text(
        manifest in manifest(), as_json in any::<bool>(), at in any::<prop::sample::Index>(), byte in "[a-zA-Z0-9 ]"
    ) {
        let mut text = if as_json { manifest.to_string() } else { serde_saphyr::to_string(&manifest).unwrap() }.into_bytes();
        let at = at.index(text.len());
        told_nothing(&text[..at]);
        // Keys and names are told, so the damage must not be one that makes them of values.
        text[at] = byte.as_bytes()[0];
        told_nothing(&text);
    }

    /// What was admitted is admitted again as it is: `dump` and `--manifests` fit together.
    #[test]
    fn a_stored_body_is_read_again_unchanged(manifest in manifest()) {
        for object in manifests::parse("f", manifest.to_string().as_bytes()).0 {
            let (again, problems) = manifests::parse("f", object.body.expose());
            prop_assert_eq!(told(&problems), Vec::<String>::new());
            prop_assert!(again == [object]);
        }
    }
}

#[test]
fn the_kinds_that_are_stored_are_all_admitted() {
    for kind in Kind::ALL {
        let spec = if kind == Kind::Pod { "spec: {containers: [{name: c}]}" } else { "" };
        let object = one(&format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: o}}\n{spec}"));
        assert_eq!(object.key.kind(), kind);
    }
}
