//! Writes pods and their objects as plain manifests, one file each, which `ckpt-db import -f` and `kubectl apply` take.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::checkpoint::closure::references;
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::crypto::sha256;
use crate::materialize::{Folder, MaterializeError, Published};
use crate::source::text::{Form, portable};
use crate::store::Snapshot;

/// How to export.
#[derive(Clone, Copy, Debug)]
pub struct Exporting {
    /// How manifests are written.
    pub form: Form,
    /// Whether Secrets are written, in clear text.
    pub reveal: bool,
    /// Whether a file that is there already is replaced.
    pub overwrite: bool,
}

/// What was exported.
#[derive(Debug, Default)]
pub struct Exported {
    /// Each object's file, and what became of it.
    pub files: Vec<(ObjectKey, PathBuf, Published)>,
    /// What pods name and was not written.
    pub left_out: Vec<(ObjectKey, LeftOut)>,
}

/// Why an object was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is a Secret, and nobody asked for it.
    Secret,
    /// The store does not have it.
    NotStored,
    /// The store has it, and it can't be read.
    Unreadable,
}

/// Why nothing more was exported. Files that were written before are there, whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There are files already. Nothing was written.
    #[error("{} there already; nothing was written. --overwrite replaces {}", exist(.0), if .0.len() == 1 { "it" } else { "them" })]
    Exist(Vec<PathBuf>),
    /// The system refuses.
    #[error("cannot export to {}", .directory.display())]
    Files {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: MaterializeError,
    },
}

fn exist(paths: &[PathBuf]) -> String {
    let named: Vec<String> = paths.iter().take(3).map(|path| path.display().to_string()).collect();
    match paths.len() {
        1 => format!("{} is", named[0]),
        count if count > named.len() => format!("{} and {} more files are", named.join(", "), count - named.len()),
        _ => format!("{} are", named.join(", ")),
    }
}

/// Writes `pods`, and every ConfigMap and Secret that they name, below `directory`, which is made if it is not there.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    snapshot: &Snapshot,
    pods: &[ObjectKey],
    directory: &Path,
    exporting: Exporting,
) -> Result<Exported, ExportError> {
    let mut exported = Exported::default();
    let mut wanted: BTreeSet<ObjectKey> = BTreeSet::new();
    for key in pods {
        if let Lookup::Found(pod) = snapshot.get(key) {
            let named = references(&pod).unwrap_or_default();
            wanted.extend(named.into_iter().map(|reference| reference.key));
        }
        wanted.insert(key.clone());
    }
    let mut files = Vec::new();
    for key in wanted {
        let found = match snapshot.get(&key) {
            _ if key.kind() == Kind::Secret && !exporting.reveal => Err(LeftOut::Secret),
            Lookup::Found(object) => portable(&object, exporting.form).map_err(|_| LeftOut::Unreadable),
            Lookup::Missing | Lookup::Forbidden | Lookup::NoKeyYet => Err(LeftOut::NotStored),
            Lookup::Sealed | Lookup::Damaged => Err(LeftOut::Unreadable),
        };
        match found {
            Ok(_) => files.push((file_name(&key, exporting.form), key)),
            Err(why) => exported.left_out.push((key, why)),
        }
    }
    let failed = |source| ExportError::Files { directory: directory.to_owned(), source };
    let folder = Folder::open(directory).map_err(failed)?;
    if !exporting.overwrite {
        let mut there = Vec::new();
        for (name, _) in &files {
            if folder.has(name).map_err(failed)? {
                there.push(directory.join(name));
            }
        }
        if !there.is_empty() {
            return Err(ExportError::Exist(there));
        }
    }
    for (name, key) in files {
        // One Secret is in clear text in memory at a time.
        let Lookup::Found(object) = snapshot.get(&key) else { continue };
        let Ok(text) = portable(&object, exporting.form) else { continue };
        let published = folder.publish(&name, text.expose()).map_err(failed)?;
        exported.files.push((key, directory.join(name), published));
    }
    folder.sync().map_err(failed)?;
    Ok(exported)
}

/// `shop_pod_web.yaml`. No name of Kubernetes has an underscore or a slash, so that no two objects share a file and no file is
/// elsewhere. Names that would be too long for a file are cut, and told apart by a digest.
#[must_use]
pub fn file_name(key: &ObjectKey, form: Form) -> String {
    const NAME_MAX: usize = 255;
    let suffix = match form {
        Form::Yaml => "yaml",
        Form::Json => "json",
    };
    let stem = format!("{}_{}_{}", key.namespace(), key.kind().row().name.to_lowercase(), key.name());
    if stem.len() + 1 + suffix.len() <= NAME_MAX {
        return format!("{stem}.{suffix}");
    }
    let digest = data_encoding::HEXLOWER.encode(&sha256(stem.as_bytes())[..16]);
    // All of it is ASCII.
    format!("{}_{digest}.{suffix}", &stem[..200])
}
