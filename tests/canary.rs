//! Canaries in everything that is secret: found below the secret root and in `dump --reveal`, and nowhere else.
//!
//! Each canary is looked for by its first and its last twelve octets, so that a message with a part of a value is found
//! as well, and in every form that a program could give it by accident.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;

use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::keys;
use common::gate::{GATE, gate};
use common::program::{KEY, Node, Ran, SECRETS, STORE, assert_same, program};
use common::search::{Canary, Search, below};
use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};

const DATA: &str = "kQ7canaryDataZw3Vb9XpL2mR8";
const TEXT: &str = "hY4canaryStringDataJ6tN1sG";
const ENV: &str = "uB5canaryEnvironmentP0dF7c";
const ENV_FROM: &str = "wE8canaryEnvFromA3kS6yT1zM";
const PROJECTED: &str = "oI2canaryProjectedL9vH4qDx";
const APPLIED: &str = "rC6canaryLastAppliedU1nB5gK";
const BINARY: [u8; 26] = [
    0xf1, 0x00, 0x9c, 0xe2, 0x0a, 0x8b, 0xff, 0x1b, 0xd7, 0x83, 0x0d, 0xc0, 0x99, 0x22, 0xab, 0x5c, 0x07, 0xee, 0x91,
    0xfe, 0x00, 0x44, 0xb6, 0x1f, 0xd2, 0x88,
];

fn canaries(node: &Node) -> Vec<Canary> {
    let text = |name, text: &str| Canary { name, bytes: text.as_bytes().to_vec() };
    vec![
        text("data", DATA),
        text("stringData", TEXT),
        text("env", ENV),
        text("envFrom", ENV_FROM),
        text("projected", PROJECTED),
        text("last-applied-configuration", APPLIED),
        Canary { name: "binary data", bytes: BINARY.to_vec() },
        Canary { name: "node key", bytes: scalar(&node.at(KEY)) },
    ]
}

/// The secret number of an elliptic curve key.
fn scalar(path: &Path) -> Vec<u8> {
    let found = keys::find(&keys::KeySearch { explicit: vec![path.to_owned()], defaults: Vec::new() });
    let canonical = found.keys[0].secret.canonical();
    // Its last member is the number; that it is the right one shows when it is found in the file.
    canonical[canonical.len() - 32..].to_vec()
}

/// A pod with Secrets in every place that takes one, and the Secrets.
fn canary_source() -> String {
    let base64 = |text: &str| BASE64.encode(text.as_bytes());
    let pod = |name: &str, annotations: &str| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: aviary, uid: uid-{name}, annotations: {{{annotations}}}}}
spec:
  nodeName: edge-1
  containers:
  - name: c
    image: registry.example/app:1
    args: [--password=$(PASSWORD)]
    env:
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: env, key: password}}}}}}
    envFrom:
    - {{prefix: P_, secretRef: {{name: env-from}}}}
    volumeMounts:
    - {{name: all, mountPath: /all}}
    - {{name: some, mountPath: /some}}
    - {{name: one, mountPath: /one, subPath: plain}}
  volumes:
  - {{name: all, secret: {{secretName: vault}}}}
  - {{name: some, projected: {{sources: [{{secret: {{name: projected}}}}]}}}}
  - {{name: one, secret: {{secretName: vault, items: [{{key: plain, path: plain, mode: 256}}]}}}}
status: {{phase: Running, startTime: "2026-02-28T08:30:07Z", containerStatuses: [{{name: c, started: true, ready: true, restartCount: 0, image: a, imageID: a, containerID: containerd://a, state: {{running: {{startedAt: "2026-02-28T08:30:15Z"}}}}}}]}}
"#
        )
    };
    let secret = |name: &str, rest: &str| {
        format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: aviary}}\n{rest}")
    };
    let applied = format!(
        r#"{{"apiVersion":"v1","kind":"Secret","stringData":{{"plain":"{TEXT}","former":"{APPLIED}"}},"data":{{"a":"{}"}}}}"#,
        base64(APPLIED)
    );
    [
        // Secrets in its environment make a manifest with clear text ...
        pod("annotated", "checkpointer.alpha.coreos.com/checkpoint: \"true\""),
        // ... or a refusal.
        pod("plain", ""),
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: vault\n  namespace: aviary\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{applied}'\nimmutable: true\ndata: {{data: {}, binary: {}}}\nstringData: {{plain: {TEXT}}}\n",
            base64(DATA),
            BASE64.encode(&BINARY)
        ),
        secret("env", &format!("data: {{password: {}}}\n", base64(ENV))),
        secret("env-from", &format!("data: {{API_KEY: {}, not.an.identifier: {}}}\n", base64(ENV_FROM), base64(ENV_FROM))),
        secret("projected", &format!("data: {{key: {}}}\n", base64(PROJECTED))),
    ]
    .concat()
}

/// Documents that are bad in one way each, all with a canary near the place that is wrong.
fn damaged_documents() -> Vec<(String, String)> {
    let base64 = BASE64.encode(DATA.as_bytes());
    let secret =
        |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: vault, namespace: aviary}}\n{rest}\n");
    #[rustfmt::skip]
    let rows = [
        ("no base64",            secret(&format!("data: {{data: {DATA}!}}"))),
        ("base64 cut short",     secret(&format!("data: {{data: {}}}", &base64[..base64.len() - 3]))),
        ("a list as value",      secret(&format!("data: {{data: [{base64}, {DATA}]}}"))),
        ("a mapping as value",   secret(&format!("data: {{data: {{{DATA}: {DATA}}}}}"))),
        ("data is text",         secret(&format!("data: {DATA}"))),
        ("data is a list",       secret(&format!("data: [{DATA}]"))),
        ("stringData is text",   secret(&format!("stringData: {TEXT}"))),
        ("a number as value",    secret(&format!("stringData: {{plain: [{TEXT}]}}"))),
        ("immutable is text",    secret(&format!("immutable: {TEXT}"))),
        ("type is a list",       secret(&format!("type: [{TEXT}]"))),
        ("open quote",           secret(&format!("stringData:\n  plain: \"{TEXT}"))),
        ("open bracket",         secret(&format!("stringData: {{plain: {TEXT}"))),
        ("bad indentation",      secret(&format!("stringData:\n  plain: |\n {TEXT}\n    {TEXT}\n\t{TEXT}"))),
        ("given twice",          secret(&format!("stringData: {{plain: {TEXT}, plain: {TEXT}2}}"))),
        ("unknown anchor",       secret(&format!("stringData: {{plain: *{TEXT}}}"))),
        ("unknown tag",          secret(&format!("stringData: {{plain: !!int {TEXT}}}"))),
        ("binary tag",           secret(&format!("stringData: {{plain: !!binary {TEXT}!}}"))),
        ("bad escape",           secret(&format!("stringData: {{plain: \"\\q{TEXT}\"}}"))),
        ("too large",            secret(&format!("stringData: {{plain: {}}}", TEXT.repeat(50_000)))),
        ("annotation is a list", format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: vault, namespace: aviary, annotations: {{kubectl.kubernetes.io/last-applied-configuration: [{APPLIED}]}}}}")),
        ("nothing but text",     TEXT.to_owned()),
        ("no kind",              format!("stringData: {{plain: {TEXT}}}")),
        ("JSON cut short",       format!("{{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"stringData\": {{\"plain\": \"{TEXT}")),
        ("other contents twice", format!("{}---\n{}", secret(&format!("data: {{data: {base64}}}")), secret(&format!("stringData: {{plain: {TEXT}}}")))),
    ];
    rows.map(|(name, text)| (name.to_owned(), text)).into()
}

#[test]
fn nothing_secret_is_written_or_said_where_it_should_not_be() {
    let node = Node::new();
    node.copy_example();
    fs::write(node.source().join("aviary.yaml"), canary_source()).unwrap();
    let first = node.run_source().expect(0);
    let search = Search::new(&canaries(&node));
    search.assert_quiet(&first);
    search.assert_none_outside(&node.root(), "after the first run");
    they_are_where_they_belong(&node, &search);

    let other = node.source().join("other.pem");
    Ran::of({
        let mut command = program();
        command.args(["run", GATE, "--once", "--generate-node-key", "--manifests"]).arg(node.source());
        command.arg("--root").arg(node.source().join("stranger"));
        command
    })
    .expect(0);
    fs::rename(node.source().join("stranger").join(KEY), &other).unwrap();
    fs::remove_dir_all(node.source().join("stranger")).unwrap();
    // A key file with its head cut off: no PEM, but the key is in it.
    let headless = node.source().join("headless.pem");
    let pem = fs::read_to_string(node.at(KEY)).unwrap();
    fs::write(&headless, &pem[28..]).unwrap();
    let torn = node.source().join("torn.pem");
    fs::write(&torn, pem.replacen('M', "!", 1)).unwrap();

    let out = node.source().join("out");
    let mut commands: Vec<Vec<String>> = Vec::new();
    let formats = ["table", "wide", "json", "yaml", "name"];
    for command in ["dump", "plan"] {
        commands.extend(formats.map(|format| vec![command.to_owned(), "-o".to_owned(), format.to_owned()]));
    }
    for command in [
        "verify",
        "run --once",
        "run --once --secret-env literal",
        "run --once --logging-format=json --v=10",
        "dump -n aviary --kind secret vault -o yaml",
        "dump nobody",
        "plan -n aviary",
    ] {
        commands.push(command.split(' ').map(str::to_owned).collect());
    }
    commands.push(vec!["render".to_owned(), "--out".to_owned(), out.to_str().unwrap().to_owned()]);
    for arguments in &commands {
        for key in [None, Some(&other), Some(&headless), Some(&torn), Some(&node.source())] {
            let mut command = node.command(&arguments[0], &arguments[1..]);
            command.env("RUST_LOG", "trace");
            if let Some(key) = key {
                command.arg("--node-key").arg(key);
            }
            search.assert_quiet(&Ran::of(command));
        }
    }
    search.assert_none_outside(&node.root(), "after all commands");
    search.assert_none_outside(&out, "below --out");
    let mut command = node.command("dump", &["--reveal", "--node-key"]);
    command.arg(&other);
    search.assert_quiet(&Ran::of(command).expect(2));
    // What is refused by its options is said with them, not with what a file holds.
    search.assert_quiet(&node.ran("run", &["--once", "--manifests", node.at(KEY).to_str().unwrap()]));
}

/// The same while keys come and go, the data key is exchanged, and the program is killed in the middle of that.
#[test]
fn changes_of_keys_leave_nothing_secret_behind() {
    const KEY_FILE: &str = "gD3canaryKeyFileW8xR5nB1vC7zL2mK9pQ4tY6";
    let node = Node::new();
    node.copy_example();
    fs::write(node.source().join("aviary.yaml"), canary_source()).unwrap();
    node.run_source().expect(0);
    let rendered = node.rendered();
    let key_file = node.source().join("stick.key");
    fs::write(&key_file, KEY_FILE).unwrap();
    let command = |arguments: &str| {
        let mut command = program();
        let (subcommand, options) = arguments.split_once(' ').unwrap_or((arguments, ""));
        command.arg(subcommand).args(gate(subcommand)).args(options.split_whitespace());
        command.arg("--root").arg(node.root()).env("RUST_LOG", "trace");
        command
    };
    let with_key_file = |arguments: &str| {
        let mut command = command(arguments);
        command.arg("--key-file").arg(&key_file);
        command
    };

    let added = Ran::of(command("key add --recovery-code")).expect(0);
    let code = added.stdout.trim().to_owned();
    assert!(code.len() >= 32, "that is no recovery code");
    let mut all = canaries(&node);
    all.push(Canary { name: "key file", bytes: KEY_FILE.as_bytes().to_vec() });
    all.push(Canary { name: "recovery code", bytes: code.into_bytes() });
    let search = Search::new(&all);
    search.assert_none(added.stderr.as_bytes(), "what is said when a recovery code is made");
    for arguments in ["key add", "key list", "key rewrap", "verify"] {
        search.assert_quiet(&Ran::of(with_key_file(arguments)));
    }
    search.assert_quiet(&Ran::of(with_key_file("key rotate --yes")).expect(0));
    search.assert_none_outside(&node.root(), "after a new data key");

    // Killed as soon as so many octets of the new file are there; what it has left is searched, too.
    let directory = node.at(STORE).parent().unwrap().to_owned();
    let others = || {
        let entries = fs::read_dir(&directory).unwrap().map(Result::unwrap);
        let new = entries.filter(|entry| ![STORE, KEY].iter().any(|known| node.at(known) == entry.path()));
        new.filter_map(|entry| Some(entry.metadata().ok()?.len())).max()
    };
    let before = others();
    let mut left = 0;
    for octets in [0, 1, 4_096, 65_536, 262_144, 524_288] {
        let mut command = with_key_file("key rotate --yes");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && !(others() > before && others() >= Some(octets)) {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        left += usize::from(others() > before);
        search.assert_none_outside(&node.root(), "after a kill");
        search.assert_quiet(&Ran::of(with_key_file("run --once")).expect(0));
        assert_same(&node.rendered(), &rendered, "a cold start after a kill");
        search.assert_none_outside(&node.root(), "after the recovery");
    }
    assert!(left > 0, "no kill came in time");
    for arguments in ["verify", "plan -o json", "dump -o json", "log", "key list"] {
        search.assert_quiet(&Ran::of(with_key_file(arguments)));
    }
}

/// The same for a store that is damaged: one octet of every page at a time.
#[test]
fn a_damaged_store_tells_no_secret() {
    let node = Node::new();
    node.copy_example();
    fs::write(node.source().join("aviary.yaml"), canary_source()).unwrap();
    node.run_source().expect(0);
    let search = Search::new(&canaries(&node));
    let sound = fs::read(node.at(STORE)).unwrap();
    let used = sound.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|octet| *octet != 0));
    for (number, _) in used.step_by(5) {
        let mut damaged = sound.clone();
        damaged[number * 4096 + 1234] ^= 0xff;
        fs::write(node.at(STORE), damaged).unwrap();
        for arguments in [&["verify"][..], &["dump", "-o", "json"], &["run", "--once"]] {
            search.assert_quiet(&node.ran(arguments[0], &arguments[1..]));
        }
    }
    search.assert_none_outside(&node.root(), "after all commands");
}

#[test]
fn a_bad_document_is_not_quoted() {
    let node = Node::new();
    node.copy_example();
    fs::write(node.source().join("aviary.yaml"), canary_source()).unwrap();
    node.run_source().expect(0);
    let search = Search::new(&canaries(&node));
    for (name, text) in damaged_documents() {
        for extension in ["yaml", "json"] {
            let file = node.source().join(format!("aviary.{extension}"));
            fs::write(&file, &text).unwrap();
            for strict in [false, true] {
                let mut command = node.command("run", &["--once", "--manifests"]);
                command.arg(node.source()).args(strict.then_some("--strict")).env("RUST_LOG", "trace");
                let ran = Ran::of(command).expect(if strict { 2 } else { 1 });
                search.assert_none(ran.stdout.as_bytes(), &format!("{name}: the output"));
                search.assert_none(ran.stderr.as_bytes(), &format!("{name}: the messages"));
            }
            let dump = node.ran("dump", &["-o", "yaml"]).expect(0);
            search.assert_none(dump.stdout.as_bytes(), &format!("{name}: the dump"));
            fs::remove_file(file).unwrap();
        }
    }
    search.assert_none_outside(&node.root(), "after all documents");
}

/// A field that no Secret has, as one gets by wrong indentation, is kept like every unknown field; it is not shown.
#[test]
fn an_unknown_field_of_a_secret_is_taken_for_a_value() {
    let node = Node::with_example();
    let text =
        canary_source().replace("immutable: true", &format!("token: {TEXT}\nnested: {{a: [{TEXT}]}}\nimmutable: true"));
    fs::write(node.source().join("aviary.yaml"), text).unwrap();
    node.run_source().expect(0);
    let search = Search::new(&canaries(&node));
    for format in ["json", "yaml", "wide"] {
        let dump = node.ran("dump", &["-o", format]).expect(0);
        search.assert_none(dump.stdout.as_bytes(), &format!("dump -o {format}"));
    }
    search.assert_none_outside(&node.root(), "in files");
}

/// The search means nothing unless the canaries were there to be found.
fn they_are_where_they_belong(node: &Node, search: &Search) {
    let names = |found: BTreeMap<&'static str, &'static str>| found.into_keys().collect::<BTreeSet<_>>();
    let values = ["binary data", "data", "env", "envFrom", "projected", "stringData"];
    let with = |more| BTreeSet::from(values).into_iter().chain([more]).collect::<BTreeSet<_>>();
    assert_eq!(names(search.found(&fs::read(node.at(KEY)).unwrap())), BTreeSet::from(["node key"]));
    let dump = node.ran("dump", &["-o", "json", "--reveal"]).expect(0);
    assert_eq!(names(search.found(dump.stdout.as_bytes())), with("last-applied-configuration"));
    let rendered = below(&node.at(SECRETS)).into_iter().flat_map(|(_, contents)| search.found(&contents));
    assert_eq!(rendered.map(|(name, _)| name).collect::<BTreeSet<_>>(), BTreeSet::from(values));
}

/// A search that finds nothing has to be able to find.
#[test]
fn the_search_finds_every_form_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scratch");
    let key = generate_p256_pkcs8().unwrap();
    let canaries = [
        Canary { name: "text", bytes: DATA.as_bytes().to_vec() },
        Canary { name: "binary", bytes: BINARY.to_vec() },
        Canary { name: "key", bytes: key.expose()[36..68].to_vec() },
    ];
    let search = Search::new(&canaries);
    for canary in &canaries {
        let whole = &canary.bytes;
        let after = |others: &str| [others.as_bytes(), whole, b"tail"].concat();
        let folded: Vec<u8> = BASE64.encode(whole).into_bytes().chunks(5).collect::<Vec<_>>().join(&b"\n    "[..]);
        let upper = |octet: &u8| format!("\\u00{octet:02X}");
        let lower = |octet: &u8| format!("\\u00{octet:02x}");
        #[rustfmt::skip]
        let plants: Vec<(&str, Vec<u8>)> = vec![
            ("raw",                       after("x")),
            ("its head only",             whole[..12].to_vec()),
            ("its tail only",             whole[whole.len() - 12..].to_vec()),
            ("base64",                    BASE64.encode(&after("")).into()),
            ("base64 after one octet",    BASE64.encode(&after("x")).into()),
            ("base64 after two octets",   BASE64.encode(&after("xy")).into()),
            ("base64url after two",       BASE64URL.encode(&after("xy")).into()),
            ("base64, folded",            folded),
            ("hexadecimal",               HEXLOWER.encode(&after("x")).into()),
            ("upper-case hexadecimal",    HEXUPPER.encode(&after("x")).into()),
            ("JSON escapes",              whole.iter().map(lower).collect::<String>().into()),
            ("upper-case JSON escapes",   whole.iter().map(upper).collect::<String>().into()),
            ("Debug of octets",           format!("{whole:?}").into()),
            ("escaped octets",            whole.escape_ascii().to_string().into()),
        ];
        for (form, bytes) in plants {
            fs::write(&file, [&b"before: "[..], &bytes, b"\nafter"].concat()).unwrap();
            let contents = &below(directory.path())[0].1;
            let found: Vec<_> = search.found(contents).into_keys().collect();
            assert_eq!(found, [canary.name], "{} as {form}", canary.name);
        }
    }
}
