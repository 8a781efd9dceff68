//! The machine's first file system: a cpio archive in memory, in the format `newc` that Linux unpacks at its start.
//!
//! It holds the program under test, with the libraries that it is linked to if any, busybox, the disk's drivers, a node key
//! and the scripted source. Several archives may follow each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive that is being made.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o04_0755;
const PROGRAM: u32 = 0o10_0755;
const PRIVATE: u32 = 0o10_0600;
const DEVICE: u32 = 0o02_0600;

impl Archive {
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) {
        self.directories_of(Path::new(path));
        self.entry(path, PRIVATE, (0, 0), contents);
    }

    pub(crate) fn script(&mut self, path: &str, contents: &[u8]) {
        self.directories_of(Path::new(path));
        self.entry(path, PROGRAM, (0, 0), contents);
    }

    /// A program of this machine without what only a debugger wants, and every library that it names.
    pub(crate) fn program(&mut self, path: &str, from: &Path, scratch: &Path) {
        let stripped = scratch.join("stripped");
        let done = Command::new("strip").arg("-o").arg(&stripped).arg(from).status();
        let smaller = if done.is_ok_and(|status| status.success()) { &stripped } else { from };
        self.script(path, &fs::read(smaller).unwrap());
        for library in libraries(from) {
            let inside = library.strip_prefix("/").unwrap().to_str().unwrap().to_owned();
            if !self.directories.contains(Path::new(&inside)) {
                self.script(&inside, &fs::read(&library).unwrap());
                self.directories.insert(inside.into());
            }
        }
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.directories_of(&Path::new(path).join("x"));
    }

    /// A character device, such as the console that the first process writes to.
    pub(crate) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.directories_of(Path::new(path));
        self.entry(path, DEVICE, number, b"");
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }

    fn directories_of(&mut self, path: &Path) {
        let above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for directory in above.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
            if self.directories.insert(directory.clone()) {
                self.entry(directory.to_str().unwrap(), DIRECTORY, (0, 0), b"");
            }
        }
    }

    /// Thirteen numbers of eight hexadecimal digits, the name, and the contents; both are padded to four bytes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        let (size, name_size) = (u32::try_from(contents.len()).unwrap(), u32::try_from(name.len() + 1).unwrap());
        let numbers = [0, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend(b"070701");
        numbers.iter().for_each(|number| self.bytes.extend(format!("{number:08x}").bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The loader and the libraries of a program, as the loader finds them; none if it is linked statically.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')).map(PathBuf::from).collect()
}

#[test]
fn an_archive_that_cpio_unpacks() {
    let directory = tempfile::tempdir().unwrap();
    let mut archive = Archive::default();
    archive.file("some/where/odd", b"12345");
    archive.script("init", b"");
    archive.directory("some/empty");
    let mut child = Command::new("busybox")
        .args(["cpio", "-i", "-d"])
        .current_dir(directory.path())
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let Ok(child) = &mut child else { return };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &archive.finish()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read(directory.path().join("some/where/odd")).unwrap(), b"12345");
    assert!(directory.path().join("some/empty").is_dir() && directory.path().join("init").is_file());
}
