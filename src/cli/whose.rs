//! Which node this is, for what is put into a store without an API server.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};

use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::source::api::credentials::{Credentials, Place};
use ckpt_db::source::manifests;
use ckpt_db::store::Snapshot;

/// The node that the store belongs to, or will: as it says, else as told, else as the credentials at `place` say, else as the
/// objects do.
pub(super) fn own_name(
    stored: Option<&Snapshot>,
    told: Option<&str>,
    place: Option<&Place>,
    objects: &[Object],
) -> anyhow::Result<String> {
    let known = stored.and_then(Snapshot::node_name).filter(|name| !name.is_empty());
    let by_credentials = || Credentials::load(place?).ok()?.node_name().map(str::to_owned);
    let name = match (known, told) {
        (Some(known), Some(told)) if known != told => {
            bail!("--node-name says {told}, but the store belongs to node {known}; nothing was changed")
        }
        (Some(name), _) | (None, Some(name)) => name.to_owned(),
        (None, None) => match by_credentials() {
            Some(name) => name,
            None => named_by(objects)?,
        },
    };
    ObjectKey::new(Kind::Node, "", &name).with_context(|| format!("{name:?} is no node's name; give --node-name"))?;
    Ok(name)
}

/// The one node that the objects speak of.
fn named_by(objects: &[Object]) -> anyhow::Result<String> {
    let bound: BTreeSet<String> = objects.iter().filter_map(manifests::bound_to).collect();
    if let Some(node) = manifests::node_name_of(objects) {
        return Ok(node);
    }
    match (bound.len(), bound.first()) {
        (1, Some(one)) => Ok(one.clone()),
        (0, _) | (_, None) => {
            bail!("the pods name no node; say with --node-name which one this is. Nothing was changed")
        }
        (several, Some(_)) => {
            let shown: Vec<String> = bound.into_iter().take(5).collect();
            bail!(
                "there are pods of {several} nodes ({}); say with --node-name which one this is. Nothing was changed",
                shown.join(", ")
            )
        }
    }
}
