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
    let pulled_with = |credentials: Credentials| {
        let secrets = names(credentials.kubernetes_secrets);
        let accounts = names(credentials.kubernetes_service_accounts);
        if credentials.node_pods_accessible {
            PulledWith::Node
        } else if !secrets.is_empty() {
            PulledWith::Secrets(secrets)
        } else if !accounts.is_empty() {
            PulledWith::ServiceAccounts(accounts)
        } else {
            PulledWith::Nothing
        }
    };
    let Some(record) = object::<Record>(path, "ImagePulledRecord")? else { return Ok(None) };
    let mapping = record.credential_mapping.unwrap_or_default();
    let by_image = mapping.into_iter().map(|(image, credentials)| (image, pulled_with(credentials))).collect();
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
