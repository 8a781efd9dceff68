//! A directory of plain files becomes a tree of ours without anybody who has it mounted losing a value for a moment.
//!
//! The values are copied into a first generation; then each file is replaced by the link into it, by one rename. Cut short,
//! a name is a file or a link and reads the same; the next run goes on.

use super::dir::{Dir, Entry};
use super::error::{Foreign, MaterializeError};
use super::generation::{dir_name, number};
use super::modes::{tree_dir, tree_file};
use super::name::Name;
use super::selinux::{Labels, SeLinux};
use super::tree::{DATA, DATA_TEMPORARY, conflict, link_target};
use super::{Owners, Published, publish};
use crate::checkpoint::data::{DATA_MAX_BYTES, is_data_key};

type Result<T, E = MaterializeError> = std::result::Result<T, E>;

/// As the kubelet makes them where nothing else is said, which the pod-checkpointer did not keep.
const MODE: u32 = 0o644;

/// Adopts `<pod_dir>/<name>`; see [`super::Materializer::adopt_tree`].
pub(super) fn adopt(pod_dir: &Dir, name: &Name, owners: Owners, selinux: SeLinux) -> Result<Published> {
    let Some(mounted) = pod_dir.open(name)? else { return Ok(Published::Unchanged) };
    let found = Found::take(&mounted)?;
    if found.plain.is_empty() {
        return Ok(Published::Unchanged);
    }
    let mut labels = Labels::new(selinux, pod_dir.path_of(name));
    let current = match found.current {
        Some(current) => current,
        None => {
            // Of a run that was cut short before anybody could see it.
            for leftover in &found.generations {
                mounted.remove_all(leftover)?;
            }
            let fresh = mounted.make(&dir_name(1), tree_dir(owners, None))?;
            for key in &found.plain {
                let Some((_, value)) = mounted.read(key, DATA_MAX_BYTES as u64)? else {
                    return Err(conflict(&mounted, key, Foreign::File));
                };
                fresh.create(key, value.expose(), tree_file(owners, MODE, None))?;
            }
            labels.all(&fresh);
            fresh.sync()?;
            mounted.sync()?;
            publish::link(&mounted, &Name::of(DATA), dir_name(1).as_os_str(), &Name::of(DATA_TEMPORARY))?;
            mounted.sync()?;
            1
        }
    };
    let generation = mounted.open(&dir_name(current))?;
    for key in &found.plain {
        // A file that came after the generation was made is not in it, and must not become a link to nothing.
        let same = match (&generation, mounted.read(key, DATA_MAX_BYTES as u64)?) {
            (Some(generation), Some((_, value))) => {
                let kept = generation.read(key, DATA_MAX_BYTES as u64)?;
                kept.is_some_and(|(_, kept)| kept.expose() == value.expose())
            }
            (Some(_) | None, _) => false,
        };
        if !same {
            return Err(conflict(&mounted, key, Foreign::File));
        }
        publish::link(&mounted, key, &link_target(key), &Name::of(DATA_TEMPORARY))?;
    }
    mounted.set_own_attr(tree_dir(owners, None))?;
    labels.all(&mounted);
    mounted.sync()?;
    // What is refused to be labelled now is told by the next pass, which tries again.
    Ok(Published::Replaced)
}

/// What lies in the directory.
#[derive(Default)]
struct Found {
    /// Values, each a file.
    plain: Vec<Name>,
    /// The generation that an earlier run made the current one.
    current: Option<u64>,
    generations: Vec<Name>,
}

impl Found {
    /// Looks at every entry.
    ///
    /// # Errors
    /// The first one that is neither a value nor ours, as a conflict.
    fn take(mounted: &Dir) -> Result<Self> {
        let mut found = Self::default();
        for name in mounted.names()? {
            let text = name.text().unwrap_or_default();
            match mounted.look(&name)? {
                Entry::Absent => {}
                Entry::Link(target) if text == DATA => found.current = target.to_str().and_then(number),
                Entry::Link(_) if text == DATA_TEMPORARY => {}
                Entry::Link(target) if target == link_target(&name) && !text.starts_with("..") => {}
                Entry::Directory(_) if number(text).is_some() => found.generations.push(name),
                Entry::File(_) if is_temporary(text) => {}
                Entry::File(_) if is_data_key(text) => found.plain.push(name),
                Entry::File(_) => return Err(conflict(mounted, &name, Foreign::File)),
                Entry::Directory(_) => return Err(conflict(mounted, &name, Foreign::Directory)),
                Entry::Link(_) => return Err(conflict(mounted, &name, Foreign::Link)),
                Entry::Special => return Err(conflict(mounted, &name, Foreign::Special)),
            }
        }
        Ok(found)
    }
}

/// Whether a write of the pod-checkpointer that was cut short left it behind: its temporary files are called a dot and
/// digits, and no value is.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_prefix('.').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}
