//! Manifests: prepared beside the kubelet's directory, active in it, and never mistaken for somebody else's.
//!
//! A manifest is recognised by its name *and* by what it is: a copy's annotations, or a link into the secret root. All
//! else in these directories belongs to others and is not touched, but for what was taken over ([`super::adopted`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;

use super::dir::{Dir, Entry, Moved};
use super::error::{Foreign, MaterializeError, RenderingProblem};
use super::modes::{Attr, private_dir, private_file};
use super::name::Name;
use super::{Owners, Published, publish};
use crate::checkpoint::object::{Shown, is_dns_label, is_dns_subdomain};
use crate::checkpoint::rendering::{Manifest, PodName};
use crate::checkpoint::{ANNOTATION_CHECKPOINT_OF, ANNOTATION_PARENT_UID, named_parent};
use crate::clear::Clear;

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// Below the secret root: the manifests that carry values of Secrets. No namespace starts with a dot.
pub(super) const BODIES: &str = ".manifests";

/// The kubelet reads no larger file (`maxConfigLength` in `pkg/kubelet/config/file.go`), so no such file is ours.
pub(super) const MANIFEST_MAX_BYTES: u64 = 10 << 20;

/// A pod's name, checked, and its manifest's file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManifestName {
    pub(super) pod: PodName,
    pub(super) file: Name,
}

impl ManifestName {
    /// Checks the names of `pod`: only such as the API server takes lead to distinct and harmless file names.
    pub(super) fn of(pod: &PodName) -> Result<Self, RenderingProblem> {
        let shown = || Shown::new(&pod.to_string());
        if !is_dns_label(&pod.namespace) || !is_dns_subdomain(&pod.name) {
            return Err(RenderingProblem::PodName(shown()));
        }
        let file = Name::new(Manifest::file_name(pod)).ok_or_else(|| RenderingProblem::ManifestName(shown()))?;
        Ok(Self { pod: pod.clone(), file })
    }

    /// The pod whose manifest has this file name; `None` if no pod's has.
    pub(super) fn parse(file: &Name) -> Option<Self> {
        let (namespace, name) = file.text()?.strip_suffix(".json")?.split_once('_')?;
        let pod = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
        Self::of(&pod).ok()
    }
}

/// Who holds a manifest's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// A file of ours.
    File,
    /// A link of ours into the secret root.
    Link,
    Other(Foreign),
}

/// Where a manifest is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Prepared,
    Active,
}

/// What a manifest's entry should be.
enum Wanted<'a> {
    File(&'a [u8]),
    Link(OsString),
}

/// A manifest's file under a temporary name; `None` if it needs none.
pub(super) struct Staged(Option<Name>);

/// The directories that hold manifests.
pub(super) struct Manifests<'a> {
    /// The kubelet's directory.
    pub(super) active: &'a Dir,
    /// The directory of those that are prepared.
    pub(super) prepared: &'a Dir,
    /// The secret root.
    pub(super) secrets: Result<&'a Dir, &'a MaterializeError>,
    /// The secret root's absolute path, which links name.
    pub(super) secrets_path: PathBuf,
    pub(super) owners: Owners,
}

impl Manifests<'_> {
    /// Every manifest of ours in `dir`.
    pub(super) fn list(&self, dir: &Dir) -> Result<Vec<ManifestName>> {
        let mut ours = Vec::new();
        for name in dir.names()?.iter().filter_map(ManifestName::parse) {
            match self.holder(dir, &name)? {
                Holder::File | Holder::Link => ours.push(name),
                Holder::Nobody | Holder::Other(_) => {}
            }
        }
        Ok(ours)
    }

    /// The manifests of ours in the kubelet's directory, each with the UID of its parent; empty where that can't be read.
    /// Those that were taken over name their parents only.
    pub(super) fn active_parents(&self) -> Result<BTreeMap<PodName, String>> {
        let adopted = self.adopted()?.into_iter().map(|name| name.pod);
        let mut parents: BTreeMap<PodName, String> =
            adopted.map(|pod| (pod.clone(), named_parent(&pod.namespace, &pod.name))).collect();
        for name in self.list(self.active)? {
            // One that can't be read is ours all the same.
            let json = self.read_active(&name).unwrap_or_default();
            let uid = json.and_then(|json| parent_uid(json.expose()));
            parents.insert(name.pod, uid.unwrap_or_default());
        }
        Ok(parents)
    }

    /// `terminationGracePeriodSeconds` of the active manifest of ours; `None` if nobody knows, or it names none.
    pub(super) fn termination_s(&self, name: &ManifestName) -> Option<u64> {
        termination_s(self.read_active(name).ok()??.expose())
    }

    /// The active manifest of ours; `None` if there is none, or its body is gone.
    fn read_active(&self, name: &ManifestName) -> Result<Option<Clear>> {
        let read = match self.holder(self.active, name)? {
            Holder::Nobody | Holder::Other(_) => return self.read_adopted(name),
            Holder::File => self.active.read(&name.file, MANIFEST_MAX_BYTES)?,
            // By the name that the link has to have, not by the link: nothing is followed.
            Holder::Link => match self.bodies()? {
                Some(bodies) => bodies.read(&name.file, MANIFEST_MAX_BYTES)?,
                None => None,
            },
        };
        Ok(read.map(|(_, json)| json))
    }

    /// Refuses a name that somebody else's file has in the directory in which the manifest belongs.
    pub(super) fn check_free(&self, name: &ManifestName, place: Place) -> Result<()> {
        let dir = self.dir(place);
        if place == Place::Active {
            self.check_beside_theirs(name)?;
        }
        match self.holder(dir, name)? {
            Holder::Nobody | Holder::File | Holder::Link => Ok(()),
            Holder::Other(found) => Err(MaterializeError::Conflict { path: dir.path_of(&name.file), found }),
        }
    }

    /// Whether a manifest of ours is active: one whose body went with the memory it was in, and one that was taken over,
    /// included.
    pub(super) fn is_active(&self, name: &ManifestName) -> Result<bool> {
        Ok(matches!(self.holder(self.active, name)?, Holder::File | Holder::Link) || self.is_adopted(name)?)
    }

    /// Whether the active manifest already is this one.
    pub(super) fn is_active_as(&self, name: &ManifestName, manifest: &Manifest) -> Result<bool> {
        let same_body = !manifest.carries_secret || self.has_body(name, manifest)?;
        Ok(same_body && self.is(self.active, name, &self.wanted(name, manifest))?)
    }

    /// Writes a manifest that is to change to a temporary name in the prepared ones, through `prepared`, which may leave its
    /// sync for later. `number` is another one for each that is there at once.
    ///
    /// # Errors
    /// Nothing of it is there.
    pub(super) fn stage(
        &self,
        name: &ManifestName,
        manifest: &Manifest,
        place: Place,
        (prepared, number): (&Dir, usize),
    ) -> Result<Staged> {
        let Wanted::File(json) = self.wanted(name, manifest) else { return Ok(Staged(None)) };
        let wanted = Wanted::File(json);
        let is_there = self.is(self.dir(place), name, &wanted)? || self.is(self.prepared, name, &wanted)?;
        if is_there || matches!(self.holder(self.prepared, name)?, Holder::Other(_)) {
            return Ok(Staged(None));
        }
        let temporary = publish::temporary_of(number);
        publish::sweep_one(prepared, &temporary)?;
        prepared.create(&temporary, json, self.attr()).inspect_err(|_| {
            let _ = prepared.unlink(&temporary);
        })?;
        Ok(Staged(Some(temporary)))
    }

    /// Removes what was staged and is not to be published; if this fails the next pass removes it.
    pub(super) fn discard(&self, staged: Staged) {
        if let Some(temporary) = staged.0 {
            let _ = self.prepared.unlink(&temporary);
        }
    }

    /// Brings the manifest to its `place`; what was staged for it is durable. The caller syncs both directories; a body is
    /// durable already. The name must be free, which [`Manifests::check_free`] tells.
    ///
    /// # Errors
    /// What was published before is there as it was, whole.
    pub(super) fn publish(
        &self,
        name: &ManifestName,
        manifest: &Manifest,
        place: Place,
        staged: Staged,
    ) -> Result<Published> {
        let published = self.publish_staged(name, manifest, place, &staged);
        if published.is_err() {
            self.discard(staged);
        }
        published
    }

    fn publish_staged(
        &self,
        name: &ManifestName,
        manifest: &Manifest,
        place: Place,
        staged: &Staged,
    ) -> Result<Published> {
        let body = if manifest.carries_secret { self.publish_body(name, manifest)? } else { Published::Unchanged };
        let wanted = self.wanted(name, manifest);
        let entry = match place {
            Place::Prepared => self.prepare(name, &wanted, staged)?,
            Place::Active => self.activate(name, &wanted, staged)?,
        };
        Ok(match entry {
            Published::Unchanged if body != Published::Unchanged => Published::Replaced,
            entry => entry,
        })
    }

    /// Takes an active manifest out of the kubelet's directory, into the prepared ones where that is possible. One that was
    /// taken over goes for good.
    pub(super) fn deactivate(&self, name: &ManifestName) -> Result<()> {
        if self.is_adopted(name)? {
            self.remove_adopted(name)?;
        }
        if !matches!(self.holder(self.active, name)?, Holder::File | Holder::Link) {
            return Ok(());
        }
        let moved = match self.holder(self.prepared, name)? {
            // Its own entry is wanted later, and is refused then; what matters now is that the copy stops.
            Holder::Other(_) => Moved::OtherFileSystem,
            Holder::Nobody | Holder::File | Holder::Link => {
                self.active.rename(&name.file, self.prepared, &name.file)?
            }
        };
        match moved {
            Moved::Done => Ok(()),
            Moved::OtherFileSystem => self.remove(self.active, name),
        }
    }

    /// Removes a manifest of ours. The caller syncs the directory.
    pub(super) fn remove(&self, dir: &Dir, name: &ManifestName) -> Result<()> {
        dir.unlink(&name.file).map(|_| ())
    }

    /// Removes what an interrupted run left in the directories.
    pub(super) fn sweep(&self, problems: &mut Vec<MaterializeError>) {
        problems.extend(publish::sweep(self.active, None).err());
        problems.extend(self.sweep_prepared().err());
        problems.extend(self.bodies().and_then(|dir| dir.map_or(Ok(()), |dir| publish::sweep(&dir, None))).err());
    }

    /// Removes bodies that no link of ours names any more.
    ///
    /// At once, not after a delay as trees: no container mounts them, and the kubelet has read what it needs.
    pub(super) fn remove_unused_bodies(&self) -> Result<()> {
        let Some(bodies) = self.bodies()? else { return Ok(()) };
        for name in bodies.names()?.iter().filter_map(ManifestName::parse) {
            let used =
                self.holder(self.active, &name)? == Holder::Link || self.holder(self.prepared, &name)? == Holder::Link;
            if !used && matches!(bodies.look(&name.file)?, Entry::File(_)) {
                bodies.unlink(&name.file)?;
            }
        }
        bodies.sync()
    }

    fn dir(&self, place: Place) -> &Dir {
        match place {
            Place::Prepared => self.prepared,
            Place::Active => self.active,
        }
    }

    fn activate(&self, name: &ManifestName, wanted: &Wanted<'_>, staged: &Staged) -> Result<Published> {
        let before = self.holder(self.active, name)?;
        let prepared = self.holder(self.prepared, name)?;
        if self.is(self.active, name, wanted)? {
            if matches!(prepared, Holder::File | Holder::Link) {
                self.remove(self.prepared, name)?;
            }
            return Ok(Published::Unchanged);
        }
        let moved = match prepared {
            Holder::Other(_) => Moved::OtherFileSystem,
            Holder::Nobody | Holder::File | Holder::Link => {
                self.prepare(name, wanted, staged)?;
                self.prepared.rename(&name.file, self.active, &name.file)?
            }
        };
        if moved == Moved::OtherFileSystem {
            self.publish_entry(self.active, name, wanted)?;
            if !matches!(prepared, Holder::Other(_)) {
                self.remove(self.prepared, name)?;
            }
        }
        Ok(if before == Holder::Nobody { Published::Created } else { Published::Replaced })
    }

    /// Publishes it in the directory of prepared ones.
    fn prepare(&self, name: &ManifestName, wanted: &Wanted<'_>, staged: &Staged) -> Result<Published> {
        let Some(temporary) = &staged.0 else { return self.publish_entry(self.prepared, name, wanted) };
        let before = self.prepared.look(&name.file)?;
        publish::place(self.prepared, temporary, &name.file)?;
        Ok(Published::over(&before))
    }

    fn publish_entry(&self, dir: &Dir, name: &ManifestName, wanted: &Wanted<'_>) -> Result<Published> {
        match wanted {
            Wanted::File(json) => publish::file(dir, &name.file, json, self.attr()),
            Wanted::Link(target) => publish::link(dir, &name.file, target, &publish::temporary()),
        }
    }

    fn is(&self, dir: &Dir, name: &ManifestName, wanted: &Wanted<'_>) -> Result<bool> {
        match wanted {
            Wanted::File(json) => publish::is_file(dir, &name.file, json, self.attr()),
            Wanted::Link(target) => Ok(matches!(dir.look(&name.file)?, Entry::Link(found) if found == *target)),
        }
    }

    fn wanted<'a>(&self, name: &ManifestName, manifest: &'a Manifest) -> Wanted<'a> {
        if manifest.carries_secret {
            Wanted::Link(self.link_target(name))
        } else {
            Wanted::File(manifest.json.expose())
        }
    }

    fn publish_body(&self, name: &ManifestName, manifest: &Manifest) -> Result<Published> {
        let secrets = self.secrets.map_err(Clone::clone)?;
        let (bodies, _) = secrets.ensure(&Name::of(BODIES), private_dir(self.owners))?;
        secrets.sync()?;
        if let Some(found) = bodies.look(&name.file)?.foreign().filter(|found| *found != Foreign::File) {
            return Err(MaterializeError::Conflict { path: bodies.path_of(&name.file), found });
        }
        let published = publish::file(&bodies, &name.file, manifest.json.expose(), self.attr())?;
        bodies.sync()?;
        Ok(published)
    }

    fn has_body(&self, name: &ManifestName, manifest: &Manifest) -> Result<bool> {
        match self.bodies()? {
            Some(bodies) => publish::is_file(&bodies, &name.file, manifest.json.expose(), self.attr()),
            None => Ok(false),
        }
    }

    fn bodies(&self) -> Result<Option<Dir>> {
        self.secrets.map_or(Ok(None), |secrets| secrets.open(&Name::of(BODIES)))
    }

    fn holder(&self, dir: &Dir, name: &ManifestName) -> Result<Holder> {
        Ok(match dir.look(&name.file)? {
            Entry::Absent => Holder::Nobody,
            Entry::Link(target) if target == self.link_target(name) => Holder::Link,
            Entry::File(_) => match dir.read(&name.file, MANIFEST_MAX_BYTES)? {
                Some((_, json)) if is_copy(json.expose()) => Holder::File,
                _ => Holder::Other(Foreign::File),
            },
            Entry::Link(_) => Holder::Other(Foreign::Link),
            Entry::Directory(_) => Holder::Other(Foreign::Directory),
            Entry::Special => Holder::Other(Foreign::Special),
        })
    }

    fn link_target(&self, name: &ManifestName) -> OsString {
        self.secrets_path.join(BODIES).join(name.file.as_os_str()).into()
    }

    fn attr(&self) -> Attr {
        private_file(self.owners)
    }
}

/// Whether `json` is a static pod that translation made: it has the annotations of a copy.
pub(super) fn is_copy(json: &[u8]) -> bool {
    parent_uid(json).is_some()
}

/// The UID that a copy's manifest says it stands in for; `None` if it is no copy's.
fn parent_uid(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Copy {
        kind: String,
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        annotations: BTreeMap<String, String>,
    }
    let mut copy = serde_json::from_slice::<Copy>(json).ok()?;
    let is_copy = copy.kind == "Pod" && copy.metadata.annotations.contains_key(ANNOTATION_CHECKPOINT_OF);
    copy.metadata.annotations.remove(ANNOTATION_PARENT_UID).filter(|_| is_copy)
}

/// `spec.terminationGracePeriodSeconds`, if there is one. Whose manifest it is was asked before, and does not depend on it.
fn termination_s(json: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Pod {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        #[serde(rename = "terminationGracePeriodSeconds")]
        termination_s: i64,
    }
    let seconds = serde_json::from_slice::<Pod>(json).ok()?.spec.termination_s;
    // The kubelet takes a negative one for a second.
    Some(u64::try_from(seconds).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_and_pods_belong_together() {
        let longest = format!("{}_{}.json", "n".repeat(63), "p".repeat(255 - 63 - 6));
        #[rustfmt::skip]
        let rows = [
            ("default_web-0.json", true), ("a_b.c.json", true), (longest.as_str(), true),
            ("web-0.json", false), ("default_web-0.yaml", false), ("default_web-0.json~", false), ("_web.json", false),
            ("default_.json", false), ("a_b_c.json", false), ("A_b.json", false), (".a_b.json", false),
            ("a.b_c.json", false), ("default_web-0", false), (".ckpt-db.new", false),
        ];
        for (file, want) in rows {
            let parsed = ManifestName::parse(&Name::new(file).unwrap());
            assert_eq!(parsed.is_some(), want, "{file}");
            if let Some(name) = parsed {
                assert_eq!(Manifest::file_name(&name.pod), file);
            }
        }
    }

    #[test]
    fn names_that_make_no_file_are_refused() {
        let of = |namespace: &str, name: &str| {
            ManifestName::of(&PodName { namespace: namespace.to_owned(), name: name.to_owned() })
        };
        let refused = [("..", "web"), ("a", ".."), ("a/b", "c"), ("a", "b/c"), ("", "b"), ("a", ""), ("a_b", "c")];
        for (namespace, name) in refused {
            assert!(matches!(of(namespace, name), Err(RenderingProblem::PodName(_))), "{namespace:?} {name:?}");
        }
        assert!(matches!(of("a", &"b".repeat(249)), Err(RenderingProblem::ManifestName(_))));
        assert!(of("a", &"b".repeat(248)).is_ok());
    }

    #[test]
    fn only_a_copy_is_a_copy() {
        let both = r#"{"kind":"Pod","metadata":{"name":"a","annotations":{"checkpointer.alpha.coreos.com/checkpoint-of":"a","ckpt-db.io/parent-uid":""}}}"#;
        #[rustfmt::skip]
        let rows = [
            (both.to_owned(), true),
            (format!("{both}\n"), true),
            (format!("{both} x"), false),
            (both.replace("Pod", "Secret"), false),
            (both.replace("ckpt-db.io/parent-uid", "x"), false),
            (both.replace("checkpoint-of", "x"), false),
            (both.replace(r#""""#, "null"), false),
            (r#"{"kind":"Pod","metadata":{}}"#.to_owned(), false),
            (r#"{"kind":"Pod"}"#.to_owned(), false),
            ("apiVersion: v1\nkind: Pod\n".to_owned(), false),
            (both[..both.len() - 1].to_owned(), false),
            (String::new(), false),
            ("[".repeat(100_000), false),
        ];
        for (json, want) in rows {
            assert_eq!(is_copy(json.as_bytes()), want, "{json:.200}");
        }
    }
}
