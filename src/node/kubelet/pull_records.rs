//! Reads the records that a kubelet since 1.35 keeps of the images it pulled, below `<its root>/image_manager`.
//!
//! The format is `ImagePullIntent` and `ImagePulledRecord` of `kubelet.config.k8s.io`, `v1alpha1` or `v1beta1`, one JSON
//! object a file, named `sha256-...`; names that end in `.tmp` are unfinished.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::look::{PullRecord, PullRecords, PulledWith};
use crate::checkpoint::node::Fact;
use crate::node::file;

/// A node has some hundred images. More files than this were not made by a kubelet.
const FILES_MAX: usize = 10_000;

/// What the kubelet with the root directory `kubelet_root`, as seen from here, has recorded.
///
/// Without such records (an older kubelet) the answer is empty. A directory that can't be read is [`Fact::Unknown`].
#[must_use]
pub fn read(kubelet_root: &Path) -> Fact<PullRecords> {
    match collect(&kubelet_root.join("image_manager")) {
        Ok(records) => Fact::Known(records),
        Err(why) => Fact::Unknown(why),
    }
}

fn collect(directory: &Path) -> Result<PullRecords, String> {
    let mut records = PullRecords::default();
    let mut unreadable = None;
    for path in files(&directory.join("pulling"))? {
        match intent(&path) {
            Ok(image) => records.pulling.extend(image),
            Err(why) => unreadable = Some(why),
        }
    }
    for path in files(&directory.join("pulled"))? {
        match pulled(&path) {
            Ok(record) => records.pulled.extend(record),
            Err(why) => unreadable = Some(why),
        }
    }
    records.unreadable = unreadable;
    Ok(records)
}

/// The finished records in a directory, by name; none if there is no such directory.
fn files(directory: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let unreadable = |error: io::Error| file::cannot("read", directory, &error);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("sha256-") || name.ends_with(".tmp") || entry.file_type().map_err(unreadable)?.is_dir() {
            continue;
        }
        files.insert(entry.path());
        if files.len() > FILES_MAX {
            return Err(format!("{} holds more than {FILES_MAX} records", directory.display()));
        }
    }
    Ok(files)
}

/// The image of an intent; none if the file is gone by now.
fn intent(path: &Path) -> Result<Option<String>, String> {
    #[derive(Deserialize)]
    struct Intent {
        image: String,
    }
    Ok(object::<Intent>(path, "ImagePullIntent")?.map(|intent| intent.image))
}

fn pulled(path: &Path) -> Result<Option<PullRecord>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Record {
        image_ref: String,
        #[serde(default)]
        credential_mapping: Option<BTreeMap<String, Credentials>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Credentials {
        #[serde(default)]
        kubernetes_secrets: Option<Vec<Coordinates>>,
        #[serde(default)]
        kubernetes_service_accounts: Option<Vec<Coordinates>>,
        #[serde(default)]
        node_pods_accessible: bool,
    }
    // `uid` and `credentialHash` stand beside these and are not read: a copy has neither.
    #[derive(Deserialize)]
    struct Coordinates {
        namespace: String,
        name: String,
    }
    let names = |list: Option<Vec<Coordinates>>| -> Vec<String> {
        let names: BTreeSet<String> =
            list.unwrap_or_default().into_iter().map(|one| format!("{}/{}", one.namespace, one.name)).collect();
        names.into_iter().collect()
    };
    // Where nothing is recorded nobody is known to have the right, as under a name that is not in the record at all.
    let pulled_with = |credentials: Credentials| {
        let secrets = names(credentials.kubernetes_secrets);
        let accounts = names(credentials.kubernetes_service_accounts);
        if credentials.node_pods_accessible {
            Some(PulledWith::Node)
        } else if !secrets.is_empty() {
            Some(PulledWith::Secrets(secrets))
        } else if !accounts.is_empty() {
            Some(PulledWith::ServiceAccounts(accounts))
        } else {
            None
        }
    };
    let Some(record) = object::<Record>(path, "ImagePulledRecord")? else { return Ok(None) };
    let mapping = record.credential_mapping.unwrap_or_default();
    let one = |(image, credentials)| Some((image, pulled_with(credentials)?));
    let by_image = mapping.into_iter().filter_map(one).collect();
    Ok(Some(PullRecord { image_ref: record.image_ref, by_image }))
}

/// An object of this kind; none if the file is gone by now.
fn object<T: for<'a> Deserialize<'a>>(path: &Path, kind: &str) -> Result<Option<T>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        api_version: String,
        kind: String,
    }
    let Some(text) = file::bytes(path)? else { return Ok(None) };
    // A hash of credentials stands in the file, so the error names the place only.
    let bad = |error: serde_json::Error| {
        format!("{}: it is no {kind} (line {}, column {})", path.display(), error.line(), error.column())
    };
    let meta: Meta = serde_json::from_slice(text.expose()).map_err(bad)?;
    if !meta.api_version.starts_with("kubelet.config.k8s.io/") || meta.kind != kind {
        return Err(format!("{}: it is no {kind} of kubelet.config.k8s.io", path.display()));
    }
    serde_json::from_slice(text.expose()).map(Some).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULLED: &str = r#""kind": "ImagePulledRecord", "apiVersion": "kubelet.config.k8s.io/v1beta1", "lastUpdatedTime": "2026-01-01T00:00:00Z""#;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join("image_manager").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn known(root: &Path) -> PullRecords {
        match read(root) {
            Fact::Known(records) => records,
            Fact::Unknown(why) => panic!("{why}"),
        }
    }

    #[test]
    fn with_what_an_image_was_pulled() {
        let secret =
            |name: &str| format!(r#"{{"uid": "u", "namespace": "ns", "name": "{name}", "credentialHash": "canary"}}"#);
        let secrets = |names: &[&str]| PulledWith::Secrets(names.iter().map(|name| format!("ns/{name}")).collect());
        let account = r#""kubernetesServiceAccounts": [{"uid": "u", "namespace": "ns", "name": "sa"}]"#;
        let accounts = || PulledWith::ServiceAccounts(vec!["ns/sa".to_owned()]);
        #[rustfmt::skip]
        let rows = [
            (r#"{"nodePodsAccessible": true}"#.to_owned(),                                           Some(PulledWith::Node)),
            (format!(r#"{{"kubernetesSecrets": [{}]}}"#, secret("b")),                               Some(secrets(&["b"]))),
            (format!(r#"{{"kubernetesSecrets": [{}, {}, {}]}}"#, secret("b"), secret("a"), secret("b")), Some(secrets(&["a", "b"]))),
            (format!("{{{account}}}"),                                                               Some(accounts())),
            (format!(r#"{{"kubernetesSecrets": [{}], {account}}}"#, secret("b")),                    Some(secrets(&["b"]))),
            (format!(r#"{{"kubernetesSecrets": null, {account}}}"#),                                 Some(accounts())),
            (format!(r#"{{"nodePodsAccessible": true, {account}}}"#),                                Some(PulledWith::Node)),
            ("{}".to_owned(),                                                                        None),
            (r#"{"nodePodsAccessible": false, "kubernetesSecrets": []}"#.to_owned(),                 None),
        ];
        for (credentials, want) in rows {
            let root = tempfile::tempdir().unwrap();
            let text = format!(
                r#"{{{PULLED}, "imageRef": "sha256:1", "credentialMapping": {{"r.example/a": {credentials}}}}}"#
            );
            write(root.path(), "pulled/sha256-1", &text);
            let by_image = want.map(|want| ("r.example/a".to_owned(), want)).into_iter().collect();
            let want = PullRecords {
                pulled: vec![PullRecord { image_ref: "sha256:1".to_owned(), by_image }],
                ..PullRecords::default()
            };
            assert_eq!(known(root.path()), want, "{credentials}");
        }
    }

    #[test]
    fn records_of_both_directories_and_versions() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(known(root), PullRecords::default(), "an older kubelet");
        std::fs::create_dir(root.join("image_manager")).unwrap();
        assert_eq!(known(root), PullRecords::default());
        write(
            root,
            "pulling/sha256-9",
            r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1alpha1","image":"b:1"}"#,
        );
        write(
            root,
            "pulling/sha256-8",
            r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"a@sha256:0"}"#,
        );
        write(root, "pulling/sha256-7.tmp", "half");
        write(root, "pulled/sha256-2", &format!(r#"{{{PULLED}, "imageRef": "two"}}"#));
        write(
            root,
            "pulled/sha256-1",
            &format!("{{{PULLED}, \"imageRef\": \"one\", \"credentialMapping\": null}}").replace("beta", "alpha"),
        );
        write(root, "pulled/README", "none");
        write(root, "pulled/sha256-dir/x", "none");
        let record = |name: &str| PullRecord { image_ref: name.to_owned(), by_image: BTreeMap::new() };
        let want = PullRecords {
            pulled: vec![record("one"), record("two")],
            pulling: BTreeSet::from(["a@sha256:0".to_owned(), "b:1".to_owned()]),
            unreadable: None,
        };
        assert_eq!(known(root), want);
    }

    /// One bad file, as a power cut leaves it, hides nothing of the others, and no error carries what is in it.
    #[test]
    fn hostile_files() {
        let good = format!(r#"{{{PULLED}, "imageRef": "good"}}"#);
        #[rustfmt::skip]
        let rows = [
            (String::new(),                                                                  "line 1, column 0"),
            ("{".to_owned(),                                                                 "line 1, column 1"),
            ("\u{0}\u{0}\u{0}".to_owned(),                                                   "line 1, column 1"),
            ("[]".to_owned(),                                                                "it is no ImagePulledRecord"),
            (good.replace("\"good\"", "[\"canary\"]"),                                       "it is no ImagePulledRecord (line 1"),
            (good.replace("ImagePulledRecord", "ImagePullIntent"),                           "it is no ImagePulledRecord of kubelet"),
            (good.replace("kubelet.config.k8s.io", "canary.example"),                        "it is no ImagePulledRecord of kubelet"),
            (format!(r#"{{{PULLED}, "credentialMapping": {{}}}}"#),                          "it is no ImagePulledRecord"),
            ("[".repeat(100_000),                                                            "it is no ImagePulledRecord"),
            (" ".repeat(2 * 1024 * 1024),                                                    "larger than"),
        ];
        for (text, why) in rows {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), "pulled/sha256-0", &text);
            write(root.path(), "pulled/sha256-1", &good);
            let records = known(root.path());
            let reason = records.unreadable.unwrap();
            assert!(reason.contains(why) && reason.contains("sha256-0") && !reason.contains("canary"), "{reason}");
            assert_eq!(records.pulled.len(), 1);
        }
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "pulled/sha256-1", &good);
        let pulled = root.path().join("image_manager/pulled");
        let fifo = pulled.join("sha256-0");
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert!(known(root.path()).unreadable.unwrap().contains("FIFO"));
        std::fs::remove_file(pulled.join("sha256-0")).unwrap();
        std::os::unix::fs::symlink("nowhere", pulled.join("sha256-0")).unwrap();
        assert_eq!(known(root.path()).unreadable, None, "gone meanwhile");

        std::fs::write(root.path().join("image_manager/pulling"), "").unwrap();
        assert!(matches!(read(root.path()), Fact::Unknown(why) if why.contains("pulling")));
    }
}
