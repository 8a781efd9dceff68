//! The verdict for the node: would the kubelet read our manifests, and what stands in the way of the pods on it?

use std::path::PathBuf;

use super::decide::PodNetwork;
use super::network::{Offline, Plugin, offline};
use super::node_finding::{KUBELETS, NodeFinding};
use super::settings::KubeletVersion;

/// Something that was looked up on the node, or why it could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// What was found.
    Known(T),
    /// It could not be found out: what was attempted on which file, and what came of it.
    Unknown(String),
}

/// What was seen of the node from outside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Our static pod directory.
    pub manifests: PathBuf,
    /// Where the kubelet's configuration has it read static pods from.
    pub static_pod_path: Fact<StaticPodPath>,
    /// The pod network's configuration.
    pub cni: Fact<Vec<Plugin>>,
    /// Active swap areas, as `/proc/swaps` names them.
    pub swap: Fact<Vec<String>>,
    /// `Node.status.nodeInfo.kubeletVersion`. It stands in no file, so whoever holds the stored Node fills it in.
    pub kubelet_version: Option<KubeletVersion>,
}

/// `staticPodPath` of the kubelet's configuration (`kubelet.config.k8s.io/v1beta1`), or `--pod-manifest-path`, which is
/// stronger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaticPodPath {
    /// It is set.
    Set {
        /// The path, as the kubelet understands it.
        path: PathBuf,
        /// How it compares with our directory.
        directory: Directory,
    },
    /// It is absent or empty: the kubelet reads no static pods.
    Unset {
        /// The configuration file; none if the kubelet is started without one.
        file: Option<PathBuf>,
    },
}

/// How the kubelet's static pod directory compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// The same, and it exists.
    Ours,
    /// The same, but it does not exist yet.
    OursMissing,
    /// Another one.
    Other,
}

/// What the secret root is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRootFacts {
    /// A memory file system.
    Memory,
    /// A disk, by the operator's choice.
    Disk,
    /// It can't be used; nothing with values of Secrets is rendered.
    Unusable(String),
}

/// What the store's key slots allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFacts {
    /// No slot: Secrets are not stored yet.
    Keyless,
    /// No key at hand opens any of the slots.
    Locked {
        /// How many there are.
        slots: usize,
    },
    /// A key at hand opens one.
    Open {
        /// How many there are.
        slots: usize,
    },
}

/// The answer for the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVerdict {
    /// Whether pods have a network without the API server.
    pub network: PodNetwork,
    /// One finding for each thing that was looked at, in this order: static pods, pod network, kubelet version, secret
    /// root, keys, swap.
    pub findings: Vec<NodeFinding>,
}

/// Judges the node.
#[must_use]
pub fn judge_node(facts: &NodeFacts, secret_root: SecretRootFacts, keys: KeyFacts) -> NodeVerdict {
    let (network, pod_network) = match &facts.cni {
        Fact::Unknown(reason) => (PodNetwork::Unknown, NodeFinding::NetworkUnknown(reason.clone())),
        Fact::Known(plugins) => match offline(plugins) {
            Offline::Works => (PodNetwork::Yes, NodeFinding::NetworkWorks { plugins: names(plugins) }),
            answer => (answer.network(), NodeFinding::Network(answer)),
        },
    };
    let kubelet = match facts.kubelet_version {
        None => NodeFinding::KubeletUnknown,
        Some(version) if (KUBELETS.0..=KUBELETS.1).contains(&version) => NodeFinding::KubeletVersion(version),
        Some(version) => NodeFinding::KubeletUntested(version),
    };
    let secret_root = match secret_root {
        SecretRootFacts::Memory => NodeFinding::SecretRootMemory,
        SecretRootFacts::Disk => NodeFinding::SecretRootDisk,
        SecretRootFacts::Unusable(reason) => NodeFinding::SecretRootUnusable(reason),
    };
    let keys = match keys {
        KeyFacts::Keyless => NodeFinding::Keyless,
        KeyFacts::Locked { slots } => NodeFinding::KeysLocked { slots },
        KeyFacts::Open { slots } => NodeFinding::KeysOpen { slots },
    };
    let findings = vec![static_pods(facts), pod_network, kubelet, secret_root, keys, swap(&facts.swap)];
    NodeVerdict { network, findings }
}

fn static_pods(facts: &NodeFacts) -> NodeFinding {
    let ours = || facts.manifests.clone();
    match &facts.static_pod_path {
        Fact::Unknown(reason) => NodeFinding::StaticPodsUnknown { reason: reason.clone(), ours: ours() },
        Fact::Known(StaticPodPath::Unset { file }) => NodeFinding::StaticPodsOff { file: file.clone(), ours: ours() },
        Fact::Known(StaticPodPath::Set { path, directory }) => match directory {
            Directory::Ours => NodeFinding::StaticPodsRead(ours()),
            Directory::OursMissing => NodeFinding::StaticPodsNotThere(ours()),
            Directory::Other => NodeFinding::StaticPodsElsewhere { kubelet: path.clone(), ours: ours() },
        },
    }
}

fn swap(areas: &Fact<Vec<String>>) -> NodeFinding {
    let in_memory = |area: &String| area.starts_with("/dev/zram");
    match areas {
        Fact::Unknown(reason) => NodeFinding::SwapUnknown(reason.clone()),
        Fact::Known(areas) if areas.is_empty() => NodeFinding::SwapOff,
        Fact::Known(areas) if areas.iter().all(in_memory) => NodeFinding::SwapInMemory,
        Fact::Known(areas) => NodeFinding::SwapOn(areas.iter().filter(|area| !in_memory(area)).cloned().collect()),
    }
}

/// Names of all programs, each once, in the order of the configuration.
fn names(plugins: &[Plugin]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in plugins.iter().flat_map(|plugin| std::iter::once(&plugin.name).chain(&plugin.ipam)) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        let ours = PathBuf::from("/etc/kubernetes/manifests");
        let bridge = Plugin { name: "bridge".to_owned(), ipam: Some("host-local".to_owned()), ..Plugin::default() };
        NodeFacts {
            static_pod_path: Fact::Known(StaticPodPath::Set { path: ours.clone(), directory: Directory::Ours }),
            manifests: ours,
            cni: Fact::Known(vec![bridge]),
            swap: Fact::Known(Vec::new()),
            kubelet_version: Some(KubeletVersion { major: 1, minor: 34 }),
        }
    }

    fn shown(finding: &NodeFinding) -> String {
        format!("{} {}: {finding}", finding.severity().code(), finding.code())
    }

    #[test]
    fn a_node_as_it_should_be() {
        let verdict = judge_node(&facts(), SecretRootFacts::Memory, KeyFacts::Open { slots: 1 });
        assert_eq!(verdict.network, PodNetwork::Yes);
        assert_eq!(
            verdict.findings.iter().map(shown).collect::<Vec<_>>(),
            [
                "Ok StaticPodsRead: static pods: the kubelet reads /etc/kubernetes/manifests, as expected",
                "Ok NetworkWorks: pod network: works offline (bridge, host-local)",
                "Ok KubeletVersion: kubelet: 1.34",
                "Ok SecretRootMemory: secret root: in memory",
                "Ok KeysOpen: keys: the store opens (1 key slot)",
                "Ok SwapOff: swap: off",
            ]
        );
    }

    #[test]
    fn static_pods() {
        let set = |path: &str, directory| Fact::Known(StaticPodPath::Set { path: path.into(), directory });
        #[rustfmt::skip]
        let rows = [
            (set("/etc/kubernetes/manifests", Directory::Ours),        "Ok StaticPodsRead: "),
            (set("/etc/kubernetes/manifests", Directory::OursMissing), "Note StaticPodsNotThere: "),
            (set("/var/lib/manifests", Directory::Other),              "Problem StaticPodsElsewhere: "),
            (Fact::Known(StaticPodPath::Unset { file: Some("/c".into()) }), "Problem StaticPodsOff: static pods: /c has no staticPodPath, so the kubelet would start nothing; set it to /etc/kubernetes/manifests"),
            (Fact::Known(StaticPodPath::Unset { file: None }),         "Problem StaticPodsOff: static pods: the kubelet is started without --config and --pod-manifest-path, so it would start nothing; let it read /etc/kubernetes/manifests"),
            (Fact::Unknown("no file".to_owned()),                      "Note StaticPodsUnknown: "),
        ];
        for (static_pod_path, want) in rows {
            let facts = NodeFacts { static_pod_path, ..facts() };
            assert!(shown(&judged(&facts)[0]).starts_with(want), "{want}");
        }
    }

    #[test]
    fn pod_network() {
        use PodNetwork::{No, Unknown, Yes};
        let plugin = |name: &str, file: Option<&str>| {
            let subnet_file = file.map(str::to_owned);
            Fact::Known(vec![Plugin { name: name.to_owned(), subnet_file, ..Plugin::default() }])
        };
        #[rustfmt::skip]
        let rows = [
            (plugin("bridge", None),                Yes,     "Ok NetworkWorks"),
            (plugin("calico", None),                No,      "Note NetworkNeedsServer"),
            (plugin("flannel", None),               No,      "Note NetworkSubnetFileLost"),
            (plugin("flannel", Some("/srv/s.env")), Unknown, "Note NetworkSubnetFileNeeded"),
            (plugin("acme", None),                  Unknown, "Note NetworkUnknown"),
            (Fact::Known(Vec::new()),               Unknown, "Note NetworkUnknown"),
            (Fact::Unknown("no file".to_owned()),   Unknown, "Note NetworkUnknown"),
        ];
        for (cni, network, want) in rows {
            let facts = NodeFacts { cni, ..facts() };
            let verdict = judge_node(&facts, SecretRootFacts::Memory, KeyFacts::Keyless);
            assert_eq!(verdict.network, network, "{want}");
            assert!(shown(&verdict.findings[1]).starts_with(&format!("{want}: ")), "{want}");
        }
    }

    #[test]
    fn kubelet_version() {
        let version = |minor| Some(KubeletVersion { major: 1, minor });
        #[rustfmt::skip]
        let rows = [
            (version(29), "Note KubeletUntested"),
            (version(30), "Ok KubeletVersion"),
            (version(37), "Ok KubeletVersion"),
            (version(38), "Note KubeletUntested"),
            (None,        "Note KubeletUnknown"),
        ];
        for (kubelet_version, want) in rows {
            let facts = NodeFacts { kubelet_version, ..facts() };
            assert!(shown(&judged(&facts)[2]).starts_with(&format!("{want}: ")), "{want}");
        }
    }

    #[test]
    fn secret_root_and_keys() {
        use KeyFacts::{Keyless, Locked, Open};
        let unusable = || SecretRootFacts::Unusable("no".to_owned());
        #[rustfmt::skip]
        let rows = [
            (SecretRootFacts::Memory, Open { slots: 2 },   "Ok SecretRootMemory",        "Ok KeysOpen"),
            (SecretRootFacts::Disk,   Locked { slots: 1 }, "Note SecretRootDisk",        "Problem KeysLocked"),
            (unusable(),              Keyless,             "Problem SecretRootUnusable", "Problem Keyless"),
        ];
        for (secret_root, keys, root, key) in rows {
            let findings = judge_node(&facts(), secret_root, keys).findings;
            assert!(shown(&findings[3]).starts_with(&format!("{root}: ")), "{root}");
            assert!(shown(&findings[4]).starts_with(&format!("{key}: ")), "{key}");
        }
    }

    #[test]
    fn swap() {
        let areas = |areas: &[&str]| Fact::Known(areas.iter().map(|area| (*area).to_owned()).collect());
        #[rustfmt::skip]
        let rows = [
            (areas(&[]),                          "Ok SwapOff: swap: off"),
            (areas(&["/dev/zram0", "/dev/zram1"]), "Ok SwapInMemory: swap: on zram only, which stays in memory"),
            (areas(&["/dev/zram0", "/dev/sda2"]), "Note SwapOn: swap is on: values of Secrets in memory may reach the disk (/dev/sda2); turn it off or encrypt it"),
            (Fact::Unknown("no /proc".to_owned()), "Note SwapUnknown: swap: unknown: no /proc"),
        ];
        for (swap, want) in rows {
            let facts = NodeFacts { swap, ..facts() };
            assert_eq!(shown(&judged(&facts)[5]), want);
        }
    }

    #[test]
    fn no_text_carries_a_control_character_of_the_node() {
        let evil = "/a\n\x1b[31m";
        let plugin = Plugin { name: evil.to_owned(), ..Plugin::default() };
        let rows = [
            NodeFacts {
                manifests: evil.into(),
                static_pod_path: Fact::Known(StaticPodPath::Set { path: evil.into(), directory: Directory::Other }),
                cni: Fact::Known(vec![plugin]),
                swap: Fact::Known(vec![evil.to_owned()]),
                kubelet_version: None,
            },
            NodeFacts {
                static_pod_path: Fact::Known(StaticPodPath::Unset { file: Some(evil.into()) }),
                cni: Fact::Unknown(evil.to_owned()),
                swap: Fact::Unknown(evil.to_owned()),
                ..facts()
            },
        ];
        for facts in rows {
            let verdict = judge_node(&facts, SecretRootFacts::Unusable(evil.to_owned()), KeyFacts::Keyless);
            for finding in verdict.findings {
                assert!(!finding.to_string().contains(char::is_control), "{}", finding.code());
            }
        }
    }

    fn judged(facts: &NodeFacts) -> Vec<NodeFinding> {
        judge_node(facts, SecretRootFacts::Memory, KeyFacts::Open { slots: 1 }).findings
    }
}
