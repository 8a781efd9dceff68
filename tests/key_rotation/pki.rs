//! A kubelet's pki directory, rotated as a kubelet does it, one step after the other.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::fake::Validity;
use crate::scene::{PEM, Scene};

/// The steps of client-go's `certificate_store.go`, and what else may be seen of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The dated file is there, and cut short.
    Half,
    /// It is whole.
    Whole,
    /// A second link leads to it.
    Updated,
    /// It has taken the place of the first.
    Renamed,
}

pub(crate) const STEPS: [Step; 4] = [Step::Half, Step::Whole, Step::Updated, Step::Renamed];

/// One key of the node: the name of its file, and what is in it.
#[derive(Clone)]
pub(crate) struct Dated {
    pub(crate) name: String,
    pub(crate) pem: String,
}

/// The directory, and every key that ever was in it, the oldest first.
pub(crate) struct Pki {
    directory: PathBuf,
    pub(crate) keys: Vec<Dated>,
}

impl Pki {
    /// Of a node that has joined.
    pub(crate) fn of(scene: &Scene) -> Self {
        let current = scene.node.at(PEM);
        let dated = fs::read_link(&current).unwrap();
        let name = dated.file_name().unwrap().to_str().unwrap().to_owned();
        let pem = fs::read_to_string(&current).unwrap();
        Self { directory: current.parent().unwrap().to_owned(), keys: vec![Dated { name, pem }] }
    }

    /// A new certificate with a new key, as the kubelet has it in memory.
    pub(crate) fn issue(&mut self, scene: &Scene) {
        scene.server.issue_client_certificate(Validity::now());
        let elsewhere = tempfile::tempdir().unwrap();
        let path = scene.server.swap_current_pem(elsewhere.path());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(self.keys.last().unwrap().name < name, "its date is later");
        self.keys.push(Dated { name, pem: fs::read_to_string(path).unwrap() });
    }

    /// One step of writing it down.
    pub(crate) fn step(&self, step: Step) {
        let Dated { name, pem } = self.newest();
        let (dated, updated) = (self.directory.join(name), self.directory.join("kubelet-client-updated.pem"));
        match step {
            Step::Half => fs::write(dated, &pem[..pem.len() - pem.len() / 4]).unwrap(),
            Step::Whole => fs::write(dated, pem).unwrap(),
            Step::Updated => symlink(dated, updated).unwrap(),
            Step::Renamed => fs::rename(updated, self.directory.join("kubelet-client-current.pem")).unwrap(),
        }
    }

    /// A whole rotation.
    pub(crate) fn rotate(&mut self, scene: &Scene) {
        self.issue(scene);
        STEPS.into_iter().for_each(|step| self.step(step));
    }

    pub(crate) fn newest(&self) -> &Dated {
        self.keys.last().unwrap()
    }

    /// Writes these keys and no others, the last of them being the current one.
    pub(crate) fn write(keys: &[Dated], root: &Path) {
        let directory = root.join(PEM).parent().unwrap().to_owned();
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap();
        }
        fs::create_dir_all(&directory).unwrap();
        for Dated { name, pem } in keys {
            fs::write(directory.join(name), pem).unwrap();
        }
        if let Some(last) = keys.last() {
            symlink(&last.name, root.join(PEM)).unwrap();
        }
    }
}
