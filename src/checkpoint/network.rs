//! Whether the pod network works without the API server, as the plug-ins of its CNI configuration tell.

use std::path::Path;

use super::decide::PodNetwork;

/// One plug-in of a CNI configuration (`plugins[]` of a list, or a configuration that is one plug-in).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugin {
    /// `type`: the name of its program.
    pub name: String,
    /// `ipam.type`: the program that gives out addresses, if there is one.
    pub ipam: Option<String>,
    /// Whether it, or its `ipam`, is told how to reach the API server (`kubernetes` or `kubeconfig`).
    pub has_kubeconfig: bool,
    /// `subnetFile`, which flannel's plug-in reads the node's subnet from.
    pub subnet_file: Option<String>,
}

/// The answer for a whole configuration, and the plug-in that decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offline {
    /// Every plug-in works with the kernel and local files alone.
    Works,
    /// This plug-in, or the daemon behind it, asks the API server.
    NeedsServer {
        /// Its name.
        plugin: String,
    },
    /// flannel's plug-in needs a file that is gone after a reboot until flannel's daemon has asked the API server.
    SubnetFileLost {
        /// The file.
        file: String,
    },
    /// flannel's plug-in needs this file, which a reboot may have left there.
    SubnetFileNeeded {
        /// The file.
        file: String,
    },
    /// Nothing is known of this plug-in.
    UnknownPlugin {
        /// Its name.
        plugin: String,
    },
    /// The configuration names no plug-in.
    NoPlugin,
}

impl Offline {
    /// What it means for the pods.
    #[must_use]
    pub fn network(&self) -> PodNetwork {
        match self {
            Self::Works => PodNetwork::Yes,
            Self::NeedsServer { .. } | Self::SubnetFileLost { .. } => PodNetwork::No,
            Self::SubnetFileNeeded { .. } | Self::UnknownPlugin { .. } | Self::NoPlugin => PodNetwork::Unknown,
        }
    }
}

/// Judges a configuration by its worst plug-in: one that needs the API server, then one that nobody knows.
#[must_use]
pub fn offline(plugins: &[Plugin]) -> Offline {
    let answers: Vec<Offline> = plugins.iter().flat_map(answers).collect();
    let worst = [PodNetwork::No, PodNetwork::Unknown, PodNetwork::Yes]
        .into_iter()
        .find_map(|network| answers.iter().find(|answer| answer.network() == network));
    worst.cloned().unwrap_or(Offline::NoPlugin)
}

fn answers(plugin: &Plugin) -> Vec<Offline> {
    if plugin.has_kubeconfig {
        return vec![Offline::NeedsServer { plugin: plugin.name.clone() }];
    }
    let ipam = plugin.ipam.iter().map(|ipam| of_program(ipam, None));
    std::iter::once(of_program(&plugin.name, plugin.subnet_file.as_deref())).chain(ipam).collect()
}

fn of_program(name: &str, subnet_file: Option<&str>) -> Offline {
    let plugin = || name.to_owned();
    match name {
        // The reference plug-ins (containernetworking/plugins) know the kernel and their own files only.
        "bridge" | "dummy" | "host-device" | "ipvlan" | "loopback" | "macvlan" | "ptp" | "tap" | "vlan" => {
            Offline::Works
        }
        "bandwidth" | "firewall" | "portmap" | "sbr" | "tuning" | "vrf" => Offline::Works,
        "host-local" | "static" => Offline::Works,
        "calico"
        | "calico-ipam"
        | "cilium-cni"
        | "kube-ovn"
        | "multus"
        | "multus-shim"
        | "ovn-k8s-cni-overlay"
        | "whereabouts" => Offline::NeedsServer { plugin: plugin() },
        "flannel" => {
            let file = subnet_file.unwrap_or("/run/flannel/subnet.env").to_owned();
            // A memory file system on every current distribution (FHS 3.0, 3.15).
            let lost = ["/run", "/var/run"].iter().any(|dir| Path::new(&file).starts_with(dir));
            if lost { Offline::SubnetFileLost { file } } else { Offline::SubnetFileNeeded { file } }
        }
        _ => Offline::UnknownPlugin { plugin: plugin() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plug-ins as `type`, or `type/ipam`; `+` for one that has a kubeconfig.
    fn plugins(text: &str) -> Vec<Plugin> {
        let plugin = |word: &str| {
            let (word, has_kubeconfig) = word.strip_suffix('+').map_or((word, false), |word| (word, true));
            let (name, ipam) = word.split_once('/').map_or((word, None), |(name, ipam)| (name, Some(ipam.to_owned())));
            Plugin { name: name.to_owned(), ipam, has_kubeconfig, subnet_file: None }
        };
        text.split_whitespace().map(plugin).collect()
    }

    #[test]
    fn which_networks_work_offline() {
        use PodNetwork::{No, Unknown, Yes};
        #[rustfmt::skip]
        let rows = [
            ("bridge/host-local portmap firewall bandwidth tuning", Yes),
            ("ptp/host-local portmap",        Yes),
            ("macvlan/static",                Yes),
            ("ipvlan/host-local",             Yes),
            ("host-device",                   Yes),
            ("vlan sbr vrf",                  Yes),
            ("loopback dummy tap",            Yes),
            ("calico/calico-ipam portmap",    No),
            ("cilium-cni",                    No),
            ("multus",                        No),
            ("multus-shim",                   No),
            ("ovn-k8s-cni-overlay",           No),
            ("kube-ovn",                      No),
            ("flannel portmap",               No),      // its subnet file lies in /run
            ("bridge/whereabouts",            No),
            ("bridge/host-local+",            No),      // told how to reach the API server
            ("acme+",                         No),
            ("bridge/dhcp",                   Unknown), // needs a daemon of its own
            ("acme",                          Unknown),
            ("bridge/host-local acme",        Unknown),
            ("acme calico",                   No),      // the worst decides
            ("calico acme",                   No),
            ("",                              Unknown),
        ];
        for (text, want) in rows {
            assert_eq!(offline(&plugins(text)).network(), want, "{text}");
        }
    }

    #[test]
    fn flannel_works_if_its_subnet_file_survives_a_reboot() {
        use PodNetwork::{No, Unknown};
        #[rustfmt::skip]
        let rows = [
            (None,                                  No),
            (Some("/run/flannel/subnet.env"),       No),
            (Some("/var/run/flannel/subnet.env"),   No),
            (Some("/var/lib/flannel/subnet.env"),   Unknown),
            (Some("/runner/subnet.env"),            Unknown),
        ];
        for (file, want) in rows {
            let flannel =
                Plugin { name: "flannel".to_owned(), subnet_file: file.map(str::to_owned), ..Plugin::default() };
            assert_eq!(offline(&[flannel]).network(), want, "{file:?}");
        }
    }

    #[test]
    fn the_deciding_plug_in_is_named() {
        let decided = offline(&plugins("bridge/acme calico"));
        assert_eq!(decided, Offline::NeedsServer { plugin: "calico".to_owned() });
        assert_eq!(offline(&plugins("bridge/acme")), Offline::UnknownPlugin { plugin: "acme".to_owned() });
    }
}
