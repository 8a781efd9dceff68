//! From a stored pod to a static pod that a current kubelet takes: the main path, and what its steps share.
//!
//! A kubelet of 1.34 or later refuses to parse a static pod that references any API object
//! (`pkg/api/pod/util.go`, `HasAPIObjectReference`), so everything that the pod names is resolved here or refused here.
//! Each step is one file; the table that they follow is in the design documentation ("From a stored pod to a static pod").

mod budget;
mod containers;
mod downward;
mod env;
mod env_file;
mod expansion;
mod files;
mod manifest;
mod metadata;
mod ports;
mod projected;
mod quantity;
mod resources;
mod services;
mod spec;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use self::budget::Budget;
use self::env_file::SecretValues;
pub(crate) use self::ports::host_ports;
pub use self::ports::{HostPort, Protocol};
pub(crate) use self::volumes::writes_shared_storage;
use super::data::{self, Data};
use super::env_file::NoEnvFile;
use super::json::{ClearTree, object};
use super::lookup::{Lookup, Objects, Reader};
use super::object::{Kind, Object, ObjectKey};
use super::pod::ParentPod;
use super::rendering::{Manifest, PodName, Rendering, Tree, TreeRoot};
use super::settings::Settings;
use super::verdict::{Note, Reason};

/// A pod that could be translated.
#[derive(Clone)]
pub struct Translation {
    /// The manifest and the trees that it mounts.
    pub rendering: Rendering,
    /// What its operator should know, sorted.
    pub notes: Vec<Note>,
}

/// Makes a static pod of `pod`, whatever its state: whether it is *meant* to come back is another question
/// ([`super::examine::examine`]).
///
/// The same arguments give the same bytes, and translating the translation changes nothing.
///
/// # Errors
/// Every [`Reason`] that was found, not only the first, up to 32 of them; never empty. Nothing is rendered half.
pub fn translate(
    pod: &Object,
    objects: &dyn Objects,
    services: &[Object],
    settings: &Settings,
) -> Result<Translation, Vec<Reason>> {
    let pod = ParentPod::parse(pod).map_err(|error| vec![Reason::Malformed(error.problem.to_string())])?;
    translate_parsed(&pod, objects, services, settings, 0)
}

pub(crate) fn translate_parsed(
    pod: &ParentPod,
    objects: &dyn Objects,
    services: &[Object],
    settings: &Settings,
    republished: u32,
) -> Result<Translation, Vec<Reason>> {
    let mut secret_values = SecretValues::wanted(pod, settings);
    loop {
        let parent = Parent { pod, objects, services, settings, republished, secret_values: &secret_values };
        match attempt(&parent) {
            Ok(done) => return done,
            // Once, as no other way of carrying the values fails like that.
            Err(why) => secret_values = SecretValues::without_env_file(pod, settings, why),
        }
    }
}

/// # Errors
/// Why the values of Secrets can't go through an env file, where they were to.
fn attempt(parent: &Parent<'_>) -> Result<Result<Translation, Vec<Reason>>, NoEnvFile> {
    let Parent { pod, settings, .. } = *parent;
    let mut findings = Findings::default();

    // `<name>-<node>` is the copy's name, and the API server takes no longer one; no file system takes a longer file name
    // than 255 bytes.
    let copy_name = pod.key.name().len() + 1 + settings.node_name.len();
    let name = PodName { namespace: pod.key.namespace().to_owned(), name: pod.key.name().to_owned() };
    // The kubelet's log directory, `<namespace>_<copy>_<uid>`; a static pod's UID has 32 characters.
    let log_directory = pod.key.namespace().len() + 1 + copy_name + 1 + 32;
    if copy_name > 253 || Manifest::file_name(&name).len() > 255 || log_directory > 255 {
        findings.refuse(Reason::NameTooLong);
    }
    let mut spec = ClearTree(pod.spec().clone());
    spec::translate(parent, &mut findings, &mut spec.0);
    let rendered = volumes::translate(parent, &mut findings, &mut spec.0);
    containers::translate(parent, &mut findings, &mut spec.0, &rendered);
    env_file::add(parent, &mut findings, &mut spec.0)?;
    let metadata = metadata::translate(parent, &mut findings);
    if findings.carries_secret {
        let no_env_file = match parent.secret_values {
            SecretValues::Literal(why) => why.clone(),
            SecretValues::EnvFile(_) | SecretValues::Refused(_) => None,
        };
        findings.note(Note::ClearEnv { no_env_file });
    }
    if !findings.reasons.is_empty() {
        return Ok(Err(findings.reasons));
    }

    // Moved, not serialised again: no second copy of the values is left behind.
    let tree = ClearTree(object([
        ("apiVersion", "v1".into()),
        ("kind", "Pod".into()),
        ("metadata", metadata),
        ("spec", std::mem::take(&mut spec.0)),
    ]));
    let json = manifest::bytes(tree);
    if json.len() > budget::MANIFEST_MAX_BYTES && findings.is_too_much(Budget::manifest) {
        return Ok(Err(findings.reasons));
    }
    let rendering = Rendering {
        pod: PodName { namespace: pod.key.namespace().to_owned(), name: pod.key.name().to_owned() },
        uid: pod.uid.clone(),
        manifest: Manifest { json, carries_secret: findings.carries_secret },
        trees: findings.trees.into_values().collect(),
    };
    Ok(Ok(Translation { rendering, notes: findings.notes.into_iter().collect() }))
}

/// What is translated: the arguments, shared by all steps.
#[derive(Clone, Copy)]
struct Parent<'a> {
    pod: &'a ParentPod,
    objects: &'a dyn Objects,
    services: &'a [Object],
    settings: &'a Settings,
    republished: u32,
    secret_values: &'a SecretValues,
}

/// The answer to a reference.
enum Fetched<T> {
    /// What is asked of the object.
    Found(T),
    /// It is optional, and it does not exist.
    LeftOut,
    /// The pod can't come back; the reason is in the findings.
    Refused,
}

impl Parent<'_> {
    /// Whether the kubelet is of this version or later; an unknown one counts as the newest.
    fn kubelet_since(&self, major: u32, minor: u32) -> bool {
        self.settings.kubelet_version.is_none_or(|version| (version.major, version.minor) >= (major, minor))
    }

    /// The key of an object that `field` names; an impossible name is a finding.
    fn key(&self, findings: &mut Findings, kind: Kind, name: &str, field: &str) -> Option<ObjectKey> {
        match ObjectKey::new(kind, self.pod.key.namespace(), name) {
            Ok(key) => Some(key),
            Err(problem) => {
                findings.refuse(Reason::Malformed(format!("{field}: {problem}")));
                None
            }
        }
    }

    /// The data keys of a named object, and how long their values are; whatever stands in the way is a finding. Who writes the files opens it again.
    fn fetch_keys(
        &self,
        findings: &mut Findings,
        key: &ObjectKey,
        optional: bool,
        field: &str,
    ) -> Fetched<BTreeMap<String, usize>> {
        self.fetch_with(findings, key, optional, field, |object| {
            Ok(data::data(object)?.into_iter().map(|(key, value)| (key, value.len())).collect())
        })
    }

    /// The data that environment variables can come from: `binaryData` is none of it.
    fn fetch_env(&self, findings: &mut Findings, key: &ObjectKey, optional: bool, field: &str) -> Fetched<Data> {
        self.fetch_with(findings, key, optional, field, data::env_data)
    }

    fn fetch_with<T>(
        &self,
        findings: &mut Findings,
        key: &ObjectKey,
        optional: bool,
        field: &str,
        read: fn(&Object) -> Result<T, data::DataError>,
    ) -> Fetched<T> {
        if findings.budget.is_spent() {
            return Fetched::Refused;
        }
        let reason = match Reader::new(self.objects).open(key) {
            Lookup::Found(opened) if findings.is_too_much(|budget| budget.read(opened.object().body.len())) => {
                return Fetched::Refused;
            }
            Lookup::Found(opened) => match read(opened.object()) {
                Ok(found) => return Fetched::Found(found),
                Err(problem) => Reason::BadData { object: key.clone(), problem: problem.to_string() },
            },
            Lookup::Missing if optional => return Fetched::LeftOut,
            Lookup::Missing => Reason::MissingObject { object: key.clone(), field: field.to_owned() },
            // Optional or not, as the kubelet sees it: only an object that does not exist may be left out.
            Lookup::Forbidden => Reason::Forbidden { object: key.clone(), field: field.to_owned() },
            // An optional object that exists is needed: the parent ran with it.
            Lookup::Sealed => Reason::Sealed(key.clone()),
            Lookup::NoKeyYet => Reason::NoKeyYet(key.clone()),
            Lookup::Damaged => Reason::Damaged(key.clone()),
        };
        findings.refuse(reason);
        Fetched::Refused
    }

    /// Publishes a tree and returns the volume that mounts it.
    fn mount(&self, findings: &mut Findings, volume: &str, tree: Tree) -> Value {
        let root = match tree.root {
            TreeRoot::Secrets => &self.settings.secret_root,
            TreeRoot::ConfigMaps => &self.settings.configmap_root,
        };
        let mut path = root.trim_end_matches('/').to_owned();
        for part in
            [self.pod.key.namespace(), self.pod.key.name()].into_iter().chain(tree.path.iter().map(String::as_str))
        {
            path.push('/');
            path.push_str(part);
        }
        // Two volumes of one plain Secret share its tree: the files are the same.
        findings.trees.insert((tree.root, tree.path.clone()), tree);
        json!({ "name": volume, "hostPath": { "path": path, "type": "Directory" } })
    }
}

/// Reasons that are kept of one pod: enough to act on, and no page of the log for whoever can make pods.
const REASONS_MAX: usize = 32;
/// Notes that are kept of one pod, of those of which there may be any number.
const NOTES_MAX: usize = 64;

/// What the steps found out. Reasons keep the order of discovery; notes and trees are sorted.
#[derive(Default)]
struct Findings {
    reasons: Vec<Reason>,
    notes: BTreeSet<Note>,
    trees: BTreeMap<(TreeRoot, Vec<String>), Tree>,
    carries_secret: bool,
    budget: Budget,
    env_values: env_file::Values,
}

impl Findings {
    fn refuse(&mut self, reason: Reason) {
        // Whether all of it is ignorance decides about a copy that runs, and must not depend on how many there are.
        let tells = !reason.is_ignorance() && self.reasons.iter().all(Reason::is_ignorance);
        if (self.reasons.len() < REASONS_MAX || tells) && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Uses some of the budget; true if that is more than there is, which is a finding then.
    fn is_too_much(&mut self, using: impl FnOnce(&mut Budget) -> Option<Reason>) -> bool {
        if let Some(reason) = using(&mut self.budget) {
            self.refuse(reason);
        }
        self.budget.is_spent()
    }

    fn note(&mut self, note: Note) {
        let one_of_many =
            matches!(note, Note::UnknownFieldKept { .. } | Note::VariableDropped { .. } | Note::TokenOmitted { .. });
        if !one_of_many || self.notes.len() < NOTES_MAX {
            self.notes.insert(note);
        }
    }
}
