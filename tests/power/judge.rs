//! Looks at what a power cut left of the node's files and says what must not be so.
//!
//! The store holds one step of the source, whole, and no earlier one than was acknowledged. Each rendered file is the one of
//! a step, whole; none is of a later step than the store, as nothing may be rendered before it is durable, nor of an earlier
//! one than was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::store::{LockState, StoreError, open_offline};
use store_format::Unlocker;

use crate::steps;

pub(crate) const STORE: &str = "var/lib/ckpt-db/checkpoint-store.db";
const KUBERNETES: &str = "etc/kubernetes";

/// What the machine had said by the time of the cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// The last step that was acknowledged: stored, and rendered. 0: none.
    pub(crate) acknowledged: u64,
    /// The last step that the source had come to.
    pub(crate) begun: u64,
    /// The step that is known to be in the store, whatever was acknowledged: it was found there at the machine's start.
    pub(crate) stored: u64,
}

/// What is wrong with the files below `root`, and the step that the store holds; 0 is an empty store, or none.
pub(crate) fn judge(root: &Path, told: Told, key: &Unlocker) -> (u64, Vec<String>) {
    let mut wrong = Vec::new();
    let stored = stored(&root.join(STORE), key).unwrap_or_else(|problem| {
        wrong.push(problem);
        0
    });
    let least = told.acknowledged.max(told.stored);
    if !(least..=told.begun).contains(&stored) {
        wrong.push(format!("the store holds step {stored}: {told:?}"));
    }
    let fine = told.acknowledged..=stored;
    manifests(root, &fine, &mut wrong);
    trees(root, &fine, &mut wrong);
    let secrets = root.join(KUBERNETES).join("checkpoint-secrets");
    if fs::read_dir(secrets).is_ok_and(|mut entries| entries.next().is_some()) {
        wrong.push("there are Secrets on the disk".to_owned());
    }
    (stored, wrong)
}

/// The step that the store holds, if it is sound and holds one step and nothing else.
pub(crate) fn stored(path: &Path, key: &Unlocker) -> Result<u64, String> {
    let snapshot = match open_offline(path, &[key]) {
        Ok(snapshot) => snapshot.into_inner(),
        Err(StoreError::NotFound(_)) => return Ok(0),
        Err(error) => return Err(format!("the store can't be opened: {error}: {error:?}")),
    };
    let findings: Vec<String> = snapshot.findings().iter().map(ToString::to_string).collect();
    if !findings.is_empty() {
        return Err(format!("verify finds: {}", findings.join("; ")));
    }
    let mut found = BTreeMap::new();
    for object in Kind::ALL.into_iter().flat_map(|kind| snapshot.all(kind)) {
        let body: Value = serde_json::from_slice(object.body.expose()).map_err(|error| error.to_string())?;
        found.insert((object.key.kind().row().name, object.key.name().to_owned()), body);
    }
    if found.is_empty() {
        return Ok(0);
    }
    if snapshot.lock_state() != LockState::Open {
        return Err("the node key does not open the store".to_owned());
    }
    let sequence = found.get(&("ConfigMap", "sequence".to_owned()));
    let step = sequence.and_then(|object| object["data"]["step"].as_str()?.parse().ok());
    let step: u64 = step.ok_or("ConfigMap sequence is not there, and other objects are")?;
    let want = steps::objects(step);
    let names: BTreeSet<_> = found.keys().chain(want.keys()).collect();
    let differs = |name: &&&(&str, String)| !same(found.get(**name), want.get(**name));
    let different: Vec<String> = names.iter().filter(differs).map(|(kind, name)| format!("{kind}/{name}")).collect();
    if different.is_empty() {
        Ok(step)
    } else {
        Err(format!("the store holds step {step} of some objects and not of {}", different.join(", ")))
    }
}

/// Whether an object is as the source had it. What the store leaves out of a pod (its status) is not asked for.
fn same(found: Option<&Value>, want: Option<&Value>) -> bool {
    let said = |object: &Value| (object["metadata"]["uid"].clone(), object["spec"].clone(), object["data"].clone());
    found.map(said) == want.map(said)
}

/// Manifests are whole, of a step that may be there, and where a pod must or must not have one, that is so.
fn manifests(root: &Path, fine: &std::ops::RangeInclusive<u64>, wrong: &mut Vec<String>) {
    let mut present = BTreeSet::new();
    for directory in ["manifests", "inactive-manifests"] {
        let Ok(entries) = fs::read_dir(root.join(KUBERNETES).join(directory)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // The kubelet passes over such names.
            if name.starts_with('.') {
                continue;
            }
            match fs::read(&path).ok().as_deref().and_then(manifest_step) {
                Some((pod, step)) if name == format!("default_{pod}.json") => {
                    present.insert(pod.clone());
                    let meant = pod == "writer" || steps::has_guest(step);
                    if !fine.contains(&step) || !meant {
                        wrong.push(format!("{directory}/{name} is of step {step}, not of {fine:?}"));
                    }
                    let tree = if pod == "writer" { "writer/sequence" } else { "guest/guest" };
                    if !root.join(KUBERNETES).join("checkpoint-configmaps/default").join(tree).join("..data").exists() {
                        wrong.push(format!("{directory}/{name} mounts a tree that is not there"));
                    }
                }
                Some(_) | None => wrong.push(format!("{directory}/{name} is not whole")),
            }
        }
    }
    let must = |pod: &str| fine.clone().all(|step| step > 0 && (pod == "writer" || steps::has_guest(step)));
    let may = |pod: &str| fine.clone().any(|step| step > 0 && (pod == "writer" || steps::has_guest(step)));
    for pod in ["writer", "guest"] {
        let is = present.contains(pod);
        if is && !may(pod) || !is && must(pod) {
            wrong.push(format!("pod {pod} has {} manifest at {fine:?}", if is { "a" } else { "no" }));
        }
    }
}

/// The pod of a manifest and the step that it is of, if all of it is of one step.
fn manifest_step(bytes: &[u8]) -> Option<(String, u64)> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    let name = manifest["metadata"]["name"].as_str()?;
    let container = &manifest["spec"]["containers"][0];
    let step = container["args"][0].as_str()?;
    let volumes = manifest["spec"]["volumes"].as_array()?.len();
    let whole = match name {
        "writer" => container["env"][0]["value"].as_str() == Some(step) && volumes == 3,
        "guest" => volumes == 1,
        _ => false,
    };
    whole.then_some((name.to_owned(), step.parse().ok()?))
}

/// Each tree that a container could see is of one step that may be there.
fn trees(root: &Path, fine: &std::ops::RangeInclusive<u64>, wrong: &mut Vec<String>) {
    let top = root.join(KUBERNETES).join("checkpoint-configmaps/default");
    let slots = |step: u64| {
        let slots = (0..4).map(|slot| (format!("slot-{slot}"), steps::in_slot(step, slot)));
        slots.collect::<BTreeMap<_, _>>()
    };
    type Files = BTreeMap<String, String>;
    let rows: [(&str, &dyn Fn(u64) -> Files); 3] = [
        ("writer/sequence", &steps::sequence),
        ("writer/kubernetes.io~projected/slots", &slots),
        ("guest/guest", &|step| [("guest".to_owned(), format!("{step}\n"))].into()),
    ];
    for (name, files_of) in rows {
        let tree = top.join(name);
        if fs::symlink_metadata(tree.join("..data")).is_err() {
            // Nobody is shown a tree before it has this link.
            continue;
        }
        let files = match visible(&tree) {
            Ok(files) => files,
            Err(problem) => {
                wrong.push(format!("tree {name}: {problem}"));
                continue;
            }
        };
        // The second pod's tree stays for a while after the pod is gone.
        let least = if name.starts_with("guest") { 1 } else { *fine.start() };
        if !(least..=*fine.end()).any(|step| files == files_of(step)) {
            wrong.push(format!("tree {name} is of no step of {least}..={}", fine.end()));
        }
    }
}

/// The files of a tree as a container sees them, by way of its links.
fn visible(tree: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(tree.join("..data")).map_err(|error| format!("..data: {error}"))? {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let link = fs::read_link(tree.join(&name)).map_err(|error| format!("{name}: {error}"))?;
        if link != Path::new("..data").join(&name) {
            return Err(format!("{name} leads to {}", link.display()));
        }
        files.insert(name.clone(), fs::read_to_string(tree.join(&name)).map_err(|error| format!("{name}: {error}"))?);
    }
    Ok(files)
}
