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
    /// Which of them are current, and so get a key slot, as indexes; the others may open one that is there.
    ///
    /// Every key that the operator named, and the first of the usual ones that are not dated. There is none of these while a
    /// file in front of it is being written, or its link leads nowhere: that is over in a moment.
    pub current: Vec<usize>,
    /// Files that gave none, and why.
    pub tried: Vec<(PathBuf, KeyFileError)>,
}

/// Where kubelets keep the certificates that they rotate, below the root.
const PKI: [&str; 2] = ["var/lib/kubelet/pki", "var/lib/k0s/kubelet/pki"];

/// How many earlier client keys of a directory are tried, and how many serving keys, the newest first: years of rotations.
const EARLIER_MAX: usize = 64;

/// The usual places of the node's keys: the kubelet's client key, its serving key, one of our own, and last those that the
/// kubelet used before a rotation, which still open a store that was made with them.
#[must_use]
pub fn default_key_paths(root: &Path) -> Vec<PathBuf> {
    let mut paths = current_key_paths(root);
    paths.extend(PKI.iter().flat_map(|directory| earlier_keys(&root.join(directory))));
    paths
}

/// What a rotation leaves beside the `-current` link (client-go, `util/certificate/certificate_store.go`). A directory that
/// can't be read has none.
fn earlier_keys(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let mut dated: Vec<(&str, &String)> = Vec::new();
    for prefix in DATED {
        let mut of_one: Vec<_> = names.iter().filter_map(|name| Some((date(name, prefix)?, name))).collect();
        of_one.sort_by(|one, other| other.cmp(one));
        of_one.truncate(EARLIER_MAX);
        dated.extend(of_one);
    }
    // The date sorts as text; client keys and serving keys side by side.
    dated.sort_by(|one, other| other.0.cmp(one.0));
    dated.into_iter().map(|(_, name)| directory.join(name)).collect()
}

const DATED: [&str; 2] = ["kubelet-client-", "kubelet-server-"];

/// The date in `kubelet-client-2026-11-21-07-30-33.pem` and the like.
fn date<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let date = name.strip_prefix(prefix)?.strip_suffix(".pem")?;
    date.starts_with(|c: char| c.is_ascii_digit()).then_some(date)
}

fn is_dated(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    DATED.iter().any(|prefix| date(name, prefix).is_some())
}

fn current_key_paths(root: &Path) -> Vec<PathBuf> {
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
    let mut found = Found { keys: Vec::new(), current: Vec::new(), tried: Vec::new() };
    for path in &search.explicit {
        if let Some(at) = found.take(path)
            && !found.current.contains(&at)
        {
            found.current.push(at);
        }
    }
    let mut looked_for = true;
    for path in &search.defaults {
        match found.take(path) {
            // Without a public part there is no name that its slot could have.
            Some(at) if looked_for && !is_dated(path) && found.keys[at].secret.public_spki().is_some() => {
                looked_for = false;
                if !found.current.contains(&at) {
                    found.current.push(at);
                }
            }
            Some(_) => {}
            None => looked_for &= is_dated(path) || !found.is_unfinished(path),
        }
    }
    found
}

impl Found {
    /// Reads one file; which of the keys it holds.
    fn take(&mut self, path: &Path) -> Option<usize> {
        let key = match load(path) {
            Ok(key) => key,
            Err(error) => {
                self.tried.push((path.to_owned(), error));
                return None;
            }
        };
        let same = |other: &NodeKey| {
            other.secret.algorithm() == key.secret.algorithm() && other.secret.canonical() == key.secret.canonical()
        };
        let Some(known) = self.keys.iter().position(same) else {
            self.keys.push(key);
            return Some(self.keys.len() - 1);
        };
        // The same key with its public part is of more use.
        if self.keys[known].secret.public_spki().is_none() {
            self.keys[known] = key;
        }
        Some(known)
    }

    /// Whether the file that was read last, in vain, may be a good one in a moment.
    fn is_unfinished(&self, path: &Path) -> bool {
        match self.tried.last() {
            Some((tried, error)) if tried == path => match error {
                // A link that leads nowhere.
                KeyFileError::Read { source, .. } if source.is_absent() => std::fs::symlink_metadata(path).is_ok(),
                KeyFileError::Read { .. } | KeyFileError::NotPem(_) | KeyFileError::NoKey { .. } => true,
                KeyFileError::Encrypted(_)
                | KeyFileError::Key { .. }
                | KeyFileError::Exists(_)
                | KeyFileError::Write { .. } => false,
            },
            Some(_) | None => false,
        }
    }
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
        assert_eq!(found.current, [0, 1], "the one that was named, and the first of the others");
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
    /// Which file's key gets a slot, whatever lies in front of it.
    #[test]
    fn the_current_key_is_the_first_that_is_whole() {
        const CLIENT: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";
        const SERVING: &str = "var/lib/kubelet/pki/kubelet.key";
        const DATED: &str = "var/lib/kubelet/pki/kubelet-client-2026-11-21-07-30-33.pem";
        const OWN: &str = "var/lib/ckpt-db/node-key.pem";
        let whole = |root: &Path, name: &str| {
            write_generated(&root.join(name), &generate_p256_pkcs8().unwrap()).unwrap();
            std::fs::read_to_string(root.join(name)).unwrap()
        };
        type Prepare = fn(&Path);
        let client: [(&str, Prepare, Option<&str>); 9] = [
            ("absent", |_| {}, Some(SERVING)),
            ("whole", |_| {}, Some(CLIENT)),
            ("half", |path| std::fs::write(path, "-----BEGIN PRIVATE KEY-----\nMIGH").unwrap(), None),
            ("empty", |path| std::fs::write(path, "").unwrap(), None),
            ("link to nothing", |path| std::os::unix::fs::symlink("nothing.pem", path).unwrap(), None),
            ("link to itself", |path| std::os::unix::fs::symlink(path, path).unwrap(), None),
            ("directory", |path| std::fs::create_dir(path).unwrap(), None),
            (
                "link to the dated one",
                |path| {
                    std::os::unix::fs::symlink(path.with_file_name(DATED.rsplit('/').next().unwrap()), path).unwrap()
                },
                Some(CLIENT),
            ),
            (
                "of no use for ever",
                |path| {
                    std::fs::write(
                        path,
                        "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGk=\n-----END ENCRYPTED PRIVATE KEY-----\n",
                    )
                    .unwrap();
                },
                Some(SERVING),
            ),
        ];
        for (name, prepare, want) in client {
            let root = tempfile::tempdir().unwrap();
            for file in [SERVING, DATED, OWN] {
                whole(root.path(), file);
            }
            if name == "whole" {
                whole(root.path(), CLIENT);
            }
            prepare(&root.path().join(CLIENT));
            let found = find(&KeySearch { explicit: vec![], defaults: default_key_paths(root.path()) });
            let current: Vec<_> = found.current.iter().map(|at| found.keys[*at].source.clone()).collect();
            assert_eq!(current, want.map(|want| root.path().join(want)).into_iter().collect::<Vec<_>>(), "{name}");
            let count = if name == "whole" { 4 } else { 3 };
            assert_eq!(found.keys.len(), count, "{name}: all open what they open");
        }
        // Dated keys alone are those of a kubelet that is gone.
        let root = tempfile::tempdir().unwrap();
        whole(root.path(), DATED);
        let found = find(&KeySearch { explicit: vec![], defaults: default_key_paths(root.path()) });
        assert_eq!((found.keys.len(), found.current.len()), (1, 0));
    }

    #[test]
    fn of_many_earlier_keys_the_newest_are_tried() {
        let root = tempfile::tempdir().unwrap();
        let pki = root.path().join("var/lib/kubelet/pki");
        std::fs::create_dir_all(&pki).unwrap();
        for day in 1..=80 {
            std::fs::write(pki.join(format!("kubelet-client-2026-01-{day:02}.pem")), "").unwrap();
        }
        std::fs::write(pki.join("kubelet-server-2025-01-01.pem"), "").unwrap();
        let found = earlier_keys(&pki);
        assert_eq!(found.len(), EARLIER_MAX + 1);
        assert_eq!(found[0], pki.join("kubelet-client-2026-01-80.pem"));
        assert_eq!(found[EARLIER_MAX - 1], pki.join("kubelet-client-2026-01-17.pem"));
        assert_eq!(found[EARLIER_MAX], pki.join("kubelet-server-2025-01-01.pem"), "client keys do not crowd it out");
    }
}
