//! Reads what the verdict for the node is made of. It decides nothing, and every failure is a value.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::checkpoint::network::Plugin;
use crate::checkpoint::node::{Directory, Fact, NodeFacts, StaticPodPath};

use super::file::{below, bytes, cannot};
use super::kubelet::configuration::{self, Configuration};
use super::kubelet::process;

/// The default of containerd and CRI-O, below the root.
const CNI_DIRECTORY: &str = "etc/cni/net.d";

/// One kernel, one list: the same below every root and in every mount namespace.
const SWAPS: &str = "/proc/swaps";

/// Looks at the node whose root directory is `root` (`/` on the node itself); `manifests_dir` is our static pod
/// directory.
///
/// Nothing is changed, and only regular files of at most 1 MiB are read. The kubelet's process is looked for below `root`
/// too (`proc`), so that a mounted disk is not mixed with the machine that reads it. The kubelet's version stands in no file: the
/// caller fills it in.
#[must_use]
pub fn observe(root: &Path, manifests_dir: &Path) -> NodeFacts {
    NodeFacts {
        manifests: manifests_dir.to_owned(),
        static_pod_path: fact(static_pod_path(root, manifests_dir)),
        cni: fact(cni(&root.join(CNI_DIRECTORY))),
        swap: fact(swap(Path::new(SWAPS))),
        kubelet_version: None,
    }
}

fn fact<T>(found: Result<T, String>) -> Fact<T> {
    found.map_or_else(Fact::Unknown, Fact::Known)
}

/// Of the kubelet that runs, or else of the one that would be started. Of several, one that reads our directory counts:
/// the others are of nodes in containers (kind).
fn static_pod_path(root: &Path, ours: &Path) -> Result<StaticPodPath, String> {
    let kubelets = process::scan(&root.join("proc")).kubelets;
    let configurations: Vec<Configuration> = if kubelets.is_empty() {
        vec![configuration::of_files(root)]
    } else {
        kubelets.iter().map(|kubelet| configuration::of_process(root, kubelet)).collect()
    };
    let mut answers = configurations.into_iter().map(|found| judge(root, found, ours)).collect::<Vec<_>>();
    let ours = |answer: &Result<StaticPodPath, String>| {
        matches!(answer, Ok(StaticPodPath::Set { directory: Directory::Ours | Directory::OursMissing, .. }))
    };
    let chosen = answers.iter().position(ours).unwrap_or(0);
    answers.swap_remove(chosen)
}

fn judge(root: &Path, found: Configuration, ours: &Path) -> Result<StaticPodPath, String> {
    match found.static_pod_path {
        Fact::Unknown(why) => Err(why),
        Fact::Known(None) => Ok(StaticPodPath::Unset { file: found.file.map(|file| below(root, &file)) }),
        Fact::Known(Some(path)) => {
            let directory = compare(&below(root, &path), ours)?;
            Ok(StaticPodPath::Set { path, directory })
        }
    }
}

/// Compares by identity, so that links and doubled slashes don't matter.
fn compare(kubelet: &Path, ours: &Path) -> Result<Directory, String> {
    let identity = |path: &Path| match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(Some((found.dev(), found.ino()))),
        Ok(_) => Err(format!("{} is not a directory", path.display())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(cannot("look at", path, &error)),
    };
    Ok(match (identity(kubelet)?, identity(ours)?) {
        (Some(one), Some(other)) if one == other => Directory::Ours,
        (None, None) if kubelet == ours => Directory::OursMissing,
        (Some(_) | None, Some(_) | None) => Directory::Other,
    })
}

/// The plug-ins of the first configuration by name, which is the one that the container runtime takes
/// (`libcni.ConfFiles`, sorted).
fn cni(directory: &Path) -> Result<Vec<Plugin>, String> {
    let unreadable = |error: io::Error| cannot("read", directory, &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let is_configuration = matches!(path.extension().and_then(|e| e.to_str()), Some("conf" | "conflist" | "json"));
        if is_configuration && !entry.file_type().map_err(unreadable)?.is_dir() {
            names.push(path);
        }
    }
    names.sort();
    let first = names.first().ok_or_else(|| format!("{} holds no CNI configuration", directory.display()))?;
    let text = bytes(first)?.ok_or_else(|| format!("{} is gone", first.display()))?;
    parse_cni(text.expose()).map_err(|why| format!("{}: {why}", first.display()))
}

/// The plug-ins of a configuration list, or the one that the file is.
///
/// The file may hold a token (Calico's `k8s_auth_token`), so the error names the place only.
fn parse_cni(text: &[u8]) -> Result<Vec<Plugin>, String> {
    #[derive(Deserialize)]
    struct Section {
        #[serde(rename = "type")]
        name: Option<String>,
        plugins: Option<Vec<Section>>,
        ipam: Option<Box<Section>>,
        kubernetes: Option<IgnoredAny>,
        kubeconfig: Option<IgnoredAny>,
        #[serde(rename = "subnetFile")]
        subnet_file: Option<String>,
    }
    impl Section {
        fn has_kubeconfig(&self) -> bool {
            self.kubernetes.is_some() || self.kubeconfig.is_some()
        }

        fn plugin(self) -> Option<Plugin> {
            let has_kubeconfig = self.has_kubeconfig() || self.ipam.as_ref().is_some_and(|ipam| ipam.has_kubeconfig());
            let ipam = self.ipam.and_then(|ipam| ipam.name);
            Some(Plugin { name: self.name?, ipam, has_kubeconfig, subnet_file: self.subnet_file })
        }
    }
    let mut section: Section = serde_json::from_slice(text)
        .map_err(|error| format!("it is no CNI configuration (line {}, column {})", error.line(), error.column()))?;
    let sections = section.plugins.take().unwrap_or_else(|| vec![section]);
    let nameless = || "a plug-in has no type".to_owned();
    sections.into_iter().map(|section| section.plugin().ok_or_else(nameless)).collect()
}

fn swap(file: &Path) -> Result<Vec<String>, String> {
    let Some(text) = bytes(file)? else {
        // A kernel without swap has no such file, but neither has a place where /proc is not mounted.
        return if file.parent().is_some_and(|proc| proc.join("meminfo").exists()) {
            Ok(Vec::new())
        } else {
            Err(format!("there is no {}", file.display()))
        };
    };
    // One header line, then one area per line, its name first; blanks in a name are escaped (proc(5)).
    let text = String::from_utf8_lossy(text.expose());
    Ok(text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::super::kubelet::process::tests::FakeProc;
    use super::*;

    #[test]
    fn plug_ins_of_a_cni_configuration() {
        let shown = |text: &str| {
            parse_cni(text.as_bytes()).map(|plugins| {
                let one = |plugin: Plugin| {
                    let ipam = plugin.ipam.map(|ipam| format!("/{ipam}")).unwrap_or_default();
                    let file = plugin.subnet_file.map(|file| format!("@{file}")).unwrap_or_default();
                    format!("{}{ipam}{file}{}", plugin.name, if plugin.has_kubeconfig { "+" } else { "" })
                };
                plugins.into_iter().map(one).collect::<Vec<_>>().join(" ")
            })
        };
        #[rustfmt::skip]
        let rows = [
            (r#"{"name": "n", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}]}"#, "bridge/host-local portmap"),
            (r#"{"name": "n", "type": "loopback"}"#,                                           "loopback"),
            (r#"{"type": "flannel", "subnetFile": "/srv/s", "delegate": {"type": "ptp"}}"#,    "flannel@/srv/s"),
            (r#"{"type": "macvlan", "ipam": {}}"#,                                             "macvlan"),
            (r#"{"type": "calico", "kubernetes": {"kubeconfig": "/k"}}"#,                      "calico+"),
            (r#"{"type": "acme", "kubeconfig": "/k"}"#,                                        "acme+"),
            (r#"{"type": "bridge", "ipam": {"type": "ip", "kubernetes": {}}}"#,                "bridge/ip+"),
            (r#"{"plugins": []}"#,                                                             ""),
        ];
        for (text, want) in rows {
            assert_eq!(shown(text).as_deref(), Ok(want), "{text}");
        }
        #[rustfmt::skip]
        let rows = [
            ("",                               "it is no CNI configuration (line 1, column 0)"),
            (r#"{"type": 1}"#,                 "it is no CNI configuration (line 1, column 10)"),
            (r#"{"token": "canary"#,           "it is no CNI configuration (line 1, column 17)"),
            (r#"{"plugins": [{"type": "a"}, {"name": "b"}]}"#, "a plug-in has no type"),
            ("{}",                             "a plug-in has no type"),
        ];
        for (text, want) in rows {
            assert_eq!(shown(text), Err(want.to_owned()), "{text}");
        }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The second configuration is read where there is no first; a relative path starts at the configuration's directory.
    #[test]
    fn the_kubelets_directory_is_compared_with_ours() {
        let set = |path: &str, directory| Ok(StaticPodPath::Set { path: path.into(), directory });
        let first = &configuration::USUAL[0][1..];
        let second = &configuration::USUAL[1][1..];
        #[rustfmt::skip]
        let rows = [
            // file  its staticPodPath                directories that exist                       found
            (first,  "/etc/kubernetes/manifests",    &["etc/kubernetes/manifests"][..],            set("/etc/kubernetes/manifests", Directory::Ours)),
            (second, "/etc/kubernetes//manifests/",  &["etc/kubernetes/manifests"][..],            set("/etc/kubernetes//manifests/", Directory::Ours)),
            (first,  "/link",                        &["etc/kubernetes/manifests"][..],            set("/link", Directory::Ours)),
            (second, "../manifests",                 &["etc/kubernetes/manifests"][..],            set("/etc/kubernetes/kubelet/../manifests", Directory::Ours)),
            (first,  "/etc/kubernetes/manifests",    &[][..],                                      set("/etc/kubernetes/manifests", Directory::OursMissing)),
            (first,  "/other",                       &["etc/kubernetes/manifests", "other"][..],   set("/other", Directory::Other)),
            (first,  "/other",                       &["etc/kubernetes/manifests"][..],            set("/other", Directory::Other)),
            (first,  "/other",                       &["other"][..],                               set("/other", Directory::Other)),
        ];
        for (file, path, directories, want) in rows {
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            write(root, file, &format!("{{\"staticPodPath\": \"{path}\"}}"));
            for directory in directories {
                std::fs::create_dir_all(root.join(directory)).unwrap();
            }
            std::os::unix::fs::symlink("etc/kubernetes/manifests", root.join("link")).unwrap();
            assert_eq!(static_pod_path(root, &root.join("etc/kubernetes/manifests")), want, "{path}");
        }
    }

    /// The command line of the kubelet that runs is stronger than every file; of several kubelets, one that reads our
    /// directory.
    #[test]
    fn the_kubelet_that_runs_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let look = || match static_pod_path(root, &root.join("m")).unwrap() {
            StaticPodPath::Set { path, directory } => format!("{} {directory:?}", path.display()),
            StaticPodPath::Unset { file } => format!("unset {}", file.is_some()),
        };
        std::fs::create_dir(root.join("m")).unwrap();
        write(root, &configuration::USUAL[0][1..], "staticPodPath: /file\nmaxPods: 5\n");
        assert_eq!(look(), "/file Other");
        let proc = FakeProc::of_a_host(root);
        proc.add(50, "kubelet", 7, &["kubelet"]);
        assert_eq!(look(), "unset false");
        proc.add(50, "kubelet", 7, &["kubelet", "--config=/var/lib/kubelet/config.yaml", "--pod-manifest-path="]);
        assert_eq!(look(), "unset true");
        proc.add(50, "kubelet", 7, &["kubelet", "--pod-manifest-path=/one"]);
        proc.add(60, "kubelet", 8, &["kubelet", "--pod-manifest-path=/two"]);
        assert_eq!(look(), "/one Other");
        proc.add(70, "kubelet", 9, &["kubelet", "--pod-manifest-path=/m"]);
        assert_eq!(look(), "/m Ours");
    }

    #[test]
    fn a_kubelet_configuration_that_says_nothing() {
        let root = tempfile::tempdir().unwrap();
        let look = || static_pod_path(root.path(), &root.path().join("m"));
        assert!(look().unwrap_err().contains("var/lib/kubelet/config.yaml"));
        write(root.path(), &configuration::USUAL[0][1..], "a: [\n");
        assert!(look().unwrap_err().contains("config.yaml: it is no kubelet configuration"));
        let file = root.path().join(&configuration::USUAL[0][1..]);
        write(root.path(), &configuration::USUAL[0][1..], "kind: KubeletConfiguration\n");
        assert_eq!(look(), Ok(StaticPodPath::Unset { file: Some(file.clone()) }));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(look().unwrap_err().contains("is a directory"));
    }

    #[test]
    fn the_first_cni_configuration_by_name_counts() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(CNI_DIRECTORY);
        let look = || cni(&directory).map(|plugins| plugins.into_iter().map(|plugin| plugin.name).collect::<Vec<_>>());
        assert!(look().unwrap_err().contains("etc/cni/net.d"));
        write(&directory, "00-readme.txt", "not one");
        write(&directory, "05-directory.conf/x", "not one");
        assert!(look().unwrap_err().ends_with("holds no CNI configuration"));
        write(&directory, "20-z.conf", r#"{"type": "calico"}"#);
        assert_eq!(look().unwrap(), ["calico"]);
        write(&directory, "10-a.conflist", r#"{"plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#);
        assert_eq!(look().unwrap(), ["bridge", "portmap"]);
        write(&directory, "01-broken.json", "{");
        assert!(look().unwrap_err().contains("01-broken.json"));
    }

    #[test]
    fn active_swap_areas() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("swaps");
        assert!(swap(&file).is_err(), "no /proc");
        write(root.path(), "meminfo", "");
        assert_eq!(swap(&file), Ok(Vec::new()), "a kernel without swap");
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        #[rustfmt::skip]
        let rows = [
            (String::new(),                                                                &[][..]),
            (header.to_owned(),                                                            &[][..]),
            (format!("{header}/dev/sda2   partition\t1\t0\t-2\n/swap\\040file  file\t1\t0\t-3\n"), &["/dev/sda2", "/swap\\040file"][..]),
        ];
        for (text, want) in rows {
            write(root.path(), "swaps", &text);
            assert_eq!(swap(&file).unwrap(), want);
        }
    }

    #[test]
    fn a_look_at_an_empty_root_is_all_unknown_and_at_this_machine_never_fails() {
        let root = tempfile::tempdir().unwrap();
        let facts = observe(root.path(), &root.path().join("m"));
        assert!(matches!((&facts.static_pod_path, &facts.cni), (Fact::Unknown(_), Fact::Unknown(_))));
        let _ = observe(Path::new("/"), Path::new("/etc/kubernetes/manifests"));
    }
}
