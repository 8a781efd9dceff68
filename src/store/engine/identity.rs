//! Whose store it is, as the source tells it.

use store_format::{Identity, meta_key};

use super::{Batch, read_meta};
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::store::StoreError;
use crate::store::tables::RowKey;

impl Batch<'_> {
    /// Takes over what the stored Node says of this node: its UID and the kubelet's version.
    pub(super) fn update_identity(&mut self) -> Result<Option<Identity>, StoreError> {
        let Some(identity) = read_meta(self.tables, meta_key::IDENTITY, self.context.vault, Identity::decode)? else {
            return Ok(None);
        };
        let Ok(key) = ObjectKey::new(Kind::Node, "", &identity.node_name) else { return Ok(None) };
        if !self.update.stored.contains(&key) {
            return Ok(None);
        }
        let Some(stored) = self.stored(&key)? else { return Ok(None) };
        let kubelet_version =
            kubelet_version(&stored.envelope.body).unwrap_or_else(|| identity.kubelet_version.clone());
        let updated = Identity { node_uid: stored.envelope.uid, kubelet_version, ..identity.clone() };
        if updated == identity {
            return Ok(None);
        }
        self.put(RowKey::Meta(meta_key::IDENTITY), &updated.encode()?)?;
        Ok(Some(updated))
    }
}

/// `status.nodeInfo.kubeletVersion` of a Node.
fn kubelet_version(node: &[u8]) -> Option<String> {
    let node: serde_json::Value = serde_json::from_slice(node).ok()?;
    node.pointer("/status/nodeInfo/kubeletVersion")?.as_str().map(str::to_owned)
}
