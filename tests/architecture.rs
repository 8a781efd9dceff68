//! The direction of dependencies, read off the `use` lines: `cli -> agent -> adapters -> checkpoint`.
//!
//! Adapters do not know each other; the pure core knows nothing of files, clocks, logs or the network; `ring` and redb
//! each stay in their place.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may name of this crate. The small shared files (`clear`, `crypto`, `date`, `feature_gates`, `hardening`, `layout`,
/// `lock`, `new_directory`, `regular_file`) know nothing but each other.
const ROOMS: [(&str, &[&str]); 19] = [
    ("clear", &[]),
    ("date", &[]),
    ("crypto", &["clear"]),
    ("feature_gates", &[]),
    ("hardening", &[]),
    ("layout", &[]),
    ("lock", &[]),
    ("new_directory", &[]),
    ("regular_file", &["clear"]),
    ("checkpoint", &["clear"]),
    ("store", &["checkpoint", "clear", "crypto", "lock", "new_directory"]),
    ("keys", &["clear", "crypto", "new_directory", "regular_file"]),
    ("source", &["checkpoint", "clear", "crypto", "date", "lock", "regular_file"]),
    ("node", &["checkpoint", "clear", "regular_file"]),
    ("ops", &["checkpoint", "date", "lock"]),
    // `Committed` alone, the evidence that it asks for.
    ("materialize", &["checkpoint", "clear", "lock", "store"]),
    ("agent", &["checkpoint", "clear", "crypto", "date", "keys", "materialize", "node", "ops", "source", "store"]),
    // The public API names what is below, and holds no code.
    ("embed", &["agent", "checkpoint", "clear", "crypto", "feature_gates", "keys", "store"]),
    (
        "cli",
        &[
            "agent",
            "checkpoint",
            "crypto",
            "date",
            "feature_gates",
            "hardening",
            "keys",
            "layout",
            "materialize",
            "new_directory",
            "node",
            "ops",
            "regular_file",
            "source",
            "store",
        ],
    ),
];

#[test]
fn rooms_know_only_what_lies_below_them() {
    let mut seen = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            assert!(["lib", "main"].contains(&room.as_str()), "{} is in no known room", path.display());
            continue;
        };
        seen.push(room.clone());
        for (line, named) in names(&text) {
            let fine = named == room || allowed.contains(&named.as_str());
            assert!(fine, "{}:{line}: room {room} must not know {named}", path.display());
        }
    }
    for (room, _) in ROOMS {
        assert!(seen.iter().any(|other| other == room), "room {room} has no file");
    }
}

#[test]
fn materialize_takes_nothing_of_the_store_but_evidence() {
    for (path, text) in sources().into_iter().filter(|(path, _)| room_of(path) == "materialize") {
        for line in text.lines().filter(|line| line.contains("crate::store")) {
            assert_eq!(line.trim(), "use crate::store::Committed;", "{}", path.display());
        }
    }
}

#[test]
fn the_core_is_pure() {
    let forbidden = [
        "std::fs",
        "std::env",
        "std::net",
        "std::process",
        "std::time",
        "std::thread",
        "std::io::std",
        "tokio",
        "tracing",
        "rustix",
        "redb",
        "ring::",
        "println!",
        "eprintln!",
    ];
    for (path, text) in sources().into_iter().filter(|(path, _)| room_of(path) == "checkpoint") {
        // Its unit tests may do as they like.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in forbidden {
            assert!(!code.lines().any(|line| has_word(line, word)), "{} names {word}", path.display());
        }
    }
}

#[test]
fn crates_with_a_place_of_their_own_stay_there() {
    let places = [
        ("ring::", &["src/crypto.rs"][..]),
        ("redb::", &["src/store/"][..]),
        ("tokio::", &["src/agent/", "src/node/cri/", "src/ops/", "src/source/api/"][..]),
        ("kube::", &["src/source/api/"][..]),
        ("hyper::", &["src/node/cri/", "src/ops/endpoints", "src/source/api/"][..]),
        ("hyper_util::", &["src/node/cri/", "src/ops/endpoints", "src/source/api/"][..]),
        ("hyper_rustls::", &["src/source/api/"][..]),
        ("h2::", &["src/source/api/"][..]),
        ("http::", &["src/node/cri/", "src/source/api/"][..]),
        ("http_body_util::", &["src/node/cri/", "src/ops/endpoints", "src/source/api/"][..]),
        ("prost::", &["src/node/cri/"][..]),
        ("tower::", &["src/source/api/"][..]),
        ("rustls::", &["src/source/api/"][..]),
    ];
    for (path, text) in sources() {
        for (name, allowed) in places {
            let named = text.lines().any(|line| has_word(line, name) && !line.trim_start().starts_with("//"));
            let shown = path.to_str().unwrap();
            assert!(!named || allowed.iter().any(|place| shown.starts_with(place)), "{shown} names {name}");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no header", path.display());
        assert!(text.lines().count() <= 650, "{} is too long to be one thought", path.display());
    }
}

/// Whether `word` stands in the line and is not the end of a longer one, as in `rendering::`.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    found.sort();
    assert!(found.len() > 40, "the sources were not found");
    found
}

fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

fn room_of(path: &Path) -> String {
    let below = path.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Every `crate::x` and `ckpt_db::x` outside of comments, with its line.
fn names(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for prefix in ["crate::", "ckpt_db::"] {
            for (at, _) in line.match_indices(prefix) {
                let rest = &line[at + prefix.len()..];
                let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !name.is_empty() {
                    found.push((number + 1, name));
                }
            }
        }
    }
    found
}
