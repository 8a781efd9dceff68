//! What is asked of a running agent, against one that says what it was told to say.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use ckpt_db::crypto::SystemEntropy;
use ckpt_db::store::{Backend as _, RedbStore};
use serde_json::{Value, json};

use crate::fake_agent::{FakeAgent, line};
use crate::scene::{STORE, Scene};

const STATUS: &str = "status --root node";

/// Three o'clock at night: the control plane is gone since midnight, the node was switched off and on.
fn at_night() -> Value {
    json!({
        "apiVersion": "ckpt-db.io/v1alpha1",
        "kind": "CheckpointerStatus",
        "node": "edge-1",
        "version": "0.1.0",
        "nowUnixS": 1_795_235_686,
        "clockIsSet": true,
        "startedAtUnixS": 1_795_232_086,
        "upS": 3_600,
        "policy": "all",
        "checkpointing": true,
        "apiServer": {
            "state": "Silent", "sinceUnixS": 1_795_224_900, "forS": 10_786,
            "cause": "connect to 10.0.0.1:6443: no route to host",
        },
        "store": {
            "path": "/var/lib/ckpt-db/checkpoint-store.db", "revision": 812, "objects": 143, "populated": true,
            "lock": "Open", "readOnly": false, "findings": 0,
        },
        "runtime": {"known": true},
        "kubelet": {"state": "Running", "forS": 3_590},
        "pods": [
            pod("shop", "web", "Active", Some(json!({"state": "running"})), "No", json!({
                "verdict": ["Recoverable", "LabelsDropped"],
                "why": "its parent does not run and the API server is silent",
            })),
            pod("shop", "cart", "Active", Some(json!({"state": "failing", "reason": "ErrImagePull"})), "No", json!({
                "verdict": ["Recoverable"],
                "why": "its image shop/cart:3 is not on this node",
                "todo": "load it: ctr -n k8s.io images import FILE",
                "deadline": {"what": "it is published anew", "inS": 240},
            })),
            pod("kube-system", "dns", "Inactive", None, "No", json!({
                "priority": 2_000_000_000_i64,
                "verdict": ["NotRecoverable", "Sealed"],
                "why": "no key at hand opens Secret kube-system/dns-tls",
                "todo": "put the key of the node back: ckpt-db plan names its fingerprint",
            })),
            pod("shop", "ledger", "Inactive", None, "No", json!({
                "verdict": ["NotRecoverable", "Volume"],
                "why": "volume data is of type persistentVolumeClaim",
                "todo": "wait for the API server, or run it by hand",
            })),
            pod("shop", "queue", "Inactive", None, "Unknown", json!({
                "verdict": ["Recoverable"],
                "deadline": {"what": "its copy is activated", "inS": 12},
            })),
            pod("shop", "report", "Inactive", None, "No", json!({
                "held": true, "verdict": ["Recoverable"], "why": "an operator holds it",
                "todo": "ckpt-db release shop/report",
            })),
            pod("shop", "migrate", "Inactive", None, "No", json!({
                "meantToRun": false, "verdict": ["NotMeant", "Finished"], "why": "it has finished",
            })),
            pod("shop", "mail", "HandedOver", None, "Yes", json!({"verdict": ["Recoverable"]})),
        ],
        "nextDeadline": {"what": "its copy is activated", "inS": 12, "pod": "shop/queue"},
        "alarms": [],
    })
}

fn pod(namespace: &str, name: &str, state: &str, copy: Option<Value>, parent: &str, more: Value) -> Value {
    let mut pod = json!({
        "namespace": namespace, "name": name, "uid": format!("uid-{name}"), "state": state, "parentRunning": parent,
        "meantToRun": true,
    });
    if let Some(copy) = copy {
        pod["copy"] = copy;
    }
    for (member, value) in more.as_object().unwrap() {
        pod[member] = value.clone();
    }
    pod
}

/// Runs `arguments` while an agent has `status` to say.
fn status(scene: &mut Scene, arguments: &str, status: &Value) -> i32 {
    let agent = FakeAgent::says(scene, &json!({"ok": status}));
    let code = scene.run(arguments).code;
    assert_eq!(agent.asked(), r#"{"apiVersion":"ckpt-db.io/v1alpha1","get":"status"}"#);
    code
}

#[test]
fn status_at_night() {
    let mut scene = Scene::empty();
    for options in ["", " -o wide", " -o json", " -o yaml"] {
        assert_eq!(status(&mut scene, &format!("{STATUS}{options}"), &at_night()), 1);
    }
    scene.expect("status_at_night");
}

#[test]
fn status_when_all_is_well() {
    let mut well = at_night();
    well["apiServer"] =
        json!({"state": "Answering", "sinceUnixS": 1_795_149_286, "forS": 86_400, "lastAnswerUnixS": 1_795_235_686});
    well["pods"] = json!([
        pod("shop", "web", "Inactive", None, "Yes", json!({"verdict": ["Recoverable"]})),
        pod("shop", "cart", "Inactive", None, "Held", json!({"verdict": ["Recoverable"]})),
    ]);
    well["nextDeadline"] = Value::Null;
    let mut scene = Scene::empty();
    assert_eq!(status(&mut scene, STATUS, &well), 0);
    assert_eq!(status(&mut scene, &format!("{STATUS} -o wide"), &well), 0);
    scene.expect("status_when_all_is_well");
}

/// Everything that can be wrong with the node itself, and a node that is new.
#[test]
fn status_of_a_node_in_trouble() {
    let mut scene = Scene::empty();
    let mut sick = at_night();
    sick["clockIsSet"] = false.into();
    sick["policy"] = "off".into();
    sick["store"]["readOnly"] = true.into();
    sick["store"]["lock"] = "Locked".into();
    sick["store"]["findings"] = 2.into();
    sick["runtime"] = json!({"known": false, "reason": "connect to /run/containerd/containerd.sock: no such file"});
    sick["kubelet"] = json!({"state": "NotRunning"});
    sick["pods"] = json!([]);
    sick["alarms"] = json!([
        {"code": "ParentRejected", "pod": "shop/web", "message": "the kubelet rejected it (OutOfcpu); delete it"},
        {"code": "A", "message": "a"}, {"code": "B", "message": "b"}, {"code": "C", "message": "c"},
    ]);
    assert_eq!(status(&mut scene, STATUS, &sick), 1);

    sick["store"]["problem"] = "it belongs to node edge-0, this is edge-1; 'ckpt-db adopt' makes it this node's".into();
    sick["apiServer"]["state"] = "Refusing".into();
    sick["apiServer"]["cause"] = "401 Unauthorized".into();
    sick["kubelet"] = json!({"state": "Unknown", "reason": "/proc can't be read"});
    assert_eq!(status(&mut scene, STATUS, &sick), 1);

    let mut new = at_night();
    new["node"] = "".into();
    new["pods"] = json!([]);
    new["store"] = json!({"path": "/s", "lock": "Keyless"});
    new["apiServer"]["cause"] = "there are no credentials yet".into();
    assert_eq!(status(&mut scene, STATUS, &new), 0);
    scene.expect("status_in_trouble");
}

/// Names and reasons come from objects and from other machines.
#[test]
fn status_escapes_what_a_terminal_acts_on() {
    let mut hostile = at_night();
    let bad = "x\u{1b}]0;owned\u{7}\n\u{202e}y";
    for pointer in ["/apiServer/cause", "/node", "/pods/2/why", "/pods/2/todo", "/nextDeadline/what"] {
        *hostile.pointer_mut(pointer).unwrap() = bad.into();
    }
    hostile["alarms"] = json!([{"code": bad, "pod": bad, "message": bad}]);
    let mut scene = Scene::empty();
    for options in ["", " -o wide", " -o json", " -o yaml"] {
        let agent = FakeAgent::says(&scene, &json!({"ok": hostile}));
        let answer = scene.answer(&format!("{STATUS}{options}"));
        agent.asked();
        assert_eq!(answer.code, 1);
        assert!(answer.stdout.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{}", answer.stdout);
        if options.is_empty() {
            scene.record(STATUS, &answer);
        }
    }
    scene.expect("status_hostile");
}

/// Nobody there, somebody else there, an agent that can't or won't.
#[test]
fn status_without_an_answer() {
    let mut scene = Scene::empty();
    assert_eq!(scene.run(STATUS).code, 2);
    assert_eq!(scene.run("status --admin-socket elsewhere.sock").code, 2);
    for answer in [
        &b"{\"error\":\"the agent is too busy to answer; try again\"}\n"[..],
        b"",
        b"220 mail ESMTP\n",
        b"{\"ok\":{\"version\":\"9.0.0\"}}\n",
    ] {
        let agent = FakeAgent::start(&scene, vec![answer.to_vec()]);
        assert_eq!(scene.run(STATUS).code, 2);
        agent.asked();
    }
    scene.expect("status_without_an_answer");
}

/// It is asked again until the agent ends, and that is no error.
#[test]
fn status_watched() {
    let mut scene = Scene::empty();
    let mut later = at_night();
    later["pods"] = json!([]);
    later["nextDeadline"] = Value::Null;
    let agent = FakeAgent::start(&scene, [at_night(), later].map(|status| line(&json!({"ok": status}))).into());
    assert_eq!(scene.run(&format!("{STATUS} --watch=1")).code, 0);
    assert_eq!(agent.asked(), agent.asked());
    scene.run(&format!("{STATUS} --watch=0"));
    scene.expect("status_watched");
}

#[test]
fn hold_and_release() {
    let mut scene = Scene::empty();
    for (arguments, answer, request) in [
        ("hold shop/web", json!({"ok": "shop/web is held; its copy stops now"}), r#""hold":"shop/web""#),
        ("hold -n shop web", json!({"ok": "shop/web is held already"}), r#""hold":"shop/web""#),
        ("hold shop/nobody", json!({"error": "no pod shop/nobody is stored"}), r#""hold":"shop/nobody""#),
        ("release shop/web", json!({"ok": "shop/web is released; its copy starts in 12 s"}), r#""release":"shop/web""#),
    ] {
        let agent = FakeAgent::says(&scene, &answer);
        scene.run(&format!("{arguments} --root node"));
        assert_eq!(agent.asked(), format!(r#"{{"apiVersion":"ckpt-db.io/v1alpha1",{request}}}"#));
    }
    for arguments in ["hold web", "hold -n shop shop/web", "release shop/", "release a/b/c", "hold"] {
        scene.run(arguments);
    }
    scene.expect("hold_and_release");
}

/// While an agent has the store open, commands that read it ask for an image, and answer as they do without.
#[test]
fn reading_while_the_agent_runs() {
    let mut scene = Scene::seeded();
    let commands =
        ["dump", "dump -n shop --kind secret web-tls -o yaml --reveal", "plan", "verify", "log", "render --out out"];
    let with = |command: &str| format!("{command} --root node --node-key key.pem");
    let alone = commands.map(|command| scene.answer(&with(command)).stdout);

    let key = ckpt_db::keys::load(&scene.path("key.pem")).unwrap();
    let store = RedbStore::open(&scene.path(STORE), &[&key.secret.into()], Box::new(SystemEntropy)).unwrap();
    let bytes = store.image().unwrap();
    let image = |path: &str| {
        let mut answer = line(&json!({"ok": {"path": path, "length": bytes.len()}}));
        answer.extend_from_slice(&bytes);
        answer
    };
    let right = scene.path(STORE);
    for (command, alone) in commands.iter().zip(alone) {
        let agent = FakeAgent::start(&scene, vec![image(right.to_str().unwrap())]);
        let answer = scene.answer(&with(command));
        assert_eq!(answer.stdout, alone, "{command}: {}", answer.stderr);
        assert_eq!(agent.asked(), r#"{"apiVersion":"ckpt-db.io/v1alpha1","get":"image"}"#);
    }
    // Without anybody to ask, with another's agent, and with one that can't.
    scene.run(&with("verify"));
    let answers =
        [image("/var/lib/other.db"), line(&json!({"error": "this store lives in memory"})), image("/")[..900].to_vec()];
    for answer in answers {
        let agent = FakeAgent::start(&scene, vec![answer]);
        scene.run(&with("verify"));
        agent.asked();
    }
    drop(store);
    scene.expect("reading_while_the_agent_runs");
}
