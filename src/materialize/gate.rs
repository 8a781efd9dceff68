//! The seam through which every change to a file system passes, so that tests can cut it at any step.
//!
//! Outside of tests it is empty and always open.

use std::path::Path;

use rustix::io::Errno;

/// One change to a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    MakeDir,
    Create,
    Write,
    SetAttr,
    /// Sets an SELinux label.
    Label,
    SyncFile,
    SyncDir,
    MakeLink,
    /// The path is the new name.
    Rename,
    Unlink,
    RemoveDir,
}

/// Lets a step pass, or not.
#[derive(Clone, Default)]
pub(super) struct Gate {
    #[cfg(test)]
    pub(super) script: Option<std::sync::Arc<std::sync::Mutex<Script>>>,
}

impl Gate {
    /// Called before each step.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the test build uses both")]
    pub(super) fn pass(&self, _step: Step, _path: &Path) -> Result<(), Errno> {
        Ok(())
    }

    /// Called before each step.
    #[cfg(test)]
    pub(super) fn pass(&self, step: Step, path: &Path) -> Result<(), Errno> {
        let Some(script) = &self.script else { return Ok(()) };
        let mut script = script.lock().unwrap();
        if let Some(watch) = &mut script.watch {
            watch(step, path);
        }
        let number = script.log.len();
        script.log.push((step, path.to_owned()));
        match script.cut {
            Some(Cut::From(first)) if number >= first => Err(Errno::IO),
            Some(Cut::Only(one)) if number == one => Err(Errno::NOSPC),
            Some(Cut::Every(kind)) if kind == step => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }
}

/// What a test wants to happen, and what did.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Script {
    pub(super) cut: Option<Cut>,
    pub(super) log: Vec<(Step, std::path::PathBuf)>,
    /// Called before each step, to look at what there is.
    pub(super) watch: Option<Watch>,
}

#[cfg(test)]
pub(super) type Watch = Box<dyn FnMut(Step, &Path) + Send>;

/// Which steps fail.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// This one and all later ones, as if the process had been killed.
    From(usize),
    /// This one only, as if the disk had been full for a moment.
    Only(usize),
    /// All of this kind, as if a policy forbade them.
    Every(Step),
}
