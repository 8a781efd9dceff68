//! `ckpt-db key init`: a node key of our own, for nodes whose credentials have no key file.

use std::io::Write;

use clap::Args;

use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::keys::{KeyFileError, write_generated};

use crate::cli::args::StoreArgs;
use crate::cli::output::line;
use crate::cli::{Exit, say};

/// Make a node key, for a node whose credentials have no key file
///
/// Kubelets of some clouds sign in with a plugin or a TPM, and leave no private key on disk that a store could be encrypted
/// with. The key that this makes lies beside the store, readable to root only: it protects a copy or backup of the store that
/// is made without it, and not a disk that holds both. For that, see 'key add --credential'.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db key init                          before the first start of the agent")]
pub(crate) struct Init {
    #[command(flatten)]
    store: StoreArgs,

    /// Make it although the node has another key
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.layout()?.generated_key();
        let keys = self.store.keys()?;
        let other = keys.found.iter().zip(&keys.sources).find(|(key, source)| source.current && key.source != path);
        if let (Some((other, _)), false, false) = (other, self.force, path.exists()) {
            say(format_args!(
                "error: this node has a key already, {}: nothing was made. Another one would be one more file that opens the \
                 store; --force makes it all the same",
                other.source.display()
            ));
            return Ok(Exit::Failed);
        }
        match write_generated(&path, &generate_p256_pkcs8()?) {
            Ok(()) => {}
            Err(KeyFileError::Exists(path)) => {
                line(out, format_args!("{} is there already, and is left as it is", path.display()))?;
                return Ok(Exit::Fine);
            }
            Err(error) => return Err(error.into()),
        }
        line(out, format_args!("made node key {}", path.display()))?;
        say(format_args!(
            "note: whoever has this file and the store has the Secrets: leave it out of backups of the store. A stolen disk \
             holds both; against that, use a credential that the TPM seals ('ckpt-db key add --credential', \
             docs/how-to/keys.md)"
        ));
        say(format_args!(
            "note: a store that has no key yet takes it at the next start of the agent; one that has is given it with \
             'ckpt-db key add --node-key {}'",
            path.display()
        ));
        Ok(Exit::Fine)
    }
}
