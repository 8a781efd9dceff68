//! `ckpt-db import`: takes what others have written into the store, while no agent runs.

mod files;
mod pod_checkpointer;

use std::io::Write;

use clap::{Args, Subcommand};

use super::Exit;
use files::Files;

/// Take what others have written into the store, while no agent runs
///
/// With -f: pods of this node with their ConfigMaps and Secrets, from whatever 'kubectl get -o yaml' or -o json prints, or from
/// 'export'. What the manifests do not name stays as it is. What can't be taken is named: pods of other nodes, objects that the
/// store has under another UID. Manifests of another cluster are refused as a whole, where they tell (by the ConfigMap
/// kube-root-ca.crt).
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  kubectl get pods,configmaps,secrets -A -o yaml > all.yaml    where there is an API server
  systemctl stop ckpt-db                                       stops no pod
  ckpt-db import -f all.yaml --dry-run                         what would be added and changed
  ckpt-db import -f all.yaml
  systemctl start ckpt-db"
)]
pub(crate) struct Import {
    #[command(subcommand)]
    from: Option<From>,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Subcommand)]
enum From {
    PodCheckpointer(Box<pod_checkpointer::PodCheckpointer>),
}

impl Import {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match &self.from {
            Some(From::PodCheckpointer(command)) => command.run(out),
            None => self.files.run(out),
        }
    }
}
