//! What is known of the node itself, as lines and as a document.

use std::io::{self, Write};

use serde_json::{Value, json};

use ckpt_db::agent::Target;
use ckpt_db::checkpoint::decide::PodNetwork;
use ckpt_db::checkpoint::settings::Settings;
use ckpt_db::layout::Layout;
use ckpt_db::store::Snapshot;

/// One look at the node.
pub(crate) struct Node {
    pub(crate) network: PodNetwork,
}

/// Looks at the node that the store is to bring back.
pub(crate) fn look(layout: &Layout, _target: &Target, _snapshot: &Snapshot) -> Node {
    Node { network: network(layout) }
}

/// Whether the pod network works offline.
pub(crate) fn network(_layout: &Layout) -> PodNetwork {
    PodNetwork::Unknown
}

impl Node {
    pub(crate) fn write(&self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn value(&self, settings: &Settings) -> Value {
        json!({"name": settings.node_name})
    }
}
