//! SELinux labels of trees: containers may read only what is labelled for them, and nobody relabels hostPath volumes.
//!
//! The mounted directory is labelled before anything is made in it, as what is made in a labelled directory inherits the
//! label; a walk finds and labels what did not. So a lost label costs no sync of its own: it is set by the next pass.
//!
//! A label that is refused never stops a pod: SELinux may be permissive, or the pod exempt from it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use super::dir::{Dir, Entry};
use super::error::MaterializeError;
use super::gate::Step;

const ATTRIBUTE: &str = "security.selinux";

/// What every container may read, whatever its categories. The kernel keeps labels with their NUL.
const LABEL: &CStr = c"system_u:object_r:container_file_t:s0";

/// Whether trees are labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeLinux {
    On,
    Off,
}

impl SeLinux {
    /// Whether the kernel uses SELinux: its file system is mounted then, enforcing or not.
    pub(super) fn of_kernel() -> Self {
        if Path::new("/sys/fs/selinux/enforce").exists() { Self::On } else { Self::Off }
    }
}

/// The labels of one tree: tries until the first refusal, as the next one would be for the same reason.
pub(super) struct Labels {
    selinux: SeLinux,
    /// Its mounted directory, for messages: while it is made it has another name.
    tree: PathBuf,
    changed: bool,
    refused: Option<MaterializeError>,
}

impl Labels {
    pub(super) fn new(selinux: SeLinux, tree: PathBuf) -> Self {
        Self { selinux, tree, changed: false, refused: None }
    }

    /// Labels `dir` itself.
    pub(super) fn own(&mut self, dir: &Dir) {
        self.attempt(|labels| labels.set_own(dir));
    }

    /// Labels `dir` and all that it holds.
    pub(super) fn all(&mut self, dir: &Dir) {
        self.attempt(|labels| labels.walk(dir));
    }

    /// Whether any label was not as it should be, and is now.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// What was refused.
    pub(super) fn refused(self) -> Option<MaterializeError> {
        self.refused
    }

    fn attempt(&mut self, set: impl FnOnce(&mut Self) -> Result<(), MaterializeError>) {
        match self.selinux {
            SeLinux::On if self.refused.is_none() => self.refused = set(self).err(),
            SeLinux::On | SeLinux::Off => {}
        }
    }

    fn walk(&mut self, dir: &Dir) -> Result<(), MaterializeError> {
        self.set_own(dir)?;
        for name in dir.names()? {
            match dir.look(&name)? {
                Entry::Directory(_) => {
                    if let Some(inner) = dir.open(&name)? {
                        self.walk(&inner)?;
                    }
                }
                // Links too: they are reached through the directory, but read under a label of their own.
                Entry::File(_) | Entry::Link(_) => {
                    if let Some(pinned) = dir.pin(&name)? {
                        self.set(&pinned, dir, &dir.path_of(&name))?;
                    }
                }
                Entry::Special | Entry::Absent => {}
            }
        }
        Ok(())
    }

    fn set_own(&mut self, dir: &Dir) -> Result<(), MaterializeError> {
        self.set(dir.fd(), dir, dir.path())
    }

    fn set(&mut self, fd: &impl AsFd, dir: &Dir, path: &Path) -> Result<(), MaterializeError> {
        // fsetxattr does not take a descriptor that only names a file, which is the only kind that a link has.
        let inode = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        if is_labelled(&inode) {
            return Ok(());
        }
        only_name(fd)
            .and_then(|()| dir.gate().pass(Step::Label, path))
            .and_then(|()| rustix::fs::setxattr(&inode, ATTRIBUTE, LABEL.to_bytes_with_nul(), XattrFlags::empty()))
            .map_err(|source| MaterializeError::Label { tree: self.tree.clone(), source })?;
        dir.touch();
        self.changed = true;
        Ok(())
    }
}

/// Whether this file is labelled so that every container may read it.
fn is_labelled(inode: &str) -> bool {
    let mut found = [0; 256];
    // What can't be read or is longer than that is not ours; setting it says why not.
    let Ok(len) = rustix::fs::getxattr(inode, ATTRIBUTE, &mut found) else { return false };
    access(&found[..len]).is_some_and(|found| Some(found) == access(LABEL.to_bytes()))
}

/// Role, type and level of a label. The user has no part in what a container may read; what is made from a shell
/// inherits that of the shell, and to change it takes a right of its own.
fn access(label: &[u8]) -> Option<&[u8]> {
    let label = label.strip_suffix(b"\0").unwrap_or(label);
    label.iter().position(|&byte| byte == b':').map(|at| &label[at..])
}

/// Refuses a file that has another name, which may be somebody else's.
fn only_name(fd: &impl AsFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(fd)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_dir || stat.st_nlink == 1 { Ok(()) } else { Err(Errno::MLINK) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::super::gate::{Cut, Gate, Script};
    use super::super::sandbox::*;
    use super::super::*;
    use super::*;
    use crate::checkpoint::rendering::Activity::Active;
    use Published::{Created, Replaced, Unchanged};

    const WANTED: &str = "system_u:object_r:container_file_t:s0";
    const OTHER: &str = "system_u:object_r:etc_t:s0";

    /// Directories where labels can be set although SELinux is off, or `None`, loudly.
    fn sandbox() -> Option<SandBox> {
        let sandbox = SandBox::new();
        let probe = rustix::fs::setxattr(sandbox.path(""), ATTRIBUTE, OTHER.as_bytes(), XattrFlags::empty());
        if let Err(errno) = probe {
            eprintln!("SKIPPED: security.selinux can't be set here ({errno}); run as root");
            return None;
        }
        Some(sandbox)
    }

    fn shelf() -> Shelf {
        Shelf::default().secret("s", &[("k", "K")])
    }

    fn planned(text: &str) -> Committed<Plan> {
        let trees = vec![tree("s", &["d/e/k=k", "l=k"]), config("a~b/c", &[&format!("k:{text}")])];
        plan(vec![pod("web", Active, "v1", trees)])
    }

    /// Renders with SELinux on; what became of the pod, what was a problem, and the steps that were taken.
    fn run(
        sandbox: &SandBox,
        text: &str,
        cut: Option<Cut>,
    ) -> (PodOutcome, Vec<MaterializeError>, Vec<(Step, PathBuf)>) {
        let script = Arc::new(Mutex::new(Script { cut, ..Script::default() }));
        let gate = Gate { script: Some(script.clone()) };
        let report = sandbox.open_as(SeLinux::On, &gate).reconcile(&planned(text), &shelf(), NOW);
        let log = std::mem::take(&mut script.lock().unwrap().log);
        (report.outcomes[0].1.clone(), report.problems, log)
    }

    fn set(path: &Path, label: &str) {
        rustix::fs::lsetxattr(path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()).unwrap();
    }

    /// The label of every entry, links not followed.
    fn labels(sandbox: &SandBox) -> BTreeMap<String, String> {
        fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let mut label = [0; 256];
                let len = rustix::fs::lgetxattr(&path, ATTRIBUTE, &mut label).unwrap_or(0);
                let label = String::from_utf8_lossy(&label[..len]).trim_end_matches('\0').to_owned();
                found.insert(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), label);
                if fs::symlink_metadata(&path).unwrap().is_dir() {
                    walk(top, &path, found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&sandbox.path(""), &sandbox.path(""), &mut found);
        found
    }

    #[track_caller]
    fn trees_are_labelled(sandbox: &SandBox) {
        let mounted = ["secrets/default/web/s", "configmaps/default/web/a~b/c"];
        let labels = labels(sandbox);
        for (path, label) in &labels {
            let in_tree = mounted.iter().any(|tree| Path::new(path).starts_with(tree));
            assert_eq!(label, if in_tree { WANTED } else { "" }, "{path}");
        }
        assert!(labels.len() > 20, "{labels:?}");
    }

    #[test]
    fn a_tree_is_labelled_everywhere_before_it_is_seen() {
        let Some(sandbox) = sandbox() else { return };
        for (text, want) in [("1", Created), ("2", Replaced)] {
            let (outcome, problems, log) = run(&sandbox, text, None);
            assert_eq!(problems, []);
            assert!(matches!(outcome, PodOutcome::Published { trees, .. } if trees == want), "{outcome:?}");
            trees_are_labelled(&sandbox);
            // Nothing but links is labelled after the rename that shows it; they inherit, which is not seen here.
            let at = |wanted: &dyn Fn(&Step, &Path) -> bool| {
                let steps = log.iter().enumerate();
                let of_tree = steps.filter(|(_, (_, path))| path.starts_with(sandbox.path("configmaps")));
                of_tree.filter(|(_, (step, path))| wanted(step, path)).map(|(at, _)| at).collect::<Vec<_>>()
            };
            let shown = at(&|step, _| *step == Step::Rename);
            let labelled = at(&|step, path| *step == Step::Label && !path.is_symlink());
            assert!(!labelled.is_empty() && labelled.last() < shown.first(), "{log:?}");
        }
    }

    #[test]
    fn a_directory_is_labelled_before_anything_inherits_from_it() {
        let Some(sandbox) = sandbox() else { return };
        for (text, mounted, generation) in [("1", ".ckpt-db.new1", "..1"), ("2", "c", "..2")] {
            let (_, problems, log) = run(&sandbox, text, None);
            assert_eq!(problems, []);
            let mounted = sandbox.path("configmaps/default/web/a~b").join(mounted);
            let at = |step, path: &PathBuf| log.iter().position(|(taken, on)| (*taken, on) == (step, path));
            let (labelled, made) = (at(Step::Label, &mounted), at(Step::MakeDir, &mounted.join(generation)));
            assert!(labelled.is_some() && labelled < made, "{log:?}");
            set(&sandbox.path("configmaps/default/web/a~b/c"), OTHER);
        }
    }

    #[test]
    fn what_is_right_is_left_alone_whoever_labelled_it() {
        let Some(sandbox) = sandbox() else { return };
        run(&sandbox, "1", None);
        set(&sandbox.path("secrets/default/web/s"), "unconfined_u:object_r:container_file_t:s0");
        let (before, labelled) = (sandbox.identities(), labels(&sandbox));
        let (outcome, problems, log) = run(&sandbox, "1", None);
        assert_eq!((outcome, problems), (PUBLISHED(Unchanged, Unchanged), vec![]));
        assert_eq!(log, []);
        assert_eq!((sandbox.identities(), labels(&sandbox)), (before, labelled));
    }

    #[test]
    fn a_wrong_label_is_repaired_in_place() {
        let Some(sandbox) = sandbox() else { return };
        run(&sandbox, "1", None);
        let before = sandbox.identities();
        let categories = format!("{WANTED}:c1,c2");
        let rows = [
            ("secrets/default/web/s", OTHER),
            ("secrets/default/web/s/..1", OTHER),
            ("secrets/default/web/s/..1/d/e", OTHER),
            ("secrets/default/web/s/..1/d/e/k", OTHER),
            ("secrets/default/web/s/..1/l", &categories),
            ("secrets/default/web/s/..data", OTHER),
            ("configmaps/default/web/a~b/c/k", "nonsense"),
        ];
        for (path, label) in rows {
            set(&sandbox.path(path), label);
            let (outcome, problems, _) = run(&sandbox, "1", None);
            assert_eq!((outcome, problems), (PUBLISHED(Replaced, Unchanged), vec![]), "{path}");
            trees_are_labelled(&sandbox);
        }
        // Trees of a time when SELinux was off.
        for path in labels(&sandbox).into_keys() {
            let _ = rustix::fs::lremovexattr(sandbox.path(&path), ATTRIBUTE);
        }
        assert_eq!(run(&sandbox, "1", None).0, PUBLISHED(Replaced, Unchanged));
        trees_are_labelled(&sandbox);
        assert_eq!(sandbox.identities(), before);
    }

    #[test]
    fn a_file_with_a_second_name_is_not_relabelled() {
        let Some(sandbox) = sandbox() else { return };
        run(&sandbox, "1", None);
        let file = sandbox.path("secrets/default/web/s/..1/l");
        fs::hard_link(&file, sandbox.path("theirs")).unwrap();
        set(&file, OTHER);
        let (outcome, problems, _) = run(&sandbox, "1", None);
        assert_eq!(outcome, PUBLISHED(Unchanged, Unchanged));
        assert_eq!(
            problems,
            [MaterializeError::Label { tree: sandbox.path("secrets/default/web/s"), source: Errno::MLINK }]
        );
        assert_eq!(labels(&sandbox)["theirs"], OTHER);
    }

    /// Needs no root: the refusal comes before the system call.
    #[test]
    fn a_refusal_is_said_once_for_each_tree_and_stops_nothing() {
        let sandbox = SandBox::new();
        let refused = |path: &str| MaterializeError::Label { tree: sandbox.path(path), source: Errno::ACCESS };
        let forbidden = Some(Cut::Every(Step::Label));
        let (outcome, problems, _) = run(&sandbox, "1", forbidden);
        assert_eq!(outcome, PUBLISHED(Created, Created));
        let trees = ["secrets/default/web/s", "configmaps/default/web/a~b/c"];
        assert_eq!(problems, trees.map(refused));
        assert_eq!(sandbox.read("secrets/default/web/s/d/e/k"), "K");

        // Nothing is written again and again because of it.
        let before = sandbox.identities();
        let (outcome, problems, _) = run(&sandbox, "1", forbidden);
        assert_eq!((outcome, problems), (PUBLISHED(Unchanged, Unchanged), trees.map(refused).to_vec()));
        assert_eq!(sandbox.identities(), before);
        assert_eq!(run(&sandbox, "2", forbidden).0, PUBLISHED(Replaced, Unchanged));
        assert_eq!(sandbox.read("configmaps/default/web/a~b/c/k"), "2");
    }

    #[test]
    fn a_refusal_of_any_one_label_is_made_good_by_the_next_pass() {
        let Some(counted) = sandbox() else { return };
        let log = run(&counted, "1", None).2;
        let steps: Vec<_> = (0..log.len()).filter(|&at| log[at].0 == Step::Label).collect();
        assert_eq!(steps.len(), 9 + 5, "{log:?}");
        for step in steps {
            let sandbox = SandBox::new();
            let (outcome, problems, _) = run(&sandbox, "1", Some(Cut::Only(step)));
            assert_eq!(outcome, PUBLISHED(Created, Created), "{step}");
            assert!(matches!(problems[..], [MaterializeError::Label { .. }]), "{step}: {problems:?}");
            assert_eq!(run(&sandbox, "1", None).1, [], "{step}");
            trees_are_labelled(&sandbox);
        }
    }

    #[test]
    fn without_selinux_nothing_is_labelled() {
        let sandbox = SandBox::new();
        let script = Arc::new(Mutex::new(Script::default()));
        let materializer = sandbox.open_as(SeLinux::Off, &Gate { script: Some(script.clone()) });
        fine(&materializer.reconcile(&planned("1"), &shelf(), NOW));
        assert!(script.lock().unwrap().log.iter().all(|(step, _)| *step != Step::Label));
        assert!(labels(&sandbox).values().all(|label| !label.contains("container_file_t")));
    }
}
