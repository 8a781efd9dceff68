//! bincode stays where it is: in `src/codec.rs`, on types that nobody outside of this crate can name.
//!
//! The crate is pinned and unmaintained. As long as this holds, replacing it is the work of one file, and the format can't
//! change because a derive somewhere else did.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const WORD: &str = concat!("bin", "code");

/// Every `.rs` file below `directory`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn code_names_it(path: &Path) -> bool {
    // Comments may say the word.
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).any(|line| line.contains(WORD))
}

#[test]
fn only_the_codec_names_it() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().unwrap();
    let rooms = [here.join("src"), here.join("tests"), root.join("src"), root.join("tests"), root.join("benches")];
    let files: Vec<PathBuf> = rooms.iter().flat_map(|room| sources(room)).collect();
    assert!(files.len() > 10, "the sources were not found");
    let naming: Vec<&PathBuf> =
        files.iter().filter(|path| !path.ends_with("tests/bincode_confined.rs") && code_names_it(path)).collect();
    assert_eq!(naming, [&here.join("src/codec.rs")]);
}

#[test]
fn only_this_crate_depends_on_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, package) = manifest.split_once("[package]").expect("the root is a package");
    assert!(!package.contains(WORD), "the main package must not depend on it");
}

/// The codec is a private module, what it derives for is visible in this crate only, and its traits leave it under no name.
#[test]
fn no_public_type_derives_its_traits() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = fs::read_to_string(here.join("src/lib.rs")).unwrap();
    assert!(library.lines().any(|line| line == "mod codec;"));
    let exported = library.split(';').filter(|item| item.contains("pub use") && item.contains("codec::"));
    assert_eq!(exported.count(), 0, "the codec exports nothing");

    let codec = fs::read_to_string(here.join("src/codec.rs")).unwrap();
    let mut lines = codec.lines();
    let mut wire_types = 0;
    while let Some(line) = lines.next() {
        assert!(!line.trim_start().starts_with("pub ") && !line.contains("pub(crate) use"), "{line}");
        if line.contains("derive(") && line.contains("code") {
            let item = lines.next().unwrap();
            assert!(item.starts_with("pub(crate) struct ") && item.contains("Wire"), "{item}");
            wire_types += 1;
        }
    }
    assert_eq!(wire_types, 10);
    for path in sources(&here.join("src")).iter().filter(|path| !path.ends_with("codec.rs")) {
        let text = fs::read_to_string(path).unwrap();
        let derives = text.lines().filter(|line| line.contains("derive(") && line.contains("code"));
        assert_eq!(derives.count(), 0, "{}", path.display());
    }
}
