//! What is known of the node itself, as lines and as a document.

use std::io::{self, Write};

use serde_json::{Value, json};

use ckpt_db::agent::{self, Target, cri};
use ckpt_db::checkpoint::decide::PodNetwork;
use ckpt_db::checkpoint::images::NodeImages;
use ckpt_db::checkpoint::node::{Fact, KeyFacts, NodeVerdict, SecretRootFacts, judge_node};
use ckpt_db::checkpoint::node_finding::Severity;
use ckpt_db::checkpoint::settings::KubeletVersion;
use ckpt_db::layout::Layout;
use ckpt_db::materialize::{Medium, probe_secret_root};
use ckpt_db::node::facts::observe;
use ckpt_db::store::{LockState, Snapshot};

use super::output::printable;

/// Looks at the node that the store is to bring back, without changing anything on it.
pub(crate) fn look(
    layout: &Layout,
    target: &Target,
    snapshot: &Snapshot,
    kubelet_version: Option<KubeletVersion>,
) -> NodeVerdict {
    let mut facts = observe(layout.root(), &target.roots.manifests);
    facts.kubelet_version = kubelet_version;
    let secret_root = match probe_secret_root(&target.roots.secrets, target.secret_root) {
        Ok(Medium::Memory) => SecretRootFacts::Memory,
        Ok(Medium::Disk) => SecretRootFacts::Disk,
        Err(why) => SecretRootFacts::Unusable(why),
    };
    let slots = snapshot.slots().len();
    let keys = match snapshot.lock_state() {
        LockState::Keyless => KeyFacts::Keyless,
        LockState::Locked => KeyFacts::Locked { slots },
        LockState::Open => KeyFacts::Open { slots },
    };
    judge_node(&facts, secret_root, keys)
}

/// Whether the pod network works offline, as far as the node's files tell.
pub(crate) fn network(layout: &Layout, target: &Target) -> PodNetwork {
    let facts = observe(layout.root(), &target.roots.manifests);
    judge_node(&facts, SecretRootFacts::Memory, KeyFacts::Keyless).network
}

/// What is known of the images on the node: those that its container runtime has, where it answers, and the kubelet's records.
pub(crate) fn images(layout: &Layout) -> NodeImages {
    let present = match cri(layout.root(), None) {
        Ok(cri) => cri.images_blocking(),
        Err(why) => Fact::Unknown(why),
    };
    agent::images(layout.root(), &present)
}

/// One line a finding, the worse ones marked.
pub(crate) fn write(out: &mut dyn Write, name: &str, verdict: &NodeVerdict) -> io::Result<()> {
    writeln!(out, "\nnode {}", printable(name))?;
    for finding in &verdict.findings {
        let mark = match finding.severity() {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Problem => "PROBLEM",
        };
        writeln!(out, "  {mark:<9}{}", printable(&finding.to_string()))?;
    }
    Ok(())
}

/// How many things about the node keep pods from coming back.
pub(crate) fn problems(verdict: &NodeVerdict) -> usize {
    verdict.findings.iter().filter(|finding| finding.severity() == Severity::Problem).count()
}

/// The same as a document.
pub(crate) fn value(name: &str, verdict: &NodeVerdict) -> Value {
    let network = match verdict.network {
        PodNetwork::Yes => "Yes",
        PodNetwork::No => "No",
        PodNetwork::Unknown => "Unknown",
    };
    let findings: Vec<Value> = verdict
        .findings
        .iter()
        .map(|finding| {
            json!({"code": finding.code(), "severity": finding.severity().code(), "message": finding.to_string()})
        })
        .collect();
    json!({"name": name, "podNetworkOffline": network, "findings": findings})
}
