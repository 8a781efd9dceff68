//! Where node keys are looked for, and in which order.

use std::path::{Path, PathBuf};

use super::file::{KeyFileError, NodeKey, load};

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct KeySearch {
    /// Files that the operator named.
    pub explicit: Vec<PathBuf>,
    /// Files to try besides.
    pub defaults: Vec<PathBuf>,
}

/// What a search gave.
pub struct Found {
    /// Keys, in the order of preference; each key once, whatever files it lies in.
    pub keys: Vec<NodeKey>,
    /// Files that gave none, and why.
    pub tried: Vec<(PathBuf, KeyFileError)>,
}

/// Where kubelets keep the certificates that they rotate, below the root.
const PKI: [&str; 2] = ["var/lib/kubelet/pki", "var/lib/k0s/kubelet/pki"];

/// How many earlier keys of a directory are tried, the newest first: years of rotations.
const EARLIER_MAX: usize = 16;

/// The usual places of the node's keys: the kubelet's client key, its serving key, one of our own, and last those that the
/// kubelet used before a rotation, which still open a store that was made with them.
#[must_use]
pub fn default_key_paths(root: &Path) -> Vec<PathBuf> {
    let mut paths = current_key_paths(root);
    paths.extend(PKI.iter().flat_map(|directory| earlier_keys(&root.join(directory))));
    paths
}

/// `kubelet-client-2026-11-21-07-30-33.pem` and the like: a rotation leaves them beside the `-current` link
/// (client-go, `util/certificate/certificate_store.go`). A directory that can't be read has none.
fn earlier_keys(directory: &Path) -> Vec<PathBuf> {
    let dated = |name: &str| {
        let rest = name.strip_prefix("kubelet-client-").or_else(|| name.strip_prefix("kubelet-server-"));
        rest.and_then(|rest| rest.strip_suffix(".pem"))
            .is_some_and(|date| date.starts_with(|c: char| c.is_ascii_digit()))
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| dated(name));
    // The date sorts as text; client keys and serving keys side by side.
    names.sort_by(|one, other| other["kubelet-client-".len()..].cmp(&one["kubelet-client-".len()..]));
    names.truncate(EARLIER_MAX);
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// The usual places of the keys that the node has now.
#[must_use]
pub fn current_key_paths(root: &Path) -> Vec<PathBuf> {
    [
        "var/lib/kubelet/pki/kubelet-client-current.pem",
        "var/lib/kubelet/pki/kubelet-client.key",
        "var/lib/rancher/k3s/agent/client-kubelet.key",
        "var/lib/rancher/rke2/agent/client-kubelet.key",
        "var/lib/k0s/kubelet/pki/kubelet-client-current.pem",
        "var/lib/kubelet/pki/kubelet-server-current.pem",
        "var/lib/kubelet/pki/kubelet.key",
        "var/lib/ckpt-db/node-key.pem",
    ]
    .map(|path| root.join(path))
    .to_vec()
}

/// Reads every file of the search.
#[must_use]
pub fn find(search: &KeySearch) -> Found {
    let mut found = Found { keys: Vec::new(), tried: Vec::new() };
    for path in search.explicit.iter().chain(&search.defaults) {
        match load(path) {
            Ok(key) => {
                let known = found.keys.iter().any(|other| {
                    other.secret.algorithm() == key.secret.algorithm()
                        && other.secret.canonical() == key.secret.canonical()
                });
                if !known {
                    found.keys.push(key);
                }
            }
            Err(error) => found.tried.push((path.clone(), error)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::file::write_generated;
    use super::*;
    use crate::crypto::generate_p256_pkcs8;

    #[test]
    fn every_key_is_found_once_in_the_order_of_preference() {
        let root = tempfile::tempdir().unwrap();
        let paths = current_key_paths(root.path());
        let (one, other) = (generate_p256_pkcs8().unwrap(), generate_p256_pkcs8().unwrap());
        write_generated(&paths[7], &one).unwrap();
        write_generated(&paths[0], &other).unwrap();
        write_generated(&paths[5], &other).unwrap();
        let found = find(&KeySearch { explicit: vec![paths[7].clone()], defaults: paths.clone() });
        let sources: Vec<_> = found.keys.iter().map(|key| key.source.clone()).collect();
        assert_eq!(sources, [paths[7].clone(), paths[0].clone()]);
        assert_eq!(found.tried.len(), 5);
        assert!(found.tried.iter().all(|(_, error)| error.is_absent()));
    }

    #[test]
    fn keys_from_before_a_rotation_are_tried_last_and_the_newest_first() {
        let root = tempfile::tempdir().unwrap();
        let pki = root.path().join("var/lib/kubelet/pki");
        std::fs::create_dir_all(&pki).unwrap();
        for name in [
            "kubelet-client-2025-11-21-07-30-33.pem",
            "kubelet-client-2026-11-21-07-30-33.pem",
            "kubelet-server-2026-01-01-00-00-00.pem",
            "kubelet-client-current.pem",
            "kubelet-client-.pem",
            "kubelet.crt",
            "other-2026.pem",
        ] {
            std::fs::write(pki.join(name), "").unwrap();
        }
        let paths = default_key_paths(root.path());
        let found: Vec<_> =
            paths[current_key_paths(root.path()).len()..].iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(
            found,
            [
                "kubelet-client-2026-11-21-07-30-33.pem",
                "kubelet-server-2026-01-01-00-00-00.pem",
                "kubelet-client-2025-11-21-07-30-33.pem"
            ]
        );
    }
}
