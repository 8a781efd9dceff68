//! What the file-based pod-checkpointer left on the node becomes ours: stored first, then taken over where it lies, and
//! cleared away only when asked. For a store that no agent has open.

use std::path::PathBuf;

use super::pass::Target;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::{PodName, TreeRoot};
use crate::materialize::{MaterializeError, Materializer, remove_leftover};
use crate::source::pod_checkpointer::{Found, Inventory, Leftover, Place, Places};
use crate::store::{Backend, Change, Committed, Snapshot, StoreError, Update};

/// What became of the inventory.
pub struct Imported {
    /// What the transaction did. A Secret that could not be stored for lack of a key is among the unsealed.
    pub update: Committed<Update>,
    /// What is durable now.
    pub stored: Committed<Snapshot>,
    /// Pods whose active manifests were taken over.
    pub taken_over: Vec<PodName>,
    /// Trees that are ours now.
    pub trees: Vec<(PodName, TreeRoot, String)>,
    /// What could not be taken over; it goes on as it is.
    pub problems: Vec<(PodName, MaterializeError)>,
}

/// Whether the store has what the API server said of an object: what a predecessor kept of it says nothing then.
#[must_use]
pub fn is_truth(snapshot: &Snapshot, key: &ObjectKey) -> bool {
    let mut objects = snapshot.objects();
    objects.any(|object| object.key == key && !object.resource_version.is_empty())
}

/// Stores what was found, then takes over what lies there: each active manifest stays the file that it is, since another
/// would restart its containers; each directory of values stays the directory that it is, since they have it mounted.
///
/// # Errors
/// Nothing was stored, or nobody knows whether it was; nothing was taken over.
pub fn import(
    store: &mut dyn Backend,
    inventory: &Inventory,
    places: &Places,
    target: &Target,
    now_unix_ms: u64,
) -> Result<Imported, StoreError> {
    let before = store.snapshot()?.into_inner();
    let pods = inventory.found.iter().map(|found| &found.pod);
    let new = pods.chain(&inventory.objects).filter(|object| !is_truth(&before, &object.key));
    let apply = |object: &Object| Change::Apply { object: object.clone(), with: Vec::new() };
    let update = store.update(new.map(apply).collect(), now_unix_ms)?;
    let stored = store.snapshot()?;
    let mut imported = Imported { update, stored, taken_over: Vec::new(), trees: Vec::new(), problems: Vec::new() };
    if inventory.found.is_empty() {
        return Ok(imported);
    }
    match Materializer::open(target.roots.clone(), target.secret_root, target.owners) {
        Ok(materializer) => {
            for found in &inventory.found {
                take_over(&mut imported, &materializer, found, places, target);
            }
        }
        Err(error) => {
            let names = inventory.found.iter().map(|found| found.name.clone());
            imported.problems.extend(names.map(|name| (name, error.clone())));
        }
    }
    Ok(imported)
}

fn take_over(imported: &mut Imported, materializer: &Materializer, found: &Found, places: &Places, target: &Target) {
    if !has(imported.stored.get(), &found.pod.key) {
        return;
    }
    let name = imported.stored.derive(|_| found.name.clone());
    for (root, object) in &found.trees {
        let (theirs, ours) = match root {
            TreeRoot::Secrets => (&places.secrets, &target.roots.secrets),
            TreeRoot::ConfigMaps => (&places.configmaps, &target.roots.configmaps),
        };
        let key = ObjectKey::new(kind(*root), &found.name.namespace, object);
        if theirs != ours || !key.is_ok_and(|key| has(imported.stored.get(), &key)) {
            continue;
        }
        match materializer.adopt_tree(&name, *root, object) {
            Ok(_) => imported.trees.push((found.name.clone(), *root, object.clone())),
            // Values on a disk, as they always were there: ours will be in memory, and these are leftovers.
            Err(MaterializeError::SecretRoot(_)) => {}
            Err(error) => imported.problems.push((found.name.clone(), error)),
        }
    }
    if found.active && places.active == target.roots.manifests {
        match materializer.adopt_manifest(&name) {
            Ok(_) => imported.taken_over.push(found.name.clone()),
            Err(error) => imported.problems.push((found.name.clone(), error)),
        }
    }
}

/// What became of a leftover.
pub struct Cleared {
    /// Where it lay, or lies.
    pub path: PathBuf,
    /// Whether there was something that is gone now; why there still is.
    pub result: Result<bool, MaterializeError>,
}

/// The leftovers that nothing needs once the inventory is imported: what they were made into is durable, and the directory is
/// none that was taken over.
pub fn unneeded<'a>(imported: &'a Imported, inventory: &'a Inventory) -> impl Iterator<Item = &'a Leftover> {
    inventory.leftovers.iter().filter(|leftover| {
        let adopted = imported.trees.iter().any(|(pod, root, object)| {
            leftover.place == Place::Tree(*root)
                && leftover.below == [&pod.namespace, &pod.name, object].map(String::clone)
        });
        !adopted && leftover.after.iter().all(|key| has(imported.stored.get(), key))
    })
}

/// Removes them.
#[must_use]
pub fn clear_away(imported: &Imported, inventory: &Inventory, places: &Places) -> Vec<Cleared> {
    let one = |leftover: &Leftover| {
        let root = places.path(leftover.place);
        let below = imported.stored.derive(|_| leftover.below.clone());
        Cleared { path: root.join(PathBuf::from_iter(&leftover.below)), result: remove_leftover(root, &below) }
    };
    unneeded(imported, inventory).map(one).collect()
}

fn has(snapshot: &Snapshot, key: &ObjectKey) -> bool {
    snapshot.objects().any(|object| object.key == key)
}

fn kind(root: TreeRoot) -> Kind {
    match root {
        TreeRoot::Secrets => Kind::Secret,
        TreeRoot::ConfigMaps => Kind::ConfigMap,
    }
}
