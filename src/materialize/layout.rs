//! What a tree should be, as checked names: the last door before names reach the file system.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::error::{ContentsProblem, MaterializeError, RenderingProblem};
use super::name::Name;
use crate::checkpoint::lookup::{Lookup, OpenedData, Reader};
use crate::checkpoint::object::{ObjectKey, Shown};
use crate::checkpoint::rendering::{Contents, Tree, TreeFile, TreeRoot};

/// A path of checked components.
pub(super) type Names = Vec<Name>;

/// One tree, its names checked.
pub(super) struct Layout<'a> {
    pub(super) root: TreeRoot,
    /// One or two names below `<root>/<namespace>/<pod>/`.
    pub(super) path: Names,
    /// The directories inside, parents before children.
    pub(super) dirs: BTreeSet<Names>,
    /// The files inside, by path.
    pub(super) files: BTreeMap<Names, &'a TreeFile>,
    /// `securityContext.fsGroup`.
    pub(super) fs_group: Option<u32>,
}

impl<'a> Layout<'a> {
    /// Checks the names of `tree`.
    pub(super) fn new(tree: &'a Tree) -> Result<Self, RenderingProblem> {
        let path = tree_path(&tree.path).ok_or_else(|| RenderingProblem::TreePath(shown(&tree.path)))?;
        let mut dirs = BTreeSet::new();
        let mut files = BTreeMap::new();
        for file in &tree.files {
            let names = file_path(&file.path).ok_or_else(|| RenderingProblem::FilePath(shown(&file.path)))?;
            dirs.extend((1..names.len()).map(|depth| names[..depth].to_vec()));
            if files.insert(names, file).is_some() {
                return Err(RenderingProblem::FileTwice(shown(&file.path)));
            }
        }
        if let Some(both) = files.iter().find(|(names, _)| dirs.contains(*names)) {
            return Err(RenderingProblem::FileTwice(shown(&both.1.path)));
        }
        Ok(Self { root: tree.root, path, dirs, files, fs_group: tree.fs_group })
    }

    /// The names that the mounted directory shows: each is a link into the current generation.
    pub(super) fn top(&self) -> BTreeSet<&Name> {
        self.files.keys().map(|names| &names[0]).collect()
    }

    /// The tree's path, for messages.
    pub(super) fn shown_path(&self) -> PathBuf {
        self.path.iter().map(Name::as_os_str).collect()
    }

    /// Hands out each file's contents, one object's clear text at a time: each object is opened once and wiped before
    /// the next. Stops early when `each` answers `Ok(false)`, and says so.
    ///
    /// # Errors
    /// An object that gives no contents, or what `each` answers.
    pub(super) fn contents(
        &self,
        reader: &mut Reader<'_>,
        mut each: impl FnMut(&Names, &TreeFile, &[u8]) -> Result<bool, MaterializeError>,
    ) -> Result<bool, MaterializeError> {
        let mut by_object: BTreeMap<&ObjectKey, Vec<(&Names, &TreeFile, &str)>> = BTreeMap::new();
        for (names, file) in &self.files {
            match &file.contents {
                Contents::Inline(bytes) => {
                    if !each(names, file, bytes)? {
                        return Ok(false);
                    }
                }
                Contents::Data { object, key } => by_object.entry(object).or_default().push((names, file, key)),
            }
        }
        for (object, wanted) in by_object {
            let data = fetch(reader, object).map_err(|problem| self.problem(problem))?;
            for (names, file, key) in wanted {
                let value = data.get(key).ok_or_else(|| {
                    self.problem(ContentsProblem::MissingKey { object: object.clone(), key: Shown::new(key) })
                })?;
                if !each(names, file, value.expose())? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn problem(&self, problem: ContentsProblem) -> MaterializeError {
        MaterializeError::Contents { tree: self.shown_path(), problem }
    }
}

fn fetch<'r>(reader: &'r mut Reader<'_>, key: &ObjectKey) -> Result<OpenedData<'r>, ContentsProblem> {
    // The object with its whole JSON is gone when this returns; only the decoded data is left.
    match reader.open(key) {
        Lookup::Found(object) => {
            object.into_data().map_err(|problem| ContentsProblem::Data { object: key.clone(), problem })
        }
        Lookup::Missing => Err(ContentsProblem::Missing(key.clone())),
        Lookup::Forbidden => Err(ContentsProblem::Forbidden(key.clone())),
        Lookup::Sealed => Err(ContentsProblem::Sealed(key.clone())),
        Lookup::NoKeyYet => Err(ContentsProblem::NoKeyYet(key.clone())),
        Lookup::Damaged => Err(ContentsProblem::Damaged(key.clone())),
    }
}

/// A tree's own path: an object's name, or `kubernetes.io~<type>` and a volume's name. Names with a leading dot are kept
/// for ourselves; the tilde tells the two forms apart.
fn tree_path(path: &[String]) -> Option<Names> {
    let plain = |text: &String| if text.starts_with('.') { None } else { Name::new(text) };
    match path {
        [name] if !name.contains('~') => Some(vec![plain(name)?]),
        [kind, volume] if kind.contains('~') && !volume.contains('~') => Some(vec![plain(kind)?, plain(volume)?]),
        _ => None,
    }
}

/// A file's path in a tree. Names that start with two dots belong to the publishing protocol, as with the kubelet.
fn file_path(path: &[String]) -> Option<Names> {
    let plain = |text: &String| if text.starts_with("..") { None } else { Name::new(text) };
    if path.is_empty() { None } else { path.iter().map(plain).collect() }
}

fn shown(path: &[String]) -> Shown {
    Shown::new(&path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Path = &'static [&'static str];

    fn check(path: Path, files: &[Path]) -> Result<(), String> {
        let own = |path: &[&str]| path.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let files = files
            .iter()
            .map(|path| TreeFile { path: own(path), mode: 0o644, contents: Contents::Inline(Vec::new()) })
            .collect();
        let tree = Tree { root: TreeRoot::Secrets, path: own(path), files, fs_group: None };
        Layout::new(&tree).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_that_could_leave_or_collide_are_refused() {
        #[rustfmt::skip]
        let rows: &[(Path, &[Path], &str)] = &[
            (&["s"],                       &[&["k"]],              ""),
            (&["s"],                       &[],                    ""),
            (&["kubernetes.io~secret", "v"], &[&["d", "k"], &["d", "l"], &[".k"]], ""),
            (&["s"],                       &[&[".ckpt-db.x"]],     ""),
            (&[],                          &[],                    "tree path"),
            (&["s", "v"],                  &[],                    "tree path"),
            (&["kubernetes.io~secret"],    &[],                    "tree path"),
            (&["a~b", "c~d"],              &[],                    "tree path"),
            (&["a~b", "c", "d"],           &[],                    "tree path"),
            (&[".."],                      &[],                    "tree path"),
            (&["a~b", ".."],               &[],                    "tree path"),
            (&[".ckpt-db.remove-after"],   &[],                    "tree path"),
            (&["a/b"],                     &[],                    "tree path"),
            (&["s"],                       &[&[]],                 "path \"\" in"),
            (&["s"],                       &[&[".."]],             "path \"..\" in"),
            (&["s"],                       &[&["d", "..", "k"]],   "path \"d/../k\" in"),
            (&["s"],                       &[&["..data"]],         "path \"..data\" in"),
            (&["s"],                       &[&["a/b"]],            "path \"a/b\" in"),
            (&["s"],                       &[&["a\0"]],            "path \"a\\0\" in"),
            (&["s"],                       &[&["a"], &["a"]],      "twice"),
            (&["s"],                       &[&["a"], &["a", "b"]], "at once"),
        ];
        for (path, files, want) in rows {
            match check(path, files) {
                Ok(()) => assert_eq!(*want, "", "{path:?} {files:?}"),
                Err(error) => assert!(!want.is_empty() && error.contains(want), "{path:?} {files:?}: {error}"),
            }
        }
    }
}
