//! Ports: names of host-network pods become numbers, and host ports are listed for contention.

use serde_json::Value;

use super::super::json::{items, set, text};
use super::super::pod::ParentPod;

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that a pod takes: `hostPort`, or a declared port of a host-network pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The port number.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// `hostIP`; none for all addresses.
    pub host_ip: Option<String>,
}

impl HostPort {
    /// Whether both can't be had at once (the kubelet's NodePorts rule).
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let same_address = match (&self.host_ip, &other.host_ip) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

/// The host ports of containers and sidecars, sorted. Other init containers have ended before anything listens.
pub(crate) fn host_ports(pod: &ParentPod) -> Vec<HostPort> {
    let sidecars =
        items(pod.spec(), "initContainers").iter().filter(|init| text(init, "restartPolicy") == Some("Always"));
    let mut ports: Vec<_> = items(pod.spec(), "containers")
        .iter()
        .chain(sidecars)
        .flat_map(|container| items(container, "ports"))
        .filter_map(|port| host_port(port, pod.host_network()))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn host_port(port: &Value, host_network: bool) -> Option<HostPort> {
    let number = |field| port.get(field).and_then(Value::as_u64).filter(|n| *n != 0);
    // The API server makes hostPort the containerPort of host-network pods; a hand-written manifest may lack that.
    let chosen = number("hostPort").or_else(|| number("containerPort").filter(|_| host_network))?;
    let protocol = match text(port, "protocol") {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    };
    let host_ip = text(port, "hostIP").filter(|ip| !matches!(*ip, "" | "0.0.0.0" | "::")).map(str::to_owned);
    Some(HostPort { port: u16::try_from(chosen).ok()?, protocol, host_ip })
}

/// Replaces port names in probes and lifecycle hooks by the numbers that the container's `ports` give them.
pub(super) fn resolve_names(container: &mut Value) {
    let numbers: Vec<(String, Value)> = items(container, "ports")
        .iter()
        .filter_map(|port| Some((text(port, "name")?.to_owned(), port.get("containerPort")?.clone())))
        .collect();
    let hooks = [
        &["livenessProbe"][..],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    for hook in hooks {
        for action in ["httpGet", "tcpSocket"] {
            let mut path = hook.iter().chain([&action]);
            let Some(action) = path.try_fold(&mut *container, |at, field| at.get_mut(field)) else { continue };
            let number = text(action, "port").and_then(|name| numbers.iter().find(|(known, _)| known == name));
            // A name that the parent's ports don't have either stays: it never resolved.
            if let Some((_, number)) = number {
                set(action, "port", number.clone());
            }
        }
    }
}
