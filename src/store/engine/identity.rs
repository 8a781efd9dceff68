//! Whose store it is, as the source tells it: the node's UID and kubelet, and the cluster. An operator can overrule it.

use std::collections::BTreeSet;

use store_format::{CLUSTER_CAS_MAX, Event, Identity, meta_key};

use super::{Batch, Owners, read_meta};
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::store::StoreError;
use crate::store::tables::RowKey;

impl Batch<'_> {
    /// Takes over what the stored Node says of this node, and the CAs of the cluster.
    ///
    /// # Errors
    /// [`StoreError::OtherNode`], [`StoreError::OtherCluster`].
    pub(super) fn update_identity(&mut self, owners: &Owners) -> Result<Option<Identity>, StoreError> {
        let Some(before) = read_meta(self.tables, meta_key::IDENTITY, self.context.vault, Identity::decode)? else {
            return Ok(None);
        };
        let mut identity = before.clone();
        for (name, cas) in &owners.adopted {
            adopt(&mut identity, name, cas);
        }
        if identity != before {
            self.note_store(Event::Adopted, &difference(&before, &identity));
        }
        let adopted = identity.clone();
        for found in &owners.nodes {
            take_over_name(&mut identity.node_name, found)?;
        }
        self.take_over_node(&mut identity)?;
        for found in &owners.clusters {
            take_over_cluster(&mut identity.cluster_ca_sha256, found)?;
        }
        if identity != adopted {
            self.note_store(Event::Identified, &difference(&adopted, &identity));
        }
        if identity == before {
            return Ok(None);
        }
        self.put(RowKey::Meta(meta_key::IDENTITY), &identity.encode()?)?;
        Ok(Some(identity))
    }

    fn take_over_node(&self, identity: &mut Identity) -> Result<(), StoreError> {
        let Ok(key) = ObjectKey::new(Kind::Node, "", &identity.node_name) else { return Ok(()) };
        if !self.update.stored.contains(&key) {
            return Ok(());
        }
        let Some(stored) = self.stored(&key)? else { return Ok(()) };
        if let Some(version) = kubelet_version(&stored.envelope.body) {
            identity.kubelet_version = version;
        }
        identity.node_uid = stored.envelope.uid;
        Ok(())
    }
}

/// What an operator says overrules what is known.
fn adopt(identity: &mut Identity, name: &str, cas: &BTreeSet<[u8; 32]>) {
    if !name.is_empty() && identity.node_name != name {
        name.clone_into(&mut identity.node_name);
        // Another Node object.
        identity.node_uid.clear();
    }
    let known: BTreeSet<[u8; 32]> = identity.cluster_ca_sha256.iter().copied().collect();
    if !cas.is_empty() && *cas != known {
        identity.cluster_ca_sha256 = cas.iter().copied().take(CLUSTER_CAS_MAX).collect();
    }
}

/// What is new, in words: `node edge-1, 2 cluster CAs, kubelet v1.34.2`.
fn difference(before: &Identity, now: &Identity) -> String {
    let mut news = Vec::new();
    if before.node_name != now.node_name {
        news.push(format!("node {}", now.node_name));
    }
    if before.node_uid != now.node_uid && !now.node_uid.is_empty() {
        news.push(format!("node uid {}", now.node_uid));
    }
    if before.cluster_ca_sha256 != now.cluster_ca_sha256 {
        news.push(format!("{} cluster CAs", now.cluster_ca_sha256.len()));
    }
    if before.kubelet_version != now.kubelet_version {
        news.push(format!("kubelet {}", now.kubelet_version));
    }
    news.join(", ")
}

/// A store that was made before its node had a name takes the first one that it is told.
fn take_over_name(stored: &mut String, found: &str) -> Result<(), StoreError> {
    if stored.is_empty() {
        found.clone_into(stored);
    }
    if stored == found {
        Ok(())
    } else {
        Err(StoreError::OtherNode { stored: stored.clone(), found: found.to_owned() })
    }
}

/// Recognises the cluster by any CA that it kept, and takes over those that it has now.
fn take_over_cluster(stored: &mut Vec<[u8; 32]>, found: &BTreeSet<[u8; 32]>) -> Result<(), StoreError> {
    let known: BTreeSet<[u8; 32]> = stored.iter().copied().collect();
    if found.is_empty() || *found == known {
        return Ok(());
    }
    if !known.is_empty() && known.is_disjoint(found) {
        return Err(StoreError::OtherCluster { stored: stored.clone(), found: found.iter().copied().collect() });
    }
    // Of a bundle too large for the record the first are as good as all: the next comparison is with the whole bundle.
    *stored = found.iter().copied().take(CLUSTER_CAS_MAX).collect();
    Ok(())
}

/// `status.nodeInfo.kubeletVersion` of a Node.
fn kubelet_version(node: &[u8]) -> Option<String> {
    let node: serde_json::Value = serde_json::from_slice(node).ok()?;
    node.pointer("/status/nodeInfo/kubeletVersion")?.as_str().map(str::to_owned)
}
