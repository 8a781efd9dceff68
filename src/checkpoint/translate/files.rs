//! The files of one rendered volume: paths and modes as the kubelet's atomic writer has them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::json::{items, text};
use super::super::object::{ObjectKey, Shown};
use super::super::rendering::{Contents, TreeFile};
use super::super::verdict::Reason;
use super::Findings;

/// Files by path. A later one replaces an earlier one of the same path, as in the kubelet (`projected.go`,
/// `collectData`): pods overlay one ConfigMap with another that way.
pub(super) struct Files(BTreeMap<Vec<String>, TreeFile>);

/// Permission bits as the API has them: a decimal number of 0 to 511.
pub(super) fn mode_of(holder: &Value, field: &str, default: i64) -> i64 {
    holder.get(field).and_then(Value::as_i64).unwrap_or(default)
}

impl Files {
    pub(super) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds one file; an impossible path or mode is a finding.
    pub(super) fn add(&mut self, findings: &mut Findings, volume: &str, path: &str, mode: i64, contents: Contents) {
        let refuse = |problem| Reason::VolumePath { volume: volume.to_owned(), problem };
        let Some(mode) = u32::try_from(mode).ok().filter(|mode| *mode <= 0o777) else {
            findings.refuse(refuse(format!("mode {mode} of {} is not within 0 and 511", Shown::new(path))));
            return;
        };
        // The contents of an object's key are weighed where they are known.
        let bytes = if let Contents::Inline(bytes) = &contents { bytes.len() } else { 0 };
        match components(path) {
            Ok(_) if findings.is_too_much(|budget| budget.file(bytes)) => {}
            Ok(path) => {
                self.0.insert(path.clone(), TreeFile { path, mode, contents });
            }
            Err(problem) => findings.refuse(refuse(format!("path {} {problem}", Shown::new(path)))),
        }
    }

    /// Adds the keys of a Secret or ConfigMap: all, or those that `items` name.
    pub(super) fn add_object(
        &mut self,
        findings: &mut Findings,
        volume: &str,
        source: &ObjectSource<'_>,
        object: &ObjectKey,
        keys: &BTreeMap<String, usize>,
    ) {
        let contents = |key: &str| Contents::Data { object: object.clone(), key: key.to_owned() };
        let chosen = items(source.tree, "items");
        if chosen.is_empty() {
            for (key, bytes) in keys {
                if findings.is_too_much(|budget| budget.contents(*bytes)) {
                    return;
                }
                self.add(findings, volume, key, source.default_mode, contents(key));
            }
        }
        for (n, item) in chosen.iter().enumerate() {
            let field = format!("{}.items[{n}]", source.path);
            let key = text(item, "key").unwrap_or_default();
            if item.get("user").is_some() {
                findings.refuse(Reason::UnknownField { field: format!("{field}.user") });
            }
            if let Some(bytes) = keys.get(key) {
                if findings.is_too_much(|budget| budget.contents(*bytes)) {
                    return;
                }
                let mode = mode_of(item, "mode", source.default_mode);
                self.add(findings, volume, text(item, "path").unwrap_or_default(), mode, contents(key));
            } else if !source.optional {
                findings.refuse(Reason::MissingKey { object: object.clone(), key: key.to_owned(), field });
            }
        }
    }

    /// The files, sorted; none if one's path is a directory of another's.
    pub(super) fn finish(self, findings: &mut Findings, volume: &str) -> Option<Vec<TreeFile>> {
        // Sorted by components, a file stands right before what would be inside it.
        let paths: Vec<_> = self.0.keys().collect();
        let clash = paths.windows(2).find(|pair| pair[1].starts_with(pair[0]));
        if let Some(clash) = clash {
            let problem = format!("{} is a file and a directory", Shown::new(&clash[0].join("/")));
            findings.refuse(Reason::VolumePath { volume: volume.to_owned(), problem });
            return None;
        }
        Some(self.0.into_values().collect())
    }
}

/// A secret or configMap source of a volume.
pub(super) struct ObjectSource<'a> {
    /// The source's tree: `items` and more.
    pub(super) tree: &'a Value,
    /// Its path in the pod.
    pub(super) path: String,
    /// Whether the object and its keys may be absent.
    pub(super) optional: bool,
    /// Mode of files that don't state their own.
    pub(super) default_mode: i64,
}

/// The most components of a file's path.
const PARTS_MAX: usize = 32;

/// A path's components. The kubelet's rule (`atomic_writer.go`, `validatePath`, after `path.Clean`) with one stricter
/// part: no component at all may start with `..`, where the kubelet looks at the first only.
fn components(path: &str) -> Result<Vec<String>, &'static str> {
    if path.starts_with('/') {
        return Err("is absolute");
    }
    if path.len() > 4096 || path.contains('\0') {
        return Err("is no file path");
    }
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
    if parts.is_empty() {
        return Err("names no file");
    }
    if parts.iter().any(|part| part.starts_with("..")) {
        return Err("has a part that starts with '..'");
    }
    // Each is a directory that is held open while the file is written.
    if parts.len() > PARTS_MAX {
        return Err("has more than 32 parts");
    }
    if parts.iter().any(|part| part.len() > 255) {
        return Err("has a part of more than 255 bytes");
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_their_volume() {
        let long = "a".repeat(256);
        let deep = ["d"; 33].join("/");
        #[rustfmt::skip]
        let rows: [(&str, Result<&[&str], &str>); 16] = [
            ("key",        Ok(&["key"])),
            ("dir/key",    Ok(&["dir", "key"])),
            ("./a//b/",    Ok(&["a", "b"])),
            ("a.b",        Ok(&["a.b"])),
            (".hidden",    Ok(&[".hidden"])),
            ("",           Err("names no file")),
            (".",          Err("names no file")),
            ("/etc",       Err("is absolute")),
            ("..",         Err("has a part that starts with '..'")),
            ("../x",       Err("has a part that starts with '..'")),
            ("a/../../x",  Err("has a part that starts with '..'")),
            ("..data",     Err("has a part that starts with '..'")),
            ("a\0b",       Err("is no file path")),
            (long.as_str(), Err("has a part of more than 255 bytes")),
            (deep.as_str(), Err("has more than 32 parts")),
            (&deep[2..],    Ok(&["d"; 32])),
        ];
        for (path, want) in rows {
            let got = components(path);
            let got =
                got.as_deref().map(|parts| parts.iter().map(String::as_str).collect()).map_err(|problem| *problem);
            assert_eq!(got, want.map(<[_]>::to_vec), "{path:?}");
        }
    }

    #[test]
    fn a_file_is_no_directory_and_the_later_one_wins() {
        let inline = |text: &str| Contents::Inline(text.as_bytes().to_vec());
        let mut findings = Findings::default();
        let mut files = Files::new();
        files.add(&mut findings, "v", "a/b", 0o644, inline("1"));
        files.add(&mut findings, "v", "a/b", 0o600, inline("2"));
        let all = files.finish(&mut findings, "v").unwrap();
        assert_eq!((all.len(), all[0].mode), (1, 0o600));

        let mut files = Files::new();
        files.add(&mut findings, "v", "a", 0o644, inline("1"));
        files.add(&mut findings, "v", "a-b", 0o644, inline("1"));
        files.add(&mut findings, "v", "a/b", 0o644, inline("2"));
        files.add(&mut findings, "v", "c", 512, inline("3"));
        assert!(files.finish(&mut findings, "v").is_none());
        let shown: Vec<_> = findings.reasons.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["volume v: mode 512 of \"c\" is not within 0 and 511", "volume v: \"a\" is a file and a directory"]
        );
    }
}
