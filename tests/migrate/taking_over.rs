//! An active checkpoint of the pod-checkpointer from the import to the hand-over: the file that its copy was started from
//! stays the same file, whoever looks, until the copy is to go.

use std::fs;
use std::path::{Path, PathBuf};

use ckpt_db::agent::{Keeper, Keeping, Sights, Target};
use ckpt_db::checkpoint::decide::PodNetwork;
use ckpt_db::checkpoint::images::NodeImages;
use ckpt_db::checkpoint::lifecycle::Rules;
use ckpt_db::checkpoint::look::{Answers, ApiServer, Boot, Container, ContainerState, Kubelet, Look, Runtime, Sandbox};
use ckpt_db::checkpoint::named_parent;
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::rendering::PodName;
use ckpt_db::checkpoint::settings::Settings;
use ckpt_db::clear::Clear;
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::materialize::{Owners, Roots, SecretRootPolicy};
use ckpt_db::node::boot::Source;
use ckpt_db::store::{Backend as _, Change, Missing, RedbStore};
use serde_json::{Value, json};
use store_format::Unlocker;

use crate::common::program::{CONFIGMAPS, KEY, MANIFESTS, PREPARED, SECRETS, STORE, listing, stamp};
use crate::manifest_checker;
use crate::predecessor::{Predecessor, SYSTEM, apiserver, file_name, plain};

const UID: &str = "11111111-0000-4000-8000-000000000001";
const SCHEDULER: &str = "11111111-0000-4000-8000-000000000002";

/// The node after the import, with an agent in it that is told what to see.
struct Agent<'a> {
    left: &'a Predecessor,
    store: RedbStore,
    keeper: Keeper,
    look: Look,
}

impl<'a> Agent<'a> {
    /// It runs on: the copy of the API server lives, and nobody answers.
    fn start(left: &'a Predecessor) -> Self {
        let unlocker = unlocker(&left.node.at(KEY));
        let store = RedbStore::open(&left.node.at(STORE), &[&unlocker], Box::new(SystemEntropy)).unwrap();
        let root = left.node.root();
        let roots = Roots {
            manifests: root.join(MANIFESTS),
            prepared: root.join(PREPARED),
            secrets: root.join(SECRETS),
            configmaps: root.join(CONFIGMAPS),
        };
        let settings = Settings {
            secret_root: roots.secrets.to_str().unwrap().to_owned(),
            configmap_root: roots.configmaps.to_str().unwrap().to_owned(),
            ..Settings::default()
        };
        let keeping = Keeping {
            settings,
            acts: true,
            own_name: None,
            target: Target {
                roots: roots.clone(),
                secret_root: SecretRootPolicy::AllowDisk,
                owners: Owners::Unchanged,
            },
            rules: Rules::default(),
            network: Box::new(|| PodNetwork::Yes),
            sights: Sights {
                root: root.clone(),
                manifests: roots.manifests,
                cri_socket: None,
                boot: Source::File(root.join("no-boot-id")),
            },
        };
        let api = ApiServer::silent();
        let look = Look {
            now_ms: 1_000_000,
            api,
            // The scheduler runs as it should.
            runtime: Fact::Known(Runtime {
                sandboxes: vec![their_copy("kube-apiserver"), parent("kube-scheduler", SCHEDULER)],
            }),
            kubelet: Fact::Known(Kubelet::Running { since_ms: 5_000 }),
            boot: Fact::Known(Boot::Same),
            manifests: Fact::Unknown(String::new()),
        };
        Self { left, store, keeper: Keeper::new(keeping, None), look }
    }

    /// One pass, so many seconds later, whose decisions are recorded; the pods whose copies are active then.
    fn pass(&mut self, later_s: u64) -> Vec<String> {
        self.look.now_ms += later_s * 1000;
        let snapshot = self.store.snapshot().unwrap();
        let now_s = 1_800_000_000 + self.look.now_ms / 1000;
        let kept = self.keeper.pass(&snapshot, self.look.clone(), &NodeImages::unknown(), now_s).unwrap();
        // None where there was nothing to do.
        let report = kept.report.unwrap_or_default();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(report.outcomes.iter().all(|(_, outcome)| !outcome.is_failure()), "{:?}", report.outcomes);
        let _ = self.store.update(kept.changes, now_s * 1000).unwrap();
        let active = kept.standings.iter().filter(|standing| standing.state.is_active());
        active.map(|standing| standing.pod.name.clone()).collect()
    }

    /// The API server answers, and names these pods.
    fn answers(&mut self, pods: &[(&str, &str, Value)]) {
        let objects = pods.iter().map(|(name, uid, body)| object(name, uid, body)).collect();
        let listing = Change::Reset { objects, kinds: vec![Kind::Pod], missing: Missing::Report };
        let _ = self.store.update(vec![listing], 0).unwrap();
        self.look.api.reach = Answers::Answering;
        self.look.api.since_ms = self.look.now_ms;
        self.look.api.in_step = true;
        self.look.api.sighted = pods.iter().map(|(pod, uid, _)| (name(pod), (*uid).to_owned())).collect();
    }

    fn sandboxes(&mut self) -> &mut Vec<Sandbox> {
        match &mut self.look.runtime {
            Fact::Known(runtime) => &mut runtime.sandboxes,
            Fact::Unknown(why) => panic!("{why}"),
        }
    }

    fn manifest(&self) -> PathBuf {
        self.left.node.at(MANIFESTS).join("kube-system-kube-apiserver.json")
    }
}

pub(crate) fn unlocker(path: &Path) -> Unlocker {
    Unlocker::NodeKey(ckpt_db::keys::load(path).unwrap().secret)
}

fn name(pod: &str) -> PodName {
    PodName { namespace: SYSTEM.to_owned(), name: pod.to_owned() }
}

fn sandbox(pod: &str, uid: &str, parent_uid: Option<String>) -> Sandbox {
    let container = Container {
        id: format!("c-{uid}"),
        name: "kube-apiserver".to_owned(),
        state: ContainerState::Running,
        attempt: 0,
    };
    Sandbox {
        id: format!("s-{uid}"),
        pod: name(pod),
        uid: uid.to_owned(),
        ready: true,
        parent_uid,
        created_at_unix_ns: 0,
        containers: vec![container],
    }
}

fn parent(pod: &str, uid: &str) -> Sandbox {
    sandbox(pod, uid, None)
}

/// A static pod of theirs as the runtime has it: its annotation names its parent.
fn their_copy(pod: &str) -> Sandbox {
    sandbox(&format!("{pod}-edge-1"), &format!("static-{pod}"), Some(named_parent(SYSTEM, pod)))
}

fn object(name: &str, uid: &str, body: &Value) -> Object {
    let body = Clear::from(body.to_string());
    let key = ObjectKey::new(Kind::Pod, SYSTEM, name).unwrap();
    Object { key, uid: uid.to_owned(), resource_version: "7".to_owned(), body }
}

/// The parent as the API server has it: its volumes are what they are there.
fn truth(uid: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "kube-apiserver", "namespace": SYSTEM, "uid": uid,
            "annotations": {"checkpointer.alpha.coreos.com/checkpoint": "true"}},
        "spec": {
            "nodeName": "edge-1", "hostNetwork": true, "restartPolicy": "Always",
            "containers": [{"name": "kube-apiserver", "image": "registry.example/kube-apiserver:2",
                "volumeMounts": [{"name": "secrets", "mountPath": "/etc/secrets"}]}],
            "volumes": [{"name": "secrets", "secret": {"secretName": "kube-apiserver", "items": [{"key": "apiserver.key", "path": "k"}]}}],
        },
        "status": {"phase": "Running"},
    })
}

#[test]
fn a_copy_that_runs_is_never_restarted() {
    let left = Predecessor::usual();
    let file = left.node.at(MANIFESTS).join("kube-system-kube-apiserver.json");
    let mounted = left.node.at(SECRETS).join("kube-system/kube-apiserver/kube-apiserver");
    let (before, inode) = (stamp(&file), stamp(&mounted).0);
    // A container holds the directory, not its path.
    let held = fs::File::open(&mounted).unwrap();
    left.import(&[]).expect(0);
    let mut agent = Agent::start(&left);
    for later_s in [0, 1, 30, 600, 7200] {
        assert_eq!(agent.pass(later_s), ["kube-apiserver"]);
        assert_eq!(stamp(&file), before, "the kubelet would restart it");
        assert_eq!(stamp(&mounted).0, inode, "whoever has it mounted would see nothing new");
        assert_eq!(fs::read(mounted.join("apiserver.key")).unwrap(), b"the key");
    }
    assert_eq!(fs::read_dir(left.node.at(MANIFESTS)).unwrap().count(), 1, "a second manifest of one pod");

    // Without a runtime that answers it is as little.
    agent.look.runtime = Fact::Unknown("?".to_owned());
    assert_eq!(agent.pass(60), ["kube-apiserver"]);
    assert_eq!(stamp(&file), before);
    drop(held);
}

/// With the UID that the owner reference named, with another, and with none: the first listing is the truth, and the copy goes
/// when the parent has come, not before.
#[test]
fn the_first_listing_is_the_truth_and_the_parent_takes_over() {
    for (known, uid) in [(true, UID), (true, "22222222-0000-4000-8000-000000000002"), (false, UID)] {
        let left = Predecessor::usual();
        if !known {
            let mut copy = apiserver();
            copy["metadata"].as_object_mut().unwrap().remove("ownerReferences");
            left.active(&copy);
            left.inactive(&copy);
        }
        left.import(&[]).expect(0);
        let mut agent = Agent::start(&left);
        assert_eq!(agent.pass(0), ["kube-apiserver"]);
        let before = stamp(&agent.manifest());

        agent.answers(&[("kube-apiserver", uid, truth(uid))]);
        for later_s in [0, 5, 40] {
            assert_eq!(agent.pass(later_s), ["kube-apiserver"], "{uid}: nobody has seen the parent yet");
            assert_eq!(stamp(&agent.manifest()), before, "{uid}");
        }
        agent.sandboxes().push(parent("kube-apiserver", uid));
        assert_eq!(agent.pass(1), [""; 0], "{uid}: the parent is there");
        assert!(!agent.manifest().exists(), "{uid}: the copy goes on");
        // What is prepared for the next outage is ours, made of the truth, and such as kubelets take.
        let prepared = fs::read(left.node.at(PREPARED).join("kube-system_kube-apiserver.json")).unwrap();
        assert_eq!(manifest_checker::refusals(&prepared), [""; 0]);
        let prepared: Value = serde_json::from_slice(&prepared).unwrap();
        assert_eq!(prepared["metadata"]["annotations"]["ckpt-db.io/parent-uid"], uid);
        assert_eq!(prepared["spec"]["containers"][0]["image"], "registry.example/kube-apiserver:2");
        let leftovers: Vec<_> = listing(&left.node.at(PREPARED))
            .into_keys()
            .filter(|name| name.to_str().unwrap().starts_with(".ckpt-db"))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
}

/// A new boot: nothing of it runs, so the manifests are ours from now on, such as current kubelets take.
#[test]
fn after_a_power_cut_our_own_manifests_are_started() {
    let left = Predecessor::usual();
    left.import(&[]).expect(0);
    left.node.ran("run", &["--once"]).expect(0);
    let mut names: Vec<String> = fs::read_dir(left.node.at(MANIFESTS))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["kube-system_kube-apiserver.json", "kube-system_kube-scheduler.json"]);
    for name in names {
        let json = fs::read(left.node.at(MANIFESTS).join(&name)).unwrap();
        assert_eq!(manifest_checker::refusals(&json), [""; 0], "{name}");
    }
    let key = left.node.at(SECRETS).join("kube-system/kube-apiserver/kube-apiserver/apiserver.key");
    assert_eq!(fs::read(key).unwrap(), b"the key");
}

/// The operator's word goes for it as for any other copy.
#[test]
fn an_adopted_copy_is_held_and_uninstalled_as_any_other() {
    for command in [&["hold", "kube-system/kube-apiserver"][..], &["uninstall", "--no-wait"]] {
        let left = Predecessor::usual();
        let other = left.manifest(MANIFESTS, "kube-system-other.json", plain("other").to_string().as_bytes());
        left.import(&[]).expect(0);
        let stolen = plain("other");
        assert_eq!(file_name(&stolen), "kube-system-other.json");
        // Somebody writes another file of the name that was taken over: it is theirs.
        fs::write(&other, stolen.to_string().replace(":1", ":2")).unwrap();
        let _ = left.node.ran(command[0], &command[1..]);
        assert!(!left.node.at(MANIFESTS).join("kube-system-kube-apiserver.json").exists(), "{command:?}");
        assert!(other.exists(), "{command:?}");
    }
}
