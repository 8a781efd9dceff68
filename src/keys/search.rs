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

/// The usual places of the node's keys: the kubelet's client key, its serving key, then one of our own.
#[must_use]
pub fn default_key_paths(root: &Path) -> Vec<PathBuf> {
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
        let paths = default_key_paths(root.path());
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
}
