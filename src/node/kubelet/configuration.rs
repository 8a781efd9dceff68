//! The kubelet's configuration as it is really used: flags before drop-ins before its file, as in the kubelet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::checkpoint::look::ImageVerification;
use crate::checkpoint::node::Fact;
use crate::node::file::{self, below};

use super::command_line::Flags;
use super::process::{self, Kind, Process};
use super::unit;

/// Where kubelets have their configuration: kubeadm and most others, EKS (two), kubespray.
pub(in crate::node) const USUAL: [&str; 4] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet/config.json",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/etc/kubernetes/kubelet-config.yaml",
];

/// `--root-dir` where it is not given.
const ROOT_DIR: &str = "/var/lib/kubelet";

/// `maxPods` where it is not given.
const MAX_PODS: u32 = 110;

/// More drop-ins than this are no configuration.
const DROP_INS_MAX: usize = 1000;

/// What was found out. Paths are the node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `--root-dir`, or the default.
    pub root_dir: PathBuf,
    /// `--hostname-override`
    pub hostname_override: Option<String>,
    /// The configuration file (`--config`, or a usual place).
    pub file: Option<PathBuf>,
    /// `staticPodPath`; none: the kubelet reads no static pods.
    pub static_pod_path: Fact<Option<PathBuf>>,
    /// `containerRuntimeEndpoint`; none: the kubelet's default, `unix:///run/containerd/containerd.sock` since 1.27.
    pub container_runtime_endpoint: Fact<Option<String>>,
    /// `maxPods`
    pub max_pods: Fact<u32>,
    /// Which images need a pod's credentials.
    pub image_verification: Fact<ImageVerification>,
}

/// The configuration of the kubelet that runs (the oldest, if there are several), or else of the one that systemd would
/// start, or else that in the usual places.
///
/// `root` is the node's root directory; `/proc` is looked for below it, so that a disk that is only mounted here is not
/// mixed with the kubelet of this machine.
#[must_use]
pub fn used(root: &Path) -> Configuration {
    match process::scan(&root.join("proc")).kubelets.first() {
        Some(process) => of_process(root, process),
        None => of_files(root),
    }
}

/// The configuration of a running kubelet, by its command line.
#[must_use]
pub fn of_process(root: &Path, process: &Process) -> Configuration {
    match &process.kind {
        Kind::Kubelet if process.arguments.is_empty() => of_files(root),
        Kind::Kubelet => {
            let flags = Flags::parse(process.arguments.iter().map(String::as_str));
            // Relative paths of a command line start where the process stands, which is `/` under systemd.
            let link = root.join("proc").join(process.pid.to_string()).join("cwd");
            let directory = std::fs::read_link(link).ok().filter(|path| path.is_absolute());
            resolve(root, &flags, directory.as_deref().unwrap_or(Path::new("/")), None)
        }
        // It makes up the kubelet's flags inside, so its own say little.
        Kind::Distribution(name) => {
            let usually = match name.as_str() {
                "k3s" | "k3s-agent" | "k3s-server" => "; it is usually /var/lib/rancher/k3s/agent/pod-manifests",
                "rke2" => "; it is usually /var/lib/rancher/rke2/agent/pod-manifests",
                _ => "",
            };
            Configuration::unknown(
                &Flags::default(),
                Path::new("/"),
                None,
                &format!("{name} runs the kubelet and does not say with which directory{usually}"),
            )
        }
    }
}

/// The configuration that the next kubelet will use, by its systemd unit and the usual files.
#[must_use]
pub fn of_files(root: &Path) -> Configuration {
    let directory = Path::new("/");
    let command = match unit::command_line(root) {
        Ok(command) => command,
        Err(why) => return Configuration::unknown(&Flags::default(), directory, None, &why),
    };
    let flags = Flags::parse(command.arguments.iter().map(String::as_str));
    if command.complete || flags.config.is_some() || flags.config_dir.is_some() {
        return resolve(root, &flags, directory, None);
    }
    // A command line that is not all known may have its `--config` in the part that is missing.
    let usual = USUAL.iter().map(Path::new).find(|path| below(root, path).symlink_metadata().is_ok());
    if usual.is_none() && flags.pod_manifest_path.is_none() {
        let first = below(root, Path::new(USUAL[0]));
        let why = format!("no configuration of a kubelet was found ({} and other usual places)", first.display());
        return Configuration::unknown(&flags, directory, None, &why);
    }
    resolve(root, &flags, directory, usual)
}

/// Flags before drop-ins before the file; `directory` is where relative paths of flags start.
fn resolve(root: &Path, flags: &Flags, directory: &Path, usual: Option<&Path>) -> Configuration {
    let path = flags.config.as_deref().filter(|path| !path.is_empty()).map(|path| directory.join(path));
    let path = path.or_else(|| usual.map(Path::to_owned));
    let merged = match merge(root, path.as_deref(), flags, directory) {
        Ok(merged) => merged,
        Err(why) => return Configuration::unknown(flags, directory, path, &why),
    };
    let static_pod_path = set(merged.static_pod_path.as_deref()).map(|path| directory.join(path));
    // The kubelet takes 0 for a value that is not set.
    let max_pods = merged.max_pods.filter(|pods| *pods > 0).unwrap_or(MAX_PODS);
    Configuration {
        static_pod_path: Fact::Known(static_pod_path),
        container_runtime_endpoint: Fact::Known(set(merged.container_runtime_endpoint.as_deref())),
        max_pods: Fact::Known(max_pods),
        image_verification: verification(merged.policy.as_deref(), merged.allow_list, merged.feature_gates.as_ref()),
        ..Configuration::unknown(flags, directory, path, "")
    }
    .with_flags(flags, directory)
}

impl Configuration {
    /// What flags say, and of the rest why nobody knows.
    fn unknown(flags: &Flags, directory: &Path, file: Option<PathBuf>, why: &str) -> Self {
        Self {
            root_dir: directory.join(set(flags.root_dir.as_deref()).as_deref().unwrap_or(ROOT_DIR)),
            hostname_override: set(flags.hostname_override.as_deref()),
            file,
            static_pod_path: Fact::Unknown(why.to_owned()),
            container_runtime_endpoint: Fact::Unknown(why.to_owned()),
            max_pods: Fact::Unknown(why.to_owned()),
            image_verification: Fact::Unknown(why.to_owned()),
        }
        .with_flags(flags, directory)
    }

    fn with_flags(mut self, flags: &Flags, directory: &Path) -> Self {
        if let Some(path) = &flags.pod_manifest_path {
            self.static_pod_path = Fact::Known(set(Some(path)).map(|path| directory.join(path)));
        }
        if let Some(endpoint) = &flags.container_runtime_endpoint {
            self.container_runtime_endpoint = Fact::Known(set(Some(endpoint)));
        }
        if let Some(pods) = flags.max_pods.as_deref().and_then(|pods| pods.parse().ok()) {
            self.max_pods = Fact::Known(pods);
        }
        if flags.feature_gates.as_deref().and_then(gate) == Some(false) {
            self.image_verification = Fact::Known(ImageVerification::Never);
        }
        self
    }
}

fn set(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// `A=true,KubeletEnsureSecretPulledImages=false`
fn gate(gates: &str) -> Option<bool> {
    let one = |gate: &str| {
        let (name, value) = gate.split_once('=')?;
        (name.trim() == GATE).then(|| value.trim().eq_ignore_ascii_case("true"))
    };
    gates.split(',').filter_map(one).next_back()
}

const GATE: &str = "KubeletEnsureSecretPulledImages";

fn verification(
    policy: Option<&str>,
    allow_list: Option<Vec<String>>,
    gates: Option<&BTreeMap<String, bool>>,
) -> Fact<ImageVerification> {
    if gates.and_then(|gates| gates.get(GATE)) == Some(&false) {
        return Fact::Known(ImageVerification::Never);
    }
    Fact::Known(match policy {
        None | Some("" | "NeverVerifyPreloadedImages") => ImageVerification::Pulled,
        Some("NeverVerify") => ImageVerification::Never,
        Some("NeverVerifyAllowlistedImages") => ImageVerification::AllBut(allow_list.unwrap_or_default()),
        Some("AlwaysVerify") => ImageVerification::All,
        Some(_) => {
            return Fact::Unknown(
                "the kubelet's imagePullCredentialsVerificationPolicy is none that is known".to_owned(),
            );
        }
    })
}

/// What counts of `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`). A member that is absent is `None`; one that is
/// null is `Some(None)`, and brings back the default.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(deserialize_with = "given")]
    static_pod_path: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    container_runtime_endpoint: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    max_pods: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    image_pull_credentials_verification_policy: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    preloaded_images_verification_allowlist: Option<Option<Vec<String>>>,
    #[serde(deserialize_with = "given")]
    feature_gates: Option<Option<BTreeMap<String, Option<bool>>>>,
}

fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Default)]
struct Merged {
    static_pod_path: Option<String>,
    container_runtime_endpoint: Option<String>,
    max_pods: Option<u32>,
    policy: Option<String>,
    allow_list: Option<Vec<String>>,
    feature_gates: Option<BTreeMap<String, bool>>,
}

impl Merged {
    /// JSON merge patch (RFC 7386), which is how the kubelet lays a drop-in over the rest.
    fn lay_over(&mut self, document: Document) {
        fn scalar<T>(base: &mut Option<T>, over: Option<Option<T>>) {
            if let Some(value) = over {
                *base = value;
            }
        }
        scalar(&mut self.static_pod_path, document.static_pod_path);
        scalar(&mut self.container_runtime_endpoint, document.container_runtime_endpoint);
        scalar(&mut self.max_pods, document.max_pods);
        scalar(&mut self.policy, document.image_pull_credentials_verification_policy);
        scalar(&mut self.allow_list, document.preloaded_images_verification_allowlist);
        match document.feature_gates {
            None => {}
            Some(None) => self.feature_gates = None,
            Some(Some(gates)) => {
                let base = self.feature_gates.get_or_insert_default();
                for (name, value) in gates {
                    match value {
                        Some(value) => base.insert(name, value),
                        None => base.remove(&name),
                    };
                }
            }
        }
    }
}

fn merge(root: &Path, path: Option<&Path>, flags: &Flags, directory: &Path) -> Result<Merged, String> {
    let mut merged = Merged::default();
    if let Some(path) = path {
        let here = below(root, path);
        let document =
            document(&here)?.ok_or_else(|| format!("cannot read {}: there is no such file", here.display()))?;
        merged.lay_over(document);
        // Relative paths of the file start at its directory; those of a drop-in where the process stands.
        if let Some(pods) = merged.static_pod_path.as_mut().filter(|path| !path.is_empty()) {
            let joined = path.parent().unwrap_or(Path::new("/")).join(&*pods);
            *pods = joined.to_string_lossy().into_owned();
        }
    }
    if let Some(drop_ins) = flags.config_dir.as_deref().filter(|path| !path.is_empty()) {
        let mut files = Vec::new();
        walk(&below(root, &directory.join(drop_ins)), &mut files, 0)?;
        for path in files {
            let Some(document) = document(&path)? else { continue };
            let is = |value: &Option<String>, want: &str| value.as_deref() == Some(want);
            if !is(&document.kind, "KubeletConfiguration")
                || !is(&document.api_version, "kubelet.config.k8s.io/v1beta1")
            {
                let path = path.display();
                return Err(format!("{path}: it is no KubeletConfiguration of kubelet.config.k8s.io/v1beta1"));
            }
            merged.lay_over(document);
        }
    }
    Ok(merged)
}

/// Drop-ins in the order of the kubelet: by name, what is in a directory at the place of its name, links to directories
/// passed over (Go's `filepath.WalkDir`).
fn walk(directory: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<(), String> {
    let unreadable = |error: std::io::Error| file::cannot("read", directory, &error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        entries.push((entry.path(), entry.file_type().map_err(unreadable)?.is_dir()));
    }
    entries.sort();
    for (path, is_directory) in entries {
        if is_directory && depth < 16 {
            walk(&path, files, depth + 1)?;
        } else if !is_directory && path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
        if files.len() > DROP_INS_MAX {
            return Err(format!("{} holds more than {DROP_INS_MAX} drop-ins", directory.display()));
        }
    }
    Ok(())
}

fn document(path: &Path) -> Result<Option<Document>, String> {
    let Some(text) = file::bytes(path)? else { return Ok(None) };
    parse(text.expose()).map(Some).map_err(|why| format!("{}: {why}", path.display()))
}

/// YAML or JSON. The file may hold a token (`staticPodURLHeader`), so the error names the place only.
fn parse(text: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    serde_saphyr::from_str(text).map_err(|error| match error.location() {
        Some(place) => format!("it is no kubelet configuration (line {}, column {})", place.line(), place.column()),
        None => "it is no kubelet configuration".to_owned(),
    })
}

#[cfg(test)]
mod tests;
