//! The settings that held last, kept beside the store: an agent that finds its configuration file wrong begins with these.
//!
//! A configuration file that was being written when the power went is empty or half there afterwards, and nobody is there to
//! mend it: the pods come back all the same.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ckpt_db::layout::Layout;
use ckpt_db::{new_directory, regular_file};

use super::settings::{FILE_MAX_BYTES, Settings};

/// The copy of the file that was accepted last.
#[derive(Clone, Debug)]
pub(super) struct LastGood {
    path: PathBuf,
    root: PathBuf,
}

impl LastGood {
    /// Of the node below `root`.
    pub(super) fn below(root: &Path) -> Self {
        Self { path: Layout::new(root).last_good_config(), root: root.to_owned() }
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its settings, if there is one and this program still takes it.
    pub(super) fn read(&self, run: &clap::Command) -> Option<Settings> {
        Settings::read(&self.path, run, &self.root).ok()
    }

    /// These hold now; `None`: those by default. Durable when it returns.
    ///
    /// # Errors
    /// The system refuses; the copy is the one of before.
    pub(super) fn keep(&self, text: Option<&str>) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(&self.root);
        let Some(text) = text else {
            return match fs::remove_file(&self.path) {
                // Else a power cut could bring it back.
                Ok(()) => File::open(directory)?.sync_all(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
        };
        let there = regular_file::read(&self.path, FILE_MAX_BYTES);
        if there.is_ok_and(|there| there.contents.expose() == text.as_bytes()) {
            return Ok(());
        }
        new_directory::make(directory)?;
        let new = self.path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::invocation::run_options;
    use super::*;

    const TEXT: &str = "apiVersion: ckpt-db.io/v1alpha1\nkind: CheckpointerConfiguration\nactivationWave: 7\n";

    #[test]
    fn what_held_last_is_there_again() {
        let root = tempfile::tempdir().unwrap();
        let last = LastGood::below(root.path());
        assert!(last.read(&run_options()).is_none());
        last.keep(None).unwrap();
        assert!(!root.path().join("var").exists(), "where there is nothing to keep nothing is made");
        for _ in 0..2 {
            last.keep(Some(TEXT)).unwrap();
            let settings = last.read(&run_options()).unwrap();
            assert_eq!(settings.options()["activation-wave"], ["7"]);
        }
        assert_eq!(fs::metadata(last.path()).unwrap().permissions().mode() & 0o777, 0o600);
        // What lies there after a power cut, or in the words of another version, is no settings.
        for garbage in ["", "apiVersion: ckpt-db.io/v9\n"] {
            fs::write(last.path(), garbage).unwrap();
            assert!(last.read(&run_options()).is_none(), "{garbage:?}");
        }
        last.keep(Some(TEXT)).unwrap();
        assert_eq!(fs::read_to_string(last.path()).unwrap(), TEXT);
        last.keep(None).unwrap();
        assert!(last.read(&run_options()).is_none());
        let left = fs::read_dir(last.path().parent().unwrap()).unwrap().count();
        assert_eq!(left, 0, "nor is anything left beside it");
    }
}
