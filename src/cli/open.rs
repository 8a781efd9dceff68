//! The one way in which a command that only reads comes by the store: from its file, or from the agent that has it open.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use ckpt_db::ops::admin::{AskError, Client, NO_STORE};
use ckpt_db::store::{Committed, Snapshot, StoreCopy, StoreError, open_image, open_offline};

use super::args::StoreArgs;
use super::unlock::Keys;

/// How often a store is tried that somebody has for a moment, and how long is waited in between.
const ATTEMPTS: u32 = 10;
const AGAIN: Duration = Duration::from_millis(200);

fn has_no_store(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(AskError::Refused(why)) if why.contains(NO_STORE)))
}

/// Who has the store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The agent that listens on the admin socket.
    Agent,
    /// Nobody, when it was looked.
    Nobody,
}

impl StoreArgs {
    /// Everything that is durable in the store, whether or not an agent runs. Nothing is written to.
    pub(crate) fn snapshot(&self, keys: &Keys) -> anyhow::Result<Committed<Snapshot>> {
        Ok(self.snapshot_and_holder(keys)?.0)
    }

    /// The same, and whether an agent has the store open.
    pub(crate) fn snapshot_and_holder(&self, keys: &Keys) -> anyhow::Result<(Committed<Snapshot>, Holder)> {
        let secrets = keys.secrets();
        self.read(|path| open_offline(path, &secrets), |_, image| open_image(image, &secrets))
    }

    /// A copy of the store, record for record, whether or not an agent runs, and whether one has it open. Nothing is written to.
    pub(crate) fn copy_and_holder(&self, keys: &Keys) -> anyhow::Result<(StoreCopy, Holder)> {
        let secrets = keys.secrets();
        self.read(|path| StoreCopy::of_file(path, &secrets), |path, image| StoreCopy::of_image(path, image, &secrets))
    }

    /// Reads the file if nobody has it open, else the image that the agent gives.
    fn read<T>(
        &self,
        of_file: impl Fn(&Path) -> Result<T, StoreError>,
        of_image: impl Fn(&Path, Vec<u8>) -> Result<T, StoreError>,
    ) -> anyhow::Result<(T, Holder)> {
        let path = self.store()?;
        let mut attempts = 1..=ATTEMPTS;
        loop {
            match of_file(&path) {
                Ok(found) => return Ok((found, Holder::Nobody)),
                Err(StoreError::InUse(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let last = attempts.next().is_none_or(|attempt| attempt == ATTEMPTS);
            match self.ask(&path, &of_image) {
                Ok(found) => return Ok((found, Holder::Agent)),
                // An agent that can't open it tries again and again, and has it for a moment each time.
                Err(error) if !last && has_no_store(&error) => std::thread::sleep(AGAIN),
                Err(error) => return Err(error),
            }
        }
    }

    /// Who has it open can give an image of it.
    fn ask<T>(&self, path: &Path, read: impl Fn(&Path, Vec<u8>) -> Result<T, StoreError>) -> anyhow::Result<T> {
        let client = Client::new(&self.admin_socket()?);
        let image = match client.image() {
            Ok(image) => image,
            // Whoever has it open is no agent that can be asked.
            Err(AskError::NoAgent(_)) => return Err(StoreError::InUse(path.to_owned()).into()),
            Err(error) => {
                let context = format!("{} is in use, and its agent can't be asked for it", path.display());
                return Err(anyhow::Error::new(error).context(context));
            }
        };
        // Another one's store is not what was asked for, however well it reads.
        let same = |one: &Path, other: &Path| match (one.canonicalize(), other.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        };
        if !same(&image.path, path) {
            return Err(anyhow!(
                "{} is in use by another process, but the agent on {} keeps {}; name the socket of the right one with \
                 --admin-socket",
                path.display(),
                client.path().display(),
                image.path.display()
            ));
        }
        read(path, image.bytes).with_context(|| format!("cannot read what the agent gave of {}", path.display()))
    }
}
