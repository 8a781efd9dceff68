//! `ckpt-db import`: takes what others have written into the store, while no agent runs.

mod pod_checkpointer;

use std::io::Write;

use clap::{Args, Subcommand};

use super::Exit;

/// Take what others have written into the store, while no agent runs
#[derive(Args, Debug)]
pub(crate) struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    PodCheckpointer(Box<pod_checkpointer::PodCheckpointer>),
}

impl Import {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match &self.from {
            From::PodCheckpointer(command) => command.run(out),
        }
    }
}
