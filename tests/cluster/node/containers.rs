//! Which containers really run on a node: read from runc's own state and the kernel, not from any client of ours.

use serde_json::Value;

use super::machine::Machine;

/// A running container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// The UID by which the kubelet knows its pod.
    pub(crate) uid: String,
    /// Its name in the pod.
    pub(crate) name: String,
    pub(crate) id: String,
    /// Of its first process, as the node counts.
    pub(crate) pid: u64,
    /// When it was made, in RFC 3339 and UTC.
    pub(crate) created: String,
}

/// All of them, sorted by pod and name.
pub(crate) fn running(machine: &Machine) -> Vec<Container> {
    // A container that ends meanwhile makes runc fail; it is asked again.
    let listing = crate::until("runc to list", super::PATIENCE, || {
        let script = "[ -d /run/containerd/runc/k8s.io ] || exit 0
            runc --root /run/containerd/runc/k8s.io list -f json
            echo
            for uid in /sys/fs/cgroup/pids/kubepods/*/pod* /sys/fs/cgroup/pids/kubepods/pod*; do
              for container in $uid/*/; do echo $container; done
            done";
        let output = machine.shell(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    });
    let (states, cgroups) = listing.trim().split_once('\n').unwrap_or(("null", ""));
    let states: Value = serde_json::from_str(states).unwrap();
    let mut found = Vec::new();
    for state in states.as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let note = |name: &str| text(&state["annotations"][format!("io.kubernetes.cri.{name}")]);
        if state["status"] != "running" || note("container-type") != "container" {
            continue;
        }
        let id = text(&state["id"]);
        // `.../kubepods/besteffort/pod<UID>/<container>/`
        let of_pod = cgroups.lines().find_map(|line| line.trim_end_matches('/').strip_suffix(&format!("/{id}")));
        let uid = of_pod.and_then(|path| path.rsplit_once("/pod")).map(|(_, uid)| uid.to_owned());
        found.push(Container {
            pod: format!("{}/{}", note("sandbox-namespace"), note("sandbox-name")),
            uid: uid.unwrap_or_default(),
            name: note("container-name"),
            id,
            pid: state["pid"].as_u64().unwrap_or_default(),
            created: text(&state["created"]),
        });
    }
    found.sort_by(|a, b| (&a.pod, &a.name).cmp(&(&b.pod, &b.name)));
    found
}
