//! What the file-based pod-checkpointer left on a node: its manifests and the values beside them, read and made into the
//! objects that they were made of. Nothing is changed here.
//!
//! Its directories are the only memory that it had, with all that a power cut, a name that two pods share or a removed key
//! left in them; whatever can't be relied upon is a [`Finding`].

mod finding;
mod parent;
mod refused;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::admit::admit;
use super::manifests;
use super::tree::Tree;
use crate::checkpoint::closure::references;
use crate::checkpoint::object::{Kind, Object, ObjectKey, is_dns_label, is_dns_subdomain};
use crate::checkpoint::rendering::{PodName, TreeRoot};
use crate::checkpoint::{named_parent, rendering};
use crate::lock::{Sharing, lock};
use crate::regular_file;
pub use finding::Finding;
use parent::{Whose, whose};

/// The largest manifest that a kubelet reads.
const MANIFEST_MAX_BYTES: usize = 10 << 20;

/// The pod-checkpointer's directories, as they are seen from here.
#[derive(Clone, Debug)]
pub struct Places {
    /// The kubelet's static pod directory, with its active checkpoints.
    pub active: PathBuf,
    /// Its inactive checkpoints.
    pub inactive: PathBuf,
    /// Values of Secrets: `<namespace>/<pod>/<secret>/<key>`.
    pub secrets: PathBuf,
    /// Values of ConfigMaps, likewise.
    pub configmaps: PathBuf,
}

/// One of the four directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// [`Places::active`].
    Active,
    /// [`Places::inactive`].
    Inactive,
    /// [`Places::secrets`] or [`Places::configmaps`].
    Tree(TreeRoot),
}

impl Places {
    /// The directory itself.
    #[must_use]
    pub fn path(&self, place: Place) -> &Path {
        match place {
            Place::Active => &self.active,
            Place::Inactive => &self.inactive,
            Place::Tree(TreeRoot::Secrets) => &self.secrets,
            Place::Tree(TreeRoot::ConfigMaps) => &self.configmaps,
        }
    }
}

/// A checkpoint that can be adopted.
pub struct Found {
    /// Its parent, put together again. Its UID is [`named_parent`] where nobody knows it.
    pub pod: Object,
    /// What it is called.
    pub name: PodName,
    /// Whether its manifest lies in the kubelet's directory, under the name that belongs to it.
    pub active: bool,
    /// The directories whose objects it mounts, that were read.
    pub trees: Vec<(TreeRoot, String)>,
}

/// Something that nothing needs once what is in `after` is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// In which directory.
    pub place: Place,
    /// Its path in it.
    pub below: Vec<String>,
    /// What has to be durable first.
    pub after: Vec<ObjectKey>,
}

/// All that was found.
#[derive(Default)]
pub struct Inventory {
    /// The checkpoints, by name.
    pub found: Vec<Found>,
    /// The Secrets and ConfigMaps that they mount, by key.
    pub objects: Vec<Object>,
    /// What is not as it should be, in the order in which it was met.
    pub findings: Vec<Finding>,
    /// What may be removed. Nothing in it is mounted by an active manifest.
    pub leftovers: Vec<Leftover>,
    /// The nodes that the pods name.
    pub nodes: BTreeSet<String>,
    /// Whether the kubelet's directory has a file that can't be read, so that nobody knows all that is mounted: no directory of
    /// values is among the leftovers then.
    pub blind: bool,
}

/// Keeps a pod-checkpointer on this node from doing anything for as long as the answer lives; `None` if there is no lock file.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if one holds it and works; or the file can't be looked at.
pub fn keep_out(lock_file: &Path) -> io::Result<Option<File>> {
    let file = match File::open(lock_file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match lock(&file, Sharing::Exclusive)? {
        true => Ok(Some(file)),
        false => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Looks at everything. `node`: the name of this node, where it is known. `stored`: whether the store has what the API
/// server says of an object, so that what was kept of it here says nothing.
#[must_use]
pub fn look(places: &Places, node: Option<&str>, stored: &dyn Fn(&ObjectKey) -> bool) -> Inventory {
    let mut look = Look { places, node, stored, ..Look::new(places, stored) };
    // As the pod-checkpointer itself does at its start: what is active counts, whatever lies beside it.
    look.manifests(Place::Active);
    look.manifests(Place::Inactive);
    look.pods();
    look.trees();
    look.finish()
}

/// A manifest of theirs.
struct Manifest {
    path: PathBuf,
    file: String,
    place: Place,
    copy: Tree,
}

struct Look<'a> {
    places: &'a Places,
    node: Option<&'a str>,
    stored: &'a dyn Fn(&ObjectKey) -> bool,
    manifests: BTreeMap<PodName, Manifest>,
    /// Whose copy has a file name.
    holders: BTreeMap<String, PodName>,
    /// File names of manifests that can't be decoded: the files of whoever they are of are kept.
    undecodable: BTreeSet<String>,
    /// What active manifests mount below the roots.
    mounted: Vec<(TreeRoot, Vec<String>)>,
    /// Whether what is mounted is not known for sure.
    blind: bool,
    /// The newest version of each object: when it was written, and of whose files.
    objects: BTreeMap<ObjectKey, (Option<SystemTime>, PodName, Object)>,
    /// What each pod with a manifest mounts.
    wanted: BTreeMap<PodName, Vec<(TreeRoot, String)>>,
    out: Inventory,
}

impl<'a> Look<'a> {
    fn new(places: &'a Places, stored: &'a dyn Fn(&ObjectKey) -> bool) -> Self {
        Self {
            places,
            node: None,
            stored,
            manifests: BTreeMap::new(),
            holders: BTreeMap::new(),
            undecodable: BTreeSet::new(),
            mounted: Vec::new(),
            blind: false,
            objects: BTreeMap::new(),
            wanted: BTreeMap::new(),
            out: Inventory::default(),
        }
    }

    fn manifests(&mut self, place: Place) {
        let active = place == Place::Active;
        for (name, path) in self.entries(self.places.path(place)) {
            if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                // Links are ours; whatever else there is, is not theirs.
                continue;
            }
            if values::is_temporary(&name) {
                self.out.findings.push(Finding::Temporary(path));
                self.leftover(place, vec![name], Vec::new());
                continue;
            }
            if name.starts_with('.') {
                continue;
            }
            let text = match regular_file::read(&path, MANIFEST_MAX_BYTES) {
                Ok(file) => file.contents,
                Err(error) => {
                    self.out.findings.push(Finding::Unreadable { path, why: error.to_string() });
                    self.undecodable.insert(name);
                    self.blind |= active;
                    continue;
                }
            };
            let json = name.ends_with(".json");
            match serde_json::from_slice::<Value>(text.expose()).map(Tree) {
                Ok(tree) => self.manifest(place, name, path, tree),
                Err(error) if json => {
                    let why = format!("line {}, column {}", error.line(), error.column());
                    self.out.findings.push(match text.is_empty() {
                        true => Finding::EmptyManifest(path),
                        false => Finding::Undecodable { path, why },
                    });
                    self.undecodable.insert(name);
                    self.blind |= active;
                }
                // YAML of others; theirs is JSON.
                Err(_) if active => {
                    let (objects, problems) = manifests::parse(&name, text.expose());
                    self.blind |= !problems.is_empty();
                    for object in objects {
                        match serde_json::from_slice(object.body.expose()).map(Tree) {
                            Ok(tree) => self.mounts(&tree.0),
                            Err(_) => self.blind = true,
                        }
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn manifest(&mut self, place: Place, file: String, path: PathBuf, copy: Tree) {
        if place == Place::Active {
            self.mounts(&copy.0);
        }
        let Whose::Theirs(pod) = whose(&copy.0) else { return };
        if !is_dns_label(&pod.namespace) || !is_dns_subdomain(&pod.name) {
            let why = "its name or namespace is none that the API server takes".to_owned();
            self.out.findings.push(Finding::BadPod { path, why });
            return;
        }
        self.holders.entry(file.clone()).or_insert_with(|| pod.clone());
        if parent::is_checkpointer(&copy.0) {
            self.out.findings.push(Finding::ItsOwn(path));
            self.leftover(place, vec![file], Vec::new());
            // Its own files are nobody's any more.
            self.wanted.insert(pod, Vec::new());
            return;
        }
        let key = pod_key(&pod);
        if place == Place::Inactive && file == file_name(&pod) {
            self.leftover(place, vec![file.clone()], key.into_iter().collect());
        }
        match self.manifests.get(&pod) {
            Some(first) if first.place == place => self.out.findings.push(Finding::Twice { path, pod }),
            Some(_) => {}
            None => drop(self.manifests.insert(pod, Manifest { path, file, place, copy })),
        }
    }

    /// Takes in what an active manifest mounts.
    fn mounts(&mut self, pod: &Value) {
        let Some(spec) = pod.get("spec") else { return };
        self.mounted.extend(parent::mounts(spec).into_iter().map(|(kind, below)| (root_of(kind), below)));
    }

    fn pods(&mut self) {
        for (pod, mut manifest) in std::mem::take(&mut self.manifests) {
            let refused = manifest.copy.0.get("spec").and_then(refused::refused);
            let Manifest { path, file, place, copy } = &mut manifest;
            let parent = parent::parent(&mut copy.0, &pod);
            self.wanted
                .insert(pod.clone(), parent.mounts.iter().map(|(kind, name)| (root_of(*kind), name.clone())).collect());
            let findings = &mut self.out.findings;
            findings.extend(
                parent
                    .others
                    .iter()
                    .map(|volume| Finding::OthersDirectory { pod: pod.clone(), volume: volume.clone() }),
            );
            let object = match admit(Tree(parent.body)) {
                Ok(object) => object,
                Err(refused) => {
                    findings.push(Finding::BadPod { path: path.clone(), why: refused.message });
                    self.undecodable.insert(file.clone());
                    continue;
                }
            };
            if let Some(bound) = manifests::bound_to(&object) {
                if self.node.is_some_and(|node| node != bound) {
                    findings.push(Finding::OtherNode { pod: pod.clone(), node: bound });
                    self.undecodable.insert(file.clone());
                    continue;
                }
                self.out.nodes.insert(bound);
            }
            let is_active = *place == Place::Active;
            let named = *file == file_name(&pod);
            if is_active && !named {
                findings.push(Finding::FileName { path: path.clone(), pod: pod.clone() });
            }
            if let Some(field) = refused.filter(|_| is_active) {
                findings.push(Finding::Refused { path: path.clone(), field });
            }
            let uid = parent.uid.unwrap_or_else(|| named_parent(&pod.namespace, &pod.name));
            let object = Object { uid, ..object };
            let trees = self.objects_of(&pod, &object, &parent.mounts);
            self.out.found.push(Found { pod: object, name: pod, active: is_active && named, trees });
        }
    }

    /// Reads the objects that a pod mounts, and tells which others it needs.
    fn objects_of(&mut self, pod: &PodName, object: &Object, mounts: &[(Kind, String)]) -> Vec<(TreeRoot, String)> {
        let mut trees = Vec::new();
        let needed = references(object).unwrap_or_default();
        for reference in &needed {
            let of_volume = mounts
                .iter()
                .any(|(kind, name)| (*kind, name.as_str()) == (reference.key.kind(), reference.key.name()));
            if !of_volume && !reference.optional && !(self.stored)(&reference.key) {
                let (object, field) = (reference.key.clone(), reference.field.clone());
                self.out.findings.push(Finding::NotKept { pod: pod.clone(), object, field });
            }
        }
        for (kind, name) in mounts {
            let (root, kind) = (root_of(*kind), *kind);
            let Ok(key) = ObjectKey::new(kind, &pod.namespace, name) else { continue };
            let directory = self.directory(root, pod).join(name);
            match fs::symlink_metadata(&directory) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) | Err(_) if (self.stored)(&key) => continue,
                Ok(_) | Err(_) => {
                    self.out.findings.push(Finding::MissingObject { pod: pod.clone(), object: key });
                    continue;
                }
            }
            let Some(read) = values::read(pod, &key, &directory, &mut self.out.findings) else { continue };
            trees.push((root, name.clone()));
            self.leftover(Place::Tree(root), path_below(pod, name), vec![key.clone()]);
            match self.objects.get(&key) {
                None => drop(self.objects.insert(key, (read.newest, pod.clone(), read.object))),
                Some((newest, of, object)) => {
                    let newer = read.newest > *newest;
                    if object.body != read.object.body {
                        let (one, other) = if newer { (pod, of) } else { (of, pod) };
                        let (one, other) = (one.clone(), other.clone());
                        self.out.findings.push(Finding::Differs { object: key.clone(), one, other });
                    }
                    if newer {
                        self.objects.insert(key, (read.newest, pod.clone(), read.object));
                    }
                }
            }
        }
        trees
    }

    /// What lies below the roots of values and belongs to no pod that was found, or is not mounted by its pod.
    fn trees(&mut self) {
        let mut orphans: BTreeSet<PodName> = BTreeSet::new();
        for root in [TreeRoot::Secrets, TreeRoot::ConfigMaps] {
            let top = self.places.path(Place::Tree(root)).to_owned();
            for (namespace, path) in self.entries(&top) {
                if !is_dns_label(&namespace) || !path.is_dir() {
                    continue;
                }
                for (name, path) in self.entries(&path) {
                    let pod = PodName { namespace: namespace.clone(), name };
                    if !is_dns_subdomain(&pod.name) || !fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_dir()) {
                        continue;
                    }
                    self.pod_directory(root, &pod, &path, &mut orphans);
                }
            }
        }
        for pod in orphans {
            let file = file_name(&pod);
            self.out.findings.push(match self.holders.get(&file) {
                Some(other) => Finding::Collision { pod, other: other.clone(), file },
                None => Finding::NoManifest(pod),
            });
        }
    }

    fn pod_directory(&mut self, root: TreeRoot, pod: &PodName, path: &Path, orphans: &mut BTreeSet<PodName>) {
        let wanted = self.wanted.get(pod).cloned();
        let keep = self.undecodable.contains(&file_name(pod));
        for (name, path) in self.entries(path) {
            let plain = fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_dir());
            // Trees of ours, and their markers.
            if !plain
                || name.contains('~')
                || name.starts_with('.')
                || fs::symlink_metadata(path.join("..data")).is_ok()
            {
                self.temporary(root, pod, &name, &path);
                continue;
            }
            match &wanted {
                Some(wanted) if wanted.contains(&(root, name.clone())) => self.temporary(root, pod, &name, &path),
                Some(_) => {
                    self.leftover(Place::Tree(root), path_below(pod, &name), Vec::new());
                    self.out.findings.push(Finding::Unmounted { path, pod: pod.clone() });
                }
                None if keep => {}
                None => {
                    self.leftover(Place::Tree(root), path_below(pod, &name), Vec::new());
                    orphans.insert(pod.clone());
                }
            }
        }
    }

    /// Temporary files in the directory of an object that stays.
    fn temporary(&mut self, root: TreeRoot, pod: &PodName, object: &str, path: &Path) {
        for (name, path) in self.entries(path) {
            if values::is_temporary(&name) && fs::symlink_metadata(&path).is_ok_and(|entry| entry.is_file()) {
                let mut below = path_below(pod, object);
                below.push(name);
                self.leftover(Place::Tree(root), below, Vec::new());
                let finding = Finding::Temporary(path);
                if !self.out.findings.contains(&finding) {
                    self.out.findings.push(finding);
                }
            }
        }
    }

    fn directory(&self, root: TreeRoot, pod: &PodName) -> PathBuf {
        self.places.path(Place::Tree(root)).join(&pod.namespace).join(&pod.name)
    }

    /// The entries of a directory whose names are text, by name; none if there is no such directory.
    fn entries(&mut self, path: &Path) -> Vec<(String, PathBuf)> {
        let entries = match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            Err(error) => {
                self.blind |= path == self.places.active;
                let why = error.kind().to_string();
                self.out.findings.push(Finding::Unreadable { path: path.to_owned(), why });
                Vec::new()
            }
        };
        let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
        let mut named: Vec<_> = entries.into_iter().filter_map(named).collect();
        named.sort();
        named
    }

    fn leftover(&mut self, place: Place, below: Vec<String>, after: Vec<ObjectKey>) {
        self.out.leftovers.push(Leftover { place, below, after });
    }

    fn finish(mut self) -> Inventory {
        let (mounted, blind) = (&self.mounted, self.blind);
        self.out.leftovers.retain(|leftover| match leftover.place {
            Place::Active | Place::Inactive => true,
            Place::Tree(root) => {
                let overlaps = |(of, path): &(TreeRoot, Vec<String>)| {
                    let common = path.len().min(leftover.below.len());
                    *of == root && path[..common] == leftover.below[..common]
                };
                !blind && !mounted.iter().any(overlaps)
            }
        });
        let mut objects: Vec<_> = self.objects.into_values().map(|(_, _, object)| object).collect();
        objects.sort_by(|one, other| one.key.cmp(&other.key));
        self.out.objects = objects;
        self.out.blind = blind;
        self.out
    }
}

/// The name that the pod-checkpointer gives a pod's manifest; two pods can have one.
#[must_use]
pub fn file_name(pod: &PodName) -> String {
    format!("{}-{}.json", pod.namespace, pod.name)
}

fn pod_key(pod: &PodName) -> Option<ObjectKey> {
    ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name).ok()
}

fn path_below(pod: &PodName, object: &str) -> Vec<String> {
    vec![pod.namespace.clone(), pod.name.clone(), object.to_owned()]
}

fn root_of(kind: Kind) -> rendering::TreeRoot {
    match kind {
        Kind::Secret => TreeRoot::Secrets,
        Kind::Pod | Kind::ConfigMap | Kind::Service | Kind::Node => TreeRoot::ConfigMaps,
    }
}
