//! `ckpt-db env-file`: run by the init container of a copy, in the pod's own image and as its user. It makes the env file.
//!
//! It needs nothing but a directory to read and one to write: no C library, no privilege, no other writable path. It prints
//! nothing of what it reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use zeroize::Zeroizing;

use ckpt_db::checkpoint::env_file::{self, FILE_BYTES_MAX, VALUE_BYTES_MAX};

use super::Exit;

/// Write an env file as kubelets read it, one variable for each file of a directory
///
/// The init container of a copy runs this. Names that start with two dots are passed over, as the published tree has some.
#[derive(Args, Debug)]
pub(crate) struct EnvFile {
    /// Directory of the values: each file's name is a key, and its contents the value
    #[arg(value_name = "DIR")]
    values: PathBuf,

    /// The env file; replaced if it is there
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl EnvFile {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut keys = Vec::new();
        let read = |path: &Path| format!("cannot read {}", path.display());
        for entry in fs::read_dir(&self.values).with_context(|| read(&self.values))? {
            let name = entry.with_context(|| read(&self.values))?.file_name();
            match name.to_str() {
                Some(key) if env_file::is_key(key) => keys.push(key.to_owned()),
                Some(name) if name.starts_with("..") => {}
                Some(_) | None => bail!("{} is no key of an env file", self.values.join(name).display()),
            }
        }
        keys.sort_unstable();
        // Sized at once: a buffer that grows leaves parts of a secret behind.
        let mut contents = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
        let mut value = Zeroizing::new(Vec::with_capacity(VALUE_BYTES_MAX + 1));
        for key in &keys {
            let path = self.values.join(key);
            value.clear();
            let file = File::open(&path).with_context(|| read(&path))?;
            file.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value).with_context(|| read(&path))?;
            if !env_file::append(&mut contents, key, &value) {
                bail!("{} can't stand in an env file: its contents, or the length of all together", path.display());
            }
        }
        write(&self.file, &contents).with_context(|| format!("cannot write {}", self.file.display()))?;
        Ok(Exit::Fine)
    }
}

/// Whole or not at all: the kubelet may look at any time. Only its owner and the kubelet, which is root, read it.
fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // What an earlier run left when it was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
    file.write_all(contents)?;
    // No sync: the volume is memory, and is gone with the pod.
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn run(values: &Path, file: &Path) -> Result<(), String> {
        let command = EnvFile { values: values.to_owned(), file: file.to_owned() };
        command.run().map(drop).map_err(|error| super::super::chain(&error))
    }

    #[test]
    fn a_published_tree_becomes_an_env_file() {
        let directory = tempfile::tempdir().unwrap();
        let (values, file) = (directory.path().join("values"), directory.path().join("secrets"));
        // As trees are published: a generation, a link to it, links into it.
        fs::create_dir_all(values.join("..1")).unwrap();
        symlink("..1", values.join("..data")).unwrap();
        for (key, value) in [("V10", "ten"), ("V2", "two\nlines"), ("V1", " $(A) ")] {
            fs::write(values.join("..1").join(key), value).unwrap();
            symlink(format!("..data/{key}"), values.join(key)).unwrap();
        }
        for _ in 0..2 {
            run(&values, &file).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "V1=' $(A) '\nV10='ten'\nV2='two\nlines'\n");
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o400);
            // What a run that was killed left behind.
            fs::write(directory.path().join("secrets.new"), "half").unwrap();
        }
        // Whatever can't be done leaves the file as it is, and says nothing of the value.
        for (key, value) in [("V3", "canary's"), ("V3", ""), ("V 3", "canary")] {
            fs::write(values.join(key), value).unwrap();
            let said = run(&values, &file).unwrap_err();
            assert!(said.contains(key) && !said.contains("canary"), "{said}");
            fs::remove_file(values.join(key)).unwrap();
        }
        fs::write(values.join("V3"), vec![b'x'; VALUE_BYTES_MAX + 1]).unwrap();
        assert!(run(&values, &file).unwrap_err().contains("length"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "V1=' $(A) '\nV10='ten'\nV2='two\nlines'\n");
        assert!(run(&directory.path().join("none"), &file).unwrap_err().contains("cannot read"));
        assert!(run(&values.join("..1"), Path::new("/proc/none")).unwrap_err().contains("cannot write"));
    }
}
